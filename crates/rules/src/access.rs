//! Who may come in: networks, ordered lists of allow and deny (nginx `allow`, `deny`), and the proxies whose word is taken.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A network, as `10.0.0.0/8`, `2001:db8::/32`, or one address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// An IPv4 address mapped into IPv6 is kept as IPv4.
    network: IpAddr,
    length: u8,
}

impl Cidr {
    /// Whether the address belongs to the network. An IPv4 address that came over an IPv6 socket counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differing = network.to_bits() ^ address.to_bits();
                differing.leading_zeros() >= u32::from(self.length)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differing = network.to_bits() ^ address.to_bits();
                differing.leading_zeros() >= u32::from(self.length)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// Why a text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCidr {
    /// Neither an address nor a network.
    #[error("{0:?} is no address; write one as 192.0.2.1, 10.0.0.0/8, ::1 or 2001:db8::/32")]
    Address(String),
    /// A prefix length that the family does not have.
    #[error("{text:?} has no usable prefix length; it goes from 0 to {most}")]
    Length {
        /// What was written.
        text: String,
        /// The longest prefix of the family.
        most: u8,
    },
    /// Bits behind the prefix, so that it is unclear what was meant.
    #[error("{text:?} has bits set behind its prefix; the network is {network}")]
    HostBits {
        /// What was written.
        text: String,
        /// What it would be.
        network: Cidr,
    },
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address = IpAddr::from_str(address).map_err(|_| InvalidCidr::Address(text.to_owned()))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let Some(length) = length else {
            let network = address.to_canonical();
            return Ok(Self { network, length: if network.is_ipv4() { 32 } else { 128 } });
        };
        // Only digits: `parse` would take "+8" too.
        let length = Some(length)
            .filter(|length| length.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|length| length.parse().ok())
            .filter(|length| *length <= most)
            .ok_or_else(|| InvalidCidr::Length { text: text.to_owned(), most })?;
        let network = Self { network: first_of(address, length), length };
        if network.network != address {
            return Err(InvalidCidr::HostBits { text: text.to_owned(), network });
        }
        Ok(network)
    }
}

