//! Opens everything a copy needs, and starts its workers.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use mio::{Interest, Poll, Waker};
use tcpcopy_engine::{CopierConfig, Gate};
use tcpcopy_io::capture::file::FileError;
use tcpcopy_io::capture::{CaptureConfig, CaptureGroup, Method};
use tcpcopy_io::clock::MonotonicClock;
use tcpcopy_io::control::LinksConfig;
use tcpcopy_io::process::{self, Capability, PidFile, SIGHUP, Signals};
use tcpcopy_io::transmit::link::LinkPaths;
use tcpcopy_io::transmit::{TransmitError, Transmitter};
use tcpcopy_module_api::ModuleHandle;
use tcpcopy_wire::control::{FEATURE_PAYLOAD, FEATURE_UDP, Hello};

use super::options::{Options, Responses};
use super::recording::{Files, Recorder};
use super::replay::Plan;
use super::report::Snapshot;
use super::steering::Steering;
use super::supervise::{Running, RunningWorker, SIGNALS, WAKER};
use super::worker::{Handle, Report, Side, StartError, Worker};
use crate::exit::{Exit, Failure};
use crate::live::server::Live;
use crate::metrics::Exporter;
use crate::protect::identity::Needs;

/// Send buffer of each raw socket, in bytes.
const SEND_BUFFER: usize = 8 << 20;
/// Bytes kept of each captured packet: all of it, merged segments included.
const SNAPLEN: usize = 262_144;

/// Workers that do not run yet, with the main thread's ends of them.
type Workers = Vec<(Worker, Handle)>;

/// Opens everything and starts the workers. `None`: a signal ended the start.
pub(super) fn start(options: &Options) -> Result<Option<Running>, Failure> {
    let identity = options.identity.begin()?;
    let pid_file =
        options.pid.as_deref().map(PidFile::create).transpose().map_err(|e| Failure::new(Exit::Failure, e))?;
    options.replay.as_ref().map_or(Ok(()), check_files)?;
    let poll = Poll::new().map_err(Failure::cannot("wait for events"))?;
    let mut signals = process::signals().map_err(Failure::cannot("handle signals"))?;
    let registered = poll.registry().register(&mut signals, SIGNALS, Interest::READABLE);
    registered.map_err(Failure::cannot("wait for signals"))?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKER).map_err(Failure::cannot("wait for workers"))?);

    for warning in &options.warnings {
        log::warn!("{warning}");
    }
    let exporter = options.metrics.map(|address| Exporter::open(address, Arc::clone(&waker))).transpose()?;
    let live = Live::open("tcpcopy", &options.socket, Arc::clone(&waker))?;
    let mut workers = make_workers(options)?;
    if !options.keep_trying && !connect(&mut workers, &mut signals)? {
        return Ok(None);
    }
    open_captures(options, &mut workers)?;
    let changes = identity.will_change();
    let files = Files::open(options, |path| identity.may_replace(path))?;
    identity.settle(&needs(options, live.as_ref()))?;
    if let Some(plan) = &options.replay {
        if changes {
            let unreadable =
                |e| format!("in -i (--device), as user {}: {e}", options.identity.user.as_deref().unwrap_or(""));
            plan.check().map_err(|e| Failure::new(Exit::Permission, unreadable(e)))?;
        }
        for (worker, _) in &mut workers {
            worker.add_replay(plan).map_err(Failure::cannot("start a thread"))?;
        }
    }

    log_start(options);
    // The last thing that may fail: from here on there are sessions at the target.
    let recorder = Recorder::start(options, files)?;
    let (sender, reports) = mpsc::channel();
    let workers = run(workers, &sender, &waker)?;
    Ok(Some(Running {
        poll,
        signals,
        counters: vec![Snapshot::default(); workers.len()],
        workers,
        reports,
        _waker: waker,
        replay_is_over: false,
        exporter,
        recorder,
        live,
        steering: Steering::new(options),
        _pid_file: pid_file,
    }))
}

/// Finds out what is wrong with the files to replay before anything is begun.
fn check_files(plan: &Plan) -> Result<(), Failure> {
    plan.check().map_err(|e| {
        let usage = matches!(e, FileError::Open { .. } | FileError::NotACapture { .. } | FileError::BadFilter { .. });
        Failure::new(if usage { Exit::Usage } else { Exit::Failure }, format!("in -i (--device): {e}"))
    })
}

