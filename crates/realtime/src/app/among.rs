//! Questions to many clients, and what is said between servers: in a namespace that Node servers serve, too, all of them
//! take part, and so do all nodes of a cluster; elsewhere it is about the clients of this node.

use std::time::Duration;

use serde::Deserialize;
use tidegate_types::{Class, EventName, Publication, RoomName};
use tidegate_wire::node_adapter::{self, Event, Message, Names};
use tidegate_wire::socket_io;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::args::Args;
use super::broadcast::Broadcast;
use super::io::Io;
use crate::bridge::{self, Asker, Question};
use crate::node::now_ms;

/// How long other servers have for their answers.
const PATIENCE: Duration = Duration::from_secs(5);
/// Answers of one question that may wait to be read.
const MOST_ANSWERS: usize = 65_536;

/// A client of any server.
#[derive(Clone, Debug, Deserialize)]
pub struct Found {
    /// Its Socket.IO id: `io.to(&found.id)` is for it alone, in a namespace that Node servers serve, too.
    pub id: String,
    /// The rooms it is in. Beside Node servers, its id is one of them.
    #[serde(default)]
    pub rooms: Vec<String>,
    /// What its server keeps of it: `socket.data` in Node; of a client of this server `userId` and `username`.
    #[serde(default)]
    pub data: serde_json::Value,
}

/// What was answered in time.
#[derive(Clone, Debug, Default)]
pub struct Answers<T> {
    /// The answers, in the order in which they came.
    pub values: Vec<T>,
    /// Whether a server, or a client, has not answered.
    pub incomplete: bool,
}

impl Broadcast {
    /// Puts the clients into a room.
    pub fn join(&self, room: &str) {
        let Ok(name) = RoomName::try_from(room) else { return };
        if let Some(bridge) = &self.space.bridge {
            bridge.say(&Message::Join { of: self.selection(), rooms: Names::from_iter([room]) });
        }
        bridge::join(&self.node, &self.space, &self.selection(), vec![name]);
    }

    /// Takes the clients out of a room.
    pub fn leave(&self, room: &str) {
        let Ok(name) = RoomName::try_from(room) else { return };
        if let Some(bridge) = &self.space.bridge {
            bridge.say(&Message::Leave { of: self.selection(), rooms: Names::from_iter([room]) });
        }
        bridge::leave(&self.node, &self.space, &self.selection(), vec![name]);
    }

    /// Who they are.
    pub async fn fetch(&self) -> Answers<Found> {
        let of = self.selection();
        let mut lists = vec![bridge::fetch(&self.node, &self.space, &of).await];
        let mut incomplete = false;
        if let Some(bridge) = &self.space.bridge {
            let question = Question::Servers(Box::new(move |request| Message::Fetch { request, of }));
            let gathered = bridge.ask(question, PATIENCE).await;
            lists.extend(gathered.sockets);
            incomplete = gathered.incomplete;
        }
        let mut values = Vec::new();
        for list in lists {
            match serde_json::from_str::<Vec<Found>>(&list) {
                Ok(found) => values.extend(found),
                Err(_) => incomplete = true,
            }
        }
        Answers { values, incomplete }
    }

    /// Sends the event, and gathers what the clients answer until all have or `patience` has run out: the first argument of
    /// each answer.
    pub async fn emit_with_ack<'a>(
        &self,
        event: &str,
        args: impl Into<Args<'a>>,
        patience: Duration,
    ) -> Answers<Args<'static>> {
        let nothing = Answers { values: Vec::new(), incomplete: true };
        let Some(name) = EventName::try_from(event).ok().filter(|_| !socket_io::is_reserved(event)) else {
            tracing::error!(event, "an event with a name that no event can have is not sent");
            return nothing;
        };
        let until = Instant::now() + patience;
        let timeout_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let (json, attachments) = args.into().into_parts();
        let (answers, mut answered) = mpsc::channel(MOST_ANSWERS);
        let Some(id) = self.space.asked.open("", Asker::Here(answers), Some(timeout_ms)) else { return nothing };
        let Some(room) = self.rooms.first().cloned().or_else(|| RoomName::try_from("*").ok()) else { return nothing };
        let far = Event::new(event, &json, attachments.clone());
        let publication = Publication {
            space: self.space.key.clone(),
            room,
            event: name,
            data: json.into_owned().into(),
            attachments: attachments.into(),
            class: if self.volatile { Class::Volatile } else { Class::Recoverable },
            position: None,
            seq: 0,
            timestamp_ms: now_ms(),
        };
        let of = self.selection();
        let here = async {
            let asked = bridge::question(&self.node, &self.space, &of, publication.into(), id).await;
            let mut values = Vec::new();
            while values.len() < asked {
                let Ok(Some(answer)) = timeout_at(until, answered.recv()).await else { break };
                values.push(answer);
            }
            (values.len() < asked, values)
        };
        let there = async {
            let bridge = self.space.bridge.as_ref()?;
            let (to, volatile) = (self.selection(), self.volatile);
            let question = Question::Clients(Box::new(move |request| {
                let ack = Some(node_adapter::Ack { request, timeout_ms: Some(timeout_ms) });
                Message::Broadcast(node_adapter::Broadcast { event: far, to, volatile, ack })
            }));
            Some(bridge.ask(question, patience).await)
        };
        let ((late, mut values), gathered) = tokio::join!(here, there);
        let mut incomplete = late;
        if let Some(gathered) = gathered {
            incomplete |= gathered.incomplete;
            values.extend(gathered.values);
        }
        let values = values.into_iter().map(|value| Args::checked(value.json, value.attachments)).collect();
        Answers { values, incomplete }
    }
}

impl Io {
    /// Sends an event to the other servers of the namespace, not to clients: `io.on(event)` in Node,
    /// [`super::Namespace::on_server_event`] here.
    pub fn server_side_emit<'a>(&self, event: &str, args: impl Into<Args<'a>>) {
        if let Some(bridge) = &self.space.bridge {
            let (json, attachments) = args.into().into_parts();
            let event = Event::new(event, &json, attachments);
            bridge.say(&Message::ServerSide { request: None, event });
        }
    }

    /// As [`Io::server_side_emit`], and gathers what the other servers answer within 5 s.
    pub async fn server_side_emit_with_ack<'a>(
        &self,
        event: &str,
        args: impl Into<Args<'a>>,
    ) -> Answers<Args<'static>> {
        let Some(bridge) = &self.space.bridge else { return Answers::default() };
        let (json, attachments) = args.into().into_parts();
        let event = Event::new(event, &json, attachments);
        let ask = move |request| Message::ServerSide { request: Some(request), event };
        let gathered = bridge.ask(Question::Servers(Box::new(ask)), PATIENCE).await;
        let values = gathered.values.into_iter().map(|value| Args::checked(value.json, value.attachments)).collect();
        Answers { values, incomplete: gathered.incomplete }
    }
}
