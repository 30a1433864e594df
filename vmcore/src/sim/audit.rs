//! What of a CPU's memory is out of date: looked for without any access, over everything that it remembers.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::cpu::{Cpu, Surroundings, gone};
use super::memory::FrameState;
use super::tlb::Owner;
use super::walker::{Rights, Start};
use crate::frame::FrameUse;

impl Cpu {
    /// Sentences about whatever still refers to one of the frames, which are being freed.
    pub(super) fn references_to(&self, around: Surroundings<'_>, first: u64, count: u64, into: &mut Vec<String>) {
        let freed = |frame: u64| frame >= first && frame - first < count;
        let cpu = self.number;
        if let Some((root, tag)) = self.root {
            if freed(root) {
                into.push(format!("frame {root:#x} is freed while CPU {cpu} has it loaded as its root (tag {tag})"));
            }
        }
        for (owner, page, cached) in self.tlb.entries() {
            let overlaps = cached.frame < first.saturating_add(count) && first < cached.frame + cached.pages;
            if overlaps {
                let frame = cached.frame.max(first);
                let address = (page + (frame - cached.frame)) << 12;
                if !(around.is_lasting)(address) {
                    into.push(format!(
                        "frame {frame:#x} is freed while the TLB of CPU {cpu} still leads {address:#x} ({owner:?}) to \
                         it: the flush before it was missing or too small"
                    ));
                }
            }
        }
        for (tag, shift, address, pointer) in self.structures.pointers() {
            if freed(pointer.table) {
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

    /// Sentences about whatever the tables, walked now, no longer hold.
    pub(super) fn stale(&self, around: Surroundings<'_>, into: &mut Vec<String>) {
        let cpu = self.number;
        let walker = self.walker(around);
        let is_root = |root: u64, filled_at: u64| {
            gone(around.memory, root, filled_at).is_none()
                && !matches!(around.memory.state(root), FrameState::Missing)
                && around.memory.recorded_use(root).is_none_or(|recorded| recorded == FrameUse::Table)
        };
        for (owner, first, cached) in self.tlb.entries() {
            let mut root = cached.root;
            if !is_root(root, cached.filled_at) {
                match (owner, self.root) {
                    // What is global holds in every space: the one that is loaded now must have it too.
                    (Owner::Global, Some((loaded, _))) => root = loaded,
                    (Owner::Global, None) => continue,
                    (Owner::Tagged(_), _) => {
                        into.push(format!(
                            "the TLB of CPU {cpu} holds {:#x} ({owner:?}) of the space with root frame {root:#x}, \
                             which is gone",
                            first << 12
                        ));
                        continue;
                    }
                }
            }
            let mut page = first;
            while page < first + cached.pages {
                let address = page << 12;
                let frame = cached.frame + (page - first);
                let start = Start { table: root, shift: 39, rights: Rights::ALL };
                let found = walker.walk(start, address, None, |_, _, _| {});
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
                page = found.map_or(page + 1, |found| found.page + found.pages);
            }
        }
        for (tag, shift, address, pointer) in self.structures.pointers() {
            let mut now = None;
            if is_root(pointer.root, pointer.filled_at) {
                let start = Start { table: pointer.root, shift: 39, rights: Rights::ALL };
                let _ = walker.walk(start, address, None, |at, table, rights| {
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
}
