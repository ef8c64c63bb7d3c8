use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use crate::{Facts, Place, Template, TemplateError};

/// One field to write: `Name: template`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderLine {
    name: HeaderName,
    value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    /// Without variables: made once.
    Fixed(HeaderValue),
    Template(Template),
}

impl HeaderLine {
    /// Reads `Name: template`; spaces around the value do not count.
    ///
    /// # Errors
    /// No colon, a name or value that no header can have, a field that is the gateway's own, or a bad template.
    pub fn parse(line: &str, place: Place) -> Result<Self, TemplateError> {
        let fault = |at, message: &str| TemplateError { at, message: message.to_owned() };
        let colon = line.find(':').ok_or_else(|| fault(line.len(), "write \"Name: value\""))?;
        let (name, value) = line.split_at(colon);
        let name = changeable(name.trim(), place, true)?;
        let value = value.trim_start_matches(':');
        let text = value.trim();
        let at = line.len() - value.trim_start().len();
        let template = Template::parse(text, place)
            .map_err(|TemplateError { at: within, message }| TemplateError { at: at + within, message })?;
        if let Some(control) = text.bytes().position(|byte| byte < 0x20 || byte == 0x7f) {
            return Err(fault(at + control, "a header's value cannot hold control characters"));
        }
        let value = match template.fixed() {
            Some(text) => {
                Value::Fixed(HeaderValue::from_bytes(text).map_err(|_| fault(at, "a header's value cannot hold this"))?)
            }
            None => Value::Template(template),
        };
        Ok(Self { name, value })
    }

    /// The field's name.
    pub fn name(&self) -> &HeaderName {
        &self.name
    }

    /// The value's template; `None` if the value is the same for every request.
    pub fn template(&self) -> Option<&Template> {
        match &self.value {
            Value::Fixed(_) => None,
            Value::Template(template) => Some(template),
        }
    }

    /// The value for a request. A value that no header can hold does not come about: control characters are left out.
    pub fn value(&self, facts: &Facts<'_>) -> HeaderValue {
        match &self.value {
            Value::Fixed(value) => value.clone(),
            Value::Template(template) => {
                let mut text = Vec::new();
                template.render(facts, &mut text);
                HeaderValue::from_bytes(text.trim_ascii()).unwrap_or(HeaderValue::from_static(""))
            }
        }
    }
}

/// Reads the name of a field that shall be removed.
///
/// # Errors
/// A name that no header can have, or a field that is the gateway's own.
pub fn header_name(name: &str, place: Place) -> Result<HeaderName, TemplateError> {
    changeable(name.trim(), place, false)
}

/// Fields that frame a message or belong to one connection are the gateway's own: a wrong one lets one message be read as
/// two (request smuggling), or breaks a tunnel.
fn changeable(name: &str, place: Place, set: bool) -> Result<HeaderName, TemplateError> {
    let fault = |message: String| Err(TemplateError { at: 0, message });
    let Ok(parsed) = HeaderName::try_from(name) else {
        return fault(format!("{name:?} cannot be the name of a header field"));
    };
    if parsed == HOST {
        return match (place, set) {
            (Place::Request, true) => Ok(parsed),
            (Place::Request, false) => fault("Host cannot be removed, HTTP/1.1 needs it: set it instead".to_owned()),
            _ => fault("Host is a field of requests only".to_owned()),
        };
    }
    let why = match parsed {
        CONTENT_LENGTH | TRANSFER_ENCODING | TRAILER => "it says where the message ends, which the gateway must know",
        CONNECTION | UPGRADE | TE => "it belongs to one connection; upgrades are passed on without it",
        _ if ["keep-alive", "proxy-connection"].contains(&parsed.as_str()) => {
            "it belongs to one connection, and the gateway keeps its own"
        }
        _ => return Ok(parsed),
    };
    fault(format!("{name} cannot be changed: {why}"))
}

/// What a route changes in a header: first fields are removed, then set, then added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Written in place of what is there; an empty value removes the field (nginx `proxy_set_header`).
    pub set: Vec<HeaderLine>,
    /// Written beside what is there, unless empty.
    pub add: Vec<HeaderLine>,
    /// Taken out.
    pub remove: Vec<HeaderName>,
}

