//! Every call of the POSIX face with memory that runs out at every possible moment: each request for frames refused alone, and with all later ones. What is
//! refused changed nothing, loses no frame, and succeeds once there are frames again.

mod common;

use std::fmt::Write;

use common::{PAGE, World, at, store};
use vmcore::frame::FrameUse;
use vmcore::inspect::SpaceMap;
use vmcore::posix::{Advice, Backing, Errno, MapFlags, Memory, Protection, RemapFlags};
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaKind};
use vmcore::vm_space::{MapRequest, Space};

const A: u64 = 0x40_0000;
const DATA: Protection = Protection::READ.union(Protection::WRITE);
const PRIVATE: MapFlags = MapFlags::PRIVATE.union(MapFlags::ANONYMOUS).union(MapFlags::FIXED);
const SHARED: MapFlags = MapFlags::SHARED.union(MapFlags::ANONYMOUS).union(MapFlags::FIXED);
const MOVE: RemapFlags = RemapFlags::MAY_MOVE.union(RemapFlags::FIXED);

/// A page of the scene.
const fn page(number: u64) -> u64 {
    A + number * PAGE
}

/// A program's memory, with something of everything in it; and objects that fill the pools to another height each time.
struct Scene {
    world: World,
    space: Space<Sim>,
    memory: Memory<Sim>,
    child: Option<(Space<Sim>, Memory<Sim>)>,
    file: Area<Sim>,
    padding: Vec<Area<Sim>>,
    other: Space<Sim>,
}

impl Scene {
    fn new(padding: u64) -> Self {
        let world = World::of(Sim::builder().frames(2048));
        let space = world.user();
        world.enter(0, &space);
        let file = Area::new(&world.sim, AreaKind::Paged { size: 4 * PAGE, key: 1 }, 0).unwrap();
        let request = file.request(0, 4 * PAGE).unwrap().unwrap();
        file.supply(request.token, 0, &[7; 4 * PAGE as usize]).unwrap();
        let memory = Memory::new(&world.sim, 0);
        let other = world.user();
        let mut scene = Self { world, space, memory, child: None, file, padding: Vec::new(), other };
        // 0-7 private, written to before and after a fork; 8-11 shared; 12-15 private beside another; 16-19 a file's, 20-23 the same, shared.
        scene.map(0, 8, DATA, PRIVATE);
        scene.map(8, 4, DATA, SHARED);
        scene.map(14, 2, DATA, PRIVATE);
        scene.map(12, 2, DATA, PRIVATE);
        for number in [0, 1, 3, 5, 6, 8, 10, 12, 15] {
            scene.store(number);
        }
        for (first, flags) in [(16, MapFlags::PRIVATE), (20, MapFlags::SHARED)] {
            let backing = Backing::Area { area: &scene.file, offset: 0 };
            scene.memory.mmap(&scene.space, page(first), 4 * PAGE, DATA, flags | MapFlags::FIXED, backing).unwrap();
        }
        scene.store(17);
        scene.memory.madvise(&scene.space, page(4), PAGE, Advice::GuardInstall).unwrap();
        scene.memory.mprotect(&scene.space, page(6), 2 * PAGE, Protection::READ).unwrap();
        scene.child = Some(scene.memory.fork(&scene.space, ()).unwrap());
        scene.store(1);
        scene.memory.set_heap(page(64));
        for number in 0..padding {
            let area = scene.world.open(1);
            scene.other.map(&MapRequest::new(&area).at(page(2 * number))).unwrap();
            scene.padding.push(area);
        }
        scene
    }

    fn map(&mut self, first: u64, pages: u64, protection: Protection, flags: MapFlags) {
        let backing = Backing::Anonymous;
        self.memory.mmap(&self.space, page(first), pages * PAGE, protection, flags, backing).unwrap();
    }

    fn store(&self, number: u64) {
        store(&self.world.sim, 0, &self.space, page(number), number + 1).unwrap();
    }

