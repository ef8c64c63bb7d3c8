//! The bytes of a signal: `version, kind, checksum (4), fields`. Numbers are LEB128, texts and bytes stand behind their
//! length.
//!
//! What does not decode is no signal of ours: another version, or somebody else on our channel. The checksum is against
//! accidents; who may write to the broker's channels may do anything to the cluster.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_auth::Revocation;
use tidegate_hub::{Pid, SocketId};
use tidegate_types::{ConnId, EventName, InvalidName, Namespace, ShardId, SpaceKey, TenantId, UserId};
use xxhash_rust::xxh3::xxh3_64;

use super::{Close, Closed, Far, FarDeed, Move, Said, Signal, Supersede, Tell, ToUsers};
use crate::mailbox::Except;
use crate::parting::Terms;

/// Changes when nodes of the version before would misunderstand. Theirs are dropped then, as ours are by them: what is
/// signalled is never all that keeps something right.
const VERSION: u8 = 1;
/// Version, kind and checksum.
const HEAD: usize = 6;
/// The longest signal, bytes: more than the largest message, with its names around it.
pub(super) const MOST_BYTES: usize = 64 << 20;
/// Rooms or users of one signal.
pub(super) const MOST_NAMES: usize = 10_000;
/// Binary values of one event.
const MOST_ATTACHMENTS: usize = 1_000;
/// The longest id of a socket or session, bytes.
const MOST_ID: usize = 256;
/// The longest reason of an end, bytes.
const MOST_REASON: usize = 1_024;

/// Why bytes are no signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSignal {
    /// It begins like a signal of another version.
    #[error("version {0} is not known here")]
    Version(u8),
    #[error("kind {0} is not known here")]
    Kind(u8),
    #[error("its bytes are damaged")]
    Damaged,
    #[error("it is too long")]
    TooLong,
    #[error("a field of it is not what it must be")]
    Field,
}

impl From<InvalidName> for BadSignal {
    fn from(_: InvalidName) -> Self {
        Self::Field
    }
}

impl Signal {
    fn kind(&self) -> u8 {
        match self {
            Self::Tell(_) => 1,
            Self::Far(_) => 2,
            Self::ToUsers(_) => 3,
            Self::Close(_) => 4,
            Self::Supersede(_) => 5,
            Self::Revoke(_) => 6,
            Self::Move(_) => 7,
        }
    }

    /// The bytes; `None` for one beyond the bounds, which no node would take.
    pub fn encode(&self) -> Option<Bytes> {
        let mut out = Out { bytes: vec![VERSION, self.kind(), 0, 0, 0, 0], fits: true };
        match self {
            Self::Tell(tell) => {
                out.said(&tell.said);
                out.except(tell.except.as_ref());
                out.number(tell.timestamp_ms);
            }
            Self::Far(far) => {
                out.space(&far.space);
                out.optional(far.rooms.as_deref(), |out, rooms| out.names(rooms));
                out.names(&far.but);
                match &far.deed {
                    FarDeed::Emit { said, volatile } => {
                        out.bytes.push(1);
                        out.flag(*volatile);
                        out.said(said);
                    }
                    FarDeed::Disconnect => out.bytes.push(2),
                }
            }
            Self::ToUsers(to) => {
                out.space(&to.space);
                out.optional(to.users.as_deref(), |out, users| out.names(users));
                out.except(to.except.as_ref());
                out.said(&to.said);
            }
            Self::Close(close) => {
                match &close.whom {
                    Closed::User(tenant, user) => {
                        out.bytes.push(1);
                        out.text(tenant.as_str());
                        out.text(user.as_str());
                    }
                    Closed::UserIn(space, user) => {
                        out.bytes.push(2);
                        out.space(space);
                        out.text(user.as_str());
                    }
                    Closed::Socket(id) => {
                        out.bytes.push(3);
                        out.short(id.as_str(), MOST_ID);
                    }
                    Closed::Conn(id) => {
                        out.bytes.push(4);
                        out.number(u64::from(id.shard.0));
                        out.number(u64::from(id.slot));
                        out.number(u64::from(id.generation));
                    }
                }
                out.optional(close.terms.as_ref(), |out, terms| {
                    out.fits &= terms.reason.as_ref().is_none_or(|reason| reason.len() <= MOST_REASON);
                    out.optional(terms.reason.as_deref(), Out::text);
                    out.flag(terms.reconnect);
                    out.flag(terms.recover);
                });
            }
            Self::Supersede(Supersede { space, pid, user }) => {
                out.space(space);
                out.short(pid.as_str(), MOST_ID);
                out.text(user.as_str());
            }
            Self::Revoke(revocation) => out.revocation(revocation),
            Self::Move(Move { space, user, room, join }) => {
                out.space(space);
                out.text(user.as_str());
                out.text(room.as_str());
                out.flag(*join);
            }
        }
        out.finish()
    }

