//! The embedding API: an application in Rust, inside the server.
//!
//! An [`App`] says what its namespaces do ([`Namespace`]: handlers by event), and which paths are bare Engine.IO or plain
//! WebSocket ([`Endpoint`]). Handlers get a [`Socket`]; other threads reach clients by [`Io`] and [`Remote`]. How to start a
//! server around it: `tidegate_server`, and `docs/embedding.md`.
//!
//! ```
//! use tidegate_realtime::app::{App, Namespace, Refusal};
//!
//! let chat = Namespace::new()
//!     .without_auth()
//!     .admit(|applicant| match applicant.handshake.query("name") {
//!         Some(name) if !name.is_empty() => Ok(()),
//!         _ => Err(Refusal::new("A name is missing")),
//!     })
//!     .on_connect(|socket| {
//!         socket.set_data(socket.handshake().query("name").unwrap_or_default());
//!         let _ = socket.join("lobby");
//!     })
//!     .on("say", |socket, mut event| {
//!         let Ok(text) = event.first::<String>() else { return };
//!         let name: String = socket.data().unwrap_or_default();
//!         socket.io().to("lobby").emit("said", tidegate_realtime::app::Args::from(&name).with(&text));
//!         event.ack(&true);
//!     })
//!     .on_disconnect(|socket, _reason| socket.to("lobby").emit("left", &socket.id()));
//! let app = App::new().namespace("/chat", chat);
//! # let _ = app;
//! ```

mod among;
mod args;
mod broadcast;
mod endpoint;
mod event;
mod guard;
mod handshake;
mod io;
mod namespace;
mod socket;

use std::rc::Rc;
use std::sync::Arc;

use tidegate_auth::Principal;
use tidegate_types::{CloseReason, Namespace as Name};

pub use among::{Answers, Found};
pub use args::{Args, BadArgs};
pub use broadcast::Broadcast;
pub use endpoint::{Endpoint, Link, Message};
pub use event::{Ack, Event};
pub use handshake::Handshake;
pub use io::{Io, Past, PublishError, Remote};
pub use namespace::{Applicant, Handlers, Namespace, Refusal};
pub use socket::{JoinError, NoAnswer, Socket};

pub(crate) use broadcast::{Deed, Order, Reach, Targets};
pub(crate) use endpoint::{LinkState, message};
pub(crate) use handshake::Head;
pub(crate) use namespace::{answered, event};
pub(crate) use socket::Own;

use crate::connect::{Comeback, let_in, refuse_with};
use crate::connection::{Conn, NamespaceSocket, Protocol};
use crate::input::Handled;
use crate::limits::Limits;
use crate::namespaces::{Behaviour, NamespaceSettings, Namespaces};
use crate::node::SpaceCell;
use crate::shard::Shard;
use namespace::Admission;

/// An application: what is served, and how. Only its own namespaces are.
#[derive(Clone, Debug, Default)]
pub struct App {
    namespaces: Vec<(Name, NamespaceSettings, Option<Limits>)>,
    endpoints: Vec<(Arc<str>, Kind, Endpoint)>,
    problem: Option<String>,
}

/// What an endpoint speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Engine,
    WebSocket,
}

impl App {
    /// An application that serves nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves a namespace (`/`, `/chat`), in place of one of the same name.
    #[must_use]
    pub fn namespace(self, name: &str, namespace: Namespace) -> Self {
        let limits = namespace.limits();
        self.serve(name, namespace.settings(), limits)
    }

    /// Serves the rooms API (`docs/api.md`) in a namespace.
    #[must_use]
    pub fn rooms_api(self, name: &str) -> Self {
        self.serve(name, NamespaceSettings::new(Behaviour::Rooms), None)
    }

    fn serve(mut self, name: &str, settings: NamespaceSettings, limits: Option<Limits>) -> Self {
        match Name::try_from(name).ok().filter(|_| name.starts_with('/')) {
            Some(name) => self.namespaces.push((name, settings, limits)),
            None => self.blame(format!("{name:?} is no name for a namespace: it begins with \"/\"")),
        }
        self
    }

    /// Serves bare Engine.IO at a path, for clients like `engine.io-client`.
    #[must_use]
    pub fn engine(self, path: &str, endpoint: Endpoint) -> Self {
        self.endpoint(path, Kind::Engine, endpoint)
    }

    /// Serves plain WebSocket at a path.
    #[must_use]
    pub fn websocket(self, path: &str, endpoint: Endpoint) -> Self {
        self.endpoint(path, Kind::WebSocket, endpoint)
    }

