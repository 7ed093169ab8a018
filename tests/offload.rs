//! Offload: the simulator against a second one, and what plans with copies promise.
#![cfg(feature = "fuzzing")]

use std::collections::VecDeque;
use std::time::Duration;

use plimsoll::Bytes;
use plimsoll::check::{check, check_steps};
use plimsoll::cost::Problem;
use plimsoll::entity::{Entity, OpId, ValueId};
use plimsoll::fuzz::{Shape, problem, series_parallel};
use plimsoll::plan::{Lowering, Step, lower, simulate};
use plimsoll::solver::{self, Options};

/// A small generator of its own, so that this file leans on nothing it tests.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n.max(1)
    }
}

/// What a plan comes to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    end: u64,
    peak: u64,
    host_peak: u64,
}

/// Three machines side by side, moved from event to event: the list of steps with its compute unit,
/// and a queue of copies in each direction. Only for legal plans.
struct Machines<'a> {
    problem: &'a Problem,
    now: u64,
    busy_until: u64,
    /// The value, `None` once it was dropped on its way; when the copy is through, if it has begun;
    /// and how long it takes.
    out: VecDeque<(Option<ValueId>, Option<u64>, u64)>,
    back: VecDeque<(Option<ValueId>, Option<u64>, u64)>,
    /// Buffers: size and the values that live in them.
    buffers: Vec<(u64, Vec<ValueId>)>,
    on_host: Vec<ValueId>,
    seen: Outcome,
}

impl Machines<'_> {
    fn bytes(&self, v: ValueId) -> u64 {
        self.problem.graph.values()[v].bytes.get()
    }

    fn storage_bytes(&self, v: ValueId) -> u64 {
        let graph = &self.problem.graph;
        graph.storages()[graph.values()[v].storage].bytes.get()
    }

    fn device(&mut self, workspace: u64) {
        let live: u64 = self.buffers.iter().map(|b| b.0).sum();
        self.seen.peak = self.seen.peak.max(live + workspace);
    }

    fn free(&mut self, v: ValueId) {
        self.buffers.iter_mut().for_each(|b| b.1.retain(|&u| u != v));
        self.buffers.retain(|b| !b.1.is_empty());
        self.back.iter_mut().filter(|copy| copy.0 == Some(v)).for_each(|copy| copy.0 = None);
    }

    /// How long a copy takes, in whole nanoseconds.
    fn takes(&self, v: ValueId, rate: u64) -> u64 {
        (u128::from(self.bytes(v)) * 1_000_000_000).div_ceil(u128::from(rate)) as u64
    }

    fn leaving(&self, v: ValueId) -> bool {
        self.out.iter().any(|copy| copy.0 == Some(v))
    }

    fn coming(&self, v: ValueId) -> bool {
        self.back.iter().any(|copy| copy.0 == Some(v))
    }

    /// Issue a step now; false if it has to wait.
    fn issue(&mut self, step: &Step) -> bool {
        let graph = &self.problem.graph;
        match step {
            Step::Compute { op: id, inplace } => {
                let op = &graph.ops()[*id];
                let taken: Vec<ValueId> = inplace.iter().map(|&(a, _)| op.inputs[a]).collect();
                if op.inputs.iter().any(|&v| self.coming(v)) || taken.iter().any(|&v| self.leaving(v)) {
                    return false;
                }
                let (views, fresh): (Vec<usize>, Vec<usize>) =
                    (0..op.outputs.len()).partition(|&k| graph.values()[op.outputs[k]].alias_of.is_some());
                for k in fresh.into_iter().chain(views) {
                    let (v, size) = (op.outputs[k], self.storage_bytes(op.outputs[k]));
                    let pair = inplace.iter().find(|pair| pair.1 == k).map(|&(a, _)| op.inputs[a]);
                    let is_view = graph.values()[v].alias_of.is_some();
                    let same = |u: &&ValueId| **u != v && graph.values()[**u].storage == graph.values()[v].storage;
                    let mut near = op.inputs.iter().chain(&op.outputs).filter(same);
                    let joins = pair
                        .or_else(|| near.find(|&&u| is_view && self.buffers.iter().any(|b| b.1.contains(&u))).copied());
                    match joins.and_then(|u| self.buffers.iter().position(|b| b.1.contains(&u))) {
                        Some(place) => {
                            let buffer = &mut self.buffers[place];
                            buffer.0 = if pair.is_some() { buffer.0.max(size) } else { buffer.0 };
                            buffer.1.push(v);
                        }
                        None => self.buffers.push((size, vec![v])),
                    }
                }
                self.device(self.problem.costs.workspace[*id].get());
                taken.into_iter().for_each(|v| self.free(v));
                self.busy_until = self.now + self.problem.costs.time[*id].get();
                self.seen.end = self.busy_until;
            }
            Step::Drop(v) if self.leaving(*v) => return false,
            Step::Drop(v) => self.free(*v),
            Step::Offload(v) => {
                self.out.push_back((Some(*v), None, self.takes(*v, self.problem.device.d2h_bytes_per_s)));
                self.on_host.push(*v);
            }
            Step::Prefetch(v) => {
                self.back.push_back((Some(*v), None, self.takes(*v, self.problem.device.h2d_bytes_per_s)));
                self.on_host.retain(|u| u != v);
                self.buffers.push((self.storage_bytes(*v), vec![*v]));
            }
        }
        self.device(0);
        let held = self.on_host.iter().map(|&v| self.bytes(v)).sum();
        self.seen.host_peak = self.seen.host_peak.max(held);
        true
    }

    /// Let copies end and begin. True if any did.
    fn links(&mut self) -> bool {
        let mut moved = false;
        for outward in [true, false] {
            // What is still on its way back does not exist yet.
            let first = self.out.front().and_then(|copy| copy.0);
            let missing = outward && first.is_some_and(|v| self.coming(v));
            let lane = if outward { &mut self.out } else { &mut self.back };
            match lane.front_mut() {
                Some((_, Some(end), _)) if *end <= self.now => {
                    lane.pop_front();
                    moved = true;
                }
                Some((_, end @ None, takes)) if !missing => {
                    *end = Some(self.now + *takes);
                    moved = true;
                }
                _ => {}
            }
        }
        moved
    }
}

