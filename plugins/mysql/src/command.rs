//! What clients ask for, once they are logged in.
//!
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_command_phase.html>

/// How a server answers a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Not at all.
    Nothing,
    /// With OK, EOF or an error.
    Done,
    /// With a packet of any content.
    Text,
    /// With one or more results, each rows or OK; or with a wish for a file.
    Results,
    /// With a statement's number and the definitions of its parameters and columns.
    Prepared,
    /// With rows.
    Rows,
    /// As to a login.
    Login,
}

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is copied.
    Copied,
    /// It is never copied: it would do harm there, or mean something else.
    LeftOut,
    /// The session cannot be copied.
    SessionRefused,
}

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its first byte.
    pub code: u8,
    /// Its name, for statistics.
    pub name: &'static str,
    /// How it is answered.
    pub answer: Answer,
    /// What becomes of it.
    pub fate: Fate,
}

/// COM_QUIT.
pub const QUIT: u8 = 0x01;
/// COM_INIT_DB.
pub const INIT_DB: u8 = 0x02;
/// COM_QUERY.
pub const QUERY: u8 = 0x03;
/// COM_CHANGE_USER.
pub const CHANGE_USER: u8 = 0x11;
/// COM_STMT_PREPARE.
pub const STMT_PREPARE: u8 = 0x16;
/// COM_STMT_EXECUTE.
pub const STMT_EXECUTE: u8 = 0x17;
/// COM_STMT_SEND_LONG_DATA.
pub const STMT_SEND_LONG_DATA: u8 = 0x18;
/// COM_STMT_CLOSE.
pub const STMT_CLOSE: u8 = 0x19;
/// COM_STMT_RESET.
pub const STMT_RESET: u8 = 0x1a;
/// COM_STMT_FETCH.
pub const STMT_FETCH: u8 = 0x1c;
/// COM_RESET_CONNECTION.
pub const RESET_CONNECTION: u8 = 0x1f;
/// MariaDB's COM_STMT_BULK_EXECUTE.
pub const STMT_BULK_EXECUTE: u8 = 0xfa;

use Answer::{Done, Nothing, Prepared, Results, Rows, Text};
use Fate::{Copied, LeftOut, SessionRefused};

const COMMANDS: &[(u8, &str, Answer, Fate)] = &[
    (QUIT, "quit", Nothing, Copied),
    (INIT_DB, "init db", Done, Copied),
    (QUERY, "query", Results, Copied),
    (0x04, "field list", Rows, Copied),
    (0x05, "create db", Done, Copied),
    (0x06, "drop db", Done, Copied),
    (0x07, "refresh", Done, Copied),
    // It would stop the target.
    (0x08, "shutdown", Done, LeftOut),
    (0x09, "statistics", Text, Copied),
    (0x0a, "process info", Results, Copied),
    // Connections have other numbers there.
    (0x0c, "process kill", Done, LeftOut),
    (0x0d, "debug", Done, Copied),
    (0x0e, "ping", Done, Copied),
    (CHANGE_USER, "change user", Answer::Login, Copied),
    (0x12, "binlog dump", Nothing, SessionRefused),
    (0x13, "table dump", Nothing, SessionRefused),
    (0x15, "register replica", Nothing, SessionRefused),
    (STMT_PREPARE, "prepare", Prepared, Copied),
    (STMT_EXECUTE, "execute", Results, Copied),
    (STMT_SEND_LONG_DATA, "long data", Nothing, Copied),
    (STMT_CLOSE, "close statement", Nothing, Copied),
    (STMT_RESET, "reset statement", Done, Copied),
    (0x1b, "set option", Done, Copied),
    (STMT_FETCH, "fetch", Rows, Copied),
    (0x1e, "binlog dump gtid", Nothing, SessionRefused),
    (RESET_CONNECTION, "reset connection", Done, Copied),
    (0x20, "clone", Nothing, SessionRefused),
    (STMT_BULK_EXECUTE, "bulk execute", Results, Copied),
];

impl Command {
    /// The command of a packet's first byte.
    pub fn of(code: u8) -> Option<Self> {
        let (code, name, answer, fate) = *COMMANDS.iter().find(|command| command.0 == code)?;
        Some(Self { code, name, answer, fate })
    }

    /// Whether a statement's number stands behind its first byte.
    pub fn has_statement(self) -> bool {
        matches!(
            self.code,
            STMT_EXECUTE | STMT_SEND_LONG_DATA | STMT_CLOSE | STMT_RESET | STMT_FETCH | STMT_BULK_EXECUTE
        )
    }
}
