//! The boots: a table of machines, command lines and what each must come to.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use refkernel_abi::{ExitCode, roles::BenchRole};

use super::{
    count::Count,
    expectation::{Expectation, judge},
    inspector, picture, places, screen,
};
use crate::{
    boot,
    build::{self, Image, Profile},
    limine,
    module::{self, Damage},
    qemu::{Loader, Machine, Memory, Pace},
    session::{self, Limits, Typing, Wishes},
    workspace::Workspace,
};

/// One boot.
#[derive(Clone, Copy, Debug)]
struct Boot {
    name: &'static str,
    cmdline: &'static str,
    loader: Loader,
    memory: Memory,
    cpus: u8,
    /// What is wrong with the boot module, if anything.
    damage: Option<Damage>,
    expectation: Expectation,
}

/// What a row leaves out.
const USUAL: Boot = Boot {
    name: "",
    cmdline: "demo",
    loader: Loader::Pvh,
    memory: Memory(256),
    cpus: 1,
    damage: None,
    expectation: Expectation::Success(DEMO),
};

/// What a demo that was really run says: the program came to its end, the one with the bad access did not take the kernel along, the
/// program drew through its window onto the screen, and the map was drawn.
const DEMO: &[&str] = &[
    "demo: done",
    "the program was killed, the kernel goes on",
    "physical memory:",
    "demo: drew ",
    "ring: ",
    "draw: 5 pictures",
    "init: every program has ended as it had to",
];

/// The same, on every processor that the machine has.
const DEMO_2_CPUS: &[&str] = &["cpu: 2 of 2 processors run", "demo: done", "physical memory:"];
const DEMO_4_CPUS: &[&str] = &["cpu: 4 of 4 processors run", "demo: done", "physical memory:"];

/// What random operations say that came to their end. That every frame is back is in the report.
const STRESS: &[&str] = &["stress: everything was as it must be", "frames: "];

