//! The words that several CPUs share: every atomic of this crate is reached through this module.
//!
//! A model-checking build replaces these types by its own here, and nowhere else. The one exception
//! is the flag of [`StaticMemory`](crate::static_vec::StaticMemory), which must be made in a `const`.

#[allow(unused_imports, reason = "the set is complete, whatever is in use at the moment")]
pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
