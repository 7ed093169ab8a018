//! Optimal checkpointing of heterogeneous chains.
//!
//! Beaumont, Eyraud-Dubois, Herrmann, Joly, Shilova, "Optimal checkpointing for heterogeneous
//! chains: how to train deep neural networks with limited memory" (2019), the solver "Rotor". Of
//! a chain of stages, with m units of memory beside the input of stage a, the least time to run
//! a..=b forward and backward is the least of
//!
//! ```text
//! a == b     fw[a] + bw[a]                              m >= cw[a] + cbw[a] + max(ftmp[a], btmp[a])
//! save all   Opt[m][a][a] + Opt[m - cbw[a]][a+1][b]                 where Opt[m][a][a] is finite
//! restart    fw[a..j] + Opt[m - cw[j]][j][b] + Opt[m][a][j-1]       for each j in a+1..=b, where
//!            m >= cw[k] + cw[k+1] + ftmp[k] for each k in a..j      (forward without saving)
//! ```
//!
//! with cw the bytes of a stage's input, cbw those it saves (its output among them), ftmp and btmp
//! what its forward and backward need besides. Sizes are rounded up to slots of memory.
//!
//! It takes chains alone: graphs whose forward part has places where one tensor carries on, with
//! no more than half of what is saved between two of them. Within a stage it
//! saves all or nothing; within the stages and sizes it is given the table is optimal, which says
//! nothing of plans that look inside a stage, so a plan is never reported as optimal on that
//! account. Sizes are upper estimates; the table is asked for every number of slots, each
//! schedule is simulated, and the fastest that fits is taken.

use super::family::{boundary, fastest, settle};
use super::model::Model;
use super::segments::no_boundary;
use super::stages::{Chain, MOST, Run, Stage};
use super::{Options, Outcome, Solver};
use crate::cost::Problem;
use crate::error::{Error, Result};
use crate::units::Bytes;

/// Memory levels of the table, as in the paper.
const SLOTS: usize = 500;

/// See the module's description.
pub(super) struct Rotor;

impl Solver for Rotor {
    fn name(&self) -> &'static str {
        "rotor"
    }
    fn about(&self) -> &'static str {
        "optimal checkpointing of a chain of stages (Beaumont et al. 2019); chains only"
    }
    fn solve(&self, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome> {
        settle(self.name(), problem, budget, options, |frame| {
            let n = boundary(&frame.model).ok_or_else(|| no_boundary(self.name()))?;
            let chain =
                Chain::find(&frame.model, n, MOST).map_err(|why| Error::Unsupported { solver: self.name(), why })?;
            fastest(frame, orders(&frame.model, &chain))
        })
    }
}

/// The orders of the schedules for every number of slots.
pub(super) fn orders(model: &Model, chain: &Chain) -> Vec<Vec<u32>> {
    let links: Vec<Link> = links(&chain.stages, top(&chain.stages).div_ceil(SLOTS as u64).max(1));
    let table = Table::new(&links, SLOTS);
    let mut schedules: Vec<Vec<Run>> = Vec::new();
    for slots in 0..=SLOTS {
        let mut schedule = Vec::new();
        if table.schedule(&links, slots, 0, links.len() - 1, &mut schedule) && schedules.last() != Some(&schedule) {
            schedules.push(schedule);
        }
    }
    schedules.iter().map(|schedule| chain.order(model, schedule)).collect()
}

/// A stage in slots.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub time: u64,
    pub input: usize,
    pub forward_tmp: usize,
    /// (saved, backward_tmp, time) of each way.
    pub ways: Vec<(usize, usize, u64)>,
}

/// With this many bytes the whole chain is saved.
pub(super) fn top(stages: &[Stage]) -> u64 {
    let ways = stages.iter().map(|s| s.ways[0].saved).sum::<u64>();
    let most = stages.iter().map(|s| s.input + s.peak.max(s.ways[0].peak) + s.ways[0].saved).max();
    ways.saturating_add(most.unwrap_or(0))
}

