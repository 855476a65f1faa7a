//! Whatever comes in: no panic, and the ledger balances after every input.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use proptest::prelude::*;
use tcpcopy_engine::{Copier, CopierConfig, Gate, Input, LinkId, Map, MapLedger, Outbox, Rate, Traffic};
use tcpcopy_module_api::{
    About, AfterTargetClose, Attachment, Ctx, LogLevel, Module, ModuleHandle, Options as ModuleOptions, Payload,
    Session, SessionInfo, TargetData, Transport,
};
use tcpcopy_module_tcp::PlainTcp;
use tcpcopy_wire::build::TcpRepr;
use tcpcopy_wire::control::{FlowId, ResponseHeader, RouteChange};
use tcpcopy_wire::decap::Decapsulation;
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::tcp::{Flags, Options};
use tcpcopy_wire::{Endpoint, Port, SeqNumber, TcpSegment, Timestamp};

const LINKS: [LinkType; 5] =
    [LinkType::Raw, LinkType::Ethernet, LinkType::Null, LinkType::LinuxSll, LinkType::LinuxSll2];

/// A packet of one of a few clients, near what a real one would send.
#[derive(Clone, Debug)]
struct Packet {
    client: u8,
    ipv6: bool,
    flags: u8,
    /// Near the start of the stream, so that segments overlap and follow each other.
    seq: i16,
    ack: i16,
    len: u16,
    window: u16,
    syn_options: bool,
    /// Bytes changed: where, and to what.
    changes: Vec<(u16, u8)>,
    cut: Option<u16>,
    link: u8,
    /// It is online's answer instead.
    from_online: bool,
    /// A mirror delivers it in GRE, if it has no link layer.
    mirrored: bool,
}

/// What targets send.
static PAYLOAD: [u8; 70_000] = [b'y'; 70_000];

