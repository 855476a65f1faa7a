//! What a control connection's bytes go over: TCP as it is, or TLS on top of it.
//!
//! Reading and writing are those of a non-blocking socket, in both cases: as much as goes at once, then
//! [`ErrorKind::WouldBlock`]. TLS holds back a bounded number of bytes (rustls's limit of 64 KB each way): what the socket
//! does not take is in [`holds_bytes`](Transport::holds_bytes), and the next [`flush`](Write::flush) goes on with it. A
//! record that has been read in part says nothing yet, so a short read means an empty socket only without TLS.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};

use mio::net::TcpStream;
use rustls::{AlertDescription, CertificateError, Connection, Error as TlsProblem};
use tcpcopy_wire::control::{MAGIC, Role};

/// Why there is no TLS with the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsFault {
    /// The other end speaks the control link without TLS.
    Plain,
    /// What came is not TLS.
    NotTls {
        /// Its first byte.
        first: u8,
    },
    /// The other end closed the connection before the handshake was over.
    ClosedInHandshake {
        /// Who did.
        by: Role,
    },
    /// The handshake failed, or a record is not what it should be.
    Failed(String),
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => f.write_str(
                "the other end came without TLS to a port that serves TLS only: give tcpcopy --tls-ca, with the \
                 certificate of the authority that signed intercept's",
            ),
            Self::NotTls { first } => write!(f, "not TLS: it begins with {first:02x}"),
            Self::ClosedInHandshake { by: Role::Intercept } => f.write_str(
                "intercept closed the connection during the TLS handshake: it serves no TLS (give it --tls-cert and \
                 --tls-key, or leave --tls-ca out at tcpcopy), or its --allow does not have this host's address; its \
                 log says which",
            ),
            Self::ClosedInHandshake { by: Role::Tcpcopy } => {
                f.write_str("tcpcopy closed the connection during the TLS handshake")
            }
            Self::Failed(text) => write!(f, "TLS: {text}"),
        }
    }
}

impl std::error::Error for TlsFault {}

/// A connected socket, and what is spoken on it.
#[derive(Debug)]
pub(super) struct Transport {
    pub(super) socket: TcpStream,
    channel: Channel,
    /// Bytes that the socket has taken.
    sent: u64,
}

#[derive(Debug)]
enum Channel {
    Plain,
    Tls(Box<Tls>),
}

#[derive(Debug)]
struct Tls {
    connection: Connection,
    role: Role,
    first: Option<u8>,
}

impl Transport {
    pub(super) fn plain(socket: TcpStream) -> Self {
        Self { socket, channel: Channel::Plain, sent: 0 }
    }

    /// TLS, at the end `role`.
    pub(super) fn tls(socket: TcpStream, connection: impl Into<Connection>, role: Role) -> Self {
        let tls = Tls { connection: connection.into(), role, first: None };
        Self { socket, channel: Channel::Tls(Box::new(tls)), sent: 0 }
    }

    /// Whether a read of less than was asked for has emptied the socket.
    pub(super) fn short_read_is_last(&self) -> bool {
        matches!(self.channel, Channel::Plain)
    }

    /// Whether bytes that were written have not been taken by the socket yet.
    pub(super) fn holds_bytes(&self) -> bool {
        match &self.channel {
            Channel::Plain => false,
            Channel::Tls(tls) => tls.connection.wants_write(),
        }
    }

