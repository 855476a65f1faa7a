//! The workloads, measured.

fn main() {}
