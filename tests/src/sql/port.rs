//! A TCP port before a server that listens on a Unix socket only.

use std::io;
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tcpcopy_io::netns::Namespace;

/// Passes connections on until it is dropped.
pub(super) struct Port {
    number: u16,
    host: Namespace,
    ends: Arc<AtomicBool>,
}

impl Port {
    /// Opens it on all addresses of a host.
    pub(super) fn open(host: &Namespace, number: u16, socket: PathBuf) -> io::Result<Self> {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), number);
        let listener = host.run(|| TcpListener::bind(any)).and_then(|listener| listener)?;
        let port = Self { number, host: host.share()?, ends: Arc::default() };
        let ends = Arc::clone(&port.ends);
        thread::spawn(move || {
            for client in listener.incoming() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                // While the server is away its clients are turned away, too.
                if let (Ok(client), Ok(server)) = (client, UnixStream::connect(&socket)) {
                    let _ = pass_on(client, server);
                }
            }
        });
        Ok(port)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for clients.
        let here = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), self.number);
        let _ = self.host.run(|| TcpStream::connect(here));
    }
}

/// Starts a thread for each direction.
fn pass_on(client: TcpStream, server: UnixStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let (mut from_server, mut to_client) = (server, client);
    thread::spawn(move || {
        let _ = io::copy(&mut from_server, &mut to_client);
        // The server has closed, so nobody listens to the client any more.
        let _ = to_client.shutdown(Shutdown::Both);
    });
    Ok(())
}
