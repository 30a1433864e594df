//! `vmcore::vm_area`: every kind of area.

use vmcore::{
    Platform,
    addr::{Frame, FrameRange},
    paging::{Flush, MemoryType},
    vm_area::{Account, Area, AreaError, AreaKind, Rights, SectionLayout},
};

use super::{debugged, displayed, hidden, shown};
use crate::platform::Probe;

pub(super) fn all() {
    one(AreaKind::Open { size: hidden(4096) });
    one(AreaKind::Untracked { size: hidden(4096) });
    one(AreaKind::Ring { size: hidden(4096) });
    one(AreaKind::Growing { limit: hidden(4096), gap: hidden(4096) });
    one(AreaKind::Guarded(SectionLayout { pages: hidden(1), guard: hidden(1), count: hidden(1) }));
    if let Some(frames) = FrameRange::new(Frame::new(hidden(1)), hidden(1)) {
        // SAFETY: this program is linked to be looked at; it is not run with the expectation to work.
        with(unsafe { Area::fixed(&Probe, frames, hidden(MemoryType::WriteCombining), ()) });
    }
}

fn one(kind: AreaKind) {
    shown(kind.name());
    with(Area::new(&Probe, kind, ()));
}

fn account(area: &Area<Probe>) {
    let Ok(account) = Account::new(&Probe, hidden(1)) else { return };
    debugged(&account);
    account.set_limit(hidden(2));
    shown((account.limit(), account.charged()));
    shown(area.charge_to(&account));
    shown(account.handle());
}

fn with(made: Result<Area<Probe>, AreaError>) {
    let area = match made {
        Ok(area) => area,
        Err(error) => return displayed(error),
    };
    debugged(&area);
    account(&area);
    shown(area.rights());
    shown(area.kind());
    shown(area.data());
    shown(area.size());
    shown(area.resident_pages());
    shown(area.windows());
    shown(area.frame_at(hidden(1)));
    shown(area.memory());
    match area.set_memory(hidden(MemoryType::WriteCombining)) {
        Ok(flush) => finished(flush),
        Err(error) => displayed(error),
    }
    shown(area.handle(hidden(Rights::empty())));
    if let Ok(flush) = area.resize(hidden(4096)) {
        finished(flush.map(hidden));
    }
    if let (Ok(one), Ok(other)) = (area.resize(hidden(4096)), area.resize(hidden(4096))) {
        finished(one.and(other));
    }
    match area.take_section() {
        Ok(section) => {
            if let Ok(flush) = area.give_section(section.number) {
                finished(flush);
            }
        }
        Err(error) => displayed(error),
    }
    for made in [area.pin(hidden(1), hidden(1)), area.allocate(hidden(4096), hidden(4096), hidden(0))] {
        let Ok(pin) = made else { continue };
        debugged(&pin);
        shown((pin.offset(), pin.size(), area.pinned_pages()));
        for run in pin.runs() {
            shown(run);
        }
    }
    let mut bytes = hidden([0; 8]);
    match area.write(hidden(1), &bytes) {
        Ok(flush) => finished(flush),
        Err(error) => displayed(error),
    }
    if let Ok(flush) = area.snapshot() {
        finished(flush);
    }
    shown(area.read(hidden(1), &mut bytes));
}

/// Every way in which a flush comes to its end.
pub(super) fn finished<P: Platform, T>(flush: Flush<P, T>) {
    debugged(&flush);
    shown(flush.request());
    shown(flush.is_empty());
    match hidden(0) {
        0 => shown(flush.complete()),
        1 => {
            let detached = flush.detach();
            debugged(&detached);
            shown(detached.request());
            // SAFETY: there is no TLB that could be stale.
            shown(unsafe { detached.acknowledged() });
        }
        2 => shown(flush.detach()),
        _ => drop(flush),
    }
}
