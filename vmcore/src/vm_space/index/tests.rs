//! The tree against a sorted vector, at small and at real fan-outs, with all invariants looked at after each step.

use std::alloc::Layout;
use std::collections::BTreeSet;
use std::vec::Vec;

use proptest::prelude::*;

use super::gap::{GapRequest, Gaps, LeafSizes, SIZES};
use super::inner::Inner;
use super::leaf::Leaf;
use super::node::{Entry, Link, Summary};
use super::tree::{NodeMemory, Nodes, Tree};
use core::ptr::NonNull;

const PAGE: u64 = 0x1000;

/// Nodes from the heap, each known by its address, and no more than may be taken.
#[derive(Default)]
struct Heap {
    out: BTreeSet<usize>,
    allowed: usize,
}

impl Heap {
    fn layout<const L: usize, const N: usize>() -> Layout {
        Layout::new::<NodeMemory<L, N>>()
    }
}

// SAFETY: the heap gives exclusive memory.
unsafe impl<const L: usize, const N: usize> Nodes<L, N> for Heap {
    fn has(&self, count: usize) -> bool {
        self.allowed >= count
    }

    fn take(&mut self) -> Option<NonNull<NodeMemory<L, N>>> {
        self.allowed = self.allowed.checked_sub(1)?;
        // SAFETY: nodes have a size.
        let node = NonNull::new(unsafe { std::alloc::alloc(Self::layout::<L, N>()) })?;
        // What is not written must not look like anything.
        // SAFETY: it was just allocated with this size.
        unsafe { node.write_bytes(0xa5, Self::layout::<L, N>().size()) };
        assert!(self.out.insert(node.addr().get()));
        Some(node.cast())
    }

    unsafe fn put(&mut self, node: NonNull<NodeMemory<L, N>>) {
        assert!(self.out.remove(&node.addr().get()), "a node was put back twice");
        self.allowed += 1;
        // SAFETY: it was allocated by `take` and is used no more. What still led there would read this.
        unsafe {
            node.cast::<u8>().write_bytes(0x5a, Self::layout::<L, N>().size());
            std::alloc::dealloc(node.as_ptr().cast(), Self::layout::<L, N>());
        }
    }
}

fn sizes() -> LeafSizes {
    // Small ones, so that few pages are many leaves: 1, 4 and 16 pages.
    LeafSizes::new(12, |level| Some(12 + 2 * level as u32))
}

fn entry(first: u64, pages: u64) -> Entry {
    let pointer = NonNull::new(core::ptr::without_provenance_mut::<()>((first >> 12) as usize | 1 << 60));
    Entry { first, last: first + (pages * PAGE - 1), pointer }
}

/// A tree and the same as a sorted vector.
struct Pair<const L: usize, const N: usize> {
    tree: Tree<L, N>,
    model: Vec<Entry>,
    heap: Heap,
}

impl<const L: usize, const N: usize> Drop for Pair<L, N> {
    fn drop(&mut self) {
        self.tree.clear(&mut self.heap);
        if !std::thread::panicking() {
            assert!(self.heap.out.is_empty(), "nodes were lost");
            assert!(self.tree.root().is_none() && self.tree.len() == 0);
        }
    }
}

impl<const L: usize, const N: usize> Pair<L, N> {
    fn new() -> Self {
        Self { tree: Tree::new(sizes()), model: Vec::new(), heap: Heap::default() }
    }

    fn is_free(&self, wanted: Entry) -> bool {
        self.model.iter().all(|entry| entry.last < wanted.first || wanted.last < entry.first)
    }

    /// Inserts with exactly the nodes that were counted, after a try with one too few.
    fn insert(&mut self, wanted: Entry) {
        let needed = self.tree.nodes_needed(wanted.first, 1);
        let held = self.heap.out.len();
        self.heap.allowed = 0;
        if !self.tree.insert(wanted, &mut self.heap) {
            assert_ne!(needed, 0);
            assert_eq!(self.heap.out.len(), held);
            self.check();
            self.heap.allowed = needed;
            assert!(self.tree.insert(wanted, &mut self.heap), "{needed} nodes were counted, and are not enough");
        }
        let at = self.model.partition_point(|entry| entry.last < wanted.first);
        self.model.insert(at, wanted);
    }

