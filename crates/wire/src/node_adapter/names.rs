//! Names of rooms. JavaScript has rooms whose name is a number; they are written here as text.

use std::fmt;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::json::write_string;

/// A list of rooms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(pub Vec<String>);

impl Names {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends them as a JSON array.
    pub(super) fn push(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for (index, name) in self.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_string(out, name);
        }
        out.push(b']');
    }
}

impl<T: Into<String>> FromIterator<T> for Names {
    fn from_iter<I: IntoIterator<Item = T>>(names: I) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of rooms")
            }

            fn visit_unit<E>(self) -> Result<Names, E> {
                Ok(Names::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut given: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some(Name(name)) = given.next_element()? {
                    names.push(name);
                }
                Ok(Names(names))
            }

            // An empty Set of JavaScript, written by who forgot to make a list of it.
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut given: A) -> Result<Names, A::Error> {
                match given.next_entry::<IgnoredAny, IgnoredAny>()? {
                    None => Ok(Names::default()),
                    Some(_) => Err(serde::de::Error::custom("an object is no list of rooms")),
                }
            }
        }

        deserializer.deserialize_any(List)
    }
}

struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl Visitor<'_> for Any {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a room")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(name.to_owned()))
            }

            fn visit_u64<E>(self, name: u64) -> Result<Name, E> {
                Ok(Name(name.to_string()))
            }

            fn visit_i64<E>(self, name: i64) -> Result<Name, E> {
                Ok(Name(name.to_string()))
            }

            fn visit_f64<E>(self, name: f64) -> Result<Name, E> {
                Ok(Name(name.to_string()))
            }
        }

        deserializer.deserialize_any(Any)
    }
}
