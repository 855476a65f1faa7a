//! What online answers: only the first packet of each answer is looked at, for the numbers of prepared statements and for
//! the time that it took.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tcpcopy_module_api::{Ctx, Timestamp};

use super::MySqlSession;
use crate::command::{Answer, Command, STMT_PREPARE};
use crate::statement::Key;
use crate::wire::{Capabilities, Greeting, HEADER_LEN, Header, Packets};

/// Answers that may be waited for, or kept, at most.
const MOST: usize = 1_000;

/// A command that the client sent to online.
#[derive(Clone, Copy, Debug)]
struct Pending {
    number: u64,
    at: Timestamp,
    prepares: Option<Key>,
}

#[derive(Debug, Default)]
pub(super) struct OnlineSide {
    /// What online can do, by its greeting.
    capabilities: Option<Capabilities>,
    greeted: bool,
    packets: Packets,
    pending: VecDeque<Pending>,
    /// Bytes of it were lost: it is not understood before the next answer.
    deaf: bool,
    /// The client sends a file, up to an empty packet.
    file: bool,
    /// Commands and statements to be prepared, so far.
    commands: u64,
    prepared: Key,
    /// Numbers of statements that have not been decided about yet.
    ids: BTreeMap<Key, u32>,
    /// How long answers took, of commands that have not been answered by the target.
    times: BTreeMap<u64, Duration>,
}

impl OnlineSide {
    /// What client and online have agreed on, of what the client would make use of.
    pub(super) fn agreed(&self, client: Capabilities) -> Capabilities {
        self.capabilities.map_or(client, |online| client & online)
    }

    /// How long online took for a command, if that was seen.
    pub(super) fn time(&mut self, number: u64) -> Option<Duration> {
        let time = self.times.remove(&number);
        while self.times.first_key_value().is_some_and(|(oldest, _)| *oldest < number) {
            self.times.pop_first();
        }
        time
    }

    /// Online's number of a statement that is just being decided about, if it is known already.
    pub(super) fn take_id(&mut self, key: Key) -> Option<u32> {
        self.ids.remove(&key)
    }

    fn begin(&mut self, now: Timestamp, code: u8) {
        let number = self.commands;
        self.commands += 1;
        let prepares = (code == STMT_PREPARE).then_some(self.prepared);
        self.prepared += Key::from(code == STMT_PREPARE);
        if Command::of(code).is_none_or(|command| command.answer == Answer::Nothing) {
            return;
        }
        if self.deaf && self.pending.is_empty() {
            // Its answer begins with a packet.
            self.deaf = false;
            self.packets = Packets::new();
        }
        if self.pending.len() == MOST {
            self.pending.pop_front();
        }
        self.pending.push_back(Pending { number, at: now, prepares });
    }
}

impl MySqlSession {
    /// Looks for commands in what the client has sent, decided about or not: online answers them whatever we do.
    pub(super) fn scan(&mut self, now: Timestamp, data: &[u8]) {
        while let Some(rest) = self.client.not_scanned(data) {
            let Some(header) = Header::read(rest) else { return };
            let code = rest.get(HEADER_LEN).copied();
            if header.len > 0 && code.is_none() {
                return;
            }
            if self.client.scans_commands() {
                match code.filter(|_| header.len > 0) {
                    None => self.online.file = false,
                    Some(_) if self.online.file => {}
                    Some(code) if header.sequence == 0 => self.online.begin(now, code),
                    Some(_) => {}
                }
            }
            self.client.scanned_packet(&header);
        }
    }

    pub(super) fn take_online_data(&mut self, ctx: &mut Ctx<'_>, mut data: &[u8], lost: u64) {
        let online = &mut self.online;
        if lost > 0 {
            online.deaf = true;
            online.pending.clear();
        }
        if online.deaf {
            return;
        }
        while let Some(payload) = online.packets.next(&mut data) {
            if !std::mem::replace(&mut online.greeted, true) && !ctx.info().joined {
                online.capabilities = Greeting::parse(payload.bytes).ok().and_then(Result::ok).map(|g| g.capabilities);
                continue;
            }
            // An answer begins with the number behind the command's.
            let Some(pending) = online.pending.front().copied().filter(|_| payload.sequence == 1) else { continue };
            online.pending.pop_front();
            match (payload.bytes, pending.prepares) {
                ([0, a, b, c, d, ..], Some(key)) => {
                    let id = u32::from_le_bytes([*a, *b, *c, *d]);
                    if !self.statements.on_online(key, id) {
                        if online.ids.len() == MOST {
                            online.ids.pop_first();
                        }
                        online.ids.insert(key, id);
                    }
                }
                ([0xfb, ..], None) => online.file = true,
                _ => {}
            }
            if self.shared.log.is_some() {
                if online.times.len() == MOST {
                    online.times.pop_first();
                }
                online.times.insert(pending.number, ctx.now().since(pending.at));
            }
        }
    }
}
