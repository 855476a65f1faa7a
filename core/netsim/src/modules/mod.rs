//! The network for tests of protocol modules.

mod outcome;
mod script;
mod server;

use tcpcopy_engine::outbox::Notice;
use tcpcopy_engine::{CopierConfig, Gate};
use tcpcopy_module_api::{ModuleHandle, Transport};

use crate::application::{Begin, Client};
use crate::chance::Quality;
use crate::conditions::Conditions;
use crate::{Failure, Network};
pub use outcome::{ClientOutcome, End, Outcome, TargetConnection};
pub use script::Script;
pub use server::{Echo, Faulty, FromFn, Lines, Reply, Server, lines, serve};

use script::Player;
use server::Servers;

const FIRST_CLIENT_PORT: u16 = 40_000;

/// A network on which a protocol module is tried: clients are [`Script`]s, online and the target are [`Server`]s.
///
/// ```
/// use tcpcopy_module_api::{About, Module, ModuleHandle, Options, Transport};
/// use tcpcopy_netsim::{ModuleNetwork, Quality, Script, lines};
///
/// struct Plain;
///
/// impl Module for Plain {
///     fn about() -> About {
///         About { name: "plain", ..About::new(Transport::Tcp, "1") }
///     }
///
///     fn create(_: &Options) -> Result<Self, String> {
///         Ok(Self)
///     }
/// }
///
/// let outcome = ModuleNetwork::new(ModuleHandle::new(Plain))
///     .target_path(Quality { loss: 20, ..Quality::delayed(std::time::Duration::from_millis(1)) })
///     .client(Script::new().send("one\n").wait_for(3).send("two\n").wait_for(3))
///     .online(|_| lines(|_| "ok\n"))
///     .target(|_| lines(|_| "ok too\n"))
///     .run();
/// outcome.assert_all_completed();
/// assert_eq!(outcome.messages_of(0), [b"one\n", b"two\n"]);
/// ```
///
/// While a run goes on, the ledger's equations are checked after each call of the engine. With `NETSIM_TRACE` in the
/// environment all packets are written to standard error.
pub struct ModuleNetwork {
    conditions: Conditions,
    config: CopierConfig,
    scripts: Vec<Script>,
    online: Servers,
    target: Servers,
}

impl ModuleNetwork {
    /// A clean network with no clients, where online and the target are [`Echo`]s.
    ///
    /// # Panics
    /// With a module for UDP, which is not simulated.
    pub fn new(module: ModuleHandle) -> Self {
        assert_eq!(module.about.transport, Transport::Tcp, "only TCP is simulated");
        let mut conditions = Conditions { run_for: std::time::Duration::from_secs(600), ..Conditions::default() };
        conditions.capture.both_directions = module.about.sees_online;
        conditions.trace = std::env::var_os("NETSIM_TRACE").is_some();
        Self {
            config: CopierConfig::new(Vec::new(), module),
            conditions,
            scripts: Vec::new(),
            online: Servers::new(|_| Echo),
            target: Servers::new(|_| Echo),
        }
    }

