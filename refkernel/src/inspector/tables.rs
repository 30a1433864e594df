//! What page tables say.

use super::subject::{Subject, Trouble};
use super::terminal::Out;
use crate::memory::Kernel;
use core::fmt::Write;
use refkernel::shell::command::{Attempt, Of, Range};
use refkernel_abi::{PAGE_SIZE, USER_END};
use vmcore::Platform;
use vmcore::addr::VirtAddr;
use vmcore::inspect::{EntryBits, SpaceTablesIn, WhyAccess};
use vmcore::paging::{Access, Mmu};

/// The entries that translate an address.
pub(super) fn walk(address: u64, of: Of, out: &mut Out<'_>) -> Result<(), Trouble> {
    let subject = Subject::at(address, of)?;
    Ok(writeln!(out, "{}", subject.space().walk(VirtAddr::new(address)))?)
}

/// One of them, bit by bit: that of a level, or the last one.
pub(super) fn entry(address: u64, level: Option<usize>, of: Of, out: &mut Out<'_>) -> Result<(), Trouble> {
    let mmu = Kernel.machine().mmu();
    if let Some(level) = level.filter(|level| *level >= mmu.levels()) {
        return Err(Trouble::NoLevel(level));
    }
    let subject = Subject::at(address, of)?;
    let walk = subject.space().walk(VirtAddr::new(address));
    let found = walk.steps().filter(|step| level.is_none_or(|level| step.level == level)).last();
    let Some(step) = found else {
        let end = walk.steps().last().map_or("root", |step| step.name);
        return Err(Trouble::NotThere { level: level.unwrap_or(0), end });
    };
    let table = step.table.start(12).as_u64();
    writeln!(
        out,
        "{} at {table:#014x} [{}], at {:#014x} itself",
        step.name,
        step.index,
        table + 8 * step.index as u64
    )?;
    Ok(writeln!(out, "{}", EntryBits { mmu, level: step.level, word: step.word })?)
}

/// What a value would mean.
pub(super) fn decode(value: u64, level: usize, out: &mut Out<'_>) -> Result<(), Trouble> {
    let mmu = Kernel.machine().mmu();
    if level >= mmu.levels() {
        return Err(Trouble::NoLevel(level));
    }
    Ok(writeln!(out, "{}", EntryBits { mmu, level, word: value })?)
}

/// What the tables hold.
pub(super) fn dump(range: Option<Range>, of: Of, out: &mut Out<'_>) -> Result<(), Trouble> {
    let subject = match range {
        Some(range) => Subject::at(range.start, of)?,
        None => Subject::named(of)?,
    };
    let space = subject.space();
    let bounds = space.bounds();
    let mut shown = bounds;
    if let Some(range) = range {
        let (first, end) = (bounds.start().as_u64(), bounds.last().as_u64());
        let outside = Trouble::Outside { start: first, last: end };
        let start = range.start.max(first) / PAGE_SIZE * PAGE_SIZE;
        let last = range.last.min(end) | (PAGE_SIZE - 1);
        if start > last {
            return Err(outside);
        }
        shown = space.range(start, (last - start).wrapping_add(1)).map_err(|_| outside)?;
    }
    Ok(writeln!(out, "{}", SpaceTablesIn { space, range: shown })?)
}

/// Why an access would or would not succeed: a program's, if the address is one or a process was named.
pub(super) fn explain(address: u64, attempt: Attempt, of: Of, out: &mut Out<'_>) -> Result<(), Trouble> {
    let subject = Subject::at(address, of)?;
    let mut access = match attempt {
        Attempt::Read => Access::READ,
        Attempt::Write => Access::WRITE,
        Attempt::Execute => Access::EXECUTE,
    };
    access.set(Access::USER, matches!(subject, Subject::Process(_)));
    let who = if access.contains(Access::USER) { "a program's" } else { "the kernel's" };
    writeln!(out, "access: {who}, {access}, in the space of {subject}")?;
    writeln!(out, "{}", WhyAccess { space: subject.space(), address: VirtAddr::new(address), access })?;
    if access.contains(Access::USER) && address >= USER_END {
        writeln!(out, "the kernel does not ask the space: the address is not a program's")?;
    }
    Ok(())
}
