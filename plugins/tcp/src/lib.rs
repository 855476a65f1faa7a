//! Plain TCP copy: what the client sends reaches the target as it is.
//!
//! This fits every protocol whose requests mean the same on any connection: HTTP, memcached, redis without
//! transactions, and most others.

use tcpcopy_module_api::{About, AfterTargetClose, Module, Options, Transport};

/// The module behind `--proto tcp`, the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainTcp;

impl Module for PlainTcp {
    fn about() -> About {
        About {
            name: "tcp",
            summary: "copies any protocol over TCP as it is",
            ..About::new(Transport::Tcp, env!("CARGO_PKG_VERSION"))
        }
    }

    fn create(_: &Options) -> Result<Self, String> {
        Ok(Self)
    }

    /// A target that closes idle connections sooner than online does is nothing out of the ordinary.
    fn after_target_close(&self) -> AfterTargetClose {
        AfterTargetClose::Reconnect
    }
}
