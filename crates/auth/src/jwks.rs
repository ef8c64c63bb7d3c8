//! Keys from a JWK Set (RFC 7517), as issuers publish them.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::Deserialize;
use serde_json::Value;

use crate::key::{Key, KeyFault};
use crate::{Algorithm, KeyKind};

/// The longest document read, bytes.
pub const MAX_JWKS_BYTES: usize = 256 << 10;
/// The most keys kept. A token that names no key is tried with each one of its algorithm, so their number is a price.
const MAX_KEYS: usize = 32;
/// The longest `kid`, bytes.
const MAX_ID_BYTES: usize = 256;

/// What a document held.
#[derive(Clone, Debug, Default)]
pub struct Jwks {
    /// The keys that can be used.
    pub keys: Vec<Key>,
    /// Which others there are, and why they cannot be used; for the log.
    pub skipped: Vec<Skipped>,
}

/// A key that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its `kid`, or its place if it has none.
    pub id: String,
    /// Why.
    pub fault: KeyFault,
}

/// Whether shared secrets may stand in a document. What is published must not hold any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// A file of our own may.
    Accepted,
    /// What comes from a URL may not.
    Refused,
}

/// Why a document is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwksFault {
    /// It is too long.
    #[error("it is longer than {MAX_JWKS_BYTES} bytes")]
    TooLong,
    /// It is no JSON object with a list `keys`.
    #[error("it is no JSON Web Key Set, {{\"keys\": [...]}} (RFC 7517 section 5)")]
    Malformed,
    /// No key of it can be used.
    #[error("no key of it can be used{0}")]
    NoKey(String),
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

/// What is read of a key. Other members, `x5c` and private ones among them, do not matter.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    use_: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

impl Jwks {
    /// Reads a document. A key that is not understood, is not for signatures, or fits none of the `allowed` algorithms
    /// (without a list: all) is left out, as RFC 7517 section 5 wants it; one that is left out is named in `skipped`.
    ///
    /// # Errors
    /// [`JwksFault`] if it is no such document, or nothing of it can be used.
    pub fn parse(text: &[u8], allowed: &[Algorithm], secrets: Secrets) -> Result<Self, JwksFault> {
        if text.len() > MAX_JWKS_BYTES {
            return Err(JwksFault::TooLong);
        }
        let document: Document = serde_json::from_slice(text).map_err(|_| JwksFault::Malformed)?;
        let mut found = Self::default();
        for (index, value) in document.keys.into_iter().enumerate() {
            let id = value.get("kid").and_then(Value::as_str).filter(|id| id.len() <= MAX_ID_BYTES);
            let id = id.map_or_else(|| format!("number {}", index + 1), str::to_owned);
            match key(value, allowed, secrets) {
                Ok(_) if found.keys.len() >= MAX_KEYS => {
                    found.skipped.push(Skipped { id, fault: KeyFault::Malformed("there are too many before it") });
                }
                Ok(key) => found.keys.push(key),
                Err(fault) => found.skipped.push(Skipped { id, fault }),
            }
        }
        if found.keys.is_empty() {
            let first = found.skipped.first().map(|first| format!(": {:?}: {}", first.id, first.fault));
            return Err(JwksFault::NoKey(first.unwrap_or_default()));
        }
        Ok(found)
    }
}

fn key(value: Value, allowed: &[Algorithm], secrets: Secrets) -> Result<Key, KeyFault> {
    let jwk: Jwk = serde_json::from_value(value).map_err(|_| KeyFault::Malformed("a member is of a wrong type"))?;
    if jwk.use_.as_ref().is_some_and(|used| used != "sig") {
        return Err(KeyFault::Malformed("its \"use\" is not \"sig\""));
    }
    if jwk.key_ops.as_ref().is_some_and(|operations| !operations.iter().any(|operation| operation == "verify")) {
        return Err(KeyFault::Malformed("its \"key_ops\" lack \"verify\""));
    }
    if jwk.kid.as_ref().is_some_and(|id| id.len() > MAX_ID_BYTES) {
        return Err(KeyFault::Malformed("its \"kid\" is too long"));
    }
    let kind = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => KeyKind::Rsa,
        ("EC", Some("P-256")) => KeyKind::P256,
        ("EC", Some("P-384")) => KeyKind::P384,
        ("OKP", Some("Ed25519")) => KeyKind::Ed25519,
        ("oct", _) if secrets == Secrets::Accepted => KeyKind::Secret,
        ("oct", _) => return Err(KeyFault::Malformed("a shared secret must not be published")),
        (kty, None) => return Err(KeyFault::Unsupported(format!("\"kty\" {kty}"))),
        (kty, Some(curve)) => return Err(KeyFault::Unsupported(format!("\"kty\" {kty} with \"crv\" {curve}"))),
    };
    let algorithm = match &jwk.alg {
        None => kind.choose(allowed).ok_or(KeyFault::NotAllowed(kind))?,
        Some(name) => {
            let own = name.parse().map_err(|_| KeyFault::Unsupported(format!("\"alg\" {name}")))?;
            if !allowed.is_empty() && !allowed.contains(&own) {
                return Err(KeyFault::NotAllowed(kind));
            }
            own
        }
    };
    if algorithm.kind() != kind {
        return Err(KeyFault::Malformed("its \"alg\" does not take a key of its \"kty\" and \"crv\""));
    }
    let key = match kind {
        KeyKind::Rsa => Key::rsa(algorithm, &number(jwk.n, "n")?, &number(jwk.e, "e")?),
        KeyKind::Ed25519 => Key::point(algorithm, &number(jwk.x, "x")?),
        KeyKind::P256 | KeyKind::P384 => {
            let (x, y) = (number(jwk.x, "x")?, number(jwk.y, "y")?);
            if x.len() != y.len() {
                return Err(KeyFault::Malformed("its \"x\" and \"y\" differ in length"));
            }
            Key::point(algorithm, &[&[4], &*x, &*y].concat())
        }
        KeyKind::Secret => {
            let secret = number(jwk.k, "k")?;
            let least = algorithm.least_secret_bytes();
            if secret.len() < least {
                return Err(KeyFault::TooShort { bits: secret.len() * 8, least: least * 8 });
            }
            Key::secret(algorithm, secret)
        }
    };
    Ok(key?.named(jwk.kid.map(Arc::from)))
}

/// A member in base64url. Some issuers pad it, against RFC 7515 section 2.
fn number(text: Option<String>, name: &'static str) -> Result<Vec<u8>, KeyFault> {
    let missing = match name {
        "n" => "its \"n\" is missing or no base64url",
        "e" => "its \"e\" is missing or no base64url",
        "x" => "its \"x\" is missing or no base64url",
        "y" => "its \"y\" is missing or no base64url",
        _ => "its \"k\" is missing or no base64url",
    };
    text.and_then(|text| BASE64.decode(text.trim_end_matches('=')).ok()).ok_or(KeyFault::Malformed(missing))
}
