//! What to do about each reason that is counted: the third column of docs/counters.md. A new reason does not compile until
//! it has its line here.

use tcpcopy_engine::ledger::{ByteDrop, PacketDrop, SessionEnd};
use tcpcopy_engine::relay::RelayDrop;
use tcpcopy_io::transmit::SendError;

const NOTHING: &str = "nothing: this is as it should be";

pub(super) const fn packet(reason: PacketDrop) -> &'static str {
    match reason {
        PacketDrop::Truncated => "of a capture file: take it again with `tcpdump -s 0`",
        PacketDrop::Malformed => "a few are noise of the network; many: look at some with `tcpdump -v`",
        PacketDrop::Fragment => "nothing where UDP is not copied; TCP in fragments is put together",
        PacketDrop::FragmentRefused => "somebody forges fragments, or a device on the way is broken",
        PacketDrop::NoMap => {
            "compare the port and address of `-x` with what `tcpdump` shows; with `-F`, make it narrower"
        }
        PacketDrop::OtherProtocol | PacketDrop::FromOnline | PacketDrop::OwnCopy => {
            "with `-F` of your own: make it narrower, it costs time"
        }
        PacketDrop::Duplicate | PacketDrop::Stopping | PacketDrop::SessionEnded => NOTHING,
        PacketDrop::NoSession => {
            "nothing: a late packet, or a connection from before the start that has sent no data yet"
        }
        PacketDrop::OutOfWindow => "a few are noise; many: packets are missing, see the losses in the buffer",
        PacketDrop::Shed => "raise `-m`, or copy less with `-r`",
        PacketDrop::TooManySessions => "nothing: `--max-sessions` asked for it",
        PacketDrop::Throttled => "nothing: `--cpu-limit` asked for it; raise it, or copy less with `-r`",
        PacketDrop::Paused => "nothing: `tcpcopy pause` asked for it; `tcpcopy resume` goes on",
        PacketDrop::NoSource => "give more addresses with `-c`",
        PacketDrop::NotSampled => "nothing: `-r`, `-g` or `--ramp` asked for it",
        PacketDrop::OverRate => "nothing: `--max-rate` asked for it",
        PacketDrop::TooLarge => "a module made a datagram larger than 65,507 bytes",
        PacketDrop::TunnelCut => "raise the snapshot length of the mirror, or take the capture whole",
        PacketDrop::TunnelUnknown => "name the tunnel's kind and port with `--decap`",
        PacketDrop::TunnelFragment => "raise the MTU of the mirror's way by the tunnel's headers",
        PacketDrop::TunnelTooDeep => "mirror at a place where there are fewer tunnels",
    }
}

pub(super) const fn byte(reason: ByteDrop) -> &'static str {
    match reason {
        ByteDrop::Duplicate => NOTHING,
        ByteDrop::PacketDropped => "see why packets were dropped",
        ByteDrop::SessionEnded => "see why sessions ended early",
        ByteDrop::TargetClosed => "compare the target's time-outs and limits of requests with online's",
        ByteDrop::IncompleteDatagram => "look for losses in the buffer, and raise `-B`",
        ByteDrop::Module => "see the module's own counters",
    }
}

pub(super) const fn session(reason: SessionEnd) -> &'static str {
    match reason {
        SessionEnd::TargetRefused => "start the target's server; compare its port with `-x`",
        SessionEnd::TargetUnreachable => {
            "see [no connection is established](troubleshooting.md#no-connection-is-established)"
        }
        SessionEnd::TargetReset => "look into the log of the target's server, and for time-outs shorter than online's",
        SessionEnd::TargetClosed => "compare the target's time-outs and limits of requests a connection with online's",
        SessionEnd::GaveUp => "look for loss on the way to the target: `retransmit`, `ping`",
        SessionEnd::TargetSilent => "find out what the target does not answer; raise `-t` for slow answers",
        SessionEnd::Idle => "nothing, or raise `-k` for connections that stay quiet for long",
        SessionEnd::CaptureHole => "look for losses in the buffer: raise `-B`, use `--workers`",
        SessionEnd::CaptureCut => "of a capture file: take it again with `tcpdump -s 0`",
        SessionEnd::Module => "the log says once why; see the module's own counters",
        SessionEnd::ModulePanicked => "a mistake in the module: tell its author what the log says",
        SessionEnd::OverRate => "nothing: `--max-rate` asked for it",
        SessionEnd::NoMemory => "raise `-m`, or copy less with `-r`",
        SessionEnd::Throttled => "nothing: `--cpu-limit` asked for it; raise it, or copy less with `-r`",
        SessionEnd::Paused => "nothing: `tcpcopy pause` asked for it",
        SessionEnd::Stopped => NOTHING,
    }
}

pub(super) const fn relay(reason: RelayDrop) -> &'static str {
    match reason {
        RelayDrop::Truncated | RelayDrop::Malformed => "a few are noise of the network",
        RelayDrop::Fragment => "give the target's server a smaller MTU, or let intercept see whole segments",
        RelayDrop::OtherProtocol => "make `-F` narrower, it costs time",
        RelayDrop::NoRoute => {
            "a few at start and end are normal; many: `-F` also lets in what the target says to others"
        }
        RelayDrop::EarlyFull => "the same: make `-F` narrower",
        RelayDrop::LinkFull => "tcpcopy or the way to it is too slow: look at its processor; use `-C` or `--workers`",
        RelayDrop::LinkClosed => "see why the link broke; sessions send again what was not answered",
    }
}

pub(super) const fn meaning_of_send_error(cause: SendError) -> &'static str {
    match cause {
        SendError::QueueFull => "The send buffer or the device's queue is full (`EAGAIN`, `ENOBUFS`)",
        SendError::Forbidden => "A rule of this host forbids it (`EPERM`, `EACCES`)",
        SendError::TooLarge => "It is larger than the device or the path takes (`EMSGSIZE`)",
        SendError::NoRoute => "This host knows no way to the target (`ENETUNREACH`, `EHOSTUNREACH`, `ENETDOWN`)",
        SendError::NoSocket => "No socket of the packet's family is open",
        SendError::NoNeighbour => "With `-o`, the MAC address of the next hop is not known",
        SendError::Other => "Anything else",
    }
}
