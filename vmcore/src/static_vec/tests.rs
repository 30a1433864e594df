//! Tests of [`StaticVec`](super::StaticVec): against `Vec` with random operations, with counted
//! drops, failing growth and panicking closures.

use super::*;
use core::alloc::Layout;
use core::cell::Cell;
use proptest::prelude::*;
use std::boxed::Box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

pub(crate) mod fuzzed;

/// A source over the host's heap that counts its blocks and can be told to fail.
#[derive(Default)]
struct Pool {
    blocks: Cell<usize>,
    /// How many more blocks it gives.
    budget: Cell<Option<usize>>,
}

// SAFETY: the host's allocator keeps the contract; failing is always allowed.
unsafe impl GrowthMemory for Pool {
    fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        assert_ne!(layout.size(), 0);
        if let Some(budget) = self.budget.get() {
            let left = budget.checked_sub(1).ok_or(OutOfMemory::new(layout.size()))?;
            self.budget.set(Some(left));
        }
        self.blocks.set(self.blocks.get() + 1);
        // SAFETY: the size is not zero.
        Ok(NonNull::new(unsafe { std::alloc::alloc(layout) }).unwrap())
    }

    unsafe fn free(&self, block: NonNull<u8>, layout: Layout) {
        self.blocks.set(self.blocks.get().checked_sub(1).unwrap());
        // SAFETY: as the caller promises.
        unsafe { std::alloc::dealloc(block.as_ptr(), layout) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        assert_eq!(self.blocks.get(), 0, "every block came back");
    }
}

/// Static memory for a test that runs many times: leaked, as a `static` is.
fn lend<T>(count: usize) -> &'static mut [MaybeUninit<T>] {
    let mut slots = Vec::new();
    slots.resize_with(count, MaybeUninit::uninit);
    Box::leak(slots.into_boxed_slice())
}

/// Static memory for tests that run so often that it must be had back: it ends with this, which outlives the vectors that have it.
#[derive(Default)]
struct Loans(Vec<*mut [MaybeUninit<Counted>]>);

impl Loans {
    fn lend(&mut self, count: usize) -> &'static mut [MaybeUninit<Counted>] {
        let memory = lend(count);
        self.0.push(memory);
        // SAFETY: it was leaked just now, and nobody else uses it before this is dropped, after the vector.
        unsafe { &mut **self.0.last().unwrap() }
    }
}

impl Drop for Loans {
    fn drop(&mut self) {
        for memory in self.0.drain(..) {
            // SAFETY: it was made of a box, and the vectors that it was lent to are gone.
            drop(unsafe { Box::from_raw(memory) });
        }
    }
}

/// A value that counts how many of its kind live, and fails the test if it is dropped twice.
struct Counted {
    value: u8,
    live: Rc<Cell<isize>>,
    alive: Cell<bool>,
    panics: bool,
}

impl Counted {
    fn new(value: u8, live: &Rc<Cell<isize>>) -> Self {
        live.set(live.get() + 1);
        Self { value, live: Rc::clone(live), alive: Cell::new(true), panics: false }
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        Self::new(self.value, &self.live)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        assert!(self.alive.replace(false), "dropped twice");
        self.live.set(self.live.get() - 1);
        if self.panics {
            panic!("a destructor that panics");
        }
    }
}

fn values<M: GrowthMemory>(list: &StaticVec<Counted, M>) -> Vec<u8> {
    list.iter().map(|element| element.value).collect()
}

#[test]
fn static_memory_is_lent_once() {
    static MEMORY: StaticMemory<u16, 3> = StaticMemory::new();
    assert_eq!(MEMORY.take().unwrap().len(), 3);
    assert!(MEMORY.take().is_none());
}

