//! QEMU's system emulators: the machine's memory is the file itself, which the emulator shares.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use crate::{
    guest,
    ram::{self, Map, Ram},
};

/// A machine of QEMU's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Qemu {
    pub(crate) program: &'static str,
    pub(crate) options: &'static [&'static str],
    /// Started as a kernel would be, rather than put into memory with the CPU set to it.
    pub(crate) direct: bool,
    /// The exit status when the guest has ended.
    pub(crate) success: i32,
}

impl Qemu {
    /// Runs the image.
    pub(crate) fn run(self, image: &Path, ram: &Ram, memory: Map) -> Result<()> {
        let mut command = Command::new(self.program);
        command.args(["-accel", "tcg", "-display", "none", "-nic", "none", "-no-reboot"]);
        command.args(["-serial", "none", "-monitor", "none"]);
        command.args(["-m", &format!("{}M", ram::size(memory) >> 20)]);
        let path = ram.path().to_string_lossy().replace(',', ",,");
        command.args([
            "-object",
            &format!("memory-backend-file,id=ram,size={},mem-path={path},share=on", ram::size(memory)),
        ]);
        command.args(self.options);
        if self.direct {
            command.arg("-kernel").arg(image);
        } else {
            let path = image.to_string_lossy().replace(',', ",,");
            command.args(["-device", &format!("loader,file={path},cpu-num=0")]);
        }
        match guest::wait(&mut command)? {
            Some(status) if status == self.success => Ok(()),
            status => bail!("{} ended with {status:?}", self.program),
        }
    }
}
