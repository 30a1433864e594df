//! Making windows, moving them, and taking them away.

use std::ops::Range;

use vmcore::paging::Access;
use vmcore::sim::SimFormat;
use vmcore::vm_area::{AreaKind, Rights};
use vmcore::vm_space::{Destination, Inherit, MapRequest, Place, WindowFlags};

use super::model::{Content, Effect, PAGE, PagedPage, Shown, SpaceModel, Stale};
use super::operation::{Mapping, Pages, Where};
use super::place::{Placed, Wanted};
use super::refusal::{Expected, Refusal};
use super::world::{Outcome, World};

pub(crate) fn access_of(code: u8) -> Access {
    let all = [
        Access::READ,
        Access::KERNEL_DATA,
        Access::READ | Access::EXECUTE,
        Access::KERNEL_DATA | Access::EXECUTE,
        Access::empty(),
    ];
    all[usize::from(code) % all.len()]
}

fn inherit_of(code: u8) -> Inherit {
    [Inherit::Share, Inherit::Copy, Inherit::Wipe, Inherit::Nothing][usize::from(code) % 4]
}

pub(crate) fn allows_anything(access: Access) -> bool {
    access.intersects(Access::READ | Access::WRITE | Access::EXECUTE)
}

fn is_write_execute(access: Access) -> bool {
    access.contains(Access::WRITE | Access::EXECUTE)
}

/// A mapping with what it refers to.
struct Asked {
    slot: usize,
    content: usize,
    wanted: Wanted,
    offset: u64,
    size: Option<u64>,
    access: Access,
    inherit: Inherit,
    populate: bool,
    weak: bool,
}

/// The conflict that is expected, where a part of it was named.
fn joined_conflict(refusal: Refusal, expected: &Expected) -> Refusal {
    let Refusal::Conflict(first, count) = refusal else { return refusal };
    let covers = |wanted: &Refusal| match wanted {
        Refusal::Conflict(start, size) => *start <= first && first + count <= start + size,
        _ => false,
    };
    expected.must.iter().copied().find(covers).unwrap_or(refusal)
}

impl<M: SimFormat> World<M> {
    fn wanted(&self, number: usize, to: Where) -> Wanted {
        let page = self.pick_page(number, to.page);
        let around = self.range(page.saturating_sub(6).max(1), 16);
        let place = match to.place {
            // Beside what is mapped, as often as on it.
            0 => Place::At((page + to.entropy % 3 * 4) * PAGE),
            1 => Place::FirstGap,
            2 => Place::GapWithin(around),
            3 => Place::LastGap,
            4 => Place::Near(page * PAGE),
            _ => Place::Random { entropy: to.entropy, within: (to.page & 1 == 0).then_some(around) },
        };
        let alignment = if to.alignment == 0 { 0 } else { 12 + u32::from(to.alignment) };
        let within = to.within.then_some((page.saturating_sub(9).max(1), 20));
        Wanted { place, alignment, within }
    }

    fn asked(&self, number: usize, mapping: &Mapping) -> Option<Asked> {
        let (slot, content) = self.pick_area(mapping.area)?;
        let wanted = self.wanted(number, mapping.to);
        let what = &self.model.contents[content];
        // The end of a stack, below which it can grow.
        let is_growing = matches!(what.kind, AreaKind::Growing { .. });
        let offset = if is_growing { what.pages.saturating_sub(1 + mapping.offset) } else { mapping.offset };
        let inherit = inherit_of(mapping.inherit);
        // What cannot be copied is seldom to be, or no space could be cloned.
        let spare = inherit != Inherit::Share && !what.is_copied() && mapping.to.entropy % 8 != 0;
        Some(Asked {
            slot,
            content,
            wanted,
            offset,
            size: (mapping.size != 0).then_some(mapping.size),
            access: access_of(mapping.access),
            inherit: if what.is_untracked() && spare {
                Inherit::Nothing
            } else if spare {
                Inherit::Share
            } else {
                inherit
            },
            // A refusal names a page, and the model does not know it where the place is not its to say.
            populate: mapping.populate && matches!(wanted.place, Place::At(_)),
            weak: mapping.weak,
        })
    }

