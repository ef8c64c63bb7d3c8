//! Real WebSocket peers: the `ws` server and client of Node, with compression.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use common::{Gateway, Terms};
use tidegate_proxy::{Inspect, Leave, LeavePace, LiveFilter, WebSocketPolicy, WebSocketSettings};
use tidegate_testkit::{local, patiently};

struct Node {
    child: Child,
    input: ChildStdin,
    output: Option<BufReader<ChildStdout>>,
}

impl Node {
    /// `None` where its modules are not installed, which `cargo xtask test` does.
    fn start(scenario: &str) -> Option<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/e2e/node");
        if !folder.join("node_modules/ws").exists() {
            println!("skipped: the modules of tests/e2e/node are not installed");
            return None;
        }
        let mut child = Command::new("node")
            .args(["tunnel.mjs", scenario])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().map(BufReader::new));
        Some(Self { child, input, output })
    }

    /// The next line, waited for on another thread: the gateway is on this one.
    async fn line(&mut self) -> String {
        let mut output = self.output.take().unwrap();
        let reading = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            (output, line.trim().to_owned())
        });
        let (output, line) = patiently("a line of node's", reading).await.unwrap();
        self.output = Some(output);
        line
    }

    async fn gateway(&mut self, settings: WebSocketSettings) -> Gateway {
        let upstream = ([127, 0, 0, 1], self.line().await.parse().unwrap()).into();
        let terms = Terms { websocket: Some(WebSocketPolicy::new(settings)), ..Terms::default() };
        let gateway = Gateway::on(common::settings(&[upstream]), terms).await;
        writeln!(self.input, "{}", gateway.address).unwrap();
        gateway
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn nodes_websockets_pass_a_strict_route_with_and_without_compression() {
    local(async {
        let Some(mut node) = Node::start("messages") else { return };
        let settings = WebSocketSettings {
            inspect: Inspect::Strict,
            // Often, so that pings come between everything.
            ping_interval: Duration::from_millis(10),
            ..WebSocketSettings::default()
        };
        let gateway = node.gateway(settings).await;
        assert_eq!(node.line().await, "done");
        let ended = gateway.ended(2).await;
        assert!(ended.iter().all(|it| it.messages_in == 13 && it.messages_out == 13), "{ended:?}");
        assert!(ended.iter().all(|it| it.close.map(|(code, _)| code) == Some(4001)), "{ended:?}");
    });
}

#[test]
fn node_hears_why_a_tunnel_ends_at_both_ends() {
    local(async {
        let Some(mut node) = Node::start("ended") else { return };
        let gateway = node.gateway(WebSocketSettings::default()).await;
        assert_eq!(node.line().await, "ready");
        assert_eq!(gateway.live.close(&LiveFilter::default(), Leave::ServerDrain, LeavePace::default()).await, 1);
        assert_eq!(node.line().await, "1012 please connect again 1012");
        assert_eq!(node.line().await, "done");
        assert_eq!(gateway.ended(1).await[0].close.map(|(code, _)| code), Some(1012));
    });
}
