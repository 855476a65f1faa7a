//! nginx as online and as target.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use tcpcopy::demo::server::Received;
use tcpcopy_io::netns::{Host, Process, wait_for};

/// A running nginx with one worker. It answers every request with 21 bytes and logs each one.
pub struct Nginx {
    /// The program; several after restarts, one after the other.
    pub process: Process,
    folder: PathBuf,
    counted: Mutex<Counted>,
}

/// How much of the log has been counted.
#[derive(Default)]
struct Counted {
    bytes: u64,
    lines: u64,
}

const START_PATIENCE: Duration = Duration::from_secs(20);

impl Nginx {
    /// Starts nginx on `host`, on port 80 of all its addresses, with its files in `folder`, named after the host.
    pub fn start(host: &Host, folder: &Path) -> Self {
        let folder = folder.join(format!("nginx-{}", host.name));
        fs::create_dir_all(&folder).expect("a folder for nginx");
        let dir = folder.display();
        // A single process that stays root: in a user namespace there is no other user to change to.
        let config = format!(
            "daemon off; master_process off; user root; pid {dir}/pid; error_log {dir}/error.log;
             worker_rlimit_nofile 20000;
             events {{ worker_connections 19000; }}
             http {{
                 client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
                 uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
                 log_format lab '$connection $request_length $msec $status $request_uri';
                 access_log {dir}/access.log lab;
                 keepalive_requests 1000000000; keepalive_timeout 600; tcp_nodelay on;
                 client_max_body_size 100m;
                 server {{
                     listen 80 backlog=4096; listen [::]:80 backlog=4096;
                     location / {{ return 200 'twenty-one bytes long'; }}
                 }}
             }}"
        );
        fs::write(folder.join("nginx.conf"), config).expect("nginx.conf");
        let process = spawn(host, &folder);
        Self { process, folder, counted: Mutex::default() }
    }

    /// Starts it again after it was stopped; its log goes on.
    pub fn restart(&mut self, host: &Host) {
        self.process = spawn(host, &self.folder);
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("access.log")
    }

    /// Number of requests logged so far, not all of them perhaps tests' own.
    pub fn requests(&self) -> u64 {
        let mut counted = self.counted.lock().expect("no panic while counting");
        let mut added = Vec::new();
        let read = File::open(self.log_path()).and_then(|mut log| {
            log.seek(SeekFrom::Start(counted.bytes))?;
            log.read_to_end(&mut added)
        });
        read.expect("nginx's access log");
        counted.bytes += added.len() as u64;
        counted.lines += added.split(|&byte| byte == b'\n').count() as u64 - 1;
        counted.lines
    }

    /// All requests logged so far. Their fingerprint is their length, which is all that nginx tells of their bytes.
    pub fn received(&self) -> Vec<Received> {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        log.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(parse_line).collect()
    }

    /// How many requests were logged with each status.
    pub fn statuses(&self) -> HashMap<String, u64> {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        let mut statuses = HashMap::new();
        for status in log.lines().filter_map(|line| line.split(' ').nth(3)) {
            *statuses.entry(status.to_owned()).or_default() += 1;
        }
        statuses
    }
}

fn spawn(host: &Host, folder: &Path) -> Process {
    let log = File::options().create(true).append(true).open(folder.join("output")).expect("a file for nginx's output");
    let mut command = host.command("nginx");
    command.arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf"));
    command.stdout(log.try_clone().expect("a second descriptor")).stderr(log);
    let mut process = Process::start(&mut command).expect("nginx (package nginx)");
    let up = wait_for(START_PATIENCE, || {
        process.try_wait().map(Err).or_else(|| process.sees_listener(80).then_some(Ok(())))
    });
    assert!(matches!(up, Some(Ok(()))), "nginx did not come up ({up:?}); see {}", folder.display());
    process
}

fn parse_line(line: &str) -> Received {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let &[connection, length, at, _, uri] = fields.as_slice() else { panic!("a line of nginx's log: {line:?}") };
    let seconds: f64 = at.parse().expect("$msec");
    Received {
        id: uri.strip_prefix("/r/").and_then(|id| id.parse().ok()),
        fingerprint: length.parse().expect("$request_length"),
        connection: connection.parse().expect("$connection"),
        at: Duration::from_secs_f64(seconds),
    }
}
