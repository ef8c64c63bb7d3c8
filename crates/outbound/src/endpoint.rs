use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use http::Uri;
use http::header::HeaderValue;
use http::uri::{PathAndQuery, Scheme};
use tidegate_transport::rustls::ClientConfig;
use tidegate_transport::{BadTrust, ClientTerms, ServerName, Trust};

/// Where calls go: a URL that was read once, and the TLS for it.
#[derive(Clone)]
pub struct Endpoint {
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
    pub(crate) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// For the header `Host`.
    pub(crate) authority: HeaderValue,
    pub(crate) path: PathAndQuery,
}

/// Why there can be no calls to such a URL.
#[derive(Debug, thiserror::Error)]
pub enum BadEndpoint {
    /// It does not parse.
    #[error("this is no URL; e.g. https://app.example/hooks")]
    NoUrl,
    /// Another scheme, or none.
    #[error("only http:// and https:// can be called")]
    Scheme,
    /// A user or password before the host would end up in logs.
    #[error("a user or password has no place in it: calls are authenticated by their headers")]
    Credentials,
    /// A host that no certificate can be for.
    #[error("{0:?} is not the name of a host")]
    Host(Box<str>),
    /// The roots.
    #[error(transparent)]
    Trust(#[from] BadTrust),
}

impl Endpoint {
    /// Reads a URL. `ca` is the roots that vouch for an `https` server, PEM; `None` is those of the system.
    ///
    /// # Errors
    /// [`BadEndpoint`].
    pub fn new(url: &str, ca: Option<&[u8]>) -> Result<Self, BadEndpoint> {
        let uri: Uri = url.parse().map_err(|_| BadEndpoint::NoUrl)?;
        let secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(BadEndpoint::Scheme),
        };
        let authority = uri.authority().filter(|authority| !authority.host().is_empty()).ok_or(BadEndpoint::NoUrl)?;
        if authority.as_str().contains('@') {
            return Err(BadEndpoint::Credentials);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let tls = if secure {
            let name = ServerName::try_from(host.to_owned()).map_err(|_| BadEndpoint::Host(host.into()))?;
            let trust = ca.map_or(Trust::System, Trust::Roots);
            Some((ClientTerms { trust, certificate: None, http2: false }.config()?, name))
        } else {
            None
        };
        Ok(Self {
            port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| BadEndpoint::NoUrl)?,
            path: uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")),
            host: host.into(),
            tls,
        })
    }

    /// An address that was agreed on otherwise, with the TLS that was (and the name that the other side's certificate must
    /// have). The path is "/": see [`crate::Outbound::call_at`].
    pub fn at(address: SocketAddr, tls: Option<(Arc<ClientConfig>, ServerName<'static>)>) -> Self {
        // The text of an address has only bytes that a header may have.
        let authority = HeaderValue::from_str(&address.to_string()).unwrap_or(HeaderValue::from_static("peer"));
        let host = address.ip().to_string().into();
        Self { host, port: address.port(), tls, authority, path: PathAndQuery::from_static("/") }
    }

    /// Host and port as the URL has them, for logs: the path and the query may hold secrets.
    pub fn authority(&self) -> &str {
        self.authority.to_str().unwrap_or_default()
    }
}

/// Without path and query.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("authority", &self.authority)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_into_host_port_and_path() {
        let endpoint = Endpoint::new("http://app.example/hooks?for=tidegate", None).unwrap();
        assert_eq!(
            (&*endpoint.host, endpoint.port, endpoint.path.as_str()),
            ("app.example", 80, "/hooks?for=tidegate")
        );
        let endpoint = Endpoint::new("http://[::1]:8080", None).unwrap();
        assert_eq!((&*endpoint.host, endpoint.port, endpoint.path.as_str()), ("::1", 8080, "/"));
        assert_eq!(endpoint.authority(), "[::1]:8080");
    }

    #[test]
    fn what_cannot_be_called_is_refused() {
        for (url, why) in [
            ("app.example", "only http:// and https://"),
            ("ftp://app.example/", "only http:// and https://"),
            ("http://user:word@app.example/", "a user or password"),
            ("http:///path", "no URL"),
            ("", "no URL"),
        ] {
            let error = Endpoint::new(url, None).unwrap_err().to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
    }

    #[test]
    fn an_address_is_an_endpoint() {
        for (address, host) in [("127.0.0.1:7000", "127.0.0.1"), ("[::1]:7000", "::1")] {
            let endpoint = Endpoint::at(address.parse().unwrap(), None);
            assert_eq!((&*endpoint.host, endpoint.port, endpoint.authority()), (host, 7000, address));
        }
    }

    #[test]
    fn nothing_of_the_path_is_shown() {
        let endpoint = Endpoint::new("http://app.example/hooks?key=secret", None).unwrap();
        assert!(!format!("{endpoint:?}").contains("secret"));
    }
}
