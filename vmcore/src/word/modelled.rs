//! Shared words as a model checker sees them: every access is handed to the [`Model`] that was [installed](install).
//!
//! ```text
//!   library ──► AtomicU32::fetch_add ──► Model::access(word, Add(1)) ──┬─ a scheduling point, then word.perform(..)   (shuttle)
//!                                                                      └─ a word of the checker's own, by address      (loom)
//! ```
//!
//! A word here is a word in memory and nothing more: it can be made in a `const`, lies in frame metadata, tables and nodes like
//! the real one, and is found by a checker from its address. Who reuses memory for other words under a checker that keeps words by
//! address tells it so.

use core::fmt;
use core::ptr::NonNull;
pub use core::sync::atomic::Ordering;
use core::sync::atomic::{self as real, Ordering::SeqCst};

/// How many bytes a word has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Width {
    One,
    Two,
    Four,
    Eight,
}

/// What is done to a word, in one step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are those of the methods of core's atomics")]
pub enum Operation {
    Load,
    Store(u64),
    Swap(u64),
    Add(u64),
    Sub(u64),
    And(u64),
    Or(u64),
    Xor(u64),
    CompareExchange { old: u64, new: u64 },
}

/// One access to a word.
#[derive(Clone, Copy, Debug)]
pub struct WordAccess {
    /// Where the word is.
    pub address: NonNull<u8>,
    /// How large it is.
    pub width: Width,
    /// What is done.
    pub operation: Operation,
    /// The order that was asked for; of an exchange, that of success.
    pub order: Ordering,
    /// The order of an exchange that fails.
    pub failure: Ordering,
}

impl WordAccess {
    /// Does it to the word in memory, sequentially consistent, and gives what stood there.
    pub fn perform(&self) -> u64 {
        let pointer = self.address.as_ptr();
        // SAFETY: accesses are made of references to words only, which live meanwhile.
        unsafe {
            match self.width {
                Width::One => u64::from(perform_u8(real::AtomicU8::from_ptr(pointer), self.operation)),
                Width::Two => u64::from(perform_u16(real::AtomicU16::from_ptr(pointer.cast()), self.operation)),
                Width::Four => u64::from(perform_u32(real::AtomicU32::from_ptr(pointer.cast()), self.operation)),
                Width::Eight => perform_u64(real::AtomicU64::from_ptr(pointer.cast()), self.operation),
            }
        }
    }

    /// What stands in memory.
    pub fn in_memory(&self) -> u64 {
        Self { operation: Operation::Load, ..*self }.perform()
    }
}

macro_rules! perform {
    ($name:ident, $atomic:ident, $word:ident) => {
        fn $name(word: &real::$atomic, operation: Operation) -> $word {
            match operation {
                Operation::Load => word.load(SeqCst),
                Operation::Store(new) | Operation::Swap(new) => word.swap(new as $word, SeqCst),
                Operation::Add(more) => word.fetch_add(more as $word, SeqCst),
                Operation::Sub(less) => word.fetch_sub(less as $word, SeqCst),
                Operation::And(mask) => word.fetch_and(mask as $word, SeqCst),
                Operation::Or(mask) => word.fetch_or(mask as $word, SeqCst),
                Operation::Xor(mask) => word.fetch_xor(mask as $word, SeqCst),
                Operation::CompareExchange { old, new } => {
                    word.compare_exchange(old as $word, new as $word, SeqCst, SeqCst).unwrap_or_else(|seen| seen)
                }
            }
        }
    };
}

perform!(perform_u8, AtomicU8, u8);
perform!(perform_u16, AtomicU16, u16);
perform!(perform_u32, AtomicU32, u32);
perform!(perform_u64, AtomicU64, u64);

/// A model checker.
pub trait Model: Sync {
    /// Carries out an access, in whatever order with those of others, and gives what it found.
    fn access(&self, access: &WordAccess) -> u64;

    /// A fence.
    fn fence(&self, order: Ordering);

    /// The caller cannot go on before another thread has.
    fn wait(&self);
}

static MODEL: real::AtomicPtr<&'static dyn Model> = real::AtomicPtr::new(core::ptr::null_mut());

/// From here on every access is this checker's. Without one, words are what they are without this build.
pub fn install(model: &'static &'static dyn Model) {
    MODEL.store(core::ptr::from_ref(model).cast_mut(), SeqCst);
}

fn model() -> Option<&'static dyn Model> {
    // SAFETY: null, or what `install` was given, which is never written.
    unsafe { MODEL.load(SeqCst).as_ref() }.copied()
}

fn access(access: WordAccess) -> u64 {
    match model() {
        Some(model) => model.access(&access),
        None => access.perform(),
    }
}

/// A fence.
pub fn fence(order: Ordering) {
    match model() {
        Some(model) => model.fence(order),
        None => real::fence(order),
    }
}

/// Lets others go on, of whom one holds what the caller waits for.
pub(crate) fn wait() {
    match model() {
        Some(model) => model.wait(),
        None => core::hint::spin_loop(),
    }
}

