//! What was asked for, as a list of windows: the naive map that both the tables and the emulator are held against.

use vmcore::paging::{Access, MemoryType};

/// Addresses that map consecutive physical addresses in the same way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Window {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// The physical address that `first` leads to.
    pub(crate) physical: u64,
    pub(crate) access: Access,
    pub(crate) memory: MemoryType,
    pub(crate) accessed: bool,
    pub(crate) dirty: bool,
    /// What the guest itself runs on: never changed and never tried.
    pub(crate) fixed: bool,
}

impl Window {
    /// The addresses, multiples of `size`, from which on that many bytes are in the window.
    pub(crate) fn aligned(self, size: u64) -> impl Iterator<Item = u64> {
        let starts = (self.first.div_ceil(size)..=self.last / size).map(move |number| number * size);
        starts.filter(move |start| self.last - start >= size - 1)
    }

    fn part(self, first: u64, last: u64) -> Self {
        Self { first, last, physical: self.physical + (first - self.first), ..self }
    }
}

/// Windows that do not overlap.
#[derive(Debug, Default)]
pub(crate) struct Model {
    windows: Vec<Window>,
}

impl Model {
    pub(crate) fn windows(&self) -> &[Window] {
        &self.windows
    }

    /// The window of an address, and the physical address that it leads to.
    pub(crate) fn find(&self, address: u64) -> Option<(Window, u64)> {
        let window = self.windows.iter().find(|window| (window.first..=window.last).contains(&address))?;
        Some((*window, window.physical + (address - window.first)))
    }

    pub(crate) fn map(&mut self, window: Window) {
        self.windows.push(window);
    }

    /// Replaces what the addresses map by what `change` makes of it.
    pub(crate) fn change(&mut self, first: u64, last: u64, change: impl Fn(Window) -> Option<Window>) {
        let mut windows = Vec::new();
        for window in self.windows.drain(..) {
            if window.last < first || window.first > last {
                windows.push(window);
                continue;
            }
            if window.first < first {
                windows.push(window.part(window.first, first - 1));
            }
            windows.extend(change(window.part(window.first.max(first), window.last.min(last))));
            if window.last > last {
                windows.push(window.part(last + 1, window.last));
            }
        }
        self.windows = windows;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_in_the_middle_leaves_both_sides() {
        let window = Window {
            first: 0x1000,
            last: 0x4fff,
            physical: 0x9000,
            access: Access::READ,
            memory: MemoryType::WriteBack,
            accessed: false,
            dirty: false,
            fixed: false,
        };
        let mut model = Model::default();
        model.map(window);
        model.change(0x2000, 0x2fff, |_| None);
        model.change(0x3000, 0x3fff, |window| Some(Window { access: Access::KERNEL_DATA, ..window }));
        assert_eq!(model.find(0x1fff).map(|(_, physical)| physical), Some(0x9fff));
        assert_eq!(model.find(0x2000), None);
        assert_eq!(model.find(0x3001).map(|(w, physical)| (w.access, physical)), Some((Access::KERNEL_DATA, 0xb001)));
        assert_eq!(model.find(0x4000).map(|(w, physical)| (w.access, physical)), Some((Access::READ, 0xc000)));
        assert_eq!((model.find(0xfff), model.find(0x5000)), (None, None));
    }
}
