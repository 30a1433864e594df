//! The recursive self-map: a root slot that leads back to the root, so that the MMU itself shows every table at a fixed address.
//!
//! ```text
//!   slot s of the root ─┐        address  [ s ][ a3 ][ a2 ][ a1 ] + 8·a0     the level-0 entry of a
//!        ^──────────────┘                 [ s ][ s  ][ a3 ][ a2 ] + 8·a1     the level-1 entry
//!                                         [ s ][ s  ][ s  ][ s  ] + 8·a3     the root's entry
//! ```
//!
//! An optional way to reach tables, for a kernel without a linear map of all memory. Its limits:
//!
//! - It works only where a table entry read as a leaf means the same frame, and where every table fills a page: x86-64 does; RISC-V (leaf and
//!   table differ), PAE (a root of four entries) and second-stage formats without a root of that shape do not. [`Recursive::new`] finds out.
//! - It shows the tables of the space that a CPU has loaded, and of those that are [mounted](Tables::mounting). [`Frames`] reaches a frame by its number,
//!   which a window cannot; so the operations on ranges still need reachable tables, and the window is for reading, and for a
//!   kernel's own edits, which keep the tables' counts themselves.
//! - Each page of the window that is read takes a TLB entry, and each change of a table above takes a flush of the window's part as well.
//! - A range that contains the slot is refused by the operations ([`TableError::Foreign`]): they would take the tables apart through their own root.

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;

use crate::addr::{PageRange, VirtAddr};
use crate::frame::{FrameList, Frames};
use crate::paging::{Entry, EntryWord, FlushRequest, FlushScope, Gather, Mmu, TableError, Tables};
use crate::platform::{CpuSet, Platform};

/// Where a recursive window shows entries: a root slot and the format's geometry.
#[derive(Clone, Copy, Debug)]
pub struct Recursive<M: Mmu> {
    mmu: M,
    slot: u64,
    top: usize,
    index_bits: u32,
}

impl<M: Mmu> Recursive<M> {
    /// The window of a root slot; `None` if the format allows none, or has no such slot.
    pub fn new(mmu: M, slot: usize) -> Option<Self> {
        let top = mmu.levels().checked_sub(1)?;
        let index_bits = mmu.page_shift().checked_sub(M::Word::SHIFT)?;
        let frame = crate::addr::Frame::new(1);
        let word = mmu.encode_table(top, frame).ok()?;
        for level in 0..=top {
            let at = mmu.level(level)?;
            let shape = mmu.index_bits(level) == index_bits && at.shift == mmu.page_shift() + level as u32 * index_bits;
            let same = match mmu.decode(level, word) {
                Entry::Leaf(leaf) => level == 0 && leaf.frame == frame,
                Entry::Table(next, _) => level > 0 && next == frame,
                _ => false,
            };
            if !shape || !same {
                return None;
            }
        }
        let slot = slot as u64;
        (slot >> index_bits == 0).then_some(Self { mmu, slot, top, index_bits })
    }

    /// The level-`level` index of an address.
    fn index(&self, level: usize, address: u64) -> u64 {
        let shift = self.mmu.page_shift() + level as u32 * self.index_bits;
        address >> shift & ((1 << self.index_bits) - 1)
    }

    /// The canonical address with these translated bits.
    fn canonical(&self, address: u64) -> VirtAddr {
        let unused = 64_u32.saturating_sub(self.mmu.virtual_bits()).min(63);
        let extended = VirtAddr::new(((address << unused) as i64 >> unused) as u64);
        if self.mmu.is_canonical(extended) { extended } else { VirtAddr::new(address) }
    }

    /// All addresses of the window: those of its root slot.
    pub fn window(&self) -> PageRange {
        let shift = self.mmu.page_shift() + self.top as u32 * self.index_bits;
        PageRange::from_checked(self.canonical(self.slot << shift), 1 << shift)
    }

    /// Where the entry of `level` for `address` is seen; `None` for a level that is not in use or an address that the format lacks. Reading there faults where
    /// the entry's table does not exist.
    pub fn entry_address(&self, level: usize, address: VirtAddr) -> Option<VirtAddr> {
        if level > self.top || !self.mmu.is_canonical(address) {
            return None;
        }
        let mut seen = 0;
        for position in 0..=self.top {
            // The slot once for the root and once for each level that is left out below; then the address's own indices.
            let index = match position.checked_sub(level + 1) {
                None => self.slot,
                Some(below_top) => self.index(self.top - below_top, address.as_u64()),
            };
            seen = seen << self.index_bits | index;
        }
        let offset = self.index(level, address.as_u64()) << M::Word::SHIFT;
        Some(self.canonical(seen << self.mmu.page_shift() | offset))
    }

