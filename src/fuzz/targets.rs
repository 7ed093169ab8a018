//! What the fuzz targets do with arbitrary bytes: each panics where a promise of the crate is
//! broken, and says whether the bytes got past the door.
//!
//! The targets in `fuzz/` hand them what libFuzzer makes up; a test hands them seeds and what
//! [`mutated`] makes of those.

use std::time::Duration;

use super::{Dice, Shape, problem};
use crate::check::{check, check_steps};
use crate::cost::Problem;
use crate::error::Error;
use crate::plan::{Plan, Step, simulate};
use crate::solver::{self, Options, Outcome};
use crate::units::Bytes;

/// Ops above which a problem is not solved here: a target should run often.
const MOST_OPS: usize = 48;
/// Bytes of choices before the problem of [`solve_then_check`].
pub const CHOICES: usize = 8;

/// A problem file: accepted or refused with a reason. What is accepted is written and read back as
/// the same problem, and can be run as it stands.
///
/// # Panics
/// When any of that does not hold.
pub fn load_problem(data: &[u8]) -> bool {
    let read_whole = read(Problem::from_json(&String::from_utf8_lossy(data), "fuzz"));
    if std::str::from_utf8(data).is_ok() {
        assert_eq!(read(Problem::from_reader(data, "fuzz")), read_whole, "a stream is read as a text is");
    }
    let Some(problem) = read_whole else { return false };
    let again = Problem::from_json(&problem.to_json(), "again").expect("what was written can be read");
    assert_eq!(problem, again);
    let (steps, timeline) = solver::baseline(&problem);
    let checked = check_steps(&problem, &steps, timeline.peak);
    assert_eq!(checked.expect("the graph's own order is legal").peak, timeline.peak);
    true
}

/// A plan file: accepted or refused with a reason. What is accepted is written and read back as the
/// same plan; simulator and checker take its steps without panicking, and agree on its peak where
/// it is legal. True when it is.
///
/// # Panics
/// When any of that does not hold.
pub fn load_plan(data: &[u8]) -> bool {
    let Some(plan) = read(Plan::from_json(&String::from_utf8_lossy(data), "fuzz")) else { return false };
    let mut again = Plan::from_json(&plan.to_json(), "again").expect("what was written can be read");
    // Reading a fraction may change its last digit.
    for (a, b) in [
        (&mut again.predicted.overhead, plan.predicted.overhead),
        (&mut again.predicted.lower_bound, plan.predicted.lower_bound),
    ] {
        assert!((*a - b).abs() <= b.abs() * 1e-12, "{a} is not {b}");
        *a = b;
    }
    assert_eq!(again, plan);
    let problem = plan_problem();
    let simulated = simulate(&problem, &plan.steps);
    let Ok(checked) = check_steps(&problem, &plan.steps, plan.budget) else { return false };
    let timeline = simulated.expect("what is legal can be simulated");
    assert_eq!((checked.peak, checked.host_peak), (timeline.peak, timeline.host_peak));
    assert!(checked.peak <= plan.budget && checked.host_peak <= problem.device.host_memory);
    true
}

/// The problem that [`load_plan`] runs steps on.
pub fn plan_problem() -> Problem {
    let mut problem = problem(143, Shape::all(12));
    let device = &mut problem.device;
    (device.d2h_bytes_per_s, device.h2d_bytes_per_s) = (1 << 30, 1 << 29);
    device.host_memory = Bytes(40);
    problem
}

