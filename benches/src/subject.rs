//! What every candidate is asked to do, and the memory that it is asked to map.

use crate::{arena::Arena, walker::Format};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Bytes that one leaf table maps.
pub const LEAF_TABLE: u64 = 512 * PAGE;
/// The first address that is mapped: the third root slot.
pub const FIRST_ADDRESS: u64 = 2 << 39;
/// What [`FIRST_ADDRESS`] is mapped to. One page off any larger alignment, so that nobody can use a larger leaf.
const FIRST_PHYSICAL: u64 = (4 << 30) + PAGE;

/// The physical address that `address` is to be mapped to.
#[inline(always)]
pub fn physical(address: u64) -> u64 {
    address - FIRST_ADDRESS + FIRST_PHYSICAL
}

/// What a candidate may offer beside mapping pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offer {
    /// Changing the access of a range.
    Protect,
    /// Unmapping.
    Unmap,
    /// Giving tables back that unmapping a range has emptied.
    FreeTables,
    /// Giving tables back that unmapping one page has emptied, then and there.
    FreeTablesOfOne,
    /// Dropping what a range maps without reading it, with its tables.
    Drop,
    /// Taking dirty marks back from a range.
    TakeDirty,
    /// Finding what an address is mapped to.
    Translate,
    /// Saying beforehand what an operation on a range needs, in a pass of its own.
    Check,
}

/// Tables of one candidate. Ranges are aligned to pages, and mapped to where [`physical`] says, by leaves of 4 KiB, readable
/// and not executable, for programs, marked as used. TLBs are nobody's concern here.
///
/// An operation that is not among [`OFFERS`](Self::OFFERS) is never called.
pub trait Subject {
    /// Whose tables they are.
    const NAME: &'static str;
    /// How they are read.
    const FORMAT: Format;
    /// What there is beside mapping.
    const OFFERS: &'static [Offer];

    /// Tables that map nothing yet, out of `arena`.
    fn new(arena: &'static Arena) -> Self;

    /// The address of the root table.
    fn root(&self) -> u64;

    /// Maps a range of nothing, writable or not.
    fn map(&mut self, start: u64, pages: u64, writable: bool);

    /// Maps one page of nothing.
    fn map_one(&mut self, page: u64) {
        self.map(page, 1, true);
    }

    /// Makes a mapped range writable or read-only.
    fn protect(&mut self, start: u64, pages: u64, writable: bool) {
        let _ = (start, pages, writable);
        unimplemented!()
    }

    /// Unmaps a mapped range entry by entry, and frees the tables that it empties if that is offered and no call of its own.
    fn unmap(&mut self, start: u64, pages: u64) {
        let _ = (start, pages);
        unimplemented!()
    }

    /// Unmaps one mapped page, and frees the tables that this empties if that is offered.
    fn unmap_one(&mut self, page: u64) {
        self.unmap(page, 1);
    }

    /// Unmaps a mapped range; its tables are dropped unread.
    fn drop_range(&mut self, start: u64, pages: u64) {
        let _ = (start, pages);
        unimplemented!()
    }

    /// Frees the tables that unmapping ranges has emptied, where that is a call of its own.
    fn free_tables(&mut self) {}

    /// Takes the dirty marks of a range back; gives how many there were.
    fn take_dirty(&mut self, start: u64, pages: u64) -> u64 {
        let _ = (start, pages);
        unimplemented!()
    }

    /// Where a mapped address leads.
    fn translate(&self, address: u64) -> u64 {
        let _ = address;
        unimplemented!()
    }

    /// Says what mapping a range of nothing takes, and that nothing is in the way.
    fn check_map(&self, start: u64, pages: u64) -> u64 {
        let _ = (start, pages);
        unimplemented!()
    }

    /// Says what unmapping or protecting a range takes.
    fn check_change(&self, start: u64, pages: u64) -> u64 {
        let _ = (start, pages);
        unimplemented!()
    }
}
