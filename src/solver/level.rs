//! Orders in which less is live where much is: what runs there is moved to where less is live.
//!
//! A library writes the gradient of a slice as a copy of the whole with a hole in it, one for each slice in turn: two buffers
//! of the whole size while one step of a recurrence waits for its slice. Where other things pile up from step to step it is
//! far cheaper to take all slices first. No one run of such a chain gains anything by itself, so runs move together: the one where
//! most is live, with what it needs that was made since an earlier link of its chain, and with the small things that are made of
//! what these read, so that what they read can go. Likewise what waits there untouched, and is large, may be used up before.

use super::model::{Model, NONE};
use super::sim::Sim;

/// Stretches of the order; in each of them the place where most is live is looked at.
const STRETCHES: usize = 32;
/// Times that all of them are looked at, at most.
const PASSES: usize = 4;
/// Links of a chain that are followed back at most.
const LINKS: usize = 1 << 10;
/// Items waiting at a place that are looked at.
const WAITING: usize = 4;
/// Units that are moved along to free one item at most.
const ALONG: usize = 16;

/// `base`, in which every unit runs once, with less live where much is, by `model`: it may count bytes of some items only.
pub(super) fn level(model: &Model, base: &[u32]) -> Vec<u32> {
    let mut it = Level::new(model, base);
    for _ in 0..PASSES {
        let mut better = false;
        for stretch in 0..STRETCHES {
            let size = base.len().div_ceil(STRETCHES);
            let from = stretch * size;
            let within = from.min(base.len())..(from + size).min(base.len());
            let Some(at) = within.max_by_key(|&at| (it.live[at], std::cmp::Reverse(at))) else { break };
            // Where there is room no gain is worth a look.
            if it.live[at] - model.resident > (it.peak - model.resident) / 2 {
                better |= it.lower(at);
            }
        }
        if !better {
            break;
        }
    }
    it.order
}

struct Level<'a, 'm> {
    model: &'a Model<'m>,
    readers: Vec<Vec<u32>>,
    order: Vec<u32>,
    place: Vec<usize>,
    /// Bytes live at each place.
    live: Vec<u64>,
    /// The largest of them, and how much is live where much is.
    peak: u64,
    load: f64,
    sim: Sim,
}

impl<'a, 'm> Level<'a, 'm> {
    fn new(model: &'a Model<'m>, base: &[u32]) -> Self {
        let mut readers: Vec<Vec<u32>> = vec![Vec::new(); model.items.len()];
        for (u, unit) in model.units.iter().enumerate() {
            unit.reads.iter().for_each(|&s| readers[s as usize].push(u as u32));
        }
        let (place, live, sim) = (vec![0; model.units.len()], Vec::new(), Sim::default());
        let mut it = Self { model, readers, order: Vec::new(), place, live, peak: u64::MAX, load: f64::MAX, sim };
        it.take(base.to_vec());
        it
    }

    /// Go on with an order if less is live in it.
    fn take(&mut self, order: Vec<u32>) -> bool {
        let live = self.sim.profile(self.model, &order);
        let peak = live.iter().copied().max().unwrap_or(0);
        // Twice as much is worse than for twice as long.
        let size = order.len().div_ceil(4 * STRETCHES);
        let most = |live: &[u64]| live.iter().copied().max().unwrap_or(0) as f64;
        let load = live.chunks(size).map(|live| most(live).powi(4)).sum();
        if peak > self.peak || load >= self.load {
            return false;
        }
        order.iter().enumerate().for_each(|(place, &u)| self.place[u as usize] = place);
        (self.order, self.live, self.peak, self.load) = (order, live, peak, load);
        true
    }

    /// Move the run at a place, or what uses up what waits there, to where that helps. Whether it does.
    fn lower(&mut self, at: usize) -> bool {
        let model = self.model;
        // Units that join storages or have effects are never passed: see `reorder`.
        let is_bar = |place: &usize| !model.units[self.order[*place] as usize].replayable;
        if is_bar(&at) {
            return false;
        }
        let first = (0..at).rfind(is_bar).map_or(0, |bar| bar + 1);
        let end = (at..self.order.len()).find(is_bar).unwrap_or(self.order.len());
        let mut tried: Vec<(usize, Vec<u32>)> = Vec::new();
        // An earlier link of the chain of the largest that is read, twice as far each time.
        let (mut unit, mut links, mut next) = (self.order[at], 0, 1);
        while links < LINKS {
            let made = model.units[unit as usize].reads.iter().filter(|&&s| model.items[s as usize].maker != NONE);
            let Some(&large) = made.max_by_key(|&&s| model.items[s as usize].bytes) else { break };
            let (maker, bytes) = (model.items[large as usize].maker, model.items[large as usize].bytes);
            if self.place[maker as usize] < first || bytes == 0 {
                break;
            }
            (unit, links) = (maker, links + 1);
            if links == next {
                next *= 2;
                tried.push((self.place[maker as usize] + 1, vec![self.order[at]]));
            }
        }
        if links > 0 && links * 2 != next {
            tried.push((self.place[unit as usize] + 1, vec![self.order[at]]));
        }
        // What waits here, since it was last touched.
        let mut waiting: Vec<(u64, usize, Vec<u32>)> = Vec::new();
        for (s, item) in model.items.iter().enumerate().filter(|(_, item)| item.bytes > 0 && item.maker != NONE) {
            let made = self.place[item.maker as usize];
            if made < first || made >= at {
                continue;
            }
            let places = |r: &u32| self.place[*r as usize];
            let last = self.readers[s].iter().map(places).filter(|&place| place <= at).max().unwrap_or(made);
            let later: Vec<u32> = self.readers[s].iter().copied().filter(|r| places(r) > at).collect();
            if last < at && !later.is_empty() && later.iter().all(|r| places(r) < end) {
                waiting.push((item.bytes, last + 1, later));
            }
        }
        waiting.sort_by_key(|&(bytes, to, _)| (std::cmp::Reverse(bytes), to));
        tried.extend(waiting.into_iter().take(WAITING).map(|(_, to, later)| (to, later)));
        let mut better = false;
        for (to, units) in tried {
            let places: Vec<usize> = units.iter().map(|&u| self.place[u as usize]).collect();
            // What was taken meanwhile moved them.
            if places.iter().any(|&place| place < to) {
                continue;
            }
            let order = self.moved(to, end, &places);
            better |= self.take(order);
        }
        better
    }

