//! Planned training is plain training, bit for bit, within the budget.

mod common;

use common::{Bits, Measured, SLACK, alone, plain, planned, settings, small};
use plimsoll::cost::{Problem, Roofline};
use plimsoll::solver::{self, Options};
use plimsoll::zoo::{self, Settings};
use plimsoll::{Budget, Bytes};

#[global_allocator]
static ALLOCATOR: plimsoll::alloc::Counting = plimsoll::alloc::Counting;

fn assert_same(name: &str, budget: Budget, want: &[Bits], got: &[Bits]) {
    assert_eq!(want.len(), got.len());
    for (step, (want, got)) in want.iter().zip(got).enumerate() {
        assert_eq!(want.loss, got.loss, "{name} at {budget}: loss of step {step}");
        assert_eq!(want.gradients.len(), got.gradients.len());
        for (i, (w, g)) in want.gradients.iter().zip(&got.gradients).enumerate() {
            assert_eq!(w, g, "{name} at {budget}: gradient {i} of step {step}");
        }
        assert_eq!(want.state, got.state, "{name} at {budget}: parameters and statistics after step {step}");
    }
}

fn assert_within(name: &str, budget: Budget, measured: &[Measured]) {
    for m in measured {
        let (peak, planned) = (m.report.measured_peak.unwrap().get(), m.report.planned_peak.get());
        assert!(peak <= planned + SLACK, "{name} at {budget}: {peak} measured, {planned} planned");
        assert!(peak <= m.report.budget.get().saturating_add(SLACK), "{name} at {budget}: {peak} measured");
    }
}

#[test]
fn every_zoo_model_trains_identically_at_half_the_memory() {
    let _alone = alone();
    for spec in zoo::models().iter().filter(|spec| spec.name != "dropout") {
        let settings_of_model = small(spec.name);
        let (want, plain_peak) = plain(spec.name, &settings_of_model, 3);
        // One op of the small variants, or the workspace of one convolution, needs more than half.
        let tight = match spec.name {
            "gpt" | "vit" | "unet" | "mixer" | "seq2seq" => 50.0,
            _ => 75.0,
        };
        for budget in [Budget::Unlimited, Budget::percent(90.0), Budget::percent(tight)] {
            let (got, measured, plan) = planned(spec.name, &settings_of_model, 3, settings(budget))
                .unwrap_or_else(|error| panic!("{} at {budget}: {error}", spec.name));
            println!("{:10} {budget:>9} overhead {:.4}", spec.name, plan.predicted.overhead);
            assert_same(spec.name, budget, &want, &got);
            assert_within(spec.name, budget, &measured);
            let most = measured.iter().map(|m| m.report.measured_peak.unwrap().get()).max().unwrap();
            assert!(most <= plain_peak + SLACK, "{} at {budget}: {most}, plain Burn {plain_peak}", spec.name);
        }
    }
}

/// Two steps, in which the caller keeps the inputs or gives them away: losses and gradients, the peak, and
/// what the inputs take.
struct Giving {
    keep: bool,
}

impl zoo::ZooVisitor for Giving {
    type Output = (Vec<(burn::tensor::TensorData, Vec<Option<burn::tensor::TensorData>>)>, u64, u64);

    fn visit<M: zoo::ZooModel>(
        self,
        _name: &'static str,
        model: M,
        batch: impl Fn(u64, &burn::tensor::Device) -> M::Inputs + Send + Sync + 'static,
    ) -> Self::Output {
        let device = model.devices()[0].clone();
        let model = plimsoll::Rematerialize::with_settings(model, settings(Budget::Unlimited));
        let (mut results, mut peak, mut bytes) = (Vec::new(), 0, 0);
        for number in 0..2 {
            let before = plimsoll::alloc::live().get();
            let inputs = batch(number, &device);
            bytes = plimsoll::alloc::live().get() - before;
            let kept = self.keep.then(|| inputs.clone());
            let step = model.step(inputs, |m: &M, inputs| m.batch_loss(inputs)).unwrap();
            drop(kept);
            peak = step.report.measured_peak.unwrap().get();
            results.push((step.loss.into_data(), common::gradients_of(&*model, &step.grads)));
        }
        (results, peak, bytes)
    }
}

#[test]
fn inputs_that_are_given_away_are_freed_after_their_last_use() {
    let _alone = alone();
    let device = burn::tensor::Device::flex().autodiff();
    // One in which the inputs are read by the first layer and the loss alone, one that draws masks.
    for name in ["frozen", "dropout"] {
        let run = |keep| zoo::with_model(name, &Settings::new(), &device, 7, Giving { keep }).unwrap();
        let ((kept, most, bytes), (given, less, _)) = (run(true), run(false));
        assert_eq!(kept, given, "{name}: who holds the inputs is no matter of what is computed");
        // The targets are needed to the peak, the rest is not.
        assert!(
            most - less > bytes / 3,
            "{name}: {most} bytes with inputs kept, {less} without, {bytes} bytes of inputs"
        );
    }
}

