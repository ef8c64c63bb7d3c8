use std::fmt::Write as _;
use std::time::Duration;

/// Times as logs write them, in UTC. Everything up to the second is kept from one call to the next.
#[derive(Debug, Default)]
pub(crate) struct Timestamp {
    second: u64,
    text: String,
    local_second: u64,
    local: String,
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Length of `2026-01-01T00:00:00`.
const UP_TO_SECOND: usize = 19;

impl Timestamp {
    /// A time since the Unix epoch in RFC 3339 with milliseconds.
    pub fn rfc3339(&mut self, since_epoch: Duration) -> &str {
        let second = since_epoch.as_secs();
        if self.text.is_empty() || self.second != second {
            self.second = second;
            self.text.clear();
            let (year, month, day) = date(second / 86_400);
            let (hour, minute) = (second / 3_600 % 24, second / 60 % 60);
            let _ = write!(self.text, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}", second % 60);
        }
        self.text.truncate(UP_TO_SECOND);
        let millis = since_epoch.subsec_millis();
        self.text.push('.');
        for digit in [millis / 100, millis / 10, millis] {
            self.text.push(char::from_digit(digit % 10, 10).unwrap_or('0'));
        }
        self.text.push('Z');
        &self.text
    }

    /// As nginx's `$time_local`: `31/Jan/2026:23:59:59 +0000`.
    pub fn local(&mut self, since_epoch: Duration) -> &str {
        let second = since_epoch.as_secs();
        if self.local.is_empty() || self.local_second != second {
            self.local_second = second;
            self.local.clear();
            let (year, month, day) = date(second / 86_400);
            let month = MONTHS.iter().zip(1..).find_map(|(name, number)| (number == month).then_some(*name));
            let (hour, minute, second) = (second / 3_600 % 24, second / 60 % 60, second % 60);
            let month = month.unwrap_or_default();
            let _ = write!(self.local, "{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000");
        }
        &self.local
    }
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

    #[test]
    fn dates_are_those_of_the_calendar() {
        let mut timestamp = Timestamp::default();
        let mut at = |millis| timestamp.rfc3339(Duration::from_millis(millis)).to_owned();
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400_007), "2000-02-29T00:00:00.007Z");
        assert_eq!(at(1_767_225_599_999), "2025-12-31T23:59:59.999Z");
        assert_eq!(at(1_767_225_599_120), "2025-12-31T23:59:59.120Z");
        assert_eq!(at(1_767_225_600_000), "2026-01-01T00:00:00.000Z");
        assert_eq!(at(4_107_542_399_000), "2100-02-28T23:59:59.000Z");
        assert_eq!(at(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
        let mut local = |seconds| timestamp.local(Duration::from_secs(seconds)).to_owned();
        assert_eq!(local(951_782_400), "29/Feb/2000:00:00:00 +0000");
        assert_eq!(local(1_767_225_599), "31/Dec/2025:23:59:59 +0000");
    }
}
