//! The x86-64 table walker, written from the manual (Intel SDM volume 3, chapter 5) in plain numbers.
//!
//! It shares no code with the encoders of `paging`, so that a wrong bit there is a wrong translation here.
//!
//! ```text
//!   63 62       52 51                12 11    9  8  7  6  5  4  3  2  1  0
//!   XD |  ignored |   frame or table   | ign. | G |PS| D| A|PCD|PWT|US|RW|P     PS is the PAT bit in a 4 KiB leaf
//!
//!   address:  47..39 index of the root (shift 39)    a leaf of 1 GiB has its PAT bit at 12, bits 13..29 reserved
//!             38..30 (shift 30), may be a leaf       a leaf of 2 MiB has its PAT bit at 12, bits 13..20 reserved
//!             29..21 (shift 21), may be a leaf       bit 7 of a root entry is reserved
//!             20..12 (shift 12), is a leaf
//! ```
//!
//! CR0.WP, EFER.NXE and CR4.PGE are set, CR4.SMEP, SMAP and PKE are clear.

use alloc::format;

use super::judge::{Judge, ViolationKind};
use super::memory::{FrameState, GARBAGE, Memory, POISON};
use crate::frame::FrameUse;
use crate::paging::{Access, MemoryType};
use crate::word::Ordering;

/// What every entry on the way to a page lets through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rights {
    pub(super) write: bool,
    pub(super) user: bool,
    pub(super) execute: bool,
}

impl Rights {
    pub(super) const ALL: Self = Self { write: true, user: true, execute: true };

    /// Section "Determination of Access Rights": writes by the supervisor respect R/W too, since CR0.WP is set.
    pub(super) fn allow(self, access: Access) -> bool {
        (self.user || !access.contains(Access::USER))
            && (self.write || !access.contains(Access::WRITE))
            && (self.execute || !access.contains(Access::EXECUTE))
    }

    /// Whether nothing is allowed here that `other` does not allow.
    pub(super) fn within(self, other: Self) -> bool {
        (other.user || !self.user) && (other.write || !self.write) && (other.execute || !self.execute)
    }

    fn through(self, word: u64) -> Self {
        Self {
            write: self.write && word & 0x2 != 0,
            user: self.user && word & 0x4 != 0,
            execute: self.execute && word & 0x8000_0000_0000_0000 == 0,
        }
    }

    pub(super) fn access(self) -> Access {
        let mut access = Access::READ;
        access.set(Access::WRITE, self.write);
        access.set(Access::USER, self.user);
        access.set(Access::EXECUTE, self.execute);
        access
    }
}

/// The registers that a walk depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registers {
    pub(super) physical_bits: u32,
    /// IA32_PAT: eight memory types of a byte each.
    pub(super) pat: u64,
}

/// Where a walk begins: at the root, or at a table that a paging-structure cache knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) table: u64,
    /// The lowest bit of the index into that table: 39, 30, 21 or 12.
    pub(super) shift: u32,
    pub(super) rights: Rights,
}

/// Where a walk ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// The number of the first page that the leaf maps.
    pub(super) page: u64,
    /// How many pages it maps.
    pub(super) pages: u64,
    /// The frame of the first one.
    pub(super) frame: u64,
    pub(super) rights: Rights,
    pub(super) memory: MemoryType,
    pub(super) global: bool,
    pub(super) dirty: bool,
}

/// Why a walk ended without a translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    NotPresent,
    Permission,
    Reserved,
    /// A table lies where no memory is: reported as a violation already.
    Bus,
}

pub(super) const fn is_canonical(address: u64) -> bool {
    let upper = address >> 47;
    upper == 0 || upper == 0x1_ffff
}

/// The type that a byte of the PAT stands for (SDM table 13-10); `None` for a byte that the register refuses.
pub(super) const fn pat_type(byte: u64) -> Option<MemoryType> {
    match byte {
        0 => Some(MemoryType::Uncached),
        1 => Some(MemoryType::WriteCombining),
        4 => Some(MemoryType::WriteThrough),
        5 => Some(MemoryType::WriteProtected),
        6 => Some(MemoryType::WriteBack),
        7 => Some(MemoryType::UncachedMinus),
        _ => None,
    }
}

/// Who walks, for the judge's sentences.
pub(super) struct Walker<'a> {
    pub(super) memory: &'a Memory,
    pub(super) judge: &'a Judge,
    pub(super) registers: Registers,
    pub(super) cpu: usize,
}

