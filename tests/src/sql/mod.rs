//! MariaDB and MySQL as online and as target, and clients of them.
//!
//! MariaDB is the one that is installed; MySQL is where `scripts/fetch-mysql.sh` puts it. Each server has a data folder of
//! its own and keeps to one host.

pub mod clients;
mod port;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tcpcopy_io::netns::{Host, Namespace, Process, has_program, wait_for};

use port::Port;

/// The port of the servers.
pub const SQL_PORT: u16 = 3306;
const START_PATIENCE: Duration = Duration::from_secs(120);
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// Whose server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// MariaDB's, with `mysql_native_password` as its default plugin.
    MariaDb,
    /// MySQL's, 8.4 or later, with `caching_sha2_password` as its default plugin.
    MySql,
}

/// How a user proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// `mysql_native_password`: MariaDB's, and MySQL's before 9.0.
    Native,
    /// `ed25519`: MariaDB's.
    Ed25519,
    /// `caching_sha2_password`: MySQL's.
    CachingSha2,
    /// `sha256_password`: MySQL's.
    Sha256,
}

impl Plugin {
    /// Its name in statements.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "mysql_native_password",
            Self::Ed25519 => "ed25519",
            Self::CachingSha2 => "caching_sha2_password",
            Self::Sha256 => "sha256_password",
        }
    }
}

/// Where the tests keep what they fetch and what takes long to make.
fn cache() -> PathBuf {
    let folder = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let folder = folder.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    folder.unwrap_or_else(std::env::temp_dir).join("tcpcopy-tests")
}

impl Family {
    /// The server's program.
    fn server(self) -> PathBuf {
        match self {
            Self::MariaDb => "mariadbd".into(),
            Self::MySql => cache().join("mysql/bin/mysqld"),
        }
    }

    /// The command line client's program.
    pub fn client(self) -> PathBuf {
        match self {
            Self::MariaDb => "mariadb".into(),
            Self::MySql => cache().join("mysql/bin/mysql"),
        }
    }

    /// What is missing to run it; statements are run by MariaDB's client on both.
    pub fn missing(self) -> Option<&'static str> {
        let missing = ["mariadbd", "mariadb-install-db", "mariadb"].into_iter().find(|name| !has_program(name));
        missing
            .or_else(|| (self == Self::MySql && !self.server().is_file()).then_some("MySQL (scripts/fetch-mysql.sh)"))
    }

    /// Options that both phases, making a data folder and serving from it, need.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::MariaDb => &["--no-defaults", "--user=root", "--innodb-log-file-size=16M"],
            Self::MySql => {
                &["--no-defaults", "--user=root", "--innodb-redo-log-capacity=16M", "--performance-schema=OFF"]
            }
        }
    }

    /// An initialised data folder, in which `root` has no password; made when there is none yet. It must not be changed.
    fn initialised(self, host: &Namespace) -> io::Result<PathBuf> {
        let version = host.command(self.server()).args(["--no-defaults", "--version"]).output()?;
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        let version = version.split_whitespace().skip_while(|word| *word != "Ver").nth(1).unwrap_or("unknown");
        let name = format!("initialised-{self:?}-{version}").to_lowercase();
        let folder = cache().join(name);
        if folder.is_dir() {
            return Ok(folder);
        }
        fs::create_dir_all(cache())?;
        // Made beside it, so that nobody finds half of it; whoever is first wins.
        let new = tempfile::Builder::new().prefix("initialising-").tempdir_in(cache())?;
        let data = new.path().join("data");
        let mut command = match self {
            Self::MariaDb => {
                let mut command = host.command("mariadb-install-db");
                command.args(self.options());
                command.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
                command
            }
            Self::MySql => {
                let mut command = host.command(self.server());
                command.args(self.options()).arg("--initialize-insecure");
                command
            }
        };
        let output = command.arg(format!("--datadir={}", data.display())).output()?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        match fs::rename(&data, &folder) {
            Err(_) if folder.is_dir() => Ok(folder),
            renamed => renamed.map(|()| folder),
        }
    }
}

/// A running server.
pub struct Server {
    /// The program; several after restarts, one after the other.
    pub process: Process,
    /// Whose it is.
    pub family: Family,
    folder: PathBuf,
    options: Vec<String>,
    /// Where its clients connect to, when it does not listen itself.
    port: Option<Port>,
}