/// Taking times changes nothing of what is computed.
#[test]
fn a_timed_step_says_what_its_operations_took() {
    let _alone = alone();
    let (want, as_usual, _) = planned("gpt", &small("gpt"), 2, settings(Budget::Unlimited)).unwrap();
    let (got, measured, _) = planned("gpt", &small("gpt"), 2, settings(Budget::Unlimited).timed(true)).unwrap();
    assert_same("gpt", Budget::Unlimited, &want, &got);
    assert!(as_usual.iter().all(|m| m.report.lanes.is_none()));
    for m in measured {
        let lanes = m.report.lanes.expect("it was asked for");
        assert!(!lanes.compute.is_zero() && lanes.compute <= lanes.span && lanes.span <= m.report.ran, "{lanes:?}");
        assert!((lanes.to_host + lanes.from_host + lanes.hidden).is_zero(), "on the CPU nothing is moved: {lanes:?}");
    }
}

#[test]
fn dropout_draws_the_same_however_often_it_is_computed() {
    let _alone = alone();
    for (name, model) in [("gpt", small("gpt").set("dropout", 0.2)), ("seq2seq", small("seq2seq").set("dropout", 0.1))]
    {
        let (want, ..) = planned(name, &model, 20, settings(Budget::Unlimited)).unwrap();
        // Draws elsewhere in the process must not matter.
        burn::tensor::Device::flex().seed(99);
        let (got, measured, plan) = planned(name, &model, 20, settings(Budget::percent(55.0))).unwrap();
        assert!(plan.predicted.overhead > 0.0, "something is computed again");
        assert_same(name, Budget::percent(55.0), &want, &got);
        assert_within(name, Budget::percent(55.0), &measured);
        let (other, ..) = planned(name, &model, 2, settings(Budget::Unlimited).seed(1)).unwrap();
        assert_ne!(want[0].loss, other[0].loss, "another seed draws other masks");
    }
}

/// Activations in 16 bits, parameters and their gradients in 32: planned by their bytes, the same bits, less memory.
#[test]
fn mixed_precision_trains_identically() {
    let _alone = alone();
    let (_, full, _) = planned("gpt", &small("gpt"), 2, settings(Budget::Unlimited)).unwrap();
    for half in ["bf16", "f16"] {
        for model in [small("gpt").set(half, true), small("gpt").set(half, true).set("tied", true)] {
            let (want, plain_peak) = plain("gpt", &model, 3);
            for budget in [Budget::Unlimited, Budget::percent(60.0)] {
                let (got, measured, plan) = planned("gpt", &model, 3, settings(budget)).unwrap();
                println!("{half} {budget}: overhead {:.4}", plan.predicted.overhead);
                assert_same(half, budget, &want, &got);
                assert_within(half, budget, &measured);
                let most = measured.iter().map(|m| m.report.measured_peak.unwrap().get()).max().unwrap();
                assert!(most <= plain_peak + SLACK, "{half} at {budget}: {most}, plain Burn {plain_peak}");
                assert!(measured[0].report.planned_peak < full[0].report.planned_peak);
            }
            let floats = |data: &burn::tensor::TensorData| data.dtype() == burn::tensor::DType::F32;
            assert!(want[0].gradients.iter().flatten().all(floats) && want[0].state.iter().all(floats));
        }
    }
    let problem = problem_of("gpt", Some("1e12,1e12"));
    let halved = plimsoll::Rematerialize::wrap(
        zoo::gpt::GptConfig::tiny().bf16(true).init(&burn::tensor::Device::flex().autodiff()),
        Budget::Unlimited,
    );
    let inputs = zoo::gpt::GptConfig::tiny().data(0, &burn::tensor::Device::flex().autodiff());
    let roofline = Roofline::new(1e12, 1e12).unwrap();
    let halved =
        halved.problem_on(&roofline, inputs, |m: &zoo::gpt::Gpt, (tokens, targets)| m.loss(tokens, targets)).unwrap();
    let casts = |problem: &Problem| problem.graph.ops().values().filter(|op| op.kind.contains("Cast")).count();
    assert!(casts(&halved) > casts(&problem) + 10, "conversions are ops");
}

