//! What the engine takes from the heap: nothing for a packet in steady state, and little for an idle session.

#![allow(unsafe_code)] // a global allocator is an unsafe trait; this one only counts and passes everything on

mod fixture;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use fixture::{Conversation, PassThrough, Stage, UdpClient};
use tcpcopy_engine::Input;

/// The system's allocator, counting for each thread by itself because tests run side by side.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LIVE_BYTES: Cell<i64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator with its arguments unchanged. The counters are thread-local cells
// without destructors, so counting never allocates and works at any time in a thread's life.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        LIVE_BYTES.set(LIVE_BYTES.get() + layout.size() as i64);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.set(LIVE_BYTES.get() - layout.size() as i64);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        LIVE_BYTES.set(LIVE_BYTES.get() + new_size as i64 - layout.size() as i64);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One turn on each conversation: the request is captured before the target has answered the one before, waits, and is
/// released.
fn turn(stage: &mut Stage, conversations: &mut [Conversation]) {
    for conversation in &mut *conversations {
        conversation.online_answers(200);
        conversation.request(stage);
        conversation.target_answers(stage, 200, 1);
    }
    stage.tell(Input::Drained);
    stage.pass(Duration::from_millis(5));
}

#[test]
fn a_packet_in_steady_state_allocates_nothing() {
    steady_state(Stage::default());
}

#[test]
fn nor_does_it_with_a_module_that_passes_everything_which_is_not_called_when_it_bypasses() {
    for watches in [false, true] {
        let module = PassThrough { watches, ..PassThrough::default() };
        let calls = Arc::clone(&module.calls);
        steady_state(Stage::tcp(module));
        let packets_with_data = 50 * (1 + 100 + 1_000);
        assert_eq!(calls.load(Relaxed), if watches { packets_with_data } else { 50 });
    }
}

fn steady_state(mut stage: Stage) {
    let mut conversations: Vec<_> = (0..50).map(|n| Conversation::open(&mut stage, n, 300)).collect();
    for conversation in &mut conversations {
        conversation.request(&mut stage);
    }
    for _ in 0..100 {
        turn(&mut stage, &mut conversations);
    }
    let (before, sent) = (ALLOCATIONS.get(), stage.sent);
    for _ in 0..1_000 {
        turn(&mut stage, &mut conversations);
    }
    let allocations = ALLOCATIONS.get() - before;
    assert_eq!(stage.sent - sent, 50 * 1_000, "one packet a request");
    assert_eq!(stage.copier.ledger().sessions_alive, 50);
    assert_eq!(allocations, 0, "for 100,000 packets");
    stage.copier.ledger().check().unwrap();
}

#[test]
fn a_datagram_in_steady_state_allocates_nothing() {
    let mut stage = Stage::udp();
    // Small ones, and some in fragments; some clients get answers.
    let mut clients: Vec<_> =
        (0..60).map(|n| UdpClient::new(&mut stage, n, if n % 3 == 0 { 9_000 } else { 100 })).collect();
    let mut round = |stage: &mut Stage| {
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(stage);
            if n % 2 == 0 {
                client.target_answers(stage, 100);
            }
        }
        stage.pass(Duration::from_millis(20));
    };
    for _ in 0..500 {
        round(&mut stage);
    }
    let (before, sent) = (ALLOCATIONS.get(), stage.copier.ledger().udp_sent);
    for _ in 0..1_000 {
        round(&mut stage);
    }
    assert_eq!(stage.copier.ledger().udp_sent - sent, 60_000);
    assert_eq!(ALLOCATIONS.get() - before, 0, "for 60,000 datagrams");
    stage.copier.ledger().check().unwrap();
}

#[test]
fn an_idle_client_of_udp_takes_at_most_512_bytes() {
    const CLIENTS: u32 = 20_000;
    let mut stage = Stage::udp();
    let before = LIVE_BYTES.get();
    for n in 0..CLIENTS {
        let client = UdpClient::new(&mut stage, n, 60);
        client.target_answers(&mut stage, 100);
    }
    stage.out = tcpcopy_engine::Outbox::new();
    let bytes = LIVE_BYTES.get() - before;
    assert_eq!(stage.copier.ledger().udp_flows_alive, u64::from(CLIENTS));
    let each = bytes / i64::from(CLIENTS);
    assert!((100..=512).contains(&each), "{each} bytes a client, {bytes} in all");
    let counted = stage.copier.memory() as i64;
    assert!(counted > bytes / 2 && counted < bytes * 2, "{counted} bytes counted, {bytes} taken");
}

#[test]
fn an_idle_session_takes_at_most_512_bytes() {
    const SESSIONS: u32 = 20_000;
    let mut stage = Stage::default();
    let before = LIVE_BYTES.get();
    for n in 0..SESSIONS {
        let mut conversation = Conversation::open(&mut stage, n, 300);
        conversation.request(&mut stage);
        conversation.target_answers(&mut stage, 200, 0);
    }
    // What is owed is acknowledged.
    stage.pass(Duration::from_secs(1));
    stage.out = tcpcopy_engine::Outbox::new();
    let bytes = LIVE_BYTES.get() - before;
    assert_eq!(stage.copier.ledger().sessions_alive, u64::from(SESSIONS));
    assert_eq!(stage.copier.ledger().pending_bytes, 0);
    let each = bytes / i64::from(SESSIONS);
    assert!((100..=512).contains(&each), "{each} bytes a session, {bytes} in all");
}
