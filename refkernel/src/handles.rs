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
//! Places that were never used are not there yet, so a new table costs nothing, and a copy as many places as were ever used at a time. The others' free ones are linked through
//! themselves: taking and giving back are O(1). A generation does not come back: it would take 2^47 calls to run out of them, and then the place is not used any more.
//!
//! # Two steps
//!
//! What moves from one table to another, and may still fail half way, is done in two steps, of which the second cannot fail: a place is *held*, and is then filled or
//! let go. A number whose place is held names nothing.
//!
//! ```text
//!              hold                     fill
//!     free ◄──────────► held ◄──────────────► used
//!              let_go            withdraw
//! ```

use core::fmt;

use arrayvec::ArrayVec;

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
    Held,
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
    /// Those that were ever used.
    places: ArrayVec<Place<T>, N>,
    /// The first of them that is free.
    free: Option<u16>,
}

impl<T, const N: usize> HandleTable<T, N> {
    const FITS: () = assert!(N < u16::MAX as usize, "a place must fit the low half of a handle");

    /// An empty table.
    #[must_use]
    pub const fn new() -> Self {
        const { Self::FITS };
        Self { places: ArrayVec::new_const(), free: None }
    }

    /// Takes something in and gives its number.
    ///
    /// # Errors
    ///
    /// [`HandleError::Full`]; `value` is dropped.
    pub fn insert(&mut self, value: T) -> Result<u64, HandleError> {
        self.take_place(Content::Used(value))
    }

    /// Holds a place, and gives the number that it will have. O(1).
    ///
    /// # Errors
    ///
    /// [`HandleError::Full`].
    pub fn hold(&mut self) -> Result<u64, HandleError> {
        self.take_place(Content::Held)
    }

    fn take_place(&mut self, content: Content<T>) -> Result<u64, HandleError> {
        let full = HandleError::Full { places: N };
        let Some(index) = self.free else {
            self.places.try_push(Place { generation: 0, content }).map_err(|_| full)?;
            return Ok(self.places.len() as u64);
        };
        let place = self.places.get_mut(usize::from(index)).ok_or(full)?;
        let Content::Free { next } = place.content else { return Err(full) };
        self.free = next;
        place.content = content;
        Ok(place.generation << PLACE_BITS | (u64::from(index) + 1))
    }

    /// The place behind a number, if it is of this generation.
    fn place(&mut self, number: u64) -> Option<(u16, &mut Place<T>)> {
        let (index, generation) = Self::index(number)?;
        let place = self.places.get_mut(usize::from(index))?;
        (place.generation == generation).then_some((index, place))
    }

    /// Fills a place that is held: from now on the number names this. O(1).
    ///
    /// # Errors
    ///
    /// The value, where the place is not held.
    pub fn fill(&mut self, number: u64, value: T) -> Result<(), T> {
        match self.place(number) {
            Some((_, place)) if matches!(place.content, Content::Held) => {
                place.content = Content::Used(value);
                Ok(())
            }
            _ => Err(value),
        }
    }

    /// Takes out what a number names and holds its place. O(1).
    ///
    /// # Errors
    ///
    /// [`HandleError::Unknown`].
    pub fn withdraw(&mut self, number: u64) -> Result<T, HandleError> {
        let unknown = HandleError::Unknown(number);
        let (_, place) = self.place(number).ok_or(unknown)?;
        match core::mem::replace(&mut place.content, Content::Held) {
            Content::Used(value) => Ok(value),
            other => {
                place.content = other;
                Err(unknown)
            }
        }
    }

    /// Gives a place back that is held; its number names nothing for ever. O(1).
    pub fn let_go(&mut self, number: u64) {
        if let Some((index, place)) = self.place(number)
            && matches!(place.content, Content::Held)
        {
            self.free_place(index);
        }
    }

