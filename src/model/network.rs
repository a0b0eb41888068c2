//! A network of addresses, as in settings: `10.0.0.0/8`, `2001:db8::/32`, or one address.

use std::net::IpAddr;

/// Addresses with a common prefix. None is an IPv4-mapped IPv6 address: callers convert those first
/// (`IpAddr::to_canonical`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    /// The number of common bits.
    prefix: u8,
}

impl Network {
    /// `None`: not a network, or bits are set after the prefix, which is a typo.
    pub fn parse(text: &str) -> Option<Self> {
        let (first, prefix) = match text.split_once('/') {
            Some((first, prefix)) => (first, Some(prefix)),
            None => (text, None),
        };
        let first: IpAddr = first.parse().ok()?;
        let bits = bits_of(first);
        let prefix = match prefix {
            None => bits,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
            Some(_) => return None,
        };
        let network = Self { first, prefix };
        let is_whole = prefix <= bits && network.cut(first) == number_of(first);
        (is_whole && first == first.to_canonical()).then_some(network)
    }

    pub fn contains(self, address: IpAddr) -> bool {
        let is_alike = address.is_ipv4() == self.first.is_ipv4();
        is_alike && self.cut(address) == number_of(self.first)
    }

    /// Whether it contains all addresses of its family.
    pub fn is_everything(self) -> bool {
        self.prefix == 0
    }

    /// The common bits of an address of the same family.
    fn cut(self, address: IpAddr) -> u128 {
        let dropped = u32::from(bits_of(address).saturating_sub(self.prefix));
        let kept = u128::MAX.checked_shl(dropped).unwrap_or(0);
        number_of(address) & kept
    }
}

fn bits_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_the_addresses_that_begin_as_it_does() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.7/32", "192.0.2.7", "192.0.2.8"),
            ("172.16.0.0/12", "172.31.255.255", "172.32.0.0"),
            ("0.0.0.0/0", "203.0.113.9", "::1"),
            ("::/0", "2001:db8::1", "10.0.0.1"),
            ("::1", "::1", "::2"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
        ] {
            let network = Network::parse(network).expect(network);
            assert!(network.contains(inside.parse().unwrap()), "{network:?} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{network:?} {outside}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for nonsense in [
            "",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "10.0.0.1/8",
            "10.0.0.0/256",
            "10.0.0",
            "::/129",
            "::1/64",
            "::ffff:10.0.0.1",
            "[::1]",
            "localhost",
            "*",
        ] {
            assert_eq!(Network::parse(nonsense), None, "{nonsense}");
        }
    }
}
