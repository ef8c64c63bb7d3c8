use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use crate::connection::Connection;
use crate::endpoint::Endpoint;

/// Connections that wait for the next call.
const MOST_IDLE: usize = 4;
/// Shorter than most servers wait (Node: 5 s), because a request on a connection that is just being closed is lost time.
const IDLE_FOR: Duration = Duration::from_secs(4);

/// A client of one endpoint, on one thread.
#[derive(Debug)]
pub struct Outbound {
    endpoint: Arc<Endpoint>,
    max_response_bytes: usize,
    /// The most recent last.
    idle: RefCell<Vec<(Instant, Connection)>>,
}

/// Why a call brought no response.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The name of the host has no address, or nobody knows.
    #[error("the name cannot be resolved: {0}")]
    Resolve(io::Error),
    /// No address takes a connection.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// The handshake failed; mostly, the certificate is for somebody else or nobody vouches for it.
    #[error("TLS: {0}")]
    Tls(String),
    /// The deadline has passed.
    #[error("no answer in time")]
    Timeout,
    /// The connection broke, or what came is not HTTP.
    #[error("the exchange broke off: {0}")]
    Broken(#[from] hyper::Error),
    /// The response is larger than agreed.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
}

impl Outbound {
    /// A client that has no connection yet and takes response bodies of at most that many bytes.
    pub fn new(endpoint: Arc<Endpoint>, max_response_bytes: usize) -> Self {
        Self { endpoint, max_response_bytes, idle: RefCell::default() }
    }

    /// Who is called.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends a request and takes the whole response, within `patience` in all. `Host`, `User-Agent` and the framing are
    /// added. Dropping the future cuts the connection. To be called inside a local runtime.
    ///
    /// # Errors
    /// [`OutboundError`]. Any status, redirects among them, is a response.
    pub async fn call(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
        patience: Duration,
    ) -> Result<Response<Bytes>, OutboundError> {
        self.call_at(method, self.endpoint.path.clone(), headers, body, patience).await
    }

    /// As [`Outbound::call`], at another path of the endpoint's host.
    ///
    /// # Errors
    /// As there.
    pub async fn call_at(
        &self,
        method: Method,
        path: PathAndQuery,
        headers: HeaderMap,
        body: Bytes,
        patience: Duration,
    ) -> Result<Response<Bytes>, OutboundError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.into();
        *request.headers_mut() = headers;
        let own = const { HeaderValue::from_static(concat!("Tidegate/", env!("CARGO_PKG_VERSION"))) };
        request.headers_mut().entry(USER_AGENT).or_insert(own);
        request.headers_mut().insert(HOST, self.endpoint.authority.clone());
        let deadline = Instant::now() + patience;
        // On the heap: who calls keeps it in a future that mostly does something else.
        let exchange = Box::pin(self.exchange(request, deadline));
        timeout_at(deadline, exchange).await.unwrap_or(Err(OutboundError::Timeout))
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        deadline: Instant,
    ) -> Result<Response<Bytes>, OutboundError> {
        // A kept connection may be closed from the other side as it is used; that says nothing about the endpoint.
        if let Some(mut kept) = self.kept()
            && let Ok(response) = kept.send(request.clone()).await
        {
            return self.finish(kept, response).await;
        }
        let mut fresh = Connection::open(&self.endpoint, deadline).await?;
        let response = fresh.send(request).await?;
        self.finish(fresh, response).await
    }

    async fn finish(
        &self,
        connection: Connection,
        response: Response<Incoming>,
    ) -> Result<Response<Bytes>, OutboundError> {
        let most = self.max_response_bytes;
        let (head, body) = response.into_parts();
        let told = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if told.is_some_and(|told| usize::try_from(told).is_ok_and(|told| told > most)) {
            return Err(OutboundError::TooLarge(most));
        }
        let body = match Limited::new(body, most).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Err(OutboundError::TooLarge(most)),
            Err(error) => {
                return match error.downcast::<hyper::Error>() {
                    Ok(error) => Err(OutboundError::Broken(*error)),
                    Err(_) => Err(OutboundError::TooLarge(most)),
                };
            }
        };
        // The connection's task has its turn: it looks for the next request, or finds that there can be none.
        tokio::task::yield_now().await;
        self.keep(connection);
        Ok(Response::from_parts(head, body))
    }

    fn kept(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|(since, connection)| since.elapsed() < IDLE_FOR && connection.is_ready());
        idle.pop().map(|(_, connection)| connection)
    }

    fn keep(&self, connection: Connection) {
        if !connection.is_ready() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= MOST_IDLE {
            // The one that waits longest.
            idle.remove(0);
        }
        idle.push((Instant::now(), connection));
    }
}
