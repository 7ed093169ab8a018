//! Cuts that fit, where every device has one chunk: whether a stage fits is then its own affair.
//!
//! Of all cuts that are not known to fail by their bounds those are taken whose tightest stage has the most to spare, and their stages
//! planned one by one, just so far that one plan fits. A stage for which none is found is left out from then on, and so is it on
//! devices that have no more for it; and the next cuts are taken. At first whatever holds such a stage is left out too:
//! neighbouring cuts tell little that is new. The stages can be asked to be no longer than some time, so
//! that between cuts that have much to spare and equal ones some can be found that are nearly equal and fit.

use std::collections::BTreeSet;
use std::time::Instant;

use super::estimate::{Estimate, Place};
use super::evaluate::Evaluator;
use crate::error::Result;
use crate::pipeline::Schedule;
use crate::units::Nanos;

/// In steps of more ops nothing is proved of stages, which takes about as long as planning them.
pub(super) const LARGE: usize = 4000;

/// A number of a stage, its first segment, and the one after its last.
type Stretch = (usize, usize, usize);

/// See the module's description.
pub(super) struct Fitting<'a, 'p> {
    evaluator: &'a Evaluator<'p>,
    estimate: &'a Estimate,
    schedule: &'a Schedule,
    places: Vec<Place>,
    fit: BTreeSet<Stretch>,
    /// No plan was found.
    unfit: BTreeSet<Stretch>,
    /// It is proved that there is none.
    never: BTreeSet<Stretch>,
    /// Time of all segments before each, and after the last, in percent of a device's.
    passed: Vec<u64>,
}

impl<'a, 'p> Fitting<'a, 'p> {
    /// None where devices have several chunks, or chunks several devices.
    pub fn new(
        evaluator: &'a Evaluator<'p>,
        estimate: &'a Estimate,
        schedule: &'a Schedule,
        places: Vec<Place>,
    ) -> Option<Self> {
        let devices = schedule.devices().len();
        if schedule.routes().len() != 1 || places.len() != devices {
            return None;
        }
        let times = estimate.times().into_iter().scan(0u64, |sum, time| {
            *sum += time;
            Some(*sum)
        });
        let passed = std::iter::once(0).chain(times).collect();
        let (fit, unfit, never) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        Some(Self { evaluator, estimate, schedule, places, fit, unfit, never, passed })
    }

    /// What a microbatch takes where nothing is recomputed.
    fn time(&self, (k, from, to): Stretch) -> Nanos {
        let time = u128::from(self.passed[to] - self.passed[from]) * 100;
        Nanos(u64::try_from(time / u128::from(self.places[k].speed.max(1))).unwrap_or(u64::MAX))
    }

    /// The longest of the stages of some cuts.
    pub fn longest(&self, ends: &[usize]) -> Nanos {
        let stages = self.estimate.stages(ends).into_iter().enumerate();
        stages.map(|(k, (from, to))| self.time((k, from, to))).max().unwrap_or(Nanos::ZERO)
    }

    /// The time of stages that are all equally long.
    pub fn equal(&self) -> Nanos {
        let speeds: u128 = self.places.iter().map(|place| u128::from(place.speed)).sum();
        let all = u128::from(self.passed.last().copied().unwrap_or(0)) * 100;
        Nanos(u64::try_from(all / speeds.max(1)).unwrap_or(u64::MAX))
    }

    /// Cuts of which each stage fits and none is longer than `longest`, if some are found in time. With `thorough` neighbours of
    /// stages that do not fit are looked at as well, once nothing else is left.
    ///
    /// # Errors
    /// Those of planning stages.
    pub fn cuts(&mut self, longest: Nanos, thorough: bool, until: Option<Instant>) -> Result<Option<Vec<usize>>> {
        let mut wary = true;
        let late = || until.is_some_and(|until| Instant::now() >= until);
        while !late() {
            let Some(ends) = self.next(longest, wary) else {
                if !std::mem::take(&mut wary) || !thorough {
                    break;
                }
                continue;
            };
            let mut all = true;
            for (k, (from, to)) in self.estimate.stages(&ends).into_iter().enumerate() {
                if all && !self.fit.contains(&(k, from, to)) {
                    if late() {
                        return Ok(None);
                    }
                    all = self.fits((k, from, to), &ends)?;
                }
            }
            if all {
                return Ok(Some(ends));
            }
        }
        Ok(None)
    }

    /// Whether each of all cuts has a stage of which it is proved that no plan fits.
    pub fn proved(&self) -> bool {
        self.roomiest(&|k, from, to| self.never.contains(&(k, from, to))).is_none()
    }

