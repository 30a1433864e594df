//! The model against the plain kernel: they agree, and no mistake of the kernel's stays unnoticed.

use crate::fake::{Fake, Mistake};
use crate::operation::{self, Operation};
use crate::world::AREAS;
use crate::{Failure, Rand64, World};
use refkernel_abi::Access;
use std::borrow::ToOwned;
use std::format;
use std::vec::Vec;

const BASE: u64 = 0x2000_0000_0000;

/// How many operations are right, up to so many.
fn run(mistake: Mistake, seed: u64, count: u64) -> Result<(World, Fake), (u64, Failure)> {
    let (mut world, mut kernel) = (World::new(BASE), Fake::new(mistake));
    let mut random = Rand64::new(seed.into());
    for done in 0..count {
        let operation = operation::choose(&world, &mut random);
        world.step(&mut kernel, operation).map_err(|failure| (done, failure))?;
        if done % 64 == 0 {
            world.check_all(&mut kernel).map_err(|failure| (done, failure))?;
        }
    }
    Ok((world, kernel))
}

#[test]
fn a_kernel_without_mistakes_agrees() {
    for seed in 0..20 {
        let (world, kernel) =
            run(Mistake::None, seed, 5000).map_err(|(at, failure)| format!("{at}: {failure}")).unwrap();
        assert_eq!(world.handles(), kernel.handles(), "no handle is forgotten");
    }
}

#[test]
fn every_mistake_is_noticed() {
    for mistake in Mistake::ALL {
        let mut first: Vec<_> =
            (0..5).map(|seed| run(mistake, seed, 20_000).err().map_or(u64::MAX, |(at, _)| at)).collect();
        first.sort_unstable();
        assert!(first.iter().all(|at| *at < 20_000), "{mistake:?}: {first:?}");
        assert!(first[2] < 10_000, "{mistake:?} takes long: {first:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_operations() {
    let operations = |seed: u64| {
        let (mut world, mut kernel) = (World::new(BASE), Fake::new(Mistake::None));
        let mut random = Rand64::new(seed.into());
        let mut all = Vec::new();
        for _ in 0..300 {
            let operation = operation::choose(&world, &mut random);
            all.push(operation);
            world.step(&mut kernel, operation).unwrap();
        }
        all
    };
    assert_eq!(operations(7), operations(7));
    assert_ne!(operations(7), operations(8));
}

#[test]
fn every_operation_is_chosen_and_areas_of_every_kind_are_shown() {
    let (mut world, mut kernel) = (World::new(BASE), Fake::new(Mistake::None));
    let mut random = Rand64::new(3);
    let (mut names, mut kinds, mut most, mut shown) = (std::collections::BTreeSet::new(), Vec::new(), 0, 0);
    for _ in 0..5000 {
        let operation = operation::choose(&world, &mut random);
        let name = format!("{operation:?}");
        names.insert(name.split(' ').next().unwrap().to_owned());
        world.step(&mut kernel, operation).unwrap();
        most = most.max(world.areas.iter().flatten().count());
        shown += (0..64).filter(|at| world.accessible(*at, Access::READ).is_some()).count();
        for area in world.areas.iter().flatten() {
            if !kinds.contains(&area.kind) {
                kinds.push(area.kind);
            }
        }
    }
    assert_eq!((names.len(), kinds.len(), most), (16, 3, AREAS), "{names:?}");
    assert!((10..=50).contains(&(shown / 5000)), "{} of 64 pages can be read on average", shown / 5000);
}

#[test]
fn a_failure_says_what_and_where() {
    let (at, failure) = run(Mistake::RingIsNoRing, 1, 20_000).err().unwrap();
    let text = format!("{failure}");
    assert!(at > 0 && text.contains("holds 0x"), "{text}");
    let refused = Failure { operation: Operation::Read { at: 1, pages: 2 }, what: crate::What::NotRefused };
    assert_eq!(format!("{refused}"), "Read { at: 1, pages: 2 }: not refused");
}
