//! What a person asks of a live space: its map, and why an address does or does not translate.
//!
//! Everything here is a value with a `Display`, so that it prints on whatever the kernel has.

mod access;
mod dump;
mod legend;
mod tree;

use core::fmt;

pub use self::access::WhyAccess;
pub use self::dump::{SpaceTables, SpaceTablesIn, TableDump};
pub use self::legend::{EntryBits, Legend};
pub use self::tree::AreaTree;
use crate::addr::{PageRange, VirtAddr};
use crate::paging::Mmu;
use crate::platform::Platform;
use crate::vm_area::AreaKind;
use crate::vm_space::{Space, WindowFlags, WindowInfo};

impl AreaKind {
    /// One word for the kind.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::Fixed { .. } => "fixed",
            Self::Guarded(_) => "guarded",
            Self::Untracked { .. } => "untracked",
            Self::Private { .. } => "private",
            Self::Ring { .. } => "ring",
            Self::Growing { .. } => "growing",
            Self::Paged { .. } => "paged",
        }
    }
}

/// A number of bytes, for people: the largest unit that divides it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bytes(
    /// How many bytes.
    pub u64,
);

impl Bytes {
    /// The count and its unit.
    fn parts(self) -> (u64, &'static str) {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return (self.0 >> shift, unit);
            }
        }
        (self.0, "B")
    }
}

impl fmt::Display for Bytes {
    /// A width pads on the left, as for numbers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, unit) = self.parts();
        let width = f.width().unwrap_or(0).saturating_sub(unit.len() + 1);
        write!(f, "{count:>width$} {unit}")
    }
}

impl fmt::Display for WindowInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.map_or("foreign", |kind| kind.name());
        write!(
            f,
            "{:#018x}-{:#018x} {} {kind:<9} {:>9}",
            self.range.start().as_u64(),
            self.range.last().as_u64(),
            self.access,
            Bytes(self.range.size())
        )?;
        if let Some(AreaKind::Fixed { frames, memory }) = self.kind {
            write!(f, "  {memory} from frame {:#x}", frames.first().number())?;
        } else if self.kind.is_some() {
            write!(f, "  {} resident", self.resident_pages)?;
        }
        if self.offset != 0 {
            write!(f, ", from offset {:#x}", self.offset)?;
        }
        if self.flags.contains(WindowFlags::SEALED) {
            f.write_str(", sealed")?;
        }
        if self.gated {
            f.write_str(", waiting for a flush")?;
        }
        Ok(())
    }
}

/// The map of a space, one line a window. Takes the space's lock for each line.
///
/// ```
/// # #[cfg(feature = "sim")] {
/// use vmcore::inspect::SpaceMap;
/// # use vmcore::paging::{Access, Mmu};
/// # use vmcore::vm_area::{Area, AreaKind};
/// # use vmcore::vm_space::{MapRequest, Space};
/// # use vmcore::{Platform, sim::Sim};
/// # let sim = Sim::builder().build();
/// # let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
/// # let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
/// # let space = Space::user(&kernel, Default::default()).unwrap();
/// # let area = Area::new(&sim, AreaKind::Open { size: 0x4000 }, Default::default()).unwrap();
/// space.map(&MapRequest::new(&area).at(0x40_0000).access(Access::READ)).unwrap();
/// let text = SpaceMap(&space).to_string();
/// assert!(text.contains("0x0000000000400000-0x0000000000403fff r--u open         16 KiB  0 resident"), "{text}");
/// space.seal(space.range(0x40_0000, 0x1000).unwrap()).unwrap();
/// assert!(SpaceMap(&space).to_string().contains("0x0000000000400fff r--u open          4 KiB  0 resident, sealed"));
/// # }
/// ```
#[derive(Debug)]
pub struct SpaceMap<'a, P: Platform, M: Mmu = <P as Platform>::Mmu>(
    /// The space.
    pub &'a Space<P, M>,
);

impl<P: Platform, M: Mmu> fmt::Display for SpaceMap<'_, P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut windows, mut bytes, mut resident) = (0_u64, 0_u64, 0_u64);
        for window in self.0.windows() {
            writeln!(f, "{window}")?;
            windows += 1;
            bytes = bytes.saturating_add(window.range.size());
            resident += window.resident_pages;
        }
        write!(f, "{windows} windows, {} shown, {resident} pages resident", Bytes(bytes))
    }
}

/// Why an address does or does not translate: the window that covers it, and the walk through the tables.
#[derive(Debug)]
pub struct Explain<'a, P: Platform, M: Mmu = <P as Platform>::Mmu> {
    /// The space.
    pub space: &'a Space<P, M>,
    /// The address.
    pub address: VirtAddr,
}

impl<P: Platform, M: Mmu> fmt::Display for Explain<'_, P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let covers = |range: PageRange| range.contains(self.address);
        match self.space.window_after(self.address).filter(|window| covers(window.range)) {
            Some(window) => writeln!(f, "{window}")?,
            None => writeln!(f, "nothing is mapped at {}", self.address)?,
        }
        write!(f, "{}", self.space.walk(self.address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_exact() {
        assert_eq!(Bytes(0x4000).to_string(), "16 KiB");
        assert_eq!(Bytes(1 << 30).to_string(), "1 GiB");
        assert_eq!(Bytes(4097).to_string(), "4097 B");
        assert_eq!(Bytes(0).to_string(), "0 B");
        assert_eq!(format!("{:>8}|{:>2}", Bytes(0x4000), Bytes(0x4000)), "  16 KiB|16 KiB");
    }
}
