//! A typed walk over the parsed text that notes problems and goes on.
#![expect(clippy::wildcard_enum_match_arm, reason = "TOML's types are a closed set: all that is not wanted is wrong")]

mod json;
mod strings;
mod values;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use tidegate_rules::TemplateError;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::text::{self, Expanded};
use crate::{Problem, Problems, Surroundings};

pub(crate) use json::*;
pub(crate) use strings::*;
pub(crate) use values::*;

/// A value and the byte at which it stands in the text.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub value: T,
    pub place: usize,
}

impl<T> At<T> {
    pub fn new(value: T, place: usize) -> Self {
        Self { value, place }
    }
}

/// Where a value stands, in words: `key` of the table `scope`; `path` is the dotted way to it.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub path: String,
    pub scope: String,
    pub key: String,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.key, within(&self.scope))
    }
}

/// ` in [scope]`, or nothing for the file itself.
fn within(scope: &str) -> String {
    if scope.is_empty() { "at the top level".to_owned() } else { format!("in {scope}") }
}

/// What is wrong with the text of a value.
pub(crate) struct Fault {
    /// The byte of the text, if the message is about that; otherwise it is about the text, which is then quoted before it.
    pub at: Option<usize>,
    pub message: String,
}

impl Fault {
    /// An error that quotes the text itself.
    pub fn quoting(error: impl fmt::Display) -> Self {
        Self { at: Some(0), message: error.to_string() }
    }
}

impl From<String> for Fault {
    fn from(message: String) -> Self {
        Self { at: None, message }
    }
}

impl From<TemplateError> for Fault {
    fn from(error: TemplateError) -> Self {
        Self { at: Some(error.at), message: error.message }
    }
}

/// Collects problems while the text is read.
pub(crate) struct Reader<'a> {
    text: &'a str,
    directory: PathBuf,
    surroundings: Surroundings<'a>,
    problems: RefCell<Vec<(usize, String)>>,
    production: Cell<bool>,
}

impl<'a> Reader<'a> {
    pub fn new(file: &str, text: &'a str, surroundings: Surroundings<'a>) -> Self {
        let directory = Path::new(file).parent().map(Path::to_path_buf).unwrap_or_default();
        Self { text, directory, surroundings, problems: RefCell::default(), production: Cell::new(false) }
    }

    /// Notes a problem at a byte of the text.
    pub fn problem(&self, place: usize, message: impl Into<String>) {
        self.problems.borrow_mut().push((place, message.into()));
    }

    /// From here on, what has no place in production is a problem.
    pub fn expect_production(&self) {
        self.production.set(true);
    }

    /// Whether the file says that it is for production.
    pub fn production(&self) -> bool {
        self.production.get()
    }

    /// The line of a byte, from 1, to refer to.
    pub fn line(&self, place: usize) -> usize {
        self.text.bytes().take(place).filter(|byte| *byte == b'\n').count() + 1
    }

    /// A path of the file, relative to the file's directory.
    pub fn resolve(&self, path: &str) -> PathBuf {
        self.directory.join(path)
    }

    /// The text of a file that the config refers to.
    pub fn read_file(&self, path: &Path) -> std::io::Result<String> {
        (self.surroundings.read_file)(path)
    }

    /// All problems, in the order of the file; `None` if there is none.
    pub fn finish(&self, file: &str) -> Option<Problems> {
        let mut noted = self.problems.take();
        noted.sort();
        noted.dedup();
        let (mut seen, mut line, mut column) = (0, 1, 1);
        let problems: Vec<Problem> = noted
            .into_iter()
            .map(|(place, message)| {
                // On from the place before, so that many problems in a long text stay cheap.
                let end = self.char_boundary(place);
                for character in self.text.get(seen..end).unwrap_or_default().chars() {
                    (line, column) = if character == '\n' { (line + 1, 1) } else { (line, column + 1) };
                }
                seen = end;
                Problem { line, column, message }
            })
            .collect();
        (!problems.is_empty()).then(|| Problems { file: file.to_owned(), problems })
    }

    /// The byte itself, or the beginning of the character that it is inside of.
    fn char_boundary(&self, place: usize) -> usize {
        (0..=place.min(self.text.len())).rev().find(|end| self.text.is_char_boundary(*end)).unwrap_or(0)
    }

    /// The whole text as the type. A text that is not TOML has only that noted: what is left of it would seem to lack
    /// things that are there.
    pub fn document<T: Section>(&self) -> Option<T> {
        let (document, errors) = DeTable::parse_recoverable(self.text);
        if errors.is_empty() {
            let top = Site { path: String::new(), scope: String::new(), key: String::new() };
            return Some(self.table(document.get_ref(), &top, String::new()));
        }
        for error in errors {
            self.problem(error.span().map_or(0, |span| span.start), format!("not TOML: {}", error.message()));
        }
        None
    }

