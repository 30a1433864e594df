//! Memory that runs out at every possible moment: each operation is made with its first request for frames refused, its
//! second, and so on, and with all from there on. It says that frames were short, everything is as before, no frame is
//! lost, and it succeeds once there are frames again.

mod common;

use std::fmt::Write;

use common::{KERNEL_START, PAGE, World, at, enter, load, store};
use vmcore::Platform;
use vmcore::addr::{Frame, FrameRange};
use vmcore::frame::FrameUse;
use vmcore::inspect::SpaceMap;
use vmcore::paging::{Access, DetachedFlush, Flush, MemoryType, Mmu, Tag};
use vmcore::sim::Sim;
use vmcore::vm_area::{Account, Area, AreaError, AreaKind, PageState, PageWait, Pin, RequestToken, SectionLayout};
use vmcore::vm_space::{Advice, Destination, Fault, Inherit, MapRequest, Place, Resolution, Space, SpaceError};
use vmcore::{RegistryError, addr::PageRange};

const A: u64 = 0x40_0000;
const DEVICE: u64 = 0x20_0000;

/// What an operation works on; what it makes stays here, so that it is dropped with the rest.
struct Scene {
    world: World,
    spaces: Vec<Space<Sim>>,
    areas: Vec<Area<Sim>>,
    registered: Vec<FrameRange>,
    /// Addresses whose walks belong to what must not change.
    watched: Vec<u64>,
    /// Flushes that are outstanding, each of which holds an object of a pool.
    held: Vec<DetachedFlush<Sim, ()>>,
    pins: Vec<Pin<Sim>>,
    accounts: Vec<Account<Sim>>,
}

/// Why an operation was refused.
#[derive(Debug)]
enum Refused {
    OutOfFrames,
    Other(String),
}

