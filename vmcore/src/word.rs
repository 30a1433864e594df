//! The words that several CPUs share: every atomic of this crate is reached through this module.
//!
//! A build with `--cfg loom` or `--cfg shuttle` puts words of its own in their place, here and nowhere else: each access to one is
//! handed to a model checker (`modelled`, which that build makes public; `vmcore/models` is who uses it). They are as large as the
//! real ones, made in a `const`, and zero is valid, so that frame metadata, table entries and nodes stay as they are.
//!
//! Left out, on purpose, is the bookkeeping of the simulated machine (`sim`), which judges and is not judged: its words are the
//! host's. What its CPUs do to table entries comes through here.

#[cfg(not(any(loom, shuttle)))]
#[allow(unused_imports, reason = "the set is complete, whatever is in use at the moment")]
pub(crate) use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

#[cfg(any(loom, shuttle))]
pub use self::modelled::*;

#[cfg(any(loom, shuttle))]
mod modelled;
