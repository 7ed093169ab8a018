//! The bodies of the fuzz targets on seeds and on random changes of them: a short run of what
//! `cargo fuzz` does for long.

#![cfg(feature = "fuzzing")]

use std::time::Duration;

use plimsoll::Bytes;
use plimsoll::fuzz::{CHOICES, Shape, load_plan, load_problem, mutated, plan_problem, problem, solve_then_check};
use plimsoll::solver::{self, Options};

fn file(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Small problem files, real and random.
fn problems() -> Vec<Vec<u8>> {
    let random = (0..12).map(|seed| problem(seed, Shape::all(2 + seed as usize * 2)).to_json().into_bytes());
    ["tiny.problem.json", "yard.problem.json"].map(file).into_iter().chain(random).collect()
}

/// Plans of the problem that the target checks them against, with and without copies.
fn plans() -> Vec<Vec<u8>> {
    let linked = plan_problem();
    let mut unlinked = linked.clone();
    unlinked.device = Default::default();
    let (low, high) = (linked.trivial_bound().get(), solver::baseline(&linked).1.peak.get());
    let mut plans = Vec::new();
    for problem in [&linked, &unlinked] {
        for k in 0..6 {
            let options = Options { time_limit: Duration::from_secs(600), node_limit: Some(50), ..Options::default() };
            let plan = solver::plan(problem, Bytes(low + (high - low) * k / 5), "auto", &options);
            plans.extend(plan.ok().map(|plan| plan.to_json().into_bytes()));
        }
    }
    plans
}

/// Runs a target on each seed and on changes of it; how many of the changed were let in.
fn run(seeds: &[Vec<u8>], changes: u64, target: fn(&[u8]) -> bool) -> usize {
    let mut accepted = 0;
    for (k, seed) in seeds.iter().enumerate() {
        for change in 0..changes {
            accepted += usize::from(target(&mutated(k as u64 * 1_000_003 + change, seed)));
        }
    }
    accepted
}

#[test]
fn problem_loader() {
    let seeds = problems();
    assert!(seeds.iter().all(|seed| load_problem(seed)));
    for name in ["gpt-4x256-b8", "resnet-8x32-b8", "unet-3x16-b4"] {
        assert!(load_problem(&file(&format!("{name}.problem.json"))));
    }
    for garbage in ["", "{", "[]", "null", "\u{0}", "{\"format\":\"plimsoll.problem\"}"] {
        assert!(!load_problem(garbage.as_bytes()));
    }
    let (accepted, all) = (run(&seeds, 1500, load_problem), seeds.len() * 1500);
    println!("{accepted} of {all} changed problems were let in");
    // Both sides of the door are looked at.
    assert!(accepted > all / 20 && accepted < all * 9 / 10);
}

#[test]
fn plan_loader() {
    let seeds = plans();
    assert!(seeds.len() >= 4, "{} plans", seeds.len());
    assert!(seeds.iter().all(|seed| load_plan(seed)));
    let copies = seeds.iter().filter(|seed| String::from_utf8_lossy(seed).contains("prefetch"));
    assert!(copies.count() >= 1, "no seed offloads anything");
    let (accepted, all) = (run(&seeds, 1500, load_plan), seeds.len() * 1500);
    println!("{accepted} of {all} changed plans are legal");
    assert!(accepted > all / 50 && accepted < all * 9 / 10);
}

#[test]
fn solving() {
    let mut seeds = Vec::new();
    for (k, problem) in problems().into_iter().enumerate() {
        // Any solver, any budget, every option on its own and all together.
        for j in 0..12u8 {
            let choices: [u8; CHOICES] = [k as u8 * 5 + j, j * 21, j, 40, 200 * (j % 2) + j % 2, 160 + j, 40, j];
            seeds.push([&choices[..], &problem].concat());
        }
    }
    let plans = seeds.iter().filter(|seed| solve_then_check(seed)).count();
    println!("{plans} plans for {} seeds", seeds.len());
    assert!(plans * 5 > seeds.len());
    let changed = run(&seeds, 3, solve_then_check);
    println!("{changed} plans for {} changed seeds", seeds.len() * 3);
    assert!(changed * 6 > seeds.len() * 3);
}
