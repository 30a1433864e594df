//! The model: a program is a map from page to what it shows. It keeps nothing twice and knows no windows, areas or regions.

use std::collections::BTreeMap;
use std::ops::Range;

use vmcore::posix::{Advice, Errno, Protection};

/// Where in a page words are looked at: its first and its last.
pub(crate) const WORD_AT: [u64; 2] = [0, 0xff8];
pub(crate) type Words = [u64; WORD_AT.len()];

/// Shared anonymous memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object {
    pub(crate) pages: u64,
    words: BTreeMap<u64, Words>,
}

/// What a page is.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) protection: Protection,
    /// Of shared memory: which, and the page of it.
    pub(crate) shared: Option<(usize, u64)>,
    /// Of private memory: what it may hold. More than one where it was left open when it is released.
    may_hold: Vec<Words>,
    pub(crate) guard: bool,
    pub(crate) locked: bool,
    pub(crate) sealed: bool,
    pub(crate) wiped: bool,
    pub(crate) kept: bool,
}

impl Page {
    pub(crate) fn new(protection: Protection, shared: Option<(usize, u64)>) -> Self {
        let may_hold = vec![Words::default()];
        Self { protection, shared, may_hold, guard: false, locked: false, sealed: false, wiped: false, kept: false }
    }

    fn discard(&mut self) {
        self.may_hold = vec![Words::default()];
    }
}

pub(crate) type Program = BTreeMap<u64, Page>;

/// How an access ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Done,
    NotMapped,
    Denied,
    NothingBehind,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) objects: Vec<Object>,
}

/// Whether some page of the range satisfies it.
pub(crate) fn any(program: &Program, pages: Range<u64>, is: impl Fn(&Page) -> bool) -> bool {
    pages.start < pages.end && program.range(pages).any(|(_, page)| is(page))
}

/// Whether some page of the range is not mapped.
pub(crate) fn has_hole(program: &Program, pages: Range<u64>) -> bool {
    pages.into_iter().any(|page| !program.contains_key(&page))
}

impl Model {
    pub(crate) fn object(&mut self, pages: u64) -> usize {
        self.objects.push(Object { pages, words: BTreeMap::new() });
        self.objects.len() - 1
    }

    /// Whether there is nothing behind a page.
    fn is_beyond(&self, page: &Page) -> bool {
        page.shared.is_some_and(|(object, index)| index >= self.objects[object].pages)
    }

    pub(crate) fn outcome(&self, program: &Program, page: u64, write: bool) -> Outcome {
        match program.get(&page) {
            None => Outcome::NotMapped,
            Some(page) if write && !page.protection.contains(Protection::WRITE) => Outcome::Denied,
            // On this processor whatever is allowed can be read.
            Some(page) if page.protection.is_empty() => Outcome::Denied,
            Some(page) if page.guard => Outcome::NotMapped,
            Some(page) if self.is_beyond(page) => Outcome::NothingBehind,
            Some(_) => Outcome::Done,
        }
    }

    /// How many words can be copied from outside: the first is a page's last, the second the next one's first.
    pub(crate) fn copied(&self, program: &Program, page: u64, words: usize, write: bool) -> usize {
        let wanted = if write { Protection::WRITE } else { Protection::READ };
        let allowed = |page: &u64| {
            program
                .get(page)
                .is_some_and(|page| page.protection.contains(wanted) && !page.guard && !self.is_beyond(page))
        };
        (page..page + words as u64).take_while(allowed).count()
    }

    pub(crate) fn write(&mut self, program: &mut Program, page: u64, word: usize, value: u64) {
        let Some(page) = program.get_mut(&page) else { return };
        match page.shared {
            Some((object, index)) => self.objects[object].words.entry(index).or_default()[word] = value,
            None => page.may_hold.iter_mut().for_each(|words| words[word] = value),
        }
    }

    /// Takes what was read for what is there. Whether it can be.
    pub(crate) fn read(&self, program: &mut Program, page: u64, word: usize, value: u64) -> bool {
        let Some(page) = program.get_mut(&page) else { return false };
        if let Some((object, index)) = page.shared {
            return self.objects[object].words.get(&index).copied().unwrap_or_default()[word] == value;
        }
        page.may_hold.retain(|words| words[word] == value);
        !page.may_hold.is_empty()
    }

