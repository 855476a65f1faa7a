//! The workloads, measured on the lab, beside what the C programs score and what is to be reached.
//!
//! Everything (client, both servers, both programs) shares the processors of one machine, so the absolute figures say
//! as much about the machine as about tcpcopy; the shares are what compares.

mod protocols;
mod run;
mod table;
mod workloads;

use std::process::ExitCode;

use clap::Parser;
use tcpcopy_io::netns;
use tcpcopy_tests::programs;

use crate::table::Format;

/// Measures the workloads of a copy, on hosts made of network namespaces
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Options {
    /// The numbers of the workloads to measure; all without this
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    only: Vec<u8>,
    /// How the table looks
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Err(error) = netns::prepare() {
        eprintln!("bench: {error}");
        return ExitCode::from(3);
    }
    netns::raise_open_file_limit();
    if let Some(program) = ["ip", "iptables", "nginx", "wrk"].iter().find(|program| !netns::has_program(program)) {
        eprintln!("bench: {program} is not installed; `make setup` does that");
        return ExitCode::FAILURE;
    }
    let unknown = options.only.iter().find(|number| !workloads::ALL.iter().any(|workload| workload.number == **number));
    if let Some(number) = unknown {
        eprintln!("bench: there is no workload {number}");
        return ExitCode::from(2);
    }
    let programs = programs::find();
    println!("{}\n", machine());
    options.format.print_head();
    for workload in workloads::ALL {
        if options.only.is_empty() || options.only.contains(&workload.number) {
            for row in (workload.measure)(&programs) {
                options.format.print_row(workload, &row);
            }
        }
    }
    ExitCode::SUCCESS
}

/// What is measured, and on what, in a line.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let profile = if cfg!(debug_assertions) { ", a build for debugging: times mean nothing" } else { "" };
    format!(
        "tcpcopy {}{profile}; Linux {}; {processors} processors, {}",
        env!("CARGO_PKG_VERSION"),
        read("/proc/sys/kernel/osrelease").trim(),
        model.trim_start_matches([' ', '\t', ':'])
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The document has a row for each workload, in the form in which this program prints them.
    #[test]
    fn the_document_has_every_workload() {
        let document = include_str!("../../../../docs/benchmarks.md");
        assert!(document.contains(&table::markdown(&table::TITLES.map(str::to_owned))), "the titles of the table");
        for workload in workloads::ALL {
            let begin = format!("| {} | {}", workload.number, workload.name);
            let row = document.lines().find(|line| line.starts_with(&begin));
            let row = row.unwrap_or_else(|| panic!("docs/benchmarks.md has no row `{begin}`"));
            let told = format!("| {} | {} |", workload.before, workload.goal);
            assert!(row.contains(&told), "in docs/benchmarks.md, row {}: not `{told}`", workload.number);
        }
    }
}
