//! The loop of a copy, with one session on it: links, transmitter, and who reports responses.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use tcpcopy_engine::probe::{Course, Ending};
use tcpcopy_engine::{LinkId, Outbox, Probe, ProbeConfig, ProbeInput};
use tcpcopy_io::capture::{Capture, CaptureConfig, local_addresses};
use tcpcopy_io::clock::MonotonicClock;
use tcpcopy_io::control::{CloseReason, ControlLinks, LinkEvent, LinksConfig};
use tcpcopy_io::echo;
use tcpcopy_io::process::{self, SIGHUP, Signals};
use tcpcopy_io::transmit::link::LinkPaths;
use tcpcopy_io::transmit::{SendError, TransmitError, TransmitStats, Transmitter};
use tcpcopy_wire::control::{FEATURE_PAYLOAD, FEATURE_UDP, FlowId, Hello, ResponseHeader};
use tcpcopy_wire::{Endpoint, Flow, Port, SeqNumber, TcpSegment, Timestamp};

use super::context::Context;
use super::watch::{Seen, Watch};
use super::{failure, finding, names};
use crate::doctor::finding::{Finding, Outcome};
use crate::tcpcopy::options::Options;

/// How long the links may take to come up.
const LINK_PATIENCE: Duration = Duration::from_secs(4);
/// Attempts of a link that are waited for.
const LINK_ATTEMPTS: u32 = 2;
/// Longest sleep between looks.
const TICK: Duration = Duration::from_millis(20);
/// After the end of a session its last packets are still looked at for this long.
const AFTERMATH: Duration = Duration::from_millis(100);
/// How long a plain connection to the target may take.
const DIRECT_PATIENCE: Duration = Duration::from_millis(3500);
/// How long the answer to an echo request may take.
const ECHO_PATIENCE: Duration = Duration::from_secs(1);
/// Ports of probes: copies never have these.
const PORTS: std::ops::Range<u16> = 512..1024;
/// Size of the send buffer and of captures' rings, in bytes.
const BUFFER: usize = 1 << 20;
/// Bytes of each response that are looked at.
const SNAPLEN: usize = 256;

const SIGNALS: Token = Token(0);
const FIRST_RESPONSE: usize = 1;
const FIRST_WATCHED: usize = 1 << 10;
const FIRST_LINK: Token = Token(1 << 11);

/// What came of a plain connection to the target, from this host's own address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Direct {
    /// It was accepted.
    Accepted,
    /// It was refused.
    Refused,
    /// Nothing came.
    NoAnswer,
    /// This host, or a router, says that there is no way.
    Unreachable(String),
}

/// All that is known when a session has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Evidence {
    /// The session itself.
    pub(super) course: Course,
    /// What this host's devices showed.
    pub(super) seen: Seen,
    /// The intercept that reported the first answer.
    pub(super) reporter: Option<SocketAddr>,
    /// Why a packet was not sent.
    pub(super) not_sent: Option<SendError>,
    /// Why all links were lost meanwhile.
    pub(super) links_lost: Option<String>,
    /// What came of a plain connection; not tried when the probe got through.
    pub(super) direct: Option<Direct>,
    /// Whether the target answers to an echo request; not tried when more is known.
    pub(super) echo: Option<bool>,
    /// Whether a SYN from intercept's own address was answered, as intercept reported; `None`: not tried.
    pub(super) from_intercept: Option<bool>,
    /// An intercept is on this host: that answers come here is as it should be.
    pub(super) intercept_is_here: bool,
}

/// One session and what was seen of it.
struct Session {
    course: Course,
    seen: Seen,
    reporter: Option<SocketAddr>,
    not_sent: Option<SendError>,
    links_lost: Option<String>,
}

/// See the [module](self).
pub(super) struct Loop<'a> {
    options: &'a Options,
    clock: MonotonicClock,
    poll: Poll,
    events: Events,
    signals: Signals,
    links: ControlLinks,
    /// Of each link, how often it failed and why.
    failures: Vec<(u32, Option<CloseReason>)>,
    transmitter: Transmitter,
    /// Of `-s local`.
    responses: Vec<Capture>,
    /// Sessions so far.
    sessions: u64,
    stopped: bool,
}

