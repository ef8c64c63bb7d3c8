//! An event on its way to its handler, and the answer it may want.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use tidegate_metrics::EventLabel;
use tidegate_wire::socket_io;

use super::args::{Args, BadArgs};
use super::socket::Socket;

/// An event from a client.
#[derive(Debug)]
pub struct Event<'a> {
    name: Cow<'a, str>,
    args: Args<'a>,
    ack: Option<Ack>,
}

impl<'a> Event<'a> {
    pub(crate) fn new(name: Cow<'a, str>, args: &'a str, attachments: Vec<Bytes>, ack: Option<Ack>) -> Self {
        Self { name, args: Args::checked(args, attachments), ack }
    }

    /// The event's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its arguments.
    pub fn args(&self) -> &Args<'a> {
        &self.args
    }

    /// See [`Args::first`].
    ///
    /// # Errors
    /// As there.
    pub fn first<'s, T: Deserialize<'s>>(&'s self) -> Result<T, BadArgs> {
        self.args.first()
    }

    /// See [`Args::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, BadArgs> {
        self.args.read()
    }

    /// The arguments, to be sent on as they came.
    pub fn into_args(self) -> Args<'a> {
        self.args
    }

    /// Whether the client waits for an answer, and none has been given.
    pub fn wants_ack(&self) -> bool {
        self.ack.is_some()
    }

    /// Takes the right to answer; `None` if the client wants no answer, or it has been taken.
    pub fn take_ack(&mut self) -> Option<Ack> {
        self.ack.take()
    }

    /// Answers, if the client waits for it.
    pub fn ack<'b>(&mut self, args: impl Into<Args<'b>>) {
        if let Some(ack) = self.ack.take() {
            ack.send(args);
        }
    }

    pub(crate) fn into_owned(self) -> Event<'static> {
        let name = Cow::Owned(self.name.into_owned());
        Event { name, args: self.args.into_owned(), ack: self.ack }
    }
}

/// The right to answer an event, once. Dropped, it answers nothing, and the client waits until its own timeout.
#[derive(Debug)]
pub struct Ack {
    socket: Socket,
    id: u64,
}

impl Ack {
    pub(crate) fn new(socket: Socket, id: u64) -> Self {
        Self { socket, id }
    }

    /// Answers.
    pub fn send<'a>(self, args: impl Into<Args<'a>>) {
        let (json, attachments) = args.into().into_parts();
        let namespace = self.socket.namespace();
        self.socket.packet(EventLabel::Ack, &attachments, |packet| {
            if attachments.is_empty() {
                socket_io::ack(packet, namespace, self.id, &json);
            } else {
                socket_io::binary_ack(packet, attachments.len(), namespace, self.id, &json);
            }
        });
    }
}
