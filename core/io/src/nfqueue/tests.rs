use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::message::*;
use super::*;
use crate::firewall::tests::namespace_for_rules;
use crate::netns::{Namespace, wait_for};

fn concat(fields: &[&[u8]]) -> Vec<u8> {
    fields.concat()
}

/// In the host's order of bytes, as everything of netlink itself.
fn header(len: u32, kind: u16, flags: u16) -> Vec<u8> {
    concat(&[&len.to_ne_bytes(), &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]])
}

fn attribute(len: u16, kind: u16) -> Vec<u8> {
    concat(&[&len.to_ne_bytes(), &kind.to_ne_bytes()])
}

#[test]
fn a_queue_is_bound_with_all_its_terms_in_one_message() {
    let terms = Begin { queue: 0x0102, length: 8192, copy_bytes: 192, flags: 5 };
    let expected = concat(&[
        &header(64, 0x0302, 5),
        &[0, 0, 1, 2],
        &attribute(8, 1),
        &[1, 0, 0, 0],
        &attribute(9, 2),
        &[0, 0, 0, 192, 2, 0, 0, 0],
        &attribute(8, 3),
        &[0, 0, 0x20, 0],
        &attribute(8, 4),
        &[0, 0, 0, 5],
        &attribute(8, 5),
        &[0, 0, 0, 5],
    ]);
    assert_eq!(begin(terms), expected);
    let expected = concat(&[&header(32, 0x0302, 1), &[0, 0, 0, 7], &attribute(9, 2), &[0, 0, 0xff, 0xfb, 2, 0, 0, 0]]);
    assert_eq!(copy_range(7, 1 << 20), expected, "no more than an attribute holds");
}

#[test]
fn verdicts_are_for_all_packets_up_to_a_number() {
    let mut bytes = Vec::new();
    push_verdict(&mut bytes, 3, 0x0a0b, Verdict::Drop);
    push_verdict(&mut bytes, 3, 0x0a0c, Verdict::Accept);
    let one = |verdict: u8, id: u8| {
        let value = [0, 0, 0, verdict, 0, 0, 0x0a, id];
        concat(&[&header(32, 0x0303, 1), &[0, 0, 0, 3], &attribute(12, 2), &value])
    };
    assert_eq!(bytes, [one(0, 0x0b), one(1, 0x0c)].concat());
}

/// A packet as the kernel hands it over: number, device, whole length, the first nine bytes.
fn packet_message() -> Vec<u8> {
    concat(&[
        &header(64, 0x0300, 0),
        &[2, 0, 0, 3],
        &attribute(11, 1),
        &[0, 0, 0x12, 0x34, 8, 0, 3, 0],
        &attribute(8, 6),
        &[0, 0, 0, 2],
        &attribute(8, 13),
        &[0, 0, 5, 220],
        &attribute(13, 10),
        &[0x45, 0, 5, 220, 1, 2, 3, 4, 5, 0, 0, 0],
    ])
}

#[test]
fn packets_and_answers_are_read() {
    let packet = Message::Packet { id: 0x1234, bytes: &[0x45, 0, 5, 220, 1, 2, 3, 4, 5], len: 1500 };
    let refusal = concat(&[&header(36, 2, 0), &(-2_i32).to_ne_bytes(), &header(32, 0x0303, 1)]);
    let acceptance = concat(&[&header(36, 2, 0), &[0; 4], &header(32, 0x0302, 5)]);
    let other = header(16, 3, 0);
    let datagram = [packet_message(), refusal, acceptance, other].concat();
    let read: Vec<Message<'_>> = messages(&datagram).collect();
    assert_eq!(read, [packet, Message::Answer(2), Message::Answer(0), Message::Other]);

    let without_length: Vec<u8> = [&packet_message()[..40], &packet_message()[48..]].concat();
    let mut without_length = without_length;
    without_length[..4].copy_from_slice(&56_u32.to_ne_bytes());
    assert!(matches!(messages(&without_length).next(), Some(Message::Packet { len: 9, .. })), "copied whole");
    let cut = &without_length[..without_length.len() - 6];
    assert!(
        matches!(messages(cut).next(), Some(Message::Packet { len: 9, bytes: [0x45, ..], .. })),
        "cut by our buffer"
    );
}

