//! The operations that are measured, each from its preparation to its cleaning up.
//!
//! Every round begins and ends in the same state, so that rounds can be repeated and put in any order; only the operation itself is timed.
//! What was prepared directly before is warm in the caches, for every candidate alike.
//!
//! ```text
//!   a range of 1 page, 512 of them:      p..............k  .p.............k  ..p…      each in a leaf table and a place of its own
//!   a range of 512 pages, 64 of them:    pppppppppppppppp  pppppppppppppppp  ppp…      each a whole leaf table
//!   a range of 65,536 or 1,048,576:      pppppppppppppppppppppppppppppppppppppp…      128 or 2,048 leaf tables
//!   a warm table:                        pppppppppppppppk  pppppppppppppppk  ppp…      k: a page that stays mapped
//! ```

use std::{hint::black_box, time::Duration};

use crate::{
    arena::Arena,
    clock::timed,
    subject::{FIRST_ADDRESS, LEAF_TABLE, Offer, PAGE, Subject},
    walker,
};

/// An operation that is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Row {
    /// Mapping a range of nothing: tables are taken and linked.
    Map,
    /// Mapping runs of 511 pages into leaf tables whose last page is mapped.
    MapBeside,
    /// Making a writable range read-only.
    Protect,
    /// Unmapping a range and freeing its tables.
    Unmap,
    /// Unmapping a range without reading its leaf tables, which are freed.
    Drop,
    /// Taking the dirty marks of a range back, all of whose pages are marked, where the marks are relied on.
    TakeDirty,
    /// Mapping single pages, one after the other, into leaf tables that are there.
    MapOne,
    /// Where random addresses of a mapped range lead.
    Translate,
    /// Unmapping single pages, one after the other; the last one of a leaf table frees it.
    UnmapOne,
    /// As [`Protect`](Self::Protect), of clean pages, where the hardware's dirty marks are relied on.
    ProtectRelied,
    /// As [`Unmap`](Self::Unmap), of writable, clean pages, where the hardware's dirty marks are relied on.
    UnmapRelied,
    /// The first half of [`Map`](Self::Map): what is needed, and whether something is in the way.
    CheckMap,
    /// The first half of [`MapBeside`](Self::MapBeside).
    CheckMapBeside,
    /// The first half of [`Protect`](Self::Protect) and [`Unmap`](Self::Unmap).
    CheckChange,
}

impl Row {
    /// Every row, in the table's order.
    pub const ALL: [Self; 14] = [
        Self::Map,
        Self::MapBeside,
        Self::Protect,
        Self::Unmap,
        Self::Drop,
        Self::TakeDirty,
        Self::MapOne,
        Self::Translate,
        Self::UnmapOne,
        Self::ProtectRelied,
        Self::UnmapRelied,
        Self::CheckMap,
        Self::CheckMapBeside,
        Self::CheckChange,
    ];

