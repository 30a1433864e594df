//! What the commands need beyond a Rust toolchain, and how it gets onto the machine.
//!
//! Each command asks for its needs first. What is missing is installed, asked about, or named:
//!
//! ```text
//! nothing missing ───────────────────────────────────────────► go on, without a word
//! Debian or Ubuntu, `--yes` ─────────────────────────────────► install (through sudo if not root)
//! Debian or Ubuntu, on a terminal ──► show the command, ask ─► install, or stop and name it
//! Debian or Ubuntu, no terminal, root ───────────────────────► install
//! anything else ─────────────────────────────────────────────► stop; name the command for each system
//! ```

use std::{
    io::{BufRead as _, IsTerminal as _, Write as _},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{firmware, process, qemu};

/// Something that a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Qemu,
    /// QEMU's window, which some systems package apart from QEMU.
    Window,
    Ovmf,
    Xorriso,
    QemuAarch64,
    QemuRiscv,
    QemuRiscv32,
    Gdb,
    /// Bochs, and its display for terminals, which some systems package apart.
    Bochs,
    /// Assemblers and linkers, under the names that `mmu-check` looks for.
    BinutilsX86,
    BinutilsAarch64,
    BinutilsRiscv,
}

/// A tool of cargo's that a command needs, from the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// Builds and runs fuzz targets.
    CargoFuzz,
    /// Changes one thing after the other, and sees whether a test notices.
    CargoMutants,
}

impl Tool {
    const fn package(self) -> &'static str {
        match self {
            Self::CargoFuzz => "cargo-fuzz",
            Self::CargoMutants => "cargo-mutants",
        }
    }
}

/// Sees to it that a tool is there: it is built from the registry where it is not.
pub(crate) fn ensure_tool(tool: Tool) -> Result<()> {
    let package = tool.package();
    if has_tool(tool) {
        return Ok(());
    }
    let mut command = Command::new("cargo");
    command.args(["install", package, "--locked"]);
    eprintln!("Running: {}", process::shown(&command));
    process::run(&mut command, &format!("installing {package}"))?;
    if !has_tool(tool) {
        bail!("after installing, {package} is still missing: is cargo's bin directory in PATH?");
    }
    Ok(())
}

/// Whether a tool of cargo's is there.
pub(crate) fn has_tool(tool: Tool) -> bool {
    process::find(tool.package()).is_some()
}

/// The name of a nightly toolchain that is installed.
pub(crate) fn nightly() -> Result<String> {
    const MISSING: &str = "there is no nightly toolchain: install it with `rustup toolchain install nightly`";
    let Ok(list) =
        process::output(Command::new("rustup").args(["toolchain", "list"]), "looking for a nightly toolchain")
    else {
        bail!("{MISSING} (there is no rustup either)");
    };
    nightly_of(&list).map(str::to_owned).context(MISSING)
}

/// Whether a component is there in a toolchain, by the name of its program.
pub(crate) fn has_component(toolchain: &str, program: &str) -> bool {
    process::output(Command::new("rustup").args(["which", "--toolchain", toolchain, program]), "looking").is_ok()
}

/// The first nightly toolchain of a list: the current one before those of a day.
fn nightly_of(list: &str) -> Option<&str> {
    let names = || list.lines().filter_map(|line| line.split_ascii_whitespace().next());
    let dated = |name: &str| name.starts_with("nightly-2");
    names().find(|name| name.starts_with("nightly") && !dated(name)).or_else(|| names().find(|name| dated(name)))
}

/// Everything that `cargo xtask test` can use.
pub(crate) const FOR_TESTS: &[Need] = &[Need::Qemu, Need::Gdb, Need::Ovmf, Need::Xorriso];