#[test]
fn what_is_cut_off_still_has_its_number_and_nothing_panics() {
    let whole = packet_message();
    for len in 0..whole.len() {
        let read: Vec<Message<'_>> = messages(&whole[..len]).collect();
        match len {
            0..=5 => assert_eq!(read, []),
            // The number is complete here.
            28.. => assert!(matches!(read[..], [Message::Packet { id: 0x1234, .. }]), "{len}: {read:?}"),
            _ => assert_eq!(read, [Message::Other], "{len}"),
        }
    }
    // Every length field, every value that may lead astray.
    for at in 0..whole.len() {
        for value in [0, 1, 3, 4, 15, 16, 127, 128, 255] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            for message in messages(&bytes) {
                if let Message::Packet { bytes, len, .. } = message {
                    assert!(bytes.len() <= whole.len() && len >= bytes.len());
                }
            }
        }
    }
}

#[test]
fn the_kernels_table_is_read() {
    let line = parse_line("    7  27391     3 2   192     5     6       99  1").unwrap();
    assert_eq!(
        line,
        QueueLine { number: 7, port: 27_391, waiting: 3, queue_dropped: 5, user_dropped: 6, numbered: 99 }
    );
    assert_eq!(
        parse_line("    0 4294963201 0 2 192 0 0 0  1").unwrap().port,
        parse_line("0 -4095 0 2 1 0 0 0").unwrap().port
    );
    assert_eq!(parse_line("queue"), None);
}

/// A namespace whose UDP port 5000 answers, so to speak, into queue 9; `None`, visibly, where that cannot be had.
fn namespace() -> Option<Namespace> {
    let namespace = namespace_for_rules()?;
    for protocol in ["udp", "tcp"] {
        let rule =
            ["-I", "OUTPUT", "-p", protocol, "--sport", "5000", "-j", "NFQUEUE", "--queue-num", "9", "--queue-bypass"];
        namespace.output("iptables", &rule).unwrap();
    }
    Some(namespace)
}

const CONFIG: QueueConfig = QueueConfig { number: 9, length: 4096, copy_bytes: 128, buffer_bytes: 4 << 20 };

fn sockets() -> (UdpSocket, UdpSocket) {
    let answering = UdpSocket::bind((Ipv4Addr::LOCALHOST, 5000)).unwrap();
    // What is queued takes room in its buffer; a test that queues too much shall fail, not wait.
    answering.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    let asking = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    asking.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    answering.connect(asking.local_addr().unwrap()).unwrap();
    (answering, asking)
}

/// Waits until nobody reads queue 9: a program that another test is just starting has its descriptors a moment longer.
fn until_free() {
    wait_for(Duration::from_secs(10), || (!is_taken(9)).then_some(())).expect("nobody reads it any more");
}

/// Drains until `wanted` packets have come.
fn read(queue: &mut Queue, wanted: usize, mut each: impl FnMut(&[u8], usize) -> Verdict) {
    let (mut count, begun) = (0, Instant::now());
    while count < wanted {
        assert!(begun.elapsed() < Duration::from_secs(30), "{count} of {wanted} packets have come");
        count += queue.drain(usize::MAX, &mut each).unwrap().count;
    }
    assert_eq!(count, wanted);
}

#[test]
fn each_packet_gets_its_own_verdict() {
    let Some(namespace) = namespace() else { return };
    namespace
        .run(|| {
            let (answering, asking) = sockets();
            let mut queue = Queue::open(&CONFIG).unwrap();
            for number in 0..100_u8 {
                answering.send(&[number; 300]).unwrap();
            }
            let mut order = Vec::new();
            // IP and UDP header, then the number: every third one goes through.
            read(&mut queue, 100, |bytes, len| {
                assert_eq!((bytes[0], bytes.len(), len), (0x45, 128, 328));
                order.push(bytes[28]);
                if bytes[28] % 3 == 0 { Verdict::Accept } else { Verdict::Drop }
            });
            assert!(order.iter().copied().eq(0..100));
            for number in (0..100).step_by(3) {
                let mut datagram = [0; 400];
                assert_eq!((asking.recv(&mut datagram).unwrap(), datagram[0]), (300, number));
            }
            let stats = queue.stats();
            assert_eq!((stats.packets, stats.accepted, stats.dropped), (100, 34, 66));
            assert_eq!((stats.unseen, stats.refused, stats.waiting), (0, 0, 0));

            queue.set_copy_bytes(65_535).unwrap();
            answering.send(&vec![7; 40_000]).unwrap();
            read(&mut queue, 1, |bytes, len| {
                assert_eq!((bytes.len(), len), (40_028, 40_028));
                Verdict::Accept
            });
            assert_eq!(asking.recv(&mut vec![0; 65_535]).unwrap(), 40_000);
        })
        .unwrap();
}

