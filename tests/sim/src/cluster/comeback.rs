//! Clients that come, and sessions that come back, as `tidegate-realtime` has it.

use std::sync::Arc;

use tidegate_cluster::Claimed;
use tidegate_hub::{Effects, NewSession, Pid, Resume, ResumeFailure, Who};
use tidegate_types::{Publication, RoomName, SessionOffset, UserId};

use super::Sabotage;
use super::ground::{Ground, ToClient};
use super::node::{Node, Purpose, ServerConn, conn_id, standing};
use super::redis::Request;

/// How long a session that comes back waits for its rooms, ms.
const PATIENCE_MS: u64 = 8_000;

/// A session that comes back.
pub struct Comeback {
    pub link: usize,
    pub tenant: usize,
    pub pid: Pid,
    offset: SessionOffset,
    user: UserId,
    elsewhere: bool,
    until: u64,
    stage: Stage,
}

enum Stage {
    Claiming,
    /// Until the session's rooms are followed.
    Waiting,
    /// Until so many rooms have been read, with what was read.
    Reading(usize, Vec<Arc<Publication>>),
}

impl Node {
    pub fn hello(
        &mut self,
        g: &mut Ground,
        link: usize,
        tenant: usize,
        user: UserId,
        session: Option<(Pid, SessionOffset)>,
    ) {
        let now = self.wall(g);
        let Some(hub) = self.spaces.get_mut(tenant).and_then(|of| of.hub.as_mut()) else {
            return self.turn_away(g, link);
        };
        self.conns.insert(link, ServerConn { tenant, user: user.clone(), pid: None });
        let Some((pid, offset)) = session else { return self.welcome(g, link) };
        if self.comebacks.iter().any(|of| of.pid == pid) {
            return self.welcome(g, link);
        }
        let mut comeback = Comeback {
            link,
            tenant,
            pid: pid.clone(),
            offset,
            user: user.clone(),
            elsewhere: false,
            until: g.now + PATIENCE_MS,
            stage: Stage::Waiting,
        };
        let mut fx = Effects::new();
        match hub.live_holder(&pid, &user) {
            Some(old) => {
                let old = old.slot as usize;
                hub.supersede(conn_id(old), now, &mut fx);
                self.forget(g, old);
                self.end_link(g, old);
            }
            None if hub.session_known(&pid) => {}
            None => comeback.stage = Stage::Claiming,
        }
        self.carry_out(g, tenant, fx);
        let claims = matches!(comeback.stage, Stage::Claiming);
        self.comebacks.push(comeback);
        if claims {
            self.ready(g, tenant);
            self.call(g, Request::Claim { space: tenant, pid: pid.clone(), user }, Purpose::Claim { pid });
        }
    }

    fn end_link(&mut self, g: &mut Ground, link: usize) {
        let now = g.now;
        if let Some(of) = g.links.get_mut(link) {
            of.end(now, &mut g.rng);
        }
    }

    fn turn_away(&mut self, g: &mut Ground, link: usize) {
        self.close(g, link, true);
        self.end_link(g, link);
    }

    /// The broker did not say, or does not have what is needed.
    pub fn comeback_failed(&mut self, g: &mut Ground, pid: &Pid) {
        if let Some(link) = self.comebacks.iter().find(|of| of.pid == *pid).map(|of| of.link) {
            self.turn_away(g, link);
        }
    }

