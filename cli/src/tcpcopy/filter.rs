//! The capture filter that follows from the maps.

use std::fmt::Write;

use tcpcopy_engine::Map;

/// A filter in pcap's language that takes what clients send to the online servers of `maps`, over IPv4 and IPv6.
pub fn from_maps(maps: &[Map]) -> String {
    let mut terms: Vec<String> = Vec::new();
    for map in maps {
        let mut term = format!("dst port {}", map.online_port);
        if let Some(address) = map.online_addr {
            write!(term, " and dst host {address}").expect("strings take all");
            term = format!("({term})");
        }
        if !terms.contains(&term) {
            terms.push(term);
        }
    }
    format!("tcp and ({})", terms.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcpcopy::grammar;
    use tcpcopy_io::capture::check_filter;

    #[test]
    fn the_filter_names_each_online_server_once() {
        for (maps, filter) in [
            ("80-10.0.0.2:8080", "tcp and (dst port 80)"),
            ("80-10.0.0.2:8080,80-10.0.0.3:8080", "tcp and (dst port 80)"),
            (
                "10.0.0.1:80-10.0.0.2:80,[fd00::1]:81-[fd00::2]:81",
                "tcp and ((dst port 80 and dst host 10.0.0.1) or (dst port 81 and dst host fd00::1))",
            ),
        ] {
            let made = from_maps(&grammar::maps(maps).unwrap());
            assert_eq!(made, filter);
            assert_eq!(check_filter(&made), Ok(()));
        }
    }
}
