//! That every candidate does the same: after each operation its tables, read by the [`walker`], map exactly what they should.
//!
//! Made before anything is measured, so that nobody is measured doing less: not with fewer pages, not elsewhere, not with tables left behind by who says
//! that it frees them.

use anyhow::{Result, ensure};

use crate::{
    arena::Arena,
    floor::Floor,
    peers,
    subject::{FIRST_ADDRESS, LEAF_TABLE, Offer, PAGE, Subject, physical},
    vmcore::Vmcore,
    walker::{self, Format, Mapped},
};

/// Frames that a candidate may hold beside its tree: what it reserved, and tables of its own in other root slots.
const BESIDE: usize = 8;

/// Checks every candidate.
///
/// # Errors
/// Who does not do what it was asked for, and where.
pub fn all() -> Result<()> {
    // The floor frees no tables, and says so.
    check::<Floor<false>>()?;
    check::<Floor<true>>()?;
    check::<Vmcore<false>>()?;
    check::<Vmcore<true>>()?;
    check::<peers::x86_64::X86_64>()?;
    check::<peers::page_table_multiarch::PageTableMultiarch>()?;
    check::<peers::page_table_generic::PageTableGeneric>()?;
    check::<peers::aarch64_paging::Aarch64Paging>()?;
    check::<peers::libkernel::Libkernel>()?;
    check::<peers::patina_paging::PatinaPaging>()
}

/// Checks one candidate, with ranges that begin and end at tables and with others.
///
/// # Errors
/// As for [`all`].
pub fn check<S: Subject>() -> Result<()> {
    for (start, pages) in [
        (FIRST_ADDRESS, 1),
        (FIRST_ADDRESS, 512),
        (FIRST_ADDRESS + 511 * PAGE, 2),
        (FIRST_ADDRESS + LEAF_TABLE - 3 * PAGE, 1030),
        (FIRST_ADDRESS, 4096),
    ] {
        Checked::<S>::new(start, pages).run()?;
    }
    Ok(())
}

struct Checked<S> {
    subject: S,
    arena: &'static Arena,
    start: u64,
    pages: u64,
}

impl<S: Subject> Checked<S> {
    fn new(start: u64, pages: u64) -> Self {
        let arena = Arena::leaked(32);
        Self { subject: S::new(arena), arena, start, pages }
    }

    fn read(&self) -> (Vec<Mapped>, u64) {
        // SAFETY: the tree is the subject's, who is not at work now.
        unsafe { walker::read(self.subject.root(), S::FORMAT) }
    }

    /// Compares what is mapped with what should be.
    fn expect(&self, after: &str, page: impl Fn(u64) -> Option<(bool, bool)>) -> Result<()> {
        let expected: Vec<Mapped> = (self.start..self.start + self.pages * PAGE)
            .step_by(PAGE as usize)
            .filter_map(|address| {
                let (writable, dirty) = page(address)?;
                Some(Mapped { address, physical: physical(address), writable, dirty })
            })
            .collect();
        let (found, _) = self.read();
        let differs = expected.iter().zip(&found).find(|(expected, found)| expected != found);
        ensure!(
            expected == found,
            "{} after {after} of {} pages from {:#x}: {} pages are mapped instead of {}; first difference: {differs:x?}",
            S::NAME,
            self.pages,
            self.start,
            found.len(),
            expected.len(),
        );
        Ok(())
    }

    /// Compares the tables that are left after everything was unmapped.
    fn expect_no_tables(&self, after: &str) -> Result<()> {
        let (_, linked) = self.read();
        let held = self.arena.used();
        ensure!(
            linked == 0 && held <= BESIDE,
            "{} after {after} of {} pages: {linked} tables are linked, {held} frames held",
            S::NAME,
            self.pages
        );
        Ok(())
    }

