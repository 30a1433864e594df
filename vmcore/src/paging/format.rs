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

use core::fmt;
use core::ops::{BitAnd, BitAndAssign};

use crate::paging::Access;

/// A single-bit property and which way round it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flag {
    /// The bit, or 0 where the format has none for the property.
    pub mask: u64,
    /// True: the bit set means yes (x86's writable). False: the bit set means no (x86's execute-disable).
    pub set_means_yes: bool,
}

impl Flag {
    /// A property that no entry of the format has: encodes to nothing, decodes to no.
    pub const NONE: Self = Self { mask: 0, set_means_yes: true };

    /// A property that every entry of the format has (x86's readable): encodes to nothing, decodes to yes.
    pub const ALWAYS: Self = Self { mask: 0, set_means_yes: false };

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
        (word & self.mask != 0) == self.set_means_yes
    }

    /// Not 0 if the word says yes. What is joined of many words by `|` answers for any of them.
    #[inline]
    pub(crate) const fn yes_bit(self, word: u64) -> u64 {
        (word ^ if self.set_means_yes { 0 } else { self.mask }) & self.mask
    }

    /// Whether entries can have the property and lack it.
    pub const fn exists(self) -> bool {
        self.mask != 0
    }

    /// Whether the format can say `value`: a property without a bit has one value only.
    #[inline]
    pub const fn can_say(self, value: bool) -> bool {
        self.mask != 0 || value != self.set_means_yes
    }
}

/// Which combinations of reading, writing and executing a format can say: bit n stands for the [`Access`] whose lowest three
/// bits are n.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Combinations(u8);

impl Combinations {
    /// Reading always, writing or executing as well: x86 and stage 1 of Arm.
    pub const READ_AND_MORE: Self = Self::of(&[1, 3, 5, 7]);
    /// Those, and executing alone: RISC-V and EPT, which reserve what is written but not read.
    pub const READ_OR_EXECUTE: Self = Self::of(&[1, 3, 4, 5, 7]);
    /// All: stage 2 of Arm.
    pub const ANY: Self = Self(0xff);

    const fn of(numbers: &[u8]) -> Self {
        let (mut set, mut rest) = (0, numbers);
        while let [number, others @ ..] = rest {
            set |= 1 << *number;
            rest = others;
        }
        Self(set)
    }

    /// Whether the format can say it.
    #[inline]
    pub const fn contain(self, access: Access) -> bool {
        self.0 >> (access.bits() & 7) & 1 != 0
    }
}

