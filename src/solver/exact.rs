//! Small problems, exactly: best-first search over what is live.
//!
//! A state is which values live in which buffers, and which ops with side effects ran. From it an
//! op may run (in place or not), or a value may be dropped. The search is A* (Hart, Nilsson and
//! Raphael, "A formal basis for the heuristic determination of minimum cost paths", 1968) over the
//! time of the compute lane; what is still to come is at least the time of every op that must run
//! again with unlimited memory, given what is live. That estimate never falls by more than the
//! time of the op that runs, so a state that was expanded is never reached faster later.
//!
//! Drops are put off until an op is blocked: an earlier drop can always be moved there. The class
//! of plans is therefore all legal ones without copies to the host, views and in-place reuse and all; so
//! what is found is optimal, and where the states run out no legal plan fits.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::Options;
use super::moves::Move;
use crate::cost::Problem;
use crate::entity::{Entity, OpId, ValueId};
use crate::graph::Replay;
use crate::plan::Step;
use crate::units::Bytes;

/// Ops above which the states are too many.
pub(super) const MOST: usize = 24;
/// States expanded at most: well under a second.
const STATES: u64 = 40_000;

/// What came of it.
#[derive(Debug)]
pub(super) enum Found {
    /// No legal plan is faster.
    Optimal(Vec<Step>),
    /// No legal plan fits.
    Infeasible,
    /// There were too many states.
    Unknown,
}

/// In `State::place`: not live, or in the buffer of a resident storage.
const DEAD: u8 = 0;
const RESIDENT: u8 = u8::MAX;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    /// Per value its buffer, numbered from 1 in the order of values.
    place: Vec<u8>,
    /// Bytes of each buffer.
    sizes: Vec<u64>,
    /// Ops with side effects that ran, by bits.
    ran: u64,
}

impl State {
    /// Number the buffers in the order of values and forget those nothing lives in.
    fn settle(&mut self) {
        let mut names: Vec<u8> = vec![DEAD; self.sizes.len() + 1];
        let mut sizes = Vec::with_capacity(self.sizes.len());
        for place in self.place.iter_mut().filter(|place| **place != DEAD && **place != RESIDENT) {
            let name = &mut names[*place as usize];
            if *name == DEAD {
                sizes.push(self.sizes[*place as usize - 1]);
                *name = sizes.len() as u8;
            }
            *place = *name;
        }
        self.sizes = sizes;
    }

    fn lives(&self, v: ValueId) -> bool {
        self.place[v.index()] != DEAD
    }

    /// Whether nothing else lives in the buffer of `v`.
    fn alone(&self, v: ValueId) -> bool {
        let buffer = self.place[v.index()];
        buffer != RESIDENT && self.place.iter().filter(|&&place| place == buffer).count() == 1
    }
}

/// How a state was reached in the least time known.
struct Visit {
    time: u64,
    from: usize,
    step: Option<Step>,
}

/// Find the fastest plan without copies within the limits of the options.
pub(super) fn solve(problem: &Problem, budget: Bytes, options: &Options, late: &dyn Fn() -> bool) -> Found {
    let graph = &problem.graph;
    // Buffers are numbered by bytes, ops by bits.
    if graph.ops().len() > MOST || graph.values().len() >= usize::from(RESIDENT) {
        return Found::Unknown;
    }
    // What is counted here is a fraction of an evaluation elsewhere.
    let most = options.node_limit.map_or(STATES, |nodes| nodes.saturating_mul(64).min(STATES));
    let search = Search { problem, budget: budget.get(), options, resident: graph.resident_bytes().get() };
    let start = search.start();
    // Of equal estimates the one with least to come, then the newest.
    let mut open = BinaryHeap::new();
    let rest = search.rest(&start);
    open.push((Reverse(rest), Reverse(rest), 0usize, 0u64));
    let mut known: BTreeMap<State, usize> = BTreeMap::from([(start.clone(), 0)]);
    let mut states = vec![start];
    let mut visits = vec![Visit { time: 0, from: 0, step: None }];
    let mut expanded = 0;
    while let Some((.., index, time)) = open.pop() {
        if visits[index].time < time {
            continue;
        }
        let state = states[index].clone();
        if search.done(&state) {
            return Found::Optimal(trail(&mut visits, index));
        }
        expanded += 1;
        if expanded > most || (expanded % 256 == 0 && late()) {
            return Found::Unknown;
        }
        for (step, took, next) in search.next(&state) {
            let time = time.saturating_add(took);
            let visit = Visit { time, from: index, step: Some(step) };
            let rest = search.rest(&next);
            let to = match known.get(&next) {
                Some(&to) if visits[to].time <= time => continue,
                Some(&to) => {
                    visits[to] = visit;
                    to
                }
                None => {
                    known.insert(next.clone(), states.len());
                    states.push(next);
                    visits.push(visit);
                    states.len() - 1
                }
            };
            let estimate = if options.moves.has(Move::Estimate) { time.saturating_add(rest) } else { time };
            open.push((Reverse(estimate), Reverse(rest), to, time));
        }
    }
    Found::Infeasible
}

/// The steps that led to a state.
fn trail(visits: &mut [Visit], mut index: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    while let Some(step) = visits[index].step.take() {
        steps.push(step);
        index = visits[index].from;
    }
    steps.reverse();
    steps
}

struct Search<'a> {
    problem: &'a Problem,
    budget: u64,
    options: &'a Options,
    resident: u64,
}

