//! The ledger: what was captured, and what became of it.
//!
//! Three equations hold at any moment, and [`Ledger::check`] tests them:
//!
//! ```text
//! packets  captured + multiplied = used + sum(dropped by reason)
//! bytes    captured + inserted + multiplied = copied + sum(dropped by reason) + pending
//! sessions seen                = completed + sum(ended by reason) + alive
//! ```
//!
//! A packet is *used* when the client half took something new from it: a SYN, data, an acknowledgement, a FIN or a RST.
//! A byte is *copied* when the target has acknowledged it; of a datagram, when it was sent. *Multiplied* packets and bytes
//! were captured once and are copied once more, to another target or from another source. *Pending* bytes wait in a
//! session.

use std::fmt;
use std::ops::AddAssign;

use crate::latency::Latency;

mod of_map;

pub use of_map::MapLedger;

macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[doc = $doc])+ $variant,)+ }

        impl $name {
            /// Every reason, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The reason in the words of the log, statistics and docs.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.text())
            }
        }
    };
}

pub(crate) use reasons;

reasons! {
    /// Why a captured packet was not used.
    PacketDrop {
        /// The capture holds less of the packet than its headers need.
        Truncated = "truncated by the capture",
        /// A header contradicts itself.
        Malformed = "malformed",
        /// A part of an IP packet that no UDP map can be for.
        Fragment = "IP fragment",
        /// A fragment that contradicts others of its datagram, which is given up with it.
        FragmentRefused = "IP fragment that contradicts others",
        /// Not IP, or neither TCP nor UDP, or UDP where only TCP is copied.
        OtherProtocol = "of another protocol",
        /// No `-x` map matches.
        NoMap = "no map matches",
        /// Sent by online, and no module asks for it.
        FromOnline = "sent by online",
        /// One of our own packets to the target, seen by the capture.
        OwnCopy = "our own copy",
        /// Nothing new in it: a retransmission, a keepalive, or one packet captured several times.
        Duplicate = "nothing new (retransmission, keepalive or captured twice)",
        /// Belongs to no session that is copied, and cannot begin one (no data, or `-O`).
        NoSession = "of no copied session",
        /// Of a session that had ended early, for the reason counted there.
        SessionEnded = "of a session ended early",
        /// Outside of what the client could have sent.
        OutOfWindow = "sequence number out of window",
        /// A new session while the memory limit is reached (`-m`).
        Shed = "shed for memory",
        /// A new session while as many live as may (`--max-sessions`).
        TooManySessions = "shed for the limit of sessions",
        /// Left out so that the host keeps enough processor time (`--cpu-limit`).
        Throttled = "left out for the limit of processor time",
        /// A new session for which no source address and port is free.
        NoSource = "no free source address",
        /// Of a client that is not in the sample (`-r`).
        NotSampled = "not in the sample",
        /// Above `--max-rate`.
        OverRate = "above the rate limit",
        /// More than a datagram to the target can hold.
        TooLarge = "larger than a datagram can be",
        /// The packet ends inside its tunnel's headers.
        TunnelCut = "cut inside a tunnel's headers",
        /// In a tunnel whose header is not known, or not enabled.
        TunnelUnknown = "in a tunnel of an unknown form",
        /// An IP fragment of a tunnel's packet, in another tunnel.
        TunnelFragment = "IP fragment of a tunnel in a tunnel",
        /// In too many tunnels inside each other.
        TunnelTooDeep = "in too many tunnels",
        /// Captured after the order to stop.
        Stopping = "captured while stopping",
        /// Captured while the copy was paused.
        Paused = "captured while paused",
    }
}

reasons! {
    /// Why a client's byte was not copied.
    ByteDrop {
        /// Sent by the client before.
        Duplicate = "sent before by the client",
        /// In a packet that was not used; the packets' reasons say why.
        PacketDropped = "in a dropped packet",
        /// Waiting in a session that ended early; the sessions' reasons say why.
        SessionEnded = "waiting when their session ended",
        /// Sent to a target that closed the connection before it acknowledged them.
        TargetClosed = "unacknowledged when the target closed",
        /// In fragments of a datagram that did not become whole.
        IncompleteDatagram = "in fragments of incomplete datagrams",
        /// Taken out by the protocol module.
        Module = "dropped by the module",
    }
}

