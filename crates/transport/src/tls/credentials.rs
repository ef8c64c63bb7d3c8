use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// A certificate, its chain and its key, which belong together.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub(super) key: Arc<CertifiedKey>,
    names: Vec<Box<str>>,
    expires: u64,
}

/// Why a certificate and a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadCredentials {
    /// The certificate's text.
    #[error("it holds no certificate in PEM (\"-----BEGIN CERTIFICATE-----\")")]
    NoCertificate,
    /// The certificate's content.
    #[error("the certificate cannot be read: {0}")]
    Certificate(x509_cert::der::Error),
    /// The key's text.
    #[error(
        "there is no private key in PEM (\"-----BEGIN PRIVATE KEY-----\"; keys with a passphrase are not supported)"
    )]
    NoKey,
    /// The key's kind, or whose it is.
    #[error("the key cannot be used with the certificate: {0}")]
    Key(rustls::Error),
}

/// Certificates in PEM, at least one.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadCredentials> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or(BadCredentials::NoCertificate)
}

impl Credentials {
    /// From a chain in PEM, the own certificate first, and a key in PEM (PKCS #8, PKCS #1 or SEC 1).
    ///
    /// # Errors
    /// [`BadCredentials`]; also if the two do not fit together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, BadCredentials> {
        let chain = certificates(chain)?;
        let own = chain.first().ok_or(BadCredentials::NoCertificate)?;
        let parsed = Certificate::from_der(own).map_err(BadCredentials::Certificate)?;
        let names = names(&parsed);
        let expires = parsed.tbs_certificate.validity.not_after.to_unix_duration().as_secs();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| BadCredentials::NoKey)?;
        let key = CertifiedKey::from_der(chain, key, &default_provider()).map_err(BadCredentials::Key)?;
        Ok(Self { key: Arc::new(key), names, expires })
    }

    /// The names of hosts it is for, in small letters, as it has them: `example.org`, `*.example.org`.
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// When it expires, seconds since the Unix epoch.
    pub fn expires(&self) -> u64 {
        self.expires
    }
}

/// The alternative names; a common name says nothing about hosts any more (RFC 9525 section 2).
fn names(certificate: &Certificate) -> Vec<Box<str>> {
    let Ok(Some((_, names))) = certificate.tbs_certificate.get::<SubjectAltName>() else { return Vec::new() };
    let dns = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase().into()),
        GeneralName::OtherName(_)
        | GeneralName::Rfc822Name(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EdiPartyName(_)
        | GeneralName::UniformResourceIdentifier(_)
        | GeneralName::IpAddress(_)
        | GeneralName::RegisteredId(_) => None,
    };
    names.0.iter().filter_map(dns).collect()
}

/// A certificate's subject as RFC 4514 writes it; `None` if it cannot be read.
pub(super) fn subject(certificate: &CertificateDer<'_>) -> Option<String> {
    Some(Certificate::from_der(certificate).ok()?.tbs_certificate.subject.to_string())
}