    fn run(mut self) -> Result<()> {
        let (start, pages) = (self.start, self.pages);
        let offers = |offer| S::OFFERS.contains(&offer);
        let each_page = || (start..start + pages * PAGE).step_by(PAGE as usize);
        self.expect("nothing", |_| None)?;

        self.subject.map(start, pages, true);
        self.expect("map", |_| Some((true, false)))?;
        if offers(Offer::Translate) {
            for address in each_page() {
                let found = self.subject.translate(address + 0x123);
                ensure!(found == physical(address) + 0x123, "{} translates {address:#x} to {found:#x}", S::NAME);
            }
        }
        if offers(Offer::Protect) {
            self.subject.protect(start, pages, false);
            self.expect("protect", |_| Some((false, false)))?;
            self.subject.protect(start, pages, true);
            self.expect("protect back", |_| Some((true, false)))?;
        }
        if offers(Offer::TakeDirty) && S::FORMAT == Format::X86_64 {
            // SAFETY: as for `read`.
            unsafe { walker::mark_dirty(self.subject.root()) };
            self.expect("a write", |_| Some((true, true)))?;
            let taken = self.subject.take_dirty(start, pages);
            ensure!(taken == pages, "{} found {taken} dirty pages of {pages}", S::NAME);
            self.expect("take_dirty", |_| Some((true, false)))?;
        }
        if !offers(Offer::Unmap) {
            return Ok(());
        }
        // A part of it first: the rest stays.
        let last = start + (pages - 1) * PAGE;
        self.subject.unmap(start, pages - u64::from(pages > 1));
        self.expect("unmap in part", |page| (pages > 1 && page == last).then_some((true, false)))?;
        if pages > 1 {
            self.subject.unmap(last, 1);
        }
        self.subject.free_tables();
        self.expect("unmap", |_| None)?;
        if offers(Offer::FreeTables) {
            self.expect_no_tables("unmap")?;
        }

        for page in each_page() {
            self.subject.map_one(page);
        }
        self.expect("map_one", |_| Some((true, false)))?;
        for (done, page) in each_page().enumerate() {
            self.subject.unmap_one(page);
            if done % 300 == 0 {
                self.expect("unmap_one", |other| (other > page).then_some((true, false)))?;
            }
        }
        self.expect("unmap_one", |_| None)?;
        if offers(Offer::FreeTablesOfOne) {
            self.expect_no_tables("unmap_one")?;
        }

        self.subject.map(start, pages, false);
        self.expect("map read-only", |_| Some((false, false)))?;
        if offers(Offer::Drop) {
            self.subject.drop_range(start, pages);
            self.expect("drop_range", |_| None)?;
            self.subject.free_tables();
            self.expect_no_tables("drop_range")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_candidate_does_the_same_work() {
        all().unwrap();
    }

    /// Who does less in one way or another.
    struct Lazy<const HOW: u32>(Floor<false>);

    const NOT_ALL: u32 = 0;
    const ELSEWHERE: u32 = 1;
    const KEEPS_TABLES: u32 = 2;
    const FORGETS_TO_PROTECT: u32 = 3;

    impl<const HOW: u32> Subject for Lazy<HOW> {
        const NAME: &'static str = "lazy";
        const FORMAT: Format = Format::X86_64;
        const OFFERS: &'static [Offer] = if HOW == KEEPS_TABLES {
            &[Offer::Unmap, Offer::FreeTables]
        } else {
            &[Offer::Protect, Offer::Unmap, Offer::Translate]
        };
        fn new(arena: &'static Arena) -> Self {
            Self(Floor::new(arena))
        }
        fn root(&self) -> u64 {
            self.0.root()
        }
        fn map(&mut self, start: u64, pages: u64, writable: bool) {
            self.0.map(start, if HOW == NOT_ALL && pages > 1 { pages - 1 } else { pages }, writable);
        }
        fn protect(&mut self, start: u64, pages: u64, writable: bool) {
            if HOW != FORGETS_TO_PROTECT {
                self.0.protect(start, pages, writable);
            }
        }
        fn unmap(&mut self, start: u64, pages: u64) {
            self.0.unmap(start, pages);
        }
        fn translate(&self, address: u64) -> u64 {
            self.0.translate(address) + if HOW == ELSEWHERE { PAGE } else { 0 }
        }
    }

    #[test]
    fn who_does_less_is_noticed() {
        let said = |result: Result<()>| result.unwrap_err().to_string();
        assert!(said(check::<Lazy<NOT_ALL>>()).contains("after map of 512 pages"));
        assert!(said(check::<Lazy<ELSEWHERE>>()).contains("translates"));
        assert!(said(check::<Lazy<KEEPS_TABLES>>()).contains("tables are linked"));
        assert!(said(check::<Lazy<FORGETS_TO_PROTECT>>()).contains("after protect of 1 pages"));
    }
}