    fn remove(&mut self, address: u64) {
        self.heap.allowed = 0;
        let at = self.model.iter().position(|entry| entry.first <= address && address <= entry.last);
        assert_eq!(self.tree.remove(address, &mut self.heap), at.map(|at| self.model.remove(at)));
    }

    /// Cuts a range out of the entry at this address, as unmapping the middle of a window does: up to three parts, of which the last is set.
    /// Or all of them `at_once`, where they go into one leaf.
    fn cut(&mut self, address: u64, offset: u64, pages: u64, at_once: bool) {
        let Some(at) = self.model.iter().position(|entry| entry.first <= address && address <= entry.last) else {
            assert_eq!(self.tree.find(address), None);
            return;
        };
        let old = self.model[at];
        let all = (old.last - old.first + 1) / PAGE;
        let (offset, end) = (offset % all, (offset % all + pages).min(all));
        let bounds = [(0, offset), (offset, end), (end, all)];
        let parts: Vec<Entry> = bounds
            .into_iter()
            .filter(|(from, to)| from < to)
            .map(|(from, to)| Entry { pointer: old.pointer, ..entry(old.first + from * PAGE, to - from) })
            .collect();
        if at_once && self.tree.splice(old.first, 1, &parts) {
            self.model.splice(at..=at, parts);
            return;
        }
        let (last, others) = parts.split_last().unwrap();
        self.heap.allowed = self.tree.nodes_needed(old.first, others.len());
        assert_eq!(self.tree.set(old.first, *last), Some(old));
        for part in others {
            assert!(self.tree.insert(*part, &mut self.heap), "the nodes for {} parts were not enough", others.len());
        }
        self.model.splice(at..=at, parts);
    }

    /// Makes some entries one, as when windows are joined, where they are in one leaf that stays full enough.
    fn join(&mut self, address: u64, count: usize) {
        let from = self.model.partition_point(|entry| entry.last < address);
        let Some(old) = self.model.get(from..from + count).filter(|old| old[0].first <= address) else {
            return;
        };
        let joined = Entry { last: old[count - 1].last, ..old[0] };
        if self.tree.splice(address, count, &[joined]) {
            self.model.splice(from..from + count, [joined]);
        }
    }

    /// Cuts two entries at once, as protecting a range does that ends within them.
    fn cut_two(&mut self, first: u64, second: u64) {
        let wide = |address: u64| {
            self.model.iter().copied().find(|entry| {
                entry.first <= address && address <= entry.last && entry.last - entry.first >= 2 * PAGE - 1
            })
        };
        let (Some(low), Some(high)) = (wide(first), wide(second)) else { return };
        if low == high {
            return;
        }
        self.heap.allowed = self.tree.nodes_needed(low.first, 2) + self.tree.nodes_needed(high.first, 2);
        for old in [low, high] {
            let parts = [Entry { last: old.first + (PAGE - 1), ..old }, Entry { first: old.first + PAGE, ..old }];
            assert_eq!(self.tree.set(old.first, parts[1]), Some(old));
            assert!(self.tree.insert(parts[0], &mut self.heap), "the nodes for two cuts were not enough");
            let at = self.model.iter().position(|entry| *entry == old).unwrap();
            self.model.splice(at..=at, parts);
        }
    }

    /// Gives the entry at this address other bounds within the gaps around it.
    fn resize(&mut self, address: u64, down: u64, up: u64) {
        let Some(at) = self.model.iter().position(|entry| entry.first <= address && address <= entry.last) else {
            return;
        };
        let old = self.model[at];
        let lowest = at.checked_sub(1).map_or(0, |before| self.model[before].last + 1);
        let highest = self.model.get(at + 1).map_or(u64::MAX, |after| after.first - 1);
        let first = old.first.saturating_sub(down * PAGE).max(lowest);
        let last = old.last.saturating_add(up * PAGE).min(highest);
        let new = Entry { first, last, pointer: None };
        assert_eq!(self.tree.set(address, new), Some(old));
        self.model[at] = new;
    }

