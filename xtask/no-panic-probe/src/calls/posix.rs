//! `vmcore::posix`.

use vmcore::{
    paging::Access,
    posix::{Advice, Backing, MapFlags, Memory, Protection, RemapFlags, SyncFlags},
    vm_area::{Area, AreaKind},
    vm_space::{Fault, Space},
};

use super::{areas::finished, debugged, displayed, hidden, shown};
use crate::platform::Probe;

pub(super) fn all(space: &Space<Probe>) {
    let mut memory = Memory::new(&Probe, ());
    let protection = Protection::from_bits_truncate(hidden(1));
    let flags = MapFlags::from_bits_truncate(hidden(1));
    let Ok(area) = Area::new(&Probe, AreaKind::Paged { size: hidden(1), key: hidden(1) }, ()) else { return };
    for backing in [Backing::Anonymous, Backing::Area { area: &area, offset: hidden(1) }] {
        match memory.mmap(space, hidden(1), hidden(1), protection, flags, hidden(backing)) {
            Ok(address) => shown(address),
            Err(error) => displayed(error),
        }
    }
    memory.place_within(hidden(space.bounds()));
    memory.set_heap(hidden(1));
    shown(memory.brk(space, hidden(1)));
    shown(memory.munmap(space, hidden(1), hidden(1)));
    shown(memory.mprotect(space, hidden(1), hidden(1), protection));
    shown(memory.mseal(space, hidden(1), hidden(1)));
    let remap = RemapFlags::from_bits_truncate(hidden(1));
    shown(memory.mremap(space, hidden(1), hidden(1), hidden(1), remap, hidden(1)));
    if let Some(advice) = Advice::from_number(hidden(1)) {
        shown(memory.madvise(space, hidden(1), hidden(1), advice));
    }
    shown(memory.mlock(space, hidden(1), hidden(1)));
    shown(memory.munlock(space, hidden(1), hidden(1)));
    shown(memory.mlockall(space, hidden(true), hidden(true)));
    shown(memory.munlockall(space));
    let mut bytes = [hidden(1); 8];
    shown(memory.mincore(space, hidden(1), hidden(1), &mut bytes));
    shown(memory.msync(space, hidden(1), hidden(1), SyncFlags::from_bits_truncate(hidden(1))));
    shown(memory.copy_in(space, hidden(1), &mut bytes));
    shown(memory.copy_out(space, hidden(1), &bytes));
    if let Err(error) = space.fault(Fault::new(hidden(1), hidden(Access::READ))) {
        shown(memory.signal(space, Fault::new(hidden(1), hidden(Access::READ)), error));
    }
    for region in memory.regions() {
        shown(region);
    }
    debugged(&memory);
    if let Ok((child, inherited)) = memory.fork(space, ()) {
        debugged(inherited);
        if let Ok(flush) = child.destroy() {
            finished(flush);
        }
    }
    if let Ok(range) = space.range(hidden(1), hidden(1)) {
        shown(space.unmap_and_release(range).map(finished));
        shown(space.install_guards_and_release(range).map(finished));
        shown(space.keep_from_clones(range, hidden(true)));
        shown(space.wipe_in_clones(range, hidden(true)));
    }
}
