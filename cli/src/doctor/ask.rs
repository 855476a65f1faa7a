//! Asks intercepts about themselves and their hosts, over the control link.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mio::{Events, Poll, Token};
use tcpcopy_io::clock::MonotonicClock;
use tcpcopy_io::control::{CloseReason, ControlLinks, DEFAULT_PORT, LinkEvent, LinksConfig, Protocol, SendError};
use tcpcopy_wire::control::{HostReport, Question};

use super::intercepts::{Reached, Report};

/// Time for everything: connecting takes up to three seconds, an answer some hundred milliseconds.
const PATIENCE: Duration = Duration::from_secs(6);
/// Time to find out whether something listens on another port.
const OTHER_PORT_PATIENCE: Duration = Duration::from_secs(1);
const FIRST_LINK: Token = Token(0);

/// What came of asking each intercept of `config`, in their order.
///
/// # Errors
/// When the system has no more to wait for events with.
pub(super) fn ask(config: LinksConfig, questions: &[Question]) -> io::Result<Vec<Reached>> {
    let addresses = config.intercepts.clone();
    let is_legacy = config.protocol != Protocol::Current;
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(64);
    let clock = MonotonicClock::start();
    let begun = clock.now();
    let mut links = ControlLinks::new(LinksConfig { links_per_intercept: 1, ..config }, poll.registry(), FIRST_LINK)?;
    let mut reached: Vec<Option<Reached>> = vec![None; addresses.len()];
    let mut asked: Vec<Option<(tcpcopy_wire::Timestamp, u128)>> = vec![None; addresses.len()];
    while reached.iter().any(Option::is_none) && clock.now().since(begun) < PATIENCE {
        let patience = links.next_deadline().map_or(PATIENCE, |at| at.since(clock.now()));
        match poll.poll(&mut events, Some(patience.min(Duration::from_millis(200)))) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        }
        let now = clock.now();
        let mut up = Vec::new();
        let mut sink = |event: LinkEvent<'_>| match event {
            LinkEvent::Up { link, .. } => up.push(link),
            LinkEvent::Down { link, reason } | LinkEvent::Failed { link, reason, .. } => {
                reached[usize::from(link.0)]
                    .get_or_insert_with(|| Reached::No { reason: reason.clone(), other_port: false });
            }
            LinkEvent::Report { link, report } => {
                let place = usize::from(link.0);
                if let Some((at, wall)) = asked[place] {
                    let report = read(&report, now.since(at), wall);
                    reached[place].get_or_insert_with(|| Reached::Yes(Box::new(report)));
                }
            }
            LinkEvent::Response { .. } | LinkEvent::Datagram { .. } | LinkEvent::Stats { .. } => {}
        };
        for event in &events {
            if links.owns(event.token()) {
                links.handle_event(event, now, &mut sink);
            }
        }
        if links.next_deadline().is_some_and(|at| at <= now) {
            links.handle_timeout(now, &mut sink);
        }
        for link in up {
            let place = usize::from(link.0);
            match links.ask(link, questions, now) {
                Ok(()) => asked[place] = Some((now, wall_clock())),
                Err(SendError::NotSupported) => reached[place] = Some(Reached::Unasked { legacy: is_legacy }),
                // The loss of the link is told as such.
                Err(SendError::Down | SendError::Full) => {}
            }
        }
    }
    let answers = reached.into_iter().zip(&asked).zip(&addresses);
    Ok(answers.map(|((reached, asked), address)| finish(reached, asked.is_some(), *address)).collect())
}

fn finish(reached: Option<Reached>, was_asked: bool, address: SocketAddr) -> Reached {
    match reached {
        None if was_asked => Reached::Silent,
        None => {
            let text = format!("no connection within {PATIENCE:?}");
            Reached::No { reason: CloseReason::Io(io::ErrorKind::TimedOut, text), other_port: false }
        }
        Some(Reached::No { reason: reason @ CloseReason::Io(io::ErrorKind::ConnectionRefused, _), .. }) => {
            let usual = SocketAddr::new(address.ip(), DEFAULT_PORT);
            let other_port = address != usual && TcpStream::connect_timeout(&usual, OTHER_PORT_PATIENCE).is_ok();
            Reached::No { reason, other_port }
        }
        Some(reached) => reached,
    }
}

/// Nanoseconds since 1970.
fn wall_clock() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

fn read(report: &HostReport<'_>, round_trip: Duration, asked_at: u128) -> Report {
    // On average the answer was made in the middle.
    let ours = asked_at as i128 + round_trip.as_nanos() as i128 / 2;
    Report {
        clock_ahead: i128::from(report.clock) - ours,
        round_trip,
        frames_captured: report.frames_captured,
        kernel_drops: report.kernel_drops,
        reads_queue: report.reads_queue,
        forwards_ipv4: report.forwards_ipv4,
        forwards_ipv6: report.forwards_ipv6,
        version: report.version.to_owned(),
        devices: report.devices.to_owned(),
        filter: report.filter.to_owned(),
        answers: report.answers.clone().collect(),
    }
}
