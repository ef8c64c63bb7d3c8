use std::time::Instant;

use super::{RedisOptions, RedisServer};
use crate::PATIENCE;

/// A primary, a replica, and Sentinels that make the replica the primary a second after the primary has died.
#[derive(Debug)]
pub struct RedisSentinel {
    /// The primary at the begin, and its replica.
    pub servers: Vec<RedisServer>,
    /// Those that watch.
    pub sentinels: Vec<RedisServer>,
}

impl RedisSentinel {
    /// What the Sentinels call the primary.
    pub const SERVICE: &str = "main";

    /// The user that the Sentinels are to the servers, and their password.
    pub const WATCHER: &str = "watcher";

    /// `options` are those of the servers; `sentinel_password` is what the Sentinels want to be told.
    pub fn start(options: &RedisOptions, sentinels: usize, sentinel_password: Option<&str>) -> Self {
        let watcher = format!("user {0} on >{0} allkeys allchannels +@all", Self::WATCHER);
        let options = options.clone().config("repl-diskless-sync-delay 0").config(watcher);
        let primary = RedisServer::with(options.clone());
        let replica = RedisServer::with(options.clone().config(format!("replicaof 127.0.0.1 {}", primary.port())));
        wait("the replica follows", || replica.cli(&["INFO", "replication"]).contains("master_link_status:up"));
        let service = Self::SERVICE;
        let mut watching =
            RedisOptions { program: options.program, tls: options.tls.clone(), ..RedisOptions::default() }
                .config(format!("sentinel monitor {service} 127.0.0.1 {} {}", primary.port(), sentinels / 2 + 1))
                .config(format!("sentinel down-after-milliseconds {service} 1000"))
                .config(format!("sentinel failover-timeout {service} 3000"))
                .config(format!("sentinel auth-user {service} {}", Self::WATCHER))
                .config(format!("sentinel auth-pass {service} {}", Self::WATCHER));
        if let Some(password) = sentinel_password {
            watching = watching.config(format!("requirepass {password}"));
        }
        let sentinels: Vec<_> = (0..sentinels).map(|_| RedisServer::spawn(watching.clone(), true)).collect();
        let ask = |sentinel: &RedisServer| {
            let password = sentinel_password.map(|password| ["--no-auth-warning", "-a", password]);
            let mut arguments = password.map(Vec::from).unwrap_or_default();
            arguments.extend(["SENTINEL", "MASTER", service]);
            sentinel.cli(&arguments)
        };
        let others = (sentinels.len() - 1).to_string();
        let knows = |text: &str, name: &str, value: &str| {
            let mut lines = text.lines().skip_while(|line| *line != name);
            lines.nth(1) == Some(value)
        };
        wait("the Sentinels know all", || {
            sentinels
                .iter()
                .map(ask)
                .all(|text| knows(&text, "num-other-sentinels", &others) && knows(&text, "num-slaves", "1"))
        });
        Self { servers: vec![primary, replica], sentinels }
    }

    /// Makes the Sentinels believe that the first server is dead, while everybody else still reaches it. The servers must have
    /// a password: without one the Sentinels need no user.
    pub fn blind(&self) {
        let primary = self.servers.first().expect("a primary");
        primary.cli(&["ACL", "SETUSER", Self::WATCHER, "off"]);
        primary.cli(&["CLIENT", "KILL", "USER", Self::WATCHER]);
    }
}

fn wait(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "waited too long until {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
