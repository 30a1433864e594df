//! Random tables, built by `vmcore`, and the naive map of what was asked for.

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;
use vmcore::{
    addr::{Frame, PageRange, VirtAddr},
    frame::{FrameList, Frames as _},
    paging::{Access, Entry, EntryWord as _, Gather, Leaf, LeafTest, MemoryType, Mmu, TableError, Tables, Tag},
};

use crate::{
    formats::{Marks, Subject},
    model::{Model, Window},
    pool::Pool,
};

/// How many places mappings are made at, in each of which there are several.
const PLACES: usize = 16;
/// The most memory that is mapped by base pages where larger ones would do.
const MOST_SCATTERED: u64 = 8 << 20;

/// Tables, and what they should say.
pub(crate) struct World<'s, M: Mmu, const SHIFT: u32> {
    subject: &'s Subject<M>,
    pub(crate) pool: Pool<SHIFT>,
    pub(crate) tables: Tables<M>,
    pub(crate) model: Model,
    /// The addresses of the pages that the two modes run from: the privileged one's, the program's.
    pub(crate) pages: [u64; 2],
    /// How many leaves are in groups.
    pub(crate) grouped: u64,
    spare: FrameList,
    gather: Gather,
}

impl<'s, M: Mmu, const SHIFT: u32> World<'s, M, SHIFT> {
    /// Maps, protects and unmaps at random.
    pub(crate) fn new(subject: &'s Subject<M>, rng: &mut Rng) -> Result<Self> {
        ensure!(subject.mmu.page_shift() == SHIFT, "{}: pages of another size than said", subject.name);
        let pool = Pool::new(subject.machine.tables());
        let mut spare = FrameList::new();
        spare.fill_with_tables(&pool, 1).context("making the root table")?;
        let root = spare.pop(&pool).context("making the root table")?;
        // SAFETY: a fresh, zeroed table; the world gives its own pool to every operation.
        let tables = unsafe { Tables::new(subject.mmu, root, Tag(0)) };
        let (model, gather) = (Model::default(), Gather::default());
        let mut world = Self { subject, pool, tables, model, pages: [0; 2], grouped: 0, spare, gather };
        if subject.root_is_read_once {
            let everything = subject.mmu.range(0, 1 << subject.virtual_bits)?;
            let slots = 1 << subject.mmu.index_bits(subject.mmu.levels() - 1);
            world.spare.fill_with_tables(&world.pool, slots).context("filling the root table")?;
            world.tables.pin_root_slots(&world.pool, everything, &mut world.spare)?;
        }
        world.map_guest(rng)?;
        for _ in 0..PLACES {
            world.map_place(rng)?;
        }
        for _ in 0..2 * PLACES {
            world.change(rng)?;
        }
        world.group(rng)?;
        world.move_far(rng)?;
        Ok(world)
    }

    /// A random address that exists, and prefers to be at an end.
    pub(crate) fn address(subject: &Subject<M>, rng: &mut Rng) -> u64 {
        let translated = u64::MAX >> (64 - subject.virtual_bits);
        let near = 1 << (subject.virtual_bits - 2).min(32);
        let address = match rng.u32(0..8) {
            0 => rng.u64(0..near),
            1 => translated - rng.u64(0..near),
            2 => (translated >> 1) - rng.u64(0..near),
            3 => (translated >> 1) + 1 + rng.u64(0..near),
            _ => rng.u64(..),
        };
        subject.halves.extend(address, subject.virtual_bits)
    }

    /// Maps what the guest itself runs on.
    fn map_guest(&mut self, rng: &mut Rng) -> Result<()> {
        let machine = self.subject.machine;
        let code = Access::READ | Access::EXECUTE;
        let leaf = |physical: u64, access: Access| Leaf::new(Frame::new(physical >> SHIFT)).access(access).used();
        if machine.runs_under_tables {
            let (start, end) = machine.guest_memory();
            let range = self.subject.mmu.range(start, end - start)?;
            self.map(range, leaf(start, code | Access::WRITE), usize::MAX, true)?;
        }
        let program = if M::FORMAT.leaf.user.mask == 0 { code } else { code | Access::USER };
        for (mode, access) in [code, program].into_iter().enumerate() {
            loop {
                let address = Self::address(self.subject, rng) >> SHIFT << SHIFT;
                let range = self.subject.mmu.range(address, 1 << SHIFT)?;
                if self.map(range, leaf(machine.pages()[mode], access), usize::MAX, true)? {
                    self.pages[mode] = address;
                    break;
                }
            }
        }
        Ok(())
    }

