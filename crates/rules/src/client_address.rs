//! Who the client is behind proxies that are trusted, as nginx's realip module with `real_ip_recursive on` finds it.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use http::header::{FORWARDED, HeaderName};

use crate::TrustedProxies;

/// Where trusted proxies say who the client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AddressHeader {
    /// `X-Forwarded-For`: a list, each proxy adds at its end whom it saw.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239): the same list, as `for=` parameters.
    Forwarded,
    /// `X-Real-IP`: one address.
    XRealIp,
    /// Nowhere: the peer is the client.
    None,
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The client's address. The port is 0 if a header told the address and no port.
///
/// The lists are walked from their end, where the nearest proxy wrote, as long as what is found is a trusted proxy itself: what
/// stands further left came from somebody who is not trusted. Something that is no address ends the walk; the last good
/// address counts. A peer that is not trusted is the client, whatever it says.
pub fn client_address(
    peer: SocketAddr,
    headers: &HeaderMap,
    header: AddressHeader,
    trusted: &TrustedProxies,
) -> SocketAddr {
    let peer = canonical(peer);
    if !trusted.trusts(peer.ip()) {
        return peer;
    }
    match header {
        AddressHeader::XForwardedFor => {
            let values = headers.get_all(X_FORWARDED_FOR).into_iter().rev();
            let items = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
            walk(peer, trusted, items.map(parse_address))
        }
        AddressHeader::Forwarded => {
            let values = headers.get_all(FORWARDED).into_iter().rev();
            walk(peer, trusted, values.flat_map(|value| forwarded_for(value.as_bytes()).into_iter().rev()))
        }
        AddressHeader::XRealIp => headers
            .get_all(X_REAL_IP)
            .into_iter()
            .next_back()
            .and_then(|value| parse_address(value.as_bytes()))
            .unwrap_or(peer),
        AddressHeader::None => peer,
    }
}

/// `found`: nearest first; `None` is something that is no address.
fn walk(peer: SocketAddr, trusted: &TrustedProxies, found: impl Iterator<Item = Option<SocketAddr>>) -> SocketAddr {
    let mut client = peer;
    for address in found {
        let Some(address) = address else { break };
        client = address;
        if !trusted.trusts(client.ip()) {
            break;
        }
    }
    client
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn parse_address(text: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(text).ok()?.trim_matches([' ', '\t']);
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(canonical(SocketAddr::new(ip, 0)));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(canonical(address));
    }
    let bare = text.strip_prefix('[')?.strip_suffix(']')?;
    Some(canonical(SocketAddr::new(IpAddr::V6(bare.parse().ok()?), 0)))
}

/// What each element of a `Forwarded` value says its client was, in order (RFC 7239 §4). Obfuscated identifiers and `unknown` are
/// no addresses. What breaks the grammar says nothing, up to the next comma: a client that opens a quote must not be able to
/// swallow what the proxies behind it add.
fn forwarded_for(value: &[u8]) -> Vec<Option<SocketAddr>> {
    let mut elements = Vec::new();
    let mut rest = Some(value);
    while let Some(text) = rest {
        let (found, after) = element(text).unwrap_or_else(|| {
            let comma = text.iter().position(|byte| *byte == b',');
            (None, comma.and_then(|comma| text.get(comma + 1..)))
        });
        elements.push(found);
        rest = after;
    }
    elements
}

/// One element: its `for`, and what follows its comma. `None`: not the grammar.
#[allow(clippy::type_complexity)]
fn element(mut rest: &[u8]) -> Option<(Option<SocketAddr>, Option<&[u8]>)> {
    let mut found = None;
    loop {
        rest = rest.trim_ascii_start();
        match rest.split_first() {
            None => return Some((found, None)),
            Some((b',', after)) => return Some((found, Some(after))),
            Some((b';', after)) => {
                rest = after;
                continue;
            }
            Some(_) => {}
        }
        let equals = rest.iter().position(|byte| *byte == b'=')?;
        let (name, after) = rest.split_at_checked(equals)?;
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return None;
        }
        let (value, after) = parameter_value(after.get(1..)?)?;
        if name.eq_ignore_ascii_case(b"for") {
            // Twice in one element is not the grammar, and whom to believe unclear.
            if found.is_some() {
                return None;
            }
            found = parse_address(&value);
        }
        rest = after.trim_ascii_start();
        if !matches!(rest.first(), None | Some(b',' | b';')) {
            return None;
        }
    }
}

