//! Building the kernel and its programs: one package at a time, for the guest, with flags of their own.
//!
//! Built together, host and guest packages would have their features unified and flags in the environment would leak into the guest. So
//! every build names one package and one target, has a target directory of its own, and sets its flags outright.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    module, process, symbols,
    workspace::{KERNEL, Workspace, cargo},
};

/// The target that is preferred where it is installed: no operating system at all.
const BARE: &str = "x86_64-unknown-none";
/// The target that does as well: every link argument is given by the packages themselves.
const HOSTED: &str = "x86_64-unknown-linux-gnu";

/// What runs inside the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guest {
    Kernel,
    Program,
    /// A program whose source is measured on Linux too, built for that.
    LinuxProgram,
}

impl Guest {
    /// The compiler's flags.
    fn flags(self) -> Vec<&'static str> {
        let mut flags = vec![
            "-Ctarget-cpu=x86-64",
            "-Crelocation-model=static",
            "-Cno-redzone=yes",
            "-Cforce-frame-pointers=yes",
            "-Cpanic=abort",
        ];
        match self {
            // The kernel lives in the topmost 2 GiB.
            Self::Kernel => flags.push("-Ccode-model=kernel"),
            // Programs travel in the boot module, which takes the machine's memory.
            Self::Program | Self::LinuxProgram => flags.push("-Cstrip=debuginfo"),
        }
        flags
    }

    fn directory(self) -> &'static str {
        match self {
            Self::Kernel => "target/kernel",
            Self::Program => "target/programs",
            // The same package with another feature: it must not take the other one's place.
            Self::LinuxProgram => "target/linux",
        }
    }
}

/// Optimised or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Optimised,
    Debug,
}

impl Profile {
    fn directory(self) -> &'static str {
        match self {
            Self::Optimised => "release",
            Self::Debug => "debug",
        }
    }
}

/// What a machine is booted with.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) kernel: PathBuf,
    pub(crate) module: PathBuf,
}

/// `cargo xtask build`.
pub(crate) fn command(debug: bool) -> Result<()> {
    let profile = if debug { Profile::Debug } else { Profile::Optimised };
    let image = image(&Workspace::load()?, profile)?;
    eprintln!("Kernel: {}", image.kernel.display());
    eprintln!("Boot module: {}", image.module.display());
    Ok(())
}

/// The name of the file of [`weakened`].
const WEAKENED: &str = "target/boot/refkernel-weakened";

/// Builds the kernel that can take its own defences away, for the controls of the table of attacks. Before [`image`], which puts the kernel that cannot into its place: the two have the same name and
/// differ in one feature, so that what they depend on is built once.
pub(crate) fn weakened(workspace: &Workspace) -> Result<PathBuf> {
    let target = guest_target()?;
    let mut command = guest_cargo(&workspace.root, Guest::Kernel, "build", target);
    command.args(["--package", KERNEL, "--bin", KERNEL, "--features", "planted-weakness"]);
    finish(command, Profile::Optimised, "building the weakened kernel")?;
    let directory = workspace.root.join(Guest::Kernel.directory()).join(target);
    let built = directory.join(Profile::Optimised.directory()).join(KERNEL);
    let copy = workspace.root.join(WEAKENED);
    std::fs::create_dir_all(copy.parent().unwrap_or(&workspace.root)).context("making the directory of the boot")?;
    std::fs::copy(&built, &copy).with_context(|| format!("copying {}", built.display()))?;
    Ok(copy)
}

