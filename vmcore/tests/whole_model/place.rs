//! Where a window goes, found naively: one candidate after another, from window to window.

use std::ops::Range;

use vmcore::vm_space::Place;

use super::model::{PAGE, SpaceModel};
use super::refusal::Refusal;

/// What is asked, in pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) place: Place,
    /// As a power of two of bytes.
    pub(crate) alignment: u32,
    pub(crate) within: Option<(u64, u64)>,
}

/// Where it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Placed {
    At(u64),
    /// Wherever it is free: what the entropy chooses.
    Somewhere,
}

impl Wanted {
    fn step(&self) -> u64 {
        1 << self.alignment.saturating_sub(12)
    }

    fn limits(&self, bounds: &Range<u64>) -> Range<u64> {
        let mut limits = bounds.clone();
        let mut limit = |start: u64, end: u64| limits = limits.start.max(start)..limits.end.min(end);
        if let Some((start, count)) = self.within {
            limit(start, start + count);
        }
        if let Place::GapWithin(within) | Place::Random { within: Some(within), .. } = self.place {
            limit(within.start().as_u64() / PAGE, within.last().as_u64() / PAGE + 1);
        }
        limits
    }

    /// Where `size` pages go in a space with these bounds.
    pub(crate) fn find(&self, space: &SpaceModel, bounds: &Range<u64>, size: u64) -> Result<Placed, Vec<Refusal>> {
        if let Place::At(address) = self.place {
            return self.exactly(space, bounds, address, size);
        }
        let limits = self.limits(bounds);
        let found = match self.place {
            Place::LastGap => self.highest(space, &limits, size),
            Place::Near(address) => self
                .lowest(space, &(limits.start.max(address.div_ceil(PAGE))..limits.end), size)
                .or_else(|| self.highest(space, &limits, size)),
            Place::Random { .. } => {
                return match self.lowest(space, &limits, size) {
                    Some(_) => Ok(Placed::Somewhere),
                    None => Err(vec![Refusal::NoGap(size)]),
                };
            }
            _ => self.lowest(space, &limits, size),
        };
        let found = found.ok_or(vec![Refusal::NoGap(size)])?;
        // Which one it is of several is documented only for the alignments of leaves; what is free is always had.
        let is_of_leaf = [0, 12, 21, 30].contains(&self.alignment);
        let is_exact = matches!(self.place, Place::Near(address) if found * PAGE == address);
        Ok(if is_of_leaf || is_exact { Placed::At(found) } else { Placed::Somewhere })
    }

    fn exactly(
        &self,
        space: &SpaceModel,
        bounds: &Range<u64>,
        address: u64,
        size: u64,
    ) -> Result<Placed, Vec<Refusal>> {
        let page = address / PAGE;
        let limits = self.limits(bounds);
        if address % PAGE != 0 || page < limits.start || page + size > limits.end || page % self.step() != 0 {
            return Err(vec![Refusal::Range]);
        }
        match space.first_overlap(&(page..page + size)) {
            None => Ok(Placed::At(page)),
            Some(window) if window.shown.gate.is_some() => Err(vec![Refusal::Retry(window.first)]),
            Some(window) => Err(vec![Refusal::Conflict(window.first, window.count)]),
        }
    }

    pub(crate) fn lowest(&self, space: &SpaceModel, limits: &Range<u64>, size: u64) -> Option<u64> {
        let mut at = limits.start.next_multiple_of(self.step());
        while at + size <= limits.end {
            match space.first_overlap(&(at..at + size)) {
                None => return Some(at),
                Some(window) => at = window.end().next_multiple_of(self.step()),
            }
        }
        None
    }

    pub(crate) fn highest(&self, space: &SpaceModel, limits: &Range<u64>, size: u64) -> Option<u64> {
        let mut at = limits.end.checked_sub(size)?;
        loop {
            at -= at % self.step();
            if at < limits.start {
                return None;
            }
            match space.first_overlap(&(at..at + size)) {
                None => return Some(at),
                Some(window) => at = window.first.checked_sub(size)?,
            }
        }
    }

    /// Whether pages that a window was given are such as were asked for.
    pub(crate) fn admits(&self, space: &SpaceModel, bounds: &Range<u64>, start: u64, size: u64) -> bool {
        let limits = self.limits(bounds);
        let fits = start >= limits.start && start + size <= limits.end && start % self.step() == 0;
        fits && space.first_overlap(&(start..start + size)).is_none()
    }
}
