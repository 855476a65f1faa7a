//! Clients of MariaDB and MySQL. None of them asks for TLS.

use std::net::IpAddr;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tcpcopy_io::netns::{Namespace, Process};

use super::{Family, SQL_PORT};

/// Debian's own Python: another one that comes first in PATH has not Debian's PyMySQL.
const PYTHON: &str = "/usr/bin/python3";
const PATIENCE: Duration = Duration::from_secs(300);

/// Who logs in where.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// The server.
    pub server: IpAddr,
    /// The user.
    pub user: &'a str,
    /// Its password.
    pub password: &'a str,
    /// The database; empty for none.
    pub database: &'a str,
}

/// Whether PyMySQL is there, with what it needs for the passwords of MySQL.
pub fn has_pymysql() -> bool {
    let mut python = Command::new(PYTHON);
    python.args(["-c", "import pymysql, cryptography"]).stdout(Stdio::null()).stderr(Stdio::null());
    python.status().is_ok_and(|status| status.success())
}

/// Runs statements in a family's command line client and returns what it printed, without the names of columns.
///
/// # Errors
/// What it wrote to its standard error, when it failed.
pub fn command_line(client: Family, host: &Namespace, login: &Login<'_>, statements: &str) -> Result<String, String> {
    let mut command = host.command(client.client());
    command.args(["--no-defaults", "--batch", "--skip-column-names", "--protocol=tcp"]);
    match client {
        Family::MariaDb => command.arg("--skip-ssl"),
        // Without TLS the password of a user whose proof is not cached goes out encrypted by the server's key.
        Family::MySql => command.args(["--ssl-mode=DISABLED", "--get-server-public-key"]),
    };
    command.arg(format!("--host={}", login.server)).arg(format!("--port={SQL_PORT}"));
    command.arg(format!("--user={}", login.user)).env("MYSQL_PWD", login.password);
    command.arg(format!("--execute={statements}")).arg(format!("--database={}", login.database));
    text(&command.output().expect("the client"))
}

/// Runs a script with PyMySQL and returns what it printed. The script has the module `pymysql` and a function `connect`,
/// which logs in as said, with further options by name.
///
/// # Errors
/// What it wrote to its standard error, when it failed.
pub fn pymysql(host: &Namespace, login: &Login<'_>, script: &str) -> Result<String, String> {
    const PROLOGUE: &str = "
import os, pymysql
def connect(**options):
    login = dict(host=os.environ['SQL_HOST'], port=int(os.environ['SQL_PORT']), user=os.environ['SQL_USER'],
                 password=os.environ['SQL_PASSWORD'], database=os.environ['SQL_DATABASE'] or None)
    return pymysql.connect(**{**login, 'ssl_disabled': True, 'autocommit': True, **options})
";
    let mut command = host.command(PYTHON);
    command.arg("-c").arg(format!("{PROLOGUE}{script}"));
    command.env("SQL_HOST", login.server.to_string()).env("SQL_PORT", SQL_PORT.to_string());
    command.env("SQL_USER", login.user).env("SQL_PASSWORD", login.password).env("SQL_DATABASE", login.database);
    text(&command.output().expect("python3"))
}

fn text(output: &Output) -> Result<String, String> {
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
}

/// `sysbench oltp_read_write`, 20 statements a transaction and BEGIN and COMMIT.
#[derive(Clone, Copy, Debug)]
pub struct Sysbench {
    /// Number of tables, `sbtest1` and so on.
    pub tables: u32,
    /// Rows in each.
    pub rows: u32,
    /// Connections at a time. Only one makes a load that is the same in every run, and leaves the same rows behind.
    pub threads: u32,
    /// Transactions, all threads together.
    pub transactions: u32,
    /// Whether statements are prepared.
    pub prepared: bool,
}

impl Sysbench {
    fn command(&self, host: &Namespace, login: &Login<'_>) -> Command {
        let mut command = host.command("sysbench");
        command.args(["oltp_read_write", "--db-driver=mysql", "--mysql-ssl=off", "--rand-seed=1", "--time=0"]);
        command.arg(format!("--mysql-host={}", login.server)).arg(format!("--mysql-port={SQL_PORT}"));
        command.arg(format!("--mysql-user={}", login.user)).arg(format!("--mysql-password={}", login.password));
        command.arg(format!("--mysql-db={}", login.database));
        command.arg(format!("--tables={}", self.tables)).arg(format!("--table-size={}", self.rows));
        command.arg(format!("--db-ps-mode={}", if self.prepared { "auto" } else { "disable" }));
        command
    }

    /// Fills the tables, the same way every time. The database must be there.
    pub fn prepare(&self, host: &Namespace, login: &Login<'_>) {
        let output = self.command(host, login).arg("prepare").output().expect("sysbench");
        assert!(output.status.success(), "sysbench prepare: {}", String::from_utf8_lossy(&output.stdout));
    }

    /// Runs the transactions and returns how many statements it says that it has executed, all kinds together. Those
    /// that it repeats after a deadlock count again.
    pub fn run(&self, host: &Namespace, login: &Login<'_>) -> u64 {
        let mut command = self.command(host, login);
        command.arg(format!("--threads={}", self.threads)).arg(format!("--events={}", self.transactions)).arg("run");
        command.stdout(Stdio::piped());
        let mut process = Process::start(&mut command).expect("sysbench");
        let status = process.wait(PATIENCE);
        let mut said = String::new();
        if let Some(mut output) = process.child_mut().stdout.take() {
            process.kill();
            std::io::Read::read_to_string(&mut output, &mut said).expect("what sysbench printed");
        }
        assert!(status.is_some_and(|status| status.success()), "sysbench run ({status:?}): {said}");
        // `queries: N (… per sec.)`
        let queries = said.lines().find_map(|line| line.trim().strip_prefix("queries:"));
        let queries = queries.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        queries.unwrap_or_else(|| panic!("no number of queries in what sysbench printed: {said}"))
    }
}
