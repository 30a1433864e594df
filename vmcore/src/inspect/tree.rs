//! The pages of an area, as its tree has them: what windows show, and what page tables are filled from.

use core::fmt;

use super::Bytes;
use crate::page_tree::{Run, TreeValue};
use crate::platform::Platform;
use crate::vm_area::{Area, AreaKind, Page};

/// The pages of an area, a line for all those side by side that are alike: which pages, their frames, how many, and what is noted of them; then the
/// tree itself. Takes the area's lock for each line, so the area may change meanwhile. Cost: O(pages), no allocation.
///
/// What a [private view](Area::overlay) has not copied, and pages of fixed and of untracked areas, are in no tree.
///
/// ```
/// # #[cfg(feature = "sim")] {
/// use vmcore::inspect::AreaTree;
/// use vmcore::sim::Sim;
/// use vmcore::vm_area::{Area, AreaKind};
/// # let sim = Sim::builder().frames(64).first_frame(0x100).build();
/// let area = Area::new(&sim, AreaKind::Open { size: 0x10_0000 }, 0).unwrap();
/// area.write(0x3_0000, b"a page").unwrap().complete();
/// let text = AreaTree(&area).to_string();
/// assert!(text.starts_with("page 0x30              -> frame 0x"), "{text}");
/// assert!(text.ends_with("1 pages of 256 in 1 runs, 1 nodes of 64 B in all"), "{text}");
/// # }
/// ```
#[derive(Debug)]
pub struct AreaTree<'a, P: Platform>(
    /// The area.
    pub &'a Area<P>,
);

/// Both as one, if the second carries the first one on.
fn joined(run: Run<Page>, next: Run<Page>) -> Option<Run<Page>> {
    let carries_on = run.key.checked_add(run.count) == Some(next.key) && run.value.held_frame().is_some();
    let count = run.count.checked_add(next.count)?;
    (carries_on && run.value.advance(run.count) == next.value).then_some(Run { count, ..run })
}

/// A run of pages, as a line.
fn line(f: &mut fmt::Formatter<'_>, run: Run<Page>) -> fmt::Result {
    let last = run.key.saturating_add(run.count.saturating_sub(1));
    write!(f, "page {:#x}", run.key)?;
    let width = |number: u64| 2 + (67_usize.saturating_sub(number.leading_zeros() as usize) / 4).max(1);
    let mut written = width(run.key);
    if run.count > 1 {
        write!(f, "-{last:#x}")?;
        written += 1 + width(last);
    }
    write!(f, "{:1$}", "", 17_usize.saturating_sub(written))?;
    match run.value.held_frame() {
        Some(frame) => write!(f, " -> frame {:#x}, {} pages", frame.number(), run.count)?,
        None => write!(f, " -> no frame, {} pages", run.count)?,
    }
    run.value.notes().try_for_each(|note| write!(f, ", {note}"))?;
    writeln!(f)
}

impl<P: Platform> fmt::Display for AreaTree<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let area = self.0;
        if let AreaKind::Fixed { .. } | AreaKind::Untracked { .. } = area.kind() {
            return write!(f, "{} areas have no tree", area.kind().name());
        }
        let (mut runs, mut pages) = (0_u64, 0_u64);
        let mut next = area.next_run(0);
        while let Some(mut run) = next {
            loop {
                next = run.key.checked_add(run.count).and_then(|from| area.next_run(from));
                match next.and_then(|next| joined(run, next)) {
                    Some(both) => run = both,
                    None => break,
                }
            }
            line(f, run)?;
            runs += 1;
            pages = pages.saturating_add(run.count);
        }
        let (nodes, bytes) = area.tree_nodes();
        let of = area.size() >> P::PAGE_SHIFT;
        write!(f, "{pages} pages of {of} in {runs} runs, {nodes} nodes of {} in all", Bytes(bytes))
    }
}
