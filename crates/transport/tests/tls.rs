//! TLS streams with both ends in this process, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::large_futures)]

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tidegate_transport::{HandshakeError, Socket, TlsStream, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// Longer than anything here takes; a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(30);

fn configs(versions: &[&'static rustls::SupportedProtocolVersion]) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

async fn shake(client: Socket, server: Socket) -> (Transport, Transport) {
    let (server_config, client_config) = configs(&[&rustls::version::TLS13]);
    let (client, server) =
        tokio::join!(TlsStream::connect(client, client_config, name()), TlsStream::accept(server, server_config));
    (client.unwrap().into(), server.unwrap().into())
}

async fn pair() -> (Transport, Transport) {
    let (client, server) = sockets().await;
    shake(client.into(), server.into()).await
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("the test hangs") });
}

/// Bytes whose place can be told from their value.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

#[test]
fn megabytes_arrive_as_they_were_sent_in_both_directions_at_once() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        run(async {
            let (client, server) = sockets().await;
            let (server_config, client_config) = configs(&[version]);
            let (client, server) = tokio::join!(
                TlsStream::connect(client.into(), client_config, name()),
                TlsStream::accept(server.into(), server_config)
            );
            let mut client = Transport::from(client.unwrap());
            let (mut from_server, mut to_server) = tokio::io::split(Transport::from(server.unwrap()));
            let sent = pattern(5_000_003);
            let echo = async {
                tokio::io::copy(&mut from_server, &mut to_server).await.unwrap();
                to_server.shutdown().await.unwrap();
            };
            let ask = async {
                let (mut reading, mut writing) = tokio::io::split(&mut client);
                let (mut received, mut length) = (Vec::new(), 0);
                let write = async {
                    writing.write_all(&sent).await.unwrap();
                    writing.shutdown().await.unwrap();
                };
                let read = async { length = reading.read_to_end(&mut received).await.unwrap() };
                tokio::join!(write, read);
                assert_eq!(length, sent.len());
                assert!(received == sent, "the bytes differ");
            };
            tokio::join!(echo, ask);
        });
    }
}

#[test]
fn what_a_full_socket_did_not_take_goes_on_where_it_stopped() {
    run(async {
        let (client, mut server) = pair().await;
        let sent = pattern(20_000_000);
        let (mut at, mut refused) = (0, 0);
        let write = async {
            while at < sent.len() {
                // Odd lengths, so that records and calls do not end together.
                let piece = &sent[at..sent.len().min(at + 70_001)];
                let (first, second) = piece.split_at(piece.len() / 3);
                let slices = [io::IoSlice::new(first), io::IoSlice::new(second)];
                let written = if at % 2 == 0 { client.try_write(piece) } else { client.try_write_vectored(&slices) };
                match written {
                    Ok(count) => at += count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        refused += 1;
                        poll_fn(|cx| client.poll_write_ready(cx)).await.unwrap();
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(refused > 0, "the socket was never full");
        };
        let mut received = vec![0; sent.len()];
        let read = async {
            server.read_exact(&mut received).await.unwrap();
        };
        tokio::join!(write, read);
        assert!(received == sent, "the bytes differ");
    });
}

#[test]
fn one_byte_at_a_time_arrives_even_when_the_socket_is_full() {
    run(async {
        let (client, server) = UnixStream::pair().unwrap();
        let (client, mut server) = shake(client.into(), server.into()).await;
        let (mut sent, mut full) = (0_usize, false);
        let write = async {
            while sent < 20_000 {
                match client.try_write(&[sent as u8]) {
                    Ok(count) => sent += count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        full = true;
                        poll_fn(|cx| client.poll_write_ready(cx)).await.unwrap();
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(full, "the socket was never full");
        };
        let read = async {
            let mut received = vec![0; 20_000];
            server.read_exact(&mut received).await.unwrap();
            received
        };
        let (_, received) = tokio::join!(write, read);
        assert!(received.iter().enumerate().all(|(at, byte)| *byte == at as u8));
    });
}

#[test]
fn an_announced_end_is_clean_and_the_other_direction_goes_on() {
    run(async {
        let (mut client, mut server) = pair().await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        server.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        server.write_all(b"answer").await.unwrap();
        server.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    });
}

#[test]
fn a_stream_that_is_cut_off_is_told_from_one_that_ends() {
    run(async {
        let (mut client, mut server) = pair().await;
        // What a socket that is closed has not read would become a reset.
        server.write_all(b"go on").await.unwrap();
        client.read_exact(&mut [0; 5]).await.unwrap();
        client.write_all(b"half of").await.unwrap();
        drop(client);
        let mut text = Vec::new();
        let error = server.read_to_end(&mut text).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(text, b"half of");
        assert_eq!(server.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "and stays so");
    });
}

#[test]
fn a_connection_moves_to_another_thread_with_all_that_belongs_to_it() {
    run(async {
        let (mut client, mut server) = pair().await;
        client.write_all(b"read this later").await.unwrap();
        let mut first = [0; 5];
        server.read_exact(&mut first).await.unwrap();
        let portable = server.into_portable().unwrap();
        let there = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut server = portable.into_transport().unwrap();
                let mut rest = [0; 10];
                server.read_exact(&mut rest).await.unwrap();
                server.write_all(&rest).await.unwrap();
                server.shutdown().await.unwrap();
            });
        });
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "this later");
        there.join().unwrap();
    });
}

#[test]
fn plain_http_is_known_for_what_it_is_and_can_be_answered() {
    run(async {
        let (mut client, server) = sockets().await;
        let (config, _) = configs(&[&rustls::version::TLS13]);
        client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let Err(HandshakeError::PlainHttp(mut socket)) = TlsStream::accept(server.into(), config).await else {
            panic!("not recognised");
        };
        socket.write_all(b"no").await.unwrap();
        drop(socket);
        let mut answer = [0; 2];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"no");
    });
}

#[test]
fn garbage_is_refused_with_an_alert() {
    run(async {
        let (mut client, server) = sockets().await;
        let (config, _) = configs(&[&rustls::version::TLS13]);
        client.write_all(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]).await.unwrap();
        let error = TlsStream::accept(server.into(), config).await.unwrap_err();
        assert!(matches!(error, HandshakeError::Tls(_)), "{error:?}");
        let mut alert = Vec::new();
        let _ = client.read_to_end(&mut alert).await;
        assert_eq!(alert.first(), Some(&21), "an alert record: {alert:?}");
    });
}

#[test]
fn a_name_that_is_not_the_certificates_is_refused_by_the_client() {
    run(async {
        let (client, server) = sockets().await;
        let (server_config, client_config) = configs(&[&rustls::version::TLS13]);
        let other = ServerName::try_from("example.org").unwrap();
        let (client, server) = tokio::join!(
            TlsStream::connect(client.into(), client_config, other),
            TlsStream::accept(server.into(), server_config)
        );
        assert!(matches!(client.unwrap_err(), HandshakeError::Tls(rustls::Error::InvalidCertificate(_))));
        assert!(matches!(server.unwrap_err(), HandshakeError::Tls(rustls::Error::AlertReceived(_))));
    });
}

#[test]
fn tls_runs_over_unix_sockets_too() {
    run(async {
        let (client, server) = UnixStream::pair().unwrap();
        let (mut client, mut server) = shake(client.into(), server.into()).await;
        client.write_all(b"hello").await.unwrap();
        let mut hello = [0; 5];
        server.read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"hello");
    });
}
