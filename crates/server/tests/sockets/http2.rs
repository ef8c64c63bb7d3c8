use std::time::Duration;

use tidegate_testkit::{Upstream, local, patiently};
use tidegate_transport::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::harness::Gateway;
use super::secure::{Authority, run, shake};

/// Runs a script of Node's own HTTP/2 client against the gateway. `session` is connected, `ca` is believed.
async fn node(gateway: &Gateway, authority: &Authority, script: &str) -> String {
    let script = format!(
        "const http2 = require('http2'), fs = require('fs');
        const session = http2.connect('https://localhost:{}', {{ ca: fs.readFileSync('{}') }});
        session.on('error', (error) => console.log('session error', error.code));
        const ask = (headers, body) => new Promise((done) => {{
            const stream = session.request(headers, {{ endStream: body === undefined }});
            const got = {{ body: '' }};
            stream.setEncoding('utf8');
            stream.on('response', (headers) => got.headers = headers);
            stream.on('trailers', (trailers) => got.trailers = trailers);
            stream.on('data', (data) => got.body += data);
            stream.on('error', (error) => got.error = error.code);
            stream.on('close', () => done(got));
            if (body !== undefined) stream.end(body);
        }});
        (async () => {{ {script} }})();",
        gateway.address.port(),
        authority.ca().display(),
    );
    run("node", &["-e", &script]).await
}

#[test]
fn curl_speaks_http_2_by_itself_and_the_upstream_gets_http_1() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::ok("hello").await);
        let gateway = Gateway::start(authority.simple(upstream.address()));
        let url = format!("https://localhost:{}/api/x?y", gateway.address.port());
        let ca = authority.ca();
        let ca = ca.to_str().unwrap();
        let said =
            run("curl", &["-s", "--cacert", ca, "-w", " %{http_version} %{http_code}", "-d", "body", &url]).await;
        assert_eq!(said, "hello 2 200");
        let request = &upstream.requests()[0];
        assert_eq!(request.start, "POST /api/x?y HTTP/1.1");
        assert_eq!(request.field("host"), Some(&*format!("localhost:{}", gateway.address.port())));
        assert_eq!(request.field("x-forwarded-proto"), Some("https"));
        let said = run("curl", &["-s", "--http1.1", "--cacert", ca, "-w", " %{http_version}", &url]).await;
        assert_eq!(said, "hello 1.1");
    });
}

#[test]
fn without_http2_nothing_but_http_1_is_offered() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::ok("hello").await);
        let mut config = authority.simple(upstream.address());
        config.listeners[0].http2 = false;
        let gateway = Gateway::start(config);
        let url = format!("https://localhost:{}/api/x", gateway.address.port());
        let ca = authority.ca();
        let said = run("curl", &["-s", "--cacert", ca.to_str().unwrap(), "-w", " %{http_version}", &url]).await;
        assert_eq!(said, "hello 1.1");
    });
}

#[test]
fn thousands_of_requests_share_a_few_connections() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::ok("hello").await);
        let gateway = Gateway::start(authority.simple(upstream.address()));
        let url = format!("https://localhost:{}/api/x", gateway.address.port());
        let said = run("h2load", &["-n", "3000", "-c", "4", "-m", "32", &url]).await;
        assert!(said.contains("3000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
        gateway.until("tidegate_http_connections_open", 0).await;
    });
}

#[test]
fn trailers_and_bodies_pass_both_ways() {
    local(async {
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n";
        let (authority, upstream) = (Authority::new(), Upstream::answers(answer).await);
        let gateway = Gateway::start(authority.simple(upstream.address()));
        let script = "
            const got = await ask({ ':path': '/api/x', ':method': 'POST', cookie: ['a=1', 'b=2'] }, 'body');
            console.log(got.headers[':status'], got.body, got.trailers['x-sum']);
            session.close();";
        assert_eq!(node(&gateway, &authority, script).await.trim(), "200 hello 7");
        let request = &upstream.requests()[0];
        assert_eq!(request.field("cookie"), Some("a=1; b=2"));
    });
}

