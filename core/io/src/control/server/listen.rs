//! Where intercept listens.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mio::net::TcpListener;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Why intercept cannot listen.
#[derive(Debug)]
pub struct BindError {
    /// Where it should have.
    pub address: SocketAddr,
    /// What the system says.
    pub source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, source } = self;
        write!(f, "cannot listen on {address}: {source}")?;
        match source.kind() {
            ErrorKind::AddrInUse => write!(
                f,
                "; another program (an intercept that still runs?) has port {}: stop it, or choose another one with -p",
                address.port()
            ),
            ErrorKind::AddrNotAvailable => {
                write!(f, "; {} is no address of this host: give -b one that `ip address` shows", address.ip())
            }
            ErrorKind::PermissionDenied => f.write_str("; ports below 1024 need CAP_NET_BIND_SERVICE"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Listens at an address, or on all there are: on IPv6 and IPv4 alike, or on IPv4 alone where a host has nothing else.
pub(super) fn listen(address: Option<IpAddr>, port: u16) -> Result<(TcpListener, SocketAddr), BindError> {
    let at = |address: IpAddr| {
        let address = SocketAddr::new(address, port);
        listen_at(address).map(|listener| (listener, address)).map_err(|source| BindError { address, source })
    };
    match at(address.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED))) {
        Err(e) if address.is_none() && says_no_ipv6(&e.source) => at(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        other => other,
    }
}

fn says_no_ipv6(e: &io::Error) -> bool {
    e.raw_os_error() == Some(libc::EAFNOSUPPORT) || e.kind() == ErrorKind::AddrNotAvailable
}

fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(128)?;
    Ok(TcpListener::from_std(socket.into()))
}
