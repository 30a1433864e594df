//! Debian's own kernel: had from its package, and booted with the same program as its first process.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use refkernel_abi::roles::BenchRole;

use super::{figures::Figure, initramfs};
use crate::{
    build::{self, Image},
    process,
    qemu::Medium,
    workspace::Workspace,
};

/// The package that stands for the newest kernel of Debian's release, of the flavour for virtual machines.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// What Linux is told. Pages of 4 KiB only, as the rows are about such pages; everything else is as Debian has it. A panic ends the machine.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 transparent_hugepage=never";

/// What one run gave.
#[derive(Clone, Debug)]
pub(crate) struct Linux {
    pub(crate) figures: Vec<Figure>,
    /// What it says about itself: name and value.
    pub(crate) description: Vec<(String, String)>,
}

impl Linux {
    /// Its name, for the head of a column.
    pub(crate) fn name(&self) -> String {
        let said =
            |wanted: &str| self.description.iter().find(|(what, _)| what == wanted).map(|(_, value)| value.as_str());
        // `#1 SMP Debian 6.1.192-2 (2026-11-16)` names the source; the release (`6.1.0-56-cloud-amd64`) only what modules it takes.
        let source = said("version").and_then(|version| version.split_once("Debian ")).map(|(_, source)| source);
        let version =
            source.or(said("release")).and_then(|version| version.split(['-', ' ']).next()).unwrap_or_default();
        format!("Linux {version}").trim_end().to_owned()
    }
}

/// Builds what Linux is booted with. `kernel` is a kernel's file; without it, Debian's package is used.
pub(crate) fn prepare(workspace: &Workspace, kernel: Option<&Path>) -> Result<Image> {
    let directory = workspace.root.join("target/linux");
    let kernel = match kernel {
        // A path that a machine started elsewhere finds too, or a word why not.
        Some(kernel) => fs::canonicalize(kernel).with_context(|| format!("there is no file {}", kernel.display()))?,
        None => unpacked(&directory.join("kernel"))?,
    };
    let program = build::linux_bench(workspace)?;
    let program = fs::read(&program).with_context(|| format!("reading {}", program.display()))?;
    let module = directory.join("initramfs.cpio");
    fs::write(&module, initramfs::archive(&program)).with_context(|| format!("writing {}", module.display()))?;
    Ok(Image { kernel, module })
}

/// Runs a part of the program.
pub(crate) fn measure(image: Image, role: BenchRole, show: bool) -> Result<Linux> {
    let cmdline = match role.word() {
        "" => COMMAND_LINE.to_owned(),
        // Behind two dashes it is the first process's.
        word => format!("{COMMAND_LINE} -- {word}"),
    };
    let outcome = super::run(Medium::Direct(image), cmdline, 1, show)?;
    let description = outcome.lines.iter().filter_map(|line| described(line)).collect();
    Ok(Linux { figures: super::figures(role, &outcome)?, description })
}

/// Reads `linux WHAT: VALUE`.
fn described(line: &str) -> Option<(String, String)> {
    let (what, value) = line.strip_prefix("linux ")?.split_once(": ")?;
    Some((what.to_owned(), value.to_owned()))
}

/// The file of the kernel in Debian's package, which is had and unpacked into `directory` unless it is there.
fn unpacked(directory: &Path) -> Result<PathBuf> {
    if let Some(kernel) = kernel_in(directory) {
        return Ok(kernel);
    }
    for program in ["apt-get", "apt-cache", "dpkg-deb"] {
        if process::find(program).is_none() {
            bail!("{program} is not there, with which Debian's package is had");
        }
    }
    fs::create_dir_all(directory).with_context(|| format!("making the directory {}", directory.display()))?;
    let package = match download(directory) {
        Ok(package) => package,
        Err(_) => {
            // The lists may be older than the archive.
            eprintln!("Asking Debian's archive for its newest kernel.");
            process::output(Command::new("apt-get").args(["-qq", "update"]), "asking for the lists of packages")?;
            download(directory)?
        }
    };
    process::run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(directory), "unpacking the kernel's package")?;
    let _ = fs::remove_file(&package);
    kernel_in(directory).context("there is no kernel in its package")
}

/// Has the package that `PACKAGE` stands for, and gives its file.
fn download(directory: &Path) -> Result<PathBuf> {
    let depends = process::output(Command::new("apt-cache").args(["depends", PACKAGE]), "looking for the package")?;
    let name = dependency(&depends).with_context(|| format!("no package {PACKAGE} is known"))?;
    eprintln!("Downloading Debian's package {name}.");
    process::output(Command::new("apt-get").args(["-qq", "download", name]).current_dir(directory), "downloading it")?;
    find(directory, |file| file.starts_with("linux-image-") && file.ends_with(".deb")).context("no package came")
}

/// The kernel's own package, of those that the other one depends on.
fn dependency(depends: &str) -> Option<&str> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
}

fn kernel_in(directory: &Path) -> Option<PathBuf> {
    find(&directory.join("boot"), |file| file.starts_with("vmlinuz-"))
}

/// The last file of a directory, by name, that is wanted.
fn find(directory: &Path, wanted: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let files = fs::read_dir(directory).ok()?.flatten();
    files.filter(|file| wanted(&file.file_name().to_string_lossy())).map(|file| file.path()).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_package_is_found() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-base\n  Depends: linux-image-6.1.0-56-cloud-amd64\n  Suggests: x\n";
        assert_eq!(dependency(text), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(dependency("linux-image-cloud-amd64\n"), None);
    }

    #[test]
    fn what_linux_says_of_itself_is_read() {
        let line = |line| described(line);
        assert_eq!(line("linux release: 6.1.0-56-cloud"), Some(("release".into(), "6.1.0-56-cloud".into())));
        assert_eq!(line("[    0.1] linux: x"), None);
        let name = |description: &[(&str, &str)]| {
            let description = description.iter().map(|(what, value)| (what.to_string(), value.to_string())).collect();
            Linux { figures: Vec::new(), description }.name()
        };
        let release = ("release", "6.1.0-56-cloud");
        assert_eq!(name(&[release, ("version", "#1 SMP Debian 6.1.192-2 (2026-11-16)")]), "Linux 6.1.192");
        assert_eq!(name(&[release, ("version", "#1 SMP")]), "Linux 6.1.0");
        assert_eq!(name(&[]), "Linux");
    }
}
