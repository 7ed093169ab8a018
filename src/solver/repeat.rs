//! Repeated blocks: found once, solved once.
//!
//! Deep models repeat a block, and recurrent ones a step; so do their graphs, in the forward part
//! and again in the backward. After the idea of HiRemate (Gusak et al., 2025), which solves equal
//! parts once, but on whole orders instead of options:
//!
//! 1. units that look alike (kind, sizes, what makes their inputs) get one number;
//! 2. stretches of the order in which the numbers have a period are *runs* of *copies*;
//! 3. copies of different runs that read from one another belong to one *layer*: copy i of the
//!    forward and copy c - i of the backward, or the like; runs so linked are a *group*;
//! 4. the graph with most layers of each group taken out is solved, for a budget with the same
//!    bytes for each layer;
//! 5. what its order does at a unit (what it runs again before it, how far it shifted it) is done at
//!    that unit in all layers.
//!
//! ```text
//! all     head 0 1 2 3 4 5 6 7 8 9 tail 9' 8' 7' 6' 5' 4' 3' 2' 1' 0'
//! small   head 0 1 .         . 8 9 tail 9' 8' .             . 1' 0'
//! ```
//!
//! Nothing depends on the repetition being perfect: an order is legal where every unit runs after
//! what makes its inputs, which step 5 sees to, and the result is judged by exact simulation like
//! any other. A graph without repeats has no runs, and nothing is done.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use super::auto::{Limits, Scored, closure_starts, construct, improve};
use super::model::{Item, Model, NONE, Unit, View};
use super::sim::Sim;

/// Units in a row that must be equal for a period to be noticed.
const WINDOW: usize = 8;
/// Periods tried.
const PERIODS: usize = 32;
/// Fewer copies than this are no repetition.
const COPIES: usize = 4;
/// Layers of each group that stay at least.
const LAYERS: usize = 6;
/// Units the small graph should have.
const UNITS: usize = 1500;
/// Times the small graph is solved: what its order comes to in the whole graph corrects the budget.
const ROUNDS: u32 = 3;

/// A stretch of units that repeats.
#[derive(Clone, Debug)]
struct Run {
    start: usize,
    period: usize,
    copies: usize,
    group: usize,
    /// The layer of its first copy, and by how much layers go up from copy to copy: 1 or -1.
    first: i64,
    step: i64,
}

impl Run {
    fn layer(&self, copy: usize) -> i64 {
        self.first + self.step * copy as i64
    }

    fn layers(&self) -> Range<i64> {
        let (a, b) = (self.layer(0), self.layer(self.copies - 1));
        a.min(b)..a.max(b) + 1
    }

    /// The unit at an offset in the copy of a layer.
    fn unit(&self, layer: i64, offset: usize) -> Option<usize> {
        let copy = usize::try_from((layer - self.first) * self.step).ok().filter(|&copy| copy < self.copies)?;
        Some(self.start + copy * self.period + offset)
    }
}

/// The layers of a group that all of its runs have, and those that are taken out.
#[derive(Clone, Debug)]
struct Group {
    common: Range<i64>,
    out: Range<i64>,
}

/// What repeats in a graph.
struct Repeats<'a, 'm> {
    model: &'a Model<'m>,
    runs: Vec<Run>,
    groups: Vec<Group>,
    /// The run of each unit, or [`NONE`].
    run_of: Vec<u32>,
}

/// The graph with layers taken out.
struct Small<'m> {
    model: Model<'m>,
    /// The units that stayed.
    units: Vec<u32>,
    /// Where they are in the small graph, [`NONE`] for those taken out.
    place: Vec<u32>,
    /// Part of the bytes of layers that stayed.
    part: f64,
}

/// Which layer a layer that is not in the small graph behaves like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pattern {
    /// Neighbours like neighbours: the inner layers over and over.
    Tiled,
    /// Each layer as many times as fits, one beside the other.
    Stretched,
}

