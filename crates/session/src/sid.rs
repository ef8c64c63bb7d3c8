use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

const RANDOM: usize = 18;
const TAG: usize = 4;
const MAC: usize = 8;
const RAW: usize = RANDOM + TAG + MAC;

/// Which node and worker own a session. Part of the sid, so that any node can route a request without a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeTag {
    /// The node.
    pub node: u16,
    /// The worker inside the node.
    pub shard: u16,
}

/// An Engine.IO session id: 18 random bytes, the owner's tag and a MAC, base64url (40 characters).
///
/// It is a credential (whoever knows it can poll the session), so its `Debug` prints nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sid([u8; RAW]);

/// Not a sid that this key has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Session ID unknown")]
pub struct InvalidSid;

/// Makes and checks sids.
#[derive(Clone)]
pub struct SidKey {
    mac: Hmac<Sha256>,
}

impl SidKey {
    /// A key from a secret of any length; all nodes that forward to one another share it.
    pub fn new(secret: &[u8]) -> Self {
        // HMAC takes keys of any length (RFC 2104 section 2), so the error case does not exist.
        let mac = Hmac::<Sha256>::new_from_slice(secret)
            .unwrap_or_else(|_| Hmac::<Sha256>::new(&hmac::digest::Key::<Hmac<Sha256>>::default()));
        Self { mac }
    }

    /// A new sid for a session of `owner` from 18 unguessable bytes.
    pub fn mint(&self, random: [u8; RANDOM], owner: NodeTag) -> Sid {
        let mut raw = [0; RAW];
        let tag = (u32::from(owner.node) << 16) | u32::from(owner.shard);
        let bytes = random.iter().copied().chain(tag.to_be_bytes());
        raw.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        let mac = self.sign(&raw);
        raw.iter_mut().skip(RANDOM + TAG).zip(mac).for_each(|(to, from)| *to = from);
        Sid(raw)
    }

    /// Reads a sid and its owner out of text, without any look-up.
    ///
    /// # Errors
    /// [`InvalidSid`] for anything this key did not make.
    pub fn verify(&self, text: &str) -> Result<(Sid, NodeTag), InvalidSid> {
        let mut raw = [0; RAW];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut raw).map_err(|_| InvalidSid)?;
        if length != RAW {
            return Err(InvalidSid);
        }
        let expected = self.sign(&raw);
        let difference = raw.iter().skip(RANDOM + TAG).zip(expected).fold(0, |difference, (a, b)| difference | (a ^ b));
        if difference != 0 {
            return Err(InvalidSid);
        }
        let tag = raw.iter().skip(RANDOM).take(TAG).fold(0u32, |tag, byte| (tag << 8) | u32::from(*byte));
        #[allow(clippy::cast_possible_truncation)]
        let owner = NodeTag { node: (tag >> 16) as u16, shard: tag as u16 };
        Ok((Sid(raw), owner))
    }

    fn sign(&self, raw: &[u8; RAW]) -> [u8; MAC] {
        let mut mac = self.mac.clone();
        mac.update(raw.get(..RANDOM + TAG).unwrap_or_default());
        let mut out = [0; MAC];
        out.iter_mut().zip(mac.finalize().into_bytes()).for_each(|(to, from)| *to = from);
        out
    }
}

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; RAW.div_ceil(3) * 4];
        let length = URL_SAFE_NO_PAD.encode_slice(self.0, &mut text).unwrap_or(0);
        f.write_str(text.get(..length).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default())
    }
}

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sid(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWNER: NodeTag = NodeTag { node: 7, shard: 3 };

    #[test]
    fn a_sid_names_its_owner_and_cannot_be_forged() {
        let key = SidKey::new(b"one");
        let text = key.mint([9; 18], OWNER).to_string();
        assert_eq!(text.len(), 40);
        assert_eq!(key.verify(&text).unwrap().1, OWNER);
        assert_eq!(SidKey::new(b"two").verify(&text), Err(InvalidSid));
        for index in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[index] = if forged[index] == b'A' { b'B' } else { b'A' };
            assert_eq!(key.verify(std::str::from_utf8(&forged).unwrap()), Err(InvalidSid), "byte {index}");
        }
    }

    #[test]
    fn a_sid_never_reaches_a_log() {
        let sid = SidKey::new(b"one").mint([9; 18], OWNER);
        assert_eq!(format!("{sid:?}"), "Sid(***)");
    }

    proptest! {
        #[test]
        fn any_text_is_refused_quietly(text: String) {
            prop_assert_eq!(SidKey::new(b"one").verify(&text), Err(InvalidSid));
        }
    }
}
