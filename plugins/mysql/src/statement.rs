//! Prepared statements: their numbers on online and on the target, and executions rewritten from one to the other.
//!
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_stmt_execute.html>

use std::collections::VecDeque;

use crate::wire::read::write_length_encoded;
use crate::wire::{Malformed, Reader};

/// Open statements of one session at most.
const MOST_STATEMENTS: usize = 16_384;
/// Bytes of text that are kept of the statements of one session, so that they can be prepared again.
const MOST_TEXT: usize = 4 << 20;
/// MariaDB's number for the statement that was prepared last.
pub const LAST_PREPARED: u32 = u32::MAX;

/// A statement as the session knows it: by how many were prepared before.
pub type Key = u64;

/// What the target made of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTarget {
    /// It was not sent, or not answered.
    Unknown,
    /// Prepared, under this number.
    Prepared(u32),
    /// The target takes it as a query only; it has no parameters.
    AsQuery,
    /// The target refused it.
    Refused,
    /// It was left out on purpose.
    LeftOut,
}

/// A statement that a client has open.
#[derive(Clone, Debug)]
pub struct Prepared {
    key: Key,
    /// Online's number.
    online: Option<u32>,
    /// What the target made of it.
    pub target: OnTarget,
    /// Its text; empty when it was too long to be kept.
    pub text: Vec<u8>,
    /// Its kind, for statistics.
    pub kind: &'static str,
    /// Number of parameters.
    pub parameters: u16,
    /// The types of its parameters, two bytes each, as the client last gave them.
    types: Vec<u8>,
    /// The present connection has been told them.
    types_told: bool,
}

/// The statements of one session.
#[derive(Clone, Debug, Default)]
pub struct Statements {
    open: VecDeque<Prepared>,
    next_key: Key,
    text: usize,
}

impl Statements {
    /// The next statement that the client prepares has this key.
    pub fn next_key(&self) -> Key {
        self.next_key
    }

    /// The client prepares a statement. The one that was prepared first is forgotten where there are too many.
    pub fn prepare(&mut self, text: Option<&[u8]>, kind: &'static str, target: OnTarget) -> Key {
        let key = self.next_key;
        self.next_key += 1;
        if self.open.len() == MOST_STATEMENTS
            && let Some(oldest) = self.open.pop_front()
        {
            self.text -= oldest.text.len();
        }
        let text = text.filter(|text| self.text + text.len() <= MOST_TEXT).unwrap_or_default().to_vec();
        self.text += text.len();
        let (online, parameters, types) = (None, 0, Vec::new());
        self.open.push_back(Prepared { key, online, target, text, kind, parameters, types, types_told: false });
        key
    }

    /// The statement of a key, if it is open.
    pub fn get(&mut self, key: Key) -> Option<&mut Prepared> {
        let at = self.open.binary_search_by_key(&key, |statement| statement.key).ok()?;
        self.open.get_mut(at)
    }

    /// Online has prepared it under this number. `false`: it is not open.
    pub fn on_online(&mut self, key: Key, id: u32) -> bool {
        self.get(key).map(|statement| statement.online = Some(id)).is_some()
    }

    /// The statement that the client means by online's number.
    pub fn by_online(&mut self, id: u32) -> Option<&mut Prepared> {
        if id == LAST_PREPARED {
            return self.open.back_mut();
        }
        // Those prepared last are executed most often where there are many.
        self.open.iter_mut().rev().find(|statement| statement.online == Some(id))
    }

    /// The client closes a statement.
    pub fn close(&mut self, key: Key) {
        if let Ok(at) = self.open.binary_search_by_key(&key, |statement| statement.key)
            && let Some(closed) = self.open.remove(at)
        {
            self.text -= closed.text.len();
        }
    }

    /// All are gone: the client has changed its user, or reset the connection.
    pub fn clear(&mut self) {
        self.open.clear();
        self.text = 0;
    }

