use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use http::header::{COOKIE, REFERER, USER_AGENT};
use http::{HeaderMap, HeaderValue};
use tidegate_config::AccessFormat;
use tidegate_rules::TlsFacts;

use super::*;
use crate::timestamp::Timestamp;

fn entry<'a>() -> Entry<'a> {
    Entry {
        kind: "http",
        request_id: "id-1",
        trace_id: "",
        client: "127.0.0.1:5000".parse().unwrap(),
        peer: "127.0.0.1:5000".parse().unwrap(),
        listener: "public",
        scheme: "http",
        tls: None,
        http_version: "1.1",
        method: "GET",
        host: b"exa\"mple\xff\n",
        path: "/a\\b",
        query: Some("token=SECRET"),
        kept: None,
        status: 200,
        bytes_in: 0,
        bytes_out: 12,
        duration: Duration::from_micros(1_234),
        ttfb: Some(Duration::from_micros(999)),
        route: Some("api"),
        upstream: Some("127.0.0.1:9000"),
        upstream_status: Some(200),
        upstream_connect: None,
        upstream_header: Some(Duration::from_micros(900)),
        retries: 1,
        events: 0,
        messages_in: 0,
        messages_out: 0,
        transport: None,
        tenant: None,
        user: None,
        reason: Some("client_closed"),
        error: None,
    }
}

fn line(format: &Format, entry: &Entry<'_>) -> String {
    let mut out = Vec::new();
    // 2026-01-31T23:59:59.123Z
    format.write(&mut out, entry, "backend", Duration::from_millis(1_769_903_999_123), &mut Timestamp::default());
    String::from_utf8(out).unwrap()
}

#[test]
fn a_line_is_one_json_object_whatever_the_client_sent() {
    let text = line(&Format::Json, &entry());
    assert_eq!(text.matches('\n').count(), 1);
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["host"], "exa\"mple\u{fffd}\n");
    assert_eq!(line["path"], "/a\\b");
    assert_eq!(line["duration_ms"], 1.234);
    assert_eq!(line["ttfb_ms"], 0.999);
    assert_eq!(line["upstream_header_ms"], 0.9);
    assert_eq!(line["upstream_status"], 200);
    assert_eq!(line["retries"], 1);
    assert_eq!(line["client"], "127.0.0.1:5000");
    for absent in ["events", "peer", "trace_id", "upstream_connect_ms", "messages_in"] {
        assert!(line.get(absent).is_none(), "{absent}");
    }
    assert!(!text.contains("SECRET"));
}

#[test]
fn combined_is_nginxs_with_its_escapes_and_without_queries() {
    let mut headers = HeaderMap::new();
    headers.insert(REFERER, HeaderValue::from_static("https://example.org/page?token=SECRET"));
    headers.insert(USER_AGENT, HeaderValue::from_bytes(b"curl \"8\"\\ \xe9").unwrap());
    let kept = Format::Combined.needs().keep(&Facts { headers: Some(&headers), ..Facts::default() });
    let entry = Entry { kept: Some(&kept), client: "[::ffff:192.0.2.7]:5000".parse().unwrap(), ..entry() };
    assert_eq!(
        line(&Format::Combined, &entry),
        "192.0.2.7 - - [31/Jan/2026:23:59:59 +0000] \"GET /a\\x5Cb HTTP/1.1\" 200 12 \"https://example.org/page\" \
         \"curl \\x228\\x22\\x5C \\xE9\"\n"
    );
    let unknown = Entry { method: "", path: "", kept: None, status: 400, bytes_out: 0, ..entry };
    assert_eq!(
        line(&Format::Combined, &unknown),
        "192.0.2.7 - - [31/Jan/2026:23:59:59 +0000] \"-\" 400 0 \"-\" \"-\"\n"
    );
}

#[test]
fn a_template_has_every_variable_of_a_log_and_escapes_values() {
    let source = "{client_ip} {client_port} {remote_addr} {host} \"{method} {uri}\" {scheme} {http_version} {request_id} {route} \
                  {listener} {status} {bytes_in} {bytes_out} {duration} {ttfb} {kind} {reason} {error} {upstream} \
                  {upstream_address} {upstream_status} {upstream_connect_time} {upstream_header_time} {retries} {events} \
                  {messages_in} {messages_out} {trace_id} {time} {time_local} {time_unix} {header.referer} {query.token} \
                  {claim.sub} {claim.none} {prefix_rest} {connection} {connection_requests} {tls.version} {tls.sni}";
    let format = Format::of(&AccessFormat::Template(source.into())).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(REFERER, HeaderValue::from_static("a\"b"));
    let claims = [("role", "admin"), ("sub", "a\"b")].map(|(name, value)| (name.into(), value.into()));
    let facts = Facts {
        headers: Some(&headers),
        claims: &claims,
        prefix_rest: "/rest",
        connection: Some(7),
        connection_requests: Some(2),
        ..Facts::default()
    };
    let kept = format.needs().keep(&facts);
    assert_eq!(*kept.claims, claims[1..], "no others than those asked for");
    let tls = Some(TlsFacts { version: "TLSv1.3", ..TlsFacts::default() });
    let entry = Entry { kept: Some(&kept), tls, host: b"example.org:8080", ..entry() };
    assert_eq!(
        line(&format, &entry),
        "127.0.0.1 5000 127.0.0.1 example.org \"GET /a\\x5Cb?token=SECRET\" http 1.1 id-1 api public 200 0 12 0.001 0.000 \
         http client_closed - backend 127.0.0.1:9000 200 - 0.000 1 0 0 0 - 2026-01-31T23:59:59.123Z \
         31/Jan/2026:23:59:59 +0000 1769903999.123 a\\x22b SECRET a\\x22b - /rest 7 2 \
         TLSv1.3 -\n"
    );
}

