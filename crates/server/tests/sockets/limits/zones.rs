use std::net::SocketAddr;

use tidegate_config::{AccessLog, Config, Rate, Route, Zone, ZoneKind, ZoneUse};
use tidegate_testkit::{Message, RawClient, Upstream, WebSocket, local};

use crate::harness::{GET_API, Gateway, config, realtime};

pub fn rate(name: &str, rate: &str, burst: u32) -> (Zone, ZoneUse) {
    zone(name, "{client_ip}", ZoneKind::Rate(Rate::parse(rate).unwrap()), burst)
}

pub fn connections(name: &str, most: u32) -> (Zone, ZoneUse) {
    zone(name, "{client_ip}", ZoneKind::Connections(most), 0)
}

/// A zone `api` of a rate, by this key.
pub fn with_key(key: &str, rate: &str, burst: u32) -> (Zone, ZoneUse) {
    zone("api", key, ZoneKind::Rate(Rate::parse(rate).unwrap()), burst)
}

fn zone(name: &str, key: &str, kind: ZoneKind, burst: u32) -> (Zone, ZoneUse) {
    let zone = Zone {
        name: name.into(),
        key: key.into(),
        kind,
        status: 429,
        dry_run: false,
        shared: false,
        max_keys: 100_000,
        burst,
        nodelay: true,
        delay: 0,
    };
    let usage = ZoneUse { zone: name.into(), burst, nodelay: true, delay: 0, dry_run: false, status: 429 };
    (zone, usage)
}

/// The harness's config with these zones on its route.
pub fn limited(upstream: SocketAddr, zones: impl IntoIterator<Item = (Zone, ZoneUse)>) -> Config {
    let (zones, uses): (Vec<_>, Vec<_>) = zones.into_iter().unzip();
    let mut config = config(Some(upstream), AccessLog::Off);
    config.zones = zones;
    config.routes[0].limits = Some(uses);
    config
}

async fn statuses(client: &mut RawClient, request: &str, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(client.request(request).await.status());
    }
    statuses
}

fn passed(statuses: &[u16]) -> usize {
    statuses.iter().filter(|status| **status == 200).count()
}

#[test]
fn beyond_the_burst_a_client_is_refused_and_told_when_to_come_back() {
    local(async {
        let upstream = Upstream::ok("x").await;
        // So slow that no request is earned while the test runs.
        let gateway = Gateway::start(limited(upstream.address(), [rate("api", "1r/m", 4)]));
        let mut client = gateway.client().await;
        assert_eq!(statuses(&mut client, GET_API, 5).await, [200; 5]);
        let refused = client.request(GET_API).await;
        assert_eq!(refused.status(), 429);
        assert!(refused.text().contains("\"RATE_LIMITED\""), "{}", refused.text());
        let number = |name: &str| refused.field(name).unwrap().parse::<u64>().unwrap();
        assert_eq!((number("ratelimit-limit"), number("ratelimit-remaining")), (5, 0));
        assert!((1..=63).contains(&number("retry-after")), "{}", number("retry-after"));
        assert!((301..=375).contains(&number("ratelimit-reset")), "{}", number("ratelimit-reset"));
        assert_eq!(upstream.requests().len(), 5);
        gateway.until(r#"tidegate_limited_total{route="all",zone="api",outcome="rejected"}"#, 1).await;
        gateway.until(r#"tidegate_limit_keys{zone="api"}"#, 1).await;
    });
}

#[test]
fn a_limit_holds_for_all_connections_of_a_client_and_all_workers() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let mut config = limited(upstream.address(), [rate("api", "1r/m", 9)]);
        config.workers = 4;
        let gateway = Gateway::start(config);
        let mut passed = 0;
        for _ in 0..30 {
            passed += usize::from(gateway.client().await.request(GET_API).await.status() == 200);
        }
        assert_eq!(passed, 10);
    });
}

