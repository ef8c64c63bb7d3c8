//! What happens inside the WebSockets of a route that inspects.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::rc::Rc;
use std::time::Duration;

use common::{Gateway, Terms, in_time};
use tidegate_metrics::CloseBy;
use tidegate_proxy::{ExchangeSummary, Inspect, Leave, LeavePace, LiveFilter, WebSocketPolicy, WebSocketSettings};
use tidegate_testkit::{Frame, Upstream, WebSocket, local, patiently};
use tidegate_types::CloseReason;
use tokio::sync::mpsc;

async fn gateway(upstream: &Upstream, settings: WebSocketSettings) -> Gateway {
    let terms = Terms { websocket: Some(WebSocketPolicy::new(settings)), ..Terms::default() };
    Gateway::on(common::settings(&[upstream.address()]), terms).await
}

fn meter() -> WebSocketSettings {
    WebSocketSettings { inspect: Inspect::Meter, ..WebSocketSettings::default() }
}

fn strict() -> WebSocketSettings {
    WebSocketSettings { inspect: Inspect::Strict, ..WebSocketSettings::default() }
}

/// An upstream that tells every frame it gets, answers a Close, and sends `first` after the handshake.
async fn listener(first: &'static [u8]) -> (Upstream, mpsc::Receiver<Frame>) {
    let (told, heard) = mpsc::channel(1000);
    let upstream = Upstream::script(move |mut peer, _, _| {
        let told = told.clone();
        async move {
            let request = peer.message(false).await.unwrap();
            peer.send(WebSocket::accept(&request, "")).await;
            peer.send(first).await;
            let mut socket = WebSocket::server(peer);
            while let Some(frame) = socket.receive().await {
                let close = frame.first & 0x0f == 8;
                if close {
                    socket.send(8, &frame.payload).await;
                }
                let _ = told.send(frame).await;
                if close {
                    return;
                }
            }
        }
    })
    .await;
    (upstream, heard)
}

async fn next(heard: &mut mpsc::Receiver<Frame>) -> Frame {
    patiently("a frame at the upstream", heard.recv()).await.unwrap()
}

async fn close_code(heard: &mut mpsc::Receiver<Frame>) -> u16 {
    loop {
        let frame = next(heard).await;
        if frame.first == 0x88 {
            return u16::from_be_bytes(frame.payload[..2].try_into().unwrap());
        }
    }
}

fn counts(gateway: &Gateway, series: &str, value: u64) {
    let metrics = gateway.metrics.encode();
    let line = format!("{series} {value}");
    assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
}

#[test]
fn messages_sizes_and_close_codes_are_counted() {
    local(async {
        let echo = Upstream::websocket_echo().await;
        let gateway = gateway(&echo, meter()).await;
        let mut socket = WebSocket::connect(gateway.address, "/").await;
        for size in [10, 100, 70_000] {
            socket.send(2, &vec![7; size]).await;
            assert_eq!(socket.receive().await.unwrap().payload.len(), size);
        }
        socket.send(9, b"a ping is no message").await;
        assert_eq!(socket.receive().await.unwrap().first, 0x89, "and passes");
        socket.send(8, &4001u16.to_be_bytes()).await;
        assert_eq!(socket.receive().await.unwrap().first, 0x88);
        assert!(socket.raw.is_closed().await);
        drop(socket);
        let ExchangeSummary { messages_in, messages_out, close, reason, .. } = gateway.ended(1).await[0].clone();
        assert_eq!((messages_in, messages_out, close), (3, 3, Some((4001, CloseBy::Client))));
        assert_eq!(reason, CloseReason::TransportClosed);
        for direction in ["to_upstream", "to_client"] {
            let labels = format!("{{route=\"test\",direction=\"{direction}\"}}");
            counts(&gateway, &format!("tidegate_websocket_messages_total{labels}"), 3);
            counts(&gateway, &format!("tidegate_websocket_message_bytes_count{labels}"), 3);
        }
        counts(&gateway, "tidegate_websocket_close_codes_total{route=\"test\",code=\"4xxx\",by=\"client\"}", 1);
    });
}

