//! UDP copy: each datagram that the client sends reaches the target as it is.
//!
//! This fits every protocol whose requests are whole in one datagram: DNS, statsd, syslog, memcached over UDP, games.

use tcpcopy_module_api::{About, Module, Options, Transport};

/// The module behind `--proto udp`.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainUdp;

impl Module for PlainUdp {
    fn about() -> About {
        About {
            name: "udp",
            summary: "copies any protocol over UDP as it is",
            ..About::new(Transport::Udp, env!("CARGO_PKG_VERSION"))
        }
    }

    fn create(_: &Options) -> Result<Self, String> {
        Ok(Self)
    }
}
