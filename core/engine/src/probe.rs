//! One session of tcpcopy's own, through the whole loop: what `tcpcopy doctor` opens to find out where the loop is broken.
//!
//! # How it works
//!
//! The probe is a client that has nothing to say. It adds a route for a flow of its own, sends a SYN by the way that copies
//! take, and waits for intercept to report the SYN-ACK. It acknowledges that, waits for a moment whether somebody else
//! speaks up for its address, and closes. At its end the route is removed and the target holds no connection any more.
//!
//! It is a small state machine beside the [`Copier`](crate::Copier), not a made-up client of it: the engine would answer
//! the same questions only through counters, would hold back what must be seen (a RST that means *nobody here*, a SYN-ACK
//! that came twice), and keeps at a target for much longer than a person wants to wait for a diagnosis.
//!
//! | state | event | action | next |
//! |---|---|---|---|
//! | Connecting | timeout, three times | SYN again; at last RST | Connecting; Over: no answer |
//! | Connecting | SYN-ACK for our SYN | ACK | Settling |
//! | Connecting | RST for our SYN | | Over: refused |
//! | Connecting | ACK of something else | RST at that number: a dead connection on these ports | Connecting |
//! | Settling | timeout, FIN | FIN | Closing |
//! | Settling, Closing, HalfClosed | RST | | Over: reset by the target, or by somebody else |
//! | Closing | timeout, three times | FIN again; at last RST | Closing; Over: not acknowledged |
//! | Closing | our FIN is acknowledged | | HalfClosed, or Lingering when the target's FIN is there |
//! | HalfClosed | FIN | ACK | Lingering |
//! | HalfClosed | timeout | RST | Over: closed by RST |
//! | Lingering | FIN again | ACK | Lingering |
//! | Lingering | timeout, RST | | Over: closed |
//!
//! **Whose RST it is.** A target that resets a connection that it has sends RST with ACK. A RST without ACK answers a
//! segment of a connection that the target does not have (RFC 9293, section 3.10.7.1): after a SYN-ACK that means that
//! somebody else has reset it, who is the true owner of the address and was given the SYN-ACK.

use std::time::Duration;

use tcpcopy_wire::build::TcpRepr;
use tcpcopy_wire::control::{FlowId, ResponseHeader, RouteChange};
use tcpcopy_wire::tcp::{Flags, Options};
use tcpcopy_wire::{Flow, SeqNumber, Timestamp, Transport};

use crate::outbox::{LinkId, Outbox};

/// How long each SYN is given.
const SYN_WAITS: [Duration; 3] = [Duration::from_millis(700), Duration::from_millis(1000), Duration::from_millis(1300)];
/// How long each FIN is given.
const FIN_WAITS: [Duration; 3] = [Duration::from_millis(400), Duration::from_millis(700), Duration::from_millis(900)];
/// How long somebody else has to speak up for our address.
const SETTLE: Duration = Duration::from_millis(300);
/// How long the target's application may take to close.
const HALF_CLOSED: Duration = Duration::from_millis(1000);
/// How long a repeated FIN is answered.
const LINGER: Duration = Duration::from_millis(200);
/// The window that is announced, in bytes: some servers speak first.
const WINDOW: u16 = 0xffff;

/// What a probe is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeConfig {
    /// Its own address and port, and the target.
    pub flow: Flow,
    /// What responses are marked with.
    pub id: FlowId,
    /// The initial sequence number; another one for each probe, so that no answer to an earlier one is taken for its own.
    pub isn: SeqNumber,
    /// The largest segment that is announced, in bytes.
    pub mss: u16,
    /// One link to each intercept.
    pub links: Vec<LinkId>,
}