/// What the target might send, to whichever session.
#[derive(Clone, Debug)]
struct Reply {
    session: u8,
    flags: u8,
    seq: i16,
    ack: i16,
    len: u32,
    window: u16,
    options: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Step {
    Client(Packet),
    Target(Reply),
    /// What a well-behaved target would answer to the last packet that was sent to it.
    ProperReply {
        len: u16,
        window: u16,
    },
    Drained,
    Pass(u32),
    Link(bool, u8),
    NextPass,
    Share(u16),
    CloseNewest(u8),
    Pause,
    Resume,
    Sample(u8),
    MaxRate(Option<u16>),
    Stop,
}

fn packet() -> impl Strategy<Value = Packet> {
    let flags = prop_oneof![
        4 => Just(0x18u8), 2 => Just(0x10), 2 => Just(0x02), 1 => Just(0x11), 1 => Just(0x19), 1 => Just(0x14),
        1 => any::<u8>(),
    ];
    let seq = prop_oneof![3 => (0i16..40).prop_map(|n| 1 + n * 100), 1 => -50i16..3000, 1 => any::<i16>()];
    let len = prop_oneof![3 => Just(100u16), 1 => Just(0), 1 => 0u16..3_000, 1 => Just(60_000)];
    let changes = prop_oneof![
        6 => Just(Vec::new()),
        1 => proptest::collection::vec((0u16..80, any::<u8>()), 1..4),
    ];
    let odd = (
        changes,
        prop_oneof![9 => Just(None), 1 => (0u16..120).prop_map(Some)],
        prop_oneof![8 => Just(0), 1 => 0u8..5],
        prop_oneof![5 => Just(false), 1 => Just(true)],
        prop_oneof![5 => Just(false), 1 => Just(true)],
    );
    ((0u8..4, any::<bool>(), flags, seq, 0i16..2_000), (len, any::<u16>(), any::<bool>()), odd).prop_map(
        |((client, ipv6, flags, seq, ack), (len, window, syn_options), (changes, cut, link, from_online, mirrored))| {
            Packet {
                client,
                ipv6,
                flags,
                seq,
                ack,
                len,
                window,
                syn_options,
                changes,
                cut,
                link,
                from_online,
                mirrored,
            }
        },
    )
}

fn reply() -> impl Strategy<Value = Reply> {
    let flags = prop_oneof![3 => Just(0x10u8), 2 => Just(0x18), 2 => Just(0x12), 1 => Just(0x11), 1 => Just(0x04), 1 => any::<u8>()];
    let options = prop_oneof![
        Just(vec![]),
        Just(vec![2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 0, 0]),
        proptest::collection::vec(any::<u8>(), 0..40),
    ];
    (any::<u8>(), flags, any::<i16>(), any::<i16>(), 0u32..100_000, any::<u16>(), options).prop_map(
        |(session, flags, seq, ack, len, window, options)| Reply { session, flags, seq, ack, len, window, options },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => packet().prop_map(Step::Client),
        3 => reply().prop_map(Step::Target),
        8 => (prop_oneof![Just(0u16), 0u16..3_000], prop_oneof![4 => Just(60_000u16), 1 => Just(0), 1 => any::<u16>()])
            .prop_map(|(len, window)| Step::ProperReply { len, window }),
        2 => Just(Step::Drained),
        3 => (0u32..100_000).prop_map(Step::Pass),
        1 => (1_000_000u32..20_000_000).prop_map(Step::Pass),
        1 => (any::<bool>(), 0u8..3).prop_map(|(up, link)| Step::Link(up, link)),
        1 => Just(Step::NextPass),
        1 => prop_oneof![Just(0), Just(5_000), Just(10_000), any::<u16>()].prop_map(Step::Share),
        1 => any::<u8>().prop_map(Step::CloseNewest),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        1 => any::<u8>().prop_map(Step::Sample),
        1 => proptest::option::of(any::<u16>()).prop_map(Step::MaxRate),
    ]
}

/// How much is copied, and how.
#[derive(Clone, Debug)]
struct Manner {
    copies: u16,
    max_rate: Option<Rate>,
    preserve_rtt: bool,
    measure_online: bool,
    /// The target's packets are captured here.
    sees_responses: bool,
}

fn manner() -> impl Strategy<Value = Manner> {
    let copies = prop_oneof![2 => Just(1u16), 1 => 1u16..4];
    let rate = prop_oneof![
        3 => Just(None),
        1 => (0u64..50).prop_map(|n| Some(Rate::Count(n))),
        1 => (0u64..100_000).prop_map(|n| Some(Rate::Bytes(n))),
    ];
    (copies, rate, any::<[bool; 3]>()).prop_map(|(copies, max_rate, [preserve_rtt, measure_online, sees_responses])| {
        Manner { copies, max_rate, preserve_rtt, measure_online, sees_responses }
    })
}

/// A module that does everything a module may do, by what the bytes are and how many it has seen.
#[derive(Default)]
struct Fussy(AtomicUsize);

struct FussySession {
    seen: usize,
}

impl Module for Fussy {
    fn about() -> About {
        About { name: "fussy", sees_online: true, ..About::new(Transport::Tcp, "1") }
    }

    fn create(_: &ModuleOptions) -> Result<Self, String> {
        Ok(Self::default())
    }

    fn on_open(&self, info: &SessionInfo) -> Attachment {
        self.slip(info.joined, 5);
        if info.online.client.port.0 % 2 == 1 {
            return Attachment::Bypass;
        }
        Attachment::Watch(Box::new(FussySession { seen: 0 }))
    }

    fn join_at(&self, data: &[u8]) -> Option<usize> {
        self.slip(true, 7);
        (!data.len().is_multiple_of(3)).then_some(data.len() / 2)
    }

