//! A CPU: the root that it has loaded, what it remembers of the tables, and how it makes an access.
//!
//! ```text
//!   access --> canonical? --> TLB --> absences --> paging-structure cache --> walk --> TLB entry --> frame
//!                  |           |hit: used as it is                              |
//!                  v           v                                                v
//!                fault <-- too few rights <------------------- not present, permission, reserved bits
//!                  |
//!                  +--> x86: what would translate the address is forgotten (SDM, "Details of TLB Use")
//!                       Arm, RISC-V: an entry that permits too little is kept; RISC-V: so is that there was none
//! ```

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::hardware::Hardware;
use super::judge::{Judge, ViolationKind};
use super::memory::{FrameState, Memory};
use super::references::References;
use super::structures::{Pointer, StructureCache};
use super::tlb::{Cached, Owner, Tlb};
use super::walker::{Found, Start, Stop, Walker};
use crate::addr::{Frame, PhysAddr, VirtAddr};
use crate::frame::FrameUse;
use crate::paging::{Access, FlushScope, MemoryType, Tag};
use crate::vm_space::ActivationFlush;
use crate::word::Ordering;

/// Why an access was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum FaultKind {
    /// An entry on the way is not present.
    NotPresent,
    /// The page does not permit the access.
    Permission,
    /// An entry has a reserved bit set.
    Reserved,
    /// The address is not canonical (the hardware raises a general-protection fault).
    NonCanonical,
    /// The accessed or the dirty bit is clear, and this hardware leaves it to software to set it (Arm: access flag fault).
    Unmarked,
    /// A table or the page lies where the machine has no memory; the judge has been told.
    Bus,
}

/// An access that faulted: what a page-fault handler is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SimFault {
    /// The address, as in CR2.
    pub address: VirtAddr,
    /// What was attempted.
    pub access: Access,
    /// Why it failed.
    pub kind: FaultKind,
    /// Whether the CPU went by what it remembered: the tables may say otherwise by now.
    pub from_tlb: bool,
}

impl SimFault {
    /// The page-fault error code of x86 (SDM, "Page-Fault Exceptions").
    pub const fn error_code(&self) -> u64 {
        let mut code = match self.kind {
            FaultKind::Permission | FaultKind::Unmarked => 0x1,
            FaultKind::Reserved => 0x9,
            _ => 0x0,
        };
        if self.access.contains(Access::WRITE) {
            code |= 0x2;
        }
        if self.access.contains(Access::USER) {
            code |= 0x4;
        }
        if self.access.contains(Access::EXECUTE) {
            code |= 0x10;
        }
        code
    }

    /// Whether the page was present: the fault is about permissions, marks or reserved bits.
    pub const fn is_present(&self) -> bool {
        matches!(self.kind, FaultKind::Permission | FaultKind::Reserved | FaultKind::Unmarked)
    }
}

impl fmt::Display for SimFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} fault at {:#x}, access {}", self.kind, self.address, self.access)
    }
}

impl core::error::Error for SimFault {}

/// What an access went through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Where the address leads.
    pub physical: PhysAddr,
    /// What the translation permits, over all levels.
    pub access: Access,
    /// The type of memory access that PAT, PCD and PWT select.
    pub memory: MemoryType,
    /// Whether it holds in every space.
    pub global: bool,
    /// Whether it came from the TLB rather than from a walk.
    pub from_tlb: bool,
    page_shift: u32,
}

impl Translation {
    /// The frame that the address leads to.
    pub const fn frame(&self) -> Frame {
        Frame::containing(self.physical, self.page_shift)
    }
}

/// What a CPU needs of the machine to make an access.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) memory: &'a Memory,
    pub(super) judge: &'a Judge,
    /// Whether translations of this address may outlive the frames that they lead to.
    pub(super) is_lasting: &'a dyn Fn(u64) -> bool,
}

/// That nothing is mapped, as a CPU remembers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Absence {
    pub(super) tag: u16,
    /// The lowest bit of the index of the entry that was absent.
    pub(super) shift: u32,
    /// The first address that it would translate.
    pub(super) address: u64,
    /// The root that the walk began at.
    pub(super) root: u64,
}

impl Absence {
    fn last(self) -> u64 {
        self.address + ((1 << self.shift) - 1)
    }
}

pub(super) struct Cpu {
    pub(super) number: usize,
    pub(super) hardware: Hardware,
    pub(super) root: Option<(u64, u16)>,
    /// The root's entries, on hardware that reads them once.
    pub(super) top_registers: Option<[u64; 4]>,
    pub(super) tlb: Tlb,
    pub(super) structures: StructureCache,
    pub(super) absences: Vec<Absence>,
    references: Arc<References>,
}

