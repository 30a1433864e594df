//! Accounts: random operations on areas of two accounts and of none, against a model that knows who pays for each page.

mod common;

use common::{PAGE, World, map, store};
use proptest::prelude::*;
use vmcore::frame::FrameUse;
use vmcore::paging::{Access, Flush, MemoryType};
use vmcore::sim::Sim;
use vmcore::vm_area::{Account, Area, AreaError, AreaKind, OutOfAccount, Rights};
use vmcore::vm_space::{MapRequest, SpaceError};

const AREAS: usize = 3;
const PAGES: u64 = 8;
const BASE: u64 = 0x40_0000;

/// Each area's window, one directly after another.
fn address(area: usize, page: u64) -> u64 {
    BASE + (area as u64 * PAGES + page) * PAGE
}

#[derive(Clone, Debug)]
enum Step {
    Touch(usize, u64),
    Write(usize, u64, u64),
    /// From this page of all windows on.
    Populate(u64, u64),
    Pin(usize, u64, u64),
    Allocate(usize, u64, u64),
    Unpin(usize),
    Resize(usize, u64),
    ChargeTo(usize, usize),
    Limit(usize, u64),
    MapPopulated(usize, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (area, page, count) = (0..AREAS, 0..PAGES, 1..5_u64);
    let step = prop_oneof![
        3 => (area.clone(), page.clone()).prop_map(|(area, page)| Step::Touch(area, page)),
        2 => (area.clone(), page.clone(), count.clone()).prop_map(|(area, page, count)| Step::Write(area, page, count)),
        3 => (0..PAGES * 3, 1..14_u64).prop_map(|(page, count)| Step::Populate(page, count)),
        1 => (area.clone(), page.clone(), count.clone()).prop_map(|(area, page, count)| Step::Pin(area, page, count)),
        1 => (area.clone(), page, count).prop_map(|(area, page, count)| Step::Allocate(area, page, count)),
        1 => (0..4_usize).prop_map(Step::Unpin),
        2 => (area.clone(), 1..=PAGES).prop_map(|(area, pages)| Step::Resize(area, pages)),
        1 => (area.clone(), 0..2_usize).prop_map(|(area, account)| Step::ChargeTo(area, account)),
        1 => (0..2_usize, 0..20_u64).prop_map(|(account, limit)| Step::Limit(account, limit)),
        1 => (area, 1..=PAGES).prop_map(|(area, pages)| Step::MapPopulated(area, pages)),
    ];
    proptest::collection::vec(step, 1..50)
}

/// Who pays for each page that there is, and for those to come.
struct Model {
    limits: [u64; 2],
    payer: [Option<usize>; AREAS],
    pages: [[Option<Option<usize>>; PAGES as usize]; AREAS],
    sizes: [u64; AREAS],
}

impl Model {
    fn charged(&self, account: usize) -> u64 {
        self.pages.iter().flatten().filter(|page| **page == Some(Some(account))).count() as u64
    }

