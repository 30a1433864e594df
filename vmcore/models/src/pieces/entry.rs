//! Table entries: what the library changes, and what the hardware reads and marks at the same time.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Mutex;

use loom::sync::Arc;
use loom::thread;
use vmcore::addr::{Frame, PageRange, VirtAddr};
use vmcore::frame::{FrameList, FrameMeta, FrameRequest, Frames};
use vmcore::paging::{Access, DirtyBits, Gather, Leaf, Marks, Mmu as _, Tables, Tag};
use vmcore::word::{AtomicU64, Ordering, Width};

use super::words::share;
use crate::reduced::Reduced;

const COUNT: usize = 8;
const PAGE: usize = 0x1000;
/// The frame that the page leads to: no memory is behind it.
const TARGET: u64 = 0x77;
const ADDRESS: u64 = 0x2000;

const PRESENT: u64 = 0x1;
const WRITABLE: u64 = 0x2;
const ACCESSED: u64 = 0x20;
const DIRTY: u64 = 0x40;

/// What stands in a frame that nobody has cleared: entries that lead astray.
const GARBAGE: u64 = 0x66_0000 | PRESENT | WRITABLE | ACCESSED | DIRTY;

/// The words of a table: a root has four entries, the others two.
const ENTRIES: usize = 4;

/// A few frames of memory, given out once, and cleared as they are given out.
struct Memory {
    base: NonNull<u8>,
    given: Mutex<usize>,
    meta: [FrameMeta; COUNT],
}

// SAFETY: the memory is this value's, and tables in it are reached as words.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

const LAYOUT: Layout = match Layout::from_size_align(COUNT * PAGE, PAGE) {
    Ok(layout) => layout,
    Err(_) => panic!("a page size is a power of two"),
};