#[test]
fn two_steps_draw_different_masks() {
    let _alone = alone();
    let device = burn::tensor::Device::flex().autodiff();
    let config = zoo::gpt::GptConfig::tiny().dropout(0.5);
    let model = plimsoll::Rematerialize::with_settings(
        zoo::Configured::seeded(&config, &device, 0),
        settings(Budget::Unlimited),
    );
    let losses: Vec<f32> = (0..4)
        .map(|_| {
            let step = model.step(config.data(0, &device), |m: &zoo::gpt::Gpt, (x, y)| m.loss(x, y)).unwrap();
            step.loss.into_scalar::<f32>()
        })
        .collect();
    for (i, a) in losses.iter().enumerate() {
        assert!(losses[..i].iter().all(|b| a.to_bits() != b.to_bits()), "{losses:?}");
    }
}

/// The models of the zoo, or those in the variable `PLIMSOLL_MODELS`, separated by commas.
fn asked_for() -> Vec<&'static str> {
    let only = std::env::var("PLIMSOLL_MODELS").ok();
    let all = zoo::models().iter().map(|spec| spec.name);
    all.filter(|name| only.as_ref().is_none_or(|only| only.split(',').any(|it| it == *name))).collect()
}

/// The table of docs/RESULTS.md: `cargo test --release --features cli,zoo,fuzzing --test train --
/// --ignored --nocapture`.
#[test]
#[ignore = "takes minutes: models at their default sizes"]
fn table_at_default_sizes() {
    let _alone = alone();
    println!(
        "| model | ops | plain peak | unlimited | budget, 50 % of plain | planned | measured | predicted/measured | overhead | identical |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for name in asked_for() {
        let model = Settings::new();
        let deterministic = name != "dropout";
        let (want, plain_peak) = match deterministic {
            true => plain(name, &model, 3),
            false => (planned(name, &model, 3, settings(Budget::Unlimited)).unwrap().0, 0),
        };
        let (got, measured, _) = planned(name, &model, 3, settings(Budget::Unlimited)).unwrap();
        assert_same(name, Budget::Unlimited, &want, &got);
        let unlimited = measured.iter().map(|m| m.report.measured_peak.unwrap().get()).max().unwrap();
        drop((got, measured));
        let budget = match plain_peak {
            0 => Budget::percent(50.0),
            peak => Budget::bytes(peak / 2),
        };
        match planned(name, &model, 3, settings(budget)) {
            Err(error) => println!("| {name} | | {plain_peak} | {error} |"),
            Ok((got, measured, plan)) => {
                assert_same(name, budget, &want, &got);
                let most = measured.iter().map(|m| m.report.measured_peak.unwrap().get()).max().unwrap();
                let report = measured[0].report;
                println!(
                    "| {name} | {} | {plain_peak} | {unlimited} | {} | {} | {most} | {:.4} | {:.2} % | {} |",
                    plan.steps.iter().filter(|s| matches!(s, plimsoll::plan::Step::Compute { .. })).count(),
                    report.budget.get(),
                    report.planned_peak.get(),
                    report.planned_peak.get() as f64 / most as f64,
                    100.0 * plan.predicted.overhead,
                    want == got,
                );
                assert!(most <= report.budget.get(), "{name} over its budget");
                assert!(!deterministic || unlimited <= plain_peak, "{name}: more than plain Burn");
            }
        }
    }
}

/// The problem of a model's step, with measured times or those of a roofline, which are the same in every run.
struct ProblemOf(Option<Roofline>);

impl zoo::ZooVisitor for ProblemOf {
    type Output = Problem;

    fn visit<M: zoo::ZooModel>(
        self,
        _name: &'static str,
        model: M,
        batch: impl Fn(u64, &burn::tensor::Device) -> M::Inputs + Send + Sync + 'static,
    ) -> Self::Output {
        let device = model.devices()[0].clone();
        let model = plimsoll::Rematerialize::with_settings(model, settings(Budget::Unlimited));
        let (inputs, step) = (batch(0, &device), |m: &M, inputs| m.batch_loss(inputs));
        match self.0 {
            None => model.problem(inputs, step).unwrap(),
            Some(roofline) => model.problem_on(&roofline, inputs, step).unwrap(),
        }
    }
}

fn problem_of(name: &str, roofline: Option<&str>) -> Problem {
    let device = burn::tensor::Device::flex().autodiff();
    let roofline = roofline.map(|it| it.parse().unwrap());
    zoo::with_model(name, &small(name), &device, 7, ProblemOf(roofline)).unwrap()
}

