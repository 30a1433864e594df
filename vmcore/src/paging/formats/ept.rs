//! EPT: the second stage of Intel's virtual machines, from guest-physical to physical addresses. Four or five levels.
//!
//! Intel SDM volume 3C, section 29.3 "The Extended Page Table Mechanism (EPT)" (tables 29-1 to 29-7); section 29.3.7 "EPT and Memory
//! Typing". (Older editions count this chapter 28.)
//!
//! ```text
//!   address   63..48   47..39    38..30    29..21    20..12    11..0
//!             = 0      PML4      PDPT      PD        PT        offset      (PML5 above: 56..48)
//!   level                3         2         1         0
//!
//!             63 62..57 56..52 51..MAX MAX-1..............12 11   10  9   8  7    6    5..3   2 1 0
//!   table     ignored          res.    table's address       ignored      A  res. res. res.   X W R
//!   4 KiB     0  0      soft   res.    page's address        ign. -   D   A  ign. IPAT type   X W R
//!   2 MiB     0  0      soft   res.    address (51..21) res. ign. -   D   A  1    IPAT type   X W R
//!   1 GiB     as 2 MiB                 address (51..30) res.
//! ```
//!
//! An entry is present if any of R, W and X is set. W without R is a misconfiguration, of a table's entry as of a page's, and so is X
//! without R on a machine that lacks it (IA32_VMX_EPT_VPID_CAP bit 0). The type (0 UC, 1 WC, 4 WT, 5 WP, 6 WB) is combined with the
//! guest's PAT unless IPAT is set. A and D are kept by the hardware if the EPTP says so.
//! Permissions combine over levels.
//!
//! Left out, and 0 in every entry: bit 10 (mode-based execution), 57 to 61 (guest paging verification, sub-page permissions, supervisor
//! shadow stacks) and 63 (suppress #VE). Nothing is a program's or the kernel's: the guest's own tables tell its accesses apart. So
//! [`Access::USER`] and global leaves are errors.

use super::{UNUSED, bits, clamp, in_place};
use crate::paging::memory_type::Numbers;
use crate::paging::{
    Access, AddressField, Canonical, Combinations, Flag, Format, LeafTest, LevelFormat, MemoryType, Mmu, Permissions,
};

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const EXECUTE: u64 = 1 << 2;
const PAGE_SIZE: u64 = 1 << 7;
/// The type, its lowest bit first, and IPAT.
const MEMORY: [u64; 4] = [1 << 3, 1 << 4, 1 << 5, 1 << 6];
/// The types of leaves (SDM section 29.3.7; the other numbers are misconfigurations).
const NUMBERS: Numbers = Numbers(&[
    (MemoryType::Uncached, 0),
    (MemoryType::WriteCombining, 1),
    (MemoryType::WriteThrough, 4),
    (MemoryType::WriteProtected, 5),
    (MemoryType::WriteBack, 6),
]);
/// IPAT as a bit of the code.
const IGNORE_PAT: u32 = 8;

const MAX_PHYSICAL_BITS: u32 = 52;
const MIN_PHYSICAL_BITS: u32 = 32;

const PERMISSIONS: Permissions = Permissions {
    readable: Flag::yes(0),
    writable: Flag::yes(1),
    executable: Flag::yes(2),
    kernel_executable: Flag::NONE,
    user: Flag::NONE,
    combinations: Combinations::READ_OR_EXECUTE,
};

const LEVEL: LevelFormat = LevelFormat {
    shift: 12,
    index_bits: 9,
    leaf_test: LeafTest::AnySet(PAGE_SIZE),
    leaf_set: PAGE_SIZE,
    leaf_reserved: UNUSED,
    leaf_address: in_place(12, MAX_PHYSICAL_BITS),
    leaf_address_high: AddressField::NONE,
    contiguous: None,
    memory_bits: MEMORY,
    table_set: READ | WRITE | EXECUTE,
    table_reserved: bits(3, 8),
    table_address: in_place(12, MAX_PHYSICAL_BITS),
    table_address_high: AddressField::NONE,
    table_limits: true,
    name: "",
};

