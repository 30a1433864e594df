//! Rows about one page at a time: the call that does nothing, faults, mapping and unmapping, splitting and merging.

use refkernel_runtime::{Access, ErrorCode, PAGE_SIZE, call};

use crate::memory::{READ_WRITE, WINDOW, map, protect, read, unmap, write};
use crate::samples::{Bench, Row};

const WARM_UP: usize = 16;

/// A row of one page.
const fn row(name: &'static str) -> Row {
    Row { name, operations: 1001, pages: 1, warm_up: WARM_UP }
}

pub(crate) fn measure(bench: Bench) -> Result<(), ErrorCode> {
    bench.row(row("null-call"), |watch, _| watch.time(call::null))?;
    faults(bench)?;
    mappings(bench)?;
    split(bench)?;
    windows(bench, "fault-16-windows", 16)?;
    windows(bench, "fault-10000-windows", 10_000)
}

/// The pages that a row of faults takes, warm-up included.
fn pages(bench: Bench) -> u64 {
    (bench.often(row("").operations) + WARM_UP) as u64
}

/// First accesses to memory of the program's own.
fn faults(bench: Bench) -> Result<(), ErrorCode> {
    let size = pages(bench) * PAGE_SIZE;
    map(WINDOW, size)?;
    bench.row(row("read-fault"), |watch, index| {
        watch.time(|| read(WINDOW + index as u64 * PAGE_SIZE));
        Ok(())
    })?;
    unmap(WINDOW, size)?;
    anonymous(bench, "anonymous-fault")
}

fn anonymous(bench: Bench, name: &'static str) -> Result<(), ErrorCode> {
    let size = pages(bench) * PAGE_SIZE;
    map(WINDOW, size)?;
    bench.row(row(name), |watch, index| {
        watch.time(|| write(WINDOW + index as u64 * PAGE_SIZE));
        Ok(())
    })?;
    unmap(WINDOW, size)
}

fn mappings(bench: Bench) -> Result<(), ErrorCode> {
    bench.row(row("map-unmap"), |watch, _| watch.time(|| unmap(map(0, PAGE_SIZE)?, PAGE_SIZE)))?;
    bench.row(row("map-touch-unmap"), |watch, _| {
        watch.time(|| {
            let address = map(0, PAGE_SIZE)?;
            write(address);
            unmap(address, PAGE_SIZE)
        })
    })?;
    let area = call::area_create(PAGE_SIZE)?;
    bench.row(row("map-unmap-area"), |watch, _| {
        watch.time(|| unmap(call::area_map(area, 0, 0, PAGE_SIZE, READ_WRITE)?, PAGE_SIZE))
    })?;
    call::handle_close(area)
}

/// One page of 64 is protected, and is as the others again.
fn split(bench: Bench) -> Result<(), ErrorCode> {
    const SIZE: u64 = 64 * PAGE_SIZE;
    const MIDDLE: u64 = WINDOW + 32 * PAGE_SIZE;
    map(WINDOW, SIZE)?;
    crate::memory::write_all(WINDOW, SIZE);
    bench.row(row("split"), |watch, _| {
        watch.time(|| protect(MIDDLE, PAGE_SIZE, Access::READ))?;
        protect(MIDDLE, PAGE_SIZE, READ_WRITE)?;
        write(MIDDLE);
        Ok(())
    })?;
    bench.row(row("merge"), |watch, _| {
        protect(MIDDLE, PAGE_SIZE, Access::READ)?;
        watch.time(|| protect(MIDDLE, PAGE_SIZE, READ_WRITE))?;
        write(MIDDLE);
        Ok(())
    })?;
    unmap(WINDOW, SIZE)
}

/// The fault once more, with so many other windows on both sides, each alone between free addresses.
fn windows(bench: Bench, name: &'static str, count: u64) -> Result<(), ErrorCode> {
    const SIDES: [u64; 2] = [WINDOW - (1 << 40), WINDOW + (1 << 40)];
    let windows = || SIDES.into_iter().flat_map(|side| (0..count / 2).map(move |index| side + index * 2 * PAGE_SIZE));
    for window in windows() {
        map(window, PAGE_SIZE)?;
    }
    anonymous(bench, name)?;
    for window in windows() {
        unmap(window, PAGE_SIZE)?;
    }
    Ok(())
}
