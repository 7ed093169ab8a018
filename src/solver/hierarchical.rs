//! Parts, parts of parts: HiRemate's recursion on any graph.
//!
//! Gusak, Zhao et al., "HiRemate: hierarchical approach for efficient re-materialization of
//! large neural networks" (2025). The forward part is split where few bytes cross, the parts are
//! split again, down to parts of at most [`LEAF`] units. For a grid of bytes kept, an integer
//! program finds what a leaf keeps and what it runs again after the boundary; these are its
//! options. One level up, a program chooses one option per part, again for a grid of bytes kept,
//! and its answers are the options of the part they make up. Parts that look the same are solved
//! once.
//!
//! ```text
//! leaf    minimize sum time r   with keep(s) + r(maker of s) >= 1     s demanded
//!                                    keep(x) + r(maker of x) >= r(i)  x of the leaf, read by i
//!                                    sum bytes keep <= level
//! above   minimize sum time(o) y(o)   with one y(o) = 1 per part, sum saved(o) y(o) <= level,
//!         y(o) <= sum of y(o') over the options o' that offer x       for each x that o needs
//! ```
//!
//! Demanded is what the backward reads and, in half of the options, all that later parts read. An
//! option offers what it keeps or makes again; it needs what its runs read from other parts.
//!
//! It takes any graph with a boundary. What is run again is run right before it is first read
//! after the boundary, and once: where the paper schedules each level, peaks here are left to the
//! simulation of all choices at the top, the fastest of which that fits is taken. Nothing is proved
//! optimal.

use std::collections::BTreeMap;
use std::ops::Range;

use super::auto::Limits;
use super::family::{boundary, crossing, fastest, last_reads, lazily, settle};
use super::milp::{Milp, Term, Verdict};
use super::model::{Model, NONE};
use super::segments::no_boundary;
use super::{Options, Outcome, Solver};
use crate::cost::Problem;
use crate::error::Result;
use crate::units::Bytes;

/// Units of a part that is not split.
const LEAF: usize = 28;
/// Parts a part is split into at most.
const SPLIT: usize = 4;
/// Numbers of bytes kept for which a program is solved, and at the top.
const LEVELS: u64 = 10;
const TOP_LEVELS: u64 = 40;
/// Options of a part handed up.
const MOST: usize = 24;
/// Nodes of each program.
const NODES: u64 = 500;

/// See the module's description.
pub(super) struct Hierarchical;

impl Solver for Hierarchical {
    fn name(&self) -> &'static str {
        "hierarchical"
    }
    fn about(&self) -> &'static str {
        "parts of parts, each with options from small programs (after HiRemate, Gusak et al. 2025); any graph"
    }
    fn solve(&self, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome> {
        settle(self.name(), problem, budget, options, |frame| {
            let model = &frame.model;
            let n = boundary(model).ok_or_else(|| no_boundary(self.name()))?;
            let mut read = vec![false; model.items.len()];
            model.units[n..].iter().flat_map(|u| &u.reads).for_each(|&s| read[s as usize] = true);
            let (last, crossing) = (last_reads(model, n), crossing(model, n));
            let limits = &frame.limits;
            let mut tree = Tree { model, read, last, crossing, options, limits, solved: BTreeMap::new() };
            let top = tree.solve(0..n, true);
            let orders = top.into_iter().map(|choice| {
                let again = |u: u32| choice.again.binary_search(&u).is_ok();
                lazily(model, n, &again)
            });
            fastest(frame, orders.collect::<Vec<_>>())
        })
    }
}

/// An option of a part: what it runs again, with what that takes and gives. Items by their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Choice {
    again: Vec<u32>,
    saved: u64,
    time: u64,
    needs: Vec<u32>,
    offers: Vec<u32>,
}

/// All that options of a part depend on, with units and items numbered within it: per unit its
/// time, whether it may run again, what it reads, and of what it makes the bytes, whether the
/// backward reads it and whether a later part does.
type Looks = Vec<(u64, bool, Vec<u32>, Vec<(u64, bool, bool)>)>;

