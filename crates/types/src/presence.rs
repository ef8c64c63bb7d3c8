use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Millis, UserId};

/// How present a user is. The order is that of precedence when a user has several connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Not to be seen.
    Offline,
    /// Idle.
    Away,
    /// There, but not to be disturbed.
    Busy,
    /// There.
    Online,
}

impl Status {
    /// The status as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Away => "away",
            Self::Busy => "busy",
            Self::Offline => "offline",
        }
    }
}

/// Not one of `online`, `away`, `busy`, `offline`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidStatus;

impl fmt::Display for InvalidStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("status must be one of online, away, busy, offline")
    }
}

impl std::error::Error for InvalidStatus {}

impl FromStr for Status {
    type Err = InvalidStatus;
    fn from_str(text: &str) -> Result<Self, InvalidStatus> {
        match text {
            "online" => Ok(Self::Online),
            "away" => Ok(Self::Away),
            "busy" => Ok(Self::Busy),
            "offline" => Ok(Self::Offline),
            _ => Err(InvalidStatus),
        }
    }
}

/// One user's presence, in the shape of the rooms API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PresenceInfo {
    /// The user.
    pub user_id: UserId,
    /// The name to show, when the token has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<Arc<str>>,
    /// The merged status of the user's connections.
    pub status: Status,
    /// Last sign of life, ms since the Unix epoch.
    pub last_seen: Millis,
    /// What the user said about themselves; a status update merges into it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Arc<serde_json::Map<String, serde_json::Value>>>,
    /// How many connections the user has; on the wire only if there are several.
    #[serde(skip_serializing_if = "is_one", default = "one")]
    pub active_connections: u32,
    /// What the user is doing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_activity: Option<Arc<str>>,
    /// A status in the user's own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_status: Option<Arc<str>>,
}

fn one() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(count: &u32) -> bool {
    *count == 1
}
