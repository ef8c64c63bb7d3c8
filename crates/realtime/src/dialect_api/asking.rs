//! Steps that backends have a say in: they are tried again when they have been asked.

use std::cell::RefCell;
use std::rc::Rc;

use tidegate_dialect::{Reason, Refusal};
use tidegate_hub::Message;
use tidegate_types::RoomName;

use super::Run;
use crate::input::{Handled, Later};
use crate::operations::{self, SendRefused, Senders};
use crate::webhooks::{self, WebhookEvent};

/// What backends have said about a step.
pub(super) type Said = Rc<RefCell<Option<Saying>>>;

pub(super) enum Saying {
    Join(Result<(), Box<str>>),
    Publish(Result<Message, Box<str>>),
}

pub(super) enum Asked {
    /// It may be sent, as they want it.
    Allowed(Message),
    /// They are being asked.
    Asking(Later),
}

impl Run {
    /// What to wait for before a join may go on.
    pub(super) fn ask_to_join(&self, room: &RoomName) -> Result<Option<Later>, Refusal> {
        if !webhooks::is_asked(&self.space, WebhookEvent::Join) {
            return Ok(None);
        }
        match self.said.take() {
            Some(Saying::Join(Ok(()))) => return Ok(None),
            Some(Saying::Join(Err(message))) => {
                return Err(self.dialect.refuse(Reason::Forbidden, String::from(message)));
            }
            Some(Saying::Publish(_)) | None => {}
        }
        let (shard, space, principal) = (self.shard.clone(), self.space.clone(), self.principal.clone());
        let (socket, room, said) = (self.socket_id.clone(), room.clone(), self.said.clone());
        Ok(Some(Box::pin(async move {
            let answer = webhooks::may_join(&shard, &space, &principal, Some(&socket), &room).await;
            said.replace(Some(Saying::Join(answer)));
        })))
    }

    /// The message, once it may be sent.
    pub(super) fn ask_to_publish(&self, message: Message, senders: Senders) -> Result<Asked, Refusal> {
        if !webhooks::is_asked(&self.space, WebhookEvent::Publish) {
            return Ok(Asked::Allowed(message));
        }
        match self.said.take() {
            Some(Saying::Publish(Ok(message))) => return Ok(Asked::Allowed(message)),
            Some(Saying::Publish(Err(text))) => return Err(self.send_refused(SendRefused::Refused(text))),
            Some(Saying::Join(_)) | None => {}
        }
        operations::may_send(&self.conn, &self.space, &message.room, senders)
            .map_err(|refused| self.send_refused(refused))?;
        let (shard, space, principal) = (self.shard.clone(), self.space.clone(), self.principal.clone());
        let (socket, said) = (self.socket_id.clone(), self.said.clone());
        Ok(Asked::Asking(Box::pin(async move {
            let answer = webhooks::may_publish(&shard, &space, &principal, &socket, message).await;
            said.replace(Some(Saying::Publish(answer)));
        })))
    }

    /// An event that the dialect does not declare may be one that a backend answers.
    pub(super) fn ask_backend(self, name: &str, args: &str) -> Handled {
        let question = webhooks::question(&self.conn, &self.space, name, args, &self.attachments, self.ack_id);
        // As in the reference server, an event nobody listens to is nobody's error.
        let Some(question) = question else { return Handled::Done };
        Handled::Later(Box::pin(async move {
            match webhooks::settle(&self.shard, &self.conn, &self.space, question).await {
                Ok(()) => self.observe(),
                Err(error) => self.refuse(None, None, &self.dialect.refuse(Reason::Unavailable, error)),
            }
        }))
    }
}
