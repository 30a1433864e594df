//! A CPU: the root that it has loaded, what it remembers of the tables, and how it makes an access.
//!
//! ```text
//!   access --> canonical? --> TLB --> paging-structure cache --> walk --> TLB entry --> frame
//!                  |           |hit: used as it is                |
//!                  v           v                                  v
//!                fault <-- too few rights <----- not present, permission, reserved bits
//!                  |
//!                  +--> what would translate the address is forgotten (SDM, "Details of TLB Use")
//! ```

use alloc::format;
use alloc::string::String;
use core::fmt;

use super::judge::{Judge, ViolationKind};
use super::memory::{FrameState, Memory};
use super::structures::{Pointer, StructureCache};
use super::tlb::{Cached, Owner, Tlb};
use super::walker::{Found, Registers, Rights, Start, Stop, Walker, is_canonical};
use crate::addr::{Frame, PhysAddr, VirtAddr};
use crate::frame::FrameUse;
use crate::paging::{Access, FlushScope, MemoryType, Tag};

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
}

impl SimFault {
    /// The page-fault error code (SDM, "Page-Fault Exceptions").
    pub const fn error_code(&self) -> u64 {
        let mut code = match self.kind {
            FaultKind::Permission => 0x1,
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

    /// Whether the page was present: the fault is about permissions or reserved bits.
    pub const fn is_present(&self) -> bool {
        self.error_code() & 1 != 0
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
}

impl Translation {
    /// The frame that the address leads to.
    pub const fn frame(&self) -> Frame {
        Frame::containing(self.physical, 12)
    }
}

/// What a CPU needs of the machine to make an access.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) memory: &'a Memory,
    pub(super) judge: &'a Judge,
    pub(super) registers: Registers,
    /// Whether translations of this address may outlive the frames that they lead to.
    pub(super) is_lasting: &'a dyn Fn(u64) -> bool,
}

pub(super) struct Cpu {
    pub(super) number: usize,
    pub(super) root: Option<(u64, u16)>,
    pub(super) tlb: Tlb,
    pub(super) structures: StructureCache,
}

impl Cpu {
    pub(super) fn new(number: usize) -> Self {
        Self { number, root: None, tlb: Tlb::default(), structures: StructureCache::default() }
    }

    pub(super) fn walker<'a>(&self, around: Surroundings<'a>) -> Walker<'a> {
        Walker { memory: around.memory, judge: around.judge, registers: around.registers, cpu: self.number }
    }

    pub(super) fn root(&self) -> Option<(Frame, Tag)> {
        self.root.map(|(root, tag)| (Frame::new(root), Tag(tag)))
    }

    pub(super) fn cached_translations(&self) -> usize {
        self.tlb.len()
    }

    /// Writes CR3: with tag 0 everything of that tag is forgotten except global translations; with another tag nothing
    /// is.
    pub(super) fn load(&mut self, around: Surroundings<'_>, root: u64, tag: u16) {
        if tag == 0 {
            self.tlb.forget_owner(Owner::Tagged(0));
            self.structures.forget_tag(0);
        }
        self.root = Some((root, tag));
        self.walker(around).check_cleared(root);
    }

    /// Leaves the root that was loaded, as a CPU that is switched off does: nothing is remembered.
    pub(super) fn unload(&mut self) {
        self.root = None;
        self.tlb.clear();
        self.structures.clear();
    }

