//! `x86_64`: an `OffsetPageTable` over a linear map. It maps, protects and unmaps page by page; `clean_up_addr_range` frees what is empty.

use ::x86_64::{
    PhysAddr, VirtAddr,
    structures::paging::{
        FrameAllocator, FrameDeallocator, Mapper, OffsetPageTable, Page, PageTable, PageTableFlags, PhysFrame,
        Size4KiB, Translate, mapper::CleanUp,
    },
};

use crate::{
    arena::Arena,
    subject::{Offer, PAGE, Subject, physical},
    walker::Format,
};

struct Frames(&'static Arena);

// SAFETY: the arena hands each frame out once until it comes back.
unsafe impl FrameAllocator<Size4KiB> for Frames {
    #[inline]
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        Some(PhysFrame::containing_address(PhysAddr::new(self.0.allocate(false)?)))
    }
}

impl FrameDeallocator<Size4KiB> for Frames {
    #[inline]
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
        self.0.free(frame.start_address().as_u64());
    }
}

/// The candidate.
pub struct X86_64 {
    table: OffsetPageTable<'static>,
    frames: Frames,
}

const TABLE: PageTableFlags =
    PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE).union(PageTableFlags::USER_ACCESSIBLE);

fn flags(writable: bool) -> PageTableFlags {
    let flags = PageTableFlags::PRESENT
        | PageTableFlags::USER_ACCESSIBLE
        | PageTableFlags::ACCESSED
        | PageTableFlags::NO_EXECUTE;
    if writable { flags | PageTableFlags::WRITABLE } else { flags }
}

#[inline]
fn page(address: u64) -> Page {
    Page::containing_address(VirtAddr::new(address))
}

fn each_page(start: u64, pages: u64) -> impl Iterator<Item = u64> {
    (0..pages).map(move |index| start + index * PAGE)
}

impl Subject for X86_64 {
    const NAME: &'static str = "x86_64";
    const FORMAT: Format = Format::X86_64;
    const OFFERS: &'static [Offer] =
        &[Offer::Protect, Offer::Unmap, Offer::FreeTables, Offer::FreeTablesOfOne, Offer::Translate];

    fn new(arena: &'static Arena) -> Self {
        let root = arena.allocate(true).unwrap() as *mut PageTable;
        // SAFETY: the frame is zeroed, aligned and nobody else's; every frame of the arena is reached at its physical address.
        let table = unsafe { OffsetPageTable::new(&mut *root, VirtAddr::new(0)) };
        Self { table, frames: Frames(arena) }
    }

    fn root(&self) -> u64 {
        core::ptr::from_ref(self.table.level_4_table()) as u64
    }

    fn map(&mut self, start: u64, pages: u64, writable: bool) {
        for address in each_page(start, pages) {
            let frame = PhysFrame::containing_address(PhysAddr::new(physical(address)));
            let (page, flags) = (page(address), flags(writable));
            // SAFETY: no CPU uses the tables.
            let flush = unsafe { self.table.map_to_with_table_flags(page, frame, flags, TABLE, &mut self.frames) };
            flush.unwrap().ignore();
        }
    }

    fn protect(&mut self, start: u64, pages: u64, writable: bool) {
        for address in each_page(start, pages) {
            // SAFETY: as above.
            unsafe { self.table.update_flags(page(address), flags(writable)) }.unwrap().ignore();
        }
    }

    fn unmap(&mut self, start: u64, pages: u64) {
        for address in each_page(start, pages) {
            self.table.unmap(page(address)).unwrap().1.ignore();
        }
        let range = Page::range_inclusive(page(start), page(start + (pages - 1) * PAGE));
        // SAFETY: all tables are this arena's and used here alone.
        unsafe { self.table.clean_up_addr_range(range, &mut self.frames) };
    }

    fn translate(&self, address: u64) -> u64 {
        self.table.translate_addr(VirtAddr::new(address)).unwrap().as_u64()
    }
}
