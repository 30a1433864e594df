//! `vmcore::addr` and the set of CPUs.

use vmcore::{
    CpuMask, CpuSet as _,
    addr::{Frame, FrameRange, PhysAddr, VirtAddr},
    paging::{Mmu as _, X86_64},
};

use super::{debugged, displayed, hidden, shown};

pub(super) fn all() {
    let (number, shift) = (hidden(1_u64), hidden(1_u32));

    let address = VirtAddr::new(number);
    shown(address.as_u64());
    shown(address.checked_add(hidden(1)));
    shown(address.checked_offset_from(VirtAddr::new(hidden(1))));
    shown(address.align_down(shift));
    shown(address.is_aligned(shift));
    displayed(address);
    debugged(address);
    let physical = PhysAddr::new(number);
    shown(physical.as_u64());
    shown(physical.checked_add(hidden(1)));
    shown(physical.checked_offset_from(PhysAddr::new(hidden(1))));
    shown(physical.align_down(shift));
    shown(physical.is_aligned(shift));
    displayed(physical);
    debugged(physical);

    let frame = Frame::containing(physical, shift);
    shown(Frame::new(number).number());
    shown(frame.start(shift));
    shown(frame.add(hidden(1)));
    debugged(frame);
    if let (Some(range), Some(other)) = (FrameRange::new(frame, number), FrameRange::new(frame, hidden(2))) {
        shown(range.first());
        shown(range.count());
        shown(range.contains(frame));
        shown(range.overlaps(other));
        debugged(range);
    }

    let mmu = hidden(X86_64::new(hidden(40)));
    match (mmu.range(number, hidden(1)), mmu.range(hidden(3), hidden(4))) {
        (Ok(range), Ok(other)) => {
            shown(range.start());
            shown(range.size());
            shown(range.last());
            shown(range.pages(shift));
            shown(range.contains(address));
            shown(range.covers(other));
            shown(range.overlaps(other));
            shown(range.intersection(other));
            shown(range.before(other));
            shown(range.after(other));
            displayed(range);
            debugged(range);
        }
        (Err(error), _) | (_, Err(error)) => displayed(error),
    }

    let mut cpus = hidden(CpuMask::<2>::EMPTY);
    cpus.insert(hidden(1));
    cpus.remove(hidden(2));
    shown(cpus.contains(hidden(3)));
    shown(cpus.is_empty());
    cpus.union_with(&hidden(CpuMask::EMPTY));
    debugged(cpus);
}