    /// Puts a place that nothing uses any more among the free ones.
    fn free_place(&mut self, index: u16) {
        let free = self.free;
        let Some(place) = self.places.get_mut(usize::from(index)) else { return };
        let usable = place.generation + 1 < GENERATION_END;
        place.content = Content::Free { next: if usable { free } else { None } };
        place.generation += 1;
        if usable {
            self.free = Some(index);
        }
    }

    /// Whether [`insert`](Self::insert) would find a place.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.free.is_some() || !self.places.is_full()
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

    /// Fills a new table so that the same numbers name in it what `copy` makes of each thing. What is held in this one is free in that.
    ///
    /// It is filled where it is: a table is large enough that each time it is moved is felt.
    ///
    /// # Errors
    ///
    /// The first error of `copy`; `made` has what was made until then.
    pub fn try_copy_to<E>(&self, made: &mut Self, mut copy: impl FnMut(&T) -> Result<T, E>) -> Result<(), E> {
        made.places.clear();
        made.free = None;
        for from in &self.places {
            let content = match &from.content {
                Content::Free { next } => Content::Free { next: *next },
                Content::Used(value) => Content::Used(copy(value)?),
                Content::Held => Content::Held,
            };
            // There is a place for each, in a table as long.
            let _ = made.places.try_push(Place { generation: from.generation, content });
        }
        made.free = self.free;
        for index in 0..made.places.len() {
            if made.places.get(index).is_some_and(|place| matches!(place.content, Content::Held)) {
                made.free_place(index as u16);
            }
        }
        Ok(())
    }

    /// Takes out what `number` names; from then on the number names nothing.
    ///
    /// # Errors
    ///
    /// [`HandleError::Unknown`].
    pub fn remove(&mut self, number: u64) -> Result<T, HandleError> {
        let value = self.withdraw(number)?;
        self.let_go(number);
        Ok(value)
    }

    /// Takes out any of the things. O(N). `None` if there is none; what is held stays so.
    pub fn pop(&mut self) -> Option<T> {
        let used = |place: &Place<T>| matches!(place.content, Content::Used(_));
        let (index, place) = self.places.iter().enumerate().find(|(_, place)| used(place))?;
        let number = place.generation << PLACE_BITS | (index as u64 + 1);
        self.remove(number).ok()
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
        let first = table.insert(6).unwrap();
        assert_eq!(table.remove(first), Ok(6));
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
        let mut copy = HandleTable::new();
        table.try_copy_to(&mut copy, |value| Ok::<_, ()>(value * 10)).unwrap();
        assert_eq!((copy.get(handles[0]), copy.get(handles[1])), (Err(HandleError::Unknown(handles[0])), Ok(&20)));
        assert_eq!(copy.insert(7), table.insert(5));
        assert_eq!((table.get(handles[1]), copy.len()), (Ok(&2), 3));
        let mut copy = HandleTable::new();
        assert!(table.try_copy_to(&mut copy, |value| if *value == 3 { Err(()) } else { Ok(*value) }).is_err());
        assert_eq!([(); 3].map(|()| copy.pop()), [Some(5), Some(2), None], "what was made until then");
    }

    #[test]
    fn a_table_without_places_is_full() {
        let mut table = HandleTable::<u32, 0>::new();
        assert_eq!(table.insert(1), Err(HandleError::Full { places: 0 }));
        assert!(table.get(1).is_err());
    }

    #[test]
    fn what_is_held_is_nothing_until_it_is_filled() {
        let mut table = HandleTable::<u32, 2>::new();
        let first = table.insert(1).unwrap();
        assert_eq!(table.withdraw(first), Ok(1));
        for _ in 0..2 {
            assert_eq!(table.withdraw(first), Err(HandleError::Unknown(first)));
            assert_eq!(table.remove(first), Err(HandleError::Unknown(first)));
            assert_eq!(table.get(first), Err(HandleError::Unknown(first)));
        }
        let second = table.hold().unwrap();
        assert!(!table.has_room() && table.hold().is_err() && table.is_empty());
        assert_eq!(table.fill(first, 1), Ok(()));
        assert_eq!(table.fill(first, 2), Err(2));
        assert_eq!(table.get(first), Ok(&1));
        table.let_go(first);
        assert_eq!(table.get(first), Ok(&1), "it is not held any more");
        table.let_go(second);
        table.let_go(second);
        assert_eq!(table.fill(second, 7), Err(7));
        let third = table.insert(3).unwrap();
        assert_eq!((third == second, table.has_room(), table.len()), (false, false, 2));
    }

