//! Plain UDP copy keeps to what every module must.

use tcpcopy_module_api::conformance::{Sample, Samples, check, check_options};
use tcpcopy_module_api::testing::Conversation;
use tcpcopy_module_api::{ModuleEntry, ModuleHandle};
use tcpcopy_module_udp::PlainUdp;

#[test]
fn plain_udp_conforms() {
    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01";
    let samples = Samples::new(vec![
        Sample::of("queries").client(query).target(query).client(query).reaches_target(&query.repeat(2)),
        Sample::of("one way").client(b"requests:1|c\n").client(b"").reaches_target(b"requests:1|c\n"),
    ]);
    check(&ModuleHandle::new(PlainUdp), &samples).unwrap();
    let entry = ModuleEntry::of::<PlainUdp>();
    check_options(&entry.about, |options| entry.create(options), &[]).unwrap();
}

#[test]
fn each_datagram_is_copied_whole() {
    let mut conversation = Conversation::open(&ModuleHandle::new(PlainUdp));
    conversation.client(&[7; 9_000]);
    assert_eq!(conversation.to_target(), [7; 9_000]);
    conversation.client(b"next");
    assert_eq!(conversation.messages().len(), 2, "a datagram each");
    assert!(conversation.is_bypassed());
}
