//! What a run says: progress lines while it runs, one summary at its end.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::args::Common;
use super::histogram::Histogram;
use super::process::{Usage, usage, usage_of};
use super::target::Target;

/// Failures by their text; few texts, many times.
#[derive(Default)]
pub struct Failures(RefCell<BTreeMap<String, u64>>);

impl Failures {
    /// More different texts than this are counted together.
    const KINDS: usize = 32;

    /// Counts one.
    pub fn note(&self, error: &anyhow::Error) {
        let mut kinds = self.0.borrow_mut();
        let mut text = format!("{error:#}");
        if kinds.len() >= Self::KINDS && !kinds.contains_key(&text) {
            text = "other failures".to_owned();
        }
        *kinds.entry(text).or_default() += 1;
    }

    /// How many in all.
    pub fn count(&self) -> u64 {
        self.0.borrow().values().sum()
    }
}

/// What the measured time cost.
#[derive(Debug)]
pub struct Measured {
    /// Seconds measured.
    pub seconds: f64,
    /// Ended by Ctrl-C before its time.
    pub interrupted: bool,
    own: Usage,
    server: Option<Usage>,
}

/// An open measurement.
pub struct Window {
    opened: Instant,
    pids: Vec<u32>,
    own: Usage,
    server: Option<Usage>,
}

impl Window {
    /// Begins to measure, with the server's processes if there are `pids`.
    pub fn open(pids: &[u32]) -> anyhow::Result<Self> {
        let server = usage_of(pids);
        anyhow::ensure!(pids.is_empty() || server.is_some(), "one of the processes {pids:?} is not there");
        let own = usage(std::process::id()).unwrap_or_default();
        Ok(Self { opened: Instant::now(), pids: pids.to_vec(), own, server })
    }

    /// Ends the measurement.
    pub fn close(self, interrupted: bool) -> Measured {
        let seconds = self.opened.elapsed().as_secs_f64();
        let after = usage_of(&self.pids);
        let own = usage(std::process::id()).unwrap_or_default();
        let since = |before: Usage, after: Usage| Usage {
            cpu_us: after.cpu_us.saturating_sub(before.cpu_us),
            system_us: after.system_us.saturating_sub(before.system_us),
            ..after
        };
        let server = self.server.zip(after).map(|(before, after)| since(before, after));
        Measured { seconds, interrupted, own: since(self.own, own), server }
    }
}

/// Waits out the warm-up, calls `begin`, measures for the given time with a progress line now and then, and ends early
/// on Ctrl-C or when `done` says so.
pub async fn measure(
    common: &Common,
    progress: impl Fn(f64) -> String,
    begin: impl FnOnce(),
    done: impl Fn() -> bool,
) -> anyhow::Result<Measured> {
    let terminal = std::io::stderr().is_terminal();
    let every = if terminal { Duration::from_secs(1) } else { Duration::from_secs(5) };
    let mut interrupt = Box::pin(tokio::signal::ctrl_c());
    tokio::select! {
        () = tokio::time::sleep(common.warmup) => {}
        _ = &mut interrupt => anyhow::bail!("interrupted during the warm-up: nothing was measured"),
    }
    begin();
    let window = Window::open(&common.pid)?;
    let end = tokio::time::Instant::now() + common.duration;
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    let interrupted = loop {
        tokio::select! {
            () = tokio::time::sleep_until(end) => break false,
            _ = &mut interrupt => break true,
            _ = tick.tick() => {
                if !common.quiet {
                    let line = progress(window.opened.elapsed().as_secs_f64());
                    let _ = writeln!(std::io::stderr(), "{:>6.1} s  {line}", window.opened.elapsed().as_secs_f64());
                }
                if done() { break false; }
            }
        }
    };
    Ok(window.close(interrupted))
}

/// The summary.
pub struct Report {
    case: &'static str,
    url: String,
    interrupted: bool,
    rows: Vec<(String, String)>,
    json: Map<String, Value>,
}

impl Report {
    /// An empty summary of `case`.
    pub fn new(case: &'static str, target: &Target) -> Self {
        Self { case, url: target.url.clone(), interrupted: false, rows: Vec::new(), json: Map::new() }
    }

    /// A number of things.
    pub fn count(&mut self, key: &str, label: &str, count: u64) -> &mut Self {
        self.rows.push((label.to_owned(), grouped(count)));
        self.json.insert(key.to_owned(), json!(count));
        self
    }

    /// A measured value with its unit.
    pub fn value(&mut self, key: &str, label: &str, value: f64, unit: &str) -> &mut Self {
        let text = if value >= 10_000.0 { grouped(value.round() as u64) } else { format!("{value:.2}") };
        self.rows.push((label.to_owned(), format!("{text} {unit}").trim_end().to_owned()));
        self.json.insert(key.to_owned(), json!(value));
        self
    }

    /// Anything else.
    pub fn text(&mut self, key: &str, label: &str, text: &str) -> &mut Self {
        self.rows.push((label.to_owned(), text.to_owned()));
        self.json.insert(key.to_owned(), json!(text));
        self
    }

