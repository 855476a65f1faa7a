use std::os::unix::fs::symlink;
use std::process;

use super::*;

fn folder() -> PathBuf {
    let folder =
        std::env::temp_dir().join(format!("tcpcopy-local-{}-{:?}", process::id(), std::thread::current().id()));
    let _ = fs::remove_dir_all(&folder);
    folder
}

#[test]
fn a_socket_is_its_users_alone_and_goes_with_its_process() {
    let folder = folder();
    let path = folder.join("a.sock");
    let (listener, name) = listen(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o022, 0, "nobody else can put a socket there");
    let _client = UnixStream::connect(&path).unwrap();
    let (stream, _) = listener.accept().unwrap();
    assert_eq!(peer(&stream).unwrap(), Peer { process: process::id(), user: own_user() });
    drop((listener, name));
    assert!(!path.exists());
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_live_socket_is_not_taken_and_a_dead_one_is_replaced() {
    let folder = folder();
    let path = folder.join("a.sock");
    let first = listen(&path).unwrap();
    match listen(&path) {
        Err(LocalError::InUse { by: Some(by), .. }) => assert_eq!(by.process, process::id()),
        other => panic!("{other:?}"),
    }
    let (listener, name) = first;
    // As a process that is killed leaves it.
    std::mem::forget(name);
    let other = folder.join("other");
    drop(UnixListener::bind(&other).unwrap());
    sweep(&folder, |path| path != other);
    assert!(path.exists() && other.exists(), "one lives, and the other is not asked about");
    drop(listener);
    assert!(path.exists());
    sweep(&folder, |path| path == other);
    assert!(path.exists() && !other.exists());
    let second = listen(&path).unwrap();
    UnixStream::connect(&path).unwrap();
    drop(second);
    assert!(!path.exists());
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_is_no_socket_stays() {
    let folder = folder();
    fs::create_dir(&folder).unwrap();
    let file = folder.join("file");
    fs::write(&file, "precious").unwrap();
    symlink(&file, folder.join("link")).unwrap();
    for name in ["file", "link"] {
        assert!(matches!(listen(&folder.join(name)), Err(LocalError::NotASocket { .. })), "{name}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    // Another one under the name is not removed with the first.
    let path = folder.join("a.sock");
    let (listener, name) = listen(&path).unwrap();
    fs::rename(&path, folder.join("b.sock")).unwrap();
    fs::write(&path, "another").unwrap();
    drop((listener, name));
    assert_eq!(fs::read_to_string(&path).unwrap(), "another");
    fs::remove_dir_all(folder).unwrap();
}
