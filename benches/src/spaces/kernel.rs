//! The platform that the spaces are measured on: no simulator, nothing in the way.
//!
//! ```text
//!   addresses of this process:  | frames for tables and pools, in huge pages | frames for pages, never touched ... |
//!   records:                    | one FrameMeta for each                                                           |
//!
//!   per CPU:  a stash of each kind, last in, first out  ◄── 128 at a time ──►  what is left of all, behind a lock
//! ```
//!
//! As in a kernel the handle is zero-sized and leads to statics. Physical memory is the process' own address space, so reaching a frame costs
//! nothing. Frames for pages are said to be zeroed and are not even there before somebody touches them, which nobody does: what a fault costs is measured
//! without its zeroing, and a gigabyte of resident pages takes no memory. Tables are zeroed. There are no TLBs, and a flush costs nothing.

use std::{
    cell::{Cell, UnsafeCell},
    hint, ptr, slice,
    sync::{
        LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering},
    },
};

use vmcore::{
    CpuMask, Machine, Platform,
    addr::Frame,
    frame::{FrameMeta, FrameMetaTable, FrameRequest, FrameUse, Frames},
    paging::{FlushRequest, Mmu, X86_64},
    vm_space::Space,
};

/// Frames for tables and pools: 256 MiB.
const TABLES: usize = 64 << 10;
/// Frames for pages.
const PAGES: usize = 1 << 20;
/// How many CPUs there are.
pub const CPUS: usize = 2;
const PAGE_SHIFT: u32 = 12;
const HUGE_PAGE: usize = 2 << 20;

/// How many frames a CPU keeps of each kind, and how many it takes or gives back at a time.
const STASH: usize = 256;
const BATCH: usize = STASH / 2;

static MACHINE: Machine<Kernel> = Machine::new(X86_64::new(52));
/// The first frame's number, and the records.
static FIRST: AtomicUsize = AtomicUsize::new(0);
static RECORDS: AtomicPtr<FrameMeta> = AtomicPtr::new(ptr::null_mut());
static DEPOTS: [DepotLock; 2] =
    [lock_api::Mutex::new(Depot::new(0, TABLES)), lock_api::Mutex::new(Depot::new(TABLES, TABLES + PAGES))];
static CACHES: [Cache; CPUS] = [const { Cache::new() }; CPUS];

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

type DepotLock = lock_api::Mutex<SpinLock, Depot>;

/// What is left of the frames of a kind, by index.
struct Depot {
    free: Vec<u32>,
    untouched: usize,
    end: usize,
}

impl Depot {
    const fn new(first: usize, end: usize) -> Self {
        Self { free: Vec::new(), untouched: first, end }
    }

    fn take(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| self.take_run(1, 0))
    }

    /// Consecutive frames, out of those that were never handed out.
    fn take_run(&mut self, count: usize, alignment: u32) -> Option<u32> {
        let number = FIRST.load(Ordering::Relaxed) + self.untouched;
        let skip = number.next_multiple_of(1 << alignment) - number;
        if self.untouched + skip + count > self.end {
            return None;
        }
        self.free.extend((self.untouched..self.untouched + skip).map(|index| index as u32));
        self.untouched += skip + count;
        Some((self.untouched - count) as u32)
    }
}

/// A CPU's frames of a kind.
struct Stash {
    frames: [u32; STASH],
    count: usize,
}

impl Stash {
    #[inline]
    fn take(&mut self, depot: &DepotLock) -> Option<u32> {
        if self.count == 0 {
            self.fill(depot);
        }
        self.count = self.count.checked_sub(1)?;
        Some(self.frames[self.count])
    }

    #[inline]
    fn put(&mut self, frame: u32, depot: &DepotLock) {
        if self.count == STASH {
            self.empty(depot);
        }
        self.frames[self.count] = frame;
        self.count += 1;
    }

    #[cold]
    fn fill(&mut self, depot: &DepotLock) {
        let mut depot = depot.lock();
        while self.count < BATCH {
            let Some(frame) = depot.take() else { return };
            self.frames[self.count] = frame;
            self.count += 1;
        }
    }

    /// Gives back those that were put away first.
    #[cold]
    fn empty(&mut self, depot: &DepotLock) {
        depot.lock().free.extend(&self.frames[..BATCH]);
        self.frames.copy_within(BATCH.., 0);
        self.count -= BATCH;
    }
}

