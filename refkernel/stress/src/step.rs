//! One operation: made, compared with the model, and entered there.

use crate::content::{self, Content, MARKED, WORDS};
use crate::operation::{COPY_PAGES, Operation};
use crate::world::{AREA_PAGES, Area, Errors, HANDLES, Kind, Shown, World};
use core::fmt;
use refkernel_abi::{Access, Advice, ErrorCode, Handle, HandleKind, PAGE_SIZE, Rights, SystemCall};

/// A page, as the kernel copies it.
pub type Page = [u64; WORDS];

/// What is tried: the system calls, and memory itself. Every call is the one of its name; those whose answer is [`ErrorCode::Retry`] are made again by who implements this.
pub trait Kernel {
    /// See [`SystemCall::AreaCreate`].
    fn create(&mut self, size: u64) -> Result<Handle, ErrorCode>;
    /// See [`SystemCall::AreaCreateRing`].
    fn create_ring(&mut self, size: u64) -> Result<Handle, ErrorCode>;
    /// See [`SystemCall::AreaCreateAndMap`].
    fn create_and_map(&mut self, size: u64, address: u64, access: u64) -> Result<u64, ErrorCode>;
    /// See [`SystemCall::AreaMap`].
    fn map(&mut self, area: Handle, address: u64, offset: u64, length: u64, access: u64) -> Result<u64, ErrorCode>;
    /// See [`SystemCall::AreaUnmap`].
    fn unmap(&mut self, address: u64, length: u64) -> Result<u64, ErrorCode>;
    /// See [`SystemCall::AreaProtect`].
    fn protect(&mut self, address: u64, length: u64, access: u64) -> Result<u64, ErrorCode>;
    /// See [`SystemCall::AreaAdvise`].
    fn advise(&mut self, address: u64, length: u64, advice: Advice) -> Result<u64, ErrorCode>;
    /// See [`SystemCall::AreaResize`].
    fn resize(&mut self, area: Handle, size: u64) -> Result<u64, ErrorCode>;
    /// See [`SystemCall::HandleDuplicate`].
    fn duplicate(&mut self, handle: Handle, rights: Rights) -> Result<Handle, ErrorCode>;
    /// See [`SystemCall::HandleInspect`].
    fn inspect(&mut self, handle: Handle) -> Result<(HandleKind, Rights), ErrorCode>;
    /// See [`SystemCall::HandleClose`].
    fn close(&mut self, handle: Handle) -> Result<u64, ErrorCode>;
    /// Reads a word that may be read.
    fn read(&mut self, address: u64) -> u64;
    /// Writes a word that may be written.
    fn write(&mut self, address: u64, word: u64);
    /// Has the kernel copy from memory to the buffer: all of it, or [`ErrorCode::BadPointer`].
    fn copy_out(&mut self, address: u64, pages: &mut [Page]) -> Result<u64, ErrorCode>;
    /// Has the kernel copy the buffer to memory: all of it, or [`ErrorCode::BadPointer`] after a part.
    fn copy_in(&mut self, address: u64, pages: &[Page]) -> Result<u64, ErrorCode>;
    /// Has the kernel compare a word with `expected` ([`SystemCall::AddressWait`] without time): [`ErrorCode::TimedOut`] if it is so, [`ErrorCode::Changed`] if not,
    /// [`ErrorCode::BadPointer`] where nothing can be read.
    fn look(&mut self, address: u64, expected: u32) -> ErrorCode;
}

/// What was not as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub enum What {
    /// It was refused, and had to be done, or to be refused for something else.
    Refused(ErrorCode),
    /// It was not refused, and had to be.
    NotRefused,
    /// Memory holds something else than was written.
    Contents { address: u64, expected: u64, found: u64 },
    /// A handle allows something else.
    Allows(Rights),
    /// It is not where it was wanted.
    Place(u64),
}

/// An operation that came out wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub operation: Operation,
    /// What is wrong.
    pub what: What,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}: ", self.operation)?;
        match self.what {
            What::Refused(error) => write!(formatter, "refused: {error}"),
            What::NotRefused => formatter.write_str("not refused"),
            What::Contents { address, expected, found } => {
                write!(formatter, "{address:#x} holds {found:#x} and not {expected:#x}")
            }
            What::Allows(rights) => write!(formatter, "the handle allows {rights}"),
            What::Place(address) => write!(formatter, "it is at {address:#x}"),
        }
    }
}

