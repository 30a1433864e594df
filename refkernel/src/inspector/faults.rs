//! The last faults of each processor, each with what was decided about it and why: page faults, and whatever else the kernel has ended a program for, with the same words as in
//! the log.
//!
//! What is refused is recorded always: whoever refuses has time. What is answered is recorded only while the inspector listens, so that the path of a
//! fault that is answered costs one look at a flag more.
//!
//! A processor writes its own ring, with interrupts off; the lock is for who reads it from elsewhere.

use super::subject::Trouble;
use super::terminal::Out;
use crate::cpu::local::{CPUS_MAX, PerCpu};
use crate::cpu::trap::PageFault;
use crate::cpu::{clock, others};
use crate::memory::shootdown::bits;
use crate::memory::{Answered, Mutex};
use crate::process::Report;
use crate::thread::scheduler;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vmcore::vm_space::{Resolution, SpaceError};
use x86_64::instructions::interrupts::without_interrupts;

/// How many each processor keeps.
const KEPT: usize = 32;

/// How a fault was answered, or why it was not.
type Decided = Result<Answered, Option<SpaceError>>;

/// A fault of before.
#[derive(Clone, Copy)]
struct Record {
    /// Its number among all that were recorded.
    number: u64,
    time: u64,
    /// The process whose program ran, or zero.
    process: u64,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    /// A page fault, of a program that goes on or of the kernel.
    Fault(PageFault, Decided),
    /// The end of a program.
    End(Report),
}

/// The last ones of a processor.
struct Ring {
    records: [Option<Record>; KEPT],
    next: usize,
}

static RINGS: PerCpu<Mutex<Ring>> =
    PerCpu::new([const { Mutex::new(Ring { records: [None; KEPT], next: 0 }) }; CPUS_MAX]);
static NUMBER: AtomicU64 = AtomicU64::new(0);
/// Whether answered faults are recorded as well.
static ALL: AtomicBool = AtomicBool::new(false);

/// From now on answered faults are recorded as well.
pub(super) fn record_all() {
    ALL.store(true, Ordering::Relaxed);
}

/// Whether answered faults are recorded.
#[inline]
pub(crate) fn are_recorded() -> bool {
    ALL.load(Ordering::Relaxed)
}

/// Records a fault. On the processor that had it, with interrupts off.
#[cold]
#[inline(never)]
pub(crate) fn record(fault: PageFault, decided: Decided) {
    if fault.user() && decided.is_err() {
        // It ends the program, and is recorded with the window then.
        return;
    }
    note(What::Fault(fault, decided));
}

/// Records the end of a program, by the thread that it was.
pub(crate) fn record_end(report: Report) {
    without_interrupts(|| note(What::End(report)));
}

fn note(what: What) {
    let process = scheduler::current().map_or(0, |thread| thread.process());
    let number = NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
    let record = Record { number, time: clock::now(), process, what };
    let mut ring = RINGS.here().lock();
    let next = ring.next;
    if let Some(slot) = ring.records.get_mut(next) {
        *slot = Some(record);
    }
    ring.next = (next + 1) % KEPT;
}

/// The recorded fault with the lowest number above `number`, and its processor.
fn first_after(number: u64) -> Option<(usize, Record)> {
    let of = |cpu| {
        let ring = RINGS.of(cpu)?.lock();
        let later = ring.records.iter().flatten().filter(|record| record.number > number);
        later.min_by_key(|record| record.number).map(|record| (cpu, *record))
    };
    bits(others::running()).filter_map(of).min_by_key(|(_, record)| record.number)
}

/// Shows what is recorded, the oldest first.
pub(super) fn list(out: &mut Out<'_>) -> Result<(), Trouble> {
    let now = clock::now();
    // What comes while this is written is not shown: it could go on for ever.
    let last = NUMBER.load(Ordering::Relaxed);
    let (mut number, mut count) = (0, 0);
    while let Some((cpu, record)) = first_after(number).filter(|(_, record)| record.number <= last) {
        number = record.number;
        count += 1;
        let ago = now.saturating_sub(record.time) / clock::per_microsecond() / 1000;
        write!(out, "{number:>6}  processor {cpu}  {ago:>8} ms ago  ")?;
        match crate::process::pid_of(record.process) {
            Some(pid) => write!(out, "process {pid:<3} ")?,
            None => write!(out, "kernel      ")?,
        }
        match record.what {
            What::Fault(fault, decided) => {
                let who = if fault.user() { "program" } else { "kernel" };
                writeln!(out, "{who}: {fault}, by the instruction at {:#x}", fault.rip)?;
                writeln!(out, "        {}", Words(decided))?;
            }
            What::End(report) => writeln!(out, "program: killed: {report}")?,
        }
    }
    let lost = last.saturating_sub(count);
    Ok(writeln!(out, "{count} faults, {lost} older ones are not kept")?)
}

/// What was decided, in words.
struct Words(Decided);

impl fmt::Display for Words {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ok(Answered::Resolved(Resolution::Mapped)) => {
                formatter.write_str("answered: a page was mapped, or its permissions were raised")
            }
            Ok(Answered::Resolved(Resolution::Spurious)) => {
                formatter.write_str("answered: the tables allowed the access already")
            }
            Ok(Answered::Resolved(_)) => formatter.write_str("waits: the page is its pager's to bring"),
            Ok(Answered::Repeated) => formatter.write_str("repeated: a change there was still being flushed"),
            Err(Some(error)) => write!(formatter, "refused: {error}"),
            Err(None) => formatter
                .write_str("refused: no space was asked; the address is not the program's, or the tables are damaged"),
        }
    }
}
