//! Firmware for booting by UEFI: the OVMF images, wherever the system's package puts them.

use std::path::{Path, PathBuf};

/// The code, which is only read, and the template for the variables, which a machine gets a copy of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Firmware {
    pub(crate) code: PathBuf,
    pub(crate) variables: PathBuf,
}

/// Code and variables, by system.
const PLACES: &[(&str, &str)] = &[
    // Debian, Ubuntu
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    // Fedora
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    // Arch
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    // Homebrew, on Apple's own processors and on Intel's; part of QEMU's package
    ("/opt/homebrew/share/qemu/edk2-x86_64-code.fd", "/opt/homebrew/share/qemu/edk2-i386-vars.fd"),
    ("/usr/local/share/qemu/edk2-x86_64-code.fd", "/usr/local/share/qemu/edk2-i386-vars.fd"),
];

/// The first of the known places where both files are.
pub(crate) fn find() -> Option<Firmware> {
    PLACES
        .iter()
        .map(|(code, variables)| Firmware { code: code.into(), variables: variables.into() })
        .find(|firmware| is_file(&firmware.code) && is_file(&firmware.variables))
}

fn is_file(path: &Path) -> bool {
    path.is_file()
}
