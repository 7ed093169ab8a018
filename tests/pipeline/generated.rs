//! What generators promise beside formulas.

use std::fmt::Write as _;

use plimsoll::Error;
use plimsoll::pipeline::{Chunk, Device, Schedule, Shape, by_name, names, verify};

use super::hand::rule;
use super::uniform;

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
fn replicas_are_legal_and_take_as_long_as_one() {
    for name in names() {
        for (p, m) in [(1, 1), (2, 2), (2, 4), (4, 8)] {
            let Ok(one) = by_name(name).unwrap().generate(Shape { stages: p, microbatches: m, chunks: None }) else {
                continue;
            };
            for replicas in [1, 2, 3] {
                let all = one.replicated(replicas).unwrap();
                assert_eq!(verify(&all), Ok(()), "{name} {p} {m} {replicas}");
                assert_eq!((all.devices().len(), all.microbatches()), (p * replicas, m * replicas));
                assert_eq!(Schedule::from_json(&all.to_json(), "s").unwrap(), all);
                let (single, run) = (uniform(&one, [2, 3, 1]), uniform(&all, [2, 3, 1]));
                assert_eq!(run.makespan, single.makespan, "{name} {p} {m} {replicas}");
                for (d, device) in run.devices.iter().enumerate() {
                    assert_eq!(*device, single.devices[d % p], "{name} {p} {m} {replicas}: d{d}");
                }
                for c in (0..all.chunks()).map(|c| Chunk(c as u32)) {
                    let own = one.replicas(c);
                    let want = (0..replicas).flat_map(|r| own.iter().map(move |d| Device((r * p) as u32 + d.0)));
                    assert_eq!(all.replicas(c), want.collect::<Vec<_>>());
                }
            }
            assert_eq!(one.replicated(1).unwrap(), one);
        }
    }
    let one = by_name("1f1b").unwrap().generate(Shape { stages: 2, microbatches: 2, chunks: None }).unwrap();
    for count in [0, usize::MAX, 1 << 32] {
        assert!(matches!(one.replicated(count), Err(Error::InvalidSetting { .. })), "{count}");
    }
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
