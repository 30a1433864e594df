//! A kernel that keeps every byte, in the plainest way, and that can be given a mistake: whether the model agrees with the one, and notices the other.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec::Vec;

use crate::step::{Kernel, Page};
use refkernel_abi::{Access, Advice, ErrorCode, Handle, HandleKind, PAGE_SIZE, Rights};

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    None,
    UnmapLeavesTheLastPage,
    UnmapTakesOneMore,
    ProtectForgetsTheLastPage,
    ProtectIgnoresRights,
    MapOverwrites,
    MapForgetsTheOffset,
    MapIgnoresRights,
    CutPagesComeBack,
    CutPagesStay,
    NotNeededDoesNothing,
    NotNeededTakesNamed,
    RingIsNoRing,
    CloseTakesMemory,
    DuplicateGivesMore,
    CopyOutMissesAPage,
    CopyInMissesAPage,
    CopyInIgnoresAccess,
    LookIgnoresAccess,
    RefusedProtectIsHalfDone,
    WritesGoToTheNextPageToo,
}

impl Mistake {
    pub(crate) const ALL: [Self; 20] = [
        Self::UnmapLeavesTheLastPage,
        Self::UnmapTakesOneMore,
        Self::ProtectForgetsTheLastPage,
        Self::ProtectIgnoresRights,
        Self::MapOverwrites,
        Self::MapForgetsTheOffset,
        Self::MapIgnoresRights,
        Self::CutPagesComeBack,
        Self::CutPagesStay,
        Self::NotNeededDoesNothing,
        Self::NotNeededTakesNamed,
        Self::RingIsNoRing,
        Self::CloseTakesMemory,
        Self::DuplicateGivesMore,
        Self::CopyOutMissesAPage,
        Self::CopyInMissesAPage,
        Self::CopyInIgnoresAccess,
        Self::LookIgnoresAccess,
        Self::RefusedProtectIsHalfDone,
        Self::WritesGoToTheNextPageToo,
    ];
}

struct Memory {
    pages: Vec<Page>,
    /// As many pages of the area show its memory.
    size: usize,
    named: bool,
}

type Area = Rc<RefCell<Memory>>;

#[derive(Clone)]
struct Window {
    area: Area,
    page: usize,
    access: u64,
    rights: Rights,
}

pub(crate) struct Fake {
    mistake: Mistake,
    windows: BTreeMap<u64, Window>,
    handles: BTreeMap<u64, (Area, Rights)>,
    next: u64,
}

const ELSEWHERE: u64 = 1 << 32;

impl Fake {
    pub(crate) fn new(mistake: Mistake) -> Self {
        Self { mistake, windows: BTreeMap::new(), handles: BTreeMap::new(), next: 1 }
    }

    fn is(&self, mistake: Mistake) -> bool {
        self.mistake == mistake
    }

    pub(crate) fn handles(&self) -> usize {
        self.handles.len()
    }

    fn area(pages: usize, size: usize, named: bool) -> Area {
        Rc::new(RefCell::new(Memory { pages: std::vec![[0; 512]; pages], size, named }))
    }

    fn name(&mut self, area: Area, rights: Rights) -> Handle {
        self.next += 1;
        self.handles.insert(self.next, (area, rights));
        Handle(self.next)
    }

    fn named(&self, handle: Handle) -> Result<(Area, Rights), ErrorCode> {
        self.handles.get(&handle.0).cloned().ok_or(ErrorCode::BadHandle)
    }

    fn pages(address: u64, length: u64) -> impl Iterator<Item = u64> {
        (address..address + length).step_by(PAGE_SIZE as usize)
    }

    /// The page at an address that may be accessed so.
    fn with_page<R>(&self, address: u64, access: Access, what: impl FnOnce(&mut Page) -> R) -> Option<R> {
        let window = self.windows.get(&(address & !(PAGE_SIZE - 1)))?;
        let writes = window.access & Access::WRITE.bits() != 0;
        if window.access == 0 || (access == Access::WRITE && !writes) {
            return None;
        }
        let mut memory = window.area.borrow_mut();
        if window.page >= memory.size {
            return None;
        }
        let key = window.page % memory.pages.len();
        memory.pages.get_mut(key).map(what)
    }

