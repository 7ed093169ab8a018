//! The search behind every heuristic solver: start orders, eviction, improvement, best of all.

use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::Options;
use super::bound::{Boundary, ranked};
use super::evict::{Evictor, Rule};
use super::improve::Search;
use super::model::Model;
use super::reorder::shrink_first;
use super::rng::Rng;
use super::sim::{Score, Sim};

/// Orders improved side by side: a constant, so that results do not depend on the number of cores.
const LANES: usize = 4;
/// Rounds of improvement; between them the lanes exchange their best.
const ROUNDS: usize = 10;
/// Rounds without a gain after which the search ends.
const PATIENCE: usize = 3;
/// Units beyond which a graph is large.
const LARGE: usize = 4000;
/// Positions evaluated by a whole search when no node limit is given: about two seconds on two
/// cores, however large the graph.
const WORK: u64 = 130_000_000;

/// An order and what it comes to.
pub(super) type Scored = (Vec<u32>, Score);

/// When a search must end.
pub(super) struct Limits {
    started: Instant,
    soon: Duration,
    deadline: Option<Instant>,
    work: u64,
    seed: u64,
}

impl Limits {
    pub fn new(model: &Model, options: &Options) -> Self {
        // A node is one evaluation of a whole order.
        let nodes = options.node_limit.map(|nodes| nodes.saturating_mul(model.units.len() as u64));
        // A limit too far away to be an instant is none.
        let deadline = Instant::now().checked_add(options.time_limit);
        let (started, soon) = (Instant::now(), options.time_limit / 10);
        Self { started, soon, deadline, work: nodes.unwrap_or(WORK).min(WORK.saturating_mul(1000)), seed: options.seed }
    }

    /// Whether so much of the time is gone that extras should be left out.
    pub fn pressed(&self) -> bool {
        self.started.elapsed() >= self.soon
    }

    /// What is left until the deadline, if there is one.
    #[cfg(feature = "highs")]
    pub fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    pub fn late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// Evict from each start until it fits, give back what then fits; the best first. The plain rules
/// start from everything kept; `starts` are further orders to begin with.
pub(super) fn construct(
    model: &Model,
    budget: u64,
    starts: Vec<Vec<u32>>,
    rules: bool,
    limits: &Limits,
) -> Vec<Scored> {
    let mut all: Vec<(Vec<u32>, Rule)> = Vec::new();
    if rules {
        for base in [model.keep_all(), shrink_first(model)] {
            all.extend(Rule::PORTFOLIO.iter().map(|&rule| (base.clone(), rule)));
        }
    }
    all.extend(starts.into_iter().map(|order| (order, Rule::PLAIN)));
    let share = limits.work / all.len().max(1) as u64;
    let mut found: Vec<Scored> = all
        .into_par_iter()
        .map(|(mut order, rule)| {
            let mut evictor = Evictor::default();
            let stop = |work| work > share || limits.late();
            evictor.run(model, &mut order, budget, rule, &mut Rng::new(limits.seed), &stop);
            let mut search = Search::new(model, budget, order, 0);
            let mut order = search.best.clone();
            let score = search.give_back(&mut order, &|| limits.late());
            (order, score)
        })
        .collect();
    found.sort_by_key(|(_, score)| score.rank(budget));
    found.dedup_by(|a, b| a.1 == b.1 && a.0 == b.0);
    found
}

/// Improve the best of `found` side by side; `enough` is a time no plan can go below.
pub(super) fn improve(model: &Model, budget: u64, found: Vec<Scored>, enough: u64, limits: &Limits) -> Option<Scored> {
    let mut best = found.first()?.clone();
    let done = |best: &Scored| best.1.peak <= budget && best.1.time <= enough;
    let mut searches: Vec<Search> = (0..LANES)
        .map(|lane| {
            let seed = limits.seed.wrapping_mul(1_000_003).wrapping_add(lane as u64);
            Search::new(model, budget, found[lane % found.len()].0.clone(), seed)
        })
        .collect();
    let mut stalled = 0;
    let patience = if model.units.len() > LARGE { 1 } else { PATIENCE };
    let work = limits.work / (LANES * ROUNDS) as u64;
    for round in 0..ROUNDS {
        if limits.late() || stalled >= patience || done(&best) {
            break;
        }
        let heat = 0.1 * (1.0 - round as f64 / ROUNDS as f64);
        searches.par_iter_mut().for_each(|search| search.improve(work, heat, &|| limits.late()));
        let ranks: Vec<_> = searches.iter().enumerate().map(|(lane, s)| (s.score.rank(budget), lane)).collect();
        let (first, last) = (*ranks.iter().min()?, *ranks.iter().max()?);
        stalled += 1;
        if first.0 < best.1.rank(budget) {
            let (old, new) = (best.1, searches[first.1].score);
            // In large graphs rounds are long: a gain that hardly shows is none.
            let hardly = model.units.len() > LARGE
                && old.peak <= budget
                && old.time - new.time < old.time.saturating_sub(enough) / 100;
            best = (searches[first.1].best.clone(), searches[first.1].score);
            if !hardly {
                stalled = 0;
            }
        }
        if round % 2 == 1 {
            searches[last.1].restart(&best.0, best.1);
        }
    }
    Some(best)
}

/// Orders that keep what is best kept at the boundary, for the budget and for smaller ones: what
/// is made again after the boundary needs room beside what is kept.
pub(super) fn closure_starts(model: &Model, budget: u64) -> Vec<Vec<u32>> {
    let Some(boundary) = Boundary::find(model).into_iter().next() else { return Vec::new() };
    let mut orders: Vec<Vec<u32>> = Vec::new();
    let free = budget.saturating_sub(model.resident) as f64;
    let bases = [model.keep_all(), shrink_first(model)];
    for part in [1.0, 0.96, 0.92, 0.87, 0.8, 0.7, 0.55] {
        if let (_, _, Some(cut)) = boundary.solve(model.resident + (free * part) as u64) {
            for base in &bases {
                let order = boundary.order(&cut, base);
                if !orders.contains(&order) {
                    orders.push(order);
                }
            }
        }
    }
    orders
}

/// The least time any plan without offload can take within `budget`.
pub(super) fn least_time(model: &Model, budget: u64) -> u64 {
    let closures = Boundary::find(model).into_iter().map(|b| b.solve(budget).0);
    let extra = closures.chain(ranked(model, budget).first().map(|best| best.0)).max().unwrap_or(0);
    time_of_all(model).saturating_add(extra)
}

/// Every needed op runs once at least, views too.
pub(super) fn time_of_all(model: &Model) -> u64 {
    Sim::default().run(model, &model.keep_all()).time
}
