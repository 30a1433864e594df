//! The model: areas as maps of pages, spaces as maps from page to what it shows, and changes whose flush is outstanding. It is slow, keeps nothing
//! twice, and shares no thought with the library: no trees, no records of windows, no counts.
//!
//! ```text
//!   SpaceModel.pages    0x1ff ──► Shown { content, page, access, inherit, flags, guard, gate }
//!                                            │
//!   Model.contents      Content { words: key ──► three words of the page, resident, pins, paged, ... }
//!
//!   Model.effects       Effect: what becomes true when a flush is acknowledged, and what a CPU may remember until then
//! ```

use std::collections::{BTreeMap, BTreeSet};

use vmcore::paging::{Access, MemoryType};
use vmcore::vm_area::AreaKind;
use vmcore::vm_space::{Inherit, WindowFlags};

use super::refusal::Refusal;

pub(crate) const PAGE: u64 = 0x1000;
/// Where in a page words are written.
pub(crate) const WORD_AT: [u64; 3] = [0, 0x7f8, 0xff8];
pub(crate) type Words = [u64; WORD_AT.len()];
/// The frames of the device, whose words all fixed areas have.
pub(crate) const DEVICE: u64 = 0x20_0000;
pub(crate) const DEVICE_PAGES: u64 = 16;
/// The number of what the device's frames hold.
pub(crate) const DEVICE_CONTENT: usize = 0;

/// What is known of whether a page is resident.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Resident {
    No,
    /// It was read, and the documentation leaves open whether it came into being.
    Maybe,
    Yes,
}

/// A page of a paged area that is not absent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PagedPage {
    Requested(u64),
    Failed,
    Here { dirty: bool, writing: bool, evicting: bool },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Section {
    Free,
    Out,
    Returning,
}

/// What an area holds.
pub(crate) struct Content {
    pub(crate) kind: AreaKind,
    pub(crate) pages: u64,
    pub(crate) words: BTreeMap<u64, Words>,
    /// By key; true: certainly.
    pub(crate) resident: BTreeMap<u64, bool>,
    pub(crate) pins: BTreeMap<u64, u32>,
    /// Handles, pins, and copies that come out of a flush.
    pub(crate) handles: usize,
    pub(crate) returning: usize,
    pub(crate) retyping: bool,
    pub(crate) memory: MemoryType,
    /// Never copied, and never shown by a private window: what is read comes into being.
    pub(crate) plain: bool,
    pub(crate) sections: Vec<Section>,
    /// In which order sections are handed out, the last first.
    pub(crate) free_sections: Vec<u32>,
    pub(crate) paged: BTreeMap<u64, PagedPage>,
    pub(crate) evicting: bool,
}

impl Content {
    /// The kind with its present size, as it is told.
    pub(crate) fn kind_with_size(&self) -> AreaKind {
        let size = self.pages * PAGE;
        match self.kind {
            AreaKind::Open { .. } => AreaKind::Open { size },
            AreaKind::Untracked { .. } => AreaKind::Untracked { size },
            AreaKind::Private { .. } => AreaKind::Private { size },
            AreaKind::Paged { key, .. } => AreaKind::Paged { size, key },
            other => other,
        }
    }

    pub(crate) fn new(kind: AreaKind, pages: u64) -> Self {
        let count = if let AreaKind::Guarded(layout) = kind { layout.count } else { 0 };
        Self {
            kind,
            pages,
            words: BTreeMap::new(),
            resident: BTreeMap::new(),
            pins: BTreeMap::new(),
            handles: 1,
            returning: 0,
            retyping: false,
            memory: MemoryType::WriteBack,
            plain: true,
            sections: vec![Section::Free; count as usize],
            free_sections: (0..count).rev().collect(),
            paged: BTreeMap::new(),
            evicting: false,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.kind, AreaKind::Open { .. } | AreaKind::Private { .. })
    }

    /// Whether it can be copied.
    pub(crate) fn is_copied(&self) -> bool {
        self.is_open() || matches!(self.kind, AreaKind::Ring { .. } | AreaKind::Growing { .. })
    }

    pub(crate) fn is_fixed(&self) -> bool {
        matches!(self.kind, AreaKind::Fixed { .. })
    }

    pub(crate) fn is_untracked(&self) -> bool {
        matches!(self.kind, AreaKind::Untracked { .. })
    }

    pub(crate) fn is_paged(&self) -> bool {
        matches!(self.kind, AreaKind::Paged { .. })
    }

