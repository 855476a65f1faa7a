//! What maps must not be, beyond their grammar.

use std::net::IpAddr;

use tcpcopy_engine::Map;
use tcpcopy_wire::Transport;

use crate::exit::Failure;
use crate::tcpcopy::grammar;

/// Refuses maps whose copies would be captured and copied again, or would reach the online server.
pub(super) fn refuse_loops(maps: &[Map], local: &[IpAddr]) -> Result<(), Failure> {
    let is_local = |address: IpAddr| address.is_loopback() || local.contains(&address);
    for map in maps {
        let online = maps.iter().find(|online| {
            online.transport == map.transport
                && online.online_port == map.target.port
                && match online.online_addr {
                    Some(address) => address == map.target.addr,
                    None => is_local(map.target.addr),
                }
        });
        if let Some(online) = online {
            let which = online.online_addr.map_or_else(
                || format!("port {} of this host", online.online_port),
                |address| format!("{}", tcpcopy_wire::Endpoint::new(address, online.online_port)),
            );
            return Err(Failure::usage(format!(
                "in {}: the target {} is an online server itself ({which} is copied): it would get every request \
                 twice, and the copies would be copied again; give the address and port of a test server",
                grammar::MAP.name,
                map.target
            )));
        }
    }
    Ok(())
}

pub(super) fn check_families(maps: &[Map], has_sources: bool) -> Result<(), Failure> {
    for map in maps {
        if let Some(online) = map.online_addr
            && online.is_ipv4() != map.target.addr.is_ipv4()
            && !has_sources
        {
            return Err(Failure::usage(format!(
                "in {}: online {online} and target {} are of different families: copies need addresses of the target's \
                 family, given with -c",
                grammar::MAP.name,
                map.target
            )));
        }
    }
    Ok(())
}

pub(super) fn warn_of_shadowed_maps(maps: &[Map], warnings: &mut Vec<String>) {
    for (i, map) in maps.iter().enumerate() {
        let takes_all_of_it = |earlier: &&Map| {
            earlier.transport == map.transport
                && earlier.online_port == map.online_port
                && (earlier.online_addr.is_none() || earlier.online_addr == map.online_addr)
        };
        let mut earlier = maps[..i].iter().filter(takes_all_of_it);
        match map.transport {
            Transport::Tcp => {
                if let Some(earlier) = earlier.next() {
                    warnings.push(format!(
                        "-x: the map to {} is never used: the map to {} before it takes the same packets",
                        map.target, earlier.target
                    ));
                }
            }
            // Each target gets a copy.
            Transport::Udp => {
                if earlier.any(|earlier| earlier.target == map.target) {
                    warnings
                        .push(format!("-x: two maps to {} take the same datagrams: it gets each twice", map.target));
                }
            }
        }
    }
}
