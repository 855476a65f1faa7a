//! Live capture through libpcap: a kernel filter, a ring shared with the kernel, and a file descriptor to wait on.
//!
//! Outgoing packets are left out in the kernel where it can (`PACKET_IGNORE_OUTGOING`, Linux 4.20) and by libpcap's
//! direction otherwise. On `lo`, where each packet passes once out and once in, that leaves exactly one of the two.
#![allow(unsafe_code)]

pub mod backlog;
pub mod file;
mod group;
mod method;
mod raw;

use std::fmt;
use std::io;
use std::mem::size_of;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

use pcap::{Active, Direction};
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::link::LinkType;

use crate::device::device_index;
use crate::process::{self, Capability};
use crate::socket::set_option;
pub use group::CaptureGroup;
pub use method::{Capture, Method};

/// How long the kernel may keep packets back to hand them over together, in milliseconds.
const BUFFER_TIMEOUT_MS: i32 = 1;

/// Leaves outgoing packets out (Linux 4.20; not in libc for every target).
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// The same for a whole fanout group, which does not follow its members' own setting (Linux 5.9; older kernels ignore it).
const PACKET_FANOUT_FLAG_IGNORE_OUTGOING: u32 = 0x4000;
/// A filter that lets nothing pass: no frame is that short.
const NOTHING: &str = "less 1";
/// Packets that a ring can hold, by far.
const LEFT_IN_RING: usize = 1 << 20;

/// Instructions of a filter that the kernel takes (`BPF_MAXINSNS`).
const MAX_FILTER_INSTRUCTIONS: usize = 4096;

/// What to capture and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureConfig {
    /// The network device, or `any`.
    pub device: String,
    /// A filter in pcap's language (pcap-filter(7)); empty takes everything.
    pub filter: String,
    /// Size of the ring that the kernel fills, in bytes.
    pub buffer_bytes: usize,
    /// Bytes kept of each packet at most.
    pub snaplen: usize,
    /// Hand over each packet at once, instead of collecting packets for up to a millisecond. Each packet then takes a
    /// slot of `snaplen` bytes in the ring: keep it small.
    pub immediate: bool,
    /// Leave out what this host sends.
    pub inbound_only: bool,
    /// Take packets that are addressed to other hosts, too. `any` cannot.
    pub promiscuous: bool,
    /// On Ethernet, take what the filter looks for behind one or two VLAN tags, too.
    pub behind_tags: bool,
    /// Share the device's packets, by flow, with other captures.
    pub fanout: Option<Fanout>,
    /// By what means.
    pub method: Method,
}

impl Default for CaptureConfig {
    /// Everything that comes in on any device, with a ring of 32 MB.
    fn default() -> Self {
        Self {
            device: "any".to_owned(),
            filter: String::new(),
            buffer_bytes: 32 << 20,
            snaplen: 262_144,
            immediate: false,
            inbound_only: true,
            promiscuous: false,
            behind_tags: false,
            fanout: None,
            method: Method::Pcap,
        }
    }
}

/// Membership in a group of captures that share one device's packets: all packets of a flow go to one member
/// (packet(7), `PACKET_FANOUT_HASH`), in both directions. Which one goes by the order in which members joined, so groups
/// of several devices agree when theirs were joined in the same order.
///
/// Fragments, which do not show their ports, go by addresses: all of a datagram to one member, IPv4 and IPv6 alike, but
/// maybe not to the one that has the flow. `PACKET_FANOUT_FLAG_DEFRAG` would put those of IPv4 together before, and is not
/// used: the kernel keeps the fragments of all such groups in one place, so that of two programs on a host only one gets
/// the datagram, and the other nothing that it could count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fanout {
    /// Begin a group; [`Capture::fanout_group`] tells its number.
    New,
    /// Join the group of this number.
    Join(u16),
}

