use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::*;

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
    for device in ["lo", "any"] {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = receiver.local_addr().unwrap();
        let mut captures = [Capture::open(&config(device, to.port())).unwrap()];
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for i in 0..5u8 {
            sender.send_to(&[i; 30], to).unwrap();
        }
        let packets = collect(&mut captures, 5).remove(0);
        let last_bytes: Vec<u8> = packets.iter().map(|p| *p.last().unwrap()).collect();
        assert_eq!(last_bytes, [0, 1, 2, 3, 4], "on {device}");
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
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = receiver.local_addr().unwrap();
    let first = Capture::open(&CaptureConfig { fanout: Some(Fanout::New), ..config("lo", to.port()) }).unwrap();
    let group = first.fanout_group().unwrap();
    let second =
        Capture::open(&CaptureConfig { fanout: Some(Fanout::Join(group)), ..config("lo", to.port()) }).unwrap();
    assert_eq!(second.fanout_group(), Some(group));
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
fn what_cannot_be_opened_is_explained() {
    let message = Capture::open(&config("nosuchdev0", 1)).err().unwrap().to_string();
    assert!(message.contains("nosuchdev0") && message.contains("lo") && message.contains("any"), "{message}");

    let message = check_filter("tcp and and port 80").unwrap_err().to_string();
    assert!(message.contains("tcp and and port 80") && message.contains("syntax error"), "{message}");
    assert_eq!(check_filter("tcp and dst port 80 and dst host fd00::1"), Ok(()));

    if may_capture() {
        let bad = CaptureConfig { filter: "tcp port".to_owned(), ..config("lo", 1) };
        assert!(matches!(Capture::open(&bad), Err(CaptureError::BadFilter { .. })));
    }
}
