//! A simulated machine for tests on a host: the judge of everything above it.
//!
//! [`Sim`] is the embedder that a test brings: it implements [`Frames`] and [`Platform`] over memory of the host, and
//! plays the hardware that walks the tables. Its CPUs are the worst that the contract permits: each keeps every
//! translation and every pointer to a table that it ever saw, for ever, until a flush names it. Its memory gives out
//! the frame that was freed last.
//!
//! ```text
//!    library under test                              the test
//!      | allocate, free, reach   | flush               | load, access, read, write
//!      v                         v                     v
//!   +-----------+   walks    +------+  +------+     +-----------------------------+
//!   |  memory   |<-----------| CPU 0|  | CPU 1| ... | root, TLB, paging-structure |
//!   +-----------+            +------+  +------+     | cache of each               |
//!         |                      |         |        +-----------------------------+
//!         +----------> judge <---+---------+
//! ```
//!
//! # What the judge does not accept
//!
//! The first violation panics with a sentence ([`SimBuilder::record_violations`] has them collected instead).
//!
//! - **Stale use**: an access goes through a TLB entry or a cached pointer to a table whose frame is free, was given
//!   out again since, or is recorded for another use by now.
//! - **Freed while cached**: at the moment of [`Frames::free_frames`], any CPU's TLB or paging-structure cache still
//!   refers to the frame, or has it loaded as its root. This is the strongest check: it needs no unlucky access.
//! - **Stale translation**: [`Sim::check_translations`], called where every flush was completed, finds something cached
//!   that the tables, walked now from the same root, no longer hold or hold with fewer permissions or another type.
//!   Between a change and its flush that is no violation.
//! - **Maps a free frame, not a table, table not cleared**: a walk meets a leaf to a free frame, a table that is not
//!   recorded as one, or one that still holds the allocator's pattern. Tables in memory that is not RAM are taken for a
//!   loader's.
//! - **Wrong use**: a program reaches a table or an object of the library, or writes a frame of the machine (the zero
//!   frame).
//! - **Written while free, reached while free**: a free frame's bytes changed, or the library asked for a pointer to
//!   them.
//! - **Wrong free**: twice, beyond RAM, across frames that were not given out together, or of frames still recorded as
//!   used.
//! - **Flush while held**: [`Platform::flush`] was called although the test wants every flush value detached.
//! - **Break before make** (Arm): where a flush begins, or a new leaf is first used, a CPU remembers a leaf or a table that the
//!   tables have replaced by another address, size or memory type, instead of having had nothing there until the flush.
//! - **Contiguous mismatch** (Arm): the members of a group that a TLB may keep as one do not agree.
//! - **Stale absence** (RISC-V): [`Sim::check_absences`] finds that a CPU remembers that nothing is mapped where something is.
//! - **Tag reused**: a root is loaded under a tag under which the CPU still holds another root's translations.
//! - **Stale tag**: a root is loaded under a tag under which the CPU still remembers a frame that was freed meanwhile.
//!
//! What a CPU remembers under a tag that it has not loaded, it cannot use. So frames that it leads to may be freed, and translations change,
//! and the judge looks at it when that tag is loaded again.
//!
//! # What the CPUs do
//!
//! Walks follow the manual (the walker shares no code with the encoders), set accessed and dirty bits between any load
//! and store, and begin at the lowest table that the CPU remembers. A hit in the TLB is used as it is. A write through
//! a clean entry walks again. [`Sim::prefetch`] is what a CPU may do unasked.
//!
//! ```text
//!                               x86, PAE   EPT    Arm    RISC-V
//!   a fault forgets the entry   yes        yes    no     no        yes: a change that only adds permissions needs no flush
//!   absent entries are kept     PAE's top  no     no     yes       of tables, until a flush that notes tables
//!   break before make           no         no     yes    no
//!   contiguous leaves           no         no     yes    Svnapot   kept as one entry; marks are set in another member
//! ```
//!
//! A flush takes away exactly what its scope says: a range of a tag (of a large leaf only that part), a whole tag
//! without its global entries unless the scope says so, pointers to tables only if it notes tables. Where it says both,
//! pointers of every tag go, since all spaces reach the same tables. Loading a root with tag 0 forgets that tag's
//! entries that are not global; with another tag, nothing but what an activation asks for.
//!
//! Each CPU has one lock, held for a whole access: a flush returns when the access that used the old translation is
//! over. Lock order: CPU, lasting ranges, free frames, violations.