    fn after_target_close(&self) -> AfterTargetClose {
        self.slip(true, 6);
        if self.0.load(Relaxed).is_multiple_of(4) { AfterTargetClose::End } else { AfterTargetClose::Reconnect }
    }
}

impl Fussy {
    /// Panics at each so manieth call.
    fn slip(&self, may: bool, each: usize) {
        if (self.0.fetch_add(1, Relaxed) + 1).is_multiple_of(each) && may {
            std::panic::resume_unwind(Box::new("a slip of the module"));
        }
    }
}

impl FussySession {
    /// Something that a module may do in any hook.
    fn fuss(&mut self, ctx: &mut Ctx<'_>, held: usize) {
        self.seen += 1;
        match self.seen.wrapping_mul(2_654_435_761) >> 7 & 31 {
            0 => ctx.pass(held / 2),
            1 => {
                ctx.drop(held.min(7), "seven");
                ctx.pass(held.saturating_sub(7));
            }
            2 => {
                ctx.send(b"of the module's own");
                ctx.pass(held);
                ctx.expect_response();
            }
            3 => ctx.drop(held, "all"),
            4 => {
                ctx.pass(1);
                ctx.drop(1, "one");
                ctx.send(b"between");
            }
            5 if held.is_multiple_of(50) => ctx.abort("enough"),
            6 if held.is_multiple_of(4) => ctx.bypass(),
            7 => ctx.pass(held + 700),
            8 => ctx.drop(held + 500, "and more"),
            9 => ctx.want_payload(Payload::Full),
            10 => ctx.want_payload(Payload::First(10)),
            11 => ctx.want_payload(Payload::Headers),
            12 | 13 => ctx.reconnect(),
            14 | 15 => ctx.ready(),
            16 => ctx.ask_again(),
            17 => ctx.watch(),
            18 => ctx.response_complete(),
            19 => {
                ctx.log(LogLevel::Warn, "fuss");
                ctx.count("fuss", 3);
            }
            20 if held.is_multiple_of(40) => std::panic::resume_unwind(Box::new("a module's mistake")),
            21 => ctx.send(b""),
            22 => ctx.forget_waiting("stale"),
            23 => {
                ctx.forget_waiting("stale");
                ctx.send(b"anew");
                ctx.ready();
            }
            _ => ctx.pass(held),
        }
    }
}

impl Session for FussySession {
    fn on_open(&mut self, ctx: &mut Ctx<'_>) {
        ctx.want_payload(Payload::Full);
        self.fuss(ctx, 1);
    }

    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
        self.fuss(ctx, data.len());
    }

    fn on_client_close(&mut self, ctx: &mut Ctx<'_>, held: &[u8]) {
        self.fuss(ctx, held.len());
    }

    fn on_target_data(&mut self, ctx: &mut Ctx<'_>, data: TargetData<'_>) {
        self.fuss(ctx, data.bytes.len() + data.hidden as usize);
    }

    fn on_online_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8], lost: u64) {
        self.fuss(ctx, data.len() + lost as usize);
    }

    fn on_resume(&mut self, ctx: &mut Ctx<'_>) {
        self.fuss(ctx, 1);
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_>, _: Option<&str>) {
        self.fuss(ctx, 1);
    }
}

/// The engine, and what it last said.
struct Run {
    copier: Copier,
    out: Outbox,
    now: Timestamp,
    ids: Vec<FlowId>,
    last_sent: Option<(Endpoint, SeqNumber, SeqNumber, Flags, u32)>,
    routes: std::collections::HashMap<Endpoint, FlowId>,
    sees_responses: bool,
}

fn online(ipv6: bool) -> IpAddr {
    if ipv6 { Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into() } else { Ipv4Addr::new(10, 0, 0, 1).into() }
}

fn target(ipv6: bool) -> Endpoint {
    let addr = if ipv6 { Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).into() } else { Ipv4Addr::new(10, 0, 0, 2).into() };
    Endpoint::new(addr, Port(8080))
}

