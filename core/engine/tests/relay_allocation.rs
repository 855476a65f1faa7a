//! No response costs an allocation once the buffers have grown to the size of a burst.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tcpcopy_engine::{PeerId, Relay, RelayConfig, RelayInput, RelayOutbox};
use tcpcopy_wire::Transport;
use tcpcopy_wire::build::TcpRepr;
use tcpcopy_wire::control::{FEATURE_PAYLOAD, FEATURE_UDP, FlowId, Payload, RouteChange};
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::tcp::{Flags, Options};
use tcpcopy_wire::udp::UdpRepr;
use tcpcopy_wire::{Endpoint, Flow, Port, SeqNumber, Timestamp};

const PEER: PeerId = PeerId(0);

fn flow(n: u16) -> Flow {
    let end = |last, port| Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), Port(port));
    Flow { client: end(1, 1024 + n), server: end(2, 80) }
}

/// One round: responses with a route, responses that come before their route, routes that come and go, time that passes.
fn round(relay: &mut Relay, out: &mut RelayOutbox, frames: &[Vec<u8>], now: Timestamp) {
    let mut respond = |relay: &mut Relay, n: usize| {
        let frame = &frames[n];
        relay.handle(now, RelayInput::Frame { link: LinkType::Raw, bytes: frame, wire_len: frame.len() }, out);
    };
    for n in 0..100 {
        respond(relay, n % 50);
    }
    for n in 50..frames.len() {
        respond(relay, n);
    }
    for n in 50..90 {
        let change = RouteChange::Add { id: FlowId(n), transport: Transport::Tcp, flow: flow(n as u16) };
        relay.handle(now, RelayInput::Route { peer: PEER, change }, out);
    }
    for n in 50..90 {
        relay.handle(now, RelayInput::Route { peer: PEER, change: RouteChange::Remove { id: FlowId(n) } }, out);
    }
    assert_eq!(out.responses(), 140);
    out.clear_batches();
    out.notices.clear();
    relay.handle(now + Duration::from_secs(2), RelayInput::Timeout, out);
    out.notices.clear();
}

fn segment(n: u16, payload: &[u8]) -> Vec<u8> {
    let (src, dst, flags) = (flow(n).server, flow(n).client, Flags::ACK);
    let mut options = Options::default();
    options.timestamps = Some((1, 2));
    let repr = TcpRepr { src, dst, seq: SeqNumber(1), ack: SeqNumber(2), flags, window: 5, options, ip_id: 7 };
    let mut packet = Vec::new();
    repr.write((payload, &[]), &mut packet);
    packet
}

#[test]
fn payload_and_datagrams_cost_no_allocation_either() {
    let mut frames = vec![segment(1, &[b'x'; 1448]), segment(2, &[b'x'; 60_000])];
    let (src, dst) = (flow(3).server, flow(3).client);
    UdpRepr { src, dst, ip_id: 7 }.write(&[b'x'; 400], 1500, |write| {
        frames.push(Vec::new());
        write(frames.last_mut().unwrap());
    });
    let (mut relay, mut out) = (Relay::new(RelayConfig::default()), RelayOutbox::new());
    let now = Timestamp::from_millis(1);
    let (route_ttl, features) = (Duration::from_secs(600), FEATURE_PAYLOAD | FEATURE_UDP);
    relay.handle(now, RelayInput::PeerUp { peer: PEER, route_ttl, max_batch: 0, features }, &mut out);
    for (n, transport) in [(1, Transport::Tcp), (2, Transport::Tcp), (3, Transport::Udp)] {
        let id = FlowId(u64::from(n));
        let add = RouteChange::Add { id, transport, flow: flow(n) };
        for change in [add, RouteChange::Payload { id, payload: Payload::Full }] {
            relay.handle(now, RelayInput::Route { peer: PEER, change }, &mut out);
        }
    }
    let mut rounds = |count: usize| {
        for _ in 0..count {
            for frame in &frames {
                relay.handle(
                    now,
                    RelayInput::Frame { link: LinkType::Raw, bytes: frame, wire_len: frame.len() },
                    &mut out,
                );
            }
            assert!(out.bytes() > 1448 + 60_000 + 400, "the payload is there");
            out.clear_batches();
        }
    };
    rounds(5);
    let counted = allocation_counter::measure(|| rounds(50));
    assert_eq!(counted.count_total, 0, "{counted:?}");
}

#[test]
fn the_relay_allocates_nothing_in_steady_state() {
    let frames: Vec<Vec<u8>> = (0..100).map(|n| segment(n, b"answer")).collect();
    let (mut relay, mut out) = (Relay::new(RelayConfig::default()), RelayOutbox::new());
    let mut now = Timestamp::from_millis(1);
    relay.handle(
        now,
        RelayInput::PeerUp { peer: PEER, route_ttl: Duration::from_secs(600), max_batch: 0, features: 0 },
        &mut out,
    );
    for n in 0..50 {
        let change = RouteChange::Add { id: FlowId(u64::from(n)), transport: Transport::Tcp, flow: flow(n) };
        relay.handle(now, RelayInput::Route { peer: PEER, change }, &mut out);
    }
    let mut rounds = |count: usize| {
        for _ in 0..count {
            round(&mut relay, &mut out, &frames, now);
            now = now + Duration::from_secs(3);
        }
    };
    rounds(50);
    let counted = allocation_counter::measure(|| rounds(50));
    assert_eq!(counted.count_total, 0, "{counted:?}");
}
