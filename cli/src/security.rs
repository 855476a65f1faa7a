//! The options of both programs that say who may use the control link: the files are checked here, and read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use tcpcopy_io::control::{Identity, TlsClient, TlsServer};
use tcpcopy_wire::control::Secret;

use crate::exit::Failure;
use crate::grammar::{OptionName, Part, SyntaxError, network};
use crate::values::absolute;

/// Bytes of a secret's file that are read at most.
const LONGEST_FILE: u64 = 64 << 10;
/// In a file's mode: group and others.
const GROUP_AND_OTHERS: u32 = 0o077;
/// In a file's mode: others.
const OTHERS: u32 = 0o007;

/// The option of the allow list.
pub const ALLOW: OptionName =
    OptionName { name: "--allow", example: "--allow 10.0.0.1 or --allow 10.0.0.0/24,fd00::/64" };

/// The files behind the options, with absolute names. A program that needs none of them has the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecurityFiles {
    /// `--secret-file`.
    pub secret: Option<PathBuf>,
    /// `--tls-cert` and `--tls-key`.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// `--tls-ca`.
    pub authority: Option<PathBuf>,
    /// `--tls-name`, of tcpcopy.
    pub name: Option<String>,
}

impl SecurityFiles {
    /// Checks what goes with what.
    ///
    /// # Errors
    /// Wrong usage. So for all of this.
    pub(crate) fn check(
        secret: Option<PathBuf>,
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
        authority: Option<PathBuf>,
        name: Option<String>,
    ) -> Result<Self, Failure> {
        let file = |option, path: Option<PathBuf>| path.map(|path| absolute(option, &path)).transpose();
        let identity = match (file("--tls-cert", certificate)?, file("--tls-key", key)?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(Failure::usage("--tls-cert without --tls-key: give the certificate's key too"));
            }
            (None, Some(_)) => {
                return Err(Failure::usage("--tls-key without --tls-cert: give the key's certificate too"));
            }
        };
        Ok(Self { secret: file("--secret-file", secret)?, identity, authority: file("--tls-ca", authority)?, name })
    }

    /// As [`check`](Self::check), for tcpcopy, which speaks TLS when it is told whom to believe. `has_intercepts`: there
    /// is somebody to speak with.
    pub(crate) fn check_for_client(self, has_intercepts: bool) -> Result<Self, Failure> {
        if !has_intercepts && self != Self::default() {
            return Err(Failure::usage(
                "--secret-file and --tls-... are for the link to an intercept, and -s names none: leave them out",
            ));
        }
        let given = [("--tls-cert", self.identity.is_some()), ("--tls-name", self.name.is_some())];
        if let (None, Some((option, _))) = (&self.authority, given.iter().find(|(_, given)| *given)) {
            return Err(Failure::usage(format!(
                "{option} without --tls-ca: give the certificate of the authority that signed intercept's, with --tls-ca"
            )));
        }
        Ok(self)
    }

    /// As [`check`](Self::check), for intercept, which serves TLS when it has a certificate.
    pub(crate) fn check_for_server(self) -> Result<Self, Failure> {
        if self.authority.is_some() && self.identity.is_none() {
            return Err(Failure::usage(
                "--tls-ca without --tls-cert and --tls-key: to serve TLS, intercept needs a certificate of its own",
            ));
        }
        Ok(self)
    }

    /// Reads the secret.
    pub(crate) fn read_secret(&self) -> Result<Option<Secret>, Failure> {
        self.secret.as_deref().map(read_secret).transpose()
    }

    /// What tcpcopy needs for TLS.
    pub(crate) fn client(&self) -> Result<Option<TlsClient>, Failure> {
        let Some(authority) = &self.authority else { return Ok(None) };
        TlsClient::new(authority, self.own()?, self.name.as_deref()).map(Some).map_err(Failure::usage)
    }

    /// What intercept needs for TLS.
    pub(crate) fn server(&self) -> Result<Option<TlsServer>, Failure> {
        let Some(own) = self.own()? else { return Ok(None) };
        TlsServer::new(own, self.authority.as_deref()).map(Some).map_err(Failure::usage)
    }

    /// Reads all of it once more, on SIGHUP, and says in the log how that went: the secret, and what `tls` makes of the
    /// rest. `None` when there is nothing to read, or what was read before stays in use.
    pub(crate) fn read_again<T>(
        &self,
        tls: impl FnOnce(&Self) -> Result<Option<T>, Failure>,
    ) -> Option<(Option<Secret>, Option<T>)> {
        if *self == Self::default() {
            return None;
        }
        match self.read_secret().and_then(|secret| Ok((secret, tls(self)?))) {
            Ok(read) => {
                log::info!("secret and certificates read again: they count from the next connection on");
                Some(read)
            }
            Err(failure) => {
                log::error!("{failure}; what was read before stays in use: mend it, and send HUP again");
                None
            }
        }
    }

    fn own(&self) -> Result<Option<Identity<'_>>, Failure> {
        let Some((certificate, key)) = &self.identity else { return Ok(None) };
        // A group may have it: distributions keep keys for one.
        open_private("--tls-key", key, OTHERS)?;
        Ok(Some(Identity { certificate, key }))
    }
}

