//! A device with its capture: how its frames reach the engine, and what happens when it goes away.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use tcpcopy_engine::{Copier, Input, Outbox};
use tcpcopy_io::capture::backlog::Backlog;
use tcpcopy_io::capture::{Capture, CaptureError, CaptureGroup, CaptureStats};
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::link::LinkType;

/// Frames that one capture hands over before the links and the ring are looked at again.
const BATCH: usize = 64;
/// The same in bytes: a frame of 64 KB is 45 packets to send, and while they are sent the ring fills.
const BATCH_BYTES: usize = 256 << 10;
/// Frames taken directly from the ring, where their size is not known before.
const DIRECT: usize = 16;
/// Frames moved from a ring to its queue in one round; copying them takes a small part of a millisecond.
const MOVE: usize = 1024;
/// Bytes of frames that wait in memory for one capture, at most. Beyond that the ring fills, and the kernel counts what
/// it drops.
pub(super) const BACKLOG_LIMIT: usize = 64 << 20;
/// Pause before a device that has gone away is tried again.
const REOPEN_EVERY: Duration = Duration::from_secs(2);
/// Pause between looks whether the devices are still there.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// Whose packets a capture shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Clients', and maybe online's.
    Clients,
    /// The target's (`-s local`).
    Target,
}

/// A device, and its capture while there is one.
pub(super) struct Device {
    pub(super) token: Token,
    pub(super) side: Side,
    /// Where captures come from, and which one of them is ours.
    pub(super) group: Arc<CaptureGroup>,
    pub(super) member: usize,
    /// The number of the opening of the capture that there is or was.
    pub(super) opened: u64,
    pub(super) capture: Option<Capture>,
    /// How its frames begin.
    pub(super) link: LinkType,
    /// The ring may hold frames.
    pub(super) ready: bool,
    /// Frames taken out of the ring that could not be handled yet.
    pub(super) backlog: Backlog,
    /// When to look whether the device is still there or, after it was lost, there again.
    pub(super) check_at: Timestamp,
    /// Counters of former captures.
    pub(super) before: CaptureStats,
    /// How often it was lost.
    pub(super) losses: u64,
    /// The engine wants to know when each frame was captured.
    pub(super) measures_online: bool,
}

impl Device {
    /// Whether there may be something to do without waiting.
    pub(super) fn has_frames(&self) -> bool {
        self.ready || !self.backlog.is_empty()
    }

    /// Gives the engine one batch of frames, the oldest first, and empties the ring as far as the queue has room.
    #[inline]
    pub(super) fn hand_over(
        &mut self,
        now: Timestamp,
        engine: &mut Copier,
        outbox: &mut Outbox,
    ) -> Result<(), CaptureError> {
        let (link, side) = (self.link, self.side);
        let measures_online = self.measures_online && side == Side::Clients;
        let mut handle = |bytes: &[u8], wire_len, at| {
            if measures_online {
                engine.handle(now, Input::CapturedAt(at), outbox);
            }
            let input = match side {
                Side::Clients => Input::Frame { link, bytes, wire_len },
                Side::Target => Input::TargetFrame { link, bytes, wire_len },
            };
            engine.handle(now, input, outbox);
        };
        self.backlog.drain(BATCH, BATCH_BYTES, &mut handle);
        let Some(capture) = &mut self.capture else {
            return Ok(());
        };
        if self.ready && self.backlog.is_empty() {
            self.ready = capture.drain_timed(DIRECT, &mut handle)?.more;
        }
        if self.ready && !self.backlog.is_full() {
            self.ready = capture.drain_timed(MOVE, |bytes, wire_len, at| self.backlog.push(bytes, wire_len, at))?.more;
        }
        Ok(())
    }

    /// The capture has ended by itself: tries again later.
    #[cold]
    pub(super) fn lose(&mut self, e: &CaptureError, now: Timestamp, registry: &Registry) {
        log::warn!("{e}; it is opened again when the device is back");
        if let Some(mut capture) = self.capture.take() {
            // The descriptor is closed with the capture; this only tidies up before.
            let _ = registry.deregister(&mut SourceFd(&capture.as_raw_fd()));
            self.before += capture.stats();
        }
        self.losses += 1;
        self.ready = false;
        self.check_at = now + REOPEN_EVERY;
    }

    #[cold]
    pub(super) fn check(&mut self, now: Timestamp, registry: &Registry) {
        self.check_at = now + CHECK_EVERY;
        match self.capture.as_ref().map(Capture::check_device) {
            Some(Ok(())) => {}
            Some(Err(e)) => self.lose(&e, now, registry),
            None => self.reopen(now, registry),
        }
    }

    pub(super) fn reopen(&mut self, now: Timestamp, registry: &Registry) {
        let opened = match self.group.again(self.member, self.opened) {
            Ok(Some((opened, capture))) => self.use_capture(opened, capture, registry).map_err(|e| e.to_string()),
            Ok(None) => Err(format!("no capture is left of `{}`", self.group.device())),
            Err(e) => Err(e.to_string()),
        };
        match opened {
            Ok(()) => log::info!("capturing on `{}` again", self.group.device()),
            Err(e) => {
                log::debug!("{e}");
                self.check_at = now + REOPEN_EVERY;
            }
        }
    }

    pub(super) fn use_capture(&mut self, opened: u64, capture: Capture, registry: &Registry) -> io::Result<()> {
        self.opened = opened;
        registry.register(&mut SourceFd(&capture.as_raw_fd()), self.token, Interest::READABLE)?;
        self.link = capture.link_type();
        self.capture = Some(capture);
        // What came between opening and registering made no event.
        self.ready = true;
        Ok(())
    }
}
