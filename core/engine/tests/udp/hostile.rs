//! Whatever datagrams and fragments come in: no panic, and the ledger balances after every input.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use tcpcopy_engine::copier::source::SourcePool;
use tcpcopy_engine::{Copier, CopierConfig, Input, Ledger, LinkId, Map, Outbox, Rate, Traffic};
use tcpcopy_module_api::{
    About, Attachment, Ctx, LogLevel, Module, ModuleHandle, Options, Payload, Session, SessionInfo, TargetData,
    Transport,
};
use tcpcopy_module_tcp::PlainTcp;
use tcpcopy_module_udp::PlainUdp;
use tcpcopy_wire::build::TcpRepr;
use tcpcopy_wire::control::{DatagramResponse, FlowId, RouteChange};
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::tcp::Flags;
use tcpcopy_wire::{Endpoint, SeqNumber, Timestamp};

use crate::stage::{datagrams, end, map, packets};

/// Clients, servers and targets of both families; some are what they should not be.
const CLIENTS: [&str; 6] =
    ["10.1.0.1:40000", "10.1.0.2:40000", "10.1.0.1:65535", "127.0.0.1:4000", "10.0.0.2:5353", "10.0.0.1:53"];
const CLIENTS_V6: [&str; 4] = ["[fd01::1]:40000", "[fd01::2]:40000", "[::1]:4000", "[fd00::2]:5353"];
const SERVERS: [&str; 4] = ["10.0.0.1:53", "10.0.0.1:54", "10.0.0.2:5353", "127.0.0.1:53"];
const SERVERS_V6: [&str; 3] = ["[fd00::1]:53", "[fd00::2]:5353", "[::1]:53"];

#[derive(Clone, Debug)]
struct Datagram {
    ipv6: bool,
    client: u8,
    server: u8,
    len: u16,
    mtu: u16,
    id: u8,
    /// Order in which its packets are captured; an index may come twice or not at all.
    order: Option<Vec<u8>>,
    /// Bytes changed: where, and to what.
    changes: Vec<(u16, u8)>,
    cut: Option<u16>,
}

#[derive(Clone, Debug)]
enum Step {
    Client(Datagram),
    /// A TCP segment among them.
    Segment(u8),
    Answer {
        flow: u8,
        len: u16,
        shown: u16,
    },
    Pass(u32),
    Link(bool, u8),
    Drained,
    Pause,
    Resume,
    Sample(u8),
    MaxRate(Option<u16>),
}

fn datagram() -> impl Strategy<Value = Datagram> {
    let len = prop_oneof![4 => 0u16..200, 2 => 1_000u16..5_000, 1 => 60_000u16..=65_507];
    let order = prop_oneof![
        6 => Just(None),
        3 => prop::collection::vec(any::<u8>(), 1..12).prop_map(Some),
    ];
    let changes = prop_oneof![
        6 => Just(Vec::new()),
        // Most of them in the headers.
        2 => prop::collection::vec((0u16..60, any::<u8>()), 1..3),
    ];
    (
        (any::<bool>(), any::<u8>(), prop_oneof![4 => Just(0u8), 1 => any::<u8>()], len),
        (prop_oneof![Just(1_500u16), 1_280u16..9_000, Just(68)], 0u8..3, order, changes),
        prop_oneof![9 => Just(None), 1 => (0u16..1_600).prop_map(Some)],
    )
        .prop_map(|((ipv6, client, server, len), (mtu, id, order, changes), cut)| Datagram {
            ipv6,
            client,
            server,
            len: if mtu == 68 { len.min(2_000) } else { len },
            mtu,
            id,
            order,
            changes,
            cut,
        })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => datagram().prop_map(Step::Client),
        1 => any::<u8>().prop_map(Step::Segment),
        5 => (any::<u8>(), any::<u16>(), 0u16..100).prop_map(|(flow, len, shown)| Step::Answer { flow, len, shown }),
        3 => (0u32..100_000).prop_map(Step::Pass),
        1 => (1_000_000u32..50_000_000).prop_map(Step::Pass),
        1 => (any::<bool>(), 0u8..5).prop_map(|(up, link)| Step::Link(up, link)),
        1 => Just(Step::Drained),
        1 => Just(Step::Pause),
        3 => Just(Step::Resume),
        1 => any::<u8>().prop_map(Step::Sample),
        1 => proptest::option::of(any::<u16>()).prop_map(Step::MaxRate),
    ]
}

