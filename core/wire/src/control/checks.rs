//! What a tcpcopy asks of intercept's host, and what it is told: `tcpcopy doctor` looks at both ends of the link.

use std::net::{IpAddr, Ipv6Addr};

use byteorder::{BigEndian, ByteOrder};

use super::DecodeError;
use super::frame::{
    FRAME_HEADER_LEN, Kind, MAX_QUESTIONS, MAX_REPORT_DEVICES, MAX_REPORT_FILTER, MAX_REPORT_VERSION, QUESTION_LEN,
    REPORT_ANSWER_LEN, REPORT_FIXED_LEN,
};
use crate::address::{Endpoint, Flow, Port};
use crate::ip::{PROTOCOL_TCP, PROTOCOL_UDP, Transport};

const NOT_KNOWN: u8 = 0xff;
const SERVER_IS_LOCAL: u8 = 1;

/// What would become of the packets of a flow at intercept?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Over what.
    pub transport: Transport,
    /// The flow of a copy: client is the copy's source, server the target.
    pub flow: Flow,
}

/// What the kernel of intercept's host does with a packet, as far as its routes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fate {
    /// It is for this host.
    Delivered = 0,
    /// It is not, and goes no further.
    Dropped = 1,
    /// It is sent on.
    Forwarded = 2,
    /// It would be sent on, and there is no route: its sender hears that.
    NoRoute = 3,
    /// The reverse path filter (rp_filter) drops it: its source address is not behind the device that it comes from.
    ReversePath = 4,
    /// It could not be found out.
    Unknown = NOT_KNOWN,
}

impl Fate {
    const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Delivered,
            1 => Self::Dropped,
            2 => Self::Forwarded,
            3 => Self::NoRoute,
            4 => Self::ReversePath,
            _ => Self::Unknown,
        }
    }
}

/// The answer to a [`Question`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether intercept's filter, or the rules of its queue, take what the server sends to the client; `None`: unknown.
    pub is_seen: Option<bool>,
    /// Whether the server's address is one of intercept's host.
    pub server_is_local: bool,
    /// Where the server is local: what becomes of the client's packets, coming from where this tcpcopy is. Elsewhere: what
    /// becomes of the server's packets.
    pub fate: Fate,
}

/// What intercept tells of itself and of its host, when it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostReport<'a> {
    /// Its clock, in nanoseconds since 1970.
    pub clock: u64,
    /// Frames that it has captured since its start.
    pub frames_captured: u64,
    /// Frames that the kernel dropped before it could read them.
    pub kernel_drops: u64,
    /// It reads a queue (NFQUEUE), and captures nothing.
    pub reads_queue: bool,
    /// Whether its host forwards IPv4 packets; `None`: unknown.
    pub forwards_ipv4: Option<bool>,
    /// Whether its host forwards IPv6 packets.
    pub forwards_ipv6: Option<bool>,
    /// Its release.
    pub version: &'a str,
    /// The devices that it captures on, separated by commas; or the number of the queue.
    pub devices: &'a str,
    /// Its capture filter.
    pub filter: &'a str,
    /// One for each question, in their order.
    pub answers: Answers<'a>,
}

/// The questions of a frame.
#[derive(Clone, Debug)]
pub struct Questions<'a> {
    body: &'a [u8],
}

impl<'a> Questions<'a> {
    pub(super) fn checked(body: &'a [u8]) -> Result<Self, DecodeError> {
        let is_known = |entry: &[u8]| matches!(entry[0], PROTOCOL_TCP | PROTOCOL_UDP);
        if body.chunks(QUESTION_LEN).all(is_known) {
            Ok(Self { body })
        } else {
            Err(DecodeError::Length { kind: Kind::Questions, len: body.len() })
        }
    }
}

impl Iterator for Questions<'_> {
    type Item = Question;

    fn next(&mut self) -> Option<Question> {
        let (e, rest) = self.body.split_first_chunk::<QUESTION_LEN>()?;
        self.body = rest;
        let transport = if e[0] == PROTOCOL_UDP { Transport::Udp } else { Transport::Tcp };
        let endpoint = |e: &[u8]| {
            let addr = IpAddr::V6(Ipv6Addr::from(BigEndian::read_u128(e))).to_canonical();
            Endpoint::new(addr, Port(BigEndian::read_u16(&e[16..])))
        };
        Some(Question { transport, flow: Flow { client: endpoint(&e[2..20]), server: endpoint(&e[20..38]) } })
    }
}

/// The answers of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers<'a> {
    bytes: &'a [u8],
}

