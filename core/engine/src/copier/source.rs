//! Source mapping: which address and port a replica uses.

use std::net::IpAddr;

use tcpcopy_wire::{Endpoint, Port};

/// The addresses of `-c`; empty when replicas keep their client's address.
///
/// A client always gets the same address as long as its port is free there, so that a target that limits or pins by
/// client address sees a stable population.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourcePool {
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
}

/// Ports below this are left to services.
const FIRST_PORT: u16 = 1024;
/// Other ports that are tried at most when the client's own is taken on every address.
const PORT_TRIES: u32 = 4096;

impl SourcePool {
    /// A pool of these addresses, of either family.
    pub fn new(addresses: Vec<IpAddr>) -> Self {
        let (v4, v6) = addresses.into_iter().partition(IpAddr::is_ipv4);
        Self { v4, v6 }
    }

    /// The addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.iter().chain(&self.v6).copied()
    }

    /// How many addresses there are of the family of `addr`.
    pub(crate) fn len_for(&self, addr: IpAddr) -> usize {
        if addr.is_ipv4() { self.v4.len() } else { self.v6.len() }
    }

    /// Whether replicas keep their client's address.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// An address and port for the replica of `client`, of the family of `target`, that `is_taken` does not know: the
    /// client's own port wherever possible. The search begins `turn` places further in the list: each copy of a client has
    /// another address. `None` when all that were tried are taken, or when there is no address of the family.
    pub(crate) fn choose_from(
        &self,
        turn: usize,
        client: Endpoint,
        target: Endpoint,
        is_taken: impl Fn(Endpoint) -> bool,
    ) -> Option<Endpoint> {
        let own = [client.addr];
        let list = match (self.is_empty(), target.addr) {
            (true, _) if client.addr.is_ipv4() == target.addr.is_ipv4() => &own[..],
            (true, _) => &[],
            (false, IpAddr::V4(_)) => &self.v4[..],
            (false, IpAddr::V6(_)) => &self.v6[..],
        };
        if list.is_empty() {
            return None;
        }
        let first = spread(client.addr) as usize + turn;
        let in_turn = |i: usize| list[(first + i) % list.len()];
        let same_port = (0..list.len()).map(|i| Endpoint::new(in_turn(i), client.port));
        let other_ports = (1..=PORT_TRIES).map(|i| {
            let range = u32::from(u16::MAX - FIRST_PORT) + 1;
            // A stride that shares no factor with the range visits every port.
            let offset = (u32::from(client.port.0.saturating_sub(FIRST_PORT)) + i * 7919) % range;
            Endpoint::new(in_turn(i as usize), Port(FIRST_PORT + offset as u16))
        });
        same_port.chain(other_ports).find(|candidate| !is_taken(*candidate))
    }
}

/// Neighbouring client addresses go to neighbouring places in the list, whatever their network.
fn spread(addr: IpAddr) -> u32 {
    match addr {
        IpAddr::V4(a) => {
            let bits = u32::from(a);
            bits.wrapping_add(bits >> 16)
        }
        IpAddr::V6(a) => {
            let bits = u128::from(a);
            (bits as u32).wrapping_add((bits >> 32) as u32).wrapping_add((bits >> 64) as u32)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn endpoint(text: &str) -> Endpoint {
        text.parse::<std::net::SocketAddr>().expect("a test's endpoint").into()
    }

    #[test]
    fn keeps_the_clients_port_and_never_hands_out_a_pair_twice() {
        let pool = SourcePool::new((1..=4u8).map(|i| IpAddr::from([10, 78, 0, i])).collect());
        let target = endpoint("10.0.0.9:80");
        let mut taken = HashSet::new();
        // Four addresses have room for four clients on the same port; the fifth gets another port.
        for i in 1..=5u8 {
            let client = Endpoint::new(IpAddr::from([1, 2, 3, i]), Port(40_000));
            let source = pool.choose_from(0, client, target, |e| taken.contains(&e)).expect("there is room");
            assert_eq!(source.port == client.port, i <= 4);
            assert!(taken.insert(source));
        }
    }

    #[test]
    fn gives_a_client_the_same_address_again() {
        let pool = SourcePool::new((1..=254u8).map(|i| IpAddr::from([10, 78, 0, i])).collect());
        let target = endpoint("10.0.0.9:80");
        let a = pool.choose_from(0, endpoint("9.8.7.6:1111"), target, |_| false).expect("free");
        let b = pool.choose_from(0, endpoint("9.8.7.6:2222"), target, |_| false).expect("free");
        assert_eq!(a.addr, b.addr);
    }

    #[test]
    fn refuses_a_family_it_has_no_address_for() {
        let v4_only = SourcePool::new(vec![IpAddr::from([10, 78, 0, 1])]);
        assert_eq!(v4_only.choose_from(0, endpoint("1.2.3.4:5"), endpoint("[fd00::1]:80"), |_| false), None);
        assert_eq!(
            SourcePool::default().choose_from(0, endpoint("1.2.3.4:5"), endpoint("[fd00::1]:80"), |_| false),
            None
        );
    }

    #[test]
    fn gives_up_when_everything_is_taken() {
        let pool = SourcePool::default();
        assert_eq!(pool.choose_from(0, endpoint("1.2.3.4:5"), endpoint("10.0.0.9:80"), |_| true), None);
    }
}
