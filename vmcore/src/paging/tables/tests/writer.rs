//! The writing cursor before the simulated machine: what it unlinks and what it writes again.

use super::*;
use crate::paging::{AArch64, FlushRequest, Granule4K, Half};
use crate::platform::{CpuMask, CpuSet};
use crate::sim::{Sim, SimFormat};

fn machine<M: SimFormat>(mmu: M) -> (Sim<M>, Tables<M>, FrameList, CpuMask) {
    let sim = Sim::of(mmu).frames(16).build();
    let root = sim.new_table();
    sim.load(0, root, TAG);
    let (mut spare, mut cpus) = (FrameList::new(), CpuMask::EMPTY);
    spare.fill_with_tables(&sim, 6).unwrap();
    cpus.insert(0);
    // SAFETY: a fresh, zeroed table.
    (sim.clone(), unsafe { Tables::new(mmu, root, TAG) }, spare, cpus)
}

/// Tables that never held a leaf are remembered all the same.
#[test]
fn leaving_an_empty_table_flushes_the_way_to_it() {
    let (sim, mut tables, mut spare, cpus) = machine(X86_64::new(40));
    let mut gather = Gather::default();
    let range = tables.mmu().range(0x4000_0000, 0x1000).unwrap();
    let mut writer = tables.writer(&sim, range, &mut gather).unwrap();
    while writer.level() > 0 {
        writer.enter(&mut spare).unwrap();
    }
    sim.prefetch(0, range.start());
    drop(writer);
    assert_eq!(gather.tables.len(), 3);
    sim.apply(&FlushRequest { cpus, scope: gather.scope });
    sim.check_translations();
    while let Some(table) = gather.tables.pop(&sim) {
        // SAFETY: unlinked and flushed: the judge sees to it.
        unsafe { free_one(&sim, table, FrameUse::Table) }.unwrap();
    }
    sim.assert_no_violation();
}

/// A leaf that was cleared, and a table that was left, are broken before their entries are made anew.
#[test]
fn what_was_made_absent_is_forgotten_before_it_is_written_again() {
    let (sim, mut tables, mut spare, cpus) = machine(AArch64::<Granule4K>::bits_39(Half::Lower, 40));
    let mut gather = Gather::default();
    let range = tables.mmu().range(0x4000_0000, 0x20_0000).unwrap();
    let [first, second] = [sim.new_page(), sim.new_page()].map(|page| leaf(page.number()).used());
    let look = || sim.access(0, range.start(), Access::READ | Access::USER);
    let mut writer = tables.writer(&sim, range, &mut gather).unwrap();
    for leaf in [first, second] {
        while writer.level() > 0 {
            writer.enter(&mut spare).unwrap();
        }
        assert_eq!(writer.set(leaf), Ok(None));
        assert_eq!(look().unwrap().frame(), leaf.frame);
        assert_eq!(writer.clear(), Ok(Some(leaf)));
        assert_eq!(writer.set(Leaf { frame: first.frame, ..leaf }), Ok(None));
        assert_eq!(look().unwrap().frame(), first.frame);
        writer.clear().unwrap();
        assert!(writer.leave());
    }
    drop(writer);
    sim.apply(&FlushRequest { cpus, scope: gather.scope });
    sim.check_translations();
    sim.assert_no_violation();
}
