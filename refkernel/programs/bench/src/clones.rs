//! Rows about copies of the process: making them, what parent and copy pay afterwards, and their end.
//!
//! The process is small: the program itself, its stack, a page that it shares with its copies, a stack for these, and the window that the row is about.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use refkernel_runtime::{ErrorCode, FOREVER, Handle, PAGE_SIZE, call};

use crate::memory::{PAGES, READ_WRITE, SIZE, WINDOW, map, read_all, unmap, write, write_all};
use crate::samples::{Bench, OPERATIONS_MAX, Row, Samples, Watch, interrupts, now};

/// Bytes of a copy's stack.
const STACK_SIZE: u64 = 4 * PAGE_SIZE;

const fn row(name: &'static str, pages: u64) -> Row {
    Row { name, operations: 33, pages, warm_up: 2 }
}

/// A page that parent and copy both see.
#[repr(C)]
struct Shared {
    /// The copy's word that it is there.
    arrived: AtomicU32,
    /// The parent's word that it may go.
    released: AtomicU32,
    /// When the copy was done.
    finished: AtomicU64,
}

/// What copies need.
struct Copies {
    shared: &'static Shared,
    address: u64,
    /// The end of their stack.
    top: u64,
}

impl Copies {
    fn new() -> Result<Self, ErrorCode> {
        let area = call::area_create(PAGE_SIZE)?;
        let address = call::area_map(area, 0, 0, PAGE_SIZE, READ_WRITE)?;
        call::handle_close(area)?;
        // SAFETY: the window is a page of zeros, which is a value of the type, and stays.
        let shared = unsafe { &*(address as *const Shared) };
        // Touched, so that no first access to it is measured.
        shared.finished.store(0, Ordering::Relaxed);
        let top = map(0, STACK_SIZE)? + STACK_SIZE;
        Ok(Self { shared, address, top })
    }

    /// Makes one that begins with `entry`.
    #[inline(always)]
    fn make(&self, entry: call::Entry) -> Result<Handle, ErrorCode> {
        // SAFETY: the stack is the copy's: there is one at a time, and this process does not use it.
        unsafe { call::process_clone(entry, self.top, self.address) }
    }

    /// Waits until one is over.
    #[inline(always)]
    fn end(copy: Handle) -> Result<(), ErrorCode> {
        let ending = call::process_wait(copy)?;
        call::handle_close(copy)?;
        // A copy that did something else has not measured what it was to.
        if ending == 0 { Ok(()) } else { Err(ErrorCode::Closed) }
    }

    /// Waits until one that waits is on its way to waiting.
    fn arrive(&self) -> Result<(), ErrorCode> {
        while self.shared.arrived.swap(0, Ordering::Acquire) == 0 {
            call::thread_yield()?;
        }
        // It is about to wait: it gets there in its next turn.
        call::thread_yield()
    }

    /// Lets one that waits go, and waits until it is over.
    fn release(&self, copy: Handle) -> Result<(), ErrorCode> {
        self.shared.released.store(1, Ordering::Release);
        call::address_wake(&self.shared.released, 1)?;
        Self::end(copy)?;
        self.shared.released.store(0, Ordering::Release);
        Ok(())
    }
}

extern "C" fn leave(_: u64) -> ! {
    call::exit(0)
}

/// Is there until it is released.
extern "C" fn stay(shared: u64) -> ! {
    // SAFETY: the parent passed the address of the window, which stays.
    let shared = unsafe { &*(shared as *const Shared) };
    shared.arrived.store(1, Ordering::Release);
    while shared.released.load(Ordering::Acquire) == 0 {
        let _ = call::address_wait(&shared.released, 0, FOREVER);
    }
    call::exit(0)
}

/// Reads everything.
extern "C" fn read_everything(shared: u64) -> ! {
    // SAFETY: as above.
    let shared = unsafe { &*(shared as *const Shared) };
    read_all(WINDOW, SIZE);
    shared.finished.store(now(), Ordering::Release);
    call::exit(0)
}

pub(crate) fn measure(bench: Bench) -> Result<(), ErrorCode> {
    let copies = Copies::new()?;
    map(WINDOW, SIZE)?;
    made(bench, &copies, "clone-0", || ())?;
    let resident = || write_all(WINDOW, SIZE);
    made(bench, &copies, "clone-4096", resident)?;
    bench.row(row("clone-first-write", PAGES), |watch, _| {
        resident();
        let copy = watch.time(|| {
            let copy = copies.make(leave);
            write(WINDOW);
            copy
        })?;
        Copies::end(copy)
    })?;
    bench.row(row("clone-exit-wait", PAGES), |watch, _| {
        resident();
        watch.time(|| Copies::end(copies.make(leave)?))
    })?;
    bench.row(row("clone-child-reads-all", PAGES), |watch, _| {
        resident();
        let interrupts = interrupts();
        let before = now();
        let copy = copies.make(read_everything)?;
        Copies::end(copy)?;
        watch.add(copies.shared.finished.load(Ordering::Acquire).saturating_sub(before), interrupts);
        Ok(())
    })?;
    bench.row(row("clone-parent-writes-all", PAGES), |watch, _| {
        resident();
        let copy = watch.time(|| copies.make(stay))?;
        copies.arrive()?;
        watch.time(|| write_all(WINDOW, SIZE));
        copies.release(copy)
    })?;
    copy_on_write(bench, &copies)?;
    unmap(WINDOW, SIZE)?;
    // The window's pages begin one page behind the border: no table is the window's alone.
    map(WINDOW + PAGE_SIZE, SIZE)?;
    made(bench, &copies, "clone-4096-unaligned", || write_all(WINDOW + PAGE_SIZE, SIZE))?;
    unmap(WINDOW + PAGE_SIZE, SIZE)
}

/// The making alone.
fn made(bench: Bench, copies: &Copies, name: &'static str, prepare: impl Fn()) -> Result<(), ErrorCode> {
    let pages = if name == "clone-0" { 0 } else { PAGES };
    bench.row(row(name, pages), |watch, _| {
        prepare();
        let copy = watch.time(|| copies.make(leave))?;
        Copies::end(copy)
    })
}

/// The parent's writes while the copy is there, each alone.
fn copy_on_write(bench: Bench, copies: &Copies) -> Result<(), ErrorCode> {
    let mut samples = Samples::new();
    // The first round is not counted.
    for counted in [false, true] {
        write_all(WINDOW, SIZE);
        let copy = copies.make(stay)?;
        copies.arrive()?;
        for page in 0..bench.often(OPERATIONS_MAX) as u64 {
            let mut watch = Watch::default();
            watch.time(|| write(WINDOW + page * PAGE_SIZE));
            if counted {
                samples.add(bench, &watch);
            }
        }
        copies.release(copy)?;
    }
    samples.report("copy-on-write-fault", 1);
    Ok(())
}
