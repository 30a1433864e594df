//! What the comparison knows of pages: which were written, which were touched, and which a child does not get. From the calls alone, as Linux has it; and what Linux maps
//! around a page that is read.

use vmcore::posix::{Advice, MapFlags, Protection, RemapFlags};
use vmcore::vm_space::PageSets;

use super::actor::Actor;
use super::recording::Expected;
use super::shape::{bits, bits_of, each, pages, shift};
use super::{BASE, PAGES};
use crate::call::Call;
use crate::world::PAGE;

impl Actor {
    pub(super) fn note_access(&mut self, address: u64, write: bool) {
        let page = bits_of(address, 1);
        if self.shared() & page == 0 {
            self.written |= if write { page } else { 0 };
        } else if write {
            self.touched |= page;
        } else {
            self.note_shared_reads(page);
        }
    }

    /// Notes shared pages that were read, one after another. Linux maps those around a page that faults, too: those of the 16 from its block's first or its region's
    /// first, whichever comes later, that the object has.
    fn note_shared_reads(&mut self, pages: u64) {
        self.note_reads(pages, true);
    }

    /// Notes shared pages that were populated: up to the first that the object does not have.
    fn note_populated(&mut self, pages: u64) {
        let missing = pages & !self.seen.pages.resident;
        let first = bits(0, u64::from(missing.trailing_zeros()));
        self.note_shared_reads(pages & first);
        self.note_around(pages & missing & missing.wrapping_neg());
    }

    /// Notes what Linux has mapped around pages that it could not read, since there is nothing behind the object's end.
    pub(super) fn note_around(&mut self, pages: u64) {
        self.note_reads(pages & self.shared() & !self.seen.pages.guarded, false);
    }

    fn note_reads(&mut self, wanted: u64, done: bool) {
        // Those that were touched before make no fault.
        if wanted & !self.touched == 0 {
            return;
        }
        self.look_at_pages();
        let PageSets { resident, guarded, .. } = self.seen.pages;
        // What came into being during the call may have been there too late to be mapped around another page: as Linux has it.
        let (mut sure, mut maybe) = (self.touched, 0);
        for page in each(wanted) {
            let bit = 1 << page;
            if sure & bit != 0 {
                continue;
            }
            let address = BASE + page * PAGE;
            let mut regions = self.process.memory.regions();
            let Some(region) = regions.find(|region| (region.start..region.start + region.size).contains(&address))
            else {
                continue;
            };
            let (first, end) = pages(region.start - BASE, region.size);
            let low = first.max(page & !15);
            let around = bits(low, end.min(low + 16)) & resident & !guarded;
            // One that may have been mapped around another made no fault then.
            if maybe & bit == 0 {
                sure |= around & self.resident_before;
            }
            maybe |= around;
            sure |= if done { bit } else { 0 };
        }
        self.touched = sure | (maybe & self.recorded);
    }

    /// A file became smaller: what lay behind its end is gone, also what was written in its place.
    pub(super) fn forget_truncated(&mut self) {
        self.look();
        let files = self.seen.regions.files;
        self.touched &= !files | self.seen.pages.resident;
        self.written &= !files | self.seen.pages.dirty;
    }

    pub(super) fn clear(&mut self, pages: u64) {
        for set in [&mut self.written, &mut self.touched, &mut self.wiped, &mut self.kept] {
            *set &= !pages;
        }
    }

