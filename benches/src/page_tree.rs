//! The page tree beside a 512-ary radix tree written for the comparison, `BTreeMap` and `HashMap`.
//!
//! | module | what it is |
//! |---|---|
//! | `radix` | the 512-ary radix tree |
//! | `subjects` | who takes part, and what each is asked to do |
//!
//! Rounds are made and counted as for the page tables ([`measure`](crate::measure)): interleaved, two each, the fastest counts. Keys and values are the same
//! for everybody, and before anything is measured [`check`] compares what everybody answers with a model.

pub mod radix;
pub mod subjects;

use std::{collections::BTreeMap, hint::black_box, time::Duration};

use anyhow::{Result, ensure};
use subjects::Subject;

use crate::clock::timed;

/// How many keys a dense tree has. The last inner nodes are not full, so that nothing ends at the root.
pub const KEYS: u64 = 1_000_000;

/// How many keys a sparse tree has, one in 512.
pub const SPARSE_KEYS: u64 = 65_536;

/// Tables that the 512-ary radix tree needs for either, and some more.
const TABLES: (usize, usize) = (4096, 70_000);

/// An operation that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// Keys 0, 1, 2, … into an empty tree.
    DenseInsert,
    /// All keys and values in order.
    Next,
    /// The first absent key, behind all that are present.
    FirstFree,
    /// Keys in random order.
    Get,
    /// The same with one page in 512 present.
    GetSparse,
    /// Bytes for each key, all present.
    BytesDense,
    /// Bytes for each key, one in 512 present.
    BytesSparse,
}

impl Row {
    /// All of them, in the table's order.
    pub const ALL: [Self; 7] = [
        Self::DenseInsert,
        Self::Next,
        Self::FirstFree,
        Self::Get,
        Self::GetSparse,
        Self::BytesDense,
        Self::BytesSparse,
    ];

    /// What it is called on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DenseInsert => "tree-insert",
            Self::Next => "tree-next",
            Self::FirstFree => "tree-first-free",
            Self::Get => "tree-get",
            Self::GetSparse => "tree-get-sparse",
            Self::BytesDense => "tree-bytes",
            Self::BytesSparse => "tree-bytes-sparse",
        }
    }

    /// What it is called in the table.
    pub const fn title(self) -> &'static str {
        match self {
            Self::DenseInsert => "dense insert, ns per key",
            Self::Next => "next by cursor, ns per key",
            Self::FirstFree => "first free behind a million keys, ns",
            Self::Get => "random get among a million keys, ns",
            Self::GetSparse => "random get, one key in 512 present, ns",
            Self::BytesDense => "bytes per key, all present",
            Self::BytesSparse => "bytes per key, one in 512 present",
        }
    }

    /// What `vmcore` is to reach, and whether that is a ratio to the radix tree.
    pub const fn goal(self) -> Option<(f64, bool)> {
        match self {
            Self::DenseInsert => Some((4.0, false)),
            Self::Next => Some((1.5, false)),
            Self::FirstFree => Some((5.0, false)),
            Self::Get => Some((1.2, true)),
            Self::GetSparse => None,
            Self::BytesDense => Some((9.5, false)),
            Self::BytesSparse => Some((100.0, false)),
        }
    }
}

/// The value at a key: what a frame's number and flags could be, never zero.
pub const fn value(key: u64) -> u64 {
    key << 8 | 2
}

/// So many keys at a distance from one another, in an order that is random and the same each time.
fn shuffled(count: u64, distance: u64) -> Vec<u64> {
    let mut keys: Vec<u64> = (0..count).map(|key| key * distance).collect();
    fastrand::Rng::with_seed(7).shuffle(&mut keys);
    keys
}

/// What all rows work with.
struct Work {
    dense: Vec<u64>,
    sparse: Vec<u64>,
}

/// One candidate, with a tree of either kind.
trait Runner {
    fn name(&self) -> &'static str;
    fn round(&mut self, row: Row, work: &Work) -> Option<Duration>;
    fn bytes(&self, row: Row) -> Option<f64>;
}

struct Candidate<S> {
    dense: S,
    sparse: S,
    fresh: S,
}

/// How often a round asks for the first free key.
const ASKED: u64 = 100_000;

impl<S: Subject> Runner for Candidate<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn round(&mut self, row: Row, work: &Work) -> Option<Duration> {
        match row {
            Row::DenseInsert => {
                self.fresh.clear();
                let tree = &mut self.fresh;
                Some(timed(|| (0..KEYS).for_each(|key| tree.insert(key, value(key)))))
            }
            Row::Next => {
                let tree = &self.dense;
                tree.sum()?;
                Some(timed(|| {
                    black_box(black_box(tree).sum());
                }))
            }
            Row::FirstFree => {
                let tree = &self.dense;
                tree.first_free(0)?;
                Some(timed(|| {
                    for _ in 0..ASKED {
                        black_box(black_box(tree).first_free(black_box(0)));
                    }
                }))
            }
            Row::Get | Row::GetSparse => {
                let (tree, keys) =
                    if row == Row::Get { (&self.dense, &work.dense) } else { (&self.sparse, &work.sparse) };
                Some(timed(|| {
                    black_box(keys.iter().fold(0_u64, |sum, key| sum.wrapping_add(tree.get(*key).unwrap_or(0))));
                }))
            }
            Row::BytesDense | Row::BytesSparse => None,
        }
    }

    fn bytes(&self, row: Row) -> Option<f64> {
        let (tree, keys) = match row {
            Row::BytesDense => (&self.dense, KEYS),
            Row::BytesSparse => (&self.sparse, SPARSE_KEYS),
            _ => return None,
        };
        Some(tree.bytes()? as f64 / keys as f64)
    }
}

