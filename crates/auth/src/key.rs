//! One key: what it is made of, and whether it signed something.

use std::fmt;
use std::sync::Arc;

use ring::{hmac, signature};

use crate::Algorithm;

/// The smallest RSA modulus, bits (RFC 7518 section 3.3).
const MIN_RSA_BITS: usize = 2_048;
/// The largest one, bits: what the arithmetic is made for.
const MAX_RSA_BITS: usize = 8_192;

/// A key that tokens may be signed with, for exactly one algorithm (RFC 8725 section 3.1). Cheap to clone.
#[derive(Clone)]
pub struct Key {
    algorithm: Algorithm,
    /// Tokens may say by this which key signed them.
    id: Option<Arc<str>>,
    material: Material,
}

#[derive(Clone)]
enum Material {
    Secret(Box<hmac::Key>),
    /// Modulus and exponent, big endian, without leading zeros.
    Rsa(Arc<(Vec<u8>, Vec<u8>)>),
    /// An uncompressed point, or Ed25519's 32 bytes.
    Point(Arc<[u8]>),
}

/// Why something is no key. Tells nothing of the key itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// The text or its base64 or ASN.1 cannot be read.
    #[error("{0}")]
    Malformed(&'static str),
    /// No allowed algorithm takes it.
    #[error("none of the allowed algorithms takes {0}")]
    NotAllowed(crate::KeyKind),
    /// It is too short.
    #[error("it has {bits} bits; it must have at least {least}")]
    TooShort {
        /// What it has.
        bits: usize,
        /// What it must have.
        least: usize,
    },
    /// It is too long.
    #[error("it has {0} bits; at most {MAX_RSA_BITS} are supported")]
    TooLong(usize),
    /// It is of a kind that is not known.
    #[error("{0:?} is not supported")]
    Unsupported(String),
    /// It must not leave the issuer.
    #[error("it is a private key, which only the issuer may have; give the public one (openssl pkey -in FILE -pubout)")]
    Private,
}

impl Key {
    /// A shared secret for one of the HMAC algorithms.
    ///
    /// # Errors
    /// [`KeyFault::NotAllowed`] if the algorithm is none of HMAC. How long it must be is the caller's business:
    /// [`Algorithm::least_secret_bytes`], [`crate::weakness`].
    pub fn secret(algorithm: Algorithm, secret: impl AsRef<[u8]>) -> Result<Self, KeyFault> {
        let hash = hmac_of(algorithm).ok_or(KeyFault::NotAllowed(crate::KeyKind::Secret))?;
        Ok(Self::of_secret(algorithm, hash, secret.as_ref()))
    }

    pub(crate) fn hs256(secret: &[u8]) -> Self {
        Self::of_secret(Algorithm::Hs256, hmac::HMAC_SHA256, secret)
    }

    fn of_secret(algorithm: Algorithm, hash: hmac::Algorithm, secret: &[u8]) -> Self {
        Self { algorithm, id: None, material: Material::Secret(Box::new(hmac::Key::new(hash, secret))) }
    }

    /// An RSA key by modulus and exponent, big endian.
    pub(crate) fn rsa(algorithm: Algorithm, modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyFault> {
        let (modulus, exponent) = (significant(modulus), significant(exponent));
        let bits =
            modulus.first().map_or(0, |first| modulus.len() * 8 - usize::try_from(first.leading_zeros()).unwrap_or(0));
        if bits < MIN_RSA_BITS {
            return Err(KeyFault::TooShort { bits, least: MIN_RSA_BITS });
        }
        if bits > MAX_RSA_BITS {
            return Err(KeyFault::TooLong(bits));
        }
        if exponent.last().is_none_or(|last| last % 2 == 0) || exponent.len() > 4 || exponent == [1] {
            return Err(KeyFault::Malformed("its exponent is none of RSA's"));
        }
        let material = Material::Rsa(Arc::new((modulus.to_vec(), exponent.to_vec())));
        Ok(Self { algorithm, id: None, material })
    }

    /// A point: on a curve in its uncompressed form, or 32 bytes of Ed25519.
    pub(crate) fn point(algorithm: Algorithm, point: &[u8]) -> Result<Self, KeyFault> {
        let (length, compressed) = match algorithm {
            Algorithm::Es384 => (97, point.first() != Some(&4)),
            Algorithm::EdDsa => (32, false),
            Algorithm::Es256
            | Algorithm::Hs256
            | Algorithm::Hs384
            | Algorithm::Hs512
            | Algorithm::Rs256
            | Algorithm::Rs384
            | Algorithm::Rs512
            | Algorithm::Ps256
            | Algorithm::Ps384
            | Algorithm::Ps512 => (65, point.first() != Some(&4)),
        };
        if compressed {
            return Err(KeyFault::Malformed("its point is compressed, which is not supported"));
        }
        if point.len() != length {
            return Err(KeyFault::Malformed("its point has not the length of its curve"));
        }
        Ok(Self { algorithm, id: None, material: Material::Point(point.into()) })
    }

    /// The same key under a name (`kid`).
    #[must_use]
    pub fn named(mut self, id: Option<Arc<str>>) -> Self {
        self.id = id;
        self
    }

    /// The only algorithm that it is ever used with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its name, if it has one.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Whether this key made that signature of the message. For a secret, in a time that does not depend on the
    /// signature.
    pub(crate) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Material::Rsa(numbers) => rsa_of(self.algorithm).is_some_and(|how| {
                signature::RsaPublicKeyComponents { n: &numbers.0, e: &numbers.1 }
                    .verify(how, message, signature)
                    .is_ok()
            }),
            Material::Point(point) => point_of(self.algorithm)
                .is_some_and(|how| signature::UnparsedPublicKey::new(how, point).verify(message, signature).is_ok()),
        }
    }

    /// The HMAC of the message; `None` for a public key, which signs nothing.
    pub(crate) fn sign(&self, message: &[u8]) -> Option<hmac::Tag> {
        match &self.material {
            Material::Secret(key) => Some(hmac::sign(key, message)),
            Material::Rsa(_) | Material::Point(_) => None,
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.algorithm)
    }
}

