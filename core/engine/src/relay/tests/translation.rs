//! Something on the way changes addresses: DNAT in front of the target, a container's host behind which every client is one.

use super::*;

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(172, 17, 0, last).into()
}

/// The flow as the target sees it, whose own address is 172.17.0.9.
fn behind_dnat(mut flow: Flow) -> Flow {
    flow.server.addr = address(9);
    flow
}

fn bench(clients: Vec<(IpAddr, IpAddr)>, any_target: bool) -> Bench {
    let mut b = Bench::new(|config| config.translation = Translation { clients, any_target });
    b.up(0, 80, 0);
    b
}

#[test]
fn a_target_behind_dnat_has_another_address_than_the_copies_are_sent_to() {
    let mut b = bench(Vec::new(), true);
    b.add(0, 7, flow(1));
    b.respond(behind_dnat(flow(1)), 100, 10);
    b.respond(flow(1), 110, 10);
    assert_eq!(b.relayed(), [(0, (7, 100, 10)), (0, (7, 110, 10))]);
    // The port of the target, and the client, still count.
    let mut elsewhere = behind_dnat(flow(1));
    elsewhere.server.port = Port(81);
    b.respond(elsewhere, 0, 10);
    b.respond(behind_dnat(flow(2)), 0, 10);
    assert_eq!(b.relayed(), []);
    b.remove(0, 7);
    assert_eq!(b.relay.stats().routes_alive, 0);

    let mut strict = bench(Vec::new(), false);
    strict.add(0, 7, flow(1));
    strict.respond(behind_dnat(flow(1)), 100, 10);
    assert_eq!(strict.relayed(), []);
}

#[test]
fn an_early_response_from_behind_dnat_finds_its_route() {
    let mut b = bench(Vec::new(), true);
    b.respond(behind_dnat(flow(1)), 100, 10);
    assert_eq!(b.relayed(), []);
    b.add(0, 7, flow(1));
    assert_eq!(b.relayed(), [(0, (7, 100, 10))]);
    assert_eq!(b.relay.stats().held, 0);
}

#[test]
fn a_response_to_a_containers_host_goes_to_the_copy_behind_it() {
    let copy = flow(1).client.addr;
    let mut b = bench(vec![(address(1), copy)], false);
    b.add(0, 7, flow(1));
    let mut seen = flow(1);
    seen.client.addr = address(1);
    b.respond(seen, 100, 10);
    // What came unchanged, as from the host itself, is found as ever.
    b.respond(flow(1), 110, 10);
    assert_eq!(b.relayed(), [(0, (7, 100, 10)), (0, (7, 110, 10))]);
    seen.client.addr = address(2);
    b.respond(seen, 120, 10);
    assert_eq!(b.relayed(), []);

    // Both at once, over the C programs' link as well: its records have the copy's address.
    let mut both = bench(vec![(address(1), copy)], true);
    both.give(RelayInput::LegacyPeerUp { peer: PeerId(1) });
    both.add(1, 0, flow(1));
    seen.client.addr = address(1);
    both.respond(behind_dnat(seen), 100, 0);
    let batches: Vec<(PeerId, Vec<u8>)> = both.out.batches().map(|(peer, bytes, _)| (peer, bytes.to_vec())).collect();
    let [(PeerId(1), bytes)] = &batches[..] else { panic!("one frame for the C program: {batches:?}") };
    // Behind the count: source and destination of the IPv4 header.
    assert_eq!(bytes[2 + 12..2 + 20], [172, 17, 0, 9, 10, 0, 0, 1]);
}