/// A module that does everything a module may do, by how often it was asked.
struct Fussy;

#[derive(Default)]
struct FussySession {
    asked: usize,
}

impl Module for Fussy {
    fn about() -> About {
        About { name: "fussy", sees_online: true, ..About::new(Transport::Udp, "1") }
    }

    fn create(_: &Options) -> Result<Self, String> {
        Ok(Self)
    }

    fn on_open(&self, info: &SessionInfo) -> Attachment {
        if info.target.server.addr.is_loopback() {
            Attachment::Bypass
        } else {
            Attachment::watch(FussySession::default())
        }
    }
}

impl FussySession {
    fn fuss(&mut self, ctx: &mut Ctx<'_>, len: usize) {
        self.asked += 1;
        match self.asked.wrapping_mul(2_654_435_761) >> 7 & 31 {
            0 => ctx.pass(len / 2),
            1 => ctx.pass(len + 1_000),
            2 => ctx.drop(len + 500, "and more"),
            3 => ctx.send(&vec![1; 70_000]),
            4 => {
                ctx.send(b"own");
                ctx.pass(len);
                ctx.send(b"");
            }
            5 if len.is_multiple_of(5) => ctx.abort("enough"),
            6 if len.is_multiple_of(5) => std::panic::resume_unwind(Box::new("a module's mistake")),
            7 => ctx.bypass(),
            8 => ctx.watch(),
            9 => ctx.want_payload(Payload::Full),
            10 => ctx.want_payload(Payload::First(10)),
            11 => ctx.want_payload(Payload::Headers),
            12 => ctx.reconnect(),
            13 => ctx.ready(),
            14 => ctx.ask_again(),
            15 => ctx.expect_response(),
            16 => ctx.response_complete(),
            17 => ctx.log(LogLevel::Info, "fuss"),
            18 => ctx.count("fuss", 1),
            19 => {}
            _ => ctx.pass(len),
        }
    }
}

impl Session for FussySession {
    fn on_open(&mut self, ctx: &mut Ctx<'_>) {
        ctx.want_payload(Payload::First(20));
        self.fuss(ctx, 0);
    }

    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
        self.fuss(ctx, data.len());
    }

    fn on_target_data(&mut self, ctx: &mut Ctx<'_>, data: TargetData<'_>) {
        self.fuss(ctx, data.bytes.len());
    }

    fn on_close(&mut self, ctx: &mut Ctx<'_>, _: Option<&str>) {
        self.fuss(ctx, 3);
    }
}

/// How the engine is set up.
#[derive(Clone, Debug)]
struct Setup {
    fussy: bool,
    copies: u16,
    instance: u8,
    percentage: u8,
    max_rate: Option<Rate>,
    sources: bool,
    session_limit: usize,
    memory_limit: usize,
    intercepts: u16,
}

fn setup() -> impl Strategy<Value = Setup> {
    let rate = prop_oneof![
        4 => Just(None),
        1 => (0u64..2_000).prop_map(|n| Some(Rate::Count(n))),
        1 => (0u64..2_000_000).prop_map(|n| Some(Rate::Bytes(n))),
        1 => Just(Some(Rate::Bytes(u64::MAX))),
    ];
    (
        (any::<bool>(), prop_oneof![2 => Just(1u16), 1 => 0u16..5], prop_oneof![Just(0u8), any::<u8>()]),
        (prop_oneof![2 => Just(100u8), 1 => any::<u8>()], rate, any::<bool>()),
        (
            prop_oneof![Just(1usize << 20), 0usize..4],
            prop_oneof![3 => Just(1usize << 30), 1 => 0usize..10_000],
            0u16..3,
        ),
    )
        .prop_map(
            |(
                (fussy, copies, instance),
                (percentage, max_rate, sources),
                (session_limit, memory_limit, intercepts),
            )| {
                Setup {
                    fussy,
                    copies,
                    instance,
                    percentage,
                    max_rate,
                    sources,
                    session_limit,
                    memory_limit,
                    intercepts,
                }
            },
        )
}

