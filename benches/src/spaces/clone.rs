//! A clone of a space of ten windows, whatever its resident pages, beside copying the entries of its tables.
//!
//! ```text
//!   aligned:      |████████|████████|████████|        each window begins at a multiple of 2 MiB
//!   unaligned:    ·|████████·|████████·|██████        one page more each: no boundary is that of a table
//!   mixed:        |████████|········|████████|        the sixth is shared: entries above it and private ones are descended
//! ```
//!
//! Each clone is of a space that nobody cloned before; directly before, a small one is cloned, and the windows are looked at.

use std::{
    hint::black_box,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use vmcore::{
    paging::Access,
    vm_area::{Area, AreaKind},
    vm_space::{Fault, Inherit, MapRequest, Space},
};

use super::{
    kernel::{self, Kernel},
    subjects::{Place, range},
};
use crate::{
    arena::{Arena, FRAME},
    clock::timed,
    subject::{LEAF_TABLE, PAGE},
};

/// How many pages are resident.
pub const RESIDENT: [u64; 3] = [16, 16_384, 262_144];

const WINDOWS: u64 = 10;
/// Pages of a window: 52 tables, and a tenth of the most that are resident.
const PAGES: u64 = 52 * 512;
const BASE: u64 = 1 << 40;

/// The ten windows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// How many of their pages are resident.
    pub resident: u64,
    /// Whether each begins at a multiple of 2 MiB.
    pub aligned: bool,
    /// Whether the sixth is shared; the others are private.
    pub mixed: bool,
}

/// Where the windows lie, and how many of their pages are resident.
fn windows(Shape { resident, aligned, .. }: Shape) -> impl Iterator<Item = (Place, u64)> {
    let pages = if aligned { PAGES } else { PAGES + 1 };
    let base = if aligned { BASE } else { BASE + PAGE };
    (0..WINDOWS).map(move |index| {
        let here = resident / WINDOWS + u64::from(index < resident % WINDOWS);
        ((base + index * pages * PAGE, pages), here)
    })
}

fn parent(shape: Shape) -> Space<Kernel> {
    let space = kernel::space(1);
    for (index, ((start, pages), here)) in windows(shape).enumerate() {
        let area = Area::new(&Kernel, AreaKind::Open { size: pages * PAGE }, ()).unwrap();
        let inherit = if shape.mixed && index == 5 { Inherit::Share } else { Inherit::Copy };
        space.map(&MapRequest::new(&area).at(start).inherit(inherit)).unwrap();
        if here != 0 {
            space.populate(range(&space, (start, here)), Access::WRITE).unwrap().complete();
        }
    }
    space
}

fn clone_of(parent: &Space<Kernel>) -> Space<Kernel> {
    parent.try_clone(()).unwrap().complete()
}

/// One clone: how long it took, and how long it took with the child reading every page that is resident.
pub fn round(shape: Shape, reads: bool) -> Duration {
    let parent = parent(shape);
    let small = self::parent(Shape { resident: 1, ..shape });
    kernel::end(clone_of(&small), 0);
    kernel::end(small, 1);
    assert_eq!(parent.windows().count() as u64, WINDOWS);
    let mut child = None;
    let time = timed(|| {
        let made = clone_of(&parent);
        if reads {
            windows(shape).for_each(|((start, _), here)| read_all(&made, start, here));
        }
        child = Some(made);
    });
    child.into_iter().for_each(|child| kernel::end(child, 0));
    kernel::end(parent, 1);
    time
}

/// A clone that can be counted, beside the one that was measured.
pub fn prepared(shape: Shape) -> impl Fn() {
    // Neither is ever dropped: that would be counted as well.
    let parent: &'static Space<Kernel> = Box::leak(Box::new(parent(shape)));
    move || std::mem::forget(clone_of(parent))
}

/// A child's read of a page that is resident, which makes its leaf table and maps the table's other pages as well; the tables before it are there.
pub fn prepared_read(shape: Shape) -> impl Fn() {
    let child: &'static Space<Kernel> = Box::leak(Box::new(clone_of(&parent(shape))));
    let start = windows(shape).next().map_or(0, |((start, _), _)| start);
    read_all(child, start, 512);
    let fault = Fault::new(start + LEAF_TABLE, Access::READ | Access::USER);
    move || {
        child.fault(fault).unwrap().complete();
    }
}

