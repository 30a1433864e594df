//! The guest: a small program per architecture that tries accesses and writes down what came of them.
//!
//! ```text
//!   BASE                     where the machine's memory begins
//!     + 16 MiB               the image: the program
//!     +        0x10000       the page from which the privileged mode reads (at 0x800) and writes (at 0x810)
//!     +        0x20000       the same for programs
//!     + 18 MiB               the exchange: 0 the number of probes, 8 how many are done, 16.. registers
//!     +        0x1000        the probes, 64 bytes each
//!     + 32 MiB               the tables
//!
//!   probe      in   0 address   8 where to begin   16 mode   24 what to write
//!              out                                            24 value   32 cause   40 detail   48 address   56 place
//! ```
//!
//! To try an access, the guest enters the mode at the place: an instruction of the mode's page that reads or writes, or the address
//! itself, for executing. Every probe ends with a trap, be it a fault or the one that follows on success.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use vmcore::paging::Access;

use crate::{
    bochs::{self, Bochs},
    formats::Registers,
    probe::{Probe, Raw},
    qemu::Qemu,
    ram::{Map, Ram},
};

const IMAGE: u64 = 16 << 20;
const EXCHANGE: u64 = 18 << 20;
const PROBES: u64 = EXCHANGE + 0x1000;
const TABLES: u64 = 32 << 20;
const PROBE_SIZE: u64 = 64;
/// How many probes there is room for.
pub(crate) const MOST_PROBES: usize = ((2 << 20) - 0x1000) / PROBE_SIZE as usize;
/// Where in a mode's page it reads, and writes.
const READS: u64 = 0x800;
const WRITES: u64 = 0x810;
/// How long a run may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What selects a mode when the guest returns to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mode(pub(crate) u64);

/// What emulates the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Emulator {
    Qemu(Qemu),
    Bochs(Bochs),
}

/// An emulated machine.
pub(crate) struct Machine {
    /// The guest's name, and its source.
    pub(crate) guest: &'static str,
    pub(crate) source: &'static str,
    /// What the names of its assembler and linker may begin with.
    pub(crate) prefixes: &'static [&'static str],
    pub(crate) assembler: &'static [&'static str],
    pub(crate) linker: &'static [&'static str],
    pub(crate) emulator: Emulator,
    pub(crate) base: u64,
    pub(crate) memory: Map,
    /// Memory that nothing else uses, as ranges: where mapped pages are.
    pub(crate) targets: &'static [(u64, u64)],
    /// The same, where base pages do not reach and larger ones do.
    pub(crate) far: &'static [(u64, u64)],
    /// Physical addresses from here on lead to no memory, and accesses fault for that reason.
    pub(crate) nowhere: Option<u64>,
    pub(crate) privileged: Mode,
    pub(crate) program_mode: Mode,
    /// Whether the guest itself is translated by the tables.
    pub(crate) runs_under_tables: bool,
    /// Code that puts the number into the register that a read puts its value in, and traps; at most 48 bytes.
    pub(crate) code: fn(u32) -> Vec<u8>,
}

impl Machine {
    /// Where the tables are.
    pub(crate) fn tables(&self) -> u64 {
        self.base + TABLES
    }

    /// The page of the privileged mode, and that of programs; each is aligned to the largest page of any format.
    pub(crate) fn pages(&self) -> [u64; 2] {
        [self.base + IMAGE + 0x10000, self.base + IMAGE + 0x20000]
    }

    /// The image and the exchange.
    pub(crate) fn guest_memory(&self) -> (u64, u64) {
        (self.base + IMAGE, self.base + EXCHANGE + (2 << 20))
    }

    pub(crate) fn is_target(&self, physical: u64) -> bool {
        self.targets.iter().chain(self.far).any(|(start, end)| (*start..*end).contains(&physical))
    }

    pub(crate) fn is_nowhere(&self, physical: u64) -> bool {
        self.nowhere.is_some_and(|start| physical >= start)
    }

