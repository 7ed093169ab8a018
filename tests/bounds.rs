//! Lower bounds against the best legal plan of small random graphs, found by trying all states.
#![cfg(feature = "fuzzing")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use plimsoll::Bytes;
use plimsoll::check::check_steps;
use plimsoll::cost::Problem;
use plimsoll::entity::{Entity, ValueId};
use plimsoll::fuzz::{Shape, problem};
use plimsoll::graph::Replay;
use plimsoll::plan::Step;
use plimsoll::solver::{self, Move, Moves, Options, Outcome};

// ---- the best plan ------------------------------------------------------------------------

/// What lives where, and which ops with side effects ran: all that matters for what may follow.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    /// Sizes of the buffers and who lives in them, sorted.
    buffers: Vec<(u64, Vec<usize>)>,
    ran: Vec<usize>,
}

impl State {
    fn home(&self, v: usize) -> Option<usize> {
        self.buffers.iter().position(|b| b.1.contains(&v))
    }

    fn without(mut self, v: usize) -> Self {
        self.buffers.iter_mut().for_each(|b| b.1.retain(|&u| u != v));
        self.buffers.retain(|b| !b.1.is_empty());
        self
    }

    fn bytes(&self) -> u64 {
        self.buffers.iter().map(|b| b.0).sum()
    }
}

fn start(problem: &Problem) -> State {
    let mut state = State::default();
    for storage in problem.graph.storages().values().filter(|s| s.resident) {
        let tenants = storage.values.iter().filter(|&&v| problem.graph.values()[v].resident).map(|v| v.index());
        state.buffers.push((storage.bytes.get(), tenants.collect()));
    }
    state.buffers.sort();
    state
}

/// The state after a computation, if it is legal and fits.
fn compute(problem: &Problem, state: &State, op: usize, pairs: &[(usize, usize)], budget: u64) -> Option<State> {
    let graph = &problem.graph;
    let id = plimsoll::entity::OpId::from_index(op);
    let it = &graph.ops()[id];
    let storage = |v: usize| graph.values()[ValueId::from_index(v)].storage;
    let inputs: Vec<usize> = it.inputs.iter().map(|v| v.index()).collect();
    let outputs: Vec<usize> = it.outputs.iter().map(|v| v.index()).collect();
    let once = it.replay == Replay::Once;
    if inputs.iter().any(|&v| state.home(v).is_none())
        || outputs.iter().any(|&v| state.home(v).is_some())
        || (once && state.ran.contains(&op))
    {
        return None;
    }
    let mut after = state.clone();
    let mut order: Vec<usize> = (0..outputs.len()).collect();
    order.sort_by_key(|&k| graph.values()[it.outputs[k]].alias_of.is_some());
    for k in order {
        let v = outputs[k];
        let bytes = graph.storages()[storage(v)].bytes.get();
        if let Some(&(a, _)) = pairs.iter().find(|p| p.1 == k) {
            let home = after.home(inputs[a])?;
            let alone = after.buffers[home].1 == [inputs[a]] && !graph.values()[it.inputs[a]].resident;
            if !alone || outputs.iter().any(|&u| storage(u) == storage(inputs[a])) {
                return None;
            }
            after.buffers[home].0 = after.buffers[home].0.max(bytes);
            after.buffers[home].1.push(v);
        } else {
            let near = inputs.iter().chain(&outputs).filter(|&&u| u != v && storage(u) == storage(v));
            let shared = graph.values()[it.outputs[k]].alias_of.and_then(|_| near.clone().find_map(|&u| after.home(u)));
            match shared {
                Some(home) => after.buffers[home].1.push(v),
                None => after.buffers.push((bytes, vec![v])),
            }
        }
    }
    if after.bytes() + problem.costs.workspace[id].get() > budget {
        return None;
    }
    for &(a, _) in pairs {
        after = after.without(inputs[a]);
    }
    if once {
        after.ran.push(op);
        after.ran.sort_unstable();
    }
    after.buffers.iter_mut().for_each(|b| b.1.sort_unstable());
    after.buffers.sort();
    Some(after)
}

