//! Random calls of the POSIX face by programs that fork, against a naive model page by page: every result, what each page is allowed and holds, and every
//! frame in the end; with requests for frames refused, after which nothing may have changed. A fuzzer drives the same model (the target `posix` in `fuzz/`).
//!
//! ```text
//!   seven bytes ──► Call ──► model: reasons to refuse it, and what becomes of each page ──┐
//!                    │                                                                    ├─ compared
//!                    └─────► posix::Memory, Space ──► simulated machine ──────────────────┘
//! ```
//!
//! What the model leaves open: which gap is found for what has no fixed place, and for what reason `mremap` refuses.

pub(crate) mod call;
mod model;
mod world;

use self::call::{Call, RECORD};
use self::world::World;

/// The most calls that an input makes.
const CALLS: usize = 140;

/// Makes the calls that the records say, and ends it.
fn play(records: impl IntoIterator<Item = [u8; RECORD]>) {
    let mut world = World::new();
    for record in records.into_iter().take(CALLS) {
        world.step(&Call::of(record));
    }
    world.end();
}

/// Plays what an input says. Panics where model and library differ, and where the simulated machine does not accept something.
#[allow(dead_code, reason = "a fuzzer's")]
pub(crate) fn run(bytes: &[u8]) {
    play(bytes.chunks(RECORD).map(|chunk| std::array::from_fn(|index| chunk.get(index).copied().unwrap_or(0))));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

    use super::*;

    #[test]
    fn calls_do_what_the_model_says() {
        let times = std::env::var("VMCORE_CASES").ok().and_then(|times| times.parse().ok()).unwrap_or(1_u32);
        let cases = ProptestConfig::with_cases(600 * times);
        let config = ProptestConfig { max_shrink_iters: 20_000, failure_persistence: None, ..cases };
        // The same cases every time, and more of them with the variable.
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
            .run(&prop::collection::vec(any::<[u8; RECORD]>(), 1..120), |records| {
                play(records);
                Ok(())
            })
            .unwrap();
    }

    /// A part that is left behind becomes one window with the next, which is moved all the same.
    #[test]
    fn what_is_left_behind_is_not_moved_again() {
        play([[0, 0, 0, 2, 0, 0, 0], [0, 0, 18, 2, 40, 121, 0], [11, 0, 18, 1, 1, 96, 0], [11, 0, 0, 3, 3, 119, 0]]);
    }

    /// The old addresses of a page that was locked become one region with their neighbours, which were moved already or are still to be.
    #[test]
    fn what_is_left_behind_of_locked_memory_is_not_moved_again() {
        play([[0, 0, 12, 7, 16, 5, 0], [24, 0, 16, 0, 0, 0, 0], [20, 0, 16, 1, 0, 0, 0], [11, 0, 15, 3, 0, 119, 0]]);
    }
}