    /// The target knows none of them any more. Returns the keys of those that can be prepared again.
    pub fn forget_target(&mut self) -> Vec<Key> {
        let mut again = Vec::new();
        for statement in &mut self.open {
            statement.types_told = false;
            if matches!(statement.target, OnTarget::Prepared(_) | OnTarget::Unknown) {
                statement.target = if statement.text.is_empty() { OnTarget::Refused } else { OnTarget::Unknown };
            }
            if statement.target == OnTarget::Unknown {
                again.push(statement.key);
            }
        }
        again
    }
}

impl Prepared {
    /// Its key.
    pub fn key(&self) -> Key {
        self.key
    }

    /// Writes the payload of an execution for the target's number `id`: with the types of the parameters, if that
    /// connection does not know them, and with attributes of the query, whose form the two sides may disagree on, if the
    /// target takes any.
    ///
    /// # Errors
    /// What is wrong with the client's payload, or cannot be said to the target.
    pub fn rewrite_execute(
        &mut self,
        payload: &[u8],
        id: u32,
        client_has_attributes: bool,
        target_has_attributes: bool,
    ) -> Result<Vec<u8>, Malformed> {
        /// PARAMETER_COUNT_AVAILABLE.
        const COUNTED: u8 = 0x08;
        let mut reader = Reader::new(payload);
        reader.bytes(5, "an execution without a statement")?;
        let flags = reader.u8("an execution without flags")?;
        let iterations = reader.bytes(4, "an execution without iterations")?;
        let counted = client_has_attributes && flags & COUNTED != 0;
        let mut out = vec![payload[0]];
        out.extend_from_slice(&id.to_le_bytes());
        let mut count = usize::from(self.parameters);
        if counted || client_has_attributes && count > 0 {
            count = usize::try_from(reader.length_encoded("an execution without a number of parameters")?)
                .unwrap_or(usize::MAX);
        }
        if count > usize::from(self.parameters) && !target_has_attributes {
            return Err(Malformed("attributes of a query, which the target does not take"));
        }
        out.push(if target_has_attributes { flags } else { flags & !COUNTED });
        out.extend_from_slice(iterations);
        if target_has_attributes && (flags & COUNTED != 0 || count > 0) {
            write_length_encoded(count as u64, &mut out);
        }
        if count == 0 {
            return Ok(out);
        }
        out.extend_from_slice(reader.bytes(count.div_ceil(8), "an execution without its NULLs")?);
        let bound = reader.u8("an execution that does not say whether types follow")? != 0;
        let mut names: Vec<&[u8]> = Vec::new();
        if bound {
            let mut types = Vec::new();
            for _ in 0..count {
                types.extend_from_slice(reader.bytes(2, "an execution without the types of its parameters")?);
                if client_has_attributes {
                    names.push(reader.length_encoded_bytes("a parameter without its name")?);
                }
            }
            self.types = types;
        }
        // Those of an earlier execution do for this one.
        let tell = bound || !self.types_told && self.types.len() == 2 * count;
        out.push(u8::from(tell));
        if tell {
            self.types_told = true;
            for (n, kind) in self.types.chunks(2).enumerate() {
                out.extend_from_slice(kind);
                if target_has_attributes {
                    let name = names.get(n).copied().unwrap_or_default();
                    write_length_encoded(name.len() as u64, &mut out);
                    out.extend_from_slice(name);
                }
            }
        }
        out.extend_from_slice(reader.rest());
        Ok(out)
    }
}