const BOOTS: &[Boot] = &[
    Boot { name: "guest-tests", cmdline: "test seed=1", expectation: Expectation::GuestTests, ..USUAL },
    Boot { name: "guest-tests-2-cpus", cmdline: "test seed=2", cpus: 2, expectation: Expectation::GuestTests, ..USUAL },
    Boot { name: "guest-tests-4-cpus", cmdline: "test seed=3", cpus: 4, expectation: Expectation::GuestTests, ..USUAL },
    Boot {
        name: "guest-tests-4G",
        cmdline: "test seed=4",
        memory: Memory(4096),
        expectation: Expectation::GuestTests,
        ..USUAL
    },
    Boot { name: "stress", cmdline: "stress=2 seed=1", expectation: Expectation::Success(STRESS), ..USUAL },
    Boot {
        name: "stress-2-cpus",
        cmdline: "stress=2 seed=2",
        cpus: 2,
        expectation: Expectation::Success(STRESS),
        ..USUAL
    },
    Boot {
        name: "stress-4-cpus",
        cmdline: "stress=2 seed=3",
        cpus: 4,
        expectation: Expectation::Success(STRESS),
        ..USUAL
    },
    Boot { name: "demo", ..USUAL },
    Boot { name: "demo-2-cpus", cpus: 2, expectation: Expectation::Success(DEMO_2_CPUS), ..USUAL },
    Boot { name: "demo-4-cpus", cpus: 4, expectation: Expectation::Success(DEMO_4_CPUS), ..USUAL },
    Boot { name: "demo-64M", memory: Memory(64), ..USUAL },
    Boot { name: "demo-4G", memory: Memory(4096), ..USUAL },
    Boot { name: "demo-32M", memory: Memory(32), expectation: Expectation::SuccessOrTooLittleMemory, ..USUAL },
    Boot {
        name: "unknown-words",
        cmdline: "demo colour=blue frobnicate",
        expectation: Expectation::Success(&["colour=blue", "frobnicate"]),
        ..USUAL
    },
    Boot { name: "picture", cmdline: "demo hold", expectation: Expectation::Picture, ..USUAL },
    Boot {
        name: "bench-quick",
        cmdline: "bench=quick seed=1",
        expectation: Expectation::Figures(BenchRole::Quick),
        ..USUAL
    },
    Boot {
        name: "bench-flushes",
        cmdline: "bench=flushes seed=1",
        cpus: 2,
        expectation: Expectation::Figures(BenchRole::Flushes),
        ..USUAL
    },
    Boot { name: "panic", cmdline: "test=panic", expectation: Expectation::PanicWithBacktrace, ..USUAL },
    Boot {
        name: "stack-overflow",
        cmdline: "test=stack-overflow",
        expectation: Expectation::Reports(ExitCode::FatalTrap, &["stack overflow"]),
        ..USUAL
    },
    Boot { name: "triple-fault", cmdline: "test=triple-fault", expectation: Expectation::TripleFault, ..USUAL },
    Boot { name: "silence", cmdline: "test=silence", expectation: Expectation::Silence, ..USUAL },
    Boot {
        name: "module-noise",
        damage: Some(Damage::Noise),
        expectation: Expectation::Refuses(&["not a tar archive", "no program init"]),
        ..USUAL
    },
    Boot {
        name: "module-empty",
        damage: Some(Damage::Empty),
        expectation: Expectation::Refuses(&["no program init"]),
        ..USUAL
    },
    Boot {
        name: "module-cut-programs",
        damage: Some(Damage::CutPrograms),
        expectation: Expectation::Refuses(&["ends too early"]),
        ..USUAL
    },
    Boot {
        name: "module-foreign-programs",
        damage: Some(Damage::ForeignPrograms),
        expectation: Expectation::Refuses(&["for machine 183"]),
        ..USUAL
    },
    Boot {
        name: "limine-bios",
        loader: Loader::LimineBios,
        cpus: 4,
        expectation: Expectation::Success(DEMO_4_CPUS),
        ..USUAL
    },
    Boot { name: "limine-uefi", loader: Loader::LimineUefi, ..USUAL },
    limine_guest_tests("limine-bios-guest-tests", Loader::LimineBios, 1),
    limine_guest_tests("limine-bios-guest-tests-2-cpus", Loader::LimineBios, 2),
    limine_guest_tests("limine-bios-guest-tests-4-cpus", Loader::LimineBios, 4),
    limine_guest_tests("limine-uefi-guest-tests", Loader::LimineUefi, 1),
    limine_guest_tests("limine-uefi-guest-tests-2-cpus", Loader::LimineUefi, 2),
    limine_guest_tests("limine-uefi-guest-tests-4-cpus", Loader::LimineUefi, 4),
];

/// The guest's tests on a machine that Limine has booted.
const fn limine_guest_tests(name: &'static str, loader: Loader, cpus: u8) -> Boot {
    Boot { name, loader, cmdline: "test seed=5", cpus, expectation: Expectation::GuestTests, ..USUAL }
}

/// A boot that takes longer is shown as a warning: time says as much about the host as about the kernel.
const AIM: Duration = Duration::from_secs(5);
/// How long a boot may take in all.
const TOTAL: Duration = Duration::from_secs(180);
/// How long nothing may come on the serial line; firmware and a busy host are slow.
const SILENCE: Duration = Duration::from_secs(60);
/// The same where silence is what is expected: no longer than it takes to be sure.
const EXPECTED_SILENCE: Duration = Duration::from_secs(3);

