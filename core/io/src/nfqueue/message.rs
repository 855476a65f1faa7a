//! The messages of NFQUEUE: netlink(7) around `nfnetlink_queue` (linux/netfilter/nfnetlink_queue.h).
//!
//! ```text
//! nlmsghdr: length u32, type u16, flags u16, sequence u32, port u32          in the host's byte order
//! nfgenmsg: family u8, version u8, queue u16                                 from here on big-endian
//! attributes: length u16, type u16 (both in the host's order), value, padding to four bytes
//! ```

/// Bytes of a netlink header.
pub(super) const HEADER: usize = 16;
/// Bytes of a netlink header and the netfilter header behind it.
pub(super) const FAMILY_HEADER: usize = HEADER + 4;
/// Bytes of an attribute's header.
const ATTRIBUTE_HEADER: usize = 4;

const MESSAGE_PACKET: u16 = message_type(libc::NFQNL_MSG_PACKET);
const MESSAGE_CONFIG: u16 = message_type(libc::NFQNL_MSG_CONFIG);
const MESSAGE_VERDICT_BATCH: u16 = message_type(libc::NFQNL_MSG_VERDICT_BATCH);
const MESSAGE_ERROR: u16 = libc::NLMSG_ERROR as u16;

/// What an attribute's type is without the bits for nesting and byte order.
const ATTRIBUTE_TYPE: u16 = 0x3fff;
/// Most bytes of a packet that fit into an attribute.
pub(super) const MAX_COPY: u32 = 0xffff - ATTRIBUTE_HEADER as u32;

const fn message_type(message: libc::c_int) -> u16 {
    (libc::NFNL_SUBSYS_QUEUE as u16) << 8 | message as u16
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes its way.
    Accept,
    /// It is gone.
    Drop,
}

impl Verdict {
    const fn number(self) -> u32 {
        match self {
            Self::Accept => libc::NF_ACCEPT as u32,
            Self::Drop => libc::NF_DROP as u32,
        }
    }
}

/// A message from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// A packet waits for its verdict.
    Packet {
        /// Its number; they are given one after the other.
        id: u32,
        /// What was copied of it, from the IP header on.
        bytes: &'a [u8],
        /// Its length, in bytes.
        len: usize,
    },
    /// The answer to one of our messages: zero, or what was wrong with it (errno).
    Answer(i32),
    /// Anything else.
    Other,
}

/// The messages in one datagram. What is cut off or contradicts itself ends them.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let len = u32_at(rest, 0)? as usize;
        let kind = u16_at(rest, 4)?;
        if len < HEADER {
            return None;
        }
        // A packet whose copy was cut off still has its number in front, and must get its verdict.
        let message = &rest[..len.min(rest.len())];
        rest = rest.get(padded(len)..).unwrap_or_default();
        Some(match kind {
            MESSAGE_PACKET => packet(message).unwrap_or(Message::Other),
            // The error is the negative number of errno.
            MESSAGE_ERROR => u32_at(message, HEADER).map_or(Message::Other, |e| Message::Answer(-e.cast_signed())),
            _ => Message::Other,
        })
    })
}

fn packet(message: &[u8]) -> Option<Message<'_>> {
    let (mut id, mut bytes, mut copied, mut whole_len) = (None, &[][..], 0, None);
    let mut rest = message.get(FAMILY_HEADER..)?;
    while let (Some(len), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let len = usize::from(len);
        if len < ATTRIBUTE_HEADER {
            break;
        }
        let value = &rest[ATTRIBUTE_HEADER.min(rest.len())..len.min(rest.len())];
        match libc::c_int::from(kind & ATTRIBUTE_TYPE) {
            libc::NFQA_PACKET_HDR => id = be32_at(value, 0),
            libc::NFQA_PAYLOAD => {
                bytes = value;
                copied = len - ATTRIBUTE_HEADER;
            }
            libc::NFQA_CAP_LEN => whole_len = be32_at(value, 0),
            _ => {}
        }
        rest = rest.get(padded(len)..).unwrap_or_default();
    }
    // The length is told apart only when the copy is shorter.
    let len = whole_len.map_or(copied, |len| len as usize).max(copied);
    Some(Message::Packet { id: id?, bytes, len })
}