    /// Makes pages, unless their account has no room for those that are missing.
    fn make(&mut self, area: usize, pages: std::ops::Range<u64>) -> Result<(), OutOfAccount> {
        let missing = pages.clone().filter(|page| self.pages[area][*page as usize].is_none()).count() as u64;
        if let Some(account) = self.payer[area] {
            let left = self.limits[account].saturating_sub(self.charged(account));
            if missing > left {
                return Err(OutOfAccount { wanted: missing, left });
            }
        }
        for page in pages {
            let payer = self.payer[area];
            self.pages[area][page as usize].get_or_insert(payer);
        }
        Ok(())
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, SpaceError>) -> Result<(), OutOfAccount> {
    match result {
        Ok(_) => Ok(()),
        Err(SpaceError::Area(AreaError::OutOfAccount(full))) => Err(full),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn everyone_pays_for_what_they_made(limits in [0..20_u64, 0..20_u64], all in steps()) {
        let world = World::new(1);
        let space = world.user();
        world.enter(0, &space);
        let accounts = limits.map(|limit| Account::new(&world.sim, limit).unwrap());
        let areas: Vec<Area<Sim>> = (0..AREAS).map(|_| world.open(PAGES)).collect();
        let mut model = Model { limits, payer: [Some(0), Some(1), None], pages: Default::default(), sizes: [PAGES; AREAS] };
        for (index, area) in areas.iter().enumerate() {
            map(&space, area, address(index, 0), 0, PAGES);
            if let Some(account) = model.payer[index] {
                area.charge_to(&accounts[account]).unwrap();
            }
        }
        let mut pins = Vec::new();
        for step in all {
            match step {
                Step::Touch(area, page) if page < model.sizes[area] => {
                    let result = store(&world.sim, 0, &space, address(area, page), 1);
                    prop_assert_eq!(refused(result), model.make(area, page..page + 1));
                }
                Step::Write(area, page, count) if page + count <= model.sizes[area] => {
                    let bytes = vec![7; (count * PAGE) as usize];
                    let result = areas[area].write(page * PAGE, &bytes);
                    prop_assert_eq!(refused(result.map_err(SpaceError::Area)), model.make(area, page..page + count));
                }
                Step::Populate(first, count) => {
                    let end = (first + count).min(PAGES * AREAS as u64);
                    let parts: Vec<_> = (0..AREAS as u64).filter_map(|area| {
                        let (low, high) = (first.max(area * PAGES), end.min((area + 1) * PAGES));
                        (low < high).then(|| (area as usize, low - area * PAGES..high - area * PAGES))
                    }).collect();
                    if parts.iter().any(|(area, part)| part.end > model.sizes[*area]) {
                        continue;
                    }
                    let range = space.range(BASE + first * PAGE, (end - first) * PAGE).unwrap();
                    let result = refused(space.populate(range, Access::WRITE));
                    let expected = if let [(area, part)] = &parts[..] {
                        model.make(*area, part.clone())
                    } else {
                        // Several windows: there must be room for every page of the range.
                        let mut wanted = [0; 2];
                        let refusal = parts.iter().find_map(|(area, part)| {
                            let account = model.payer[*area]?;
                            let left = model.limits[account].saturating_sub(model.charged(account) + wanted[account]);
                            let pages = part.end - part.start;
                            wanted[account] += pages;
                            (pages > left).then_some(OutOfAccount { wanted: pages, left })
                        });
                        match refusal {
                            Some(full) => Err(full),
                            None => parts.iter().try_for_each(|(area, part)| model.make(*area, part.clone())),
                        }
                    };
                    prop_assert_eq!(result, expected);
                }
                Step::Pin(area, page, count) if page + count <= model.sizes[area] => {
                    let result = areas[area].pin(page * PAGE, count * PAGE);
                    let expected = model.make(area, page..page + count);
                    prop_assert_eq!(refused(result.as_ref().map(|_| ()).map_err(|error| SpaceError::Area(*error))), expected);
                    pins.extend(result.ok().map(|pin| (area, page + count, pin)));
                }
                Step::Allocate(area, page, count) if page + count <= model.sizes[area] => {
                    let result = areas[area].allocate(page * PAGE, count * PAGE, 0);
                    if (page..page + count).any(|page| model.pages[area][page as usize].is_some()) {
                        prop_assert!(matches!(result, Err(AreaError::Resident(_))));
                        continue;
                    }
                    let expected = model.make(area, page..page + count);
                    prop_assert_eq!(refused(result.as_ref().map(|_| ()).map_err(|error| SpaceError::Area(*error))), expected);
                    pins.extend(result.ok().map(|pin| (area, page + count, pin)));
                }
                Step::Unpin(index) if index < pins.len() => drop(pins.swap_remove(index)),
                Step::Resize(area, pages) if !pins.iter().any(|(of, end, _)| *of == area && *end > pages) => {
                    let flush = areas[area].resize(pages * PAGE).unwrap();
                    // Frames that wait for a flush are paid for still.
                    prop_assert_eq!(accounts[0].charged() + accounts[1].charged(), model.charged(0) + model.charged(1));
                    flush.complete();
                    model.sizes[area] = pages;
                    model.pages[area][pages as usize..].fill(None);
                }
                Step::ChargeTo(area, account) => {
                    areas[area].charge_to(&accounts[account]).unwrap();
                    model.payer[area] = Some(account);
                }
                Step::Limit(account, limit) => {
                    accounts[account].set_limit(limit);
                    model.limits[account] = limit;
                }
                Step::MapPopulated(area, pages) if pages <= model.sizes[area] => {
                    let request = MapRequest::new(&areas[area]).at(BASE + 0x100_0000).size(pages * PAGE).populated();
                    let result = space.map(&request);
                    if let Ok(range) = &result {
                        space.unmap(*range).unwrap().complete();
                    }
                    prop_assert_eq!(refused(result), model.make(area, 0..pages));
                }
                _ => {}
            }
            for (number, account) in accounts.iter().enumerate() {
                prop_assert_eq!(account.charged(), model.charged(number));
            }
            let pages: u64 = areas.iter().map(Area::resident_pages).sum();
            let expected = model.pages.iter().flatten().flatten().count() as u64;
            let counts = world.sim.frame_counts();
            prop_assert_eq!((pages, counts.of(FrameUse::Page) + counts.of(FrameUse::Pinned)), (expected, expected));
        }
        // The accounts go with the last page, not with their handles.
        drop(accounts);
        drop((pins, areas));
        world.leave(0, &space);
        drop(space);
        world.finish();
    }
}

#[test]
fn a_full_account_is_nobody_elses_concern() {
    let world = World::new(1);
    let space = world.user();
    world.enter(0, &space);
    let (mine, yours) = (Account::new(&world.sim, 1).unwrap(), Account::new(&world.sim, u64::MAX).unwrap());
    let (area, neighbour, free) = (world.open(2), world.open(2), world.open(2));
    area.charge_to(&mine).unwrap();
    neighbour.charge_to(&yours).unwrap();
    for (index, area) in [&area, &neighbour, &free].into_iter().enumerate() {
        map(&space, area, BASE + index as u64 * 2 * PAGE, 0, 2);
    }
    let full = Err(SpaceError::Area(AreaError::OutOfAccount(OutOfAccount { wanted: 1, left: 0 })));
    for page in 0..6 {
        let result = store(&world.sim, 0, &space, BASE + page * PAGE, 1);
        assert_eq!(result, if page == 1 { full } else { Ok(()) }, "page {page}");
    }
    // Pages that are there are no matter of the account.
    mine.set_limit(0);
    assert_eq!(store(&world.sim, 0, &space, BASE, 2), Ok(()));
    mine.set_limit(2);
    assert_eq!(store(&world.sim, 0, &space, BASE + PAGE, 1), Ok(()));
    assert_eq!((mine.charged(), yours.charged(), mine.limit()), (2, 2, 2));
    let other = mine.handle().unwrap();
    drop(mine);
    assert_eq!(other.charged(), 2);
    drop((area, neighbour, free, yours, other));
    world.leave(0, &space);
    drop(space);
    world.finish();
}

#[test]
fn bad_charges_are_refused() {
    let world = World::new(1);
    let account = Account::new(&world.sim, 4).unwrap();
    let untracked = common::area(&world.sim, AreaKind::Untracked { size: PAGE }).unwrap();
    assert_eq!(untracked.charge_to(&account), Err(AreaError::Kind));
    let area = world.open(1);
    let handle = area.handle(Rights::READ | Rights::WRITE | Rights::MAP).unwrap();
    assert_eq!(handle.charge_to(&account), Err(AreaError::Rights(Rights::RESIZE)));
    let elsewhere = World::new(1);
    let foreign = Account::new(&elsewhere.sim, 4).unwrap();
    assert_eq!(area.charge_to(&foreign), Err(AreaError::OtherMachine));
    drop(foreign);
    elsewhere.finish();
    assert_eq!(area.write(0, &[1]).map(Flush::complete), Ok(()));
    assert_eq!(account.charged(), 0);
    drop((area, handle, untracked, account));
    world.finish();
}

/// A populate of several windows that stops at a page which its pager has to bring leaves nothing charged for what lies behind it.
#[test]
fn a_populate_that_waits_charges_nothing_ahead() {
    let world = World::new(1);
    let space = world.user();
    let account = Account::new(&world.sim, 16).unwrap();
    let file = common::area(&world.sim, AreaKind::Paged { size: 2 * PAGE, key: 7 }).unwrap();
    let (before, behind) = (world.open(3), world.open(4));
    before.charge_to(&account).unwrap();
    behind.charge_to(&account).unwrap();
    map(&space, &before, BASE, 0, 3);
    map(&space, &file, BASE + 3 * PAGE, 0, 2);
    map(&space, &behind, BASE + 5 * PAGE, 0, 4);
    let whole = space.range(BASE, 9 * PAGE).unwrap();
    let waits = space.populate(whole, Access::READ).map(Flush::complete);
    assert!(
        matches!(waits, Err(SpaceError::Awaits { address, .. }) if address.as_u64() == BASE + 3 * PAGE),
        "{waits:?}"
    );
    assert_eq!((before.resident_pages(), behind.resident_pages(), account.charged()), (3, 0, 3));
    // Pages that are charged ahead keep the memory type from being changed.
    behind.set_memory(MemoryType::Uncached).unwrap().complete();
    drop((before, behind, file, account));
    drop(space);
    world.finish();
}

/// Both CPUs want most of the account again and again: who finds it full is refused whole, and has its turn later; nothing is lost.
#[test]
fn two_cpus_share_an_account() {
    let world = World::new(2);
    let account = Account::new(&world.sim, 12).unwrap();
    std::thread::scope(|scope| {
        let run = |cpu: usize| {
            let (sim, account) = (world.sim.on(cpu), account.handle().unwrap());
            move || {
                let mut made = 0;
                while made < 2000 {
                    let area = Area::new(&sim, AreaKind::Open { size: 10 * PAGE }, 0).unwrap();
                    area.charge_to(&account).unwrap();
                    match area.write(PAGE, &[1; 8 * PAGE as usize]).map(Flush::complete) {
                        Ok(()) => made += 1,
                        Err(AreaError::OutOfAccount(full)) => {
                            assert!(full.wanted == 8 && full.left < 8, "{full}");
                            // The other one may hold it for as long as it does not run.
                            std::thread::yield_now();
                        }
                        Err(error) => panic!("{error}"),
                    }
                    assert!(account.charged() <= 12);
                    assert_eq!(area.resident_pages() % 8, 0, "whole or not at all");
                }
            }
        };
        let threads = [0, 1].map(|cpu| scope.spawn(run(cpu)));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!(account.charged(), 0);
    drop(account);
    world.finish();
}

/// Numbers of accounts that are gone are used again; each frame is taken off the account that it names.
#[test]
fn many_accounts_come_and_go() {
    let world = World::new(1);
    let mut alive: Vec<(Account<Sim>, Area<Sim>, u64)> = Vec::new();
    for round in 0..300_u64 {
        let (account, area) = (Account::new(&world.sim, 10).unwrap(), world.open(10));
        area.charge_to(&account).unwrap();
        let pages = round % 3;
        for page in 0..pages {
            area.write(page * PAGE, &[1]).unwrap().complete();
        }
        alive.push((account, area, pages));
        if round % 2 == 1 {
            let (account, area, pages) = alive.remove((round * 7 % alive.len() as u64) as usize);
            assert_eq!(account.charged(), pages);
            drop(area);
            assert_eq!(account.charged(), 0);
        }
    }
    assert!(alive.iter().all(|(account, _, pages)| account.charged() == *pages));
    drop(alive);
    world.finish();
}
