//! Values whose form does not depend on where they stand: numbers, durations, sizes, secrets.
#![expect(clippy::wildcard_enum_match_arm, reason = "TOML's types are a closed set: all that is not wanted is wrong")]

use schemars::{JsonSchema, Schema, SchemaGenerator};
use tidegate_auth::Secret;
use toml::Spanned;
use toml::de::DeValue;

use super::{Fault, Reader, Site, Value};
use crate::text;

impl Value for String {
    const WANTED: &'static str = "a string";

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self> {
        reader.parse(value, site, |text| Ok::<_, Fault>(text.to_owned()))
    }
}

impl Value for Secret {
    const WANTED: &'static str = "a string";

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self> {
        String::read(reader, value, site).map(Self::from)
    }
}

impl Value for bool {
    const WANTED: &'static str = "true or false";

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self> {
        match value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            // `enabled = "${FLAG}"`: a variable can stand in a string only.
            DeValue::String(written) if written.contains("${") => {
                reader.parse(value, site, |text| text.parse().map_err(|_| "is neither true nor false".to_owned()))
            }
            _ => reader.wrong_type(value, site),
        }
    }
}

impl Value for u64 {
    const WANTED: &'static str = "a whole number";

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self> {
        match value.get_ref() {
            DeValue::Integer(number) => {
                let read = Self::from_str_radix(number.as_str(), number.radix()).ok();
                if read.is_none() {
                    let fault = if number.as_str().starts_with('-') { "must not be negative" } else { "is too large" };
                    reader.problem(value.span().start, format!("{site} {fault}"));
                }
                read
            }
            DeValue::String(written) if written.contains("${") => {
                reader.parse(value, site, |text| text.parse().map_err(|_| "is no whole number".to_owned()))
            }
            _ => reader.wrong_type(value, site),
        }
    }
}

/// A time span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span(pub std::time::Duration);

impl Value for Span {
    const WANTED: &'static str = r#"a duration such as "30s", "250ms" or "1h30m""#;

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self> {
        match value.get_ref() {
            DeValue::Integer(number) => {
                let message = format!("{site} is a duration and needs a unit: write \"{number}s\" or \"{number}ms\"");
                reader.problem(value.span().start, message);
                None
            }
            _ => reader.parse(value, site, |text| text::duration(text).map(Self)),
        }
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size(pub u64);

impl Value for Size {
    const WANTED: &'static str = r#"a size such as "1MB", "64KiB" or a number of bytes"#;

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self> {
        match value.get_ref() {
            DeValue::Integer(_) => u64::read(reader, value, site).map(Self),
            _ => reader.parse(value, site, |text| text::size(text).map(Self)),
        }
    }
}

/// A share in percent, as parts of a million; a fraction is written as a number or a string.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Percent(pub u32);

impl Value for Percent {
    const WANTED: &'static str = r#"a percentage from 0 to 100, such as 5 or "0.1""#;

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self> {
        let written = match value.get_ref() {
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.as_str().to_owned(),
            _ => return reader.parse(value, site, |text| text::percent(text).map(Self)),
        };
        match text::percent(&written) {
            Ok(share) => Some(Self(share)),
            Err(fault) => {
                reader.problem(value.span().start, format!("{site}: {written} {fault}"));
                None
            }
        }
    }
}

macro_rules! schema_of {
    ($type:ty, $name:literal, $schema:tt) => {
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                schemars::json_schema!($schema)
            }
        }
    };
}

schema_of!(Span, "Duration", { "title": "duration", "type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$|\\$", "examples": ["30s", "250ms", "1h30m"] });
schema_of!(Size, "Size", { "title": "size", "anyOf": [
    { "type": "integer", "minimum": 0 },
    { "type": "string", "pattern": "^[0-9]+ ?([kKMG]?B|[KMG]iB)?$|\\$" }
], "examples": ["1MB", "64KiB", 65536] });

/// A string that must not be shown.
#[derive(Clone, Debug)]
pub(crate) struct Hidden(pub Secret);

impl Value for Hidden {
    const WANTED: &'static str = "a string";

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self> {
        Secret::read(reader, value, site).map(Self)
    }
}

schema_of!(Hidden, "Secret", { "type": "string" });
schema_of!(Percent, "Percent", { "title": "percent", "anyOf": [
    { "type": "number", "minimum": 0, "maximum": 100 },
    { "type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,4})?$|\\$" }
] });

pub(super) use schema_of;
