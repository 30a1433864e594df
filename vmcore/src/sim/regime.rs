//! What a format's walker tells of it: the geometry, what one entry means, who may do what, and what its TLBs may do.
//!
//! A walk is the same everywhere: read an entry, ask what it means, go on or end. Everything else is a [`Regime`], one file per
//! format in [`formats`](super::formats), each written from its manual in plain numbers and sharing no code with the encoders of
//! `paging`, so that a wrong bit there is a wrong translation here.

use crate::paging::{Access, MemoryType};

/// What every entry on the way to a page lets through, as the bits say it: what comes of it is decided at the access, since the
/// registers that decide (SMAP's AC, SUM, PAN, protection keys) change without a flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rights {
    pub(super) read: bool,
    pub(super) write: bool,
    /// Executed by programs; by anybody where the format does not tell the two apart.
    pub(super) execute: bool,
    /// Executed by the kernel.
    pub(super) kernel_execute: bool,
    pub(super) user: bool,
    /// The leaf's protection key.
    pub(super) key: u8,
    /// An entry above says that all below is global (RISC-V).
    pub(super) global: bool,
}

impl Rights {
    pub(super) const ALL: Self =
        Self { read: true, write: true, execute: true, kernel_execute: true, user: true, key: 0, global: false };

    /// Whether nothing is allowed here that `other` does not allow.
    pub(super) fn within(self, other: Self) -> bool {
        (other.read || !self.read)
            && (other.write || !self.write)
            && (other.execute || !self.execute)
            && (other.kernel_execute || !self.kernel_execute)
            && (other.user || !self.user)
            && self.key == other.key
    }

    /// What the page permits to its owner: a program if it is a program's, the kernel otherwise.
    pub(super) fn access(self) -> Access {
        let mut access = Access::empty();
        access.set(Access::READ, self.read);
        access.set(Access::WRITE, self.write);
        access.set(Access::USER, self.user);
        access.set(Access::EXECUTE, if self.user { self.execute } else { self.kernel_execute });
        access
    }
}

/// What an access is to the hardware: a fetch, a store, or else a load.
pub(super) fn is_load(access: Access) -> bool {
    !access.intersects(Access::WRITE | Access::EXECUTE)
}

/// A leaf, as one entry says it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaf {
    /// The physical address of the first byte of all that the TLB may keep as one.
    pub(super) base: u64,
    /// How many bytes that is, as a power of two: more than the entry's own size for a member of a contiguous group.
    pub(super) span: u32,
    /// The physical address in this entry, where each member of a group has its own.
    pub(super) own: Option<u64>,
    pub(super) rights: Rights,
    pub(super) memory: MemoryType,
    pub(super) global: bool,
    pub(super) dirty: bool,
    /// The word after the hardware has marked a load or a fetch; `None` if it faults for software to do so.
    pub(super) after_read: Option<u64>,
    /// The word after it has marked a store.
    pub(super) after_write: Option<u64>,
}

/// What one entry means.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Absent,
    Reserved,
    Table {
        /// The physical address of the table.
        address: u64,
        /// What is let through from the root to there.
        below: Rights,
        /// The word after the hardware has used it.
        marked: u64,
    },
    Leaf(Leaf),
}

/// What TLBs of a format may do, taken at its worst.
#[derive(Clone, Copy, Debug)]
pub(super) struct TlbRules {
    /// A fault makes the CPU forget what would translate the address.
    pub(super) forgets_after_fault: bool,
    /// That nothing is mapped may be remembered.
    pub(super) keeps_absences: bool,
    /// A live entry may become another one only through an absent one and a flush.
    pub(super) break_before_make: bool,
}

/// A format, with the registers of a CPU.
pub(super) trait Regime {
    /// The size of a page as a power of two.
    fn page_shift(&self) -> u32;

    /// Whether entries are 32 bits wide.
    fn is_narrow(&self) -> bool {
        false
    }

    /// Whether the address exists.
    fn has(&self, address: u64) -> bool;

    /// The lowest address bit of the index into the root.
    fn top(&self) -> u32;

    /// How many bits the index into a table has whose lowest bit is `shift`.
    fn index_bits(&self, shift: u32) -> u32;

    /// The lowest bit of the index into a table below one of `shift`.
    fn below(&self, shift: u32) -> u32;

    /// What `word` means as an entry of a table of `shift`.
    fn step(&self, shift: u32, word: u64, above: Rights) -> Step;

    /// Whether the access is permitted, with the registers as they are now.
    fn permits(&self, rights: Rights, access: Access) -> bool;

    fn tlb(&self) -> TlbRules;

    /// Whether the root's entries are read into registers when it is loaded, and not again before it is loaded again.
    fn has_top_registers(&self) -> bool {
        false
    }
}

/// The bits `low..high`.
pub(super) const fn bits(low: u32, high: u32) -> u64 {
    (if high >= 64 { u64::MAX } else { (1 << high) - 1 }) & !((1 << low) - 1)
}

/// Whether bits `width..64` are all zero.
pub(super) const fn is_zero_extended(address: u64, width: u32) -> bool {
    width >= 64 || address >> width == 0
}

/// Whether bits `width - 1..64` are all alike.
pub(super) const fn is_sign_extended(address: u64, width: u32) -> bool {
    let upper = address as i64 >> (width - 1);
    upper == 0 || upper == -1
}

/// The type that a byte of IA32_PAT stands for (SDM table 13-10, "Memory Types That Can Be Encoded With PAT"); `None` for a byte
/// that the register refuses.
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

/// What PAT, PCD and PWT of an entry select, `pat_bit` being the position of the first.
pub(super) fn pat_selected(pat: u64, word: u64, pat_bit: u32) -> MemoryType {
    let index = (word >> pat_bit & 1) << 2 | (word >> 3 & 3);
    pat_type(pat >> (index * 8) & 0xff).unwrap_or(MemoryType::Uncached)
}

/// The type that a byte of MAIR_ELx stands for (Arm ARM, "MAIR_EL1", both halves alike); `None` for one without a name here.
pub(super) const fn mair_type(byte: u64) -> Option<MemoryType> {
    match byte {
        0x00 => Some(MemoryType::Device),
        0x04 => Some(MemoryType::DeviceEarly),
        0x08 => Some(MemoryType::DeviceReordering),
        0x0c => Some(MemoryType::DeviceGathering),
        0x44 => Some(MemoryType::WriteCombining),
        // Write-through, non-transient, allocating on reads, or on reads and writes.
        0xaa | 0xbb => Some(MemoryType::WriteThrough),
        0xee | 0xff => Some(MemoryType::WriteBack),
        _ => None,
    }
}
