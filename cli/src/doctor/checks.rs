//! The checks, by name.

use super::finding::{Finding, Outcome};

/// What is checked, besides the probe. docs/doctor.md has a row for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    Options,
    Capabilities,
    Device,
    Memory,
    Traffic,
    Route,
    NextHop,
    Mtu,
    Sources,
    Cloud,
    Conntrack,
    Kernel,
    Firewall,
    Queue,
    Port,
    Intercept,
    Version,
    Clock,
    InterceptFilter,
    InterceptHost,
}

impl Check {
    /// All of them, in the order in which they are made.
    #[cfg(test)]
    pub(super) const ALL: [Self; 20] = [
        Self::Options,
        Self::Capabilities,
        Self::Device,
        Self::Memory,
        Self::Traffic,
        Self::Route,
        Self::NextHop,
        Self::Mtu,
        Self::Sources,
        Self::Cloud,
        Self::Conntrack,
        Self::Kernel,
        Self::Firewall,
        Self::Queue,
        Self::Port,
        Self::Intercept,
        Self::Version,
        Self::Clock,
        Self::InterceptFilter,
        Self::InterceptHost,
    ];

    /// Its name, which stays the same in all releases.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Options => "options",
            Self::Capabilities => "capabilities",
            Self::Device => "device",
            Self::Memory => "memory",
            Self::Traffic => "traffic",
            Self::Route => "route to target",
            Self::NextHop => "next hop",
            Self::Mtu => "MTU",
            Self::Sources => "source addresses",
            Self::Cloud => "cloud",
            Self::Conntrack => "connection tracking",
            Self::Kernel => "kernel settings",
            Self::Firewall => "firewall",
            Self::Queue => "queue",
            Self::Port => "port",
            Self::Intercept => "intercept",
            Self::Version => "intercept's version",
            Self::Clock => "intercept's clock",
            Self::InterceptFilter => "intercept's filter",
            Self::InterceptHost => "intercept's host",
        }
    }

    /// Nothing is in the way.
    pub(super) fn ok(self, text: impl Into<String>) -> Finding {
        Finding { check: self.name(), outcome: Outcome::Ok, text: text.into(), remedy: None }
    }

    /// It may not work, or could not be looked at.
    pub(super) fn warning(self, text: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { check: self.name(), outcome: Outcome::Warning, text: text.into(), remedy: Some(remedy.into()) }
    }

    /// It cannot work.
    pub(super) fn failure(self, text: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { check: self.name(), outcome: Outcome::Failure, text: text.into(), remedy: Some(remedy.into()) }
    }
}
