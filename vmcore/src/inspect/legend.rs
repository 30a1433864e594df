//! What the bits of entries mean, told from a format's description: the legend of a dump, and one entry bit by bit.
//!
//! ```text
//!   description ──► mask of a meaning in (kind of entry, level) ──► rows: bits, meaning, where
//! ```
//!
//! Nothing here knows a format. A meaning has a mask for each level and kind of entry; those that agree become one row.

use core::fmt::{self, Write as _};

use super::Bytes;
use crate::paging::{AddressField, Canonical, Entry, EntryWord, Flag, LeafTest, Mmu, Permissions};

/// Levels that are told apart; formats have fewer.
const LEVELS: usize = 8;

/// The kinds of entries that are present.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Leaf,
    Table,
}

const KINDS: [Kind; 2] = [Kind::Leaf, Kind::Table];

/// What bits of an entry say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Present,
    Kind,
    Readable,
    Writable,
    Executable,
    KernelExecutable,
    User,
    Memory,
    Global,
    Accessed,
    Dirty,
    DirtyModifier,
    Contiguous,
    Address,
    AddressHigh,
    Software,
    Key,
    Set,
    Reserved,
    Beyond,
}

const MEANINGS: [Meaning; 20] = [
    Meaning::Present,
    Meaning::Kind,
    Meaning::Readable,
    Meaning::Writable,
    Meaning::Executable,
    Meaning::KernelExecutable,
    Meaning::User,
    Meaning::Memory,
    Meaning::Global,
    Meaning::Accessed,
    Meaning::Dirty,
    Meaning::DirtyModifier,
    Meaning::Contiguous,
    Meaning::Address,
    Meaning::AddressHigh,
    Meaning::Software,
    Meaning::Key,
    Meaning::Set,
    Meaning::Reserved,
    Meaning::Beyond,
];

/// One kind of entry of one level.
struct Place<M> {
    mmu: M,
    level: usize,
    kind: Kind,
}

impl<M: Mmu> Place<M> {
    /// The place, if there are such entries.
    fn new(mmu: M, level: usize, kind: Kind) -> Option<Self> {
        let exists = match kind {
            Kind::Leaf => mmu.has_leaves(level),
            Kind::Table => level != 0 && level < mmu.levels(),
        };
        exists.then_some(Self { mmu, level, kind })
    }

    fn flag(&self, meaning: Meaning) -> Flag {
        let format = M::FORMAT;
        let permissions = match self.kind {
            Kind::Leaf => Some(&format.leaf),
            Kind::Table => {
                format.table.as_ref().filter(|_| self.mmu.level(self.level).is_some_and(|at| at.table_limits))
            }
        };
        let leaf = |flag| if self.kind == Kind::Leaf { flag } else { Flag::NONE };
        let permission = |flag: fn(&Permissions) -> Flag| permissions.map_or(Flag::NONE, flag);
        match meaning {
            Meaning::Readable => permission(|all| all.readable),
            Meaning::Writable => permission(|all| all.writable),
            Meaning::Executable => permission(|all| all.executable),
            Meaning::KernelExecutable => permission(|all| all.kernel_executable),
            Meaning::User => permission(|all| all.user),
            Meaning::Global => leaf(format.global),
            Meaning::Accessed => leaf(format.accessed),
            Meaning::Dirty => leaf(format.dirty),
            _ => Flag::NONE,
        }
    }

    /// The bits of all permissions.
    fn permissions(&self) -> u64 {
        use Meaning::{Executable, KernelExecutable, Readable, User, Writable};
        [Readable, Writable, Executable, KernelExecutable, User]
            .iter()
            .fold(0, |mask, flag| mask | self.flag(*flag).mask)
    }

    /// The pieces of the address.
    fn address(&self) -> (AddressField, AddressField) {
        match (self.mmu.level(self.level), self.kind) {
            (None, _) => (AddressField::NONE, AddressField::NONE),
            (Some(at), Kind::Leaf) => (at.leaf_address, at.leaf_address_high),
            (Some(at), Kind::Table) => (at.table_address, at.table_address_high),
        }
    }

    /// Address bits that this machine does not have.
    fn beyond(&self) -> u64 {
        u64::MAX.checked_shl(self.mmu.physical_bits()).unwrap_or(0)
    }

