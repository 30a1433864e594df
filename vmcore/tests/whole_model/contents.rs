//! What is done to areas through their handles.

use std::ops::Range;

use vmcore::addr::{Frame, FrameRange};
use vmcore::paging::{Access, MemoryType};
use vmcore::sim::SimFormat;
use vmcore::vm_area::{Area, AreaKind, SectionLayout};

use super::model::{Content, DEVICE, DEVICE_PAGES, Effect, PAGE, PagedPage, Resident, Section, WORD_AT};
use super::operation::Part;
use super::refusal::{Expected, Refusal};
use super::world::{Outcome, Pinned, World, bytes_of};

impl<M: SimFormat> World<M> {
    pub(crate) fn new_area(&mut self, slot: usize, kind: u8, pages: u64) {
        if self.areas[slot].is_some() {
            return;
        }
        let (size, key) = (pages * PAGE, self.model.contents.len() as u64);
        let kind = match kind {
            0..4 => AreaKind::Open { size },
            4 => AreaKind::Ring { size: pages.div_ceil(2) * PAGE },
            5 | 6 => AreaKind::Growing { limit: size, gap: (1 + pages % 2) * PAGE },
            7 => AreaKind::Untracked { size },
            8 => AreaKind::Guarded(SectionLayout { pages: (pages as u32).div_ceil(3), guard: 1, count: 3 }),
            9 => AreaKind::Fixed {
                frames: FrameRange::new(Frame::new(DEVICE + pages % (DEVICE_PAGES - 8)), pages).unwrap(),
                memory: MemoryType::WriteBack,
            },
            _ => AreaKind::Paged { size, key },
        };
        let made = self.call(|world| match kind {
            // SAFETY: it is device memory, which holds nothing that the library or a reference relies on.
            AreaKind::Fixed { frames, memory } => unsafe { Area::fixed(&world.sim, frames, memory, 0) },
            kind => Area::new(&world.sim, kind, 0),
        });
        let pages = match kind {
            AreaKind::Ring { .. } => pages.div_ceil(2) * 2,
            AreaKind::Guarded(layout) => u64::from(layout.count * (layout.pages + layout.guard) + layout.guard),
            _ => pages,
        };
        let content = self.model.content(Content::new(kind, pages));
        self.areas[slot] = Some((made.unwrap(), content));
    }

    pub(crate) fn snapshot(&mut self, from: usize, to: usize) {
        let Some((slot, of)) = self.pick_area(from) else { return };
        let (mut expected, content) = (Expected::default(), &self.model.contents[of]);
        if !content.is_copied() {
            expected.must([Refusal::Kind]);
        }
        if content.retyping {
            expected.must([Refusal::AreaRetry]);
        }
        let result = self.call(|world| world.area(slot).snapshot());
        if expected.check(&result) {
            let (new, copy) = self.model.copy(of);
            let effect = Effect { copies: vec![copy], ..Effect::default() };
            self.finish(result.unwrap(), effect, |area| Outcome::Area(to, new, area));
        }
    }

    pub(crate) fn resize(&mut self, area: usize, pages: u64) {
        let Some((slot, number)) = self.pick_area(area) else { return };
        let (mut expected, content) = (Expected::default(), &self.model.contents[number]);
        if !content.is_open() && !content.is_paged() {
            expected.must([Refusal::Kind]);
        }
        if pages == 0 {
            expected.must([Refusal::AreaSize]);
        }
        if pages >= content.pages && content.returning != 0 {
            expected.must([Refusal::AreaRetry]);
        }
        let lost = pages..content.pages.max(pages);
        expected.must(content.first_pinned(lost.clone()).map(Refusal::Pinned));
        let result = self.call(|world| world.area(slot).resize(pages * PAGE));
        if !expected.check(&result) {
            return;
        }
        let mut effect = Effect::default();
        if !lost.is_empty() {
            effect.stale = self.model.stale_views(number, lost.clone(), Access::empty());
            effect.returning.push((number, None));
            self.model.contents[number].returning += 1;
            self.model.contents[number].lose(lost);
        }
        self.model.contents[number].pages = pages;
        self.finish_quietly(result.unwrap(), effect);
    }