impl Server {
    /// Starts a server on all addresses of `host`, with its files in `folder`, named after the host, and these options
    /// besides the usual ones. Only `root` exists, without a password, and it can log in on [`Server::sql`] only.
    pub fn start(family: Family, host: &Host, folder: &Path, options: &[&str]) -> Self {
        let mut server = Self::launch(family, host, folder, options);
        server.wait_until_up();
        server
    }

    fn launch(family: Family, host: &Host, folder: &Path, options: &[&str]) -> Self {
        let folder = folder.join(format!("sql-{}", host.name));
        fs::create_dir_all(&folder).expect("a folder for the server");
        let initialised =
            family.initialised(host).unwrap_or_else(|error| panic!("no data folder for {family:?}: {error}"));
        copy_folder(&initialised, &folder.join("data")).expect("a copy of the data folder");
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let process = spawn(family, host, &folder, &options);
        Self { process, family, folder, options, port: None }
    }

    /// Starts a server that checks no password and lets everybody do everything (`--skip-grant-tables`). MySQL 8 and later
    /// listen on their Unix socket only then, and no option changes that (MySQL's worklog 4321), so their port is opened by
    /// a program before them, as `socat` would do it.
    pub fn start_without_grants(family: Family, host: &Host, folder: &Path) -> Self {
        let mut server = Self::launch(family, host, folder, &["--skip-grant-tables"]);
        if family == Family::MySql {
            let port = Port::open(host, SQL_PORT, server.folder.join("socket"));
            server.port = Some(port.expect("a port before the server"));
        }
        server.wait_until_up();
        server
    }

    /// Asks it to end, as a service manager does, and waits until it has.
    pub fn stop(&mut self) {
        let status = self.process.stop(STOP_PATIENCE);
        assert!(status.is_some_and(|status| status.success()), "it did not end well ({status:?}): {}", self.log());
    }

    /// Starts it again, with its data, after it was stopped or killed. What it has counted begins anew, and its cache of
    /// passwords (`caching_sha2_password`) is empty.
    pub fn restart(&mut self, host: &Host) {
        self.process = spawn(self.family, host, &self.folder, &self.options);
        self.wait_until_up();
    }

    fn wait_until_up(&mut self) {
        let up = wait_for(START_PATIENCE, || {
            self.process
                .try_wait()
                .map(Err)
                .or_else(|| (self.process.sees_listener(SQL_PORT) && self.try_sql("DO 1").is_ok()).then_some(Ok(())))
        });
        assert!(matches!(up, Some(Ok(()))), "{:?} did not come up ({up:?}): {}", self.family, self.log());
    }

    /// The end of what it logged.
    fn log(&self) -> String {
        let log = fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(4000)..]).into_owned()
    }

    /// Runs statements as `root`, not over the network. It counts as one connection and as these statements: the client
    /// adds none of its own.
    ///
    /// # Errors
    /// What the server said to the first statement that it refused.
    pub fn try_sql(&self, statements: &str) -> Result<Vec<Vec<String>>, String> {
        let mut command = Command::new("mariadb");
        command.args([
            "--no-defaults",
            "--user=root",
            "--batch",
            "--raw",
            "--skip-column-names",
            "--default-character-set=utf8mb4",
        ]);
        command.arg(option("--socket=", &self.folder.join("socket")));
        let output = command.arg("--execute").arg(statements).output().expect("mariadb (package mariadb-client-core)");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
    }

    /// The same for statements that must succeed; returns all rows.
    pub fn sql(&self, statements: &str) -> Vec<Vec<String>> {
        self.try_sql(statements).unwrap_or_else(|error| panic!("{:?} refused `{statements}`: {error}", self.family))
    }

    /// The one value that a query returns.
    pub fn value(&self, query: &str) -> String {
        let rows = self.sql(query);
        match rows.as_slice() {
            [row] if row.len() == 1 => row[0].clone(),
            _ => panic!("`{query}` returned {rows:?}"),
        }
    }

    /// What it has counted since its start (`SHOW GLOBAL STATUS`): `Com_select`, `Handler_write`, `Connections`, …; names
    /// as the server writes them. Values that are no whole numbers are left out.
    pub fn status(&self) -> BTreeMap<String, u64> {
        let rows = self.sql("SHOW GLOBAL STATUS");
        rows.into_iter()
            .filter_map(|mut row| Some((std::mem::take(row.first_mut()?), row.get(1)?.parse().ok()?)))
            .collect()
    }

    /// How much these counters have grown since `before`, in their order. A name that does not exist is a broken test.
    pub fn growth<const N: usize>(&self, before: &BTreeMap<String, u64>, names: [&str; N]) -> [u64; N] {
        let now = self.status();
        names.map(|name| now[name] - before[name])
    }

    /// The statements that it has executed since `before`, by kind: its counters `Com_…` that have grown, without that of
    /// [`Server::status`] itself. Servers of one family count alike.
    pub fn statements_since(&self, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
        let grown = |(name, now): (String, u64)| {
            let is_statement = name.starts_with("Com_") && name != "Com_show_status";
            let growth =
                is_statement.then(|| now - before.get(&name).copied().unwrap_or(0)).filter(|growth| *growth > 0)?;
            Some((name, growth))
        };
        self.status().into_iter().filter_map(grown).collect()
    }

    /// `CHECKSUM TABLE`, comparable between servers of one family and version.
    pub fn checksum(&self, table: &str) -> String {
        let rows = self.sql(&format!("CHECKSUM TABLE {table}"));
        rows[0][1].clone()
    }

    /// All rows of a table in the order of its first column, comparable between all servers.
    pub fn rows(&self, table: &str) -> Vec<Vec<String>> {
        self.sql(&format!("SELECT * FROM {table} ORDER BY 1"))
    }

    /// Whether users of this plugin can be created.
    pub fn has(&self, plugin: Plugin) -> bool {
        let query = "SELECT COUNT(*) FROM information_schema.plugins WHERE plugin_status = 'ACTIVE' AND plugin_name =";
        self.value(&format!("{query} '{}'", plugin.name())) == "1"
    }

    /// Creates a user that may do everything, from everywhere.
    pub fn create_user(&self, name: &str, plugin: Plugin, password: &str) {
        let plugin = plugin.name();
        let how = match self.family {
            Family::MariaDb => format!("VIA {plugin} USING PASSWORD('{password}')"),
            Family::MySql => format!("WITH {plugin} BY '{password}'"),
        };
        self.sql(&format!("CREATE USER '{name}'@'%' IDENTIFIED {how}; GRANT ALL ON *.* TO '{name}'@'%'"));
    }
}