    /// All that can be seen.
    fn dump(&self) -> String {
        let mut text = String::new();
        writeln!(text, "{}\n{:?}", SpaceMap(&self.space), self.memory).unwrap();
        for space in [Some(&self.space), self.child.as_ref().map(|(space, _)| space)].into_iter().flatten() {
            for number in 0..100 {
                let mut word = [0; 8];
                let read = space.read_bytes(at(page(number)), &mut word).is_ok();
                write!(text, "{number}: {read} {} {:?}, ", u64::from_ne_bytes(word), space.frame_at(at(page(number))))
                    .unwrap();
            }
        }
        let counts = self.world.sim.frame_counts();
        writeln!(text, "\n{} pages, {} tables", counts.of(FrameUse::Page), counts.of(FrameUse::Table)).unwrap();
        text
    }

    fn end(self) {
        self.world.sim.check_translations();
        self.world.leave(0, &self.space);
        drop((self.child, self.space, self.memory, self.file, self.padding, self.other));
        self.world.finish();
    }
}

/// To how many heights the pools are filled: more than a page of any of them holds of what fills it.
const HEIGHTS: u64 = 64;

type Call = fn(&mut Scene) -> Result<(), Errno>;

/// Makes the call with every k-th request refused, alone and with all later ones; gives how often it was refused.
fn exhaust(name: &str, padding: u64, call: Call) -> u64 {
    let mut refused = 0;
    for all_later in [false, true] {
        for k in 0.. {
            let mut scene = Scene::new(padding);
            let before = scene.dump();
            let sim = scene.world.sim.clone();
            let requests = sim.allocation_requests();
            if all_later {
                sim.fail_allocation_after(k)
            } else {
                sim.fail_kth(k)
            };
            let result = call(&mut scene);
            let reached = sim.allocation_requests() - requests > k;
            sim.fail_never();
            match result {
                Ok(()) => {}
                Err(Errno::NoMemory) if reached => {
                    refused += 1;
                    assert_eq!(scene.dump(), before, "{name}: request {k} was refused: not everything is as before");
                    call(&mut scene).unwrap_or_else(|error| panic!("{name}: after request {k}: {error}"));
                }
                Err(error) => panic!("{name}: request {k} of padding {padding}: {error}"),
            }
            scene.end();
            if !reached {
                break;
            }
        }
    }
    refused
}

/// Each call is made with the pools filled to several heights, and to more until it was refused at some request: what takes a few records alone needs a frame only where a pool is
/// full. `never` are those that are not refused at any of the heights, which is as exact: each has its reason beside it.
fn every(never: &[&str], calls: &[(&str, Call)]) {
    let mut without = Vec::new();
    for (name, call) in calls {
        let (mut refused, mut padding) = (0, 0);
        while padding < 4 || (refused == 0 && padding < HEIGHTS) {
            refused += exhaust(name, padding, *call);
            padding += 1;
        }
        if refused == 0 {
            without.push(*name);
        }
    }
    assert_eq!(without, never, "these need no frame at any height of the pools");
}

fn map(scene: &mut Scene, first: u64, pages: u64, protection: Protection, flags: MapFlags) -> Result<(), Errno> {
    let Scene { space, memory, .. } = scene;
    memory.mmap(space, page(first), pages * PAGE, protection, flags, Backing::Anonymous).map(drop)
}

fn file(scene: &mut Scene, first: u64, pages: u64, flags: MapFlags) -> Result<(), Errno> {
    let Scene { space, memory, file, .. } = scene;
    let backing = Backing::Area { area: file, offset: PAGE };
    memory.mmap(space, page(first), pages * PAGE, DATA, flags | MapFlags::FIXED, backing).map(drop)
}

fn remap(scene: &mut Scene, old: (u64, u64), size: u64, flags: RemapFlags, new: u64) -> Result<(), Errno> {
    let Scene { space, memory, .. } = scene;
    memory.mremap(space, page(old.0), old.1 * PAGE, size * PAGE, flags, page(new)).map(drop)
}

fn advise(scene: &mut Scene, first: u64, pages: u64, advice: Advice) -> Result<(), Errno> {
    let Scene { space, memory, .. } = scene;
    memory.madvise(space, page(first), pages * PAGE, advice)
}

