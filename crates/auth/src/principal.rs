use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidegate_types::{InvalidName, Millis, RoomName, TenantId, UserId};

use crate::AuthError;
use crate::claims::{Received, millis};
use crate::terms::{Asked, Terms};

/// The longest `jti`, bytes.
const MAX_TOKEN_ID_BYTES: usize = 256;

/// What somebody is to the application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrincipalKind {
    /// A person with an account.
    #[default]
    User,
    /// A person or program of the operator, such as one who answers chats.
    Agent,
    /// A visitor without an account.
    Anonymous,
}

impl PrincipalKind {
    /// Its name in a token's `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Agent => "agent",
            Self::Anonymous => "anonymous",
        }
    }

    fn read(claim: Option<&Value>) -> Option<Self> {
        let name = claim?.as_str()?;
        [Self::User, Self::Agent, Self::Anonymous].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// Somebody who showed a valid credential. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// The tenant; nothing of another tenant is ever visible.
    pub tenant: TenantId,
    /// The user inside the tenant.
    pub user: UserId,
    /// The name to show.
    pub username: Option<Arc<str>>,
    /// Roles, for the application; Tidegate itself does not read them.
    pub roles: Arc<[Box<str>]>,
    /// Permissions; those of the form `room:<pattern>:<actions>` are room grants.
    pub permissions: Arc<[Box<str>]>,
    /// Further ones, given at the connect beside the credential.
    pub grants: Arc<[Box<str>]>,
    /// When the credential ends, ms since the Unix epoch.
    pub expires_at: Option<Millis>,
    /// When it was issued, ms since the Unix epoch.
    pub issued_at: Option<Millis>,
    /// Its own name (`jti`), by which it can be revoked.
    pub token_id: Option<Arc<str>>,
    /// What the user is.
    pub kind: PrincipalKind,
}

/// What can be done with a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoomAction {
    /// Become a member or listener, and see who is there.
    Join,
    /// Send to it.
    Send,
    /// Read what was sent before.
    History,
}

impl RoomAction {
    /// The action's name in a grant.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Send => "send",
            Self::History => "history",
        }
    }
}

impl Principal {
    /// Somebody without a name, roles, permissions or an end.
    pub fn new(tenant: TenantId, user: UserId) -> Self {
        Self {
            tenant,
            user,
            username: None,
            roles: Arc::default(),
            permissions: Arc::default(),
            grants: Arc::default(),
            expires_at: None,
            issued_at: None,
            token_id: None,
            kind: PrincipalKind::User,
        }
    }

    /// Whom claims are about whose signature was checked.
    pub(crate) fn from_claims(claims: Received, terms: &Terms, now: Millis) -> Result<Self, AuthError> {
        let issued_at = claims.iat.as_ref().map(|date| millis(date).ok_or(AuthError::Invalid)).transpose()?;
        let user = claims.user_id.or(claims.sub).ok_or(AuthError::Invalid)?;
        let mut principal = Self {
            tenant: match claims.tenant_id {
                Some(tenant) => TenantId::try_from(tenant).map_err(|_| AuthError::Invalid)?,
                None => TenantId::default_tenant(),
            },
            user: UserId::try_from(user).map_err(|_| AuthError::Invalid)?,
            username: match claims.username.or(claims.name) {
                // An empty name is as none; issuers write it for accounts without one.
                Some(name) if !name.is_empty() => Some(username(&name).map_err(|_| AuthError::Invalid)?),
                Some(_) | None => None,
            },
            roles: shared(claims.roles),
            permissions: shared(claims.permissions),
            grants: Arc::default(),
            expires_at: None,
            issued_at,
            token_id: token_id(claims.jti.as_ref())?,
            kind: PrincipalKind::read(claims.kind.as_ref())
                .or_else(|| PrincipalKind::read(claims.type_.as_ref()))
                .unwrap_or_default(),
        };
        let asked = Asked {
            exp: claims.exp.as_ref(),
            nbf: claims.nbf.as_ref(),
            aud: claims.aud.as_ref(),
            iss: claims.iss.as_ref().and_then(Value::as_str),
        };
        principal.expires_at = terms.check(&asked, now)?;
        Ok(principal)
    }

    /// The same with room grants that a backend gave at the connect, instead of earlier such ones. Where the token has no
    /// room grant, the first one given closes every other room; see [`Self::may`].
    #[must_use]
    pub fn with_grants(mut self, grants: impl IntoIterator<Item = Box<str>>) -> Self {
        self.grants = grants.into_iter().collect();
        self
    }

    /// Whether this principal may do that with a room of its tenant.
    ///
    /// Without a room grant everybody of the tenant may. With at least one, one of them must match:
    /// `room:<pattern>:<actions>`, where `*` in the pattern stands for any text (room names may hold `:` themselves,
    /// so the actions are what follows the last one) and the actions are `*` or some of `join,send,history`.
    /// A grant with an unknown action grants nothing by it, and still counts as a grant: a typing error closes a room,
    /// it never opens one. A permission `room:<word>` without a second `:` is no grant.
    pub fn may(&self, action: RoomAction, room: &RoomName) -> bool {
        let mut grants = self.permissions.iter().chain(&*self.grants).filter_map(|text| grant(text)).peekable();
        grants.peek().is_none()
            || grants.any(|(pattern, actions)| {
                actions.split(',').any(|name| matches!(name.trim(), "*") || name.trim() == action.as_str())
                    && matches(pattern.as_bytes(), room.as_str().as_bytes())
            })
    }