#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a verdict of the judge is a panic, and the simulated machine is no part of a kernel"
)]

mod audit;
mod builder;
mod cpu;
mod formats;
mod hardware;
mod hollow;
mod judge;
mod lock;
mod memory;
mod references;
mod regime;
mod structures;
#[cfg(test)]
mod tests;
mod tlb;
mod walker;

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

pub use self::builder::SimBuilder;
use self::cpu::{Cpu, Surroundings};
pub use self::cpu::{FaultKind, SimFault, Translation};
pub use self::formats::aarch64::AArch64Registers;
pub use self::formats::aarch64_stage2::AArch64Stage2Registers;
pub use self::formats::ept::EptRegisters;
#[cfg(any(loom, shuttle))]
pub use self::formats::reduced::ReducedRegisters;
pub use self::formats::riscv::RiscVRegisters;
pub use self::formats::x86::X86Registers;
pub use self::formats::x86_64::X86_64Registers;
pub use self::formats::x86_pae::X86PaeRegisters;
pub use self::hardware::{Hardware, SimFormat};
use self::judge::Judge;
pub use self::judge::{Violation, ViolationKind};
use self::lock::Mutex;
pub use self::memory::FrameCounts;
use self::memory::{FrameState, Memory};
use self::references::References;
use crate::addr::{Frame, PageRange, VirtAddr};
use crate::frame::{FrameMeta, FrameRequest, FrameUse, Frames, allocate_one};
use crate::machine::Machine;
use crate::paging::{Access, FlushRequest, FlushScope, Tag, X86_64};
use crate::platform::{CpuMask, CpuSet, Platform};
use crate::vm_space::Activation;

/// How many flushes the log keeps.
const LOGGED: usize = 0x100;

/// A flush that was made.
#[derive(Clone, Debug)]
pub struct FlushRecord {
    /// The CPU that asked for it.
    pub cpu: usize,
    /// Whether it was only of that CPU.
    pub local: bool,
    /// What was asked.
    pub request: FlushRequest<CpuMask>,
}

struct Shared<M: SimFormat> {
    memory: Memory,
    machine: Machine<Sim<M>>,
    judge: Judge,
    cpus: Vec<Mutex<Cpu>>,
    /// What those remember, counted.
    references: Arc<References>,
    lasting: Mutex<Vec<PageRange>>,
    flushes: Mutex<VecDeque<FlushRecord>>,
    flush_count: AtomicU64,
    /// Not 0 while a flush is a violation.
    holds_flushes: AtomicU32,
    /// Says which CPU runs the caller, where handles do not.
    cpu_of_caller: Option<fn() -> usize>,
}

/// A handle to a simulated machine, as it is seen from one of its CPUs. Clones are handles to the same machine.
///
/// `M` is the format that the library is given as the host's; the CPUs translate with the hardware that goes with it
/// ([`SimFormat::hardware`]).
pub struct Sim<M: SimFormat = X86_64> {
    shared: Arc<Shared<M>>,
    cpu: usize,
}

impl<M: SimFormat> Clone for Sim<M> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), cpu: self.cpu }
    }
}

impl<M: SimFormat> fmt::Debug for Sim<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim")
            .field("cpu", &self.cpu)
            .field("cpus", &self.shared.cpus.len())
            .field("frames", &self.frame_counts())
            .finish_non_exhaustive()
    }
}

impl Sim {
    /// An x86-64 machine of 4096 frames from frame 0x100 on, one CPU, four levels and 40 physical bits, unless told otherwise.
    pub fn builder() -> SimBuilder {
        SimBuilder::new(X86_64::new(40))
    }
}

