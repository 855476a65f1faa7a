use std::thread;

use super::*;

/// A set of the calling thread, as `/proc` shows it.
fn shown(set: &str) -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let text = status.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(':')).unwrap();
    u64::from_str_radix(text.trim(), 16).unwrap()
}

/// In a thread, whose capabilities are its own: the other tests keep theirs.
fn in_a_thread<R: Send + 'static>(run: impl FnOnce() -> R + Send + 'static) -> R {
    thread::spawn(run).join().unwrap()
}

#[test]
fn only_what_is_to_be_kept_is_left() {
    let had = shown("CapPrm");
    let keep = [Capability::NetRaw];
    let (kept, effective, permitted, bounding, no_new_privs) = in_a_thread(move || {
        let kept = reduce(&Reduction { keep: &keep, ..Reduction::default() }).unwrap();
        (kept, shown("CapEff"), shown("CapPrm"), shown("CapBnd"), shown("NoNewPrivs"))
    });
    let expected = had & Capability::NetRaw.bit();
    assert_eq!((effective, permitted, no_new_privs), (expected, expected, 1));
    assert_eq!(kept.len() as u32, expected.count_ones());
    if had & 1 << 8 != 0 {
        // CAP_SETPCAP
        assert_eq!(bounding & !Capability::NetRaw.bit(), 0);
    }
    assert_eq!(shown("CapPrm"), had, "other threads have theirs");
}

#[test]
fn a_thread_that_renounces_has_nothing() {
    let sets = in_a_thread(|| {
        renounce();
        [shown("CapEff"), shown("CapPrm"), shown("CapInh"), shown("CapAmb")]
    });
    assert_eq!(sets, [0; 4]);
}

#[test]
fn root_keeps_what_it_needs_for_files_in_the_folders_of_others() {
    // SAFETY: takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 || shown("CapEff") & Capability::DacOverride.bit() == 0 {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let keeps = |files: Vec<PathBuf>| in_a_thread(move || reduce(&Reduction { files: &files, ..Reduction::default() }));
    assert_eq!(keeps(vec![folder.path().join("log")]).unwrap(), []);
    if std::os::unix::fs::chown(folder.path(), Some(65_534), Some(65_534)).is_ok() {
        assert_eq!(keeps(vec![folder.path().join("log")]).unwrap(), [Capability::DacOverride]);
    }
}

#[test]
fn accounts_are_found_by_name_and_number() {
    let root = Account::find("root").unwrap();
    assert_eq!((root.uid, root.gid), (0, 0));
    assert!(root.groups.contains(&0));
    let by_number = Account::find("0:0").unwrap();
    assert_eq!((by_number.uid, by_number.gid), (0, 0));
    let unknown = Account::find("4000000:4000001").unwrap();
    assert_eq!((unknown.uid, unknown.gid, unknown.groups), (4_000_000, 4_000_001, vec![4_000_001]));
    let message = Account::find("no-such-user-here").unwrap_err().to_string();
    assert!(message.contains("useradd --system") && message.contains("no-such-user-here"), "{message}");
    assert!(Account::find("root:no-such-group-here").unwrap_err().to_string().contains("groupadd"));
}

#[test]
fn a_folder_belongs_to_its_owner_its_group_or_everyone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let meta = fs::metadata(folder.path()).unwrap();
    let file = folder.path().join("log");
    let mode = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
    let owner = Account { name: String::new(), uid: meta.uid(), gid: 1, groups: vec![] };
    let member = Account { uid: 4_000_000, groups: vec![meta.gid()], ..owner.clone() };
    let stranger = Account { groups: vec![4_000_000], ..member.clone() };
    for (bits, expected) in [(0o755, [true, false, false]), (0o775, [true, true, false]), (0o707, [true, false, true])]
    {
        mode(bits);
        assert_eq!([&owner, &member, &stranger].map(|account| account.may_replace(&file)), expected, "{bits:o}");
    }
}

#[test]
fn no_link_is_followed_to_a_file_of_somebody_else() {
    let folder = tempfile::tempdir().unwrap();
    let (log, link) = (folder.path().join("log"), folder.path().join("link"));
    fs::write(&log, "").unwrap();
    std::os::unix::fs::symlink(&log, &link).unwrap();
    let meta = fs::metadata(&log).unwrap();
    let owner = Account { name: String::new(), uid: meta.uid(), gid: meta.gid(), groups: vec![] };
    owner.own(&log).unwrap();
    let message = owner.own(&link).unwrap_err().to_string();
    assert!(message.contains("symbolic link"), "{message}");
}
