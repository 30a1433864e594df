//! Arm, AArch64 stage 1 of EL1 and EL0: granules of 4, 16 and 64 KiB, one half of the address space per root.
//!
//! Arm Architecture Reference Manual for A-profile (DDI 0487), sections D8.3 "Translation table descriptor formats", D8.4 "Memory access
//! control" (hierarchical limits), D8.5 "Hardware updates to the translation tables", D8.6 "Memory region attributes"; MAIR_EL1. The levels
//! and where addresses stand are in `granule`.
//!
//! ```text
//!             63   62       61       60       59       58..52      47..........12 11 10 9..8 7     6     5  4..2     1 0
//!   table     NS   APTable1 APTable0 UXNTable PXNTable ignored     address        ignored                            1 1
//!                  no write no EL0   no execution by
//!                                    EL0      EL1
//!             63..59  58..56 55       54  53  52   51  47..........12 11 10 9..8 7     6     5  4..2     1 0
//!   page      0       soft   dirty    UXN PXN cont DBM address        nG AF SH   AP[2] AP[1] 0  AttrIndx 1 1
//!   block     0       soft   dirty    UXN PXN cont DBM address        nG AF SH   AP[2] AP[1] 0  AttrIndx 0 1
//!
//!   dirtiness             DBM  AP[2]  bit 55        where the hardware marks (TCR.HD): the write clears AP[2]
//!     read-only, clean    0    1      0
//!     read-only, dirty    0    1      1             (was written before it became read-only)
//!     writable, clean     1    1      0             a write makes it the next one
//!     writable, dirty     1    0      0
//!   elsewhere DBM stays 0, AP[2] is not-writable, and bit 55 is software's mark alone.
//! ```
//!
//! AP[2]: read-only. AP[1]: EL0 may use it. A page of EL0 is executable by EL0 alone and one of EL1 by EL1 alone: the other's
//! execute-never bit is always set. Where the hardware does not set AF (no TCR.HA), a leaf is to be written as
//! [used](crate::paging::Leaf::used). AttrIndx is the index into the eight attributes of MAIR_EL1. Live leaves are replaced by
//! break-before-make. The upper half (TTBR1) and the lower (TTBR0) each are a value with roots of its own. Bit 63 of a table, NS of a leaf (5), GP (50) and nT
//! (16) are left 0.

use super::granule::{Found, Granule, Stage};
use super::{UNUSED, arm_tag_bits};
use crate::paging::memory_type::{Indexed, Numbers};
use crate::paging::{Canonical, Combinations, Flag, Format, MemoryType, Mmu, Permissions};

/// AttrIndx, its lowest bit first.
const MEMORY: [u64; 4] = [1 << 2, 1 << 3, 1 << 4, UNUSED];

pub(super) const STAGE: Stage = Stage {
    memory_bits: MEMORY,
    leaf_reserved: UNUSED,
    leaf: Permissions {
        readable: Flag::ALWAYS,
        writable: Flag::no(7),
        executable: Flag::no(54),
        kernel_executable: Flag::no(53),
        user: Flag::yes(6),
        combinations: Combinations::READ_AND_MORE,
    },
    table: Some(Permissions {
        readable: Flag::ALWAYS,
        writable: Flag::no(62),
        executable: Flag::no(60),
        kernel_executable: Flag::no(59),
        user: Flag::no(61),
        combinations: Combinations::ANY,
    }),
    global: Flag::no(11),
};

/// The eight memory types behind the AttrIndx bits of an entry: what MAIR_EL1 holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MairLayout([MemoryType; 8]);

impl MairLayout {
    /// All seven types of Arm: WB, WT, NC, nGnRnE, nGnRE, nGRE, GRE, WB.
    pub const STANDARD: Self = Self([
        MemoryType::WriteBack,
        MemoryType::WriteThrough,
        MemoryType::WriteCombining,
        MemoryType::Device,
        MemoryType::DeviceEarly,
        MemoryType::DeviceReordering,
        MemoryType::DeviceGathering,
        MemoryType::WriteBack,
    ]);

