//! Traces, as a collector gets them: read with OpenTelemetry's own types.

use std::net::SocketAddr;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use tidegate_config::{AccessLog, Config, Trace};
use tidegate_server::{Extras, Server};
use tidegate_testkit::{Upstream, WebSocket, local};

use crate::harness::{GET_API, Gateway, config, lines};

const ALL: u32 = 1_000_000;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn traced(upstream: SocketAddr, collector: SocketAddr, sample: u32) -> Config {
    let endpoint = format!("http://{collector}").into();
    let trace = Trace { endpoint, sample, service_name: "edge".into() };
    Config { trace: Some(trace), ..config(Some(upstream), AccessLog::Off) }
}

/// The spans of all requests that the collector has got.
fn spans(collector: &Upstream) -> Vec<Span> {
    let mut spans = Vec::new();
    for request in collector.requests() {
        assert_eq!(request.start, "POST /v1/traces HTTP/1.1");
        assert_eq!(request.field("content-type"), Some("application/x-protobuf"));
        for resource in ExportTraceServiceRequest::decode(request.body).unwrap().resource_spans {
            let attributes = resource.resource.unwrap().attributes;
            let name = attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
            assert_eq!(name.value.clone().unwrap().value, Some(Value::StringValue("edge".into())));
            for scope in resource.scope_spans {
                assert_eq!(scope.scope.unwrap().name, "tidegate");
                spans.extend(scope.spans);
            }
        }
    }
    spans
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    let value = found.value.clone()?.value?;
    if let Value::IntValue(number) = value {
        return Some(number.to_string());
    }
    let Value::StringValue(text) = value else { panic!("{value:?}") };
    Some(text)
}

