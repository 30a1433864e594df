//! What a window and an area take of memory: by the frames that are handed out for pools, not by what records are said to have.
//!
//! The goals (96 bytes for a window with its share of the index, 220 with an area of its own) are for areas without data of the embedder's. The
//! simulated machine's areas have a word of it,
//! which takes their second record to the next class of the pools: eight bytes more for each.

mod common;

use vmcore::Platform;
use vmcore::frame::FrameUse;
use vmcore::vm_space::{MapRequest, Space};

use self::common::{PAGE, World};

/// As many records of 64 bytes as fit whole pages of a pool: what is left of a page is no figure of theirs.
const WINDOWS: u64 = 63 * 48;

/// The bytes that pools take for each of [`WINDOWS`] windows.
fn bytes_of_each(fill: impl FnOnce(&World, &Space<vmcore::sim::Sim>)) -> f64 {
    let world = World::of(vmcore::sim::Sim::builder().frames(4096));
    let space = world.user();
    let frames = || world.sim.frame_counts().of(FrameUse::Pool);
    let (before, said) = (frames(), world.sim.machine().counters().pool_pages);
    fill(&world, &space);
    let grown = frames() - before;
    assert_eq!(grown, world.sim.machine().counters().pool_pages - said, "pages are counted as they are handed out");
    drop(space);
    world.finish();
    (grown * PAGE) as f64 / WINDOWS as f64
}

/// Where a window goes: none touches the next.
const fn place(window: u64) -> u64 {
    0x40_0000 + window * 2 * PAGE
}

#[test]
fn a_window_takes_96_bytes_at_the_most() {
    let bytes = bytes_of_each(|world, space| {
        let area = world.open(1);
        for window in 0..WINDOWS {
            space.map(&MapRequest::new(&area).at(place(window))).unwrap();
        }
    });
    // The record, of which 63 fit a page, is all but the index.
    assert!((65.0..=96.0).contains(&bytes), "{bytes} bytes for each window");
}

#[test]
fn an_area_of_its_own_takes_two_lines_more_at_the_most() {
    let bytes = bytes_of_each(|world, space| {
        for window in 0..WINDOWS {
            space.map(&MapRequest::new(&world.open(1)).at(place(window))).unwrap();
        }
    });
    // Three records of 64 bytes, one of which has the data.
    assert!((195.0..=220.0 + 8.2).contains(&bytes), "{bytes} bytes for each window with its area");
}
