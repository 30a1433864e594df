//! The steps on trees, with bytes as the source of choices.

use arbitrary::{Result, Unstructured};

use super::*;

/// The most steps that an input makes.
const STEPS: usize = 24;

/// Trees with runs that share structure, beside `BTreeMap`s: insert, remove, move, split off, compact, each first with too few nodes. Panics where they
/// differ.
pub(crate) fn run(bytes: &[u8]) {
    let mut bytes = Unstructured::new(bytes);
    let mut steps = Vec::new();
    while !bytes.is_empty() && steps.len() < STEPS {
        steps.extend(step(&mut bytes));
    }
    super::run(steps);
}

/// A key: most often a small one, so that steps meet.
fn key(bytes: &mut Unstructured) -> Result<u64> {
    let (form, number) = (bytes.arbitrary::<u8>()?, bytes.arbitrary::<u16>()?);
    let number = u64::from(number);
    Ok(match form % 16 {
        0..=7 => number % 600,
        8..=11 => number % 20_000,
        12 | 13 => u64::MAX - number % 5000,
        14 => ((number & 63) << (6 * (number >> 8 & 15).min(10))).wrapping_add(number >> 6 & 3),
        _ => bytes.arbitrary::<u64>()?,
    })
}

/// A key, and one that is not less.
fn keys(bytes: &mut Unstructured) -> Result<(u64, u64)> {
    let (first, count) = (key(bytes)?, bytes.arbitrary::<u16>()?);
    Ok((first, first.saturating_add(u64::from(count % 6000))))
}

fn step(bytes: &mut Unstructured) -> Result<Step> {
    let (kind, which) = (bytes.arbitrary::<u8>()?, usize::from(bytes.arbitrary::<u8>()?));
    let operation = match kind % 16 {
        0 | 1 => Operation::Insert(key(bytes)?),
        2 => Operation::GetOrInsert(key(bytes)?),
        3 => Operation::Remove(key(bytes)?),
        4 => {
            let (first, last) = keys(bytes)?;
            Operation::RemoveRange(first, last)
        }
        5 => Operation::Truncate(key(bytes)?),
        6 => Operation::Share,
        7 => Operation::Drop,
        8 => Operation::PrepareInsert(key(bytes)?),
        9 => {
            let (first, last) = keys(bytes)?;
            Operation::PrepareRemove(first, last)
        }
        10 => {
            let (first, last) = keys(bytes)?;
            Operation::FreeRun(first, last, u64::from(bytes.arbitrary::<u8>()?))
        }
        11 => {
            let (first, last) = keys(bytes)?;
            let ends = bytes.arbitrary::<u16>()?;
            Operation::Range(first, last, (0..16).map(|bit| ends & 1 << bit != 0).collect())
        }
        12 => {
            let [block, form] = bytes.arbitrary::<[u8; 2]>()?;
            // Of the larger ones one is enough: all keys are looked at again and again.
            let level = if form % 8 == 7 { 2 } else { 1 };
            let count = if level == 2 { 1 } else { 1 + u64::from(form) / 8 % 9 };
            return Ok(Step::Run { block: u64::from(block % 64), level, count, which });
        }
        13 => {
            let (first, last) = keys(bytes)?;
            return Ok(Step::Move { first, last, to: key(bytes)?, which });
        }
        14 => {
            let (first, last) = keys(bytes)?;
            return Ok(Step::Split { first, last, which });
        }
        _ => {
            let (first, last) = keys(bytes)?;
            return Ok(Step::Compact { first, last, which });
        }
    };
    Ok(Step::Do(operation, which))
}

#[test]
fn inputs_of_a_fuzzer() {
    crate::fuzzing::inputs(60, 400).for_each(|input| run(&input));
}
