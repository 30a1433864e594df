//! What is done to windows that stay where they are.

use std::ops::Range;

use vmcore::paging::{Access, Flush};
use vmcore::sim::{Sim, SimFormat};
use vmcore::vm_space::{Advice, SpaceLimits, WindowFlags};

use super::mapping::{access_of, allows_anything};
use super::model::{Effect, PAGE, PagedPage, Resident, Shown, WindowModel};
use super::operation::Pages;
use super::refusal::{Expected, Refusal};
use super::world::World;

fn rights(access: Access) -> Access {
    access.difference(Access::USER)
}

impl<M: SimFormat> World<M> {
    /// The parts of windows in a range.
    fn parts(&self, number: usize, pages: &Range<u64>) -> Vec<WindowModel> {
        let mut parts = Vec::new();
        for window in self.model.spaces[number].windows() {
            let (first, end) = (window.first.max(pages.start), window.end().min(pages.end));
            if first < end {
                let shown = self.model.spaces[number].pages[&first];
                parts.push(WindowModel { first, count: end - first, shown });
            }
        }
        parts
    }

    fn each_shown(&mut self, number: usize, pages: Range<u64>, change: impl Fn(&mut Shown)) {
        self.model.spaces[number].pages.range_mut(pages).for_each(|(_, shown)| change(shown));
    }

    pub(crate) fn protect(&mut self, pages: Pages, access: u8) {
        let Some((slot, number, pages)) = self.pick(pages) else { return };
        let (access, space) = (access_of(access), &self.model.spaces[number]);
        let mut expected = Expected::default();
        expected.must(space.scan(pages.clone(), |page, shown| {
            let mut refusals = sealed(page, shown);
            if !rights(shown.limit).contains(access) {
                refusals.push(Refusal::Rights);
            }
            if access.contains(Access::WRITE | Access::EXECUTE) && space.forbids_write_execute {
                refusals.push(Refusal::WriteExecute(page));
            }
            if !allows_anything(access) && self.model.contents[shown.content].is_untracked() {
                refusals.push(Refusal::Encode);
            }
            refusals
        }));
        expected.must(space.limited(space.cuts(&pages), 0));
        let range = self.range(pages.start, pages.end - pages.start);
        let result = self.call(|world| world.space(slot).protect(range, access));
        if expected.check(&result) {
            let stale = self.stale(number, &pages, access | Access::USER);
            self.each_shown(number, pages, |shown| shown.access = access | Access::USER);
            self.finish_quietly(result.unwrap(), Effect { stale, ..Effect::default() });
        }
    }

    pub(crate) fn seal(&mut self, pages: Pages) {
        let Some((slot, number, pages)) = self.pick(pages) else { return };
        let expected = self.expect_flags(number, &pages);
        let range = self.range(pages.start, pages.end - pages.start);
        let result = self.call(|world| world.space(slot).seal(range));
        if expected.check(&result) {
            self.each_shown(number, pages, |shown| shown.flags.insert(WindowFlags::SEALED));
        }
    }

    fn expect_flags(&self, number: usize, pages: &Range<u64>) -> Expected {
        let (mut expected, space) = (Expected::default(), &self.model.spaces[number]);
        expected.must(space.scan(pages.clone(), |_, _| Vec::new()));
        expected.must(space.limited(space.cuts(pages), 0));
        expected
    }

    pub(crate) fn lock(&mut self, pages: Pages, lock: bool) {
        let Some((slot, number, pages)) = self.pick(pages) else { return };
        let range = self.range(pages.start, pages.end - pages.start);
        if !lock {
            let expected = self.expect_flags(number, &pages);
            let result = self.call(|world| world.space(slot).unlock_pages(range));
            if expected.check(&result) {
                self.each_shown(number, pages, |shown| shown.flags.remove(WindowFlags::LOCKED));
            }
            return;
        }
        let space = &self.model.spaces[number];
        let limited = space.limited(space.cuts(&pages), 0);
        let result = self.call(|world| world.space(slot).lock_pages(range));
        if self.populated(number, pages.clone(), None, limited, result) {
            self.each_shown(number, pages, |shown| shown.flags.insert(WindowFlags::LOCKED));
        }
    }

    pub(crate) fn populate(&mut self, pages: Pages, access: u8) {
        let Some((slot, number, pages)) = self.pick(pages) else { return };
        let (access, range) = (access_of(access), self.range(pages.start, pages.end - pages.start));
        let result = self.call(|world| world.space(slot).populate(range, access));
        self.populated(number, pages, Some(access), Vec::new(), result);
    }

