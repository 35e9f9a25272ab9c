#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overlay_dataplane::fuzzing::engine_ops(bytes));