/// The stages with `slot` bytes to a slot, rounded up.
pub(super) fn links(stages: &[Stage], slot: u64) -> Vec<Link> {
    let slots = |bytes: u64| usize::try_from(bytes.div_ceil(slot)).unwrap_or(usize::MAX / 8);
    let output = |i: usize| stages.get(i + 1).map_or(0, |s| s.input);
    let link = |(i, s): (usize, &Stage)| Link {
        time: s.time,
        input: slots(s.input),
        forward_tmp: slots(s.peak.saturating_sub(output(i))),
        // The gradient of the input is counted on its own, as the paper does.
        ways: s.ways.iter().map(|w| (slots(w.saved), slots(w.peak.saturating_sub(s.input)), w.time)).collect(),
    };
    stages.iter().enumerate().map(link).collect()
}

/// What the table chose.
#[derive(Clone, Copy)]
enum Choice {
    None,
    Save(usize),
    Restart(usize),
}

pub(super) const NEVER: u64 = u64::MAX;

/// Opt, without the times of backward ops, which every schedule pays once.
pub(super) struct Table {
    links: usize,
    best: Vec<(u64, Choice)>,
}

impl Table {
    pub fn time(&self, slots: usize, a: usize, b: usize) -> u64 {
        self.at(slots, a, b).0
    }

    fn at(&self, slots: usize, a: usize, b: usize) -> (u64, Choice) {
        self.best[(slots * self.links + a) * self.links + b]
    }

    pub fn new(links: &[Link], slots: usize) -> Self {
        let n = links.len();
        let mut table = Self { links: n, best: vec![(NEVER, Choice::None); (slots + 1) * n * n] };
        for length in 0..n {
            for a in 0..n - length {
                for m in 0..=slots {
                    let best = table.cell(links, m, a, a + length);
                    table.best[(m * n + a) * n + a + length] = best;
                }
            }
        }
        table
    }

    fn cell(&self, links: &[Link], m: usize, a: usize, b: usize) -> (u64, Choice) {
        let mut best = (NEVER, Choice::None);
        for (way, &(saved, backward_tmp, time)) in links[a].ways.iter().enumerate() {
            if m < links[a].input + saved + links[a].forward_tmp.max(backward_tmp) {
                continue;
            }
            let rest = if a == b { 0 } else { self.at(m - saved, a + 1, b).0 };
            let whole = rest.saturating_add(links[a].time).saturating_add(time);
            if rest != NEVER && whole < best.0 {
                best = (whole, Choice::Save(way));
            }
        }
        let mut forward = 0u64;
        for j in a + 1..=b {
            let k = &links[j - 1];
            if m < k.input + links[j].input + k.forward_tmp {
                break;
            }
            forward = forward.saturating_add(k.time);
            let (later, earlier) = (self.at(m - links[j].input, j, b).0, self.at(m, a, j - 1).0);
            if later != NEVER && earlier != NEVER {
                let whole = forward.saturating_add(later).saturating_add(earlier);
                if whole < best.0 {
                    best = (whole, Choice::Restart(j));
                }
            }
        }
        best
    }