    fn lacks(rights: Rights, access: u64) -> bool {
        let pairs = [(Access::WRITE, Rights::WRITE), (Access::EXECUTE, Rights::EXECUTE)];
        pairs.into_iter().any(|(bit, right)| access & bit.bits() != 0 && !rights.contains(right))
    }
}

impl Kernel for Fake {
    fn create(&mut self, size: u64) -> Result<Handle, ErrorCode> {
        let pages = (size / PAGE_SIZE) as usize;
        let area = Self::area(pages, pages, true);
        Ok(self.name(area, Rights::OWN_AREA))
    }

    fn create_ring(&mut self, size: u64) -> Result<Handle, ErrorCode> {
        let pages = (size / PAGE_SIZE) as usize;
        let real = if self.is(Mistake::RingIsNoRing) { 2 * pages } else { pages };
        let area = Self::area(real, 2 * pages, true);
        Ok(self.name(area, Rights::GIVEN_AREA))
    }

    fn create_and_map(&mut self, size: u64, address: u64, access: u64) -> Result<u64, ErrorCode> {
        let pages = (size / PAGE_SIZE) as usize;
        let area = Self::area(pages, pages, false);
        let handle = self.name(area, Rights::READ | Rights::WRITE | Rights::MAP);
        let result = self.map(handle, address, 0, size, access);
        self.handles.remove(&handle.0);
        result
    }

    fn map(&mut self, area: Handle, address: u64, offset: u64, length: u64, access: u64) -> Result<u64, ErrorCode> {
        let (area, rights) = self.named(area)?;
        let address = if address == 0 { ELSEWHERE } else { address };
        if !self.is(Mistake::MapOverwrites) && Self::pages(address, length).any(|page| self.windows.contains_key(&page))
        {
            return Err(ErrorCode::Occupied);
        }
        if (offset + length) / PAGE_SIZE > area.borrow().size as u64 {
            return Err(ErrorCode::OutOfBounds);
        }
        if (!rights.contains(Rights::MAP) || Self::lacks(rights, access)) && !self.is(Mistake::MapIgnoresRights) {
            return Err(ErrorCode::Denied);
        }
        let offset = if self.is(Mistake::MapForgetsTheOffset) { 0 } else { offset / PAGE_SIZE };
        for (page, place) in (offset as usize..).zip(Self::pages(address, length)) {
            self.windows.insert(place, Window { area: area.clone(), page, access, rights });
        }
        Ok(address)
    }

    fn unmap(&mut self, address: u64, length: u64) -> Result<u64, ErrorCode> {
        let length = match self.mistake {
            Mistake::UnmapLeavesTheLastPage => length - PAGE_SIZE,
            Mistake::UnmapTakesOneMore => length + PAGE_SIZE,
            _ => length,
        };
        Self::pages(address, length).for_each(|page| {
            self.windows.remove(&page);
        });
        Ok(0)
    }

    fn protect(&mut self, address: u64, length: u64, access: u64) -> Result<u64, ErrorCode> {
        let mut refused = None;
        for page in Self::pages(address, length) {
            match self.windows.get(&page) {
                None => refused = Some(ErrorCode::NotMapped),
                Some(window) if Self::lacks(window.rights, access) => {
                    if !self.is(Mistake::ProtectIgnoresRights) {
                        refused = refused.or(Some(ErrorCode::Denied));
                    }
                }
                Some(_) => {}
            }
        }
        if let Some(error) = refused {
            let first = self.windows.get_mut(&address).filter(|window| !Self::lacks(window.rights, access));
            if let (Mistake::RefusedProtectIsHalfDone, Some(window)) = (self.mistake, first) {
                window.access = access;
            }
            return Err(error);
        }
        let length = if self.is(Mistake::ProtectForgetsTheLastPage) { length - PAGE_SIZE } else { length };
        for page in Self::pages(address, length) {
            if let Some(window) = self.windows.get_mut(&page) {
                window.access = access;
            }
        }
        Ok(0)
    }

    fn advise(&mut self, address: u64, length: u64, advice: Advice) -> Result<u64, ErrorCode> {
        if Self::pages(address, length).any(|page| !self.windows.contains_key(&page)) {
            return Err(ErrorCode::NotMapped);
        }
        if advice != Advice::NotNeeded || self.is(Mistake::NotNeededDoesNothing) {
            return Ok(0);
        }
        for page in Self::pages(address, length) {
            let Some(window) = self.windows.get(&page) else { continue };
            let mut memory = window.area.borrow_mut();
            if !memory.named || self.is(Mistake::NotNeededTakesNamed) {
                let key = window.page % memory.pages.len();
                if let Some(page) = memory.pages.get_mut(key) {
                    *page = [0; 512];
                }
            }
        }
        Ok(0)
    }

