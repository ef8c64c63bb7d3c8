//! Reading what stands inside strings: variables, durations, sizes; addresses and what HTTP knows.

mod address;
mod http;
mod redis;

use std::time::Duration;

pub(crate) use address::*;
pub(crate) use http::*;
pub(crate) use redis::*;

/// A string with its variables filled in.
pub(crate) struct Expanded {
    /// What it says.
    pub text: String,
    /// As it stands in the file.
    pub written: String,
    /// Whether something of it came from a variable.
    pub from_outside: bool,
}

/// A variable that cannot be filled in.
pub(crate) struct Unexpanded {
    /// The part of the string at fault, as far as it could be read.
    pub written: String,
    pub message: String,
}

/// Fills in `${NAME}` and `${NAME:-default}`; `$$` is a `$`. The default also stands in for an empty variable, as in a
/// shell.
pub(crate) fn expand(written: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Expanded, Unexpanded> {
    let mut text = String::with_capacity(written.len());
    let mut from_outside = false;
    let mut rest = written;
    while let Some((before, after)) = rest.split_once('$') {
        text.push_str(before);
        if let Some(tail) = after.strip_prefix('$') {
            text.push('$');
            rest = tail;
        } else if let Some(tail) = after.strip_prefix('{') {
            let Some((inner, tail)) = tail.split_once('}') else {
                let message = "\"${\" has no \"}\"; write \"$${\" for the characters themselves";
                return Err(Unexpanded { written: format!("${after}"), message: message.to_owned() });
            };
            let (name, default) = match inner.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (inner, None),
            };
            let fault = |message| Unexpanded { written: format!("${{{inner}}}"), message };
            if !is_variable(name) {
                return Err(fault(format!("{name:?} is no name of an environment variable")));
            }
            let value = match default {
                Some(default) => variable(name).filter(|value| !value.is_empty()).or_else(|| Some(default.to_owned())),
                None => variable(name),
            };
            let Some(value) = value else {
                return Err(fault(format!(
                    "the environment variable {name} is not set; \"${{{name}:-…}}\" would give it a default"
                )));
            };
            text.push_str(&value);
            from_outside = true;
            rest = tail;
        } else {
            text.push('$');
            rest = after;
        }
    }
    text.push_str(rest);
    Ok(Expanded { text, written: written.to_owned(), from_outside })
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// `; did you mean "x"?` with the nearest of the names, or nothing if none is near.
pub(crate) fn suggest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let lower = name.to_lowercase();
    names
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&lower, &known.to_lowercase()), known))
        .filter(|(distance, known)| *distance <= 1.max(known.chars().count().min(lower.chars().count()) / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| format!("; did you mean {known:?}?"))
        .unwrap_or_default()
}

/// A number at the text's beginning, and what follows.
fn number(text: &str) -> Result<(u64, &str), String> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    if digits.is_empty() {
        return Err("does not begin with a number".to_owned());
    }
    digits.parse().map(|number| (number, rest)).map_err(|_| "is too large".to_owned())
}

/// `250ms`, `30s`, `1h30m`, `7d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(total);
    }
    if rest.is_empty() {
        return Err(r#"is no duration; write for example "30s""#.to_owned());
    }
    while !rest.is_empty() {
        let (count, after) = number(rest).map_err(|fault| format!("is no duration: {rest:?} {fault}"))?;
        let after = after.trim_start();
        let end = after.find(|character: char| !character.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, tail) = after.split_at_checked(end).unwrap_or((after, ""));
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "" => return Err(format!("is no duration: {count} has no unit (ms, s, m, h or d)")),
            _ => return Err(format!("is no duration: {unit:?} is no unit (ms, s, m, h or d)")),
        };
        total = count
            .checked_mul(millis)
            .and_then(|millis| total.checked_add(Duration::from_millis(millis)))
            .ok_or_else(|| "is too long".to_owned())?;
        rest = tail.trim_start();
    }
    Ok(total)
}

/// `1MB` (a million), `64KiB` (65,536), `512`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (count, unit) = number(text.trim()).map_err(|fault| format!("is no size: it {fault}"))?;
    let unit = unit.trim();
    let factor: u64 = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(format!("is no size: {unit:?} is no unit (B, kB, MB, GB, KiB, MiB or GiB)")),
    };
    count.checked_mul(factor).ok_or_else(|| "is too large".to_owned())
}

