//! Recomputation: in bubbles, within the memory of the devices, and where a schedule says.

use plimsoll::pipeline::{Action, Device, Schedule, Workload, simulate, verify};
use plimsoll::{Bytes, Nanos};

use super::hand::{SPLIT, by_hand};
use super::{Numbers, any_schedule, generate, heterogeneous};

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
    let again: Vec<_> = run.events[0]
        .iter()
        .filter(|e| matches!(e.action, Action::Recompute(..)))
        .map(|e| (e.start.get(), e.end.get()))
        .collect();
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

/// Times, sizes and recomputations of all kinds.
fn recomputing(numbers: &mut Numbers) -> (Schedule, Workload) {
    let schedule = any_schedule(numbers);
    let mut work = heterogeneous(&schedule, numbers, true);
    for chunk in &mut work.chunks {
        chunk.recompute = Nanos(numbers.below(3) / 2 * (1 + numbers.below(100)));
        chunk.checkpoint = Bytes(numbers.below(chunk.activation.get() + 1));
    }
    (schedule, work)
}

#[test]
fn a_schedule_can_say_where_to_recompute() {
    let schedule = by_hand(SPLIT, 1, &[(0, "<g0.1@1", "r1.0 <g0.1@1"), (1, "w0.1", "w0.1 r1.1")]);
    assert!(verify(&schedule).is_err(), "after the input gradient");
    let schedule = by_hand(SPLIT, 1, &[(0, "<g0.1@1", "r1.0 <g0.1@1"), (1, "i1.1", "r1.1 i1.1")]);
    let mut work = Workload::uniform(&schedule, 10, 10, 10);
    for chunk in &mut work.chunks {
        (chunk.activation, chunk.kept, chunk.recompute, chunk.checkpoint) = (Bytes(9), Bytes(3), Nanos(10), Bytes(2));
    }
    let run = simulate(&schedule, &work).unwrap();
    let again = |d: usize| {
        let again = run.events[d].iter().filter(|event| matches!(event.action, Action::Recompute(..)));
        again.map(|event| (event.action.to_string(), event.start.get())).collect::<Vec<_>>()
    };
    // Of microbatch 1 where the schedule says, of 0 where it fits: d0 waits from 30 to 40, d1 has to.
    assert_eq!(again(0), [("recompute m1 c0".to_owned(), 20), ("recompute m0 c0".to_owned(), 30)]);
    assert_eq!(again(1), [("recompute m0 c1".to_owned(), 20), ("recompute m1 c1".to_owned(), 50)]);
    let levels: Vec<_> = run.devices[0].memory.iter().map(|level| (level.0.get(), level.1.get())).collect();
    assert_eq!(levels, [(0, 9), (10, 11), (30, 18), (50, 12), (60, 9), (80, 3), (90, 0)]);
}

#[test]
fn a_run_written_down_runs_the_same() {
    let mut numbers = Numbers(29);
    let mut placed = 0;
    for case in 0..300 {
        let (schedule, work) = recomputing(&mut numbers);
        // With room in the queues: what is written before a receive holds it up, and so may hold up its sender.
        let schedule = schedule.with_queue(1000);
        let run = simulate(&schedule, &work).unwrap();
        let written = run.placed(&schedule);
        assert_eq!(verify(&written), Ok(()), "case {case}");
        placed += usize::from(written != schedule);
        let again = simulate(&written, &work).unwrap();
        assert_eq!((again.makespan, &again.devices), (run.makespan, &run.devices), "case {case} {}", schedule.name());
        assert_eq!(again.placed(&written), written, "case {case}: nothing is left to place");
    }
    assert!(placed > 200, "{placed}");
}

#[test]
fn bubbles_are_filled_within_the_memory_of_the_devices() {
    let mut numbers = Numbers(31);
    let (mut held_back, mut filled) = (0, 0);
    for case in 0..300 {
        let (schedule, mut work) = recomputing(&mut numbers);
        let free = simulate(&schedule, &work).unwrap();
        // With no memory at all nothing is done early.
        work.devices.iter_mut().for_each(|device| device.memory = Some(Bytes(0)));
        let none = simulate(&schedule, &work).unwrap();
        for events in &none.events {
            for pair in events.windows(2).filter(|pair| matches!(pair[0].action, Action::Recompute(..))) {
                assert_eq!(pair[0].index, pair[1].index, "case {case}");
            }
        }
        // With what that takes, no more is taken.
        for (device, run) in work.devices.iter_mut().zip(&none.devices) {
            device.memory = Some(run.peak);
        }
        let some = simulate(&schedule, &work).unwrap();
        for d in 0..some.devices.len() {
            assert_eq!(some.devices[d].peak, none.devices[d].peak, "case {case} {}", Device(d as u32));
            assert_eq!(some.devices[d].busy, free.devices[d].busy);
        }
        assert!(some.makespan <= none.makespan, "case {case}");
        held_back += usize::from(free != some);
        filled += usize::from(some.makespan < none.makespan);
    }
    assert!(held_back > 30 && filled > 30, "{held_back} {filled}");
}
