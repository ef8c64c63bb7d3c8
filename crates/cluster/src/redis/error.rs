//! What can go wrong on the way to Redis, in words that say what to do.

use std::io;

use super::resp::{ErrorCode, ServerError};
use super::settings::Address;

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Too much waits for the server already. It was not sent.
    #[error("too much waits for Redis")]
    Behind,
    /// The connection ended before it was sent: the server has certainly not carried it out.
    #[error("Redis cannot be reached")]
    Unsent,
    /// It was sent, and there is no answer: the server may have carried it out, or may still do so.
    #[error("Redis has not answered")]
    Unanswered,
    /// The server answered with an error.
    #[error("Redis answered: {0}")]
    Answered(#[from] ServerError),
}

impl LinkError {
    /// Whether the server may have carried the call out. A script that failed half-way counts as carried out.
    pub fn may_have_run(&self) -> bool {
        match self {
            Self::Behind | Self::Unsent => false,
            Self::Unanswered => true,
            Self::Answered(error) => match error.code {
                ErrorCode::Moved
                | ErrorCode::Ask
                | ErrorCode::TryAgain
                | ErrorCode::CrossSlot
                | ErrorCode::ClusterDown
                | ErrorCode::ReadOnly
                | ErrorCode::Loading
                | ErrorCode::MasterDown
                | ErrorCode::NoReplicas
                | ErrorCode::Misconf
                | ErrorCode::OutOfMemory
                | ErrorCode::Busy
                | ErrorCode::NoPerm
                | ErrorCode::NoAuth
                | ErrorCode::WrongPass
                | ErrorCode::NoProto
                | ErrorCode::NoScript => false,
                ErrorCode::WrongType | ErrorCode::Other => true,
            },
        }
    }

    /// What kind of error it is: the server's code, if it answered.
    pub fn code(&self) -> Option<ErrorCode> {
        if let Self::Answered(error) = self { Some(error.code) } else { None }
    }
}

/// Why there is no connection that can be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("its name cannot be resolved: {0}")]
    Resolve(io::Error),
    #[error("it does not take connections: {0}")]
    Connect(io::Error),
    #[error(
        "it was not ready within connect_timeout; a stopped or overloaded server is like this, or a firewall that drops packets"
    )]
    Late,
    #[error("TLS: {0}")]
    Tls(String),
    #[error("{0}")]
    Broken(String),
    #[error("{}", explain(.0))]
    Answered(ServerError),
    #[error("it is Redis {0}, and Redis 7.0 or later (or Valkey) is needed, for sharded pub/sub (SSUBSCRIBE)")]
    TooOld(String),
    #[error("INFO does not tell {0}; is it Redis or Valkey itself, and no proxy?")]
    NoInfo(&'static str),
    #[error("it is a replica, and cannot be written; name the primary, or use Sentinel to find it")]
    Replica,
    #[error("it is a node of a Redis Cluster; set `mode = \"cluster\"`")]
    InCluster,
    #[error("it is a Sentinel; set `mode = \"sentinel\"` to ask it for the primary")]
    Sentinel,
    #[error("it is no node of a Redis Cluster (CLUSTER SLOTS: {0}); set `mode = \"standalone\"`")]
    NoCluster(String),
    #[error("its two connections reached two servers, or one restarted in between")]
    TwoServers,
    #[error("no Sentinel could be asked; the last one: {0}: {1}")]
    NoSentinel(Address, Box<ConnectError>),
    #[error("the Sentinel {0} knows no service {1:?}; see `sentinel monitor` in its configuration")]
    NoService(Address, Box<str>),
    #[error("no node of the cluster could be asked for its slots; the last one: {0}: {1}")]
    NoNode(Address, Box<ConnectError>),
    #[error("it answered {0} with something unexpected")]
    Unexpected(&'static str),
}

impl ConnectError {
    /// What stays the same while a server stays in the same trouble: a line is written once per such word.
    pub(super) fn state(&self) -> String {
        match self {
            // The addresses tried and the texts of the system may change from try to try.
            Self::Connect(error) => format!("connect {:?}", error.kind()),
            Self::Resolve(_) => "resolve".to_owned(),
            Self::NoSentinel(_, inner) | Self::NoNode(_, inner) => format!("nobody: {}", inner.state()),
            Self::Answered(error) => format!("{:?}", error.code),
            Self::Late
            | Self::Tls(_)
            | Self::Broken(_)
            | Self::TooOld(_)
            | Self::NoInfo(_)
            | Self::Replica
            | Self::InCluster
            | Self::Sentinel
            | Self::NoCluster(_)
            | Self::TwoServers
            | Self::NoService(..)
            | Self::Unexpected(_) => self.to_string(),
        }
    }
}

fn explain(error: &ServerError) -> String {
    let advice = match error.code {
        ErrorCode::NoAuth => "it wants a password; set `password`",
        ErrorCode::WrongPass => "the user or the password is wrong",
        ErrorCode::NoPerm => {
            "the user may not do what is needed: ACL SETUSER USER ~PREFIX:* &PREFIX:* +@all -@dangerous +info permits it, with \
             the prefix of the settings"
        }
        ErrorCode::NoProto => "it does not speak RESP3; Redis 7.0 or later (or Valkey) is needed",
        ErrorCode::Other if error.text.contains("unknown command") => {
            "it does not know a command that is needed; Redis 7.0 or later (or Valkey) is needed"
        }
        ErrorCode::Other if error.text.contains("without any password configured") => {
            "it has no password, and one is set here; remove `password`"
        }
        ErrorCode::Loading => "it is reading its data from disk; it is tried again until it is done",
        ErrorCode::Moved
        | ErrorCode::Ask
        | ErrorCode::TryAgain
        | ErrorCode::CrossSlot
        | ErrorCode::ClusterDown
        | ErrorCode::ReadOnly
        | ErrorCode::MasterDown
        | ErrorCode::NoReplicas
        | ErrorCode::Misconf
        | ErrorCode::OutOfMemory
        | ErrorCode::Busy
        | ErrorCode::NoScript
        | ErrorCode::WrongType
        | ErrorCode::Other => return format!("it answered: {}", error.text),
    };
    format!("it answered: {} ({advice})", error.text)
}
