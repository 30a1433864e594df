//! What describes an architecture: one table of constants from which encode, decode, geometry and the dump's legend
//! come.
//!
//! ```text
//!   level        3        2        1        0          (0 is the level whose leaves are base pages)
//!              +--------+--------+--------+--------+--------------+
//!   address    | index  | index  | index  | index  | page offset  |
//!              +--------+--------+--------+--------+--------------+
//!                                         ^ shift of level 0
//! ```
//!
//! An [`Mmu`](crate::paging::Mmu) is such a description plus what is found when the kernel starts (levels in use, physical width, the layout of
//! memory types).

use crate::paging::Access;

/// A single-bit property and which way round it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flag {
    /// The bit, or 0 where the format lacks the property.
    pub mask: u64,
    /// True: the bit set means yes (x86's writable). False: the bit set means no (x86's execute-disable).
    pub set_means_yes: bool,
}

impl Flag {
    /// A property that the format does not have: encodes to nothing, decodes to no.
    pub const NONE: Self = Self { mask: 0, set_means_yes: true };

    /// Bit `position` set means yes.
    pub const fn yes(position: u32) -> Self {
        Self { mask: 1 << position, set_means_yes: true }
    }

    /// Bit `position` set means no.
    pub const fn no(position: u32) -> Self {
        Self { mask: 1 << position, set_means_yes: false }
    }

    /// The bits that say `value`.
    #[inline]
    pub const fn encode(self, value: bool) -> u64 {
        if value == self.set_means_yes { self.mask } else { 0 }
    }

    /// What the word says.
    #[inline]
    pub const fn decode(self, word: u64) -> bool {
        self.mask != 0 && ((word & self.mask != 0) == self.set_means_yes)
    }
}

/// How an entry says who may do what.
///
/// ```text
///              x86-64       Arm, leaf     Arm, table    RISC-V    EPT
///   readable   -            -             -             R         R
///   writable   R/W          not AP[2]     not APTable1  W         W
///   executable not XD       not UXN       not UXNTable  X         X
///   ... by the kernel: the same          not PXN       not PXNTable  -   -
///   user       U/S          AP[1]         not APTable0  U         -
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permissions {
    /// May be read ([`Flag::NONE`]: whatever is present may be).
    pub readable: Flag,
    /// May be written.
    pub writable: Flag,
    /// May be executed: by the program, if it is a program's page and the next field exists, otherwise by anybody.
    pub executable: Flag,
    /// May be executed by the kernel, where the format tells the two apart (Arm's PXN); [`Flag::NONE`] elsewhere. A page is
    /// then made executable for its owner alone.
    pub kernel_executable: Flag,
    /// May be used by programs.
    pub user: Flag,
}

impl Permissions {
    /// The bits that hold permissions; all others of an entry say something else.
    pub const fn mask(&self) -> u64 {
        self.readable.mask | self.writable.mask | self.executable.mask | self.kernel_executable.mask | self.user.mask
    }

    /// The bits that say `access`; `None` if the format cannot express it.
    #[inline]
    pub const fn encode(&self, access: Access) -> Option<u64> {
        let (read, write) = (access.contains(Access::READ), access.contains(Access::WRITE));
        let (execute, user) = (access.contains(Access::EXECUTE), access.contains(Access::USER));
        // What is present is readable where there is no bit for it, and no format has pages that are only written.
        if !read && (write || self.readable.mask == 0) || user && self.user.mask == 0 {
            return None;
        }
        let executable = if self.kernel_executable.mask == 0 {
            self.executable.encode(execute)
        } else {
            self.executable.encode(execute && user) | self.kernel_executable.encode(execute && !user)
        };
        Some(self.readable.encode(read) | self.writable.encode(write) | executable | self.user.encode(user))
    }

    /// The access that the word's bits say.
    #[inline]
    pub const fn decode(&self, word: u64) -> Access {
        let user = self.user.decode(word);
        let by_owner = if self.kernel_executable.mask == 0 || user { self.executable } else { self.kernel_executable };
        let mut bits = 0;
        if self.readable.mask == 0 || self.readable.decode(word) {
            bits |= Access::READ.bits();
        }
        if self.writable.decode(word) {
            bits |= Access::WRITE.bits();
        }
        if by_owner.decode(word) {
            bits |= Access::EXECUTE.bits();
        }
        if user {
            bits |= Access::USER.bits();
        }
        Access::from_bits_truncate(bits)
    }
}