/// Orders for the whole graph from orders of the small one; empty where nothing repeats or too
/// little to be worth it.
pub(super) fn orders(model: &Model, budget: u64, limits: &Limits) -> Vec<Vec<u32>> {
    let Some(repeats) = Repeats::find(model) else { return Vec::new() };
    let Some(small) = repeats.small() else { return Vec::new() };
    let mut sim = Sim::default();
    let excess = model.peak_of_keep_all().saturating_sub(budget) as f64;
    let mut room = small.model.peak_of_keep_all() as f64 - excess * small.part;
    let mut orders: Vec<Vec<u32>> = Vec::new();
    let mut known: Vec<Vec<u32>> = Vec::new();
    for round in 0..ROUNDS {
        let limits = limits.part(ROUNDS + 1 - round);
        let budget_here = room.max(0.0) as u64;
        let mut starts = closure_starts(&small.model, budget_here);
        starts.append(&mut known);
        let found = construct(&small.model, budget_here, starts, true, &limits);
        // The first round is there to correct the budget.
        let best: Option<Scored> = match round {
            0 => found.into_iter().next(),
            _ => improve(&small.model, budget_here, found, 0, &limits).into_iter().next(),
        };
        let Some((order, _)) = best else { break };
        let mut least = u64::MAX;
        for pattern in [Pattern::Tiled, Pattern::Stretched] {
            let spread = repeats.spread(&small, &order, pattern);
            least = least.min(sim.run(model, &spread).peak);
            orders.push(spread);
        }
        known.push(order);
        room += (budget as f64 - least as f64) * small.part;
        if limits.late() {
            break;
        }
    }
    orders
}

impl<'a, 'm> Repeats<'a, 'm> {
    fn find(model: &'a Model<'m>) -> Option<Self> {
        // The end is no part of anything.
        let classes = classes(model);
        let mut runs = runs(&classes[..classes.len() - 1]);
        let mut run_of = vec![NONE; model.units.len()];
        for (r, run) in runs.iter().enumerate() {
            run_of[run.start..run.start + run.period * run.copies].fill(r as u32);
        }
        let links = links(model, &runs, &run_of);
        let groups = group(&mut runs, &links);
        let mut it = Self { model, runs, groups, run_of };
        it.choose();
        it.groups.iter().any(|g| !g.out.is_empty()).then_some(it)
    }

    /// Which layers to take out: in the middle of each group, the same part of each.
    fn choose(&mut self) {
        let weight = |g: usize| -> usize { self.runs.iter().filter(|r| r.group == g).map(|r| r.period).sum() };
        let weights: Vec<usize> = (0..self.groups.len()).map(weight).collect();
        let repeated: usize = self.groups.iter().zip(&weights).map(|(g, w)| w * length(&g.common)).sum();
        let once = self.model.units.len() - repeated.min(self.model.units.len());
        let part = (UNITS.saturating_sub(once) as f64 / repeated.max(1) as f64).min(1.0);
        for group in &mut self.groups {
            let all = length(&group.common);
            let kept = ((all as f64 * part) as usize).clamp(LAYERS, all.max(LAYERS));
            let from = group.common.start + kept.div_ceil(2) as i64;
            group.out = from..from + all.saturating_sub(kept) as i64;
        }
    }

    /// The run, layer and offset of a unit that repeats.
    fn at(&self, unit: usize) -> Option<(&Run, i64, usize)> {
        let run = self.runs.get(self.run_of[unit] as usize)?;
        let (copy, offset) = ((unit - run.start) / run.period, (unit - run.start) % run.period);
        Some((run, run.layer(copy), offset))
    }

    fn is_out(&self, unit: usize) -> bool {
        self.at(unit).is_some_and(|(run, layer, _)| self.groups[run.group].out.contains(&layer))
    }

