#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| spliceway::fuzzing::control_command(data));
