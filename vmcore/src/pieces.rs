//! Private pieces that work without a lock, for the model checker: in builds with `--cfg loom` only.

use crate::addr::Frame;
use crate::frame::{FrameMeta, FrameUse, WrongUse};
use crate::lock::{ReaderSlots, Readers};
use crate::machine::Tags;
use crate::paging::Tag;
use crate::word::{AtomicU32, Ordering, wait};

/// Puts a free frame to a use.
pub fn begin(meta: &FrameMeta, purpose: FrameUse) -> Result<(), FrameUse> {
    meta.begin(purpose)
}

/// Ends a use.
pub fn end(meta: &FrameMeta, frame: Frame, purpose: FrameUse) -> Result<(), WrongUse> {
    meta.end(frame, purpose)
}

/// Counts one more holder of a page.
pub fn add_reference(meta: &FrameMeta) {
    meta.add_reference();
}

/// Counts one holder less; true if it was the last one.
pub fn drop_reference(meta: &FrameMeta) -> bool {
    meta.drop_reference()
}

/// The map of tags that are given out.
#[allow(missing_debug_implementations, reason = "a map of bits")]
pub struct TagMap(Tags);

#[allow(clippy::new_without_default, reason = "made in one place")]
impl TagMap {
    /// None is given out.
    pub const fn new() -> Self {
        Self(Tags::new())
    }

    /// The lowest free tag of a machine that has `count`; tag 0 if there is none.
    pub fn take(&self, count: u32) -> Tag {
        self.0.take(count)
    }

    /// Takes a tag back.
    pub fn give_back(&self, tag: Tag) {
        self.0.give_back(tag);
    }
}

/// A lock of one word.
#[allow(missing_debug_implementations, reason = "a word")]
pub struct WordLock(AtomicU32);

// SAFETY: it is held by who finds it free, in one step.
unsafe impl lock_api::RawMutex for WordLock {
    #[allow(clippy::declare_interior_mutable_const, reason = "the trait wants it")]
    const INIT: Self = Self(AtomicU32::new(0));
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        while !self.try_lock() {
            wait();
        }
    }

    fn try_lock(&self) -> bool {
        self.0.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    unsafe fn unlock(&self) {
        self.0.store(0, Ordering::Release);
    }
}

/// A lock whose readers have a slot for each CPU.
#[allow(missing_debug_implementations, reason = "words")]
#[repr(C)]
pub struct SharedWords {
    exclusive: lock_api::Mutex<WordLock, ()>,
    readers: Readers,
    slots: ReaderSlots<WordLock>,
}

#[allow(clippy::new_without_default, reason = "made in one place")]
impl SharedWords {
    /// Nobody reads or writes.
    pub const fn new() -> Self {
        Self {
            exclusive: lock_api::Mutex::const_new(<WordLock as lock_api::RawMutex>::INIT, ()),
            readers: Readers::open(),
            slots: ReaderSlots::new(),
        }
    }

    /// Reads as a CPU; false, and nothing is read, where somebody writes.
    pub fn read(&self, cpu: usize, what: impl FnOnce()) -> bool {
        let Some(slot) = self.slots.hold(cpu) else { return false };
        let enters = self.readers.enter(&slot);
        if enters {
            what();
        }
        enters
    }

    /// Writes, alone.
    pub fn write(&self, what: impl FnOnce()) {
        let _exclusive = self.exclusive.lock();
        self.readers.keep_out(&self.slots);
        what();
        self.readers.let_in();
    }

    /// Makes the words known of the lock and of so many slots.
    pub fn each_word(&self, slots: usize, mut word: impl FnMut(core::ptr::NonNull<u8>, usize)) {
        // SAFETY: no reference to the lock itself is made of it: its address is all that is wanted.
        word(core::ptr::NonNull::from(unsafe { self.exclusive.raw() }).cast(), 4);
        self.readers.each_word(&mut word);
        self.slots.each_lock(slots, |lock| word(core::ptr::NonNull::from(lock).cast(), 4));
    }
}

/// Two locks that begin closed, are opened, and have the same slots; readers count for them.
#[allow(missing_debug_implementations, reason = "words")]
#[repr(C)]
pub struct AdaptiveWords {
    locks: [(lock_api::Mutex<WordLock, ()>, Readers); 2],
    slots: ReaderSlots<WordLock>,
}

#[allow(clippy::new_without_default, reason = "made in one place")]
impl AdaptiveWords {
    /// Both are closed.
    pub const fn new() -> Self {
        Self {
            locks: [const {
                let raw = <WordLock as lock_api::RawMutex>::INIT;
                (lock_api::Mutex::const_new(raw, ()), Readers::closed(()))
            }; 2],
            slots: ReaderSlots::new(),
        }
    }

    /// Reads locks as a CPU, one after the other with one slot, and counts one in each: whether it did.
    pub fn read<const N: usize>(&self, cpu: usize, which: [usize; N], mut what: impl FnMut(usize)) -> [bool; N] {
        let slot = self.slots.hold(cpu);
        which.map(|which| {
            let (Some(slot), Some((_, readers))) = (&slot, self.locks.get(which)) else { return false };
            let enters = readers.enter(slot);
            if enters {
                what(which);
                slot.owe(readers, 1);
            }
            enters
        })
    }

    /// Writes, alone, and lets readers in afterwards: if `open` says so, or some came. Gives what they counted.
    pub fn write(&self, which: usize, open: bool, what: impl FnOnce()) -> u32 {
        let Some((exclusive, readers)) = self.locks.get(which) else { return 0 };
        let _exclusive = exclusive.lock();
        let (mut came, mut counted) = (false, 0);
        if !readers.is_closed() {
            (came, counted) = readers.keep_out_and_collect(&self.slots);
        }
        what();
        if came || open {
            readers.let_in();
        }
        counted
    }

    /// Makes the words known of the locks and of so many slots.
    pub fn each_word(&self, slots: usize, mut word: impl FnMut(core::ptr::NonNull<u8>, usize)) {
        for (exclusive, readers) in &self.locks {
            // SAFETY: no reference to the lock itself is made of it: its address is all that is wanted.
            word(core::ptr::NonNull::from(unsafe { exclusive.raw() }).cast(), 4);
            readers.each_word(&mut word);
        }
        self.slots.each_lock(slots, |lock| word(core::ptr::NonNull::from(lock).cast(), 4));
    }
}
