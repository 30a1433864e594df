//! What libFuzzer says of a run.

use std::path::PathBuf;
use std::time::Duration;

/// A run of one target.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) target: &'static str,
    /// How many inputs were tried.
    pub(crate) inputs: u64,
    /// How many edges of the program were seen.
    pub(crate) edges: u64,
    pub(crate) took: Duration,
    /// The input that something is wrong with.
    pub(crate) finding: Option<PathBuf>,
}

impl Summary {
    pub(crate) fn new(target: &'static str) -> Self {
        Self { target, inputs: 0, edges: 0, took: Duration::ZERO, finding: None }
    }

    /// Takes what a line says: `#1234 NEW cov: 55 ft: …`, the final count, or the file that an input was written to.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix('#') {
            let mut words = rest.split_ascii_whitespace();
            let count = words.next().and_then(|word| word.trim_end_matches(':').parse().ok()).unwrap_or(0);
            self.inputs = self.inputs.max(count);
            let edges = words.skip_while(|word| *word != "cov:").nth(1).and_then(|word| word.parse().ok());
            self.edges = self.edges.max(edges.unwrap_or(0));
        } else if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            self.inputs = self.inputs.max(count.trim().parse().unwrap_or(0));
        } else if let Some((_, path)) = line.split_once("Test unit written to ") {
            // What was only slow is none.
            self.finding = Some(path.trim().into()).filter(|_| !path.contains("slow-unit")).or(self.finding.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_libfuzzer_are_read() {
        let mut summary = Summary::new("entries");
        for line in [
            "INFO: Seed: 1",
            "#2\tINITED cov: 1021 ft: 1022 corp: 1/1b exec/s: 0 rss: 45Mb",
            "#5468\tDONE   cov: 4321 ft: 9999 corp: 260/50Kb lim: 400 exec/s: 210 rss: 406Mb",
            "stat::number_of_executed_units: 5470",
        ] {
            summary.read(line);
        }
        assert_eq!((summary.inputs, summary.edges, &summary.finding), (5470, 4321, &None));
        summary.read("artifact_prefix='/a/'; Test unit written to /a/crash-0123");
        assert_eq!(summary.finding, Some("/a/crash-0123".into()));
        summary.read("artifact_prefix='/a/'; Test unit written to /a/slow-unit-4567");
        assert_eq!(summary.finding, Some("/a/crash-0123".into()));
        // As forked jobs count.
        summary.read("#9000: cov: 5000 ft: 1 corp: 2 exec/s 3 oom/timeout/crash: 0/0/0 time: 5s job: 1 dft_time: 0");
        assert_eq!((summary.inputs, summary.edges), (9000, 5000));
    }
}
