//! `vmcore::vm_space` and `vmcore::inspect`.

use vmcore::{
    Platform as _,
    addr::{Frame, VirtAddr},
    inspect::{AreaTree, Bytes, Explain, SpaceMap, SpaceTables, SpaceTablesIn, WhyAccess},
    paging::{Access, Mmu as _, Tables, Tag, X86_64},
    static_vec::StaticMemory,
    vm_area::{Area, AreaKind},
    vm_space::{
        Adoption, Advice, Destination, Fault, IndexNode, Inherit, MapRequest, PageState, Place, Space, SpaceLimits,
    },
};

use super::{areas::finished, debugged, displayed, hidden, shown};
use crate::platform::Probe;

static INDEX: StaticMemory<IndexNode, 4> = StaticMemory::new();

pub(super) fn all() {
    displayed(Bytes(hidden(1)));
    let Ok(upper) = Probe.machine().mmu().range(hidden(0), hidden(4096)) else { return };
    let kernel = match Space::kernel(&Probe, upper, hidden(INDEX.take()), ()) {
        Ok(kernel) => kernel,
        Err(error) => return displayed(error),
    };
    one(&kernel);
    match Space::user(&kernel, ()) {
        Ok(user) => {
            one(&user);
            super::posix::all(&user);
            match user.destroy() {
                Ok(flush) => finished(flush),
                Err((space, error)) => {
                    displayed(error);
                    drop(space);
                }
            }
        }
        Err(error) => displayed(error),
    }
}