/// What a CPU has for itself: its tables, then its pages.
#[repr(align(128))]
struct Cache(UnsafeCell<[Stash; 2]>);

// SAFETY: a CPU's cache is reached by the one thread that is this CPU.
unsafe impl Sync for Cache {}

impl Cache {
    const fn new() -> Self {
        Self(UnsafeCell::new([const { Stash { frames: [0; STASH], count: 0 } }; 2]))
    }
}

/// Runs `with` on this CPU's stash of a kind.
#[inline]
fn stash<R>(kind: usize, with: impl FnOnce(&mut Stash, &DepotLock) -> R) -> R {
    // SAFETY: this thread alone is this CPU (`Booted`), and neither taking nor putting a frame comes back here.
    let stash = unsafe { &mut (*CACHES[CPU.get()].0.get())[kind] };
    with(stash, &DEPOTS[kind])
}

/// The platform's handle.
#[derive(Clone, Copy, Debug)]
pub struct Kernel;

// SAFETY: each frame is handed out once until it comes back, in memory that is mapped and stays so. Each has a record of its own. Those for pages read as
// zero as long as nobody writes to them, which is not asked for here but of a page that nobody reads.
unsafe impl Frames for Kernel {
    #[inline]
    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame> {
        let kind = usize::from(request.purpose == FrameUse::Page);
        let index = if request.count == 1 && request.alignment == 0 {
            stash(kind, Stash::take)?
        } else {
            DEPOTS[kind].lock().take_run(request.count as usize, request.alignment)?
        };
        let frame = Frame::new((FIRST.load(Ordering::Relaxed) + index as usize) as u64);
        if request.zeroed && kind == 0 {
            // SAFETY: the frame was just taken, and is memory of this process.
            unsafe { ptr::write_bytes(self.frame_pointer(frame), 0, 1 << PAGE_SHIFT) };
        }
        Some(frame)
    }

    #[inline]
    unsafe fn free_frames(&self, first: Frame, count: u64) {
        let index = first.number() as usize - FIRST.load(Ordering::Relaxed);
        for index in index..index + count as usize {
            stash(usize::from(index >= TABLES), |stash, depot| stash.put(index as u32, depot));
        }
    }

    #[inline]
    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        ptr::with_exposed_provenance_mut((frame.number() as usize) << PAGE_SHIFT)
    }

    #[inline]
    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta> {
        let index = (frame.number() as usize).wrapping_sub(FIRST.load(Ordering::Relaxed));
        if index >= TABLES + PAGES {
            return None;
        }
        // SAFETY: there is a record for each frame, and they live as long as the process.
        Some(unsafe { &*RECORDS.load(Ordering::Relaxed).add(index) })
    }

    #[inline]
    fn frame_metas_with(&self, _frame: Frame) -> Option<FrameMetaTable<'_>> {
        let first = Frame::new(FIRST.load(Ordering::Relaxed) as u64);
        // SAFETY: as above.
        let records = unsafe { slice::from_raw_parts(RECORDS.load(Ordering::Relaxed), TABLES + PAGES) };
        Some(FrameMetaTable::new(first, records))
    }
}

// SAFETY: there is one machine and there are no TLBs; a thread says which CPU it is, and each CPU is one thread.
unsafe impl Platform for Kernel {
    type Mmu = X86_64;
    type RawMutex = SpinLock;
    type CpuSet = CpuMask;
    type SpaceData = ();
    type AreaData = ();

    #[inline]
    fn machine(&self) -> &Machine<Self> {
        &MACHINE
    }

    #[inline]
    fn cpu(&self) -> usize {
        CPU.get()
    }

    #[inline]
    fn flush(&self, _: &FlushRequest<CpuMask>) {}

    #[inline]
    fn flush_local(&self, _: &FlushRequest<CpuMask>) {}
}

/// A lock of one word: taken by an exchange, given up by a store. Who waits looks less and less often, so that whoever has it keeps what it guards in its cache for some turns; and lets
/// others run in the end, since nobody keeps this program's threads on their processors.
#[derive(Debug)]
pub struct SpinLock(AtomicBool);

// SAFETY: the word is true while somebody holds the lock, and only who made it so goes on.
unsafe impl lock_api::RawMutex for SpinLock {
    #[allow(clippy::declare_interior_mutable_const, reason = "the trait's")]
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = lock_api::GuardSend;

