//! The schema of a payload, compiled.

use std::sync::Arc;

use regex::Regex;

use crate::definition::{FieldDefinition, FieldKind};

/// The most fields of a payload, nested ones included.
const MOST_FIELDS: usize = 256;
/// How deep fields may be nested.
const MOST_DEPTH: usize = 16;

/// The fields of a payload: what is read of it, by number.
#[derive(Clone, Debug)]
pub(crate) struct Fields {
    pub group: Group,
    names: Vec<String>,
}

/// The fields of one object.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub fields: Box<[Field]>,
    pub unknown_keys: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub key: Box<str>,
    /// Where its value is kept; items of lists are not kept one by one.
    pub slot: Option<usize>,
    pub rule: Rule,
    pub required: bool,
    pub not_empty: bool,
    pub max_bytes: Option<u64>,
    pub code: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
pub(crate) enum Rule {
    Text { min: u64, max: u64, pattern: Option<Regex>, one_of: Box<[Box<str>]> },
    Uuid,
    Number { min: f64, max: f64, whole: bool },
    Boolean,
    Any,
    Object(Group),
    List { items: Box<Field>, min: u64, max: u64 },
}

impl Fields {
    /// Compiles; what is wrong is told with its place.
    pub fn compile(
        definitions: &[FieldDefinition],
        unknown_keys: bool,
        problem: &mut impl FnMut(usize, String),
    ) -> Self {
        let mut compiler = Compiler { names: Vec::new(), depth: 0, too_many: false };
        let group = compiler.group(definitions, unknown_keys, Some(""), problem);
        Self { group, names: compiler.names }
    }

    pub fn slot(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|own| own == name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    pub fn slots(&self) -> usize {
        self.names.len()
    }
}

struct Compiler {
    names: Vec<String>,
    depth: usize,
    too_many: bool,
}

impl Compiler {
    /// `path` is the dotted way to the group with a point at its end; `None` inside lists.
    fn group(
        &mut self,
        definitions: &[FieldDefinition],
        unknown_keys: bool,
        path: Option<&str>,
        problem: &mut impl FnMut(usize, String),
    ) -> Group {
        let fields = definitions.iter().map(|definition| self.field(definition, path, problem)).collect();
        Group { fields, unknown_keys }
    }

    fn field(
        &mut self,
        definition: &FieldDefinition,
        path: Option<&str>,
        problem: &mut impl FnMut(usize, String),
    ) -> Field {
        let FieldDefinition { name, kind, required, not_empty, max_bytes, code } = definition;
        if name.value.contains(['{', '}', '.']) {
            let message = format!("the field {:?} must not have \"{{\", \"}}\" or \".\" in its name", name.value);
            problem(name.place, message);
        }
        let full = path.map(|path| format!("{path}{}", name.value));
        let slot = full.as_ref().and_then(|full| {
            if self.names.len() >= MOST_FIELDS {
                if !self.too_many {
                    problem(name.place, format!("a payload has at most {MOST_FIELDS} fields; take the type \"any\""));
                }
                self.too_many = true;
                return None;
            }
            self.names.push(full.clone());
            Some(self.names.len() - 1)
        });
        if *not_empty && matches!(kind, FieldKind::Uuid | FieldKind::Number { .. } | FieldKind::Boolean) {
            problem(name.place, format!("{:?}: \"not_empty\" is for strings, lists, objects and \"any\"", name.value));
        }
        let rule = self.rule(name.place, kind, full.as_deref(), problem);
        Field {
            key: name.value.as_str().into(),
            slot,
            rule,
            required: *required,
            not_empty: *not_empty,
            max_bytes: *max_bytes,
            code: code.as_deref().map(Arc::from),
        }
    }

    fn rule(
        &mut self,
        place: usize,
        kind: &FieldKind,
        full: Option<&str>,
        problem: &mut impl FnMut(usize, String),
    ) -> Rule {
        let mut order = |least: f64, most: f64| {
            if least > most {
                problem(place, format!("\"min\" {least} is above \"max\" {most}: no value would do"));
            }
        };
        match kind {
            FieldKind::Text { min, max, pattern, one_of } => {
                let (min, max) = (min.unwrap_or(0), max.unwrap_or(u64::MAX));
                order(min as f64, max as f64);
                let pattern = pattern.as_ref().and_then(|pattern| match Regex::new(&pattern.value) {
                    Ok(compiled) => Some(compiled),
                    Err(error) => {
                        let reason = error.to_string();
                        let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                        problem(pattern.place, format!("{:?} is no regular expression: {reason}", pattern.value));
                        None
                    }
                });
                Rule::Text { min, max, pattern, one_of: one_of.iter().map(|word| word.as_str().into()).collect() }
            }
            FieldKind::Uuid => Rule::Uuid,
            FieldKind::Number { min, max, whole } => {
                let (min, max) = (min.unwrap_or(f64::NEG_INFINITY), max.unwrap_or(f64::INFINITY));
                order(min, max);
                Rule::Number { min, max, whole: *whole }
            }
            FieldKind::Boolean => Rule::Boolean,
            FieldKind::Any => Rule::Any,
            FieldKind::Object { fields, unknown_keys } => {
                if self.too_deep(place, problem) {
                    return Rule::Any;
                }
                let path = full.map(|full| format!("{full}."));
                self.depth += 1;
                let group = self.group(fields, *unknown_keys, path.as_deref(), problem);
                self.depth -= 1;
                Rule::Object(group)
            }
            FieldKind::List { items, min, max } => {
                let (min, max) = (min.unwrap_or(0), max.unwrap_or(u64::MAX));
                order(min as f64, max as f64);
                if self.too_deep(place, problem) {
                    return Rule::Any;
                }
                self.depth += 1;
                let items = Box::new(self.field(items, None, problem));
                self.depth -= 1;
                Rule::List { items, min, max }
            }
        }
    }

    fn too_deep(&self, place: usize, problem: &mut impl FnMut(usize, String)) -> bool {
        let deep = self.depth >= MOST_DEPTH;
        if deep {
            problem(place, format!("fields are nested more than {MOST_DEPTH} deep; take the type \"any\""));
        }
        deep
    }
}
