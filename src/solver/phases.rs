//! The phases of Checkmate as a mixed integer program.
//!
//! Jain et al., "Checkmate: breaking the memory wall with optimal tensor rematerialization"
//! (2020). Phase t ends with the first run of unit t; before that it may run earlier units again,
//! each once at most, in the order of the graph. R(t,i): unit i runs in phase t. S(t,s): storage s
//! is live at the start of phase t.
//!
//! ```text
//! R(t,t) = 1                                     every unit has its phase
//! R(t,i) <= R(t,maker of s) + S(t,s)             s read by i
//! S(t+1,s) <= S(t,s) + R(t,maker of s)
//! R(t,maker of s) + S(t,s) <= 1                  what runs again was not worth keeping: its
//!                                                readers come after it in the phase
//! ```
//!
//! Memory during unit k of phase t is exact, but in place of the paper's products for what is
//! freed when there is Q(t,j,s): s is needed by the reader j of s or anything later in phase t.
//!
//! ```text
//! Q(t,j,s) >= R(t,j),   Q(t,j,s) >= Q(t,next reader,s),   after the last reader: S(t+1,s)
//!
//! slot         maker of s          reader j    k        reader j'
//! live   S(t,s) |  R + S             |     Q(t,j',s)       |   S(t+1,s)
//! ```
//!
//! Half a run in each of two phases can make up, in the relaxation, for what was never kept. With
//! L(t,i), unit i runs in phase t or later, it cannot (a program more than twice as large):
//!
//! ```text
//! L(t,i) = 1                                     i >= t
//! L(t,i) <= L(t,maker of s) + S(t,s)             s read by i
//! L(t,i) <= sum of R(t',i) over t' >= t
//! L(t+1,i) <= L(t,i)
//! ```
//!
//! Four things are known beforehand, and make the program much smaller:
//!
//! - Up to the first unit t0 at which all that was made so far, with nothing freed, exceeds the
//!   budget, nothing needs to be dropped: S = 1 and R = 0. (Dropping is free, so the later the
//!   better.)
//! - What nothing can read any more, directly or through what runs again, is not kept or made:
//!   S = R = 0.
//! - A run that is not read in its phase was for later: R(t,i) <= sum of R(t,readers of i) + S(t+1,s).
//! - A plan known to fit is a cutoff; one unit's time must fit into what it pays for recomputation.
//!
//! Only R has to be integer: the least S and Q for an integer R are integers. What this adds to
//! the paper: storages apart from values (views cost time, W(t,v), but no bytes; they run again
//! after their storage was made again), units with several outputs, workspaces, residents, and
//! units that may not run again (R = 0 beyond their phase). In-place reuse is not modelled.

use super::Options;
use super::milp::{Answer, Milp, Term, Verdict};
use super::model::{Model, NONE};

/// What to solve.
pub(super) struct Phases<'a, 'm> {
    pub model: &'a Model<'m>,
    pub budget: u64,
    /// Whether R is integer.
    pub integer: bool,
    /// Times a unit may run at most.
    pub runs: Option<u32>,
    /// Only plans faster than this are looked for, in nanoseconds.
    pub faster_than: Option<u64>,
    /// Whether L is in the program, which proves more with a larger program.
    pub later: bool,
}

/// R and S as the solver left them.
pub(super) struct Solution {
    pub verdict: Verdict,
    /// `runs[t][i]`, i <= t.
    pub runs: Vec<Vec<f64>>,
    /// `live[t][s]`.
    pub live: Vec<Vec<f64>>,
}

const ZERO: Term = Term::Known(0.0);
const ONE: Term = Term::Known(1.0);
/// Costs are scaled to this sum, so that tolerances mean the same in every problem.
const COST: f64 = 1e4;

