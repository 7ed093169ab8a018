//! Pipeline schedules: generators against the papers' formulas, the verifier against schedules broken by hand, the
//! simulator against sums done by hand and bounds, the file, and `plimsoll simulate`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::{Command, Output};

use assert_cmd::cargo::CommandCargoExt as _;
use plimsoll::pipeline::{
    Action, Chunk, Device, Link, Microbatch, Run, Schedule, Shape, Violation, Workload, by_name, generators, names,
    simulate, verify,
};
use plimsoll::{Bytes, Error, Nanos};
use serde_json::{Value, json};

fn generate(name: &str, p: usize, m: usize, v: Option<usize>) -> Schedule {
    let shape = Shape { stages: p, microbatches: m, chunks: v };
    by_name(name).unwrap().generate(shape).unwrap_or_else(|e| panic!("{name} {p} {m} {v:?}: {e}"))
}

/// Run with the same times everywhere and messages that take none.
fn uniform(schedule: &Schedule, [f, b, w]: [u64; 3]) -> Run {
    let name = format!("{} of {}", schedule.name(), schedule.devices().len());
    simulate(schedule, &Workload::uniform(schedule, f, b, w)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn in_flight(run: &Run) -> Vec<usize> {
    run.devices.iter().map(|device| device.peak_in_flight).collect()
}

/// The most idle time of a device, within its own span.
fn idle_within(run: &Run) -> u64 {
    run.devices.iter().map(|device| device.idle_within.get()).max().unwrap()
}

/// Forward, input and weight gradient times to try formulas with: as the papers have them, and others.
const TIMES: [[u64; 3]; 5] = [[1, 1, 1], [10, 12, 8], [7, 20, 3], [3, 2, 2], [100, 100, 100]];

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
        for m in [2 * p - 1, 2 * p, 2 * p + 1, 3 * p, 64] {
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

/// Deterministic numbers (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

/// Chunks of different times; links and devices too if `all`.
fn heterogeneous(schedule: &Schedule, numbers: &mut Numbers, all: bool) -> Workload {
    let mut work = Workload::uniform(schedule, 1, 1, 1);
    for chunk in &mut work.chunks {
        chunk.forward = Nanos(1 + numbers.below(100));
        chunk.input_gradient = Nanos(1 + numbers.below(100));
        chunk.weight_gradient = Nanos(numbers.below(100));
        chunk.activation = Bytes(numbers.below(1000));
        chunk.kept = Bytes(numbers.below(1000));
        if all {
            chunk.update = Nanos(numbers.below(50));
            chunk.output = Bytes(numbers.below(1000));
            chunk.gradient = Bytes(numbers.below(1000));
        }
    }
    if all {
        for device in &mut work.devices {
            device.speed = 25 + numbers.below(400) as u32;
        }
        work.link = Link { latency: Nanos(numbers.below(20)), bytes_per_s: 10_000_000_000 };
        let slow = Link { latency: Nanos(numbers.below(200)), bytes_per_s: 1_000_000_000 };
        work.links.insert((Device(0), Device(1)), slow);
    }
    work
}

/// A schedule of a random generator and shape.
fn any_schedule(numbers: &mut Numbers) -> Schedule {
    let name = names()[numbers.below(9) as usize];
    let (mut p, mut m) = (1 + numbers.below(6) as usize, 1 + numbers.below(12) as usize);
    match name {
        "chimera" => (p, m) = (2 * (1 + p / 3), 2 * (1 + p / 3) * (1 + m / 6)),
        "interleaved" => m = p * (1 + m / 4),
        _ => {}
    }
    generate(name, p, m, None)
}

/// Of all computations: device, time.
fn computations(schedule: &Schedule, work: &Workload) -> Vec<(Device, Nanos)> {
    let time = |device: Device, action: Action| {
        let chunk = work.chunks[action.chunk().index()];
        let time = match action {
            Action::Forward(..) => chunk.forward,
            Action::InputGradient(..) => chunk.input_gradient,
            Action::WeightGradient(..) => chunk.weight_gradient,
            Action::Backward(..) => chunk.input_gradient + chunk.weight_gradient,
            Action::Update(_) => chunk.update,
            _ => return None,
        };
        Some((device, work.on(device, time)))
    };
    let all = schedule.devices().iter().zip(0..).flat_map(|(actions, d)| actions.iter().map(move |&a| (Device(d), a)));
    all.filter_map(|(device, action)| time(device, action)).collect()
}

#[test]
fn a_thousand_heterogeneous_pipelines_lie_within_bounds_that_hold_for_all() {
    let mut numbers = Numbers(7);
    let mut seen = BTreeSet::new();
    for case in 0..1000 {
        let schedule = any_schedule(&mut numbers);
        let work = heterogeneous(&schedule, &mut numbers, true);
        let run = simulate(&schedule, &work).unwrap();
        let what = format!("case {case}: {} {}", schedule.name(), schedule.devices().len());
        seen.insert(schedule.name().to_owned());
        // Below: a device does all it has, and starts only when a microbatch has come through the chunks before its
        // first one on some route.
        let all = computations(&schedule, &work);
        for (d, device) in run.devices.iter().enumerate() {
            let here = Device(d as u32);
            let busy: Nanos = all.iter().filter(|(device, _)| *device == here).map(|(_, time)| *time).sum();
            assert_eq!(device.busy, busy, "{what}");
            let before = |route: &Vec<Device>| -> Option<Nanos> {
                let first = route.iter().position(|&device| device == here)?;
                Some((0..first).map(|c| work.on(route[c], work.chunks[c].forward)).sum())
            };
            let start = schedule.routes().iter().filter_map(before).min().unwrap();
            assert!(run.makespan >= start + busy, "{what} {here}");
            assert_eq!(device.idle + device.busy, run.makespan);
            assert!(device.idle_within <= device.idle);
        }
        // Above: at every instant before the end some device computes or some message is on its way, since nothing else
        // is waited for without end; so at worst all of it is done one after the other.
        let messages = schedule.devices().iter().zip(0..).flat_map(|(actions, d)| {
            actions.iter().filter_map(move |&action| match action {
                Action::SendActivation(_, c, to) => Some((Device(d), to, c, false)),
                Action::SendGradient(_, c, to) => Some((Device(d), to, c, true)),
                _ => None,
            })
        });
        let on_the_way = messages.map(|(from, to, c, gradient)| {
            let (link, chunk) = (work.link(from, to), &work.chunks[c.index()]);
            link.latency + work.sending(link, if gradient { chunk.gradient } else { chunk.output })
        });
        let everything: Nanos = all.iter().map(|(_, time)| *time).chain(on_the_way).sum();
        assert!(run.makespan <= everything, "{what}");
        // More room in the queues never hurts.
        let roomy = simulate(&schedule.clone().with_queue(1000), &work).unwrap();
        assert!(roomy.makespan <= run.makespan, "{what}");
        // What runs does not overlap on a device.
        for events in &run.events {
            assert!(events.windows(2).all(|pair| pair[0].end <= pair[1].start), "{what}");
        }
    }
    assert_eq!(seen.len(), generators().len());
}

#[test]
fn unequal_stages_gpipe_exactly_and_1f1b_between_its_bounds() {
    let mut numbers = Numbers(11);
    for case in 0..1000 {
        let (p, m) = (1 + numbers.below(16) as usize, 1 + numbers.below(64) as usize);
        let (gpipe, one) = (generate("gpipe", p, m, None), generate("1f1b", p, m, None));
        let work = heterogeneous(&gpipe, &mut numbers, false);
        let f: Vec<u64> = work.chunks.iter().map(|chunk| chunk.forward.get()).collect();
        let b: Vec<u64> = work.chunks.iter().map(|c| (c.input_gradient + c.weight_gradient).get()).collect();
        let both: Vec<u64> = f.iter().zip(&b).map(|(f, b)| f + b).collect();
        let (sum, most) = (|x: &[u64]| x.iter().sum::<u64>(), |x: &[u64]| *x.iter().max().unwrap());
        let again = m as u64 - 1;
        let makespan = simulate(&gpipe, &work).unwrap().makespan.get();
        assert_eq!(makespan, sum(&f) + sum(&b) + again * (most(&f) + most(&b)), "case {case}: {p} {m}");
        let makespan = simulate(&one, &work).unwrap().makespan.get();
        // A stage starts when a microbatch has come down to it, has all its work to do, and the last gradient has to go
        // up again.
        let low = (0..p).map(|s| sum(&both[..s]) + m as u64 * both[s]).max().unwrap();
        assert!((low..=sum(&both) + again * most(&both)).contains(&makespan), "case {case}: {p} {m}");
    }
}

#[test]
fn generated_schedules_state_queues_that_suffice() {
    let mut rendezvous = 0;
    for name in names() {
        for p in 1..=8 {
            for m in 1..=16 {
                let shape = Shape { stages: p, microbatches: m, chunks: None };
                let Ok(schedule) = by_name(name).unwrap().generate(shape) else { continue };
                assert_eq!(verify(&schedule), Ok(()), "{name} {p} {m}");
                // Neither does the file lose anything.
                assert_eq!(Schedule::from_json(&schedule.to_json(), "s").unwrap(), schedule);
                // Without places in the queues some would wait for each other; nothing else can be wrong then.
                match verify(&schedule.clone().with_queue(0)) {
                    Ok(()) => rendezvous += 1,
                    Err(violation) => assert_eq!(rule(&violation), "Deadlock", "{name} {p} {m}"),
                }
                // With room for everything nothing is faster than as stated, times being equal.
                let (stated, roomy) = (uniform(&schedule, [1; 3]), uniform(&schedule.with_queue(1000), [1; 3]));
                assert_eq!(stated.makespan, roomy.makespan, "{name} {p} {m}");
            }
        }
    }
    assert!(rendezvous > 100, "{rendezvous}");
}

#[test]
fn shapes_that_a_generator_cannot_take_are_typed_errors() {
    let mut text = String::new();
    for (name, p, m, v) in [
        ("gpipe", 0, 1, None),
        ("gpipe", 2, 0, None),
        ("gpipe", 2, 2, Some(2)),
        ("1f1b", 2, 2, Some(0)),
        ("interleaved", 4, 6, None),
        ("chimera", 3, 4, None),
        ("chimera", 4, 3, None),
        ("chimera", 4, 6, None),
        ("zb-h1", 4, usize::MAX, None),
        ("v-half", 4, 8, Some(3)),
    ] {
        let error = by_name(name).unwrap().generate(Shape { stages: p, microbatches: m, chunks: v }).unwrap_err();
        assert!(matches!(error, Error::InvalidSetting { .. }));
        let _ = writeln!(text, "{name} {p} {m} {v:?}: {error}");
    }
    assert!(matches!(by_name("2f2b").err(), Some(Error::UnknownSchedule { .. })));
    insta::assert_snapshot!("refused_shapes", text);
}

// ---- The verifier, on schedules written by hand ----

/// `f0.1` forward of microbatch 0, chunk 1; `b`, `i`, `w` backward, input and weight gradient; `>a0.1@2` and `<a0.1@2` an
/// activation sent to and received from device 2, `>g`, `<g` a gradient; `u1` the update of chunk 1.
fn action(word: &str) -> Action {
    let (kind, rest) = word.split_at(if word.starts_with(['<', '>']) { 2 } else { 1 });
    let (name, peer) = rest.split_once('@').unwrap_or((rest, "0"));
    let (m, c) = name.split_once('.').unwrap_or(("0", name));
    let (m, c, peer) = (Microbatch(m.parse().unwrap()), Chunk(c.parse().unwrap()), Device(peer.parse().unwrap()));
    match kind {
        "f" => Action::Forward(m, c),
        "b" => Action::Backward(m, c),
        "i" => Action::InputGradient(m, c),
        "w" => Action::WeightGradient(m, c),
        ">a" => Action::SendActivation(m, c, peer),
        ">g" => Action::SendGradient(m, c, peer),
        "<a" => Action::ReceiveActivation(m, c, peer),
        "<g" => Action::ReceiveGradient(m, c, peer),
        "u" => Action::Update(c),
        _ => panic!("{word}"),
    }
}

/// Routes, the route of each microbatch, and each device's list.
type ByHand = (&'static [&'static [u32]], &'static [u32], &'static [&'static str]);

/// 1F1B on two devices.
const TWO: ByHand = (
    &[&[0, 1]],
    &[0, 0],
    &[
        "f0.0 >a0.0@1 f1.0 >a1.0@1 <g0.1@1 b0.0 <g1.1@1 b1.0 u0",
        "<a0.0@0 f0.1 b0.1 >g0.1@0 <a1.0@0 f1.1 b1.1 >g1.1@0 u1",
    ],
);
/// The same with backwards in two parts.
const SPLIT: ByHand = (
    &[&[0, 1]],
    &[0, 0],
    &[
        "f0.0 >a0.0@1 f1.0 >a1.0@1 <g0.1@1 i0.0 w0.0 <g1.1@1 i1.0 w1.0 u0",
        "<a0.0@0 f0.1 i0.1 >g0.1@0 <a1.0@0 f1.1 i1.1 >g1.1@0 w0.1 w1.1 u1",
    ],
);
/// Four chunks in a V on two devices.
const VEE: ByHand = (
    &[&[0, 1, 1, 0]],
    &[0],
    &[
        "f0.0 >a0.0@1 <a0.2@1 f0.3 b0.3 >g0.3@1 <g0.1@1 b0.0 u0 u3",
        "<a0.0@0 f0.1 f0.2 >a0.2@0 <g0.3@0 b0.2 b0.1 >g0.1@0 u1 u2",
    ],
);
/// Two routes in opposite directions.
const BOTH: ByHand = (
    &[&[0, 1], &[1, 0]],
    &[0, 1],
    &[
        "f0.0 >a0.0@1 <a1.0@1 f1.1 b1.1 >g1.1@1 <g0.1@1 b0.0 u0 u1",
        "f1.0 >a1.0@0 <a0.0@0 f0.1 b0.1 >g0.1@0 <g1.1@0 b1.0 u0 u1",
    ],
);
/// Three devices in a row.
const THREE: ByHand = (
    &[&[0, 1, 2]],
    &[0],
    &["f0.0 >a0.0@1 <g0.1@1 b0.0 u0", "<a0.0@0 f0.1 >a0.1@2 <g0.2@2 b0.1 >g0.1@0 u1", "<a0.1@1 f0.2 b0.2 >g0.2@1 u2"],
);

/// Replace words in a device's list, once each.
type Edit = (usize, &'static str, &'static str);

fn by_hand((routes, route_of, lines): ByHand, queue: u32, edits: &[Edit]) -> Schedule {
    let mut lines: Vec<String> = lines.iter().map(|line| format!(" {line} ")).collect();
    for (device, from, to) in edits {
        let (from, to) = (format!(" {from} "), format!(" {to} "));
        assert_eq!(lines[*device].matches(&from).count(), 1, "{from}");
        lines[*device] = lines[*device].replace(&from, &to);
    }
    let routes = routes.iter().map(|route| route.iter().map(|&d| Device(d)).collect()).collect();
    let devices = lines.iter().map(|line| line.split_whitespace().map(action).collect()).collect();
    Schedule::new("by hand", queue, routes, route_of.to_vec(), devices).unwrap()
}

/// The variant's name.
fn rule(violation: &Violation) -> String {
    let text = format!("{:?}", violation.rule);
    text.split([' ', '{', '(']).next().unwrap().to_owned()
}

/// What is wrong, the schedule, its edits, and the rule it breaks at which action of which device.
type Bad = (&'static str, ByHand, &'static [Edit], &'static str, usize, usize);

const BAD: &[Bad] = &[
    ("a forward on the wrong device", TWO, &[(0, "f1.0", "f1.1")], "NotHere", 0, 2),
    ("a backward on the wrong device", TWO, &[(1, "b0.1", "b0.0")], "NotHere", 1, 2),
    ("a chunk on the other route's device", BOTH, &[(0, "f0.0", "f1.0")], "NotHere", 0, 0),
    ("a weight gradient on the wrong device", SPLIT, &[(0, "w0.0", "w0.1")], "NotHere", 0, 6),
    ("a forward twice", TWO, &[(0, "f1.0", "f0.0")], "Twice", 0, 2),
    ("a backward twice", TWO, &[(0, "b1.0", "b0.0")], "Twice", 0, 7),
    ("an input gradient twice", SPLIT, &[(0, "w0.0", "i0.0")], "Twice", 0, 6),
    ("a weight gradient twice", SPLIT, &[(1, "w1.1", "w0.1")], "Twice", 1, 9),
    ("a message sent twice", TWO, &[(0, ">a1.0@1", ">a0.0@1")], "Twice", 0, 3),
    ("a message received twice", TWO, &[(1, "<a1.0@0", "<a0.0@0")], "Twice", 1, 4),
    ("an update twice", TWO, &[(1, "u1", "u1 u1")], "Twice", 1, 9),
    ("fused, and a weight gradient", TWO, &[(0, "b0.0", "b0.0 w0.0")], "FusedAndSplit", 0, 6),
    ("an input gradient, and fused", SPLIT, &[(1, "w0.1", "b0.1")], "FusedAndSplit", 1, 8),
    ("fused, and an input gradient", TWO, &[(1, "b1.1", "b1.1 i1.1")], "FusedAndSplit", 1, 7),
    ("a forward before its input comes", TWO, &[(1, "<a0.0@0 f0.1", "f0.1 <a0.0@0")], "InputMissing", 1, 0),
    ("a forward whose input never comes", TWO, &[(1, "<a1.0@0", "")], "InputMissing", 1, 4),
    ("a forward before that of the chunk before", VEE, &[(1, "f0.1 f0.2", "f0.2 f0.1")], "InputMissing", 1, 1),
    ("a backward before its forward", TWO, &[(1, "f0.1 b0.1", "b0.1 f0.1")], "ForwardMissing", 1, 1),
    ("a backward of another microbatch", TWO, &[(1, "b0.1", "b1.1")], "ForwardMissing", 1, 2),
    ("a backward before its gradient comes", TWO, &[(0, "<g0.1@1 b0.0", "b0.0 <g0.1@1")], "GradientMissing", 0, 4),
    ("a backward with another's gradient", TWO, &[(0, "b0.0", "b1.0")], "GradientMissing", 0, 5),
    ("backwards on a device in forward order", VEE, &[(1, "b0.2 b0.1", "b0.1 b0.2")], "GradientMissing", 1, 5),
    ("an input gradient without its gradient", SPLIT, &[(0, "<g1.1@1", "")], "GradientMissing", 0, 7),
    ("a weight gradient first", SPLIT, &[(0, "i0.0 w0.0", "w0.0 i0.0")], "InputGradientMissing", 0, 5),
    ("another microbatch's weight gradient", SPLIT, &[(0, "w0.0", "w1.0")], "InputGradientMissing", 0, 6),
    ("an activation sent before it is made", TWO, &[(0, "f0.0 >a0.0@1", ">a0.0@1 f0.0")], "NotMade", 0, 0),
    ("a gradient sent before it is made", SPLIT, &[(1, "i0.1 >g0.1@0", ">g0.1@0 i0.1")], "NotMade", 1, 2),
    ("what came is sent on", THREE, &[(1, ">a0.1@2", ">a0.0@2")], "NotMade", 1, 2),
    ("the last activation is sent", TWO, &[(1, "f0.1", "f0.1 >a0.1@0")], "NotNeeded", 1, 2),
    ("the first gradient is sent", TWO, &[(0, "b0.0", "b0.0 >g0.0@1")], "NotNeeded", 0, 6),
    ("a message to oneself", VEE, &[(1, "f0.1", "f0.1 >a0.1@1")], "NotNeeded", 1, 2),
    ("a message that belongs to others", THREE, &[(2, "f0.2", "<a0.0@0 f0.2")], "NotNeeded", 2, 1),
    ("an activation to the wrong device", THREE, &[(1, ">a0.1@2", ">a0.1@0")], "WrongDestination", 1, 2),
    ("a gradient to the wrong device", THREE, &[(1, ">g0.1@0", ">g0.1@2")], "WrongDestination", 1, 5),
    ("an activation from the wrong device", THREE, &[(2, "<a0.1@1", "<a0.1@0")], "WrongSource", 2, 0),
    ("a gradient from the wrong device", THREE, &[(1, "<g0.2@2", "<g0.2@0")], "WrongSource", 1, 3),
    ("an update before the last backward", TWO, &[(0, "b1.0 u0", "u0 b1.0")], "UpdateBeforeLastUse", 0, 7),
    ("an update before the last weight gradient", SPLIT, &[(1, "w1.1 u1", "u1 w1.1")], "UpdateBeforeLastUse", 1, 9),
    ("an update between two microbatches", TWO, &[(1, ">g0.1@0", ">g0.1@0 u1")], "UpdateBeforeLastUse", 1, 4),
    ("an update at the start", BOTH, &[(0, "f0.0", "u1 f0.0")], "UpdateBeforeLastUse", 0, 0),
    ("an update of a chunk elsewhere", TWO, &[(0, "u0", "u0 u1")], "NoReplica", 0, 9),
    ("a forward is missing", VEE, &[(1, "f0.2", "")], "NotMade", 1, 2),
    ("forward and backward are missing", TWO, &[(0, "f1.0 >a1.0@1", ""), (0, "<g1.1@1 b1.0", "")], "Missing", 0, 5),
    ("a backward is missing", TWO, &[(0, "b1.0", "")], "Missing", 0, 8),
    ("a weight gradient is missing", SPLIT, &[(0, "w1.0", "")], "Missing", 0, 10),
    ("an update is missing", TWO, &[(0, "u0", "")], "Missing", 0, 8),
    ("a replica's update is missing", BOTH, &[(1, "u0", "")], "Missing", 1, 9),
    ("a message is not sent", TWO, &[(0, ">a1.0@1", "")], "NeverSent", 1, 4),
    ("a gradient is not sent", THREE, &[(2, ">g0.2@1", "")], "NeverSent", 1, 3),
    (
        "microbatches are received in another order",
        TWO,
        &[(0, "f0.0 >a0.0@1 f1.0 >a1.0@1", "f1.0 >a1.0@1 f0.0 >a0.0@1")],
        "OutOfOrder",
        1,
        0,
    ),
    (
        "gradients are received in another order",
        SPLIT,
        &[(0, "<g0.1@1 i0.0 w0.0 <g1.1@1 i1.0 w1.0", "<g1.1@1 i1.0 w1.0 <g0.1@1 i0.0 w0.0")],
        "OutOfOrder",
        0,
        4,
    ),
    (
        "both wait for the other's message",
        TWO,
        &[
            (0, "f1.0 >a1.0@1 <g0.1@1 b0.0", "<g0.1@1 b0.0 f1.0 >a1.0@1"),
            (1, "b0.1 >g0.1@0 <a1.0@0", "<a1.0@0 b0.1 >g0.1@0"),
        ],
        "Deadlock",
        0,
        2,
    ),
    ("replicas meet in another order", BOTH, &[(1, "u0 u1", "u1 u0")], "Deadlock", 0, 8),
    ("three wait in a circle", THREE, &[(1, ">a0.1@2 <g0.2@2", "<g0.2@2 >a0.1@2")], "Deadlock", 1, 2),
];

#[test]
fn schedules_broken_by_hand_are_rejected_by_the_rule_they_break() {
    assert!(BAD.len() >= 30);
    for good in [TWO, SPLIT, VEE, BOTH, THREE] {
        assert_eq!(verify(&by_hand(good, 1, &[])), Ok(()));
    }
    let mut messages = String::new();
    for &(name, base, edits, want, device, index) in BAD {
        let violation = verify(&by_hand(base, 1, edits)).expect_err(name);
        let found = (rule(&violation), violation.device.index(), violation.index);
        assert_eq!(found, (want.to_owned(), device, index), "{name}: {violation}");
        let _ = writeln!(messages, "{name}\n    {violation}");
    }
    insta::assert_snapshot!("violations", messages);
}

#[test]
fn queues_without_places_deadlock_where_both_send_first() {
    // Both devices send before they receive: fine with a place in the queue, a deadlock without.
    assert_eq!(verify(&by_hand(BOTH, 1, &[])), Ok(()));
    let violation = verify(&by_hand(BOTH, 0, &[])).unwrap_err();
    let at = (rule(&violation), violation.device, violation.index);
    assert_eq!(at, ("Deadlock".to_owned(), Device(0), 1));
    assert!(violation.to_string().ends_with("d0 waits for d1 waits for d0"), "{violation}");
    assert_eq!(verify(&by_hand(THREE, 0, &[])), Ok(()));
}

#[test]
fn every_rule_has_a_schedule_that_breaks_it() {
    let broken: BTreeSet<&str> = BAD.iter().map(|bad| bad.3).collect();
    // Read from the source, so that a new rule without a case fails here.
    let source = std::fs::read_to_string("src/pipeline/verify.rs").unwrap();
    let rules = source.split("pub enum Rule {").nth(1).unwrap().split("\n}").next().unwrap();
    let declared: BTreeSet<&str> = rules
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with(char::is_uppercase))
        .map(|line| line.split([' ', ',']).next().unwrap())
        .collect();
    assert!(declared.len() >= 16, "{declared:?}");
    assert_eq!(broken, declared);
}

// ---- The simulator, against sums done by hand ----

/// Start and end of every action of a device.
fn times(run: &Run, device: usize) -> Vec<(u64, u64)> {
    run.events[device].iter().map(|event| (event.start.get(), event.end.get())).collect()
}

#[test]
fn messages_take_their_link_and_travel() {
    // Per chunk F 10, B 20, W 5; 100 bytes at 1 byte per ns, 7 ns on the way; the second device is twice as fast.
    let schedule = by_hand(TWO, 1, &[]);
    let mut work = Workload::uniform(&schedule, 10, 20, 5);
    work.link = Link { latency: Nanos(7), bytes_per_s: 1_000_000_000 };
    work.devices[1].speed = 200;
    for chunk in &mut work.chunks {
        (chunk.output, chunk.gradient, chunk.update) = (Bytes(100), Bytes(50), Nanos(4));
    }
    let run = simulate(&schedule, &work).unwrap();
    // Sends: at 10 and, as the queue holds one, not before the first is taken at 117; the link is free from 110.
    let first = [(0, 10), (10, 10), (10, 20), (117, 117), (192, 192), (192, 217), (299, 299), (299, 324), (324, 328)];
    assert_eq!(times(&run, 0), first);
    let second =
        [(117, 117), (117, 122), (122, 135), (135, 135), (224, 224), (224, 229), (229, 242), (242, 242), (242, 244)];
    assert_eq!(times(&run, 1), second);
    assert_eq!(run.makespan, Nanos(328));
    assert_eq!((run.devices[0].busy, run.devices[0].idle), (Nanos(74), Nanos(254)));
    // With more room the second message leaves when the link is free.
    let roomy = simulate(&schedule.clone().with_queue(2), &work).unwrap();
    assert_eq!(times(&roomy, 0)[3], (20, 20));
    assert_eq!(times(&roomy, 1)[4], (217, 217));
    // Without places a sender waits for the whole transfer; the receiver was there from the start.
    let line = by_hand(THREE, 0, &[]);
    let mut work = Workload::uniform(&line, 10, 20, 5);
    work.link = Link { latency: Nanos(7), bytes_per_s: 0 };
    let run = simulate(&line, &work).unwrap();
    assert_eq!(times(&run, 0)[..3], [(0, 10), (10, 17), (86, 86)]);
    assert_eq!(times(&run, 1)[..3], [(17, 17), (17, 27), (27, 34)]);
}

#[test]
fn memory_is_freed_by_the_part_of_the_backward_that_frees_it() {
    let schedule = by_hand(SPLIT, 1, &[]);
    let mut work = Workload::uniform(&schedule, 10, 10, 10);
    for (chunk, constant) in work.chunks.iter_mut().zip([1000, 2000]) {
        (chunk.activation, chunk.kept) = (Bytes(100), Bytes(30 + constant / 1000));
    }
    work.devices[0].constant = Bytes(1000);
    work.devices[1].constant = Bytes(2000);
    let run = simulate(&schedule, &work).unwrap();
    let levels =
        |d: usize| run.devices[d].memory.iter().map(|level| (level.0.get(), level.1.get())).collect::<Vec<_>>();
    // F 0-10, F 10-20, B 30-40, W 40-50, B 50-60, W 60-70.
    assert_eq!(levels(0), [(0, 1100), (10, 1200), (40, 1131), (50, 1100), (60, 1031), (70, 1000)]);
    // F 10-20, B 20-30, F 30-40, B 40-50, W 50-60, W 60-70.
    assert_eq!(levels(1), [(0, 2000), (10, 2100), (30, 2132), (50, 2064), (60, 2032), (70, 2000)]);
    assert_eq!(run.devices.iter().map(|d| d.peak.get()).collect::<Vec<_>>(), [1200, 2132]);
    assert_eq!(in_flight(&run), [2, 2]);
    // Fused, it is freed at the end of the whole.
    let schedule = by_hand(TWO, 1, &[]);
    let run = simulate(&schedule, &work).unwrap();
    let levels: Vec<u64> = run.devices[1].memory.iter().map(|level| level.1.get()).collect();
    assert_eq!(levels, [2000, 2100, 2100, 2000][..3].iter().copied().chain([2000]).collect::<Vec<_>>());
}

#[test]
fn replicas_update_together() {
    let schedule = by_hand(BOTH, 1, &[]);
    let mut work = Workload::uniform(&schedule, 10, 10, 10);
    work.chunks[0].update = Nanos(5);
    work.devices[0].speed = 50;
    let run = simulate(&schedule, &work).unwrap();
    let update = |d: usize| run.events[d].iter().find(|e| e.action == Action::Update(Chunk(0))).unwrap();
    assert_eq!(update(0).start, update(1).start);
    assert_eq!((update(0).end - update(0).start, update(1).end - update(1).start), (Nanos(10), Nanos(5)));
}

#[test]
fn peak_bytes_follow_what_is_in_flight() {
    for name in ["gpipe", "1f1b", "zb-h1", "zb-h2", "v-min"] {
        let schedule = generate(name, 5, 12, None);
        let mut work = Workload::uniform(&schedule, 1, 1, 1);
        for chunk in &mut work.chunks {
            (chunk.activation, chunk.kept) = (Bytes(64), Bytes(64));
        }
        work.devices[3].constant = Bytes(7);
        for (d, device) in simulate(&schedule, &work).unwrap().devices.iter().enumerate() {
            let constant = if d == 3 { 7 } else { 0 };
            assert_eq!(device.peak.get(), 64 * device.peak_in_flight as u64 + constant, "{name}");
            assert_eq!(device.memory.last().unwrap().1.get(), constant);
        }
    }
}

#[test]
fn recomputation_fills_bubbles() {
    // d0  F R . . . B -      the first device recomputes while it waits, the second has no bubble to fill
    // d1  . F R B -
    let schedule = generate("1f1b", 2, 1, None);
    let mut work = Workload::uniform(&schedule, 1, 1, 1);
    for chunk in &mut work.chunks {
        (chunk.recompute, chunk.checkpoint, chunk.activation) = (Nanos(1), Bytes(2), Bytes(10));
    }
    let run = simulate(&schedule, &work).unwrap();
    assert_eq!(run.makespan, Nanos(7));
    let again: Vec<_> = run.events[0].iter().filter(|e| e.recompute).map(|e| (e.start.get(), e.end.get())).collect();
    assert_eq!(again, [(1, 2)]);
    let levels: Vec<_> = run.devices[0].memory.iter().map(|level| (level.0.get(), level.1.get())).collect();
    assert_eq!(levels, [(0, 10), (7, 0)]);
    let levels: Vec<_> = run.devices[1].memory.iter().map(|level| (level.0.get(), level.1.get())).collect();
    assert_eq!(levels, [(0, 0), (1, 10), (5, 0)]);
    // Between forward and recompute only the checkpoint is there.
    let schedule = generate("gpipe", 1, 3, None);
    let mut work = Workload::uniform(&schedule, 1, 1, 1);
    (work.chunks[0].recompute, work.chunks[0].checkpoint, work.chunks[0].activation) = (Nanos(1), Bytes(2), Bytes(10));
    let run = simulate(&schedule, &work).unwrap();
    assert_eq!((run.devices[0].peak, run.makespan), (Bytes(14), Nanos(12)));
}

#[test]
fn filled_bubbles_are_never_slower_than_recomputing_within_the_backward() {
    let mut numbers = Numbers(23);
    let (mut faster, mut cases) = (0, 0);
    for _ in 0..500 {
        let schedule = any_schedule(&mut numbers);
        let mut filled = heterogeneous(&schedule, &mut numbers, true);
        filled.devices.iter_mut().for_each(|device| device.speed = 100);
        let (without, mut folded) = (filled.clone(), filled.clone());
        for (chunk, folded) in filled.chunks.iter_mut().zip(&mut folded.chunks) {
            chunk.recompute = Nanos(1 + numbers.below(100));
            folded.input_gradient += chunk.recompute;
        }
        let [without, filled, folded] = [without, filled, folded].map(|work| simulate(&schedule, &work).unwrap());
        assert!(without.makespan <= filled.makespan && filled.makespan <= folded.makespan, "{}", schedule.name());
        for (a, b) in filled.devices.iter().zip(&folded.devices) {
            assert_eq!(a.busy, b.busy, "each backward has one recompute, no more");
        }
        for events in &filled.events {
            assert!(events.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
        cases += 1;
        faster += usize::from(filled.makespan < folded.makespan);
    }
    assert!(faster > cases / 2, "{faster} of {cases}");
}

#[test]
fn workloads_that_do_not_fit_are_typed_errors() {
    let schedule = by_hand(TWO, 1, &[]);
    type Fault = fn(&mut Workload);
    let faults: [Fault; 6] = [
        |work| work.chunks.truncate(1),
        |work| work.devices.truncate(1),
        |work| work.devices[1].speed = 0,
        |work| work.chunks[0].forward = Nanos(u64::MAX),
        |work| work.chunks[1].activation = Bytes(u64::MAX),
        |work| work.devices[0].constant = Bytes(u64::MAX),
    ];
    let mut text = String::new();
    for fault in faults {
        let mut work = Workload::uniform(&schedule, 1, 1, 1);
        fault(&mut work);
        let error = simulate(&schedule, &work).unwrap_err();
        assert!(matches!(error, Error::InvalidSetting { .. }), "{error}");
        let _ = writeln!(text, "{error}");
    }
    insta::assert_snapshot!("unfit_workloads", text);
    let illegal = simulate(&by_hand(BOTH, 0, &[]), &Workload::uniform(&schedule, 1, 1, 1)).unwrap_err();
    assert!(matches!(illegal, Error::IllegalSchedule(_)), "{illegal}");
}

// ---- The file ----

#[test]
fn files_that_are_no_schedule_say_what_is_wrong_and_where() {
    let good: Value = serde_json::from_str(&by_hand(TWO, 1, &[]).to_json()).unwrap();
    assert_eq!(Schedule::from_json(&good.to_string(), "s.json").unwrap(), by_hand(TWO, 1, &[]));
    type Fault = (&'static str, fn(&mut Value));
    let faults: [Fault; 18] = [
        ("another format", |s| s["format"] = json!("plimsoll.plan")),
        ("a newer version", |s| s["version"] = json!(2)),
        ("no name", |s| drop(s.as_object_mut().unwrap().remove("name"))),
        ("an unknown field", |s| s["speed"] = json!(2)),
        ("a negative queue", |s| s["queue"] = json!(-1)),
        ("no devices", |s| s["devices"] = json!([])),
        ("no routes", |s| s["routes"] = json!([])),
        ("no chunks", |s| s["routes"] = json!([[]])),
        ("routes of different lengths", |s| s["routes"] = json!([[0, 1], [0]])),
        ("a chunk on no device", |s| s["routes"] = json!([[0, 2]])),
        ("no microbatches", |s| s["route_of"] = json!([])),
        ("no such route", |s| s["route_of"] = json!([0, 1])),
        ("no such microbatch", |s| s["devices"][0][2] = json!({"forward": [2, 0]})),
        ("no such chunk", |s| s["devices"][1][8] = json!({"update": 2})),
        ("no such device", |s| s["devices"][0][1] = json!({"send_activation": [0, 0, 2]})),
        ("no such action", |s| s["devices"][0][1] = json!({"wait": [0, 0]})),
        ("a number too few", |s| s["devices"][1][1] = json!({"forward": [0]})),
        ("a list that is none", |s| s["devices"][1] = json!(3)),
    ];
    let mut text = String::new();
    for (name, fault) in faults {
        let mut raw = good.clone();
        fault(&mut raw);
        let error = Schedule::from_json(&raw.to_string(), "s.json").expect_err(name);
        let _ = writeln!(text, "{name}\n    {error}");
    }
    insta::assert_snapshot!("faulty_files", text);
}

#[test]
fn files_cut_short_or_changed_anywhere_are_never_a_panic() {
    let text = generate("chimera", 2, 2, None).to_json();
    for end in 0..text.len() {
        assert!(Schedule::from_json(&text[..end], "s").is_err());
    }
    let mut numbers = Numbers(3);
    for _ in 0..2000 {
        let mut bytes = text.clone().into_bytes();
        let at = numbers.below(bytes.len() as u64) as usize;
        bytes[at] = b"0123456789,[]{}\"a"[numbers.below(17) as usize];
        // What is read after all is judged by the verifier, and run if it is legal.
        if let Ok(schedule) = Schedule::from_json(&String::from_utf8(bytes).unwrap(), "s") {
            let _ = simulate(&schedule, &Workload::uniform(&schedule, 1, 1, 1));
        }
    }
}

// ---- The command ----

fn run(args: &[&str]) -> Output {
    let mut command = Command::cargo_bin("plimsoll").unwrap();
    command.arg("simulate").args(args).output().unwrap()
}

/// Standard output of a run that must succeed and say nothing on standard error.
fn succeed(args: &[&str]) -> String {
    let output = run(args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), error.as_str()), (Some(0), ""), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Standard error of a run that must fail with exit code 1 and print nothing on standard output.
fn fail(args: &[&str]) -> String {
    let output = run(args);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), printed.as_str()), (Some(1), ""), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_command_prints_a_table_and_a_picture() {
    let mut text = String::new();
    for args in [
        &["1f1b", "-p", "4", "-m", "4", "--weight", "0"][..],
        &[
            "zb-h1",
            "--stages",
            "3",
            "--microbatches",
            "5",
            "--message",
            "8MiB",
            "--bandwidth",
            "1GB",
            "--constant",
            "1GiB",
        ],
        &["v-half", "-p", "2", "-m", "2", "--forward", "1,2,1,2", "--kept", "512KiB"],
        &["chimera", "-p", "2", "-m", "2", "--update", "500us", "--speed", "100,50"],
        &["gpipe", "-p", "2", "-m", "2", "--recompute", "1ms", "--checkpoint", "64KiB"],
        &["interleaved", "-p", "2", "-m", "64", "-v", "3"],
    ] {
        let _ = writeln!(text, "> {}\n{}", args.join(" "), succeed(args));
    }
    insta::assert_snapshot!("command", text);
    let listed = succeed(&["--list"]);
    assert!(names().iter().all(|name| listed.contains(name)), "{listed}");
}

#[test]
fn the_command_prints_one_object() {
    let printed =
        succeed(&["1f1b", "-p", "2", "-m", "3", "--forward", "10", "--backward", "20", "--weight", "0", "--json"]);
    assert_eq!(printed.lines().count(), 1);
    let row = |in_flight: u64| {
        json!({"busy": 90, "idle": 30, "idle_within": [0, 30][(in_flight == 2) as usize], "bubble": 0.25,
            "peak_in_flight": in_flight, "peak": in_flight << 20})
    };
    let want = json!({"schedule": "1f1b", "chunks": 2, "microbatches": 3, "queue": 1, "makespan": 120, "bubble": 0.25,
        "devices": [row(2), row(1)]});
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), want);
}

#[test]
fn the_command_saves_a_schedule_that_runs_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("h2.schedule.json");
    let file = file.to_str().unwrap();
    let made = succeed(&["zb-h2", "-p", "4", "-m", "7", "-o", file, "--json"]);
    assert_eq!(succeed(&[file, "--json"]), made);
    assert_eq!(Schedule::load(file).unwrap(), generate("zb-h2", 4, 7, None));
    // A file is what it says, not what it is called; and has its own size.
    assert!(fail(&[file, "-m", "7"]).contains("--microbatches"));
    let text = std::fs::read_to_string(file).unwrap().replacen(r#"{"input_gradient":[0,3]}"#, r#"{"update":3}"#, 1);
    std::fs::write(file, text).unwrap();
    assert_eq!(
        fail(&[file]),
        "error: illegal schedule: d3 action 2 (update c3): weight gradient m6 c3 still uses the weights\n"
    );
}

#[test]
fn the_command_says_what_is_wrong() {
    let mut text = String::new();
    for args in [
        &["2f2b"][..],
        &["1f1b", "-m", "4"],
        &["1f1b", "-p", "4"],
        &["chimera", "-p", "3", "-m", "4"],
        &["chimera", "-p", "2", "-m", "2", "--queue", "0"],
        &["1f1b", "-p", "2", "-m", "4", "--forward", "1ms,2ms,3ms"],
        &["1f1b", "-p", "2", "-m", "4", "--forward", "soon"],
        &["1f1b", "-p", "2", "-m", "4", "--backward", "-1"],
        &["1f1b", "-p", "2", "-m", "4", "--activation", "40%"],
        &["1f1b", "-p", "2", "-m", "4", "--speed", "0"],
        &["1f1b", "-p", "2", "-m", "4", "--forward", "10000000000s"],
        &["Cargo.toml"],
        &["tests/data/tiny.problem.json"],
    ] {
        let _ = writeln!(text, "> {}\n{}", args.join(" "), fail(args).lines().next().unwrap());
    }
    insta::assert_snapshot!("command_errors", text);
    assert!(succeed(&["--help"]).contains("Example: plimsoll simulate"));
}
