//! `cargo xtask fuzz`: coverage-guided inputs for the models of the library's tests, each with a judge of its own.
//!
//! The targets are a package of their own, `fuzz/`, built with instrumentation by cargo-fuzz on a nightly toolchain. What is found is a file in
//! `fuzz/artifacts`; what is learnt (the corpus) stays in `fuzz/corpus`. Neither is kept in the repository: a finding becomes a test by name, and
//! the corpus begins with seeds that are made of recordings of what Linux programs did.
//!
//! ```text
//!   recordings (xtask/replay/data) ──► seeds ──► fuzz/corpus/TARGET ──► libFuzzer ──► fuzz/artifacts/TARGET
//!                                               (grows)                 ▲    └──────► the table at the end
//!                                                            timed out, out of memory, or a panic of the target
//! ```

mod seeds;
mod summary;

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::setup::{self, Tool};
use crate::workspace::Workspace;
use summary::Summary;

/// The targets, each with the longest input that it makes use of.
pub(crate) const TARGETS: [(&str, usize); 7] = [
    ("entries", 104),
    ("tables", 244),
    ("page_tree", 300),
    ("static_vec", 500),
    ("spaces", 1200),
    ("posix", 1000),
    ("elf", 16384),
];

/// Feed mutated inputs to the models of the library's tests, with coverage as the guide
///
/// Each target compares with a model or a judge of its own; a panic is a finding. The corpus begins with seeds made of recordings of Linux, and is kept in fuzz/corpus. Needs a nightly
/// toolchain, and installs cargo-fuzz if it is not there. Ends with a table; fails with a finding, whose input and command are named.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only the targets whose name contains one of these; see --list
    targets: Vec<String>,
    /// Print the names of the targets
    #[arg(long)]
    list: bool,
    /// Minutes of each target
    #[arg(long, default_value_t = 30.0, value_parser = minutes)]
    minutes: f64,
    /// Where libFuzzer's choices begin; 0 lets it choose
    #[arg(long, default_value_t = 0)]
    seed: u32,
    /// Run each target on so many processors
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
    /// Only build the targets and make the seeds
    #[arg(long)]
    build: bool,
}

/// Minutes, of which there are some.
pub(crate) fn minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(minutes) if minutes > 0.0 && minutes <= 100_000.0 => Ok(minutes),
        _ => Err("must be a number of minutes above 0".into()),
    }
}

