//! An MMU as a value: a format's description and what is found when the kernel starts.

use core::fmt;

use crate::addr::{Frame, PageRange, PhysAddr, RangeError, RangeFault, VirtAddr};
use crate::paging::{Access, Canonical, EncodeError, Entry, Format, Leaf, LeafTest, LevelFormat, MemoryType};
use crate::word::{AtomicU32, AtomicU64, Ordering};

/// The width of a table entry, read and written as an atomic of just that width.
///
/// Implemented for `u32` and `u64`; sealed.
pub trait EntryWord: Copy + Send + Sync + sealed::Sealed + 'static {
    /// Bytes of an entry as a power of two.
    const SHIFT: u32;

    /// Reads entry `index` of the table at `table`.
    ///
    /// # Safety
    /// The table is reachable at `table`, aligned to entries, and has more than `index` entries.
    unsafe fn load(table: *const u8, index: usize) -> u64;

    /// Writes entry `index` of the table at `table`, with release ordering: what the entry leads to is seen before it.
    ///
    /// # Safety
    /// As for [`load`](Self::load), and the caller holds the table's lock.
    unsafe fn store(table: *mut u8, index: usize, word: u64);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for u32 {}
    impl Sealed for u64 {}
}

impl EntryWord for u64 {
    const SHIFT: u32 = 3;

    #[inline]
    unsafe fn load(table: *const u8, index: usize) -> u64 {
        // SAFETY: the entry lies in the table; entries are only ever accessed as atomics of this width.
        unsafe { AtomicU64::from_ptr(table.cast::<u64>().cast_mut().add(index)) }.load(Ordering::Relaxed)
    }

    #[inline]
    unsafe fn store(table: *mut u8, index: usize, word: u64) {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(table.cast::<u64>().add(index)) }.store(word, Ordering::Release);
    }
}

impl EntryWord for u32 {
    const SHIFT: u32 = 2;

    #[inline]
    unsafe fn load(table: *const u8, index: usize) -> u64 {
        // SAFETY: the entry lies in the table; entries are only ever accessed as atomics of this width.
        u64::from(unsafe { AtomicU32::from_ptr(table.cast::<u32>().cast_mut().add(index)) }.load(Ordering::Relaxed))
    }

    #[inline]
    unsafe fn store(table: *mut u8, index: usize, word: u64) {
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(table.cast::<u32>().add(index)) }.store(word as u32, Ordering::Release);
    }
}

/// An MMU: a format, and what of it this machine has.
///
/// Implement it for a format of your own by giving its description; everything else is provided.
///
/// # Safety
/// The library builds tables from the description: it must be what the hardware does. In particular every level's table
/// fits a frame, address fields lose no frame below [`physical_bits`](Self::physical_bits), and shifts grow by the index bits.
pub unsafe trait Mmu: Copy + Send + Sync + fmt::Debug {
    /// The width of an entry.
    type Word: EntryWord;

    /// The description.
    const FORMAT: &'static Format;

    /// How many levels are in use; the root table is of level `levels() - 1`.
    fn levels(&self) -> usize;

    /// How many bits a physical address has on this machine.
    fn physical_bits(&self) -> u32;

    /// The code that this machine's layout gives a memory type; `None` if it has none.
    fn memory_code(&self, memory: MemoryType) -> Option<u32>;

    /// The memory type behind a code; `None` for a code that is reserved.
    fn memory_type(&self, code: u32) -> Option<MemoryType>;

