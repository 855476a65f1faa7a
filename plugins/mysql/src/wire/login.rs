//! What a client says first, and when it changes its user.
//!
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase_packets_protocol_handshake_response.html>,
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_change_user.html>

use super::read::write_length_encoded;
use super::{Capabilities, Malformed, Reader};

/// A client's first packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientLogin {
    /// It asks for TLS; what follows cannot be read.
    Tls,
    /// It logs in.
    Login(Login),
}

/// Who logs in, and how (Protocol::HandshakeResponse41), without the proof of the password, which is of no use elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Login {
    /// What the client makes use of.
    pub capabilities: Capabilities,
    /// The longest packet that it takes, in bytes.
    pub max_packet: u32,
    /// Its character set and collation.
    pub charset: u8,
    /// Its name.
    pub user: Vec<u8>,
    /// The database that it begins with; empty is none.
    pub database: Vec<u8>,
    /// What it says of itself, as it stands in the packet behind its length.
    pub attributes: Vec<u8>,
}

/// Flags that concern the login and the connection alone, and that each login decides anew.
const OF_THE_LOGIN: Capabilities = Capabilities(
    Capabilities::CONNECT_WITH_DB.0
        | Capabilities::COMPRESS.0
        | Capabilities::ZSTD.0
        | Capabilities::SSL.0
        | Capabilities::SSL_VERIFY_SERVER_CERT.0
        | Capabilities::PLUGIN_AUTH.0
        | Capabilities::PLUGIN_AUTH_LENENC.0
        | Capabilities::CONNECT_ATTRS.0
        | Capabilities::MULTI_FACTOR_AUTHENTICATION.0,
);

impl ClientLogin {
    /// Reads the payload of a client's first packet.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        let mut capabilities = Capabilities(reader.number(4, "a login without capabilities")?);
        if !capabilities.contains(Capabilities::PROTOCOL_41) {
            return Err(Malformed("a client from before MySQL 4.1"));
        }
        let max_packet = reader.number(4, "a login without a longest packet")? as u32;
        let charset = reader.u8("a login without a character set")?;
        reader.bytes(19, "a login without filler")?;
        // A MySQL client leaves zeros here.
        let of_mariadb = reader.number(4, "a login without filler")?;
        if !capabilities.contains(Capabilities::MYSQL) {
            capabilities.0 |= of_mariadb << 32;
        }
        if capabilities.contains(Capabilities::SSL) {
            return Ok(Self::Tls);
        }
        let user = reader.nul_terminated("a login without a user")?.to_vec();
        if capabilities.contains(Capabilities::PLUGIN_AUTH_LENENC) {
            reader.length_encoded_bytes("a login without a proof")?;
        } else if capabilities.contains(Capabilities::SECURE_CONNECTION) {
            let len = reader.u8("a login without a proof")?;
            reader.bytes(len.into(), "a login without a proof")?;
        } else {
            reader.nul_terminated("a login without a proof")?;
        }
        let mut login = Self::with(capabilities, max_packet, charset, user);
        if capabilities.contains(Capabilities::CONNECT_WITH_DB) {
            login.database = reader.nul_terminated_or_rest().to_vec();
        }
        if capabilities.contains(Capabilities::PLUGIN_AUTH) {
            reader.nul_terminated_or_rest();
        }
        if capabilities.contains(Capabilities::CONNECT_ATTRS) && !reader.rest().is_empty() {
            login.attributes = reader.length_encoded_bytes("a login whose attributes have no end")?.to_vec();
        }
        Ok(Self::Login(login))
    }

    fn with(capabilities: Capabilities, max_packet: u32, charset: u8, user: Vec<u8>) -> Login {
        Login { capabilities, max_packet, charset, user, ..Login::default() }
    }
}

impl Login {
    /// What both sides make use of when this client's login is repeated on a server that can do `server`: all that it may
    /// mean for later packets, as far as that server can; of what concerns the login what that server understands.
    pub fn capabilities_for(&self, server: Capabilities) -> Capabilities {
        let mut common = self.capabilities.without(OF_THE_LOGIN) & server;
        common = common | Capabilities::PROTOCOL_41 | Capabilities::SECURE_CONNECTION;
        common = common | server & (Capabilities::PLUGIN_AUTH | Capabilities::PLUGIN_AUTH_LENENC);
        // To a MariaDB one is a MariaDB client, to a MySQL one of MySQL: the upper half depends on it.
        common = common.without(Capabilities::MYSQL) | server & Capabilities::MYSQL;
        if !self.database.is_empty() {
            common = common | server & Capabilities::CONNECT_WITH_DB;
        }
        if self.capabilities.contains(Capabilities::CONNECT_ATTRS) && common.contains(Capabilities::PLUGIN_AUTH) {
            common = common | server & Capabilities::CONNECT_ATTRS;
        }
        common
    }

    /// Writes the payload of a login with `capabilities` (see [`capabilities_for`](Self::capabilities_for)) and this proof
    /// of the password.
    pub fn write(&self, capabilities: Capabilities, proof: &[u8], plugin: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(&capabilities.0.to_le_bytes()[..4]);
        out.extend_from_slice(&self.max_packet.to_le_bytes());
        out.push(self.charset);
        out.extend_from_slice(&[0; 19]);
        out.extend_from_slice(&capabilities.0.to_le_bytes()[4..]);
        out.extend_from_slice(&self.user);
        out.push(0);
        if capabilities.contains(Capabilities::PLUGIN_AUTH_LENENC) {
            write_length_encoded(proof.len() as u64, out);
        } else {
            out.push(proof.len() as u8);
        }
        out.extend_from_slice(proof);
        if capabilities.contains(Capabilities::CONNECT_WITH_DB) {
            out.extend_from_slice(&self.database);
            out.push(0);
        }
        if capabilities.contains(Capabilities::PLUGIN_AUTH) {
            out.extend_from_slice(plugin.as_bytes());
            out.push(0);
        }
        if capabilities.contains(Capabilities::CONNECT_ATTRS) {
            write_length_encoded(self.attributes.len() as u64, out);
            out.extend_from_slice(&self.attributes);
        }
    }

