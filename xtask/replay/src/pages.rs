//! A map from pages to small values, in which neighbours lie side by side: what is resident of a program.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::world::PAGE;

/// The pages of a chunk.
const CHUNK: u64 = 512;
/// The bytes that they cover.
const SIZE: u64 = CHUNK * PAGE;

type Chunk<T> = [Option<T>; CHUNK as usize];

/// Values by the addresses of pages.
pub(crate) struct Pages<T> {
    chunks: Vec<Chunk<T>>,
    /// Where the chunk of an address is, by its first address.
    places: BTreeMap<u64, usize>,
    /// The one that was used last.
    last: Cell<Option<(u64, usize)>>,
}

impl<T: Copy> Pages<T> {
    pub(crate) const fn new() -> Self {
        Self { chunks: Vec::new(), places: BTreeMap::new(), last: Cell::new(None) }
    }

    fn place(&self, chunk: u64) -> Option<usize> {
        if let Some((last, place)) = self.last.get()
            && last == chunk
        {
            return Some(place);
        }
        let place = *self.places.get(&chunk)?;
        self.last.set(Some((chunk, place)));
        Some(place)
    }

    pub(crate) fn get(&self, page: u64) -> Option<T> {
        self.chunks[self.place(page / SIZE)?][(page % SIZE / PAGE) as usize]
    }

    pub(crate) fn insert(&mut self, page: u64, value: T) {
        let place = self.place(page / SIZE).unwrap_or_else(|| {
            self.chunks.push([None; CHUNK as usize]);
            self.places.insert(page / SIZE, self.chunks.len() - 1);
            self.chunks.len() - 1
        });
        self.chunks[place][(page % SIZE / PAGE) as usize] = Some(value);
    }

    /// Adds pages side by side.
    pub(crate) fn insert_run(&mut self, start: u64, pages: u64, value: T) {
        for page in (start..).step_by(PAGE as usize).take(pages as usize) {
            self.insert(page, value);
        }
    }

    /// Takes away what lies from `start` to before `end`.
    pub(crate) fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        for (chunk, place) in self.places.range(start / SIZE..=(end - 1) / SIZE) {
            let first = start.max(chunk * SIZE) - chunk * SIZE;
            let last = (end - chunk * SIZE).min(SIZE);
            self.chunks[*place][(first / PAGE) as usize..last.div_ceil(PAGE) as usize].fill(None);
        }
    }

    /// What there is from `start` to before `end`, in order.
    pub(crate) fn range(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, T)> + '_ {
        let chunks = self.places.range(start / SIZE..end.div_ceil(SIZE).max(start / SIZE));
        let all = chunks.flat_map(|(chunk, place)| {
            let pages = (chunk * SIZE..).step_by(PAGE as usize);
            pages.zip(&self.chunks[*place]).filter_map(|(page, value)| Some((page, (*value)?)))
        });
        all.filter(move |(page, _)| (start..end).contains(page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a map of pages, at the ends of chunks and across them.
    #[test]
    fn pages_are_a_map() {
        let (mut pages, mut model) = (Pages::new(), BTreeMap::new());
        let mut random = 7_u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for step in 0..2000 {
            let (first, count) = (SIZE - 8 * PAGE + next(16 + CHUNK) * PAGE, next(600));
            let end = first + count * PAGE;
            if next(3) == 0 {
                pages.remove(first, end);
                model.retain(|page, _| !(first..end).contains(page));
            } else {
                pages.insert_run(first, count, step);
                model.extend((first..end).step_by(PAGE as usize).map(|page| (page, step)));
            }
            let (from, to) = (SIZE - 8 * PAGE + next(1000) * PAGE, SIZE + next(1000) * PAGE);
            let expected = model.iter().filter(|(page, _)| (from..to).contains(*page));
            assert!(pages.range(from, to).eq(expected.map(|(page, value)| (*page, *value))));
            assert_eq!(pages.get(from), model.get(&from).copied());
        }
        assert!(pages.range(0, u64::MAX - SIZE).eq(model.iter().map(|(page, value)| (*page, *value))));
    }
}
