//! Frames without bytes: on a machine without patterns a zeroed page gets memory of the host only when there is something to put there.
//!
//! ```text
//!   given out zeroed --> hollow: all zero --a word is stored--> one word --anything else is stored,--> bytes in the host's memory
//!                                                                         a pointer is asked for
//! ```
//!
//! A program that touches a page touches one word of it, mostly. What is read is the same as if the bytes were there; that the host need not find and clear a page for
//! each is all that this is for.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::lock::Mutex;
use super::memory::zeroed;

/// The part of a frame's state that says where its bytes are: `BYTES`, `ZERO`, or `WORD` + the index of the only word that is not zero.
const PLACE: u32 = 0xffff;
const BYTES: u32 = 0;
const ZERO: u32 = 1;
const WORD: u32 = 2;
/// The frame's bytes in the host's memory were used: they are not zero of themselves.
const USED: u32 = 1 << 31;

/// What a frame without bytes holds: this word, and zero beside it. Every field has a value always, so that comparing the place first, as compilers like to,
/// looks at nothing that was never written (which memcheck would report).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Contents {
    at: usize,
    word: u64,
}

impl Contents {
    const ZERO: Self = Self { at: 0, word: 0 };

    /// A word of it.
    pub(super) const fn word(self, index: usize) -> u64 {
        if self.at == index { self.word } else { 0 }
    }
}

/// Of each frame, whether it has bytes.
pub(super) struct Hollow {
    states: Box<[AtomicU32]>,
    words: Box<[AtomicU64]>,
    /// Held by whoever changes a state.
    change: Mutex<()>,
}

impl Hollow {
    /// Frames that all have bytes.
    pub(super) fn new(count: usize) -> Self {
        // SAFETY: zero is a valid atomic.
        let (states, words) = unsafe { (zeroed(count), zeroed(count)) };
        Self { states, words, change: Mutex::new(()) }
    }

    /// Whether the frame has bytes.
    #[inline]
    pub(super) fn has_bytes(&self, index: usize) -> bool {
        self.place(index) == BYTES
    }

    #[inline]
    fn place(&self, index: usize) -> u32 {
        self.states[index].load(Ordering::Acquire) & PLACE
    }

    fn at(&self, index: usize, place: u32) -> Option<Contents> {
        match place {
            BYTES => None,
            ZERO => Some(Contents::ZERO),
            place => {
                let word = self.words[index].load(Ordering::Acquire);
                Some(Contents { at: (place - WORD) as usize, word })
            }
        }
    }

    /// What a frame holds that has no bytes.
    pub(super) fn contents(&self, index: usize) -> Option<Contents> {
        loop {
            let place = self.place(index);
            let contents = self.at(index, place);
            if self.place(index) == place {
                return contents;
            }
        }
    }

    /// Puts what a frame holds: it has no bytes from here on.
    fn put(&self, index: usize, contents: Contents) {
        let used = match self.states[index].load(Ordering::Acquire) {
            state if state & PLACE == BYTES => USED,
            state => state & USED,
        };
        let Contents { at, word } = contents;
        let place = if word == 0 {
            ZERO
        } else {
            self.words[index].store(word, Ordering::Release);
            WORD + at as u32
        };
        self.states[index].store(used | place, Ordering::Release);
    }

    /// A frame that has just been given out holds zeros; its bytes are zero still if it is the first time.
    pub(super) fn clear(&self, index: usize, first_time: bool) {
        let _change = self.change.lock();
        if first_time {
            self.states[index].store(ZERO, Ordering::Release);
        } else {
            self.put(index, Contents::ZERO);
        }
    }

    /// A frame that has just been given out holds whatever its bytes held last.
    pub(super) fn leave(&self, index: usize) {
        if self.place(index) != BYTES {
            let _change = self.change.lock();
            self.states[index].store(USED, Ordering::Release);
        }
    }

    /// Stores a word of a frame that has no bytes and needs none for it. False if it has, or does.
    pub(super) fn store(&self, index: usize, at: usize, word: u64) -> bool {
        if self.place(index) == BYTES {
            return false;
        }
        let _change = self.change.lock();
        match self.at(index, self.place(index)) {
            Some(there) if there.at == at || there.word == 0 => self.put(index, Contents { at, word }),
            _ => return false,
        }
        true
    }

    /// Copies a frame that has no bytes: the copy has none either. False if it has.
    pub(super) fn copy(&self, from: usize, to: usize) -> bool {
        let _change = self.change.lock();
        let Some(contents) = self.at(from, self.place(from)) else { return false };
        self.put(to, contents);
        true
    }

    /// Has the frame have bytes, which are these.
    #[inline]
    pub(super) fn fill(&self, index: usize, bytes: &[AtomicU64]) {
        if !self.has_bytes(index) {
            self.fill_now(index, bytes);
        }
    }

    #[inline(never)]
    fn fill_now(&self, index: usize, bytes: &[AtomicU64]) {
        let _change = self.change.lock();
        let state = self.states[index].load(Ordering::Acquire);
        let Some(contents) = self.at(index, state & PLACE) else { return };
        if state & USED != 0 {
            // SAFETY: the bytes of one frame, which are reached as atomics or by whoever has a pointer to them: nobody does while the frame has none.
            unsafe { core::ptr::write_bytes(bytes.as_ptr().cast_mut(), 0, bytes.len()) };
        }
        let Contents { at, word } = contents;
        if word != 0 {
            bytes[at].store(word, Ordering::Relaxed);
        }
        self.states[index].store(USED, Ordering::Release);
    }
}
