//! Arm, AArch64 stage 2: a virtual machine's physical addresses, with granules of 4, 16 and 64 KiB.
//!
//! Arm Architecture Reference Manual for A-profile (DDI 0487), sections D8.3 "Translation table descriptor formats", D8.4 "Memory access
//! control" (stage 2 permissions), D8.6 "Memory region attributes" (stage 2, without FEAT_S2FWB). The levels and where addresses stand are in `granule`.
//!
//! ```text
//!             63..59  58..56 55       54  53  52   51  47..........12 11 10 9..8 7..6  5..2    1 0
//!   table     0       ignored                          address        ignored                  1 1
//!   page      0       soft   dirty    XN  0   cont DBM address        0  AF SH   S2AP  MemAttr 1 1
//!   block     0       soft   dirty    XN  0   cont DBM address        0  AF SH   S2AP  MemAttr 0 1
//! ```
//!
//! S2AP[0]: read. S2AP[1]: written (with DBM: dirty, as in stage 1). Every combination exists, even none. XN forbids execution to EL1 and
//! EL0 alike; bit 53 (FEAT_XNX, which tells the two apart) is reserved here. Tables limit nothing. MemAttr: 0 nGnRnE, 1 nGnRE, 2 nGRE, 3 GRE, 5
//! non-cacheable, 10 write-through, 15 write-back; caches that differ within and without have no name here. Nothing is a program's
//! or the kernel's: the guest's own tables tell its accesses apart. So [`Access::USER`](crate::paging::Access::USER) and
//! global leaves are errors.
//!
//! The root is one table: where the first level would be several tables side by side (concatenated), there is one more level instead. With
//! 4 KiB that is so between 40 and 42 bits, for which some machines have no such level; they take 39.

use super::arm_tag_bits;
use super::granule::{Found, Granule, Stage};
use crate::paging::memory_type::Numbers;
use crate::paging::{Combinations, Flag, Format, MemoryType, Mmu, Permissions};

/// MemAttr, its lowest bit first.
const MEMORY: [u64; 4] = [1 << 2, 1 << 3, 1 << 4, 1 << 5];

/// The memory types in MemAttr that are the same within and without.
const NUMBERS: Numbers = Numbers(&[
    (MemoryType::Device, 0b0000),
    (MemoryType::DeviceEarly, 0b0001),
    (MemoryType::DeviceReordering, 0b0010),
    (MemoryType::DeviceGathering, 0b0011),
    (MemoryType::WriteCombining, 0b0101),
    (MemoryType::WriteThrough, 0b1010),
    (MemoryType::WriteBack, 0b1111),
]);

pub(super) const STAGE: Stage = Stage {
    memory_bits: MEMORY,
    leaf_reserved: 1 << 53,
    leaf: Permissions {
        readable: Flag::yes(6),
        writable: Flag::yes(7),
        executable: Flag::no(54),
        kernel_executable: Flag::NONE,
        user: Flag::NONE,
        combinations: Combinations::ANY,
    },
    table: None,
    global: Flag::NONE,
};

/// The tables of a guest's physical memory under Arm's virtualisation.
#[derive(Clone, Copy, Debug)]
pub struct AArch64Stage2<G: Granule> {
    found: Found<G>,
}

impl<G: Granule> AArch64Stage2<G> {
    /// Guest-physical addresses of `input_bits` bits (64 minus VTCR_EL2.T0SZ), on a machine with `physical_bits` bits of
    /// physical address (VTCR_EL2.PS).
    ///
    /// Widths outside of 25 and the granule's [`MAX_BITS`](Granule::MAX_BITS), or 32 and its
    /// [`MAX_PHYSICAL_BITS`](Granule::MAX_PHYSICAL_BITS), are taken as the nearer of the two.
    pub const fn new(input_bits: u32, physical_bits: u32) -> Self {
        Self { found: Found::new(input_bits, physical_bits) }
    }

    /// The same on a machine whose hardware marks writable leaves as dirty (VTCR_EL2.HA and HD set).
    pub const fn hardware_dirty(mut self) -> Self {
        self.found.hardware_dirty = true;
        self
    }

    /// The same with tags of so many bits, 8 or 16: the VMID of VTTBR_EL2 (ID_AA64MMFR1_EL1.VMIDBits says how many there are, and
    /// VTCR_EL2.VS is to be set for 16). Other numbers are taken as the next lower of these, or as none.
    pub const fn vmid_bits(mut self, bits: u32) -> Self {
        self.found.tag_bits = arm_tag_bits(bits);
        self
    }
}

