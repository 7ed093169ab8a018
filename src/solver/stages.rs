//! A training step as a chain of stages, for the solvers that need one.
//!
//! The forward part is cut where (nearly) everything that crosses is one tensor: the chain's
//! activation. What else crosses there is small, or, in graphs that are no chain otherwise, carried through half of the
//! forward part and more and no larger than half of the activation (a mask, positions): it stays where it is. The
//! backward of a stage is the run of units after the boundary up to the last one that reads what
//! the stage made. Outputs made by the backward part (gradients of parameters) live to the end
//! once they are made; their bytes are set aside from the start.

use std::ops::Range;

use super::family::{crossing, last_reads};
use super::model::{Model, NONE};

/// What crosses a cut beside the largest tensor may be one part in this many.
const MINOR: u64 = 32;
/// Stages of a chain at most; more make the tables large and the plans no better.
pub(super) const MOST: usize = 48;

/// A way to run a stage's backward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// Units of the stage to run again in its backward, ascending.
    pub again: Vec<u32>,
    /// Bytes the stage keeps between its forward and its backward, its output among them.
    pub saved: u64,
    /// Bytes beside what is saved and the input while the backward runs.
    pub peak: u64,
    /// Time of the units run again.
    pub time: u64,
}

/// A stage of the chain.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    /// Units run forward and, after the boundary, backward.
    pub forward: Range<usize>,
    pub backward: Range<usize>,
    /// Time of the forward.
    pub time: u64,
    /// Bytes of what crosses into it.
    pub input: u64,
    /// Bytes beside its input and output while it runs forward without saving.
    pub peak: u64,
    /// The ways of its backward; the first keeps everything.
    pub ways: Vec<Way>,
}

/// A chain of at least two stages, or why the graph is none.
pub(super) struct Chain {
    pub boundary: usize,
    pub stages: Vec<Stage>,
}

impl Chain {
    pub fn find(model: &Model, boundary: usize, most: usize) -> Result<Self, String> {
        let n = boundary;
        let crossing = crossing(model, n);
        let cut = |carried| cut(model, n, &crossing, carried);
        let (cuts, saved) = cut(false).or_else(|_| cut(true))?;
        let (cuts, saved) = thin(cuts, saved, most);
        let aside = aside(model, n);
        let mut chain = Self { boundary, stages: Vec::new() };
        let is_aside = |s: u32| aside.binary_search(&s).is_ok();
        let mut ends = vec![n; saved.len()];
        // The end reads outputs, which says nothing about the backward.
        for u in n..model.units.len() - 1 {
            for maker in model.units[u].reads.iter().map(|&s| model.items[s as usize].maker as usize) {
                if maker < n {
                    ends[cuts.partition_point(|&c| c <= maker) - 1] = u + 1;
                }
            }
        }
        let mut start = n;
        for i in (0..saved.len()).rev() {
            let end = if i == 0 { model.units.len() } else { ends[i].max(start) };
            let forward = cuts[i]..cuts[i + 1];
            let all: Vec<u32> = (start as u32..end as u32).collect();
            let peak = run_peak(model, &all, n, start, &is_aside);
            chain.stages.push(Stage {
                time: model.units[forward.clone()].iter().map(|u| u.time).sum(),
                input: crossing[cuts[i]],
                peak: forward_peak(model, forward.clone(), n),
                ways: vec![Way { again: Vec::new(), saved: saved[i], peak, time: 0 }],
                forward,
                backward: start..end,
            });
            start = end;
        }
        chain.stages.reverse();
        Ok(chain)
    }

    /// A stage's backward when it runs these units again.
    pub fn backward_order(&self, model: &Model, stage: usize, again: &[u32]) -> Vec<u32> {
        let mut done = vec![false; model.units.len()];
        let mut order = Vec::new();
        let repeat = |u: u32| again.binary_search(&u).is_ok();
        for u in self.stages[stage].backward.clone() {
            super::family::remake(model, u as u32, self.boundary as u32, &repeat, &mut done, &mut order);
            order.push(u as u32);
        }
        order
    }

