use std::net::SocketAddr;
use std::time::Duration;

use tidegate_config::{AccessLog, Action, Config, Listener, PathMatch, Route, Upstream as Group};
use tidegate_testkit::{RawClient, Upstream, WebSocket, local};
use tokio::net::TcpStream;

use crate::harness::{GET_API, Gateway, config};

/// As the harness's, with the upstream under a name of its own.
fn towards(name: &str, upstream: SocketAddr) -> Config {
    let mut config = config(Some(upstream), AccessLog::Off);
    for route in &mut config.routes {
        route.action = Action::upstream(name);
    }
    config.upstreams = vec![Group::new(name, &[&upstream.to_string()])];
    config
}

#[test]
fn the_next_request_of_an_open_connection_is_served_by_the_new_config() {
    local(async {
        let (old, new) = (Upstream::ok("old").await, Upstream::ok("new").await);
        let gateway = Gateway::start(towards("a", old.address()));
        let mut client = gateway.client().await;
        assert_eq!(client.request(GET_API).await.text(), "old");
        let reloaded = gateway.reload(towards("b", new.address())).unwrap();
        assert_eq!((reloaded.generation, reloaded.waiting.as_slice()), (2, [].as_slice()));
        assert_eq!(client.request(GET_API).await.text(), "new");
    });
}

#[test]
fn a_config_that_cannot_be_served_changes_nothing() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let gateway = Gateway::start(towards("a", upstream.address()));
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut bad = towards("b", upstream.address());
        bad.routes.clear();
        bad.listeners.push(Listener::new("more", taken.local_addr().unwrap()));
        let error = gateway.reload(bad).unwrap_err();
        assert!(error.contains("in use"), "{error}");
        let mut dangling = towards("b", upstream.address());
        dangling.upstreams.clear();
        let error = gateway.reload(dangling).unwrap_err();
        assert!(error.contains("\"b\""), "{error}");
        assert_eq!(gateway.client().await.request(GET_API).await.text(), "x");
    });
}

#[test]
fn listeners_come_and_go_and_those_that_stay_lose_nobody() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let gateway = Gateway::start(towards("a", upstream.address()));
        let mut staying = gateway.client().await;
        assert_eq!(staying.request(GET_API).await.status(), 200);
        let mut more = towards("a", upstream.address());
        let second = free_address();
        more.listeners.push(Listener::new("second", second));
        gateway.reload(more).unwrap();
        let mut visitor = RawClient::connect(second).await;
        assert_eq!(visitor.request(GET_API).await.status(), 200);
        gateway.reload(towards("a", upstream.address())).unwrap();
        assert!(visitor.is_closed().await, "an idle connection of a listener that went");
        assert!(TcpStream::connect(second).await.is_err());
        assert_eq!(staying.request(GET_API).await.status(), 200);
    });
}

#[test]
fn a_listener_may_be_renamed_and_keeps_its_connections() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let address = free_address();
        let named = |name: &str| {
            let mut config = towards("a", upstream.address());
            config.listeners = vec![Listener::new(name, address)];
            config.routes = vec![Route { listeners: vec![name.into()], ..config.routes[0].clone() }];
            config
        };
        let gateway = Gateway::start(named("one"));
        let mut client = gateway.client().await;
        assert_eq!(client.request(GET_API).await.status(), 200);
        gateway.reload(named("other")).unwrap();
        assert_eq!(client.request(GET_API).await.status(), 200);
    });
}

#[test]
fn a_tunnel_lives_on_across_reloads() {
    local(async {
        let upstream = Upstream::websocket_echo().await;
        let gateway = Gateway::start(towards("a", upstream.address()));
        let mut tunnel = WebSocket::connect(gateway.address, "/api/ws").await;
        for round in 0..20 {
            // Another route beside it each time.
            let mut config = towards("a", upstream.address());
            config.routes.push(Route {
                name: "new".into(),
                path: PathMatch::Prefix(format!("/{round}").into()),
                ..config.routes[0].clone()
            });
            gateway.reload(config).unwrap();
            tunnel.text(&format!("{round}")).await;
            assert_eq!(tunnel.receive_text().await, format!("{round}"));
        }
    });
}

#[test]
fn what_waits_for_a_restart_is_named() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let gateway = Gateway::start(towards("a", upstream.address()));
        let mut config = towards("a", upstream.address());
        config.workers = 2;
        config.drain.reconnect_in = Duration::from_secs(3);
        let reloaded = gateway.reload(config).unwrap();
        assert_eq!(reloaded.waiting, ["workers", "[drain] reconnect_in"]);
    });
}

fn free_address() -> SocketAddr {
    // Taken again at once by the gateway, which asks for it exclusively: another process that is as quick makes the test fail.
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn streams_whose_route_or_upstream_is_gone_are_told_and_no_others() {
    local(async {
        let upstream = Upstream::websocket_echo().await;
        let two = |names: &[&str]| {
            let mut config = towards("a", upstream.address());
            let prototype = config.routes[0].clone();
            config.routes.clear();
            for name in names {
                let mut route = prototype.clone();
                route.name = (*name).into();
                route.path = PathMatch::Prefix(format!("/{name}").into());
                config.routes.push(route);
            }
            config
        };
        let gateway = Gateway::start(two(&["stays", "goes"]));
        let mut stays = WebSocket::connect(gateway.address, "/stays").await;
        let mut goes = WebSocket::connect(gateway.address, "/goes").await;
        gateway.reload(two(&["stays"])).unwrap();
        assert!(goes.receive().await.is_some_and(|frame| frame.first == 0x88));
        stays.text("here").await;
        assert_eq!(stays.receive_text().await, "here");
        let mut other = two(&["stays"]);
        other.upstreams[0].name = "b".into();
        other.routes[0].action = Action::upstream("b");
        gateway.reload(other).unwrap();
        assert!(stays.receive().await.is_some_and(|frame| frame.first == 0x88));
    });
}
