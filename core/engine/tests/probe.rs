//! The probe against a TCP that is not the engine's: how it ends, and that it leaves nothing behind.

use std::net::SocketAddr;
use std::time::Duration;

use tcpcopy_engine::probe::Ending;
use tcpcopy_engine::{LinkId, Outbox, Probe, ProbeConfig, ProbeInput};
use tcpcopy_netsim::{
    Application, Chance, Fate, Listener, ProbeConditions, ProbeOutcome, Quality, Service, Socket, State, run_probe,
};
use tcpcopy_wire::control::{FlowId, ResponseHeader, RouteChange};
use tcpcopy_wire::tcp::Flags;
use tcpcopy_wire::{Flow, SeqNumber, TcpSegment, Timestamp};

/// What a server does with a client that says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Closes when the client does.
    Closes,
    /// Speaks first, and then closes when the client does.
    Greets,
    /// Never closes.
    Stays,
    /// Resets the connection at once.
    Resets,
}

struct OfServer {
    manner: Manner,
    greeted: bool,
}

impl Application for OfServer {
    fn step(&mut self, _: Timestamp, socket: &mut Socket<'_>) -> Option<Timestamp> {
        match self.manner {
            Manner::Resets if socket.state() == State::Established => socket.abort(),
            Manner::Greets if !self.greeted && socket.can_send() => {
                self.greeted = socket.send_slice(b"220 ready\r\n").is_ok();
            }
            _ => {}
        }
        if self.manner != Manner::Stays && socket.state() == State::CloseWait {
            socket.close();
        }
        None
    }
}

impl Service for Manner {
    type Connection = OfServer;

    fn accept(&mut self, _: Timestamp, _: SocketAddr) -> OfServer {
        OfServer { manner: *self, greeted: false }
    }
}

fn passes(_: &TcpSegment<'_>) -> Fate {
    Fate::Passes
}

