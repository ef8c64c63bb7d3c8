use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tidegate_types::{Namespace, RoomName, TenantId};

use crate::Secret;
use crate::principal::matches;
use crate::secret::digests_eq;

/// What a backend may do with its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Send messages to rooms, users and everybody.
    Publish,
    /// Read what was sent to rooms.
    History,
    /// See who is in a room.
    Presence,
    /// See which rooms there are.
    Rooms,
    /// See who is connected.
    Connections,
    /// End connections.
    Disconnect,
    /// Put users into rooms and take them out.
    Membership,
    /// Revoke tokens.
    Revoke,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Publish,
        Self::History,
        Self::Presence,
        Self::Rooms,
        Self::Connections,
        Self::Disconnect,
        Self::Membership,
        Self::Revoke,
    ];

    /// The scope's name in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::History => "history",
            Self::Presence => "presence",
            Self::Rooms => "rooms",
            Self::Connections => "connections",
            Self::Disconnect => "disconnect",
            Self::Membership => "membership",
            Self::Revoke => "revoke",
        }
    }
}

/// There is no such scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is none of publish, history, presence, rooms, connections, disconnect, membership, revoke and *")]
pub struct UnknownScope;

/// A set of scopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// None at all.
    pub const NONE: Self = Self(0);
    /// Every scope.
    pub const ALL: Self = Self(u8::MAX);
    /// Publishing alone: what a key may that names no scopes.
    pub const PUBLISH: Self = Self(1 << Scope::Publish as u8);

    /// Whether the scope is in it.
    pub fn contains(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u8) != 0
    }

    /// The scopes in it.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.contains(*scope))
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// One scope by its name, or all as `*`.
impl FromStr for Scopes {
    type Err = UnknownScope;
    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        if text == "*" {
            return Ok(Self::ALL);
        }
        let scope = Scope::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or(UnknownScope)?;
        Ok(Self(1 << scope as u8))
    }
}

/// How often a key may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRate {
    /// Requests per second; each operation of a batch counts.
    pub per_second: u32,
    /// Requests at once.
    pub burst: u32,
}

/// What a backend shows. Holds only the secret's SHA-256.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    id: Arc<str>,
    digest: [u8; 32],
    tenant: Option<TenantId>,
    scopes: Scopes,
    rooms: Option<Arc<[Box<str>]>>,
    namespaces: Option<Arc<[Namespace]>>,
    rate: Option<KeyRate>,
}

impl ApiKey {
    /// A key named `id` in logs; bound to one tenant, or free to name any. It may publish, to every room.
    pub fn new(id: impl Into<Arc<str>>, secret: &Secret, tenant: Option<TenantId>) -> Self {
        Self {
            id: id.into(),
            digest: Sha256::digest(secret.expose().as_bytes()).into(),
            tenant,
            scopes: Scopes::PUBLISH,
            rooms: None,
            namespaces: None,
            rate: None,
        }
    }

    /// The same with these scopes instead.
    #[must_use]
    pub fn with_scopes(mut self, scopes: Scopes) -> Self {
        self.scopes = scopes;
        self
    }

    /// The same, confined to rooms of one of these patterns, in which `*` stands for any text.
    #[must_use]
    pub fn with_rooms(mut self, patterns: impl IntoIterator<Item = String>) -> Self {
        self.rooms = Some(patterns.into_iter().map(String::into_boxed_str).collect());
        self
    }

    /// The same, confined to these namespaces.
    #[must_use]
    pub fn with_namespaces(mut self, namespaces: impl IntoIterator<Item = Namespace>) -> Self {
        self.namespaces = Some(namespaces.into_iter().collect());
        self
    }

