//! A frame's record: who lets go last frees it, once, and after all that others did with the frame.

use std::ptr::NonNull;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use vmcore::addr::Frame;
use vmcore::frame::{FrameMeta, FrameUse};
use vmcore::pieces::{add_reference, begin, drop_reference, end};
use vmcore::word::Width;

use super::words::share;

const FRAME: Frame = Frame::new(7);

/// A frame: its record, and its bytes.
struct Page {
    meta: FrameMeta,
    bytes: UnsafeCell<u32>,
}

// SAFETY: the bytes are a cell of loom's, which is there to see what is unsafe.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    /// A page with so many holders.
    fn held_by(holders: u32) -> Arc<Self> {
        let page = Arc::new(Self { meta: FrameMeta::new(), bytes: UnsafeCell::new(0) });
        // SAFETY: a record is six words of four bytes.
        unsafe { share(NonNull::from(&page.meta).cast(), size_of::<FrameMeta>(), Width::Four) };
        begin(&page.meta, FrameUse::Page).expect("it is free");
        for _ in 1..holders {
            add_reference(&page.meta);
        }
        page
    }

    fn look(&self) {
        // SAFETY: the value is not used.
        self.bytes.with(|bytes| unsafe { bytes.read_volatile() });
    }

    /// Writes the bytes, as their only owner.
    fn overwrite(&self) {
        // SAFETY: loom tells if it is not.
        self.bytes.with_mut(|bytes| unsafe { *bytes += 1 });
    }

    /// Lets go of one reference, and frees the frame if it was the last. Says so.
    fn let_go(&self) -> bool {
        let last = drop_reference(&self.meta);
        if last {
            self.overwrite();
            end(&self.meta, FRAME, FrameUse::Page).expect("it is freed once");
        }
        last
    }
}

pub(super) fn last_holder() {
    let page = Page::held_by(2);
    let other = page.clone();
    let thread = thread::spawn(move || {
        other.look();
        other.let_go()
    });
    page.look();
    let mine = page.let_go();
    let others = thread.join().expect("no panic");
    assert!(mine != others, "one of the two is the last");
    assert_eq!(page.meta.recorded_use(), FrameUse::Free);
}

pub(super) fn one_more() {
    let page = Page::held_by(2);
    let other = page.clone();
    let thread = thread::spawn(move || {
        other.look();
        u32::from(other.let_go())
    });
    // Who holds it may hold it once more.
    add_reference(&page.meta);
    page.look();
    let mut last = u32::from(page.let_go());
    if last == 0 {
        page.look();
        last += u32::from(page.let_go());
    }
    assert_eq!(last + thread.join().expect("no panic"), 1);
    assert_eq!((page.meta.recorded_use(), page.meta.count()), (FrameUse::Free, 0));
}

pub(super) fn double_free() {
    let page = Page::held_by(1);
    let other = page.clone();
    let thread = thread::spawn(move || end(&other.meta, FRAME, FrameUse::Page).is_ok());
    let mine = end(&page.meta, FRAME, FrameUse::Page).is_ok();
    assert!(mine != thread.join().expect("no panic"), "one of the two is refused");
}

/// An allocator without a lock would do with the record: who finds the frame free finds it left.
pub(super) fn reuse() {
    let page = Page::held_by(1);
    let other = page.clone();
    let thread = thread::spawn(move || {
        if begin(&other.meta, FrameUse::Table).is_ok() {
            other.overwrite();
            end(&other.meta, FRAME, FrameUse::Page).expect_err("it is a table now");
        }
    });
    page.overwrite();
    end(&page.meta, FRAME, FrameUse::Page).expect("it is a page");
    thread.join().expect("no panic");
}
