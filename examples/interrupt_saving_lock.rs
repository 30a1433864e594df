//! A lock that keeps interrupts off while it is held, as an embedder gives it to the library ([`Platform::RawMutex`](vmcore::Platform::RawMutex)).
//! Run it with `cargo run -p examples --example interrupt_saving_lock`.
//!
//! An interrupt handler that touches pageable memory faults, and a fault takes the library's locks. If the code that it interrupted holds
//! one of them, the handler would wait for ever. So the lock turns interrupts off before it is taken. When may it turn them on again?
//!
//! **A lock's unlock carries no saved flags.** `spin_lock_irqsave` elsewhere hands the caller the flags, to be given back by
//! `spin_unlock_irqrestore`. `lock_api::RawMutex::unlock(&self)` is given nothing, and keeping the flags in the lock is wrong as soon as
//! two locks are given up in another order than the opposite of that in which they were taken:
//!
//! ```text
//!   interrupts:   on        off        off         on (!)      ...
//!             lock A     lock B     unlock A    with B still held, interrupts come on: A had saved "on"
//! ```
//!
//! So the flags belong to the CPU: each counts the locks that it holds and remembers how it was before the first one.
//!
//! ```text
//!   lock A      lock B        unlock A     unlock B
//!   depth 0->1  depth 1->2    2->1         1->0
//!   flag saved  off           off          as it was before A
//! ```
//!
//! Here a thread is a CPU and its interrupt flag is a thread's variable; the comments say what a kernel does. The library's lock guards are
//! never sent to another CPU, which `GuardMarker` states.

use std::cell::Cell;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, Ordering};

use vmcore::addr::Frame;
use vmcore::frame::{FrameMeta, FrameMetaTable, FrameRegion, FrameRequest, Frames};
use vmcore::inspect::SpaceMap;
use vmcore::paging::{Access, FlushRequest, Mmu, X86_64};
use vmcore::vm_area::{Area, AreaKind};
use vmcore::vm_space::{Fault, MapRequest, Space};
use vmcore::{CpuMask, Machine, Platform};

/// What stands for a CPU: its interrupt flag, and what it remembers while it holds locks.
struct Cpu {
    /// RFLAGS.IF, DAIF.I, sstatus.SIE.
    interrupts: Cell<bool>,
    depth: Cell<u32>,
    were_on: Cell<bool>,
}

thread_local! {
    // A kernel's is found through GS, TPIDR_EL1 or tp, or in an array by the CPU's number.
    static CPU: Cpu = const { Cpu { interrupts: Cell::new(true), depth: Cell::new(0), were_on: Cell::new(false) } };
}

fn interrupts_are_on() -> bool {
    CPU.with(|cpu| cpu.interrupts.get())
}

/// Interrupts off, for one more lock.
fn enter() {
    CPU.with(|cpu| {
        // The order matters: read the flag, turn interrupts off, and only then count. An interrupt before that finds depth 0 and leaves it so.
        let were_on = cpu.interrupts.replace(false);
        if cpu.depth.get() == 0 {
            cpu.were_on.set(were_on);
        }
        cpu.depth.set(cpu.depth.get() + 1);
    });
}

/// One lock less. After the last one, interrupts are as they were before the first.
fn leave() {
    CPU.with(|cpu| {
        cpu.depth.set(cpu.depth.get() - 1);
        if cpu.depth.get() == 0 {
            cpu.interrupts.set(cpu.were_on.get());
        }
    });
}

/// A spinning lock that keeps interrupts off while it is held.
struct InterruptLock(AtomicBool);

// SAFETY: the flag is set by exactly one holder (compare-exchange with acquire ordering) and cleared by `unlock`, which only the holder calls.
unsafe impl lock_api::RawMutex for InterruptLock {
    #[allow(clippy::declare_interior_mutable_const, reason = "the trait asks for it")]
    const INIT: Self = Self(AtomicBool::new(false));
    /// The count is this CPU's, so a guard stays on it.
    type GuardMarker = lock_api::GuardNoSend;

    fn lock(&self) {
        // Off before the first try: an interrupt between taking the lock and turning them off would find it held.
        enter();
        while self.0.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            spin_loop();
        }
    }

    fn try_lock(&self) -> bool {
        enter();
        let taken = self.0.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if !taken {
            leave();
        }
        taken
    }

    unsafe fn unlock(&self) {
        // After this store the next holder may free the lock's memory: `leave` touches what is the CPU's alone.
        self.0.store(false, Ordering::Release);
        leave();
    }
}

/// The embedder's own state goes behind the same lock.
type Mutex<T> = lock_api::Mutex<InterruptLock, T>;