    /// Which entry is seen at an address of the window: its level and the first address that it translates. `None` outside of it. The opposite of
    /// [`entry_address`](Self::entry_address), but for addresses in the window itself.
    pub fn entry_at(&self, seen: VirtAddr) -> Option<(usize, VirtAddr)> {
        if !self.window().contains(seen) {
            return None;
        }
        let seen = seen.as_u64();
        let leading = (0..=self.top).rev().take_while(|level| self.index(*level, seen) == self.slot).count();
        let level = leading.checked_sub(1)?;
        let mut address = 0;
        for below in (0..self.top - level).rev() {
            address = address << self.index_bits | self.index(below, seen);
        }
        let last = seen >> M::Word::SHIFT & ((1 << self.index_bits) - 1);
        address = address << self.index_bits | last;
        let shift = self.mmu.page_shift() + level as u32 * self.index_bits;
        Some((level, self.canonical(address << shift)))
    }
}

impl<M: Mmu> Tables<M> {
    /// Makes a root slot lead to the root itself. Nothing has to be flushed.
    ///
    /// # Errors
    /// Nothing was changed: the format allows no self-map or has no such slot ([`TableError::Foreign`]), or something is mapped there.
    pub fn map_self<F: Frames>(&mut self, frames: &F, slot: usize) -> Result<Recursive<M>, TableError> {
        let recursive = Recursive::new(self.mmu(), slot).ok_or(TableError::Foreign(VirtAddr::new(0)))?;
        self.link_root_slot(frames, recursive.window().start(), self.root())?;
        Ok(recursive)
    }

    /// Ends the self-map. Its window is to be flushed.
    pub fn unmap_self<F: Frames>(&mut self, frames: &F, recursive: &Recursive<M>, gather: &mut Gather) {
        if self.unlink_root_slot(frames, recursive.window().start(), self.root()) {
            gather.scope.add(self.tag(), recursive.window(), false);
            gather.scope.note_tables();
        }
    }

    /// Makes the tables that are missing for what is read at `seen`, an address of the window: what a fault there asks for. The table is empty; who
    /// faulted puts an entry in it, and counts it. Nothing has to be flushed.
    ///
    /// # Errors
    /// Nothing was changed: no address of the window, or one in which it shows itself ([`TableError::Foreign`]), a larger leaf on the way ([`TableError::Conflict`]), or too few spare tables.
    pub fn make_seen<F: Frames>(
        &mut self,
        frames: &F,
        recursive: &Recursive<M>,
        seen: VirtAddr,
        spare: &mut FrameList,
    ) -> Result<(), TableError> {
        let (level, address) = recursive.entry_at(seen).ok_or(TableError::Foreign(seen))?;
        if recursive.window().contains(address) {
            return Err(TableError::Foreign(seen));
        }
        self.link_down_to(frames, address, level, spare)
    }

    /// For showing other spaces' tables in free root slots of these, which the CPUs `cpus` have loaded. Any number can be mounted at a time.
    pub fn mounting<'a, P: Platform>(&'a mut self, platform: &'a P, cpus: P::CpuSet) -> Mounting<'a, P, M> {
        Mounting { tables: self, platform, cpus, single: PhantomData }
    }
}

/// These tables, while other spaces' are mounted in them; see [`Tables::mounting`].
pub struct Mounting<'a, P: Platform, M: Mmu> {
    tables: &'a mut Tables<M>,
    platform: &'a P,
    cpus: P::CpuSet,
    /// Mounts change the root through a shared reference: one thread at a time.
    single: PhantomData<Cell<()>>,
}

impl<'a, P: Platform, M: Mmu> Mounting<'a, P, M> {
    /// Shows `other`'s tables in a root slot for as long as the guard lives. Its root must have a [self-map](Tables::map_self) in the same slot,
    /// which is what the window goes round by.
    ///
    /// # Errors
    /// Nothing was changed: the format allows none or has no such slot, `other` has no self-map there ([`TableError::Foreign`]), or something is in the slot.
    pub fn mount<'m>(&'m self, slot: usize, other: &'m Tables<M>) -> Result<Mount<'m, 'a, P, M>, TableError> {
        let recursive = Recursive::new(other.mmu(), slot).ok_or(TableError::Foreign(VirtAddr::new(0)))?;
        let start = recursive.window().start();
        if other.root_slot(self.platform, start) != Some(other.root()) {
            return Err(TableError::Foreign(start));
        }
        self.tables.link_root_slot(self.platform, start, other.root())?;
        Ok(Mount { mounting: self, recursive, other })
    }
}

impl<P: Platform, M: Mmu> fmt::Debug for Mounting<'_, P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mounting").field("root", &self.tables.root()).finish_non_exhaustive()
    }
}

