//! What is foreseen of a fault, beside what the fault then comes to: random windows onto areas of every kind, protected, guarded, cloned and cut.

mod common;

use common::{PAGE, World, at};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use vmcore::addr::{Frame, FrameRange};
use vmcore::inspect::WhyAccess;
use vmcore::paging::{Access, MemoryType, WalkEnd};
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaKind, SectionLayout};
use vmcore::vm_space::{Fault, Foreseen, Inherit, MapRequest, Resolution, Space, SpaceError};

const BASE: u64 = 0x40_0000;
const PAGES: u64 = 48;
const AREA: u64 = 8;

#[derive(Clone, Debug)]
enum Step {
    /// A new area of a kind, from a page on, with an access and an inheritance.
    Map(u8, u64, u8, u8),
    /// An older area once more.
    Again(usize, u64),
    Unmap(u64, u64),
    Protect(u64, u64, u8),
    Guard(u64, u64),
    Resize(usize, u64),
    /// Goes on in a clone, or (if it is odd) goes on here with the clone alive.
    Clone(u8),
    /// Answers what a pager was asked for, or fails it.
    Answer(bool),
    Touch(u64, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let page = || 0..PAGES;
    prop::collection::vec(
        prop_oneof![
            4 => (0_u8..7, page(), any::<u8>(), 0_u8..3).prop_map(|(kind, page, access, inherit)| Step::Map(kind, page, access, inherit)),
            1 => (any::<usize>(), page()).prop_map(|(area, page)| Step::Again(area, page)),
            1 => (page(), 1_u64..6).prop_map(|(page, count)| Step::Unmap(page, count)),
            2 => (page(), 1_u64..6, any::<u8>()).prop_map(|(page, count, access)| Step::Protect(page, count, access)),
            1 => (page(), 1_u64..3).prop_map(|(page, count)| Step::Guard(page, count)),
            1 => (any::<usize>(), 1..AREA).prop_map(|(area, pages)| Step::Resize(area, pages)),
            1 => any::<u8>().prop_map(Step::Clone),
            1 => any::<bool>().prop_map(Step::Answer),
            16 => (page(), any::<u8>()).prop_map(|(page, access)| Step::Touch(page, access)),
        ],
        1..60,
    )
}

fn access(bits: u8) -> Access {
    match bits % 3 {
        0 => Access::READ,
        1 => Access::USER_DATA,
        _ => Access::USER_CODE,
    }
}

fn attempt(bits: u8) -> Access {
    let one = match bits % 3 {
        0 => Access::READ,
        1 => Access::WRITE,
        _ => Access::EXECUTE,
    };
    if bits & 4 == 0 { one } else { one | Access::USER }
}

fn made(world: &World, kind: u8) -> Area<Sim> {
    let sim = &world.sim;
    let size = AREA * PAGE;
    let kind = match kind {
        0 | 1 => AreaKind::Open { size },
        2 => AreaKind::Guarded(SectionLayout { pages: 2, guard: 1, count: 3 }),
        3 => AreaKind::Growing { limit: size, gap: PAGE },
        4 => AreaKind::Untracked { size },
        5 => AreaKind::Paged { size, key: 7 },
        _ => {
            let frames = FrameRange::new(Frame::new(0x8_0000), AREA).unwrap();
            AreaKind::Fixed { frames, memory: MemoryType::Uncached }
        }
    };
    let area = common::area(sim, kind).unwrap();
    if let AreaKind::Guarded(_) = kind {
        area.take_section().unwrap();
    }
    area
}

fn shown(space: &Space<Sim>, address: u64) -> Option<(Frame, Access)> {
    match space.walk(at(address)).end() {
        WalkEnd::Mapped { leaf, access, pages, .. } => {
            let skipped = (address - pages.start().as_u64()) / PAGE;
            Some((leaf.frame.add(skipped), access))
        }
        _ => None,
    }
}

/// Foresees a fault, brings it about, and compares.
fn compare(space: &Space<Sim>, address: u64, wanted: Access) -> Result<Option<Resolution>, TestCaseError> {
    let fault = Fault::new(address, wanted);
    let before = (space.frame_at(at(address)), shown(space, address));
    let windows: Vec<_> = space.windows().collect();
    let foreseen = space.foresee(fault);
    let why = WhyAccess { space, address: at(address), access: wanted }.to_string();
    prop_assert_eq!(&windows, &space.windows().collect::<Vec<_>>(), "looking changes nothing");
    prop_assert_eq!(before, (space.frame_at(at(address)), shown(space, address)), "looking changes nothing");
    let outcome = space.fault(fault).map(|flush| flush.complete());
    let (now, after) = (space.frame_at(at(address)), shown(space, address));
    let is = |frame| after.is_some_and(|(shown, access)| shown == frame && access.contains(wanted - Access::USER));
    let last = why.lines().last().unwrap_or_default();
    match (foreseen, outcome) {
        (Err(one), Err(other)) => {
            prop_assert_eq!(one, other);
            let word = if matches!(one, SpaceError::Retry(_)) { "waits: " } else { "refused: " };
            prop_assert!(last.starts_with(word), "{}", why);
            return Ok(None);
        }
        (Ok(Foreseen::Awaited), Ok(Resolution::Request(_) | Resolution::Wait(_))) => {
            prop_assert!(last.starts_with("waits: "), "{}", why);
            return outcome.map(Some).map_err(|error| TestCaseError::fail(error.to_string()));
        }
        (Ok(Foreseen::Allowed), Ok(Resolution::Spurious)) => prop_assert_eq!(before.1, after),
        (Ok(Foreseen::Shown(frame)), Ok(Resolution::Mapped)) => prop_assert!(is(frame)),
        // Where others saw what was there before, they forget it first, and the access faults once more.
        (Ok(Foreseen::Copied(frame)), Ok(Resolution::Mapped)) => {
            // A window that had to grow showed nothing there before.
            let grew = !windows.iter().any(|window| window.range.contains(at(address)));
            prop_assert_eq!(before.0, (!grew).then_some(frame));
            prop_assert!(now.is_some_and(|now| now != frame));
            prop_assert!(after.is_none() || after.map(|(frame, _)| frame) == now);
        }
        (Ok(Foreseen::Made), Ok(Resolution::Mapped)) => {
            prop_assert!(before.0.is_none() && now.is_some());
            prop_assert!(after.is_none() || after.map(|(frame, _)| frame) == now);
        }
        (Ok(Foreseen::Zero), Ok(Resolution::Mapped)) => {
            prop_assert!(before.0.is_none() && after.is_some() && now.is_none());
        }
        (foreseen, outcome) => prop_assert!(false, "foreseen {foreseen:?}, and it came to {outcome:?}"),
    }
    prop_assert!(last.starts_with("succeeds: "), "{}", why);
    Ok(None)
}

fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let world = World::new(1);
    let mut space = world.user();
    world.enter(0, &space);
    let mut others = Vec::new();
    let mut areas: Vec<Area<Sim>> = Vec::new();
    let mut request = None;
    let place = |page: u64| BASE + page * PAGE;
    for step in steps {
        // What is refused is no concern of this test.
        match step {
            Step::Map(kind, page, bits, inherit) => {
                let area = made(&world, kind);
                let inherit = [Inherit::Nothing, Inherit::Share, Inherit::Copy][usize::from(inherit)];
                let offset = if kind == 3 { (AREA - 1) * PAGE } else { 0 };
                let new = MapRequest::new(&area).at(place(page)).offset(offset).access(access(bits)).inherit(inherit);
                if space.map(&new).is_ok() {
                    areas.push(area);
                }
            }
            Step::Again(area, page) => {
                if let Some(area) = areas.get(area % areas.len().max(1)) {
                    let _ = space.map(&MapRequest::new(area).at(place(page)).access(Access::USER_DATA));
                }
            }
            Step::Unmap(page, count) => {
                let _ = space.unmap(space.range(place(page), count * PAGE).unwrap()).map(|flush| flush.complete());
            }
            Step::Protect(page, count, bits) => {
                let range = space.range(place(page), count * PAGE).unwrap();
                let _ = space.protect(range, access(bits)).map(|flush| flush.complete());
            }
            Step::Guard(page, count) => {
                let range = space.range(place(page), count * PAGE).unwrap();
                let _ = space.install_guards(range).map(|flush| flush.complete());
            }
            Step::Resize(area, pages) => {
                if let Some(area) = areas.get(area % areas.len().max(1)) {
                    let _ = area.resize(pages * PAGE).map(|flush| flush.complete());
                }
            }
            Step::Clone(which) => {
                if others.len() < 3 {
                    if let Ok(clone) = space.try_clone(()).map(|flush| flush.complete()) {
                        let mut clone = clone;
                        if which % 2 == 0 {
                            world.leave(0, &space);
                            std::mem::swap(&mut space, &mut clone);
                            world.enter(0, &space);
                        }
                        others.push(clone);
                    }
                }
            }
            Step::Answer(well) => {
                if let Some(vmcore::vm_area::PageRequest { token, offset, size, .. }) = request.take() {
                    for area in areas.iter().filter(|area| matches!(area.kind(), AreaKind::Paged { .. })) {
                        if well {
                            let _ = area.supply(token, offset, &vec![7; size as usize]);
                        } else {
                            let _ = area.fail(token, offset, size);
                        }
                    }
                }
            }
            Step::Touch(page, bits) => {
                if let Some(Resolution::Request(asked)) = compare(&space, place(page) + 8, attempt(bits))? {
                    request = Some(asked);
                }
            }
        }
    }
    world.leave(0, &space);
    drop((space, others, areas));
    world.finish();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, rng_seed: RngSeed::Fixed(2000), ..ProptestConfig::default() })]
    #[test]
    fn a_fault_comes_to_what_was_foreseen(steps in steps()) {
        run(steps)?;
    }
}