/// [`CHOICES`] bytes that choose solver, budget and options, then a problem file or, where that is
/// none, anything at all: then the bytes are a random problem's seed. Whatever a solver answers
/// must be true. True when it answers with a plan.
///
/// # Panics
/// When it is not.
pub fn solve_then_check(data: &[u8]) -> bool {
    let (choices, rest) = data.split_at(data.len().min(CHOICES));
    let choice = |k: usize| u64::from(choices.get(k).copied().unwrap_or(0));
    let hash = rest.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut problem = match Problem::from_json(&String::from_utf8_lossy(rest), "fuzz") {
        Ok(problem) => problem,
        Err(_) => problem(
            hash,
            Shape { once: hash & 1 == 0, joins: hash & 6 == 0, ..Shape::all(1 + (hash >> 8) as usize % MOST_OPS) },
        ),
    };
    if problem.graph.ops().len() > MOST_OPS {
        return false;
    }
    if choice(4) & 1 == 1 {
        let device = &mut problem.device;
        (device.d2h_bytes_per_s, device.h2d_bytes_per_s) = (1 << (choice(4) / 8), 1 << (choice(5) / 8));
        device.host_memory = Bytes(1 << (choice(6) / 8));
    }
    let solvers = solver::solvers();
    let name = solvers[choice(0) as usize % solvers.len()].name();
    let (low, high) = (problem.trivial_bound().get(), solver::baseline(&problem).1.peak.get());
    let width = u128::from(high.saturating_sub(low));
    // Somewhat below what any plan needs to somewhat above what keeping everything does.
    let budget = Bytes((low - low / 16).saturating_add((width * u128::from(choice(1)) / 200) as u64));
    let cancel = solver::Cancel::new();
    if choice(2) & 7 == 7 {
        cancel.cancel();
    }
    let options = Options {
        time_limit: Duration::from_secs(2),
        node_limit: Some(choice(3)),
        seed: choice(7),
        inplace: choice(2) & 8 == 0,
        cancel,
        ..Options::default()
    };
    let outcome = match solver::by_name(name).and_then(|solver| solver.solve(&problem, budget, &options)) {
        Err(Error::Unsupported { .. }) => return false,
        other => other.expect("a solver refuses or answers"),
    };
    judge(&problem, budget, &options, &outcome);
    outcome.plan().is_some()
}

/// Everything that an outcome claims.
fn judge(problem: &Problem, budget: Bytes, options: &Options, outcome: &Outcome) {
    let everything = solver::baseline(problem).1.peak;
    match outcome {
        Outcome::Optimal(plan) | Outcome::Feasible { plan, .. } => {
            let checked = check(problem, plan).expect("a plan is legal");
            let timeline = simulate(problem, &plan.steps).expect("a legal plan can be simulated");
            let told = &plan.predicted;
            assert_eq!((plan.budget, told.peak, told.time), (budget, timeline.peak, timeline.time));
            assert!(checked.peak <= budget && told.peak == checked.peak);
            assert!(told.lower_bound <= told.overhead, "{told:?}");
            assert!(solver::lower_bound(problem, budget) <= told.overhead, "{told:?}");
            let takes_over = |step: &Step| matches!(step, Step::Compute { inplace, .. } if !inplace.is_empty());
            assert!(options.inplace || !plan.steps.iter().any(takes_over));
        }
        Outcome::Infeasible { minimum_feasible, why, .. } => {
            assert!(budget < everything, "everything kept fits: {why}");
            assert!(minimum_feasible.is_none_or(|least| least > budget), "{minimum_feasible:?} {why}");
        }
        Outcome::Unknown { minimum_feasible, .. } => {
            assert!(minimum_feasible.is_none_or(|least| least > budget), "{minimum_feasible:?}");
        }
    }
    if let Outcome::Feasible { plan, lower_bound, gap } = outcome {
        assert_eq!((*lower_bound, *gap), (plan.predicted.lower_bound, plan.predicted.gap()));
        assert!(gap.is_finite() && *gap >= 0.0);
    }
}

/// What was read; a refusal must say why.
fn read<T>(result: Result<T, Error>) -> Option<T> {
    result.map_err(|error| assert!(!error.to_string().is_empty())).ok()
}

/// `data` with a few random changes: bytes, stretches, and numbers, which are what JSON files are
/// mostly made of.
pub fn mutated(seed: u64, data: &[u8]) -> Vec<u8> {
    const NUMBERS: [&str; 10] =
        ["0", "1", "2", "-1", "7", "4294967296", "9223372036854775807", "18446744073709551615", "1e309", "null"];
    let mut dice = Dice(seed);
    let mut data = data.to_vec();
    for _ in 0..1 + dice.roll(3) {
        let len = data.len() as u64;
        let at = dice.roll(len + 1) as usize;
        match dice.roll(6) {
            0 if at < data.len() => data[at] = dice.roll(256) as u8,
            1 => data.insert(at, b"{}[]\",:0-e"[dice.roll(10) as usize]),
            2 => drop(data.drain(at..(at + dice.roll(16) as usize).min(len as usize))),
            3 => {
                let from = dice.roll(len + 1) as usize;
                let copy = data[from..(from + dice.roll(64) as usize).min(len as usize)].to_vec();
                data.splice(at..at, copy);
            }
            // A number, found from a random place on.
            _ => {
                let Some(start) = data[at..].iter().position(u8::is_ascii_digit).map(|k| at + k) else { continue };
                let digits = data[start..].iter().take_while(|b| b.is_ascii_digit()).count();
                let number = NUMBERS[dice.roll(NUMBERS.len() as u64) as usize];
                data.splice(start..start + digits, number.bytes());
            }
        }
    }
    data
}
