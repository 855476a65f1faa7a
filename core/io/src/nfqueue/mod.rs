//! Packets of this host that a firewall rule hands to a program (`-j NFQUEUE`), and the program's verdicts on them.
//!
//! A netlink socket of `nfnetlink_queue`. The kernel keeps each packet until its verdict and numbers packets one after the
//! other, also those that do not fit into the socket's receive buffer any more; the gaps tell how many these were.
//! Verdicts are given for whole runs of packets: all that wait up to a number get the same one.
//!
//! The queue *fails open*: a packet that finds the queue or the receive buffer full goes its way unseen
//! (`NFQA_CFG_F_FAIL_OPEN`), as does every packet while nobody has bound the queue, if the rule says `--queue-bypass`.
//! Segments that the card would cut come in one piece (`NFQA_CFG_F_GSO`), with their checksum still to be made.
#![allow(unsafe_code)]

mod message;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use crate::capture::Drained;
use crate::process::{self, Capability};
use crate::socket::{grow_receive_buffer, set_option};
use message::{Begin, Message};

pub use message::Verdict;

/// Datagrams read in one call at most.
const BATCH: usize = 64;
/// Room in front of a packet for everything else that the kernel says about it.
const ATTRIBUTES_ROOM: usize = 512;
/// Bytes of verdicts that the kernel did not take, above which no more packets are read.
const MAX_UNSENT: usize = 64 << 10;

/// The queue to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// Its number, `--queue-num` of the rule.
    pub number: u16,
    /// Packets that may wait for a verdict.
    pub length: u32,
    /// Bytes copied of each packet at most.
    pub copy_bytes: usize,
    /// Size of the receive buffer, in bytes.
    pub buffer_bytes: usize,
}

/// Why a queue cannot be read.
#[derive(Debug)]
pub enum QueueError {
    /// The process may not.
    NoPermission,
    /// Somebody reads it already.
    Taken {
        /// The queue.
        number: u16,
        /// Who, as far as it can be found out.
        by: Option<Holder>,
    },
    /// The kernel has no queues.
    NotInKernel {
        /// The kernel's words.
        source: io::Error,
    },
    /// The kernel refuses it for another reason.
    Refused {
        /// The queue.
        number: u16,
        /// The kernel's words.
        source: io::Error,
    },
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPermission => write!(f, "no permission to read NFQUEUE: {}", Capability::NetAdmin.remedy()),
            Self::Taken { number, by } => {
                write!(f, "NFQUEUE {number} is read already")?;
                if let Some(by) = by {
                    write!(f, " by {by}")?;
                }
                write!(f, "; stop that one, or use another number here and in the rules (--queue-num)")
            }
            Self::NotInKernel { source } => write!(
                f,
                "this kernel has no NFQUEUE ({source}): load it with `modprobe nfnetlink_queue`; a kernel of one's own needs \
                 CONFIG_NETFILTER_NETLINK_QUEUE and CONFIG_NETFILTER_XT_TARGET_NFQUEUE"
            ),
            Self::Refused { number, source } => write!(f, "the kernel refuses NFQUEUE {number}: {source}"),
        }
    }
}

impl std::error::Error for QueueError {}

/// The process that reads a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.name)
    }
}

/// Counters of one queue, since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Packets that were read.
    pub packets: u64,
    /// Those of them that go their way.
    pub accepted: u64,
    /// Those of them that are gone.
    pub dropped: u64,
    /// Packets that found the receive buffer full: they went their way unseen.
    pub unseen: u64,
    /// Times that the kernel said so (`ENOBUFS`).
    pub overruns: u64,
    /// Verdicts or settings that the kernel did not take.
    pub refused: u64,
    /// Packets that the kernel dropped because the queue was full; only where it cannot fail open.
    pub kernel_queue_full: u64,
    /// Packets that the kernel dropped because the receive buffer was full; only where it cannot fail open.
    pub kernel_buffer_full: u64,
    /// Packets that wait for a verdict now.
    pub waiting: u64,
}

