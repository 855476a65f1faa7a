//! Workloads of protocols with modules of their own: MySQL and UDP.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tcpcopy::demo::copy::Programs;
use tcpcopy_io::netns::{self, Lab, wait_for};
use tcpcopy_tests::copy::{Copy, Setup};
use tcpcopy_tests::settle;
use tcpcopy_tests::sql::clients::{Login, Sysbench, command_line, has_pymysql, pymysql};
use tcpcopy_tests::sql::{Family, Plugin, Server};
use tcpcopy_tests::udp::{Receiver, Traffic, times_arrived, wait_until_copying};
use tempfile::TempDir;

use crate::table::Row;

const ONLINE: &str = "online secret";
const TARGET: &str = "target secret";
const SESSIONS: u64 = 20;
const QUERIES: u64 = 20;
/// The copies' sessions may end so much later than the clients'.
const PATIENCE: Duration = Duration::from_secs(10);
const START_PATIENCE: Duration = Duration::from_secs(60);

/// A row that says why there is nothing to say.
fn not_measured(missing: &str) -> Vec<Row> {
    let ours = format!("not measured: {missing} is not installed");
    vec![Row { variant: String::new(), before: None, ours, cpu: None, reached: None }]
}

/// Two servers with a copy between them, and a user whose passwords differ.
struct Databases {
    copy: Copy,
    online: Server,
    target: Server,
    lab: Lab,
    _folder: TempDir,
}

impl Databases {
    /// MariaDB on online, another family on the target. `fill` is done before the copy begins, on both.
    fn start(programs: &Programs, family: Family, plugin: Plugin, fill: impl Fn(&Lab, &Login<'_>)) -> Self {
        let folder = TempDir::with_prefix("tcpcopy-bench-").expect("a folder");
        let lab = Lab::new().expect("a lab");
        let online = Server::start(Family::MariaDb, &lab.online, folder.path(), &[]);
        let target = Server::start(family, &lab.target, folder.path(), &[]);
        for (server, plugin, password) in [(&online, Plugin::Native, ONLINE), (&target, plugin, TARGET)] {
            server.sql("CREATE DATABASE shop; CREATE TABLE shop.visit (s INT, q INT)");
            server.create_user("load", plugin, password);
        }
        fill(&lab, &Self::login(&lab));
        fill(&lab, &Login { server: lab.target.ipv4.into(), password: TARGET, ..Self::login(&lab) });
        let mut setup = Setup { has_time: false, ..Setup::sql(programs, folder.path(), &lab) };
        setup.set("--proto", "mysql");
        setup.set("-u", &format!("load@{TARGET}"));
        let copy = setup.start(&lab);
        let selects = || target.status()["Com_select"];
        let before = selects();
        let up = wait_for(START_PATIENCE, || {
            command_line(Family::MariaDb, &lab.client, &Self::login(&lab), "SELECT 'probe'").expect("online answers");
            wait_for(Duration::from_millis(300), || (selects() > before).then_some(()))
        });
        assert!(up.is_some(), "no statement was copied");
        settle(u64::MAX, Duration::from_millis(500), selects);
        Self { copy, online, target, lab, _folder: folder }
    }

    fn login(lab: &Lab) -> Login<'static> {
        Login { server: lab.online.ipv4.into(), user: "load", password: ONLINE, database: "shop" }
    }
}

/// PyMySQL: sessions one after the other, each with its queries.
fn sessions(programs: &Programs, family: Family, plugin: Plugin) -> Vec<Row> {
    let missing = family.missing().or(Family::MariaDb.missing()).or((!has_pymysql()).then_some("PyMySQL"));
    if let Some(missing) = missing {
        return not_measured(missing);
    }
    let databases = Databases::start(programs, family, plugin, |_, _| {});
    let script = format!(
        "
for s in range({SESSIONS}):
    session = connect()
    cursor = session.cursor()
    for q in range({QUERIES}):
        cursor.execute('INSERT INTO visit VALUES (%s, %s)', (s, q))
    session.close()
"
    );
    pymysql(&databases.lab.client, &Databases::login(&databases.lab), &script).expect("PyMySQL");
    let wanted = SESSIONS * QUERIES;
    // Each row counts once, however often it may be there.
    let count = |what: &str| -> u64 {
        databases.target.value(&format!("SELECT COUNT({what}) FROM shop.visit")).parse().expect("a number")
    };
    wait_for(PATIENCE, || (count("*") >= wanted).then_some(()));
    let (rows, distinct) = (count("*"), count("DISTINCT s, q"));
    databases.copy.stop();
    let ours = format!("{distinct} of {wanted}, {} twice", rows - distinct);
    vec![Row {
        variant: String::new(),
        before: None,
        ours,
        cpu: None,
        reached: Some(rows == wanted && distinct == wanted),
    }]
}