    /// The unit that takes the place of a maker that was taken out, for a reader that was not.
    fn instead(&self, maker: usize, reader: usize) -> Option<usize> {
        let (run, layer, offset) = self.at(maker)?;
        let (reads, from, _) = self.at(reader)?;
        let out = &self.groups[run.group].out;
        if reads.group != run.group {
            return None;
        }
        // As far from the reader as before, once the gap is closed.
        let gap = out.end - out.start;
        run.unit(if from >= out.end { layer - gap } else { layer + gap }, offset)
    }

    /// The graph without the layers taken out. `None` when that does not make it much smaller, or
    /// not a graph.
    fn small(&self) -> Option<Small<'m>> {
        let model = self.model;
        let n = model.units.len();
        let units: Vec<u32> = (0..n as u32).filter(|&u| !self.is_out(u as usize)).collect();
        if 2 * units.len() > n {
            return None;
        }
        let mut place = vec![NONE; n];
        units.iter().enumerate().for_each(|(i, &u)| place[u as usize] = i as u32);
        // Items of units that stayed, in their order.
        let mut number = vec![NONE; model.items.len()];
        let mut items: Vec<Item> = Vec::new();
        for (s, item) in model.items.iter().enumerate().filter(|(_, i)| i.maker != NONE) {
            if place[item.maker as usize] != NONE {
                number[s] = items.len() as u32;
                items.push(Item { maker: place[item.maker as usize], ..item.clone() });
            }
        }
        let views = Views::new(model);
        let mut small = model.with_items(items);
        // Views are as many as their items; those of others are dropped where they are read.
        let mut view_number = vec![NONE; model.views.len()];
        for (v, view) in model.views.iter().enumerate() {
            if view.item == NONE || number[view.item as usize] != NONE {
                view_number[v] = small.views.len() as u32;
                let reads = view.reads.iter().map(|&b| view_number[b as usize]).filter(|&b| b != NONE).collect();
                let item = if view.item == NONE { NONE } else { number[view.item as usize] };
                small.views.push(View { item, reads, ..view.clone() });
            }
        }
        for &u in &units {
            let unit = &model.units[u as usize];
            let other = |s: u32| -> Option<u32> {
                let maker = model.items[s as usize].maker as usize;
                if place[maker] != NONE {
                    return Some(s);
                }
                let nth = model.units[maker].writes.iter().position(|&w| w == s)?;
                model.units[self.instead(maker, u as usize)?].writes.get(nth).copied()
            };
            let mut reads: Vec<u32> = Vec::with_capacity(unit.reads.len());
            let mut moved = vec![NONE; unit.reads.len()];
            for (k, &s) in unit.reads.iter().enumerate() {
                let Some(s) = other(s).map(|s| number[s as usize]).filter(|&s| s != NONE) else { continue };
                moved[k] = reads.iter().position(|&r| r == s).unwrap_or(reads.len()) as u32;
                if moved[k] as usize == reads.len() {
                    reads.push(s);
                }
            }
            let pairs = unit.pairs.iter().map(|&(r, w)| (moved[r as usize], w)).filter(|p| p.0 != NONE).collect();
            let looks = unit.views.iter().filter_map(|&v| match model.views[v as usize].item {
                NONE => Some(v),
                s => views.nth(other(s)?, views.rank[v as usize]),
            });
            let looks = looks.map(|v| view_number[v as usize]).filter(|&v| v != NONE).collect();
            let writes = unit.writes.iter().map(|&s| number[s as usize]).collect();
            if reads.iter().any(|&s| small.items[s as usize].maker as usize >= small.units.len()) {
                return None;
            }
            small.units.push(Unit { reads, writes, pairs, views: looks, ..unit.clone() });
        }
        // What every order holds at its fullest, by what repeats.
        let repeats = |u: usize| self.run_of[u] != NONE;
        let part = held(&small, &|u| repeats(units[u] as usize)) / held(model, &repeats).max(1.0);
        Some(Small { model: small, units, place, part: part.clamp(1e-3, 1.0) })
    }

    /// The unit of the small graph that a unit behaves like.
    fn template(&self, small: &Small, unit: usize, pattern: Pattern) -> Option<u32> {
        let Some((run, layer, offset)) = self.at(unit) else { return Some(small.place[unit]) };
        let Group { common, out } = &self.groups[run.group];
        let like = match pattern {
            _ if !common.contains(&layer) => layer,
            Pattern::Tiled if !out.contains(&layer) => layer,
            // The outermost layers have neighbours of another kind.
            Pattern::Tiled => {
                let inner = length(common) - length(out) - 2;
                let index = 1 + (layer - common.start - 1).rem_euclid(inner as i64);
                place_of(common.start + index, out)
            }
            Pattern::Stretched => {
                let (all, stay) = (length(common) as i64, (length(common) - length(out)) as i64);
                place_of(common.start + (layer - common.start) * stay / all, out)
            }
        };
        run.unit(like, offset).map(|u| small.place[u]).filter(|&u| u != NONE)
    }

    /// An order of the whole graph that does at every unit what an order of the small graph does at
    /// the one it behaves like.
    fn spread(&self, small: &Small, order: &[u32], pattern: Pattern) -> Vec<u32> {
        let model = self.model;
        let n = model.units.len();
        // What runs again before the first run of each unit, and how far that was shifted.
        let mut again: Vec<Vec<u32>> = vec![Vec::new(); small.model.units.len()];
        let mut shift = vec![0i64; small.model.units.len()];
        let (mut ran, mut rank) = (vec![false; small.model.units.len()], 0);
        let mut waiting: Vec<u32> = Vec::new();
        for &u in order {
            if std::mem::replace(&mut ran[u as usize], true) {
                waiting.push(u);
                continue;
            }
            again[u as usize] = std::mem::take(&mut waiting);
            shift[u as usize] = rank - i64::from(u);
            rank += 1;
        }
        let templates: Vec<Option<u32>> = (0..n).map(|u| self.template(small, u, pattern)).collect();
        // Units that join storages or have effects are never passed: see `reorder`.
        let mut stretch = 0u32;
        let mut firsts: Vec<(u32, i64, u32)> = Vec::with_capacity(n);
        for (u, template) in templates.iter().enumerate() {
            let bar = !model.units[u].replayable;
            stretch += u32::from(bar);
            firsts.push((stretch, u as i64 + template.map_or(0, |t| shift[t as usize]), u as u32));
            stretch += u32::from(bar);
        }
        firsts.sort_unstable();
        let mut spread = Vec::with_capacity(2 * n);
        let mut ran = vec![false; n];
        let mut stack: Vec<u32> = Vec::new();
        for (.., first) in firsts {
            // Where shifts do not go together, what a unit needs comes first all the same.
            stack.push(first);
            while let Some(&u) = stack.last() {
                let makers = model.units[u as usize].reads.iter().map(|&s| model.items[s as usize].maker);
                let before = stack.len();
                stack.extend(makers.filter(|&m| m != NONE && !ran[m as usize]));
                if stack.len() > before {
                    continue;
                }
                stack.pop();
                if std::mem::replace(&mut ran[u as usize], true) {
                    continue;
                }
                if let Some(template) = templates[u as usize] {
                    for &repeat in &again[template as usize] {
                        if let Some(r) = self.image(small, repeat, template, u as usize)
                            && ran[r]
                            && r != u as usize
                            && model.units[r].replayable
                        {
                            spread.push(r as u32);
                        }
                    }
                }
                spread.push(u);
            }
        }
        Sim::default().prune(model, &mut spread);
        spread
    }

    /// The unit that is to `unit` what `repeat` is to its template.
    fn image(&self, small: &Small, repeat: u32, template: u32, unit: usize) -> Option<usize> {
        let repeat = small.units[repeat as usize] as usize;
        let template = small.units[template as usize] as usize;
        let Some((run, layer, offset)) = self.at(repeat) else { return Some(repeat) };
        let Some((anchor, from, _)) = self.at(template).filter(|(a, ..)| a.group == run.group) else {
            return Some(repeat);
        };
        let (_, to, _) = self.at(unit)?;
        let out = &self.groups[anchor.group].out;
        run.unit(to + closed(layer, out) - closed(from, out), offset)
    }
}

