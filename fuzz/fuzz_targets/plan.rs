//! Plan files: see `plimsoll::fuzz::load_plan`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    plimsoll::fuzz::load_plan(data);
});
