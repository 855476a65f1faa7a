//! Follows a server's answers, to know of each when it is complete, and the few things in it that matter.
//!
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query_response.html>,
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_stmt_prepare.html>,
//! <https://mariadb.com/kb/en/result-set-packets/>
//!
//! ```text
//! result:  OK | error | wish for a file, then OK or error
//!        | number of columns, their definitions, EOF (1), rows, EOF or OK (2) or error
//! (1) not with DEPRECATE_EOF; with a cursor it is the end
//! (2) its status says whether another result follows
//! ```

use std::collections::VecDeque;

use crate::command::Answer;
use crate::wire::packet::Payload;
use crate::wire::reply::{CURSOR_EXISTS, MORE_RESULTS};
use crate::wire::{Capabilities, ErrPacket, Malformed, OkPacket, Packets, Reader};

/// Something in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A statement was prepared.
    Prepared {
        /// The server's number for it.
        id: u32,
        /// Its parameters.
        parameters: u16,
    },
    /// The server wants the client to send a file.
    WantsFile,
    /// An error.
    Error(ErrPacket),
    /// The answer to one command has come to its end.
    Complete,
    /// An error that answers nothing: the server is about to close.
    Unasked(ErrPacket),
}

/// Commands whose answers may be waited for at once. Servers take no more than a few.
const MOST_EXPECTED: usize = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is to come, or the first packet of an answer.
    First,
    /// So many definitions of columns, then their EOF, if there is one, then rows.
    Columns(u64),
    /// The EOF behind the definitions.
    ColumnsEnd,
    Rows,
    /// So many definitions of parameters, and of columns behind them, of a prepared statement.
    Prepared(u64, u64),
}

/// See the [module's documentation](self).
#[derive(Clone, Debug)]
pub struct Follower {
    capabilities: Capabilities,
    packets: Packets,
    expected: VecDeque<Answer>,
    state: State,
    /// Bytes were lost: where packets begin is not known before the next answer.
    lost: bool,
}

impl Follower {
    /// A follower of a connection on which these capabilities were agreed.
    pub fn new(capabilities: Capabilities) -> Self {
        Self { capabilities, packets: Packets::new(), expected: VecDeque::new(), state: State::First, lost: false }
    }

    /// A command goes to the server that will be answered so.
    ///
    /// # Errors
    /// When too many answers are waited for.
    pub fn expect(&mut self, answer: Answer) -> Result<(), Malformed> {
        if answer == Answer::Nothing {
            return Ok(());
        }
        if std::mem::take(&mut self.lost) {
            *self = Self::new(self.capabilities);
        }
        if self.expected.len() == MOST_EXPECTED {
            return Err(Malformed("a thousand commands without an answer"));
        }
        self.expected.push_back(answer);
        Ok(())
    }

    /// Whether nothing is waited for.
    pub fn is_idle(&self) -> bool {
        self.expected.is_empty()
    }

    /// Bytes are missing in what will be fed: what is waited for now will not be recognised.
    pub fn lose(&mut self) {
        self.lost = true;
        self.expected.clear();
    }

    /// Takes the next bytes of the server.
    ///
    /// # Errors
    /// What in them is not the protocol.
    pub fn feed(&mut self, mut data: &[u8], mut event: impl FnMut(Event)) -> Result<(), Malformed> {
        if self.lost {
            return Ok(());
        }
        let mut packets = std::mem::take(&mut self.packets);
        while let Some(payload) = packets.next(&mut data) {
            self.on_payload(payload, &mut event)?;
        }
        self.packets = packets;
        Ok(())
    }

    fn has(&self, flag: Capabilities) -> bool {
        self.capabilities.contains(flag)
    }

