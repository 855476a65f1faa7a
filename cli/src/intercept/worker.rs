//! What one thread does with responses: reads its captures, has them looked up by its relay, and delivers what that has
//! for the tcpcopys. intercept has one of these, or several on threads of their own (see [`crew`](super::crew)).

use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use tcpcopy_engine::relay::{RelayDrop, RelayStats};
use tcpcopy_engine::{PeerId, Relay, RelayConfig, RelayInput, RelayNotice, RelayOutbox};
use tcpcopy_io::capture::{Capture, CaptureStats};
use tcpcopy_io::control::{ControlServer, LinkFull};
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::{LinkStats, Payload};
use tcpcopy_wire::link::LinkType;

/// Captures have the tokens from here; there are far fewer devices than tokens before the next ones in use.
pub(super) const FIRST_CAPTURE: usize = 1;
/// Packets that a ring can hold, by far.
const LEFT_IN_RING: usize = 1 << 20;
/// Packets read from one capture before the tcpcopys get their turn.
pub(super) const DRAIN_BUDGET: usize = 2048;
/// Bytes of responses that are collected before they are delivered, when the capture does not run empty.
const FLUSH_BYTES: usize = 16 << 10;

/// Where responses go.
pub(super) trait Deliver {
    /// Takes whole frames with `responses` responses for a peer.
    ///
    /// # Errors
    /// When there is no room for them; nothing was taken.
    fn deliver(&mut self, peer: PeerId, frames: &[u8], responses: u64, now: Timestamp) -> Result<(), LinkFull>;

    /// All that there is for now was delivered.
    fn end(&mut self) {}
}

impl Deliver for ControlServer {
    #[inline]
    fn deliver(&mut self, peer: PeerId, frames: &[u8], responses: u64, now: Timestamp) -> Result<(), LinkFull> {
        self.send(peer, frames, responses, now)
    }
}

/// What a worker has counted so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    pub(super) relay: RelayStats,
    pub(super) captures: CaptureStats,
    /// For each peer that was asked for, what it may want to know.
    pub(super) links: Vec<(PeerId, LinkStats)>,
}

/// One device, as a worker sees it.
#[derive(Default)]
struct Source {
    /// `None` while the device is away.
    capture: Option<Capture>,
    readable: bool,
    /// What the captures before the present one counted.
    before: CaptureStats,
}

/// A relay with its captures.
pub(super) struct Worker {
    desk: Desk,
    sources: Vec<Source>,
    registry: Registry,
}

/// The relay and what it has to deliver: all that a captured frame concerns.
struct Desk {
    relay: Relay,
    outbox: RelayOutbox,
    responses_per_write: Option<u64>,
    undelivered: Vec<(PeerId, u64)>,
}

impl Worker {
    /// A worker without captures, which will wait for them by `registry`.
    pub(super) fn new(registry: Registry, config: RelayConfig, responses_per_write: Option<u64>) -> Self {
        let (relay, outbox) = (Relay::new(config), RelayOutbox::new());
        let desk = Desk { relay, outbox, responses_per_write, undelivered: Vec::new() };
        Self { desk, sources: Vec::new(), registry }
    }

    /// Takes a capture of the device of this number, in the place of the one before. What that still holds is read from
    /// it; a few packets may come from both, which costs an acknowledgement each. When the new one cannot be waited for, the
    /// old one stays.
    pub(super) fn give(&mut self, device: usize, capture: Capture, now: Timestamp) {
        let token = Token(FIRST_CAPTURE + device);
        if let Err(e) = self.registry.register(&mut SourceFd(&capture.as_raw_fd()), token, Interest::READABLE) {
            log::error!("cannot wait for packets on {}: {e}", capture.device());
            return;
        }
        if self.sources.len() <= device {
            self.sources.resize_with(device + 1, Source::default);
        }
        let Self { sources, desk: Desk { relay, outbox, .. }, .. } = self;
        let source = &mut sources[device];
        if let Some(mut old) = source.capture.replace(capture) {
            let link = old.link_type();
            let _ = old.drain(LEFT_IN_RING, |bytes, wire_len| {
                relay.handle(now, RelayInput::Frame { link, bytes, wire_len }, outbox);
            });
            source.before += old.stats();
        }
        // Packets may have come before the registration.
        source.readable = true;
    }

    /// Takes an event of one of its captures.
    pub(super) fn readable(&mut self, token: Token) {
        if let Some(source) = token.0.checked_sub(FIRST_CAPTURE).and_then(|device| self.sources.get_mut(device)) {
            source.readable = true;
        }
    }

