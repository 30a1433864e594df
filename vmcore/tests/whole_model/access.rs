//! Accesses by CPUs, with their faults.
//!
//! What a CPU does through a translation that the tables do not hold any more is allowed only until the flush that takes it away is acknowledged
//! ([`Stale`](crate::model::Stale)). What it does through one that is as the model says reads and writes what the model says.

use std::collections::BTreeSet;

use vmcore::paging::Access;
use vmcore::sim::{SimFormat, Translation};
use vmcore::vm_area::AreaKind;
use vmcore::vm_space::{Fault, Inherit, Resolution};

use super::model::{Effect, PAGE, PagedPage, Resident, Shown, WORD_AT};
use super::refusal::{Expected, Refusal};
use super::world::{CPU, Outcome, PLACES, World, at, bytes_of};

impl<M: SimFormat> World<M> {
    pub(crate) fn access(&mut self, cpu: usize, page: u16, access: u8, word: usize) {
        let Some(slot) = self.loaded[cpu] else { return };
        let number = self.spaces[slot].as_ref().unwrap().1;
        let mut page = self.pick_page(number, page);
        if access == 7 {
            // Below what is mapped, where stacks grow.
            page = page.saturating_sub(2).max(1);
        }
        let access = match access {
            0..2 => Access::READ,
            2 => Access::READ | Access::EXECUTE,
            _ => Access::KERNEL_DATA,
        };
        if let Some(translation) = self.reach(cpu, slot, page, access) {
            self.accessed(cpu, slot, page, access, word, &translation);
        }
    }

    /// Reads the bytes of a page, if it can be.
    pub(crate) fn read_page(&mut self, cpu: usize, page: u64) {
        let slot = self.loaded[cpu].unwrap();
        let number = self.spaces[slot].as_ref().unwrap().1;
        if self.reach(cpu, slot, page, Access::READ).is_none() {
            return;
        }
        let shown = self.model.spaces[number].pages[&page];
        assert!(self.refusals(page, &shown, Access::READ).must.is_empty(), "nobody may reach page {page:#x}");
        let mut bytes = vec![1; PAGE as usize];
        self.sim.read(cpu, at(page), true, &mut bytes).unwrap();
        assert!(bytes == bytes_of(self.model.words(shown.content, shown.page)), "the bytes of page {page:#x}");
    }

    /// Tries an access until it goes through. `None`: it is refused, or to be tried again later.
    fn reach(&mut self, cpu: usize, slot: usize, page: u64, access: Access) -> Option<Translation> {
        CPU.with(|current| current.set(cpu));
        let number = self.spaces[slot].as_ref().unwrap().1;
        let user = access | Access::USER;
        for _ in 0..4 {
            if let Ok(translation) = self.sim.access(cpu, at(page), user) {
                return Some(translation);
            }
            let (expected, grown) = self.expect_fault(number, page, access);
            let result = self.call(|world| world.space(slot).fault(Fault::new(page * PAGE, user)));
            if !expected.check(&result) {
                return None;
            }
            let flush = result.unwrap();
            for (page, shown) in grown {
                self.model.spaces[number].pages.insert(page, shown);
            }
            let shown = self.model.spaces[number].pages[&page];
            let (content, key) = (shown.content, self.model.contents[shown.content].key(shown.page));
            let write = access.contains(Access::WRITE);
            let is_here = self.model.contents[content].paged.get(&shown.page).copied();
            if self.model.contents[content].is_paged() && !matches!(is_here, Some(PagedPage::Here { .. })) {
                match (flush.complete(), is_here) {
                    (Resolution::Request(request), None) => {
                        self.note_request(content, request, shown.page..shown.page + 1, write)
                    }
                    (Resolution::Wait(token), Some(PagedPage::Requested(asked))) => assert_eq!(token.0, asked),
                    other => panic!("{other:?}"),
                }
                return None;
            }
            self.model.contents[content].reach(shown.page, write);
            let mut stale = self.model.stale_views(content, shown.page..shown.page + 1, Access::all());
            stale.iter_mut().for_each(|stale| stale.had.remove(Access::WRITE));
            let waits = self.late && !flush.is_empty();
            let (late, waited) = (self.late, waits);
            self.late = waits;
            let effect = Effect { closed: vec![(content, key)], stale, ..Effect::default() };
            self.finish(flush, effect, |resolution| {
                assert!(matches!(resolution, Resolution::Mapped | Resolution::Spurious), "{resolution:?}");
                Outcome::Nothing
            });
            self.late = late;
            if waited {
                return None;
            }
        }
        panic!("the fault at page {page:#x} repeats:\n{}", self.space(slot).walk(at(page)));
    }

    /// Why an access to a page that is shown is refused, not counting what a paged area has to bring.
    fn refusals(&self, page: u64, shown: &Shown, access: Access) -> Expected {
        let mut expected = Expected::default();
        let content = &self.model.contents[shown.content];
        if shown.gate.is_some() {
            expected.must([Refusal::Retry(page)]);
            return expected;
        }
        if shown.guard {
            expected.must([Refusal::Guard(page)]);
        }
        if !shown.access.contains(access) {
            expected.must([Refusal::Denied(page)]);
        }
        if content.retyping {
            expected.must([Refusal::Retry(page)]);
        }
        if shown.page >= content.pages {
            expected.must([Refusal::OutsideArea(page)]);
        } else if content.is_guard(shown.page) {
            expected.must([Refusal::Guard(page)]);
        }
        if self.model.may_be_closed(shown.content, shown.page, access.contains(Access::WRITE)) {
            expected.may([Refusal::Retry(page)]);
        }
        if content.is_paged() && content.paged.get(&shown.page) == Some(&PagedPage::Failed) {
            expected.must([Refusal::Failed(page)]);
        }
        expected
    }