    pub fn claimed(&mut self, g: &mut Ground, pid: &Pid, claimed: Option<Claimed>) {
        let now = self.wall(g);
        let id = self.id;
        let comeback = self.comebacks.iter_mut().find(|of| of.pid == *pid);
        let Some(Claimed { record, was_live_on, as_of }) = claimed else {
            if let Some(link) = comeback.map(|of| of.link) {
                self.comebacks.retain(|of| of.pid != *pid);
                self.welcome(g, link);
            }
            return;
        };
        let tenant = g.keys.iter().position(|key| key.tenant == record.tenant).unwrap_or(0);
        let is_wanted = comeback.is_some();
        if let Some(comeback) = comeback {
            (comeback.stage, comeback.elsewhere) = (Stage::Waiting, was_live_on.is_none_or(|node| node != id));
        }
        if let Some(on) = was_live_on.filter(|node| *node != id) {
            self.call(g, Request::Supersede { on, pid: pid.clone() }, Purpose::Nothing);
        }
        let mut fx = Effects::new();
        if let Some(hub) = self.hub(tenant) {
            hub.claimed(record, as_of, now, &mut fx);
            if !is_wanted {
                // Its client has gone meanwhile.
                hub.release_claim(pid, now, &mut fx);
            }
        }
        self.carry_out(g, tenant, fx);
    }

    pub fn advance_comebacks(&mut self, g: &mut Ground) {
        let ready: Vec<(Pid, usize, bool)> = self
            .comebacks
            .iter()
            .filter(|of| !matches!(of.stage, Stage::Reading(..)))
            .map(|of| {
                let hub = self.spaces.get(of.tenant).and_then(|space| space.hub.as_ref());
                let is_ready = matches!(of.stage, Stage::Waiting) && hub.is_some_and(|hub| hub.is_ready(&of.pid));
                (of.pid.clone(), of.link, is_ready)
            })
            .collect();
        for (pid, _, _) in ready.into_iter().filter(|(_, _, is_ready)| *is_ready) {
            self.resume(g, &pid, None);
        }
        let late: Vec<usize> = self.comebacks.iter().filter(|of| of.until <= g.now).map(|of| of.link).collect();
        late.into_iter().for_each(|link| self.turn_away(g, link));
    }

    pub fn history_read(&mut self, g: &mut Ground, pid: &Pid, found: Option<Vec<Arc<Publication>>>) {
        let Some(comeback) = self.comebacks.iter_mut().find(|of| of.pid == *pid) else { return };
        let Stage::Reading(left, stored) = &mut comeback.stage else { return };
        // What is no longer kept cannot be proven: nothing of the room is known then.
        stored.extend(found.into_iter().flatten());
        *left = left.saturating_sub(1);
        if *left == 0 {
            let stored = std::mem::take(stored);
            self.resume(g, pid, Some(stored));
        }
    }

    fn resume(&mut self, g: &mut Ground, pid: &Pid, stored: Option<Vec<Arc<Publication>>>) {
        let now = self.wall(g);
        let Some(at) = self.comebacks.iter().position(|of| of.pid == *pid) else { return };
        let Some(comeback) = self.comebacks.get_mut(at) else { return };
        let Comeback { link, tenant, offset, user, elsewhere, .. } = comeback;
        let (link, tenant, offset, user, elsewhere) = (*link, *tenant, *offset, user.clone(), *elsewhere);
        let Some(hub) = self.spaces.get_mut(tenant).and_then(|of| of.hub.as_mut()) else { return };
        let who = Who { user: user.clone(), username: None };
        let mut fx = Effects::new();
        let id = conn_id(link);
        let answer = match stored {
            None => hub.resume(pid, offset, &user, id, who, None, now, &mut fx),
            Some(stored) => hub.resume_with(pid, offset, &user, id, who, None, stored, now, &mut fx),
        };
        match answer {
            Resume::Recovered { rooms, mut missed, seq, .. } => {
                let epoch = hub.epoch();
                self.comebacks.remove(at);
                if let Some(conn) = self.conns.get_mut(&link) {
                    conn.pid = Some(pid.clone());
                }
                if let Some(of) = self.spaces.get_mut(tenant) {
                    for room in &rooms {
                        of.members.entry(room.room_id).or_default().push((link, room.after_seq));
                    }
                }
                if g.sabotage == Sabotage::MissedSkipped {
                    missed.clear();
                }
                let pid = pid.as_str().to_owned();
                g.send_down(link, ToClient::Welcome { pid, recovered: true, elsewhere });
                for publication in missed {
                    g.send_down(link, ToClient::Message(publication));
                }
                g.send_down(link, ToClient::Stands(SessionOffset { epoch, seq }));
                self.carry_out(g, tenant, fx);
                rooms.iter().for_each(|of| self.show(g, tenant, link, &of.room));
            }
            Resume::NeedHistory { reads } => {
                if let Some(comeback) = self.comebacks.get_mut(at) {
                    comeback.stage = Stage::Reading(reads.len(), Vec::new());
                }
                self.carry_out(g, tenant, fx);
                for (room, after) in reads {
                    self.call(g, Request::Log { space: tenant, room, after }, Purpose::Log { pid: pid.clone() });
                }
            }
            Resume::Failed(ResumeFailure::NotReady) => {
                comeback.stage = Stage::Waiting;
                self.carry_out(g, tenant, fx);
            }
            Resume::Failed(_) => {
                self.comebacks.remove(at);
                self.carry_out(g, tenant, fx);
                self.welcome(g, link);
            }
        }
    }

