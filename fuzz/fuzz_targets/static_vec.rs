#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| vmcore::fuzzing::static_vec(input));

#[cfg(not(fuzzing))]
fn main() {}
