//! `tcpcopy report`: a page from a statistics file.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::builder::Styles;

use super::file;
use super::recorder::write_page;
use crate::exit::{self, Failure};

/// Makes a page, to look at and to show to others, of what tcpcopy --stats-file has written. Of several runs in the file the
/// last one is shown.
#[derive(Debug, Parser)]
#[command(name = "tcpcopy report", bin_name = "tcpcopy report", styles = Styles::plain())]
pub struct Arguments {
    /// The file of --stats-file; tcpcopy may still be writing it.
    file: PathBuf,

    /// Where to write the page [default: FILE.html].
    #[arg(short = 'o', long, value_name = "PAGE")]
    output: Option<PathBuf>,
}

/// Runs the command; `words` begin with its name.
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(e) => return exit::parsed("tcpcopy report", &e),
    };
    exit::answer("tcpcopy report", make(&arguments))
}

fn make(arguments: &Arguments) -> Result<String, Failure> {
    let (history, runs) = file::read(&arguments.file)
        .map_err(|e| Failure::usage(format!("cannot use {}: {e}", arguments.file.display())))?;
    let output = arguments.output.clone().unwrap_or_else(|| {
        let mut name = arguments.file.clone().into_os_string();
        name.push(".html");
        name.into()
    });
    write_page(&output, &history).map_err(Failure::cannot(&format!("write {}", output.display())))?;
    let of = if runs > 1 { format!(", of the last of {runs} runs in the file") } else { String::new() };
    Ok(format!("the report is in {}{of}\n", output.display()))
}
