use super::super::tests::{assert_both_families_pass, datagram_v4, datagram_v6};
use super::super::{SendError, Transmitter};
use super::*;
use crate::capture::{Capture, CaptureConfig, Method};
use crate::netns::{Host, Lab, wait_for};

const PATIENCE: Duration = Duration::from_secs(20);

/// The hosts of a lab, or a visible word that a test did not run, and why.
fn lab() -> Option<Lab> {
    Lab::new().map_err(|error| eprintln!("SKIPPED: {error}")).ok()
}

fn ip(host: &Host, arguments: &str) -> String {
    host.output("ip", &arguments.split(' ').collect::<Vec<_>>()).unwrap()
}

fn found_by_itself(addr: impl Into<IpAddr>) -> LinkTarget {
    LinkTarget { addr: addr.into(), source: None, next_hop: None }
}

/// A transmitter on a device of online, in online's namespace.
fn transmitter(lab: &Lab, device: &str, targets: &[LinkTarget]) -> Transmitter {
    let open = || {
        let paths = LinkPaths::find(&[device.to_owned()], targets).unwrap();
        Transmitter::open_link(&paths, 1 << 20).unwrap()
    };
    lab.online.run(open).unwrap()
}

/// Why no transmitter can be had.
fn refusal(lab: &Lab, devices: &[&str], target: LinkTarget) -> String {
    let devices: Vec<String> = devices.iter().map(|device| (*device).to_owned()).collect();
    lab.online.run(|| LinkPaths::find(&devices, &[target]).map(drop).unwrap_err().to_string()).unwrap()
}