    fn resize(&mut self, area: Handle, size: u64) -> Result<u64, ErrorCode> {
        let (area, rights) = self.named(area)?;
        if !rights.contains(Rights::RESIZE) {
            return Err(ErrorCode::Denied);
        }
        let size = (size / PAGE_SIZE) as usize;
        let mut memory = area.borrow_mut();
        if !self.is(Mistake::CutPagesComeBack) {
            memory.pages.truncate(size);
        }
        let most = memory.pages.len().max(size);
        memory.pages.resize(most, [0; 512]);
        if !self.is(Mistake::CutPagesStay) || size > memory.size {
            memory.size = size;
        }
        Ok(0)
    }

    fn duplicate(&mut self, handle: Handle, rights: Rights) -> Result<Handle, ErrorCode> {
        let (area, held) = self.named(handle)?;
        if !held.contains(rights | Rights::SHARE) && !self.is(Mistake::DuplicateGivesMore) {
            return Err(ErrorCode::Denied);
        }
        Ok(self.name(area, rights))
    }

    fn inspect(&mut self, handle: Handle) -> Result<(HandleKind, Rights), ErrorCode> {
        self.named(handle).map(|(_, rights)| (HandleKind::Area, rights))
    }

    fn close(&mut self, handle: Handle) -> Result<u64, ErrorCode> {
        let (area, _) = self.handles.remove(&handle.0).ok_or(ErrorCode::BadHandle)?;
        if self.is(Mistake::CloseTakesMemory) && !self.handles.values().any(|(other, _)| Rc::ptr_eq(other, &area)) {
            area.borrow_mut().pages.iter_mut().for_each(|page| *page = [0; 512]);
        }
        Ok(0)
    }

    fn read(&mut self, address: u64) -> u64 {
        let index = (address % PAGE_SIZE / 8) as usize;
        // A model that reads what cannot be read is wrong, but where the kernel's mistake is that it cannot be.
        self.with_page(address, Access::READ, |page| page[index]).unwrap_or(0xdead)
    }

    fn write(&mut self, address: u64, word: u64) {
        let index = (address % PAGE_SIZE / 8) as usize;
        self.with_page(address, Access::WRITE, |page| page[index] = word);
        if self.is(Mistake::WritesGoToTheNextPageToo) {
            self.with_page(address + PAGE_SIZE, Access::WRITE, |page| page[index] = word);
        }
    }

    fn copy_out(&mut self, address: u64, pages: &mut [Page]) -> Result<u64, ErrorCode> {
        let skipped = if self.is(Mistake::CopyOutMissesAPage) { pages.len().saturating_sub(1) } else { usize::MAX };
        for (offset, target) in pages.iter_mut().enumerate() {
            let place = address + offset as u64 * PAGE_SIZE;
            let page = self.with_page(place, Access::READ, |page| *page).ok_or(ErrorCode::BadPointer)?;
            if offset != skipped {
                *target = page;
            }
        }
        Ok(0)
    }

    fn copy_in(&mut self, address: u64, pages: &[Page]) -> Result<u64, ErrorCode> {
        let access = if self.is(Mistake::CopyInIgnoresAccess) { Access::READ } else { Access::WRITE };
        for (offset, source) in pages.iter().enumerate() {
            if self.is(Mistake::CopyInMissesAPage) && offset == 1 {
                continue;
            }
            let place = address + offset as u64 * PAGE_SIZE;
            self.with_page(place, access, |page| *page = *source).ok_or(ErrorCode::BadPointer)?;
        }
        Ok(0)
    }

    fn look(&mut self, address: u64, expected: u32) -> ErrorCode {
        match self.with_page(address, Access::READ, |page| page[0] as u32) {
            Some(word) if word == expected => ErrorCode::TimedOut,
            Some(_) => ErrorCode::Changed,
            None if self.is(Mistake::LookIgnoresAccess) && self.windows.contains_key(&address) => ErrorCode::Changed,
            None => ErrorCode::BadPointer,
        }
    }
}