/// A part that was solved: its first unit, its items in the order they are met, its options.
type Solved = (u32, Vec<u32>, Vec<Choice>);

struct Tree<'a, 'm> {
    model: &'a Model<'m>,
    /// Whether a unit after the boundary reads an item.
    read: Vec<bool>,
    last: Vec<usize>,
    crossing: Vec<u64>,
    options: &'a Options,
    limits: &'a Limits,
    solved: BTreeMap<Looks, Solved>,
}

impl Tree<'_, '_> {
    fn solve(&mut self, range: Range<usize>, top: bool) -> Vec<Choice> {
        let (looks, items) = self.looks(&range);
        if let Some((from, others, choices)) = self.solved.get(&looks) {
            let place: BTreeMap<u32, u32> = others.iter().copied().zip(items).collect();
            let moved = |items: &[u32]| items.iter().map(|s| place[s]).collect();
            let shift = |u: &u32| u - from + range.start as u32;
            let to = |c: &Choice| Choice {
                again: c.again.iter().map(shift).collect(),
                needs: moved(&c.needs),
                offers: moved(&c.offers),
                ..c.clone()
            };
            return choices.iter().map(to).collect();
        }
        let levels = if top { TOP_LEVELS } else { LEVELS };
        let mut choices = match range.len() <= LEAF {
            true => self.leaf(&range, levels),
            false => {
                let cuts = self.cuts(&range);
                let parts: Vec<Vec<Choice>> = cuts.windows(2).map(|w| self.solve(w[0]..w[1], false)).collect();
                self.above(&range, &parts, levels)
            }
        };
        choices.sort_by(|a, b| (a.saved, a.time, &a.again).cmp(&(b.saved, b.time, &b.again)));
        choices.dedup();
        if !top && choices.len() > MOST {
            let n = choices.len();
            choices = (0..MOST).map(|k| choices[k * (n - 1) / (MOST - 1)].clone()).collect();
        }
        self.solved.insert(looks, (range.start as u32, items, choices.clone()));
        choices
    }

    fn looks(&self, range: &Range<usize>) -> (Looks, Vec<u32>) {
        let mut items: Vec<u32> = Vec::new();
        let mut number: BTreeMap<u32, u32> = BTreeMap::new();
        let mut looks = Vec::with_capacity(range.len());
        for unit in &self.model.units[range.clone()] {
            let mut place = |s: u32| {
                *number.entry(s).or_insert_with(|| {
                    items.push(s);
                    items.len() as u32 - 1
                })
            };
            let reads = unit.reads.iter().map(|&s| place(s)).collect();
            let writes = unit.writes.iter().map(|&s| {
                place(s);
                (self.bytes(s), self.read[s as usize], self.last[s as usize] >= range.end)
            });
            looks.push((unit.time, unit.replayable, reads, writes.collect()));
        }
        (looks, items)
    }

    fn bytes(&self, s: u32) -> u64 {
        self.model.items[s as usize].bytes
    }

    /// Where to split: the places in between that fewest bytes cross, apart from each other.
    fn cuts(&self, range: &Range<usize>) -> Vec<usize> {
        let apart = (range.len() / (2 * SPLIT)).max(1);
        let mut places: Vec<usize> = (range.start + 1..range.end).collect();
        places.sort_by_key(|&p| (self.crossing[p], p));
        let mut cuts = vec![range.start, range.end];
        for p in places {
            if cuts.len() <= SPLIT && cuts.iter().all(|&c| c.abs_diff(p) >= apart) {
                cuts.push(p);
            }
        }
        cuts.sort_unstable();
        cuts
    }