/// A walker on a CPU.
pub(super) fn walker<'a>(hardware: &'a Hardware, around: Surroundings<'a>, cpu: usize) -> Walker<'a> {
    let regime = hardware.regime();
    let (page_shift, is_narrow) = (regime.page_shift(), regime.is_narrow());
    Walker { memory: around.memory, judge: around.judge, regime, cpu, page_shift, is_narrow }
}

impl Cpu {
    pub(super) fn new(number: usize, hardware: Hardware, references: Arc<References>) -> Self {
        Self {
            number,
            hardware,
            root: None,
            top_registers: None,
            tlb: Tlb::new(references.clone()),
            structures: StructureCache::new(references.clone()),
            absences: Vec::new(),
            references,
        }
    }

    pub(super) fn root(&self) -> Option<(Frame, Tag)> {
        self.root.map(|(root, tag)| (Frame::new(root), Tag(tag)))
    }

    pub(super) fn cached_translations(&self) -> usize {
        self.tlb.len()
    }

    fn page_shift(&self) -> u32 {
        self.hardware.regime().page_shift()
    }

    /// Loads a root, and forgets what is asked with it.
    pub(super) fn activate(&mut self, around: Surroundings<'_>, root: u64, tag: u16, flush: ActivationFlush) {
        match flush {
            ActivationFlush::Nothing => {}
            ActivationFlush::Tag => self.forget_tag(tag),
            ActivationFlush::Everything => self.forget_everything(),
        }
        self.load(around, root, tag);
    }

    /// Loads a root: with tag 0 everything of that tag is forgotten except global translations; with another tag nothing
    /// is, and what is remembered under it can be used from now on.
    pub(super) fn load(&mut self, around: Surroundings<'_>, root: u64, tag: u16) {
        if tag == 0 {
            self.forget_tag(0);
        }
        let others = |other: u64| other != root;
        let other = (self.tlb.entries().find(|(owner, _, cached)| *owner == Owner::Tagged(tag) && others(cached.root)))
            .map(|(_, _, cached)| cached.root)
            .or_else(|| {
                self.structures.pointers().find(|each| each.0 == tag && others(each.3.root)).map(|each| each.3.root)
            })
            .or_else(|| self.absences.iter().find(|each| each.tag == tag && others(each.root)).map(|each| each.root));
        if let Some(other) = other {
            around.judge.report(
                ViolationKind::TagReused,
                format!(
                    "CPU {} loads the root in frame {root:#x} under tag {tag}, under which it still holds translations of the root \
                     in frame {other:#x}: the tag was given to another space without a flush",
                    self.number
                ),
            );
        }
        if let Some(sentence) = self.gone_under(around, tag) {
            around.judge.report(
                ViolationKind::StaleTag,
                format!(
                    "CPU {} loads the root in frame {root:#x} under tag {tag}, under which it still {sentence}: what it remembers under \
                     the tag was to be forgotten, or a flush left out what it remembers under tags that are not loaded",
                    self.number
                ),
            );
        }
        self.set_root(Some((root, tag)));
        walker(&self.hardware, around, self.number).check_cleared(root);
        self.read_top(around);
    }

    fn set_root(&mut self, root: Option<(u64, u16)>) {
        if let Some((new, _)) = root {
            self.references.add(new);
        }
        if let Some((old, _)) = core::mem::replace(&mut self.root, root) {
            self.references.remove(old);
        }
    }

    fn set_top_registers(&mut self, registers: Option<[u64; 4]>) {
        match (self.top_registers.is_some(), registers.is_some()) {
            (false, true) => self.references.add_elsewhere(),
            (true, false) => self.references.remove_elsewhere(),
            _ => {}
        }
        self.top_registers = registers;
    }

    /// Reads the root's entries into registers, where the hardware has such.
    fn read_top(&mut self, around: Surroundings<'_>) {
        let registers = match self.root {
            Some((root, _)) if self.hardware.regime().has_top_registers() => Some(core::array::from_fn(|index| {
                around.memory.entry(root, index).map_or(0, |word| word.load(Ordering::Acquire))
            })),
            _ => None,
        };
        self.set_top_registers(registers);
    }

    /// Whether what is remembered under the tag cannot be used at the moment: another is loaded.
    pub(super) fn is_dormant(&self, tag: u16) -> bool {
        self.root.is_some_and(|(_, loaded)| loaded != tag)
    }

    fn forget_tag(&mut self, tag: u16) {
        self.tlb.forget_owner(Owner::Tagged(tag));
        self.structures.forget_tag(tag);
        self.absences.retain(|absence| absence.tag != tag);
    }