#[test]
fn a_log_keeps_the_fields_that_its_format_needs_and_no_others() {
    let log = AccessLog::start(10, Counter::default()).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static("curl"));
    headers.insert(COOKIE, HeaderValue::from_static("SECRET"));
    let of = |access_format| {
        let settings = config::Log { access: config::AccessLog::Stderr, access_format, ..config::Log::default() };
        log.of(&settings, None).unwrap().unwrap()
    };
    let combined = of(AccessFormat::Combined);
    let facts = || Facts { headers: Some(&headers), connection: Some(1), prefix_rest: "/x", ..Facts::default() };
    let kept = combined.keep(facts).unwrap();
    assert_eq!((kept.connection, &*kept.prefix_rest), (None, ""));
    let kept = kept.headers;
    assert_eq!((kept.len(), kept[USER_AGENT].as_bytes()), (1, &b"curl"[..]));
    let json = of(AccessFormat::Json);
    assert!(json.keep(facts).is_none());
    let template = of(AccessFormat::Template("{header.user-agent} {cookie.a} {cookie.b} {uri}".into()));
    let kept = template.keep(facts).unwrap().headers;
    assert_eq!((kept.len(), kept[COOKIE].as_bytes()), (2, &b"SECRET"[..]), "asked for by name");
    assert!(Arc::ptr_eq(&json.output, &combined.output), "a target is open once");
}

fn file(log: &AccessLog, path: &std::path::Path) -> Arc<Log> {
    let settings = config::Log { access: config::AccessLog::File(path.to_owned()), ..config::Log::default() };
    log.of(&settings, None).unwrap().unwrap()
}

#[test]
fn lines_beyond_the_queue_are_dropped_and_counted_and_one_file_does_not_fill_anothers() {
    let directory = tempfile::tempdir().unwrap();
    let log = AccessLog::start(2, Counter::default()).unwrap();
    let (slow, other) = (file(&log, &directory.path().join("slow")), file(&log, &directory.path().join("other")));
    // Nobody takes anything.
    let (sender, receiver) = sync_channel(WAITING);
    let dropped = Counter::default();
    let lines = Lines::new(Some(sender), dropped.clone(), 2);
    for _ in 0..5 {
        lines.write(Some(&slow), &entry());
        lines.flush();
    }
    assert_eq!(dropped.get(), 3);
    assert_eq!(slow.output.waiting.load(Ordering::Relaxed), 2);
    lines.write(Some(&other), &entry());
    lines.flush();
    assert_eq!(dropped.get(), 3);
    drop(lines);
    assert_eq!(receiver.iter().count(), 3);
}

#[test]
fn nothing_is_lost_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let log = AccessLog::start(100_000, Counter::default()).unwrap();
    let to = file(&log, &path);
    let lines = log.lines();
    for _ in 0..1_000 {
        lines.write(Some(&to), &entry());
    }
    drop(lines);
    log.close();
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(text.lines().count(), 1_000);
}

#[test]
fn a_file_is_closed_when_no_route_and_no_line_needs_it_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let log = AccessLog::start(100, Counter::default()).unwrap();
    let to = file(&log, &directory.path().join("access.log"));
    let output = Arc::downgrade(&to.output);
    let lines = log.lines();
    lines.write(Some(&to), &entry());
    drop(to);
    lines.flush();
    assert!(output.upgrade().is_some(), "the worker may write to it again at once");
    lines.flush();
    log.close_after(lines);
    assert!(output.upgrade().is_none());
}

#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    let dropped = Counter::default();
    let log = AccessLog::start(100_000, dropped.clone()).unwrap();
    let full = file(&log, std::path::Path::new("/dev/full"));
    let lines = log.lines();
    for _ in 0..1_000 {
        lines.write(Some(&full), &entry());
    }
    log.close_after(lines);
    assert_eq!(dropped.get(), 1_000);
}

#[test]
fn a_pipe_that_nobody_reads_holds_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let opening = path.clone();
    let reader = std::thread::spawn(move || std::fs::File::open(opening).unwrap());
    let dropped = Counter::default();
    let log = AccessLog::start(200, dropped.clone()).unwrap();
    let pipe = file(&log, &path);
    let reader = reader.join().unwrap();
    let lines = log.lines();
    // The pipe takes 64 KiB, the writer holds a buffer of 32 KiB, and 200 lines wait: the rest of 2 MB goes.
    let long = "x".repeat(2_000);
    for _ in 0..1_000 {
        lines.write(Some(&pipe), &Entry { path: &long, ..entry() });
    }
    lines.flush();
    let lost = dropped.get();
    assert!((500..1_000).contains(&lost), "{lost}");
    drop(reader);
    log.close_after(lines);
    assert!(dropped.get() > lost, "what waited for the reader is lost with it, and counted");
}

impl AccessLog {
    fn close_after(&self, lines: Lines) {
        drop(lines);
        self.close();
    }
}
