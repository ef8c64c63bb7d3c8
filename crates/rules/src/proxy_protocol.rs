//! The PROXY protocol, versions 1 and 2: a header before the first byte of a connection, in which a proxy tells whose
//! connection it is (HAProxy's `proxy-protocol.txt`).
//!
//! Reading is incremental: give [`ProxyHeader::parse`] what has come so far until it says where the header ends. It never needs more
//! than [`MAX_BYTES`] of it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header that is read. Version 1 allows 107 bytes; version 2 would allow 64 KiB of extensions, of which nginx reads 4096
/// bytes in all too.
pub const MAX_BYTES: usize = 4096;
/// The longest line of version 1, with its end.
const MAX_LINE: usize = 107;
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const FIXED: usize = 16;
const LINE_START: [u8; 6] = *b"PROXY ";
const TLV_CRC32C: u8 = 0x03;

/// Which version to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The proxy speaks for itself (`LOCAL`, mostly a health check), or does not know, or the client came by something else than TCP
    /// over IP (`UNKNOWN`): the addresses of the connection itself hold.
    Own,
    /// The connection is somebody else's.
    Proxied {
        /// The client.
        source: SocketAddr,
        /// Where the client connected to.
        destination: SocketAddr,
    },
}

/// How far a header has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All of the bytes belong to the header, and more must come.
    Incomplete,
    /// The header is whole; what follows its `length` bytes is the client's.
    Complete {
        /// What it says.
        header: ProxyHeader,
        /// How many bytes it has.
        length: usize,
    },
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidProxyHeader {
    /// They begin like neither version.
    #[error("the connection does not begin with a PROXY header")]
    Signature,
    /// No end within the longest that is read.
    #[error("the PROXY header is too long")]
    TooLong,
    /// A line of version 1 that breaks its form.
    #[error("the PROXY line is malformed")]
    Line,
    /// A version, command, family or length of version 2 that does not exist.
    #[error("the PROXY header's fields are invalid")]
    Fields,
    /// The extensions do not fill their space exactly.
    #[error("the PROXY header's extensions are malformed")]
    Extensions,
    /// The checksum is not that of the bytes.
    #[error("the PROXY header's checksum is wrong")]
    Checksum,
}

impl ProxyHeader {
    /// Reads the header at the beginning of `bytes`, which may be cut anywhere.
    ///
    /// # Errors
    /// They are not the beginning of a valid header, whatever follows.
    pub fn parse(bytes: &[u8]) -> Result<Progress, InvalidProxyHeader> {
        if starts_alike(bytes, &SIGNATURE) {
            return parse_v2(bytes);
        }
        if starts_alike(bytes, &LINE_START) {
            return parse_v1(bytes);
        }
        Err(InvalidProxyHeader::Signature)
    }

    /// Appends the header in that version.
    pub fn encode(&self, version: ProxyVersion, out: &mut Vec<u8>) {
        match (version, self.pair()) {
            (ProxyVersion::V1, None) => out.extend_from_slice(b"PROXY UNKNOWN\r\n"),
            (ProxyVersion::V1, Some(pair)) => out.extend_from_slice(pair.to_string().as_bytes()),
            (ProxyVersion::V2, pair) => {
                out.extend_from_slice(&SIGNATURE);
                match pair {
                    None => out.extend_from_slice(&[0x20, 0x00, 0, 0]),
                    Some(Pair::V4(source, destination, ports)) => {
                        out.extend_from_slice(&[0x21, 0x11, 0, 12]);
                        out.extend_from_slice(&source.octets());
                        out.extend_from_slice(&destination.octets());
                        push_ports(ports, out);
                    }
                    Some(Pair::V6(source, destination, ports)) => {
                        out.extend_from_slice(&[0x21, 0x21, 0, 36]);
                        out.extend_from_slice(&source.octets());
                        out.extend_from_slice(&destination.octets());
                        push_ports(ports, out);
                    }
                }
            }
        }
    }

    fn pair(&self) -> Option<Pair> {
        let Self::Proxied { source, destination } = self else { return None };
        let ports = [source.port(), destination.port()];
        Some(match (source.ip().to_canonical(), destination.ip().to_canonical()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Pair::V4(source, destination, ports),
            // A header has one family; IPv4 has a form in IPv6.
            (source, destination) => Pair::V6(mapped(source), mapped(destination), ports),
        })
    }
}

