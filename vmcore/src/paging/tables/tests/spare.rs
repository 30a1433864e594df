//! Every operation in every format with every allocation failing that it would need: until all of them succeed, memory is bit for bit as
//! before, and so are counts, records and the spare tables.

use super::formats::{Accesses, halves, in_every_format, page_frames, pages_per_table, places};
use super::*;
use crate::paging::Marks;
use crate::sim::{Sim, SimFormat};

const FIRST_FRAME: u64 = 0x100;
const FRAMES: usize = 40;

struct Prepared<M: SimFormat> {
    sim: Sim<M>,
    tables: Tables<M>,
    other: Tables<M>,
    accesses: Accesses,
    places: [u64; 3],
    length: u64,
}

/// A frame: its number, what it is recorded as, its live entries, and all of its words if it is a table.
type Contents = (u64, FrameUse, u32, Vec<u64>);

impl<M: SimFormat> Prepared<M> {
    /// Tables with a leaf of level 1, pages around the ends of tables, and the last page of all.
    fn new(mmu: M, accesses: Accesses) -> Self {
        let sim = Sim::of(mmu).first_frame(FIRST_FRAME).frames(FRAMES).device(page_frames(mmu)).build();
        let roots = [sim.new_table(), sim.new_table()];
        // SAFETY: fresh, zeroed tables.
        let [tables, other] =
            [(roots[0], TAG), (roots[1], Tag(8))].map(|(root, tag)| unsafe { Tables::new(mmu, root, tag) });
        let (places, length) = places(mmu);
        let mut prepared = Self { sim, tables, other, accesses, places, length };
        let mut spare = FrameList::new();
        spare.fill_with_tables(&prepared.sim, 16).unwrap();
        let each = pages_per_table(mmu);
        let large = prepared.large();
        for (first, count) in
            [(places[0], 3), (large, each), (places[1] + each / 2 - 2, 5), (places[2] + length - 1, 1)]
        {
            let (range, leaf) = (prepared.range(first, count), prepared.leaf().used());
            prepared.tables.map(&prepared.sim, range, leaf, 1, &mut spare).unwrap();
        }
        prepared.free(&mut spare);
        prepared
    }

    /// The first page of the leaf of level 1.
    fn large(&self) -> u64 {
        self.places[0].next_multiple_of(pages_per_table(self.tables.mmu()))
    }

    fn leaf(&self) -> Leaf {
        Leaf::new(page_frames(self.tables.mmu()).first()).access(self.accesses[0])
    }

    fn range(&self, first: u64, pages: u64) -> PageRange {
        self.tables.mmu().range(first << M::PAGE_SHIFT, pages << M::PAGE_SHIFT).unwrap()
    }

    fn free(&self, list: &mut FrameList) {
        while let Some(table) = list.pop(&self.sim) {
            assert_eq!(self.sim.frame_meta(table).unwrap().live_entries(), 0);
            // SAFETY: nothing links to it, and no CPU has a root.
            unsafe { free_one(&self.sim, table, FrameUse::Table) }.unwrap();
        }
    }

    fn contents(&self) -> Vec<Contents> {
        let words = 1_usize << (M::PAGE_SHIFT - 3);
        let frame = |number| {
            let frame = Frame::new(number);
            let meta = self.sim.frame_meta(frame).unwrap();
            let count = if meta.recorded_use() == FrameUse::Table { words } else { 0 };
            let words = (0..count).map(|index| self.sim.physical_word(frame, index).unwrap());
            (number, meta.recorded_use(), meta.live_entries(), words.collect())
        };
        (FIRST_FRAME..FIRST_FRAME + FRAMES as u64).map(frame).collect()
    }