/// Workers with what they send by and what they speak to intercept by, the links not connected yet.
fn make_workers(options: &Options) -> Result<Workers, Failure> {
    let (secret, tls) = (options.security.read_secret()?, options.security.client()?);
    let hello = Hello { features: FEATURE_PAYLOAD | FEATURE_UDP, route_ttl: options.idle_timeout, ..Hello::default() };
    let links = LinksConfig {
        secret,
        tls,
        protocol: options.intercept_protocol,
        ..LinksConfig::new(options.intercepts.clone(), options.links_per_intercept, hello)
    };
    let paths = options.output.as_ref().map(|output| LinkPaths::find(&output.devices, &output.targets));
    let paths = paths.transpose().map_err(transmit_failure)?;
    let ipv6 = |map: &tcpcopy_engine::Map| map.target.addr.is_ipv6();
    let captures = options.devices.len() + options.responses.as_ref().map_or(0, |responses| responses.devices.len());
    let clock = MonotonicClock::start();
    let make = |number| {
        let transmitter = match &paths {
            Some(paths) => Transmitter::open_link(paths, SEND_BUFFER),
            None => Transmitter::open(!options.maps.iter().all(ipv6), options.maps.iter().any(ipv6), SEND_BUFFER),
        };
        let transmitter = transmitter.map_err(transmit_failure)?;
        Worker::new(number, clock, engine_config(options, number), links.clone(), transmitter, captures)
            .map_err(Failure::cannot("make a worker"))
    };
    (0..usize::from(options.workers)).map(make).collect()
}

/// Connects all workers' links. False: a signal came before they were up.
fn connect(workers: &mut Workers, signals: &mut Signals) -> Result<bool, Failure> {
    for (worker, _) in workers {
        match worker.connect(|| signals.pending().any(|signal| signal != SIGHUP)) {
            Ok(()) => {}
            Err(StartError::Interrupted) => return Ok(false),
            Err(StartError::Refused { intercept, reason }) => {
                let message = format!("no link to intercept at {intercept}: {reason}");
                return Err(Failure::new(Exit::Unreachable, message));
            }
            Err(StartError::Unreachable { intercept, attempts, reason }) => {
                let message = format!(
                    "intercept at {intercept} cannot be reached: {reason} (attempt {attempts}); start it first, or let \
                     tcpcopy keep trying with -L"
                );
                return Err(Failure::new(Exit::Unreachable, message));
            }
            Err(StartError::Io(e)) => return Err(Failure::cannot("wait for the links")(e)),
        }
    }
    Ok(true)
}

/// Gives each worker a thread.
fn run(workers: Workers, reports: &Sender<Report>, wake_main: &Arc<Waker>) -> Result<Vec<RunningWorker>, Failure> {
    let run = |(number, (worker, handle)): (usize, (Worker, Handle))| {
        let (reports, wake_main) = (reports.clone(), Arc::clone(wake_main));
        let thread = thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            // Also when the worker panics, the main thread must look at it.
            let _wake = WakeAtEnd(&wake_main);
            worker.run(&reports, &wake_main)
        });
        Ok((handle, thread.map_err(Failure::cannot("start a thread"))?))
    };
    workers.into_iter().enumerate().map(run).collect()
}

fn transmit_failure(e: TransmitError) -> Failure {
    let exit = match e {
        TransmitError::NoPermission => Exit::Permission,
        TransmitError::Device { .. } => Exit::Usage,
        TransmitError::NoPath { .. } => Exit::Unreachable,
        TransmitError::Open { .. } => Exit::Failure,
    };
    if let TransmitError::Device { .. } = e {
        return Failure::new(exit, format!("in -o (--output-device): {e}"));
    }
    Failure::new(exit, e)
}

/// What is needed after the start.
fn needs(options: &Options, live: Option<&Live>) -> Needs {
    let mut capabilities = Vec::new();
    if options.replay.is_some() {
        // The files may be anybody's.
        capabilities.push(Capability::DacOverride);
    }
    if !options.devices.is_empty() || options.responses.is_some() {
        // A device that went away is captured on again when it is back.
        capabilities.push(Capability::NetRaw);
        if options.capture_method == Method::Raw {
            // For a ring that is larger than the system's limit.
            capabilities.push(Capability::NetAdmin);
        }
    }
    if options.identity.user.is_some() {
        capabilities.retain(|capability| *capability != Capability::DacOverride);
    }
    let files = [&options.log, &options.pid, &options.report, &options.stats_file];
    Needs {
        capabilities,
        for_children: false,
        files: files.into_iter().flatten().cloned().collect(),
        sockets: live.map(|live| live.path().to_owned()).into_iter().collect(),
    }
}

/// Wakes the main thread when its worker ends, however it ends.
struct WakeAtEnd<'a>(&'a Waker);