    fn endpoint(mut self, path: &str, kind: Kind, endpoint: Endpoint) -> Self {
        if !path.starts_with('/') || path.contains(['?', '#']) {
            self.blame(format!("{path:?} is no path: it begins with \"/\" and has no query"));
        }
        self.endpoints.push((trimmed(path).into(), kind, endpoint));
        self
    }

    fn blame(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
    }

    /// What is wrong with the application, if something is.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// What is to be served, with these limits where the application sets none.
    pub fn namespaces(&self, usual: Limits) -> Namespaces {
        self.namespaces.iter().fold(Namespaces::none(), |served, (name, settings, limits)| {
            served.with(name.clone(), NamespaceSettings { limits: limits.unwrap_or(usual), ..settings.clone() })
        })
    }

    /// The endpoint of a path, with or without a slash at its end.
    pub(crate) fn endpoint_at(&self, path: &str) -> Option<(Kind, &Endpoint)> {
        let path = trimmed(path);
        self.endpoints.iter().find(|(at, ..)| **at == *path).map(|(_, kind, endpoint)| (*kind, endpoint))
    }
}

fn trimmed(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

/// Somebody with a valid token, or a stranger where none is asked for, wants into a namespace of the application.
pub(crate) fn connect(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    principal: Arc<Principal>,
    handlers: &Handlers,
    auth: &str,
    comeback: Comeback,
) -> Handled {
    let handshake = Handshake::new(conn, auth);
    let applicant = Rc::new(Applicant { principal: principal.clone(), handshake });
    match handlers.admit(&applicant) {
        Admission::Decided(decision) => decided(shard, conn, space, decision, applicant, comeback),
        Admission::Asked(decision) => {
            let (shard, conn, space) = (shard.clone(), conn.clone(), space.clone());
            Handled::Later(Box::pin(async move {
                let decision = decision.await;
                if conn.is_closed() {
                    return;
                }
                match decided(&shard, &conn, &space, decision, applicant, comeback) {
                    Handled::Done => {}
                    Handled::Later(rest) => rest.await,
                    Handled::Close(reason) => shard.end(&conn, reason),
                }
            }))
        }
    }
}

fn decided(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    decision: Option<Result<(), Refusal>>,
    applicant: Rc<Applicant>,
    comeback: Comeback,
) -> Handled {
    match decision {
        Some(Ok(())) => let_in(shard, conn, space, applicant.principal.clone(), Some(applicant), comeback),
        Some(Err(refusal)) => {
            refuse_with(shard, conn, &space.key.namespace, &refusal.to_json());
            Handled::Done
        }
        None => Handled::Close(CloseReason::InternalError),
    }
}

/// A client is in a namespace of the application.
pub(crate) fn greet(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    space: &Arc<SpaceCell>,
    own: Rc<Own>,
) -> Option<crate::input::Later> {
    let Behaviour::Handlers(handlers) = &space.settings.behaviour else { return None };
    handlers.greet(&Socket::new(shard.clone(), conn.clone(), space.clone(), own))
}

/// A client leaves a namespace of the application, or is lost. Called before it is taken out of its rooms.
pub(crate) fn gone(shard: &Rc<Shard>, conn: &Rc<Conn>, socket: &NamespaceSocket, reason: CloseReason) {
    let (Some(own), Behaviour::Handlers(handlers)) = (&socket.app, &socket.space.settings.behaviour) else { return };
    handlers.gone(&Socket::new(shard.clone(), conn.clone(), socket.space.clone(), own.clone()), reason);
}

/// A connection of an endpoint is open.
pub(crate) fn opened(shard: &Rc<Shard>, conn: &Rc<Conn>) {
    if let Some(link) = Link::of(shard, conn) {
        link.endpoint().opened(&link);
    }
}

/// A connection of an endpoint has ended.
pub(crate) fn closed(shard: &Rc<Shard>, conn: &Rc<Conn>, reason: CloseReason) {
    if let Some(link) = Link::of(shard, conn) {
        link.endpoint().closed(&link, reason);
    }
}

impl Protocol {
    /// What is kept of an endpoint's connection.
    pub(crate) fn link(&self) -> Option<&Rc<LinkState>> {
        match self {
            Self::SocketIo | Self::Lines => None,
            Self::Engine(link) | Self::WebSocket(link) => Some(link),
        }
    }
}