    /// Its peak beside what is saved.
    pub fn backward_peak(&self, model: &Model, stage: usize, again: &[u32]) -> u64 {
        let aside = aside(model, self.boundary);
        let order = self.backward_order(model, stage, again);
        let start = self.stages[stage].backward.start;
        run_peak(model, &order, self.boundary, start, &|s| aside.binary_search(&s).is_ok())
    }

    /// The order of units a schedule stands for.
    pub fn order(&self, model: &Model, schedule: &[Run]) -> Vec<u32> {
        let mut ran = vec![false; model.units.len()];
        let mut order = Vec::new();
        for run in schedule {
            match run {
                Run::Forward(stages) => {
                    let units = self.stages[stages.start].forward.start..self.stages[stages.end - 1].forward.end;
                    let runs = units.filter(|&u| model.units[u].replayable || !std::mem::replace(&mut ran[u], true));
                    order.extend(runs.map(|u| u as u32));
                }
                Run::Backward(stage, way) => {
                    order.extend(self.backward_order(model, *stage, &self.stages[*stage].ways[*way].again));
                }
            }
        }
        order
    }
}

/// A step of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// The forward of a run of stages.
    Forward(Range<usize>),
    /// The backward of a stage in one of its ways.
    Backward(usize, usize),
}

fn bytes(model: &Model, s: u32) -> u64 {
    model.items[s as usize].bytes
}

/// Where the forward part is cut, from its start to its end, and the bytes that each stage saves; or why it is no chain.
fn cut(model: &Model, n: usize, crossing: &[u64], carried: bool) -> Result<(Vec<usize>, Vec<u64>), String> {
    let mut cuts = vec![0];
    cuts.extend(places(model, n, crossing, carried));
    cuts.push(n);
    let saved = saved(model, n, &cuts);
    if cuts.len() < 3 {
        return Err("its forward part has no place where one tensor alone carries on".to_owned());
    }
    let total: u64 = saved.iter().sum();
    if let Some(i) = (0..saved.len()).find(|&i| saved[i] > total / 2) {
        let why = "more than half of what its backward part reads is made between two such places";
        return Err(format!("{why} (units {} to {})", cuts[i], cuts[i + 1]));
    }
    Ok((cuts, saved))
}

/// Where one tensor carries on alone, but for what is minor, and where `carried` for what is carried through.
fn places(model: &Model, n: usize, crossing: &[u64], carried: bool) -> Vec<usize> {
    let last = last_reads(model, n);
    let mut live: Vec<u32> = Vec::new();
    let mut places = Vec::new();
    for (p, (unit, &crossing)) in (1..n).zip(model.units.iter().zip(&crossing[1..])) {
        live.retain(|&s| last[s as usize] >= p);
        live.extend(unit.writes.iter().filter(|&&s| last[s as usize] >= p));
        let largest = live.iter().map(|&s| bytes(model, s)).max().unwrap_or(0);
        let throughout = |s: u32| 2 * (last[s as usize] - model.items[s as usize].maker as usize) >= n;
        let stays = live.iter().filter(|&&s| carried && throughout(s) && bytes(model, s) <= largest / 2);
        let beside = crossing - largest - stays.map(|&s| bytes(model, s)).sum::<u64>();
        if largest > 0 && beside <= crossing / MINOR {
            places.push(p);
        }
    }
    places
}

/// Bytes made in each stage that units after the boundary read or that a later stage begins with.
fn saved(model: &Model, n: usize, cuts: &[usize]) -> Vec<u64> {
    let mut saved = vec![0u64; cuts.len() - 1];
    let mut read = vec![false; model.items.len()];
    model.units[n..].iter().flat_map(|u| &u.reads).for_each(|&s| read[s as usize] = true);
    let last = last_reads(model, n);
    for (s, item) in model.items.iter().enumerate().filter(|(_, i)| i.maker != NONE && (i.maker as usize) < n) {
        let stage = cuts.partition_point(|&c| c <= item.maker as usize) - 1;
        if read[s] || last[s] >= cuts[stage + 1] {
            saved[stage] += item.bytes;
        }
    }
    saved
}

