//! Where the sockets are.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tcpcopy_io::local::own_user;

use crate::exit::Failure;
use crate::values::absolute;

/// What `--socket` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Socket {
    /// In the folder for such things, if there is one that can be written, named after program and process.
    #[default]
    Standard,
    /// There.
    Path(PathBuf),
    /// Nowhere: nobody can ask.
    None,
}

/// Checks `--socket`.
///
/// # Errors
/// Wrong usage, when it can be no file.
pub(crate) fn socket(given: Option<&Path>) -> Result<Socket, Failure> {
    match given {
        None => Ok(Socket::Standard),
        Some(path) if path.as_os_str() == "none" => Ok(Socket::None),
        // The kernel's limit (unix(7)) without the zero at the end.
        Some(path) if path.as_os_str().len() > 107 => Err(Failure::usage(format!(
            "in --socket: {} is longer than a socket's name can be, 107 bytes",
            path.display()
        ))),
        Some(path) => absolute("--socket", path).map(Socket::Path),
    }
}

/// The name of a process' socket in its folder.
pub(super) fn file_name(program: &str, process: u32) -> String {
    format!("{program}-{process}.sock")
}

/// The process that a socket of this program is of, by its name.
pub(super) fn process_of(program: &str, path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_prefix(program)?.strip_prefix('-')?.strip_suffix(".sock")?.parse().ok()
}

/// The folder that systemd has made for this process (systemd.exec(5), `RuntimeDirectory=`).
fn folder_from_systemd() -> Option<PathBuf> {
    let list = std::env::var_os("RUNTIME_DIRECTORY")?;
    std::env::split_paths(&list).next().filter(|folder| folder.is_absolute())
}

/// The folders in which a process may put its socket, the best first: the one made for it, or else the system's and the
/// user's own.
pub(super) fn folders() -> Vec<PathBuf> {
    if let Some(folder) = folder_from_systemd() {
        return vec![folder];
    }
    let of_user = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_absolute());
    [PathBuf::from("/run/tcpcopy")].into_iter().chain(of_user.map(|folder| folder.join("tcpcopy"))).collect()
}

/// The folders in which sockets of other processes may be: those, and for root every user's.
pub(super) fn folders_to_search() -> Vec<PathBuf> {
    let mut folders = folders();
    if own_user() == 0 && folder_from_systemd().is_none() {
        let users = fs::read_dir("/run/user").into_iter().flatten().flatten();
        folders.extend(users.map(|user| user.path().join("tcpcopy")).filter(|folder| folder.is_dir()));
    }
    folders.sort();
    folders.dedup();
    folders
}

/// Whether a folder that is there is one in which only this user, or root, can put anything.
pub(super) fn is_trusted(folder: &Path) -> bool {
    let trusted = |metadata: fs::Metadata| {
        metadata.is_dir() && [0, own_user()].contains(&metadata.uid()) && metadata.mode() & 0o022 == 0
    };
    fs::metadata(folder).is_ok_and(trusted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sockets_name_tells_program_and_process() {
        let name = file_name("tcpcopy", 17);
        assert_eq!(process_of("tcpcopy", &Path::new("/run/tcpcopy").join(&name)), Some(17));
        assert_eq!(process_of("intercept", Path::new(&name)), None);
        for other in ["tcpcopy-.sock", "tcpcopy-x.sock", "tcpcopy-17", "17.sock"] {
            assert_eq!(process_of("tcpcopy", Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn the_option_is_a_file_or_none() {
        assert_eq!(socket(None), Ok(Socket::Standard));
        assert_eq!(socket(Some(Path::new("none"))), Ok(Socket::None));
        assert_eq!(socket(Some(Path::new("/a/b.sock"))), Ok(Socket::Path("/a/b.sock".into())));
        for wrong in ["", "/tmp", &format!("/{}", "x".repeat(120))] {
            assert!(socket(Some(Path::new(wrong))).is_err(), "{wrong}");
        }
    }
}
