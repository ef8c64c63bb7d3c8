//! The choices of a real nginx beside those of the route table: the same locations, the same server names, the same requests.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use common::nginx::Nginx;
use tidegate_balance::{Fit, NormalPath, PathPattern, RouteTable, Routed};
use tidegate_testkit::{RawClient, local};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const LOCATIONS: [&str; 14] = [
    "/",
    "= /",
    "/a",
    "/a/",
    "= /a/b",
    "^~ /a/b/",
    "/a/b/a",
    "/b/",
    r"~ \.php$",
    "~ ^/b/a",
    "~* ^/A/A",
    "~ b/b$",
    "^~ /.hidden",
    "= /é",
];

/// What paths are made of; three of them behind a slash.
const PIECES: [&str; 15] =
    ["", "/", "a", "b", "A", "a/", "b/", ".", "..", "%2f", "%2E", "%61", ".php", "/..//", ".hidden"];

fn pattern(text: &str) -> PathPattern<'_> {
    match text.split_once(' ') {
        Some(("=", path)) => PathPattern::Exact(path),
        Some(("^~", path)) => PathPattern::PrefixFirst(path),
        Some(("~", pattern)) => PathPattern::Regex { pattern, ignore_case: false },
        Some(("~*", pattern)) => PathPattern::Regex { pattern, ignore_case: true },
        _ => PathPattern::Prefix(text),
    }
}

/// The status and, if it is 200, the name of what was chosen.
type Choice = (u16, String);

fn ours(table: &RouteTable<&str>, host: &str, path: &str) -> Choice {
    let Ok(path) = NormalPath::of(path) else { return (400, String::new()) };
    match table.find(host, &path, |_| Fit::Yes) {
        Routed::Found { target, .. } => (200, (*target).to_owned()),
        Routed::MethodNotAllowed(_) | Routed::Nowhere => (404, String::new()),
    }
}

#[test]
fn the_same_locations_are_chosen_for_thousands_of_paths() {
    local(async {
        // By its place: nginx takes "$" in a text for a variable.
        let location = |(place, text): (usize, &&str)| format!("location {text} {{ return 200 \"{place}\"; }}\n");
        let locations: String = LOCATIONS.iter().enumerate().map(location).collect();
        let locations = format!("keepalive_requests 100000; {locations}");
        let Some(nginx) = Nginx::start("locations", &locations).await else { return };
        let table = RouteTable::new(LOCATIONS.iter().map(|text| (None, pattern(text), 0, *text))).unwrap();
        let mut client = RawClient::connect(nginx.address).await;
        let combinations = PIECES.len().pow(3);
        let combined = (0..combinations).map(|number| {
            let piece = |place: u32| PIECES[number / PIECES.len().pow(place) % PIECES.len()];
            format!("/{}{}{}", piece(0), piece(1), piece(2))
        });
        let special =
            ["/%C3%A9", "/%c3%a9/", "/%", "/%6", "/%zz", "/a%00", "/%2e%2e/", "/a?/../..", "/a/b%3f", "/a%23"];
        let mut refused = 0;
        for path in combined.chain(special.map(str::to_owned)) {
            let answer = client.request(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            let place = answer.text().parse::<usize>().ok().filter(|_| answer.status() == 200);
            let theirs = (answer.status(), place.map_or("", |place| LOCATIONS[place]).to_owned());
            if theirs.0 == 400 {
                // nginx closes then.
                refused += 1;
                client = RawClient::connect(nginx.address).await;
            }
            let asked = path.split('?').next().unwrap();
            assert_eq!(ours(&table, "a", asked), theirs, "{path}");
        }
        assert!(refused > 10, "there are paths that lead out of the root: {refused}");
    });
}

#[test]
fn the_same_server_names_are_chosen() {
    local(async {
        const NAMES: [&str; 8] = [
            "example.org",
            "*.example.org",
            "*.eu.example.org",
            "chat.*",
            "chat.example.*",
            "*.org",
            "example.*",
            "www.example.org",
        ];
        let server = |listen: &str, name: &str, text: &str| {
            format!("server {{ listen unix:HERE/names {listen}; server_name {name}; return 200 \"{text}\"; }}\n")
        };
        let blocks: String = NAMES.iter().map(|name| server("", name, name)).collect();
        let blocks = server("default_server", "_", "default") + &blocks;
        let Some(nginx) = Nginx::start_beside("names", &blocks, "return 404;").await else { return };
        let names = NAMES.iter().map(|name| (Some(*name), PathPattern::Prefix("/"), 0, *name));
        let table = RouteTable::new(names.chain([(None, PathPattern::Prefix("/"), 0, "default")])).unwrap();
        for host in [
            "example.org",
            "EXAMPLE.org:8080",
            "example.org.",
            "a.example.org",
            "a.b.example.org",
            "x.eu.example.org",
            "eu.example.org",
            "chat.example.org",
            "chat.example.com",
            "chat.example.co.uk",
            "chat.com",
            "chat",
            "other.org",
            "org",
            "example.com",
            "www.example.org",
            "www.example.com",
            "localhost",
            "192.0.2.1",
            "[::1]:80",
        ] {
            let mut stream = UnixStream::connect(nginx.directory.join("names")).await.unwrap();
            let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let (_, theirs) = answer.split_once("\r\n\r\n").unwrap();
            assert_eq!(ours(&table, host, "/").1, theirs, "{host}");
        }
    });
}