/// Reads pages as a program does: what the tables do not show yet is faulted in. The hardware's walk is left to the library's caller: each leaf table is found
/// once, and each entry is looked at.
fn read_all(space: &Space<Kernel>, start: u64, pages: u64) {
    let fault = |address| {
        space.fault(Fault::new(address, Access::READ | Access::USER)).unwrap().complete();
    };
    let (mut address, end) = (start, start + pages * PAGE);
    while address < end {
        let Some(table) = leaf_table(space, address) else {
            fault(address);
            continue;
        };
        let first = (address / PAGE % 512) as usize;
        let count = (512 - first).min(((end - address) / PAGE) as usize);
        for (step, entry) in table[first..first + count].iter().enumerate() {
            while entry.load(Ordering::Relaxed) & 1 == 0 {
                fault(address + step as u64 * PAGE);
            }
            black_box(entry.load(Ordering::Relaxed));
        }
        address += count as u64 * PAGE;
    }
}

fn leaf_table(space: &Space<Kernel>, address: u64) -> Option<&[AtomicU64]> {
    let mut entry = space.root().number() * PAGE;
    for level in (0..4).rev() {
        let table = std::ptr::with_exposed_provenance::<AtomicU64>((entry & 0x000f_ffff_ffff_f000) as usize);
        // SAFETY: present entries lead to tables of this process' memory, of 512 words, which live as long as the space.
        let table = unsafe { std::slice::from_raw_parts(table, 512) };
        if level == 0 {
            return Some(table);
        }
        entry = table[(address >> (12 + 9 * level)) as usize % 512].load(Ordering::Relaxed);
        if entry & 1 == 0 {
            return None;
        }
    }
    None
}

/// A record of a frame, as large as the library's.
#[repr(C, align(8))]
struct Record {
    count: AtomicU32,
    rest: [u32; 5],
}

const _: () = assert!(size_of::<Record>() == size_of::<vmcore::frame::FrameMeta>());

/// What others do at a clone: each entry of each leaf table copied, without its write permission here and there, and its frame counted once more.
pub struct Copying {
    arena: &'static Arena,
    records: Vec<Record>,
    tables: Vec<u64>,
    resident: u64,
}

const WRITABLE: u64 = 2;

impl Copying {
    /// Tables of so many pages.
    pub fn new(resident: u64) -> Self {
        let tables = resident.div_ceil(512);
        let arena = Arena::leaked(2 * tables as usize);
        let record = || Record { count: AtomicU32::new(1), rest: [0; 5] };
        let tables = (0..tables).filter_map(|_| arena.allocate(true)).collect();
        Self { arena, records: (0..resident).map(|_| record()).collect(), tables, resident }
    }

    fn table(&self, table: u64) -> &[AtomicU64] {
        let table = std::ptr::with_exposed_provenance::<AtomicU64>(table as usize);
        // SAFETY: a frame of the arena, which is used as a table only, and lives as long as the process.
        unsafe { std::slice::from_raw_parts(table, FRAME / 8) }
    }

    /// One copy, and the child reading it all.
    pub fn round(&self) -> Duration {
        for (page, record) in self.records.iter().enumerate() {
            self.table(self.tables[page / 512])[page % 512].store((page as u64) << 12 | 7, Ordering::Relaxed);
            record.count.store(1 + record.rest[0], Ordering::Relaxed);
        }
        let mut made = Vec::with_capacity(self.tables.len());
        let time = timed(|| {
            for from in &self.tables {
                // Every entry is written: the table need not be zeroed.
                let Some(to) = self.arena.allocate(false) else { return };
                for (from, to) in self.table(*from).iter().zip(self.table(to)) {
                    let entry = from.load(Ordering::Relaxed);
                    if entry & 1 != 0 {
                        from.store(entry & !WRITABLE, Ordering::Relaxed);
                        self.records[(entry >> 12) as usize].count.fetch_add(1, Ordering::Relaxed);
                    }
                    to.store(entry & !WRITABLE, Ordering::Relaxed);
                }
                made.push(to);
            }
            for (index, table) in made.iter().enumerate() {
                let count = (self.resident as usize - index * 512).min(512);
                for entry in &self.table(*table)[..count] {
                    black_box(entry.load(Ordering::Relaxed));
                }
            }
        });
        made.iter().for_each(|table| self.arena.free(*table));
        time
    }
}
