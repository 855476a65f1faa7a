//! Orders from outside: to stop, to pause, to go on.

use tcpcopy_wire::Timestamp;

use super::{Copier, STOP_GRACE, udp};
use crate::ledger::{PacketDrop, SessionEnd};
use crate::outbox::Outbox;
use crate::session::Session;

impl Copier {
    /// Why nothing of clients is taken now, if it is not.
    #[inline]
    pub(super) fn drops_all(&self) -> Option<PacketDrop> {
        match (self.stop_at, self.paused) {
            (Some(_), _) => Some(PacketDrop::Stopping),
            (None, true) => Some(PacketDrop::Paused),
            (None, false) => None,
        }
    }

    pub(super) fn on_stop(&mut self, now: Timestamp, out: &mut Outbox) {
        if self.stop_at.is_none() {
            self.stop_at = Some(now + STOP_GRACE);
            self.udp.stop(&mut udp_context!(self, now, out), "stopped");
            self.for_all(now, out, |session, cx| session.stop(cx, SessionEnd::Stopped));
        }
    }

    pub(super) fn on_pause(&mut self, now: Timestamp, out: &mut Outbox) {
        if self.stop_at.is_none() && !self.paused {
            self.paused = true;
            self.pause_ends_at = Some(now + STOP_GRACE);
            self.udp.stop(&mut udp_context!(self, now, out), "paused");
            self.for_all(now, out, |session, cx| session.stop(cx, SessionEnd::Paused));
        }
    }

    pub(super) fn on_resume(&mut self, now: Timestamp, out: &mut Outbox) {
        if self.stop_at.is_none() && self.paused {
            self.paused = false;
            // What has been missed of them is missing for good: what still closes is not gone on with.
            if self.pause_ends_at.take().is_some() {
                self.for_all(now, out, Session::stop_now);
            }
        }
    }
}
