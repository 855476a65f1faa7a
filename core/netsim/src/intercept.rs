//! The assistant's side: the relay engine and the control link's encoding, between the target's packets and tcpcopy.

use std::time::Duration;

use tcpcopy_engine::LinkId;
use tcpcopy_engine::relay::{PeerId, Relay, RelayConfig, RelayInput, RelayOutbox};
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::{
    BatchEncoder, Decoder, FEATURE_PAYLOAD, FEATURE_UDP, Hello, Message, Payload, Role, RouteChange, encode_hello,
};
use tcpcopy_wire::link::LinkType;

use crate::Failure;

/// What intercept's capture keeps of a packet.
const SNAP_LENGTH: usize = 120;
/// What both ends can do.
const FEATURES: u32 = FEATURE_PAYLOAD | FEATURE_UDP;

/// An intercept with its connections.
pub(crate) struct Intercept {
    relay: Relay,
    out: RelayOutbox,
    /// One a connection, each past its hello.
    decoders: Vec<Decoder>,
}

/// A decoder that has read the hello of the other end.
pub(crate) fn greeted(role: Role) -> Decoder {
    let mut decoder = Decoder::new(role);
    let mut hello = Vec::new();
    encode_hello(&Hello { features: FEATURES, ..Hello::default() }, &mut hello);
    let read = decoder.next(&hello).expect("a hello is valid");
    assert!(matches!(read, Some((Message::Hello(_), n)) if n == hello.len()));
    decoder
}

/// A route change as it goes over a connection.
pub(crate) fn encoded(change: &RouteChange) -> Vec<u8> {
    let mut bytes = Vec::new();
    BatchEncoder::new(0).route(change, &mut bytes);
    bytes
}

impl Intercept {
    pub(crate) fn new(now: Timestamp, links: u16, seed: u64) -> Self {
        let mut relay = Relay::new(RelayConfig { initial_routes: 16, seed, ..RelayConfig::default() });
        let mut out = RelayOutbox::new();
        for link in 0..links {
            let peer = PeerId(u32::from(link));
            let up = RelayInput::PeerUp { peer, route_ttl: Duration::ZERO, max_batch: 0, features: FEATURES };
            relay.handle(now, up, &mut out);
        }
        Self { relay, out, decoders: (0..links).map(|_| greeted(Role::Intercept)).collect() }
    }

    fn tell(&mut self, now: Timestamp, input: RelayInput<'_>) -> Result<(), Failure> {
        self.relay.handle(now, input, &mut self.out);
        self.out.notices.clear();
        self.relay.stats().check()
    }

    /// Bytes of a connection arrive.
    pub(crate) fn on_bytes(&mut self, now: Timestamp, link: LinkId, mut bytes: &[u8]) -> Result<(), Failure> {
        let peer = PeerId(u32::from(link.0));
        while !bytes.is_empty() {
            let decoded = self.decoders[usize::from(link.0)].next(bytes).map_err(|e| e.to_string())?;
            let Some((message, len)) = decoded else { return Err("half a frame".into()) };
            bytes = &bytes[len..];
            match message {
                Message::RouteAdds(routes) => {
                    for (id, transport, flow) in routes {
                        let change = RouteChange::Add { id, transport, flow };
                        self.tell(now, RelayInput::Route { peer, change })?;
                    }
                }
                Message::RoutePayloads(wishes) => {
                    for (id, payload) in wishes {
                        let change = RouteChange::Payload { id, payload };
                        self.tell(now, RelayInput::Route { peer, change })?;
                    }
                }
                Message::RouteRemoves(ids) => {
                    for id in ids {
                        self.tell(now, RelayInput::Route { peer, change: RouteChange::Remove { id } })?;
                    }
                }
                other => return Err(format!("intercept was sent {other:?}")),
            }
        }
        Ok(())
    }

    /// A packet of the target passes the capture.
    pub(crate) fn on_packet(&mut self, now: Timestamp, packet: &[u8]) -> Result<(), Failure> {
        // The capture is opened again, for larger packets, as soon as a route wants payload.
        let snap_length = match self.relay.wants_payload() {
            Payload::Headers => SNAP_LENGTH,
            Payload::First(n) => SNAP_LENGTH + usize::from(n),
            Payload::Full => usize::MAX,
        };
        let bytes = &packet[..packet.len().min(snap_length)];
        self.tell(now, RelayInput::Frame { link: LinkType::Raw, bytes, wire_len: packet.len() })
    }

    pub(crate) fn on_timeout(&mut self, now: Timestamp) -> Result<(), Failure> {
        self.tell(now, RelayInput::Timeout)
    }

    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.relay.next_deadline()
    }

    /// What is to be sent, by connection.
    pub(crate) fn take(&mut self) -> Vec<(LinkId, Vec<u8>)> {
        let batches = self.out.batches().map(|(peer, bytes, _)| (LinkId(peer.0 as u16), bytes.to_vec())).collect();
        self.out.clear_batches();
        batches
    }
}
