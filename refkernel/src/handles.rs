//! What a process has, by number: a bounded table whose numbers are never used twice.
//!
//! ```text
//!   63             16 15         0
//!  +-----------------+------------+
//!  |   generation    | place + 1  |      0 is never a handle
//!  +-----------------+------------+
//! ```
//!
//! A place counts its generations, so that a number that was closed names nothing for ever, whoever has the place by then.
//!
//! # Invariants
//!
//! The free places are linked through themselves: taking and giving back are O(1). A generation does not come back: it would take
//! 2^47 calls to run out of them, and then the place is not used any more.

use core::fmt;

/// Why a table did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandleError {
    /// The number names nothing: it was never given out, or was closed.
    Unknown(u64),
    /// Every place is taken.
    Full {
        /// How many places there are.
        places: usize,
    },
}

impl fmt::Display for HandleError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(number) => write!(formatter, "the handle {number:#x} names nothing"),
            Self::Full { places } => write!(formatter, "all {places} handles are in use: close one first"),
        }
    }
}

impl core::error::Error for HandleError {}

const PLACE_BITS: u32 = 16;
/// Numbers stay below 2^63, clear of those that a system call reads as errors.
const GENERATION_END: u64 = 1 << 47;

#[derive(Debug)]
enum Content<T> {
    Free { next: Option<u16> },
    Used(T),
}

#[derive(Debug)]
struct Place<T> {
    generation: u64,
    content: Content<T>,
}

/// Up to `N` things (fewer than 65,535) by number.
#[derive(Debug)]
pub struct HandleTable<T, const N: usize> {
    places: [Place<T>; N],
    free: Option<u16>,
}

