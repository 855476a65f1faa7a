//! What users tell the module.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use regex::bytes::{Regex, RegexBuilder};
use tcpcopy_module_api::{OptionSpec, Options};

use crate::auth::Password;
use crate::text::Statement;

/// Most memory for a pattern, in bytes.
const PATTERN_LIMIT: usize = 1 << 20;

/// The options of the module.
pub(crate) const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "user",
        value: "USER@PASSWORD[,USER@PASSWORD...]|@FILE",
        help: "passwords of users on the target; a file has one USER@PASSWORD in each line",
    },
    OptionSpec {
        name: "account",
        value: "USER@PASSWORD",
        help: "more of them, one in each line, whose passwords may have commas in them",
    },
    OptionSpec {
        name: "unknown-user",
        value: "refuse|empty",
        help: "a user without a password here: its sessions are not copied, or logged in with an empty password [refuse]",
    },
    OptionSpec {
        name: "skip-grant-tables",
        value: "yes|no",
        help: "the target runs with --skip-grant-tables and checks no passwords [no]",
    },
    OptionSpec {
        name: "default-db",
        value: "NAME",
        help: "the database of sessions that were open already, which are logged in as the first user",
    },
    OptionSpec {
        name: "only",
        value: "reads|PATTERN",
        help: "copy statements that only read, or whose text matches a regular expression, and leave the rest out",
    },
    OptionSpec { name: "skip", value: "PATTERN", help: "leave statements out whose text matches a regular expression" },
    OptionSpec {
        name: "slow",
        value: "MILLISECONDS",
        help: "count statements that take the target longer than this [1000]",
    },
    OptionSpec {
        name: "log",
        value: "FILE",
        help: "write each statement with its response times to this file, as JSON, one a line",
    },
];

/// What becomes of users without a password here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnknownUser {
    Refuse,
    Empty,
}

/// Which statements are copied.
#[derive(Clone, Debug)]
enum Only {
    All,
    Reads,
    Matching(Regex),
}

/// The options, read.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    users: HashMap<Vec<u8>, Password>,
    /// The one named first.
    pub(crate) first_user: Option<Vec<u8>>,
    pub(crate) unknown_user: UnknownUser,
    pub(crate) skip_grant_tables: bool,
    pub(crate) default_db: Option<String>,
    only: Only,
    skip: Option<Regex>,
    pub(crate) slow: Duration,
    pub(crate) log: Option<String>,
}

impl Settings {
    pub(crate) fn read(options: &Options) -> Result<Self, String> {
        let mut settings = Self {
            users: HashMap::new(),
            first_user: None,
            unknown_user: UnknownUser::Refuse,
            skip_grant_tables: false,
            default_db: options.get("default-db").map(str::to_owned),
            only: Only::All,
            skip: None,
            slow: Duration::from_millis(options.parse("slow")?.unwrap_or(1_000)),
            log: options.get("log").map(str::to_owned),
        };
        for (name, value) in options.iter() {
            match name {
                "user" => settings.add_users(value)?,
                "account" => value.lines().try_for_each(|line| settings.add_user(line.trim(), "account"))?,
                _ => {}
            }
        }
        settings.unknown_user = match options.get("unknown-user") {
            None | Some("refuse") => UnknownUser::Refuse,
            Some("empty") => UnknownUser::Empty,
            Some(other) => return Err(format!("option `unknown-user`: `{other}`: give `refuse` or `empty`")),
        };
        settings.skip_grant_tables = match options.get("skip-grant-tables") {
            None | Some("no" | "false") => false,
            Some("yes" | "true" | "") => true,
            Some(other) => return Err(format!("option `skip-grant-tables`: `{other}`: give `yes` or `no`")),
        };
        settings.only = match options.get("only") {
            None => Only::All,
            Some("reads") => Only::Reads,
            Some(text) => Only::Matching(pattern("only", text)?),
        };
        settings.skip = options.get("skip").map(|text| pattern("skip", text)).transpose()?;
        if settings.users.is_empty() && !settings.skip_grant_tables && settings.unknown_user == UnknownUser::Refuse {
            return Err("give users and their passwords on the target, as in `-u app@secret` or `-u @FILE`; or \
                        `--mysql-skip-grant-tables` where it checks none; or `--mysql-unknown-user empty`"
                .to_owned());
        }
        Ok(settings)
    }

