//! Texts and JSON with placeholders. The syntax of braces is that of the gateway's templates; the values are of another
//! kind: they are JSON, and keep their type.

use tidegate_wire::write_string;

use crate::definition::JsonDefinition;
use crate::facts::{Fact, Facts, Scene};
use crate::field::Fields;

/// Fields of a payload begin so where they would be mistaken for something else.
const PAYLOAD: &str = "payload.";

/// What a placeholder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Fact(Fact),
    Field(usize),
}

#[derive(Clone, Debug)]
enum Piece {
    Text(Box<str>),
    Source(Source),
}

/// A text with placeholders: `"case:{caseId}"`. `{{` is a literal `{`; `}` stands for itself.
#[derive(Clone, Debug)]
pub struct Text(Box<[Piece]>);

/// Names that placeholders of a template may have.
#[derive(Clone, Copy)]
pub(crate) struct Names<'a> {
    pub scene: Scene,
    pub fields: Option<&'a Fields>,
}

impl Names<'_> {
    fn find(&self, name: &str) -> Result<Source, String> {
        let field = |name| self.fields.and_then(|fields| fields.slot(name)).map(Source::Field);
        let found = match name.strip_prefix(PAYLOAD) {
            Some(name) => field(name),
            // What the server knows comes first, so that no payload stands in for it.
            None => self.fact(name).map(Source::Fact).or_else(|| field(name)),
        };
        found.ok_or_else(|| self.unknown(name))
    }

    fn fact(&self, name: &str) -> Option<Fact> {
        Fact::ALL.iter().copied().find(|fact| fact.name() == name && self.scene.knows(*fact))
    }

    fn unknown(&self, name: &str) -> String {
        let mut known: Vec<String> = self.scene.known().map(|name| format!("{{{name}}}")).collect();
        if let Some(fields) = self.fields {
            known.extend(fields.names().map(|field| {
                if self.fact(field).is_some() { format!("{{{PAYLOAD}{field}}}") } else { format!("{{{field}}}") }
            }));
        }
        let hint =
            if self.fields.is_some() { "; declare a field of the payload, or use one of " } else { "; known are " };
        format!("{{{name}}} is not known here{hint}{}", known.join(", "))
    }
}

impl Text {
    /// Reads a template. The error comes with the byte of the text that it is about.
    pub(crate) fn parse(source: &str, names: Names<'_>) -> Result<Self, (usize, String)> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = source;
        while let Some(brace) = rest.find('{') {
            let (plain, tail) = rest.split_at(brace);
            text.push_str(plain);
            let at = source.len() - tail.len();
            if let Some(after) = tail.strip_prefix("{{") {
                text.push('{');
                rest = after;
                continue;
            }
            let Some((name, after)) = tail.strip_prefix('{').and_then(|tail| tail.split_once('}')) else {
                return Err((at, "this \"{\" is never closed; a literal \"{\" is written \"{{\"".to_owned()));
            };
            let found = names.find(name).map_err(|message| (at, message))?;
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text).into()));
            }
            pieces.push(Piece::Source(found));
            rest = after;
        }
        text.push_str(rest);
        if !text.is_empty() {
            pieces.push(Piece::Text(text.into()));
        }
        Ok(Self(pieces.into()))
    }

    /// Stands in for a text that has its problem already.
    pub(crate) fn nothing() -> Self {
        Self([Piece::Source(Source::Fact(Fact::User))].into())
    }

    /// The text. A value that is missing leaves nothing; one that is no string stands as its JSON.
    pub fn render(&self, facts: &Facts<'_>) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Source(Source::Fact(fact)) => facts.push_text(*fact, &mut out),
                Piece::Source(Source::Field(slot)) => {
                    if let Some(value) = facts.payload.and_then(|payload| payload.slot(*slot)) {
                        out.push_str(value.text());
                    }
                }
            }
        }
        out
    }

    /// As [`Text::render`]; `None` if the text is one placeholder whose value is missing.
    pub fn value(&self, facts: &Facts<'_>) -> Option<String> {
        let missing = match self.only_source() {
            Some(Source::Field(slot)) => facts.payload.and_then(|payload| payload.slot(slot)).is_none(),
            Some(Source::Fact(fact)) => !facts.push_json(fact, &mut Vec::new()),
            None => false,
        };
        (!missing).then(|| self.render(facts))
    }

    /// How many bytes of the text come before anything that a client has chosen.
    pub(crate) fn bytes_before_payload(&self, facts: &Facts<'_>) -> usize {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(plain) => text.push_str(plain),
                Piece::Source(Source::Fact(fact)) => facts.push_text(*fact, &mut text),
                Piece::Source(Source::Field(_)) => break,
            }
        }
        text.len()
    }

    /// The text, if it is always the same.
    pub(crate) fn fixed(&self) -> Option<&str> {
        match &*self.0 {
            [Piece::Text(text)] => Some(text),
            [] => Some(""),
            [Piece::Source(_)] | [_, _, ..] => None,
        }
    }

    pub(crate) fn sources(&self) -> impl Iterator<Item = Source> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Source(source) => Some(*source),
            Piece::Text(_) => None,
        })
    }

    fn only_source(&self) -> Option<Source> {
        match &*self.0 {
            [Piece::Source(source)] => Some(*source),
            _ => None,
        }
    }
}