pub(crate) fn native_password(programs: &Programs) -> Vec<Row> {
    sessions(programs, Family::MariaDb, Plugin::Native)
}

/// The first login of a user proves the password in full, those after it by what the server remembers.
pub(crate) fn caching_sha2(programs: &Programs) -> Vec<Row> {
    sessions(programs, Family::MySql, Plugin::CachingSha2)
}

/// sysbench, which has MariaDB's client library; its transactions leave the same rows behind on both.
pub(crate) fn client_library(programs: &Programs) -> Vec<Row> {
    let missing = Family::MariaDb.missing().or((!netns::has_program("sysbench")).then_some("sysbench"));
    if let Some(missing) = missing {
        return not_measured(missing);
    }
    const STATEMENTS: [&str; 4] = ["Com_select", "Com_update", "Com_delete", "Com_insert"];
    let load = Sysbench { tables: 1, rows: 200, threads: 1, transactions: 100, prepared: true };
    let databases = Databases::start(programs, Family::MariaDb, Plugin::Native, |lab, login| {
        load.prepare(&lab.client, login);
    });
    let before = [databases.online.status(), databases.target.status()];
    load.run(&databases.lab.client, &Databases::login(&databases.lab));
    let counts = || {
        let online = databases.online.growth(&before[0], STATEMENTS).iter().sum::<u64>();
        (online, databases.target.growth(&before[1], STATEMENTS).iter().sum::<u64>())
    };
    wait_for(PATIENCE, || {
        let (online, target) = counts();
        (target >= online).then_some(())
    });
    let (online, target) = counts();
    let is_same = databases.online.rows("shop.sbtest1") == databases.target.rows("shop.sbtest1");
    databases.copy.stop();
    let same = if is_same { "same rows" } else { "OTHER ROWS" };
    let ours = format!("{target} of {online} statements, {same}");
    vec![Row { variant: String::new(), before: None, ours, cpu: None, reached: Some(target == online && is_same) }]
}

/// Datagrams that take two fragments, and more.
pub(crate) fn large_datagrams(programs: &Programs) -> Vec<Row> {
    const UDP_PORT: u16 = 8125;
    const DATAGRAMS: u64 = 500;
    [2_000, 60_000]
        .into_iter()
        .map(|len| {
            let folder = TempDir::with_prefix("tcpcopy-bench-").expect("a folder");
            let lab = Lab::new().expect("a lab");
            let origin = Instant::now();
            let [server, target] = [&lab.online, &lab.target].map(|host| SocketAddr::new(host.ipv4.into(), UDP_PORT));
            let _online = Receiver::start(&lab.online, server, origin, true);
            let receiver = Receiver::start(&lab.target, target, origin, true);
            let map = format!("udp:{server}-{target}");
            let setup = Setup { has_time: false, ..Setup::udp(programs, folder.path(), &lab, &map, Some(UDP_PORT)) };
            let copy = setup.start(&lab);
            wait_until_copying(&lab.client, server, &receiver);
            Traffic { len, rate: 100, ..Traffic::new(server, DATAGRAMS) }.send(&lab.client);
            settle(DATAGRAMS, PATIENCE, || receiver.count());
            copy.stop();
            let arrived = receiver.arrived();
            let whole = arrived.iter().filter(|datagram| datagram.is_intact && datagram.len == len).count() as u64;
            let distinct = times_arrived(&arrived).len() as u64;
            let ours = format!("{distinct} of {DATAGRAMS}, {whole} whole");
            let reached = Some((arrived.len() as u64, whole, distinct) == (DATAGRAMS, DATAGRAMS, DATAGRAMS));
            Row { variant: format!(" of {len} bytes"), before: None, ours, cpu: None, reached }
        })
        .collect()
}
