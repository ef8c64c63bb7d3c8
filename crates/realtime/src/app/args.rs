//! What events and acks carry.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_wire::socket_io;

/// The arguments of an event or an ack: JSON values, and binary values that stand in them as placeholders.
///
/// Made from one value by reference, from several with [`Args::with`], or taken from an event to be sent on as they are:
///
/// ```
/// use tidegate_realtime::app::Args;
///
/// let one = Args::from(&"hello");
/// assert_eq!(one.json(), r#""hello""#);
/// let several = Args::none().with(&1).with(&["a", "b"]).with_binary(&b"\x01\x02"[..]);
/// assert_eq!(several.json(), r#"1,["a","b"],{"_placeholder":true,"num":0}"#);
/// assert_eq!(several.attachments()[0].as_ref(), b"\x01\x02");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Args<'a> {
    json: Cow<'a, str>,
    attachments: Vec<Bytes>,
}

/// Arguments that are not what the handler expects.
#[derive(Debug, thiserror::Error)]
#[error("the arguments are not what is expected: {0}")]
pub struct BadArgs(#[from] serde_json::Error);

impl<'a> Args<'a> {
    /// No arguments.
    pub fn none() -> Self {
        Self::default()
    }

    /// What came in a packet, or was checked in another way.
    pub(crate) fn checked(json: impl Into<Cow<'a, str>>, attachments: Vec<Bytes>) -> Self {
        Self { json: json.into(), attachments }
    }

    /// One more argument. A value that JSON has no form for becomes `null`, with a line in the log.
    #[must_use]
    pub fn with(mut self, value: &(impl Serialize + ?Sized)) -> Self {
        let text = match serde_json::to_string(value) {
            Ok(text) => text,
            Err(error) => {
                tracing::error!(%error, "an argument has no form in JSON; null is sent instead");
                "null".to_owned()
            }
        };
        // A client's text that looks like a placeholder must not name one of the real attachments.
        self.push(&socket_io::defuse_placeholders(&text));
        self
    }

    /// One more argument, binary. Stock clients take at most ten in one event.
    #[must_use]
    pub fn with_binary(mut self, bytes: impl Into<Bytes>) -> Self {
        let placeholder = format!(r#"{{"_placeholder":true,"num":{}}}"#, self.attachments.len());
        self.push(&placeholder);
        self.attachments.push(bytes.into());
        self
    }

    fn push(&mut self, value: &str) {
        let json = self.json.to_mut();
        if !json.is_empty() {
            json.push(',');
        }
        json.push_str(value);
    }

    /// The arguments as JSON, separated by commas. Binary values stand in it as `{"_placeholder":true,"num":k}`.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The binary values, by the number of their placeholder.
    pub fn attachments(&self) -> &[Bytes] {
        &self.attachments
    }

    /// Each argument's JSON.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        socket_io::values(&self.json)
    }

    /// The first argument, without a look at the others.
    ///
    /// # Errors
    /// There is none, or it is something else.
    pub fn first<'s, T: Deserialize<'s>>(&'s self) -> Result<T, BadArgs> {
        let mut values = serde_json::Deserializer::from_str(&self.json).into_iter::<T>();
        let none = || serde::de::Error::custom("there is no argument");
        values.next().unwrap_or_else(|| Err(none())).map_err(BadArgs)
    }

    /// All arguments, as a tuple (`(String, u32)`), or as a `Vec` of any number.
    ///
    /// # Errors
    /// There are fewer or more of them, or they are something else.
    pub fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, BadArgs> {
        Ok(serde_json::from_str(&format!("[{}]", self.json))?)
    }

    /// The same, for longer than what they were read from.
    pub fn into_owned(self) -> Args<'static> {
        Args { json: Cow::Owned(self.json.into_owned()), attachments: self.attachments }
    }

    pub(crate) fn into_parts(self) -> (Cow<'a, str>, Vec<Bytes>) {
        (self.json, self.attachments)
    }
}

impl<T: Serialize + ?Sized> From<&T> for Args<'static> {
    fn from(value: &T) -> Self {
        Args::none().with(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_one_by_one_and_together() {
        let args = Args::checked(r#""a", {"b":[1]} ,2"#, Vec::new());
        assert_eq!(args.values().collect::<Vec<_>>(), [r#""a""#, r#"{"b":[1]}"#, "2"]);
        assert_eq!(args.first::<&str>().unwrap(), "a");
        assert_eq!(args.read::<(String, serde_json::Value, u8)>().unwrap().2, 2);
        assert!(args.read::<(String,)>().is_err());
        assert!(Args::none().first::<u8>().is_err());
        assert!(Args::none().read::<()>().is_err());
        assert_eq!(Args::none().read::<Vec<u8>>().unwrap(), [0_u8; 0]);
    }

    #[test]
    fn what_looks_like_a_placeholder_names_no_attachment() {
        let fake = serde_json::json!({ "_placeholder": true, "num": 0 });
        let args = Args::from(&fake).with_binary(Bytes::from_static(b"x"));
        assert!(socket_io::check_placeholders(&format!("[{}]", args.json()), 1).is_ok(), "{}", args.json());
    }

    #[test]
    fn a_value_without_a_form_in_json_becomes_null() {
        let keys = std::collections::HashMap::from([((1, 2), 3)]);
        assert_eq!(Args::from(&keys).with(&1).json(), "null,1");
    }
}
