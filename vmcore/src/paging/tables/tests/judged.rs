//! The operations with the simulated machine as the judge: CPUs that remember everything, and nothing flushed but what a change
//! said itself.

use proptest::test_runner::TestRunner;

use super::*;
use crate::frame::FrameRequest;
use crate::paging::{AArch64, Ept, FlushRequest, Granule4K, Half, Marks, RiscV64, X86Pae};
use crate::platform::{CpuMask, CpuSet};
use crate::sim::{Sim, SimFormat};

/// What is done, in which of the places, and to which pages of it.
type Operation = (u8, usize, usize, u64, u64);

/// Things are mapped at `starts`, of which the last is aligned otherwise, for accesses `data`.
fn judge<M: SimFormat>(mmu: M, starts: [u64; 3], data: Access, operations: Vec<Operation>) {
    let sim = Sim::of(mmu).frames(4096).cpus(2).build();
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
        let range = mmu.range((starts[place] + offset) << 12, length << 12).unwrap();
        let to = mmu.range((starts[other] + offset / 2) << 12, length << 12).unwrap();
        let (mut spare, mut gather) = (FrameList::new(), Gather::default());
        for _ in 0..24 {
            spare.push(&sim, allocate_one(&sim, FrameUse::Table, true).unwrap()).unwrap();
        }
        // Refusals are part of it: they change nothing, and so need no flush.
        let leaf = Leaf::new(first.add(offset.min(1024 - length))).access(data).used();
        let (s, g) = (&mut spare, &mut gather);
        let _ = match kind {
            0 | 1 => tables.map(&sim, range, leaf, 2, s),
            2 => tables.map_frames(&sim, range, (0..length).rev().map(|page| first.add(page)), leaf, s),
            3 => tables.move_range(&sim, range, to, s, g),
            4 => tables.set_memory_type(&sim, range, MemoryType::WriteCombining, s, g),
            5 => tables.take_marks(&sim, range, Marks::BOTH, g, |_, _| {}),
            6 => tables.write_protect(&sim, range, s, g).map(|_| ()),
            7 => tables.push_down(&sim, range.start()).map(|_| ()),
            8 => tables.promote(&sim, mmu.range(0, 1 << mmu.virtual_bits().min(40)).unwrap(), 2, g).map(|_| ()),
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
        for start in starts {
            for page in (0..1700).step_by(23) {
                sim.prefetch((page % 2) as usize, VirtAddr::new((start + page) << 12));
                let access = if page % 3 == 0 { data } else { data - Access::WRITE };
                let _ = sim.access((page % 2) as usize, VirtAddr::new((start + page) << 12), access);
            }
        }
    }
    sim.assert_no_violation();
}

/// Random operations, as many times as it takes to trust them.
fn check<M: SimFormat>(mmu: M, starts: [u64; 3], data: Access) {
    let operation = (0..10_u8, 0..3_usize, 0..3_usize, 0..1024_u64, 1..600_u64);
    TestRunner::new(ProptestConfig::with_cases(16))
        .run(&prop::collection::vec(operation, 1..24), |operations| {
            judge(mmu, starts, data, operations);
            Ok(())
        })
        .unwrap();
}

#[test]
fn no_change_leaves_a_stale_translation() {
    check(X86_64::new(40), [512, (1 << 18) + 512, (1 << 27) + 3], Access::USER_DATA);
}

#[test]
fn no_change_leaves_a_stale_translation_pae() {
    check(X86Pae::new(40), [512, (1 << 18) + 512, (1 << 19) + 3], Access::USER_DATA);
}

#[test]
fn no_change_leaves_a_stale_translation_ept() {
    check(Ept::new(40), [512, (1 << 18) + 512, (1 << 27) + 3], Access::KERNEL_DATA);
}

#[test]
fn no_change_leaves_a_stale_translation_sv48() {
    check(RiscV64::sv48(56).svpbmt(), [512, (1 << 18) + 512, (1 << 27) + 3], Access::USER_DATA);
}

#[test]
fn no_change_leaves_a_stale_translation_aarch64() {
    check(AArch64::<Granule4K>::bits_48(Half::Lower, 40), [512, (1 << 18) + 512, (1 << 27) + 3], Access::USER_DATA);
}
