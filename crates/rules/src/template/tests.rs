use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::{EndFacts, TlsFacts, UpstreamFacts, VARIABLES};

fn render(source: &str, place: Place, facts: &Facts<'_>) -> String {
    String::from_utf8(Template::parse(source, place).unwrap().text(facts)).unwrap()
}

fn fault(source: &str, place: Place) -> (usize, String) {
    let error = Template::parse(source, place).unwrap_err();
    (error.at, error.message)
}

fn headers(fields: &[(&'static str, &'static [u8])]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_bytes(value).unwrap());
    }
    headers
}

#[test]
fn variables_are_replaced_and_two_braces_are_one() {
    let facts = Facts {
        client: Some("192.0.2.7:4711".parse().unwrap()),
        peer: Some("[::ffff:10.0.0.1]:80".parse().unwrap()),
        host: "Chat.Example.org.:8443",
        method: "GET",
        path: "/a%20b",
        query: Some("x=1&y=%C3%A9+%2B&x=2"),
        ..Facts::default()
    };
    let get = |source| render(source, Place::Request, &facts);
    assert_eq!(get("{client_ip}:{client_port} {remote_addr}"), "192.0.2.7:4711 10.0.0.1");
    assert_eq!(
        get("{host} {method} {uri}|{path}|{query}"),
        "chat.example.org GET /a%20b?x=1&y=%C3%A9+%2B&x=2|/a%20b|x=1&y=%C3%A9+%2B&x=2"
    );
    assert_eq!(get("<{query.x}> <{query.y}> <{query.z}>"), "<1> <é +> <>");
    assert_eq!(get("{{{method}}"), "{GET}");
    assert_eq!(get("{{x} }"), "{x} }");
    assert_eq!(get("plain"), "plain");
    assert_eq!(get(""), "");
}

#[test]
fn header_values_are_joined_and_the_first_cookie_counts() {
    let headers = headers(&[("x-a", b"1"), ("x-a", b"2"), ("cookie", b"a=1; bb=2;b=3"), ("cookie", b"b=4")]);
    let facts = Facts { headers: Some(&headers), ..Facts::default() };
    assert_eq!(render("{header.X-A}|{cookie.b}|{cookie.B}|{header.none}", Place::Key, &facts), "1, 2|3||");
}

#[test]
fn claims_and_tls_are_what_they_were_verified_as() {
    let claims = [("sub".into(), "u1".into()), ("org".into(), "o".into())];
    let tls = TlsFacts { version: "TLSv1.3", sni: "a.org", client_verified: "SUCCESS", ..TlsFacts::default() };
    let facts = Facts { claims: &claims, tls: Some(tls), ..Facts::default() };
    assert_eq!(render("{claim.org}/{claim.sub}/{claim.x}", Place::Key, &facts), "o/u1/");
    assert_eq!(
        render("{tls.version} {tls.sni} {tls.client_verified}", Place::Request, &facts),
        "TLSv1.3 a.org SUCCESS"
    );
}

#[test]
fn in_logs_what_is_missing_is_a_dash_and_what_could_break_the_line_is_escaped_as_by_nginx() {
    let headers = headers(&[("user-agent", b"a\"b\\c\t\xe9")]);
    let upstream =
        UpstreamFacts { name: "app", header_time: Some(Duration::from_millis(12)), ..UpstreamFacts::default() };
    let end = EndFacts { status: 200, bytes_out: 5, unix_ms: 1_767_225_599_999, ..EndFacts::default() };
    let facts = Facts { headers: Some(&headers), upstream: Some(&upstream), end: Some(&end), ..Facts::default() };
    let get = |source| render(source, Place::Log, &facts);
    assert_eq!(get("{header.user-agent}"), "a\\x22b\\x5Cc\\x09\\xE9");
    assert_eq!(get("{client_ip} {query.x} {upstream_connect_time} {upstream_header_time}"), "- - - 0.012");
    assert_eq!(get("{status} {bytes_out} {duration} {ttfb} {time_unix}"), "200 5 0.000 - 1767225599.999");
    assert_eq!(get("{time_local} {time}"), "31/Dec/2025:23:59:59 +0000 2025-12-31T23:59:59.999Z");
}

#[test]
fn a_variable_that_is_known_later_is_refused() {
    assert!(Template::parse("{upstream}", Place::Response).is_ok());
    let (at, message) = fault("a {upstream}", Place::Request);
    assert_eq!((at, message.contains("response headers and logs")), (2, true), "{message}");
    let (_, message) = fault("{status}", Place::Response);
    assert!(message.contains("may stand in logs"), "{message}");
    for named in VARIABLES {
        assert!(Template::parse(&format!("{{{}}}", named.as_str()), Place::Log).is_ok(), "{named:?}");
    }
}

#[test]
fn every_variable_is_in_the_docs() {
    let docs = include_str!("../../../../docs/headers.md");
    for named in VARIABLES {
        assert!(docs.contains(&format!("`{{{}}}`", named.as_str())), "{named:?}");
    }
}

