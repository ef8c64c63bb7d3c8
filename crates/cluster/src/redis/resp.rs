//! RESP3, as far as Redis speaks it: values out of bytes, with bounds on what a server can make us keep.

use bytes::{Buf, Bytes, BytesMut};

/// What Redis answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    Nil,
    /// A number; a boolean is 0 or 1.
    Int(i64),
    /// A number with a fraction.
    Double(f64),
    /// A text of any kind: `+OK`, a bulk string, a big number.
    Bytes(Bytes),
    /// A list or a set.
    Array(Vec<Value>),
    /// Pairs.
    Map(Vec<(Value, Value)>),
    /// Told without having been asked: messages and confirmations of subscriptions.
    Push(Vec<Value>),
    /// An error. As an answer to a call it is `Err`; inside of an array it stands here.
    Error(ServerError),
}

impl Value {
    /// The text, if it is one.
    pub fn bytes(&self) -> Option<&Bytes> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    /// The text, if it is UTF-8.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// The number, if it is one, or a text that is one: scripts answer with either.
    pub fn int(&self) -> Option<i64> {
        if let Self::Int(number) = self { Some(*number) } else { self.text()?.parse().ok() }
    }

    /// The elements, if it is a list.
    pub fn array(&self) -> Option<&[Value]> {
        if let Self::Array(values) = self { Some(values) } else { None }
    }

    /// The elements, if it is a list.
    pub fn into_array(self) -> Option<Vec<Value>> {
        if let Self::Array(values) = self { Some(values) } else { None }
    }

    /// The pairs of a map, or of a list that holds keys and values in turn (as RESP2 and scripts have it).
    pub fn into_pairs(self) -> Option<Vec<(Value, Value)>> {
        if let Self::Map(pairs) = self {
            return Some(pairs);
        }
        let mut values = self.into_array()?.into_iter();
        let mut pairs = Vec::with_capacity(values.len() / 2);
        while let Some(key) = values.next() {
            pairs.push((key, values.next()?));
        }
        Some(pairs)
    }
}

/// An error that Redis answered with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ServerError {
    /// What kind.
    pub code: ErrorCode,
    /// What Redis says, its code included.
    pub text: Box<str>,
}

/// The first word of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// Another node has the slot.
    Moved,
    /// The slot is on its way to another node.
    Ask,
    /// Keys of the slot are here and there while it is on its way.
    TryAgain,
    /// Two slots in one call.
    CrossSlot,
    /// The cluster cannot serve the slot.
    ClusterDown,
    /// A replica.
    ReadOnly,
    /// The server reads its data from disk.
    Loading,
    /// A replica that has lost its primary.
    MasterDown,
    /// Too few replicas to write.
    NoReplicas,
    /// The disk cannot be written, and Redis refuses writes because of it.
    Misconf,
    /// Out of memory.
    OutOfMemory,
    /// A script has been running for too long.
    Busy,
    /// Not permitted to this user.
    NoPerm,
    /// No password was given.
    NoAuth,
    /// The wrong password, or no such user.
    WrongPass,
    /// Not this version of the protocol.
    NoProto,
    /// The server does not know the script.
    NoScript,
    /// The key holds something else.
    WrongType,
    /// Everything else.
    Other,
}

impl ServerError {
    fn parse(line: &[u8]) -> Self {
        let text = String::from_utf8_lossy(line);
        let code = match text.split(' ').next().unwrap_or_default() {
            "MOVED" => ErrorCode::Moved,
            "ASK" => ErrorCode::Ask,
            "TRYAGAIN" => ErrorCode::TryAgain,
            "CROSSSLOT" => ErrorCode::CrossSlot,
            "CLUSTERDOWN" => ErrorCode::ClusterDown,
            "READONLY" => ErrorCode::ReadOnly,
            "LOADING" => ErrorCode::Loading,
            "MASTERDOWN" => ErrorCode::MasterDown,
            "NOREPLICAS" => ErrorCode::NoReplicas,
            "MISCONF" => ErrorCode::Misconf,
            "OOM" => ErrorCode::OutOfMemory,
            "BUSY" => ErrorCode::Busy,
            "NOPERM" => ErrorCode::NoPerm,
            "NOAUTH" => ErrorCode::NoAuth,
            "WRONGPASS" => ErrorCode::WrongPass,
            "NOPROTO" => ErrorCode::NoProto,
            "NOSCRIPT" => ErrorCode::NoScript,
            "WRONGTYPE" => ErrorCode::WrongType,
            _ => ErrorCode::Other,
        };
        Self { code, text: text.into() }
    }
}

