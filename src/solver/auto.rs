//! The search behind every heuristic solver: start orders, eviction, improvement, best of all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::Options;
use super::bound::Boundary;
use super::evict::{Evictor, Rule};
use super::improve::Search;
use super::level::level;
use super::model::Model;
use super::moves::Move;
use super::progress::Watch;
use super::recut::{Late, WAYS, recut};
use super::reorder::{branch_by_branch, late_part, shrink_first, sink};
use super::rng::Rng;
use super::sim::{Score, Sim};

/// Orders improved side by side: a constant, so that results do not depend on the number of cores.
const LANES: usize = 4;
/// Rounds of improvement; between them the lanes exchange their best.
const ROUNDS: usize = 10;
/// Rounds without a gain after which the search ends.
const PATIENCE: usize = 3;
/// Orders tried at a time in large graphs.
const FEW: usize = 4;
/// Hundredths of the room to keep something in, and pieces in which the rest is made again, for orders to begin with.
const GRADED: [(u64, u64); 6] = [(94, 16), (92, 24), (98, 8), (96, 12), (90, 32), (100, 6)];
/// The same where less waits after the loss.
const LATE: [(u64, u64); 2] = [(75, 32), (90, 32)];
/// Positions evaluated by a whole search when no node limit is given: about two seconds on two
/// cores, however large the graph.
const WORK: u64 = 130_000_000;

/// An order and what it comes to.
pub(super) type Scored = (Vec<u32>, Score);

/// When a search must end.
pub(super) struct Limits {
    pub watch: Arc<Watch>,
    /// When this part of the solve began, and how long it may take.
    from: Instant,
    limit: Duration,
    deadline: Option<Instant>,
    /// Without a plan by then the rest of the time is for the search for a budget that suffices.
    reserved: Option<Instant>,
    explaining: AtomicBool,
    work: u64,
    pub seed: u64,
}

impl Limits {
    pub fn new(model: &Model, options: &Options, watch: Watch) -> Self {
        // A node is one evaluation of a whole order.
        let nodes = options.node_limit.map(|nodes| nodes.saturating_mul(model.units.len() as u64));
        // A limit too far away to be an instant is none.
        let deadline = watch.started().checked_add(options.time_limit);
        let limit = options.time_limit;
        let reserved = watch.started().checked_add(options.time_limit / 4 * 3).filter(|_| options.search_minimum);
        let (explaining, work) = (AtomicBool::new(false), nodes.unwrap_or(WORK).min(WORK.saturating_mul(1000)));
        let (from, watch) = (watch.started(), Arc::new(watch));
        Self { watch, from, limit, deadline, reserved, explaining, work, seed: options.seed }
    }

    /// Limits for one of `n` equal parts of what is left.
    pub fn part(&self, n: u32) -> Self {
        let from = Instant::now();
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(from) / n.max(1));
        let deadline = left.and_then(|left| from.checked_add(left)).or(self.deadline);
        Self {
            watch: self.watch.clone(),
            from,
            limit: left.unwrap_or(Duration::MAX),
            deadline,
            reserved: self.reserved,
            explaining: AtomicBool::new(self.explaining.load(Ordering::Relaxed)),
            work: self.work / u64::from(n.max(1)),
            seed: self.seed,
        }
    }

    /// Limits for one of `n` equal parts of the time that is left.
    pub fn hurried(&self, n: u32) -> Self {
        Self { work: self.work, ..self.part(n) }
    }

    /// The same limits for another search, with other random numbers.
    pub fn reseeded(&self, again: u64) -> Self {
        Self {
            watch: self.watch.clone(),
            explaining: AtomicBool::new(false),
            seed: self.seed.wrapping_add(again << 32),
            ..*self
        }
    }

    /// These limits for a search over a part of the problem: what it finds is no plan.
    pub fn of_a_part(self) -> Self {
        Self { watch: Arc::new(self.watch.unheard()), ..self }
    }

    /// Positions that a whole search may evaluate.
    pub fn positions(&self) -> u64 {
        self.work
    }

    /// Whether so much of the time is gone that extras should be left out.
    pub fn pressed(&self) -> bool {
        self.spent(1) || self.watch.cancelled()
    }

    /// Whether so many tenths of the time are gone.
    pub fn spent(&self, tenths: u32) -> bool {
        self.from.elapsed() / tenths.max(1) >= self.limit / 10
    }

    /// Whether the search must end: its time is over, or its caller cancelled it.
    pub fn late(&self) -> bool {
        let past = |instant: Option<Instant>| instant.is_some_and(|instant| Instant::now() >= instant);
        let given_up = || past(self.reserved) && !self.watch.has_plan() && !self.explaining.load(Ordering::Relaxed);
        self.watch.cancelled() || past(self.deadline) || given_up()
    }

    /// No plan was found: what is left of the time goes into saying why.
    pub fn explain(&self) {
        self.explaining.store(true, Ordering::Relaxed);
        self.watch.phase("explain");
    }

    /// The time that is left.
    pub fn left(&self) -> Duration {
        match (self.watch.cancelled(), self.deadline) {
            (true, _) => Duration::ZERO,
            (false, None) => Duration::MAX,
            (false, Some(deadline)) => deadline.saturating_duration_since(Instant::now()),
        }
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
        let bases = bases(model);
        let rules = if model.moves.has(Move::Rules) { Rule::PORTFOLIO.len() } else { 1 };
        let rules = &Rule::PORTFOLIO[..rules];
        all.extend(rules.iter().flat_map(|&rule| bases.iter().map(move |base| (base.clone(), rule))));
    }
    all.extend(starts.into_iter().map(|order| (order, Rule::PLAIN)));
    let share = limits.work / all.len().max(1) as u64;
    let from = |(order, rule): &(Vec<u32>, Rule)| {
        let mut order = order.clone();
        let mut evictor = Evictor::default();
        let stop = |work| work > share || limits.late();
        evictor.run(model, &mut order, budget, *rule, &mut Rng::new(limits.seed), &stop);
        let mut search = Search::new(model, budget, order, 0);
        let mut order = search.best.clone();
        let score = search.give_back(&mut order, &|| limits.late());
        limits.watch.found(score.peak, score.time);
        (order, score)
    };
    let mut found: Vec<Scored> = Vec::new();
    // In large graphs not all can be tried.
    for some in all.chunks(if model.is_large() { FEW } else { usize::MAX }) {
        found.par_extend(some.par_iter().map(from));
        if limits.pressed() && found.iter().any(|(_, score)| score.peak <= budget) {
            break;
        }
    }
    best_first(&mut found, budget);
    found
}