/// `cargo xtask fuzz`. What was found is in the table already.
pub(crate) fn command(arguments: &Arguments) -> Result<ExitCode> {
    let chosen = choose(&arguments.targets)?;
    if arguments.list {
        for (name, _) in chosen {
            println!("{name}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let workspace = Workspace::load()?;
    let fuzzing = Fuzzing::prepare(&workspace.root, &chosen)?;
    if arguments.build {
        return Ok(ExitCode::SUCCESS);
    }
    let time = Duration::from_secs_f64(arguments.minutes * 60.0);
    let mut all = Vec::new();
    for (name, longest) in &chosen {
        all.push(fuzzing.run(name, *longest, time, arguments.seed, arguments.jobs)?);
    }
    println!("{}", Table(&all));
    Ok(if all.iter().all(|one| one.finding.is_none()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The targets whose name contains one of these; all, if there are none.
fn choose(names: &[String]) -> Result<Vec<(&'static str, usize)>> {
    let is_chosen = |target: &str| names.is_empty() || names.iter().any(|name| target.contains(name.as_str()));
    let chosen: Vec<_> = TARGETS.into_iter().filter(|(target, _)| is_chosen(target)).collect();
    ensure!(!chosen.is_empty(), "no target's name contains {}; there are {}", names.join(" or "), listed());
    Ok(chosen)
}

fn listed() -> String {
    TARGETS.map(|(name, _)| name).join(", ")
}

/// Targets that are built, with seeds in their corpora.
pub(crate) struct Fuzzing {
    directory: PathBuf,
    toolchain: String,
}

impl Fuzzing {
    /// Sees to it that there are a nightly toolchain and cargo-fuzz, builds, and makes the seeds.
    pub(crate) fn prepare(root: &Path, targets: &[(&'static str, usize)]) -> Result<Self> {
        let toolchain = setup::nightly().context("fuzzing needs the instrumentation of a nightly compiler")?;
        setup::ensure_tool(Tool::CargoFuzz)?;
        let fuzzing = Self { directory: root.join("fuzz"), toolchain };
        for (target, count) in seeds::write(root, &fuzzing.directory.join("corpus"))? {
            eprintln!("Seeds of {target}: {count}");
        }
        for (target, _) in targets {
            eprintln!("Building {target} …");
            // Several units, which compile in a third of the time.
            let status = fuzzing.cargo_fuzz(&["build", "--codegen-units", "16", target]).status();
            ensure!(status.context("building: cargo cannot be started")?.success(), "{target} could not be built");
        }
        Ok(fuzzing)
    }

    fn cargo_fuzz(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("rustup");
        command.args(["run", &self.toolchain, "cargo", "fuzz"]).args(arguments).current_dir(&self.directory);
        // Flags of the caller would make another build of it.
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        command
    }

    /// Runs a target for so long. What libFuzzer says is shown while it is new.
    pub(crate) fn run(
        &self,
        target: &'static str,
        longest: usize,
        time: Duration,
        seed: u32,
        jobs: u32,
    ) -> Result<Summary> {
        let artifacts = self.directory.join("artifacts").join(target);
        std::fs::create_dir_all(&artifacts).with_context(|| format!("making {}", artifacts.display()))?;
        let before = findings(&artifacts)?;
        let seconds = time.as_secs().max(1).to_string();
        let jobs = jobs.to_string();
        let mut command = self.cargo_fuzz(&["run", "--codegen-units", "16"]);
        command.args(["--jobs", &jobs, target, "--"]);
        command.args([format!("-max_total_time={seconds}"), format!("-max_len={longest}"), format!("-seed={seed}")]);
        // A hang is a finding too; memory is that of the address sanitizer as well. Inputs are as long as they may be from the start: each is slow, and short ones do little.
        command.args(["-timeout=60", "-rss_limit_mb=4096", "-print_final_stats=1", "-len_control=0"]);
        eprintln!("Fuzzing {target} for {seconds} s …");
        let begin = Instant::now();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let child = child.as_mut().map_err(|error| anyhow::anyhow!("fuzzing {target}: {error}"))?;
        let mut summary = Summary::new(target);
        let mut told = Instant::now();
        let mut last = Vec::new();
        if let Some(output) = child.stderr.take() {
            for line in BufReader::new(output).split(b'\n') {
                let line = line.with_context(|| format!("fuzzing {target}"))?;
                let line = String::from_utf8_lossy(&line).into_owned();
                summary.read(&line);
                if told.elapsed() > Duration::from_secs(10) && line.starts_with('#') {
                    eprintln!("{target}, {:.0} s: {line}", begin.elapsed().as_secs_f64());
                    told = Instant::now();
                }
                last.push(line);
                if last.len() > 400 {
                    last.drain(..200);
                }
            }
        }
        let status = child.wait().with_context(|| format!("fuzzing {target}"))?;
        summary.took = begin.elapsed();
        let new = findings(&artifacts)?.into_iter().rfind(|file| !before.contains(file));
        summary.finding = new.or_else(|| summary.finding.take());
        if summary.finding.is_none() && !status.success() {
            eprintln!("{}", last.join("\n"));
            bail!("fuzzing {target}: {status}, with no input");
        }
        if let Some(input) = &summary.finding {
            eprintln!("{}", last.join("\n"));
            eprintln!("Found by {target}: {}\nTo see it again: {}", input.display(), again(target, input));
        }
        Ok(summary)
    }
}

/// The command that shows a finding again.
pub(crate) fn again(target: &str, input: &Path) -> String {
    format!("cargo +nightly fuzz run --codegen-units 16 {target} {}", input.display())
}

/// Inputs that something is wrong with. What was only slow is kept beside them.
fn findings(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = files(directory)?;
    files.retain(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("slow-unit")));
    Ok(files)
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    Ok(files)
}

/// What was run, as a table; then the findings.
pub(crate) struct Table<'a>(pub(crate) &'a [Summary]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<12} {:>12} {:>10} {:>8} {:>10} {:>9}",
            "target", "inputs", "a second", "edges", "time", "findings"
        )?;
        for one in self.0 {
            let seconds = one.took.as_secs();
            let time = format!("{}:{:02}", seconds / 60, seconds % 60);
            let rate = one.inputs as f64 / one.took.as_secs_f64().max(1.0);
            let found = u32::from(one.finding.is_some());
            writeln!(f, "{:<12} {:>12} {rate:>10.0} {:>8} {time:>10} {found:>9}", one.target, one.inputs, one.edges)?;
        }
        for one in self.0 {
            if let Some(input) = &one.finding {
                writeln!(f, "{}: {}\n  {}", one.target, input.display(), again(one.target, input))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_those_of_the_package() {
        let manifest = std::fs::read_to_string(crate::workspace::root().join("fuzz/Cargo.toml")).unwrap();
        let mut names: Vec<_> = manifest.split("[[bin]]").skip(1).filter_map(|bin| bin.split('"').nth(1)).collect();
        let mut expected = TARGETS.map(|(name, _)| name);
        names.sort_unstable();
        expected.sort_unstable();
        assert_eq!(names, expected);
    }

    #[test]
    fn a_part_of_a_name_chooses() {
        assert_eq!(choose(&["tab".into()]).unwrap(), [TARGETS[1]]);
        assert_eq!(choose(&[]).unwrap().len(), TARGETS.len());
        assert!(format!("{:#}", choose(&["nothing".into()]).unwrap_err()).contains("page_tree"));
    }

    #[test]
    fn the_table_names_what_was_found_and_how_to_see_it_again() {
        let mut one = Summary::new("posix");
        one.read("#12345\tDONE   cov: 321 ft: 900 corp: 3/10b lim: 4 exec/s: 5 rss: 60Mb");
        one.finding = Some("fuzz/artifacts/posix/crash-1".into());
        let text = Table(&[one]).to_string();
        assert!(text.contains("12345") && text.contains("321"), "{text}");
        assert!(
            text.contains("cargo +nightly fuzz run --codegen-units 16 posix fuzz/artifacts/posix/crash-1"),
            "{text}"
        );
    }

    #[test]
    fn minutes_are_some() {
        assert_eq!(minutes("0.5"), Ok(0.5));
        assert!(minutes("0").is_err() && minutes("-1").is_err() && minutes("NaN").is_err());
    }
}
