//! What a boot must come to, and whether it did.
//!
//! This is kept apart from running machines, so that it is tested itself: a judge that lets everything pass would make every boot test worthless.

use refkernel_abi::{ExitCode, roles::BenchRole};

use super::count::Count;
use crate::{bench_guest, end::End, qemu::Loader, session::Outcome};

/// What a boot must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expectation {
    /// The kernel reports success, and each of these texts is in a line of its log.
    Success(&'static [&'static str]),
    /// The kernel runs its own tests, all pass, and its closing count agrees with its lines.
    GuestTests,
    /// The kernel reports success, and its bench program has given every figure of this part.
    Figures(BenchRole),
    /// The kernel reports success after holding for a picture; the picture is judged apart.
    Picture,
    /// The weakened kernel says what it is, makes the table of attacks, and each that has a control sees it work.
    Controls,
    /// The kernel ends with this report, and each of these texts is in a line of its log.
    Reports(ExitCode, &'static [&'static str]),
    /// The kernel reports that it cannot start or that the demo failed (not a panic, not a fatal trap), and each of these texts is in a line of its log.
    Refuses(&'static [&'static str]),
    /// The kernel panics and prints a backtrace with the names of functions.
    PanicWithBacktrace,
    /// The machine goes down without a word.
    TripleFault,
    /// The kernel starts, and then nothing more comes.
    Silence,
    /// The kernel reports success, or that it cannot start, and then says that it lacks memory.
    SuccessOrTooLittleMemory,
}

/// Judges a boot: how many tests ran inside it, or why it is not what it had to be.
pub(crate) fn judge(expectation: Expectation, loader: Loader, outcome: &Outcome) -> Result<Count, String> {
    let lines = &outcome.lines;
    let first = match loader {
        Loader::Pvh => "refkernel: booted through pvh",
        Loader::LimineBios | Loader::LimineUefi => "refkernel: booted through limine",
    };
    // A kernel that lacks the memory for its log may say so before anything else.
    if expectation != Expectation::SuccessOrTooLittleMemory && !lines.iter().any(|line| line.starts_with(first)) {
        return Err(format!("no line begins with `{first}` ({})", outcome.end));
    }
    let ended = |wanted: &End| {
        if outcome.end == *wanted { Ok(()) } else { Err(format!("expected: {wanted}; found: {}", outcome.end)) }
    };
    let said = |texts: &[&str]| match texts.iter().find(|text| !lines.iter().any(|line| line.contains(**text))) {
        Some(text) => Err(format!("no line says `{text}`")),
        None => Ok(()),
    };
    let mut inside = Count::default();
    match expectation {
        Expectation::Success(texts) => {
            ended(&End::Reported(ExitCode::Success))?;
            said(texts)?;
        }
        Expectation::Figures(role) => {
            ended(&End::Reported(ExitCode::Success))?;
            bench_guest::check(role, lines)?;
        }
        Expectation::Picture => {
            ended(&End::Reported(ExitCode::Success))?;
            outcome.picture.clone()?;
        }
        Expectation::GuestTests | Expectation::Controls => {
            if expectation == Expectation::Controls {
                said(&["WEAKENED"])?;
                controls(lines)?;
            } else if let Some(line) = lines.iter().find(|line| line.contains("WEAKENED")) {
                return Err(format!("the kernel that is used is a weakened one: {line}"));
            }
            let (count, failed) = guest_tests(lines)?;
            if !failed.is_empty() {
                return Err(format!("failed in the guest: {}", failed.join(", ")));
            }
            ended(&End::Reported(ExitCode::Success))?;
            inside = count;
        }
        Expectation::Reports(report, texts) => {
            ended(&End::Reported(report))?;
            said(texts)?;
        }
        Expectation::Refuses(texts) => match outcome.end {
            End::Reported(ExitCode::BadBoot | ExitCode::Failure) => said(texts)?,
            ref other => return Err(format!("expected: a report that this cannot be used; found: {other}")),
        },
        Expectation::PanicWithBacktrace => {
            ended(&End::Reported(ExitCode::Panic))?;
            if !lines.iter().any(|line| is_backtrace_line(line)) {
                return Err("no line of a backtrace gives an address and the name of a function".into());
            }
        }
        Expectation::TripleFault => match &outcome.end {
            End::Down(reason) if reason.as_deref().is_none_or(|reason| reason == "guest-reset") => {}
            other => return Err(format!("expected: a triple fault; found: {other}")),
        },
        Expectation::Silence => {
            if !matches!(outcome.end, End::Silent(_)) {
                return Err(format!("expected: silence; found: {}", outcome.end));
            }
        }
        Expectation::SuccessOrTooLittleMemory => match &outcome.end {
            End::Reported(ExitCode::Success) => {}
            End::Reported(ExitCode::BadBoot) => said(&["memory"])?,
            other => return Err(format!("expected: success, or too little memory; found: {other}")),
        },
    }
    Ok(inside)
}

/// Attacks whose control is another one's.
const WITHOUT_CONTROL: [&str; 2] = ["map-twice", "every-argument"];

