//! `page-table-generic`: recursive operations on ranges, generic over an entry that the embedder writes. Unmapping frees what it empties.

use ::page_table_generic::{FrameAllocator, MapConfig, PageTable, PageTableEntry, PhysAddr, TableMeta, VirtAddr};

use super::{set_arena, with_arena};
use crate::{
    arena::Arena,
    subject::{Offer, PAGE, Subject, physical},
    walker::Format,
};

/// An entry of x86-64, as short as the crate's interface allows; a leaf's configuration is its flags.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct Entry(u64);

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const HUGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

impl PageTableEntry for Entry {
    type PteConfig = u64;

    #[inline]
    fn new_page(address: PhysAddr, flags: u64, is_huge: bool) -> Self {
        Self(address.as_usize() as u64 | flags | if is_huge { HUGE } else { 0 })
    }
    #[inline]
    fn new_table(address: PhysAddr) -> Self {
        Self(address.as_usize() as u64 | PRESENT | WRITABLE | USER)
    }
    #[inline]
    fn paddr(&self, _is_dir: bool) -> PhysAddr {
        PhysAddr::from_usize((self.0 & ADDRESS) as usize)
    }
    #[inline]
    fn config(&self, _is_dir: bool) -> u64 {
        self.0 & !(ADDRESS | HUGE)
    }
    #[inline]
    fn present(&self) -> bool {
        self.0 & PRESENT != 0
    }
    #[inline]
    fn huge(&self, is_dir: bool) -> bool {
        is_dir && self.0 & HUGE != 0
    }
    #[inline]
    fn unused(&self) -> bool {
        self.0 == 0
    }
    #[inline]
    fn clear(&mut self) {
        self.0 = 0;
    }
}

#[derive(Clone, Copy)]
struct Meta;

impl TableMeta for Meta {
    type P = Entry;
    const PAGE_SIZE: usize = 4096;
    const LEVEL_BITS: &[usize] = &[9, 9, 9, 9];
    const MAX_BLOCK_LEVEL: usize = 3;
    fn flush(_address: Option<VirtAddr>) {}
}

#[derive(Clone, Copy)]
struct Frames;

impl FrameAllocator for Frames {
    #[inline]
    fn alloc_frame(&self) -> Option<PhysAddr> {
        with_arena(|arena| arena.allocate(false)).map(|frame| PhysAddr::from_usize(frame as usize))
    }
    #[inline]
    fn dealloc_frame(&self, frame: PhysAddr) {
        with_arena(|arena| arena.free(frame.as_usize() as u64));
    }
    #[inline]
    fn phys_to_virt(&self, address: PhysAddr) -> *mut u8 {
        address.as_usize() as *mut u8
    }
}

/// The candidate.
pub struct PageTableGeneric {
    table: PageTable<Meta, Frames>,
    arena: &'static Arena,
}

fn flags(writable: bool) -> u64 {
    PRESENT | USER | ACCESSED | NO_EXECUTE | if writable { WRITABLE } else { 0 }
}

fn at(address: u64) -> VirtAddr {
    VirtAddr::from_usize(address as usize)
}

impl Subject for PageTableGeneric {
    const NAME: &'static str = "page-table-generic";
    const FORMAT: Format = Format::X86_64;
    const OFFERS: &'static [Offer] =
        &[Offer::Protect, Offer::Unmap, Offer::FreeTables, Offer::FreeTablesOfOne, Offer::Translate];

    fn new(arena: &'static Arena) -> Self {
        set_arena(arena);
        Self { table: PageTable::new(Frames).unwrap(), arena }
    }

    fn root(&self) -> u64 {
        self.table.root_paddr().as_usize() as u64
    }

    fn map(&mut self, start: u64, pages: u64, writable: bool) {
        set_arena(self.arena);
        let config = MapConfig {
            vaddr: at(start),
            paddr: PhysAddr::from_usize(physical(start) as usize),
            size: (pages * PAGE) as usize,
            pte: flags(writable),
            allow_huge: false,
            flush: false,
        };
        self.table.map(&config).unwrap();
    }

    fn protect(&mut self, start: u64, pages: u64, writable: bool) {
        self.table.protect_region(at(start), (pages * PAGE) as usize, flags(writable)).unwrap();
    }

    fn unmap(&mut self, start: u64, pages: u64) {
        set_arena(self.arena);
        self.table.unmap(at(start), (pages * PAGE) as usize).unwrap();
    }

    fn translate(&self, address: u64) -> u64 {
        self.table.translate_phys(at(address)).unwrap().as_usize() as u64
    }
}
