//! The description of a simulated machine, from which it is built.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64};

use super::cpu::Cpu;
use super::judge::Judge;
use super::lock::Mutex;
use super::memory::Memory;
use super::references::References;
use super::regime::pat_type;
use super::{Hardware, Shared, Sim, SimFormat};
use crate::addr::FrameRange;
use crate::machine::Machine;
use crate::paging::X86_64;

/// Describes a simulated machine.
///
/// ```
/// use vmcore::sim::Sim;
/// let sim = Sim::builder().frames(64).cpus(2).build();
/// assert_eq!(sim.free_frame_count(), 64);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct SimBuilder<M: SimFormat = X86_64> {
    frames: usize,
    first_frame: u64,
    cpus: usize,
    devices: Vec<FrameRange>,
    seed: Option<u64>,
    mmu: M,
    hardware: Option<Hardware>,
    pat: Option<u64>,
    records: bool,
    patterns: bool,
    cpu_of_caller: Option<fn() -> usize>,
}

impl<M: SimFormat> SimBuilder<M> {
    pub(super) const fn new(mmu: M) -> Self {
        Self {
            frames: 4096,
            first_frame: 0x100,
            cpus: 1,
            devices: Vec::new(),
            seed: None,
            mmu,
            hardware: None,
            pat: None,
            records: false,
            patterns: true,
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

    /// The format and the registers of the CPUs, instead of those that the MMU asks for: other settings, or another format
    /// altogether for tables that a test builds by hand.
    pub fn hardware(mut self, hardware: Hardware) -> Self {
        self.hardware = Some(hardware);
        self
    }

    /// Violations are recorded for [`Sim::violations`] instead of panicking.
    pub fn record_violations(mut self) -> Self {
        self.records = true;
        self
    }

    /// Frames that nobody has hold no pattern, and it is not looked whether somebody wrote to them, or uses a table that was not cleared: several times faster,
    /// for runs that are judged by what comes out.
    pub fn without_patterns(mut self) -> Self {
        self.patterns = false;
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
    /// On a description of no machine: no frames, no or more than 64 CPUs, memory that overlaps, hardware with pages of
    /// another size, a PAT that the register refuses.
    pub fn build(self) -> Sim<M> {
        assert!((1..=64).contains(&self.cpus), "a machine has 1 to 64 CPUs, not {}", self.cpus);
        let mut hardware = self.hardware.unwrap_or_else(|| self.mmu.hardware());
        if let (Hardware::X86_64(registers), Some(pat)) = (&mut hardware, self.pat) {
            registers.pat = pat;
        }
        if let Hardware::X86_64(registers) = &hardware {
            for index in 0..8 {
                let byte = registers.pat >> (index * 8) & 0xff;
                assert!(pat_type(byte).is_some(), "IA32_PAT refuses {byte:#x} as its entry {index}");
            }
        }
        assert!(hardware.regime().page_shift() == M::PAGE_SHIFT, "the hardware's pages are of another size");
        let memory = Memory::new(self.first_frame, self.frames, &self.devices, self.seed, M::PAGE_SHIFT);
        let references = Arc::new(References::new(self.first_frame, self.frames));
        let shared = Shared {
            memory: if self.patterns { memory } else { memory.without_patterns() },
            machine: Machine::new(self.mmu),
            judge: Judge::new(!self.records),
            cpus: (0..self.cpus).map(|number| Mutex::new(Cpu::new(number, hardware, references.clone()))).collect(),
            references,
            lasting: Mutex::new(Vec::new()),
            flushes: Mutex::new(VecDeque::new()),
            flush_count: AtomicU64::new(0),
            holds_flushes: AtomicU32::new(0),
            cpu_of_caller: self.cpu_of_caller,
        };
        Sim { shared: Arc::new(shared), cpu: 0 }
    }
}

impl SimBuilder {
    /// Physical addresses have so many bits instead of 40; an entry with a bit beyond them faults as reserved.
    ///
    /// # Panics
    /// Outside of 32 to 52 bits.
    pub fn physical_bits(mut self, bits: u32) -> Self {
        assert!((32..=52).contains(&bits), "physical addresses have 32 to 52 bits");
        self.mmu = X86_64::new(bits);
        self
    }

    /// The value of IA32_PAT. Without it, the layout that the library's MMU asks for is programmed, as any embedder
    /// does.
    pub fn pat(mut self, value: u64) -> Self {
        self.pat = Some(value);
        self
    }
}
