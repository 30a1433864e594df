//! What of a CPU's memory is out of date: looked for without any access, over everything that it remembers.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::cpu::{Cpu, Surroundings, gone, is_root, walker};
use super::judge::ViolationKind;
use super::regime::Step;
use super::tlb::{Cached, Owner};
use super::walker::{Found, Stop};

impl Cpu {
    /// What is remembered under a tag that is about to be loaded, if it is about an earlier life of a frame.
    pub(super) fn gone_under(&self, around: Surroundings<'_>, tag: u16) -> Option<String> {
        let page_shift = self.hardware.regime().page_shift();
        for (owner, first, cached) in self.tlb.entries().filter(|(owner, ..)| *owner == Owner::Tagged(tag)) {
            let page_of = |page: u64| Some((page, gone(around.memory, cached.frame + page, cached.filled_at)?));
            if let Some((page, reason)) = (0..cached.pages).find_map(page_of) {
                let address = (first + page) << page_shift;
                if !(around.is_lasting)(address) {
                    let frame = cached.frame + page;
                    return Some(format!("leads {address:#x} ({owner:?}) to frame {frame:#x}, which {reason}"));
                }
            }
            if let Some(reason) = gone(around.memory, cached.root, cached.filled_at) {
                return Some(format!("holds translations of the root in frame {:#x}, which {reason}", cached.root));
            }
        }
        self.structures.pointers().filter(|pointer| pointer.0 == tag).find_map(|(_, _, address, pointer)| {
            [pointer.table, pointer.root].into_iter().find_map(|table| {
                let reason = gone(around.memory, table, pointer.filled_at)?;
                Some(format!(
                    "has a cached pointer for {address:#x} to or below the table in frame {table:#x}, which {reason}"
                ))
            })
        })
    }

    /// Sentences about whatever still refers to one of the frames, which are being freed, and can be used.
    pub(super) fn references_to(&self, around: Surroundings<'_>, first: u64, count: u64, into: &mut Vec<String>) {
        let freed = |frame: u64| frame >= first && frame - first < count;
        let cpu = self.number;
        if let Some((root, tag)) = self.root {
            if freed(root) {
                into.push(format!("frame {root:#x} is freed while CPU {cpu} has it loaded as its root (tag {tag})"));
            }
        }
        for (index, word) in self.top_registers.into_iter().flatten().enumerate() {
            let regime = self.hardware.regime();
            if let Step::Table { address, .. } = regime.step(regime.top(), word, super::regime::Rights::ALL) {
                if freed(address >> regime.page_shift()) {
                    into.push(format!(
                        "the table at {address:#x} is freed while register {index} of CPU {cpu} still leads to it: the root was \
                         not loaded again after its entry changed"
                    ));
                }
            }
        }
        for (owner, page, cached) in self.tlb.entries() {
            let overlaps = cached.frame < first.saturating_add(count) && first < cached.frame + cached.pages;
            if overlaps && !self.is_dormant_owner(owner) {
                let frame = cached.frame.max(first);
                let address = (page + (frame - cached.frame)) << self.hardware.regime().page_shift();
                if !(around.is_lasting)(address) {
                    into.push(format!(
                        "frame {frame:#x} is freed while the TLB of CPU {cpu} still leads {address:#x} ({owner:?}) to \
                         it: the flush before it was missing or too small"
                    ));
                }
            }
        }
        for (tag, shift, address, pointer) in self.structures.pointers() {
            if freed(pointer.table) && !self.is_dormant(tag) {
                into.push(format!(
                    "the table in frame {:#x} is freed while CPU {cpu} still has a cached pointer to it for \
                     {address:#x} and the {} KiB from there (tag {tag}): the flush did not note tables, was missing \
                     or too small",
                    pointer.table,
                    1_u64 << (shift - 10)
                ));
            }
        }
    }

    fn is_dormant_owner(&self, owner: Owner) -> bool {
        matches!(owner, Owner::Tagged(tag) if self.is_dormant(tag))
    }

