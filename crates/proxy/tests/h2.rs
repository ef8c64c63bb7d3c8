//! Upstreams that speak HTTP/2: streams that share connections, flow control, trailers, and servers that break off.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

mod common;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use common::{Gateway, get, in_time, until};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use tidegate_proxy::UpstreamSettings;
use tidegate_testkit::{WebSocket, local, patiently};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// What a server does with its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// Sends the body back, with its trailers.
    Echoes,
    /// Waits until it is told to go on, then answers "ok".
    Waits,
    /// Refuses the first request of each connection.
    RefusesFirst,
    /// Ends the connection at its first request.
    VanishesFirst,
    /// Breaks the stream off.
    Resets,
    /// Answers half.
    BreaksOff,
    /// Never answers.
    Stalls,
}

#[derive(Default)]
struct Told {
    connections: Cell<usize>,
    requests: RefCell<Vec<Request<()>>>,
    go_on: tokio::sync::Notify,
}

struct Server {
    address: SocketAddr,
    told: Rc<Told>,
}

impl Server {
    async fn start(habit: Habit, most_streams: u32) -> Self {
        Self::knowing(habit, most_streams, true).await
    }

    async fn knowing(habit: Habit, most_streams: u32, tunnels: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let told = Rc::new(Told::default());
        let shared = told.clone();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let told = shared.clone();
                told.connections.set(told.connections.get() + 1);
                let first_connection = told.connections.get() == 1;
                tokio::task::spawn_local(async move {
                    let mut builder = h2::server::Builder::new();
                    builder.max_concurrent_streams(most_streams);
                    if tunnels {
                        builder.enable_connect_protocol();
                    }
                    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        let (parts, body) = request.into_parts();
                        told.requests.borrow_mut().push(Request::from_parts(parts, ()));
                        let first = first_connection && told.requests.borrow().len() == 1;
                        match habit {
                            Habit::RefusesFirst if first => respond.send_reset(Reason::REFUSED_STREAM),
                            Habit::VanishesFirst if first => return,
                            _ => drop(tokio::task::spawn_local(answer(habit, told.clone(), body, respond))),
                        }
                    }
                });
            }
        });
        Self { address, told }
    }

    fn settings(&self) -> UpstreamSettings {
        http2(&[self.address])
    }
}

fn http2(servers: &[SocketAddr]) -> UpstreamSettings {
    UpstreamSettings { http2: true, ..common::settings(servers) }
}

async fn answer(habit: Habit, told: Rc<Told>, mut body: RecvStream, mut respond: SendResponse<Bytes>) {
    match habit {
        Habit::Resets => return respond.send_reset(Reason::INTERNAL_ERROR),
        Habit::Stalls => return std::future::pending().await,
        Habit::Waits => told.go_on.notified().await,
        _ => {}
    }
    let Ok(mut send) = respond.send_response(Response::new(()), false) else { return };
    if habit == Habit::BreaksOff {
        send.send_data("half".into(), false).unwrap();
        told.go_on.notified().await;
        return send.send_reset(Reason::INTERNAL_ERROR);
    }
    if habit == Habit::Waits {
        let _ = send.send_data("ok".into(), true);
        return;
    }
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        let mut data = data;
        while !data.is_empty() {
            send.reserve_capacity(data.len());
            match std::future::poll_fn(|cx| send.poll_capacity(cx)).await {
                Some(Ok(count)) => send.send_data(data.split_to(count), false).unwrap(),
                _ => return,
            }
        }
    }
    let mut trailers = body.trailers().await.ok().flatten().unwrap_or_default();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let _: Result<(), h2::Error> = send.send_trailers(HeaderMap::clone(&trailers));
}

