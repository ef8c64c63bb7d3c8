//! Which route a request takes, and what routes do by themselves.

use std::sync::Arc;

use tidegate_config::{AccessLog, Action, Config, Jwt, JwtMode, PathChange, PathMatch, Patience, Route};
use tidegate_testkit::{Message, Upstream, WebSocket, local};

use crate::harness::{Gateway, SECRET, config, lines, token};

pub fn respond(name: &str, path: PathMatch) -> Route {
    Route { path, ..Route::new(name, "/", says(name)) }
}

pub fn says(text: &str) -> Action {
    Action::Respond { status: 200, body: text.into(), content_type: "text/plain".into() }
}

pub fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.into())
}

pub fn texts(texts: &[&str]) -> Vec<Arc<str>> {
    texts.iter().map(|text| Arc::from(*text)).collect()
}

pub fn serving(routes: Vec<Route>) -> Config {
    Config { routes, ..config(None, AccessLog::Off) }
}

async fn ask(gateway: &Gateway, head: &str) -> Message {
    gateway.client().await.request(format!("{head}\r\n\r\n")).await
}

#[test]
fn locations_and_conditions_decide_which_route_answers() {
    local(async {
        let regex = |pattern: &str| PathMatch::Regex { pattern: pattern.into(), ignore_case: true };
        let mut beta = respond("beta", prefix("/api"));
        beta.headers = texts(&["x-version: 2", "x-beta"]);
        let mut reads = respond("reads", prefix("/api"));
        reads.methods = texts(&["GET"]);
        let mut wild = respond("wild", prefix("/"));
        wild.hosts = texts(&["*.example.org"]);
        let gateway = Gateway::start(serving(vec![
            respond("root", prefix("/")),
            respond("exact", PathMatch::Exact("/api".into())),
            respond("regex", regex(r"\.php$")),
            respond("first", PathMatch::PrefixFirst("/static/".into())),
            reads,
            beta,
            wild,
        ]));
        for (head, expected) in [
            ("GET / HTTP/1.1\r\nHost: a", "root"),
            ("GET /api HTTP/1.1\r\nHost: a", "exact"),
            ("GET /api/1 HTTP/1.1\r\nHost: a", "reads"),
            ("GET /api/1 HTTP/1.1\r\nHost: a\r\nX-Version: 2\r\nX-Beta: yes", "beta"),
            ("POST /api/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nX-Version: 2\r\nX-Beta: yes", "beta"),
            ("GET /api/x.PHP HTTP/1.1\r\nHost: a", "regex"),
            ("GET /static/x.php HTTP/1.1\r\nHost: a", "first"),
            ("GET /x/..//%61pi/1 HTTP/1.1\r\nHost: a", "reads"),
            ("GET / HTTP/1.1\r\nHost: chat.Example.org:80", "wild"),
            ("GET http://chat.example.org/ HTTP/1.1\r\nHost: chat.example.org", "wild"),
        ] {
            let answer = ask(&gateway, head).await;
            assert_eq!((answer.status(), answer.text().as_str()), (200, expected), "{head}");
        }
    });
}