    /// A layout of one's own; `None` if one of the types does not exist on Arm (x86's write-protected and uncached ones).
    pub const fn new(types: [MemoryType; 8]) -> Option<Self> {
        if NUMBERS.have(&types) { Some(Self(types)) } else { None }
    }

    /// The eight types, by index.
    pub const fn types(self) -> [MemoryType; 8] {
        self.0
    }

    /// The value of MAIR_EL1: a byte per type, index 0 in the lowest.
    pub const fn to_register(self) -> u64 {
        NUMBERS.register(&self.0)
    }

    /// The layout that a value of MAIR_EL1 means; `None` if a byte of it is reserved or has no name here (caches that differ within
    /// and without, allocation hints).
    pub fn from_register(value: u64) -> Option<Self> {
        NUMBERS.types(value).map(Self)
    }
}

/// The memory types in MAIR_EL1: non-transient, allocating for reads and writes, the same within and without.
const NUMBERS: Numbers = Numbers(&[
    (MemoryType::WriteBack, 0xff),
    (MemoryType::WriteThrough, 0xbb),
    (MemoryType::WriteCombining, 0x44),
    (MemoryType::Device, 0x00),
    (MemoryType::DeviceEarly, 0x04),
    (MemoryType::DeviceReordering, 0x08),
    (MemoryType::DeviceGathering, 0x0c),
]);

/// Which half of the address space a root translates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Half {
    /// From 0 up: TTBR0_EL1.
    Lower,
    /// Up to the top: TTBR1_EL1.
    Upper,
}

/// One half of an AArch64 MMU's stage 1.
#[derive(Clone, Copy, Debug)]
pub struct AArch64<G: Granule> {
    half: Half,
    found: Found<G>,
    memory: Indexed,
}

impl<G: Granule> AArch64<G> {
    /// One half, of 2^`virtual_bits` bytes (64 minus TCR_EL1.T0SZ or T1SZ), on a machine with `physical_bits` bits of physical
    /// address (TCR_EL1.IPS), with the [standard](MairLayout::STANDARD) layout, which the embedder programs into MAIR_EL1.
    ///
    /// Widths outside of 25 and the granule's [`MAX_BITS`](Granule::MAX_BITS), or 32 and its
    /// [`MAX_PHYSICAL_BITS`](Granule::MAX_PHYSICAL_BITS), are taken as the nearer of the two.
    pub const fn new(half: Half, virtual_bits: u32, physical_bits: u32) -> Self {
        Self { half, found: Found::new(virtual_bits, physical_bits), memory: Indexed::new(MairLayout::STANDARD.0) }
    }

    /// A half of 39-bit addresses.
    pub const fn bits_39(half: Half, physical_bits: u32) -> Self {
        Self::new(half, 39, physical_bits)
    }

    /// A half of 48-bit addresses.
    pub const fn bits_48(half: Half, physical_bits: u32) -> Self {
        Self::new(half, 48, physical_bits)
    }

    /// The same with another layout, for example the one that is found in MAIR_EL1 ([`MairLayout::from_register`]).
    pub const fn with_mair(mut self, layout: MairLayout) -> Self {
        self.memory = Indexed::new(layout.0);
        self
    }

    /// The same on a machine whose hardware marks writable leaves as dirty (TCR_EL1.HA and HD set).
    pub const fn hardware_dirty(mut self) -> Self {
        self.found.hardware_dirty = true;
        self
    }

    /// The same with tags of so many bits, 8 or 16: the ASID of TTBR0_EL1 or TTBR1_EL1 (ID_AA64MMFR0_EL1.ASIDBits says how many there
    /// are, and TCR_EL1.AS is to be set for 16). Other numbers are taken as the next lower of these, or as none.
    pub const fn asid_bits(mut self, bits: u32) -> Self {
        self.found.tag_bits = arm_tag_bits(bits);
        self
    }