    /// Translates one address for one access, as the hardware would.
    pub(super) fn translate(
        &mut self,
        around: Surroundings<'_>,
        address: u64,
        access: Access,
    ) -> Result<Translation, SimFault> {
        let fault = |kind| SimFault { address: VirtAddr::new(address), access, kind };
        if !is_canonical(address) {
            return Err(fault(FaultKind::NonCanonical));
        }
        let Some((root, tag)) = self.root else {
            panic!("CPU {} makes an access to {address:#x} but has no root: load one first", self.number)
        };
        let page = address >> 12;
        if let Some((owner, first, cached)) = self.tlb.lookup(tag, page) {
            if !cached.rights.allow(access) {
                self.forget_after_fault(tag, address);
                return Err(fault(FaultKind::Permission));
            }
            if cached.dirty || !access.contains(Access::WRITE) {
                let frame = cached.frame + (page - first);
                self.judge_use(around, address, frame, access, Some(&cached));
                return Ok(Translation {
                    physical: PhysAddr::new(frame << 12 | address & 0xfff),
                    access: cached.rights.access(),
                    memory: cached.memory,
                    global: owner == Owner::Global,
                    from_tlb: true,
                });
            }
            // The dirty bit must be set in the tables: the entry is walked again.
            self.tlb.forget(owner, page, page);
        }
        let found = match self.walk(around, root, tag, address, access) {
            Ok(found) => found,
            Err(stop) => {
                self.forget_after_fault(tag, address);
                return Err(fault(match stop {
                    Stop::NotPresent => FaultKind::NotPresent,
                    Stop::Permission => FaultKind::Permission,
                    Stop::Reserved => FaultKind::Reserved,
                    Stop::Bus => FaultKind::Bus,
                }));
            }
        };
        if !self.remember(around, root, tag, address, access, found) {
            return Err(fault(FaultKind::Bus));
        }
        Ok(Translation {
            physical: PhysAddr::new((found.frame + (page - found.page)) << 12 | address & 0xfff),
            access: found.rights.access(),
            memory: found.memory,
            global: found.global,
            from_tlb: false,
        })
    }

    /// What a CPU may do unasked at any moment: walk for an address that it guesses will be used, and remember what it
    /// finds. Never faults.
    pub(super) fn prefetch(&mut self, around: Surroundings<'_>, address: u64) {
        let Some((root, tag)) = self.root else { return };
        if !is_canonical(address) || self.tlb.lookup(tag, address >> 12).is_some() {
            return;
        }
        if let Ok(found) = self.walk(around, root, tag, address, Access::READ) {
            self.remember(around, root, tag, address, Access::READ, found);
        }
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
        let page = address >> 12;
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
            root,
            // Read after the walk: the frame may have been given out and mapped while it was under way. It was not
            // freed meanwhile, since a free looks at this CPU first and waits for its lock.
            filled_at: around.memory.now(),
            purpose: around.memory.recorded_use(frame),
        };
        let owner = if found.global { Owner::Global } else { Owner::Tagged(tag) };
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
        let walker = self.walker(around);
        let mut start = Start { table: root, shift: 39, rights: Rights::ALL };
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
            start = Start { table: pointer.table, shift: shift - 9, rights: pointer.rights };
        }
        let structures = &mut self.structures;
        walker.walk(start, address, Some(access), |shift, table, rights| {
            let filled_at = around.memory.now();
            if structures.insert(tag, shift, address, Pointer { table, rights, root, filled_at }) {
                walker.check_cleared(table);
            }
        })
    }

    /// A page fault makes the CPU forget what would translate the address.
    fn forget_after_fault(&mut self, tag: u16, address: u64) {
        let page = address >> 12;
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
    pub(super) fn flush(&mut self, scope: &FlushScope) {
        if scope.is_everything() {
            self.tlb.clear();
            self.structures.clear();
            return;
        }
        for entry in scope.entries() {
            let tag = entry.tag.0;
            match entry.range {
                Some(range) => {
                    let (first, last) = (range.start().as_u64(), range.last().as_u64());
                    self.tlb.forget(Owner::Tagged(tag), first >> 12, last >> 12);
                    if scope.globals() {
                        self.tlb.forget(Owner::Global, first >> 12, last >> 12);
                    }
                    if scope.tables() {
                        // Tables below global entries are reached from every space.
                        self.structures.forget((!scope.globals()).then_some(tag), first, last);
                    }
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
                }
            }
        }
    }
}

/// Why what was remembered of a frame at `filled_at` is about an earlier life of it, if it is.
pub(super) fn gone(memory: &Memory, frame: u64, filled_at: u64) -> Option<&'static str> {
    match memory.state(frame) {
        FrameState::Free => Some("is free"),
        FrameState::GivenOut(tick) if tick > filled_at => Some("was freed and given out again"),
        _ => None,
    }
}
