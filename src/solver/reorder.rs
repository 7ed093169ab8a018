//! Better orders to begin with.
//!
//! Traces record ops in the order some library happened to call them: a layer's backward may make
//! the gradient of its input before that of its weights, and hold the input of the layer all the
//! while; branches that have nothing to do with one another may be recorded in turns, so that what
//! waits in all of them adds up.
//!
//! [`shrink_first`] follows the given order except where a unit that is ready a little further on would shrink
//! what is live. [`branch_by_branch`] finishes one result before it begins with the next.

use super::model::{Item, Model, NONE, Unit};
use super::sim::Sim;

/// How far ahead of the given order to look.
const AHEAD: usize = 48;
/// Results among which the next one is chosen: the first in the graph's order.
const ROOTS: usize = 64;
/// A result joins a group where it takes no more than this part of the group's time beside what is there.
const SHARE: u64 = 4;
/// Units that run early together at most.
const CONE: usize = 16;
/// What they make, not counting what they free, may be so many times what they free.
const TRANSIENT: u64 = 8;
/// Units that move to a later place together at most.
const ALONG: usize = 4;
/// Readers of an item that are looked at.
const READERS: usize = 256;

/// Every unit once: list scheduling (Graham, 1969) that runs early what frees more than it makes.
pub(super) fn shrink_first(model: &Model) -> Vec<u32> {
    let n = model.units.len();
    let mut readers = vec![0u32; model.items.len()];
    for &s in model.units.iter().flat_map(|u| &u.reads) {
        readers[s as usize] += 1;
    }
    let mut done = vec![false; n];
    let mut order = Vec::with_capacity(n);
    for next in 0..n {
        while !done[next] {
            // The end stays the end; units that join storages or have effects stay in place too,
            // because what depends on them is not all in the items.
            let window = next..(next + AHEAD).min(n - 1);
            let pick = window
                .take_while(|&u| u == next || model.units[u].replayable || done[u])
                .filter(|&u| !done[u])
                .find(|&u| {
                    let unit = &model.units[u];
                    let ready = unit.reads.iter().all(|&s| {
                        let maker = model.items[s as usize].maker;
                        maker == NONE || done[maker as usize]
                    });
                    let bytes = |s: &u32| model.items[*s as usize].bytes;
                    let made: u64 = unit.writes.iter().map(bytes).sum();
                    let freed: u64 = unit.reads.iter().filter(|&&s| readers[s as usize] == 1).map(bytes).sum();
                    unit.replayable && ready && freed > made
                });
            let u = pick.unwrap_or(next);
            done[u] = true;
            for &s in &model.units[u].reads {
                readers[s as usize] -= 1;
            }
            order.push(u as u32);
        }
    }
    order
}

/// Every unit once: all that the first result still needs, then all that the next one needs, and so on; and early what
/// frees more than it makes.
///
/// A result is what nothing reads but the end. The next one is that which takes least time, by what is not there yet: of
/// two branches the one that was begun is finished first. Within what a result needs the order is the graph's.
///
/// What runs early are a few units together, where all of them free more than they make: a product and the sum that it is
/// added to, which free what the product was made of; or the gradients of an input by way of several weights, and their sum.
pub(super) fn branch_by_branch(model: &Model) -> Vec<u32> {
    let stretches = stretches(model);
    let groups = groups(model);
    let mut order = model.keep_all();
    order.sort_by_key(|&u| (stretches[u as usize], groups[u as usize], u));
    Early::new(model, &order, stretches).order(&order)
}

/// Units that join storages or have effects are never passed, because what depends on them is not all in the items: the
/// number of the stretch between such units that each unit is in.
fn stretches(model: &Model) -> Vec<u32> {
    let mut stretch = 0;
    let number = |unit: &Unit| {
        let bar = u32::from(!unit.replayable);
        stretch += 2 * bar;
        stretch - bar
    };
    model.units.iter().map(number).collect()
}

