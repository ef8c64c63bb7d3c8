//! How nodes know each other for nodes: certificates of both sides, made of the secret that all share, or given.
//!
//! Of the secret a key is derived (HKDF, RFC 5869) that signs certificates. Every node makes itself one, with a key of its own
//! that never leaves the process; each believes only what that key has signed. Who does not have the secret can make none.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, date_time_ymd,
};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use tidegate_config::Cluster;
use tidegate_proxy::{TlsFiles, UpstreamTls};
use tidegate_transport::rustls::{ClientConfig, ServerConfig};
use tidegate_transport::{ClientTerms, Clients, Credentials, ServerName, ServerTerms, Tickets, Trust};

use crate::StartError;

/// What derived keys are for, apart from each other.
const SALT: &[u8] = b"tidegate cluster 1";
/// The name that certificates made of the secret are for. It is none of DNS; that of an address would say nothing more.
const NAME: &str = "node.tidegate.internal";
/// The head of an Ed25519 key in PKCS #8 (RFC 8410 section 7), before its 32 bytes.
const PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// What a node shows to the others, and by what it knows them.
pub(crate) struct Identity {
    /// For the internal listener.
    pub server: Arc<ServerConfig>,
    /// For requests that are passed on.
    pub upstream: UpstreamTls,
    /// For questions that the node asks itself.
    pub client: (Arc<ClientConfig>, ServerName<'static>),
    /// What session ids are made with.
    pub sid_secret: [u8; 32],
}

/// Texts of PEM files, and the name that they are for.
struct Pems {
    ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
    name: Arc<str>,
}

impl Identity {
    /// Of this process.
    ///
    /// # Errors
    /// A file cannot be read, or is not what it should be.
    pub fn new(cluster: &Cluster) -> Result<Self, StartError> {
        let secret = cluster.secret.expose().as_bytes();
        let fault = |what: &dyn Display| StartError::Config(format!("[cluster] internal_tls: {what}"));
        let pems = match &cluster.internal_tls {
            Some(tls) => {
                let read =
                    |file: &Path| std::fs::read(file).map_err(|error| fault(&format!("{}: {error}", file.display())));
                Pems {
                    ca: read(&tls.ca)?,
                    certificate: read(&tls.certificate.certificate)?,
                    key: read(&tls.certificate.key)?,
                    name: tls.server_name.clone(),
                }
            }
            None => issue(derive(secret, b"certificates")?).map_err(|error| fault(&error))?,
        };
        let own = Credentials::from_pem(&pems.certificate, &pems.key).map_err(|error| fault(&error))?;
        let certificates = [own];
        let terms = ServerTerms {
            certificates: &certificates,
            tls13_only: true,
            clients: Clients::Required(&pems.ca),
            http2: false,
            tickets: Some(Tickets::new().map_err(|error| fault(&error))?),
        };
        let server = terms.config().map_err(|error| fault(&error))?;
        let trust = Trust::Roots(&pems.ca);
        let terms = ClientTerms { trust, certificate: certificates.first(), http2: false };
        let name = ServerName::try_from(pems.name.to_string()).map_err(|error| fault(&error))?;
        let client = (terms.config().map_err(|error| fault(&error))?, name);
        let files = TlsFiles {
            server_name: Some(pems.name),
            unverified: false,
            ca: Some(pems.ca),
            certificate: Some((pems.certificate, pems.key)),
            http2: false,
        };
        let upstream = UpstreamTls::new(files).map_err(|error| fault(&error))?;
        Ok(Self { server, upstream, client, sid_secret: derive(secret, b"session ids")? })
    }
}

/// As many bytes as a key of 32 needs.
struct Bytes32;

impl KeyType for Bytes32 {
    fn len(&self) -> usize {
        32
    }
}

fn derive(secret: &[u8], purpose: &[u8]) -> Result<[u8; 32], StartError> {
    let mut key = [0; 32];
    let derived = Salt::new(HKDF_SHA256, SALT).extract(secret);
    // Fails for lengths beyond 8,160 bytes only.
    let filled = derived.expand(&[purpose], Bytes32).and_then(|output| output.fill(&mut key));
    filled.map_err(|_| StartError::Config("[cluster] secret: no key can be derived".to_owned()))?;
    Ok(key)
}

/// A certificate of this process, signed by the key that the secret gives.
fn issue(seed: [u8; 32]) -> Result<Pems, rcgen::Error> {
    let der = [PKCS8.as_slice(), &seed].concat();
    let signing = KeyPair::try_from(der)?;
    let mut root = plain("tidegate cluster");
    root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = root.self_signed(&signing)?;
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let mut own = plain("tidegate node");
    own.subject_alt_names = vec![rcgen::SanType::DnsName(NAME.try_into()?)];
    own.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = own.signed_by(&key, &Issuer::from_params(&root, &signing))?;
    Ok(Pems {
        ca: ca.pem().into(),
        certificate: certificate.pem().into(),
        key: key.serialize_pem().into(),
        name: NAME.into(),
    })
}

/// Valid at any time: a node's clock may be far off, and what a certificate of this kind proves is the secret.
fn plain(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(1975, 1, 1);
    params.not_after = date_time_ymd(4096, 1, 1);
    params
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_config::Redis;
    use tidegate_transport::{Socket, TlsStream};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    fn identity(secret: &str) -> Identity {
        Identity::new(&Cluster::new(Redis::at("r", 1), secret.into())).unwrap()
    }

    /// Whether a byte goes from one to the other and is answered.
    async fn meet(server: &Identity, client: Arc<ClientConfig>) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = server.server.clone();
        let name = server.client.1.clone();
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = TlsStream::accept(Socket::from(stream), config).await.ok()?;
            stream.write_all(b"x").await.ok()
        };
        let ask = async {
            let stream = TcpStream::connect(address).await.unwrap();
            let mut stream = TlsStream::connect(Socket::from(stream), client, name).await.ok()?;
            // In TLS 1.3 the client learns only here what the server thinks of its certificate.
            stream.read_u8().await.ok()
        };
        let (served, asked) = tokio::join!(serve, ask);
        served.is_some() && asked == Some(b'x')
    }

    #[tokio::test]
    async fn who_has_the_secret_is_a_node_and_nobody_else_is() {
        let secret = "0123456789abcdef0123456789abcdef";
        let (one, other, stranger) = (identity(secret), identity(secret), identity(&secret.replace('0', "9")));
        assert!(meet(&one, other.client.0.clone()).await);
        assert!(meet(&one, one.client.0.clone()).await);
        assert!(!meet(&one, stranger.client.0.clone()).await);
        assert!(!meet(&stranger, one.client.0.clone()).await);
        let anonymous = ClientTerms { trust: Trust::Everybody, certificate: None, http2: false }.config().unwrap();
        assert!(!meet(&one, anonymous).await);
        assert_eq!(one.sid_secret, other.sid_secret);
        assert_ne!(one.sid_secret, stranger.sid_secret);
    }
}