    /// The shifts of the levels that have leaves, the smallest first.
    fn leaf_shifts(&self) -> Vec<u32> {
        let mmu = self.subject.mmu;
        let levels = (0..mmu.levels()).filter_map(|level| mmu.level(level));
        levels.filter(|level| level.leaf_test != LeafTest::Never).map(|level| level.shift).collect()
    }

    /// Makes a few mappings near each other.
    fn map_place(&mut self, rng: &mut Rng) -> Result<()> {
        let shifts = self.leaf_shifts();
        let mut address = Self::address(self.subject, rng);
        for _ in 0..4 {
            let level = rng.usize(0..shifts.len());
            let shift = shifts[level];
            address = address >> shift << shift;
            let leaves = match level {
                0 => rng.u64(1..600),
                _ if shift < 32 => rng.u64(1..4),
                _ => 1,
            };
            let size = leaves << shift;
            let physical = self.physical(rng, size, shift);
            let leaf = self.leaf(rng, physical);
            let largest = if rng.bool() || size > MOST_SCATTERED { usize::MAX } else { rng.usize(0..=level) };
            // Ranges that leave the half are refused; the next place is at another address.
            let Ok(range) = self.subject.mmu.range(address, size) else { return Ok(()) };
            self.map(range, leaf, largest, false)?;
            address = address.wrapping_add(size).wrapping_add(rng.u64(0..3) << shifts[rng.usize(0..=level)]);
        }
        Ok(())
    }

    /// Physical memory of this size and alignment; not all of it exists where that is more than there is.
    fn physical(&self, rng: &mut Rng, size: u64, shift: u32) -> u64 {
        let machine = self.subject.machine;
        let (start, end) = match machine.nowhere {
            Some(start) if rng.u32(0..3) == 0 => (start, 1 << self.subject.mmu.physical_bits()),
            _ => machine.targets[rng.usize(0..machine.targets.len())],
        };
        let first = (start >> shift) + u64::from(start.trailing_zeros() < shift);
        let Some(last) = end.checked_sub(size).map(|last| last >> shift).filter(|last| *last >= first) else {
            return start >> shift << shift;
        };
        let physical = rng.u64(first..=last) << shift;
        // Alignment can also be missed: then smaller leaves have to do.
        if size <= MOST_SCATTERED && rng.u32(0..4) == 0 && physical > start {
            physical - (1 << SHIFT)
        } else {
            physical
        }
    }

    /// A leaf that the format can express; what it cannot is a typed error, which is not the matter here.
    fn leaf(&self, rng: &mut Rng, physical: u64) -> Leaf {
        loop {
            let access = Access::from_bits_truncate(rng.u8(..));
            let mut leaf = Leaf::new(Frame::new(physical >> SHIFT)).access(access);
            leaf.memory = MemoryType::ALL[rng.usize(0..MemoryType::ALL.len())];
            leaf.global = rng.bool();
            leaf.software = rng.u8(..) & ((1_u16 << M::FORMAT.software.1.min(8)) - 1) as u8;
            match self.subject.marks {
                Marks::Hardware => {
                    leaf.accessed = rng.bool();
                    leaf.dirty = leaf.accessed && rng.bool() && access.contains(Access::WRITE);
                }
                Marks::Software if rng.u32(0..8) != 0 => leaf = leaf.used(),
                Marks::Software => {}
            }
            if self.subject.mmu.encode_leaf(0, leaf).is_ok() {
                return leaf;
            }
        }
    }

