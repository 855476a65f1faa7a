//! With `--preserve-rtt` the target's clients are as far away as online's.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use smoltcp::socket::tcp::{Socket, State};
use tcpcopy_engine::CopierConfig;
use tcpcopy_module_api::ModuleHandle;
use tcpcopy_module_tcp::PlainTcp;
use tcpcopy_netsim::{Application, Begin, Client, Conditions, Network, Quality, Service};
use tcpcopy_wire::Timestamp;

const TURNS: usize = 10;
const REQUEST: usize = 200;
const RESPONSE: usize = 3_000;

/// Asks, waits for the whole answer, and asks again.
struct Asks {
    turns: usize,
    received: usize,
}

impl Application for Asks {
    fn step(&mut self, _: Timestamp, socket: &mut Socket<'_>) -> Option<Timestamp> {
        while socket.can_recv() {
            self.received += socket.recv(|bytes| (bytes.len(), bytes.len())).unwrap_or(0);
        }
        if self.received >= self.turns * RESPONSE && socket.may_send() {
            if self.turns == TURNS {
                socket.close();
            } else if socket.send_slice(&[b'q'; REQUEST]).is_ok_and(|sent| sent == REQUEST) {
                self.turns += 1;
            }
        }
        None
    }
}

/// Answers at once, and notes how long after the answer before each request came.
struct Answers {
    gaps: Rc<RefCell<Vec<Duration>>>,
    received: usize,
    to_send: usize,
    answered_at: Option<Timestamp>,
}

impl Application for Answers {
    fn step(&mut self, now: Timestamp, socket: &mut Socket<'_>) -> Option<Timestamp> {
        while socket.can_recv() {
            self.received += socket.recv(|bytes| (bytes.len(), bytes.len())).unwrap_or(0);
            if self.received >= REQUEST {
                self.received -= REQUEST;
                self.to_send += RESPONSE;
                self.gaps.borrow_mut().extend(self.answered_at.map(|at| now.since(at)));
                self.answered_at = Some(now);
            }
        }
        if self.to_send > 0 && socket.can_send() {
            self.to_send -= socket.send_slice(&vec![b'a'; self.to_send]).unwrap_or(0);
        }
        if socket.state() == State::CloseWait && self.to_send == 0 {
            socket.close();
        }
        None
    }
}

struct Server(Rc<RefCell<Vec<Duration>>>);

impl Service for Server {
    type Connection = Answers;

    fn accept(&mut self, _: Timestamp, _: SocketAddr) -> Answers {
        Answers { gaps: Rc::clone(&self.0), received: 0, to_send: 0, answered_at: None }
    }
}

/// The times from an answer to the next request, at online and at the target.
fn gaps(one_way: Duration) -> (Vec<Duration>, Vec<Duration>) {
    let conditions = Conditions { client_path: Quality::delayed(one_way), ..Conditions::default() };
    let config =
        CopierConfig { preserve_rtt: true, ..CopierConfig::new(vec![conditions.map()], ModuleHandle::new(PlainTcp)) };
    let application = Asks { turns: 0, received: 0 };
    let client = Client { port: 40_000, begin: Begin::At(Duration::from_millis(1)), timestamps: true, application };
    let (online, target) = (Rc::default(), Rc::default());
    let servers = (Server(Rc::clone(&online)), Server(Rc::clone(&target)));
    let mut network = Network::new(conditions, config, vec![client], servers.0, servers.1);
    network.run().unwrap();
    let ledger = network.copier().ledger();
    ledger.check().unwrap();
    assert_eq!((ledger.sessions_completed, ledger.requests_copied), (1, TURNS as u64));
    drop(network);
    (online.take(), target.take())
}

#[test]
fn the_target_sees_clients_at_their_own_distance() {
    for round_trip in [0, 20, 100].map(Duration::from_millis) {
        let (online, target) = gaps(round_trip / 2);
        assert_eq!((online.len(), target.len()), (TURNS - 1, TURNS - 1));
        for (turn, (online, target)) in online.iter().zip(&target).enumerate() {
            // Between the replica and the target there is a path, too, of less than two milliseconds; timers may be late by
            // about as much.
            let allowed = *online..*online + Duration::from_millis(4);
            assert!(
                *online >= round_trip && allowed.contains(target),
                "{round_trip:?}, turn {turn}: {online:?}, {target:?}"
            );
        }
    }
}
