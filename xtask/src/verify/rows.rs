//! What each row runs.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use super::Arguments;
use super::outcome::{Outcome, Verdict, sum_before};
use crate::fuzz::{Fuzzing, TARGETS};
use crate::workspace::cargo;
use crate::{mutants, process, setup};

/// How often it is said that a row is still running.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// The target whose flags and runner are set.
const HOST: &str = "x86_64-unknown-linux-gnu";

/// The rows, in the order in which they are run.
pub(super) fn names() -> Vec<String> {
    let mut names = vec!["recordings".to_owned(), "oracle".to_owned()];
    names.extend(TARGETS.iter().map(|(target, _)| format!("fuzz-{target}")));
    names.extend(["models", "asan", "valgrind", "miri", "loom", "shuttle", "stress", "mutants"].map(str::to_owned));
    names
}

pub(super) struct Rows<'a> {
    root: &'a Path,
    logs: PathBuf,
    arguments: &'a Arguments,
}

/// How a command ended, and all that it said.
struct Ended {
    success: bool,
    text: String,
}

impl<'a> Rows<'a> {
    pub(super) fn new(root: &'a Path, arguments: &'a Arguments) -> Result<Self> {
        let logs = root.join("target/verify");
        std::fs::create_dir_all(&logs).with_context(|| format!("making {}", logs.display()))?;
        Ok(Self { root, logs, arguments })
    }

    /// Runs a row. What cannot be run is a finding, but for what is not installed.
    pub(super) fn run(&self, row: &str) -> Outcome {
        eprintln!("Running {row} …");
        let begin = Instant::now();
        let result = match row {
            "recordings" => self.recordings(row),
            "oracle" => self.oracle(row),
            "models" => self.models(row),
            "asan" => self.asan(row),
            "valgrind" => self.valgrind(row),
            "miri" => self.miri(row),
            "loom" => self.checker(row, &["--loom", "--preemptions", &self.arguments.preemptions().to_string()]),
            "shuttle" => self.checker(row, &["--shuttle", "--iterations", &self.arguments.iterations().to_string()]),
            "stress" => self.stress(row),
            "mutants" => self.mutants(),
            _ => self.fuzz(row.trim_start_matches("fuzz-")),
        };
        let (cases, verdict) = result.unwrap_or_else(|error| {
            (String::new(), Verdict::Found { count: 1, details: format!("  it could not be run: {error:#}") })
        });
        Outcome { row: row.to_owned(), cases, took: begin.elapsed(), verdict }
    }

