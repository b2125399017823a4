#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cotvalve_fuzz::bodies::adapter(data));
