use std::fmt;

use thiserror::Error;

use crate::facts::Facts;
use crate::value;
use crate::variable::{Known, Named, Variable};

/// Where a template's text goes: decides which variables may stand in it and how their values are escaped. The template's
/// own text is the operator's, and is written as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// A field of the request to the upstream. Control characters are left out (no splitting of the header).
    Request,
    /// A field of the response to the client; knows the upstream's part too. Escaped as [`Place::Request`].
    Response,
    /// A line of a log; knows everything. Escaped as nginx's `log_format` does by default: `"`, `\` and what is not printable
    /// ASCII as `\xXX`. What is empty is `-`.
    Log,
    /// A key of a limit or a hash; values as they are.
    Key,
    /// Where a redirect leads. Values are percent-encoded, and cannot become or extend the host.
    Location,
    /// A body of plain text; control characters are left out.
    Text,
    /// A body of JSON; values are written as the inside of a string.
    Json,
    /// A body of HTML or XML.
    Html,
}

impl Place {
    /// The place that a body of this content type is.
    pub fn of_body(content_type: &str) -> Self {
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence.ends_with("json") {
            Self::Json
        } else if essence.ends_with("html") || essence.ends_with("xml") {
            Self::Html
        } else {
            Self::Text
        }
    }

    fn knows(self) -> Known {
        match self {
            Self::Request | Self::Key | Self::Location | Self::Text | Self::Json | Self::Html => Known::Request,
            Self::Response => Known::Response,
            Self::Log => Known::End,
        }
    }
}

/// What is wrong with a template, and where.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct TemplateError {
    /// Offset in bytes into the text.
    pub at: usize,
    /// What is wrong, and the way out.
    pub message: String,
}

/// A text with variables in braces: `"{client_ip} asks for {uri}"`. `{{` is a literal `{`; `}` stands for itself.
#[derive(Clone)]
pub struct Template {
    source: Box<str>,
    place: Place,
    shape: Shape,
    /// Of a redirect that stays on this host: must not begin with two slashes, which would name another.
    stays: bool,
}

#[derive(Clone, Debug)]
enum Shape {
    /// No variables.
    Fixed(Box<[u8]>),
    Parts(Box<[Part]>),
}

#[derive(Clone, Debug)]
enum Part {
    Text(Box<[u8]>),
    Variable(Variable),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// A brace that is not closed, a variable that does not exist or is not known in that place, or one that would let the
    /// client choose the host of a redirect.
    pub fn parse(source: &str, place: Place) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut text = Vec::new();
        let mut target = Target::default();
        let mut at = 0;
        while let Some(rest) = source.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(brace) = rest.find('{') else {
                text.extend_from_slice(rest.as_bytes());
                break;
            };
            let (plain, tail) = rest.split_at(brace);
            text.extend_from_slice(plain.as_bytes());
            at += brace;
            if tail.starts_with("{{") {
                text.push(b'{');
                at += 2;
                continue;
            }
            let fault = |message| TemplateError { at, message };
            let end = tail
                .find('}')
                .ok_or_else(|| fault("this \"{\" is never closed; a literal \"{\" is written \"{{\"".to_owned()))?;
            let name = tail.get(1..end).unwrap_or_default();
            let variable = Variable::parse(name).map_err(fault)?;
            if variable.known() > place.knows() {
                return Err(fault(too_early(name, &variable, place)));
            }
            if place == Place::Location {
                target.text(&text);
                target.variable(&variable).map_err(fault)?;
            }
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text).into()));
            }
            parts.push(Part::Variable(variable));
            at += end + 1;
        }
        target.text(&text);
        let shape = if parts.is_empty() {
            Shape::Fixed(text.into())
        } else {
            if !text.is_empty() {
                parts.push(Part::Text(text.into()));
            }
            Shape::Parts(parts.into())
        };
        let stays = place == Place::Location && target.state == TargetState::Relative;
        Ok(Self { source: source.into(), place, shape, stays })
    }

    /// Appends the text with the values that are known.
    pub fn render(&self, facts: &Facts<'_>, out: &mut Vec<u8>) {
        let parts = match &self.shape {
            Shape::Fixed(text) => return out.extend_from_slice(text),
            Shape::Parts(parts) => parts,
        };
        let start = out.len();
        for part in parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Variable(variable) => {
                    let before = out.len();
                    value::write(out, variable, facts, self.place, start);
                    if self.place == Place::Log && out.len() == before {
                        out.push(b'-');
                    }
                }
            }
        }
        if self.stays {
            let slashes = out.iter().skip(start).take_while(|byte| **byte == b'/').count();
            if slashes > 1 {
                out.drain(start..start + slashes - 1);
            }
        }
    }

    /// The text alone.
    pub fn text(&self, facts: &Facts<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        self.render(facts, &mut out);
        out
    }

    /// The text, if it is the same for every request.
    pub fn fixed(&self) -> Option<&[u8]> {
        match &self.shape {
            Shape::Fixed(text) => Some(text),
            Shape::Parts(_) => None,
        }
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Where it may stand.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Its variables, in order.
    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        let parts: &[Part] = match &self.shape {
            Shape::Fixed(_) => &[],
            Shape::Parts(parts) => parts,
        };
        parts.iter().filter_map(|part| match part {
            Part::Variable(variable) => Some(variable),
            Part::Text(_) => None,
        })
    }

    /// Whether it reads the request's header, so that whoever renders it later must keep that.
    pub fn reads_headers(&self) -> bool {
        self.variables().any(|variable| matches!(variable, Variable::Header(_) | Variable::Cookie(_)))
    }

    /// Whether it reads claims of a token.
    pub fn reads_claims(&self) -> bool {
        self.variables().any(|variable| matches!(variable, Variable::Claim(_)))
    }
}

