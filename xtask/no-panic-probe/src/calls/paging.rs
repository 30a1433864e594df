//! `vmcore::paging`: entries, formats, tables and the scope of a flush.

use vmcore::{
    CpuMask, CpuSet as _,
    addr::{Frame, VirtAddr},
    frame::{FrameList, Frames},
    inspect::TableDump,
    paging::{
        AArch64, Access, DirtyBits, FlushScope, Gather, Granule4K, Groups, Half, Leaf, Marks, MemoryType, Mmu,
        PatLayout, Recursive, RiscV64, Tables, Tag, X86_64,
    },
};

use super::{debugged, displayed, hidden, shown};
use crate::platform::{Invalidating, Probe};

pub(super) fn all() {
    let mmu = hidden(X86_64::new(hidden(40)));
    let access = hidden(Access::USER_DATA);
    let memory = hidden(MemoryType::WriteCombining);
    displayed(access);
    displayed(memory);
    shown(memory.abbreviation());

    let leaf = Leaf::new(Frame::new(hidden(1)))
        .user()
        .writable()
        .executable()
        .access(access)
        .memory(memory)
        .global()
        .software(hidden(1))
        .used();
    debugged(leaf);
    shown(mmu.levels());
    shown(mmu.physical_bits());
    shown(mmu.memory_code(memory));
    shown(mmu.memory_type(hidden(1)));
    shown(mmu.level(hidden(1)));
    shown(mmu.page_shift());
    shown(mmu.virtual_bits());
    shown(mmu.tags());
    shown(mmu.is_canonical(VirtAddr::new(hidden(1))));
    if let Err(error) = mmu.encode_leaf(hidden(1), leaf) {
        displayed(error);
    }

    shown(mmu.decode(hidden(1), hidden(1)));
    shown(mmu.pat());
    if let Some(layout) = PatLayout::new(hidden([MemoryType::WriteBack; 8])) {
        shown(layout.types());
        shown(layout.to_msr());
        shown(X86_64::with_pat(hidden(40), layout));
    }
    shown(PatLayout::from_msr(hidden(1)));
    tables(leaf);

    if let Ok(range) = mmu.range(hidden(0), hidden(4096)) {
        let mut scope = hidden(FlushScope::new());
        scope.add(Tag(hidden(1)), range, hidden(true));
        scope.add_space(Tag(hidden(1)));
        scope.note_tables();
        scope.set_everything();
        scope.merge(&hidden(FlushScope::new()));
        shown(scope.is_empty());
        shown(scope.is_everything());
        shown(scope.globals());
        shown(scope.tables());
        shown(scope.shared_tables());
        shown(scope.widened(hidden(1), hidden(12)));
        for entry in scope.entries() {
            shown(entry);
        }
    }
}

fn tables(leaf: Leaf) {
    let mmu = hidden(X86_64::new(hidden(40)));
    // SAFETY: this program is linked to be looked at; it is not run with the expectation to work.
    let mut tables = hidden(unsafe { Tables::new(mmu, Frame::new(hidden(1)), Tag(hidden(1))) });
    let address = VirtAddr::new(hidden(1));
    let Ok(range) = mmu.range(hidden(0), hidden(4096)) else { return };
    let (mut spare, mut gather) = (hidden(FrameList::new()), hidden(Gather::default()));
    shown(tables.mmu());
    shown(tables.root());
    shown(tables.tag());
    let walk = tables.walk(&Probe, address);
    shown(walk.end());
    shown(walk.physical());
    shown(walk.access());
    for step in walk.steps() {
        shown(step);
    }
    displayed(walk);
    shown(tables.translate(&Probe, address));
    displayed(TableDump { tables: &tables, frames: &Probe, range });
    let mut runs = tables.runs(&Probe, range);
    for run in &mut runs {
        shown(run);
    }
    shown(runs.unreadable());
    shown(tables.tables_to_map(&Probe, range, hidden(None), hidden(1)));
    shown(tables.tables_to_map_at_most(range));
    shown(tables.tables_to_split(&Probe, range));
    if let Err(error) = tables.map(&Probe, range, leaf, hidden(1), &mut spare) {
        displayed(error);
    }
    shown(tables.set_page(&Probe, address, leaf, &mut spare, &mut gather));
    shown(tables.unmap_page(&Probe, address, &mut gather));
    shown(tables.fill(&Probe, range, &mut spare, |address| {
        shown(address);
        hidden(None)
    }));
    shown(tables.unmap(&Probe, range, &mut spare, &mut gather, |range, leaf| shown((range, leaf))));
    shown(tables.protect(&Probe, range, hidden(Access::READ), &mut spare, &mut gather));
    shown(tables.pin_root_slots(&Probe, range, &mut spare));
    tables.unpin_root_slots(&Probe, range, &mut gather);
    // SAFETY: as above.
    let other = hidden(unsafe { Tables::new(mmu, Frame::new(hidden(1)), Tag(hidden(1))) });
    shown(tables.share_root_slots(&Probe, &other, range));
    operations(mmu, &Probe, leaf);
    // Formats with groups, and with break-before-make that can be done or cannot.
    operations(RiscV64::sv48(hidden(56)).svpbmt().svnapot(), &Probe, leaf);
    let arm = AArch64::<Granule4K>::bits_48(hidden(Half::Lower), hidden(48)).hardware_dirty();
    operations(arm, &Probe, leaf);
    operations(arm, &Invalidating, leaf);
    let (mut spare, mut gather) = (hidden(FrameList::new()), hidden(Gather::default()));
    recursive(&mut tables, &other, &mut spare, &mut gather);
    // SAFETY: as above.
    if let Err((tables, error)) = unsafe { tables.free_root(&Probe) } {
        debugged(tables);
        displayed(error);
    }
}