impl Need {
    fn is_there(self) -> bool {
        match self {
            Self::Qemu => process::find(qemu::PROGRAM).is_some(),
            Self::Window => qemu::has_window(),
            Self::Ovmf => firmware::find().is_some(),
            Self::Xorriso => process::find("xorriso").is_some(),
            Self::QemuAarch64 => process::find("qemu-system-aarch64").is_some(),
            Self::QemuRiscv => process::find("qemu-system-riscv64").is_some(),
            Self::QemuRiscv32 => process::find("qemu-system-riscv32").is_some(),
            Self::Gdb => process::find("gdb").is_some(),
            Self::Bochs => process::find("bochs").is_some(),
            Self::BinutilsX86 => {
                cfg!(target_arch = "x86_64") && cfg!(target_os = "linux") && process::find("ld").is_some()
                    || has_binutils("x86_64")
            }
            Self::BinutilsAarch64 => has_binutils("aarch64"),
            Self::BinutilsRiscv => has_binutils("riscv64"),
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Qemu => "QEMU for x86-64",
            Self::Window => "QEMU's window",
            Self::Ovmf => "OVMF, the firmware for booting by UEFI",
            Self::Xorriso => "xorriso, which makes bootable images",
            Self::QemuAarch64 => "QEMU for AArch64",
            Self::QemuRiscv => "QEMU for RISC-V",
            Self::QemuRiscv32 => "QEMU for 32-bit RISC-V",
            Self::Gdb => "gdb",
            Self::Bochs => "Bochs",
            Self::BinutilsX86 => "an assembler for x86-64",
            Self::BinutilsAarch64 => "an assembler for AArch64",
            Self::BinutilsRiscv => "an assembler for RISC-V",
        }
    }

    /// The package for each of `SYSTEMS`; empty where another need's package brings it.
    fn packages(self) -> [&'static str; 4] {
        match self {
            Self::Qemu => ["qemu-system-x86", "qemu-system-x86-core", "qemu-system-x86", "qemu"],
            Self::Window => ["qemu-system-gui", "qemu-ui-gtk", "qemu-ui-gtk", ""],
            Self::Ovmf => ["ovmf", "edk2-ovmf", "edk2-ovmf", ""],
            Self::Xorriso => ["xorriso", "xorriso", "libisoburn", "xorriso"],
            // Names that Debian's packages provide, whichever of them holds the program in a release.
            Self::QemuAarch64 => ["qemu-system-aarch64", "qemu-system-aarch64-core", "qemu-system-aarch64", "qemu"],
            Self::QemuRiscv => ["qemu-system-riscv64", "qemu-system-riscv-core", "qemu-system-riscv", "qemu"],
            Self::QemuRiscv32 => ["qemu-system-riscv32", "qemu-system-riscv-core", "qemu-system-riscv", "qemu"],
            Self::Gdb => ["gdb", "gdb", "gdb", "x86_64-elf-gdb"],
            // On Debian it brings Bochs itself.
            Self::Bochs => ["bochs-term", "bochs", "bochs", "bochs"],
            Self::BinutilsX86 => {
                ["binutils-x86-64-linux-gnu", "binutils-x86_64-linux-gnu", "binutils", "x86_64-elf-binutils"]
            }
            Self::BinutilsAarch64 => [
                "binutils-aarch64-linux-gnu",
                "binutils-aarch64-linux-gnu",
                "aarch64-linux-gnu-binutils",
                "aarch64-elf-binutils",
            ],
            Self::BinutilsRiscv => [
                "binutils-riscv64-linux-gnu",
                "binutils-riscv64-linux-gnu",
                "riscv64-linux-gnu-binutils",
                "riscv64-elf-binutils",
            ],
        }
    }
}

/// Whether there is an assembler and a linker for an architecture.
fn has_binutils(architecture: &str) -> bool {
    ["linux-gnu", "elf"].iter().any(|system| {
        ["as", "ld"].iter().all(|tool| process::find(&format!("{architecture}-{system}-{tool}")).is_some())
    })
}

/// Systems that the missing packages are named for, and how each installs them.
const SYSTEMS: [(&str, &str); 4] = [
    ("Debian, Ubuntu", "sudo apt-get update && sudo apt-get install --no-install-recommends"),
    ("Fedora", "sudo dnf install"),
    ("Arch", "sudo pacman -S"),
    ("macOS", "brew install"),
];
const DEBIAN: usize = 0;