    /// Shows a member who is in the room.
    fn show(&mut self, g: &mut Ground, tenant: usize, link: usize, room: &RoomName) {
        let users = self.present(tenant, room);
        g.send_down(link, ToClient::Present { room: room.clone(), users });
    }

    pub fn present(&mut self, tenant: usize, room: &RoomName) -> Vec<UserId> {
        let listed = self.hub(tenant).map(|hub| hub.presence(room, 256).0).unwrap_or_default();
        listed.into_iter().map(|info| info.user_id).collect()
    }

    /// A new session.
    fn welcome(&mut self, g: &mut Ground, link: usize) {
        let now = self.wall(g);
        self.born += 1;
        let name = format!("{}-{}-{link}", self.id.0, self.born);
        let Some(conn) = self.conns.get_mut(&link) else { return };
        let (tenant, user) = (conn.tenant, conn.user.clone());
        conn.pid = Some(name.as_str().into());
        let session = NewSession { pid: name.as_str().into(), socket_id: name.as_str().into(), token_expires_at: None };
        let Some(hub) = self.hub(tenant) else { return };
        let mut fx = Effects::new();
        hub.connect(conn_id(link), Who { user, username: None }, session, now, &mut fx);
        let stands = standing(hub);
        g.send_down(link, ToClient::Welcome { pid: name, recovered: false, elsewhere: false });
        g.send_down(link, ToClient::Stands(stands));
        self.carry_out(g, tenant, fx);
    }

    /// A client's connection has ended.
    pub fn close(&mut self, g: &mut Ground, link: usize, keep: bool) {
        let now = self.wall(g);
        let mut fx = Effects::new();
        if let Some(at) = self.comebacks.iter().position(|of| of.link == link) {
            let Comeback { pid, tenant, stage, .. } = self.comebacks.remove(at);
            let hub = self.hub(tenant).filter(|_| !matches!(stage, Stage::Claiming));
            if let Some(hub) = hub {
                hub.release_claim(&pid, now, &mut fx);
            }
            self.conns.remove(&link);
            return self.carry_out(g, tenant, fx);
        }
        let Some(tenant) = self.conns.get(&link).map(|conn| conn.tenant) else { return };
        self.forget(g, link);
        if let Some(hub) = self.hub(tenant) {
            hub.disconnect(conn_id(link), keep, now, &mut fx);
        }
        self.carry_out(g, tenant, fx);
    }

    /// Forgets a client's connection, but not its session.
    fn forget(&mut self, _g: &Ground, link: usize) {
        self.conns.remove(&link);
        self.acks.retain(|ack| ack.link != link);
        for space in &mut self.spaces {
            space.joining.retain(|(of, ..)| *of != link);
            space.members.values_mut().for_each(|members| members.retain(|(of, _)| *of != link));
        }
    }
}
