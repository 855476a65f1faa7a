//! What a server says first.
//!
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase_packets_protocol_handshake_v10.html>,
//! <https://mariadb.com/kb/en/connection/#initial-handshake-packet>

use super::{Capabilities, ErrPacket, Malformed, Reader};

/// Length of what a server gives to prove a password with.
pub const SALT_LEN: usize = 20;

/// A server's first packet (Protocol::HandshakeV10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// What the server calls itself, 64 bytes of it at most.
    pub version: String,
    /// What the password's proof is made with.
    pub salt: [u8; SALT_LEN],
    /// What the server can do.
    pub capabilities: Capabilities,
    /// The plugin of its users, unless one has another; empty when it does not say.
    pub auth_plugin: String,
}

impl Greeting {
    /// Reads the payload of a server's first packet. `Ok(Err(_))`: the server wants no connection.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(payload: &[u8]) -> Result<Result<Self, ErrPacket>, Malformed> {
        let mut reader = Reader::new(payload);
        match reader.u8("an empty greeting")? {
            10 => {}
            0xff => return Ok(Err(ErrPacket::parse(payload)?)),
            _ => return Err(Malformed("a greeting of another protocol version than 10")),
        }
        let version = reader.nul_terminated("the server's version has no end")?;
        reader.bytes(4, "a greeting without connection id")?;
        let first = reader.bytes(8, "a greeting without salt")?;
        reader.bytes(1, "a greeting that ends behind its salt")?;
        let lower = reader.number(2, "a greeting without capabilities")?;
        reader.bytes(3, "a greeting without status")?;
        let upper = reader.number(2, "a greeting without the upper capabilities")?;
        let salt_len = usize::from(reader.u8("a greeting without the length of its salt")?);
        reader.bytes(6, "a greeting without filler")?;
        let of_mariadb = reader.number(4, "a greeting without filler")?;
        let mut capabilities = Capabilities(lower | upper << 16);
        if !capabilities.contains(Capabilities::MYSQL) {
            capabilities.0 |= of_mariadb << 32;
        }
        if !capabilities.contains(Capabilities::PROTOCOL_41 | Capabilities::SECURE_CONNECTION) {
            return Err(Malformed("a server from before MySQL 4.1"));
        }
        let second = reader.bytes(salt_len.saturating_sub(8).max(13), "a greeting with half a salt")?;
        let mut salt = [0; SALT_LEN];
        salt[..8].copy_from_slice(first);
        salt[8..].copy_from_slice(&second[..SALT_LEN - 8]);
        let auth_plugin = String::from_utf8_lossy(reader.nul_terminated_or_rest()).into_owned();
        let version = String::from_utf8_lossy(&version[..version.len().min(64)]).into_owned();
        Ok(Ok(Self { version, salt, capabilities, auth_plugin }))
    }

    /// Whether the server is a MariaDB.
    pub fn is_mariadb(&self) -> bool {
        !self.capabilities.contains(Capabilities::MYSQL)
    }
}

/// Writes a greeting, for tests that play a server.
#[cfg(test)]
pub(crate) fn greeting(capabilities: Capabilities, salt: &[u8; SALT_LEN], plugin: &str) -> Vec<u8> {
    let mut payload = b"\x0a8.4.0-test\0\x07\0\0\0".to_vec();
    payload.extend_from_slice(&salt[..8]);
    payload.push(0);
    payload.extend_from_slice(&capabilities.0.to_le_bytes()[..2]);
    payload.extend_from_slice(&[45, 2, 0]);
    payload.extend_from_slice(&capabilities.0.to_le_bytes()[2..4]);
    payload.extend_from_slice(&[21, 0, 0, 0, 0, 0, 0]);
    payload.extend_from_slice(&capabilities.0.to_le_bytes()[4..8]);
    payload.extend_from_slice(&salt[8..]);
    payload.push(0);
    payload.extend_from_slice(plugin.as_bytes());
    payload.push(0);
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_comes_back_and_is_refused_when_cut() {
        let salt = *b"abcdefghijklmnopqrst";
        let all = Capabilities(0x3f_ffff_fffe);
        let payload = greeting(all, &salt, "mysql_native_password");
        let read = Greeting::parse(&payload).unwrap().unwrap();
        assert_eq!((read.salt, read.capabilities, read.is_mariadb()), (salt, all, true));
        assert_eq!((&*read.auth_plugin, &*read.version), ("mysql_native_password", "8.4.0-test"));
        // What is behind the salt may be missing, of an old server.
        let needed = payload.len() - "mysql_native_password\0".len();
        for cut in 0..payload.len() {
            assert_eq!(Greeting::parse(&payload[..cut]).is_err(), cut < needed, "{cut}");
        }
    }

    #[test]
    fn a_server_that_wants_no_connection_says_why() {
        let refusal = Greeting::parse(b"\xff\x10\x04Too many connections").unwrap().unwrap_err();
        assert_eq!((refusal.code, &*refusal.text), (1040, "Too many connections"));
    }
}
