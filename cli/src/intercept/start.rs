//! Opens everything that intercept needs.

use std::io;
use std::sync::Arc;

use mio::{Interest, Poll, Registry, Waker};
use tcpcopy_io::capture::CaptureConfig;
use tcpcopy_io::clock::MonotonicClock;
use tcpcopy_io::control::{BindError, ControlServer, ServerConfig};
use tcpcopy_io::process::{self, Capability};
use tcpcopy_wire::Timestamp;
use tcpcopy_wire::control::Payload;

use super::examine::Examiner;
use super::hands::{Device, Hands};
use super::options::Options;
use super::queue::QueueSource;
use super::run::{Due, FIRST_PEER, Intercept, QUEUE, SIGNALS, SNAPLEN, STATS_FOR_PEERS, WAKER};
use super::steering::Steering;
use super::told::{Rejections, Told};
use crate::exit::{Exit, Failure};
use crate::live::server::Live;
use crate::metrics::Exporter;
use crate::protect::identity::{Needs, Present};
use crate::protect::service::Service;

/// Opens everything that can fail.
///
/// # Errors
/// What cannot be opened, with the exit code that belongs to it.
pub(super) fn start(options: &Options, present: Present<'_>) -> Result<Intercept, Failure> {
    let poll = Poll::new().map_err(Failure::cannot("wait for events"))?;
    let mut signals = process::signals().map_err(Failure::cannot("take signals"))?;
    let registered = poll.registry().register(&mut signals, SIGNALS, Interest::READABLE);
    registered.map_err(Failure::cannot("take signals"))?;
    let clock = MonotonicClock::start();
    let waker = Arc::new(Waker::new(poll.registry(), WAKER).map_err(Failure::cannot("wait for workers"))?);
    let mut hands =
        Hands::open(options, clock, poll.registry(), Arc::clone(&waker)).map_err(Failure::cannot("start a worker"))?;
    let devices = open_captures(options, &mut hands, clock.now())?;
    let server = listen(options, poll.registry())?;
    let control_port = server.local_addr().map_or(options.port, |address| address.port());
    let exporter = options.metrics.map(|address| Exporter::open(address, Arc::clone(&waker))).transpose()?;
    let live = Live::open("intercept", &options.socket, waker)?;
    let settle = || present.settle(&needs(options, live.as_ref()));
    let queue = if let Some(queue) = &options.queue {
        let events = (poll.registry(), QUEUE);
        Some(QueueSource::open(queue, control_port, SNAPLEN, options.buffer_bytes, events, settle)?)
    } else {
        settle()?;
        None
    };
    log_start(options, &server);
    let open_warning = server.config().lets_everyone_in().then(|| ServerConfig::open_warning(options.port));
    let now = clock.now();
    Ok(Intercept {
        poll,
        signals,
        clock,
        devices,
        queue,
        server,
        security: options.security.clone(),
        hands,
        told: Told { rejections: Rejections::default(), open_warning, examiner: Examiner::new(options) },
        captured_payload: Payload::Headers,
        next_stats: options.stats_interval.map_or(Timestamp::NEVER, |interval| now + interval),
        next_peer_stats: now + STATS_FOR_PEERS,
        due: Due::default(),
        exporter,
        scrapes: Vec::new(),
        service: Service::default(),
        steering: Steering::new(options, live),
    })
}

/// Captures on each device, for each worker.
fn open_captures(options: &Options, hands: &mut Hands, now: Timestamp) -> Result<Vec<Device>, Failure> {
    let open = |(number, name): (usize, &String)| {
        let config = CaptureConfig {
            device: name.clone(),
            filter: options.filter.clone(),
            buffer_bytes: options.buffer_bytes,
            snaplen: SNAPLEN,
            immediate: true,
            ..CaptureConfig::default()
        };
        let device = Device { config, reopen_at: None };
        hands.capture(number, &device, now).map_err(|e| Failure::of_capture(&e, "-i (--device)"))?;
        Ok(device)
    };
    options.devices.iter().enumerate().map(open).collect()
}

fn listen(options: &Options, registry: &Registry) -> Result<ControlServer, Failure> {
    let config = ServerConfig {
        address: options.bind,
        port: options.port,
        allow: options.allow.clone(),
        secret: options.security.read_secret()?,
        tls: options.security.server()?,
        single: options.single,
        ..ServerConfig::default()
    };
    ControlServer::bind(config, registry, FIRST_PEER).map_err(bind_failure)
}

fn log_start(options: &Options, server: &ControlServer) {
    if let Ok(address) = server.local_addr() {
        let source = match &options.queue {
            Some(queue) => format!("reading NFQUEUE {}", queue.number),
            None => format!("capturing on {} with the filter `{}`", options.devices.join(", "), options.filter),
        };
        let workers = if options.workers > 1 { format!(", {} workers", options.workers) } else { String::new() };
        log::info!("intercept {}: listening on {address}, {source}{workers}", env!("CARGO_PKG_VERSION"));
    }
    if let Some(conditions) = options.conditions() {
        log::info!("tcpcopys must {conditions}");
    }
}

/// What is needed after the start.
fn needs(options: &Options, live: Option<&Live>) -> Needs {
    let capabilities = match &options.queue {
        // A device that went away is captured on again when it is back, and each may be opened with more room.
        None => vec![Capability::NetRaw],
        // Each verdict is checked for the first. iptables of the older kind reads its tables through a raw socket.
        Some(_) => vec![Capability::NetAdmin, Capability::NetRaw],
    };
    let for_children = options.queue.is_some();
    Needs {
        capabilities,
        for_children,
        files: [&options.log, &options.pid].into_iter().flatten().cloned().collect(),
        sockets: live.map(|live| live.path().to_owned()).into_iter().collect(),
    }
}

fn bind_failure(e: BindError) -> Failure {
    let exit = match e.source.kind() {
        io::ErrorKind::PermissionDenied => Exit::Permission,
        io::ErrorKind::AddrNotAvailable => Exit::Usage,
        _ => Exit::Failure,
    };
    Failure::new(exit, e)
}