    #[inline]
    fn lock(&self) {
        if self.0.swap(true, Ordering::Acquire) {
            self.wait();
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        !self.0.swap(true, Ordering::Acquire)
    }

    #[inline]
    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// How many pauses of the processor are made between two looks at the most: some ten microseconds.
const MOST_PAUSES: u32 = 256;

impl SpinLock {
    #[cold]
    fn wait(&self) {
        let mut pauses = 1;
        while self.0.load(Ordering::Relaxed) || self.0.swap(true, Ordering::Acquire) {
            (0..pauses).for_each(|_| hint::spin_loop());
            if pauses < MOST_PAUSES {
                pauses *= 2;
            } else {
                std::thread::yield_now();
            }
        }
    }
}

/// The machine, which one at a time uses; its thread is CPU 0.
#[derive(Debug)]
pub struct Booted(#[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

/// Waits until nobody uses the machine.
pub fn boot() -> Booted {
    static IN_USE: Mutex<()> = Mutex::new(());
    let guard = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    CPU.set(0);
    Booted(guard)
}

impl Booted {
    /// Runs this on every CPU at once, on a processor of its own where there are as many.
    pub fn on_each_cpu(&mut self, run: impl Fn(usize) + Sync) {
        std::thread::scope(|scope| {
            for cpu in 0..CPUS {
                let run = &run;
                scope.spawn(move || {
                    // The machine is the caller's, who waits: no other thread is this CPU.
                    CPU.set(cpu);
                    stay_on(cpu);
                    run(cpu);
                });
            }
        });
    }

    /// Does this as another CPU would.
    pub fn as_cpu<R>(&mut self, cpu: usize, run: impl FnOnce() -> R) -> R {
        assert!(cpu < CPUS, "there is no CPU {cpu}");
        CPU.set(cpu);
        let result = run();
        CPU.set(0);
        result
    }
}

/// Keeps this thread on a processor, if that may be.
fn stay_on(cpu: usize) {
    // SAFETY: a set of processors is plain data, for which zero is none.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}

/// The kernel's space; with the first call the frames come to be.
fn kernel_space() -> &'static Space<Kernel> {
    static SPACE: LazyLock<Space<Kernel>> = LazyLock::new(|| {
        let size = (TABLES + PAGES) << PAGE_SHIFT;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: new memory, wherever there is room.
        let memory =
            unsafe { libc::mmap(ptr::null_mut(), size + HUGE_PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        assert_ne!(memory, libc::MAP_FAILED, "no room for {size} bytes of addresses");
        let start = memory.expose_provenance().next_multiple_of(HUGE_PAGE);
        let tables: *mut u8 = ptr::with_exposed_provenance_mut(start);
        // SAFETY: within what was just mapped; touched once, so that no first use is measured.
        unsafe {
            libc::madvise(tables.cast(), TABLES << PAGE_SHIFT, libc::MADV_HUGEPAGE);
            ptr::write_bytes(tables, 0, TABLES << PAGE_SHIFT);
        }
        FIRST.store(start >> PAGE_SHIFT, Ordering::Relaxed);
        let records: Vec<FrameMeta> = (0..TABLES + PAGES).map(|_| FrameMeta::new()).collect();
        RECORDS.store(Vec::leak(records).as_mut_ptr(), Ordering::Relaxed);
        let bounds = X86_64::new(52).range(0xffff_ff80_0000_0000, 0x80_0000_0000).unwrap();
        Space::kernel(&Kernel, bounds, None, ()).unwrap()
    });
    &SPACE
}

/// A user space that runs on so many CPUs.
pub fn space(cpus: usize) -> Space<Kernel> {
    let space = Space::user(kernel_space(), ()).unwrap();
    for cpu in 0..cpus {
        let _ = space.activate(cpu);
    }
    space
}

/// Ends a space that runs on so many CPUs.
pub fn end(space: Space<Kernel>, cpus: usize) {
    for cpu in 0..cpus {
        // SAFETY: there is no hardware that could walk its tables.
        unsafe { space.deactivate(cpu) };
    }
    match space.destroy() {
        Ok(flush) => flush.complete(),
        Err((_, error)) => panic!("{error}"),
    }
}
