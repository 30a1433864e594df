//! The judged operations, with bytes as the source of choices.

use arbitrary::{Result, Unstructured};

use super::super::formats::ORDINARY;
#[cfg(not(quick))]
use super::super::formats::{ALWAYS_EXECUTABLE, GUEST};
use super::*;
use crate::paging::{AArch64, Granule4K, Half, RiscV64, X86_64};
#[cfg(not(quick))]
use crate::paging::{AArch64Stage2, Ept, Granule16K, RiscV32, X86, X86Pae};

/// The most operations that an input makes.
const OPERATIONS: usize = 16;

/// Operations on the tables of one format, with the simulated machine as the judge. Panics where something is not as it should be.
pub(crate) fn run(bytes: &[u8]) {
    let mut bytes = Unstructured::new(bytes);
    let Ok((format, setup)) = setup(&mut bytes) else { return };
    let mut operations = Vec::new();
    while !bytes.is_empty() && operations.len() < OPERATIONS {
        operations.extend(operation(&mut bytes));
    }
    let operations = &operations;
    match format % 12 {
        0..=2 => judge(X86_64::new(40), ORDINARY, setup, operations),
        3 => judge(RiscV64::sv39(56), ORDINARY, setup, operations),
        #[cfg(not(quick))]
        4 => judge(RiscV64::sv39(56).svpbmt().svnapot(), ORDINARY, setup, operations),
        #[cfg(not(quick))]
        5 => judge(RiscV32::new(34), ORDINARY, setup, operations),
        #[cfg(not(quick))]
        6 => judge(X86::new(36), ALWAYS_EXECUTABLE, setup, operations),
        #[cfg(not(quick))]
        7 => judge(X86Pae::new(40), ORDINARY, setup, operations),
        #[cfg(not(quick))]
        8 => judge(Ept::new(46), GUEST, setup, operations),
        #[cfg(not(quick))]
        9 => judge(AArch64::<Granule16K>::bits_48(Half::Lower, 48).hardware_dirty(), ORDINARY, setup, operations),
        #[cfg(not(quick))]
        10 => judge(AArch64Stage2::<Granule4K>::new(39, 40).hardware_dirty(), GUEST, setup, operations),
        _ => judge(AArch64::<Granule4K>::bits_48(Half::Lower, 48), ORDINARY, setup, operations),
    }
}

fn setup(bytes: &mut Unstructured) -> Result<(u8, Setup)> {
    let [format, flags] = bytes.arbitrary::<[u8; 2]>()?;
    let seed = bytes.arbitrary::<u16>()?.into();
    Ok((format, Setup { four: flags & 1 != 0, relied: flags & 2 != 0, software_marks: flags & 4 != 0, seed }))
}

fn operation(bytes: &mut Unstructured) -> Result<Operation> {
    let [kind, place] = bytes.arbitrary::<[u8; 2]>()?;
    let [offset, length] = bytes.arbitrary::<[u16; 2]>()?;
    let choice = bytes.arbitrary::<u32>()?;
    Ok((kind % 20, usize::from(place % 3), offset.into(), length.into(), choice.into()))
}

#[test]
fn inputs_of_a_fuzzer() {
    crate::fuzzing::inputs(24, 200).for_each(|input| run(&input));
}