fn run(problem: &Problem, steps: &[Step]) -> Outcome {
    let graph = &problem.graph;
    let mut buffers = Vec::new();
    for storage in graph.storages().values().filter(|s| s.resident) {
        let values = storage.values.iter().copied().filter(|&v| graph.values()[v].resident).collect();
        buffers.push((storage.bytes.get(), values));
    }
    let seen = Outcome { end: 0, peak: 0, host_peak: 0 };
    let (out, back, on_host) = (VecDeque::new(), VecDeque::new(), Vec::new());
    let mut machines = Machines { problem, now: 0, busy_until: 0, out, back, buffers, on_host, seen };
    machines.device(0);
    let mut next = 0;
    while next < steps.len() {
        let moved = machines.links();
        if machines.busy_until <= machines.now && machines.issue(&steps[next]) {
            next += 1;
        } else if !moved {
            let ends = [machines.out.front(), machines.back.front()].into_iter().flatten().filter_map(|copy| copy.1);
            let events = ends.chain([machines.busy_until]).filter(|&t| t > machines.now);
            machines.now = events.min().expect("a legal plan gets on");
        }
    }
    machines.seen
}

/// A legal plan with copies at random: some ops run again, and before each step some values leave or
/// come back; what a step needs comes back right before it.
fn random_plan(problem: &Problem, dice: &mut Dice) -> Vec<Step> {
    let graph = &problem.graph;
    let mut order: Vec<OpId> = graph.ops().keys().collect();
    for _ in 0..dice.below(4) {
        let (at, from) = (dice.below(order.len() as u64) as usize, dice.below(order.len() as u64) as usize);
        order.insert(at.max(from), order[at.min(from)]);
    }
    let base = lower(graph, &order, Lowering { inplace: dice.below(2) == 0 });
    let mut live: Vec<bool> = graph.values().values().map(|v| v.resident).collect();
    let mut host = vec![false; live.len()];
    let mut steps = Vec::new();
    let busy = 1 + dice.below(4);
    for step in base {
        for _ in 0..dice.below(busy) {
            let v = ValueId::from_index(dice.below(live.len() as u64) as usize);
            let resident = graph.values()[v].resident;
            match (live[v.index()], host[v.index()]) {
                (true, false) => {
                    host[v.index()] = true;
                    steps.push(Step::Offload(v));
                }
                (true, true) if !resident => {
                    live[v.index()] = false;
                    steps.push(Step::Drop(v));
                }
                (false, true) => {
                    (live[v.index()], host[v.index()]) = (true, false);
                    steps.push(Step::Prefetch(v));
                }
                _ => {}
            }
        }
        match &step {
            Step::Compute { op, inplace } => {
                let op = &graph.ops()[*op];
                for &v in &op.inputs {
                    if !std::mem::replace(&mut live[v.index()], true) {
                        host[v.index()] = false;
                        steps.push(Step::Prefetch(v));
                    }
                }
                for &v in &op.outputs {
                    if std::mem::replace(&mut live[v.index()], true) {
                        steps.push(Step::Drop(v));
                    }
                }
                inplace.iter().for_each(|&(a, _)| live[op.inputs[a].index()] = false);
                steps.push(step);
            }
            Step::Drop(v) => {
                if std::mem::replace(&mut live[v.index()], false) {
                    steps.push(step);
                }
            }
            Step::Offload(_) | Step::Prefetch(_) => unreachable!("lowering copies nothing"),
        }
    }
    for &v in graph.outputs() {
        if !live[v.index()] {
            steps.push(Step::Prefetch(v));
        }
    }
    steps
}