#[test]
fn a_full_queue_lets_packets_through() {
    let Some(namespace) = namespace() else { return };
    namespace
        .run(|| {
            let (answering, asking) = sockets();
            let mut queue = Queue::open(&QueueConfig { length: 3, ..CONFIG }).unwrap();
            for number in 0..10_u8 {
                answering.send(&[number]).unwrap();
            }
            let mut datagram = [0];
            for number in 3..10 {
                asking.recv(&mut datagram).unwrap();
                assert_eq!(datagram[0], number, "what did not fit went its way");
            }
            read(&mut queue, 3, |_, _| Verdict::Drop);
            assert_eq!(QueueTable::open().queued(9), Some(3));
            drop(queue);
            until_free();
            answering.send(&[77]).unwrap();
            asking.recv(&mut datagram).unwrap();
            assert_eq!(datagram[0], 77, "nobody reads, and the rule says --queue-bypass");
        })
        .unwrap();
}

#[test]
fn a_full_receive_buffer_is_survived_and_counted() {
    let Some(namespace) = namespace() else { return };
    namespace
        .run(|| {
            let (answering, asking) = sockets();
            let mut queue =
                Queue::open(&QueueConfig { buffer_bytes: 4096, length: 100_000, copy_bytes: 1500, ..CONFIG }).unwrap();
            for _ in 0..40 {
                answering.send(&[1; 1000]).unwrap();
            }
            asking.set_nonblocking(true).unwrap();
            let mut through = 0;
            while asking.recv(&mut [0; 1000]).is_ok() {
                through += 1;
            }
            assert!(through > 0 && through < 40, "{through}");
            let mut seen = 0;
            queue
                .drain(usize::MAX, |_, _| {
                    seen += 1;
                    Verdict::Drop
                })
                .unwrap();
            answering.send(&[2]).unwrap();
            read(&mut queue, 1, |_, _| Verdict::Drop);
            let stats = queue.stats();
            assert_eq!((stats.unseen, stats.packets), (through, 41 - through));
            assert_eq!(seen, 40 - through);
        })
        .unwrap();
}

#[test]
fn a_connection_whose_segments_are_queued_works() {
    let Some(namespace) = namespace() else { return };
    namespace
        .run(|| {
            let mut queue = Queue::open(&CONFIG).unwrap();
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 5000));
            let listener = TcpListener::bind(address).unwrap();
            let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
            std::thread::scope(|scope| {
                let client = scope.spawn(|| {
                    let mut received = Vec::new();
                    TcpStream::connect(address).unwrap().read_to_end(&mut received).unwrap();
                    received
                });
                let server = scope.spawn(|| listener.accept().unwrap().0.write_all(&bytes).unwrap());
                let (mut segments, mut largest, begun) = (0, 0, Instant::now());
                while !client.is_finished() {
                    assert!(begun.elapsed() < Duration::from_secs(60));
                    queue
                        .drain(64, |_, len| {
                            segments += 1;
                            largest = largest.max(len);
                            Verdict::Accept
                        })
                        .unwrap();
                }
                server.join().unwrap();
                assert!(client.join().unwrap() == bytes);
                assert!(segments > 10 && largest > 1500, "{segments} segments, the largest of {largest} bytes");
            });
        })
        .unwrap();
}

#[test]
fn a_queue_has_one_reader_and_the_second_learns_who_the_first_is() {
    let Some(namespace) = namespace() else { return };
    namespace
        .run(|| {
            assert!(!is_taken(9));
            let first = Queue::open(&CONFIG).unwrap();
            assert!(is_taken(9) && first.number() == 9);
            let refusal = Queue::open(&CONFIG).err().unwrap();
            let QueueError::Taken { number: 9, by: Some(by) } = &refusal else { panic!("{refusal:?}") };
            assert_eq!(by.pid, std::process::id());
            let text = refusal.to_string();
            assert!(text.contains("--queue-num") && text.contains(&format!("process {}", by.pid)), "{text}");
            drop(first);
            until_free();
            Queue::open(&CONFIG).unwrap();
        })
        .unwrap();
}