    /// What a fault is to say, and the pages that it adds to a window that grows.
    fn expect_fault(&self, number: usize, page: u64, access: Access) -> (Expected, Vec<(u64, Shown)>) {
        let space = &self.model.spaces[number];
        if let Some(shown) = space.pages.get(&page) {
            return (self.refusals(page, shown, access), Vec::new());
        }
        let refused = |refusal| (Expected { must: vec![refusal], may: Vec::new() }, Vec::new());
        let nothing = Refusal::NoWindow(page);
        let Some((start, shown)) = space.pages.range(page..).next() else { return refused(nothing) };
        let AreaKind::Growing { gap, .. } = self.model.contents[shown.content].kind else { return refused(nothing) };
        if shown.gate.is_some() {
            return refused(nothing);
        }
        let (more, gap) = (start - page, gap / PAGE);
        if more > shown.page {
            return refused(if more - shown.page <= gap { Refusal::Guard(page) } else { nothing });
        }
        if let Some((below, shown)) = space.pages.range(..page).next_back() {
            if page - below - 1 < gap {
                return refused(if shown.gate.is_some() { Refusal::Retry(page) } else { Refusal::Guard(page) });
            }
        }
        let limited = space.limited(0, more);
        if !limited.is_empty() {
            return (Expected { must: limited, may: Vec::new() }, Vec::new());
        }
        let below = |step: u64| Shown { page: shown.page - step, guard: false, ..*shown };
        let grown: Vec<_> = (1..=more).map(|step| (start - step, below(step))).collect();
        (self.refusals(page, &below(more), access), grown)
    }

    /// What every CPU can do at the moment is allowed, page by page; and each remembers all that it finds.
    pub(crate) fn probe(&self) {
        for (cpu, slot) in self.loaded.iter().enumerate().filter_map(|(cpu, slot)| Some((cpu, (*slot)?))) {
            let number = self.spaces[slot].as_ref().unwrap().1;
            let mapped = self.model.spaces[number].pages.keys().copied();
            let pages: BTreeSet<u64> = PLACES.into_iter().flatten().chain(mapped).collect();
            for (page, access) in pages.into_iter().flat_map(|page| [(page, Access::READ), (page, Access::KERNEL_DATA)])
            {
                if let Ok(translation) = self.sim.access(cpu, at(page), access | Access::USER) {
                    self.current(cpu, slot, page, access, &translation);
                }
            }
        }
    }

    /// What an access that went through reached: what the model says, or what a CPU may remember.
    fn current(&self, cpu: usize, slot: usize, page: u64, access: Access, through: &Translation) -> Option<Shown> {
        let number = self.spaces[slot].as_ref().unwrap().1;
        let shown = self.model.spaces[number].pages.get(&page).copied();
        let write = access.contains(Access::WRITE);
        let live = shown.filter(|shown| self.refusals(page, shown, access).must.is_empty());
        let current = live.filter(|shown| {
            let content = &self.model.contents[shown.content];
            match self.space(slot).frame_at(at(page)) {
                Some(frame) => frame == through.frame(),
                // The zero frame stands for what nobody has written to, and nobody else may see; or it is what was there before, and is remembered.
                None => {
                    let is_private = shown.inherit == Inherit::Copy || !content.plain;
                    let is_zero = is_private && !content.is_paged() && content.resident(shown.page) != Resident::Yes;
                    !write && is_zero && !self.model.may_be_stale(number, page, access)
                }
            }
        });
        let Some(shown) = current else {
            let may = self.model.may_be_stale(number, page, access);
            assert!(may, "{access} of page {page:#x} by CPU {cpu} went through, where there is {shown:?}");
            if let Some(shown) = shown.filter(|shown| self.model.contents[shown.content].retyping) {
                let now = self.model.contents[shown.content].memory;
                assert!(shown.gate.is_some() || through.memory != now, "used as {now} before it was flushed");
            }
            return None;
        };
        if let Some(PagedPage::Here { dirty, .. }) = self.model.contents[shown.content].paged.get(&shown.page) {
            let unseen =
                self.model.effects.values().any(|effect| effect.writing.contains(&(shown.content, shown.page)));
            assert!(!write || *dirty || unseen, "a write to page {page:#x} that nobody has seen");
        }
        Some(shown)
    }

    /// An access went through.
    fn accessed(&mut self, cpu: usize, slot: usize, page: u64, access: Access, word: usize, through: &Translation) {
        let write = access.contains(Access::WRITE);
        let Some(shown) = self.current(cpu, slot, page, access, through) else { return };
        let (content, address) = (shown.content, at(page).checked_add(WORD_AT[word]).unwrap());
        if !write {
            if !access.contains(Access::EXECUTE) {
                let found = self.sim.read_u64(cpu, address, true).unwrap();
                assert_eq!(found, self.model.words(content, shown.page)[word], "word {word} of page {page:#x}");
            }
            return;
        }
        self.value += 1;
        self.sim.write_u64(cpu, address, true, self.value).unwrap();
        self.model.write(content, shown.page, word, self.value);
    }
}