/// What `plimsoll estimate` says that a step of plain Burn takes.
fn estimate(name: &str) -> serde_json::Value {
    use assert_cmd::cargo::CommandCargoExt as _;
    let cache = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::cargo_bin("plimsoll").unwrap();
    // Neither the largest batch nor the smallest budget is asked for: the search for it is cut short.
    command.args(["estimate", name, "--json", "--no-batch", "--time-limit", "0.2"]).env("XDG_CACHE_HOME", cache.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The estimates of models at their default sizes beside what the counting allocator says of plain Burn.
fn assert_estimates_are_what_plain_burn_takes(names: &[&str]) {
    println!("| model | estimate | of which tape | plain Burn | estimate / plain |");
    println!("|---|---|---|---|---|");
    for name in names {
        let estimate = estimate(name);
        let number = |key: &str| estimate["plain"][key].as_u64().unwrap();
        let (estimated, tape) = (number("peak"), number("tape"));
        let (_, measured) = plain(name, &Settings::new(), 3);
        let ratio = estimated as f64 / measured as f64;
        println!("| {name} | {} | {} | {} | {ratio:.4} |", Bytes(estimated), Bytes(tape), Bytes(measured));
        assert!((0.95..=1.05).contains(&ratio), "{name}: {estimated} estimated, {measured} measured");
    }
}

/// One in which the tape is a quarter of the peak, one in which it is next to nothing.
#[test]
fn estimates_are_what_plain_burn_takes() {
    let _alone = alone();
    assert_estimates_are_what_plain_burn_takes(&["lstm", "frozen"]);
}

#[test]
#[ignore = "takes minutes: every model at its default size"]
fn estimates_are_what_plain_burn_takes_for_every_model() {
    let _alone = alone();
    assert_estimates_are_what_plain_burn_takes(&asked_for());
}

/// Twentieths of the peak with everything kept.
fn twenty_budgets(problem: &Problem) -> Vec<Bytes> {
    let peak = solver::baseline(problem).1.peak.get();
    (1..=20).map(|k| Bytes((u128::from(peak) * k / 20) as u64)).collect()
}

/// What a wrapped module plans with, without the search for a budget that suffices where one does not.
fn training() -> Options {
    Options { prove: false, search_minimum: false, ..Options::default() }
}

/// The times of a sweep over twenty budgets, which never grow.
fn assert_sweep_is_monotone(name: &str, problem: &Problem, options: &Options) {
    let points = solver::sweep(problem, &twenty_budgets(problem), "auto", options).unwrap();
    let mut best = u64::MAX;
    let mut planned = 0;
    for point in &points {
        match point.outcome.plan() {
            Some(plan) => {
                let time = plan.predicted.time.get();
                assert!(time <= best, "{name}: {time} ns at {}, but {best} ns at less", point.budget);
                (best, planned) = (time, planned + 1);
            }
            None => assert_eq!(planned, 0, "{name}: no plan at {}, but one at less", point.budget),
        }
    }
    println!("{name:10} {planned} of 20 budgets planned, none slower than a smaller one");
    assert!(planned >= 4, "{name}");
}

/// How much slower a plan is than one for less, at most, where each budget is planned by itself (1: never slower).
fn slower_by_itself(name: &str, problem: &Problem, options: &Options) -> f64 {
    let (mut best, mut planned, mut slower) = (u64::MAX, 0, 1f64);
    for budget in twenty_budgets(problem) {
        let Ok(plan) = solver::plan(problem, budget, "auto", options) else { continue };
        let time = plan.predicted.time.get();
        if time > best {
            println!("{name}: {time} ns at {budget}, but {best} ns at less");
            slower = slower.max(time as f64 / best as f64);
        }
        (best, planned) = (best.min(time), planned + 1);
    }
    println!(
        "{name:10} {planned} of 20 budgets planned by themselves, slower than a smaller one by at most {slower:.5} x"
    );
    assert!(planned >= 4, "{name}");
    slower
}

#[test]
fn more_budget_is_never_slower() {
    let _alone = alone();
    // However little time there is for each budget.
    let hurried = Options { time_limit: std::time::Duration::from_secs(1), ..training() };
    for name in ["unet", "mixer", "fno", "frozen"] {
        assert_sweep_is_monotone(name, &problem_of(name, None), &hurried);
    }
}

/// Single calls, with times and limits that are the same in every run: a search that a clock ends finds other
/// plans on another day, and there only sweeps promise anything.
#[test]
fn more_budget_is_never_slower_in_single_calls() {
    let _alone = alone();
    let limited = Options { node_limit: Some(200), time_limit: std::time::Duration::from_secs(600), ..training() };
    for name in ["unet", "mixer", "fno", "outputs", "frozen", "assign"] {
        let problem = problem_of(name, Some("10e12,200e9"));
        assert_sweep_is_monotone(name, &problem, &limited);
        assert_eq!(slower_by_itself(name, &problem, &limited), 1.0, "{name}");
    }
}

#[test]
#[ignore = "takes minutes: every model of the zoo, measured"]
fn more_budget_is_never_slower_on_any_model() {
    let _alone = alone();
    for name in asked_for() {
        let problem = problem_of(name, None);
        assert_sweep_is_monotone(name, &problem, &training());
        slower_by_itself(name, &problem, &training());
    }
}
