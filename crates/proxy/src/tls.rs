//! TLS to the servers of an upstream.

use std::fmt;
use std::sync::Arc;

use tidegate_metrics::ConnectError;
use tidegate_transport::rustls::ClientConfig;
use tidegate_transport::{BadCredentials, BadTrust, ClientTerms, Credentials, ServerName, TlsStream, Transport, Trust};

/// What an upstream's servers must be, and what they are shown. Equal if it was made of the same.
#[derive(Clone)]
pub struct UpstreamTls(Arc<Inner>);

struct Inner {
    made_of: TlsFiles,
    config: Arc<ClientConfig>,
}

/// What an [`UpstreamTls`] is made of: the texts of files, not their names.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The name that is asked for and that the certificate must be for; `None`: each server's host.
    pub server_name: Option<Arc<str>>,
    /// Whether the certificate does not matter.
    pub unverified: bool,
    /// The roots, PEM; `None` is those of the system.
    pub ca: Option<Vec<u8>>,
    /// The certificate shown to servers that ask for one, and its key, PEM.
    pub certificate: Option<(Vec<u8>, Vec<u8>)>,
    /// Whether HTTP/2 is asked for (ALPN, RFC 7301); HTTP/1.1 otherwise.
    pub http2: bool,
}

/// Why there is no TLS with such files.
#[derive(Debug, thiserror::Error)]
pub enum BadTls {
    /// The roots.
    #[error(transparent)]
    Trust(BadTrust),
    /// The own certificate.
    #[error("certificate: {0}")]
    Certificate(BadCredentials),
    /// The name.
    #[error("server_name {0:?} is not the name of a host")]
    Name(Arc<str>),
}

impl UpstreamTls {
    /// Looks at everything once, so that it is usable later.
    ///
    /// # Errors
    /// [`BadTls`].
    pub fn new(made_of: TlsFiles) -> Result<Self, BadTls> {
        if let Some(name) = &made_of.server_name {
            ServerName::try_from(&**name).map_err(|_| BadTls::Name(name.clone()))?;
        }
        let own = made_of.certificate.as_ref().map(|(chain, key)| Credentials::from_pem(chain, key)).transpose();
        let own = own.map_err(BadTls::Certificate)?;
        let trust = match &made_of.ca {
            _ if made_of.unverified => Trust::Everybody,
            Some(ca) => Trust::Roots(ca),
            None => Trust::System,
        };
        let terms = ClientTerms { trust, certificate: own.as_ref(), http2: made_of.http2 };
        let config = terms.config().map_err(BadTls::Trust)?;
        Ok(Self(Arc::new(Inner { made_of, config })))
    }

    /// A handshake with the server of that address (`host:port`) on a connection that stands.
    pub(crate) async fn shake(&self, stream: Transport, address: &str) -> Result<Transport, ConnectError> {
        let Transport::Plain(socket) = stream else { return Ok(stream) };
        let name = match &self.0.made_of.server_name {
            Some(name) => name,
            None => host(address),
        };
        let name = ServerName::try_from(name).map_err(|_| ConnectError::Tls)?.to_owned();
        match Box::pin(TlsStream::connect(socket, self.0.config.clone(), name)).await {
            Ok(stream) => Ok(stream.into()),
            Err(_) => Err(ConnectError::Tls),
        }
    }
}

/// The host of an address as configured.
fn host(address: &str) -> &str {
    if address.starts_with("unix:") {
        return "localhost";
    }
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

impl PartialEq for UpstreamTls {
    fn eq(&self, other: &Self) -> bool {
        self.0.made_of == other.0.made_of
    }
}

impl Eq for UpstreamTls {}

/// Not the key.
impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTls").field("server_name", &self.0.made_of.server_name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_an_address_is_what_stands_before_its_port() {
        assert_eq!(host("app.example:443"), "app.example");
        assert_eq!(host("[::1]:443"), "::1");
        assert_eq!(host("unix:/run/app.sock"), "localhost");
    }

    #[test]
    fn a_name_that_is_none_is_refused_at_once() {
        let bad = TlsFiles { server_name: Some("not a name".into()), unverified: true, ..TlsFiles::default() };
        assert!(matches!(UpstreamTls::new(bad), Err(BadTls::Name(_))));
    }
}