#[test]
fn a_websocket_opens_over_http_2_and_carries_frames_both_ways() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::websocket_echo().await);
        let gateway = Gateway::start(authority.simple(upstream.address()));
        // Frames as they are: masked text from the client, unmasked text back.
        let script = "
            await new Promise((done) => session.on('remoteSettings', done));
            console.log('connect', session.remoteSettings.enableConnectProtocol);
            const stream = session.request({ ':method': 'CONNECT', ':protocol': 'websocket', ':path': '/api/x',
                'sec-websocket-version': '13' });
            stream.on('response', (headers) => {
                console.log('status', headers[':status'], headers['sec-websocket-accept'], headers.upgrade);
                stream.write(Buffer.from([0x81, 0x85, 0, 0, 0, 0, ...Buffer.from('hello')]));
            });
            let got = Buffer.alloc(0);
            stream.on('data', (data) => {
                got = Buffer.concat([got, data]);
                if (got.length === 7) {
                    console.log('echo', got.subarray(2).toString(), got[0]);
                    stream.end();
                }
            });
            stream.on('close', () => { console.log('closed'); session.close(); });";
        let said = node(&gateway, &authority, script).await;
        assert_eq!(said, "connect true\nstatus 200 undefined undefined\necho hello 129\nclosed\n");
        gateway.until(r#"tidegate_tunnels_total{route="all"}"#, 1).await;
        gateway.until(r#"tidegate_tunnels_open{route="all"}"#, 0).await;
    });
}

#[test]
fn a_socket_io_session_opens_over_http_2() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::ok("").await);
        let mut config = authority.simple(upstream.address());
        config.realtime = Some(super::harness::realtime());
        let gateway = Gateway::start(config);
        let script = "
            await new Promise((done) => session.on('remoteSettings', done));
            const stream = session.request({ ':method': 'CONNECT', ':protocol': 'websocket',
                ':path': '/socket.io/?EIO=4&transport=websocket', 'sec-websocket-version': '13' });
            let got = '';
            stream.on('response', (headers) => {
                console.log(headers[':status']);
                stream.write(Buffer.from([0x81, 0x82, 0, 0, 0, 0, ...Buffer.from('40')]));
            });
            stream.on('data', (data) => {
                got += data.toString('latin1');
                if (got.includes('44{')) {
                    console.log(got.includes('0{\"sid\"'));
                    stream.close();
                    session.close();
                }
            });";
        assert_eq!(node(&gateway, &authority, script).await, "200\ntrue\n");
    });
}

#[test]
fn a_tunnel_to_anywhere_is_refused() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::ok("").await);
        let gateway = Gateway::start(authority.simple(upstream.address()));
        let script = "
            const got = await ask({ ':method': 'CONNECT', ':authority': 'internal:22' });
            console.log(got.headers[':status']);
            session.close();";
        assert_eq!(node(&gateway, &authority, script).await.trim(), "400");
    });
}

