//! What must be true of memory where several processors run, asked in the machine.
//!
//! The question that matters is asked so: one processor reads a page as fast as it can while another unmaps it and completes the
//! flush; no read that begins afterwards succeeds. The control, in the table of attacks, does the same with the interrupts held back, and must see such a
//! read: so the question can be answered with no.

use super::shootdown::{self, bits, interrupts_sent};
use super::{
    Kernel, Mutex, UserSpace, in_space, kernel_space, leave_everywhere, loaded_on, new_user_space, switch_space,
};
use crate::cpu::{local, others, probe, user_copy};
use crate::thread::work;
use crate::weakness::{self, Defence};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use vmcore::addr::PageRange;
use vmcore::paging::{Access, FlushRequest, FlushScope};
use vmcore::vm_area::{Area, AreaKind};
use vmcore::vm_space::MapRequest;
use vmcore::{CpuMask, CpuSet, Platform};
use x86_64::instructions::interrupts::without_interrupts;

/// A test, and how many processors it takes.
pub(crate) type Test = (&'static str, u32, fn() -> Result<(), &'static str>);

/// Every test of several processors.
pub(crate) const ALL: &[Test] = &[
    ("processors_are_told_apart", 2, processors_are_told_apart),
    ("processors_have_the_same_registers", 2, processors_have_the_same_registers),
    ("unmapped_window_is_gone_on_every_processor", 2, unmapped_window_is_gone),
    ("unmapped_page_of_a_space_is_gone_on_every_processor", 2, unmapped_user_page_is_gone),
    ("space_of_one_processor_interrupts_nobody", 2, space_of_one_processor_interrupts_nobody),
    ("space_that_was_left_interrupts_nobody", 2, space_that_was_left_interrupts_nobody),
    ("space_that_stays_loaded_is_left_when_it_is_given_up", 2, space_that_stays_loaded),
    ("processors_flush_each_other", 2, processors_flush_each_other),
    ("flush_waits_for_who_does_not_look", 2, flush_waits_for_who_does_not_look),
    ("who_waits_for_a_lock_forgets_meanwhile", 2, who_waits_for_a_lock_forgets_meanwhile),
    ("requests_share_an_interrupt", 4, requests_share_an_interrupt),
];

const PAGE: u64 = super::frames::FRAME_SIZE;
const SCRATCH: u64 = 0xffff_ff84_8000_0000;
const USER_SCRATCH: u64 = 0x40_0000;
/// How often the page is read before it is unmapped, and after.
const READS: u64 = 300;
/// After so many reads the control gives up.
const CONTROL_READS: u64 = 1_000_000;
const ROUNDS: u32 = 4;

fn check(condition: bool, otherwise: &'static str) -> Result<(), &'static str> {
    if condition { Ok(()) } else { Err(otherwise) }
}

fn found(finding: impl core::fmt::Display) -> &'static str {
    crate::log!("  {finding}");
    "see the line above"
}

/// The processors but this one.
fn other_processors() -> impl Iterator<Item = usize> {
    bits(others::running() & !(1 << local::processor()))
}

/// Lets another processor work while `meanwhile` runs here, then waits until it is done.
fn beside<T>(cpu: usize, function: fn(), meanwhile: impl FnOnce() -> T) -> Result<T, &'static str> {
    check(work::give(cpu, function), "a processor does not take work")?;
    let result = meanwhile();
    wait_for(|| work::is_done(cpu));
    Ok(result)
}

fn wait_for(holds: impl Fn() -> bool) {
    while !holds() {
        super::relax();
    }
}

fn processors_are_told_apart() -> Result<(), &'static str> {
    static SEEN: AtomicU64 = AtomicU64::new(0);
    SEEN.store(1 << local::processor(), Ordering::Relaxed);
    for cpu in other_processors() {
        let note = || {
            SEEN.fetch_or(1 << local::processor(), Ordering::Relaxed);
        };
        beside(cpu, note, || ())?;
    }
    check(SEEN.load(Ordering::Relaxed) == others::running(), "a processor has another one's number")
}

fn processors_have_the_same_registers() -> Result<(), &'static str> {
    static DIFFER: AtomicBool = AtomicBool::new(false);
    DIFFER.store(!crate::cpu::agrees(), Ordering::Relaxed);
    for cpu in other_processors() {
        let compare = || {
            DIFFER.fetch_or(!crate::cpu::agrees(), Ordering::Relaxed);
        };
        beside(cpu, compare, || ())?;
    }
    check(!DIFFER.load(Ordering::Relaxed), "control registers or memory types differ")
}