impl Phases<'_, '_> {
    pub fn solve(&self, options: &Options) -> Solution {
        let model = self.model;
        let n = model.units.len();
        let scale = COST / model.units.iter().map(|u| u.time as f64).sum::<f64>().max(1.0);
        let mut milp = Milp::default();
        let once: u64 = model.units.iter().map(|u| u.time).sum();
        // What may be paid beyond running everything once, views included.
        let extra = self.faster_than.map(|time| time.saturating_sub(once));
        let step = self.step();
        milp.step = step as f64 * scale;
        milp.cutoff = extra.map(|extra| (extra as f64 - 0.5 * step as f64) * scale);
        let (readers, full, useful) = (readers(model), self.full(), useful(model));
        let mut runs: Vec<Vec<Term>> = Vec::with_capacity(n);
        for t in 0..n {
            let mut row: Vec<Term> = Vec::with_capacity(t + 1);
            for unit in &model.units[..t] {
                let wanted = t > full && unit.writes.iter().any(|&s| useful[s as usize] >= t);
                let pays = extra.is_none_or(|extra| unit.time < extra.max(1));
                row.push(match unit.replayable && wanted && pays {
                    true => milp.column(self.integer, unit.time as f64 * scale),
                    false => ZERO,
                });
            }
            row.push(ONE);
            runs.push(row);
        }
        let mut live: Vec<Vec<Term>> = Vec::with_capacity(n + 1);
        for t in 0..n {
            let column = |(s, item): (usize, &super::model::Item)| match item.maker != NONE && (item.maker as usize) < t
            {
                true if useful[s] < t => ZERO,
                true if t <= full => ONE,
                true => milp.column(false, 0.0),
                false => ZERO,
            };
            live.push(model.items.iter().enumerate().map(column).collect());
        }
        live.push(vec![ZERO; model.items.len()]);
        self.dependencies(&mut milp, &runs, &live);
        if self.integer {
            // It helps to prove; the relaxation alone only gets slower.
            self.purpose(&mut milp, &runs, &live, &readers);
        }
        if self.later {
            self.later(&mut milp, &runs, &live);
        }
        self.views(&mut milp, &runs, &live, scale);
        for t in 0..n {
            self.memory(&mut milp, &runs, &live, &readers, t);
        }
        if let Some(most) = self.runs {
            for (i, _) in model.units.iter().enumerate() {
                milp.at_most(runs[i..].iter().map(|row| (1.0, row[i])), f64::from(most));
            }
        }
        let answer = milp.solve(options, options.node_limit);
        let read = |terms: &[Term], answer: &Answer| terms.iter().map(|&t| answer.value(t)).collect();
        Solution {
            verdict: answer.verdict,
            runs: runs.iter().map(|row| read(row, &answer)).collect(),
            live: live.iter().map(|row| read(row, &answer)).collect(),
        }
    }

    /// The first unit at which everything made so far does not fit.
    pub fn full(&self) -> usize {
        let model = self.model;
        let mut made = model.resident;
        let over = model.units.iter().position(|unit| {
            made += unit.writes.iter().map(|&s| model.items[s as usize].bytes).sum::<u64>();
            made + unit.workspace > self.budget
        });
        over.unwrap_or(model.units.len())
    }

    /// The greatest time of which every time is a multiple.
    pub fn step(&self) -> u64 {
        let times = self.model.units.iter().map(|u| u.time).chain(self.model.views.iter().map(|v| v.time));
        times.fold(0, |mut a, mut b| {
            while b > 0 {
                (a, b) = (b, a % b);
            }
            a
        })
    }

    /// No run for nothing.
    fn purpose(&self, milp: &mut Milp, runs: &[Vec<Term>], live: &[Vec<Term>], readers: &[Vec<usize>]) {
        for (t, row) in runs.iter().enumerate() {
            for (i, &run) in row[..t].iter().enumerate().filter(|(_, run)| matches!(run, Term::Column(_))) {
                let items = self.model.units[i].writes.iter().map(|&s| s as usize);
                let read = items.clone().flat_map(|s| readers[s].iter().filter(|&&j| j <= t)).map(|&j| row[j]);
                let purposes = read.chain(items.map(|s| live[t + 1][s])).map(|term| (-1.0, term));
                milp.at_most([(1.0, run)].into_iter().chain(purposes), 0.0);
            }
        }
    }

