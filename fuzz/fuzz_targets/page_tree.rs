#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| vmcore::fuzzing::page_tree(input));

#[cfg(not(fuzzing))]
fn main() {}