    /// Whether there may be packets to read, without waiting.
    pub(super) fn has_packets(&self) -> bool {
        self.sources.iter().any(|source| source.readable)
    }

    /// Passes on what concerns peers and routes.
    #[inline]
    pub(super) fn tell(&mut self, now: Timestamp, input: RelayInput<'_>) {
        self.desk.relay.handle(now, input, &mut self.desk.outbox);
    }

    /// Hands a frame to the relay, and delivers when enough has come together.
    #[inline]
    pub(super) fn take(
        &mut self,
        now: Timestamp,
        link: LinkType,
        bytes: &[u8],
        wire_len: usize,
        to: &mut impl Deliver,
    ) {
        self.desk.take(now, link, bytes, wire_len, to);
    }

    /// Reads the captures that have packets, each for a while, and delivers what comes of it. `lost` is told the numbers of
    /// devices that went away.
    pub(super) fn read(&mut self, now: Timestamp, to: &mut impl Deliver, mut lost: impl FnMut(usize)) {
        let desk = &mut self.desk;
        for (device, source) in self.sources.iter_mut().enumerate().filter(|(_, source)| source.readable) {
            source.readable = false;
            let Some(capture) = &mut source.capture else { continue };
            let link = capture.link_type();
            match capture.drain(DRAIN_BUDGET, |bytes, wire_len| desk.take(now, link, bytes, wire_len, to)) {
                Ok(drained) => source.readable = drained.more,
                Err(e) => {
                    log::error!("{e}");
                    source.before += capture.stats();
                    source.capture = None;
                    lost(device);
                }
            }
        }
        desk.flush(now, to);
    }

    /// Delivers what the relay has for its peers.
    #[inline]
    pub(super) fn flush(&mut self, now: Timestamp, to: &mut impl Deliver) {
        self.desk.flush(now, to);
    }

    /// When [`on_time`](Self::on_time) is due.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.desk.relay.next_deadline()
    }

    /// Does what the clock asks for, if it does.
    pub(super) fn on_time(&mut self, now: Timestamp) {
        if self.next_deadline().is_some_and(|at| at <= now) {
            self.tell(now, RelayInput::Timeout);
        }
    }

    /// How much payload the captures have to take.
    #[inline]
    pub(super) fn wants_payload(&self) -> Payload {
        self.desk.relay.wants_payload()
    }

    /// What is to be told to a person since the last call.
    pub(super) fn notices(&mut self) -> impl Iterator<Item = RelayNotice> {
        self.desk.outbox.notices.drain(..)
    }

    /// Reads what has been captured until now, and delivers it.
    pub(super) fn finish(&mut self, now: Timestamp, to: &mut impl Deliver) {
        self.sources.iter_mut().for_each(|source| source.readable = true);
        self.read(now, to, |_| {});
    }

    /// What a peer may want to know; the captures' part of it is left out.
    pub(super) fn link_stats(&self, peer: PeerId) -> LinkStats {
        self.desk.relay.link_stats(peer)
    }

    /// What it has counted, for these peers, too.
    pub(super) fn counters(&mut self, peers: impl IntoIterator<Item = PeerId>) -> Counters {
        let mut captures = CaptureStats::default();
        for source in &mut self.sources {
            captures += source.before;
            if let Some(capture) = &mut source.capture {
                captures += capture.stats();
            }
        }
        let links = peers.into_iter().map(|peer| (peer, self.link_stats(peer))).collect();
        Counters { relay: self.desk.relay.stats().clone(), captures, links }
    }
}

impl Desk {
    #[inline]
    fn take(&mut self, now: Timestamp, link: LinkType, bytes: &[u8], wire_len: usize, to: &mut impl Deliver) {
        self.relay.handle(now, RelayInput::Frame { link, bytes, wire_len }, &mut self.outbox);
        let responses = self.outbox.responses();
        if self.responses_per_write.is_some_and(|most| responses >= most) || self.outbox.bytes() >= FLUSH_BYTES {
            self.flush(now, to);
        }
    }

    #[inline]
    fn flush(&mut self, now: Timestamp, to: &mut impl Deliver) {
        if self.outbox.responses() == 0 {
            return;
        }
        for (peer, frames, responses) in self.outbox.batches() {
            if to.deliver(peer, frames, responses, now).is_err() {
                self.undelivered.push((peer, responses));
            }
        }
        to.end();
        self.outbox.clear_batches();
        for (peer, responses) in self.undelivered.drain(..) {
            let reason = RelayDrop::LinkFull;
            self.relay.handle(now, RelayInput::Undelivered { peer, responses, reason }, &mut self.outbox);
        }
    }
}
