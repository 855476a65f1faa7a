//! Addresses that something between tcpcopy and the place of capture has changed: a container's host, a load balancer.
//!
//! A copy arrives with other addresses than it was sent with, so the response that is captured bears those, too, and the
//! route has the ones that tcpcopy knows. What was changed is said when intercept starts; ports must be as they were.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tcpcopy_wire::Flow;

/// What was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// Addresses that responses are seen to go to, and those that the copies came from.
    pub clients: Vec<(IpAddr, IpAddr)>,
    /// The target's address in responses is not the one that copies are sent to: routes are found without it.
    pub any_target: bool,
}

impl Translation {
    /// Under what the route of a flow is kept. `flow` is as tcpcopy knows it.
    #[inline]
    pub(super) fn key(&self, mut flow: Flow) -> Flow {
        if self.any_target {
            flow.server.addr = match flow.server.addr {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
        }
        flow
    }

    /// A flow as tcpcopy knows it, as far as that can be told from the way in which a response shows it.
    #[inline]
    pub(super) fn as_sent(&self, mut flow: Flow) -> Flow {
        if let Some((_, sent)) = self.clients.iter().find(|(seen, _)| *seen == flow.client.addr) {
            flow.client.addr = *sent;
        }
        flow
    }
}
