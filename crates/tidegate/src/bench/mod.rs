//! `tidegate bench`: generates load and counts what came back.
//!
//! It measures any server that speaks the protocol, not only Tidegate: `http` any HTTP/1.1 server or proxy, `echo
//! --websocket` any WebSocket echo, `sse` any event stream; the Socket.IO cases need the rooms API (`room:join`,
//! `room:send`, `room:message`).
//!
//! It must be much cheaper than what it measures: one thread, one read buffer for all connections, requests encoded
//! once, one system call per read (no second `read` that only says "would block"), and no JSON parser on the way of a
//! delivery. A run reports its own CPU time, so that nobody takes the generator's limit for the server's.
//!
//! Start reading at [`run`], then [`fanout`] for the liveliest case.

mod args;
mod clock;
mod echo;
mod fanout;
mod frame;
mod histogram;
mod http;
mod idle;
mod link;
mod payload;
mod process;
mod publish;
mod ramp;
mod replay;
mod report;
mod socketio;
mod sse;
mod target;
mod tls;
mod token;
mod upstream;
mod websocket;

use anyhow::Context as _;
use clap::{Args, Subcommand};

/// Generate load: HTTP, idle connections, Socket.IO fan-out and echo, WebSocket echo, SSE.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    case: Case,
}

#[derive(Debug, Subcommand)]
enum Case {
    /// HTTP/1.1 requests over kept-alive connections, or one connection per request.
    Http(http::HttpArgs),
    /// Holds many idle connections and says how many live: WebSocket, Socket.IO in rooms, or SSE.
    Idle(idle::IdleArgs),
    /// One Socket.IO publisher, many subscribers in one room.
    Fanout(fanout::FanoutArgs),
    /// Round trips: Socket.IO emit with ack, or WebSocket echo.
    Echo(echo::EchoArgs),
    /// Many Socket.IO publishers, each alone in its room, each with several messages under way.
    Publish(publish::PublishArgs),
    /// Clients that come back and are sent what they missed, or read it from the history.
    Replay(replay::ReplayArgs),
    /// Many SSE subscribers; counts the events that arrive.
    Sse(sse::SseArgs),
    /// A small upstream for measurements: fixed HTTP body, WebSocket echo, SSE ticker.
    #[command(hide = true)]
    Upstream(upstream::UpstreamArgs),
}

/// Runs the chosen case to its end or to Ctrl-C, and prints its summary to stdout.
pub fn run(args: BenchArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the load generator's event loop did not start")?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        match args.case {
            Case::Http(args) => Box::pin(http::run(args)).await,
            Case::Idle(args) => Box::pin(idle::run(args)).await,
            Case::Fanout(args) => Box::pin(fanout::run(args)).await,
            Case::Echo(args) => Box::pin(echo::run(args)).await,
            Case::Publish(args) => Box::pin(publish::run(args)).await,
            Case::Replay(args) => Box::pin(replay::run(args)).await,
            Case::Sse(args) => Box::pin(sse::run(args)).await,
            Case::Upstream(args) => Box::pin(upstream::run(args)).await,
        }
    })
}