#[test]
fn a_message_that_is_too_large_is_refused_before_any_of_it_passes() {
    local(async {
        let (upstream, mut heard) = listener(b"").await;
        let gateway = gateway(&upstream, WebSocketSettings { max_message: 1000, ..meter() }).await;
        let mut socket = WebSocket::connect(gateway.address, "/").await;
        socket.send(2, &[1; 1000]).await;
        assert_eq!(next(&mut heard).await.payload.len(), 1000);
        socket.send(2, &[2; 1001]).await;
        assert_eq!(socket.close_code().await, Some(1009));
        let frame = next(&mut heard).await;
        assert_eq!((frame.first, &frame.payload[..2]), (0x88, &1001u16.to_be_bytes()[..]));
        drop(socket);
        assert_eq!(gateway.ended(1).await[0].reason, CloseReason::MessageTooLarge);
        counts(&gateway, "tidegate_websocket_limited_total{route=\"test\",limit=\"message_size\"}", 1);
        counts(&gateway, "tidegate_websocket_close_codes_total{route=\"test\",code=\"1009\",by=\"gateway\"}", 1);
    });
}

#[test]
fn fragments_of_a_message_count_together() {
    local(async {
        let (upstream, mut heard) = listener(b"").await;
        let gateway = gateway(&upstream, WebSocketSettings { max_message: 100, ..meter() }).await;
        let mut socket = WebSocket::connect(gateway.address, "/").await;
        for first in [0x02, 0x00] {
            let mut frame = vec![first, 0x80 | 60, 0, 0, 0, 0];
            frame.extend([b'x'; 60]);
            socket.raw.send(frame).await;
        }
        assert_eq!(socket.close_code().await, Some(1009));
        assert_eq!(next(&mut heard).await.first, 0x02, "the first one was within the limit");
        assert_eq!(close_code(&mut heard).await, 1001);
    });
}

#[test]
fn more_messages_than_a_connection_may_send_close_it() {
    local(async {
        let (upstream, mut heard) = listener(b"").await;
        let limits = WebSocketSettings { messages_per_second: 1, message_burst: 5, ..meter() };
        let gateway = gateway(&upstream, limits).await;
        let mut socket = WebSocket::connect(gateway.address, "/").await;
        // All in one write: no time for the bucket to refill.
        let frame = [0x82, 0x81, 0, 0, 0, 0, b'x'];
        socket.raw.send(frame.repeat(50)).await;
        assert_eq!(socket.close_code().await, Some(1008));
        let mut passed = 0;
        while next(&mut heard).await.first == 0x82 {
            passed += 1;
        }
        assert_eq!(passed, 5);
        drop(socket);
        assert_eq!(gateway.ended(1).await[0].reason, CloseReason::RateLimited);
        counts(&gateway, "tidegate_websocket_limited_total{route=\"test\",limit=\"messages\"}", 1);
    });
}

#[test]
fn more_bytes_than_a_connection_may_send_close_it() {
    local(async {
        let (upstream, mut heard) = listener(b"").await;
        let gateway = gateway(&upstream, WebSocketSettings { bytes_per_second: 1, ..meter() }).await;
        let mut socket = WebSocket::connect(gateway.address, "/").await;
        socket.send(2, &[0; 1000]).await;
        assert_eq!(next(&mut heard).await.payload.len(), 1000);
        for _ in 0..10 {
            socket.send(2, &[0; 60_000]).await;
        }
        assert_eq!(socket.close_code().await, Some(1008));
        drop(socket);
        assert_eq!(gateway.ended(1).await[0].reason, CloseReason::RateLimited);
        counts(&gateway, "tidegate_websocket_limited_total{route=\"test\",limit=\"bytes\"}", 1);
    });
}

#[test]
fn connections_of_one_key_share_their_rate_and_others_do_not() {
    local(async {
        let echo = Upstream::websocket_echo().await;
        let limits = WebSocketSettings { messages_per_second: 1, message_burst: 100, ..meter() };
        let gateway = gateway(&echo, limits).await;
        let mut first = WebSocket::connect(gateway.address, "/ann").await;
        let mut second = WebSocket::connect(gateway.address, "/ann").await;
        let mut other = WebSocket::connect(gateway.address, "/bob").await;
        for socket in [&mut first, &mut other] {
            for _ in 0..80 {
                socket.text("x").await;
                socket.receive_text().await;
            }
        }
        for _ in 0..80 {
            second.text("x").await;
        }
        assert_eq!(second.close_code().await, Some(1008), "its own bucket is not empty, but the key's is");
        counts(&gateway, "tidegate_websocket_limited_total{route=\"test\",limit=\"key_messages\"}", 1);
        other.text("still good").await;
        assert_eq!(other.receive_text().await, "still good");
    });
}