    /// Reads what [`Signal::encode`] wrote. The payload shares `body`.
    ///
    /// # Errors
    /// [`BadSignal`].
    pub fn decode(body: &Bytes) -> Result<Self, BadSignal> {
        let version = *body.first().ok_or(BadSignal::Damaged)?;
        if version != VERSION {
            return Err(BadSignal::Version(version));
        }
        if body.len() > MOST_BYTES {
            return Err(BadSignal::TooLong);
        }
        let fields = body.get(HEAD..).ok_or(BadSignal::Damaged)?;
        let kind = *body.get(1).ok_or(BadSignal::Damaged)?;
        if body.get(2..HEAD) != Some(&checksum(kind, fields)) {
            return Err(BadSignal::Damaged);
        }
        let mut given = In { whole: body, at: HEAD };
        let signal = match kind {
            1 => Self::Tell(Tell { said: given.said()?, except: given.except()?, timestamp_ms: given.number()? }),
            2 => Self::Far(Far {
                space: given.space()?,
                rooms: given.optional(In::names)?,
                but: given.names()?,
                deed: match given.byte()? {
                    1 => {
                        let volatile = given.flag()?;
                        FarDeed::Emit { said: given.said()?, volatile }
                    }
                    2 => FarDeed::Disconnect,
                    _ => return Err(BadSignal::Field),
                },
            }),
            3 => Self::ToUsers(ToUsers {
                space: given.space()?,
                users: given.optional(In::names)?,
                except: given.except()?,
                said: given.said()?,
            }),
            4 => Self::Close(Close { whom: given.closed()?, terms: given.optional(In::terms)? }),
            5 => Self::Supersede(Supersede {
                space: given.space()?,
                pid: Pid::from(given.short(MOST_ID)?),
                user: given.name()?,
            }),
            6 => Self::Revoke(given.revocation()?),
            7 => Self::Move(Move {
                space: given.space()?,
                user: given.name()?,
                room: given.name()?,
                join: given.flag()?,
            }),
            other => return Err(BadSignal::Kind(other)),
        };
        if given.at == body.len() { Ok(signal) } else { Err(BadSignal::Field) }
    }
}

/// A revocation as it is kept by the broker: the same bytes as in its signal.
pub(crate) fn revocation(bytes: &Bytes) -> Result<Revocation, BadSignal> {
    match Signal::decode(bytes)? {
        Signal::Revoke(revocation) => Ok(revocation),
        Signal::Tell(_)
        | Signal::Far(_)
        | Signal::ToUsers(_)
        | Signal::Close(_)
        | Signal::Supersede(_)
        | Signal::Move(_) => Err(BadSignal::Field),
    }
}

fn checksum(kind: u8, fields: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = (xxh3_64(fields) ^ u64::from(kind)).to_le_bytes();
    [a, b, c, d]
}

struct Out {
    bytes: Vec<u8>,
    /// Whether everything so far is within the bounds that a reader keeps to.
    fits: bool,
}