/// Why a capture could not be opened, or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaptureError {
    /// There is no device of this name.
    NoSuchDevice {
        /// The name.
        device: String,
        /// The devices that exist.
        available: Vec<String>,
    },
    /// libpcap does not understand the filter.
    BadFilter {
        /// The filter.
        filter: String,
        /// libpcap's words.
        reason: String,
    },
    /// The process may not capture.
    NoPermission {
        /// The device.
        device: String,
    },
    /// Frames of this device have a form that we do not read.
    UnsupportedLink {
        /// The device.
        device: String,
        /// libpcap's name or number for it.
        link: String,
    },
    /// The device could not be opened for another reason.
    Open {
        /// The device.
        device: String,
        /// libpcap's words.
        reason: String,
    },
    /// The capture could not join its fanout group.
    Fanout {
        /// The device.
        device: String,
        /// The system's words.
        reason: String,
    },
    /// The device went away while it was captured from. It may come back: open it again later.
    DeviceLost {
        /// The device.
        device: String,
        /// libpcap's words.
        reason: String,
    },
}

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchDevice { device, available } => {
                write!(f, "there is no network device `{device}`; this host has: {}", available.join(", "))
            }
            Self::BadFilter { filter, reason } => {
                write!(f, "the capture filter `{filter}` is not understood: {reason} (see pcap-filter(7))")
            }
            Self::NoPermission { device } => {
                write!(f, "no permission to capture on `{device}`: {}", Capability::NetRaw.remedy())
            }
            Self::UnsupportedLink { device, link } => write!(
                f,
                "device `{device}` shows frames of link type {link}, which are not understood; `any` shows the same \
                 traffic in a form that is"
            ),
            Self::Open { device, reason } => write!(f, "cannot capture on `{device}`: {reason}"),
            Self::Fanout { device, reason } => {
                write!(f, "cannot share the capture on `{device}` between workers: {reason}")
            }
            Self::DeviceLost { device, reason } => write!(f, "the capture on `{device}` ended: {reason}"),
        }
    }
}

impl std::error::Error for CaptureError {}

/// The result of [`Capture::drain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Packets handed over.
    pub count: usize,
    /// The budget was used up: there may be more.
    pub more: bool,
}

/// Counters of one capture, since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureStats {
    /// Packets that passed the filter.
    pub received: u64,
    /// Of those, packets that found the ring full.
    pub dropped: u64,
    /// Packets that the device itself could not take.
    pub interface_dropped: u64,
}

impl std::ops::AddAssign for CaptureStats {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.dropped += other.dropped;
        self.interface_dropped += other.interface_dropped;
    }
}

/// A live capture through libpcap.
struct PcapCapture {
    pcap: pcap::Capture<Active>,
    device: String,
    /// The system's number for the device; a device made again under the same name has another. Zero for `any`.
    index: u32,
    link: LinkType,
    fanout_group: Option<u16>,
    /// What to take from the start on, while the group is being made.
    held: Option<CaptureConfig>,
    totals: CaptureStats,
    last: [u32; 3],
}

impl PcapCapture {
    fn open(config: &CaptureConfig) -> Result<Self, CaptureError> {
        let device = config.device.clone();
        let index = index_of(&device)?;
        let to_open_error = |e: pcap::Error| open_error(&device, &e);
        let buffer_bytes = i32::try_from(config.buffer_bytes).unwrap_or(i32::MAX);
        let snaplen = i32::try_from(config.snaplen).unwrap_or(i32::MAX);
        let pcap = pcap::Capture::from_device(device.as_str())
            .map_err(to_open_error)?
            .promisc(config.promiscuous)
            .snaplen(snaplen)
            .buffer_size(buffer_bytes)
            .timeout(BUFFER_TIMEOUT_MS)
            .immediate_mode(config.immediate)
            .open()
            .map_err(to_open_error)?;
        let mut pcap = pcap.setnonblock().map_err(to_open_error)?;

        let dlt = pcap.get_datalink();
        let link = LinkType::from_dlt(dlt.0).ok_or_else(|| CaptureError::UnsupportedLink {
            device: device.clone(),
            link: dlt.get_name().unwrap_or_else(|_| dlt.0.to_string()),
        })?;
        if !config.filter.is_empty() {
            set_filter(&mut pcap, config, link)?;
        }
        if config.fanout.is_some() {
            let nothing = CaptureConfig { filter: NOTHING.to_owned(), behind_tags: false, ..config.clone() };
            set_filter(&mut pcap, &nothing, link)?;
        }
        if config.inbound_only {
            // The kernel's own switch costs nothing per packet; an old kernel does not have it.
            let _ = set_packet_option(pcap.as_raw_fd(), PACKET_IGNORE_OUTGOING, &1);
            pcap.direction(Direction::In).map_err(to_open_error)?;
        }
        let fanout_group = match config.fanout {
            None => None,
            Some(fanout) => Some(
                join_fanout(pcap.as_raw_fd(), fanout, config.inbound_only)
                    .map_err(|e| CaptureError::Fanout { device: device.clone(), reason: e.to_string() })?,
            ),
        };
        let held = config.fanout.map(|_| config.clone());
        let mut capture =
            Self { pcap, device, index, link, fanout_group, held, totals: CaptureStats::default(), last: [0; 3] };
        if capture.held.is_some() {
            // What came before it heard nothing belongs to whoever was in the group already.
            capture.drain(LEFT_IN_RING, |_, _, _| {})?;
        }
        Ok(capture)
    }

