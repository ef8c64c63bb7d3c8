//! One connection to an endpoint, driven by a task of its own.

use std::io;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tidegate_transport::{Socket, TlsStream, Transport};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, timeout_at};

use crate::{Endpoint, OutboundError};

/// The head of a response, bytes.
const MOST_HEAD: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driving: AbortHandle,
}

impl Connection {
    /// The addresses are tried in their order. Each gets its share of the time, because one that swallows packets must not use
    /// up the time of one that works.
    pub async fn open(endpoint: &Endpoint, deadline: Instant) -> Result<Self, OutboundError> {
        let addresses = lookup_host((&*endpoint.host, endpoint.port)).await.map_err(OutboundError::Resolve)?;
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let mut addresses: Vec<_> = addresses.collect();
        addresses.reverse();
        while let Some(address) = addresses.pop() {
            let left = deadline.saturating_duration_since(Instant::now());
            let share = u32::try_from(addresses.len()).unwrap_or(u32::MAX).saturating_add(1);
            match timeout_at(Instant::now() + left / share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Self::on(stream, endpoint).await,
                Ok(Err(error)) => failed = error,
                Err(_) => failed = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(OutboundError::Connect(failed))
    }

    async fn on(stream: TcpStream, endpoint: &Endpoint) -> Result<Self, OutboundError> {
        stream.set_nodelay(true).map_err(OutboundError::Connect)?;
        let stream: Transport = match &endpoint.tls {
            None => stream.into(),
            Some((config, name)) => {
                let shaken = TlsStream::connect(Socket::from(stream), config.clone(), name.clone());
                Box::pin(shaken).await.map_err(|error| OutboundError::Tls(error.to_string()))?.into()
            }
        };
        let (sender, connection) =
            http1::Builder::new().max_buf_size(MOST_HEAD).handshake(TokioIo::new(stream)).await?;
        // What goes wrong is told to who waits for the response.
        let driving = spawn_local(async move { _ = connection.await }).abort_handle();
        Ok(Self { sender, driving })
    }

    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// Whether the last exchange has ended as a whole, and the connection stands.
    pub fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }
}

impl Drop for Connection {
    /// An idle connection says goodbye by itself. Any other might wait for ever for a peer that does not read or write.
    fn drop(&mut self) {
        if !self.is_ready() {
            self.driving.abort();
        }
    }
}
