//! The lines of a statistics file.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::times::Times;
use crate::tcpcopy::exposition::GAUGES;
use crate::tcpcopy::options::Options;
use crate::tcpcopy::report::{self, Snapshot};

/// The form of the file that is written here.
pub const FORMAT: u32 = 1;

/// Counts by name.
pub type Counts = BTreeMap<Cow<'static, str>, u64>;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Line {
    /// A run begins.
    Begin(Begin),
    /// What was counted since the line before.
    Sample(Sample),
    /// The run has ended.
    End(End),
}

/// What is copied, from where to where, since when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Begin {
    /// [`FORMAT`].
    pub format: u32,
    /// The version of tcpcopy.
    pub version: String,
    /// The name of the host that it runs on.
    pub host: String,
    /// When the copy began: RFC 3339, by that host's clock.
    pub began: String,
    /// What is copied, and where to.
    pub maps: Vec<MapLine>,
    /// Devices that are captured on; none where files are replayed.
    pub devices: Vec<String>,
    /// Files that are replayed.
    pub files: Vec<String>,
    /// The capture filter.
    pub filter: String,
    /// The intercepts.
    pub intercepts: Vec<String>,
    /// Online's response times are measured.
    pub measures_online: bool,
    /// Workers.
    pub workers: u16,
    /// The options that were given, without secrets.
    pub options: Vec<(String, String)>,
}

/// A map.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MapLine {
    /// The production server: `10.0.0.1:80`, or `port 80`.
    pub online: String,
    /// The test server.
    pub target: String,
    /// `TCP` or `UDP`.
    pub transport: String,
    /// The protocol module.
    pub module: String,
}

/// What was counted in a while.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// Seconds from the beginning of the run to the end of this while.
    pub at: f64,
    /// How long it was, in seconds.
    pub seconds: f64,
    /// Counters of the ledger (docs/metrics.md, without `tcpcopy_`) and of the capture, as far as they have moved.
    pub counted: Counts,
    /// What there is at the end of the while, such as sessions that are alive.
    pub now: Counts,
    /// Packets that were not used, by reason.
    #[serde(skip_serializing_if = "Counts::is_empty")]
    pub packets_dropped: Counts,
    /// Bytes that were not copied, by reason.
    #[serde(skip_serializing_if = "Counts::is_empty")]
    pub bytes_dropped: Counts,
    /// Sessions that ended early, by reason.
    #[serde(skip_serializing_if = "Counts::is_empty")]
    pub sessions_ended_early: Counts,
    /// Packets that the system did not send, by reason.
    #[serde(skip_serializing_if = "Counts::is_empty")]
    pub packets_not_sent: Counts,
    /// From the capture of a request until it was let through.
    #[serde(skip_serializing_if = "Times::is_empty")]
    pub lag: Times,
    /// From a request until the target began to answer.
    #[serde(skip_serializing_if = "Times::is_empty")]
    pub response_time: Times,
    /// The same, of datagrams.
    #[serde(skip_serializing_if = "Times::is_empty")]
    pub udp_response_time: Times,
    /// From a request until online began to answer.
    #[serde(skip_serializing_if = "Times::is_empty")]
    pub online_response_time: Times,
    /// What modules counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<ModuleCount>,
    /// What each intercept last said of itself, counted from its own beginning.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub intercepts: Vec<InterceptLine>,
    /// How far the replay is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayLine>,
}

/// A counter of a module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleCount {
    /// The module.
    pub module: String,
    /// What is counted.
    pub name: String,
    /// How often it happened.
    pub count: u64,
    /// Bytes dropped under this name.
    pub bytes: u64,
}

/// What an intercept says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterceptLine {
    /// Where it is.
    pub address: String,
    /// Packets that it captured.
    pub captured: u64,
    /// Packets that its capture buffer had no room for.
    pub lost: u64,
    /// Packets that belong to no session it was told of.
    pub unrouted: u64,
    /// Responses that it sent here.
    pub relayed: u64,
    /// Responses that were lost because the link was full.
    pub overflowed: u64,
}

/// How far a replay is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayLine {
    /// Packets read.
    pub packets: u64,
    /// The pass, from 1.
    pub pass: u32,
    /// How many there are.
    pub passes: u32,
    /// Everything was handed on.
    pub all_read: bool,
    /// Places from which on a file could not be read.
    pub damages: Vec<String>,
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// When: RFC 3339.
    pub ended: String,
    /// Why.
    pub how: Ended,
}

/// Why a run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// It was told to stop.
    #[default]
    Stopped,
    /// What there was to replay is replayed.
    ReplayOver,
    /// It could not go on, for this reason.
    Failed(String),
}