/// Without leading zeros, which ASN.1 and some issuers write.
fn significant(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

pub(crate) fn hmac_of(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    match algorithm {
        Algorithm::Hs256 => Some(hmac::HMAC_SHA256),
        Algorithm::Hs384 => Some(hmac::HMAC_SHA384),
        Algorithm::Hs512 => Some(hmac::HMAC_SHA512),
        Algorithm::Rs256
        | Algorithm::Rs384
        | Algorithm::Rs512
        | Algorithm::Ps256
        | Algorithm::Ps384
        | Algorithm::Ps512
        | Algorithm::Es256
        | Algorithm::Es384
        | Algorithm::EdDsa => None,
    }
}

fn rsa_of(algorithm: Algorithm) -> Option<&'static signature::RsaParameters> {
    match algorithm {
        Algorithm::Rs256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::Ps256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
        Algorithm::Hs256
        | Algorithm::Hs384
        | Algorithm::Hs512
        | Algorithm::Es256
        | Algorithm::Es384
        | Algorithm::EdDsa => None,
    }
}

fn point_of(algorithm: Algorithm) -> Option<&'static dyn signature::VerificationAlgorithm> {
    match algorithm {
        Algorithm::Es256 => Some(&signature::ECDSA_P256_SHA256_FIXED),
        Algorithm::Es384 => Some(&signature::ECDSA_P384_SHA384_FIXED),
        Algorithm::EdDsa => Some(&signature::ED25519),
        Algorithm::Hs256
        | Algorithm::Hs384
        | Algorithm::Hs512
        | Algorithm::Rs256
        | Algorithm::Rs384
        | Algorithm::Rs512
        | Algorithm::Ps256
        | Algorithm::Ps384
        | Algorithm::Ps512 => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

    #[test]
    fn the_example_of_rfc_8037_was_signed_by_its_key() {
        // Appendices A.2 and A.4; its payload is no JSON, so it is no token.
        let key = BASE64.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        let message = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        let signature = BASE64.decode(signature).unwrap();
        let key = Key::point(Algorithm::EdDsa, &key).unwrap();
        assert!(key.signed(message, &signature));
        assert!(!key.signed(b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmd", &signature));
    }

    #[test]
    fn numbers_that_are_no_keys_are_refused() {
        let short = [0xff; 128];
        let long = [0xff; 1025];
        let good = [0xff; 256];
        assert_eq!(
            Key::rsa(Algorithm::Rs256, &short, &[1, 0, 1]).err(),
            Some(KeyFault::TooShort { bits: 1_024, least: 2_048 })
        );
        assert_eq!(Key::rsa(Algorithm::Rs256, &long, &[1, 0, 1]).err(), Some(KeyFault::TooLong(8_200)));
        assert!(Key::rsa(Algorithm::Rs256, &good, &[1, 0, 1]).is_ok());
        for exponent in [&[][..], &[0], &[1], &[2], &[1, 0, 0, 0, 1]] {
            assert!(Key::rsa(Algorithm::Rs256, &good, exponent).is_err(), "{exponent:?}");
        }
        assert!(Key::point(Algorithm::EdDsa, &[1; 31]).is_err());
        assert!(Key::point(Algorithm::Es256, &[4; 64]).is_err());
        assert!(Key::point(Algorithm::Es256, &[3; 65]).is_err());
        assert!(Key::point(Algorithm::Es384, &[4; 65]).is_err());
        assert!(Key::secret(Algorithm::Rs256, "text of a public key").is_err());
    }
}