/// Opens a file that only its owner may read.
fn open_private(option: &str, path: &Path, nobody_of: u32) -> Result<File, Failure> {
    let failed = |e: io::Error| Failure::usage(format!("in {option}: {}: {e}", path.display()));
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode();
    if mode & nobody_of != 0 {
        return Err(Failure::usage(format!(
            "in {option}: {path} may be read or written by others (mode {mode:04o}); type: chmod 600 {path}",
            path = path.display(),
            mode = mode & 0o7777
        )));
    }
    Ok(file)
}

/// The first line of a file, without spaces around it.
fn read_secret(path: &Path) -> Result<Secret, Failure> {
    let mut content = Vec::new();
    let file = open_private("--secret-file", path, GROUP_AND_OTHERS)?;
    let failed = |reason: String| Failure::usage(format!("in --secret-file: {}: {reason}", path.display()));
    file.take(LONGEST_FILE).read_to_end(&mut content).map_err(|e| failed(e.to_string()))?;
    let line = content.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
    Secret::new(line).map_err(|e| {
        failed(format!("in its first line {e}; make one: (umask 077; openssl rand -hex 32 > {})", path.display()))
    })
}

/// Reads the allow list: addresses and networks.
///
/// # Errors
/// The first mistake.
pub fn allow(text: &str) -> Result<Vec<IpNet>, SyntaxError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let networks = Part::whole(ALLOW, text).list()?;
    networks.into_iter().map(network).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::net::IpAddr;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::exit::Exit;

    fn file(content: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    fn refused(content: &str, mode: u32) -> String {
        let (_folder, path) = file(content, mode);
        let failure = read_secret(&path).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains(path.to_str().unwrap()), "{failure}");
        failure.message
    }

    #[test]
    fn the_secret_is_the_first_line_and_for_its_owner_only() {
        for content in ["0123456789abcdef", " 0123456789abcdef \r\nmore\n", "0123456789abcdef\n"] {
            let (_folder, path) = file(content, 0o400);
            assert!(read_secret(&path).is_ok(), "{content:?}");
        }
        for mode in [0o640, 0o604, 0o620, 0o602, 0o644] {
            let message = refused("0123456789abcdef", mode);
            assert!(message.contains("chmod 600") && message.contains(&format!("{mode:04o}")), "{message}");
        }
        for (content, len) in [("0123456789abcde\n", "15 bytes"), ("\n0123456789abcdef", "0 bytes"), ("", "0 bytes")] {
            let message = refused(content, 0o600);
            assert!(message.contains(len) && message.contains("openssl rand"), "{message}");
        }
        let missing = read_secret(Path::new("/no/such/file")).unwrap_err();
        assert!(missing.message.contains("--secret-file"), "{missing}");
    }

    #[test]
    fn what_belongs_together_is_given_together() {
        let path = || Some(PathBuf::from("x"));
        let check = |certificate, key, ca, name: Option<&str>| {
            SecurityFiles::check(None, certificate, key, ca, name.map(str::to_owned))
        };
        let said = |result: Result<SecurityFiles, Failure>| result.unwrap_err().message;
        assert!(said(check(path(), None, None, None)).contains("--tls-key"));
        assert!(said(check(None, path(), None, None)).contains("--tls-cert"));
        assert!(said(check(path(), path(), None, None).unwrap().check_for_client(true)).contains("--tls-ca"));
        assert!(said(check(None, None, None, Some("a")).unwrap().check_for_client(true)).contains("--tls-ca"));
        assert!(said(check(None, None, path(), None).unwrap().check_for_server()).contains("--tls-cert"));
        assert!(said(check(None, None, path(), None).unwrap().check_for_client(false)).contains("-s names none"));
        let all = check(path(), path(), path(), Some("a")).unwrap();
        assert!(all.authority.as_ref().unwrap().is_absolute());
        assert!(all.clone().check_for_client(true).is_ok() && all.check_for_server().is_ok());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let (_folder, path) = file("-----BEGIN", 0o644);
        let files = SecurityFiles::check(None, Some(path.clone()), Some(path), None, None).unwrap();
        let message = files.server().unwrap_err().message;
        assert!(message.contains("--tls-key") && message.contains("chmod 600"), "{message}");
    }

    #[test]
    fn addresses_and_networks_are_allowed() {
        let list = allow("10.0.0.1, 10.1.0.0/16,fd00::/64,[fd01::1]").unwrap();
        let texts: Vec<String> = list.iter().map(IpNet::to_string).collect();
        assert_eq!(texts, ["10.0.0.1/32", "10.1.0.0/16", "fd00::/64", "fd01::1/128"]);
        assert!(list[1].contains(&IpAddr::from([10, 1, 2, 3])) && !list[1].contains(&IpAddr::from([10, 2, 0, 1])));
        assert!(allow("").unwrap().is_empty());
        for (text, said) in [("10.0.0.0/33", "0 to 32"), ("10.0.0", "IPv4"), ("fd00::/x", "0 to 128"), ("a,,b", "a")] {
            let error = allow(text).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("--allow 10.0.0.1"), "{error}");
        }
    }
}
