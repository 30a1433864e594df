//! Readers with a slot each, and writers: nobody reads while another writes, and readers see all that writers did.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use vmcore::pieces::SharedWords;
use vmcore::word::Width;

use super::words::share;

/// What the lock guards.
struct Guarded {
    lock: SharedWords,
    value: UnsafeCell<u32>,
    /// One for each slot: what the reader who has it writes, as a fault does.
    readers: [UnsafeCell<u32>; 2],
}

// SAFETY: what the lock guards are cells of loom's, which are there to see what is unsafe.
unsafe impl Send for Guarded {}
// SAFETY: as above.
unsafe impl Sync for Guarded {}

impl Guarded {
    fn new() -> Arc<Self> {
        let cell = || UnsafeCell::new(0);
        let guarded = Arc::new(Self { lock: SharedWords::new(), value: cell(), readers: [cell(), cell()] });
        guarded.lock.each_word(2, |word, bytes| {
            let width = match bytes {
                1 => Width::One,
                4 => Width::Four,
                _ => Width::Eight,
            };
            // SAFETY: a word of the lock, of this width.
            unsafe { share(word, bytes, width) };
        });
        guarded
    }

    /// Reads beside others, if nobody writes. Gives what it saw.
    fn read(&self, cpu: usize) -> Option<u32> {
        let mut seen = 0;
        let read = self.lock.read(cpu, || {
            // SAFETY: loom tells if somebody writes.
            seen = self.value.with(|value| unsafe { value.read_volatile() });
            // SAFETY: loom tells if another has the slot.
            self.readers[cpu].with_mut(|mine| unsafe { *mine += 1 });
        });
        read.then_some(seen)
    }

    /// Writes, alone, and sees what readers wrote.
    fn write(&self) -> u32 {
        let mut now = 0;
        self.lock.write(|| {
            for reader in &self.readers {
                // SAFETY: loom tells if somebody is inside.
                reader.with_mut(|reader| unsafe { *reader += 1 });
            }
            // SAFETY: loom tells if somebody else reads or writes.
            self.value.with_mut(|value| unsafe {
                *value += 1;
                now = *value;
            });
        });
        now
    }
}

/// A reader that comes back, so that it finds its bit set or taken, against a writer.
pub(super) fn read_against_write() {
    let guarded = Guarded::new();
    let other = guarded.clone();
    let thread = thread::spawn(move || {
        let seen = [other.read(1), other.read(1)];
        assert!(seen[0] <= seen[1] || seen[1].is_none(), "{seen:?}");
    });
    guarded.write();
    thread.join().expect("no panic");
    assert_eq!(guarded.read(0), Some(1), "nobody writes any more");
}

/// A reader against a writer that comes again: what it sees of the first one is not taken for the second one's.
pub(super) fn read_against_two_writes() {
    let guarded = Guarded::new();
    // Its bit is set before.
    assert_eq!(guarded.read(1), Some(0));
    let other = guarded.clone();
    let thread = thread::spawn(move || other.read(1));
    guarded.write();
    guarded.write();
    thread.join().expect("no panic");
    assert_eq!(guarded.read(1), Some(2));
}

/// Two readers beside one another, and a writer.
pub(super) fn two_readers() {
    let guarded = Guarded::new();
    let threads = [0, 1].map(|cpu| {
        let guarded = guarded.clone();
        thread::spawn(move || guarded.read(cpu))
    });
    guarded.write();
    for thread in threads {
        assert!(matches!(thread.join().expect("no panic"), None | Some(0 | 1)));
    }
}

/// Two who share a slot, one of whom writes as well.
pub(super) fn one_slot() {
    let guarded = Guarded::new();
    let other = guarded.clone();
    let thread = thread::spawn(move || other.read(1));
    let before = guarded.read(1);
    guarded.write();
    assert_eq!(before, Some(0), "nobody else writes");
    assert!(matches!(thread.join().expect("no panic"), None | Some(0 | 1)));
}

/// Two writers, one of whom reads as well.
pub(super) fn two_writers() {
    let guarded = Guarded::new();
    let other = guarded.clone();
    let thread = thread::spawn(move || {
        let seen = other.read(1);
        (seen, other.write())
    });
    let mine = guarded.write();
    let (seen, others) = thread.join().expect("no panic");
    assert!(matches!((mine, others), (1, 2) | (2, 1)));
    assert!(matches!(seen, None | Some(0 | 1)));
}