    /// A table as the type, with its unknown keys noted.
    fn table<T: Section>(&self, table: &DeTable<'_>, site: &Site, scope: String) -> T {
        for key in table.keys() {
            let name: &str = key.get_ref();
            if !T::KEYS.contains(&name) {
                let hint = text::suggest(name, T::KEYS.iter().copied());
                self.problem(key.span().start, format!("unknown key {name:?} {}{hint}", within(&scope)));
            }
        }
        T::from_fields(&Fields { reader: self, table, path: &site.path, scope: &scope })
    }

    fn wrong_type<T: Value>(&self, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<T> {
        let found = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.problem(value.span().start, format!("{site} must be {}, not {found}", T::WANTED));
        None
    }

    /// Whether it is an empty string; one with variables is empty if nothing is left of it.
    fn is_empty(&self, value: &Spanned<DeValue<'_>>) -> bool {
        let DeValue::String(written) = value.get_ref() else { return false };
        // One that cannot be filled in has its problem when it is read.
        text::expand(written, self.surroundings.variable).is_ok_and(|expanded| expanded.text.is_empty())
    }

    /// A string with its variables filled in; `None` after a problem.
    fn expand(&self, value: &Spanned<DeValue<'_>>) -> Option<Expanded> {
        let DeValue::String(written) = value.get_ref() else { return None };
        match text::expand(written, self.surroundings.variable) {
            Ok(expanded) => Some(expanded),
            Err(fault) => {
                // Inside the string if it stands there as it reads, without escapes.
                let span = value.span();
                let inside = self.text.get(span.clone()).and_then(|raw| raw.find(&fault.written));
                self.problem(span.start + inside.unwrap_or(0), fault.message);
                None
            }
        }
    }

    /// Where a string's text begins, if it stands there as it reads, without escapes; else where the string does.
    fn inside(&self, value: &Spanned<DeValue<'_>>, text: &str) -> usize {
        let span = value.span();
        span.start + self.text.get(span).and_then(|raw| raw.find(text)).unwrap_or(0)
    }

    /// Reads a string by a function that says what is wrong with it.
    pub fn parse<T: Value, F: Into<Fault>>(
        &self,
        value: &Spanned<DeValue<'_>>,
        site: &Site,
        read: impl FnOnce(&str) -> Result<T, F>,
    ) -> Option<T> {
        if !matches!(value.get_ref(), DeValue::String(_)) {
            return self.wrong_type(value, site);
        }
        let expanded = self.expand(value)?;
        match read(&expanded.text) {
            Ok(read) => Some(read),
            Err(fault) => {
                let fault = fault.into();
                let span = value.span();
                // What a variable held may be a secret in the wrong place, and the fault may quote it.
                let (place, fault) = if expanded.from_outside {
                    (span.start, format!("the expanded value of {:?} must be {}", expanded.written, T::WANTED))
                } else if let Some(at) = fault.at {
                    // Inside the string if it stands there as it reads, without escapes.
                    let begin = self.text.get(span.clone()).and_then(|raw| raw.find(&expanded.text));
                    (span.start + begin.map_or(0, |begin| begin + at), fault.message)
                } else {
                    (span.start, format!("{:?} {}", expanded.written, fault.message))
                };
                self.problem(place, format!("{site}: {fault}"));
                None
            }
        }
    }
}

/// A table whose keys are fixed.
pub(crate) trait Section: Sized {
    const KEYS: &'static [&'static str];
    fn from_fields(fields: &Fields<'_>) -> Self;
}

/// The fields of one table.
pub(crate) struct Fields<'a> {
    reader: &'a Reader<'a>,
    table: &'a DeTable<'a>,
    path: &'a str,
    scope: &'a str,
}

impl Fields<'_> {
    /// Whether the key is there, readable or not.
    pub fn has(&self, key: &str) -> bool {
        self.table.keys().any(|name| name.get_ref() == key)
    }

    /// The value of a key; `None` if it is missing or cannot be read, which is then noted.
    pub fn get<T: Value>(&self, key: &str) -> Option<At<T>> {
        let (_, value) = self.table.iter().find(|(name, _)| name.get_ref() == key)?;
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        let site = Site { path, scope: self.scope.to_owned(), key: key.to_owned() };
        T::read(self.reader, value, &site).map(|read| At::new(read, value.span().start))
    }
}

