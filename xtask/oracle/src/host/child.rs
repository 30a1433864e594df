//! The processes that do the steps.
//!
//! ```text
//!   worker ──request──► zygote ──fork──► s0 ──fork──► s1 …          all share `Shared`: the steps, whose turn it is, the records
//!      ▲                   │  waits for all to end
//!      └───────done────────┘
//! ```
//!
//! Each step belongs to one thread of one process. Who has done a step does the next as well if it is its own, else it hands the turn on: at any moment one thread
//! acts, and all others sleep. No memory is taken and no lock: a child of a fork could not rely on either, and everything but the window may be full.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering};

use super::maps::{self, Maps};
use super::{access, sys};
use crate::script::{
    BASE, Call, END, FILES, File, MOST_COPIED, MOST_STEPS, NULL, PAGE, PAGES, Record, SLOTS, Setting, State, Step,
    THREADS, linux,
};

/// The number of `mseal`, which is not in every C library's headers.
pub(super) const SYS_MSEAL: libc::c_long = 462;
/// How long a thread waits for its turn, in seconds: then whoever had it is gone.
const PATIENCE: i64 = 30;
/// Whose turn comes no more.
const OVER: u32 = u32::MAX;
/// How large a thread's stack is, and how many there are: one more than threads, since a forked child may stand on any.
const STACK: usize = 0x2_0000;
const STACKS: usize = THREADS + 1;
/// How many gaps there are between the mappings of a process at the most.
const MOST_GAPS: usize = 256;

/// What worker, zygote and children share.
#[repr(C)]
pub(super) struct Shared {
    /// Counts what was asked for, and what was done.
    pub(super) request: AtomicU32,
    pub(super) done: AtomicU32,
    /// Something could not be done at all.
    pub(super) trouble: AtomicU32,
    /// The processes that run, for whoever has to end them.
    pub(super) processes: [AtomicI32; SLOTS],
    /// How many processes the script has made, and which of them each slot has.
    born: AtomicU32,
    tenants: [AtomicU32; SLOTS],
    /// Whose turn it is: for each thread of each process that ever was, the step, counted from 1. A process that comes into the slot of one that ends has words of its
    /// own: threads that end may still look at theirs.
    turns: [AtomicU32; (MOST_STEPS + 1) * THREADS],
    /// A child has been made.
    forked: AtomicU32,
    /// Whether the kernel answers questions about mappings.
    pub(super) asks: AtomicU32,
    /// Whether all gaps could be filled.
    pub(super) fills: AtomicU32,
    pub(super) plan: UnsafeCell<Plan>,
    pub(super) records: UnsafeCell<[Record; MOST_STEPS]>,
    copied: UnsafeCell<[u8; MOST_COPIED]>,
}

impl Shared {
    /// Where the word of a step's thread is.
    fn turn_of(&self, step: &Step) -> usize {
        let tenant = self.tenants.get(usize::from(step.slot)).map_or(0, |tenant| tenant.load(Ordering::Relaxed));
        tenant as usize * THREADS + usize::from(step.thread)
    }

    /// Hands the turn to another thread, at a step counted from 1.
    fn hand(&self, to: usize, step: u32) {
        if let Some(word) = self.turns.get(to) {
            word.store(step, Ordering::Release);
            sys::wake(word);
        }
    }

    /// There are no more turns: all others end. This process ends itself, or its other threads would end it before all are told.
    fn finish(&self) {
        let born = self.born.load(Ordering::Relaxed) as usize;
        // SAFETY: it was written before any other thread of the process was made.
        let own = unsafe { (*PROCESS.0.get()).number } as usize;
        (0..(born + 1) * THREADS).filter(|to| to / THREADS != own).for_each(|to| self.hand(to, OVER));
    }

    /// A process cannot do its part: the script is over.
    pub(super) fn fail(&self) -> ! {
        self.trouble.store(1, Ordering::Relaxed);
        self.forked.store(1, Ordering::Release);
        sys::wake(&self.forked);
        self.finish();
        sys::exit(1)
    }

    /// A process comes into a slot; gives which it is among all.
    fn settle(&self, slot: u8) -> u32 {
        let number = self.born.load(Ordering::Relaxed) + 1;
        self.born.store(number, Ordering::Relaxed);
        if let Some(tenant) = self.tenants.get(usize::from(slot)) {
            tenant.store(number, Ordering::Relaxed);
        }
        number
    }
}

/// What is to be done.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub(super) setting: Setting,
    /// Whether an access may have something grow.
    pub(super) grows: bool,
    pub(super) count: usize,
    pub(super) steps: [Step; MOST_STEPS],
}

