//! The relay's counters, and the equations that they obey.

use std::fmt;
use std::ops::AddAssign;

use crate::ledger::reasons;

reasons! {
    /// Why a captured frame did not reach a tcpcopy.
    RelayDrop {
        /// The capture ends inside the headers.
        Truncated = "truncated by the capture",
        /// A header contradicts itself.
        Malformed = "malformed",
        /// A part of an IP packet.
        Fragment = "IP fragment",
        /// Not IP, or neither TCP nor UDP.
        OtherProtocol = "neither TCP nor UDP over IP",
        /// No tcpcopy claimed the flow in time.
        NoRoute = "no route",
        /// Without a route, and pushed out by newer ones without a route.
        EarlyFull = "no route (queue full)",
        /// The tcpcopy did not read fast enough.
        LinkFull = "link full",
        /// The connection to the tcpcopy broke before they were written.
        LinkClosed = "link closed",
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $field:ident,)+) => {
        /// Counters of one relay. All only grow, except `held`, `routes_alive`, and `relayed` when what was relayed turns
        /// out to be undeliverable.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct RelayStats {
            $($(#[doc = $doc])+ pub $field: u64,)+
            /// Frames that reached no tcpcopy, by [`RelayDrop`].
            pub dropped: [u64; RelayDrop::ALL.len()],
        }

        impl RelayStats {
            /// Each plain counter with its name and its meaning.
            pub fn counters(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($field), concat!($($doc),+).trim_ascii(), self.$field),)+].into_iter()
            }
        }

        impl AddAssign<&Self> for RelayStats {
            fn add_assign(&mut self, other: &Self) {
                $(self.$field += other.$field;)+
                for (mine, theirs) in self.dropped.iter_mut().zip(other.dropped) {
                    *mine += theirs;
                }
            }
        }
    };
}

counters! {
    /// Frames given to the relay.
    frames,
    /// Those of them that are TCP segments or UDP datagrams.
    responses,
    /// Those of them that are UDP datagrams.
    datagrams,
    /// Datagrams that found no route in time; they are among those dropped for it.
    datagrams_unrouted,
    /// Responses whose route was known when they came.
    matched,
    /// Responses handed over for a tcpcopy.
    relayed,
    /// Those of them that had no route and needed none (`--single`).
    routeless,
    /// Responses that came before their route.
    early_kept,
    /// Those of them whose route came in time.
    early_released,
    /// Those of them that wait now.
    held,
    /// Routes added.
    routes_added,
    /// Routes that made way for a newer one with their flow or id.
    routes_replaced,
    /// Routes removed by their tcpcopy.
    routes_removed,
    /// Routes that no response used for too long.
    routes_expired,
    /// Routes whose tcpcopy went.
    routes_orphaned,
    /// Routes refused because there were too many.
    routes_refused,
    /// Routes refused because their tcpcopy had as many as one may have.
    routes_over_share,
    /// Routes now.
    routes_alive,
    /// Removals of routes that did not exist.
    unknown_removals,
    /// Wishes for the payload of routes that did not exist.
    unknown_wishes,
}

impl RelayStats {
    #[inline]
    pub(super) fn drop_frames(&mut self, reason: RelayDrop, frames: u64) {
        self.dropped[reason as usize] += frames;
    }

    /// The counters of relays that share the frames of a capture and are told of the same routes: what happens to frames
    /// adds up; routes are counted where most are left, since one forgets those that only another one has used.
    pub fn of_workers<'a>(workers: impl IntoIterator<Item = &'a Self>) -> Self {
        let (mut total, mut routes) = (Self::default(), &Self::default());
        for worker in workers {
            total += worker;
            if worker.routes_alive >= routes.routes_alive {
                routes = worker;
            }
        }
        Self {
            routes_added: routes.routes_added,
            routes_replaced: routes.routes_replaced,
            routes_removed: routes.routes_removed,
            routes_expired: routes.routes_expired,
            routes_orphaned: routes.routes_orphaned,
            routes_refused: routes.routes_refused,
            routes_over_share: routes.routes_over_share,
            routes_alive: routes.routes_alive,
            unknown_removals: routes.unknown_removals,
            unknown_wishes: routes.unknown_wishes,
            ..total
        }
    }

    /// Counts responses as dropped that were counted as relayed before; returns how many, which is never more than were
    /// relayed.
    pub fn count_undelivered(&mut self, reason: RelayDrop, responses: u64) -> u64 {
        let responses = responses.min(self.relayed);
        self.relayed -= responses;
        self.drop_frames(reason, responses);
        responses
    }

    /// The relay's equations:
    ///
    /// ```text
    /// frames       = relayed + sum(dropped by reason) + held
    /// routes_added = replaced + removed + expired + orphaned + alive
    /// ```
    ///
    /// # Errors
    /// Which equation does not hold, with both sides.
    pub fn check(&self) -> Result<(), String> {
        let ended = self.routes_replaced + self.routes_removed + self.routes_expired + self.routes_orphaned;
        let sides = [
            ("frames", self.frames, self.relayed + self.dropped.iter().sum::<u64>() + self.held),
            ("routes", self.routes_added, ended + self.routes_alive),
        ];
        for (what, left, right) in sides {
            if left != right {
                return Err(format!("the relay's {what} do not balance: {left} came in, {right} are accounted for"));
            }
        }
        Ok(())
    }
}
