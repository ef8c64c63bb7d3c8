//! A real nginx.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tidegate_testkit::PATIENCE;
use tokio::net::TcpStream;

pub struct Nginx {
    process: Child,
    pub directory: PathBuf,
    pub address: std::net::SocketAddr,
}

impl Nginx {
    /// `None`, said aloud, if nginx is not installed.
    pub async fn start(name: &str, locations: &str) -> Option<Self> {
        Self::start_beside(name, "", locations).await
    }

    /// As `start`, with other blocks (`upstream`, `server`) beside the server.
    pub async fn start_beside(name: &str, blocks: &str, locations: &str) -> Option<Self> {
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
                 {} server {{ listen {address}; {} }} }}",
                blocks.replace("HERE", &here.to_string()),
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
