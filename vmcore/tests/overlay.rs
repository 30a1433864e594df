//! Private views of paged areas, case by case: what they show, what a write copies, and what reaches them from below, also while a flush is
//! outstanding. Random operations are in `overlay_model.rs`.

mod common;

use common::{PAGE, USER_READ, USER_WRITE, World, at, load, store, unmap};
use vmcore::frame::FrameUse;
use vmcore::paging::{Access, DetachedFlush, Flush, MemoryType, RiscV64, X86_64};
use vmcore::sim::{Sim, SimFormat};
use vmcore::vm_area::{Account, Area, AreaError, AreaKind, PageRequest, PageState, PageWait, Rights};
use vmcore::vm_space::{
    Advice, Destination, Fault, Inherit, MapRequest, PageState as State, Place, Resolution, Space, SpaceError,
};
use vmcore::{Platform, addr::PageRange};

const A: u64 = 0x40_0000;
const B: u64 = 0x80_0000;
const KEY: u64 = 77;
const FILE: u64 = 8;

/// Two CPUs in one space; a file of 8 pages, and a view of 6 of them from the second on, which is shown whole at `A`.
struct Scene {
    world: World,
    space: Space<Sim>,
    file: Area<Sim>,
    view: Area<Sim>,
}

/// What page `page` of the file begins with.
fn word(page: u64) -> u64 {
    u64::from_ne_bytes([page as u8 + 1; 8])
}

impl Scene {
    /// With nothing brought yet.
    fn empty() -> Self {
        let world = World::new(2);
        let space = world.user();
        world.enter(0, &space);
        world.enter(1, &space);
        let file = Area::new(&world.sim, AreaKind::Paged { size: FILE * PAGE, key: KEY }, 0).unwrap();
        let view = file.overlay(PAGE, 6 * PAGE).unwrap();
        space.map(&MapRequest::new(&view).at(A).inherit(Inherit::Copy)).unwrap();
        Self { world, space, file, view }
    }

    /// With the whole file there.
    fn new() -> Self {
        let scene = Self::empty();
        supply_all(&scene.file);
        scene
    }

    fn sim(&self) -> &Sim {
        &self.world.sim
    }

    fn load(&self, cpu: usize, page: u64) -> u64 {
        load(self.sim(), cpu, &self.space, A + page * PAGE).unwrap()
    }

    fn store(&self, cpu: usize, page: u64, value: u64) {
        store(self.sim(), cpu, &self.space, A + page * PAGE, value).unwrap();
    }

    fn range(&self, page: u64, pages: u64) -> PageRange {
        self.space.range(A + page * PAGE, pages * PAGE).unwrap()
    }

    fn pages(&self) -> u64 {
        self.sim().frame_counts().of(FrameUse::Page)
    }

    fn end(self) {
        let Self { world, space, file, view } = self;
        world.sim.check_translations();
        world.leave(0, &space);
        world.leave(1, &space);
        drop(file);
        space.destroy().map_err(|(_, error)| error).unwrap().complete();
        drop(view);
        world.finish();
    }
}

fn supply_all<M: SimFormat>(file: &Area<Sim<M>>) {
    while let Some(request) = file.request(0, file.size()).unwrap() {
        supply(file, request);
    }
}

/// Answers with what the file holds.
fn supply<M: SimFormat>(file: &Area<Sim<M>>, request: PageRequest) {
    for page in request.offset / PAGE..(request.offset + request.size) / PAGE {
        file.supply(request.token, page * PAGE, &[page as u8 + 1; PAGE as usize]).unwrap();
    }
}

fn fault(space: &Space<Sim>, address: u64, access: Access) -> Result<Resolution, SpaceError> {
    space.fault(Fault::new(address, access)).map(Flush::complete)
}

fn requested(space: &Space<Sim>, address: u64, access: Access) -> PageRequest {
    match fault(space, address, access) {
        Ok(Resolution::Request(request)) => request,
        other => panic!("{other:?} instead of a request"),
    }
}

fn acknowledge<T>(sim: &Sim, flush: DetachedFlush<Sim, T>) -> T {
    sim.apply(flush.request());
    // SAFETY: every CPU of the request has just carried it out.
    unsafe { flush.acknowledged() }
}

