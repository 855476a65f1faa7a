//! The commands `top`, `status`, `pause`, `resume` and `set`, which speak with a program that runs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::client::{Choice, find};
use super::protocol::{Command as Order, InForce};
use super::{text, top};
use crate::exit::{self, Failure};

/// Commands for a program that runs.
#[derive(Clone, Debug, Parser)]
#[command(disable_help_subcommand = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Shows a running copy in the terminal, as it goes. `q` leaves, the copy goes on; `p` pauses and resumes it
    Top {
        #[command(flatten)]
        which: Which,
    },
    /// Says once what a running program does: what it copies, counters, drops by reason, maps, workers, links
    Status {
        #[command(flatten)]
        which: Which,
        /// All of it, as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Relieves the target: its sessions are closed at once, and none begin until `resume`. What is captured meanwhile is
    /// counted and left out
    Pause {
        #[command(flatten)]
        which: Which,
        /// Say what is in force now as a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Copies again, after `pause`: what begins, and what goes on from where it is
    Resume {
        #[command(flatten)]
        which: Which,
        /// Say what is in force now as a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Gives options of a running program other values, and says what is in force then. Of tcpcopy: rate=20% (as -r, of what
    /// begins from now on), max-rate=1000 or none, log-level=debug, stats-interval=60. Of intercept: log-level,
    /// stats-interval. All are set, or none where one is wrong
    Set {
        /// What to change; without it nothing is
        #[arg(value_name = "KEY=VALUE")]
        settings: Vec<String>,
        #[command(flatten)]
        which: Which,
        /// Say what is in force now as a JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Which running program is meant. Where only one runs, none need be named.
#[derive(Clone, Debug, Default, Args)]
struct Which {
    /// The one that was started with this --socket
    #[arg(long, value_name = "FILE", conflicts_with = "pid")]
    socket: Option<PathBuf>,
    /// The one with this process id
    #[arg(long, value_name = "ID")]
    pid: Option<u32>,
}

impl From<Which> for Choice {
    fn from(which: Which) -> Self {
        Self { socket: which.socket, process: which.pid }
    }
}

/// One of these commands, as clap sees it.
pub fn one(program: &'static str, name: &str) -> clap::Command {
    let full_name = format!("{program} {name}");
    definition(program).find_subcommand(name).cloned().unwrap_or_default().name(full_name.clone()).bin_name(full_name)
}

/// The commands of a program, as clap sees them.
pub fn definition(program: &'static str) -> clap::Command {
    let all = Arguments::command().name(program).bin_name(program);
    // What intercept relays is the copy's, which is watched and steered at the other end.
    let of_copy = |name: &str| ["top", "pause", "resume"].contains(&name);
    if program == "tcpcopy" {
        return all;
    }
    let kept: Vec<clap::Command> =
        all.get_subcommands().filter(|command| !of_copy(command.get_name())).cloned().collect();
    clap::Command::new(program)
        .bin_name(program)
        .about("Commands for a program that runs")
        .disable_help_subcommand(true)
        .subcommand_required(true)
        .subcommands(kept)
}

/// Runs a command; `words` begin with its name.
pub fn run(program: &'static str, words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words = std::iter::once(OsString::from(program)).chain(words);
    let parsed =
        definition(program).try_get_matches_from(words).and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(error) => return exit::parsed(program, &error),
    };
    exit::answer(program, carry_out(program, arguments.command))
}

fn carry_out(program: &str, command: Command) -> Result<String, Failure> {
    let order = |which: Which, order, json| {
        let in_force = find(program, &which.into())?.order(order)?;
        Ok(if json { as_json(&in_force) } else { in_words(&in_force) })
    };
    match command {
        Command::Top { which } => top::run(find(program, &which.into())?).map(|()| String::new()),
        Command::Status { which, json } => {
            let status = find(program, &which.into())?.status()?;
            Ok(if json { as_json(&status) } else { text::status(&status) })
        }
        Command::Pause { which, json } => order(which, Order::Pause, json),
        Command::Resume { which, json } => order(which, Order::Resume, json),
        Command::Set { settings, which, json } => order(which, Order::Set { settings: pairs(&settings)? }, json),
    }
}

fn pairs(words: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut pairs = BTreeMap::new();
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            return Err(Failure::usage(format!("`{word}` is not of the form KEY=VALUE, such as rate=20%")));
        };
        if pairs.insert(key.trim().to_owned(), value.trim().to_owned()).is_some() {
            return Err(Failure::usage(format!("`{key}` is given twice")));
        }
    }
    Ok(pairs)
}

fn as_json(object: &impl serde::Serialize) -> String {
    // Maps with text as keys, and numbers: there is nothing in it that JSON cannot say.
    serde_json::to_string_pretty(object).unwrap_or_default() + "\n"
}

fn in_words(in_force: &InForce) -> String {
    let mut text = String::from(if in_force.paused { "paused\n" } else { "running\n" });
    for (key, value) in &in_force.settings {
        text += &crate::logging::one_line(&format!("{key}={value}"));
        text.push('\n');
    }
    text
}

#[cfg(test)]
pub(crate) fn check_words(program: &'static str, words: &[String]) -> Result<(), String> {
    let matches = definition(program).try_get_matches_from(words).map_err(|e| e.to_string())?;
    let Arguments { command } = Arguments::from_arg_matches(&matches).map_err(|e| e.to_string())?;
    match command {
        Command::Set { settings, .. } => pairs(&settings).map(drop).map_err(|failure| failure.message),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(program: &'static str, line: &str) -> Result<(), String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        check_words(program, &words)
    }

    #[test]
    fn intercept_has_no_copy_to_pause() {
        for word in ["top", "status", "pause", "resume", "set"] {
            assert_eq!(one("tcpcopy", word).get_name(), format!("tcpcopy {word}"));
            assert_eq!(
                check("intercept", &format!("intercept {word}")).is_ok(),
                ["status", "set"].contains(&word),
                "{word}"
            );
        }
    }

    #[test]
    fn a_command_says_which_program_it_means_in_one_way() {
        for line in [
            "tcpcopy top --pid 7",
            "tcpcopy status --json --socket /run/a.sock",
            "tcpcopy set rate=20% max-rate=none",
            "tcpcopy set --pid 7",
            "tcpcopy pause",
        ] {
            assert_eq!(check("tcpcopy", line), Ok(()), "{line}");
        }
        for line in
            ["tcpcopy status --pid 7 --socket a", "tcpcopy set rate", "tcpcopy set rate=1 rate=2", "tcpcopy pause 5"]
        {
            assert!(check("tcpcopy", line).is_err(), "{line}");
        }
        assert!(check("intercept", "intercept pause").is_err());
    }

    #[test]
    fn the_definitions_are_sound() {
        definition("tcpcopy").debug_assert();
        definition("intercept").debug_assert();
    }
}