#[test]
fn strict_routes_refuse_what_breaks_the_protocol_from_the_client() {
    local(async {
        for (bytes, code, reason) in [
            (&b"\x81\x02hi"[..], 1002, CloseReason::ProtocolError),
            (b"\x83\x80\0\0\0\0", 1002, CloseReason::ProtocolError),
            (b"\xc1\x80\0\0\0\0", 1002, CloseReason::ProtocolError),
            (b"\x80\x80\0\0\0\0", 1002, CloseReason::ProtocolError),
            (b"\x81\x82\0\0\0\0\xc0\x80", 1007, CloseReason::InvalidText),
            (b"\x88\x82\0\0\0\0\x03\xee", 1002, CloseReason::ProtocolError),
        ] {
            let (upstream, mut heard) = listener(b"").await;
            let gateway = gateway(&upstream, strict()).await;
            let mut socket = WebSocket::connect(gateway.address, "/").await;
            socket.raw.send(bytes).await;
            assert_eq!(socket.close_code().await, Some(code), "{bytes:?}");
            assert_eq!(close_code(&mut heard).await, 1001, "{bytes:?}");
            drop(socket);
            assert_eq!(gateway.ended(1).await[0].reason, reason, "{bytes:?}");
        }
    });
}

#[test]
fn strict_routes_refuse_what_breaks_the_protocol_from_the_upstream() {
    local(async {
        for (bytes, code) in [
            (&b"\x81\x82\0\0\0\0hi"[..], 1002),
            (b"\xc1\x00", 1002),
            (b"\x81\x02\xff\xff", 1007),
            (b"\x01\x01a\x81\x01b", 1002),
        ] {
            let (upstream, mut heard) = listener(bytes).await;
            let gateway = gateway(&upstream, strict()).await;
            let mut socket = WebSocket::connect(gateway.address, "/").await;
            assert_eq!(socket.close_code().await, Some(1011), "{bytes:?}");
            assert_eq!(close_code(&mut heard).await, code, "{bytes:?}");
        }
    });
}

#[test]
fn only_strict_routes_refuse() {
    local(async {
        let (upstream, mut heard) = listener(b"").await;
        let gateway = gateway(&upstream, meter()).await;
        let mut socket = WebSocket::connect(gateway.address, "/").await;
        socket.raw.send(b"\x81\x82\0\0\0\0\xc0\x80").await;
        assert_eq!(next(&mut heard).await.payload, b"\xc0\x80"[..]);
    });
}

#[test]
fn strict_routes_offer_and_take_only_extensions_that_they_can_follow() {
    local(async {
        let echo = Upstream::websocket_echo().await;
        let gateway_ = gateway(&echo, strict()).await;
        let mut client = gateway_.client().await;
        let offer = "Sec-WebSocket-Extensions: x-webkit-deflate-frame, permessage-deflate\r\n";
        client.send(WebSocket::handshake("/", offer)).await;
        assert_eq!(client.head().await.unwrap().status(), 101);
        assert_eq!(echo.requests()[0].field("sec-websocket-extensions"), Some("permessage-deflate"));
        let unasked = Upstream::script(|mut peer, _, _| async move {
            let request = peer.message(false).await.unwrap();
            peer.send(WebSocket::accept(&request, "Sec-WebSocket-Extensions: x-other\r\n")).await;
            peer.read_to_end().await;
        })
        .await;
        let gateway = gateway(&unasked, strict()).await;
        assert_eq!(gateway.client().await.request(WebSocket::handshake("/", "")).await.status(), 502);
    });
}

/// Answers pings until something else comes.
async fn beyond_pings(socket: &mut WebSocket, pings: &mut usize) -> Option<Frame> {
    loop {
        let frame = socket.receive().await?;
        if frame.first != 0x89 {
            return Some(frame);
        }
        *pings += 1;
        socket.send(10, &frame.payload).await;
    }
}

fn pinging(interval: Duration, timeout: Duration) -> WebSocketSettings {
    WebSocketSettings { ping_interval: interval, ping_timeout: timeout, ..WebSocketSettings::default() }
}

