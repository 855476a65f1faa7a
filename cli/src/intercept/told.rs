//! What peers do, passed on and said in the log.

use std::net::SocketAddr;
use std::time::Duration;

use tcpcopy_engine::relay::RelayDrop;
use tcpcopy_engine::{RelayInput, RelayNotice};
use tcpcopy_io::control::PeerEvent;
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::Hello;

use super::examine::Examiner;
use super::hands::Hands;

/// Shortest time between two lines about connections that were turned away: a scan must not fill the log.
const REJECTION_TOLD_EVERY: Duration = Duration::from_secs(10);

/// What is not to be repeated in the log.
pub(super) struct Told {
    pub(super) next_rejection: Timestamp,
    /// Due when the first tcpcopy comes from another host.
    pub(super) open_warning: Option<String>,
    /// Questions that wait for an answer.
    pub(super) examiner: Examiner,
}

impl Told {
    /// Says once that anyone is let in, when somebody from elsewhere is.
    pub(super) fn warn_if_open(&mut self, from: SocketAddr) {
        if !from.ip().is_loopback()
            && let Some(warning) = self.open_warning.take()
        {
            log::warn!("{warning}");
        }
    }
}

pub(super) fn on_peer(event: &PeerEvent<'_>, now: Timestamp, hands: &mut Hands, told: &mut Told) {
    match *event {
        PeerEvent::Route { peer, change } => hands.tell(now, RelayInput::Route { peer, change }),
        PeerEvent::Questions { peer, from, ref questions } => told.examiner.take(peer, from, questions.clone()),
        PeerEvent::Up { peer, from, hello } => {
            log::info!("tcpcopy at {from} connected (link {})", peer.0);
            told.warn_if_open(from);
            let Hello { route_ttl, max_batch, features } = hello;
            hands.tell(now, RelayInput::PeerUp { peer, route_ttl, max_batch, features });
        }
        PeerEvent::LegacyUp { peer, from } => {
            log::info!("tcpcopy of the C programs at {from} connected (link {})", peer.0);
            told.warn_if_open(from);
            hands.tell(now, RelayInput::LegacyPeerUp { peer });
        }
        PeerEvent::Gone { peer, from, reason, undelivered } => {
            log::warn!("tcpcopy at {from} is gone (link {}): {reason}", peer.0);
            told.examiner.forget(peer);
            let reason = RelayDrop::LinkClosed;
            hands.tell(now, RelayInput::Undelivered { peer, responses: undelivered, reason });
            hands.tell(now, RelayInput::PeerGone { peer });
        }
        PeerEvent::Rejected { from, reason } if now >= told.next_rejection => {
            told.next_rejection = now + REJECTION_TOLD_EVERY;
            log::warn!(
                "connection from {from} closed: {reason}; more such within {REJECTION_TOLD_EVERY:?} are only counted"
            );
        }
        PeerEvent::Rejected { from, reason } => log::debug!("connection from {from} closed: {reason}"),
    }
}

/// Writes to the log what the relay has to say.
pub(super) fn tell(notice: &RelayNotice) {
    match notice {
        RelayNotice::Unrouted { transport, flow, responses } => log::debug!(
            "{responses} responses belong to no tcpcopy, the last one on {transport} {flow}; some after the end of a connection are \
             normal, many mean that -F takes more than the copies' answers"
        ),
        RelayNotice::RoutesOrphaned { peer, routes } => log::info!("{routes} routes of link {} removed", peer.0),
        RelayNotice::PeerRoutesFull { peer, limit } => {
            log::error!("link {} has {limit} routes, which is all that one may have; more are refused", peer.0);
        }
        RelayNotice::RouteTableFull { limit } => {
            log::error!("there are {limit} routes; more are refused until some are gone");
        }
    }
}