reasons! {
    /// Why a session ended before it was copied to its end.
    SessionEnd {
        /// The target answered the SYN with a RST.
        TargetRefused = "target refused the connection",
        /// The target did not answer the SYN.
        TargetUnreachable = "target did not answer the SYN",
        /// The target reset the connection.
        TargetReset = "target reset the connection",
        /// The target closed the connection while the client still sent.
        TargetClosed = "target closed early",
        /// The target stopped acknowledging.
        GaveUp = "gave up after retransmissions",
        /// Data waited for a response for longer than `-t`.
        TargetSilent = "target silent",
        /// Nothing happened for longer than `-k`.
        Idle = "idle",
        /// Packets of the client are missing from the capture.
        CaptureHole = "hole in the capture",
        /// A packet of the client was captured only in part.
        CaptureCut = "packet cut by the capture",
        /// The module gave the session up.
        Module = "given up by the module",
        /// A hook of the module panicked.
        ModulePanicked = "the module panicked",
        /// Begun while there was more than `--max-rate` allows; left out whole.
        OverRate = "above the rate limit",
        /// Left out whole, or closed, so that the host keeps enough processor time (`--cpu-limit`).
        Throttled = "left out for the limit of processor time",
        /// It wanted to keep still more while sessions wait with a quarter more than the memory limit (`-m`).
        NoMemory = "no memory for what waits in it",
        /// tcpcopy was told to stop.
        Stopped = "stopped",
        /// tcpcopy was told to pause.
        Paused = "paused",
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $field:ident,)+) => {
        /// Counters of one engine. All only grow, except those of what is alive, pending or delayed now.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Ledger {
            $($(#[doc = $doc])+ pub $field: u64,)+
            /// Packets not used, by [`PacketDrop`].
            pub packets_dropped: [u64; PacketDrop::ALL.len()],
            /// Bytes not copied, by [`ByteDrop`].
            pub bytes_dropped: [u64; ByteDrop::ALL.len()],
            /// Sessions ended early, by [`SessionEnd`].
            pub sessions_ended: [u64; SessionEnd::ALL.len()],
            /// Of each request, the time from its capture until it was let through to the target.
            pub lag: Latency,
            /// Of each request that the target answered, the time from then until it began to answer.
            pub response_time: Latency,
            /// Of each map, in the order of [`CopierConfig::maps`](crate::CopierConfig::maps).
            pub maps: Vec<MapLedger>,
            /// Of each request that online answered, the time from its capture until online began to answer, by the
            /// capture's clock. Measured only if wanted.
            pub online_response_time: Latency,
        }

        impl Ledger {
            /// Each plain counter with its name and its meaning.
            pub fn counters(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($field), concat!($($doc),+).trim_ascii(), self.$field),)+].into_iter()
            }
        }

        impl AddAssign<&Ledger> for Ledger {
            fn add_assign(&mut self, other: &Ledger) {
                $(self.$field += other.$field;)+
                for (a, b) in self.packets_dropped.iter_mut().zip(&other.packets_dropped) { *a += b; }
                for (a, b) in self.bytes_dropped.iter_mut().zip(&other.bytes_dropped) { *a += b; }
                for (a, b) in self.sessions_ended.iter_mut().zip(&other.sessions_ended) { *a += b; }
                self.lag.merge(&other.lag);
                self.response_time.merge(&other.response_time);
                if self.maps.len() < other.maps.len() {
                    self.maps.resize_with(other.maps.len(), MapLedger::default);
                }
                for (a, b) in self.maps.iter_mut().zip(&other.maps) { *a += b; }
                self.online_response_time.merge(&other.online_response_time);
            }
        }
    };
}

