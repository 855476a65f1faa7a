//! What packages have beside the two programs, made from the programs' own definitions of their options, so that it says
//! what they do: man pages, completions for shells, commented configuration files.

pub mod completions;
pub mod configuration;
pub mod man;
pub mod roff;

use clap::CommandFactory;
use serde::de::DeserializeOwned;
use tcpcopy::program::{Command, INTERCEPT, TCPCOPY};
use tcpcopy::{intercept, tcpcopy as copier};

/// A program, as packages see it.
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// The options of its main work.
    pub definition: clap::Command,
    /// What it does when its first word names one of these.
    pub commands: Vec<Subcommand>,
    /// What is wrong with a configuration file of this text, if anything.
    pub complaint: fn(&str) -> Option<String>,
}

/// A command of a program.
pub struct Subcommand {
    /// The word.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// Its options.
    pub definition: clap::Command,
}

impl Program {
    /// tcpcopy.
    pub fn tcpcopy() -> Self {
        Self {
            name: "tcpcopy",
            definition: copier::arguments::Arguments::command(),
            commands: rows(TCPCOPY),
            complaint: complaint::<copier::arguments::Arguments>,
        }
    }

    /// intercept.
    pub fn intercept() -> Self {
        Self {
            name: "intercept",
            definition: intercept::arguments::Arguments::command(),
            commands: rows(INTERCEPT),
            complaint: complaint::<intercept::arguments::Arguments>,
        }
    }

    /// Both.
    pub fn both() -> [Self; 2] {
        [Self::tcpcopy(), Self::intercept()]
    }
}

fn rows<C>(table: &[Command<C>]) -> Vec<Subcommand> {
    table.iter().map(|row| Subcommand { name: row.name, about: row.about, definition: (row.definition)() }).collect()
}

fn complaint<O: DeserializeOwned>(text: &str) -> Option<String> {
    toml::from_str::<O>(text).err().map(|error| error.to_string())
}
