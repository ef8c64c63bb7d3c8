//! What the links tell: that servers are there or gone, and what was published.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::warn;

use super::engine::Engine;
use super::error::LinkError;
use super::follow::{self, Channel};
use super::links::LinkEvent;
use super::message::{self, Foreign, Frame};
use super::resp::ErrorCode;
use super::slot::Slot;
use crate::{Audience, Heard};

impl Engine {
    pub(super) fn event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up { link, slots } => {
                for name in [&self.all, &self.own] {
                    if slots.contains(Slot::of(name)) {
                        link.subscribe(std::slice::from_ref(name));
                    }
                }
                for index in 0..self.spaces.len() {
                    let Some(entry) = self.spaces.get(index) else { continue };
                    if !slots.contains(entry.slot) {
                        continue;
                    }
                    // What this node has seen is compared before anybody can hide a loss by going on.
                    self.ready(index);
                    self.with_space(index, follow::Space::found);
                }
                self.connected();
                self.pump_sessions();
                self.pump_leases();
            }
            LinkEvent::Down { slots, .. } => {
                for index in 0..self.spaces.len() {
                    let Some(entry) = self.spaces.get_mut(index) else { continue };
                    if slots.contains(entry.slot) {
                        entry.touched = None;
                        self.with_space(index, follow::Space::lost);
                    }
                }
                self.connected();
            }
            LinkEvent::Subscribed { channel, .. } => {
                if let Some((index, channel)) = self.channels.get(&channel).cloned() {
                    self.with_space(index, |space, out| space.confirmed(channel, out));
                }
            }
            LinkEvent::Refused { channels, .. } => {
                for channel in channels {
                    if let Some((index, _)) = self.channels.get(&channel)
                        && let Some(entry) = self.spaces.get_mut(*index)
                    {
                        entry.refused = true;
                    }
                }
            }
            LinkEvent::Message { channel, payload, .. } => self.message(&channel, &payload),
        }
    }

    fn connected(&mut self) {
        let connected = self.links.is_connected();
        if self.shared.connected.swap(connected, Ordering::AcqRel) != connected {
            // Redis may have forgotten what it was told.
            self.seat_spaces.clear();
            self.hear(Heard::Connected(connected));
        }
    }

    fn message(&mut self, name: &Bytes, payload: &Bytes) {
        let frame = match message::decode_frame(payload) {
            Ok(frame) => frame,
            Err(kind) => {
                self.foreign(kind);
                return;
            }
        };
        if let Some((index, channel)) = self.channels.get(name) {
            let (index, channel) = (*index, channel.clone());
            match (frame, &channel) {
                (Frame::Signal { from, .. }, _) if from == self.shared.node => {}
                (Frame::Signal { from, body }, Channel::Room(room)) => {
                    let Some(entry) = self.spaces.get(index) else { return };
                    let to = Audience::Room(Arc::clone(&entry.key), room.clone());
                    self.hear(Heard::Signal { from, to, body });
                }
                (frame, _) => {
                    self.with_space(index, |space, out| space.frame(channel, frame, payload.len(), out));
                    if let Some(entry) = self.spaces.get(index)
                        && let Some(epoch) = entry.space.epoch()
                        && let Ok(link) = self.links.link(entry.slot)
                    {
                        entry.seen.borrow_mut().hear(epoch, entry.space.heard(), link.run_id());
                    }
                }
            }
            return;
        }
        let to = if *name == self.all {
            Audience::Nodes
        } else if *name == self.own {
            Audience::Node(self.shared.node)
        } else {
            // A room that was left: what was on its way.
            return;
        };
        match frame {
            Frame::Signal { from, .. } if from == self.shared.node => {}
            Frame::Signal { from, body } => self.hear(Heard::Signal { from, to, body }),
            // Said by who took this node to be dead.
            Frame::NodeGone(node) if node == self.shared.node => {}
            Frame::NodeGone(node) if to == Audience::Nodes => {
                self.hear(Heard::NodeGone(node));
            }
            Frame::NodeGone(_) | Frame::LeasesEnded { .. } | Frame::Message(..) | Frame::Lease(_) | Frame::Mark(_) => {
                self.foreign(Foreign::Corrupt)
            }
        }
    }

    /// Something that is not ours, or of another version: counted, and told now and then.
    pub(super) fn foreign(&mut self, kind: Foreign) {
        self.shared.corrupt.fetch_add(1, Ordering::Relaxed);
        self.metrics.cluster_foreign(match kind {
            Foreign::Version => tidegate_metrics::ForeignKind::Version,
            Foreign::Corrupt => tidegate_metrics::ForeignKind::Corrupt,
        });
        self.tell(match kind {
            Foreign::Version => "written by another program, or by another version of this one",
            Foreign::Corrupt => "damaged, or not ours",
        });
    }

    /// A script failed because of what it found under our keys.
    pub(super) fn refused(&mut self, error: &LinkError) {
        if matches!(error.code(), Some(ErrorCode::WrongType | ErrorCode::Other)) {
            self.shared.corrupt.fetch_add(1, Ordering::Relaxed);
            self.metrics.cluster_foreign(tidegate_metrics::ForeignKind::WrongType);
            self.tell(&error.to_string());
        }
    }

    fn tell(&mut self, what: &str) {
        self.untold += 1;
        let now = Instant::now();
        if self.told_at.is_none_or(|at| now.duration_since(at) >= Duration::from_secs(10)) {
            warn!(
                count = self.untold,
                "something in Redis under this cluster's keys or channels was not taken: {what}"
            );
            (self.told_at, self.untold) = (Some(now), 0);
        }
    }
}