/// Builds the kernel, its programs and the boot module.
pub(crate) fn image(workspace: &Workspace, profile: Profile) -> Result<Image> {
    if !workspace.has_kernel() {
        bail!("there is no kernel to build: this workspace has no package `{KERNEL}`");
    }
    let target = guest_target()?;
    let built = |guest: Guest, name: &str| {
        workspace.root.join(guest.directory()).join(target).join(profile.directory()).join(name)
    };

    let mut command = guest_cargo(&workspace.root, Guest::Kernel, "build", target);
    command.args(["--package", KERNEL, "--bin", KERNEL]);
    finish(command, profile, "building the kernel")?;
    let kernel = built(Guest::Kernel, KERNEL);

    let mut entries = Vec::new();
    for program in workspace.programs() {
        let name = &program.name;
        let mut command = guest_cargo(&workspace.root, Guest::Program, "build", target);
        command.args(["--package", name, "--bin", name]);
        finish(command, profile, &format!("building the program {name}"))?;
        entries.push((format!("programs/{name}"), read(&built(Guest::Program, name))?));
    }
    let symbols = symbols::table(&read(&kernel)?)?;
    entries.push(("symbols".to_owned(), symbols.into_bytes()));

    let directory = workspace.root.join("target/boot");
    std::fs::create_dir_all(&directory).with_context(|| format!("making the directory {}", directory.display()))?;
    let module = directory.join("module.tar");
    module::write(&module, entries.iter().map(|(name, contents)| (name.clone(), contents.as_slice())))?;
    Ok(Image { kernel, module })
}

/// Builds the bench program for Linux, and gives its file.
pub(crate) fn linux_bench(workspace: &Workspace) -> Result<PathBuf> {
    const NAME: &str = "bench";
    let target = guest_target()?;
    let mut command = guest_cargo(&workspace.root, Guest::LinuxProgram, "build", target);
    command.args(["--package", NAME, "--bin", NAME, "--features", "linux"]);
    finish(command, Profile::Optimised, "building the program bench for Linux")?;
    let directory = workspace.root.join(Guest::LinuxProgram.directory());
    Ok(directory.join(target).join(Profile::Optimised.directory()).join(NAME))
}

/// A `cargo SUBCOMMAND` for a guest package; the caller names the package.
pub(crate) fn guest_cargo(root: &Path, guest: Guest, subcommand: &str, target: &str) -> Command {
    let mut command = cargo(root);
    command
        .args([subcommand, "--target", target, "--target-dir"])
        .arg(root.join(guest.directory()))
        .env("CARGO_ENCODED_RUSTFLAGS", guest.flags().join("\x1f"))
        // A wrapper or a profile from the environment is meant for the host.
        .env_remove("CARGO_BUILD_TARGET");
    if guest == Guest::Kernel {
        // A debugger looks into its structures; loaders leave that part of the file where it is.
        command.env("CARGO_PROFILE_RELEASE_DEBUG", "full");
        command.env("CARGO_PROFILE_RELEASE_LTO", "fat");
        command.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1");
    }
    command
}

/// The target that guest packages are built for: the bare one where it is installed, else the host's own.
pub(crate) fn guest_target() -> Result<&'static str> {
    if is_installed(BARE) {
        return Ok(BARE);
    }
    if is_installed(HOSTED) {
        return Ok(HOSTED);
    }
    bail!("the kernel needs a compiler for x86-64; install the target with `rustup target add {BARE}`")
}

/// Whether the compiler has a `core` for `target`.
fn is_installed(target: &str) -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    process::output(
        Command::new(rustc).args(["--print", "target-libdir", "--target", target]),
        "asking the compiler for its targets",
    )
    .is_ok_and(|directory| {
        std::fs::read_dir(directory.trim_end())
            .is_ok_and(|files| files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libcore-")))
    })
}

fn finish(mut command: Command, profile: Profile, purpose: &str) -> Result<()> {
    if profile == Profile::Optimised {
        command.arg("--release");
    }
    process::run(&mut command, purpose)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_guest_are_set_outright() {
        let command = guest_cargo(Path::new("/w"), Guest::Program, "build", HOSTED);
        let flags = command
            .get_envs()
            .find(|(name, _)| *name == "CARGO_ENCODED_RUSTFLAGS")
            .and_then(|(_, value)| value)
            .unwrap()
            .to_string_lossy()
            .into_owned();
        assert!(flags.split('\x1f').any(|flag| flag == "-Cno-redzone=yes"));
        assert!(!flags.contains("code-model"));
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(arguments, ["build", "--target", HOSTED, "--target-dir", "/w/target/programs"]);
    }

    #[test]
    fn a_target_without_core_is_not_installed() {
        assert!(!is_installed("no-such-target"));
    }
}
