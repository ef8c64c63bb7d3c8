//! What tokens are signed with: by `tidegate token`, and by tests.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::hmac;
// Only the trait is used: randomness itself comes in as an argument.
use ring::rand as randomness;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use rustls_pki_types::pem::{PemObject, SectionKind};

use crate::key::{KeyFault, hmac_of};
use crate::keys::message;
use crate::{Algorithm, Claims, KeyKind};

/// A key that signs. Never printed.
pub struct SigningKey {
    algorithm: Algorithm,
    id: Option<String>,
    material: Material,
}

enum Material {
    Secret(hmac::Key),
    Rsa(Box<RsaKeyPair>),
    Elliptic(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl SigningKey {
    /// A shared secret for one of the HMAC algorithms.
    ///
    /// # Errors
    /// [`KeyFault::NotAllowed`] if the algorithm is none of HMAC.
    pub fn secret(algorithm: Algorithm, secret: impl AsRef<[u8]>) -> Result<Self, KeyFault> {
        let hash = hmac_of(algorithm).ok_or(KeyFault::NotAllowed(KeyKind::Secret))?;
        Ok(Self { algorithm, id: None, material: Material::Secret(hmac::Key::new(hash, secret.as_ref())) })
    }

    /// The first private key of a PEM text: PKCS #8 (`PRIVATE KEY`), or for RSA also `RSA PRIVATE KEY`. Without an
    /// algorithm it signs with the usual one of its kind.
    ///
    /// # Errors
    /// [`KeyFault`] if there is no such key, or it does not fit the algorithm.
    pub fn from_pem(
        text: &str,
        algorithm: Option<Algorithm>,
        random: &dyn randomness::SecureRandom,
    ) -> Result<Self, KeyFault> {
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
            let (kind, der) = section.map_err(|_| KeyFault::Malformed("it is no PEM text"))?;
            let material = match kind {
                SectionKind::PrivateKey => pkcs8(&der, random)?,
                SectionKind::RsaPrivateKey => {
                    let pair = RsaKeyPair::from_der(&der);
                    Material::Rsa(Box::new(pair.map_err(|_| KeyFault::Malformed("its RSA key cannot be used"))?))
                }
                SectionKind::EcPrivateKey => {
                    return Err(KeyFault::Malformed(
                        "it is not in PKCS #8; convert it with: openssl pkcs8 -topk8 -nocrypt -in FILE",
                    ));
                }
                SectionKind::PublicKey
                | SectionKind::Certificate
                | SectionKind::Crl
                | SectionKind::Csr
                | SectionKind::EchConfigList
                | _ => continue,
            };
            let kind = material.kind();
            let algorithm = algorithm.unwrap_or(kind.usual());
            if algorithm.kind() != kind {
                return Err(KeyFault::NotAllowed(kind));
            }
            return Ok(Self { algorithm, id: None, material });
        }
        Err(KeyFault::Malformed("it holds no \"-----BEGIN PRIVATE KEY-----\""))
    }

    /// The same key under a name (`kid`), which its tokens will say.
    #[must_use]
    pub fn named(mut self, id: Option<String>) -> Self {
        self.id = id;
        self
    }

    /// What it signs with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// A token with these claims. `None` if the system has no randomness to give.
    pub fn sign(&self, claims: &Claims, random: &dyn randomness::SecureRandom) -> Option<String> {
        let message = message(self.algorithm, self.id.as_deref(), claims)?;
        let signature = self.signature(message.as_bytes(), random)?;
        Some(format!("{message}.{}", BASE64.encode(signature)))
    }

    fn signature(&self, message: &[u8], random: &dyn randomness::SecureRandom) -> Option<Vec<u8>> {
        match &self.material {
            Material::Secret(key) => Some(hmac::sign(key, message).as_ref().to_vec()),
            Material::Elliptic(pair) => Some(pair.sign(random, message).ok()?.as_ref().to_vec()),
            Material::Ed25519(pair) => Some(pair.sign(message).as_ref().to_vec()),
            Material::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding(self.algorithm)?, random, message, &mut signature).ok()?;
                Some(signature)
            }
        }
    }
}

impl Material {
    fn kind(&self) -> KeyKind {
        match self {
            Self::Secret(_) => KeyKind::Secret,
            Self::Rsa(_) => KeyKind::Rsa,
            Self::Elliptic(pair) if signature::KeyPair::public_key(&**pair).as_ref().len() > 65 => KeyKind::P384,
            Self::Elliptic(_) => KeyKind::P256,
            Self::Ed25519(_) => KeyKind::Ed25519,
        }
    }
}

fn pkcs8(der: &[u8], random: &dyn randomness::SecureRandom) -> Result<Material, KeyFault> {
    // Each reader refuses a key of another type by its first bytes, so the order does not matter.
    if let Ok(pair) = RsaKeyPair::from_pkcs8(der) {
        return Ok(Material::Rsa(Box::new(pair)));
    }
    for curve in [&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &signature::ECDSA_P384_SHA384_FIXED_SIGNING] {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(curve, der, random) {
            return Ok(Material::Elliptic(Box::new(pair)));
        }
    }
    // OpenSSL writes Ed25519 keys without their public half.
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
        .map(|pair| Material::Ed25519(Box::new(pair)))
        .map_err(|_| KeyFault::Malformed("it is no key of RSA, P-256, P-384 or Ed25519"))
}

fn padding(algorithm: Algorithm) -> Option<&'static dyn signature::RsaEncoding> {
    let padding: &'static dyn signature::RsaEncoding = match algorithm {
        Algorithm::Rs256 => &signature::RSA_PKCS1_SHA256,
        Algorithm::Rs384 => &signature::RSA_PKCS1_SHA384,
        Algorithm::Rs512 => &signature::RSA_PKCS1_SHA512,
        Algorithm::Ps256 => &signature::RSA_PSS_SHA256,
        Algorithm::Ps384 => &signature::RSA_PSS_SHA384,
        Algorithm::Ps512 => &signature::RSA_PSS_SHA512,
        Algorithm::Hs256
        | Algorithm::Hs384
        | Algorithm::Hs512
        | Algorithm::Es256
        | Algorithm::Es384
        | Algorithm::EdDsa => return None,
    };
    Some(padding)
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.algorithm)
    }
}
