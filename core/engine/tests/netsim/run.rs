//! Runs cases.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tcpcopy_engine::CopierConfig;
use tcpcopy_engine::copier::source::SourcePool;
use tcpcopy_engine::ledger::SessionEnd;
use tcpcopy_engine::outbox::Notice;
use tcpcopy_module_api::ModuleHandle;
use tcpcopy_module_tcp::PlainTcp;
use tcpcopy_netsim::{Begin, Client, Conditions, Failure, Listener, Network};
use tcpcopy_wire::Flow;

use crate::apps::{Answers, ClientApp, Ordinal};
use crate::case::{Case, Fault, Server};
use crate::outcome;

const FIRST_CLIENT_PORT: u16 = 40_000;

/// A case on its network.
pub(crate) struct Run<'a> {
    pub(crate) case: &'a Case,
    pub(crate) network: Network<ClientApp, Answers>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(case: &'a Case, trace: bool) -> Self {
        let listener = |server: Server| Listener {
            window: server.window,
            timestamps: server.timestamps,
            refuses: server.fault == Fault::Refuse,
        };
        let conditions = Conditions {
            seed: case.seed,
            ipv6: case.ipv6,
            client_path: case.client_path,
            to_target: case.to_target,
            from_target: case.from_target,
            control_delay: case.control_delay,
            intercept_restarts: case.intercept_restarts,
            capture: case.capture,
            online: listener(case.online),
            target: listener(case.target),
            run_for: case.run_for,
            trace,
            ..Conditions::default()
        };
        let config = CopierConfig {
            sources: SourcePool::new(case.sources.clone()),
            mtu: case.mtu,
            only_whole_sessions: case.only_whole_sessions,
            gate: case.gate,
            hole_timeout: case.hole_timeout,
            response_timeout: case.response_timeout,
            idle_timeout: case.idle_timeout,
            ..CopierConfig::new(vec![conditions.map()], ModuleHandle::new(PlainTcp))
        };
        let clients = (0..case.sessions()).map(|session| Client {
            port: port_of(case, session),
            begin: if session % case.connections_per_port == 0 {
                let port = session / case.connections_per_port;
                Begin::At(Duration::from_millis(1) + case.start_gap * port as u32)
            } else {
                Begin::After(session - 1)
            },
            timestamps: case.client_timestamps,
            application: ClientApp::new(session, case),
        });
        let ordinal = Ordinal::default();
        let [online, target] = [case.online, case.target].map(|server| Answers::new(server, case, &ordinal));
        Self { case, network: Network::new(conditions, config, clients.collect(), online, target) }
    }

    /// The address of a client's connection.
    pub(crate) fn client_address(&self, session: usize) -> SocketAddr {
        self.network.conditions().client_address(port_of(self.case, session))
    }

    /// The sessions that ended early.
    pub(crate) fn ended(&self) -> impl Iterator<Item = (Flow, SessionEnd)> {
        self.network.record().notices.iter().filter_map(|(_, notice)| match notice {
            Notice::SessionEnded { flow, reason } => Some((*flow, *reason)),
            _ => None,
        })
    }

    /// Runs to the end of the case and judges it.
    pub(crate) fn run(&mut self) -> Result<(), Failure> {
        self.network.run()?;
        outcome::judge(self)?;
        self.network.stop()
    }
}

fn port_of(case: &Case, session: usize) -> u16 {
    FIRST_CLIENT_PORT + (session / case.connections_per_port) as u16
}

/// Runs cases, and fails with what went wrong in each of the first few that failed.
pub(crate) fn run_all(cases: impl IntoIterator<Item = Case>) {
    let only = std::env::var("NETSIM_CASE").ok();
    // In the name of a case, the round stands behind a plus.
    let (only_name, only_round) = match only.as_deref().map(|name| name.split_once('+').unwrap_or((name, "0"))) {
        Some((name, round)) => (Some(name), round.parse().expect("NETSIM_CASE ends in a number behind the plus")),
        None => (None, 0),
    };
    let rounds = std::env::var("NETSIM_ROUNDS").map_or(1, |n| n.parse().expect("NETSIM_ROUNDS is a number"));
    let mut count = 0;
    let mut failures = Vec::new();
    for case in cases {
        if only_name.is_some_and(|name| name != case.name) {
            continue;
        }
        for round in if only_name.is_some() { only_round..only_round + 1 } else { 0..rounds } {
            let mut case = case.clone();
            if round > 0 {
                case.name = format!("{}+{round}", case.name);
                case.seed += 1_000 * round;
            }
            count += 1;
            let mut run = Run::new(&case, only.is_some());
            let verdict = catch_unwind(AssertUnwindSafe(|| run.run())).unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                Err(format!("panic: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?")))
            });
            if let Err(failure) = verdict {
                let packets = run.network.recent_packets();
                drop(run);
                failures.push((case, failure, packets));
            }
        }
    }
    if let Some((case, _, packets)) = failures.first() {
        let list: Vec<_> = failures.iter().take(20).map(|(c, f, _)| format!("  {}: {f}", c.name)).collect();
        panic!(
            "{} of {count} cases failed:\n{}\n\nThe first of them: {case:?}\nIts last packets:\n{packets}",
            failures.len(),
            list.join("\n"),
        );
    }
}
