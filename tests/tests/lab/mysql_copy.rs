//! Copies of MySQL sessions between MariaDB and MySQL, judged by what the servers count and by what is in their tables.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tcpcopy_io::netns::{Host, Lab, wait_for};
use tcpcopy_tests::copy::{Copy, Setup};
use tcpcopy_tests::settle;
use tcpcopy_tests::sql::clients::{Login, Sysbench, command_line, pymysql};
use tcpcopy_tests::sql::{Family, Plugin, SQL_PORT, Server};

use crate::harness::Bench;
use crate::udp::row;

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
        Self::start_in(bench.folder, families, plugins)
    }

    /// The same, with their files in a folder of their own.
    fn start_in(folder: &Path, families: [Family; 2], plugins: [Plugin; 2]) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        let lab = Lab::new().expect("a lab");
        let online = Server::start(families[0], &lab.online, folder, &[]);
        let target = Server::start(families[1], &lab.target, folder, &[]);
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
        self.copy_with(bench, Setup::sql(bench.programs, bench.folder, &self.lab), &self.lab.assistant, more)
    }

    /// The same with intercept on the target itself.
    fn traditional_copy(&self, bench: &Bench<'_>) -> Copy {
        let mut setup = Setup::traditional(bench.programs, bench.folder, self.lab.target.ipv4.into());
        setup.set("-x", &format!("{SQL_PORT}-{}:{SQL_PORT}", self.lab.target.ipv4));
        setup.intercept = ["--setup".to_owned(), SQL_PORT.to_string()].into();
        self.copy_with(bench, setup, &self.lab.target, &[])
    }

    fn copy_with(&self, bench: &Bench<'_>, mut setup: Setup<'_>, host: &Host, more: &[(&str, &str)]) -> Copy {
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
        let copy = setup.start_with_intercept_on(&self.lab, host);
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
    sysbench_copied_by(bench, families, plugins, |pair| pair.copy(bench, &[]));
}

