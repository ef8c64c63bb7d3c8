//! Strings with a form of their own, each read into what it means.

use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use tidegate_auth::{Scopes, UnknownScope};
use tidegate_rules::{AccessRule, Cidr, HeaderLine, HeaderMatch, Place, Template};
use tidegate_types::Namespace;
use toml::Spanned;
use toml::de::DeValue;

use super::values::schema_of;
use super::{Fault, Reader, Site, Value};
use crate::{AccessFormat, PathMatch, Rate, StatusRanges, text};

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
    /// The host of a request, perhaps with a wildcard.
    Host(String), "a host such as \"example.org\" or \"*.example.org\"", text::host_pattern;
    /// A host name without a wildcard, or an address.
    HostName(Arc<str>), "a host such as \"example.org\"", |text: &str| text::host(text).map(Arc::from);
    /// A path of a URL.
    UrlPath(String), "a path such as \"/api/\"", text::url_path;
    /// A path and perhaps a query.
    UrlTarget(Arc<str>), "a path such as \"/health?full=1\"", text::url_target;
    /// Which paths a route is for.
    PathPattern(PathMatch), "a path such as \"/api/\", \"= /api\", \"^~ /api/\" or \"~ ^/api/v[0-9]+/\"", text::path_pattern;
    /// Where a web page comes from.
    Origin(String), "an origin such as \"https://example.org\"", text::origin;
    /// Where a web page comes from, perhaps with a wildcard.
    OriginPattern(Arc<str>), "an origin such as \"https://example.org\", \"https://*.example.org\" or \"*\"", text::origin_pattern;
    /// A method.
    Method(Arc<str>), "a method such as \"GET\"", text::method;
    /// The name of a header, a cookie or a query parameter.
    Token(Arc<str>), "a name such as \"session\"", text::token;
    /// The name of a header.
    FieldName(Arc<str>), "the name of a header such as \"x-session-id\"", text::field_name;
    /// What a header's value can be.
    FieldValue(Arc<str>), "the value of a header", text::field_value;
    /// How a token is signed.
    AlgorithmName(tidegate_auth::Algorithm), "an algorithm such as \"ES256\"", text::algorithm;
    /// A whole URL.
    Url(Arc<str>), "a URL such as \"https://id.example.org/jwks.json\"", text::url;
    /// A condition on a header.
    HeaderCondition(Arc<str>), "a condition such as \"x-beta\", \"x-version: 2\" or \"x-client: ~ ^ios\"",
        |text: &str| HeaderMatch::parse(text).map(|_| Arc::from(text));
    /// A header to remove from a request.
    RequestField(Arc<str>), "the name of a header such as \"Cookie\"",
        |text: &str| tidegate_rules::header_name(text, Place::Request).map(|_| Arc::from(text));
    /// A header to remove from a response.
    ResponseField(Arc<str>), "the name of a header such as \"Server\"",
        |text: &str| tidegate_rules::header_name(text, Place::Response).map(|_| Arc::from(text));
    /// A header of a request.
    RequestLine(Templated), "a header such as \"X-Real-IP: {client_ip}\"", |text: &str| line(text, Place::Request);
    /// A header of a response.
    ResponseLine(Templated), "a header such as \"X-Served-By: {upstream}\"", |text: &str| line(text, Place::Response);
    /// A key of limits and hashes.
    KeyTemplate(Templated), "a template such as \"{client_ip}\"", |text: &str| template(text, Place::Key);
    /// Where a redirect leads.
    LocationTemplate(Templated), "a template such as \"https://{host}{uri}\"", |text: &str| template(text, Place::Location);
    /// A body.
    BodyTemplate(Templated), "a template", |text: &str| template(text, Place::Text);
    /// How a line of the access log looks.
    LogLook(Look), "\"json\", \"combined\" or a template such as \"{client_ip} {method} {uri} {status}\"", log_look;
    /// A network.
    Network(Arc<str>), "a network such as \"10.0.0.0/8\" or \"::1\"", network;
    /// Who may.
    AccessLine(Arc<str>), "a rule such as \"allow 10.0.0.0/8\" or \"deny all\"", access_rule;
    /// Requests per time.
    RateText(Rate), "a rate such as \"10r/s\" or \"30r/m\"", Rate::parse;
    /// Status codes.
    Statuses(StatusRanges), "status codes such as \"200-399\"", StatusRanges::parse;
    /// What may be done with an API key.
    KeyScopes(Scopes), "a scope such as \"publish\", or \"*\"", |text: &str| {
        text.parse().map_err(|unknown: UnknownScope| Fault::from(unknown.to_string()))
    };
    /// A namespace of Socket.IO.
    NamespaceName(Namespace), "a namespace such as \"/events\"", namespace;
    /// Where a node of the cluster is.
    NodeAddress(crate::NodeAddress), "an IP address such as \"10.0.0.5\" or \"10.0.0.5:7946\"", text::node_address;
    /// Where Redis is.
    RedisUrl(text::RedisLocation), "a URL such as \"redis://127.0.0.1:6379\"",
        |text: &str| text::redis_url(text).map_err(Fault::quoting);
    /// Where a collector is.
    Endpoint(Arc<str>), "an address such as \"http://127.0.0.1:4318\"", text::endpoint;
}

/// A text that the gateway fills in for each request.
#[derive(Clone, Debug)]
pub(crate) struct Templated {
    pub text: Arc<str>,
    /// Whether a token's claims are asked for.
    pub claims: bool,
}

macro_rules! templated {
    ($($name:ident)+) => {$(
        impl From<$name> for Templated {
            fn from(read: $name) -> Self {
                read.0
            }
        }
    )+};
}

templated!(RequestLine ResponseLine KeyTemplate LocationTemplate BodyTemplate);

/// How a line of the access log looks.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub format: AccessFormat,
    pub claims: bool,
}

fn template(text: &str, place: Place) -> Result<Templated, Fault> {
    let template = Template::parse(text, place)?;
    Ok(Templated { text: text.into(), claims: template.reads_claims() })
}

fn line(text: &str, place: Place) -> Result<Templated, Fault> {
    let line = HeaderLine::parse(text, place)?;
    Ok(Templated { text: text.into(), claims: line.template().is_some_and(Template::reads_claims) })
}

fn log_look(text: &str) -> Result<Look, Fault> {
    let template = Template::parse(text, Place::Log)?;
    let format = match text {
        "json" => AccessFormat::Json,
        "combined" => AccessFormat::Combined,
        // A line that says the same each time is rather a slip of the pen.
        word if template.fixed().is_some() => {
            let hint = text::suggest(word, ["json", "combined"]);
            return Err(format!("must be \"json\", \"combined\" or a template with variables{hint}").into());
        }
        text => AccessFormat::Template(text.into()),
    };
    Ok(Look { format, claims: template.reads_claims() })
}

/// Without its slash it is rather a room.
fn namespace(text: &str) -> Result<Namespace, Fault> {
    if !text.starts_with('/') {
        return Err("must begin with \"/\"".to_owned().into());
    }
    Namespace::try_from(text).map_err(|fault| fault.to_string().into())
}

fn network(text: &str) -> Result<Arc<str>, Fault> {
    text.parse::<Cidr>().map(|network| network.to_string().into()).map_err(Fault::quoting)
}

fn access_rule(text: &str) -> Result<Arc<str>, Fault> {
    text.parse::<AccessRule>().map(|rule| rule.to_string().into()).map_err(Fault::quoting)
}
