//! The module in the real tcpcopy, between hosts made of network namespaces. The environment says in which folder the
//! programs are: `TCPCOPY_PROGRAMS=path/to/tcpcopy/target/release cargo test`. Without it, or without the right to make
//! namespaces, this is skipped.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tcpcopy_io::netns::{self, Host, Lab, Process, wait_for};

const PORT: u16 = 7000;
const PATIENCE: Duration = Duration::from_secs(30);

fn main() {
    // First of all, while there is a single thread: this may enter a user namespace.
    if let Err(e) = netns::prepare() {
        return println!("SKIPPED: {e}");
    }
    let Some(programs) = std::env::var_os("TCPCOPY_PROGRAMS") else {
        return println!("SKIPPED: TCPCOPY_PROGRAMS does not say in which folder tcpcopy and intercept are");
    };
    the_right_lines_reach_the_target(Path::new(&programs));
    println!("the right lines reach the target: ok");
}

/// A server that answers each line with `ok` and remembers it.
fn serve(host: &Host) -> Arc<Mutex<Vec<String>>> {
    let address = SocketAddr::new(host.ipv4.into(), PORT);
    let listener = host.run(|| TcpListener::bind(address)).unwrap().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&heard);
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let heard = Arc::clone(&all);
            thread::spawn(move || {
                for line in BufReader::new(&connection).lines().map_while(Result::ok) {
                    heard.lock().unwrap().push(line);
                    let _ = (&connection).write_all(b"ok\n");
                }
            });
        }
    });
    heard
}

/// Says each line to online, and waits for its answer before the next one.
fn talk(lab: &Lab, lines: &[String]) {
    let address = SocketAddr::new(lab.online.ipv4.into(), PORT);
    let connection = lab.client.run(|| TcpStream::connect(address)).unwrap().unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answers = BufReader::new(&connection).lines();
    for line in lines {
        (&connection).write_all(format!("{line}\n").as_bytes()).unwrap();
        answers.next().unwrap().unwrap();
    }
}

fn the_right_lines_reach_the_target(programs: &Path) {
    // Cargo puts the library beside this test.
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let lab = Lab::new().unwrap();
    let (_online, target) = (serve(&lab.online), serve(&lab.target));
    let mut intercept = lab.assistant.command(programs.join("intercept"));
    intercept.args(["-i", "eth0", "-F", &format!("tcp and src port {PORT}")]);
    let _intercept = Process::start(&mut intercept).unwrap();
    let mut tcpcopy = lab.online.command(programs.join("tcpcopy"));
    tcpcopy.args(["-x", &format!("template:{PORT}-{}:{PORT}", lab.target.ipv4), "-c", "10.78.0.x", "-i", "eth0"]);
    tcpcopy.args(["-s", &lab.assistant.ipv4.to_string(), "-L", "--proto-opt", "template.without=#", "--module-dir"]);
    let _tcpcopy = Process::start(tcpcopy.arg(&folder)).unwrap();
    let up = wait_for(PATIENCE, || {
        talk(&lab, &["probe".to_owned()]);
        wait_for(Duration::from_millis(200), || (!target.lock().unwrap().is_empty()).then_some(()))
    });
    up.expect("nothing is copied");

    let said: Vec<String> = (0..100).map(|i| format!("{}line {i}", if i % 3 == 0 { "# " } else { "" })).collect();
    talk(&lab, &said);
    let expected: Vec<String> = said.into_iter().filter(|line| !line.starts_with('#')).collect();
    let received =
        || -> Vec<String> { target.lock().unwrap().iter().filter(|line| *line != "probe").cloned().collect() };
    wait_for(PATIENCE, || (received().len() >= expected.len()).then_some(()));
    assert_eq!(received(), expected);
}