#[test]
fn static_vec_copy_keeps_no_flag() {
    let pool = Pool::default();
    let mut list = StaticVec::lent_with_memory(lend::<u32>(8), &pool);
    for value in 0..4 {
        list.push(value).unwrap();
    }
    assert_eq!(pool.blocks.get(), 0);
    let mut clone = list.try_clone().unwrap();
    assert_eq!(clone, list);
    assert!(clone.is_grown() && !list.is_grown());
    assert_eq!((clone.len(), clone.capacity()), (4, 4));
    assert_ne!(clone.as_ptr(), list.as_ptr());
    clone.push(9).unwrap();
    // Shrinking the copy must not bring it into memory that was lent to the original.
    clone.truncate(1);
    clone.shrink_to_fit().unwrap();
    assert!(clone.is_grown());
    assert_eq!(list.as_slice(), [0, 1, 2, 3]);
    assert_eq!(clone.as_slice(), [0]);
    drop(clone);
    assert_eq!(pool.blocks.get(), 0);
}

#[test]
fn static_vec_move_no_alias() {
    let live = Rc::new(Cell::new(0));
    let mut first = StaticVec::<Counted>::lent(lend(4));
    for value in 0..3 {
        first.push(Counted::new(value, &live)).unwrap();
    }
    let mut second = core::mem::take(&mut first);
    // The one moved from owns nothing: no element, no memory.
    assert_eq!((first.len(), first.capacity()), (0, 0));
    assert!(first.push(Counted::new(9, &live)).is_err());
    second.push(Counted::new(3, &live)).unwrap();
    assert_eq!(values(&second), [0, 1, 2, 3]);
    assert_eq!(live.get(), 4);
    let boxed = Box::new(second);
    drop(first);
    assert_eq!(live.get(), 4);
    assert_eq!(values(&boxed), [0, 1, 2, 3]);
    drop(boxed);
    assert_eq!(live.get(), 0);
}

#[test]
fn static_vec_growth_failure_keeps_contents() {
    let pool = Pool::default();
    pool.budget.set(Some(1));
    let live = Rc::new(Cell::new(0));
    let mut list = StaticVec::lent_with_memory(lend(2), &pool);
    for value in 0..4 {
        list.push(Counted::new(value, &live)).unwrap();
    }
    let place = list.as_ptr();
    assert_eq!(list.capacity(), 4);
    let rejected = list.push(Counted::new(9, &live)).unwrap_err();
    assert_eq!(rejected.value.value, 9);
    assert_eq!(rejected.error, StaticVecError::OutOfMemory { wanted: 5 }, "the modest request is the one reported");
    let inserted = list.insert(1, rejected.value).unwrap_err();
    assert_eq!(inserted.value.value, 9);
    let sorted = list.insert_sorted_by_key(inserted.value, |element| element.value).unwrap_err();
    assert_eq!(sorted.value.value, 9);
    assert!(list.reserve(1).is_err());
    assert!(list.try_clone().is_err());
    assert_eq!(values(&list), [0, 1, 2, 3]);
    assert_eq!(list.as_ptr(), place);
    assert_eq!(list.capacity(), 4);
    drop(sorted);
    assert_eq!(live.get(), 4);
    drop(list);
    assert_eq!(live.get(), 0);
}

#[test]
fn iterate_empty() {
    let pool = Pool::default();
    let mut list = StaticVec::<u64, &Pool>::with_memory(&pool);
    assert_eq!(list.iter().next(), None);
    assert_eq!(list.iter_mut().next(), None);
    assert_eq!(list.drain(..).unwrap().next(), None);
    assert_eq!(list.drain(..).unwrap().next_back(), None);
    list.retain(|_| false);
    list.push(1).unwrap();
    list.clear();
    assert_eq!((&list).into_iter().count(), 0);
    assert_eq!(list.into_iter().next(), None);
}

#[test]
fn reserve_then_pushes_cannot_fail() {
    let pool = Pool::default();
    let mut list = StaticVec::lent_with_memory(lend::<u8>(2), &pool);
    list.reserve(100).unwrap();
    pool.budget.set(Some(0));
    for value in 0..100 {
        list.push(value).unwrap();
    }
    assert_eq!(list.len(), 100);
}

