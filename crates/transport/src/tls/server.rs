use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, VerifierBuilderError,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

use super::credentials::{BadCredentials, Credentials, certificates};

/// What a server has to say in a handshake.
#[derive(Debug)]
pub struct ServerTerms<'a> {
    /// At least one; the first is for names that none has, and for clients that name none.
    pub certificates: &'a [Credentials],
    /// Whether TLS 1.2 is refused.
    pub tls13_only: bool,
    /// Whether clients are asked for a certificate, and by whom it must be signed (PEM).
    pub clients: Clients<'a>,
    /// Whether HTTP/2 is offered.
    pub http2: bool,
    /// How sessions are resumed; `None`: not at all.
    pub tickets: Option<Tickets>,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug)]
pub enum Clients<'a> {
    /// They are not asked.
    Unasked,
    /// One that is shown must be good.
    Asked(&'a [u8]),
    /// They must show one.
    Required(&'a [u8]),
}

/// The keys of session tickets: whoever keeps them lets clients resume their sessions. They change by themselves.
#[derive(Clone, Debug)]
pub struct Tickets(Arc<dyn ProducesTickets>);

impl Tickets {
    /// New keys.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new() -> Result<Self, BadTerms> {
        Ok(Self(Ticketer::new().map_err(BadTerms::Tls)?))
    }
}

/// Why there can be no handshakes on such terms.
#[derive(Debug, thiserror::Error)]
pub enum BadTerms {
    /// No certificate.
    #[error("there is no certificate")]
    NoCertificate,
    /// The certificates that clients are checked against.
    #[error("client_ca: {0}")]
    ClientCa(BadCredentials),
    /// They are no roots.
    #[error("client_ca: {0}")]
    ClientRoots(VerifierBuilderError),
    /// rustls does not take it.
    #[error("{0}")]
    Tls(rustls::Error),
}

impl ServerTerms<'_> {
    /// The configuration for [`crate::TlsStream::accept`].
    ///
    /// # Errors
    /// [`BadTerms`].
    pub fn config(self) -> Result<Arc<ServerConfig>, BadTerms> {
        let provider = Arc::new(default_provider());
        let versions: &[_] = if self.tls13_only {
            &[&rustls::version::TLS13]
        } else {
            &[&rustls::version::TLS13, &rustls::version::TLS12]
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(BadTerms::Tls)?;
        let builder = match self.clients {
            Clients::Unasked => builder.with_no_client_auth(),
            Clients::Asked(ca) => {
                let verifier = verifier(ca, &provider)?.allow_unauthenticated().build();
                builder.with_client_cert_verifier(verifier.map_err(BadTerms::ClientRoots)?)
            }
            Clients::Required(ca) => {
                let verifier = verifier(ca, &provider)?.build();
                builder.with_client_cert_verifier(verifier.map_err(BadTerms::ClientRoots)?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName::new(self.certificates)?));
        config.alpn_protocols = match self.http2 {
            true => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            false => vec![b"http/1.1".to_vec()],
        };
        // Sessions are kept by the clients, in tickets: a store here would be one more lock and one more bound.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        match self.tickets {
            Some(Tickets(keys)) => config.ticketer = keys,
            None => config.send_tls13_tickets = 0,
        }
        Ok(Arc::new(config))
    }
}

fn verifier(ca: &[u8], provider: &Arc<CryptoProvider>) -> Result<rustls::server::ClientCertVerifierBuilder, BadTerms> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca).map_err(BadTerms::ClientCa)? {
        roots.add(certificate).map_err(BadTerms::Tls)?;
    }
    Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()))
}

/// Finds the certificate for the name that a client asks for.
#[derive(Debug)]
struct ByName {
    exact: HashMap<Box<str>, Candidates>,
    /// By what follows the first label.
    wildcard: HashMap<Box<str>, Candidates>,
    default: Candidates,
}

/// In the order of the config: one name may have certificates of several kinds of keys.
type Candidates = Vec<Arc<CertifiedKey>>;

impl ByName {
    fn new(all: &[Credentials]) -> Result<Self, BadTerms> {
        let first = all.first().ok_or(BadTerms::NoCertificate)?;
        let mut this = Self { exact: HashMap::new(), wildcard: HashMap::new(), default: vec![first.key.clone()] };
        for credentials in all {
            for name in credentials.names() {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut this.wildcard, rest),
                    None => (&mut this.exact, &**name),
                };
                map.entry(name.into()).or_default().push(credentials.key.clone());
            }
        }
        // A certificate of another kind of key for the same names serves clients that cannot use the first one.
        let twins = all.iter().skip(1).filter(|other| other.names() == first.names());
        this.default.extend(twins.map(|twin| twin.key.clone()));
        Ok(this)
    }

    fn find(&self, name: Option<&str>) -> &Candidates {
        let Some(name) = name else { return &self.default };
        let wild = || self.wildcard.get(name.split_once('.')?.1);
        self.exact.get(name).or_else(wild).unwrap_or(&self.default)
    }
}

thread_local! {
    /// The name of the last handshake of this thread. rustls's unbuffered connections do not tell it.
    static NAMED: Cell<Option<Box<str>>> = const { Cell::new(None) };
}

/// The name that the handshake asked for in the step of this thread that has just been done.
pub(super) fn take_name() -> Option<Box<str>> {
    NAMED.take()
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls gives names in small letters, and none that is no name of DNS.
        let name = hello.server_name();
        NAMED.set(name.map(Box::from));
        let candidates = self.find(name);
        let usable = candidates.iter().find(|one| one.key.choose_scheme(hello.signature_schemes()).is_some());
        usable.or(candidates.first()).cloned()
    }
}
