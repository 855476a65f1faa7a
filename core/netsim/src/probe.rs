//! A probe ([`tcpcopy_engine::probe`]) on the virtual network: paths to the target and back, an intercept, a server with a
//! TCP that is not the engine's.

use std::time::Duration;

use tcpcopy_engine::probe::{Course, Probe, ProbeConfig, ProbeInput};
use tcpcopy_engine::{LinkId, Outbox};
use tcpcopy_wire::control::{Decoder, FlowId, Message, Role, RouteChange};
use tcpcopy_wire::{Endpoint, Flow, Port, SeqNumber, TcpSegment, Timestamp};

use crate::Failure;
use crate::application::{Listener, Service};
use crate::chance::{Chance, Link, Quality};
use crate::conditions::{Place, TARGET_PORT};
use crate::events::{Event, Events};
use crate::intercept::{Intercept, encoded, greeted};
use crate::server_host::ServerHost;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes its way.
    Passes,
    /// It is dropped.
    Dropped,
}

/// What a probe meets.
pub struct ProbeConditions<'a> {
    /// IPv6.
    pub ipv6: bool,
    /// Both paths.
    pub quality: Quality,
    /// The target.
    pub listener: Listener,
    /// What a firewall on the way to the target does.
    pub to_target: &'a mut dyn FnMut(&TcpSegment<'_>) -> Fate,
    /// What one on the way back does, before intercept.
    pub from_target: &'a mut dyn FnMut(&TcpSegment<'_>) -> Fate,
    /// When the owner of the probe's address, who is given the SYN-ACK as well, resets the connection.
    pub owner_resets: Option<Duration>,
    /// Where all chance comes from.
    pub seed: u64,
}

/// What is left when the probe is over.
#[derive(Debug)]
pub struct ProbeOutcome {
    /// The probe's own account.
    pub course: Course,
    /// How long it took.
    pub took: Duration,
    /// Connections that the target still has, half of one included.
    pub left_at_target: usize,
    /// Routes that were added and not removed.
    pub routes_left: usize,
}

/// Runs a probe to its end against a server.
///
/// # Errors
/// What the engine did that it must never do.
pub fn run_probe<S: Service>(conditions: ProbeConditions<'_>, service: S) -> Result<ProbeOutcome, Failure> {
    let ProbeConditions { ipv6, quality, listener, to_target, from_target, owner_resets, seed } = conditions;
    let mut chance = Chance::new(seed);
    let mut target = ServerHost::new(Place::Target, service, listener, TARGET_PORT, 1500, chance.next());
    let mut intercept = Intercept::new(Timestamp::ZERO, 1, seed);
    let mut decoder: Decoder = greeted(Role::Tcpcopy);
    let (mut there, mut back) = (Link::new(quality), Link::new(quality));
    let mut events = Events::default();
    let mut now = Timestamp::ZERO;
    let mut outbox = Outbox::new();
    let flow = Flow {
        client: Endpoint::new(Place::Clients.address(ipv6), Port(700)),
        server: Endpoint::new(Place::Target.address(ipv6), Port(TARGET_PORT)),
    };
    let isn = SeqNumber(u32::MAX - (chance.next() % 3) as u32);
    let config = ProbeConfig { flow, id: FlowId(7), isn, mss: 1460, links: vec![LinkId(0)] };
    let mut probe = Probe::open(config, now, &mut outbox);
    let mut over_at = None;
    let mut routes = 0_usize;
    let mut owner_resets = owner_resets;
    target.run(now);
    loop {
        for (link, change) in outbox.routes.drain(..) {
            match change {
                RouteChange::Add { .. } => routes += 1,
                RouteChange::Remove { .. } => routes -= 1,
                RouteChange::Payload { .. } => {}
            }
            intercept.on_bytes(now, link, &encoded(&change))?;
        }
        for (_, packet) in outbox.packets() {
            let segment = TcpSegment::from_ip_packet(packet, packet.len()).map_err(|e| format!("{e:?}"))?;
            if segment.flow_from_client() != flow {
                return Err(format!("sent to the wrong place: {segment:?}"));
            }
            if to_target(&segment) == Fate::Passes {
                for at in there.arrivals(now, &mut chance) {
                    events.add(at, Event::Arrival(Place::Target, packet.to_vec()));
                }
            }
        }
        outbox.clear_packets();
        for packet in std::mem::take(&mut target.host.card.sent) {
            let segment = TcpSegment::from_ip_packet(&packet, packet.len()).map_err(|e| format!("{e:?}"))?;
            if let Some(after) = owner_resets.take() {
                events.add(now + after, Event::Arrival(Place::Target, reset_for(&segment)));
            }
            if from_target(&segment) == Fate::Passes {
                for at in back.arrivals(now, &mut chance) {
                    events.add(at, Event::AtIntercept(packet.clone()));
                }
            }
        }
        for (_, bytes) in intercept.take() {
            let mut rest = &bytes[..];
            while let Some((message, len)) = decoder.next(rest).map_err(|e| e.to_string())? {
                rest = &rest[len..];
                if let Message::Responses(responses) = message {
                    responses.for_each(|header| probe.handle(now, ProbeInput::Response(&header), &mut outbox));
                }
            }
        }
        if !outbox.is_empty() {
            continue;
        }
        if probe.course().ending.is_some() && over_at.is_none() {
            over_at = Some(now);
        }
        // After its end the network is given time to carry what is on its way.
        if over_at.is_some_and(|at| now.since(at) > Duration::from_secs(5)) {
            break;
        }
        let next = [probe.next_deadline(), events.next_at(), intercept.next_deadline(), Some(target.wake)];
        let next = next.into_iter().flatten().min().unwrap_or(Timestamp::NEVER);
        let last = over_at.map_or(Timestamp::NEVER, |at| at + Duration::from_secs(6));
        if next == Timestamp::NEVER && last == Timestamp::NEVER {
            return Err("the probe waits for nothing".into());
        }
        now = now.max(next.min(last));
        match events.next_at().filter(|at| *at <= now).and_then(|_| events.take()) {
            Some(Event::Arrival(_, packet)) => target.receive(now, packet),
            Some(Event::AtIntercept(packet)) => intercept.on_packet(now, &packet)?,
            _ => {}
        }
        target.run(now);
        if intercept.next_deadline().is_some_and(|at| at <= now) {
            intercept.on_timeout(now)?;
        }
        if probe.next_deadline().is_some_and(|at| at <= now) {
            probe.handle(now, ProbeInput::Timeout, &mut outbox);
        }
    }
    Ok(ProbeOutcome {
        course: *probe.course(),
        took: over_at.unwrap_or(now).since(Timestamp::ZERO),
        left_at_target: target.live_count(),
        routes_left: routes,
    })
}

/// What a host that knows of no connection answers (RFC 9293, section 3.10.7.1).
pub(crate) fn reset_for(segment: &TcpSegment<'_>) -> Vec<u8> {
    use tcpcopy_wire::build::TcpRepr;
    use tcpcopy_wire::tcp::{Flags, Options};
    let repr = TcpRepr {
        src: segment.dst,
        dst: segment.src,
        seq: segment.tcp.ack(),
        ack: SeqNumber(0),
        flags: Flags::RST,
        window: 0,
        options: Options::default(),
        ip_id: 0,
    };
    let mut packet = Vec::new();
    repr.write((&[], &[]), &mut packet);
    packet
}