#[test]
fn grows_out_of_and_back_into_lent_memory() {
    let pool = Pool::default();
    let memory = lend::<u8>(3);
    let lent_place = memory.as_ptr().cast::<u8>();
    let mut list = StaticVec::lent_with_memory(memory, &pool);
    for value in 0..10 {
        list.push(value).unwrap();
    }
    assert_ne!(list.as_ptr(), lent_place);
    list.truncate(4);
    list.shrink_to_fit().unwrap();
    assert_eq!((list.capacity(), list.is_grown()), (4, true));
    list.pop();
    list.shrink_to_fit().unwrap();
    assert_eq!((list.capacity(), list.is_grown()), (3, false));
    assert_eq!(list.as_ptr(), lent_place);
    assert_eq!(list.as_slice(), [0, 1, 2]);
    assert_eq!(pool.blocks.get(), 0);
}

#[test]
fn lend_later_and_change_source() {
    let mut list = StaticVec::<u8>::new();
    assert!(list.push(1).is_err());
    list.lend(lend(2)).unwrap();
    let refused = list.lend(lend(5)).unwrap_err();
    assert_eq!(refused.value.len(), 5);
    assert_eq!(refused.error, StaticVecError::AlreadyLent { capacity: 2 });
    list.push(1).unwrap();
    list.push(2).unwrap();
    let pool = Pool::default();
    let mut list = list.growing(&pool);
    list.push(3).unwrap();
    assert_eq!(list.as_slice(), [1, 2, 3]);
}

#[test]
fn zero_sized_elements() {
    let live = Rc::new(Cell::new(0_usize));
    std::thread_local!(static DROPS: Cell<usize> = const { Cell::new(0) });
    struct Nothing;
    impl Drop for Nothing {
        fn drop(&mut self) {
            DROPS.set(DROPS.get() + 1);
        }
    }
    let mut list = StaticVec::<Nothing>::new();
    assert_eq!(list.capacity(), usize::MAX);
    for _ in 0..10 {
        list.push(Nothing).unwrap();
    }
    list.insert(3, Nothing).unwrap();
    drop(list.remove(0));
    assert_eq!(list.drain(2..4).unwrap().count(), 2);
    let mut turn = false;
    list.retain(|_| {
        turn = !turn;
        turn
    });
    assert_eq!(list.len(), 4);
    list.shrink_to_fit().unwrap();
    assert_eq!(list.into_iter().count(), 4);
    assert_eq!(DROPS.get(), 11);
    assert_eq!(StaticVec::<()>::new().reserve(usize::MAX), Ok(()), "room for as many as can be counted");
    drop(live);
}

#[test]
fn bad_indices_are_answers() {
    let mut list = StaticVec::<u8>::lent(lend(4));
    list.push(1).unwrap();
    assert_eq!(list.remove(1), None);
    assert_eq!(list.swap_remove(usize::MAX), None);
    assert!(list.drain(0..2).is_err());
    #[expect(clippy::reversed_empty_ranges)]
    let reversed = list.drain(1..0).is_err();
    assert!(reversed);
    assert!(list.drain(..=usize::MAX).is_err());
    assert!(list.drain((Bound::Excluded(usize::MAX), Bound::Unbounded)).is_err());
    assert_eq!(list.reserve(usize::MAX), Err(StaticVecError::TooLarge { length: 1, additional: usize::MAX }));
    assert_eq!(list.as_slice(), [1]);
}

/// A vector of `count` values whose element at `bad` panics when it is dropped.
fn with_bad(count: u8, bad: u8, live: &Rc<Cell<isize>>) -> StaticVec<Counted> {
    let mut list = StaticVec::lent(lend(usize::from(count)));
    for value in 0..count {
        let mut element = Counted::new(value, live);
        element.panics = value == bad;
        assert!(list.push(element).is_ok());
    }
    list
}

