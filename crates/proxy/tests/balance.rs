//! Which server gets a request, through the gateway.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::nginx::Nginx;
use common::{Gateway, get, settings};
use tidegate_balance::{Algorithm, Duty};
use tidegate_proxy::{CookieKey, ServerOrder, ServerSettings, Sticky, StickyCookie, UpstreamSettings};
use tidegate_rules::proxy_protocol::ProxyVersion;
use tidegate_testkit::{Message, PATIENCE, RawClient, Upstream, WebSocket, local};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Servers that say their number, and accept WebSockets.
async fn servers(count: usize) -> Vec<Upstream> {
    let mut servers = Vec::new();
    for index in 0..count {
        let serve = move |mut peer: RawClient, _, _| async move {
            while let Some(request) = peer.message(false).await {
                if request.field("upgrade").is_some() {
                    peer.send(WebSocket::accept(&request, &format!("X-Server: {index}\r\n"))).await;
                    // Until the client goes.
                    while !peer.read_some().await.is_empty() {}
                    return;
                }
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{index}")).await;
            }
        };
        servers.push(Upstream::script(serve).await);
    }
    servers
}

fn addresses(servers: &[Upstream]) -> Vec<SocketAddr> {
    servers.iter().map(Upstream::address).collect()
}

/// The settings, each server's changed.
fn with(servers: &[SocketAddr], change: impl Fn(usize, &mut ServerSettings)) -> UpstreamSettings {
    let mut settings = settings(servers);
    settings.servers.iter_mut().enumerate().for_each(|(index, server)| change(index, server));
    settings
}