impl<'a> Loop<'a> {
    /// Opens everything that the copy would open, but for its captures of clients.
    pub(super) fn open(options: &'a Options) -> Result<Self, Box<Finding>> {
        let broken = |e: io::Error| Box::new(failure(format!("cannot wait for events: {e}"), "see `ulimit -n`"));
        let poll = Poll::new().map_err(broken)?;
        let mut signals = process::signals().map_err(broken)?;
        poll.registry().register(&mut signals, SIGNALS, Interest::READABLE).map_err(broken)?;
        let unreadable =
            |e: crate::exit::Failure| Box::new(failure(e.to_string(), "correct the file, or the option that names it"));
        let hello = Hello { features: FEATURE_PAYLOAD | FEATURE_UDP, ..Hello::default() };
        let mut config = LinksConfig::new(options.intercepts.clone(), 1, hello);
        config.secret = options.security.read_secret().map_err(unreadable)?;
        config.tls = options.security.client().map_err(unreadable)?;
        config.protocol = options.intercept_protocol;
        let links = ControlLinks::new(config, poll.registry(), FIRST_LINK).map_err(broken)?;
        let failures = vec![(0, None); links.len()];
        let transmitter = transmitter(options).map_err(|e| Box::new(cannot_send(&e)))?;
        let mut responses = Vec::new();
        for device in options.responses.iter().flat_map(|responses| &responses.devices) {
            let config = CaptureConfig {
                device: device.clone(),
                filter: options.responses.as_ref().map_or_else(String::new, |responses| responses.filter.clone()),
                buffer_bytes: BUFFER,
                snaplen: SNAPLEN,
                inbound_only: false,
                method: options.capture_method,
                ..CaptureConfig::default()
            };
            let capture = Capture::open(&config)
                .map_err(|e| Box::new(failure(e.to_string(), "give another --response-device, or run as root")))?;
            let token = Token(FIRST_RESPONSE + responses.len());
            poll.registry().register(&mut SourceFd(&capture.as_raw_fd()), token, Interest::READABLE).map_err(broken)?;
            responses.push(capture);
        }
        Ok(Self {
            options,
            clock: MonotonicClock::start(),
            poll,
            events: Events::with_capacity(256),
            signals,
            links,
            failures,
            transmitter,
            responses,
            sessions: 0,
            stopped: false,
        })
    }

    /// Connects to the intercepts, and says which cannot be reached.
    pub(super) fn connect(&mut self) -> Vec<Finding> {
        let give_up = self.clock.now() + LINK_PATIENCE;
        loop {
            let now = self.clock.now();
            self.serve_links(now, &mut |_, _| {});
            let is_settled =
                |link: usize| self.links.is_up(LinkId(link as u16)) || self.failures[link].0 >= LINK_ATTEMPTS;
            if (0..self.links.len()).all(is_settled) || now >= give_up || self.is_stopped() {
                break;
            }
            self.wait();
        }
        let outcome = if self.is_cut() { Outcome::Failure } else { Outcome::Warning };
        let down = (0..self.links.len() as u16).map(LinkId).filter(|link| !self.links.is_up(*link));
        down.map(|link| self.link_finding(link, outcome)).collect()
    }

    /// Whether no response can be reported.
    pub(super) fn is_cut(&self) -> bool {
        !self.links.is_empty() && self.links.up_count() == 0
    }

    fn link_finding(&self, link: LinkId, outcome: Outcome) -> Finding {
        let address = self.links.address(link).map_or_else(String::new, |address| address.to_string());
        let reason = self.failures[usize::from(link.0)].1.as_ref();
        let said = reason.map_or_else(|| "no answer".to_owned(), ToString::to_string);
        let not_probed = if outcome == Outcome::Failure { "; the loop cannot be probed without it" } else { "" };
        let host = self.links.address(link).map_or_else(String::new, |address| address.ip().to_string());
        let ports: HashSet<u16> = self.options.maps.iter().map(|map| map.target.port.0).collect();
        let mut ports: Vec<String> = ports.into_iter().map(|port| format!("src port {port}")).collect();
        ports.sort();
        let remedy = if reason.is_some_and(CloseReason::is_refusal) {
            format!("on {host}: look at the log of intercept, which says why it does not let this host in")
        } else if self.options.maps.iter().any(|map| map.target.addr.to_string() == host) {
            let port = self.options.maps[0].target.port;
            format!("on {host}: intercept --nfqueue 0 --setup {port}; its port must be open to this host")
        } else {
            format!(
                "on {host}: intercept -i DEVICE -F 'tcp and ({})'; its port must be open to this host",
                ports.join(" or ")
            )
        };
        finding(outcome, format!("intercept {address} cannot be used: {said}{not_probed}"), Some(remedy))
    }