/// The bytes of so many pages.
const fn bytes(pages: usize) -> u64 {
    pages as u64 * PAGE_SIZE
}

/// The answer must be one that is expected. `None` for a refusal that is right.
fn compare<T>(expected: Errors, answer: Result<T, ErrorCode>) -> Result<Option<T>, What> {
    match answer {
        Ok(value) if expected.is_empty() => Ok(Some(value)),
        Ok(_) => Err(What::NotRefused),
        Err(error) if expected.contains(error) => Ok(None),
        Err(error) => Err(What::Refused(error)),
    }
}

/// What rights a window with this access takes.
fn needed(access: u64) -> Rights {
    let mut rights = Rights::READ;
    for (bit, right) in [(Access::WRITE, Rights::WRITE), (Access::EXECUTE, Rights::EXECUTE)] {
        if access & bit.bits() != 0 {
            rights = rights | right;
        }
    }
    rights
}

/// A buffer with pages that hold these values.
fn filled(values: &[u64]) -> [Page; COPY_PAGES] {
    let mut pages = [[0; WORDS]; COPY_PAGES];
    for (page, value) in pages.iter_mut().zip(values) {
        for index in MARKED {
            page[index] = content::word(*value, index);
        }
    }
    pages
}

/// What page number `offset` of those is written that `value` is written to.
const fn nth(value: u64, offset: usize) -> u64 {
    value.wrapping_add(2 * offset as u64)
}

impl World {
    /// Makes an operation, compares what comes of it with the model, and enters it there.
    ///
    /// # Errors
    ///
    /// What is not as it must be. The model is of no use afterwards.
    pub fn step(&mut self, kernel: &mut impl Kernel, operation: Operation) -> Result<(), Failure> {
        self.perform(kernel, operation).map_err(|what| Failure { operation, what })?;
        self.forget_lost();
        Ok(())
    }

    fn perform(&mut self, kernel: &mut impl Kernel, operation: Operation) -> Result<(), What> {
        match operation {
            Operation::Create { pages, ring } => self.create(kernel, pages, ring),
            Operation::CreateAndMap { at, pages, access } => self.create_and_map(kernel, at, pages, access),
            Operation::Map { area, handle, at, offset, pages, access } => {
                self.map(kernel, (area, handle), at, (offset, pages), access)
            }
            Operation::MapElsewhere { area, handle, offset, pages } => {
                self.map_elsewhere(kernel, (area, handle), (offset, pages))
            }
            Operation::Unmap { at, pages } => {
                compare(Errors::default(), kernel.unmap(self.address(at), bytes(pages)))?;
                self.shown.iter_mut().skip(at).take(pages).for_each(|slot| *slot = None);
                Ok(())
            }
            Operation::Protect { at, pages, access } => self.protect(kernel, at, pages, access),
            Operation::Advise { at, pages, advice } => self.advise(kernel, at, pages, advice),
            Operation::Resize { area, handle, pages } => self.resize(kernel, (area, handle), pages),
            Operation::Duplicate { area, handle, rights } => self.duplicate(kernel, (area, handle), rights),
            Operation::Inspect { area, handle } => match self.handle(area, handle) {
                Some((name, rights)) => match kernel.inspect(name) {
                    Ok((HandleKind::Area, found)) if found == rights => Ok(()),
                    Ok((_, found)) => Err(What::Allows(found)),
                    Err(error) => Err(What::Refused(error)),
                },
                None => Ok(()),
            },
            Operation::Close { area, handle } => {
                let slot = self.areas.get_mut(area).and_then(Option::as_mut);
                let Some((name, _)) = slot.and_then(|area| area.handles.get_mut(handle)?.take()) else { return Ok(()) };
                compare(Errors::default(), kernel.close(name)).map(|_| ())
            }
            Operation::Read { at, pages } => (at..at + pages).try_for_each(|at| self.check_page(kernel, at)),
            Operation::Write { at, pages, value } => {
                (0..pages).for_each(|offset| self.write_page(kernel, at + offset, nth(value, offset)));
                Ok(())
            }
            Operation::CopyOut { at, pages } => self.copy_out(kernel, at, pages),
            Operation::CopyIn { at, pages, value } => self.copy_in(kernel, at, pages, value),
            Operation::Look { at } => self.look(kernel, at),
        }
    }