fn length(range: &Range<i64>) -> usize {
    usize::try_from(range.end - range.start).unwrap_or(0)
}

/// A layer that stays, counted without those taken out; and back.
fn closed(layer: i64, out: &Range<i64>) -> i64 {
    if layer >= out.end { layer - (out.end - out.start) } else { layer }
}

fn place_of(index: i64, out: &Range<i64>) -> i64 {
    if index >= out.start { index + (out.end - out.start) } else { index }
}

/// Views by their items.
struct Views {
    of: BTreeMap<u32, Vec<u32>>,
    /// The how manyth of its item each is.
    rank: Vec<usize>,
}

impl Views {
    fn new(model: &Model) -> Self {
        let mut it = Self { of: BTreeMap::new(), rank: Vec::with_capacity(model.views.len()) };
        for (v, view) in model.views.iter().enumerate() {
            let all = it.of.entry(view.item).or_default();
            it.rank.push(all.len());
            all.push(v as u32);
        }
        it
    }

    fn nth(&self, item: u32, n: usize) -> Option<u32> {
        self.of.get(&item)?.get(n).copied()
    }
}

/// A number for each unit; equal numbers look alike. Times do not count: they may be measured.
fn classes(model: &Model) -> Vec<u32> {
    let bytes = |items: &[u32]| -> Vec<u64> { items.iter().map(|&s| model.items[s as usize].bytes).collect() };
    let mut looks = BTreeMap::new();
    let kind = |unit: &Unit| unit.op.map_or("", |op| model.problem.graph.ops()[op].kind.as_str());
    let plain: Vec<u32> = model
        .units
        .iter()
        .map(|u| {
            let look = (kind(u), u.workspace, bytes(&u.reads), bytes(&u.writes), &u.pairs, u.views.len(), u.replayable);
            let next = looks.len() as u32;
            *looks.entry(look).or_insert(next)
        })
        .collect();
    let mut wired = BTreeMap::new();
    let makers = |unit: &Unit| -> Vec<u32> {
        unit.reads.iter().map(|&s| plain[model.items[s as usize].maker as usize]).collect()
    };
    let number = |(unit, &class): (&Unit, &u32)| {
        let next = wired.len() as u32;
        *wired.entry((class, makers(unit))).or_insert(next)
    };
    model.units.iter().zip(&plain).map(number).collect()
}

