//! Where a vector's memory comes from: a `static` that lends it once, and sources to grow into.

use core::alloc::Layout;
use core::cell::UnsafeCell;
use core::error::Error;
use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use crate::word::{AtomicBool, Ordering};

/// Memory in a `static` for `N` values of `T` that is lent once.
///
/// ```
/// use vmcore::static_vec::{StaticMemory, StaticVec};
///
/// static WINDOWS: StaticMemory<u64, 16> = StaticMemory::new();
///
/// let memory = WINDOWS.take().expect("nobody took it yet");
/// let windows = StaticVec::<u64>::lent(memory);
/// assert_eq!(windows.capacity(), 16);
/// assert!(WINDOWS.take().is_none(), "it is lent only once");
/// ```
pub struct StaticMemory<T, const N: usize> {
    slots: UnsafeCell<[MaybeUninit<T>; N]>,
    taken: AtomicBool,
}

// SAFETY: the cell is reached only through `take`, which lets exactly one caller through (an atomic
// exchange), so there is never more than one reference to its contents. That one reference may come
// to live in another thread than values of `T` are made in, hence `T: Send`.
unsafe impl<T: Send, const N: usize> Sync for StaticMemory<T, N> {}

impl<T, const N: usize> StaticMemory<T, N> {
    /// Room for `N` values, not yet lent.
    pub const fn new() -> Self {
        Self { slots: UnsafeCell::new([const { MaybeUninit::uninit() }; N]), taken: AtomicBool::new(false) }
    }

    /// The memory, the first time; afterwards `None`. O(1), safe from any CPU and any context.
    #[expect(clippy::mut_from_ref, reason = "the exchange lets one caller through")]
    pub fn take(&'static self) -> Option<&'static mut [MaybeUninit<T>]> {
        if self.taken.swap(true, Ordering::AcqRel) {
            return None;
        }
        // SAFETY: the exchange lets one caller through in the life of this `static` value, so this is
        // the only reference to the cell's contents that ever exists; `self` lives for ever.
        Some(unsafe { &mut *self.slots.get() })
    }
}

impl<T, const N: usize> Default for StaticMemory<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, const N: usize> fmt::Debug for StaticMemory<T, N> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("StaticMemory")
            .field("capacity", &N)
            .field("taken", &self.taken.load(Ordering::Relaxed))
            .finish()
    }
}

/// A source had no block of this size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutOfMemory {
    /// The size in bytes that was asked for.
    pub bytes: usize,
}

impl OutOfMemory {
    /// The error for a request of `bytes` bytes.
    pub const fn new(bytes: usize) -> Self {
        Self { bytes }
    }
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "no block of {} bytes: release memory and try again", self.bytes)
    }
}

impl Error for OutOfMemory {}

/// Where a [`StaticVec`](super::StaticVec) gets memory beyond what it was lent.
///
/// A source that has nothing yet (a pool before there are frames) answers [`OutOfMemory`] and may
/// answer differently later. A reference to a source is a source.
///
/// ```
/// use core::{alloc::Layout, ptr::NonNull};
/// use vmcore::static_vec::{GrowthMemory, OutOfMemory, StaticVec};
///
/// struct Heap;
///
/// // SAFETY: the standard allocator keeps the contract of `GrowthMemory`.
/// unsafe impl GrowthMemory for Heap {
///     fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
///         // SAFETY: the layout's size is not zero, as this trait's contract promises.
///         NonNull::new(unsafe { std::alloc::alloc(layout) }).ok_or(OutOfMemory::new(layout.size()))
///     }
///     unsafe fn free(&self, block: NonNull<u8>, layout: Layout) {
///         // SAFETY: the block came from `allocate` with this layout, as the caller promises.
///         unsafe { std::alloc::dealloc(block.as_ptr(), layout) }
///     }
/// }
///
/// let mut list = StaticVec::with_memory(Heap);
/// list.push("grown").unwrap();
/// ```
///
/// # Safety
///
/// A block returned by [`allocate`](Self::allocate) is valid for reads and writes of `layout.size()`
/// bytes, aligned to `layout.align()`, used by nobody else, and stays so (also when the source itself
/// is moved) until it is passed to [`free`](Self::free) or the source's last user is gone.
pub unsafe trait GrowthMemory {
    /// A block for `layout`, whose size is not zero.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] when there is none now.
    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory>;

    /// Takes a block back.
    ///
    /// # Safety
    ///
    /// `block` came from [`allocate`](Self::allocate) of this source with the same `layout`, was not
    /// freed since, and is not used afterwards.
    unsafe fn free(&self, block: NonNull<u8>, layout: Layout);
}

/// The source that never gives anything: a vector with it lives in what it was lent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lent;

// SAFETY: it returns no block, so there is nothing that the contract could be broken for.
unsafe impl GrowthMemory for Lent {
    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        Err(OutOfMemory::new(layout.size()))
    }

    unsafe fn free(&self, _block: NonNull<u8>, _layout: Layout) {}
}

// SAFETY: both calls are passed on to a source that keeps the contract, and through a shared
// reference the source is the same one for both.
unsafe impl<M: GrowthMemory + ?Sized> GrowthMemory for &M {
    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        (**self).allocate(layout)
    }

    unsafe fn free(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise is the one that is asked for here.
        unsafe { (**self).free(block, layout) }
    }
}
