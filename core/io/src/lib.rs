//! Everything that touches the operating system: capture, transmission, control-link sockets, modules in shared
//! libraries, the process itself, sockets in the file system, clocks.
//! The only home of `unsafe` in the programs.

pub mod capture;
pub mod clock;
pub mod control;
mod device;
pub mod echo;
pub mod firewall;
pub mod host;
pub mod local;
pub mod modules;
pub mod netns;
pub mod nfqueue;
pub mod notify;
pub mod privileges;
pub mod process;
pub mod socket;
pub mod transmit;
pub mod usage;
