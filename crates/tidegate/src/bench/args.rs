use std::time::Duration;

use clap::Args;

/// What every case understands.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// How long to measure, after the warm-up (`10s`, `500ms`, `2m`).
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// Load that is generated but not counted, before the measurement.
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub warmup: Duration,
    /// Print the summary as one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
    /// The server's process id, or several with commas: also report their CPU time (with children and threads) and their
    /// private memory.
    #[arg(long, value_delimiter = ',')]
    pub pid: Vec<u32>,
    /// No progress lines.
    #[arg(long, short)]
    pub quiet: bool,
}

/// How the connections are opened.
#[derive(Clone, Debug, Args)]
pub struct Ramp {
    /// Connections opened per second.
    #[arg(long, default_value_t = 2_000)]
    pub ramp: u32,
    /// The most connections that may be in their handshake at a time.
    #[arg(long, default_value_t = 64)]
    pub opening: usize,
}

/// Parses `10s`, `500ms`, `2m`, `1h`, or a plain number of seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits).ok_or("not a duration")?;
    let number: f64 =
        number.parse().map_err(|_| format!("`{text}` is not a duration; write `10s`, `500ms` or `2m`"))?;
    let seconds = match unit.trim() {
        "" | "s" => number,
        "ms" => number / 1e3,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        other => return Err(format!("`{other}` is not a unit of time; use ms, s, m or h")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("`{text}` is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_and_without_a_unit() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
    }

    #[test]
    fn a_wrong_duration_is_explained() {
        assert!(duration("10 parsecs").unwrap_err().contains("parsecs"));
        assert!(duration("").is_err());
        assert!(duration("s").is_err());
    }
}
