//! Dumps of three formats, word for word, and what a dump says of tables that are not as they should be.

use alloc::string::{String, ToString};

use super::*;
use crate::addr::Frame;
use crate::frame::FrameList;
use crate::paging::{AArch64, Access, Granule4K, Half, Leaf, MemoryType, RiscV64, Tag, X86_64};
use crate::sim::{Sim, SimFormat};

struct World<M: SimFormat> {
    sim: Sim<M>,
    tables: Tables<M>,
}

impl<M: SimFormat> World<M> {
    fn new(mmu: M) -> Self {
        let sim = Sim::of(mmu).frames(64).first_frame(0x100).build();
        // SAFETY: a fresh, zeroed table, used here alone.
        let tables = unsafe { Tables::new(mmu, sim.new_table(), Tag(1)) };
        Self { sim, tables }
    }

    /// Maps `size` bytes from `start`, with leaves of up to `level`.
    fn map(&mut self, start: u64, size: u64, leaf: Leaf, level: usize) {
        let range = self.tables.mmu().range(start, size).unwrap();
        let mut spare = FrameList::new();
        spare.fill_with_tables(&self.sim, 8).unwrap();
        self.tables.map(&self.sim, range, leaf, level, &mut spare).unwrap();
    }

    fn dump(&self, start: u64, size: u64) -> String {
        let range = self.tables.mmu().range(start, size).unwrap();
        TableDump { tables: &self.tables, frames: &self.sim, range }.to_string()
    }
}

#[test]
fn a_dump_of_x86_64() {
    let mut world = World::new(X86_64::new(40));
    let data = Leaf::new(Frame::new(0x2_0006)).access(Access::USER_DATA);
    world.map(0x40_0000, 0x6000, Leaf::new(Frame::new(0x2_0000)).access(Access::USER_CODE), 0);
    world.map(0x40_6000, 0x1000, data.used(), 0);
    world.map(0x40_7000, 0x1000, Leaf { frame: Frame::new(0x2_0007), ..data }, 0);
    world.map(0x40_8000, 0x1000, data.software(5).key(3), 0);
    // A gap of 1 GiB, then frames that carry on over leaves of two sizes.
    world.map(0x8000_0000, 0x4060_0000, Leaf::new(Frame::new(0x4_0000)).writable().global(), 2);
    let combining = Leaf::new(Frame::new(0xf_d000)).writable().memory(MemoryType::WriteCombining);
    world.map(0xffff_8000_fd00_0000, 0x20_3000, combining, 1);
    assert_eq!(
        world.dump(0, 1 << 47),
        "\
0x0000000000400000-0x0000000000405fff -> 0x000020000000 r-xu WB          6 x   4 KiB
0x0000000000406000-0x0000000000407fff -> 0x000020006000 rw-u WB          2 x   4 KiB accessed dirty
0x0000000000408000-0x0000000000408fff -> 0x000020006000 rw-u WB          1 x   4 KiB software 0x5 key 3
0x0000000080000000-0x00000000bfffffff -> 0x000040000000 rw-- WB          1 x   1 GiB global
0x00000000c0000000-0x00000000c05fffff -> 0x000080000000 rw-- WB          3 x   2 MiB global
5 runs, 1054756 KiB mapped, x86-64"
    );
    // Parts of leaves.
    assert_eq!(
        world.dump(0x40_7000, 0x8000_1000),
        "\
0x0000000000407000-0x0000000000407fff -> 0x000020007000 rw-u WB          1 x   4 KiB
0x0000000000408000-0x0000000000408fff -> 0x000020006000 rw-u WB          1 x   4 KiB software 0x5 key 3
0x0000000080000000-0x0000000080407fff -> 0x000040000000 rw-- WB    part of     1 GiB global
3 runs, 4136 KiB mapped, x86-64"
    );
    assert_eq!(
        world.dump(0xffff_8000_0000_0000, 1 << 47),
        "\
0xffff8000fd000000-0xffff8000fd1fffff -> 0x0000fd000000 rw-- WC          1 x   2 MiB
0xffff8000fd200000-0xffff8000fd202fff -> 0x0000fd200000 rw-- WC          3 x   4 KiB
2 runs, 2060 KiB mapped, x86-64"
    );
}