impl Run {
    fn new(gate: Gate, only_whole_sessions: bool, session_limit: usize, fussy: bool, manner: &Manner) -> Self {
        let module = if fussy { ModuleHandle::new(Fussy::default()) } else { ModuleHandle::new(PlainTcp) };
        let map = |ipv6| Map::tcp(Some(online(ipv6)), Port(80), target(ipv6));
        let config = CopierConfig {
            gate,
            only_whole_sessions,
            session_limit,
            decapsulation: Decapsulation { gre: true, ..Decapsulation::default() },
            preserve_rtt: manner.preserve_rtt,
            measure_online: manner.measure_online,
            sees_responses: manner.sees_responses,
            traffic: Traffic { copies: manner.copies, max_rate: manner.max_rate, ..Traffic::default() },
            ..CopierConfig::new(vec![map(false), map(true)], module)
        };
        Self {
            copier: Copier::new(config),
            out: Outbox::new(),
            now: Timestamp::from_millis(1),
            ids: Vec::new(),
            last_sent: None,
            routes: std::collections::HashMap::new(),
            sees_responses: manner.sees_responses,
        }
    }

    fn tell(&mut self, input: Input<'_>) -> Result<(), TestCaseError> {
        self.copier.handle(self.now, input, &mut self.out);
        let ledger = self.copier.ledger();
        ledger.check().map_err(TestCaseError::fail)?;
        let of_maps = |count: fn(&MapLedger) -> u64| ledger.maps.iter().map(count).sum::<u64>();
        prop_assert_eq!(of_maps(|map| map.sessions), ledger.sessions_seen);
        prop_assert_eq!(of_maps(|map| map.sessions_alive), ledger.sessions_alive);
        prop_assert_eq!(of_maps(|map| map.sessions_ended.iter().sum()), ledger.sessions_ended.iter().sum::<u64>());
        prop_assert_eq!(of_maps(|map| map.requests), ledger.requests);
        prop_assert_eq!(of_maps(|map| map.requests_copied), ledger.requests_copied);
        prop_assert_eq!(of_maps(|map| map.bytes_copied), ledger.bytes_copied);
        prop_assert_eq!(of_maps(|map| map.retransmits), ledger.retransmits);
        prop_assert_eq!(of_maps(|map| map.connections), ledger.connections);
        prop_assert_eq!(of_maps(|map| map.response_time.count()), ledger.response_time.count());
        for (_, change) in &self.out.routes {
            if let RouteChange::Add { id, flow, .. } = change {
                self.ids.push(*id);
                self.routes.insert(flow.client, *id);
            }
        }
        for (_, bytes) in self.out.packets() {
            let segment = TcpSegment::from_ip_packet(bytes, bytes.len()).expect("the engine sends TCP");
            prop_assert!(bytes.len() <= 1500);
            let flags = segment.tcp.flags();
            self.last_sent = Some((segment.src, segment.tcp.seq(), segment.tcp.ack(), flags, segment.payload_len));
        }
        self.out.clear();
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Client(p) => {
                let (frame, wire_len) = frame(p);
                let link = LINKS[usize::from(p.link) % LINKS.len()];
                self.tell(Input::Frame { link, bytes: &frame, wire_len })
            }
            Step::Target(r) => {
                let Some(&id) = self.ids.get(usize::from(r.session) % self.ids.len().max(1)) else { return Ok(()) };
                self.tell(Input::Response(ResponseHeader {
                    payload: &PAYLOAD[..(r.len as usize).min(PAYLOAD.len()) >> (r.window & 1)],
                    id: if r.session == 255 { FlowId(u64::MAX - u64::from(r.window)) } else { id },
                    seq: SeqNumber(5_000) + r.seq as u32,
                    ack: SeqNumber(1_000) + r.ack as u32,
                    flags: Flags(r.flags),
                    window: r.window,
                    payload_len: r.len,
                    options: &r.options,
                }))
            }
            Step::ProperReply { len, window } => {
                let Some((replica, seq, ack, flags, payload_len)) = self.last_sent else { return Ok(()) };
                let Some(&id) = self.routes.get(&replica) else { return Ok(()) };
                let syn = flags.contains(Flags::SYN);
                if self.sees_responses {
                    let (src, payload) = (target(replica.addr.is_ipv6()), if syn { 0 } else { usize::from(*len) });
                    let repr = TcpRepr {
                        src,
                        dst: replica,
                        seq: if syn { SeqNumber(5_000) } else { ack },
                        ack: seq + payload_len + u32::from(syn || flags.contains(Flags::FIN)),
                        flags: if syn { Flags::SYN | Flags::ACK } else { Flags::PSH | Flags::ACK },
                        window: *window,
                        options: Options::default(),
                        ip_id: 1,
                    };
                    let mut bytes = Vec::new();
                    repr.write((&PAYLOAD[..payload], &[]), &mut bytes);
                    let (wire_len, cut) = (bytes.len(), usize::from(window & 63));
                    let bytes = if cut == 63 { &bytes[..bytes.len() / 2] } else { &bytes[..] };
                    return self.tell(Input::TargetFrame { link: LinkType::Raw, bytes, wire_len });
                }
                self.tell(Input::Response(ResponseHeader {
                    payload: if syn { &[] } else { &PAYLOAD[..usize::from(*len)] },
                    id,
                    seq: if syn { SeqNumber(5_000) } else { ack },
                    ack: seq + payload_len + u32::from(syn || flags.contains(Flags::FIN)),
                    flags: if syn { Flags::SYN | Flags::ACK } else { Flags::PSH | Flags::ACK },
                    window: *window,
                    payload_len: if syn { 0 } else { u32::from(*len) },
                    options: if syn { &[2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 0, 0] } else { &[] },
                }))
            }
            Step::Drained => self.tell(Input::Drained),
            Step::Pass(micros) => self.pass(Duration::from_micros(u64::from(*micros))),
            Step::Link(true, link) => self.tell(Input::LinkUp(LinkId(u16::from(*link)))),
            Step::Link(false, link) => self.tell(Input::LinkDown(LinkId(u16::from(*link)))),
            Step::NextPass => self.tell(Input::NextPass),
            Step::Share(share) => self.tell(Input::Share(*share)),
            Step::CloseNewest(percent) => self.tell(Input::CloseNewest(*percent)),
            Step::Pause => self.tell(Input::Pause),
            Step::Resume => self.tell(Input::Resume),
            Step::Sample(percentage) => self.tell(Input::Sample(*percentage)),
            Step::MaxRate(rate) => self.tell(Input::MaxRate(rate.map(|n| Rate::Bytes(n.into())))),
            Step::Stop => self.tell(Input::Stop),
        }
    }

    fn pass(&mut self, time: Duration) -> Result<(), TestCaseError> {
        let end = self.now + time;
        let mut at_once = 0;
        while let Some(at) = self.copier.next_deadline().filter(|at| *at <= end) {
            at_once = if at > self.now { 0 } else { at_once + 1 };
            prop_assert!(at_once < 100, "the deadline {at:?} stays due");
            self.now = self.now.max(at);
            self.tell(Input::Timeout)?;
        }
        self.now = end;
        Ok(())
    }
}