/// How a queue begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begin {
    pub(super) queue: u16,
    /// Packets that may wait for a verdict.
    pub(super) length: u32,
    /// Bytes copied of each.
    pub(super) copy_bytes: u32,
    /// `NFQA_CFG_F_*`.
    pub(super) flags: u32,
}

/// Binds a queue and says how, in one message, so that no packet is queued under other terms. The kernel answers it.
pub(super) fn begin(begin: Begin) -> Vec<u8> {
    let mut message = Builder::new(MESSAGE_CONFIG, libc::NLM_F_REQUEST | libc::NLM_F_ACK, begin.queue);
    // nfqnl_msg_config_cmd: command, padding, and a protocol family that means nothing any more.
    message.attribute(libc::NFQA_CFG_CMD, &[libc::NFQNL_CFG_CMD_BIND as u8, 0, 0, 0]);
    message.attribute(libc::NFQA_CFG_PARAMS, &parameters(begin.copy_bytes));
    message.attribute(libc::NFQA_CFG_QUEUE_MAXLEN, &begin.length.to_be_bytes());
    message.attribute(libc::NFQA_CFG_MASK, &begin.flags.to_be_bytes());
    message.attribute(libc::NFQA_CFG_FLAGS, &begin.flags.to_be_bytes());
    message.bytes
}

/// Changes how much of each packet is copied. The kernel answers only when it refuses.
pub(super) fn copy_range(queue: u16, copy_bytes: u32) -> Vec<u8> {
    let mut message = Builder::new(MESSAGE_CONFIG, libc::NLM_F_REQUEST, queue);
    message.attribute(libc::NFQA_CFG_PARAMS, &parameters(copy_bytes));
    message.bytes
}

/// nfqnl_msg_config_params.
fn parameters(copy_bytes: u32) -> [u8; 5] {
    let [a, b, c, d] = copy_bytes.min(MAX_COPY).to_be_bytes();
    [a, b, c, d, libc::NFQNL_COPY_PACKET as u8]
}

/// Adds a verdict on all packets up to `last_id` that have none yet. The kernel answers only when it refuses.
pub(super) fn push_verdict(to: &mut Vec<u8>, queue: u16, last_id: u32, verdict: Verdict) {
    let mut message = Builder::behind(std::mem::take(to), MESSAGE_VERDICT_BATCH, libc::NLM_F_REQUEST, queue);
    // nfqnl_msg_verdict_hdr: verdict, number.
    let value = u64::from(verdict.number()) << 32 | u64::from(last_id);
    message.attribute(libc::NFQA_VERDICT_HDR, &value.to_be_bytes());
    *to = message.bytes;
}

/// A message that grows at the end of a buffer.
struct Builder {
    bytes: Vec<u8>,
    start: usize,
}

impl Builder {
    fn new(kind: u16, flags: libc::c_int, queue: u16) -> Self {
        Self::behind(Vec::with_capacity(64), kind, flags, queue)
    }

    fn behind(mut bytes: Vec<u8>, kind: u16, flags: libc::c_int, queue: u16) -> Self {
        let start = bytes.len();
        bytes.extend_from_slice(&(FAMILY_HEADER as u32).to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags as u16).to_ne_bytes());
        // Sequence number and port: nobody asks which answer belongs to which message.
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&[libc::AF_UNSPEC as u8, libc::NFNETLINK_V0 as u8]);
        bytes.extend_from_slice(&queue.to_be_bytes());
        Self { bytes, start }
    }

    fn attribute(&mut self, kind: libc::c_int, value: &[u8]) {
        self.bytes.extend_from_slice(&((ATTRIBUTE_HEADER + value.len()) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&(kind as u16).to_ne_bytes());
        self.bytes.extend_from_slice(value);
        let len = padded(self.bytes.len() - self.start);
        self.bytes.resize(self.start + len, 0);
        self.bytes[self.start..self.start + 4].copy_from_slice(&(len as u32).to_ne_bytes());
    }
}

const fn padded(len: usize) -> usize {
    len.saturating_add(3) & !3
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn be32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
