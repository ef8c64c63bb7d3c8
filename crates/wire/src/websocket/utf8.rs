//! Text that comes in pieces, which may cut characters (RFC 6455 section 8.1).

use super::WsError;

/// Checks a text as it comes, so that a bad one is refused at its first bad byte.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Utf8 {
    /// The beginning of a character.
    begun: [u8; 4],
    len: u8,
}

impl Utf8 {
    /// Takes the next piece, unmasked.
    ///
    /// # Errors
    /// [`WsError::InvalidUtf8`] as soon as nothing that may follow could make it a text.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), WsError> {
        while self.len > 0
            && let Some((byte, rest)) = bytes.split_first()
        {
            let len = usize::from(self.len);
            if let Some(place) = self.begun.get_mut(len) {
                *place = *byte;
            }
            self.len = match std::str::from_utf8(self.begun.get(..=len).unwrap_or_default()) {
                Ok(_) => 0,
                Err(error) if error.error_len().is_none() => self.len + 1,
                Err(_) => return Err(WsError::InvalidUtf8),
            };
            bytes = rest;
        }
        let Err(error) = std::str::from_utf8(bytes) else { return Ok(()) };
        if error.error_len().is_some() {
            return Err(WsError::InvalidUtf8);
        }
        for byte in bytes.get(error.valid_up_to()..).unwrap_or_default() {
            if let Some(place) = self.begun.get_mut(usize::from(self.len)) {
                *place = *byte;
                self.len += 1;
            }
        }
        Ok(())
    }

    /// Whether the last character has ended.
    pub fn is_whole(self) -> bool {
        self.len == 0
    }
}