    fn check(&self) {
        assert_eq!(self.tree.len(), self.model.len());
        assert_eq!(self.tree.from(0).collect::<Vec<_>>(), self.model);
        let Some((root, summary)) = self.tree.root() else {
            assert!(self.model.is_empty() && self.heap.out.is_empty());
            return;
        };
        let (mut nodes, mut leaves) = (Vec::new(), Vec::new());
        let real = check_node::<L, N>(root, self.tree.height(), true, &mut nodes, &mut leaves);
        assert_eq!((real.first, real.last, real.gaps), (summary.first, summary.last, summary.gaps));
        assert_eq!(
            nodes.into_iter().collect::<BTreeSet<_>>(),
            self.heap.out,
            "nodes that are out are in the tree, once"
        );
        // The leaves are linked in order.
        for (leaf, next) in leaves.iter().zip(leaves.iter().skip(1).map(Some).chain([None])) {
            // SAFETY: nodes of the tree are alive.
            assert_eq!(unsafe { leaf.cast::<Leaf<L>>().as_ref() }.next.map(NonNull::cast), next.copied());
        }
    }

    /// All questions about one address.
    fn ask(&self, address: u64) {
        let model = &self.model;
        let from = model.partition_point(|entry| entry.last < address);
        assert_eq!(self.tree.first_from(address), model.get(from).copied(), "{address:#x}");
        let found = model.get(from).copied().filter(|entry| entry.first <= address);
        assert_eq!((self.tree.find(address), self.tree.find_near(address)), (found, found));
        assert_eq!(self.tree.last_before(address), from.checked_sub(1).map(|at| model[at]), "{address:#x}");
        assert!(self.tree.from(address).eq(model[from..].iter().copied()));
    }

    /// The gap search against a look at each page, one after another in this range; others are left out.
    fn ask_gap(&self, request: &GapRequest) {
        let fits = |start: u64| {
            let Some(last) = start.checked_add(request.size - 1) else { return false };
            start >= request.first && last <= request.last && self.is_free(Entry { first: start, last, pointer: None })
        };
        let mask = (1 << request.alignment) - 1;
        // The first page with the phase, from each end of each gap.
        let starts = || {
            let after = self.model.iter().filter_map(|entry| entry.last.checked_add(1));
            let up = after
                .chain([request.first])
                .filter_map(|from| from.checked_add(request.phase.wrapping_sub(from) & mask));
            let before = self.model.iter().map(|entry| entry.first).filter_map(|first| first.checked_sub(request.size));
            let down = before
                .chain(request.last.checked_sub(request.size - 1))
                .filter_map(|from| from.checked_sub(from.wrapping_sub(request.phase) & mask));
            up.chain(down).filter(|start| fits(*start))
        };
        let (low, high) = (self.tree.lowest_gap(request), self.tree.highest_gap(request));
        assert_eq!(low.is_some(), starts().next().is_some(), "{request:x?}");
        assert_eq!(high.is_some(), starts().next().is_some(), "{request:x?}");
        for found in [low, high].into_iter().flatten() {
            assert!(fits(found) && found & mask == request.phase, "{found:#x} for {request:x?}");
        }
        let tracked = request.phase == 0 && [12, 14, 16].contains(&request.alignment);
        if tracked {
            assert_eq!((low, high), (starts().min(), starts().max()), "{request:x?}");
        }
    }
}

