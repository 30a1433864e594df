//! `cargo xtask mutants`: changes one thing of the library after the other, and sees whether a test notices.
//!
//! cargo-mutants makes the changes, in a copy of the workspace. Each module's mutants are tried on the tests that are about it, compiled as one program
//! for as few formats as show everything, since compiling is most of what a mutant costs. A share of all mutants is every n-th of them, the same ones every time.
//!
//! ```text
//!   viable ── caught:   a test failed, or took too long
//!      └───── missed:   every test passed: listed at the end
//!   unviable            did not compile: says nothing
//! ```

use std::fmt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::setup::{self, Tool};
use crate::workspace::{Workspace, cargo};

/// The least share of viable mutants that is to be caught, in percent.
const BAR: f64 = 85.0;

/// A module, and the tests that its mutants are tried on.
struct Module {
    name: &'static str,
    /// The program.
    target: &'static [&'static str],
    /// A part of their names.
    filter: Option<&'static str>,
}

const MODULES: [Module; 4] = [
    Module { name: "page_tree", target: &["--lib"], filter: Some("page_tree::") },
    Module { name: "vm_area", target: &["--test=mutants"], filter: None },
    Module { name: "vm_space", target: &["--test=mutants"], filter: None },
    Module { name: "paging", target: &["--lib"], filter: Some("paging::") },
];

/// Change one thing of page_tree, vm_area, vm_space or paging after the other, and see whether a test notices
///
/// Installs cargo-mutants if it is not there. Tries the same share of the mutants every time, each on the tests of its module. Ends with the share that was caught of those that compile, and
/// the survivors; fails if it is less than 85 %.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only these modules: page_tree, vm_area, vm_space, paging
    modules: Vec<String>,
    /// Which part of the mutants: every n-th
    #[arg(long, default_value = "1/5", value_parser = share)]
    share: Share,
    /// The first of them: 0 for the first share, 1 for the next, and so on
    #[arg(long, default_value_t = 0)]
    shift: u32,
    /// Try so many at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    jobs: u32,
    /// Only count them
    #[arg(long)]
    list: bool,
}

/// One in so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share(u32);

/// `1/5`, or `all`.
pub(crate) fn share(text: &str) -> Result<Share, String> {
    let parts = if text == "all" { Some(1) } else { text.strip_prefix("1/").and_then(|parts| parts.parse().ok()) };
    parts.filter(|parts| *parts > 0).map(Share).ok_or_else(|| "must be 1/N, or all".into())
}

impl Default for Share {
    fn default() -> Self {
        Self(5)
    }
}

/// What became of the mutants of a module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) module: &'static str,
    pub(crate) caught: u32,
    pub(crate) unviable: u32,
    pub(crate) survivors: Vec<String>,
    pub(crate) took: Duration,
}

impl Outcome {
    pub(crate) fn viable(&self) -> u32 {
        self.caught + self.survivors.len() as u32
    }

    fn percent(&self) -> f64 {
        100.0 * f64::from(self.caught) / f64::from(self.viable().max(1))
    }
}

