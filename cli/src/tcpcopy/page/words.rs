//! What the reasons of the ledger mean, for someone who does not know tcpcopy.

use tcpcopy_engine::ledger::{ByteDrop, PacketDrop, SessionEnd};
use tcpcopy_io::transmit::SendError;

/// Whether a reason is part of every copy, or something to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// It is what is wanted of a copy.
    Arrived,
    /// It is as it should be.
    Normal,
    /// Somebody wanted it so.
    Wanted,
    /// Something was lost.
    Loss,
}

use Weight::{Loss, Normal, Wanted};

/// Whether it matters that packets were not used for this reason, and what it means.
pub(super) fn of_packets(reason: PacketDrop) -> (Weight, &'static str) {
    match reason {
        PacketDrop::Truncated => {
            (Loss, "The capture kept less than the whole packet. In a file: it was written with a limit.")
        }
        PacketDrop::Malformed => (Loss, "Its headers contradict themselves."),
        PacketDrop::Fragment => (Normal, "A part of a packet that no map is for."),
        PacketDrop::FragmentRefused => {
            (Loss, "Fragments of one packet that do not fit together; believed in neither version.")
        }
        PacketDrop::OtherProtocol => (Normal, "Neither TCP nor UDP, or UDP where only TCP is copied."),
        PacketDrop::NoMap => (Normal, "For another server or port than those that are copied."),
        PacketDrop::FromOnline => (Normal, "The production server’s own answers, which are not copied."),
        PacketDrop::OwnCopy => (Normal, "A packet that tcpcopy itself had sent to the target."),
        PacketDrop::Duplicate => {
            (Normal, "Bare acknowledgements, what a client sent again, and packets that the capture showed twice.")
        }
        PacketDrop::NoSession => (Normal, "Of connections that were open before the copy began, or are not copied."),
        PacketDrop::SessionEnded => (Loss, "Its session had ended early before; see there."),
        PacketDrop::OutOfWindow => (Normal, "Data that cannot belong to this connection."),
        PacketDrop::Shed => (Loss, "There was no memory for more sessions: -m allows more."),
        PacketDrop::TooManySessions => (Wanted, "As many connections as --max-sessions allows were copied already."),
        PacketDrop::Throttled => (Wanted, "Left out so that the host keeps the processor time of --cpu-limit."),
        PacketDrop::NoSource => (Loss, "All addresses and ports of -c were in use: give more addresses."),
        PacketDrop::NotSampled => (Wanted, "Only a part of the clients is copied (-r)."),
        PacketDrop::OverRate => (Wanted, "More than --max-rate allows."),
        PacketDrop::TooLarge => (Loss, "It does not fit into a datagram to this target."),
        PacketDrop::TunnelCut => (Loss, "The mirrored packet ends within its tunnel’s headers."),
        PacketDrop::TunnelUnknown => (Loss, "A tunnel that --decap does not name, or in a form that is not known."),
        PacketDrop::TunnelFragment => (Loss, "A fragment of a tunnel’s packet within another tunnel."),
        PacketDrop::TunnelTooDeep => (Loss, "More tunnels within each other than are taken off."),
        PacketDrop::Stopping => (Normal, "It came when the copy was being stopped."),
        PacketDrop::Paused => (Wanted, "It came while the copy was paused (tcpcopy pause)."),
    }
}

/// The same of bytes.
pub(super) fn of_bytes(reason: ByteDrop) -> (Weight, &'static str) {
    match reason {
        ByteDrop::Duplicate => (Normal, "The client repeated itself; the target has them once."),
        ByteDrop::PacketDropped => (Normal, "For the packets’ reasons, above."),
        ByteDrop::SessionEnded => (Loss, "For the sessions’ reasons, above."),
        ByteDrop::TargetClosed => (Loss, "The target closed the connection without having read them."),
        ByteDrop::IncompleteDatagram => (Loss, "Other fragments of the same datagram are missing."),
        ByteDrop::Module => (Wanted, "The protocol module left them out, as it was told to, or replaced them."),
    }
}

/// The same of sessions that ended early.
pub(super) fn of_sessions(reason: SessionEnd) -> (Weight, &'static str) {
    match reason {
        SessionEnd::TargetRefused => {
            (Loss, "Nothing listens at the target’s port, or its queue of connections is full.")
        }
        SessionEnd::TargetUnreachable => {
            (Loss, "The request for a connection, or the answer to it, got lost: routes, firewalls, or no intercept.")
        }
        SessionEnd::TargetReset => (Loss, "The target broke the connection off while it was in use."),
        SessionEnd::TargetClosed => {
            (Loss, "The target closed while the client had more to send: it may close idle connections sooner.")
        }
        SessionEnd::GaveUp => (Loss, "The target did not acknowledge what it was sent again and again."),
        SessionEnd::TargetSilent => (Loss, "The target did not answer for as long as -t allows."),
        SessionEnd::Idle => (Normal, "Nothing happened for as long as -k allows."),
        SessionEnd::CaptureHole => {
            (Loss, "Packets of the client are missing from the capture. Bytes are never skipped.")
        }
        SessionEnd::CaptureCut => (Loss, "A packet of the client was captured in part."),
        SessionEnd::Module => (Loss, "The protocol module cannot copy such a session; below it says why."),
        SessionEnd::ModulePanicked => (Loss, "A mistake in the protocol module."),
        SessionEnd::OverRate => (Wanted, "More than --max-rate allows; left out whole."),
        SessionEnd::NoMemory => (Loss, "What waited in sessions needed more memory than -m allows."),
        SessionEnd::Throttled => {
            (Wanted, "Left out, or closed, so that the host keeps the processor time of --cpu-limit.")
        }
        SessionEnd::Paused => (Wanted, "The copy was paused (tcpcopy pause)."),
        SessionEnd::Stopped => (Normal, "It was still going on when the copy was stopped."),
    }
}

/// The same of packets that the system did not send.
pub(super) fn of_sending(cause: SendError) -> (Weight, &'static str) {
    match cause {
        SendError::QueueFull => (Loss, "The device’s queue was full; what is not acknowledged is sent again."),
        SendError::Forbidden => (Loss, "A rule of this host’s firewall forbids it."),
        SendError::TooLarge => (Loss, "Larger than the way takes: -M sets the size."),
        SendError::NoRoute => (Loss, "This host has no route to the target."),
        SendError::NoSocket => (Loss, "Of an address family that no map has."),
        SendError::NoNeighbour => (Loss, "The MAC address of the next hop is not known."),
        SendError::Other => (Loss, "The log may say more."),
    }
}

/// What the words of a page mean.
pub(super) const GLOSSARY: &[(&str, &str)] = &[
    ("online", "the production server. Its clients are copied, and notice nothing of it."),
    ("target", "the test server. It is sent what online’s clients send, as if the same clients had connected to it."),
    (
        "intercept",
        "the program that catches the target’s answers, so that no client ever sees them, and reports them to tcpcopy.",
    ),
    ("session", "one connection of a client, and its copy."),
    (
        "request",
        "what a client sends in one go: its first data, or what it sends after it has received something. Over HTTP mostly one \
         request, with pipelining several.",
    ),
    (
        "lag",
        "the time from the capture of a request until it was let through to the target. A request waits until the target has \
         answered the one before it, so that it meets the target in the state that it met online in.",
    ),
    (
        "response time",
        "the time from a request until the first byte of the answer. The target’s contains the way there and back, and the \
         report by intercept; online’s is measured where its packets are captured, and contains no network.",
    ),
    ("p50, p99", "quantiles: half of all, or 99 of 100, took no longer than this. Times are known to about 9 %."),
];