    pub(crate) fn take_section(&mut self, area: usize) {
        let Some((slot, number)) = self.pick_area(area) else { return };
        let result = self.call(|world| world.area(slot).take_section());
        let (mut expected, content) = (Expected::default(), &mut self.model.contents[number]);
        if content.sections.is_empty() {
            expected.must([Refusal::Kind]);
        } else if content.free_sections.is_empty() {
            expected.must([Refusal::NoSection]);
        }
        if expected.check(&result) {
            let section = content.free_sections.pop().unwrap();
            content.sections[section as usize] = Section::Out;
            let (pages, given) = (content.section_pages(section), result.unwrap());
            let wanted = (section, pages.start * PAGE, (pages.end - pages.start) * PAGE);
            assert_eq!((given.number, given.offset, given.size), wanted);
        }
    }

    pub(crate) fn give_section(&mut self, area: usize, section: u32) {
        let Some((slot, number)) = self.pick_area(area) else { return };
        let (mut expected, content) = (Expected::default(), &self.model.contents[number]);
        if content.sections.is_empty() {
            expected.must([Refusal::Kind]);
        } else if content.sections.get(section as usize) != Some(&Section::Out) {
            expected.must([Refusal::NotOut]);
        }
        let pages = content.section_pages(section);
        expected.must(content.first_pinned(pages.clone()).map(Refusal::Pinned));
        let result = self.call(|world| world.area(slot).give_section(section));
        if expected.check(&result) {
            let stale = self.model.stale_views(number, pages.clone(), Access::all());
            let content = &mut self.model.contents[number];
            content.sections[section as usize] = Section::Returning;
            content.returning += 1;
            content.lose(pages);
            let returning = vec![(number, Some(section))];
            self.finish_quietly(result.unwrap(), Effect { stale, returning, ..Effect::default() });
        }
    }

    /// Whether bytes of these pages can be reached through the handle; the first page that has to be brought.
    fn expect_contents(&self, number: usize, pages: Range<u64>, write: bool) -> (Expected, Option<u64>) {
        let (mut expected, content) = (Expected::default(), &self.model.contents[number]);
        if content.is_untracked() {
            expected.must([Refusal::Kind]);
        }
        if content.retyping {
            expected.must([Refusal::AreaRetry]);
        }
        if pages.end > content.pages {
            expected.must([Refusal::Outside]);
        }
        if pages.clone().any(|page| page < content.pages && content.is_guard(page)) {
            expected.must([Refusal::Kind]);
        }
        if pages.clone().any(|page| self.model.may_be_closed(number, page, write)) {
            expected.may([Refusal::AreaRetry]);
        }
        let mut missing = None;
        if content.is_paged() && expected.must.is_empty() {
            missing = pages.into_iter().find(|page| content.resident(*page) == Resident::No);
            expected.must(missing.map(|page| match content.paged.get(&page) {
                Some(PagedPage::Failed) => Refusal::AreaFailed(page),
                _ => Refusal::AreaAwaits,
            }));
        }
        (expected, missing)
    }

    /// Compares what was said of contents; true if it was done.
    fn check_contents<T>(
        &mut self,
        number: usize,
        end: u64,
        (expected, missing): (Expected, Option<u64>),
        result: &Result<T, Refusal>,
    ) -> bool {
        let done = expected.check(result);
        if let (Some(page), true) = (missing, result.as_ref().err() == Some(&Refusal::AreaAwaits)) {
            self.note_awaited(number, page, end, false);
        }
        done
    }

    /// What CPUs remember of pages that were copied or came into being, and that may answer "retry" until they have forgotten it.
    fn replaced(&self, number: usize, pages: Range<u64>) -> Effect {
        let mut stale = self.model.stale_views(number, pages.clone(), Access::all());
        stale.iter_mut().for_each(|stale| stale.had.remove(Access::WRITE));
        let closed = pages.map(|page| (number, self.model.contents[number].key(page))).collect();
        Effect { stale, closed, ..Effect::default() }
    }

