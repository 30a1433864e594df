//! The description of a simulated machine, from which it is built.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::Mutex;

use super::cpu::Cpu;
use super::judge::Judge;
use super::memory::Memory;
use super::walker::{Registers, pat_type};
use super::{Shared, Sim};
use crate::addr::FrameRange;
use crate::machine::Machine;
use crate::paging::{MemoryType, Mmu, X86_64};
use crate::word::{AtomicU32, AtomicU64};

/// IA32_PAT at reset: WB, WT, UC-, UC, twice.
const PAT_AT_RESET: u64 = 0x0007_0406_0007_0406;

/// Describes a simulated machine.
///
/// ```
/// use vmcore::sim::Sim;
/// let sim = Sim::builder().frames(64).cpus(2).build();
/// assert_eq!(sim.free_frame_count(), 64);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct SimBuilder {
    frames: usize,
    first_frame: u64,
    cpus: usize,
    devices: Vec<FrameRange>,
    seed: Option<u64>,
    physical_bits: u32,
    pat: Option<u64>,
    records: bool,
    cpu_of_caller: Option<fn() -> usize>,
}

impl SimBuilder {
    pub(super) const fn new() -> Self {
        Self {
            frames: 4096,
            first_frame: 0x100,
            cpus: 1,
            devices: Vec::new(),
            seed: None,
            physical_bits: 40,
            pat: None,
            records: false,
            cpu_of_caller: None,
        }
    }

    /// So many frames of RAM instead of 4096.
    pub fn frames(mut self, count: usize) -> Self {
        self.frames = count;
        self
    }

    /// RAM begins at this frame instead of frame 0x100 (1 MiB).
    pub fn first_frame(mut self, number: u64) -> Self {
        self.first_frame = number;
        self
    }

    /// So many CPUs instead of one; at most 64.
    pub fn cpus(mut self, count: usize) -> Self {
        self.cpus = count;
        self
    }

    /// Adds memory that is not RAM: reachable, without metadata, never given out.
    pub fn device(mut self, frames: FrameRange) -> Self {
        self.devices.push(frames);
        self
    }

    /// Gives out single frames in a random order that repeats with the seed, instead of the one freed last.
    pub fn random_frames(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Physical addresses have so many bits instead of 40; an entry with a bit beyond them faults as reserved.
    pub fn physical_bits(mut self, bits: u32) -> Self {
        self.physical_bits = bits;
        self
    }

    /// The value of IA32_PAT. Without it, the layout that the library's MMU asks for is programmed, as any embedder
    /// does.
    pub fn pat(mut self, value: u64) -> Self {
        self.pat = Some(value);
        self
    }

    /// Violations are recorded for [`Sim::violations`] instead of panicking.
    pub fn record_violations(mut self) -> Self {
        self.records = true;
        self
    }

    /// Asks this function which CPU runs the caller, instead of the handle: for tests with a real thread per CPU, whose
    /// spaces and areas keep a handle that others use too.
    pub fn cpu_of_caller(mut self, function: fn() -> usize) -> Self {
        self.cpu_of_caller = Some(function);
        self
    }

    /// Builds the machine; the handle runs on CPU 0.
    ///
    /// # Panics
    /// On a description of no machine: no frames, no or more than 64 CPUs, memory that overlaps, a physical width
    /// outside 32 to 52 bits, a PAT that the register refuses.
    pub fn build(self) -> Sim {
        assert!((1..=64).contains(&self.cpus), "a machine has 1 to 64 CPUs, not {}", self.cpus);
        assert!((32..=52).contains(&self.physical_bits), "physical addresses have 32 to 52 bits");
        let mmu = X86_64::new(self.physical_bits);
        let pat = self.pat.unwrap_or_else(|| pat_for(&mmu));
        for index in 0..8 {
            let byte = pat >> (index * 8) & 0xff;
            assert!(pat_type(byte).is_some(), "IA32_PAT refuses {byte:#x} as its entry {index}");
        }
        let registers = Registers { physical_bits: self.physical_bits, pat };
        let shared = Shared {
            memory: Memory::new(self.first_frame, self.frames, &self.devices, self.seed),
            machine: Machine::new(mmu),
            judge: Judge::new(!self.records),
            registers,
            cpus: (0..self.cpus).map(|number| Mutex::new(Cpu::new(number))).collect(),
            lasting: Mutex::new(Vec::new()),
            flushes: Mutex::new(VecDeque::new()),
            flush_count: AtomicU64::new(0),
            holds_flushes: AtomicU32::new(0),
            cpu_of_caller: self.cpu_of_caller,
        };
        Sim { shared: Arc::new(shared), cpu: 0 }
    }
}

/// The PAT that makes the MMU's codes mean what the MMU says they mean.
fn pat_for(mmu: &X86_64) -> u64 {
    (0..8).fold(PAT_AT_RESET, |pat, code| {
        let byte = match mmu.memory_type(code) {
            Some(MemoryType::Uncached) => 0,
            Some(MemoryType::WriteCombining) => 1,
            Some(MemoryType::WriteThrough) => 4,
            Some(MemoryType::WriteProtected) => 5,
            Some(MemoryType::WriteBack) => 6,
            Some(MemoryType::UncachedMinus) => 7,
            _ => return pat,
        };
        pat & !(0xff << (code * 8)) | byte << (code * 8)
    })
}