    /// The level's description; `None` for a level that is not in use.
    #[inline]
    fn level(&self, level: usize) -> Option<&'static LevelFormat> {
        if level < self.levels() { Self::FORMAT.levels.get(level) } else { None }
    }

    /// The size of a base page as a power of two.
    #[inline]
    fn page_shift(&self) -> u32 {
        Self::FORMAT.levels.first().map_or(12, |level| level.shift)
    }

    /// How many bits of an address are translated.
    #[inline]
    fn virtual_bits(&self) -> u32 {
        self.level(self.levels().saturating_sub(1)).map_or(0, |top| top.shift + top.index_bits)
    }

    /// Whether the format has this address at all.
    #[inline]
    fn is_canonical(&self, address: VirtAddr) -> bool {
        let unused = 64_u32.saturating_sub(self.virtual_bits()).min(63);
        let address = address.as_u64();
        match Self::FORMAT.canonical {
            Canonical::SignExtended => ((address as i64) << unused >> unused) as u64 == address,
            Canonical::ZeroExtended => address << unused >> unused == address,
        }
    }

    /// The range of `size` bytes from `start`: the one place where a range of this MMU's addresses is checked.
    ///
    /// # Errors
    /// A [`RangeError`] that says what is wrong: empty, unaligned, overflowing, or not within one canonical half.
    fn range(&self, start: u64, size: u64) -> Result<PageRange, RangeError> {
        let fail = |fault| Err(RangeError { fault, start, size });
        let page_mask = (1_u64 << self.page_shift()) - 1;
        if size == 0 {
            return fail(RangeFault::Empty);
        }
        if (start | size) & page_mask != 0 {
            return fail(RangeFault::Unaligned);
        }
        let Some(last) = start.checked_add(size - 1) else { return fail(RangeFault::Overflow) };
        let (start_address, last_address) = (VirtAddr::new(start), VirtAddr::new(last));
        let halves_differ = Self::FORMAT.canonical == Canonical::SignExtended && (start ^ last) >> 63 != 0;
        if halves_differ || !self.is_canonical(start_address) || !self.is_canonical(last_address) {
            return fail(RangeFault::NonCanonical);
        }
        Ok(PageRange::from_checked(start_address, size))
    }

    /// Whether the frame lies within the physical width.
    #[inline]
    fn frame_fits(&self, frame: Frame) -> bool {
        match frame.number().checked_shr(self.physical_bits().saturating_sub(self.page_shift())) {
            Some(beyond) => beyond == 0,
            // A width of 64 bits more than the page's: every number fits.
            None => true,
        }
    }

    /// The word for a leaf of `level`.
    ///
    /// # Errors
    /// What the format, the level or this machine cannot represent.
    #[inline]
    fn encode_leaf(&self, level: usize, leaf: Leaf) -> Result<u64, EncodeError> {
        let format = Self::FORMAT;
        let Some(at) = self.level(level) else { return Err(EncodeError::NoLeafAtLevel(level)) };
        if at.leaf_test == LeafTest::Never {
            return Err(EncodeError::NoLeafAtLevel(level));
        }
        let address = leaf.frame.start(self.page_shift());
        if !self.frame_fits(leaf.frame) || !address.is_aligned(at.shift) {
            return Err(EncodeError::Frame(leaf.frame));
        }
        let permissions = format.leaf.encode(leaf.access).ok_or(EncodeError::Access(leaf.access))?;
        let code = self.memory_code(leaf.memory).ok_or(EncodeError::MemoryType(leaf.memory))?;
        let (software_low, software_width) = format.software;
        if u64::from(leaf.software) >> software_width.min(8) != 0 {
            return Err(EncodeError::Software(leaf.software));
        }
        Ok(at.leaf_set
            | at.leaf_address.encode(address.as_u64())
            | format.address_high.encode(address.as_u64())
            | spread(code, &at.memory_bits)
            | permissions
            | format.global.encode(leaf.global)
            | format.accessed.encode(leaf.accessed)
            | format.dirty.encode(leaf.dirty)
            | u64::from(leaf.software) << software_low)
    }

    /// What is to be added to a leaf's word of this level for the leaf that maps what follows it, as long as no bit is
    /// carried out of the address field.
    #[inline]
    fn leaf_stride(&self, level: usize) -> u64 {
        let Some(at) = self.level(level) else { return 0 };
        let field = at.leaf_address;
        1_u64.checked_shl((at.shift + field.entry_low).saturating_sub(field.address_low)).unwrap_or(0)
    }

    /// The word that leads from a table of `level` to the table of the next lower level in `frame`, letting everything through.
    ///
    /// # Errors
    /// A frame beyond the physical width, or a level without tables below it.
    #[inline]
    fn encode_table(&self, level: usize, frame: Frame) -> Result<u64, EncodeError> {
        let Some(at) = self.level(level) else { return Err(EncodeError::NoTableAtLevel(level)) };
        if level == 0 {
            return Err(EncodeError::NoTableAtLevel(level));
        }
        if !self.frame_fits(frame) {
            return Err(EncodeError::Frame(frame));
        }
        let address = frame.start(self.page_shift()).as_u64();
        Ok(at.table_set | at.table_address.encode(address) | Self::FORMAT.address_high.encode(address))
    }

    /// Whether a word is present at all: cheaper than [`decode`](Self::decode).
    #[inline]
    fn is_present(&self, word: u64) -> bool {
        word & Self::FORMAT.present != 0
    }

    /// The table that a word in a table of `level` leads to; `None` for anything else, which [`decode`](Self::decode) tells apart.
    /// Cheaper than that: the way down a tree meets nothing but tables until its end.
    #[inline(always)]
    fn decode_table(&self, level: usize, word: u64) -> Option<Frame> {
        let format = Self::FORMAT;
        let at = format.levels.get(level)?;
        let is_leaf = match at.leaf_test {
            LeafTest::Always => true,
            LeafTest::Never => false,
            LeafTest::AnySet(mask) => word & mask != 0,
            LeafTest::NoneSet(mask) => word & mask == 0,
        };
        if !self.is_present(word) || is_leaf || level == 0 || word & at.table_reserved != 0 {
            return None;
        }
        let address = at.table_address.decode(word) | format.address_high.decode(word);
        let frame = Frame::containing(PhysAddr::new(address), self.page_shift());
        self.frame_fits(frame).then_some(frame)
    }

    /// What a word in a table of `level` means. Any word has a meaning; this never fails.
    #[inline]
    fn decode(&self, level: usize, word: u64) -> Entry {
        let format = Self::FORMAT;
        if !self.is_present(word) {
            return Entry::Absent;
        }
        let Some(at) = self.level(level) else { return Entry::Reserved };
        let is_leaf = match at.leaf_test {
            LeafTest::Always => true,
            LeafTest::Never => false,
            LeafTest::AnySet(mask) => word & mask != 0,
            LeafTest::NoneSet(mask) => word & mask == 0,
        };
        let (field, reserved) =
            if is_leaf { (at.leaf_address, at.leaf_reserved) } else { (at.table_address, at.table_reserved) };
        let address = PhysAddr::new(field.decode(word) | format.address_high.decode(word));
        let frame = Frame::containing(address, self.page_shift());
        if word & reserved != 0 || !self.frame_fits(frame) {
            return Entry::Reserved;
        }
        if !is_leaf {
            if level == 0 {
                return Entry::Reserved;
            }
            return Entry::Table(frame, format.table.map_or(Access::all(), |limits| limits.decode(word)));
        }
        let Some(memory) = self.memory_type(gather(word, &at.memory_bits)) else { return Entry::Reserved };
        let (software_low, software_width) = format.software;
        Entry::Leaf(Leaf {
            frame,
            access: format.leaf.decode(word),
            memory,
            global: format.global.decode(word),
            accessed: format.accessed.decode(word),
            dirty: format.dirty.decode(word),
            software: ((word >> software_low) & ((1 << software_width.min(8)) - 1)) as u8,
        })
    }
}

/// The word with each bit of `code` at its mask.
#[inline]
fn spread(code: u32, masks: &[u64; 4]) -> u64 {
    let [a, b, c, d] = *masks;
    let bit = |index: u32, mask: u64| if code >> index & 1 != 0 { mask } else { 0 };
    bit(0, a) | bit(1, b) | bit(2, c) | bit(3, d)
}

/// The code whose bits stand at the masks of `word`.
#[inline]
fn gather(word: u64, masks: &[u64; 4]) -> u32 {
    let [a, b, c, d] = *masks;
    let bit = |index: u32, mask: u64| u32::from(word & mask != 0) << index;
    bit(0, a) | bit(1, b) | bit(2, c) | bit(3, d)
}
