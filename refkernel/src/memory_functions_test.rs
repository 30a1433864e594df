//! The kernel's memory functions against the plain loops that they replace.

core::arch::global_asm!(include_str!("memory_functions.s"));

unsafe extern "C" {
    fn kernel_memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8;
    fn kernel_memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8;
    fn kernel_memset(to: *mut u8, byte: i32, count: usize) -> *mut u8;
    fn kernel_memcmp(left: *const u8, right: *const u8, count: usize) -> i32;
    fn kernel_strlen(text: *const u8) -> usize;
}

fn pattern(seed: usize) -> Vec<u8> {
    (0..512).map(|index: usize| (index.wrapping_mul(31).wrapping_add(seed * 17) % 251) as u8).collect()
}

const COUNTS: [usize; 22] = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 71, 127, 128, 129, 192, 201];

#[test]
fn copies_and_nothing_beside() {
    for count in COUNTS {
        for offset in [0, 1, 5, 8] {
            let source = pattern(1);
            let mut target = pattern(2);
            let mut expected = target.clone();
            expected[offset..offset + count].copy_from_slice(&source[3..3 + count]);
            // SAFETY: both ranges lie in vectors of 512 bytes.
            let result = unsafe { kernel_memcpy(target.as_mut_ptr().add(offset), source.as_ptr().add(3), count) };
            assert_eq!(result, target.as_mut_ptr().wrapping_add(offset));
            assert_eq!(target, expected, "{count} bytes at {offset}");
        }
    }
}

#[test]
fn moves_overlapping_ranges_both_ways() {
    for count in COUNTS {
        for (to, from) in [(100, 100), (100, 101), (101, 100), (100, 116), (116, 100), (100, 163), (163, 100), (8, 300)]
        {
            let mut memory = pattern(3);
            let mut expected = memory.clone();
            expected.copy_within(from..from + count, to);
            let base = memory.as_mut_ptr();
            // SAFETY: both ranges lie in the vector of 512 bytes.
            let result = unsafe { kernel_memmove(base.add(to), base.add(from), count) };
            assert_eq!(result, base.wrapping_add(to));
            assert_eq!(memory, expected, "{count} bytes from {from} to {to}");
        }
    }
}

#[test]
fn fills_and_nothing_beside() {
    for count in COUNTS.into_iter().chain([255, 256, 257, 271, 272, 273, 300, 503]) {
        for byte in [0, 0x5a, 0xff, 0x1_23] {
            let mut memory = pattern(4);
            let mut expected = memory.clone();
            expected[9..9 + count].fill(byte as u8);
            // SAFETY: the range lies in the vector of 512 bytes.
            let result = unsafe { kernel_memset(memory.as_mut_ptr().add(9), byte, count) };
            assert_eq!(result, memory.as_mut_ptr().wrapping_add(9));
            assert_eq!(memory, expected, "{count} bytes of {byte:#x}");
        }
    }
}

#[test]
fn compares_as_slices_do() {
    for count in COUNTS {
        let left = pattern(5);
        // SAFETY: both ranges lie in vectors of 512 bytes.
        let compare = |right: &[u8]| unsafe { kernel_memcmp(left.as_ptr(), right.as_ptr(), count) };
        assert_eq!(compare(&left), 0);
        for position in 0..count + 1 {
            for change in [1_u8, 0x80, 0xff] {
                let mut right = left.clone();
                right[position] = right[position].wrapping_add(change);
                let expected = left[..count].cmp(&right[..count]) as i32;
                assert_eq!(compare(&right).signum(), expected, "{count} bytes, change at {position}");
            }
        }
    }
}

#[test]
fn measures_strings() {
    for length in [0, 1, 7, 8, 200] {
        let mut text = vec![b'x'; length];
        text.push(0);
        // SAFETY: the text ends with a zero.
        assert_eq!(unsafe { kernel_strlen(text.as_ptr()) }, length);
    }
}