fn first_of(address: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - length.min(32)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - length.min(128)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.network.is_ipv4() { 32 } else { 128 };
        if self.length == whole {
            return write!(f, "{}", self.network);
        }
        write!(f, "{}/{}", self.network, self.length)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One line of an [`AccessList`]: `allow 10.0.0.0/8`, `deny all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AccessRule {
    /// Whether those who match come in.
    pub allow: bool,
    /// Whom it is about; `None` is everybody.
    pub network: Option<Cidr>,
}

/// Why a text is no access rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAccessRule {
    /// Neither `allow` nor `deny`, or nothing behind it.
    #[error("{0:?} is no rule; write \"allow NETWORK\", \"deny NETWORK\", or \"all\" for the network")]
    Form(String),
    /// The network cannot be read.
    #[error(transparent)]
    Network(#[from] InvalidCidr),
}

impl FromStr for AccessRule {
    type Err = InvalidAccessRule;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidAccessRule::Form(text.to_owned());
        let (verb, network) = text.trim().split_once(' ').ok_or_else(invalid)?;
        let allow = match verb {
            "allow" => true,
            "deny" => false,
            _ => return Err(invalid()),
        };
        let network = match network.trim() {
            "all" => None,
            network => Some(network.parse()?),
        };
        Ok(Self { allow, network })
    }
}

impl fmt::Display for AccessRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allow { "allow " } else { "deny " })?;
        match &self.network {
            Some(network) => write!(f, "{network}"),
            None => f.write_str("all"),
        }
    }
}

/// Rules in order: the first that matches decides, and whom none matches comes in (nginx `ngx_http_access_module`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessList(Vec<AccessRule>);

impl AccessList {
    /// A list of these rules.
    pub fn new(rules: Vec<AccessRule>) -> Self {
        Self(rules)
    }

    /// Whether there is no rule, so that everybody comes in.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rules in order.
    pub fn rules(&self) -> &[AccessRule] {
        &self.0
    }

    /// Whether the address may come in.
    pub fn allows(&self, address: IpAddr) -> bool {
        let decides = |rule: &&AccessRule| rule.network.is_none_or(|network| network.contains(address));
        self.0.iter().find(decides).is_none_or(|rule| rule.allow)
    }
}

/// The networks of the proxies in front, whose word on the client's address is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<Cidr>);

impl TrustedProxies {
    /// These networks.
    pub fn new(networks: Vec<Cidr>) -> Self {
        Self(networks)
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The networks.
    pub fn networks(&self) -> &[Cidr] {
        &self.0
    }

    /// Whether the address belongs to a trusted proxy.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn list(rules: &[&str]) -> AccessList {
        AccessList::new(rules.iter().map(|rule| rule.parse().unwrap()).collect())
    }

    #[test]
    fn a_network_contains_its_own_and_nothing_else() {
        let network: Cidr = "10.1.0.0/16".parse().unwrap();
        assert!(network.contains(ip("10.1.0.0")) && network.contains(ip("10.1.255.255")));
        assert!(!network.contains(ip("10.2.0.0")) && !network.contains(ip("::a01:1")));
        assert!(network.contains(ip("::ffff:10.1.2.3")), "an IPv6 socket shows IPv4 clients so");
        let network: Cidr = "2001:db8::/33".parse().unwrap();
        assert!(network.contains(ip("2001:db8:7fff::1")) && !network.contains(ip("2001:db8:8000::1")));
        let everybody: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(everybody.contains(ip("255.1.2.3")) && !everybody.contains(ip("::1")));
        let one: Cidr = "::ffff:192.0.2.1".parse().unwrap();
        assert!(one.contains(ip("192.0.2.1")));
        assert_eq!(one.to_string(), "192.0.2.1");
    }

    #[test]
    fn what_is_no_network_is_refused_with_the_way_out() {
        let error = |text: &str| text.parse::<Cidr>().unwrap_err().to_string();
        assert!(error("localhost").contains("192.0.2.1, 10.0.0.0/8"));
        assert!(error("10.0.0.0/33").contains("from 0 to 32"));
        assert!(error("10.0.0.0/+8").contains("from 0 to 32"));
        assert!(error("::/129").contains("from 0 to 128"));
        assert_eq!(error("10.1.2.3/8"), "\"10.1.2.3/8\" has bits set behind its prefix; the network is 10.0.0.0/8");
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let list = list(&["deny 192.0.2.1", "allow 192.0.2.0/24", "allow 2001:db8::/32", "deny all"]);
        assert!(!list.allows(ip("192.0.2.1")));
        assert!(list.allows(ip("192.0.2.2")));
        assert!(list.allows(ip("2001:db8::5")));
        assert!(!list.allows(ip("198.51.100.1")) && !list.allows(ip("::1")));
    }

    #[test]
    fn whom_no_rule_names_comes_in() {
        assert!(AccessList::default().allows(ip("192.0.2.1")));
        assert!(list(&["deny 192.0.2.1"]).allows(ip("192.0.2.2")));
    }

    #[test]
    fn a_rule_that_is_none_is_refused() {
        for text in ["", "allow", "permit all", "deny everyone", "allow 10.0.0.1/8"] {
            assert!(text.parse::<AccessRule>().is_err(), "{text}");
        }
        for text in ["allow all", "deny 10.0.0.0/8", "allow ::1"] {
            assert_eq!(text.parse::<AccessRule>().unwrap().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn a_network_agrees_with_a_comparison_of_bits(network: u32, address: u32, length in 0u8..=32) {
            let mask = if length == 0 { 0 } else { u32::MAX << (32 - u32::from(length)) };
            let first = std::net::Ipv4Addr::from(network & mask);
            let cidr: Cidr = format!("{first}/{length}").parse().unwrap();
            prop_assert_eq!(cidr.contains(IpAddr::V4(address.into())), address & mask == network & mask);
            prop_assert_eq!(cidr.to_string().parse::<Cidr>().unwrap(), cidr);
        }
    }
}