    fn on_payload(&mut self, payload: Payload<'_>, event: &mut impl FnMut(Event)) -> Result<(), Malformed> {
        let first = payload.bytes.first().copied();
        let Some(answer) = self.expected.front().copied() else {
            if first == Some(0xff) {
                event(Event::Unasked(ErrPacket::parse(payload.bytes)?));
                return Ok(());
            }
            return Err(Malformed("an answer to nothing"));
        };
        match self.state {
            State::Columns(left) => {
                self.state = match left - 1 {
                    0 if self.has(Capabilities::DEPRECATE_EOF) => State::Rows,
                    0 => State::ColumnsEnd,
                    left => State::Columns(left),
                };
                return Ok(());
            }
            State::ColumnsEnd => {
                if first != Some(0xfe) {
                    return Err(Malformed("no end behind the definitions of columns"));
                }
                self.state = State::Rows;
                if OkPacket::parse_eof(payload.bytes)?.status & CURSOR_EXISTS != 0 && answer == Answer::Results {
                    self.complete(event);
                }
                return Ok(());
            }
            State::Prepared(parameters, columns) => {
                // Definitions and, behind each group of them, an EOF.
                match (parameters, columns) {
                    (1, 0) | (0, 1) => self.complete(event),
                    (0, columns) => self.state = State::Prepared(0, columns - 1),
                    (parameters, columns) => self.state = State::Prepared(parameters - 1, columns),
                }
                return Ok(());
            }
            State::First | State::Rows => {}
        }
        match first {
            None if self.state == State::Rows => Ok(()),
            None => Err(Malformed("an empty answer")),
            Some(0xff) => {
                let error = ErrPacket::parse(payload.bytes)?;
                // A report of progress (MariaDB) is no end.
                if error.code != 0xffff || !self.has(Capabilities::PROGRESS) {
                    event(Event::Error(error));
                    self.complete(event);
                }
                Ok(())
            }
            Some(first) if self.state == State::Rows || answer == Answer::Rows => {
                if first == 0xfe && self.ends_rows(&payload) {
                    let end = if self.has(Capabilities::DEPRECATE_EOF) {
                        OkPacket::parse(payload.bytes)?
                    } else {
                        OkPacket::parse_eof(payload.bytes)?
                    };
                    self.end_result(end, event);
                }
                Ok(())
            }
            Some(first) => self.on_first(first, answer, payload.bytes, event),
        }
    }

    /// Whether a packet in the place of a row that begins with 0xfe is the end. A row that begins so has a value of 16 MB
    /// or more.
    fn ends_rows(&self, payload: &Payload<'_>) -> bool {
        payload.len < if self.has(Capabilities::DEPRECATE_EOF) { 0xff_ffff } else { 9 }
    }

    /// The first packet of an answer or of a result, which is no error.
    fn on_first(
        &mut self,
        first: u8,
        answer: Answer,
        bytes: &[u8],
        event: &mut impl FnMut(Event),
    ) -> Result<(), Malformed> {
        match answer {
            Answer::Text => self.complete(event),
            Answer::Done | Answer::Login if first == 0x00 || first == 0xfe => self.complete(event),
            Answer::Prepared if first == 0x00 => {
                let mut reader = Reader::new(&bytes[1..]);
                let id = reader.number(4, "a prepared statement without number")? as u32;
                let mut columns = reader.number(2, "a prepared statement without columns")?;
                let parameters = reader.number(2, "a prepared statement without parameters")?;
                event(Event::Prepared { id, parameters: parameters as u16 });
                let mut definitions = parameters;
                let _ = reader.bytes(3, "");
                if self.has(Capabilities::OPTIONAL_RESULTSET_METADATA) && reader.rest().first() == Some(&0) {
                    (definitions, columns) = (0, 0);
                }
                let end = u64::from(!self.has(Capabilities::DEPRECATE_EOF));
                let with_end = |count: u64| if count > 0 { count + end } else { 0 };
                match (with_end(definitions), with_end(columns)) {
                    (0, 0) => self.complete(event),
                    (parameters, columns) => self.state = State::Prepared(parameters, columns),
                }
            }
            Answer::Results if first == 0x00 => {
                let ok = OkPacket::parse(bytes)?;
                self.end_result(ok, event);
            }
            Answer::Results if first == 0xfb => event(Event::WantsFile),
            // Of a statement that was executed with a cursor and has no rows at all; old servers.
            Answer::Results if first == 0xfe && bytes.len() < 9 => self.complete(event),
            Answer::Results => {
                let mut reader = Reader::new(bytes);
                let columns = reader.length_encoded("a result without a number of columns")?;
                if columns == 0 {
                    return Err(Malformed("a result without columns"));
                }
                let optional =
                    self.has(Capabilities::OPTIONAL_RESULTSET_METADATA) || self.has(Capabilities::CACHE_METADATA);
                let defined =
                    !optional || reader.u8("a result that does not say whether its columns are defined")? != 0;
                self.state = match (defined, self.has(Capabilities::DEPRECATE_EOF)) {
                    (true, _) => State::Columns(columns),
                    (false, true) => State::Rows,
                    (false, false) => State::ColumnsEnd,
                };
            }
            Answer::Nothing | Answer::Done | Answer::Prepared | Answer::Login | Answer::Rows => {
                return Err(Malformed("an answer to another command"));
            }
        }
        Ok(())
    }

    fn end_result(&mut self, end: OkPacket, event: &mut impl FnMut(Event)) {
        if end.status & MORE_RESULTS != 0 && self.expected.front() == Some(&Answer::Results) {
            self.state = State::First;
        } else {
            self.complete(event);
        }
    }

    fn complete(&mut self, event: &mut impl FnMut(Event)) {
        self.state = State::First;
        self.expected.pop_front();
        event(Event::Complete);
    }
}

#[cfg(test)]
#[path = "../tests/conversations/mod.rs"]
mod conversations;
#[cfg(test)]
mod tests;
