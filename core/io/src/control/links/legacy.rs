//! Links to intercepts of the C programs.
//!
//! Such an intercept says nothing but records, and those name no session but by its addresses and ports. So what version 2
//! leaves to intercept is done here: which flow belongs to which session. A link is up as soon as it is connected, for there
//! is no hello to wait for; and it is never too silent, for there is no ping.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use mio::net::TcpStream;
use socket2::{SockRef, TcpKeepalive};
use tcpcopy_engine::LinkId;
use tcpcopy_wire::control::{FlowId, NO_SESSION, RecordKind, RouteChange, encode_client_add};
use tcpcopy_wire::{Flow, Transport};

use super::{ControlLinks, SendError};

/// What is spoken with the intercepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Version 2, as in docs/protocol.md.
    #[default]
    Current,
    /// The C programs' link, version 6.
    Legacy {
        /// What the intercepts' records hold.
        records: RecordKind,
        /// The intercepts were built with `--single`: they are told of no session, and report whatever they see.
        single: bool,
    },
}

/// The sessions that intercepts were told of, or would have been, for the responses that name them by flow only.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    // Clients choose addresses and ports; the standard library's hash has keys that they do not know.
    by_flow: HashMap<Flow, FlowId>,
    by_id: HashMap<FlowId, Flow>,
}

impl Sessions {
    /// The session of a response; one that no session has when there is none.
    pub(super) fn of(&self, flow: &Flow) -> FlowId {
        self.by_flow.get(flow).copied().unwrap_or(NO_SESSION)
    }

    /// Notes what becomes of a session. Each link tells it anew, which changes nothing.
    fn note(&mut self, change: &RouteChange) {
        match *change {
            RouteChange::Add { id, transport: Transport::Tcp, flow } => {
                if let Some(former) = self.by_id.insert(id, flow).filter(|former| *former != flow)
                    && self.by_flow.get(&former) == Some(&id)
                {
                    self.by_flow.remove(&former);
                }
                if let Some(former) = self.by_flow.insert(flow, id).filter(|former| *former != id) {
                    self.by_id.remove(&former);
                }
            }
            RouteChange::Remove { id } => {
                if let Some(flow) = self.by_id.remove(&id) {
                    self.by_flow.remove(&flow);
                }
            }
            RouteChange::Add { .. } | RouteChange::Payload { .. } => {}
        }
    }
}

impl ControlLinks {
    pub(super) fn is_legacy(&self) -> bool {
        self.config.protocol != Protocol::Current
    }

    /// As [`send`](Self::send), to an intercept of the C programs.
    pub(super) fn send_legacy(&mut self, link: LinkId, change: &RouteChange) -> Result<(), SendError> {
        // Also while the link is down: another one may bring the response.
        self.sessions.note(change);
        let Protocol::Legacy { records, single } = self.config.protocol else { return Err(SendError::NotSupported) };
        self.listening(link)?;
        let flow = match change {
            RouteChange::Add { transport: Transport::Tcp, flow, .. } => flow,
            RouteChange::Add { .. } => return Err(SendError::NotSupported),
            RouteChange::Payload { .. } if records == RecordKind::Headers => return Err(SendError::NotSupported),
            // It sends what there is; and forgets a route in its own time.
            RouteChange::Payload { .. } | RouteChange::Remove { .. } => return Ok(()),
        };
        if single {
            return Ok(());
        }
        let (IpAddr::V4(_), IpAddr::V4(_)) = (flow.client.addr, flow.server.addr) else {
            return Err(SendError::NotSupported);
        };
        self.append(link, |_, bytes| _ = encode_client_add(flow, bytes))
    }
}

/// Has the system look whether the other host is still there: in this protocol nobody else does.
pub(in super::super) fn keep_alive(socket: &TcpStream) {
    let every = Duration::from_secs(10);
    let keepalive = TcpKeepalive::new().with_time(every * 3).with_interval(every).with_retries(3);
    // Without it a host that is gone is noticed later; not worth failing for.
    let _ = SockRef::from(socket).set_tcp_keepalive(&keepalive);
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tcpcopy_wire::{Endpoint, Port};

    use super::*;

    fn flow(port: u16) -> Flow {
        let end = |last, port| Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), Port(port));
        Flow { client: end(1, port), server: end(2, 80) }
    }

    fn add(id: u64, port: u16) -> RouteChange {
        RouteChange::Add { id: FlowId(id), transport: Transport::Tcp, flow: flow(port) }
    }

    #[test]
    fn a_flow_is_its_newest_sessions_and_nothing_is_kept_of_those_that_ended() {
        let mut sessions = Sessions::default();
        for change in [add(1, 100), add(1, 100), add(2, 200)] {
            sessions.note(&change);
        }
        assert_eq!([100, 200, 300].map(|port| sessions.of(&flow(port))), [FlowId(1), FlowId(2), NO_SESSION]);
        // The port is used again before the older session is removed.
        sessions.note(&add(3, 100));
        sessions.note(&RouteChange::Remove { id: FlowId(1) });
        assert_eq!(sessions.of(&flow(100)), FlowId(3));
        // The id is used again for another flow.
        sessions.note(&add(3, 400));
        assert_eq!([100, 400].map(|port| sessions.of(&flow(port))), [NO_SESSION, FlowId(3)]);
        for id in [1, 2, 3, 3] {
            sessions.note(&RouteChange::Remove { id: FlowId(id) });
        }
        assert!(sessions.by_flow.is_empty() && sessions.by_id.is_empty());
    }
}
