use std::time::Duration;

use tidegate_rules::{push_rfc3339, push_time_local};
use tidegate_types::Millis;

/// Times as logs write them, in UTC. Everything up to the second is kept from one call to the next, so that the calendar is
/// asked once a second and not for every line.
#[derive(Debug, Default)]
pub(crate) struct Timestamp {
    second: u64,
    text: Vec<u8>,
    local_second: u64,
    local: Vec<u8>,
}

/// Length of `2026-01-01T00:00:00.`.
const UP_TO_MILLIS: usize = 20;

impl Timestamp {
    /// A time since the Unix epoch in RFC 3339 with milliseconds.
    pub fn rfc3339(&mut self, since_epoch: Duration) -> &str {
        let second = since_epoch.as_secs();
        if self.text.is_empty() || self.second != second {
            self.second = second;
            self.text.clear();
            push_rfc3339(&mut self.text, millis(since_epoch));
        } else {
            let millis = since_epoch.subsec_millis();
            let digits = [millis / 100, millis / 10, millis].map(|digit| char::from_digit(digit % 10, 10));
            self.text.truncate(UP_TO_MILLIS);
            self.text.extend(digits.map(|digit| digit.map_or(b'0', |digit| digit as u8)));
            self.text.push(b'Z');
        }
        text(&self.text)
    }

    /// As nginx's `$time_local`: `31/Jan/2026:23:59:59 +0000`.
    pub fn local(&mut self, since_epoch: Duration) -> &str {
        let second = since_epoch.as_secs();
        if self.local.is_empty() || self.local_second != second {
            self.local_second = second;
            self.local.clear();
            push_time_local(&mut self.local, millis(since_epoch), 0);
        }
        text(&self.local)
    }
}

fn millis(since_epoch: Duration) -> Millis {
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// Times are ASCII.
fn text(time: &[u8]) -> &str {
    std::str::from_utf8(time).unwrap_or_default()
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
