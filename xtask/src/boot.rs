//! `cargo xtask boot`: builds the kernel and boots it; succeeds only if the kernel says so.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, Image, Profile},
    end::End,
    firmware, limine,
    qemu::{self, Loader, Machine, Medium, Memory, Pace},
    session::{self, Limits, Script, Typing, Wishes},
    setup::{self, Need},
    workspace::Workspace,
};

/// How long a boot without a window may take in all, if nothing else is said.
const TOTAL: Duration = Duration::from_secs(120);
/// How long nothing may come on the serial line. Firmware and a machine under load are slow, but not this slow.
const SILENCE: Duration = Duration::from_secs(60);

/// Boot the kernel under QEMU, with its serial line on the terminal
///
/// Succeeds only if the kernel reports success through QEMU's exit device. A triple fault, a closed window, a time limit and silence are
/// failures, shown with the last lines of the serial log.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Boot without a window, and power off after the demo
    ///
    /// This is also what happens where there is no display.
    #[arg(long)]
    headless: bool,
    /// The way into the kernel
    #[arg(long, value_enum, default_value_t)]
    loader: Loader,
    /// The directory with Limine's binary release, for the Limine loaders
    #[arg(long, value_name = "DIR", env = "LIMINE_DIR")]
    limine: Option<PathBuf>,
    /// How many processors the machine has
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    cpus: u8,
    /// How much memory the machine has, such as 64M or 4G
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    memory: Memory,
    /// The kernel's command line, such as `demo`, `test` or `seed=7`
    #[arg(long, value_name = "TEXT", default_value = "")]
    cmdline: String,
    /// End the run as a failure after this time [default: 120 without a window, none with one]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86400))]
    timeout: Option<u64>,
    /// Ask the running kernel: its prompt on this terminal; `help` lists the questions, Ctrl-A x leaves
    ///
    /// In a window the prompt is on the machine's screen as well, and takes what is typed at its keyboard. What is piped in is asked line by line.
    #[arg(long, conflicts_with = "screenshot")]
    inspect: bool,
    /// Write what the screen shows when the demo is done, then power off
    #[arg(long, value_name = "FILE.png")]
    screenshot: Option<PathBuf>,
    /// Build without optimisation
    #[arg(long)]
    debug: bool,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
    /// Further options for QEMU, such as `-s -S` to wait for a debugger
    #[arg(last = true, value_name = "QEMU-OPTION")]
    qemu: Vec<String>,
}

/// `cargo xtask boot`.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    let picture = arguments.screenshot.as_deref().map(picture_path).transpose()?;
    if arguments.loader != Loader::Pvh {
        limine::directory(arguments.limine.as_deref())?;
    }
    setup::ensure(needs(arguments.loader), arguments.yes)?;
    let window = !arguments.headless && can_show_window(arguments.yes);

    let workspace = Workspace::load()?;
    let profile = if arguments.debug { Profile::Debug } else { Profile::Optimised };
    let image = build::image(&workspace, profile)?;
    let cmdline = if arguments.inspect {
        format!("{} inspect", arguments.cmdline).trim_start().to_owned()
    } else {
        cmdline(&arguments.cmdline, !window, picture.is_some())
    };
    let prepared = prepare(&workspace.root, &image, arguments.loader, arguments.limine.as_deref(), &cmdline)?;
    let machine = Machine {
        medium: prepared.medium.clone(),
        cmdline,
        memory: arguments.memory,
        cpus: arguments.cpus,
        window,
        pace: Pace::Fast,
        options: arguments.qemu.clone(),
    };
    eprintln!(
        "Booting: loader {}, {} of memory, {} CPU{}, command line `{}`",
        arguments.loader,
        machine.memory,
        machine.cpus,
        if machine.cpus == 1 { "" } else { "s" },
        machine.cmdline
    );
    // A person takes as long as it takes.
    let watched = !window && !arguments.inspect;
    let total = arguments.timeout.map(Duration::from_secs).or(watched.then_some(TOTAL));
    let piped = arguments.inspect && !std::io::stdin().is_terminal();
    let questions = if piped { piped_questions()? } else { Vec::new() };
    let typing = if piped {
        Typing::No
    } else if arguments.inspect {
        Typing::Keys
    } else if !arguments.headless && std::io::stdin().is_terminal() {
        Typing::Lines
    } else {
        Typing::No
    };
    let outcome = session::run(
        &machine,
        Wishes {
            limits: Limits { total, silence_at_start: SILENCE, silence: watched.then_some(SILENCE) },
            show: true,
            typing,
            script: piped.then_some(Script::new(&questions)),
            picture: picture.as_deref(),
        },
    )?;
    if arguments.inspect && outcome.end == End::Left {
        eprintln!("\nLeft.");
        return Ok(());
    }
    if !outcome.end.is_success() {
        bail!("{}{}", outcome.end, outcome.last_lines());
    }
    if let Some(file) = &picture {
        if let Err(reason) = &outcome.picture {
            bail!("{reason}{}", outcome.last_lines());
        }
        eprintln!("Wrote {}", file.display());
    }
    eprintln!("The kernel reported success, {:.2} s after QEMU's start.", outcome.elapsed.as_secs_f64());
    Ok(())
}

