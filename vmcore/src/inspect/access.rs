//! Why an access would or would not succeed: what the tables say, what is mapped there, and what a fault would come to.

use core::fmt;

use crate::addr::VirtAddr;
use crate::paging::{Access, Entry, Limits, Mmu, Walk, WalkEnd};
use crate::platform::Platform;
use crate::vm_space::{Fault, Foreseen, Space, SpaceError};

/// Why an access of a space would or would not succeed, in three lines: the entry that decides, the window, and the outcome. Changes nothing.
///
/// ```
/// # #[cfg(feature = "sim")] {
/// use vmcore::inspect::WhyAccess;
/// # use vmcore::addr::VirtAddr;
/// # use vmcore::paging::{Access, Mmu};
/// # use vmcore::vm_area::{Area, AreaKind};
/// # use vmcore::vm_space::{MapRequest, Space};
/// # use vmcore::{Platform, sim::Sim};
/// # let sim = Sim::builder().build();
/// # let bounds = sim.machine().mmu().range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
/// # let kernel = Space::kernel(&sim, bounds, None, Default::default()).unwrap();
/// # let space = Space::user(&kernel, Default::default()).unwrap();
/// let area = Area::new(&sim, AreaKind::Open { size: 0x4000 }, Default::default()).unwrap();
/// space.map(&MapRequest::new(&area).at(0x40_0000).access(Access::READ | Access::USER)).unwrap();
/// let write = WhyAccess { space: &space, address: VirtAddr::new(0x40_1234), access: Access::WRITE | Access::USER };
/// let text = "\
/// tables: the entry of the PML4 is absent, so it faults
/// window: 0x0000000000400000-0x0000000000403fff r--u open         16 KiB  0 resident
/// refused: the window at 0x401234 allows r--u, not -w-u: map it with more access";
/// assert_eq!(write.to_string(), text);
/// # }
/// ```
#[derive(Debug)]
pub struct WhyAccess<'a, P: Platform, M: Mmu = <P as Platform>::Mmu> {
    /// The space.
    pub space: &'a Space<P, M>,
    /// The address.
    pub address: VirtAddr,
    /// What the access is, as of a [`Fault`].
    pub access: Access,
}

impl<P: Platform, M: Mmu> fmt::Display for WhyAccess<'_, P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let walk = self.space.walk(self.address);
        let by_tables = Decides::of(&walk, self.access);
        writeln!(f, "tables: {by_tables}")?;
        if by_tables == Decides::NonCanonical {
            return f.write_str("refused: no access to such an address comes to the memory manager");
        }
        f.write_str("window: ")?;
        match self.space.window_after(self.address) {
            Some(window) if window.range.contains(self.address) => writeln!(f, "{window}")?,
            Some(above) => writeln!(f, "none; the next one above begins at {:#x}", above.range.start())?,
            None => writeln!(f, "none, nor is there one above")?,
        }
        if by_tables == Decides::Allowed {
            return f.write_str("succeeds: without a fault");
        }
        let fault = Fault::new(self.address.as_u64(), self.access);
        match self.space.foresee(fault) {
            Ok(Foreseen::Allowed) => f.write_str("succeeds: after a fault; the tables were changed meanwhile"),
            Ok(Foreseen::Shown(frame)) => {
                write!(f, "succeeds: after a fault that shows frame {:#x}, which has the page", frame.number())
            }
            Ok(Foreseen::Copied(frame)) => {
                write!(f, "succeeds: after a fault that copies frame {:#x}, which others have as well", frame.number())
            }
            Ok(Foreseen::Made) => f.write_str("succeeds: after a fault that makes the page, of zeros"),
            Ok(Foreseen::Zero) => f.write_str("succeeds: after a fault that shows the zero frame"),
            Ok(Foreseen::Awaited) => f.write_str("waits: for the pager, whose page it is to bring"),
            Err(error @ SpaceError::Retry(_)) => write!(f, "waits: {error}"),
            Err(error) => write!(f, "refused: {error}"),
        }
    }
}

/// Which entry decides, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Decides {
    /// All of them allow the access.
    Allowed,
    /// One is absent, or the table behind it cannot be reached: the name of its table.
    Absent(&'static str),
    Unreachable(&'static str),
    Malformed(&'static str),
    /// One does not let the access through: the name of its table, whether it is a leaf, and what it lacks.
    Lacks(&'static str, bool, Access),
    /// The leaf is a program's, and the kernel is to execute it: the name of its table.
    Programs(&'static str),
    NonCanonical,
}

impl Decides {
    /// The first entry from the root on that keeps an access from succeeding.
    fn of(walk: &Walk, access: Access) -> Self {
        let mut last = "";
        let mut allowed = Limits::NONE;
        for step in walk.steps() {
            last = step.name;
            let through = match step.entry {
                Entry::Table(_, limit) => {
                    allowed &= limit;
                    access & allowed
                }
                Entry::Leaf(leaf) => leaf.access & allowed,
                _ => continue,
            };
            let lacking = access.difference(through);
            if !lacking.is_empty() {
                return Self::Lacks(step.name, matches!(step.entry, Entry::Leaf(_)), lacking);
            }
        }
        let kernel_executes = access.contains(Access::EXECUTE) && !access.contains(Access::USER);
        match walk.end() {
            WalkEnd::Mapped { access, .. } if kernel_executes && access.contains(Access::USER) => Self::Programs(last),
            WalkEnd::Mapped { .. } => Self::Allowed,
            WalkEnd::Reserved => Self::Malformed(last),
            WalkEnd::NonCanonical => Self::NonCanonical,
            WalkEnd::Unreachable(_) => Self::Unreachable(last),
            _ => Self::Absent(last),
        }
    }
}

impl fmt::Display for Decides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed => f.write_str("every entry lets it through"),
            Self::Absent(table) => write!(f, "the entry of the {table} is absent, so it faults"),
            Self::Unreachable(table) => write!(f, "the entry of the {table} leads to a table that cannot be reached"),
            Self::Malformed(table) => write!(f, "the entry of the {table} is malformed, so it faults"),
            Self::Lacks(table, true, what) => write!(f, "the leaf in the {table} lacks {what}, so it faults"),
            Self::Lacks(table, false, what) => {
                write!(f, "the table entry of the {table} lets no {what} through, so it faults")
            }
            Self::Programs(table) => {
                write!(f, "the leaf in the {table} is a program's, which the kernel does not execute")
            }
            Self::NonCanonical => f.write_str("there is no such address: it is not canonical"),
        }
    }
}
