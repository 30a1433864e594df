//! An MMU as a value: a format's description and what is found when the kernel starts.

use core::fmt;

use crate::addr::{Frame, PageRange, PhysAddr, RangeError, RangeFault, VirtAddr};
use crate::paging::{Access, Canonical, Contiguous, EncodeError, Entry, Format, Leaf, LevelFormat, Limits, MemoryType};
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
        // SAFETY: the entry lies in the table; entries are only ever accessed as atomics of this width.
        unsafe { AtomicU64::from_ptr(table.cast::<u64>().cast_mut().add(index)) }.load(Ordering::Relaxed)
    }

    #[inline]
    unsafe fn store(table: *mut u8, index: usize, word: u64) {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(table.cast::<u64>().add(index)) }.store(word, Ordering::Release);
    }

    #[inline]
    unsafe fn swap(table: *mut u8, index: usize, word: u64) -> u64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(table.cast::<u64>().add(index)) }.swap(word, Ordering::AcqRel)
    }

    #[inline]
    unsafe fn compare_exchange(table: *mut u8, index: usize, old: u64, new: u64) -> Result<(), u64> {
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
        // SAFETY: the entry lies in the table; entries are only ever accessed as atomics of this width.
        u64::from(unsafe { AtomicU32::from_ptr(table.cast::<u32>().cast_mut().add(index)) }.load(Ordering::Relaxed))
    }

    #[inline]
    unsafe fn store(table: *mut u8, index: usize, word: u64) {
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(table.cast::<u32>().add(index)) }.store(word as u32, Ordering::Release);
    }

    #[inline]
    unsafe fn swap(table: *mut u8, index: usize, word: u64) -> u64 {
        // SAFETY: as above.
        u64::from(unsafe { AtomicU32::from_ptr(table.cast::<u32>().add(index)) }.swap(word as u32, Ordering::AcqRel))
    }

    #[inline]
    unsafe fn compare_exchange(table: *mut u8, index: usize, old: u64, new: u64) -> Result<(), u64> {
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
        let top = self.levels().saturating_sub(1);
        self.level(top).map_or(0, |at| at.shift + self.index_bits(top))
    }

    /// Whether the format has this address at all.
    #[inline]
    fn is_canonical(&self, address: VirtAddr) -> bool {
        let unused = 64_u32.saturating_sub(self.virtual_bits()).min(63);
        let address = address.as_u64();
        match self.canonical() {
            Canonical::SignExtended => ((address as i64) << unused >> unused) as u64 == address,
            Canonical::ZeroExtended => address << unused >> unused == address,
            Canonical::OneExtended => !address << unused >> unused == !address,
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
        if !self.has_access(access) {
            return Err(EncodeError::Access(access));
        }
        Self::FORMAT.leaf.encode(access).ok_or(EncodeError::Access(access))
    }

    /// The word for a leaf of `level`.
    ///
    /// # Errors
    /// What the format, the level or this machine cannot represent.
    #[inline]
    fn encode_leaf(&self, level: usize, leaf: Leaf) -> Result<u64, EncodeError> {
        let format = Self::FORMAT;
        let Some(at) = self.level(level).filter(|_| self.has_leaves(level)) else {
            return Err(EncodeError::NoLeafAtLevel(level));
        };
        let address = leaf.frame.start(self.page_shift()).as_u64();
        let mut kept = at.leaf_address.mask();
        let mut high = 0;
        if const { Self::FORMAT.splits_addresses() } {
            kept |= at.leaf_address_high.mask();
            high = at.leaf_address_high.encode(address);
        }
        if !self.frame_fits(leaf.frame) || address & !kept != 0 {
            return Err(EncodeError::Frame(leaf.frame));
        }
        let permissions = self.encode_access(leaf.access)?;
        let code = self.memory_code(leaf.memory).ok_or(EncodeError::MemoryType(leaf.memory))?;
        if !format.global.can_say(leaf.global) {
            return Err(EncodeError::Global);
        }
        let (software_low, software_width) = format.software;
        if u64::from(leaf.software) >> software_width.min(8) != 0 {
            return Err(EncodeError::Software(leaf.software));
        }
        let (key_low, key_width) = format.key;
        if u64::from(leaf.key) >> key_width.min(8) != 0 {
            return Err(EncodeError::Key(leaf.key));
        }
        Ok(at.leaf_set
            | at.leaf_address.encode(address)
            | high
            | spread(code, &at.memory_bits)
            | self.with_dirty(permissions, leaf.access.contains(Access::WRITE), leaf.dirty)
            | format.global.encode(leaf.global)
            | format.accessed.encode(leaf.accessed)
            | u64::from(leaf.software) << software_low
            | u64::from(leaf.key) << key_low)
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
        let Some(at) = self.level(level).filter(|_| self.has_leaves(level)) else { return false };
        let kept = at.leaf_address.mask() | at.leaf_address_high.mask();
        self.frame_fits(frame) && frame.start(self.page_shift()).as_u64() & !kept == 0
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
        let address = frame.start(self.page_shift()).as_u64();
        let kept = at.table_address.mask() | at.table_address_high.mask();
        if !self.frame_fits(frame) || address & !kept != 0 {
            return Err(EncodeError::Frame(frame));
        }
        Ok(at.table_set | at.table_address.encode(address) | at.table_address_high.encode(address))
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
        if !self.is_present(word) || at.is_leaf(word) || level == 0 || word & at.table_reserved != 0 {
            return None;
        }
        if refuses_table(self, word) {
            return None;
        }
        let mut address = at.table_address.decode(word);
        if const { Self::FORMAT.splits_addresses() } {
            address |= at.table_address_high.decode(word);
        }
        let frame = Frame::containing(PhysAddr::new(address), self.page_shift());
        self.frame_fits(frame).then_some(frame)
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
        let format = Self::FORMAT;
        if !self.is_present(word) {
            let (low, width) = format.absent;
            return Entry::Absent(word >> low & (u64::MAX >> 64_u32.saturating_sub(width).min(63)));
        }
        let Some(at) = self.level(level) else { return Entry::Reserved };
        let is_leaf = at.is_leaf(word);
        let (field, reserved) =
            if is_leaf { (at.leaf_address, at.leaf_reserved) } else { (at.table_address, at.table_reserved) };
        let mut address = field.decode(word);
        if const { Self::FORMAT.splits_addresses() } {
            let high = if is_leaf { at.leaf_address_high } else { at.table_address_high };
            address |= high.decode(word);
        }
        let mut frame = Frame::containing(PhysAddr::new(address), self.page_shift());
        if word & reserved != 0 || !self.frame_fits(frame) {
            return Entry::Reserved;
        }
        if !is_leaf {
            if level == 0 || refuses_table(self, word) {
                return Entry::Reserved;
            }
            return Entry::Table(frame, self.limits(level, word));
        }
        if self.lacks_leaves(level) {
            return Entry::Reserved;
        }
        if const { Self::FORMAT.has_contiguous() } {
            if let Some(group) = at.contiguous.filter(|group| word & group.mask != 0) {
                let low = (1 << group.count_shift) - 1;
                let malformed = group.size_in_address && frame.number() & low != 1 << group.count_shift >> 1;
                if malformed || self.contiguous(level).is_none() {
                    return Entry::Reserved;
                }
                if group.size_in_address {
                    frame = Frame::new(frame.number() & !low);
                }
            }
        }
        let access = self.leaf_access(word);
        if format.leaf.readable.exists() && !(format.leaf.combinations.contain(access) && self.has_access(access)) {
            return Entry::Reserved;
        }
        let Some(memory) = self.memory_type(gather(word, &at.memory_bits)) else { return Entry::Reserved };
        let (software_low, software_width) = format.software;
        let (key_low, key_width) = format.key;
        Entry::Leaf(Leaf {
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

    /// What the word at `index` in a table of `level` means.
    #[inline]
    fn decode_at(&self, level: usize, index: usize, word: u64) -> Entry {
        let entry = self.decode(level, word);
        if const { Self::FORMAT.has_contiguous() } {
            if let (Entry::Leaf(leaf), Some(group)) = (entry, self.contiguous(level)) {
                if group.size_in_address && word & group.mask != 0 {
                    let place = index as u64 & ((1 << group.count_shift) - 1);
                    return Entry::Leaf(Leaf { frame: leaf.frame.add(place), ..leaf });
                }
            }
        }
        entry
    }
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
