use std::time::Duration;

/// Reads `500ms`, `5s`, `15m`, `1h` or `7d`.
pub fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits).unwrap_or((text, ""));
    let number: u64 = number.parse().map_err(|_| "write it as 500ms, 5s, 15m, 1h or 7d".to_owned())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => return Err(format!("which unit? write {number}s for seconds")),
        _ => return Err(format!("unknown unit {unit:?}; there are ms, s, m, h and d")),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(|| "too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse;
    use std::time::Duration;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("2d"), Ok(Duration::from_secs(172_800)));
        for wrong in ["", "5", "s", "-1s", "1.5h", "5 s", "5w", "99999999999999999999s", "999999999999999999d"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