#[test]
fn mmap() {
    every(
        &[],
        &[
            ("in a gap", |scene| map(scene, 30, 4, DATA, PRIVATE)),
            ("beside a neighbour", |scene| map(scene, 24, 2, DATA, PRIVATE)),
            ("shared", |scene| map(scene, 30, 4, DATA, SHARED)),
            ("a stack", |scene| map(scene, 60, 4, DATA, PRIVATE | MapFlags::GROWS_DOWN)),
            ("in place of several", |scene| map(scene, 2, 12, DATA, PRIVATE)),
            ("in place of a part", |scene| map(scene, 9, 1, DATA, SHARED)),
            ("of a file", |scene| file(scene, 30, 2, MapFlags::PRIVATE)),
            ("of a file in place of several", |scene| file(scene, 7, 3, MapFlags::PRIVATE)),
            ("of a shared file in place of it", |scene| file(scene, 17, 5, MapFlags::SHARED)),
        ],
    );
}

#[test]
fn munmap_and_mprotect() {
    every(
        &[],
        &[
            ("unmapping a part", |scene| scene.memory.munmap(&scene.space, page(1), PAGE)),
            ("unmapping parts of several", |scene| scene.memory.munmap(&scene.space, page(5), 8 * PAGE)),
            ("unmapping a part of a file", |scene| scene.memory.munmap(&scene.space, page(17), PAGE)),
            ("protecting a part", |scene| scene.memory.mprotect(&scene.space, page(1), PAGE, Protection::READ)),
            ("protecting several", |scene| scene.memory.mprotect(&scene.space, page(5), 9 * PAGE, Protection::empty())),
            ("sealing", |scene| scene.memory.mseal(&scene.space, page(9), PAGE)),
        ],
    );
}

#[test]
fn mremap() {
    every(
        // In place: more of the same window, which takes no record and no node of the index.
        &["growing"],
        &[
            ("shrinking", |scene| remap(scene, (0, 6), 2, RemapFlags::empty(), 0)),
            ("growing", |scene| {
                remap(scene, (14, 2), 2, RemapFlags::empty(), 0).and(remap(scene, (20, 4), 8, RemapFlags::empty(), 0))
            }),
            ("moving", |scene| remap(scene, (0, 4), 4, MOVE, 40)),
            ("moving over others", |scene| remap(scene, (0, 4), 4, MOVE, 9)),
            ("moving several over others", |scene| remap(scene, (0, 8), 8, MOVE, 14)),
            ("moving and growing", |scene| remap(scene, (12, 4), 7, MOVE, 40)),
            ("moving and growing over others", |scene| remap(scene, (0, 6), 7, MOVE, 11)),
            ("moving and shrinking over others", |scene| remap(scene, (0, 6), 3, MOVE, 10)),
            ("moving shared memory", |scene| remap(scene, (8, 4), 6, MOVE, 40)),
            ("moving a file's", |scene| remap(scene, (16, 4), 4, MOVE, 1)),
            // Across 1 GiB: the windows come to lie in tables of their own.
            ("moving several to where no table is", |scene| remap(scene, (0, 8), 8, MOVE, 0x3_fc00 - 6)),
            ("keeping the old addresses", |scene| remap(scene, (0, 6), 6, MOVE | RemapFlags::DONT_UNMAP, 9)),
            ("keeping several", |scene| remap(scene, (5, 8), 8, MOVE | RemapFlags::DONT_UNMAP, 40)),
        ],
    );
}

#[test]
fn madvise() {
    every(
        &[],
        &[
            ("discarding", |scene| advise(scene, 0, 16, Advice::DontNeed)),
            ("keeping from children", |scene| advise(scene, 1, 1, Advice::DontFork)),
            ("wiping for children", |scene| advise(scene, 1, 1, Advice::WipeOnFork)),
            ("guarding", |scene| advise(scene, 0, 3, Advice::GuardInstall)),
            ("guarding several", |scene| advise(scene, 5, 5, Advice::GuardInstall)),
            ("large pages", |scene| advise(scene, 1, 1, Advice::HugePage)),
            ("populating for reading", |scene| advise(scene, 5, 10, Advice::PopulateRead)),
            ("populating for writing", |scene| advise(scene, 8, 8, Advice::PopulateWrite)),
        ],
    );
}

#[test]
fn others() {
    every(
        &[],
        &[
            ("locking", |scene| scene.memory.mlock(&scene.space, page(9), 2 * PAGE)),
            ("the break", |scene| {
                let Scene { space, memory, .. } = scene;
                let end = memory.brk(space, page(66));
                if end == page(66) { Ok(()) } else { Err(Errno::NoMemory) }
            }),
            ("forking", |scene| scene.memory.fork(&scene.space, ()).map(drop)),
        ],
    );
}