    /// Have the stages for which no plan was found planned again, but for those that it is proved of.
    pub fn forget(&mut self) {
        self.unfit.clone_from(&self.never);
    }

    /// The roomiest cuts that nothing is known against.
    fn next(&self, longest: Nanos, wary: bool) -> Option<Vec<usize>> {
        self.roomiest(&|k, from, to| {
            let holds = |&(other, first, last): &Stretch| k == other && from <= first && last <= to;
            let known = self.unfit.contains(&(k, from, to)) || wary && self.unfit.iter().any(holds);
            known || self.time((k, from, to)) > longest
        })
    }

    fn roomiest(&self, without: &dyn Fn(usize, usize, usize) -> bool) -> Option<Vec<usize>> {
        self.estimate.roomiest(&self.places, Some(&mut *self.evaluator.saved.borrow_mut()), without)
    }

    /// Plan a stage of `ends`.
    fn fits(&mut self, (k, from, to): Stretch, ends: &[usize]) -> Result<bool> {
        let device = self.schedule.routes()[0][k].index();
        self.evaluator.any.set(true);
        let lack = self.evaluator.missing_on(device, ends, self.schedule);
        self.evaluator.any.set(false);
        if lack? == 0 {
            self.fit.insert((k, from, to));
            return Ok(true);
        }
        let place = &self.places[k];
        let all = || (0..self.places.len()).filter(|&other| self.places[other].has_no_more(place));
        self.unfit.extend(all().map(|other| (other, from, to)));
        if !place.offloads && self.evaluator.problem.graph.ops().len() <= LARGE {
            let each = self.evaluator.saved.borrow_mut().least(from, to);
            if self.evaluator.refuted((from, to), place, each, self.schedule)? {
                self.never.extend(all().map(|other| (other, from, to)));
            }
        }
        Ok(false)
    }
}

#[cfg(all(test, feature = "fuzzing"))]
mod tests {
    use super::super::cuts::Layout;
    use super::super::search::places;
    use super::*;
    use crate::fuzz::series_parallel;
    use crate::pipeline::{self, Shape, Topology};
    use crate::units::Bytes;

    /// Against all cuts there are.
    #[test]
    fn cuts_are_found_where_there_are_some() {
        let (mut found, mut none, mut proofs) = (0, 0, 0);
        let shape = Shape { stages: 3, microbatches: 4, chunks: None };
        let schedule = pipeline::by_name("1f1b").unwrap().generate(shape).unwrap();
        for seed in 0..30 {
            let problem = series_parallel(seed, 24, true);
            let (layout, cuts) = Layout::new(&problem);
            if cuts.len() < 2 {
                continue;
            }
            let estimate = Estimate::new(&problem, &layout, &cuts);
            for memory in [60, 100, 140, 180, 240] {
                let topology = Topology::equal(3, Bytes(memory));
                let evaluator = Evaluator::new(&problem, &topology, &layout, &cuts, estimate.state);
                evaluator.nodes.set(Some(100));
                let places = places(&topology, &schedule, &schedule.routes()[0]);
                let mut fitting = Fitting::new(&evaluator, &estimate, &schedule, places).unwrap();
                let missing = |ends: &[usize]| {
                    evaluator.any.set(true);
                    let missing = evaluator.missing(ends, &schedule).unwrap();
                    evaluator.any.set(false);
                    missing.iter().sum::<u64>()
                };
                let all = (1..cuts.len()).flat_map(|first| (first + 1..=cuts.len()).map(move |second| [first, second]));
                let fit: Vec<[usize; 2]> = all.filter(|ends| missing(ends) == 0).collect();
                let Some(ends) = fitting.cuts(Nanos(u64::MAX), true, None).unwrap() else {
                    assert!(fit.is_empty(), "seed {seed}, {memory} bytes: {fit:?} fit");
                    none += 1;
                    proofs += usize::from(fitting.proved());
                    continue;
                };
                assert!(
                    fit.iter().any(|known| known[..] == ends[..]),
                    "seed {seed}, {memory} bytes: {ends:?} lack some"
                );
                assert!(!fitting.proved());
                found += 1;
                let least = fit.iter().map(|ends| fitting.longest(ends)).min().unwrap();
                let ends = fitting.cuts(least, true, None).unwrap().unwrap();
                assert_eq!(fitting.longest(&ends), least, "seed {seed}, {memory} bytes");
                assert!(fitting.equal() <= least);
            }
        }
        println!("{found} found, {none} not, of {proofs} it is proved");
        assert!(found > 30 && none > 50 && proofs > 10);
    }
}