#[test]
fn a_drain_says_goodbye_and_what_is_under_way_ends_well() {
    local(async {
        let upstream = Upstream::script(|mut peer, _, _| async move {
            while peer.message(false).await.is_some() {
                peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
                tokio::time::sleep(Duration::from_millis(500)).await;
                peer.send("6\r\n world\r\n0\r\n\r\n").await;
            }
        })
        .await;
        let authority = Authority::new();
        let gateway = Gateway::start(authority.simple(upstream.address()));
        let script = "
            session.on('goaway', (code) => console.log('goaway', code));
            const got = await ask({ ':path': '/api/x' });
            console.log(got.headers[':status'], got.body, got.headers.connection);
            session.on('close', () => console.log('closed'));";
        let drain = async {
            patiently("the request", async {
                while upstream.connections() == 0 {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            gateway.drain();
        };
        let (said, ()) = tokio::join!(node(&gateway, &authority, script), drain);
        assert!(said.contains("goaway 0") && said.contains("200 hello world undefined"), "{said}");
    });
}

#[test]
fn a_client_that_only_opens_and_resets_streams_is_let_go() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::silent().await);
        let gateway = Gateway::start(authority.simple(upstream.address()));
        let script = "
            session.on('close', () => { console.log('closed'); process.exit(); });
            session.on('error', () => {});
            const round = () => {
                if (session.closed || session.destroyed) return;
                for (let index = 0; index < 10; index += 1) {
                    const stream = session.request({ ':path': '/api/x' });
                    stream.on('error', () => {});
                    // After the server has seen the request.
                    setTimeout(() => stream.close(http2.constants.NGHTTP2_CANCEL), 20);
                }
                setTimeout(round, 30);
            };
            round();";
        assert_eq!(node(&gateway, &authority, script).await.trim(), "closed");
        gateway.until(r#"tidegate_bad_requests_total{reason="http2_resets"}"#, 1).await;
    });
}

/// A frame (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Sends the frames again and again; how many bytes the server took before it closed the connection.
async fn flood(gateway: &Gateway, authority: &Authority, first: &[u8], again: &[u8]) -> usize {
    const MOST: usize = 64 << 20;
    let mut stream = Transport::from(shake(gateway.address, authority.client(true)).await.unwrap());
    let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*frame(4, 0, 0, &[]), first].concat();
    stream.write_all(&begin).await.unwrap();
    let (mut reading, mut writing) = tokio::io::split(stream);
    let write = async {
        let many = again.repeat(1 + 16_384 / again.len());
        let mut sent = 0;
        while sent < MOST && writing.write_all(&many).await.is_ok() {
            sent += many.len();
        }
        sent
    };
    // Whatever the server says is read, so that only its own limits end the connection.
    let read = async {
        let mut buffer = vec![0; 65_536];
        while reading.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    };
    let (sent, ()) = patiently("the end of the flood", async { tokio::join!(write, read) }).await;
    assert!(sent < MOST, "the server took {sent} bytes");
    sent
}

#[test]
fn a_flood_of_continuation_frames_ends_the_connection() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::ok("").await);
        let gateway = Gateway::start(authority.simple(upstream.address()));
        // Literal fields without indexing: "x: y", endlessly.
        let field = [0x00, 1, b'x', 1, b'y'].repeat(200);
        let headers = frame(1, 0, 1, &field);
        flood(&gateway, &authority, &headers, &frame(9, 0, 1, &field)).await;
        // Empty ones, which no limit of bytes counts.
        flood(&gateway, &authority, &headers, &frame(9, 0, 1, &[])).await;
    });
}

#[test]
fn a_header_list_beyond_the_limit_is_refused_and_the_connection_goes_on() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::ok("hello").await);
        let gateway = Gateway::start(authority.simple(upstream.address()));
        let script = "
            const large = await ask({ ':path': '/api/x', 'x-large': 'x'.repeat(50000) });
            console.log(large.headers && large.headers[':status'], large.error);
            const small = await ask({ ':path': '/api/x' });
            console.log(small.headers[':status']);
            session.close();";
        assert_eq!(node(&gateway, &authority, script).await, "431 undefined\n200\n");
    });
}

/// testssl.sh's verdict on what is offered. It takes its time, and has nobody's patience but the test runner's.
#[test]
fn testssl_finds_nothing_weak() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::ok("hello").await);
        let gateway = Gateway::start(authority.simple(upstream.address()));
        let directory = tempfile::tempdir().unwrap();
        let address = gateway.address.to_string();
        let mut command = std::process::Command::new("testssl");
        command.args(["--quiet", "--color", "0", "-p", "-s", "-f", "-U", "--warnings", "off", &address]);
        command.current_dir(directory.path()).stdin(std::process::Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("TLS 1.3") && !said.contains("NOT ok"), "{said}");
    });
}
