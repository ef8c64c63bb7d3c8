use std::sync::Arc;

use tidegate_types::{InvalidName, Millis, RoomName, TenantId, UserId};

/// Somebody who showed a valid credential. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// When the credential ends, ms since the Unix epoch.
    pub expires_at: Option<Millis>,
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
        Self { tenant, user, username: None, roles: Arc::default(), permissions: Arc::default(), expires_at: None }
    }

    /// Whether this principal may do that with a room of its tenant.
    ///
    /// Without a room grant everybody of the tenant may. With at least one, one of them must match:
    /// `room:<pattern>:<actions>`, where `*` in the pattern stands for any text (room names may hold `:` themselves,
    /// so the actions are what follows the last one) and the actions are `*` or some of `join,send,history`.
    /// A grant with an unknown action grants nothing by it, and still counts as a grant: a typing error closes a room,
    /// it never opens one. A permission `room:<word>` without a second `:` is no grant.
    pub fn may(&self, action: RoomAction, room: &RoomName) -> bool {
        let mut grants = self.permissions.iter().filter_map(|permission| grant(permission)).peekable();
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

/// A name to show: as long as a user's id at most, and without control characters.
pub(crate) fn username(text: &str) -> Result<Arc<str>, InvalidName> {
    UserId::try_from(text).map(|checked| Arc::from(checked.as_str()))
}

fn grant(permission: &str) -> Option<(&str, &str)> {
    permission.strip_prefix("room:")?.rsplit_once(':')
}

/// Whether the pattern, in which `*` stands for any text, matches the whole text. Goes back to the last `*` only, so
/// the time is at most the product of both lengths.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
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