impl Memory {
    fn new() -> Arc<Self> {
        // SAFETY: the size is not zero.
        let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(LAYOUT) }).expect("memory");
        let memory = Self { base, given: Mutex::new(0), meta: [const { FrameMeta::new() }; COUNT] };
        for frame in 0..COUNT {
            let pointer = NonNull::new(memory.frame_pointer(Frame::new(frame as u64))).expect("it is reachable");
            // SAFETY: the memory is a frame's, which is larger, and nobody else has it yet.
            unsafe {
                pointer.cast::<[u64; ENTRIES]>().write([GARBAGE; ENTRIES]);
                share(pointer, ENTRIES * 8, Width::Eight);
            }
        }
        Arc::new(memory)
    }

    fn entry(&self, table: u64, index: usize) -> &AtomicU64 {
        let pointer = self.frame_pointer(Frame::new(table)).cast::<u64>().wrapping_add(index % ENTRIES);
        // SAFETY: a word of a frame, which lives as long as the memory and is reached as an atomic only.
        unsafe { AtomicU64::from_ptr(pointer) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`.
        unsafe { std::alloc::dealloc(self.base.as_ptr(), LAYOUT) }
    }
}

// SAFETY: frames are given out once, cleared as far as tables of this format reach, and have one record each; they are never freed before the memory is.
unsafe impl Frames for Memory {
    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame> {
        let mut given = self.given.lock().expect("no panic under it");
        let first = *given;
        *given += 1;
        let frame = (request.count == 1 && *given <= COUNT).then(|| Frame::new(first as u64))?;
        // By stores that are in no order with anything: whoever links the table sees to that.
        (0..ENTRIES).for_each(|index| self.entry(first as u64, index).store(0, Ordering::Relaxed));
        Some(frame)
    }

    unsafe fn free_frames(&self, _: Frame, _: u64) {}

    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        let frame = frame.number() as usize;
        if frame < COUNT { self.base.as_ptr().wrapping_add(frame * PAGE) } else { std::ptr::null_mut() }
    }

    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta> {
        self.meta.get(frame.number() as usize)
    }
}

/// An access of the hardware: reads entry after entry and marks what it uses, each by one compare and exchange of what it read.
/// Gives the frame, or nothing for a fault.
fn walk(memory: &Memory, root: Frame, address: u64, write: bool) -> Option<u64> {
    let mut table = root.number();
    for (shift, mask) in [(14, 3), (13, 1), (12, 1)] {
        let index = (address >> shift & mask) as usize;
        if table >= COUNT as u64 {
            // Astray, as what an entry led to that nobody has cleared.
            return Some(table);
        }
        let entry = memory.entry(table, index);
        loop {
            let word = entry.load(Ordering::Acquire);
            if word & PRESENT == 0 || (write && word & WRITABLE == 0) {
                return None;
            }
            let mut marked = word | ACCESSED;
            if write && shift == 12 {
                marked |= DIRTY;
            }
            if word == marked || entry.compare_exchange(word, marked, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                table = (word & 0xff_ffff_f000) >> 12;
                break;
            }
        }
    }
    Some(table)
}

struct World {
    memory: Arc<Memory>,
    tables: Tables<Reduced>,
    page: PageRange,
}

/// Tables that rely on dirty bits; the page is mapped, or its tables are still to be made.
fn world(mapped: bool) -> World {
    let memory = Memory::new();
    let mmu = Reduced { tags: 1, keeps_faults: false };
    let mut list = FrameList::new();
    list.fill_with_tables(&*memory, 1).expect("a frame");
    let root = Frame::new(0);
    // SAFETY: the frame was just taken, zeroed, and recorded as a table; the list that has it is forgotten.
    let tables = unsafe { Tables::new(mmu, root, Tag(1)) }.with_dirty_bits(DirtyBits::Relied);
    let page = mmu.range(ADDRESS, PAGE as u64).expect("a page of the lower half");
    let mut world = World { memory, tables, page };
    if mapped {
        world.map();
    }
    world
}

impl World {
    fn map(&mut self) {
        let mut spare = FrameList::new();
        spare.fill_with_tables(&*self.memory, 2).expect("frames");
        let leaf = Leaf::new(Frame::new(TARGET)).user().writable();
        self.tables.map(&*self.memory, self.page, leaf, 0, &mut spare).expect("nothing is there");
    }

    /// Begins threads of the hardware that write to the page; each gives whether the store went through.
    fn stores<const N: usize>(&self) -> [thread::JoinHandle<bool>; N] {
        std::array::from_fn(|_| {
            let (memory, root) = (self.memory.clone(), self.tables.root());
            thread::spawn(move || walk(&memory, root, ADDRESS, true).is_some())
        })
    }

    fn leaf(&self) -> Option<Leaf> {
        self.tables.translate(&*self.memory, VirtAddr::new(ADDRESS)).map(|(_, leaf)| leaf)
    }
}

/// Who finds a new table finds it cleared and filled.
pub(super) fn link() {
    let mut world = world(false);
    let (memory, root) = (world.memory.clone(), world.tables.root());
    let thread = thread::spawn(move || walk(&memory, root, ADDRESS, false));
    world.map();
    let found = thread.join().expect("no panic");
    assert!(found.is_none_or(|frame| frame == TARGET), "{found:?}");
}

/// A store that went through is reported with the leaf that was removed.
pub(super) fn unmap() {
    let mut world = world(true);
    let [thread] = world.stores();
    let mut gather = Gather::default();
    let mut dirty = None;
    world
        .tables
        .unmap(&*world.memory, world.page, &mut FrameList::new(), &mut gather, |_, leaf| dirty = Some(leaf.dirty))
        .expect("whole pages");
    let stored = thread.join().expect("no panic");
    assert_eq!(dirty, Some(stored), "the store is forgotten, or was never made");
    assert_eq!(world.leaf(), None, "the hardware's mark brought the leaf back");
}

/// A store that went through has left its mark in the leaf, which is read-only from then on.
pub(super) fn protect() {
    let mut world = world(true);
    let [thread] = world.stores();
    let (mut spare, mut gather) = (FrameList::new(), Gather::default());
    world.tables.protect(&*world.memory, world.page, Access::READ, &mut spare, &mut gather).expect("whole pages");
    let stored = thread.join().expect("no panic");
    let leaf = world.leaf().expect("it is mapped");
    assert_eq!((leaf.dirty, leaf.access.contains(Access::WRITE)), (stored, false), "the store is forgotten");
}

/// Each store is seen by this harvest or by the next.
pub(super) fn take_marks() {
    let mut world = world(true);
    let threads: [_; 2] = world.stores();
    let mut harvested = 0;
    let marks = Marks { accessed: false, dirty: true };
    let mut gather = Gather::default();
    world
        .tables
        .take_marks(&*world.memory, world.page, marks, &mut gather, |_, had| harvested += u32::from(had.dirty))
        .expect("own tables");
    for thread in threads {
        assert!(thread.join().expect("no panic"), "it stays writable");
    }
    assert!(harvested == 1 || world.leaf().expect("it is mapped").dirty, "both stores are forgotten");
    let flushed = !gather.scope.is_empty();
    assert_eq!(flushed, harvested == 1, "who remembers a leaf as written does not mark it again");
}

/// Write permission is cleared above: no mark of use brings it back.
pub(super) fn write_protect() {
    let mut world = world(true);
    let [thread] = world.stores();
    let mut gather = Gather::default();
    let mut spare = FrameList::new();
    world.tables.write_protect(&*world.memory, world.page, &mut spare, &mut gather).expect("own tables");
    let stored = thread.join().expect("no panic");
    let root = world.tables.root();
    assert_eq!(walk(&world.memory, root, ADDRESS, true), None, "it is writable still");
    assert_eq!(world.leaf().expect("it is mapped").dirty, stored);
}
