//! Training a model of the zoo, in one of several ways, and measuring it.

use std::time::{Duration, Instant};

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use plimsoll::cost::Roofline;
use plimsoll::graph::Replay;
use plimsoll::stats::Draw;
use plimsoll::zoo::{self, ZooModel, ZooVisitor};
use plimsoll::{Budget, Bytes, Error, OneLaunch, Rematerialize, Result, Settings, StepReport, alloc};

use super::{Planned, Ran, Task, Timed, Variant};
use crate::hash::Hash;

/// Of the AdamW that updates the parameters between steps.
const LEARNING_RATE: f64 = 1e-3;

/// Do what `task` says, in this process.
pub fn train(task: &Task) -> Result<Ran> {
    let variant = Variant::parse(&task.variant)?;
    let settings = zoo::Settings::new().with(&task.settings)?;
    let device = zoo::device(&task.device)?.autodiff();
    let device = if variant == Variant::Checkpoint { device.gradient_checkpointing() } else { device };
    // Dropout of plain Burn; a plan's has its own seed.
    device.seed(task.init_seed);
    alloc::reset_peak();
    let run = Run { task, variant, device: &device, held: alloc::live() };
    zoo::with_model(&task.model, &settings, &device, task.init_seed, run)?
}

/// Whether a model draws random numbers when it trains. It is traced, not run.
pub fn draws(model: &str, settings: &zoo::Settings) -> Result<bool> {
    struct Draws<'a>(&'a Device);
    impl ZooVisitor for Draws<'_> {
        type Output = Result<bool>;
        fn visit<M: ZooModel>(
            self,
            _name: &'static str,
            model: M,
            batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
        ) -> Result<bool> {
            let model = Rematerialize::with_settings(model, Settings::new(Budget::Unlimited));
            let somewhere = Roofline::new(1e12, 1e12)?;
            let problem = model.problem_on(&somewhere, batch(0, self.0), |m: &M, inputs| m.batch_loss(inputs))?;
            Ok(problem.graph.ops().values().any(|op| op.replay == Replay::Seeded))
        }
    }
    let device = Device::flex().autodiff();
    zoo::with_model(model, settings, &device, 0, Draws(&device))?
}

struct Run<'a> {
    task: &'a Task,
    variant: Variant,
    device: &'a Device,
    /// Live before there was a model.
    held: Bytes,
}

/// What a step gives: the loss, gradients, and what a planned one says of itself.
type Step = (TensorData, GradientsParams, Option<StepReport>);

impl ZooVisitor for Run<'_> {
    type Output = Result<Ran>;

    fn visit<M: ZooModel>(
        self,
        _name: &'static str,
        model: M,
        batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
    ) -> Result<Ran> {
        let limit = Duration::try_from_secs_f64(self.task.time_limit)
            .map_err(|_| Error::InvalidSetting { name: "--time-limit".into(), why: "it is no time".into() })?;
        let Some(settings) = self.variant.settings(limit)? else {
            let (ran, ..) = self.train(model, batch, |model: &M, inputs| {
                let loss = model.batch_loss(inputs);
                let gradients = GradientsParams::from_grads(loss.backward(), model);
                Ok((loss.into_data(), gradients, None))
            })?;
            return Ok(ran);
        };
        let model = Rematerialize::with_settings(model, settings);
        let (mut ran, model, reports) = self.train(model, batch, |model: &Rematerialize<M>, inputs| {
            let step = model.step(inputs, |m: &M, inputs| m.batch_loss(inputs))?;
            Ok((step.loss.into_data(), step.grads, Some(step.report)))
        })?;
        if let OneLaunch::Refused { why } = model.one_launch() {
            tracing::warn!("{}: its steps are not one launch: {why}", self.variant);
        }
        if let Some(plan) = model.latest_plan() {
            let predicted = &plan.predicted;
            let measured = &reports[self.task.warmup..];
            let asked_ns: Vec<u64> = measured.iter().map(|r| r.ran.as_nanos() as u64).collect();
            ran.plan = Some(Planned {
                budget: reports.first().map_or(plan.budget, |r| r.budget).get(),
                planned_peak: reports.iter().map(|r| r.planned_peak.get()).max().unwrap_or(0),
                measured_peak: measured.iter().filter_map(|r| r.measured_peak).max().map(Bytes::get),
                predicted_ns: predicted.time.get(),
                ran_ns: if self.task.device == "flex" { asked_ns.clone() } else { ran.step_ns.clone() },
                asked_ns,
                steps: plan.steps.len(),
                lanes: Timed::mean(&measured.iter().filter_map(|r| r.lanes).collect::<Vec<_>>()),
                baseline_peak: predicted.baseline_peak.get(),
                baseline_ns: predicted.baseline_time.get(),
                plan_seconds: reports.iter().map(|r| r.planned.as_secs_f64()).sum(),
                solver: plan.solver,
            });
        }
        Ok(ran)
    }
}

