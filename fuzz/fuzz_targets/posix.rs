#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| vmcore_fuzz::posix(input));
