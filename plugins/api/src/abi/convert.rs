//! Rust's values as C's, and back.

use std::any::Any;
use std::net::{IpAddr, Ipv4Addr};

use super::{PAYLOAD_FULL, PAYLOAD_NONE, RawEndpoint, RawFlow, RawSessionInfo, TRANSPORT_TCP, TRANSPORT_UDP};
use crate::{Endpoint, Flow, LogLevel, Payload, Port, SessionInfo, Transport};

impl From<Endpoint> for RawEndpoint {
    fn from(endpoint: Endpoint) -> Self {
        let mut address = [0; 16];
        let ip_version = match endpoint.addr {
            IpAddr::V4(addr) => {
                address[..4].copy_from_slice(&addr.octets());
                4
            }
            IpAddr::V6(addr) => {
                address = addr.octets();
                6
            }
        };
        Self { ip_version, port: endpoint.port.0, address }
    }
}

impl From<RawEndpoint> for Endpoint {
    fn from(raw: RawEndpoint) -> Self {
        let addr = if raw.ip_version == 4 {
            let [a, b, c, d, ..] = raw.address;
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        } else {
            IpAddr::from(raw.address)
        };
        Self::new(addr, Port(raw.port))
    }
}

impl From<Flow> for RawFlow {
    fn from(flow: Flow) -> Self {
        Self { client: flow.client.into(), server: flow.server.into() }
    }
}

impl From<RawFlow> for Flow {
    fn from(raw: RawFlow) -> Self {
        Self { client: raw.client.into(), server: raw.server.into() }
    }
}

impl From<&SessionInfo> for RawSessionInfo {
    fn from(info: &SessionInfo) -> Self {
        Self { online: info.online.into(), target: info.target.into(), joined: u32::from(info.joined) }
    }
}

impl From<RawSessionInfo> for SessionInfo {
    fn from(raw: RawSessionInfo) -> Self {
        Self { online: raw.online.into(), target: raw.target.into(), joined: raw.joined != 0 }
    }
}

pub(super) fn transport_number(transport: Transport) -> u32 {
    match transport {
        Transport::Tcp => TRANSPORT_TCP,
        Transport::Udp => TRANSPORT_UDP,
    }
}

pub(super) fn transport_of(number: u32) -> Option<Transport> {
    match number {
        TRANSPORT_TCP => Some(Transport::Tcp),
        TRANSPORT_UDP => Some(Transport::Udp),
        _ => None,
    }
}

pub(super) fn payload_number(payload: Payload) -> u32 {
    match payload {
        Payload::Headers => PAYLOAD_NONE,
        Payload::First(n) => u32::from(n),
        Payload::Full => PAYLOAD_FULL,
    }
}

/// No packet has more than 65535 bytes, so that a larger number means no more than that.
pub(super) fn payload_of(number: u32) -> Payload {
    match number {
        PAYLOAD_NONE => Payload::Headers,
        PAYLOAD_FULL => Payload::Full,
        n => Payload::First(u16::try_from(n).unwrap_or(u16::MAX)),
    }
}

/// An unknown level is one that a person should see.
pub(super) fn level_of(number: u32) -> LogLevel {
    match number {
        1 => LogLevel::Error,
        3 => LogLevel::Info,
        4 => LogLevel::Debug,
        _ => LogLevel::Warn,
    }
}

/// What a panic says.
pub(super) fn panic_text(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => match panic.downcast::<&'static str>() {
            Ok(text) => (*text).to_owned(),
            Err(panic) => {
                // Whatever this is, its destructor could panic again.
                std::mem::forget(panic);
                "a panic without words".to_owned()
            }
        },
    }
}