impl Search<'_> {
    fn start(&self) -> State {
        let values = self.problem.graph.values().values();
        let place = values.map(|v| if v.resident { RESIDENT } else { DEAD }).collect();
        State { place, sizes: Vec::new(), ran: 0 }
    }

    fn done(&self, state: &State) -> bool {
        let graph = &self.problem.graph;
        graph.outputs().iter().all(|&v| state.lives(v))
            && graph.ops().iter().all(|(id, op)| op.replay != Replay::Once || state.ran & bit(id) != 0)
    }

    /// The time of every op that must still run, with room for everything.
    fn rest(&self, state: &State) -> u64 {
        let graph = &self.problem.graph;
        let mut wanted: Vec<bool> = graph.values().iter().map(|(v, value)| value.output && !state.lives(v)).collect();
        let mut time = 0u64;
        for (id, op) in graph.ops().iter().rev() {
            let once = op.replay == Replay::Once;
            if op.outputs.iter().any(|v| wanted[v.index()]) || (once && state.ran & bit(id) == 0) {
                if once && state.ran & bit(id) != 0 {
                    // What it made is gone for good.
                    return u64::MAX;
                }
                time = time.saturating_add(self.problem.costs.time[id].get());
                for &v in op.inputs.iter().filter(|&&v| !state.lives(v)) {
                    wanted[v.index()] = true;
                }
            }
        }
        time
    }

    /// The states one step further, with the step and the time it takes.
    fn next(&self, state: &State) -> Vec<(Step, u64, State)> {
        let graph = &self.problem.graph;
        let mut all = Vec::new();
        let mut blocked = false;
        for (id, op) in graph.ops().iter() {
            let again = op.replay == Replay::Once && state.ran & bit(id) != 0;
            if again || !op.inputs.iter().all(|&v| state.lives(v)) {
                continue;
            }
            if op.outputs.iter().any(|&v| state.lives(v)) {
                // What is all there never has to run: it would be dropped for the sake of something else.
                blocked |= !op.outputs.iter().all(|&v| state.lives(v));
                continue;
            }
            for pairs in self.takeovers(state, id, &mut blocked) {
                match self.compute(state, id, &pairs) {
                    Some(next) => {
                        let time = self.problem.costs.time[id].get();
                        all.push((Step::Compute { op: id, inplace: pairs }, time, next));
                    }
                    None => blocked = true,
                }
            }
        }
        if blocked || !self.options.moves.has(Move::LateDrops) {
            for v in graph.values().keys().filter(|&v| state.lives(v) && !graph.values()[v].resident) {
                let mut next = state.clone();
                next.place[v.index()] = DEAD;
                next.settle();
                all.push((Step::Drop(v), 0, next));
            }
        }
        all.retain(|(.., next)| self.rest(next) < u64::MAX);
        all
    }

    /// Every set of in-place pairs the op may run with; `blocked` if a drop would allow more.
    fn takeovers(&self, state: &State, id: OpId, blocked: &mut bool) -> Vec<Vec<(usize, usize)>> {
        let graph = &self.problem.graph;
        let op = &graph.ops()[id];
        let mut sets: Vec<Vec<(usize, usize)>> = vec![Vec::new()];
        for &(a, b) in op.inplace.iter().filter(|_| self.options.inplace) {
            let input = op.inputs[a];
            let allowed = !graph.values()[input].resident
                && op.inputs.iter().filter(|&&v| v == input).count() == 1
                && op.outputs.iter().all(|&v| graph.values()[v].storage != graph.values()[input].storage);
            *blocked |= allowed && !state.alone(input);
            if allowed && state.alone(input) {
                let more: Vec<_> =
                    sets.iter().filter(|set| set.iter().all(|&(x, y)| x != a && y != b)).cloned().collect();
                sets.extend(more.into_iter().map(|mut set| {
                    set.push((a, b));
                    set
                }));
            }
        }
        sets
    }

    /// The state after the op; `None` if it does not fit.
    fn compute(&self, state: &State, id: OpId, pairs: &[(usize, usize)]) -> Option<State> {
        let graph = &self.problem.graph;
        let op = &graph.ops()[id];
        let mut next = state.clone();
        for (k, v) in graph.outputs_roots_first(id) {
            let value = &graph.values()[v];
            let bytes = graph.storages()[value.storage].bytes.get();
            let sharers = || {
                let touched = op.inputs.iter().chain(&op.outputs);
                touched.filter(|&&u| u != v && graph.values()[u].storage == value.storage)
            };
            next.place[v.index()] = if let Some(&(a, _)) = pairs.iter().find(|pair| pair.1 == k) {
                let buffer = next.place[op.inputs[a].index()];
                let size = &mut next.sizes[usize::from(buffer) - 1];
                *size = (*size).max(bytes);
                buffer
            } else if let Some(&u) = value.alias_of.and_then(|_| sharers().find(|&&u| next.lives(u))) {
                next.place[u.index()]
            } else {
                next.sizes.push(bytes);
                u8::try_from(next.sizes.len()).ok().filter(|&buffer| buffer < RESIDENT)?
            };
        }
        let live = next.sizes.iter().fold(self.resident, |sum, &bytes| sum.saturating_add(bytes));
        if live.saturating_add(self.problem.costs.workspace[id].get()) > self.budget {
            return None;
        }
        for &(a, _) in pairs {
            next.place[op.inputs[a].index()] = DEAD;
        }
        if op.replay == Replay::Once {
            next.ran |= bit(id);
        }
        next.settle();
        Some(next)
    }
}

fn bit(op: OpId) -> u64 {
    1 << op.index()
}
