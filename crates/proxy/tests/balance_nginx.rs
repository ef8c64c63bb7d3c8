//! The choices of a real nginx beside those of `tidegate_balance`: the same servers, the same clients, the same keys.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use common::nginx::Nginx;
use tidegate_balance::{Algorithm, Asked, Duty, Group, Member, PeerSettings, Tried};
use tidegate_testkit::{PATIENCE, RawClient, Upstream, local};

const NOW: u64 = 86_400_000;

/// A server of both: what it is to nginx, and what to us.
#[derive(Clone)]
struct Backend {
    address: String,
    directive: String,
    settings: PeerSettings,
    refuses: bool,
}

fn backend(address: impl ToString, weight: u32) -> Backend {
    // Nobody is tried twice within a test, however long it takes.
    let settings = PeerSettings { weight, fail_timeout_ms: 3_600_000, ..PeerSettings::default() };
    let directive = format!("weight={weight} fail_timeout=3600s");
    Backend { address: address.to_string(), directive, settings, refuses: false }
}

impl Backend {
    fn backup(mut self) -> Self {
        self.directive += " backup";
        self.settings.backup = true;
        self
    }

    fn down(mut self) -> Self {
        self.directive += " down";
        self.settings.duty = Duty::Down;
        self
    }

    fn max_conns(mut self, count: u32) -> Self {
        self.directive += &format!(" max_conns={count}");
        self.settings.max_conns = count;
        self
    }

    fn refuses(mut self) -> Self {
        self.refuses = true;
        self
    }
}

/// A request: who asks, for what, and whether it is answered before the next one comes.
#[derive(Clone)]
struct Question {
    client: IpAddr,
    key: String,
    held: bool,
}

fn questions(count: u32) -> Vec<Question> {
    (0..count)
        .map(|number| {
            let mixed = number.wrapping_mul(0x9e37_79b9);
            let v4 = Ipv4Addr::from(mixed);
            let v6 = Ipv6Addr::from((u128::from(mixed) << 80) | u128::from(mixed.rotate_left(9)));
            let client = if number % 3 == 0 { v6.into() } else { v4.into() };
            Question { client, key: format!("room-{mixed:x}"), held: false }
        })
        .collect()
}

/// Servers that say who they are; those asked for `/hold` note it and never answer.
struct Backends {
    servers: Vec<Upstream>,
    arrivals: Rc<RefCell<Vec<usize>>>,
}

impl Backends {
    async fn start(count: usize) -> Self {
        let arrivals: Rc<RefCell<Vec<usize>>> = Rc::default();
        let mut servers = Vec::new();
        for index in 0..count {
            let arrivals = arrivals.clone();
            let serve = move |mut peer: RawClient, _, _| {
                let arrivals = arrivals.clone();
                async move {
                    while let Some(request) = peer.message(false).await {
                        arrivals.borrow_mut().push(index);
                        if !request.start.contains("/hold") {
                            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{index}")).await;
                        }
                    }
                }
            };
            servers.push(Upstream::script(serve).await);
        }
        Self { servers, arrivals }
    }

    fn at(&self, index: usize) -> SocketAddr {
        self.servers[index].address()
    }

    /// Where each request ended up behind nginx; `None`: nowhere.
    async fn ask(&self, nginx: &Nginx, questions: &[Question]) -> Vec<Option<usize>> {
        let mut held = Vec::new();
        let mut answers = Vec::new();
        for Question { client: ip, key, held: hold } in questions {
            let mut client = RawClient::connect(nginx.address).await;
            let path = if *hold { "/hold" } else { "/" };
            let request = format!("GET {path}?key={key} HTTP/1.1\r\nHost: a\r\nX-Real-IP: {ip}\r\n\r\n");
            if *hold {
                let before = self.arrivals.borrow().len();
                client.send(request).await;
                let deadline = std::time::Instant::now() + PATIENCE;
                while self.arrivals.borrow().len() == before {
                    assert!(std::time::Instant::now() < deadline, "the request does not arrive");
                    tokio::task::yield_now().await;
                }
                answers.push(self.arrivals.borrow().last().copied());
                held.push(client);
            } else {
                let response = client.request(request).await;
                answers.push((response.status() == 200).then(|| response.text().parse().unwrap()));
            }
        }
        answers
    }
}

/// Where each request ends up behind us.
fn ours(algorithm: Algorithm, backends: &[Backend], questions: &[Question]) -> Vec<Option<usize>> {
    let members = backends.iter().map(|backend| Member {
        server: backend.address.as_str().into(),
        address: backend.address.as_str().into(),
        settings: backend.settings,
    });
    let mut group = Group::of(algorithm, members, 1);
    let mut answers = Vec::new();
    for Question { client, key, held } in questions {
        let asked = Asked { client: *client, key: key.as_bytes(), stick: b"" };
        let mut tried = Tried::default();
        answers.push(loop {
            let Some(index) = group.pick(&asked, &mut tried, NOW) else { break None };
            let refused = backends[index].refuses;
            if refused {
                group.failed(group.id(index).unwrap(), NOW);
            }
            if refused || !held {
                group.load(index).unwrap().release();
            }
            if !refused {
                break Some(index);
            }
        });
    }
    answers
}

