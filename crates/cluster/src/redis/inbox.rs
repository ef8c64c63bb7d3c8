//! What has come to the broker's thread and is not taken yet.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use tidegate_types::RoomName;

use super::broker::Shared;
use super::error::LinkError;
use super::leases;
use super::link::LinkId;
use super::links::LinkEvent;
use super::message::Foreign;
use super::resp::Value;
use super::sessions;

/// What waits for the engine.
pub(super) enum Item {
    Event(LinkEvent),
    Touched {
        space: usize,
        link: LinkId,
        run: Rc<str>,
        attempt: Option<u64>,
        result: Result<Value, LinkError>,
    },
    Looked {
        space: usize,
        room: RoomName,
        mark: u64,
        result: Result<Value, LinkError>,
    },
    Read {
        space: usize,
        room: RoomName,
        attempt: u64,
        result: Result<Value, LinkError>,
    },
    /// A publish or a claim was told that the space must be looked at first.
    OtherRun {
        space: usize,
        link: LinkId,
    },
    Written(sessions::Sent),
    Leased {
        space: usize,
        key: leases::Key,
        result: Result<Value, LinkError>,
    },
    Indexed {
        space: usize,
        result: Result<Value, LinkError>,
    },
    Foreign(Foreign),
    Refused(LinkError),
}

/// What has come and is not taken yet. Messages are bounded in bytes; the rest by what was asked for.
pub(super) struct Inbox {
    items: RefCell<VecDeque<Item>>,
    bytes: Cell<usize>,
    /// Messages were dropped: everything has to be read again.
    overflown: Cell<bool>,
    shared: Arc<Shared>,
}

impl Inbox {
    pub(super) fn new(shared: Arc<Shared>) -> Rc<Self> {
        Rc::new(Self { items: RefCell::default(), bytes: Cell::new(0), overflown: Cell::new(false), shared })
    }

    pub(super) fn event(&self, event: LinkEvent) {
        if let LinkEvent::Message { payload, .. } = &event {
            let bytes = self.bytes.get() + payload.len() + 128;
            if self.overflown.get() {
                return;
            }
            if bytes > self.shared.settings.max_backlog_bytes {
                self.overflown.set(true);
                self.bytes.set(0);
                let is_message = |item: &Item| matches!(item, Item::Event(LinkEvent::Message { .. }));
                self.items.borrow_mut().retain(|item| !is_message(item));
                self.shared.wake.notify_one();
                return;
            }
            self.bytes.set(bytes);
        }
        self.put(Item::Event(event));
    }

    pub(super) fn put(&self, item: Item) {
        let mut items = self.items.borrow_mut();
        items.push_back(item);
        if items.len() == 1 {
            self.shared.wake.notify_one();
        }
    }

    /// Whether messages were dropped, once all before them is taken.
    pub(super) fn take_overflow(&self) -> bool {
        self.overflown.get() && self.items.borrow().is_empty() && self.overflown.replace(false)
    }

    pub(super) fn pop(&self) -> Option<Item> {
        let item = self.items.borrow_mut().pop_front()?;
        if let Item::Event(LinkEvent::Message { payload, .. }) = &item {
            self.bytes.set(self.bytes.get().saturating_sub(payload.len() + 128));
        }
        Some(item)
    }
}