fn frame(p: &Packet) -> (Vec<u8>, usize) {
    let client: IpAddr = if p.ipv6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100 + u16::from(p.client)).into()
    } else {
        Ipv4Addr::new(10, 0, 1, p.client).into()
    };
    let mut options = Options::default();
    if p.syn_options {
        (options.mss, options.window_scale, options.sack_permitted) = (Some(1460), Some(7), true);
        options.timestamps = Some((77, 0));
    }
    let mut bytes = match LINKS[usize::from(p.link) % LINKS.len()] {
        LinkType::Raw if p.mirrored => {
            let outer = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 47, 0, 0, 10, 0, 9, 1, 10, 0, 9, 2, 0, 0];
            [&outer[..], if p.ipv6 { &[0x86, 0xdd] } else { &[8, 0] }].concat()
        }
        LinkType::Raw => Vec::new(),
        LinkType::Ethernet => [&[0x11; 12][..], if p.ipv6 { &[0x86, 0xdd] } else { &[8, 0] }].concat(),
        LinkType::Null => vec![2, 0, 0, 0],
        LinkType::LinuxSll => [&[0x11; 14][..], if p.ipv6 { &[0x86, 0xdd] } else { &[8, 0] }].concat(),
        LinkType::LinuxSll2 => [if p.ipv6 { &[0x86, 0xdd] } else { &[8, 0][..] }, &[0x11; 18]].concat(),
    };
    let (client, online) = (Endpoint::new(client, Port(4_000)), Endpoint::new(online(p.ipv6), Port(80)));
    let (client_seq, online_seq) = (SeqNumber(1_000), SeqNumber(9_000));
    TcpRepr {
        src: if p.from_online { online } else { client },
        dst: if p.from_online { client } else { online },
        seq: if p.from_online { online_seq } else { client_seq } + p.seq as u32,
        ack: if p.from_online { client_seq } else { online_seq } + p.ack as u32,
        flags: Flags(p.flags),
        window: p.window,
        options,
        ip_id: 1,
    }
    .write((&vec![b'x'; usize::from(p.len)], &[]), &mut bytes);
    let wire_len = bytes.len();
    if p.mirrored && LINKS[usize::from(p.link) % LINKS.len()] == LinkType::Raw {
        bytes[2..4].copy_from_slice(&(wire_len as u16).to_be_bytes());
    }
    for (at, value) in &p.changes {
        let at = usize::from(*at) % bytes.len();
        bytes[at] = *value;
    }
    if let Some(cut) = p.cut {
        bytes.truncate(usize::from(cut));
    }
    (bytes, wire_len)
}