    #[test]
    fn a_table_is_emptied_but_for_what_is_held() {
        let mut table = HandleTable::<u32, 4>::new();
        let handles = [1, 2, 3].map(|value| table.insert(value).unwrap());
        assert_eq!(table.withdraw(handles[1]), Ok(2));
        assert_eq!([(); 3].map(|()| table.pop()), [Some(1), Some(3), None]);
        assert_eq!(table.fill(handles[1], 2), Ok(()));
        assert_eq!((table.get(handles[0]).is_err(), table.pop(), table.is_empty()), (true, Some(2), true));
    }

    #[test]
    fn a_copy_has_room_for_what_is_held() {
        let mut table = HandleTable::<u32, 3>::new();
        let handles = [1, 2, 3].map(|value| table.insert(value).unwrap());
        assert_eq!(table.withdraw(handles[1]), Ok(2));
        let mut copy = HandleTable::new();
        table.try_copy_to(&mut copy, |value| Ok::<_, ()>(*value)).unwrap();
        let again = copy.insert(5).unwrap();
        assert!(again != handles[1] && copy.insert(6).is_err());
        assert_eq!((copy.get(handles[1]).is_err(), copy.get(again), copy.get(handles[0])), (true, Ok(&5), Ok(&1)));
        assert_eq!(table.fill(handles[1], 2), Ok(()));
        assert_eq!(table.get(handles[1]), Ok(&2));
    }

    proptest! {
        /// Whatever numbers are tried, the table agrees with a map.
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((0_u8..8, 0_usize..12, any::<u64>()), 0..200)) {
            let mut table = HandleTable::<u64, 8>::new();
            // `None` is held.
            let mut model: HashMap<u64, Option<u64>> = HashMap::new();
            let mut given = vec![0_u64, 0xffff, 1 << 32, 1 << 63, u64::MAX];
            for (step, choice, value) in steps {
                let handle = given[given.len() - 1 - choice % given.len()];
                let known = model.get(&handle).copied();
                match step {
                    0..=2 => match if step == 0 { table.hold() } else { table.insert(value) } {
                        Ok(handle) => {
                            prop_assert!(model.insert(handle, (step != 0).then_some(value)).is_none());
                            prop_assert!(!given.contains(&handle));
                            given.push(handle);
                        }
                        Err(_) => prop_assert_eq!(model.len(), 8),
                    },
                    3 => match (table.fill(handle, value), known) {
                        (Ok(()), Some(None)) => prop_assert!(model.insert(handle, Some(value)).is_some()),
                        (result, _) => prop_assert_eq!(result, Err(value)),
                    },
                    4 => {
                        prop_assert_eq!(table.withdraw(handle).ok(), known.flatten());
                        model.entry(handle).and_modify(|value| *value = None);
                    }
                    5 => {
                        table.let_go(handle);
                        if known == Some(None) {
                            model.remove(&handle);
                        }
                    }
                    _ => {
                        prop_assert_eq!(table.remove(handle).ok(), known.flatten());
                        if known != Some(None) {
                            model.remove(&handle);
                        }
                    }
                }
                for handle in given.iter().chain(&[value]) {
                    prop_assert_eq!(table.get(*handle).ok().copied(), model.get(handle).copied().flatten());
                }
                prop_assert_eq!(table.has_room(), model.len() < 8);
            }
        }
    }
}
