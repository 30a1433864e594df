//! What windows, areas and resident pages take, beside the pages: out of the machine's pools, frames' records and tables.

use vmcore::{
    Platform,
    frame::FrameMeta,
    paging::Access,
    vm_space::{MapRequest, Space},
};

use super::{
    kernel::{self, Kernel},
    subjects::{LOW, area, range},
};
use crate::subject::PAGE;

const WINDOWS: u64 = 100_000;
const RESIDENT: u64 = 262_144;

/// One figure: what it is, bytes, and the goal.
pub type Figure = (&'static str, f64, Option<u32>);

fn pool_bytes() -> u64 {
    Kernel.machine().counters().pool_pages * PAGE
}

/// What the pools grow by, for each of `count`, while `fill` fills a space.
fn each(count: u64, fill: impl FnOnce(&Space<Kernel>)) -> f64 {
    let space = kernel::space(1);
    let before = pool_bytes();
    fill(&space);
    let grown = pool_bytes() - before;
    kernel::end(space, 1);
    grown as f64 / count as f64
}

/// All figures.
pub fn figures() -> Vec<Figure> {
    let places: Vec<u64> = (0..WINDOWS).map(|window| LOW + window * 2 * PAGE).collect();
    let mut random = places.clone();
    fastrand::Rng::with_seed(11).shuffle(&mut random);
    let onto_one = |places: &[u64]| {
        each(WINDOWS, |space| {
            let area = area(1);
            for start in places {
                space.map(&MapRequest::new(&area).at(*start)).unwrap();
            }
        })
    };
    let of_their_own = |touched: bool| {
        each(WINDOWS, |space| {
            for start in &places {
                space.map(&MapRequest::new(&area(1)).at(*start)).unwrap();
                if touched {
                    space.populate(range(space, (*start, 1)), Access::WRITE).unwrap().complete();
                }
            }
        })
    };
    let record = size_of::<FrameMeta>() as f64;
    let mut tables = 0;
    let resident = each(RESIDENT, |space| {
        let start = 1 << 40;
        space.map(&MapRequest::new(&area(RESIDENT)).at(start)).unwrap();
        let before = space.counters().tables;
        space.populate(range(space, (start, RESIDENT)), Access::WRITE).unwrap().complete();
        tables = space.counters().tables - before;
    });
    vec![
        ("a window, with its share of index and back reference", onto_one(&places), Some(96)),
        ("the same, made in random order", onto_one(&random), Some(96)),
        ("a window with an area of its own", of_their_own(false), Some(220)),
        ("the same with its page: node and record", of_their_own(true) + record, None),
        ("a resident page: nodes and record", resident + record, None),
        ("the same with its tables", resident + record + (tables * PAGE) as f64 / RESIDENT as f64, None),
    ]
}
