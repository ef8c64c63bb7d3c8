//! Who has been active when: one stamp per connection, in turns of the ping wheel, which no jump of the clock can move.
//! It is looked at when the connection's turn for a ping has come, so that being away costs no timer and no clock.

use tidegate_types::Millis;

use crate::connection::Conn;
use crate::shard::Shard;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Activity {
    /// The wheel's turn in which the client last did something.
    pub at: u32,
    /// The spaces have been told that it is idle.
    pub away: bool,
}

impl Shard {
    /// The client has done something: an answer to a ping is not enough.
    pub(crate) fn touch(&self, conn: &Conn, now: impl FnOnce() -> Millis) {
        let before = conn.activity.replace(Activity { at: self.turn.get(), away: false });
        if before.away {
            let now = now();
            for socket in conn.sockets.borrow().iter() {
                self.node.with_space(&socket.space, |hub, effects| hub.active(conn.id, now, effects));
            }
        }
    }

    /// It is the connection's turn: tells its spaces if it has been idle for too long.
    pub(crate) fn look_at_activity(&self, conn: &Conn, turn_ms: Millis, now: Millis) {
        let Activity { at, away } = conn.activity.get();
        let idle_ms = u64::from(self.turn.get().wrapping_sub(at)) * turn_ms;
        let away_after_ms = self.node.settings.away_after_ms;
        if away || away_after_ms == 0 || idle_ms < away_after_ms {
            return;
        }
        conn.activity.set(Activity { at, away: true });
        let seen_at = now.saturating_sub(idle_ms);
        for socket in conn.sockets.borrow().iter() {
            self.node.with_space(&socket.space, |hub, effects| hub.idle(conn.id, seen_at, now, effects));
        }
    }
}