    fn milp(&self, milp: Milp) -> Option<super::milp::Answer> {
        if self.limits.late() {
            return None;
        }
        let limits = Options { time_limit: self.options.time_limit / 10, ..self.options.clone() };
        let answer = milp.solve(&limits, Some(self.options.node_limit.unwrap_or(NODES).min(NODES)));
        matches!(answer.verdict, Verdict::Optimal | Verdict::Feasible).then_some(answer)
    }

    fn leaf(&self, range: &Range<usize>, levels: u64) -> Vec<Choice> {
        let model = self.model;
        let items: Vec<u32> = model.units[range.clone()].iter().flat_map(|u| &u.writes).copied().collect();
        let maker = |s: u32| model.items[s as usize].maker as usize;
        let most: u64 = items.iter().map(|&s| self.bytes(s)).sum();
        let total = model.units[range.clone()].iter().map(|u| u.time as f64).sum::<f64>().max(1.0);
        // Everything kept that is read outside needs no program.
        let leaves = |&s: &u32| self.last[s as usize] >= range.end;
        let outside = items.iter().copied().filter(leaves).collect();
        let saved = items.iter().filter(|s| self.read[**s as usize] || leaves(s)).map(|&s| self.bytes(s)).sum();
        let mut choices = vec![Choice { again: Vec::new(), saved, time: 0, needs: Vec::new(), offers: outside }];
        for (all, level) in [false, true].into_iter().flat_map(|all| (0..=levels).map(move |level| (all, level))) {
            let mut milp = Milp::default();
            let weight = |s: u32| self.bytes(s) as f64 / most.max(1) as f64;
            let mut keep: BTreeMap<u32, Term> = BTreeMap::new();
            for &s in &items {
                let free = model.units[maker(s)].replayable;
                // A little for bytes, so that none are kept for nothing.
                keep.insert(s, if free { milp.column(true, 1e-3 * weight(s)) } else { Term::Known(1.0) });
            }
            let runs: Vec<Term> = model.units[range.clone()]
                .iter()
                .map(|u| if u.replayable { milp.column(true, u.time as f64 / total * 1e3) } else { Term::Known(0.0) })
                .collect();
            let run = |s: u32| runs[maker(s) - range.start];
            for &s in &items {
                if self.read[s as usize] || (all && self.last[s as usize] >= range.end) {
                    milp.at_most([(-1.0, keep[&s]), (-1.0, run(s))], -1.0);
                }
            }
            for (unit, &i) in model.units[range.clone()].iter().zip(&runs) {
                for s in unit.reads.iter().filter(|s| keep.contains_key(s)) {
                    milp.at_most([(1.0, i), (-1.0, keep[s]), (-1.0, run(*s))], 0.0);
                }
            }
            let fixed: f64 = items.iter().filter(|&&s| !model.units[maker(s)].replayable).map(|&s| weight(s)).sum();
            let room = fixed + (1.0 - fixed) * level as f64 / levels as f64;
            milp.at_most(items.iter().map(|&s| (weight(s), keep[&s])), room);
            let Some(answer) = self.milp(milp) else { continue };
            let again: Vec<u32> =
                range.clone().filter(|u| answer.value(runs[u - range.start]) > 0.5).map(|u| u as u32).collect();
            let kept = |s: u32| answer.value(keep[&s]) > 0.5;
            let made = |s: u32| again.binary_search(&(maker(s) as u32)).is_ok();
            choices.push(Choice {
                saved: items.iter().filter(|&&s| kept(s)).map(|&s| self.bytes(s)).sum(),
                time: again.iter().map(|&u| model.units[u as usize].time).sum(),
                needs: self.needs(range, &again),
                offers: items
                    .iter()
                    .copied()
                    .filter(|&s| self.last[s as usize] >= range.end && (kept(s) || made(s)))
                    .collect(),
                again,
            });
        }
        choices
    }