    /// Bytes that the socket has taken.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// What only the two ends of this very channel know (RFC 9266), once its handshake is over; `None` without TLS.
    pub(super) fn binding(&self) -> Option<[u8; 32]> {
        let Channel::Tls(tls) = &self.channel else { return None };
        // Both kinds of connection have it, each as its own function.
        tls.connection.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b"")).ok()
    }

    /// Tells the other end that nothing follows, if it takes it at once.
    pub(super) fn say_end(&mut self) {
        if let Channel::Tls(tls) = &mut self.channel {
            tls.connection.send_close_notify();
            // A courtesy: the connection ends whether it arrives or not.
            let _ = self.flush();
        }
    }
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Channel::Tls(tls) = &mut self.channel else { return self.socket.read(buffer) };
        loop {
            match tls.connection.reader().read(buffer) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                // Without a word of farewell: who can do that can as well cut the cable.
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                done => return done,
            }
            let handshaking = tls.connection.is_handshaking();
            match tls.connection.read_tls(&mut FirstByte { socket: &mut self.socket, first: &mut tls.first }) {
                // A scan or a health check sends nothing at all; tcpcopy has sent something before it hears.
                Ok(0) if handshaking && tls.role == Role::Intercept && tls.first.is_none() => return Ok(0),
                Ok(0) if handshaking => return Err(tls.closed_in_handshake()),
                Err(e) if handshaking && tls.role == Role::Tcpcopy && e.kind() == ErrorKind::ConnectionReset => {
                    return Err(tls.closed_in_handshake());
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
                Ok(_) => {}
            }
            let processed = tls.connection.process_new_packets();
            // Answers of the handshake, or the alert that says what is wrong.
            let pushed = tls.push(&mut self.socket, &mut self.sent);
            if let Err(problem) = processed {
                return Err(io::Error::other(TlsFault::Failed(explain(&problem, tls.role))));
            }
            pushed?;
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Channel::Tls(tls) = &mut self.channel else {
            let written = self.socket.write(bytes)?;
            self.sent += written as u64;
            return Ok(written);
        };
        // First what waits: then there is room for more.
        tls.push(&mut self.socket, &mut self.sent)?;
        let taken = tls.connection.writer().write(bytes)?;
        tls.push(&mut self.socket, &mut self.sent)?;
        if taken == 0 && !bytes.is_empty() { Err(ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    /// Gives the socket what is held back, as far as it takes it; no error when it takes nothing.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.channel {
            Channel::Plain => Ok(()),
            Channel::Tls(tls) => tls.push(&mut self.socket, &mut self.sent),
        }
    }
}

impl Tls {
    fn closed_in_handshake(&self) -> io::Error {
        let by = if self.role == Role::Tcpcopy { Role::Intercept } else { Role::Tcpcopy };
        io::Error::other(TlsFault::ClosedInHandshake { by })
    }

    fn push(&mut self, socket: &mut TcpStream, sent: &mut u64) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => *sent += n as u64,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// A socket of which the first byte is looked at before TLS gets it: what is not TLS is better named here.
struct FirstByte<'a> {
    socket: &'a mut TcpStream,
    first: &'a mut Option<u8>,
}

impl Read for FirstByte<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let came = self.socket.read(buffer)?;
        if let (None, Some(&first)) = (*self.first, buffer[..came].first()) {
            *self.first = Some(first);
            match first {
                // The types of records (RFC 8446, 5.1).
                20..=23 => {}
                first if first == MAGIC[0] => return Err(io::Error::other(TlsFault::Plain)),
                first => return Err(io::Error::other(TlsFault::NotTls { first })),
            }
        }
        Ok(came)
    }
}

/// What a problem of TLS means for the one who gave the options, at the end `role`.
fn explain(problem: &TlsProblem, role: Role) -> String {
    use CertificateError as C;
    let here = match role {
        Role::Tcpcopy => match problem {
            TlsProblem::InvalidCertificate(C::UnknownIssuer | C::BadSignature) => {
                "intercept's certificate is not signed by the authority given with --tls-ca"
            }
            TlsProblem::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
                "intercept's certificate is for another name; make one for the address given with -s, or give the name \
                 in it with --tls-name"
            }
            TlsProblem::AlertReceived(AlertDescription::CertificateRequired) => {
                "intercept was started with --tls-ca and wants to see a certificate: give tcpcopy --tls-cert and --tls-key"
            }
            TlsProblem::AlertReceived(
                AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::DecryptError
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnsupportedCertificate,
            ) => "intercept refuses the certificate of --tls-cert: it is not signed by the authority of its --tls-ca",
            _ => "",
        },
        Role::Intercept => match problem {
            TlsProblem::NoCertificatesPresented => {
                "tcpcopy showed no certificate, which --tls-ca demands: give tcpcopy --tls-cert and --tls-key"
            }
            TlsProblem::InvalidCertificate(C::UnknownIssuer | C::BadSignature) => {
                "tcpcopy's certificate is not signed by the authority given with --tls-ca"
            }
            TlsProblem::AlertReceived(AlertDescription::UnknownCA | AlertDescription::BadCertificate) => {
                "tcpcopy refuses the certificate of --tls-cert: it is not signed by the authority of its --tls-ca, or it \
                 is for another name"
            }
            _ => "",
        },
    };
    let expired = matches!(
        problem,
        TlsProblem::InvalidCertificate(
            C::Expired | C::ExpiredContext { .. } | C::NotValidYet | C::NotValidYetContext { .. }
        )
    );
    match here {
        "" if expired => format!("{problem}; look at the certificate's dates and at this host's clock"),
        "" => problem.to_string(),
        text => format!("{text} ({problem})"),
    }
}
