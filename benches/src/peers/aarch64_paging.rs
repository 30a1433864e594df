//! `aarch64-paging`: AArch64's tables, of the same shape as x86-64's, recursively.
//!
//! A range is unmapped by mapping it as invalid, which drops whole tables unread where the range covers them. Entry by entry it is unmapped by
//! modifying it; `compact_subtables` then frees what is empty in the whole tree, which nobody would ask for after a single page.

use std::ptr::NonNull;

use ::aarch64_paging::{
    Mapping,
    descriptor::{El1Attributes, PhysicalAddress},
    paging::{Constraints, El1And0, MemoryRegion, PageTable, Translation, VaRange},
};

use crate::{
    arena::Arena,
    subject::{Offer, PAGE, Subject, physical},
    walker::Format,
};

struct Linear(&'static Arena);

impl Translation<El1Attributes> for Linear {
    fn allocate_table(&mut self) -> (NonNull<PageTable<El1Attributes>>, PhysicalAddress) {
        let frame = self.0.allocate(true).unwrap() as usize;
        (self.physical_to_virtual(PhysicalAddress(frame)), PhysicalAddress(frame))
    }

    unsafe fn deallocate_table(&mut self, table: NonNull<PageTable<El1Attributes>>) {
        self.0.free(table.as_ptr() as u64);
    }

    #[inline]
    fn physical_to_virtual(&self, address: PhysicalAddress) -> NonNull<PageTable<El1Attributes>> {
        NonNull::new(address.0 as *mut _).unwrap()
    }
}

/// The candidate.
pub struct Aarch64Paging(Mapping<Linear, El1And0>);

const PLAIN: Constraints = Constraints::NO_BLOCK_MAPPINGS.union(Constraints::NO_CONTIGUOUS_HINT);

fn flags(writable: bool) -> El1Attributes {
    let flags = El1Attributes::VALID
        | El1Attributes::ATTRIBUTE_INDEX_1
        | El1Attributes::INNER_SHAREABLE
        | El1Attributes::USER
        | El1Attributes::ACCESSED
        | El1Attributes::NON_GLOBAL
        | El1Attributes::PXN
        | El1Attributes::UXN;
    if writable { flags } else { flags | El1Attributes::READ_ONLY }
}

fn region(start: u64, pages: u64) -> MemoryRegion {
    MemoryRegion::new(start as usize, (start + pages * PAGE) as usize)
}

impl Subject for Aarch64Paging {
    const NAME: &'static str = "aarch64-paging";
    const FORMAT: Format = Format::Aarch64;
    const OFFERS: &'static [Offer] = &[Offer::Protect, Offer::Unmap, Offer::FreeTables, Offer::Drop, Offer::Translate];

    fn new(arena: &'static Arena) -> Self {
        Self(Mapping::with_asid_and_va_range(Linear(arena), 1, 0, El1And0, VaRange::Lower))
    }

    fn root(&self) -> u64 {
        self.0.root_address().0 as u64
    }

    fn map(&mut self, start: u64, pages: u64, writable: bool) {
        let target = PhysicalAddress(physical(start) as usize);
        self.0.map_range(&region(start, pages), target, flags(writable), PLAIN).unwrap();
    }

    fn protect(&mut self, start: u64, pages: u64, writable: bool) {
        let (set, clear) = (El1Attributes::READ_ONLY, El1Attributes::empty());
        let (set, clear) = if writable { (clear, set) } else { (set, clear) };
        self.0
            .modify_range(&region(start, pages), &|_, entry| {
                if entry.is_table() { Ok(()) } else { entry.modify_flags(set, clear) }
            })
            .unwrap();
    }

    fn unmap(&mut self, start: u64, pages: u64) {
        self.0
            .modify_range(&region(start, pages), &|_, entry| {
                if entry.is_table() { Ok(()) } else { entry.set(PhysicalAddress(0), El1Attributes::empty()) }
            })
            .unwrap();
    }

    fn unmap_one(&mut self, page: u64) {
        self.drop_range(page, 1);
    }

    fn drop_range(&mut self, start: u64, pages: u64) {
        self.0.map_range(&region(start, pages), PhysicalAddress(0), El1Attributes::empty(), PLAIN).unwrap();
    }

    fn free_tables(&mut self) {
        self.0.compact_subtables();
    }

    fn translate(&self, address: u64) -> u64 {
        let mut found = 0;
        let page = MemoryRegion::new(address as usize, address as usize + 1);
        self.0
            .walk_range(&page, &mut |_, entry, _| {
                found = entry.output_address().0 as u64 | address & (PAGE - 1);
                Ok(())
            })
            .unwrap();
        found
    }
}
