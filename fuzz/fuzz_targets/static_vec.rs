#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| vmcore::fuzzing::static_vec(input));
