//! QEMU's command line for one machine.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    str::FromStr,
};

use crate::build::Image;

/// The emulator.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// The way into the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Loader {
    /// QEMU itself, through the kernel's PVH note; needs nothing else
    #[default]
    Pvh,
    /// The Limine bootloader, started by a BIOS
    LimineBios,
    /// The Limine bootloader, started by UEFI firmware
    LimineUefi,
}

impl std::fmt::Display for Loader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Pvh => "pvh",
            Self::LimineBios => "limine-bios",
            Self::LimineUefi => "limine-uefi",
        })
    }
}

/// An amount of memory in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory(pub(crate) u32);

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an amount of memory: give MiB or GiB, such as 256M or 4G, up to 1024G");
        let (digits, factor) = match text.char_indices().next_back() {
            Some((end, 'M' | 'm')) => (&text[..end], 1),
            Some((end, 'G' | 'g')) => (&text[..end], 1024),
            // QEMU's own reading of a plain number.
            _ => (text, 1),
        };
        match digits.parse::<u32>().ok().and_then(|n| n.checked_mul(factor)) {
            Some(size @ 1..=0x10_0000) => Ok(Self(size)),
            _ => Err(wrong()),
        }
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_multiple_of(1024) {
            write!(formatter, "{}G", self.0 / 1024)
        } else {
            write!(formatter, "{}M", self.0)
        }
    }
}

/// How the processor is emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As fast as it goes.
    Fast,
    /// One nanosecond of guest time per instruction, so that the time-stamp counter counts instructions. Repeated string instructions are
    /// emulated byte by byte and would be counted so; without `erms` and `fsrm` a guest does not choose them.
    Counted,
}

/// What the machine is booted from.
#[derive(Clone, Debug)]
pub(crate) enum Medium {
    Direct(Image),
    Cd(PathBuf),
    /// The variables are this machine's own copy.
    CdByUefi {
        iso: PathBuf,
        code: PathBuf,
        variables: PathBuf,
    },
}

/// One machine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) medium: Medium,
    /// Used when booted directly; an image has it in its configuration.
    pub(crate) cmdline: String,
    pub(crate) memory: Memory,
    pub(crate) cpus: u8,
    pub(crate) window: bool,
    pub(crate) pace: Pace,
    /// Further options, for whoever looks into the kernel.
    pub(crate) options: Vec<String>,
}

impl Machine {
    /// One of 256 MiB that boots `image` directly, as fast as it goes, without a window.
    pub(crate) fn direct(image: &Image, cpus: u8, cmdline: String) -> Self {
        Self {
            medium: Medium::Direct(image.clone()),
            cmdline,
            memory: Memory(256),
            cpus,
            window: false,
            pace: Pace::Fast,
            options: Vec::new(),
        }
    }

    /// QEMU with this machine: serial line on standard input and output, control channel on the socket `qmp`.
    pub(crate) fn command(&self, qmp: &Path) -> Command {
        let mut command = Command::new(PROGRAM);
        // No configuration of the user's and no devices but those that are named.
        command.args(["-nodefaults", "-no-user-config", "-machine", "pc"]);
        match self.pace {
            Pace::Fast => command.args(["-accel", "tcg", "-cpu", "max"]),
            Pace::Counted => command
                .args(["-accel", "tcg,thread=single"])
                .args(["-icount", "shift=0,sleep=off"])
                .args(["-cpu", "max,-erms,-fsrm"]),
        };
        command
            .args(["-m", &format!("{}M", self.memory.0)])
            .args(["-smp", &self.cpus.to_string()])
            .args(["-vga", "std", "-nic", "none", "-no-reboot"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
            .args(["-serial", "stdio"])
            .args(["-qmp", &format!("unix:{}", option_value(qmp))]);
        if !self.window {
            command.args(["-display", "none"]);
        }
        match &self.medium {
            Medium::Direct(image) => {
                command.arg("-kernel").arg(&image.kernel);
                // Unlike an option's value, this one is a list separated by commas.
                command.arg("-initrd").arg(option_value(&image.module));
                command.args(["-append", &self.cmdline]);
            }
            Medium::Cd(iso) => {
                command.arg("-cdrom").arg(iso);
            }
            Medium::CdByUefi { iso, code, variables } => {
                command.args([
                    "-drive",
                    &format!("if=pflash,unit=0,format=raw,readonly=on,file={}", option_value(code)),
                    "-drive",
                    &format!("if=pflash,unit=1,format=raw,file={}", option_value(variables)),
                ]);
                command.arg("-cdrom").arg(iso);
            }
        }
        command.args(&self.options);
        command
    }
}

/// A path inside a comma-separated option.
fn option_value(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// Whether this QEMU can open a window.
pub(crate) fn has_window() -> bool {
    Command::new(PROGRAM).args(["-display", "help"]).stdin(Stdio::null()).output().is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout).lines().any(|line| matches!(line.trim(), "gtk" | "sdl" | "cocoa"))
    })
}

/// Whether there is a display to open a window on.
pub(crate) fn has_display() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    cfg!(target_os = "macos") || set("DISPLAY") || set("WAYLAND_DISPLAY")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::shown;

    fn machine() -> Machine {
        Machine {
            medium: Medium::Direct(Image { kernel: "/a,b/kernel".into(), module: "/a,b/module.tar".into() }),
            cmdline: "demo hold".into(),
            memory: Memory(256),
            cpus: 2,
            window: false,
            pace: Pace::Fast,
            options: vec!["-d".into(), "int".into()],
        }
    }

    #[test]
    fn a_direct_boot_names_kernel_module_and_command_line() {
        let text = shown(&machine().command(Path::new("/t/qmp")));
        for part in [
            "-accel tcg -cpu max",
            "-m 256M -smp 2",
            "-no-reboot",
            "-nic none",
            "isa-debug-exit,iobase=0xf4,iosize=0x04",
            "-kernel /a,b/kernel -initrd /a,,b/module.tar -append 'demo hold'",
            "-display none",
            "-d int",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn a_window_is_qemus_default_display() {
        let machine = Machine { window: true, ..machine() };
        assert!(!shown(&machine.command(Path::new("/t/qmp"))).contains("-display"));
    }

    #[test]
    fn instructions_are_counted_on_one_thread() {
        let machine = Machine { pace: Pace::Counted, ..machine() };
        let text = shown(&machine.command(Path::new("/t/qmp")));
        assert!(text.contains("-accel tcg,thread=single -icount shift=0,sleep=off -cpu max,-erms,-fsrm"), "{text}");
    }

    #[test]
    fn memory_is_read_as_mib_and_gib() {
        assert_eq!("64M".parse(), Ok(Memory(64)));
        assert_eq!("4g".parse(), Ok(Memory(4096)));
        assert_eq!("128".parse(), Ok(Memory(128)));
        for wrong in ["", "M", "0M", "-1G", "4T", "5000000G", "1.5G", "1025G", "é"] {
            assert!(wrong.parse::<Memory>().is_err(), "{wrong:?}");
        }
        assert_eq!(Memory(4096).to_string(), "4G");
        assert_eq!(Memory(96).to_string(), "96M");
    }
}