/// What is known about who asks, and where.
#[derive(Clone, Copy, Debug)]
struct Situation {
    has_apt: bool,
    has_sudo: bool,
    is_root: bool,
    on_terminal: bool,
    yes: bool,
}

impl Situation {
    fn current(yes: bool) -> Self {
        Self {
            has_apt: process::find("apt-get").is_some(),
            has_sudo: process::find("sudo").is_some(),
            is_root: rustix::process::geteuid().is_root(),
            on_terminal: std::io::stdin().is_terminal() && std::io::stderr().is_terminal(),
            yes,
        }
    }
}

/// What to do about something missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Install,
    Ask,
    Name,
}

fn decide(situation: Situation) -> Decision {
    let able = situation.has_apt && (situation.is_root || situation.has_sudo);
    if !able {
        Decision::Name
    } else if situation.yes {
        Decision::Install
    } else if situation.on_terminal {
        Decision::Ask
    } else if situation.is_root {
        Decision::Install
    } else {
        Decision::Name
    }
}

/// `cargo xtask setup`: everything that the tests can use.
pub(crate) fn command(yes: bool) -> Result<()> {
    ensure(FOR_TESTS, yes)?;
    eprintln!("Everything that the tests need is installed.");
    Ok(())
}

/// Sees to it that `needs` are there, or stops with how to get them.
pub(crate) fn ensure(needs: &[Need], yes: bool) -> Result<()> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let situation = Situation::current(yes);
    let commands = debian_commands(&missing, situation.is_root);
    match decide(situation) {
        Decision::Name => bail!("{}", named(&missing)),
        Decision::Ask if !ask(&missing, &commands)? => bail!("{}", named(&missing)),
        Decision::Ask | Decision::Install => install(commands)?,
    }
    let missing = self::missing(needs);
    if !missing.is_empty() {
        bail!("after installing, still missing: {}", descriptions(&missing));
    }
    Ok(())
}

/// Whether a window can be opened, after offering to install what it takes. Never an error: a machine boots without a window too.
pub(crate) fn offer_window(yes: bool) -> bool {
    if Need::Window.is_there() {
        return true;
    }
    let situation = Situation::current(yes);
    if yes || situation.on_terminal {
        match ensure(&[Need::Window], yes) {
            Ok(()) => return true,
            Err(error) => eprintln!("{error:#}"),
        }
    }
    false
}

fn missing(needs: &[Need]) -> Vec<Need> {
    needs.iter().copied().filter(|need| !need.is_there()).collect()
}

fn descriptions(missing: &[Need]) -> String {
    let names: Vec<_> = missing.iter().map(|need| need.description()).collect();
    names.join("; ")
}

/// The packages of one of `SYSTEMS`.
fn packages(missing: &[Need], system: usize) -> Vec<&'static str> {
    let mut packages = Vec::new();
    for package in missing.iter().filter_map(|need| need.packages().get(system).copied()) {
        if !package.is_empty() && !packages.contains(&package) {
            packages.push(package);
        }
    }
    packages
}

/// What is missing, and the command for each system.
fn named(missing: &[Need]) -> String {
    let mut text = format!("missing: {}. Install it with", descriptions(missing));
    for (index, (system, install)) in SYSTEMS.iter().enumerate() {
        let mut packages = packages(missing, index).join(" ");
        if packages.is_empty() {
            // Whatever is asked for comes with QEMU there.
            packages = "qemu".into();
        }
        text.push_str(&format!("\n  {system}: {install} {packages}"));
    }
    text
}

/// The commands that install the missing packages on Debian and Ubuntu.
fn debian_commands(missing: &[Need], is_root: bool) -> [Command; 2] {
    let make = |arguments: &[&str]| {
        let mut command = if is_root {
            let mut command = Command::new("env");
            command.arg("DEBIAN_FRONTEND=noninteractive");
            command
        } else {
            let mut command = Command::new("sudo");
            command.args(["env", "DEBIAN_FRONTEND=noninteractive"]);
            command
        };
        command.arg("apt-get").args(arguments);
        command
    };
    let mut install = vec!["install", "--no-install-recommends", "-y"];
    install.extend(packages(missing, DEBIAN));
    [make(&["update"]), make(&install)]
}

