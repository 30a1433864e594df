//! Sections of a guarded area: equal runs of pages with guard pages before each, handed out and taken back in O(1).
//!
//! ```text
//!   page   0     1  2  3  4    5     6  7  8  9    10
//!        +-----+------------+-----+------------+-----+
//!        |guard| section 0  |guard| section 1  |guard|      guard 1, pages 4
//!        +-----+------------+-----+------------+-----+
//! ```
//!
//! A guard lies below each section, where a stack that overflows meets it, and one more behind the last. Only the pages of
//! a section that is handed out are ever backed: guards, and sections that are not out, are refused at the one place
//! where the area is asked for a page.

use crate::machine::FrameMemory;
use crate::platform::Platform;
use crate::static_vec::StaticVec;

/// The layout of a guarded area, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SectionLayout {
    /// Pages of each section; at least 1.
    pub pages: u32,
    /// Guard pages before each section and after the last; at least 1.
    pub guard: u32,
    /// How many sections; at least 1.
    pub count: u32,
}

impl SectionLayout {
    /// Pages from one section's first page to the next one's.
    const fn stride(self) -> u64 {
        self.pages as u64 + self.guard as u64
    }

    /// Pages of the whole area, guards included; `None` if there are 2^64 or more.
    pub(crate) const fn total_pages(self) -> Option<u64> {
        match self.stride().checked_mul(self.count as u64) {
            Some(pages) => pages.checked_add(self.guard as u64),
            None => None,
        }
    }

    /// The first page of a section.
    pub(crate) const fn first_page(self, section: u32) -> u64 {
        section as u64 * self.stride() + self.guard as u64
    }

    /// The section that a page belongs to; `None` for a guard page.
    pub(crate) const fn section_of(self, page: u64) -> Option<u32> {
        let (Some(section), Some(within)) = (page.checked_div(self.stride()), page.checked_rem(self.stride())) else {
            return None;
        };
        if within < self.guard as u64 || section >= self.count as u64 { None } else { Some(section as u32) }
    }
}

/// Whether a section is out, and the next free one if it is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free {
        next: Option<u32>,
    },
    Out,
    /// Given back, but other CPUs may still hold translations of it.
    Returning,
}

/// Which sections are out.
pub(crate) struct Sections<P: Platform> {
    states: StaticVec<State, FrameMemory<P>>,
    first_free: Option<u32>,
}

impl<P: Platform> Sections<P> {
    /// `count` free sections; `None` if there is no memory to remember them.
    pub(crate) fn new(platform: &P, count: u32) -> Option<Self> {
        let mut states = StaticVec::with_memory(FrameMemory::new(platform.clone()));
        states.reserve(count as usize).ok()?;
        for section in 0..count {
            let next = (section + 1 < count).then_some(section + 1);
            states.push_within_capacity(State::Free { next }).ok()?;
        }
        Some(Self { states, first_free: Some(0) })
    }

    /// Hands a section out. O(1).
    pub(crate) fn take(&mut self) -> Option<u32> {
        let section = self.first_free?;
        let state = self.states.get_mut(section as usize)?;
        if let State::Free { next } = *state {
            self.first_free = next;
            *state = State::Out;
            return Some(section);
        }
        None
    }

    pub(crate) fn is_out(&self, section: u32) -> bool {
        self.states.get(section as usize) == Some(&State::Out)
    }

    /// Notes that a section comes back; false if it is not out.
    pub(crate) fn begin_return(&mut self, section: u32) -> bool {
        match self.states.get_mut(section as usize) {
            Some(state) if *state == State::Out => {
                *state = State::Returning;
                true
            }
            _ => false,
        }
    }

    /// Makes a section that came back free again, after the flush. O(1).
    pub(crate) fn finish_return(&mut self, section: u32) {
        if let Some(state) = self.states.get_mut(section as usize) {
            if *state == State::Returning {
                *state = State::Free { next: self.first_free };
                self.first_free = Some(section);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_lie_between_and_at_both_ends() {
        let layout = SectionLayout { pages: 4, guard: 1, count: 2 };
        let sections: Vec<_> = (0..12).map(|page| layout.section_of(page)).collect();
        let (a, b) = (Some(0), Some(1));
        assert_eq!(sections, [None, a, a, a, a, None, b, b, b, b, None, None]);
        assert_eq!((layout.total_pages(), layout.first_page(1)), (Some(11), 6));
    }

    #[test]
    fn the_largest_layout_does_not_overflow() {
        let layout = SectionLayout { pages: u32::MAX, guard: u32::MAX, count: u32::MAX };
        assert_eq!(layout.total_pages(), None);
        assert_eq!(
            layout.section_of(u64::MAX),
            Some(0x8000_0000),
            "the page's section, whether the area is that large or not"
        );
        assert_eq!(SectionLayout { pages: 0, guard: 0, count: 1 }.section_of(0), None);
    }
}
