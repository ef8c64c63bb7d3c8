//! Which channels and streams an adapter uses for what, and in which form.

use bytes::Bytes;
use tidegate_cluster::redis::interop::{Arrival, Put, Source};
use tidegate_wire::node_adapter::cluster_adapter::{self, Form};
use tidegate_wire::node_adapter::{Broadcast, Error, Heard, Message, redis_adapter};

use super::AdapterSettings;

pub(super) enum Adapter {
    Redis {
        channels: redis_adapter::Channels,
        /// The channel of answers for this server alone.
        own_answers: String,
    },
    Sharded {
        channels: cluster_adapter::Channels,
        own: String,
    },
    Streams {
        channels: cluster_adapter::Channels,
        own: String,
        stream: String,
        most: u64,
    },
}

/// What an arrival is to a bridge.
pub(super) enum Reading {
    NotOurs,
    /// Something for a room that nobody here is in.
    Nobody,
    Heard(Result<Heard, Error>),
}

impl Adapter {
    pub fn new(settings: &AdapterSettings, namespace: &str, uid: &str) -> Self {
        match settings {
            AdapterSettings::Redis { key } => {
                let channels = redis_adapter::Channels::new(key, namespace);
                let own_answers = format!("{}{uid}#", channels.answers);
                Self::Redis { channels, own_answers }
            }
            AdapterSettings::Sharded { prefix } => {
                let channels = cluster_adapter::Channels::new(prefix, namespace);
                let own = channels.of_server(uid);
                Self::Sharded { channels, own }
            }
            AdapterSettings::Streams { stream, prefix, most } => {
                let channels = cluster_adapter::Channels::new(prefix, namespace);
                let own = channels.of_server(uid);
                Self::Streams { channels, own, stream: stream.clone(), most: *most }
            }
        }
    }

    /// What is listened to always.
    pub fn sources(&self) -> Vec<Source> {
        match self {
            Self::Redis { channels, own_answers } => vec![
                Source::Pattern(channels.pattern()),
                Source::Channel(channels.requests.clone()),
                Source::Channel(channels.answers.clone()),
                Source::Channel(own_answers.clone()),
            ],
            Self::Sharded { channels, own } => vec![Source::Shard(channels.all.clone()), Source::Shard(own.clone())],
            Self::Streams { channels, own, .. } => {
                vec![Source::Channel(channels.all.clone()), Source::Channel(own.clone())]
            }
        }
    }

    /// The stream that is read.
    pub fn stream(&self) -> Option<&str> {
        match self {
            Self::Streams { stream, .. } => Some(stream),
            Self::Redis { .. } | Self::Sharded { .. } => None,
        }
    }

    /// Whose listeners are the servers that answer.
    pub fn servers(&self) -> Source {
        match self {
            Self::Redis { channels, .. } => Source::Channel(channels.requests.clone()),
            Self::Sharded { channels, .. } => Source::Shard(channels.all.clone()),
            Self::Streams { channels, .. } => Source::Channel(channels.all.clone()),
        }
    }

    pub fn follows_rooms(&self) -> bool {
        matches!(self, Self::Sharded { .. })
    }

    /// What has to be listened to for a room, while somebody here is in it.
    pub fn room(&self, room: &str) -> Option<Source> {
        match self {
            Self::Sharded { channels, .. } => channels.of_room(room).map(Source::Shard),
            Self::Redis { .. } | Self::Streams { .. } => None,
        }
    }

    /// Reads what has come. `knows` tells of a room whether anybody here is in it.
    pub fn read(&self, arrival: &Arrival, knows: impl Fn(&str) -> bool) -> Reading {
        match (self, arrival) {
            (Self::Redis { channels, .. }, Arrival::Message { pattern: true, channel, payload }) => {
                let Some(room) = channel.strip_prefix(channels.broadcasts.as_bytes()) else { return Reading::NotOurs };
                let room = std::str::from_utf8(room.strip_suffix(b"#").unwrap_or_default());
                match room {
                    Ok("") => Reading::Heard(redis_adapter::broadcast(payload)),
                    Ok(room) if knows(room) => Reading::Heard(redis_adapter::broadcast(payload)),
                    Ok(_) | Err(_) => Reading::Nobody,
                }
            }
            (Self::Redis { channels, own_answers }, Arrival::Message { pattern: false, channel, payload }) => {
                let channel = &**channel;
                if channel == channels.requests.as_bytes() {
                    Reading::Heard(redis_adapter::request(payload))
                } else if channel == channels.answers.as_bytes() || channel == own_answers.as_bytes() {
                    Reading::Heard(redis_adapter::answer(payload))
                } else {
                    Reading::NotOurs
                }
            }
            (Self::Sharded { channels, .. }, Arrival::Message { pattern: false, channel, payload })
            | (Self::Streams { channels, .. }, Arrival::Message { pattern: false, channel, payload }) => {
                if channel.starts_with(channels.all.as_bytes()) {
                    Reading::Heard(cluster_adapter::message(payload))
                } else {
                    Reading::NotOurs
                }
            }
            (Self::Streams { .. }, Arrival::Entry { fields }) => {
                Reading::Heard(cluster_adapter::entry(fields.iter().map(|(name, value)| (&**name, value))))
            }
            (_, Arrival::Message { .. } | Arrival::Entry { .. } | Arrival::Connected | Arrival::Lost) => {
                Reading::NotOurs
            }
        }
    }

