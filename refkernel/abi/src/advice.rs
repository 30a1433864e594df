//! What a program says about memory, and how device memory is cached.

use crate::numbered::numbered;

numbered! {
    /// What [`SystemCall::AreaAdvise`](crate::SystemCall::AreaAdvise) is told about a range.
    pub enum Advice: u64 {
        /// It is used soon: what is there is shown now, so that reading it does not fault. No page is made.
        Needed = 0,
        /// Its contents are not needed any more. Memory that nothing else reaches (a window whose area has no handle, and that no other window shows) reads as zero from then on, and its
        /// frames are free; all other memory stays.
        NotNeeded = 1,
        /// As [`NotNeeded`](Self::NotNeeded), when the kernel wants the frames: until then an access finds what was there.
        FreeLazily = 2,
        /// Large pages are wanted.
        Huge = 3,
        /// Large pages are not wanted.
        NeverHuge = 4,
    }
}

numbered! {
    /// How accesses to device memory are cached ([`SystemCall::PhysicalArea`](crate::SystemCall::PhysicalArea)).
    pub enum Caching: u64 {
        /// Each access reaches the device, in order: registers.
        Uncached = 0,
        /// Writes are gathered: pixels.
        WriteCombining = 1,
    }
}
