use crate::check::tokens::{Found, tokens};
use crate::check::{claims, count, delay, given, percent, small};
use crate::file;
use crate::reader::{At, LogLook, Reader};
use crate::text::suggest;
use crate::{AccessFormat, AccessLog, Drain, Jwt, Log, Reload, Trace};

pub(super) fn log(reader: &Reader<'_>, found: Option<At<file::Log>>, has_jwt: bool) -> Log {
    let default = Log::default();
    let Some(At { value: found, .. }) = found else { return default };
    Log {
        level: found.level.map_or(default.level, |level| level.value),
        format: found.format.map_or(default.format, |format| format.value),
        access: found.access.map_or(default.access, |given| access(reader, &given, "access")),
        access_format: given(found.access_format)
            .map_or(default.access_format, |look| access_format(reader, look, has_jwt)),
        queue_lines: count(reader, found.queue_lines, "queue_lines", default.queue_lines, 1),
    }
}

/// How the lines of an access log look.
pub(super) fn access_format(
    reader: &Reader<'_>,
    At { value: LogLook(look), place }: At<LogLook>,
    has_jwt: bool,
) -> AccessFormat {
    claims(reader, look.claims, place, has_jwt);
    look.format
}

/// Where an access log goes.
pub(super) fn access(reader: &Reader<'_>, given: &At<String>, key: &str) -> AccessLog {
    match given.value.as_str() {
        "off" => AccessLog::Off,
        "stdout" => AccessLog::Stdout,
        "stderr" => AccessLog::Stderr,
        // A bare word is rather a slip of the pen than a file's name.
        word if !word.contains(['/', '.']) => {
            let hint = suggest(word, ["off", "stdout", "stderr"]);
            let message = "must be \"stdout\", \"stderr\", \"off\" or a path such as \"/var/log/access.log\"";
            reader.problem(given.place, format!("{key:?} {message}, not {word:?}{hint}"));
            AccessLog::Off
        }
        file => AccessLog::File(reader.resolve(file)),
    }
}

pub(super) fn trace(reader: &Reader<'_>, found: Option<At<file::Trace>>) -> Option<Trace> {
    let default = Trace::default();
    let At { value: found, .. } = found?;
    if let Some(At { value, place }) = &found.service_name
        && value.is_empty()
    {
        reader.problem(*place, "\"service_name\" must not be empty");
    }
    Some(Trace {
        endpoint: found.endpoint.map_or(default.endpoint, |given| given.value.0),
        sample: found.sample.map_or(default.sample, |given| given.value.0),
        service_name: found.service_name.map_or(default.service_name, |given| given.value.into()),
    })
}

pub(super) fn reload(found: Option<At<file::Reload>>) -> Reload {
    let watch = found.and_then(|found| found.value.watch).map(|watch| watch.value);
    watch.map_or_else(Reload::default, |watch| Reload { watch })
}

pub(super) fn drain(reader: &Reader<'_>, found: Option<At<file::Drain>>) -> Drain {
    let default = Drain::default();
    let Some(At { value: found, .. }) = found else { return default };
    Drain {
        timeout: delay(reader, found.timeout, "timeout", default.timeout),
        reconnect_in: delay(reader, found.reconnect_in, "reconnect_in", default.reconnect_in),
        delay: delay(reader, found.delay, "delay", default.delay),
        rate: small(reader, found.rate, "rate", default.rate, 0),
        jitter: percent(reader, found.jitter, "jitter", default.jitter, 0),
    }
}

pub(super) fn jwt(reader: &Reader<'_>, found: Option<At<file::Jwt>>) -> Option<Jwt> {
    let At { value: found, place } = found?;
    let lacks_header = found.lacks("header");
    let has_key = ["public_keys", "jwks_url", "jwks_file"].iter().any(|key| !found.lacks(key));
    let secret = given(found.secret).map(|secret| At::new(secret.value.0, secret.place));
    let secret_file = given(found.secret_file);
    let has_key = has_key || secret.is_some() || secret_file.is_some();
    let tokens = Found {
        section: "[jwt]",
        place,
        secret,
        secret_file,
        secret_name: "secret",
        secret_file_name: "secret_file",
        algorithms: found.algorithms,
        public_keys: found.public_keys,
        jwks_url: found.jwks_url,
        jwks_file: found.jwks_file,
        jwks_refresh: found.jwks_refresh,
        audience: found.audience,
        issuer: found.issuer,
        leeway: found.leeway,
    };
    let default = Jwt::of(self::tokens(reader, tokens, has_key, true));
    let jwt = Jwt {
        header: if lacks_header { default.header } else { given(found.header).map(|name| name.value.0) },
        cookie: given(found.cookie).map(|name| name.value.0),
        query: given(found.query).map(|name| name.value.0),
        tokens: default.tokens,
    };
    if jwt.header.is_none() && jwt.cookie.is_none() && jwt.query.is_none() {
        reader.problem(place, "[jwt] needs a \"header\", a \"cookie\" or a \"query\" parameter that holds the token");
    }
    Some(jwt)
}