/// A fastest legal plan within the budget (Dijkstra over states), if there is one.
fn best(problem: &Problem, budget: u64) -> Option<(u64, Vec<Step>)> {
    let graph = &problem.graph;
    let first = start(problem);
    if first.bytes() > budget {
        return None;
    }
    let done = |state: &State| {
        graph.outputs().iter().all(|v| state.home(v.index()).is_some())
            && graph.ops().iter().all(|(id, op)| op.replay != Replay::Once || state.ran.contains(&id.index()))
    };
    let mut from: BTreeMap<State, (u64, Option<(State, Step)>)> = BTreeMap::from([(first.clone(), (0, None))]);
    let mut queue = BTreeSet::from([(0u64, first)]);
    while let Some((time, state)) = queue.pop_first() {
        if done(&state) {
            let (mut steps, mut at) = (Vec::new(), state);
            while let Some((before, step)) = from[&at].1.clone() {
                steps.push(step);
                at = before;
            }
            steps.reverse();
            return Some((time, steps));
        }
        let mut moves: Vec<(u64, State, Step)> = Vec::new();
        for v in graph.values().iter().filter(|(_, v)| !v.resident).map(|(id, _)| id) {
            if state.home(v.index()).is_some() {
                moves.push((time, state.clone().without(v.index()), Step::Drop(v)));
            }
        }
        for (id, op) in graph.ops().iter() {
            for inplace in std::iter::once(Vec::new()).chain(op.inplace.iter().map(|&pair| vec![pair])) {
                if let Some(after) = compute(problem, &state, id.index(), &inplace, budget) {
                    moves.push((time + problem.costs.time[id].get(), after, Step::Compute { op: id, inplace }));
                }
            }
        }
        for (time, mut after, step) in moves {
            after.buffers.sort();
            if from.get(&after).is_none_or(|known| time < known.0) {
                if let Some(known) = from.get(&after) {
                    queue.remove(&(known.0, after.clone()));
                }
                from.insert(after.clone(), (time, Some((state.clone(), step))));
                queue.insert((time, after));
            }
        }
    }
    None
}

// ---- problems -----------------------------------------------------------------------------

/// A random problem; every third has views that read another storage too, so that they are no mere
/// views and their storages are pinned.
fn draw(seed: u64, ops: usize) -> Problem {
    let problem = problem(seed, Shape::all(ops));
    if !seed.is_multiple_of(3) {
        return problem;
    }
    let mut raw: serde_json::Value = serde_json::from_str(&problem.to_json()).unwrap();
    let mut made: Vec<u64> = Vec::new();
    for op in raw["ops"].as_array_mut().unwrap() {
        if op["kind"] == "View"
            && let Some(&other) = made.get(seed as usize % made.len().max(1))
        {
            op["inputs"].as_array_mut().unwrap().push(other.into());
        }
        made.extend(op["outputs"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()));
    }
    Problem::from_json(&raw.to_string(), "random").unwrap()
}

fn overhead(problem: &Problem, time: u64) -> f64 {
    let base = solver::baseline(problem).1.time.get() as f64;
    if base > 0.0 { (time as f64 - base) / base } else { 0.0 }
}

/// Budgets from what one op needs by itself to where everything fits.
fn budgets(problem: &Problem, count: u64) -> impl Iterator<Item = u64> + use<> {
    let (low, high) = (problem.trivial_bound().get(), solver::baseline(problem).1.peak.get());
    (0..count).map(move |k| low + high.saturating_sub(low) * k / count)
}

/// The same result however slow the machine.
fn options() -> Options {
    Options { time_limit: Duration::from_secs(600), node_limit: Some(10_000_000), ..Options::default() }
}

// ---- tests --------------------------------------------------------------------------------

#[test]
fn no_bound_exceeds_the_best_plan() {
    let (mut cases, mut tight, mut exact) = (0, 0, 0);
    for seed in 0..3000u64 {
        let problem = draw(seed, 3 + (seed % 5) as usize);
        for budget in budgets(&problem, 3) {
            let Some((time, steps)) = best(&problem, budget) else { continue };
            check_steps(&problem, &steps, Bytes(budget)).unwrap();
            let least = overhead(&problem, time);
            let bound = solver::lower_bound(&problem, Bytes(budget));
            assert!(bound <= least + 1e-12, "seed {seed}, budget {budget}: {bound} over {least}");
            cases += 1;
            // What takes more than everything once.
            if time > steps_once(&problem) {
                tight += 1;
                exact += usize::from(bound >= least - 1e-12);
            }
        }
    }
    println!("{cases} cases, {tight} with repetitions, the bound is the optimum in {exact}");
    assert!(cases > 3000 && tight > 200, "{cases} {tight}");
    assert!(exact * 10 > tight, "{exact} of {tight}");
}

