//! What can be done to the world: random operations with small numbers, which are taken modulo what there is, so that most of them meet something.

use proptest::prelude::*;

pub(crate) const SPACES: usize = 3;
pub(crate) const AREAS: usize = 5;
pub(crate) const CPUS: usize = 3;

/// An operation; whether its flush is acknowledged later; and which of its requests for frames is refused first, alone or with all that follow.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) operation: Operation,
    pub(crate) late: bool,
    pub(crate) refused: Option<(u64, bool)>,
}

/// Where a window is to go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Where {
    pub(crate) place: u8,
    pub(crate) page: u16,
    pub(crate) entropy: u64,
    /// As a power of two of pages.
    pub(crate) alignment: u8,
    pub(crate) within: bool,
}

/// A window to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapping {
    pub(crate) area: usize,
    pub(crate) to: Where,
    pub(crate) offset: u64,
    /// 0: what is left of the area.
    pub(crate) size: u64,
    pub(crate) access: u8,
    pub(crate) inherit: u8,
    pub(crate) populate: bool,
    /// Through a handle that permits reading only.
    pub(crate) weak: bool,
}

/// Pages of a space: mostly such as are mapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pages {
    pub(crate) space: usize,
    pub(crate) page: u16,
    pub(crate) count: u64,
}

/// Pages of an area.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) area: usize,
    pub(crate) page: u64,
    pub(crate) count: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    NewArea { slot: usize, kind: u8, pages: u64 },
    DropArea { slot: usize },
    NewSpace { slot: usize },
    Destroy { space: usize },
    Clone { from: usize, to: usize },
    Snapshot { from: usize, to: usize },
    Enter { cpu: usize, space: usize },
    Leave { cpu: usize },
    Map { space: usize, mapping: Mapping },
    MapMany { space: usize, mappings: Vec<Mapping> },
    Anonymous { space: usize, to: Where, pages: u64, access: u8, inherit: u8 },
    Unmap(Pages),
    Protect { pages: Pages, access: u8 },
    Relocate { pages: Pages, size: u64, how: u8, to: Where },
    Advise { pages: Pages, advice: u8 },
    Guard { pages: Pages, install: bool },
    Seal(Pages),
    Lock { pages: Pages, lock: bool },
    Limits { space: usize, windows: Option<usize>, pages: Option<u64> },
    ForbidWriteExecute { space: usize },
    Populate { pages: Pages, access: u8 },
    Resize { area: usize, pages: u64 },
    TakeSection { area: usize },
    GiveSection { area: usize, section: u32 },
    Write { area: usize, page: u64, word: usize, across: bool },
    Read(Part),
    Pin(Part),
    Unpin { which: usize },
    SetMemory { area: usize, combining: bool },
    Ask(Part),
    Supply { which: usize, page: u64, count: u64 },
    Fail { which: usize, cancel: bool },
    Retry(Part),
    BeginWriteBack(Part),
    EndWriteBack { which: usize, written: bool },
    Evict(Part),
    Access { cpu: usize, page: u16, access: u8, word: usize },
    Prefetch { cpu: usize, page: u16 },
    Acknowledge { which: usize },
}

fn to() -> impl Strategy<Value = Where> {
    let place = prop_oneof![6 => Just(0_u8), 1 => 1..6_u8];
    let alignment = prop_oneof![5 => Just(0_u8), 1 => 0..4_u8];
    (place, any::<u16>(), any::<u64>(), alignment, prop::bool::weighted(0.2))
        .prop_map(|(place, page, entropy, alignment, within)| Where { place, page, entropy, alignment, within })
}

