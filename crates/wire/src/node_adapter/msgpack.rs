//! MessagePack, from and to JSON text with attachments. Source: the MessagePack specification; for what JavaScript makes
//! of it, notepack.io 3.0 and @msgpack/msgpack 2.8.

use bytes::Bytes;
use rmp::Marker;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};

use super::Error;
use crate::json::{MAX_DEPTH, write_string};

/// The extension type of timestamps.
const TIMESTAMP: i8 = -1;
/// The extension type that notepack once wrote `undefined` with.
const UNDEFINED: i8 = 0;

/// The JSON that a client would see, and the binary values in it: slices of `bytes`.
///
/// # Errors
/// Not exactly one value, nested too deeply, an extension other than a timestamp, or an object that could be mistaken for
/// the placeholder of a binary value.
pub(super) fn to_json(bytes: &Bytes) -> Result<(String, Vec<Bytes>), Error> {
    let mut reader =
        Reader { bytes, at: 0, out: Vec::with_capacity(bytes.len() + 32), attachments: Vec::new(), lookalike: false };
    reader.value(0)?;
    if reader.at != bytes.len() {
        return Err(Error::Length);
    }
    if reader.lookalike && !reader.attachments.is_empty() {
        return Err(Error::Event);
    }
    String::from_utf8(reader.out).map(|text| (text, reader.attachments)).map_err(|_| Error::Encoding)
}

struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
    out: Vec<u8>,
    attachments: Vec<Bytes>,
    /// An object with a member `_placeholder` has been seen.
    lookalike: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let end = self.at.checked_add(length).ok_or(Error::Length)?;
        let taken = self.bytes.get(self.at..end).ok_or(Error::Length)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        self.take(N)?.try_into().map_err(|_| Error::Length)
    }

    fn u8(&mut self) -> Result<u8, Error> {
        self.array().map(u8::from_be_bytes)
    }

    fn length8(&mut self) -> Result<usize, Error> {
        self.u8().map(usize::from)
    }

    fn length16(&mut self) -> Result<usize, Error> {
        self.array().map(|bytes| usize::from(u16::from_be_bytes(bytes)))
    }

    fn length32(&mut self) -> Result<usize, Error> {
        self.array().map(|bytes| u32::from_be_bytes(bytes) as usize)
    }

    fn value(&mut self, depth: u32) -> Result<(), Error> {
        if depth >= MAX_DEPTH {
            return Err(Error::Depth);
        }
        match Marker::from_u8(self.u8()?) {
            Marker::Null => self.out.extend_from_slice(b"null"),
            Marker::True => self.out.extend_from_slice(b"true"),
            Marker::False => self.out.extend_from_slice(b"false"),
            Marker::FixPos(number) => self.integer(number),
            Marker::FixNeg(number) => self.integer(number),
            Marker::U8 => {
                let bytes = self.array()?;
                self.integer(u8::from_be_bytes(bytes))
            }
            Marker::U16 => {
                let bytes = self.array()?;
                self.integer(u16::from_be_bytes(bytes))
            }
            Marker::U32 => {
                let bytes = self.array()?;
                self.integer(u32::from_be_bytes(bytes))
            }
            Marker::U64 => {
                let bytes = self.array()?;
                self.integer(u64::from_be_bytes(bytes))
            }
            Marker::I8 => {
                let bytes = self.array()?;
                self.integer(i8::from_be_bytes(bytes))
            }
            Marker::I16 => {
                let bytes = self.array()?;
                self.integer(i16::from_be_bytes(bytes))
            }
            Marker::I32 => {
                let bytes = self.array()?;
                self.integer(i32::from_be_bytes(bytes))
            }
            Marker::I64 => {
                let bytes = self.array()?;
                self.integer(i64::from_be_bytes(bytes))
            }
            Marker::F32 => {
                let bytes = self.array()?;
                self.float(f64::from(f32::from_be_bytes(bytes)))
            }
            Marker::F64 => {
                let bytes = self.array()?;
                self.float(f64::from_be_bytes(bytes))
            }
            Marker::FixStr(length) => self.string(usize::from(length))?,
            Marker::Str8 => {
                let length = self.length8()?;
                self.string(length)?
            }
            Marker::Str16 => {
                let length = self.length16()?;
                self.string(length)?
            }
            Marker::Str32 => {
                let length = self.length32()?;
                self.string(length)?
            }
            Marker::Bin8 => {
                let length = self.length8()?;
                self.binary(length)?
            }
            Marker::Bin16 => {
                let length = self.length16()?;
                self.binary(length)?
            }
            Marker::Bin32 => {
                let length = self.length32()?;
                self.binary(length)?
            }
            Marker::FixArray(length) => self.list(usize::from(length), depth)?,
            Marker::Array16 => {
                let length = self.length16()?;
                self.list(length, depth)?
            }
            Marker::Array32 => {
                let length = self.length32()?;
                self.list(length, depth)?
            }
            Marker::FixMap(length) => self.object(usize::from(length), depth)?,
            Marker::Map16 => {
                let length = self.length16()?;
                self.object(length, depth)?
            }
            Marker::Map32 => {
                let length = self.length32()?;
                self.object(length, depth)?
            }
            Marker::FixExt1 => self.extension(1)?,
            Marker::FixExt2 => self.extension(2)?,
            Marker::FixExt4 => self.extension(4)?,
            Marker::FixExt8 => self.extension(8)?,
            Marker::FixExt16 => self.extension(16)?,
            Marker::Ext8 => {
                let length = self.length8()?;
                self.extension(length)?
            }
            Marker::Ext16 => {
                let length = self.length16()?;
                self.extension(length)?
            }
            Marker::Ext32 => {
                let length = self.length32()?;
                self.extension(length)?
            }
            Marker::Reserved => return Err(Error::Encoding),
        }
        Ok(())
    }

    fn integer(&mut self, number: impl itoa::Integer) {
        self.out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    fn float(&mut self, number: f64) {
        // What JSON has no form for is null, as in JavaScript.
        match serde_json::Number::from_f64(number) {
            Some(number) => self.out.extend_from_slice(number.to_string().as_bytes()),
            None => self.out.extend_from_slice(b"null"),
        }
    }

    fn string(&mut self, length: usize) -> Result<(), Error> {
        // Half of a surrogate pair comes as three bytes that are no UTF-8; JavaScript reads U+FFFD, too.
        let text = String::from_utf8_lossy(self.take(length)?);
        write_string(&mut self.out, &text);
        Ok(())
    }

    fn binary(&mut self, length: usize) -> Result<(), Error> {
        let start = self.at;
        self.take(length)?;
        self.out.extend_from_slice(b"{\"_placeholder\":true,\"num\":");
        self.integer(self.attachments.len());
        self.out.push(b'}');
        self.attachments.push(self.bytes.slice(start..self.at));
        Ok(())
    }

    fn list(&mut self, length: usize, depth: u32) -> Result<(), Error> {
        self.out.push(b'[');
        for index in 0..length {
            if index > 0 {
                self.out.push(b',');
            }
            self.value(depth + 1)?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn object(&mut self, length: usize, depth: u32) -> Result<(), Error> {
        self.out.push(b'{');
        for index in 0..length {
            if index > 0 {
                self.out.push(b',');
            }
            let start = self.out.len();
            self.value(depth + 1)?;
            self.key(start)?;
            self.out.push(b':');
            self.value(depth + 1)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    /// Makes a key of the value that has been written last: a text, or a number in quotes.
    fn key(&mut self, start: usize) -> Result<(), Error> {
        let written = self.out.get(start..).unwrap_or_default();
        match written.first() {
            Some(b'"') => self.lookalike |= written == b"\"_placeholder\"",
            Some(b'-' | b'0'..=b'9') => {
                self.out.insert(start, b'"');
                self.out.push(b'"');
            }
            _ => return Err(Error::Encoding),
        }
        Ok(())
    }

    fn extension(&mut self, length: usize) -> Result<(), Error> {
        let kind = i8::from_be_bytes(self.array()?);
        let data = self.take(length)?;
        match (kind, data) {
            (UNDEFINED, [_]) => self.out.extend_from_slice(b"null"),
            (TIMESTAMP, _) => match milliseconds(data).ok_or(Error::Encoding).map(iso)? {
                Some(date) => write_string(&mut self.out, &date),
                None => self.out.extend_from_slice(b"null"),
            },
            _ => return Err(Error::Encoding),
        }
        Ok(())
    }
}

/// The time of a timestamp extension, ms since the Unix epoch.
fn milliseconds(data: &[u8]) -> Option<i64> {
    let (seconds, nanos) = match data.len() {
        4 => (i64::from(u32::from_be_bytes(data.try_into().ok()?)), 0),
        8 => {
            let both = u64::from_be_bytes(data.try_into().ok()?);
            (i64::try_from(both & 0x3_ffff_ffff).ok()?, i64::try_from(both >> 34).ok()?)
        }
        12 => {
            let (nanos, seconds) = data.split_at_checked(4)?;
            (i64::from_be_bytes(seconds.try_into().ok()?), i64::from(u32::from_be_bytes(nanos.try_into().ok()?)))
        }
        _ => return None,
    };
    seconds.checked_mul(1_000)?.checked_add(nanos / 1_000_000)
}

/// A date as `toJSON` of JavaScript writes it; `None` if JavaScript has no such date.
fn iso(milliseconds: i64) -> Option<String> {
    if milliseconds.unsigned_abs() > 8_640_000_000_000_000 {
        return None;
    }
    let (days, rest) = (milliseconds.div_euclid(86_400_000), milliseconds.rem_euclid(86_400_000));
    // Howard Hinnant's civil_from_days: years that begin in March, eras of 400 of them.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (rest / 3_600_000, rest / 60_000 % 60);
    let (second, milli) = (rest / 1_000 % 60, rest % 1_000);
    let year = match year {
        0..=9_999 => format!("{year:04}"),
        _ => format!("{}{:06}", if year < 0 { '-' } else { '+' }, year.abs()),
    };
    Some(format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z"))
}

/// Appends JSON as MessagePack; placeholders become the binary values that they stand for.
///
/// # Errors
/// Not JSON, nested too deeply, or half of a surrogate pair.
pub(super) fn from_json(json: &str, attachments: &[Bytes], out: &mut Vec<u8>) -> Result<(), Error> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    Writer { out, attachments }.deserialize(&mut deserializer).map_err(|_| Error::Encoding)?;
    deserializer.end().map_err(|_| Error::Length)
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    attachments: &'a [Bytes],
}

impl Writer<'_> {
    /// As this one, for a value inside this one's.
    fn inner(&mut self) -> Writer<'_> {
        Writer { out: self.out, attachments: self.attachments }
    }

    /// Writes the length of what began at `start`, where one byte stands for it.
    fn settle(&mut self, start: usize, length: usize, short: fn(u8) -> Marker, long: [Marker; 2]) {
        let [medium, long] = long;
        let (header, used) = match (u8::try_from(length), u16::try_from(length)) {
            (Ok(length @ 0..=15), _) => ([short(length).to_u8(), 0, 0, 0, 0], 1),
            (_, Ok(length)) => {
                let [high, low] = length.to_be_bytes();
                ([medium.to_u8(), high, low, 0, 0], 3)
            }
            _ => {
                let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
                ([long.to_u8(), a, b, c, d], 5)
            }
        };
        self.out.splice(start..start + 1, header.into_iter().take(used));
    }
}

impl<'de> DeserializeSeed<'de> for Writer<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Writing to a `Vec` does not fail.
fn written<T, F, E: serde::de::Error>(result: Result<T, F>) -> Result<(), E> {
    result.map(drop).map_err(|_| E::custom("cannot be written"))
}

impl<'de> Visitor<'de> for Writer<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        written(rmp::encode::write_nil(self.out))
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        written(rmp::encode::write_bool(self.out, value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        written(rmp::encode::write_uint(self.out, value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        written(rmp::encode::write_sint(self.out, value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        written(rmp::encode::write_f64(self.out, value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        written(rmp::encode::write_str(self.out, value))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let start = self.out.len();
        self.out.push(0);
        let mut length = 0;
        while items.next_element_seed(self.inner())?.is_some() {
            length += 1;
        }
        self.settle(start, length, Marker::FixArray, [Marker::Array16, Marker::Array32]);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        let start = self.out.len();
        self.out.push(0);
        let (mut length, mut is_placeholder, mut number) = (0, false, None);
        while let Some(key) = members.next_key::<String>()? {
            written::<_, _, A::Error>(rmp::encode::write_str(self.out, &key))?;
            let value = self.out.len();
            members.next_value_seed(self.inner())?;
            let value = self.out.get(value..).unwrap_or_default();
            match key.as_str() {
                "_placeholder" => is_placeholder = value == [Marker::True.to_u8()],
                "num" => number = small(value),
                _ => {}
            }
            length += 1;
        }
        if let (true, Some(number), false) = (is_placeholder, number, self.attachments.is_empty()) {
            let binary = self.attachments.get(number).ok_or_else(|| A::Error::custom("a placeholder of nothing"))?;
            self.out.truncate(start);
            return written(rmp::encode::write_bin(self.out, binary));
        }
        self.settle(start, length, Marker::FixMap, [Marker::Map16, Marker::Map32]);
        Ok(())
    }
}

/// A number below 128, as it was just written.
fn small(value: &[u8]) -> Option<usize> {
    match value {
        [number @ 0..=127] => Some(usize::from(*number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(json: &str) -> Vec<u8> {
        let mut out = Vec::new();
        from_json(json, &[], &mut out).unwrap();
        out
    }

    #[test]
    fn dates_look_as_javascript_writes_them() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (253_402_300_800_000, "+010000-01-01T00:00:00.000Z"),
            (-62_198_755_200_000, "-000001-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(iso(ms).as_deref(), Some(text));
        }
        assert_eq!(iso(8_640_000_000_000_001), None);
    }

    #[test]
    fn binary_values_change_places_with_their_placeholders() {
        let attachments = [Bytes::from_static(b"\x01\x02"), Bytes::from_static(b"")];
        let json = r#"["a",{"b":{"_placeholder":true,"num":0}},{"_placeholder":true,"num":1}]"#;
        let mut out = Vec::new();
        from_json(json, &attachments, &mut out).unwrap();
        let (text, found) = to_json(&out.into()).unwrap();
        assert_eq!((text.as_str(), found.as_slice()), (json, &attachments[..]));
    }

    #[test]
    fn what_only_looks_like_a_placeholder_does_not_pass_beside_binary_values() {
        let json = r#"[{"_placeholder":true,"num":0}]"#;
        let mut lookalike = packed(json);
        assert_eq!(to_json(&lookalike.clone().into()).unwrap().0, json);
        // An array of two, the second binary.
        lookalike[0] = 0x92;
        lookalike.extend([0xc4, 1, 7]);
        assert_eq!(to_json(&lookalike.into()), Err(Error::Event));
    }

    #[test]
    fn nothing_is_read_past_the_end_or_beyond_the_depth() {
        for (bytes, error) in [
            (&b""[..], Error::Length),
            (b"\xdf\xff\xff\xff\xff", Error::Length),
            (b"\xdb\xff\xff\xff\xffa", Error::Length),
            (b"\xc0\xc0", Error::Length),
            (b"\xc1", Error::Encoding),
            (b"\xd4\x05\x00", Error::Encoding),
            (b"\x81\xc0\xc0", Error::Encoding),
        ] {
            assert_eq!(to_json(&Bytes::from_static(bytes)), Err(error), "{bytes:x?}");
        }
        assert_eq!(to_json(&vec![0x91; 1_000].into()), Err(Error::Depth));
    }

    proptest! {
        #[test]
        fn json_comes_back_as_it_went(value in json()) {
            let text = value.to_string();
            let (back, attachments) = to_json(&packed(&text).into()).unwrap();
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&back).unwrap(), value);
            prop_assert!(attachments.is_empty());
        }

        #[test]
        fn any_bytes_are_json_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok((text, _)) = to_json(&bytes.into()) {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{}", text);
            }
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            (-1e9..1e9_f64).prop_map(Into::into),
            ".*".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 64, 20, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..20).prop_map(Into::into),
                proptest::collection::btree_map(".*", inner, 0..20)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }
}