    /// Opens a session to the target; when it does not get through, asks what else can be asked.
    pub(super) fn probe(&mut self, context: &Context) -> Evidence {
        let target = context.target;
        let Session { course, seen, reporter, not_sent, links_lost } = self.session(context.source, target);
        let local = local_addresses();
        let mut evidence = Evidence {
            course,
            seen,
            reporter,
            not_sent,
            links_lost,
            intercept_is_here: context
                .intercepts
                .iter()
                .any(|intercept| intercept.ip().is_loopback() || local.contains(&intercept.ip())),
            ..Evidence::default()
        };
        let is_open_question = matches!(course.ending, Some(Ending::NoAnswer | Ending::Refused))
            && not_sent.is_none()
            && evidence.links_lost.is_none()
            && !self.stopped;
        if !is_open_question {
            return evidence;
        }
        // Where intercept takes all answers of the target's port, nobody gets one.
        if !context.on_target {
            evidence.direct = Some(connect(target));
        }
        if matches!(evidence.direct, None | Some(Direct::NoAnswer)) {
            // Without the permission it stays unknown.
            evidence.echo = echo::answers(target.addr, ECHO_PATIENCE).ok();
        }
        let elsewhere = |address: &IpAddr| {
            address.is_ipv4() == target.addr.is_ipv4() && !address.is_loopback() && !local.contains(address)
        };
        if evidence.direct == Some(Direct::Accepted)
            && course.ending == Some(Ending::NoAnswer)
            && let Some(address) = context.intercepts.iter().map(SocketAddr::ip).find(elsewhere)
        {
            // The way back to that address is not the target's route for -c, and no rule for -c is in its way. The host of
            // intercept resets what it knows nothing of, as it would for any stray SYN-ACK.
            let course = self.session(address, target).course;
            evidence.from_intercept = Some(course.accepted_after.is_some() || course.ending == Some(Ending::Refused));
        }
        evidence
    }

    /// One session, from its SYN to its end.
    fn session(&mut self, source: IpAddr, target: Endpoint) -> Session {
        self.sessions += 1;
        let chance = RandomState::new().hash_one(self.sessions);
        let port = PORTS.start + (chance >> 32) as u16 % (PORTS.end - PORTS.start);
        let flow = Flow { client: Endpoint::new(source, Port(port)), server: target };
        let config = ProbeConfig {
            flow,
            id: FlowId(self.sessions),
            isn: SeqNumber(chance as u32),
            mss: self.options.mss.min(self.options.mtu - if target.addr.is_ipv4() { 40 } else { 60 }),
            links: (0..self.links.len() as u16).map(LinkId).filter(|link| self.links.is_up(*link)).collect(),
        };
        let links = config.links.clone();
        let losses = self.failures.iter().map(|(times, _)| *times).collect::<Vec<_>>();
        let mut watch = Watch::open(flow, self.poll.registry(), FIRST_WATCHED);
        let before = self.transmitter.stats();
        let mut outbox = Outbox::new();
        let mut reporter = None;
        let mut probe = Probe::open(config, self.clock.now(), &mut outbox);
        let mut over_at: Option<Timestamp> = None;
        loop {
            let now = self.clock.now();
            self.deliver(now, &mut outbox);
            if over_at.is_some_and(|at| at <= now) {
                break;
            }
            self.wait();
            let now = self.clock.now();
            if self.is_stopped() {
                probe.handle(now, ProbeInput::Stop, &mut outbox);
            }
            let mut hear = |from: Option<SocketAddr>, header: &ResponseHeader<'_>| {
                if header.id == FlowId(self.sessions) && reporter.is_none() {
                    reporter = from;
                }
                probe.handle(now, ProbeInput::Response(header), &mut outbox);
            };
            hear_responses(&mut self.responses, flow, FlowId(self.sessions), &mut |header| hear(None, header));
            serve(&mut self.links, &self.events, &mut self.failures, now, &mut |from, header| hear(from, header));
            if probe.next_deadline().is_some_and(|at| at <= now) {
                probe.handle(now, ProbeInput::Timeout, &mut outbox);
            }
            watch.look();
            if probe.course().ending.is_some() {
                over_at.get_or_insert(now + AFTERMATH);
            }
        }
        let not_sent = newly_failed(before, self.transmitter.stats());
        // With its link the route was lost, also when the link is up again.
        let reason_of_loss = |link: &LinkId| {
            let (times, reason) = &self.failures[usize::from(link.0)];
            reason.as_ref().filter(|_| *times > losses[usize::from(link.0)]).map(ToString::to_string)
        };
        let reasons: Vec<String> = links.iter().filter_map(reason_of_loss).collect();
        let links_lost = reasons.first().filter(|_| reasons.len() == links.len()).cloned();
        let seen = watch.close(self.poll.registry());
        Session { course: *probe.course(), seen, reporter, not_sent, links_lost }
    }

    /// Route changes before packets, as in a copy.
    fn deliver(&mut self, now: Timestamp, outbox: &mut Outbox) {
        for (link, change) in outbox.routes.drain(..) {
            // A link that goes down meanwhile forgets its routes, at both ends.
            let _ = self.links.send(link, &change);
        }
        self.links.flush(now);
        self.transmitter.send(outbox.packets());
        outbox.clear_packets();
    }

    fn serve_links(&mut self, now: Timestamp, each: &mut dyn FnMut(Option<SocketAddr>, &ResponseHeader<'_>)) {
        serve(&mut self.links, &self.events, &mut self.failures, now, each);
    }

    /// Sleeps until something happens, but never for long: what is watched may not wake it.
    fn wait(&mut self) {
        if let Err(e) = self.poll.poll(&mut self.events, Some(TICK)) {
            self.events.clear();
            log::debug!("cannot wait for events: {e}");
        }
    }

    /// Whether a signal has come that ends the program.
    pub(super) fn is_stopped(&mut self) -> bool {
        self.stopped |= self.signals.pending().any(|signal| signal != SIGHUP);
        self.stopped
    }
}