/// Reads `attack NAME: held` and `control NAME: works without DEFENCE`: each that was held must have been seen to work.
fn controls(lines: &[String]) -> Result<(), String> {
    let names = |before: &str, behind: &str| -> Vec<String> {
        let between = |line: &String| Some(line.strip_prefix(before)?.split_once(behind)?.0.to_owned());
        lines.iter().filter_map(between).collect()
    };
    let (held, works) = (names("attack ", ": held"), names("control ", ": works without "));
    if works.len() < 15 {
        return Err(format!("only {} controls saw their attack work", works.len()));
    }
    match held.iter().find(|name| !works.contains(name) && !WITHOUT_CONTROL.contains(&name.as_str())) {
        Some(name) => Err(format!("no control shows that the attack {name} works without its defence")),
        None => Ok(()),
    }
}

/// Reads `test NAME ... ok` and `test NAME ... FAILED`, and compares with the closing `N passed, M failed`.
fn guest_tests(lines: &[String]) -> Result<(Count, Vec<String>), String> {
    let mut count = Count::default();
    let mut failed = Vec::new();
    for line in lines {
        let Some((name, result)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) else {
            continue;
        };
        match result.split_whitespace().next() {
            Some("ok") => count.passed += 1,
            Some("skipped") => count.skipped += 1,
            // Also a line that breaks off: the test did not end.
            _ => {
                count.failed += 1;
                failed.push(name.to_owned());
            }
        }
    }
    let said = lines
        .iter()
        .rev()
        .find_map(|line| closing(line))
        .ok_or_else(|| format!("the guest's tests did not end with a count; {count} until then"))?;
    if said != (count.passed, count.failed) {
        return Err(format!("the guest counts {} passed and {} failed, its lines {count}", said.0, said.1));
    }
    if count.passed + count.failed == 0 {
        return Err("no test ran in the guest".into());
    }
    Ok((count, failed))
}

/// Reads `N passed, M failed`, whatever follows.
fn closing(line: &str) -> Option<(u32, u32)> {
    let (passed, rest) = line.split_once(" passed, ")?;
    let (failed, _) = rest.split_once(" failed")?;
    Some((passed.rsplit(' ').next()?.parse().ok()?, failed.parse().ok()?))
}