    /// What it is called on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Map => "map",
            Self::MapBeside => "map-beside",
            Self::Protect => "protect",
            Self::Unmap => "unmap",
            Self::Drop => "drop",
            Self::TakeDirty => "take-dirty",
            Self::MapOne => "map-one",
            Self::Translate => "translate",
            Self::UnmapOne => "unmap-one",
            Self::ProtectRelied => "protect-relied",
            Self::UnmapRelied => "unmap-relied",
            Self::CheckMap => "check-map",
            Self::CheckMapBeside => "check-map-beside",
            Self::CheckChange => "check-change",
        }
    }

    /// What it is called in the table.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Map => "map a range",
            Self::MapBeside => "map runs of 511 pages beside a mapped one",
            Self::Protect => "protect a range",
            Self::Unmap => "unmap a range, tables freed",
            Self::Drop => "drop a range unread, tables freed",
            Self::TakeDirty => "test-and-clear dirty, a range (relied on)",
            Self::MapOne => "map one page in a warm table",
            Self::Translate => "translate, random",
            Self::UnmapOne => "unmap one page with table freeing",
            Self::ProtectRelied => "protect a range, clean pages (relied on)",
            Self::UnmapRelied => "unmap a range, clean pages (relied on)",
            Self::CheckMap => "check before map, part of the whole",
            Self::CheckMapBeside => "check before map beside, part of the whole",
            Self::CheckChange => "check before protect or unmap, part of it",
        }
    }

    /// How many times the floor it is to take at the most, with 65,536 pages; of a check, how much of the whole operation.
    pub const fn goal(self) -> Option<f64> {
        match self {
            Self::Map => Some(2.5),
            Self::Protect => Some(4.0),
            Self::Unmap => Some(6.0),
            Self::TakeDirty => Some(1.3),
            Self::MapOne => Some(2.0),
            Self::Translate => Some(1.5),
            Self::UnmapOne => Some(5.0),
            Self::CheckMap | Self::CheckMapBeside | Self::CheckChange => Some(0.1),
            Self::MapBeside | Self::Drop | Self::ProtectRelied | Self::UnmapRelied => None,
        }
    }

    /// The operations whose first half it is.
    pub const fn half_of(self) -> &'static [Self] {
        match self {
            Self::CheckMap => &[Self::Map],
            Self::CheckMapBeside => &[Self::MapBeside],
            Self::CheckChange => &[Self::Protect, Self::Unmap],
            _ => &[],
        }
    }

    /// Whether the hardware's dirty marks are relied on, so that candidate and floor use locked operations.
    pub const fn relies_on_dirty(self) -> bool {
        matches!(self, Self::TakeDirty | Self::ProtectRelied | Self::UnmapRelied)
    }

    /// What it needs beside mapping.
    const fn needs(self) -> &'static [Offer] {
        match self {
            Self::Map => &[],
            Self::MapBeside | Self::MapOne => &[Offer::Unmap],
            Self::Protect | Self::ProtectRelied => &[Offer::Protect],
            Self::Unmap | Self::UnmapOne | Self::UnmapRelied => &[Offer::Unmap],
            Self::Drop => &[Offer::Drop],
            Self::TakeDirty => &[Offer::TakeDirty],
            Self::Translate => &[Offer::Translate],
            Self::CheckMap | Self::CheckMapBeside | Self::CheckChange => &[Offer::Check],
        }
    }

    /// Whether a candidate does less than the row says: it leaves emptied tables where they are.
    pub fn keeps_tables<S: Subject>(self) -> bool {
        match self {
            Self::Unmap | Self::UnmapRelied => !S::OFFERS.contains(&Offer::FreeTables),
            Self::UnmapOne => !S::OFFERS.contains(&Offer::FreeTablesOfOne),
            _ => false,
        }
    }

    /// Whether a candidate can take part.
    pub fn suits<S: Subject>(self) -> bool {
        self.needs().iter().all(|need| S::OFFERS.contains(need))
    }
}

/// Which pages a row is about.
#[derive(Debug)]
pub struct Work {
    /// Pages of a range.
    pub pages: u64,
    /// Where ranges begin.
    starts: Vec<u64>,
    /// Pages that stay mapped, the last one of each leaf table.
    keepers: Vec<u64>,
    /// Where runs of pages beside a keeper begin, and how many pages they have.
    beside: Vec<(u64, u64)>,
    /// Addresses in the ranges, in random order.
    random: Vec<u64>,
}

impl Work {
    /// Ranges of so many pages, which are less than a leaf table or whole ones: enough of them that a round can be timed.
    pub fn new(pages: u64) -> Self {
        let count = (32_768 / pages).clamp(1, 512);
        let spacing = (pages * PAGE).next_multiple_of(LEAF_TABLE);
        // Small ranges lie elsewhere in each table: entries with the same place would share one set of the caches.
        let offset = |index: u64| if pages < 512 { index % (512 - pages) * PAGE } else { 0 };
        let starts: Vec<u64> = (0..count).map(|index| FIRST_ADDRESS + index * spacing + offset(index)).collect();
        let tables = (0..count * spacing / LEAF_TABLE).map(|index| FIRST_ADDRESS + index * LEAF_TABLE);
        let keepers = tables.clone().map(|table| table + LEAF_TABLE - PAGE).collect();
        let beside = match pages {
            ..512 => starts.iter().map(|start| (*start, pages)).collect(),
            _ => tables.map(|table| (table, 511)).collect(),
        };
        let mut random: Vec<u64> =
            starts.iter().flat_map(|start| (0..pages).map(move |page| start + page * PAGE + 0x123)).collect();
        fastrand::Rng::with_seed(1).shuffle(&mut random);
        Self { pages, starts, keepers, beside, random }
    }

    /// How many frames a candidate's arena needs.
    pub fn frames(&self) -> usize {
        let leaves = self.keepers.len();
        // Beside the tables themselves, what a candidate reserves on top of a full tree.
        leaves + leaves / 512 + 16
    }

    /// How many pages a round of `row` is about.
    pub fn pages_of(&self, row: Row) -> u64 {
        match row {
            Row::MapOne | Row::MapBeside | Row::CheckMapBeside => self.beside.iter().map(|(_, pages)| pages).sum(),
            _ => self.random.len() as u64,
        }
    }