#[test]
fn a_zone_keeps_what_it_knows_over_a_reload_unless_its_settings_change() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let gateway = Gateway::start(limited(upstream.address(), [rate("api", "1r/m", 1)]));
        let mut client = gateway.client().await;
        assert_eq!(statuses(&mut client, GET_API, 3).await, [200, 200, 429]);
        let mut more = limited(upstream.address(), [rate("api", "1r/m", 3)]);
        more.routes.push(Route { path: tidegate_config::PathMatch::Prefix("/new".into()), ..more.routes[0].clone() });
        gateway.reload(more).unwrap();
        assert_eq!(statuses(&mut client, GET_API, 3).await, [200, 200, 429], "two more of the larger burst");
        gateway.reload(limited(upstream.address(), [rate("api", "2r/m", 0)])).unwrap();
        assert_eq!(statuses(&mut client, GET_API, 2).await, [200, 429]);
        gateway.until(r#"tidegate_limit_keys{zone="api"}"#, 1).await;
    });
}

#[test]
fn of_several_zones_the_first_refusal_wins_and_then_none_is_charged() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let mut narrow = rate("narrow", "1r/m", 0);
        narrow.0.key = "{header.x-user}".into();
        narrow.1.status = 503;
        let gateway = Gateway::start(limited(upstream.address(), [rate("wide", "1r/m", 3), narrow]));
        let mut client = gateway.client().await;
        let ann = "GET /api/x HTTP/1.1\r\nHost: a\r\nX-User: ann\r\n\r\n";
        assert_eq!(statuses(&mut client, ann, 10).await, [[200].as_slice(), &[503; 9]].concat());
        // The nine refusals have cost nothing of the wide zone: three of its four are left. Without the header, the narrow zone
        // has no key and does not limit.
        assert_eq!(statuses(&mut client, GET_API, 4).await, [200, 200, 200, 429]);
    });
}

#[test]
fn without_nodelay_the_excess_waits_its_turn() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let mut slow = rate("api", "4r/s", 4);
        slow.1.nodelay = false;
        let gateway = Gateway::start(limited(upstream.address(), [slow]));
        let begin = std::time::Instant::now();
        let mut clients = Vec::new();
        for _ in 0..5 {
            let mut client = gateway.client().await;
            client.send(GET_API).await;
            clients.push(client);
        }
        for client in &mut clients {
            assert_eq!(client.response().await.status(), 200);
        }
        // However slow the machine is, the fifth may not be served earlier than four times 250 ms after the first.
        assert!(begin.elapsed() >= std::time::Duration::from_millis(990), "{:?}", begin.elapsed());
    });
}

#[test]
fn a_dry_run_refuses_nobody_and_counts() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let mut trials = [rate("api", "1r/m", 1), connections("perip", 1)];
        for (_, usage) in &mut trials {
            usage.dry_run = true;
        }
        let gateway = Gateway::start(limited(upstream.address(), trials));
        let mut client = gateway.client().await;
        assert_eq!(statuses(&mut client, GET_API, 6).await, [200; 6]);
        gateway.until(r#"tidegate_limited_total{route="all",zone="api",outcome="dry_run"}"#, 4).await;
        gateway.until(r#"tidegate_limited_total{route="all",zone="api",outcome="rejected"}"#, 0).await;
    });
}

#[test]
fn limits_of_the_listener_hold_for_routes_without_their_own_and_for_the_realtime_server() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let mut config = limited(upstream.address(), [rate("api", "1r/m", 2)]);
        let (one, usage) = rate("everything", "1r/m", 0);
        config.zones.push(one);
        config.listeners[0].limits = vec![usage];
        config.realtime = Some(realtime());
        let own = config.routes[0].clone();
        config.routes.push(Route {
            name: "inherits".into(),
            path: tidegate_config::PathMatch::Prefix("/inherits".into()),
            limits: None,
            ..own.clone()
        });
        config.routes.push(Route {
            name: "free".into(),
            path: tidegate_config::PathMatch::Prefix("/free".into()),
            limits: Some(Vec::new()),
            ..own
        });
        let gateway = Gateway::start(config);
        let mut client = gateway.client().await;
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(statuses(&mut client, GET_API, 4).await, [200, 200, 200, 429]);
        assert_eq!(statuses(&mut client, &get("/inherits"), 2).await, [200, 429]);
        assert_eq!(statuses(&mut client, &get("/free"), 9).await, [200; 9]);
        let polling = get("/socket.io/?EIO=4&transport=polling");
        assert_eq!(statuses(&mut client, &polling, 1).await, [429], "the same key as /inherits");
    });
}