struct Run {
    copier: Copier,
    out: Outbox,
    now: Timestamp,
    before: Ledger,
    /// Routes that are announced, on each link.
    routes: HashMap<(LinkId, FlowId), Endpoint>,
    ids: Vec<FlowId>,
}

impl Run {
    fn new(setup: &Setup) -> Self {
        let udp = if setup.fussy { ModuleHandle::new(Fussy) } else { ModuleHandle::new(PlainUdp) };
        let maps = vec![
            map("10.0.0.1:53", "10.0.0.2:5353"),
            Map { online_addr: None, ..map("10.0.0.1:53", "127.0.0.1:5353") },
            map("[fd00::1]:53", "[fd00::2]:5353"),
            map("10.0.0.1:54", "[fd00::2]:5354"),
            Map { module: 1, ..Map::tcp(None, end("10.0.0.1:53").port, end("10.0.0.2:5353")) },
        ];
        let pool = ["10.78.0.1", "10.78.0.2", "fd78::1"].map(|a| a.parse().expect("an address")).to_vec();
        let config = CopierConfig {
            modules: vec![udp.clone(), ModuleHandle::new(PlainTcp)],
            traffic: Traffic {
                copies: setup.copies,
                instance: setup.instance,
                loopback_source: Some("10.0.0.9".parse().expect("an address")),
                percentage: setup.percentage,
                max_rate: setup.max_rate,
                ..Traffic::default()
            },
            sources: if setup.sources { SourcePool::new(pool) } else { SourcePool::default() },
            session_limit: setup.session_limit,
            memory_limit: setup.memory_limit,
            intercepts: setup.intercepts,
            links_per_intercept: 2,
            ..CopierConfig::new(maps, udp)
        };
        Self {
            copier: Copier::new(config),
            out: Outbox::new(),
            now: Timestamp::from_millis(1),
            before: Ledger::default(),
            routes: HashMap::new(),
            ids: Vec::new(),
        }
    }

