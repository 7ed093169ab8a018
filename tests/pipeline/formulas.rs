//! The closed forms of the schedules.

use plimsoll::pipeline::{Chunk, Run};

use super::{generate, in_flight, uniform};

/// The most idle time of a device, within its own span.
fn idle_within(run: &Run) -> u64 {
    run.devices.iter().map(|device| device.idle_within.get()).max().unwrap()
}

/// Forward, input and weight gradient times to try formulas with: as the papers have them, and others.
const TIMES: [[u64; 3]; 4] = [[1, 1, 1], [10, 12, 8], [7, 20, 3], [3, 2, 2]];

#[test]
fn gpipe_and_1f1b_idle_and_hold_what_their_formulas_say() {
    for p in 1..=16 {
        for m in 1..=64 {
            let (gpipe, one) = (generate("gpipe", p, m, None), generate("1f1b", p, m, Some(1)));
            for [f, b, w] in TIMES {
                let (a, c) = (uniform(&gpipe, [f, b, w]), uniform(&one, [f, b, w]));
                let idle = (p as u64 - 1) * (f + b + w);
                for device in a.devices.iter().chain(&c.devices) {
                    assert_eq!(device.idle.get(), idle, "{p} {m}");
                    // The fraction (p-1)/(m+p-1) of 1F1B.
                    assert_eq!(idle * (m + p - 1) as u64, (p as u64 - 1) * a.makespan.get());
                }
                assert_eq!(in_flight(&a), vec![m; p]);
                assert_eq!(in_flight(&c), (0..p).map(|i| m.min(p - i)).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn interleaved_idles_and_holds_what_its_formulas_say() {
    for p in 1..=16 {
        for v in 1..=4 {
            for m in (p..=64).step_by(p) {
                let schedule = generate("interleaved", p, m, Some(v));
                for [f, b, w] in [TIMES[0], TIMES[2]] {
                    let run = uniform(&schedule, [f, b, w]);
                    // Times are a chunk's, a v-th of a stage's.
                    assert!(run.devices.iter().all(|d| d.idle.get() == (p as u64 - 1) * (f + b + w)), "{p} {m} {v}");
                    let held = |i: usize| (m * v).min(2 * (p - i - 1) + (v - 1) * p + 1);
                    assert_eq!(in_flight(&run), (0..p).map(held).collect::<Vec<_>>(), "{p} {m} {v}");
                }
            }
        }
    }
}

#[test]
fn zb_h1_and_zb_h2_idle_and_hold_what_their_formulas_say() {
    for p in 1..=16 {
        for m in 1..=64 {
            let (h1, h2) = (generate("zb-h1", p, m, None), generate("zb-h2", p, m, None));
            for [f, b, w] in TIMES {
                let (run1, run2) = (uniform(&h1, [f, b, w]), uniform(&h2, [f, b, w]));
                if m >= p {
                    assert_eq!(idle_within(&run1), (p as u64 - 1) * (f + b - w), "h1 {p} {m} {f} {b} {w}");
                    assert_eq!(in_flight(&run1), vec![p; p]);
                }
                if m >= 2 * p - 1 {
                    assert_eq!(idle_within(&run2), (p as u64 - 1) * (f + b - 2 * w), "h2 {p} {m} {f} {b} {w}");
                    assert_eq!(in_flight(&run2), vec![2 * p - 1; p]);
                }
            }
        }
    }
}

#[test]
fn the_bubble_of_zb_h1_is_larger_where_weight_gradients_take_longer_than_forwards() {
    // The smallest case for which the formula's premise `W <= F` is needed.
    let run = uniform(&generate("zb-h1", 2, 3, None), [8, 10, 10]);
    assert_eq!((idle_within(&run), (8 + 10 - 10)), (10, 8));
}

#[test]
fn chimera_idles_and_holds_what_its_formulas_say() {
    for p in (2..=16).step_by(2) {
        let schedule = generate("chimera", p, p, None);
        for time in [2, 10, 36] {
            let run = uniform(&schedule, [time, time / 2, time - time / 2]);
            // Idle (p-2)/(2m+p-2) of the time, of which 2m forwards and backwards are the rest.
            assert_eq!(run.makespan.get(), (2 * p + p - 2) as u64 * time, "{p}");
            assert!(run.devices.iter().all(|device| device.idle.get() == (p - 2) as u64 * time));
        }
        let held = |i: usize| p / 2 + 1 + i.min(p - 1 - i);
        assert_eq!(in_flight(&uniform(&schedule, [1, 1, 1])), (0..p).map(held).collect::<Vec<_>>());
        for c in 0..p {
            assert_eq!(schedule.holders(Chunk(c as u32)).len(), 2, "two replicas of the weights");
        }
        for m in (2..p).step_by(2).chain([2 * p, 3 * p]) {
            let run = uniform(&generate("chimera", p, m, None), [2, 1, 1]);
            // Units one after the other idle at most as often as each alone.
            let units = m.div_ceil(p) as u64;
            assert!(run.devices[0].idle.get() <= 2 * units * (2 * p - 2) as u64, "{p} {m}");
            assert!(in_flight(&run).iter().all(|&held| held <= p));
        }
    }
}

/// Idle slots of the V schedules with at most `most` chunks in flight.
fn v_idle(p: usize, most: usize) -> usize {
    3 * p - 1 + (3 * p).max(p - 1 + 2 * (1 + most.div_ceil(2))) - 3 * most
}

#[test]
fn v_schedules_idle_and_hold_what_their_formulas_say() {
    for p in 4..=16 {
        for m in 2 * p - 1..=64 {
            for (name, most) in [("v-min", 2 * ((p + 4) / 3)), ("v-half", 2 * ((p + 2) / 2)), ("v-zb", 2 * p)] {
                let run = uniform(&generate(name, p, m, None), [1, 1, 1]);
                assert_eq!(in_flight(&run).into_iter().max(), Some(most.min(2 * m)), "{name} {p} {m}");
                if m > 2 * p || (name != "v-zb" && m == 2 * p) {
                    assert_eq!(idle_within(&run), v_idle(p, most) as u64, "{name} {p} {m}");
                }
            }
        }
    }
}

#[test]
fn v_schedules_of_any_size_are_legal_and_hold_no_more() {
    for p in 1..=16 {
        for m in (1..=9).chain([p, 20]) {
            for (name, most) in [("v-min", 2 * ((p + 4) / 3)), ("v-half", 2 * ((p + 2) / 2)), ("v-zb", 2 * p)] {
                let run = uniform(&generate(name, p, m, Some(2)), [1, 1, 1]);
                assert!(in_flight(&run).into_iter().all(|held| held <= most.max(2)), "{name} {p} {m}");
            }
        }
    }
}
