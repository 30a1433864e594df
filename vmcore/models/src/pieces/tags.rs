//! The map of tags: a tag is one owner's at a time, and what the owner before did is over.

use std::ptr::NonNull;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use vmcore::paging::Tag;
use vmcore::pieces::TagMap;
use vmcore::word::Width;

use super::words::share;

/// A map, and what each tag stands for.
struct Spaces {
    map: TagMap,
    of: [UnsafeCell<u32>; 4],
}

// SAFETY: what is behind the tags are cells of loom's, which are there to see what is unsafe.
unsafe impl Send for Spaces {}
// SAFETY: as above.
unsafe impl Sync for Spaces {}

impl Spaces {
    fn new() -> Arc<Self> {
        let spaces = Arc::new(Self { map: TagMap::new(), of: std::array::from_fn(|_| UnsafeCell::new(0)) });
        // SAFETY: the map begins with the word that machines of few tags use.
        unsafe { share(NonNull::from(&spaces.map).cast(), size_of::<usize>(), Width::Eight) };
        spaces
    }

    /// Takes a tag of so many, and is its only owner for a while.
    fn own(&self, count: u32) -> Tag {
        let tag = self.map.take(count);
        if tag != Tag(0) {
            // SAFETY: loom tells if another owns it.
            self.of[usize::from(tag.0)].with_mut(|space| unsafe { *space += 1 });
        }
        tag
    }
}

pub(super) fn unique() {
    let spaces = Spaces::new();
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let spaces = spaces.clone();
            thread::spawn(move || spaces.own(3))
        })
        .collect();
    let mine = spaces.own(3);
    let mut all: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic").0).collect();
    all.push(mine.0);
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2], "two tags for three");
}

pub(super) fn reuse() {
    let spaces = Spaces::new();
    let other = spaces.clone();
    let thread = thread::spawn(move || {
        for _ in 0..2 {
            let tag = other.own(2);
            other.map.give_back(tag);
        }
    });
    let tag = spaces.own(2);
    spaces.map.give_back(tag);
    thread.join().expect("no panic");
    assert_eq!(spaces.own(2), Tag(1), "it came back");
}
