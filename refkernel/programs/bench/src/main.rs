//! Measures calls, faults and mappings from ring 3, with the processor's time-stamp counter.
//!
//! Under QEMU with `-icount shift=0` the counter counts instructions, so the figures are repeatable to the instruction. Each
//! operation is timed alone and the median is given, with the cost of reading the counter taken off:
//!
//! ```text
//! bench NAME: MEDIAN instructions (N operations)
//! ```

#![no_std]
#![no_main]

use core::arch::x86_64::_rdtsc;

use refkernel_runtime::{Access, ErrorCode, PAGE_SIZE, StartInformation, call, program, program_status, say};

program!(main);

/// How often each operation is timed.
const OPERATIONS: usize = 1001;

/// Operations before those that are timed: they meet the code and the tables for the first time.
const WARM_UP: usize = 16;

const READ_WRITE: Access = Access::READ_WRITE;

fn main(_: &StartInformation) -> u32 {
    match measure() {
        Ok(()) => program_status::SUCCESS,
        Err(error) => {
            say!("bench: an operation failed: {error}");
            program_status::FAILURE
        }
    }
}

fn measure() -> Result<(), ErrorCode> {
    let counter = median(|_| Ok(()))?;
    say!("bench: reading the counter costs {counter} instructions, taken off below");
    let report = |name: &str, median: u64| {
        say!("bench {name}: {} instructions ({OPERATIONS} operations)", median.saturating_sub(counter));
    };

    report("null-system-call", median(|_| call::null())?);

    let size = (OPERATIONS + WARM_UP) as u64 * PAGE_SIZE;
    let area = call::area_create(size)?;
    let address = call::area_map(area, 0, 0, size, READ_WRITE)?;
    let fault = median(|index| {
        touch(address + index as u64 * PAGE_SIZE);
        Ok(())
    })?;
    report("anonymous-fault", fault);
    // SAFETY: the window was only used by the measurement above.
    unsafe { call::area_unmap(address, size)? };
    call::handle_close(area)?;

    let area = call::area_create(PAGE_SIZE)?;
    let map_unmap = median(|_| {
        let address = call::area_map(area, 0, 0, PAGE_SIZE, READ_WRITE)?;
        // SAFETY: nothing uses the window.
        unsafe { call::area_unmap(address, PAGE_SIZE) }
    })?;
    report("map-unmap", map_unmap);

    let map_touch_unmap = median(|_| {
        let address = call::area_map(area, 0, 0, PAGE_SIZE, READ_WRITE)?;
        touch(address);
        // SAFETY: the window is not used any more.
        unsafe { call::area_unmap(address, PAGE_SIZE) }
    })?;
    report("map-touch-unmap", map_touch_unmap);
    call::handle_close(area)?;

    let create_map_unmap = median(|_| {
        let area = call::area_create(PAGE_SIZE)?;
        let address = call::area_map(area, 0, 0, PAGE_SIZE, READ_WRITE)?;
        // SAFETY: nothing uses the window.
        unsafe { call::area_unmap(address, PAGE_SIZE)? };
        call::handle_close(area)
    })?;
    report("create-map-unmap-close", create_map_unmap);
    Ok(())
}

/// Writes a byte where a window is.
fn touch(address: u64) {
    // SAFETY: the callers map the page to be written, and nothing else uses it.
    unsafe { (address as *mut u8).write_volatile(1) };
}

/// The median of the time that `operation` takes, called with 0, 1, 2, …; the first calls are not timed.
#[inline(never)]
fn median(mut operation: impl FnMut(usize) -> Result<(), ErrorCode>) -> Result<u64, ErrorCode> {
    for index in 0..WARM_UP {
        operation(index)?;
    }
    let mut times = [0; OPERATIONS];
    for (index, time) in times.iter_mut().enumerate() {
        // SAFETY: every x86-64 processor has the counter, and the kernel leaves it to programs.
        let before = unsafe { _rdtsc() };
        operation(WARM_UP + index)?;
        // SAFETY: as above.
        let after = unsafe { _rdtsc() };
        *time = after.saturating_sub(before);
    }
    times.sort_unstable();
    Ok(times[OPERATIONS / 2])
}