    fn create(&mut self, kernel: &mut impl Kernel, pages: usize, ring: bool) -> Result<(), What> {
        let (answer, kind, rights) = if ring {
            (kernel.create_ring(bytes(pages)), Kind::Ring, Rights::GIVEN_AREA)
        } else {
            (kernel.create(bytes(pages)), Kind::Open, Rights::OWN_AREA)
        };
        let name = answer.map_err(What::Refused)?;
        let mut area = Area::new(kind, if ring { 2 * pages } else { pages });
        area.handles[0] = Some((name, rights));
        self.add(area);
        Ok(())
    }

    fn create_and_map(&mut self, kernel: &mut impl Kernel, at: usize, pages: usize, access: u64) -> Result<(), What> {
        let expected = Errors::default()
            .when(self.range(at, pages).any(|shown| shown.is_some()), ErrorCode::Occupied)
            .when(access & Access::EXECUTE.bits() != 0, ErrorCode::Denied);
        let answer = compare(expected, kernel.create_and_map(bytes(pages), self.address(at), access))?;
        let Some(address) = answer else { return Ok(()) };
        if address != self.address(at) {
            return Err(What::Place(address));
        }
        if let Some(area) = self.add(Area::new(Kind::Private, pages)) {
            let rights = Rights::READ | Rights::WRITE;
            self.show(at, pages, Shown { area, page: 0, access, rights });
        }
        Ok(())
    }

    /// What is wrong with a window onto an area, by a handle.
    fn refusals(&self, (area, handle): (usize, usize), (offset, pages): (usize, usize), access: u64) -> Errors {
        let Some((_, rights)) = self.handle(area, handle) else { return Errors::default() };
        let size = self.areas.get(area).and_then(Option::as_ref).map_or(0, |area| area.pages);
        Errors::default()
            .when(offset + pages > size, ErrorCode::OutOfBounds)
            .when(!rights.contains(Rights::MAP | needed(access)), ErrorCode::Denied)
    }

    fn map(
        &mut self,
        kernel: &mut impl Kernel,
        by: (usize, usize),
        at: usize,
        (offset, pages): (usize, usize),
        access: u64,
    ) -> Result<(), What> {
        let Some((name, rights)) = self.handle(by.0, by.1) else { return Ok(()) };
        let occupied = self.range(at, pages).any(|shown| shown.is_some());
        let expected = self.refusals(by, (offset, pages), access).when(occupied, ErrorCode::Occupied);
        let answer = compare(expected, kernel.map(name, self.address(at), bytes(offset), bytes(pages), access))?;
        let Some(address) = answer else { return Ok(()) };
        if address != self.address(at) {
            return Err(What::Place(address));
        }
        self.show(at, pages, Shown { area: by.0, page: offset, access, rights });
        Ok(())
    }

    fn map_elsewhere(
        &mut self,
        kernel: &mut impl Kernel,
        by: (usize, usize),
        (offset, pages): (usize, usize),
    ) -> Result<(), What> {
        let Some((name, _)) = self.handle(by.0, by.1) else { return Ok(()) };
        let access = Access::READ.bits();
        let expected = self.refusals(by, (offset, pages), access);
        let answer = compare(expected, kernel.map(name, 0, bytes(offset), bytes(pages), access))?;
        let Some(address) = answer else { return Ok(()) };
        if self.has(address) || self.has(address + bytes(pages) - 1) {
            // It could be there. No window is ever placed so close to those that were given their addresses.
            return Err(What::Place(address));
        }
        for page in 0..pages {
            let Some(area) = self.areas.get(by.0).and_then(Option::as_ref) else { break };
            let Some(content) = area.contents.get(area.key(offset + page)) else { break };
            compare_page(kernel, address + bytes(page), *content)?;
        }
        compare(Errors::default(), kernel.unmap(address, bytes(pages))).map(|_| ())
    }

    fn protect(&mut self, kernel: &mut impl Kernel, at: usize, pages: usize, access: u64) -> Result<(), What> {
        let lacks = |shown: Shown| access != 0 && !shown.rights.contains(needed(access));
        let expected = Errors::default()
            .when(self.range(at, pages).any(|shown| shown.is_none()), ErrorCode::NotMapped)
            .when(self.range(at, pages).flatten().any(lacks), ErrorCode::Denied);
        if compare(expected, kernel.protect(self.address(at), bytes(pages), access))?.is_some() {
            self.shown.iter_mut().skip(at).take(pages).flatten().for_each(|shown| shown.access = access);
        }
        Ok(())
    }