fn one(space: &Space<Probe>) {
    let address = VirtAddr::new(hidden(1));
    debugged(space);
    shown(space.bounds());
    shown(space.data());
    shown(space.root());
    shown(space.tag());
    shown(space.generation());
    shown(space.activate(hidden(1)));
    // SAFETY: this program is linked to be looked at; it is not run with the expectation to work.
    unsafe { space.deactivate(hidden(1)) };
    let walk = space.walk(address);
    for step in walk.steps() {
        shown(step);
    }
    displayed(walk);
    displayed(SpaceMap(space));
    displayed(SpaceTables(space));
    displayed(Explain { space, address });
    displayed(WhyAccess { space, address, access: hidden(Access::WRITE | Access::USER) });
    if let Ok(range) = space.range(hidden(0x40_0000), hidden(0x1000)) {
        displayed(SpaceTablesIn { space, range });
    }
    shown(space.foresee(Fault::new(hidden(0x40_0000), hidden(Access::READ))));
    if let Some(area) = space.area_shown_at(address) {
        shown(area.id());
        displayed(AreaTree(&area));
    }
    shown(space.frame_at(address));
    if let Some(window) = space.window_after(address) {
        displayed(window);
    }
    space.set_limits(hidden(
        SpaceLimits::NONE.windows(hidden(1)).reserved(hidden(1)).resident_pages(hidden(1)).tables(hidden(1)),
    ));
    shown(space.limits());
    shown(space.counters());
    shown(space.forbid_write_execute());
    for window in space.windows() {
        shown(window);
    }

    shown(space.map_anonymous(hidden(4096), hidden(Place::FirstGap), hidden(Access::READ), hidden(Inherit::Copy), ()));
    if let Ok(area) = Area::new(&Probe, AreaKind::Open { size: hidden(4096) }, ()) {
        shown(space.map(&MapRequest::new(&area)));
        let request = MapRequest::new(&area)
            .at(hidden(1))
            .place(hidden(Place::FirstGap))
            .offset(hidden(1))
            .size(hidden(1))
            .access(hidden(Access::USER_DATA))
            .inherit(hidden(Inherit::Copy))
            .populated();
        match space.map(&hidden(request)) {
            Ok(range) => {
                shown(space.map(&MapRequest::new(&area).place(Place::GapWithin(range))));
                for place in
                    [Place::LastGap, Place::Near(hidden(1)), Place::Random { entropy: hidden(1), within: None }]
                {
                    shown(space.map(&MapRequest::new(&area).place(hidden(place)).aligned(hidden(21)).within(range)));
                }
                if let Ok(flush) = space.populate(range, hidden(Access::WRITE)) {
                    finished(flush);
                }
                let requests = [MapRequest::new(&area), MapRequest::new(&area).populated()];
                shown(space.map_many(hidden(&requests), hidden(&mut [range; 2])));
                shown(space.page_states(range, hidden(&mut [PageState::empty(); 2])));
                shown(space.page_sets(range));
                for advice in [Advice::Needed, Advice::NotNeeded, Advice::FreeLazily, Advice::Huge] {
                    match space.advise(range, hidden(advice)) {
                        Ok(flush) => finished(flush),
                        Err(error) => displayed(error),
                    }
                }
                match space.promote(range, hidden(1)) {
                    Ok(flush) => shown(flush.complete()),
                    Err(error) => displayed(error),
                }
                for destination in [Destination::InPlace, Destination::Anywhere, Destination::To(Place::FirstGap)] {
                    match space.relocate(range, hidden(1), hidden(destination)) {
                        Ok(flush) => shown(flush.complete()),
                        Err(error) => displayed(error),
                    }
                }
                if let Ok(flush) = space.reclaim(range, hidden(1)) {
                    shown(flush.complete());
                }
                match space.relocate_leaving(range, hidden(Place::FirstGap)) {
                    Ok(flush) => shown(flush.complete()),
                    Err(error) => displayed(error),
                }
                match space.install_guards(range) {
                    Ok(flush) => finished(flush),
                    Err(error) => displayed(error),
                }
                shown(space.remove_guards(range));
                if let Ok(flush) = space.lock_pages(range) {
                    finished(flush);
                }
                shown(space.unlock_pages(range));
                shown(space.seal(range));
                shown(space.protect_completed(range, hidden(Access::READ)));
                shown(space.relocate_completed(range, hidden(4096), hidden(Destination::Anywhere)));
                shown(space.unmap_completed(range));
                match space.protect(range, hidden(Access::READ)) {
                    Ok(flush) => finished(flush),
                    Err(error) => displayed(error),
                }
                if let Ok(flush) = space.unmap(range) {
                    finished(flush);
                }
            }
            Err(error) => displayed(error),
        }
    }
    match space.try_clone(()) {
        Ok(flush) => finished(flush),
        Err(error) => displayed(error),
    }
    match space.fault(Fault::new(hidden(1), hidden(Access::WRITE)).present(hidden(false))) {
        Ok(flush) => finished(flush),
        Err(error) => displayed(error),
    }
    shown(space.read_bytes(address, hidden(&mut [0; 8])));
    match space.write_bytes(address, hidden(&[0; 8])) {
        Ok(flush) => finished(flush),
        Err(error) => displayed(error),
    }
    shown(space.place_at(hidden(address)));
    match space.word_at(hidden(address)) {
        Ok(word) => {
            shown(word);
        }
        Err(error) => displayed(error),
    }
    if let Ok(flush) = space.copy_from(address, space, hidden(address), hidden(1)) {
        finished(flush);
    }
    match space.range(hidden(1), hidden(1)) {
        Ok(range) => {
            if let Ok(flush) = space.unmap(range) {
                finished(flush);
            }
            // SAFETY: this program is linked to be looked at; it is not run with the expectation to work.
            shown(unsafe { space.adopt_foreign(Frame::new(hidden(1)), range) });
            let decide = |pages, leaf| {
                shown((pages, leaf));
                hidden(Adoption::WindowFor(hidden(Access::READ), ()))
            };
            // SAFETY: as above.
            let loader = hidden(unsafe { Tables::new(X86_64::new(hidden(40)), Frame::new(hidden(1)), Tag(hidden(1))) });
            // SAFETY: as above.
            match unsafe { space.adopt_runs(&loader, range, decide) } {
                Ok(windows) => shown(windows),
                Err(error) => displayed(error),
            }
        }
        Err(error) => displayed(error),
    }
}
