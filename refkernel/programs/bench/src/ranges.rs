//! Rows about 4,096 pages at once, every one of them touched before.

use refkernel_runtime::{Access, ErrorCode, PAGE_SIZE};

use crate::memory::{DESTINATION, PAGES, READ_WRITE, SIZE, WINDOW, map, protect, read_all, relocate, unmap, write_all};
use crate::samples::{Bench, Row};

const fn row(name: &'static str) -> Row {
    Row { name, operations: 17, pages: PAGES, warm_up: 1 }
}

pub(crate) fn measure(bench: Bench) -> Result<(), ErrorCode> {
    bench.row(row("unmap-touched"), |watch, _| {
        map(WINDOW, SIZE)?;
        write_all(WINDOW, SIZE);
        watch.time(|| unmap(WINDOW, SIZE))
    })?;
    protection(bench)?;
    moves(bench, 0, ["move", "move-write-all"])?;
    // One page further: no table is shared out whole, every entry moves alone.
    moves(bench, PAGE_SIZE, ["move-unaligned", "move-unaligned-write-all"])
}

fn protection(bench: Bench) -> Result<(), ErrorCode> {
    map(WINDOW, SIZE)?;
    let prepare = || {
        protect(WINDOW, SIZE, READ_WRITE)?;
        write_all(WINDOW, SIZE);
        Ok(())
    };
    bench.row(row("protect"), |watch, _| {
        prepare()?;
        watch.time(|| protect(WINDOW, SIZE, Access::READ))
    })?;
    bench.row(row("protect-read-all"), |watch, _| {
        prepare()?;
        watch.time(|| {
            protect(WINDOW, SIZE, Access::READ)?;
            read_all(WINDOW, SIZE);
            Ok(())
        })
    })?;
    bench.row(row("protect-write-all"), |watch, _| {
        prepare()?;
        watch.time(|| {
            protect(WINDOW, SIZE, Access::READ)?;
            protect(WINDOW, SIZE, READ_WRITE)?;
            write_all(WINDOW, SIZE);
            Ok(())
        })
    })?;
    unmap(WINDOW, SIZE)
}

/// Moves to a place so many bytes behind a border of 1 GiB, and back from there unmeasured.
fn moves(bench: Bench, offset: u64, [alone, with_writes]: [&'static str; 2]) -> Result<(), ErrorCode> {
    map(WINDOW, SIZE)?;
    let to = DESTINATION + offset;
    bench.row(row(alone), |watch, _| {
        write_all(WINDOW, SIZE);
        watch.time(|| relocate(WINDOW, SIZE, to))?;
        relocate(to, SIZE, WINDOW)?;
        Ok(())
    })?;
    bench.row(row(with_writes), |watch, _| {
        write_all(WINDOW, SIZE);
        watch.time(|| {
            relocate(WINDOW, SIZE, to)?;
            write_all(to, SIZE);
            Ok(())
        })?;
        relocate(to, SIZE, WINDOW)?;
        Ok(())
    })?;
    unmap(WINDOW, SIZE)
}