/// A token or a quoted string, and what follows it. Outside of quotes colons and brackets are taken too: some proxies forget the
/// quotes around addresses with a port.
fn parameter_value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let token = |byte: &u8| is_token(*byte) || matches!(byte, b':' | b'[' | b']');
        let length = text.iter().position(|byte| !token(byte)).unwrap_or(text.len());
        let (value, after) = text.split_at_checked(length)?;
        return (!value.is_empty()).then(|| (value.to_vec(), after));
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter();
    loop {
        match bytes.next()? {
            b'"' => return Some((value, bytes.as_slice())),
            b'\\' => value.push(*bytes.next()?),
            byte => value.push(*byte),
        }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn trusted() -> TrustedProxies {
        TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()])
    }

    fn found(peer: &str, header: AddressHeader, values: &[&str]) -> String {
        let name = match header {
            AddressHeader::XForwardedFor | AddressHeader::None => X_FORWARDED_FOR,
            AddressHeader::Forwarded => FORWARDED,
            AddressHeader::XRealIp => X_REAL_IP,
        };
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        client_address(peer.parse().unwrap(), &headers, header, &trusted()).to_string()
    }

    fn forwarded_for(values: &[&str]) -> String {
        found("10.0.0.1:1000", AddressHeader::XForwardedFor, values)
    }

    #[test]
    fn a_stranger_is_the_client_whatever_it_says() {
        for header in [AddressHeader::XForwardedFor, AddressHeader::Forwarded, AddressHeader::XRealIp] {
            assert_eq!(found("192.0.2.9:5000", header, &["198.51.100.1"]), "192.0.2.9:5000");
        }
        assert_eq!(found("10.0.0.1:5000", AddressHeader::None, &["198.51.100.1"]), "10.0.0.1:5000");
    }

    #[test]
    fn the_walk_goes_from_right_to_left_past_trusted_proxies() {
        assert_eq!(forwarded_for(&["198.51.100.1"]), "198.51.100.1:0");
        assert_eq!(forwarded_for(&["203.0.113.5, 198.51.100.1, 10.0.0.7"]), "198.51.100.1:0", "the left one is forged");
        assert_eq!(forwarded_for(&["203.0.113.5, 198.51.100.1", "10.0.0.7, 2001:db8::1"]), "198.51.100.1:0");
        assert_eq!(forwarded_for(&["10.0.0.3, 10.0.0.2"]), "10.0.0.3:0", "all trusted: the first of them");
        assert_eq!(forwarded_for(&[]), "10.0.0.1:1000");
    }

    #[test]
    fn ports_and_brackets_are_understood() {
        assert_eq!(forwarded_for(&["198.51.100.1:4711"]), "198.51.100.1:4711");
        assert_eq!(forwarded_for(&["[2001:db9::1]:4711"]), "[2001:db9::1]:4711");
        assert_eq!(forwarded_for(&["[2001:db9::1]"]), "[2001:db9::1]:0");
        assert_eq!(forwarded_for(&["2001:db9::1\t"]), "[2001:db9::1]:0");
        assert_eq!(forwarded_for(&["::ffff:198.51.100.1"]), "198.51.100.1:0");
    }

    #[test]
    fn garbage_ends_the_walk_and_the_last_good_address_counts() {
        assert_eq!(forwarded_for(&["198.51.100.1, what?, 10.0.0.7"]), "10.0.0.7:0");
        assert_eq!(forwarded_for(&["198.51.100.1,, 10.0.0.7"]), "10.0.0.7:0");
        assert_eq!(forwarded_for(&["unknown"]), "10.0.0.1:1000");
        assert_eq!(forwarded_for(&["198.51.100.1\u{e9}"]), "10.0.0.1:1000");
        assert_eq!(forwarded_for(&["[198.51.100.1]"]), "10.0.0.1:1000");
    }

    #[test]
    fn a_forwarded_header_is_read_as_rfc_7239_has_it() {
        let read = |values: &[&str]| found("10.0.0.1:1000", AddressHeader::Forwarded, values);
        assert_eq!(read(&["for=198.51.100.1"]), "198.51.100.1:0");
        assert_eq!(read(&["For=\"[2001:db9:cafe::17]:4711\""]), "[2001:db9:cafe::17]:4711");
        assert_eq!(read(&["for=192.0.2.60;proto=http;by=203.0.113.43"]), "192.0.2.60:0");
        assert_eq!(
            read(&["for=192.0.2.43, for=198.51.100.17;by=10.0.0.9, proto=http; for=10.0.0.3"]),
            "198.51.100.17:0"
        );
        assert_eq!(read(&["for=192.0.2.43", "for=\"10.0.0.4:80\""]), "192.0.2.43:0");
        assert_eq!(read(&["host=\"a,\\\"for=203.0.113.1\";for=192.0.2.43"]), "192.0.2.43:0");
    }

    #[test]
    fn obfuscated_and_broken_elements_end_the_walk() {
        let read = |values: &[&str]| found("10.0.0.1:1000", AddressHeader::Forwarded, values);
        assert_eq!(read(&["for=192.0.2.43, for=_gazonk, for=10.0.0.3"]), "10.0.0.3:0");
        assert_eq!(read(&["for=192.0.2.43, for=unknown"]), "10.0.0.1:1000");
        assert_eq!(read(&["for=192.0.2.43, proto=https"]), "10.0.0.1:1000");
        assert_eq!(read(&["for=\"192.0.2.43"]), "10.0.0.1:1000");
        assert_eq!(read(&["for=192.0.2.43;for=192.0.2.44"]), "10.0.0.1:1000");
        assert_eq!(read(&["for=192.0.2.43 for=192.0.2.44"]), "10.0.0.1:1000");
        assert_eq!(read(&["for=192.0.2.43", "\"", "for=10.0.0.3"]), "10.0.0.3:0");
    }

    #[test]
    fn a_quote_that_a_client_leaves_open_does_not_swallow_what_the_proxy_added() {
        let read = |values: &[&str]| found("10.0.0.1:1000", AddressHeader::Forwarded, values);
        assert_eq!(read(&["for=\", for=198.51.100.1"]), "198.51.100.1:0");
        assert_eq!(read(&["for=\"\\, for=198.51.100.1;proto=https"]), "198.51.100.1:0");
        assert_eq!(read(&["for=\", for=\"[2001:db9::1]:80\";proto=https"]), "[2001:db9::1]:80");
    }

    #[test]
    fn x_real_ip_is_one_address() {
        let read = |values: &[&str]| found("10.0.0.1:1000", AddressHeader::XRealIp, values);
        assert_eq!(read(&["198.51.100.1"]), "198.51.100.1:0");
        assert_eq!(read(&["198.51.100.1, 198.51.100.2"]), "10.0.0.1:1000");
        assert_eq!(read(&[]), "10.0.0.1:1000");
    }

    proptest! {
        #[test]
        fn nothing_that_a_client_puts_left_changes_what_a_trusted_proxy_saw(forged in "[ -~]{0,80}") {
            prop_assert_eq!(forwarded_for(&[&format!("{forged}, 198.51.100.1")]), "198.51.100.1:0");
        }

        #[test]
        fn no_forwarded_value_makes_it_panic(value in proptest::collection::vec(any::<u8>(), 0..60)) {
            super::forwarded_for(&value);
        }
    }
}