    /// Reads what a client asks for with COM_CHANGE_USER, whose first byte, the command, is in `payload`. Its capabilities
    /// stay as they are.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn change_user(&self, payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        reader.u8("an empty command")?;
        let user = reader.nul_terminated("a change of user without a user")?.to_vec();
        let len = reader.u8("a change of user without a proof")?;
        reader.bytes(len.into(), "a change of user without a proof")?;
        let database = reader.nul_terminated_or_rest().to_vec();
        let mut changed = Self { user, database, attributes: Vec::new(), ..self.clone() };
        if let Ok(charset) = reader.number(2, "") {
            changed.charset = charset as u8;
        }
        if self.capabilities.contains(Capabilities::PLUGIN_AUTH) {
            reader.nul_terminated_or_rest();
        }
        if self.capabilities.contains(Capabilities::CONNECT_ATTRS) && !reader.rest().is_empty() {
            changed.attributes = reader.length_encoded_bytes("a change of user whose attributes have no end")?.to_vec();
        }
        Ok(changed)
    }

    /// Writes the payload of COM_CHANGE_USER for a connection with `capabilities`.
    pub fn write_change_user(&self, capabilities: Capabilities, proof: &[u8], plugin: &str, out: &mut Vec<u8>) {
        out.push(0x11);
        out.extend_from_slice(&self.user);
        out.push(0);
        out.push(proof.len() as u8);
        out.extend_from_slice(proof);
        out.extend_from_slice(&self.database);
        out.push(0);
        out.extend_from_slice(&[self.charset, 0]);
        if capabilities.contains(Capabilities::PLUGIN_AUTH) {
            out.extend_from_slice(plugin.as_bytes());
            out.push(0);
        }
        if capabilities.contains(Capabilities::CONNECT_ATTRS) {
            write_length_encoded(self.attributes.len() as u64, out);
            out.extend_from_slice(&self.attributes);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn login() -> Login {
        Login {
            capabilities: Capabilities(0x1f_ffff_ffff).without(Capabilities::SSL | Capabilities::MYSQL),
            max_packet: 1 << 24,
            charset: 45,
            user: b"app".to_vec(),
            database: b"shop".to_vec(),
            attributes: b"\x03_os\x05Linux".to_vec(),
        }
    }

    #[test]
    fn a_login_comes_back_as_far_as_the_server_can() {
        let servers = [
            Capabilities(0x3f_ffff_fffe),
            Capabilities(0xffff_ffff),
            Capabilities::PROTOCOL_41 | Capabilities::SECURE_CONNECTION | Capabilities::CONNECT_WITH_DB,
            Capabilities::PROTOCOL_41 | Capabilities::SECURE_CONNECTION | Capabilities::PLUGIN_AUTH,
        ];
        for server in servers {
            let common = login().capabilities_for(server);
            assert!(
                (common | Capabilities::PROTOCOL_41 | Capabilities::SECURE_CONNECTION).without(server)
                    == Capabilities(0)
            );
            assert!(!common.contains(Capabilities::COMPRESS) && !common.contains(Capabilities::ZSTD));
            let mut payload = Vec::new();
            login().write(common, &[9; 20], "mysql_native_password", &mut payload);
            let ClientLogin::Login(read) = ClientLogin::parse(&payload).unwrap() else { panic!("no TLS") };
            assert_eq!((read.capabilities, &read.user, read.charset), (common, &login().user, 45));
            let has = |flag, value: Vec<u8>| if common.contains(flag) { value } else { Vec::new() };
            assert_eq!(read.database, has(Capabilities::CONNECT_WITH_DB, login().database));
            assert_eq!(read.attributes, has(Capabilities::CONNECT_ATTRS, login().attributes));
        }
    }

    #[test]
    fn a_client_that_asks_for_tls_is_recognised() {
        let capabilities = Capabilities::PROTOCOL_41 | Capabilities::SSL;
        let mut payload = capabilities.0.to_le_bytes()[..4].to_vec();
        payload.extend_from_slice(&[0, 0, 0, 1, 45]);
        payload.extend_from_slice(&[0; 23]);
        assert_eq!(ClientLogin::parse(&payload), Ok(ClientLogin::Tls));
    }

    #[test]
    fn a_change_of_user_comes_back() {
        let mut payload = Vec::new();
        let other = Login { user: b"report".to_vec(), charset: 33, database: Vec::new(), ..login() };
        other.write_change_user(login().capabilities, &[1; 32], "caching_sha2_password", &mut payload);
        assert_eq!(login().change_user(&payload), Ok(other));
        for cut in 0..payload.len() {
            let _ = login().change_user(&payload[..cut]);
        }
    }

    proptest! {
        #[test]
        fn no_login_panics(payload in prop::collection::vec(any::<u8>(), 0..200), proper in any::<bool>()) {
            let mut payload = payload;
            if proper && payload.len() > 4 {
                payload[1] |= 0x02;
            }
            let _ = ClientLogin::parse(&payload);
            let _ = login().change_user(&payload);
        }

        #[test]
        fn a_login_cut_anywhere_is_refused_or_read(cut in 0usize..150) {
            let mut payload = Vec::new();
            login().write(login().capabilities_for(Capabilities(0x3f_ffff_fffe)), &[9; 20], "plugin", &mut payload);
            let _ = ClientLogin::parse(&payload[..cut.min(payload.len())]);
        }
    }
}