/// A queue that is being read. It never blocks: wait for its file descriptor to become readable, then drain it until it is
/// empty. When it is closed the kernel drops what still waits.
pub struct Queue {
    socket: Socket,
    number: u16,
    /// Room for each datagram of a batch, one behind the other.
    buffer: Vec<u8>,
    slot: usize,
    /// Messages with verdicts that are to be sent.
    verdicts: Vec<u8>,
    /// The number of the packet that was read last.
    last_id: u32,
    told: bool,
    stats: QueueStats,
    table: QueueTable,
}

impl Queue {
    /// Binds a queue; packets are collected from now on.
    ///
    /// # Errors
    /// Why it cannot be read; see [`QueueError`].
    pub fn open(config: &QueueConfig) -> Result<Self, QueueError> {
        let number = config.number;
        let refused = |source| QueueError::Refused { number, source };
        let kind = Type::RAW.nonblocking().cloexec();
        let protocol = Some(Protocol::from(libc::NETLINK_NETFILTER));
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), kind, protocol).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => QueueError::NotInKernel { source },
                _ => refused(source),
            }
        })?;
        grow_receive_buffer(&socket, config.buffer_bytes);
        let on: libc::c_int = 1;
        // Otherwise a buffer that was full once takes nothing more until it has been read empty. The gaps between the
        // packets' numbers tell more than the error would.
        let _ = set_option(socket.as_raw_fd(), libc::SOL_NETLINK, libc::NETLINK_NO_ENOBUFS, &on);
        let mut queue = Self {
            socket,
            number,
            buffer: Vec::new(),
            slot: 0,
            verdicts: Vec::new(),
            last_id: 0,
            told: false,
            stats: QueueStats::default(),
            table: QueueTable(None),
        };
        queue.make_room(config.copy_bytes);
        let begin = message::begin(Begin {
            queue: number,
            length: config.length,
            copy_bytes: u32::try_from(config.copy_bytes).unwrap_or(u32::MAX),
            flags: (libc::NFQA_CFG_F_FAIL_OPEN | libc::NFQA_CFG_F_GSO) as u32,
        });
        queue.socket.send(&begin).and_then(|_| queue.answer()).map_err(|source| match source.raw_os_error() {
            // The kernel says EPERM for both. Who is not root may not see who has the queue.
            Some(libc::EPERM | libc::EBUSY) if is_taken(number) => QueueError::Taken { number, by: holder(number) },
            Some(libc::EPERM) if !process::has_capability(Capability::NetAdmin) => QueueError::NoPermission,
            Some(libc::EPERM | libc::EBUSY) if fs::File::open(TABLE).is_err() => QueueError::Taken { number, by: None },
            Some(libc::EPERM) => QueueError::NoPermission,
            // No subsystem of this name, and none that could be loaded.
            Some(libc::EINVAL | libc::EOPNOTSUPP) => QueueError::NotInKernel { source },
            _ => refused(source),
        })?;
        // Not before: the kernel may have loaded the module for the first question.
        queue.table = QueueTable::open();
        Ok(queue)
    }

    /// What the kernel tells about this queue and others.
    pub fn table(&self) -> &QueueTable {
        &self.table
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Hands over up to about `budget` packets, each with what was copied of it, from the IP header on, and its length in
    /// bytes; `each` judges it. When `more` is false the queue is empty, and the file descriptor will report the next
    /// packet.
    ///
    /// # Errors
    /// When the socket does not work any more.
    #[inline]
    pub fn drain(&mut self, budget: usize, mut each: impl FnMut(&[u8], usize) -> Verdict) -> io::Result<Drained> {
        let mut count = 0;
        while count < budget {
            if self.verdicts.len() > MAX_UNSENT && !self.send_verdicts() {
                return Ok(Drained { count, more: true });
            }
            let (lens, received) = match self.receive() {
                Ok(received) => received,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Drained { count, more: false }),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.stats.overruns += 1;
                    continue;
                }
                Err(e) => return Err(e),
            };
            count += self.judge(&lens[..received], &mut each);
            self.send_verdicts();
        }
        Ok(Drained { count, more: true })
    }

    /// Has as much of each packet copied from now on.
    ///
    /// # Errors
    /// When the kernel does not take the message.
    pub fn set_copy_bytes(&mut self, bytes: usize) -> io::Result<()> {
        self.socket.send(&message::copy_range(self.number, u32::try_from(bytes).unwrap_or(u32::MAX)))?;
        self.make_room(bytes);
        Ok(())
    }

    /// The counters.
    pub fn stats(&mut self) -> QueueStats {
        if let Some(line) = self.table.line(self.number) {
            self.stats.kernel_queue_full = line.queue_dropped;
            self.stats.kernel_buffer_full = line.user_dropped;
            self.stats.waiting = line.waiting;
        }
        self.stats
    }

    fn make_room(&mut self, copy_bytes: usize) {
        self.slot = copy_bytes.min(message::MAX_COPY as usize) + ATTRIBUTES_ROOM;
        self.buffer.resize(self.slot * BATCH, 0);
    }

    /// Waits for the kernel's answer to the first message, which is there when the message was sent. Packets that come
    /// before it go their way.
    fn answer(&mut self) -> io::Result<()> {
        loop {
            let (lens, received) = self.receive()?;
            let mut answer = None;
            for (slot, len) in self.buffer.chunks(self.slot).zip(&lens[..received]) {
                for message in message::messages(&slot[..*len]) {
                    match message {
                        Message::Answer(errno) => answer = Some(errno),
                        Message::Packet { id, .. } => {
                            self.stats.packets += 1;
                            self.stats.accepted += 1;
                            self.last_id = id;
                            message::push_verdict(&mut self.verdicts, self.number, id, Verdict::Accept);
                        }
                        Message::Other => {}
                    }
                }
            }
            match answer {
                Some(0) => {
                    self.send_verdicts();
                    return Ok(());
                }
                Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
                None => {}
            }
        }
    }

    /// Reads up to a batch of datagrams; returns their lengths and how many they are.
    #[inline]
    fn receive(&mut self) -> io::Result<([usize; BATCH], usize)> {
        // SAFETY: all-zero bytes are valid for these C structs: null pointers, lengths of zero.
        let (mut headers, mut parts): ([libc::mmsghdr; BATCH], [libc::iovec; BATCH]) = unsafe { (zeroed(), zeroed()) };
        for ((header, part), slot) in headers.iter_mut().zip(&mut parts).zip(self.buffer.chunks_mut(self.slot)) {
            *part = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() };
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: each header points to one of `parts`, and that to a part of `buffer` of its own; all live during the
        // call. The time-out may be null.
        let received = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        Ok((headers.map(|header| (header.msg_len as usize).min(self.slot)), received))
    }

    /// Judges the packets of a batch; returns how many they are.
    #[inline]
    fn judge(&mut self, lens: &[usize], each: &mut impl FnMut(&[u8], usize) -> Verdict) -> usize {
        let (mut count, mut run) = (0, None);
        for (slot, len) in self.buffer.chunks(self.slot).zip(lens) {
            for message in message::messages(&slot[..*len]) {
                let (id, bytes, len) = match message {
                    Message::Packet { id, bytes, len } => (id, bytes, len),
                    Message::Answer(0) | Message::Other => continue,
                    Message::Answer(errno) => {
                        self.stats.refused += 1;
                        if !std::mem::replace(&mut self.told, true) {
                            let e = io::Error::from_raw_os_error(errno);
                            log::warn!("the kernel did not take a verdict on packets of NFQUEUE {}: {e}", self.number);
                        }
                        continue;
                    }
                };
                count += 1;
                self.stats.unseen += u64::from(id.wrapping_sub(self.last_id).wrapping_sub(1));
                self.last_id = id;
                let verdict = each(bytes, len);
                match verdict {
                    Verdict::Accept => self.stats.accepted += 1,
                    Verdict::Drop => self.stats.dropped += 1,
                }
                if let Some((last, of_run)) = run
                    && of_run != verdict
                {
                    message::push_verdict(&mut self.verdicts, self.number, last, of_run);
                }
                run = Some((id, verdict));
            }
        }
        if let Some((last, verdict)) = run {
            message::push_verdict(&mut self.verdicts, self.number, last, verdict);
        }
        self.stats.packets += count as u64;
        count
    }

    /// Sends the verdicts; whether the kernel took them. What it does not take is sent again, because the next run's verdict
    /// would be given to this one's packets.
    fn send_verdicts(&mut self) -> bool {
        if self.verdicts.is_empty() {
            return true;
        }
        match self.socket.send(&self.verdicts) {
            Ok(_) => {
                self.verdicts.clear();
                true
            }
            Err(e) => {
                self.stats.refused += 1;
                if !std::mem::replace(&mut self.told, true) {
                    log::warn!("verdicts on packets of NFQUEUE {} could not be sent yet: {e}", self.number);
                }
                false
            }
        }
    }
}

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// What the kernel tells about its queues