    /// Runs a command with all its output in the row's log.
    fn logged(&self, row: &str, command: &mut Command) -> Result<Ended> {
        let path = self.logs.join(format!("{row}.log"));
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("writing {}", path.display()))?;
        let start = log.metadata()?.len();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} cannot be started", process::shown(command)))?;
        let (begin, mut told) = (Instant::now(), Instant::now());
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if told.elapsed() > HEARTBEAT {
                told = Instant::now();
                eprintln!("  {row}: {} s", begin.elapsed().as_secs());
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        let text = String::from_utf8_lossy(&std::fs::read(&path)?.split_off(start as usize)).into_owned();
        Ok(Ended { success: status.success(), text })
    }

    /// What is found in a log, if a command failed: its last lines.
    fn verdict(&self, row: &str, ended: &Ended, count: u64) -> Verdict {
        if ended.success {
            return Verdict::Clean;
        }
        let lines: Vec<&str> = ended.text.lines().collect();
        let last = lines[lines.len().saturating_sub(12)..].join("\n  ");
        let log = self.logs.join(format!("{row}.log"));
        Verdict::Found { count: count.max(1), details: format!("  {last}\n  all of it: {}", log.display()) }
    }

    fn fresh(&self, row: &str) {
        // What is not there need not be removed.
        let _ = std::fs::remove_file(self.logs.join(format!("{row}.log")));
    }

    /// This program again, with another command.
    fn xtask(&self, command: &str) -> Result<Command> {
        let mut again = Command::new(std::env::current_exe().context("looking for this program")?);
        again.current_dir(self.root).arg(command);
        Ok(again)
    }

    fn recordings(&self, row: &str) -> Result<(String, Verdict)> {
        self.fresh(row);
        let mut command = self.xtask("replay")?;
        if self.arguments.files.is_empty() {
            let mut files: Vec<_> = std::fs::read_dir(self.root.join("xtask/replay/data"))?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect();
            files.sort();
            command.args(files);
        } else {
            for file in &self.arguments.files {
                command.arg(std::path::absolute(file)?);
            }
        }
        let ended = self.logged(row, &mut command)?;
        let counts = counts_of_files(&ended.text);
        let (operations, accesses) = (sum_before(&counts, "operations"), sum_before(&counts, "accesses"));
        let differences = sum_before(&counts, "differences");
        Ok((format!("{operations} operations, {accesses} accesses"), self.verdict(row, &ended, differences)))
    }

    fn oracle(&self, row: &str) -> Result<(String, Verdict)> {
        self.fresh(row);
        let mut command = self.xtask("oracle")?;
        command.args(["--seed", &self.arguments.seed.to_string(), "--ops", &self.arguments.ops().to_string()]);
        let ended = self.logged(row, &mut command)?;
        let cases = format!("{} operations, seed {}", self.arguments.ops(), self.arguments.seed);
        Ok((cases, self.verdict(row, &ended, 1)))
    }

    fn fuzz(&self, target: &str) -> Result<(String, Verdict)> {
        let one = TARGETS.into_iter().find(|(name, _)| *name == target).context("there is no such target")?;
        let fuzzing = match Fuzzing::prepare(self.root, &[one]) {
            Ok(fuzzing) => fuzzing,
            Err(error) if setup::nightly().is_err() => return Ok((String::new(), Verdict::Skipped(error.to_string()))),
            Err(error) => return Err(error),
        };
        let time = Duration::from_secs_f64(self.arguments.minutes() * 60.0);
        let summary = fuzzing.run(one.0, one.1, time, self.arguments.seed, 1)?;
        let verdict = summary.finding.as_ref().map_or(Verdict::Clean, |input| Verdict::Found {
            count: 1,
            details: format!("  {}\n  {}", input.display(), crate::fuzz::again(one.0, input)),
        });
        Ok((format!("{} inputs, {} edges", summary.inputs, summary.edges), verdict))
    }

    fn models(&self, row: &str) -> Result<(String, Verdict)> {
        self.fresh(row);
        let times = self.arguments.cases();
        let mut command = cargo(self.root);
        command.env("VMCORE_CASES", times.to_string());
        command.args([
            "test",
            "--package",
            "vmcore",
            "--no-fail-fast",
            "--test",
            "whole_model",
            "--test",
            "posix_model",
        ]);
        let ended = self.logged(row, &mut command)?;
        // As many as the tests say: three formats, and one.
        let cases = (3 * 900 + 600) * u64::from(times);
        Ok((format!("{cases} cases"), self.verdict(row, &ended, sum_before(&ended.text, "failed"))))
    }

    /// Cargo of the nightly toolchain.
    fn nightly(&self, toolchain: &str) -> Command {
        let mut command = Command::new("rustup");
        command.args(["run", toolchain, "cargo"]).current_dir(self.root);
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        command
    }

    fn asan(&self, row: &str) -> Result<(String, Verdict)> {
        self.fresh(row);
        let Ok(toolchain) = setup::nightly() else {
            return Ok((String::new(), Verdict::Skipped("no nightly toolchain".into())));
        };
        let mut command = self.nightly(&toolchain);
        // For the target alone, so that build scripts and macros are built without; the flags and the target directory are this build's own.
        command
            .env("CARGO_ENCODED_RUSTFLAGS", "-Zsanitizer=address\x1f--cfg=quick")
            .env("ASAN_OPTIONS", "detect_leaks=0:detect_odr_violation=0")
            .args(["test", "--package", "vmcore", "--no-fail-fast", "--target", HOST, "--target-dir", "target/asan"])
            .args(["--lib", "--tests"]);
        let ended = self.logged(row, &mut command)?;
        let (passed, failed) = (sum_before(&ended.text, "passed"), sum_before(&ended.text, "failed"));
        Ok((format!("{passed} tests"), self.verdict(row, &ended, failed)))
    }

    fn valgrind(&self, row: &str) -> Result<(String, Verdict)> {
        self.fresh(row);
        if process::find("valgrind").is_none() {
            return Ok((String::new(), Verdict::Skipped("valgrind is not installed".into())));
        }
        let memcheck = "valgrind --quiet --error-exitcode=99 --undef-value-errors=yes --errors-for-leak-kinds=none";
        let runner = format!("CARGO_TARGET_{}_RUNNER", HOST.to_uppercase().replace('-', "_"));
        let mut passed = 0;
        let mut failed = None;
        // What keeps elements in memory that is not initialised; and everything below a recording.
        let programs: [&[&str]; 2] = [
            &["--package", "vmcore", "--lib", "--", "static_vec::", "page_tree::", "frame::", "lock::"],
            &["--package", "replay", "--", "random_operations_come_out_as_on_linux"],
        ];
        for arguments in programs {
            let mut command = cargo(self.root);
            command.env(&runner, memcheck).env("PROPTEST_CASES", "32").arg("test").args(arguments);
            let ended = self.logged(row, &mut command)?;
            passed += sum_before(&ended.text, "passed");
            if !ended.success {
                failed = Some(self.verdict(row, &ended, sum_before(&ended.text, "failed")));
            }
        }
        Ok((format!("{passed} tests"), failed.unwrap_or(Verdict::Clean)))
    }

    fn miri(&self, row: &str) -> Result<(String, Verdict)> {
        self.fresh(row);
        let Some(toolchain) = setup::nightly().ok().filter(|toolchain| setup::has_component(toolchain, "cargo-miri"))
        else {
            return Ok((String::new(), Verdict::Skipped("Miri is not installed".into())));
        };
        let mut command = self.nightly(&toolchain);
        // Addresses of frames are numbers first; what they point to was exposed where the memory was made.
        command
            .env("MIRIFLAGS", "-Zmiri-permissive-provenance -Zmiri-disable-isolation")
            .env("PROPTEST_CASES", "4")
            .env("CARGO_ENCODED_RUSTFLAGS", "--cfg=quick")
            .args(["miri", "test", "--package", "vmcore", "--lib", "--target-dir", "target/miri", "--"])
            .args([
                "static_vec::",
                "page_tree::",
                "addr::",
                "frame::",
                "--skip",
                "agrees_with",
                "--skip",
                "agree_with",
            ]);
        let ended = self.logged(row, &mut command)?;
        let (passed, failed) = (sum_before(&ended.text, "passed"), sum_before(&ended.text, "failed"));
        Ok((format!("{passed} tests"), self.verdict(row, &ended, failed)))
    }

    fn checker(&self, row: &str, options: &[&str]) -> Result<(String, Verdict)> {
        self.fresh(row);
        let mut command = self.xtask("models")?;
        command.args(options).args(["--seed", &self.arguments.seed.to_string()]);
        let ended = self.logged(row, &mut command)?;
        // The last line of the table: `all`, and how many schedules.
        let all = ended.text.lines().rev().find_map(|line| line.strip_prefix("all ")).unwrap_or_default();
        let schedules = all.split_ascii_whitespace().next().unwrap_or("0").to_owned();
        let findings = ended.text.matches("found, see below").count() as u64;
        Ok((format!("{schedules} schedules"), self.verdict(row, &ended, findings)))
    }

    fn stress(&self, row: &str) -> Result<(String, Verdict)> {
        self.fresh(row);
        let mut command = self.xtask("stress")?;
        command.args(["--yes", "--seconds", &self.arguments.seconds().to_string()]);
        command.args(["--seed", &self.arguments.seed.to_string()]);
        let ended = self.logged(row, &mut command)?;
        // The closing lines of the run that counts, which is the last one.
        let closing = ended.text.lines().rev().find(|line| line.starts_with("stress: ") && line.ends_with(" waits"));
        let cases = closing.map_or_else(String::new, |line| {
            let count = |word| sum_before(line, word);
            format!("{} operations, {} clones", count("operations"), count("clones"))
        });
        Ok((cases, self.verdict(row, &ended, 1)))
    }

    fn mutants(&self) -> Result<(String, Verdict)> {
        let share = mutants::share(&self.arguments.share()).map_err(|error| anyhow!(error))?;
        let (outcome, is_enough) = mutants::verify(self.root, share)?;
        let missed = outcome.survivors.len() as u64;
        let cases = format!("{} of {} viable caught ({})", outcome.caught, outcome.viable(), self.arguments.share());
        let verdict = if is_enough {
            Verdict::Clean
        } else {
            Verdict::Found { count: missed, details: format!("  {}", outcome.survivors.join("\n  ")) }
        };
        Ok((cases, verdict))
    }
}

/// What a replay counted in each file: without the rates, and without the line that adds all of them up.
fn counts_of_files(text: &str) -> String {
    let files = text.lines().filter(|line| !line.starts_with("all "));
    files.map(|line| line.split("; ").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_replay_counted_is_added_up_once() {
        let text = "a.xz: 3 operations, 4 accesses, 5 pages compared, 1 differences; 99 operations and accesses a second
b.xz: 30 operations, 40 accesses, 50 pages compared, 0 differences; 98 operations and accesses a second
all 2: 33 operations, 44 accesses, 55 pages compared, 1 differences in 0.1 s on 2 threads: 97 operations and accesses a second; reading took 0.0 s";
        let counts = counts_of_files(text);
        let sums = ["operations", "accesses", "differences"].map(|word| sum_before(&counts, word));
        assert_eq!(sums, [33, 44, 1]);
    }
}