    fn forget_everything(&mut self) {
        self.tlb.clear();
        self.structures.clear();
        self.absences.clear();
    }

    /// Leaves the root that was loaded, as a CPU that is switched off does: nothing is remembered.
    pub(super) fn unload(&mut self) {
        self.set_root(None);
        self.set_top_registers(None);
        self.forget_everything();
    }

    /// Translates one address for one access, as the hardware would.
    pub(super) fn translate(
        &mut self,
        around: Surroundings<'_>,
        address: u64,
        access: Access,
    ) -> Result<Translation, SimFault> {
        let fault = |kind| SimFault { address: VirtAddr::new(address), access, kind, from_tlb: false };
        let remembered = |kind| SimFault { from_tlb: true, ..fault(kind) };
        let hardware = self.hardware;
        let regime = hardware.regime();
        if !regime.has(address) {
            return Err(fault(FaultKind::NonCanonical));
        }
        let Some((root, tag)) = self.root else {
            panic!("CPU {} makes an access to {address:#x} but has no root: load one first", self.number)
        };
        let page_shift = regime.page_shift();
        let offset = address & ((1 << page_shift) - 1);
        let page = address >> page_shift;
        if let Some((owner, first, cached)) = self.tlb.lookup(tag, page) {
            if !regime.permits(cached.rights, access) {
                self.forget_after_fault(tag, address);
                return Err(remembered(FaultKind::Permission));
            }
            if cached.dirty || !access.contains(Access::WRITE) {
                let frame = cached.frame + (page - first);
                self.judge_use(around, address, frame, access, Some(&cached));
                return Ok(Translation {
                    physical: PhysAddr::new(frame << page_shift | offset),
                    access: cached.rights.access(),
                    memory: cached.memory,
                    global: owner == Owner::Global,
                    from_tlb: true,
                    page_shift,
                });
            }
            if !cached.marks_stores {
                return Err(remembered(FaultKind::Unmarked));
            }
            // The dirty bit must be set in the tables: the entry is walked again.
            self.tlb.forget(owner, page, page);
        } else if self.remembers_absence(tag, address) {
            return Err(remembered(FaultKind::NotPresent));
        }
        let found = match self.walk(around, root, tag, address, access) {
            Ok(found) => found,
            Err(stop) => {
                self.learn_from(around, root, tag, address, stop);
                return Err(fault(match stop {
                    Stop::NotPresent(_) => FaultKind::NotPresent,
                    Stop::Permission(_) => FaultKind::Permission,
                    Stop::Reserved => FaultKind::Reserved,
                    Stop::Unmarked => FaultKind::Unmarked,
                    Stop::Bus => FaultKind::Bus,
                }));
            }
        };
        if !self.remember(around, root, tag, address, access, found) {
            return Err(fault(FaultKind::Bus));
        }
        Ok(Translation {
            physical: PhysAddr::new((found.frame + (page - found.page)) << page_shift | offset),
            access: found.rights.access(),
            memory: found.memory,
            global: found.global,
            from_tlb: false,
            page_shift,
        })
    }

    /// What a CPU may do unasked at any moment: walk for an address that it guesses will be used, and remember what it
    /// finds. Never faults. Says how many bytes from the start of which address on it has learnt about, as a power of two.
    pub(super) fn prefetch(&mut self, around: Surroundings<'_>, address: u64) -> u32 {
        let page_shift = self.page_shift();
        let Some((root, tag)) = self.root else { return page_shift };
        let known = self.tlb.lookup(tag, address >> page_shift).is_some() || self.remembers_absence(tag, address);
        if !self.hardware.regime().has(address) || known {
            return page_shift;
        }
        match self.walk(around, root, tag, address, Access::READ) {
            Ok(found) => {
                self.remember(around, root, tag, address, Access::READ, found);
                page_shift + found.pages.trailing_zeros()
            }
            Err(stop) => {
                self.learn_from(around, root, tag, address, stop);
                if let Stop::NotPresent(shift) = stop { shift } else { page_shift }
            }
        }
    }

    /// A walk ended without a translation: x86 forgets, the others may remember even that.
    fn learn_from(&mut self, around: Surroundings<'_>, root: u64, tag: u16, address: u64, stop: Stop) {
        let rules = self.hardware.regime().tlb();
        if rules.forgets_after_fault {
            return self.forget_after_fault(tag, address);
        }
        match stop {
            // An access that is refused reaches nothing: only the translation is kept.
            Stop::Permission(found) => {
                self.remember(around, root, tag, address, Access::READ, found);
            }
            Stop::NotPresent(shift) if rules.keeps_absences => {
                self.absences.push(Absence { tag, shift, address: address >> shift << shift, root });
            }
            _ => {}
        }
    }