impl From<SpaceError> for Refused {
    fn from(error: SpaceError) -> Self {
        match error {
            SpaceError::OutOfFrames(lacking) if lacking.wanted > 0 => Self::OutOfFrames,
            SpaceError::Area(error) => error.into(),
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<AreaError> for Refused {
    fn from(error: AreaError) -> Self {
        match error {
            AreaError::OutOfFrames(lacking) if lacking.wanted > 0 => Self::OutOfFrames,
            AreaError::Registry(error) => error.into(),
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<RegistryError> for Refused {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::OutOfFrames(lacking) if lacking.wanted > 0 => Self::OutOfFrames,
            other => Self::Other(other.to_string()),
        }
    }
}

fn device(pages: u64) -> FrameRange {
    FrameRange::new(Frame::new(DEVICE), pages).unwrap()
}

impl Scene {
    fn new() -> Self {
        let world = World::of(Sim::builder().frames(512).device(device(1024)));
        let user = world.user();
        world.enter(0, &user);
        Self {
            world,
            spaces: vec![user],
            areas: Vec::new(),
            registered: Vec::new(),
            watched: Vec::new(),
            held: Vec::new(),
            pins: Vec::new(),
            accounts: Vec::new(),
        }
    }

    /// The user space.
    fn user(&self) -> &Space<Sim> {
        &self.spaces[0]
    }

    fn area(mut self, kind: AreaKind) -> Self {
        self.areas.push(common::area(&self.world.sim, kind).unwrap());
        self
    }

    fn open(self, pages: u64) -> Self {
        self.area(AreaKind::Open { size: pages * PAGE })
    }

    /// Takes objects of the pools, so that those that are left in a pool's page run out at some number.
    fn padded(mut self, count: usize) -> Self {
        for _ in 0..count {
            let area = self.world.open(2);
            // A small node, too.
            area.write(0, &[1]).unwrap().complete();
            self.held.push(area.resize(PAGE).unwrap().detach());
        }
        self
    }

    /// The last area, shown whole at `A` and private, and a clone of it all: every page is shared.
    fn cloned(mut self, touched: u64) -> Self {
        let request = MapRequest::new(self.areas.last().unwrap()).at(A).inherit(Inherit::Copy);
        self.user().map(&request).unwrap();
        for page in 0..touched {
            self = self.touched(page);
        }
        let child = self.user().try_clone(()).unwrap().complete();
        self.spaces.push(child);
        self.watched.extend((0..16).map(|page| A + page * PAGE));
        self
    }

    /// The last area, shown whole at `A`.
    fn mapped(mut self) -> Self {
        self.user().map(&MapRequest::new(self.areas.last().unwrap()).at(A)).unwrap();
        self.watched.extend((0..16).map(|page| A + page * PAGE));
        self
    }

    fn touched(self, page: u64) -> Self {
        store(&self.world.sim, 0, self.user(), A + page * PAGE, page + 1).unwrap();
        self
    }

    fn range(&self, page: u64, pages: u64) -> PageRange {
        self.user().range(A + page * PAGE, pages * PAGE).unwrap()
    }

    /// Everything that can be observed, as text.
    fn dump(&self) -> String {
        let mut text = String::new();
        for space in self.spaces.iter().chain([self.world.kernel()]) {
            writeln!(text, "{}", SpaceMap(space)).unwrap();
        }
        for area in &self.areas {
            let frames: Vec<_> = (0..16).map(|page| area.frame_at(page * PAGE)).collect();
            let (size, resident, windows) = (area.size(), area.resident_pages(), area.windows());
            writeln!(text, "{:?}: {size:#x}, {resident} resident, {windows} windows, {frames:?}", area.kind()).unwrap();
            writeln!(text, "{} pinned, {}", area.pinned_pages(), area.memory()).unwrap();
        }
        for account in &self.accounts {
            writeln!(text, "{account:?}").unwrap();
        }
        for address in &self.watched {
            writeln!(text, "{}", self.user().walk(at(*address))).unwrap();
        }
        // Tables may only come and go with what they map.
        let counts = self.world.sim.frame_counts();
        writeln!(text, "{} pages, {} tables", counts.of(FrameUse::Page), counts.of(FrameUse::Table)).unwrap();
        text
    }

    /// Drops everything and balances the frames.
    fn end(mut self) {
        self.world.sim.check_translations();
        self.world.leave(0, self.user());
        for flush in self.held.drain(..) {
            self.world.sim.apply(flush.request());
            // SAFETY: every CPU of the request has just carried it out.
            unsafe { flush.acknowledged() };
        }
        for range in &self.registered {
            assert!(self.world.sim.machine().unregister(&self.world.sim, *range, MemoryType::WriteBack));
        }
        drop(self.pins);
        drop(self.accounts);
        drop(self.areas);
        drop(self.spaces);
        self.world.finish();
    }
}

/// What comes of a change, once it is flushed.
fn complete<T>(flush: Flush<Sim, T>) -> T {
    flush.complete()
}

/// Makes the operation with every k-th request refused, alone and with all later ones. It must have been refused at least
/// `at_least` times, or the test tests nothing.
fn exhaust(at_least: u64, scene: impl Fn() -> Scene, operation: impl Fn(&mut Scene) -> Result<(), Refused>) -> u64 {
    let mut total = 0;
    for (which, all_later) in [("alone", false), ("and all later ones", true)] {
        let mut refused = 0;
        for k in 0.. {
            let mut scene = scene();
            let before = scene.dump();
            let sim = scene.world.sim.clone();
            let requests = sim.allocation_requests();
            if all_later {
                sim.fail_allocation_after(k)
            } else {
                sim.fail_kth(k)
            };
            let result = operation(&mut scene);
            let reached = sim.allocation_requests() - requests > k;
            sim.fail_never();
            match result {
                Ok(()) if !reached => {
                    scene.end();
                    break;
                }
                // It could do without what was refused.
                Ok(()) => {}
                Err(Refused::OutOfFrames) => {
                    refused += 1;
                    assert_eq!(scene.dump(), before, "request {k} ({which}) was refused: not everything is as before");
                    operation(&mut scene).unwrap_or_else(|error| panic!("after request {k} ({which}): {error:?}"));
                }
                Err(Refused::Other(text)) => panic!("request {k} ({which}) was refused, and the answer is: {text}"),
            }
            scene.end();
        }
        assert!(refused >= at_least, "refused {refused} times ({which})");
        total += refused;
    }
    total
}

/// Small objects come out of pages of pools: with as many of them in use as a page holds, one more needs a frame. At some
/// padding it must have been refused.
fn with_every_padding(exhaust: impl Fn(usize) -> u64) {
    assert!((0..70).map(exhaust).sum::<u64>() > 0, "no request was refused at any padding");
}

#[test]
fn kernel_space() {
    // The pool's page, the root, and a table for each of the two root slots.
    for k in 0..8 {
        let sim = Sim::builder().frames(64).build();
        let start = sim.frame_counts();
        let bounds = sim.machine().mmu().range(KERNEL_START - 0x80_0000_0000, 0x100_0000_0000).unwrap();
        sim.fail_kth(k);
        let result = Space::kernel(&sim, bounds, None, ());
        sim.fail_never();
        match result {
            Ok(kernel) => {
                assert!(k >= 4, "only {k} requests");
                drop(kernel);
            }
            Err(error) => assert!(matches!(error, SpaceError::OutOfFrames(_)), "{error}"),
        }
        assert_eq!(sim.frame_counts(), start);
        drop(Space::kernel(&sim, bounds, None, ()).unwrap());
        assert_eq!(sim.frame_counts(), start);
    }
}

#[test]
fn user_space() {
    exhaust(1, Scene::new, |scene| {
        let space = Space::user(scene.world.kernel(), ())?;
        scene.spaces.push(space);
        Ok(())
    });
}

#[test]
fn areas() {
    let layout = SectionLayout { pages: 2, guard: 1, count: 600 };
    for (at_least, kind) in [
        (1, AreaKind::Open { size: 4 * PAGE }),
        (1, AreaKind::Untracked { size: 4 * PAGE }),
        (1, AreaKind::Ring { size: 4 * PAGE }),
        (1, AreaKind::Growing { limit: 4 * PAGE, gap: PAGE }),
        (2, AreaKind::Fixed { frames: device(4), memory: MemoryType::WriteCombining }),
        (2, AreaKind::Guarded(layout)),
        (1, AreaKind::Paged { size: 4 * PAGE, key: 0 }),
    ] {
        exhaust(at_least, Scene::new, |scene| {
            let area = common::area(&scene.world.sim, kind)?;
            scene.areas.push(area);
            Ok(())
        });
    }
}

#[test]
fn map() {
    exhaust(
        1,
        || Scene::new().open(4),
        |scene| {
            scene.user().map(&MapRequest::new(&scene.areas[0]).at(A))?;
            Ok(())
        },
    );
}

#[test]
fn map_table_exhaustion_rolls_back() {
    let request = |scene: &Scene| -> Result<(), Refused> {
        scene.user().map(&MapRequest::new(scene.areas.last().unwrap()).at(A + 0x1f_8000).populated())?;
        Ok(())
    };
    // Pages, nodes of the tree, the window's record, and tables for two leaf tables.
    exhaust(20, || Scene::new().open(16), |scene| request(scene));
    exhaust(20, || Scene::new().area(AreaKind::Untracked { size: 16 * PAGE }), |scene| request(scene));
    let fixed = AreaKind::Fixed { frames: device(1000), memory: MemoryType::WriteBack };
    exhaust(4, || Scene::new().area(fixed), |scene| request(scene));
}

#[test]
fn unmap_middle() {
    let scenes: [fn() -> Scene; 3] = [
        || Scene::new().open(8).mapped().touched(3).touched(6),
        || Scene::new().area(AreaKind::Untracked { size: 8 * PAGE }).mapped().touched(3).touched(6),
        || {
            let fixed = AreaKind::Fixed { frames: device(1024), memory: MemoryType::WriteBack };
            let scene = Scene::new().area(fixed).mapped();
            scene.user().populate(scene.range(0, 1024), Access::READ).unwrap().complete();
            scene
        },
    ];
    for (scene, at_least) in scenes.into_iter().zip([0, 0, 1]) {
        exhaust(at_least, scene, |scene| {
            scene.user().unmap(scene.range(2, 3))?.complete();
            Ok(())
        });
    }
    let many = |count: u64| {
        let scene = Scene::new().open(8).mapped().touched(3).touched(6);
        for window in 1..count {
            scene.user().map(&MapRequest::new(&scene.areas[0]).at(A + window * 16 * PAGE)).unwrap();
        }
        scene
    };
    with_every_padding(|padding| {
        exhaust(
            0,
            || many(padding as u64),
            |scene| {
                scene.user().unmap(scene.range(2, 3))?.complete();
                Ok(())
            },
        )
    });
}

/// So many windows that records and index need another frame at some of the unmappings.
#[test]
fn unmap_parts_of_many_windows() {
    let mut refused = 0;
    let scene = Scene::new().open(3);
    let sim = &scene.world.sim;
    // One more, so that not every page of the pool ends with a mapping.
    scene.user().map(&MapRequest::new(&scene.areas[0])).unwrap();
    for window in 0..80 {
        let address = A + window * 8 * PAGE;
        scene.user().map(&MapRequest::new(&scene.areas[0]).at(address)).unwrap();
        let range = scene.user().range(address + PAGE, PAGE).unwrap();
        let before = scene.dump();
        sim.fail_allocation_after(0);
        let result = scene.user().unmap(range).map(|flush| flush.complete());
        sim.fail_never();
        match result.map_err(Refused::from) {
            Ok(()) => {}
            Err(Refused::OutOfFrames) => {
                refused += 1;
                assert_eq!(scene.dump(), before);
                scene.user().unmap(range).unwrap().complete();
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(refused >= 3, "refused {refused} times");
    scene.end();
}

#[test]
fn protect() {
    let scenes: [fn() -> Scene; 2] = [
        || Scene::new().open(8).mapped().touched(3).touched(6),
        || {
            let fixed = AreaKind::Fixed { frames: device(1024), memory: MemoryType::WriteBack };
            let scene = Scene::new().area(fixed).mapped();
            scene.user().populate(scene.range(0, 1024), Access::READ).unwrap().complete();
            scene
        },
    ];
    for (scene, at_least) in scenes.into_iter().zip([0, 1]) {
        exhaust(at_least, scene, |scene| {
            scene.user().protect(scene.range(2, 3), Access::READ)?.complete();
            Ok(())
        });
    }
    with_every_padding(|padding| {
        exhaust(
            0,
            || {
                let scene = Scene::new().open(8).mapped().touched(3).touched(6);
                for window in 1..padding as u64 {
                    scene.user().map(&MapRequest::new(&scene.areas[0]).at(A + window * 16 * PAGE)).unwrap();
                }
                scene
            },
            |scene| {
                scene.user().protect(scene.range(2, 3), Access::READ)?.complete();
                Ok(())
            },
        )
    });
}

#[test]
fn lock_pages_and_seal() {
    exhaust(
        10,
        || Scene::new().open(16).mapped().touched(3),
        |scene| scene.user().lock_pages(scene.range(2, 12)).map(complete).map_err(Refused::from),
    );
    with_every_padding(|padding| {
        exhaust(
            0,
            || {
                let scene = Scene::new().open(8).mapped().touched(3);
                for window in 1..padding as u64 {
                    scene.user().map(&MapRequest::new(&scene.areas[0]).at(A + window * 16 * PAGE)).unwrap();
                }
                scene
            },
            |scene| Ok(scene.user().seal(scene.range(2, 3))?),
        )
    });
}

#[test]
fn advise() {
    // Anonymous pages of two windows, cut in the middle of nodes.
    let scene = |padding| {
        let scene = Scene::new();
        for (address, pages) in [(A, 70), (A + 70 * PAGE, 10)] {
            let area = scene.world.open(pages);
            scene.user().map(&MapRequest::new(&area).at(address).populated()).unwrap();
        }
        scene.padded(padding)
    };
    with_every_padding(|padding| {
        exhaust(
            0,
            || scene(padding),
            |scene| {
                scene.user().advise(scene.range(3, 74), Advice::NotNeeded)?.complete();
                Ok(())
            },
        )
    });
    exhaust(
        3,
        || {
            let scene = Scene::new().open(8).mapped();
            scene.areas[0].write(3 * PAGE, &[1]).unwrap().complete();
            scene
        },
        |scene| {
            scene.user().advise(scene.range(0, 8), Advice::Needed)?.complete();
            Ok(())
        },
    );
}

#[test]
fn relocate() {
    // The new place takes tables for two leaf tables, and not aligned alike.
    exhaust(
        3,
        || Scene::new().open(16).mapped().touched(3).touched(12),
        |scene| {
            let to = Destination::To(Place::At(0x8000_0000 + 0x1f_8000));
            scene.user().relocate(scene.range(2, 12), 11 * PAGE, to)?.complete();
            Ok(())
        },
    );
    with_every_padding(|padding| {
        exhaust(
            0,
            || {
                let scene = Scene::new().open(8).mapped().touched(3).touched(6);
                for window in 1..padding as u64 {
                    scene.user().map(&MapRequest::new(&scene.areas[0]).at(A + window * 16 * PAGE)).unwrap();
                }
                scene
            },
            |scene| {
                let to = Destination::To(Place::At(A + 0x80_0000));
                scene.user().relocate(scene.range(2, 3), 3 * PAGE, to)?.complete();
                Ok(())
            },
        )
    });
}

#[test]
fn relocate_leaving() {
    let private = |padding: usize| {
        let mut scene = Scene::new().padded(padding).open(16);
        scene.user().map(&MapRequest::new(&scene.areas[0]).at(A).inherit(Inherit::Copy)).unwrap();
        scene.areas.clear();
        scene.watched.extend((0..16).map(|page| A + page * PAGE));
        scene.touched(3).touched(12)
    };
    let leave = |scene: &mut Scene| {
        let to = Place::At(0x8000_0000 + 0x1f_8000);
        scene.user().relocate_leaving(scene.range(2, 12), to)?.complete();
        Ok(())
    };
    exhaust(3, || private(0), leave);
    exhaust(3, || Scene::new().open(16).mapped().touched(3).touched(12), leave);
    with_every_padding(|padding| exhaust(0, || private(padding), leave));
}

#[test]
fn guards() {
    let fixed = AreaKind::Fixed { frames: device(1024), memory: MemoryType::WriteBack };
    // A table where a large leaf is split, and a block for the guards (of which a smaller one is asked for if a large one is refused).
    exhaust(
        1,
        || {
            let scene = Scene::new().area(fixed).mapped();
            scene.user().populate(scene.range(0, 1024), Access::READ).unwrap().complete();
            scene
        },
        |scene| {
            scene.user().install_guards(scene.range(2, 3))?.complete();
            let fault = scene.user().fault(Fault::new(A + 2 * PAGE, common::USER_READ)).unwrap_err();
            assert!(matches!(fault, SpaceError::Guard(_)), "{fault}");
            Ok(())
        },
    );
}

#[test]
fn map_many() {
    exhaust(
        20,
        || Scene::new().open(8).open(8),
        |scene| {
            let mut ranges = [scene.user().bounds(); 3];
            let [one, two] = [&scene.areas[0], &scene.areas[1]].map(MapRequest::new);
            let requests = [one.at(A + 0x1f_8000).populated(), two.at(A + 0x40_0000), two.at(0x8000_0000).populated()];
            scene.user().map_many(&requests, &mut ranges)?;
            Ok(())
        },
    );
    with_every_padding(|padding| {
        exhaust(
            0,
            || {
                let scene = Scene::new().open(8);
                for window in 0..padding as u64 {
                    scene.user().map(&MapRequest::new(&scene.areas[0]).at(A + window * 16 * PAGE)).unwrap();
                }
                scene
            },
            |scene| {
                let place = Place::At(0x8000_0000);
                scene.user().map_anonymous(4 * PAGE, place, Access::READ, Inherit::Copy, 0)?;
                Ok(())
            },
        )
    });
}

#[test]
fn populate() {
    exhaust(
        10,
        || Scene::new().open(16).mapped().touched(3),
        |scene| scene.user().populate(scene.range(0, 16), Access::WRITE).map(complete).map_err(Refused::from),
    );
    exhaust(
        10,
        || Scene::new().area(AreaKind::Untracked { size: 16 * PAGE }).mapped().touched(3),
        |scene| scene.user().populate(scene.range(0, 16), Access::WRITE).map(complete).map_err(Refused::from),
    );
    exhaust(
        1,
        || {
            let fixed = AreaKind::Fixed { frames: device(1024), memory: MemoryType::WriteBack };
            Scene::new().area(fixed).mapped().touched(5)
        },
        |scene| scene.user().populate(scene.range(0, 1024), Access::WRITE).map(complete).map_err(Refused::from),
    );
}

#[test]
fn populate_of_several_windows_is_all_or_nothing() {
    exhaust(
        10,
        || {
            let scene = Scene::new().open(8).mapped().open(8);
            scene.user().map(&MapRequest::new(&scene.areas[1]).at(A + 8 * PAGE)).unwrap();
            scene
        },
        |scene| scene.user().populate(scene.range(0, 16), Access::READ).map(complete).map_err(Refused::from),
    );
}

#[test]
fn fault() {
    let kinds = [
        AreaKind::Open { size: 4 * PAGE },
        AreaKind::Untracked { size: 4 * PAGE },
        AreaKind::Fixed { frames: device(4), memory: MemoryType::WriteBack },
    ];
    for kind in kinds {
        exhaust(
            3,
            || Scene::new().area(kind).mapped(),
            |scene| {
                for access in [Access::READ, Access::WRITE] {
                    scene.user().fault(Fault::new(A + PAGE, access | Access::USER))?.complete();
                }
                Ok(())
            },
        );
    }
}

#[test]
fn resize() {
    with_every_padding(|padding| {
        exhaust(
            0,
            || Scene::new().padded(padding).open(16).mapped().touched(3).touched(12),
            |scene| {
                scene.areas[0].resize(5 * PAGE)?.complete();
                Ok(())
            },
        )
    });
    // The cut goes through nodes of several levels.
    with_every_padding(|padding| {
        exhaust(
            0,
            || {
                let mut scene = Scene::new().open(0x4_0000);
                scene.watched.push(A);
                for page in [0, 1, 64, 100, 4096, 5000, 0x3_ffff] {
                    scene.areas[0].write(page * PAGE, &[1]).unwrap().complete();
                }
                scene.padded(padding)
            },
            |scene| {
                scene.areas[0].resize(99 * PAGE)?.complete();
                Ok(())
            },
        )
    });
    exhaust(
        0,
        || Scene::new().open(4).mapped(),
        |scene| {
            scene.areas[0].resize(5000 * PAGE)?.complete();
            Ok(())
        },
    );
}

#[test]
fn sections() {
    let layout = SectionLayout { pages: 2, guard: 1, count: 4 };
    exhaust(
        0,
        || Scene::new().area(AreaKind::Guarded(layout)),
        |scene| {
            scene.areas[0].take_section()?;
            Ok(())
        },
    );
    with_every_padding(|padding| {
        exhaust(
            0,
            || {
                let scene = Scene::new().padded(padding).area(AreaKind::Guarded(layout)).mapped();
                for _ in 0..3 {
                    scene.areas[0].take_section().unwrap();
                }
                scene.touched(1).touched(2).touched(4).touched(8)
            },
            |scene| {
                scene.areas[0].give_section(1)?.complete();
                Ok(())
            },
        )
    });
}

#[test]
fn area_write_and_read() {
    let kinds = [
        (6, AreaKind::Open { size: 16 * PAGE }),
        (0, AreaKind::Fixed { frames: device(16), memory: MemoryType::WriteBack }),
    ];
    for (at_least, kind) in kinds {
        exhaust(
            at_least,
            || Scene::new().area(kind),
            |scene| scene.areas[0].write(PAGE / 2, &[0xab; 6 * PAGE as usize]).map(complete).map_err(Refused::from),
        );
        exhaust(
            0,
            || Scene::new().area(kind),
            |scene| {
                scene.areas[0].read(PAGE / 2, &mut [0; 6 * PAGE as usize])?;
                Ok(())
            },
        );
    }
}

#[test]
fn registry() {
    exhaust(1, Scene::new, |scene| {
        scene.world.sim.machine().register(&scene.world.sim, device(4), MemoryType::WriteBack)?;
        scene.registered.push(device(4));
        Ok(())
    });
}

#[test]
fn adopt_foreign() {
    let mut refused = 0;
    // With other objects of the node's size before it, so that it takes a frame at some number.
    for (k, users) in (0..4).flat_map(|k| (0..8).map(move |users| (k, users))) {
        let sim = Sim::builder().frames(128).build();
        let start = sim.frame_counts();
        let mmu = sim.machine().mmu();
        let bounds = mmu.range(KERNEL_START, 0x80_0000_0000).unwrap();
        // A loader's tables: one leaf table for the first 2 MiB.
        let [root, pdpt, pd, pt] = core::array::from_fn(|_| sim.new_table());
        let page = sim.new_page();
        for (table, below) in [(root, pdpt), (pdpt, pd), (pd, pt), (pt, page)] {
            sim.set_physical_word(table, 0, below.number() << 12 | 7);
        }
        let loaders = sim.frame_counts();
        let kernel = Space::kernel(&sim, bounds, None, ()).unwrap();
        let lower = mmu.range(0, 0x80_0000_0000).unwrap();
        let before = (SpaceMap(&kernel).to_string(), kernel.walk(at(0)).to_string());
        let users: Vec<_> = (0..users).map(|_| Space::user(&kernel, ()).unwrap()).collect();
        sim.fail_allocation_after(k);
        // SAFETY: the root was made above, and its tables stay until the end of the test.
        let result = unsafe { kernel.adopt_foreign(root, lower) };
        sim.fail_never();
        if let Err(error) = result {
            refused += 1;
            assert!(matches!(error, SpaceError::OutOfFrames(_)), "{error}");
            assert_eq!((SpaceMap(&kernel).to_string(), kernel.walk(at(0)).to_string()), before);
            // SAFETY: as above.
            unsafe { kernel.adopt_foreign(root, lower) }.unwrap();
        }
        assert_eq!(kernel.walk(at(0x123)).physical().map(|found| found.as_u64()), Some(page.number() << 12 | 0x123));
        // Used, but never edited, freed or counted.
        enter(&sim, 0, &kernel);
        sim.write_u64(0, at(8), true, 5).unwrap();
        assert!(matches!(kernel.unmap(lower), Err(SpaceError::Foreign(_) | SpaceError::Range(_))));
        let area = common::area(&sim, AreaKind::Open { size: PAGE }).unwrap();
        kernel.map(&MapRequest::new(&area)).unwrap();
        store(&sim, 0, &kernel, KERNEL_START, 6).unwrap();
        assert_eq!(load(&sim, 0, &kernel, KERNEL_START).unwrap(), 6);
        sim.load(0, root, Tag(0));
        sim.unload(0);
        common::forget(0, &kernel);
        drop((users, kernel, area));
        sim.assert_no_violation();
        assert_eq!(sim.frame_counts(), loaders);
        assert_eq!(sim.physical_word(page, 1), Some(5));
        assert_ne!(sim.frame_counts(), start);
    }
    assert!(refused > 0);
}

/// A real shortage rather than a refused request: the machine has so few frames that everything fails sooner or later.
#[test]
fn a_small_machine_runs_full_and_empty_again() {
    for frames in [12, 16, 24, 40] {
        let world = World::of(Sim::builder().frames(frames));
        for _ in 0..3 {
            let mut kept = Vec::new();
            let Ok(space) = Space::user(world.kernel(), ()) else { continue };
            let error = loop {
                let area = match common::area(&world.sim, AreaKind::Open { size: 8 * PAGE }) {
                    Ok(area) => area,
                    Err(error) => break Refused::from(error),
                };
                kept.push(area);
                match space.map(&MapRequest::new(kept.last().unwrap()).populated()) {
                    Ok(_) => {}
                    Err(error) => break error.into(),
                }
            };
            assert!(matches!(error, Refused::OutOfFrames), "{error:?}");
            drop(kept);
            space.destroy().map_err(|(_, error)| error).unwrap().complete();
        }
        world.finish();
    }
}

#[test]
fn clone() {
    let scene = || {
        let scene = Scene::new().open(16).cloned(3).open(16);
        let request = MapRequest::new(&scene.areas[1]).at(A + 64 * PAGE);
        scene.user().map(&request.inherit(Inherit::Wipe)).unwrap();
        scene
    };
    // The gates come out of the page that the nodes are in.
    exhaust(1, scene, |scene| {
        let child = scene.user().try_clone(())?.complete();
        scene.spaces.push(child);
        Ok(())
    });
}

#[test]
fn snapshot() {
    with_every_padding(|padding| {
        exhaust(
            0,
            || Scene::new().padded(padding).open(16).cloned(3),
            |scene| {
                let copy = scene.areas[0].snapshot()?.complete();
                scene.areas.push(copy);
                Ok(())
            },
        )
    });
}

#[test]
fn writes_to_shared_pages() {
    let fault = Fault::new(A + PAGE, Access::WRITE | Access::USER);
    with_every_padding(|padding| {
        exhaust(
            0,
            || Scene::new().open(16).cloned(3).padded(padding),
            |scene| {
                scene.user().fault(fault)?.complete();
                Ok(())
            },
        )
    });
    with_every_padding(|padding| {
        exhaust(
            0,
            || Scene::new().open(16).cloned(3).padded(padding),
            |scene| {
                scene.spaces[1].fault(fault)?.complete();
                Ok(())
            },
        )
    });
    exhaust(
        4,
        || Scene::new().open(16).cloned(5),
        |scene| scene.areas[0].write(PAGE / 2, &[0xab; 4 * PAGE as usize]).map(complete).map_err(Refused::from),
    );
    exhaust(
        6,
        || Scene::new().open(16).cloned(5),
        |scene| scene.user().populate(scene.range(0, 8), Access::WRITE).map(complete).map_err(Refused::from),
    );
}

#[test]
fn untouched_private_memory() {
    let look = Fault::new(A, Access::READ | Access::USER);
    exhaust(
        1,
        || Scene::new().open(16).cloned(0),
        |scene| {
            scene.user().fault(look)?.complete();
            Ok(())
        },
    );
    let write = Fault::new(A, Access::WRITE | Access::USER);
    exhaust(
        1,
        || {
            let scene = Scene::new().open(16).cloned(0);
            scene.user().fault(look).unwrap().complete();
            scene
        },
        |scene| {
            scene.user().fault(write)?.complete();
            Ok(())
        },
    );
}

#[test]
fn pin_and_allocate() {
    let scene = || Scene::new().open(16).mapped().touched(3).touched(6);
    exhaust(6, scene, |scene| {
        let pin = scene.areas[0].pin(2 * PAGE, 8 * PAGE)?.complete();
        scene.pins.push(pin);
        Ok(())
    });
    // The run, and a node.
    exhaust(1, scene, |scene| {
        let pin = scene.areas[0].allocate(8 * PAGE, 8 * PAGE, 2)?.complete();
        scene.pins.push(pin);
        Ok(())
    });
}

#[test]
fn ring() {
    let scene = || Scene::new().area(AreaKind::Ring { size: 6 * PAGE }).mapped().touched(2).touched(9);
    exhaust(4, scene, |scene| {
        scene.user().populate(scene.range(4, 6), Access::WRITE)?.complete();
        Ok(())
    });
    exhaust(2, scene, |scene| {
        scene.areas[0].write(5 * PAGE, &[3; 2 * PAGE as usize])?.complete();
        Ok(())
    });
}

#[test]
fn growing() {
    let scene = || {
        let mut scene = Scene::new().area(AreaKind::Growing { limit: 4096 * PAGE, gap: PAGE });
        let top = MapRequest::new(&scene.areas[0]).at(A + 4095 * PAGE).offset(4095 * PAGE);
        scene.user().map(&top).unwrap();
        scene.watched.push(A + 5 * PAGE);
        scene
    };
    // The page, its node in the tree, the table below another 2 MiB.
    exhaust(3, scene, |scene| {
        scene.user().fault(Fault::new(A + 5 * PAGE, Access::WRITE | Access::USER))?.complete();
        Ok(())
    });
}

#[test]
fn memory_type() {
    with_every_padding(|padding| {
        let scene = || Scene::new().open(4).mapped().touched(1).padded(padding);
        exhaust(0, scene, |scene| {
            scene.areas[0].set_memory(MemoryType::WriteCombining)?.complete();
            Ok(())
        })
    });
}

#[test]
fn accounts() {
    // The record, or the node that finds it by its number: a pool's page may have room for one of them.
    exhaust(1, Scene::new, |scene| {
        let account = Account::new(&scene.world.sim, 16).map_err(SpaceError::OutOfFrames)?;
        scene.accounts.push(account);
        Ok(())
    });
    let charged = || {
        let mut scene = Scene::new().open(8).mapped().touched(3);
        scene.accounts.push(Account::new(&scene.world.sim, 16).unwrap());
        scene.areas[0].charge_to(&scene.accounts[0]).unwrap();
        scene.touched(6)
    };
    exhaust(6, charged, |scene| {
        scene.user().populate(scene.range(0, 8), Access::WRITE)?.complete();
        Ok(())
    });
    exhaust(2, charged, |scene| {
        scene.areas[0].write(4 * PAGE, &[3; 3 * PAGE as usize])?.complete();
        Ok(())
    });
    exhaust(1, charged, |scene| {
        let pin = scene.areas[0].allocate(0, 3 * PAGE, 0)?.complete();
        scene.pins.push(pin);
        Ok(())
    });
}

impl Scene {
    fn paged(self, pages: u64) -> Self {
        self.area(AreaKind::Paged { size: pages * PAGE, key: 0 })
    }

    /// What the last area knows of its pages.
    fn states(&self) -> Vec<Option<PageState>> {
        let area = self.areas.last().unwrap();
        (0..area.size() / PAGE).map(|page| area.page_state(page * PAGE)).collect()
    }
}

/// An operation that comes to an end by waiting for a page has succeeded: it has asked for it.
fn asked<T: core::fmt::Debug>(result: Result<T, SpaceError>) -> Result<(), Refused> {
    match result {
        Err(
            SpaceError::Awaits { wait: PageWait::Request(_), .. }
            | SpaceError::Area(AreaError::Awaits(PageWait::Request(_))),
        ) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(done) => Err(Refused::Other(format!("nothing had to be brought: {done:?}"))),
    }
}

#[test]
fn requests() {
    let scene = |padding: usize| {
        // Each of these pages takes a node and nothing else, so that those that are left in a pool's page run out at some number.
        let scene = Scene::new();
        if padding == 0 {
            return scene.paged(300).mapped();
        }
        let scene = scene.open(70 * 64);
        for leaf in 0..padding as u64 {
            scene.areas[0].write(leaf * 64 * PAGE, &[1]).unwrap().complete();
        }
        scene.paged(300).mapped()
    };
    let waits = |scene: &Scene| (0..300).map(|_| Some(PageState::Absent)).eq(scene.states());
    let refused: u64 = (0..70)
        .map(|padding| {
            exhaust(
                0,
                || scene(padding),
                |scene| {
                    assert!(waits(scene), "a request that was refused is marked");
                    match scene.user().fault(Fault::new(A + 5 * PAGE, Access::READ))?.complete() {
                        Resolution::Request(_) => Ok(()),
                        other => Err(Refused::Other(format!("{other:?}"))),
                    }
                },
            )
        })
        .sum();
    assert!(refused > 0, "no request was refused at any padding");
    // Many pages at once take many nodes.
    exhaust(
        1,
        || scene(0),
        |scene| {
            assert!(waits(scene), "a request that was refused is marked");
            let request = scene.areas[0].request(0, 300 * PAGE)?.ok_or(Refused::Other("none".into()))?;
            assert_eq!(request.size, 300 * PAGE);
            Ok(())
        },
    );
    exhaust(
        1,
        || scene(0),
        |scene| {
            assert!(waits(scene), "a request that was refused is marked");
            asked(scene.user().populate(scene.range(0, 300), Access::READ).map(Flush::complete))
        },
    );
    exhaust(
        1,
        || scene(0),
        |scene| {
            assert!(waits(scene), "a request that was refused is marked");
            let written = scene.areas[0].write(5, &[1; 200 * PAGE as usize]).map(Flush::complete);
            asked(written.map_err(SpaceError::Area))
        },
    );
}

#[test]
fn supplied_pages() {
    let scene = || {
        let scene = Scene::new().paged(8).mapped();
        scene.areas[0].request(0, 8 * PAGE).unwrap().unwrap();
        scene
    };
    let wait = Some(PageState::Requested(RequestToken(1)));
    exhaust(4, scene, |scene| {
        assert_eq!(scene.states(), [wait; 8], "an answer that was refused took something");
        let supplied = scene.areas[0].supply(RequestToken(1), 2 * PAGE, &[1; 4 * PAGE as usize])?;
        assert_eq!((supplied, scene.areas[0].resident_pages()), (4, 4));
        Ok(())
    });
    // The fault after it takes tables alone.
    exhaust(
        1,
        || {
            let scene = scene();
            scene.areas[0].supply(RequestToken(1), 0, &[1; 8 * PAGE as usize]).unwrap();
            scene
        },
        |scene| {
            scene.user().fault(Fault::new(A, Access::WRITE))?.complete();
            Ok(())
        },
    );
}

/// What frees memory works where there is none.
#[test]
fn write_back_and_eviction_allocate_nothing() {
    let scene = Scene::new().paged(200).mapped();
    let (sim, area) = (scene.world.sim.clone(), &scene.areas[0]);
    let request = area.request(0, 200 * PAGE).unwrap().unwrap();
    area.supply(request.token, 0, &[1; 200 * PAGE as usize]).unwrap();
    for page in 0..200 {
        load(&sim, 0, scene.user(), A + page * PAGE).unwrap();
    }
    for page in (0..200).step_by(3) {
        store(&sim, 0, scene.user(), A + page * PAGE, 7).unwrap();
    }
    let requests = sim.allocation_requests();
    sim.fail_allocation_after(0);
    assert_eq!(area.evict(0, area.size()).unwrap().complete().pages, 133);
    while let Some(flush) = area.begin_write_back(0, area.size()).unwrap() {
        flush.complete().written();
    }
    assert_eq!(area.evict(0, area.size()).unwrap().complete().pages, 67);
    assert_eq!((area.resident_pages(), sim.allocation_requests()), (0, requests));
    sim.fail_never();
    scene.end();
}

impl Scene {
    /// A view of the last area, which is paged and there, shown private at `A`; of its pages so many are copies.
    fn viewed(mut self, copies: u64) -> Self {
        let (file, size) = (self.areas.last().unwrap(), self.areas.last().unwrap().size());
        let request = file.request(0, size).unwrap().unwrap();
        file.supply(request.token, 0, &vec![7; size as usize]).unwrap();
        let view = file.overlay(0, size).unwrap();
        self.areas.push(view);
        let view = self.areas.last().unwrap();
        self.user().map(&MapRequest::new(view).at(A).inherit(Inherit::Copy)).unwrap();
        self.watched.extend((0..16).map(|page| A + page * PAGE));
        for page in 0..copies {
            self = self.touched(page);
        }
        self
    }

    /// Whether the view has copies of so many pages, and the file is clean.
    fn copies(&self, copies: u64) -> bool {
        let [file, view] = &self.areas[..] else { panic!("not a file and its view") };
        let is_clean = |page: u64| file.page_state(page * PAGE) == Some(PageState::Clean);
        view.resident_pages() == copies && (0..file.size() / PAGE).all(is_clean)
    }
}

#[test]
fn private_views_of_paged_areas() {
    with_every_padding(|padding| {
        let scene = || Scene::new().padded(padding).paged(8);
        exhaust(0, scene, |scene| {
            let view = scene.areas[0].overlay(0, 4 * PAGE);
            assert_eq!(scene.areas[0].overlays(), usize::from(view.is_ok()));
            scene.areas.push(view?);
            Ok(())
        })
    });
    let scene = || Scene::new().paged(8).viewed(0);
    // A copy takes a frame, and tables; a look no frame.
    exhaust(2, scene, |scene| {
        assert!(scene.copies(0));
        scene.user().fault(Fault::new(A + PAGE, Access::WRITE))?.complete();
        assert!(scene.copies(1));
        Ok(())
    });
    exhaust(1, scene, |scene| {
        let pages = scene.world.sim.frame_counts().of(FrameUse::Page);
        scene.user().fault(Fault::new(A + PAGE, Access::READ))?.complete();
        assert_eq!(scene.world.sim.frame_counts().of(FrameUse::Page), pages);
        Ok(())
    });
    // With what is shown, in a large view (nodes), and beside copies that a clone has as well.
    exhaust(
        8,
        || Scene::new().paged(100).viewed(2),
        |scene| {
            assert!(scene.copies(2));
            scene.user().populate(scene.range(0, 100), Access::WRITE)?.complete();
            assert!(scene.copies(100));
            Ok(())
        },
    );
    let cloned = || {
        let mut scene = Scene::new().paged(70).viewed(3);
        let child = scene.user().try_clone(()).unwrap().complete();
        scene.spaces.push(child);
        scene
    };
    exhaust(8, cloned, |scene| {
        assert!(scene.copies(3));
        scene.user().populate(scene.range(0, 70), Access::WRITE)?.complete();
        assert!(scene.copies(70));
        Ok(())
    });
    exhaust(2, cloned, |scene| {
        scene.areas[1].write(PAGE + 5, &[1; 6 * PAGE as usize])?.complete();
        Ok(())
    });
    exhaust(2, cloned, |scene| {
        let pin = scene.areas[1].pin(2 * PAGE, 3 * PAGE)?.complete();
        scene.pins.push(pin);
        Ok(())
    });
    let refused: u64 = (0..70)
        .map(|padding| {
            let scene = || Scene::new().padded(padding).paged(8).viewed(3);
            let cloned = exhaust(1, scene, |scene| {
                let child = scene.user().try_clone(())?.complete();
                scene.spaces.push(child);
                Ok(())
            });
            let snapshot = exhaust(0, scene, |scene| {
                let copy = scene.areas.last().unwrap().snapshot()?.complete();
                scene.areas.push(copy);
                Ok(())
            });
            let released = exhaust(0, scene, |scene| {
                scene.user().advise(scene.range(1, 2), Advice::NotNeeded)?.complete();
                Ok(())
            });
            cloned + snapshot + released
        })
        .sum();
    assert!(refused > 3 * 70, "no object was refused at any padding");
}

/// A paged area that becomes smaller takes nodes and objects for each of its views that has copies there.
#[test]
fn truncation_under_private_views() {
    let scene = |views: usize| {
        let mut scene = Scene::new().paged(80).viewed(70);
        for number in 0..views {
            // Their trees are shared, and some differ in a page.
            let view = scene.areas.last().unwrap().snapshot().unwrap().complete();
            if number % 3 != 0 {
                view.write(66 * PAGE, &[9]).unwrap().complete();
            }
            scene.areas.push(view);
        }
        scene
    };
    for views in [0, 1, 12, 90] {
        exhaust(
            u64::from(views > 12),
            || scene(views),
            |scene| {
                let (file, views) = scene.areas.split_first().unwrap();
                assert!(views.iter().all(|view| view.resident_pages() == 70), "copies went with what was refused");
                file.resize(65 * PAGE)?.complete();
                assert!(views.iter().all(|view| view.resident_pages() == 65));
                Ok(())
            },
        );
    }
}
