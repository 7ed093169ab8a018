//! Re-solving a part of an order exactly, with everything else as it is.
//!
//! Some positions of the order are *open*. What is run again there becomes optional, and so does
//! whatever could be run again right before them; everything else runs where it runs. What lives
//! how long follows, and the fastest choice within the budget is a mixed integer program over the
//! sequence of all these runs. x(p): the run at slot p of the sequence takes place (1 where
//! it is fixed). L(s,k): storage s is live between its k-th and its next touch in the sequence.
//!
//! ```text
//! slot       p1        p2        p3        p4        p5
//! s          make      read      read      make?     read
//! live           L(s,0)    L(s,1)    L(s,2)    L(s,3)
//!
//! minimize sum of time(p) x(p)
//! x(p)   <= L(s,k-1)                          slot p is the k-th touch of s and reads it
//! L(s,k) <= L(s,k-1) + x(p)                   slot p is the k-th touch of s, x(p) if it makes it
//! L(s,k-1) + x(p) <= 1                        what is made again was not worth keeping
//! sum of bytes live during p <= budget        for every slot p
//! ```
//!
//! In place: z <= x(p) and z <= 1 - L(read, after) take the bytes off once. Only x has to be
//! integer. These are Checkmate's variables (Jain et al., 2020) on a sequence of slots that follows the
//! order at hand instead of all pairs of units, with the memory of each slot counted exactly; of a window
//! that spans everything the program would be MOCCASIN's (Bartan et al., 2023) on that sequence.
//! Rows where everything could be live without harm are left out, as are storages that no
//! optional run touches.

use rayon::prelude::*;

use super::Options;
use super::auto::{Limits, Scored};
use super::improve::Search;
use super::milp::{Milp, Term, Verdict};
use super::model::{Model, NONE};
use super::moves::Move;
use super::sim::Sim;

const ZERO: Term = Term::Known(0.0);
const ONE: Term = Term::Known(1.0);
/// Costs are scaled so that what is optional now costs this much.
const COST: f64 = 1e3;
/// Runs offered per open position at most.
const OFFERS: usize = 12;

/// One run in the sequence.
#[derive(Clone, Copy)]
struct Slot {
    unit: u32,
    optional: bool,
    /// The run is in the order at hand.
    there: bool,
}

/// What happened up to a position of an order.
struct Past<'a, 'm> {
    model: &'a Model<'m>,
    ran: Vec<bool>,
    /// Where each item was touched last.
    touched: Vec<usize>,
}

impl<'a, 'm> Past<'a, 'm> {
    fn new(model: &'a Model<'m>) -> Self {
        Self { model, ran: vec![false; model.units.len()], touched: vec![0; model.items.len()] }
    }

    /// Whether running a unit would be a repetition that could be left out.
    fn repeats(&self, u: u32) -> bool {
        self.ran[u as usize] && self.model.units[u as usize].replayable
    }

    fn run(&mut self, u: u32, at: usize) {
        let unit = &self.model.units[u as usize];
        self.ran[u as usize] = true;
        unit.reads.iter().chain(&unit.writes).for_each(|&s| self.touched[s as usize] = at);
    }

    /// Add to `cluster` up to [`OFFERS`] units that could run again right before `u` runs at `at`:
    /// what makes what it reads, and what that is made from, each in less time than `dearest`.
    fn offer(&self, u: u32, at: usize, dearest: u64, cluster: &mut Vec<u32>) {
        let most = cluster.len() + OFFERS;
        let mut queue: Vec<u32> = vec![u];
        queue.extend(cluster.iter().copied());
        let mut next = 0;
        while let Some(&v) = queue.get(next) {
            next += 1;
            for &s in &self.model.units[v as usize].reads {
                let maker = self.model.items[s as usize].maker;
                if maker == NONE || !self.repeats(maker) || queue.contains(&maker) || cluster.len() >= most {
                    continue;
                }
                // What was touched just now is there anyway.
                let near = self.touched[s as usize] + 2 >= at;
                if !near && self.model.units[maker as usize].time < dearest {
                    cluster.push(maker);
                    queue.push(maker);
                }
            }
        }
    }
}

