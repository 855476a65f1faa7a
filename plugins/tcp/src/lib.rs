//! Plain TCP copy: what the client sends reaches the target as it is.
//!
//! This fits every protocol whose requests mean the same on any connection: HTTP, memcached, redis without
//! transactions, and most others.

use tcpcopy_module_api::{AfterTargetClose, Module, Transport};

/// The module behind `--proto tcp`, the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainTcp;

impl Module for PlainTcp {
    fn name(&self) -> &'static str {
        "tcp"
    }

    fn transport(&self) -> Transport {
        Transport::Tcp
    }

    /// A target that closes idle connections sooner than online does is nothing out of the ordinary.
    fn after_target_close(&self) -> AfterTargetClose {
        AfterTargetClose::Reconnect
    }
}
