//! The generator's side of TLS. Whoever measures a server trusts it: certificates are not checked.

use std::cell::Cell;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CipherSuite, ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme};
use tidegate_transport::{Socket, TlsStream};
use tokio::net::TcpStream;

/// How connections with TLS are made.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    resumed: Rc<Cell<u64>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("resumed", &self.resumed).finish_non_exhaustive()
    }
}

impl Tls {
    /// Sessions are resumed where the server lets them.
    pub fn new() -> anyhow::Result<Self> {
        let mut provider = ring::default_provider();
        // As browsers do on machines with AES instructions: the server chooses by the client's order.
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        let provider = Arc::new(provider);
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .context("no TLS")?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting(provider)))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), resumed: Rc::default() })
    }

    /// Each handshake is a full one.
    pub fn without_resumption(mut self) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::disabled();
        self.config = Arc::new(config);
        self
    }

    /// Handshakes that resumed a session.
    pub fn resumed(&self) -> &Cell<u64> {
        &self.resumed
    }

    /// Makes a connection one with TLS.
    pub async fn shake_hands(&self, stream: TcpStream, host: &str) -> anyhow::Result<TlsStream> {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
        let name = match name.parse::<IpAddr>() {
            Ok(ip) => ServerName::from(ip),
            Err(_) => ServerName::try_from(name.to_owned()).with_context(|| format!("`{name}` is no name for TLS"))?,
        };
        let stream = TlsStream::connect(Socket::Tcp(stream), self.config.clone(), name).await?;
        if stream.inspect(|state| state.handshake_kind()) == Some(HandshakeKind::Resumed) {
            self.resumed.set(self.resumed.get() + 1);
        }
        Ok(stream)
    }
}

/// Takes any certificate.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