/// Both ends in one family.
enum Pair {
    V4(Ipv4Addr, Ipv4Addr, [u16; 2]),
    V6(Ipv6Addr, Ipv6Addr, [u16; 2]),
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(from, to, [source, destination]) => write!(f, "PROXY TCP4 {from} {to} {source} {destination}\r\n"),
            Self::V6(from, to, [source, destination]) => write!(f, "PROXY TCP6 {from} {to} {source} {destination}\r\n"),
        }
    }
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn push_ports(ports: [u16; 2], out: &mut Vec<u8>) {
    for port in ports {
        out.extend_from_slice(&port.to_be_bytes());
    }
}

/// Whether one begins with the other, as far as both go.
fn starts_alike(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(byte, expected)| byte == expected)
}

fn parse_v1(bytes: &[u8]) -> Result<Progress, InvalidProxyHeader> {
    let seen = bytes.get(..MAX_LINE).unwrap_or(bytes);
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        return if seen.len() < MAX_LINE { Ok(Progress::Incomplete) } else { Err(InvalidProxyHeader::TooLong) };
    };
    let line = seen.get(LINE_START.len()..end).ok_or(InvalidProxyHeader::Line)?;
    let header = parse_line(line).ok_or(InvalidProxyHeader::Line)?;
    Ok(Progress::Complete { header, length: end + 2 })
}

fn parse_line(line: &[u8]) -> Option<ProxyHeader> {
    let line = std::str::from_utf8(line).ok()?;
    // What follows UNKNOWN must be ignored.
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Some(ProxyHeader::Own);
    }
    let mut words = line.split(' ');
    let family = words.next()?;
    let (source, destination) = match family {
        "TCP4" => (IpAddr::V4(words.next()?.parse().ok()?), IpAddr::V4(words.next()?.parse().ok()?)),
        "TCP6" => (IpAddr::V6(words.next()?.parse().ok()?), IpAddr::V6(words.next()?.parse().ok()?)),
        _ => return None,
    };
    let (from, to) = (parse_port(words.next()?)?, parse_port(words.next()?)?);
    words.next().is_none().then(|| proxied(source, from, destination, to))
}

/// Decimal without leading zeros, as the specification wants it.
fn parse_port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn proxied(source: IpAddr, from: u16, destination: IpAddr, to: u16) -> ProxyHeader {
    ProxyHeader::Proxied {
        source: SocketAddr::new(source.to_canonical(), from),
        destination: SocketAddr::new(destination.to_canonical(), to),
    }
}

fn parse_v2(bytes: &[u8]) -> Result<Progress, InvalidProxyHeader> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else { return Ok(Progress::Incomplete) };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if FIXED + length > MAX_BYTES {
        return Err(InvalidProxyHeader::TooLong);
    }
    let local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(InvalidProxyHeader::Fields),
    };
    let addresses = match family >> 4 {
        0 => 0,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => return Err(InvalidProxyHeader::Fields),
    };
    if family & 0xf > 2 || (!local && length < addresses) {
        return Err(InvalidProxyHeader::Fields);
    }
    let Some(rest) = rest.get(..length) else { return Ok(Progress::Incomplete) };
    let whole = FIXED + length;
    // Of LOCAL, everything behind the fixed part is to be skipped.
    if local {
        return Ok(Progress::Complete { header: ProxyHeader::Own, length: whole });
    }
    let extensions = rest.get(addresses..).unwrap_or_default();
    check_extensions(bytes.get(..whole).unwrap_or_default(), extensions)?;
    let header = match family {
        0x11 => rest.first_chunk::<12>().map(|ends| {
            let [a, b, c, d, e, f, g, h, from @ .., i, j] = *ends;
            let (source, destination) = (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h));
            proxied(source.into(), u16::from_be_bytes(from), destination.into(), u16::from_be_bytes([i, j]))
        }),
        0x21 => parse_v6(rest),
        _ => Some(ProxyHeader::Own),
    };
    Ok(Progress::Complete { header: header.ok_or(InvalidProxyHeader::Fields)?, length: whole })
}

fn parse_v6(rest: &[u8]) -> Option<ProxyHeader> {
    let (source, rest) = rest.split_first_chunk::<16>()?;
    let (destination, rest) = rest.split_first_chunk::<16>()?;
    let (from, rest) = rest.split_first_chunk::<2>()?;
    let to = rest.first_chunk::<2>()?;
    let (source, destination) = (Ipv6Addr::from(*source), Ipv6Addr::from(*destination));
    Some(proxied(source.into(), u16::from_be_bytes(*from), destination.into(), u16::from_be_bytes(*to)))
}

