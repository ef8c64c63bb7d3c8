//! Whose tokens count: keys that an issuer publishes, and what is revoked.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use rcgen::KeyPair;
use ring::rand::SystemRandom;
use tidegate_auth::{Claims, KeySet, Revocation, SigningKey};
use tidegate_config::{AccessLog, Jwt, JwtMode, RealtimeAuth, Tokens};
use tidegate_testkit::{Upstream, WebSocket, local, patiently};
use tidegate_types::{TenantId, UserId};

use crate::harness::{Gateway, SECRET, config, realtime};

/// A key of an issuer.
struct Issuer {
    id: &'static str,
    pair: KeyPair,
}

impl Issuer {
    fn new(id: &'static str) -> Self {
        Self { id, pair: KeyPair::generate().unwrap() }
    }

    /// As it is published.
    fn jwk(&self) -> String {
        let (x, y) = self.pair.public_key_raw()[1..].split_at(32);
        let (id, x, y) = (self.id, BASE64.encode(x), BASE64.encode(y));
        format!(r#"{{"kty":"EC","crv":"P-256","use":"sig","kid":"{id}","x":"{x}","y":"{y}"}}"#)
    }

    fn token(&self) -> String {
        let random = SystemRandom::new();
        let key = SigningKey::from_pem(&self.pair.serialize_pem(), None, &random).unwrap();
        let claims = Claims { sub: Some("ada".into()), ..Claims::default() };
        key.named(Some(self.id.to_owned())).sign(&claims, &random).unwrap()
    }
}

/// What the issuer's server answers; changed while it runs.
type Published = Rc<RefCell<String>>;

async fn issuer(published: Published) -> Upstream {
    Upstream::script(move |mut client, _, requests| {
        let published = published.clone();
        async move {
            while let Some(request) = client.message(false).await {
                requests.record(request);
                let answer = published.borrow().clone();
                client.send(answer).await;
            }
        }
    })
    .await
}

fn document(keys: &[&Issuer]) -> String {
    let keys: Vec<String> = keys.iter().map(|issuer| issuer.jwk()).collect();
    let body = format!(r#"{{"keys":[{}]}}"#, keys.join(","));
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

const DOWN: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\ndown";

async fn status(gateway: &Gateway, token: &str) -> u16 {
    let head = format!("GET /api HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n");
    gateway.client().await.request(head).await.status()
}

async fn until_let_in(gateway: &Gateway, token: &str, what: &str) {
    let let_in = async {
        while status(gateway, token).await != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    patiently(what, let_in).await;
}

#[test]
fn published_keys_are_fetched_in_the_background_and_the_last_ones_stay() {
    local(async {
        let published: Published = Rc::new(RefCell::new(DOWN.to_owned()));
        let issuer = issuer(published.clone()).await;
        let upstream = Upstream::ok("in").await;
        let mut config = config(Some(upstream.address()), AccessLog::Off);
        let url = format!("http://{}/keys?secret=hunter2", issuer.address());
        config.jwt = Some(Jwt::of(Tokens { jwks_url: Some(url.into()), ..Tokens::default() }));
        config.routes[0].jwt = JwtMode::Required;
        // An issuer that is down is no reason not to start.
        let gateway = Gateway::start(config);
        let (old, young) = (Issuer::new("old"), Issuer::new("young"));
        assert_eq!(status(&gateway, &old.token()).await, 401);
        let failed = async {
            while gateway.metric("tidegate_jwks_fetches_total{result=\"failed\"}").await == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        patiently("a fetch that fails", failed).await;
        *published.borrow_mut() = document(&[&old]);
        until_let_in(&gateway, &old.token(), "the first keys").await;
        // The refresh is ten minutes away: a token with an unknown kid asks for it.
        *published.borrow_mut() = document(&[&young, &old]);
        until_let_in(&gateway, &young.token(), "keys that a token asked for").await;
        // Whatever comes instead of keys, the last ones stay; and made-up names do not make a flood.
        *published.borrow_mut() = DOWN.to_owned();
        let before = issuer.requests().len();
        for _ in 0..50 {
            assert_eq!(status(&gateway, &Issuer::new("made up").token()).await, 401);
        }
        assert!(issuer.requests().len() <= before + 1, "{} fetches", issuer.requests().len() - before);
        assert_eq!(status(&gateway, &young.token()).await, 200);
        assert!(gateway.metric("tidegate_jwks_fetches_total{result=\"ok\"}").await >= 2);
    });
}

#[test]
fn a_reload_takes_up_other_keys_of_the_realtime_server_without_a_restart() {
    local(async {
        let mut config = config(None, AccessLog::Off);
        config.realtime = Some(realtime());
        let gateway = Gateway::start(config.clone());
        let issuer = Issuer::new("a");
        let token = issuer.token();
        assert!(connect(gateway.address, &token).await.is_err());
        let public_keys =
            vec![tidegate_config::PublicKeys { path: "issuer.pem".into(), text: issuer.pair.public_key_pem().into() }];
        let tokens = Tokens { public_keys, ..Tokens::default() };
        config.realtime.as_mut().unwrap().auth = RealtimeAuth::new(tokens);
        assert_eq!(gateway.reload(config).unwrap().waiting, [""; 0]);
        let taken = async {
            while connect(gateway.address, &token).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        patiently("the new key", taken).await;
        assert!(connect(gateway.address, &hs256("ada", None, 1)).await.is_err(), "the secret is gone");
    });
}

fn hs256(user: &str, id: Option<&str>, issued: u64) -> String {
    let claims = Claims {
        sub: Some(user.to_owned()),
        tenant_id: Some("acme".to_owned()),
        jti: id.map(str::to_owned),
        iat: Some(issued),
        ..Claims::default()
    };
    KeySet::hs256(SECRET).sign(&claims)
}

/// A Socket.IO client in `/`; else what it was refused with.
async fn connect(address: SocketAddr, token: &str) -> Result<WebSocket, String> {
    let mut socket = WebSocket::connect(address, "/socket.io/?EIO=4&transport=websocket").await;
    assert!(socket.receive_text().await.starts_with('0'));
    socket.text(&format!(r#"40{{"token":"{token}"}}"#)).await;
    let answer = socket.receive_text().await;
    if answer.starts_with("40") {
        assert!(socket.receive_text().await.contains("connection:established"));
        return Ok(socket);
    }
    Err(answer)
}

async fn is_thrown_out(mut socket: WebSocket) {
    let said = r#"42["auth:revoked",{"code":"TOKEN_REVOKED","message":"Token revoked"}]"#;
    assert_eq!(patiently("the news", socket.receive_text()).await, said);
    assert_eq!(socket.receive_text().await, "41");
    assert_eq!(socket.close_code().await, Some(4403));
}

async fn is_there(socket: &mut WebSocket) {
    socket.text(r#"420["query:rooms"]"#).await;
    assert!(socket.receive_text().await.starts_with("430["));
}

#[test]
fn the_revoked_are_thrown_out_of_every_worker_and_not_let_in_again() {
    local(async {
        let mut config = config(None, AccessLog::Off);
        config.workers = 2;
        config.realtime = Some(realtime());
        let gateway = Gateway::start(config);
        let tenant = TenantId::try_from("acme").unwrap();
        let ada = UserId::try_from("ada").unwrap();
        let mut ofs = Vec::new();
        // So many that both workers have some.
        for _ in 0..8 {
            ofs.push(connect(gateway.address, &hs256("ada", None, 1_000)).await.unwrap());
        }
        let mut bob = connect(gateway.address, &hs256("bob", Some("b1"), 1_000)).await.unwrap();
        let mut newer = connect(gateway.address, &hs256("ada", None, 2_000)).await.unwrap();
        let mut events = gateway.client().await;
        let token = hs256("ada", None, 1_000);
        let head = "GET /realtime/rooms/quay/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer";
        events.send(format!("{head} {token}\r\n\r\n")).await;
        assert_eq!(events.head().await.unwrap().status(), 200);
        let mut ticket = gateway.client().await;
        let asked = format!(
            "POST /realtime/tickets HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
        );
        let ticket = ticket.request(asked).await.text();
        let ticket = ticket.split('"').nth(3).unwrap().to_owned();

        let older = Revocation::User { tenant: tenant.clone(), user: ada, before: 1_500_000, until: None };
        gateway.node().revoke(older).await.unwrap();
        for socket in ofs {
            is_thrown_out(socket).await;
        }
        events.read_until(b"event: auth:revoked\n").await;
        is_there(&mut newer).await;
        is_there(&mut bob).await;
        let refused = r#"44{"message":"Token revoked"}"#;
        assert_eq!(connect(gateway.address, &token).await.unwrap_err(), refused);
        assert!(connect(gateway.address, &hs256("ada", None, 1_500)).await.is_ok());
        // Neither by the ticket that it bought before.
        let answer = format!("GET /realtime/rooms/quay/events?ticket={ticket} HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = gateway.client().await.request(answer).await;
        assert_eq!(answer.status(), 401);
        assert!(answer.text().contains("Token revoked"), "{}", answer.text());
        // Nor can a newer token's connection go back to it.
        newer.text(&format!(r#"421["auth:refresh",{{"token":"{token}"}}]"#)).await;
        assert_eq!(newer.receive_text().await, r#"431[{"success":false,"error":"Token revoked"}]"#);

        gateway.node().revoke(Revocation::Token { tenant, id: "b1".into(), until: None }).await.unwrap();
        is_thrown_out(bob).await;
        assert_eq!(connect(gateway.address, &hs256("bob", Some("b1"), 1_000)).await.unwrap_err(), refused);
        assert!(connect(gateway.address, &hs256("bob", Some("b2"), 1_000)).await.is_ok());
        assert!(gateway.metric("websocket_auth_failures_total{reason=\"revoked\"}").await >= 4);
    });
}