/// `cargo xtask mutants`.
pub(crate) fn command(arguments: &Arguments) -> Result<ExitCode> {
    let workspace = Workspace::load()?;
    let mut outcomes = Vec::new();
    for module in choose(&arguments.modules)? {
        setup::ensure_tool(Tool::CargoMutants)?;
        outcomes.extend(run(&workspace.root, module, arguments)?);
    }
    if arguments.list {
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", Table(&outcomes));
    Ok(if total(&outcomes).percent() >= BAR { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a share of all modules, for `cargo xtask verify`. Whether enough was caught, too.
pub(crate) fn verify(root: &Path, share: Share) -> Result<(Outcome, bool)> {
    setup::ensure_tool(Tool::CargoMutants)?;
    let arguments = Arguments { modules: Vec::new(), share, shift: 0, jobs: 1, list: false };
    let mut outcomes = Vec::new();
    for module in &MODULES {
        outcomes.extend(run(root, module, &arguments)?);
    }
    println!("{}", Table(&outcomes));
    let total = total(&outcomes);
    let is_enough = total.percent() >= BAR;
    Ok((total, is_enough))
}

fn choose(names: &[String]) -> Result<Vec<&'static Module>> {
    for name in names {
        let there = MODULES.iter().any(|module| module.name == name);
        ensure!(there, "there is no module {name}: there are {}", MODULES.map(|module| module.name).join(", "));
    }
    Ok(MODULES.iter().filter(|module| names.is_empty() || names.iter().any(|name| name == module.name)).collect())
}

fn total(outcomes: &[Outcome]) -> Outcome {
    let mut total = Outcome { module: "all", ..Outcome::default() };
    for one in outcomes {
        total.caught += one.caught;
        total.unviable += one.unviable;
        total.survivors.extend(one.survivors.iter().cloned());
        total.took += one.took;
    }
    total
}

/// Tries a share of a module's mutants; nothing if they are only counted.
fn run(root: &Path, module: &Module, arguments: &Arguments) -> Result<Option<Outcome>> {
    let name = module.name;
    let output = root.join("target/mutants").join(name);
    std::fs::create_dir_all(&output).with_context(|| format!("making {}", output.display()))?;
    let mut command = cargo(root);
    command
        // One build for all: nothing of the caller's flags, and no more formats than show everything.
        .env("CARGO_ENCODED_RUSTFLAGS", "--cfg=quick\x1f--cfg=mutants")
        .env_remove("RUSTFLAGS")
        .args(["mutants", "--package", "vmcore", "--sharding", "round-robin", "--no-shuffle"])
        .args(["--shard", &format!("{}/{}", arguments.shift % arguments.share.0, arguments.share.0)])
        .args(["--file", &format!("vmcore/src/{name}.rs"), "--file", &format!("vmcore/src/{name}/**/*.rs")]);
    if arguments.list {
        let count = list(&mut command)?;
        println!("{name}: {count} mutants");
        return Ok(None);
    }
    let jobs = arguments.jobs.to_string();
    command.args(["--jobs", &jobs, "--no-times", "--colors", "never", "--output"]).arg(&output);
    for argument in module.target {
        command.arg(format!("--cargo-arg={argument}"));
    }
    if let Some(filter) = module.filter {
        command.arg(format!("--cargo-test-arg={filter}"));
    }
    eprintln!("Mutants of {name} …");
    let begin = Instant::now();
    // 2: some survived; 3: some took too long, which counts as caught.
    let status = command.status().context("trying mutants: cargo cannot be started")?;
    ensure!(matches!(status.code(), Some(0 | 2 | 3)), "trying mutants of {name}: {status}; see {}", output.display());
    let path = output.join("mutants.out/outcomes.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut outcome = parse(name, &text)?;
    outcome.took = begin.elapsed();
    Ok(Some(outcome))
}

fn list(command: &mut Command) -> Result<usize> {
    let output = command.arg("--list").output().context("listing mutants: cargo cannot be started")?;
    ensure!(output.status.success(), "listing mutants: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count())
}

/// Reads what cargo-mutants leaves behind.
fn parse(module: &'static str, text: &str) -> Result<Outcome> {
    let all: Value = serde_json::from_str(text).context("the outcomes are no JSON")?;
    let mut outcome = Outcome { module, ..Outcome::default() };
    for one in all["outcomes"].as_array().context("there are no outcomes")? {
        let Some(mutant) = one["scenario"].get("Mutant") else { continue };
        match one["summary"].as_str().unwrap_or_default() {
            "CaughtMutant" | "Timeout" => outcome.caught += 1,
            "Unviable" => outcome.unviable += 1,
            "MissedMutant" => outcome.survivors.push(mutant["name"].as_str().unwrap_or("?").to_owned()),
            other => bail!("a mutant's end is {other:?}"),
        }
    }
    Ok(outcome)
}

/// The modules, then the survivors.
struct Table<'a>(&'a [Outcome]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<12} {:>8} {:>8} {:>8} {:>9} {:>10}",
            "module", "viable", "caught", "missed", "caught %", "s each"
        )?;
        for one in self.0.iter().chain([&total(self.0)]) {
            let count = one.viable() + one.unviable;
            let each = one.took.as_secs_f64() / f64::from(count.max(1));
            let (viable, missed, percent) = (one.viable(), one.survivors.len(), one.percent());
            writeln!(f, "{:<12} {viable:>8} {:>8} {missed:>8} {percent:>9.1} {each:>10.1}", one.module, one.caught)?;
        }
        for one in self.0 {
            for survivor in &one.survivors {
                writeln!(f, "missed: {survivor}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTCOMES: &str = r#"{"outcomes": [
        {"scenario": "Baseline", "summary": "Success"},
        {"scenario": {"Mutant": {"name": "vmcore/src/page_tree/edit.rs:1:1: replace < with <="}}, "summary": "CaughtMutant"},
        {"scenario": {"Mutant": {"name": "a loop"}}, "summary": "Timeout"},
        {"scenario": {"Mutant": {"name": "no default"}}, "summary": "Unviable"},
        {"scenario": {"Mutant": {"name": "replace len with 0"}}, "summary": "MissedMutant"}
    ]}"#;

    #[test]
    fn the_outcomes_are_counted() {
        let outcome = parse("page_tree", OUTCOMES).unwrap();
        assert_eq!((outcome.caught, outcome.unviable, outcome.viable()), (2, 1, 3));
        assert_eq!(outcome.survivors, ["replace len with 0"]);
        let text = Table(&[outcome]).to_string();
        assert!(text.contains("66.7") && text.contains("missed: replace len with 0"), "{text}");
        assert!(parse("page_tree", &OUTCOMES.replace("Unviable", "Broken")).is_err());
    }

    #[test]
    fn shares_are_parts() {
        assert_eq!((share("1/5"), share("all")), (Ok(Share(5)), Ok(Share(1))));
        assert!(share("0.2").is_err() && share("1/0").is_err() && share("2/5").is_err());
    }

    #[test]
    fn modules_are_chosen_by_name() {
        assert_eq!(choose(&[]).unwrap().len(), 4);
        assert_eq!(choose(&["vm_area".into()]).unwrap()[0].name, "vm_area");
        assert!(choose(&["frame".into()]).is_err());
    }
}