impl Plan {
    fn step(&self, index: usize) -> Option<&Step> {
        self.steps.get(..self.count)?.get(index)
    }
}

// SAFETY: the plan is written by the worker before its request and read by others after it; the records and the copied bytes are touched by the one thread whose
// turn it is, and by the worker when all is done. Every handing over is a store with release order that is seen with acquire order.
unsafe impl Sync for Shared {}

/// What the thread whose turn it is knows of its process. Private to the process, and copied by a fork.
struct Process {
    maps: Maps,
    /// Which it is among all of the script.
    number: u32,
    /// The stack on which its first thread stands.
    stack: usize,
    /// What was seen last.
    state: State,
    files: [i64; FILES],
}

struct Private(UnsafeCell<Process>);

// SAFETY: at any moment one thread of a process acts.
unsafe impl Sync for Private {}

static PROCESS: Private = Private(UnsafeCell::new(Process {
    maps: Maps::NONE,
    number: 0,
    stack: STACKS - 1,
    state: State::EMPTY,
    files: [-1; FILES],
}));

/// A fault that no access made: nothing can be relied on in this process.
pub(super) fn astray() -> ! {
    // SAFETY: the zygote has put it there; it lives as long as any of these processes.
    unsafe { &*SHARED.load(Ordering::Relaxed) }.fail()
}

/// What the process shares with the others.
static SHARED: AtomicPtr<Shared> = AtomicPtr::new(core::ptr::null_mut());

/// The gaps between the zygote's mappings.
struct Gaps(UnsafeCell<([(u64, u64); MOST_GAPS], usize)>);

// SAFETY: written by a zygote before its first child, which is the only thread of its process.
unsafe impl Sync for Gaps {}

static GAPS: Gaps = Gaps(UnsafeCell::new(([(0, 0); MOST_GAPS], 0)));

#[repr(align(16))]
struct Stacks(UnsafeCell<MaybeUninit<[[u8; STACK]; STACKS]>>);

// SAFETY: each is used by the one thread that was begun on it.
unsafe impl Sync for Stacks {}

static THREAD_STACKS: Stacks = Stacks(UnsafeCell::new(MaybeUninit::uninit()));

/// What the zygote does: for each request a process `s0`, and what that makes of it. Never returns.
pub(super) fn zygote(shared: &'static Shared) -> ! {
    SHARED.store(core::ptr::from_ref(shared).cast_mut(), Ordering::Relaxed);
    // SAFETY: these change how this process and its children are treated, no memory.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
        // Children of children that have ended come here, and nobody waits for one of them.
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
    }
    access::handle();
    deepen();
    let mut maps = Maps::NONE;
    maps.reopen(true);
    shared.asks.store(u32::from(maps.can_ask()), Ordering::Relaxed);
    find_gaps();
    shared.fills.store(u32::from(try_filling()), Ordering::Relaxed);
    let mut seen = 0;
    shared.done.store(1, Ordering::Release);
    sys::wake(&shared.done);
    loop {
        while shared.request.load(Ordering::Acquire) == seen {
            sys::wait(&shared.request, seen, PATIENCE);
        }
        seen = shared.request.load(Ordering::Acquire);
        for word in &shared.turns {
            word.store(0, Ordering::Relaxed);
        }
        shared.born.store(0, Ordering::Relaxed);
        match fork() {
            0 => first(shared),
            child if child < 0 => shared.trouble.store(1, Ordering::Relaxed),
            child => shared.processes[0].store(child as i32, Ordering::Relaxed),
        }
        // Until none is left.
        // SAFETY: nothing is written.
        while unsafe { sys::call(libc::SYS_wait4, [u64::MAX, 0, 0, 0, 0, 0]) } != -i64::from(libc::ECHILD) {}
        shared.done.store(seen + 1, Ordering::Release);
        sys::wake(&shared.done);
    }
}

/// Has the stack be as deep as it will be needed: later there may be nothing free below it.
#[inline(never)]
fn deepen() {
    let mut room = [0_u8; 0x4_0000];
    core::hint::black_box(&mut room);
}

/// Notes where this process has nothing, outside the window.
fn find_gaps() {
    // SAFETY: this process has one thread.
    let (gaps, count) = unsafe { &mut *GAPS.0.get() };
    let (mut end_before, limit) = (PAGE, 0x7fff_ffff_f000);
    let mut add = |mut start: u64, end: u64| {
        let end = end.min(limit);
        for (low, high) in [(BASE, END), (u64::MAX, u64::MAX)] {
            let piece = (start, end.min(low));
            if let Some(slot) = gaps.get_mut(*count).filter(|_| piece.0 < piece.1) {
                *slot = piece;
                *count += 1;
            }
            start = start.max(high.min(end));
        }
    };
    maps::each(|start, end, _| {
        add(end_before, start);
        end_before = end;
    });
    add(end_before, limit);
}

