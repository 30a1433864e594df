//! Setting a page before the simulated machine.

use super::*;
use crate::paging::{DirtyBits, FlushRequest, Marks};
use crate::platform::{CpuMask, CpuSet};
use crate::sim::Sim;

/// The same leaf without its mark is a change: a CPU that remembers the page as written would never mark it again.
#[test]
fn a_mark_that_is_taken_back_by_setting_the_page_is_flushed() {
    let sim = Sim::builder().frames(16).build();
    let mmu = X86_64::new(40);
    let root = sim.new_table();
    sim.load(0, root, TAG);
    // SAFETY: a fresh, zeroed table.
    let mut tables = unsafe { Tables::new(mmu, root, TAG) }.with_dirty_bits(DirtyBits::Relied);
    let (mut spare, mut gather, mut cpus) = (FrameList::new(), Gather::default(), CpuMask::EMPTY);
    cpus.insert(0);
    spare.fill_with_tables(&sim, 3).unwrap();
    let (page, leaf) = (mmu.range(0x5000, 0x1000).unwrap(), leaf(sim.new_page().number()));
    let mut set = |tables: &mut Tables<X86_64>| {
        let old = tables.set_page(&sim, page.start(), leaf, &mut spare, &mut gather).unwrap();
        sim.apply(&FlushRequest { cpus, scope: core::mem::take(&mut gather).scope });
        sim.access(0, page.start(), Access::USER_DATA).unwrap();
        old.is_some_and(|old| old.dirty)
    };
    assert!(!set(&mut tables));
    assert!(set(&mut tables), "what was written until then is told");
    let mut marked = Vec::new();
    tables.take_marks(&sim, page, Marks::DIRTY, &mut gather, |page, _| marked.push(page)).unwrap();
    assert_eq!(marked, [page], "what was written since");
}
