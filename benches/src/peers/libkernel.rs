//! `libkernel` (of the kernel moss): x86-64's tables, mapped page by page from the root, changed by a recursive walk. Tables are freed when the
//! whole is torn down.

use ::libkernel::{
    arch::x86_64::memory::{
        pg_descriptors::{MemoryType, PTE},
        pg_tables::{MapAttributes, PML4Table, map_range},
        pg_walk::{punch_hole, translate, walk_and_modify_region},
    },
    error::{KernelError, Result},
    memory::{
        address::{PA, TPA, TVA, VA},
        paging::{
            NullTlbInvalidator, PageAllocator, PageTableMapper, PagingContext, PgTable, PgTableArray,
            permissions::PtePermissions, walk::WalkContext,
        },
        region::{PhysMemoryRegion, VirtMemoryRegion},
    },
};

use crate::{
    arena::Arena,
    subject::{Offer, PAGE, Subject, physical},
    walker::Format,
};

struct Allocator(&'static Arena);

impl PageAllocator for Allocator {
    fn allocate_page_table<T: PgTable>(&mut self) -> Result<TPA<PgTableArray<T>>> {
        // It is zeroed by who asks for it.
        let frame = self.0.allocate(false).ok_or(KernelError::NoMemory)?;
        Ok(TPA::from_value(frame as usize))
    }
}

struct Linear;

impl PageTableMapper for Linear {
    #[inline]
    unsafe fn with_page_table<T: PgTable, R>(
        &mut self,
        address: TPA<PgTableArray<T>>,
        with: impl FnOnce(TVA<PgTableArray<T>>) -> R,
    ) -> Result<R> {
        Ok(with(TVA::from_value(address.value())))
    }
}

/// The candidate.
pub struct Libkernel {
    root: TPA<PgTableArray<PML4Table>>,
    allocator: Allocator,
}

fn permissions(writable: bool) -> PtePermissions {
    if writable { PtePermissions::rw(true) } else { PtePermissions::ro(true) }
}

fn region(start: u64, pages: u64) -> VirtMemoryRegion {
    VirtMemoryRegion::new(VA::from_value(start as usize), (pages * PAGE) as usize)
}

impl Subject for Libkernel {
    const NAME: &'static str = "libkernel";
    const FORMAT: Format = Format::X86_64;
    const OFFERS: &'static [Offer] = &[Offer::Protect, Offer::Unmap, Offer::Translate];

    fn new(arena: &'static Arena) -> Self {
        Self { root: TPA::from_value(arena.allocate(true).unwrap() as usize), allocator: Allocator(arena) }
    }

    fn root(&self) -> u64 {
        self.root.value() as u64
    }

    fn map(&mut self, start: u64, pages: u64, writable: bool) {
        let attributes = MapAttributes {
            phys: PhysMemoryRegion::new(PA::from_value(physical(start) as usize), (pages * PAGE) as usize),
            virt: region(start, pages),
            mem_type: MemoryType::WB,
            perms: permissions(writable),
        };
        let mut context =
            PagingContext { allocator: &mut self.allocator, mapper: &mut Linear, invalidator: &NullTlbInvalidator {} };
        map_range(self.root, attributes, &mut context).unwrap();
    }

    fn protect(&mut self, start: u64, pages: u64, writable: bool) {
        let mut context = WalkContext { mapper: &mut Linear, invalidator: &NullTlbInvalidator {} };
        let change = |_, entry: PTE| entry.set_permissions(permissions(writable));
        walk_and_modify_region(self.root, region(start, pages), &mut context, change).unwrap();
    }

    fn unmap(&mut self, start: u64, pages: u64) {
        let mut context =
            PagingContext { allocator: &mut self.allocator, mapper: &mut Linear, invalidator: &NullTlbInvalidator {} };
        punch_hole(self.root, region(start, pages), &mut context).unwrap();
    }

    fn translate(&self, address: u64) -> u64 {
        let found = translate(self.root, VA::from_value(address as usize), &mut Linear).unwrap();
        let (page, offset, _) = found.unwrap();
        (page.start_address().value() + offset) as u64
    }
}
