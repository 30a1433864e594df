//! The operations that take more than a call: several changes in a row, or a reckoning of their own.

use super::operations::at;
use super::*;

impl<M: SimFormat + 'static> Judged<M> {
    /// A table's pages, of places 0 and 2, that map nothing any more.
    pub(super) fn clear_table(&mut self, place: usize) -> (u64, u64) {
        let each = pages_per_table(self.trees[0].mmu());
        let first = self.places[place & 2].next_multiple_of(each);
        let range = self.range(first, each);
        let others = self.others.clone();
        self.change(
            "unmap",
            &[(first, each)],
            0,
            |w, spare, gather| {
                w.trees[0].unmap(&w.sim, range, spare, gather, |span, leaf| {
                    if leaf.dirty {
                        others.borrow_mut().tell(span);
                    }
                })
            },
            |maps, _| maps[0].retain(|page, _| *page < first || *page - first >= each),
        )
        .unwrap();
        (first, each)
    }

    /// Maps a whole table's pages, aligned alike, by single leaves or a larger one, and has CPUs use them. Says whether it could.
    pub(super) fn map_table(&mut self, place: usize, largest: usize, choice: u64) -> bool {
        let leaf = self.leaf(0, choice | 1);
        if self.trees[0].mmu().encode_leaf(0, leaf).is_err() {
            return false;
        }
        if self.limited {
            self.open_all();
        }
        let (first, each) = self.clear_table(place);
        let (range, plain) = (self.range(first, each), unmarked(leaf));
        self.change(
            "map of a table",
            &[(first, each)],
            0,
            |w, spare, _| w.trees[0].map(&w.sim, range, leaf, largest, spare),
            |maps, _| maps[0].extend((0..each).map(|step| (first + step, at(plain, step)))),
        )
        .unwrap();
        true
    }

    /// Lets writes through again wherever they were forbidden above leaves: no page gains anything by it.
    pub(super) fn open_all(&mut self) {
        let each = pages_per_table(self.trees[0].mmu());
        let mut tables: Vec<u64> = self.maps[0].keys().map(|page| page / each).collect();
        tables.dedup();
        for place in self.places {
            tables.extend([place / each, (place + self.length - 1) / each]);
        }
        for table in tables {
            let address = VirtAddr::new((table * each) << M::PAGE_SHIFT);
            let windows = [(table * each, each)];
            let push = |w: &mut Self, _: &mut FrameList, _: &mut Gather| w.trees[0].push_down(&w.sim, address);
            self.change("push_down", &windows, 0, push, |_, _| {}).unwrap();
        }
        self.limited = false;
    }

    pub(super) fn move_to(&mut self, place: usize, first: u64, count: u64, choice: u64, few: u64) {
        let each = pages_per_table(self.trees[0].mmu());
        let start = self.places[place];
        // To where it is aligned alike, or not.
        let mut to = start + choice / 8 % (self.length - count + 1);
        let alike = start + (first % each + each - start % each) % each;
        if choice % 4 != 0 && alike + count <= start + self.length {
            to = alike;
        }
        self.move_between(first, to, count, few);
    }

    pub(super) fn move_between(&mut self, first: u64, to: u64, count: u64, few: u64) {
        let (from_range, to_range) = (self.range(first, count), self.range(to, count));
        let taken = self.maps[0].range(to..to + count).next().is_some();
        let result = self.change(
            "move_range",
            &[(first, count), (to, count)],
            few,
            |w, spare, gather| {
                w.trees[0].move_range(&w.sim, from_range, to_range, spare, gather)?;
                w.others.borrow_mut().move_to(first, to, count);
                Ok(())
            },
            |maps, result| {
                if result.is_ok() {
                    for step in 0..count {
                        if let Some(leaf) = maps[0].remove(&(first + step)) {
                            maps[0].insert(to + step, leaf);
                        }
                    }
                }
            },
        );
        if from_range.overlaps(to_range) {
            assert_eq!(result, Err(TableError::Overlap(to_range)));
        } else {
            assert_eq!(result.is_ok(), !taken, "{result:?}");
        }
    }

    pub(super) fn duplicate(&mut self, first: u64, count: u64, choice: u64, few: u64) {
        let range = self.range(first, count);
        let keep = if choice % 2 == 0 { Access::all() } else { Access::all().difference(Access::WRITE) };
        let taken = self.maps[1].range(first..first + count).next().is_some();
        let result = self.change(
            "duplicate",
            &[(first, count)],
            few,
            |w, spare, _| {
                let [from, into] = &mut w.trees;
                from.duplicate(&w.sim, range, keep, into, spare, |_, _| {})
            },
            |maps, result| {
                if result.is_ok() {
                    let copies: Vec<_> =
                        maps[0].range(first..first + count).map(|(page, leaf)| (*page, *leaf)).collect();
                    maps[1].extend(copies.into_iter().map(|(page, leaf)| (page, leaf.access(leaf.access & keep))));
                }
            },
        );
        assert_eq!(result.is_ok(), !taken, "{result:?}");
    }

    pub(super) fn detach(&mut self, range: PageRange) {
        // Larger leaves and groups go as a whole.
        let whole = |address: VirtAddr| {
            let walk = self.trees[0].walk(&self.sim, address);
            let mmu = self.trees[0].mmu();
            let shift = walk.steps().last().filter(|_| walk.physical().is_some()).map_or(M::PAGE_SHIFT, |step| {
                let group = mmu.contiguous(step.level).filter(|group| step.word & group.mask != 0);
                mmu.level(step.level).unwrap().shift + group.map_or(0, |group| group.count_shift)
            });
            self.range(address.align_down(shift).as_u64() >> M::PAGE_SHIFT, 1 << (shift - M::PAGE_SHIFT))
        };
        let ends = [range.start(), range.last().align_down(M::PAGE_SHIFT)].map(whole);
        let gone = [ends[0], range, ends[1]].map(|part| {
            let first = part.start().as_u64() >> M::PAGE_SHIFT;
            (first, part.pages(M::PAGE_SHIFT))
        });
        let is_gone = |page: &u64| gone.iter().any(|(first, count)| *page >= *first && *page - *first < *count);
        let parts = [ends[0], range, ends[1]];
        self.change(
            "detach",
            &gone,
            0,
            |w, _, gather| {
                w.trees[0].detach(&w.sim, range, gather)?;
                // Nothing is reported; who relies on marks takes them first.
                parts.iter().for_each(|part| w.others.borrow_mut().forsake(*part));
                Ok(())
            },
            |maps, _| maps[0].retain(|page, _| !is_gone(page)),
        )
        .unwrap();
    }

    /// A walk of the writing cursor: at each entry it goes in, writes, clears, or goes on.
    pub(super) fn write(&mut self, range: PageRange, leaf: Leaf, choice: u64) {
        let done: RefCell<Vec<(PageRange, Option<Leaf>)>> = RefCell::default();
        let mut random = choice | 1;
        let first = range.start().as_u64() >> M::PAGE_SHIFT;
        let count = range.pages(M::PAGE_SHIFT);
        let others = self.others.clone();
        let _ = self.change(
            WRITER,
            &[(first, count)],
            12,
            |w, spare, gather| {
                done.borrow_mut().clear();
                let [tables, _] = &mut w.trees;
                let mut writer = tables.writer(&w.sim, range, gather)?;
                for _ in 0..60 {
                    random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                    let (pages, level) = (writer.part(), writer.level());
                    // Groups would be half written.
                    let leaf = Leaf { frame: leaf.frame.add(random >> 40 & 7), ..leaf };
                    let old = match random >> 60 {
                        0..=3 => match writer.set(leaf) {
                            Ok(old) => {
                                done.borrow_mut().push((pages, Some(unmarked(leaf))));
                                old
                            }
                            Err(_) => None,
                        },
                        4..=6 => {
                            let old = writer.clear().unwrap_or_default();
                            if old.is_some() {
                                done.borrow_mut().push((pages, None));
                            }
                            old
                        }
                        7..=11 if level > 0 && !spare.is_empty() => {
                            let _ = writer.enter(spare);
                            None
                        }
                        12 => {
                            writer.leave();
                            None
                        }
                        _ => {
                            if !writer.next() {
                                writer.leave();
                            }
                            None
                        }
                    };
                    if old.is_some_and(|old| old.dirty) {
                        others.borrow_mut().tell(pages);
                    }
                    // What was seen in between is of no one of the two states.
                    others.borrow_mut().seen.clear();
                }
                drop(writer);
                Ok(())
            },
            |maps, result| {
                if result.is_ok() {
                    for (pages, leaf) in &*done.borrow() {
                        let first = pages.start().as_u64() >> M::PAGE_SHIFT;
                        for step in 0..pages.pages(M::PAGE_SHIFT) {
                            maps[0].remove(&(first + step));
                            if let Some(leaf) = leaf {
                                maps[0].insert(first + step, at(*leaf, step));
                            }
                        }
                    }
                }
            },
        );
    }
}