    /// The bits that hold the memory type, and those that would in another machine.
    fn memory(&self) -> (u64, u64) {
        let (Kind::Leaf, Some(at)) = (self.kind, self.mmu.level(self.level)) else { return (0, 0) };
        let (mut held, mut lacking) = (0, 0);
        for (index, mask) in at.memory_bits.iter().enumerate() {
            if (0..16).any(|code| code >> index & 1 != 0 && self.mmu.memory_type(code).is_some()) {
                held |= mask;
            } else {
                lacking |= mask;
            }
        }
        (held, lacking)
    }

    /// The bits that tell leaves from tables, where a level has both.
    fn test(&self) -> u64 {
        let both = self.level != 0 && self.mmu.has_leaves(self.level);
        match (self.mmu.level(self.level).map(|at| at.leaf_test), self.kind) {
            (Some(LeafTest::AnySet(mask)), Kind::Leaf) | (Some(LeafTest::NoneSet(mask)), Kind::Table) if both => mask,
            _ => 0,
        }
    }

    /// The bits with this meaning here.
    fn mask(&self, meaning: Meaning) -> u64 {
        let format = M::FORMAT;
        let Some(at) = self.mmu.level(self.level) else { return 0 };
        let leaf = self.kind == Kind::Leaf;
        let of_leaf = |mask: u64| if leaf { mask } else { 0 };
        let (address, high) = self.address();
        match meaning {
            Meaning::Present => format.present & !self.permissions(),
            Meaning::Kind => self.test() & !self.permissions(),
            Meaning::Memory => self.memory().0,
            Meaning::DirtyModifier => of_leaf(if self.mmu.marks_dirty() { format.dirty_modifier } else { 0 }),
            Meaning::Contiguous => of_leaf(self.mmu.contiguous(self.level).map_or(0, |group| group.mask)),
            Meaning::Address => address.encode(!self.beyond()),
            Meaning::AddressHigh => high.encode(!self.beyond()),
            Meaning::Software => of_leaf(field(format.software)),
            Meaning::Key => of_leaf(field(format.key)),
            Meaning::Set => {
                let set = if leaf { at.leaf_set } else { at.table_set };
                set & !(format.present | self.test() | self.permissions())
            }
            Meaning::Reserved => {
                let reserved = if leaf { at.leaf_reserved } else { at.table_reserved };
                // What this machine lacks of the format is reserved as well.
                let group = at.contiguous.filter(|_| self.mmu.contiguous(self.level).is_none());
                let group = of_leaf(group.map_or(0, |group| group.mask));
                let all = reserved | self.memory().1 | group;
                match at.leaf_test {
                    // What would be a leaf is none in this machine, or is one and no table.
                    LeafTest::AnySet(mask) if !leaf && !self.mmu.has_leaves(self.level) => all | mask,
                    LeafTest::AnySet(mask) if !leaf => all & !mask,
                    _ => all,
                }
            }
            Meaning::Beyond => address.encode(self.beyond()) | high.encode(self.beyond()),
            _ => self.flag(meaning).mask,
        }
    }

    /// The meaning in words.
    fn describe(&self, meaning: Meaning, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused = |meaning| if self.flag(meaning).set_means_yes { "" } else { "not " };
        let split = self.flag(Meaning::KernelExecutable).exists();
        let address = |field: AddressField, f: &mut fmt::Formatter<'_>| {
            let kept = field.mask() & !self.beyond();
            if field.entry_low == field.address_low {
                f.write_str("address")
            } else {
                write!(f, "address {}", Mask(kept))
            }
        };
        match meaning {
            Meaning::Present => f.write_str("present"),
            Meaning::Kind => f.write_str(if self.kind == Kind::Leaf { "a leaf" } else { "a table" }),
            Meaning::Readable => write!(f, "{}readable", refused(meaning)),
            Meaning::Writable => {
                write!(f, "{}writable", refused(meaning))?;
                match self.mask(Meaning::DirtyModifier) {
                    0 => Ok(()),
                    modifier => write!(f, ", or {}dirty where {} is set", refused(meaning), Mask(modifier)),
                }
            }
            Meaning::Executable if split => write!(f, "{}executable by programs", refused(meaning)),
            Meaning::Executable => write!(f, "{}executable", refused(meaning)),
            Meaning::KernelExecutable => write!(f, "{}executable by the kernel", refused(meaning)),
            Meaning::User => write!(f, "{}for programs", refused(meaning)),
            Meaning::Memory => f.write_str("memory type"),
            Meaning::Global => write!(f, "{}global", refused(meaning)),
            Meaning::Accessed => write!(f, "{}accessed", refused(meaning)),
            Meaning::Dirty => write!(f, "{}dirty", refused(meaning)),
            Meaning::DirtyModifier => f.write_str("writable, the hardware marks it as dirty"),
            Meaning::Contiguous => {
                let count = self.mmu.contiguous(self.level).map_or(0, |group| 1_u64 << group.count_shift);
                write!(f, "one of a group of {count}")
            }
            Meaning::Address => address(self.address().0, f),
            Meaning::AddressHigh => address(self.address().1, f),
            Meaning::Software => f.write_str("software"),
            Meaning::Key => f.write_str("protection key"),
            Meaning::Set => f.write_str("always set"),
            Meaning::Reserved => f.write_str("reserved"),
            Meaning::Beyond => f.write_str("reserved: beyond the physical width"),
        }
    }
}

