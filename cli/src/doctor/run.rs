//! The checks of `tcpcopy doctor`, in their order: this host, the way to the targets, intercept.

use std::net::IpAddr;
use std::time::Duration;

use tcpcopy_engine::copier::source::SourcePool;
use tcpcopy_io::capture::{self, CaptureError};
use tcpcopy_io::control::LinksConfig;
use tcpcopy_io::host::path::{self, PathSize};
use tcpcopy_io::host::route::{self, Way};
use tcpcopy_io::host::{self, Device, Machine, Rulesets};
use tcpcopy_io::privileges::Account;
use tcpcopy_io::process::{self, Capability};
use tcpcopy_wire::control::{FEATURE_CHECKS, FEATURE_PAYLOAD, FEATURE_UDP, Hello};

use super::answers::{self, Answers};
use super::ask::ask;
use super::checks::Check;
use super::finding::{Finding, Outcome};
use super::host::Privileges;
use super::rules::Rules;
use super::sources::Surroundings;
use super::watch::{self, Wanted};
use super::{firewall, host as judge, intercepts, probe, sources};
use crate::exit::Failure;
use crate::tcpcopy::options::Options;

/// How long pings of one target are waited for.
const PING_PATIENCE: Duration = Duration::from_millis(900);
/// The address of no client (RFC 5737), where none is known.
const SOME_CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
/// The same of IPv6 (RFC 3849).
const SOME_CLIENT_V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// What is known of this host while its checks are made.
struct Host<'a> {
    options: &'a Options,
    devices: Vec<Device>,
    rules: Rules,
    /// Addresses of copies.
    sources: Vec<IpAddr>,
    /// A client that the capture has shown.
    client: Option<IpAddr>,
}

/// Makes all checks; `emit` gets each finding as soon as it is there.
///
/// # Errors
/// When a secret or certificate cannot be read: the real run would not start.
pub(super) fn run(options: &Options, watch: Duration, emit: &mut dyn FnMut(Finding)) -> Result<(), Failure> {
    written_options(options, emit);
    emit(judge::capabilities(privileges(), &process::setcap_line(), None));
    let mut host = Host {
        options,
        devices: host::devices(),
        rules: Rules::read(&Rulesets::read()),
        sources: options.sources.iter().flat_map(SourcePool::addresses).collect(),
        client: None,
    };
    host.capture(watch, emit);
    host.targets(emit);
    if !host.sources.is_empty() {
        emit(sources::cloud(&Machine::read()));
    }
    host.kernel(emit);
    host.ask_intercepts(emit)?;
    if privileges().net_raw {
        probe::run(options).into_iter().for_each(emit);
    }
    Ok(())
}

/// What the process may do.
pub(super) fn privileges() -> Privileges {
    Privileges {
        net_raw: process::has_capability(Capability::NetRaw),
        net_admin: process::has_capability(Capability::NetAdmin),
    }
}

/// What the real run would warn of before it starts.
fn written_options(options: &Options, emit: &mut dyn FnMut(Finding)) {
    for warning in &options.warnings {
        let check = Check::Options.name();
        emit(Finding { check, outcome: Outcome::Warning, text: warning.clone(), remedy: None });
    }
    let user = judge::user(options.identity.user.as_deref().map(Account::find));
    if options.warnings.is_empty() && user.is_none() {
        emit(Check::Options.ok("nothing contradicts"));
    }
    user.into_iter().for_each(emit);
}

/// Why a device cannot be captured on.
pub(super) fn capture_failure(e: &CaptureError) -> Option<Finding> {
    match e {
        // What is said of the device, and of capabilities, says it already.
        CaptureError::NoSuchDevice { .. } | CaptureError::NoPermission { .. } => None,
        CaptureError::UnsupportedLink { .. } => {
            Some(Check::Device.failure(e.to_string(), "leave -i out, or give -i any"))
        }
        CaptureError::BadFilter { .. } => {
            Some(Check::Traffic.failure(e.to_string(), "leave -F out to have the filter made from -x"))
        }
        _ => Some(Check::Device.failure(e.to_string(), "ip link; look at the kernel's log (dmesg)")),
    }
}