fn of_kind(spans: &[Span], kind: SpanKind) -> Vec<&Span> {
    spans.iter().filter(|span| span.kind == kind as i32).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn an_exchange_is_a_span_with_one_within_it_for_the_server_and_goes_on_with_the_clients_trace() {
    local(async {
        let (upstream, collector) = (Upstream::ok("hello").await, Upstream::ok("").await);
        let mut gateway = Gateway::start(traced(upstream.address(), collector.address(), 0));
        let request = format!(
            "POST /api/x?token=SECRET1 HTTP/1.1\r\nHost: example.org:8080\r\nCookie: a=SECRET2\r\nContent-Length: 2\r\n\
             traceparent: {PARENT}\r\ntracestate: vendor=1\r\n\r\nhi"
        );
        assert_eq!(gateway.client().await.request(request).await.status(), 200);
        gateway.close().await;
        let spans = spans(&collector);
        let [server] = of_kind(&spans, SpanKind::Server)[..] else { panic!("{spans:?}") };
        let [client] = of_kind(&spans, SpanKind::Client)[..] else { panic!("{spans:?}") };
        for span in [server, client] {
            assert_eq!(hex(&span.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
            assert!(span.start_time_unix_nano > 1_700_000_000_000_000_000);
            assert!(span.end_time_unix_nano > span.start_time_unix_nano);
            assert!(span.status.is_none());
        }
        assert_eq!((hex(&server.parent_span_id).as_str(), server.name.as_str()), ("00f067aa0ba902b7", "POST all"));
        assert_eq!(client.parent_span_id, server.span_id);
        assert!(server.start_time_unix_nano <= client.start_time_unix_nano);
        let port = upstream.address().port().to_string();
        for (span, key, value) in [
            (server, "http.request.method", "POST"),
            (server, "url.scheme", "http"),
            (server, "url.path", "/api/x"),
            (server, "server.address", "example.org"),
            (server, "server.port", "8080"),
            (server, "network.protocol.version", "1.1"),
            (server, "client.address", "127.0.0.1"),
            (server, "http.response.status_code", "200"),
            (server, "http.request.body.size", "2"),
            (server, "http.response.body.size", "5"),
            (server, "tidegate.route", "all"),
            (client, "server.address", "127.0.0.1"),
            (client, "server.port", &port),
            (client, "http.response.status_code", "200"),
        ] {
            assert_eq!(attribute(span, key).as_deref(), Some(value), "{key}");
        }
        assert!(!format!("{spans:?}").contains("SECRET"));
        let sent = &upstream.requests()[0];
        let expected = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", hex(&client.span_id));
        assert_eq!(sent.fields("traceparent"), [&expected], "the server is told of our span");
        assert_eq!(sent.fields("tracestate"), ["vendor=1"]);
    });
}

#[test]
fn what_nobody_samples_is_not_recorded_and_still_one_trace() {
    local(async {
        let (upstream, collector) = (Upstream::ok("x").await, Upstream::ok("").await);
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("access.log");
        let mut settings = traced(upstream.address(), collector.address(), 0);
        settings.log.access = AccessLog::File(log.clone());
        let mut gateway = Gateway::start(settings);
        let unsampled = PARENT.replace("-01", "-00");
        let broken = format!("{PARENT}\r\ntraceparent: {PARENT}\r\ntracestate: vendor=1");
        for header in [unsampled, broken] {
            let request = format!("GET /api/x HTTP/1.1\r\nHost: a\r\ntraceparent: {header}\r\n\r\n");
            assert_eq!(gateway.client().await.request(request).await.status(), 200);
        }
        gateway.close().await;
        assert!(collector.requests().is_empty());
        let sent = upstream.requests();
        let [followed, fresh] = [&sent[0], &sent[1]].map(|request| request.fields("traceparent")[0].to_owned());
        assert!(
            followed.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && followed.ends_with("-00"),
            "{followed}"
        );
        assert!(!followed.contains("00f067aa0ba902b7"), "it is told of our span, not of the client's: {followed}");
        assert!(!fresh.contains("4bf92f35") && fresh.ends_with("-00"), "{fresh}");
        assert_eq!(sent[1].field("tracestate"), None, "it belongs to a trace that was not understood");
        let logged: Vec<_> = lines(&log).iter().map(|line| line["trace_id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(logged, [&followed[3..35], &fresh[3..35]]);
    });
}

#[test]
fn without_tracing_a_clients_trace_passes_untouched() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let gateway = Gateway::before(upstream.address());
        let request = format!("GET /api/x HTTP/1.1\r\nHost: a\r\ntraceparent: {PARENT}\r\n\r\n");
        assert_eq!(gateway.client().await.request(request).await.status(), 200);
        assert_eq!(gateway.client().await.request(GET_API).await.status(), 200);
        let sent = upstream.requests();
        assert_eq!(sent[0].fields("traceparent"), [PARENT]);
        assert_eq!(sent[1].field("traceparent"), None);
    });
}

#[test]
fn each_try_and_each_failure_is_told_of() {
    local(async {
        let (good, collector) = (Upstream::ok("x").await, Upstream::ok("").await);
        let nobody = Upstream::nobody().await;
        let mut settings = traced(nobody, collector.address(), ALL);
        let servers = [nobody.to_string(), good.address().to_string()];
        settings.upstreams = vec![tidegate_config::Upstream::new("backend", &[&servers[0], &servers[1]])];
        let mut gateway = Gateway::start(settings);
        let mut client = gateway.client().await;
        assert_eq!(client.request(GET_API).await.status(), 200);
        assert_eq!(client.request("GET /none HTTP/1.1\r\nHost: a\r\n\r\n").await.status(), 404);
        drop(client);
        gateway.close().await;
        let spans = spans(&collector);
        let [routed, refused] = of_kind(&spans, SpanKind::Server)[..] else { panic!("{spans:?}") };
        let [first, second] = of_kind(&spans, SpanKind::Client)[..] else { panic!("{spans:?}") };
        assert_eq!((&first.parent_span_id, &second.parent_span_id), (&routed.span_id, &routed.span_id));
        assert_eq!(attribute(first, "server.port"), Some(nobody.port().to_string()));
        assert_eq!(first.status.clone().unwrap().code, 2, "an error");
        assert_eq!(attribute(second, "http.request.resend_count").as_deref(), Some("1"));
        assert!(second.status.is_none() && first.end_time_unix_nano <= second.start_time_unix_nano);
        assert_eq!(
            (attribute(refused, "http.response.status_code").as_deref(), refused.name.as_str()),
            (Some("404"), "GET")
        );
        assert_ne!(routed.trace_id, refused.trace_id);
    });
}

#[test]
fn the_span_of_a_tunnel_ends_with_it_and_tells_when_it_opened() {
    local(async {
        let (upstream, collector) = (Upstream::websocket_echo().await, Upstream::ok("").await);
        let mut gateway = Gateway::start(traced(upstream.address(), collector.address(), ALL));
        let mut tunnel = WebSocket::connect(gateway.address, "/api/ws").await;
        tunnel.text("ahoy").await;
        assert_eq!(tunnel.receive_text().await, "ahoy");
        let series = "tidegate_trace_spans_total{outcome=\"exported\"}";
        assert_eq!(gateway.metric(series).await, 0, "it is not over");
        drop(tunnel);
        gateway.until(series, 2).await;
        gateway.close().await;
        let spans = spans(&collector);
        let [server] = of_kind(&spans, SpanKind::Server)[..] else { panic!("{spans:?}") };
        assert_eq!(attribute(server, "tidegate.kind").as_deref(), Some("websocket"));
        assert_eq!(attribute(server, "http.response.status_code").as_deref(), Some("101"));
        let [open] = &server.events[..] else { panic!("{server:?}") };
        assert_eq!(open.name, "open");
        assert!(server.start_time_unix_nano <= open.time_unix_nano && open.time_unix_nano <= server.end_time_unix_nano);
        let sent = &upstream.requests()[0];
        assert!(sent.field("traceparent").unwrap().contains(&hex(&server.trace_id)));
    });
}

#[test]
fn what_a_collector_refuses_is_counted_and_costs_no_request() {
    local(async {
        let upstream = Upstream::ok("x").await;
        let collector = Upstream::answers("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        let mut gateway = Gateway::start(traced(upstream.address(), collector.address(), ALL));
        assert_eq!(gateway.client().await.request(GET_API).await.status(), 200);
        gateway.until("tidegate_trace_spans_total{outcome=\"failed\"}", 2).await;
        assert_eq!(gateway.client().await.request(GET_API).await.status(), 200);
        gateway.close().await;
    });
}

#[test]
fn a_collector_that_cannot_be_spoken_to_is_a_mistake_of_the_config() {
    let mut config = config(None, AccessLog::Off);
    config.trace = Some(Trace { endpoint: "grpc://collector.example.org".into(), ..Trace::default() });
    let error = Server::start(config, Extras::default()).err().unwrap().to_string();
    assert!(error.contains("grpc://collector.example.org") && error.contains("only http:// and https://"), "{error}");
}