/// The sequence for an order. Nothing that takes the time `dearest` is offered.
fn sequence(model: &Model, order: &[u32], open: &[bool], dearest: u64) -> Vec<Slot> {
    let mut past = Past::new(model);
    let mut slots: Vec<Slot> = Vec::with_capacity(order.len() * 2);
    let mut cluster: Vec<u32> = Vec::new();
    for (i, &u) in order.iter().enumerate() {
        let open = open[i];
        if open && past.repeats(u) {
            cluster.push(u);
            continue;
        }
        let there = cluster.len();
        if open {
            past.offer(u, i, dearest, &mut cluster);
        }
        let mut runs: Vec<(u32, bool)> = cluster.drain(..).enumerate().map(|(k, v)| (v, k < there)).collect();
        // Units stand in a valid order; of two of a kind the one that is there counts.
        runs.sort_by_key(|&(v, there)| (v, !there));
        runs.dedup_by_key(|&mut (v, _)| v);
        slots.extend(runs.into_iter().map(|(unit, there)| Slot { unit, optional: true, there }));
        slots.push(Slot { unit: u, optional: false, there: true });
        past.run(u, i);
    }
    slots
}

/// One storage's touches in the sequence: the slot, and whether it is made there.
type Touches = Vec<(usize, bool)>;

/// The program over a sequence.
struct Program<'a, 'm> {
    model: &'a Model<'m>,
    budget: u64,
    slots: Vec<Slot>,
    touches: Vec<Touches>,
    /// Touched by an optional run.
    free: Vec<bool>,
    milp: Milp,
    /// x per slot.
    runs: Vec<Term>,
    /// L per item and touch.
    live: Vec<Vec<Term>>,
    /// z per slot: the reader's place, the writer's place and the term.
    taken: Vec<Vec<(u32, u32, Term)>>,
}

impl<'a, 'm> Program<'a, 'm> {
    fn new(model: &'a Model<'m>, budget: u64, slots: Vec<Slot>) -> Self {
        let mut touches: Vec<Touches> = vec![Vec::new(); model.items.len()];
        let mut free = vec![false; model.items.len()];
        for (p, slot) in slots.iter().enumerate() {
            let unit = &model.units[slot.unit as usize];
            for (&s, made) in unit.reads.iter().map(|s| (s, false)).chain(unit.writes.iter().map(|s| (s, true))) {
                touches[s as usize].push((p, made));
                free[s as usize] |= slot.optional;
            }
        }
        let now: u64 = slots.iter().filter(|s| s.optional && s.there).map(|s| model.units[s.unit as usize].time).sum();
        let scale = COST / now.max(1) as f64;
        let mut milp = Milp::default();
        let runs = slots
            .iter()
            .map(|slot| match slot.optional {
                true => milp.column(true, model.units[slot.unit as usize].time as f64 * scale + 1e-4),
                false => ONE,
            })
            .collect();
        let (live, taken) = (vec![Vec::new(); model.items.len()], vec![Vec::new(); slots.len()]);
        let mut program = Self { model, budget, slots, touches, free, milp, runs, live, taken };
        program.lives();
        program.takeovers();
        program
    }

    fn lives(&mut self) {
        for s in (0..self.touches.len()).filter(|&s| self.free[s]) {
            let touches = &self.touches[s];
            let mut live = vec![ZERO; touches.len()];
            for k in (0..touches.len().saturating_sub(1)).rev() {
                let (next, made) = touches[k + 1];
                live[k] = match (self.runs[next], made, live[k + 1]) {
                    (Term::Known(_), made, _) => {
                        if made {
                            ZERO
                        } else {
                            ONE
                        }
                    }
                    (_, true, Term::Known(0.0)) => ZERO,
                    _ => self.milp.column(false, 0.0),
                };
            }
            for (k, &(p, made)) in touches.iter().enumerate() {
                let before = if k > 0 { live[k - 1] } else { ZERO };
                let run = self.runs[p];
                if made {
                    self.milp.at_most([(1.0, live[k]), (-1.0, before), (-1.0, run)], 0.0);
                    self.milp.at_most([(1.0, before), (1.0, run)], 1.0);
                } else {
                    self.milp.at_most([(1.0, live[k]), (-1.0, before)], 0.0);
                    self.milp.at_most([(1.0, run), (-1.0, before)], 0.0);
                }
            }
            self.live[s] = live;
        }
    }