    /// What populating said. True if it was done.
    fn populated(
        &mut self,
        number: usize,
        pages: Range<u64>,
        access: Option<Access>,
        limited: Vec<Refusal>,
        result: Result<Flush<Sim<M>, ()>, Refusal>,
    ) -> bool {
        let mut expected = Expected::default();
        expected.must(limited);
        let mut next = pages.start;
        let parts = self.parts(number, &pages);
        // What is refused beforehand, window by window.
        for part in &parts {
            let refusals = self.expect_populate(number, part, access);
            if part.first > next || !refusals.is_empty() {
                break;
            }
            next = part.end();
        }
        if next < pages.end {
            match parts.iter().find(|part| part.first == next) {
                Some(part) => expected.must(self.expect_populate(number, part, access)),
                None => expected.must([Refusal::NoWindow(next)]),
            }
        }
        if !expected.must.is_empty() {
            return expected.check(&result);
        }
        // Then pages are filled up to the first that has to be brought.
        let (mut closed, mut stale) = (Vec::new(), Vec::new());
        for part in &parts {
            let write = access.unwrap_or(part.shown.access).contains(Access::WRITE);
            for step in 0..part.count {
                let (content, page) = (part.shown.content, part.shown.page + step);
                let what = &self.model.contents[content];
                if what.is_paged() && what.resident(page) == Resident::No {
                    let (at, is_failed) = (part.first + step, what.paged.get(&page) == Some(&PagedPage::Failed));
                    let refusal = if is_failed { Refusal::Failed(at) } else { Refusal::Awaits(at) };
                    Expected { must: vec![refusal], may: Vec::new() }.check(&result);
                    if !is_failed {
                        self.note_awaited(content, page, part.shown.page + part.count, write);
                    }
                    return false;
                }
                self.fill(content, page, write);
                closed.push((content, self.model.contents[content].key(page)));
                stale.extend(self.model.stale_views(content, page..page + 1, Access::all()));
            }
        }
        assert!(expected.check(&result));
        stale.iter_mut().for_each(|stale| stale.had.remove(Access::WRITE));
        self.finish_quietly(result.unwrap(), Effect { closed, stale, ..Effect::default() });
        true
    }

    fn expect_populate(&self, number: usize, part: &WindowModel, access: Option<Access>) -> Vec<Refusal> {
        let (shown, content) = (part.shown, &self.model.contents[part.shown.content]);
        if shown.gate.is_some() {
            return vec![Refusal::Retry(part.first)];
        }
        let mut refusals = Vec::new();
        if !shown.access.contains(access.unwrap_or(Access::empty())) || !allows_anything(shown.access) {
            refusals.push(Refusal::Denied(part.first));
        }
        let pages = &self.model.spaces[number].pages;
        let guard = (part.first..part.end()).find(|page| pages[page].guard);
        refusals.extend(guard.map(Refusal::Guard));
        if content.retyping {
            refusals.push(Refusal::Retry(part.first));
        }
        let find = |is: &dyn Fn(u64) -> bool| (0..part.count).find(|step| is(shown.page + step));
        match find(&|page| page >= content.pages) {
            Some(step) => refusals.push(Refusal::OutsideArea(part.first + step)),
            None => refusals.extend(find(&|page| content.is_guard(page)).map(|step| Refusal::Guard(part.first + step))),
        }
        refusals
    }

    pub(crate) fn guard(&mut self, pages: Pages, install: bool) {
        let Some((slot, number, pages)) = self.pick(pages) else { return };
        let (mut expected, space) = (Expected::default(), &self.model.spaces[number]);
        let range = self.range(pages.start, pages.end - pages.start);
        if !install {
            expected.must(space.scan(pages.clone(), sealed));
            let result = self.call(|world| world.space(slot).remove_guards(range));
            if expected.check(&result) {
                self.each_shown(number, pages, |shown| shown.guard = false);
            }
            return;
        }
        expected.must(space.scan(pages.clone(), sealed_or_locked));
        let result = self.call(|world| world.space(slot).install_guards(range));
        if expected.check(&result) {
            let stale = self.stale(number, &pages, Access::empty());
            self.each_shown(number, pages.clone(), |shown| shown.guard = true);
            self.lose_untracked(number, &pages);
            self.finish_quietly(result.unwrap(), Effect { stale, ..Effect::default() });
        }
    }

    fn lose_untracked(&mut self, number: usize, pages: &Range<u64>) {
        for (_, shown) in self.model.spaces[number].pages.range(pages.clone()) {
            let content = &mut self.model.contents[shown.content];
            if content.is_untracked() {
                content.lose(shown.page..shown.page + 1);
            }
        }
    }

