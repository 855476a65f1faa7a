//! Orders to a running copy of datagrams: pause, go on.

use tcpcopy_engine::Input;
use tcpcopy_engine::ledger::PacketDrop;
use tcpcopy_wire::control::RouteChange;

use crate::stage::{CLIENT, ONLINE, Stage};

#[test]
fn in_a_pause_no_datagram_goes_out_and_no_route_is_kept() {
    let mut stage = Stage::plain();
    stage.query(b"before");
    let (id, ..) = stage.last_route();
    assert_eq!(stage.tell(Input::Pause), []);
    assert!(matches!(stage.routes.last(), Some((_, RouteChange::Remove { id: gone })) if *gone == id));
    assert_eq!(stage.datagram(CLIENT, ONLINE, b"meanwhile"), []);
    let ledger = stage.copier.ledger();
    assert_eq!((ledger.udp_flows_alive, ledger.maps[0].sessions_alive), (0, 0));
    assert_eq!(stage.dropped(PacketDrop::Paused), 1);
    assert_eq!(stage.tell(Input::Resume), []);
    stage.query(b"after");
    let map = &stage.copier.ledger().maps[0];
    assert_eq!((map.sessions, map.sessions_alive, map.requests, map.requests_copied), (2, 1, 2, 2));
    assert_eq!((map.bytes_copied, stage.copier.ledger().maps[1].requests), (11, 0));
}
