//! A program that needs more memory than there is: pages go and come back, and hold what was written to them.
//!
//! Every word of a page says which page it is, and which version: a page that comes back as another one, or as an older one, is noticed. Three quarters of a page are the
//! same few words again and again, the rest are no two alike: about as memory of programs compresses.

use core::sync::atomic::{AtomicU64, Ordering};

use refkernel_runtime::{ErrorCode, Handle, PAGE_SIZE, StartInformation, call, program_status, say};

use crate::READ_WRITE;
use crate::life::stack;
use crate::report::Report;

const WORDS: u64 = PAGE_SIZE / 8;
/// Pages of the boot test, for which the kernel leaves half as much.
const PAGES: u64 = 512;
/// Pages of the variant that is started by hand, unless it is told another number.
const MANY: u64 = 40 * 256;

/// The memory, as the threads and the copy of this process find it.
static BASE: AtomicU64 = AtomicU64::new(0);
static COUNT: AtomicU64 = AtomicU64::new(0);
/// Words that were wrong.
static WRONG: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);

fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (value ^ value >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ value >> 32
}

/// What word `word` of a page holds in a version.
fn content(page: u64, version: u64, word: u64) -> u64 {
    // Some become zero again, of which nothing is to be kept.
    if version == 2 && page % 8 == 4 {
        return 0;
    }
    let word = if word < WORDS / 4 { word } else { WORDS + word / 32 };
    mix(page << 40 | version << 20 | word)
}

fn place(page: u64) -> *mut u64 {
    (BASE.load(Ordering::Relaxed) + page * PAGE_SIZE) as *mut u64
}

fn write(page: u64, version: u64) {
    for word in 0..WORDS {
        // SAFETY: the window shows the page, and each page is one thread's at a time.
        unsafe { place(page).add(word as usize).write_volatile(content(page, version, word)) };
    }
}

/// Counts the words that do not hold what the version of the page is (none: zero).
fn compare(page: u64, version: Option<u64>) {
    let wrong = (0..WORDS).filter(|word| {
        // SAFETY: as for `write`.
        let found = unsafe { place(page).add(*word as usize).read_volatile() };
        found != version.map_or(0, |version| content(page, version, *word))
    });
    WRONG.fetch_add(wrong.count() as u64, Ordering::Relaxed);
}

/// Goes over the pages from `first` on and before `end` several times, in different orders.
fn go_over(first: u64, end: u64) {
    let count = end - first;
    (first..end).for_each(|page| write(page, 1));
    for page in (first..end).rev() {
        compare(page, Some(1));
        // The first half of a page stays as it was where the version does not change: every other page is only read.
        if page % 2 == 0 {
            write(page, 2);
        }
    }
    let version = |page: u64| Some(if page.is_multiple_of(2) { 2 } else { 1 });
    // In steps that come to every page, since their number is odd and the pages' a power of two, or not a multiple of it.
    (0..count).map(|step| first + step * 37 % count).for_each(|page| compare(page, version(page)));
    let mut random = first + 1;
    for _ in 0..count {
        random = mix(random);
        let page = first + random % count;
        compare(page, version(page));
        // One word, written and read back at once and later: the last write to a page before it goes.
        // SAFETY: as for `write`.
        unsafe { place(page).write_volatile(content(page, version(page).unwrap_or(0), 0)) };
    }
    (first..end).for_each(|page| compare(page, version(page)));
}

extern "C" fn second_half(_: u64) -> ! {
    let count = COUNT.load(Ordering::Relaxed);
    go_over(count / 2, count);
    DONE.fetch_add(1, Ordering::Release);
    call::thread_exit()
}

/// The copy of this process, which shows the same memory.
extern "C" fn copy(_: u64) -> ! {
    WRONG.store(0, Ordering::Relaxed);
    for page in (0..COUNT.load(Ordering::Relaxed)).step_by(3) {
        compare(page, Some(if page.is_multiple_of(2) { 2 } else { 1 }));
    }
    call::exit(u32::from(WRONG.load(Ordering::Relaxed) != 0))
}

pub(crate) fn check(report: &mut Report) {
    let outcome = run(PAGES, report);
    report.done("everything that was asked", outcome);
}

/// The variant that is started by hand: `run check 1002`, with little memory.
pub(crate) fn by_hand(start: &StartInformation) -> u32 {
    let mut report = Report::new("pressure");
    let pages = (start.argument >> 32).max(1) * MANY;
    say!("pressure: {} MiB", pages / 256);
    let outcome = run(pages, &mut report);
    report.done("everything that was asked", outcome);
    if report.status() == program_status::SUCCESS { program_status::SUCCESS } else { program_status::FAILURE }
}

fn run(pages: u64, report: &mut Report) -> Result<(), ErrorCode> {
    let size = pages * PAGE_SIZE;
    let area = call::area_create_swappable(size)?;
    BASE.store(call::area_map(area, 0, 0, size, READ_WRITE)?, Ordering::Relaxed);
    COUNT.store(pages, Ordering::Relaxed);
    let top = stack()?;
    // SAFETY: the stack is the thread's alone.
    unsafe { call::thread_start(second_half, top, 0)? };
    go_over(0, pages / 2);
    while DONE.load(Ordering::Acquire) == 0 {
        call::thread_sleep(1000)?;
    }
    report.check("every page came back as it was", WRONG.load(Ordering::Relaxed) == 0);
    let top = stack()?;
    // SAFETY: the stack is the copy's alone.
    let process = unsafe { call::process_clone(copy, top, 0)? };
    report.check("a copy of the process sees it too", call::process_wait(process) == Ok(0));
    call::handle_close(process)?;
    cut_and_grown(area, pages, report)?;
    // SAFETY: nobody uses the window any more.
    unsafe { call::area_unmap(BASE.load(Ordering::Relaxed), size)? };
    call::handle_close(area)
}

/// What was cut off is zero if the area grows again, also where it was not in memory.
fn cut_and_grown(area: Handle, pages: u64, report: &mut Report) -> Result<(), ErrorCode> {
    let before = WRONG.swap(0, Ordering::Relaxed);
    // SAFETY: what is cut off is used again only where the area has grown again.
    unsafe {
        call::area_resize(area, pages / 4 * PAGE_SIZE)?;
        call::area_resize(area, pages * PAGE_SIZE)?;
    }
    for page in 0..pages {
        compare(page, (page < pages / 4).then_some(if page.is_multiple_of(2) { 2 } else { 1 }));
    }
    report.check("what was cut off is gone, and the rest is there", WRONG.swap(before, Ordering::Relaxed) == 0);
    Ok(())
}
