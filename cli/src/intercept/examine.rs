//! What `tcpcopy doctor` asks over the control link: what would become of its packets here.
//!
//! Nobody waits long for an answer, and nobody can keep intercept busy with questions: they are answered together, a few
//! times a second, and what does not fit the short queue of them is forgotten.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tcpcopy_engine::PeerId;
use tcpcopy_io::capture::takes;
use tcpcopy_io::firewall::Answers as Rule;
use tcpcopy_io::host::{route, sysctl_number};
use tcpcopy_wire::build::TcpRepr;
use tcpcopy_wire::control::{Answer, Answers, Fate, HostReport, Question};
use tcpcopy_wire::link::{ETHERNET_HEADER_LEN, MacAddress, ethernet_header};
use tcpcopy_wire::tcp::{Flags, Options as TcpOptions};
use tcpcopy_wire::udp::UdpRepr;
use tcpcopy_wire::{SeqNumber, Timestamp, Transport};

use super::options::Options;

/// Shortest time between two looks at the host.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Frames of questions that wait at most.
const WAITING: usize = 32;

/// Questions that wait, and what the answers are made from.
pub(super) struct Examiner {
    filter: String,
    devices: Vec<String>,
    /// The queue's number, and what rules of our own bring to it.
    queue: Option<(u16, Vec<Rule>)>,
    waiting: VecDeque<Asked>,
    next_at: Timestamp,
}

struct Asked {
    peer: PeerId,
    from: SocketAddr,
    questions: Vec<Question>,
}

/// What intercept has captured.
pub(super) struct Captured {
    pub(super) frames: u64,
    pub(super) kernel_drops: u64,
}

impl Examiner {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            filter: options.filter.clone(),
            devices: options.devices.clone(),
            queue: options.queue.as_ref().map(|queue| (queue.number, queue.setup.clone())),
            waiting: VecDeque::new(),
            next_at: Timestamp::ZERO,
        }
    }

    /// Keeps questions of a tcpcopy at `from` until they are answered.
    pub(super) fn take(&mut self, peer: PeerId, from: SocketAddr, questions: Vec<Question>) {
        if self.waiting.len() < WAITING {
            self.waiting.push_back(Asked { peer, from, questions });
        }
    }

    /// Forgets what a tcpcopy has asked that is gone.
    pub(super) fn forget(&mut self, peer: PeerId) {
        self.waiting.retain(|asked| asked.peer != peer);
    }

    /// When questions are to be answered, if there are any.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        (!self.waiting.is_empty()).then_some(self.next_at)
    }

    /// Answers all questions; `send` gets each report.
    pub(super) fn answer(
        &mut self,
        captured: &Captured,
        now: Timestamp,
        mut send: impl FnMut(PeerId, &HostReport<'_>, &[Answer]),
    ) {
        self.next_at = now + LOOK_EVERY;
        let forwards = |name: &str| sysctl_number(name).map(|value| value != 0);
        let devices = match &self.queue {
            Some((number, _)) => number.to_string(),
            None => self.devices.join(","),
        };
        let report = HostReport {
            clock: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64),
            frames_captured: captured.frames,
            kernel_drops: captured.kernel_drops,
            reads_queue: self.queue.is_some(),
            forwards_ipv4: forwards("net/ipv4/ip_forward"),
            forwards_ipv6: forwards("net/ipv6/conf/all/forwarding"),
            version: env!("CARGO_PKG_VERSION"),
            devices: &devices,
            filter: &self.filter,
            answers: Answers::default(),
        };
        for asked in std::mem::take(&mut self.waiting) {
            let answers: Vec<Answer> = asked.questions.iter().map(|q| self.look(q, asked.from.ip())).collect();
            send(asked.peer, &report, &answers);
        }
    }

    /// What would become of the packets of a question, asked from `asker`.
    fn look(&self, question: &Question, asker: IpAddr) -> Answer {
        let (client, server) = (question.flow.client.addr, question.flow.server.addr);
        let is_seen = match &self.queue {
            None => takes(&self.filter, &response(question)),
            Some((_, rules)) => {
                let rule = Rule { transport: question.transport, port: question.flow.server.port.0 };
                // Somebody else's rules may lead here, too.
                rules.contains(&rule).then_some(true)
            }
        };
        let way = route::way_to(server).ok();
        let server_is_local = way.as_ref().is_some_and(|way| way.is_local);
        let fate = if server_is_local {
            match route::way_to(asker) {
                Ok(way) if !way.is_local => route::fate(client, server, &way.device),
                _ => Fate::Unknown,
            }
        } else {
            let captured_on = self.devices.iter().find(|device| *device != "any");
            let device = captured_on.or(way.as_ref().map(|way| &way.device));
            device.map_or(Fate::Unknown, |device| route::fate(server, client, device))
        };
        Answer { is_seen, server_is_local, fate }
    }
}

/// The first packet with which a server answers a copy, in an Ethernet frame.
fn response(question: &Question) -> Vec<u8> {
    let (src, dst) = (question.flow.server, question.flow.client);
    let mac = MacAddress([2, 0, 0, 0, 0, 1]);
    let mut frame = Vec::with_capacity(ETHERNET_HEADER_LEN + 60);
    frame.extend_from_slice(&ethernet_header(mac, mac, src.addr.is_ipv6()));
    match question.transport {
        Transport::Tcp => {
            let (seq, ack, flags) = (SeqNumber(1), SeqNumber(1), Flags::SYN | Flags::ACK);
            TcpRepr { src, dst, seq, ack, flags, window: 1024, options: TcpOptions::default(), ip_id: 0 }
                .write((&[], &[]), &mut frame);
        }
        Transport::Udp => {
            UdpRepr { src, dst, ip_id: 0 }.write(b"answer", 1500, |write| write(&mut frame));
        }
    }
    frame
}

#[cfg(test)]
mod tests;
