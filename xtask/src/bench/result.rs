//! What came out: raw figures, medians, ratios, and the table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::{Map, Value, json};

use super::Options;
use super::case::{self, Case, Goal};
use super::machine;
use super::peer::{Peer, Place};

const BEGIN: &str = "<!-- results: begin -->";
const END: &str = "<!-- results: end -->";

/// One measurement of one peer.
pub struct Measurement {
    round: u32,
    case: &'static str,
    peer: Peer,
    values: Value,
}

impl Measurement {
    /// What the generator reported.
    pub fn new(round: u32, case: &Case, peer: Peer, values: Value) -> Self {
        Self { round, case: case.name, peer, values }
    }

    fn number(&self, key: &str) -> Option<f64> {
        case::figure(&self.values, key)
    }

    /// The progress line's end.
    pub fn line(&self, case: &Case) -> String {
        let figure = self.number(case.figure).unwrap_or_default();
        let mut text = format!("{} {}", short(figure), case.unit);
        let share = |key: &str| self.number(key).unwrap_or_default();
        let _ = write!(
            text,
            "   (server {:.0} %, generator {:.0} % of a core",
            share("server_cpu_percent"),
            share("generator_cpu_percent")
        );
        if case.figure != "per_second" && self.number("per_second").is_some() {
            let _ = write!(text, ", {}/s", short(share("per_second")));
        }
        if share("generator_cpu_percent") > 90.0 {
            text.push_str(", the generator was the limit");
        }
        text.push(')');
        text
    }
}

/// A whole run.
pub struct Results {
    head: Map<String, Value>,
    measurements: Vec<Measurement>,
    failures: Vec<Value>,
    file: String,
}

impl Results {
    /// With machine, versions and commit.
    pub fn new(root: &Path, options: &Options, _place: &Place) -> anyhow::Result<Self> {
        let (commit, changed) = machine::commit(root);
        let date = machine::first_line("date", &["-u", "+%F"]);
        let mut head = Map::new();
        head.insert("date".to_owned(), json!(date));
        head.insert("commit".to_owned(), json!(commit));
        head.insert("work_tree_differs".to_owned(), json!(changed));
        head.insert("machine".to_owned(), machine::describe());
        head.insert("versions".to_owned(), machine::versions(root));
        head.insert("rounds".to_owned(), json!(options.rounds));
        head.insert("seconds".to_owned(), json!(options.seconds));
        Ok(Self { head, measurements: Vec::new(), failures: Vec::new(), file: format!("{date}-{commit}.json") })
    }

    /// Adds a measurement.
    pub fn push(&mut self, measurement: Measurement) {
        self.measurements.push(measurement);
    }

    /// Notes a measurement that did not come about.
    pub fn failed(&mut self, round: u32, case: &Case, peer: Peer, error: &anyhow::Error) {
        self.failures
            .push(json!({"round": round, "case": case.name, "peer": peer.name(), "error": format!("{error:#}")}));
    }

    fn median(&self, case: &Case, peer: Peer, key: &str) -> Option<f64> {
        let of_peer = self.measurements.iter().filter(|one| one.case == case.name && one.peer == peer);
        median(of_peer.filter_map(|one| one.number(key)).collect())
    }

    /// How many times the peer's figure Tidegate's is: the median of each round's ratio, because what slows the machine
    /// down for a while slows both down, and pairs within a round share it.
    fn ratio(&self, case: &Case, peer: Peer) -> Option<f64> {
        let figure = |round: u32, peer: Peer| {
            let same = |one: &&Measurement| one.case == case.name && one.peer == peer && one.round == round;
            self.measurements.iter().find(same).and_then(|one| one.number(case.figure))
        };
        let rounds = self.measurements.iter().map(|one| one.round).max()?;
        let ratios = (0..=rounds).filter_map(|round| Some(figure(round, Peer::Tidegate)? / figure(round, peer)?));
        median(ratios.collect())
    }

    /// How many times Tidegate's own figure in another case: the median of each round's ratio.
    fn ratio_of_cases(&self, case: &Case, other: &Case) -> Option<f64> {
        let figure = |round: u32, case: &Case| {
            let same = |one: &&Measurement| one.case == case.name && one.peer == Peer::Tidegate && one.round == round;
            self.measurements.iter().find(same).and_then(|one| one.number(case.figure))
        };
        let rounds = self.measurements.iter().map(|one| one.round).max()?;
        median((0..=rounds).filter_map(|round| Some(figure(round, case)? / figure(round, other)?)).collect())
    }