/// Extensions must fill their space; nothing of them is used but the checksum of the whole header.
fn check_extensions(header: &[u8], extensions: &[u8]) -> Result<(), InvalidProxyHeader> {
    let mut rest = extensions;
    while !rest.is_empty() {
        let ([kind, high, low], after) = rest.split_first_chunk::<3>().ok_or(InvalidProxyHeader::Extensions)?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, after) = after.split_at_checked(length).ok_or(InvalidProxyHeader::Extensions)?;
        if *kind == TLV_CRC32C {
            let told = u32::from_be_bytes(*<&[u8; 4]>::try_from(value).map_err(|_| InvalidProxyHeader::Extensions)?);
            // It is calculated with zeros in its own place.
            let at = header.len() - after.len() - 4;
            let zeroed =
                header.iter().enumerate().map(|(index, byte)| if index >= at && index < at + 4 { 0 } else { *byte });
            if crc32c(zeroed) != told {
                return Err(InvalidProxyHeader::Checksum);
            }
        }
        rest = after;
    }
    Ok(())
}

/// CRC-32C (Castagnoli), bit by bit: a header is short, and few have one.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxied(source: &str, destination: &str) -> ProxyHeader {
        ProxyHeader::Proxied { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    fn encoded(header: ProxyHeader, version: ProxyVersion) -> Vec<u8> {
        let mut out = Vec::new();
        header.encode(version, &mut out);
        out
    }

    fn complete(bytes: &[u8]) -> (ProxyHeader, usize) {
        match ProxyHeader::parse(bytes) {
            Ok(Progress::Complete { header, length }) => (header, length),
            other => panic!("{other:?}"),
        }
    }

    /// A version 2 header with these parts.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0x30, 0x39, 0, 80];

    #[test]
    fn a_line_of_version_1_is_read_and_what_follows_is_left() {
        let bytes = b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\nGET / HTTP/1.1\r\n";
        assert_eq!(complete(bytes), (proxied("192.0.2.1:12345", "10.0.0.1:80"), 40));
        let bytes = b"PROXY TCP6 2001:db8::1 ::1 65535 0\r\n";
        assert_eq!(complete(bytes), (proxied("[2001:db8::1]:65535", "[::1]:0"), bytes.len()));
        for line in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN ffff:f 1 what ever\r\n"] {
            assert_eq!(complete(line.as_bytes()), (ProxyHeader::Own, line.len()));
        }
    }

    #[test]
    fn a_line_that_breaks_the_form_is_refused() {
        for line in [
            "PROXY TCP4 192.0.2.1 10.0.0.1 12345\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 12345 80 1\r\n",
            "PROXY TCP4 192.0.2.1  10.0.0.1 12345 80\r\n",
            "PROXY TCP4 192.0.2.01 10.0.0.1 12345 80\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 012345 80\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 12345 65536\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 +12345 80\r\n",
            "PROXY TCP4 ::1 ::1 12345 80\r\n",
            "PROXY TCP6 192.0.2.1 10.0.0.1 12345 80\r\n",
            "PROXY UDP4 192.0.2.1 10.0.0.1 12345 80\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 12345 80 \r\n",
        ] {
            assert_eq!(ProxyHeader::parse(line.as_bytes()), Err(InvalidProxyHeader::Line), "{line}");
        }
    }

    #[test]
    fn a_line_has_at_most_107_bytes() {
        let line = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16));
        assert_eq!(complete(line(107).as_bytes()), (ProxyHeader::Own, 107));
        assert_eq!(ProxyHeader::parse(line(108).as_bytes()), Err(InvalidProxyHeader::TooLong));
        assert_eq!(ProxyHeader::parse(&line(108).as_bytes()[..106]), Ok(Progress::Incomplete));
    }

    #[test]
    fn something_else_is_refused_at_its_first_wrong_byte() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"PROXy", b"\r\n\r\n\0\r\nQUIT\r", b"\x16\x03\x01"] {
            assert_eq!(ProxyHeader::parse(bytes), Err(InvalidProxyHeader::Signature));
        }
        for bytes in [&b""[..], b"P", b"PROXY", b"\r\n\r\n"] {
            assert_eq!(ProxyHeader::parse(bytes), Ok(Progress::Incomplete));
        }
    }

    #[test]
    fn version_2_is_read_with_the_example_of_the_specification() {
        let bytes = v2(0x21, 0x11, &V4);
        assert_eq!(complete(&bytes), (proxied("192.0.2.1:12345", "10.0.0.1:80"), 28));
        assert_eq!(bytes, encoded(proxied("192.0.2.1:12345", "10.0.0.1:80"), ProxyVersion::V2));
    }

    #[test]
    fn local_and_other_families_leave_the_connections_own_addresses() {
        assert_eq!(complete(&v2(0x20, 0x00, &[])), (ProxyHeader::Own, 16));
        assert_eq!(complete(&v2(0x20, 0x11, &V4)), (ProxyHeader::Own, 28));
        assert_eq!(complete(&v2(0x21, 0x00, &[])), (ProxyHeader::Own, 16));
        assert_eq!(complete(&v2(0x21, 0x12, &V4)), (ProxyHeader::Own, 28), "datagrams");
        assert_eq!(complete(&v2(0x21, 0x31, &[b'/'; 216])), (ProxyHeader::Own, 232), "a Unix socket");
    }

    #[test]
    fn fields_that_do_not_exist_are_refused() {
        for bytes in
            [v2(0x11, 0x11, &V4), v2(0x22, 0x11, &V4), v2(0x21, 0x41, &V4), v2(0x21, 0x13, &V4), v2(0x21, 0x21, &V4)]
        {
            assert_eq!(ProxyHeader::parse(&bytes), Err(InvalidProxyHeader::Fields));
        }
        assert_eq!(ProxyHeader::parse(&v2(0x20, 0x00, &vec![0; 4080])).map(|_| ()), Ok(()));
        assert_eq!(ProxyHeader::parse(&v2(0x20, 0x00, &vec![0; 4081])), Err(InvalidProxyHeader::TooLong));
    }

    #[test]
    fn extensions_are_skipped_if_they_fill_their_space() {
        let with = |extensions: &[u8]| v2(0x21, 0x11, &[&V4[..], extensions].concat());
        assert_eq!(complete(&with(b"\x01\x00\x02h2\x04\x00\x00")).1, 36);
        for extensions in [&b"\x01"[..], b"\x01\x00\x03h2", b"\x01\x00\x02h2\x04\x00", b"\x03\x00\x02ab"] {
            assert_eq!(ProxyHeader::parse(&with(extensions)), Err(InvalidProxyHeader::Extensions));
        }
    }

    #[test]
    fn a_checksum_is_checked() {
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283, "the check value of CRC-32C");
        let mut bytes = v2(0x21, 0x11, &[&V4[..], b"\x03\x00\x04\0\0\0\0\x04\x00\x01x"].concat());
        let crc = crc32c(bytes.iter().copied());
        bytes[31..35].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(complete(&bytes), (proxied("192.0.2.1:12345", "10.0.0.1:80"), bytes.len()));
        for at in 16..28 {
            let mut broken = bytes.clone();
            broken[at] ^= 1;
            assert_eq!(ProxyHeader::parse(&broken), Err(InvalidProxyHeader::Checksum));
        }
    }

    #[test]
    fn ends_of_two_families_are_written_in_the_wider_one() {
        let header = proxied("192.0.2.1:1", "[2001:db8::1]:2");
        let text = String::from_utf8(encoded(header, ProxyVersion::V1)).unwrap();
        assert_eq!(text, "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 2\r\n");
        assert_eq!(complete(&encoded(header, ProxyVersion::V2)).0, header);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again_however_it_is_cut(
            source: SocketAddr,
            destination: SocketAddr,
            own: bool,
            binary: bool,
            after in proptest::collection::vec(any::<u8>(), 0..8),
        ) {
            let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
            let header = match own {
                true => ProxyHeader::Own,
                false => ProxyHeader::Proxied { source: plain(source), destination: plain(destination) },
            };
            let mut bytes = encoded(header, if binary { ProxyVersion::V2 } else { ProxyVersion::V1 });
            let length = bytes.len();
            for cut in 0..length {
                prop_assert_eq!(ProxyHeader::parse(&bytes[..cut]), Ok(Progress::Incomplete));
            }
            bytes.extend(after);
            prop_assert_eq!(ProxyHeader::parse(&bytes), Ok(Progress::Complete { header, length }));
        }

        #[test]
        fn a_verdict_does_not_change_when_more_comes(bytes in proptest::collection::vec(any::<u8>(), 0..80), signed: bool) {
            let bytes = if signed { [&SIGNATURE[..], &bytes].concat() } else { [&LINE_START[..], &bytes].concat() };
            let whole = ProxyHeader::parse(&bytes);
            for cut in 0..bytes.len() {
                match ProxyHeader::parse(&bytes[..cut]) {
                    Ok(Progress::Incomplete) => {}
                    earlier => prop_assert_eq!(earlier, whole),
                }
            }
        }
    }
}