    /// The key of a page: a ring has each twice.
    pub(crate) fn key(&self, page: u64) -> u64 {
        if let AreaKind::Ring { size } = self.kind { page % (size / PAGE) } else { page }
    }

    pub(crate) fn section_pages(&self, section: u32) -> std::ops::Range<u64> {
        let AreaKind::Guarded(layout) = self.kind else { return 0..0 };
        let first = u64::from(layout.guard) + u64::from(section) * u64::from(layout.guard + layout.pages);
        first..first + u64::from(layout.pages)
    }

    /// Whether a page of the area is a guard, or in a section that is not out.
    pub(crate) fn is_guard(&self, page: u64) -> bool {
        let AreaKind::Guarded(layout) = self.kind else { return false };
        !(0..layout.count)
            .any(|number| self.sections[number as usize] == Section::Out && self.section_pages(number).contains(&page))
    }

    pub(crate) fn resident(&self, page: u64) -> Resident {
        if self.is_fixed() {
            return Resident::Yes;
        }
        if self.is_paged() {
            let here = matches!(self.paged.get(&page), Some(PagedPage::Here { .. }));
            return if here { Resident::Yes } else { Resident::No };
        }
        match self.resident.get(&self.key(page)) {
            None => Resident::No,
            Some(false) => Resident::Maybe,
            Some(true) => Resident::Yes,
        }
    }

    /// A page was reached.
    pub(crate) fn reach(&mut self, page: u64, write: bool) {
        if self.is_fixed() {
            return;
        }
        if let Some(PagedPage::Here { dirty, evicting, .. }) = self.paged.get_mut(&page) {
            *dirty |= write;
            *evicting = false;
            return;
        }
        let (key, certain) = (self.key(page), write || self.plain || self.is_untracked());
        *self.resident.entry(key).or_default() |= certain;
    }

    /// Pages go. `None` of them is pinned.
    pub(crate) fn lose(&mut self, pages: std::ops::Range<u64>) {
        for page in pages {
            let key = self.key(page);
            self.words.remove(&key);
            self.resident.remove(&key);
            self.paged.remove(&page);
        }
    }

    pub(crate) fn first_pinned(&self, pages: std::ops::Range<u64>) -> Option<u64> {
        pages.into_iter().find(|page| self.pins.contains_key(&self.key(*page)))
    }
}

/// What a page of a space shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shown {
    pub(crate) content: usize,
    pub(crate) page: u64,
    pub(crate) access: Access,
    /// What the handle permitted that it was mapped with.
    pub(crate) limit: Access,
    pub(crate) inherit: Inherit,
    pub(crate) flags: WindowFlags,
    pub(crate) guard: bool,
    /// The window that was unmapped and waits for its flush.
    pub(crate) gate: Option<u64>,
}

impl Shown {
    /// Whether `next`, which lies behind it, is of the same window.
    fn goes_on(&self, next: &Self) -> bool {
        let same = (self.content, self.access, self.limit, self.inherit, self.flags, self.gate)
            == (next.content, next.access, next.limit, next.inherit, next.flags, next.gate);
        same && self.page + 1 == next.page
    }
}

#[derive(Clone, Default)]
pub(crate) struct SpaceModel {
    pub(crate) pages: BTreeMap<u64, Shown>,
    pub(crate) most_windows: Option<usize>,
    pub(crate) most_pages: Option<u64>,
    pub(crate) forbids_write_execute: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowModel {
    pub(crate) first: u64,
    pub(crate) count: u64,
    /// What the first page shows.
    pub(crate) shown: Shown,
}

impl WindowModel {
    pub(crate) fn end(&self) -> u64 {
        self.first + self.count
    }
}

impl SpaceModel {
    /// What it has: the longest runs of pages that go on.
    pub(crate) fn windows(&self) -> Vec<WindowModel> {
        let mut windows: Vec<WindowModel> = Vec::new();
        let mut before: Option<Shown> = None;
        for (page, shown) in &self.pages {
            match windows.last_mut() {
                Some(last) if last.end() == *page && before.is_some_and(|before| before.goes_on(shown)) => {
                    last.count += 1;
                }
                _ => windows.push(WindowModel { first: *page, count: 1, shown: *shown }),
            }
            before = Some(*shown);
        }
        windows
    }

    pub(crate) fn window_at(&self, page: u64) -> Option<WindowModel> {
        self.windows().into_iter().find(|window| (window.first..window.end()).contains(&page))
    }