/// `5`, `0.1`, `12.3456`: parts of a million.
pub(crate) fn percent(text: &str) -> Result<u32, String> {
    let wanted = || "is no percentage from 0 to 100 with at most four digits after the point".to_owned();
    let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() > 3 || fraction.len() > 4 {
        return Err(wanted());
    }
    let parts = format!("{whole}{fraction:0<4}").parse().map_err(|_| wanted())?;
    if parts <= 1_000_000 { Ok(parts) } else { Err(wanted()) }
}

/// How a token is signed, by its name in RFC 7518.
pub(crate) fn algorithm(text: &str) -> Result<tidegate_auth::Algorithm, String> {
    let names = tidegate_auth::Algorithm::ALL.map(tidegate_auth::Algorithm::as_str);
    text.parse().map_err(|_| format!("is none of {}{}", names.join(", "), suggest(text, names.into_iter())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expanded(text: &str) -> Result<String, String> {
        let variable = |name: &str| match name {
            "HOME" => Some("/root".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        expand(text, &variable).map(|expanded| expanded.text).map_err(|fault| fault.message)
    }

    #[test]
    fn variables_are_filled_in() {
        assert_eq!(expanded("${HOME}/x"), Ok("/root/x".into()));
        assert_eq!(expanded("a$b $$ $${HOME} $"), Ok("a$b $ ${HOME} $".into()));
        assert_eq!(expanded("${NONE:-a:-b}${EMPTY:-c}${EMPTY}${NONE:-}"), Ok("a:-bc".into()));
        assert!(expanded("${NONE}").unwrap_err().contains("NONE is not set"));
        assert!(expanded("a ${HOME").unwrap_err().contains("has no"));
        assert!(expanded("${}").unwrap_err().contains("no name"));
        assert!(expanded("${1A}").is_err());
        assert!(expanded("${A B:-c}").is_err());
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration(" 1d 2h "), Ok(Duration::from_secs(26 * 3600)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for text in ["", "s", "30", "30 sec", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_tell_thousands_from_powers() {
        assert_eq!(size("1MB"), Ok(1_000_000));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("2 GiB"), Ok(2 << 30));
        assert_eq!(size("7"), Ok(7));
        for text in ["", "MB", "1mb", "1.5MB", "-1", "1 M B", "18446744073709551615kB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn listen_addresses_are_ip_and_port() {
        assert_eq!(listen_address("127.0.0.1:80"), Ok(([127, 0, 0, 1], 80).into()));
        assert_eq!(listen_address("localhost:80"), Ok(([127, 0, 0, 1], 80).into()));
        assert!(listen_address("[::]:0").is_ok());
        for (text, hint) in [
            ("8080", "0.0.0.0:8080"),
            (":8080", "0.0.0.0:8080"),
            ("*:8080", "0.0.0.0:8080"),
            ("example.org:80", "an IP address"),
            ("127.0.0.1", "no port"),
            ("127.0.0.1:99999", "0 to 65535"),
            ("http://127.0.0.1:80/", "did you mean \"127.0.0.1:80\"?"),
        ] {
            let fault = listen_address(text).unwrap_err();
            assert!(fault.contains(hint), "{text}: {fault}");
        }
    }

    #[test]
    fn server_addresses_are_host_and_port() {
        for text in ["127.0.0.1:3000", "localhost:1", "api_1.internal-x:65535", "[::1]:80"] {
            assert_eq!(server_address(text), Ok(text.to_owned()));
        }
        for text in
            ["", "host", ":80", "host:0", "host:65536", "host:+1", "::1:80", "[::g]:80", "a b:80", "a..b:80", "h:80/x"]
        {
            assert!(server_address(text).is_err(), "{text}");
        }
        assert!(server_address("http://h:80/x").unwrap_err().contains("did you mean \"h:80\"?"));
    }

    #[test]
    fn only_near_names_are_suggested() {
        let names = ["upstream", "path", "host"];
        assert_eq!(suggest("upstrem", names), "; did you mean \"upstream\"?");
        assert_eq!(suggest("Path", names), "; did you mean \"path\"?");
        assert_eq!(suggest("tsoh", names), "");
        assert_eq!(suggest("", names), "");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}", near in "[0-9$:.{}a-zA-Z\\[\\]/-]{0,20}") {
            for text in [&text, &near] {
                let _ = (expanded(text), duration(text), size(text));
                let _ = (listen_address(text), server_address(text), suggest(text, ["a", "bcd"]));
            }
        }
    }
}