/// Maps something that does nothing into every gap.
fn fill() -> bool {
    // SAFETY: it was written before this process was forked, or by its only thread.
    let (gaps, count) = unsafe { &*GAPS.0.get() };
    let flags = linux::MAP_PRIVATE | linux::MAP_ANONYMOUS | linux::MAP_NORESERVE | linux::MAP_FIXED_NOREPLACE;
    gaps.iter().take(*count).all(|(start, end)| {
        // SAFETY: where something is, nothing is mapped.
        unsafe {
            let at = sys::call(libc::SYS_mmap, [*start, end - start, 0, u64::from(flags), u64::MAX, 0]);
            // It becomes one with nothing in the window.
            at == *start as i64
                && sys::call(libc::SYS_madvise, [*start, end - start, u64::from(linux::MADV_DONTDUMP), 0, 0, 0]) == 0
        }
    })
}

/// How a process ends that has filled all gaps.
const FILLED: i32 = 77;

/// Whether that can be done here.
fn try_filling() -> bool {
    // SAFETY: it was written by the only thread.
    let (_, count) = unsafe { &*GAPS.0.get() };
    if *count == MOST_GAPS {
        return false;
    }
    // A child that has ended is told of only where somebody wants to know.
    // SAFETY: no memory is changed.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    let mut status = 0_i32;
    let filled = match fork() {
        0 => sys::exit(if fill() { FILLED } else { 1 }),
        child => {
            let arguments = [child as u64, core::ptr::from_mut(&mut status) as u64, 0, 0, 0, 0];
            // SAFETY: the kernel writes the status.
            let waited = unsafe { sys::call(libc::SYS_wait4, arguments) };
            waited > 0 && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == FILLED
        }
    };
    // SAFETY: no memory is changed.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    filled
}

/// Forks as the kernel does it: 0 in the child.
fn fork() -> i64 {
    // SAFETY: the child runs on a copy of everything; nothing that it uses belongs to another thread.
    unsafe { sys::call(libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0]) }
}

/// What the first process does.
fn first(shared: &'static Shared) -> ! {
    // SAFETY: this process has one thread yet, and the plan is written no more.
    let (process, plan) = unsafe { (&mut *PROCESS.0.get(), &*shared.plan.get()) };
    for ((number, pages), file) in (1..).zip(plan.setting.files).zip(&mut process.files) {
        if pages != 0 {
            *file = make_file(number, u64::from(pages));
        }
    }
    if plan.setting.placed && !fill() {
        shared.fail();
    }
    shared.tenants[0].store(0, Ordering::Relaxed);
    begin(shared, 0);
    let first = plan.steps.first().map_or(0, |step| shared.turn_of(step));
    shared.hand(first, 1);
    act(shared, 0)
}

/// A file in memory: each page begins with a word that says which it is.
fn make_file(number: u64, pages: u64) -> i64 {
    // SAFETY: the kernel reads what is given.
    unsafe {
        let file = sys::call(libc::SYS_memfd_create, [c"oracle".as_ptr() as u64, 0, 0, 0, 0, 0]);
        sys::call(libc::SYS_ftruncate, [file as u64, pages * PAGE, 0, 0, 0, 0]);
        for page in 0..pages {
            let word = replay::word_of(number - 1, page * PAGE).to_ne_bytes();
            sys::call(libc::SYS_pwrite64, [file as u64, word.as_ptr() as u64, 8, page * PAGE, 0, 0]);
        }
        file
    }
}

/// What a process does that has just been made, on its only thread.
fn begin(shared: &'static Shared, number: u32) {
    // SAFETY: this process has one thread yet, and the plan is written no more.
    let (process, plan) = unsafe { (&mut *PROCESS.0.get(), &*shared.plan.get()) };
    process.number = number;
    if !process.maps.reopen(shared.asks.load(Ordering::Relaxed) != 0) {
        shared.fail();
    }
    process.maps.regions(&mut process.state);
    if !process.maps.pages(&mut process.state) {
        shared.fail();
    }
    for thread in 1..plan.setting.threads {
        let stack = (process.stack + usize::from(thread)) % STACKS;
        let top = THREAD_STACKS.0.get().cast::<u8>().wrapping_add((stack + 1) * STACK);
        let flags = libc::CLONE_VM
            | libc::CLONE_THREAD
            | libc::CLONE_SIGHAND
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SYSVSEM;
        let number = core::ptr::without_provenance_mut(usize::from(thread));
        // SAFETY: nothing of this process stands on that stack; the function uses nothing that belongs to a thread of the C library's.
        let made = unsafe { libc::clone(thread_main, top.cast(), flags, number) };
        if made < 0 {
            shared.fail();
        }
    }
}

