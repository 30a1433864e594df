//! `vmcore`: [`Tables`] used alone, with four levels of x86-64.
//!
//! Spare tables are taken from the arena before an operation on a range that may need them, by the bound that costs nothing to know, and for a single page
//! when they turn out to be lacking; they stay in the list if they were not needed. Emptied tables go back to the arena at once: the flush that a kernel would
//! wait for is nobody's concern here.

use vmcore::{
    addr::{Frame, PageRange, PhysAddr, VirtAddr},
    frame::{FrameList, FrameMeta, FrameMetaTable, FrameRequest, Frames},
    paging::{Access, DirtyBits, Gather, Leaf, Marks, Mmu, TableError, Tables, Tag, X86_64},
};

use crate::{
    arena::{Arena, FRAME},
    subject::{Offer, PAGE, Subject, physical},
    walker::Format,
};

/// The arena as an embedder's frames.
#[derive(Debug)]
struct Memory {
    arena: &'static Arena,
    records: FrameMetaTable<'static>,
}

impl Memory {
    fn new(arena: &'static Arena) -> Self {
        let first = arena.base() as u64 / FRAME as u64;
        let records = Vec::leak((0..arena.frames()).map(|_| FrameMeta::new()).collect());
        Self { arena, records: FrameMetaTable::new(Frame::new(first), records) }
    }

    /// Gives emptied tables back.
    #[inline]
    fn free(&self, tables: &mut FrameList) {
        // SAFETY: what a change unlinked is in no tree any more, and no CPU walks these tables.
        unsafe { tables.free_tables(self) };
    }
}

// SAFETY: the arena hands each frame out once until it comes back, in memory that lives as long as the process, each with a record of its own.
unsafe impl Frames for Memory {
    #[inline]
    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame> {
        if request.count != 1 {
            return None;
        }
        Some(Frame::containing(PhysAddr::new(self.arena.allocate(request.zeroed)?), Self::PAGE_SHIFT))
    }

    unsafe fn free_frames(&self, first: Frame, count: u64) {
        for frame in first.number()..first.number() + count {
            self.arena.free(frame * FRAME as u64);
        }
    }

    #[inline]
    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        // A linear map at 0, as every other candidate has.
        core::ptr::with_exposed_provenance_mut(frame.start(Self::PAGE_SHIFT).as_u64() as usize)
    }

    #[inline]
    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta> {
        self.records.get(frame)
    }
}

/// The candidate; where `RELIED`, the hardware's dirty bits are relied on.
#[derive(Debug)]
pub struct Vmcore<const RELIED: bool> {
    memory: Memory,
    tables: Tables<X86_64>,
    spare: FrameList,
}

const READ: Access = Access::READ.union(Access::USER);

fn access(writable: bool) -> Access {
    if writable { Access::USER_DATA } else { READ }
}

impl<const RELIED: bool> Vmcore<RELIED> {
    #[inline]
    fn range(&self, start: u64, pages: u64) -> PageRange {
        self.tables.mmu().range(start, pages * PAGE).unwrap()
    }

    /// Sees to it that the operation finds enough spare tables.
    #[inline]
    fn reserve(&mut self, range: PageRange) {
        let needed = self.tables.tables_to_map_at_most(range);
        self.spare.fill_with_tables(&self.memory, needed).unwrap();
    }
}

impl<const RELIED: bool> Subject for Vmcore<RELIED> {
    const NAME: &'static str = "vmcore";
    const FORMAT: Format = Format::X86_64;
    const OFFERS: &'static [Offer] = &[
        Offer::Protect,
        Offer::Unmap,
        Offer::FreeTables,
        Offer::FreeTablesOfOne,
        Offer::Drop,
        Offer::TakeDirty,
        Offer::Translate,
        Offer::Check,
    ];

    fn new(arena: &'static Arena) -> Self {
        let memory = Memory::new(arena);
        let mut spare = FrameList::new();
        spare.fill_with_tables(&memory, 1).unwrap();
        let root = spare.pop(&memory).unwrap();
        // SAFETY: the root was just made and is nobody else's; every operation is given this memory.
        let tables = unsafe { Tables::new(X86_64::new(52), root, Tag(0)) };
        let dirty_bits = if RELIED { DirtyBits::Relied } else { DirtyBits::Hints };
        Self { memory, tables: tables.with_dirty_bits(dirty_bits), spare }
    }

    fn root(&self) -> u64 {
        self.tables.root().number() * FRAME as u64
    }

    fn map(&mut self, start: u64, pages: u64, writable: bool) {
        let range = self.range(start, pages);
        self.reserve(range);
        let frame = Frame::new(physical(start) / PAGE);
        let mut leaf = Leaf::new(frame).access(access(writable));
        leaf.accessed = true;
        self.tables.map(&self.memory, range, leaf, 0, &mut self.spare).unwrap();
    }

    fn map_one(&mut self, page: u64) {
        let mut leaf = Leaf::new(Frame::new(physical(page) / PAGE)).access(Access::USER_DATA);
        leaf.accessed = true;
        let mut gather = Gather::default();
        let address = VirtAddr::new(page);
        // Tables are taken where they are lacking, as a fault handler does.
        while let Err(error) = self.tables.set_page(&self.memory, address, leaf, &mut self.spare, &mut gather) {
            let TableError::NeedsTables(needed) = error else { panic!("{error}") };
            self.spare.fill_with_tables(&self.memory, needed).unwrap();
        }
    }

    fn protect(&mut self, start: u64, pages: u64, writable: bool) {
        let range = self.range(start, pages);
        let mut gather = Gather::default();
        self.tables.protect(&self.memory, range, access(writable), &mut self.spare, &mut gather).unwrap();
    }

    fn unmap(&mut self, start: u64, pages: u64) {
        let range = self.range(start, pages);
        let mut gather = Gather::default();
        self.tables.unmap(&self.memory, range, &mut self.spare, &mut gather, |_, _| {}).unwrap();
        self.memory.free(&mut gather.tables);
    }

    fn unmap_one(&mut self, page: u64) {
        let mut gather = Gather::default();
        self.tables.unmap_page(&self.memory, VirtAddr::new(page), &mut gather).unwrap();
        self.memory.free(&mut gather.tables);
    }

    fn drop_range(&mut self, start: u64, pages: u64) {
        let range = self.range(start, pages);
        let mut gather = Gather::default();
        self.tables.detach(&self.memory, range, &mut gather).unwrap();
        self.memory.free(&mut gather.tables);
    }

    fn take_dirty(&mut self, start: u64, pages: u64) -> u64 {
        let range = self.range(start, pages);
        let (mut gather, mut found) = (Gather::default(), 0);
        self.tables.take_marks(&self.memory, range, Marks::DIRTY, &mut gather, |_, _| found += 1).unwrap();
        found
    }

    fn translate(&self, address: u64) -> u64 {
        let (pages, leaf) = self.tables.translate(&self.memory, VirtAddr::new(address)).unwrap();
        leaf.frame.start(12).as_u64() + (address - pages.start().as_u64())
    }

    fn check_map(&self, start: u64, pages: u64) -> u64 {
        let range = self.range(start, pages);
        assert!(self.tables.is_clear(&self.memory, range));
        self.tables.tables_to_map_at_most(range)
    }

    fn check_change(&self, start: u64, pages: u64) -> u64 {
        self.tables.tables_to_split(&self.memory, self.range(start, pages))
    }
}
