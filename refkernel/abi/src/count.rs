//! What the kernel counts.

use crate::numbered::numbered;

numbered! {
    /// Something that the kernel counts, for whoever measures ([`SystemCall::KernelCount`](crate::SystemCall::KernelCount)).
    pub enum Count: u64 {
        /// Page faults that were answered so that the program went on.
        Faults = 0,
        /// Interrupts of the processors' timers.
        TimerInterrupts = 1,
        /// Interrupts that one processor has sent to make another one forget translations.
        FlushInterrupts = 2,
    }
}
