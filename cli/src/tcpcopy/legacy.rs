//! What is spoken with intercept: the options for intercepts of the C programs, checked.

use std::net::{IpAddr, SocketAddr};

use tcpcopy_engine::Map;
use tcpcopy_io::control::Protocol;
use tcpcopy_wire::Transport;
use tcpcopy_wire::control::{MAX_RECORD_DATA, RecordKind};

use super::arguments::Arguments;
use super::grammar;
use super::modules::Chosen;
use crate::exit::Failure;

const OPTION: &str = "--intercept-protocol";

/// Reads `--intercept-protocol` and `--single`.
///
/// # Errors
/// What that protocol has no form for, by its option.
pub(super) fn protocol(
    arguments: &Arguments,
    maps: &[Map],
    modules: &[Chosen],
    intercepts: &[SocketAddr],
    workers: u16,
    warnings: &mut Vec<String>,
) -> Result<Protocol, Failure> {
    let single = arguments.single;
    let (option, records) = match (arguments.intercept_protocol.as_ref().map(|text| text.0.trim()), single) {
        (None, false) => return Ok(Protocol::Current),
        (Some("2"), false) if !intercepts.is_empty() => return Ok(Protocol::Current),
        (Some("2"), true) => {
            return Err(Failure::usage(format!(
                "--single is for the C programs' link, which names responses by addresses and ports: give {OPTION} legacy, \
                 or leave it out"
            )));
        }
        // As the C programs that were built for it.
        (None, true) => ("--single", RecordKind::Headers),
        (Some("legacy" | "2"), _) => (OPTION, RecordKind::Headers),
        (Some("legacy-payload"), _) => (OPTION, RecordKind::WithPayload),
        (Some(other), _) => {
            return Err(Failure::usage(format!("in {OPTION}: `{other}` is neither 2, legacy nor legacy-payload")));
        }
    };
    if intercepts.is_empty() {
        return Err(Failure::usage(format!(
            "{option} says what is spoken with intercept, and there is none: give its address with {}",
            grammar::INTERCEPT.name
        )));
    }
    let security = [
        ("--secret-file", arguments.secret_file.is_some()),
        ("--tls-ca", arguments.tls_ca.is_some() || arguments.tls_cert.is_some()),
    ];
    if let Some((wall, _)) = security.iter().find(|(_, given)| *given) {
        return Err(Failure::usage(format!(
            "{option} and {wall} exclude each other: the C programs know neither secrets nor TLS"
        )));
    }
    if single && workers > 1 {
        return Err(Failure::usage(format!(
            "--single and {workers} --workers exclude each other: intercept would not know which worker a response is for; \
             start one tcpcopy for each part of the traffic"
        )));
    }
    refuse_ipv6(option, arguments, maps)?;
    if maps.iter().any(|map| map.transport == Transport::Udp) {
        warnings.push(format!("{option}: that link knows no UDP; the target's datagrams are not counted"));
    }
    for module in modules {
        let name = module.handle.about.name;
        match records {
            _ if ["tcp", "udp"].contains(&name) => {}
            RecordKind::Headers if name == "mysql" => {
                return Err(Failure::usage(format!(
                    "module `{name}` needs the target's payload, which intercept reports with {OPTION} legacy-payload, when \
                     it was built with --with-resp-payload"
                )));
            }
            RecordKind::Headers => warnings.push(format!(
                "{option}: should module `{name}` want the target's payload, it waits in vain; there is some with \
                 legacy-payload"
            )),
            RecordKind::WithPayload => warnings.push(format!(
                "{OPTION} legacy-payload: of a packet with more than {MAX_RECORD_DATA} bytes of payload there is none. Sessions in \
                 which module `{name}` wants to see it are given up, unless the target sends shorter packets: give -D \
                 {MAX_RECORD_DATA}, and see to it that neither the target nor intercept's host merges packets (GSO, GRO)"
            )),
        }
    }
    Ok(Protocol::Legacy { records, single })
}

/// The link has room for IPv4 addresses only.
fn refuse_ipv6(option: &str, arguments: &Arguments, maps: &[Map]) -> Result<(), Failure> {
    let refusal = |what: String| {
        Err(Failure::usage(format!(
            "{option}: {what}, and the C programs' link knows IPv4 only; use an intercept of this release"
        )))
    };
    if let Some(map) = maps.iter().find(|map| map.target.addr.is_ipv6()) {
        return refusal(format!("the target {} in {} has an IPv6 address", map.target, grammar::MAP.name));
    }
    let sources = arguments.source.join(",");
    let sources = if sources.is_empty() { Vec::new() } else { grammar::sources(&sources).map_err(Failure::usage)? };
    match sources.into_iter().chain(arguments.loopback_source).find(IpAddr::is_ipv6) {
        Some(source) => refusal(format!("the source {source} is an IPv6 address")),
        None => Ok(()),
    }
}