    fn tell(&mut self, input: Input<'_>) -> Result<(), TestCaseError> {
        self.copier.handle(self.now, input, &mut self.out);
        let ledger = self.copier.ledger();
        ledger.check().map_err(TestCaseError::fail)?;
        for ((name, _, before), (.., after)) in self.before.counters().zip(ledger.counters()) {
            prop_assert!(
                after >= before || name.ends_with("alive") || name == "pending_bytes",
                "{} ran backwards",
                name
            );
        }
        prop_assert_eq!(ledger.udp_flows - ledger.udp_flows_alive >= ledger.udp_flows_evicted, true);
        prop_assert!(ledger.udp_answered + ledger.udp_unanswered <= ledger.udp_sent);
        self.before = ledger.clone();
        for (link, change) in self.out.routes.drain(..) {
            match change {
                // Only a link that came back may hear of a route twice.
                RouteChange::Add { id, transport: Transport::Udp, flow } => {
                    prop_assert_eq!(id.0 >> 63, 1);
                    let known = self.routes.insert((link, id), flow.client);
                    prop_assert!(known.is_none_or(|known| known == flow.client));
                    self.ids.push(id);
                }
                RouteChange::Add { id, .. } => prop_assert_eq!(id.0 >> 63, 0),
                RouteChange::Payload { id, .. } => prop_assert!(self.routes.contains_key(&(link, id))),
                RouteChange::Remove { id } if id.0 >> 63 == 1 => {
                    prop_assert!(self.routes.remove(&(link, id)).is_some(), "{:?} was not there", id);
                }
                RouteChange::Remove { .. } => {}
            }
        }
        let is_tcp = |packet: &[u8]| packet.first().is_some_and(|b| b >> 4 == 4) && packet.get(9) == Some(&6);
        if !self.out.packets().any(|(_, packet)| is_tcp(packet)) {
            datagrams(&self.out, 1_500);
        }
        self.out.clear();
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Client(d) => self.client(d),
            Step::Segment(flags) => {
                let mut packet = Vec::new();
                TcpRepr {
                    src: end(CLIENTS[0]),
                    dst: end(SERVERS[0]),
                    seq: SeqNumber(1),
                    ack: SeqNumber(1),
                    flags: Flags(*flags),
                    window: 100,
                    options: tcpcopy_wire::tcp::Options::default(),
                    ip_id: 1,
                }
                .write((b"query", &[]), &mut packet);
                self.tell(Input::Frame { link: LinkType::Raw, bytes: &packet, wire_len: packet.len() })
            }
            Step::Answer { flow, len, shown } => {
                let id = match self.ids.len() {
                    0 => FlowId(u64::MAX),
                    n => self.ids[usize::from(*flow) % n],
                };
                let id = if *flow == 255 { FlowId(id.0 ^ 1 << (len % 64)) } else { id };
                let payload = vec![b'a'; usize::from(*shown)];
                self.tell(Input::Datagram(DatagramResponse { id, payload_len: *len, payload: &payload }))
            }
            Step::Pass(micros) => self.pass(Duration::from_micros(u64::from(*micros))),
            Step::Link(true, link) => self.tell(Input::LinkUp(LinkId(u16::from(*link)))),
            Step::Link(false, link) => self.tell(Input::LinkDown(LinkId(u16::from(*link)))),
            Step::Drained => self.tell(Input::Drained),
            Step::Pause => self.tell(Input::Pause),
            Step::Resume => self.tell(Input::Resume),
            Step::Sample(percentage) => self.tell(Input::Sample(*percentage)),
            Step::MaxRate(rate) => self.tell(Input::MaxRate(rate.map(|n| Rate::Bytes(n.into())))),
        }
    }

    fn client(&mut self, d: &Datagram) -> Result<(), TestCaseError> {
        let of = |all: &[&'static str], n: u8| all[usize::from(n) % all.len()];
        let (client, server) = if d.ipv6 {
            (of(&CLIENTS_V6, d.client), of(&SERVERS_V6, d.server))
        } else {
            (of(&CLIENTS, d.client), of(&SERVERS, d.server))
        };
        let all = packets(client, server, d.id.into(), &vec![b'q'; d.len.into()], d.mtu.into());
        let order: Vec<usize> = match &d.order {
            None => (0..all.len()).collect(),
            Some(order) => order.iter().map(|n| usize::from(*n) % all.len()).collect(),
        };
        for at in order {
            let mut bytes = all[at].clone();
            let wire_len = bytes.len();
            for (place, value) in &d.changes {
                let place = usize::from(*place) % bytes.len();
                bytes[place] = *value;
            }
            bytes.truncate(d.cut.map_or(usize::MAX, usize::from));
            self.tell(Input::Frame { link: LinkType::Raw, bytes: &bytes, wire_len })?;
        }
        Ok(())
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

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(500),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_ledger_balances_whatever_happens(steps in prop::collection::vec(step(), 1..80), setup in setup()) {
        let mut run = Run::new(&setup);
        for step in &steps {
            run.step(step)?;
        }
        run.tell(Input::Stop)?;
        run.pass(Duration::from_secs(5))?;
        prop_assert!(run.copier.is_finished());
        let ledger = run.copier.ledger();
        prop_assert_eq!((ledger.pending_bytes, ledger.udp_flows_alive), (0, 0));
        prop_assert!(run.routes.is_empty(), "routes stay behind: {:?}", run.routes);
    }

    #[test]
    fn clients_are_forgotten_by_themselves(steps in prop::collection::vec(step(), 1..40), setup in setup()) {
        let mut run = Run::new(&setup);
        for step in &steps {
            run.step(step)?;
        }
        run.pass(Duration::from_secs(4_000))?;
        let ledger = run.copier.ledger();
        prop_assert_eq!((ledger.pending_bytes, ledger.udp_flows_alive, ledger.sessions_alive), (0, 0, 0));
        prop_assert_eq!(run.copier.next_deadline(), None, "nothing is left to wait for");
        prop_assert!(run.routes.is_empty(), "routes stay behind: {:?}", run.routes);
    }
}