#[test]
fn both_ends_are_pinged_and_their_pongs_go_no_further() {
    local(async {
        let (told, mut heard) = mpsc::channel(1000);
        let (say, said) = mpsc::channel::<()>(1);
        let said = Rc::new(tokio::sync::Mutex::new(said));
        let upstream = Upstream::script(move |mut peer, _, _| {
            let (told, said) = (told.clone(), said.clone());
            async move {
                let request = peer.message(false).await.unwrap();
                peer.send(WebSocket::accept(&request, "")).await;
                let mut socket = WebSocket::server(peer);
                let mut pings = 0;
                while let Some(frame) = beyond_pings(&mut socket, &mut pings).await {
                    let _ = told.send((frame, pings)).await;
                    if said.lock().await.recv().await.is_none() {
                        return;
                    }
                    socket.text("over").await;
                }
            }
        })
        .await;
        let gateway = gateway(&upstream, pinging(Duration::from_millis(20), Duration::from_secs(60))).await;
        let mut socket = WebSocket::connect(gateway.address, "/").await;
        let mut pings = 0;
        while pings < 3 {
            let frame = socket.receive().await.unwrap();
            assert_eq!((frame.first, frame.payload.len()), (0x89, 12));
            pings += 1;
            // In two parts, so that the gateway cannot know it at once.
            let pong = {
                let mut pong = vec![0x8a, 0x80 | 12, 0, 0, 0, 0];
                pong.extend_from_slice(&frame.payload);
                pong
            };
            socket.raw.send(&pong[..9]).await;
            tokio::task::yield_now().await;
            socket.raw.send(&pong[9..]).await;
        }
        socket.send(10, b"a heartbeat of the client's own").await;
        let (frame, _) = patiently("a frame", heard.recv()).await.unwrap();
        assert_eq!((frame.first, &frame.payload[..]), (0x8a, &b"a heartbeat of the client's own"[..]));
        say.send(()).await.unwrap();
        let frame = beyond_pings(&mut socket, &mut pings).await.unwrap();
        assert_eq!(frame.payload, b"over"[..], "and none of the upstream's pongs");
        while gateway.route.websocket().ping_rtt(tidegate_metrics::StreamPeer::Upstream).count() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(gateway.route.websocket().ping_rtt(tidegate_metrics::StreamPeer::Client).count() >= 2);
    });
}

#[test]
fn a_client_that_does_not_answer_pings_is_given_up_and_the_upstream_told() {
    local(async {
        let (told, mut heard) = mpsc::channel(1);
        let upstream = Upstream::script(move |mut peer, _, _| {
            let told = told.clone();
            async move {
                let request = peer.message(false).await.unwrap();
                peer.send(WebSocket::accept(&request, "")).await;
                let mut socket = WebSocket::server(peer);
                let frame = beyond_pings(&mut socket, &mut 0).await.unwrap();
                socket.send(8, &frame.payload).await;
                let _ = told.send(frame).await;
            }
        })
        .await;
        let gateway = gateway(&upstream, pinging(Duration::from_millis(50), Duration::from_millis(200))).await;
        let mut socket = WebSocket::connect(gateway.address, "/").await;
        let frame = next(&mut heard).await;
        assert_eq!((frame.first, &frame.payload[..2]), (0x88, &1011u16.to_be_bytes()[..]));
        assert_eq!(gateway.ended(1).await[0].reason, CloseReason::PingTimeout);
        assert_eq!(socket.close_code().await, None, "nobody listens there");
    });
}

#[test]
fn an_upstream_that_does_not_answer_pings_is_given_up_and_the_client_told() {
    local(async {
        let upstream = Upstream::script(move |mut peer, _, _| async move {
            let request = peer.message(false).await.unwrap();
            peer.send(WebSocket::accept(&request, "")).await;
            peer.read_to_end().await;
        })
        .await;
        let gateway = gateway(&upstream, pinging(Duration::from_millis(50), Duration::from_millis(200))).await;
        let mut socket = WebSocket::connect(gateway.address, "/").await;
        let frame = beyond_pings(&mut socket, &mut 0).await.unwrap();
        assert_eq!((frame.first, &frame.payload[..2]), (0x88, &1011u16.to_be_bytes()[..]));
        socket.send(8, &frame.payload).await;
        assert_eq!(gateway.ended(1).await[0].reason, CloseReason::PingTimeout);
    });
}

#[test]
fn pings_and_their_answers_do_not_keep_an_idle_tunnel_open() {
    local(async {
        let (pings, code) = in_time(async |time| {
            let upstream = Upstream::script(move |mut peer, _, _| async move {
                let request = peer.message(false).await.unwrap();
                peer.send(WebSocket::accept(&request, "")).await;
                let mut socket = WebSocket::server(peer);
                let frame = beyond_pings(&mut socket, &mut 0).await.unwrap();
                socket.send(8, &frame.payload).await;
            })
            .await;
            let settings = WebSocketSettings { idle_timeout: Some(time), ..pinging(time / 5, 100 * time) };
            let gateway = gateway(&upstream, settings).await;
            let mut socket = WebSocket::connect(gateway.address, "/").await;
            let mut pings = 0;
            let frame = beyond_pings(&mut socket, &mut pings).await.unwrap();
            socket.send(8, &frame.payload).await;
            assert_eq!(gateway.ended(1).await[0].reason, CloseReason::IdleTimeout);
            (pings, frame.payload[..2].to_vec())
        })
        .await;
        assert_eq!(code, 1001u16.to_be_bytes());
        assert!(pings >= 1);
    });
}