fn option(name: &str, path: &Path) -> std::ffi::OsString {
    let mut option = std::ffi::OsString::from(name);
    option.push(OsStr::new(path));
    option
}

fn spawn(family: Family, host: &Host, folder: &Path, options: &[String]) -> Process {
    let log = File::options().create(true).append(true).open(folder.join("log")).expect("a file for the server's log");
    let mut command = host.command(family.server());
    command.args(family.options());
    command.arg(option("--datadir=", &folder.join("data"))).arg(option("--socket=", &folder.join("socket")));
    command.arg(option("--pid-file=", &folder.join("pid"))).arg(format!("--port={SQL_PORT}"));
    // No names to look up, no replication, and no waiting for the disk: a machine that stops takes the test with it.
    command.args(["--skip-name-resolve", "--skip-log-bin", "--innodb-flush-log-at-trx-commit=0", "--local-infile=ON"]);
    command.args(["--innodb-flush-method=nosync", "--innodb-buffer-pool-size=64M", "--max-allowed-packet=64M"]);
    command.args(["--max-connections=500", "--secure-file-priv="]);
    match family {
        Family::MariaDb => {
            if let Some(plugins) = ed25519_folder() {
                command.arg(option("--plugin-dir=", &plugins)).arg("--plugin-load-add=auth_ed25519");
            }
        }
        // 8.4 has the native plugin switched off, 9 has it no more and only warns of the option.
        Family::MySql => {
            command.args(["--loose-mysqlx=OFF", "--loose-mysql-native-password=ON"]);
        }
    }
    command.args(options);
    command.stdout(log.try_clone().expect("a second descriptor")).stderr(log);
    Process::start(&mut command).unwrap_or_else(|error| panic!("{family:?} cannot be started: {error}"))
}

/// Whether users of [`Plugin::Ed25519`] can be created: stable Debian has the plugin in another package than the server.
pub fn has_ed25519() -> bool {
    ed25519_folder().is_some()
}

/// Where MariaDB's server side of ed25519 is: with the server's package, or where `scripts/fetch-mysql.sh` puts it.
fn ed25519_folder() -> Option<PathBuf> {
    let fetched = fs::read_dir(cache()).into_iter().flatten().flatten();
    let fetched = fetched.filter(|entry| entry.file_name().to_string_lossy().starts_with("mariadb-plugins-"));
    let folders = [PathBuf::from("/usr/lib/mysql/plugin")].into_iter().chain(fetched.map(|entry| entry.path()));
    folders.into_iter().find(|folder| folder.join("auth_ed25519.so").is_file())
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to.join(entry.file_name()))?;
        } else {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
