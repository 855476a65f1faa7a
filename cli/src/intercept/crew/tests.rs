use std::time::Duration;

use mio::{Events, Poll, Token};
use tcpcopy_io::control::LinkFull;
use tcpcopy_wire::control::{FlowId, RouteChange};
use tcpcopy_wire::{Endpoint, Flow, Port, Transport};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);
const NOW: Timestamp = Timestamp::ZERO;

/// What was written, and to whom; one peer takes nothing.
#[derive(Default)]
struct Written {
    frames: Vec<(u32, Vec<u8>)>,
    full: Option<u32>,
}

impl Deliver for Written {
    fn deliver(&mut self, peer: PeerId, frames: &[u8], _: u64, _: Timestamp) -> Result<(), LinkFull> {
        if self.full == Some(peer.0) {
            return Err(LinkFull);
        }
        self.frames.push((peer.0, frames.to_vec()));
        Ok(())
    }
}

fn responses(gone: u64, parts: &[(u32, &str, u64)]) -> Responses {
    Responses {
        bytes: parts.iter().flat_map(|(_, text, _)| text.bytes()).collect(),
        parts: parts.iter().map(|(peer, text, count)| (PeerId(*peer), text.len(), *count)).collect(),
        gone,
    }
}

#[test]
fn responses_for_a_connection_that_went_do_not_reach_the_next_one_of_its_number() {
    let (mut books, mut to) = (Books::default(), Written::default());
    books.deliver(&responses(0, &[(0, "first of 0", 1), (1, "of 1", 1)]), NOW, &mut to);
    books.has_gone(PeerId(0));
    // The worker did not know it yet; a new connection may have the number by now.
    books.deliver(&responses(0, &[(0, "late", 4), (1, "still of 1", 1)]), NOW, &mut to);
    books.deliver(&responses(1, &[(0, "of the new 0", 1)]), NOW, &mut to);
    books.has_gone(PeerId(1));
    books.deliver(&responses(1, &[(0, "more of the new 0", 1), (1, "late", 2)]), NOW, &mut to);
    let frames: Vec<(u32, &str)> =
        to.frames.iter().map(|(peer, frames)| (*peer, std::str::from_utf8(frames).unwrap())).collect();
    assert_eq!(
        frames,
        [(0, "first of 0"), (1, "of 1"), (1, "still of 1"), (0, "of the new 0"), (0, "more of the new 0")]
    );
    assert_eq!(books.undelivered[RelayDrop::LinkClosed as usize], 6);
}

#[test]
fn what_a_peer_is_told_adds_up_responses_and_not_routes() {
    let (mut books, mut to) = (Books::default(), Written { full: Some(3), ..Written::default() });
    books.deliver(&responses(0, &[(3, "no room", 5), (2, "room", 1)]), NOW, &mut to);
    assert_eq!(books.undelivered[RelayDrop::LinkFull as usize], 5);
    let one = LinkStats { frames_captured: 10, relayed: 8, unrouted: 1, routes_alive: 6, ..LinkStats::default() };
    let other = LinkStats { frames_captured: 4, relayed: 4, routes_alive: 7, ..LinkStats::default() };
    let of_peer = |books: &Books| books.link_stats(PeerId(3), [&one, &other].into_iter());
    let told = of_peer(&books);
    assert_eq!((told.frames_captured, told.relayed, told.overflowed), (14, 7, 5));
    assert_eq!((told.unrouted, told.routes_alive), (1, 7));
    // The next connection of this number begins with none.
    books.has_gone(PeerId(3));
    assert_eq!((of_peer(&books).relayed, of_peer(&books).overflowed), (12, 0));
}

fn route(peer: u32, id: u64) -> RelayInput<'static> {
    let end = |port: u64| Endpoint::new(std::net::Ipv4Addr::LOCALHOST.into(), Port(port as u16));
    let flow = Flow { client: end(1 + id), server: end(80) };
    let change = RouteChange::Add { id: FlowId(id), transport: Transport::Tcp, flow };
    RelayInput::Route { peer: PeerId(peer), change }
}

