//! What tests of running programs wait for.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use tcpcopy_io::process::{Capability, has_capability};

/// Whether the programs may open raw sockets here.
pub(crate) fn may_run() -> bool {
    let may = has_capability(Capability::NetRaw);
    if !may {
        eprintln!("SKIPPED: raw sockets need CAP_NET_RAW");
    }
    may
}

/// Waits until `done` has a value.
pub(crate) fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < give_up, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until there is a file with this word in it; returns what is in it.
pub(crate) fn until_file_has(path: &Path, word: &str) -> String {
    until(&format!("`{word}` in {}", path.display()), || {
        fs::read_to_string(path).ok().filter(|text| text.contains(word))
    })
}