/// A probe of a server, where firewalls may be in the way.
fn probe(
    manner: Manner,
    to_target: &mut dyn FnMut(&TcpSegment<'_>) -> Fate,
    from_target: &mut dyn FnMut(&TcpSegment<'_>) -> Fate,
) -> ProbeOutcome {
    let outcome = run_probe(
        ProbeConditions {
            ipv6: false,
            quality: Quality::delayed(Duration::from_millis(2)),
            listener: Listener::default(),
            to_target,
            from_target,
            owner_resets: None,
            seed: 1,
        },
        manner,
    )
    .unwrap();
    assert_eq!(outcome.routes_left, 0, "{outcome:?}");
    outcome
}

#[test]
fn a_whole_loop_ends_in_a_close_by_both_sides() {
    for manner in [Manner::Closes, Manner::Greets] {
        let outcome = probe(manner, &mut passes, &mut passes);
        assert_eq!((outcome.course.ending, outcome.course.syns), (Some(Ending::Closed), 1), "{manner:?}");
        assert_eq!(outcome.course.accepted_after, Some(Duration::from_millis(4)));
        assert_eq!(outcome.left_at_target, 0);
        assert!(outcome.took < Duration::from_secs(1), "{outcome:?}");
    }
}

#[test]
fn over_ipv6_it_is_the_same() {
    let outcome = run_probe(
        ProbeConditions {
            ipv6: true,
            quality: Quality::delayed(Duration::from_millis(2)),
            listener: Listener::default(),
            to_target: &mut passes,
            from_target: &mut passes,
            owner_resets: None,
            seed: 2,
        },
        Manner::Closes,
    )
    .unwrap();
    assert_eq!((outcome.course.ending, outcome.left_at_target), (Some(Ending::Closed), 0));
}

#[test]
fn a_server_that_does_not_close_is_left_by_a_reset() {
    let outcome = probe(Manner::Stays, &mut passes, &mut passes);
    assert_eq!((outcome.course.ending, outcome.left_at_target), (Some(Ending::ClosedByReset), 0));
}

#[test]
fn a_server_that_resets_is_told_from_a_stranger_who_does() {
    let outcome = probe(Manner::Resets, &mut passes, &mut passes);
    assert_eq!((outcome.course.ending, outcome.left_at_target), (Some(Ending::ResetByTarget), 0));
    // Before our ACK comes, and long after it.
    for after in [1, 100].map(Duration::from_millis) {
        let outcome = run_probe(
            ProbeConditions {
                ipv6: false,
                quality: Quality::delayed(Duration::from_millis(2)),
                listener: Listener::default(),
                to_target: &mut passes,
                from_target: &mut passes,
                owner_resets: Some(after),
                seed: 3,
            },
            Manner::Closes,
        )
        .unwrap();
        assert!(outcome.course.accepted_after.is_some());
        assert_eq!(outcome.course.ending, Some(Ending::ResetByOther), "after {after:?}");
        assert_eq!((outcome.left_at_target, outcome.routes_left), (0, 0));
    }
}

#[test]
fn a_closed_port_refuses() {
    let outcome = run_probe(
        ProbeConditions {
            ipv6: false,
            quality: Quality::delayed(Duration::from_millis(2)),
            listener: Listener { refuses: true, ..Listener::default() },
            to_target: &mut passes,
            from_target: &mut passes,
            owner_resets: None,
            seed: 4,
        },
        Manner::Closes,
    )
    .unwrap();
    assert_eq!((outcome.course.ending, outcome.course.syns), (Some(Ending::Refused), 1));
    assert_eq!(outcome.routes_left, 0);
}

#[test]
fn silence_is_borne_for_three_seconds_and_three_syns() {
    let (mut syns, mut resets) = (0, 0);
    let mut drops_all = |segment: &TcpSegment<'_>| {
        syns += u32::from(segment.tcp.flags().contains(Flags::SYN));
        resets += u32::from(segment.tcp.flags().contains(Flags::RST));
        Fate::Dropped
    };
    let outcome = probe(Manner::Closes, &mut drops_all, &mut passes);
    assert_eq!((outcome.course.ending, outcome.course.syns, syns), (Some(Ending::NoAnswer), 3, 3));
    assert_eq!(outcome.took, Duration::from_secs(3));
    assert_eq!(resets, 1, "for a connection that may have begun all the same");
}

#[test]
fn a_syn_ack_that_nobody_reports_leaves_no_half_open_connection() {
    let outcome = probe(Manner::Closes, &mut passes, &mut |_| Fate::Dropped);
    assert_eq!((outcome.course.ending, outcome.left_at_target), (Some(Ending::NoAnswer), 0));
}

/// As behind a firewall that takes what it has not seen the beginning of for invalid.
#[test]
fn what_comes_behind_the_syn_may_be_dropped() {
    let mut only_syns_and_resets = |segment: &TcpSegment<'_>| {
        let flags = segment.tcp.flags();
        if flags.contains(Flags::SYN) || flags.contains(Flags::RST) { Fate::Passes } else { Fate::Dropped }
    };
    let outcome = probe(Manner::Closes, &mut only_syns_and_resets, &mut passes);
    assert!(outcome.course.accepted_after.is_some());
    assert_eq!((outcome.course.ending, outcome.course.fins), (Some(Ending::NotAcknowledged), 3));
    assert_eq!(outcome.left_at_target, 0);
}

