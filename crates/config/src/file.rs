//! What may stand in a file. Each section is declared once; its reader, its JSON Schema and its table in the reference
//! all come from that.

macro_rules! sections {
    ($($(#[doc = $doc:literal])+ $name:ident {
        $($(#[doc = $field_doc:literal])+ $field:ident: $type:ty $(= $default:tt)?,)+
    })+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug, Default)]
        pub(crate) struct $name {
            $($(#[doc = $field_doc])+ pub $field: Option<crate::reader::At<$type>>,)+
            given: Vec<&'static str>,
        }

        impl $name {
            /// Whether the key is not there at all. One that cannot be read is `None` too, and has its problem already.
            #[allow(dead_code, reason = "not every section has keys that must be there")]
            pub fn lacks(&self, key: &str) -> bool {
                !self.given.contains(&key)
            }
        }

        impl crate::reader::Section for $name {
            const KEYS: &'static [&'static str] = &[$(crate::file::key(stringify!($field)),)+];

            fn from_fields(fields: &crate::reader::Fields<'_>) -> Self {
                Self {
                    $($field: fields.get(crate::file::key(stringify!($field))),)+
                    given: Self::KEYS.iter().copied().filter(|key| fields.has(key)).collect(),
                }
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let mut properties = serde_json::Map::new();
                $(
                    let mut schema = generator.subschema_for::<$type>();
                    schema.insert("description".to_owned(), concat!($($field_doc),+).trim().into());
                    $(schema.insert("default".to_owned(), serde_json::json!($default));)?
                    properties.insert(crate::file::key(stringify!($field)).to_owned(), schema.to_value());
                )+
                schemars::json_schema!({
                    "description": concat!($($doc),+).trim(),
                    "type": "object",
                    "properties": properties,
                    "additionalProperties": false,
                    // As declared: related keys stand together in the reference.
                    "x-order": <Self as crate::reader::Section>::KEYS,
                })
            }
        }
    )+};
}

/// The key of a field; one that is a word of Rust is written with `r#` in the declaration.
const fn key(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', ..] => field.split_at(2).1,
        _ => field,
    }
}

mod cluster;
mod dialect;
mod interop;
mod limit;
mod listener;
mod operation;
mod realtime;
mod route;
mod upstream;
mod webhook;

pub(crate) use cluster::*;
pub(crate) use dialect::*;
pub(crate) use interop::*;
pub(crate) use limit::*;
pub(crate) use listener::*;
pub(crate) use operation::*;
pub(crate) use realtime::*;
pub(crate) use route::*;
pub(crate) use upstream::*;
pub(crate) use webhook::*;

use crate::reader::{List, Named};

sections! {
    /// The configuration of Tidegate.
    TidegateConfig {
        /// Worker threads; 0 is one for each core.
        workers: u64 = 0,
        /// Refuses what has no place in production: secrets that are short or known, origins that are everybody's or one's own machine's.
        production: bool = false,
        /// The most open client connections of the process; beyond, 503 with Retry-After. 0 is no cap.
        max_connections: u64 = 0,
        /// Patience with clients, on all listeners.
        client: Client,
        /// Addresses that clients connect to. Without any: one named "public" at 0.0.0.0:8080.
        listener: List<Listener>,
        /// Where health, metrics and stats are served.
        admin: Admin,
        /// Groups of servers that are interchangeable.
        upstream: Named<Upstream>,
        /// Zones: limits of requests or connections for each value of a key.
        limit: Named<Limit>,
        /// How fast new streams are let in when many clients come back at once.
        admission: Admission,
        /// Tokens checked at the edge.
        jwt: Jwt,
        /// What holds for routes that do not say it themselves.
        defaults: Defaults,
        /// Which requests are treated how.
        route: List<Route>,
        /// The realtime server: Socket.IO, rooms, event streams. Switched on by this section.
        realtime: Realtime,
        /// APIs of the realtime server, declared.
        dialect: Named<Dialect>,
        /// Many processes as one server. Switched on by this section.
        cluster: Cluster,
        /// Where persistent messages are kept.
        store: Store,
        /// What is logged.
        log: Log,
        /// Where traces go: OpenTelemetry, OTLP over HTTP. Switched on by this section.
        trace: Trace,
        /// Whether a changed file is taken up by itself.
        reload: Reload,
        /// How the process ends.
        drain: Drain,
    }
}

sections! {
    /// A file of dialects alone: those that come with Tidegate.
    Dialects {
        /// The dialects.
        dialect: Named<Dialect>,
    }
}

/// The JSON Schema (draft 2020-12) of the config file.
pub fn json_schema() -> serde_json::Value {
    let mut schema =
        schemars::generate::SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<TidegateConfig>();
    schema.insert("title".to_owned(), "tidegate.toml".into());
    schema.to_value()
}
