use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use tcpcopy_wire::checksum::Sum;

use super::*;

/// Runs `test` in a network namespace of its own with `lo` up, or says visibly that it did not run, and why.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    std::thread::spawn(|| {
        // SAFETY: detaches this thread only; it ends with the test.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            eprintln!("SKIPPED: a network namespace needs CAP_SYS_ADMIN");
            return;
        }
        if run("ip", "link set lo up") {
            test();
        } else {
            eprintln!("SKIPPED: needs the program `ip`");
        }
    })
    .join()
    .unwrap();
}

/// Runs a program in the namespace of this thread.
fn run(program: &str, arguments: &str) -> bool {
    Command::new(program).args(arguments.split(' ')).status().is_ok_and(|status| status.success())
}

/// A UDP datagram over IPv4 from 198.51.100.7, without a checksum.
pub(super) fn datagram_v4(to: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut p = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 198, 51, 100, 7];
    p[2..4].copy_from_slice(&(28 + payload.len() as u16).to_be_bytes());
    p.extend(to.octets());
    let checksum = Sum::default().add_bytes(&p).finish();
    p[10..12].copy_from_slice(&checksum.to_be_bytes());
    p.extend(1234u16.to_be_bytes());
    p.extend(port.to_be_bytes());
    p.extend((8 + payload.len() as u16).to_be_bytes());
    p.extend([0, 0]);
    p.extend(payload);
    p
}

/// A UDP datagram over IPv6 from fd00::7.
pub(super) fn datagram_v6(to: Ipv6Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let from: Ipv6Addr = "fd00::7".parse().unwrap();
    let len = 8 + payload.len() as u16;
    let mut udp = Vec::new();
    udp.extend(1234u16.to_be_bytes());
    udp.extend(port.to_be_bytes());
    udp.extend(len.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 0], &len.to_be_bytes(), &[0, 0, 0, 17], &udp].concat();
    let sum: u32 = pseudo.chunks(2).map(|c| u32::from(c[0]) << 8 | c.get(1).map_or(0, |b| u32::from(*b))).sum();
    let folded = !((sum & 0xffff) + (sum >> 16)) as u16;
    udp[6..8].copy_from_slice(&folded.to_be_bytes());
    let mut p = vec![0x60, 0, 0, 0];
    p.extend(len.to_be_bytes());
    p.extend([17, 64]);
    p.extend(from.octets());
    p.extend(to.octets());
    p.extend(udp);
    p
}

/// Keeps this thread on the CPU it is on: loopback and veth have a queue for each, so that packets of a thread that moves may overtake
/// each other.
fn stay_on_this_cpu() {
    // SAFETY: a set of CPUs without any is all zeroes; the number comes from the system.
    let code = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu() as usize, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    assert_eq!(code, 0);
}