impl<T, const N: usize> HandleTable<T, N> {
    const FITS: () = assert!(N < u16::MAX as usize, "a place must fit the low half of a handle");

    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        const { Self::FITS };
        let next_of = |index: usize| u16::try_from(index + 1).ok().filter(|next| usize::from(*next) < N);
        let places =
            core::array::from_fn(|index| Place { generation: 0, content: Content::Free { next: next_of(index) } });
        Self { places, free: (N > 0).then_some(0) }
    }

    /// Takes something in and gives its number.
    ///
    /// # Errors
    ///
    /// [`HandleError::Full`]; `value` is dropped.
    pub fn insert(&mut self, value: T) -> Result<u64, HandleError> {
        let full = HandleError::Full { places: N };
        let index = self.free.ok_or(full)?;
        let place = self.places.get_mut(usize::from(index)).ok_or(full)?;
        let Content::Free { next } = place.content else { return Err(full) };
        self.free = next;
        place.content = Content::Used(value);
        Ok(place.generation << PLACE_BITS | (u64::from(index) + 1))
    }

    /// Whether [`insert`](Self::insert) would find a place.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.free.is_some()
    }

    fn index(number: u64) -> Option<(u16, u64)> {
        let index = (number & ((1 << PLACE_BITS) - 1)).checked_sub(1)?;
        Some((u16::try_from(index).ok()?, number >> PLACE_BITS))
    }

    /// What `number` names.
    ///
    /// # Errors
    ///
    /// [`HandleError::Unknown`].
    pub fn get(&self, number: u64) -> Result<&T, HandleError> {
        let found = Self::index(number)
            .and_then(|(index, generation)| Some((self.places.get(usize::from(index))?, generation)))
            .filter(|(place, generation)| place.generation == *generation);
        match found {
            Some((Place { content: Content::Used(value), .. }, _)) => Ok(value),
            _ => Err(HandleError::Unknown(number)),
        }
    }

    /// A table in which the same numbers name what `copy` makes of each thing.
    ///
    /// # Errors
    ///
    /// The first error of `copy`; what was made until then is dropped.
    pub fn try_copy<E>(&self, mut copy: impl FnMut(&T) -> Result<T, E>) -> Result<Self, E> {
        let mut made = Self::new();
        made.free = self.free;
        for (to, from) in made.places.iter_mut().zip(&self.places) {
            to.generation = from.generation;
            to.content = match &from.content {
                Content::Free { next } => Content::Free { next: *next },
                Content::Used(value) => Content::Used(copy(value)?),
            };
        }
        Ok(made)
    }

    /// Takes out what `number` names; from then on the number names nothing.
    ///
    /// # Errors
    ///
    /// [`HandleError::Unknown`].
    pub fn remove(&mut self, number: u64) -> Result<T, HandleError> {
        let unknown = HandleError::Unknown(number);
        let (index, generation) = Self::index(number).ok_or(unknown)?;
        let place = self.places.get_mut(usize::from(index)).ok_or(unknown)?;
        if place.generation != generation || !matches!(place.content, Content::Used(_)) {
            return Err(unknown);
        }
        let usable = place.generation + 1 < GENERATION_END;
        let next = if usable { self.free } else { None };
        let Content::Used(value) = core::mem::replace(&mut place.content, Content::Free { next }) else {
            return Err(unknown);
        };
        place.generation += 1;
        if usable {
            self.free = Some(index);
        }
        Ok(value)
    }

    /// How many things there are. O(N).
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.iter().filter(|place| matches!(place.content, Content::Used(_))).count()
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T, const N: usize> Default for HandleTable<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_never_used_twice() {
        let mut table = HandleTable::<u32, 2>::new();
        let mut seen = Vec::new();
        for value in 0..100 {
            let handle = table.insert(value).unwrap();
            assert!(handle != 0 && handle < 1 << 63 && !seen.contains(&handle));
            assert_eq!(table.get(handle), Ok(&value));
            assert_eq!(table.remove(handle), Ok(value));
            assert_eq!(table.get(handle), Err(HandleError::Unknown(handle)));
            assert_eq!(table.remove(handle), Err(HandleError::Unknown(handle)));
            seen.push(handle);
        }
    }

    #[test]
    fn a_full_table_refuses_and_recovers() {
        let mut table = HandleTable::<u32, 3>::new();
        let handles = [1, 2, 3].map(|value| table.insert(value).unwrap());
        assert!(!table.has_room());
        assert_eq!(table.insert(4), Err(HandleError::Full { places: 3 }));
        assert_eq!(table.remove(handles[1]), Ok(2));
        let again = table.insert(5).unwrap();
        assert_eq!((table.get(again), table.len()), (Ok(&5), 3));
    }

    #[test]
    fn a_place_without_generations_left_is_not_used_any_more() {
        let mut table = HandleTable::<u32, 1>::new();
        table.places[0].generation = GENERATION_END - 1;
        let last = table.insert(7).unwrap();
        assert!(last < 1 << 63);
        assert_eq!(table.remove(last), Ok(7));
        assert!(table.insert(8).is_err() && table.is_empty());
    }

    #[test]
    fn a_copy_has_the_same_numbers() {
        let mut table = HandleTable::<u32, 4>::new();
        let handles = [1, 2, 3].map(|value| table.insert(value).unwrap());
        assert_eq!(table.remove(handles[0]), Ok(1));
        let mut copy = table.try_copy(|value| Ok::<_, ()>(value * 10)).unwrap();
        assert_eq!((copy.get(handles[0]), copy.get(handles[1])), (Err(HandleError::Unknown(handles[0])), Ok(&20)));
        assert_eq!(copy.insert(7), table.insert(5));
        assert_eq!((table.get(handles[1]), copy.len()), (Ok(&2), 3));
        assert!(table.try_copy(|value| if *value == 3 { Err(()) } else { Ok(*value) }).is_err());
    }

    #[test]
    fn a_table_without_places_is_full() {
        let mut table = HandleTable::<u32, 0>::new();
        assert_eq!(table.insert(1), Err(HandleError::Full { places: 0 }));
        assert!(table.get(1).is_err());
    }

    proptest! {
        /// Whatever numbers are tried, the table agrees with a map.
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((any::<bool>(), 0_usize..12, any::<u64>()), 0..200)) {
            let mut table = HandleTable::<u64, 8>::new();
            let mut model = HashMap::new();
            let mut given = vec![0_u64, 0xffff, 1 << 32, 1 << 63, u64::MAX];
            for (insert, choice, value) in steps {
                if insert {
                    match table.insert(value) {
                        Ok(handle) => {
                            prop_assert!(model.insert(handle, value).is_none());
                            given.push(handle);
                        }
                        Err(_) => prop_assert_eq!(model.len(), 8),
                    }
                } else {
                    let handle = given[given.len() - 1 - choice % given.len()];
                    prop_assert_eq!(table.remove(handle).ok(), model.remove(&handle));
                }
                for handle in given.iter().chain(&[value]) {
                    prop_assert_eq!(table.get(*handle).ok(), model.get(handle));
                }
            }
        }
    }
}