    fn remembers_absence(&self, tag: u16, address: u64) -> bool {
        self.absences.iter().any(|each| each.tag == tag && each.address <= address && address <= each.last())
    }

    /// Puts what a walk found into the TLB, if the frame exists.
    fn remember(
        &mut self,
        around: Surroundings<'_>,
        root: u64,
        tag: u16,
        address: u64,
        access: Access,
        found: Found,
    ) -> bool {
        let page = address >> self.page_shift();
        let frame = found.frame + (page - found.page);
        if !self.judge_use(around, address, frame, access, None) {
            return false;
        }
        let cached = Cached {
            pages: found.pages,
            frame: found.frame,
            rights: found.rights,
            memory: found.memory,
            dirty: found.dirty,
            marks_stores: found.marks_stores,
            leaf_pages: found.pages,
            root,
            // Read after the walk: the frame may have been given out and mapped while it was under way. It was not
            // freed meanwhile, since a free looks at this CPU first and waits for its lock.
            filled_at: around.memory.now(),
            purpose: around.memory.recorded_use(frame),
        };
        let owner = if found.global { Owner::Global } else { Owner::Tagged(tag) };
        if self.hardware.regime().tlb().break_before_make {
            // Parts of an older leaf may still be there.
            let overlaps = |start: u64, pages: u64| start < found.page + found.pages && found.page < start + pages;
            for (whose, start, other) in self.tlb.entries() {
                let same = whose == Owner::Global || whose == Owner::Tagged(tag);
                if same && overlaps(start, other.pages) {
                    self.report_replaced(around, whose, start.max(found.page), start, &other, &found);
                }
            }
        }
        self.tlb.insert(owner, found.page, cached, page);
        true
    }

    /// Walks from the lowest table that the paging-structure cache knows, and remembers the tables on the way.
    fn walk(
        &mut self,
        around: Surroundings<'_>,
        root: u64,
        tag: u16,
        address: u64,
        access: Access,
    ) -> Result<Found, Stop> {
        let hardware = self.hardware;
        let walker = walker(&hardware, around, self.number);
        let mut start = Start { registers: self.top_registers, ..walker.start_at(root) };
        if let Some((shift, pointer)) = self.structures.lookup(tag, address) {
            if let Some(reason) = gone(around.memory, pointer.table, pointer.filled_at) {
                around.judge.report(
                    ViolationKind::StaleUse,
                    format!(
                        "CPU {} walks {address:#x} (tag {tag}) through a cached pointer to the table in frame {:#x}, \
                         which {reason}: the flush did not note that tables were unlinked, or it was missing",
                        self.number, pointer.table
                    ),
                );
            }
            let below = hardware.regime().below(shift);
            start = Start { table: pointer.table, shift: below, rights: pointer.rights, registers: None };
        }
        let structures = &mut self.structures;
        walker.walk(start, address, Some(access), |shift, table, rights| {
            let filled_at = around.memory.now();
            if structures.insert(tag, shift, address, Pointer { table, rights, root, filled_at }) {
                walker.check_cleared(table);
            }
        })
    }

    /// Where a page fault makes the CPU forget what would translate the address, it does.
    fn forget_after_fault(&mut self, tag: u16, address: u64) {
        if !self.hardware.regime().tlb().forgets_after_fault {
            return;
        }
        let page = address >> self.page_shift();
        self.tlb.forget(Owner::Tagged(tag), page, page);
        self.tlb.forget(Owner::Global, page, page);
        self.structures.forget(Some(tag), address, address);
    }