/// Building, and the machine's parts.
impl<M: SimFormat> Sim<M> {
    /// A machine of 4096 frames from frame 0x100 on and one CPU, unless told otherwise, with hardware for this MMU.
    pub fn of(mmu: M) -> SimBuilder<M> {
        SimBuilder::new(mmu)
    }

    /// A handle to the same machine whose caller runs on CPU `cpu`.
    ///
    /// # Panics
    /// If the machine has no such CPU.
    #[must_use]
    pub fn on(&self, cpu: usize) -> Self {
        assert!(cpu < self.shared.cpus.len(), "the machine has no CPU {cpu}");
        Self { shared: self.shared.clone(), cpu }
    }

    /// How many CPUs the machine has.
    pub fn cpu_count(&self) -> usize {
        self.shared.cpus.len()
    }
}

/// Frames, from the test's side.
impl<M: SimFormat> Sim<M> {
    /// The next `successes` requests for frames succeed (if there are frames), all later ones fail.
    pub fn fail_allocation_after(&self, successes: u64) {
        self.shared.memory.fail_after(successes);
    }

    /// The `kth` request for frames from now on fails, counted from 0; the others succeed.
    pub fn fail_kth(&self, kth: u64) {
        self.shared.memory.fail_once(kth);
    }

    /// Requests for frames fail only when there are none.
    pub fn fail_never(&self) {
        self.shared.memory.fail_never();
    }

    /// How many requests for frames there were so far, failed ones included.
    pub fn allocation_requests(&self) -> u64 {
        self.shared.memory.requests()
    }

    /// How many frames are free.
    pub fn free_frame_count(&self) -> u64 {
        self.shared.memory.free_count()
    }

    /// How many frames are given out for which use. Equal before and after: nothing leaked.
    pub fn frame_counts(&self) -> FrameCounts {
        self.shared.memory.counts()
    }

    /// Takes a cleared frame and records it as a table, for tables that a test builds by hand.
    ///
    /// # Panics
    /// If no frame is free.
    pub fn new_table(&self) -> Frame {
        allocate_one(self, FrameUse::Table, true).expect("a frame for a table")
    }

    /// Takes a frame and records it as a page, for tables that a test builds by hand.
    ///
    /// # Panics
    /// If no frame is free.
    pub fn new_page(&self) -> Frame {
        allocate_one(self, FrameUse::Page, true).expect("a frame for a page")
    }

    /// The 64-bit word number `index` of a frame, read past all translation; `None` for what the machine does not have.
    pub fn physical_word(&self, frame: Frame, index: usize) -> Option<u64> {
        Some(self.shared.memory.word(frame.number(), index)?.load(Ordering::Acquire))
    }

    /// Writes the 64-bit word number `index` of a frame past all translation. Nothing happens where the machine has no
    /// such word.
    pub fn set_physical_word(&self, frame: Frame, index: usize, word: u64) {
        if let Some(slot) = self.shared.memory.word(frame.number(), index) {
            slot.store(word, Ordering::Release);
        }
    }
}

/// What the CPUs do.
impl<M: SimFormat> Sim<M> {
    const PAGE_SIZE: u64 = 1 << M::PAGE_SHIFT;