/// Which of a redirect's parts has been reached, so that no variable lets a client choose the host.
#[derive(Default)]
struct Target {
    state: TargetState,
    /// What was written so far, a variable as `{`.
    seen: Vec<u8>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum TargetState {
    /// No host of its own so far.
    #[default]
    Relative,
    /// Within the host and port.
    Authority,
    /// Behind a host.
    Beyond,
}

impl Target {
    fn text(&mut self, text: &[u8]) {
        for &byte in text {
            self.seen.push(byte);
            match self.state {
                TargetState::Relative => {
                    let scheme = self.seen.ends_with(b"://") && !self.seen.contains(&b'?') && self.slashes() == 2;
                    if scheme || self.seen == b"//" {
                        self.state = TargetState::Authority;
                    }
                }
                TargetState::Authority if b"/?#".contains(&byte) => self.state = TargetState::Beyond,
                TargetState::Authority | TargetState::Beyond => {}
            }
        }
    }

    fn slashes(&self) -> usize {
        self.seen.iter().filter(|byte| **byte == b'/').count()
    }

    fn variable(&mut self, variable: &Variable) -> Result<(), String> {
        if self.state == TargetState::Authority {
            if is_path(variable) {
                // Rendered with a slash before it.
                self.state = TargetState::Beyond;
            } else if *variable != Variable::Named(Named::Host) {
                return Err("only {host} may be part of a redirect's host: with any other variable the client would \
                            choose where it leads"
                    .to_owned());
            }
        }
        self.seen.push(b'{');
        Ok(())
    }
}

/// Whether the value is a path, or what is left of one.
pub(crate) fn is_path(variable: &Variable) -> bool {
    matches!(variable, Variable::Named(Named::Uri | Named::Path | Named::PrefixRest))
}

fn too_early(name: &str, variable: &Variable, place: Place) -> String {
    let known = match variable.known() {
        Known::Request => "from the start",
        Known::Response => "when the upstream has answered",
        Known::End => "when the exchange has ended",
    };
    let use_in = match (variable.known(), place) {
        (Known::Response, _) => "it may stand in response headers and logs",
        _ => "it may stand in logs",
    };
    format!("{{{name}}} is known only {known}; {use_in}")
}

/// By the text and its place: the rest follows from them.
impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source && self.place == other.place
    }
}

impl Eq for Template {}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({:?})", self.source)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

#[cfg(test)]
mod tests;