/// Bytes made by some units that live at the peak with everything kept.
fn held(model: &Model, of: &dyn Fn(usize) -> bool) -> f64 {
    let at = Sim::default().run(model, &model.keep_all()).at;
    let mut last = vec![0; model.items.len()];
    for (u, unit) in model.units.iter().enumerate() {
        unit.reads.iter().for_each(|&s| last[s as usize] = u);
    }
    let lives = model.items.iter().zip(&last).filter(|(item, last)| {
        let maker = item.maker as usize;
        item.maker != NONE && maker <= at && at <= **last && of(maker)
    });
    lives.map(|(item, _)| item.bytes as f64).sum()
}

/// Stretches with a period, none overlapping another, the longest first choice.
fn runs(classes: &[u32]) -> Vec<Run> {
    let n = classes.len();
    let mut last: BTreeMap<&[u32], usize> = BTreeMap::new();
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for (at, window) in classes.windows(WINDOW).enumerate() {
        if let Some(before) = last.insert(window, at) {
            *counts.entry(at - before).or_default() += 1;
        }
    }
    let mut periods: Vec<(usize, usize)> = counts.into_iter().map(|(period, count)| (count, period)).collect();
    periods.sort_unstable_by_key(|&(count, period)| (Reverse(count), period));
    let mut found: Vec<(usize, usize, usize)> = Vec::new();
    for &(_, period) in periods.iter().take(PERIODS) {
        let mut at = 0;
        while at + period < n {
            let from = at;
            while at + period < n && classes[at] == classes[at + period] {
                at += 1;
            }
            let copies = (at - from) / period + 1;
            if copies >= COPIES {
                found.push((from, period, copies));
            }
            at += 1;
        }
    }
    // Twice a period is a period too, and covers no more.
    found.sort_unstable_by_key(|&(start, period, copies)| (Reverse(period * copies), period, start));
    let mut taken = vec![false; n];
    let mut runs: Vec<Run> = Vec::new();
    for (mut start, period, mut copies) in found {
        let free = |taken: &[bool], copy: usize| taken[copy..copy + period].iter().all(|&t| !t);
        while copies > 0 && !free(&taken, start) {
            (start, copies) = (start + period, copies - 1);
        }
        copies = (0..copies).take_while(|&c| free(&taken, start + c * period)).count();
        if copies >= COPIES {
            taken[start..start + copies * period].fill(true);
            runs.push(Run { start, period, copies, group: usize::MAX, first: 0, step: 1 });
        }
    }
    runs
}