    /// Assembles and links the guest, and what its emulator starts first, in `directory`.
    pub(crate) fn build(&self, directory: &Path) -> Result<PathBuf> {
        match self.emulator {
            Emulator::Qemu(_) => self.assemble(directory, self.guest, self.source, self.base + IMAGE, &[]),
            Emulator::Bochs(_) => {
                // Both are put where they belong as they are.
                let plain = &["--oformat", "binary"];
                self.assemble(directory, bochs::LOADER, bochs::LOADER_SOURCE, bochs::LOADER_START, plain)?;
                self.assemble(directory, self.guest, self.source, self.base + IMAGE, plain)
            }
        }
    }

    fn assemble(&self, directory: &Path, name: &str, source: &str, start: u64, format: &[&str]) -> Result<PathBuf> {
        let [source_file, object, image] =
            ["S", "o", "image"].map(|extension| directory.join(format!("{name}.{extension}")));
        std::fs::write(&source_file, source).context("writing the guest's source")?;
        let mut assembler = self.tool("as")?;
        assembler.args(self.assembler).args(["--defsym", &format!("BASE={:#x}", self.base), "-o"]);
        run(assembler.arg(&object).arg(source_file))?;
        let mut linker = self.tool("ld")?;
        linker.args(self.linker).args(format).args(["-n", "-e", "start", "--build-id=none", "-z", "noexecstack"]);
        run(linker.arg(format!("-Ttext={start:#x}")).arg("-o").arg(&image).arg(object))?;
        Ok(image)
    }

    fn tool(&self, name: &str) -> Result<Command> {
        let names: Vec<_> = self.prefixes.iter().map(|prefix| format!("{prefix}{name}")).collect();
        let found = names.iter().find(|name| {
            let probe = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            probe.is_ok_and(|status| status.success())
        });
        found.map(Command::new).with_context(|| format!("none of {} can be run", names.join(", ")))
    }

    /// Lets the guest try the probes, with the two modes' pages mapped at `pages`.
    pub(crate) fn run(
        &self,
        image: &Path,
        ram: &Ram,
        registers: &Registers,
        pages: [u64; 2],
        probes: &[Probe],
    ) -> Result<Vec<Raw>> {
        let mut words = vec![probes.len() as u64, 0];
        words.extend(registers);
        ram.write_words(self.base + EXCHANGE, &words)?;
        let mut words = Vec::with_capacity(probes.len() * 8);
        for (index, probe) in probes.iter().enumerate() {
            let page = pages[usize::from(probe.is_user())];
            let begin = match probe.access.difference(Access::USER) {
                Access::READ => page + READS,
                Access::WRITE => page + WRITES,
                _ => probe.address(),
            };
            let mode = if probe.is_user() { self.program_mode } else { self.privileged };
            words.extend([probe.slot, begin, mode.0, mark(index), 0, 0, 0, 0]);
        }
        ram.write_words(self.base + PROBES, &words)?;

        match self.emulator {
            Emulator::Qemu(qemu) => qemu.run(image, ram, self.memory)?,
            Emulator::Bochs(bochs) => bochs.run(image, self.base + IMAGE, ram, self.memory)?,
        }
        let done = ram.read_words(self.base + EXCHANGE + 8, 1)?.first().copied().unwrap_or(0);
        if done != probes.len() as u64 {
            let at = usize::try_from(done).ok().and_then(|index| probes.get(index));
            bail!("the guest ended after {done} of {} probes, at {at:x?}", probes.len());
        }
        let words = ram.read_words(self.base + PROBES, probes.len() * 8)?;
        Ok(words
            .chunks_exact(8)
            .map(|out| Raw { value: out[3], cause: out[4], detail: out[5], address: out[6], place: out[7] })
            .collect())
    }
}

/// Runs an emulator to its end and gives its exit status, none if it was ended by a signal. It is stopped when it takes too long.
pub(crate) fn wait(command: &mut Command) -> Result<Option<i32>> {
    let mut child = command.stdin(Stdio::null()).spawn().with_context(|| format!("{command:?} cannot be started"))?;
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        if begin.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            bail!("{command:?} was stopped after {} seconds", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a probe writes, if it writes.
pub(crate) fn mark(index: usize) -> u64 {
    0x5eed_0000_0000_0000 | (index as u64 + 1)
}

/// Runs a tool; its messages are shown only if it fails.
fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?} cannot be started"))?;
    if !output.status.success() {
        bail!("{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}
