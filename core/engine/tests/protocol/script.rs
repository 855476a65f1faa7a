//! One client, one target, and an engine between them.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tcpcopy_engine::ledger::SessionEnd;
use tcpcopy_engine::outbox::Notice;
use tcpcopy_engine::{Copier, CopierConfig, Input, Ledger, LinkId, Map, Outbox};
use tcpcopy_module_api::ModuleHandle;
use tcpcopy_module_tcp::PlainTcp;
use tcpcopy_wire::build::TcpRepr;
use tcpcopy_wire::control::{FlowId, ResponseHeader, RouteChange};
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::tcp::{Flags, MIN_HEADER_LEN, Options};
use tcpcopy_wire::{Endpoint, Port, SeqNumber, TcpSegment, Timestamp};

const CLIENT: Endpoint = Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)), Port(40_000));
const ONLINE: Endpoint = Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), Port(80));
const TARGET: Endpoint = Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), Port(8080));
/// Initial sequence numbers: of the client close to the wrap, so that every test crosses it.
const CLIENT_ISN: SeqNumber = SeqNumber(u32::MAX - 50);
const ONLINE_ISN: SeqNumber = SeqNumber(700_000);
const TARGET_ISN: SeqNumber = SeqNumber(u32::MAX - 20);

pub(crate) const SYN: Flags = Flags::SYN;
pub(crate) const ACK: Flags = Flags::ACK;
pub(crate) const RST: Flags = Flags::RST;
pub(crate) const SYN_ACK: Flags = Flags(Flags::SYN.0 | Flags::ACK.0);
pub(crate) const PSH_ACK: Flags = Flags(Flags::PSH.0 | Flags::ACK.0);
pub(crate) const FIN_ACK: Flags = Flags(Flags::FIN.0 | Flags::ACK.0);
pub(crate) const RST_ACK: Flags = Flags(Flags::RST.0 | Flags::ACK.0);

/// A segment as it stands in a script.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    flags: Flags,
    seq: u32,
    ack: u32,
    payload: Vec<u8>,
    options: Options,
    window: u16,
}

pub(crate) fn segment(flags: Flags, seq: u32, ack: u32) -> Segment {
    Segment { flags, seq, ack, payload: Vec::new(), options: Options::default(), window: 65_535 }
}

impl Segment {
    /// `len` bytes of payload. What they are follows from where they stand in the stream.
    pub(crate) fn data(mut self, len: usize) -> Self {
        // A SYN takes the number before its data.
        self.payload = stream(self.seq + u32::from(self.flags.contains(SYN)), len);
        self
    }

    pub(crate) fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }

    pub(crate) fn mss(mut self, mss: u16) -> Self {
        self.options.mss = Some(mss);
        self
    }

    pub(crate) fn scale(mut self, shift: u8) -> Self {
        self.options.window_scale = Some(shift);
        self
    }

    pub(crate) fn sack_permitted(mut self) -> Self {
        self.options.sack_permitted = true;
        self
    }

    /// Of the target's packets only: it has received the client's stream from `left` to `right`.
    pub(crate) fn sack(mut self, left: u32, right: u32) -> Self {
        self.options.push_sack(CLIENT_ISN + left, CLIENT_ISN + right);
        self
    }

    pub(crate) fn timestamps(mut self, value: u32, echo: u32) -> Self {
        self.options.timestamps = Some((value, echo));
        self
    }
}

/// The client's stream from position `seq` on.
pub(crate) fn stream(seq: u32, len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (seq.wrapping_add(i).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// A packet that the engine sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) at: Timestamp,
    pub(crate) flags: Flags,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) len: usize,
    pub(crate) options: Options,
}

impl Sent {
    /// The SACK blocks, relative to the target's initial sequence number.
    pub(crate) fn sack(&self) -> Vec<(u32, u32)> {
        let relative = |s: SeqNumber| s.distance_from(TARGET_ISN) as u32;
        self.options.sack_blocks().iter().map(|(l, r)| (relative(*l), relative(*r))).collect()
    }
}

pub(crate) struct Script {
    copier: Copier,
    out: Outbox,
    now: Timestamp,
    sent: VecDeque<Sent>,
    pub(crate) id: Option<FlowId>,
    routes_added: usize,
    client: Endpoint,
    pub(crate) ended: Vec<SessionEnd>,
    /// What modules said when they panicked.
    pub(crate) panics: Vec<String>,
    /// The replica's initial sequence number on its latest connection.
    replica_isn: SeqNumber,
    /// Milliseconds on the clock at which the script's time began.
    origin: Timestamp,
}