/// What can stand behind a key.
pub(crate) trait Value: Sized {
    /// What should stand there, in words.
    const WANTED: &'static str;
    /// Whether it is a table with a header of its own.
    const IS_TABLE: bool = false;
    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self>;
    /// As an element of an array.
    fn read_element(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self> {
        Self::read(reader, value, site)
    }
}

impl<T: Section> Value for T {
    const WANTED: &'static str = "a table";
    const IS_TABLE: bool = true;

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self> {
        match value.get_ref() {
            DeValue::Table(table) => Some(reader.table(table, site, format!("[{}]", site.path))),
            DeValue::Array(_) => {
                let path = &site.path;
                reader.problem(value.span().start, format!("{site} is one table: write [{path}], not [[{path}]]"));
                None
            }
            _ => reader.wrong_type(value, site),
        }
    }

    fn read_element(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self> {
        match value.get_ref() {
            DeValue::Table(table) => Some(reader.table(table, site, format!("[[{}]]", site.path))),
            _ => reader.wrong_type(value, site),
        }
    }
}

/// An array: what could be read of it, and how many stood there.
#[derive(Debug)]
pub(crate) struct List<T>(pub Vec<At<T>>, pub usize);

impl<T: JsonSchema> JsonSchema for List<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        Vec::<T>::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Vec::<T>::json_schema(generator)
    }
}

impl<T: Value> Value for List<T> {
    const WANTED: &'static str = "an array";

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self> {
        match value.get_ref() {
            DeValue::Array(array) => Some(Self(
                array
                    .iter()
                    .filter_map(|element| {
                        T::read_element(reader, element, site).map(|read| At::new(read, element.span().start))
                    })
                    .collect(),
                array.len(),
            )),
            DeValue::Table(_) if T::IS_TABLE => {
                let path = &site.path;
                reader.problem(value.span().start, format!("{site} may be there more than once: write [[{path}]]"));
                None
            }
            _ => reader.wrong_type(value, site),
        }
    }
}

/// One value, or an array of them.
#[derive(Debug)]
pub(crate) struct OneOrMore<T>(pub Vec<At<T>>);

impl<T: JsonSchema> JsonSchema for OneOrMore<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("OneOrMore{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        schemars::json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

impl<T: Value> Value for OneOrMore<T> {
    const WANTED: &'static str = T::WANTED;

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self> {
        if !matches!(value.get_ref(), DeValue::Array(_)) {
            return T::read(reader, value, site).map(|read| Self(vec![At::new(read, value.span().start)]));
        }
        let List(found, stood) = List::read(reader, value, site)?;
        if stood == 0 {
            reader.problem(value.span().start, format!("{site} must not be empty"));
        }
        // What could not be read has its problem.
        (!found.is_empty()).then_some(Self(found))
    }
}

/// A value for which an empty string stands for none, so that a key can be written out or come from a variable.
#[derive(Clone, Debug)]
pub(crate) struct Optional<T>(pub Option<T>);

impl<T: Value> Value for Optional<T> {
    const WANTED: &'static str = T::WANTED;

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self> {
        if reader.is_empty(value) {
            Some(Self(None))
        } else {
            T::read(reader, value, site).map(|read| Self(Some(read)))
        }
    }
}

impl<T: JsonSchema> JsonSchema for Optional<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Optional{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let schema = generator.subschema_for::<T>();
        let constrained =
            schema.as_object().is_some_and(|schema| ["pattern", "enum"].iter().any(|key| schema.contains_key(*key)));
        if constrained { schemars::json_schema!({ "anyOf": [schema, { "const": "" }] }) } else { schema }
    }
}

/// Tables with names that the file chooses, in the order of the file.
#[derive(Debug, JsonSchema)]
#[schemars(inline)]
pub(crate) struct Named<T>(#[schemars(with = "std::collections::BTreeMap<String, T>")] pub Vec<(At<String>, T)>);

impl<T: Section> Value for Named<T> {
    const WANTED: &'static str = "a table of named tables";
    const IS_TABLE: bool = true;

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self> {
        let DeValue::Table(table) = value.get_ref() else {
            let path = &site.path;
            reader.problem(value.span().start, format!("{site} needs a name: write [{path}.NAME]"));
            return None;
        };
        let mut named: Vec<_> = table
            .iter()
            .filter_map(|(key, value)| {
                let name: &str = key.get_ref();
                if !matches!(value.get_ref(), DeValue::Table(_)) {
                    let path = &site.path;
                    let message = format!("{name:?} in [{path}] needs to be in a named table: write [{path}.NAME]");
                    reader.problem(key.span().start, message);
                    return None;
                }
                let site =
                    Site { path: format!("{}.{name}", site.path), scope: format!("[{}]", site.path), key: name.into() };
                T::read(reader, value, &site).map(|read| (At::new(name.to_owned(), key.span().start), read))
            })
            .collect();
        named.sort_by_key(|(name, _)| name.place);
        Some(Self(named))
    }
}
