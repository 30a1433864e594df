//! CPUs that make accesses between and during operations, and what they saw compared with the naive map.

use alloc::rc::Rc;
use core::cell::RefCell;
use std::collections::BTreeSet;

use super::super::formats::marks_stores;
use super::*;
use crate::sim::{FaultKind, Hardware, SimFault, Translation};

/// Which leaf a page has, without its marks.
pub(super) type Pages = BTreeMap<u64, Leaf>;

/// An access that a CPU made, and what came of it.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "all of it is shown where it does not agree")]
pub(super) struct Seen {
    pub(super) cpu: usize,
    /// Which of the two trees the CPU had loaded.
    pub(super) tree: usize,
    pub(super) page: u64,
    pub(super) asked: Access,
    pub(super) result: Result<Translation, SimFault>,
}

/// What CPUs do in the middle of an operation.
pub(super) struct Others<M: SimFormat> {
    sim: Sim<M>,
    random: u64,
    /// Where they look: first pages and counts.
    pub(super) windows: Vec<(u64, u64)>,
    has_user: bool,
    /// So many accesses of the operation to entries until the next one of a CPU.
    wait: u64,
    period: u64,
    left: u32,
    pub(super) seen: Vec<Seen>,
    /// The pages of the first tree that were written and of which nobody was told.
    pub(super) written: BTreeSet<u64>,
    /// Those of which somebody was told during this operation.
    told: BTreeSet<u64>,
    /// Those whose writes until the flush nobody wants to know of.
    forsaken: BTreeSet<u64>,
    /// So many pages from the first number on were moved to the second one, and may be written at the old place until the flush.
    moved: (u64, u64, u64),
}

impl<M: SimFormat> Others<M> {
    pub(super) fn new(sim: &Sim<M>, seed: u64, has_user: bool) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            sim: sim.clone(),
            random: seed | 1,
            windows: Vec::new(),
            has_user,
            wait: 1,
            period: 1,
            left: 0,
            seen: Vec::new(),
            written: BTreeSet::new(),
            told: BTreeSet::new(),
            forsaken: BTreeSet::new(),
            moved: (0, 0, 0),
        }))
    }

    /// The generator of Marsaglia, 2003.
    pub(super) fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// An operation begins that touches these pages.
    pub(super) fn begin(&mut self, windows: &[(u64, u64)]) {
        self.windows = windows.to_vec();
        self.period = [1, 3, 20, 200][self.next_random() as usize % 4];
        self.left = 48;
        self.seen.clear();
        self.flushed();
    }

    /// What the operation made out of date is forgotten: from now on each write counts.
    pub(super) fn flushed(&mut self) {
        self.told.clear();
        self.forsaken.clear();
        self.moved = (0, 0, 0);
    }

    /// Called between any two accesses of the operation to entries.
    pub(super) fn step(&mut self) {
        self.wait -= 1;
        if self.wait == 0 {
            self.wait = 1 + self.next_random() % self.period;
            if self.left != 0 {
                self.left -= 1;
                self.look();
            }
        }
    }

    fn choose(&mut self) -> (usize, u64, Access) {
        let cpu = self.next_random() as usize % self.sim.cpu_count();
        let window = self.next_random() as usize % self.windows.len();
        let (first, count) = self.windows[window];
        let page = first.saturating_add(self.next_random() % count);
        let asked = [R, R | W, W | R, X | R][self.next_random() as usize % 4];
        let asked = if self.has_user && self.next_random() % 4 != 0 { asked | U } else { asked };
        (cpu, page, asked)
    }

    /// One CPU does something.
    pub(super) fn look(&mut self) {
        let (cpu, page, asked) = self.choose();
        let address = VirtAddr::new(page << M::PAGE_SHIFT);
        if self.next_random() % 8 == 0 {
            return self.sim.prefetch(cpu, address);
        }
        let result = self.sim.access(cpu, address, asked);
        self.note(Seen { cpu, tree: tree_of(&self.sim, cpu), page, asked, result });
    }

    fn note(&mut self, seen: Seen) {
        if let (Ok(translation), 0, true) = (seen.result, seen.tree, seen.asked.contains(W)) {
            // A write through a translation that was used for writing before is part of what somebody was told just now.
            let known = translation.from_tlb && self.told.contains(&seen.page) || self.forsaken.contains(&seen.page);
            if !known {
                self.written.insert(self.place_of(seen.page));
            }
        }
        self.seen.push(seen);
    }

    /// Somebody was told that these pages were written.
    pub(super) fn tell(&mut self, pages: PageRange) {
        let first = pages.start().as_u64() >> M::PAGE_SHIFT;
        for page in first..first + pages.pages(M::PAGE_SHIFT) {
            self.written.remove(&page);
            self.told.insert(page);
        }
    }

    fn place_of(&self, page: u64) -> u64 {
        let (first, to, count) = self.moved;
        if page >= first && page - first < count { to + (page - first) } else { page }
    }

    /// These pages were moved; that they were written goes along.
    pub(super) fn move_to(&mut self, first: u64, to: u64, count: u64) {
        self.moved = (first, to, count);
        let written = core::mem::take(&mut self.written);
        self.written = written.into_iter().map(|page| self.place_of(page)).collect();
    }

    /// Tables with these pages are dropped unread: until the flush, CPUs may go on to mark them there.
    pub(super) fn forsake(&mut self, pages: PageRange) {
        let first = pages.start().as_u64() >> M::PAGE_SHIFT;
        for page in first..first + pages.pages(M::PAGE_SHIFT) {
            self.written.remove(&page);
            self.forsaken.insert(page);
        }
    }
}

