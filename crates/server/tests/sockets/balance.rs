//! Which server gets a request, from the config on.

use tidegate_config::{AccessLog, Balance, Config, ProxyProtocol, Sticky, StickyCookie, Upstream};
use tidegate_testkit::{Message, RawClient, Upstream as Server, local};

use crate::harness::{Gateway, config};

async fn servers(count: usize) -> Vec<Server> {
    let mut servers = Vec::new();
    for index in 0..count {
        servers.push(Server::ok(&index.to_string()).await);
    }
    servers
}

fn before(servers: &[Server], change: impl FnOnce(&mut Upstream)) -> Config {
    let mut config = config(Some(servers[0].address()), AccessLog::Off);
    let addresses: Vec<String> = servers.iter().map(|server| server.address().to_string()).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    config.upstreams = vec![Upstream::new("backend", &addresses)];
    change(&mut config.upstreams[0]);
    // Each worker must come to the same choice.
    config.workers = 2;
    config
}

async fn ask(gateway: &Gateway, path: &str, fields: &str) -> Message {
    gateway.client().await.request(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await
}

#[test]
fn a_key_from_the_query_keeps_its_server() {
    local(async {
        let servers = servers(4).await;
        let balance = Balance::Hash { key: "{query.room}".into(), consistent: true, load_factor: 0 };
        let gateway = Gateway::start(before(&servers, |upstream| upstream.balance = balance));
        let mut all = String::new();
        for room in 0..20 {
            let path = format!("/api?user={room}x&room=r{room}");
            let first = ask(&gateway, &path, "").await.text();
            for other in 0..4 {
                let path = format!("/api?room=r{room}&user={other}");
                assert_eq!(ask(&gateway, &path, "").await.text(), first, "the room alone decides");
            }
            all += &first;
        }
        assert!(all.chars().any(|server| !all.starts_with(server)), "not all at one: {all}");
    });
}

#[test]
fn a_cookie_outlives_a_reload_that_drains_its_server() {
    local(async {
        let servers = servers(3).await;
        let sticky = |upstream: &mut Upstream| upstream.sticky = Some(Sticky::Cookie(StickyCookie::new("tg_route")));
        let gateway = Gateway::start(before(&servers, sticky));
        let first = ask(&gateway, "/api", "").await;
        let cookie = first.field("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        let mine: usize = first.text().parse().unwrap();
        gateway
            .reload(before(&servers, |upstream| {
                sticky(upstream);
                upstream.servers[mine].drain = true;
            }))
            .unwrap();
        for _ in 0..6 {
            assert_eq!(ask(&gateway, "/api", &format!("Cookie: {cookie}\r\n")).await.text(), first.text());
            assert_ne!(ask(&gateway, "/api", "").await.text(), first.text());
        }
    });
}

#[test]
fn the_server_is_told_the_client_in_a_proxy_header() {
    local(async {
        let server = Server::script(|mut peer: RawClient, _, _| async move {
            let header = peer.read_until(b"\r\n").await;
            peer.message(false).await.unwrap();
            let header = String::from_utf8_lossy(&header).trim().to_owned();
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{header}", header.len())).await;
        })
        .await;
        let servers = [server];
        let gateway = Gateway::start(before(&servers, |upstream| upstream.proxy_protocol = ProxyProtocol::V1));
        let mut client = gateway.client().await;
        let mine = client.stream().local_addr().unwrap();
        let told = client.request("GET /api HTTP/1.1\r\nHost: a\r\n\r\n").await.text();
        let source = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {}", mine.port());
        assert!(told.starts_with(&source), "{told}");
    });
}