    /// Makes groups of leaves of which a TLB may make one entry, where the format has them and everything is aligned.
    fn group(&mut self, rng: &mut Rng) -> Result<()> {
        let mmu = self.subject.mmu;
        for level in 0..mmu.levels() {
            let (Some(group), Some(at)) = (mmu.contiguous(level), mmu.level(level)) else { continue };
            let (count, size) = (1_u64 << group.count_shift, 1_u64 << (at.shift + group.count_shift));
            for window in self.model.windows().iter().filter(|window| !window.fixed) {
                for start in window.aligned(size).take(8) {
                    let walk = self.tables.walk(&self.pool, VirtAddr::new(start));
                    let physical = window.physical + (start - window.first);
                    let Some(step) = walk.steps().last().filter(|step| step.level == level) else { continue };
                    if physical % size != 0 || rng.u32(0..4) == 0 {
                        continue;
                    }
                    let table = self.pool.frame_pointer(step.table);
                    for place in 0..count as usize {
                        let index = step.index + place;
                        // SAFETY: groups are aligned, so that all of it lies in the table, which is the pool's and a whole frame.
                        let word = unsafe { M::Word::load(table, index) };
                        let Entry::Leaf(leaf) = mmu.decode(level, word) else { bail!("a window with a gap in it") };
                        let word = mmu.encode_contiguous(level, leaf)?;
                        // SAFETY: as above; nobody else has the tables.
                        unsafe { M::Word::store(table, index, word) };
                        self.grouped += 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// Has larger leaves lead to where base pages do not reach: no operation on a range does so, since it might have to split them.
    fn move_far(&mut self, rng: &mut Rng) -> Result<()> {
        let mmu = self.subject.mmu;
        let Some((start, end)) = rng.choice(self.subject.machine.far) else { return Ok(()) };
        let windows: Vec<_> = self.model.windows().iter().filter(|window| !window.fixed).copied().collect();
        for level in 1..mmu.levels() {
            let Some(at) = mmu.level(level) else { continue };
            let size = 1_u64 << at.shift;
            for first in windows.iter().flat_map(|window| window.aligned(size).take(8)) {
                let walk = self.tables.walk(&self.pool, VirtAddr::new(first));
                let Some(step) = walk.steps().last().filter(|step| step.level == level) else { continue };
                let Entry::Leaf(leaf) = step.entry else { continue };
                if rng.bool() {
                    continue;
                }
                let physical = rng.u64(start.div_ceil(size)..end / size) * size;
                let word = mmu.encode_leaf(level, Leaf { frame: Frame::new(physical >> SHIFT), ..leaf })?;
                // SAFETY: the walk's last step, in a table that is the pool's and a whole frame; nobody else has the tables.
                unsafe { M::Word::store(self.pool.frame_pointer(step.table), step.index, word) };
                self.model.change(first, first + (size - 1), |window| Some(Window { physical, ..window }));
            }
        }
        Ok(())
    }

    /// Maps, unless something is there already; the model decides, and the tables must agree.
    fn map(&mut self, range: PageRange, leaf: Leaf, largest: usize, fixed: bool) -> Result<bool> {
        let (first, last) = (range.start().as_u64(), range.last().as_u64());
        let clear = !self.model.windows().iter().any(|window| window.first <= last && window.last >= first);
        let needed = self.tables.tables_to_map(&self.pool, range, Some(leaf.frame), largest);
        self.spare.fill_with_tables(&self.pool, needed).context("mapping")?;
        match self.tables.map(&self.pool, range, leaf, largest, &mut self.spare) {
            Ok(()) if clear => {}
            Err(TableError::Conflict(_)) if !clear => return Ok(false),
            result => {
                bail!("mapping {range:?} gave {result:?}, though it was {}", if clear { "clear" } else { "in use" })
            }
        }
        self.model.map(Window {
            first,
            last,
            physical: leaf.frame.start(SHIFT).as_u64(),
            access: leaf.access,
            memory: leaf.memory,
            accessed: leaf.accessed,
            dirty: leaf.dirty,
            fixed,
        });
        Ok(true)
    }

    /// Protects or unmaps a part of something, or all of it.
    fn change(&mut self, rng: &mut Rng) -> Result<()> {
        let changeable: Vec<_> = self.model.windows().iter().filter(|window| !window.fixed).copied().collect();
        let Some(window) = rng.choice(&changeable) else { return Ok(()) };
        let pages = ((window.last - window.first) >> SHIFT) + 1;
        let skipped = if rng.bool() { 0 } else { rng.u64(0..pages) };
        let count = match rng.u32(0..3) {
            0 => pages - skipped,
            1 => rng.u64(1..=pages - skipped),
            _ => rng.u64(1..=(pages - skipped).min(5)),
        };
        let range = self.subject.mmu.range(window.first + (skipped << SHIFT), count << SHIFT)?;
        let (first, last) = (range.start().as_u64(), range.last().as_u64());
        let needed = self.tables.tables_to_split(&self.pool, range);
        self.spare.fill_with_tables(&self.pool, needed).context("splitting")?;
        if rng.u32(0..3) == 0 {
            self.tables.unmap(&self.pool, range, &mut self.spare, &mut self.gather, |_, _| {})?;
            self.model.change(first, last, |_| None);
        } else {
            let access = self.leaf(rng, window.physical).access;
            self.tables.protect(&self.pool, range, access, &mut self.spare, &mut self.gather)?;
            self.model.change(first, last, |window| Some(Window { access, ..window }));
        }
        Ok(())
    }
}