impl Walker<'_> {
    /// Walks `address` down from `start`. `visit` is told of each table that an entry leads to: the entry's shift, the
    /// table, and the rights up to there.
    ///
    /// With an access the walk is the hardware's: it checks permissions and sets accessed and dirty bits. Without one
    /// it only looks.
    pub(super) fn walk(
        &self,
        start: Start,
        address: u64,
        access: Option<Access>,
        mut visit: impl FnMut(u32, u64, Rights),
    ) -> Result<Found, Stop> {
        let Start { mut table, mut shift, mut rights } = start;
        loop {
            self.check_table(table, address)?;
            let index = (address >> shift & 0x1ff) as usize;
            let Some(slot) = self.memory.word(table, index) else { return Err(Stop::Bus) };
            let word = slot.load(Ordering::Acquire);
            if word & 0x1 == 0 {
                return Err(Stop::NotPresent);
            }
            let is_leaf = shift == 12 || (shift != 39 && word & 0x80 != 0);
            if word & self.reserved(shift, is_leaf) != 0 {
                return Err(Stop::Reserved);
            }
            let below = rights.through(word);
            if !is_leaf {
                if access.is_some() && !self.mark(slot, word, 0x20) {
                    continue;
                }
                let next = (word & 0x000f_ffff_ffff_f000) >> 12;
                visit(shift, next, below);
                (table, shift, rights) = (next, shift - 9, below);
                continue;
            }
            let mut dirty = word & 0x40 != 0;
            if let Some(access) = access {
                if !below.allow(access) {
                    return Err(Stop::Permission);
                }
                let writes = access.contains(Access::WRITE);
                if !self.mark(slot, word, if writes { 0x60 } else { 0x20 }) {
                    continue;
                }
                dirty |= writes;
            }
            // The reserved bits are clear, so below the leaf's size only flags are left (bit 12 is a larger leaf's PAT
            // bit).
            let frame = (word & 0x000f_ffff_ffff_f000) >> shift << (shift - 12);
            let pat_bit = if shift == 12 { word >> 7 & 1 } else { word >> 12 & 1 };
            let pat_index = pat_bit << 2 | (word >> 3 & 3);
            return Ok(Found {
                page: address >> shift << (shift - 12),
                pages: 1 << (shift - 12),
                frame,
                rights: below,
                memory: pat_type(self.registers.pat >> (pat_index * 8) & 0xff).unwrap_or(MemoryType::Uncached),
                global: word & 0x100 != 0,
                dirty,
            });
        }
    }

    /// A table that a CPU begins to use must have been cleared: none of its words is the allocator's pattern.
    pub(super) fn check_cleared(&self, table: u64) {
        for index in 0..0x200 {
            let Some(word) = self.memory.word(table, index).map(|word| word.load(Ordering::Acquire)) else { return };
            if word == GARBAGE || word == POISON {
                return self.judge.report(
                    ViolationKind::TableNotCleared,
                    format!(
                        "CPU {} began to use the table in frame {table:#x}, whose entry {index:#x} still holds the \
                         allocator's pattern {word:#x}: it was linked before it was cleared",
                        self.cpu
                    ),
                );
            }
        }
    }

    /// The bits that fault in an entry.
    fn reserved(&self, shift: u32, is_leaf: bool) -> u64 {
        let beyond_memory = 0x000f_ffff_ffff_ffff & !((1_u64 << self.registers.physical_bits) - 1);
        beyond_memory
            | match (shift, is_leaf) {
                (39, _) => 0x80,
                (30, true) => 0x3fff_e000,
                (21, true) => 0x001f_e000,
                _ => 0,
            }
    }

    /// Sets accessed and dirty as the hardware does: by a locked compare and exchange of the entry that was read. False
    /// if the entry has changed meanwhile and must be read again.
    fn mark(&self, slot: &crate::word::AtomicU64, word: u64, bits: u64) -> bool {
        word & bits == bits || slot.compare_exchange(word, word | bits, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The frame that is about to be read as a table must be one.
    fn check_table(&self, table: u64, address: u64) -> Result<(), Stop> {
        let cpu = self.cpu;
        match self.memory.state(table) {
            FrameState::Missing => {
                self.judge.report(
                    ViolationKind::NoSuchFrame,
                    format!(
                        "CPU {cpu} walks {address:#x} into a table in frame {table:#x}, which this machine does not \
                         have"
                    ),
                );
                Err(Stop::Bus)
            }
            FrameState::Free => {
                self.judge.report(
                    ViolationKind::StaleUse,
                    format!("CPU {cpu} walks {address:#x} through a table in frame {table:#x}, which is free"),
                );
                Ok(())
            }
            FrameState::Device => Ok(()),
            FrameState::GivenOut(_) => {
                let recorded = self.memory.recorded_use(table);
                if recorded != Some(FrameUse::Table) {
                    self.judge.report(
                        ViolationKind::NotATable,
                        format!(
                            "CPU {cpu} walks {address:#x} through a table in frame {table:#x}, which is recorded as \
                             {recorded:?}"
                        ),
                    );
                }
                Ok(())
            }
        }
    }
}
