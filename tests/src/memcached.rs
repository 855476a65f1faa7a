//! memcached as online and as target.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use tcpcopy_io::netns::{Host, Process, wait_for};

use crate::copy::PORT;

const START_PATIENCE: Duration = Duration::from_secs(20);

/// A running memcached.
pub struct Memcached {
    /// The program.
    pub process: Process,
    address: SocketAddr,
}

impl Memcached {
    /// Starts it on port 80 of `host`, with its output in `folder`.
    pub fn start(host: &Host, folder: &Path) -> Self {
        let output = File::create(folder.join(format!("memcached-{}.out", host.name))).expect("a file for its output");
        let mut command = host.command("memcached");
        // In a user namespace there is no other user to change to.
        command.args(["-u", "root", "-U", "0", "-t", "1", "-p", &PORT.to_string(), "-l", &host.ipv4.to_string()]);
        command.stdout(output.try_clone().expect("a second descriptor")).stderr(output);
        let mut process = Process::start(&mut command).expect("memcached (package memcached)");
        let up = wait_for(START_PATIENCE, || {
            process.try_wait().map(Err).or_else(|| process.sees_listener(PORT).then_some(Ok(())))
        });
        assert!(matches!(up, Some(Ok(()))), "memcached did not come up ({up:?}); see {}", folder.display());
        Self { process, address: SocketAddr::new(host.ipv4.into(), PORT) }
    }

    /// What memcached counts, asked on its own host: `cmd_get`, `get_hits`, `cmd_set` and the like.
    pub fn statistics(&self, host: &Host) -> HashMap<String, u64> {
        let answer = self.ask(host, "stats", "END");
        let line = |line: &String| {
            let mut words = line.strip_prefix("STAT ")?.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        };
        answer.iter().filter_map(line).collect()
    }

    /// Stores a value, on its own host.
    pub fn store(&self, host: &Host, key: &str, value: &str) {
        self.ask(host, &format!("set {key} 0 0 {}\r\n{value}", value.len()), "STORED");
    }

    fn ask(&self, host: &Host, command: &str, last_line: &str) -> Vec<String> {
        let mut connection =
            host.run(|| TcpStream::connect(self.address)).expect("a thread").expect("memcached takes connections");
        connection.set_read_timeout(Some(START_PATIENCE)).expect("a limit");
        connection.write_all(format!("{command}\r\n").as_bytes()).expect("memcached takes it");
        let mut answer = Vec::new();
        for line in BufReader::new(connection).lines() {
            let line = line.expect("memcached answers");
            if line == last_line {
                return answer;
            }
            answer.push(line);
        }
        panic!("memcached answered {command:?} with {answer:?}");
    }
}
