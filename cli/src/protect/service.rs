//! The service manager (systemd), if there is one: what it is told, and when.

use std::time::Instant;

use tcpcopy_io::notify::ServiceManager;

/// Word to the service manager; silent where there is none.
#[derive(Debug, Default)]
pub struct Service {
    manager: Option<ServiceManager>,
    /// When it must be told again that all threads work.
    alive_at: Option<Instant>,
}

impl Service {
    /// The manager that the environment names.
    pub fn from_environment() -> Self {
        match ServiceManager::from_environment() {
            Ok(Some(manager)) => Self::of(manager),
            Ok(None) => Self::default(),
            Err(e) => {
                log::warn!("the service manager cannot be told that the start is done: NOTIFY_SOCKET: {e}");
                Self::default()
            }
        }
    }

    fn of(manager: ServiceManager) -> Self {
        let alive_at = manager.alive_every().map(|_| Instant::now());
        Self { manager: Some(manager), alive_at }
    }

    /// The start is done, or the log is open again.
    pub fn ready(&self, status: &str) {
        self.manager.iter().for_each(|manager| manager.ready(status));
    }

    /// What the program does, in a line.
    pub fn status(&self, status: &str) {
        self.manager.iter().for_each(|manager| manager.status(status));
    }

    /// The log is opened again.
    pub fn reloading(&self) {
        self.manager.iter().for_each(ServiceManager::reloading);
    }

    /// The end has begun.
    pub fn stopping(&self, status: &str) {
        self.manager.iter().for_each(|manager| manager.stopping(status));
    }

    /// When [`alive`](Self::alive) is due, if the manager watches.
    pub fn alive_at(&self) -> Option<Instant> {
        self.alive_at
    }

    /// It has been found out whether all threads answer. The manager is told only that they do: its patience ends otherwise.
    pub fn alive(&mut self, now: Instant, all_answer: bool) {
        let Some(manager) = &self.manager else { return };
        self.alive_at = manager.alive_every().map(|every| now + every);
        if all_answer {
            manager.alive();
        } else {
            log::warn!("the service manager is not told that all is well: a thread does not answer");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_manager_hears_of_life_only_while_all_threads_answer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let heard = || {
            let mut bytes = [0; 256];
            listener.recv(&mut bytes).ok().map(|n| String::from_utf8_lossy(&bytes[..n]).into_owned())
        };
        let mut service = Service::of(ServiceManager::at(path.as_os_str(), Some(Duration::from_secs(20))).unwrap());
        let now = Instant::now();
        assert!(service.alive_at().is_some_and(|at| at <= now), "at once");
        service.alive(now, true);
        assert_eq!(heard().as_deref(), Some("WATCHDOG=1"));
        assert_eq!(service.alive_at(), Some(now + Duration::from_secs(10)));
        service.alive(now + Duration::from_secs(10), false);
        assert_eq!(heard(), None);
        assert_eq!(service.alive_at(), Some(now + Duration::from_secs(20)), "asked again");
    }

    #[test]
    fn without_a_manager_nothing_is_due() {
        let mut service = Service::default();
        service.ready("copying");
        service.alive(Instant::now(), true);
        assert_eq!(service.alive_at(), None);
    }
}
