//! The operations with the simulated machine as the judge: CPUs that remember everything, and nothing flushed but what a change
//! said itself.

use super::*;
use crate::frame::FrameRequest;
use crate::paging::{FlushRequest, Marks};
use crate::platform::{CpuMask, CpuSet};
use crate::sim::Sim;

/// Where things are mapped: the first pages of three places, the last of which is aligned otherwise.
const STARTS: [u64; 3] = [512, (1 << 18) + 512, (1 << 27) + 3];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn no_change_leaves_a_stale_translation(
        operations in prop::collection::vec((0..10_u8, 0..3_usize, 0..3_usize, 0..1024_u64, 1..600_u64), 1..24)
    ) {
        let sim = Sim::builder().frames(4096).cpus(2).build();
        let mmu = X86_64::new(40);
        let root = allocate_one(&sim, FrameUse::Table, true).unwrap();
        // SAFETY: a fresh, zeroed table.
        let mut tables = unsafe { Tables::new(mmu, root, TAG) };
        let first = sim.allocate_frames(FrameRequest::run(FrameUse::Page, 1024, 9)).unwrap();
        for page in 0..1024 {
            sim.frame_meta(first.add(page)).unwrap().begin(FrameUse::Page).unwrap();
        }
        let mut cpus = CpuMask::EMPTY;
        for cpu in 0..2 {
            sim.load(cpu, root, TAG);
            cpus.insert(cpu);
        }
        for (kind, place, other, offset, length) in operations {
            let range = mmu.range((STARTS[place] + offset) << 12, length << 12).unwrap();
            let to = mmu.range((STARTS[other] + offset / 2) << 12, length << 12).unwrap();
            let (mut spare, mut gather) = (FrameList::new(), Gather::default());
            for _ in 0..24 {
                spare.push(&sim, allocate_one(&sim, FrameUse::Table, true).unwrap()).unwrap();
            }
            // Refusals are part of it: they change nothing, and so need no flush.
            let leaf = Leaf::new(first.add(offset.min(1024 - length))).user().writable().used();
            let (s, g) = (&mut spare, &mut gather);
            let _ = match kind {
                0 | 1 => tables.map(&sim, range, leaf, 2, s),
                2 => tables.map_frames(&sim, range, (0..length).rev().map(|page| first.add(page)), leaf, s),
                3 => tables.move_range(&sim, range, to, s, g),
                4 => tables.set_memory_type(&sim, range, MemoryType::WriteCombining, s, g),
                5 => tables.take_marks(&sim, range, Marks::BOTH, g, |_, _| {}),
                6 => tables.write_protect(&sim, range, s, g).map(|_| ()),
                7 => tables.push_down(&sim, range.start()).map(|_| ()),
                8 => tables.promote(&sim, mmu.range(0, 1 << 40).unwrap(), 2, g).map(|_| ()),
                _ => tables.detach(&sim, range, g),
            };
            sim.apply(&FlushRequest { cpus, scope: gather.scope });
            sim.check_translations();
            for list in [&mut spare, &mut gather.tables] {
                while let Some(table) = list.pop(&sim) {
                    // SAFETY: unlinked, and flushed just now: the judge sees to it.
                    unsafe { free_one(&sim, table, FrameUse::Table) }.unwrap();
                }
            }
            for start in STARTS {
                for page in (0..1700).step_by(23) {
                    sim.prefetch((page % 2) as usize, VirtAddr::new((start + page) << 12));
                    let access = if page % 3 == 0 { Access::USER_DATA } else { Access::READ | Access::USER };
                    let _ = sim.access((page % 2) as usize, VirtAddr::new((start + page) << 12), access);
                }
            }
        }
        sim.assert_no_violation();
    }
}
