//! Calls to receivers that behave, and to those that do not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};
use tidegate_outbound::{Endpoint, Outbound, OutboundError};
use tidegate_testkit::{Mood, PATIENCE, Upstream, local, patiently};
use tidegate_transport::rustls::ServerConfig;
use tidegate_transport::{Socket, TlsStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// What a response may have.
const MOST: usize = 1000;
/// For calls that are to end by their deadline.
const SHORT: Duration = Duration::from_millis(200);

fn client(url: &str, ca: Option<&[u8]>) -> Outbound {
    Outbound::new(Arc::new(Endpoint::new(url, ca).unwrap()), MOST)
}

fn client_of(upstream: &Upstream) -> Outbound {
    client(&format!("http://{}/hooks?for=tidegate", upstream.address()), None)
}

async fn post(client: &Outbound, patience: Duration) -> Result<Response<Bytes>, OutboundError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    client.call(Method::POST, headers, Bytes::from_static(b"{\"some\":1}"), patience).await
}

#[test]
fn a_call_brings_the_request_and_its_answer() {
    local(async {
        let upstream = Upstream::answers("HTTP/1.1 207 Mixed\r\nContent-Length: 5\r\nX-Mine: yes\r\n\r\nhello").await;
        let client = client_of(&upstream);
        let answer = post(&client, PATIENCE).await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.body()[..], &answer.headers()["x-mine"]),
            (207, &b"hello"[..], &HeaderValue::from_static("yes"))
        );
        let request = upstream.requests().remove(0);
        assert_eq!(request.start, "POST /hooks?for=tidegate HTTP/1.1");
        assert_eq!(request.field("host"), Some(upstream.address().to_string().as_str()));
        assert_eq!(request.field("user-agent"), Some(concat!("Tidegate/", env!("CARGO_PKG_VERSION"))));
        assert_eq!(
            (request.field("content-type"), request.text().as_str()),
            (Some("application/json"), "{\"some\":1}")
        );
    });
}

#[test]
fn calls_one_after_another_use_one_connection() {
    local(async {
        let upstream = Upstream::ok("fine").await;
        let client = client_of(&upstream);
        for _ in 0..20 {
            post(&client, PATIENCE).await.unwrap();
        }
        assert_eq!((upstream.requests().len(), upstream.connections()), (20, 1));
    });
}

#[test]
fn a_kept_connection_that_dies_under_a_call_is_replaced_unnoticed() {
    local(async {
        let upstream = Upstream::script(|mut peer, index, requests| async move {
            while let Some(request) = peer.message(false).await {
                requests.record(request);
                if index == 0 && requests.count() == 2 {
                    return;
                }
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
        })
        .await;
        let client = client_of(&upstream);
        for _ in 0..2 {
            assert_eq!(post(&client, PATIENCE).await.unwrap().status(), StatusCode::OK);
        }
        assert_eq!((upstream.requests().len(), upstream.connections()), (3, 2));
    });
}

#[test]
fn a_redirect_is_an_answer() {
    local(async {
        let elsewhere = Upstream::ok("elsewhere").await;
        let redirect =
            format!("HTTP/1.1 307 There\r\nLocation: http://{}/\r\nContent-Length: 0\r\n\r\n", elsewhere.address());
        let upstream = Upstream::answers(redirect).await;
        assert_eq!(post(&client_of(&upstream), PATIENCE).await.unwrap().status(), StatusCode::TEMPORARY_REDIRECT);
        assert_eq!(elsewhere.connections(), 0);
    });
}

#[test]
fn a_receiver_that_never_answers_costs_the_deadline_and_its_connection() {
    local(async {
        let (sender, closed) = oneshot::channel();
        let sender = Rc::new(Cell::new(Some(sender)));
        let upstream = Upstream::script(move |mut peer, _, _| {
            let sender = sender.take();
            async move {
                peer.message(false).await;
                assert!(peer.is_closed().await);
                _ = sender.map(|sender| sender.send(()));
            }
        })
        .await;
        let error = post(&client_of(&upstream), SHORT).await.unwrap_err();
        assert!(matches!(error, OutboundError::Timeout), "{error}");
        patiently("the connection's end", closed).await.unwrap();
    });
}

#[test]
fn answers_that_are_none_are_errors_of_their_kind() {
    local(async {
        let mood = Rc::new(Cell::new(Mood::Stalls));
        let upstream = Upstream::moody(mood.clone()).await;
        let client = client_of(&upstream);
        for (next, timeout) in [
            (Mood::Resets, false),
            (Mood::ResetsInBody, false),
            (Mood::LiesLong, false),
            (Mood::Garbage, false),
            (Mood::StallsInBody, true),
            (Mood::Stalls, true),
        ] {
            mood.set(next);
            let error = post(&client, if timeout { SHORT } else { PATIENCE }).await.unwrap_err();
            let expected = if timeout {
                matches!(error, OutboundError::Timeout)
            } else {
                matches!(error, OutboundError::Broken(_))
            };
            assert!(expected, "{next:?}: {error:?}");
        }
        mood.set(Mood::Answers(204));
        assert!(post(&client, PATIENCE).await.is_ok(), "nothing of that stays");
    });
}

#[test]
fn an_answer_beyond_the_bound_is_refused_whether_it_says_so_or_not() {
    local(async {
        let body = "x".repeat(MOST + 1);
        let told = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let untold = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n", body.len());
        for answer in [told, untold] {
            let upstream = Upstream::answers(answer).await;
            let error = post(&client_of(&upstream), PATIENCE).await.unwrap_err();
            assert!(matches!(error, OutboundError::TooLarge(MOST)), "{error}");
        }
    });
}

#[test]
fn where_nobody_listens_or_nobody_is_the_error_says_so() {
    local(async {
        let error = post(&client(&format!("http://{}/", Upstream::nobody().await), None), PATIENCE).await.unwrap_err();
        assert!(matches!(error, OutboundError::Connect(_)), "{error}");
        let error = post(&client("http://nobody.invalid/", None), PATIENCE).await.unwrap_err();
        assert!(matches!(error, OutboundError::Resolve(_) | OutboundError::Timeout), "{error}");
    });
}

#[test]
fn tls_is_spoken_only_with_servers_that_the_roots_vouch_for() {
    local(async {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = made.signing_key.serialize_der().try_into().unwrap();
        let provider = Arc::new(tidegate_transport::rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = Arc::new(config);
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = TlsStream::accept(Socket::from(stream), config.clone()).await else { continue };
                let mut stream = tidegate_transport::Transport::from(stream);
                let mut read = [0; 4096];
                while stream.read(&mut read).await.is_ok_and(|count| count > 0) {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsafe").await.unwrap();
                }
            }
        });
        let url = format!("https://localhost:{port}/");
        let trusting = client(&url, Some(made.cert.pem().as_bytes()));
        assert_eq!(post(&trusting, PATIENCE).await.unwrap().body(), "safe");
        // The server serves one connection after the other; this one ends with a goodbye.
        drop(trusting);
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let error = post(&client(&url, Some(other.cert.pem().as_bytes())), PATIENCE).await.unwrap_err();
        assert!(matches!(error, OutboundError::Tls(_)), "{error}");
    });
}