proptest! {
    // What fails here becomes a script in tests/protocol, which says what went wrong; a seed would not.
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(1_000),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_ledger_balances_whatever_happens(
        steps in proptest::collection::vec(step(), 1..120),
        gate: bool,
        only_whole: bool,
        fussy: bool,
        session_limit in prop_oneof![Just(1usize << 20), 1usize..4],
        manner in manner(),
    ) {
        let mut run = Run::new(if gate { Gate::Turns } else { Gate::Off }, only_whole, session_limit, fussy, &manner);
        for step in &steps {
            run.step(step)?;
        }
        // However they stand, all sessions are over some time after a pause.
        run.step(&Step::Pause)?;
        run.pass(Duration::from_secs(5))?;
        prop_assert!(run.copier.is_finished(), "{} sessions outlive a pause", run.copier.ledger().sessions_alive);
        for step in steps.iter().filter(|step| !matches!(step, Step::Resume)) {
            run.step(step)?;
        }
        prop_assert!(run.copier.is_finished(), "a session began in a pause");
        run.step(&Step::Resume)?;
        for step in &steps {
            run.step(step)?;
        }
        // And so they are after a stop.
        run.step(&Step::Stop)?;
        run.pass(Duration::from_secs(5))?;
        prop_assert!(run.copier.is_finished(), "{} sessions stay alive", run.copier.ledger().sessions_alive);
        prop_assert_eq!(run.copier.ledger().pending_bytes, 0);
        prop_assert_eq!(run.copier.ledger().responses_delayed, 0);
        run.step(&Step::Client(Packet {
            client: 0, ipv6: false, flags: 2, seq: 0, ack: 0, len: 0, window: 0, syn_options: true, changes: vec![],
            cut: None, link: 0, from_online: false, mirrored: false,
        }))?;
        prop_assert!(run.copier.is_finished(), "a session began after the stop");
    }

    #[test]
    fn sessions_end_by_themselves(
        steps in proptest::collection::vec(step(), 1..60),
        fussy: bool,
        manner in manner(),
    ) {
        let mut run = Run::new(Gate::Turns, false, 1 << 20, fussy, &manner);
        for step in &steps {
            run.step(step)?;
        }
        // Idle time-out, and what it takes to close after it.
        run.pass(Duration::from_secs(4_000))?;
        prop_assert_eq!(run.copier.ledger().sessions_alive, 0);
        prop_assert_eq!(run.copier.ledger().pending_bytes, 0);
        prop_assert_eq!(run.copier.ledger().responses_delayed, 0);
        prop_assert_eq!(run.copier.next_deadline(), None, "nothing is left to wait for");
    }
}
