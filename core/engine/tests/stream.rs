//! Reassembly, segmentation and retransmission as one: however a client's stream was cut, doubled, shuffled and
//! captured, and whatever the path to the target loses, the target has the stream in the end.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use proptest::prelude::*;
use tcpcopy_engine::{Copier, CopierConfig, Gate, Input, Map, Outbox};
use tcpcopy_module_api::ModuleHandle;
use tcpcopy_module_tcp::PlainTcp;
use tcpcopy_wire::build::TcpRepr;
use tcpcopy_wire::control::{FlowId, ResponseHeader, RouteChange};
use tcpcopy_wire::link::LinkType;
use tcpcopy_wire::tcp::{Flags, Options};
use tcpcopy_wire::{Endpoint, Port, SeqNumber, TcpSegment, Timestamp};

const CLIENT: Endpoint = Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)), Port(40_000));
const ONLINE: Endpoint = Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), Port(80));
const TARGET: Endpoint = Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), Port(8080));
const TARGET_ISN: SeqNumber = SeqNumber(4_000_000_000);

#[derive(Clone, Debug)]
struct Plan {
    isn: u32,
    len: usize,
    /// Segments as (start, length), covering the stream, in the order of capture; some overlap, some come twice.
    segments: Vec<(usize, usize)>,
    mss: u16,
    sack: bool,
    scale: Option<u8>,
    /// Windows that the target announces, in turn; then a large one.
    windows: Vec<u16>,
    /// Which packets between engine and target are lost after the handshake, in turn; then none.
    losses: Vec<bool>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let pieces = (
        proptest::collection::vec(1usize..3_000, 1..20),
        // Displacement in the order of capture, bytes of overlap with what follows, and how often it comes.
        proptest::collection::vec((0usize..6, 0usize..200, 1usize..3), 20),
    );
    (
        pieces,
        any::<u32>(),
        64u16..=1460,
        any::<bool>(),
        proptest::option::of(0u8..=8),
        proptest::collection::vec(prop_oneof![1 => Just(0u16), 4 => any::<u16>()], 0..20),
        proptest::collection::vec(proptest::bool::weighted(0.2), 0..60),
    )
        .prop_map(|((lengths, habits), isn, mss, sack, scale, windows, mut losses)| {
            // Never so many in a row that giving up would be right.
            losses.iter_mut().step_by(6).for_each(|lost| *lost = false);
            let len = lengths.iter().sum();
            let mut ordered = Vec::new();
            let mut start = 0;
            for (i, (piece, (displacement, overlap, times))) in lengths.iter().zip(&habits).enumerate() {
                let end = (start + piece + overlap).min(len);
                for n in 0..*times {
                    ordered.push((i + displacement * (n + 1), (start, end - start)));
                }
                start += piece;
            }
            ordered.sort_by_key(|(order, _)| *order);
            let segments = ordered.into_iter().map(|(_, segment)| segment).collect();
            Plan { isn, len, segments, mss, sack, scale, windows, losses }
        })
}

/// A target that keeps what it gets, and answers every packet at once.
struct Target {
    got: Vec<bool>,
    /// Bytes there from the start without a gap.
    in_order: usize,
    fin_at: Option<usize>,
    /// The furthest position that was ever announced as open.
    right_edge: usize,
    shift: u8,
}

impl Target {
    fn take(&mut self, at: usize, end: usize) {
        self.got[at..end].fill(true);
        while self.got.get(self.in_order).is_some_and(|got| *got) {
            self.in_order += 1;
        }
    }

    /// What is expected next; the FIN counts as a byte.
    fn next(&self) -> usize {
        self.in_order + usize::from(self.fin_at == Some(self.in_order))
    }
}

struct Run<'a> {
    plan: &'a Plan,
    stream: Vec<u8>,
    copier: Copier,
    out: Outbox,
    now: Timestamp,
    id: FlowId,
    target: Target,
    windows: std::vec::IntoIter<u16>,
    losses: std::vec::IntoIter<bool>,
}

