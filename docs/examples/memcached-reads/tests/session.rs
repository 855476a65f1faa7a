//! What reaches a test server of what a client says, and when its answers are complete.

use tcpcopy_memcached_reads::MemcachedReads;
use tcpcopy_module_api::testing::{Conversation, State};
use tcpcopy_module_api::{Module, ModuleHandle, Options, Payload};

fn module(commands: &str) -> ModuleHandle {
    let options = Options::new(vec![("commands".to_owned(), commands.to_owned())]);
    ModuleHandle::new(MemcachedReads::create(&options).unwrap())
}

#[test]
fn reads_are_copied_and_writes_are_left_out_with_their_data() {
    let mut conversation = Conversation::open(&module(""));
    conversation.client(b"get a b\r\nset a 0 0 11\r\nget me not!\r\ngets c\r\ndelete a\r\nstats\r\nfrobnicate\r\n");
    assert_eq!(conversation.to_target(), b"get a b\r\ngets c\r\n");
    assert_eq!(conversation.dropped("write"), 27 + 10);
    assert_eq!((conversation.dropped("administration"), conversation.dropped("unknown command")), (7, 12));
    let counted: Vec<_> = conversation.counters().iter().map(|(name, n)| (name.as_str(), *n)).collect();
    assert_eq!(counted, [("delete", 1), ("get", 1), ("gets", 1), ("set", 1), ("stats", 1), ("unknown", 1)]);
}

#[test]
fn a_value_that_has_not_come_is_left_out_when_it_comes_without_being_held() {
    let mut conversation = Conversation::open(&module(""));
    conversation.client(b"set big 0 0 1000000\r\n");
    for _ in 0..1_000 {
        conversation.client(&[b'\n'; 1_000]);
        assert!(conversation.held().is_empty());
    }
    conversation.client(b"\r\nget big\r\n");
    assert_eq!(conversation.to_target(), b"get big\r\n");
}

#[test]
fn commands_can_be_copied_besides() {
    let mut conversation = Conversation::open(&module("gat,set"));
    conversation.client(b"gat 60 a\r\nset a 0 0 2 noreply\r\nhi\r\nadd a 0 0 2\r\nhi\r\n");
    assert_eq!(conversation.to_target(), b"gat 60 a\r\nset a 0 0 2 noreply\r\nhi\r\n");
    assert_eq!(conversation.expected(), 1, "nobody answers what is sent with noreply");
}

#[test]
fn a_get_is_answered_when_its_end_has_come() {
    let mut conversation = Conversation::open(&module(""));
    conversation.client(b"get a b\r\n").client(b"get c\r\n");
    assert_eq!((conversation.payload(), conversation.expected()), (Payload::Full, 2));
    conversation.target(b"VALUE a 0 5\r\nEND\r\n\r\nVALUE b 0 2\r\n");
    assert_eq!(conversation.completed(), 0, "an END within a value ends nothing");
    conversation.target(b"hi\r\nEN").target(b"D\r\n");
    assert_eq!(conversation.completed(), 1);
    conversation.target(b"SERVER_ERROR out of memory\r\n");
    assert_eq!(conversation.completed(), 2);
}

#[test]
fn quiet_commands_are_answered_by_what_ends_them() {
    let mut conversation = Conversation::open(&module(""));
    conversation.client(b"mg a v q\r\nmg b v q\r\nmn\r\n");
    assert_eq!(conversation.expected(), 1);
    conversation.target(b"VA 2\r\nMN\r\nHD\r\n");
    assert_eq!(conversation.completed(), 0, "the MN is a value");
    conversation.target(b"MN\r\n");
    assert_eq!(conversation.completed(), 1);
}

#[test]
fn a_target_that_does_not_speak_memcached_stalls_nothing() {
    let mut conversation = Conversation::open(&module(""));
    conversation.client(b"get a\r\n").target(b"VALUE a 0 many\r\n");
    assert_eq!(conversation.completed(), 1);
    assert_eq!((conversation.payload(), conversation.log().len()), (Payload::Headers, 1));
    conversation.client(b"get b\r\n");
    assert_eq!((conversation.to_target(), conversation.expected()), (b"get a\r\nget b\r\n".to_vec(), 1));
}

#[test]
fn a_client_that_asks_too_much_ahead_is_copied_and_not_followed() {
    let mut conversation = Conversation::open(&module("set"));
    conversation.client(&b"set a 0 0 1 noreply\r\n1\r\n".repeat(20_000));
    assert_eq!(conversation.payload(), Payload::Full, "nothing is expected of these");
    conversation.client(&b"get a\r\n".repeat(20_000));
    assert_eq!(conversation.payload(), Payload::Headers);
    assert_eq!(conversation.expected(), conversation.completed(), "and nothing waits for it");
    assert_eq!(conversation.counter("get"), 20_000);
}

#[test]
fn a_new_connection_begins_with_nothing_asked() {
    let mut conversation = Conversation::open(&module(""));
    conversation.client(b"get a\r\n").target(b"VALUE a 0 100\r\nhalf").target_closes();
    conversation.client(b"set a 0 0 2\r\nhi\r\n");
    assert_eq!(conversation.connections().len(), 1, "what is left out opens nothing");
    conversation.client(b"get b\r\n");
    assert_eq!(conversation.expected() - conversation.completed(), 1, "the second half of a will not come");
    conversation.target(b"END\r\n");
    assert_eq!(conversation.expected(), conversation.completed());
    assert_eq!(conversation.to_target(), b"get b\r\n");
}

#[test]
fn a_stream_is_joined_at_a_command() {
    let join = |segment: &[u8]| Conversation::join(&module(""), segment).map(|joined| joined.to_target());
    assert_eq!(join(b"get a\r\n"), Some(b"get a\r\n".to_vec()));
    assert_eq!(join(b"f a value\r\nget b\r\nget c\r\n"), Some(b"get b\r\nget c\r\n".to_vec()));
    assert_eq!(join(b"lf a value"), None);
    // The length of a `set` is only believed when its data block ends where it says.
    assert_eq!(join(b"set a 0 0 999\r\nno\r\nget b\r\nget c\r\n"), Some(b"get b\r\nget c\r\n".to_vec()));
}

#[test]
fn the_binary_protocol_is_given_up() {
    let mut conversation = Conversation::open(&module(""));
    conversation.client(&[0x80, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(conversation.state(), &State::Ended("memcached's binary protocol".into()));
}