/// A line of `/proc/net/netfilter/nfnetlink_queue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct QueueLine {
    number: u16,
    /// The netlink port of the socket that reads it: for a process's first such socket its process id.
    port: u32,
    waiting: u64,
    queue_dropped: u64,
    user_dropped: u64,
    /// Packets that have been given a number.
    numbered: u32,
}

/// The table of this thread's network namespace.
const TABLE: &str = "/proc/thread-self/net/netfilter/nfnetlink_queue";

/// Its lines; none where it cannot be read.
fn table() -> String {
    fs::read_to_string(TABLE).unwrap_or_default()
}

/// `number port waiting copy-mode copy-range queue-dropped user-dropped last-id 1`
fn parse_line(line: &str) -> Option<QueueLine> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let count = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(QueueLine {
        number: fields.first()?.parse().ok()?,
        // Ports that are no process ids are negative numbers to some kernels.
        port: fields.get(1)?.parse::<i64>().ok()? as u32,
        waiting: count(2)?,
        queue_dropped: count(5)?,
        user_dropped: count(6)?,
        numbered: fields.get(7)?.parse().ok()?,
    })
}

/// Whether somebody reads a queue of this network namespace.
pub fn is_taken(number: u16) -> bool {
    table().lines().filter_map(parse_line).any(|line| line.number == number)
}

