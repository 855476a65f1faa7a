//! `tcpcopy modules`: what there is of protocol modules, and a new one.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use super::scaffold::{self, Source};
use super::{BuiltIn, Catalogue, Found};
use crate::exit::{self, Failure};
use crate::logging::one_line;

/// Lists the protocol modules that -x and --proto can name: their versions, what they do, which options they take, and
/// where they come from; and the files that look like modules and cannot be used.
#[derive(Clone, Debug, Parser)]
#[command(name = "tcpcopy modules", bin_name = "tcpcopy modules", args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// Folder with modules, looked through before the standard ones; may be given several times
    #[arg(long, value_name = "DIR")]
    module_dir: Vec<PathBuf>,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Writes a new module to begin with: a crate that builds, passes its tests, and can be loaded
    New(New),
}

#[derive(Clone, Debug, Args)]
struct New {
    /// The module's name: small letters, digits, `-` and `_`, a letter first
    name: String,
    /// The folder to write it into, which must not hold anything [default: tcpcopy-NAME]
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Folder with tcpcopy's source, whose crates the module uses [default: the one that DIR is in, otherwise the public
    /// repository]
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,
}

/// Runs the command; `words` begin with its name.
pub fn run(words: impl IntoIterator<Item = OsString>, built_in: BuiltIn) -> ExitCode {
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => return exit::parsed("tcpcopy modules", &error),
    };
    exit::answer("tcpcopy modules", carry_out(&arguments, built_in))
}

fn carry_out(arguments: &Arguments, built_in: BuiltIn) -> Result<String, Failure> {
    match &arguments.command {
        None => Ok(listing(&Catalogue::new(built_in, &arguments.module_dir)?)),
        Some(Command::New(new)) => begin(new),
    }
}

/// Writes a new module, and says what to do with it.
fn begin(new: &New) -> Result<String, Failure> {
    let name = &new.name;
    scaffold::check_name(name)?;
    let folder = new.folder.clone().unwrap_or_else(|| PathBuf::from(format!("tcpcopy-{name}")));
    let absolute = std::path::absolute(&folder)
        .map_err(|e| Failure::usage(format!("`{}` cannot be a folder: {e}", folder.display())))?;
    let source = match &new.source {
        Some(source) => Source::in_folder(source)?,
        None => Source::around(&absolute),
    };
    scaffold::write(name, &absolute, &source)?;
    let crates = match source {
        Source::Folder(source) => source.display().to_string(),
        Source::Repository => env!("CARGO_PKG_REPOSITORY").to_owned(),
    };
    Ok(format!(
        "module `{name}` is in {folder}; it uses tcpcopy's crates from {crates}\n\n  \
         cd {folder}\n  \
         cargo test\n  \
         cargo build --release\n  \
         tcpcopy modules --module-dir target/release\n\n\
         README.md there says where to begin.\n",
        folder = folder.display()
    ))
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