#[test]
fn faults_say_where_and_what_instead() {
    let says = |source, at, text: &str| {
        let (found, message) = fault(source, Place::Request);
        assert!(found == at && message.contains(text), "{source}: at {found}: {message}");
    };
    says("é{clientip}", 2, "did you mean {client_ip}?");
    says("{heeder.x-a}", 0, "did you mean {header.x-a}?");
    says("{$host}", 0, "written \"{{\"");
    says("{\"a\": 1}", 0, "written \"{{\"");
    says("x {host", 2, "never closed");
    says("{header.}", 0, "there is no variable");
    says("{header.x y}", 0, "name of a header field");
    says("{http_x_room}", 0, "did you mean {header.x-room}?");
    says("{request_uri}", 0, "did you mean {uri}?");
}

#[test]
fn a_redirect_keeps_to_the_host_that_it_names() {
    let facts =
        |path, query| Facts { host: "a.org:80", path, query, prefix_rest: path, scheme: "http", ..Facts::default() };
    let get = |source: &str, path: &'static str, query| render(source, Place::Location, &facts(path, query));
    assert_eq!(get("https://{host}{uri}", "/x", Some("y=%20z")), "https://a.org/x?y=%20z");
    assert_eq!(get("{scheme}://{host}:8443{uri}", "//x", None), "http://a.org:8443//x");
    // Two slashes at the begin name another host.
    assert_eq!(get("{uri}", "//evil.com/", None), "/evil.com/");
    assert_eq!(get("/{path}", "/evil.com", None), "/evil.com");
    assert_eq!(get("{path}", "/\\evil.com", None), "/%5Cevil.com");
    // What is left of a path must not go on with the host's name.
    assert_eq!(get("https://b.org{prefix_rest}", ".evil.com", None), "https://b.org/.evil.com");
    assert_eq!(get("https://b.org{prefix_rest}", "@evil.com", None), "https://b.org/@evil.com");
    assert_eq!(get("https://b.org/new{prefix_rest}", "er", None), "https://b.org/newer");
    // Values of the client's are data.
    assert_eq!(
        get("/login?next={query.next}", "/", Some("next=%0d%0ax:%20//evil%26")),
        "/login?next=%0D%0Ax%3A%20%2F%2Fevil%26"
    );
    assert_eq!(get("{query.next}", "/", Some("next=https://evil.com")), "https%3A%2F%2Fevil.com");
}

#[test]
fn a_client_cannot_name_the_host_of_a_redirect() {
    for source in [
        "https://{header.x-host}/",
        "https://{query.tenant}.example.org/",
        "//{cookie.c}/",
        "{scheme}://{host}{query.x}",
    ] {
        let (_, message) = fault(source, Place::Location);
        assert!(message.contains("only {host}"), "{source}: {message}");
    }
}

#[test]
fn bodies_are_escaped_as_their_type_asks() {
    let facts = Facts { query: Some("x=%3Cb%20a%3D%22%27%26%0a%5C"), ..Facts::default() };
    assert_eq!(
        render("{{\"x\": \"{query.x}\"}", Place::of_body("application/problem+JSON"), &facts),
        "{\"x\": \"\\u003Cb a=\\\"'&\\u000A\\\\\"}"
    );
    assert_eq!(
        render("<p>{query.x}", Place::of_body("text/html; charset=utf-8"), &facts),
        "<p>&lt;b a=&quot;&#39;&amp;\\"
    );
    assert_eq!(render("{query.x}", Place::of_body("text/plain"), &facts), "<b a=\"'&\\");
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_at_a_place_in_it(source in "[a-z{}.:/ é]{0,20}") {
        for place in [Place::Request, Place::Location, Place::Log] {
            match Template::parse(&source, place) {
                Ok(template) => drop(template.text(&Facts::default())),
                Err(error) => prop_assert_eq!(source.as_bytes().get(error.at), Some(&b'{')),
            }
        }
    }

    #[test]
    fn whatever_a_client_sends_no_value_breaks_out_of_its_place(value in proptest::collection::vec(any::<u8>(), 0..40)) {
        let query: String = value.iter().map(|byte| format!("%{byte:02x}")).collect();
        let query = format!("x={query}");
        let facts = Facts { query: Some(&query), path: "/", ..Facts::default() };
        let text = |source: &str, place| Template::parse(source, place).unwrap().text(&facts);
        let (field, line, target) =
            (text("{query.x}", Place::Request), text("\"{query.x}\"", Place::Log), text("{query.x}", Place::Location));
        prop_assert!(HeaderValue::from_bytes(&field).is_ok());
        prop_assert!(line.iter().all(|byte| (0x20..0x7f).contains(byte)));
        prop_assert_eq!(line.iter().filter(|byte| **byte == b'"').count(), 2);
        prop_assert!(target.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(byte)));
        let key = text("{query.x}", Place::Key);
        prop_assert_eq!(key, value);
    }
}
