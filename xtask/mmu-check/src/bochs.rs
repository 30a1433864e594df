//! Bochs: the one emulator here that has EPT.
//!
//! It shares no memory, so what was written to the file goes through a disk: a loader in place of the BIOS copies it to the machine's
//! memory, and back when the guest has returned.
//!
//! ```text
//!   sector 0            how many pages there are
//!          1            their addresses, 64 in a sector
//!          ...          the pages, 8 sectors each
//! ```

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    guest,
    ram::{self, Map, PAGE, Ram},
};

/// The loader: its name and source, and where it is.
pub(crate) const LOADER: &str = "bochs";
pub(crate) const LOADER_SOURCE: &str = include_str!("../guest/bochs.S");
pub(crate) const LOADER_START: u64 = 0xffff_0000;

const SECTOR: usize = 512;
/// Addresses in a sector.
const ADDRESSES: usize = SECTOR / 8;
/// Sectors of a cylinder, of which disks have whole ones.
const CYLINDER: usize = 16 * 63;
/// How many pages the loader has room for, in 1 MiB of addresses.
const MOST_PAGES: usize = 1 << 17;

/// A machine of Bochs'.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bochs {
    /// The model of the CPU.
    pub(crate) model: &'static str,
}

impl Bochs {
    /// Runs the image, which belongs at `start`, and brings back what became of the memory.
    pub(crate) fn run(self, image: &Path, start: u64, ram: &Ram, memory: Map) -> Result<()> {
        let directory = image.parent().context("the image is in a directory")?;
        ram.write(start, &std::fs::read(image).context("reading the guest")?)?;
        let pages = ram.written();
        ensure!(pages.len() < MOST_PAGES, "{} pages were written, which is more than the loader can take", pages.len());
        let first = 1 + pages.len().div_ceil(ADDRESSES);
        let mut disk = (pages.len() as u64).to_le_bytes().to_vec();
        disk.resize(SECTOR, 0);
        disk.extend(pages.iter().flat_map(|address| address.to_le_bytes()));
        disk.resize(first * SECTOR, 0);
        for page in &pages {
            let mut bytes = [0; PAGE];
            ram.read(*page, &mut bytes)?;
            disk.extend(bytes);
        }
        disk.resize(disk.len().next_multiple_of(CYLINDER * SECTOR), 0);
        let path = directory.join("disk");
        std::fs::write(&path, &disk).context("writing the disk")?;

        let configuration = directory.join("bochsrc");
        std::fs::write(&configuration, self.configuration(directory, memory)).context("configuring Bochs")?;
        // Where its debugger is built in, it waits to be told.
        let debugger = directory.join("debugger");
        std::fs::write(&debugger, "continue\nquit\n").context("configuring Bochs")?;
        let mut command = Command::new("bochs");
        command.args(["-q", "-unlock", "-f"]).arg(configuration);
        // It wants a terminal, and does with none; the window libraries want more.
        command.arg("-rc").arg(debugger).env("TERM", "dumb").stdout(Stdio::null()).stderr(Stdio::null());
        let status = guest::wait(&mut command)?;
        // The port that ends it counts as an error, so that the status says nothing.
        let log = std::fs::read(directory.join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        ensure!(log.contains("shutdown requested"), "bochs ended with {status:?}, and says: {}", log.trim());

        let disk = std::fs::read(path).context("reading the disk")?;
        for (address, bytes) in pages.iter().zip(disk.get(first * SECTOR..).unwrap_or_default().chunks_exact(PAGE)) {
            ram.write(*address, bytes)?;
        }
        Ok(())
    }

    fn configuration(self, directory: &Path, memory: Map) -> String {
        let (model, size, directory) = (self.model, ram::size(memory) >> 20, directory.display());
        format!(
            "cpu: model={model}, ips=1000000, reset_on_triple_fault=0
memory: guest={size}, host={size}
romimage: file=\"{directory}/{LOADER}.image\"
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path=\"{directory}/disk\", mode=flat
pci: enabled=0
vga: extension=none
sound: driver=dummy
speaker: enabled=0
plugin_ctrl: biosdev=0, speaker=0, extfpuirq=0, parallel=0, serial=0, gameport=0, iodebug=0
display_library: term
log: \"{directory}/log\"
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
"
        )
    }
}