    /// Notes what a call did that succeeded, after which everything was seen anew. `mapped` is what was mapped before.
    pub(super) fn note(&mut self, call: Call, found: Expected, mapped: u64) {
        match call {
            Call::Map { length, flags, file, .. } => {
                let Expected::Value(address, _) = found else { return };
                let pages = bits_of(address, length);
                self.clear(pages);
                self.stacks |= flags & MapFlags::GROWS_DOWN.bits() != 0;
                if self.seen.pages.locked & pages != 0 {
                    self.note_locked(pages);
                } else if flags & MapFlags::POPULATE.bits() != 0 {
                    let shared = self.shared();
                    self.note_populated(pages & shared & self.allowed(Protection::all()));
                    let written = pages & !shared & self.allowed(Protection::WRITE);
                    // Of a file that ends before, Linux populates what there is, and nothing is populated here.
                    self.written |= if file.is_some() { written & self.seen.pages.dirty } else { written };
                }
            }
            Call::Unmap { address, length } => self.clear(bits_of(address, length)),
            Call::Advise { address, length, advice } => {
                let pages = bits_of(address, length);
                let shared = self.shared();
                match Advice::from_number(advice) {
                    Some(Advice::DontNeed | Advice::GuardInstall) => {
                        self.written &= !pages;
                        self.touched &= !pages;
                    }
                    Some(Advice::PopulateRead) => self.note_shared_reads(pages & shared),
                    Some(Advice::PopulateWrite) => {
                        self.touched |= pages & shared;
                        self.written |= pages & !shared;
                    }
                    Some(Advice::WipeOnFork) => self.wiped |= pages,
                    Some(Advice::KeepOnFork) => self.wiped &= !pages,
                    Some(Advice::DontFork) => self.kept |= pages,
                    Some(Advice::DoFork) => self.kept &= !pages,
                    _ => {}
                }
            }
            Call::Remap { old, old_length, new_length, flags, .. } => {
                let Expected::Value(new, _) = found else { return };
                self.note_move((old, old_length), (new, new_length), flags, mapped);
                // What is added to locked memory is there.
                let old_length = old_length.next_multiple_of(PAGE);
                self.note_locked(bits_of(new.saturating_add(old_length), new_length.saturating_sub(old_length)));
            }
            Call::CopyIn { address, length } | Call::CopyOut { address, length, .. } => {
                let Expected::Value(done, _) = found else { return };
                let (pages, shared) = (bits_of(address, done), self.shared());
                if matches!(call, Call::CopyOut { .. }) {
                    self.touched |= pages & shared;
                    self.written |= pages & !shared;
                    return;
                }
                for page in each(pages & shared) {
                    // Where Linux reads shared memory, the object gets its page; here a copy makes none.
                    self.process.touch(BASE + page * PAGE);
                }
                if pages & shared != 0 {
                    self.look();
                }
                self.note_shared_reads(pages & shared);
                if done < length {
                    self.note_around(bits_of(address + done, 1) & self.allowed(Protection::READ));
                }
            }
            // Locked memory that may be written to from now on is.
            Call::Protect { address, length, .. } => self.note_locked_private(bits_of(address, length)),
            Call::Lock { address, length } => self.note_locked(bits_of(address, length)),
            Call::LockAll { flags } if flags & 1 != 0 => self.note_locked(u64::MAX),
            Call::Sync { .. }
            | Call::Core { .. }
            | Call::Unlock { .. }
            | Call::LockAll { .. }
            | Call::UnlockAll
            | Call::Seal { .. }
            | Call::Truncate { .. }
            | Call::Write { .. }
            | Call::Read { .. }
            | Call::Fork { .. }
            | Call::Exit => {}
        }
    }

    /// Notes the private pages of locked memory that were brought: those that may be written to are copies of their own.
    pub(super) fn note_locked_private(&mut self, pages: u64) {
        let own = pages & self.seen.pages.locked & !self.shared() & self.allowed(Protection::WRITE);
        self.written |= own & self.seen.pages.dirty;
    }

    /// Notes what of locked memory was brought: of each region what comes before the first page that is refused.
    pub(super) fn note_locked(&mut self, wanted: u64) {
        let wanted = wanted & self.seen.pages.locked;
        if wanted == 0 {
            return;
        }
        self.note_locked_private(wanted);
        let regions: Vec<u64> = self
            .process
            .memory
            .regions()
            .filter(|region| region.shared && !region.protection.is_empty())
            .map(|region| bits_of(region.start.wrapping_sub(BASE), region.size))
            .collect();
        for region in regions {
            let wanted = wanted & region;
            let guarded = wanted & self.seen.pages.guarded;
            self.note_populated(wanted & bits(0, u64::from(guarded.trailing_zeros())));
        }
    }

    fn note_move(&mut self, (old, old_length): (u64, u64), (new, new_length): (u64, u64), flags: u32, sources: u64) {
        let (from, from_end) = pages(old, old_length);
        let (to, to_end) = pages(new, new_length);
        let (old_pages, new_pages) = (bits(from, from_end), to_end - to);
        if new == old {
            let end = from + new_pages;
            self.clear(bits(end, from_end));
            // What grows is what it was.
            if let Some(last) = from_end.checked_sub(1).filter(|_| end > from_end) {
                let spread = |set: &mut u64| {
                    if *set & bits(last, last + 1) != 0 {
                        *set |= bits(from_end, end)
                    }
                };
                spread(&mut self.wiped);
                spread(&mut self.kept);
            }
            return;
        }
        let shown = old_pages & bits(from, from + new_pages);
        let keeps = flags & RemapFlags::DONT_UNMAP.bits() != 0;
        for set in [&mut self.written, &mut self.touched] {
            let moved = shift(*set & shown, from, to);
            let replaced = shift(sources & shown, from, to) | bits(to + (from_end - from).min(new_pages), to_end);
            *set = (*set & !replaced & !old_pages) | moved;
        }
        for set in [&mut self.wiped, &mut self.kept] {
            let mut moved = shift(*set & shown, from, to);
            if new_pages > from_end - from && *set & bits(from, from + 1) != 0 {
                moved |= bits(to, to_end);
            }
            let replaced = shift(sources & shown, from, to) | bits(to + (from_end - from).min(new_pages), to_end);
            let left = if keeps { *set } else { *set & !old_pages };
            *set = (left & !replaced) | moved;
        }
    }
}

const _: () = assert!(PAGES == u64::BITS as u64, "sets of pages");
