//! The module keeps to what every module must.

use tcpcopy_module_api::conformance::{Sample, Samples, check, check_options};
use tcpcopy_module_api::{ModuleEntry, Options};
use tcpcopy_template::TemplateModule;

#[test]
fn the_module_conforms() {
    let samples = vec![
        Sample::of("lines")
            .client(b"one\n# two\n")
            .target(b"ok\n")
            .client(b"three\n")
            .target(b"ok\n")
            .reaches_target(b"one\nthree\n"),
        Sample::of("the target closes")
            .client(b"one\n")
            .target(b"ok\n")
            .target_closes()
            .client(b"two\n# three\n")
            .target(b"ok\n")
            .reaches_target(b"one\ntwo\n"),
    ];
    let options = Options::new(vec![("without".to_owned(), "#".to_owned())]);
    let module = ModuleEntry::of::<TemplateModule>().create(&options).unwrap();
    check(&module, &Samples::new(samples)).unwrap();
}

#[test]
fn options_that_cannot_be_used_are_refused() {
    let entry = ModuleEntry::of::<TemplateModule>();
    check_options(&entry.about, |options| entry.create(options), &[("without", "two\nlines")]).unwrap();
}