async fn compare(
    name: &str,
    directive: &str,
    algorithm: Algorithm,
    backends: &Backends,
    mut servers: Vec<Backend>,
    questions: &[Question],
) -> Option<Vec<Option<usize>>> {
    let list: String =
        servers.iter().map(|server| format!("server {} {};", server.address, server.directive)).collect();
    let socket = "server { listen unix:HERE/socket; return 200 \"9\"; }";
    let blocks = format!("upstream group {{ {directive} {list} }} {socket}");
    let locations = "set_real_ip_from 127.0.0.1; real_ip_header X-Real-IP;
        location / { proxy_pass http://group; proxy_next_upstream_tries 0; }";
    let nginx = Nginx::start_beside(name, &blocks, locations).await?;
    for server in &mut servers {
        server.address = server.address.replace("HERE", &nginx.directory.display().to_string());
    }
    let theirs = backends.ask(&nginx, questions).await;
    let unix = servers.iter().position(|server| server.address.starts_with("unix:"));
    let theirs: Vec<_> = theirs.into_iter().map(|index| if index == Some(9) { unix } else { index }).collect();
    assert_eq!(ours(algorithm, &servers, questions), theirs, "{name}");
    Some(theirs)
}

/// As many as servers took part.
fn spread(answers: &[Option<usize>]) -> usize {
    answers.iter().collect::<std::collections::HashSet<_>>().len()
}

#[test]
fn round_robin_goes_round_as_in_nginx() {
    local(async {
        let all = Backends::start(4).await;
        let nobody = Upstream::nobody().await;
        let servers = vec![
            backend(all.at(0), 5),
            backend(all.at(1), 1).backup(),
            backend(all.at(2), 2).down(),
            backend(all.at(3), 1),
            backend(nobody, 3).refuses(),
        ];
        let answers = compare("round", "", Algorithm::RoundRobin, &all, servers, &questions(40)).await;
        assert!(answers.is_none_or(|answers| spread(&answers) == 2));
        let servers =
            vec![backend(nobody, 1).refuses(), backend(all.at(1), 2).backup(), backend(all.at(2), 1).backup()];
        let answers = compare("backup", "", Algorithm::RoundRobin, &all, servers, &questions(12)).await;
        assert!(answers.is_none_or(|answers| spread(&answers) == 2));
    });
}

#[test]
fn a_full_server_is_passed_over_as_in_nginx() {
    local(async {
        let all = Backends::start(3).await;
        let servers = vec![
            backend(all.at(0), 3).max_conns(2),
            backend(all.at(1), 1).max_conns(3),
            backend(all.at(2), 1).backup(),
        ];
        let questions: Vec<_> = questions(9).into_iter().map(|question| Question { held: true, ..question }).collect();
        let answers = compare("full", "", Algorithm::RoundRobin, &all, servers.clone(), &questions).await;
        assert!(answers.is_none_or(|answers| spread(&answers) == 3));
        compare("full-least", "least_conn;", Algorithm::LeastConn, &all, servers, &questions).await;
    });
}

#[test]
fn least_conn_chooses_as_nginx_does() {
    local(async {
        let all = Backends::start(4).await;
        let servers =
            vec![backend(all.at(0), 3), backend(all.at(1), 1), backend(all.at(2), 2), backend(all.at(3), 1).backup()];
        let mut questions = questions(60);
        for (number, question) in questions.iter_mut().enumerate() {
            question.held = number % 5 < 3;
        }
        let answers = compare("least", "least_conn;", Algorithm::LeastConn, &all, servers, &questions).await;
        assert!(answers.is_none_or(|answers| spread(&answers) == 3));
    });
}

#[test]
fn ip_hash_chooses_as_nginx_does() {
    local(async {
        let all = Backends::start(3).await;
        let nobody = Upstream::nobody().await;
        let servers = vec![
            backend(all.at(0), 3),
            backend(all.at(1), 1),
            backend(all.at(2), 2),
            backend(nobody, 2).refuses(),
            backend(nobody, 4).down(),
        ];
        let answers = compare("address", "ip_hash;", Algorithm::IpHash, &all, servers, &questions(80)).await;
        assert!(answers.is_none_or(|answers| spread(&answers) == 3));
    });
}

#[test]
fn a_plain_hash_chooses_as_nginx_does() {
    local(async {
        let all = Backends::start(3).await;
        let nobody = Upstream::nobody().await;
        let servers = vec![
            backend(all.at(0), 3),
            backend(all.at(1), 1),
            backend(all.at(2), 2),
            backend(nobody, 2).refuses(),
            backend(nobody, 30).down(),
        ];
        let answers = compare("hash", "hash $arg_key;", Algorithm::Hash, &all, servers, &questions(80)).await;
        assert!(answers.is_none_or(|answers| spread(&answers) == 3));
    });
}

#[test]
fn a_consistent_hash_chooses_as_nginx_does() {
    local(async {
        let all = Backends::start(3).await;
        let nobody = Upstream::nobody().await;
        let servers = vec![
            backend(all.at(0), 3),
            backend(all.at(1), 1),
            backend(all.at(2), 2),
            backend(nobody, 2).refuses(),
            backend("unix:HERE/socket", 2),
            backend("127.0.0.1:1", 1).down(),
        ];
        let ring = Algorithm::ConsistentHash { load_factor: 0 };
        let answers = compare("ring", "hash $arg_key consistent;", ring, &all, servers, &questions(150)).await;
        assert!(answers.is_none_or(|answers| spread(&answers) == 4));
    });
}
