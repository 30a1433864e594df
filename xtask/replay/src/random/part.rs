//! What Linux has done of a call before it refused it, done by calls that succeed: so that the states can be compared again.

use vmcore::posix::{Advice, Errno, Protection};

use super::BASE;
use super::actor::Actor;
use super::recording::{Expected, State};
use super::shape::{bits, bits_of, each, pages};
use crate::call::Call;
use crate::world::PAGE;

/// The pages that some of the bytes lie in.
const fn whole_pages(address: u64, length: u64) -> (u64, u64) {
    let start = address & !(PAGE - 1);
    (start, length.saturating_add(address - start))
}

impl Actor {
    /// Does the part of a refused call that Linux has done.
    pub(super) fn do_part(&mut self, call: Call, state: &State) {
        let operations = self.calls;
        match call {
            Call::Protect { address, length, protection } => {
                // As far as there is no gap.
                let mut next = address / PAGE;
                for (first, end) in self.parts(address, length) {
                    let part = Call::Protect { address: first * PAGE, length: (end - first) * PAGE, protection };
                    if first != next || self.call(part).is_err() {
                        break;
                    }
                    self.look();
                    self.note_locked_private(bits(first, end));
                    next = end;
                }
            }
            Call::Advise { address, length, advice } => {
                if let Some(advice) = Advice::from_number(advice) {
                    self.advise_parts(address, length, advice);
                }
            }
            Call::Unlock { address, length } => {
                let (address, length) = whole_pages(address, length);
                self.unlock_parts(address, length);
            }
            Call::CopyIn { address, .. } => self.note_around(bits_of(address, 1) & self.allowed(Protection::READ)),
            Call::Remap { .. } => {
                // What it has unmapped is not to be had again.
                for page in each(self.seen.regions.shape.mapped & !state.shape.mapped) {
                    if self.call(Call::Unmap { address: page * PAGE, length: PAGE }).is_ok() {
                        self.clear(1 << page);
                    }
                }
            }
            _ => {}
        }
        if self.calls != operations {
            self.look();
        }
    }

    /// Unlocks what is mapped up to the first gap.
    fn unlock_parts(&mut self, address: u64, length: u64) {
        let mut next = address / PAGE;
        for (first, end) in self.parts(address, length) {
            let part = Call::Unlock { address: first * PAGE, length: (end - first) * PAGE };
            if first != next || self.call(part).is_err() {
                return;
            }
            next = end;
        }
    }

    /// What of a range lies in each region: first page, and page behind the last. Of what is no range nothing.
    fn parts(&self, address: u64, length: u64) -> Vec<(u64, u64)> {
        let is_range = BASE.checked_add(address).and_then(|start| start.checked_add(length)).is_some();
        if !is_range || address & (PAGE - 1) != 0 {
            return Vec::new();
        }
        let (first, end) = pages(address, length);
        let regions = self.process.memory.regions();
        let parts = regions.map(|region| ((region.start - BASE) / PAGE, (region.start - BASE + region.size) / PAGE));
        parts.map(|(low, high)| (low.max(first), high.min(end))).filter(|(low, high)| low < high).collect()
    }

    fn advise_parts(&mut self, address: u64, length: u64, advice: Advice) {
        let populates = matches!(advice, Advice::PopulateRead | Advice::PopulateWrite);
        let mut next = address / PAGE;
        for (first, end) in self.parts(address, length) {
            if populates && first != next {
                return;
            }
            next = end;
            // Populating stops at a page.
            let step = if populates { 1 } else { end - first };
            for page in (first..end).step_by(step as usize) {
                let part = Call::Advise { address: page * PAGE, length: step * PAGE, advice: advice as u32 };
                let mapped = self.seen.regions.shape.mapped;
                match self.call(part) {
                    Ok((value, hash)) => {
                        self.look();
                        self.note(part, Expected::Value(value, hash), mapped);
                    }
                    Err(errno) => {
                        if errno == Errno::Fault && advice == Advice::PopulateRead {
                            self.note_around(1 << page);
                        }
                        return;
                    }
                }
            }
        }
    }
}