impl HeaderChanges {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// The templates of its values.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        self.set.iter().chain(&self.add).filter_map(HeaderLine::template)
    }

    /// Changes a header that the facts do not borrow; a response's, usually.
    pub fn apply(&self, headers: &mut HeaderMap, facts: &Facts<'_>) {
        self.write(headers, |line| line.value(facts));
    }

    /// Renders the values, so that the header that they were read from can be changed.
    pub fn render(&self, facts: &Facts<'_>) -> RenderedChanges {
        RenderedChanges(self.set.iter().chain(&self.add).map(|line| line.value(facts)).collect())
    }

    /// Changes a header by values rendered before, with the same changes.
    pub fn apply_rendered(&self, headers: &mut HeaderMap, rendered: RenderedChanges) {
        let mut values = rendered.0.into_iter();
        self.write(headers, |_| values.next().unwrap_or(HeaderValue::from_static("")));
    }

    fn write(&self, headers: &mut HeaderMap, mut value: impl FnMut(&HeaderLine) -> HeaderValue) {
        for name in &self.remove {
            headers.remove(name);
        }
        for line in &self.set {
            let value = value(line);
            if !value.is_empty() {
                headers.insert(&line.name, value);
            } else if line.name != HOST {
                // An upstream refuses a request without Host; what the client sent is better than that.
                headers.remove(&line.name);
            }
        }
        for line in &self.add {
            let value = value(line);
            if !value.is_empty() {
                headers.append(&line.name, value);
            }
        }
    }
}

/// The values of [`HeaderChanges`] for one request.
#[derive(Debug)]
pub struct RenderedChanges(SmallVec<[HeaderValue; 4]>);

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(set: &[&str], add: &[&str], remove: &[&str]) -> HeaderChanges {
        let lines =
            |lines: &[&str]| lines.iter().map(|line| HeaderLine::parse(line, Place::Request).unwrap()).collect();
        let remove = remove.iter().map(|name| header_name(name, Place::Request).unwrap()).collect();
        HeaderChanges { set: lines(set), add: lines(add), remove }
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_field_is_set_once_added_beside_and_removed() {
        let mut found = headers(&[("x-a", "1"), ("x-a", "2"), ("x-b", "1"), ("cookie", "c"), ("x-gone", "1")]);
        let changes =
            changes(&["X-A: {method}", "X-Gone: {query.none}"], &["X-B: 2", "X-C: {query.none}"], &["Cookie"]);
        changes.apply(&mut found, &Facts { method: "GET", ..Facts::default() });
        assert_eq!(found, headers(&[("x-a", "GET"), ("x-b", "1"), ("x-b", "2")]));
    }

    #[test]
    fn a_value_may_be_made_of_the_header_that_it_changes() {
        let mut found = headers(&[("x-a", "1"), ("x-b", "2")]);
        let changes = changes(&["X-A: {header.x-b}", "X-B: {header.x-a}"], &[], &["X-B"]);
        let rendered = changes.render(&Facts { headers: Some(&found), ..Facts::default() });
        changes.apply_rendered(&mut found, rendered);
        assert_eq!(found, headers(&[("x-a", "2"), ("x-b", "1")]));
    }

    #[test]
    fn a_value_cannot_split_the_header() {
        let changes = changes(&["X-A: <{query.a}>"], &[], &[]);
        let mut found = HeaderMap::new();
        changes.apply(&mut found, &Facts { query: Some("a=x%0d%0aSet-Cookie:%20y%00"), ..Facts::default() });
        assert_eq!(found, headers(&[("x-a", "<xSet-Cookie: y>")]));
    }

    #[test]
    fn fields_that_frame_a_message_are_protected() {
        for name in ["Connection", "content-length", "Transfer-Encoding", "Upgrade", "TE", "Keep-Alive", "Trailer"] {
            for place in [Place::Request, Place::Response] {
                let error = HeaderLine::parse(&format!("{name}: x"), place).unwrap_err();
                assert!(error.message.contains("cannot be changed"), "{error}");
                assert!(header_name(name, place).is_err());
            }
        }
        assert!(HeaderLine::parse("Host: app.internal", Place::Request).is_ok());
        assert!(HeaderLine::parse("Host: app.internal", Place::Response).is_err());
        assert!(header_name("host", Place::Request).is_err());
    }

    #[test]
    fn a_host_that_turns_out_empty_stays_what_it_was() {
        let mut found = headers(&[("host", "a")]);
        changes(&["Host: {header.x-host}"], &[], &[]).apply(&mut found, &Facts::default());
        assert_eq!(found, headers(&[("host", "a")]));
    }

    #[test]
    fn faults_are_told_with_their_place() {
        let at = |line| HeaderLine::parse(line, Place::Request).unwrap_err().at;
        assert_eq!(at("X-A:  {metod}"), 6);
        assert_eq!(at("X-A"), 3);
        assert_eq!(at("X A: b"), 0);
        assert_eq!(at("X-A: b\rc"), 6);
    }
}
