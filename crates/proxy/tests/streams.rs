//! The register of live streams, and how they are asked to go.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use common::{Gateway, get};
use tidegate_proxy::{ExchangeKind, Leave, LeavePace, LiveFilter};
use tidegate_testkit::{Upstream, WebSocket, local};
use tidegate_types::CloseReason;

#[test]
fn the_register_knows_tunnels_and_event_streams_while_they_live() {
    local(async {
        let echo = Upstream::websocket_echo().await;
        let gateway = Gateway::to(&[echo.address()]).await;
        assert!(gateway.live.list(&LiveFilter::default(), 10).await.is_empty());
        let mut first = WebSocket::connect(gateway.address, "/").await;
        let second = WebSocket::connect(gateway.address, "/").await;
        first.text("hello").await;
        first.receive_text().await;
        let streams = gateway.live.list(&LiveFilter::default(), 10).await;
        assert_eq!(streams.len(), 2);
        let stream = streams.iter().find(|stream| stream.bytes_in > 0).unwrap();
        assert_eq!((stream.kind, stream.bytes_in, stream.bytes_out), (ExchangeKind::WebSocket, 11, 7));
        assert_eq!((&*stream.route, &*stream.upstream, &*stream.request_id), ("test", "backend", "request-1"));
        assert_eq!(stream.server.as_deref(), Some(echo.address().to_string().as_str()));
        assert_ne!(streams[0].id, streams[1].id);
        assert_eq!(gateway.live.list(&LiveFilter::default(), 1).await.len(), 1);
        let counts = gateway.live.count().await;
        assert_eq!((counts.len(), counts[0].tunnels, counts[0].event_streams), (1, 2, 0));
        for (filter, found) in [
            (LiveFilter { route: Some("test".into()), ..LiveFilter::default() }, 2),
            (LiveFilter { route: Some("other".into()), ..LiveFilter::default() }, 0),
            (LiveFilter { listener: Some("public".into()), ..LiveFilter::default() }, 0),
            (LiveFilter { ids: vec![stream.id], ..LiveFilter::default() }, 1),
            (LiveFilter { client: Some([127, 0, 0, 2].into()), ..LiveFilter::default() }, 0),
            (LiveFilter { kind: Some(ExchangeKind::Sse), ..LiveFilter::default() }, 0),
            (LiveFilter::server("backend", &echo.address().to_string()), 2),
            (LiveFilter::server("backend", "127.0.0.1:1"), 0),
        ] {
            assert_eq!(gateway.live.list(&filter, 10).await.len(), found, "{filter:?}");
        }
        drop((first, second));
        gateway.ended(2).await;
        assert!(gateway.live.list(&LiveFilter::default(), 10).await.is_empty());
        assert!(gateway.live.count().await.is_empty());
    });
}

#[test]
fn an_event_stream_that_is_asked_to_go_ends_between_two_events() {
    local(async {
        let (upstream, events) = Upstream::event_stream().await;
        let gateway = Gateway::to(&[upstream.address()]).await;
        let mut client = gateway.client().await;
        client.send(get("/")).await;
        client.head().await.unwrap();
        events.send("data: half".into()).await.unwrap();
        assert_eq!(client.chunk().await, "data: half"[..]);
        assert_eq!(gateway.live.count().await[0].event_streams, 1);
        assert_eq!(gateway.live.close(&LiveFilter::default(), Leave::ServerDown, LeavePace::default()).await, 1);
        assert_eq!(gateway.live.list(&LiveFilter::default(), 1).await[0].leaving, Some(Leave::ServerDown));
        assert_eq!(gateway.live.close(&LiveFilter::default(), Leave::Kick, LeavePace::default()).await, 0, "asked");
        events.send(" and half\n\n".into()).await.unwrap();
        assert_eq!(client.chunk().await, " and half\n\n"[..]);
        assert!(client.chunk().await.starts_with(b"retry: "));
        assert!(client.chunk().await.is_empty(), "a complete end");
        assert_eq!(gateway.ended(1).await[0].reason, CloseReason::UpstreamFailed);
    });
}

#[test]
fn a_pace_spreads_the_ends_and_what_has_not_happened_can_be_taken_back() {
    local(async {
        let echo = Upstream::websocket_echo().await;
        let gateway = Gateway::to(&[echo.address()]).await;
        let mut sockets = Vec::new();
        for _ in 0..60 {
            sockets.push(WebSocket::connect(gateway.address, "/").await);
        }
        let all = LiveFilter::default();
        // The last one in most of a minute.
        let pace = LeavePace { per_second: 1, at_most: 50, ..LeavePace::default() };
        assert_eq!(gateway.live.close(&all, Leave::Rebalance, pace).await, 50);
        assert_eq!(sockets[0].close_code().await, Some(1012));
        assert_eq!(gateway.ended(1).await[0].reason, CloseReason::Moved);
        assert!(gateway.live.keep(&all, Leave::ServerDown).await == 0, "another reason");
        let kept = gateway.live.keep(&all, Leave::Rebalance).await;
        let left = gateway.live.list(&all, 100).await;
        let stay = left.iter().filter(|stream| stream.leaving.is_none()).count();
        // Ten were never asked.
        assert!(kept >= 1 && stay == kept + 10, "{kept} of {left:?}");
    });
}
