//! What a test is given, and when it is skipped.

use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use tcpcopy::demo::copy::Programs;
use tcpcopy_io::netns;
use tcpcopy_tests::programs;
use tcpcopy_tests::sql::clients::has_pymysql;
use tcpcopy_tests::sql::{Family, has_ed25519};
use tempfile::TempDir;

/// What a test cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Runs anywhere.
    Nothing,
    /// Network namespaces, `ip` and `iptables`.
    Hosts,
    /// The same, and setpriv.
    Privileges,
    /// Hosts, and nginx.
    Servers,
    /// The same, nginx and wrk.
    Wrk,
    /// The same, nginx and tcpdump.
    Tcpdump,
    /// Hosts, nginx and openssl.
    OpenSsl,
    /// Hosts, and dnsmasq.
    Dns,
    /// Hosts, MariaDB, and what logs in to it.
    MariaDb,
    /// The same, and its plugin for ed25519.
    Ed25519,
    /// Hosts, MariaDB, what logs in to it, and MySQL.
    MySql,
    /// Hosts, and memcached.
    Memcached,
    /// Hosts, a C compiler and make.
    Compiler,
    /// Hosts, and what the documents' recipes run on them.
    Recipes,
}

impl Needs {
    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Nothing => &[],
            Self::Hosts => &["ip", "iptables"],
            Self::Privileges => &["ip", "iptables", "setpriv"],
            Self::Servers => &["ip", "iptables", "nginx"],
            Self::Wrk => &["ip", "iptables", "nginx", "wrk"],
            Self::Tcpdump => &["ip", "iptables", "nginx", "tcpdump"],
            Self::OpenSsl => &["ip", "iptables", "nginx", "openssl"],
            Self::Dns => &["ip", "iptables", "sysctl", "dnsmasq"],
            Self::MariaDb | Self::Ed25519 | Self::MySql => &["ip", "iptables", "sysctl", "sysbench"],
            Self::Memcached => &["ip", "memcached"],
            Self::Compiler => &["ip", "cc", "make"],
            Self::Recipes => {
                &["ip", "iptables", "sysctl", "curl", "ss", "ethtool", "tc", "tcpdump", "openssl", "script", "setcap"]
            }
        }
    }

    /// What is not there, if anything.
    fn missing(self) -> Option<&'static str> {
        let family = match self {
            Self::MariaDb | Self::Ed25519 => Some(Family::MariaDb),
            Self::MySql => Some(Family::MySql),
            _ => None,
        };
        let program = self.programs().iter().find(|program| !netns::has_program(program)).copied();
        let server = || family.and_then(Family::missing);
        let client = || (family.is_some() && !has_pymysql()).then_some("PyMySQL");
        let plugin = || (self == Self::Ed25519 && !has_ed25519()).then_some("MariaDB's auth_ed25519");
        program.or_else(server).or_else(client).or_else(plugin)
    }
}

/// What a running test works with.
pub(crate) struct Bench<'a> {
    /// The programs under test.
    pub(crate) programs: &'a Programs,
    /// A folder of its own; kept when the test fails.
    pub(crate) folder: &'a Path,
}

/// All tests of this program.
pub(crate) struct Suite {
    arguments: Arguments,
    programs: Programs,
    /// Why there are no hosts.
    no_hosts: Option<String>,
    trials: Vec<Trial>,
    /// Those that mostly wait.
    waiting: Vec<Trial>,
}

/// Tests that mostly wait, for packets that do not come, run so many at a time.
const WAITING_AT_A_TIME: usize = 4;

impl Suite {
    pub(crate) fn prepare() -> Self {
        let arguments = Arguments::from_args();
        let programs = if arguments.list { programs_of_no_use() } else { programs::build() };
        let no_hosts = if arguments.list { None } else { netns::prepare().err().map(|error| error.to_string()) };
        if let Some(reason) = &no_hosts {
            println!("tests that need hosts are skipped: {reason}");
        }
        netns::raise_open_file_limit();
        // The place and the words of a failure are what helps; the stack above a test is the harness.
        panic::set_hook(Box::new(|info| eprintln!("{info}")));
        Self { arguments, programs, no_hosts, trials: Vec::new(), waiting: Vec::new() }
    }

    /// A test that wants the machine for itself.
    pub(crate) fn add(&mut self, name: &'static str, needs: Needs, test: fn(&Bench<'_>)) {
        let trial = self.trial(name, needs, test);
        self.trials.push(trial);
    }

    /// A test that mostly waits, and harms no other one that does.
    pub(crate) fn add_waiting(&mut self, name: &'static str, needs: Needs, test: fn(&Bench<'_>)) {
        let trial = self.trial(name, needs, test);
        self.waiting.push(trial);
    }

    fn trial(&self, name: &'static str, needs: Needs, test: fn(&Bench<'_>)) -> Trial {
        let missing = match (&self.no_hosts, needs) {
            (_, Needs::Nothing) => None,
            (Some(_), _) => Some("skipped: no network namespaces".to_owned()),
            (None, _) => needs.missing().map(|program| format!("skipped: {program} is not installed")),
        };
        let programs = self.programs.clone();
        let trial = Trial::test(name, move || run(name, &programs, test));
        match missing {
            Some(reason) => trial.with_kind(reason).with_ignored_flag(true),
            None => trial,
        }
    }

    pub(crate) fn run(self) -> ExitCode {
        let Self { mut arguments, trials, waiting, .. } = self;
        if arguments.list {
            return libtest_mimic::run(&arguments, trials.into_iter().chain(waiting).collect()).exit_code();
        }
        let wanted = arguments.test_threads;
        // Each of these has several busy processes already.
        arguments.test_threads = wanted.or(Some(1));
        let alone = libtest_mimic::run(&arguments, trials);
        arguments.test_threads = wanted.or(Some(WAITING_AT_A_TIME));
        let together = libtest_mimic::run(&arguments, waiting);
        if alone.has_failed() { alone.exit_code() } else { together.exit_code() }
    }
}

fn programs_of_no_use() -> Programs {
    Programs { tcpcopy: "tcpcopy".into(), intercept: "intercept".into() }
}

fn run(name: &str, programs: &Programs, test: fn(&Bench<'_>)) -> Result<(), Failed> {
    let folder = TempDir::with_prefix("tcpcopy-lab-").map_err(|error| format!("cannot make a folder: {error}"))?;
    let bench = Bench { programs, folder: folder.path() };
    let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| test(&bench))) else { return Ok(()) };
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("panicked");
    // An empty folder tells nothing.
    let is_empty = folder.path().read_dir().map_or(true, |mut entries| entries.next().is_none());
    let kept = if is_empty { String::new() } else { format!("\nlogs are kept in {}", folder.keep().display()) };
    Err(format!("{name}: {message}{kept}").into())
}
