use std::net::IpAddr;

use super::*;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_passlist_has_addresses_and_networks_of_both_families() {
    let list = Passlist::parse("127.0.0.1, 10.1.0.0/16,10.2.3.4/16,fd00::1,fd01::/64,[fd02::7]").unwrap();
    for inside in ["127.0.0.1", "10.1.0.0", "10.1.255.255", "10.2.0.1", "fd00::1", "fd01::ffff", "fd02::7"] {
        assert!(list.contains(address(inside)), "{inside}");
    }
    // The last two are numbers of the other family's.
    for outside in ["127.0.0.2", "10.0.255.255", "10.3.0.0", "fd00::2", "fd01:0:0:1::", "::7f00:1", "0.0.0.1"] {
        assert!(!list.contains(address(outside)), "{outside}");
    }
    assert!(!Passlist::default().contains(address("0.0.0.0")) && Passlist::default().is_empty());
    let all = Passlist::parse("0.0.0.0/0,::/0").unwrap();
    assert!(all.contains(address("255.255.255.255")) && all.contains(address("ffff::")) && !all.is_empty());
    // More than the 32 of the C program, in no order, some twice.
    let many: Vec<String> = (0..500).map(|n| format!("10.{}.{}.9", n * 7 % 100, n % 50)).collect();
    let list = Passlist::parse(&many.join(",")).unwrap();
    assert!(many.iter().all(|ip| list.contains(address(ip))) && !list.contains(address("10.7.1.8")));
}

#[test]
fn a_passlist_that_cannot_be_names_the_place() {
    for (text, said) in [
        ("10.0.0.1/33", "0 to 32"),
        ("fd00::/129", "0 to 128"),
        ("10.0.0.1,,10.0.0.2", "nothing here"),
        ("10.0.0", "not an IPv4 address"),
        ("online", "names are not looked up"),
        ("10.0.0.1/", "0 to 32"),
    ] {
        let message = Passlist::parse(text).unwrap_err().to_string();
        assert!(message.contains(said) && message.contains("-x (--passlist)"), "{text}: {message}");
    }
}

/// An IPv4 packet with nothing but addresses, protocol and the transport's first bytes.
fn ipv4(protocol: u8, to: [u8; 4], source_port: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 2];
    packet.extend(to);
    packet.extend(source_port.to_be_bytes());
    packet.resize(40, 0);
    packet
}

fn ipv6(protocol: u8, to: &str, source_port: u16) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 20, protocol, 64];
    packet.extend([0; 16]);
    let IpAddr::V6(to) = address(to) else { panic!("{to}") };
    packet.extend(to.octets());
    packet.extend(source_port.to_be_bytes());
    packet.resize(60, 0);
    packet
}

#[test]
fn what_is_neither_passlisted_nor_our_own_is_a_response() {
    let passlist = Passlist::parse("10.9.0.0/16,fd09::/16").unwrap();
    let mut judge = Judge { passlist, control_port: 36_524, passed: [0; 3] };
    let (client, friend) = ([10, 0, 0, 1], [10, 9, 1, 1]);
    let mut fragment = ipv4(PROTOCOL_UDP, client, 53);
    fragment[6] = 0;
    fragment[7] = 2;
    let mut last_for_friend = ipv4(PROTOCOL_UDP, friend, 53);
    last_for_friend[6] = 0;
    last_for_friend[7] = 2;
    for (packet, expected) in [
        (ipv4(PROTOCOL_TCP, client, 80), None),
        (ipv4(PROTOCOL_UDP, client, 53), None),
        (ipv6(PROTOCOL_TCP, "fd00::1", 80), None),
        (fragment, None),
        (ipv4(PROTOCOL_TCP, friend, 80), Some(Passed::Passlist)),
        (ipv6(PROTOCOL_TCP, "fd09::1", 80), Some(Passed::Passlist)),
        (last_for_friend, Some(Passed::Passlist)),
        // A rule for all ports must not cut the link to tcpcopy.
        (ipv4(PROTOCOL_TCP, client, 36_524), Some(Passed::Control)),
        (ipv6(PROTOCOL_TCP, "fd00::1", 36_524), Some(Passed::Control)),
        (ipv4(PROTOCOL_UDP, client, 36_524), None),
        // Nor one for everything the rest of the host.
        (ipv4(1, client, 0x0300), Some(Passed::Other)),
        (ipv6(58, "fd00::1", 0x8700), Some(Passed::Other)),
        (vec![0x45, 0], Some(Passed::Other)),
        (vec![], Some(Passed::Other)),
    ] {
        assert_eq!(judge.judge(&packet, packet.len()), expected, "{packet:02x?}");
    }
    assert_eq!(judge.passed, [3, 2, 4]);
}

#[test]
fn answers_are_set_up_by_port_but_never_those_of_intercept_itself() {
    let both = setup("8080, udp:53,tcp:80,8080", 36_524).unwrap();
    let answers = |transport, port| Answers { transport, port };
    assert_eq!(both, [answers(Transport::Tcp, 8080), answers(Transport::Udp, 53), answers(Transport::Tcp, 80)]);
    assert_eq!(setup("udp:36524", 36_524).unwrap(), [answers(Transport::Udp, 36_524)]);
    for (text, said) in [
        ("36524", "intercept itself listens"),
        ("80,tcp:36524", "with -p"),
        ("0", "1 to 65535"),
        ("80,", ""),
        ("sctp:80", "tcp or udp"),
        ("udp:", "port is missing"),
        ("80;81", "not a port"),
    ] {
        match setup(text, 36_524) {
            Ok(_) => assert_eq!(said, "", "{text}"),
            Err(e) => assert!(!said.is_empty() && e.message.contains(said), "{text}: {e}"),
        }
    }
}