/// Time of all ops that are needed, once.
fn steps_once(problem: &Problem) -> u64 {
    best(problem, u64::MAX >> 1).expect("with room for everything there is a plan").0
}

#[cfg(feature = "highs")]
#[test]
fn stronger_bounds_hold_too() {
    let (mut tight, mut exact, mut stronger) = (0, 0, 0);
    for seed in 0..1000u64 {
        let problem = draw(seed, 4 + (seed % 4) as usize);
        for budget in budgets(&problem, 2) {
            let Some((time, _)) = best(&problem, budget) else { continue };
            let least = overhead(&problem, time);
            let (one, more) = (
                solver::lower_bound(&problem, Bytes(budget)),
                solver::strongest_bound(&problem, Bytes(budget), &options()),
            );
            assert!(one <= more && more <= least + 1e-12, "seed {seed}, budget {budget}: {one} {more} {least}");
            if time > steps_once(&problem) {
                tight += 1;
                stronger += usize::from(more > one);
                exact += usize::from(more >= least - 1e-12);
            }
        }
    }
    println!("{tight} with repetitions: stronger in {stronger}, the optimum in {exact}");
    assert!(stronger > 10 && exact * 5 > tight, "{tight} {stronger} {exact}");
}

/// Where all that can be live at once is gone through, what is called infeasible is, and what is found fits.
#[test]
fn that_nothing_fits_is_proved_only_where_nothing_does() {
    let options = Options {
        node_limit: Some(2_000),
        search_minimum: false,
        moves: Moves::all().without(Move::Exact).without(Move::Regress),
        ..options()
    };
    let without = Options { moves: options.moves.without(Move::Reach), ..options.clone() };
    let auto = solver::by_name("auto").unwrap();
    let (mut feasible, mut infeasible, mut proved, mut more, mut found, mut other) = (0, 0, 0, 0, 0, 0);
    for seed in 0..900u64 {
        let problem = draw(seed, 4 + (seed % 5) as usize);
        let (low, high) = (problem.trivial_bound().get(), solver::baseline(&problem).1.peak.get());
        for budget in (0..5).map(|k| low.saturating_sub(2) + (high + 2 - low.saturating_sub(2)) * k / 5) {
            let solve = |options: &Options| auto.solve(&problem, Bytes(budget), options).unwrap();
            let (outcome, fits) = (solve(&options), best(&problem, budget).is_some());
            match outcome {
                Outcome::Optimal(plan) | Outcome::Feasible { plan, .. } => {
                    check_steps(&problem, &plan.steps, Bytes(budget)).unwrap();
                    assert!(fits, "seed {seed}, budget {budget}");
                    found += 1;
                }
                Outcome::Infeasible { .. } => {
                    assert!(!fits, "seed {seed}, budget {budget}");
                    proved += 1;
                    more += usize::from(matches!(solve(&without), Outcome::Unknown { .. }));
                }
                _ => {}
            }
            feasible += usize::from(fits);
            other += usize::from(fits && solve(&without).plan().is_some());
            infeasible += usize::from(!fits);
        }
    }
    println!(
        "{found} of {feasible} found ({other} without), {proved} of {infeasible} proved, {more} of them by nothing else"
    );
    assert!(infeasible > 1000 && proved * 10 > infeasible * 9 && more > 100, "{infeasible} {proved} {more}");
    assert!(feasible > 1000 && found * 10 > feasible * 9 && found > other, "{feasible} {found} {other}");
}

