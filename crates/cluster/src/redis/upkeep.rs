//! What is done now and then: what was put off is tried again, and what is in use lives on.

use std::time::{Duration, Instant};

use super::call::Call;
use super::engine::{Engine, TOUCH_EVERY};
use super::follow;
use super::slot::Slot;

/// Records and rooms refreshed in one tick.
const REFRESHED: usize = 500;

impl Engine {
    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        for index in 0..self.spaces.len() {
            let Some(entry) = self.spaces.get_mut(index) else { continue };
            if let Some((_, attempt)) = entry.touch_at.filter(|(at, _)| *at <= now) {
                entry.touch_at = None;
                self.touch(index, Some(attempt));
            } else if entry.touch_next <= now {
                entry.touch_next = now + TOUCH_EVERY;
                if std::mem::take(&mut entry.refused) {
                    self.with_space(index, follow::Space::found);
                } else if entry.space.follows() {
                    self.touch(index, None);
                }
            }
            self.with_space(index, follow::Space::again);
        }
        self.pump_sessions();
        self.pump_leases();
        self.refresh(now);
    }

    /// What is in use lives on.
    fn refresh(&mut self, now: Instant) {
        let settings = &self.shared.settings;
        for (pid, space) in self.sessions.due(now, REFRESHED) {
            let ttl = settings.live_session_ttl_ms();
            let keys = self.keys.space(&space);
            if let Ok(link) = self.links.link(Slot::of(keys.space().as_bytes())) {
                drop(link.call(Call::new("PEXPIRE").arg(keys.session(&pid)).int(ttl)));
            }
        }
        let ttl = settings.room_ttl_ms();
        if now >= self.refresh_at {
            self.refresh_at = now + Duration::from_millis(ttl / 3);
            for (index, entry) in self.spaces.iter().enumerate() {
                self.refresh.extend(entry.space.rooms().map(|room| (index, room.clone())));
                if let Ok(link) = self.links.link(entry.slot) {
                    drop(link.call(Call::new("PEXPIRE").arg(entry.keys.held(self.shared.node)).int(ttl)));
                }
            }
            let index = self.keys.spaces_of(self.shared.node);
            if let Ok(link) = self.links.link(Slot::of(index.as_bytes())) {
                drop(link.call(Call::new("PEXPIRE").arg(index).int(ttl)));
            }
        }
        let count = self.refresh.len().min(REFRESHED);
        for (index, room) in self.refresh.drain(..count) {
            let Some(entry) = self.spaces.get(index) else { continue };
            let Ok(link) = self.links.link(entry.slot) else { continue };
            for key in [entry.keys.room(&room), entry.keys.who(&room)] {
                drop(link.call(Call::new("PEXPIRE").arg(key).int(ttl)));
            }
        }
    }
}
