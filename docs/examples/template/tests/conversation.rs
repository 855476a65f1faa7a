//! What reaches the target of what a client says.

use tcpcopy_module_api::testing::{Conversation, State};
use tcpcopy_module_api::{Module, ModuleHandle, Options};
use tcpcopy_template::TemplateModule;

fn module(without: &str) -> ModuleHandle {
    let options = Options::new(vec![("without".to_owned(), without.to_owned())]);
    ModuleHandle::new(TemplateModule::create(&options).unwrap())
}

#[test]
fn lines_that_begin_with_the_text_are_left_out() {
    let mut conversation = Conversation::open(&module("#"));
    conversation.client(b"one\n# two\nthr").client(b"ee\n#").client(b" four\nfive #\n");
    assert_eq!(conversation.to_target(), b"one\nthree\nfive #\n");
    assert_eq!(conversation.dropped("begins with the text of the option `without`"), 6 + 7);
    assert_eq!(conversation.counter("lines left out"), 2);
}

#[test]
fn a_client_that_sends_no_lines_is_given_up() {
    let mut conversation = Conversation::open(&module("#"));
    conversation.client(&[b'x'; 70_000]);
    assert!(matches!(conversation.state(), State::Ended(_)));
}

#[test]
fn a_connection_that_is_open_already_is_joined_at_the_beginning_of_a_segment() {
    let joined = Conversation::join(&module("#"), b"one\n# two\nthree\n").expect("a line begins in it");
    assert_eq!(joined.to_target(), b"one\nthree\n");
}