/// What the processor that reads and the one that unmaps tell each other.
struct Hammer {
    /// Reads so far.
    reads: AtomicU64,
    /// The flush has returned.
    completed: AtomicBool,
    /// Reads that succeeded though they began after that.
    stale: AtomicU64,
    /// Reads that began after that.
    late: AtomicU64,
    stop: AtomicBool,
    space: AtomicPtr<UserSpace>,
}

static HAMMER: Hammer = Hammer {
    reads: AtomicU64::new(0),
    completed: AtomicBool::new(false),
    stale: AtomicU64::new(0),
    late: AtomicU64::new(0),
    stop: AtomicBool::new(false),
    space: AtomicPtr::new(core::ptr::null_mut()),
};

impl Hammer {
    fn reset(&self) {
        for counter in [&self.reads, &self.stale, &self.late] {
            counter.store(0, Ordering::Relaxed);
        }
        self.completed.store(false, Ordering::Relaxed);
        self.stop.store(false, Ordering::Release);
    }

    /// Reads until it is told to stop.
    fn run(&self, read: impl Fn() -> bool) {
        while !self.stop.load(Ordering::Acquire) {
            let late = self.completed.load(Ordering::Acquire);
            let succeeded = read();
            self.reads.fetch_add(1, Ordering::Relaxed);
            if late {
                self.stale.fetch_add(u64::from(succeeded), Ordering::Relaxed);
                self.late.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn hammer_window() {
    HAMMER.run(|| probe::read(SCRATCH).is_some());
}

fn hammer_space() {
    // SAFETY: the test keeps the space until this function has returned.
    let Some(space) = (unsafe { HAMMER.space.load(Ordering::Acquire).as_ref() }) else { return };
    in_space(space, || HAMMER.run(|| user_copy::copy_from_user(&mut [0], USER_SCRATCH).is_ok()));
}

/// Unmaps while another processor reads, and gives how many reads came too late and how many of those succeeded.
fn unmap_under_reads(
    cpu: usize,
    hammer: fn(),
    unmap: impl FnOnce() -> Result<(), &'static str>,
) -> Result<(u64, u64), &'static str> {
    HAMMER.reset();
    let outcome = beside(cpu, hammer, || {
        wait_for(|| HAMMER.reads.load(Ordering::Relaxed) >= READS);
        let outcome = unmap();
        HAMMER.completed.store(true, Ordering::Release);
        wait_for(|| {
            let (late, stale) = (HAMMER.late.load(Ordering::Relaxed), HAMMER.stale.load(Ordering::Relaxed));
            // The control has patience.
            late >= if weakness::lacks(Defence::Shootdown) && stale == 0 { CONTROL_READS } else { READS }
        });
        HAMMER.stop.store(true, Ordering::Release);
        outcome
    })?;
    outcome?;
    Ok((HAMMER.late.load(Ordering::Relaxed), HAMMER.stale.load(Ordering::Relaxed)))
}

fn open_area() -> Result<Area<Kernel>, &'static str> {
    Area::new(&Kernel, AreaKind::Open { size: PAGE }, ()).map_err(found)
}

fn window_under_reads(cpu: usize) -> Result<(u64, u64), &'static str> {
    let area = open_area()?;
    let range = kernel_space().map(&MapRequest::new(&area).at(SCRATCH)).map_err(found)?;
    check(probe::touch(SCRATCH), "a fresh window cannot be written")?;
    unmap_under_reads(cpu, hammer_window, || {
        kernel_space().unmap(range).map_err(found)?.complete();
        Ok(())
    })
}

fn unmapped_window_is_gone() -> Result<(), &'static str> {
    for cpu in other_processors() {
        for _ in 0..ROUNDS {
            let before = interrupts_sent();
            let (late, stale) = window_under_reads(cpu)?;
            check(late >= READS, "nothing was read after the flush")?;
            check(stale == 0, "an unmapped window was read after its flush")?;
            check(interrupts_sent() > before, "no interrupt was sent")?;
        }
    }
    Ok(())
}

/// For the table of attacks: whether another processor reads a window of the kernel's that is unmapped.
pub(crate) fn revoked_window_is_read() -> Result<bool, &'static str> {
    window_under_reads(1).map(|(_, stale)| stale > 0)
}

/// For the table of attacks: whether another processor reads a page of a space that is unmapped.
pub(crate) fn revoked_page_is_read() -> Result<bool, &'static str> {
    user_page_under_reads(1).map(|(_, stale)| stale > 0)
}

/// A space with one page, present.
fn space_with_page() -> Result<(UserSpace, PageRange), &'static str> {
    let space = new_user_space().map_err(found)?;
    let area = open_area()?;
    let range = space.map(&MapRequest::new(&area).at(USER_SCRATCH)).map_err(found)?;
    space.populate(range, Access::USER_DATA).map_err(found)?.complete();
    Ok((space, range))
}