    /// The order with the runs at some places moved to before `to`.
    fn moved(&self, to: usize, end: usize, places: &[usize]) -> Vec<u32> {
        let (model, order) = (self.model, &self.order);
        let mut moves = vec![false; order.len()];
        let mut queue: Vec<usize> = Vec::new();
        places.iter().for_each(|&place| self.along(to, place, &mut moves, &mut queue));
        // What else reads what these read goes along, where it is small.
        let mut next = 0;
        while let Some(&place) = queue.get(next) {
            next += 1;
            for &s in &model.units[order[place] as usize].reads {
                for &other in &self.readers[s as usize] {
                    let there = self.place[other as usize];
                    let made = model.units[other as usize].writes.iter().map(|&s| model.items[s as usize].bytes);
                    if there < to
                        || there >= end
                        || moves[there]
                        || made.sum::<u64>() * 2 > model.items[s as usize].bytes
                    {
                        continue;
                    }
                    let before = queue.len();
                    self.along(to, there, &mut moves, &mut queue);
                    if queue.len() - before > ALONG {
                        queue.drain(before..).for_each(|place| moves[place] = false);
                    }
                }
            }
        }
        let mut moved = order[..to].to_vec();
        let (here, there): (Vec<_>, Vec<_>) = (to..order.len()).partition(|&place| moves[place]);
        moved.extend(here.into_iter().chain(there).map(|place| order[place]));
        moved
    }

    /// Mark a run, and whatever runs since `to` that it needs.
    fn along(&self, to: usize, place: usize, moves: &mut [bool], queue: &mut Vec<usize>) {
        if std::mem::replace(&mut moves[place], true) {
            return;
        }
        let mut next = queue.len();
        queue.push(place);
        while let Some(&place) = queue.get(next) {
            next += 1;
            for &s in &self.model.units[self.order[place] as usize].reads {
                let maker = self.model.items[s as usize].maker;
                if maker != NONE && self.place[maker as usize] >= to {
                    let place = self.place[maker as usize];
                    if !std::mem::replace(&mut moves[place], true) {
                        queue.push(place);
                    }
                }
            }
        }
    }
}

#[cfg(all(test, feature = "fuzzing"))]
mod tests {
    use super::*;
    use crate::fuzz::{Shape, both_ways, problem};
    use crate::plan::{Lowering, lower, simulate};

    fn peak(model: &Model, order: &[u32]) -> u64 {
        Sim::default().run(model, order).peak
    }

    #[test]
    fn orders_are_legal_and_never_hold_more_at_once() {
        let (mut moved, mut lower_peaks) = (0, 0);
        for seed in 0..300 {
            let problem = problem(seed, Shape { once: seed % 3 > 0, ..Shape::all(10 + seed as usize % 60) });
            let model = Model::new(&problem, true);
            let base = model.keep_all();
            let order = level(&model, &base);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, base);
            for (place, &u) in order.iter().enumerate().filter(|&(_, &u)| !model.units[u as usize].replayable) {
                assert_eq!(place, u as usize, "seed {seed}");
            }
            simulate(&problem, &lower(&problem.graph, &model.expand(&order), Lowering::default())).unwrap();
            assert!(peak(&model, &order) <= peak(&model, &base), "seed {seed}");
            moved += usize::from(order != base);
            lower_peaks += usize::from(peak(&model, &order) < peak(&model, &base));
        }
        assert!(moved > 100 && lower_peaks > 30, "{moved} moved, {lower_peaks} lower");
    }

    #[test]
    fn slices_are_taken_before_a_recurrence_that_waits_for_them() {
        for steps in [8, 16, 40] {
            let problem = both_ways(steps);
            let model = Model::new(&problem, true);
            let late = crate::solver::reorder::late_part(&model);
            let base = crate::solver::reorder::branch_by_branch(&model);
            let (before, after) = (peak(&late, &base), peak(&late, &level(&late, &base)));
            // One of the two buffers of a whole sequence that a slice takes at the end of a recurrence.
            let sequence = problem.graph.values().values().map(|value| value.bytes.get()).max().unwrap() / 2;
            assert!(after + sequence / 2 < before, "{steps} steps: {after} of {before}, a sequence is {sequence}");
        }
    }
}
