//! An MMU as a value: a format's description and what is found when the kernel starts.

use core::fmt;

use crate::addr::{Frame, PageRange, PhysAddr, RangeError, RangeFault, VirtAddr};
#[cfg(any(test, fuzzing))]
use crate::paging::interleave;
use crate::paging::walk::MAX_LEVELS;
use crate::paging::{
    Access, AddressField, Canonical, Contiguous, EncodeError, Entry, Format, Leaf, LeafTest, LevelFormat, Limits,
    MemoryType, Permissions,
};
use crate::word::{AtomicU32, AtomicU64, Ordering};

/// The width of a table entry, read and written as an atomic of just that width.
///
/// Implemented for `u32` and `u64`; sealed.
pub trait EntryWord: Copy + Send + Sync + sealed::Sealed + 'static {
    /// The atomic of this width.
    type Atomic: Sync + fmt::Debug;

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

    /// Writes entry `index` and gives what stood there, as one step: no mark that the hardware sets meanwhile is lost.
    ///
    /// # Safety
    /// As for [`store`](Self::store).
    unsafe fn swap(table: *mut u8, index: usize, word: u64) -> u64;

    /// Writes entry `index` if `old` stands there, as one step; gives what stands there otherwise.
    ///
    /// # Safety
    /// As for [`store`](Self::store).
    unsafe fn compare_exchange(table: *mut u8, index: usize, old: u64, new: u64) -> Result<(), u64>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for u32 {}
    impl Sealed for u64 {}
}

impl EntryWord for u64 {
    type Atomic = AtomicU64;
    const SHIFT: u32 = 3;

    #[inline]
    unsafe fn load(table: *const u8, index: usize) -> u64 {
        #[cfg(any(test, fuzzing))]
        interleave::step();
        // SAFETY: the entry lies in the table; entries are only ever accessed as atomics of this width.
        unsafe { AtomicU64::from_ptr(table.cast::<u64>().cast_mut().add(index)) }.load(Ordering::Relaxed)
    }

    #[inline]
    unsafe fn store(table: *mut u8, index: usize, word: u64) {
        #[cfg(any(test, fuzzing))]
        interleave::step();
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(table.cast::<u64>().add(index)) }.store(word, Ordering::Release);
    }

    #[inline]
    unsafe fn swap(table: *mut u8, index: usize, word: u64) -> u64 {
        #[cfg(any(test, fuzzing))]
        interleave::step();
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(table.cast::<u64>().add(index)) }.swap(word, Ordering::AcqRel)
    }

    #[inline]
    unsafe fn compare_exchange(table: *mut u8, index: usize, old: u64, new: u64) -> Result<(), u64> {
        #[cfg(any(test, fuzzing))]
        interleave::step();
        // SAFETY: as above.
        let entry = unsafe { AtomicU64::from_ptr(table.cast::<u64>().add(index)) };
        entry.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).map(|_| ())
    }
}

impl EntryWord for u32 {
    type Atomic = AtomicU32;
    const SHIFT: u32 = 2;

    #[inline]
    unsafe fn load(table: *const u8, index: usize) -> u64 {
        #[cfg(any(test, fuzzing))]
        interleave::step();
        // SAFETY: the entry lies in the table; entries are only ever accessed as atomics of this width.
        u64::from(unsafe { AtomicU32::from_ptr(table.cast::<u32>().cast_mut().add(index)) }.load(Ordering::Relaxed))
    }

