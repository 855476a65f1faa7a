//! `tcpcopy modules`: what there is of protocol modules.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use super::{BuiltIn, Catalogue, Found};
use crate::exit::{self, Exit, Failure};
use crate::tcpcopy::report::one_line;

/// Lists the protocol modules that -x and --proto can name: their versions, what they do, which options they take, and
/// where they come from; and the files that look like modules and cannot be used.
#[derive(Clone, Debug, Parser)]
#[command(name = "tcpcopy modules")]
pub struct Arguments {
    /// Folder with modules, looked through before the standard ones; may be given several times
    #[arg(long, value_name = "DIR")]
    module_dir: Vec<PathBuf>,
}

/// Runs the command; `words` begin with its name.
pub fn run(words: impl IntoIterator<Item = OsString>, built_in: BuiltIn) -> ExitCode {
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    match carry_out(&arguments, built_in) {
        Ok(text) => {
            // A reader that has gone away, such as `head`, is no reason to fail.
            let _ = io::stdout().write_all(text.as_bytes());
            Exit::Done.into()
        }
        Err(failure) => {
            exit::say(&format!("tcpcopy modules: {failure}"));
            failure.exit.into()
        }
    }
}

fn carry_out(arguments: &Arguments, built_in: BuiltIn) -> Result<String, Failure> {
    Ok(listing(&Catalogue::new(built_in, &arguments.module_dir)?))
}

/// What there is, in lines.
fn listing(catalogue: &Catalogue) -> String {
    let (found, refused) = catalogue.list();
    let mut text = String::new();
    for (i, module) in found.iter().enumerate() {
        if let Err(fmt_error) = describe(&mut text, module, &found[..i], catalogue.default_name()) {
            unreachable!("a string takes all: {fmt_error}");
        }
    }
    if !refused.is_empty() {
        text.push_str("\nrefused:\n");
        for error in refused {
            text.push_str("  ");
            text.push_str(&one_line(&error.to_string()));
            text.push('\n');
        }
    }
    text
}

fn describe(text: &mut String, module: &Found, earlier: &[Found], default: &str) -> std::fmt::Result {
    let about = module.about();
    write!(text, "{} {}, {}, {}", about.name, one_line(about.version), about.transport, module.origin())?;
    let hidden_by = earlier.iter().find(|other| other.about().name == about.name);
    match hidden_by {
        Some(other) => write!(text, " (by its path only: the name means the one before, {})", other.origin())?,
        None if about.name == default => write!(text, " (the default)")?,
        None => {}
    }
    writeln!(text, "\n    {}", one_line(about.summary))?;
    let names: Vec<String> = about.options.iter().map(|option| format!("{}={}", option.name, option.value)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    for (name, option) in names.iter().zip(about.options) {
        writeln!(text, "    --proto-opt {:<width$}  {}", one_line(name), one_line(option.help))?;
    }
    Ok(())
}