/// Compares all that is kept of a node with what is there. Gives what its parent must say of it.
fn check_node<const L: usize, const N: usize>(
    node: Link,
    height: usize,
    is_root: bool,
    nodes: &mut Vec<usize>,
    leaves: &mut Vec<Link>,
) -> Summary {
    nodes.push(node.addr().get());
    let gap = |last: u64, first: u64| {
        // In another way than the tree counts: page by page for small ones.
        let mut counts = [0_u32; SIZES];
        for (level, count) in counts.iter_mut().enumerate() {
            let step = PAGE << (2 * level);
            let aligned = (u128::from(last) + 1).div_ceil(u128::from(step)) * u128::from(step);
            *count = u32::try_from(u128::from(first).saturating_sub(aligned) / u128::from(PAGE)).unwrap_or(u32::MAX);
        }
        Gaps(counts)
    };
    if height == 0 {
        leaves.push(node);
        // SAFETY: nodes of the tree are alive, and those of height 0 leaves.
        let leaf = unsafe { node.cast::<Leaf<L>>().as_ref() };
        let len = leaf.len();
        assert!((1..=L).contains(&len));
        let mut gaps = Gaps::NONE;
        for at in 1..len {
            gaps = gaps.max(gap(leaf.last(at - 1), leaf.first(at)));
        }
        assert_eq!(leaf.header.gaps, gaps);
        for unused in len..L {
            assert_eq!((leaf.last(unused), leaf.first(unused)), (u64::MAX, u64::MAX));
        }
        return leaf.summary();
    }
    // SAFETY: all others are inner nodes.
    let inner = unsafe { node.cast::<Inner<N>>().as_ref() };
    let len = inner.len();
    assert!((2..=N).contains(&len), "{len} children of {} node", if is_root { "the root" } else { "an inner" });
    let mut gaps = Gaps::NONE;
    let mut children = Vec::new();
    for at in 0..N {
        let Some(child) = inner.child(at) else {
            assert!(at >= len);
            assert_eq!(inner.last(at), u64::MAX);
            assert!((0..SIZES).all(|size| inner.slots(size)[at] == 0));
            continue;
        };
        assert!(at < len);
        let real = check_node::<L, N>(child, height - 1, false, nodes, leaves);
        assert_eq!(real.last, inner.last(at));
        children.push(real);
    }
    assert_eq!(inner.summary().first, children[0].first);
    for (at, real) in children.iter().enumerate() {
        let behind = children.get(at + 1).map_or(Gaps::NONE, |next| gap(real.last, next.first));
        let all = real.gaps.max(behind);
        assert_eq!(all.0, core::array::from_fn(|size| inner.slots(size)[at]));
        gaps = gaps.max(all);
    }
    assert_eq!(inner.header.gaps, gaps);
    inner.summary()
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert {
        page: u64,
        pages: u64,
    },
    /// As many as come one after another, upwards or downwards, a page between each two.
    Run {
        page: u64,
        count: u64,
        down: bool,
    },
    Remove {
        page: u64,
    },
    RemoveRun {
        page: u64,
        count: u64,
    },
    Cut {
        page: u64,
        offset: u64,
        pages: u64,
        at_once: bool,
    },
    Join {
        page: u64,
        count: usize,
    },
    /// What is asked near it is found from there.
    Aim {
        page: u64,
    },
    CutTwo {
        first: u64,
        second: u64,
    },
    Resize {
        page: u64,
        down: u64,
        up: u64,
    },
    Gap {
        first: u64,
        pages: u64,
        size: u64,
        alignment: u32,
        phase: u64,
    },
}

/// So many pages from the base on; the base is at one end of the address space, or in the middle.
const PAGES: u64 = 600;

fn step() -> impl Strategy<Value = Step> {
    let page = 0..PAGES;
    prop_oneof![
        4 => (page.clone(), 1_u64..8).prop_map(|(page, pages)| Step::Insert { page, pages }),
        2 => (page.clone(), 1_u64..40, any::<bool>()).prop_map(|(page, count, down)| Step::Run { page, count, down }),
        3 => page.clone().prop_map(|page| Step::Remove { page }),
        1 => (page.clone(), 1_u64..60).prop_map(|(page, count)| Step::RemoveRun { page, count }),
        4 => (page.clone(), 0_u64..8, 1_u64..4, any::<bool>())
            .prop_map(|(page, offset, pages, at_once)| Step::Cut { page, offset, pages, at_once }),
        2 => (page.clone(), 1_usize..4).prop_map(|(page, count)| Step::Join { page, count }),
        2 => page.clone().prop_map(|page| Step::Aim { page }),
        1 => (page.clone(), page.clone()).prop_map(|(first, second)| Step::CutTwo { first, second }),
        2 => (page.clone(), 0_u64..6, 0_u64..6).prop_map(|(page, down, up)| Step::Resize { page, down, up }),
        6 => (page, 1_u64..PAGES, 1_u64..24, 12_u32..18, 0_u64..64).prop_map(
            |(first, pages, size, alignment, phase)| Step::Gap { first, pages, size, alignment, phase }
        ),
    ]
}