async fn ask(gateway: &Gateway, fields: &str) -> Message {
    let mut client = gateway.client().await;
    client.request(format!("GET /?session=a HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await
}

async fn asks(gateway: &Gateway, count: usize) -> String {
    let mut answers = String::new();
    for _ in 0..count {
        answers += &ask(gateway, "").await.text();
    }
    answers
}

/// Whether not all are the same. Ports are random, and so is what a ring gives to each: a small part may stay without a key.
fn several(answers: &str) -> bool {
    answers.chars().any(|answer| !answers.starts_with(answer))
}

/// A tunnel and the number of its server.
async fn tunnel(gateway: &Gateway, fields: &str) -> (RawClient, Message) {
    let mut client = gateway.client().await;
    client.send(WebSocket::handshake("/", fields)).await;
    let head = client.head().await.unwrap();
    (client, head)
}

async fn tunnels(gateway: &Gateway, count: usize) -> (Vec<RawClient>, String) {
    let mut held = Vec::new();
    let mut servers = String::new();
    for _ in 0..count {
        let (client, head) = tunnel(gateway, "").await;
        assert_eq!(head.status(), 101);
        servers += head.field("x-server").unwrap();
        held.push(client);
    }
    (held, servers)
}

#[test]
fn weights_are_kept_to_in_nginxs_order() {
    local(async {
        let servers = servers(3).await;
        let gateway = Gateway::with(with(&addresses(&servers), |index, server| {
            server.weight = if index == 0 { 5 } else { 1 };
        }))
        .await;
        assert_eq!(asks(&gateway, 14).await, "00102000010200");
    });
}

#[test]
fn a_backup_is_used_when_the_others_cannot_be_reached_and_a_server_that_is_down_never() {
    local(async {
        let servers = servers(2).await;
        let all = [Upstream::nobody().await, servers[0].address(), servers[1].address()];
        let gateway = Gateway::with(with(&all, |index, server| {
            server.duty = if index == 1 { Duty::Down } else { Duty::Serve };
            server.backup = index == 2;
        }))
        .await;
        assert_eq!(asks(&gateway, 3).await, "111");
        assert_eq!(servers[0].connections(), 0);
        let retries: Vec<u8> = gateway.ended(3).await.iter().map(|summary| summary.retries).collect();
        assert_eq!(retries, [1, 0, 0]);
        gateway.reload(with(&all, |_, server| server.duty = Duty::Down));
        assert_eq!(ask(&gateway, "").await.status(), 503);
    });
}

#[test]
fn a_tunnel_counts_as_a_connection_for_its_life() {
    local(async {
        let servers = servers(2).await;
        let gateway =
            Gateway::with(with(&addresses(&servers), |index, server| server.max_conns = 2 - index as u32)).await;
        let (mut held, places) = tunnels(&gateway, 3).await;
        assert_eq!(places, "010");
        assert_eq!(ask(&gateway, "").await.status(), 503, "all are full");
        let (_, refused) = tunnel(&gateway, "").await;
        assert_eq!(refused.status(), 503);
        drop(held.remove(1));
        // Three refusals and a tunnel have ended.
        gateway.ended(3).await;
        assert_eq!(asks(&gateway, 3).await, "111");
    });
}

#[test]
fn the_limit_of_the_only_server_holds_too() {
    local(async {
        let servers = servers(1).await;
        let gateway = Gateway::with(with(&addresses(&servers), |_, server| server.max_conns = 1)).await;
        let (held, _) = tunnels(&gateway, 1).await;
        assert_eq!(ask(&gateway, "").await.status(), 503);
        drop(held);
        gateway.ended(2).await;
        assert_eq!(asks(&gateway, 2).await, "00");
    });
}

#[test]
fn least_conn_sends_requests_where_fewer_tunnels_are() {
    local(async {
        let servers = servers(2).await;
        let settings = with(&addresses(&servers), |index, server| server.weight = 1 + index as u32);
        let gateway = Gateway::with(UpstreamSettings { balance: Algorithm::LeastConn, ..settings }).await;
        let (mut held, places) = tunnels(&gateway, 6).await;
        assert_eq!(places.matches('1').count(), 4, "{places}");
        let mine = places.find('0').unwrap();
        drop(held.remove(mine));
        gateway.ended(1).await;
        let (_more, place) = tunnels(&gateway, 1).await;
        assert_eq!(place, "0");
    });
}

#[test]
fn least_time_leaves_the_slow_server_alone() {
    local(async {
        let slow = Upstream::script(|mut peer, _, _| async move {
            while peer.message(false).await.is_some() {
                tokio::time::sleep(Duration::from_millis(300)).await;
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\ns").await;
            }
        })
        .await;
        let fast = Upstream::ok("f").await;
        let settings =
            UpstreamSettings { balance: Algorithm::LeastTime, ..settings(&[slow.address(), fast.address()]) };
        let gateway = Gateway::with(settings).await;
        let answers = asks(&gateway, 40).await;
        assert!(answers.matches('s').count() <= 4, "{answers}");
    });
}

#[test]
fn a_hash_keeps_each_key_at_one_server() {
    local(async {
        let servers = servers(3).await;
        let settings = settings(&addresses(&servers));
        let balance = Algorithm::ConsistentHash { load_factor: 0 };
        let gateway = Gateway::with(UpstreamSettings { balance, ..settings }).await;
        let mut all = String::new();
        for key in 0..20 {
            let fields = format!("X-Hash-Key: room {key}\r\n");
            let first = ask(&gateway, &fields).await.text();
            assert_eq!(ask(&gateway, &fields).await.text(), first);
            let (_tunnel, head) = tunnel(&gateway, &fields).await;
            assert_eq!(head.field("x-server"), Some(first.as_str()), "tunnels too");
            all += &first;
        }
        assert!(several(&all), "{all}");
    });
}

fn cookie() -> Sticky {
    Sticky::Cookie(Box::new(StickyCookie {
        name: "tg_route".into(),
        key: Some(CookieKey::from(&[7; 32][..])),
        ttl: Duration::from_secs(3600),
        path: "/".into(),
        domain: None,
        secure: false,
        same_site: "Lax",
    }))
}

fn given(response: &Message) -> Option<String> {
    Some(response.field("set-cookie")?.split_once(';')?.0.to_owned())
}

#[test]
fn a_cookie_keeps_a_client_at_its_server() {
    local(async {
        let servers = servers(3).await;
        let addresses = addresses(&servers);
        let sticky = |settings| UpstreamSettings { sticky: Some(cookie()), ..settings };
        let gateway = Gateway::with(sticky(settings(&addresses))).await;
        let first = ask(&gateway, "").await;
        let set = first.field("set-cookie").unwrap();
        assert!(set.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600"), "{set}");
        assert!(!set.contains("127.0.0.1"), "the server is not told");
        let pair = given(&first).unwrap();
        let fields = format!("Cookie: other=1; {pair}\r\n");
        for _ in 0..5 {
            let again = ask(&gateway, &fields).await;
            assert_eq!((again.text(), again.field("set-cookie")), (first.text(), None));
            let (_tunnel, head) = tunnel(&gateway, &fields).await;
            assert_eq!((head.field("x-server"), head.field("set-cookie")), (Some(first.text().as_str()), None));
        }
        let (_tunnel, head) = tunnel(&gateway, "").await;
        assert!(given(&head).is_some(), "the 101 has one too");

        // One that was made up, or signed with another key, is replaced.
        for forged in ["tg_route=x".to_owned(), pair.replace("tg_route=", "tg_route=A"), "tg_route=".to_owned()] {
            let answer = ask(&gateway, &format!("Cookie: {forged}\r\n")).await;
            assert!(given(&answer).is_some_and(|new| new != forged), "{forged}");
        }

        // The server drains: who has its cookie stays, nobody else comes.
        let mine: usize = first.text().parse().unwrap();
        gateway.reload(sticky(with(&addresses, |index, server| {
            server.duty = if index == mine { Duty::Drain } else { Duty::Serve };
        })));
        assert_eq!(ask(&gateway, &fields).await.text(), first.text());
        assert!(!asks(&gateway, 6).await.contains(&first.text()));

        // It goes: the cookie means nothing any more.
        let others: Vec<_> = addresses.iter().copied().filter(|address| *address != addresses[mine]).collect();
        gateway.reload(sticky(settings(&others)));
        let moved = ask(&gateway, &fields).await;
        assert!(given(&moved).is_some_and(|new| new != pair));
    });
}

#[test]
fn a_client_whose_server_has_gone_gets_another_one_and_its_cookie() {
    local(async {
        let mut servers = servers(2).await;
        let settings = UpstreamSettings { sticky: Some(cookie()), ..settings(&addresses(&servers)) };
        let gateway = Gateway::with(settings).await;
        let first = ask(&gateway, "").await;
        let pair = given(&first).unwrap();
        let mine: usize = first.text().parse().unwrap();
        let gone = servers.remove(mine);
        // Nobody takes its port while the test runs.
        let address = gone.address();
        drop(gone);
        let _place = tokio::net::TcpSocket::new_v4().unwrap().bind(address);
        let second = ask(&gateway, &format!("Cookie: {pair}\r\n")).await;
        assert_eq!(second.status(), 200);
        assert_ne!(second.text(), first.text());
        assert!(given(&second).is_some_and(|new| new != pair));
    });
}

#[test]
fn a_header_or_a_query_parameter_keeps_a_client_at_its_server() {
    local(async {
        let servers = servers(4).await;
        let by = |sticky| UpstreamSettings { sticky: Some(sticky), ..settings(&addresses(&servers)) };
        let gateway = Gateway::with(by(Sticky::Header(http::HeaderName::from_static("x-session-id")))).await;
        let mut all = String::new();
        for session in 0..20 {
            let fields = format!("X-Session-Id: session {session}\r\n");
            let first = ask(&gateway, &fields).await.text();
            assert_eq!(ask(&gateway, &fields).await.text(), first);
            all += &first;
        }
        assert!(several(&all), "{all}");
        assert_eq!(asks(&gateway, 4).await, "0123", "who has none goes by the algorithm");

        let gateway = Gateway::with(by(Sticky::Query("session".into()))).await;
        let first = ask(&gateway, "").await.text();
        assert_eq!(asks(&gateway, 5).await, first.repeat(5));
    });
}

#[test]
fn a_name_with_several_addresses_is_as_many_servers_and_what_stays_is_kept() {
    local(async {
        // One port on three addresses, as a name has it.
        let (port, listeners) = loop {
            let first = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = first.local_addr().unwrap().port();
            let others = [
                tokio::net::TcpListener::bind(("127.0.0.2", port)).await,
                tokio::net::TcpListener::bind(("127.0.0.3", port)).await,
            ];
            if let [Ok(second), Ok(third)] = others {
                break (port, [first, second, third]);
            }
        };
        for listener in listeners {
            tokio::task::spawn_local(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let address = stream.local_addr().unwrap().ip().to_string();
                    let mut peer = RawClient::from(stream);
                    tokio::task::spawn_local(async move {
                        while let Some(request) = peer.message(false).await {
                            if request.field("upgrade").is_some() {
                                peer.send(WebSocket::accept(&request, &format!("X-Server: {address}\r\n"))).await;
                                while !peer.read_some().await.is_empty() {}
                                return;
                            }
                            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{address}", address.len()))
                                .await;
                        }
                    });
                }
            });
        }
        let name = format!("app.invalid:{port}");
        let mut settings = settings(&[]);
        settings.servers = vec![ServerSettings { max_conns: 1, ..ServerSettings::at(name.as_str()) }];
        let gateway = Gateway::with(settings).await;
        assert_eq!(ask(&gateway, "").await.status(), 502, "it means nothing yet");

        let at = |last: u8| SocketAddr::from(([127, 0, 0, last], port));
        assert!(gateway.upstream().resolved(&name, &[at(2), at(1)]));
        assert!(!gateway.upstream().resolved(&name, &[at(1), at(2), at(1)]), "the same, turned round");
        assert_eq!(asks(&gateway, 2).await, "127.0.0.1127.0.0.2");
        let (_tunnel, head) = tunnel(&gateway, "").await;
        assert_eq!(head.field("x-server"), Some("127.0.0.1"));

        assert!(gateway.upstream().resolved(&name, &[at(1), at(3)]));
        assert_eq!(asks(&gateway, 2).await, "127.0.0.3127.0.0.3", "the tunnel fills the first one");
        assert!(!gateway.upstream().resolved(&name, &[]), "no answer changes nothing");
        assert_eq!(asks(&gateway, 1).await, "127.0.0.3");
        let summaries = gateway.ended(6).await;
        assert_eq!(summaries.last().unwrap().upstream.as_deref(), Some(&*format!("127.0.0.3:{port}")));
        let metrics = gateway.metrics.encode();
        assert!(metrics.contains(&format!("server=\"{name}\"")), "counted under its name: {metrics}");
        assert!(!metrics.contains("server=\"127.0.0.3"), "{metrics}");
    });
}

#[test]
fn names_are_resolved_in_the_background() {
    local(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = format!("localhost:{}", listener.local_addr().unwrap().port());
        let mut settings = settings(&[]);
        settings.servers = vec![ServerSettings::at(name.as_str())];
        let gateway = Gateway::with(settings).await;
        let upstream = gateway.upstream();
        let following = tokio::task::spawn_local(tidegate_proxy::Upstream::follow_names(Arc::downgrade(&upstream)));
        let deadline = std::time::Instant::now() + PATIENCE;
        while upstream.addresses(&name).is_empty() {
            assert!(std::time::Instant::now() < deadline, "not resolved");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(upstream.addresses(&name).contains(&listener.local_addr().unwrap()));
        following.abort();
    });
}

#[test]
fn a_server_may_be_a_unix_socket() {
    local(async {
        let folder = std::env::temp_dir().join(format!("tidegate-unix-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("app.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let serving = tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nunix").await.unwrap();
                }
            }
        });
        let mut settings = settings(&[]);
        settings.servers = vec![ServerSettings::at(format!("unix:{}", path.display()))];
        let gateway = Gateway::with(settings).await;
        let mut client = gateway.client().await;
        for _ in 0..3 {
            assert_eq!(client.request(get("/")).await.text(), "unix");
        }
        serving.abort();
        std::fs::remove_dir_all(folder).unwrap();
        let summaries = gateway.ended(3).await;
        assert_eq!(summaries[2].upstream.as_deref(), Some(&*format!("unix:{}", path.display())));
    });
}

