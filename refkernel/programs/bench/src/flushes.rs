//! Interrupts that flushes send to other processors, counted by the kernel.
//!
//! A process with one thread has run on one processor only: nothing that it does with its memory may interrupt another. The control has a second thread at work on
//! another processor, and must be seen to interrupt it.

use core::sync::atomic::{AtomicU64, Ordering};

use refkernel_runtime::{Access, Count, ErrorCode, PAGE_SIZE, call, say};

use crate::memory::{DESTINATION, READ_WRITE, WINDOW, map, protect, relocate, unmap, write_all};

/// How often memory is mapped, touched, protected, moved and unmapped.
const ROUNDS: u64 = 256;
/// Changes per round that take something away from tables.
const CHANGES: u64 = 3;
const SIZE: u64 = 16 * PAGE_SIZE;

static TURNS: AtomicU64 = AtomicU64::new(0);
static ENOUGH: AtomicU64 = AtomicU64::new(0);

extern "C" fn run(_: u64) -> ! {
    while ENOUGH.load(Ordering::Acquire) == 0 {
        TURNS.fetch_add(1, Ordering::Release);
        core::hint::spin_loop();
    }
    call::thread_exit()
}

pub(crate) fn measure() -> Result<(), ErrorCode> {
    report("flush-interrupts-one-cpu")?;
    let top = map(0, SIZE)? + SIZE;
    // SAFETY: the stack is the thread's alone.
    unsafe { call::thread_start(run, top, 0)? };
    while TURNS.load(Ordering::Acquire) == 0 {
        core::hint::spin_loop();
    }
    report("flush-interrupts-two-cpus")?;
    ENOUGH.store(1, Ordering::Release);
    Ok(())
}

fn report(name: &str) -> Result<(), ErrorCode> {
    let before = call::kernel_count(Count::FlushInterrupts)?;
    for _ in 0..ROUNDS {
        map(WINDOW, SIZE)?;
        write_all(WINDOW, SIZE);
        protect(WINDOW, SIZE, Access::READ)?;
        protect(WINDOW, SIZE, READ_WRITE)?;
        write_all(WINDOW, SIZE);
        relocate(WINDOW, SIZE, DESTINATION)?;
        unmap(DESTINATION, SIZE)?;
    }
    let sent = call::kernel_count(Count::FlushInterrupts)? - before;
    say!("bench {name}: {sent} interrupts ({} operations of {} pages)", ROUNDS * CHANGES, SIZE / PAGE_SIZE);
    Ok(())
}
