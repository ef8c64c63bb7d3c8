//! A real nginx as the upstream.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use common::nginx::Nginx;
use common::{Gateway, get};
use tidegate_testkit::local;

#[test]
fn requests_reach_a_real_nginx_and_come_back() {
    local(async {
        let locations = "keepalive_requests 3; client_max_body_size 10m;
            location = /echo { return 200 \"$request_method $request_uri $http_host $http_x_forwarded_for $http_x_request_id\"; }
            location = /file { root HERE; }
            location = /moved { return 301 /file; }
            location = /missing { return 404; }";
        let Some(nginx) = Nginx::start("plain", locations).await else { return };
        let gateway = Gateway::to(&[nginx.address]).await;
        let mut client = gateway.client().await;
        // nginx closes each connection after three requests: none of these may be lost.
        for number in 0..20 {
            let response = client.request(get(&format!("/echo?{number}"))).await;
            assert_eq!(response.text(), format!("GET /echo?{number} example.org 127.0.0.1 request-1"));
        }
        let file = client.request(get("/file")).await;
        assert_eq!((file.body.len(), file.complete), (3_000_000, true));
        assert!(file.body.iter().all(|byte| *byte == b'f'));
        let etag = file.field("etag").unwrap().to_owned();
        let request = format!("GET /file HTTP/1.1\r\nHost: a\r\nIf-None-Match: {etag}\r\n\r\n");
        assert_eq!(client.request(request).await.status(), 304);
        let range = client.request("GET /file HTTP/1.1\r\nHost: a\r\nRange: bytes=10-19\r\n\r\n").await;
        assert_eq!((range.status(), range.text().as_str()), (206, "ffffffffff"));
        client.send("HEAD /file HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = client.message(true).await.unwrap();
        assert_eq!((head.status(), head.field("content-length")), (200, Some("3000000")));
        assert_eq!(client.request(get("/moved")).await.status(), 301);
        assert_eq!(client.request(get("/missing")).await.status(), 404);
        assert!(gateway.ended(25).await.iter().all(|summary| summary.error.is_none()));
    });
}

#[test]
fn compressed_and_chunked_responses_of_nginx_are_passed_on_as_they_are() {
    local(async {
        let locations = "gzip on; gzip_min_length 1; gzip_types *; location = /file { root HERE; }";
        let Some(nginx) = Nginx::start("gzip", locations).await else { return };
        let gateway = Gateway::to(&[nginx.address]).await;
        let mut client = gateway.client().await;
        let response = client.request("GET /file HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n").await;
        assert_eq!(response.field("content-encoding"), Some("gzip"));
        assert_eq!(response.field("transfer-encoding"), Some("chunked"));
        assert!(response.complete && response.body.starts_with(&[0x1f, 0x8b]));
        assert_eq!(client.request(get("/file")).await.body.len(), 3_000_000, "and the connection goes on");
    });
}