/// The number of the result with which each unit runs.
fn groups(model: &Model) -> Vec<u32> {
    let n = model.units.len();
    let mut read = vec![false; model.items.len()];
    model.units[..n - 1].iter().flat_map(|unit| &unit.reads).for_each(|&s| read[s as usize] = true);
    let is_root = |&u: &usize| model.units[u].writes.iter().all(|&s| !read[s as usize]);
    let mut roots: Vec<usize> = (0..n - 1).filter(is_root).collect();
    let mut groups = vec![NONE; n];
    let mut seen = vec![NONE; n];
    let (mut looks, mut round) = (0, 0);
    while !roots.is_empty() {
        let (mut best, mut next, mut least) = (Vec::new(), 0, u64::MAX);
        for (place, &root) in roots.iter().take(ROOTS).enumerate() {
            let mut cone = vec![root];
            seen[root] = looks;
            let (mut time, mut at) = (0u64, 0);
            while at < cone.len() && time < least {
                let unit = &model.units[cone[at]];
                at += 1;
                time = time.saturating_add(unit.time);
                for maker in unit.reads.iter().map(|&s| model.items[s as usize].maker).filter(|&m| m != NONE) {
                    let maker = maker as usize;
                    if groups[maker] == NONE && std::mem::replace(&mut seen[maker], looks) != looks {
                        cone.push(maker);
                    }
                }
            }
            looks += 1;
            if time < least || best.is_empty() {
                (best, next, least) = (cone, place, time);
            }
        }
        roots.remove(next);
        best.into_iter().for_each(|u| groups[u] = round);
        absorb(model, &mut roots, &mut groups, round, least);
        round += 1;
    }
    groups
}

/// Results that need little beside what a group of units with so much time makes join it: the gradients of several weights
/// that are made of the same recurrence. By themselves each would hold all that the others still read.
fn absorb(model: &Model, roots: &mut Vec<usize>, groups: &mut [u32], group: u32, time: u64) {
    let mut most = roots.len().min(ROOTS);
    let mut at = 0;
    while at < most {
        let (mut cone, mut next, mut rest, mut joins) = (vec![roots[at]], 0, time / SHARE, false);
        let mut seen = cone.clone();
        while let Some(&u) = cone.get(next) {
            next += 1;
            let unit = &model.units[u];
            let Some(left) = rest.checked_sub(unit.time) else { break };
            rest = left;
            for maker in unit.reads.iter().map(|&s| model.items[s as usize].maker).filter(|&m| m != NONE) {
                let maker = maker as usize;
                joins |= groups[maker] == group;
                if groups[maker] == NONE && !seen.contains(&maker) {
                    seen.push(maker);
                    cone.push(maker);
                }
            }
        }
        if joins && next == cone.len() && cone.iter().map(|&u| model.units[u].time).sum::<u64>() <= time / SHARE {
            cone.into_iter().for_each(|u| groups[u] = group);
            roots.remove(at);
            most -= 1;
        } else {
            at += 1;
        }
    }
}

/// `base`, in which every unit runs once, with what makes no less than it frees as late as it can be: before the first that reads what
/// it makes, and the last that reads what it reads, so that nothing but what it frees lives longer. A sum takes along the product
/// that is added to it. So what is made of the same things runs together, and what waits for all of that can go step by step: it is
/// where the steps of a recurrence could run again in halves.
pub(super) fn sink(model: &Model, base: &[u32]) -> Vec<u32> {
    let mut order: Vec<(u32, u32)> = sunk(model, base).into_iter().zip(0..).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, place)| base[place as usize]).collect()
}