    /// The lowest window that has one of the pages.
    pub(crate) fn first_overlap(&self, pages: &std::ops::Range<u64>) -> Option<WindowModel> {
        self.windows().into_iter().find(|window| window.first < pages.end && pages.start < window.end())
    }

    /// How many live windows are cut by the edges of the range.
    pub(crate) fn cuts(&self, pages: &std::ops::Range<u64>) -> usize {
        let cut = |edge: u64| {
            let window = self.window_at(edge);
            window.is_some_and(|window| window.first < edge && window.shown.gate.is_none())
        };
        usize::from(cut(pages.start)) + usize::from(cut(pages.end))
    }

    /// The reasons at the lowest page where there are some: nothing is mapped, it waits for a flush, or what `each` says.
    pub(crate) fn scan(&self, pages: std::ops::Range<u64>, each: impl Fn(u64, &Shown) -> Vec<Refusal>) -> Vec<Refusal> {
        for page in pages {
            let reasons = match self.pages.get(&page) {
                None => vec![Refusal::NoWindow(page)],
                Some(shown) if shown.gate.is_some() => vec![Refusal::Retry(page)],
                Some(shown) => each(page, shown),
            };
            if !reasons.is_empty() {
                return reasons;
            }
        }
        Vec::new()
    }

    /// Whether a limit refuses so many windows and pages more.
    pub(crate) fn limited(&self, windows: usize, pages: u64) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        if windows != 0 && self.most_windows.is_some_and(|most| self.windows().len() + windows > most) {
            refusals.push(Refusal::WindowLimit);
        }
        if pages != 0 && self.most_pages.is_some_and(|most| self.pages.len() as u64 + pages > most) {
            refusals.push(Refusal::ReservedLimit);
        }
        refusals
    }
}

/// What a CPU may remember of a page of a space until a flush is acknowledged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stale {
    pub(crate) space: usize,
    pub(crate) page: u64,
    pub(crate) had: Access,
    /// What whoever made the change was told is left when it is flushed.
    pub(crate) keeps: Access,
}

/// A copy of an area that is coming into being: whoever could write to the area goes on writing to both.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) new: usize,
    pub(crate) of: usize,
    /// Pages of which it has its own already, since they were pinned.
    pub(crate) without: BTreeSet<u64>,
}

/// What becomes true when a flush is acknowledged, and what is so until then.
#[derive(Clone, Default, Debug)]
pub(crate) struct Effect {
    /// Windows of spaces that go.
    pub(crate) gates: Vec<(usize, u64)>,
    pub(crate) returning: Vec<(usize, Option<u32>)>,
    pub(crate) retyping: Option<usize>,
    /// Pages of contents, by key, that may answer "retry".
    pub(crate) closed: Vec<(usize, u64)>,
    pub(crate) copies: Vec<Copy>,
    pub(crate) stale: Vec<Stale>,
    pub(crate) evicting: Option<usize>,
    /// Pages of a paged area whose write-back begins: they may be written unseen.
    pub(crate) writing: Vec<(usize, u64)>,
}

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) contents: Vec<Content>,
    /// By number, which is never used again.
    pub(crate) spaces: Vec<SpaceModel>,
    /// By the number of the change.
    pub(crate) effects: BTreeMap<u64, Effect>,
    pub(crate) changes: u64,
}

impl Model {
    pub(crate) fn new() -> Self {
        let mut model = Self::default();
        model.contents.push(Content::new(AreaKind::Open { size: DEVICE_PAGES * PAGE }, DEVICE_PAGES));
        model
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }

    pub(crate) fn content(&mut self, content: Content) -> usize {
        self.contents.push(content);
        self.contents.len() - 1
    }

    /// Who has the words of a page of an area.
    fn owner(&self, content: usize, page: u64) -> (usize, u64) {
        match self.contents[content].kind {
            AreaKind::Fixed { frames, .. } => (DEVICE_CONTENT, frames.first().number() - DEVICE + page),
            _ => (content, self.contents[content].key(page)),
        }
    }

    pub(crate) fn words(&self, content: usize, page: u64) -> Words {
        let (content, key) = self.owner(content, page);
        self.contents[content].words.get(&key).copied().unwrap_or_default()
    }

    /// Writes a word, to copies that are coming into being as well.
    pub(crate) fn write(&mut self, content: usize, page: u64, word: usize, value: u64) {
        let (content, key) = self.owner(content, page);
        self.contents[content].words.entry(key).or_default()[word] = value;
        let copies: Vec<Copy> = self.effects.values().flat_map(|effect| effect.copies.clone()).collect();
        for copy in copies {
            if copy.of == content && !copy.without.contains(&key) {
                self.contents[copy.new].words.entry(key).or_default()[word] = value;
            }
        }
    }

