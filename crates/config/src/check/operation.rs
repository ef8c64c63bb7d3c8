use crate::check::secret::{MIN_HMAC_BYTES, Names, secret};
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
    let names = Names { text: "secret", file: "secret_file", what: "the JWT secret", least: MIN_HMAC_BYTES };
    let text = given(found.secret).map(|secret| At::new(secret.value.0, secret.place));
    let file = given(found.secret_file);
    if text.is_none() && file.is_none() {
        reader.problem(place, "[jwt] needs a \"secret\" or a \"secret_file\"");
    }
    let secret = secret(reader, text, file, &names, true);
    let default = Jwt::new(secret.map_or_else(|| "".into(), |secret| secret.value));
    let jwt = Jwt {
        header: if lacks_header { default.header } else { given(found.header).map(|name| name.value.0) },
        cookie: given(found.cookie).map(|name| name.value.0),
        query: given(found.query).map(|name| name.value.0),
        secret: default.secret,
    };
    if jwt.header.is_none() && jwt.cookie.is_none() && jwt.query.is_none() {
        reader.problem(place, "[jwt] needs a \"header\", a \"cookie\" or a \"query\" parameter that holds the token");
    }
    Some(jwt)
}