impl Host<'_> {
    /// Devices, memory, and what the filter finds.
    fn capture(&mut self, duration: Duration, emit: &mut dyn FnMut(Finding)) {
        let options = self.options;
        if let Some(plan) = &options.replay {
            match plan.check() {
                Ok(()) => emit(Check::Device.ok(format!("{} files can be read", plan.files.len()))),
                Err(e) => emit(Check::Device.failure(e.to_string(), "give with -i files that tcpdump can read")),
            }
        }
        let responses = options.responses.iter().flat_map(|responses| &responses.devices);
        let mut named: Vec<&String> = options.devices.iter().chain(responses).collect();
        named.dedup();
        for name in named {
            emit(judge::device(name, &self.devices, options.promiscuous));
        }
        let rings = options.devices.len() * options.buffer_bytes * usize::from(options.workers);
        emit(judge::memory(rings as u64, options.memory_limit as u64, host::available_memory()));
        if options.replay.is_some() || !privileges().net_raw {
            return;
        }
        match watch::watch(options, &self.devices, duration) {
            Ok((seen, beside)) => {
                self.client = seen.clients.iter().next().copied();
                let wanted = Wanted {
                    filter: &options.filter,
                    filter_is_given: !options.filter_behind_tags,
                    devices: &options.devices,
                    maps: &options.maps,
                    duration,
                };
                emit(watch::judge(wanted, &seen, beside.as_ref()));
            }
            Err(e) => capture_failure(&e).into_iter().for_each(emit),
        }
    }

    /// Each target: the way to it, what fits through, and what this host does with packets that go there.
    fn targets(&self, emit: &mut dyn FnMut(Finding)) {
        let options = self.options;
        let mut addresses: Vec<IpAddr> = Vec::new();
        for map in &options.maps {
            if !addresses.contains(&map.target.addr) {
                addresses.push(map.target.addr);
            }
        }
        for target in addresses {
            let pinged = match route::way_to(target) {
                Ok(way) if way.is_local => None,
                // The pings make the kernel look for the next hop.
                Ok(_) => path::measure(target, options.mtu.into(), PING_PATIENCE).ok(),
                Err(_) => None,
            };
            match route::way_to(target) {
                Err(e) => emit(judge::route(target, Err(&e.to_string()))),
                Ok(way) => {
                    emit(if way.is_local { self.own_answers(target) } else { judge::route(target, Ok(&way)) });
                    let is_there = pinged.is_some_and(|size| size != PathSize::NoAnswer);
                    judge::next_hop(target, &way, is_there).into_iter().for_each(&mut *emit);
                    let device = self.devices.iter().find(|device| device.name == way.device);
                    if !way.is_local {
                        emit(judge::mtu(target, options.mtu.into(), device, &way, pinged));
                    }
                    self.sources_for(target, &way, device).into_iter().for_each(&mut *emit);
                    self.firewall(target, &way, emit);
                }
            }
        }
    }

    /// The way of the answers, where the target is this host.
    fn own_answers(&self, target: IpAddr) -> Finding {
        let back = self.source_for(target).map(|source| (source, route::way_to(source).map_err(|e| e.to_string())));
        let network = probe::network_of(self.sources.iter().copied(), target);
        answers::judge(Answers {
            target,
            back: back.as_ref().map(|(source, way)| (*source, way.as_ref().map_err(String::as_str))),
            network: network.as_deref().unwrap_or("NETWORK"),
            captured_on: self.options.responses.as_ref().map(|responses| &responses.devices[..]),
            intercepts: &self.options.intercepts,
        })
    }

    fn sources_for(&self, target: IpAddr, way: &Way, device: Option<&Device>) -> Vec<Finding> {
        let of_family: Vec<IpAddr> =
            self.sources.iter().copied().filter(|address| address.is_ipv4() == target.is_ipv4()).collect();
        let networks = || device.into_iter().flat_map(|device| &device.addresses);
        let shared = networks().find(|net| way.gateway.is_none() && net.contains(&target)).copied();
        // Of those that are elsewhere: a route through the target's own loopback leads nowhere.
        let leads_there = |address: &IpAddr| *address != target && !address.is_loopback();
        let mut intercepts = self.options.intercepts.iter().map(std::net::SocketAddr::ip).filter(leads_there);
        let intercept = intercepts.find(|address| address.is_ipv4() == target.is_ipv4());
        let local = capture::local_addresses();
        sources::sources(&of_family, Surroundings { local: &local, target, shared, intercept })
    }

    /// What the firewall and the tracking of connections do with copies to a target.
    fn firewall(&self, target: IpAddr, way: &Way, emit: &mut dyn FnMut(Finding)) {
        if self.options.output.is_some() {
            emit(Check::Firewall.ok(format!("copies to {target} go past it, as whole frames (-o)")));
            return;
        }
        let table = host::conntrack();
        let mut told: Vec<Finding> = Vec::new();
        for map in self.options.maps.iter().filter(|map| map.target.addr == target) {
            let from = self.source_for(target);
            let of_target = firewall::copies(&self.rules, from, map.target, map.transport, &way.device);
            let exempt = firewall::is_untracked(&self.rules, from, map.target, map.transport, &way.device);
            let tracked = judge::conntrack(table, self.rules.track_connections(), exempt, map.target, map.transport);
            for finding in [of_target, tracked] {
                if !told.contains(&finding) {
                    told.push(finding.clone());
                    emit(finding);
                }
            }
        }
    }

    /// A source address of copies to a target, where that is known.
    fn source_for(&self, target: IpAddr) -> Option<IpAddr> {
        let same_family = |address: &IpAddr| address.is_ipv4() == target.is_ipv4();
        self.sources.iter().copied().find(same_family).or(self.client.filter(same_family))
    }

    /// Where answers come to this host, it must not send them on.
    fn kernel(&self, emit: &mut dyn FnMut(Finding)) {
        if self.options.responses.is_none() {
            emit(
                Check::Kernel.ok("copies only leave this host: neither ip_forward nor rp_filter here matters to them"),
            );
            return;
        }
        let number = |name: &str| host::sysctl_number(name).map(|value| value != 0);
        let uses_ipv6 = self.options.maps.iter().any(|map| map.target.addr.is_ipv6());
        let (ipv4, ipv6) = (number("net/ipv4/ip_forward"), number("net/ipv6/conf/all/forwarding"));
        emit(judge::forwarding(ipv4, ipv6, uses_ipv6));
    }

    fn ask_intercepts(&self, emit: &mut dyn FnMut(Finding)) -> Result<(), Failure> {
        let options = self.options;
        if options.intercepts.is_empty() {
            return Ok(());
        }
        let questions = intercepts::questions(&options.maps, |target: IpAddr| {
            let some_client = if target.is_ipv4() { SOME_CLIENT } else { SOME_CLIENT_V6 };
            Some(self.source_for(target).unwrap_or(some_client))
        });
        let features = FEATURE_PAYLOAD | FEATURE_UDP | FEATURE_CHECKS;
        let hello = Hello { features, route_ttl: options.idle_timeout, ..Hello::default() };
        let mut config = LinksConfig::new(options.intercepts.clone(), 1, hello);
        (config.secret, config.tls) = (options.security.read_secret()?, options.security.client()?);
        config.protocol = options.intercept_protocol;
        match ask(config, &questions) {
            Ok(all) => {
                for (address, reached) in options.intercepts.iter().zip(&all) {
                    intercepts::judge(*address, reached, &questions).into_iter().for_each(&mut *emit);
                }
            }
            Err(e) => {
                let remedy = "ulimit -n; how many files are open?";
                emit(Check::Intercept.warning(format!("cannot be asked: {e}"), remedy));
            }
        }
        Ok(())
    }
}