    fn with_cpu<R>(&self, cpu: usize, act: impl FnOnce(&mut Cpu, Surroundings<'_>) -> R) -> R {
        let Some(slot) = self.shared.cpus.get(cpu) else { panic!("the machine has no CPU {cpu}") };
        let is_lasting =
            |address| self.shared.lasting.lock().iter().any(|range: &PageRange| range.contains(VirtAddr::new(address)));
        act(&mut slot.lock(), self.surroundings(&is_lasting))
    }

    /// Whether some CPU may be in the middle of an access: what it finds is not counted yet.
    fn is_access_under_way(&self) -> bool {
        // What changed the tables comes before, what was counted after.
        fence(Ordering::SeqCst);
        let is = self.shared.cpus.iter().any(|cpu| cpu.is_locked());
        fence(Ordering::SeqCst);
        is
    }

    fn surroundings<'a>(&'a self, is_lasting: &'a dyn Fn(u64) -> bool) -> Surroundings<'a> {
        Surroundings { memory: &self.shared.memory, judge: &self.shared.judge, is_lasting }
    }

    /// Loads a root (CR3, satp, TTBR, EPTP): from now on the CPU translates with the tables at `root`, under `tag`.
    ///
    /// With tag 0 (no tags in use) the CPU forgets what it knows of that tag, except global translations: x86 does so by
    /// itself, a kernel without tags elsewhere right after it. With another tag it forgets nothing, and it is a violation if it
    /// still holds another root's translations under it.
    pub fn load(&self, cpu: usize, root: Frame, tag: Tag) {
        self.with_cpu(cpu, |cpu, around| cpu.load(around, root.number(), tag.0));
    }

    /// Loads what the activation of a space says, and forgets what it says: a context switch. Everything else stays.
    pub fn activate(&self, cpu: usize, activation: &Activation) {
        let root = Frame::containing(activation.root, M::PAGE_SHIFT);
        self.with_cpu(cpu, |cpu, around| cpu.activate(around, root.number(), activation.tag.0, activation.flush));
    }

    /// The format and the registers of a CPU.
    pub fn hardware(&self, cpu: usize) -> Hardware {
        self.with_cpu(cpu, |cpu, _| cpu.hardware)
    }

    /// Changes the registers of a CPU that decide about accesses (SMAP's AC, SUM, MXR, PAN, protection keys, ...); what it
    /// remembers stays.
    ///
    /// # Panics
    /// If the hardware has pages of another size.
    pub fn set_hardware(&self, cpu: usize, hardware: Hardware) {
        assert!(hardware.regime().page_shift() == M::PAGE_SHIFT, "the hardware's pages are of another size");
        self.with_cpu(cpu, |cpu, _| cpu.hardware = hardware);
    }

    /// Switches a CPU off: it has no root and remembers nothing.
    pub fn unload(&self, cpu: usize) {
        self.with_cpu(cpu, |cpu, _| cpu.unload());
    }

    /// The root that a CPU has loaded, and its tag.
    pub fn loaded(&self, cpu: usize) -> Option<(Frame, Tag)> {
        self.with_cpu(cpu, |cpu, _| cpu.root())
    }

    /// How many entries the TLB of a CPU holds.
    pub fn cached_translations(&self, cpu: usize) -> usize {
        self.with_cpu(cpu, |cpu, _| cpu.cached_translations())
    }

    /// Makes an access without moving data: `access` says what is done ([`Access::WRITE`], [`Access::EXECUTE`]) and,
    /// with [`Access::USER`], by a program.
    ///
    /// # Errors
    /// The fault, for the test to hand to the library's handler before it tries again.
    pub fn access(&self, cpu: usize, address: VirtAddr, access: Access) -> Result<Translation, SimFault> {
        self.with_cpu(cpu, |cpu, around| cpu.translate(around, address.as_u64(), access))
    }

    /// Fetches an instruction at `address`.
    ///
    /// # Errors
    /// The fault.
    pub fn execute(&self, cpu: usize, address: VirtAddr, user: bool) -> Result<Translation, SimFault> {
        self.access(cpu, address, by(Access::READ | Access::EXECUTE, user))
    }

    /// Reads bytes, page by page, as a loop of loads does.
    ///
    /// # Errors
    /// The first fault; what lies before it was read.
    pub fn read(&self, cpu: usize, address: VirtAddr, user: bool, into: &mut [u8]) -> Result<(), SimFault> {
        let mut done = 0;
        while done < into.len() {
            let at = address.as_u64().wrapping_add(done as u64);
            let offset = (at & (Self::PAGE_SIZE - 1)) as usize;
            let count = (into.len() - done).min(Self::PAGE_SIZE as usize - offset);
            // The access is over before the CPU's lock is released: a flush waits for it.
            self.with_cpu(cpu, |cpu, around| {
                let translation = cpu.translate(around, at, by(Access::READ, user))?;
                around.memory.read(translation.frame().number(), offset, &mut into[done..done + count]);
                Ok(())
            })?;
            done += count;
        }
        Ok(())
    }

    /// Writes bytes, page by page, as a loop of stores does.
    ///
    /// # Errors
    /// The first fault; what lies before it was written.
    pub fn write(&self, cpu: usize, address: VirtAddr, user: bool, from: &[u8]) -> Result<(), SimFault> {
        let mut done = 0;
        while done < from.len() {
            let at = address.as_u64().wrapping_add(done as u64);
            let offset = (at & (Self::PAGE_SIZE - 1)) as usize;
            let count = (from.len() - done).min(Self::PAGE_SIZE as usize - offset);
            self.with_cpu(cpu, |cpu, around| {
                let translation = cpu.translate(around, at, by(Access::READ | Access::WRITE, user))?;
                around.memory.write(translation.frame().number(), offset, &from[done..done + count]);
                Ok(())
            })?;
            done += count;
        }
        Ok(())
    }

    /// Loads a 64-bit word; it may cross a page.
    ///
    /// # Errors
    /// The first fault.
    pub fn read_u64(&self, cpu: usize, address: VirtAddr, user: bool) -> Result<u64, SimFault> {
        let mut bytes = [0; 8];
        self.read(cpu, address, user, &mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Stores a 64-bit word; it may cross a page, and writes nothing if it faults on either.
    ///
    /// # Errors
    /// The first fault.
    pub fn write_u64(&self, cpu: usize, address: VirtAddr, user: bool, value: u64) -> Result<(), SimFault> {
        let last = VirtAddr::new(address.as_u64().wrapping_add(7));
        if last.align_down(M::PAGE_SHIFT) != address.align_down(M::PAGE_SHIFT) {
            for end in [address, last] {
                self.access(cpu, end, by(Access::READ | Access::WRITE, user))?;
            }
        }
        self.write(cpu, address, user, &value.to_ne_bytes())
    }

    /// Does what a CPU may do unasked at any moment: walks for an address and remembers what it finds. Never faults.
    pub fn prefetch(&self, cpu: usize, address: VirtAddr) {
        self.with_cpu(cpu, |cpu, around| cpu.prefetch(around, address.as_u64()));
    }

    /// Does the same for every page of a range: the CPU then knows all that the tables hold there, as one that guesses always right.
    pub fn prefetch_range(&self, cpu: usize, range: PageRange) {
        let mut address = range.start().as_u64();
        loop {
            let learnt = self.with_cpu(cpu, |cpu, around| cpu.prefetch(around, address));
            match (address >> learnt).checked_add(1).and_then(|next| next.checked_mul(1 << learnt)) {
                Some(next) if next <= range.last().as_u64() => address = next,
                _ => return,
            }
        }
    }
}

/// Flushes, from the test's side.
impl<M: SimFormat> Sim<M> {
    /// While on, [`Platform::flush`] is a violation: the test has every flush value detached and applies it by hand.
    pub fn hold_flushes(&self, hold: bool) {
        self.shared.holds_flushes.store(u32::from(hold), Ordering::Release);
    }

    /// Carries out a flush on every CPU of the request, as if by interrupts to them.
    pub fn apply(&self, request: &FlushRequest<CpuMask>) {
        for cpu in 0..self.cpu_count() {
            self.apply_on(cpu, request);
        }
    }

    /// Carries out a flush on one CPU, if it is one of the request's: the interrupt that has just arrived there.
    pub fn apply_on(&self, cpu: usize, request: &FlushRequest<CpuMask>) {
        if request.cpus.contains(cpu) {
            self.with_cpu(cpu, |cpu, around| cpu.flush(around, &request.scope));
        }
    }

    /// How many flushes the library asked for, local ones included.
    pub fn flush_count(&self) -> u64 {
        self.shared.flush_count.load(Ordering::Acquire)
    }

    /// The last flushes that the library asked for, oldest first; at most 256 are kept.
    pub fn flushes(&self) -> Vec<FlushRecord> {
        self.shared.flushes.lock().iter().cloned().collect()
    }

    fn log(&self, request: &FlushRequest<CpuMask>, local: bool) {
        self.shared.flush_count.fetch_add(1, Ordering::AcqRel);
        let mut flushes = self.shared.flushes.lock();
        if flushes.len() == LOGGED {
            flushes.pop_front();
        }
        flushes.push_back(FlushRecord { cpu: self.cpu(), local, request: request.clone() });
    }
}

/// Judging.
impl<M: SimFormat> Sim<M> {
    /// Says what is changed from here on, in the test's own words: a violation names the last change, which is the one that forgot a flush where
    /// the test looks ([`check_translations`](Self::check_translations)) after each.
    ///
    /// ```
    /// use vmcore::sim::Sim;
    /// let sim = Sim::builder().build();
    /// sim.begin_change("unmap of the stack");
    /// ```
    pub fn begin_change(&self, what: impl Into<String>) {
        self.shared.judge.begin_change(what.into());
    }

    /// Compares everything that any CPU remembers with the tables as they are now. To be called where every flush was
    /// completed.
    pub fn check_translations(&self) {
        let mut sentences = Vec::new();
        for cpu in 0..self.cpu_count() {
            self.with_cpu(cpu, |cpu, around| cpu.stale(around, &mut sentences));
        }
        self.report_all(ViolationKind::StaleTranslation, sentences);
    }

    /// Compares what CPUs remember as absent with the tables as they are now, on hardware that remembers such
    /// ([`ViolationKind::StaleAbsence`]). To be called where the kernel relies on a new mapping without a handler that would repair a
    /// spurious fault: after maps of its own memory, with their flushes completed.
    pub fn check_absences(&self) {
        let mut sentences = Vec::new();
        for cpu in 0..self.cpu_count() {
            self.with_cpu(cpu, |cpu, around| cpu.stale_absences(around, &mut sentences));
        }
        self.report_all(ViolationKind::StaleAbsence, sentences);
    }

    /// Translations of these addresses may lead to free frames and to any use: a kernel's map of all memory.
    pub fn expect_lasting(&self, range: PageRange) {
        self.shared.lasting.lock().push(range);
    }

    /// What was not accepted so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.shared.judge.violations()
    }

    /// What was not accepted so far; forgets it.
    pub fn take_violations(&self) -> Vec<Violation> {
        self.shared.judge.take()
    }

    /// Panics with every sentence if anything was not accepted.
    ///
    /// # Panics
    /// As said.
    pub fn assert_no_violation(&self) {
        let violations = self.violations();
        assert!(violations.is_empty(), "{} violations: {violations:#?}", violations.len());
    }

    /// The library reaches for the bytes of a frame: it must be there, and somebody's.
    fn check_reached(&self, frame: Frame) {
        let number = frame.number();
        match self.shared.memory.state(number) {
            FrameState::Missing => self.shared.judge.report(
                ViolationKind::NoSuchFrame,
                format!("the library reaches for frame {number:#x}, which this machine does not have"),
            ),
            FrameState::Free => self.shared.judge.report(
                ViolationKind::ReachedWhileFree,
                format!("the library reaches for the bytes of frame {number:#x}, which is free"),
            ),
            FrameState::Device | FrameState::GivenOut(_) => {}
        }
    }

    fn report_all(&self, kind: ViolationKind, sentences: Vec<String>) {
        for sentence in sentences {
            self.shared.judge.report(kind, sentence);
        }
    }
}

/// The access, by a program or by the kernel.
fn by(access: Access, user: bool) -> Access {
    if user { access | Access::USER } else { access }
}

// SAFETY: `Memory` gives each frame out to one owner until it is freed and fills it as asked; its pages and metadata
// live as long as the machine, which each handle keeps alive, and never move; a frame's pointer leads to its own page,
// aligned to its size (or, for a frame that does not exist, to a page of its own after that was reported).
unsafe impl<M: SimFormat> Frames for Sim<M> {
    const PAGE_SHIFT: u32 = M::PAGE_SHIFT;
    const INVALIDATES_NOW: bool = true;

    /// A broadcast invalidation: no software of another CPU takes part, and no test can hold it.
    fn invalidate_now(&self, tag: u16, range: PageRange) {
        let mut scope = FlushScope::new();
        scope.add(Tag(tag), range, true);
        scope.note_tables();
        for cpu in 0..self.cpu_count() {
            self.with_cpu(cpu, |cpu, around| cpu.flush(around, &scope));
        }
    }

    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame> {
        self.shared.memory.allocate(request, &self.shared.judge)
    }

    unsafe fn free_frames(&self, first: Frame, count: u64) {
        if self.is_access_under_way() || self.shared.references.may_lead_to(first.number(), count) {
            let mut sentences = Vec::new();
            for cpu in 0..self.cpu_count() {
                self.with_cpu(cpu, |cpu, around| cpu.references_to(around, first.number(), count, &mut sentences));
            }
            self.report_all(ViolationKind::FreedWhileCached, sentences);
        }
        self.shared.memory.free(first, count, &self.shared.judge);
    }

    unsafe fn copy_frame(&self, from: Frame, to: Frame) {
        self.check_reached(from);
        self.check_reached(to);
        if !self.shared.memory.copy_hollow(from.number(), to.number()) {
            let pointer = |frame: Frame| self.shared.memory.pointer(frame.number());
            // SAFETY: each leads to a page, and they are distinct since nobody else uses `to`.
            unsafe { core::ptr::copy_nonoverlapping(pointer(from), pointer(to), Self::PAGE_SIZE as usize) }
        }
    }

    unsafe fn read_frame(&self, frame: Frame, offset: usize, into: &mut [u8]) -> usize {
        self.check_reached(frame);
        let count = into.len().min((Self::PAGE_SIZE as usize).saturating_sub(offset));
        self.shared.memory.read(frame.number(), offset, &mut into[..count]);
        count
    }

    unsafe fn write_frame(&self, frame: Frame, offset: usize, from: &[u8]) -> usize {
        self.check_reached(frame);
        let count = from.len().min((Self::PAGE_SIZE as usize).saturating_sub(offset));
        if !self.shared.memory.store_hollow(frame.number(), offset, &from[..count]) {
            let start = self.shared.memory.pointer(frame.number());
            // SAFETY: offset + count lies within the page, which holds only a program's bytes.
            unsafe { core::ptr::copy(from.as_ptr(), start.wrapping_add(offset), count) }
        }
        count
    }

    #[inline]
    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        if let Some(pointer) = self.shared.memory.pointer_in_use(frame.number()) {
            return pointer;
        }
        self.check_reached(frame);
        self.shared.memory.pointer(frame.number())
    }

    #[inline]
    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta> {
        self.shared.memory.meta(frame.number())
    }
}

// SAFETY: all handles share one `Machine`; a handle's CPU is the one that the test runs its caller on; `flush` has made
// every CPU of the request forget the scope when it returns, and an access that used it is over, since it holds that
// CPU's lock.
unsafe impl<M: SimFormat> Platform for Sim<M> {
    type Mmu = M;
    type RawMutex = spin::Mutex<()>;
    type CpuSet = CpuMask;
    type SpaceData = ();
    type AreaData = u64;

    fn machine(&self) -> &Machine<Self> {
        &self.shared.machine
    }

    fn cpu(&self) -> usize {
        self.shared.cpu_of_caller.map_or(self.cpu, |function| function())
    }

    fn flush(&self, request: &FlushRequest<CpuMask>) {
        self.log(request, false);
        if self.shared.holds_flushes.load(Ordering::Acquire) != 0 {
            self.shared.judge.report(
                ViolationKind::FlushWhileHeld,
                format!(
                    "CPU {} flushes {request:?} although this test holds flushes: detach the flush value",
                    self.cpu()
                ),
            );
        }
        self.apply(request);
    }

    fn flush_local(&self, request: &FlushRequest<CpuMask>) {
        self.log(request, true);
        self.with_cpu(self.cpu(), |cpu, around| cpu.flush(around, &request.scope));
    }
}