impl Begin {
    /// The beginning of a run with these options.
    pub fn of(options: &Options, host: String, began: String) -> Self {
        let maps = options.maps.iter().map(|map| {
            let about = options.modules[usize::from(map.module)].handle.about;
            let online = map.online_addr.map_or_else(
                || format!("port {}", map.online_port),
                |addr| tcpcopy_wire::Endpoint::new(addr, map.online_port).to_string(),
            );
            MapLine {
                online,
                target: map.target.to_string(),
                transport: map.transport.to_string(),
                module: format!("{} {}", about.name, about.version),
            }
        });
        let files = options.replay.iter().flat_map(|plan| &plan.files);
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host,
            began,
            maps: maps.collect(),
            devices: options.devices.clone(),
            files: files.map(|path| path.display().to_string()).collect(),
            filter: options.filter.clone(),
            intercepts: options.intercepts.iter().map(ToString::to_string).collect(),
            measures_online: options.measure_online,
            workers: options.workers,
            options: options.given.clone(),
        }
    }
}

/// Names with what was added to their counts, where that is anything.
fn moved(
    before: impl Iterator<Item = (&'static str, u64)>,
    now: impl Iterator<Item = (&'static str, u64)>,
) -> impl Iterator<Item = (Cow<'static, str>, u64)> {
    let differences = before.zip(now).map(|((_, before), (name, now))| (name, now.saturating_sub(before)));
    differences.filter(|(_, n)| *n > 0).map(|(name, n)| (Cow::Borrowed(name), n))
}

fn of_system(snapshot: &Snapshot) -> impl Iterator<Item = (&'static str, u64)> {
    let Snapshot { capture, captures_lost, routes_unsent, .. } = snapshot;
    [
        ("capture_received", capture.received),
        ("capture_dropped", capture.dropped),
        ("capture_dropped_by_device", capture.interface_dropped),
        ("captures_lost", *captures_lost),
        ("routes_unsent", *routes_unsent),
    ]
    .into_iter()
}

impl Sample {
    /// What was counted between two looks at the counters.
    pub fn between(before: &Snapshot, now: &Snapshot, at: f64, seconds: f64) -> Self {
        let counters = |snapshot: &Snapshot| {
            let of_ledger = snapshot.ledger.counters().map(|(name, _, count)| (name, count));
            let growing = of_ledger.filter(|(name, _)| !GAUGES.contains(name)).collect::<Vec<_>>();
            growing.into_iter().chain(of_system(snapshot)).collect::<Vec<_>>().into_iter()
        };
        let gauges = now.ledger.counters().filter(|(name, ..)| GAUGES.contains(name));
        let links = [("links", now.links), ("links_up", now.links_up)];
        let (old, new) = (&before.ledger, &now.ledger);
        Self {
            at,
            seconds,
            counted: moved(counters(before), counters(now)).collect(),
            now: gauges.map(|(name, _, n)| (name, n)).chain(links).map(|(name, n)| (name.into(), n)).collect(),
            packets_dropped: moved(report::packet_drops(old), report::packet_drops(new)).collect(),
            bytes_dropped: moved(report::byte_drops(old), report::byte_drops(new)).collect(),
            sessions_ended_early: moved(report::session_ends(old), report::session_ends(new)).collect(),
            packets_not_sent: moved(report::send_errors(&before.transmit), report::send_errors(&now.transmit))
                .collect(),
            lag: Times::between(&old.lag, &new.lag),
            response_time: Times::between(&old.response_time, &new.response_time),
            udp_response_time: Times::between(&before.udp_latency, &now.udp_latency),
            online_response_time: Times::between(&old.online_response_time, &new.online_response_time),
            modules: modules(before, now),
            intercepts: report::relay_totals(&now.relays)
                .into_iter()
                .map(|(address, s)| InterceptLine {
                    address: address.to_string(),
                    captured: s.frames_captured,
                    lost: s.kernel_drops,
                    unrouted: s.unrouted,
                    relayed: s.relayed,
                    overflowed: s.overflowed,
                })
                .collect(),
            replay: now.replay.as_ref().map(|progress| ReplayLine {
                packets: progress.frames,
                pass: progress.pass.0,
                passes: progress.pass.1,
                all_read: progress.ending,
                damages: progress.damages.iter().map(ToString::to_string).collect(),
            }),
        }
    }
}

fn modules(before: &Snapshot, now: &Snapshot) -> Vec<ModuleCount> {
    let mut moved = Vec::new();
    for counter in now.modules.iter() {
        let is_same =
            |old: &&tcpcopy_engine::counters::ModuleCounter| old.module == counter.module && old.name == counter.name;
        let (count, bytes) = before.modules.iter().find(is_same).map_or((0, 0), |old| (old.count, old.bytes));
        let (count, bytes) = (counter.count.saturating_sub(count), counter.bytes.saturating_sub(bytes));
        if count > 0 || bytes > 0 {
            moved.push(ModuleCount { module: counter.module.to_owned(), name: counter.name.to_string(), count, bytes });
        }
    }
    moved
}