fn post(body: &str) -> String {
    format!("POST /x?y HTTP/1.1\r\nHost: example.org\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn a_request_says_in_http_2_what_it_says_in_http_1() {
    local(async {
        let server = Server::start(Habit::Echoes, 100).await;
        let gateway = Gateway::with(server.settings()).await;
        let response = gateway.client().await.request(post("hello")).await;
        assert_eq!((response.status(), response.text().as_str()), (200, "hello"));
        let request = server.told.requests.borrow().first().cloned().unwrap();
        assert_eq!(request.uri(), "http://example.org/x?y");
        assert_eq!(request.headers()["x-forwarded-for"], "127.0.0.1");
        assert_eq!(request.headers()["x-forwarded-host"], "example.org");
        assert_eq!(request.headers()["x-request-id"], "request-1");
        assert!(!request.headers().contains_key("host") && !request.headers().contains_key("connection"));
        let summary = gateway.ended(1).await.remove(0);
        assert_eq!((summary.bytes_in, summary.bytes_out, summary.retries), (5, 5, 0));
        assert_eq!(summary.upstream_status, Some(200));
    });
}

#[test]
fn exchanges_share_a_connection_until_it_takes_no_more() {
    local(async {
        for (most, connections) in [(100, 1), (3, 2)] {
            let server = Server::start(Habit::Waits, most).await;
            let gateway = Gateway::with(server.settings()).await;
            let mut clients = Vec::new();
            for _ in 0..6 {
                let mut client = gateway.client().await;
                client.send(get("/")).await;
                clients.push(client);
            }
            until("all requests", || server.told.requests.borrow().len() == 6).await;
            assert_eq!(server.told.connections.get(), connections, "{most}");
            server.told.go_on.notify_waiters();
            for client in &mut clients {
                assert_eq!(client.response().await.text(), "ok");
            }
        }
    });
}

#[test]
fn large_bodies_pass_both_ways_at_the_pace_of_the_slower_side() {
    local(async {
        let server = Server::start(Habit::Echoes, 100).await;
        let gateway = Gateway::with(server.settings()).await;
        let body = "tide".repeat(1_000_000);
        let response = gateway.client().await.request(post(&body)).await;
        assert!(response.text() == body, "{}", response.text().len());
        assert_eq!(gateway.ended(1).await[0].bytes_out, 4_000_000);
    });
}

#[test]
fn what_a_server_has_not_looked_at_is_sent_again_body_and_all() {
    local(async {
        for habit in [Habit::RefusesFirst, Habit::VanishesFirst] {
            let (one, two) = (Server::start(habit, 100).await, Server::start(Habit::Echoes, 100).await);
            let gateway = Gateway::with(http2(&[one.address, two.address])).await;
            let response = gateway.client().await.request(post("once")).await;
            if habit == Habit::RefusesFirst {
                assert_eq!((response.status(), response.text().as_str()), (200, "once"));
                assert_eq!(gateway.ended(1).await[0].retries, 1);
            } else {
                // A connection that just ends leaves open what was done about a POST.
                assert_eq!(response.status(), 502);
                assert_eq!(two.told.requests.borrow().len(), 0);
            }
        }
    });
}

#[test]
fn a_request_that_a_goodbye_disowns_goes_to_another_server_whatever_its_method() {
    local(async {
        // Says goodbye to stream 1 as not looked at, or as looked at; then ends the connection.
        for (last, status) in [(0, 200), (1, 502)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let leaving = listener.local_addr().unwrap();
            let server = Server::start(Habit::Echoes, 100).await;
            tokio::task::spawn_local(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
                let mut read = Vec::new();
                while !read.ends_with(b"once") {
                    stream.read_buf(&mut read).await.unwrap();
                }
                stream.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last, 0, 0, 0, 0]).await.unwrap();
            });
            let gateway = Gateway::with(http2(&[leaving, server.address])).await;
            let response = gateway.client().await.request(post("once")).await;
            assert_eq!(response.status(), status, "{last}");
            assert_eq!(server.told.requests.borrow().len(), usize::from(status == 200));
        }
    });
}

#[test]
fn a_server_that_breaks_a_stream_off_is_told_to_the_client() {
    local(async {
        let server = Server::start(Habit::Resets, 100).await;
        let gateway = Gateway::with(server.settings()).await;
        let mut client = gateway.client().await;
        assert_eq!(client.request(post("x")).await.status(), 502);
        assert_eq!(client.request(post("x")).await.status(), 502);
        assert_eq!(server.told.connections.get(), 1, "the connection is as good as before");
    });
}

