//! `--user` and `--nice`: as whom a program runs once everything is open, and how it yields to others.

use std::path::{Path, PathBuf};

use tcpcopy_io::privileges::{self, Account, PrivilegeError, Reduction};
use tcpcopy_io::process::Capability;

use crate::exit::{Exit, Failure};
use crate::values::in_range;

/// The options, checked as far as that can be done without looking at the system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// See `--user`.
    pub user: Option<String>,
    /// See `--nice`.
    pub niceness: Option<i32>,
}

/// What a program needs when it has been started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// These capabilities.
    pub capabilities: Vec<Capability>,
    /// The programs that it starts need them, too.
    pub for_children: bool,
    /// It opens, makes or removes these files.
    pub files: Vec<PathBuf>,
    /// It listens on these, which are made already.
    pub sockets: Vec<PathBuf>,
}

impl Identity {
    /// Checks both options.
    ///
    /// # Errors
    /// Wrong usage.
    pub fn check(user: Option<String>, niceness: Option<i32>) -> Result<Self, Failure> {
        if let Some(user) = &user
            && (user.is_empty() || user.split(':').any(str::is_empty) || user.matches(':').count() > 1)
        {
            return Err(Failure::usage(format!(
                "in --user: `{user}` is no user\nit is written like this: --user tcpcopy, or --user tcpcopy:GROUP"
            )));
        }
        let niceness = niceness.map(|n| in_range("--nice", n, -20..=19)).transpose()?;
        Ok(Self { user, niceness })
    }

    /// Looks the user up, and takes on the niceness. To be called before any thread is started.
    ///
    /// # Errors
    /// When there is no such user, or the niceness is not allowed.
    pub fn begin(&self) -> Result<Present<'_>, Failure> {
        if let Some(niceness) = self.niceness {
            privileges::set_niceness(niceness).map_err(|e| {
                Failure::new(
                    Exit::Permission,
                    format!("in --nice: {niceness} is refused: {e}; below 0 only root may go"),
                )
            })?;
        }
        let account = self.user.as_deref().map(Account::find).transpose().map_err(|e| failure(&e))?;
        account.iter().for_each(privileges::expect_change);
        Ok(Present { identity: self, account })
    }
}

/// The user who will be, while the program is still as it was started.
#[derive(Debug)]
pub struct Present<'a> {
    identity: &'a Identity,
    account: Option<Account>,
}

impl Present<'_> {
    /// Whether there will be another user.
    pub fn will_change(&self) -> bool {
        self.account.is_some()
    }

    /// Whether the one who will be may make a new file in the place of this one.
    pub fn may_replace(&self, file: &Path) -> bool {
        self.account.as_ref().is_none_or(|account| account.may_replace(file))
    }

    /// Everything is open: hands the files over to the user that is wanted, becomes them, and drops every capability that is
    /// not needed any more. Threads that are started from now on have what is left.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn settle(self, needs: &Needs) -> Result<(), Failure> {
        if let Some(account) = &self.account {
            hand_over(account, &needs.files);
            needs.sockets.iter().for_each(|socket| own(account, socket));
        }
        let reduction = Reduction {
            account: self.account.as_ref(),
            keep: &needs.capabilities,
            for_children: needs.for_children,
            files: &needs.files,
        };
        let kept = privileges::reduce(&reduction).map_err(|e| failure(&e))?;
        let names: Vec<&str> = kept.iter().map(|capability| capability.name()).collect();
        let kept = if names.is_empty() { "no capability".to_owned() } else { names.join(" and ") };
        match &self.identity.user {
            Some(user) => log::info!("running as user {user} with {kept}"),
            None => log::info!("running with {kept}; all others are dropped"),
        }
        Ok(())
    }
}

fn own(account: &Account, file: &Path) {
    if let Err(e) = account.own(file) {
        log::warn!("{} cannot be given to user {}: {e}", file.display(), account.name);
    }
}

fn hand_over(account: &Account, files: &[PathBuf]) {
    for file in files {
        if file.exists() {
            own(account, file);
        }
        if !account.may_replace(file) {
            log::warn!(
                "user {} may not write to the folder of {}: the file can be neither made anew, after log rotation for \
                 instance, nor removed at the end; keep it in a folder of that user",
                account.name,
                file.display()
            );
        }
    }
}

fn failure(e: &PrivilegeError) -> Failure {
    let exit = match e {
        PrivilegeError::NoUser(_) | PrivilegeError::NoGroup(_) => Exit::Usage,
        PrivilegeError::NotAllowed { .. } => Exit::Permission,
        PrivilegeError::Refused { .. } => Exit::Failure,
    };
    Failure::new(exit, format!("in --user: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_name_and_a_niceness_has_its_range() {
        assert!(Identity::check(Some("tcpcopy:adm".into()), Some(-20)).is_ok());
        for user in ["", ":", "a:", ":b", "a:b:c"] {
            let message = Identity::check(Some(user.into()), None).unwrap_err().message;
            assert!(message.contains("--user tcpcopy"), "{message}");
        }
        assert!(Identity::check(None, Some(20)).unwrap_err().message.contains("-20 to 19"));
    }

    #[test]
    fn an_unknown_user_is_wrong_usage_with_a_remedy() {
        let identity = Identity::check(Some("no-such-user-here".into()), None).unwrap();
        let failure = identity.begin().unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.starts_with("in --user: ") && failure.message.contains("useradd"), "{failure}");
    }
}