fn user_page_under_reads(cpu: usize) -> Result<(u64, u64), &'static str> {
    let (space, range) = space_with_page()?;
    HAMMER.space.store((&raw const space).cast_mut(), Ordering::Release);
    unmap_under_reads(cpu, hammer_space, || {
        space.unmap(range).map_err(found)?.complete();
        Ok(())
    })
}

fn unmapped_user_page_is_gone() -> Result<(), &'static str> {
    for cpu in other_processors() {
        for _ in 0..ROUNDS {
            let (late, stale) = user_page_under_reads(cpu)?;
            check(late >= READS, "nothing was read after the flush")?;
            check(stale == 0, "an unmapped page was read after its flush")?;
        }
    }
    Ok(())
}

fn space_of_one_processor_interrupts_nobody() -> Result<(), &'static str> {
    let (space, range) = space_with_page()?;
    let before = interrupts_sent();
    in_space(&space, || {
        check(user_copy::copy_to_user(USER_SCRATCH, &[1]).is_ok(), "the page cannot be written")?;
        space.protect(range, Access::USER | Access::READ).map_err(found)?.complete();
        check(user_copy::copy_to_user(USER_SCRATCH, &[1]).is_err(), "the page can be written still")?;
        space.unmap(range).map_err(found)?.complete();
        check(user_copy::copy_from_user(&mut [0], USER_SCRATCH).is_err(), "the page is there still")
    })?;
    drop(space);
    check(interrupts_sent() == before, "another processor was interrupted")
}

/// A space that another processor has left changes without it, and is as it should be when that one comes back.
fn space_that_was_left_interrupts_nobody() -> Result<(), &'static str> {
    static READ: AtomicBool = AtomicBool::new(false);
    fn read_once() {
        // SAFETY: as in `hammer_space`.
        let Some(space) = (unsafe { HAMMER.space.load(Ordering::Acquire).as_ref() }) else { return };
        let read = in_space(space, || user_copy::copy_from_user(&mut [0], USER_SCRATCH).is_ok());
        READ.store(read, Ordering::Release);
    }
    let (space, range) = space_with_page()?;
    HAMMER.space.store((&raw const space).cast_mut(), Ordering::Release);
    beside(1, read_once, || ())?;
    check(READ.load(Ordering::Acquire), "the other processor cannot read the page")?;
    let before = interrupts_sent();
    space.unmap(range).map_err(found)?.complete();
    check(interrupts_sent() == before, "a processor that has left was interrupted")?;
    beside(1, read_once, || ())?;
    check(!READ.load(Ordering::Acquire), "the page is there still for who comes back")
}

/// A processor that waits for work keeps the last space loaded: it is asked to flush for that space, until the space is given up.
///
/// It may leave the space by itself at any time, for other work, or because somebody woke it: then there is nothing to be seen, and it is tried again.
fn space_that_stays_loaded() -> Result<(), &'static str> {
    const TRIES: u32 = 1000;
    fn stay() {
        let space = HAMMER.space.load(Ordering::Acquire);
        // What a thread of a program leaves behind that goes on elsewhere.
        // SAFETY: the test keeps the space until no processor has it loaded; interrupts are off.
        without_interrupts(|| unsafe {
            switch_space(space, false);
            switch_space(core::ptr::null_mut(), true);
        });
    }
    let (space, mut range) = space_with_page()?;
    HAMMER.space.store((&raw const space).cast_mut(), Ordering::Release);
    let is_loaded = || core::ptr::eq(loaded_on(1), &raw const space);
    let fresh_page = || {
        let range = space.map(&MapRequest::new(&open_area()?).at(USER_SCRATCH)).map_err(found)?;
        space.populate(range, Access::USER_DATA).map_err(found)?.complete();
        Ok(range)
    };
    let (mut asked, mut left) = (false, false);
    for _ in 0..TRIES {
        beside(1, stay, || ())?;
        let before = interrupts_sent();
        space.unmap(range).map_err(found)?.complete();
        asked |= interrupts_sent() > before;
        let stayed = is_loaded();
        leave_everywhere(&space);
        check(!is_loaded(), "a processor has a space loaded that was given up")?;
        left |= stayed;
        let before = interrupts_sent();
        space.unmap(fresh_page()?).map_err(found)?.complete();
        check(interrupts_sent() == before, "a processor that has left was interrupted")?;
        if asked && left {
            space.destroy().map_err(|(_, error)| found(error))?.complete();
            return Ok(());
        }
        range = fresh_page()?;
    }
    check(asked, "a processor that has the space loaded was not asked to flush")?;
    check(left, "no processor that waited for work kept the space loaded")
}

