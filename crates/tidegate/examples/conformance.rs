//! What the official test suites of the Engine.IO and Socket.IO protocols expect of a server, and a plain WebSocket echo:
//! `cargo run --release --example conformance -- --port 3000`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tidegate_config::{Config, Realtime, RealtimeAuth};
use tidegate_server::app::{App, Endpoint, Namespace, Socket};
use tidegate_server::{Extras, Server, start_logging};

/// Between the answer to CONNECT and the event behind it. The Socket.IO suite listens for one message at a time, and hears
/// but the first of two that come in one read.
const APART: Duration = Duration::from_millis(25);

fn main() -> Result<()> {
    let address = address(port()?);
    let mut config = Config::embedded(address, RealtimeAuth::none());
    // One is plenty for a test, and serves its connections in the order in which they speak.
    config.workers = 1;
    config.realtime = config.realtime.map(|defaults| Realtime {
        ping_interval: Duration::from_millis(300),
        ping_timeout: Duration::from_millis(200),
        connect_timeout: Duration::from_millis(1_000),
        max_payload: 1_000_000,
        messages_per_second: 0,
        ..defaults
    });
    start_logging(&config.log);
    let running = Server::start(config, Extras { app: Some(app()), signals: true, ..Extras::default() })?;
    for address in running.addresses() {
        println!("listening on http://localhost:{}", address.port());
    }
    match running.wait() {
        0 => Ok(()),
        code => bail!("ended with {code}"),
    }
}

fn app() -> App {
    let main = Namespace::new()
        .without_auth()
        .on_connect_async(greet)
        .on("message", |socket, event| socket.emit("message-back", event.into_args()))
        .on("message-with-ack", |_, mut event| {
            if let Some(ack) = event.take_ack() {
                ack.send(event.into_args());
            }
        });
    let custom = Namespace::new().without_auth().on_connect_async(greet);
    let echo = Endpoint::new().without_pings().on_message(|link, message| link.send(message));
    App::new()
        .namespace("/", main)
        .namespace("/custom", custom)
        .engine("/engine.io/", echo.clone())
        .websocket("/echo", echo)
}

async fn greet(socket: Socket) {
    tokio::time::sleep(APART).await;
    socket.emit("auth", socket.handshake().auth());
}

/// Everywhere, over IPv6 too where there is any: `localhost` may mean either.
fn address(port: u16) -> SocketAddr {
    let everywhere = IpAddr::from(Ipv6Addr::UNSPECIFIED);
    match TcpListener::bind((everywhere, 0)) {
        Ok(_) => (everywhere, port).into(),
        Err(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
    }
}

fn port() -> Result<u16> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next(), arguments.next()) {
        (Some("--port"), Some(port), None) => port.parse().with_context(|| format!("{port:?} is no port")),
        (None, ..) => Ok(3_000),
        _ => bail!("usage: conformance --port N"),
    }
}
