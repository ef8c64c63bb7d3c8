use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegate_auth::{Algorithm, Key, KeySet, Secret, Terms};

/// Which tokens count: who may have signed them, and what they must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The shared secret of HMAC tokens.
    pub secret: Option<Secret>,
    /// The algorithms that count; empty: the usual one of each key. A key is used with the first that fits it.
    pub algorithms: Vec<Algorithm>,
    /// Public keys.
    pub public_keys: Vec<PublicKeys>,
    /// Where the issuer publishes its keys.
    pub jwks_url: Option<Arc<str>>,
    /// A file with such a document, watched.
    pub jwks_file: Option<PathBuf>,
    /// How often the document is fetched.
    pub jwks_refresh: Duration,
    /// One of these must stand in `aud`; empty: it is not looked at.
    pub audience: Vec<Box<str>>,
    /// One of these must be `iss`; empty: it is not looked at.
    pub issuer: Vec<Box<str>>,
    /// How far the issuer's clock may be off.
    pub leeway: Duration,
}

/// A PEM file of public keys, as it was when the config was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKeys {
    /// The file.
    pub path: PathBuf,
    /// What stood in it.
    pub text: Arc<str>,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            secret: None,
            algorithms: Vec::new(),
            public_keys: Vec::new(),
            jwks_url: None,
            jwks_file: None,
            jwks_refresh: Duration::from_secs(600),
            audience: Vec::new(),
            issuer: Vec::new(),
            leeway: Duration::ZERO,
        }
    }
}

impl Tokens {
    /// Those with HS256 under one secret.
    pub fn hs256(secret: Secret) -> Self {
        Self { secret: Some(secret), ..Self::default() }
    }

    /// The secret and the public keys; what a JWKS document brings is beside them.
    pub fn own_keys(&self) -> Vec<Key> {
        let algorithm = tidegate_auth::KeyKind::Secret.choose(&self.algorithms);
        let secret = self.secret.as_ref().zip(algorithm);
        let secret = secret.and_then(|(secret, algorithm)| Key::secret(algorithm, secret.expose()).ok());
        // A config that was read has only texts that can be.
        let public = self.public_keys.iter().filter_map(|file| Key::from_pem(&file.text, &self.algorithms).ok());
        secret.into_iter().chain(public.flatten()).collect()
    }

    /// What the claims must say.
    pub fn terms(&self) -> Terms {
        Terms {
            audience: self.audience.clone(),
            issuer: self.issuer.clone(),
            leeway_ms: u64::try_from(self.leeway.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// All keys, with those of JWKS documents.
    pub fn key_set(&self, published: impl IntoIterator<Item = Key>) -> KeySet {
        KeySet::new(self.own_keys().into_iter().chain(published), self.terms())
    }
}
