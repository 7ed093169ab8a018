//! Any solver on any problem: see `plimsoll::fuzz::solve_then_check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    plimsoll::fuzz::solve_then_check(data);
});