fn ask(missing: &[Need], commands: &[Command; 2]) -> Result<bool> {
    eprintln!("Missing: {}. To install it:", descriptions(missing));
    for command in commands {
        eprintln!("  {}", process::shown(command));
    }
    eprint!("Run these now? [Y/n] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    let length = std::io::stdin().lock().read_line(&mut answer).context("reading the answer")?;
    Ok(length > 0 && is_yes(&answer))
}

/// Yes unless the answer says no.
fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes")
}

fn install(commands: [Command; 2]) -> Result<()> {
    for mut command in commands {
        eprintln!("Running: {}", process::shown(&command));
        process::run(&mut command, "installing what is missing")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: Situation = Situation { has_apt: true, has_sudo: true, is_root: false, on_terminal: false, yes: false };

    #[test]
    fn the_current_nightly_comes_first() {
        let list = "stable-x86_64-unknown-linux-gnu (active, default)\nnightly-2025-01-01-x86_64\nnightly-x86_64\n";
        assert_eq!(nightly_of(list), Some("nightly-x86_64"));
        assert_eq!(nightly_of("nightly-2025-01-01-x86_64"), Some("nightly-2025-01-01-x86_64"));
        assert_eq!(nightly_of("stable-x86_64"), None);
    }

    #[test]
    fn a_terminal_is_asked() {
        assert_eq!(decide(Situation { on_terminal: true, ..USER }), Decision::Ask);
        assert_eq!(decide(Situation { on_terminal: true, is_root: true, ..USER }), Decision::Ask);
    }

    #[test]
    fn root_without_a_terminal_and_yes_install() {
        assert_eq!(decide(Situation { is_root: true, has_sudo: false, ..USER }), Decision::Install);
        assert_eq!(decide(Situation { yes: true, ..USER }), Decision::Install);
        assert_eq!(decide(Situation { yes: true, on_terminal: true, ..USER }), Decision::Install);
    }

    #[test]
    fn whoever_cannot_install_is_told_how() {
        assert_eq!(decide(USER), Decision::Name);
        assert_eq!(decide(Situation { yes: true, has_sudo: false, ..USER }), Decision::Name);
        assert_eq!(decide(Situation { yes: true, is_root: true, has_apt: false, ..USER }), Decision::Name);
        let text = named(&[Need::Qemu, Need::Ovmf]);
        for part in [
            "Debian, Ubuntu: sudo apt-get update && sudo apt-get install --no-install-recommends qemu-system-x86 ovmf",
            "Fedora: sudo dnf install qemu-system-x86-core edk2-ovmf",
            "Arch: sudo pacman -S qemu-system-x86 edk2-ovmf",
            "macOS: brew install qemu",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_package_that_serves_two_needs_is_named_once() {
        let text = named(&[Need::Qemu, Need::QemuAarch64, Need::QemuRiscv, Need::BinutilsRiscv]);
        for part in [
            "qemu-system-x86 qemu-system-aarch64 qemu-system-riscv64 binutils-riscv64-linux-gnu\n",
            "macOS: brew install qemu riscv64-elf-binutils",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn the_package_lists_are_refreshed_first() {
        let [update, install] = debian_commands(&[Need::Xorriso], true);
        assert_eq!(process::shown(&update), "env DEBIAN_FRONTEND=noninteractive apt-get update");
        assert_eq!(
            process::shown(&install),
            "env DEBIAN_FRONTEND=noninteractive apt-get install --no-install-recommends -y xorriso"
        );
        let [update, _] = debian_commands(&[Need::Xorriso], false);
        assert!(process::shown(&update).starts_with("sudo env "));
    }

    #[test]
    fn yes_is_the_default_answer() {
        assert!(is_yes("\n") && is_yes("Y\n") && is_yes(" yes \n"));
        assert!(!is_yes("n\n") && !is_yes("what?\n"));
    }
}