pub(super) fn tree_of<M: SimFormat>(sim: &Sim<M>, cpu: usize) -> usize {
    usize::from(sim.loaded(cpu).is_some_and(|(_, tag)| tag != TAG))
}

/// Whether a leaf permits an access; `None` where registers decide.
fn permits(leaf: Access, asked: Access, has_user: bool) -> Option<bool> {
    let needed = if asked.contains(X) {
        X
    } else if asked.contains(W) {
        W
    } else {
        R
    };
    match (has_user, asked.contains(U), leaf.contains(U)) {
        (true, true, false) => Some(false),
        (true, false, true) => None,
        _ => Some(leaf.contains(needed)),
    }
}

/// What a CPU may do that the naive map does not tell.
#[derive(Clone, Copy)]
pub(super) struct Leniency {
    /// A live entry may be absent for a moment.
    breaks: bool,
    /// What was absent may be remembered.
    keeps_absences: bool,
    /// That too little was permitted may be remembered.
    keeps_permissions: bool,
    /// The hardware leaves the marks to software.
    pub(super) software_marks: bool,
    has_user: bool,
}

impl Leniency {
    pub(super) fn of<M: SimFormat>(sim: &Sim<M>, has_user: bool) -> Self {
        let hardware = sim.hardware(0);
        let arm = matches!(hardware, Hardware::AArch64(_) | Hardware::AArch64Stage2(_));
        let riscv = matches!(hardware, Hardware::RiscV(_));
        let marks_use = match hardware {
            Hardware::AArch64(registers) => registers.hardware_access,
            Hardware::AArch64Stage2(registers) => registers.hardware_access,
            _ => marks_stores(sim),
        };
        Self {
            breaks: arm,
            keeps_absences: riscv || matches!(hardware, Hardware::X86Pae(_)),
            keeps_permissions: arm || riscv,
            software_marks: !marks_use,
            has_user,
        }
    }

    /// Whether a CPU may have seen this of a page whose leaf is this one.
    fn agrees(&self, seen: &Seen, leaf: Option<&Leaf>) -> bool {
        let Some(leaf) = leaf else {
            return matches!(seen.result, Err(SimFault { kind: FaultKind::NotPresent, .. }));
        };
        let permitted = permits(leaf.access, seen.asked, self.has_user);
        match seen.result {
            Ok(translation) => {
                permitted != Some(false)
                    && translation.frame() == leaf.frame
                    && translation.memory == leaf.memory
                    && translation.global == leaf.global
            }
            Err(fault) => match fault.kind {
                FaultKind::Permission => permitted != Some(true),
                FaultKind::Unmarked => permitted != Some(false) && self.software_marks,
                _ => false,
            },
        }
    }

