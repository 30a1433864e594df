//! What is counted: frames, translations that processors were made to forget, and the memory manager's own numbers.

use super::subject::Trouble;
use super::terminal::Out;
use crate::cpu::{others, trap};
use crate::memory::frames::{self, FRAME_SIZE};
use crate::memory::shootdown::bits;
use crate::memory::{self, Kernel, heap};
use crate::pager;
use crate::{process, thread};
use core::fmt::Write;
use vmcore::Platform;
use vmcore::addr::Frame;
use vmcore::frame::FrameUse;
use vmcore::frame::Frames;
use vmcore::inspect::Bytes;

/// What frames are used for, or one of them.
pub(super) fn frames(frame: Option<u64>, out: &mut Out<'_>) -> Result<(), Trouble> {
    if let Some(number) = frame {
        let meta = Kernel.frame_meta(Frame::new(number)).ok_or(Trouble::NoFrame(number))?;
        let used = memory::use_of_frame(number).name();
        writeln!(out, "frame {number:#x}, at {:#014x}: {used}", number.saturating_mul(FRAME_SIZE))?;
        writeln!(
            out,
            "  recorded as {:?}, count {}, pins {}, live entries {}",
            meta.recorded_use(),
            meta.count(),
            meta.pins(),
            meta.live_entries()
        )?;
        return Ok(());
    }
    let counts = frames::counts();
    let mut line =
        |name: &str, count: u64| writeln!(out, "{name:<24} {count:>10} frames {:>12}", Bytes(count * FRAME_SIZE));
    line("all", counts.total)?;
    line("free", counts.free)?;
    line("records of frames", counts.metadata)?;
    for (used, count) in FrameUse::ALL.into_iter().zip(counts.by_use).filter(|(used, _)| *used != FrameUse::Free) {
        line(name_of(used), count)?;
    }
    line("pages of the kernel's", counts.kernel_pages)?;
    let swap = pager::swap::counts();
    line("compressed store", swap.store.pages)?;
    line("its tables", swap.table_frames)?;
    line("set aside for it", swap.spares)?;
    Ok(())
}

/// What each processor has loaded, and who made it forget.
pub(super) fn tlb(out: &mut Out<'_>) -> Result<(), Trouble> {
    for cpu in bits(others::running()) {
        write!(out, "processor {cpu}: ")?;
        let loaded = memory::loaded_on(cpu);
        let owner = process::all().find(|process| core::ptr::eq(process.space(), loaded));
        match owner {
            Some(process) => {
                let (root, tag) = (process.space().root().start(12), process.space().tag().0);
                write!(out, "process {}, root {root:#014x}, tag {tag}", process::pid(&process))?
            }
            None => write!(out, "kernel, root {:#014x}", memory::kernel_root())?,
        }
        let (sent, waiting) = memory::shootdown::counters(cpu);
        writeln!(
            out,
            ", {} roots loaded, {sent} interrupts sent to flush others, {} processors wait for it",
            memory::loads_on(cpu),
            waiting.count_ones()
        )?;
    }
    let counters = Kernel.machine().counters();
    writeln!(
        out,
        "kernel's space: {} changes that took something away; flushes dropped: {}, with {} frames",
        memory::kernel_space().generation(),
        counters.dropped_flushes,
        counters.quarantined_frames
    )?;
    Ok(())
}

/// The counters of the memory manager.
pub(super) fn stats(out: &mut Out<'_>) -> Result<(), Trouble> {
    let machine = Kernel.machine().counters();
    let (used, reserved) = heap::usage();
    let mut threads = 0;
    thread::for_each(|_| threads += 1);
    let mut line = |name: &str, value: u64| writeln!(out, "{name:<36} {value:>12}");
    line("page faults answered", trap::faults_answered())?;
    line("frames in use", memory::frames_in_use())?;
    line("frames free", frames::available())?;
    line("pages of the pools", machine.pool_pages)?;
    line("objects of the pools", machine.pool_objects)?;
    line("spaces with a tag", machine.tags as u64)?;
    line("flushes dropped", machine.dropped_flushes as u64)?;
    line("frames in quarantine", machine.quarantined_frames as u64)?;
    line("frees refused", machine.refused_frees as u64)?;
    line("interrupts sent to flush", memory::interrupts_sent())?;
    line("roots loaded", memory::space_loads())?;
    line("bytes of the heap in use", used)?;
    line("bytes of the heap mapped", reserved)?;
    line("threads", threads)?;
    let (evicted, times) = pager::reclaim::evicted();
    let swap = pager::swap::counts();
    line("pages taken away", evicted)?;
    line("times that memory was short", times)?;
    line("pages brought from programs' files", pager::images::brought())?;
    line("pages compressed", swap.kept)?;
    line("pages found to be zero", swap.zero)?;
    line("pages that do not compress", swap.refused)?;
    line("pages brought back", swap.brought)?;
    line("pages in the compressed store", swap.store.entries)?;
    line("their bytes, compressed", swap.store.bytes)?;
    line("areas that can be swapped", swap.areas)?;
    writeln!(out, "{:<12} {:>8} {:>12} {:>10} {:>8}", "space", "windows", "bytes", "pages", "tables")?;
    write!(out, "{:<12}", "kernel")?;
    space(out, memory::kernel_space())?;
    for process in process::all() {
        write!(out, "process {:<4}", process::pid(&process))?;
        space(out, process.space())?;
    }
    Ok(())
}

/// A record's use, in words.
const fn name_of(used: FrameUse) -> &'static str {
    match used {
        FrameUse::Free => "free",
        FrameUse::Table => "page tables",
        FrameUse::Page => "pages",
        FrameUse::Pinned => "pinned pages",
        FrameUse::Pool => "objects of the pools",
        FrameUse::Machine => "what exists once",
        FrameUse::Vector => "growing tables",
        _ => "something else",
    }
}

fn space(out: &mut Out<'_>, space: &memory::UserSpace) -> Result<(), Trouble> {
    let counters = space.counters();
    Ok(writeln!(
        out,
        " {:>8} {:>12} {:>10} {:>8}",
        counters.windows,
        Bytes(counters.reserved),
        counters.resident_pages,
        counters.tables
    )?)
}
