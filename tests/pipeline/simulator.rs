//! The simulator, against sums done by hand.

use std::fmt::Write as _;

use plimsoll::pipeline::{Action, Chunk, Link, Run, Workload, simulate};
use plimsoll::{Bytes, Error, Nanos};

use super::hand::{BOTH, SPLIT, THREE, TWO, by_hand};
use super::{generate, in_flight};

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
    // Without places a sender waits for the whole transfer; the receiver was there from the start. The last message comes
    // after three forwards, two backwards of 25 and four transfers.
    let line = by_hand(THREE, 0, &[]);
    let mut work = Workload::uniform(&line, 10, 20, 5);
    work.link = Link { latency: Nanos(7), bytes_per_s: 0 };
    let run = simulate(&line, &work).unwrap();
    assert_eq!(times(&run, 0)[..3], [(0, 10), (10, 17), (108, 108)]);
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
    assert_eq!(levels, [2000, 2100, 2000]);
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
