//! The table: rows are printed as they come.

use crate::workloads::Workload;

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
    /// Whether it is what was to be reached.
    pub(crate) reached: bool,
}

pub(crate) fn print_head() {
    println!(
        "{:<3} {:<43} {:<25} {:<30} {:<42} {:<22} reached",
        "#", "workload", "C programs", "to reach", "ours", "CPU us/request (t + i)"
    );
}

pub(crate) fn print_row(workload: &Workload, row: &Row) {
    let name = format!("{}{}", workload.name, row.variant);
    let cpu = row.cpu.map_or(String::new(), |(tcpcopy, intercept)| {
        format!("{:.1} ({tcpcopy:.1} + {intercept:.1})", tcpcopy + intercept)
    });
    println!(
        "{:<3} {name:<43} {:<25} {:<30} {:<42} {cpu:<22} {}",
        workload.number,
        row.before.unwrap_or(workload.before),
        workload.goal,
        row.ours,
        if row.reached { "yes" } else { "NO" }
    );
}