/// Each way in which a fault can be answered comes up, so that the comparison compares something.
#[test]
fn each_answer_comes_up() {
    let world = World::new(1);
    let space = world.user();
    let area = world.open(8);
    let foreseen = |address, wanted| space.foresee(Fault::new(address, wanted));
    space.map(&MapRequest::new(&area).at(BASE).access(Access::USER_DATA).inherit(Inherit::Copy)).unwrap();
    assert_eq!(foreseen(BASE, Access::READ), Ok(Foreseen::Zero));
    assert_eq!(foreseen(BASE, Access::WRITE), Ok(Foreseen::Made));
    assert_eq!(compare(&space, BASE, Access::WRITE).unwrap(), None);
    assert_eq!(foreseen(BASE, Access::WRITE), Ok(Foreseen::Allowed));
    let frame = space.frame_at(at(BASE)).unwrap();
    let clone = space.try_clone(()).unwrap().complete();
    assert_eq!(foreseen(BASE, Access::WRITE), Ok(Foreseen::Copied(frame)));
    assert_eq!(clone.foresee(Fault::new(BASE, Access::READ)), Ok(Foreseen::Shown(frame)));
    let paged = Area::new(&world.sim, AreaKind::Paged { size: PAGE, key: 1 }, 0).unwrap();
    space.map(&MapRequest::new(&paged).at(2 * BASE).access(Access::USER_DATA)).unwrap();
    assert_eq!(foreseen(2 * BASE, Access::READ), Ok(Foreseen::Awaited));
    // The area at an address is known, without any right.
    let seen = space.area_shown_at(at(BASE)).unwrap();
    assert!(seen.id() != paged.id() && seen.rights().is_empty() && space.area_shown_at(at(8)).is_none());
    assert_eq!(space.area_shown_at(at(2 * BASE)).unwrap().id(), paged.id());
    drop((seen, clone, space, area, paged));
    world.finish();
}