fn run<const L: usize, const N: usize>(base: u64, steps: &[Step]) {
    let mut pair = Pair::<L, N>::new();
    let at = |page: u64| base.wrapping_add((page % PAGES) * PAGE);
    for step in steps {
        match *step {
            Step::Insert { page, pages } => {
                let wanted = entry(at(page), pages.min(PAGES - page));
                if pair.is_free(wanted) {
                    pair.insert(wanted);
                }
            }
            Step::Run { page, count, down } => {
                for number in 0..count {
                    let page = if down { page.checked_sub(2 * number) } else { Some(page + 2 * number) };
                    let Some(page) = page.filter(|page| *page < PAGES) else { break };
                    if pair.is_free(entry(at(page), 1)) {
                        pair.insert(entry(at(page), 1));
                    }
                }
            }
            Step::Remove { page } => pair.remove(at(page)),
            Step::RemoveRun { page, count } => (page..(page + count).min(PAGES)).for_each(|page| pair.remove(at(page))),
            Step::Cut { page, offset, pages, at_once } => pair.cut(at(page), offset, pages, at_once),
            Step::Join { page, count } => pair.join(at(page), count),
            Step::Aim { page } => {
                pair.tree.aim(at(page));
                // On both sides of the leaf's ends as well.
                (0..PAGES).step_by(7).for_each(|page| pair.ask(at(page)));
            }
            Step::CutTwo { first, second } => pair.cut_two(at(first), at(second)),
            Step::Resize { page, down, up } => {
                let inside = |entry: &Entry| entry.first >= base && entry.last <= at(PAGES - 1) + (PAGE - 1);
                // Towards the base's ends only as far as other steps go.
                if pair.tree.find(at(page)).is_some_and(|found| inside(&found)) && page >= 8 && page + 16 < PAGES {
                    pair.resize(at(page), down, up);
                }
            }
            Step::Gap { first, pages, size, alignment, phase } => {
                let last = at(PAGES.min(first + pages) - 1) + (PAGE - 1);
                let phase = (phase * PAGE) & ((1 << alignment) - 1);
                pair.ask_gap(&GapRequest { first: at(first), last, size: size * PAGE, alignment, phase });
                pair.ask_gap(&GapRequest { first: 0, last: u64::MAX, size: size * PAGE, alignment, phase: 0 });
            }
        }
        pair.check();
        if let Step::Insert { page, .. } | Step::Remove { page } | Step::Gap { first: page, .. } = *step {
            [at(page), at(page) + (PAGE - 1), at(page) + 0x800].into_iter().for_each(|address| pair.ask(address));
            [0, u64::MAX, base].into_iter().for_each(|address| pair.ask(address));
        }
    }
}

/// The lowest addresses, some in the middle, and the highest.
const BASES: [u64; 3] = [0, 0x7fff_ff00_0000, 0_u64.wrapping_sub(PAGES * PAGE)];

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn as_a_sorted_vector(base in 0..BASES.len(), steps in prop::collection::vec(step(), 1..120)) {
        run::<3, 3>(BASES[base], &steps);
        run::<7, 3>(BASES[base], &steps);
        run::<7, 7>(BASES[base], &steps);
        run::<23, 19>(BASES[base], &steps);
    }
}

/// All orders in which few pages can be inserted and removed, at both ends of the address space.
#[test]
fn every_small_case() {
    const SMALL: u64 = 6;
    fn visit(pair: &mut Pair<3, 3>, base: u64, depth: usize) {
        pair.check();
        for page in 0..SMALL {
            pair.ask(base.wrapping_add(page * PAGE));
            pair.ask(base.wrapping_add(page * PAGE + (PAGE - 1)));
        }
        for size in 1..=SMALL {
            for alignment in [12, 14] {
                let request = GapRequest {
                    first: base,
                    last: base.wrapping_add(SMALL * PAGE - 1),
                    size: size * PAGE,
                    alignment,
                    phase: 0,
                };
                pair.ask_gap(&request);
                pair.ask_gap(&GapRequest { first: 0, last: u64::MAX, ..request });
            }
        }
        if depth == 0 {
            return;
        }
        for page in 0..SMALL {
            let address = base.wrapping_add(page * PAGE);
            if pair.tree.find(address).is_some() {
                continue;
            }
            pair.insert(entry(address, 1));
            visit(pair, base, depth - 1);
            pair.tree.aim(base.wrapping_add((page * 5 % SMALL) * PAGE));
            pair.remove(address);
            pair.check();
        }
    }
    for base in [0, 0_u64.wrapping_sub(SMALL * PAGE)] {
        visit(&mut Pair::new(), base, 5);
    }
}

