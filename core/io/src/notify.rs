//! What a service tells its manager (sd_notify(3)): that it is ready, what it does, that it is alive.
//!
//! The protocol is one datagram of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names.
#![allow(unsafe_code)]

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The manager that started this program and waits for word of it.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    address: SocketAddr,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The manager that the environment names, if it names one.
    ///
    /// # Errors
    /// When it names one that cannot be spoken to.
    pub fn from_environment() -> io::Result<Option<Self>> {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Ok(None) };
        let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
        // The watchdog may be meant for another process, whose environment this one has inherited.
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| is_ours && *micros > 0).map(Duration::from_micros);
        Self::at(&name, watchdog).map(Some)
    }

    /// A manager at this address: a path, or a name that begins with `@` and is no file's. `watchdog`: how soon it takes a
    /// silent program for dead.
    ///
    /// # Errors
    /// When the address is none.
    pub fn at(name: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an abstract name")),
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that does not read must not hold a copy up.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address, watchdog })
    }

    /// How often [`alive`](Self::alive) must be said: twice in the time after which the manager gives the program up.
    pub fn alive_every(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    /// The start is done.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// What it does now, in a line for people.
    pub fn status(&self, status: &str) {
        self.tell(&format!("STATUS={}", one_line(status)));
    }

    /// It begins to open its log again, and will be [ready](Self::ready) then.
    pub fn reloading(&self) {
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_micros()));
    }

    /// It is about to end.
    pub fn stopping(&self, status: &str) {
        self.tell(&format!("STOPPING=1\nSTATUS={}", one_line(status)));
    }

    /// All its threads do their work.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    /// A manager that has gone, or does not read, is no reason to stop copying.
    fn tell(&self, words: &str) {
        if let Err(e) = self.socket.send_to_addr(words.as_bytes(), &self.address) {
            log::debug!("the service manager cannot be told: {e}");
        }
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Microseconds of the clock by which the manager orders reloads.
fn monotonic_micros() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes a time into a time.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 4096];
        let n = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    }

    fn all_of_it(listener: &UnixDatagram, manager: &ServiceManager) {
        listener.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        manager.ready("copying\n80");
        assert_eq!(heard(listener), "READY=1\nSTATUS=copying 80");
        manager.reloading();
        let text = heard(listener);
        let micros = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|n| n.parse::<u64>().ok());
        assert!(micros.is_some_and(|n| n > 0), "{text}");
        manager.status("7 sessions");
        manager.alive();
        manager.stopping("by order");
        let said = [(); 3].map(|()| heard(listener));
        assert_eq!(said, ["STATUS=7 sessions", "WATCHDOG=1", "STOPPING=1\nSTATUS=by order"]);
    }

    #[test]
    fn a_manager_hears_at_a_path_and_at_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::at(path.as_os_str(), Some(Duration::from_secs(10))).unwrap();
        assert_eq!(manager.alive_every(), Some(Duration::from_secs(5)));
        all_of_it(&listener, &manager);

        let name = format!("tcpcopy-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let listener = UnixDatagram::bind_addr(&address).unwrap();
        let manager = ServiceManager::at(OsStr::new(&format!("@{name}")), None).unwrap();
        assert_eq!(manager.alive_every(), None);
        all_of_it(&listener, &manager);
        drop(listener);
        // Nobody hears, and nothing happens.
        manager.alive();
        assert!(ServiceManager::at(OsStr::new("relative"), None).is_err());
    }
}