fn sysbench_copied_by(
    bench: &Bench<'_>,
    families: [Family; 2],
    plugins: [Plugin; 2],
    start: impl FnOnce(&Pair) -> Copy,
) {
    let pair = Pair::start(bench, families, plugins);
    let load = Sysbench { tables: 2, rows: 200, threads: 1, transactions: 100, prepared: true };
    load.prepare(&pair.lab.client, &pair.login());
    load.prepare(&pair.lab.client, &Login { server: pair.lab.target.ipv4.into(), password: TARGET, ..pair.login() });
    let copy = start(&pair);
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

/// The module needs payload, which the queue gives as well as a capture does.
pub(crate) fn traditional(bench: &Bench<'_>) {
    let of = [Family::MariaDb, Family::MariaDb];
    sysbench_copied_by(bench, of, [Plugin::Native, Plugin::Native], |pair| pair.traditional_copy(bench));
}

/// Over the C programs' link, which has room for 128 bytes of a packet's payload: the replicas ask for segments that are no
/// longer, and the target puts none together.
pub(crate) fn over_the_legacy_link(bench: &Bench<'_>) {
    let of = [Family::MariaDb, Family::MariaDb];
    sysbench_copied_by(bench, of, [Plugin::Native, Plugin::Native], |pair| {
        pair.lab.target.ip("link set dev eth0 gso_max_segs 1").expect("ip");
        let mut setup = Setup::sql(bench.programs, bench.folder, &pair.lab);
        setup.intercept.push("--legacy-payload".to_owned());
        let more = [("--intercept-protocol", "legacy-payload"), ("-D", "128")];
        pair.copy_with(bench, setup, &pair.lab.assistant, &more)
    });
}

pub(crate) fn sysbench_to_mysql(bench: &Bench<'_>) {
    sysbench(bench, [Family::MariaDb, Family::MySql], [Plugin::Native, Plugin::CachingSha2]);
}

pub(crate) fn sysbench_from_mysql(bench: &Bench<'_>) {
    sysbench(bench, [Family::MySql, Family::MariaDb], [Plugin::CachingSha2, Plugin::Native]);
}

/// Many threads at once: every statement arrives, prepared or not.
pub(crate) fn many_threads(bench: &Bench<'_>) {
    let pair = Pair::start(bench, [Family::MariaDb, Family::MariaDb], [Plugin::Native, Plugin::Native]);
    let load = Sysbench { tables: 4, rows: 10_000, threads: 8, transactions: 2_500, prepared: true };
    load.prepare(&pair.lab.client, &pair.login());
    load.prepare(&pair.lab.client, &Login { server: pair.lab.target.ipv4.into(), password: TARGET, ..pair.login() });
    // As fast as it goes, and on the cores of both servers.
    let copy = pair.copy(bench, &[("-B", "256")]);
    for prepared in [true, false] {
        let before = pair.statuses();
        Sysbench { prepared, ..load }.run(&pair.lab.client, &pair.login());
        let (online, target) = pair.settled(&before, STATEMENTS);
        assert_eq!(target, online, "prepared: {prepared}; {STATEMENTS:?}");
        assert!(online[5] >= 2_490, "{online:?}");
    }
    let log = copy.stop();
    assert_well(&log, bench);
}

/// Twenty sessions of twenty queries each, as PyMySQL says them.
const SESSIONS: &str = "
for s in range(20):
    c = connect()
    k = c.cursor()
    for q in range(20):
        k.execute('INSERT INTO visit VALUES (%s, %s)', (s, q))
    c.close()
";

fn visits(pair: &Pair) -> Vec<Vec<String>> {
    pair.target.sql("SELECT s, q FROM shop.visit ORDER BY s, q")
}

fn assert_all_visits(pair: &Pair, bench: &Bench<'_>) {
    wait_for(PATIENCE, || (visits(pair).len() >= 400).then_some(()));
    let expected: Vec<Vec<String>> =
        (0..20).flat_map(|s| (0..20).map(move |q| vec![s.to_string(), q.to_string()])).collect();
    assert!(visits(pair) == expected, "{} of 400 have arrived; see {}", visits(pair).len(), bench.folder.display());
}

/// PyMySQL to a target with another plugin, whose cache of passwords is cold at first, and with one that is switched to.
pub(crate) fn pymysql_by_plugin(bench: &Bench<'_>) {
    for (online, family, plugin) in [
        (Family::MariaDb, Family::MariaDb, Plugin::Native),
        (Family::MariaDb, Family::MySql, Plugin::CachingSha2),
        (Family::MariaDb, Family::MySql, Plugin::Sha256),
        (Family::MariaDb, Family::MariaDb, Plugin::Ed25519),
        (Family::MySql, Family::MariaDb, Plugin::Native),
    ] {
        if plugin == Plugin::Ed25519 && !tcpcopy_tests::sql::has_ed25519() {
            continue;
        }
        let folder = bench.folder.join(format!("{online:?}-{}", plugin.name()));
        let plugin_online = if online == Family::MySql { Plugin::CachingSha2 } else { Plugin::Native };
        let pair = Pair::start_in(&folder, [online, family], [plugin_online, plugin]);
        pair.on_both("CREATE TABLE shop.visit (s INT, q INT)");
        let copy = pair.copy(bench, &[]);
        pymysql(&pair.lab.client, &pair.login(), SESSIONS).expect("PyMySQL");
        assert_all_visits(&pair, bench);
        let log = copy.stop();
        assert!(
            log.contains(&format!(
                "logins: load ({})",
                if plugin == Plugin::Ed25519 { "client_ed25519" } else { plugin.name() }
            )),
            "{log}"
        );
        assert_well(&log, bench);
    }
}

/// Sessions of two workers, each of which needs what online answered and, of both of intercept's workers, payload.
pub(crate) fn two_workers(bench: &Bench<'_>) {
    let pair = Pair::start(bench, [Family::MariaDb, Family::MariaDb], [Plugin::Native, Plugin::Native]);
    pair.on_both("CREATE TABLE shop.visit (s INT, q INT)");
    let mut setup = Setup::sql(bench.programs, bench.folder, &pair.lab);
    setup.set_workers("2");
    let copy = pair.copy_with(bench, setup, &pair.lab.assistant, &[]);
    pymysql(&pair.lab.client, &pair.login(), SESSIONS).expect("PyMySQL");
    assert_all_visits(&pair, bench);
    let log = copy.stop();
    assert_well(&log, bench);
    let seen = ["worker 0", "worker 1"].map(|worker| row(&log, worker, "sessions seen"));
    assert!(seen.iter().sum::<u64>() > 20 && !seen.contains(&0), "{seen:?}");
}

/// A target that checks no passwords, without `-u`.
pub(crate) fn without_grants(bench: &Bench<'_>) {
    for family in [Family::MariaDb, Family::MySql] {
        if family.missing().is_some() {
            continue;
        }
        let folder = bench.folder.join(format!("{family:?}"));
        std::fs::create_dir(&folder).expect("a folder");
        let lab = Lab::new().expect("a lab");
        let online = Server::start(Family::MariaDb, &lab.online, &folder, &[]);
        let target = Server::start_without_grants(family, &lab.target, &folder);
        let pair = Pair { lab, online, target };
        pair.on_both("CREATE DATABASE shop");
        pair.online.create_user("load", Plugin::Native, ONLINE);
        pair.on_both("CREATE TABLE shop.visit (s INT, q INT)");
        let copy = pair.copy(bench, &[("--mysql-skip-grant-tables", "")]);
        pymysql(&pair.lab.client, &pair.login(), SESSIONS).expect("PyMySQL");
        assert_all_visits(&pair, bench);
        let log = copy.stop();
        assert_well(&log, bench);
    }
}

/// The command line clients of both families, online one and target the other.
pub(crate) fn command_lines(bench: &Bench<'_>) {
    for families in [[Family::MariaDb, Family::MySql], [Family::MySql, Family::MariaDb]] {
        let plugins = families.map(|family| if family == Family::MySql { Plugin::CachingSha2 } else { Plugin::Native });
        let pair = Pair::start_in(&bench.folder.join(format!("{:?}", families[0])), families, plugins);
        pair.on_both(
            "CREATE TABLE shop.visit (who TEXT, n INT); CREATE DATABASE other; CREATE TABLE other.visit (n INT)",
        );
        let copy = pair.copy(bench, &[]);
        for client in [Family::MariaDb, Family::MySql] {
            let statements = format!(
                "SET @n = 5; INSERT INTO visit VALUES ('{client:?}', @n); SELECT * FROM visit; BEGIN; UPDATE visit SET n = n + 1; \
                 COMMIT; USE other; INSERT INTO visit VALUES (7); SELECT nothing FROM nowhere_else; "
            );
            // The last one fails, there as here.
            let said = command_line(client, &pair.lab.client, &pair.login(), &statements);
            assert!(said.as_ref().is_err_and(|error| error.contains("1146")), "{said:?}");
        }
        for table in ["shop.visit", "other.visit"] {
            wait_for(PATIENCE, || (pair.target.rows(table) == pair.online.rows(table)).then_some(()));
            assert_eq!(pair.target.rows(table), pair.online.rows(table), "{table}, {families:?}");
        }
        if families[0] == Family::MySql {
            let mut tls = pair.lab.client.command(Family::MySql.client());
            tls.args(["--no-defaults", "--ssl-mode=REQUIRED", "--protocol=tcp", "--user=load", "--execute=SELECT 1"]);
            tls.arg(format!("--host={}", pair.lab.online.ipv4)).env("MYSQL_PWD", ONLINE);
            let output = tls.output().expect("the client");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let log = copy.stop();
        if families[0] == Family::MySql {
            let words = log.split_whitespace().collect::<Vec<_>>().join(" ");
            for told in ["mysql: sessions over TLS 1", "ssl-mode=DISABLED"] {
                assert!(words.contains(told), "`{told}` is not in the log:\n{log}");
            }
        }
        assert!(log.contains("errors of the target: 1146"), "{log}");
        assert_well(&log, bench);
    }
}

/// What only reads is copied, and nothing else.
pub(crate) fn reads_only(bench: &Bench<'_>) {
    let pair = Pair::start(bench, [Family::MariaDb, Family::MariaDb], [Plugin::Native, Plugin::Native]);
    let load = Sysbench { tables: 2, rows: 200, threads: 2, transactions: 100, prepared: true };
    load.prepare(&pair.lab.client, &pair.login());
    load.prepare(&pair.lab.client, &Login { server: pair.lab.target.ipv4.into(), password: TARGET, ..pair.login() });
    let copy = pair.copy(bench, &[("--mysql-only", "reads")]);
    let rows = pair.target.rows("shop.sbtest1");
    for prepared in [true, false] {
        let before = pair.statuses();
        Sysbench { prepared, ..load }.run(&pair.lab.client, &pair.login());
        let (online, target) = pair.settled(&before, ["Com_select", "Com_commit"]);
        assert_eq!(target, online, "reads, prepared: {prepared}");
        let writes = ["Com_update", "Com_delete", "Com_insert"];
        assert!(pair.online.growth(&before[0], writes).iter().all(|writes| *writes >= 100));
        assert_eq!(pair.target.growth(&before[1], writes), [0; 3], "prepared: {prepared}");
    }
    assert!(pair.target.rows("shop.sbtest1") == rows, "nothing was written");
    let log = copy.stop();
    for kind in ["left out: update", "left out: insert", "left out: delete"] {
        assert!(log.contains(kind), "`{kind}` is not in the log:\n{log}");
    }
    assert_well(&log, bench);
}

/// The target restarts in the middle of a session, which goes on with its database, its variables and its statements.
pub(crate) fn target_restarts(bench: &Bench<'_>) {
    let mut pair = Pair::start(bench, [Family::MariaDb, Family::MariaDb], [Plugin::Native, Plugin::Native]);
    pair.on_both("CREATE TABLE shop.visit (s INT, q INT)");
    let copy = pair.copy(bench, &[]);
    // It says when it has come to a place, and waits there until it is told to go on.
    let go_on = bench.folder.join("go-on");
    let script = format!(
        "
import time
c = connect(database=None)
k = c.cursor()
k.execute('USE shop')
k.execute('SET @s = 7')
k.execute(\"PREPARE p FROM 'INSERT INTO visit VALUES (@s, ?)'\")
k.execute('INSERT INTO visit VALUES (@s, 1)')
while not os.path.exists('{}'):
    time.sleep(0.05)
for q in range(2, 12):
    k.execute('INSERT INTO visit VALUES (@s, %s)', (q,))
    time.sleep(0.05)
",
        go_on.display()
    );
    let (lab, login) = (&pair.lab, pair.login());
    std::thread::scope(|scope| {
        let client = scope.spawn(|| pymysql(&lab.client, &login, &script));
        let arrived = |n: usize| {
            wait_for(PATIENCE, || {
                let rows = pair.target.try_sql("SELECT q FROM shop.visit").map_or(0, |rows| rows.len());
                (rows >= n).then_some(())
            })
        };
        arrived(1).expect("the first row");
        pair.target.stop();
        pair.target.restart(&lab.target);
        std::fs::write(&go_on, "").expect("a file");
        client.join().expect("no panic").expect("PyMySQL");
    });
    let rows = || pair.target.sql("SELECT s, q FROM shop.visit ORDER BY q");
    let expected: Vec<Vec<String>> = (1..12).map(|q| vec!["7".to_owned(), q.to_string()]).collect();
    wait_for(PATIENCE, || (rows().len() >= expected.len()).then_some(()));
    assert_eq!(rows(), expected);
    let log = copy.stop();
    assert_well(&log, bench);
}

/// A session that is open when tcpcopy starts is logged in by itself, and joined at its next command.
pub(crate) fn joined(bench: &Bench<'_>) {
    let pair = Pair::start(bench, [Family::MariaDb, Family::MariaDb], [Plugin::Native, Plugin::Native]);
    pair.on_both("CREATE TABLE shop.visit (s INT, q INT)");
    let go_on = bench.folder.join("go-on");
    let script = format!(
        "
import time
c = connect()
k = c.cursor()
k.execute('SELECT 1')
while not os.path.exists('{}'):
    time.sleep(0.05)
for q in range(10):
    k.execute('INSERT INTO visit VALUES (1, %s)', (q,))
",
        go_on.display()
    );
    let (lab, login) = (&pair.lab, pair.login());
    let log = std::thread::scope(|scope| {
        let client = scope.spawn(|| pymysql(&lab.client, &login, &script));
        wait_for(PATIENCE, || {
            (pair.online.value("SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'load'") == "1")
                .then_some(())
        })
        .expect("the session is open");
        let copy = pair.copy(bench, &[("--mysql-default-db", "shop")]);
        std::fs::write(&go_on, "").expect("a file");
        client.join().expect("no panic").expect("PyMySQL");
        let rows = || pair.target.sql("SELECT q FROM shop.visit ORDER BY q").len();
        wait_for(PATIENCE, || (rows() >= 10).then_some(()));
        assert_eq!(rows(), 10);
        copy.stop()
    });
    assert_well(&log, bench);
}

/// What cannot be copied is counted, and the log says what to do; sessions beside it are copied.
pub(crate) fn not_copyable(bench: &Bench<'_>) {
    let pair = Pair::start(bench, [Family::MariaDb, Family::MariaDb], [Plugin::Native, Plugin::Native]);
    pair.on_both("CREATE TABLE shop.visit (s INT, q INT)");
    pair.online.create_user("stranger", Plugin::Native, ONLINE);
    let copy = pair.copy(bench, &[]);
    let mut compressed = pair.lab.client.command("mariadb");
    compressed.args([
        "--no-defaults",
        "--skip-ssl",
        "--compress",
        "--protocol=tcp",
        "--user=load",
        "--execute=SELECT 1",
    ]);
    compressed.arg(format!("--host={}", pair.lab.online.ipv4)).env("MYSQL_PWD", ONLINE);
    assert!(compressed.output().expect("the client").status.success());
    let stranger = Login { user: "stranger", database: "", ..pair.login() };
    command_line(Family::MariaDb, &pair.lab.client, &stranger, "SELECT 1").expect("online lets it in");
    pymysql(&pair.lab.client, &pair.login(), SESSIONS).expect("PyMySQL");
    assert_all_visits(&pair, bench);
    let log = copy.stop();
    for told in ["compressed sessions", "users without a password here: stranger"] {
        assert!(log.contains(told), "`{told}` is not in the log:\n{log}");
    }
    assert_well(&log, bench);
}

/// Files of LOAD DATA LOCAL, changes of user, long values; and the log of statements.
pub(crate) fn the_rest(bench: &Bench<'_>) {
    let pair = Pair::start(bench, [Family::MariaDb, Family::MariaDb], [Plugin::Native, Plugin::Native]);
    pair.on_both("CREATE TABLE shop.visit (s INT, q LONGTEXT)");
    for server in [&pair.online, &pair.target] {
        server.sql("SET GLOBAL local_infile = 1; SET GLOBAL max_allowed_packet = 67108864");
    }
    let (rows, log) = (bench.folder.join("rows"), bench.folder.join("statements.json"));
    let lines: Vec<String> = (0..50_000).map(|n| format!("{n}\trow number {n}\n")).collect();
    std::fs::write(&rows, lines.concat()).expect("a file");
    let copy = pair.copy(bench, &[("--mysql-log", &log.display().to_string())]);
    let script = format!(
        "
c = connect(local_infile=True)
k = c.cursor()
k.execute(\"LOAD DATA LOCAL INFILE '{}' INTO TABLE visit\")
k.execute('INSERT INTO visit VALUES (1, %s)', ('x' * 3000000,))
k.execute('INSERT INTO visit VALUES (2, %s)', ('y' * 17000000,))
k.execute('SELECT COUNT(*) FROM visit')
k.execute('INSERT INTO visit VALUES (3, %s)', ('z',))
",
        rows.display()
    );
    pymysql(&pair.lab.client, &pair.login(), &script).expect("PyMySQL");
    let sum = |server: &Server| server.sql("SELECT COUNT(*), SUM(s), SUM(LENGTH(q)), SUM(CRC32(q)) FROM shop.visit");
    wait_for(PATIENCE, || (sum(&pair.target) == sum(&pair.online)).then_some(()));
    assert_eq!(sum(&pair.target), sum(&pair.online));
    let told = copy.stop();
    assert_well(&told, bench);
    let statements = std::fs::read_to_string(&log).expect("the log of statements");
    assert!(statements.contains("\"kind\":\"load data\"") && statements.contains("\"online_ms\":"), "{statements}");
}