    /// Whether it is a fault of a CPU that remembers too little, which its handler answers by trying again.
    fn is_spurious(&self, seen: &Seen) -> bool {
        matches!(seen.result, Err(fault) if match fault.kind {
            FaultKind::NotPresent => self.keeps_absences,
            FaultKind::Unmarked => fault.from_tlb,
            // What a table forbade is remembered as well, with the way to what it leads to.
            FaultKind::Permission => fault.from_tlb || self.keeps_permissions,
            _ => false,
        })
    }

    /// What was seen while `before` became `after` was either of them.
    pub(super) fn check_during(&self, seen: &Seen, before: &Pages, after: &Pages, what: &str) {
        let (old, new) = (before.get(&seen.page), after.get(&seen.page));
        let broken = self.breaks && matches!(seen.result, Err(SimFault { kind: FaultKind::NotPresent, .. }));
        let remembered = (self.keeps_permissions || self.keeps_absences) && self.is_spurious(seen);
        assert!(
            self.agrees(seen, old) || self.agrees(seen, new) || broken || remembered,
            "during {what}: {seen:x?}, where {old:?} became {new:?}"
        );
    }
}

/// A CPU makes an access where nothing is under way: it sees what the map says, after a spurious fault if need be.
pub(super) fn check_between<M: SimFormat>(
    others: &mut Others<M>,
    leniency: Leniency,
    maps: [&Pages; 2],
    tables: [&Tables<M>; 2],
    what: &str,
) {
    let (cpu, page, asked) = others.choose();
    let sim = others.sim.clone();
    let address = VirtAddr::new(page << M::PAGE_SHIFT);
    let tree = tree_of(&sim, cpu);
    let mut seen = Seen { cpu, tree, page, asked, result: sim.access(cpu, address, asked) };
    let leaf = maps[tree].get(&page);
    let unmarked = matches!(seen.result, Err(SimFault { kind: FaultKind::Unmarked, .. }));
    if (unmarked || !leniency.agrees(&seen, leaf)) && leniency.is_spurious(&seen) {
        if leniency.keeps_absences || leniency.keeps_permissions {
            // The handler of RISC-V and Arm forgets the page on its own CPU; that of PAE loads the root again.
            let mut cpus = CpuMask::EMPTY;
            cpus.insert(cpu);
            let mut scope = FlushScope::new();
            scope.add(tables[tree].tag(), PageRange::from_checked(address, 1 << M::PAGE_SHIFT), true);
            scope.note_tables();
            sim.apply(&FlushRequest { cpus, scope });
        }
        seen.result = sim.access(cpu, address, asked);
    }
    assert!(leniency.agrees(&seen, leaf), "after {what}: {seen:x?}, but the map says {leaf:?}");
    let marked = tables[tree].translate(&sim, address).map(|(_, leaf)| leaf);
    match seen.result {
        Ok(_) => {
            let marked = marked.unwrap();
            assert!(marked.accessed || leniency.software_marks || seen.result.is_ok_and(|found| found.from_tlb));
            if asked.contains(W) && marks_stores(&sim) {
                let known = seen.result.is_ok_and(|found| found.from_tlb);
                assert!(marked.dirty || known, "after {what}: {seen:x?} is not marked");
            }
        }
        Err(SimFault { kind: FaultKind::Unmarked, .. }) => {
            let marked = marked.unwrap();
            assert!(!marked.accessed || asked.contains(W) && !marked.dirty, "after {what}: {seen:x?}, {marked:?}");
        }
        Err(_) => {}
    }
    others.note(seen);
}

const R: Access = Access::READ;
const W: Access = Access::WRITE;
const X: Access = Access::EXECUTE;
const U: Access = Access::USER;
