//! TLB shootdown: making other processors forget translations, and waiting until they have.
//!
//! A processor that wants something of others writes it down once, in a place of its own, and puts its bit into the inbox of
//! each; who finds bits in its inbox does what their owners wrote down, and acknowledges by clearing its own bit there:
//!
//! ```text
//!   processor 0                                processor 2
//!   scope   := what to forget
//!   pending := {2, 3}
//!   inbox of 2 |= {0}, of 3 |= {0}     ──►     inbox {0}  ──interrupt, or a look at it──►  {}
//!   interrupts whose inbox was empty           forgets the scope of 0
//!   waits until pending is {}          ◄──     pending of 0 -= {2}
//! ```
//!
//! # Invariants
//!
//! - A scope is written by its owner, with interrupts off, while nothing of it is pending: who reads it finds it whole.
//! - An inbox that is not empty has an interrupt on its way, or its processor looks into it: whoever makes it non-empty sends one before it
//!   waits, and whoever adds to it needs none. That is the batching: several requests, one interrupt.
//! - Whatever is on the way when a space is left is still carried out: forgetting is by what a processor remembers.
//!
//! # No deadlock
//!
//! The waiting processor has interrupts off: it must not be moved away from its own place. So it looks into its own inbox as long as it waits, and two
//! that flush each other both get on. The other waits of the kernel with interrupts off are spins on [`InterruptLock`](super::lock)
//! and repeated faults and calls; each of their rounds is a [`relax`], which looks into the inbox. That is safe wherever they are: forgetting
//! takes no lock, allocates nothing and is never wrong. No lock of the library is held where it flushes; a lock of the kernel that is (the heap's,
//! while a page of it is faulted in) is waited for by such spins alone.
//!
//! # Who is asked
//!
//! The processors on which the space is active, by the library's count, and of those only such as run. A processor that has
//! left a space since is told when it comes back to it, by what its activation asks for: that is the lazy part.

use super::platform::forget;
use crate::cpu::apic::{self, FLUSH_VECTOR};
use crate::cpu::local::{CPUS_MAX, PerCpu, processor};
use crate::cpu::others;
use crate::weakness::{self, Defence};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};
use vmcore::paging::{FlushRequest, FlushScope};
use vmcore::{CpuMask, CpuSet};
use x86_64::instructions::interrupts::without_interrupts;

/// What a processor has of all this.
#[repr(align(128))]
struct Mailbox {
    /// Who wants something of it, a bit each.
    inbox: AtomicU64,
    /// Who has not yet done what it wants, a bit each.
    pending: AtomicU64,
    /// What it wants.
    scope: UnsafeCell<FlushScope>,
    /// Interrupts that it has sent.
    sent: AtomicU64,
}

// SAFETY: the scope is written by the one processor whose mailbox it is, while `pending` is empty and its bit in no inbox; it is read by
// others between their taking the owner's bit from their inbox (which acquires what was written before the bit was put there) and
// their clearing their bit in `pending` (which releases the read).
unsafe impl Sync for Mailbox {}

static MAILBOXES: PerCpu<Mailbox> = PerCpu::new(
    [const {
        Mailbox {
            inbox: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            scope: UnsafeCell::new(FlushScope::new()),
            sent: AtomicU64::new(0),
        }
    }; CPUS_MAX],
);

/// The processors, but this one, that run and that a request names: a bit each.
fn others_of(cpus: &CpuMask) -> u64 {
    let others = others::running() & !(1 << processor());
    bits(others).filter(|cpu| cpus.contains(*cpu)).fold(0, |set, cpu| set | 1 << cpu)
}

/// Makes every processor of the request forget its scope, and waits for them.
pub(super) fn flush(request: &FlushRequest<CpuMask>) {
    if others::running() == 1 {
        // The set is this processor, or nobody.
        if request.cpus.contains(processor()) {
            forget(&request.scope);
        }
        return;
    }
    // From here on this is one processor's doing.
    without_interrupts(|| {
        let others = if weakness::lacks(Defence::Shootdown) { 0 } else { others_of(&request.cpus) };
        if others != 0 {
            ask(others, &request.scope);
        }
        // While they are at it.
        if request.cpus.contains(processor()) {
            forget(&request.scope);
        }
        let own = MAILBOXES.here();
        while own.pending.load(Ordering::Acquire) != 0 {
            relax();
        }
    });
}

/// Puts the request into the others' inboxes.
fn ask(others: u64, scope: &FlushScope) {
    let own = MAILBOXES.here();
    // SAFETY: nothing is pending: the last request was waited for, with interrupts off as now, so this is not in the middle of another.
    unsafe { *own.scope.get() = *scope };
    own.pending.store(others, Ordering::Release);
    let bit = 1 << processor();
    for cpu in bits(others) {
        let Some(other) = MAILBOXES.of(cpu) else { continue };
        // Sequentially consistent: what was stored into tables before must be seen by who walks them after it has forgotten.
        if other.inbox.fetch_or(bit, Ordering::SeqCst) == 0 {
            own.sent.fetch_add(1, Ordering::Relaxed);
            apic::interrupt(cpu, FLUSH_VECTOR);
        }
    }
}

/// The numbers of the bits that are set.
pub(crate) fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let bit = set.trailing_zeros();
        set &= set.wrapping_sub(1);
        (bit < u64::BITS).then_some(bit as usize)
    })
}

/// Does what other processors ask of this one. For the interrupt, and for whoever waits with interrupts off.
#[inline]
pub(crate) fn serve() {
    let own = MAILBOXES.here();
    if own.inbox.load(Ordering::Relaxed) != 0 {
        serve_inbox(own);
    }
}

#[cold]
#[inline(never)]
fn serve_inbox(own: &Mailbox) {
    // Between taking a bit and clearing another one this must not be interrupted by itself, or moved.
    without_interrupts(|| {
        let me = 1_u64 << processor();
        for cpu in bits(own.inbox.swap(0, Ordering::SeqCst)) {
            let Some(asking) = MAILBOXES.of(cpu) else { continue };
            // SAFETY: its bit was in the inbox and this processor's is still pending, so the scope is whole and stays.
            forget(unsafe { &*asking.scope.get() });
            asking.pending.fetch_and(!me, Ordering::Release);
        }
    });
}

/// One round of a wait with interrupts off.
#[inline]
pub(crate) fn relax() {
    serve();
    core::hint::spin_loop();
}

/// Who waits for a processor to forget something and has not been answered yet, a bit each.
pub(super) fn waiting_for(cpu: usize) -> u64 {
    MAILBOXES.of(cpu).map_or(0, |mailbox| mailbox.inbox.load(Ordering::Relaxed))
}

/// The interrupts that a processor has sent so far, and who waits for it to forget something and has not been answered yet, a bit each.
pub(crate) fn counters(cpu: usize) -> (u64, u64) {
    (MAILBOXES.of(cpu).map_or(0, |mailbox| mailbox.sent.load(Ordering::Relaxed)), waiting_for(cpu))
}

/// Interrupts sent so far, by all processors, to make another one forget something.
pub(crate) fn interrupts_sent() -> u64 {
    MAILBOXES.iter().map(|mailbox| mailbox.sent.load(Ordering::Relaxed)).sum()
}

/// Makes every processor forget everything.
#[cfg(feature = "planted-weakness")]
pub(super) fn forget_everywhere() {
    let mut request = FlushRequest { cpus: CpuMask::EMPTY, scope: FlushScope::new() };
    bits(others::running()).for_each(|cpu| request.cpus.insert(cpu));
    request.scope.set_everything();
    flush(&request);
}