impl Run<'_> {
    /// Train: batches made before the clock starts, updates after it stops.
    fn train<T: Module, I>(
        &self,
        mut model: T,
        batch: impl Fn(u64, &Device) -> I,
        step: impl Fn(&T, I) -> Result<Step>,
    ) -> Result<(Ran, T, Vec<StepReport>)> {
        let mut batches = Draw::new(self.task.data_seed);
        let mut optimizer = AdamWConfig::new().init();
        let (mut ran, mut reports) = (Ran::default(), Vec::new());
        #[cfg(feature = "fusion")]
        let pools = plimsoll::runtime::watch(self.device);
        let mut peak = Bytes::ZERO;
        for number in 0..self.task.warmup + self.task.steps {
            let inputs = batch(batches.number(), self.device);
            let start = Instant::now();
            let (loss, gradients, report) = step(&model, inputs)?;
            // Where the device works behind the program's back the step ends when it has caught up.
            self.device
                .sync()
                .map_err(|error| Error::Execution { at: format!("step {number}"), why: error.to_string() })?;
            let took = start.elapsed();
            if number >= self.task.warmup {
                ran.step_ns.push(took.as_nanos() as u64);
            }
            reports.extend(report);
            // What comparing bits takes is not the step's.
            peak = peak.max(alloc::peak());
            ran.losses.push(loss.as_bytes().iter().rev().map(|byte| format!("{byte:02x}")).collect());
            ran.gradients.push(hash(&model, Some(&gradients)));
            alloc::reset_peak();
            model = optimizer.step(LEARNING_RATE, model, gradients);
        }
        peak = peak.max(alloc::peak()).saturating_sub(self.held);
        // `valid` merges running statistics that wait to be merged.
        ran.parameters = hash(&model.valid(), None);
        ran.peak = match self.task.device.as_str() {
            "flex" => Some(peak.get()),
            _ => reports.iter().filter_map(|r| r.measured_peak).max().map(Bytes::get),
        };
        #[cfg(feature = "fusion")]
        {
            let seen = pools.map(|pools| pools.most().in_use.get());
            ran.peak = ran.peak.max(seen);
        }
        Ok((ran, model, reports))
    }
}

/// A hash of every bit of every parameter, or of the gradient of every one that has one.
fn hash<M: Module>(model: &M, gradients: Option<&GradientsParams>) -> String {
    struct Hasher<'a>(Option<&'a GradientsParams>, Hash);
    impl ModuleVisitor for Hasher<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = match self.0 {
                Some(gradients) => gradients.get::<D>(param.id),
                None => Some(param.val()),
            };
            let data = tensor.map(Tensor::into_data);
            let bytes = data.as_ref().map_or(&b"none"[..], |data| data.as_bytes());
            self.1.add(bytes);
        }
    }
    let mut hasher = Hasher(gradients, Hash::default());
    model.visit(&mut hasher);
    hasher.1.to_string()
}
