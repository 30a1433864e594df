//! Random operations on spaces, areas of every kind and CPUs, all together, against one naive model: every result, every byte, every list of
//! windows, and every frame in the end. Three formats: one whose tables forbid writing to all below them, one whose tables do not, and one where
//! a live entry is replaced in two steps; all with tags, so that CPUs remember what they leave.
//!
//! ```text
//!   operation ──► model: what must be refused, and how ──┐
//!      │                                                 ├─ compared ──► model and library say the same of everything
//!      └───────► library: first with a request for       │               that can be asked
//!                frames refused (and nothing changed) ───┘
//! ```
//!
//! Flushes are completed at once, or acknowledged at a random later moment. Until then CPUs use what they remember, and the model says for how long
//! they may. `VMCORE_CASES=20` runs 20 times as many cases. A fuzzer drives the same model (`bytes`, and the target `spaces` in `fuzz/`).

mod access;
pub(crate) mod bytes;
mod changing;
mod contents;
mod mapping;
mod model;
mod operation;
mod pager;
mod place;
mod refusal;
mod world;

#[cfg(test)]
use proptest::prelude::*;
#[cfg(test)]
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use vmcore::paging::{AArch64, Granule4K, Half, RiscV64, X86_64};
use vmcore::sim::SimFormat;

use self::operation::Step;
#[cfg(test)]
use self::operation::step;
use self::world::World;

/// Makes all steps on a machine of its own, and ends it. How many were refused for want of frames, and made again.
fn play<M: SimFormat>(mmu: M, steps: &[Step], spaces_first: bool) -> u64 {
    let mut world = World::new(mmu);
    for step in steps {
        world.step(step);
    }
    let exhausted = world.exhausted;
    world.end(spaces_first);
    exhausted
}

#[cfg(test)]
fn run<M: SimFormat>(mmu: M) {
    let times = std::env::var("VMCORE_CASES").ok().and_then(|times| times.parse().ok()).unwrap_or(1_u32);
    let config = ProptestConfig {
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..ProptestConfig::with_cases(900 * times)
    };
    let exhausted = std::cell::Cell::new(0);
    let cases = (prop::collection::vec(step(), 1..150), any::<bool>());
    // The same cases every time, and more of them with the variable.
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
        .run(&cases, |(steps, spaces_first)| {
            exhausted.set(exhausted.get() + play(mmu, &steps, spaces_first));
            Ok(())
        })
        .unwrap();
    assert!(exhausted.get() > 100, "operations were refused {} times for want of frames", exhausted.get());
}

#[test]
fn x86_64() {
    run(X86_64::new(40).pcid());
}

#[test]
fn riscv_whose_tables_forbid_nothing() {
    run(RiscV64::sv39(40).asid_bits(4));
}

#[test]
fn arm_that_breaks_before_it_makes() {
    run(AArch64::<Granule4K>::bits_48(Half::Lower, 40));
}
