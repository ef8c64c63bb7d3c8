use std::fmt::Write as _;

use crate::labels::label_notes;
use crate::{CATALOGUE, Metrics};

impl Metrics {
    /// All metrics in the OpenMetrics text format, which Prometheus reads; ends in `# EOF`.
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        // Writing into a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

/// The text of `docs/metrics.md`.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         <!-- Generated from crates/metrics/src/catalogue.rs; a test compares. Do not edit: run\n\
         \u{20}    UPDATE_DOCS=1 cargo test -p tidegate-metrics docs_are_those_of_the_catalogue -->\n\n\
         `GET /metrics` on the admin listener, as `application/openmetrics-text; version=1.0.0`.\n\
         Every name is shown from the start, with its series once there is something to tell.\n\n\
         | name | type | unit | labels | what it tells |\n|---|---|---|---|---|\n",
    );
    for entry in CATALOGUE {
        let labels = entry.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "| `{}` | {} | {} | {} | {} |", entry.name, entry.kind, entry.unit, labels, entry.help);
    }
    text.push_str("\n## Labels\n\n| label | values |\n|---|---|\n");
    for (label, note) in label_notes() {
        let _ = writeln!(text, "| `{label}` | {note} |");
    }
    text
}