/// Sort orders, and leave one of equal ones.
pub(super) fn best_first(found: &mut Vec<Scored>, budget: u64) {
    found.sort_by_key(|(_, score)| score.rank(budget));
    found.dedup_by(|a, b| a.1 == b.1 && a.0 == b.0);
}

/// Improve the best of `found` side by side: what came of each, the best first. `enough` is a time
/// no plan can go below.
pub(super) fn improve(model: &Model, budget: u64, found: Vec<Scored>, enough: u64, limits: &Limits) -> Vec<Scored> {
    let Some(mut best) = found.first().cloned() else { return Vec::new() };
    let done = |best: &Scored| best.1.peak <= budget && best.1.time <= enough;
    let mut searches: Vec<Search> = (0..LANES)
        .map(|lane| {
            let seed = limits.seed.wrapping_mul(1_000_003).wrapping_add(lane as u64);
            Search::new(model, budget, found[lane % found.len()].0.clone(), seed)
        })
        .collect();
    let mut stalled = 0;
    let patience = if model.is_large() { 1 } else { PATIENCE };
    let work = limits.work / (LANES * ROUNDS) as u64;
    for round in 0..ROUNDS {
        if limits.late() || stalled >= patience || done(&best) {
            break;
        }
        let heat = 0.1 * (1.0 - round as f64 / ROUNDS as f64);
        searches.par_iter_mut().for_each(|search| search.improve(work, heat, &|| limits.late()));
        let ranks: Vec<_> = searches.iter().enumerate().map(|(lane, s)| (s.score.rank(budget), lane)).collect();
        let (Some(&first), Some(&last)) = (ranks.iter().min(), ranks.iter().max()) else { break };
        stalled += 1;
        if first.0 < best.1.rank(budget) {
            let (old, new) = (best.1, searches[first.1].score);
            // In large graphs rounds are long: a gain that hardly shows is none.
            let hardly =
                model.is_large() && old.peak <= budget && old.time - new.time < old.time.saturating_sub(enough) / 100;
            best = (searches[first.1].best.clone(), searches[first.1].score);
            limits.watch.found(best.1.peak, best.1.time);
            if !hardly {
                stalled = 0;
            }
        }
        if round % 2 == 1 {
            searches[last.1].restart(&best.0, best.1);
        }
    }
    let mut all: Vec<Scored> = searches.into_iter().map(|search| (search.best, search.score)).collect();
    all.push(best);
    best_first(&mut all, budget);
    all
}

/// Orders of everything once.
pub(super) fn bases(model: &Model) -> Vec<Vec<u32>> {
    let branches = branches(model);
    // In large graphs not all can be tried.
    if model.is_large()
        && let Some((order, _)) = branches
    {
        return vec![order.clone()];
    }
    let mut bases = plain_bases(model);
    bases.extend(branches.map(|(order, _)| order.clone()));
    bases
}

fn plain_bases(model: &Model) -> Vec<Vec<u32>> {
    let mut bases = vec![model.keep_all()];
    if model.moves.has(Move::ShrinkFirst) {
        bases.push(shrink_first(model));
    }
    bases
}

