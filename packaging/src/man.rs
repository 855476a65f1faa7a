//! Man pages: one of each program, with sections written by hand around its options, and one of each of its commands.

use std::fmt::Write as _;

use clap::Arg;

use crate::roff::{bold, folded, italic, plain, prose};
use crate::{Program, Subcommand};

/// When the parts that are written by hand last changed. Not today: pages of one source are always the same.
const DATE: &str = "2026-11-21";

/// A page of section 8.
pub struct Page {
    /// What it is looked up by.
    pub name: String,
    /// Its text, in man(7).
    pub text: String,
}

/// The pages of a program; its own first.
pub fn pages(program: &Program) -> Vec<Page> {
    let own = Page { name: program.name.to_owned(), text: own_page(program) };
    let commands = program.commands.iter().map(|command| Page {
        name: format!("{}-{}", program.name, command.name),
        text: command_page(program, command),
    });
    std::iter::once(own).chain(commands).collect()
}

/// The text that is written by hand, with a line for each thing that is not.
fn template(program: &str) -> &'static str {
    match program {
        "tcpcopy" => include_str!("../man/tcpcopy.8.in"),
        _ => include_str!("../man/intercept.8.in"),
    }
}

fn own_page(program: &Program) -> String {
    let mut page = title(program.name);
    let mut is_example = false;
    for line in template(program.name).lines() {
        is_example = line == ".EX" || is_example && line != ".EE";
        match line {
            "@SYNOPSIS@" => synopsis(&mut page, &mut program.definition.clone()),
            "@OPTIONS@" => options(&mut page, &program.definition),
            "@COMMANDS@" => commands(&mut page, program),
            "@COMMAND PAGES@" => {
                for command in &program.commands {
                    line_of(&mut page, &format!(".BR {}\\-{} (8),", plain(program.name), plain(command.name)));
                }
            }
            text if is_example || text.starts_with('.') => line_of(&mut page, text),
            text => line_of(&mut page, &folded(text)),
        }
    }
    page
}

fn command_page(program: &Program, command: &Subcommand) -> String {
    let name = format!("{}-{}", program.name, command.name);
    let mut page = title(&name);
    let mut definition = command.definition.clone();
    line_of(&mut page, ".SH NAME");
    // No full stop, and one dash: man's index is made from this line.
    line_of(&mut page, &format!("{} \\- {}", plain(&name), plain(command.about.split(';').next().unwrap_or_default())));
    line_of(&mut page, ".SH SYNOPSIS");
    synopsis(&mut page, &mut definition);
    for sub in definition.clone().get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
        line_of(&mut page, ".br");
        let usage = sub.clone().bin_name(format!("{} {} {}", program.name, command.name, sub.get_name()));
        synopsis(&mut page, &mut usage.clone());
    }
    line_of(&mut page, ".SH DESCRIPTION");
    paragraphs(&mut page, &definition);
    // Afterwards: only now has clap added the options that every command has.
    line_of(&mut page, ".SH OPTIONS");
    options(&mut page, &definition);
    for sub in definition.get_subcommands().filter(|sub| sub.get_name() != "help") {
        line_of(&mut page, &format!(".SS {} {}", plain(command.name), plain(sub.get_name())));
        paragraphs(&mut page, sub);
        options(&mut page, sub);
    }
    if let Some(after) = definition.get_after_help() {
        line_of(&mut page, ".SH NOTES");
        line_of(&mut page, ".nf");
        for line in after.to_string().lines() {
            line_of(&mut page, &prose(line));
        }
        line_of(&mut page, ".fi");
    }
    line_of(&mut page, ".SH SEE ALSO");
    line_of(&mut page, &format!(".BR {} (8)", plain(program.name)));
    page
}

fn line_of(page: &mut String, line: &str) {
    page.push_str(line);
    page.push('\n');
}

