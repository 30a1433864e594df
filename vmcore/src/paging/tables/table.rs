//! One table, reached: the only place where a table's memory is touched.

use core::marker::PhantomData;

use crate::addr::Frame;
use crate::frame::{FrameMeta, Frames};
use crate::paging::{EntryWord, Flag, Mmu};

use super::cursor::Run;

/// What becomes of the word of an entry.
pub(super) trait Change: Copy {
    /// The new word. The old one may be asked for.
    fn of(self, word: impl FnOnce() -> u64) -> u64;
}

/// These bits are exchanged.
#[derive(Clone, Copy)]
struct Flip(u64);

impl Change for Flip {
    #[inline(always)]
    fn of(self, word: impl FnOnce() -> u64) -> u64 {
        word() ^ self.0
    }
}

/// Nothing is left.
#[derive(Clone, Copy)]
pub(super) struct Clear;

impl Change for Clear {
    #[inline(always)]
    fn of(self, _word: impl FnOnce() -> u64) -> u64 {
        0
    }
}

/// A table that can be reached. Every index is masked to the table's length at the access.
pub(super) struct Table<'a, M: Mmu> {
    pointer: *mut u8,
    mask: usize,
    frame: Frame,
    /// The table's record; `None` for one that is only read.
    meta: Option<&'a FrameMeta>,
    mmu: PhantomData<M>,
}

impl<M: Mmu> Clone for Table<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Mmu> Copy for Table<'_, M> {}

impl<'a, M: Mmu> Table<'a, M> {
    /// The table of `level` in `frame`, for reading. `None` if it cannot be reached.
    ///
    /// The frame comes from a root that was vouched for ([`Tables::new`](super::Tables::new)) or from an entry of such a tree.
    #[inline]
    pub(super) fn reach<F: Frames>(frames: &'a F, mmu: M, level: usize, frame: Frame) -> Option<Self> {
        mmu.level(level)?;
        let pointer = frames.frame_pointer(frame);
        if pointer.is_null() {
            return None;
        }
        Some(Self { pointer, mask: (1 << mmu.index_bits(level)) - 1, frame, meta: None, mmu: PhantomData })
    }

    /// The table of `level` in `frame`, for changing. `None` if it cannot be reached or is not recorded as a table.
    #[inline]
    pub(super) fn own<F: Frames>(frames: &'a F, mmu: M, level: usize, frame: Frame) -> Option<Self> {
        Self::reach(frames, mmu, level, frame)?.owned(frames)
    }

    /// The same table, for changing. `None` if it is not recorded as a table.
    #[inline]
    pub(super) fn owned<F: Frames>(self, frames: &'a F) -> Option<Self> {
        let meta = frames.frame_meta(self.frame)?;
        if meta.is_table() { Some(Self { meta: Some(meta), ..self }) } else { None }
    }

