//! Public keys from PEM text (RFC 7468): `PUBLIC KEY` and `CERTIFICATE`.

use rustls_pki_types::pem::{PemObject, SectionKind};
use x509_cert::Certificate;
use x509_cert::der::asn1::{ObjectIdentifier, UintRef};
use x509_cert::der::{self, Decode, Encode, Reader, SliceReader};
use x509_cert::spki::SubjectPublicKeyInfoRef;

use crate::key::{Key, KeyFault};
use crate::{Algorithm, KeyKind};

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const ELLIPTIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

impl Key {
    /// All public keys of a PEM text, each for the one of the `allowed` algorithms that fits first, or without a list
    /// for the usual one of its kind. A certificate stands for its key; who signed it and until when is not asked.
    ///
    /// # Errors
    /// [`KeyFault`] if the text holds no key, or one that cannot be used.
    pub fn from_pem(text: &str, allowed: &[Algorithm]) -> Result<Vec<Self>, KeyFault> {
        let mut keys = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
            let (kind, der) = section.map_err(|_| KeyFault::Malformed("it is no PEM text"))?;
            keys.push(match kind {
                SectionKind::PublicKey => public_key(&der, allowed)?,
                SectionKind::Certificate => certificate(&der, allowed)?,
                SectionKind::RsaPrivateKey | SectionKind::PrivateKey | SectionKind::EcPrivateKey => {
                    return Err(KeyFault::Private);
                }
                // Parameters of a curve, revocation lists and the like are no keys.
                SectionKind::Crl | SectionKind::Csr | SectionKind::EchConfigList | _ => continue,
            });
        }
        if keys.is_empty() && text.contains("-----BEGIN RSA PUBLIC KEY-----") {
            return Err(KeyFault::Malformed(
                "it is in PKCS #1; convert it with: openssl rsa -RSAPublicKey_in -in FILE -pubout",
            ));
        }
        if keys.is_empty() {
            return Err(KeyFault::Malformed("it holds no \"-----BEGIN PUBLIC KEY-----\""));
        }
        Ok(keys)
    }
}

fn certificate(der: &[u8], allowed: &[Algorithm]) -> Result<Key, KeyFault> {
    let fault = |_| KeyFault::Malformed("its certificate cannot be read");
    let certificate = Certificate::from_der(der).map_err(fault)?;
    public_key(&certificate.tbs_certificate.subject_public_key_info.to_der().map_err(fault)?, allowed)
}

fn public_key(der: &[u8], allowed: &[Algorithm]) -> Result<Key, KeyFault> {
    let info = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| KeyFault::Malformed("its key cannot be read"))?;
    let bits = info.subject_public_key.as_bytes().ok_or(KeyFault::Malformed("its key cannot be read"))?;
    let kind = match info.algorithm.oid {
        RSA => return rsa(bits, allowed),
        ED25519 => KeyKind::Ed25519,
        ELLIPTIC => match info.algorithm.parameters_oid() {
            Ok(P256) => KeyKind::P256,
            Ok(P384) => KeyKind::P384,
            Ok(other) => return Err(KeyFault::Unsupported(format!("the curve {other}"))),
            Err(_) => return Err(KeyFault::Malformed("its curve has no name")),
        },
        other => return Err(KeyFault::Unsupported(format!("a key of type {other}"))),
    };
    Key::point(kind.choose(allowed).ok_or(KeyFault::NotAllowed(kind))?, bits)
}

/// PKCS #1's RSAPublicKey (RFC 8017 appendix A.1.1).
fn rsa(der: &[u8], allowed: &[Algorithm]) -> Result<Key, KeyFault> {
    let numbers = |der| -> der::Result<(UintRef<'_>, UintRef<'_>)> {
        let mut reader = SliceReader::new(der)?;
        let numbers = reader.sequence(|inside| Ok((UintRef::decode(inside)?, UintRef::decode(inside)?)))?;
        reader.finish(numbers)
    };
    let (modulus, exponent) = numbers(der).map_err(|_| KeyFault::Malformed("its RSA key cannot be read"))?;
    let algorithm = KeyKind::Rsa.choose(allowed).ok_or(KeyFault::NotAllowed(KeyKind::Rsa))?;
    Key::rsa(algorithm, modulus.as_bytes(), exponent.as_bytes())
}
