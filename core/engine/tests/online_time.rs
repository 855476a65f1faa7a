//! How long online takes to answer goes by the capture's clock, and is counted once for all copies.

mod fixture;

use std::time::Duration;

use fixture::{Conversation, Stage};
use tcpcopy_engine::Input;
use tcpcopy_wire::Timestamp;

const LEN: usize = 100;

#[test]
fn the_captures_clock_counts_and_not_when_frames_are_handed_over() {
    let mut stage = Stage::measuring(1);
    let mut conversation = Conversation::open(&mut stage, 1, LEN);
    // As of a file that is replayed in no time at all.
    for turn in 0..10 {
        stage.tell(Input::CapturedAt(Timestamp::from_millis(1_000 * turn)));
        conversation.request(&mut stage);
        stage.tell(Input::CapturedAt(Timestamp::from_millis(1_000 * turn + 20)));
        conversation.online_answer_is_captured(&mut stage, 300);
        conversation.target_answers(&mut stage, 300, 0);
    }
    let ledger = stage.copier.ledger();
    assert_eq!(ledger.online_response_time.count(), 10);
    for share in [0.1, 1.0] {
        let time = ledger.online_response_time.quantile(share).unwrap();
        assert!((Duration::from_millis(20)..Duration::from_millis(23)).contains(&time), "{time:?}");
    }
    assert!(ledger.response_time.quantile(1.0).unwrap() < Duration::from_millis(1), "the target's has its own clock");
    assert_eq!(ledger.check(), Ok(()));
}

#[test]
fn online_answers_once_however_many_copies_there_are() {
    let mut stage = Stage::measuring(3);
    let mut conversation = Conversation::open(&mut stage, 1, LEN);
    conversation.request(&mut stage);
    stage.pass(Duration::from_millis(5));
    conversation.online_answer_is_captured(&mut stage, 300);
    let ledger = stage.copier.ledger();
    assert_eq!((ledger.requests, ledger.online_response_time.count(), ledger.online_packets), (3, 1, 1));
    assert_eq!(ledger.check(), Ok(()));
}
