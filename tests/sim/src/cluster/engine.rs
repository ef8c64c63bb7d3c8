//! What the broker's engine does: the counters are looked at before anything is written over a connection, answers and
//! what is published go to the spaces, and what the spaces want is asked for.

use std::collections::BTreeSet;

use tidegate_cluster::Heard;
use tidegate_cluster::model::{Life, Push};
use tidegate_hub::{Effects, Pid, Received, Space, SpaceStart};
use tidegate_types::{NodeId, RoomName, UserId};

use super::Sabotage;
use super::ground::{Ground, ToClient};
use super::node::{FromChannel, Node, Purpose, config};
use super::redis::{Answer, Request};
use tidegate_cluster::redis::{Following, Found, Step};

/// How often a call is made again that was told to look at the space first.
const MOST_TRIES: u32 = 3;

impl Node {
    /// Lets a space take a step, and carries out what it wants.
    pub fn following(&mut self, g: &mut Ground, space: usize, step: impl FnOnce(&mut Following, &mut Vec<Step>)) {
        let Some(of) = self.spaces.get_mut(space) else { return };
        let mut wanted = Vec::new();
        step(&mut of.following, &mut wanted);
        for what in wanted {
            self.act(g, space, what);
        }
    }

    fn act(&mut self, g: &mut Ground, space: usize, what: Step) {
        match what {
            Step::Heard(heard) => self.heard(g, space, heard),
            Step::Subscribe(room) => self.wish(g, space, room, true),
            Step::Unsubscribe(room) => self.wish(g, space, room, false),
            Step::Touch { attempt, later: true } => self.touch_later(g, space, attempt),
            Step::Touch { attempt, later: false } => self.touch(g, space, Some(attempt)),
            Step::Look { room, mark } => {
                self.ready(g, space);
                let request = Request::Look { space, room: room.clone(), mark: Some(mark), after: None };
                self.call(g, request, Purpose::Look { space, room, mark });
            }
            Step::Read { room, after, attempt } => {
                self.ready(g, space);
                let request = Request::Look { space, room: room.clone(), mark: None, after: Some(after) };
                self.call(g, request, Purpose::Read { space, room, attempt });
            }
            Step::OwnLeases { room, kept } => self.own_leases(g, space, &room, &kept),
            Step::Corrupt => g.check(Err("what came over a channel cannot be".to_owned())),
        }
    }

    fn wish(&mut self, g: &mut Ground, space: usize, room: Option<RoomName>, begins: bool) {
        if let Some(link) = self.link.as_mut().filter(|link| !link.is_cut) {
            link.wishes.send((space, room, begins), g.now, &mut g.rng);
        }
    }

    fn touch_later(&mut self, g: &Ground, space: usize, attempt: u64) {
        if let Some(of) = self.spaces.get_mut(space) {
            of.touch_at = Some((g.now + 250, attempt));
        }
    }

    pub fn ready(&mut self, g: &mut Ground, space: usize) {
        if self.link.is_some() && self.spaces.get(space).is_some_and(|of| !of.touched) {
            self.touch(g, space, None);
        }
    }

    pub fn touch(&mut self, g: &mut Ground, space: usize, attempt: Option<u64>) {
        if self.link.is_none() {
            if let Some(attempt) = attempt {
                self.touch_later(g, space, attempt);
            }
            return;
        }
        let Some(of) = self.spaces.get_mut(space) else { return };
        of.touched = true;
        let seen = of.seen;
        self.call(g, Request::Touch { space, seen }, Purpose::Touch { space, attempt });
    }

    pub fn connected(&mut self, g: &mut Ground) {
        self.is_member = false;
        for space in 0..self.spaces.len() {
            if let Some(of) = self.spaces.get_mut(space) {
                of.touched = false;
            }
            // What this node has seen is compared before anybody can hide a loss by going on.
            self.ready(g, space);
            if g.sabotage == Sabotage::CutsIgnored && self.subscribe_again(g, space) {
                continue;
            }
            self.following(g, space, Following::found);
        }
        let writes: Vec<Request> = self.unsaved.iter().cloned().collect();
        for write in writes {
            self.call(g, write, Purpose::Save);
        }
    }

    /// As if nothing had been missed. False: there was nothing to subscribe to yet.
    fn subscribe_again(&mut self, g: &mut Ground, space: usize) -> bool {
        let rooms = self.spaces.get(space).into_iter().flat_map(|of| of.following.rooms().cloned());
        let rooms: Vec<RoomName> = rooms.collect();
        let is_again = !rooms.is_empty();
        for room in rooms.into_iter().map(Some).chain(is_again.then_some(None)) {
            self.wish(g, space, room, true);
        }
        is_again
    }

    /// The connection to the broker has ended.
    pub fn disconnected(&mut self, g: &mut Ground) {
        if g.sabotage != Sabotage::CutsIgnored {
            for space in 0..self.spaces.len() {
                self.following(g, space, Following::lost);
            }
        }
        for purpose in std::mem::take(&mut self.purposes).into_values() {
            self.failed(g, purpose);
        }
    }

