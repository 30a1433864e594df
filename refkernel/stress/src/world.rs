//! The areas and windows of one thread, as it must find them.

use crate::content::Content;
use refkernel_abi::{Access, ErrorCode, Handle, PAGE_SIZE, Rights};

/// Pages of the range of addresses.
pub const PAGES: usize = 64;
/// The most areas at a time.
pub const AREAS: usize = 6;
/// The most pages of memory of an area.
pub const AREA_PAGES: usize = 24;
/// The most handles of an area.
pub const HANDLES: usize = 2;

/// What kind of memory an area is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Made with a handle: a clone shows the same memory.
    Open,
    /// The same, with its memory twice in a row.
    Ring,
    /// Made without a handle: a clone gets a copy.
    Private,
}

/// An area.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// What it is.
    pub kind: Kind,
    /// How many pages windows can show.
    pub pages: usize,
    /// Its handles, and what each allows.
    pub handles: [Option<(Handle, Rights)>; HANDLES],
    /// What its memory holds.
    pub contents: [Content; AREA_PAGES],
}

impl Area {
    /// A new area.
    #[must_use]
    pub const fn new(kind: Kind, pages: usize) -> Self {
        Self { kind, pages, handles: [None; HANDLES], contents: [Content::certain(0); AREA_PAGES] }
    }

    /// Which page of its memory is shown as page `page` of it.
    #[must_use]
    pub const fn key(&self, page: usize) -> usize {
        match self.kind {
            Kind::Ring if page >= self.pages / 2 => page - self.pages / 2,
            _ => page,
        }
    }

    /// Whether it has a handle.
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.handles.iter().any(Option::is_some)
    }
}

/// A page of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Which area.
    pub area: usize,
    /// Which page of it.
    pub page: usize,
    /// What it allows, in the bits of [`Access`]; 0 for nothing.
    pub access: u64,
    /// What it can be made to allow.
    pub rights: Rights,
}

/// Errors that are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Errors(u64);

impl Errors {
    /// Adds an error if something is so.
    #[must_use]
    pub const fn when(self, is_so: bool, error: ErrorCode) -> Self {
        if is_so { Self(self.0 | 1 << error.number()) } else { self }
    }

    /// Whether there is none, so that the call must succeed.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this error is right.
    #[must_use]
    pub const fn contains(self, error: ErrorCode) -> bool {
        self.0 >> error.number() & 1 != 0
    }
}

/// Areas, and a range of addresses where they are shown.
#[derive(Clone, Debug)]
pub struct World {
    base: u64,
    /// What is shown at each page.
    pub shown: [Option<Shown>; PAGES],
    /// The areas.
    pub areas: [Option<Area>; AREAS],
}

impl World {
    /// An empty one, whose addresses begin with `base`.
    #[must_use]
    pub const fn new(base: u64) -> Self {
        Self { base, shown: [None; PAGES], areas: [None; AREAS] }
    }

    /// The address of a page.
    #[must_use]
    pub const fn address(&self, at: usize) -> u64 {
        self.base + at as u64 * PAGE_SIZE
    }

    /// Whether an address is one of the world's.
    #[must_use]
    pub fn has(&self, address: u64) -> bool {
        (self.base..self.base + PAGES as u64 * PAGE_SIZE).contains(&address)
    }

    /// What is shown at some pages; beyond the last address nothing.
    pub fn range(&self, at: usize, pages: usize) -> impl Iterator<Item = Option<Shown>> + '_ {
        (at..at + pages).map(|page| self.shown.get(page).copied().flatten())
    }

    /// What a page holds that may be accessed so; `None` for one that may not.
    #[must_use]
    pub fn accessible(&self, at: usize, access: Access) -> Option<&Content> {
        let shown = self.shown.get(at).copied().flatten()?;
        let area = self.areas.get(shown.area)?.as_ref()?;
        // To write includes to read.
        let allowed = shown.access & access.bits() != 0 || (access == Access::READ && shown.access != 0);
        if allowed && shown.page < area.pages { area.contents.get(area.key(shown.page)) } else { None }
    }

    /// The same, to be changed.
    pub fn content_mut(&mut self, at: usize) -> Option<&mut Content> {
        let shown = self.shown.get(at).copied().flatten()?;
        let area = self.areas.get_mut(shown.area)?.as_mut()?;
        let key = area.key(shown.page);
        area.contents.get_mut(key)
    }

    /// A handle of an area, and what it allows.
    #[must_use]
    pub fn handle(&self, area: usize, handle: usize) -> Option<(Handle, Rights)> {
        *self.areas.get(area)?.as_ref()?.handles.get(handle)?
    }

    /// Puts a new area into a free place.
    pub fn add(&mut self, area: Area) -> Option<usize> {
        let place = self.areas.iter().position(Option::is_none)?;
        *self.areas.get_mut(place)? = Some(area);
        Some(place)
    }

    /// Shows pages of an area.
    pub fn show(&mut self, at: usize, pages: usize, shown: Shown) {
        for (offset, slot) in self.shown.iter_mut().skip(at).take(pages).enumerate() {
            *slot = Some(Shown { page: shown.page + offset, ..shown });
        }
    }

    /// Forgets areas that have no handle and that nothing shows.
    pub fn forget_lost(&mut self) {
        for (index, slot) in self.areas.iter_mut().enumerate() {
            let is_shown = self.shown.iter().flatten().any(|shown| shown.area == index);
            if slot.as_ref().is_some_and(|area| !area.is_named()) && !is_shown {
                *slot = None;
            }
        }
    }

    /// How many handles it has.
    #[must_use]
    pub fn handles(&self) -> usize {
        self.areas.iter().flatten().flat_map(|area| &area.handles).flatten().count()
    }
}