    fn advise(&mut self, kernel: &mut impl Kernel, at: usize, pages: usize, advice: Advice) -> Result<(), What> {
        let expected = Errors::default().when(self.range(at, pages).any(|shown| shown.is_none()), ErrorCode::NotMapped);
        if compare(expected, kernel.advise(self.address(at), bytes(pages), advice))?.is_none() {
            return Ok(());
        }
        for page in at..at + pages {
            let Some(shown) = self.shown.get(page).copied().flatten() else { continue };
            let Some(area) = self.areas.get(shown.area).and_then(Option::as_ref) else { continue };
            let (kind, named) = (area.kind, area.is_named());
            let Some(content) = self.content_mut(page) else { continue };
            match (advice, kind) {
                (Advice::NotNeeded, Kind::Private) => *content = Content::certain(0),
                (Advice::FreeLazily, Kind::Private) => content.may_be_zero(),
                // Nobody has a handle any more: it depends on whether other windows show it, a clone's among them.
                (Advice::NotNeeded | Advice::FreeLazily, _) if !named => content.may_be_zero(),
                _ => {}
            }
        }
        Ok(())
    }

    fn resize(&mut self, kernel: &mut impl Kernel, (area, handle): (usize, usize), pages: usize) -> Result<(), What> {
        let Some((name, rights)) = self.handle(area, handle) else { return Ok(()) };
        let expected = Errors::default().when(!rights.contains(Rights::RESIZE), ErrorCode::Denied);
        if compare(expected, kernel.resize(name, bytes(pages)))?.is_some()
            && let Some(area) = self.areas.get_mut(area).and_then(Option::as_mut)
        {
            // What is cut off is gone, and comes back as zero.
            area.contents.iter_mut().skip(pages.min(area.pages)).for_each(|content| *content = Content::certain(0));
            area.pages = pages;
        }
        Ok(())
    }

    fn duplicate(&mut self, kernel: &mut impl Kernel, by: (usize, usize), wanted: Rights) -> Result<(), What> {
        let Some((name, rights)) = self.handle(by.0, by.1) else { return Ok(()) };
        let expected = Errors::default().when(!rights.contains(wanted | Rights::SHARE), ErrorCode::Denied);
        let Some(name) = compare(expected, kernel.duplicate(name, wanted))? else { return Ok(()) };
        let slots = self.areas.get_mut(by.0).and_then(Option::as_mut).map(|area| &mut area.handles);
        match slots.and_then(|slots: &mut [Option<_>; HANDLES]| slots.iter_mut().find(|slot| slot.is_none())) {
            Some(slot) => *slot = Some((name, wanted)),
            None => {
                compare(Errors::default(), kernel.close(name))?;
            }
        }
        Ok(())
    }

    /// Compares a page with the model: what it holds, or that it cannot be read.
    ///
    /// # Errors
    ///
    /// What is not as it must be.
    pub fn check_page(&mut self, kernel: &mut impl Kernel, at: usize) -> Result<(), What> {
        let Some(content) = self.accessible(at, Access::READ).copied() else {
            return match kernel.look(self.address(at), 0) {
                ErrorCode::BadPointer => Ok(()),
                ErrorCode::TimedOut | ErrorCode::Changed => Err(What::NotRefused),
                other => Err(What::Refused(other)),
            };
        };
        let found = compare_page(kernel, self.address(at), content)?;
        if let Some(content) = self.content_mut(at) {
            content.found(found);
        }
        Ok(())
    }

    /// Compares all of memory with the model.
    ///
    /// # Errors
    ///
    /// What is not as it must be.
    pub fn check_all(&mut self, kernel: &mut impl Kernel) -> Result<(), Failure> {
        (0..self.shown.len()).try_for_each(|at| {
            let operation = Operation::Read { at, pages: 1 };
            self.check_page(kernel, at).map_err(|what| Failure { operation, what })
        })
    }

    /// Writes a page, if that is allowed.
    fn write_page(&mut self, kernel: &mut impl Kernel, at: usize, value: u64) {
        if self.accessible(at, Access::WRITE).is_none() {
            return;
        }
        for index in MARKED {
            kernel.write(self.address(at) + 8 * index as u64, content::word(value, index));
        }
        if let Some(content) = self.content_mut(at) {
            *content = Content::certain(value);
        }
    }

