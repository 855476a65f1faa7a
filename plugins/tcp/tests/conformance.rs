//! Plain TCP copy keeps to what every module must.

use tcpcopy_module_api::conformance::{Sample, Samples, check, check_options};
use tcpcopy_module_api::testing::Conversation;
use tcpcopy_module_api::{ModuleEntry, ModuleHandle};
use tcpcopy_module_tcp::PlainTcp;

#[test]
fn plain_tcp_conforms() {
    let request = b"GET / HTTP/1.1\r\nHost: online\r\n\r\n";
    let samples = Samples::new(vec![
        Sample::of("keep-alive")
            .client(request)
            .target(b"HTTP/1.1 204 No Content\r\n\r\n")
            .client(request)
            .reaches_target(&request.repeat(2)),
        Sample::of("the target closes")
            .client(request)
            .target_closes()
            .client(request)
            .reaches_target(&request.repeat(2)),
        Sample::of("the target speaks first").target(b"220 ready\r\n").client(b"QUIT\r\n").reaches_target(b"QUIT\r\n"),
    ]);
    check(&ModuleHandle::new(PlainTcp), &samples).unwrap();
    let entry = ModuleEntry::of::<PlainTcp>();
    check_options(&entry.about, |options| entry.create(options), &[]).unwrap();
}

#[test]
fn a_target_that_closed_is_opened_again() {
    let mut conversation = Conversation::open(&ModuleHandle::new(PlainTcp));
    conversation.client(b"one").target_closes().client(b"two");
    assert_eq!(conversation.connections().len(), 2);
    assert_eq!(conversation.to_target(), b"two");
    assert!(conversation.is_bypassed(), "it has no business with the bytes");
}