/// The bits of a field that is given by its lowest bit and its width.
fn field((low, width): (u32, u32)) -> u64 {
    ((1_u64 << width.min(63)) - 1) << low.min(63)
}

/// The bits of a mask in words: `bit 63`, `bits 3-4, 7`.
struct Mask(u64);

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.count_ones() == 1 { "bit " } else { "bits " })?;
        let (mut rest, mut between) = (self.0, "");
        while rest != 0 {
            let low = rest.trailing_zeros();
            let count = (rest >> low).trailing_ones();
            write!(f, "{between}{low}")?;
            if count > 1 {
                write!(f, "-{}", low + count - 1)?;
            }
            rest &= u64::MAX.checked_shl(low + count).unwrap_or(0);
            between = ", ";
        }
        Ok(())
    }
}

/// The width of the column that names bits.
const BITS_COLUMN: usize = 20;

/// Text in that column: what is written, then spaces, one at least.
struct Column<T>(T);

impl<T: fmt::Display> fmt::Display for Column<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Count(usize);
        impl fmt::Write for Count {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0 = self.0.saturating_add(text.len());
                Ok(())
            }
        }
        let mut count = Count(0);
        write!(count, "{}", self.0)?;
        self.0.fmt(f)?;
        // A width that is computed could panic.
        (0..BITS_COLUMN.saturating_sub(count.0).max(1)).try_for_each(|_| f.write_char(' '))
    }
}

/// A format, and what of it a machine has, in words: levels and what their entries cover, which bits mean what and where, memory
/// types, which addresses exist. All of it comes from the description ([`Format`](crate::paging::Format)), so a format of your own has
/// its legend as well. No allocation.
///
/// ```
/// use vmcore::inspect::Legend;
/// use vmcore::paging::X86_64;
/// let text = "\
/// x86-64: 4 levels of 64-bit entries
///   addresses           48 bits, the others repeat bit 47; physical ones have 40
///   PML4                512 entries of 512 GiB: tables; level 3 here
///   PDPT                512 entries of 1 GiB: tables or leaves; level 2 here
///   PD                  512 entries of 2 MiB: tables or leaves; level 1 here
///   PT                  512 entries of 4 KiB: leaves; level 0 here
///   bit 0               present
///   bit 1               writable
///   bit 2               for programs
///   bits 3-4, 7         memory type (leaves of PT)
///   bits 3-4, 12        memory type (leaves of PD, PDPT)
///   bit 5               accessed (leaves)
///   bit 6               dirty (leaves)
///   bit 7               a leaf (in PD, PDPT)
///   bit 7               reserved (tables of PML4)
///   bit 8               global (leaves)
///   bits 9-11           software (leaves)
///   bits 12-39          address (leaves of PT; tables)
///   bits 13-20          reserved (leaves of PD)
///   bits 13-29          reserved (leaves of PDPT)
///   bits 21-39          address (leaves of PD)
///   bits 30-39          address (leaves of PDPT)
///   bits 40-51          reserved: beyond the physical width
///   bits 59-62          protection key (leaves)
///   bit 63              not executable
///   memory types        0 WB, 1 WT, 2 UC-, 3 UC, 4 WP, 5 WC, 6 WB, 7 WB
///   bits 1-63           payload (absent entries)
///   permissions         an access must be allowed by the tables above a leaf too";
/// assert_eq!(Legend(X86_64::new(40)).to_string(), text);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Legend<M>(
    /// The MMU.
    pub M,
);

impl<M: Mmu> Legend<M> {
    /// The mask of a meaning in entries of a kind and level.
    fn mask(&self, meaning: Meaning, kind: Kind, level: usize) -> u64 {
        Place::new(self.0, level, kind).map_or(0, |place| place.mask(meaning))
    }

