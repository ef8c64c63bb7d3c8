use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

/// Appends an address as [`IpAddr`] displays it; IPv4, which is in every log line and request, without `fmt`.
pub fn push_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            for (place, octet) in ip.octets().into_iter().enumerate() {
                if place > 0 {
                    out.push(b'.');
                }
                push_number(out, octet);
            }
        }
        IpAddr::V6(ip) => {
            // Writing into a Vec cannot fail.
            let _ = write!(out, "{ip}");
        }
    }
}

/// Appends an address as [`SocketAddr`] displays it.
pub fn push_socket_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address {
        SocketAddr::V4(address) => {
            push_ip(out, IpAddr::V4(*address.ip()));
            out.push(b':');
            push_number(out, address.port());
        }
        SocketAddr::V6(address) => {
            let _ = write!(out, "{address}");
        }
    }
}

/// Appends a number in decimal.
pub fn push_number(out: &mut Vec<u8>, number: impl Into<u64>) {
    out.extend_from_slice(itoa::Buffer::new().format(number.into()).as_bytes());
}

/// Appends a number in lower-case hexadecimal, with zeros in front up to `digits`, at most 16.
pub fn push_hex(out: &mut Vec<u8>, number: u64, digits: u32) {
    let needed = (u64::BITS - number.leading_zeros()).div_ceil(4).max(1).max(digits).min(16) as usize;
    let text: [u8; 16] = hex(number);
    out.extend_from_slice(text.get(text.len() - needed..).unwrap_or_default());
}

/// The last `N` lower-case hexadecimal digits of a number, with zeros in front.
pub fn hex<const N: usize>(number: u64) -> [u8; N] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'0'; N];
    let mut left = number;
    for digit in text.iter_mut().rev() {
        *digit = HEX.get(left as usize & 0xf).copied().unwrap_or(b'0');
        left >>= 4;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_look_as_they_display() {
        for number in [0, 9, 10, 0xf, 0x10, 12_345, 0xfff_ffff, u64::from(u32::MAX), u64::MAX] {
            let (mut decimal, mut hex, mut padded) = (Vec::new(), Vec::new(), Vec::new());
            push_number(&mut decimal, number);
            push_hex(&mut hex, number, 0);
            push_hex(&mut padded, number, 12);
            assert_eq!(String::from_utf8(decimal).unwrap(), number.to_string());
            assert_eq!(String::from_utf8(hex).unwrap(), format!("{number:x}"));
            assert_eq!(String::from_utf8(padded).unwrap(), format!("{number:012x}"));
        }
    }

    #[test]
    fn addresses_look_as_they_display() {
        for text in
            ["0.0.0.0:0", "127.0.0.1:80", "255.10.100.9:65535", "[::1]:443", "[fe80::1%3]:1", "[::ffff:1.2.3.4]:5"]
        {
            let address: SocketAddr = text.parse().unwrap();
            let (mut whole, mut ip) = (Vec::new(), Vec::new());
            push_socket_address(&mut whole, address);
            push_ip(&mut ip, address.ip());
            assert_eq!(String::from_utf8(whole).unwrap(), address.to_string());
            assert_eq!(String::from_utf8(ip).unwrap(), address.ip().to_string());
        }
    }
}
