#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| spliceway::fuzzing::fastcgi_request(data));