/// Gives the links their events, and each response to the caller, with the intercept that reported it.
fn serve(
    links: &mut ControlLinks,
    events: &Events,
    failures: &mut [(u32, Option<CloseReason>)],
    now: Timestamp,
    each: &mut dyn FnMut(Option<SocketAddr>, &ResponseHeader<'_>),
) {
    let addresses: Vec<Option<SocketAddr>> = (0..links.len() as u16).map(|link| links.address(LinkId(link))).collect();
    let mut sink = |event: LinkEvent<'_>| match event {
        LinkEvent::Response { link, header } => each(addresses[usize::from(link.0)], &header),
        LinkEvent::Failed { link, reason, .. } | LinkEvent::Down { link, reason } => {
            let failure = &mut failures[usize::from(link.0)];
            *failure = (failure.0 + 1, Some(reason.clone()));
        }
        _ => {}
    };
    for event in events {
        if links.owns(event.token()) {
            links.handle_event(event, now, &mut sink);
        }
    }
    if links.next_deadline().is_some_and(|at| at <= now) {
        links.handle_timeout(now, &mut sink);
    }
}

/// What is captured here of the target's answers (`-s local`).
fn hear_responses(captures: &mut [Capture], flow: Flow, id: FlowId, each: &mut dyn FnMut(&ResponseHeader<'_>)) {
    for capture in captures {
        let link = capture.link_type();
        let drained = capture.drain(usize::from(u8::MAX), |bytes, wire_len| {
            let segment = TcpSegment::from_frame(link, bytes, wire_len);
            if let Ok(segment) = segment.as_ref()
                && segment.flow_from_server() == flow
            {
                each(&ResponseHeader { id, ..ResponseHeader::of(segment) });
            }
        });
        if let Err(e) = drained {
            log::debug!("{e}");
        }
    }
}

fn transmitter(options: &Options) -> Result<Transmitter, TransmitError> {
    if let Some(output) = &options.output {
        return Transmitter::open_link(&LinkPaths::find(&output.devices, &output.targets)?, BUFFER);
    }
    let ipv6 = |map: &tcpcopy_engine::Map| map.target.addr.is_ipv6();
    Transmitter::open(!options.maps.iter().all(ipv6), options.maps.iter().any(ipv6), BUFFER)
}

fn cannot_send(e: &TransmitError) -> Finding {
    let remedy = match e {
        TransmitError::NoPermission => "run as root, or: setcap cap_net_raw,cap_net_admin+ep tcpcopy",
        TransmitError::Device { .. } | TransmitError::NoPath { .. } => "give another device with -o, or leave it out",
        TransmitError::Open { .. } => "see the system's log",
    };
    failure(format!("cannot send: {e}"), remedy)
}

/// Why a packet was not sent between two looks, if one was not.
fn newly_failed(before: TransmitStats, after: TransmitStats) -> Option<SendError> {
    SendError::ALL.into_iter().find(|cause| after.failed[*cause as usize] > before.failed[*cause as usize])
}

fn connect(target: Endpoint) -> Direct {
    match TcpStream::connect_timeout(&target.into(), DIRECT_PATIENCE) {
        Ok(_) => Direct::Accepted,
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Direct::Refused,
        Err(e) if e.kind() == io::ErrorKind::TimedOut => Direct::NoAnswer,
        Err(e) => Direct::Unreachable(e.to_string()),
    }
}

/// The intercepts in a text, of which one is enough.
pub(super) fn any_of(intercepts: &[SocketAddr]) -> String {
    match intercepts {
        [one] => one.to_string(),
        more => format!("any of {}", names(more)),
    }
}