/// Whatever an intercept says, the probe ends in time, once, with a packet for each of its words at most.
#[test]
fn nonsense_ends_in_time() {
    let flow = Flow {
        client: SocketAddr::from(([10, 78, 0, 1], 700)).into(),
        server: SocketAddr::from(([10, 0, 0, 2], 80)).into(),
    };
    let isn = SeqNumber(u32::MAX);
    for seed in 0..2_000 {
        let mut chance = Chance::new(seed);
        let mut out = Outbox::new();
        let mut now = Timestamp::ZERO;
        let config = ProbeConfig { flow, id: FlowId(1), isn, mss: 1460, links: vec![LinkId(0), LinkId(3)] };
        let mut probe = Probe::open(config, now, &mut out);
        let (mut inputs, mut packets, mut routes) = (0, 0, 0);
        while let Some(deadline) = probe.next_deadline() {
            now = if chance.hits(300) { deadline } else { now + Duration::from_micros(chance.below(50_000)) };
            let near = |chance: &mut Chance| SeqNumber(chance.below(6) as u32).0.wrapping_sub(3);
            let header = ResponseHeader {
                id: FlowId(u64::from(!chance.hits(100))),
                seq: SeqNumber(near(&mut chance)),
                ack: isn + near(&mut chance),
                flags: Flags(chance.next() as u8),
                window: 0,
                payload_len: [0, 0, 1, u32::MAX][chance.below(4) as usize],
                options: &[],
                payload: &[],
            };
            probe.handle(now, ProbeInput::Response(&header), &mut out);
            probe.handle(now, ProbeInput::Timeout, &mut out);
            inputs += 2;
            packets += out.packet_count();
            routes += out.routes.len();
            out.clear();
            assert!(now < Timestamp::ZERO + Duration::from_secs(10), "seed {seed}: {:?}", probe.course());
        }
        assert!(probe.course().ending.is_some());
        assert_eq!(routes, 4, "seed {seed}: added and removed on both links");
        assert!(packets <= 2 * inputs + 1, "seed {seed}: {packets} packets for {inputs} inputs");
        probe.handle(now, ProbeInput::Stop, &mut out);
        assert!(out.is_empty(), "it is over");
    }
}

#[test]
fn told_to_stop_it_leaves_at_once() {
    let flow = Flow {
        client: SocketAddr::from(([10, 78, 0, 1], 700)).into(),
        server: SocketAddr::from(([10, 0, 0, 2], 80)).into(),
    };
    let mut out = Outbox::new();
    let config = ProbeConfig { flow, id: FlowId(1), isn: SeqNumber(9), mss: 1460, links: vec![LinkId(0)] };
    let mut probe = Probe::open(config, Timestamp::ZERO, &mut out);
    out.clear();
    probe.handle(Timestamp::ZERO, ProbeInput::Stop, &mut out);
    assert_eq!((probe.course().ending, probe.next_deadline()), (Some(Ending::Stopped), None));
    assert_eq!(out.routes, [(LinkId(0), RouteChange::Remove { id: FlowId(1) })]);
    let (_, packet) = out.packets().next().expect("a RST");
    assert_eq!(TcpSegment::from_ip_packet(packet, packet.len()).expect("a segment").tcp.flags(), Flags::RST);
}

#[test]
fn on_a_bad_path_it_gets_through_or_says_why_and_leaves_no_route() {
    let mut closed = 0;
    for seed in 0..200 {
        let quality = Quality {
            loss: 100,
            duplication: 50,
            reordering: 100,
            delay: Duration::from_millis(5),
            jitter: Duration::from_millis(5),
        };
        let outcome = run_probe(
            ProbeConditions {
                ipv6: seed % 2 == 0,
                quality,
                listener: Listener::default(),
                to_target: &mut passes,
                from_target: &mut passes,
                owner_resets: None,
                seed,
            },
            Manner::Greets,
        )
        .unwrap();
        assert_eq!(outcome.routes_left, 0, "seed {seed}");
        assert!(outcome.took < Duration::from_secs(7), "seed {seed}: {outcome:?}");
        match outcome.course.ending {
            Some(Ending::Closed | Ending::ClosedByReset) => closed += 1,
            Some(Ending::NoAnswer | Ending::NotAcknowledged) => {}
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    // Each way loses a tenth, and everything is tried three times.
    assert!(closed > 180, "{closed} of 200");
}