/// All processors unmap windows of the kernel's at the same time, with interrupts off and the heap's lock fought for.
fn processors_flush_each_other() -> Result<(), &'static str> {
    const TIMES: u64 = 20;
    static FAILED: AtomicBool = AtomicBool::new(false);
    fn map_and_unmap() {
        let own = SCRATCH + (local::processor() as u64 + 1) * 16 * PAGE;
        for time in 0..TIMES {
            let done = without_interrupts(|| {
                let block = alloc::vec![time; 64];
                let area = open_area()?;
                let range = kernel_space().map(&MapRequest::new(&area).at(own)).map_err(found)?;
                let written = probe::touch(own);
                kernel_space().unmap(range).map_err(found)?.complete();
                check(written && probe::read(own).is_none() && block.iter().all(|word| *word == time), "")
            });
            FAILED.fetch_or(done.is_err(), Ordering::Relaxed);
        }
    }
    FAILED.store(false, Ordering::Relaxed);
    for cpu in other_processors() {
        check(work::give(cpu, map_and_unmap), "a processor does not take work")?;
    }
    map_and_unmap();
    wait_for(|| other_processors().all(work::is_done));
    check(!FAILED.load(Ordering::Relaxed), "a window was not there, or not gone")
}

/// Makes a processor forget everything.
fn flush_everything_on(cpu: usize) {
    let mut request = FlushRequest { cpus: CpuMask::EMPTY, scope: FlushScope::new() };
    request.cpus.insert(cpu);
    request.scope.set_everything();
    Kernel.flush(&request);
}

/// A flush does not return before a processor that has interrupts off has done its part.
fn flush_waits_for_who_does_not_look() -> Result<(), &'static str> {
    static CLOSED: AtomicBool = AtomicBool::new(false);
    static LOOKED: AtomicBool = AtomicBool::new(false);
    fn look_late() {
        without_interrupts(|| {
            CLOSED.store(true, Ordering::Release);
            while shootdown::waiting_for(local::processor()) == 0 {
                core::hint::spin_loop();
            }
            // Long enough for who does not wait.
            for _ in 0..100_000 {
                core::hint::spin_loop();
            }
            LOOKED.store(true, Ordering::Release);
        });
    }
    for cpu in other_processors() {
        CLOSED.store(false, Ordering::Relaxed);
        LOOKED.store(false, Ordering::Relaxed);
        let waited = beside(cpu, look_late, || {
            wait_for(|| CLOSED.load(Ordering::Acquire));
            flush_everything_on(cpu);
            LOOKED.load(Ordering::Acquire)
        })?;
        check(waited, "the flush returned before the other processor had looked")?;
    }
    Ok(())
}

/// The holder of a lock flushes a processor that waits for that lock: without its looking meanwhile neither would get on.
fn who_waits_for_a_lock_forgets_meanwhile() -> Result<(), &'static str> {
    static LOCK: Mutex<()> = Mutex::new(());
    static NEAR: AtomicBool = AtomicBool::new(false);
    fn wait_for_lock() {
        without_interrupts(|| {
            NEAR.store(true, Ordering::Release);
            drop(LOCK.lock());
        });
    }
    for cpu in other_processors() {
        NEAR.store(false, Ordering::Relaxed);
        let held = LOCK.lock();
        check(work::give(cpu, wait_for_lock), "a processor does not take work")?;
        wait_for(|| NEAR.load(Ordering::Acquire));
        flush_everything_on(cpu);
        drop(held);
        wait_for(|| work::is_done(cpu));
    }
    Ok(())
}

/// Two processors ask a third one, which does not look, and one interrupt is enough.
fn requests_share_an_interrupt() -> Result<(), &'static str> {
    static CLOSED: AtomicBool = AtomicBool::new(false);
    fn closed() {
        without_interrupts(|| {
            CLOSED.store(true, Ordering::Release);
            while CLOSED.load(Ordering::Acquire) {
                core::hint::spin_loop();
            }
        });
    }
    fn ask() {
        flush_everything_on(1);
    }
    let before = interrupts_sent();
    beside(1, closed, || {
        wait_for(|| CLOSED.load(Ordering::Acquire));
        for cpu in [2, 3] {
            check(work::give(cpu, ask), "a processor does not take work")?;
        }
        wait_for(|| shootdown::waiting_for(1) == 0b1100);
        let sent = interrupts_sent() - before;
        CLOSED.store(false, Ordering::Release);
        wait_for(|| work::is_done(2) && work::is_done(3));
        check(sent == 1, "each request had an interrupt of its own")
    })?
}
