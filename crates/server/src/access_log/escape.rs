/// Appends text as nginx's logs do by default: `"`, `\` and what is not printable ASCII as `\xXX`.
pub(super) fn push_escaped(out: &mut Vec<u8>, text: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble & 15)).copied().unwrap_or(b'0');
    for &byte in text {
        if (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\' {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'\\', b'x', digit(byte >> 4), digit(byte)]);
        }
    }
}