    /// The distribution of a latency.
    pub fn latency(&mut self, histogram: &Histogram) -> &mut Self {
        self.latency_of("latency", "latency", histogram)
    }

    /// The distribution of one of several latencies; the key gets the unit.
    pub fn latency_of(&mut self, key: &str, label: &str, histogram: &Histogram) -> &mut Self {
        if histogram.count() == 0 {
            return self;
        }
        let quantiles = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];
        let mut texts: Vec<String> =
            quantiles.iter().map(|(name, q)| format!("{name} {}", microseconds(histogram.quantile(*q)))).collect();
        texts.push(format!("max {}", microseconds(histogram.max())));
        self.rows.push((label.to_owned(), texts.join(", ")));
        let mut object: Map<String, Value> =
            quantiles.iter().map(|(name, q)| ((*name).to_owned(), json!(histogram.quantile(*q)))).collect();
        object.insert("max".to_owned(), json!(histogram.max()));
        self.json.insert(format!("{key}_us"), Value::Object(object));
        self
    }

    /// What the measured time cost while nothing was sent.
    pub fn idle_cost(&mut self, measured: &Measured) -> &mut Self {
        self.interrupted = measured.interrupted;
        self.value("seconds", "held", measured.seconds, "s");
        let share = |usage: Usage| usage.cpu_us as f64 / 1e4 / measured.seconds.max(1e-9);
        if let Some(server) = measured.server {
            self.value("server_cpu_percent", "server CPU", share(server), "% of a core");
            self.value("server_private_kib", "server private memory", server.private_kib as f64, "KiB");
        }
        self.value("generator_cpu_percent", "generator CPU", share(measured.own), "% of a core")
    }

    /// What the measured time cost per `unit`, for the generator and (with `--pid`) for the server.
    pub fn cost(&mut self, measured: &Measured, units: u64, unit: &str) -> &mut Self {
        self.interrupted = measured.interrupted;
        self.value("seconds", "measured", measured.seconds, "s");
        self.value(
            "per_second",
            &format!("{} per second", plural(unit)),
            units as f64 / measured.seconds.max(1e-9),
            "",
        );
        let own_share = measured.own.cpu_us as f64 / 1e4 / measured.seconds.max(1e-9);
        if let Some(server) = measured.server {
            let per = |us: u64| us as f64 / units.max(1) as f64;
            self.value("server_cpu_us", &format!("server CPU per {unit}"), per(server.cpu_us), "µs");
            self.value("server_system_us", "  of that in the kernel", per(server.system_us), "µs");
            let share = server.cpu_us as f64 / 1e4 / measured.seconds.max(1e-9);
            self.value("server_cpu_percent", "server CPU", share, "% of a core");
            self.value("server_private_kib", "server private memory", server.private_kib as f64, "KiB");
        }
        self.value("generator_cpu_percent", "generator CPU", own_share, "% of a core")
    }

    /// What failed, with the commonest reasons.
    pub fn failures(&mut self, failures: &Failures) -> &mut Self {
        self.json.insert("failures".to_owned(), json!(failures.count()));
        let kinds = failures.0.borrow();
        let mut kinds: Vec<(&String, &u64)> = kinds.iter().collect();
        kinds.sort_by(|a, b| b.1.cmp(a.1));
        if !kinds.is_empty() {
            self.rows.push(("failures".to_owned(), grouped(failures.count())));
        }
        for (text, count) in kinds.iter().take(5) {
            self.rows.push((format!("  {} ×", grouped(**count)), (*text).clone()));
        }
        let reasons: Map<String, Value> =
            kinds.iter().take(5).map(|(text, count)| ((*text).clone(), json!(count))).collect();
        if !reasons.is_empty() {
            self.json.insert("failure_reasons".to_owned(), Value::Object(reasons));
        }
        self
    }

    /// Prints it to stdout.
    pub fn print(&self, as_json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if as_json {
            let mut object = self.json.clone();
            object.insert("case".to_owned(), json!(self.case));
            object.insert("url".to_owned(), json!(self.url));
            object.insert("interrupted".to_owned(), json!(self.interrupted));
            writeln!(out, "{}", Value::Object(object))?;
            return Ok(());
        }
        let note = if self.interrupted { "  (interrupted: the summary so far)" } else { "" };
        writeln!(out, "\ntidegate bench {} · {}{note}", self.case, self.url)?;
        let width = self.rows.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
        for (label, value) in &self.rows {
            writeln!(out, "  {label:<width$}  {value}")?;
        }
        Ok(())
    }
}

fn plural(unit: &str) -> String {
    unit.strip_suffix('y').map_or_else(|| format!("{unit}s"), |stem| format!("{stem}ies"))
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn microseconds(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.2} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_grouped_and_times_get_a_fitting_unit() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(123), "123");
        assert_eq!(microseconds(999), "999 µs");
        assert_eq!(microseconds(1_500), "1.50 ms");
        assert_eq!(microseconds(2_000_000), "2.00 s");
    }
}
