//! `vmcore::frame` and what exists once.

use core::mem::MaybeUninit;

use vmcore::{
    Machine, Platform as _,
    addr::{Frame, FrameRange},
    frame::{FrameList, FrameMeta, FrameMetaTable, FrameRequest, FrameUse, Frames as _, OutOfFrames},
    paging::MemoryType,
    static_vec::StaticMemory,
};

use super::{debugged, displayed, hidden, shown};
use crate::platform::{Probe, region};

static LENT: StaticMemory<u8, 4096> = StaticMemory::new();

pub(super) fn all() {
    let frame = Frame::new(hidden(1));
    displayed(OutOfFrames { wanted: hidden(1) });
    let mut list = hidden(FrameList::new());
    shown(list.len());
    shown(list.is_empty());
    shown(list.fill_with_tables(&Probe, hidden(2)));
    // SAFETY: this program is linked to be looked at; it is not run with the expectation to work.
    shown(unsafe { list.free_tables(&Probe) });
    shown(list.pop(&Probe));

    let record = hidden(FrameMeta::new());
    shown(record.recorded_use());
    shown(record.count());
    shown(record.live_entries());
    let records = [record];
    let table = hidden(FrameMetaTable::new(frame, &records));
    shown(table.get(frame));
    shown(table.first());
    shown(table.len());
    shown(table.is_empty());

    let region = region();
    shown(region.available());
    shown(region.pointer(frame));
    shown(region.meta(frame));
    shown(region.used_for(hidden(FrameUse::Table)));
    if let Some(frame) = region.allocate(FrameRequest::one(hidden(FrameUse::Pool)).zeroed()) {
        // SAFETY: it was just allocated, and is used for nothing else.
        unsafe {
            let mut bytes = hidden([0; 8]);
            Probe.zero_frame(frame);
            shown(Probe.read_frame(frame, hidden(1), &mut bytes));
            shown(Probe.write_frame(frame, hidden(1), &bytes));
            region.free(frame, 1);
        }
    }
    shown(region.allocate(FrameRequest::run(hidden(FrameUse::Pool), hidden(3), hidden(1))));

    let machine: &Machine<Probe> = Probe.machine();
    shown(machine.mmu());
    shown(machine.counters());
    debugged(machine);
    if let Some(memory) = LENT.take() {
        let memory: &'static mut [MaybeUninit<u8>] = hidden(memory);
        shown(machine.lend(memory));
    }
    if let Some(range) = FrameRange::new(frame, hidden(1)) {
        if let Err(error) = machine.register(&Probe, range, hidden(MemoryType::WriteBack)) {
            displayed(error);
        }
        shown(machine.unregister(&Probe, range, hidden(MemoryType::WriteBack)));
    }
}
