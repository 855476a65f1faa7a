//! What intercept's engine can do on one core: captured response in, record for tcpcopy out.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tcpcopy_engine::{PeerId, Relay, RelayConfig, RelayInput, RelayOutbox};
use tcpcopy_wire::Transport;
use tcpcopy_wire::build::TcpRepr;
use tcpcopy_wire::control::{FEATURE_PAYLOAD, FlowId, Payload, RouteChange};
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::tcp::{Flags, Options};
use tcpcopy_wire::{Endpoint, Flow, Port, SeqNumber, Timestamp};

const NOW: Timestamp = Timestamp::from_millis(1000);
/// Responses between two writes.
const BURST: usize = 64;

fn flow(n: u32) -> Flow {
    let client = Ipv4Addr::from(0x0a4e_0000 + n / 50_000);
    let end = |addr: Ipv4Addr, port| Endpoint::new(IpAddr::V4(addr), Port(port));
    Flow { client: end(client, 1024 + (n % 50_000) as u16), server: end(Ipv4Addr::new(10, 0, 0, 2), 80) }
}

fn response(flow: Flow) -> Vec<u8> {
    let mut options = Options::default();
    options.timestamps = Some((1, 2));
    let (src, dst, flags) = (flow.server, flow.client, Flags::ACK | Flags::PSH);
    let repr = TcpRepr { src, dst, seq: SeqNumber(1), ack: SeqNumber(2), flags, window: 500, options, ip_id: 7 };
    let mut frame = vec![0; 14];
    frame[12] = 8;
    repr.write((&[b'x'; 100], &[]), &mut frame);
    frame
}

fn relay_with(routes: u32) -> (Relay, RelayOutbox) {
    let (mut relay, mut out) = (Relay::new(RelayConfig::default()), RelayOutbox::new());
    let peer = PeerId(0);
    relay.handle(
        NOW,
        RelayInput::PeerUp { peer, route_ttl: Duration::from_secs(600), max_batch: 0, features: FEATURE_PAYLOAD },
        &mut out,
    );
    for n in 0..routes {
        let change = RouteChange::Add { id: FlowId(u64::from(n)), transport: Transport::Tcp, flow: flow(n) };
        relay.handle(NOW, RelayInput::Route { peer, change }, &mut out);
    }
    (relay, out)
}

fn responses(c: &mut Criterion) {
    let mut group = c.benchmark_group("relay");
    group.throughput(Throughput::Elements(BURST as u64));
    for routes in [50, 8_000, 500_000] {
        let (mut relay, mut out) = relay_with(routes);
        // In an order that caches cannot foresee.
        let frames: Vec<Vec<u8>> =
            (0..BURST * 256).map(|n| response(flow((n as u32).wrapping_mul(2_654_435_761) % routes))).collect();
        let mut next = 0;
        group.bench_function(format!("response, {routes} routes"), |b| {
            b.iter(|| {
                for frame in &frames[next..next + BURST] {
                    let input = RelayInput::Frame { link: LinkType::Ethernet, bytes: frame, wire_len: frame.len() };
                    relay.handle(NOW, input, &mut out);
                }
                next = (next + BURST) % frames.len();
                black_box(out.batches().map(|(_, bytes, _)| bytes.len()).sum::<usize>());
                out.clear_batches();
            });
        });
    }
    // All of them want payload: 100 bytes of each response.
    let (mut relay, mut out) = relay_with(8_000);
    for n in 0..8_000 {
        let change = RouteChange::Payload { id: FlowId(n), payload: Payload::Full };
        relay.handle(NOW, RelayInput::Route { peer: PeerId(0), change }, &mut out);
    }
    let frames: Vec<Vec<u8>> =
        (0..BURST * 256).map(|n| response(flow((n as u32).wrapping_mul(2_654_435_761) % 8_000))).collect();
    let mut next = 0;
    group.bench_function("response with payload, 8000 routes", |b| {
        b.iter(|| {
            for frame in &frames[next..next + BURST] {
                let input = RelayInput::Frame { link: LinkType::Ethernet, bytes: frame, wire_len: frame.len() };
                relay.handle(NOW, input, &mut out);
            }
            next = (next + BURST) % frames.len();
            black_box(out.batches().map(|(_, bytes, _)| bytes.len()).sum::<usize>());
            out.clear_batches();
        });
    });
    group.finish();

    let mut group = c.benchmark_group("relay routes");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("add and remove", |b| {
        b.iter_batched_ref(
            || relay_with(0),
            |(relay, out)| {
                let peer = PeerId(0);
                for n in 0..1000 {
                    let change = RouteChange::Add { id: FlowId(n), transport: Transport::Tcp, flow: flow(n as u32) };
                    relay.handle(NOW, RelayInput::Route { peer, change }, out);
                }
                for n in 0..1000 {
                    let change = RouteChange::Remove { id: FlowId(n) };
                    relay.handle(NOW, RelayInput::Route { peer, change }, out);
                }
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, responses);
criterion_main!(benches);