#[test]
fn panicking_destructors_drop_nothing_twice() {
    let live = Rc::new(Cell::new(0));
    let caught = |action: &mut dyn FnMut(&mut StaticVec<Counted>)| {
        let mut list = with_bad(8, 3, &live);
        assert!(catch_unwind(AssertUnwindSafe(|| action(&mut list))).is_err());
        let left = values(&list);
        drop(list);
        assert_eq!(live.replace(0), 0, "nothing leaked here");
        left
    };
    assert_eq!(caught(&mut |list| drop(list.drain(2..5).unwrap())), [0, 1, 5, 6, 7]);
    assert_eq!(caught(&mut |list| list.truncate(2)), [0, 1]);
    assert_eq!(caught(&mut |list| list.retain(|element| element.value % 2 == 0)), [0, 2, 4, 5, 6, 7]);
    assert_eq!(caught(&mut |list| drop(core::mem::take(list))), Vec::<u8>::new());
    assert_eq!(caught(&mut |list| drop(core::mem::take(list).into_iter())), Vec::<u8>::new());
}

#[test]
fn panicking_closure_in_retain() {
    let live = Rc::new(Cell::new(0));
    let mut list = with_bad(8, u8::MAX, &live);
    let result = catch_unwind(AssertUnwindSafe(|| {
        list.retain(|element| {
            assert_ne!(element.value, 5, "the closure gives up");
            element.value % 2 == 1
        });
    }));
    assert!(result.is_err());
    assert_eq!(values(&list), [1, 3, 5, 6, 7]);
    drop(list);
    assert_eq!(live.get(), 0);
}

#[test]
fn forgotten_drain_leaks_and_no_more() {
    let live = Rc::new(Cell::new(0));
    let mut list = with_bad(6, u8::MAX, &live);
    core::mem::forget(list.drain(2..4).unwrap());
    assert_eq!(values(&list), [0, 1]);
    drop(list);
    assert_eq!(live.get(), 4);
}

#[test]
fn errors_name_argument_and_remedy() {
    use std::string::ToString;
    let mut list = StaticVec::<u8>::new();
    let text = list.insert(3, 0).unwrap_err().to_string();
    assert!(text.contains("index 3") && text.contains("length"), "{text}");
    assert!(OutOfMemory::new(64).to_string().contains("64 bytes"), "size named");
}

#[derive(Clone, Debug)]
enum Operation {
    Push(u8),
    Insert(usize, u8),
    InsertSorted(u8),
    Remove(usize),
    SwapRemove(usize),
    Pop,
    Truncate(usize),
    Drain(usize, usize, usize),
    Retain(u8),
    Reserve(usize),
    ShrinkToFit,
    Clone,
    IntoIter(usize),
    Fail(usize),
    Heal,
}

fn operation() -> impl Strategy<Value = Operation> {
    let index = 0..12_usize;
    prop_oneof![
        4 => any::<u8>().prop_map(Operation::Push),
        3 => (index.clone(), any::<u8>()).prop_map(|(i, v)| Operation::Insert(i, v)),
        2 => any::<u8>().prop_map(Operation::InsertSorted),
        2 => index.clone().prop_map(Operation::Remove),
        1 => index.clone().prop_map(Operation::SwapRemove),
        1 => Just(Operation::Pop),
        1 => index.clone().prop_map(Operation::Truncate),
        2 => (index.clone(), index.clone(), index.clone())
            .prop_map(|(a, b, n)| Operation::Drain(a, b, n)),
        1 => any::<u8>().prop_map(Operation::Retain),
        1 => index.clone().prop_map(Operation::Reserve),
        2 => Just(Operation::ShrinkToFit),
        1 => Just(Operation::Clone),
        1 => index.prop_map(Operation::IntoIter),
        1 => (0..2_usize).prop_map(Operation::Fail),
        1 => Just(Operation::Heal),
    ]
}

proptest! {
    /// Any sequence of operations does what `Vec` does, with every value dropped once, or is refused
    /// and changes nothing.
    #[test]
    fn agrees_with_vec(lent in 0..6_usize, operations in prop::collection::vec(operation(), 0..60)) {
        run(lent, operations);
    }
}