impl Script {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut CopierConfig)) -> Self {
        let map = Map::tcp(Some(ONLINE.addr), ONLINE.port, TARGET);
        let mut config = CopierConfig::new(vec![map], ModuleHandle::new(PlainTcp));
        change(&mut config);
        let origin = Timestamp::from_millis(10_000);
        Self {
            copier: Copier::new(config),
            out: Outbox::new(),
            now: origin,
            sent: VecDeque::new(),
            id: None,
            routes_added: 0,
            client: CLIENT,
            ended: Vec::new(),
            panics: Vec::new(),
            replica_isn: CLIENT_ISN,
            origin,
        }
    }

    /// A script whose connection is up on both sides, with the options of Linux but without timestamps. The target's MSS is
    /// 1000.
    pub(crate) fn established() -> Self {
        Self::established_with(|_| {})
    }

    pub(crate) fn established_with(change: impl FnOnce(&mut CopierConfig)) -> Self {
        let mut script = Self::with(change);
        script.client(segment(SYN, 0, 0).mss(1460).scale(7).sack_permitted());
        script.expect(SYN, 0, 0, 0);
        script.target(segment(SYN_ACK, 0, 1).mss(1000).scale(7).sack_permitted());
        script.client(segment(ACK, 1, 1));
        script.expect(ACK, 1, 1, 0);
        script.nothing_more();
        script
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        self.copier.ledger()
    }

    /// Time since the script began.
    pub(crate) fn time(&self, at: Timestamp) -> Duration {
        at.since(self.origin)
    }

    fn tell(&mut self, input: Input<'_>) {
        self.copier.handle(self.now, input, &mut self.out);
        self.copier.ledger().check().unwrap();
        for (_, change) in self.out.routes.drain(..) {
            if let RouteChange::Add { id, .. } = change {
                self.id = Some(id);
                self.routes_added += 1;
            }
        }
        for notice in self.out.notices.drain(..) {
            match notice {
                Notice::SessionEnded { reason, .. } => self.ended.push(reason),
                Notice::ModulePanicked { message, .. } => self.panics.push(message),
                _ => {}
            }
        }
        for (to, packet) in self.out.packets() {
            let segment = TcpSegment::from_ip_packet(packet, packet.len()).unwrap();
            assert_eq!((to, segment.src, segment.dst), (TARGET.addr, self.client, TARGET));
            let seq = segment.tcp.seq().distance_from(CLIENT_ISN) as u32;
            if segment.tcp.flags().contains(SYN) {
                self.replica_isn = segment.tcp.seq();
            }
            // On a new connection other numbers stand for the same bytes.
            if !segment.payload.is_empty() && self.copier.ledger().reconnects == 0 {
                assert_eq!(segment.payload, stream(seq, segment.payload.len()), "payload at {seq}");
            }
            let acks = segment.tcp.flags().contains(ACK);
            self.sent.push_back(Sent {
                at: self.now,
                flags: segment.tcp.flags(),
                seq,
                ack: if acks { segment.tcp.ack().distance_from(TARGET_ISN) as u32 } else { 0 },
                len: segment.payload.len(),
                options: segment.tcp.options(),
            });
        }
        self.out.clear();
    }

    /// A packet of the client is captured.
    pub(crate) fn client(&mut self, s: Segment) {
        self.client_cut_to(s, usize::MAX);
    }

    /// A packet of the client is captured, but no more than `len` bytes of it.
    pub(crate) fn client_cut_to(&mut self, s: Segment, len: usize) {
        let ack = if s.flags.contains(ACK) { ONLINE_ISN + s.ack } else { SeqNumber(0) };
        self.capture((self.client, ONLINE), (CLIENT_ISN + s.seq, ack), s, len);
    }

    /// A packet of online is captured.
    pub(crate) fn online(&mut self, s: Segment) {
        self.capture((ONLINE, self.client), (ONLINE_ISN + s.seq, CLIENT_ISN + s.ack), s, usize::MAX);
    }

    #[allow(clippy::needless_pass_by_value)] // scripts read better so
    fn capture(
        &mut self,
        (src, dst): (Endpoint, Endpoint),
        (seq, ack): (SeqNumber, SeqNumber),
        s: Segment,
        len: usize,
    ) {
        let repr = TcpRepr { src, dst, seq, ack, flags: s.flags, window: s.window, options: s.options, ip_id: 1 };
        let mut bytes = Vec::new();
        repr.write((&s.payload, &[]), &mut bytes);
        let wire_len = bytes.len();
        bytes.truncate(len);
        self.tell(Input::Frame { link: LinkType::Raw, bytes: &bytes, wire_len });
    }

    /// A packet of the target is captured where tcpcopy runs.
    pub(crate) fn target_frame(&mut self, s: Segment) {
        self.capture_target(s, self.client);
    }

    /// The same, towards somebody else.
    pub(crate) fn foreign_target_frame(&mut self, s: Segment) {
        self.capture_target(s, Endpoint::new(self.client.addr, Port(1)));
    }

    #[allow(clippy::needless_pass_by_value)] // scripts read better so
    fn capture_target(&mut self, s: Segment, dst: Endpoint) {
        let (seq, ack) = (TARGET_ISN + s.seq, CLIENT_ISN + s.ack);
        let repr =
            TcpRepr { src: TARGET, dst, seq, ack, flags: s.flags, window: s.window, options: s.options, ip_id: 1 };
        let mut bytes = Vec::new();
        repr.write((&s.payload, &[]), &mut bytes);
        self.tell(Input::TargetFrame { link: LinkType::Raw, bytes: &bytes, wire_len: bytes.len() });
    }

    /// Nothing more is captured of what there is.
    pub(crate) fn next_pass(&mut self) {
        self.tell(Input::NextPass);
    }

    /// A packet of the target is reported.
    pub(crate) fn target(&mut self, s: Segment) {
        self.report(s, CLIENT_ISN);
    }

    /// The same, on a connection that was built anew: its acknowledgement counts from that one's SYN.
    pub(crate) fn target_anew(&mut self, s: Segment) {
        self.report(s, self.replica_isn);
    }

    #[allow(clippy::needless_pass_by_value)] // scripts read better so
    fn report(&mut self, s: Segment, isn: SeqNumber) {
        let mut options = vec![0; s.options.encoded_len()];
        s.options.encode(&mut options);
        assert!(MIN_HEADER_LEN + options.len() <= 60);
        let header = ResponseHeader {
            payload: &s.payload,
            id: self.id.expect("a route was announced"),
            seq: TARGET_ISN + s.seq,
            ack: if s.flags.contains(ACK) { isn + s.ack } else { SeqNumber(0) },
            flags: s.flags,
            window: s.window,
            payload_len: s.payload.len() as u32,
            options: &options,
        };
        self.tell(Input::Response(header));
    }

    pub(crate) fn drained(&mut self) {
        self.tell(Input::Drained);
    }

    pub(crate) fn link_up(&mut self, link: u16) {
        self.tell(Input::LinkUp(LinkId(link)));
    }

    pub(crate) fn routes_added(&self) -> usize {
        self.routes_added
    }

    pub(crate) fn stop(&mut self) {
        self.tell(Input::Stop);
    }

    pub(crate) fn pause(&mut self) {
        self.tell(Input::Pause);
    }

    pub(crate) fn resume(&mut self) {
        self.tell(Input::Resume);
    }

    /// Lets time pass, with everything that is due in it.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut rounds = 0;
        while let Some(at) = self.copier.next_deadline().filter(|at| *at <= end) {
            if at > self.now {
                rounds = 0;
            }
            rounds += 1;
            assert!(rounds < 100, "the deadline {at:?} stays due");
            self.now = self.now.max(at);
            self.tell(Input::Timeout);
        }
        self.now = end;
    }

    pub(crate) fn pass_ms(&mut self, millis: u64) {
        self.pass(Duration::from_millis(millis));
    }

    /// The next packet that the engine sent is this.
    #[track_caller]
    pub(crate) fn expect(&mut self, flags: Flags, seq: u32, ack: u32, len: usize) -> Sent {
        let Some(sent) = self.sent.pop_front() else {
            panic!("at {:?}: expected {flags:?} seq {seq} ack {ack} len {len}, got nothing", self.time(self.now));
        };
        assert_eq!((sent.flags, sent.seq, sent.ack, sent.len), (flags, seq, ack, len), "{sent:?}");
        sent
    }

    /// The next packet is this, sent so many milliseconds after `since`, give or take the timers' grain.
    #[track_caller]
    pub(crate) fn expect_after(&mut self, since: Timestamp, millis: u64, what: (Flags, u32, u32, usize)) -> Sent {
        let sent = self.expect(what.0, what.1, what.2, what.3);
        let after = sent.at.since(since).as_millis() as u64;
        // A timer may fire a little late, never early; a tenth and two milliseconds is a little.
        assert!(
            (millis..=millis + millis / 10 + 2).contains(&after),
            "expected after {millis} ms, came after {after} ms"
        );
        sent
    }

    #[track_caller]
    pub(crate) fn nothing_more(&mut self) {
        assert!(self.sent.is_empty(), "at {:?}: unexpected {:?}", self.time(self.now), self.sent);
    }

    /// All that was sent and not looked at.
    pub(crate) fn all_sent(&mut self) -> Vec<Sent> {
        self.sent.drain(..).collect()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.copier.is_finished()
    }
}
