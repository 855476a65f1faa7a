//! What is left out for want of room: in memory, among the sessions that may live, or in the host's processor time.

use std::time::Duration;

use tcpcopy_wire::{Endpoint, Timestamp};

use super::config::Traffic;
use super::{Context, Copier};
use crate::ledger::{PacketDrop, SessionEnd};
use crate::outbox::{Notice, Outbox};

/// While new sessions are shed, that is said again no sooner than this.
const SHED_NOTICE_EVERY: Duration = Duration::from_secs(10);

impl Copier {
    /// Why no session can begin now, if so. It is counted, and said.
    pub(super) fn has_no_room(&mut self, now: Timestamp, joined: bool, out: &mut Outbox) -> Option<PacketDrop> {
        let sessions = self.ledger.sessions_alive as usize;
        let by_count = sessions >= self.config.session_limit;
        if !by_count && self.memory() < self.config.memory_limit {
            return None;
        }
        if now >= self.shed_notice_at {
            self.shed_notice_at = now + SHED_NOTICE_EVERY;
            out.notices.push(Notice::Shedding { by_count, sessions, bytes: self.memory() });
        }
        let (count, reason) = if by_count {
            (&mut self.ledger.sessions_over_limit, PacketDrop::TooManySessions)
        } else {
            (&mut self.ledger.sessions_shed, PacketDrop::Shed)
        };
        *count += u64::from(!joined);
        Some(reason)
    }

    /// Why a connection that begins now is left out whole, if it is.
    pub(super) fn leaves_out(&mut self, now: Timestamp, client: Endpoint) -> Option<SessionEnd> {
        if !Traffic::is_in_share(client, self.share) {
            return Some(SessionEnd::Throttled);
        }
        let allowed = self.limit.as_mut().is_none_or(|limit| limit.allows_session(now));
        (!allowed).then_some(SessionEnd::OverRate)
    }

    /// Gives up a session that wants to keep more than is there, unless it has not kept anything yet: a target that has stopped
    /// reading must not have this host keep all that clients send.
    #[cold]
    pub(super) fn give_up_for_memory(&mut self, now: Timestamp, id: u32, out: &mut Outbox) {
        let session = &mut self.table[id];
        if !session.is_over() && session.keeps_bytes() {
            let mut cx = context!(self, now, out);
            session.end_early(&mut cx, SessionEnd::NoMemory);
            self.settle(now, id, out);
        }
    }

    /// Gives up the newest sessions: the oldest have got furthest, and are the hardest to get back.
    #[cold]
    pub(super) fn close_newest(&mut self, now: Timestamp, percent: u8, out: &mut Outbox) {
        let mut alive: Vec<(u32, u32)> = Vec::new();
        for id in self.table.ids() {
            let session = &self.table[id];
            if !session.is_over() {
                alive.push((session.age(now), id));
            }
        }
        let count = (alive.len() * usize::from(percent.min(100))).div_ceil(100);
        if count < alive.len() {
            alive.select_nth_unstable(count);
            alive.truncate(count);
        }
        for (_, id) in alive {
            // One that was waiting may have been started, or removed, with the one before.
            let Some(session) = self.table.get_mut(id).filter(|session| !session.is_over()) else { continue };
            let mut cx = context!(self, now, out);
            session.end_early(&mut cx, SessionEnd::Throttled);
            self.settle(now, id, out);
        }
    }
}