#[test]
fn a_dump_of_arm() {
    let mut world = World::new(AArch64::<Granule4K>::bits_48(Half::Upper, 48));
    let registers = Leaf::new(Frame::new(0x900_0000 >> 12)).writable().memory(MemoryType::DeviceEarly).used();
    world.map(0xffff_0000_0900_0000, 0x20_3000, registers.global(), 1);
    world.map(0xffff_ffff_ffff_f000, 0x1000, Leaf::new(Frame::new(0xff_ffff_f000 >> 12)).executable(), 1);
    assert_eq!(
        world.dump(0xffff_0000_0000_0000, 1 << 48),
        "\
0xffff000009000000-0xffff0000091fffff -> 0x000009000000 rw-- nGnRE       1 x   2 MiB global accessed dirty
0xffff000009200000-0xffff000009202fff -> 0x000009200000 rw-- nGnRE       3 x   4 KiB global accessed dirty
0xfffffffffffff000-0xffffffffffffffff -> 0x00fffffff000 r-x- WB          1 x   4 KiB
3 runs, 2064 KiB mapped, AArch64, 4 KiB"
    );
}

#[test]
fn a_dump_of_sv39() {
    let mut world = World::new(RiscV64::sv39(56).svpbmt());
    world.map(0x1000, 0x2000, Leaf::new(Frame::new(0x8_0000)).access(Access::EXECUTE | Access::USER).used(), 0);
    world.map(0x4000_0000, 0x8000_0000, Leaf::new(Frame::new(0)).writable().memory(MemoryType::Device), 2);
    assert_eq!(
        world.dump(0, 1 << 38),
        "\
0x0000000000001000-0x0000000000002fff -> 0x000080000000 --xu WB          2 x   4 KiB accessed
0x0000000040000000-0x00000000bfffffff -> 0x000000000000 rw-- DEV         2 x   1 GiB
2 runs, 2097160 KiB mapped, RISC-V, Sv39 to Sv57"
    );
}

/// A table that limits what the leaves below it allow, and a malformed entry.
#[test]
fn a_dump_trusts_nothing() {
    let mut world = World::new(X86_64::new(40));
    world.map(0x40_0000, 0x3000, Leaf::new(Frame::new(0x2_0000)).access(Access::USER_DATA), 0);
    let mut steps = [Frame::new(0); 4];
    let walk = world.tables.walk(&world.sim, VirtAddr::new(0x40_0000));
    for step in walk.steps() {
        steps[step.level] = step.table;
    }
    let [pt, pd, ..] = steps;
    let word = |frame, index| world.sim.physical_word(frame, index).unwrap();
    world.sim.set_physical_word(pt, 1, word(pt, 1) | 1 << 50);
    world.sim.set_physical_word(pd, 2, word(pd, 2) & !2);
    assert_eq!(
        world.dump(0, 1 << 47),
        "\
0x0000000000400000-0x0000000000400fff -> 0x000020000000 r--u WB          1 x   4 KiB
0x0000000000401000-0x0000000000401fff malformed: 0x8004000020001007 in PT
0x0000000000402000-0x0000000000402fff -> 0x000020002000 r--u WB          1 x   4 KiB
3 runs, 8 KiB mapped, x86-64"
    );
}

#[test]
fn an_empty_dump() {
    assert_eq!(World::new(X86_64::new(40)).dump(0, 1 << 47), "0 runs, 0 B mapped, x86-64");
}

/// A dump has every page that the runs have, each in one line only.
#[test]
fn a_dump_is_what_the_runs_are() {
    let mut world = World::new(X86_64::new(40));
    let leaf = Leaf::new(Frame::new(0x2_01ff)).writable();
    world.map(0x1f_f000, 0x40_2000, leaf, 1);
    let range = world.tables.mmu().range(0, 1 << 47).unwrap();
    assert_eq!(world.tables.runs(&world.sim, range).count(), 1);
    let (mut rest, mut lines, mut bytes) = (Some(range), 0, 0);
    while let Some(run) = rest.and_then(|rest| world.tables.first_table_run(&world.sim, rest)) {
        (rest, lines, bytes) = (after(range, run.pages.last()), lines + 1, bytes + run.pages.size());
    }
    assert_eq!((lines, bytes), (3, 0x40_2000), "base pages, large ones, base pages");
}
