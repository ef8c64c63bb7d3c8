//! Two gateways that count one rate together, through a real Redis.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use tidegate_testkit::redis::RedisServer;

use crate::harness::{Process, binary};
use crate::raw;

const RATE: f64 = 20.0;
const BURST: f64 = 10.0;
/// For how long a client asks as fast as it can.
const SPAN: Duration = Duration::from_secs(3);

struct Gateways {
    redis: RedisServer,
    addresses: Vec<SocketAddr>,
    processes: Vec<Process>,
    _folder: tempfile::TempDir,
}

impl Gateways {
    fn start() -> Self {
        let (redis, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
        let file = folder.path().join("tidegate.toml");
        let config = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[log]\naccess = \"off\"\n\
             [cluster]\nredis = \"redis://{}\"\nsecret = \"a secret of all nodes, of more than 32 bytes\"\n\
             [limit.api]\nkey = \"{{header.x-user}}\"\nrate = \"{RATE}r/s\"\nburst = {BURST}\nnodelay = true\nshared = true\n\
             [[route]]\npath = \"/\"\nrespond = {{ status = 204 }}\nlimits = [\"api\"]\n",
            redis.address()
        );
        std::fs::write(&file, config).unwrap();
        let start = |_| Process::start(Command::new(binary()).arg("run").arg("--config").arg(&file));
        let mut processes: Vec<_> = (0..2).map(start).collect();
        let addresses = processes.iter_mut().map(|process| process.said("listening on http://")).collect();
        // One for who is whom, one for the counts.
        let connected = |process: &Process| process.output().matches("connected to Redis").count() >= 2;
        let end = Instant::now() + raw::PATIENCE;
        while !processes.iter().all(connected) {
            assert!(Instant::now() < end, "no connection to Redis:\n{}", processes[0].output());
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { redis, addresses, processes, _folder: folder }
    }

    /// A client uses both in turn, as fast as it can. How many of its requests each let through, and in which time, s.
    fn hammer(&self, user: &str) -> ([f64; 2], f64) {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\nConnection: close\r\n\r\n");
        let (mut passed, begun) = ([0.0; 2], Instant::now());
        while begun.elapsed() < SPAN {
            for (passed, address) in passed.iter_mut().zip(&self.addresses) {
                match raw::exchange(*address, request.as_bytes()).status {
                    204 => *passed += 1.0,
                    429 => {}
                    status => panic!("{status}:\n{}", self.processes[0].output()),
                }
            }
        }
        (passed, begun.elapsed().as_secs_f64())
    }
}

#[test]
fn a_client_of_two_gateways_gets_one_rate_and_that_of_each_while_redis_is_gone() {
    let mut gateways = Gateways::start();
    let ([one, other], time) = gateways.hammer("ada");
    // docs/limits.md, with a second in place of 50 ms: the machine may be busy with other tests.
    let most = BURST + 1.0 + RATE * time + (BURST + 1.0 + RATE);
    let both = one + other;
    assert!(both <= most, "{one} and {other} in {time} s, {most} at the most");
    assert!(both >= RATE * time / 2.0, "{one} and {other} in {time} s: far too few");
    gateways.redis.kill_9();
    let ([one, other], time) = gateways.hammer("bob");
    let most = BURST + 1.0 + RATE * time;
    for passed in [one, other] {
        assert!(passed <= most, "{passed} in {time} s, {most} at the most");
        assert!(passed >= most * 0.75, "{passed} in {time} s: not the whole rate of {most}");
    }
}