    /// Whether the credential has ended.
    pub fn expired(&self, now: Millis) -> bool {
        self.expires_at.is_some_and(|end| now >= end)
    }
}

/// An empty list, which most tokens have, takes no memory of its own.
fn shared(list: Option<Vec<Box<str>>>) -> Arc<[Box<str>]> {
    list.filter(|list| !list.is_empty()).map(Arc::from).unwrap_or_default()
}

/// A token with a name that could not be revoked is not let in.
fn token_id(jti: Option<&Value>) -> Result<Option<Arc<str>>, AuthError> {
    match jti {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) if id.len() <= MAX_TOKEN_ID_BYTES => Ok(Some(Arc::from(&**id))),
        Some(Value::Number(id)) => Ok(Some(id.to_string().into())),
        Some(Value::String(_) | Value::Bool(_) | Value::Array(_) | Value::Object(_)) => Err(AuthError::Invalid),
    }
}

/// A name to show: as long as a user's id at most, and without control characters.
pub(crate) fn username(text: &str) -> Result<Arc<str>, InvalidName> {
    UserId::try_from(text).map(|checked| Arc::from(checked.as_str()))
}

fn grant(permission: &str) -> Option<(&str, &str)> {
    permission.strip_prefix("room:")?.rsplit_once(':')
}

/// Whether the pattern, in which `*` stands for any text, matches the whole text. Goes back to the last `*` only, so
/// the time is at most the product of both lengths.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(expected) if expected == byte => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn principal(permissions: &[&str]) -> Principal {
        let mut principal = Principal::new(TenantId::default_tenant(), UserId::try_from("ada").unwrap());
        principal.permissions = permissions.iter().map(|text| Box::from(*text)).collect();
        principal
    }

    fn may(permissions: &[&str], action: RoomAction, room: &str) -> bool {
        principal(permissions).may(action, &RoomName::try_from(room).unwrap())
    }

    #[test]
    fn without_a_grant_everything_in_the_tenant_is_open() {
        for permissions in [&[][..], &["read", "write"], &["room:join"], &["rooms:a:b"]] {
            assert!(may(permissions, RoomAction::Join, "a"), "{permissions:?}");
        }
    }

    #[test]
    fn with_a_grant_only_what_matches_is_open() {
        let grants = &["write", "room:case:*:join,history", "room:lobby:*"];
        assert!(may(grants, RoomAction::Join, "case:17"));
        assert!(may(grants, RoomAction::History, "case:17:notes"));
        assert!(!may(grants, RoomAction::Send, "case:17"));
        assert!(may(grants, RoomAction::Send, "lobby"));
        assert!(!may(grants, RoomAction::Join, "lobby2"));
        assert!(!may(grants, RoomAction::Join, "other"));
    }

    #[test]
    fn a_misspelt_grant_opens_nothing() {
        assert!(!may(&["room:a:jion"], RoomAction::Join, "a"));
        assert!(!may(&["room:a:jion"], RoomAction::Join, "b"));
        assert!(!may(&["room::"], RoomAction::Join, "a"));
        assert!(!may(&["room:a:JOIN"], RoomAction::Join, "a"));
        assert!(may(&["room:a:jion, join"], RoomAction::Join, "a"));
    }

    #[test]
    fn grants_given_later_count_as_those_of_the_token() {
        let room = RoomName::try_from("lobby").unwrap();
        let open = principal(&[]);
        assert!(open.clone().with_grants([]).may(RoomAction::Join, &room));
        let narrowed = open.with_grants([Box::from("room:case:*:*")]);
        assert!(!narrowed.may(RoomAction::Join, &room));
        let both = [Box::from("room:case:*:*"), Box::from("room:lobby:join")];
        assert!(narrowed.with_grants(both).may(RoomAction::Join, &room));
        // What the token grants stays beside.
        let own = principal(&["room:lobby:join"]).with_grants([Box::from("room:case:*:*")]);
        assert!(own.may(RoomAction::Join, &room));
    }

    #[test]
    fn the_end_itself_is_expired() {
        let mut principal = principal(&[]);
        assert!(!principal.expired(u64::MAX));
        principal.expires_at = Some(10);
        assert!(!principal.expired(9));
        assert!(principal.expired(10));
    }

    /// The plain definition, exponential but obvious.
    fn obvious(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) if obvious(rest, text) => true,
            (Some((b'*', _)), Some((_, tail))) => obvious(pattern, tail),
            (Some((a, rest)), Some((b, tail))) if a == b => obvious(rest, tail),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_match_what_they_say(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), obvious(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