counters! {
    /// Packets given to the engine.
    packets_captured,
    /// Those of them that came in a tunnel and were taken out of it.
    packets_decapsulated,
    /// IP fragments of tunnels' packets.
    tunnel_fragments,
    /// Tunnels' packets of which fragments were missing or wrong.
    tunnels_incomplete,
    /// Packets of clients that were taken once more, for a further copy of their connection.
    packets_multiplied,
    /// Packets from which the client half took something new.
    packets_used,
    /// Bytes of TCP payload in captured packets of clients.
    bytes_captured,
    /// Bytes that a module sent of its own.
    bytes_inserted,
    /// Bytes that were copied once more, to another target or from another source.
    bytes_multiplied,
    /// Bytes that the target acknowledged, and those of datagrams sent.
    bytes_copied,
    /// Bytes that wait in sessions now.
    pending_bytes,
    /// Sessions begun.
    sessions_seen,
    /// Sessions copied to their end: closed or reset by the client, and so at the target.
    sessions_completed,
    /// Sessions that live now, those that wait for an older one on their port included.
    sessions_alive,
    /// Sessions that entered the wait after a close (RFC 9293, TIME-WAIT).
    time_wait,
    /// Sessions that were joined mid-stream.
    joined,
    /// Those of the sessions that are further copies of a client's connection.
    sessions_multiplied,
    /// Beginnings of connections that are not in the sample.
    syns_not_sampled,
    /// Beginnings of connections that came while the copy was paused.
    syns_paused,
    /// Sessions that did not begin because there was no room in memory.
    sessions_shed,
    /// Sessions that did not begin because as many lived as may.
    sessions_over_limit,
    /// Sessions that did not begin because no source address and port was free.
    sessions_without_source,
    /// Requests of clients: data with which a client began to speak, or spoke again after it had received something.
    requests,
    /// Those of them that were let through to the target.
    requests_copied,
    /// Connections to the target rebuilt after it had closed.
    reconnects,
    /// SYNs of clients.
    client_syns,
    /// Packets of clients that a map matched.
    client_packets,
    /// Those of them with payload.
    client_data_packets,
    /// Client packets whose checksum was left to the network card.
    checksum_offloaded,
    /// Requests that were held by the gate.
    gate_held,
    /// Held requests released because the target had sent as much as online, or closed.
    gate_by_bytes,
    /// Held requests released at the end of a burst.
    gate_by_push,
    /// Held requests released because the module called the responses before them complete.
    gate_by_module,
    /// Held requests released after a quiet time.
    gate_by_quiet,
    /// Packets sent.
    packets_sent,
    /// Packets sent with payload.
    data_packets_sent,
    /// SYNs sent.
    syns_sent,
    /// FINs sent.
    fins_sent,
    /// RSTs sent.
    resets_sent,
    /// Segments sent again.
    retransmits,
    /// Retransmissions because a timer fired.
    timeouts,
    /// Responses that acknowledged something that had been sent again.
    recovered,
    /// Responses received.
    responses,
    /// Responses with payload.
    data_responses,
    /// Responses that came without the payload that the module wants, and count as lost.
    responses_without_payload,
    /// Packets of online from which something new was taken, for a module that sees them or to measure by.
    online_packets,
    /// Bytes of online shown to modules.
    online_bytes,
    /// Bytes of online that are missing from the capture.
    online_bytes_lost,
    /// Bytes of payload in responses, each counted once.
    response_bytes,
    /// Connections that the target accepted.
    connections,
    /// FINs of the target.
    response_fins,
    /// RSTs of the target.
    response_resets,
    /// Responses for sessions that are gone.
    stale_responses,
    /// Packets captured where the target's are expected that belong to nothing that is copied here.
    foreign_responses,
    /// Responses that wait for their client's round-trip time to pass.
    responses_delayed,
    /// Responses that found too many others waiting; the target sends them again.
    responses_delayed_lost,
    /// IP fragments captured that may be parts of a client's segments.
    tcp_fragments,
    /// Segments of which fragments were missing or wrong.
    tcp_incomplete,
    /// UDP datagrams of clients that a map matched.
    udp_datagrams,
    /// UDP datagrams sent, copies and modules' own.
    udp_sent,
    /// IP fragments in which some of them were sent.
    udp_fragments_sent,
    /// IP fragments captured that may be parts of such datagrams.
    udp_fragments,
    /// Datagrams put together from them.
    udp_reassembled,
    /// Datagrams of which fragments were missing or wrong.
    udp_incomplete,
    /// Copies that were not made though another copy of the datagram was.
    udp_copies_left_out,
    /// UDP clients seen, each for every target and copy.
    udp_flows,
    /// Those of them that are remembered now.
    udp_flows_alive,
    /// Those that were forgotten to make room.
    udp_flows_evicted,
    /// Those that their module gave up.
    udp_flows_given_up,
    /// UDP datagrams of targets.
    udp_responses,
    /// Those of them that answer a datagram sent.
    udp_answered,
    /// Those of them for which there was none.
    udp_unsolicited,
    /// Datagrams that were not answered before their flow was forgotten.
    udp_unanswered,
}

impl Ledger {
    /// Counts a packet that was not used.
    #[inline]
    pub fn drop_packet(&mut self, reason: PacketDrop) {
        self.packets_dropped[reason as usize] += 1;
    }

    /// Counts bytes that will not be copied.
    #[inline]
    pub fn drop_bytes(&mut self, reason: ByteDrop, bytes: u64) {
        self.bytes_dropped[reason as usize] += bytes;
    }

    /// Counts a session that ended early.
    pub fn end_session(&mut self, reason: SessionEnd) {
        self.sessions_ended[reason as usize] += 1;
    }

    /// Counts something of one map, if there is such a map.
    #[inline]
    pub(crate) fn of_map(&mut self, map: u16, count: impl FnOnce(&mut MapLedger)) {
        if let Some(of_map) = self.maps.get_mut(usize::from(map)) {
            count(of_map);
        }
    }

    /// The three equations of the ledger.
    ///
    /// # Errors
    /// Which equation does not hold, with both sides.
    pub fn check(&self) -> Result<(), String> {
        let sides = [
            (
                "packets",
                self.packets_captured + self.packets_multiplied,
                self.packets_used + self.packets_dropped.iter().sum::<u64>(),
            ),
            (
                "bytes",
                self.bytes_captured + self.bytes_inserted + self.bytes_multiplied,
                self.bytes_copied + self.bytes_dropped.iter().sum::<u64>() + self.pending_bytes,
            ),
            (
                "sessions",
                self.sessions_seen,
                self.sessions_completed + self.sessions_ended.iter().sum::<u64>() + self.sessions_alive,
            ),
        ];
        for (what, left, right) in sides {
            if left != right {
                return Err(format!("the ledger's {what} do not balance: {left} came in, {right} are accounted for"));
            }
        }
        Ok(())
    }
}