/// What every kind of word has.
macro_rules! word {
    ($name:ident, $value:ty, $width:expr, $to:expr, $from:expr) => {
        /// The word of this width. Its methods are those of the real one.
        #[repr(transparent)]
        pub struct $name(real::$name);

        #[allow(dead_code, reason = "the set is complete, whatever is in use at the moment")]
        #[allow(missing_docs, reason = "as the real one's")]
        impl $name {
            pub const fn new(value: $value) -> Self {
                Self(real::$name::new(value))
            }

            /// # Safety
            /// As the real one's.
            pub const unsafe fn from_ptr<'a>(pointer: *mut $value) -> &'a Self {
                // SAFETY: as the caller vouches; this type is that of the word in it.
                unsafe { &*pointer.cast::<Self>() }
            }

            pub const fn as_ptr(&self) -> *mut $value {
                self.0.as_ptr()
            }

            pub fn get_mut(&mut self) -> &mut $value {
                self.0.get_mut()
            }

            fn access(&self, operation: Operation, order: Ordering, failure: Ordering) -> $value {
                let address = NonNull::from(self).cast();
                $from(access(WordAccess { address, width: $width, operation, order, failure }))
            }

            pub fn load(&self, order: Ordering) -> $value {
                self.access(Operation::Load, order, order)
            }

            pub fn store(&self, value: $value, order: Ordering) {
                self.access(Operation::Store($to(value)), order, order);
            }

            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                self.access(Operation::Swap($to(value)), order, order)
            }

            pub fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                let operation = Operation::CompareExchange { old: $to(old), new: $to(new) };
                let found = self.access(operation, success, failure);
                if found == old { Ok(found) } else { Err(found) }
            }

            pub fn compare_exchange_weak(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(old, new, success, failure)
            }

            pub fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                mut update: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                let mut found = self.load(failure);
                while let Some(new) = update(found) {
                    match self.compare_exchange(found, new, success, failure) {
                        Ok(found) => return Ok(found),
                        Err(seen) => found = seen,
                    }
                }
                Err(found)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

/// What words that are numbers have besides.
macro_rules! number {
    ($name:ident, $value:ty, $width:expr) => {
        word!($name, $value, $width, |value| value as u64, |found| found as $value);

        #[allow(dead_code, reason = "the set is complete, whatever is in use at the moment")]
        #[allow(missing_docs, reason = "as the real one's")]
        impl $name {
            pub fn fetch_add(&self, more: $value, order: Ordering) -> $value {
                self.access(Operation::Add(more as u64), order, order)
            }

            pub fn fetch_sub(&self, less: $value, order: Ordering) -> $value {
                self.access(Operation::Sub(less as u64), order, order)
            }

            pub fn fetch_and(&self, mask: $value, order: Ordering) -> $value {
                self.access(Operation::And(mask as u64), order, order)
            }

            pub fn fetch_or(&self, mask: $value, order: Ordering) -> $value {
                self.access(Operation::Or(mask as u64), order, order)
            }

            pub fn fetch_xor(&self, mask: $value, order: Ordering) -> $value {
                self.access(Operation::Xor(mask as u64), order, order)
            }

            pub fn fetch_max(&self, other: $value, order: Ordering) -> $value {
                let larger = |found: $value| Some(found.max(other));
                self.fetch_update(order, Ordering::Relaxed, larger).unwrap_or_else(|found| found)
            }

            pub fn fetch_min(&self, other: $value, order: Ordering) -> $value {
                let smaller = |found: $value| Some(found.min(other));
                self.fetch_update(order, Ordering::Relaxed, smaller).unwrap_or_else(|found| found)
            }
        }
    };
}

number!(AtomicU8, u8, Width::One);
number!(AtomicU16, u16, Width::Two);
number!(AtomicU32, u32, Width::Four);
number!(AtomicU64, u64, Width::Eight);
number!(AtomicUsize, usize, if size_of::<usize>() == 8 { Width::Eight } else { Width::Four });
word!(AtomicBool, bool, Width::One, u64::from, |found| found != 0);

/// A pointer.
#[repr(transparent)]
pub struct AtomicPtr<T>(real::AtomicPtr<T>);

#[allow(dead_code, reason = "the set is complete, whatever is in use at the moment")]
#[allow(missing_docs, reason = "as the real one's")]
impl<T> AtomicPtr<T> {
    pub const fn new(value: *mut T) -> Self {
        Self(real::AtomicPtr::new(value))
    }

    pub fn get_mut(&mut self) -> &mut *mut T {
        self.0.get_mut()
    }

    fn access(&self, operation: Operation, order: Ordering, failure: Ordering) -> *mut T {
        let address = NonNull::from(self).cast();
        let width = if size_of::<usize>() == 8 { Width::Eight } else { Width::Four };
        core::ptr::with_exposed_provenance_mut(access(WordAccess { address, width, operation, order, failure }) as usize)
    }

    pub fn load(&self, order: Ordering) -> *mut T {
        self.access(Operation::Load, order, order)
    }

    pub fn store(&self, value: *mut T, order: Ordering) {
        self.access(Operation::Store(value.expose_provenance() as u64), order, order);
    }

    pub fn swap(&self, value: *mut T, order: Ordering) -> *mut T {
        self.access(Operation::Swap(value.expose_provenance() as u64), order, order)
    }

    pub fn compare_exchange(
        &self,
        old: *mut T,
        new: *mut T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<*mut T, *mut T> {
        let (from, to) = (old.expose_provenance() as u64, new.expose_provenance() as u64);
        let found = self.access(Operation::CompareExchange { old: from, new: to }, success, failure);
        if found == old { Ok(found) } else { Err(found) }
    }

    pub fn compare_exchange_weak(
        &self,
        old: *mut T,
        new: *mut T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<*mut T, *mut T> {
        self.compare_exchange(old, new, success, failure)
    }
}

impl<T> fmt::Debug for AtomicPtr<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