/// The operations on ranges beyond map, unmap and protect, with dirty bits as hints and relied on, and groups or none.
fn operations<M: Mmu, F: Frames>(mmu: M, frames: &F, leaf: Leaf) {
    let mmu = hidden(mmu);
    let dirty_bits = hidden(DirtyBits::Relied);
    // SAFETY: as above.
    let mut tables =
        hidden(unsafe { Tables::new(mmu, Frame::new(hidden(1)), Tag(hidden(1))) }.with_dirty_bits(dirty_bits));
    tables = tables.with_groups(hidden(Groups::WhereAligned));
    shown(tables.groups());
    // SAFETY: as above.
    let mut other = hidden(unsafe { Tables::new(mmu, Frame::new(hidden(1)), Tag(hidden(1))) });
    let address = VirtAddr::new(hidden(1));
    let Ok(range) = mmu.range(hidden(0), hidden(4096)) else { return };
    let Ok(to) = mmu.range(hidden(4096), hidden(4096)) else { return };
    let (mut spare, mut gather) = (hidden(FrameList::new()), hidden(Gather::default()));
    let list = hidden([Frame::new(1); 4]);
    shown(tables.dirty_bits());
    if let Err(error) = tables.map_frames(frames, range, list, leaf, &mut spare) {
        displayed(error);
    }
    shown(tables.set_memory_type(frames, range, hidden(MemoryType::Uncached), &mut spare, &mut gather));
    shown(tables.query(frames, range));
    shown(tables.take_marks(frames, range, hidden(Marks::BOTH), &mut gather, |range, marks| shown((range, marks))));
    if let Err(error) = tables.map(frames, range, leaf, hidden(1), &mut spare) {
        displayed(error);
    }
    shown(tables.translate(frames, address));
    shown(tables.share_root_slots(frames, &other, range));
    shown(tables.find_gap(frames, range, hidden(1), hidden(1), hidden(1)));
    shown(tables.map_in_gap(frames, range, hidden(1), leaf, hidden(1), &mut spare));
    shown(tables.map_frames_in_gap(frames, range, hidden(1), list, leaf, &mut spare));
    shown(tables.tables_to_move(frames, range, to));
    shown(tables.move_range(frames, range, to, &mut spare, &mut gather));
    shown(tables.tables_to_duplicate(frames, range, hidden(Access::READ), &other));
    shown(tables.duplicate(frames, range, hidden(Access::READ), &mut other, &mut spare, |range, leaf| {
        shown((range, leaf));
    }));
    shown(tables.can_limit_writes(hidden(1)));
    shown(tables.write_protect(frames, range, &mut spare, &mut gather));
    shown(tables.push_down(frames, address));
    shown(tables.promote(frames, range, hidden(1), &mut gather));
    shown(tables.detach(frames, range, &mut gather));
    // SAFETY: as above.
    shown(unsafe { tables.adopt(frames, range) });
    shown(tables.drop_foreign(frames, range, &mut gather));
    shown(tables.unmap(frames, range, &mut spare, &mut gather, |range, leaf| shown((range, leaf))));
    shown(tables.protect(frames, range, hidden(Access::READ), &mut spare, &mut gather));
    shown(tables.set_page(frames, address, leaf, &mut spare, &mut gather));
    if let Ok(mut writer) = tables.writer(frames, range, &mut gather) {
        shown(writer.level());
        shown(writer.address());
        shown(writer.part());
        shown(writer.is_whole());
        shown(writer.entry());
        shown(writer.enter(&mut spare));
        shown(writer.set(leaf));
        shown(writer.clear());
        shown(writer.next());
        let entries = writer.entries();
        shown(entries.len());
        shown(entries.get(hidden(1)));
        shown(entries.word(hidden(1)));
        // SAFETY: as above.
        shown(unsafe { entries.atomics() });
        shown(writer.leave());
    }
}

/// The recursive self-map, and mounts.
fn recursive(tables: &mut Tables<X86_64>, other: &Tables<X86_64>, spare: &mut FrameList, gather: &mut Gather) {
    let address = VirtAddr::new(hidden(1));
    let Some(recursive) = Recursive::new(hidden(tables.mmu()), hidden(1)) else { return };
    shown(recursive.window());
    shown(recursive.entry_address(hidden(1), address));
    shown(recursive.entry_at(address));
    shown(tables.map_self(&Probe, hidden(1)));
    shown(tables.make_seen(&Probe, &recursive, address, spare));
    tables.unmap_self(&Probe, &recursive, gather);
    let mounting = tables.mounting(&Probe, hidden(CpuMask::EMPTY));
    debugged(&mounting);
    if let Ok(mount) = mounting.mount(hidden(1), other) {
        debugged(&mount);
        shown(mount.recursive());
    }
}