    /// L(t,i): unit i runs in phase t or later. What it reads then was live or is made then.
    fn later(&self, milp: &mut Milp, runs: &[Vec<Term>], live: &[Vec<Term>]) {
        let (model, n) = (self.model, self.model.units.len());
        let mut last: Vec<Term> = Vec::new();
        for t in self.full() + 1..n {
            let mut late: Vec<Term> = Vec::with_capacity(n);
            for i in 0..n {
                late.push(match i >= t {
                    true => ONE,
                    false if runs[t..].iter().all(|row| matches!(row[i], Term::Known(_))) => ZERO,
                    false => milp.column(false, 0.0),
                });
            }
            for (i, unit) in model.units.iter().enumerate() {
                if matches!(late[i], Term::Known(0.0)) {
                    continue;
                }
                for &s in &unit.reads {
                    let maker = model.items[s as usize].maker;
                    if maker != NONE && (maker as usize) < t {
                        let there = [(-1.0, late[maker as usize]), (-1.0, live[t][s as usize])];
                        milp.at_most([(1.0, late[i])].into_iter().chain(there), 0.0);
                    }
                }
                if i < t {
                    let runs = runs[t..].iter().map(|row| (-1.0, row[i]));
                    milp.at_most([(1.0, late[i])].into_iter().chain(runs), 0.0);
                    if let Some(&last) = last.get(i) {
                        milp.at_most([(1.0, late[i]), (-1.0, last)], 0.0);
                    }
                }
            }
            last = late;
        }
    }

    fn dependencies(&self, milp: &mut Milp, runs: &[Vec<Term>], live: &[Vec<Term>]) {
        let model = self.model;
        let n = model.units.len();
        for t in 0..n {
            for (i, unit) in model.units[..=t].iter().enumerate() {
                if i < t && !unit.replayable {
                    continue;
                }
                for &s in &unit.reads {
                    let maker = model.items[s as usize].maker;
                    if maker != NONE {
                        let there = [(-1.0, runs[t][maker as usize]), (-1.0, live[t][s as usize])];
                        milp.at_most([(1.0, runs[t][i])].into_iter().chain(there), 0.0);
                    }
                }
            }
            for (s, item) in model.items.iter().enumerate().filter(|(_, i)| i.maker != NONE) {
                let maker = item.maker as usize;
                if maker < t {
                    milp.at_most([(1.0, runs[t][maker]), (1.0, live[t][s])], 1.0);
                    milp.at_most([(1.0, live[t + 1][s]), (-1.0, live[t][s]), (-1.0, runs[t][maker])], 0.0);
                }
            }
        }
    }

    /// W(t,v): view v runs in phase t. V(t,v): it is up to date at the start of phase t.
    fn views(&self, milp: &mut Milp, runs: &[Vec<Term>], live: &[Vec<Term>], scale: f64) {
        let model = self.model;
        let n = model.units.len();
        // Views that cost something, and those that read one.
        let mut costly: Vec<bool> = Vec::with_capacity(model.views.len());
        for view in &model.views {
            costly.push(view.time > 0 || view.reads.iter().any(|&v| costly[v as usize]));
        }
        // The unit with whose phase each view can first be wanted.
        let mut first = vec![usize::MAX; model.views.len()];
        for (u, unit) in model.units.iter().enumerate().rev() {
            unit.views.iter().for_each(|&v| first[v as usize] = u);
        }
        for (v, view) in model.views.iter().enumerate().rev() {
            view.reads.iter().for_each(|&base| first[base as usize] = first[base as usize].min(first[v]));
        }
        let mut current: Vec<Term> = vec![ZERO; model.views.len()];
        for t in 0..n {
            let mut run: Vec<Term> = vec![ZERO; model.views.len()];
            for (v, view) in model.views.iter().enumerate().filter(|&(v, _)| costly[v] && first[v] <= t) {
                run[v] = milp.column(false, view.time as f64 * scale);
            }
            let there = |v: usize| [(-1.0, run[v]), (-1.0, current[v])];
            for (i, unit) in model.units[..=t].iter().enumerate() {
                for v in unit.views.iter().map(|&v| v as usize).filter(|&v| costly[v]) {
                    milp.at_most([(1.0, runs[t][i])].into_iter().chain(there(v)), 0.0);
                }
            }
            for (v, view) in model.views.iter().enumerate().filter(|&(v, _)| costly[v] && first[v] <= t) {
                for base in view.reads.iter().map(|&b| b as usize).filter(|&b| costly[b]) {
                    milp.at_most([(1.0, run[v])].into_iter().chain(there(base)), 0.0);
                }
            }
            let mut next = current.clone();
            for (v, view) in model.views.iter().enumerate().filter(|&(v, _)| costly[v] && first[v] <= t) {
                next[v] = milp.column(false, 0.0);
                milp.at_most([(1.0, next[v])].into_iter().chain(there(v)), 0.0);
                if view.item != NONE && t + 1 < n {
                    milp.at_most([(1.0, next[v]), (-1.0, live[t + 1][view.item as usize])], 0.0);
                }
            }
            current = next;
        }
    }

