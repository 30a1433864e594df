//! `page_table_multiarch`: a cursor with operations on regions. Tables are freed when the whole is dropped.

use ::page_table_multiarch::{MappingFlags, PageSize, PagingHandler, x86_64::X64PageTable};
use memory_addr::{PhysAddr, VirtAddr};

use super::{set_arena, with_arena};
use crate::{
    arena::Arena,
    subject::{Offer, PAGE, Subject, physical},
    walker::Format,
};

struct Handler;

impl PagingHandler for Handler {
    fn alloc_frames(num: usize, _align: usize) -> Option<PhysAddr> {
        assert_eq!(num, 1);
        with_arena(|arena| arena.allocate(false)).map(|frame| PhysAddr::from(frame as usize))
    }

    fn dealloc_frames(address: PhysAddr, num: usize) {
        assert_eq!(num, 1);
        with_arena(|arena| arena.free(address.as_usize() as u64));
    }

    #[inline]
    fn phys_to_virt(address: PhysAddr) -> VirtAddr {
        VirtAddr::from(address.as_usize())
    }
}

/// The candidate.
pub struct PageTableMultiarch {
    table: X64PageTable<Handler>,
    arena: &'static Arena,
}

fn flags(writable: bool) -> MappingFlags {
    let flags = MappingFlags::READ | MappingFlags::USER;
    if writable { flags | MappingFlags::WRITE } else { flags }
}

fn at(address: u64) -> VirtAddr {
    VirtAddr::from(address as usize)
}

fn target(address: u64) -> PhysAddr {
    PhysAddr::from(physical(address) as usize)
}

impl Subject for PageTableMultiarch {
    const NAME: &'static str = "page_table_multiarch";
    const FORMAT: Format = Format::X86_64;
    const OFFERS: &'static [Offer] = &[Offer::Protect, Offer::Unmap, Offer::Translate];

    fn new(arena: &'static Arena) -> Self {
        set_arena(arena);
        Self { table: X64PageTable::try_new().unwrap(), arena }
    }

    fn root(&self) -> u64 {
        self.table.root_paddr().as_usize() as u64
    }

    fn map(&mut self, start: u64, pages: u64, writable: bool) {
        set_arena(self.arena);
        let size = (pages * PAGE) as usize;
        let target = |address: VirtAddr| target(address.as_usize() as u64);
        self.table.cursor().map_region(at(start), target, size, flags(writable), false).unwrap();
    }

    fn map_one(&mut self, page: u64) {
        self.table.cursor().map(at(page), target(page), PageSize::Size4K, flags(true)).unwrap();
    }

    fn protect(&mut self, start: u64, pages: u64, writable: bool) {
        self.table.cursor().protect_region(at(start), (pages * PAGE) as usize, flags(writable)).unwrap();
    }

    fn unmap(&mut self, start: u64, pages: u64) {
        self.table.cursor().unmap_region(at(start), (pages * PAGE) as usize).unwrap();
    }

    fn unmap_one(&mut self, page: u64) {
        self.table.cursor().unmap(at(page)).unwrap();
    }

    fn translate(&self, address: u64) -> u64 {
        self.table.query(at(address)).unwrap().0.as_usize() as u64
    }
}
