use http::HeaderName;

/// How early in a request's life a variable has its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Known {
    /// With the head of the request.
    Request,
    /// With the head of the response.
    Response,
    /// At the end.
    End,
}

macro_rules! variables {
    ($($known:ident: $($variant:ident $name:literal)*;)*) => {
        /// A variable without a name of the user's own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)] // Each is its text; the config's reference describes them.
        pub enum Named { $($($variant,)*)* }

        impl Named {
            /// As it is written between the braces.
            pub fn as_str(self) -> &'static str {
                match self { $($(Self::$variant => $name,)*)* }
            }

            pub(crate) fn known(self) -> Known {
                match self { $($(Self::$variant => Known::$known,)*)* }
            }
        }

        /// Every variable without a name of the user's own.
        pub const VARIABLES: &[Named] = &[$($(Named::$variant,)*)*];
    };
}

variables! {
    Request:
        ClientIp "client_ip" ClientPort "client_port" RemoteAddr "remote_addr" Host "host" Method "method" Path "path"
        Query "query" Uri "uri" Scheme "scheme" HttpVersion "http_version" RequestId "request_id" Route "route"
        Listener "listener" TlsVersion "tls.version" TlsCipher "tls.cipher" TlsSni "tls.sni"
        TlsClientSubject "tls.client_subject" TlsClientVerified "tls.client_verified" PrefixRest "prefix_rest"
        Connection "connection" ConnectionRequests "connection_requests" TraceId "trace_id";
    Response:
        Upstream "upstream" UpstreamAddress "upstream_address" UpstreamStatus "upstream_status"
        UpstreamConnectTime "upstream_connect_time" UpstreamHeaderTime "upstream_header_time" Retries "retries";
    End:
        Status "status" BytesIn "bytes_in" BytesOut "bytes_out" Duration "duration" Ttfb "ttfb" Kind "kind"
        Reason "reason" Error "error" Events "events" MessagesIn "messages_in" MessagesOut "messages_out"
        Time "time" TimeLocal "time_local" TimeUnix "time_unix";
}

/// What stands between braces in a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variable {
    /// One of [`VARIABLES`].
    Named(Named),
    /// `{header.NAME}`: a field of the request; several values are joined by `, `.
    Header(HeaderName),
    /// `{cookie.NAME}`: the first cookie of that name.
    Cookie(Box<str>),
    /// `{query.NAME}`: the first parameter of that name, decoded.
    Query(Box<str>),
    /// `{claim.NAME}`: a claim of the verified token.
    Claim(Box<str>),
}

/// The prefixes of variables that end in a name of the user's own.
const FAMILIES: [&str; 4] = ["header.", "cookie.", "query.", "claim."];

impl Variable {
    /// Reads what stands between the braces; the error is what to tell the user.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Some(named) = VARIABLES.iter().find(|named| named.as_str() == text) {
            return Ok(Self::Named(*named));
        }
        let Some((family, name)) = text.split_once('.').filter(|(_, name)| !name.is_empty()) else {
            return Err(unknown(text));
        };
        match family {
            "header" => HeaderName::try_from(name)
                .map(Self::Header)
                .map_err(|_| format!("{name:?} cannot be the name of a header field")),
            "cookie" => Ok(Self::Cookie(name.into())),
            "query" => Ok(Self::Query(name.into())),
            "claim" => Ok(Self::Claim(name.into())),
            _ => Err(unknown(text)),
        }
    }

    pub(crate) fn known(&self) -> Known {
        match self {
            Self::Named(named) => named.known(),
            Self::Header(_) | Self::Cookie(_) | Self::Query(_) | Self::Claim(_) => Known::Request,
        }
    }
}

/// What to tell about a variable that does not exist.
fn unknown(text: &str) -> String {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
        return "this is no variable; a literal \"{\" is written \"{{\"".to_owned();
    }
    let lower = text.to_ascii_lowercase();
    let (family, name) = lower.split_once('.').map_or((lower.as_str(), ""), |(family, name)| (family, name));
    let families = FAMILIES
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&format!("{family}."), known), format!("{known}{name}")))
        .filter(|_| !name.is_empty());
    let named =
        VARIABLES.iter().map(|known| (strsim::damerau_levenshtein(&lower, known.as_str()), known.as_str().to_owned()));
    let nginx = from_nginx(&lower).map(|known| (0, known));
    match families.chain(named).chain(nginx).min_by_key(|(distance, _)| *distance) {
        Some((distance, known)) if distance <= 1 + text.len() / 5 => {
            format!("there is no variable {{{text}}}; did you mean {{{known}}}?")
        }
        _ => format!("there is no variable {{{text}}}"),
    }
}

/// What nginx's variables are called here, without their dollar sign.
fn from_nginx(name: &str) -> Option<String> {
    let known = match name {
        "binary_remote_addr" => "client_ip",
        "remote_port" => "client_port",
        "request_method" => "method",
        "request_uri" => "uri",
        "args" | "query_string" => "query",
        "server_protocol" => "http_version",
        "upstream_addr" => "upstream_address",
        "upstream_response_time" => "upstream_header_time",
        "request_time" => "duration",
        "body_bytes_sent" | "bytes_sent" => "bytes_out",
        "request_length" => "bytes_in",
        "time_iso8601" => "time",
        "msec" => "time_unix",
        "ssl_protocol" => "tls.version",
        "ssl_cipher" => "tls.cipher",
        "ssl_server_name" => "tls.sni",
        "ssl_client_s_dn" => "tls.client_subject",
        "ssl_client_verify" => "tls.client_verified",
        _ => {
            let family = |nginx: &str, ours: &str| {
                name.strip_prefix(nginx).filter(|rest| !rest.is_empty()).map(|rest| (ours.to_owned(), rest.to_owned()))
            };
            let (ours, rest) = family("http_", "header.")
                .map(|(ours, rest)| (ours, rest.replace('_', "-")))
                .or_else(|| family("arg_", "query."))
                .or_else(|| family("cookie_", "cookie."))?;
            return Some(ours + &rest);
        }
    };
    Some(known.to_owned())
}
