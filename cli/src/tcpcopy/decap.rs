//! What `--decap` says: the tunnels out of which packets are taken, and what the capture's filter must let pass for them.

use tcpcopy_wire::decap::{Decapsulation, GENEVE_PORT, VXLAN_PORT};

use super::arguments::Arguments;
use crate::exit::Failure;
use crate::grammar::{OptionName, Part, SyntaxError};

/// The option.
pub const DECAP: OptionName = OptionName { name: "--decap", example: "--decap vxlan or --decap vxlan:4790,gre,erspan" };

/// What is said of mirrored traffic.
pub struct Mirror {
    /// Its tunnels.
    pub tunnels: Decapsulation,
    /// Whether the devices are to show what is addressed to other hosts.
    pub promiscuous: bool,
}

/// Reads what is said of mirrored traffic, which comes from these devices or, when a file `replays` it, from there.
///
/// # Errors
/// Wrong usage.
pub fn mirror(
    arguments: &Arguments,
    devices: &[String],
    workers: u16,
    replays: bool,
    warnings: &mut Vec<String>,
) -> Result<Mirror, Failure> {
    let text = arguments.decap.join(",");
    let tunnels = if text.is_empty() { Decapsulation::default() } else { tunnels(&text).map_err(Failure::usage)? };
    if replays {
        if arguments.promiscuous {
            return Err(Failure::usage("--promiscuous is for devices; -i names a file: leave --promiscuous out"));
        }
        return Ok(Mirror { tunnels, promiscuous: false });
    }
    let promiscuous = arguments.promiscuous || !text.is_empty();
    // A tunnel mostly ends at an address of this host; a plain mirror does not.
    if promiscuous && !tunnels.is_on() && devices.iter().any(|device| device == "any") {
        warnings.push(
            "-i: `any` cannot show what is addressed to other hosts; name the device that receives the mirror"
                .to_owned(),
        );
    }
    if tunnels.is_on() && workers > 1 {
        warnings.push(
            "--decap with --workers: packets are dealt out by their outer addresses and ports; what always comes from the \
             same port, as ERSPAN does, keeps one worker busy only, and fragments may part from their sessions"
                .to_owned(),
        );
    }
    if let (true, Some(filter)) = (tunnels.is_on(), &arguments.filter) {
        warnings.push(format!("-F: the tunnels of --decap are copied as far as the filter lets them pass: {filter}"));
    }
    Ok(Mirror { tunnels, promiscuous })
}

/// Reads the names of tunnels, separated by commas; those over UDP may have a port behind them.
///
/// VLAN tags are always gone past. `vlan` says no more than that the traffic is a mirror's, which any name does.
///
/// # Errors
/// The first mistake.
pub fn tunnels(text: &str) -> Result<Decapsulation, SyntaxError> {
    let mut tunnels = Decapsulation::default();
    for part in Part::whole(DECAP, text).list()? {
        let (name, port) = match part.split_once(':') {
            None => (part, None),
            Some((name, port)) => (name.trimmed(), Some(port.trimmed())),
        };
        let ports = match name.text() {
            "vxlan" => Some((&mut tunnels.vxlan, VXLAN_PORT)),
            "geneve" => Some((&mut tunnels.geneve, GENEVE_PORT)),
            "gre" => {
                tunnels.gre = true;
                None
            }
            "erspan" => {
                tunnels.erspan = true;
                None
            }
            "vlan" => None,
            other => {
                return Err(
                    name.error(format!("`{other}` is no tunnel that is known: vxlan, gre, erspan, geneve or vlan"))
                );
            }
        };
        match (ports, port) {
            (Some((ports, default)), port) => {
                let port = port.map(|port| port.port()).transpose()?.map_or(default, |port| port.0);
                if !ports.contains(&port) {
                    ports.push(port);
                }
            }
            (None, Some(port)) => return Err(port.error(format!("{} has no port", name.text()))),
            (None, None) => {}
        }
    }
    if let Some(port) = tunnels.vxlan.iter().find(|port| tunnels.geneve.contains(port)) {
        return Err(Part::whole(DECAP, text).error(format!("port {port} cannot be VXLAN and Geneve at the same time")));
    }
    Ok(tunnels)
}

/// A filter that takes what `filter` takes, and the packets of these tunnels.
pub fn with_tunnels(filter: &str, tunnels: &Decapsulation) -> String {
    let mut terms = vec![format!("({filter})")];
    terms.extend(tunnels.vxlan.iter().chain(&tunnels.geneve).map(|port| format!("(udp dst port {port})")));
    if tunnels.has_gre() {
        terms.push("(ip proto 47)".to_owned());
        terms.push("(ip6 proto 47)".to_owned());
    }
    // Past the first, fragments of UDP have no port; the engine finds out which belong to a tunnel.
    if !(tunnels.vxlan.is_empty() && tunnels.geneve.is_empty()) {
        terms.push("(ip proto 17 and ip[6:2] & 0x1fff != 0)".to_owned());
        terms.push("(ip6[6] = 44 and ip6[40] = 17)".to_owned());
    }
    if terms.len() == 1 { filter.to_owned() } else { terms.join(" or ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tcpcopy_io::capture::check_filter;

    #[test]
    fn lists_of_tunnels_are_read() {
        let none = Decapsulation::default();
        for (text, expected) in [
            ("vxlan", Decapsulation { vxlan: vec![4789], ..none.clone() }),
            ("vxlan:8472,vxlan, vxlan:4789", Decapsulation { vxlan: vec![8472, 4789], ..none.clone() }),
            ("gre,erspan", Decapsulation { gre: true, erspan: true, ..none.clone() }),
            ("geneve:7000,vlan", Decapsulation { geneve: vec![7000], ..none.clone() }),
            ("vlan", none),
        ] {
            assert_eq!(tunnels(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_are_pointed_at() {
        for (text, marked, reason) in [
            ("vxlan,ipip", 6..10, "`ipip` is no tunnel"),
            ("gre:47", 4..6, "gre has no port"),
            ("vxlan:", 6..6, "the port is missing"),
            ("vxlan:99999", 6..11, "not a port"),
            ("vxlan,,gre", 6..6, "nothing here"),
            ("vxlan:6081,geneve", 0..17, "at the same time"),
        ] {
            let error = tunnels(text).unwrap_err();
            assert_eq!(error.place, marked, "{text}");
            assert!(error.reason.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn the_filter_lets_tunnels_pass() {
        let all = tunnels("vxlan,geneve:7000,gre").unwrap();
        let filter = with_tunnels("tcp and (dst port 80)", &all);
        assert_eq!(
            filter,
            "(tcp and (dst port 80)) or (udp dst port 4789) or (udp dst port 7000) or (ip proto 47) or (ip6 proto 47) or \
             (ip proto 17 and ip[6:2] & 0x1fff != 0) or (ip6[6] = 44 and ip6[40] = 17)"
        );
        assert_eq!(check_filter(&filter), Ok(()));
        assert_eq!(with_tunnels("tcp", &tunnels("vlan").unwrap()), "tcp");
    }
}
