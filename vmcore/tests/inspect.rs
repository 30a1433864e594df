//! What a person is told of an area's pages and of an access, word for word. That what is said of an access is what comes of it, is `foresee.rs`.

use vmcore::Platform;
use vmcore::addr::{Frame, VirtAddr};
use vmcore::inspect::{AreaTree, SpaceTables, SpaceTablesIn, WhyAccess};
use vmcore::paging::{Access, Entry, Mmu, X86_64};
use vmcore::sim::Sim;
use vmcore::vm_area::{Area, AreaKind, SectionLayout};
use vmcore::vm_space::{Fault, Inherit, MapRequest, Space};

const READ: Access = Access::READ.union(Access::USER);
const WRITE: Access = Access::WRITE.union(Access::USER);
const EXECUTE: Access = Access::EXECUTE.union(Access::USER);

struct World {
    sim: Sim,
    _kernel: Space<Sim>,
    space: Space<Sim>,
}

impl World {
    fn new() -> Self {
        let sim = Sim::of(X86_64::new(40)).frames(256).build();
        let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
        let kernel = Space::kernel(&sim, bounds, None, ()).unwrap();
        let space = Space::user(&kernel, ()).unwrap();
        Self { sim, _kernel: kernel, space }
    }

    fn lines(&self, address: u64, access: Access) -> [String; 3] {
        let text = WhyAccess { space: &self.space, address: VirtAddr::new(address), access }.to_string();
        let mut lines = text.lines().map(str::to_owned);
        let lines = std::array::from_fn(|_| lines.next().unwrap_or_default());
        assert_eq!(text, lines.join("\n").trim_end());
        lines
    }

    fn touch(&self, address: u64, access: Access) {
        self.space.fault(Fault::new(address, access)).unwrap().complete();
    }
}

#[test]
fn each_level_is_named() {
    let world = World::new();
    let area = Area::new(&world.sim, AreaKind::Open { size: 0x10_0000 }, 0).unwrap();
    world.space.map(&MapRequest::new(&area).at(0x40_0000).access(Access::USER_DATA)).unwrap();
    let absent = |table| format!("tables: the entry of the {table} is absent, so it faults");
    assert_eq!(world.lines(0x40_0000, READ)[0], absent("PML4"));
    world.touch(0x40_0000, WRITE);
    assert_eq!(world.lines(0x40_1000, READ)[0], absent("PT"));
    assert_eq!(world.lines(0x80_0000, READ)[0], absent("PD"));
    assert_eq!(world.lines(0x1_4000_0000, READ)[0], absent("PDPT"));
    assert_eq!(
        world.lines(0x40_0000, WRITE),
        [
            "tables: every entry lets it through",
            "window: 0x0000000000400000-0x00000000004fffff rw-u open          1 MiB  1 resident",
            "succeeds: without a fault"
        ]
    );
    assert_eq!(world.lines(0x40_0000, EXECUTE)[0], "tables: the leaf in the PT lacks --x-, so it faults");
    assert!(world.lines(0x40_0000, EXECUTE)[2].starts_with("refused: the window at 0x400000 allows rw-u, not --xu"));
    // A table that limits what is below it: the entry of that level is named, and not the leaf.
    let walk = world.space.walk(VirtAddr::new(0x40_0000));
    let above = walk.steps().find(|step| step.name == "PD").unwrap();
    assert!(matches!(above.entry, Entry::Table(..)));
    world.sim.set_physical_word(above.table, above.index, above.word & !2);
    assert_eq!(
        world.lines(0x40_0000, WRITE)[0],
        "tables: the table entry of the PD lets no -w-- through, so it faults"
    );
    assert_eq!(world.lines(0x40_0000, READ)[0], "tables: every entry lets it through");
    world.sim.set_physical_word(above.table, above.index, above.word | 1 << 51);
    let malformed = world.lines(0x40_0000, READ)[0].clone();
    world.sim.set_physical_word(above.table, above.index, above.word);
    assert_eq!(malformed, "tables: the entry of the PD is malformed, so it faults");
}