    /// Why advice is refused, if it is.
    pub(crate) fn refusals(&self, program: &Program, pages: Range<u64>, advice: Advice) -> Vec<Errno> {
        let mut reasons = Vec::new();
        let has = |is: &dyn Fn(&Page) -> bool| any(program, pages.clone(), is);
        let mut refuse = |is: bool, errno| reasons.extend(is.then_some(errno));
        refuse(has_hole(program, pages.clone()), Errno::NoMemory);
        let discards = matches!(advice, Advice::DontNeed | Advice::Free | Advice::GuardInstall);
        refuse((discards || advice == Advice::GuardRemove) && has(&|page| page.sealed), Errno::Permission);
        refuse((discards || advice == Advice::Cold) && has(&|page| page.locked), Errno::Invalid);
        let private_only = matches!(advice, Advice::Free | Advice::WipeOnFork);
        refuse(private_only && has(&|page| page.shared.is_some()), Errno::Invalid);
        let wanted = match advice {
            Advice::PopulateRead => Protection::READ,
            Advice::PopulateWrite => Protection::WRITE,
            _ => return reasons,
        };
        refuse(has(&|page| !page.protection.contains(wanted)), Errno::Invalid);
        refuse(has(&|page| page.guard || self.is_beyond(page)), Errno::Fault);
        reasons
    }

    /// What advice makes of the pages.
    pub(crate) fn advise(&self, program: &mut Program, pages: Range<u64>, advice: Advice) {
        for (_, page) in program.range_mut(pages) {
            match advice {
                Advice::DontNeed => page.discard(),
                // It may be released at once, later, or never.
                Advice::Free if !page.may_hold.contains(&Words::default()) => page.may_hold.push(Words::default()),
                Advice::DontFork => page.kept = true,
                Advice::DoFork => page.kept = false,
                Advice::WipeOnFork => page.wiped = true,
                Advice::KeepOnFork => page.wiped = false,
                Advice::GuardInstall => {
                    page.discard();
                    page.guard = true;
                }
                Advice::GuardRemove => page.guard = false,
                _ => {}
            }
        }
    }

    /// Whether locking is refused.
    pub(crate) fn refuses_lock(&self, program: &Program, pages: Range<u64>) -> bool {
        has_hole(program, pages.clone())
            || any(program, pages, |page| page.protection.is_empty() || page.guard || self.is_beyond(page))
    }

    pub(crate) fn fork(&self, parent: &Program) -> Program {
        let inherited = parent.iter().filter(|(_, page)| !page.kept);
        inherited
            .map(|(number, page)| {
                let mut page = Page { locked: false, ..page.clone() };
                if page.wiped {
                    page.discard();
                    page.guard = false;
                }
                (*number, page)
            })
            .collect()
    }

    /// Shows shared memory a second time, from what `page` shows on.
    pub(crate) fn duplicate(&self, program: &mut Program, page: u64, new: Range<u64>) {
        let first = program.get(&page).cloned().expect("it is there");
        let (object, index) = first.shared.expect("only shared memory is shown twice");
        for (step, page) in new.enumerate() {
            program.insert(page, Page { shared: Some((object, index + step as u64)), guard: false, ..first.clone() });
        }
    }

    /// Moves pages, or copies what they are and leaves them empty; what is at the new place goes, but where nothing comes.
    pub(crate) fn remap(&self, program: &mut Program, old: Range<u64>, new: Range<u64>, keeps_old: bool) {
        let (old_pages, new_pages) = (old.end - old.start, new.end - new.start);
        if old.start == new.start {
            // Where it is: it loses its end, or gets another.
            program.retain(|page, _| *page < new.end || !old.contains(page));
        } else {
            program.retain(|page, _| *page < old.start + new_pages || !old.contains(page));
            for step in 0..old_pages.min(new_pages) {
                let Some(page) = program.get(&(old.start + step)).cloned() else { continue };
                if keeps_old {
                    let left = program.get_mut(&(old.start + step)).expect("it is there");
                    left.discard();
                    (left.guard, left.locked) = (false, false);
                } else {
                    program.remove(&(old.start + step));
                }
                program.insert(new.start + step, page);
            }
        }
        if let (true, Some(last)) = (new_pages > old_pages, program.get(&(new.start + old_pages - 1)).cloned()) {
            for step in old_pages..new_pages {
                let shared = last.shared.map(|(object, index)| (object, index + step + 1 - old_pages));
                let mut page = Page { shared, guard: false, ..last.clone() };
                page.discard();
                program.insert(new.start + step, page);
            }
        }
    }
}