/// Large messages in fragments, both ways, while the gateway closes: whatever an end has got is whole frames, and the
/// last one is the Close.
#[test]
fn a_close_is_never_put_into_a_frame_under_traffic() {
    local(async {
        for round in 0..8 {
            let settings = if round % 2 == 0 {
                WebSocketSettings::default()
            } else {
                pinging(Duration::from_millis(10), Duration::from_secs(60))
            };
            let (told, mut heard) = mpsc::channel(1);
            let upstream = Upstream::script(move |mut peer, _, _| {
                let told = told.clone();
                async move {
                    let request = peer.message(false).await.unwrap();
                    peer.send(WebSocket::accept(&request, "")).await;
                    let _ = told.send(flood(WebSocket::server(peer), None).await).await;
                }
            })
            .await;
            let gateway = gateway(&upstream, settings).await;
            let socket = WebSocket::connect(gateway.address, "/").await;
            let client = tokio::task::spawn_local(flood(socket, Some([3, 1, 4, 1])));
            while gateway.route.tunnel_bytes_to_client.get() < 100_000 * (1 + round) {
                tokio::task::yield_now().await;
            }
            assert_eq!(gateway.live.close(&LiveFilter::default(), Leave::Kick, LeavePace::default()).await, 1);
            assert_eq!(patiently("the client's end", client).await.unwrap(), Some(1008));
            assert_eq!(patiently("the upstream's end", heard.recv()).await.unwrap(), Some(1008));
            assert_eq!(gateway.ended(1).await[0].reason, CloseReason::Kicked);
        }
    });
}

/// Sends fragments of many sizes until the other side closes, and reads meanwhile; checks each frame. Gives the code.
async fn flood(mut socket: WebSocket, mask: Option<[u8; 4]>) -> Option<u16> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut bytes = Vec::new();
    for number in 0..40usize {
        let first = if number % 4 == 0 { 2 } else { 0 } | if number % 4 == 3 { 0x80 } else { 0 };
        let size = [3, 200, 5_000, 90_000][number % 4] + number;
        let masked = if mask.is_some() { 0x80 } else { 0 };
        bytes.push(first);
        match size {
            0..126 => bytes.push(masked | size as u8),
            126..65_536 => {
                bytes.push(masked | 126);
                bytes.extend((size as u16).to_be_bytes());
            }
            _ => {
                bytes.push(masked | 127);
                bytes.extend((size as u64).to_be_bytes());
            }
        }
        bytes.extend(mask.iter().flatten());
        // A zero mask would hide mistakes; the payload says its own length instead of being random.
        bytes.extend((0..size).map(|at| (size % 251) as u8 ^ mask.map_or(0, |mask| mask[at % 4])));
    }
    let mut received = socket.raw.take_buffered();
    let (mut reading, mut writing) = socket.raw.stream().split();
    let read = async {
        let mut buffer = vec![0; 100_000];
        loop {
            match reading.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => received.extend_from_slice(&buffer[..count]),
            }
            while let Some((first, payload, used)) = frame(&received) {
                match first & 0x0f {
                    8 => {
                        assert_eq!(received.len(), used, "nothing follows a Close");
                        return Some(u16::from_be_bytes(payload[..2].try_into().unwrap()));
                    }
                    9 => assert_eq!(payload.len(), 12),
                    _ => assert!(payload.iter().all(|byte| *byte == (payload.len() % 251) as u8), "a whole frame"),
                }
                received.drain(..used);
            }
        }
    };
    let write = async {
        loop {
            if writing.write_all(&bytes).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        code = read => code,
        () = write => None,
    }
}

/// The first frame, unmasked, and its length.
fn frame(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (length, mut at) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap())), 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap()), 10),
        length => (u64::from(length), 2),
    };
    let mask: [u8; 4] = if second & 0x80 == 0 {
        [0; 4]
    } else {
        at += 4;
        bytes.get(at - 4..at)?.try_into().unwrap()
    };
    let payload = bytes.get(at..at + usize::try_from(length).unwrap())?;
    let payload = payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]).collect();
    Some((first, payload, at + length as usize))
}