#[test]
fn the_twenty_first_stream_of_a_client_is_refused_until_one_ends() {
    local(async {
        let upstream = Upstream::websocket_echo().await;
        let gateway = Gateway::start(limited(upstream.address(), [connections("perip", 20)]));
        let mut open = Vec::new();
        for _ in 0..20 {
            open.push(WebSocket::connect(gateway.address, "/api/ws").await);
        }
        let mut late = gateway.client().await;
        late.send(WebSocket::handshake("/api/ws", "")).await;
        assert_eq!(late.response().await.status(), 429);
        gateway.until(r#"tidegate_tunnels_open{route="all"}"#, 20).await;
        open.pop();
        gateway.until(r#"tidegate_tunnels_open{route="all"}"#, 19).await;
        open.push(WebSocket::connect(gateway.address, "/api/ws").await);
        let mut last = gateway.client().await;
        last.send(WebSocket::handshake("/api/ws", "")).await;
        assert_eq!(last.response().await.status(), 429);
    });
}

#[test]
fn streams_of_the_realtime_server_count_for_their_life_too() {
    local(async {
        let (zone, usage) = connections("perip", 2);
        let mut config = config(None, AccessLog::Off);
        config.zones = vec![zone];
        config.listeners[0].limits = vec![usage];
        config.realtime = Some(realtime());
        let gateway = Gateway::start(config);
        let path = "/socket.io/?EIO=4&transport=websocket";
        let one = WebSocket::connect(gateway.address, path).await;
        let two = WebSocket::connect(gateway.address, path).await;
        let mut late = gateway.client().await;
        late.send(WebSocket::handshake(path, "")).await;
        assert_eq!(late.response().await.status(), 429);
        drop((one, two));
        gateway.until(r#"tidegate_limit_keys{zone="perip"}"#, 0).await;
        WebSocket::connect(gateway.address, path).await;
    });
}

fn answer(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}

/// nginx with the same zones in front of the same upstream.
async fn through_nginx(upstream: SocketAddr, burst: u32, requests: usize) -> Option<Vec<u16>> {
    let directory = tempfile::tempdir().unwrap();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let at = directory.path().display();
    let burst = if burst == 0 { String::new() } else { format!("burst={burst} nodelay") };
    let text = format!(
        "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f;\n\
         uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
         limit_req_zone $binary_remote_addr zone=api:1m rate=1r/m;\n\
         server {{ listen {address}; location / {{ limit_req zone=api {burst}; limit_req_status 429;\n\
         proxy_pass http://{upstream}; }} }} }}\n"
    );
    let file = directory.path().join("nginx.conf");
    std::fs::write(&file, text).unwrap();
    let mut nginx =
        std::process::Command::new("nginx").arg("-c").arg(&file).arg("-p").arg(directory.path()).spawn().ok()?;
    tidegate_testkit::patiently("nginx", async {
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    let mut client = RawClient::connect(address).await;
    let statuses = statuses(&mut client, GET_API, requests).await;
    nginx.kill().unwrap();
    nginx.wait().unwrap();
    Some(statuses)
}

#[test]
fn a_burst_is_answered_as_nginx_answers_it() {
    local(async {
        let upstream = Upstream::answers(answer("x")).await;
        for burst in [0, 1, 5, 20] {
            let theirs = through_nginx(upstream.address(), burst, 25).await.expect("nginx is installed");
            let gateway = Gateway::start(limited(upstream.address(), [rate("api", "1r/m", burst)]));
            let ours = statuses(&mut gateway.client().await, GET_API, 25).await;
            assert_eq!(ours, theirs, "burst={burst}");
            assert_eq!(passed(&ours), burst as usize + 1);
        }
    });
}

#[test]
fn a_refusal_leaves_a_line_with_its_status_and_route() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("access.log");
        let mut config = limited(upstream.address(), [rate("api", "1r/m", 0)]);
        config.log.access = AccessLog::File(log.clone());
        let mut gateway = Gateway::start(config);
        let mut client = gateway.client().await;
        assert_eq!(statuses(&mut client, GET_API, 2).await, [200, 429]);
        let refused: Message = client.request(GET_API).await;
        gateway.close().await;
        let lines = crate::harness::lines(&log);
        let line = &lines[2];
        assert_eq!((line["status"].as_u64(), line["route"].as_str()), (Some(429), Some("all")));
        assert_eq!(line["error"].as_str(), Some("RATE_LIMITED"), "{line}");
        assert_eq!(refused.status(), 429);
    });
}
