use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::{Message, RawClient, WebSocket};

/// One accepted connection of an upstream: reads requests, answers with any bytes.
pub type Peer = RawClient;

/// What an [`Upstream::moody`] does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Answers with that status and a short body.
    Answers(u16),
    /// Answers after a while.
    Lingers(Duration),
    /// Sends each byte of the body after a while.
    Drips(Duration),
    /// Never answers.
    Stalls,
    /// Sends half of the body and nothing more.
    StallsInBody,
    /// Resets the connection.
    Resets,
    /// Resets the connection in the middle of the body.
    ResetsInBody,
    /// Sends less than its Content-Length and closes.
    LiesLong,
    /// Sends more than its Content-Length.
    LiesShort,
    /// Speaks another protocol.
    Garbage,
}

/// An upstream under the test's control. It stops when dropped, with all its connections.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    state: Rc<State>,
    accepting: AbortHandle,
}

#[derive(Debug, Default)]
struct State {
    connections: Cell<usize>,
    requests: RefCell<Vec<Message>>,
    tasks: RefCell<Vec<AbortHandle>>,
}

impl Upstream {
    /// Runs `serve` for each connection; `index` counts them from 0.
    pub async fn script<F, Fut>(serve: F) -> Self
    where
        F: Fn(Peer, usize, Requests) -> Fut + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let state = Rc::new(State::default());
        let shared = state.clone();
        let accepting = tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let index = shared.connections.replace(shared.connections.get() + 1);
                let task = tokio::task::spawn_local(serve(Peer::from(stream), index, Requests(shared.clone())));
                shared.tasks.borrow_mut().push(task.abort_handle());
            }
        });
        Self { address, state, accepting: accepting.abort_handle() }
    }

    /// Answers every request of every connection with the same bytes.
    pub async fn answers(response: impl Into<String>) -> Self {
        let response: Rc<str> = response.into().into();
        Self::script(move |mut peer, _, requests| {
            let response = response.clone();
            async move {
                while let Some(request) = peer.message(false).await {
                    requests.record(request);
                    peer.send(&*response).await;
                }
            }
        })
        .await
    }

    /// Answers with 200 and a text, keeping connections alive.
    pub async fn ok(text: &str) -> Self {
        Self::answers(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())).await
    }

    /// Takes requests and never answers.
    pub async fn silent() -> Self {
        Self::script(|mut peer, _, requests| async move {
            while let Some(request) = peer.message(false).await {
                requests.record(request);
            }
        })
        .await
    }

    /// Sends the bytes after the first request of each connection, then closes.
    pub async fn closes_after(response: impl Into<String>) -> Self {
        let response: Rc<str> = response.into().into();
        Self::script(move |mut peer, _, requests| {
            let response = response.clone();
            async move {
                if let Some(request) = peer.message(false).await {
                    requests.record(request);
                    peer.send(&*response).await;
                }
            }
        })
        .await
    }

    /// Does with each request what its mood is at the time; a change of mood holds for open connections too.
    pub async fn moody(mood: Rc<Cell<Mood>>) -> Self {
        Self::script(move |mut peer, _, requests| {
            let mood = mood.clone();
            async move {
                while let Some(request) = peer.message(false).await {
                    requests.record(request);
                    match mood.get() {
                        Mood::Answers(status) => {
                            peer.send(format!("HTTP/1.1 {status} Mood\r\nContent-Length: 4\r\n\r\nmood")).await;
                        }
                        Mood::Lingers(time) => {
                            tokio::time::sleep(time).await;
                            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmood").await;
                        }
                        Mood::Drips(time) => {
                            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").await;
                            for byte in ["m", "o", "o", "d"] {
                                tokio::time::sleep(time).await;
                                peer.send(byte).await;
                            }
                        }
                        Mood::Stalls => std::future::pending().await,
                        Mood::StallsInBody => {
                            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmo").await;
                            std::future::pending().await
                        }
                        Mood::Resets => return peer.reset(),
                        Mood::ResetsInBody => {
                            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmo").await;
                            return peer.reset();
                        }
                        Mood::LiesLong => {
                            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\nmood").await;
                            return;
                        }
                        Mood::LiesShort => {
                            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmoodHTTP/1.1 200 OK\r\n\r\n").await;
                        }
                        Mood::Garbage => peer.send("220 mail.example.org ESMTP\r\n").await,
                    }
                }
            }
        })
        .await
    }

    /// Answers as soon as somebody connects, whatever is asked, and closes after the first request.
    pub async fn hasty(response: impl Into<String>) -> Self {
        let response: Rc<str> = response.into().into();
        Self::script(move |mut peer, _, requests| {
            let response = response.clone();
            async move {
                peer.send(&*response).await;
                if let Some(request) = peer.message(false).await {
                    requests.record(request);
                }
            }
        })
        .await
    }

    /// A WebSocket server that sends each frame back, ends with the client, and closes after a Close frame.
    pub async fn websocket_echo() -> Self {
        Self::script(|mut peer, _, requests| async move {
            let Some(request) = peer.message(false).await else { return };
            peer.send(WebSocket::accept(&request, "")).await;
            requests.record(request);
            let mut socket = WebSocket::server(peer);
            while let Some(frame) = socket.receive().await {
                socket.send(frame.first & 0x0f, &frame.payload).await;
                if frame.first & 0x0f == 8 {
                    return;
                }
            }
        })
        .await
    }

    /// An event stream: what is sent to the returned channel goes out as one chunk; the end of the channel ends the
    /// response. For one connection.
    pub async fn event_stream() -> (Self, mpsc::Sender<Bytes>) {
        let (sender, receiver) = mpsc::channel::<Bytes>(1024);
        let receiver = Rc::new(RefCell::new(Some(receiver)));
        let upstream = Self::script(move |mut peer, _, requests| {
            let receiver = receiver.borrow_mut().take();
            async move {
                let Some(request) = peer.message(false).await else { return };
                requests.record(request);
                let Some(mut receiver) = receiver else { return };
                peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                    .await;
                while let Some(bytes) = receiver.recv().await {
                    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
                    chunk.extend_from_slice(&bytes);
                    chunk.extend_from_slice(b"\r\n");
                    peer.send(chunk).await;
                }
                peer.send("0\r\n\r\n").await;
                while peer.message(false).await.is_some() {}
            }
        })
        .await;
        (upstream, sender)
    }

    /// An address where nobody listens, nor will while the test runs: a port that is only let go may be somebody else's
    /// a moment later.
    pub async fn nobody() -> SocketAddr {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let address = socket.local_addr().expect("an address");
        // Bound and never listening, until the process ends.
        std::mem::forget(socket);
        address
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.state.connections.get()
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Message> {
        self.state.requests.borrow().clone()
    }
}

/// Where an upstream notes its requests.
#[derive(Clone, Debug)]
pub struct Requests(Rc<State>);

impl Requests {
    /// Notes a request.
    pub fn record(&self, request: Message) {
        self.0.requests.borrow_mut().push(request);
    }

    /// How many it has noted.
    pub fn count(&self) -> usize {
        self.0.requests.borrow().len()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
        for task in self.state.tasks.borrow_mut().drain(..) {
            task.abort();
        }
    }
}
