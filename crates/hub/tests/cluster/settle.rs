//! When everything has been heard, everybody knows everything.

use super::*;

impl World {
    fn hear_all(&mut self) {
        for node in 0..NODES {
            let id = self.nodes[node].id;
            if self.broker.lines[&id].cut {
                self.broker.catch_up(id);
            }
            while !self.broker.lines[&id].heard.is_empty() {
                self.hear(node);
            }
        }
    }

    pub fn settle(&mut self) {
        // Presence goes out by ticks, is heard, and is shown by ticks.
        for _ in 0..8 {
            self.hear_all();
            for node in 0..NODES {
                self.apply(Command::Tick { node, ms: 150 });
            }
        }
        self.hear_all();
        self.check();
    }

    fn check(&mut self) {
        let mut truth: BTreeMap<RoomName, BTreeSet<UserId>> = BTreeMap::new();
        for node in &self.nodes {
            for name in (0..ROOMS).map(room) {
                let members = node.space.members_page(&name, None, 100).items;
                let here = members.into_iter().filter(|member| !member.connections.is_empty());
                truth.entry(name).or_default().extend(here.map(|member| member.presence.user_id));
            }
        }
        for (n, client) in self.clients.iter().enumerate() {
            assert!(client.coming_back.is_none(), "client {n} still waits");
            let Some(socket) = &client.socket else { continue };
            assert!(socket.joining.is_empty(), "client {n} still waits for {:?}", socket.joining);
            for (name, seen) in &client.rooms {
                assert_eq!(seen.offset, self.broker.head(name).offset, "client {n} has not all of {name}");
                assert_eq!(seen.users, truth[name], "client {n} knows who is in {name}");
            }
        }
        for node in &mut self.nodes {
            assert!(node.space.is_in_touch());
            assert_eq!(node.space.epoch(), self.broker.epoch);
            assert!(node.space.head_seq() <= self.broker.seq);
            for name in (0..ROOMS).map(room) {
                let follows = self.broker.lines[&node.id].follows.contains_key(&name);
                assert_eq!(follows, node.space.is_open(&name), "{name}");
                if follows {
                    let (listed, count) = node.space.presence(&name, 100);
                    let users: BTreeSet<_> = listed.into_iter().map(|info| info.user_id).collect();
                    assert_eq!(count, users.len());
                    assert_eq!(users, truth[&name], "{name} on {}", node.id);
                }
            }
        }
        self.check_status();
    }

    /// The same user looks the same from wherever somebody looks.
    fn check_status(&mut self) {
        for name in (0..ROOMS).map(room) {
            let mut seen: BTreeMap<UserId, Status> = BTreeMap::new();
            for node in &mut self.nodes {
                for info in node.space.presence(&name, 100).0 {
                    let status = *seen.entry(info.user_id.clone()).or_insert(info.status);
                    assert!(self.clients.iter().enumerate().any(|_| true));
                    assert_eq!(status, info.status, "{} in {name}", info.user_id);
                }
            }
        }
    }

    /// Everybody goes, and time passes: nothing is left.
    pub fn leave_nothing(&mut self) {
        for client in 0..CLIENTS {
            self.end(client, true);
        }
        for node in 0..NODES {
            // Connections that were left behind unnoticed end too.
            let page = self.nodes[node].space.connections_page(None, 100);
            let now = self.nodes[node].now;
            for left in page.items {
                self.change(node, |space, fx| space.disconnect(left.conn, true, now, fx));
            }
        }
        for _ in 0..4 {
            self.hear_all();
            for node in 0..NODES {
                self.apply(Command::Tick { node, ms: 20_000 });
            }
        }
        for node in &self.nodes {
            assert_eq!(self.broker.lines[&node.id].follows.len(), 0);
            assert_eq!(node.space.kept_sessions(), 0);
            assert_eq!(node.space.stats(), tidegate_hub::SpaceStats::default());
            for client in 0..CLIENTS {
                assert_eq!(node.space.presence_of(&user(client)), None);
            }
        }
    }
}
