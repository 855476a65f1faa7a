//! Who is answered although responses are intercepted (`-x`).

use std::net::IpAddr;

use crate::grammar::{OptionName, Part, SyntaxError, network};

/// The option.
pub const PASSLIST: OptionName =
    OptionName { name: "-x (--passlist)", example: "-x 10.0.0.9 or -x 127.0.0.1,10.1.0.0/16,fd00:1::/64" };

/// A set of addresses, as ranges in order that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passlist {
    v4: Vec<(u128, u128)>,
    v6: Vec<(u128, u128)>,
}

impl Passlist {
    /// Reads addresses and networks, separated by commas.
    ///
    /// # Errors
    /// The first mistake.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let mut passlist = Self::default();
        for part in Part::whole(PASSLIST, text).list()? {
            let network = network(part)?;
            let range = (number(network.network()), number(network.broadcast()));
            passlist.of_family_mut(network.addr()).push(range);
        }
        for ranges in [&mut passlist.v4, &mut passlist.v6] {
            ranges.sort_unstable();
            ranges.dedup_by(|next, range| {
                let joins = next.0 <= range.1.saturating_add(1);
                range.1 = if joins { range.1.max(next.1) } else { range.1 };
                joins
            });
        }
        Ok(passlist)
    }

    /// Whether an address is in it.
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        let ranges = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        if ranges.is_empty() {
            return false;
        }
        let number = number(address);
        let at = ranges.partition_point(|range| range.0 <= number);
        at > 0 && number <= ranges[at - 1].1
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    fn of_family_mut(&mut self, address: IpAddr) -> &mut Vec<(u128, u128)> {
        if address.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }
}

#[inline]
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}
