//! What the first word of a command line means: a command out of a table, or an option of the program's main work.
//!
//! A new command is one row in [`TCPCOPY`] or [`INTERCEPT`]: help, man pages and completions follow from it.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use clap::CommandFactory;

use crate::doctor::command as doctor;
use crate::exit::{self, Exit};
use crate::grammar::is_dash;
use crate::live::command as live;
use crate::tcpcopy::modules::{BuiltIn, command as modules};
use crate::tcpcopy::recording::command as report;
use crate::{demo, intercept, tcpcopy};

/// A command: what a program does in the place of its main work when this is its first word.
pub struct Command<Context = ()> {
    /// The word.
    pub name: &'static str,
    /// One line about it, for the program's help.
    pub about: &'static str,
    /// Runs it, with the words of the command line from the command's name on.
    pub run: fn(Vec<OsString>, Context) -> ExitCode,
    /// Its options, for help, man page and completions.
    pub definition: fn() -> clap::Command,
}

/// The commands of tcpcopy.
#[rustfmt::skip]
pub const TCPCOPY: &[Command<BuiltIn>] = &[
    Command { name: "demo", about: "shows a copy at work on this one machine", run: |words, _| demo::run(words), definition: demo::Options::command },
    Command { name: "doctor", about: "says what keeps a copy from working; takes the copy's options", run: doctor::of_tcpcopy, definition: doctor::OfTcpcopy::command },
    Command { name: "modules", about: "lists the protocol modules; modules new NAME writes one to begin with", run: modules::run, definition: modules::Arguments::command },
    Command { name: "pause", about: "relieves the target of a running copy", run: |words, _| live::run("tcpcopy", words), definition: || live::one("tcpcopy", "pause") },
    Command { name: "report", about: "makes a page of what --stats-file has written", run: |words, _| report::run(words), definition: report::Arguments::command },
    Command { name: "resume", about: "goes on after pause", run: |words, _| live::run("tcpcopy", words), definition: || live::one("tcpcopy", "resume") },
    Command { name: "set", about: "changes a running copy: rate, max-rate, log-level, stats-interval", run: |words, _| live::run("tcpcopy", words), definition: || live::one("tcpcopy", "set") },
    Command { name: "status", about: "says once what a running copy does", run: |words, _| live::run("tcpcopy", words), definition: || live::one("tcpcopy", "status") },
    Command { name: "top", about: "shows a running copy in the terminal, as it goes", run: |words, _| live::run("tcpcopy", words), definition: || live::one("tcpcopy", "top") },
];

/// The commands of intercept.
#[rustfmt::skip]
pub const INTERCEPT: &[Command] = &[
    Command { name: "doctor", about: "says what keeps answers from intercept; takes its options", run: |words, ()| doctor::of_intercept(words), definition: doctor::OfIntercept::command },
    Command { name: "set", about: "changes a running intercept: log-level, stats-interval", run: |words, ()| live::run("intercept", words), definition: || live::one("intercept", "set") },
    Command { name: "status", about: "says once what a running intercept does", run: |words, ()| live::run("intercept", words), definition: || live::one("intercept", "status") },
];

/// Runs tcpcopy, with the words of its command line and these modules.
pub fn main(built_in: BuiltIn) -> ExitCode {
    let words = std::env::args_os().collect::<Vec<_>>();
    if let Some(chosen) = choose("tcpcopy", &words, TCPCOPY) {
        return chosen.carry_out(words, built_in);
    }
    // What is not UTF-8 is no option of ours; the message shows it with replacement characters.
    tcpcopy::main(words.into_iter().map(|word| word.to_string_lossy().into_owned()), built_in)
}

/// Runs intercept, with the words of its command line.
pub fn intercept() -> ExitCode {
    let words = std::env::args_os().collect::<Vec<_>>();
    match choose("intercept", &words, INTERCEPT) {
        Some(chosen) => chosen.carry_out(words, ()),
        None => intercept::main(words),
    }
}

/// What the first word asks for, if not the program's main work.
enum Chosen<'a, Context> {
    Run(&'a Command<Context>),
    Help(String),
    Unknown(String),
}

impl<Context> Chosen<'_, Context> {
    fn carry_out(self, mut words: Vec<OsString>, context: Context) -> ExitCode {
        match self {
            Self::Run(command) => (command.run)(words.split_off(1), context),
            Self::Help(text) => {
                // A reader that has gone away, such as `head`, is no reason to fail.
                let _ = std::io::stdout().write_all(text.as_bytes());
                Exit::Done.into()
            }
            Self::Unknown(text) => {
                exit::say(&text);
                Exit::Usage.into()
            }
        }
    }
}

/// Looks at the first word; `words` begin with the program's name. No option begins without a dash, so that any other word
/// must be a command. `help` is one, with or without the name of another behind it.
fn choose<'a, C>(program: &str, words: &[OsString], commands: &'a [Command<C>]) -> Option<Chosen<'a, C>> {
    let word = words.get(1)?.to_string_lossy();
    // Of the dashes of web pages, too.
    if word.is_empty() || word.starts_with(|c| c == '-' || is_dash(c)) {
        return None;
    }
    let find = |name: &str| commands.iter().find(|command| command.name == name);
    if let Some(command) = find(&word) {
        return Some(Chosen::Run(command));
    }
    let unknown = |name: &str| {
        Chosen::Unknown(format!(
            "{program}: there is no command `{name}`. There are:\n\n{}\n{program} -h lists the options of {program} itself.",
            list(program, commands)
        ))
    };
    if word != "help" {
        return Some(unknown(&word));
    }
    Some(match words.get(2).map(|name| name.to_string_lossy()).filter(|name| name != "help") {
        None => Chosen::Help(format!(
            "Commands:\n\n{}\nEach explains itself: {program} help COMMAND.\n{program} -h lists the options of {program} itself.\n",
            list(program, commands)
        )),
        Some(name) => match find(&name) {
            Some(command) => Chosen::Help((command.definition)().render_long_help().to_string()),
            None => unknown(&name),
        },
    })
}

/// The commands of a program, a line each, `help` behind them.
pub fn list<C>(program: &str, commands: &[Command<C>]) -> String {
    let width = commands.iter().map(|command| command.name.len()).max().unwrap_or(0).max("help".len());
    let help = ("help", "this list; help COMMAND explains one");
    let rows = commands.iter().map(|command| (command.name, command.about)).chain([help]);
    rows.fold(String::new(), |mut text, (name, about)| {
        // A string takes all.
        let _ = writeln!(text, "  {program} {name:<width$}  {about}");
        text
    })
}

#[cfg(test)]
mod tests;
