//! MariaDB and MySQL themselves: what the tests of their copy rely on.

use std::time::Duration;

use tcpcopy_io::netns::{Lab, wait_for};
use tcpcopy_tests::copy::Setup;
use tcpcopy_tests::settle;
use tcpcopy_tests::sql::clients::{Login, Sysbench, command_line, pymysql};
use tcpcopy_tests::sql::{Family, Plugin, Server};

use crate::harness::Bench;

const PATIENCE: Duration = Duration::from_secs(60);
const PASSWORD: &str = "p,ss@word 1";

/// Each user logs in with each client from another host; what they do is counted, and outlives a restart.
fn users_log_in(bench: &Bench<'_>, family: Family, plugins: &[Plugin], own_client: Family) {
    let lab = Lab::new().expect("a lab");
    let mut server = Server::start(family, &lab.online, bench.folder, &[]);
    server.sql("CREATE DATABASE shop; CREATE TABLE shop.visit (id INT AUTO_INCREMENT PRIMARY KEY, visitor TEXT)");
    for plugin in plugins {
        server.create_user(plugin.name(), *plugin, PASSWORD);
    }
    let before = server.status();
    let mut visits: u64 = 0;
    for plugin in plugins {
        let login = Login { server: lab.online.ipv4.into(), user: plugin.name(), password: PASSWORD, database: "shop" };
        let visit = "INSERT INTO visit (visitor) VALUES (SUBSTRING_INDEX(USER(), '@', 1))";
        // MySQL learns the password at the first login and knows it at the second.
        for _ in 0..2 {
            command_line(own_client, &lab.client, &login, visit).expect("the login and the statement");
        }
        visits += 2;
        if *plugin != Plugin::Ed25519 {
            let script = format!("connect().cursor().execute(\"{visit}\")");
            pymysql(&lab.client, &login, &script).expect("PyMySQL");
            visits += 1;
        }
        let refused = command_line(own_client, &lab.client, &Login { password: "wrong", ..login }, "DO 1");
        assert!(refused.as_ref().is_err_and(|error| error.contains("1045")), "{refused:?}");
    }
    assert_eq!(server.growth(&before, ["Com_insert"]), [visits]);
    assert_eq!(server.value("SELECT COUNT(*) FROM shop.visit"), visits.to_string());

    let (checksum, rows) = (server.checksum("shop.visit"), server.rows("shop.visit"));
    server.stop();
    server.restart(&lab.online);
    assert_eq!((server.checksum("shop.visit"), server.rows("shop.visit")), (checksum.clone(), rows.clone()));
    assert!(server.status()["Com_insert"] == 0, "counters begin anew");
    server.sql("UPDATE shop.visit SET visitor = 'nobody' WHERE id = 1");
    assert!(server.checksum("shop.visit") != checksum && server.rows("shop.visit") != rows, "a change is seen");
}

pub(crate) fn mariadb_users(bench: &Bench<'_>) {
    users_log_in(bench, Family::MariaDb, &[Plugin::Native], Family::MariaDb);
}

pub(crate) fn mariadb_ed25519(bench: &Bench<'_>) {
    users_log_in(bench, Family::MariaDb, &[Plugin::Ed25519], Family::MariaDb);
}

/// MySQL's client names `caching_sha2_password` and is asked for another.
pub(crate) fn mariadb_by_client_of_mysql(bench: &Bench<'_>) {
    users_log_in(bench, Family::MariaDb, &[Plugin::Native], Family::MySql);
}

pub(crate) fn mysql_users(bench: &Bench<'_>) {
    users_log_in(bench, Family::MySql, &[Plugin::CachingSha2, Plugin::Sha256], Family::MySql);
}

/// Without grant tables everybody is let in, over the network too. Clients give no password: behind a port that is not
/// the server's own, MySQL takes the first answer of a full authentication for the password, which confuses clients.
fn everybody_logs_in(bench: &Bench<'_>, family: Family) {
    let lab = Lab::new().expect("a lab");
    let mut server = Server::start_without_grants(family, &lab.target, bench.folder);
    server.sql("CREATE DATABASE shop");
    let login = Login { server: lab.target.ipv4.into(), user: "anybody", password: "", database: "shop" };
    for _ in 0..2 {
        for client in [Family::MariaDb, family] {
            assert_eq!(command_line(client, &lab.client, &login, "SELECT DATABASE()").as_deref(), Ok("shop"));
        }
        assert_eq!(pymysql(&lab.client, &login, "connect(); print('in')").as_deref(), Ok("in"));
        server.stop();
        assert!(command_line(Family::MariaDb, &lab.client, &login, "DO 1").is_err(), "it is away");
        server.restart(&lab.target);
    }
}