/// A socket on a host, with its port.
fn receiver(host: &Host, address: impl Into<IpAddr>) -> (UdpSocket, u16) {
    let address = address.into();
    let socket = host.run(|| UdpSocket::bind((address, 0)).unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// Sends datagrams until one arrives; tells whether one has.
fn gets_through(transmitter: &mut Transmitter, socket: &UdpSocket, to: Ipv4Addr) -> bool {
    let packet = datagram_v4(to, socket.local_addr().unwrap().port(), b"through");
    let arrived = wait_for(PATIENCE, || {
        transmitter.send(std::iter::once((to.into(), packet.as_slice())));
        socket.recv(&mut [0; 16]).ok()
    });
    arrived.is_some()
}

fn mac_of(host: &Host) -> MacAddress {
    match host.run(|| hardware("eth0")).unwrap() {
        Ok(Hardware::Ethernet(address)) => address,
        other => panic!("{other:?}"),
    }
}

#[test]
fn frames_of_both_families_arrive_in_order_though_no_neighbour_was_known() {
    let Some(lab) = lab() else { return };
    assert!(!ip(&lab.online, "neigh").contains("10.77.0.3"), "nobody has asked yet");
    let (v4, _) = receiver(&lab.target, lab.target.ipv4);
    let (v6, _) = receiver(&lab.target, lab.target.ipv6);
    let mut transmitter =
        transmitter(&lab, "eth0", &[found_by_itself(lab.target.ipv4), found_by_itself(lab.target.ipv6)]);
    assert_both_families_pass(&mut transmitter, (lab.target.ipv4, v4), (lab.target.ipv6, v6));
}

#[test]
fn a_router_is_the_next_hop_where_the_route_says_so() {
    let Some(lab) = lab() else { return };
    // The target's address on its link, as routers announce theirs.
    let line = ip(&lab.target, "-6 -brief addr show dev eth0 scope link");
    let link_local = line.split_whitespace().find(|word| word.starts_with("fe80:")).unwrap();
    let link_local = link_local.split('/').next().unwrap();
    for (far, route) in [
        (Ipv4Addr::new(10, 99, 0, 1), "10.99.0.0/24 via 10.77.0.3".to_owned()),
        // IPv4 by a router that has an IPv6 address (RFC 8950).
        (Ipv4Addr::new(10, 98, 0, 1), format!("10.98.0.0/24 via inet6 {link_local} dev eth0")),
    ] {
        ip(&lab.target, &format!("addr add {far}/32 dev lo"));
        ip(&lab.online, &format!("route add {route}"));
        let (socket, _) = receiver(&lab.target, far);
        assert!(gets_through(&mut transmitter(&lab, "eth0", &[found_by_itself(far)]), &socket, far), "{route}");
    }
    let far: Ipv6Addr = "fd99::1".parse().unwrap();
    ip(&lab.target, "addr add fd99::1/128 dev lo nodad");
    ip(&lab.online, &format!("route add fd99::/64 via {link_local} dev eth0"));
    let (socket, port) = receiver(&lab.target, far);
    let mut transmitter = transmitter(&lab, "eth0", &[found_by_itself(far)]);
    let packet = datagram_v6(far, port, b"through");
    transmitter.send(std::iter::once((far.into(), packet.as_slice())));
    assert_eq!(transmitter.stats().sent, 1);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(socket.recv(&mut [0; 16]).unwrap(), 7);
}

/// Down and up again, and then another device of the same name.
#[test]
fn a_device_that_comes_back_is_used_again() {
    let Some(lab) = lab() else { return };
    let to = Ipv4Addr::new(10, 55, 0, 2);
    let build = || {
        ip(&lab.online, "link add side0 type veth peer name side1");
        ip(&lab.online, "link set side1 up");
        ip(&lab.online, "addr add 10.55.0.1/24 dev side0");
        ip(&lab.online, "neigh add 10.55.0.2 lladdr 02:00:00:00:00:55 dev side0");
        ip(&lab.online, "link set side0 up");
    };
    build();
    let mut transmitter = transmitter(&lab, "side0", &[found_by_itself(to)]);
    let packet = datagram_v4(to, 9, b"out");
    let sends = |transmitter: &mut Transmitter| {
        let before = transmitter.stats().sent;
        wait_for(PATIENCE, || {
            transmitter.send(std::iter::once((to.into(), packet.as_slice())));
            (transmitter.stats().sent > before).then_some(())
        })
        .is_some()
    };
    assert!(sends(&mut transmitter));
    ip(&lab.online, "link del side0");
    transmitter.send(std::iter::once((to.into(), packet.as_slice())));
    let stats = transmitter.stats();
    let lost = stats.failed[SendError::NoRoute as usize] + stats.failed[SendError::NoNeighbour as usize];
    assert_eq!(lost, 1, "{stats:?}");
    build();
    assert!(sends(&mut transmitter));
}

#[test]
fn given_addresses_are_used_and_nobody_is_asked() {
    let Some(lab) = lab() else { return };
    let source = MacAddress([2, 0, 0, 0, 0, 0x77]);
    let next_hop = mac_of(&lab.target);
    let target = LinkTarget { addr: lab.target.ipv4.into(), source: Some(source), next_hop: Some(next_hop) };
    let config = CaptureConfig {
        device: "eth0".to_owned(),
        filter: "udp and src host 198.51.100.7".to_owned(),
        method: Method::Raw,
        ..CaptureConfig::default()
    };
    let mut capture = lab.target.run(|| Capture::open(&config).unwrap()).unwrap();
    let (socket, _) = receiver(&lab.target, lab.target.ipv4);
    assert!(gets_through(&mut transmitter(&lab, "eth0", &[target]), &socket, lab.target.ipv4));
    let mut headers = Vec::new();
    capture.drain(1, |frame, _| headers.push(frame[..14].to_vec())).unwrap();
    assert_eq!(headers, [[&next_hop.0[..], &source.0, &[8, 0]].concat()]);
    assert!(!ip(&lab.online, "neigh").contains("10.77.0.3"));
}

#[test]
fn a_next_hop_that_moves_is_followed() {
    let Some(lab) = lab() else { return };
    let to = lab.target.ipv4;
    let (socket, port) = receiver(&lab.target, to);
    let mut transmitter = transmitter(&lab, "eth0", &[found_by_itself(to)]);
    assert!(gets_through(&mut transmitter, &socket, to));
    ip(&lab.target, "link set eth0 address 02:00:00:00:00:99");
    let packet = datagram_v4(to, port, b"lost");
    transmitter.send(std::iter::once((to.into(), packet.as_slice())));
    socket.recv(&mut [0; 16]).expect_err("this one goes to where the target was");
    ip(&lab.online, "neigh replace 10.77.0.3 lladdr 02:00:00:00:00:99 dev eth0");
    assert!(gets_through(&mut transmitter, &socket, to));
}

#[test]
fn a_neighbour_that_answers_late_is_counted_until_then_and_used_from_then_on() {
    let Some(lab) = lab() else { return };
    let to = Ipv4Addr::new(10, 77, 0, 200);
    let mut transmitter = transmitter(&lab, "eth0", &[found_by_itself(to)]);
    let packet = datagram_v4(to, 9, b"nobody");
    transmitter.send(std::iter::repeat_n((IpAddr::V4(to), packet.as_slice()), 3));
    let stats = transmitter.stats();
    assert_eq!((stats.sent, stats.failed[SendError::NoNeighbour as usize]), (0, 3));
    ip(&lab.target, "addr add 10.77.0.200/16 dev eth0");
    let (socket, _) = receiver(&lab.target, to);
    assert!(gets_through(&mut transmitter, &socket, to));
}

#[test]
fn of_several_devices_each_target_has_the_one_that_leads_to_it() {
    let Some(lab) = lab() else { return };
    ip(&lab.online, "link add side0 type veth peer name side1");
    ip(&lab.online, "link set side0 address 02:00:00:00:00:50");
    ip(&lab.online, "link set side0 up");
    let devices = ["side0".to_owned(), "eth0".to_owned()];
    let far = Ipv4Addr::new(203, 0, 113, 1);
    let next_hop = Some(MacAddress([2, 0, 0, 0, 0, 1]));
    let by_source = LinkTarget { addr: far.into(), source: Some(MacAddress([2, 0, 0, 0, 0, 0x50])), next_hop };
    let (indexes, hops) = lab
        .online
        .run(|| {
            let indexes = devices.each_ref().map(|device| device_index(device).unwrap() as i32);
            let search = Search::new(&devices, &[by_source, found_by_itself(lab.target.ipv4)]);
            let mut search = search.unwrap();
            assert!(wait_for(PATIENCE, || search.look().then_some(())).is_some());
            (indexes, search.hops())
        })
        .unwrap();
    let used: Vec<i32> = hops.iter().map(|(_, hop)| hop.unwrap().device).collect();
    assert_eq!(used, indexes);

    let lost = refusal(&lab, &["side0", "eth0"], LinkTarget { source: None, ..by_source });
    assert!(lost.contains("203.0.113.1") && lost.contains("no route"), "{lost}");
}

#[test]
fn what_cannot_be_used_is_explained() {
    let Some(lab) = lab() else { return };
    ip(&lab.online, "link set lo up");
    let target = found_by_itself(lab.target.ipv4);
    for (device, target, words) in [
        ("nosuchdev0", target, "no such network device"),
        ("any", target, "no such network device"),
        ("lo", target, "loopback"),
        ("eth0", found_by_itself(lab.online.ipv4), "an address of this host; leave -o out"),
    ] {
        let message = refusal(&lab, &[device], target);
        assert!(message.contains(device) && message.contains(words), "{message}");
    }
}

#[test]
fn a_frame_that_the_device_does_not_take_is_counted_and_the_rest_goes() {
    let Some(lab) = lab() else { return };
    let to = lab.target.ipv4;
    let (socket, port) = receiver(&lab.target, to);
    let mut transmitter = transmitter(&lab, "eth0", &[found_by_itself(to)]);
    let packets = [vec![7; 100], vec![0; 3000], vec![8; 100]].map(|payload| datagram_v4(to, port, &payload));
    transmitter.send(packets.iter().map(|packet| (to.into(), packet.as_slice())));
    let stats = transmitter.stats();
    assert_eq!((stats.sent, stats.failed[SendError::TooLarge as usize]), (2, 1));
    for first in [7, 8] {
        let mut bytes = [0; 200];
        assert_eq!((socket.recv(&mut bytes).unwrap(), bytes[0]), (100, first));
    }
}
