//! The module keeps to what every module must.

mod samples;

use samples::samples;
use tcpcopy_memcached_reads::MemcachedReads;
use tcpcopy_module_api::conformance::{check, check_options};
use tcpcopy_module_api::{ModuleEntry, Options};

#[test]
fn the_module_conforms() {
    let entry = ModuleEntry::of::<MemcachedReads>();
    check(&entry.create(&Options::default()).unwrap(), &samples()).unwrap();
}

#[test]
fn options_that_cannot_be_used_are_refused() {
    let entry = ModuleEntry::of::<MemcachedReads>();
    check_options(&entry.about, |options| entry.create(options), &[("commands", "got"), ("commands", "get,")]).unwrap();
}
