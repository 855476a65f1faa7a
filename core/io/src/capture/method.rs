//! The means by which packets are captured, behind one interface.

use std::os::fd::{AsRawFd, RawFd};

use tcpcopy_wire::Timestamp;
use tcpcopy_wire::link::LinkType;

use super::raw::RawCapture;
use super::{CaptureConfig, CaptureError, CaptureStats, Drained, Fanout, PcapCapture, check_device};

/// By what means packets are captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// libpcap, with a ring that the kernel and this process share.
    #[default]
    Pcap,
    /// A packet socket (packet(7)) that is read packet by packet.
    Raw,
}

/// A live capture. It never blocks: wait for its file descriptor to become readable, then drain it until it is empty.
pub struct Capture {
    means: Means,
    device: String,
    /// The system's number for the device; a device made again under the same name has another. Zero for `any`.
    index: u32,
    link: LinkType,
    fanout_group: Option<u16>,
}

enum Means {
    Pcap(PcapCapture),
    Raw(RawCapture),
}

impl Capture {
    /// Opens a capture; packets are collected from now on, of one in a fanout group from its [`start`](Self::start) on.
    ///
    /// # Errors
    /// Why it cannot be opened; see [`CaptureError`].
    pub fn open(config: &CaptureConfig) -> Result<Self, CaptureError> {
        let device = config.device.clone();
        match config.method {
            Method::Pcap => {
                let capture = PcapCapture::open(config)?;
                let (index, link, fanout_group) = (capture.index, capture.link, capture.fanout_group);
                Ok(Self { means: Means::Pcap(capture), device, index, link, fanout_group })
            }
            Method::Raw => {
                let capture = RawCapture::open(config)?;
                let (index, link, fanout_group) = (capture.index, capture.link, capture.fanout_group);
                Ok(Self { means: Means::Raw(capture), device, index, link, fanout_group })
            }
        }
    }

    /// Begins to collect packets, where the capture is in a fanout group. Start its members when all of them have joined:
    /// before, a flow may go to one member now and to another one later, and would be seen by both.
    ///
    /// # Errors
    /// [`CaptureError::BadFilter`] when the kernel does not take the filter.
    pub fn start(&mut self) -> Result<(), CaptureError> {
        match &mut self.means {
            Means::Pcap(capture) => capture.start(),
            Means::Raw(capture) => capture.start(),
        }
    }

    /// Opens as many captures as there are members, in one fanout group if there are several, and starts them. The
    /// configuration's own `fanout` does not count.
    ///
    /// # Errors
    /// Why one of them cannot be opened.
    pub fn open_group(config: &CaptureConfig, members: usize) -> Result<Vec<Self>, CaptureError> {
        let mut fanout = (members > 1).then_some(Fanout::New);
        let mut captures = Vec::with_capacity(members);
        for _ in 0..members {
            let capture = Self::open(&CaptureConfig { fanout, ..config.clone() })?;
            fanout = capture.fanout_group().map(Fanout::Join);
            captures.push(capture);
        }
        captures.iter_mut().try_for_each(Self::start)?;
        Ok(captures)
    }

    /// The device it captures on.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// How its frames begin.
    pub fn link_type(&self) -> LinkType {
        self.link
    }

    /// The number of its fanout group, if it is in one.
    pub fn fanout_group(&self) -> Option<u16> {
        self.fanout_group
    }

    /// Hands over up to `budget` packets, each with what was captured of it and its length on the wire in bytes. When
    /// `more` is false there is nothing left, and the file descriptor will report the next packet.
    ///
    /// # Errors
    /// [`CaptureError::DeviceLost`] when the device has gone.
    #[inline]
    pub fn drain(&mut self, budget: usize, mut each: impl FnMut(&[u8], usize)) -> Result<Drained, CaptureError> {
        self.drain_timed(budget, |bytes, wire_len, _| each(bytes, wire_len))
    }

    /// As [`drain`](Self::drain), also with the time when each packet was captured, counted from 1970.
    ///
    /// # Errors
    /// Those of [`drain`](Self::drain).
    #[inline]
    pub fn drain_timed(
        &mut self,
        budget: usize,
        each: impl FnMut(&[u8], usize, Timestamp),
    ) -> Result<Drained, CaptureError> {
        match &mut self.means {
            Means::Pcap(capture) => capture.drain(budget, each),
            Means::Raw(capture) => capture.drain(budget, each),
        }
    }

    /// Looks whether the device is still there. A device that is removed after it was taken down makes no event, so that
    /// [`drain`](Self::drain) would wait for ever; ask every few seconds.
    ///
    /// # Errors
    /// [`CaptureError::DeviceLost`] when it is gone, or another one has its name.
    pub fn check_device(&self) -> Result<(), CaptureError> {
        check_device(&self.device, self.index)
    }

    /// The counters. The kernel counts in 32 bits: ask at least once for every four billion packets.
    pub fn stats(&mut self) -> CaptureStats {
        match &mut self.means {
            Means::Pcap(capture) => capture.stats(),
            Means::Raw(capture) => capture.stats(),
        }
    }
}

impl AsRawFd for Capture {
    fn as_raw_fd(&self) -> RawFd {
        match &self.means {
            Means::Pcap(capture) => capture.as_raw_fd(),
            Means::Raw(capture) => capture.as_raw_fd(),
        }
    }
}
