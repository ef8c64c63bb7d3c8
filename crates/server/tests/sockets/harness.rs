use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tidegate_config::{
    AccessLog, Action, Admin, Config, Drain, Listener, Log, Realtime, RealtimeAuth, Route, Upstream,
};
use tidegate_server::{Extras, Reloaded, Running, Server};
use tidegate_testkit::{RawClient, patiently};

/// A config for one listener on a free port, the upstream behind `/`, and an admin listener.
pub fn config(upstream: Option<SocketAddr>, access: AccessLog) -> Config {
    let upstreams: Vec<_> = upstream.iter().map(|at| Upstream::new("backend", &[at.to_string().as_str()])).collect();
    let route = Route::new("all", "/api", Action::upstream("backend"));
    Config {
        workers: 1,
        listeners: vec![Listener::new("public", "127.0.0.1:0".parse().unwrap())],
        admin: Some(Admin { address: "127.0.0.1:0".parse().unwrap(), token: None }),
        routes: upstreams.iter().map(|_| route.clone()).collect(),
        upstreams,
        log: Log { access, ..Log::default() },
        // Reached only when a test fails.
        drain: Drain { timeout: Duration::from_secs(120), delay: Duration::ZERO, ..Drain::default() },
        ..Config::default()
    }
}

/// Of tokens for the edge.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A token that names its user in `sub`.
pub fn token(user: &str, expires: u64) -> String {
    let claims = tidegate_auth::Claims { sub: Some(user.to_owned()), exp: Some(expires), ..Default::default() };
    tidegate_auth::KeySet::hs256(SECRET).sign(&claims)
}

/// The realtime server with a secret that every test knows.
pub fn realtime() -> Realtime {
    let auth = RealtimeAuth::hs256(SECRET.into());
    Realtime::new(auth, vec!["public".into()])
}

/// A running server; closed when dropped.
pub struct Gateway {
    running: Option<Running>,
    pub address: SocketAddr,
    pub admin: SocketAddr,
}

impl Gateway {
    pub fn start(config: Config) -> Self {
        Self::with(config, Extras::default())
    }

    pub fn with(config: Config, extras: Extras) -> Self {
        let running = Server::start(config, extras).unwrap();
        Self { address: running.addresses()[0], admin: running.admin_address().unwrap(), running: Some(running) }
    }

    /// In front of an upstream.
    pub fn before(upstream: SocketAddr) -> Self {
        Self::start(config(Some(upstream), AccessLog::Off))
    }

    /// In front of nothing, logging to a file.
    pub fn logging(upstream: Option<SocketAddr>, log: &Path) -> Self {
        Self::start(config(upstream, AccessLog::File(log.to_owned())))
    }

    pub async fn client(&self) -> RawClient {
        RawClient::connect(self.address).await
    }

    pub fn reload(&self, config: Config) -> Result<Reloaded, String> {
        self.running.as_ref().unwrap().reload(config)
    }

    /// The realtime server.
    pub fn node(&self) -> &tidegate_realtime::Node {
        self.running.as_ref().unwrap().realtime().unwrap()
    }

    pub fn reopen_logs(&self) {
        self.running.as_ref().unwrap().reopen_logs();
    }

    pub fn drain(&self) {
        self.running.as_ref().unwrap().drain();
    }

    /// Ends it and gives the exit code. Waits on a thread of its own, so that the test's upstream goes on.
    pub async fn ended(&mut self) -> u8 {
        let running = self.running.take().unwrap();
        patiently("the server's end", tokio::task::spawn_blocking(move || running.wait())).await.unwrap()
    }

    /// As [`Gateway::ended`], at once.
    pub async fn close(&mut self) -> u8 {
        self.running.as_ref().unwrap().close();
        self.ended().await
    }

    pub async fn admin(&self, path: &str) -> (u16, String) {
        let mut client = RawClient::connect(self.admin).await;
        let answer = client.request(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        (answer.status(), answer.text())
    }

    /// The value of a series in `/metrics`.
    pub async fn metric(&self, series: &str) -> u64 {
        let (_, text) = self.admin("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned));
        line.map_or(0, |value| value.parse().unwrap())
    }
}

impl Gateway {
    /// Waits until a series has the value: what a client sees and what is counted happen on different threads.
    pub async fn until(&self, series: &str, value: u64) {
        patiently(series, async { while self.metric(series).await != value {} }).await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.close();
            running.wait();
        }
    }
}

pub fn lines(log: &Path) -> Vec<Value> {
    std::fs::read_to_string(log).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub const GET_API: &str = "GET /api/x HTTP/1.1\r\nHost: example.org\r\n\r\n";
