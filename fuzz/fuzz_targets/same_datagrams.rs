#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overlay_wireguard::fuzzing::same_datagrams(bytes));
