//! Source mapping: which address and port a replica uses.

use std::net::IpAddr;

/// The addresses of `-c`, in the order given; empty when replicas keep their client's address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourcePool {
    addresses: Vec<IpAddr>,
}

impl SourcePool {
    /// A pool of these addresses.
    pub fn new(addresses: Vec<IpAddr>) -> Self {
        Self { addresses }
    }

    /// The addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }
}