#[test]
fn a_method_that_no_route_of_the_path_takes_is_told_which_ones_are() {
    local(async {
        let mut reads = respond("reads", prefix("/api"));
        reads.methods = texts(&["GET", "PUT"]);
        let gateway = Gateway::start(serving(vec![respond("root", prefix("/")), reads]));
        let answer = ask(&gateway, "DELETE /api/1 HTTP/1.1\r\nHost: a").await;
        assert_eq!((answer.status(), answer.field("allow")), (405, Some("GET, PUT, HEAD")));
        assert_eq!(answer.json()["error"]["code"], "METHOD_NOT_ALLOWED");
        let mut client = gateway.client().await;
        client.send("HEAD /api/1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.message(true).await.unwrap().status(), 200, "who may GET may HEAD");
        gateway.until("tidegate_http_requests_total{route=\"reads\",status_class=\"4xx\"}", 1).await;
    });
}

#[test]
fn a_path_that_leads_out_of_the_root_is_refused() {
    local(async {
        let gateway = Gateway::start(serving(vec![respond("root", prefix("/"))]));
        for path in ["/../etc/passwd", "/a/%2e%2e/..%2f..%2f", "/%00", "/%zz"] {
            let answer = ask(&gateway, &format!("GET {path} HTTP/1.1\r\nHost: a")).await;
            assert_eq!((answer.status(), answer.field("connection")), (400, Some("close")), "{path}");
        }
    });
}

#[test]
fn prefixes_are_stripped_and_replaced_and_the_rest_stays_as_it_came() {
    local(async {
        let upstream = Upstream::ok("").await;
        let to = |name: &str, path: PathMatch, change| {
            let action = Action::Upstream { name: "backend".into(), path: change, patience: Patience::default() };
            Route { path, ..Route::new(name, "/", action) }
        };
        let mut config = config(Some(upstream.address()), AccessLog::Off);
        config.routes = vec![
            to("keep", prefix("/keep"), PathChange::Keep),
            to("strip", prefix("/strip"), PathChange::Strip),
            to("replace", prefix("/old/"), PathChange::Replace("/new/v2/".into())),
        ];
        let gateway = Gateway::start(config);
        let mut client = gateway.client().await;
        for (asked, expected) in [
            ("/keep//a/../b%2F?x=%20", "/keep//a/../b%2F?x=%20"),
            ("/strip", "/"),
            ("/strip/a%2Fb?x=1&y", "/a%2Fb?x=1&y"),
            ("/strip//evil.com", "/evil.com"),
            ("/%73trip/a%20b", "/a%20b"),
            ("/x/../strip/a%20b%3f", "/a%20b%3F"),
            ("/old/a?", "/new/v2/a?"),
            ("/old/", "/new/v2/"),
        ] {
            client.request(format!("GET {asked} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            let seen = upstream.requests().pop().unwrap();
            assert_eq!(seen.start, format!("GET {expected} HTTP/1.1"), "{asked}");
        }
    });
}

#[test]
fn redirects_and_fixed_responses_are_templates() {
    local(async {
        let redirect = |name: &str, path: PathMatch, to: &str, status| Route {
            path,
            ..Route::new(name, "/", Action::Redirect { to: to.into(), status })
        };
        let body = "{{\"path\": \"{path}\", \"q\": \"{query.q}\"}";
        let fixed = Action::Respond { status: 503, body: body.into(), content_type: "application/json".into() };
        let empty = Action::Respond { status: 204, body: "x".into(), content_type: "text/plain".into() };
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut config = config(None, AccessLog::File(log.clone()));
        config.routes = vec![
            redirect("https", prefix("/"), "https://{host}{uri}", 308),
            redirect("moved", prefix("/old"), "/new{prefix_rest}", 301),
            redirect("same", PathMatch::Regex { pattern: "^/slash".into(), ignore_case: false }, "{query.to}", 302),
            Route::new("fixed", "/fixed", fixed),
            Route::new("empty", "/empty", empty),
        ];
        let mut gateway = Gateway::start(config);
        for (head, status, location) in [
            ("GET /a%20b?c=d HTTP/1.1\r\nHost: Example.org:8080", 308, "https://example.org/a%20b?c=d"),
            ("GET //evil.com HTTP/1.1\r\nHost: a", 308, "https://a//evil.com"),
            ("GET /old/x HTTP/1.1\r\nHost: a", 301, "/new/x"),
            ("GET /slash?to=%0d%0aSet-Cookie:%20a HTTP/1.1\r\nHost: a", 302, "%0D%0ASet-Cookie%3A%20a"),
        ] {
            let answer = ask(&gateway, head).await;
            assert_eq!((answer.status(), answer.field("location")), (status, Some(location)), "{head}");
            assert!(answer.field("x-request-id").is_some() && answer.field("set-cookie").is_none());
        }
        assert_eq!(ask(&gateway, "GET /a HTTP/1.0").await.status(), 400, "there is no host to send it to");
        let answer = ask(&gateway, "GET /fixed?q=%22%3C HTTP/1.1\r\nHost: a").await;
        assert_eq!((answer.status(), answer.field("content-type")), (503, Some("application/json")));
        assert_eq!(answer.json()["q"], "\"<");
        let mut client = gateway.client().await;
        client.send("GET /empty HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = client.message(true).await.unwrap();
        assert_eq!((answer.status(), answer.field("content-type")), (204, None));
        drop(client);
        gateway.close().await;
        let lines = lines(&log);
        assert_eq!((&lines[0]["route"], &lines[0]["status"]), (&"https".into(), &308.into()));
        assert_eq!((&lines[5]["route"], &lines[5]["status"]), (&"fixed".into(), &503.into()));
    });
}

#[test]
fn a_listener_can_send_everything_to_https() {
    local(async {
        for (port, expected) in [(443, "https://example.org/x?y"), (8443, "https://example.org:8443/x?y")] {
            let mut config = serving(vec![respond("root", prefix("/"))]);
            config.listeners[0].redirect_https = Some(port);
            let gateway = Gateway::start(config);
            let answer = ask(&gateway, "POST /x?y HTTP/1.1\r\nHost: example.org:8080\r\nContent-Length: 0").await;
            assert_eq!((answer.status(), answer.field("location")), (308, Some(expected)));
        }
    });
}

#[test]
fn a_route_shows_nginxs_status_page() {
    local(async {
        let gateway = Gateway::start(serving(vec![Route::new("status", "/nginx_status", Action::StubStatus)]));
        let answer = ask(&gateway, "GET /nginx_status HTTP/1.1\r\nHost: a").await;
        assert_eq!((answer.status(), answer.field("content-type")), (200, Some("text/plain")));
        assert!(answer.text().starts_with("Active connections: 1 \nserver accepts"), "{}", answer.text());
    });
}

#[test]
fn a_route_may_be_less_patient_than_its_upstream() {
    local(async {
        let upstream = Upstream::silent().await;
        let short = std::time::Duration::from_millis(50);
        let patience = Patience { read_timeout: Some(short), handshake_timeout: Some(short), ..Patience::default() };
        let action = Action::Upstream { name: "backend".into(), path: PathChange::Keep, patience };
        let mut config = config(Some(upstream.address()), AccessLog::Off);
        config.routes = vec![Route::new("short", "/", action)];
        let gateway = Gateway::start(config);
        // The upstream itself would be waited for for a minute.
        assert_eq!(ask(&gateway, "GET / HTTP/1.1\r\nHost: a").await.status(), 504);
        let handshake = WebSocket::handshake("/", "");
        assert_eq!(gateway.client().await.request(handshake).await.status(), 504);
    });
}

#[test]
fn a_route_that_wants_a_token_lets_nobody_in_without_a_good_one() {
    local(async {
        let upstream = Upstream::ok("in").await;
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut config = config(Some(upstream.address()), AccessLog::File(log.clone()));
        let jwt = Jwt::new(SECRET.into());
        config.jwt = Some(Jwt { cookie: Some("session".into()), query: Some("token".into()), ..jwt });
        let mut closed = Route::new("closed", "/closed", Action::upstream("backend"));
        closed.jwt = JwtMode::Required;
        closed.request_headers.set = texts(&["X-User: {claim.sub}"]);
        let mut open = closed.clone();
        (open.name, open.path, open.jwt) = ("open".into(), prefix("/open"), JwtMode::Optional);
        config.routes = vec![closed, open];
        let mut gateway = Gateway::start(config);
        let good = token("ann", 99_999_999_999);
        let old = token("ann", 1);
        for (head, status, challenge) in [
            (format!("GET /closed HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {good}"), 200, None),
            (format!("GET /closed HTTP/1.1\r\nHost: a\r\nCookie: x=y; session={good}"), 200, None),
            (format!("GET /closed?token={good} HTTP/1.1\r\nHost: a\r\nAuthorization: Basic eA=="), 200, None),
            (format!("GET /closed HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {old}"), 401, Some("Token expired")),
            (format!("GET /closed HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {good}x"), 401, Some("Invalid token")),
            ("GET /closed HTTP/1.1\r\nHost: a".to_owned(), 401, Some("Bearer realm=")),
            ("GET /open HTTP/1.1\r\nHost: a\r\nX-User: eve".to_owned(), 200, None),
            (format!("GET /open HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {old}"), 200, None),
        ] {
            let answer = ask(&gateway, &head).await;
            assert_eq!(answer.status(), status, "{head}");
            let told = answer.field("www-authenticate").unwrap_or_default();
            assert!(challenge.map_or(told.is_empty(), |challenge| told.contains(challenge)), "{told}");
            assert!(!answer.text().contains(&good));
        }
        let users: Vec<_> = upstream.requests().iter().map(|seen| seen.field("x-user").map(str::to_owned)).collect();
        let ann = Some("ann".to_owned());
        assert_eq!(users, [ann.clone(), ann.clone(), ann, None, None], "nobody names himself");
        gateway.close().await;
        let text = std::fs::read_to_string(&log).unwrap();
        assert!(text.contains("\"UNAUTHORIZED\"") && !text.contains(&good), "{text}");
    });
}
