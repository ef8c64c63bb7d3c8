//! Which namespaces are served, and how each behaves.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use tidegate_dialect::Dialect;
use tidegate_types::Namespace;

use crate::app::Handlers;
use crate::limits::Limits;

/// What the events of a namespace do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// The rooms API.
    Rooms,
    /// What a dialect declares.
    Dialect(Arc<Dialect>),
    /// What an application's handlers do.
    Handlers(Handlers),
}

/// Who is let into a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// Who shows a valid token.
    Token,
    /// Everybody. Who shows a token is verified all the same; who shows none is a stranger of the default tenant.
    Open,
    /// Everybody, and no token is looked at.
    Unchecked,
}

/// How a namespace behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceSettings {
    /// What its events do.
    pub behaviour: Behaviour,
    /// Who is let in.
    pub entrance: Entrance,
    /// Whether cut sessions can be recovered by stock clients. Without it CONNECT is answered without a `pid`, and
    /// events carry no offset as their last argument.
    pub recovery: bool,
    /// What users and tenants may do in it.
    pub limits: Limits,
    /// Whether a token may stand in the query of the handshake (`?token=`), for clients that can put it nowhere else.
    pub token_in_query: bool,
}

impl NamespaceSettings {
    /// A namespace that behaves so, with a token at the door and recovery, without limits.
    pub fn new(behaviour: Behaviour) -> Self {
        Self { behaviour, entrance: Entrance::Token, recovery: true, token_in_query: false, limits: Limits::default() }
    }
}

/// The namespaces that are served.
#[derive(Clone, Debug)]
pub struct Namespaces {
    served: FxHashMap<Namespace, Arc<NamespaceSettings>>,
}

impl Namespaces {
    /// No namespace at all.
    pub fn none() -> Self {
        Self { served: FxHashMap::default() }
    }

    /// Serves one more, or another way than before.
    #[must_use]
    pub fn with(mut self, namespace: Namespace, settings: NamespaceSettings) -> Self {
        self.served.insert(namespace, Arc::new(settings));
        self
    }

    /// From now on no session of the namespace recovers.
    pub(crate) fn forgo_recovery(&mut self, namespace: &Namespace) {
        if let Some(settings) = self.served.get_mut(namespace)
            && settings.recovery
        {
            *settings = Arc::new(NamespaceSettings { recovery: false, ..(**settings).clone() });
        }
    }

    /// Whether a namespace takes tokens from the query.
    pub(crate) fn look_at_query(&self) -> bool {
        self.served.values().any(|settings| settings.token_in_query)
    }

    /// How the namespace behaves; `None` if it is not served.
    pub fn get(&self, namespace: &Namespace) -> Option<&Arc<NamespaceSettings>> {
        self.served.get(namespace)
    }
}

impl Default for Namespaces {
    /// The rooms API in the root namespace.
    fn default() -> Self {
        let limits = Limits { messages_per_second: 100, message_burst: 200, ..Limits::default() };
        Self::none().with(Namespace::root(), NamespaceSettings { limits, ..NamespaceSettings::new(Behaviour::Rooms) })
    }
}
