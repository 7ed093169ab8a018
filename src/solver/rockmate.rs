//! Rotor's table with several ways to run each stage.
//!
//! Zhao, Gusak et al., "Rockmate: an efficient, fast, automatic and generic tool for
//! re-materialization in PyTorch" (2023). For each stage of the chain a list of options is made:
//! what to keep inside it between its forward and its backward, and what its backward runs again.
//! The table of [`rotor`](super::rotor) then takes, wherever it saves a stage, the option that
//! serves best. Options come from a small integer program per number of bytes kept (with feature
//! `highs`, stages up to [`PROGRAM`] units), and from greedily giving up what costs least time per
//! byte; stages that look the same are solved once.
//!
//! ```text
//! minimize sum time r    subject to   keep(s) + r(maker of s) >= 1      s read by the backward
//!                                     keep(x) + r(maker of x) >= r(i)   x made in the stage, read by i
//!                                     sum bytes keep <= level
//! ```
//!
//! It takes chains alone, as Rotor does; every schedule is simulated and the fastest that fits is
//! taken. Nothing is proved optimal.

use std::collections::BTreeMap;

use super::family::{boundary, fastest, last_reads, settle};
use super::frame::Frame;
#[cfg(feature = "highs")]
use super::milp::{Milp, Verdict};
use super::model::Model;
use super::rotor::orders;
use super::segments::no_boundary;
use super::stages::{Chain, MOST, Way};
use super::{Options, Outcome, Solver};
use crate::cost::Problem;
use crate::error::{Error, Result};
use crate::units::Bytes;

/// Units of a stage up to which options come from an integer program too.
#[cfg(feature = "highs")]
const PROGRAM: usize = 80;
/// Numbers of bytes kept for which a program is solved.
#[cfg(feature = "highs")]
const LEVELS: u64 = 10;
/// Options per stage.
const WAYS: usize = 24;

/// See the module's description.
pub(super) struct Rockmate;

impl Solver for Rockmate {
    fn name(&self) -> &'static str {
        "rockmate"
    }
    fn about(&self) -> &'static str {
        "Rotor over stages with several options each, from small programs (Zhao et al. 2023); chains only"
    }
    fn solve(&self, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome> {
        settle(self.name(), problem, budget, options, |frame| {
            let model = &frame.model;
            let n = boundary(model).ok_or_else(|| no_boundary(self.name()))?;
            let mut all: Vec<Vec<u32>> = Vec::new();
            // Options weigh more in longer stages, the table in shorter ones.
            for most in [MOST, MOST / 4] {
                let mut chain =
                    Chain::find(model, n, most).map_err(|why| Error::Unsupported { solver: self.name(), why })?;
                add_ways(frame, &mut chain);
                all.extend(orders(model, &chain));
            }
            fastest(frame, all)
        })
    }
}

