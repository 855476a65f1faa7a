//! `make install`, `make deb` and `make rpm`, into clean folder trees, and out of them again.

mod built;
mod debian;
mod install;
mod redhat;