const FORMAT: Format = Format {
    name: "EPT",
    levels: &[
        LevelFormat { leaf_test: LeafTest::Always, leaf_set: 0, name: "EPT PT", ..LEVEL },
        LevelFormat {
            shift: 21,
            leaf_reserved: bits(12, 21),
            leaf_address: in_place(21, MAX_PHYSICAL_BITS),
            name: "EPT PD",
            ..LEVEL
        },
        LevelFormat {
            shift: 30,
            leaf_reserved: bits(12, 30),
            leaf_address: in_place(30, MAX_PHYSICAL_BITS),
            name: "EPT PDPT",
            ..LEVEL
        },
        LevelFormat { shift: 39, leaf_test: LeafTest::Never, name: "EPT PML4", ..LEVEL },
        LevelFormat { shift: 48, leaf_test: LeafTest::Never, name: "EPT PML5", ..LEVEL },
    ],
    canonical: Canonical::ZeroExtended,
    present: READ | WRITE | EXECUTE,
    leaf: PERMISSIONS,
    table: Some(PERMISSIONS),
    global: Flag::NONE,
    accessed: Flag::yes(8),
    dirty: Flag::yes(9),
    dirty_modifier: 0,
    key: (0, 0),
    software: (52, 5),
    // Bit 10 would make the entry present under mode-based execution, and 63 concerns #VE.
    absent: (11, 52),
    break_before_make: false,
};

/// The tables of a guest's physical memory under Intel's virtualisation.
#[derive(Clone, Copy, Debug)]
pub struct Ept {
    physical_bits: u32,
    five_levels: bool,
    execute_only: bool,
    ignore_pat: bool,
    vpid: bool,
}

impl Ept {
    /// EPT of four levels on a machine with `physical_bits` bits of physical address (CPUID 80000008h), combining its memory types
    /// with the guest's PAT.
    ///
    /// Widths outside of 32 to 52 are taken as the nearer of the two: no machine has them.
    pub const fn new(physical_bits: u32) -> Self {
        Self {
            physical_bits: clamp(physical_bits, MIN_PHYSICAL_BITS, MAX_PHYSICAL_BITS),
            five_levels: false,
            execute_only: false,
            ignore_pat: false,
            vpid: false,
        }
    }

    /// The same with five levels (the EPTP's walk length 5): guest-physical addresses of 57 bits.
    pub const fn five_levels(mut self) -> Self {
        self.five_levels = true;
        self
    }

    /// The same on a machine that can map memory to be executed and not read (IA32_VMX_EPT_VPID_CAP bit 0).
    pub const fn execute_only(mut self) -> Self {
        self.execute_only = true;
        self
    }

    /// The same with memory types that the guest's PAT does not change: every leaf has IPAT set.
    pub const fn ignore_guest_pat(mut self) -> Self {
        self.ignore_pat = true;
        self
    }

    /// The same with virtual-processor identifiers (the VM-execution control "enable VPID"; section 29.1): 65,536 tags, of which 0 is
    /// the host's own. They tell combined translations apart. What is kept of guest-physical addresses alone is told apart by the
    /// root (section 29.4.1): to forget a tag is to forget its root too, by INVEPT.
    pub const fn vpid(mut self) -> Self {
        self.vpid = true;
        self
    }
}

// SAFETY: the description above is that of the manual's EPT: 512 entries of 8 bytes fill a frame of 4 KiB, shifts grow by 9 from 12,
// and the address fields reach up to bit 51, which `new` never lets the physical width pass.
unsafe impl Mmu for Ept {
    type Word = u64;
    const FORMAT: &'static Format = &FORMAT;

    #[inline]
    fn levels(&self) -> usize {
        if self.five_levels { 5 } else { 4 }
    }

    #[inline]
    fn physical_bits(&self) -> u32 {
        self.physical_bits
    }

    #[inline]
    fn tags(&self) -> u32 {
        if self.vpid { 1 << 16 } else { 1 }
    }

    #[inline]
    fn memory_code(&self, memory: MemoryType) -> Option<u32> {
        let code = u32::from(NUMBERS.of(memory)?);
        Some(if self.ignore_pat { code | IGNORE_PAT } else { code })
    }