/// The kernel's table of the queues of a network namespace, kept open: only root may open it, and a process may stop being
/// root.
#[derive(Clone, Debug)]
pub struct QueueTable(Option<Arc<File>>);

impl QueueTable {
    /// The table of this thread's network namespace; an empty one where it cannot be read.
    pub fn open() -> Self {
        Self(File::open(TABLE).ok().map(Arc::new))
    }

    /// Packets that a queue has taken since somebody reads it, modulo 2^32; `None` when nobody does.
    pub fn queued(&self, number: u16) -> Option<u32> {
        self.line(number).map(|line| line.numbered)
    }

    fn line(&self, number: u16) -> Option<QueueLine> {
        self.text().lines().filter_map(parse_line).find(|line| line.number == number)
    }

    fn text(&self) -> String {
        let mut text = Vec::new();
        let mut bytes = [0; 4096];
        // From the beginning each time, and without a position that others who read it could move.
        while let Some(Ok(n @ 1..)) = self.0.as_ref().map(|file| file.read_at(&mut bytes, text.len() as u64)) {
            text.extend_from_slice(&bytes[..n]);
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// Who reads a queue, if the process can be found.
fn holder(number: u16) -> Option<Holder> {
    let line = table().lines().filter_map(parse_line).find(|line| line.number == number)?;
    process_with(&socket_inode(line.port)?)
}

/// The inode of the netfilter socket with this netlink port.
fn socket_inode(port: u32) -> Option<String> {
    let sockets = fs::read_to_string("/proc/thread-self/net/netlink").ok()?;
    // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
    sockets.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it =
            fields.get(1)?.parse() == Ok(libc::NETLINK_NETFILTER) && fields.get(2)?.parse::<i64>().ok()? as u32 == port;
        is_it.then(|| fields.last().map(ToString::to_string)).flatten()
    })
}

/// The process that has a socket open.
fn process_with(inode: &str) -> Option<Holder> {
    let socket = format!("socket:[{inode}]");
    let has_it = |pid: &u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        descriptors.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|to| to.as_os_str() == socket.as_str())
    };
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pid = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(has_it)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(Holder { pid, name: name.trim().to_owned() })
}