    /// The place of slot p among the touches of an item.
    fn place(&self, s: u32, p: usize) -> usize {
        self.touches[s as usize].partition_point(|&(q, _)| q < p)
    }

    /// Whether the life of an item that no optional run touches ends at slot p.
    fn ends(&self, s: u32, p: usize) -> bool {
        self.touches[s as usize].get(self.place(s, p) + 1).is_none_or(|&(_, made)| made)
    }

    /// What pairs of free items can save. Pairs of items that are both fixed are counted with them.
    fn takeovers(&mut self) {
        for p in 0..self.slots.len() {
            let unit = &self.model.units[self.slots[p].unit as usize];
            let mut all: Vec<(u32, u32, Term)> = Vec::new();
            for &(r, w) in &unit.pairs {
                let (from, to) = (unit.reads[r as usize], unit.writes[w as usize]);
                let fixed = !self.free[from as usize] && !self.free[to as usize];
                // A buffer that is too large would stay so: count nothing as saved.
                let larger = self.model.items[from as usize].bytes > self.model.items[to as usize].bytes;
                if fixed || larger {
                    continue;
                }
                let after = match self.free[from as usize] {
                    true => self.live[from as usize][self.place(from, p)],
                    false if self.ends(from, p) => ZERO,
                    false => ONE,
                };
                let z = match (self.runs[p], after) {
                    (_, Term::Known(after)) if after > 0.5 => continue,
                    (run, Term::Known(_)) if unit.pairs.len() == 1 => run,
                    (run, after) => {
                        let z = self.milp.column(false, 0.0);
                        self.milp.at_most([(1.0, z), (-1.0, run)], 0.0);
                        self.milp.at_most([(1.0, z), (1.0, after)], 1.0);
                        z
                    }
                };
                all.push((r, w, z));
            }
            for &(r, w, _) in if all.len() > 1 { &all[..] } else { &[] } {
                self.milp.at_most(all.iter().filter(|o| o.1 == w).map(|o| (1.0, o.2)), 1.0);
                self.milp.at_most(all.iter().filter(|o| o.0 == r).map(|o| (1.0, o.2)), 1.0);
            }
            self.taken[p] = all;
        }
    }

    /// Bytes during each fixed slot of everything that no optional run touches, workspaces included;
    /// between them for optional slots.
    fn base(&self) -> Vec<u64> {
        let model = self.model;
        let mut bytes = vec![0u64; model.items.len()];
        let mut now = model.resident;
        let mut base = Vec::with_capacity(self.slots.len());
        for (p, slot) in self.slots.iter().enumerate() {
            if slot.optional {
                base.push(now);
                continue;
            }
            let unit = &model.units[slot.unit as usize];
            let (mut gone, mut given) = (0u64, 0u64);
            for &(r, w) in &unit.pairs {
                let (from, to) = (unit.reads[r as usize], unit.writes[w as usize]);
                let fixed = !self.free[from as usize] && !self.free[to as usize];
                if fixed && gone & (1 << r.min(63)) == 0 && given & (1 << w) == 0 && self.ends(from, p) {
                    let grown = bytes[from as usize].max(model.items[to as usize].bytes);
                    now += grown - bytes[from as usize];
                    bytes[to as usize] = grown;
                    gone |= 1 << r.min(63);
                    given |= 1 << w;
                }
            }
            for (w, &s) in unit.writes.iter().enumerate() {
                if !self.free[s as usize] && given & (1 << w.min(63)) == 0 {
                    bytes[s as usize] = model.items[s as usize].bytes;
                    now += bytes[s as usize];
                }
            }
            base.push(now + unit.workspace);
            for (r, &s) in unit.reads.iter().enumerate() {
                if !self.free[s as usize] && gone & (1 << r.min(63)) == 0 && self.ends(s, p) {
                    now -= bytes[s as usize];
                }
            }
            for &s in unit.writes.iter().filter(|&&s| !self.free[s as usize] && self.ends(s, p)) {
                now -= bytes[s as usize];
            }
        }
        base
    }