    /// The same, not to be used more often than that.
    #[must_use]
    pub fn with_rate(mut self, rate: KeyRate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// The key's name, for logs.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The only tenant it concerns; `None` if each request names one.
    pub fn tenant(&self) -> Option<&TenantId> {
        self.tenant.as_ref()
    }

    /// What may be done with it.
    pub fn scopes(&self) -> Scopes {
        self.scopes
    }

    /// The patterns of the only rooms it concerns; `None` if it concerns all.
    pub fn rooms(&self) -> Option<&[Box<str>]> {
        self.rooms.as_deref()
    }

    /// The only namespaces it concerns; `None` if it concerns all.
    pub fn namespaces(&self) -> Option<&[Namespace]> {
        self.namespaces.as_deref()
    }

    /// How often it may be used; `None` if there is no limit.
    pub fn rate(&self) -> Option<KeyRate> {
        self.rate
    }

    /// Whether it concerns the room.
    pub fn opens_room(&self, room: &RoomName) -> bool {
        let name = room.as_str().as_bytes();
        self.rooms.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| matches(pattern.as_bytes(), name)))
    }

    /// Whether it is confined to no namespaces.
    pub fn opens_all_namespaces(&self) -> bool {
        self.namespaces.is_none()
    }

    /// Whether it concerns the namespace.
    pub fn opens_namespace(&self, namespace: &Namespace) -> bool {
        self.namespaces.as_ref().is_none_or(|namespaces| namespaces.contains(namespace))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("id", &self.id).field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

/// The API keys of the config.
#[derive(Clone, Debug, Default)]
pub struct ApiKeys(Arc<[ApiKey]>);

impl ApiKeys {
    /// All keys.
    pub fn new(keys: impl IntoIterator<Item = ApiKey>) -> Self {
        Self(keys.into_iter().collect())
    }

    /// Whether there is none, so that the API is closed to backends.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys, in the order of the config.
    pub fn iter(&self) -> impl Iterator<Item = &ApiKey> {
        self.0.iter()
    }

    /// The key with that id. Who names one has shown nothing.
    pub fn named(&self, id: &str) -> Option<&ApiKey> {
        self.0.iter().find(|key| key.id() == id)
    }

    /// The key with that secret. Takes the same time whichever key it is, or none.
    pub fn find(&self, secret: &str) -> Option<&ApiKey> {
        let digest: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        self.0.iter().fold(None, |found, key| if digests_eq(&key.digest, &digest) { Some(key) } else { found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_its_secret_only() {
        let tenant = TenantId::try_from("acme").unwrap();
        let keys = ApiKeys::new([
            ApiKey::new("a", &Secret::from("first"), None),
            ApiKey::new("b", &Secret::from("second"), Some(tenant.clone())),
        ]);
        assert_eq!(keys.find("first").map(ApiKey::id), Some("a"));
        assert_eq!(keys.find("second").and_then(ApiKey::tenant), Some(&tenant));
        for wrong in ["", "a", "firs", "first ", "FIRST"] {
            assert_eq!(keys.find(wrong), None, "{wrong}");
        }
        assert_eq!(ApiKeys::default().find(""), None);
        assert!(!format!("{keys:?}").contains("first"));
    }

    #[test]
    fn a_key_publishes_until_it_is_given_other_scopes() {
        let key = ApiKey::new("a", &Secret::from("s"), None);
        assert_eq!(key.scopes().iter().collect::<Vec<_>>(), [Scope::Publish]);
        let scopes = "history".parse::<Scopes>().unwrap().and("revoke".parse().unwrap());
        let key = key.with_scopes(scopes);
        assert_eq!(key.scopes().iter().collect::<Vec<_>>(), [Scope::History, Scope::Revoke]);
        assert!("*".parse::<Scopes>().unwrap().iter().eq(Scope::ALL));
        for scope in Scope::ALL {
            assert!(scope.as_str().parse::<Scopes>().unwrap().iter().eq([scope]));
            assert!(UnknownScope.to_string().contains(scope.as_str()));
        }
        for wrong in ["", "Publish", "publish ", "**"] {
            assert_eq!(wrong.parse::<Scopes>(), Err(UnknownScope));
        }
    }

    #[test]
    fn a_confined_key_opens_what_it_names_and_nothing_else() {
        let room = |name: &str| RoomName::try_from(name).unwrap();
        let key = ApiKey::new("a", &Secret::from("s"), None);
        assert!(key.opens_room(&room("anything")) && key.opens_namespace(&Namespace::root()));
        let events = Namespace::try_from("/events").unwrap();
        let key = key.with_rooms(["case:*".into(), "lobby".into()]).with_namespaces([events.clone()]);
        assert!(key.opens_room(&room("case:17")) && key.opens_room(&room("lobby")));
        assert!(!key.opens_room(&room("lobby2")) && !key.opens_room(&room("a case:17")));
        assert!(key.opens_namespace(&events) && !key.opens_namespace(&Namespace::root()));
        let closed = ApiKey::new("a", &Secret::from("s"), None).with_rooms([]);
        assert!(!closed.opens_room(&room("lobby")), "no pattern is no room");
    }
}
