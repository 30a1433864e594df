//! The store against a map, with few pages, so that it is full often.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

/// Pages by number, of which so many may be out at a time.
struct Heap {
    pages: HashMap<u64, Box<[u8; PAGE]>>,
    last: u64,
    most: usize,
}

impl StoreMemory for Heap {
    fn take(&mut self) -> Option<u64> {
        if self.pages.len() >= self.most {
            return None;
        }
        self.last += 1;
        self.pages.insert(self.last, Box::new([0xee; PAGE]));
        Some(self.last)
    }

    fn give(&mut self, page: u64) {
        assert!(self.pages.remove(&page).is_some(), "page {page} is given back once");
    }

    fn with<R>(&mut self, page: u64, look: impl FnOnce(&mut [u8; PAGE]) -> R) -> R {
        look(self.pages.get_mut(&page).expect("the page is out"))
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u64, usize, u8),
    Remove(u64),
    RemoveAbove(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let key = 1..40_u64;
    prop_oneof![
        6 => (key.clone(), 1..=PAGE, any::<u8>()).prop_map(|(key, size, seed)| Step::Put(key, size, seed)),
        4 => (key.clone(), 1..200_usize, any::<u8>()).prop_map(|(key, size, seed)| Step::Put(key, size, seed)),
        4 => key.clone().prop_map(Step::Remove),
        1 => key.prop_map(Step::RemoveAbove),
    ]
}

fn contents(size: usize, seed: u8) -> Vec<u8> {
    (0..size).map(|byte| (byte as u8).wrapping_mul(31) ^ seed).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn keeps_what_a_map_would(steps in prop::collection::vec(step(), 1..200), most in 1..8_usize) {
        let (mut index, mut pages) = ([Entry::default(); 32], [StorePage::default(); 6]);
        let mut store = CompressedStore::new(&mut index, &mut pages);
        let mut heap = Heap { pages: HashMap::new(), last: 0, most };
        let mut model: HashMap<u64, Vec<u8>> = HashMap::new();
        for step in steps {
            match step {
                Step::Put(key, size, seed) => {
                    let bytes = contents(size, seed);
                    model.remove(&key);
                    match store.put(&mut heap, key, &bytes) {
                        Ok(()) => drop(model.insert(key, bytes)),
                        // It is never full while there is a page to be had, and places in both tables.
                        Err(Full) => prop_assert!(heap.pages.len() >= most.min(6) || model.len() >= 28),
                    }
                }
                Step::Remove(key) => prop_assert_eq!(store.remove(&mut heap, key), model.remove(&key).is_some()),
                Step::RemoveAbove(key) => {
                    let before = model.len();
                    model.retain(|known, _| *known <= key);
                    prop_assert_eq!(store.remove_where(&mut heap, |known| known > key), (before - model.len()) as u64);
                }
            }
            for key in 0..41 {
                let kept = store.get(&mut heap, key, <[u8]>::to_vec);
                prop_assert_eq!(kept.as_ref(), model.get(&key));
            }
            let bytes: usize = model.values().map(Vec::len).sum();
            let counts = StoreCounts { entries: model.len() as u64, bytes: bytes as u64, pages: heap.pages.len() as u64 };
            prop_assert_eq!(store.counts(), counts);
        }
        store.remove_where(&mut heap, |_| true);
        prop_assert!(heap.pages.is_empty(), "every page came back");
    }
}

#[test]
fn runs_of_clear_bits_are_found() {
    for count in 1..=64 {
        assert_eq!(clear_run(0, count), Some(0));
        assert_eq!(clear_run(u64::MAX, count), None);
        for start in 0..=64 - count {
            assert_eq!(clear_run(!bits(start, count), count), Some(start), "{count} from {start}");
            assert!(count == 1 || clear_run(!bits(start, count - 1), count).is_none());
        }
    }
}

#[test]
fn nothing_is_kept_without_tables() {
    let mut heap = Heap { pages: HashMap::new(), last: 0, most: 8 };
    let mut store = CompressedStore::new(&mut [], &mut []);
    assert_eq!(store.put(&mut heap, 1, &[1]), Err(Full));
    assert_eq!((store.get(&mut heap, 1, |_| ()), store.remove(&mut heap, 1)), (None, false));
}