/// End, peak and host peak of thousands of random plans are the same by both simulations.
#[test]
fn timelines_are_those_of_an_independent_simulation() {
    let (mut compared, mut copies, mut waited, mut inplace, mut twice) = (0, 0, 0, 0, 0);
    for seed in 0..6000u64 {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (seed + 1).wrapping_mul(0x2545_f491_4f6c_dd1d));
        let shape =
            Shape { once: false, views: seed % 3 > 0, inplace: seed % 2 == 0, ..Shape::all(2 + (seed % 17) as usize) };
        let mut problem = problem(seed, shape);
        let mut rate =
            || 1 + [100_000_000, 1_000_000_000, 20_000_000_000][dice.below(3) as usize] * (1 + dice.below(9)) / 5;
        (problem.device.d2h_bytes_per_s, problem.device.h2d_bytes_per_s) = (rate(), rate());
        problem.device.host_memory = Bytes(1 << 40);
        let steps = random_plan(&problem, &mut dice);
        // In a few the changes above break a plan: what they take over has a view by then.
        if check_steps(&problem, &steps, Bytes(u64::MAX)).is_err() {
            continue;
        }
        let timeline = simulate(&problem, &steps).unwrap();
        let told = Outcome { end: timeline.time.get(), peak: timeline.peak.get(), host_peak: timeline.host_peak.get() };
        assert_eq!(told, run(&problem, &steps), "seed {seed}: {steps:?}");
        compared += 1;
        let offloads: Vec<&Step> = steps.iter().filter(|s| matches!(s, Step::Offload(_))).collect();
        copies += offloads.len();
        twice += usize::from((1..offloads.len()).any(|i| offloads[..i].contains(&offloads[i])));
        inplace += usize::from(steps.iter().any(|s| matches!(s, Step::Compute { inplace, .. } if !inplace.is_empty())));
        let alone =
            steps.iter().map(|s| if let Step::Compute { op, .. } = s { problem.costs.time[*op].get() } else { 0 });
        waited += usize::from(told.end > alone.sum());
    }
    println!("{compared} plans, {copies} copies, {waited} wait, {inplace} in place, {twice} copy a value twice");
    assert!(compared > 4000 && copies > 10_000 && waited > 2000 && inplace > 500 && twice > 300);
}

