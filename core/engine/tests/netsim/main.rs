//! The engine on the virtual network of `tcpcopy-netsim`.
//!
//! Clients ask, online and the target answer by count of bytes; [`outcome`] judges each run.
//!
//! A failure prints the case's name. `NETSIM_CASE=<name> cargo test -p tcpcopy-engine --test netsim` runs that case alone
//! and writes every packet to standard error. `NETSIM_ROUNDS=<n>` runs each case with n seeds instead of one.

mod apps;
mod case;
mod matrix;
mod outcome;
mod run;
