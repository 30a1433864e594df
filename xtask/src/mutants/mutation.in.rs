//! Which mutant is chosen: `VMCORE_MUTANT` is its number, `none`, or `record` to write down which choices there were, in `VMCORE_MUTANTS_REACHED`.

extern crate std;

use std::env;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::string::String;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex};

const NONE: u32 = u32::MAX;
const RECORD: u32 = u32::MAX - 1;

static CHOSEN: LazyLock<u32> = LazyLock::new(|| match env::var("VMCORE_MUTANT").unwrap_or_default().as_str() {
    "record" => RECORD,
    number => number.parse().unwrap_or(NONE),
});
static REACHED: [AtomicBool; 1 << 16] = [const { AtomicBool::new(false) }; 1 << 16];
static RECORDS: LazyLock<Mutex<File>> = LazyLock::new(|| {
    let path = env::var("VMCORE_MUTANTS_REACHED").unwrap();
    Mutex::new(OpenOptions::new().create(true).append(true).open(path).unwrap())
});

/// The chosen mutant's number, counted from `first`. While compiling, none is chosen.
pub(crate) const fn at(first: u32) -> u32 {
    core::intrinsics::const_eval_select((first,), constant, chosen)
}

const fn constant(_: u32) -> u32 {
    NONE
}

#[inline(always)]
fn chosen(first: u32) -> u32 {
    let chosen = *CHOSEN;
    if chosen == RECORD {
        record(first);
        return NONE;
    }
    chosen.wrapping_sub(first)
}

#[cold]
#[inline(never)]
fn record(first: u32) {
    if !REACHED[first as usize].swap(true, Ordering::Relaxed) {
        let mut line = String::new();
        std::fmt::Write::write_fmt(&mut line, format_args!("{first}\n")).unwrap();
        RECORDS.lock().unwrap().write_all(line.as_bytes()).unwrap();
    }
}
