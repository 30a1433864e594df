//! Rings: random accesses through windows, handles and pins, against a model that keeps one copy of the memory.

mod common;

use common::{PAGE, World, at, load, store};
use proptest::prelude::*;
use vmcore::frame::FrameUse;
use vmcore::paging::{Access, Flush};
use vmcore::vm_area::{Area, AreaError, AreaKind};
use vmcore::vm_space::{MapRequest, SpaceError};

const WINDOW: u64 = 0x40_0000;
const WINDOWS: u64 = 0x10_0000;

#[derive(Clone, Debug)]
enum Step {
    /// In window 0 or 1, at this word.
    Store(u64, u64, u64),
    Load(u64, u64),
    Write(u64, Vec<u8>),
    Read(u64, usize),
    /// In which window, from which page, how many.
    Unmap(u64, u64, u64),
    Map(u64, u64, u64, bool),
    Populate(u64, u64, u64),
    Pin(u64, u64),
}

fn steps(pages: u64) -> impl Strategy<Value = Vec<Step>> {
    let (window, page, bytes) = (0..2_u64, 0..2 * pages, 0..2 * pages * PAGE);
    let word = 0..2 * pages * PAGE / 8;
    let step = prop_oneof![
        (window.clone(), word.clone(), 1..u64::MAX).prop_map(|(w, at, value)| Step::Store(w, at, value)),
        (window.clone(), word).prop_map(|(w, at)| Step::Load(w, at)),
        (bytes.clone(), proptest::collection::vec(any::<u8>(), 1..6000)).prop_map(|(at, data)| Step::Write(at, data)),
        (bytes, 1..6000_usize).prop_map(|(at, size)| Step::Read(at, size)),
        (window.clone(), page.clone(), 1..4_u64).prop_map(|(w, page, count)| Step::Unmap(w, page, count)),
        (window.clone(), page.clone(), 1..9_u64, any::<bool>())
            .prop_map(|(w, page, count, p)| Step::Map(w, page, count, p)),
        (window, page.clone(), 1..5_u64).prop_map(|(w, page, count)| Step::Populate(w, page, count)),
        (page, 1..9_u64).prop_map(|(page, count)| Step::Pin(page, count)),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn every_place_is_one_memory(pages in 1..5_u64, all in steps(4)) {
        let world = World::new(1);
        let space = world.user();
        world.enter(0, &space);
        let area = Area::new(&world.sim, AreaKind::Ring { size: pages * PAGE }, 0).unwrap();
        let bytes = pages * PAGE;
        let mut memory = vec![0_u8; bytes as usize];
        let mut touched = vec![false; pages as usize];
        // Page of the area at each page of the two windows' addresses.
        let mut shown = [vec![None; 16], vec![None; 16]];
        let mut pins = Vec::new();
        for step in all {
            match step {
                Step::Store(window, word, value) => {
                    let address = WINDOW + window * WINDOWS + word * 8;
                    let result = store(&world.sim, 0, &space, address, value);
                    match shown[window as usize][(word * 8 / PAGE) as usize] {
                        None => prop_assert_eq!(result, Err(SpaceError::NoWindow(at(address)))),
                        Some(page) => {
                            prop_assert_eq!(result, Ok(()));
                            touched[(page % pages) as usize] = true;
                            let byte = (((page % pages) * PAGE) + word * 8 % PAGE) as usize;
                            memory[byte..byte + 8].copy_from_slice(&value.to_ne_bytes());
                        }
                    }
                }
                Step::Load(window, word) => {
                    let address = WINDOW + window * WINDOWS + word * 8;
                    let result = load(&world.sim, 0, &space, address);
                    match shown[window as usize][(word * 8 / PAGE) as usize] {
                        None => prop_assert_eq!(result, Err(SpaceError::NoWindow(at(address)))),
                        Some(page) => {
                            touched[(page % pages) as usize] = true;
                            let byte = (((page % pages) * PAGE) + word * 8 % PAGE) as usize;
                            prop_assert_eq!(&result.unwrap().to_ne_bytes()[..], &memory[byte..byte + 8]);
                        }
                    }
                }
                Step::Write(offset, mut data) => {
                    let result = area.write(offset, &data).map(Flush::complete);
                    if offset + data.len() as u64 > 2 * bytes {
                        let outside = AreaError::Outside { offset, size: data.len() as u64, area: 2 * bytes };
                        prop_assert_eq!(result, Err(outside));
                    } else {
                        prop_assert_eq!(result, Ok(()));
                        for (index, byte) in data.drain(..).enumerate() {
                            let at = (offset + index as u64) % bytes;
                            memory[at as usize] = byte;
                            touched[(at / PAGE) as usize] = true;
                        }
                    }
                }
                Step::Read(offset, size) => {
                    let mut data = vec![0; size];
                    let result = area.read(offset, &mut data);
                    prop_assert_eq!(result.is_ok(), offset + size as u64 <= 2 * bytes);
                    for (index, byte) in data.into_iter().enumerate().filter(|_| result.is_ok()) {
                        let at = (offset + index as u64) % bytes;
                        prop_assert_eq!(byte, memory[at as usize]);
                    }
                }
                Step::Unmap(window, page, count) => {
                    common::unmap(&space, WINDOW + window * WINDOWS + page * PAGE, count);
                    shown[window as usize][page as usize..(page + count) as usize].fill(None);
                }
                Step::Map(window, page, count, populate) => {
                    // At the addresses from page 0 of the window on, so that any part of the ring is seen at any place.
                    let request = MapRequest::new(&area).at(WINDOW + window * WINDOWS).offset(page * PAGE).size(count * PAGE);
                    let request = if populate { request.populated() } else { request };
                    let result = space.map(&request);
                    let free = shown[window as usize][..count as usize].iter().all(Option::is_none);
                    prop_assert_eq!(result.is_ok(), free && page + count <= 2 * pages, "{:?}", result);
                    if result.is_ok() {
                        for index in 0..count {
                            shown[window as usize][index as usize] = Some(page + index);
                            touched[((page + index) % pages) as usize] |= populate;
                        }
                    }
                }
                Step::Populate(window, page, count) => {
                    let range = space.range(WINDOW + window * WINDOWS + page * PAGE, count * PAGE).unwrap();
                    let part = &shown[window as usize][page as usize..(page + count) as usize];
                    let result = space.populate(range, Access::WRITE);
                    prop_assert_eq!(result.is_ok(), part.iter().all(Option::is_some));
                    for page in part.iter().flatten().filter(|_| result.is_ok()) {
                        touched[(page % pages) as usize] = true;
                    }
                }
                Step::Pin(page, count) => {
                    let result = area.pin(page * PAGE, count * PAGE).map(Flush::complete);
                    prop_assert_eq!(result.is_ok(), page + count <= 2 * pages);
                    if let Ok(pin) = result {
                        let frames: Vec<_> =
                            pin.runs().flat_map(|run| (0..run.count()).map(move |index| run.first().add(index))).collect();
                        let expected: Vec<_> =
                            (page..page + count).map(|page| area.frame_at(page % pages * PAGE).unwrap()).collect();
                        prop_assert_eq!(frames, expected);
                        (page..page + count).for_each(|page| touched[(page % pages) as usize] = true);
                        pins.push(pin);
                    }
                }
            }
            let resident = touched.iter().filter(|touched| **touched).count() as u64;
            let counts = world.sim.frame_counts();
            prop_assert_eq!(area.resident_pages(), resident);
            prop_assert_eq!(counts.of(FrameUse::Page) + counts.of(FrameUse::Pinned), resident, "one frame for both places");
            for info in space.windows() {
                let first = info.offset / PAGE;
                let expected = (first..first + info.range.pages(12)).filter(|page| touched[(page % pages) as usize]).count();
                prop_assert_eq!(info.resident_pages, expected as u64);
            }
        }
        world.sim.check_translations();
        drop(pins);
        prop_assert_eq!(area.pinned_pages(), 0);
        drop(area);
        world.leave(0, &space);
        drop(space);
        world.finish();
    }
}

#[test]
fn bad_rings_are_refused() {
    let world = World::new(1);
    for size in [0, PAGE - 1, 1 << 61, 1 << 62, !(PAGE - 1)] {
        let made = Area::new(&world.sim, AreaKind::Ring { size }, 0);
        assert_eq!(made.map(drop), Err(AreaError::Size(size)));
    }
    let ring = Area::new(&world.sim, AreaKind::Ring { size: 4 * PAGE }, 0).unwrap();
    assert_eq!(ring.size(), 8 * PAGE);
    assert_eq!(ring.resize(4 * PAGE).map(drop), Err(AreaError::Kind));
    assert_eq!(ring.take_section(), Err(AreaError::Kind));
    assert_eq!(ring.frame_at(8 * PAGE), None);
    // Frames in a row cannot be shown twice.
    let outside = AreaError::Outside { offset: 3 * PAGE, size: 2 * PAGE, area: 4 * PAGE };
    assert_eq!(ring.allocate(3 * PAGE, 2 * PAGE, 0).map(drop), Err(outside));
    let pin = ring.allocate(0, 4 * PAGE, 2).unwrap().complete();
    assert_eq!(ring.frame_at(7 * PAGE), pin.runs().next().map(|run| run.first().add(3)));
    drop((pin, ring));
    world.finish();
}
