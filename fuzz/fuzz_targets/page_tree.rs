#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| vmcore::fuzzing::page_tree(input));