/// The number of a statement behind a command's first byte.
pub fn id_of(payload: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(*payload.get(1..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn statement(parameters: u16) -> Prepared {
        let mut statements = Statements::default();
        let key = statements.prepare(Some(b"SELECT ?, ?"), "select", OnTarget::Prepared(7));
        let statement = statements.get(key).unwrap();
        statement.parameters = parameters;
        statement.clone()
    }

    /// Statement 3, no cursor, two parameters, of which none is NULL.
    const PLAIN: &[u8] = b"\x17\x03\0\0\0\0\x01\0\0\0\0\x01\x08\0\xfd\0values";
    /// The same without types.
    const AGAIN: &[u8] = b"\x17\x03\0\0\0\0\x01\0\0\0\0\0values";
    /// The same with a number of parameters, and names.
    const NAMED: &[u8] = b"\x17\x03\0\0\0\x08\x01\0\0\0\x02\0\x01\x08\0\x01a\xfd\0\0values";

    fn with_id(payload: &[u8], id: u8) -> Vec<u8> {
        let mut payload = payload.to_vec();
        payload[1] = id;
        payload
    }

    #[test]
    fn only_the_number_changes_between_two_of_a_kind() {
        let mut s = statement(2);
        assert_eq!(s.rewrite_execute(PLAIN, 9, false, false).unwrap(), with_id(PLAIN, 9));
        assert_eq!(s.rewrite_execute(AGAIN, 9, false, false).unwrap(), with_id(AGAIN, 9));
        assert_eq!(s.rewrite_execute(NAMED, 9, true, true).unwrap(), with_id(NAMED, 9));
        let mut none = statement(0);
        let payload = b"\x17\x03\0\0\0\0\x01\0\0\0";
        assert_eq!(none.rewrite_execute(payload, 9, false, false).unwrap(), with_id(payload, 9));
    }

    #[test]
    fn a_new_connection_is_told_the_types() {
        let mut s = statement(2);
        s.rewrite_execute(PLAIN, 9, false, false).unwrap();
        s.types_told = false;
        assert_eq!(s.rewrite_execute(AGAIN, 4, false, false).unwrap(), with_id(PLAIN, 4));
        assert_eq!(s.rewrite_execute(AGAIN, 4, false, false).unwrap(), with_id(AGAIN, 4));
    }

    #[test]
    fn attributes_are_taken_away_or_given_where_the_sides_differ() {
        assert_eq!(statement(2).rewrite_execute(NAMED, 9, true, false).unwrap(), with_id(PLAIN, 9));
        let given = statement(2).rewrite_execute(PLAIN, 9, false, true).unwrap();
        assert_eq!(given, b"\x17\x09\0\0\0\0\x01\0\0\0\x02\0\x01\x08\0\0\xfd\0\0values");
        let mut one = statement(1);
        assert!(one.rewrite_execute(NAMED, 9, true, false).is_err(), "a second parameter is an attribute");
    }

    #[test]
    fn statements_are_found_by_onlines_number() {
        let mut statements = Statements::default();
        let keys: Vec<_> = (0..3).map(|_| statements.prepare(Some(b"SELECT 1"), "select", OnTarget::Unknown)).collect();
        for (key, id) in keys.iter().zip([5, 6, 7]) {
            assert!(statements.on_online(*key, id));
        }
        statements.close(keys[1]);
        assert!(statements.by_online(6).is_none() && !statements.on_online(keys[1], 6));
        assert_eq!(statements.by_online(5).unwrap().key(), keys[0]);
        assert_eq!(statements.by_online(LAST_PREPARED).unwrap().key(), keys[2]);
        statements.get(keys[0]).unwrap().target = OnTarget::LeftOut;
        assert_eq!(statements.forget_target(), [keys[2]]);
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        let mut statements = Statements::default();
        for _ in 0..MOST_STATEMENTS + 10 {
            statements.prepare(Some(&[b'x'; 1_000]), "select", OnTarget::Unknown);
        }
        assert_eq!(statements.open.len(), MOST_STATEMENTS);
        assert!(statements.open.iter().map(|s| s.text.len()).sum::<usize>() <= MOST_TEXT);
    }

    proptest! {
        #[test]
        fn no_execution_panics(
            payload in prop::collection::vec(any::<u8>(), 0..80),
            parameters in 0u16..20,
            client in any::<bool>(),
            target in any::<bool>(),
        ) {
            let mut s = statement(parameters);
            let _ = s.rewrite_execute(&payload, 1, client, target);
            let _ = s.rewrite_execute(&[PLAIN, &payload].concat(), 1, client, target);
        }
    }
}
