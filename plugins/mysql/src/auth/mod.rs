//! How a user proves to know a password, and what is said until the server believes it.
//!
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase_authentication_methods.html>,
//! <https://mariadb.com/kb/en/connection/#authentication>

mod proof;

use std::fmt;

use crate::wire::greeting::SALT_LEN;
use crate::wire::{ErrPacket, Malformed, Reader};

/// A password. It never shows itself.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Password(Box<[u8]>);

impl Password {
    /// A password of these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// A way to prove a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// SHA-1, on every server but the newest MySQL.
    Native,
    /// SHA-256, remembered by the server; what it does not remember goes encrypted with its key. MySQL's own.
    CachingSha2,
    /// The password encrypted with the server's key.
    Sha256,
    /// A signature; MariaDB's own.
    Ed25519,
}

impl Plugin {
    /// All that can be used.
    pub const ALL: [Self; 4] = [Self::Native, Self::CachingSha2, Self::Sha256, Self::Ed25519];

    /// Its name in the protocol.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "mysql_native_password",
            Self::CachingSha2 => "caching_sha2_password",
            Self::Sha256 => "sha256_password",
            Self::Ed25519 => "client_ed25519",
        }
    }

    /// The plugin of a name.
    pub fn named(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|plugin| plugin.name().as_bytes() == name)
    }

    /// What goes with the name: into a login (`in_login`) or as the answer to a server that wants this plugin.
    fn first_answer(self, password: &Password, salt: &[u8], in_login: bool) -> Vec<u8> {
        match self {
            _ if password.is_empty() => match self {
                Self::CachingSha2 | Self::Sha256 if !in_login => vec![0],
                Self::Ed25519 => proof::ed25519(&[], salt),
                _ => Vec::new(),
            },
            Self::Native => proof::native(&password.0, salt).to_vec(),
            Self::CachingSha2 => proof::caching_sha2(&password.0, salt).to_vec(),
            // Asks for the server's key.
            Self::Sha256 => vec![1],
            Self::Ed25519 => proof::ed25519(&password.0, salt),
        }
    }
}

/// Why a login cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// The server does not want it.
    Refused(ErrPacket),
    /// The server asks for a way of proving that is not known here.
    Unsupported(String),
    /// What the server said makes no sense.
    Malformed(Malformed),
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "the target refused it: {} {}", error.code, error.text),
            Self::Unsupported(plugin) => write!(
                f,
                "the target wants `{plugin}`, which cannot be done here; give the user another authentication plugin"
            ),
            Self::Malformed(malformed) => malformed.fmt(f),
        }
    }
}

impl std::error::Error for AuthError {}

impl From<Malformed> for AuthError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this payload, with the next sequence number.
    Send(Vec<u8>),
    /// Wait for the next packet.
    Wait,
    /// The user is in.
    Done,
}

/// A login that is under way, from the greeting or the change of user on.
#[derive(Clone, Debug)]
pub struct Exchange {
    password: Password,
    plugin: Plugin,
    salt: [u8; SALT_LEN],
    /// The server was asked for its key.
    key_wanted: bool,
}

impl Exchange {
    /// Begins with the plugin that the server named, or, where that cannot be used, with one that it will then change.
    pub fn new(password: Password, plugin: &[u8], salt: [u8; SALT_LEN]) -> Self {
        let plugin = Plugin::named(plugin).unwrap_or(Plugin::Native);
        Self { password, plugin, salt, key_wanted: false }
    }

    /// The plugin that is being used.
    pub fn plugin(&self) -> Plugin {
        self.plugin
    }

    /// The proof that goes into the login itself.
    pub fn first_proof(&mut self) -> Vec<u8> {
        let proof = self.plugin.first_answer(&self.password, &self.salt, true);
        self.key_wanted = self.plugin == Plugin::Sha256 && !proof.is_empty();
        proof
    }

    /// What to do about the server's next packet.
    ///
    /// # Errors
    /// Why the login cannot go on.
    pub fn on_packet(&mut self, payload: &[u8]) -> Result<Step, AuthError> {
        match payload.first() {
            Some(0x00) => Ok(Step::Done),
            Some(0xff) => Err(AuthError::Refused(ErrPacket::parse(payload)?)),
            Some(0xfe) => self.switch(payload),
            Some(0x01) => self.more(&payload[1..]),
            _ => Err(Malformed("the answer to a login").into()),
        }
    }

    /// The server wants another plugin (Protocol::AuthSwitchRequest).
    fn switch(&mut self, payload: &[u8]) -> Result<Step, AuthError> {
        let mut reader = Reader::new(&payload[1..]);
        if reader.rest().is_empty() {
            return Err(AuthError::Unsupported("mysql_old_password".to_owned()));
        }
        let name = reader.nul_terminated("a change of plugin without its name")?;
        let plugin = Plugin::named(name)
            .ok_or_else(|| AuthError::Unsupported(String::from_utf8_lossy(&name[..name.len().min(64)]).into_owned()))?;
        self.plugin = plugin;
        let wanted = if plugin == Plugin::Ed25519 { 32 } else { SALT_LEN };
        let salt = reader.bytes(wanted, "a change of plugin without its salt")?;
        let answer = plugin.first_answer(&self.password, salt, false);
        self.key_wanted = plugin == Plugin::Sha256 && !self.password.is_empty();
        if plugin != Plugin::Ed25519 {
            self.salt.copy_from_slice(salt);
        }
        Ok(Step::Send(answer))
    }

    /// The plugin has something to say (Protocol::AuthMoreData).
    fn more(&mut self, data: &[u8]) -> Result<Step, AuthError> {
        match (self.plugin, data) {
            // It remembers the password.
            (Plugin::CachingSha2, [3]) => Ok(Step::Wait),
            // It does not, and wants all of it, which over plain TCP must be encrypted: give me your key.
            (Plugin::CachingSha2, [4]) => {
                self.key_wanted = true;
                Ok(Step::Send(vec![2]))
            }
            (Plugin::CachingSha2 | Plugin::Sha256, key) if self.key_wanted => {
                self.key_wanted = false;
                let encrypted =
                    proof::encrypted(&self.password.0, &self.salt, key).ok_or(Malformed("the target's public key"))?;
                Ok(Step::Send(encrypted))
            }
            _ => Err(Malformed("what the target's authentication plugin says").into()),
        }
    }
}

#[cfg(test)]
mod tests;
