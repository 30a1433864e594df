//! What page tables are filled from: windows, areas, and the pages of an area.

use super::subject::{Subject, Trouble};
use super::terminal::Out;
use crate::memory::Kernel;
use crate::process;
use core::fmt::Write;
use refkernel::shell::command::Of;
use vmcore::addr::VirtAddr;
use vmcore::inspect::{AreaTree, Bytes, SpaceMap};
use vmcore::vm_area::{Area, AreaKind};

/// The windows of a space.
pub(super) fn maps(of: Of, out: &mut Out<'_>) -> Result<(), Trouble> {
    let subject = Subject::named(of)?;
    Ok(writeln!(out, "{}", SpaceMap(subject.space()))?)
}

/// The pages of the area at an address.
pub(super) fn tree(address: u64, of: Of, out: &mut Out<'_>) -> Result<(), Trouble> {
    let subject = Subject::at(address, of)?;
    let area = subject.space().area_shown_at(VirtAddr::new(address)).ok_or(Trouble::NoArea(address))?;
    describe(&area, out)?;
    Ok(writeln!(out, "{}", AreaTree(&area))?)
}

/// The area at an address, or all that are shown by a window.
pub(super) fn area(address: Option<u64>, of: Of, out: &mut Out<'_>) -> Result<(), Trouble> {
    if let Some(address) = address {
        let subject = Subject::at(address, of)?;
        let area = subject.space().area_shown_at(VirtAddr::new(address)).ok_or(Trouble::NoArea(address))?;
        describe(&area, out)?;
        let mut number = 0;
        for_each_window(None, &mut |subject, start, shown| {
            if shown.id() == area.id() {
                number += 1;
                writeln!(out, "  window {number}: {start:#018x} in {subject}")?;
            }
            Ok(true)
        })?;
        return Ok(());
    }
    let mut count = 0;
    for_each_window(of, &mut |subject, start, area| {
        // The first window that shows an area stands for it.
        let mut is_first = false;
        for_each_window(of, &mut |first, place, shown| {
            let same = shown.id() == area.id();
            is_first = same && place == start && is_same(first, subject);
            Ok(!same)
        })?;
        if is_first {
            count += 1;
            write!(out, "{start:#018x} in {subject}: ")?;
            describe(area, out)?;
        }
        Ok(true)
    })?;
    Ok(writeln!(out, "{count} areas")?)
}

fn is_same(one: &Subject, other: &Subject) -> bool {
    match (one, other) {
        (Subject::Kernel, Subject::Kernel) => true,
        (Subject::Process(one), Subject::Process(other)) => one.is(other),
        _ => false,
    }
}

/// An area in a line.
fn describe(area: &Area<Kernel>, out: &mut Out<'_>) -> Result<(), Trouble> {
    write!(out, "{}, {}", area.kind().name(), Bytes(area.size()))?;
    match area.kind() {
        AreaKind::Fixed { frames, memory } => write!(out, ", {memory} from frame {:#x}", frames.first().number())?,
        AreaKind::Untracked { .. } => {}
        _ => write!(out, ", {} pages resident", area.resident_pages())?,
    }
    Ok(writeln!(out, ", shown by {} windows", area.windows())?)
}

/// What is done with a window: its space, its first address, its area. False: no more of them.
type Each<'a> = &'a mut dyn FnMut(&Subject, u64, &Area<Kernel>) -> Result<bool, Trouble>;

/// Calls `each` with the windows of the kernel and of every process, or of the one that was named.
fn for_each_window(of: Of, each: Each<'_>) -> Result<(), Trouble> {
    if of.is_some() {
        return for_each_of(&Subject::named(of)?, each).map(drop);
    }
    if !for_each_of(&Subject::Kernel, each)? {
        return Ok(());
    }
    for process in process::all() {
        if !for_each_of(&Subject::Process(process), each)? {
            return Ok(());
        }
    }
    Ok(())
}

fn for_each_of(subject: &Subject, each: Each<'_>) -> Result<bool, Trouble> {
    for window in subject.space().windows() {
        let start = window.range.start();
        // A window that has gone meanwhile shows nothing.
        if let Some(area) = subject.space().area_shown_at(start)
            && !each(subject, start.as_u64(), &area)?
        {
            return Ok(false);
        }
    }
    Ok(true)
}
