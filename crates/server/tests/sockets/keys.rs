//! What keys may be made of: of a hash, of a zone, and of the rates of WebSockets.

use tidegate_config::{AccessLog, Balance, Config, Inspect, Jwt, JwtMode, Upstream};
use tidegate_testkit::{RawClient, Upstream as Server, WebSocket, local};

use crate::harness::{Gateway, SECRET, config, token};
use crate::limits::zones::{limited, with_key};
use crate::secure::Authority;

const FAR: u64 = 99_999_999_999;

/// Its routes know the claims of good tokens.
fn with_tokens(mut config: Config) -> Config {
    config.jwt = Some(Jwt::new(SECRET.into()));
    for route in &mut config.routes {
        route.jwt = JwtMode::Optional;
    }
    config
}

fn bearer(user: &str) -> String {
    format!("Authorization: Bearer {}\r\n", token(user, FAR))
}

fn upstream(servers: &[Server]) -> Upstream {
    let addresses: Vec<_> = servers.iter().map(|server| server.address().to_string()).collect();
    Upstream::new("backend", &addresses.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Four servers that say which one they are, chosen by the key.
async fn hashing(key: &str) -> (Vec<Server>, Config) {
    let mut servers = Vec::new();
    for index in 0..4 {
        servers.push(Server::ok(&index.to_string()).await);
    }
    let mut config = config(Some(servers[0].address()), AccessLog::Off);
    config.upstreams = vec![upstream(&servers)];
    config.upstreams[0].balance = Balance::Hash { key: key.into(), consistent: true, load_factor: 0 };
    (servers, config)
}

/// Which servers answer these requests, three times each; each request must stay where it is.
async fn placed(client: &mut RawClient, requests: impl Iterator<Item = (String, String)>) -> String {
    let mut all = String::new();
    for (path, fields) in requests {
        let mut ask = async |more: usize| {
            let head = format!("GET {path}?{more} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            client.request(head).await.text()
        };
        let first = ask(0).await;
        for more in 1..3 {
            assert_eq!(ask(more).await, first, "{path} {fields}");
        }
        all += &first;
    }
    assert!(all.chars().any(|server| !all.starts_with(server)), "not all at one: {all}");
    all
}

#[test]
fn a_user_stays_at_a_server_by_a_claim_of_the_token() {
    local(async {
        let (_servers, config) = hashing("{claim.sub}").await;
        let gateway = Gateway::start(with_tokens(config));
        let users = (0..20).map(|user| ("/api".to_owned(), bearer(&format!("user-{user}"))));
        placed(&mut gateway.client().await, users).await;
    });
}

#[test]
fn what_follows_the_prefix_places_requests_of_a_route_that_has_nothing_else() {
    local(async {
        let (_servers, config) = hashing("{prefix_rest}").await;
        let gateway = Gateway::start(config);
        placed(&mut gateway.client().await, (0..20).map(|room| (format!("/api/{room}"), String::new()))).await;
    });
}

#[test]
fn the_requests_id_and_the_clients_tls_are_known_to_a_key_too() {
    local(async {
        let (servers, mut config) = hashing("{scheme} {tls.sni} {request_id} {tls.client_verified}").await;
        let authority = Authority::new();
        config.listeners[0].tls = authority.simple(config.listeners[0].address).listeners[0].tls.clone();
        let gateway = Gateway::start(config);
        let ids = || (0..20).map(|id| ("/api".to_owned(), format!("X-Request-Id: request-{id}\r\n")));
        let mut client = crate::secure::client(gateway.address, authority.client(false)).await;
        let over_tls = placed(&mut client, ids()).await;
        drop(gateway);
        // The same servers for the text that the key must have been: the rest is in the id.
        let (_others, mut config) = hashing("https localhost {request_id} NONE").await;
        config.upstreams[0].servers = upstream(&servers).servers;
        let gateway = Gateway::start(config);
        assert_eq!(placed(&mut gateway.client().await, ids()).await, over_tls);
    });
}

#[test]
fn a_limit_counts_by_a_claim_and_leaves_those_without_a_token_alone() {
    local(async {
        let upstream = Server::ok("x").await;
        let gateway = Gateway::start(with_tokens(limited(upstream.address(), [with_key("{claim.sub}", "1r/m", 1)])));
        let mut client = gateway.client().await;
        let mut statuses = Vec::new();
        for fields in [bearer("ann"), bearer("bob"), String::new()] {
            for _ in 0..3 {
                let head = format!("GET /api HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
                statuses.push(client.request(head).await.status());
            }
        }
        assert_eq!(statuses, [200, 200, 429, 200, 200, 429, 200, 200, 200]);
    });
}

#[test]
fn websockets_of_one_claim_share_their_rates() {
    local(async {
        let upstream = Server::websocket_echo().await;
        let mut config = with_tokens(config(Some(upstream.address()), AccessLog::Off));
        let wanted = &mut config.routes[0].websocket;
        wanted.inspect = Inspect::Meter;
        (wanted.messages_per_second, wanted.message_burst) = (1, 50);
        wanted.key = Some("{claim.sub}".into());
        let gateway = Gateway::start(config);
        let open = async |user: &str| {
            let mut raw = gateway.client().await;
            raw.send(WebSocket::handshake("/api/ws", &bearer(user))).await;
            assert_eq!(raw.head().await.unwrap().status(), 101);
            WebSocket::client(raw)
        };
        let (mut first, mut second, mut other) = (open("ann").await, open("ann").await, open("bob").await);
        for socket in [&mut first, &mut other] {
            for _ in 0..40 {
                socket.text("x").await;
                socket.receive_text().await;
            }
        }
        for _ in 0..40 {
            second.text("x").await;
        }
        assert_eq!(second.close_code().await, Some(1008), "together they sent more than one may");
    });
}
