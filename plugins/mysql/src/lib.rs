//! MySQL copy: sessions of MySQL and MariaDB clients, logged in on a target with salts, passwords, plugins and statement
//! numbers of its own.
//!
//! The module does not copy the login. It waits for the target's greeting and logs in by itself, as the client's user with
//! the password that tcpcopy was given; then it copies one command at a time, each when the one before has been answered.
//! So it knows the target's number of a prepared statement when the client executes it, and on a new connection it can
//! say again what the old one had been told: settings, and statements.
//!
//! ```text
//! client ──▶ login, commands ──▶ decide (session/client.rs) ──▶ target
//! online ──▶ first packets of answers: its statement numbers (session/online.rs)
//! target ──▶ greeting, login, answers to their end (session/target.rs, response.rs)
//! ```

pub mod auth;
pub mod command;
mod log;
mod options;
pub mod response;
mod session;
pub mod statement;
pub mod text;
pub mod wire;

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use tcpcopy_module_api::{About, AfterTargetClose, Attachment, Module, Options, SessionInfo, Transport};

use log::StatementLog;
use options::{OPTIONS, Settings};
use session::MySqlSession;

/// The module behind `--proto mysql`.
#[derive(Clone, Debug)]
pub struct MySql {
    shared: Arc<Shared>,
}

/// What all sessions share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    log: Option<StatementLog>,
    /// The log has been told what to do about sessions over TLS.
    told_tls: AtomicBool,
    told_compression: AtomicBool,
    /// Users that have counters of their own.
    named_users: Mutex<HashSet<Vec<u8>>>,
}

/// Users that are counted by name. Clients choose their names, so there is a bound.
const MOST_NAMED_USERS: usize = 24;

impl Shared {
    /// What a user is called in the names of counters.
    fn name_for_counters(&self, user: &[u8]) -> String {
        let mut named = self.named_users.lock().unwrap_or_else(PoisonError::into_inner);
        if !named.contains(user) {
            if named.len() == MOST_NAMED_USERS {
                return "others".to_owned();
            }
            named.insert(user.to_vec());
        }
        String::from_utf8_lossy(&user[..user.len().min(32)]).into_owned()
    }
}

impl Module for MySql {
    fn about() -> About {
        About {
            name: "mysql",
            summary: "copies MySQL and MariaDB sessions, logging in on the target by itself",
            options: OPTIONS,
            sees_online: true,
            ..About::new(Transport::Tcp, env!("CARGO_PKG_VERSION"))
        }
    }

    fn create(options: &Options) -> Result<Self, String> {
        let settings = Settings::read(options)?;
        let log = settings.log.as_deref().map(StatementLog::open).transpose()?;
        let (told_tls, told_compression, named_users) = Default::default();
        Ok(Self { shared: Arc::new(Shared { settings, log, told_tls, told_compression, named_users }) })
    }

    fn on_open(&self, info: &SessionInfo) -> Attachment {
        Attachment::watch(MySqlSession::new(Arc::clone(&self.shared), info.joined))
    }

    /// A command begins with a packet that has the sequence number 0 and fills the segment to its end, or to the next such.
    fn join_at(&self, data: &[u8]) -> Option<usize> {
        session::join_at(data)
    }

    fn after_target_close(&self) -> AfterTargetClose {
        AfterTargetClose::Reconnect
    }
}
