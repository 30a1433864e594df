//! What the targets do with an input, where it is not the library's own ([`vmcore::fuzzing`]).
//!
//! | target | input | beside it |
//! |---|---|---|
//! | `entries` | words and leaves, of every format | what the manuals say that each format can represent |
//! | `tables` | operations on ranges of tables | a map from page to leaf; the simulated machine, whose CPUs look between any two entries |
//! | `page_tree` | operations on trees that share nodes | a `BTreeMap` for each; the count of every node and value |
//! | `static_vec` | operations on a vector | `Vec`, and the count of every value and block |
//! | `posix` | calls of the POSIX face, by programs that fork | a naive model, page by page |
//! | `elf` | files that claim to be programs for the kernel | a reading of the headers of its own; the bytes that a simulated CPU reads |
//! | `spaces` | operations on spaces, areas, CPUs and flushes | the naive model of the library's tests; the simulated machine |
//!
//! A panic is a finding.

mod elf;

#[allow(dead_code, unused_imports, unreachable_pub, reason = "the tests use more of it")]
#[path = "../../vmcore/tests/posix_model/main.rs"]
mod posix_model;

#[allow(dead_code, unused_imports, unreachable_pub, reason = "the tests use more of it")]
#[path = "../../vmcore/tests/whole_model/main.rs"]
mod whole_model;

/// Operations on several spaces, areas of every kind and CPUs, beside one naive model.
pub fn spaces(input: &[u8]) {
    whole_model::bytes::run(input);
}

/// Calls of the POSIX face by programs that fork, beside a naive model.
pub fn posix(input: &[u8]) {
    posix_model::run(input);
}

/// A file that claims to be a program for the kernel.
pub fn elf(input: &[u8]) {
    elf::run(input);
}