#[test]
fn a_real_nginx_is_told_the_client_in_a_proxy_header() {
    local(async {
        let locations = "location / { return 200 \"$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_addr:$proxy_protocol_server_port\"; }";
        let block = format!("server {{ listen unix:HERE/proxied proxy_protocol; {locations} }}");
        let Some(nginx) = Nginx::start_beside("proxied", &block, "return 404;").await else { return };
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            let mut settings = settings(&[]);
            settings.servers = vec![ServerSettings::at(format!("unix:{}/proxied", nginx.directory.display()))];
            settings.proxy_protocol = Some(version);
            let gateway = Gateway::with(settings).await;
            // Two clients in turn: no connection serves both.
            let mut clients = [gateway.client().await, gateway.client().await];
            for round in 0..4 {
                let client = &mut clients[round % 2];
                let mine = client.stream().local_addr().unwrap();
                let response = client.request(get("/")).await;
                assert_eq!(response.text(), format!("{mine} {}", gateway.address), "{version:?}");
            }
        }
    });
}

#[test]
fn a_reload_keeps_what_is_known_of_servers() {
    local(async {
        let servers = servers(2).await;
        let all = addresses(&servers);
        let gateway = Gateway::with(settings(&all)).await;
        let (held, places) = tunnels(&gateway, 2).await;
        assert_eq!(places, "01");
        gateway.reload(with(&all, |index, server| server.max_conns = 1 + index as u32));
        assert_eq!(asks(&gateway, 2).await, "11", "the tunnel of before fills the first one");
        drop(held);
        gateway.ended(4).await;
        assert_eq!(asks(&gateway, 4).await.matches('0').count(), 2);
    });
}

