//! A server of lines that remembers what it was told, and a client of it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tcpcopy_io::netns::{Host, Lab};

const PATIENCE: Duration = Duration::from_secs(30);

/// A server of lines. It knows as much of memcached as a test needs: behind a line that begins with `set` comes a data
/// block, which is a line here. Every other line is answered with `END`.
///
/// It ends with the program: nothing tells a listener to stop.
pub struct LineServer {
    heard: Arc<Mutex<Vec<String>>>,
}

impl LineServer {
    /// Starts one on a port of `host`.
    pub fn start(host: &Host, port: u16) -> Self {
        let address = SocketAddr::new(host.ipv4.into(), port);
        let listener = host.run(|| TcpListener::bind(address)).expect("a thread").expect("a listener");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&heard);
        thread::spawn(move || {
            for connection in listener.incoming() {
                let (connection, heard) = (connection.expect("a connection"), Arc::clone(&all));
                thread::spawn(move || answer(&connection, &heard));
            }
        });
        Self { heard }
    }

    /// The lines of all connections, but those that begin with `get probe`, which only find out whether the copy works.
    pub fn heard(&self) -> Vec<String> {
        let heard = self.heard.lock().expect("no panic");
        heard.iter().filter(|line| !line.starts_with(PROBE)).cloned().collect()
    }

    /// Whether a probe has come.
    pub fn was_probed(&self) -> bool {
        self.heard.lock().expect("no panic").iter().any(|line| line.starts_with(PROBE))
    }
}

/// What probes begin with.
pub const PROBE: &str = "get probe";

fn answer(mut connection: &TcpStream, heard: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(connection).lines();
    while let Some(Ok(line)) = lines.next() {
        let is_write = line.starts_with("set ");
        heard.lock().expect("no panic").push(line);
        if is_write {
            let _ = lines.next();
        }
        let _ = connection.write_all(if is_write { b"STORED\r\n" } else { b"END\r\n" });
    }
}

/// A client's connection to online.
pub struct LineClient {
    connection: TcpStream,
    answers: BufReader<TcpStream>,
}

impl LineClient {
    /// Connects the lab's client to a port of online.
    pub fn connect(lab: &Lab, port: u16) -> Self {
        let address = SocketAddr::new(lab.online.ipv4.into(), port);
        let connection = lab.client.run(|| TcpStream::connect(address)).expect("a thread").expect("online answers");
        connection.set_read_timeout(Some(PATIENCE)).expect("a limit");
        let answers = BufReader::new(connection.try_clone().expect("a descriptor"));
        Self { connection, answers }
    }

    /// Sends bytes, and waits for nothing.
    pub fn send(&mut self, text: &str) {
        self.connection.write_all(text.as_bytes()).expect("online takes it");
    }

    /// Reads a line that online sends, without its end.
    pub fn read_line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("online answers");
        assert!(line.ends_with('\n'), "online closed behind {line:?}");
        line.trim_end().to_owned()
    }

    /// Says each command and waits for its answer, one line, before the next one.
    pub fn talk(&mut self, commands: &[String]) {
        for command in commands {
            self.send(&format!("{command}\r\n"));
            self.read_line();
        }
    }
}
