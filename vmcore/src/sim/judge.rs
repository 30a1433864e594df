//! The judge: collects what a correct kernel never does, each with a sentence that names CPU, address and frame.
//!
//! The rules are listed at the head of [the module](super). By default the first violation panics, so that a test stops
//! where it went wrong; later ones (from destructors that run while the test unwinds) are only recorded. A test of the
//! judge itself, or one that expects a violation, has them all recorded.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use super::lock::Mutex;

/// What kind of rule was broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum ViolationKind {
    /// A CPU used a TLB entry or a cached pointer to a table whose frame has been freed, given out again, or put to
    /// another use.
    StaleUse,
    /// A frame was freed while a CPU's TLB, paging-structure cache or root register still referred to it.
    FreedWhileCached,
    /// A CPU holds a translation that the tables no longer hold, or hold with fewer permissions, and no flush is
    /// outstanding.
    StaleTranslation,
    /// The tables map a frame that is free.
    MapsFreeFrame,
    /// An entry leads to a table in a frame that is not recorded as one.
    NotATable,
    /// A table was linked before it was cleared.
    TableNotCleared,
    /// A program reached a frame that is no program's: a table, an object of the library, the zero frame for writing.
    WrongUse,
    /// A free frame was written.
    WrittenWhileFree,
    /// Frames were freed twice, with wrong bounds, or while their record still says that they are used.
    WrongFree,
    /// The library reached for the bytes of a free frame.
    ReachedWhileFree,
    /// A frame was reached that this machine does not have.
    NoSuchFrame,
    /// A flush was made although the test holds flushes.
    FlushWhileHeld,
    /// A live entry became another one (another address, size or memory type) without having been absent and flushed in between,
    /// on hardware that demands that.
    BreakBeforeMake,
    /// The members of a contiguous group of leaves do not agree.
    ContiguousMismatch,
    /// A CPU still holds that nothing is mapped where something is, and no flush is outstanding.
    StaleAbsence,
    /// A root was loaded under a tag under which the CPU still holds another root's translations.
    TagReused,
    /// A root was loaded under a tag under which the CPU still remembers frames that have been freed since.
    StaleTag,
}

/// A broken rule, in a sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which rule.
    pub kind: ViolationKind,
    /// What happened: names CPU, address and frame, and the [change](super::Sim::begin_change) since which it is so.
    pub sentence: String,
}

/// Collects violations; panics at the first one unless told to record.
pub(super) struct Judge {
    violations: Mutex<Vec<Violation>>,
    /// Not 0 while violations panic.
    panics: AtomicU32,
    /// What the test said last that it changes.
    change: Mutex<String>,
}

impl Judge {
    pub(super) const fn new(panics: bool) -> Self {
        Self {
            violations: Mutex::new(Vec::new()),
            panics: AtomicU32::new(panics as u32),
            change: Mutex::new(String::new()),
        }
    }

    /// From here on, this is the change to blame.
    pub(super) fn begin_change(&self, what: String) {
        *self.change.lock() = what;
    }

    /// Records a violation. The first one panics, unless violations are only recorded.
    pub(super) fn report(&self, kind: ViolationKind, mut sentence: String) {
        {
            let change = self.change.lock();
            if !change.is_empty() {
                sentence = format!("{sentence} (the last change: {change})");
            }
        }
        self.violations.lock().push(Violation { kind, sentence: sentence.clone() });
        // A second panic, from a destructor while the first one unwinds, would abort the test without a word.
        if self.panics.swap(0, Ordering::Relaxed) != 0 {
            panic!("{kind:?}: {sentence}");
        }
    }

    pub(super) fn violations(&self) -> Vec<Violation> {
        self.violations.lock().clone()
    }

    pub(super) fn take(&self) -> Vec<Violation> {
        core::mem::take(&mut *self.violations.lock())
    }
}