    #[inline]
    unsafe fn store(table: *mut u8, index: usize, word: u64) {
        #[cfg(any(test, fuzzing))]
        interleave::step();
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(table.cast::<u32>().add(index)) }.store(word as u32, Ordering::Release);
    }

    #[inline]
    unsafe fn swap(table: *mut u8, index: usize, word: u64) -> u64 {
        #[cfg(any(test, fuzzing))]
        interleave::step();
        // SAFETY: as above.
        u64::from(unsafe { AtomicU32::from_ptr(table.cast::<u32>().add(index)) }.swap(word as u32, Ordering::AcqRel))
    }

    #[inline]
    unsafe fn compare_exchange(table: *mut u8, index: usize, old: u64, new: u64) -> Result<(), u64> {
        #[cfg(any(test, fuzzing))]
        interleave::step();
        // SAFETY: as above.
        let entry = unsafe { AtomicU32::from_ptr(table.cast::<u32>().add(index)) };
        entry
            .compare_exchange(old as u32, new as u32, Ordering::AcqRel, Ordering::Relaxed)
            .map(|_| ())
            .map_err(u64::from)
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

    /// The bits that no physical address of this machine has. A value may keep them at hand, since every entry that is read or written
    /// asks.
    #[inline]
    fn beyond_physical(&self) -> u64 {
        u64::MAX.checked_shl(self.physical_bits()).unwrap_or(0)
    }

    /// The code that this machine's layout gives a memory type; `None` if it has none.
    fn memory_code(&self, memory: MemoryType) -> Option<u32>;

    /// The memory type behind a code; `None` for a code that is reserved, or whose meaning has no name here.
    fn memory_type(&self, code: u32) -> Option<MemoryType>;

    /// Which addresses exist; the format's rule, unless the value is one half of it (Arm).
    #[inline]
    fn canonical(&self) -> Canonical {
        Self::FORMAT.canonical
    }

    /// A table of `level` has 2^`index_bits(level)` entries: what the format says, unless the root is cut to the width of addresses
    /// (Arm). 0 for a level that is not in use.
    #[inline]
    fn index_bits(&self, level: usize) -> u32 {
        self.level(level).map_or(0, |at| at.index_bits)
    }

    /// Whether this machine lacks the leaves that the format has at this level (Arm's blocks of 4 TiB come with 52-bit addresses).
    #[inline]
    fn lacks_leaves(&self, level: usize) -> bool {
        let _ = level;
        false
    }

    /// Whether there are leaves of this level.
    #[inline]
    fn has_leaves(&self, level: usize) -> bool {
        self.level(level).is_some_and(LevelFormat::has_leaves) && !self.lacks_leaves(level)
    }

    /// Whether this machine has an access that the format can express (EPT: executing without reading is optional).
    #[inline]
    fn has_access(&self, access: Access) -> bool {
        let _ = access;
        true
    }

    /// Whether the hardware marks writable leaves as dirty, in a format that has to be told which ones
    /// ([`Format::dirty_modifier`]).
    #[inline]
    fn marks_dirty(&self) -> bool {
        true
    }

    /// How many tags this machine has to tell the TLB entries of one space from another's, tag 0 included: 1 is none but tag 0,
    /// with which every load of a root flushes. A [`Machine`](crate::Machine) makes use of 4096 at the most.
    #[inline]
    fn tags(&self) -> u32 {
        1
    }

    /// The groups of leaves of this level that this machine's TLB may keep as one.
    #[inline]
    fn contiguous(&self, level: usize) -> Option<Contiguous> {
        if const { Self::FORMAT.has_contiguous() } { self.level(level)?.contiguous } else { None }
    }

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
        let levels = self.levels();
        let mut bits = 0;
        // A choice among a few constants, where the root is looked up in memory otherwise.
        for (level, at) in Self::FORMAT.levels.iter().enumerate() {
            if level < levels {
                bits = at.shift + self.index_bits(level);
            }
        }
        bits
    }

    /// Whether the format has this address at all.
    #[inline]
    fn is_canonical(&self, address: VirtAddr) -> bool {
        let address = address.as_u64();
        // Half of the addresses that are translated; 0 where they are all.
        let half = 1_u64.checked_shl(self.virtual_bits().wrapping_sub(1)).unwrap_or(0);
        let last = half.wrapping_mul(2).wrapping_sub(1);
        match self.canonical() {
            Canonical::SignExtended => address.wrapping_add(half) <= last,
            Canonical::ZeroExtended => address <= last,
            Canonical::OneExtended => !address <= last,
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
        let halves_differ = self.canonical() == Canonical::SignExtended && (start ^ last) >> 63 != 0;
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

    /// The bits of a leaf that say `access`.
    ///
    /// # Errors
    /// The format or this machine cannot represent it.
    #[inline]
    fn encode_access(&self, access: Access) -> Result<u64, EncodeError> {
        access_bits(self, access).ok_or(EncodeError::Access(access))
    }

    /// The word for a leaf of `level`.
    ///
    /// # Errors
    /// What the format, the level or this machine cannot represent.
    #[inline(always)]
    fn encode_leaf(&self, level: usize, leaf: Leaf) -> Result<u64, EncodeError> {
        leaf_word(self, level, leaf).ok_or_else(|| why_no_leaf(self, level, leaf))
    }

    /// The format's dirty modifier, where this machine uses it.
    #[inline]
    fn dirty_modifier(&self) -> u64 {
        if Self::FORMAT.dirty_modifier != 0 && self.marks_dirty() { Self::FORMAT.dirty_modifier } else { 0 }
    }

    /// The bits of an access, with those of the dirty mark.
    #[inline]
    fn with_dirty(&self, permissions: u64, write: bool, dirty: bool) -> u64 {
        let format = Self::FORMAT;
        let modifier = self.dirty_modifier();
        if modifier != 0 && write {
            permissions & !format.leaf.writable.mask | format.leaf.writable.encode(dirty) | modifier
        } else {
            permissions | format.dirty.encode(dirty)
        }
    }

    /// Whether a leaf's word is marked as written.
    #[inline]
    fn is_dirty(&self, word: u64) -> bool {
        let format = Self::FORMAT;
        let by_hardware = word & self.dirty_modifier() != 0 && format.leaf.writable.decode(word);
        by_hardware || format.dirty.decode(word)
    }

    /// What a leaf's word permits.
    #[inline]
    fn leaf_access(&self, word: u64) -> Access {
        let access = Self::FORMAT.leaf.decode(word);
        if word & self.dirty_modifier() != 0 { access | Access::WRITE } else { access }
    }

    /// The bits of a leaf's word on which its presence, its [access](Self::leaf_access) and what [`replace_access`](Self::replace_access) changes depend;
    /// `None` if the hardware changes any of them by itself.
    #[inline]
    fn access_mask(&self) -> Option<u64> {
        let format = Self::FORMAT;
        (self.dirty_modifier() == 0).then_some(format.present | format.leaf.mask())
    }

    /// The bits of a word in a table of the lowest level on which it depends whether it is a leaf; `None` where it depends on more than what each of them is.
    #[inline]
    fn leaf_mask(&self) -> Option<u64> {
        let at = self.level(0).filter(|_| !const { Self::FORMAT.has_contiguous() })?;
        Pattern::leaf(Self::FORMAT, at).bits(beyond_width(self, at.leaf_address, at.leaf_address_high))
    }

    /// A leaf's word with other bits of [access](Self::encode_access), all else kept.
    #[inline]
    fn replace_access(&self, word: u64, bits: u64) -> u64 {
        let format = Self::FORMAT;
        let modifier = self.dirty_modifier();
        let rest = word & !format.leaf.mask();
        if modifier == 0 {
            return rest | bits;
        }
        let write = format.leaf.writable.decode(bits);
        rest & !(modifier | format.dirty.mask) | self.with_dirty(bits, write, self.is_dirty(word))
    }

    /// The word for one of a [group](Self::contiguous) of leaves. The whole group, aligned in addresses and frames alike, must be
    /// written so; before one of it is changed, the others must be made single leaves.
    ///
    /// # Errors
    /// As for [`encode_leaf`](Self::encode_leaf), and [`EncodeError::Contiguous`].
    fn encode_contiguous(&self, level: usize, leaf: Leaf) -> Result<u64, EncodeError> {
        let word = self.encode_leaf(level, leaf)?;
        let (Some(at), Some(group)) = (self.level(level), self.contiguous(level)) else {
            return Err(EncodeError::Contiguous(level));
        };
        let size = if group.size_in_address { 1 << group.count_shift >> 1 } else { 0 };
        let replaced =
            if group.size_in_address { ((1 << group.count_shift) - 1) << at.leaf_address.entry_low } else { 0 };
        Ok(word & !replaced | size << at.leaf_address.entry_low | group.mask)
    }

    /// Whether a leaf's word is one of a [group](Self::contiguous).
    #[inline]
    fn is_contiguous(&self, level: usize, word: u64) -> bool {
        self.contiguous(level).is_some_and(|group| word & group.mask != 0)
    }

    /// The word of an absent entry that holds a payload. [`decode`](Self::decode) gives it back.
    ///
    /// A payload must not be where the hardware could speculate on it as an address of secrets (x86's L1 terminal fault): keep
    /// it small, or inverted. Tables count present entries only: they do not keep a table for the payloads in it.
    ///
    /// # Errors
    /// [`EncodeError::Payload`] if the format keeps fewer bits.
    #[inline]
    fn encode_absent(&self, payload: u64) -> Result<u64, EncodeError> {
        let (low, width) = Self::FORMAT.absent;
        if payload.checked_shr(width).unwrap_or(0) != 0 {
            Err(EncodeError::Payload(payload))
        } else {
            Ok(payload << low)
        }
    }

    /// Whether a leaf of this level can map the frame at all: alignment and width.
    #[inline]
    fn leaf_fits(&self, level: usize, frame: Frame) -> bool {
        let at = self.level(level).filter(|_| self.has_leaves(level));
        at.is_some_and(|at| fits(self, frame, at.leaf_address, at.leaf_address_high))
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
        let (field, high) = (at.table_address, at.table_address_high);
        if !fits(self, frame, field, high) {
            return Err(EncodeError::Frame(frame));
        }
        Ok(at.table_set | address_bits(self, frame, field, high))
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
        let at = Self::FORMAT.levels.get(level)?;
        let (field, high) = (at.table_address, at.table_address_high);
        let told = Pattern::table(Self::FORMAT, at).matches(word, beyond_width(self, field, high));
        if level == 0 || !told || refuses_table(self, word) {
            return None;
        }
        Some(frame_in(self, word, field, high))
    }

    /// The leaf that a word in a table of `level` is; `None` for anything else, which [`decode`](Self::decode) tells apart. Of a
    /// [group](Self::contiguous) whose entries are all the same word it is the first frame's.
    #[inline(always)]
    fn decode_leaf(&self, level: usize, word: u64) -> Option<Leaf> {
        let format = Self::FORMAT;
        let at = self.level(level)?;
        let (field, high) = (at.leaf_address, at.leaf_address_high);
        if !Pattern::leaf(format, at).matches(word, beyond_width(self, field, high)) || self.lacks_leaves(level) {
            return None;
        }
        let mut frame = frame_in(self, word, field, high);
        if const { Self::FORMAT.has_contiguous() } {
            if let Some(group) = at.contiguous.filter(|group| word & group.mask != 0) {
                let low = (1 << group.count_shift) - 1;
                let malformed = group.size_in_address && frame.number() & low != 1 << group.count_shift >> 1;
                if malformed || self.contiguous(level).is_none() {
                    return None;
                }
                if group.size_in_address {
                    frame = Frame::new(frame.number() & !low);
                }
            }
        }
        let access = self.leaf_access(word);
        if format.leaf.readable.exists() && !(format.leaf.combinations.contain(access) && self.has_access(access)) {
            return None;
        }
        let memory = self.memory_type(gather(word, &at.memory_bits))?;
        let (software_low, software_width) = format.software;
        let (key_low, key_width) = format.key;
        Some(Leaf {
            frame,
            access,
            memory,
            global: format.global.decode(word),
            accessed: format.accessed.decode(word),
            dirty: self.is_dirty(word),
            software: ((word >> software_low) & ((1 << software_width.min(8)) - 1)) as u8,
            key: ((word >> key_low) & ((1 << key_width.min(8)) - 1)) as u8,
        })
    }

    /// What a table entry of `level` lets through.
    #[inline]
    fn limits(&self, level: usize, word: u64) -> Limits {
        let Some(permissions) = &Self::FORMAT.table else { return Limits::NONE };
        if const { Self::FORMAT.limits_at_every_level() } || self.level(level).is_some_and(|at| at.table_limits) {
            permissions.limits(word)
        } else {
            Limits::NONE
        }
    }

    /// What a word in a table of `level` means. Any word has a meaning; this never fails.
    ///
    /// A leaf that is one of a [group](Self::contiguous) whose entries are all the same word has the group's first frame:
    /// [`decode_at`](Self::decode_at) knows which one it is.
    #[inline]
    fn decode(&self, level: usize, word: u64) -> Entry {
        if !self.is_present(word) {
            let (low, width) = Self::FORMAT.absent;
            return Entry::Absent(word >> low & (u64::MAX >> 64_u32.saturating_sub(width).min(63)));
        }
        // No word is both. Above the leaves most are tables, and seeing that is cheaper.
        if let Some(frame) = self.level(level).and_then(|_| self.decode_table(level, word)) {
            return Entry::Table(frame, self.limits(level, word));
        }
        self.decode_leaf(level, word).map_or(Entry::Reserved, Entry::Leaf)
    }

    /// What the word at `index` in a table of `level` means.
    #[inline]
    fn decode_at(&self, level: usize, index: usize, word: u64) -> Entry {
        match self.decode(level, word) {
            Entry::Leaf(leaf) => Entry::Leaf(in_group(self, level, index, word, leaf)),
            entry => entry,
        }
    }

    /// The leaf at `index` in a table of `level`; `None` for anything else.
    #[inline(always)]
    fn decode_leaf_at(&self, level: usize, index: usize, word: u64) -> Option<Leaf> {
        self.decode_leaf(level, word).map(|leaf| in_group(self, level, index, word, leaf))
    }
}

/// The leaf that stands at `index`, where it is one of a group whose entries are all the same word.
#[inline(always)]
fn in_group<M: Mmu>(mmu: &M, level: usize, index: usize, word: u64, leaf: Leaf) -> Leaf {
    if const { M::FORMAT.has_contiguous() } {
        if let Some(group) = mmu.contiguous(level) {
            if group.size_in_address && word & group.mask != 0 {
                let place = index as u64 & ((1 << group.count_shift) - 1);
                return Leaf { frame: leaf.frame.add(place), ..leaf };
            }
        }
    }
    leaf
}

/// The word for a leaf of `level`, if there is one.
#[inline(always)]
fn leaf_word<M: Mmu>(mmu: &M, level: usize, leaf: Leaf) -> Option<u64> {
    let format = M::FORMAT;
    let at = mmu.level(level)?;
    let (software_low, software_width) = format.software;
    let (key_low, key_width) = format.key;
    let represented = mmu.has_leaves(level)
        && format.global.can_say(leaf.global)
        && u64::from(leaf.software) >> software_width.min(8) == 0
        && u64::from(leaf.key) >> key_width.min(8) == 0
        && fits(mmu, leaf.frame, at.leaf_address, at.leaf_address_high);
    if !represented {
        return None;
    }
    let permissions = access_bits(mmu, leaf.access)?;
    let memory = memory_bits::<M>(level, mmu.memory_code(leaf.memory)?);
    Some(
        at.leaf_set
            | address_bits(mmu, leaf.frame, at.leaf_address, at.leaf_address_high)
            | memory
            | mmu.with_dirty(permissions, leaf.access.contains(Access::WRITE), leaf.dirty)
            | format.global.encode(leaf.global)
            | format.accessed.encode(leaf.accessed)
            | u64::from(leaf.software) << software_low
            | u64::from(leaf.key) << key_low,
    )
}

/// Why there is no word for a leaf.
#[cold]
#[inline(never)]
fn why_no_leaf<M: Mmu>(mmu: &M, level: usize, leaf: Leaf) -> EncodeError {
    let format = M::FORMAT;
    let Some(at) = mmu.level(level).filter(|_| mmu.has_leaves(level)) else {
        return EncodeError::NoLeafAtLevel(level);
    };
    if !fits(mmu, leaf.frame, at.leaf_address, at.leaf_address_high) {
        return EncodeError::Frame(leaf.frame);
    }
    if access_bits(mmu, leaf.access).is_none() {
        return EncodeError::Access(leaf.access);
    }
    if mmu.memory_code(leaf.memory).is_none() {
        return EncodeError::MemoryType(leaf.memory);
    }
    if !format.global.can_say(leaf.global) {
        return EncodeError::Global;
    }
    if u64::from(leaf.software) >> format.software.1.min(8) != 0 {
        return EncodeError::Software(leaf.software);
    }
    EncodeError::Key(leaf.key)
}

/// The bits of a leaf that say `access`, if the format and this machine can.
#[inline(always)]
fn access_bits<M: Mmu>(mmu: &M, access: Access) -> Option<u64> {
    // Made when this is compiled: every leaf that is written asks.
    let encoded = const { &every_access(&M::FORMAT.leaf) };
    if mmu.has_access(access) { *encoded.get(usize::from(access.bits() & 15))? } else { None }
}

/// Whether an entry with these fields can hold the frame: its alignment, and the physical width.
#[inline(always)]
fn fits<M: Mmu>(mmu: &M, frame: Frame, field: AddressField, high: AddressField) -> bool {
    let kept = field.mask() | if const { M::FORMAT.splits_addresses() } { high.mask() } else { 0 };
    frame.number() & !((kept & !mmu.beyond_physical()) >> (mmu.page_shift() & 63)) == 0
}

/// The bits of a base page's leaf that say which frame it maps; `None` for one that the format cannot represent.
#[inline(always)]
pub(super) fn page_address_bits<M: Mmu>(mmu: &M, frame: Frame) -> Option<u64> {
    let at = M::FORMAT.levels.first()?;
    let (field, high) = (at.leaf_address, at.leaf_address_high);
    fits(mmu, frame, field, high).then(|| address_bits(mmu, frame, field, high))
}

/// The same for a frame that it can represent; of another one, what of it there is room for.
#[inline(always)]
pub(super) fn page_address_bits_unchecked<M: Mmu>(mmu: &M, frame: Frame) -> u64 {
    let at = const { &M::FORMAT.levels.first() };
    at.map_or(0, |at| address_bits(mmu, frame, at.leaf_address, at.leaf_address_high))
}

/// The bits of an entry for a frame that [`fits`].
#[inline(always)]
fn address_bits<M: Mmu>(mmu: &M, frame: Frame, field: AddressField, high: AddressField) -> u64 {
    let address = frame.start(mmu.page_shift()).as_u64();
    field.encode(address) | if const { M::FORMAT.splits_addresses() } { high.encode(address) } else { 0 }
}

/// The bits that say each access, by its number; `None` for those that the format cannot express.
const fn every_access(permissions: &Permissions) -> [Option<u64>; 16] {
    const fn of(permissions: &Permissions, number: u8) -> Option<u64> {
        permissions.encode(Access::from_bits_truncate(number))
    }
    let p = permissions;
    [
        of(p, 0),
        of(p, 1),
        of(p, 2),
        of(p, 3),
        of(p, 4),
        of(p, 5),
        of(p, 6),
        of(p, 7),
        of(p, 8),
        of(p, 9),
        of(p, 10),
        of(p, 11),
        of(p, 12),
        of(p, 13),
        of(p, 14),
        of(p, 15),
    ]
}

/// What tells a kind of entry from all other words, as far as one comparison can: with constant masks, it becomes one.
struct Pattern {
    /// The bits that are looked at.
    mask: u64,
    /// What they are.
    value: u64,
    /// Any of these is set that say present, where they are several; else all bits.
    any_present: u64,
    /// Any of these is set that tell leaves from tables, where they are several; else all bits.
    any_kind: u64,
    /// Whether there is no such entry.
    never: bool,
}

impl Pattern {
    /// What every present entry has that has none of the `reserved` bits.
    #[inline(always)]
    const fn present(format: &Format, reserved: u64) -> Self {
        let all = Self { mask: reserved, value: 0, any_present: u64::MAX, any_kind: u64::MAX, never: false };
        if format.present.is_power_of_two() {
            all.with(format.present)
        } else {
            Self { any_present: format.present, ..all }
        }
    }

    /// And this bit.
    #[inline(always)]
    const fn with(mut self, bit: u64) -> Self {
        // One that is reserved is in no such entry.
        self.never |= self.mask & !self.value & bit != 0;
        self.mask |= bit;
        self.value |= bit;
        self
    }

    /// And any of the bits of `mask`.
    #[inline(always)]
    const fn with_any(self, mask: u64) -> Self {
        if mask.is_power_of_two() { self.with(mask) } else { Self { any_kind: mask, ..self } }
    }

    /// And none of the bits of `mask`.
    #[inline(always)]
    const fn with_none(mut self, mask: u64) -> Self {
        self.never |= self.value & mask != 0;
        self.mask |= mask;
        self
    }

    #[inline(always)]
    const fn leaf(format: &Format, at: &LevelFormat) -> Self {
        let present = Self::present(format, at.leaf_reserved);
        match at.leaf_test {
            LeafTest::Always => present,
            LeafTest::Never => Self { never: true, ..present },
            LeafTest::AnySet(mask) => present.with_any(mask),
            LeafTest::NoneSet(mask) => present.with_none(mask),
        }
    }

    #[inline(always)]
    const fn table(format: &Format, at: &LevelFormat) -> Self {
        let present = Self::present(format, at.table_reserved);
        match at.leaf_test {
            LeafTest::Always => Self { never: true, ..present },
            LeafTest::Never => present,
            LeafTest::AnySet(mask) => present.with_none(mask),
            LeafTest::NoneSet(mask) => present.with_any(mask),
        }
    }

    /// Whether a word is such an entry; `clear` are more bits that must not be set.
    #[inline(always)]
    const fn matches(&self, word: u64, clear: u64) -> bool {
        !self.never
            && word & (self.mask | clear) == self.value
            && (self.any_present == u64::MAX || word & self.any_present != 0)
            && (self.any_kind == u64::MAX || word & self.any_kind != 0)
    }

    /// The bits that [`matches`](Self::matches) looks at, if it looks at each of them alone.
    #[inline(always)]
    fn bits(&self, clear: u64) -> Option<u64> {
        (self.any_present == u64::MAX && self.any_kind == u64::MAX).then_some(self.mask | clear)
    }
}

/// The bits of an entry that would be address bits beyond the physical width.
#[inline(always)]
fn beyond_width<M: Mmu>(mmu: &M, field: AddressField, high: AddressField) -> u64 {
    let beyond = mmu.beyond_physical();
    let high = if const { M::FORMAT.splits_addresses() } { high.encode(beyond) } else { 0 };
    field.encode(beyond) | high
}

/// The frame that an entry leads to.
#[inline(always)]
fn frame_in<M: Mmu>(mmu: &M, word: u64, field: AddressField, high: AddressField) -> Frame {
    let high = if const { M::FORMAT.splits_addresses() } { high.decode(word) } else { 0 };
    Frame::containing(PhysAddr::new(field.decode(word) | high), mmu.page_shift())
}

/// Whether the access that a table's entry lets through is one that no entry may have (EPT: writing without reading). Only a
/// format whose tables can withhold reading has such.
#[inline]
fn refuses_table<M: Mmu>(mmu: &M, word: u64) -> bool {
    match &M::FORMAT.table {
        Some(table) if table.readable.exists() => {
            let access = table.decode(word);
            !(table.combinations.contain(access) && mmu.has_access(access))
        }
        _ => false,
    }
}

/// The bits of a leaf of `level` that say each code of a memory type.
#[inline(always)]
fn memory_bits<M: Mmu>(level: usize, code: u32) -> u64 {
    // Made when this is compiled: every leaf that is written asks.
    let spread = const { &every_code(M::FORMAT) };
    spread.get(level).and_then(|codes| codes.get((code & 15) as usize)).copied().unwrap_or(0)
}

/// The words that have the bits of each code at the masks of each level.
const fn every_code(format: &Format) -> [[u64; 16]; MAX_LEVELS] {
    const fn of(level: &LevelFormat) -> [u64; 16] {
        let [a, b, c, d] = level.memory_bits;
        [
            0,
            a,
            b,
            a | b,
            c,
            a | c,
            b | c,
            a | b | c,
            d,
            a | d,
            b | d,
            a | b | d,
            c | d,
            a | c | d,
            b | c | d,
            a | b | c | d,
        ]
    }
    const fn next(levels: &mut &[LevelFormat]) -> [u64; 16] {
        match *levels {
            [level, rest @ ..] => {
                *levels = rest;
                of(level)
            }
            [] => [0; 16],
        }
    }
    let mut rest = format.levels;
    [next(&mut rest), next(&mut rest), next(&mut rest), next(&mut rest), next(&mut rest), next(&mut rest)]
}

/// The code whose bits stand at the masks of `word`.
#[inline]
fn gather(word: u64, masks: &[u64; 4]) -> u32 {
    let [a, b, c, d] = *masks;
    let bit = |index: u32, mask: u64| u32::from(word & mask != 0) << index;
    bit(0, a) | bit(1, b) | bit(2, c) | bit(3, d)
}