fn up(peer: u32) -> RelayInput<'static> {
    RelayInput::PeerUp { peer: PeerId(peer), route_ttl: Duration::from_secs(60), max_batch: 0, features: 0 }
}

struct Bench {
    poll: Poll,
    clock: MonotonicClock,
    crew: Crew,
}

impl Bench {
    fn new(workers: u16) -> Self {
        let (poll, clock) = (Poll::new().unwrap(), MonotonicClock::start());
        let config = || RelayConfig { initial_routes: 16, ..RelayConfig::default() };
        let waker = Arc::new(Waker::new(poll.registry(), Token(9)).unwrap());
        let crew = Crew::start(workers, clock, config, None, waker).unwrap();
        Self { poll, clock, crew }
    }

    /// Asks for the counters, and waits for them as the main thread does.
    fn total(&mut self, peers: &[u32]) -> Total {
        self.crew.ask(peers.iter().map(|peer| PeerId(*peer)));
        let (begun, mut events) = (Instant::now(), Events::with_capacity(4));
        while !self.crew.has_answered() {
            assert!(begun.elapsed() < PATIENCE, "the workers do not answer");
            if !self.crew.has_messages() {
                self.poll.poll(&mut events, Some(PATIENCE)).unwrap();
            }
            self.crew.receive(self.clock.now(), &mut Written::default(), |_| {}).unwrap();
        }
        self.crew.total()
    }
}

/// Far more messages than a channel has room for.
#[test]
fn every_worker_learns_every_route() {
    let mut b = Bench::new(3);
    b.crew.tell(up(0));
    b.crew.tell(up(1));
    for id in 0..4_000 {
        b.crew.tell(route((id % 2) as u32, id));
        b.crew.pass_on();
    }
    let total = b.total(&[0, 1]);
    assert_eq!(total.workers.len(), 3);
    for worker in &total.workers {
        assert_eq!((worker.relay.routes_added, worker.relay.routes_alive), (4_000, 4_000));
    }
    assert_eq!((total.relay.routes_added, total.relay.routes_alive), (4_000, 4_000), "counted once");
    assert_eq!(b.crew.link_stats(PeerId(1)).routes_alive, 2_000);

    b.crew.tell(RelayInput::PeerGone { peer: PeerId(1) });
    assert_eq!(b.crew.link_stats(PeerId(1)), LinkStats::default(), "the counters are of the connection before");
    b.crew.tell(up(1));
    b.crew.tell(route(1, 9_999));
    b.crew.pass_on();
    let total = b.total(&[0, 1]);
    assert_eq!((total.relay.routes_alive, total.relay.routes_orphaned), (2_001, 2_000));
    assert_eq!(b.crew.link_stats(PeerId(1)).routes_alive, 1);
    total.relay.check().unwrap();

    b.crew.stop(b.clock, &mut Written::default());
    assert!(b.crew.members.iter().all(|member| member.thread.is_none()), "they have ended");
    assert_eq!(b.crew.total().relay.routes_alive, 2_001);
}

#[test]
fn a_worker_that_ends_by_itself_ends_the_program() {
    let mut b = Bench::new(2);
    // As if the main thread were no more.
    let (closed, _) = mpsc::sync_channel(1);
    b.crew.members[1].inbox = closed;
    b.crew.members[1].bell.ring();
    let (begun, mut events) = (Instant::now(), Events::with_capacity(4));
    let failure = loop {
        assert!(begun.elapsed() < PATIENCE, "nothing is said of the worker");
        b.poll.poll(&mut events, Some(PATIENCE)).unwrap();
        if let Err(failure) = b.crew.receive(b.clock.now(), &mut Written::default(), |_| {}) {
            break failure;
        }
    };
    assert!(failure.exit == Exit::Failure && failure.message.contains("a worker ended"), "{}", failure.message);
    b.crew.stop(b.clock, &mut Written::default());
    assert!(b.crew.members.iter().all(|member| member.thread.is_none()));
}
