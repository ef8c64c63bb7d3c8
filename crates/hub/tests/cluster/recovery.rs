//! Coming back, hearing, dying.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::*;

impl Client {
    /// A message has its place after everything that the client has seen, in its room and in all of them.
    pub fn hear(&mut self, publication: &Arc<Publication>, ever: &[Arc<Publication>]) {
        let position = publication.position.unwrap();
        let cursor = self.cursor.unwrap();
        if cursor.epoch == position.epoch {
            assert!(publication.seq > cursor.seq, "seq {} after cursor {cursor}", publication.seq);
        }
        self.cursor = publication.session_offset();
        let seen = self.rooms.get_mut(&publication.room).expect("a message before the join was answered");
        let same = |of: &Publication| of.room == publication.room && of.position.unwrap().epoch == position.epoch;
        let before = |of: &&Arc<Publication>| same(of) && of.seq <= seen.joined_seq;
        let skipped = ever.iter().filter(before).map(|of| of.position.unwrap().offset).max().unwrap_or(0);
        let after_all = seen.before_gap.take().is_some_and(|before| position.offset == before.max(skipped) + 1);
        let next = seen.offset.max(skipped) + 1;
        assert!(position.offset == next || after_all, "{} is not {next} of {}", position.offset, publication.room);
        seen.offset = position.offset;
    }
}

impl World {
    pub fn come_back(&mut self, client: usize, node: usize) {
        if self.clients[client].coming_back.is_some() {
            return;
        }
        // It has left its connection, whether or not that node knows.
        self.clients[client].socket = None;
        let Some(pid) = self.clients[client].pid.clone() else { return };
        let conn = self.conn(client);
        let now = self.nodes[node].now;
        let live = self.nodes[node].space.live_holder(&pid, &user(client));
        match live {
            Some(old) => self.change(node, |space, fx| space.supersede(old, now, fx)),
            None => {
                let Some((record, as_of)) = self.broker.claim(self.nodes[node].id, &pid) else {
                    return self.start_afresh(client, node);
                };
                // Its former node hears of it, and ends what it still has.
                for other in 0..NODES {
                    if let Some(old) = self.nodes[other].space.live_holder(&pid, &user(client)) {
                        let now = self.nodes[other].now;
                        self.change(other, |space, fx| space.disconnect(old, true, now, fx));
                    }
                }
                self.change(node, |space, fx| space.claimed(record, as_of, now, fx));
            }
        }
        self.clients[client].coming_back = Some((node, conn));
        self.answer(node);
    }

    fn start_afresh(&mut self, client: usize, node: usize) {
        self.clients[client].coming_back = None;
        self.failed += 1;
        self.connect(client, node);
    }

    pub fn resume(&mut self, client: usize, node: usize, conn: ConnId, pid: &Pid) {
        self.clients[client].coming_back = None;
        let offset = self.clients[client].cursor.unwrap();
        let (name, now) = (user(client), self.nodes[node].now);
        let who = || Who { user: name.clone(), username: None };
        let mut resumed = self.change(node, |space, fx| space.resume(pid, offset, &name, conn, who(), None, now, fx));
        if let Resume::NeedHistory { reads } = resumed {
            let mut stored = Vec::new();
            for (room, after) in reads {
                let Some(mut read) = self.broker.read_seq(&room, after) else {
                    self.change(node, |space, fx| space.release_claim(pid, now, fx));
                    return self.start_afresh(client, node);
                };
                stored.append(&mut read);
            }
            resumed = self
                .change(node, |space, fx| space.resume_with(pid, offset, &name, conn, who(), None, stored, now, fx));
        }
        let Resume::Recovered { rooms, missed, seq, .. } = resumed else { return self.start_afresh(client, node) };
        self.recovered += 1;
        let of = &mut self.clients[client];
        let names: BTreeSet<_> = rooms.iter().map(|of| of.room.clone()).collect();
        assert!(of.rooms.keys().all(|room| names.contains(room)), "a room that it had joined is gone");
        // One that it left, or never heard it was in, without the server's knowing: it leaves it now.
        for publication in &missed {
            if of.rooms.contains_key(&publication.room) {
                of.hear(publication, &self.broker.ever);
            }
        }
        let epoch = self.nodes[node].space.epoch();
        of.cursor = Some(SessionOffset { epoch, seq });
        let members: BTreeMap<_, _> = rooms.iter().map(|of| (of.room_id, (of.room.clone(), of.after_seq))).collect();
        of.socket = Some(Socket { node, conn, members, joining: BTreeSet::new() });
        for Rejoined { room, .. } in rooms {
            match of.rooms.get_mut(&room) {
                Some(seen) => {
                    let users = self.nodes[node].space.presence(&room, 100).0.into_iter();
                    seen.users = users.map(|info| info.user_id).collect();
                }
                None => _ = of.socket.as_mut().unwrap().joining.insert(room),
            }
        }
        let unheard = of.socket.as_ref().unwrap().joining.clone();
        for room in unheard {
            self.leave(client, &room);
        }
    }

    pub fn hear(&mut self, node: usize) {
        let id = self.nodes[node].id;
        let Some(heard) = self.broker.lines.get_mut(&id).unwrap().heard.pop_front() else { return };
        let now = self.nodes[node].now;
        let received = self.change(node, |space, fx| match heard {
            Heard::Followed { room, epoch, as_of, head, leases } => {
                space.followed(&room, epoch, as_of, head, leases, now, fx)
            }
            Heard::Published(publication) => space.receive(publication, now, fx),
            Heard::Leased { room, node, user, info } => {
                space.leased(&room, node, &user, info, now, fx);
                Received::Taken
            }
            Heard::OutOfTouch => {
                space.out_of_touch();
                Received::Taken
            }
            Heard::CaughtUp { epoch, as_of, rooms } => {
                space.caught_up(epoch, as_of, rooms, now, fx);
                Received::Taken
            }
            Heard::LeasesEnded(room, node) => {
                space.leases_ended(&room, node, now, fx);
                Received::Taken
            }
        });
        match received {
            Received::Taken | Received::Stale | Received::NotFollowed => {}
            Received::Opening | Received::OutOfTouch => {}
            Received::Hole | Received::OtherEpoch => self.broker.catch_up(id),
        }
        self.answer(node);
    }

    /// The process ends at once; its clients find out by themselves.
    pub fn die(&mut self, node: usize) {
        for client in &mut self.clients {
            if client.socket.as_ref().is_some_and(|socket| socket.node == node) {
                client.socket = None;
            }
            if client.coming_back.is_some_and(|(of, _)| of == node) {
                // Nobody gives that session back.
                client.coming_back = None;
            }
        }
        self.broker.node_gone(self.nodes[node].id);
        self.nodes[node] = self.new_node(node);
    }
}