/// Runs the boots whose name contains `name`.
pub(crate) fn run(workspace: &Workspace, limine: Option<&Path>, name: Option<&str>, show: bool) -> Result<Count> {
    let mut count = Count::default();
    let wanted = |test: &str| name.is_none_or(|name| test.contains(name));
    let weakened = if WEAKENED.iter().any(|(test, _)| wanted(test)) { Some(build::weakened(workspace)) } else { None };
    let image = match build::image(workspace, Profile::Optimised) {
        Ok(image) => image,
        Err(error) => {
            println!("boot: no boot ran: {error:#}");
            count.failed += 1;
            return Ok(count);
        }
    };
    let logs = workspace.root.join("target/boot/logs");
    fs::create_dir_all(&logs).with_context(|| format!("making the directory {}", logs.display()))?;
    for boot in BOOTS.iter().filter(|boot| name.is_none_or(|name| boot.name.contains(name))) {
        if boot.loader != Loader::Pvh && limine.is_none() {
            println!("boot {} ... skipped (`LIMINE_DIR` is not set)", boot.name);
            count.skipped += 1;
            continue;
        }
        match one(workspace, &image, limine, boot, &logs, show) {
            Ok((inside, elapsed)) => {
                let tests = match inside.passed {
                    0 => String::new(),
                    passed => format!(", {passed} tests in the guest"),
                };
                println!("boot {} ... ok ({:.2} s{tests})", boot.name, elapsed.as_secs_f64());
                if boot.loader == Loader::Pvh && elapsed > AIM && boot.expectation != Expectation::Silence {
                    println!(
                        "warning: boot {} took longer than {:.0} s from QEMU's start to its end",
                        boot.name,
                        AIM.as_secs_f64()
                    );
                }
                count += inside;
                count.passed += 1;
            }
            Err(error) => {
                println!("boot {} ... FAILED: {error:#}", boot.name);
                count.failed += 1;
            }
        }
    }
    if let Some(weakened) = weakened {
        let image = weakened.map(|kernel| Image { kernel, ..image.clone() });
        for (test, cpus) in WEAKENED.iter().filter(|(test, _)| wanted(test)) {
            let boot = Boot {
                name: test,
                cmdline: "test=attacks seed=1",
                cpus: *cpus,
                expectation: Expectation::Controls,
                ..USUAL
            };
            let outcome = match &image {
                Ok(image) => one(workspace, image, limine, &boot, &logs, show),
                Err(error) => Err(anyhow::anyhow!("the weakened kernel is not built: {error:#}")),
            };
            match outcome {
                Ok((inside, elapsed)) => {
                    println!(
                        "boot {test} ... ok ({:.2} s, {} tests in the guest)",
                        elapsed.as_secs_f64(),
                        inside.passed
                    );
                    count += inside;
                    count.passed += 1;
                }
                Err(error) => {
                    println!("boot {test} ... FAILED: {error:#}");
                    count.failed += 1;
                }
            }
        }
    }
    for (test, cpus) in INSPECTOR.iter().filter(|(test, _)| name.is_none_or(|name| test.contains(name))) {
        match inspector::run(&workspace.root, &image, *cpus, show) {
            Ok((answers, lines)) => {
                write_lines(&logs, test, &lines)?;
                println!("boot {test} ... ok ({answers} answers)");
                count.passed += 1;
            }
            Err(error) => {
                println!("boot {test} ... FAILED: {error:#}");
                count.failed += 1;
            }
        }
    }
    for (test, cpus) in SCREEN.iter().filter(|(test, _)| name.is_none_or(|name| test.contains(name))) {
        match screen::run(&image, *cpus, &logs, show) {
            Ok((answers, lines)) => {
                write_lines(&logs, test, &lines)?;
                println!("boot {test} ... ok ({answers} questions typed)");
                count.passed += 1;
            }
            Err(error) => {
                println!("boot {test} ... FAILED: {error:#}");
                count.failed += 1;
            }
        }
    }
    if name.is_none_or(|name| PLACES.contains(name)) {
        match places::run(&image) {
            Ok((windows, lines)) => {
                write_lines(&logs, PLACES, &lines)?;
                println!("boot {PLACES} ... ok ({windows} windows)");
                count.passed += 1;
            }
            Err(error) => {
                println!("boot {PLACES} ... FAILED: {error:#}");
                count.failed += 1;
            }
        }
    }
    if name.is_none_or(|name| BARE.contains(name)) {
        match screen::run_without(&image, show) {
            Ok(lines) => {
                write_lines(&logs, BARE, &lines)?;
                println!("boot {BARE} ... ok");
                count.passed += 1;
            }
            Err(error) => {
                println!("boot {BARE} ... FAILED: {error:#}");
                count.failed += 1;
            }
        }
    }
    Ok(count)
}

