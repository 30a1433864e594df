//! Page tables alone: no platform, no spaces, only frames. Builds tables for x86-64, shows what they map and how one address is
//! translated, changes them, and gives the tables back when the CPU has forgotten them.
//! Run it with `cargo run -p examples --example tables_only`.
//!
//! `Frames` is all that this takes. A `FrameRegion` implements it over a piece of memory; a kernel implements it over its own allocator, as
//! `smallest.rs` does. What comes with a `Platform` (areas, faults, flush values that hold frames back) is then up to the caller: after each
//! change, the caller flushes what the change names, and frees the tables that it gathered.

use vmcore::addr::{Frame, PageRange, VirtAddr};
use vmcore::frame::{FrameList, FrameMeta, FrameMetaTable, FrameRegion};
use vmcore::paging::{Access, Gather, Leaf, MemoryType, Mmu, Tables, Tag, X86_64};

type Region = FrameRegion<'static, spin::Mutex<()>>;

const FRAMES: usize = 64;

/// The largest leaves to try: 2 MiB. 2 would allow 1 GiB as well.
const LARGEST: usize = 1;

fn region() -> Region {
    let memory = Vec::leak(vec![0_u8; (FRAMES + 1) * 4096]);
    let base = memory.as_mut_ptr().wrapping_add(memory.as_ptr().align_offset(4096));
    let records = Vec::leak((0..FRAMES).map(|_| FrameMeta::new()).collect());
    // SAFETY: the memory is aligned, large enough, and nobody else's for ever.
    unsafe { FrameRegion::new(base, 12, FrameMetaTable::new(Frame::new(0x100), records)) }
}

/// What the tables map, a line for each run of equal pages, whatever the size of their leaves.
fn dump(frames: &Region, tables: &Tables<X86_64>, range: PageRange) {
    for (pages, leaf) in tables.runs(frames, range) {
        println!("  {:#012x}  {:>5} pages  {leaf:?}", pages.start(), pages.pages(12));
    }
    println!();
}

/// Honours a change. A kernel executes INVLPG here, on every CPU that has the root loaded, or reloads CR3; then no CPU can use the tables that
/// were unlinked, and they may be free.
fn flush(frames: &Region, gather: &mut Gather) {
    for entry in gather.scope.entries() {
        let Tag(tag) = entry.tag;
        match entry.range {
            Some(range) => println!("  flush of tag {tag}: {} pages from {}", range.pages(12), range.start()),
            None => println!("  flush of tag {tag}: all of it"),
        }
    }
    // SAFETY: no entry leads to them, and the one CPU of this program has no TLB.
    let freed = unsafe { gather.tables.free_tables(frames) };
    println!("  {freed} tables freed\n");
    *gather = Gather::default();
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (frames, mmu) = (region(), X86_64::new(40));
    let mut spare = FrameList::new();
    spare.fill_with_tables(&frames, 1)?;
    let root = spare.pop(&frames).ok_or("no frame for the root")?;
    // SAFETY: the frame was just taken: zeroed, recorded as a table, and nobody else's.
    let mut tables = unsafe { Tables::new(mmu, root, Tag(0)) };
    let lower = mmu.range(0, 1 << 47)?;

    // Three ranges. How many tables each takes is asked first, so that mapping does not fail half way.
    let text = (mmu.range(0x40_0000, 0x3000)?, Leaf::new(Frame::new(0x8_0000)).user().executable());
    let heap = (mmu.range(0x60_0000, 0x80_0000)?, Leaf::new(Frame::new(0x9_0000)).user().writable());
    let screen = Leaf::new(Frame::new(0xf_d000)).writable().memory(MemoryType::WriteCombining);
    let screen = (mmu.range(0x4000_0000, 0x30_0000)?, screen);
    for (range, leaf) in [text, heap, screen] {
        let needed = tables.tables_to_map(&frames, range, Some(leaf.frame), LARGEST);
        spare.fill_with_tables(&frames, needed)?;
        tables.map(&frames, range, leaf, LARGEST, &mut spare)?;
        println!("mapped {} pages at {} with {needed} new tables", range.pages(12), range.start());
    }
    println!();
    dump(&frames, &tables, lower);
    println!("{}\n", tables.walk(&frames, VirtAddr::new(0x60_1234)));

    // Write permission is taken from 16 pages in the middle of a 2 MiB leaf, which is split for that.
    let middle = mmu.range(0x61_0000, 0x1_0000)?;
    println!("16 pages at {} become read-only", middle.start());
    let mut gather = Gather::default();
    spare.fill_with_tables(&frames, tables.tables_to_split(&frames, middle))?;
    tables.protect(&frames, middle, Access::READ | Access::USER, &mut spare, &mut gather)?;
    flush(&frames, &mut gather);
    dump(&frames, &tables, lower);

    println!("the heap is unmapped, and something is refused:");
    tables.unmap(&frames, heap.0, &mut spare, &mut gather, |_, _| {})?;
    flush(&frames, &mut gather);
    if let Err(error) = tables.map(&frames, text.0, text.1, LARGEST, &mut spare) {
        println!("  {error}\n");
    }

    // The end: whatever is left is dropped unread, and the root goes last.
    println!("everything is dropped");
    tables.detach(&frames, lower, &mut gather)?;
    flush(&frames, &mut gather);
    // SAFETY: nothing used what is left over, and no CPU has the root loaded.
    unsafe {
        spare.free_tables(&frames);
        tables.free_root(&frames).map_err(|(_, error)| error)?;
    }
    println!("{} of {FRAMES} frames are free", frames.available());
    if frames.available() == FRAMES as u64 { Ok(()) } else { Err("a table was lost".into()) }
}

#[test]
fn it_runs() -> Result<(), Box<dyn std::error::Error>> {
    main()
}