impl Drop for WakeAtEnd<'_> {
    fn drop(&mut self) {
        let _ = self.0.wake();
    }
}

fn engine_config(options: &Options, worker: usize) -> CopierConfig {
    let module: ModuleHandle = options.modules[0].handle.clone();
    CopierConfig {
        sources: options.sources[worker].clone(),
        mtu: options.mtu,
        mss: options.mss,
        only_whole_sessions: options.only_whole_sessions,
        gate: if options.no_wait { Gate::Off } else { Gate::Turns },
        response_timeout: options.response_timeout,
        idle_timeout: options.idle_timeout,
        memory_limit: options.memory_limit / usize::from(options.workers),
        session_limit: options.max_sessions.div_ceil(usize::from(options.workers)),
        intercepts: options.intercepts.len() as u16,
        sees_responses: options.responses.is_some(),
        preserve_rtt: options.preserve_rtt,
        measure_online: options.measure_online,
        links_per_intercept: options.links_per_intercept,
        timestamp_base: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u32),
        // The standard library's hash keys come from the system's random numbers.
        seed: RandomState::new().build_hasher().finish(),
        modules: options.modules.iter().map(|module| module.handle.clone()).collect(),
        traffic: options.traffic.clone(),
        decapsulation: options.decapsulation.clone(),
        ..CopierConfig::new(options.maps.clone(), module)
    }
}

/// How a device is captured on, for what comes from one side.
pub(crate) fn capture_config(options: &Options, device: &str, side: Side, filter: &str) -> CaptureConfig {
    CaptureConfig {
        device: device.to_owned(),
        filter: filter.to_owned(),
        buffer_bytes: options.buffer_bytes,
        snaplen: SNAPLEN,
        immediate: false,
        // Where the target is on this host, what it sends may only go out.
        inbound_only: side == Side::Clients && !options.both_directions,
        promiscuous: side == Side::Clients && options.promiscuous,
        behind_tags: side == Side::Clients && options.filter_behind_tags,
        fanout: None,
        method: options.capture_method,
    }
}

/// The option that names the devices.
fn side_option(side: Side) -> &'static str {
    match side {
        Side::Clients => "-i (--device)",
        Side::Target => "--response-device",
    }
}

/// Opens each device once for every worker. Several workers share clients' packets by flow; of the target's packets, whose
/// flows are others, each looks for its own.
fn open_captures(options: &Options, workers: &mut Workers) -> Result<(), Failure> {
    let of_clients = options.devices.iter().map(|device| (device, Side::Clients, &options.filter));
    let responses = options.responses.iter();
    let of_target = responses.flat_map(|r| r.devices.iter().map(move |device| (device, Side::Target, &r.filter)));
    for (device, side, filter) in of_clients.chain(of_target) {
        let config = capture_config(options, device, side, filter);
        let failure = |e| Failure::of_capture(&e, side_option(side));
        let waiting = format!("wait for packets on `{device}`");
        if side == Side::Target {
            for (worker, _) in workers.iter_mut() {
                let alone = CaptureGroup::open(config.clone(), 1).map_err(failure)?;
                worker.add_capture(Arc::new(alone), 0, side).map_err(Failure::cannot(&waiting))?;
            }
            continue;
        }
        let group = Arc::new(CaptureGroup::open(config, workers.len()).map_err(failure)?);
        for (member, (worker, _)) in workers.iter_mut().enumerate() {
            worker.add_capture(Arc::clone(&group), member, side).map_err(Failure::cannot(&waiting))?;
        }
    }
    Ok(())
}

fn log_start(options: &Options) {
    for map in &options.maps {
        let online = map.online_addr.map_or_else(
            || format!("port {}", map.online_port),
            |addr| tcpcopy_wire::Endpoint::new(addr, map.online_port).to_string(),
        );
        let module = &options.modules[usize::from(map.module)];
        let about = module.handle.about;
        log::info!(
            "copying {online} to {} over {}, by module {} {} ({})",
            map.target,
            map.transport,
            about.name,
            about.version,
            module.origin
        );
    }
    if let Some(output) = &options.output {
        log::info!("sending at the link layer of {}", output.devices.join(", "));
    }
    match &options.replay {
        Some(plan) => {
            let files: Vec<String> = plan.files.iter().map(|path| path.display().to_string()).collect();
            log::info!("replaying {}", files.join(", "));
        }
        None => log::info!("capturing on {} with the filter: {}", options.devices.join(", "), options.filter),
    }
    if let Some(Responses { devices, filter }) = &options.responses {
        log::info!("capturing the target's responses on {} with the filter: {filter}", devices.join(", "));
    }
}
