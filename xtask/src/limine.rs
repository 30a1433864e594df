//! A bootable image with the Limine bootloader, for BIOS and UEFI.
//!
//! Limine's binaries come from no package registry, so they are not part of this repository: the caller names the directory that holds
//! them. Booted as a CD they need no installation: the firmware finds the boot image in the El Torito catalogue, and Limine finds its
//! configuration in the image's root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{build::Image, process};

/// What of Limine's release goes into the image.
const FILES: [&str; 3] = ["limine-bios-cd.bin", "limine-bios.sys", "limine-uefi-cd.bin"];

/// The directory with Limine's binaries, or how to get them.
pub(crate) fn directory(given: Option<&Path>) -> Result<&Path> {
    const SOURCE: &str = "Limine's binary release (version 8 or later: `git clone --depth 1 --branch v8.x-binary https://github.com/limine-bootloader/limine`)";
    // A variable that is set to nothing is not set.
    let Some(directory) = given.filter(|directory| !directory.as_os_str().is_empty()) else {
        bail!("this loader needs {SOURCE}; name its directory with `--limine DIR` or `LIMINE_DIR`");
    };
    for file in FILES {
        if !directory.join(file).is_file() {
            bail!("{} has no `{file}`; it must be the directory of {SOURCE}", directory.display());
        }
    }
    Ok(directory)
}

/// Makes the image `target/boot/refkernel.iso` and returns its path.
pub(crate) fn image(root: &Path, limine: &Path, image: &Image, cmdline: &str) -> Result<PathBuf> {
    let configuration = configuration(cmdline)?;
    let tree = tempfile::tempdir().context("making a directory for the image's files")?;
    let place = |from: &Path, to: &str| {
        fs::copy(from, tree.path().join(to)).with_context(|| format!("copying {} into the image", from.display()))
    };
    for file in FILES {
        place(&limine.join(file), file)?;
    }
    place(&image.kernel, "refkernel")?;
    place(&image.module, "module.tar")?;
    fs::write(tree.path().join("limine.conf"), configuration).context("writing Limine's configuration")?;

    let directory = root.join("target/boot");
    fs::create_dir_all(&directory).with_context(|| format!("making the directory {}", directory.display()))?;
    let iso = directory.join("refkernel.iso");
    process::output(
        Command::new("xorriso")
            .args(["-as", "mkisofs", "-quiet", "-R", "-J", "-b", "limine-bios-cd.bin"])
            .args(["-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"])
            .args(["--efi-boot", "limine-uefi-cd.bin", "-efi-boot-part", "--efi-boot-image"])
            .arg("--protective-msdos-label")
            .arg(tree.path())
            .arg("-o")
            .arg(&iso),
        "making the bootable image",
    )?;
    Ok(iso)
}

/// Limine's configuration: no menu, one entry.
fn configuration(cmdline: &str) -> Result<String> {
    if cmdline.contains(|c: char| c.is_control()) || cmdline.contains("${") {
        bail!(
            "the kernel's command line {cmdline:?} cannot be written into Limine's configuration; leave out control characters and `${{`"
        );
    }
    // Version 8 calls the kernel's path `kernel_path`, later versions `path`; what a version does not know it ignores.
    Ok(format!(
        "timeout: 0\nquiet: yes\n\n/refkernel\n    protocol: limine\n    kernel_path: boot():/refkernel\n    path: boot():/refkernel\n    cmdline: {cmdline}\n    module_path: boot():/module.tar\n    module_cmdline: module\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_binaries_are_named_with_their_source() {
        let error = directory(None).unwrap_err().to_string();
        assert!(error.contains("v8.x-binary") && error.contains("LIMINE_DIR"), "{error}");
        assert!(directory(Some(Path::new(""))).unwrap_err().to_string().contains("LIMINE_DIR"));
        let empty = tempfile::tempdir().unwrap();
        let error = directory(Some(empty.path())).unwrap_err().to_string();
        assert!(error.contains("has no `limine-bios-cd.bin`"), "{error}");
    }

    #[test]
    fn the_command_line_cannot_add_lines_to_the_configuration() {
        assert!(configuration("demo hold").unwrap().contains("\n    cmdline: demo hold\n"));
        assert!(configuration("demo\n/evil").is_err());
        assert!(configuration("${ARCH}").is_err());
    }
}