// SAFETY: the descriptions are those of the manual's VMSAv8-64: tables of 8-byte entries fill a frame of the granule's size at most, shifts
// grow by the bits of an index, and what an address field cannot hold is refused by what encodes it.
unsafe impl<G: Granule> Mmu for AArch64Stage2<G> {
    type Word = u64;
    const FORMAT: &'static Format = &G::STAGE2;

    #[inline]
    fn levels(&self) -> usize {
        self.found.levels()
    }

    #[inline]
    fn index_bits(&self, level: usize) -> u32 {
        self.found.index_bits(level)
    }

    #[inline]
    fn physical_bits(&self) -> u32 {
        self.found.physical_bits
    }

    #[inline]
    fn tags(&self) -> u32 {
        1 << self.found.tag_bits
    }

    #[inline]
    fn memory_code(&self, memory: MemoryType) -> Option<u32> {
        NUMBERS.of(memory).map(u32::from)
    }

    #[inline]
    fn memory_type(&self, code: u32) -> Option<MemoryType> {
        NUMBERS.memory(code)
    }

    #[inline]
    fn lacks_leaves(&self, level: usize) -> bool {
        self.found.lacks_leaves(level)
    }

    #[inline]
    fn marks_dirty(&self) -> bool {
        self.found.hardware_dirty
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Frame;
    use crate::paging::{Access, EncodeError, Entry, Granule4K, Granule64K, Leaf, Limits};

    /// Words put together by hand from the manual's figures of stage 2 descriptors.
    #[test]
    fn words_from_the_manual() {
        let mmu = AArch64Stage2::<Granule4K>::new(48, 48);
        let leaf = Leaf::new(Frame::new(0x12345));
        // Page, MemAttr 15, S2AP = 3, SH = 3, XN.
        assert_eq!(mmu.encode_leaf(0, leaf.writable()), Ok(0x0040_0000_1234_53ff));
        // 2 MiB, MemAttr 5, S2AP = 1, SH = 3, AF, executable.
        let code = Leaf::new(Frame::new(0x200)).executable().memory(MemoryType::WriteCombining).used();
        assert_eq!(mmu.encode_leaf(1, code), Ok(0x0000_0000_0020_0755));
        // 1 GiB of a device, written and not read.
        let device = Leaf::new(Frame::new(0x4_0000)).access(Access::WRITE).memory(MemoryType::DeviceEarly);
        assert_eq!(mmu.encode_leaf(2, device), Ok(0x0040_0000_4000_0385));
        assert_eq!(mmu.encode_table(3, Frame::new(0x1234)), Ok(0x123_4003));
        assert_eq!(mmu.decode(3, 0x123_4003 | 0xf << 59), Entry::Table(Frame::new(0x1234), Limits::NONE));
        assert_eq!(mmu.decode(0, 0x0060_0000_1234_53ff), Entry::Reserved, "bit 53");
        assert_eq!(mmu.decode(0, 0x0040_0000_1234_53ef), Entry::Reserved, "MemAttr 11");
        let wide = AArch64Stage2::<Granule64K>::new(52, 52);
        let far = Leaf::new(Frame::new(0xd_2345_6789_0000 >> 16));
        assert_eq!(wide.encode_leaf(0, far), Ok(0x0040_2345_6789_d37f));
    }

    #[test]
    fn what_does_not_exist_is_an_error() {
        let mmu = AArch64Stage2::<Granule4K>::new(39, 40);
        let leaf = Leaf::new(Frame::new(1));
        assert_eq!(mmu.levels(), 3);
        assert_eq!(mmu.encode_leaf(0, leaf.user()), Err(EncodeError::Access(leaf.user().access)));
        assert_eq!(mmu.encode_leaf(0, leaf.global()), Err(EncodeError::Global));
        let protected = MemoryType::WriteProtected;
        assert_eq!(mmu.encode_leaf(0, leaf.memory(protected)), Err(EncodeError::MemoryType(protected)));
        assert_eq!(mmu.encode_table(1, Frame::new(1 << 28)), Err(EncodeError::Frame(Frame::new(1 << 28))));
        assert!(mmu.range(0, 1 << 39).is_ok() && mmu.range(1 << 39, 0x1000).is_err());
    }
}