impl Iterator for Answers<'_> {
    type Item = Answer;

    fn next(&mut self) -> Option<Answer> {
        let (e, rest) = self.bytes.split_first_chunk::<REPORT_ANSWER_LEN>()?;
        self.bytes = rest;
        Some(Answer { is_seen: known(e[0]), fate: Fate::from_byte(e[1]), server_is_local: e[2] & SERVER_IS_LOCAL != 0 })
    }
}

impl<'a> HostReport<'a> {
    pub(super) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let wrong = DecodeError::Length { kind: Kind::HostReport, len: body.len() };
        let Some((fixed, rest)) = body.split_first_chunk::<REPORT_FIXED_LEN>() else { return Err(wrong) };
        let answers = usize::from(fixed[27]);
        if answers > MAX_QUESTIONS {
            return Err(wrong);
        }
        let Some((answers, mut rest)) = rest.split_at_checked(answers * REPORT_ANSWER_LEN) else { return Err(wrong) };
        let mut text = |limit: usize| {
            let (len, behind) = rest.split_first_chunk::<2>().ok_or(wrong.clone())?;
            let len = usize::from(u16::from_be_bytes(*len));
            if len > limit {
                return Err(wrong.clone());
            }
            let (text, behind) = behind.split_at_checked(len).ok_or(wrong.clone())?;
            rest = behind;
            std::str::from_utf8(text).map_err(|_| DecodeError::Text)
        };
        Ok(Self {
            version: text(MAX_REPORT_VERSION)?,
            devices: text(MAX_REPORT_DEVICES)?,
            filter: text(MAX_REPORT_FILTER)?,
            clock: BigEndian::read_u64(fixed),
            frames_captured: BigEndian::read_u64(&fixed[8..]),
            kernel_drops: BigEndian::read_u64(&fixed[16..]),
            reads_queue: fixed[24] == 1,
            forwards_ipv4: known(fixed[25]),
            forwards_ipv6: known(fixed[26]),
            answers: Answers { bytes: answers },
        })
    }
}

/// Appends a frame of questions: the first [`MAX_QUESTIONS`] of them.
pub fn encode_questions(questions: &[Question], out: &mut Vec<u8>) {
    let start = begin(Kind::Questions, out);
    for question in questions.iter().take(MAX_QUESTIONS) {
        let protocol = match question.transport {
            Transport::Tcp => PROTOCOL_TCP,
            Transport::Udp => PROTOCOL_UDP,
        };
        out.extend_from_slice(&[protocol, 0]);
        for end in [question.flow.client, question.flow.server] {
            let addr = match end.addr {
                IpAddr::V4(addr) => addr.to_ipv6_mapped(),
                IpAddr::V6(addr) => addr,
            };
            out.extend_from_slice(&addr.octets());
            out.extend_from_slice(&end.port.0.to_be_bytes());
        }
    }
    end(start, out);
}

/// Appends a report; its texts are cut to their limits, of `answers` the first [`MAX_QUESTIONS`] are taken.
pub fn encode_host_report(report: &HostReport<'_>, answers: &[Answer], out: &mut Vec<u8>) {
    let answers = &answers[..answers.len().min(MAX_QUESTIONS)];
    let start = begin(Kind::HostReport, out);
    for number in [report.clock, report.frames_captured, report.kernel_drops] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    out.push(report.reads_queue.into());
    out.extend([report.forwards_ipv4, report.forwards_ipv6].map(byte_of));
    out.push(answers.len() as u8);
    for answer in answers {
        let flags = if answer.server_is_local { SERVER_IS_LOCAL } else { 0 };
        out.extend_from_slice(&[byte_of(answer.is_seen), answer.fate as u8, flags, 0]);
    }
    let texts = [
        (report.version, MAX_REPORT_VERSION),
        (report.devices, MAX_REPORT_DEVICES),
        (report.filter, MAX_REPORT_FILTER),
    ];
    for (text, limit) in texts {
        let text = super::encode::cut(text, limit);
        out.extend_from_slice(&(text.len() as u16).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    end(start, out);
}

fn begin(kind: Kind, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[kind as u8, 0, 0, 0]);
    start
}

/// Writes the length of the frame that began at `start`. The limits of its parts keep it below a frame's.
fn end(start: usize, out: &mut [u8]) {
    let len = (out.len() - start - FRAME_HEADER_LEN) as u16;
    out[start + 2..start + FRAME_HEADER_LEN].copy_from_slice(&len.to_be_bytes());
}

const fn known(byte: u8) -> Option<bool> {
    match byte {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn byte_of(known: Option<bool>) -> u8 {
    known.map_or(NOT_KNOWN, u8::from)
}

#[cfg(test)]
mod tests;