    /// All windows that show an area, waiting ones included: the space, and the window.
    pub(crate) fn views(&self, content: usize) -> Vec<(usize, WindowModel)> {
        let mut views = Vec::new();
        for (number, space) in self.spaces.iter().enumerate() {
            let windows = space.windows();
            views.extend(windows.into_iter().filter(|window| window.shown.content == content).map(|w| (number, w)));
        }
        views
    }

    /// Every page of a space that shows one of the pages of an area.
    pub(crate) fn shown(&self, content: usize, pages: std::ops::Range<u64>) -> Vec<(usize, u64, Shown)> {
        let keys: BTreeSet<u64> = pages.map(|page| self.contents[content].key(page)).collect();
        let mut found = Vec::new();
        for (number, space) in self.spaces.iter().enumerate() {
            for (page, shown) in &space.pages {
                if shown.content == content && keys.contains(&self.contents[content].key(shown.page)) {
                    found.push((number, *page, *shown));
                }
            }
        }
        found
    }

    /// What CPUs may remember of pages of an area, wherever they are shown.
    pub(crate) fn stale_views(&self, content: usize, pages: std::ops::Range<u64>, keeps: Access) -> Vec<Stale> {
        let shown = self.shown(content, pages);
        shown.into_iter().map(|(space, page, shown)| Stale { space, page, had: shown.access, keeps }).collect()
    }

    /// Whether a CPU may use what it remembers of a page of a space.
    pub(crate) fn may_be_stale(&self, space: usize, page: u64, access: Access) -> bool {
        let mut stale = self.effects.values().flat_map(|effect| &effect.stale);
        stale.any(|stale| (stale.space, stale.page) == (space, page) && stale.had.contains(access))
    }

    /// Whether a page of an area may answer "retry", to who reads it or to who writes to it.
    pub(crate) fn may_be_closed(&self, content: usize, page: u64, write: bool) -> bool {
        let key = self.contents[content].key(page);
        self.effects.values().any(|effect| {
            effect.closed.contains(&(content, key)) || (write && effect.copies.iter().any(|copy| copy.of == content))
        })
    }

    /// A copy of an area as it is now, and what its flush waits for.
    pub(crate) fn copy(&mut self, of: usize) -> (usize, Copy) {
        let original = &mut self.contents[of];
        original.plain = false;
        let kind = match original.kind {
            kind @ (AreaKind::Ring { .. } | AreaKind::Growing { .. }) => kind,
            _ => AreaKind::Private { size: original.pages * PAGE },
        };
        let mut copy = Content::new(kind, original.pages);
        copy.plain = false;
        copy.memory = original.memory;
        copy.words = original.words.clone();
        copy.resident = original.resident.clone();
        let without = original.pins.keys().copied().collect();
        // What is shared may be copied by who writes to it: nobody remembers it then.
        let new = self.content(copy);
        (new, Copy { new, of, without })
    }

    /// A flush was acknowledged.
    pub(crate) fn acknowledge(&mut self, change: u64) {
        let Some(effect) = self.effects.remove(&change) else { return };
        for (space, gate) in effect.gates {
            self.spaces[space].pages.retain(|_, shown| shown.gate != Some(gate));
        }
        for (content, section) in effect.returning {
            let content = &mut self.contents[content];
            content.returning -= 1;
            if let Some(section) = section {
                content.sections[section as usize] = Section::Free;
                content.free_sections.push(section);
            }
        }
        if let Some(content) = effect.retyping {
            self.contents[content].retyping = false;
            self.contents[content].returning -= 1;
        }
        if let Some(content) = effect.evicting {
            let content = &mut self.contents[content];
            content.returning -= 1;
            content.evicting = false;
            let gone = |page: &PagedPage| matches!(page, PagedPage::Here { evicting: true, .. });
            let pages: Vec<u64> = content.paged.iter().filter(|(_, page)| gone(page)).map(|(key, _)| *key).collect();
            for page in pages {
                content.lose(page..page + 1);
            }
        }
        // What this caller was told is true of what was taken before as well.
        for told in &effect.stale {
            for (_, before) in self.effects.range_mut(..change) {
                for stale in &mut before.stale {
                    if (stale.space, stale.page) == (told.space, told.page) {
                        stale.had &= told.keeps;
                    }
                }
            }
        }
    }
}