/// A stage by itself: units and items are numbered within it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Inside {
    units: Vec<InsideUnit>,
    items: Vec<InsideItem>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct InsideUnit {
    time: u64,
    replayable: bool,
    /// Items of the stage it reads.
    reads: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct InsideItem {
    bytes: u64,
    maker: usize,
    /// The backward reads it.
    read: bool,
    /// It must be kept: a later stage begins with it, or it cannot be made again.
    fixed: bool,
}

fn add_ways(frame: &Frame, chain: &mut Chain) {
    let model = &frame.model;
    let mut solved: BTreeMap<Inside, Vec<Vec<bool>>> = BTreeMap::new();
    for i in 0..chain.stages.len() {
        let inside = inside(model, chain, i);
        let kept = solved.entry(inside.clone()).or_insert_with(|| inside.options(frame)).clone();
        let from = chain.stages[i].forward.start as u32;
        for keep in kept {
            let (again, time) = inside.again(&keep);
            let saved = inside.saved(&keep, &again);
            let again: Vec<u32> = again.iter().enumerate().filter(|(_, r)| **r).map(|(u, _)| from + u as u32).collect();
            let peak = chain.backward_peak(model, i, &again);
            chain.stages[i].ways.push(Way { again, saved, peak, time });
        }
        pareto(&mut chain.stages[i].ways);
    }
}

/// Drop ways that another one beats in everything; the first stays.
fn pareto(ways: &mut Vec<Way>) {
    let all = ways.clone();
    let beats = |a: &Way, b: &Way| {
        (a.saved, a.peak, a.time) != (b.saved, b.peak, b.time)
            && a.saved <= b.saved
            && a.saved + a.peak <= b.saved + b.peak
            && a.time <= b.time
    };
    let mut index = 0;
    ways.retain(|way| {
        index += 1;
        index == 1 || !(all.iter().any(|other| beats(other, way)) || all[..index - 1].contains(way))
    });
    // Too many slow the table down: spread over what is saved.
    if ways.len() > WAYS {
        let mut rest = ways.split_off(1);
        rest.sort_by_key(|w| (w.saved, w.time));
        let n = rest.len();
        ways.extend((0..WAYS - 1).map(|k| rest[k * (n - 1) / (WAYS - 2)].clone()));
    }
}

fn inside(model: &Model, chain: &Chain, stage: usize) -> Inside {
    let range = chain.stages[stage].forward.clone();
    let n = chain.boundary;
    let last = last_reads(model, n);
    let mut read = vec![false; model.items.len()];
    model.units[n..].iter().flat_map(|u| &u.reads).for_each(|&s| read[s as usize] = true);
    let mut number: BTreeMap<u32, usize> = BTreeMap::new();
    let mut inside = Inside { units: Vec::new(), items: Vec::new() };
    for u in range.clone() {
        let unit = &model.units[u];
        inside.units.push(InsideUnit {
            time: unit.time,
            replayable: unit.replayable,
            reads: unit.reads.iter().filter_map(|s| number.get(s).copied()).collect(),
        });
        for &s in &unit.writes {
            number.insert(s, inside.items.len());
            inside.items.push(InsideItem {
                bytes: model.items[s as usize].bytes,
                maker: u - range.start,
                read: read[s as usize],
                fixed: last[s as usize] >= range.end || !unit.replayable,
            });
        }
    }
    inside
}

impl Inside {
    /// The units to run again when these items are kept, and their time.
    fn again(&self, keep: &[bool]) -> (Vec<bool>, u64) {
        let mut again = vec![false; self.units.len()];
        for (item, keep) in self.items.iter().zip(keep) {
            again[item.maker] |= item.read && !keep;
        }
        for u in (0..self.units.len()).rev() {
            if again[u] {
                for &s in &self.units[u].reads {
                    again[self.items[s].maker] |= !keep[s];
                }
            }
        }
        let time = self.units.iter().zip(&again).filter(|(_, again)| **again).map(|(u, _)| u.time).sum();
        (again, time)
    }

    /// Bytes kept that serve something: read by the backward or by what runs again, or fixed.
    fn saved(&self, keep: &[bool], again: &[bool]) -> u64 {
        let mut used: Vec<bool> = self.items.iter().map(|i| i.read || i.fixed).collect();
        for (unit, _) in self.units.iter().zip(again).filter(|(_, again)| **again) {
            unit.reads.iter().for_each(|&s| used[s] = true);
        }
        // A unit that runs again makes all its outputs again, kept or not.
        let items = self.items.iter().zip(keep).zip(used);
        items.filter(|((i, keep), used)| **keep && *used && !again[i.maker]).map(|((i, _), _)| i.bytes).sum()
    }

    /// What to keep, in several ways.
    fn options(&self, frame: &Frame) -> Vec<Vec<bool>> {
        let mut all = self.greedy();
        #[cfg(feature = "highs")]
        if self.units.len() <= PROGRAM && !self.items.is_empty() {
            all.extend(self.programs(frame));
        }
        #[cfg(not(feature = "highs"))]
        let _ = frame;
        all.dedup();
        all
    }

    /// From everything kept: give up what costs least time per byte, one after the other.
    fn greedy(&self) -> Vec<Vec<bool>> {
        let mut keep = vec![true; self.items.len()];
        let mut all = Vec::new();
        loop {
            let (again, now) = self.again(&keep);
            let saved = self.saved(&keep, &again);
            let mut best: Option<(f64, usize)> = None;
            for s in (0..keep.len()).filter(|&s| !self.items[s].fixed) {
                if keep[s] {
                    keep[s] = false;
                    let (again, time) = self.again(&keep);
                    let freed = saved.saturating_sub(self.saved(&keep, &again));
                    keep[s] = true;
                    let score = (time.saturating_sub(now) as f64 + 1.0) / (freed as f64 + 1e-3);
                    if best.is_none_or(|(least, _)| score < least) {
                        best = Some((score, s));
                    }
                }
            }
            let Some((_, s)) = best else { return all };
            keep[s] = false;
            all.push(keep.clone());
        }
    }

    /// The least time for several numbers of bytes kept.
    #[cfg(feature = "highs")]
    fn programs(&self, frame: &Frame) -> Vec<Vec<bool>> {
        let everything = vec![true; self.items.len()];
        let most = self.saved(&everything, &vec![false; self.units.len()]);
        let fixed: u64 = self.items.iter().filter(|i| i.fixed).map(|i| i.bytes).sum();
        let scale = 1e3 / self.units.iter().map(|u| u.time as f64).sum::<f64>().max(1.0);
        let mut all = Vec::new();
        for level in 0..LEVELS {
            if frame.limits.late() {
                break;
            }
            let room = fixed + (most.saturating_sub(fixed)) * level / LEVELS;
            let mut milp = Milp::default();
            let keep: Vec<_> = self
                .items
                .iter()
                // A little for bytes, so that none are kept for nothing.
                .map(|i| {
                    if i.fixed {
                        super::milp::Term::Known(1.0)
                    } else {
                        milp.column(true, 1e-3 * i.bytes as f64 / most.max(1) as f64)
                    }
                })
                .collect();
            let runs: Vec<_> = self
                .units
                .iter()
                .map(|u| {
                    if u.replayable { milp.column(true, u.time as f64 * scale) } else { super::milp::Term::Known(0.0) }
                })
                .collect();
            for (s, item) in self.items.iter().enumerate().filter(|(_, i)| i.read && !i.fixed) {
                milp.at_most([(-1.0, keep[s]), (-1.0, runs[item.maker])], -1.0);
            }
            for (u, unit) in self.units.iter().enumerate().filter(|(_, u)| u.replayable) {
                for &s in &unit.reads {
                    milp.at_most([(1.0, runs[u]), (-1.0, keep[s]), (-1.0, runs[self.items[s].maker])], 0.0);
                }
            }
            let unit = 1.0 / room.max(1) as f64;
            milp.at_most(self.items.iter().zip(&keep).map(|(i, &k)| (i.bytes as f64 * unit, k)), room as f64 * unit);
            let share = (frame.options.time_limit / 20).min(frame.limits.left());
            let limits = Options { time_limit: share, ..frame.options.clone() };
            let answer = milp.solve(&limits, Some(limits.node_limit.unwrap_or(1000).min(1000)));
            if matches!(answer.verdict, Verdict::Optimal | Verdict::Feasible) {
                all.push(keep.iter().map(|&k| answer.value(k) > 0.5).collect());
            }
        }
        all
    }
}