    /// Judges an access that reaches `frame`, through what is cached or by a walk just made. False if there is no such
    /// frame.
    fn judge_use(
        &self,
        around: Surroundings<'_>,
        address: u64,
        frame: u64,
        access: Access,
        cached: Option<&Cached>,
    ) -> bool {
        let state = around.memory.state(frame);
        let cpu = self.number;
        if state == FrameState::Missing {
            around.judge.report(
                ViolationKind::NoSuchFrame,
                format!("CPU {cpu} reaches frame {frame:#x} through {address:#x}, which this machine does not have"),
            );
            return false;
        }
        if (around.is_lasting)(address) {
            return true;
        }
        let recorded = around.memory.recorded_use(frame);
        if let Some(cached) = cached {
            let same_use = match (cached.purpose, recorded) {
                (Some(FrameUse::Page | FrameUse::Pinned), Some(FrameUse::Page | FrameUse::Pinned)) => true,
                // A large entry spans frames of which only one was looked at when it was made.
                (before, now) => cached.pages > 1 || before == now,
            };
            let reason = gone(around.memory, frame, cached.filled_at).map(String::from).or_else(|| {
                (!same_use).then(|| format!("was {:?} and is recorded as {recorded:?} now", cached.purpose))
            });
            if let Some(reason) = reason {
                around.judge.report(
                    ViolationKind::StaleUse,
                    format!(
                        "CPU {cpu} makes an access ({access}) to {address:#x} through a stale TLB entry that leads to \
                         frame {frame:#x}, which {reason}: a flush was missing or too small"
                    ),
                );
            }
        } else if state == FrameState::Free {
            around.judge.report(
                ViolationKind::MapsFreeFrame,
                format!("CPU {cpu} walks {address:#x} and finds frame {frame:#x} mapped, which is free"),
            );
        }
        let forbidden = match recorded {
            Some(FrameUse::Table | FrameUse::Pool | FrameUse::Vector) => true,
            Some(FrameUse::Machine) => access.contains(Access::WRITE),
            _ => false,
        };
        if forbidden && access.contains(Access::USER) {
            around.judge.report(
                ViolationKind::WrongUse,
                format!(
                    "a program on CPU {cpu} makes an access ({access}) to {address:#x} and reaches frame {frame:#x}, \
                     which is recorded as {recorded:?}"
                ),
            );
        }
        true
    }

    /// Forgets what the scope names, and nothing else: as little as the contract of `Platform::flush` permits.
    pub(super) fn flush(&mut self, around: Surroundings<'_>, scope: &FlushScope) {
        self.check_break_before_make(around);
        if scope.is_everything() {
            self.forget_everything();
            return self.read_top(around);
        }
        let page_shift = self.page_shift();
        for entry in scope.entries() {
            let tag = entry.tag.0;
            match entry.range {
                Some(range) => {
                    let (first, last) = (range.start().as_u64(), range.last().as_u64());
                    self.tlb.forget(Owner::Tagged(tag), first >> page_shift, last >> page_shift);
                    if scope.globals() {
                        self.tlb.forget(Owner::Global, first >> page_shift, last >> page_shift);
                    }
                    if scope.tables() {
                        // Tables below global entries are reached from every space.
                        self.structures.forget((!scope.globals()).then_some(tag), first, last);
                    }
                    self.forget_absences(around, tag, first, last, scope);
                }
                None => {
                    self.tlb.forget_owner(Owner::Tagged(tag));
                    if scope.globals() {
                        self.tlb.forget_owner(Owner::Global);
                    }
                    if scope.tables() && scope.globals() {
                        self.structures.clear();
                    } else if scope.tables() {
                        self.structures.forget_tag(tag);
                    }
                    self.forget_absences(around, tag, 0, u64::MAX, scope);
                }
            }
        }
        if scope.tables() {
            // A flush of tables is a load of the root where its entries are in registers.
            self.read_top(around);
        }
    }

    /// A flush of a range is one of leaves, unless it notes tables: that an entry above the lowest level was absent is forgotten only
    /// if it does, or if that entry is a leaf by now.
    fn forget_absences(&mut self, around: Surroundings<'_>, tag: u16, first: u64, last: u64, scope: &FlushScope) {
        let hardware = self.hardware;
        let (walker, page_shift) = (walker(&hardware, around, self.number), self.page_shift());
        self.absences.retain(|absence| {
            let named = (absence.tag == tag || scope.globals()) && absence.address <= last && first <= absence.last();
            if !named {
                return true;
            }
            let is_leaf_now = || {
                is_root(around.memory, absence.root, around.memory.now())
                    && (walker.walk(walker.start_at(absence.root), absence.address, None, |_, _, _| {}))
                        .is_ok_and(|found| found.pages >= 1 << (absence.shift - page_shift))
            };
            !(scope.tables() || absence.shift == page_shift || is_leaf_now())
        });
    }
}

/// Whether a frame that was a root at `filled_at` still is a table.
pub(super) fn is_root(memory: &Memory, root: u64, filled_at: u64) -> bool {
    gone(memory, root, filled_at).is_none()
        && memory.state(root) != FrameState::Missing
        && memory.recorded_use(root).is_none_or(|recorded| recorded == FrameUse::Table)
}

/// Why what was remembered of a frame at `filled_at` is about an earlier life of it, if it is.
pub(super) fn gone(memory: &Memory, frame: u64, filled_at: u64) -> Option<&'static str> {
    match memory.state(frame) {
        FrameState::Free => Some("is free"),
        FrameState::GivenOut(tick) if tick > filled_at => Some("was freed and given out again"),
        _ => None,
    }
}
