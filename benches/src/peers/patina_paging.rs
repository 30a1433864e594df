//! `patina_paging` (firmware): recursive operations on ranges, before the tables are installed, so that they are reached by the identity map. It frees no table
//! and translates only by iterating.

use ::patina_paging::{
    MemoryAttributes, PageTable, PagingType, PtError, page_allocator::PageAllocator, x64::X64PageTable,
};

use crate::{
    arena::Arena,
    subject::{Offer, PAGE, Subject, physical},
    walker::Format,
};

struct Allocator {
    arena: &'static Arena,
    /// Where the first frame, which is the root, is told to who makes the tables.
    root: &'static std::cell::Cell<u64>,
}

impl PageAllocator for Allocator {
    fn allocate_page(&mut self, _align: u64, _size: u64, is_root: bool) -> Result<u64, PtError> {
        let frame = self.arena.allocate(false).ok_or(PtError::OutOfResources)?;
        if is_root {
            self.root.set(frame);
        }
        Ok(frame)
    }
}

/// The candidate.
pub struct PatinaPaging {
    table: X64PageTable<Allocator>,
    root: u64,
}

fn attributes(writable: bool) -> MemoryAttributes {
    let attributes = MemoryAttributes::Writeback | MemoryAttributes::ExecuteProtect;
    if writable { attributes } else { attributes | MemoryAttributes::ReadOnly }
}

impl Subject for PatinaPaging {
    const NAME: &'static str = "patina_paging";
    const FORMAT: Format = Format::X86_64;
    const OFFERS: &'static [Offer] = &[Offer::Protect, Offer::Unmap];

    fn new(arena: &'static Arena) -> Self {
        let root: &_ = Box::leak(Box::default());
        let table = X64PageTable::new(Allocator { arena, root }, PagingType::Paging4Level).unwrap();
        Self { table, root: root.get() }
    }

    fn root(&self) -> u64 {
        self.root
    }

    fn map(&mut self, start: u64, pages: u64, writable: bool) {
        let target = physical(start);
        self.table.map_aliased_memory_region(start, target, pages * PAGE, attributes(writable)).unwrap();
    }

    fn protect(&mut self, start: u64, pages: u64, writable: bool) {
        // Mapping what is mapped changes its attributes.
        self.map(start, pages, writable);
    }

    fn unmap(&mut self, start: u64, pages: u64) {
        self.table.unmap_memory_region(start, pages * PAGE).unwrap();
    }
}