/// Makes operations on a vector that is lent room for so many, beside a `Vec`.
fn run(lent: usize, operations: impl IntoIterator<Item = Operation>) {
    let mut loans = Loans::default();
    let pool = Pool::default();
    let live = Rc::new(Cell::new(0));
    let mut list = StaticVec::lent_with_memory(loans.lend(lent), &pool);
    let mut model: Vec<u8> = Vec::new();
    for operation in operations {
        match operation {
            Operation::Push(value) => {
                let room = list.capacity() > list.len();
                let done = list.push(Counted::new(value, &live)).is_ok();
                assert!(done || !room);
                if done {
                    model.push(value);
                }
            }
            Operation::Insert(index, value) => match list.insert(index, Counted::new(value, &live)) {
                Ok(()) => model.insert(index, value),
                Err(rejected) => {
                    let beyond = matches!(rejected.error, StaticVecError::IndexOutOfRange { .. });
                    assert_eq!(beyond, index > model.len());
                    assert_eq!(rejected.value.value, value);
                }
            },
            Operation::InsertSorted(value) => {
                list.sort_by_key(|element| element.value);
                model.sort();
                let place = model.partition_point(|&other| other <= value);
                if let Ok(index) = list.insert_sorted_by_key(Counted::new(value, &live), |e| e.value) {
                    assert_eq!(index, place);
                    model.insert(place, value);
                }
            }
            Operation::Remove(index) => {
                let expected = (index < model.len()).then(|| model.remove(index));
                assert_eq!(list.remove(index).map(|e| e.value), expected);
            }
            Operation::SwapRemove(index) => {
                let expected = (index < model.len()).then(|| model.swap_remove(index));
                assert_eq!(list.swap_remove(index).map(|e| e.value), expected);
            }
            Operation::Pop => assert_eq!(list.pop().map(|e| e.value), model.pop()),
            Operation::Truncate(length) => {
                list.truncate(length);
                model.truncate(length);
            }
            Operation::Drain(start, end, taken) => match list.drain(start..end) {
                Ok(drain) => {
                    let front: Vec<u8> = drain.take(taken).map(|e| e.value).collect();
                    let expected: Vec<u8> = model.drain(start..end).take(taken).collect();
                    assert_eq!(front, expected);
                }
                Err(_) => assert!(start > end || end > model.len()),
            },
            Operation::Retain(limit) => {
                list.retain(|element| element.value < limit);
                model.retain(|&value| value < limit);
            }
            Operation::Reserve(additional) => {
                if list.reserve(additional).is_ok() {
                    assert!(list.capacity() >= list.len() + additional);
                }
            }
            Operation::ShrinkToFit => {
                if list.shrink_to_fit().is_ok() {
                    assert!(list.capacity() == list.len() || !list.is_grown());
                    assert_eq!(list.is_grown(), model.len() > lent);
                }
            }
            Operation::Clone => {
                if let Ok(clone) = list.try_clone() {
                    assert_eq!(values(&clone), model.clone());
                }
            }
            Operation::IntoIter(taken) => {
                let old = core::mem::replace(&mut list, StaticVec::with_memory(&pool));
                let mut iterator = old.into_iter();
                let back = iterator.next_back().map(|e| e.value);
                assert_eq!(back, model.pop());
                let front: Vec<u8> = iterator.take(taken).map(|e| e.value).collect();
                assert_eq!(&front[..], &model[..taken.min(model.len())]);
                model.clear();
                list.lend(loans.lend(lent)).ok();
            }
            Operation::Fail(after) => pool.budget.set(Some(after)),
            Operation::Heal => pool.budget.set(None),
        }
        assert_eq!(values(&list), model.clone());
        assert_eq!(live.get(), model.len() as isize);
        assert!(pool.blocks.get() <= 1);
    }
    drop(list);
    assert_eq!(live.get(), 0);
}
