use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::credentials::{BadCredentials, Credentials, certificates};

/// What a client has to say in a handshake with a server.
#[derive(Debug)]
pub struct ClientTerms<'a> {
    /// Whom it believes.
    pub trust: Trust<'a>,
    /// What it shows of itself if it is asked.
    pub certificate: Option<&'a Credentials>,
    /// Whether it speaks HTTP/2, and nothing else; HTTP/1.1 otherwise.
    pub http2: bool,
}

/// Which servers a client believes to be who they are.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// Those with a certificate that the roots of the system vouch for.
    System,
    /// Those that one of these vouches for (PEM).
    Roots(&'a [u8]),
    /// All. Whoever is on the way can read and change everything.
    Everybody,
}

/// Why there can be no handshakes on such terms.
#[derive(Debug, thiserror::Error)]
pub enum BadTrust {
    /// The roots.
    #[error("ca: {0}")]
    Roots(BadCredentials),
    /// The system's roots.
    #[error("the system has no root certificates (Debian: package ca-certificates); name some with `ca`")]
    NoSystemRoots,
    /// rustls does not take it.
    #[error("{0}")]
    Tls(Error),
}

impl ClientTerms<'_> {
    /// The configuration for [`crate::TlsStream::connect`].
    ///
    /// # Errors
    /// [`BadTrust`].
    pub fn config(self) -> Result<Arc<ClientConfig>, BadTrust> {
        let provider = Arc::new(default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(BadTrust::Tls)?;
        let builder = match self.trust {
            Trust::Everybody => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))),
            Trust::System => builder.with_root_certificates(system_roots()?),
            Trust::Roots(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(pem).map_err(BadTrust::Roots)? {
                    roots.add(certificate).map_err(BadTrust::Tls)?;
                }
                builder.with_root_certificates(roots)
            }
        };
        let mut config = match self.certificate {
            Some(own) => builder.with_client_cert_resolver(Arc::new(Own(own.key.clone()))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![if self.http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        Ok(Arc::new(config))
    }
}

fn system_roots() -> Result<RootCertStore, BadTrust> {
    let mut roots = RootCertStore::empty();
    // One that cannot be read vouches for nobody; the others do.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(BadTrust::NoSystemRoots) } else { Ok(roots) }
}

#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesClientCert for Own {
    fn resolve(&self, _roots: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Takes any certificate; only that its owner has the key is checked.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
