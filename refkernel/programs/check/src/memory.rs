//! The memory functions of the runtime, against plain loops: a program's own copies must be right before its findings are.

use core::hint::black_box;

use crate::report::Report;

const LENGTH: usize = 64;

/// Bytes of which no two neighbours are the same.
fn pattern() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = (index as u8).wrapping_mul(37).wrapping_add(11);
    }
    bytes
}

pub(crate) fn check(report: &mut Report) {
    let original = pattern();
    let mut moved_right = true;
    let mut copied_right = true;
    let mut filled_right = true;
    for length in 0..LENGTH / 2 {
        for (from, to) in [(0, 1), (1, 0), (3, 20), (20, 3), (7, 7), (0, 32)] {
            // Lengths and places that the compiler does not know become calls of the runtime's functions.
            let (length, from, to) = (black_box(length), black_box(from), black_box(to));

            let mut bytes = original;
            bytes.copy_within(from..from + length, to);
            let expected = |index: usize| match index.checked_sub(to) {
                Some(offset) if offset < length => original[from + offset],
                _ => original[index],
            };
            moved_right &= (0..LENGTH).all(|index| bytes[index] == expected(index));

            let mut bytes = [0; LENGTH];
            bytes[to..to + length].copy_from_slice(&original[from..from + length]);
            copied_right &= bytes[to..to + length] == original[from..from + length];
            copied_right &= (0..length).all(|index| bytes[to + index] == original[from + index]);
            copied_right &= bytes[..to].iter().chain(&bytes[to + length..]).all(|byte| *byte == 0);

            let mut bytes = original;
            bytes[to..to + length].fill(black_box(0xa5));
            filled_right &= (0..LENGTH).all(|index| {
                let inside = (to..to + length).contains(&index);
                bytes[index] == if inside { 0xa5 } else { original[index] }
            });
        }
    }
    report.check("memory is moved, also onto itself", moved_right);
    report.check("memory is copied", copied_right);
    report.check("memory is filled", filled_right);

    let (low, high) = (black_box([1_u8, 2, 0x7f]), black_box([1_u8, 2, 0x80]));
    report.check("memory is compared as unsigned bytes", low < high && low != high);
}