#[test]
fn silence_is_ended_and_its_connection_not_used_again() {
    local(async {
        in_time(async |time: Duration| {
            let server = Server::start(Habit::Stalls, 100).await;
            let gateway = Gateway::with(UpstreamSettings { read_timeout: time, ..server.settings() }).await;
            let mut client = gateway.client().await;
            assert_eq!(client.request(get("/")).await.status(), 504);
            assert_eq!(client.request(get("/")).await.status(), 504);
            assert_eq!(server.told.connections.get(), 2);
        })
        .await;
    });
}

#[test]
fn a_server_that_speaks_something_else_counts_as_unreachable() {
    local(async {
        let other = tidegate_testkit::Upstream::ok("http/1.1").await;
        let server = Server::start(Habit::Echoes, 100).await;
        let gateway = Gateway::with(http2(&[other.address(), server.address])).await;
        for _ in 0..3 {
            assert_eq!(gateway.client().await.request(post("x")).await.text(), "x");
        }
    });
}

#[test]
fn a_websocket_goes_over_a_stream_where_the_server_knows_that() {
    local(async {
        let server = Server::start(Habit::Echoes, 100).await;
        let gateway = Gateway::with(server.settings()).await;
        let mut client = WebSocket::connect(gateway.address, "/chat").await;
        client.text("over and back").await;
        // The server sends the frame back as it came, masked.
        assert!(patiently("the frame", client.receive()).await.is_some());
        assert_eq!(server.told.requests.borrow()[0].method(), "CONNECT");
    });
}

#[test]
fn a_websocket_to_a_server_that_does_not_know_them_is_refused() {
    local(async {
        let server = Server::knowing(Habit::Echoes, 100, false).await;
        let gateway = Gateway::with(server.settings()).await;
        let response = gateway.client().await.request(WebSocket::handshake("/chat", "")).await;
        assert_eq!(response.status(), 502);
        assert_eq!(server.told.requests.borrow().len(), 0);
    });
}

#[test]
fn a_body_that_breaks_off_breaks_off_at_the_client_too() {
    local(async {
        let server = Server::start(Habit::BreaksOff, 100).await;
        let gateway = Gateway::with(server.settings()).await;
        let mut client = gateway.client().await;
        client.send(get("/")).await;
        client.read_until(b"half").await;
        server.told.go_on.notify_one();
        let rest = client.read_to_end().await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
    });
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = http2(&[listener.local_addr().unwrap()]);
        let gateway = Gateway::with(UpstreamSettings { keepalive_timeout: Duration::from_millis(1), ..settings }).await;
        let mut client = gateway.client().await;
        client.send(get("/")).await;
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (_, mut respond) = patiently("a request", connection.accept()).await.unwrap().unwrap();
        let _: h2::SendStream<Bytes> = respond.send_response(Response::new(()), true).unwrap();
        drop(respond);
        assert!(patiently("the end", connection.accept()).await.is_none());
    });
}

#[test]
fn after_a_goodbye_new_requests_take_a_new_connection_and_old_ones_finish() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = Gateway::with(http2(&[listener.local_addr().unwrap()])).await;
        let mut old = gateway.client().await;
        old.send(get("/old")).await;
        let (stream, _) = listener.accept().await.unwrap();
        let mut leaving = h2::server::handshake(stream).await.unwrap();
        let (_, mut respond) = patiently("a request", leaving.accept()).await.unwrap().unwrap();
        leaving.graceful_shutdown();
        tokio::task::spawn_local(async move { while leaving.accept().await.is_some() {} });
        let fresh = async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            let _: h2::SendStream<Bytes> = respond.send_response(Response::new(()), true).unwrap();
            drop(respond);
            while connection.accept().await.is_some() {}
        };
        tokio::task::spawn_local(fresh);
        let seen = async { while gateway.client().await.request(get("/new")).await.status() != 200 {} };
        tokio::time::timeout(Duration::from_secs(10), seen).await.unwrap();
        let mut send: h2::SendStream<Bytes> = respond.send_response(Response::new(()), false).unwrap();
        send.send_data("finished".into(), true).unwrap();
        assert_eq!(old.response().await.text(), "finished");
    });
}