/// JSON with placeholders. A text that is one placeholder and nothing else becomes the value itself, of whatever type.
/// A member of an object whose placeholder has no value is left out; an item of a list is `null` then.
#[derive(Clone, Debug)]
pub struct Json(Node);

#[derive(Clone, Debug)]
enum Node {
    /// JSON that is always the same.
    Fixed(Box<[u8]>),
    Value(Source),
    Text(Text),
    List(Box<[Node]>),
    /// Keys are JSON strings with their colon.
    Object(Box<[(Box<[u8]>, Node)]>),
}

impl Json {
    /// Compiles; what is wrong is told with its place.
    pub(crate) fn compile(
        definition: &JsonDefinition,
        names: Names<'_>,
        problem: &mut impl FnMut(usize, String),
    ) -> Self {
        Self(node(definition, names, problem))
    }

    /// Appends the JSON.
    pub fn render(&self, facts: &Facts<'_>, out: &mut Vec<u8>) {
        if !self.0.render(facts, out) {
            out.extend_from_slice(b"null");
        }
    }

    /// The JSON alone.
    pub fn text(&self, facts: &Facts<'_>) -> String {
        let mut out = Vec::with_capacity(128);
        self.render(facts, &mut out);
        String::from_utf8(out).unwrap_or_default()
    }

    pub(crate) fn asks_for(&self, wanted: Fact) -> bool {
        self.0.asks_for(wanted)
    }
}

fn node(definition: &JsonDefinition, names: Names<'_>, problem: &mut impl FnMut(usize, String)) -> Node {
    match definition {
        JsonDefinition::Plain(json) => Node::Fixed(json.as_bytes().into()),
        JsonDefinition::Text(text) => match Text::parse(&text.value, names) {
            Ok(parsed) => match (parsed.fixed(), parsed.only_source()) {
                (Some(fixed), _) => Node::Fixed(quoted(fixed).into()),
                (None, Some(source)) => Node::Value(source),
                (None, None) => Node::Text(parsed),
            },
            Err((at, message)) => {
                problem(text.place + at, message);
                Node::Fixed((*b"null").into())
            }
        },
        JsonDefinition::List(items) => Node::List(items.iter().map(|item| node(item, names, problem)).collect()),
        JsonDefinition::Object(members) => Node::Object(
            members
                .iter()
                .map(|(key, value)| {
                    let mut key = quoted(key);
                    key.push(b':');
                    (key.into(), node(value, names, problem))
                })
                .collect(),
        ),
    }
}

fn quoted(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    write_string(&mut out, text);
    out
}

impl Node {
    /// Appends the value; whether there is one.
    fn render(&self, facts: &Facts<'_>, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Fixed(json) => out.extend_from_slice(json),
            Self::Value(Source::Fact(fact)) => return facts.push_json(*fact, out),
            Self::Value(Source::Field(slot)) => {
                let Some(value) = facts.payload.and_then(|payload| payload.slot(*slot)) else { return false };
                out.extend_from_slice(value.json().as_bytes());
            }
            Self::Text(text) => write_string(out, &text.render(facts)),
            Self::List(items) => {
                out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    if !item.render(facts, out) {
                        out.extend_from_slice(b"null");
                    }
                }
                out.push(b']');
            }
            Self::Object(members) => {
                out.push(b'{');
                let first = out.len();
                for (key, value) in members {
                    let before = out.len();
                    if before > first {
                        out.push(b',');
                    }
                    out.extend_from_slice(key);
                    if !value.render(facts, out) {
                        out.truncate(before);
                    }
                }
                out.push(b'}');
            }
        }
        true
    }

    fn asks_for(&self, wanted: Fact) -> bool {
        match self {
            Self::Fixed(_) => false,
            Self::Value(source) => *source == Source::Fact(wanted),
            Self::Text(text) => text.sources().any(|source| source == Source::Fact(wanted)),
            Self::List(items) => items.iter().any(|item| item.asks_for(wanted)),
            Self::Object(members) => members.iter().any(|(_, value)| value.asks_for(wanted)),
        }
    }
}
