//! The capture filter that follows from the maps.

use std::net::IpAddr;

use tcpcopy_engine::Map;
use tcpcopy_wire::Transport;

/// A filter in pcap's language that takes what clients send to the online servers of maps, over IPv4 and IPv6; of a map
/// whose flag is set, also what these servers answer.
///
/// A fragment of a datagram has no ports, except for the first one over IPv4: all fragments of UDP that go to the right
/// address are taken, and the engine finds out which belong to a map.
pub fn from_maps<'a>(maps: impl IntoIterator<Item = (&'a Map, bool)>) -> String {
    let (mut tcp, mut udp, mut fragments) = (Terms::default(), Terms::default(), Terms::default());
    for (map, with_answers) in maps {
        let directions: &[&str] = if with_answers { &["dst", "src"] } else { &["dst"] };
        for direction in directions {
            let host = map.online_addr.map(|address| format!("{direction} host {address}"));
            let port = format!("{direction} port {}", map.online_port);
            match map.transport {
                Transport::Tcp => tcp.add(&[Some(port), host]),
                Transport::Udp => {
                    udp.add(&[Some(port), host.clone()]);
                    let is_of = |of_family: fn(&IpAddr) -> bool| map.online_addr.as_ref().is_none_or(of_family);
                    // Past the first, by the offset in the header (RFC 791).
                    if is_of(IpAddr::is_ipv4) {
                        fragments.add(&[Some("ip proto 17 and ip[6:2] & 0x1fff != 0".to_owned()), host.clone()]);
                    }
                    // All of them, by the fragment header and what follows in it (RFC 8200, 4.5).
                    if is_of(IpAddr::is_ipv6) {
                        fragments.add(&[Some("ip6[6] = 44 and ip6[40] = 17".to_owned()), host]);
                    }
                }
            }
        }
    }
    let mut parts = Vec::new();
    for (protocol, terms) in [("tcp", tcp), ("udp", udp)] {
        if !terms.0.is_empty() {
            parts.push(format!("{protocol} and ({})", terms.0.join(" or ")));
        }
    }
    parts.extend(fragments.0);
    if let [only] = &parts[..] {
        return only.clone();
    }
    let bracketed = |part: &String| if part.starts_with('(') { part.clone() } else { format!("({part})") };
    parts.iter().map(bracketed).collect::<Vec<_>>().join(" or ")
}

/// A filter that takes what the targets of maps send.
pub fn of_targets(maps: &[Map]) -> String {
    let mut terms = Terms::default();
    for map in maps {
        let transport = map.transport.to_string().to_lowercase();
        let (addr, port) = (map.target.addr, map.target.port);
        terms.add(&[Some(format!("src host {addr} and {transport} src port {port}"))]);
    }
    terms.0.join(" or ")
}

/// Alternatives, each once.
#[derive(Default)]
struct Terms(Vec<String>);

impl Terms {
    /// Adds what all of `conditions` say.
    fn add(&mut self, conditions: &[Option<String>]) {
        let given: Vec<&str> = conditions.iter().flatten().map(String::as_str).collect();
        let term = if given.len() > 1 { format!("({})", given.join(" and ")) } else { given.concat() };
        if !self.0.contains(&term) {
            self.0.push(term);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcpcopy::grammar;
    use tcpcopy_io::capture::check_filter;

    /// The maps of a text; `udp` before a map makes it one over UDP, `both` one over TCP with answers, `udpboth` both.
    fn filter(text: &str) -> String {
        let maps: Vec<(Map, bool)> = grammar::maps(text)
            .unwrap()
            .into_iter()
            .map(|map| {
                let module = map.module.map_or("", |module| module.text());
                let transport = if module.starts_with("udp") { Transport::Udp } else { Transport::Tcp };
                let made = Map { transport, ..Map::tcp(map.online_addr, map.online_port, map.target) };
                (made, module.ends_with("both"))
            })
            .collect();
        from_maps(maps.iter().map(|(map, both)| (map, *both)))
    }

    #[test]
    fn the_filter_of_responses_names_each_target_once() {
        let maps: Vec<Map> = ["10.0.0.2:80", "10.0.0.2:80", "[fd00::2]:81"]
            .iter()
            .map(|target| {
                Map::tcp(None, tcpcopy_wire::Port(80), target.parse::<std::net::SocketAddr>().unwrap().into())
            })
            .collect();
        let made = of_targets(&maps);
        assert_eq!(made, "src host 10.0.0.2 and tcp src port 80 or src host fd00::2 and tcp src port 81");
        assert_eq!(check_filter(&made), Ok(()));
    }

    #[test]
    fn the_filter_names_each_online_server_once() {
        for (maps, expected) in [
            ("80-10.0.0.2:8080", "tcp and (dst port 80)"),
            ("80-10.0.0.2:8080,80-10.0.0.3:8080", "tcp and (dst port 80)"),
            (
                "10.0.0.1:80-10.0.0.2:80,[fd00::1]:81-[fd00::2]:81",
                "tcp and ((dst port 80 and dst host 10.0.0.1) or (dst port 81 and dst host fd00::1))",
            ),
            ("both:80-10.0.0.2:8080", "tcp and (dst port 80 or src port 80)"),
            (
                "both:10.0.0.1:80-10.0.0.2:8080,81-10.0.0.2:81",
                "tcp and ((dst port 80 and dst host 10.0.0.1) or (src port 80 and src host 10.0.0.1) or dst port 81)",
            ),
            (
                "udp:53-10.0.0.2:53,udp:53-10.0.0.3:53",
                "(udp and (dst port 53)) or (ip proto 17 and ip[6:2] & 0x1fff != 0) or (ip6[6] = 44 and ip6[40] = 17)",
            ),
            (
                "udp:10.0.0.1:53-10.0.0.2:53",
                "(udp and ((dst port 53 and dst host 10.0.0.1))) or \
                 (ip proto 17 and ip[6:2] & 0x1fff != 0 and dst host 10.0.0.1)",
            ),
            (
                "80-10.0.0.2:80,udp:[fd00::1]:53-[fd00::2]:53",
                "(tcp and (dst port 80)) or (udp and ((dst port 53 and dst host fd00::1))) or \
                 (ip6[6] = 44 and ip6[40] = 17 and dst host fd00::1)",
            ),
            (
                "udpboth:10.0.0.1:53-10.0.0.2:53",
                "(udp and ((dst port 53 and dst host 10.0.0.1) or (src port 53 and src host 10.0.0.1))) or \
                 (ip proto 17 and ip[6:2] & 0x1fff != 0 and dst host 10.0.0.1) or \
                 (ip proto 17 and ip[6:2] & 0x1fff != 0 and src host 10.0.0.1)",
            ),
        ] {
            let made = filter(maps);
            assert_eq!(made, expected, "{maps}");
            assert_eq!(check_filter(&made), Ok(()), "{maps}");
        }
    }
}