/// The lines of standard input: what is asked where no person is.
fn piped_questions() -> Result<Vec<String>> {
    let text = std::io::read_to_string(std::io::stdin()).context("reading the questions from standard input")?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// What a loader needs on the machine.
pub(crate) fn needs(loader: Loader) -> &'static [Need] {
    match loader {
        Loader::Pvh => &[Need::Qemu],
        Loader::LimineBios => &[Need::Qemu, Need::Xorriso],
        Loader::LimineUefi => &[Need::Qemu, Need::Xorriso, Need::Ovmf],
    }
}

/// A medium, with the files that live as long as it does.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) medium: Medium,
    _directory: Option<tempfile::TempDir>,
}

/// Makes what the machine boots from.
pub(crate) fn prepare(
    root: &Path,
    image: &Image,
    loader: Loader,
    limine: Option<&Path>,
    cmdline: &str,
) -> Result<Prepared> {
    if loader == Loader::Pvh {
        return Ok(Prepared { medium: Medium::Direct(image.clone()), _directory: None });
    }
    let iso = limine::image(root, limine::directory(limine)?, image, cmdline)?;
    if loader == Loader::LimineBios {
        return Ok(Prepared { medium: Medium::Cd(iso), _directory: None });
    }
    let firmware = firmware::find().context("OVMF is not where it is looked for")?;
    let directory = tempfile::tempdir().context("making a directory for the firmware")?;
    let variables = directory.path().join("variables.fd");
    // Written anew rather than copied, so that a read-only template does not make a read-only copy.
    std::fs::read(&firmware.variables)
        .and_then(|contents| std::fs::write(&variables, contents))
        .with_context(|| format!("copying {}", firmware.variables.display()))?;
    Ok(Prepared { medium: Medium::CdByUefi { iso, code: firmware.code, variables }, _directory: Some(directory) })
}

/// Whether a window can be shown; says why not.
fn can_show_window(yes: bool) -> bool {
    if !qemu::has_display() {
        eprintln!("There is no display: booting without a window.");
        return false;
    }
    if !setup::offer_window(yes) {
        eprintln!("QEMU has no window module: booting without a window.");
        return false;
    }
    true
}

/// The kernel's command line: without a window nobody could answer a prompt, so the kernel must end by itself.
fn cmdline(given: &str, headless: bool, picture: bool) -> String {
    let mut words: Vec<&str> = given.split_whitespace().collect();
    let ends = |word: &&str| {
        matches!(*word, "demo" | "test" | "bench" | "hold" | "stress")
            || ["test=", "bench=", "stress="].iter().any(|begin| word.starts_with(begin))
    };
    if picture {
        for word in ["demo", "hold"] {
            if !words.contains(&word) {
                words.push(word);
            }
        }
    } else if headless && !words.iter().any(ends) {
        words.push("demo");
    }
    words.join(" ")
}

/// Where QEMU, which works in a directory of its own choosing, is to write the picture.
fn picture_path(given: &Path) -> Result<PathBuf> {
    if given.extension().is_none_or(|extension| extension != "png") {
        bail!("`--screenshot {}` does not end in `.png`, the only format that is written", given.display());
    }
    let path = std::path::absolute(given).with_context(|| format!("`--screenshot {}`", given.display()))?;
    if !path.parent().is_some_and(Path::is_dir) {
        bail!("the directory of `--screenshot {}` does not exist", given.display());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_a_window_is_told_to_end() {
        assert_eq!(cmdline("", true, false), "demo");
        assert_eq!(cmdline("seed=7", true, false), "seed=7 demo");
        assert_eq!(cmdline("test", true, false), "test");
        assert_eq!(cmdline("test=panic", true, false), "test=panic");
        assert_eq!(cmdline("stress=5 seed=7", true, false), "stress=5 seed=7");
        assert_eq!(cmdline("", false, false), "");
    }

    #[test]
    fn a_picture_is_taken_of_a_demo_that_holds() {
        assert_eq!(cmdline("", true, true), "demo hold");
        assert_eq!(cmdline("hold seed=1", false, true), "hold seed=1 demo");
    }

    #[test]
    fn a_picture_goes_to_a_png_in_a_directory_that_exists() {
        assert!(picture_path(Path::new("shot.png")).unwrap().is_absolute());
        assert!(picture_path(Path::new("shot.jpg")).is_err());
        assert!(picture_path(Path::new("no/such/directory/shot.png")).is_err());
    }
}