/// Another space's tables, seen in a window. Dropping it ends the mount: the slot is cleared, and every CPU concerned forgets the window before the
/// slot can be used again, so a later mount never shows what an earlier one did.
#[must_use = "the mount ends when it is dropped"]
pub struct Mount<'m, 'a, P: Platform, M: Mmu> {
    mounting: &'m Mounting<'a, P, M>,
    recursive: Recursive<M>,
    other: &'m Tables<M>,
}

impl<P: Platform, M: Mmu> Mount<'_, '_, P, M> {
    /// Where the entries of the mounted tables are seen.
    pub fn recursive(&self) -> Recursive<M> {
        self.recursive
    }
}

impl<P: Platform, M: Mmu> fmt::Debug for Mount<'_, '_, P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mount").field("root", &self.other.root()).finish_non_exhaustive()
    }
}

impl<P: Platform, M: Mmu> Drop for Mount<'_, '_, P, M> {
    fn drop(&mut self) {
        let Mounting { tables, platform, cpus, .. } = self.mounting;
        tables.unlink_root_slot(*platform, self.recursive.window().start(), self.other.root());
        let mut scope = FlushScope::new();
        scope.add(tables.tag(), self.recursive.window(), false);
        scope.note_tables();
        if !cpus.is_empty() {
            platform.flush(&FlushRequest { cpus: cpus.clone(), scope });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameUse, allocate_one, free_one};
    use crate::paging::{Leaf, Tag, X86_64};
    use crate::platform::CpuMask;
    use crate::sim::Sim;

    const SLOT: usize = 510;

    struct World {
        sim: Sim,
        tables: Tables<X86_64>,
        frame: crate::addr::Frame,
    }

    /// Tables with one page at `page` and a self-map.
    fn world(sim: &Sim, page: u64) -> (World, Recursive<X86_64>) {
        let mmu = X86_64::new(40);
        let root = allocate_one(sim, FrameUse::Table, true).unwrap();
        // SAFETY: a fresh, zeroed table.
        let mut tables = unsafe { Tables::new(mmu, root, Tag(1)) };
        let frame = sim.new_page();
        let mut spare = FrameList::new();
        for _ in 0..3 {
            spare.push(sim, allocate_one(sim, FrameUse::Table, true).unwrap()).unwrap();
        }
        let range = mmu.range(page << 12, 4096).unwrap();
        tables.map(sim, range, Leaf::new(frame).writable().used(), 0, &mut spare).unwrap();
        assert!(spare.is_empty());
        let recursive = tables.map_self(sim, SLOT).unwrap();
        (World { sim: sim.clone(), tables, frame }, recursive)
    }

    impl World {
        fn tear_down(mut self, recursive: &Recursive<X86_64>) {
            let mut gather = Gather::default();
            let mmu = self.tables.mmu();
            self.tables.unmap_self(&self.sim, recursive, &mut gather);
            for half in [0, 0xffff_8000_0000_0000] {
                let half = mmu.range(half, 1 << 47).unwrap();
                self.tables.detach(&self.sim, half, &mut gather).unwrap();
            }
            self.sim.unload(0);
            while let Some(table) = gather.tables.pop(&self.sim) {
                // SAFETY: unlinked, and no CPU has the root.
                unsafe { free_one(&self.sim, table, FrameUse::Table) }.unwrap();
            }
            // SAFETY: as above.
            unsafe { free_one(&self.sim, self.tables.root(), FrameUse::Table) }.unwrap();
            // SAFETY: mapped nowhere.
            unsafe { free_one(&self.sim, self.frame, FrameUse::Page) }.unwrap();
        }
    }

    #[test]
    fn a_cpu_reads_every_entry_in_the_window() {
        let sim = Sim::builder().frames(64).cpus(1).build();
        let page = 0x7_1234_5678;
        let (world, recursive) = world(&sim, page);
        sim.load(0, world.tables.root(), Tag(1));
        let address = VirtAddr::new(page << 12);
        for step in world.tables.walk(&sim, address).steps() {
            let seen = recursive.entry_address(step.level, address).unwrap();
            assert_eq!(sim.read_u64(0, seen, false).unwrap() & !0x60, step.word & !0x60, "level {}", step.level);
            let (level, first) = recursive.entry_at(seen).unwrap();
            assert_eq!((level, first), (step.level, address.align_down(12 + 9 * level as u32)));
        }
        assert_eq!(recursive.entry_address(4, address), None);
        assert_eq!(recursive.entry_address(0, VirtAddr::new(1 << 63)), None);
        assert_eq!(recursive.entry_at(address), None);
        assert!(Recursive::new(world.tables.mmu(), 512).is_none());
        world.tear_down(&recursive);
    }

    #[test]
    fn a_fault_in_the_window_makes_the_table() {
        let sim = Sim::builder().frames(64).cpus(1).build();
        let (mut world, recursive) = world(&sim, 5);
        sim.load(0, world.tables.root(), Tag(1));
        let elsewhere = VirtAddr::new(0x12_3456_7000);
        let seen = recursive.entry_address(0, elsewhere).unwrap();
        let fault = sim.read_u64(0, seen, false).unwrap_err();
        let mut spare = FrameList::new();
        assert_eq!(
            world.tables.make_seen(&sim, &recursive, fault.address, &mut spare),
            Err(TableError::NeedsTables(2)),
            "the table of the page and the one above"
        );
        for _ in 0..2 {
            spare.push(&sim, allocate_one(&sim, FrameUse::Table, true).unwrap()).unwrap();
        }
        world.tables.make_seen(&sim, &recursive, fault.address, &mut spare).unwrap();
        assert_eq!(sim.read_u64(0, seen, false), Ok(0));
        let itself = recursive.entry_address(3, recursive.window().start()).unwrap();
        assert!(world.tables.make_seen(&sim, &recursive, itself, &mut spare).is_err());
        world.tear_down(&recursive);
    }

    #[test]
    fn recursive_slot_not_freed() {
        let sim = Sim::builder().frames(64).cpus(1).build();
        let before = sim.frame_counts();
        let (mut world, recursive) = world(&sim, (0xffff_8000_0000_0000 >> 12) + 5);
        let upper = world.tables.mmu().range(0xffff_8000_0000_0000, 1 << 47).unwrap();
        let foreign = TableError::Foreign(recursive.window().start());
        let mut gather = Gather::default();
        let counts = sim.frame_counts();
        assert_eq!(world.tables.detach(&sim, upper, &mut gather), Err(foreign));
        let mut spare = FrameList::new();
        assert_eq!(world.tables.unmap(&sim, upper, &mut spare, &mut gather, |_, _| {}), Err(foreign));
        // Page by page neither: the entry of a page that is seen in the window is a table's.
        let seen = recursive.entry_address(0, VirtAddr::new(0xffff_8000_0000_5000)).unwrap().align_down(12);
        assert!(world.tables.translate(&sim, seen).is_some());
        let page = world.tables.mmu().range(seen.as_u64(), 0x1000).unwrap();
        let refused = TableError::Foreign(seen);
        assert_eq!(world.tables.unmap_page(&sim, seen, &mut gather), Err(refused));
        assert_eq!(world.tables.unmap(&sim, page, &mut spare, &mut gather, |_, _| {}), Err(refused));
        let leaf = Leaf::new(crate::addr::Frame::new(1));
        assert_eq!(world.tables.set_page(&sim, seen, leaf, &mut spare, &mut gather), Err(refused));
        assert!(gather.tables.is_empty() && gather.scope.is_empty());
        assert_eq!(sim.frame_counts(), counts);
        assert!(world.tables.translate(&sim, VirtAddr::new(0xffff_8000_0000_5000)).is_some(), "nothing was changed");
        assert!(matches!(world.tables.map_self(&sim, SLOT), Err(TableError::Conflict(_))));
        world.tear_down(&recursive);
        assert_eq!(sim.frame_counts(), before, "each table was freed once");
    }

    #[test]
    fn mount_change_flushes() {
        let sim = Sim::builder().frames(64).cpus(2).build();
        let page = 0x4_0000_0123;
        let ((mut home, home_map), (first, map), (second, _)) = (world(&sim, 9), world(&sim, page), world(&sim, page));
        // The slot in which the others' own tables are seen is free at home.
        let mut gather = Gather::default();
        home.tables.unmap_self(&sim, &home_map, &mut gather);
        for cpu in 0..2 {
            sim.load(cpu, home.tables.root(), Tag(1));
        }
        let address = VirtAddr::new(page << 12);
        let seen = map.entry_address(0, address).unwrap();
        let mut cpus = CpuMask::EMPTY;
        (0..2).for_each(|cpu| cpus.insert(cpu));
        let mounting = home.tables.mounting(&sim, cpus);
        for world in [&first, &second, &first] {
            let mount = mounting.mount(SLOT, &world.tables).unwrap();
            assert!(matches!(mounting.mount(SLOT, &world.tables), Err(TableError::Conflict(_))));
            for cpu in 0..2 {
                let word = sim.read_u64(cpu, mount.recursive().entry_address(0, address).unwrap(), false).unwrap();
                assert_eq!(word >> 12 & 0xff_ffff, world.frame.number(), "what is mounted now, not before");
            }
            drop(mount);
            assert!(sim.read_u64(0, seen, false).is_err(), "ended");
            sim.check_translations();
        }
        assert!(mounting.mount(SLOT - 1, &first.tables).is_err(), "no self-map there");
        (0..2).for_each(|cpu| sim.unload(cpu));
        first.tear_down(&map);
        second.tear_down(&map);
        home.tear_down(&home_map);
    }
}