/// For each place of `base` the one before which its unit is to run: the same where it stays.
fn sunk(model: &Model, base: &[u32]) -> Vec<u32> {
    let n = model.units.len();
    let mut place = vec![0u32; n];
    base.iter().zip(0..).for_each(|(&u, at)| place[u as usize] = at);
    let mut readers: Vec<Vec<u32>> = vec![Vec::new(); model.items.len()];
    base.iter().for_each(|&u| model.units[u as usize].reads.iter().for_each(|&s| readers[s as usize].push(u)));
    // Where each unit runs: right before what was at that place.
    let mut late = place.clone();
    let mut fixed = vec![false; n];
    let bytes = |s: u32| model.items[s as usize].bytes;
    let mut bar = n as u32;
    for &u in base.iter().rev() {
        if !model.units[u as usize].replayable {
            bar = place[u as usize];
            continue;
        }
        let many = |&s: &u32| readers[s as usize].len() > READERS;
        if fixed[u as usize] || model.units[u as usize].reads.iter().any(many) {
            continue;
        }
        let mut group = vec![u];
        let sunk = loop {
            let inside = |v: u32| group.contains(&v);
            let made = |s: u32| {
                let maker = model.items[s as usize].maker;
                maker != NONE && inside(maker)
            };
            let mut to = bar;
            let (mut dying, mut outputs) = (Vec::new(), 0);
            for &v in &group {
                for &s in &model.units[v as usize].writes {
                    let others: Vec<u32> = readers[s as usize].iter().copied().filter(|&r| !inside(r)).collect();
                    if let Some(first) = others.iter().map(|&r| late[r as usize]).min() {
                        to = to.min(first);
                        outputs += bytes(s);
                    }
                }
                for &s in &model.units[v as usize].reads {
                    if made(s) || model.items[s as usize].maker == NONE || dying.contains(&s) {
                        continue;
                    }
                    let later = readers[s as usize].iter().filter(|&&r| !inside(r)).map(|&r| late[r as usize]).max();
                    match later.filter(|&later| later > place[u as usize]) {
                        Some(later) => to = to.min(later),
                        None => dying.push(s),
                    }
                }
            }
            if to <= place[u as usize] {
                break None;
            }
            if dying.iter().map(|&s| bytes(s)).sum::<u64>() <= outputs {
                break Some(to);
            }
            // What it is made of alone comes along.
            let only = |&s: &u32| {
                let maker = model.items[s as usize].maker as usize;
                model.units[maker].replayable
                    && !fixed[maker]
                    && !model.units[maker].reads.iter().any(many)
                    && model.units[maker].writes.iter().all(|&w| readers[w as usize].iter().all(|&r| inside(r)))
            };
            // How much more would then be held.
            let held = |&s: &u32| {
                let reads = &model.units[model.items[s as usize].maker as usize].reads;
                let gone = |&&x: &&u32| {
                    model.items[x as usize].maker != NONE
                        && !readers[x as usize].iter().any(|&r| !inside(r) && late[r as usize] > place[u as usize])
                };
                reads.iter().filter(gone).map(|&x| bytes(x)).sum::<u64>() as i64 - bytes(s) as i64
            };
            match dying.iter().filter(|s| only(s)).map(|s| (held(s), s)).min() {
                Some((held, &s)) if held < 0 && group.len() < ALONG => group.push(model.items[s as usize].maker),
                _ => break None,
            }
        };
        if let Some(to) = sunk {
            for v in group {
                late[v as usize] = to;
                fixed[v as usize] = true;
            }
        }
    }
    base.iter().map(|&u| late[u as usize]).collect()
}

/// Runs early what frees more than it makes.
struct Early<'a, 'm> {
    model: &'a Model<'m>,
    stretches: Vec<u32>,
    /// Where each unit is in the order to begin with.
    rank: Vec<u32>,
    readers: Vec<Vec<u32>>,
    /// Readers that are still to run, of each item.
    left: Vec<u32>,
    done: Vec<bool>,
    /// Units that may be worth running, and which of them wait.
    offers: Vec<u32>,
    offered: Vec<bool>,
    /// The units of a cone, and the last cone each unit was in.
    cone: Vec<u32>,
    seen: Vec<u32>,
    cones: u32,
    /// Items that a cone reads, and how often.
    counts: Vec<(u32, u32)>,
}

