//! Times as text: RFC 3339 and nginx's `$time_local`. The one place that knows the calendar.

use std::io::Write as _;
use std::time::Duration;

use tidegate_types::Millis;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Appends `2026-01-31T23:59:59.123Z`.
pub fn push_rfc3339(out: &mut Vec<u8>, unix_ms: Millis) {
    let seconds = unix_ms / 1_000;
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = clock(seconds);
    // Writing into memory does not fail.
    let _ = write!(
        out,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        unix_ms.checked_rem(1_000).unwrap_or_default()
    );
}

/// Appends `31/Jan/2026:23:59:59 +0000`, as nginx and Apache write it.
pub fn push_time_local(out: &mut Vec<u8>, unix_ms: Millis, offset_minutes: i16) {
    let seconds = (unix_ms / 1_000).saturating_add_signed(i64::from(offset_minutes) * 60);
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = clock(seconds);
    let month = usize::try_from(month - 1).ok().and_then(|index| MONTHS.get(index)).unwrap_or(&"");
    let sign = if offset_minutes < 0 { '-' } else { '+' };
    let offset = offset_minutes.unsigned_abs();
    let _ = write!(
        out,
        "{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} {sign}{:02}{:02}",
        offset / 60,
        offset % 60
    );
}

/// Seconds with three digits behind the point.
pub(crate) fn seconds(out: &mut Vec<u8>, time: Duration) {
    let _ = write!(out, "{}.{:03}", time.as_secs(), time.subsec_millis());
}

fn clock(seconds: u64) -> (u64, u64, u64) {
    (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60)
}

/// Year, month and day of a day since 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(text(|out| push_rfc3339(out, 951_782_400_007)), "2000-02-29T00:00:00.007Z");
        assert_eq!(text(|out| push_rfc3339(out, 1_767_225_599_999)), "2025-12-31T23:59:59.999Z");
        assert_eq!(text(|out| push_time_local(out, 1_767_225_599_999, 0)), "31/Dec/2025:23:59:59 +0000");
        assert_eq!(text(|out| push_time_local(out, 1_767_225_599_999, 90)), "01/Jan/2026:01:29:59 +0130");
        assert_eq!(text(|out| push_time_local(out, 1_767_225_599_999, -330)), "31/Dec/2025:18:29:59 -0530");
    }

    #[test]
    fn durations_are_seconds_with_milliseconds() {
        assert_eq!(text(|out| seconds(out, Duration::from_micros(1_234_567))), "1.234");
        assert_eq!(text(|out| seconds(out, Duration::ZERO)), "0.000");
    }
}