    /// Sentences about whatever the tables, walked now, no longer hold, and the CPU could use.
    pub(super) fn stale(&self, around: Surroundings<'_>, into: &mut Vec<String>) {
        let cpu = self.number;
        let walker = walker(&self.hardware, around, cpu);
        let page_shift = self.hardware.regime().page_shift();
        for (owner, first, cached) in self.tlb.entries() {
            if self.is_dormant_owner(owner) {
                continue;
            }
            let mut root = cached.root;
            if !is_root(around.memory, root, cached.filled_at) {
                match (owner, self.root) {
                    // What is global holds in every space: the one that is loaded now must have it too.
                    (Owner::Global, Some((loaded, _))) => root = loaded,
                    (Owner::Global, None) => continue,
                    (Owner::Tagged(_), _) => {
                        into.push(format!(
                            "the TLB of CPU {cpu} holds {:#x} ({owner:?}) of the space with root frame {root:#x}, \
                             which is gone",
                            first << page_shift
                        ));
                        continue;
                    }
                }
            }
            let mut page = first;
            while page < first + cached.pages {
                let address = page << page_shift;
                let frame = cached.frame + (page - first);
                let found = walker.walk(walker.start_at(root), address, None, |_, _, _| {});
                let difference = match found {
                    Err(_) => Some(String::from("no longer map it")),
                    Ok(found) if found.frame + (page - found.page) != frame => {
                        Some(format!("lead it to frame {:#x}", found.frame + (page - found.page)))
                    }
                    Ok(found) if !cached.rights.within(found.rights) => {
                        Some(format!("permit only {}", found.rights.access()))
                    }
                    Ok(found) if found.memory != cached.memory => Some(format!("give it the type {}", found.memory)),
                    Ok(found) if owner == Owner::Global && !found.global => Some(String::from("no longer say global")),
                    Ok(_) => None,
                };
                if let Some(difference) = difference {
                    into.push(format!(
                        "the TLB of CPU {cpu} leads {address:#x} ({owner:?}) to frame {frame:#x} with {} {}, but the \
                         tables {difference}: a flush was missing or too small",
                        cached.rights.access(),
                        cached.memory,
                    ));
                    break;
                }
                page = found.map_or(page + 1, |found| found.next_entry(page));
            }
        }
        for (tag, shift, address, pointer) in self.structures.pointers() {
            if self.is_dormant(tag) {
                continue;
            }
            let mut now = None;
            if is_root(around.memory, pointer.root, pointer.filled_at) {
                let _ = walker.walk(walker.start_at(pointer.root), address, None, |at, table, rights| {
                    if at == shift {
                        now = Some((table, rights));
                    }
                });
            }
            if now.is_none_or(|(table, rights)| table != pointer.table || !pointer.rights.within(rights)) {
                into.push(format!(
                    "CPU {cpu} has a cached pointer to the table in frame {:#x} for {address:#x} (tag {tag}), but the \
                     tables no longer lead there with {}: the flush did not note tables, was missing or too small",
                    pointer.table,
                    pointer.rights.access()
                ));
            }
        }
    }

    /// Sentences about remembered absences where something is mapped by now.
    pub(super) fn stale_absences(&self, around: Surroundings<'_>, into: &mut Vec<String>) {
        let walker = walker(&self.hardware, around, self.number);
        for absence in &self.absences {
            if self.is_dormant(absence.tag) || !is_root(around.memory, absence.root, around.memory.now()) {
                continue;
            }
            let found = walker.walk(walker.start_at(absence.root), absence.address, None, |_, _, _| {});
            if !matches!(found, Err(Stop::NotPresent(shift)) if shift >= absence.shift) {
                into.push(format!(
                    "CPU {} remembers that nothing is mapped at {:#x} and the {} KiB from there (tag {}), but the tables hold \
                     something there by now: the flush after it was missing, or did not note a new table",
                    self.number,
                    absence.address,
                    1_u64 << (absence.shift - 10),
                    absence.tag
                ));
            }
        }
    }

    /// Called where a flush begins: whatever is remembered and about to change must be absent from the tables by now, not
    /// replaced already.
    pub(super) fn check_break_before_make(&self, around: Surroundings<'_>) {
        if !self.hardware.regime().tlb().break_before_make {
            return;
        }
        let walker = walker(&self.hardware, around, self.number);
        let page_shift = self.hardware.regime().page_shift();
        for (owner, first, cached) in self.tlb.entries() {
            let root = match (owner, self.root) {
                _ if self.is_dormant_owner(owner) => continue,
                _ if is_root(around.memory, cached.root, cached.filled_at) => cached.root,
                (Owner::Global, Some((loaded, _))) => loaded,
                _ => continue,
            };
            let mut page = first;
            while page < first + cached.pages {
                let found = walker.walk(walker.start_at(root), page << page_shift, None, |_, _, _| {});
                if let Ok(found) = found {
                    if self.report_replaced(around, owner, page, first, &cached, &found) {
                        break;
                    }
                }
                page = found.map_or(page + 1, |found| found.next_entry(page));
            }
        }
        for (tag, shift, address, pointer) in self.structures.pointers() {
            if self.is_dormant(tag) || !is_root(around.memory, pointer.root, pointer.filled_at) {
                continue;
            }
            let mut now = None;
            let _ = walker.walk(walker.start_at(pointer.root), address, None, |at, table, _| {
                if at == shift {
                    now = Some(table);
                }
            });
            if let Some(table) = now.filter(|table| *table != pointer.table) {
                around.judge.report(
                    ViolationKind::BreakBeforeMake,
                    format!(
                        "CPU {} remembers the table in frame {:#x} for {address:#x} (tag {tag}), and the live entry leads to the \
                         table in frame {table:#x} by now: it had to be absent and flushed in between",
                        self.number, pointer.table
                    ),
                );
            }
        }
    }

    /// Judges one entry of the TLB against what the tables hold for `page`. True if it was replaced.
    pub(super) fn report_replaced(
        &self,
        around: Surroundings<'_>,
        owner: Owner,
        page: u64,
        first: u64,
        cached: &Cached,
        found: &Found,
    ) -> bool {
        let (before, now) = (cached.frame + (page - first), found.frame + (page - found.page));
        let what = if before != now {
            "address"
        } else if cached.leaf_pages != found.pages {
            "size"
        } else if cached.memory != found.memory {
            "memory type"
        } else {
            return false;
        };
        around.judge.report(
            ViolationKind::BreakBeforeMake,
            format!(
                "the TLB of CPU {} leads {:#x} ({owner:?}) to frame {before:#x} ({} pages, {}), and the live entry has another \
                 {what} by now, frame {now:#x} ({} pages, {}): it had to be absent and flushed in between",
                self.number,
                page << self.hardware.regime().page_shift(),
                cached.leaf_pages,
                cached.memory,
                found.pages,
                found.memory
            ),
        );
        true
    }
}