    fn add_users(&mut self, value: &str) -> Result<(), String> {
        if let Some(path) = value.strip_prefix('@') {
            let text = fs::read_to_string(path).map_err(|e| format!("option `user`: cannot read `{path}`: {e}"))?;
            let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with('#'));
            for (number, line) in lines.enumerate() {
                // The line may hold a password, so it is not shown.
                self.add_user(line, "user")
                    .map_err(|_| format!("option `user`: in `{path}`, entry {} is not USER@PASSWORD", number + 1))?;
            }
            return Ok(());
        }
        value.split(',').try_for_each(|user| self.add_user(user, "user"))
    }

    fn add_user(&mut self, user: &str, option: &str) -> Result<(), String> {
        let (name, password) = user
            .split_once('@')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| format!("option `{option}`: give USER@PASSWORD; the password may be empty"))?;
        self.first_user.get_or_insert_with(|| name.as_bytes().to_vec());
        self.users.insert(name.as_bytes().to_vec(), Password::new(password.as_bytes()));
        Ok(())
    }

    /// The password of a user on the target. `None`: its sessions are not to be copied.
    pub(crate) fn password(&self, user: &[u8]) -> Option<Password> {
        if self.skip_grant_tables {
            return Some(Password::default());
        }
        let unknown = || (self.unknown_user == UnknownUser::Empty).then(Password::default);
        self.users.get(user).cloned().or_else(unknown)
    }

    /// Whether statements are looked at.
    pub(crate) fn selects(&self) -> bool {
        self.skip.is_some() || !matches!(self.only, Only::All)
    }

    /// Whether a statement is copied.
    pub(crate) fn takes(&self, statement: &Statement, text: &[u8]) -> bool {
        let wanted = match &self.only {
            Only::All => true,
            Only::Reads => statement.is_read,
            Only::Matching(pattern) => pattern.is_match(text),
        };
        wanted && !self.skip.as_ref().is_some_and(|pattern| pattern.is_match(text))
    }
}

fn pattern(option: &str, text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text)
        .case_insensitive(true)
        .dot_matches_new_line(true)
        .size_limit(PATTERN_LIMIT)
        .dfa_size_limit(PATTERN_LIMIT)
        .build()
        .map_err(|e| format!("option `{option}`: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::classify;

    fn settings(given: &[(&str, &str)]) -> Result<Settings, String> {
        Settings::read(&Options::new(given.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()))
    }

    #[test]
    fn users_are_split_at_the_first_at() {
        let s = settings(&[("user", "app@se@cret,report@"), ("account", "third@with,comma\nfourth@x")]).unwrap();
        for (user, password) in [("app", "se@cret"), ("report", ""), ("third", "with,comma"), ("fourth", "x")] {
            assert_eq!(s.password(user.as_bytes()), Some(Password::new(password.as_bytes())), "{user}");
        }
        assert_eq!((s.password(b"stranger"), s.first_user.as_deref()), (None, Some(&b"app"[..])));
        let s = settings(&[("unknown-user", "empty")]).unwrap();
        assert_eq!(s.password(b"stranger"), Some(Password::default()));
    }

    #[test]
    fn users_may_stand_in_a_file() {
        let path = std::env::temp_dir().join(format!("tcpcopy-mysql-users-{}", std::process::id()));
        fs::write(&path, "# on the target\napp@with,comma@and at\n\nreport@x\n").unwrap();
        let s = settings(&[("user", &format!("@{}", path.display()))]).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(s.password(b"app"), Some(Password::new(b"with,comma@and at")));
        assert_eq!(s.password(b"report"), Some(Password::new(b"x")));
        let error = settings(&[("user", "@/nowhere/users")]).unwrap_err();
        assert!(error.contains("cannot read `/nowhere/users`"), "{error}");
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name() {
        for (given, word) in [
            (vec![], "give users"),
            (vec![("user", "app")], "USER@PASSWORD"),
            (vec![("user", "a@b"), ("unknown-user", "maybe")], "unknown-user"),
            (vec![("skip-grant-tables", "perhaps")], "skip-grant-tables"),
            (vec![("user", "a@b"), ("only", "(")], "option `only`"),
            (vec![("user", "a@b"), ("skip", "x{100000}{100000}")], "option `skip`"),
            (vec![("user", "a@b"), ("slow", "soon")], "option `slow`"),
        ] {
            let error = settings(&given).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn statements_are_chosen() {
        let takes = |given: &[(&str, &str)], text: &str| {
            let mut given = given.to_vec();
            given.push(("user", "a@b"));
            settings(&given).unwrap().takes(&classify(text.as_bytes(), false), text.as_bytes())
        };
        assert!(takes(&[("only", "reads")], "SELECT 1") && !takes(&[("only", "reads")], "INSERT INTO t VALUES (1)"));
        assert!(
            takes(&[("only", "from orders")], "SELECT a\nFROM orders")
                && !takes(&[("only", "from orders")], "SELECT 1")
        );
        assert!(
            !takes(&[("skip", "^select .*sleep")], "SELECT 1,\nSLEEP(1)") && takes(&[("skip", "sleep")], "SELECT 1")
        );
    }
}
