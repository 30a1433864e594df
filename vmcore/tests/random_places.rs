//! `Place::Random`: every answer is a place that a naive search finds free, a window is refused exactly where nothing is free, and all free places are
//! equally likely, so that an address has the bits that are stated. Every seed is fixed.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{PAGE, World};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use vmcore::addr::PageRange;
use vmcore::paging::{Access, Mmu};
use vmcore::sim::Sim;
use vmcore::vm_space::{Destination, MapRequest, Place, Space, SpaceError};
use vmcore::{Platform, addr::VirtAddr};

/// Where the tests have their addresses; a multiple of every alignment that they ask for.
const BASE: u64 = 1 << 40;

/// 64 bits at a time, each with its own constants: nothing that the library makes of them itself.
struct Bits(u128);

impl Bits {
    /// A permuted congruential generator (PCG-XSL-RR).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).wrapping_add(0x5851_f42d_4c95_7f2d);
        ((self.0 >> 64) as u64 ^ self.0 as u64).rotate_right((self.0 >> 122) as u32)
    }
}

fn pages(space: &Space<Sim>, first: u64, count: u64) -> PageRange {
    space.range(BASE + first * PAGE, count * PAGE).unwrap()
}

/// The pages, counted from the base, at which `size` pages fit within `limits`, among windows, at multiples of `step` pages.
fn legal(windows: &BTreeMap<u64, u64>, limits: (u64, u64), size: u64, step: u64) -> Vec<u64> {
    let fits = |page: &u64| {
        let free = windows.iter().all(|(first, count)| page + size <= *first || first + count <= *page);
        free && page % step == 0
    };
    (limits.0..(limits.0 + limits.1 + 1).saturating_sub(size)).filter(fits).collect()
}

#[derive(Clone, Copy, Debug)]
struct Step {
    entropy: u64,
    limits: (u64, u64),
    size: u64,
    alignment: u32,
    /// Whether the limits are the request's or the place's.
    by_request: bool,
    /// One window less before it, of as many as there are.
    unmap: Option<u8>,
    /// A window is moved instead.
    moves: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let entropy = prop_oneof![4 => any::<u64>(), 1 => Just(0), 1 => Just(u64::MAX)];
    (entropy, (0..60_u64, 1..64_u64), 1..9_u64, 11..16_u32, any::<bool>(), proptest::option::of(any::<u8>()), 0..6_u8)
        .prop_map(|(entropy, limits, size, alignment, by_request, unmap, moves)| Step {
            entropy,
            limits,
            size,
            alignment,
            by_request,
            unmap,
            moves: moves == 0,
        })
}

/// Maps and moves at random until it is crowded, each answer compared with a search page by page.
fn follow(steps: &[Step]) -> Result<(), TestCaseError> {
    let world = World::new(1);
    let space = world.user();
    let mut windows = BTreeMap::new();
    let area = world.open(64);
    for step in steps {
        if let Some(number) = step.unmap {
            let found =
                windows.iter().nth(usize::from(number) % (windows.len() + 1)).map(|(first, count)| (*first, *count));
            if let Some((first, count)) = found {
                space.unmap(pages(&space, first, count)).unwrap().complete();
                windows.remove(&first);
            }
        }
        let limits = pages(&space, step.limits.0, step.limits.1);
        let before = space.windows().count();
        let source = windows.iter().next().map(|(first, count)| (*first, *count)).filter(|_| step.moves);
        let (found, places, size) = if let Some((first, size)) = source {
            let place = Place::Random { entropy: step.entropy, within: Some(limits) };
            let moved = space.relocate(pages(&space, first, size), size * PAGE, Destination::To(place));
            // What it leaves is taken until it is done.
            let places = legal(&windows, step.limits, size, 1);
            if moved.is_ok() {
                windows.remove(&first);
            }
            (moved.map(|flush| flush.complete()), places, size)
        } else {
            // Each window by itself: neighbours are not to be joined.
            let offset = (windows.len() as u64 * 7) % 48 * PAGE;
            let request = MapRequest::new(&area).offset(offset).size(step.size * PAGE).aligned(step.alignment);
            let request = request.access(Access::READ);
            let request = if step.by_request {
                request.place(Place::Random { entropy: step.entropy, within: None }).within(limits)
            } else {
                request.place(Place::Random { entropy: step.entropy, within: Some(limits) })
            };
            let alignment = (1 << step.alignment.max(12)) / PAGE;
            let places = legal(&windows, step.limits, step.size, alignment);
            // Where the lowest gap is had, a random one is, and only there.
            let first = space.map(&request.place(Place::GapWithin(limits)));
            prop_assert_eq!(first.is_ok(), !places.is_empty(), "the model's");
            if let Ok(range) = first {
                space.unmap(range).unwrap().complete();
            }
            (space.map(&request), places, step.size)
        };
        match found {
            Ok(range) => {
                let page = (range.start().as_u64() - BASE) / PAGE;
                prop_assert_eq!(range.size(), size * PAGE);
                prop_assert!(places.contains(&page), "{page} is not among {places:?}");
                windows.insert(page, size);
            }
            Err(error) => {
                prop_assert!(matches!(error, SpaceError::NoGap(_)), "{error}");
                prop_assert!(places.is_empty(), "refused, with room at {places:?}");
                prop_assert_eq!(space.windows().count(), before, "all or nothing");
            }
        }
    }
    Ok(())
}