    /// How many entries it has.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.mask + 1
    }

    #[inline]
    pub(super) fn frame(&self) -> Frame {
        self.frame
    }

    /// The entries as atomics.
    #[inline]
    pub(super) fn atomics(&self) -> &'a [<M::Word as EntryWord>::Atomic] {
        // SAFETY: a table is reachable for a whole frame for the life of `frames` (`Frames`, and `Tables::new` for its root), and aligned
        // to it; it fits the frame (`Mmu`), and is accessed as atomics of this width only, which allow shared access.
        unsafe { core::slice::from_raw_parts(self.pointer.cast(), self.len()) }
    }

    #[inline]
    pub(super) fn load(&self, index: usize) -> u64 {
        // SAFETY: a frame that is a table is reachable for a whole page (`Frames`), a table fits a frame (`Mmu`), and the
        // masked index lies in the table. Entries are accessed as atomics only.
        unsafe { M::Word::load(self.pointer, index & self.mask) }
    }

    /// Writes an entry. The caller has the tables exclusively, by the `&mut Tables` that the operation takes; or it has at least the entry so
    /// ([`LeafTables`](super::LeafTables)).
    #[inline]
    pub(super) fn store(&self, index: usize, word: u64) {
        // SAFETY: as for `load`.
        unsafe { M::Word::store(self.pointer, index & self.mask, word) }
    }

    /// Writes an entry and gives what stood there, as one step.
    #[inline]
    pub(super) fn swap(&self, index: usize, word: u64) -> u64 {
        // SAFETY: as for `load`.
        unsafe { M::Word::swap(self.pointer, index & self.mask, word) }
    }

    /// Writes an entry if `old` stands there, as one step; gives what stands there otherwise.
    #[inline]
    pub(super) fn compare_exchange(&self, index: usize, old: u64, new: u64) -> Result<(), u64> {
        // SAFETY: as for `load`.
        unsafe { M::Word::compare_exchange(self.pointer, index & self.mask, old, new) }
    }

    /// Writes `word` to entry `first`, and `stride` more to each of the entries that follow, `count` in all: one add and one store
    /// per entry. What would pass the table's end is left out.
    #[inline]
    pub(super) fn store_run(&self, first: usize, count: usize, mut word: u64, stride: u64) {
        let first = first & self.mask;
        for index in first..first + count.min(self.len() - first) {
            // SAFETY: as for `load`; the index was bounded by the table's length above.
            unsafe { M::Word::store(self.pointer, index, word) };
            word = word.wrapping_add(stride);
        }
    }

    /// Writes the word for each of these over the entries from `first` on; gives how many. What would pass the table's end is left out.
    #[inline(always)]
    pub(super) fn write_run<T>(&self, first: usize, each: &[T], word: impl Fn(&T) -> u64) -> i32 {
        let (pointer, first) = (self.pointer, first & self.mask);
        let each = each.get(..self.len() - first).unwrap_or(each);
        for (step, at) in each.iter().enumerate() {
            // SAFETY: as for `load`; the index was bounded by the table's length above.
            unsafe { M::Word::store(pointer, first + step, word(at)) };
        }
        each.len() as i32
    }

    /// The same, where there is a word and the entry is not present.
    #[inline(always)]
    pub(super) fn fill_run<T>(&self, mmu: M, first: usize, each: &[T], word: impl Fn(&T) -> Option<u64>) -> i32 {
        let (pointer, first) = (self.pointer, first & self.mask);
        let each = each.get(..self.len() - first).unwrap_or(each);
        let mut written = 0;
        for (step, at) in each.iter().enumerate() {
            let Some(word) = word(at) else { continue };
            // SAFETY: as for `load`; the index was bounded by the table's length above.
            if !mmu.is_present(unsafe { M::Word::load(pointer, first + step) }) {
                // SAFETY: as above.
                unsafe { M::Word::store(pointer, first + step, word) };
                written += 1;
            }
        }
        written
    }

    /// Shows each of `count` entries from `first` on, with its place among them, and writes what is given back. What would pass the
    /// table's end is left out.
    #[inline]
    pub(super) fn update_run(&self, first: usize, count: usize, mut update: impl FnMut(usize, u64) -> Option<u64>) {
        let first = first & self.mask;
        for step in 0..count.min(self.len() - first) {
            // SAFETY: as for `load`; the index was bounded by the table's length above.
            let word = unsafe { M::Word::load(self.pointer, first + step) };
            if let Some(new) = update(step, word) {
                // SAFETY: as above.
                unsafe { M::Word::store(self.pointer, first + step, new) };
            }
        }
    }

    /// Shows each entry of a run, with its place in it, and writes what is given back; and shows each run of entries that were written, counted
    /// from the first one's place, with whether any of them said yes to `noted`. What would pass the table's end is left out.
    ///
    /// What is done once per run and not once per entry costs next to nothing.
    #[inline(always)]
    pub(super) fn update_runs(
        &self,
        run: Run,
        noted: Flag,
        mut update: impl FnMut(usize, u64) -> Option<u64>,
        mut updated: impl FnMut(Run, bool),
    ) {
        let first = run.first & self.mask;
        let count = run.count.min(self.len() - first);
        let mut step = 0;
        while step < count {
            let (start, mut yes) = (step, 0);
            while step < count {
                // SAFETY: as for `load`; the index was bounded by the table's length above.
                let word = unsafe { M::Word::load(self.pointer, first + step) };
                let Some(new) = update(step, word) else { break };
                // SAFETY: as above.
                unsafe { M::Word::store(self.pointer, first + step, new) };
                yes |= noted.yes_bit(word);
                step += 1;
            }
            if step > start {
                updated(Run { first: start, count: step - start }, yes != 0);
            }
            // The one that was not written.
            step += 1;
        }
    }

    /// Shows each entry of a run that is present, and writes what is given back; and shows each run of entries that were written, counted from the first one's
    /// place.
    #[inline(always)]
    pub(super) fn update_present(
        &self,
        mmu: M,
        run: Run,
        mut update: impl FnMut(u64) -> Option<u64>,
        mut updated: impl FnMut(Run),
    ) {
        let mut passed = 0;
        while passed < run.count {
            let rest = Run { first: run.first + passed, count: run.count - passed };
            let Some(absent) = self.first_present(mmu, rest) else { return };
            let (mut start, mut step) = (passed + absent, passed + absent);
            while step < run.count {
                let word = self.load(run.first + step);
                if !mmu.is_present(word) {
                    break;
                }
                match update(word) {
                    Some(new) => self.store(run.first + step, new),
                    None => {
                        if step > start {
                            updated(Run { first: start, count: step - start });
                        }
                        start = step + 1;
                    }
                }
                step += 1;
            }
            if step > start {
                updated(Run { first: start, count: step - start });
            }
            passed = step;
        }
    }

    /// The first present entry of the run that is `wanted`, by its place in it.
    #[inline(always)]
    pub(super) fn find_in_run(&self, mmu: M, run: Run, wanted: impl Fn(u64) -> bool) -> Option<usize> {
        let mut step = 0;
        while step < run.count {
            let rest = Run { first: run.first + step, count: run.count - step };
            // Where little is present, most of it is passed eight at a time.
            step += self.first_present(mmu, rest)?;
            while step < run.count {
                let word = self.load(run.first + step);
                if !mmu.is_present(word) {
                    break;
                }
                if wanted(word) {
                    return Some(step);
                }
                step += 1;
            }
        }
        None
    }

    /// Whether an entry of the run is present: the first one's place in it.
    ///
    /// A function of its own: among others, the loop has too few registers.
    #[inline(never)]
    pub(super) fn first_present(&self, mmu: M, run: Run) -> Option<usize> {
        let first = run.first & self.mask;
        let count = run.count.min(self.len() - first);
        // Many at a time, since the compiler does not join loads of atomics.
        const STRIDE: usize = 16;
        let mut step = 0;
        while step + STRIDE <= count {
            // SAFETY: those from `first` to `first + count` lie in the table.
            if mmu.is_present(unsafe { self.joined::<STRIDE>(first + step, (0, u64::MAX)) }.0) {
                break;
            }
            step += STRIDE;
        }
        (step..count).find(|place| mmu.is_present(self.load(first + place)))
    }

    /// What is set in any of `N` entries from `first` on or was in those before, and what is set in all of them and was.
    ///
    /// # Safety
    /// They lie in the table.
    #[inline(always)]
    unsafe fn joined<const N: usize>(&self, first: usize, (mut any, mut all): (u64, u64)) -> (u64, u64) {
        for place in 0..N {
            // SAFETY: as for `load`, with the caller's promise.
            let word = unsafe { M::Word::load(self.pointer, first + place) };
            any |= word;
            all &= word;
        }
        (any, all)
    }

    /// Shows entries of a run, of those that follow one another and agree in the bits of `alike` one: without it, each.
    ///
    /// # Errors
    /// The first of `look`.
    pub(super) fn each_unlike<E>(
        &self,
        run: Run,
        alike: Option<u64>,
        mut look: impl FnMut(u64) -> Result<(), E>,
    ) -> Result<(), E> {
        const STRIDE: usize = 16;
        let first = run.first & self.mask;
        let end = first + run.count.min(self.len() - first);
        let mut index = first;
        while index < end {
            let word = self.load(index);
            look(word)?;
            index += 1;
            let Some(alike) = alike else { continue };
            let agrees = |any: u64, all: u64| (any ^ word) & alike == 0 && (all ^ word) & alike == 0;
            while index + STRIDE <= end {
                // SAFETY: those before `end` lie in the table.
                let (any, all) = unsafe { self.joined::<STRIDE>(index, (0, u64::MAX)) };
                if !agrees(any, all) {
                    break;
                }
                index += STRIDE;
            }
            while index < end && agrees(self.load(index), self.load(index)) {
                index += 1;
            }
        }
        Ok(())
    }

    /// Makes the same change to entries of a run, from the first on, as long as they agree with `key` in the bits of `alike`; the last few may be left over. Gives how many those were,
    /// and what is set in any and in all of them.
    ///
    /// A function of its own: among others, the loop has too few registers.
    #[inline(never)]
    fn change_alike(&self, run: Run, alike: u64, key: u64, change: impl Change) -> (usize, u64, u64) {
        let first = run.first & self.mask;
        let count = run.count.min(self.len() - first);
        let mut seen = (0, u64::MAX);
        // SAFETY: those from `first` to `first + count` lie in the table.
        let done = unsafe {
            let done = self.change_by::<32>(first, count, (alike, key), change, &mut seen);
            done + self.change_by::<4>(first + done, count - done, (alike, key), change, &mut seen)
        };
        (done, seen.0, seen.1)
    }

    /// The same, `N` at a time. Adds what is set in those that were changed to what was `seen`, in any and in all.
    ///
    /// # Safety
    /// The entries lie in the table.
    #[inline(always)]
    unsafe fn change_by<const N: usize>(
        &self,
        first: usize,
        count: usize,
        (alike, key): (u64, u64),
        change: impl Change,
        seen: &mut (u64, u64),
    ) -> usize {
        let mut done = 0;
        while done + N <= count {
            let at = first + done;
            // SAFETY: the caller's promise.
            let (any, all) = unsafe { self.joined::<N>(at, *seen) };
            // Those that were seen before agree.
            if (any ^ key | all ^ key) & alike != 0 {
                break;
            }
            *seen = (any, all);
            for step in 0..N {
                // SAFETY: as for `load`; and as above.
                let word = || unsafe { M::Word::load(self.pointer, at + step) };
                // SAFETY: as above.
                unsafe { M::Word::store(self.pointer, at + step, change.of(word)) };
            }
            done += N;
        }
        done
    }

    /// Changes entries of a run: `change` is given a present word and says how, if at all. It may look at the bits of `alike` alone, which the hardware does not
    /// change, so that it is asked once for all that agree in them; without it, of each entry. Shows each run of entries that were changed, counted from the first
    /// one's place, with whether any of them said yes to `noted`. What would pass the table's end is left out.
    ///
    /// Entries that agree cost a load, a change in memory and a little more, and absent ones a load. What the hardware changes by itself in between is as where one
    /// is loaded and stored alone.
    #[inline(always)]
    pub(super) fn change_runs<C: Change>(
        &self,
        mmu: M,
        run: Run,
        alike: Option<u64>,
        noted: Flag,
        mut change: impl FnMut(u64) -> Option<C>,
        mut changed: impl FnMut(Run, bool),
    ) {
        let first = run.first & self.mask;
        let count = run.count.min(self.len() - first);
        let rest = |step| Run { first: first + step, count: count - step };
        // Entries from `start` to `step` were changed, of which `yes` tells.
        let (mut start, mut step, mut yes) = (0, 0, 0);
        while step < count {
            let word = self.load(first + step);
            if let Some(change) = if mmu.is_present(word) { change(word) } else { None } {
                let together = alike.map(|alike| self.change_alike(rest(step), alike, word & alike, change));
                if let Some((more, any, all)) = together.filter(|(more, ..)| *more != 0) {
                    // Of several, one may say yes by a bit that is set, or by one that is clear.
                    yes |= noted.yes_bit(any) | noted.yes_bit(all);
                    step += more;
                } else {
                    self.store(first + step, change.of(|| word));
                    yes |= noted.yes_bit(word);
                    step += 1;
                }
                continue;
            }
            if step > start {
                changed(Run { first: start, count: step - start }, yes != 0);
            }
            step += 1;
            if !mmu.is_present(word) {
                match self.first_present(mmu, rest(step)) {
                    Some(absent) => step += absent,
                    None => return,
                }
            }
            (start, yes) = (step, 0);
        }
        if step > start {
            changed(Run { first: start, count: step - start }, yes != 0);
        }
    }

    /// Changes entries of a run by exchanging bits: `flip` is given a present word and says which, if any. All else is as for [`change_runs`](Self::change_runs).
    #[inline(always)]
    pub(super) fn flip_runs(
        &self,
        mmu: M,
        run: Run,
        alike: Option<u64>,
        noted: Flag,
        mut flip: impl FnMut(u64) -> Option<u64>,
        flipped: impl FnMut(Run, bool),
    ) {
        self.change_runs(mmu, run, alike, noted, |word| flip(word).map(Flip), flipped);
    }

    /// Changes the count of live entries and gives the new one.
    #[inline]
    pub(super) fn change_live(&self, change: i32) -> u32 {
        self.meta.map_or(1, |meta| meta.change_live(change))
    }

    /// Changes the count of live entries, where others do so at the same time.
    #[inline]
    pub(super) fn change_live_beside(&self, change: i32) {
        if let Some(meta) = self.meta {
            meta.change_live_beside(change);
        }
    }

    /// The count of live entries, which includes one for a pinned table; never 0 for a table that is only read.
    #[inline]
    pub(super) fn live(&self) -> u32 {
        self.meta.map_or(1, FrameMeta::live_entries)
    }

    /// Whether the count holds an extra one that keeps the table when it is empty. O(entries).
    pub(super) fn is_pinned(&self, mmu: M) -> bool {
        let present = (0..self.len()).filter(|index| mmu.is_present(self.load(*index))).count();
        self.live() as usize > present
    }
}