    fn copy_out(&mut self, kernel: &mut impl Kernel, at: usize, count: usize) -> Result<(), What> {
        let mut pages = [[u64::MAX; WORDS]; COPY_PAGES];
        let Some(part) = pages.get_mut(..count) else { return Ok(()) };
        let expected = Errors::default()
            .when((at..at + count).any(|at| self.accessible(at, Access::READ).is_none()), ErrorCode::BadPointer);
        if compare(expected, kernel.copy_out(self.address(at), part))?.is_none() {
            return Ok(());
        }
        for (offset, page) in part.iter().enumerate() {
            let address = self.address(at + offset);
            let Some(content) = self.accessible(at + offset, Access::READ).copied() else { continue };
            let found = compare_words(address, content, |index| page.get(index).copied().unwrap_or_default())?;
            for (index, word) in page.iter().enumerate() {
                if *word != content::word(found, index) {
                    let expected = content::word(found, index);
                    return Err(What::Contents { address: address + 8 * index as u64, expected, found: *word });
                }
            }
        }
        Ok(())
    }

    fn copy_in(&mut self, kernel: &mut impl Kernel, at: usize, count: usize, value: u64) -> Result<(), What> {
        let values: [u64; COPY_PAGES] = core::array::from_fn(|offset| nth(value, offset));
        let pages = filled(&values);
        let part = pages.get(..count).unwrap_or_default();
        let writable = |world: &Self, at| world.accessible(at, Access::WRITE).is_some();
        let expected = Errors::default().when((at..at + count).any(|at| !writable(self, at)), ErrorCode::BadPointer);
        let done = compare(expected, kernel.copy_in(self.address(at), part))?.is_some();
        for (offset, value) in values.iter().enumerate().take(count) {
            let at = at + offset;
            if !done {
                self.found_in_part(kernel, at, &values)?;
            } else if let Some(content) = self.content_mut(at) {
                *content = Content::certain(*value);
            }
        }
        Ok(())
    }

    /// A page that a copy may have come to before it stopped: it is as it was, or as it was to be.
    fn found_in_part(&mut self, kernel: &mut impl Kernel, at: usize, values: &[u64]) -> Result<(), What> {
        let Some(before) = self.accessible(at, Access::READ).copied() else { return Ok(()) };
        let address = self.address(at);
        let first = kernel.read(address);
        let new = values.iter().find(|value| content::word(**value, 0) == first && !before.allows(**value));
        let Some(new) = new.filter(|_| self.accessible(at, Access::WRITE).is_some()) else {
            return self.check_page(kernel, at);
        };
        compare_page(kernel, address, Content::certain(*new))?;
        if let Some(content) = self.content_mut(at) {
            *content = Content::certain(*new);
        }
        Ok(())
    }

    fn look(&mut self, kernel: &mut impl Kernel, at: usize) -> Result<(), What> {
        let address = self.address(at);
        let Some(content) = self.accessible(at, Access::READ).copied() else {
            return self.check_page(kernel, at);
        };
        let low = |value| content::word(value, 0) as u32;
        let answers = |kernel: &mut _, value| match Kernel::look(kernel, address, low(value)) {
            ErrorCode::TimedOut => Ok(true),
            ErrorCode::Changed => Ok(false),
            other => Err(What::Refused(other)),
        };
        for value in [Some(content.value), content.or].into_iter().flatten() {
            if answers(kernel, value)? {
                return Ok(());
            }
        }
        Err(What::Contents { address, expected: low(content.value).into(), found: kernel.read(address) })
    }
}

/// Compares a page that may be read with what it must hold, and gives what that is.
fn compare_page(kernel: &mut impl Kernel, address: u64, content: Content) -> Result<u64, What> {
    compare_words(address, content, |index| kernel.read(address + 8 * index as u64))
}

/// A word that holds nothing.
const UNMARKED: usize = 200;

fn compare_words(address: u64, content: Content, mut read: impl FnMut(usize) -> u64) -> Result<u64, What> {
    let first = read(0);
    let holds = |value: u64| content::word(value, 0) == first;
    let value = content.or.filter(|or| holds(*or) && !holds(content.value)).unwrap_or(content.value);
    for index in MARKED.into_iter().chain([UNMARKED]) {
        let (found, expected) = (if index == 0 { first } else { read(index) }, content::word(value, index));
        if found != expected {
            return Err(What::Contents { address: address + 8 * index as u64, expected, found });
        }
    }
    Ok(value)
}

const _: () = assert!(COPY_PAGES as u64 * PAGE_SIZE <= refkernel_abi::MESSAGE_LENGTH_MAX);
const _: () = assert!(AREA_PAGES >= 12 && SystemCall::AreaAdvise.number() != 0);
