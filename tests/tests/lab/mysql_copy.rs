//! Copies of MySQL sessions between MariaDB and MySQL, judged by what the servers count and by what is in their tables.

use std::collections::BTreeMap;
use std::time::Duration;

use tcpcopy_io::netns::{Lab, wait_for};
use tcpcopy_tests::copy::{Copy, Setup};
use tcpcopy_tests::settle;
use tcpcopy_tests::sql::clients::{Login, Sysbench, command_line, pymysql};
use tcpcopy_tests::sql::{Family, Plugin, Server};

use crate::harness::Bench;

const PATIENCE: Duration = Duration::from_secs(60);
/// The load's user has these passwords.
const ONLINE: &str = "on line,@1";
const TARGET: &str = "target@2";

/// Two servers, with a copy between them.
struct Pair {
    lab: Lab,
    online: Server,
    target: Server,
}

impl Pair {
    /// Servers of these families, with a database `shop` and a user `load`.
    fn start(bench: &Bench<'_>, families: [Family; 2], plugins: [Plugin; 2]) -> Self {
        let lab = Lab::new().expect("a lab");
        let online = Server::start(families[0], &lab.online, bench.folder, &[]);
        let target = Server::start(families[1], &lab.target, bench.folder, &[]);
        for (server, plugin, password) in [(&online, plugins[0], ONLINE), (&target, plugins[1], TARGET)] {
            server.sql("CREATE DATABASE shop");
            server.create_user("load", plugin, password);
        }
        Self { lab, online, target }
    }

    fn login(&self) -> Login<'static> {
        Login { server: self.lab.online.ipv4.into(), user: "load", password: ONLINE, database: "shop" }
    }

    /// Runs statements on both servers, apart from any copy.
    fn on_both(&self, statements: &str) {
        for server in [&self.online, &self.target] {
            server.sql(statements);
        }
    }

    /// Starts the copy, and waits until it copies.
    fn copy(&self, bench: &Bench<'_>, more: &[(&str, &str)]) -> Copy {
        let mut setup = Setup::sql(bench.programs, bench.folder, &self.lab);
        setup.set("--proto", "mysql");
        if !more.iter().any(|(option, _)| *option == "--mysql-skip-grant-tables") {
            setup.set("-u", &format!("load@{TARGET}"));
        }
        for (option, value) in more {
            if value.is_empty() {
                setup.tcpcopy.push((*option).to_owned());
            } else {
                setup.set(option, value);
            }
        }
        let copy = setup.start(&self.lab);
        self.wait_until_copied(bench);
        copy
    }

    fn wait_until_copied(&self, bench: &Bench<'_>) {
        let selects = || self.target.status()["Com_select"];
        let before = selects();
        let up = wait_for(PATIENCE, || {
            command_line(Family::MariaDb, &self.lab.client, &self.login(), "SELECT 'probe'").expect("online answers");
            wait_for(Duration::from_millis(300), || (selects() > before).then_some(()))
        });
        assert!(up.is_some(), "nothing is copied; see {}", bench.folder.display());
        settle(u64::MAX, Duration::from_millis(500), selects);
    }

    fn statuses(&self) -> [BTreeMap<String, u64>; 2] {
        [self.online.status(), self.target.status()]
    }

    /// Waits until the target has counted as much of these as online has; returns both.
    fn settled<const N: usize>(&self, before: &[BTreeMap<String, u64>; 2], names: [&str; N]) -> ([u64; N], [u64; N]) {
        let counted = || (self.online.growth(&before[0], names), self.target.growth(&before[1], names));
        wait_for(PATIENCE, || {
            let (online, target) = counted();
            (online == target).then_some(())
        });
        counted()
    }
}

/// The statements of a load.
const STATEMENTS: [&str; 6] = ["Com_select", "Com_update", "Com_delete", "Com_insert", "Com_begin", "Com_commit"];

fn assert_well(log: &str, bench: &Bench<'_>) {
    let folder = bench.folder.display();
    assert!(!log.contains("balance"), "see {folder}");
    assert!(!log.contains("panicked"), "see {folder}");
}

/// One thread after the other: all statements arrive, and leave the same rows.
fn sysbench(bench: &Bench<'_>, families: [Family; 2], plugins: [Plugin; 2]) {
    let pair = Pair::start(bench, families, plugins);
    let load = Sysbench { tables: 2, rows: 200, threads: 1, transactions: 100, prepared: true };
    load.prepare(&pair.lab.client, &pair.login());
    load.prepare(&pair.lab.client, &Login { server: pair.lab.target.ipv4.into(), password: TARGET, ..pair.login() });
    let copy = pair.copy(bench, &[]);
    for prepared in [true, false] {
        let before = pair.statuses();
        Sysbench { prepared, ..load }.run(&pair.lab.client, &pair.login());
        let (online, target) = pair.settled(&before, STATEMENTS);
        assert_eq!(target, online, "prepared: {prepared}; {STATEMENTS:?}");
        assert_eq!(online[5], 100);
        for table in ["shop.sbtest1", "shop.sbtest2"] {
            // A statement is counted before it is done.
            wait_for(PATIENCE, || (pair.target.rows(table) == pair.online.rows(table)).then_some(()));
            assert!(pair.target.rows(table) == pair.online.rows(table), "{table} differs");
        }
    }
    let log = copy.stop();
    assert_well(&log, bench);
}

pub(crate) fn sysbench_mariadb(bench: &Bench<'_>) {
    sysbench(bench, [Family::MariaDb, Family::MariaDb], [Plugin::Native, Plugin::Native]);
}

pub(crate) fn sysbench_to_mysql(bench: &Bench<'_>) {
    sysbench(bench, [Family::MariaDb, Family::MySql], [Plugin::Native, Plugin::CachingSha2]);
}

pub(crate) fn sysbench_from_mysql(bench: &Bench<'_>) {
    sysbench(bench, [Family::MySql, Family::MariaDb], [Plugin::CachingSha2, Plugin::Native]);
}