fn ready<S: Subject + 'static>() -> Box<dyn Runner> {
    let (mut dense, mut sparse) = (S::new(TABLES.0), S::new(TABLES.1));
    (0..KEYS).for_each(|key| dense.insert(key, value(key)));
    (0..SPARSE_KEYS).for_each(|key| sparse.insert(key * 512, value(key * 512)));
    Box::new(Candidate { dense, sparse, fresh: S::new(TABLES.0) })
}

/// Measures the rows and gives the lines of the table, as they come.
///
/// # Errors
/// Who does not do the same work.
pub fn run(rows: &[Row], rounds: u32, mut line: impl FnMut(String)) -> Result<()> {
    check_all()?;
    let work = Work { dense: shuffled(KEYS, 1), sparse: shuffled(SPARSE_KEYS, 512) };
    let mut candidates = [
        ready::<subjects::Vmcore>(),
        ready::<subjects::Radix>(),
        ready::<subjects::Ordered>(),
        ready::<subjects::Hashed>(),
    ];
    let title = "page tree, a million keys";
    let names: Vec<_> = candidates.iter().map(|one| format!("{:>11}", one.name())).collect();
    line(format!("| {title:<38} | {} | ratio to radix |         goal |", names.join(" | ")));
    line(format!("|{:-<40}|{}---------------:|-------------:|", "", "------------:|".repeat(names.len())));
    for row in rows {
        let mut best: Vec<Option<f64>> = candidates.iter().map(|one| one.bytes(*row)).collect();
        let operations = match row {
            Row::FirstFree => ASKED,
            Row::GetSparse => SPARSE_KEYS,
            _ => KEYS,
        };
        for round in 0..rounds {
            for turn in 0..candidates.len() {
                let at = (turn + round as usize) % candidates.len();
                for _ in 0..2 {
                    let Some(time) = candidates[at].round(*row, &work) else { continue };
                    let time = time.as_secs_f64() * 1e9 / operations as f64;
                    best[at] = Some(best[at].map_or(time, |best| best.min(time)));
                }
            }
        }
        let shown: Vec<_> = best
            .iter()
            .map(|figure| figure.map_or(format!("{:>11}", "–"), |figure| format!("{figure:>11.2}")))
            .collect();
        let ratio = best[0].zip(best[1]).map_or("–".into(), |(vmcore, radix)| format!("{:.2}", vmcore / radix));
        let goal =
            row.goal().map_or("–".into(), |(goal, ratio)| format!("{goal}{}", if ratio { " × radix" } else { "" }));
        line(format!("| {:<38} | {} | {ratio:>14} | {goal:>12} |", row.title(), shown.join(" | ")));
    }
    Ok(())
}

fn check_all() -> Result<()> {
    check::<subjects::Vmcore>()?;
    check::<subjects::Radix>()?;
    check::<subjects::Ordered>()?;
    check::<subjects::Hashed>()
}

/// Checks that a candidate answers as a model does, with dense keys, sparse ones and holes.
///
/// # Errors
/// What it answers wrongly.
pub fn check<S: Subject>() -> Result<()> {
    let name = S::NAME;
    let random = &mut fastrand::Rng::with_seed(3);
    let cases: [Vec<u64>; 5] = [
        (0..5000).collect(),
        (0..5000).rev().collect(),
        (0..5000).map(|key| key * 512).collect(),
        (0..300_000).filter(|key| *key != 270_001).collect(),
        (0..5000).map(|_| random.u64(0..1 << 36)).collect(),
    ];
    let mut tree = S::new(TABLES.1);
    for keys in cases {
        tree.clear();
        let mut model = BTreeMap::new();
        for &key in &keys {
            tree.insert(key, value(key));
            model.insert(key, value(key));
        }
        for key in keys.iter().flat_map(|key| [*key, key + 1, key ^ 1 << 20, key + (1 << 40)]) {
            let (is, should) = (tree.get(key), model.get(&key).copied());
            ensure!(is == should, "{name}: {is:?} at key {key:#x}, not {should:?}");
        }
        if let Some(sum) = tree.sum() {
            let should = model.iter().fold((0, 0), subjects::add);
            ensure!(sum == should, "{name}: another sum than that of all keys and values in order");
        }
        if let Some(free) = tree.first_free(0) {
            let should = (0..).find(|key| !model.contains_key(key)).unwrap_or(0);
            ensure!(free == should, "{name}: {free:#x} is not the first free key {should:#x}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_do_the_same() {
        check_all().unwrap();
    }

    /// The page tree, but every 1,000th key is left out, or none is and free ones are not looked for.
    struct Lazy<const FORGETS: bool>(subjects::Vmcore);

    impl<const FORGETS: bool> Subject for Lazy<FORGETS> {
        const NAME: &'static str = "lazy";
        fn new(tables: usize) -> Self {
            Self(subjects::Vmcore::new(tables))
        }
        fn insert(&mut self, key: u64, value: u64) {
            if !FORGETS || key % 1000 != 999 {
                self.0.insert(key, value);
            }
        }
        fn get(&self, key: u64) -> Option<u64> {
            self.0.get(key)
        }
        fn sum(&self) -> Option<(u64, u64)> {
            self.0.sum()
        }
        fn first_free(&self, from: u64) -> Option<u64> {
            if FORGETS { self.0.first_free(from) } else { Some(5000) }
        }
        fn bytes(&self) -> Option<u64> {
            self.0.bytes()
        }
        fn clear(&mut self) {
            self.0.clear();
        }
    }

    #[test]
    fn who_does_less_is_caught() {
        assert!(check::<Lazy<true>>().unwrap_err().to_string().contains("lazy: None at key 0x3e7"));
        assert!(check::<Lazy<false>>().unwrap_err().to_string().contains("free"));
    }
}
