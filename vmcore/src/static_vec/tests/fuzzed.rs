//! The operations on a vector, with bytes as the source of choices.

use arbitrary::{Result, Unstructured};

use super::*;

/// The most operations that an input makes.
const OPERATIONS: usize = 200;

/// Operations on a vector beside a `Vec`: what is there, what is dropped, and which blocks are out. Panics where they differ.
pub(crate) fn run(bytes: &[u8]) {
    let mut bytes = Unstructured::new(bytes);
    let Ok(lent) = bytes.arbitrary::<u8>() else { return };
    let mut operations = Vec::new();
    while !bytes.is_empty() && operations.len() < OPERATIONS {
        operations.extend(operation(&mut bytes));
    }
    super::run(usize::from(lent % 20), operations);
}

fn operation(bytes: &mut Unstructured) -> Result<Operation> {
    let [kind, value] = bytes.arbitrary::<[u8; 2]>()?;
    let index = usize::from(value);
    Ok(match kind % 18 {
        0..=3 => Operation::Push(value),
        4 => Operation::Insert(index, bytes.arbitrary()?),
        5 => Operation::InsertSorted(value),
        6 => Operation::Remove(index),
        7 => Operation::SwapRemove(index),
        8 => Operation::Pop,
        9 => Operation::Truncate(index),
        10 => {
            let [end, taken] = bytes.arbitrary::<[u8; 2]>()?;
            Operation::Drain(index, end.into(), taken.into())
        }
        11 => Operation::Retain(value),
        12 => Operation::Reserve(index),
        13 => Operation::ShrinkToFit,
        14 => Operation::Clone,
        15 => Operation::IntoIter(index),
        16 => Operation::Fail(index % 4),
        _ => Operation::Heal,
    })
}

#[test]
fn inputs_of_a_fuzzer() {
    crate::fuzzing::inputs(200, 400).for_each(|input| run(&input));
}