    /// A row: the bits, the meaning, and the entries that have it just there.
    fn row(&self, f: &mut fmt::Formatter<'_>, meaning: Meaning, mask: u64, first: &Place<M>) -> fmt::Result {
        write!(f, "\n  {}", Column(Mask(mask)))?;
        first.describe(meaning, f)?;
        let has = |kind, level| self.mask(meaning, kind, level) == mask;
        let exists = |kind, level| Place::new(self.0, level, kind).is_some();
        let all = |kind| (0..LEVELS).all(|level| has(kind, level) || !exists(kind, level));
        if KINDS.into_iter().all(all) {
            return Ok(());
        }
        let names = |f: &mut fmt::Formatter<'_>, kind, first: &'static str| {
            let mut between = first;
            for level in (0..LEVELS).filter(|level| has(kind, *level)) {
                write!(f, "{between}{}", self.0.level(level).map_or("", |at| at.name))?;
                between = ", ";
            }
            Ok(())
        };
        if meaning == Meaning::Kind {
            // It says itself which kind.
            names(f, first.kind, " (in ")?;
            return f.write_str(")");
        }
        let mut between = " (";
        for (kind, name) in [(Kind::Leaf, "leaves"), (Kind::Table, "tables")] {
            if !(0..LEVELS).any(|level| has(kind, level)) {
                continue;
            }
            write!(f, "{between}{name}")?;
            if !all(kind) {
                names(f, kind, " of ")?;
            }
            between = "; ";
        }
        f.write_str(")")
    }