    /// A message to all other servers.
    pub fn say(&self, uid: &str, namespace: &str, message: &Message) -> Result<Option<Put>, Error> {
        let publish = |channel: String, payload: Vec<u8>| Put::Publish { channel, payload: payload.into() };
        let put = match self {
            Self::Redis { channels, .. } => {
                if let Some(broadcast) = plain(message) {
                    let payload = redis_adapter::write_broadcast(uid, namespace, broadcast)?;
                    Some(publish(channels.of_broadcast(&broadcast.to), payload))
                } else {
                    let payload = redis_adapter::write_request(uid, namespace, message)?;
                    payload.map(|payload| publish(channels.requests.clone(), payload))
                }
            }
            Self::Sharded { channels, .. } => {
                let channel = plain(message).and_then(|broadcast| match broadcast.to.rooms.0.as_slice() {
                    [room] => channels.of_room(room),
                    _ => None,
                });
                let channel = channel.unwrap_or_else(|| channels.all.clone());
                cluster_adapter::write(uid, namespace, message, Form::TextIfPossible)?
                    .map(|payload| Put::ShardPublish { channel, payload: payload.into() })
            }
            Self::Streams { stream, most, .. } if is_for_the_stream(message) => {
                cluster_adapter::write_entry(uid, namespace, message)?.map(|fields| Put::Append {
                    stream: stream.clone(),
                    most: *most,
                    fields: fields.into(),
                })
            }
            Self::Streams { channels, .. } => cluster_adapter::write(uid, namespace, message, Form::Packed)?
                .map(|payload| publish(channels.all.clone(), payload)),
        };
        Ok(put)
    }

    /// An answer, to the server of that uid where the adapter answers one by one.
    pub fn answer(
        &self,
        uid: &str,
        namespace: &str,
        to: Option<&str>,
        message: &Message,
    ) -> Result<Option<Put>, Error> {
        match self {
            Self::Redis { channels, .. } => {
                let channel = channels.answers.clone();
                Ok(redis_adapter::write_answer(message)?
                    .map(|payload| Put::Publish { channel, payload: payload.into() }))
            }
            Self::Sharded { channels, .. } => {
                let Some(to) = to else { return Ok(None) };
                let channel = channels.of_server(to);
                let payload = cluster_adapter::write(uid, namespace, message, Form::TextIfPossible)?;
                Ok(payload.map(|payload| Put::ShardPublish { channel, payload: Bytes::from(payload) }))
            }
            Self::Streams { channels, .. } => {
                let Some(to) = to else { return Ok(None) };
                let channel = channels.of_server(to);
                let payload = cluster_adapter::write(uid, namespace, message, Form::Packed)?;
                Ok(payload.map(|payload| Put::Publish { channel, payload: payload.into() }))
            }
        }
    }
}

/// A broadcast that wants no answers.
fn plain(message: &Message) -> Option<&Broadcast> {
    if let Message::Broadcast(broadcast) = message { Some(broadcast).filter(|one| one.ack.is_none()) } else { None }
}

/// What nobody needs to read again goes by pub/sub: what wants answers now.
fn is_for_the_stream(message: &Message) -> bool {
    match message {
        Message::Broadcast(broadcast) => broadcast.ack.is_none(),
        Message::Fetch { .. } | Message::ServerSide { .. } => false,
        Message::Join { .. }
        | Message::Leave { .. }
        | Message::Disconnect { .. }
        | Message::Ids { .. }
        | Message::AllRooms { .. }
        | Message::Found { .. }
        | Message::Rooms { .. }
        | Message::ServerSideAnswer { .. }
        | Message::ClientCount { .. }
        | Message::Acked { .. }
        | Message::Nothing => true,
    }
}