    /// The budget at every slot.
    fn memory(&mut self) {
        let model = self.model;
        let base = self.base();
        let scale = 1.0 / self.budget.max(1) as f64;
        // L of each free item at the slot at hand; its next touch.
        let mut current: Vec<Term> = vec![ZERO; model.items.len()];
        let mut place = vec![0usize; model.items.len()];
        let free: Vec<u32> = (0..model.items.len() as u32).filter(|&s| self.free[s as usize]).collect();
        // Fixed slots in a row that touch nothing free differ in their base alone.
        let mut quiet: Option<u64> = None;
        for p in 0..=self.slots.len() {
            let touched: Vec<(u32, bool)> = match self.slots.get(p) {
                Some(slot) => {
                    let unit = &model.units[slot.unit as usize];
                    let reads = unit.reads.iter().map(|&s| (s, false));
                    reads.chain(unit.writes.iter().map(|&s| (s, true))).filter(|t| self.free[t.0 as usize]).collect()
                }
                None => Vec::new(),
            };
            if p < self.slots.len() && touched.is_empty() {
                quiet = quiet.max(Some(base[p]));
                continue;
            }
            if let Some(base) = quiet.take() {
                self.row(&free, &current, &[], base, scale);
            }
            let Some(slot) = self.slots.get(p).copied() else { break };
            let unit = &model.units[slot.unit as usize];
            let mut extra: Vec<(f64, Term)> = Vec::new();
            for &(s, _) in touched.iter().filter(|t| t.1) {
                extra.push((model.items[s as usize].bytes as f64, self.runs[p]));
            }
            for &(r, _, z) in &self.taken[p] {
                extra.push((-(model.items[unit.reads[r as usize] as usize].bytes as f64), z));
            }
            if slot.optional {
                extra.push((unit.workspace as f64, self.runs[p]));
            }
            self.row(&free, &current, &extra, base[p], scale);
            for &(s, _) in &touched {
                current[s as usize] = self.live[s as usize][place[s as usize]];
                place[s as usize] += 1;
            }
        }
    }

    fn row(&mut self, free: &[u32], current: &[Term], extra: &[(f64, Term)], base: u64, scale: f64) {
        let bytes = |s: u32| self.model.items[s as usize].bytes as f64;
        let row: Vec<(f64, Term)> = free
            .iter()
            .filter(|&&s| !matches!(current[s as usize], Term::Known(x) if x == 0.0))
            .map(|&s| (bytes(s), current[s as usize]))
            .chain(extra.iter().copied())
            .collect();
        let most: f64 = row
            .iter()
            .map(|&(bytes, term)| match term {
                Term::Known(x) => bytes * x,
                Term::Column(_) => bytes.max(0.0),
            })
            .sum();
        let room = self.budget as f64 - base as f64;
        if most > room {
            self.milp.at_most(row.into_iter().map(|(bytes, term)| (bytes * scale, term)), room * scale);
        }
    }
}