    /// Calls `visit` with the first place of each distinct mask of each meaning, by the lowest bit.
    fn each_row(&self, mut visit: impl FnMut(Meaning, u64, &Place<M>) -> fmt::Result) -> fmt::Result {
        let places = || {
            let levels = |kind| (0..LEVELS).map(move |level| (kind, level));
            KINDS.into_iter().flat_map(levels)
        };
        for bit in 0..64 {
            for meaning in MEANINGS {
                for (kind, level) in places() {
                    let mask = self.mask(meaning, kind, level);
                    let earlier = |(kind, level)| self.mask(meaning, kind, level) == mask;
                    let is_new = !places().take_while(|place| *place != (kind, level)).any(earlier);
                    if let (true, Some(place)) =
                        (mask != 0 && mask.trailing_zeros() == bit && is_new, Place::new(self.0, level, kind))
                    {
                        visit(meaning, mask, &place)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn levels(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = M::FORMAT;
        for level in (0..self.0.levels()).rev() {
            let Some(at) = self.0.level(level) else { continue };
            let (count, size) = (1_u64 << self.0.index_bits(level), Bytes(1 << at.shift));
            let kinds = match (level, self.0.has_leaves(level)) {
                (0, _) => "leaves",
                (_, true) => "tables or leaves",
                (_, false) => "tables",
            };
            write!(f, "\n  {}{count} entries of {size}: {kinds}; level {level} here", Column(at.name))?;
        }
        let leaf = format.leaf.mask();
        if format.present & leaf != 0 {
            write!(f, "\n  {}present if any is set", Column(Mask(format.present)))?;
        }
        match format.levels.first().map(|at| at.leaf_test) {
            Some(LeafTest::AnySet(mask)) if mask & leaf != 0 => {
                write!(f, "\n  {}a leaf if any is set, a table otherwise", Column(Mask(mask)))
            }
            _ => Ok(()),
        }
    }

    fn memory_types(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n  {}", Column("memory types"))?;
        let mut between = "";
        for code in 0..16 {
            if let Some(memory) = self.0.memory_type(code) {
                write!(f, "{between}{code} {memory}")?;
                between = ", ";
            }
        }
        Ok(())
    }
}

impl<M: Mmu> fmt::Display for Legend<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = M::FORMAT;
        let (name, levels, bits) = (format.name, self.0.levels(), 8_u32 << M::Word::SHIFT);
        write!(f, "{name}: {levels} levels of {bits}-bit entries")?;
        let translated = self.0.virtual_bits();
        write!(f, "\n  {}{translated} bits, the others ", Column("addresses"))?;
        match self.0.canonical() {
            Canonical::SignExtended => write!(f, "repeat bit {}", translated.saturating_sub(1))?,
            Canonical::ZeroExtended => f.write_str("are 0")?,
            Canonical::OneExtended => f.write_str("are 1")?,
        }
        write!(f, "; physical ones have {}", self.0.physical_bits())?;
        self.levels(f)?;
        self.each_row(|meaning, mask, place| self.row(f, meaning, mask, place))?;
        self.memory_types(f)?;
        let absent = field(format.absent);
        write!(f, "\n  {}payload (absent entries)", Column(Mask(absent)))?;
        if format.table.is_some() {
            let every = format.limits_at_every_level();
            let which = if every { "tables" } else { "lower tables" };
            write!(f, "\n  {}an access must be allowed by the {which} above a leaf too", Column("permissions"))?;
        }
        if format.break_before_make {
            write!(
                f,
                "\n  {}a live leaf is made absent and flushed before another takes its place",
                Column("changes")
            )?;
        }
        Ok(())
    }
}

/// One word of a table, bit by bit: what each bit that is set means there, whether the word is well formed or not, and what it means in
/// all. No allocation.
///
/// ```
/// use vmcore::inspect::EntryBits;
/// use vmcore::paging::X86_64;
/// let entry = EntryBits { mmu: X86_64::new(40), level: 0, word: 0x8000_0000_0010_a067 };
/// let text = "\
/// 0x800000000010a067 in PT: a leaf of 4 KiB: frame 0x10a rw-u WB accessed dirty
///   bit 0               present
///   bit 1               writable
///   bit 2               for programs
///   bit 5               accessed
///   bit 6               dirty
///   bits 12-39          address 0x10a000
///   bit 63              not executable";
/// assert_eq!(entry.to_string(), text);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct EntryBits<M> {
    /// The MMU.
    pub mmu: M,
    /// The level of the table that the word stands in; 0 is that of base pages.
    pub level: usize,
    /// The word.
    pub word: u64,
}

impl<M: Mmu> EntryBits<M> {
    /// What the bits of a meaning hold.
    fn value(&self, f: &mut fmt::Formatter<'_>, meaning: Meaning, place: &Place<M>) -> fmt::Result {
        let gathered = |(low, width): (u32, u32)| (self.word & field((low, width))) >> low.min(63);
        let (address, high) = place.address();
        match meaning {
            Meaning::Address => write!(f, " {:#x}", address.decode(self.word) & !place.beyond()),
            Meaning::AddressHigh => write!(f, " {:#x}", high.decode(self.word) & !place.beyond()),
            Meaning::Software => write!(f, " {:#x}", gathered(M::FORMAT.software)),
            Meaning::Key => write!(f, " {}", gathered(M::FORMAT.key)),
            Meaning::Memory => match self.mmu.decode(self.level, self.word) {
                Entry::Leaf(leaf) => write!(f, " {}", leaf.memory),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

impl<M: Mmu> fmt::Display for EntryBits<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(at) = self.mmu.level(self.level) else {
            return write!(f, "{:#018x}: no level {} is in use", self.word, self.level);
        };
        write!(f, "{:#018x} in {}: ", self.word, at.name)?;
        let entry = self.mmu.decode(self.level, self.word);
        match entry {
            Entry::Absent(0) => return f.write_str("absent"),
            Entry::Absent(payload) => return write!(f, "absent, holds {payload:#x}"),
            Entry::Table(frame, _) => write!(f, "a table at {:#x}", frame.start(self.mmu.page_shift()))?,
            Entry::Leaf(leaf) => write!(f, "a leaf of {}: {leaf:?}", Bytes(1 << at.shift))?,
            Entry::Reserved => f.write_str("malformed, an access faults on it")?,
        }
        let kind = if at.is_leaf(self.word) { Kind::Leaf } else { Kind::Table };
        // A word that looks like something that does not exist there is told by the names of what it looks like.
        let place = Place { mmu: self.mmu, level: self.level, kind };
        let mut left = self.word;
        for bit in 0..64 {
            for meaning in MEANINGS {
                let mask = place.mask(meaning);
                let set = self.word & mask;
                if mask == 0 || mask.trailing_zeros() != bit || set == 0 {
                    continue;
                }
                // Of what is reserved, only those that are set say something.
                let named = if matches!(meaning, Meaning::Reserved | Meaning::Beyond) { set } else { mask };
                write!(f, "\n  {}", Column(Mask(named)))?;
                place.describe(meaning, f)?;
                self.value(f, meaning, &place)?;
                left &= !mask;
            }
        }
        if left != 0 {
            write!(f, "\n  {}without a meaning here", Column(Mask(left)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