fn word_of(area: &Area<Sim>, page: u64) -> Result<u64, AreaError> {
    let mut bytes = [0; 8];
    area.read(page * PAGE, &mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

fn write_word(area: &Area<Sim>, page: u64, value: u64) {
    area.write(page * PAGE, &value.to_ne_bytes()).unwrap().complete();
}

#[test]
fn reading_shows_the_file_and_asks_the_file() {
    let scene = Scene::empty();
    let before = scene.pages();
    let request = requested(&scene.space, A + 2 * PAGE + 5, USER_READ);
    assert_eq!((request.key, request.offset, request.size, request.write), (KEY, 3 * PAGE, PAGE, false));
    assert_eq!(scene.file.page_state(3 * PAGE), Some(PageState::Requested(request.token)));
    assert_eq!(fault(&scene.space, A + 2 * PAGE, USER_WRITE), Ok(Resolution::Wait(request.token)));
    scene.file.fail(request.token, request.offset, request.size).unwrap();
    assert_eq!(fault(&scene.space, A + 2 * PAGE, USER_READ), Err(SpaceError::Failed(at(A + 2 * PAGE))));
    scene.file.retry(0, scene.file.size()).unwrap();
    supply(&scene.file, requested(&scene.space, A + 2 * PAGE, USER_READ));
    assert_eq!(scene.load(0, 2), word(3));
    assert_eq!(scene.pages(), before + 1, "the file's page, and no other");
    assert_eq!(scene.space.frame_at(at(A + 2 * PAGE)), scene.file.frame_at(3 * PAGE));
    assert_eq!(scene.view.frame_at(2 * PAGE), scene.file.frame_at(3 * PAGE));
    assert_eq!((scene.view.resident_pages(), scene.view.page_state(2 * PAGE)), (0, Some(PageState::Absent)));
    assert!(matches!(scene.view.kind(), AreaKind::Private { .. }));
    assert_eq!((scene.file.windows(), scene.file.overlays(), scene.view.windows()), (1, 1, 1));
    scene.end();
}

#[test]
fn a_write_copies_and_leaves_the_file_alone() {
    let scene = Scene::new();
    let other = scene.file.overlay(0, FILE * PAGE).unwrap();
    scene.space.map(&MapRequest::new(&other).at(B)).unwrap();
    let account = Account::new(scene.sim(), 2).unwrap();
    scene.view.charge_to(&account).unwrap();
    assert_eq!(scene.load(0, 0), word(1));
    assert_eq!(load(scene.sim(), 0, &scene.space, B + PAGE).unwrap(), word(1));
    assert_eq!(account.charged(), 0, "the file's pages are not the view's");
    let before = scene.pages();
    scene.store(0, 0, 10);
    assert_eq!((scene.pages(), account.charged()), (before + 1, 1));
    assert_eq!((scene.load(0, 0), load(scene.sim(), 0, &scene.space, B + PAGE).unwrap()), (10, word(1)));
    assert_eq!((word_of(&scene.file, 1), word_of(&scene.view, 0)), (Ok(word(1)), Ok(10)));
    assert_eq!(scene.file.page_state(PAGE), Some(PageState::Clean));
    assert_eq!(scene.view.page_state(0), Some(PageState::Dirty));
    assert_eq!(scene.file.next_dirty(0), Ok(None));
    // The rest of the page came along.
    assert_eq!(load(scene.sim(), 0, &scene.space, A + PAGE - 8).unwrap(), word(1));
    scene.store(1, 1, 11);
    assert_eq!(
        scene.space.fault(Fault::new(A + 2 * PAGE, USER_WRITE)).map(Flush::complete),
        Err(SpaceError::Area(AreaError::OutOfAccount(vmcore::vm_area::OutOfAccount { wanted: 1, left: 0 })))
    );
    assert_eq!(scene.load(1, 2), word(3), "nothing was changed");
    scene.space.unmap(scene.space.range(B, FILE * PAGE).unwrap()).unwrap().complete();
    drop((other, account));
    scene.end();
}

#[test]
fn a_write_to_an_absent_page_asks_for_reading_and_then_copies() {
    let scene = Scene::empty();
    let request = requested(&scene.space, A, USER_WRITE);
    assert!(!request.write, "the file's page is not written to");
    supply(&scene.file, request);
    scene.store(0, 0, 5);
    assert_eq!((word_of(&scene.file, 1), word_of(&scene.view, 0)), (Ok(word(1)), Ok(5)));
    assert_eq!(scene.file.page_state(PAGE), Some(PageState::Clean));
    scene.end();
}

#[test]
fn the_files_later_contents_show_where_there_is_no_copy() {
    let scene = Scene::new();
    scene.space.map(&MapRequest::new(&scene.file).at(B)).unwrap();
    assert_eq!((scene.load(0, 0), scene.load(1, 1)), (word(1), word(2)));
    scene.store(0, 1, 20);
    store(scene.sim(), 1, &scene.space, B + PAGE, 30).unwrap();
    store(scene.sim(), 1, &scene.space, B + 2 * PAGE, 31).unwrap();
    assert_eq!((scene.load(0, 0), scene.load(0, 1)), (30, 20));
    write_word(&scene.file, 1, 40);
    assert_eq!((scene.load(1, 0), word_of(&scene.view, 0)), (40, Ok(40)));
    unmap(&scene.space, B, FILE);
    scene.end();
}

/// What goes wrong without a reference: the file's page goes while a CPU still remembers it through the view that copied it.
#[test]
fn the_files_frame_outlives_the_flush_of_the_copy() {
    let scene = Scene::new();
    assert_eq!((scene.load(0, 0), scene.load(1, 0)), (word(1), word(1)));
    let before = scene.pages();
    let copied = scene.space.fault(Fault::new(A, USER_WRITE)).unwrap().detach();
    assert!(!copied.request().scope.is_empty(), "CPU 1 has to forget the file's page");
    assert!(matches!(fault(&scene.space, A, USER_READ), Err(SpaceError::Retry(_))), "the page is gated");
    assert!(matches!(scene.view.write(0, &[1]), Err(AreaError::Retry)));
    let cut = scene.file.resize(PAGE).unwrap().detach();
    assert_eq!(scene.sim().read_u64(1, at(A), true), Ok(word(1)), "CPU 1 has not heard of it");
    acknowledge(scene.sim(), cut);
    // Once the truncation is through nobody sees what it took, though that was out of the tables before.
    assert!(scene.sim().read_u64(1, at(A), true).is_err());
    assert_eq!(scene.pages(), before + 1 - 6, "all but the page and its copy, which the gate holds");
    acknowledge(scene.sim(), copied);
    assert_eq!(scene.pages(), before + 1 - 7 - 1);
    scene.end();
}

/// A window that is left behind where its pages went away shows the file, as it did before anything was written.
#[test]
fn what_is_left_behind_shows_the_file() {
    let scene = Scene::new();
    let view = scene.file.overlay(0, 4 * PAGE).unwrap();
    let range = scene.space.map(&MapRequest::new(&view).at(B).inherit(Inherit::Copy)).unwrap();
    drop(view);
    store(scene.sim(), 0, &scene.space, B + PAGE, 77).unwrap();
    assert_eq!(load(scene.sim(), 1, &scene.space, B + PAGE).unwrap(), 77);
    let to = scene.space.relocate_leaving(range, Place::At(B + 16 * PAGE)).unwrap().complete();
    for cpu in 0..2 {
        let at = |address| load(scene.sim(), cpu, &scene.space, address).unwrap();
        assert_eq!((at(B + PAGE), at(to.start().as_u64() + PAGE)), (word(1), 77));
        assert_eq!((at(B), at(to.start().as_u64())), (word(0), word(0)));
    }
    store(scene.sim(), 1, &scene.space, B + PAGE, 78).unwrap();
    assert_eq!(load(scene.sim(), 0, &scene.space, to.start().as_u64() + PAGE).unwrap(), 77);
    unmap(&scene.space, B, 20);
    scene.end();
}

#[test]
fn a_copy_is_not_seen_beside_what_it_was_copied_from() {
    let scene = Scene::new();
    scene.space.map(&MapRequest::new(&scene.view).at(B).inherit(Inherit::Copy)).unwrap();
    assert_eq!(scene.load(1, 3), word(4));
    assert_eq!(load(scene.sim(), 0, &scene.space, B + 3 * PAGE).unwrap(), word(4));
    scene.store(0, 3, 9);
    // Both windows and both CPUs.
    for cpu in 0..2 {
        assert_eq!(scene.load(cpu, 3), 9);
        assert_eq!(load(scene.sim(), cpu, &scene.space, B + 3 * PAGE).unwrap(), 9);
    }
    assert_eq!(scene.view.resident_pages(), 1);
    unmap(&scene.space, B, 6);
    scene.end();
}

#[test]
fn eviction_reaches_the_windows_and_leaves_copies() {
    let scene = Scene::new();
    for page in 0..6 {
        scene.load(1, page);
    }
    scene.store(1, 2, 7);
    let before = scene.pages();
    let evicted = scene.file.evict(0, scene.file.size()).unwrap().detach();
    assert_eq!(scene.sim().read_u64(1, at(A), true), Ok(word(1)), "CPU 1 has not heard of it");
    // CPU 0 wants one in between, and copies another: both stay, and the second one's copy is right.
    assert_eq!(scene.load(0, 1), word(2));
    assert_eq!(acknowledge(scene.sim(), evicted).pages, 8);
    assert!(scene.sim().read_u64(1, at(A), true).is_err());
    assert_eq!(scene.pages(), before - 7);
    assert_eq!((scene.load(1, 2), scene.load(1, 1)), (7, word(2)));
    supply(&scene.file, requested(&scene.space, A, USER_READ));
    assert_eq!(scene.load(1, 0), word(1));
    assert_eq!(scene.view.resident_pages(), 1);
    scene.end();
}

#[test]
fn a_copy_during_an_eviction_keeps_the_files_page() {
    let scene = Scene::new();
    assert_eq!((scene.load(0, 0), scene.load(1, 0)), (word(1), word(1)));
    let evicted = scene.file.evict(0, scene.file.size()).unwrap().detach();
    let copied = scene.space.fault(Fault::new(A, USER_WRITE)).unwrap().detach();
    // The tables show nothing, yet CPU 1 remembers the file's page: the copy waits for it.
    assert!(!copied.request().scope.is_empty());
    assert!(matches!(fault(&scene.space, A, USER_READ), Err(SpaceError::Retry(_))));
    assert_eq!(scene.sim().read_u64(1, at(A), true), Ok(word(1)));
    acknowledge(scene.sim(), copied);
    scene.store(0, 0, 3);
    assert_eq!(scene.load(1, 0), 3);
    acknowledge(scene.sim(), evicted);
    assert_eq!(
        (scene.file.page_state(PAGE), scene.file.page_state(0)),
        (Some(PageState::Clean), Some(PageState::Absent))
    );
    scene.end();
}

/// What goes wrong if the file's page is shown as the file's own windows show it.
#[test]
fn a_dirty_page_of_the_file_is_not_writable_through_a_view() {
    let scene = Scene::new();
    write_word(&scene.file, 1, 5);
    assert_eq!(scene.file.page_state(PAGE), Some(PageState::Dirty));
    assert_eq!(scene.load(0, 0), 5);
    assert!(scene.sim().write_u64(0, at(A), true, 6).is_err(), "it would be written into the file");
    scene.space.populate(scene.range(0, 1), Access::READ).unwrap().complete();
    assert!(scene.sim().write_u64(0, at(A), true, 6).is_err());
    scene.store(0, 0, 6);
    assert_eq!(word_of(&scene.file, 1), Ok(5));
    scene.end();
}

#[test]
fn several_windows_are_populated_at_once() {
    let scene = Scene::empty();
    let (first, rest) = (MapRequest::new(&scene.view).at(B), MapRequest::new(&scene.view).at(B + 2 * PAGE));
    scene.space.map(&first.size(2 * PAGE).inherit(Inherit::Copy)).unwrap();
    scene.space.map(&rest.offset(2 * PAGE)).unwrap();
    let range = scene.space.range(B, 6 * PAGE).unwrap();
    scene.file.request(0, 4 * PAGE).unwrap().into_iter().for_each(|request| supply(&scene.file, request));
    let before = scene.pages();
    let result = scene.space.populate(range, Access::WRITE).map(Flush::complete);
    let Err(SpaceError::Awaits { address, wait: PageWait::Request(request) }) = result else { panic!("{result:?}") };
    assert_eq!((address, request.offset, request.size), (at(B + 3 * PAGE), 4 * PAGE, 3 * PAGE));
    assert_eq!((scene.pages(), scene.view.resident_pages()), (before + 3, 3));
    supply(&scene.file, request);
    scene.space.populate(range, Access::WRITE).unwrap().complete();
    assert_eq!(scene.view.resident_pages(), 6);
    for page in 0..6 {
        assert_eq!(load(scene.sim(), 1, &scene.space, B + page * PAGE).unwrap(), word(page + 1));
    }
    // For reading nothing is copied, and the account is not asked.
    let account = Account::new(scene.sim(), 0).unwrap();
    let other = scene.file.overlay(0, FILE * PAGE).unwrap();
    other.charge_to(&account).unwrap();
    scene.space.map(&MapRequest::new(&other).at(B + 6 * PAGE).offset(PAGE).size(4 * PAGE)).unwrap();
    scene.space.populate(scene.space.range(B + 6 * PAGE, 4 * PAGE).unwrap(), Access::READ).unwrap().complete();
    assert_eq!(other.resident_pages(), 0);
    unmap(&scene.space, B, 10);
    drop((other, account));
    scene.end();
}

#[test]
fn write_back_leaves_views_alone() {
    let scene = Scene::new();
    scene.space.map(&MapRequest::new(&scene.file).at(B)).unwrap();
    store(scene.sim(), 0, &scene.space, B + PAGE, 5).unwrap();
    scene.store(0, 1, 6);
    assert_eq!(scene.load(0, 0), 5);
    let flushes = scene.file.begin_write_back(0, scene.file.size()).unwrap().unwrap().complete();
    assert_eq!(flushes.size(), PAGE, "the copy is no part of it");
    assert_eq!(scene.sim().read_u64(0, at(A), true), Ok(5), "still shown");
    scene.sim().write_u64(0, at(A + PAGE), true, 8).unwrap();
    flushes.written();
    assert_eq!(scene.load(1, 1), 8);
    unmap(&scene.space, B, FILE);
    scene.end();
}

#[test]
fn truncation_takes_copies_beyond_the_end_and_refuses_there() {
    let scene = Scene::new();
    for page in 0..6 {
        scene.load(1, page);
    }
    scene.store(1, 1, 21);
    scene.store(1, 4, 24);
    let before = scene.pages();
    let cut = scene.file.resize(3 * PAGE).unwrap().detach();
    assert_eq!(scene.sim().read_u64(1, at(A + 4 * PAGE), true), Ok(24), "CPU 1 has not heard of it");
    assert!(matches!(scene.file.resize(FILE * PAGE), Err(AreaError::Retry)));
    assert_eq!(fault(&scene.space, A + 4 * PAGE, USER_READ), Err(SpaceError::OutsideArea(at(A + 4 * PAGE))));
    assert_eq!(scene.pages(), before, "no frame is free before the flush");
    acknowledge(scene.sim(), cut);
    assert_eq!(scene.pages(), before - 5 - 1);
    for page in 2..6 {
        let outside = Err(SpaceError::OutsideArea(at(A + page * PAGE)));
        assert_eq!(fault(&scene.space, A + page * PAGE, USER_READ), outside);
        assert_eq!(fault(&scene.space, A + page * PAGE, USER_WRITE), outside);
    }
    assert_eq!((scene.load(1, 0), scene.load(1, 1), scene.view.resident_pages()), (word(1), 21, 1));
    let outside = |offset, size| AreaError::Outside { offset, size, area: 2 * PAGE };
    assert_eq!(scene.view.read(2 * PAGE, &mut [0; 8]), Err(outside(2 * PAGE, 8)));
    assert_eq!(scene.view.write(PAGE, &[0; 0x1008]).err(), Some(outside(PAGE, 0x1008)));
    assert_eq!((scene.view.frame_at(4 * PAGE), scene.view.size()), (None, 6 * PAGE));
    assert!(matches!(scene.space.populate(scene.range(0, 6), Access::READ), Err(SpaceError::OutsideArea(_))));
    // The file grows again: its contents show, the copy is gone.
    scene.file.resize(FILE * PAGE).unwrap().complete();
    supply_all(&scene.file);
    assert_eq!((scene.load(1, 4), scene.load(1, 1)), (word(5), 21));
    scene.end();
}

#[test]
fn truncation_reaches_copies_that_clones_share() {
    let scene = Scene::new();
    for page in 0..6 {
        scene.store(0, page, 50 + page);
    }
    let child = scene.space.try_clone(()).unwrap().complete();
    assert_eq!(scene.file.overlays(), 2);
    store(scene.sim(), 0, &scene.space, A + PAGE, 99).unwrap();
    let before = scene.pages();
    scene.file.resize(4 * PAGE).unwrap().complete();
    assert_eq!(scene.pages(), before - 4 - 3);
    scene.file.resize(FILE * PAGE).unwrap().complete();
    supply_all(&scene.file);
    scene.world.enter(1, &child);
    common::forget(1, &scene.space);
    assert_eq!(load(scene.sim(), 1, &child, A + 5 * PAGE).unwrap(), word(6));
    assert_eq!((scene.load(0, 5), scene.load(0, 1)), (word(6), 99));
    assert_eq!(load(scene.sim(), 1, &child, A + PAGE).unwrap(), 51);
    scene.world.enter(1, &scene.space);
    common::forget(1, &child);
    drop(child);
    scene.end();
}

#[test]
fn a_pinned_copy_refuses_the_truncation() {
    let scene = Scene::new();
    let pin = scene.view.pin(3 * PAGE, PAGE).unwrap().complete();
    assert_eq!(pin.runs().next().map(|run| run.first()), scene.view.frame_at(3 * PAGE));
    assert_ne!(
        scene.view.frame_at(3 * PAGE),
        scene.file.frame_at(4 * PAGE),
        "what a device writes is the view's alone"
    );
    assert_eq!(scene.file.resize(2 * PAGE).err(), Some(AreaError::Pinned(4 * PAGE)));
    assert_eq!(scene.load(0, 5), word(6), "nothing was changed");
    scene.file.resize(5 * PAGE).unwrap().complete();
    drop(pin);
    scene.file.resize(2 * PAGE).unwrap().complete();
    scene.end();
}

#[test]
fn a_clone_is_a_view_of_the_same_file() {
    let scene = Scene::new();
    scene.store(0, 0, 60);
    assert_eq!(scene.load(0, 1), word(2));
    let child = scene.space.try_clone(()).unwrap().complete();
    assert_eq!((scene.file.overlays(), scene.file.windows()), (2, 2));
    scene.world.enter(1, &child);
    common::forget(1, &scene.space);
    let (parent, sim) = (&scene.space, scene.sim());
    let before = scene.pages();
    assert_eq!((load(sim, 1, &child, A).unwrap(), load(sim, 1, &child, A + PAGE).unwrap()), (60, word(2)));
    assert_eq!(scene.pages(), before);
    // Either writes to what both have, and to what neither has.
    store(sim, 1, &child, A, 61).unwrap();
    store(sim, 0, parent, A + PAGE, 62).unwrap();
    assert_eq!((load(sim, 0, parent, A).unwrap(), load(sim, 1, &child, A).unwrap()), (60, 61));
    assert_eq!((load(sim, 0, parent, A + PAGE).unwrap(), load(sim, 1, &child, A + PAGE).unwrap()), (62, word(2)));
    // What the file is written shows in both, where neither has a copy.
    write_word(&scene.file, 4, 77);
    assert_eq!((load(sim, 0, parent, A + 3 * PAGE).unwrap(), load(sim, 1, &child, A + 3 * PAGE).unwrap()), (77, 77));
    // And the child's child.
    let grandchild = child.try_clone(()).unwrap().complete();
    assert_eq!(scene.file.overlays(), 3);
    scene.world.enter(1, &grandchild);
    common::forget(1, &child);
    assert_eq!(load(sim, 1, &grandchild, A).unwrap(), 61);
    scene.file.evict(0, scene.file.size()).unwrap().complete();
    supply(&scene.file, requested(&grandchild, A + 2 * PAGE, USER_READ));
    assert_eq!(load(sim, 1, &grandchild, A + 2 * PAGE).unwrap(), word(3));
    scene.world.enter(1, &scene.space);
    common::forget(1, &grandchild);
    drop((child, grandchild));
    assert_eq!(scene.file.overlays(), 1);
    scene.end();
}

#[test]
fn no_page_is_copied_while_a_clone_comes_into_being() {
    let scene = Scene::new();
    scene.store(1, 0, 1);
    assert_eq!(scene.load(1, 1), word(2));
    let cloned = scene.space.try_clone(()).unwrap().detach();
    assert!(matches!(fault(&scene.space, A, USER_WRITE), Err(SpaceError::Retry(_))));
    assert!(matches!(fault(&scene.space, A + PAGE, USER_WRITE), Err(SpaceError::Retry(_))));
    // CPU 1 has not heard of it: what it writes is the child's as well.
    scene.sim().write_u64(1, at(A), true, 2).unwrap();
    assert_eq!(scene.load(0, 1), word(2), "reading goes on");
    let child = acknowledge(scene.sim(), cloned);
    scene.store(1, 0, 3);
    scene.world.enter(0, &child);
    common::forget(0, &scene.space);
    assert_eq!(load(scene.sim(), 0, &child, A).unwrap(), 2);
    scene.world.enter(0, &scene.space);
    common::forget(0, &child);
    drop(child);
    scene.end();
}

#[test]
fn a_snapshot_is_a_view_of_the_same_file() {
    let scene = Scene::new();
    write_word(&scene.view, 0, 5);
    let snapshot = scene.view.snapshot().unwrap().complete();
    write_word(&scene.view, 0, 6);
    write_word(&snapshot, 1, 7);
    write_word(&scene.file, 3, 8);
    let seen = |area: &Area<Sim>| [0, 1, 2].map(|page| word_of(area, page).unwrap());
    assert_eq!((seen(&scene.view), seen(&snapshot)), ([6, word(2), 8], [5, 7, 8]));
    assert!(matches!(scene.file.snapshot(), Err(AreaError::Kind)));
    drop(snapshot);
    scene.end();
}

#[test]
fn windows_are_cut_moved_joined_and_protected() {
    let scene = Scene::new();
    scene.store(0, 1, 41);
    scene.load(1, 3);
    // In three parts, the middle one read-only, then whole again.
    scene.space.protect(scene.range(1, 2), Access::READ | Access::USER).unwrap().complete();
    assert_eq!(scene.space.windows().count(), 3);
    assert!(matches!(fault(&scene.space, A + 2 * PAGE, USER_WRITE), Err(SpaceError::Denied { .. })));
    assert_eq!((scene.load(0, 1), scene.load(0, 2)), (41, word(3)));
    scene.file.evict(0, scene.file.size()).unwrap().complete();
    assert!(scene.sim().read_u64(0, at(A + 2 * PAGE), true).is_err(), "every part is reached");
    assert!(scene.sim().read_u64(1, at(A + 3 * PAGE), true).is_err());
    supply_all(&scene.file);
    scene.space.protect(scene.range(1, 2), USER_WRITE).unwrap().complete();
    assert_eq!(scene.space.windows().count(), 1);
    scene.store(0, 2, 42);
    // A part moves, with what it shows.
    scene.load(0, 4);
    let to = Destination::To(Place::At(B));
    let moved = scene.space.relocate(scene.range(2, 3), 3 * PAGE, to).unwrap().complete();
    assert_eq!(moved.start(), at(B));
    let read = |page: u64| load(scene.sim(), 1, &scene.space, B + page * PAGE).unwrap();
    assert_eq!([read(0), read(1), read(2)], [42, word(4), word(5)]);
    scene.file.evict(0, scene.file.size()).unwrap().complete();
    assert!(scene.sim().read_u64(1, at(B + PAGE), true).is_err(), "and where it went");
    assert_eq!(scene.sim().read_u64(1, at(B), true).or_else(|_| Ok::<_, ()>(read(0))), Ok(42));
    unmap(&scene.space, B, 3);
    assert_eq!(scene.view.resident_pages(), 2, "unmapping loses nothing");
    scene.end();
}

#[test]
fn a_window_grows_over_more_of_the_file() {
    let scene = Scene::new();
    let view = scene.file.overlay(4 * PAGE, 2 * PAGE).unwrap();
    scene.space.map(&MapRequest::new(&view).at(B).inherit(Inherit::Copy)).unwrap();
    drop(view);
    let range = scene.space.range(B, 2 * PAGE).unwrap();
    scene.space.relocate(range, 8 * PAGE, Destination::InPlace).unwrap().complete();
    let read = |page: u64| load(scene.sim(), 0, &scene.space, B + page * PAGE);
    assert_eq!([read(1), read(3)], [Ok(word(5)), Ok(word(7))]);
    assert_eq!(read(4), Err(SpaceError::OutsideArea(at(B + 4 * PAGE))), "the file's end");
    // Anonymous memory that follows is not made a part of it.
    let place = Place::At(B + 8 * PAGE);
    scene.space.map_anonymous(PAGE, place, USER_WRITE, Inherit::Copy, 0).unwrap();
    scene.file.resize(20 * PAGE).unwrap().complete();
    assert_eq!(load(scene.sim(), 0, &scene.space, B + 8 * PAGE), Ok(0));
    assert_eq!(scene.space.windows().count(), 3);
    unmap(&scene.space, B, 9);
    scene.end();
}

#[test]
fn what_is_not_needed_shows_the_file_again() {
    let Scene { world, space, file, view } = Scene::new();
    drop(view);
    let sim = world.sim.clone();
    for page in 0..4 {
        store(&sim, 0, &space, A + page * PAGE, 70 + page).unwrap();
    }
    let before = sim.frame_counts().of(FrameUse::Page);
    let gone = space.advise(space.range(A + PAGE, 2 * PAGE).unwrap(), Advice::NotNeeded).unwrap().detach();
    assert_eq!(sim.frame_counts().of(FrameUse::Page), before);
    acknowledge(&sim, gone);
    assert_eq!(sim.frame_counts().of(FrameUse::Page), before - 2);
    let read = |page: u64| load(&sim, 1, &space, A + page * PAGE).unwrap();
    assert_eq!([read(0), read(1), read(2), read(3)], [70, word(2), word(3), 73]);
    store(&sim, 0, &space, A + PAGE, 80).unwrap();
    assert_eq!((read(1), word_of(&file, 2)), (80, Ok(word(2))));
    // While an eviction of the file is outstanding, which took copies out of the tables too.
    let evicted = file.evict(0, file.size()).unwrap().detach();
    let gone = space.advise(space.range(A, PAGE).unwrap(), Advice::NotNeeded).unwrap().detach();
    assert_eq!(sim.read_u64(1, at(A), true), Ok(70), "CPU 1 has not heard of it");
    acknowledge(&sim, gone);
    assert!(sim.read_u64(1, at(A), true).is_err());
    acknowledge(&sim, evicted);
    let view = file.overlay(0, PAGE).unwrap();
    Scene { world, space, file, view }.end();
}

#[test]
fn populating_shows_for_reading_and_copies_for_writing() {
    let scene = Scene::empty();
    // What is missing is asked for, as far as it is.
    let SpaceError::Awaits { address, wait: PageWait::Request(request) } =
        scene.space.populate(scene.range(0, 4), Access::READ).unwrap_err()
    else {
        panic!("nothing was asked for")
    };
    assert_eq!((address, request.offset, request.size), (at(A), PAGE, 4 * PAGE));
    supply(&scene.file, request);
    let before = scene.pages();
    scene.space.populate(scene.range(0, 4), Access::READ).unwrap().complete();
    assert_eq!(scene.pages(), before, "reading copies nothing");
    for page in 0..4 {
        assert_eq!(scene.sim().read_u64(0, at(A + page * PAGE), true), Ok(word(page + 1)));
    }
    // For writing: the first four are copied, and the fifth is asked for, once.
    let result = scene.space.populate(scene.range(0, 6), Access::WRITE).map(Flush::complete);
    let Err(SpaceError::Awaits { address, wait: PageWait::Request(request) }) = result else { panic!("{result:?}") };
    assert_eq!((address, request.offset, request.size, request.write), (at(A + 4 * PAGE), 5 * PAGE, 2 * PAGE, false));
    assert_eq!((scene.view.resident_pages(), scene.pages()), (4, before + 4));
    supply(&scene.file, request);
    scene.space.populate(scene.range(0, 6), Access::WRITE).unwrap().complete();
    assert_eq!(scene.view.resident_pages(), 6);
    for page in 0..6 {
        scene.store(0, page, page);
        assert_eq!(scene.file.page_state((page + 1) * PAGE), Some(PageState::Clean));
    }
    // A window that is made populated shows what is there, and copies nothing.
    let other = scene.file.overlay(0, FILE * PAGE).unwrap();
    let before = scene.pages();
    scene.space.map(&MapRequest::new(&other).at(B).populated()).unwrap();
    assert_eq!((other.resident_pages(), scene.pages()), (0, before));
    assert_eq!(scene.sim().read_u64(0, at(B + PAGE), true), Ok(word(1)));
    assert!(scene.sim().read_u64(0, at(B), true).is_err(), "it is not there");
    // Several windows at once: on both sides of the file's first page, which is missing.
    let result = scene.space.populate(scene.space.range(B, PAGE).unwrap(), Access::WRITE).map(Flush::complete);
    assert!(matches!(result, Err(SpaceError::Awaits { wait: PageWait::Request(_), .. })), "{result:?}");
    scene.space.protect(scene.space.range(B + 3 * PAGE, PAGE).unwrap(), Access::KERNEL_DATA).unwrap().complete();
    unmap(&scene.space, B, FILE);
    drop(other);
    scene.end();
}

#[test]
fn what_is_resident_is_mapped_ahead() {
    let scene = Scene::new();
    scene.store(0, 1, 9);
    scene.file.evict(4 * PAGE, PAGE).unwrap().complete();
    let around = scene.space.unmap(scene.range(0, 6)).unwrap();
    around.complete();
    scene.space.map(&MapRequest::new(&scene.view).at(A).inherit(Inherit::Copy)).unwrap();
    // A fault maps what is around the page; and so does the advice.
    assert_eq!(scene.load(0, 0), word(1));
    let seen = |cpu| [1, 2, 3, 4].map(|page| scene.sim().read_u64(cpu, at(A + page * PAGE), true).ok());
    assert_eq!(seen(0), [Some(9), Some(word(3)), None, Some(word(5))]);
    unmap(&scene.space, A, 6);
    scene.space.map(&MapRequest::new(&scene.view).at(A).inherit(Inherit::Copy)).unwrap();
    scene.space.advise(scene.range(0, 6), Advice::Needed).unwrap().complete();
    assert_eq!(seen(1), [Some(9), Some(word(3)), None, Some(word(5))]);
    // What is known of each page.
    let mut states = [State::empty(); 6];
    scene.space.page_states(scene.range(0, 6), &mut states).unwrap();
    let [first, copied, .., missing, _, _] = states;
    assert!(first.contains(State::RESIDENT | State::SHOWN) && !first.contains(State::DIRTY));
    assert!(copied.contains(State::RESIDENT | State::DIRTY));
    assert!(!missing.intersects(State::RESIDENT | State::SHOWN | State::DIRTY));
    scene.end();
}

#[test]
fn a_handle_reads_and_writes_as_a_window_does() {
    let scene = Scene::empty();
    let mut bytes = [0; 0x1800];
    let Err(AreaError::Awaits(PageWait::Request(request))) = scene.view.read(PAGE, &mut bytes) else { panic!() };
    assert_eq!((request.offset, request.size), (2 * PAGE, 2 * PAGE));
    assert!(matches!(scene.view.write(PAGE, &bytes), Err(AreaError::Awaits(PageWait::Wait(_)))));
    assert!(matches!(scene.view.pin(PAGE, 1), Err(AreaError::Awaits(PageWait::Wait(_)))));
    assert_eq!(scene.view.resident_pages(), 0);
    supply(&scene.file, request);
    scene.view.read(PAGE, &mut bytes).unwrap();
    assert_eq!((bytes[0], bytes[0x17ff]), (3, 4));
    scene.load(1, 1);
    scene.view.write(PAGE + 0xffe, &[9; 4]).unwrap().complete();
    assert_eq!(load(scene.sim(), 1, &scene.space, A + PAGE + 0xff8).unwrap(), 0x0909_0303_0303_0303);
    assert_eq!((word_of(&scene.file, 2), scene.view.resident_pages()), (Ok(word(2)), 2));
    scene.view.resize(2 * PAGE).unwrap().complete();
    assert_eq!(scene.view.resident_pages(), 1);
    scene.view.resize(6 * PAGE).unwrap().complete();
    assert_eq!(word_of(&scene.view, 2), Ok(word(3)), "the file's again");
    scene.end();
}

#[test]
fn memory_type_is_the_files() {
    let scene = Scene::new();
    scene.store(0, 0, 1);
    scene.load(1, 1);
    assert!(matches!(scene.view.set_memory(MemoryType::WriteCombining), Err(AreaError::Kind)));
    let changed = scene.file.set_memory(MemoryType::WriteCombining).unwrap().detach();
    assert!(matches!(fault(&scene.space, A, USER_READ), Err(SpaceError::Retry(_))));
    assert!(matches!(scene.view.write(0, &[1]), Err(AreaError::Retry)));
    acknowledge(scene.sim(), changed);
    assert_eq!((scene.view.memory(), scene.load(0, 0), scene.load(0, 1)), (MemoryType::WriteCombining, 1, word(2)));
    let leaf = scene.sim().access(0, at(A), USER_READ).unwrap();
    assert_eq!(leaf.memory, MemoryType::WriteCombining);
    scene.end();
}

#[test]
fn views_keep_the_file_and_windows_the_view() {
    let Scene { world, space, file, view } = Scene::new();
    let sim = world.sim.clone();
    store(&sim, 0, &space, A, 5).unwrap();
    drop((view, file));
    assert_eq!(load(&sim, 1, &space, A).unwrap(), 5);
    assert_eq!(load(&sim, 1, &space, A + PAGE).unwrap(), word(2));
    let gone = space.unmap(space.range(A, 6 * PAGE).unwrap()).unwrap().detach();
    assert_eq!(sim.read_u64(1, at(A + PAGE), true), Ok(word(2)), "CPU 1 has not heard of it");
    acknowledge(&sim, gone);
    let start = world.start.of(FrameUse::Page);
    assert_eq!(sim.frame_counts().of(FrameUse::Page), start, "the last window was the last of both");
    let file = Area::new(&sim, AreaKind::Paged { size: PAGE, key: 0 }, 0).unwrap();
    let view = file.overlay(0, PAGE).unwrap();
    Scene { world, space, file, view }.end();
}

#[test]
fn what_cannot_be_is_refused() {
    let scene = Scene::new();
    let file = &scene.file;
    let open = scene.world.open(2);
    assert!(matches!(open.overlay(0, PAGE), Err(AreaError::Kind)));
    assert!(matches!(scene.view.overlay(0, PAGE), Err(AreaError::Kind)), "never a chain");
    assert_eq!(file.overlay(1, PAGE).err(), Some(AreaError::Unaligned(1)));
    for size in [0, 1, PAGE + 1, 1 << 62, u64::MAX] {
        assert_eq!(file.overlay(0, size).err(), Some(AreaError::Size(size)));
    }
    for (offset, size) in [(0, 9 * PAGE), (8 * PAGE, PAGE), (!0xfff, PAGE)] {
        let area = FILE * PAGE;
        assert_eq!(file.overlay(offset, size).err(), Some(AreaError::Outside { offset, size, area }));
    }
    for lacking in [Rights::READ, Rights::MAP] {
        let handle = file.handle(Rights::all().difference(lacking)).unwrap();
        assert_eq!(handle.overlay(0, PAGE).err(), Some(AreaError::Rights(lacking)));
    }
    // Reading and mapping is enough for a view that is written to, but not for one that is executed.
    let view = file.handle(Rights::READ | Rights::MAP).unwrap().overlay(0, PAGE).unwrap();
    assert_eq!(view.rights(), Rights::all().difference(Rights::EXECUTE));
    write_word(&view, 0, 1);
    assert!(matches!(view.allocate(0, PAGE, 0), Err(AreaError::Kind)));
    assert!(matches!(view.evict(0, PAGE), Err(AreaError::Kind)));
    assert!(matches!(view.request(0, PAGE), Err(AreaError::Kind)));
    drop((view, open));
    scene.end();
}

fn reach<M: SimFormat>(sim: &Sim<M>, space: &Space<Sim<M>>, address: u64, access: Access) {
    for _ in 0..3 {
        if sim.access(0, at(address), access).is_ok() {
            return;
        }
        space.fault(Fault::new(address, access)).unwrap().complete();
    }
    panic!("the fault repeats");
}

/// A view's life in another format.
fn a_view_lives<M: SimFormat>(mmu: M, kernel: u64) {
    let sim = Sim::of(mmu).frames(512).build();
    let bounds = sim.machine().mmu().range(kernel, 1 << 30).unwrap();
    let kernel = Space::kernel(&sim, bounds, None, ()).unwrap();
    let space = Space::user(&kernel, ()).unwrap();
    sim.activate(0, &space.activate(0));
    let file = Area::new(&sim, AreaKind::Paged { size: 4 * PAGE, key: 1 }, 0).unwrap();
    supply_all(&file);
    let view = file.overlay(0, 4 * PAGE).unwrap();
    space.map(&MapRequest::new(&view).at(A).inherit(Inherit::Copy)).unwrap();
    reach(&sim, &space, A, USER_READ);
    reach(&sim, &space, A + PAGE, USER_WRITE);
    sim.write(0, at(A + PAGE), true, &[7]).unwrap();
    let child = space.try_clone(()).unwrap().complete();
    reach(&sim, &space, A + PAGE, USER_WRITE);
    sim.write(0, at(A + PAGE), true, &[8]).unwrap();
    file.evict(0, file.size()).unwrap().complete();
    assert!(sim.access(0, at(A), USER_READ).is_err());
    let mut bytes = [0];
    reach(&sim, &space, A + PAGE, USER_READ);
    sim.read(0, at(A + PAGE), true, &mut bytes).unwrap();
    assert_eq!((bytes, view.resident_pages()), ([8], 1));
    assert_ne!(child.frame_at(at(A + PAGE)), space.frame_at(at(A + PAGE)));
    file.resize(PAGE).unwrap().complete();
    assert!(sim.access(0, at(A + PAGE), USER_READ).is_err());
    sim.unload(0);
    for space in [&space, &kernel] {
        // SAFETY: no root is loaded.
        unsafe { space.deactivate(0) };
    }
    sim.assert_no_violation();
}

#[test]
fn other_formats_have_views_as_well() {
    a_view_lives(X86_64::new(40).pcid(), 0xffff_ff80_0000_0000);
    a_view_lives(RiscV64::sv39(40), 0xffff_ffff_8000_0000);
}
