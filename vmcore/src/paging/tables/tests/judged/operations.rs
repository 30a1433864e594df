//! The operations, and what each should make of the naive maps.

use super::*;
use crate::paging::Marks;

/// What is done, in which of the places, and three numbers that say to which pages and how.
pub(super) type Operation = (u8, usize, u64, u64, u64);

impl<M: SimFormat + 'static> Judged<M> {
    /// Some pages of a place: few of them, many, or just those of the table that the place covers whole.
    fn choose(&self, place: usize, offset: u64, length: u64) -> (u64, u64) {
        let each = pages_per_table(self.trees[0].mmu());
        let start = self.places[place];
        let first = start + offset % self.length;
        let most = start + self.length - first;
        match length % 8 {
            0 | 1 => {
                let table = start.next_multiple_of(each);
                if table + each <= start + self.length { (table, each) } else { (first, 1 + length / 8 % most) }
            }
            2 => (first, 1 + length / 8 % most),
            _ => (first, 1 + (length / 8 % 20).min(most - 1)),
        }
    }

    pub(super) fn leaf(&self, first: u64, choice: u64) -> Leaf {
        let frames = page_frames(self.trees[0].mmu());
        let each = pages_per_table(self.trees[0].mmu());
        // Aligned as the address is, more often than not.
        let frame = frames.first().add(first % each + if choice % 4 == 0 { 1 } else { 0 });
        let memory = [MemoryType::WriteBack, MemoryType::WriteBack, MemoryType::WriteCombining, MemoryType::Device];
        let leaf = Leaf::new(frame)
            .access(self.accesses[[0, 0, 0, 1, 2][(choice / 4 % 5) as usize]])
            .memory(memory[(choice / 32 % 4) as usize])
            .software((choice / 128 % 2) as u8);
        let leaf = if choice / 256 % 2 == 0 { leaf.used() } else { leaf };
        let global = self.globals && choice / 512 % 4 == 0 && self.trees[0].mmu().encode_leaf(0, leaf.global()).is_ok();
        if global { leaf.global() } else { leaf }
    }

    pub(super) fn apply(&mut self, &(kind, place, offset, length, choice): &Operation) {
        let (mut first, mut count) = self.choose(place, offset, length);
        if matches!(self.sim.hardware(0), Hardware::AArch64(_) | Hardware::AArch64Stage2(_)) && kind == 7 {
            // Each is invalidated by itself, and each time everything that is remembered is judged.
            count = count.min(24);
        }
        if kind == 16 {
            (first, count) = (self.places[place], self.length);
        }
        let range = self.range(first, count);
        let pages = first..first + count;
        let windows = [(first, count), (first, count), (first.saturating_sub(2).max(self.places[place]), count + 1)];
        let few = choice / 7 % 5;
        let leaf = match self.maps[0].get(&first) {
            // The page that is there, with another access.
            Some(same) if kind == 4 && choice % 2 == 0 => same.access(self.accesses[(choice / 2 % 3) as usize]),
            _ => self.leaf(first, choice),
        };
        let plain = unmarked(leaf);
        let mmu = self.trees[0].mmu();
        let fits = mmu.encode_leaf(0, leaf).is_ok();
        let taken = self.maps[0].range(pages.clone()).next().is_some();
        if self.limited && !matches!(kind, 5 | 7 | 10 | 11 | 12 | 13 | 14) {
            self.open_all();
        }
        let others = self.others.clone();
        let tell = move |span| others.borrow_mut().tell(span);
        match kind {
            1 if choice % 2 == 0 => {
                // Of a larger leaf, a part is changed more often than not.
                self.map_table(place, 1, choice);
            }
            0 | 1 => {
                let largest = (choice % 3) as usize;
                let result = self.change(
                    "map",
                    &windows,
                    few,
                    |w, spare, _| w.trees[0].map(&w.sim, range, leaf, largest, spare),
                    |maps, result| {
                        if result.is_ok() {
                            maps[0].extend(pages.map(|page| (page, at(plain, page - first))));
                        }
                    },
                );
                assert_eq!(result.is_ok(), fits && !taken, "{result:?}");
            }
            2 => {
                let frames = (0..count).rev().map(|page| leaf.frame.add(page));
                let result = self.change(
                    "map_frames",
                    &windows,
                    few,
                    |w, spare, _| w.trees[0].map_frames(&w.sim, range, frames.clone(), leaf, spare),
                    |maps, result| {
                        if result.is_ok() {
                            maps[0].extend(pages.map(|page| (page, at(plain, count - 1 - (page - first)))));
                        }
                    },
                );
                assert_eq!(result.is_ok(), fits && !taken, "{result:?}");
            }
            3 => {
                if !fits {
                    return;
                }
                let wanted = move |page: u64| page % 7 < 3;
                self.change(
                    "fill",
                    &windows,
                    few,
                    |w, spare, _| {
                        w.trees[0].fill(&w.sim, range, spare, |address| {
                            let page = address.as_u64() >> M::PAGE_SHIFT;
                            wanted(page).then(|| at(leaf, page - first))
                        })
                    },
                    |maps, _| {
                        for page in pages.filter(|page| wanted(*page)) {
                            maps[0].entry(page).or_insert(at(plain, page - first));
                        }
                    },
                )
                .unwrap();
            }
            4 => {
                let address = range.start();
                let large =
                    self.trees[0].translate(&self.sim, address).is_some_and(|(span, _)| span.pages(M::PAGE_SHIFT) > 1);
                let page = self.range(first, 1);
                let result = self.change(
                    "set_page",
                    &[(first, 1)],
                    few,
                    |w, spare, gather| {
                        let old = w.trees[0].set_page(&w.sim, address, leaf, spare, gather)?;
                        if old.is_some_and(|old| old.dirty) {
                            tell(page);
                        }
                        Ok(old)
                    },
                    |maps, result| {
                        if let Ok(old) = result {
                            assert_eq!(maps[0].insert(first, plain), old.map(unmarked));
                        }
                    },
                );
                assert_eq!(result.is_ok(), fits && !large, "{result:?}");
            }
            5 => {
                let mut removed = Vec::new();
                self.change(
                    "unmap",
                    &windows,
                    few,
                    |w, spare, gather| {
                        w.trees[0].unmap(&w.sim, range, spare, gather, |span, leaf| {
                            removed.push((span, leaf));
                            if leaf.dirty {
                                tell(span);
                            }
                        })
                    },
                    |maps, _| {
                        for page in pages {
                            maps[0].remove(&page);
                        }
                    },
                )
                .unwrap();
            }
            6 => {
                let access = self.accesses[(choice % 3) as usize];
                self.change(
                    "protect",
                    &windows,
                    few,
                    |w, spare, gather| w.trees[0].protect(&w.sim, range, access, spare, gather),
                    |maps, _| maps[0].range_mut(pages).for_each(|(_, leaf)| leaf.access = access),
                )
                .unwrap();
            }
            7 => {
                let memory = leaf.memory;
                let result = self.change(
                    "set_memory_type",
                    &windows,
                    few,
                    |w, spare, gather| w.trees[0].set_memory_type(&w.sim, range, memory, spare, gather),
                    |maps, result| {
                        if result.is_ok() {
                            maps[0].range_mut(pages).for_each(|(_, leaf)| leaf.memory = memory);
                        }
                    },
                );
                assert_eq!(result.is_ok(), mmu.memory_code(memory).is_some(), "{result:?}");
            }
            8 if choice % 2 == 0 => {
                if self.map_table(place, (choice / 2 % 2) as usize, choice) {
                    let (to, each) = self.clear_table((place & 2) ^ 2);
                    let first = self.places[place & 2].next_multiple_of(each);
                    self.move_between(first, to, each, few);
                }
            }
            8 => self.move_to((choice % 3) as usize, first, count, choice / 3, few),
            9 => self.duplicate(first, count, choice, few),
            10 => {
                let marks = [Marks::ACCESSED, Marks::DIRTY, Marks::BOTH][(choice % 3) as usize];
                self.change(
                    "take_marks",
                    &windows,
                    0,
                    |w, _, gather| {
                        w.trees[0].take_marks(&w.sim, range, marks, gather, |span, had| {
                            if had.dirty {
                                tell(span);
                            }
                        })
                    },
                    |_, _| {},
                )
                .unwrap();
            }
            11 | 12 => {
                // Of this range, or of all that lies below entries of the second level around it.
                let range = match mmu.level(2) {
                    Some(above) if kind == 12 => {
                        let (start, last) =
                            (range.start().align_down(above.shift), range.last().as_u64() | ((1 << above.shift) - 1));
                        PageRange::from_bounds(start, VirtAddr::new(last))
                    }
                    _ => range,
                };
                self.limited = true;
                self.change(
                    "write_protect",
                    &windows,
                    few,
                    |w, spare, gather| w.trees[0].write_protect(&w.sim, range, spare, gather),
                    |maps, _| {
                        for (page, leaf) in &mut maps[0] {
                            if range.contains(VirtAddr::new(page << M::PAGE_SHIFT)) {
                                leaf.access.remove(Access::WRITE);
                            }
                        }
                    },
                )
                .unwrap();
            }
            13 if choice % 2 == 0 => {
                // Pages without marks, more often than not: those that CPUs set meanwhile are folded.
                if !self.map_table(place, 0, if choice % 8 == 0 { choice } else { choice | 256 }) {
                    return;
                }
                let first = self.places[place & 2].next_multiple_of(pages_per_table(mmu));
                let range = self.range(first, pages_per_table(mmu));
                let promote =
                    |w: &mut Self, _: &mut FrameList, gather: &mut Gather| w.trees[0].promote(&w.sim, range, 1, gather);
                let windows = [(first, pages_per_table(mmu))];
                let promoted = self.change("promote", &windows, 0, promote, |_, _| {});
                assert_eq!(promoted, Ok(1));
            }
            13 => {
                let all = self.range(self.places[place], self.length);
                let windows = [(self.places[place], self.length)];
                self.change(
                    "promote",
                    &windows,
                    0,
                    |w, _, gather| w.trees[0].promote(&w.sim, all, 2, gather),
                    |_, _| {},
                )
                .unwrap();
            }
            14 => self.detach(range),
            15 | 16 => {
                let limits = self.range(self.places[place], self.length);
                let size = (1 + choice / 16 % 40) << M::PAGE_SHIFT;
                let windows = [(self.places[place], self.length)];
                let result = self.change(
                    "map_in_gap",
                    &windows,
                    few,
                    |w, spare, _| w.trees[0].map_in_gap(&w.sim, limits, size, leaf, 1, spare),
                    |maps, result| {
                        if let Ok(found) = result {
                            let first = found.start().as_u64() >> M::PAGE_SHIFT;
                            for step in 0..size >> M::PAGE_SHIFT {
                                assert_eq!(maps[0].insert(first + step, at(plain, step)), None, "a gap");
                            }
                        }
                    },
                );
                assert!(result.is_ok() || !fits || matches!(result, Err(TableError::NoGap(_))), "{result:?}");
            }
            17 => {
                self.change(
                    "unmap of the copy",
                    &windows,
                    few,
                    |w, spare, gather| w.trees[1].unmap(&w.sim, range, spare, gather, |_, _| {}),
                    |maps, _| maps[1].retain(|page, _| !pages.contains(page)),
                )
                .unwrap();
            }
            _ => self.write(range, leaf, choice),
        }
    }
}

/// The leaf of the page that lies so many pages further on.
pub(super) fn at(leaf: Leaf, step: u64) -> Leaf {
    Leaf { frame: leaf.frame.add(step), ..leaf }
}