/// Copy `sign * j + shift` of run `a` goes with copy j of run `b`.
struct Link {
    votes: usize,
    a: usize,
    b: usize,
    sign: i64,
    shift: i64,
}

/// How copies of different runs go together, by what reads what; the clearest first.
fn links(model: &Model, runs: &[Run], run_of: &[u32]) -> Vec<Link> {
    let mut votes: BTreeMap<(usize, usize, i64, i64), usize> = BTreeMap::new();
    for (u, unit) in model.units.iter().enumerate().filter(|(u, _)| run_of[*u] != NONE) {
        let b = run_of[u] as usize;
        for maker in unit.reads.iter().map(|&s| model.items[s as usize].maker as usize) {
            let a = run_of[maker] as usize;
            if run_of[maker] != NONE && a != b {
                let copy = |r: usize, u: usize| ((u - runs[r].start) / runs[r].period) as i64;
                let (i, j) = (copy(a, maker), copy(b, u));
                *votes.entry((a, b, 1, i - j)).or_default() += 1;
                *votes.entry((a, b, -1, i + j)).or_default() += 1;
            }
        }
    }
    let mut links: Vec<Link> = votes
        .into_iter()
        .map(|((a, b, sign, shift), votes)| Link { votes, a, b, sign, shift })
        .filter(|link| link.votes >= COPIES)
        .collect();
    links.sort_by_key(|l| (Reverse(l.votes), l.a, l.b, l.sign, l.shift));
    links
}

/// Join linked runs: fill in their groups and layers.
fn group(runs: &mut [Run], links: &[Link]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for seed in 0..runs.len() {
        if runs[seed].group != usize::MAX {
            continue;
        }
        let group = groups.len();
        runs[seed].group = group;
        let mut common = runs[seed].layers();
        let is_in = |runs: &[Run], r: usize| runs[r].group == group;
        let mut refused = vec![false; runs.len()];
        loop {
            let joins = |l: &&Link| {
                let (a, b) = (is_in(runs, l.a), is_in(runs, l.b));
                a != b && runs[if a { l.b } else { l.a }].group == usize::MAX && !refused[if a { l.b } else { l.a }]
            };
            let Some(link) = links.iter().find(joins) else { break };
            let new = if is_in(runs, link.a) { link.b } else { link.a };
            let mut run = runs[new].clone();
            let known = &runs[if new == link.b { link.a } else { link.b }];
            run.step = known.step * link.sign;
            run.first = match new == link.b {
                true => known.first + known.step * link.shift,
                false => known.first - run.step * link.shift,
            };
            let both = common.start.max(run.layers().start)..common.end.min(run.layers().end);
            // A run beside only some of the layers would leave little to take out.
            if 4 * length(&both) < 3 * length(&common) || length(&both) < COPIES {
                refused[new] = true;
                continue;
            }
            run.group = group;
            runs[new] = run;
            common = both;
        }
        groups.push(Group { out: common.start..common.start, common });
    }
    groups
}