fn load(name: &str) -> Problem {
    Problem::load(format!("{}/tests/data/{name}.problem.json", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The peak with everything kept and no in-place reuse, of which budgets are fractions.
fn keep_all_peak(problem: &Problem) -> u64 {
    let order: Vec<OpId> = problem.graph.ops().keys().collect();
    simulate(problem, &lower(&problem.graph, &order, Lowering { inplace: false })).unwrap().peak.get()
}

/// The problem with links that move the baseline's peak one way in the baseline's time.
fn linked(mut problem: Problem) -> Problem {
    let baseline = solver::baseline(&problem).1;
    let rate = u128::from(baseline.peak.get()) * 1_000_000_000 / u128::from(baseline.time.get());
    let rate = u64::try_from(rate).unwrap();
    (problem.device.d2h_bytes_per_s, problem.device.h2d_bytes_per_s) = (rate, rate);
    problem.device.host_memory = Bytes(1 << 40);
    problem
}

fn quick(nodes: u64) -> Options {
    Options { time_limit: Duration::from_secs(600), node_limit: Some(nodes), ..Options::default() }
}

#[test]
fn pofo_lies_between_rotor_and_auto() {
    let problem = linked(load("gpt-4x256-b8"));
    let peak = keep_all_peak(&problem) as f64;
    for fraction in [0.7, 0.55, 0.4, 0.35] {
        let [rotor, pofo, auto] = ["rotor", "pofo", "auto"].map(|name| {
            let plan = solver::plan(&problem, Bytes((peak * fraction) as u64), name, &quick(200)).unwrap();
            check(&problem, &plan).unwrap();
            let timeline = simulate(&problem, &plan.steps).unwrap();
            assert_eq!((plan.predicted.time, plan.predicted.peak), (timeline.time, timeline.peak));
            assert_eq!(name != "rotor", plan.steps.iter().any(|step| matches!(step, Step::Offload(_))));
            plan.predicted.overhead
        });
        println!("{fraction}: rotor {rotor:.4} pofo {pofo:.4} auto {auto:.4}");
        assert!(auto <= pofo && pofo < rotor, "{fraction}: rotor {rotor} pofo {pofo} auto {auto}");
    }
}

/// No device, no link one way, no link the other way, no host: the same plan, step by step; and
/// `pofo` gives what `rotor` does.
#[test]
fn without_links_nothing_changes() {
    let mut problems: Vec<Problem> = (0..30).map(|seed| problem(seed, Shape::all(20 + seed as usize))).collect();
    // Chains for `pofo`: most random graphs have no place where one tensor alone carries on.
    problems.extend((0..15).map(|seed| series_parallel(seed, 20 + 2 * seed as usize, true)));
    problems.push(load("gpt-4x256-b8"));
    let (mut compared, mut chains) = (0, 0);
    for plain in problems {
        let (low, high) = (plain.trivial_bound().get(), solver::baseline(&plain).1.peak.get());
        let budget = Bytes(low + (high - low) / 3 * 2);
        let [mut no_host, mut no_out, mut no_back] = [&plain, &plain, &plain].map(|p| {
            let mut p = linked(p.clone());
            p.device.d2h_bytes_per_s += 1_000_000_000;
            p
        });
        no_host.device.host_memory = Bytes(0);
        no_out.device.d2h_bytes_per_s = 0;
        no_back.device.h2d_bytes_per_s = 0;
        for name in ["auto", "evict", "pofo"] {
            let steps = |p: &Problem, name: &str| {
                let plan = solver::plan(p, budget, name, &quick(50));
                plan.map(|plan| plan.steps).map_err(|error| error.to_string())
            };
            let without = steps(&plain, name);
            for other in [&no_host, &no_out, &no_back] {
                assert_eq!(without, steps(other, name), "{}: {name}", plain.name);
            }
            if name == "pofo" {
                assert_eq!(without.clone().ok(), steps(&plain, "rotor").ok());
                chains += usize::from(without.is_ok());
            }
            compared += usize::from(without.is_ok());
        }
    }
    println!("{compared} plans, {chains} of them of chains");
    assert!(compared > 60 && chains > 8, "{compared} {chains}");
}

/// Whatever the links and however small the host, plans are legal: on the device within the budget,
/// on the host within its memory.
#[test]
fn plans_stay_within_the_host() {
    let (mut sent, mut tight) = (0, 0);
    for seed in 0..60u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut problem = match seed % 3 {
            0 => problem(seed, Shape::all(10 + (seed % 50) as usize)),
            k => series_parallel(seed, 20 + (seed % 60) as usize, k == 1),
        };
        problem.device.d2h_bytes_per_s = 1 + dice.below(3_000_000_000);
        problem.device.h2d_bytes_per_s = 1 + dice.below(3_000_000_000);
        let (low, high) = (problem.trivial_bound().get(), solver::baseline(&problem).1.peak.get());
        for host in [3, 25, 1000] {
            problem.device.host_memory = Bytes(host);
            let budget = Bytes(low + high.saturating_sub(low) * (1 + dice.below(3)) / 4);
            for name in ["auto", "evict", "pofo"] {
                let Ok(plan) = solver::plan(&problem, budget, name, &quick(20)) else { continue };
                let checked = check(&problem, &plan).unwrap();
                assert!(checked.host_peak <= Bytes(host) && checked.peak <= budget);
                sent += usize::from(checked.host_peak > Bytes(0));
                tight += usize::from(checked.host_peak.get() * 5 > host * 4);
            }
        }
    }
    println!("{sent} plans send, {tight} use most of the host");
    assert!(sent > 40 && tight > 10, "{sent} {tight}");
}

/// A time limit of nothing is kept inside the placing of copies too: what comes back is legal.
#[test]
fn no_time_is_no_harm() {
    let problem = linked(load("unet-3x16-b4"));
    let options = Options { time_limit: Duration::ZERO, ..Options::default() };
    for name in ["auto", "evict", "pofo"] {
        match solver::plan(&problem, Bytes(keep_all_peak(&problem) / 2), name, &options) {
            Ok(plan) => drop(check(&problem, &plan).unwrap()),
            Err(plimsoll::Error::Infeasible { .. } | plimsoll::Error::Unsupported { .. }) => {}
            Err(other) => panic!("{name}: {other}"),
        }
    }
}

#[test]
#[ignore = "prints a table; slow"]
fn table() {
    let solvers = std::env::var("PLIMSOLL_SOLVERS").unwrap_or("rotor,pofo,evict,auto".into());
    let files = std::env::var("PLIMSOLL_FILES").unwrap_or("gpt-4x256-b8".into());
    for name in files.split(',') {
        let problem = linked(load(name));
        let (low, peak) = (problem.trivial_bound().get() as f64, keep_all_peak(&problem) as f64);
        let fractions = [0.8, 0.6, 0.5, 0.4, 0.3].map(|f| (format!("{f}"), peak * f));
        let rooms = [0.25, 0.12, 0.08, 0.05].map(|r| (format!("room {r}"), low + r * (peak - low)));
        for (label, budget) in fractions.into_iter().chain(rooms) {
            for solver in solvers.split(',') {
                let started = std::time::Instant::now();
                let options = Options { time_limit: Duration::from_secs(120), ..Options::default() };
                let told = match solver::plan(&problem, Bytes(budget as u64), solver, &options) {
                    Ok(plan) => {
                        check(&problem, &plan).unwrap();
                        format!("{:.3} %", 100.0 * plan.predicted.overhead)
                    }
                    Err(plimsoll::Error::Infeasible { minimum, .. }) => {
                        format!("needs {:.3}", minimum.map_or(f64::NAN, |m| m.get() as f64 / peak))
                    }
                    Err(error) => error.to_string(),
                };
                println!("{name} {label} {solver}: {told} {:.2?}", started.elapsed());
            }
        }
    }
}
