//! What a line needs of a request that is gone when the line is written.

use http::header::COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};
use tidegate_rules::{Facts, Named, Template, Variable};

/// What a format asks for. Nothing else is kept: a stream holds it as long as it lives, and much of it is secret.
#[derive(Clone, Debug, Default)]
pub(super) struct Needs {
    fields: Box<[HeaderName]>,
    claims: Box<[Box<str>]>,
    prefix_rest: bool,
    /// The numbers of the connection and of its request.
    connection: bool,
}

/// What was kept of one request.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(super) headers: HeaderMap,
    pub(super) claims: Box<[(Box<str>, Box<str>)]>,
    pub(super) prefix_rest: Box<str>,
    pub(super) connection: Option<u64>,
    pub(super) connection_requests: Option<u64>,
}

impl Needs {
    /// Only fields of the request.
    pub(super) fn fields(names: [HeaderName; 2]) -> Self {
        Self { fields: names.into(), ..Self::default() }
    }

    /// What the template asks for.
    pub(super) fn of(template: &Template) -> Self {
        let mut fields: Vec<_> = template.variables().filter_map(field).collect();
        fields.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        fields.dedup();
        let claims = template.variables().filter_map(|variable| match variable {
            Variable::Claim(name) => Some(name.clone()),
            Variable::Named(_) | Variable::Header(_) | Variable::Cookie(_) | Variable::Query(_) => None,
        });
        let asks = |names: &[Named]| {
            template.variables().any(|variable| matches!(variable, Variable::Named(name) if names.contains(name)))
        };
        Self {
            fields: fields.into(),
            claims: claims.collect(),
            prefix_rest: asks(&[Named::PrefixRest]),
            connection: asks(&[Named::Connection, Named::ConnectionRequests]),
        }
    }

    pub(super) fn any(&self) -> bool {
        !self.fields.is_empty() || !self.claims.is_empty() || self.prefix_rest || self.connection
    }

    pub(super) fn keep(&self, facts: &Facts<'_>) -> Kept {
        let mut headers = HeaderMap::with_capacity(self.fields.len());
        for name in &self.fields {
            for value in facts.headers.iter().flat_map(|headers| headers.get_all(name)) {
                // A copy, since the value shares the buffer that the head was read into, which a stream would keep alive.
                if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                    headers.append(name, value);
                }
            }
        }
        Kept {
            headers,
            claims: facts.claims.iter().filter(|(name, _)| self.claims.contains(name)).cloned().collect(),
            prefix_rest: if self.prefix_rest { facts.prefix_rest.into() } else { Box::default() },
            connection: facts.connection.filter(|_| self.connection),
            connection_requests: facts.connection_requests.filter(|_| self.connection),
        }
    }
}

/// The field of a request that a variable reads.
fn field(variable: &Variable) -> Option<HeaderName> {
    match variable {
        Variable::Header(name) => Some(name.clone()),
        Variable::Cookie(_) => Some(COOKIE),
        Variable::Named(_) | Variable::Query(_) | Variable::Claim(_) => None,
    }
}