    /// The budget at every unit of phase t.
    fn memory(&self, milp: &mut Milp, runs: &[Vec<Term>], live: &[Vec<Term>], readers: &[Vec<usize>], t: usize) {
        let model = self.model;
        // Q of each item at each of its readers up to t, and what comes after the last.
        let needed: Vec<Vec<(usize, Term)>> = (0..model.items.len())
            .map(|s| {
                let mut later = live[t + 1][s];
                let mut needed: Vec<(usize, Term)> = Vec::new();
                for &j in readers[s].iter().rev().filter(|&&j| j <= t) {
                    later = match (runs[t][j], later) {
                        (Term::Known(1.0), _) | (_, Term::Known(1.0)) => ONE,
                        (Term::Known(_), other) => other,
                        (run, Term::Known(_)) => run,
                        (run, other) => {
                            let q = milp.column(false, 0.0);
                            milp.at_most([(1.0, run), (-1.0, q)], 0.0);
                            milp.at_most([(1.0, other), (-1.0, q)], 0.0);
                            q
                        }
                    };
                    needed.push((j, later));
                }
                needed.reverse();
                needed
            })
            .collect();
        let unit = 1.0 / self.budget.max(1) as f64;
        for (k, &run) in runs[t].iter().enumerate() {
            if k < t && !model.units[k].replayable {
                continue;
            }
            let mut row: Vec<(f64, Term)> = vec![(model.units[k].workspace as f64 * unit, run)];
            for (s, item) in model.items.iter().enumerate().filter(|(_, i)| i.maker != NONE && i.bytes > 0) {
                let maker = item.maker as usize;
                let bytes = item.bytes as f64 * unit;
                match maker.cmp(&k) {
                    std::cmp::Ordering::Greater => row.push((bytes, live[t][s])),
                    std::cmp::Ordering::Equal => row.extend([(bytes, run), (bytes, live[t][s])]),
                    std::cmp::Ordering::Less => {
                        let place = needed[s].partition_point(|&(j, _)| j < k);
                        row.push((bytes, needed[s].get(place).map_or(live[t + 1][s], |&(_, q)| q)));
                    }
                }
            }
            milp.at_most(row, (self.budget as f64 - model.resident as f64) * unit);
        }
    }
}

/// The last phase in which each item can be read, directly or by what is made of it again; 0 if
/// never.
fn useful(model: &Model) -> Vec<usize> {
    let mut useful = vec![0; model.items.len()];
    for (u, unit) in model.units.iter().enumerate().rev() {
        let again = unit.writes.iter().map(|&s| useful[s as usize]).max().filter(|_| unit.replayable);
        let last = again.unwrap_or(0).max(u);
        unit.reads.iter().for_each(|&s| useful[s as usize] = last.max(useful[s as usize]));
    }
    useful
}

fn readers(model: &Model) -> Vec<Vec<usize>> {
    let mut readers = vec![Vec::new(); model.items.len()];
    for (u, unit) in model.units.iter().enumerate() {
        unit.reads.iter().for_each(|&s| readers[s as usize].push(u));
    }
    readers
}

impl Solution {
    /// The order of units that R stands for.
    pub fn order(&self) -> Vec<u32> {
        let phase = |row: &Vec<f64>| row.iter().enumerate().filter(|(_, x)| **x > 0.5).map(|(i, _)| i as u32).collect();
        self.runs.iter().map(phase).collect::<Vec<Vec<u32>>>().concat()
    }
}
