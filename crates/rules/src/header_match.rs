use http::{HeaderMap, HeaderName};
use regex::bytes::{Regex, RegexBuilder};

use crate::TemplateError;

/// A condition on a field of the request: `"x-beta"` (is there), `"x-version: 2"` (has this value), `"x-client: ~ ^ios"`
/// (matches a regular expression; `~*` in any case). Of several values of a field one is enough.
#[derive(Clone, Debug)]
pub struct HeaderMatch {
    source: Box<str>,
    name: HeaderName,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equals(Box<[u8]>),
    Matches(Regex),
}

impl HeaderMatch {
    /// Reads a condition.
    ///
    /// # Errors
    /// A name that no header can have, or a faulty regular expression.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let (name, test) = match text.split_once(':') {
            None => (text, Test::Present),
            Some((name, value)) => {
                let value = value.trim();
                let at = text.len() - value.len();
                let test = match value.strip_prefix('~') {
                    Some(rest) => {
                        let (rest, any_case) = rest.strip_prefix('*').map_or((rest, false), |rest| (rest, true));
                        Test::Matches(
                            expression(rest.trim(), any_case).map_err(|message| TemplateError { at, message })?,
                        )
                    }
                    None => Test::Equals(value.as_bytes().into()),
                };
                (name, test)
            }
        };
        let name = name.trim();
        let name = HeaderName::try_from(name)
            .map_err(|_| TemplateError { at: 0, message: format!("{name:?} cannot be the name of a header field") })?;
        Ok(Self { source: text.into(), name, test })
    }

    /// Whether a request fulfils it.
    pub fn matches(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(&self.name).iter();
        match &self.test {
            Test::Present => values.next().is_some(),
            Test::Equals(wanted) => values.any(|value| value.as_bytes() == &**wanted),
            Test::Matches(expression) => values.any(|value| expression.is_match(value.as_bytes())),
        }
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }
}

/// By its text: the rest follows from that.
impl PartialEq for HeaderMatch {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for HeaderMatch {}

fn expression(text: &str, any_case: bool) -> Result<Regex, String> {
    RegexBuilder::new(text).case_insensitive(any_case).unicode(false).build().map_err(|error| {
        // The last line says what is wrong; the ones before it draw the expression, which has its own place in the file.
        let error = error.to_string();
        let reason = error.lines().last().unwrap_or_default();
        format!("the regular expression {text:?} is faulty: {}", reason.trim_start_matches("error: "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(condition: &str, values: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-a", http::HeaderValue::from_static(value));
        }
        HeaderMatch::parse(condition).unwrap().matches(&headers)
    }

    #[test]
    fn a_condition_is_presence_a_value_or_an_expression() {
        assert!(fits("X-A", &[""]) && !fits("x-a", &[]));
        assert!(fits("x-a: 2", &["1", "2"]) && !fits("x-a: 2", &["22"]) && !fits("x-a: 2", &[]));
        assert!(fits("x-a: ~ ^ios", &["ios 17"]) && !fits("x-a: ~ ^ios", &["IOS 17", "an ios"]));
        assert!(fits("x-a: ~* ^ios", &["IOS 17"]));
    }

    #[test]
    fn faults_are_told() {
        assert_eq!(HeaderMatch::parse("x a").unwrap_err().at, 0);
        let error = HeaderMatch::parse("x-a: ~ (").unwrap_err();
        assert_eq!(error.at, 5);
        assert!(error.message.contains("unclosed group"), "{error}");
    }
}
