//! Live capture through a packet socket (packet(7)), without a ring: the kernel queues packets on the socket, and they are
//! read in batches.
//!
//! On Ethernet the socket shows whole frames, elsewhere and on `any` IP packets. The filter is compiled by libpcap and
//! attached before the socket is bound, so that it never sees a packet that the filter has not.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{SystemTime, UNIX_EPOCH};

use socket2::{Domain, Protocol, Socket, Type};
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::link::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, LinkType};

use super::{
    CaptureConfig, CaptureError, CaptureStats, Drained, MAX_FILTER_INSTRUCTIONS, NOTHING, PACKET_IGNORE_OUTGOING,
    behind_tags, index_of, join_fanout, open_error, pcap_text, set_packet_option,
};
use crate::device::{Hardware, hardware};
use crate::socket::{grow_receive_buffer, set_option};

/// Packets read by one system call at most.
const BATCH: usize = 32;
/// Room for each, in bytes: the segments of 64 KB that the kernel merges, with their headers. Memory that no packet
/// needs is never touched.
const SLOT: usize = 128 << 10;
/// libpcap's number for IP packets without a link header, on Linux.
const DLT_RAW: i32 = 12;
/// The instruction that ends a filter with a constant number of bytes to keep (`BPF_RET | BPF_K`).
const RETURN_CONSTANT: u16 = 0x06;

/// Now, by the clock that libpcap also goes by.
fn since_1970() -> Timestamp {
    Timestamp::ZERO + SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A live capture through a packet socket.
pub(super) struct RawCapture {
    socket: Socket,
    device: String,
    pub(super) index: u32,
    pub(super) link: LinkType,
    pub(super) fanout_group: Option<u16>,
    inbound_only: bool,
    /// What to take from the start on, while the group is being made.
    held: Option<CaptureConfig>,
    /// Each of `headers` points to the entries of the others with its index: set up once.
    headers: Box<[libc::mmsghdr; BATCH]>,
    addresses: Box<[libc::sockaddr_ll; BATCH]>,
    buffers: Box<[libc::iovec; BATCH]>,
    slots: Box<[u8]>,
    totals: CaptureStats,
}

// SAFETY: the raw pointers go to the boxes beside them, which move with the struct.
unsafe impl Send for RawCapture {}

impl RawCapture {
    pub(super) fn open(config: &CaptureConfig) -> Result<Self, CaptureError> {
        let device = config.device.clone();
        let index = index_of(&device)?;
        let to_open_error = |e: io::Error| open_error(&device, &e);
        // The frames of `lo` begin with an Ethernet header, too.
        let is_ethernet = index != 0 && hardware(&device).map_err(to_open_error)? != Hardware::Other;
        let (kind, link) = if is_ethernet { (Type::RAW, LinkType::Ethernet) } else { (Type::DGRAM, LinkType::Raw) };
        // Protocol 0 takes no packets yet.
        let socket = Socket::new(Domain::PACKET, kind, Some(Protocol::from(0))).map_err(to_open_error)?;
        let fd = socket.as_raw_fd();
        socket.set_nonblocking(true).map_err(to_open_error)?;
        if !config.filter.is_empty() {
            attach_filter(fd, config, link)?;
        }
        if config.fanout.is_some() {
            let nothing = CaptureConfig { filter: NOTHING.to_owned(), behind_tags: false, ..config.clone() };
            attach_filter(fd, &nothing, link)?;
        }
        grow_receive_buffer(&socket, config.buffer_bytes);
        if config.inbound_only {
            // An old kernel does not have it; `drain` looks itself.
            let _ = set_packet_option(fd, PACKET_IGNORE_OUTGOING, &1);
        }
        if config.promiscuous && index != 0 {
            let membership = libc::packet_mreq {
                mr_ifindex: index.cast_signed(),
                mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
                mr_alen: 0,
                mr_address: [0; 8],
            };
            set_packet_option(fd, libc::PACKET_ADD_MEMBERSHIP, &membership).map_err(to_open_error)?;
        }
        bind(fd, index).map_err(to_open_error)?;
        // A device that is down says so here.
        if let Some(e) = socket.take_error().map_err(to_open_error)? {
            return Err(to_open_error(e));
        }
        let fanout_group = config
            .fanout
            .map(|fanout| join_fanout(fd, fanout, config.inbound_only))
            .transpose()
            .map_err(|e| CaptureError::Fanout { device: device.clone(), reason: e.to_string() })?;

        let mut slots = vec![0; BATCH * SLOT].into_boxed_slice();
        // SAFETY: all-zero bytes are valid for these C structs: null pointers, lengths of zero.
        let mut headers: Box<[libc::mmsghdr; BATCH]> = unsafe { Box::new(zeroed()) };
        // SAFETY: as above.
        let mut buffers: Box<[libc::iovec; BATCH]> = unsafe { Box::new(zeroed()) };
        // SAFETY: as above.
        let mut addresses: Box<[libc::sockaddr_ll; BATCH]> = unsafe { Box::new(zeroed()) };
        for (((header, buffer), address), slot) in
            headers.iter_mut().zip(buffers.iter_mut()).zip(addresses.iter_mut()).zip(slots.chunks_exact_mut(SLOT))
        {
            *buffer = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: SLOT.min(config.snaplen) };
            header.msg_hdr.msg_name = (&raw mut *address).cast();
            header.msg_hdr.msg_iov = buffer;
            header.msg_hdr.msg_iovlen = 1;
        }
        Ok(Self {
            socket,
            device,
            index,
            link,
            fanout_group,
            inbound_only: config.inbound_only,
            held: config.fanout.map(|_| config.clone()),
            headers,
            addresses,
            buffers,
            slots,
            totals: CaptureStats::default(),
        })
    }

    /// See [`Capture::start`](super::Capture::start).
    pub(super) fn start(&mut self) -> Result<(), CaptureError> {
        let (fd, link) = (self.socket.as_raw_fd(), self.link);
        self.held.take().map_or(Ok(()), |config| attach_filter(fd, &config, link))
    }

    /// The time of each packet is that of the batch it was read with: the socket is asked for none.
    pub(super) fn drain(
        &mut self,
        budget: usize,
        mut each: impl FnMut(&[u8], usize, Timestamp),
    ) -> Result<Drained, CaptureError> {
        let mut count = 0;
        while count < budget {
            let received = match self.receive(BATCH.min(budget - count)) {
                Ok(received) => received,
                Err(e) => match e.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    Some(libc::EAGAIN) => return Ok(Drained { count, more: false }),
                    _ => return Err(CaptureError::DeviceLost { device: self.device.clone(), reason: e.to_string() }),
                },
            };
            let read_at = since_1970();
            for i in 0..received {
                // With MSG_TRUNC this is the packet's length, however much of it there was room for.
                let wire_len = self.headers[i].msg_len as usize;
                let room = self.room(i);
                if self.is_wanted(&self.addresses[i]) {
                    each(&self.slots[i * SLOT..][..wire_len.min(room)], wire_len, read_at);
                }
            }
            count += received;
        }
        Ok(Drained { count, more: true })
    }

    /// Reads up to `count` packets into the slots.
    fn receive(&mut self, count: usize) -> io::Result<usize> {
        for header in &mut self.headers[..count] {
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        }
        // SAFETY: the first `count` headers, of BATCH, point to buffers and addresses that self owns, with their sizes.
        let received = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT | libc::MSG_TRUNC,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// Bytes that a slot takes.
    fn room(&self, i: usize) -> usize {
        self.buffers[i].iov_len
    }

    /// Whether a packet is one for the caller: not of ours where only others' are wanted, and one of IP where nothing in
    /// its bytes tells.
    fn is_wanted(&self, address: &libc::sockaddr_ll) -> bool {
        let protocol = u16::from_be(address.sll_protocol);
        let is_outgoing = address.sll_pkttype == libc::PACKET_OUTGOING;
        let is_ip = matches!(protocol, ETHERTYPE_IPV4 | ETHERTYPE_IPV6);
        !(self.inbound_only && is_outgoing) && (self.link == LinkType::Ethernet || is_ip)
    }

    pub(super) fn stats(&mut self) -> CaptureStats {
        // SAFETY: all-zero bytes are a valid tpacket_stats.
        let mut now: libc::tpacket_stats = unsafe { zeroed() };
        let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes, the size of `now`; both live during the call.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut now).cast(),
                &raw mut len,
            )
        };
        // Each look sets the kernel's counters back to zero. What the device itself lost they do not tell.
        if result == 0 {
            let (received, dropped) = (now.tp_packets.into(), now.tp_drops.into());
            self.totals += CaptureStats { received, dropped, interface_dropped: 0 };
        }
        self.totals
    }
}