    pub fn failed(&mut self, g: &mut Ground, purpose: Purpose) {
        match purpose {
            Purpose::Touch { space, attempt } => {
                self.following(g, space, |of, out| of.touched(attempt, None, out));
            }
            Purpose::Look { space, room, mark } => {
                self.following(g, space, |of, out| of.looked(&room, mark, None, out));
            }
            Purpose::Read { space, room, attempt } => {
                self.following(g, space, |of, out| of.read(&room, attempt, None, out));
            }
            Purpose::Publish { link, ask, .. } => g.send_down(link, ToClient::Refused { ask }),
            Purpose::Claim { pid } | Purpose::Log { pid } => self.comeback_failed(g, &pid),
            // Made again when there is a connection.
            Purpose::Nothing | Purpose::Lease { .. } | Purpose::Save | Purpose::Beat => {}
        }
    }

    pub fn answered(&mut self, g: &mut Ground, call: u64, answer: Answer) {
        let Some(purpose) = self.purposes.remove(&call) else { return };
        match (purpose, answer) {
            (Purpose::Touch { space, attempt }, Answer::Touched(life)) => self.touched(g, space, attempt, life),
            (Purpose::Look { space, room, mark }, answer) => {
                let found = self.found(space, answer);
                self.following(g, space, |of, out| of.looked(&room, mark, found, out));
            }
            (Purpose::Read { space, room, attempt }, answer) => {
                let found = self.found(space, answer);
                self.following(g, space, |of, out| of.read(&room, attempt, found, out));
            }
            (Purpose::Publish { link, ask, again, tries }, Answer::OtherRun) if tries < MOST_TRIES => {
                if let Request::Publish { space, .. } = &*again {
                    self.other_run(g, *space);
                }
                let request = (*again).clone();
                self.call(g, request, Purpose::Publish { link, ask, again, tries: tries + 1 });
            }
            (Purpose::Publish { link, ask, again, .. }, Answer::Placed(placed)) => {
                let (epoch, seq) = (placed.position.epoch, placed.seq);
                if let Request::Publish { space, .. } = &*again {
                    self.see(*space, epoch, seq);
                    if let Some(truth) = g.truths.get_mut(*space) {
                        truth.acked(self.id, epoch, seq);
                    }
                }
                g.send_down(link, ToClient::Acked { ask });
            }
            (Purpose::Lease { space, room, user }, _) => self.lease_told(space, &room, &user),
            (Purpose::Save, answer) => {
                self.unsaved.pop_front();
                self.saved += 1;
                if let Answer::Saved { pid, is_ours: false } = answer {
                    // Its client has come back elsewhere: what is answered here would not be kept.
                    self.taken_over(g, &pid);
                }
                self.session_saved(g);
            }
            (Purpose::Claim { pid }, Answer::Claimed(claimed)) => {
                self.claimed(g, &pid, claimed.map(|claimed| *claimed))
            }
            (Purpose::Claim { pid }, _) => {
                let tenant = self.comebacks.iter().find(|of| of.pid == pid).map(|of| of.tenant);
                if let Some(tenant) = tenant {
                    self.other_run(g, tenant);
                }
                self.comeback_failed(g, &pid);
            }
            (Purpose::Log { pid }, Answer::Log(found)) => self.history_read(g, &pid, found),
            (Purpose::Beat, Answer::Member(is_member, claimed)) => self.beaten(g, is_member, claimed),
            (other, _) => self.failed(g, other),
        }
    }

    /// Somebody has written the space in another life of the server than this connection's: look at it again.
    fn other_run(&mut self, g: &mut Ground, space: usize) {
        if let Some(of) = self.spaces.get_mut(space) {
            of.touched = false;
        }
        self.ready(g, space);
    }

    fn found(&mut self, space: usize, answer: Answer) -> Option<Found> {
        if let Answer::Found(found) = answer {
            self.see(space, found.0.life.epoch, found.0.life.seq);
            return Some(*found);
        }
        if let Some(of) = self.spaces.get_mut(space) {
            of.touched = false;
        }
        None
    }

    fn touched(&mut self, g: &mut Ground, space: usize, attempt: Option<u64>, life: Life) {
        self.see(space, life.epoch, life.seq);
        if let Some(seen) = self.spaces.get_mut(space).and_then(|of| of.seen.as_mut()) {
            seen.run = life.run;
        }
        if let (Some(of), Some(key)) = (self.spaces.get_mut(space), g.keys.get(space))
            && of.hub.is_none()
        {
            let start = SpaceStart { last_seq: life.seq, ..SpaceStart::fresh(life.epoch) };
            of.hub = Some(Space::new(std::sync::Arc::clone(key), config(), start));
        }
        self.following(g, space, |of, out| of.touched(attempt, Some((life.epoch, life.seq)), out));
    }