impl Out {
    fn finish(mut self) -> Option<Bytes> {
        let kind = *self.bytes.get(1)?;
        let sum = checksum(kind, self.bytes.get(HEAD..)?);
        self.bytes.get_mut(2..HEAD)?.copy_from_slice(&sum);
        (self.fits && self.bytes.len() <= MOST_BYTES).then(|| self.bytes.into())
    }

    fn count(&mut self, count: usize, most: usize) {
        self.fits &= count <= most;
        self.number(count as u64);
    }

    fn short(&mut self, text: &str, most: usize) {
        self.fits &= (1..=most).contains(&text.len());
        self.text(text);
    }

    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn flag(&mut self, flag: bool) {
        self.bytes.push(u8::from(flag));
    }

    fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn space(&mut self, space: &SpaceKey) {
        self.text(space.tenant.as_str());
        self.text(space.namespace.as_str());
    }

    fn names(&mut self, names: &[impl AsRef<str>]) {
        self.count(names.len(), MOST_NAMES);
        for name in names {
            self.text(name.as_ref());
        }
    }

    fn said(&mut self, said: &Said) {
        self.text(said.event.as_str());
        self.bytes(&said.data);
        self.count(said.attachments.len(), MOST_ATTACHMENTS);
        for attachment in said.attachments.iter() {
            self.bytes(attachment);
        }
    }

    fn except(&mut self, except: Option<&Except>) {
        match except {
            // A connection of this node is none of another's.
            None | Some(Except::Conn(_)) => self.bytes.push(0),
            Some(Except::Socket(id)) => {
                self.bytes.push(1);
                self.short(id.as_str(), MOST_ID);
            }
            Some(Except::User(user)) => {
                self.bytes.push(2);
                self.text(user.as_str());
            }
        }
    }

    fn revocation(&mut self, revocation: &Revocation) {
        match revocation {
            Revocation::Token { tenant, id, until } => {
                self.bytes.push(1);
                self.text(tenant.as_str());
                self.short(id, MOST_ID);
                self.optional(*until, Self::number);
            }
            Revocation::User { tenant, user, before, until } => {
                self.bytes.push(2);
                self.text(tenant.as_str());
                self.text(user.as_str());
                self.number(*before);
                self.optional(*until, Self::number);
            }
        }
    }
}

struct In<'a> {
    whole: &'a Bytes,
    at: usize,
}

impl<'a> In<'a> {
    fn byte(&mut self) -> Result<u8, BadSignal> {
        let byte = *self.whole.get(self.at).ok_or(BadSignal::Field)?;
        self.at += 1;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64, BadSignal> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(BadSignal::Field);
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(BadSignal::Field)
    }

    fn count(&mut self, most: usize) -> Result<usize, BadSignal> {
        let count = usize::try_from(self.number()?).ok().filter(|count| *count <= most).ok_or(BadSignal::Field)?;
        // Each takes a byte at least: a small signal must not cause a large allocation.
        if count > self.whole.len() - self.at { Err(BadSignal::Field) } else { Ok(count) }
    }

    fn range(&mut self) -> Result<std::ops::Range<usize>, BadSignal> {
        let length = usize::try_from(self.number()?).map_err(|_| BadSignal::Field)?;
        let end = self.at.checked_add(length).filter(|end| *end <= self.whole.len()).ok_or(BadSignal::Field)?;
        Ok(std::mem::replace(&mut self.at, end)..end)
    }

    fn bytes(&mut self) -> Result<Bytes, BadSignal> {
        Ok(self.whole.slice(self.range()?))
    }