/// The search from the end, without the one through all that can live before it: what it calls optimal or infeasible is, and what it proves
/// otherwise holds.
#[test]
fn what_is_needed_proves_optima() {
    let options = Options {
        node_limit: Some(2_000),
        search_minimum: false,
        moves: Moves::all().without(Move::Exact).without(Move::Reach),
        ..options()
    };
    let auto = solver::by_name("auto").unwrap();
    let (mut optimal, mut again, mut left, mut infeasible) = (0, 0, 0, 0);
    for seed in 0..600u64 {
        let problem = draw(seed, 4 + (seed % 5) as usize);
        let baseline = solver::baseline(&problem).1;
        let (low, high) = (problem.trivial_bound().get(), baseline.peak.get());
        for budget in (0..5).map(|k| low.saturating_sub(2) + (high + 2 - low.saturating_sub(2)) * k / 5) {
            let least = best(&problem, budget).map(|(time, _)| time);
            let told = format!("seed {seed}, budget {budget}: {least:?}");
            match auto.solve(&problem, Bytes(budget), &options).unwrap() {
                Outcome::Optimal(plan) => {
                    check_steps(&problem, &plan.steps, Bytes(budget)).unwrap();
                    assert_eq!(Some(plan.predicted.time.get()), least, "{told}");
                    optimal += 1;
                    again += usize::from(plan.predicted.time > baseline.time);
                }
                Outcome::Feasible { plan, lower_bound, .. } => {
                    check_steps(&problem, &plan.steps, Bytes(budget)).unwrap();
                    let least = least.expect("there is a plan") as f64 / baseline.time.get().max(1) as f64 - 1.0;
                    assert!(lower_bound <= least + 1e-12, "{told}: {lower_bound}");
                    left += 1;
                }
                Outcome::Infeasible { .. } => {
                    assert!(least.is_none(), "{told}");
                    infeasible += 1;
                }
                _ => {}
            }
        }
    }
    println!("{optimal} optimal, {again} of them recompute, {left} left open; {infeasible} infeasible");
    assert!(optimal > 1000 && again > 100 && infeasible > 700, "{optimal} {again} {left} {infeasible}");
}

#[test]
fn bounds_do_not_grow_with_the_budget() {
    for seed in 0..300u64 {
        let problem = draw(seed, 5 + (seed % 50) as usize);
        let bounds: Vec<f64> = budgets(&problem, 12).map(|b| solver::lower_bound(&problem, Bytes(b))).collect();
        assert!(bounds.windows(2).all(|w| w[0] >= w[1]), "seed {seed}: {bounds:?}");
    }
}

/// x is read at the start, between two ops that leave no room for it, and after both.
///
/// ```text
/// w -> x -> p -> [d1] -> q(x) -> [d2] -> y(x)      [..] needs 10 bytes of workspace
/// ```
fn squeezed_twice() -> Problem {
    let value = |name: &str, bytes: u64| serde_json::json!({"name": name, "bytes": bytes});
    let op = |kind: &str, time: u64, workspace: u64, inputs: &[u64], output: u64| {
        serde_json::json!({"kind": kind, "time": time, "workspace": workspace, "inputs": inputs, "outputs": [output],
            "phase": "forward"})
    };
    let raw = serde_json::json!({
        "format": "plimsoll.problem", "version": 1, "name": "squeezed",
        "values": [value("w", 1), value("x", 6), value("p", 1), value("d1", 1), value("q", 1), value("d2", 1), value("y", 1)],
        "ops": [op("X", 10, 0, &[0], 1), op("P", 1, 0, &[1], 2), op("D1", 1, 10, &[2], 3), op("Q", 1, 0, &[1, 3], 4),
            op("D2", 1, 10, &[4], 5), op("Y", 1, 0, &[1, 5], 6)],
        "resident": [0], "outputs": [6],
    });
    Problem::from_json(&raw.to_string(), "squeezed").unwrap()
}

#[test]
fn two_instants_prove_what_one_cannot() {
    let problem = squeezed_twice();
    let budget = 14;
    let (time, steps) = best(&problem, budget).unwrap();
    check_steps(&problem, &steps, Bytes(budget)).unwrap();
    assert_eq!(time, 15 + 2 * 10);
    // Between steps x fits: the footprint of the op that runs is what proves anything.
    let one = solver::lower_bound(&problem, Bytes(budget));
    assert!(one > 0.0 && one <= 10.0 / 15.0, "{one}");
    #[cfg(feature = "highs")]
    assert_eq!(solver::strongest_bound(&problem, Bytes(budget), &options()), 20.0 / 15.0);
}