/// Why bytes cannot be what a Redis server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Garbage {
    /// Not RESP.
    #[error("it does not speak the Redis protocol")]
    Protocol,
    /// Nested deeper than anything that is asked for.
    #[error("it sent a value that is nested too deep")]
    Depth,
    /// Larger than the bound.
    #[error("it sent a value larger than the bound of {0} bytes")]
    Size(usize),
}

/// Deeper than anything that a script or command of ours answers.
const MOST_DEPTH: usize = 16;
/// The longest line without an end: a simple string or an error.
const MOST_LINE: usize = 64 * 1024;
/// What an element costs in memory beside its bytes.
const ELEMENT: usize = std::mem::size_of::<Value>();

#[derive(Clone, Copy, Debug)]
enum Container {
    Array,
    Map,
    Push,
    /// Data about the value that follows; nothing of ours asks for it.
    Attribute,
}

#[derive(Debug)]
struct Open {
    container: Container,
    left: usize,
    items: Vec<Value>,
}

/// Values out of a stream of bytes. What it has understood of a value it does not read again when more bytes come.
#[derive(Debug)]
pub(super) struct Parser {
    buffer: BytesMut,
    open: Vec<Open>,
    /// The length of a bulk string whose header has been read, and whether it is an error or has a kind before it.
    bulk: Option<(usize, u8)>,
    /// Up to here there is no end of a line.
    searched: usize,
    size: usize,
    most: usize,
}

impl Parser {
    pub(super) fn new(most: usize) -> Self {
        Self { buffer: BytesMut::new(), open: Vec::new(), bulk: None, searched: 0, size: 0, most }
    }

    /// Where bytes of the server are put.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next whole value, if its bytes are all there.
    pub(super) fn next(&mut self) -> Result<Option<Value>, Garbage> {
        loop {
            let Some(mut value) = self.element()? else { return Ok(None) };
            // A whole element may complete its container, and that one its own.
            loop {
                let Some(mut parent) = self.open.pop() else {
                    self.size = 0;
                    return Ok(Some(value));
                };
                parent.items.push(value);
                parent.left = parent.left.saturating_sub(1);
                if parent.left > 0 {
                    self.open.push(parent);
                    break;
                }
                match close(parent) {
                    Some(whole) => value = whole,
                    None => break,
                }
            }
        }
    }

    /// A scalar, or an empty container. Containers with elements are opened on the way to it.
    fn element(&mut self) -> Result<Option<Value>, Garbage> {
        loop {
            if let Some((length, kind)) = self.bulk {
                return self.rest_of_bulk(length, kind);
            }
            let Some(line) = self.line()? else { return Ok(None) };
            let (kind, rest) = line.split_first().ok_or(Garbage::Protocol)?;
            match kind {
                b'+' | b'(' => return Ok(Some(Value::Bytes(Bytes::copy_from_slice(rest)))),
                b'-' => return Ok(Some(Value::Error(ServerError::parse(rest)))),
                b':' => return Ok(Some(Value::Int(number(rest)?))),
                b'_' => return Ok(Some(Value::Nil)),
                b'#' => return Ok(Some(Value::Int(i64::from(rest == b"t")))),
                b',' => {
                    let text = std::str::from_utf8(rest).map_err(|_| Garbage::Protocol)?;
                    return Ok(Some(Value::Double(text.parse().map_err(|_| Garbage::Protocol)?)));
                }
                b'$' | b'!' | b'=' => match number(rest)? {
                    -1 => return Ok(Some(Value::Nil)),
                    length => {
                        let length = usize::try_from(length).map_err(|_| Garbage::Protocol)?;
                        self.grow(length)?;
                        self.bulk = Some((length, *kind));
                    }
                },
                b'*' | b'~' | b'%' | b'>' | b'|' => {
                    let container = match kind {
                        b'%' => Container::Map,
                        b'>' => Container::Push,
                        b'|' => Container::Attribute,
                        _ => Container::Array,
                    };
                    if let Some(value) = self.begin(container, number(rest)?)? {
                        return Ok(Some(value));
                    }
                }
                _ => return Err(Garbage::Protocol),
            }
        }
    }