fn receiver(address: &str) -> (UdpSocket, u16) {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// Sends 150 datagrams to each of two receivers: more than two batches, the families mixed. All must arrive, in order.
pub(super) fn assert_both_families_pass(
    transmitter: &mut Transmitter,
    (v4, receiver_v4): (Ipv4Addr, UdpSocket),
    (v6, receiver_v6): (Ipv6Addr, UdpSocket),
) {
    let [v4_port, v6_port] = [&receiver_v4, &receiver_v6].map(|socket| socket.local_addr().unwrap().port());
    let packets: Vec<(IpAddr, Vec<u8>)> = (0..150u8)
        .flat_map(|i| [(v4.into(), datagram_v4(v4, v4_port, &[i])), (v6.into(), datagram_v6(v6, v6_port, &[i]))])
        .collect();
    stay_on_this_cpu();
    transmitter.send(packets.iter().map(|(to, p)| (*to, p.as_slice())));
    assert_eq!((transmitter.stats().sent, transmitter.stats().failed), (300, [0; SendError::ALL.len()]));
    for (socket, from) in [(receiver_v4, "198.51.100.7:1234"), (receiver_v6, "[fd00::7]:1234")] {
        for i in 0..150u8 {
            let mut bytes = [0; 4];
            let (len, source) = socket.recv_from(&mut bytes).unwrap();
            assert_eq!((&bytes[..len], source.to_string().as_str()), (&[i][..], from));
        }
    }
}

#[test]
fn packets_of_both_families_arrive_in_order_with_a_foreign_source() {
    in_namespace(|| {
        assert!(run("ip", "route add local 198.51.100.7 dev lo") && run("ip", "addr add fd00::7/128 dev lo"));
        let ((v4, _), (v6, _)) = (receiver("127.0.0.1"), receiver("::1"));
        let mut transmitter = Transmitter::open(true, true, 1 << 20).unwrap();
        assert_both_families_pass(&mut transmitter, (Ipv4Addr::LOCALHOST, v4), (Ipv6Addr::LOCALHOST, v6));
    });
}

#[test]
fn a_failed_packet_is_counted_by_cause_and_the_rest_of_the_batch_goes() {
    in_namespace(|| {
        assert!(run("ip", "link set lo mtu 1280") && run("ip", "route add local 198.51.100.7 dev lo"));
        let (socket, port) = receiver("127.0.0.1");
        let here = Ipv4Addr::LOCALHOST;
        let nowhere = Ipv4Addr::new(203, 0, 113, 1);
        let mut packets = vec![
            (here, datagram_v4(here, port, b"first")),
            (nowhere, datagram_v4(nowhere, port, b"no route")),
            (here, datagram_v4(here, port, &[0; 2000])),
            (here, datagram_v4(here, port, b"last")),
        ];
        let mut expected = TransmitStats { sent: 2, ..TransmitStats::default() };
        expected.failed[SendError::NoRoute as usize] = 1;
        expected.failed[SendError::TooLarge as usize] = 1;
        if run("iptables", "-A OUTPUT -d 127.0.0.2 -j DROP") {
            let forbidden = Ipv4Addr::new(127, 0, 0, 2);
            packets.insert(1, (forbidden, datagram_v4(forbidden, port, b"forbidden")));
            expected.failed[SendError::Forbidden as usize] = 1;
        } else {
            eprintln!("SKIPPED: the part that needs iptables");
        }
        let mut transmitter = Transmitter::open(true, false, 1 << 20).unwrap();
        let six: (IpAddr, &[u8]) = (Ipv6Addr::LOCALHOST.into(), &[0; 48]);
        transmitter.send(packets.iter().map(|(to, p)| (IpAddr::V4(*to), p.as_slice())).chain([six]));
        expected.failed[SendError::NoSocket as usize] = 1;
        assert_eq!(transmitter.stats(), expected);
        for text in [b"first".as_slice(), b"last"] {
            let mut bytes = [0; 2000];
            let len = socket.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..len], text);
        }
    });
}

#[test]
fn a_full_send_buffer_is_counted_and_survived() {
    in_namespace(|| {
        // A slow queue in front of a device: packets stay charged to the socket.
        let slow = run("ip", "link add out0 type veth peer name out1")
            && run("ip", "link set out1 up")
            && run("ip", "addr add 10.9.9.1/24 dev out0")
            && run("ip", "link set out0 up")
            && run("tc", "qdisc add dev out0 root tbf rate 8kbit burst 1600 limit 10000000");
        if !slow {
            eprintln!("SKIPPED: this kernel has no veth device or no tbf queue");
            return;
        }
        let to = Ipv4Addr::new(10, 9, 9, 2);
        assert!(run("ip", "neigh add 10.9.9.2 lladdr 02:00:00:00:00:02 dev out0"));
        let packet = datagram_v4(to, 9, &[0; 1000]);
        let mut transmitter = Transmitter::open(true, false, 8192).unwrap();
        transmitter.send(std::iter::repeat_n((IpAddr::V4(to), packet.as_slice()), 500));
        let stats = transmitter.stats();
        let full = stats.failed[SendError::QueueFull as usize];
        assert!(full > 0 && stats.sent > 0, "{stats:?}");
        assert_eq!(stats.sent + full, 500, "{stats:?}");
    });
}