    pub fn pushed(&mut self, g: &mut Ground, push: FromChannel) {
        match push {
            FromChannel::Confirmed(space, room) => self.following(g, space, |of, out| of.confirmed(room, out)),
            FromChannel::Push(Push::Signal { body, .. }) => {
                self.taken_over(g, &Pid::from(&*String::from_utf8_lossy(&body)));
            }
            FromChannel::Push(push) => {
                let of = match &push {
                    Push::Published(publication) => &publication.space,
                    Push::Leased { space, .. } | Push::LeasesEnded { space, .. } | Push::Mark { space, .. } => space,
                    Push::Signal { .. } | Push::Gone(_) => return,
                };
                let Some(space) = g.keys.iter().position(|key| key == of) else { return };
                self.following(g, space, |of, out| of.push(push, out));
                let told = self.spaces.get(space).and_then(|of| Some((of.following.epoch()?, of.following.heard())));
                if let Some((epoch, seq)) = told {
                    self.see(space, epoch, seq);
                }
            }
        }
    }

    /// The session of a client that is connected here is another node's.
    fn taken_over(&mut self, g: &mut Ground, pid: &Pid) {
        let link = self.conns.iter().find(|(_, of)| of.pid.as_ref() == Some(pid)).map(|(link, _)| *link);
        let Some(link) = link else { return };
        self.close(g, link, false);
        let now = g.now;
        if let Some(of) = g.links.get_mut(link) {
            of.end(now, &mut g.rng);
        }
    }

    fn heard(&mut self, g: &mut Ground, space: usize, heard: Heard) {
        let now = self.wall(g);
        let mut fx = Effects::new();
        let Some(hub) = self.hub(space) else { return };
        let mut hole = false;
        match heard {
            Heard::Followed { room, epoch, as_of, head, leases, .. } => {
                let received = hub.followed(&room, epoch, as_of, head, leases, now, &mut fx);
                hole = matches!(received, Received::Hole | Received::OtherEpoch);
            }
            Heard::Published(publication) => {
                let received = hub.receive(publication, now, &mut fx);
                hole = matches!(received, Received::Hole | Received::OtherEpoch);
            }
            Heard::Leased { room, node, user, info, .. } => {
                hub.leased(&room, node, &user, info, now, &mut fx);
            }
            Heard::Signal { .. } | Heard::Connected(_) | Heard::NodeGone(_) => {}
            Heard::OutOfTouch { .. } => hub.out_of_touch(),
            Heard::CaughtUp { epoch, as_of, rooms, .. } => {
                hub.caught_up(epoch, as_of, rooms, now, &mut fx);
            }
            Heard::LeasesEnded { room, node, .. } => hub.leases_ended(&room, node, now, &mut fx),
        }
        self.carry_out(g, space, fx);
        if hole {
            self.following(g, space, Following::catch_up);
        }
        self.finish_joins(g, space);
    }

    /// What the broker has of this node's leases in a room is put right.
    fn own_leases(&mut self, g: &mut Ground, space: usize, room: &RoomName, kept: &[UserId]) {
        if g.sabotage == Sabotage::LeasesNotRepeated {
            return;
        }
        let Some(of) = self.spaces.get(space) else { return };
        let mine: Vec<UserId> = of.leases.keys().filter(|(of, _)| of == room).map(|(_, user)| user.clone()).collect();
        let missing = mine.iter().filter(|user| !kept.contains(user)).cloned();
        let ended = kept.iter().filter(|user| !mine.contains(user)).cloned();
        let wrong: Vec<UserId> = missing.chain(ended).collect();
        wrong.into_iter().for_each(|user| self.tell_lease(g, space, room.clone(), user));
    }

    /// Tells the broker what this node's lease is now.
    pub fn tell_lease(&mut self, g: &mut Ground, space: usize, room: RoomName, user: UserId) {
        let Some(of) = self.spaces.get_mut(space) else { return };
        let key = (room.clone(), user.clone());
        let info = of.leases.get(&key).cloned().map(Box::new);
        of.dirty.insert(key);
        if !self.is_member {
            // Said when it is one: what is held by none is taken back by nobody.
            return;
        }
        let request = Request::Lease { space, room: room.clone(), user: user.clone(), info };
        self.call(g, request, Purpose::Lease { space, room, user });
    }

    fn lease_told(&mut self, space: usize, room: &RoomName, user: &UserId) {
        let pending = self.purposes.values().any(
            |of| matches!(of, Purpose::Lease { space: s, room: r, user: u } if *s == space && r == room && u == user),
        );
        if let Some(of) = self.spaces.get_mut(space)
            && !pending
        {
            of.dirty.remove(&(room.clone(), user.clone()));
        }
    }

    fn beaten(&mut self, g: &mut Ground, is_member: bool, claimed: Vec<NodeId>) {
        if !is_member && self.was_member {
            g.report.mistaken += 1;
        }
        self.was_member = is_member;
        let is_back = is_member && !self.is_member;
        self.is_member = is_member;
        if is_back {
            // What it held was taken back, if it was taken for dead.
            for space in 0..self.spaces.len() {
                let Some(of) = self.spaces.get(space) else { continue };
                let held: BTreeSet<_> = of.leases.keys().chain(&of.dirty).cloned().collect();
                held.into_iter().for_each(|(room, user)| self.tell_lease(g, space, room, user));
            }
        }
        for dead in claimed {
            self.call(g, Request::EndLeases(dead), Purpose::Nothing);
        }
    }
}