/// How a leaf is told from a table, among present entries of a level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeafTest {
    /// Every present entry is a leaf (the lowest level of x86).
    Always,
    /// No entry is a leaf (the top level of x86-64).
    Never,
    /// A leaf if any of these bits is set (x86's page-size bit, RISC-V's R, W and X).
    AnySet(u64),
    /// A leaf if none of these bits is set (Arm's table bit).
    NoneSet(u64),
}

/// Where an address is kept in an entry: address bits `address_low..address_low + width` at entry bit `entry_low`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressField {
    /// The lowest address bit that is kept.
    pub address_low: u32,
    /// The entry bit where it is kept.
    pub entry_low: u32,
    /// How many bits.
    pub width: u32,
}

impl AddressField {
    /// No address bits at all.
    pub const NONE: Self = Self { address_low: 0, entry_low: 0, width: 0 };

    /// The entry's bits for a physical address.
    #[inline]
    pub const fn encode(self, address: u64) -> u64 {
        ((address >> self.address_low) & ((1 << self.width) - 1)) << self.entry_low
    }

    /// The physical address in an entry.
    #[inline]
    pub const fn decode(self, word: u64) -> u64 {
        ((word >> self.entry_low) & ((1 << self.width) - 1)) << self.address_low
    }
}

/// One level of tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LevelFormat {
    /// The lowest address bit of the index into a table of this level; a leaf here maps 2^`shift` bytes.
    pub shift: u32,
    /// A table has 2^`index_bits` entries.
    pub index_bits: u32,
    /// Which present entries are leaves.
    pub leaf_test: LeafTest,
    /// Bits that every leaf of this level has set.
    pub leaf_set: u64,
    /// Bits that the manual reserves in a leaf of this level: set, the hardware faults.
    pub leaf_reserved: u64,
    /// Where a leaf keeps its address.
    pub leaf_address: AddressField,
    /// The bits of the memory type's code in a leaf, as masks, the code's lowest bit first; unused ones are 0.
    pub memory_bits: [u64; 4],
    /// Bits that every table entry of this level has set (those that let everything through, where permissions combine).
    pub table_set: u64,
    /// Bits that the manual reserves in a table entry of this level: set, the hardware faults.
    pub table_reserved: u64,
    /// Where a table entry keeps the table's address.
    pub table_address: AddressField,
    /// What the manuals call a table of this level.
    pub name: &'static str,
}

/// Which addresses exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Canonical {
    /// The upper bits repeat the highest translated bit: two halves (x86-64, RISC-V).
    SignExtended,
    /// The upper bits are zero (32-bit formats, second-stage formats, one half of Arm).
    ZeroExtended,
}

/// The description of a format.
#[derive(PartialEq, Eq, Debug)]
pub struct Format {
    /// Its name, as people say it.
    pub name: &'static str,
    /// The levels, from the one of base pages upwards. An [`Mmu`](crate::paging::Mmu) may use fewer than there are.
    pub levels: &'static [LevelFormat],
    /// Which addresses exist.
    pub canonical: Canonical,
    /// An entry is present if any of these bits is set.
    pub present: u64,
    /// What a leaf permits.
    pub leaf: Permissions,
    /// What a table entry lets through, where an access must be allowed at every level on the way down (x86, EPT, Arm's
    /// hierarchical limits); `None` where the leaf alone decides (RISC-V).
    pub table: Option<Permissions>,
    /// Shown in every address space.
    pub global: Flag,
    /// The hardware's mark of use.
    pub accessed: Flag,
    /// The hardware's mark of a write.
    pub dirty: Flag,
    /// Address bits that are kept apart from the others, in leaves and tables alike (Arm's 52-bit addresses);
    /// [`AddressField::NONE`] elsewhere.
    pub address_high: AddressField,
    /// Bits of a leaf that the hardware leaves to software, where [`Leaf::software`](crate::paging::Leaf::software) is kept: the lowest
    /// bit, and how many.
    pub software: (u32, u32),
}