/// The order with its open positions re-solved, if that turned out better.
fn resolve(model: &Model, budget: u64, order: &[u32], open: &[bool], options: &Options) -> Option<Vec<u32>> {
    let mut ran = vec![false; model.units.len()];
    let mut now = 0u64;
    for (i, &u) in order.iter().enumerate() {
        if std::mem::replace(&mut ran[u as usize], true) && open[i] {
            now = now.saturating_add(model.units[u as usize].time);
        }
    }
    let slots = sequence(model, order, open, now);
    if !slots.iter().any(|s| s.optional) {
        return None;
    }
    let mut program = Program::new(model, budget, slots);
    program.memory();
    let Program { slots, runs, mut milp, .. } = program;
    milp.gap = GAP;
    milp.cutoff = Some(COST);
    let answer = milp.solve(options, Some(EFFORT));
    if !matches!(answer.verdict, Verdict::Optimal | Verdict::Feasible) {
        return None;
    }
    let mut order: Vec<u32> =
        slots.iter().zip(&runs).filter(|(_, run)| answer.value(**run) > 0.5).map(|(slot, _)| slot.unit).collect();
    Sim::default().prune(model, &mut order);
    Some(order)
}

/// Windows solved side by side: a constant, so that results do not depend on the number of cores.
const LANES: usize = 2;
/// Optional runs in a window.
const SIZE: usize = 140;
/// Tenths of the time after which no further program is begun.
const MOST: u32 = 3;
/// Passes over the order at most.
const PASSES: usize = 3;
/// Nodes of a program, and the gap that is good enough: what is left is for other windows.
const EFFORT: u64 = 60;
const GAP: f64 = 0.002;
/// Evaluations of an order that a program counts for where nodes are limited.
const NODES: u64 = 400;

/// Re-solve window after window of an order until none gains anything or the limits say so.
pub(super) fn refine(
    model: &Model,
    budget: u64,
    mut best: Scored,
    enough: u64,
    limits: &Limits,
    options: &Options,
) -> Scored {
    let mut programs = options.node_limit.map_or(u64::MAX, |nodes| nodes / NODES);
    // In a large graph the few windows there is time for are a small part of it.
    let off = model.is_large() || !model.moves.has(Move::Windows);
    let fits = best.1.peak <= budget && best.1.time > enough;
    if off || !fits || programs == 0 || limits.spent(MOST) {
        return best;
    }
    // One program must not take all the time there is.
    let options = &Options { time_limit: options.time_limit / 20, ..options.clone() };
    let judge = |mut order: Vec<u32>| {
        let mut search = Search::new(model, budget, order.clone(), 0);
        let score = search.give_back(&mut order, &|| limits.late());
        (order, score)
    };
    for _ in 0..PASSES {
        let before = best.1.time;
        let mut at = 0;
        loop {
            let weights = weights(model, &best.0);
            let total: usize = weights.iter().sum();
            if at >= total || programs == 0 || limits.spent(MOST) || best.1.time <= enough {
                break;
            }
            let lanes: Vec<usize> = (0..LANES).map(|lane| at + lane * SIZE / 2).collect();
            at += LANES * SIZE / 2;
            programs = programs.saturating_sub(LANES as u64);
            let order = &best.0;
            let better: Vec<Scored> = lanes
                .into_par_iter()
                .filter_map(|from| {
                    let mut sum = 0;
                    let inside = |&w: &usize| {
                        sum += w;
                        sum > from && sum <= from + SIZE
                    };
                    let inside: Vec<bool> = weights.iter().map(inside).collect();
                    resolve(model, budget, order, &inside, options).map(judge)
                })
                .collect();
            let better = better.into_iter().min_by_key(|(_, score)| score.rank(budget));
            if let Some(better) = better.filter(|(_, score)| score.rank(budget) < best.1.rank(budget)) {
                best = better;
            }
        }
        if best.1.time >= before || limits.spent(MOST) {
            break;
        }
    }
    best
}

/// How many optional runs each position of the order brings when it is open.
fn weights(model: &Model, order: &[u32]) -> Vec<usize> {
    let mut past = Past::new(model);
    let mut cluster: Vec<u32> = Vec::new();
    let weight = |(i, &u): (usize, &u32)| {
        if past.repeats(u) {
            cluster.push(u);
            return 1;
        }
        let there = cluster.len();
        past.offer(u, i, u64::MAX, &mut cluster);
        past.run(u, i);
        let offered = cluster.len() - there;
        cluster.clear();
        offered
    };
    order.iter().enumerate().map(weight).collect()
}
