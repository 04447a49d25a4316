//! Prometheus' text format, version 0.0.4.

use std::fmt::{Display, Write};

use super::histogram::{Histogram, Total};

/// Metrics in Prometheus' text format.
#[derive(Debug, Default)]
pub(crate) struct Exposition(String);

/// A metric: all its samples follow each other.
#[derive(Debug)]
pub(crate) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Exposition {
    /// Begins a counter, whose name ends in `_total`.
    pub(crate) fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "counter", help)
    }

    /// Begins a gauge.
    pub(crate) fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    /// Begins a histogram of durations, whose name ends in `_seconds`.
    pub(crate) fn histogram(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "histogram", help)
    }

    /// `help` is one line without backslashes.
    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        // Writing into a string does not fail; here and below.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Family {
            text: &mut self.0,
            name,
        }
    }

    /// All that was written.
    pub(crate) fn finish(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// Adds a sample. Values of labels have neither quotes nor backslashes nor line ends.
    pub(crate) fn sample(&mut self, labels: &[(&str, &dyn Display)], value: impl Display) {
        self.line("", labels, value);
    }

    /// Adds the sum of some histograms.
    pub(crate) fn durations<'a>(
        &mut self,
        labels: &[(&str, &dyn Display)],
        histograms: impl Iterator<Item = &'a Histogram>,
    ) {
        let total = Total::of(histograms);
        let mut with_bound = labels.to_vec();
        for (bound, count) in &total.buckets {
            with_bound.truncate(labels.len());
            with_bound.push(("le", bound));
            self.line("_bucket", &with_bound, count);
        }
        self.line("_sum", labels, total.seconds);
        self.line("_count", labels, total.count);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        let _ = write!(self.text, "{}{suffix}", self.name);
        for (i, (label, value)) in labels.iter().enumerate() {
            let open = if i == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{open}{label}=\"{value}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }
}
