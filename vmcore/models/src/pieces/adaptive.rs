//! Locks that begin closed: whoever has one alone meets no reader, whether it was open or not, and gets to know of each reader that was inside, once.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use vmcore::pieces::AdaptiveWords;
use vmcore::word::Width;

use super::words::share;

const CPUS: usize = 2;

/// What each lock guards.
struct Guarded {
    locks: AdaptiveWords,
    values: [UnsafeCell<u32>; 2],
    /// One for each slot: what the reader who has it writes.
    readers: [[UnsafeCell<u32>; CPUS]; 2],
}

// SAFETY: what the locks guard are cells of loom's, which are there to see what is unsafe.
unsafe impl Send for Guarded {}
// SAFETY: as above.
unsafe impl Sync for Guarded {}

impl Guarded {
    fn new() -> Arc<Self> {
        let cell = || UnsafeCell::new(0);
        let readers = [[cell(), cell()], [cell(), cell()]];
        let guarded = Arc::new(Self { locks: AdaptiveWords::new(), values: [cell(), cell()], readers });
        guarded.locks.each_word(CPUS, |word, bytes| {
            let width = match bytes {
                1 => Width::One,
                4 => Width::Four,
                _ => Width::Eight,
            };
            // SAFETY: a word of the locks, of this width.
            unsafe { share(word, bytes, width) };
        });
        guarded
    }

    /// Reads beside others, where nobody writes: how often it did, lock by lock.
    fn read<const N: usize>(&self, cpu: usize, which: [usize; N]) -> [u32; 2] {
        let entered = self.locks.read(cpu, which, |which| {
            // SAFETY: loom tells if somebody writes.
            self.values[which].with(|value| unsafe { value.read_volatile() });
            // SAFETY: loom tells if another has the slot, or somebody writes.
            self.readers[which][cpu].with_mut(|mine| unsafe { *mine += 1 });
        });
        let mut read = [0; 2];
        which.iter().zip(entered).for_each(|(which, entered)| read[*which] += u32::from(entered));
        read
    }

    /// Writes, alone: what readers had counted.
    fn write(&self, which: usize, open: bool) -> u32 {
        self.locks.write(which, open, || {
            for reader in &self.readers[which] {
                // SAFETY: loom tells if somebody is inside.
                reader.with_mut(|reader| unsafe { *reader += 1 });
            }
            // SAFETY: loom tells if somebody else reads or writes.
            self.values[which].with_mut(|value| unsafe { *value += 1 });
        })
    }
}

/// One opens the lock and has it alone again, beside one who reads where it can, and one who writes at the end.
pub(super) fn opened() {
    let guarded = Guarded::new();
    let other = guarded.clone();
    let thread = thread::spawn(move || {
        let [first, _] = other.read(1, [0]);
        first + other.read(1, [0])[0]
    });
    let mut counted = guarded.write(0, true);
    counted += guarded.write(0, false);
    let read = thread.join().expect("no panic");
    counted += guarded.write(0, false);
    assert_eq!(counted, read, "a reader was counted wrong");
}

/// A lock that is closed while a reader comes by, if the reader was not faster, and opened again.
pub(super) fn closed_again() {
    let guarded = Guarded::new();
    // Open, and its bit is set.
    guarded.write(0, true);
    assert_eq!(guarded.read(1, [0]), [1, 0]);
    let other = guarded.clone();
    let reader = thread::spawn(move || other.read(1, [0])[0]);
    let mut counted = guarded.write(0, false);
    counted += guarded.write(0, false);
    let read = reader.join().expect("no panic");
    counted += guarded.write(0, true);
    assert_eq!(counted, 1 + read, "a reader was counted wrong");
    assert_eq!(guarded.read(1, [0]), [1, 0], "nobody writes any more");
}

/// One slot comes to owe another lock, and pays the first, while that is had alone.
pub(super) fn two_locks() {
    let guarded = Guarded::new();
    guarded.write(0, true);
    guarded.write(1, true);
    let other = guarded.clone();
    let thread = thread::spawn(move || other.read(1, [0, 1, 0]));
    let mut counted = [guarded.write(0, true), 0];
    let read = thread.join().expect("no panic");
    for (which, counted) in counted.iter_mut().enumerate() {
        *counted += guarded.write(which, false);
    }
    assert_eq!(counted, read, "a reader was counted wrong");
    assert_eq!([0, 1].map(|which| guarded.write(which, false)), [0; 2], "a reader was counted twice");
}
