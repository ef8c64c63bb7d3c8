use std::time::Duration;

use tidegate_config::{ClientAuth, ListenerTls, TlsVersion};
use tidegate_testkit::{RawClient, Upstream, WebSocket, local, patiently};
use tidegate_transport::{ClientTerms, Credentials, Trust};

use super::harness::{GET_API, Gateway};
use super::secure::{Authority, client, openssl, shake};

const FULL: &str = r#"tidegate_tls_handshakes_total{listener="public",result="full"}"#;

fn handshakes(result: &str) -> String {
    format!(r#"tidegate_tls_handshakes_total{{listener="public",result="{result}"}}"#)
}

#[test]
fn a_request_over_tls_reaches_the_upstream_which_is_told_so() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::ok("hello").await);
        let gateway = Gateway::start(authority.simple(upstream.address()));
        let mut client = client(gateway.address, authority.client(false)).await;
        for _ in 0..2 {
            let answer = client.request(GET_API).await;
            assert_eq!((answer.status(), answer.text().as_str()), (200, "hello"));
        }
        assert_eq!(upstream.requests()[0].field("x-forwarded-proto"), Some("https"));
        gateway.until(FULL, 1).await;
    });
}

#[test]
fn a_websocket_tunnel_runs_over_tls_and_ends_on_both_sides() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::websocket_echo().await);
        let gateway = Gateway::start(authority.simple(upstream.address()));
        let mut socket = WebSocket::open(client(gateway.address, authority.client(false)).await, "/api/x").await;
        for length in [1, 200, 70_000] {
            let text = "x".repeat(length);
            socket.text(&text).await;
            assert_eq!(socket.receive_text().await, text);
        }
    });
}

#[test]
fn a_large_response_arrives_whole_and_its_connection_goes_on() {
    local(async {
        let text = "0123456789abcdef".repeat(200_000);
        let (authority, upstream) = (Authority::new(), Upstream::ok(&text).await);
        let gateway = Gateway::start(authority.simple(upstream.address()));
        let mut client = client(gateway.address, authority.client(false)).await;
        for _ in 0..2 {
            let answer = client.request(GET_API).await;
            assert!(answer.text() == text, "{} bytes of {}", answer.text().len(), text.len());
        }
    });
}

#[test]
fn each_name_gets_its_certificate_and_any_other_the_first() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::ok("").await);
        let tls = ListenerTls::new(vec![
            authority.issue("first", &["first.example"]),
            authority.issue("second", &["second.example", "also.example"]),
            authority.issue("wild", &["*.wild.example"]),
        ]);
        let gateway = Gateway::start(authority.config(upstream.address(), tls));
        let expected = [
            ("first.example", "CN = first.example"),
            ("SECOND.example", "CN = second.example"),
            ("also.example", "CN = second.example"),
            ("a.wild.example", "CN = *.wild.example"),
            ("a.b.wild.example", "CN = first.example"),
            ("unknown.example", "CN = first.example"),
        ];
        for (name, subject) in expected {
            let said = openssl(gateway.address, &["-servername", name]).await;
            assert!(said.contains(&format!("subject={subject}\n")), "{name}: {said}");
        }
        let said = openssl(gateway.address, &["-noservername"]).await;
        assert!(said.contains("subject=CN = first.example\n"), "{said}");
    });
}

#[test]
fn sessions_are_resumed_in_both_versions_unless_tickets_are_off() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::ok("").await);
        let mut config = authority.simple(upstream.address());
        let session = authority.directory.path().join("session");
        let session = session.to_str().unwrap();
        let gateway = Gateway::start(config.clone());
        for version in ["-tls1_2", "-tls1_3"] {
            // A line keeps it until the server's tickets have come.
            let first = super::secure::run(
                "sh",
                &[
                    "-c",
                    &format!(
                        "(sleep 1; echo Q) | openssl s_client {version} -connect {} -sess_out {session}",
                        gateway.address
                    ),
                ],
            )
            .await;
            assert!(first.contains("New, TLSv1"), "{first}");
            let again = openssl(gateway.address, &[version, "-sess_in", session]).await;
            assert!(again.contains("Reused, TLSv1"), "{version}: {again}");
        }
        gateway.until(&handshakes("resumed"), 2).await;
        drop(gateway);
        config.listeners[0].tls.as_mut().unwrap().session_tickets = false;
        let gateway = Gateway::start(config);
        let again = openssl(gateway.address, &["-tls1_3", "-sess_in", session]).await;
        assert!(again.contains("New, TLSv1.3"), "{again}");
    });
}

#[test]
fn old_versions_are_refused() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::ok("").await);
        let mut config = authority.simple(upstream.address());
        config.listeners[0].tls.as_mut().unwrap().min_version = TlsVersion::Tls13;
        let gateway = Gateway::start(config);
        let said = openssl(gateway.address, &["-tls1_2"]).await;
        assert!(said.contains("protocol version"), "{said}");
        gateway.until(&handshakes("incompatible"), 1).await;
        let said = openssl(gateway.address, &["-tls1_3"]).await;
        assert!(said.contains("New, TLSv1.3"), "{said}");
    });
}