    /// Tidegate's figure, what it is held against, the ratio, and whether the goal is reached.
    fn judge(&self, case: &Case) -> (String, String) {
        let ours = self.median(case, Peer::Tidegate, case.figure);
        let ratio = |peer: Peer| self.ratio(case, peer);
        let mark = |reached: Option<bool>| match reached {
            Some(true) => " ✓",
            Some(false) => " ✗",
            None => "",
        };
        match case.goal {
            Goal::AtMost(limit, peer) => {
                let ratio = ratio(peer);
                let text = ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2} × {}", peer.name()));
                (text, format!("≤ {limit:.2} ×{}", mark(ratio.map(|ratio| ratio <= limit))))
            }
            Goal::AtLeast(limit, peer) => {
                let ratio = ratio(peer);
                let text = ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2} × {}", peer.name()));
                (text, format!("≥ {limit:.2} ×{}", mark(ratio.map(|ratio| ratio >= limit))))
            }
            Goal::OfCase(limit, other) => {
                let other = case::all().iter().find(|case| case.name == other);
                let ratio = other.and_then(|other| self.ratio_of_cases(case, other));
                let name = other.map_or("", |other| other.name);
                let text = ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2} × {name}"));
                (text, format!("≤ {limit:.2} ×{}", mark(ratio.map(|ratio| ratio <= limit))))
            }
            Goal::Below(limit) => {
                (String::new(), format!("≤ {} {}{}", short(limit), case.unit, mark(ours.map(|ours| ours <= limit))))
            }
            Goal::Reach(limit) => {
                (String::new(), format!("≥ {} {}{}", short(limit), case.unit, mark(ours.map(|ours| ours >= limit))))
            }
            Goal::None => (String::new(), String::new()),
        }
    }

    fn cases(&self) -> impl Iterator<Item = &'static Case> {
        case::all().iter().filter(|case| self.measurements.iter().any(|one| one.case == case.name))
    }

    /// The table, in Markdown.
    pub fn table(&self) -> String {
        let mut text = String::from(
            "| Median of each | Tidegate | nginx | HAProxy | Node socket.io | Ratio | Goal |\n|---|---|---|---|---|---|---|\n",
        );
        for case in self.cases() {
            let cell = |peer| match self.median(case, peer, case.figure) {
                Some(figure) => format!("{} {}", short(figure), case.unit),
                None => "–".to_owned(),
            };
            let (ratio, goal) = self.judge(case);
            let (ours, nginx) = (cell(Peer::Tidegate), cell(Peer::Nginx));
            let (haproxy, node) = (cell(Peer::Haproxy), cell(Peer::Node));
            let _ = writeln!(text, "| {} | **{ours}** | {nginx} | {haproxy} | {node} | {ratio} | {goal} |", case.label);
        }
        let field = |group: &str, key: &str| {
            let found = self.head.get(group).and_then(|group| group.get(key));
            found.map(|value| value.as_str().map_or(value.to_string(), str::to_owned)).unwrap_or_default()
        };
        let own = |key: &str| {
            self.head.get(key).map(|value| value.as_str().map_or(value.to_string(), str::to_owned)).unwrap_or_default()
        };
        let _ = write!(
            text,
            "\n{} rounds of {} s on {}, commit {}{}: {} × {}, {}; nginx {}, HAProxy {}, Node {} with socket.io {}.",
            own("rounds"),
            own("seconds"),
            own("date"),
            own("commit"),
            if self.head.get("work_tree_differs") == Some(&json!(true)) { " (with changes)" } else { "" },
            field("machine", "cores"),
            field("machine", "cpu"),
            field("machine", "kernel"),
            field("versions", "nginx"),
            field("versions", "haproxy"),
            field("versions", "node"),
            field("versions", "socket.io"),
        );
        for failure in &self.failures {
            let part = |key: &str| failure.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let _ = write!(text, "\nNot measured: {} of {} ({}).", part("case"), part("peer"), part("error"));
        }
        text
    }

    /// Writes the file of results and the table.
    pub fn write(&self, root: &Path) -> anyhow::Result<PathBuf> {
        let path = root.join("bench/results").join(&self.file);
        let mut object = self.head.clone();
        let mut medians = Map::new();
        for case in self.cases() {
            let mut of_case = Map::new();
            for peer in case.peers {
                let keys = [
                    case.figure,
                    "server_cpu_us",
                    "server_system_us",
                    "per_second",
                    "server_private_kib",
                    "generator_cpu_percent",
                    "server_cpu_percent",
                ];
                let found: BTreeMap<&str, f64> =
                    keys.iter().filter_map(|key| Some((*key, self.median(case, *peer, key)?))).collect();
                if !found.is_empty() {
                    of_case.insert(peer.name().to_owned(), json!(found));
                }
            }
            let (ratio, goal) = self.judge(case);
            of_case.insert("ratio".to_owned(), json!(ratio));
            of_case.insert("goal".to_owned(), json!(goal));
            medians.insert(case.name.to_owned(), Value::Object(of_case));
        }
        object.insert("medians".to_owned(), Value::Object(medians));
        let raw: Vec<Value> = self
            .measurements
            .iter()
            .map(|one| json!({"round": one.round, "case": one.case, "peer": one.peer.name(), "values": one.values}))
            .collect();
        object.insert("measurements".to_owned(), Value::Array(raw));
        object.insert("failures".to_owned(), Value::Array(self.failures.clone()));
        fs::create_dir_all(root.join("bench/results"))?;
        fs::write(&path, serde_json::to_string_pretty(&Value::Object(object))? + "\n")?;

        let readme = root.join("bench/README.md");
        let text = fs::read_to_string(&readme).context("bench/README.md")?;
        let (head, rest) = text.split_once(BEGIN).context("bench/README.md has lost its mark")?;
        let (_, tail) = rest.split_once(END).context("bench/README.md has lost its end mark")?;
        ensure!(!head.is_empty(), "bench/README.md has no head");
        fs::write(&readme, format!("{head}{BEGIN}\n{}\n{END}{tail}", self.table()))?;
        Ok(path)
    }
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let upper = *figures.get(figures.len() / 2)?;
    let lower = if figures.len().is_multiple_of(2) { *figures.get(figures.len() / 2 - 1)? } else { upper };
    Some((upper + lower) / 2.0)
}

/// Three significant places, thousands grouped by a letter.
fn short(figure: f64) -> String {
    match figure {
        f if f >= 1e6 => format!("{:.2} M", f / 1e6),
        f if f >= 20_000.0 => format!("{:.0} k", f / 1e3),
        f if f >= 100.0 => format!("{f:.0}"),
        f if f >= 10.0 => format!("{f:.1}"),
        f => format!("{f:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between_the_two_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn figures_are_short() {
        let texts = [0.5, 12.34, 9990.0, 123_456.0, 1_234_567.0].map(short);
        assert_eq!(texts, ["0.50", "12.3", "9990", "123 k", "1.23 M"]);
    }
}
