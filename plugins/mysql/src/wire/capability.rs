//! What client and server agree on when a connection begins.
//!
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/group__group__cs__capabilities__flags.html>,
//! <https://mariadb.com/kb/en/connection/#capabilities>

use std::fmt;
use std::ops::{BitAnd, BitOr};

/// Capability flags: MySQL's in the lower half, MariaDB's own in the upper.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(pub u64);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
        impl Capabilities {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*

            const NAMES: &[(Self, &'static str)] = &[$((Self::$name, stringify!($name))),*];
        }
    };
}

flags! {
    /// MySQL's name for a flag that MariaDB leaves out to show that it is MariaDB.
    MYSQL = 0;
    /// UPDATE counts the rows found, not those changed.
    FOUND_ROWS = 1;
    /// Column flags have two bytes.
    LONG_FLAG = 2;
    /// The login names a database.
    CONNECT_WITH_DB = 3;
    /// `database.table.column` is refused.
    NO_SCHEMA = 4;
    /// Packets are compressed with zlib.
    COMPRESS = 5;
    /// Nothing.
    ODBC = 6;
    /// LOAD DATA LOCAL INFILE may ask for a file.
    LOCAL_FILES = 7;
    /// Function names may have a space behind them.
    IGNORE_SPACE = 8;
    /// The protocol that is spoken since MySQL 4.1.
    PROTOCOL_41 = 9;
    /// `interactive_timeout` counts, not `wait_timeout`.
    INTERACTIVE = 10;
    /// TLS follows.
    SSL = 11;
    /// Nothing.
    IGNORE_SIGPIPE = 12;
    /// Status flags are sent.
    TRANSACTIONS = 13;
    /// Nothing any more.
    RESERVED = 14;
    /// Proofs of passwords have 20 bytes or more.
    SECURE_CONNECTION = 15;
    /// A query may have several statements.
    MULTI_STATEMENTS = 16;
    /// A query may have several results.
    MULTI_RESULTS = 17;
    /// The execution of a statement may have several results.
    PS_MULTI_RESULTS = 18;
    /// The login names a plugin.
    PLUGIN_AUTH = 19;
    /// The login has attributes of the client.
    CONNECT_ATTRS = 20;
    /// The proof in the login has a length-encoded length.
    PLUGIN_AUTH_LENENC = 21;
    /// The client knows what to do about an expired password.
    CAN_HANDLE_EXPIRED_PASSWORDS = 22;
    /// OK packets tell about changes of session variables.
    SESSION_TRACK = 23;
    /// OK packets end result sets, not EOF packets.
    DEPRECATE_EOF = 24;
    /// The definitions of columns may be left out.
    OPTIONAL_RESULTSET_METADATA = 25;
    /// Packets are compressed with zstd.
    ZSTD = 26;
    /// Queries and executions have attributes.
    QUERY_ATTRIBUTES = 27;
    /// More than one proof may be asked for.
    MULTI_FACTOR_AUTHENTICATION = 28;
    /// The client checks the server's certificate.
    SSL_VERIFY_SERVER_CERT = 30;
    /// Options are kept after a failed login.
    REMEMBER_OPTIONS = 31;
    /// MariaDB: reports of progress may come.
    PROGRESS = 32;
    /// MariaDB: several commands in one packet, which no server has any more.
    COM_MULTI = 33;
    /// MariaDB: COM_STMT_BULK_EXECUTE.
    STMT_BULK_OPERATIONS = 34;
    /// MariaDB: definitions of columns have one more field.
    EXTENDED_METADATA = 35;
    /// MariaDB: the definitions of columns are left out where they have not changed.
    CACHE_METADATA = 36;
    /// MariaDB: bulk operations answer for each of their rows.
    BULK_UNIT_RESULTS = 37;
}

impl Capabilities {
    /// Whether all of `other` are among these.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These without those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Capabilities {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Capabilities {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(Self::NAMES.iter().filter(|(flag, _)| self.contains(*flag)).map(|(_, name)| name))
            .finish()
    }
}
