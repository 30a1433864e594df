//! What the fuzz targets of this crate do with an input: the models of its own tests, with bytes as the source of choices. It is there only in
//! builds for a fuzzer (`cargo xtask fuzz`) and for tests, which try that every input is one.

/// Words and leaves of every format: what is written is read, and what cannot be is refused, as the manuals say.
#[cfg(fuzzing)]
pub fn entries(input: &[u8]) {
    crate::paging::fuzzed_entries::run(input);
}

/// Operations on ranges of the tables of a format, judged by the simulated machine, beside maps from page to leaf.
#[cfg(fuzzing)]
pub fn tables(input: &[u8]) {
    crate::paging::fuzzed_tables::run(input);
}

/// Page trees that share nodes, beside `BTreeMap`s.
#[cfg(fuzzing)]
pub fn page_tree(input: &[u8]) {
    crate::page_tree::tests::runs::fuzzed::run(input);
}

/// A vector that begins in static memory, beside a `Vec`.
#[cfg(fuzzing)]
pub fn static_vec(input: &[u8]) {
    crate::static_vec::tests::fuzzed::run(input);
}

/// So many inputs, the same every time, of up to so many bytes.
#[cfg(test)]
pub(crate) fn inputs(count: usize, longest: usize) -> impl Iterator<Item = std::vec::Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..count).map(move |number| {
        let byte = |_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 56) as u8
        };
        (0..(number + 1) * longest / count).map(byte).collect()
    })
}
