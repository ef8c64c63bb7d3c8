//! A typed walk over the parsed text that notes problems and goes on.
#![expect(clippy::wildcard_enum_match_arm, reason = "TOML's types are a closed set: all that is not wanted is wrong")]

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use tidegate_auth::Secret;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::text::{self, Expanded};
use crate::{Problem, Problems, Surroundings};

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

/// Collects problems while the text is read.
pub(crate) struct Reader<'a> {
    text: &'a str,
    directory: PathBuf,
    surroundings: Surroundings<'a>,
    problems: RefCell<Vec<(usize, String)>>,
}

impl<'a> Reader<'a> {
    pub fn new(file: &str, text: &'a str, surroundings: Surroundings<'a>) -> Self {
        let directory = Path::new(file).parent().map(Path::to_path_buf).unwrap_or_default();
        Self { text, directory, surroundings, problems: RefCell::default() }
    }

    /// Notes a problem at a byte of the text.
    pub fn problem(&self, place: usize, message: impl Into<String>) {
        self.problems.borrow_mut().push((place, message.into()));
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

    /// Reads a string by a function that says what is wrong with it.
    pub fn parse<T: Value>(
        &self,
        value: &Spanned<DeValue<'_>>,
        site: &Site,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        if !matches!(value.get_ref(), DeValue::String(_)) {
            return self.wrong_type(value, site);
        }
        let expanded = self.expand(value)?;
        match read(&expanded.text) {
            Ok(read) => Some(read),
            Err(fault) => {
                // What a variable held may be a secret in the wrong place, and the fault may quote it.
                let fault = if expanded.from_outside {
                    format!("the expanded value of {:?} must be {}", expanded.written, T::WANTED)
                } else {
                    format!("{:?} {fault}", expanded.written)
                };
                self.problem(value.span().start, format!("{site}: {fault}"));
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

/// An array.
#[derive(Debug, JsonSchema)]
#[schemars(inline)]
pub(crate) struct List<T>(#[schemars(with = "Vec<T>")] pub Vec<At<T>>);

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

impl Value for String {
    const WANTED: &'static str = "a string";

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self> {
        reader.parse(value, site, |text| Ok(text.to_owned()))
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

schema_of!(Span, "Duration", { "type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$|\\$", "examples": ["30s", "250ms", "1h30m"] });
schema_of!(Size, "Size", { "anyOf": [
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

macro_rules! checked_strings {
    ($($(#[doc = $doc:literal])+ $name:ident($type:ty), $wanted:literal, $read:expr;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Debug)]
        pub(crate) struct $name(pub $type);

        impl Value for $name {
            const WANTED: &'static str = $wanted;

            fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, site: &Site) -> Option<Self> {
                reader.parse(value, site, |text| $read(text).map(Self))
            }
        }

        schema_of!($name, $wanted, { "type": "string" });
    )+};
}

checked_strings! {
    /// Where to listen.
    ListenAddress(std::net::SocketAddr), "an address such as \"127.0.0.1:8080\"", text::listen_address;
    /// Where a server is.
    ServerAddress(String), "an address such as \"127.0.0.1:3000\"", text::server_address;
    /// The host of a request.
    Host(String), "a host such as \"example.org\"", text::host;
    /// A path of a URL.
    UrlPath(String), "a path such as \"/api/\"", text::url_path;
    /// Where a web page comes from.
    Origin(String), "an origin such as \"https://example.org\"", text::origin;
}