/// What reaches a probe.
#[derive(Clone, Copy, Debug)]
pub enum ProbeInput<'a> {
    /// A packet of the target, as intercept reports it or as it was captured here.
    Response(&'a ResponseHeader<'a>),
    /// A deadline has passed.
    Timeout,
    /// It is to end at once.
    Stop,
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// No SYN-ACK, and no RST, was reported for any SYN.
    NoAnswer,
    /// RST for the SYN: nothing listens there, or a firewall says so.
    Refused,
    /// SYN-ACK, and then the target knew nothing of the connection: somebody else has reset it.
    ResetByOther,
    /// SYN-ACK, and then the target itself reset the connection.
    ResetByTarget,
    /// SYN-ACK, and then nothing that we sent was acknowledged.
    NotAcknowledged,
    /// Closed by both sides.
    Closed,
    /// Our side was closed, the target's was not, and we reset it.
    ClosedByReset,
    /// Told to stop.
    Stopped,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Course {
    /// SYNs sent.
    pub syns: u32,
    /// Time from the last SYN to its SYN-ACK, when there was one.
    pub accepted_after: Option<Duration>,
    /// FINs sent.
    pub fins: u32,
    /// How it ended, when it has.
    pub ending: Option<Ending>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Settling,
    Closing,
    HalfClosed,
    Lingering,
    Over,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Probe {
    config: ProbeConfig,
    state: State,
    course: Course,
    deadline: Timestamp,
    last_syn: Timestamp,
    /// Next sequence number of the target that is not here yet.
    expected_from_target: SeqNumber,
    fin_from_target: bool,
    fin_acknowledged: bool,
    ip_id: u16,
}

impl Probe {
    /// Adds the route and sends the first SYN.
    pub fn open(config: ProbeConfig, now: Timestamp, out: &mut Outbox) -> Self {
        let change = RouteChange::Add { id: config.id, transport: Transport::Tcp, flow: config.flow };
        out.routes.extend(config.links.iter().map(|link| (*link, change)));
        let mut probe = Self {
            ip_id: config.isn.0 as u16,
            config,
            state: State::Connecting,
            course: Course::default(),
            deadline: now,
            last_syn: now,
            expected_from_target: SeqNumber(0),
            fin_from_target: false,
            fin_acknowledged: false,
        };
        probe.send_syn(now, out);
        probe
    }

    /// What has happened so far.
    pub fn course(&self) -> &Course {
        &self.course
    }

    /// Its flow.
    pub fn flow(&self) -> Flow {
        self.config.flow
    }

    /// When [`ProbeInput::Timeout`] is due; `None` when it is over.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        (self.state != State::Over).then_some(self.deadline)
    }

    /// Takes an input. Responses to other sessions, and whatever comes when it is over, change nothing.
    pub fn handle(&mut self, now: Timestamp, input: ProbeInput<'_>, out: &mut Outbox) {
        match (self.state, input) {
            (State::Over, _) => {}
            (_, ProbeInput::Response(header)) if header.id != self.config.id => {}
            (State::Connecting, ProbeInput::Response(header)) => self.on_answer(now, header, out),
            (_, ProbeInput::Response(header)) => self.on_segment(now, header, out),
            (_, ProbeInput::Stop) => self.end(Ending::Stopped, out),
            (_, ProbeInput::Timeout) if now < self.deadline => {}
            (State::Connecting, ProbeInput::Timeout) if self.course.syns as usize >= SYN_WAITS.len() => {
                self.end(Ending::NoAnswer, out);
            }
            (State::Connecting, ProbeInput::Timeout) => self.send_syn(now, out),
            (State::Closing, ProbeInput::Timeout) if self.course.fins as usize >= FIN_WAITS.len() => {
                self.end(Ending::NotAcknowledged, out);
            }
            (State::Settling | State::Closing, ProbeInput::Timeout) => self.send_fin(now, out),
            (State::HalfClosed, ProbeInput::Timeout) => self.end(Ending::ClosedByReset, out),
            (State::Lingering, ProbeInput::Timeout) => self.end(Ending::Closed, out),
        }
    }

    /// A packet of the target before there is a connection.
    fn on_answer(&mut self, now: Timestamp, header: &ResponseHeader<'_>, out: &mut Outbox) {
        let flags = header.flags;
        let of_our_syn = flags.contains(Flags::ACK) && header.ack == self.config.isn + 1;
        if flags.contains(Flags::RST) {
            if of_our_syn {
                self.end(Ending::Refused, out);
            }
        } else if of_our_syn && flags.contains(Flags::SYN) {
            self.course.accepted_after = Some(now.since(self.last_syn));
            self.expected_from_target = header.seq + 1;
            self.state = State::Settling;
            self.deadline = now + SETTLE;
            self.send(Flags::ACK, self.config.isn + 1, out);
        } else if flags.contains(Flags::ACK) && !of_our_syn {
            // RFC 9293, section 3.10.7.3: what it answers is not ours, and stands in the way of our SYN.
            self.send(Flags::RST, header.ack, out);
        }
    }

    /// A packet of the target on the connection.
    fn on_segment(&mut self, now: Timestamp, header: &ResponseHeader<'_>, out: &mut Outbox) {
        let flags = header.flags;
        if flags.contains(Flags::RST) {
            if header.seq.distance_from(self.expected_from_target).unsigned_abs() <= u32::from(WINDOW) {
                let ending = match flags.contains(Flags::ACK) {
                    // It had closed, and got one of our packets once more.
                    _ if self.fin_from_target => Ending::Closed,
                    true => Ending::ResetByTarget,
                    false => Ending::ResetByOther,
                };
                self.end(ending, out);
            }
            return;
        }
        self.fin_acknowledged |= flags.contains(Flags::ACK) && header.ack == self.config.isn + 2;
        let is_fin = flags.contains(Flags::FIN);
        if header.seq == self.expected_from_target && !flags.contains(Flags::SYN) && !self.fin_from_target {
            // One after the other: lengths come from outside, and sequence numbers wrap where their sum would not.
            self.expected_from_target += header.payload_len;
            self.expected_from_target += u32::from(is_fin);
            self.fin_from_target = is_fin;
        }
        // Also what came before: the acknowledgement is what got lost then.
        if header.payload_len > 0 || is_fin || flags.contains(Flags::SYN) {
            let fin = u32::from(self.course.fins > 0);
            self.send(Flags::ACK, self.config.isn + 1 + fin, out);
        }
        match self.state {
            State::Settling if self.fin_from_target => self.send_fin(now, out),
            State::Closing | State::HalfClosed if self.fin_acknowledged && self.fin_from_target => {
                self.state = State::Lingering;
                self.deadline = now + LINGER;
            }
            State::Closing if self.fin_acknowledged => {
                self.state = State::HalfClosed;
                self.deadline = now + HALF_CLOSED;
            }
            _ => {}
        }
    }

    fn send_syn(&mut self, now: Timestamp, out: &mut Outbox) {
        self.deadline = now + SYN_WAITS[self.course.syns as usize];
        self.course.syns += 1;
        self.last_syn = now;
        self.send(Flags::SYN, self.config.isn, out);
    }

    fn send_fin(&mut self, now: Timestamp, out: &mut Outbox) {
        self.state = State::Closing;
        self.deadline = now + FIN_WAITS[self.course.fins as usize];
        self.course.fins += 1;
        self.send(Flags::FIN | Flags::ACK, self.config.isn + 1, out);
    }

    /// Ends, with nothing left at the target or in any intercept.
    fn end(&mut self, ending: Ending, out: &mut Outbox) {
        self.course.ending = Some(ending);
        self.state = State::Over;
        let is_gone = matches!(ending, Ending::Refused | Ending::ResetByOther | Ending::ResetByTarget | Ending::Closed);
        if !is_gone {
            // A target takes a RST at the number that it expects only (RFC 5961, section 3.2): with our FIN or without it.
            self.send(Flags::RST, self.config.isn + 1, out);
            if self.course.fins > 0 {
                self.send(Flags::RST, self.config.isn + 2, out);
            }
        }
        let change = RouteChange::Remove { id: self.config.id };
        out.routes.extend(self.config.links.iter().map(|link| (*link, change)));
    }

    fn send(&mut self, flags: Flags, seq: SeqNumber, out: &mut Outbox) {
        self.ip_id = self.ip_id.wrapping_add(1);
        let mss = flags.contains(Flags::SYN).then_some(self.config.mss);
        let repr = TcpRepr {
            src: self.config.flow.client,
            dst: self.config.flow.server,
            seq,
            ack: if flags.contains(Flags::ACK) { self.expected_from_target } else { SeqNumber(0) },
            flags,
            window: if flags.contains(Flags::RST) { 0 } else { WINDOW },
            options: Options::of_syn(mss, None, false, None),
            ip_id: self.ip_id,
        };
        out.push_packet(self.config.flow.server.addr, |bytes| repr.write((&[], &[]), bytes));
    }
}