    /// See [`Capture::start`].
    fn start(&mut self) -> Result<(), CaptureError> {
        self.held.take().map_or(Ok(()), |config| set_filter(&mut self.pcap, &config, self.link))
    }

    #[inline]
    fn drain(&mut self, budget: usize, mut each: impl FnMut(&[u8], usize, Timestamp)) -> Result<Drained, CaptureError> {
        let result = self.pcap.dispatch(Some(budget), |packet| {
            let ts = packet.header.ts;
            let nanos = ts.tv_sec as u64 * 1_000_000_000 + ts.tv_usec as u64 * 1_000;
            each(packet.data, packet.header.len as usize, Timestamp::from_nanos(nanos));
        });
        match result {
            Ok(count) => Ok(Drained { count, more: count >= budget }),
            Err(pcap::Error::TimeoutExpired) => Ok(Drained { count: 0, more: false }),
            Err(e) => Err(CaptureError::DeviceLost { device: self.device.clone(), reason: pcap_text(e) }),
        }
    }

    /// libpcap counts in 32 bits.
    fn stats(&mut self) -> CaptureStats {
        // A device that is just going away has no statistics; the last ones stand.
        if let Ok(now) = self.pcap.stats() {
            let now = [now.received, now.dropped, now.if_dropped];
            let [received, dropped, interface_dropped] =
                [0, 1, 2].map(|i: usize| u64::from(now[i].wrapping_sub(self.last[i])));
            self.totals += CaptureStats { received, dropped, interface_dropped };
            self.last = now;
        }
        self.totals
    }
}

impl AsRawFd for PcapCapture {
    fn as_raw_fd(&self) -> RawFd {
        self.pcap.as_raw_fd()
    }
}

/// Gives the kernel the configuration's filter, in the place of the one before.
fn set_filter(pcap: &mut pcap::Capture<Active>, config: &CaptureConfig, link: LinkType) -> Result<(), CaptureError> {
    let bad_filter = |e| CaptureError::BadFilter { filter: config.filter.clone(), reason: pcap_text(e) };
    // The plain filter first: it is the one that messages are about.
    pcap.filter(&config.filter, true).map_err(bad_filter)?;
    let tagged = behind_tags(&config.filter);
    let fits = |program: pcap::BpfProgram| program.get_instructions().len() <= MAX_FILTER_INSTRUCTIONS;
    let is_wanted = config.behind_tags && !config.filter.is_empty() && link == LinkType::Ethernet;
    if is_wanted && pcap.compile(&tagged, true).is_ok_and(fits) {
        pcap.filter(&tagged, true).map_err(bad_filter)?;
    }
    Ok(())
}