/// Two products of the same two factors, beside something to be kept: whichever product comes first cannot take over
/// a factor that the other still reads.
///
/// ```text
/// w -> k, a, b    x = a b    y = a b    z = x + y    r(z, k)       both products and the sum may work in place
/// ```
fn factors_wanted_twice() -> Problem {
    let value = |name: &str, bytes: u64| serde_json::json!({"name": name, "bytes": bytes});
    let op = |kind: &str, time: u64, inputs: &[u64], output: u64, inplace: &[[u64; 2]]| {
        serde_json::json!({"kind": kind, "time": time, "inputs": inputs, "outputs": [output], "inplace": inplace,
            "phase": "forward"})
    };
    let either = [[0, 0], [1, 0]];
    let raw = serde_json::json!({
        "format": "plimsoll.problem", "version": 1, "name": "factors",
        "values": [value("w", 1), value("k", 4), value("a", 4), value("b", 4), value("x", 4), value("y", 4),
            value("z", 4), value("r", 1)],
        "ops": [op("K", 7, &[0], 1, &[]), op("A", 20, &[0, 1], 2, &[]), op("B", 20, &[0, 1], 3, &[]),
            op("Mul", 5, &[2, 3], 4, &either), op("Mul", 5, &[2, 3], 5, &either), op("Add", 5, &[4, 5], 6, &either),
            op("R", 1, &[6, 1], 7, &[])],
        "resident": [0], "outputs": [7],
    });
    Problem::from_json(&raw.to_string(), "factors").unwrap()
}

#[test]
fn what_is_taken_over_is_gone() {
    let problem = factors_wanted_twice();
    // w, both factors and a product are 13 bytes: there is no room for k beside them.
    for (budget, again) in [(17, 0), (16, 7), (13, 7)] {
        let (time, steps) = best(&problem, budget).unwrap();
        check_steps(&problem, &steps, Bytes(budget)).unwrap();
        assert_eq!(time, 63 + again, "budget {budget}");
        #[cfg(feature = "highs")]
        assert_eq!(solver::strongest_bound(&problem, Bytes(budget), &options()), again as f64 / 63.0);
        // A fraction of k would fit, unless nothing does.
        let one = solver::lower_bound(&problem, Bytes(budget));
        assert!(one <= again as f64 / 63.0 && (one > 0.0) == (again > 0), "budget {budget}: {one}");
    }
}

/// The closure at the loss proves 0.49 % of the U-Net at 0.3 of its peak.
#[test]
fn footprints_count_on_real_graphs() {
    let path = format!("{}/tests/data/unet-3x16-b4.problem.json", env!("CARGO_MANIFEST_DIR"));
    let problem = Problem::load(path).unwrap();
    let bound = solver::lower_bound(&problem, Bytes(43_052_068 * 3 / 10));
    assert!(bound > 0.04, "{bound}");
}

#[cfg(feature = "highs")]
#[test]
#[ignore = "prints a table; slow"]
fn table() {
    let seconds = std::env::var("PLIMSOLL_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(10);
    for name in ["gpt-4x256-b8", "resnet-8x32-b8", "unet-3x16-b4"] {
        let path = format!("{}/tests/data/{name}.problem.json", env!("CARGO_MANIFEST_DIR"));
        let problem = Problem::load(path).unwrap();
        let order: Vec<_> = problem.graph.ops().keys().collect();
        let steps = plimsoll::plan::lower(&problem.graph, &order, plimsoll::plan::Lowering { inplace: false });
        let peak = plimsoll::plan::simulate(&problem, &steps).unwrap().peak.get() as f64;
        let low = problem.trivial_bound().get() as f64;
        let fractions = [0.8, 0.6, 0.5, 0.4, 0.3].map(|f| (format!("{f}"), peak * f));
        for (label, budget) in fractions.into_iter().chain([("room 0.12".to_owned(), low + 0.12 * (peak - low))]) {
            let budget = Bytes(budget as u64);
            let options = Options { time_limit: Duration::from_secs(seconds), ..Options::default() };
            let started = std::time::Instant::now();
            let one = 100.0 * solver::lower_bound(&problem, budget);
            let first = started.elapsed();
            let more = 100.0 * solver::strongest_bound(&problem, budget, &options);
            println!("{name} {label}: one {one:.3} % {first:.2?}, more {more:.3} % {:.2?}", started.elapsed());
        }
    }
}