struct Host {
    frames: FrameRegion<'static, InterruptLock>,
    machine: Machine<Handle>,
    /// How often the library asked for a frame, or gave one back, with interrupts on and off.
    calls: Mutex<[u64; 2]>,
}

#[derive(Clone, Copy)]
struct Handle(&'static Host);

impl Handle {
    fn note(&self) {
        let on = interrupts_are_on();
        self.0.calls.lock()[usize::from(!on)] += 1;
        assert_eq!(interrupts_are_on(), on, "as it was before the lock");
    }
}

// SAFETY: everything is forwarded to a `FrameRegion`, which keeps the contract.
unsafe impl Frames for Handle {
    fn allocate_frames(&self, request: FrameRequest) -> Option<Frame> {
        self.note();
        self.0.frames.allocate(request)
    }
    unsafe fn free_frames(&self, first: Frame, count: u64) {
        self.note();
        // SAFETY: forwarded.
        unsafe { self.0.frames.free(first, count) }
    }
    fn frame_pointer(&self, frame: Frame) -> *mut u8 {
        // Reached under the locks of the tables: never with interrupts on, once there are tables.
        self.0.frames.pointer(frame)
    }
    fn frame_meta(&self, frame: Frame) -> Option<&FrameMeta> {
        self.0.frames.meta(frame)
    }
}

// SAFETY: there is one machine, one CPU, and no TLB that could be stale.
unsafe impl Platform for Handle {
    type Mmu = X86_64;
    type RawMutex = InterruptLock;
    type CpuSet = CpuMask;
    type SpaceData = ();
    type AreaData = ();
    fn machine(&self) -> &Machine<Self> {
        &self.0.machine
    }
    fn cpu(&self) -> usize {
        0
    }
    fn flush(&self, _request: &FlushRequest<CpuMask>) {
        // Waits for other CPUs, so it must not be called under a lock: it is not.
        assert!(interrupts_are_on(), "no lock of the library is held here");
    }
    fn flush_local(&self, _request: &FlushRequest<CpuMask>) {}
}

/// Gives up two locks in the order in which they were taken, and says how interrupts were after each step.
fn unlock_in_any_order() {
    let (a, b) = (Mutex::new(()), Mutex::new(()));
    let show = |step: &str| println!("  {step:<9} interrupts {}", if interrupts_are_on() { "on" } else { "off" });
    show("before");
    let first = a.lock();
    show("lock A");
    let second = b.lock();
    show("lock B");
    assert!(a.try_lock().is_none(), "held");
    drop(first);
    show("unlock A");
    assert!(!interrupts_are_on(), "B is held still");
    drop(second);
    show("unlock B");
    assert!(interrupts_are_on());
}

/// Faults pages of a space in, as a kernel's fault handler does, with interrupts as they are.
fn work(host: Handle) -> Result<(), Box<dyn std::error::Error>> {
    let kernel = Space::kernel(&host, X86_64::new(40).range(0xffff_ff80_0000_0000, 0x80_0000_0000)?, None, ())?;
    let space = Space::user(&kernel, ())?;
    let area = Area::new(&host, AreaKind::Open { size: 8 * 4096 }, ())?;
    let range = space.map(&MapRequest::new(&area).at(0x40_0000).access(Access::USER_DATA))?;
    for page in 0..8 {
        space.fault(Fault::new(0x40_0000 + page * 4096, Access::WRITE | Access::USER))?.complete();
    }
    println!("\n{}\n", SpaceMap(&space));
    space.unmap(range)?.complete();
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("two locks, given up in the order in which they were taken:");
    unlock_in_any_order();

    let memory = Vec::leak(vec![0_u8; 257 * 4096]);
    let base = memory.as_mut_ptr().wrapping_add(memory.as_ptr().align_offset(4096));
    let records = Vec::leak((0..256).map(|_| FrameMeta::new()).collect());
    // SAFETY: the memory is aligned, large enough, and nobody else's for ever.
    let frames = unsafe { FrameRegion::new(base, 12, FrameMetaTable::new(Frame::new(0x100), records)) };
    let (machine, calls) = (Machine::new(X86_64::new(40)), Mutex::new([0, 0]));
    let host = Handle(Box::leak(Box::new(Host { frames, machine, calls })));
    work(host)?;
    assert!(interrupts_are_on(), "the library gave every lock up");

    let [on, off] = *host.0.calls.lock();
    println!(
        "frames were asked for or given back {} times: {on} with interrupts on (no lock held), {off} with them off",
        on + off
    );
    Ok(())
}

#[test]
fn it_runs() -> Result<(), Box<dyn std::error::Error>> {
    main()
}