impl<'a, 'm> Early<'a, 'm> {
    fn new(model: &'a Model<'m>, order: &[u32], stretches: Vec<u32>) -> Self {
        let n = model.units.len();
        let mut readers: Vec<Vec<u32>> = vec![Vec::new(); model.items.len()];
        for (u, unit) in model.units.iter().enumerate() {
            unit.reads.iter().for_each(|&s| readers[s as usize].push(u as u32));
        }
        let mut rank = vec![0; n];
        order.iter().zip(0..).for_each(|(&u, place)| rank[u as usize] = place);
        let left = readers.iter().map(|readers| readers.len() as u32).collect();
        let (cone, counts, offers) = (Vec::new(), Vec::new(), Vec::new());
        let (done, offered, seen) = (vec![false; n], vec![false; n], vec![0; n]);
        Self { model, stretches, rank, readers, left, done, offers, offered, cone, seen, cones: 0, counts }
    }

    fn order(mut self, base: &[u32]) -> Vec<u32> {
        let mut order = Vec::with_capacity(base.len());
        for &next in base {
            if self.done[next as usize] {
                continue;
            }
            self.run(next, &mut order);
            let mut at = 0;
            while let Some(&unit) = self.offers.get(at) {
                at += 1;
                self.offered[unit as usize] = false;
                if self.done[unit as usize] || !self.fill(unit, self.stretches[next as usize]) {
                    continue;
                }
                let (net, made) = self.gain();
                if net > 0 && made <= TRANSIENT * net.unsigned_abs() {
                    let mut cone = std::mem::take(&mut self.cone);
                    cone.sort_unstable_by_key(|&u| self.rank[u as usize]);
                    cone.iter().for_each(|&u| self.run(u, &mut order));
                    self.cone = cone;
                } else if let [made] = self.model.units[unit as usize].writes[..]
                    && let [reader] = self.readers[made as usize][..]
                {
                    // What is made of it may be smaller.
                    self.offer(reader);
                }
            }
            self.offers.clear();
        }
        order
    }

    fn run(&mut self, unit: u32, order: &mut Vec<u32>) {
        order.push(unit);
        self.done[unit as usize] = true;
        let unit = &self.model.units[unit as usize];
        unit.reads.iter().for_each(|&s| self.left[s as usize] -= 1);
        for &s in unit.reads.iter().chain(&unit.writes) {
            if self.readers[s as usize].len() <= READERS {
                for place in 0..self.readers[s as usize].len() {
                    self.offer(self.readers[s as usize][place]);
                }
            }
        }
    }

    fn offer(&mut self, unit: u32) {
        if !self.done[unit as usize] && !std::mem::replace(&mut self.offered[unit as usize], true) {
            self.offers.push(unit);
        }
    }

    /// Fill the cone with a unit and all it needs that did not run. False where that is too much or passes units that are never
    /// passed.
    fn fill(&mut self, unit: u32, stretch: u32) -> bool {
        self.cones += 1;
        self.cone.clear();
        self.cone.push(unit);
        self.seen[unit as usize] = self.cones;
        let mut next = 0;
        while let Some(&u) = self.cone.get(next) {
            next += 1;
            if self.stretches[u as usize] != stretch || !self.model.units[u as usize].replayable {
                return false;
            }
            for &s in &self.model.units[u as usize].reads {
                let maker = self.model.items[s as usize].maker;
                if maker != NONE && !self.done[maker as usize] && self.seen[maker as usize] != self.cones {
                    self.seen[maker as usize] = self.cones;
                    self.cone.push(maker);
                }
            }
            if self.cone.len() > CONE {
                return false;
            }
        }
        true
    }

    /// Bytes that the cone frees beyond what it leaves, and bytes that it makes.
    fn gain(&mut self) -> (i64, u64) {
        let model = self.model;
        self.counts.clear();
        for &s in self.cone.iter().flat_map(|&u| &model.units[u as usize].reads) {
            match self.counts.iter_mut().find(|(item, _)| *item == s) {
                Some((_, count)) => *count += 1,
                None => self.counts.push((s, 1)),
            }
        }
        let (mut net, mut made) = (0i64, 0u64);
        for &s in self.cone.iter().flat_map(|&u| &model.units[u as usize].writes) {
            made = made.saturating_add(model.items[s as usize].bytes);
            net -= model.items[s as usize].bytes as i64;
        }
        for &(s, count) in &self.counts {
            if count == self.left[s as usize] {
                net += model.items[s as usize].bytes as i64;
            }
        }
        (net, made)
    }
}