    fn request<'a>(
        &self,
        asked: &Asked,
        area: &'a vmcore::vm_area::Area<vmcore::sim::Sim<M>>,
    ) -> MapRequest<'a, vmcore::sim::Sim<M>> {
        let mut request = MapRequest::new(area).place(asked.wanted.place).aligned(asked.wanted.alignment);
        request = request.offset(asked.offset * PAGE).access(asked.access).inherit(asked.inherit);
        if let Some((first, count)) = asked.wanted.within {
            request = request.within(self.range(first, count));
        }
        if let Some(size) = asked.size {
            request = request.size(size * PAGE);
        }
        if asked.populate { request.populated() } else { request }
    }

    /// What is to become of a mapping in a space that has so many windows more than its pages say.
    fn expect_map(&self, space: &SpaceModel, asked: &Asked, more: usize) -> (Expected, Option<Placed>, u64) {
        let (mut expected, content) = (Expected::default(), &self.model.contents[asked.content]);
        if asked.weak && asked.access.intersects(Access::WRITE | Access::EXECUTE) {
            expected.must([Refusal::Rights]);
        }
        let size = asked.size.unwrap_or(content.pages.saturating_sub(asked.offset));
        if size == 0 {
            expected.must([Refusal::Range]);
            return (expected, None, size);
        }
        if asked.offset + size > content.pages {
            expected.must([Refusal::Outside]);
        }
        let placed = asked.wanted.find(space, &self.bounds, size);
        let start = if let Ok(Placed::At(start)) = placed { start } else { 0 };
        if let Err(refusals) = &placed {
            expected.must(refusals.iter().copied());
        }
        if is_write_execute(asked.access) && space.forbids_write_execute {
            expected.must([Refusal::WriteExecute(start)]);
        }
        expected.must(space.limited(1 + more, size));
        if content.is_untracked() && !self.model.views(asked.content).is_empty() {
            expected.must([Refusal::SingleWindow]);
        }
        if content.is_untracked() && space.pages.values().any(|shown| shown.content == asked.content) {
            expected.must([Refusal::SingleWindow]);
        }
        if asked.populate && allows_anything(asked.access) {
            if content.retyping {
                expected.must([Refusal::Retry(start)]);
            }
            let guard = (0..size).find(|step| content.is_guard(asked.offset + step));
            expected.must(guard.map(|step| Refusal::Guard(start + step)));
        }
        (expected, placed.ok(), size)
    }

    /// A window was made: the model has it as well.
    fn add_window(&mut self, number: usize, start: u64, size: u64, asked: &Asked) {
        let content = &mut self.model.contents[asked.content];
        content.plain &= asked.inherit != Inherit::Copy;
        let access = asked.access | Access::USER;
        for step in 0..size {
            let shown = Shown {
                content: asked.content,
                page: asked.offset + step,
                access,
                limit: if asked.weak { Access::READ | Access::USER } else { Access::all() },
                inherit: asked.inherit,
                flags: WindowFlags::empty(),
                guard: false,
                gate: None,
            };
            self.model.spaces[number].pages.insert(start + step, shown);
            if asked.populate && allows_anything(access) {
                self.fill(asked.content, asked.offset + step, access.contains(Access::WRITE));
            }
        }
    }

    /// A page was populated: it may have stayed what it was.
    pub(crate) fn fill(&mut self, content: usize, page: u64, write: bool) {
        let content = &mut self.model.contents[content];
        let write = write && matches!(content.paged.get(&page), Some(PagedPage::Here { .. }));
        if content.is_paged() || page < content.pages {
            content.reach(page, write);
        }
    }

    fn check_placed(&self, space: &SpaceModel, wanted: &Wanted, placed: Option<Placed>, start: u64, size: u64) {
        match placed.unwrap() {
            Placed::At(page) => assert_eq!(start, page, "another gap than was asked for: {wanted:x?}"),
            Placed::Somewhere => {
                assert!(wanted.admits(space, &self.bounds, start, size), "{start:#x} is not what was asked for");
            }
        }
    }

    /// Where a place is the entropy's choice, so is the page that a refusal names.
    fn unnamed<T>(result: Result<T, Refusal>, placed: Option<Placed>) -> Result<T, Refusal> {
        result.map_err(|refusal| match refusal {
            Refusal::WriteExecute(_) if !matches!(placed, Some(Placed::At(_))) => Refusal::WriteExecute(0),
            other => other,
        })
    }

    pub(crate) fn map(&mut self, space: usize, mapping: Mapping) {
        let Some((slot, number)) = self.pick_space(space) else { return };
        let Some(asked) = self.asked(number, &mapping) else { return };
        let (expected, placed, size) = self.expect_map(&self.model.spaces[number], &asked, 0);
        let weak = asked.weak.then(|| self.area(asked.slot).handle(Rights::MAP | Rights::READ).unwrap());
        let result = self.call(|world| {
            let area = weak.as_ref().unwrap_or_else(|| world.area(asked.slot));
            world.space(slot).map(&world.request(&asked, area))
        });
        let result = Self::unnamed(result, placed);
        if expected.check(&result) {
            let range = result.unwrap();
            let start = range.start().as_u64() / PAGE;
            assert_eq!(range.size(), size * PAGE);
            self.check_placed(&self.model.spaces[number], &asked.wanted, placed, start, size);
            self.add_window(number, start, size, &asked);
        }
    }

    pub(crate) fn map_many(&mut self, space: usize, mappings: &[Mapping]) {
        let Some((slot, number)) = self.pick_space(space) else { return };
        let all: Vec<Asked> = mappings.iter().filter_map(|mapping| self.asked(number, mapping)).collect();
        let all: Vec<Asked> = all.into_iter().map(|asked| Asked { weak: false, ..asked }).collect();
        let mut ranges = vec![self.range(1, 1); all.len()];
        let result = self.call(|world| {
            let requests: Vec<_> = all.iter().map(|asked| world.request(asked, world.area(asked.slot))).collect();
            let mut places = ranges.clone();
            let made = world.space(slot).map_many(&requests, &mut places)?;
            Ok::<_, vmcore::vm_space::SpaceError>((made, places))
        });
        // One after another, each beside those before it; they are joined when all are made.
        let mut space = self.model.spaces[number].clone();
        let mut joined = 0;
        let mut places = Vec::new();
        let mut late = Expected::default();
        for (index, asked) in all.iter().enumerate() {
            let populate = Asked { populate: false, wanted: asked.wanted, ..*asked };
            let (expected, placed, size) = self.expect_map(&space, &populate, joined);
            if !expected.must.is_empty() {
                // Those that were made before are not joined yet.
                let result = result.map(drop).map_err(|refusal| joined_conflict(refusal, &expected));
                return assert!(!expected.check(&Self::unnamed(result, placed)));
            }
            let start = match (placed, &result) {
                (Some(Placed::At(start)), _) => start,
                (_, Ok((_, places))) => places[index].start().as_u64() / PAGE,
                // Where it would have been is not known, so what follows is not either.
                _ => return,
            };
            self.check_placed(&space, &asked.wanted, placed, start, size);
            // What populating refuses comes after all were placed.
            let content = &self.model.contents[asked.content];
            if asked.populate && allows_anything(asked.access) {
                late.must(content.retyping.then_some(Refusal::Retry(start)));
                let guard = (0..size).find(|step| content.is_guard(asked.offset + step));
                late.must(guard.map(|step| Refusal::Guard(start + step)));
            }
            let before = space.windows().len();
            let shown = |step| Shown {
                content: asked.content,
                page: asked.offset + step,
                access: asked.access | Access::USER,
                limit: Access::all(),
                inherit: asked.inherit,
                flags: WindowFlags::empty(),
                guard: false,
                gate: None,
            };
            space.pages.extend((0..size).map(|step| (start + step, shown(step))));
            joined += before + 1 - space.windows().len();
            places.push((start, size));
        }
        if !late.check(&result) {
            return;
        }
        let (made, given) = result.unwrap();
        assert_eq!(made, all.len());
        ranges = given;
        for ((asked, (start, size)), range) in all.iter().zip(places).zip(ranges) {
            assert_eq!(range, self.range(start, size));
            self.add_window(number, start, size, asked);
        }
    }

    pub(crate) fn anonymous(&mut self, space: usize, to: Where, pages: u64, access: u8, inherit: u8) {
        let Some((slot, number)) = self.pick_space(space) else { return };
        let place = match self.wanted(number, to).place {
            Place::Random { .. } => Place::FirstGap,
            place => place,
        };
        let wanted = Wanted { place, alignment: 0, within: None };
        let (access, inherit) = (access_of(access), inherit_of(inherit));
        let space = &self.model.spaces[number];
        let mut expected = Expected::default();
        let placed = wanted.find(space, &self.bounds, pages);
        let start = if let Ok(Placed::At(start)) = placed { start } else { 0 };
        if let Err(refusals) = &placed {
            expected.must(refusals.iter().copied());
        }
        if is_write_execute(access) && space.forbids_write_execute {
            expected.must([Refusal::WriteExecute(start)]);
        }
        // It carries the window on that it follows upon, if that is all that there is of its area.
        let before = if placed.is_ok() { space.pages.get(&(start - 1)).copied() } else { None };
        let extended = before.filter(|shown| {
            let content = &self.model.contents[shown.content];
            let agrees = (shown.access, shown.inherit, shown.flags, shown.limit, shown.gate)
                == (access | Access::USER, inherit, WindowFlags::empty(), Access::all(), None);
            let alone = content.is_open() && content.handles == 0 && content.returning == 0;
            agrees && alone && shown.page + 1 == content.pages
        });
        expected.must(space.limited(usize::from(extended.is_none()), pages));
        let result = self.call(|world| world.space(slot).map_anonymous(pages * PAGE, place, access, inherit, 0));
        if !expected.check(&result) {
            return;
        }
        assert_eq!(result.unwrap(), self.range(start, pages));
        let (content, offset) = match extended {
            Some(shown) => {
                self.model.contents[shown.content].pages += pages;
                (shown.content, shown.page + 1)
            }
            None => {
                let mut content = Content::new(AreaKind::Open { size: pages * PAGE }, pages);
                content.handles = 0;
                (self.model.content(content), 0)
            }
        };
        let asked =
            Asked { slot: 0, content, wanted, offset, size: None, access, inherit, populate: false, weak: false };
        self.add_window(number, start, pages, &asked);
    }

    /// How many windows more there are when the range is taken out of them.
    fn parts_left(space: &SpaceModel, pages: &Range<u64>) -> usize {
        let windows = space.windows().into_iter();
        let live = windows.filter(|w| w.shown.gate.is_none() && w.first < pages.end && pages.start < w.end());
        live.map(|window| usize::from(window.first < pages.start) + usize::from(pages.end < window.end())).sum()
    }

    pub(crate) fn unmap(&mut self, pages: Pages) {
        let Some((slot, number, pages)) = self.pick(pages) else { return };
        let space = &self.model.spaces[number];
        let mut expected = Expected::default();
        let is_sealed = |shown: &Shown| shown.gate.is_none() && shown.flags.contains(WindowFlags::SEALED);
        let sealed = space.pages.range(pages.clone()).find(|(_, shown)| is_sealed(shown));
        expected.must(sealed.map(|(page, _)| Refusal::Sealed(*page)));
        expected.must(space.limited(Self::parts_left(space, &pages), 0));
        let range = self.range(pages.start, pages.end - pages.start);
        let result = self.call(|world| world.space(slot).unmap(range));
        if expected.check(&result) {
            let (effect, flush) = (self.gate(number, pages), result.unwrap());
            // A window that shows nothing may be gone at once; one that is gone has nothing to be flushed.
            let gone = self.space(slot).windows().all(|window| !window.range.overlaps(range));
            assert!(!gone || flush.request().scope.is_empty(), "gone before its flush");
            let late = self.late;
            self.late &= !gone;
            self.finish_quietly(flush, effect);
            self.late = late;
        }
    }

    /// Why pages cannot be another size.
    fn expect_source(&self, space: &SpaceModel, pages: &Range<u64>, size: u64) -> Vec<Refusal> {
        let first = space.window_at(pages.start);
        let grows = size > pages.end - pages.start;
        let refusals = space.scan(pages.clone(), |page, shown| {
            if first.is_some_and(|first| page >= first.end()) {
                return vec![Refusal::SeveralWindows(page)];
            }
            let mut refusals = Vec::new();
            let content = &self.model.contents[shown.content];
            if shown.flags.contains(WindowFlags::SEALED) {
                refusals.push(Refusal::Sealed(page));
            }
            if grows && shown.flags.contains(WindowFlags::LOCKED) {
                refusals.push(Refusal::Locked(page));
            }
            let more = shown.page + (pages.end - pages.start)..shown.page + size;
            let is_shown = |other: &Shown| other.content == shown.content && more.contains(&other.page);
            if grows && page == pages.start && content.is_untracked() && space.pages.values().any(is_shown) {
                refusals.push(Refusal::SingleWindow);
            }
            if grows && page == pages.start && shown.page + size > content.pages {
                if !content.is_open() || content.handles != 0 {
                    refusals.push(Refusal::Outside);
                } else if content.returning != 0 {
                    refusals.push(Refusal::AreaRetry);
                }
            }
            refusals
        });
        if !refusals.is_empty() {
            return refusals;
        }
        match first.filter(|first| grows && first.end() > pages.end) {
            Some(first) => vec![Refusal::Conflict(pages.end, first.end() - pages.end)],
            None => Vec::new(),
        }
    }

    /// Why pages cannot be another size where they are.
    fn expect_in_place(&self, space: &SpaceModel, pages: &Range<u64>, size: u64) -> Vec<Refusal> {
        let refusals = self.expect_source(space, pages, size);
        if !refusals.is_empty() {
            return refusals;
        }
        let end = pages.start + size;
        if end > self.bounds.end {
            return vec![Refusal::Range];
        }
        if end < pages.end {
            return space.limited(Self::parts_left(space, &(end..pages.end)), 0);
        }
        match space.first_overlap(&(pages.end..end)).filter(|_| end > pages.end) {
            Some(window) if window.shown.gate.is_some() => vec![Refusal::Retry(window.first)],
            Some(window) => vec![Refusal::Conflict(window.first, window.count)],
            None => space.limited(0, end - pages.end),
        }
    }

    pub(crate) fn relocate(&mut self, pages: Pages, size: u64, how: u8, to: Where) {
        let Some((slot, number, pages)) = self.pick(pages) else { return };
        let to = self.wanted(number, to).place;
        let destination = match how {
            0 => Destination::InPlace,
            1 => Destination::Anywhere,
            _ => Destination::To(to),
        };
        let wanted = Wanted { place: if how == 1 { Place::FirstGap } else { to }, alignment: 0, within: None };
        let space = self.model.spaces[number].clone();
        let (mut expected, mut placed) = (Expected::default(), None);
        let in_place = self.expect_in_place(&space, &pages, size);
        let moves = how > 1 || (how == 1 && matches!(in_place.first(), Some(Refusal::Conflict(..) | Refusal::Range)));
        if size == 0 {
            expected.must([Refusal::Range]);
        } else if moves {
            let refusals = self.expect_source(&space, &pages, size);
            if refusals.is_empty() {
                expected.must(space.limited(1 + Self::parts_left(&space, &pages), size));
                match wanted.find(&space, &self.bounds, size) {
                    Ok(found) => placed = Some(found),
                    Err(refusals) => expected.must(refusals),
                }
            }
            expected.must(refusals);
        } else {
            expected.must(in_place);
        }
        let range = self.range(pages.start, pages.end - pages.start);
        let result = self.call(|world| world.space(slot).relocate(range, size * PAGE, destination));
        if !expected.check(&result) {
            return;
        }
        let flush = result.unwrap();
        let first = space.pages[&pages.start];
        let mut given = range;
        let flush = flush.map(|range| given = range);
        assert_eq!(given.size(), size * PAGE);
        let start = given.start().as_u64() / PAGE;
        let content = &mut self.model.contents[first.content];
        content.pages = content.pages.max(if size > pages.end - pages.start { first.page + size } else { 0 });
        if !moves {
            assert_eq!(start, pages.start);
            let effect = self.gate(number, start + size..pages.end.max(start + size));
            for step in pages.end - pages.start..size {
                let shown = Shown { page: first.page + step, guard: false, ..first };
                self.model.spaces[number].pages.insert(start + step, shown);
            }
            return self.finish_quietly(flush, effect);
        }
        self.check_placed(&space, &wanted, placed, start, size);
        let kept = self.model.contents[first.content].words.clone();
        let resident = self.model.contents[first.content].resident.clone();
        let effect = self.gate(number, pages.clone());
        if self.model.contents[first.content].is_untracked() {
            // What both places show goes along.
            let shown = first.page..first.page + size.min(pages.end - pages.start);
            let content = &mut self.model.contents[first.content];
            content.words.extend(kept.into_iter().filter(|(key, _)| shown.contains(key)));
            content.resident.extend(resident.into_iter().filter(|(key, _)| shown.contains(key)));
        }
        for step in 0..size {
            let from = space.pages.get(&(pages.start + step)).filter(|_| pages.start + step < pages.end);
            let guard = from.is_some_and(|from| from.guard);
            let shown = Shown { page: first.page + step, guard, ..first };
            self.model.spaces[number].pages.insert(start + step, shown);
        }
        self.finish_quietly(flush, effect);
    }

    pub(crate) fn clone_space(&mut self, from: usize, to: usize) {
        let Some((slot, number)) = self.pick_space(from) else { return };
        if self.spaces[to].is_some() {
            return;
        }
        let parent = self.model.spaces[number].clone();
        let mut expected = Expected::default();
        let windows: Vec<_> = parent.windows().into_iter().filter(|window| window.shown.gate.is_none()).collect();
        for window in &windows {
            let content = &self.model.contents[window.shown.content];
            match window.shown.inherit {
                Inherit::Share if content.is_untracked() => expected.must([Refusal::SingleWindow]),
                Inherit::Copy if !content.is_copied() => expected.must([Refusal::Kind]),
                Inherit::Copy if content.retyping => expected.must([Refusal::Retry(window.first)]),
                _ => {}
            }
        }
        let result = self.call(|world| world.space(slot).try_clone(()));
        if !expected.check(&result) {
            return;
        }
        let (mut child, mut effect) = (SpaceModel { pages: Default::default(), ..parent.clone() }, Effect::default());
        let mut copies = std::collections::BTreeMap::new();
        for window in windows {
            let of = window.shown.content;
            let content = match window.shown.inherit {
                Inherit::Nothing => continue,
                Inherit::Share => of,
                Inherit::Wipe => {
                    let pages = self.model.contents[of].pages;
                    let mut wiped = Content::new(AreaKind::Open { size: pages * PAGE }, pages);
                    wiped.handles = 0;
                    self.model.content(wiped)
                }
                Inherit::Copy => *copies.entry(of).or_insert_with(|| {
                    let (new, copy) = self.model.copy(of);
                    self.model.contents[new].handles = 0;
                    effect.copies.push(copy);
                    new
                }),
                _ => unreachable!("there are four"),
            };
            for page in window.first..window.end() {
                let shown = parent.pages[&page];
                let flags = shown.flags.difference(WindowFlags::LOCKED);
                child.pages.insert(page, Shown { content, flags, ..shown });
            }
        }
        self.model.spaces.push(child);
        let number = self.model.spaces.len() - 1;
        self.finish(result.unwrap(), effect, |space| Outcome::Space(to, number, space));
    }

    /// What CPUs may remember of pages of a space.
    pub(crate) fn stale(&self, number: usize, pages: &Range<u64>, keeps: Access) -> Vec<Stale> {
        let shown = self.model.spaces[number].pages.range(pages.clone());
        shown.map(|(page, shown)| Stale { space: number, page: *page, had: shown.access, keeps }).collect()
    }
}