/// Checks a filter without capturing, so that a mistake in it is found before any permission is needed.
///
/// # Errors
/// [`CaptureError::BadFilter`].
pub fn check_filter(filter: &str) -> Result<(), CaptureError> {
    let to_error = |e| CaptureError::BadFilter { filter: filter.to_owned(), reason: pcap_text(e) };
    pcap::Capture::dead(pcap::Linktype::ETHERNET).map_err(to_error)?.compile(filter, true).map_err(to_error)?;
    Ok(())
}

/// Whether a filter takes an Ethernet frame; `None` when it cannot be told.
pub fn takes(filter: &str, frame: &[u8]) -> Option<bool> {
    let compiler = pcap::Capture::dead(pcap::Linktype::ETHERNET).ok()?;
    Some(compiler.compile(filter, true).ok()?.filter(frame))
}

/// A filter that takes what `filter` takes without a VLAN tag, behind one and behind two. The kernel takes the outer tag
/// off and keeps it beside the packet, where `vlan` also looks; the inner tag of two stays in the packet, so that a filter
/// which does not expect it finds nothing.
fn behind_tags(filter: &str) -> String {
    format!("({filter}) or (vlan and (({filter}) or (vlan and ({filter}))))")
}

/// The system's number of a device to capture on.
fn index_of(device: &str) -> Result<u32, CaptureError> {
    let none = || CaptureError::NoSuchDevice { device: device.to_owned(), available: device_names() };
    device_index(device).ok_or_else(none)
}

/// What it means that a device cannot be opened.
fn open_error(device: &str, e: &dyn fmt::Display) -> CaptureError {
    if process::has_capability(Capability::NetRaw) {
        CaptureError::Open { device: device.to_owned(), reason: e.to_string() }
    } else {
        CaptureError::NoPermission { device: device.to_owned() }
    }
}

/// The names of the devices that can be captured on, `any` included.
pub fn device_names() -> Vec<String> {
    // /sys/class/net may belong to another network namespace than this thread. Two lines of headings come first.
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let name = |line: &str| line.split_once(':').map(|(name, _)| name.trim().to_owned());
    let mut names: Vec<String> = table.lines().skip(2).filter_map(name).collect();
    names.sort();
    names.push("any".to_owned());
    names
}

/// The addresses of this host.
pub fn local_addresses() -> Vec<IpAddr> {
    let devices = pcap::Device::list().unwrap_or_default();
    devices.into_iter().flat_map(|device| device.addresses).map(|address| address.addr).collect()
}

/// libpcap's words without the crate's wrapping.
fn pcap_text(e: pcap::Error) -> String {
    match e {
        pcap::Error::PcapError(text) => text,
        other => other.to_string(),
    }
}

/// Whether `device` is still the device that it was, under its name; see [`Capture::check_device`].
fn check_device(device: &str, index: u32) -> Result<(), CaptureError> {
    if device_index(device) == Some(index) {
        return Ok(());
    }
    Err(CaptureError::DeviceLost { device: device.to_owned(), reason: "the device was removed".to_owned() })
}

fn set_packet_option<T>(fd: RawFd, option: libc::c_int, value: &T) -> io::Result<()> {
    set_option(fd, libc::SOL_PACKET, option, value)
}

/// Puts a packet socket into a fanout group and returns the group's number.
fn join_fanout(fd: RawFd, fanout: Fanout, inbound_only: bool) -> io::Result<u16> {
    let mut kind = libc::PACKET_FANOUT_HASH;
    if inbound_only {
        kind |= PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
    }
    let group = match fanout {
        Fanout::New => {
            // The kernel chooses a number that nobody else on this host uses.
            kind |= libc::PACKET_FANOUT_FLAG_UNIQUEID;
            0
        }
        Fanout::Join(group) => group,
    };
    let argument = (u32::from(group) | (kind << 16)).cast_signed();
    set_packet_option(fd, libc::PACKET_FANOUT, &argument)?;

    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the size of `value`; both live during the call.
    let result =
        unsafe { libc::getsockopt(fd, libc::SOL_PACKET, libc::PACKET_FANOUT, (&raw mut value).cast(), &raw mut len) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // The group's number is the lower half.
    Ok(value as u16)
}

#[cfg(test)]
mod tests;