/// Whether a line has an address in the kernel's half followed by the path of a Rust function.
fn is_backtrace_line(line: &str) -> bool {
    let mut words = line.split_whitespace().skip_while(|word| {
        let digits = word.trim_start_matches("0x").trim_end_matches(':');
        !(digits.len() == 16 && digits.starts_with("ffff") && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
    });
    words.next().is_some() && words.any(|word| word.contains("refkernel::"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn outcome(end: End, lines: &[&str]) -> Outcome {
        let mut all = vec!["refkernel: booted through pvh"];
        all.extend(lines);
        Outcome {
            end,
            lines: all.into_iter().map(str::to_owned).collect(),
            messages: Vec::new(),
            elapsed: Duration::from_secs(1),
            picture: Ok(()),
            before_shots: Vec::new(),
        }
    }

    fn judged(expectation: Expectation, end: End, lines: &[&str]) -> Result<Count, String> {
        judge(expectation, Loader::Pvh, &outcome(end, lines))
    }

    const SUCCESS: End = End::Reported(ExitCode::Success);
    const SILENT: End = End::Silent(Duration::from_secs(1));
    const LATE: End = End::TimedOut(Duration::from_secs(1));

    /// Every way to end, for tests that only one of them passes.
    fn ends() -> Vec<End> {
        vec![
            SUCCESS,
            End::Reported(ExitCode::Failure),
            End::Reported(ExitCode::Panic),
            End::Reported(ExitCode::FatalTrap),
            End::Reported(ExitCode::BadBoot),
            End::Down(Some("guest-reset".into())),
            End::Down(Some("host-ui".into())),
            End::Status(1),
            End::Signal(11),
            LATE,
            SILENT,
        ]
    }

    /// The ends that pass where the log says everything that any expectation asks for.
    fn passing(expectation: Expectation) -> Vec<End> {
        let lines = &[
            "  0xffffffff80001000 refkernel::memory::first",
            "too little memory",
            "stack overflow",
            "test a ... ok",
            "1 passed, 0 failed",
            "bench flush-interrupts-one-cpu: 0 interrupts (768 operations of 16 pages)",
            "bench flush-interrupts-two-cpus: 9 interrupts (768 operations of 16 pages)",
        ];
        ends().into_iter().filter(|end| judged(expectation, end.clone(), lines).is_ok()).collect()
    }

    #[test]
    fn each_expectation_accepts_its_own_end_only() {
        assert_eq!(passing(Expectation::Success(&["memory"])), [SUCCESS]);
        assert_eq!(passing(Expectation::GuestTests), [SUCCESS]);
        assert_eq!(passing(Expectation::Figures(BenchRole::Flushes)), [SUCCESS]);
        assert_eq!(passing(Expectation::Figures(BenchRole::Quick)), []);
        assert_eq!(passing(Expectation::Picture), [SUCCESS]);
        assert_eq!(
            passing(Expectation::Reports(ExitCode::FatalTrap, &["stack overflow"])),
            [End::Reported(ExitCode::FatalTrap)]
        );
        assert_eq!(
            passing(Expectation::Refuses(&["memory"])),
            [End::Reported(ExitCode::Failure), End::Reported(ExitCode::BadBoot)]
        );
        assert_eq!(passing(Expectation::PanicWithBacktrace), [End::Reported(ExitCode::Panic)]);
        assert_eq!(passing(Expectation::TripleFault), [End::Down(Some("guest-reset".into()))]);
        assert_eq!(passing(Expectation::Silence), [SILENT]);
        assert_eq!(passing(Expectation::SuccessOrTooLittleMemory), [SUCCESS, End::Reported(ExitCode::BadBoot)]);
    }

    #[test]
    fn a_kernel_that_did_not_start_as_told_fails() {
        let mut silent = outcome(SUCCESS, &[]);
        silent.lines.clear();
        assert!(judge(Expectation::Success(&[]), Loader::Pvh, &silent).is_err());
        assert!(judge(Expectation::Success(&[]), Loader::LimineBios, &outcome(SUCCESS, &[])).is_err());
        assert!(judge(Expectation::Success(&[]), Loader::Pvh, &outcome(SUCCESS, &[])).is_ok());
    }

    #[test]
    fn texts_must_be_in_the_log() {
        assert!(judged(Expectation::Success(&["unknown word"]), SUCCESS, &["demo done"]).is_err());
        assert!(
            judged(Expectation::Reports(ExitCode::FatalTrap, &["overflow"]), End::Reported(ExitCode::FatalTrap), &[])
                .is_err()
        );
        assert!(judged(Expectation::SuccessOrTooLittleMemory, End::Reported(ExitCode::BadBoot), &[]).is_err());
    }

    #[test]
    fn tests_in_the_guest_are_counted() {
        let lines = ["test a ... ok", "noise", "test b ... ok (12 frames)", "test: 2 passed, 0 failed"];
        assert_eq!(judged(Expectation::GuestTests, SUCCESS, &lines), Ok(Count { passed: 2, failed: 0, skipped: 0 }));
    }

    #[test]
    fn controls_must_see_every_attack_work() {
        let mut lines = vec!["refkernel: WEAKENED: for tests".to_owned()];
        for number in 0..20 {
            lines.push(format!("attack a{number}: held"));
            lines.push(format!("test attack a{number} ... ok"));
            lines.push(format!("control a{number}: works without smap"));
        }
        lines.extend(["attack map-twice: held", "attack b: skipped (it takes 2 processors)"].map(str::to_owned));
        lines.push("20 passed, 0 failed".to_owned());
        let judged = |left_out: Option<&str>| {
            let lines: Vec<&str> = lines.iter().map(String::as_str).filter(|line| Some(*line) != left_out).collect();
            super::tests::judged(Expectation::Controls, SUCCESS, &lines)
        };
        assert!(judged(None).is_ok());
        // A control that is missing, and a kernel that does not say what it is.
        assert!(judged(Some("control a7: works without smap")).is_err());
        assert!(judged(Some("refkernel: WEAKENED: for tests")).is_err());
        // No other boot takes such a kernel.
        let weakened = ["refkernel: WEAKENED: for tests", "test a ... ok", "1 passed, 0 failed"];
        assert!(super::tests::judged(Expectation::GuestTests, SUCCESS, &weakened).is_err());
        // Nothing seen to work is no control.
        let none = ["refkernel: WEAKENED: for tests", "test a ... ok", "1 passed, 0 failed"];
        assert!(super::tests::judged(Expectation::Controls, SUCCESS, &none).is_err());
    }

    #[test]
    fn a_failed_broken_off_or_uncounted_test_in_the_guest_fails() {
        for lines in [
            &["test a ... ok", "test b ... FAILED", "1 passed, 1 failed"][..],
            &["test a ... ok", "test b ... ", "1 passed, 1 failed"],
            &["test a ... ok", "2 passed, 0 failed"],
            &["test a ... ok"],
            &["0 passed, 0 failed"],
        ] {
            assert!(judged(Expectation::GuestTests, SUCCESS, lines).is_err(), "{lines:?}");
        }
    }

    #[test]
    fn a_backtrace_has_addresses_and_names() {
        assert!(is_backtrace_line("  #0 0xffffffff80101234: refkernel::memory::frames::free+0x10"));
        assert!(is_backtrace_line("ffffffff80101234 refkernel::boot::start"));
        assert!(!is_backtrace_line("panicked at refkernel::boot"));
        assert!(!is_backtrace_line("  0xffffffff80101234 ?"));
        assert!(!is_backtrace_line("  0x0000000000101234 refkernel::boot"));
    }

    #[test]
    fn a_picture_that_was_not_taken_fails() {
        let mut without = outcome(SUCCESS, &[]);
        without.picture = Err("no picture".into());
        assert!(judge(Expectation::Picture, Loader::Pvh, &without).is_err());
    }
}
