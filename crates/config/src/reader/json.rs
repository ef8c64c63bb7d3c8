//! Values of dialects: JSON with templates in it, bounds, sections that hold themselves.
#![expect(clippy::wildcard_enum_match_arm, reason = "TOML's types are a closed set: all that is not wanted is wrong")]

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use tidegate_dialect::{JsonDefinition, Placed};
use toml::Spanned;
use toml::de::DeValue;

use super::values::schema_of;
use super::{Reader, Section, Site, Value};

/// JSON whose strings are templates, written as TOML.
#[derive(Clone, Debug)]
pub(crate) struct Json(pub JsonDefinition);

impl Value for Json {
    const WANTED: &'static str = "a table, a list, a string, a number, true or false";

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self> {
        json(reader, value, site).map(Self)
    }
}

fn json(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<JsonDefinition> {
    match value.get_ref() {
        DeValue::String(_) => {
            let text = reader.expand(value)?.text;
            let place = reader.inside(value, &text);
            Some(JsonDefinition::Text(Placed::new(text, place)))
        }
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Some(JsonDefinition::Plain(number.to_string())),
            Err(_) => {
                reader.problem(value.span().start, format!("{site} holds a number that is too large"));
                None
            }
        },
        DeValue::Float(number) => match number.as_str().parse::<f64>() {
            Ok(number) if number.is_finite() => Some(JsonDefinition::Plain(number.to_string())),
            _ => {
                reader.problem(value.span().start, format!("{site} holds a number that JSON does not know"));
                None
            }
        },
        DeValue::Boolean(value) => Some(JsonDefinition::Plain(value.to_string())),
        DeValue::Array(items) => {
            Some(JsonDefinition::List(items.iter().filter_map(|item| json(reader, item, site)).collect()))
        }
        DeValue::Table(table) => {
            let mut members: Vec<_> = table.iter().collect();
            members.sort_by_key(|(key, _)| key.span().start);
            let members = members
                .into_iter()
                .filter_map(|(key, value)| Some((key.get_ref().to_string(), json(reader, value, site)?)))
                .collect();
            Some(JsonDefinition::Object(members))
        }
        DeValue::Datetime(_) => reader.wrong_type::<Json>(value, site).map(|json| json.0),
    }
}

schema_of!(Json, "Json", { "title": "JSON" });

/// A bound of a number, or of a number of characters or items.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound(pub f64);

impl Value for Bound {
    const WANTED: &'static str = "a number";

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self> {
        let number = match value.get_ref() {
            DeValue::Integer(number) => {
                i64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number as f64)
            }
            DeValue::Float(number) => number.as_str().parse::<f64>().ok().filter(|number| number.is_finite()),
            _ => return reader.wrong_type(value, site),
        };
        if number.is_none() {
            reader.problem(value.span().start, format!("{site} is too large"));
        }
        number.map(Self)
    }
}

schema_of!(Bound, "Bound", { "title": "number", "type": "number" });

/// A section that may hold one of its own kind.
#[derive(Debug)]
pub(crate) struct Boxed<T>(pub Box<T>);

impl<T: Section> Value for Boxed<T> {
    const WANTED: &'static str = "a table";
    const IS_TABLE: bool = true;

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self> {
        T::read(reader, value, site).map(|read| Self(Box::new(read)))
    }
}

impl<T: JsonSchema> JsonSchema for Boxed<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}
