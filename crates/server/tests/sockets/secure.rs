//! Gateways with TLS, and clients for them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tidegate_config::{AccessLog, CertificateFiles, Config, ListenerTls};
use tidegate_testkit::{RawClient, patiently};
use tidegate_transport::rustls::ClientConfig;
use tidegate_transport::{ClientTerms, HandshakeError, ServerName, Socket, TlsStream, Transport, Trust};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use super::harness::config;

/// An authority and a directory for what it signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    pub directory: tempfile::TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "the test's authority");
        let pem = params.self_signed(&key).unwrap().pem();
        let this = Self { issuer: Issuer::new(params, key), pem, directory: tempfile::tempdir().unwrap() };
        std::fs::write(this.ca(), &this.pem).unwrap();
        this
    }

    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A certificate and key for these hosts, in files named after `file`. The subject's common name is the first host.
    pub fn issue(&self, file: &str, hosts: &[&str]) -> CertificateFiles {
        let key = KeyPair::generate().unwrap();
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let name = hosts[0].clone();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let at = |end: &str| self.directory.path().join(format!("{file}.{end}"));
        let files = CertificateFiles { certificate: at("pem"), key: at("key") };
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    /// A config with a TLS listener.
    pub fn config(&self, upstream: SocketAddr, tls: ListenerTls) -> Config {
        let mut config = config(Some(upstream), AccessLog::Off);
        config.listeners[0].tls = Some(tls);
        config
    }

    /// The simplest one: a certificate for `localhost`.
    pub fn simple(&self, upstream: SocketAddr) -> Config {
        self.config(upstream, ListenerTls::new(vec![self.issue("localhost", &["localhost"])]))
    }

    /// What a client needs that believes the authority.
    pub fn client(&self, http2: bool) -> Arc<ClientConfig> {
        ClientTerms { trust: Trust::Roots(self.pem.as_bytes()), certificate: None, http2 }.config().unwrap()
    }
}

/// A handshake as `localhost`.
pub async fn shake(address: SocketAddr, config: Arc<ClientConfig>) -> Result<TlsStream, HandshakeError> {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    patiently("a handshake", TlsStream::connect(Socket::from(stream), config, name)).await
}

/// A client that speaks TLS without knowing: a task carries its bytes.
pub async fn client(address: SocketAddr, config: Arc<ClientConfig>) -> RawClient {
    let mut secure = Transport::from(shake(address, config).await.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = RawClient::connect(listener.local_addr().unwrap()).await;
    let (mut plain, _) = listener.accept().await.unwrap();
    spawn_local(async move { drop(tokio::io::copy_bidirectional(&mut plain, &mut secure).await) });
    client
}

/// What a program says, errors included.
pub async fn run(program: &str, arguments: &[&str]) -> String {
    run_in(Path::new("/"), program, arguments).await
}

/// As [`run`], with files of its own. On a thread of its own, so that the test's upstream goes on.
pub async fn run_in(directory: &Path, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = patiently(program, output).await.unwrap().unwrap();
    [output.stdout, output.stderr].iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
}

/// `openssl s_client` with an empty request.
pub async fn openssl(address: SocketAddr, arguments: &[&str]) -> String {
    let address = address.to_string();
    let all: Vec<_> = ["s_client", "-connect", &address].into_iter().chain(arguments.iter().copied()).collect();
    run("openssl", &all).await
}