    /// The schedule of the table's choices for a..=b. False when it has none.
    pub fn schedule(&self, links: &[Link], m: usize, a: usize, b: usize, out: &mut Vec<Run>) -> bool {
        match self.at(m, a, b).1 {
            Choice::None => false,
            Choice::Save(way) => {
                out.push(Run::Forward(a..a + 1));
                if a < b && !self.schedule(links, m - links[a].ways[way].0, a + 1, b, out) {
                    return false;
                }
                out.push(Run::Backward(a, way));
                true
            }
            Choice::Restart(j) => {
                out.push(Run::Forward(a..j));
                self.schedule(links, m - links[j].input, j, b, out) && self.schedule(links, m, a, j - 1, out)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::rng::Rng;
    use super::*;

    /// The recurrences as published (indices as there: cw of the stage's input, cbw of what it
    /// saves), top down, written without a look at the table.
    struct Published {
        fw: Vec<u64>,
        cw: Vec<i64>,
        cbw: Vec<i64>,
        ftmp: Vec<i64>,
        btmp: Vec<i64>,
        memo: BTreeMap<(i64, usize, usize), Option<u64>>,
    }

    impl Published {
        fn opt(&mut self, m: i64, a: usize, b: usize) -> Option<u64> {
            if m < 0 {
                return None;
            }
            if let Some(&known) = self.memo.get(&(m, a, b)) {
                return known;
            }
            let fits = m >= self.cw[a] + self.cbw[a] + self.ftmp[a] && m >= self.cw[a] + self.cbw[a] + self.btmp[a];
            let mut choices: Vec<Option<u64>> = Vec::new();
            if a == b {
                choices.push(fits.then_some(self.fw[a]));
            } else {
                if fits {
                    choices.push(self.opt(m - self.cbw[a], a + 1, b).map(|t| t + self.fw[a]));
                }
                for j in a + 1..=b {
                    if (a..j).all(|k| m >= self.cw[k] + self.cw[k + 1] + self.ftmp[k]) {
                        let (later, earlier) = (self.opt(m - self.cw[j], j, b), self.opt(m, a, j - 1));
                        choices.push(later.zip(earlier).map(|(l, e)| l + e + self.fw[a..j].iter().sum::<u64>()));
                    }
                }
            }
            let best = choices.into_iter().flatten().min();
            self.memo.insert((m, a, b), best);
            best
        }
    }

    #[test]
    fn the_table_is_what_was_published() {
        let mut rng = Rng::new(5);
        let mut roll = |n: u64| (rng.unit() * n as f64) as u64;
        let (mut finite, mut recomputing) = (0, 0);
        for _ in 0..3000 {
            let n = 1 + roll(8) as usize;
            let mut random =
                |low: u64, high: u64| -> Vec<i64> { (0..n).map(|_| (low + roll(high - low)) as i64).collect() };
            let (fw, cw, more) = (random(1, 30), random(1, 6), random(0, 9));
            let (ftmp, btmp) = (random(0, 4), random(0, 6));
            let cbw: Vec<i64> = (0..n).map(|i| more[i] + cw.get(i + 1).unwrap_or(&1)).collect();
            let links: Vec<Link> = (0..n)
                .map(|i| Link {
                    time: fw[i] as u64,
                    input: cw[i] as usize,
                    forward_tmp: ftmp[i] as usize,
                    ways: vec![(cbw[i] as usize, btmp[i] as usize, 0)],
                })
                .collect();
            let most = 20 + roll(41) as usize;
            let table = Table::new(&links, most);
            let fw: Vec<u64> = fw.iter().map(|&t| t as u64).collect();
            let once: u64 = fw.iter().sum();
            let mut published = Published { fw, cw, cbw, ftmp, btmp, memo: BTreeMap::new() };
            for m in 0..=most {
                let ours = table.at(m, 0, n - 1).0;
                assert_eq!((ours != NEVER).then_some(ours), published.opt(m as i64, 0, n - 1));
                finite += usize::from(ours != NEVER);
                recomputing += usize::from(ours != NEVER && ours > once);
                // The schedule's forward runs are what the cost says.
                let mut schedule = Vec::new();
                if table.schedule(&links, m, 0, n - 1, &mut schedule) {
                    let time = |run: &Run| match run {
                        Run::Forward(stages) => links[stages.clone()].iter().map(|l| l.time).sum(),
                        Run::Backward(..) => 0u64,
                    };
                    assert_eq!(schedule.iter().map(time).sum::<u64>(), ours);
                }
            }
        }
        assert!(finite > 25_000 && recomputing > 12_000, "{finite} {recomputing}");
    }
}
