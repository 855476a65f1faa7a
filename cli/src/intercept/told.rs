//! What peers do, passed on and said in the log.

use std::mem::{Discriminant, discriminant};
use std::net::SocketAddr;
use std::time::Duration;

use tcpcopy_engine::relay::RelayDrop;
use tcpcopy_engine::{RelayInput, RelayNotice};
use tcpcopy_io::control::{CloseReason, PeerEvent};
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::Hello;

use super::examine::Examiner;
use super::hands::Hands;

/// Shortest time between two lines about connections that were turned away for one kind of reason: a scan must not fill the
/// log, nor may it hide what a tcpcopy of another version is told.
const REJECTION_TOLD_EVERY: Duration = Duration::from_secs(10);

/// Kinds of reasons for which a connection is turned away, and until when a line about each is too early to be followed.
#[derive(Debug, Default)]
pub(super) struct Rejections(Vec<((Discriminant<CloseReason>, bool), Timestamp)>);

impl Rejections {
    /// Whether a line is due; then it is taken to be written.
    fn is_due(&mut self, reason: &CloseReason, now: Timestamp) -> bool {
        let kind = (discriminant(reason), reason.names_versions());
        let next = now + REJECTION_TOLD_EVERY;
        match self.0.iter_mut().find(|(told, _)| *told == kind) {
            Some((_, due)) if now < *due => return false,
            Some((_, due)) => *due = next,
            None => self.0.push((kind, next)),
        }
        true
    }
}

/// What is not to be repeated in the log.
pub(super) struct Told {
    pub(super) rejections: Rejections,
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
        PeerEvent::Rejected { from, reason } if told.rejections.is_due(reason, now) => {
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

#[cfg(test)]
mod tests {
    use tcpcopy_wire::control::{DecodeError, LegacyError};

    use super::*;

    #[test]
    fn a_scan_does_not_hide_an_old_version() {
        let mut rejections = Rejections::default();
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        let version = CloseReason::Protocol(DecodeError::Legacy(LegacyError::Version { theirs: 5, ours: 6 }));
        let garbage = CloseReason::Protocol(DecodeError::WrongMagic { first: *b"GET ", len: 4 });
        assert!(rejections.is_due(&CloseReason::NotAllowed, at(1)));
        assert!(rejections.is_due(&garbage, at(1)));
        assert!(rejections.is_due(&version, at(2)), "said, although others were turned away just now");
        for reason in [&CloseReason::NotAllowed, &garbage, &version] {
            assert!(!rejections.is_due(reason, at(10)), "{reason}");
            assert!(rejections.is_due(reason, at(12)), "{reason}");
        }
    }
}
