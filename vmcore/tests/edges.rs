//! Exact edges that random operations seldom come upon: the last physical frame, a move past the last key, a run that moves whole.

use std::alloc::Layout;
use std::num::NonZeroU64;
use std::ptr::NonNull;

use vmcore::Platform;
use vmcore::addr::{Frame, FrameRange};
use vmcore::page_tree::{Context, Node, NodeSize, NodeStore, OutOfNodes, PageTree, TreeError, Uncounted};
use vmcore::paging::{MemoryType, Mmu};
use vmcore::vm_area::{AreaError, AreaKind};
use vmcore::vm_space::{Inherit, MapRequest, Place, SpaceError};

mod common;

use common::{PAGE, USER_WRITE, World};

fn fixed(first: u64, count: u64) -> AreaKind {
    AreaKind::Fixed { frames: FrameRange::new(Frame::new(first), count).unwrap(), memory: MemoryType::Uncached }
}

#[test]
fn a_fixed_area_ends_with_physical_memory_at_the_latest() {
    let world = World::new(1);
    let beyond = 1 << (world.sim.machine().mmu().physical_bits() - PAGE.trailing_zeros());
    for (first, count) in [(beyond - 1, 1), (beyond - 5, 5)] {
        let area = common::area(&world.sim, fixed(first, count));
        assert_eq!(area.map(|area| area.size()), Ok(count * PAGE), "{first:#x} + {count}");
    }
    for (first, count) in [(beyond, 1), (beyond - 1, 2), (beyond - 5, 6)] {
        let AreaKind::Fixed { frames, .. } = fixed(first, count) else { unreachable!() };
        let area = common::area(&world.sim, fixed(first, count));
        assert_eq!(area.map(drop), Err(AreaError::Frames(frames)), "{first:#x} + {count}");
    }
    world.finish();
}

/// Windows so far from one another that each needs tables of its own: what is reserved for them adds up.
#[test]
fn many_windows_are_populated_at_once() {
    const GIB: u64 = 1 << 30;
    let world = World::new(1);
    let space = world.user();
    let device = common::area(&world.sim, fixed(1 << 26, 12)).unwrap();
    let open = world.open(12);
    for (area, first) in [(&device, 0), (&open, 64 * GIB)] {
        let requests: [_; 12] = std::array::from_fn(|index| {
            let page = index as u64;
            MapRequest::new(area).at(GIB + first + page * GIB).offset(page * PAGE).size(PAGE).populated()
        });
        let mut ranges = [space.bounds(); 12];
        assert_eq!(space.map_many(&requests, &mut ranges), Ok(12));
        for (range, page) in ranges.iter().zip(0..) {
            let physical = space.walk(range.start()).physical();
            assert!(physical.is_some(), "{page}: {range:?}");
            if matches!(area.kind(), AreaKind::Fixed { .. }) {
                assert_eq!(physical.map(|address| address.as_u64()), Some(((1 << 26) + page) * PAGE));
            }
        }
        for range in ranges {
            common::unmap(&space, range.start().as_u64(), 1);
        }
    }
    drop((device, open, space));
    world.finish();
}

/// Exactly the pages that were named stay out of a clone; the next clone has them again when that is taken back.
#[test]
fn a_page_in_the_middle_is_kept_from_clones() {
    let world = World::new(1);
    let space = world.user();
    let start = 1 << 30;
    let range = |start, size| world.sim.machine().mmu().range(start, size).unwrap();
    let whole = range(start, 4 * PAGE);
    let page = range(start + PAGE, PAGE);
    space.map_anonymous(4 * PAGE, Place::At(start), USER_WRITE, Inherit::Copy, 0).unwrap();
    let inherited = || {
        let child = space.try_clone(()).unwrap().complete();
        child.windows().map(|window| (window.range.start().as_u64(), window.range.size())).collect::<Vec<_>>()
    };
    space.keep_from_clones(page, true).unwrap();
    assert_eq!(inherited(), [(start, PAGE), (start + 2 * PAGE, 2 * PAGE)]);
    space.keep_from_clones(whole, false).unwrap();
    assert_eq!(inherited(), [(start, 4 * PAGE)]);
    let nowhere = range(start + 3 * PAGE, 2 * PAGE);
    let refused = space.keep_from_clones(nowhere, true);
    assert_eq!(refused, Err(SpaceError::NoWindow(common::at(start + 4 * PAGE))));
    assert_eq!(inherited(), [(start, 4 * PAGE)], "all or nothing");
    drop(space);
    world.finish();
}

