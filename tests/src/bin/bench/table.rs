//! The table: rows are printed as they come.

use clap::ValueEnum;

use crate::workloads::Workload;

/// How the table looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns, for a terminal.
    #[default]
    Text,
    /// A table of Markdown, as in docs/benchmarks.md.
    Markdown,
}

/// What one run of a workload gave.
pub(crate) struct Row {
    /// The run, when a workload has several.
    pub(crate) variant: String,
    /// What the C programs score in it, when that differs from the workload's.
    pub(crate) before: Option<&'static str>,
    /// What was measured.
    pub(crate) ours: String,
    /// Processor time a request of tcpcopy and of intercept, in microseconds.
    pub(crate) cpu: Option<(f64, f64)>,
    /// Whether it is what was to be reached; `None` where that is not judged.
    pub(crate) reached: Option<bool>,
}

/// The columns' titles.
pub(crate) const TITLES: [&str; 7] =
    ["#", "workload", "C programs", "to reach", "ours", "CPU us/request (t + i)", "reached"];

impl Format {
    pub(crate) fn print_head(self) {
        self.print(&TITLES.map(str::to_owned));
        if self == Self::Markdown {
            println!("|{}", "---|".repeat(TITLES.len()));
        }
    }

    pub(crate) fn print_row(self, workload: &Workload, row: &Row) {
        let cpu = row.cpu.map_or(String::new(), |(tcpcopy, intercept)| {
            format!("{:.1} ({tcpcopy:.1} + {intercept:.1})", tcpcopy + intercept)
        });
        self.print(&[
            workload.number.to_string(),
            format!("{}{}", workload.name, row.variant),
            row.before.unwrap_or(workload.before).to_owned(),
            workload.goal.to_owned(),
            row.ours.clone(),
            cpu,
            row.reached.map_or("-", |reached| if reached { "yes" } else { "NO" }).to_owned(),
        ]);
    }

    fn print(self, cells: &[String; 7]) {
        match self {
            Self::Markdown => println!("{}", markdown(cells)),
            Self::Text => {
                let [number, workload, before, goal, ours, cpu, reached] = cells;
                println!("{number:<3} {workload:<53} {before:<25} {goal:<30} {ours:<42} {cpu:<22} {reached}");
            }
        }
    }
}

/// A line of a table of Markdown.
pub(crate) fn markdown(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |", cells.join(" | ")).replace("|  |", "| |")
}
