//! A real nginx as the upstream.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Gateway, get};
use tidegate_testkit::{PATIENCE, local};
use tokio::net::TcpStream;

struct Nginx {
    process: Child,
    directory: PathBuf,
    address: std::net::SocketAddr,
}

impl Nginx {
    /// `None`, said aloud, if nginx is not installed.
    async fn start(name: &str, locations: &str) -> Option<Self> {
        let Some(program) = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|path| Path::new(path).exists())
        else {
            println!("skipped: nginx is not installed");
            return None;
        };
        let directory = std::env::temp_dir().join(format!("tidegate-nginx-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("file"), vec![b'f'; 3_000_000]).unwrap();
        // Another process may take the port before nginx does: then it exits, and another port is tried.
        for _ in 0..10 {
            let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let here = directory.display();
            let config = format!(
                "daemon off; master_process off; pid {here}/pid; error_log {here}/error;\n\
                 events {{ worker_connections 256; }}\n\
                 http {{ access_log off; client_body_temp_path {here}/b; proxy_temp_path {here}/p; fastcgi_temp_path {here}/f;\n\
                 uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;\n\
                 server {{ listen {address}; {} }} }}",
                locations.replace("HERE", &here.to_string())
            );
            std::fs::write(directory.join("conf"), config).unwrap();
            let mut process = Command::new(program)
                .args(["-c", directory.join("conf").to_str().unwrap()])
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let deadline = std::time::Instant::now() + PATIENCE;
            while process.try_wait().unwrap().is_none() && std::time::Instant::now() < deadline {
                // It writes the file once it has the port: who answers there is not somebody else.
                let pid = std::fs::read_to_string(directory.join("pid")).unwrap_or_default();
                if pid.trim() == process.id().to_string() && TcpStream::connect(address).await.is_ok() {
                    return Some(Self { process, directory, address });
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let _ = process.kill();
            let _ = process.wait();
        }
        panic!("nginx does not start");
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

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
