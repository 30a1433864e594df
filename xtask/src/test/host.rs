//! The tests of the host: every default member, and the libraries of the other members that a host can run.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::count::Count;
use crate::workspace::{Workspace, cargo};

/// Runs them all, also after a failure.
pub(crate) fn run(workspace: &Workspace) -> Result<Count> {
    let mut total = Count::default();
    let mut command = cargo(&workspace.root);
    command.args(["test", "--no-fail-fast"]);
    total += counted(&mut command, "the default members")?;
    for member in workspace.host_libraries() {
        let mut command = cargo(&workspace.root);
        // Named alone, so that its features are not unified with those of other members.
        command.args(["test", "--no-fail-fast", "--package", &member.name, "--lib"]);
        total += counted(&mut command, &member.name)?;
    }
    Ok(total)
}

/// Runs one `cargo test`, shows what it says, and adds up its results.
fn counted(command: &mut Command, what: &str) -> Result<Count> {
    let purpose = || format!("testing {what}");
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(purpose)?;
    let mut count = Count::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line.with_context(purpose)?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            if let Some(result) = parse(&line) {
                count += result;
            }
        }
    }
    let status = child.wait().with_context(purpose)?;
    if !status.success() && count.failed == 0 {
        // It did not compile, or a test brought its whole process down.
        println!("Testing {what} failed: {status}");
        count.failed += 1;
    }
    Ok(count)
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn parse(line: &str) -> Option<Count> {
    let (_, numbers) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
    let mut count = Count::default();
    for part in numbers.split("; ") {
        let Some((number, what)) = part.split_once(' ') else {
            continue;
        };
        match what {
            "passed" => count.passed = number.parse().ok()?,
            "failed" => count.failed = number.parse().ok()?,
            "ignored" => count.skipped = number.parse().ok()?,
            _ => {}
        }
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_and_other_lines_are_not() {
        assert_eq!(
            parse("test result: FAILED. 31 passed; 2 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.04s"),
            Some(Count { passed: 31, failed: 2, skipped: 1 })
        );
        assert_eq!(parse("test tests::a ... ok"), None);
        assert_eq!(parse("running 2 tests"), None);
    }

    #[test]
    fn a_run_without_results_that_fails_is_a_failed_test() {
        let count = counted(&mut Command::new("false"), "nothing").unwrap();
        assert_eq!(count, Count { passed: 0, failed: 1, skipped: 0 });
    }
}
