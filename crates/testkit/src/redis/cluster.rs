use std::time::Instant;

use super::server::free_port;
use super::{RedisOptions, RedisServer};
use crate::PATIENCE;

/// A Redis Cluster: three primaries with a third of the slots each, and maybe replicas. It notices a dead node after a
/// second.
#[derive(Debug)]
pub struct RedisCluster {
    /// The nodes; first the primaries as they were at the begin, then their replicas in the same order.
    pub nodes: Vec<RedisServer>,
}

/// The slots of the first three nodes.
const RANGES: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];

impl RedisCluster {
    /// Three primaries, and a replica of each if there are to be `replicas`.
    pub fn start(options: &RedisOptions, replicas: bool) -> Self {
        let count = if replicas { 6 } else { 3 };
        let node = |_| {
            RedisServer::with(
                options
                    .clone()
                    .config("cluster-enabled yes")
                    .config(format!("cluster-port {}", free_port()))
                    .config("cluster-node-timeout 1000")
                    .config("cluster-replica-validity-factor 0")
                    .config("repl-diskless-sync-delay 0"),
            )
        };
        let cluster = Self { nodes: (0..count).map(node).collect() };
        for (index, node) in cluster.nodes.iter().enumerate() {
            // Two nodes that claim the same epoch would first have to sort that out.
            node.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
        }
        for (node, (first, last)) in cluster.nodes.iter().zip(RANGES) {
            node.cli(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
        }
        let (first, others) = cluster.nodes.split_first().expect("nodes");
        for other in others {
            let bus = other.cli(&["CONFIG", "GET", "cluster-port"]);
            let bus = bus.lines().last().expect("a port");
            first.cli(&["CLUSTER", "MEET", "127.0.0.1", &other.port().to_string(), bus]);
        }
        cluster.wait("all know each other", |node| {
            node.cli(&["CLUSTER", "NODES"]).lines().count() == count
                && !node.cli(&["CLUSTER", "NODES"]).contains("handshake")
        });
        for (primary, replica) in cluster.nodes.iter().zip(cluster.nodes.iter().skip(3)) {
            replica.cli(&["CLUSTER", "REPLICATE", &primary.cli(&["CLUSTER", "MYID"])]);
        }
        cluster.wait("the cluster is whole", |node| node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok"));
        if replicas {
            cluster.wait("all replicas follow", |node| {
                let info = node.cli(&["INFO", "replication"]);
                info.contains("role:master") && info.contains("state=online") || info.contains("master_link_status:up")
            });
            cluster.wait("all know the replicas", |node| {
                node.cli(&["CLUSTER", "NODES"]).lines().filter(|line| line.contains("slave")).count() == 3
            });
        }
        cluster
    }

    fn node(&self, index: usize) -> &RedisServer {
        self.nodes.get(index).expect("a node")
    }

    /// Waits until all running nodes are so.
    pub fn wait(&self, what: &str, is_so: impl Fn(&RedisServer) -> bool) {
        let begin = Instant::now();
        while !self.nodes.iter().filter(|node| node.is_running()).all(&is_so) {
            assert!(begin.elapsed() < PATIENCE, "waited too long until {what}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// The index of the primary of a slot, as the cluster was at the begin.
    pub fn owner(slot: u16) -> usize {
        RANGES.iter().position(|(first, last)| (*first..=*last).contains(&slot)).expect("a slot")
    }

    /// Gives an empty slot to another primary, as `redis-cli --cluster reshard` does.
    pub fn move_slot(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let id = |index: usize| self.node(index).cli(&["CLUSTER", "MYID"]);
        let (source, target) = (id(from), id(to));
        self.node(to).cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]);
        self.node(from).cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]);
        self.node(to).cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &target]);
        self.node(from).cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &target]);
    }
}