fn mapping() -> impl Strategy<Value = Mapping> {
    let inherit = prop_oneof![2 => Just(0_u8), 5 => Just(1), 1 => 2..4_u8];
    let access = prop_oneof![6 => Just(1_u8), 4 => 0..5_u8];
    let weights = (prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    (0..AREAS, to(), 0..4_u64, 0..6_u64, access, inherit, weights).prop_map(
        |(area, to, offset, size, access, inherit, (populate, weak))| Mapping {
            area,
            to,
            offset,
            size,
            access,
            inherit,
            populate,
            weak,
        },
    )
}

fn pages() -> impl Strategy<Value = Pages> {
    (0..SPACES, any::<u16>(), 1..6_u64).prop_map(|(space, page, count)| Pages { space, page, count })
}

fn part() -> impl Strategy<Value = Part> {
    (0..AREAS, 0..8_u64, 1..4_u64).prop_map(|(area, page, count)| Part { area, page, count })
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation as O;
    let (space, area, cpu) = (0..SPACES, 0..AREAS, 0..CPUS);
    let making = prop_oneof![
        5 => (area.clone(), 0..12_u8, 1..9_u64).prop_map(|(slot, kind, pages)| O::NewArea { slot, kind, pages }),
        2 => area.clone().prop_map(|slot| O::DropArea { slot }),
        1 => space.clone().prop_map(|slot| O::NewSpace { slot }),
        1 => space.clone().prop_map(|space| O::Destroy { space }),
        4 => (space.clone(), space.clone()).prop_map(|(from, to)| O::Clone { from, to }),
        2 => (area.clone(), area.clone()).prop_map(|(from, to)| O::Snapshot { from, to }),
        4 => (cpu.clone(), space.clone()).prop_map(|(cpu, space)| O::Enter { cpu, space }),
        1 => cpu.clone().prop_map(|cpu| O::Leave { cpu }),
    ];
    let mapping_ = prop_oneof![
        12 => (space.clone(), mapping()).prop_map(|(space, mapping)| O::Map { space, mapping }),
        1 => (space.clone(), prop::collection::vec(mapping(), 1..4))
            .prop_map(|(space, mappings)| O::MapMany { space, mappings }),
        3 => (space.clone(), to(), 1..5_u64, 0..4_u8, 0..4_u8)
            .prop_map(|(space, to, pages, access, inherit)| O::Anonymous { space, to, pages, access, inherit }),
        5 => pages().prop_map(O::Unmap),
    ];
    let changing = prop_oneof![
        5 => (pages(), 0..5_u8).prop_map(|(pages, access)| O::Protect { pages, access }),
        5 => (pages(), 0..8_u64, 0..4_u8, to())
            .prop_map(|(pages, size, how, to)| O::Relocate { pages, size, how, to }),
        4 => (pages(), 0..5_u8).prop_map(|(pages, advice)| O::Advise { pages, advice }),
        3 => (pages(), prop::bool::weighted(0.6)).prop_map(|(pages, install)| O::Guard { pages, install }),
        1 => pages().prop_map(O::Seal),
        3 => (pages(), any::<bool>()).prop_map(|(pages, lock)| O::Lock { pages, lock }),
        1 => (space.clone(), prop::option::weighted(0.3, 1..8_usize), prop::option::weighted(0.3, 1..30_u64))
            .prop_map(|(space, windows, pages)| O::Limits { space, windows, pages }),
        1 => space.prop_map(|space| O::ForbidWriteExecute { space }),
        4 => (pages(), 0..5_u8).prop_map(|(pages, access)| O::Populate { pages, access }),
    ];
    let contents = prop_oneof![
        3 => (area.clone(), 0..9_u64).prop_map(|(area, pages)| O::Resize { area, pages }),
        3 => area.clone().prop_map(|area| O::TakeSection { area }),
        2 => (area.clone(), 0..3_u32).prop_map(|(area, section)| O::GiveSection { area, section }),
        6 => (area.clone(), 0..9_u64, 0..3_usize, any::<bool>())
            .prop_map(|(area, page, word, across)| O::Write { area, page, word, across }),
        4 => part().prop_map(O::Read),
        2 => part().prop_map(O::Pin),
        1 => (0..8_usize).prop_map(|which| O::Unpin { which }),
        2 => (area, any::<bool>()).prop_map(|(area, combining)| O::SetMemory { area, combining }),
    ];
    let pager = prop_oneof![
        1 => part().prop_map(O::Ask),
        6 => (0..8_usize, 0..3_u64, 1..4_u64).prop_map(|(which, page, count)| O::Supply { which, page, count }),
        1 => (0..8_usize, any::<bool>()).prop_map(|(which, cancel)| O::Fail { which, cancel }),
        1 => part().prop_map(O::Retry),
        3 => part().prop_map(O::BeginWriteBack),
        2 => (0..8_usize, any::<bool>()).prop_map(|(which, written)| O::EndWriteBack { which, written }),
        3 => part().prop_map(O::Evict),
    ];
    let running = prop_oneof![
        12 => (cpu.clone(), any::<u16>(), 0..8_u8, 0..3_usize)
            .prop_map(|(cpu, page, access, word)| O::Access { cpu, page, access, word }),
        1 => (cpu, any::<u16>()).prop_map(|(cpu, page)| O::Prefetch { cpu, page }),
        3 => (0..8_usize).prop_map(|which| O::Acknowledge { which }),
    ];
    prop_oneof![8 => making, 9 => mapping_, 10 => changing, 7 => contents, 4 => pager, 28 => running]
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let refused = prop::option::weighted(0.25, (0..5_u64, any::<bool>()));
    (operation(), prop::bool::weighted(0.4), refused).prop_map(|(operation, late, refused)| Step {
        operation,
        late,
        refused,
    })
}