/// Counts the nodes that are taken.
#[derive(Default)]
struct Heap {
    taken: usize,
}

fn layout(size: NodeSize) -> Layout {
    Layout::from_size_align(size.bytes(), NodeSize::ALIGN).unwrap()
}

// SAFETY: the allocator gives each block to one user at a time, with the size and alignment of a node.
unsafe impl NodeStore for Heap {
    fn take(&mut self, size: NodeSize) -> Result<NonNull<Node>, OutOfNodes> {
        self.taken += 1;
        // SAFETY: a node's size is not zero.
        NonNull::new(unsafe { std::alloc::alloc(layout(size)) }.cast()).ok_or(OutOfNodes::new())
    }

    unsafe fn give(&mut self, node: NonNull<Node>, size: NodeSize) {
        // SAFETY: the node came from `take`, as the caller promises.
        unsafe { std::alloc::dealloc(node.as_ptr().cast(), layout(size)) }
    }
}

#[test]
fn keys_cannot_move_past_the_last() {
    let (mut heap, mut values) = (Heap::default(), Uncounted);
    let mut context = Context { nodes: &mut heap, values: &mut values };
    // SAFETY: all nodes come from the host's one allocator.
    let mut tree = unsafe { PageTree::<NonZeroU64>::new() };
    for key in 10..15 {
        tree.insert(key, NonZeroU64::new(100 + key).unwrap(), &mut context).unwrap();
    }
    // Where the range goes is named as it was asked for, whichever of its keys are present.
    let refused = tree.move_range(8..15, u64::MAX - 5, &mut context);
    assert_eq!(refused, Err(TreeError::Misplaced { key: u64::MAX - 5, count: 7 }));
    assert_eq!(tree.get(10), NonZeroU64::new(110), "nothing moved");
    assert_eq!(tree.move_range(8..15, u64::MAX - 6, &mut context), Ok(5));
    assert_eq!((tree.get(10), tree.get(u64::MAX)), (None, NonZeroU64::new(114)));
    tree.clear(&mut context);
}

#[test]
fn a_run_that_stays_aligned_moves_whole() {
    let (mut heap, mut values) = (Heap::default(), Uncounted);
    let mut context = Context { nodes: &mut heap, values: &mut values };
    // SAFETY: all nodes come from the host's one allocator.
    let mut tree = unsafe { PageTree::<NonZeroU64>::new() };
    tree.insert_run(64, 64, NonZeroU64::new(1000).unwrap(), &mut context).unwrap();
    let nodes = tree.node_count();
    context.nodes.taken = 0;
    assert_eq!(tree.move_range(64..128, 256, &mut context), Ok(64));
    assert_eq!(context.nodes.taken, 0, "it was split on the way");
    assert_eq!(tree.node_count(), nodes, "as many nodes as where it was");
    assert_eq!((tree.get(64), tree.get(256), tree.get(319)), (None, NonZeroU64::new(1000), NonZeroU64::new(1063)));
    // Where it cannot be a run its values are in leaves, one by one.
    assert_eq!(tree.move_range(256..320, 600, &mut context), Ok(64));
    assert!(tree.node_count() > nodes);
    assert_eq!((tree.get(256), tree.get(600), tree.get(663)), (None, NonZeroU64::new(1000), NonZeroU64::new(1063)));
    tree.clear(&mut context);
}