#[test]
fn streams_move_to_a_server_that_comes_back() {
    local(async {
        let servers = servers(2).await;
        let settings = with(&addresses(&servers), |index, server| {
            server.duty = if index == 1 { Duty::Down } else { Duty::Serve };
        });
        let gateway =
            Gateway::with(UpstreamSettings { balance: Algorithm::LeastConn, rebalance_rate: 1000, ..settings }).await;
        let (held, places) = tunnels(&gateway, 10).await;
        assert_eq!(places, "0".repeat(10));
        let upstream = gateway.upstream();
        let moving = tokio::task::spawn_local(tidegate_proxy::Upstream::rebalance(
            Arc::downgrade(&upstream),
            gateway.live.clone(),
        ));
        // The task has seen who is there once it waits for its next look.
        tokio::task::yield_now().await;
        assert!(upstream.set_server(&servers[1].address().to_string(), ServerOrder::Up, None).await);
        let ended = gateway.ended(5).await;
        assert!(ended.iter().all(|summary| summary.upstream.as_deref() == Some(&*servers[0].address().to_string())));
        let (_more, places) = tunnels(&gateway, 5).await;
        assert_eq!(places, "1".repeat(5), "who comes again goes there");
        let counts = gateway.live.count().await;
        assert!(counts.iter().all(|count| count.tunnels == 5), "{counts:?}");
        moving.abort();
        drop(held);
    });
}