pub(crate) fn mariadb_without_grants(bench: &Bench<'_>) {
    everybody_logs_in(bench, Family::MariaDb);
}

pub(crate) fn mysql_without_grants(bench: &Bench<'_>) {
    everybody_logs_in(bench, Family::MySql);
}

/// One load of sysbench leaves the same rows in two servers, and each counts the statements of it.
fn same_load(bench: &Bench<'_>, families: [Family; 2]) {
    let lab = Lab::new().expect("a lab");
    let hosts = [&lab.online, &lab.target];
    let servers = [0, 1].map(|n| (Server::start(families[n], hosts[n], bench.folder, &[]), hosts[n]));
    let load = Sysbench { tables: 2, rows: 200, threads: 1, transactions: 20, prepared: true };
    for (server, host) in &servers {
        let plugin = if server.family == Family::MariaDb { Plugin::Native } else { Plugin::CachingSha2 };
        server.create_user("load", plugin, PASSWORD);
        server.sql("CREATE DATABASE load_test");
        let login = Login { server: host.ipv4.into(), user: "load", password: PASSWORD, database: "load_test" };
        load.prepare(&lab.client, &login);
        for prepared in [true, false] {
            let before = server.status();
            let load = Sysbench { prepared, ..load };
            let statements = load.run(&lab.client, &login);
            assert_eq!(statements, 20 * u64::from(load.transactions), "each transaction has 20");
            // MySQL prepares no BEGIN; sysbench then says it as a query.
            let in_text = if server.family == Family::MySql { u64::from(load.transactions) } else { 0 };
            let executed = if prepared { statements - in_text } else { 0 };
            let [selects, updates, deletes, inserts, executes] =
                server.growth(&before, ["Com_select", "Com_update", "Com_delete", "Com_insert", "Com_stmt_execute"]);
            assert_eq!(
                [selects, updates, deletes, inserts],
                [14, 2, 1, 1].map(|each| each * u64::from(load.transactions)),
                "prepared: {prepared}"
            );
            assert_eq!(executes, executed);
        }
    }
    let [(one, _), (other, _)] = &servers;
    for table in ["load_test.sbtest1", "load_test.sbtest2"] {
        assert!(one.rows(table) == other.rows(table), "{table} differs");
        if one.family == other.family {
            assert_eq!(one.checksum(table), other.checksum(table));
        }
    }
}

pub(crate) fn same_load_mariadb(bench: &Bench<'_>) {
    same_load(bench, [Family::MariaDb, Family::MariaDb]);
}

pub(crate) fn same_load_both(bench: &Bench<'_>) {
    same_load(bench, [Family::MariaDb, Family::MySql]);
}

/// Between two MariaDBs that check no passwords a session can be copied byte by byte: statements are numbered alike. This
/// holds without any module, and shows that servers, loads and counts are right.
pub(crate) fn copied_byte_by_byte(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let [online, target] =
        [&lab.online, &lab.target].map(|host| Server::start_without_grants(Family::MariaDb, host, bench.folder));
    let login = Login { server: lab.online.ipv4.into(), user: "load", password: "", database: "load_test" };
    let load = Sysbench { tables: 2, rows: 200, threads: 1, transactions: 50, prepared: true };
    for (server, host) in [(&online, &lab.online), (&target, &lab.target)] {
        server.sql("CREATE DATABASE load_test");
        load.prepare(&lab.client, &Login { server: host.ipv4.into(), ..login });
    }
    let copy = Setup::sql(bench.programs, bench.folder, &lab).start(&lab);
    let selects = || target.status()["Com_select"];
    let before = selects();
    let up = wait_for(PATIENCE, || {
        command_line(Family::MariaDb, &lab.client, &login, "SELECT 'probe'").expect("online answers");
        wait_for(Duration::from_millis(200), || (selects() > before).then_some(()))
    });
    assert!(up.is_some(), "nothing is copied; see {}", bench.folder.display());
    settle(u64::MAX, Duration::from_millis(500), selects);

    let before = [online.status(), target.status()];
    for prepared in [true, false] {
        Sysbench { prepared, ..load }.run(&lab.client, &login);
        // One session after the other: nothing keeps the order between two.
        let executed = online.statements_since(&before[0]);
        wait_for(PATIENCE, || (target.statements_since(&before[1]) == executed).then_some(()));
        assert_eq!(target.statements_since(&before[1]), executed);
    }
    assert_eq!(online.statements_since(&before[0])["Com_commit"], 100);
    for table in ["load_test.sbtest1", "load_test.sbtest2"] {
        // A statement is counted before it is done.
        wait_for(PATIENCE, || (target.checksum(table) == online.checksum(table)).then_some(()));
        assert_eq!(target.checksum(table), online.checksum(table), "{table}");
    }
    copy.stop();
}
