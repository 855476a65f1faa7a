use std::fs;
use std::path::PathBuf;

use super::*;

fn scratch_file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("tcpcopy-{name}-{}", std::process::id()))
}

#[test]
fn a_pid_file_holds_the_pid_and_goes_with_its_owner() {
    let path = scratch_file("pid-lifecycle");
    let file = PidFile::create(&path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
    drop(file);
    assert!(!path.exists());
}

#[test]
fn a_live_owner_is_named() {
    let path = scratch_file("pid-live");
    let owner = PidFile::create(&path).unwrap();
    let Err(PidFileError::Running { pid, .. }) = PidFile::create(&path) else { panic!("two owners") };
    assert_eq!(pid, std::process::id().to_string());
    drop(owner);
    drop(PidFile::create(&path).unwrap());
}

#[test]
fn a_stale_file_is_replaced_even_if_its_number_is_in_use() {
    let path = scratch_file("pid-stale");
    // Process 1 lives, but does not hold the lock: the number was given away after a crash.
    fs::write(&path, "1\nand a longer rest of something else\n").unwrap();
    let _file = PidFile::create(&path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
}

#[test]
fn a_pid_file_that_cannot_be_written_is_named() {
    let path = PathBuf::from("/nonexistent/dir/x.pid");
    let message = PidFile::create(&path).unwrap_err().to_string();
    assert!(message.contains("/nonexistent/dir/x.pid"), "{message}");
}

#[test]
fn capabilities_are_read_from_the_status_file() {
    let status = "Name:\tx\nCapInh:\t0000000000000000\nCapEff:\t0000000000003000\n";
    assert_eq!(effective_capabilities(status), Some(0x3000));
    assert_eq!(effective_capabilities("CapEff:\tzz\n"), None);
    assert_eq!(effective_capabilities(""), None);
    assert!(Capability::NetRaw.remedy().contains("setcap cap_net_raw,cap_net_admin+ep /"));
}

#[test]
fn a_report_says_how_the_start_went() {
    let report = |keep: fn(Readiness)| {
        let (read_end, write_end) = pipe().unwrap();
        keep(Readiness { pipe: Some(write_end) });
        wait_for_report(read_end)
    };
    assert_eq!(
        report(|r| r.failed(4, "no intercept")),
        StartReport::Failed { code: 4, message: "no intercept".into() }
    );
    assert_eq!(report(drop), StartReport::Died);
}
