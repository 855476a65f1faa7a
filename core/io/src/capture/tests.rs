use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::*;
use crate::netns::{Namespace, Wire};

/// Says visibly that a test did not run, and why.
fn may_capture() -> bool {
    let may = process::has_capability(Capability::NetRaw);
    if !may {
        eprintln!("SKIPPED: capturing on lo needs CAP_NET_RAW");
    }
    may
}

fn config(device: &str, port: u16) -> CaptureConfig {
    CaptureConfig {
        device: device.to_owned(),
        filter: format!("udp and dst port {port}"),
        buffer_bytes: 4 << 20,
        snaplen: 65_535,
        ..CaptureConfig::default()
    }
}

/// Drains `captures` until `wanted` packets have come from all of them together, then for a little longer to see
/// whether there are too many. Returns each packet with its link type.
fn collect(captures: &mut [Capture], wanted: usize) -> Vec<Vec<Vec<u8>>> {
    let mut packets = vec![Vec::new(); captures.len()];
    let give_up = Instant::now() + Duration::from_secs(10);
    let mut stop = give_up;
    while Instant::now() < stop {
        for (capture, list) in captures.iter_mut().zip(&mut packets) {
            let link = capture.link_type();
            while capture
                .drain(2, |frame, wire_len| {
                    assert_eq!(frame.len(), wire_len);
                    list.push(link.ip_packet(frame).unwrap().to_vec());
                })
                .unwrap()
                .more
            {}
        }
        if stop == give_up && packets.iter().map(Vec::len).sum::<usize>() >= wanted {
            stop = Instant::now() + Duration::from_millis(50);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    packets
}

#[test]
fn each_packet_on_lo_is_seen_once() {
    if !may_capture() {
        return;
    }
    for (device, method) in [("lo", Method::Pcap), ("any", Method::Pcap), ("lo", Method::Raw), ("any", Method::Raw)] {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = receiver.local_addr().unwrap();
        let mut captures = [Capture::open(&CaptureConfig { method, ..config(device, to.port()) }).unwrap()];
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for i in 0..5u8 {
            sender.send_to(&[i; 30], to).unwrap();
        }
        let packets = collect(&mut captures, 5).remove(0);
        let last_bytes: Vec<u8> = packets.iter().map(|p| *p.last().unwrap()).collect();
        assert_eq!(last_bytes, [0, 1, 2, 3, 4], "on {device} by {method:?}");
        let stats = captures[0].stats();
        assert_eq!(stats.dropped, 0);
        assert_eq!(stats.received, 5, "what goes out takes no place in the ring");
        assert_eq!(captures[0].check_device(), Ok(()));
    }
}

#[test]
fn a_fanout_group_shares_packets_by_flow() {
    if !may_capture() {
        return;
    }
    for method in [Method::Pcap, Method::Raw] {
        shares_packets_by_flow(method);
    }
}

fn shares_packets_by_flow(method: Method) {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = receiver.local_addr().unwrap();
    let member = |fanout| CaptureConfig { fanout: Some(fanout), method, ..config("lo", to.port()) };
    let mut first = Capture::open(&member(Fanout::New)).unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.send_to(b"before the group is whole", to).unwrap();
    let group = first.fanout_group().unwrap();
    let mut second = Capture::open(&member(Fanout::Join(group))).unwrap();
    assert_eq!(second.fanout_group(), Some(group));
    sender.send_to(b"before the members start", to).unwrap();
    for member in [&mut first, &mut second] {
        member.start().unwrap();
    }
    for _ in 0..64 {
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"one", to).unwrap();
        sender.send_to(b"two", to).unwrap();
    }
    let mut captures = [first, second];
    let packets = collect(&mut captures, 128);
    assert_eq!(packets.iter().map(Vec::len).sum::<usize>(), 128);
    // A share of zero for one member has a chance of 2^-63.
    assert!(packets.iter().all(|share| !share.is_empty()));
    let ports =
        |share: &Vec<Vec<u8>>| -> std::collections::HashSet<[u8; 2]> { share.iter().map(|p| [p[20], p[21]]).collect() };
    assert!(ports(&packets[0]).is_disjoint(&ports(&packets[1])), "a flow is with one member only");
    let received: u64 = captures.iter_mut().map(|capture| capture.stats().received).sum();
    assert_eq!(received, 128, "what goes out takes no place in the ring");
}

#[test]
fn captures_that_are_opened_again_have_the_flows_that_they_had() {
    if !may_capture() {
        return;
    }
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = receiver.local_addr().unwrap();
    let group = CaptureGroup::open(config("lo", to.port()), 3).unwrap();
    let senders: Vec<UdpSocket> = (0..48).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let shares = |captures: &mut [Capture]| {
        for sender in &senders {
            sender.send_to(b"one", to).unwrap();
        }
        let packets = collect(captures, senders.len());
        packets
            .iter()
            .map(|share| share.iter().map(|p| [p[20], p[21]]).collect::<std::collections::BTreeSet<_>>())
            .collect::<Vec<_>>()
    };
    let (numbers, mut captures): (Vec<u64>, Vec<Capture>) = (0..3).filter_map(|member| group.newer(member)).unzip();
    assert_eq!(numbers, [1, 1, 1]);
    assert!(group.newer(0).is_none(), "each is taken once");
    let before = shares(&mut captures);
    assert_eq!(before.iter().flatten().count(), 48);

    // Found to be lost one after the other, and in another order.
    captures.clear();
    let mut again: Vec<(usize, u64, Capture)> = [2, 0, 1]
        .into_iter()
        .map(|member| {
            let (number, capture) = group.again(member, 1).unwrap().unwrap();
            (member, number, capture)
        })
        .collect();
    again.sort_by_key(|(member, ..)| *member);
    assert!(again.iter().all(|(_, number, _)| *number == 2), "opened once, for all");
    captures.extend(again.into_iter().map(|(.., capture)| capture));
    assert_eq!(shares(&mut captures), before);
}

/// A namespace of its own, whose loopback device sends datagrams in fragments.
fn run_with_small_mtu(test: impl FnOnce() + Send) {
    if !may_capture() {
        return;
    }
    let namespace = crate::netns::Namespace::new().unwrap();
    for line in ["link set lo mtu 1500", "link set lo up"] {
        namespace.output("ip", &line.split(' ').collect::<Vec<_>>()).unwrap();
    }
    namespace.run(test).unwrap();
}

#[test]
fn all_fragments_of_a_datagram_go_to_one_member() {
    run_with_small_mtu(|| {
        for (address, device) in [("127.0.0.1", "lo"), ("127.0.0.1", "any"), ("::1", "lo"), ("::1", "any")] {
            let receiver = UdpSocket::bind((address, 0)).unwrap();
            let to = receiver.local_addr().unwrap();
            // Fragments but the first have no ports that a filter could look at.
            let config = CaptureConfig { filter: "udp".to_owned(), ..config(device, 0) };
            let mut captures = Capture::open_group(&config, 4).unwrap();
            for _ in 0..16 {
                let sender = UdpSocket::bind((address, 0)).unwrap();
                sender.send_to(&[7; 4_000], to).unwrap();
            }
            let packets = collect(&mut captures, 48);
            assert_eq!(packets.iter().map(Vec::len).sum::<usize>(), 48, "{address} on {device}");
            let with_fragments = packets.iter().filter(|share| !share.is_empty()).count();
            assert_eq!(with_fragments, 1, "{address} on {device}: fragments go by addresses");
        }
    });
}

#[test]
fn what_cannot_be_opened_is_explained() {
    for method in [Method::Pcap, Method::Raw] {
        let missing = CaptureConfig { method, ..config("nosuchdev0", 1) };
        let message = Capture::open(&missing).err().unwrap().to_string();
        assert!(message.contains("nosuchdev0") && message.contains("lo") && message.contains("any"), "{message}");
    }

    let message = check_filter("tcp and and port 80").unwrap_err().to_string();
    assert!(message.contains("tcp and and port 80") && message.contains("syntax error"), "{message}");
    assert_eq!(check_filter("tcp and dst port 80 and dst host fd00::1"), Ok(()));

    if may_capture() {
        for method in [Method::Pcap, Method::Raw] {
            let bad = CaptureConfig { filter: "tcp port".to_owned(), method, ..config("lo", 1) };
            assert!(matches!(Capture::open(&bad), Err(CaptureError::BadFilter { .. })));
        }
    }
}

/// An Ethernet frame to another host, with VLAN tags of these types, and a datagram from port `number` to port 53 in it.
fn frame(tags: &[u16], number: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8];
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 7]);
    }
    frame.extend([8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    frame.extend(number.to_be_bytes());
    frame.extend([0, 53, 0, 8, 0, 0]);
    frame
}

#[test]
fn a_mirror_is_seen_behind_vlan_tags() {
    let Ok(namespace) = Namespace::new() else {
        eprintln!("SKIPPED: a network namespace needs CAP_SYS_ADMIN");
        return;
    };
    let ip = |arguments: &str| namespace.output("ip", &arguments.split(' ').collect::<Vec<_>>()).unwrap();
    // A kernel that has IPv6 greets its neighbours while the captures are being opened, which they would count.
    for devices in ["all", "default"] {
        let _ = namespace.set_sysctl(&format!("net/ipv6/conf/{devices}/disable_ipv6"), "1");
    }
    ip("link add in0 type veth peer name out0");
    ip("link set in0 up");
    ip("link set out0 up");
    let frames =
        [frame(&[], 1), frame(&[0x8100], 2), frame(&[0x88a8, 0x8100], 3), frame(&[0x8100, 0x8100], 4), frame(&[], 5)];
    for method in [Method::Pcap, Method::Raw] {
        for (behind_tags, expected) in [(false, vec![1, 2, 5]), (true, vec![1, 2, 3, 4, 5])] {
            let config = CaptureConfig { method, behind_tags, promiscuous: true, ..config("in0", 53) };
            let (seen, stats) = namespace
                .run(|| {
                    let mut captures = [Capture::open(&config).unwrap()];
                    assert!(ip("-d link show in0").contains("promiscuity 1"), "by {method:?}");
                    let wire = Wire::open("out0").unwrap();
                    for frame in &frames {
                        wire.send(frame).unwrap();
                    }
                    (collect(&mut captures, expected.len()).remove(0), captures[0].stats())
                })
                .unwrap();
            let numbers: Vec<u16> = seen.iter().map(|packet| u16::from_be_bytes([packet[20], packet[21]])).collect();
            assert_eq!(numbers, expected, "by {method:?}, behind tags: {behind_tags}");
            assert_eq!((stats.received, stats.dropped), (expected.len() as u64, 0), "by {method:?}");
        }
    }
}

#[test]
fn a_device_that_goes_away_ends_its_capture() {
    let Ok(namespace) = Namespace::new() else {
        eprintln!("SKIPPED: a network namespace needs CAP_SYS_ADMIN");
        return;
    };
    let ip = |arguments: &str| namespace.output("ip", &arguments.split(' ').collect::<Vec<_>>()).unwrap();
    for method in [Method::Pcap, Method::Raw] {
        ip("link add in0 type veth peer name out0");
        let opened = namespace.run(|| Capture::open(&CaptureConfig { method, ..config("in0", 53) }));
        assert!(opened.unwrap().is_err(), "{method:?}: a device that is down");
        ip("link set in0 up");
        namespace
            .run(|| {
                let mut capture = Capture::open(&CaptureConfig { method, ..config("in0", 53) }).unwrap();
                assert_eq!(capture.drain(10, |_, _| ()), Ok(Drained { count: 0, more: false }));
                ip("link del in0");
                let lost = Instant::now() + Duration::from_secs(10);
                let error = loop {
                    if let Err(error) = capture.drain(10, |_, _| ()).map(drop).and_then(|()| capture.check_device()) {
                        break error;
                    }
                    assert!(Instant::now() < lost, "{method:?}: it is not noticed");
                };
                assert!(matches!(error, CaptureError::DeviceLost { .. }), "{method:?}: {error}");
            })
            .unwrap();
    }
}