    fn check_counts(&self) {
        fn visit<M: SimFormat>(prepared: &Prepared<M>, level: usize, frame: Frame) -> u64 {
            let mmu = prepared.tables.mmu();
            let table = Table::own(&prepared.sim, mmu, level, frame).unwrap();
            let words: Vec<_> =
                (0..table.len()).map(|index| table.load(index)).filter(|word| mmu.is_present(*word)).collect();
            let roots = [prepared.tables.root(), prepared.other.root()];
            assert!(table.live() as usize == words.len() && (!words.is_empty() || roots.contains(&frame)));
            let below = words.into_iter().filter_map(|word| mmu.decode_table(level, word));
            1 + below.map(|below| visit(prepared, level - 1, below)).sum::<u64>()
        }
        let top = self.tables.mmu().levels() - 1;
        let count = visit(self, top, self.tables.root()) + visit(self, top, self.other.root());
        assert_eq!(count, self.sim.frame_counts().of(FrameUse::Table), "a table is lost");
    }
}

type Act<M> = fn(&mut Prepared<M>, &mut FrameList, &mut Gather) -> Result<(), TableError>;

/// The operations, and how many tables each needs at the least.
fn operations<M: SimFormat>() -> [(&'static str, u64, Act<M>); 19] {
    [
        ("map", 1, |p, spare, _| {
            let each = pages_per_table(p.tables.mmu());
            let (range, leaf) = (p.range(p.large() + each, 5), p.leaf());
            p.tables.map(&p.sim, range, leaf, 0, spare)
        }),
        ("map at the end", 1, |p, spare, _| {
            let (range, leaf) = (p.range(p.places[2], p.length - 1), p.leaf());
            p.tables.map(&p.sim, range, leaf, 2, spare)
        }),
        ("map_frames", 1, |p, spare, _| {
            let (range, leaf) = (p.range(p.places[2], 9), p.leaf());
            let frames = (0..9).rev().map(|step| leaf.frame.add(step));
            p.tables.map_frames(&p.sim, range, frames, leaf, spare)
        }),
        ("fill", 1, |p, spare, _| {
            let (range, leaf) = (p.range(p.places[2], 9), p.leaf());
            p.tables.fill(&p.sim, range, spare, |_| Some(leaf))
        }),
        ("set_page", 1, |p, spare, gather| {
            let (range, leaf) = (p.range(p.places[2], 1), p.leaf());
            p.tables.set_page(&p.sim, range.start(), leaf, spare, gather).map(|_| ())
        }),
        ("unmap", 1, |p, spare, gather| {
            let range = p.range(p.large() + 1, 1);
            p.tables.unmap(&p.sim, range, spare, gather, |_, _| {})
        }),
        ("protect", 1, |p, spare, gather| {
            let (range, access) = (p.range(p.large(), 3), p.accesses[1]);
            p.tables.protect(&p.sim, range, access, spare, gather)
        }),
        ("set_memory_type", 0, |p, spare, gather| {
            let range = p.range(p.large(), 3);
            let other = [MemoryType::WriteCombining, MemoryType::WriteThrough, MemoryType::WriteBack];
            let memory = other.into_iter().find(|memory| p.tables.mmu().memory_code(*memory).is_some());
            p.tables.set_memory_type(&p.sim, range, memory.unwrap(), spare, gather)
        }),
        ("move_range", 2, |p, spare, gather| {
            let (from, to) = (p.range(p.large() + 1, 7), p.range(p.places[2] + 2, 7));
            p.tables.move_range(&p.sim, from, to, spare, gather)
        }),
        ("move_range of what a table holds", 1, |p, spare, gather| {
            let (from, to) = (p.range(p.places[0], 3), p.range(p.places[2] + 2, 3));
            p.tables.move_range(&p.sim, from, to, spare, gather)
        }),
        ("duplicate", 1, |p, spare, _| {
            let range = p.range(p.places[0], p.length);
            p.tables.duplicate(&p.sim, range, Access::all(), &mut p.other, spare, |_, _| {})
        }),
        ("duplicate of a part", 1, |p, spare, _| {
            let range = p.range(p.large() + 5, 5);
            p.tables.duplicate(&p.sim, range, Access::all(), &mut p.other, spare, |_, _| {})
        }),
        ("write_protect", 1, |p, spare, gather| {
            let range = p.range(p.large() + 1, 1);
            p.tables.write_protect(&p.sim, range, spare, gather).map(|_| ())
        }),
        ("map_in_gap", 1, |p, spare, _| {
            let (limits, leaf) = (p.range(p.places[2], p.length), p.leaf());
            p.tables.map_in_gap(&p.sim, limits, 20 << M::PAGE_SHIFT, leaf, 1, spare).map(|_| ())
        }),
        ("map_frames_in_gap", 1, |p, spare, _| {
            let (limits, leaf) = (p.range(p.places[2], p.length), p.leaf());
            let frames = [leaf.frame; 3];
            p.tables.map_frames_in_gap(&p.sim, limits, 3 << M::PAGE_SHIFT, frames, leaf, spare).map(|_| ())
        }),
        ("a writer's entering", 1, |p, spare, gather| {
            let range = p.range(p.places[0], p.length);
            let (tables, sim) = (&mut p.tables, &p.sim);
            let mut writer = tables.writer(sim, range, gather)?;
            while writer.level() > 1 {
                writer.enter(spare)?;
            }
            // Past the pages: to the leaf of level 1.
            while !matches!(writer.entry(), Entry::Leaf(_)) && writer.next() {}
            writer.enter(spare)
        }),
        ("take_marks", 0, |p, _, gather| {
            let range = p.range(p.places[0], p.length);
            p.tables.take_marks(&p.sim, range, Marks::BOTH, gather, |_, _| {})
        }),
        ("promote", 0, |p, _, gather| {
            let range = p.range(p.places[0], p.length);
            p.tables.promote(&p.sim, range, 2, gather).map(|_| ())
        }),
        ("detach", 0, |p, _, gather| {
            let range = p.range(p.places[0], p.length);
            p.tables.detach(&p.sim, range, gather)
        }),
    ]
}

fn check<M: SimFormat>(mmu: M, accesses: Accesses) {
    for (what, least, act) in operations::<M>() {
        let mut prepared = Prepared::new(mmu, accesses);
        let mut needed = 0;
        let mut kth = 0;
        loop {
            let before = prepared.contents();
            let (mut spare, mut gather) = (FrameList::new(), Gather::default());
            // The kth allocation fails, and those before it are what there is.
            prepared.sim.fail_kth(kth);
            let failure = spare.fill_with_tables(&prepared.sim, kth + 1).unwrap_err();
            assert_eq!((failure.wanted, spare.len()), (1, kth));
            let requests = prepared.sim.allocation_requests();
            let reserved = prepared.contents();
            let result = act(&mut prepared, &mut spare, &mut gather);
            assert_eq!(prepared.sim.allocation_requests(), requests, "{what} allocates");
            match result {
                Err(TableError::NeedsTables(tables)) => {
                    assert!(tables > kth, "{what} needs {tables} with {kth}");
                    needed = tables;
                    assert!(spare.len() == kth && gather.tables.is_empty() && gather.scope.is_empty());
                    assert!(
                        prepared.contents() == reserved,
                        "{mmu:?}: {what} failed with {kth} tables and changed something"
                    );
                    prepared.free(&mut spare);
                    let unchanged = |(now, then): (&Contents, &Contents)| then.1 != FrameUse::Table || now == then;
                    assert!(prepared.contents().iter().zip(&before).all(unchanged));
                    kth += 1;
                }
                Ok(()) => {
                    assert!(needed == kth && kth >= least, "{what} needed {needed}, and was done with {kth}");
                    prepared.free(&mut spare);
                    prepared.free(&mut gather.tables);
                    prepared.check_counts();
                    break;
                }
                Err(error) => panic!("{mmu:?}: {what}: {error}"),
            }
        }
        let mut gather = Gather::default();
        for half in halves(mmu) {
            prepared.tables.detach(&prepared.sim, half, &mut gather).unwrap();
            prepared.other.detach(&prepared.sim, half, &mut gather).unwrap();
        }
        prepared.free(&mut gather.tables);
        assert_eq!(prepared.sim.frame_counts().of(FrameUse::Table), 2, "{mmu:?}: after {what} a table is left");
        prepared.sim.assert_no_violation();
    }
}

in_every_format!(super::spare::check);
