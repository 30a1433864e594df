//! `vmcore::vm_area`: every kind of area.

use vmcore::{
    Platform,
    addr::{Frame, FrameRange},
    paging::{Flush, MemoryType},
    vm_area::{Account, Area, AreaError, AreaKind, PageBuffer, RequestToken, Rights, SectionLayout},
};

use super::{debugged, displayed, hidden, shown};
use crate::platform::Probe;

pub(super) fn all() {
    one(AreaKind::Open { size: hidden(4096) });
    one(AreaKind::Untracked { size: hidden(4096) });
    one(AreaKind::Ring { size: hidden(4096) });
    one(AreaKind::Growing { limit: hidden(4096), gap: hidden(4096) });
    one(AreaKind::Paged { size: hidden(4096), key: hidden(1) });
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
        let Ok(flush) = made else { continue };
        let pin = flush.complete();
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
    paged(&area);
    match area.overlay(hidden(1), hidden(1)) {
        Ok(view) => debugged(&view),
        Err(error) => displayed(error),
    }
    shown(area.overlays());
}

/// What a pager calls.
fn paged(area: &Area<Probe>) {
    let mut bytes = hidden([0; 8]);
    shown(area.set_read_ahead(hidden(1)));
    shown(area.page_state(hidden(1)));
    match area.request(hidden(1), hidden(1)) {
        Ok(request) => debugged(request),
        Err(error) => displayed(error),
    }
    let token = RequestToken(hidden(1));
    shown(area.supply(token, hidden(1), &bytes));
    match PageBuffer::new(&Probe, hidden(1)) {
        Ok(mut pages) => {
            debugged(&pages);
            shown(pages.size());
            shown(pages.frames().last());
            shown(pages.write(hidden(1), &bytes));
            shown(area.supply_pages(token, hidden(1), pages));
        }
        Err(error) => displayed(error),
    }
    shown(area.fail(token, hidden(1), hidden(1)));
    shown(area.cancel(token, hidden(1), hidden(1)));
    shown(area.retry(hidden(1), hidden(1)));
    shown(area.next_dirty(hidden(1)));
    match area.begin_write_back(hidden(1), hidden(1)) {
        Ok(Some(flush)) => {
            let pages = flush.complete();
            debugged(&pages);
            shown(pages.offset());
            shown(pages.size());
            shown(pages.frames().last());
            shown(pages.read(hidden(1), &mut bytes));
            pages.written();
        }
        Ok(None) => {}
        Err(error) => displayed(error),
    }
    if let Ok(Some(flush)) = area.begin_write_back(hidden(1), hidden(1)) {
        finished(flush.map(|pages| pages.size()));
    }
    match area.evict(hidden(1), hidden(1)) {
        Ok(flush) => finished(flush),
        Err(error) => displayed(error),
    }
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
