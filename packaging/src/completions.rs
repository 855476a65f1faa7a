//! Completions for bash, zsh and fish.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ValueHint};
use clap_complete::{Shell, generate};

use crate::Program;

/// The scripts of a program: the file that the shell looks for, in a folder of the shell's name, and its text.
pub fn scripts(program: &Program) -> Vec<(String, String)> {
    let name = program.name;
    [
        (Shell::Bash, format!("completions/bash/{name}")),
        (Shell::Zsh, format!("completions/zsh/_{name}")),
        (Shell::Fish, format!("completions/fish/{name}.fish")),
    ]
    .into_iter()
    .map(|(shell, file)| {
        let mut text = Vec::new();
        let whole = match shell {
            Shell::Zsh => escaped(whole(program)),
            _ => whole(program),
        };
        generate(shell, &mut whole.clone(), name, &mut text);
        (file, String::from_utf8_lossy(&text).into_owned())
    })
    .collect()
}

/// The program with its commands, as one definition; the programs themselves look at the first word before clap does.
fn whole(program: &Program) -> clap::Command {
    let names: Vec<&str> = program.commands.iter().map(|command| command.name).collect();
    let help = clap::Command::new("help").about("Lists the commands, or explains one");
    let help = help.arg(Arg::new("command").value_parser(PossibleValuesParser::new(names)));
    let definition = program.definition.clone().after_help("").disable_help_subcommand(true).subcommand(help);
    let commands =
        program.commands.iter().map(|command| command.definition.clone().name(command.name).about(command.about));
    hinted(definition.subcommands(commands))
}

/// What the names of values say about them: files, folders, and the few words that are possible.
fn hinted(command: clap::Command) -> clap::Command {
    command.mut_args(hint).mut_subcommands(hinted)
}

/// Colons in the names of values, which would end them in what zsh reads.
fn escaped(command: clap::Command) -> clap::Command {
    let escape = |arg: Arg| match value_name(&arg) {
        Some(name) if name.contains(':') => arg.value_name(kept(name.replace(':', "\\:"))),
        _ => arg,
    };
    command.mut_args(escape).mut_subcommands(escaped)
}

fn value_name(arg: &Arg) -> Option<String> {
    arg.get_value_names().filter(|_| arg.get_action().takes_values())?.first().map(ToString::to_string)
}

/// Words that live as long as the program, as definitions take only. This one ends soon.
fn kept(text: String) -> &'static str {
    text.leak()
}

fn hint(arg: Arg) -> Arg {
    // A line of a list of options has room for a sentence.
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let first = help.split(". ").next().unwrap_or_default().trim_end_matches('.').to_owned();
    let arg = arg.help(first);
    let Some(name) = value_name(&arg).map(kept) else { return arg };
    let is_word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    if name.contains('|') && name.split('|').all(is_word) {
        return arg.value_parser(PossibleValuesParser::new(name.split('|')));
    }
    match name {
        "DIR" => arg.value_hint(ValueHint::DirPath),
        "LEVEL" => arg.value_parser(["error", "warn", "info", "debug"]),
        _ if name.contains("FILE") => arg.value_hint(ValueHint::FilePath),
        _ => arg.value_hint(ValueHint::Other),
    }
}