    fn text(&mut self) -> Result<&'a str, BadSignal> {
        let whole: &'a Bytes = self.whole;
        let bytes = whole.get(self.range()?).ok_or(BadSignal::Field)?;
        std::str::from_utf8(bytes).map_err(|_| BadSignal::Field)
    }

    fn short(&mut self, most: usize) -> Result<&'a str, BadSignal> {
        let text = self.text()?;
        if (1..=most).contains(&text.len()) { Ok(text) } else { Err(BadSignal::Field) }
    }

    fn flag(&mut self) -> Result<bool, BadSignal> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BadSignal::Field),
        }
    }

    fn optional<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, BadSignal>) -> Result<Option<T>, BadSignal> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    fn name<T: TryFrom<&'a str, Error = InvalidName>>(&mut self) -> Result<T, BadSignal> {
        Ok(T::try_from(self.text()?)?)
    }

    fn names<T: TryFrom<&'a str, Error = InvalidName>>(&mut self) -> Result<Vec<T>, BadSignal> {
        let count = self.count(MOST_NAMES)?;
        let mut names = Vec::with_capacity(count);
        for _ in 0..count {
            names.push(self.name()?);
        }
        Ok(names)
    }

    fn space(&mut self) -> Result<SpaceKey, BadSignal> {
        Ok(SpaceKey { tenant: self.name::<TenantId>()?, namespace: self.name::<Namespace>()? })
    }

    fn said(&mut self) -> Result<Said, BadSignal> {
        let event: EventName = self.name()?;
        let data = self.bytes()?;
        // It will stand in text frames.
        std::str::from_utf8(&data).map_err(|_| BadSignal::Field)?;
        let count = self.count(MOST_ATTACHMENTS)?;
        let mut attachments = Vec::with_capacity(count);
        for _ in 0..count {
            attachments.push(self.bytes()?);
        }
        Ok(Said { event, data, attachments: Arc::from(attachments) })
    }

    fn except(&mut self) -> Result<Option<Except>, BadSignal> {
        Ok(match self.byte()? {
            0 => None,
            1 => Some(Except::Socket(SocketId::from(self.short(MOST_ID)?))),
            2 => Some(Except::User(self.name()?)),
            _ => return Err(BadSignal::Field),
        })
    }

    fn closed(&mut self) -> Result<Closed, BadSignal> {
        Ok(match self.byte()? {
            1 => Closed::User(self.name()?, self.name()?),
            2 => Closed::UserIn(self.space()?, self.name()?),
            3 => Closed::Socket(SocketId::from(self.short(MOST_ID)?)),
            4 => Closed::Conn(ConnId {
                shard: ShardId(u16::try_from(self.number()?).map_err(|_| BadSignal::Field)?),
                slot: u32::try_from(self.number()?).map_err(|_| BadSignal::Field)?,
                generation: u32::try_from(self.number()?).map_err(|_| BadSignal::Field)?,
            }),
            _ => return Err(BadSignal::Field),
        })
    }

    fn terms(&mut self) -> Result<Terms, BadSignal> {
        let reason = self.optional(|given| given.text().map(str::to_owned))?;
        if reason.as_ref().is_some_and(|reason| reason.len() > MOST_REASON) {
            return Err(BadSignal::Field);
        }
        Ok(Terms { reason, reconnect: self.flag()?, recover: self.flag()? })
    }

    fn revocation(&mut self) -> Result<Revocation, BadSignal> {
        Ok(match self.byte()? {
            1 => Revocation::Token {
                tenant: self.name()?,
                id: Arc::from(self.short(MOST_ID)?),
                until: self.optional(Self::number)?,
            },
            2 => Revocation::User {
                tenant: self.name()?,
                user: self.name::<UserId>()?,
                before: self.number()?,
                until: self.optional(Self::number)?,
            },
            _ => return Err(BadSignal::Field),
        })
    }
}

/// Reads any bytes as a signal. For the fuzzer: what is understood means the same when it is written again.
#[cfg(fuzzing)]
pub fn fuzz_signal(body: &[u8]) {
    let mut body = body.to_vec();
    // The checksum would hide the rest from the fuzzer.
    if let (Some(kind), Some(fields)) = (body.get(1).copied(), body.get(HEAD..)) {
        let sum = checksum(kind, fields);
        if let Some(place) = body.get_mut(2..HEAD) {
            place.copy_from_slice(&sum);
        }
    }
    let Ok(signal) = Signal::decode(&Bytes::from(body)) else { return };
    let again = signal.encode().and_then(|bytes| Signal::decode(&bytes).ok());
    assert_eq!(again, Some(signal));
}

#[cfg(test)]
mod tests;