/// One range over all addresses, and none.
#[test]
fn the_whole_address_space() {
    let mut pair = Pair::<3, 3>::new();
    let all = GapRequest { first: 0, last: u64::MAX, size: PAGE, alignment: 12, phase: 0 };
    assert_eq!((pair.tree.lowest_gap(&all), pair.tree.highest_gap(&all)), (Some(0), Some(0_u64.wrapping_sub(PAGE))));
    assert_eq!(pair.tree.lowest_gap(&GapRequest { size: u64::MAX, ..all }), Some(0));
    assert_eq!(pair.tree.lowest_gap(&GapRequest { size: 0, ..all }), None);
    assert_eq!(pair.tree.lowest_gap(&GapRequest { alignment: 64, ..all }), None);
    pair.insert(Entry { first: 0, last: u64::MAX, pointer: None });
    pair.check();
    assert_eq!((pair.tree.lowest_gap(&all), pair.tree.highest_gap(&all)), (None, None));
    pair.ask(0);
    pair.ask(u64::MAX);
}

/// Gaps that saturate the counts: 2^32 pages and more, of which only one is large enough.
#[test]
fn gaps_beyond_the_counts() {
    let mut pair = Pair::<3, 3>::new();
    let step = 1_u64 << 45;
    for number in 1..200 {
        let shorter = if number == 150 { step / 2 } else { 0 };
        pair.insert(entry(number * step - shorter, 1));
    }
    pair.check();
    let request = GapRequest { first: step, last: 199 * step, size: step + step / 4, alignment: 12, phase: 0 };
    assert_eq!(pair.tree.lowest_gap(&request), Some(150 * step - step / 2 + PAGE));
    assert_eq!(pair.tree.highest_gap(&request), Some(151 * step - request.size));
    assert_eq!(pair.tree.lowest_gap(&GapRequest { size: 2 * step, ..request }), None);
}

/// How full leaves are after `count` insertions, and how many nodes there are.
fn fullness(firsts: impl Iterator<Item = u64>) -> (f64, f64) {
    let mut pair = Pair::<23, 19>::new();
    for first in firsts {
        pair.heap.allowed = 40;
        assert!(pair.tree.insert(entry(first, 1), &mut pair.heap));
    }
    let (mut nodes, mut leaves) = (Vec::new(), Vec::new());
    let (root, _) = pair.tree.root().unwrap();
    check_node::<23, 19>(root, pair.tree.height(), true, &mut nodes, &mut leaves);
    let entries = pair.tree.len() as f64;
    (entries / (leaves.len() * 23) as f64, nodes.len() as f64 * 585.0 / entries)
}

/// A small generator of numbers, so that no order is a lucky one.
fn scrambled(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20 << 13)
}

#[test]
fn leaves_stay_full() {
    const COUNT: u64 = 20_000;
    let (up, bytes_up) = fullness((0..COUNT).map(|number| number * 2 * PAGE));
    let (down, bytes_down) = fullness((0..COUNT).rev().map(|number| number * 2 * PAGE));
    // Upwards and downwards in a gap between others, in the midst of a leaf and between two full ones.
    let others =
        || [0, 1 << 40, 3 << 40, 7 << 40].into_iter().cycle().zip(0_u64..40).map(|(base, at)| base + at * 2 * PAGE);
    let (between, _) = fullness(others().chain((0..COUNT).map(|number| (2 << 40) + number * 2 * PAGE)));
    let (between_down, _) = fullness(others().chain((0..COUNT).rev().map(|number| (2 << 40) + number * 2 * PAGE)));
    let full = || [0, 3 << 40].into_iter().flat_map(|base| (0..46).map(move |at| base + at * 2 * PAGE));
    let (behind_full, _) = fullness(full().chain((0..COUNT).map(|number| (2 << 40) + number * 2 * PAGE)));
    let (random, bytes_random) = fullness(scrambled(COUNT));
    std::println!("share of a window in bytes: up {bytes_up:.1}, down {bytes_down:.1}, random {bytes_random:.1}");
    assert!(up > 0.99 && down > 0.99 && behind_full > 0.99, "{up} {down} {behind_full}");
    assert!(between > 0.9 && between_down > 0.85, "{between} {between_down}");
    assert!(random > 0.78, "{random}");
    assert!(bytes_up < 28.0 && bytes_down < 28.0 && bytes_random < 36.0, "{bytes_up} {bytes_down} {bytes_random}");
}
