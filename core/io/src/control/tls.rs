//! TLS for the control link: certificates and keys out of PEM files, made into what connections are made from.
//!
//! Version 1.3 and nothing else, since both ends are ours; no resumption and no early data, so that every connection
//! proves who it is anew.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};
use tcpcopy_wire::control::Role;

use super::transport::{TlsFault, Transport};

/// Why TLS cannot be had with the files or the name that were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsError {
    /// A file cannot be used.
    File {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What should be a name is none.
    Name(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { option, path, reason } => write!(f, "in {option}: {}: {reason}", path.display()),
            Self::Name(name) => write!(f, "in --tls-name: `{name}` is neither a host's name nor an address"),
        }
    }
}

impl std::error::Error for TlsError {}

/// A certificate with its key, as PEM files.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// The certificate, and those between it and its authority.
    pub certificate: &'a Path,
    /// Its private key.
    pub key: &'a Path,
}

/// intercept's side of TLS.
#[derive(Clone, Debug)]
pub struct TlsServer {
    config: Arc<rustls::ServerConfig>,
    demands_certificate: bool,
}

impl TlsServer {
    /// Serves with a certificate; with `clients`, only those who have one that this authority signed.
    ///
    /// # Errors
    /// The file that cannot be used.
    pub fn new(own: Identity<'_>, clients: Option<&Path>) -> Result<Self, TlsError> {
        let (chain, key) = read_identity(own)?;
        let failed = |e: rustls::Error| file_error(CERTIFICATE, own.certificate, &e);
        let builder = rustls::ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let builder = builder.map_err(failed)?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(read_roots(path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
                builder.with_client_cert_verifier(verifier.map_err(|e| file_error(AUTHORITY, path, &e))?)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(failed)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), demands_certificate: clients.is_some() })
    }

    /// Whether only those get in who show a certificate.
    pub fn demands_certificate(&self) -> bool {
        self.demands_certificate
    }

    pub(super) fn accept(&self, socket: TcpStream) -> Result<Transport, TlsFault> {
        let connection = ServerConnection::new(Arc::clone(&self.config));
        let connection = connection.map_err(|e| TlsFault::Failed(e.to_string()))?;
        Ok(Transport::tls(socket, connection, Role::Intercept))
    }
}

/// tcpcopy's side of TLS.
#[derive(Clone, Debug)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl TlsClient {
    /// Speaks with an intercept that has a certificate of this authority, for its address or for `name`; shows `own` if
    /// it is asked for one.
    ///
    /// # Errors
    /// The file that cannot be used.
    pub fn new(authority: &Path, own: Option<Identity<'_>>, name: Option<&str>) -> Result<Self, TlsError> {
        let failed = |e: rustls::Error| file_error(AUTHORITY, authority, &e);
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let builder = builder.map_err(failed)?.with_root_certificates(read_roots(authority)?);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let (chain, key) = read_identity(own)?;
                let built = builder.with_client_auth_cert(chain, key);
                built.map_err(|e| file_error(CERTIFICATE, own.certificate, &e))?
            }
        };
        config.resumption = Resumption::disabled();
        let name = name.map(|name| ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned())));
        Ok(Self { config: Arc::new(config), name: name.transpose()? })
    }

    pub(super) fn connect(&self, socket: TcpStream, to: IpAddr) -> Result<Transport, TlsFault> {
        let name = self.name.clone().unwrap_or_else(|| ServerName::from(to));
        let connection = ClientConnection::new(Arc::clone(&self.config), name);
        let connection = connection.map_err(|e| TlsFault::Failed(e.to_string()))?;
        Ok(Transport::tls(socket, connection, Role::Tcpcopy))
    }
}

const CERTIFICATE: &str = "--tls-cert";
const KEY: &str = "--tls-key";
const AUTHORITY: &str = "--tls-ca";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn file_error(option: &'static str, path: &Path, reason: &dyn fmt::Display) -> TlsError {
    TlsError::File { option, path: path.to_owned(), reason: reason.to_string() }
}

fn read_certificates(option: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |e| file_error(option, path, &pem_problem("certificate", &e));
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(failed)?.collect();
    let certificates = certificates.map_err(failed)?;
    if certificates.is_empty() {
        return Err(failed(rustls::pki_types::pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

fn read_identity(own: Identity<'_>) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let key =
        PrivateKeyDer::from_pem_file(own.key).map_err(|e| file_error(KEY, own.key, &pem_problem("private key", &e)))?;
    Ok((read_certificates(CERTIFICATE, own.certificate)?, key))
}

fn read_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(AUTHORITY, path)? {
        roots.add(certificate).map_err(|e| file_error(AUTHORITY, path, &e))?;
    }
    Ok(roots)
}

fn pem_problem(what: &str, problem: &rustls::pki_types::pem::Error) -> String {
    use rustls::pki_types::pem::Error;
    match problem {
        Error::NoItemsFound => format!("there is no {what} in PEM form (-----BEGIN ...) in it"),
        Error::Io(e) => e.to_string(),
        other => other.to_string(),
    }
}