impl AsRawFd for RawCapture {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Compiles the configuration's filter for packets as the socket shows them, and attaches it.
fn attach_filter(fd: RawFd, config: &CaptureConfig, link: LinkType) -> Result<(), CaptureError> {
    let bad_filter = |reason: String| CaptureError::BadFilter { filter: config.filter.clone(), reason };
    let dlt = if link == LinkType::Ethernet { pcap::Linktype::ETHERNET } else { pcap::Linktype(DLT_RAW) };
    let compiler = pcap::Capture::dead(dlt).map_err(|e| bad_filter(pcap_text(e)))?;
    let mut program = compiler.compile(&config.filter, true).map_err(|e| bad_filter(pcap_text(e)))?;
    if config.behind_tags && !config.filter.is_empty() && link == LinkType::Ethernet {
        let tagged = compiler.compile(&behind_tags(&config.filter), true);
        if let Some(tagged) = tagged.ok().filter(|p| p.get_instructions().len() <= MAX_FILTER_INSTRUCTIONS) {
            program = tagged;
        }
    }
    let instructions = program.get_instructions();
    if instructions.len() > MAX_FILTER_INSTRUCTIONS {
        return Err(bad_filter(format!(
            "it has {} instructions, and the kernel takes {MAX_FILTER_INSTRUCTIONS}; capture through libpcap instead",
            instructions.len()
        )));
    }
    // SAFETY: a BpfInstruction is, transparently, a `struct bpf_insn` of libpcap, which has the members of the kernel's
    // `struct sock_filter` in their order: u16, u8, u8, u32.
    let instructions =
        unsafe { std::slice::from_raw_parts(instructions.as_ptr().cast::<libc::sock_filter>(), instructions.len()) };
    let mut instructions = instructions.to_vec();
    for instruction in &mut instructions {
        if instruction.code == RETURN_CONSTANT && instruction.k != 0 {
            // libpcap has put the snap length of its compiler here.
            instruction.k = config.snaplen as u32;
        }
    }
    let program = libc::sock_fprog { len: instructions.len() as libc::c_ushort, filter: instructions.as_mut_ptr() };
    set_option(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program).map_err(|e| bad_filter(e.to_string()))
}

/// Begins to take the packets of a device, or of all when the number is zero.
fn bind(fd: RawFd, index: u32) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index.cast_signed();
    // SAFETY: the address lives during the call and has the size that is given.
    let result =
        unsafe { libc::bind(fd, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