    /// What units of a part read that is made before it.
    fn needs(&self, range: &Range<usize>, again: &[u32]) -> Vec<u32> {
        let reads = again.iter().flat_map(|&u| &self.model.units[u as usize].reads).copied();
        let mut needs: Vec<u32> = reads
            .filter(|&s| self.model.items[s as usize].maker != NONE)
            .filter(|&s| !range.contains(&(self.model.items[s as usize].maker as usize)))
            .collect();
        needs.sort_unstable();
        needs.dedup();
        needs
    }

    fn above(&self, range: &Range<usize>, parts: &[Vec<Choice>], levels: u64) -> Vec<Choice> {
        let all: Vec<(usize, &Choice)> =
            parts.iter().enumerate().flat_map(|(p, c)| c.iter().map(move |c| (p, c))).collect();
        // Beyond what it takes to run nothing again there is nothing to choose.
        let enough = |c: &Vec<Choice>| c.iter().filter(|c| c.again.is_empty()).map(|c| c.saved).min();
        let most: u64 = parts.iter().filter_map(enough).sum();
        let least: u64 = parts.iter().filter_map(|c| c.iter().map(|c| c.saved).min()).sum();
        let total = all.iter().map(|(_, c)| c.time as f64).sum::<f64>().max(1.0);
        let mut outside: Vec<u32> = self.model.units[range.clone()].iter().flat_map(|u| &u.writes).copied().collect();
        outside.retain(|&s| self.last[s as usize] >= range.end);
        let keeps_all = |c: &Vec<Choice>| c.iter().filter(|c| c.again.is_empty()).map(|c| c.saved).max();
        let everything = parts.iter().filter_map(keeps_all).sum();
        let mut choices =
            vec![Choice { again: Vec::new(), saved: everything, time: 0, needs: Vec::new(), offers: outside.clone() }];
        for (offer, level) in [false, true].into_iter().flat_map(|offer| (0..=levels).map(move |level| (offer, level)))
        {
            if offer && outside.is_empty() {
                break;
            }
            let mut milp = Milp::default();
            let weight = |c: &Choice| c.saved as f64 / most.max(1) as f64;
            let take: Vec<Term> =
                all.iter().map(|(_, c)| milp.column(true, c.time as f64 / total * 1e3 + 1e-3 * weight(c))).collect();
            for p in 0..parts.len() {
                let of = || all.iter().zip(&take).filter(|((q, _), _)| *q == p);
                milp.at_most(of().map(|(_, &y)| (1.0, y)), 1.0);
                milp.at_most(of().map(|(_, &y)| (-1.0, y)), -1.0);
            }
            let offering = |s: u32| {
                all.iter().zip(&take).filter(move |((_, c), _)| c.offers.contains(&s)).map(|(_, &y)| (-1.0, y))
            };
            let inside = |s: u32| range.contains(&(self.model.items[s as usize].maker as usize));
            for ((_, choice), &y) in all.iter().zip(&take) {
                for &s in choice.needs.iter().filter(|&&s| inside(s)) {
                    milp.at_most([(1.0, y)].into_iter().chain(offering(s)), 0.0);
                }
            }
            if offer {
                for &s in &outside {
                    milp.at_most(offering(s), -1.0);
                }
            }
            let room = least as f64 + (most - least) as f64 * level as f64 / levels as f64;
            milp.at_most(all.iter().zip(&take).map(|((_, c), &y)| (weight(c), y)), room / most.max(1) as f64);
            let Some(answer) = self.milp(milp) else { continue };
            let taken: Vec<&Choice> =
                all.iter().zip(&take).filter(|(_, y)| answer.value(**y) > 0.5).map(|((_, c), _)| *c).collect();
            let again: Vec<u32> = taken.iter().flat_map(|c| c.again.iter().copied()).collect();
            choices.push(Choice {
                saved: taken.iter().map(|c| c.saved).sum(),
                time: taken.iter().map(|c| c.time).sum(),
                needs: self.needs(range, &again),
                offers: taken.iter().flat_map(|c| c.offers.iter().copied()).filter(|s| outside.contains(s)).collect(),
                again,
            });
        }
        choices
    }
}