/// Machines with the same seed, with others and with none.
const PLACES: &str = "places-by-seed";
/// A machine with a serial line alone.
const BARE: &str = "inspector-without-screen-and-keyboard";
/// Machines at whose keyboard questions are typed, by name: how many processors each has.
const SCREEN: [(&str, u8); 2] = [("screen-and-keyboard", 1), ("screen-and-keyboard-4-cpus", 4)];
/// Machines whose kernel takes its own defences away, by name: how many processors each has.
const WEAKENED: [(&str, u8); 3] = [("controls", 1), ("controls-2-cpus", 2), ("controls-4-cpus", 4)];

/// Machines whose kernel is asked questions, by name: how many processors each has.
const INSPECTOR: [(&str, u8); 2] = [("inspector", 1), ("inspector-4-cpus", 4)];

/// Runs one boot: how many tests ran inside it and how long it took, or why it is not what it had to be.
fn one(
    workspace: &Workspace,
    image: &Image,
    limine: Option<&Path>,
    boot: &Boot,
    logs: &Path,
    show: bool,
) -> Result<(Count, Duration)> {
    let limine = match boot.loader {
        Loader::Pvh => None,
        _ => Some(limine::directory(limine)?),
    };
    let mut image = image.clone();
    if let Some(damage) = boot.damage {
        let path = logs.join(format!("{}.tar", boot.name));
        module::write_damaged(&image.module, damage, &path)?;
        image.module = path;
    }
    let prepared = boot::prepare(&workspace.root, &image, boot.loader, limine, boot.cmdline)?;
    let picture = (boot.expectation == Expectation::Picture).then(|| logs.join(format!("{}.png", boot.name)));
    if let Some(old) = &picture {
        // Yesterday's picture must not be taken for today's.
        let _ = fs::remove_file(old);
    }
    let machine = Machine {
        medium: prepared.medium.clone(),
        cmdline: boot.cmdline.to_owned(),
        memory: boot.memory,
        cpus: boot.cpus,
        window: false,
        pace: Pace::Fast,
        options: Vec::new(),
    };
    let silence = if boot.expectation == Expectation::Silence { EXPECTED_SILENCE } else { SILENCE };
    let outcome = session::run(
        &machine,
        Wishes {
            limits: Limits { total: Some(TOTAL), silence_at_start: SILENCE, silence: Some(silence) },
            show,
            typing: Typing::No,
            script: None,
            picture: picture.as_deref(),
        },
    )?;
    let log = write_lines(logs, boot.name, &outcome.lines)?;
    let judged = judge(boot.expectation, boot.loader, &outcome).and_then(|inside| {
        picture.as_deref().map_or(Ok(()), picture::check)?;
        Ok(inside)
    });
    match judged {
        Ok(inside) => Ok((inside, outcome.elapsed)),
        Err(reason) => {
            anyhow::bail!("{reason}{}\n  (all of it: {})", outcome.last_lines(), log.display())
        }
    }
}

/// Keeps the serial log, for whoever looks into a failure.
fn write_lines(logs: &Path, name: &str, lines: &[String]) -> Result<PathBuf> {
    let path = logs.join(format!("{name}.log"));
    let mut text = lines.join("\n");
    text.push('\n');
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_files_and_differ() {
        for (index, boot) in BOOTS.iter().enumerate() {
            assert!(boot.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{}", boot.name);
            assert!(BOOTS.iter().skip(index + 1).all(|other| other.name != boot.name), "{}", boot.name);
        }
    }

    #[test]
    fn every_boot_ends_by_itself() {
        for boot in BOOTS {
            let ends = |word: &str| ["demo", "test", "bench", "stress"].iter().any(|begin| word.starts_with(begin));
            let ends = boot.cmdline.split(' ').any(ends);
            assert!(ends, "{}", boot.name);
        }
    }

    #[test]
    fn every_way_to_end_is_seen() {
        for expectation in [
            Expectation::GuestTests,
            Expectation::Figures(BenchRole::Quick),
            Expectation::Figures(BenchRole::Flushes),
            Expectation::Picture,
            Expectation::PanicWithBacktrace,
            Expectation::TripleFault,
            Expectation::Silence,
        ] {
            assert!(BOOTS.iter().any(|boot| boot.expectation == expectation), "{expectation:?}");
        }
    }
}