fn title(name: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(".TH {} 8 {DATE} \"tcpcopy {version}\" \"System Administration\"\n", plain(&name.to_uppercase()))
}

fn synopsis(page: &mut String, definition: &mut clap::Command) {
    let usage = definition.render_usage().to_string();
    let forms = usage.trim_start_matches("Usage:").lines().map(str::trim).filter(|form| !form.is_empty());
    for (number, form) in forms.enumerate() {
        if number > 0 {
            line_of(page, ".br");
        }
        let (name, rest) = form.split_once(' ').unwrap_or((form, ""));
        line_of(page, &format!("{} {}", bold(name), prose(rest)));
    }
}

fn paragraphs(page: &mut String, definition: &clap::Command) {
    let about = definition.get_long_about().or_else(|| definition.get_about());
    let text = about.map(ToString::to_string).unwrap_or_default();
    for (number, paragraph) in text.split("\n\n").enumerate() {
        if number > 0 {
            line_of(page, ".PP");
        }
        line_of(page, &sentence(&paragraph.replace('\n', " ")));
    }
}

/// Prose with a full stop, which clap takes from one that stands alone.
fn sentence(text: &str) -> String {
    let text = text.trim();
    let end = if text.is_empty() || text.ends_with(['.', ':', '!', '?']) { "" } else { "." };
    format!("{}{end}", prose(text))
}

fn commands(page: &mut String, program: &Program) {
    for command in &program.commands {
        line_of(page, ".TP");
        line_of(page, &format!("{} {}", bold(program.name), bold(command.name)));
        line_of(page, &format!("{} See", sentence(command.about)));
        line_of(page, &format!(".BR {}\\-{} (8).", plain(program.name), plain(command.name)));
    }
    line_of(page, ".TP");
    line_of(page, &format!("{} {} [{}]", bold(program.name), bold("help"), italic("COMMAND")));
    line_of(page, "Lists the commands, or explains one.");
}

/// Options in the order and under the headings of the help.
fn options(page: &mut String, definition: &clap::Command) {
    let mut built = definition.clone();
    built.build();
    let mut headings: Vec<Option<&str>> = Vec::new();
    let shown: Vec<&Arg> = built.get_arguments().filter(|arg| !arg.is_hide_set()).collect();
    for arg in &shown {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    for heading in headings {
        if let Some(heading) = heading {
            line_of(page, &format!(".SS {}", plain(heading)));
        }
        for arg in shown.iter().filter(|arg| arg.get_help_heading() == heading) {
            option(page, arg);
        }
    }
}

fn option(page: &mut String, arg: &Arg) {
    let values = arg.get_value_names().filter(|_| arg.get_num_args().is_some_and(|number| number.takes_values()));
    let values = values.map(|names| names.iter().map(|name| italic(name)).collect::<Vec<_>>().join(" "));
    let mut names: Vec<String> = Vec::new();
    names.extend(arg.get_short().map(|short| bold(&format!("-{short}"))));
    names.extend(arg.get_long().map(|long| bold(&format!("--{long}"))));
    names.extend(arg.get_visible_aliases().into_iter().flatten().map(|alias| bold(&format!("--{alias}"))));
    let mut head = names.join(", ");
    if let Some(values) = values {
        if !head.is_empty() {
            head.push(' ');
        }
        head.push_str(&values);
    }
    let mut text = String::new();
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    for (number, paragraph) in help.split("\n\n").enumerate() {
        let between = if number > 0 { ".IP\n" } else { "" };
        // A string takes all.
        let _ = writeln!(text, "{between}{}", sentence(&paragraph.replace('\n', " ")));
    }
    let defaults: Vec<String> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    if !defaults.is_empty() && arg.get_num_args().is_some_and(|number| number.takes_values()) {
        let _ = writeln!(text, "The default is {}.", plain(&defaults.join(",")));
    }
    line_of(page, ".TP");
    line_of(page, &head);
    page.push_str(&text);
}