/// Where further threads begin, with their number.
extern "C" fn thread_main(thread: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the zygote has put it there; it lives as long as any of these processes.
    let shared = unsafe { &*SHARED.load(Ordering::Relaxed) };
    // SAFETY: it was written before this thread was made, and changes only in a child of this process.
    let number = unsafe { (*PROCESS.0.get()).number };
    act(shared, number as usize * THREADS + thread.addr())
}

/// Waits for turns, and does what is to be done in them. Never returns.
fn act(shared: &'static Shared, me: usize) -> ! {
    // SAFETY: the plan is written no more.
    let plan = unsafe { &*shared.plan.get() };
    loop {
        let turn = loop {
            match shared.turns[me].load(Ordering::Acquire) {
                0 if !sys::wait(&shared.turns[me], 0, PATIENCE) => sys::exit(1),
                0 => {}
                OVER => sys::exit(0),
                turn => break turn,
            }
        };
        shared.turns[me].store(0, Ordering::Relaxed);
        let mut index = turn as usize - 1;
        loop {
            let Some(step) = plan.step(index) else {
                shared.finish();
                sys::exit(0);
            };
            let to = shared.turn_of(step);
            if to != me {
                shared.hand(to, index as u32 + 1);
                break;
            }
            if step.call == Call::Exit {
                match plan.step(index + 1) {
                    Some(next) => shared.hand(shared.turn_of(next), index as u32 + 2),
                    None => shared.finish(),
                }
                sys::exit(0);
            }
            do_step(shared, index, step);
            index += 1;
        }
    }
}

/// Does a step, and records what came of it.
fn do_step(shared: &'static Shared, index: usize, step: &Step) {
    // SAFETY: it is this thread's turn.
    let (process, records) = unsafe { (&mut *PROCESS.0.get(), &mut *shared.records.get()) };
    let Some(record) = records.get_mut(index) else { return };
    // SAFETY: what is called concerns the window, in which nothing of Rust's lies, or where nothing may be mapped.
    unsafe { make(shared, process, step, record) };
    // SAFETY: the plan is written no more.
    let grows = unsafe { (*shared.plan.get()).grows };
    let same_regions = !grows
        && matches!(
            step.call,
            Call::Write { .. } | Call::Read { .. } | Call::CopyIn { .. } | Call::CopyOut { .. } | Call::Fork { .. }
        );
    if !same_regions {
        process.maps.regions(&mut process.state);
    }
    if !process.maps.pages(&mut process.state) {
        shared.fail();
    }
    record.state = process.state;
}

