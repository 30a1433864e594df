//! What the program is told.

/// Check vmcore's protocol (built with `--cfg shuttle`) or its lock-free pieces (`--cfg loom`)
#[derive(Debug, clap::Parser)]
#[command(name = "cargo xtask models", version)]
#[cfg_attr(not(any(loom, shuttle)), allow(dead_code, reason = "nothing is checked in such a build"))]
pub(crate) struct Arguments {
    /// Only the models whose name contains one of these; see --list
    pub(crate) names: Vec<String>,
    /// Print the names of the models
    #[arg(long)]
    pub(crate) list: bool,
    /// Schedules per model and scheduler (shuttle)
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) iterations: u32,
    /// The schedulers' seed; a finding names the one that shows it again (shuttle)
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Preemptions per schedule (loom)
    #[arg(long, default_value_t = 3)]
    pub(crate) preemptions: usize,
}

#[cfg_attr(not(any(loom, shuttle)), allow(dead_code, reason = "nothing is checked in such a build"))]
impl Arguments {
    /// Whether a model of this name is asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|part| name.contains(part))
    }
}
