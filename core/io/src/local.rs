//! Sockets in the file system, by which other processes of this host speak with a running program.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Another start has the folder locked for less than this.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Who is at the other end of a socket, as the kernel saw it when the connection was made (unix(7), `SO_PEERCRED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process id; 0 where it cannot be told, as across PID namespaces.
    pub process: u32,
    /// User id.
    pub user: u32,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of user {}", self.process, self.user)
    }
}

/// Who is at the other end of `stream`.
///
/// # Errors
/// Those of getsockopt(2).
pub fn peer(stream: &UnixStream) -> io::Result<Peer> {
    // SAFETY: an all-zero ucred is a valid value of that plain struct.
    let mut credentials: libc::ucred = unsafe { zeroed() };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is open as long as `stream` is borrowed; the kernel writes at most `len` bytes, which is the
    // size of what the pointer leads to.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Peer { process: u32::try_from(credentials.pid).unwrap_or(0), user: credentials.uid })
}

/// The user that this process acts as (geteuid(2)).
pub fn own_user() -> u32 {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Why there is no socket.
#[derive(Debug)]
pub enum LocalError {
    /// Another process listens there.
    InUse {
        /// Where.
        path: PathBuf,
        /// Who, if that can be told.
        by: Option<Peer>,
    },
    /// Something that is no socket has the name.
    NotASocket {
        /// Where.
        path: PathBuf,
    },
    /// The system refuses.
    Io {
        /// Where.
        path: PathBuf,
        /// Its words.
        source: io::Error,
    },
}

impl fmt::Display for LocalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { path, by: Some(by) } => write!(f, "{by} listens on {} already", path.display()),
            Self::InUse { path, by: None } => write!(f, "another process listens on {} already", path.display()),
            Self::NotASocket { path } => write!(f, "{} is there already, and is no socket", path.display()),
            Self::Io { path, source } => write!(f, "cannot listen on {}: {source}", path.display()),
        }
    }
}

impl std::error::Error for LocalError {}

/// The name of a socket that listens; it goes away with this.
#[derive(Debug)]
pub struct LocalName {
    path: PathBuf,
    /// Device and inode: a name that leads elsewhere by then is not removed.
    identity: (u64, u64),
}

impl LocalName {
    /// Where that is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LocalName {
    fn drop(&mut self) {
        let is_own = |metadata: fs::Metadata| (metadata.dev(), metadata.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(is_own) {
            // Where the folder is not writable any more, the next start finds a dead socket and replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens on `path`, for this process' user alone. A folder that is not there is made, one level of it. A socket that a
/// dead process has left behind is replaced; one that somebody listens on is not.
///
/// # Errors
/// See [`LocalError`].
pub fn listen(path: &Path) -> Result<(UnixListener, LocalName), LocalError> {
    let failed = |source| LocalError::Io { path: path.to_owned(), source };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.exists() {
        DirBuilder::new().mode(0o755).create(folder).map_err(failed)?;
    }
    let _lock = lock(folder);
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
        Ok(metadata) if metadata.mode() & libc::S_IFMT != libc::S_IFSOCK => {
            return Err(LocalError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(stream) => return Err(LocalError::InUse { path: path.to_owned(), by: peer(&stream).ok() }),
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed)?,
            Err(e) => return Err(failed(e)),
        },
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
    let metadata = fs::symlink_metadata(path).map_err(failed)?;
    Ok((listener, LocalName { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) }))
}

/// Removes sockets in `folder` that nobody listens on any more, of those with such names.
pub fn sweep(folder: &Path, is_one: impl Fn(&Path) -> bool) {
    let _lock = lock(folder);
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in files.filter(|path| is_one(path)) {
        if UnixStream::connect(&path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
            let _ = fs::remove_file(&path);
        }
    }
}

/// Keeps others that look for dead sockets out of a folder: one that is bound and does not listen yet looks dead, and of two
/// that find a dead one at once, the second must not remove what the first has put there. What is locked is the folder
/// itself, which leaves no lock file behind. Whoever else may lock it, as anybody may /tmp, cannot hold a start up.
fn lock(folder: &Path) -> Option<File> {
    let lock = File::open(folder).ok()?;
    let patience = Instant::now() + LOCK_PATIENCE;
    while lock.try_lock().is_err() && Instant::now() < patience {
        thread::sleep(Duration::from_millis(10));
    }
    Some(lock)
}

#[cfg(test)]
mod tests;