/// An order that finishes one branch before it begins with the next, where branches are recorded in turns: where a tenth
/// less of what is made after the boundary is live at once than in the graph's order. Then it is [levelled](level). What is live
/// at once comes with it.
pub(super) fn branches<'a>(model: &'a Model) -> Option<&'a (Vec<u32>, u64)> {
    model.branches.get_or_init(|| in_branches(model)).as_ref()
}

fn in_branches(model: &Model) -> Option<(Vec<u32>, u64)> {
    if !model.moves.has(Move::Branches) {
        return None;
    }
    let (late, mut sim) = (late_part(model), Sim::default());
    let mut peak = |order: &[u32]| sim.run(&late, order).peak - model.resident;
    let least = plain_bases(model).iter().map(|base| peak(base)).min()?;
    let order = branch_by_branch(model);
    if peak(&order) > least / 10 * 9 {
        return None;
    }
    let order = level(&late, &order);
    let waiting = peak(&order);
    Some((order, waiting))
}

/// Orders that keep what is best kept at the boundary, for the budget and for smaller ones: what
/// is made again after the boundary needs room beside what is kept.
pub(super) fn closure_starts(model: &Model, budget: u64) -> Vec<Vec<u32>> {
    if !model.moves.has(Move::Closure) {
        return Vec::new();
    }
    let Some(boundary) = Boundary::find(model).into_iter().next() else { return Vec::new() };
    let mut orders: Vec<Vec<u32>> = Vec::new();
    let free = budget.saturating_sub(model.resident) as f64;
    let bases = bases(model);
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

/// Orders that keep what is best kept at the strongest instant, for the budget and for somewhat smaller ones; of equals what
/// is read first after it.
pub(super) fn graded_starts(model: &Model, budget: u64, ranked: &[(u64, u32)]) -> Vec<Vec<u32>> {
    if !model.moves.has(Move::Closure) {
        return Vec::new();
    }
    let Some(&(_, unit)) = ranked.first().filter(|(value, _)| *value > 0) else { return Vec::new() };
    let boundary = Boundary::during(model, unit as usize);
    let bases = bases(model);
    let parts: Vec<(u64, u64, &Vec<u32>)> =
        GRADED.into_iter().flat_map(|(part, pieces)| bases.iter().map(move |base| (part, pieces, base))).collect();
    let order = |(part, pieces, base): (u64, u64, &Vec<u32>)| boundary.graded_order(budget, part, pieces, base);
    parts.into_par_iter().filter_map(order).collect()
}

/// Orders of branches recorded in turns in which less waits after the loss, in one way after another, and in which what is best kept at the
/// strongest instant is kept.
pub(super) fn late_starts<'a>(
    model: &'a Model,
    budget: u64,
    ranked: &[(u64, u32)],
) -> impl Iterator<Item = Vec<Vec<u32>>> + use<'a> {
    let branches = branches(model).filter(|_| model.moves.has(Move::Recut));
    let strongest = ranked.first().filter(|(value, _)| *value > 0).map(|&(_, unit)| unit as usize);
    let boundary = strongest.map(|unit| Boundary::during(model, unit));
    let late = branches.map(|(base, _)| (late_part(model), sink(model, base)));
    let starts = move |way: usize| {
        let (boundary, (late, base)) = (boundary.as_ref()?, late.as_ref()?);
        let base = Late::new(late, base).order(budget, way)?;
        let order = |&(part, pieces): &(u64, u64)| boundary.graded_order(budget, part, pieces, &base);
        Some(LATE.par_iter().filter_map(order).collect())
    };
    (0..Late::WAYS).filter_map(starts)
}

/// Orders in which what is live at the peak is decided anew, peak after peak, in several ways from each base.
pub(super) fn recut_starts(model: &Model, budget: u64, limits: &Limits) -> Vec<Vec<u32>> {
    if !model.moves.has(Move::Recut) {
        return Vec::new();
    }
    let bases = bases(model);
    let all: Vec<(usize, &Vec<u32>)> =
        (0..WAYS.len()).flat_map(|way| bases.iter().map(move |base| (way, base))).collect();
    all.into_par_iter()
        .map(|(way, base)| recut(model, base, budget, way, &|| limits.late() || limits.spent(2)))
        .collect()
}

/// The least time any plan without offload can take within `budget`; [`u64::MAX`] where none fits.
/// `ranked` are the [instants](super::bound::ranked) for that budget.
pub(super) fn least_time(model: &Model, budget: u64, ranked: &[(u64, u32)]) -> u64 {
    let closures = Boundary::find(model).into_iter().map(|b| b.solve(budget).0);
    let extra = closures.chain(ranked.first().map(|best| best.0)).max().unwrap_or(0);
    time_of_all(model).saturating_add(extra)
}

/// Every needed op runs once at least, views too.
pub(super) fn time_of_all(model: &Model) -> u64 {
    Sim::default().run(model, &model.keep_all()).time
}