    #[inline]
    fn memory_type(&self, code: u32) -> Option<MemoryType> {
        NUMBERS.memory(code & !IGNORE_PAT)
    }

    #[inline]
    fn has_access(&self, access: Access) -> bool {
        self.execute_only || access.contains(Access::READ)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Frame;
    use crate::paging::{EncodeError, Entry, Leaf, Limits};

    /// Words put together by hand from the SDM's tables 29-1 to 29-7.
    #[test]
    fn words_from_the_manual() {
        let mmu = Ept::new(52);
        let leaf = Leaf::new(Frame::new(0x12345));
        // R, W, type 6.
        assert_eq!(mmu.encode_leaf(0, leaf.writable()), Ok(0x1234_5033));
        // R, X, type 0, A; the guest's PAT ignored.
        let uncached = Leaf { accessed: true, ..leaf.executable().memory(MemoryType::Uncached) };
        assert_eq!(mmu.ignore_guest_pat().encode_leaf(0, uncached), Ok(0x1234_5145));
        // 2 MiB: R, W, X, type 1, PS, A, D, software bits 56..52.
        let large = Leaf::new(Frame::new(0x200)).writable().executable().memory(MemoryType::WriteCombining);
        assert_eq!(mmu.encode_leaf(1, large.used().software(0x1f)), Ok(0x01f0_0000_0020_038f));
        assert_eq!(mmu.encode_table(3, Frame::new(0x1234)), Ok(0x123_4007));
        assert_eq!(mmu.decode(3, 0x123_4107), Entry::Table(Frame::new(0x1234), Limits::NONE), "accessed");
        let Entry::Table(_, limits) = mmu.decode(2, 0x123_4005) else { panic!("a table") };
        assert_eq!(Access::all() & limits, Access::READ | Access::EXECUTE | Access::USER);
        for (level, word, why) in [
            (0, 0x1234_5032, "written, not read"),
            (0, 0x1234_5034, "executed, not read"),
            (0, 0x1234_5013, "type 2"),
            (0, 0x1234_503b, "type 7"),
            (1, 0x0020_10b7, "address bit 12 of a 2 MiB leaf"),
            (3, 0x123_4087, "bit 7 of a PML4 entry"),
            (2, 0x123_400f, "a type in a table's entry"),
            (2, 0x123_4002, "a table's entry with W and not R"),
            (3, 0x123_4006, "one with W and X and not R"),
            (1, 0x123_4004, "one with X and not R, on a machine without it"),
        ] {
            assert_eq!((mmu.decode(level, word), mmu.decode_table(level, word)), (Entry::Reserved, None), "{why}");
        }
        let Entry::Table(_, limits) = mmu.execute_only().decode(1, 0x123_4004) else { panic!("a table") };
        assert_eq!(Access::all() & limits, Access::EXECUTE | Access::USER);
        assert_eq!(mmu.decode(0, 0x7fff_ffff_ffff_f800), Entry::Absent((1 << 52) - 1));
    }

    #[test]
    fn what_does_not_exist_is_an_error() {
        let mmu = Ept::new(40);
        let leaf = Leaf::new(Frame::new(1));
        assert_eq!(mmu.encode_leaf(0, leaf.access(Access::EXECUTE)), Err(EncodeError::Access(Access::EXECUTE)));
        assert_eq!(mmu.execute_only().encode_leaf(0, leaf.access(Access::EXECUTE)), Ok(0x1034));
        assert_eq!(mmu.execute_only().decode(0, 0x1034), Entry::Leaf(leaf.access(Access::EXECUTE)));
        let user = leaf.user();
        assert_eq!(mmu.encode_leaf(0, user), Err(EncodeError::Access(user.access)));
        assert_eq!(mmu.encode_leaf(0, leaf.global()), Err(EncodeError::Global));
        let weak = MemoryType::UncachedMinus;
        assert_eq!(mmu.encode_leaf(0, leaf.memory(weak)), Err(EncodeError::MemoryType(weak)));
        assert!(mmu.range(1 << 47, 0x1000).is_ok() && mmu.range(1 << 48, 0x1000).is_err());
        assert!(mmu.five_levels().range(1 << 56, 0x1000).is_ok());
    }
}