#[test]
fn clients_must_show_a_certificate_that_the_authority_signed() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::ok("hello").await);
        let mut config = authority.simple(upstream.address());
        let tls = config.listeners[0].tls.as_mut().unwrap();
        (tls.client_auth, tls.client_ca) = (ClientAuth::Required, Some(authority.ca()));
        let gateway = Gateway::start(config);

        let without = openssl(gateway.address, &["-tls1_2"]).await;
        assert!(without.contains("alert"), "{without}");
        gateway.until(&handshakes("client_certificate"), 1).await;

        let stranger = Authority::new().issue("stranger", &["stranger.example"]);
        let (certificate, key) = (stranger.certificate.to_string_lossy(), stranger.key.to_string_lossy());
        // The directory of the other authority is gone, so that openssl finds no certificate to show either.
        let strange = openssl(gateway.address, &["-tls1_2", "-cert", &certificate, "-key", &key]).await;
        assert!(!strange.contains("Verify return code: 0"), "{strange}");

        let own = authority.issue("client", &["client.example"]);
        let own = Credentials::from_pem(&std::fs::read(own.certificate).unwrap(), &std::fs::read(own.key).unwrap());
        let ca = std::fs::read(authority.ca()).unwrap();
        let terms = ClientTerms { trust: Trust::Roots(&ca), certificate: Some(&own.unwrap()), http2: false };
        let mut good = client(gateway.address, terms.config().unwrap()).await;
        assert_eq!(good.request(GET_API).await.status(), 200);
    });
}

#[test]
fn certificates_are_taken_up_when_they_change_and_only_when_they_fit() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::ok("").await);
        let mut tls = ListenerTls::new(vec![authority.issue("own", &["before.example"])]);
        tls.reload_interval = Duration::from_millis(100);
        let gateway = Gateway::start(authority.config(upstream.address(), tls));
        let serves = async |subject: &str| openssl(gateway.address, &[]).await.contains(subject);
        assert!(serves("CN = before.example").await);

        authority.issue("own", &["after.example"]);
        patiently("the new certificate", async { while !serves("CN = after.example").await {} }).await;

        // A certificate without its key, and then no certificate at all.
        let file = authority.directory.path().join("own.pem").to_string_lossy().into_owned();
        let refused = format!(r#"tidegate_tls_certificates_refused_total{{listener="public",certificate="{file}"}}"#);
        let before = gateway.metric(&refused).await;
        let other = authority.issue("other", &["other.example"]);
        std::fs::copy(other.certificate, &file).unwrap();
        gateway.until(&refused, before + 1).await;
        std::fs::write(&file, "nothing").unwrap();
        gateway.until(&refused, before + 2).await;
        assert!(serves("CN = after.example").await);

        authority.issue("own", &["last.example"]);
        patiently("the last certificate", async { while !serves("CN = last.example").await {} }).await;
        let expiry = format!(r#"tidegate_tls_certificate_expiry_seconds{{listener="public",certificate="{file}"}}"#);
        assert!(gateway.metric(&expiry).await > 1_700_000_000);
    });
}

#[test]
fn a_request_without_tls_is_told_what_the_port_speaks() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::ok("").await);
        let gateway = Gateway::start(authority.simple(upstream.address()));
        let mut plain = RawClient::connect(gateway.address).await;
        let answer = plain.request(GET_API).await;
        assert_eq!(answer.status(), 400);
        assert!(answer.text().contains("This port speaks TLS"), "{}", answer.text());
        assert!(plain.is_closed().await);
        gateway.until(&handshakes("plain_http"), 1).await;
    });
}

#[test]
fn who_does_not_shake_hands_is_let_go() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::ok("").await);
        let mut config = authority.simple(upstream.address());
        config.listeners[0].tls.as_mut().unwrap().handshake_timeout = Duration::from_millis(100);
        let gateway = Gateway::start(config);
        let mut silent = RawClient::connect(gateway.address).await;
        assert!(silent.is_closed().await);
        gateway.until(&handshakes("timeout"), 1).await;
    });
}

#[test]
fn beyond_the_burst_handshakes_wait_for_their_rate() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::ok("").await);
        let mut config = authority.simple(upstream.address());
        let tls = config.listeners[0].tls.as_mut().unwrap();
        (tls.handshakes_per_second, tls.handshake_burst) = (1, 3);
        let gateway = Gateway::start(config);
        let mut good = 0;
        for _ in 0..20 {
            good += usize::from(shake(gateway.address, authority.client(false)).await.is_ok());
        }
        assert!((3..20).contains(&good), "{good} handshakes");
        assert_eq!(gateway.metric(&handshakes("limited")).await, 20 - good as u64);
    });
}

#[test]
fn a_listener_without_a_readable_certificate_does_not_start() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::ok("").await);
        let config = authority.simple(upstream.address());
        std::fs::write(authority.directory.path().join("localhost.key"), "nothing").unwrap();
        let Err(error) = tidegate_server::Server::start(config, tidegate_server::Extras::default()) else {
            panic!("it started");
        };
        let text = error.to_string();
        assert!(text.contains("localhost.pem") && text.contains("private key"), "{text}");
    });
}

#[test]
fn a_socket_io_session_runs_over_tls() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::ok("").await);
        let mut config = authority.simple(upstream.address());
        config.realtime = Some(super::harness::realtime());
        let gateway = Gateway::start(config);
        let raw = client(gateway.address, authority.client(false)).await;
        let mut session = WebSocket::open(raw, "/socket.io/?EIO=4&transport=websocket").await;
        assert!(session.receive_text().await.starts_with("0{\"sid\""));
        // Connecting without a token is refused, in an answer that the shard writes by itself.
        session.text("40").await;
        let answer = session.receive_text().await;
        assert!(answer.starts_with("44{"), "{answer}");
    });
}
