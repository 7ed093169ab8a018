//! Pipelines of unequal chunks, devices and links, within bounds that hold for all.

use std::collections::BTreeSet;

use plimsoll::Nanos;
use plimsoll::pipeline::{Action, Device, Schedule, Workload, generators, simulate};

use super::{Numbers, any_schedule, generate, heterogeneous};

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

/// Work of the stages: forwards, whole backwards, both.
struct Stages {
    f: Vec<u64>,
    b: Vec<u64>,
    both: Vec<u64>,
}

fn sum(times: &[u64]) -> u64 {
    times.iter().sum()
}

fn most(times: &[u64]) -> u64 {
    times.iter().copied().max().unwrap_or(0)
}

impl Stages {
    fn of(work: &Workload) -> Self {
        let f: Vec<u64> = work.chunks.iter().map(|chunk| chunk.forward.get()).collect();
        let b: Vec<u64> = work.chunks.iter().map(|c| (c.input_gradient + c.weight_gradient).get()).collect();
        let both = f.iter().zip(&b).map(|(f, b)| f + b).collect();
        Self { f, b, both }
    }

    /// What 1F1B may take with `m` microbatches beyond `sum(F+B) + (m-1) max(F+B)`; see the generator.
    fn ramp(&self, m: usize) -> u64 {
        let p = self.f.len();
        let of = |s: usize| {
            let ahead = (m - 1).min(p - s - 1) as u64;
            (ahead * most(&self.f[..=s])).saturating_sub(sum(&self.both[s + 1..]))
        };
        (0..p).map(of).max().unwrap()
    }
}

#[test]
fn unequal_stages_gpipe_exactly_and_1f1b_between_its_bounds() {
    let mut numbers = Numbers(11);
    let mut ramps = 0;
    for case in 0..1000 {
        let (p, m) = (1 + numbers.below(16) as usize, 1 + numbers.below(64) as usize);
        let (gpipe, one) = (generate("gpipe", p, m, None), generate("1f1b", p, m, None));
        let mut work = heterogeneous(&gpipe, &mut numbers, false);
        // Now and then with much of the work in few places.
        for chunk in work.chunks.iter_mut().filter(|_| case % 4 == 0) {
            let [f, b] = [0, 1].map(|_| if numbers.below(3) == 0 { 1 } else { 50 });
            (chunk.forward, chunk.input_gradient) =
                (Nanos(chunk.forward.get() / f), Nanos(chunk.input_gradient.get() / b));
        }
        let Stages { f, b, both } = &Stages::of(&work);
        let again = m as u64 - 1;
        let makespan = simulate(&gpipe, &work).unwrap().makespan.get();
        assert_eq!(makespan, sum(f) + sum(b) + again * (most(f) + most(b)), "case {case}: {p} {m}");
        let makespan = simulate(&one, &work).unwrap().makespan.get();
        // A stage starts when a microbatch has come down to it, has all its work to do, and the last gradient has to go
        // up again.
        let low = (0..p).map(|s| sum(&both[..s]) + m as u64 * both[s]).max().unwrap();
        let (high, ramp) = (sum(both) + again * most(both), Stages::of(&work).ramp(m));
        assert!((low..=high + ramp).contains(&makespan), "case {case}: {p} {m}");
        ramps += usize::from(ramp > 0);
        // A place in each queue is all that 1F1B needs.
        assert_eq!(simulate(&one.with_queue(1000), &work).unwrap().makespan.get(), makespan, "case {case}");
    }
    assert!((100..900).contains(&ramps), "{ramps}");
}

#[test]
fn stages_that_forwards_reach_late_make_1f1b_slower_than_its_slowest_stage() {
    // F 1 0 0, B 0 1 0: no stage has more than 1 to do per microbatch, so `sum(F+B) + (m-1) max(F+B)` is m + 1. But the
    // second stage does its second forward before its first backward, and that forward comes at 2:
    // d0  F0 F1 F2 F3
    // d1  .  .  B0 B1 B2 B3
    for m in 2..=64 {
        let schedule = generate("1f1b", 3, m, None);
        let mut work = Workload::uniform(&schedule, 0, 0, 0);
        work.chunks[0].forward = Nanos(1);
        work.chunks[1].input_gradient = Nanos(1);
        assert_eq!(simulate(&schedule, &work).unwrap().makespan.get(), m as u64 + 2);
        assert_eq!(Stages::of(&work).ramp(m), 1, "so the bound with it is exact here");
    }
}
