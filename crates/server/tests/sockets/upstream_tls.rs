//! TLS towards the servers of an upstream.

use std::net::SocketAddr;
use std::time::Duration;

use tidegate_config::{
    AccessLog, CertificateFiles, ClientAuth, Config, Health, Initially, ListenerTls, Probe, Upstream as Settings,
    UpstreamTls,
};
use tidegate_testkit::{Upstream, WebSocket, local};

use crate::harness::{GET_API, Gateway, config};
use crate::secure::Authority;

const FULL: &str = r#"tidegate_tls_handshakes_total{listener="public",result="full"}"#;

/// A gateway that speaks TLS to the server at `address`.
fn towards(address: SocketAddr, tls: UpstreamTls) -> Config {
    let mut config = config(Some(address), AccessLog::Off);
    config.upstreams[0].tls = Some(tls);
    config
}

#[test]
fn servers_are_spoken_to_with_tls_and_must_be_who_they_should_be() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::ok("hello").await);
        // The server is another gateway, which says what it was told.
        let server = Gateway::start(authority.simple(upstream.address()));
        let named = UpstreamTls { server_name: Some("localhost".into()), ..UpstreamTls::default() };
        let trusting = UpstreamTls { ca: Some(authority.ca()), ..named.clone() };

        let gateway = Gateway::start(towards(server.address, trusting.clone()));
        let mut client = gateway.client().await;
        for _ in 0..3 {
            assert_eq!(client.request(GET_API).await.text(), "hello");
        }
        // One handshake: the connection was kept.
        server.until(FULL, 1).await;
        drop(gateway);

        // The right certificate for another name; one of an authority that nobody trusts; and one that does not matter.
        let other = UpstreamTls { server_name: Some("other.example".into()), ..trusting };
        let careless = UpstreamTls { verify: false, ..named.clone() };
        for (tls, status) in [(other, 502), (named, 502), (careless, 200)] {
            let gateway = Gateway::start(towards(server.address, tls));
            assert_eq!(gateway.client().await.request(GET_API).await.status(), status);
            let errors = format!(
                r#"tidegate_upstream_connect_errors_total{{upstream="backend",server="{}",kind="tls"}}"#,
                server.address
            );
            assert_eq!(gateway.metric(&errors).await > 0, status == 502);
        }
    });
}

#[test]
fn a_server_that_asks_for_a_certificate_gets_the_upstreams() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::websocket_echo().await);
        let mut config = authority.simple(upstream.address());
        let tls = config.listeners[0].tls.as_mut().unwrap();
        (tls.client_auth, tls.client_ca) = (ClientAuth::Required, Some(authority.ca()));
        config.routes[0].request_headers.set =
            vec!["x-who: {tls.client_subject} {tls.client_verified} {tls.sni} {tls.version}".into()];
        let server = Gateway::start(config);
        let CertificateFiles { certificate, key } = authority.issue("gateway", &["gateway.example"]);
        let tls = UpstreamTls {
            server_name: Some("localhost".into()),
            ca: Some(authority.ca()),
            certificate: Some(CertificateFiles { certificate, key }),
            ..UpstreamTls::default()
        };
        let gateway = Gateway::start(towards(server.address, tls));
        // A tunnel with TLS on one side.
        let mut socket = WebSocket::connect(gateway.address, "/api/x").await;
        socket.text("hello").await;
        assert_eq!(socket.receive_text().await, "hello");
        assert_eq!(upstream.requests()[0].field("x-who"), Some("CN=gateway.example SUCCESS localhost TLSv1.3"));
    });
}

/// What a gateway must know to believe the authority's servers.
fn trusting(authority: &Authority) -> UpstreamTls {
    UpstreamTls { server_name: Some("localhost".into()), ca: Some(authority.ca()), ..UpstreamTls::default() }
}

#[test]
fn probes_shake_hands_too_and_a_server_that_is_somebody_else_goes_down() {
    local(async {
        let (authority, upstream, echo) = (Authority::new(), Upstream::ok("x").await, Upstream::websocket_echo().await);
        let behind = |upstream: &Upstream| {
            let mut config = authority.simple(upstream.address());
            config.routes[0].path = crate::routing::prefix("/");
            Gateway::start(config)
        };
        let (server, sockets) = (behind(&upstream), behind(&echo));
        let gateway = |server: &Gateway, tls: UpstreamTls, probe: Probe, initially: Initially| {
            let mut config = towards(server.address, tls);
            let (interval, timeout) = (Duration::from_millis(10), Duration::from_secs(5));
            config.upstreams[0].health = Some(Health { interval, timeout, initially, probe, ..Health::default() });
            let up = format!(r#"tidegate_upstream_server_up{{upstream="backend",server="{}"}}"#, server.address);
            (Gateway::start(config), up)
        };
        let websocket = Probe::WebSocket { path: "/probed".into(), host: None };
        let http = Health::default().probe;
        for (server, probe) in [(&server, Probe::Tcp), (&server, http.clone()), (&sockets, websocket)] {
            let (gateway, up) = gateway(server, trusting(&authority), probe, Initially::Down);
            gateway.until(&up, 1).await;
        }
        assert!(upstream.requests().iter().all(|request| request.field("user-agent") == Some("tidegate-probe")));
        assert_eq!(echo.requests()[0].start, "GET /probed HTTP/1.1");
        let stranger = UpstreamTls { ca: None, ..trusting(&authority) };
        for probe in [Probe::Tcp, http] {
            let (gateway, up) = gateway(&server, stranger.clone(), probe, Initially::Up);
            gateway.until(&up, 0).await;
            assert_eq!(gateway.client().await.request(GET_API).await.status(), 503);
        }
    });
}

#[test]
fn a_request_whose_handshake_with_a_server_fails_is_tried_on_another() {
    local(async {
        let (authority, upstream) = (Authority::new(), Upstream::ok("hello").await);
        let good = Gateway::start(authority.simple(upstream.address()));
        // One has the certificate of another name, and one does not speak TLS at all.
        let tls = ListenerTls::new(vec![authority.issue("other", &["other.example"])]);
        let other = Gateway::start(authority.config(upstream.address(), tls));
        let plain = Gateway::before(upstream.address());
        let addresses = [other.address, plain.address, good.address].map(|address| address.to_string());
        let mut config = config(Some(good.address), AccessLog::Off);
        config.upstreams = vec![Settings::new("backend", &addresses.each_ref().map(String::as_str))];
        config.upstreams[0].tls = Some(trusting(&authority));
        // Each is asked again at its turn.
        config.upstreams[0].servers.iter_mut().for_each(|server| server.max_fails = 0);
        let gateway = Gateway::start(config);
        let mut client = gateway.client().await;
        for request in 0..6 {
            let answer = client.request(GET_API).await;
            assert_eq!((answer.status(), answer.text().as_str()), (200, "hello"), "{request}");
        }
        for address in [other.address, plain.address] {
            let errors = format!(
                r#"tidegate_upstream_connect_errors_total{{upstream="backend",server="{address}",kind="tls"}}"#
            );
            assert!(gateway.metric(&errors).await > 0, "{address}");
        }
        assert_eq!(upstream.requests().len(), 6, "no request was sent twice");
    });
}