    /// The pages of a range each, in order.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.starts.iter().map(|start| (*start, self.pages))
    }
}

/// Brings `subject`, which maps nothing, into the state in which rounds begin.
pub fn prepare<S: Subject>(row: Row, subject: &mut S, work: &Work) {
    match row {
        Row::Map | Row::Unmap | Row::Drop | Row::UnmapOne | Row::UnmapRelied | Row::CheckMap => {}
        Row::MapBeside | Row::MapOne | Row::CheckMapBeside => {
            for keeper in &work.keepers {
                subject.map(*keeper, 1, true);
            }
        }
        Row::Protect | Row::ProtectRelied | Row::TakeDirty | Row::Translate | Row::CheckChange => {
            for (start, pages) in work.ranges() {
                subject.map(start, pages, true);
            }
        }
    }
}

/// One round of `row`: the time that its operation took.
pub fn round<S: Subject>(row: Row, subject: &mut S, arena: &'static Arena, work: &Work) -> Duration {
    match row {
        Row::Map => {
            let time = timed(|| work.ranges().for_each(|(start, pages)| subject.map(start, pages, true)));
            if S::OFFERS.contains(&Offer::FreeTables) {
                work.ranges().for_each(|(start, pages)| subject.unmap(start, pages));
                subject.free_tables();
            } else {
                // The tables would stay, and the next round would find them there.
                start_over(subject, arena);
            }
            time
        }
        Row::MapBeside => {
            let time = timed(|| work.beside.iter().for_each(|(start, pages)| subject.map(*start, *pages, true)));
            work.beside.iter().for_each(|(start, pages)| subject.unmap(*start, *pages));
            time
        }
        Row::MapOne => {
            let time = timed(|| {
                for (start, pages) in &work.beside {
                    (0..*pages).for_each(|page| subject.map_one(start + page * PAGE));
                }
            });
            work.beside.iter().for_each(|(start, pages)| subject.unmap(*start, *pages));
            time
        }
        Row::Protect | Row::ProtectRelied => {
            let time = timed(|| work.ranges().for_each(|(start, pages)| subject.protect(start, pages, false)));
            work.ranges().for_each(|(start, pages)| subject.protect(start, pages, true));
            time
        }
        Row::Unmap | Row::UnmapRelied => {
            work.ranges().for_each(|(start, pages)| subject.map(start, pages, true));
            timed(|| {
                work.ranges().for_each(|(start, pages)| subject.unmap(start, pages));
                subject.free_tables();
            })
        }
        Row::Drop => {
            work.ranges().for_each(|(start, pages)| subject.map(start, pages, true));
            timed(|| work.ranges().for_each(|(start, pages)| subject.drop_range(start, pages)))
        }
        Row::UnmapOne => {
            work.ranges().for_each(|(start, pages)| subject.map(start, pages, true));
            timed(|| {
                for (start, pages) in work.ranges() {
                    (0..pages).for_each(|page| subject.unmap_one(start + page * PAGE));
                }
            })
        }
        Row::TakeDirty => {
            // SAFETY: the tree is the subject's, who is not at work now; only candidates with x86-64 tables offer this.
            unsafe { walker::mark_dirty(subject.root()) };
            timed(|| {
                for (start, pages) in work.ranges() {
                    black_box(subject.take_dirty(start, pages));
                }
            })
        }
        Row::Translate => {
            let mut sum = 0_u64;
            let time = timed(|| {
                for address in &work.random {
                    sum = sum.wrapping_add(subject.translate(*address));
                }
            });
            black_box(sum);
            time
        }
        Row::CheckMap => timed(|| {
            for (start, pages) in work.ranges() {
                black_box(subject.check_map(start, pages));
            }
        }),
        Row::CheckMapBeside => timed(|| {
            for (start, pages) in &work.beside {
                black_box(subject.check_map(*start, *pages));
            }
        }),
        Row::CheckChange => timed(|| {
            for (start, pages) in work.ranges() {
                black_box(subject.check_change(start, pages));
            }
        }),
    }
}

/// Forgets the subject and its tables, and begins with new ones. What the old one held outside of the arena (a few words) is leaked: dropped, it would give
/// the new one's tables back.
pub fn start_over<S: Subject>(subject: &mut S, arena: &'static Arena) {
    arena.reset();
    std::mem::forget(std::mem::replace(subject, S::new(arena)));
}