    fn begin(&mut self, container: Container, count: i64) -> Result<Option<Value>, Garbage> {
        if count == -1 {
            return Ok(Some(Value::Nil));
        }
        let count = usize::try_from(count).map_err(|_| Garbage::Protocol)?;
        let left = match container {
            Container::Map | Container::Attribute => count.checked_mul(2).ok_or(Garbage::Protocol)?,
            Container::Array | Container::Push => count,
        };
        if left == 0 {
            return Ok(close(Open { container, left, items: Vec::new() }));
        }
        if self.open.len() >= MOST_DEPTH {
            return Err(Garbage::Depth);
        }
        // The count is only a claim: no memory for it before the elements come.
        self.open.push(Open { container, left, items: Vec::with_capacity(left.min(64)) });
        Ok(None)
    }

    fn rest_of_bulk(&mut self, length: usize, kind: u8) -> Result<Option<Value>, Garbage> {
        let whole = length.saturating_add(2);
        if self.buffer.len() < whole {
            return Ok(None);
        }
        if self.buffer.get(length..whole) != Some(b"\r\n") {
            return Err(Garbage::Protocol);
        }
        // A copy, not a part of the buffer: what is kept for minutes must not keep its neighbours.
        let bytes = Bytes::copy_from_slice(self.buffer.get(..length).unwrap_or_default());
        self.buffer.advance(whole);
        self.bulk = None;
        Ok(Some(match kind {
            b'!' => Value::Error(ServerError::parse(&bytes)),
            // `txt:` or `mkd:` before the text.
            b'=' if bytes.len() >= 4 => Value::Bytes(bytes.slice(4..)),
            _ => Value::Bytes(bytes),
        }))
    }

    fn line(&mut self) -> Result<Option<BytesMut>, Garbage> {
        let from = self.searched;
        let Some(end) = self.buffer.get(from..).and_then(|bytes| bytes.iter().position(|byte| *byte == b'\n')) else {
            self.searched = self.buffer.len();
            return if self.searched > MOST_LINE { Err(Garbage::Protocol) } else { Ok(None) };
        };
        self.searched = 0;
        let mut line = self.buffer.split_to(from + end + 1);
        if line.len() > MOST_LINE || !line.ends_with(b"\r\n") {
            return Err(Garbage::Protocol);
        }
        line.truncate(line.len() - 2);
        self.grow(line.len())?;
        Ok(Some(line))
    }

    fn grow(&mut self, bytes: usize) -> Result<(), Garbage> {
        self.size = self.size.saturating_add(bytes).saturating_add(ELEMENT);
        if self.size > self.most { Err(Garbage::Size(self.most)) } else { Ok(()) }
    }
}

fn close(whole: Open) -> Option<Value> {
    match whole.container {
        Container::Array => Some(Value::Array(whole.items)),
        Container::Push => Some(Value::Push(whole.items)),
        Container::Map => Value::Array(whole.items).into_pairs().map(Value::Map),
        Container::Attribute => None,
    }
}