/// The same graph, but what is made up to the peak of everything kept in the graph's own order has no bytes: that is made again where it
/// must be. What is made later is mostly what it is made again for.
pub(super) fn late_part<'a>(model: &Model<'a>) -> Model<'a> {
    let peak = Sim::default().run(model, &model.keep_all()).at as u32;
    let early = |item: &Item| item.maker == NONE || item.maker <= peak;
    let bytes = |item: &Item| if early(item) { 0 } else { item.bytes };
    let items = model.items.iter().map(|item| Item { bytes: bytes(item), ..item.clone() }).collect();
    Model { units: model.units.clone(), views: model.views.clone(), ..model.with_items(items) }
}

#[cfg(all(test, feature = "fuzzing"))]
mod tests {
    use super::*;
    use crate::fuzz::{Shape, problem};
    use crate::plan::{Lowering, lower, simulate};

    #[test]
    fn orders_are_legal_and_pass_nothing_that_is_never_passed() {
        let (mut moved, mut bars) = (0, 0);
        for seed in 0..300 {
            let problem = problem(seed, Shape { once: seed % 3 > 0, ..Shape::all(10 + seed as usize % 60) });
            let model = Model::new(&problem, true);
            let order = branch_by_branch(&model);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, model.keep_all());
            for (place, &u) in order.iter().enumerate().filter(|&(_, &u)| !model.units[u as usize].replayable) {
                assert_eq!(place, u as usize, "seed {seed}");
                bars += 1;
            }
            simulate(&problem, &lower(&problem.graph, &model.expand(&order), Lowering::default())).unwrap();
            moved += usize::from(order != model.keep_all());
        }
        assert!(moved > 100 && bars > 500, "{moved} moved, {bars} bars");
    }

    #[test]
    fn what_sinks_leaves_no_more_live_after_what_stays() {
        let (mut moved, mut lower_peaks) = (0, 0);
        for seed in 0..300 {
            let problem = problem(seed, Shape { once: seed % 3 > 0, ..Shape::all(10 + seed as usize % 60) });
            let model = Model::new(&problem, false);
            for base in [model.keep_all(), branch_by_branch(&model)] {
                let order = sink(&model, &base);
                simulate(&problem, &lower(&problem.graph, &model.expand(&order), Lowering::default())).unwrap();
                let [before, after] = [&base, &order].map(|order| live_after(&model, order));
                for (place, late) in sunk(&model, &base).into_iter().enumerate() {
                    let (unit, to) = (base[place], late as usize);
                    moved += usize::from(to != place);
                    assert!(to == place || model.units[unit as usize].replayable, "seed {seed}");
                    assert!(to != place || after[unit as usize] <= before[unit as usize], "seed {seed}");
                }
                let [before, after] = [&base, &order].map(|order| Sim::default().run(&model, order).peak);
                lower_peaks += usize::from(after < before);
            }
        }
        assert!(moved > 1000 && lower_peaks > 10, "{moved} moved, {lower_peaks} lower");
    }

    /// Bytes live after each unit's run.
    fn live_after(model: &Model, order: &[u32]) -> Vec<u64> {
        let touches = |u: u32, s: u32| {
            let unit = &model.units[u as usize];
            unit.reads.contains(&s) || unit.writes.contains(&s)
        };
        let mut live = vec![0; order.len()];
        for (at, &u) in order.iter().enumerate() {
            for &s in &model.units[u as usize].writes {
                let last = order.iter().rposition(|&u| touches(u, s)).unwrap();
                order[at..last].iter().for_each(|&u| live[u as usize] += model.items[s as usize].bytes);
            }
        }
        live
    }
}
