//! What idle TLS connections hold: opens many, with both ends in this process, and prints the memory of one.
//!
//! `cargo run --release -p tidegate-transport --example idle`
#![allow(clippy::unwrap_used, clippy::large_futures)]

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use tidegate_transport::rustls;
use tidegate_transport::{Clients, Credentials, ServerName, ServerTerms, Socket, Tickets, TlsStream, Transport};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

const PAIRS: usize = 4000;

fn resident_kib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn main() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let own = Credentials::from_pem(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes()).unwrap();
    let terms = ServerTerms {
        certificates: &[own],
        tls13_only: false,
        clients: Clients::Unasked,
        http2: false,
        tickets: Some(Tickets::new().unwrap()),
    };
    let server = terms.config().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = Arc::new(client.with_root_certificates(roots).with_no_client_auth());

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut pairs = Vec::with_capacity(PAIRS);
        let mut plain = Vec::with_capacity(PAIRS);
        let mut before = 0.0;
        for index in 0..PAIRS + 100 {
            // The first ones fill buffers of the thread and caches.
            if index == 100 {
                before = resident_kib();
            }
            let (here, there) = UnixStream::pair().unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let (here, there) = tokio::join!(
                TlsStream::connect(Socket::from(here), client.clone(), name),
                TlsStream::accept(Socket::from(there), server.clone())
            );
            let (mut here, mut there) = (Transport::from(here.unwrap()), Transport::from(there.unwrap()));
            // Used in both directions, and then idle.
            here.write_all(&[1; 4096]).await.unwrap();
            there.read_exact(&mut [0; 4096]).await.unwrap();
            there.write_all(&[2; 4096]).await.unwrap();
            here.read_exact(&mut [0; 4096]).await.unwrap();
            pairs.push((here, there));
        }
        let with_tls = (resident_kib() - before) / PAIRS as f64;
        let before = resident_kib();
        for _ in 0..PAIRS {
            let (here, there) = UnixStream::pair().unwrap();
            plain.push((Transport::from(here), Transport::from(there)));
        }
        let without = (resident_kib() - before) / PAIRS as f64;
        println!("client and server together: {with_tls:.1} KiB with TLS, {without:.1} KiB without");
    });
}