    pub(crate) fn write(&mut self, area: usize, page: u64, word: usize, across: bool) {
        let Some((slot, number)) = self.pick_area(area) else { return };
        self.value += 2;
        let (one, other) = (self.value - 1, self.value);
        // The last word of a page and the first one of the next are in a row.
        let words = if across { vec![(page, 2, one), (page + 1, 0, other)] } else { vec![(page, word, one)] };
        let bytes: Vec<u8> = words.iter().flat_map(|(_, _, value)| value.to_ne_bytes()).collect();
        let pages = page..page + words.len() as u64;
        let expected = self.expect_contents(number, pages.clone(), true);
        let offset = page * PAGE + WORD_AT[words[0].1];
        let result = self.call(|world| world.area(slot).write(offset, &bytes));
        if !self.check_contents(number, pages.end, expected, &result) {
            return;
        }
        let effect = self.replaced(number, pages.clone());
        for (page, word, value) in words {
            self.model.write(number, page, word, value);
            self.model.contents[number].reach(page, true);
        }
        self.finish_quietly(result.unwrap(), effect);
    }

    pub(crate) fn read(&mut self, part: Part) {
        if let Some((slot, _)) = self.pick_area(part.area) {
            self.read_part(slot, part.page, part.count);
        }
    }

    pub(crate) fn read_part(&mut self, slot: usize, first: u64, count: u64) {
        let number = self.areas[slot].as_ref().unwrap().1;
        let pages = first..first + count;
        let expected = self.expect_contents(number, pages.clone(), false);
        let bytes = std::cell::RefCell::new(vec![1; (count * PAGE) as usize]);
        let result = self.call(|world| world.area(slot).read(first * PAGE, &mut bytes.borrow_mut()));
        if !self.check_contents(number, pages.end, expected, &result) {
            return;
        }
        let wanted: Vec<u8> = pages.clone().flat_map(|page| bytes_of(self.model.words(number, page))).collect();
        assert!(*bytes.borrow() == wanted, "the bytes of pages {pages:?} of {number}");
        for page in pages {
            if self.model.contents[number].is_paged() {
                self.model.contents[number].reach(page, false);
            }
        }
    }

    pub(crate) fn pin(&mut self, part: Part) {
        let Some((slot, number)) = self.pick_area(part.area) else { return };
        let pages = part.page..part.page + part.count;
        let expected = self.expect_contents(number, pages.clone(), true);
        let result = self.call(|world| world.area(slot).pin(part.page * PAGE, part.count * PAGE));
        if !self.check_contents(number, pages.end, expected, &result) {
            return;
        }
        let effect = self.replaced(number, pages.clone());
        let content = &mut self.model.contents[number];
        content.handles += 1;
        let mut keys = Vec::new();
        for page in pages {
            content.reach(page, true);
            if !content.is_fixed() {
                keys.push(content.key(page));
                *content.pins.entry(content.key(page)).or_default() += 1;
            }
        }
        self.finish(result.unwrap(), effect, |pin| Outcome::Pin(Pinned { content: number, keys, pin }));
    }

    pub(crate) fn unpin(&mut self, which: usize) {
        if self.pins.is_empty() {
            return;
        }
        let Pinned { content, keys, pin } = self.pins.swap_remove(which % self.pins.len());
        drop(pin);
        let content = &mut self.model.contents[content];
        content.handles -= 1;
        for key in keys {
            let count = content.pins.get_mut(&key).unwrap();
            *count -= 1;
            if *count == 0 {
                content.pins.remove(&key);
            }
        }
    }

    pub(crate) fn set_memory(&mut self, area: usize, combining: bool) {
        let Some((slot, number)) = self.pick_area(area) else { return };
        let memory = if combining { MemoryType::WriteCombining } else { MemoryType::WriteBack };
        let (mut expected, content) = (Expected::default(), &self.model.contents[number]);
        if content.is_fixed() || content.is_untracked() {
            expected.must([Refusal::Kind]);
        }
        if content.retyping {
            expected.must([Refusal::AreaRetry]);
        }
        if combining {
            // Not every format has it.
            expected.may([Refusal::Memory]);
        }
        let result = self.call(|world| world.area(slot).set_memory(memory));
        if !expected.check(&result) {
            return;
        }
        let mut effect = Effect::default();
        if memory != content_memory(self, number) {
            effect.stale = self.model.stale_views(number, 0..u64::from(u16::MAX), Access::empty());
            effect.retyping = Some(number);
            let content = &mut self.model.contents[number];
            content.memory = memory;
            content.retyping = true;
            content.returning += 1;
        }
        self.finish_quietly(result.unwrap(), effect);
    }
}

fn content_memory<M: SimFormat>(world: &World<M>, number: usize) -> MemoryType {
    world.model.contents[number].memory
}