    /// Start value of all that is left to chance.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.conditions.seed = seed;
        self
    }

    /// The path to the target and the one back.
    #[must_use]
    pub fn target_path(mut self, quality: Quality) -> Self {
        (self.conditions.to_target, self.conditions.from_target) = (quality, quality);
        self
    }

    /// The path between clients and online, both ways.
    #[must_use]
    pub fn client_path(mut self, quality: Quality) -> Self {
        self.conditions.client_path = quality;
        self
    }

    /// What holds requests back.
    #[must_use]
    pub fn gate(mut self, gate: Gate) -> Self {
        self.config.gate = gate;
        self
    }

    /// The largest packet that tcpcopy may send, in bytes.
    #[must_use]
    pub fn mtu(mut self, mtu: u16) -> Self {
        self.config.mtu = mtu;
        self
    }

    /// Everything else about the network: IPv6, what the capture misses, restarts of intercept and target.
    #[must_use]
    pub fn conditions(mut self, change: impl FnOnce(&mut Conditions)) -> Self {
        change(&mut self.conditions);
        self
    }

    /// Everything else about the engine: its time-outs, its limits. Its map is that of the network.
    #[must_use]
    pub fn config(mut self, change: impl FnOnce(&mut CopierConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// One more client.
    #[must_use]
    pub fn client(mut self, script: Script) -> Self {
        self.scripts.push(script);
        self
    }

    /// More clients.
    #[must_use]
    pub fn clients(mut self, scripts: impl IntoIterator<Item = Script>) -> Self {
        self.scripts.extend(scripts);
        self
    }

    /// What online does with the connection of each number, the first being 0.
    #[must_use]
    pub fn online<S: Server + 'static>(mut self, make: impl FnMut(usize) -> S + 'static) -> Self {
        self.online = Servers::new(make);
        self
    }

    /// What the target does with the connection of each number, the first being 0.
    #[must_use]
    pub fn target<S: Server + 'static>(mut self, make: impl FnMut(usize) -> S + 'static) -> Self {
        self.target = Servers::new(make);
        self
    }

    /// What both online and the target do.
    #[must_use]
    pub fn servers<S: Server + 'static>(self, make: impl FnMut(usize) -> S + Clone + 'static) -> Self {
        self.online(make.clone()).target(make)
    }

    /// Runs until all clients and their sessions are done, or time is up.
    ///
    /// # Panics
    /// When [`try_run`](Self::try_run) fails.
    #[track_caller]
    pub fn run(self) -> Outcome {
        match self.try_run() {
            Ok(outcome) => outcome,
            Err(failure) => panic!("{failure}"),
        }
    }

    /// Runs until all clients and their sessions are done, or time is up; then stops the engine.
    ///
    /// # Errors
    /// What the engine did that it must never do, or which client could not play its script to the end; and the last
    /// packets.
    pub fn try_run(mut self) -> Result<Outcome, Failure> {
        self.config.maps = vec![self.conditions.map()];
        let clients = (0u16..).zip(self.scripts).map(|(i, script)| Client {
            port: FIRST_CLIENT_PORT + i,
            begin: Begin::At(script.begin(usize::from(i))),
            timestamps: false,
            application: Player::new(script),
        });
        let clients: Vec<_> = clients.collect();
        let count = clients.len();
        let mut network = Network::new(self.conditions, self.config, clients, self.online, self.target);
        let mut run = || {
            network.run()?;
            for client in 0..count {
                if let Some(step) = network.client(client).stuck_at() {
                    return Err(format!("at {:?}, client {client} does not get past {step}", network.now()));
                }
            }
            let took = network.now();
            network.stop()?;
            outcome(&network, count, took)
        };
        run().map_err(|failure| format!("{failure}\nThe last packets:\n{}", network.recent_packets()))
    }
}

/// What has come of the run, connection by connection.
fn outcome(
    network: &Network<Player, Servers>,
    count: usize,
    took: tcpcopy_wire::Timestamp,
) -> Result<Outcome, Failure> {
    let address = |client: usize| network.conditions().client_address(FIRST_CLIENT_PORT + client as u16);
    let record = network.record();
    let client_outcome = |client: usize| {
        let address = address(client);
        let is_copied = record.announced.values().any(|flow| std::net::SocketAddr::from(flow.client) == address);
        let (mut end, mut aborted) = (if is_copied { End::Completed } else { End::NotCopied }, None);
        for (_, notice) in &record.notices {
            match notice {
                Notice::SessionEnded { flow, reason } if address == flow.client.into() => end = End::Early(*reason),
                Notice::ModuleAborted { flow, reason, .. } if address == flow.client.into() => {
                    aborted = Some(reason.clone());
                }
                Notice::ModulePanicked { flow, message, .. } if address == flow.client.into() => {
                    aborted = Some(format!("panic: {message}"));
                }
                _ => {}
            }
        }
        ClientOutcome { address, received: network.client(client).received.clone(), end, aborted }
    };
    let mut connections: Vec<_> = network.target_connections().collect();
    connections.sort_by_key(|connection| connection.number);
    let connections = connections.into_iter().map(|served| {
        let client = (0..count).find(|client| address(*client) == served.remote);
        Ok(TargetConnection {
            client: client.ok_or_else(|| format!("the target has a connection from {}, no client", served.remote))?,
            replica: served.remote,
            opened: served.opened,
            received: served.received.clone(),
            arrivals: served.arrivals.clone(),
            messages: served.messages.clone(),
        })
    });
    Ok(Outcome {
        clients: (0..count).map(client_outcome).collect(),
        connections: connections.collect::<Result<_, Failure>>()?,
        ledger: network.copier().ledger().clone(),
        counters: network.copier().module_counters().clone(),
        notices: record.notices.clone(),
        took,
    })
}