    /// Which half it is.
    pub const fn half(&self) -> Half {
        self.half
    }

    /// The layout of memory types.
    pub const fn mair(&self) -> MairLayout {
        MairLayout(self.memory.types())
    }
}

// SAFETY: the descriptions are those of the manual's VMSAv8-64: tables of 8-byte entries fill a frame of the granule's size at most, shifts
// grow by the bits of an index, and what an address field cannot hold is refused by what encodes it.
unsafe impl<G: Granule> Mmu for AArch64<G> {
    type Word = u64;
    const FORMAT: &'static Format = &G::STAGE1;

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
    fn canonical(&self) -> Canonical {
        match self.half {
            Half::Lower => Canonical::ZeroExtended,
            Half::Upper => Canonical::OneExtended,
        }
    }

    #[inline]
    fn memory_code(&self, memory: MemoryType) -> Option<u32> {
        self.memory.code(memory)
    }

    #[inline]
    fn memory_type(&self, code: u32) -> Option<MemoryType> {
        self.memory.memory(code)
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
    use crate::addr::{Frame, VirtAddr};
    use crate::paging::{
        Access, EncodeError, Entry, Granule4K, Granule4KLpa2, Granule16K, Granule16KLpa2, Granule64K, Leaf, Limits,
    };

    const LOWER: AArch64<Granule4K> = AArch64::bits_48(Half::Lower, 48);

    /// Words put together by hand from the manual's figures of VMSAv8-64 descriptors.
    #[test]
    fn words_from_the_manual() {
        // Page, AttrIndx 0, AP = 01 (EL0, written), SH = 3, AF, nG, PXN and UXN; software's dirty mark.
        let user = Leaf::new(Frame::new(0x12345)).user().writable();
        assert_eq!(LOWER.encode_leaf(0, user), Ok(0x0060_0000_1234_5b43));
        assert_eq!(LOWER.encode_leaf(0, user.used()), Ok(0x00e0_0000_1234_5f43));
        // 2 MiB block of EL1's code: AP = 10, PXN clear, UXN set, global, AF.
        let code = Leaf::new(Frame::new(0x200)).executable().global().used();
        assert_eq!(LOWER.encode_leaf(1, code), Ok(0x0040_0000_0020_0781));
        // 1 GiB block of a device: AttrIndx 3; software bits 58..56.
        let device = Leaf::new(Frame::new(0x4_0000)).writable().memory(MemoryType::Device).software(7);
        assert_eq!(LOWER.encode_leaf(2, device), Ok(0x0760_0000_4000_0b0d));
        assert_eq!(LOWER.encode_table(3, Frame::new(0x1234)), Ok(0x123_4003));
        assert_eq!(LOWER.decode(3, 0x123_4003), Entry::Table(Frame::new(0x1234), Limits::NONE));
        assert_eq!(LOWER.encode_contiguous(0, user), Ok(0x0070_0000_1234_5b43));
        assert_eq!(LOWER.decode(0, 0x0070_0000_1234_5b43), Entry::Leaf(user));
        assert!(LOWER.is_contiguous(0, 0x0070_0000_1234_5b43));
        for (level, word, why) in
            [(0, 0x1234_5001, "a block at the lowest level"), (3, 0x0000_0001, "a block at the highest level")]
        {
            assert_eq!(LOWER.decode(level, word), Entry::Reserved, "{why}");
        }
        assert_eq!(LOWER.decode(0, !1), Entry::Absent(u64::MAX >> 1));
    }

    #[test]
    fn addresses_of_52_bits_stand_in_two_pieces() {
        let leaf = Leaf::new(Frame::new(0xd_2345_6789_a000 >> 12)).user().executable();
        let wide = AArch64::<Granule4KLpa2>::new(Half::Lower, 52, 52);
        // Address bits 51..50 (3) at 9..8, 49..12 in place: no SH. AP = 11, PXN, nG.
        assert_eq!(wide.encode_leaf(0, leaf), Ok(0x0021_2345_6789_a000 | 0x3 << 8 | 0x8c3));
        assert_eq!(wide.encode_table(4, leaf.frame), Ok(0x0001_2345_6789_a303));
        assert_eq!((wide.levels(), wide.index_bits(4)), (5, 4));
        // 512 GiB block.
        assert!(wide.encode_leaf(3, Leaf::new(Frame::new(1 << 27))).is_ok());
        assert_eq!(LOWER.encode_leaf(3, Leaf::new(Frame::new(0))), Err(EncodeError::NoLeafAtLevel(3)));
        let wide = AArch64::<Granule64K>::new(Half::Lower, 52, 52);
        let leaf = Leaf { frame: Frame::new(0xd_2345_6789_0000 >> 16), ..leaf };
        // Address bits 51..48 (0xd) at 15..12; SH = 3.
        assert_eq!(wide.encode_leaf(0, leaf), Ok(0x0020_2345_6789_dbc3));
        assert_eq!(wide.encode_table(1, leaf.frame), Ok(0x0000_2345_6789_d003));
        assert_eq!((wide.levels(), wide.index_bits(2)), (3, 10));
        let narrow = AArch64::<Granule64K>::bits_48(Half::Lower, 48);
        assert_eq!(narrow.decode(0, 0x0020_2345_6789_dbc3), Entry::Reserved, "beyond the physical width");
        assert_eq!(narrow.index_bits(2), 6);
        let wide = AArch64::<Granule16KLpa2>::new(Half::Lower, 52, 52);
        let leaf = Leaf { frame: Frame::new(0xd_2345_6789_8000 >> 14), ..leaf };
        assert_eq!(wide.encode_leaf(0, leaf), Ok(0x0021_2345_6789_8000 | 0x3 << 8 | 0x8c3));
        assert_eq!((wide.levels(), wide.index_bits(3)), (4, 5));
    }

    #[test]
    fn halves_and_widths() {
        let upper = AArch64::<Granule4K>::bits_39(Half::Upper, 40);
        assert_eq!((upper.levels(), upper.virtual_bits()), (3, 39));
        assert!(upper.is_canonical(VirtAddr::new(0xffff_ff80_0000_0000)));
        assert!(!upper.is_canonical(VirtAddr::new(0xffff_ff7f_ffff_ffff)) && !upper.is_canonical(VirtAddr::new(0)));
        assert!(upper.range(0xffff_ff80_0000_0000, 1 << 39).is_ok());
        let lower = AArch64::<Granule16K>::bits_39(Half::Lower, 40);
        assert_eq!((lower.levels(), lower.index_bits(2), lower.page_shift()), (3, 3, 14));
        assert!(lower.range(0, 1 << 39).is_ok() && lower.range(0, (1 << 39) + 0x4000).is_err());
        let lower = AArch64::<Granule64K>::bits_39(Half::Lower, 40);
        assert_eq!((lower.levels(), lower.index_bits(1)), (2, 10));
        let lower = AArch64::<Granule16K>::bits_48(Half::Lower, 40);
        assert_eq!((lower.levels(), lower.index_bits(3)), (4, 1));
        assert!(lower.range(0x1000, 0x4000).is_err(), "not a page of 16 KiB");
    }

    #[test]
    fn hardware_dirtiness_as_the_manual_has_it() {
        let mmu = LOWER.hardware_dirty();
        let leaf = Leaf::new(Frame::new(1));
        let (dbm, read_only, soft) = (1 << 51, 1 << 7, 1 << 55);
        let bits = |leaf: Leaf| mmu.encode_leaf(0, leaf).unwrap() & (dbm | read_only | soft);
        let dirty = |leaf: Leaf| Leaf { dirty: true, ..leaf };
        assert_eq!(bits(leaf), read_only);
        assert_eq!(bits(dirty(leaf)), read_only | soft);
        assert_eq!(bits(leaf.writable()), read_only | dbm);
        assert_eq!(bits(dirty(leaf.writable())), dbm);
        // What the hardware does to a writable clean leaf when it is written.
        let written = mmu.encode_leaf(0, leaf.writable()).unwrap() & !read_only;
        assert_eq!(mmu.decode(0, written), Entry::Leaf(dirty(leaf.writable())));
        // A change of access keeps the mark.
        let read = mmu.replace_access(written, mmu.encode_access(Access::READ).unwrap());
        assert_eq!(mmu.decode(0, read), Entry::Leaf(dirty(leaf)));
        let again = mmu.replace_access(read, mmu.encode_access(Access::KERNEL_DATA).unwrap());
        assert_eq!(mmu.decode(0, again), Entry::Leaf(dirty(leaf.writable())));
        let clean =
            mmu.replace_access(mmu.encode_leaf(0, leaf.writable()).unwrap(), mmu.encode_access(Access::READ).unwrap());
        assert_eq!(mmu.decode(0, clean), Entry::Leaf(leaf));
        assert_eq!(LOWER.encode_leaf(0, leaf.writable()).unwrap() & (dbm | read_only | soft), 0);
    }

    /// Every pattern of limits on every kind of leaf, against the manual's rules written out.
    #[test]
    fn hierarchical_limits() {
        for limits in 0..16_u64 {
            let (pxn, uxn, no_user, no_write) = (limits & 1 != 0, limits & 2 != 0, limits & 4 != 0, limits & 8 != 0);
            let Entry::Table(_, table) = LOWER.decode(3, 0x1003 | limits << 59) else { panic!("a table") };
            for access in [
                Access::USER_DATA,
                Access::USER_CODE,
                Access::USER_DATA | Access::EXECUTE,
                Access::KERNEL_DATA,
                Access::READ | Access::EXECUTE,
            ] {
                let user = access.contains(Access::USER);
                let mut expected = access;
                expected.set(Access::WRITE, access.contains(Access::WRITE) && !no_write);
                expected.set(Access::USER, user && !no_user);
                let executed = access.contains(Access::EXECUTE) && if user { !uxn && !no_user } else { !pxn };
                expected.set(Access::EXECUTE, executed);
                assert_eq!(access & table, expected, "{access} below {limits:#06b}");
                for more in (0..16_u64).map(|more| more << 59) {
                    let permissions = STAGE.table.unwrap();
                    let word = permissions.strictest(limits << 59 & more, limits << 59 | more);
                    assert_eq!(permissions.limits(word), table & permissions.limits(more));
                }
            }
        }
    }

    #[test]
    fn mair_layouts_as_the_register_holds_them() {
        assert_eq!(MairLayout::STANDARD.to_register(), 0xff0c_0804_0044_bbff);
        assert_eq!(MairLayout::from_register(0xff0c_0804_0044_bbff), Some(MairLayout::STANDARD));
        assert_eq!(MairLayout::from_register(0xff0c_0804_0044_bb4f), None, "caches that differ");
        let mut types = MairLayout::STANDARD.types();
        types[7] = MemoryType::Uncached;
        assert_eq!(MairLayout::new(types), None);
        types[7] = MemoryType::Device;
        assert!(MairLayout::new(types).is_some());
        let uncached = Leaf::new(Frame::new(1)).memory(MemoryType::Uncached);
        assert_eq!(LOWER.encode_leaf(0, uncached), Err(EncodeError::MemoryType(MemoryType::Uncached)));
        let few = MairLayout::new([MemoryType::WriteBack; 8]).unwrap();
        let device = Leaf::new(Frame::new(1)).memory(MemoryType::Device);
        assert_eq!(LOWER.with_mair(few).encode_leaf(0, device), Err(EncodeError::MemoryType(MemoryType::Device)));
    }
}