#[test]
fn each_outcome_is_said() {
    let world = World::new();
    let second = |address, access| world.lines(address, access)[2].clone();
    assert_eq!(world.lines(0x10, READ)[1], "window: none, nor is there one above");
    let area = Area::new(&world.sim, AreaKind::Open { size: 0x4000 }, 0).unwrap();
    let private = MapRequest::new(&area).at(0x40_0000).access(Access::USER_DATA).inherit(Inherit::Copy);
    world.space.map(&private).unwrap();
    assert_eq!(world.lines(0x10, READ)[1], "window: none; the next one above begins at 0x400000");
    assert_eq!(second(0x10, READ), "refused: nothing is mapped at 0x10: map an area there first");
    assert_eq!(second(0x40_0000, WRITE), "succeeds: after a fault that makes the page, of zeros");
    assert_eq!(second(0x40_0000, READ), "succeeds: after a fault that shows the zero frame");
    world.touch(0x40_0000, WRITE);
    let frame = world.space.frame_at(VirtAddr::new(0x40_0000)).unwrap().number();
    world.space.map(&MapRequest::new(&area).at(0x50_0000).access(Access::USER_DATA)).unwrap();
    let shown = format!("succeeds: after a fault that shows frame {frame:#x}, which has the page");
    assert_eq!(second(0x50_0000, READ), shown);
    world.space.unmap(world.space.range(0x50_0000, 0x4000).unwrap()).unwrap().complete();
    let clone = world.space.try_clone(()).unwrap().complete();
    let copied = format!("succeeds: after a fault that copies frame {frame:#x}, which others have as well");
    assert_eq!(second(0x40_0000, WRITE), copied);
    clone.destroy().map_err(|(_, error)| error).unwrap().complete();
    let layout = SectionLayout { pages: 1, guard: 1, count: 4 };
    let stacks = Area::new(&world.sim, AreaKind::Guarded(layout), 0).unwrap();
    world.space.map(&MapRequest::new(&stacks).at(0x60_0000).access(Access::USER_DATA)).unwrap();
    assert!(second(0x60_0000, READ).starts_with("refused: 0x600000 is a guard page"));
    assert_eq!(
        world.lines(0x8000_0000_0000, READ),
        [
            "tables: there is no such address: it is not canonical",
            "refused: no access to such an address comes to the memory manager",
            ""
        ]
    );
}

#[test]
fn pages_side_by_side_are_one_run() {
    let sim = Sim::builder().frames(128).first_frame(0x100).build();
    let area = Area::new(&sim, AreaKind::Open { size: 0x100_0000 }, 0).unwrap();
    assert_eq!(AreaTree(&area).to_string(), "0 pages of 4096 in 0 runs, 0 nodes of 0 B in all");
    for page in [5, 6, 7, 9, 0x800] {
        area.write(page << 12, b"x").unwrap().complete();
    }
    let frame = |page: u64| area.frame_at(page << 12).map_or(0, Frame::number);
    // The simulated machine hands frames out as it likes: what follows on what is asked of it.
    let text = AreaTree(&area).to_string();
    let mut expected = Vec::new();
    for page in [5_u64, 6, 7, 9, 0x800] {
        match expected.last_mut() {
            Some((first, count)) if *first + *count == page && frame(*first) + *count == frame(page) => *count += 1,
            _ => expected.push((page, 1)),
        }
    }
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), expected.len() + 1, "{text}");
    for ((first, count), line) in expected.iter().zip(&lines) {
        let name = if *count == 1 { format!("{first:#x}") } else { format!("{first:#x}-{:#x}", first + count - 1) };
        let wanted = format!("page {name:<17} -> frame {:#x}, {count} pages, dirty", frame(*first));
        assert_eq!(*line, wanted);
    }
    assert!(lines.last().unwrap().starts_with(&format!("5 pages of 4096 in {} runs, ", expected.len())));
}

#[test]
fn what_has_no_tree_says_so() {
    let sim = Sim::builder().build();
    let area = Area::new(&sim, AreaKind::Untracked { size: 0x1000 }, 0).unwrap();
    assert_eq!(AreaTree(&area).to_string(), "untracked areas have no tree");
}

#[test]
fn the_tables_of_a_space_are_told_line_by_line() {
    let sim = Sim::builder().build();
    let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
    let kernel = Space::kernel(&sim, bounds, None, ()).unwrap();
    let space = Space::user(&kernel, ()).unwrap();
    assert!(SpaceTables(&space).to_string().starts_with("0 runs"));
    let area = Area::new(&sim, AreaKind::Open { size: 0x2000 }, 0).unwrap();
    space.map(&MapRequest::new(&area).at(0x40_0000).populated()).unwrap();
    let (whole, range) = (SpaceTables(&space).to_string(), space.range(0x40_0000, 0x2000).unwrap());
    assert!(whole.starts_with("0x0000000000400000-"), "{whole}");
    let part = SpaceTablesIn { space: &space, range }.to_string();
    assert_eq!(part.lines().next(), whole.lines().next());
}
