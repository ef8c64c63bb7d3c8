use tidegate_rules::push_rfc3339;
use tidegate_types::{Millis, push_number};
use tidegate_wire::write_string;

use crate::payload::Payload;
use crate::refusal::Refusal;

/// What is known when a template is rendered, borrowed from wherever it lies. What is not known is left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// The user, as the token says.
    pub user: &'a str,
    /// The user's name to show.
    pub username: Option<&'a str>,
    /// The tenant.
    pub tenant: &'a str,
    /// What the user is: `user`, `agent`, `anonymous`, or what the token says.
    pub kind: &'a str,
    /// The socket's id.
    pub socket: &'a str,
    /// Now, ms since the Unix epoch.
    pub now: Millis,
    /// The id of the message.
    pub id: &'a str,
    /// Participants of the room.
    pub count: Option<u64>,
    /// The room.
    pub room: Option<&'a str>,
    /// Who is in the room: JSON.
    pub members: Option<&'a str>,
    /// Who has come: JSON.
    pub member: Option<&'a str>,
    /// Who has come or gone.
    pub member_id: Option<&'a str>,
    /// What is refused.
    pub refusal: Option<&'a Refusal>,
    /// What the client sent.
    pub payload: Option<&'a Payload<'a>>,
}

macro_rules! facts {
    ($($variant:ident = $name:literal,)+) => {
        /// What a placeholder stands for, other than a field of the payload.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Fact {
            $($variant,)+
        }

        impl Fact {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

facts! {
    User = "user",
    Username = "username",
    Tenant = "tenant",
    Kind = "kind",
    Socket = "socket",
    Now = "now",
    NowMs = "now_ms",
    Id = "id",
    Count = "count",
    Room = "room",
    RoomKey = "room_key",
    Members = "members",
    Member = "member",
    MemberId = "member_id",
    Code = "code",
    Error = "error",
    RetryAfter = "retry_after",
    RoomCount = "room_count",
}

/// Where a template stands: what is known there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scene {
    Connect,
    Event,
    Disconnect,
    /// The refusal of an event.
    Refusal,
    /// A refusal that may be of a connection, too: nobody is known then.
    AnyRefusal,
    Joined,
    Left,
    Updated,
}

impl Scene {
    pub fn knows(self, fact: Fact) -> bool {
        use Fact::{
            Code, Count, Error, Id, Kind, Member, MemberId, Members, Now, NowMs, RetryAfter, Room, RoomCount, RoomKey,
            Socket, Tenant, User, Username,
        };
        match fact {
            Now | NowMs => true,
            Tenant => self != Self::AnyRefusal,
            User | Username | Kind | Socket => {
                matches!(self, Self::Connect | Self::Event | Self::Disconnect | Self::Refusal)
            }
            Id => matches!(self, Self::Connect | Self::Event | Self::Disconnect),
            Count => !matches!(self, Self::Refusal | Self::AnyRefusal | Self::Joined | Self::Left),
            Room | RoomKey => matches!(self, Self::Disconnect | Self::Joined | Self::Left | Self::Updated),
            Members => self == Self::Updated,
            Member => self == Self::Joined,
            MemberId => matches!(self, Self::Joined | Self::Left),
            Code | Error | RetryAfter | RoomCount => matches!(self, Self::Refusal | Self::AnyRefusal),
        }
    }

    pub fn known(self) -> impl Iterator<Item = &'static str> {
        Fact::ALL.iter().filter(move |fact| self.knows(**fact)).map(|fact| fact.name())
    }
}

/// What stands behind the first `:` of a room, or the whole.
fn room_key(room: &str) -> &str {
    room.split_once(':').map_or(room, |(_, key)| key)
}

impl Facts<'_> {
    /// Appends the value as JSON; whether there is one.
    pub(crate) fn push_json(&self, fact: Fact, out: &mut Vec<u8>) -> bool {
        if let Some(text) = self.text(fact) {
            write_string(out, text);
            return true;
        }
        if let Some(number) = self.number(fact) {
            push_number(out, number);
            return true;
        }
        if let Some(json) = self.json(fact) {
            out.extend_from_slice(json.as_bytes());
            return true;
        }
        if fact == Fact::Now {
            out.push(b'"');
            push_rfc3339(out, self.now);
            out.push(b'"');
            return true;
        }
        false
    }

    /// Appends what the value says, as a part of a text.
    pub(crate) fn push_text(&self, fact: Fact, out: &mut String) {
        if let Some(text) = self.text(fact) {
            out.push_str(text);
            return;
        }
        let mut bytes = Vec::new();
        if fact == Fact::Now {
            push_rfc3339(&mut bytes, self.now);
        } else {
            self.push_json(fact, &mut bytes);
        }
        out.push_str(&String::from_utf8(bytes).unwrap_or_default());
    }

    fn text(&self, fact: Fact) -> Option<&str> {
        match fact {
            Fact::User => Some(self.user),
            Fact::Username => self.username,
            Fact::Tenant => Some(self.tenant),
            Fact::Kind => Some(self.kind),
            Fact::Socket => Some(self.socket),
            Fact::Id => Some(self.id),
            Fact::Room => self.room,
            Fact::RoomKey => self.room.map(room_key),
            Fact::MemberId => self.member_id,
            Fact::Code => self.refusal.map(|refusal| &*refusal.code),
            Fact::Error => self.refusal.map(|refusal| &*refusal.message),
            Fact::Now
            | Fact::NowMs
            | Fact::Count
            | Fact::Members
            | Fact::Member
            | Fact::RetryAfter
            | Fact::RoomCount => None,
        }
        .filter(|text| !text.is_empty())
    }

    fn number(&self, fact: Fact) -> Option<u64> {
        match fact {
            Fact::NowMs => Some(self.now),
            Fact::Count => self.count,
            Fact::RetryAfter => self.refusal?.retry_after_s,
            Fact::RoomCount => self.refusal?.room_count,
            Fact::User
            | Fact::Username
            | Fact::Tenant
            | Fact::Kind
            | Fact::Socket
            | Fact::Now
            | Fact::Id
            | Fact::Room
            | Fact::RoomKey
            | Fact::Members
            | Fact::Member
            | Fact::MemberId
            | Fact::Code
            | Fact::Error => None,
        }
    }

    fn json(&self, fact: Fact) -> Option<&str> {
        if fact == Fact::Members {
            self.members
        } else if fact == Fact::Member {
            self.member
        } else {
            None
        }
    }
}