/// Makes a call.
///
/// # Safety
/// It is this thread's turn, and the call concerns the window alone.
unsafe fn make(shared: &'static Shared, process: &mut Process, step: &Step, record: &mut Record) {
    let at = |address: u64| BASE.wrapping_add(address);
    // SAFETY: as the caller says.
    let call = |number, arguments| unsafe { sys::call(number, arguments) };
    let relative = |result: i64| if result < 0 { result } else { (result as u64).wrapping_sub(BASE) as i64 };
    record.value = 0;
    record.result = match step.call {
        Call::Map { address, length, protection, flags, file } => {
            let (handle, offset) = match file {
                Some(File { number, offset }) => {
                    (process.files.get(usize::from(number)).copied().unwrap_or(-1) as u64, offset)
                }
                None => (u64::MAX, 0),
            };
            let hint = if address == NULL { 0 } else { at(address) };
            relative(call(libc::SYS_mmap, [hint, length, u64::from(protection), u64::from(flags), handle, offset]))
        }
        Call::Unmap { address, length } => call(libc::SYS_munmap, [at(address), length, 0, 0, 0, 0]),
        Call::Protect { address, length, protection } => {
            call(libc::SYS_mprotect, [at(address), length, u64::from(protection), 0, 0, 0])
        }
        Call::Advise { address, length, advice } => {
            call(libc::SYS_madvise, [at(address), length, u64::from(advice), 0, 0, 0])
        }
        Call::Remap { old, old_length, new_length, flags, new } => {
            relative(call(libc::SYS_mremap, [at(old), old_length, new_length, u64::from(flags), at(new), 0]))
        }
        Call::Sync { address, length, flags } => {
            call(libc::SYS_msync, [at(address), length, u64::from(flags), 0, 0, 0])
        }
        Call::Core { address, length } => {
            let mut there = [0_u8; PAGES as usize];
            let result = call(libc::SYS_mincore, [at(address), length, there.as_mut_ptr() as u64, 0, 0, 0]);
            if result == 0 {
                record.value = there.iter().rev().fold(0, |all, page| all << 1 | u64::from(page & 1));
            }
            result
        }
        Call::Lock { address, length } => call(libc::SYS_mlock, [at(address), length, 0, 0, 0, 0]),
        Call::Unlock { address, length } => call(libc::SYS_munlock, [at(address), length, 0, 0, 0, 0]),
        Call::LockAll { flags } => call(libc::SYS_mlockall, [u64::from(flags), 0, 0, 0, 0, 0]),
        Call::UnlockAll => call(libc::SYS_munlockall, [0; 6]),
        Call::Seal { address, length } => call(SYS_MSEAL, [at(address), length, 0, 0, 0, 0]),
        Call::Truncate { file, size } => {
            let handle = process.files.get(usize::from(file)).copied().unwrap_or(-1);
            let before = call(libc::SYS_lseek, [handle as u64, 0, libc::SEEK_END as u64, 0, 0, 0]);
            let result = call(libc::SYS_ftruncate, [handle as u64, size, 0, 0, 0, 0]);
            // What it grows by is there at once, as what it began with.
            let word = 0_u64;
            for page in (before.max(0) as u64..size).step_by(PAGE as usize) {
                call(libc::SYS_pwrite64, [handle as u64, core::ptr::from_ref(&word) as u64, 8, page, 0, 0]);
            }
            result
        }
        Call::Write { address, value } => {
            // SAFETY: nothing of Rust's lies in the window.
            record.outcome = unsafe { access::write(at(address), value) };
            0
        }
        Call::Read { address } => {
            // SAFETY: nothing of Rust's lies in the window.
            (record.outcome, record.value) = unsafe { access::read(at(address)) };
            0
        }
        Call::CopyIn { address, length } => {
            let count = copy(shared, libc::SYS_process_vm_readv, at(address), length);
            // SAFETY: it is this thread's turn.
            let bytes = unsafe { &*shared.copied.get() };
            record.value = match usize::try_from(count) {
                Ok(count) => fnv(bytes.get(..count).unwrap_or_default()),
                Err(_) => 0,
            };
            count
        }
        Call::CopyOut { address, length, pattern } => {
            // SAFETY: it is this thread's turn.
            let bytes = unsafe { &mut *shared.copied.get() };
            let words = bytes.as_chunks_mut::<8>().0;
            words.iter_mut().take(length.div_ceil(8) as usize).for_each(|word| *word = pattern.to_le_bytes());
            copy(shared, libc::SYS_process_vm_writev, at(address), length)
        }
        Call::Fork { child } => {
            shared.forked.store(0, Ordering::Relaxed);
            let number = shared.settle(child);
            match fork() {
                0 => {
                    process.stack = match step.thread {
                        0 => process.stack,
                        thread => (process.stack + usize::from(thread)) % STACKS,
                    };
                    begin(shared, number);
                    record.child = process.state;
                    shared.forked.store(1, Ordering::Release);
                    sys::wake(&shared.forked);
                    act(shared, number as usize * THREADS)
                }
                made if made < 0 => shared.fail(),
                made => {
                    if let Some(slot) = shared.processes.get(usize::from(child)) {
                        slot.store(made as i32, Ordering::Relaxed);
                    }
                    while shared.forked.load(Ordering::Acquire) == 0 {
                        if !sys::wait(&shared.forked, 0, PATIENCE) {
                            sys::exit(1);
                        }
                    }
                    0
                }
            }
        }
        Call::Exit => 0,
    };
}

/// Copies from or to the process itself as from outside.
fn copy(shared: &Shared, number: libc::c_long, address: u64, length: u64) -> i64 {
    let length = length.min(MOST_COPIED as u64);
    let here = libc::iovec { iov_base: shared.copied.get().cast(), iov_len: length as usize };
    let there = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: length as usize };
    let [here, there] = [&here, &there].map(|piece| core::ptr::from_ref(piece) as u64);
    // SAFETY: the kernel writes to the shared bytes, whose turn this is, or to the window.
    unsafe {
        let process = sys::call(libc::SYS_getpid, [0; 6]);
        sys::call(number, [process as u64, here, 1, there, 1, 0])
    }
}

/// The 64-bit FNV-1a hash, from the basis that the recordings have.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(1_469_598_103_934_665_603, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
