//! gRPC: HTTP/2 on both sides, streams and trailers. Client and server are those of Node.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use tidegate_config::{Action, Route, UpstreamProtocol};
use tidegate_testkit::{local, patiently};

use super::harness::Gateway;
use super::secure::Authority;

#[test]
fn grpc_calls_streams_and_errors_pass_from_http_2_to_http_2() {
    local(async {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/e2e/node");
        if !folder.join("node_modules/@grpc/grpc-js").exists() {
            println!("skipped: the modules of tests/e2e/node are not installed");
            return;
        }
        let mut node = Command::new("node")
            .arg("grpc.mjs")
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = node.stdin.take().unwrap();
        let mut lines = BufReader::new(node.stdout.take().unwrap()).lines();
        let port: u16 = lines.next().unwrap().unwrap().parse().unwrap();
        let authority = Authority::new();
        let mut config = authority.simple(([127, 0, 0, 1], port).into());
        config.upstreams[0].protocol = UpstreamProtocol::Http2;
        config.routes = vec![Route::new("all", "/", Action::upstream("backend"))];
        let gateway = Gateway::start(config);
        writeln!(input, "{} {}", gateway.address.port(), authority.ca().display()).unwrap();
        let said = tokio::task::spawn_blocking(move || lines.next().unwrap().unwrap());
        let said = patiently("the calls", said).await.unwrap();
        let _ = node.kill();
        node.wait().unwrap();
        assert_eq!(said, "done");
    });
}