impl Run<'_> {
    fn tell(&mut self, input: Input<'_>) -> Result<(), TestCaseError> {
        self.copier.handle(self.now, input, &mut self.out);
        self.copier.ledger().check().map_err(TestCaseError::fail)?;
        if let Some((_, RouteChange::Add { id, .. })) = self.out.routes.last() {
            self.id = *id;
        }
        let packets: Vec<Vec<u8>> = self.out.packets().map(|(_, bytes)| bytes.to_vec()).collect();
        self.out.clear();
        for packet in packets {
            if !self.loses_one() {
                self.receive(&packet)?;
            }
        }
        Ok(())
    }

    fn loses_one(&mut self) -> bool {
        self.copier.ledger().connections > 0 && self.losses.next().unwrap_or(false)
    }

    fn receive(&mut self, packet: &[u8]) -> Result<(), TestCaseError> {
        let segment = TcpSegment::from_ip_packet(packet, packet.len()).expect("the engine sends TCP");
        let flags = segment.tcp.flags();
        prop_assert!(!flags.contains(Flags::RST), "{:?}", segment);
        if flags.contains(Flags::SYN) {
            prop_assert_eq!(segment.tcp.seq(), SeqNumber(self.plan.isn));
            let mut options = Options::default();
            (options.mss, options.sack_permitted) = (Some(self.plan.mss), self.plan.sack);
            options.window_scale = self.plan.scale;
            let mut bytes = vec![0; options.encoded_len()];
            options.encode(&mut bytes);
            return self.reply(Flags::SYN | Flags::ACK, TARGET_ISN, self.plan.isn, &bytes);
        }
        prop_assert!(segment.payload.len() <= usize::from(self.plan.mss), "{:?}", segment);
        let at = segment.tcp.seq().distance_from(SeqNumber(self.plan.isn) + 1) as usize;
        let end = at + segment.payload.len();
        prop_assert!(end <= self.stream.len());
        prop_assert_eq!(segment.payload, &self.stream[at..end]);
        // Never beyond the window, but for the one byte that probes a closed one.
        let may_reach = self.target.right_edge.max(self.target.next() + 1);
        prop_assert!(end <= may_reach, "{:?} beyond {}", segment, may_reach);
        self.target.take(at, end);
        if flags.contains(Flags::FIN) {
            prop_assert_eq!(end, self.stream.len(), "the FIN stands behind the last byte");
            self.target.fin_at = Some(end);
        }
        if !segment.payload.is_empty() || flags.contains(Flags::FIN) {
            let ack = self.plan.isn.wrapping_add(self.target.next() as u32);
            return self.reply(Flags::ACK, TARGET_ISN + 1, ack, &[]);
        }
        Ok(())
    }

    /// Acknowledges what lies up to `ack`, the number before the one expected next.
    fn reply(&mut self, flags: Flags, seq: SeqNumber, ack: u32, options: &[u8]) -> Result<(), TestCaseError> {
        let window = self.windows.next().unwrap_or(u16::MAX);
        let shift = if flags.contains(Flags::SYN) { 0 } else { self.target.shift };
        if self.loses_one() {
            return Ok(());
        }
        self.target.right_edge = self.target.right_edge.max(self.target.next() + (usize::from(window) << shift));
        let header = ResponseHeader {
            payload: &[],
            id: self.id,
            seq,
            ack: SeqNumber(ack) + 1,
            flags,
            window,
            payload_len: 0,
            options,
        };
        self.tell(Input::Response(header))
    }

    fn client(&mut self, flags: Flags, seq: u32, payload: &[u8]) -> Result<(), TestCaseError> {
        let mut options = Options::default();
        if flags.contains(Flags::SYN) {
            (options.mss, options.window_scale, options.sack_permitted) = (Some(1460), Some(7), true);
        }
        let mut bytes = Vec::new();
        let seq = SeqNumber(self.plan.isn) + seq;
        TcpRepr { src: CLIENT, dst: ONLINE, seq, ack: SeqNumber(77), flags, window: 500, options, ip_id: 1 }
            .write((payload, &[]), &mut bytes);
        self.tell(Input::Frame { link: LinkType::Raw, bytes: &bytes, wire_len: bytes.len() })
    }

    fn pass(&mut self, time: Duration) -> Result<(), TestCaseError> {
        let end = self.now + time;
        while let Some(at) = self.copier.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.tell(Input::Timeout)?;
        }
        self.now = end;
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(300),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_target_has_the_stream_in_the_end(plan in plan()) {
        let map = Map::tcp(Some(ONLINE.addr), ONLINE.port, TARGET);
        let config = CopierConfig { gate: Gate::Off, ..CopierConfig::new(vec![map], ModuleHandle::new(PlainTcp)) };
        let mut run = Run {
            plan: &plan,
            stream: (0..plan.len).map(|i| (i * 7 / 3 % 253) as u8).collect(),
            copier: Copier::new(config),
            out: Outbox::new(),
            now: Timestamp::from_millis(5),
            id: FlowId(0),
            target: Target {
                got: vec![false; plan.len],
                in_order: 0,
                fin_at: None,
                right_edge: 0,
                shift: plan.scale.unwrap_or(0),
            },
            windows: plan.windows.clone().into_iter(),
            losses: plan.losses.clone().into_iter(),
        };
        run.client(Flags::SYN, 0, &[])?;
        run.client(Flags::ACK, 1, &[])?;
        for &(start, len) in &plan.segments {
            run.pass(Duration::from_millis(3))?;
            let payload = run.stream[start..start + len].to_vec();
            run.client(Flags::ACK | Flags::PSH, 1 + start as u32, &payload)?;
        }
        run.client(Flags::FIN | Flags::ACK, 1 + plan.len as u32, &[])?;
        // Sixty losses at most and twenty windows at most: all are over long before.
        run.pass(Duration::from_secs(400))?;
        prop_assert_eq!(run.target.in_order, plan.len, "bytes that arrived");
        prop_assert_eq!(run.target.fin_at, Some(plan.len));
        prop_assert_eq!(run.copier.ledger().bytes_copied, plan.len as u64);
        prop_assert_eq!(run.copier.ledger().sessions_ended.iter().sum::<u64>(), 0);
    }
}
