//! The workloads, measured on the lab, beside what the C programs score and what is to be reached.
//!
//! Everything (client, both servers, both programs) shares the processors of one machine, so the absolute figures say
//! as much about the machine as about tcpcopy; the shares are what compares.

mod run;
mod table;
mod workloads;

use std::process::ExitCode;

use clap::Parser;
use tcpcopy_io::netns;
use tcpcopy_tests::programs;

/// Measures the workloads of a copy, on hosts made of network namespaces
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Options {
    /// The numbers of the workloads to measure; all without this
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    only: Vec<u8>,
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
    table::print_head();
    for workload in workloads::ALL {
        if options.only.is_empty() || options.only.contains(&workload.number) {
            for row in (workload.measure)(&programs) {
                table::print_row(workload, &row);
            }
        }
    }
    ExitCode::SUCCESS
}