fn number(text: &[u8]) -> Result<i64, Garbage> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Garbage::Protocol)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(bytes: &[u8]) -> Result<Vec<Value>, Garbage> {
        in_pieces(bytes, bytes.len().max(1))
    }

    fn in_pieces(bytes: &[u8], size: usize) -> Result<Vec<Value>, Garbage> {
        let mut parser = Parser::new(1 << 20);
        let mut values = Vec::new();
        for piece in bytes.chunks(size) {
            parser.buffer().extend_from_slice(piece);
            while let Some(value) = parser.next()? {
                values.push(value);
            }
        }
        Ok(values)
    }

    fn text(text: &'static str) -> Value {
        Value::Bytes(Bytes::from_static(text.as_bytes()))
    }

    const EVERYTHING: &[u8] = b"+OK\r\n:-12\r\n$-1\r\n_\r\n#t\r\n,1.5\r\n(123456789012345678901\r\n$3\r\na\r\n\r\n=7\r\ntxt:abc\r\n\
        *2\r\n*0\r\n%1\r\n+k\r\n*1\r\n:1\r\n~1\r\n:2\r\n|1\r\n+a\r\n:1\r\n+after\r\n>3\r\n+smessage\r\n$1\r\nc\r\n$2\r\nhi\r\n\
        -MOVED 5 1.2.3.4:7\r\n!10\r\nERR broken\r\n";

    #[test]
    fn every_kind_of_value_is_read_however_it_is_cut() {
        let whole = parse(EVERYTHING).expect("valid");
        let error = |code, text: &str| Value::Error(ServerError { code, text: text.into() });
        assert_eq!(
            whole,
            vec![
                text("OK"),
                Value::Int(-12),
                Value::Nil,
                Value::Nil,
                Value::Int(1),
                Value::Double(1.5),
                text("123456789012345678901"),
                text("a\r\n"),
                text("abc"),
                Value::Array(vec![
                    Value::Array(vec![]),
                    Value::Map(vec![(text("k"), Value::Array(vec![Value::Int(1)]))])
                ]),
                Value::Array(vec![Value::Int(2)]),
                text("after"),
                Value::Push(vec![text("smessage"), text("c"), text("hi")]),
                error(ErrorCode::Moved, "MOVED 5 1.2.3.4:7"),
                error(ErrorCode::Other, "ERR broken"),
            ]
        );
        for size in 1..20 {
            assert_eq!(in_pieces(EVERYTHING, size).as_ref(), Ok(&whole), "pieces of {size}");
        }
    }

    #[test]
    fn what_is_not_redis_is_told_apart() {
        for bytes in [&b"HTTP/1.1 400 Bad Request\r\n"[..], b":x\r\n", b"$-5\r\n", b"$1\r\nabc", b"+a\n", b"\r\n"] {
            assert_eq!(parse(bytes), Err(Garbage::Protocol), "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(parse(&vec![b'+'; MOST_LINE + 2]), Err(Garbage::Protocol));
    }

    #[test]
    fn a_claim_of_much_costs_nothing_and_much_is_refused() {
        assert_eq!(parse(b"*1000000000\r\n:1\r\n"), Ok(vec![]));
        assert_eq!(parse(b"$1000000000\r\n"), Err(Garbage::Size(1 << 20)));
        assert_eq!(parse("*1\r\n".repeat(17).as_bytes()), Err(Garbage::Depth));
        let mut many = b"*1000000\r\n".to_vec();
        many.extend_from_slice(&b":1\r\n".repeat(100_000));
        assert_eq!(parse(&many), Err(Garbage::Size(1 << 20)));
        // The bound is one of each value, not of all.
        assert_eq!(parse(&b"$4\r\nabcd\r\n".repeat(300_000)).map(|values| values.len()), Ok(300_000));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_the_same_in_pieces(bytes in prop::collection::vec(
            prop_oneof![Just(b'*'), Just(b'$'), Just(b':'), Just(b'\r'), Just(b'\n'), Just(b'1'), Just(b'2'), Just(b'>'), Just(b'%'),
                any::<u8>()], 0..60), size in 1usize..8) {
            prop_assert_eq!(parse(&bytes), in_pieces(&bytes, size));
        }
    }
}
