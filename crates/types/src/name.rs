use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidName {
    /// Names are never empty.
    Empty,
    /// Longer than the limit, in bytes.
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// Holds an ASCII control character.
    Control,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("must not be empty"),
            Self::TooLong { limit } => write!(f, "must be at most {limit} bytes long"),
            Self::Control => f.write_str("must not contain control characters"),
        }
    }
}

impl std::error::Error for InvalidName {}

fn check(text: &str, limit: usize) -> Result<(), InvalidName> {
    if text.is_empty() {
        Err(InvalidName::Empty)
    } else if text.len() > limit {
        Err(InvalidName::TooLong { limit })
    } else if text.bytes().any(|byte| byte.is_ascii_control()) {
        Err(InvalidName::Control)
    } else {
        Ok(())
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $limit:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The longest name accepted, in bytes.
            pub const MAX_BYTES: usize = $limit;

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidName;
            fn try_from(text: &str) -> Result<Self, InvalidName> {
                check(text, $limit)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::try_from(text.as_str())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name!(
    /// A customer whose data no other customer may see. From the JWT claim `tenantId`.
    TenantId, 128
);
name!(
    /// A room's name inside one (tenant, namespace).
    RoomName, 256
);
name!(
    /// A user inside one tenant. From the JWT claim `userId`, or else `sub`.
    UserId, 256
);
name!(
    /// A Socket.IO event's name.
    EventName, 256
);
name!(
    /// What a sender calls a message of its own (`clientMessageId`, `nonce`, `Idempotency-Key`), so that sending it again
    /// after a lost answer does not publish it twice.
    IdempotencyKey, 128
);

impl TenantId {
    /// The tenant of tokens that name none.
    pub fn default_tenant() -> Self {
        Self("default".into())
    }
}

/// A Socket.IO namespace; always begins with `/`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// The longest namespace accepted, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// The main namespace, `/`.
    pub fn root() -> Self {
        Self("/".into())
    }

    /// Whether this is the main namespace.
    pub fn is_root(&self) -> bool {
        &*self.0 == "/"
    }

    /// The namespace as text, with its leading `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for Namespace {
    type Error = InvalidName;
    fn try_from(text: &str) -> Result<Self, InvalidName> {
        check(text, Self::MAX_BYTES)?;
        if text.starts_with('/') { Ok(Self(text.into())) } else { Ok(Self(format!("/{text}").into())) }
    }
}

impl TryFrom<String> for Namespace {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::try_from(text.as_str())
    }
}

impl From<Namespace> for String {
    fn from(name: Namespace) -> String {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// The scope of one sequence counter: everything a session can see lies in one space.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SpaceKey {
    /// The tenant.
    pub tenant: TenantId,
    /// The namespace.
    pub namespace: Namespace,
}

/// A room. Two tenants may use the same room name and never meet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomKey {
    /// The tenant.
    pub tenant: TenantId,
    /// The namespace.
    pub namespace: Namespace,
    /// The room.
    pub room: RoomName,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_could_forge_a_line_or_a_key() {
        assert_eq!(RoomName::try_from(""), Err(InvalidName::Empty));
        assert_eq!(RoomName::try_from("a\nb"), Err(InvalidName::Control));
        assert!(RoomName::try_from("a".repeat(257).as_str()).is_err());
        assert_eq!(RoomName::try_from("räume:1").unwrap().as_str(), "räume:1");
    }

    #[test]
    fn namespaces_gain_their_slash() {
        assert_eq!(Namespace::try_from("chat").unwrap().as_str(), "/chat");
        assert!(Namespace::root().is_root());
    }
}
