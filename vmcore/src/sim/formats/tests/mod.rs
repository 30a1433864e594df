//! Each walker against tables that are made by hand, word by word from its manual.

mod aarch64;
mod aarch64_stage2;
mod against;
mod ept;
mod riscv;
mod x86;
mod x86_64;

use alloc::vec::Vec;

use crate::addr::{Frame, FrameRange, PageRange, VirtAddr};
use crate::frame::{FrameUse, free_one};
use crate::paging::{Access, FlushRequest, FlushScope, Format, MemoryType, Mmu, Tag, X86_64};
use crate::platform::{CpuMask, CpuSet};
use crate::sim::{FaultKind, Hardware, Sim, SimFormat, Translation, ViolationKind};

const READ: Access = Access::READ;
const WRITE: Access = Access::KERNEL_DATA;
const FETCH: Access = READ.union(Access::EXECUTE);
const USER_READ: Access = READ.union(Access::USER);
const USER_WRITE: Access = Access::USER_DATA;
const USER_FETCH: Access = Access::USER_CODE;

/// An MMU that only says how large its pages are: no table here is made by the library.
#[derive(Clone, Copy, Debug)]
struct Paged<const SHIFT: u32>(Hardware);

// SAFETY: never given to the library's operations on tables.
unsafe impl<const SHIFT: u32> Mmu for Paged<SHIFT> {
    type Word = u64;
    const FORMAT: &'static Format = X86_64::FORMAT;

    fn levels(&self) -> usize {
        4
    }

    fn physical_bits(&self) -> u32 {
        40
    }

    fn memory_code(&self, _: MemoryType) -> Option<u32> {
        None
    }

    fn memory_type(&self, _: u32) -> Option<MemoryType> {
        None
    }
}

impl<const SHIFT: u32> SimFormat for Paged<SHIFT> {
    const PAGE_SHIFT: u32 = SHIFT;

    fn hardware(&self) -> Hardware {
        self.0
    }
}

/// A machine with a root loaded under tag 1, and frames far up for what large leaves map.
struct Rig<const SHIFT: u32> {
    sim: Sim<Paged<SHIFT>>,
    root: Frame,
}

impl<const SHIFT: u32> Rig<SHIFT> {
    /// `far`: physical addresses at which there is memory as well, one frame each.
    fn new(hardware: Hardware, far: &[u64]) -> Self {
        let mut builder = Sim::of(Paged::<SHIFT>(hardware)).frames(64).cpus(2).record_violations();
        for address in far {
            builder = builder.device(FrameRange::new(Frame::new(address >> SHIFT), 1).unwrap());
        }
        let sim = builder.build();
        let root = sim.new_table();
        sim.load(0, root, Tag(1));
        Self { sim, root }
    }

    fn table(&self) -> Frame {
        self.sim.new_table()
    }

    fn page(&self) -> Frame {
        self.sim.new_page()
    }

    fn set(&self, table: Frame, index: usize, word: u64) {
        self.sim.set_physical_word(table, index, word);
    }

    fn get(&self, table: Frame, index: usize) -> u64 {
        self.sim.physical_word(table, index).unwrap()
    }

    /// The same for entries of 32 bits.
    fn set_narrow(&self, table: Frame, index: usize, word: u64) {
        let keep = self.get(table, index / 2) & 0xffff_ffff << (32 * (1 - index % 2));
        self.set(table, index / 2, keep | word << (32 * (index % 2)));
    }

    fn get_narrow(&self, table: Frame, index: usize) -> u64 {
        self.get(table, index / 2) >> (32 * (index % 2)) & 0xffff_ffff
    }

    fn access(&self, address: u64, access: Access) -> Result<Translation, FaultKind> {
        self.sim.access(0, VirtAddr::new(address), access).map_err(|fault| fault.kind)
    }

    /// The physical address that a read by the kernel reaches, everything remembered forgotten first.
    fn physical(&self, address: u64) -> Result<u64, FaultKind> {
        self.forget();
        self.access(address, READ).map(|found| found.physical.as_u64())
    }

    /// Whether each of the accesses is permitted, everything remembered forgotten first.
    fn permitted<const N: usize>(&self, address: u64, accesses: [Access; N]) -> [bool; N] {
        accesses.map(|access| {
            self.forget();
            match self.access(address, access) {
                Ok(_) => true,
                Err(FaultKind::Permission) => false,
                Err(other) => panic!("{other:?}"),
            }
        })
    }

    fn set_hardware(&self, hardware: Hardware) {
        self.sim.set_hardware(0, hardware);
    }

    fn flush(&self, change: impl FnOnce(&mut FlushScope)) {
        let mut scope = FlushScope::new();
        change(&mut scope);
        let mut cpus = CpuMask::EMPTY;
        cpus.insert(0);
        self.sim.apply(&FlushRequest { cpus, scope });
    }

    fn flush_pages(&self, first: u64, count: u64) {
        self.flush(|scope| scope.add(Tag(1), Self::pages(first, count), false));
    }

    fn pages(address: u64, count: u64) -> PageRange {
        PageRange::from_checked(VirtAddr::new(address), count << SHIFT)
    }

    /// Forgets everything without a word of the judge about it.
    fn forget(&self) {
        self.sim.unload(0);
        self.sim.load(0, self.root, Tag(1));
    }

    fn kinds(&self) -> Vec<ViolationKind> {
        self.sim.take_violations().into_iter().map(|violation| violation.kind).collect()
    }

    fn free(&self, frame: Frame, purpose: FrameUse) {
        // SAFETY: nothing but the simulated CPUs refers to the frame.
        unsafe { free_one(&self.sim, frame, purpose) }.unwrap();
    }
}

/// An entry for a frame of 2^`shift` bytes.
fn entry(frame: Frame, shift: u32, flags: u64) -> u64 {
    frame.number() << shift | flags
}