#[test]
fn answers_are_free_places_and_refusals_are_of_full_spaces() {
    let config = ProptestConfig {
        cases: 300,
        rng_seed: RngSeed::Fixed(0x0911_ace5),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let steps = proptest::collection::vec(step(), 1..60);
    TestRunner::new(config).run(&steps, |steps| follow(&steps)).unwrap();
}

/// How often each place was had.
fn frequencies(
    space: &Space<Sim>,
    request: &MapRequest<'_, Sim>,
    limits: (u64, u64),
    draws: u64,
) -> BTreeMap<u64, u64> {
    let within = Some(pages(space, limits.0, limits.1));
    let (mut bits, mut found) = (Bits(0x5eed_0001), BTreeMap::new());
    for _ in 0..draws {
        let range = space.map(&request.place(Place::Random { entropy: bits.next(), within })).unwrap();
        *found.entry((range.start().as_u64() - BASE) / PAGE).or_insert(0) += 1;
        space.unmap(range).unwrap().complete();
    }
    found
}

/// Crowded spaces: each free place is had as often as the others, as far as chance goes (the sum of squared deviations is that of a fair draw, within five times its own
/// deviation). A policy that goes on to the next gap from a place that is taken misses this by far.
#[test]
fn every_free_place_is_as_likely() {
    const DRAWS_PER_PLACE: u64 = 100;
    let world = World::new(1);
    let area = world.open(128);
    // Windows as (first page, pages), in 256 pages that begin at an odd one.
    let half_in_one_piece: Vec<(u64, u64)> = vec![(64, 63), (127, 65)];
    let hole_behind_half = vec![(10, 64), (74, 63), (138, 8)];
    let every_other = (0..128).map(|at| (3 + 2 * at, 1)).collect();
    let most = (0..30).map(|at| (3 + 8 * at, 7)).collect();
    let layouts: [(&str, Vec<(u64, u64)>); 5] = [
        ("nothing", Vec::new()),
        ("half in one piece", half_in_one_piece),
        ("a hole of one page behind many", hole_behind_half),
        ("every other page", every_other),
        ("seven of eight pages", most),
    ];
    for (name, windows) in layouts {
        for (size, alignment) in [(1, 0), (1, 14), (5, 0), (4, 13)] {
            let space = world.user();
            let mut model = BTreeMap::new();
            for (first, count) in &windows {
                space.map(&MapRequest::new(&area).size(count * PAGE).at(BASE + first * PAGE)).unwrap();
                model.insert(*first, *count);
            }
            let limits = (3, 253);
            let places = legal(&model, limits, size, 1 << u32::saturating_sub(alignment, 12));
            if places.len() < 2 {
                continue;
            }
            let draws = DRAWS_PER_PLACE * places.len() as u64;
            let request = MapRequest::new(&area).size(size * PAGE).aligned(alignment);
            let found = frequencies(&space, &request, limits, draws);
            assert!(found.keys().all(|page| places.contains(page)), "{name}");
            let deviation = |page: &u64| {
                let count = found.get(page).copied().unwrap_or(0) as f64;
                (count - DRAWS_PER_PLACE as f64).powi(2) / DRAWS_PER_PLACE as f64
            };
            let (sum, freedom) = (places.iter().map(deviation).sum::<f64>(), (places.len() - 1) as f64);
            let most = freedom + 5.0 * (2.0 * freedom).sqrt();
            assert!(sum < most, "{name}, {size} pages, aligned to 2^{alignment}: {sum} of at most {most}");
        }
    }
}

/// One free place in a thousand is found, whatever is drawn, and so is the one that the alignment leaves.
#[test]
fn a_crowded_space_refuses_nothing_that_fits() {
    let world = World::new(1);
    let space = world.user();
    let (below, above) = (world.open(900), world.open(1147));
    space.map(&MapRequest::new(&below).at(BASE)).unwrap();
    space.map(&MapRequest::new(&above).at(BASE + 901 * PAGE)).unwrap();
    let area = world.open(2);
    let within = pages(&space, 0, 2048);
    let mut bits = Bits(7);
    for entropy in std::iter::repeat_with(|| bits.next()).take(200).chain([0, u64::MAX]) {
        let request = |size: u64, shift| {
            let place = Place::Random { entropy, within: Some(within) };
            space.map(&MapRequest::new(&area).size(size * PAGE).place(place).aligned(shift))
        };
        let found = request(1, 0).unwrap();
        assert_eq!(found.start().as_u64(), BASE + 900 * PAGE);
        assert_eq!(request(1, 0).unwrap_err(), SpaceError::NoGap(PAGE));
        space.unmap(found).unwrap().complete();
        assert_eq!(request(1, 14).unwrap().start().as_u64(), BASE + 900 * PAGE);
        space.unmap(found).unwrap().complete();
        assert_eq!(request(1, 15).unwrap_err(), SpaceError::NoGap(PAGE));
        assert_eq!(request(2, 0).unwrap_err(), SpaceError::NoGap(2 * PAGE));
    }
}

/// The bits that an address has, as the documentation counts them: over many draws each of them is set as often as not, whatever the one next to it is, and no address comes twice where
/// chance allows none.
#[test]
fn addresses_have_the_bits_that_are_stated() {
    const DRAWS: usize = 4096;
    let world = World::new(1);
    let space = world.user();
    let (page, large) = (world.open(1), world.open(512));
    let half = world.sim.machine().mmu().range(0, 1 << 47).unwrap();
    let gibibyte = world.sim.machine().mmu().range(BASE, 1 << 30).unwrap();
    for (area, shift, within, bits) in [(&page, 12, half, 35), (&page, 12, gibibyte, 18), (&large, 21, half, 26)] {
        let (mut generator, mut distinct) = (Bits(0xb175), BTreeSet::new());
        let (mut set, mut alike) = ([0_u32; 35], [0_u32; 35]);
        for _ in 0..DRAWS {
            let place = Place::Random { entropy: generator.next(), within: Some(within) };
            let range = space.map(&MapRequest::new(area).place(place).aligned(shift)).unwrap();
            space.unmap(range).unwrap().complete();
            let start = range.start().as_u64();
            assert!(start % (1 << shift) == 0 && within.contains(VirtAddr::new(start)), "{start:#x}");
            let number = (start - within.start().as_u64()) >> shift;
            distinct.insert(number);
            for bit in 0..bits {
                set[bit] += u32::from(number >> bit & 1 == 1);
                alike[bit] += u32::from((number >> bit ^ number >> ((bit + 1) % bits)) & 1 == 0);
            }
        }
        // 2,048 of 4,096, and five times the deviation of 32.
        let fair = 2048 - 160..2048 + 160;
        assert!(
            set[..bits].iter().chain(&alike[..bits]).all(|count| fair.contains(count)),
            "{bits}: {set:?} {alike:?}"
        );
        // Of so many draws out of 2^bits about DRAWS^2 / 2^(bits + 1) come again.
        let again = (DRAWS * DRAWS) as f64 / 2_f64.powi(bits as i32 + 1);
        assert!((DRAWS - distinct.len()) as f64 <= again + 5.0 * again.sqrt(), "{bits}: {} differ", distinct.len());
    }
}