/// How an entry says who may do what.
///
/// ```text
///                x86      x86-64, PAE  Arm, leaf  Arm, table    RISC-V  EPT     Arm, stage 2
///   readable     always   always       always     -             R       R       S2AP[0]
///   writable     R/W      R/W          not AP[2]  not APTable1  W       W       S2AP[1]
///   executable   always   not XD       not UXN    not UXNTable  X       X       not XN
///   ... by the kernel     the same     not PXN    not PXNTable  -       -       -
///   user         U/S      U/S          AP[1]      not APTable0  U       -       -
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permissions {
    /// May be read.
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
    /// What can be combined; other patterns of a leaf are reserved.
    pub combinations: Combinations,
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
        let said = self.readable.can_say(read)
            && self.writable.can_say(write)
            && self.executable.can_say(execute)
            && self.user.can_say(user);
        if !said || !self.combinations.contain(access) {
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
        if self.readable.decode(word) {
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

    /// The bits that say no by being set.
    const fn refusing(&self) -> u64 {
        const fn mask(flag: Flag) -> u64 {
            if flag.set_means_yes { 0 } else { flag.mask }
        }
        mask(self.readable)
            | mask(self.writable)
            | mask(self.executable)
            | mask(self.kernel_executable)
            | mask(self.user)
    }

    /// The bits of an entry that lets through what all of some words do, from the bits that each of them has set and those that any has:
    /// a way to combine [`limits`](Self::limits) without decoding each.
    #[inline]
    pub const fn strictest(&self, all: u64, any: u64) -> u64 {
        let refusing = self.refusing();
        all & !refusing | any & refusing
    }

    /// What a table entry with these bits lets through. A property without a bit is not limited.
    #[inline]
    pub const fn limits(&self, word: u64) -> Limits {
        Limits::of(self, word)
    }
}

/// What table entries let through, where an access must be allowed at every level on the way down.
///
/// Programs' pages and the kernel's are limited apart, since Arm tells a program's execution from the kernel's. Limits are
/// combined with `&`, and applied with `access & limits`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// What is left of an access that a program has.
    user: Access,
    /// What is left of an access that only the kernel has.
    kernel: Access,
}

impl Limits {
    /// Lets everything through.
    pub const NONE: Self = Self { user: Access::all(), kernel: Access::all() };

    #[inline]
    const fn of(permissions: &Permissions, word: u64) -> Self {
        const fn bit(flag: Flag, word: u64, access: Access) -> u8 {
            if flag.mask == 0 || flag.decode(word) { access.bits() } else { 0 }
        }
        let common = bit(permissions.readable, word, Access::READ) | bit(permissions.writable, word, Access::WRITE);
        let executable = bit(permissions.executable, word, Access::EXECUTE);
        let user = bit(permissions.user, word, Access::USER);
        let (user_executable, kernel_executable) = if permissions.kernel_executable.mask == 0 {
            (executable, executable)
        } else {
            // A program's page that becomes the kernel's is executed by nobody: only its owner could.
            (if user == 0 { 0 } else { executable }, bit(permissions.kernel_executable, word, Access::EXECUTE))
        };
        let of_user = Access::from_bits_truncate(common | user | user_executable);
        // An access without USER loses nothing by a limit without it: one value does for both where it can.
        let of_kernel = Access::from_bits_truncate(common | user | kernel_executable);
        Self { user: of_user, kernel: of_kernel }
    }

    /// What is left of `access`.
    #[inline]
    pub const fn apply(self, access: Access) -> Access {
        access.intersection(if access.contains(Access::USER) { self.user } else { self.kernel })
    }
}

impl BitAnd for Limits {
    type Output = Self;

    #[inline]
    fn bitand(self, other: Self) -> Self {
        Self { user: self.user & other.user, kernel: self.kernel & other.kernel }
    }
}

impl BitAndAssign for Limits {
    #[inline]
    fn bitand_assign(&mut self, other: Self) {
        *self = *self & other;
    }
}

impl BitAnd<Limits> for Access {
    type Output = Self;

    #[inline]
    fn bitand(self, limits: Limits) -> Self {
        limits.apply(self)
    }
}

impl BitAndAssign<Limits> for Access {
    #[inline]
    fn bitand_assign(&mut self, limits: Limits) {
        *self = limits.apply(*self);
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernel = self.kernel.difference(Access::USER);
        if self.user == kernel || self.user.difference(Access::USER) == kernel {
            return self.user.fmt(f);
        }
        write!(f, "{} to programs and {kernel} to the kernel", self.user)
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a leaf is told from a table, among present entries of a level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeafTest {
    /// Every present entry is a leaf (the lowest level of x86).
    Always,
    /// No entry is a leaf (the top level of x86-64). Where a pattern for one exists and is reserved, the level has a leaf whose
    /// [`leaf_reserved`](LevelFormat::leaf_reserved) bits are among those that it has set.
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

    /// The address bits that are kept.
    #[inline]
    pub const fn mask(self) -> u64 {
        ((1 << self.width) - 1) << self.address_low
    }
}

/// How entries say that they are one of a group of leaves, side by side on consecutive frames and else alike, which a TLB may
/// keep as one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contiguous {
    /// The bit that says so.
    pub mask: u64,
    /// A group is 2^`count_shift` entries, aligned to that.
    pub count_shift: u32,
    /// Whether the group's size stands in the lowest address bits (RISC-V's Svnapot), whose place it takes: all entries of a
    /// group are then the same word. Otherwise each has its own address (Arm's hint).
    pub size_in_address: bool,
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
    /// Where it keeps address bits that are apart from those (Arm's 52-bit addresses, x86's PSE-36); [`AddressField::NONE`]
    /// elsewhere.
    pub leaf_address_high: AddressField,
    /// Groups of leaves that a TLB may keep as one; `None` where the level has none.
    pub contiguous: Option<Contiguous>,
    /// The bits of the memory type's code in a leaf, as masks, the code's lowest bit first; unused ones are 0.
    pub memory_bits: [u64; 4],
    /// Bits that every table entry of this level has set (those that let everything through, where permissions combine).
    pub table_set: u64,
    /// Bits that the manual reserves in a table entry of this level: set, the hardware faults.
    pub table_reserved: u64,
    /// Where a table entry keeps the table's address.
    pub table_address: AddressField,
    /// Where it keeps address bits that are apart from those.
    pub table_address_high: AddressField,
    /// Whether the table entries of this level limit what lies below, in a format whose permissions combine (all of x86's do but
    /// those of PAE's top level).
    pub table_limits: bool,
    /// What the manuals call a table of this level.
    pub name: &'static str,
}

impl LevelFormat {
    /// Whether this level has leaves that are not reserved.
    #[inline]
    pub const fn has_leaves(&self) -> bool {
        !matches!(self.leaf_test, LeafTest::Never) && self.leaf_set & self.leaf_reserved == 0
    }

    /// Whether a present word is a leaf, rather than a table.
    #[inline]
    pub const fn is_leaf(&self, word: u64) -> bool {
        match self.leaf_test {
            LeafTest::Always => true,
            LeafTest::Never => false,
            LeafTest::AnySet(mask) => word & mask != 0,
            LeafTest::NoneSet(mask) => word & mask == 0,
        }
    }
}

/// Which addresses exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Canonical {
    /// The upper bits repeat the highest translated bit: two halves (x86-64, RISC-V).
    SignExtended,
    /// The upper bits are zero (32-bit formats, second-stage formats, the lower half of Arm).
    ZeroExtended,
    /// The upper bits are one (the upper half of Arm).
    OneExtended,
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
    /// The bit by which a leaf that the hardware is to mark as dirty is told (Arm's DBM), 0 where there is none. Where it is set the
    /// leaf is writable, and what else says writable says dirty.
    pub dirty_modifier: u64,
    /// The protection key of a leaf: the lowest bit, and how many (none where the format has no keys).
    pub key: (u32, u32),
    /// Bits of a leaf that the hardware leaves to software, where [`Leaf::software`](crate::paging::Leaf::software) is kept: the lowest
    /// bit, and how many.
    pub software: (u32, u32),
    /// Bits of an absent entry that the hardware ignores, for a payload that decodes back: the lowest bit, and how many.
    pub absent: (u32, u32),
    /// Whether replacing a live leaf by another needs it to be absent and flushed in between (Arm).
    pub break_before_make: bool,
}

impl Format {
    /// Whether any level keeps its address in two pieces.
    pub const fn splits_addresses(&self) -> bool {
        let mut rest = self.levels;
        while let [level, others @ ..] = rest {
            if level.leaf_address_high.width != 0 || level.table_address_high.width != 0 {
                return true;
            }
            rest = others;
        }
        false
    }

    /// Whether any level has groups of leaves that a TLB may keep as one.
    pub const fn has_contiguous(&self) -> bool {
        let mut rest = self.levels;
        while let [level, others @ ..] = rest {
            if level.contiguous.is_some() {
                return true;
            }
            rest = others;
        }
        false
    }

    /// Whether table entries of every level limit what lies below them.
    pub const fn limits_at_every_level(&self) -> bool {
        let mut rest = self.levels;
        while let [level, others @ ..] = rest {
            if !level.table_limits {
                return false;
            }
            rest = others;
        }
        self.table.is_some()
    }
}