#[cfg(all(test, feature = "fuzzing"))]
mod tests {
    use super::*;
    use crate::cost::Problem;
    use crate::fuzz::{self, Shape};
    use crate::solver::Options;
    use crate::solver::progress::Watch;

    fn limits(model: &Model) -> Limits {
        let options =
            Options { time_limit: std::time::Duration::from_secs(600), node_limit: Some(2_000), ..Options::default() };
        Limits::new(model, &options, Watch::new("auto", u64::MAX, 0, 0, &options))
    }

    fn find(problem: &Problem, check: impl FnOnce(&Repeats)) {
        let model = Model::new(problem, true);
        check(&Repeats::find(&model).expect("it repeats"));
    }

    #[test]
    fn finds_the_layers_of_forward_and_backward() {
        find(&fuzz::layered(3, 300, 8), |repeats| {
            // Each layer is in exactly one group, with copies of the forward and of the backward.
            let group = &repeats.groups[0];
            let runs: Vec<&Run> = repeats.runs.iter().filter(|run| run.group == 0).collect();
            assert!(runs.len() >= 2, "{:?}", repeats.runs);
            assert!(runs.iter().any(|r| r.step == -1) && runs.iter().any(|r| r.step == 1), "{runs:?}");
            assert!(length(&group.common) >= 295 && length(&group.out) > 150, "{group:?}");
            let small = repeats.small().expect("a smaller graph");
            assert!(small.units.len() < 2 * UNITS);
            // What is left is a graph of its own: everything kept is a valid order of it.
            for (u, unit) in small.model.units.iter().enumerate() {
                assert!(unit.reads.iter().all(|&s| (small.model.items[s as usize].maker as usize) < u));
                assert!(unit.writes.iter().all(|&s| small.model.items[s as usize].maker as usize == u));
            }
        });
    }

    #[test]
    fn spread_orders_are_valid_and_as_good_as_in_the_small_graph() {
        for seed in 0..6 {
            let problem = fuzz::layered(seed, 400, 8);
            let model = Model::new(&problem, true);
            let all = Sim::default().run(&model, &model.keep_all());
            let budget = model.resident + (all.peak - model.resident) / 10 * 6;
            let orders = orders(&model, budget, &limits(&model));
            assert!(!orders.is_empty());
            for order in &orders {
                let mut ran = vec![false; model.units.len()];
                for &u in order {
                    let unit = &model.units[u as usize];
                    assert!(unit.reads.iter().all(|&s| ran[model.items[s as usize].maker as usize]));
                    assert!(!ran[u as usize] || unit.replayable);
                    ran[u as usize] = true;
                }
                assert!(ran.iter().enumerate().all(|(u, &ran)| ran || model.units[u].replayable));
            }
            // Nearly within the budget as they are.
            let least = orders.iter().map(|order| Sim::default().run(&model, order).peak).min().unwrap();
            assert!(least < budget + budget / 50, "seed {seed}: {least} of {budget}");
        }
    }

    #[test]
    fn leaves_graphs_without_repeats_alone() {
        for seed in 0..50 {
            let problem = fuzz::problem(seed, Shape::all(200));
            let model = Model::new(&problem, true);
            assert!(orders(&model, model.resident, &limits(&model)).is_empty());
        }
    }

    #[test]
    fn a_period_is_not_taken_for_twice_itself() {
        let mut classes: Vec<u32> = (100..117).collect();
        classes.extend((0..20 * 10).map(|i| i % 20));
        classes.extend(200..230);
        let runs = runs(&classes);
        assert_eq!(runs.len(), 1);
        assert_eq!((runs[0].start, runs[0].period, runs[0].copies), (17, 20, 10));
    }
}