    pub(crate) fn advise(&mut self, pages: Pages, advice: u8) {
        let Some((slot, number, pages)) = self.pick(pages) else { return };
        let all = [Advice::Needed, Advice::NotNeeded, Advice::FreeLazily, Advice::Huge, Advice::NeverHuge];
        let advice = all[usize::from(advice) % all.len()];
        let range = self.range(pages.start, pages.end - pages.start);
        let space = &self.model.spaces[number];
        let mut expected = match advice {
            Advice::Huge | Advice::NeverHuge => self.expect_flags(number, &pages),
            _ => Expected::default(),
        };
        match advice {
            Advice::Needed => expected.must(space.scan(pages.clone(), |_, _| Vec::new())),
            Advice::NotNeeded | Advice::FreeLazily => expected.must(space.scan(pages.clone(), sealed_or_locked)),
            _ => {}
        }
        let result = self.call(|world| world.space(slot).advise(range, advice));
        if !expected.check(&result) {
            return;
        }
        let flush = result.unwrap();
        let (huge, never) = (WindowFlags::HUGE, WindowFlags::NEVER_HUGE);
        let mut effect = Effect::default();
        match advice {
            Advice::Needed => self.need(number, &pages),
            Advice::NotNeeded => effect = self.discard(number, &pages),
            // Marked pages stay as they are until somebody asks for the memory, which nobody does here.
            Advice::FreeLazily => {}
            Advice::Huge => self.each_shown(number, pages, |shown| {
                shown.flags.insert(huge);
                shown.flags.remove(never);
            }),
            _ => self.each_shown(number, pages, |shown| {
                shown.flags.insert(never);
                shown.flags.remove(huge);
            }),
        }
        self.finish_quietly(flush, effect);
    }

    /// Pages that are about to be evicted are wanted.
    fn need(&mut self, number: usize, pages: &Range<u64>) {
        for (_, shown) in self.model.spaces[number].pages.range(pages.clone()) {
            let content = &mut self.model.contents[shown.content];
            let is_here = content.is_paged() && content.resident(shown.page) == Resident::Yes;
            if is_here && !shown.guard && allows_anything(shown.access) && !content.retyping {
                content.reach(shown.page, false);
            }
        }
    }

    /// Pages go, if only their window reaches them.
    fn discard(&mut self, number: usize, pages: &Range<u64>) -> Effect {
        let mut effect = Effect { stale: self.stale(number, pages, Access::empty()), ..Effect::default() };
        let mut gone = Vec::new();
        for part in self.parts(number, pages) {
            let content = &self.model.contents[part.shown.content];
            let lost = part.shown.page..part.shown.page + part.count;
            let shows =
                |window: &WindowModel| window.shown.page < lost.end && lost.start < window.shown.page + window.count;
            let views = self.model.views(part.shown.content);
            let once = views.iter().filter(|(_, window)| shows(window)).count() <= 1;
            if content.is_fixed() {
                effect.stale.retain(|stale| !(part.first..part.end()).contains(&stale.page));
            } else if content.is_untracked() {
                gone.push((part.shown.content, lost, false));
            } else if content.is_open() && content.handles == 0 && once {
                gone.push((part.shown.content, lost, true));
            }
        }
        for (content, lost, returns) in gone {
            self.model.contents[content].lose(lost);
            if returns {
                self.model.contents[content].returning += 1;
                effect.returning.push((content, None));
            }
        }
        effect
    }

    pub(crate) fn limit(&mut self, space: usize, windows: Option<usize>, pages: Option<u64>) {
        let Some((slot, number)) = self.pick_space(space) else { return };
        let mut limits = SpaceLimits::NONE;
        if let Some(windows) = windows {
            limits = limits.windows(windows);
        }
        if let Some(pages) = pages {
            limits = limits.reserved(pages * PAGE);
        }
        self.space(slot).set_limits(limits);
        assert_eq!(self.space(slot).limits(), limits);
        let model = &mut self.model.spaces[number];
        (model.most_windows, model.most_pages) = (windows, pages);
    }

    pub(crate) fn forbid_write_execute(&mut self, space: usize) {
        let Some((slot, number)) = self.pick_space(space) else { return };
        let both = Access::WRITE | Access::EXECUTE;
        let mut expected = Expected::default();
        let windows = self.model.spaces[number].windows();
        let found = windows.iter().find(|window| window.shown.access.contains(both));
        expected.must(found.map(|window| Refusal::WriteExecute(window.first)));
        let result = self.call(|world| world.space(slot).forbid_write_execute());
        if expected.check(&result) {
            self.model.spaces[number].forbids_write_execute = true;
        }
    }
}

fn sealed(page: u64, shown: &Shown) -> Vec<Refusal> {
    if shown.flags.contains(WindowFlags::SEALED) { vec![Refusal::Sealed(page)] } else { Vec::new() }
}

fn sealed_or_locked(page: u64, shown: &Shown) -> Vec<Refusal> {
    let mut refusals = sealed(page, shown);
    if shown.flags.contains(WindowFlags::LOCKED) {
        refusals.push(Refusal::Locked(page));
    }
    refusals
}
