//! The default: the best of all heuristics by exact simulation, then improved.

use std::time::Instant;

use rayon::prelude::*;

use super::evict::{Evictor, Rule};
use super::improve::Search;
use super::model::Model;
use super::rng::Rng;
use super::sim::Score;
use super::Options;

/// Orders improved side by side: a constant, so that results do not depend on the number of cores.
const LANES: usize = 4;

/// An order and what it comes to.
pub(super) type Scored = (Vec<u32>, Score);

/// The best order found from `seeds` (and from everything kept), whether or not it fits.
pub(super) fn search(model: &Model, budget: u64, seeds: Vec<Vec<u32>>, options: &Options, improve: bool) -> Scored {
    let started = Instant::now();
    let late = || started.elapsed() >= options.time_limit;
    let keep_all = model.keep_all();
    let mut starts: Vec<(Vec<u32>, Rule)> = Rule::PORTFOLIO.iter().map(|&rule| (keep_all.clone(), rule)).collect();
    starts.extend(seeds.into_iter().map(|order| (order, Rule::PLAIN)));
    let mut found: Vec<Scored> = starts
        .into_par_iter()
        .map(|(mut order, rule)| {
            let mut evictor = Evictor::default();
            evictor.run(model, &mut order, budget, rule, &mut Rng::new(options.seed), u64::MAX);
            let mut search = Search::new(model, budget, order, 0);
            let mut order = search.best.clone();
            let score = search.give_back(&mut order);
            (order, score)
        })
        .collect();
    found.sort_by_key(|(_, score)| score.rank(budget));
    if std::env::var("PL_DEBUG").is_ok() {
        for f in &found {
            eprintln!("seed peak {} time {} len {}", f.1.peak as f64 / budget as f64, f.1.time, f.0.len());
        }
        eprintln!("t {:?}", started.elapsed());
    }
    if !improve {
        return found.swap_remove(0);
    }
    let lanes = found.len().min(LANES);
    let mut searches: Vec<Search> = (0..LANES)
        .map(|lane| {
            let seed = options.seed.wrapping_mul(1_000_003).wrapping_add(lane as u64);
            let order = found[lane % lanes].0.clone();
            Search::new(model, budget, order, seed)
        })
        .collect();
    let mut best = found.swap_remove(0);
    let mut stalled = 0;
    let rounds = 10;
    let work = 100_000_000 / (LANES * rounds) as u64;
    for round in 0..rounds {
        if late() || stalled >= 3 {
            break;
        }
        let heat = 0.1 * (1.0 - round as f64 / rounds as f64);
        searches.par_iter_mut().for_each(|search| search.improve(work, heat, &late));
        let (lane, score) = searches
            .iter()
            .map(|s| s.score)
            .enumerate()
            .min_by_key(|(lane, score)| (score.rank(budget), *lane))
            .expect("there are lanes");
        if std::env::var("PL_DEBUG").is_ok() {
            eprintln!("round {round} {:?} {:?}", searches.iter().map(|s| s.score.time).collect::<Vec<_>>(), started.elapsed());
        }
        if score.rank(budget) < best.1.rank(budget) {
            stalled = 0;
            best = (searches[lane].best.clone(), score);
        } else {
            stalled += 1;
        }
        if round % 2 == 1 {
            let worst = (0..LANES).max_by_key(|&l| (searches[l].score.rank(budget), l)).expect("there are lanes");
            searches[worst].restart(&best.0, best.1);
        }
    }
    best
}