/// Merge the smallest neighbours until there are few enough.
fn thin(mut cuts: Vec<usize>, mut saved: Vec<u64>, most: usize) -> (Vec<usize>, Vec<u64>) {
    while saved.len() > most {
        let at = (1..saved.len()).min_by_key(|&i| (saved[i - 1] + saved[i], i)).expect("there are several");
        saved[at - 1] += saved.remove(at);
        cuts.remove(at);
    }
    (cuts, saved)
}

/// Outputs made after the boundary, ascending.
fn aside(model: &Model, n: usize) -> Vec<u32> {
    let ends = model.units.last().map(|u| u.reads.as_slice()).unwrap_or_default();
    let mut aside: Vec<u32> = ends
        .iter()
        .copied()
        .filter(|&s| model.items[s as usize].maker != NONE && model.items[s as usize].maker as usize >= n)
        .collect();
    aside.sort_unstable();
    aside
}

/// The most bytes live in a run of units without saving, beside what crosses into it.
fn forward_peak(model: &Model, range: Range<usize>, n: usize) -> u64 {
    let last = last_reads(model, n);
    let (mut live, mut peak) = (0u64, 0);
    for u in range.clone() {
        let unit = &model.units[u];
        live += unit.writes.iter().map(|&s| bytes(model, s)).sum::<u64>();
        peak = peak.max(live + unit.workspace);
        for &s in unit.reads.iter().chain(&unit.writes) {
            if last[s as usize] <= u && range.contains(&(model.items[s as usize].maker as usize)) {
                live -= bytes(model, s);
            }
        }
    }
    peak
}

/// The most bytes made by a run of units (backward units from `start` on, and units run again)
/// and by the backward before it, but for outputs.
fn run_peak(model: &Model, order: &[u32], n: usize, start: usize, aside: &dyn Fn(u32) -> bool) -> u64 {
    let mut last: Vec<usize> = vec![0; model.items.len()];
    for u in n..model.units.len() {
        let unit = &model.units[u];
        unit.reads.iter().chain(&unit.writes).for_each(|&s| last[s as usize] = u);
    }
    let later = |s: u32| last[s as usize] >= start;
    let made_before = (n..start).flat_map(|u| &model.units[u].writes).filter(|&&s| later(s) && !aside(s));
    let mut live: u64 = made_before.map(|&s| bytes(model, s)).sum();
    // Where in the order each item is touched for the last time.
    let mut ends: Vec<usize> = vec![usize::MAX; model.items.len()];
    for (position, &u) in order.iter().enumerate() {
        let unit = &model.units[u as usize];
        for &s in unit.reads.iter().chain(&unit.writes) {
            ends[s as usize] = position;
        }
    }
    let mut here = vec![false; model.items.len()];
    (n..start).flat_map(|u| &model.units[u].writes).for_each(|&s| here[s as usize] = later(s));
    let mut peak = live;
    for (position, &u) in order.iter().enumerate() {
        let unit = &model.units[u as usize];
        for &s in unit.writes.iter().filter(|&&s| !aside(s)) {
            if !std::mem::replace(&mut here[s as usize], true) {
                live += bytes(model, s);
            }
        }
        peak = peak.max(live + unit.workspace);
        for &s in unit.reads.iter().chain(&unit.writes) {
            let over = match (model.items[s as usize].maker as usize) < n {
                true => ends[s as usize] == position,
                false => last[s as usize] == u as usize,
            };
            if over && !aside(s) && std::mem::replace(&mut here[s as usize], false) {
                live -= bytes(model, s);
            }
        }
    }
    peak
}
