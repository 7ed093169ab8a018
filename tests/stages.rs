//! A model in stages over several devices trains as one device does that takes one microbatch after the other, bit for bit,
//! and each device stays within its budget.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use burn::nn::{Linear, LinearConfig};
use burn::optim::AdamWConfig;
use burn::tensor::{Device, Distribution, Tensor};
use common::accumulate::{mean_of_steps, one_after_the_other};
use common::{Bits, SLACK, alone, before_transforms, gradients_of, settings, small, state_of};
use plimsoll::pipeline::{self, Action, Shape, Topology};
use plimsoll::zoo::{self, ZooModel, ZooVisitor};
use plimsoll::{Budget, Bytes, Error, Nanos, PipelineReport, PipelineSettings, Reduction, Rematerialize};

#[global_allocator]
static ALLOCATOR: plimsoll::alloc::Counting = plimsoll::alloc::Counting;

/// The same over several devices.
struct InStages {
    steps: usize,
    devices: usize,
    budget: Budget,
    options: PipelineSettings,
}

type Trained = (Vec<Bits>, Vec<PipelineReport>, plimsoll::joint::PipelinePlan);

impl ZooVisitor for InStages {
    type Output = plimsoll::Result<Trained>;

    fn visit<M: ZooModel>(
        self,
        _name: &'static str,
        model: M,
        batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
    ) -> Self::Output {
        let device = model.devices()[0].clone();
        let devices = vec![Device::flex(); self.devices];
        let mut model = Rematerialize::pipeline(model, devices, self.budget, self.options)?;
        let mut optim = AdamWConfig::new().init();
        let (mut bits, mut reports) = (Vec::new(), Vec::new());
        for step in 0..self.steps {
            let inputs = batch(step as u64, &device);
            let step = model.step(inputs, |m: &M, inputs| m.batch_loss(inputs))?;
            reports.push(step.pipeline.expect("a pipeline"));
            let (loss, found) = (step.loss.into_data(), gradients_of(&model, &step.grads));
            model = optim.step(1e-3, model, step.grads);
            bits.push(Bits { loss, gradients: found, state: state_of(&model) });
        }
        Ok((bits, reports, model.latest_pipeline().expect("a step was planned")))
    }
}

fn options(microbatches: usize, schedule: &str) -> PipelineSettings {
    let limit = std::time::Duration::from_secs(4);
    PipelineSettings::new(microbatches).schedule(schedule).settings(settings(Budget::Unlimited)).time_limit(limit)
}

/// Which replica each microbatch passes.
fn replicas(schedule: &str, stages: usize, microbatches: usize) -> Vec<usize> {
    let shape = Shape { stages, microbatches, chunks: None };
    let schedule = pipeline::by_name(schedule).unwrap().generate(shape).unwrap();
    let first = |m: usize| schedule.device_of(pipeline::Microbatch(m as u32), pipeline::Chunk(0));
    (0..microbatches).map(|m| usize::from(first(m) != first(0))).collect()
}

fn in_stages(
    name: &str,
    settings: &zoo::Settings,
    devices: usize,
    budget: Budget,
    options: PipelineSettings,
) -> plimsoll::Result<Trained> {
    let device = Device::flex().autodiff();
    zoo::with_model(name, settings, &device, 7, InStages { steps: 2, devices, budget, options }).unwrap()
}

fn assert_same(what: &str, want: &[Bits], got: &[Bits]) {
    assert_eq!(want.len(), got.len());
    for (step, (want, got)) in want.iter().zip(got).enumerate() {
        assert_eq!(want.loss, got.loss, "{what}: loss of step {step}");
        assert_eq!(want.gradients.len(), got.gradients.len());
        for (i, (w, g)) in want.gradients.iter().zip(&got.gradients).enumerate() {
            assert_eq!(w, g, "{what}: gradient {i} of step {step}");
        }
        assert_eq!(want.state, got.state, "{what}: parameters and statistics after step {step}");
    }
}

/// What each device did is what the schedule says, and each stayed within its budget.
fn assert_as_planned(what: &str, reports: &[PipelineReport], plan: &plimsoll::joint::PipelinePlan, budget: u64) {
    for report in reports {
        for (d, (device, actions)) in report.devices.iter().zip(plan.schedule.devices()).enumerate() {
            let did: Vec<_> = device.did.iter().map(|did| did.action).collect();
            assert_eq!(&did, actions, "{what}: d{d}");
            assert!(device.did.windows(2).all(|two| two[0].end <= two[1].start), "{what}: d{d}");
            // Nothing is taken before it is sent.
            for did in &device.did {
                let sent = match did.action {
                    Action::ReceiveActivation(m, c, from) => {
                        (from, Action::SendActivation(m, c, pipeline::Device(d as u32)))
                    }
                    Action::ReceiveGradient(m, c, from) => {
                        (from, Action::SendGradient(m, c, pipeline::Device(d as u32)))
                    }
                    _ => continue,
                };
                let sender = report.devices[sent.0.index()].did.iter().find(|other| other.action == sent.1).unwrap();
                assert!(sender.start <= did.end, "{what}: d{d} {}", did.action);
            }
            let measured = device.measured_peak.unwrap().get();
            println!("{what}: d{d} planned {} measured {measured}", device.planned_peak.get());
            assert!(measured <= budget.saturating_add(SLACK), "{what}: d{d} {measured} of {budget}");
        }
    }
}

#[test]
fn stages_train_as_one_device_does() {
    let _alone = alone();
    for (name, schedules) in [
        ("gpt", &["gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "v-min", "v-half", "v-zb", "chimera"][..]),
        ("resnet", &["gpipe", "1f1b", "interleaved", "zb-h1"]),
    ] {
        let model = small(name);
        for &schedule in schedules {
            for devices in [2, 4] {
                let what = format!("{name} {schedule} {devices}");
                let want = one_after_the_other(name, &model, 2, replicas(schedule, devices, 4));
                let (got, reports, plan) =
                    in_stages(name, &model, devices, Budget::Unlimited, options(4, schedule)).unwrap();
                assert_same(&what, &want, &got);
                assert_as_planned(&what, &reports, &plan, u64::MAX);
            }
        }
    }
}

/// Replicas of a pipeline add up by themselves, and their sums are added in their order.
#[test]
fn replicas_train_as_their_sums_added() {
    let _alone = alone();
    let model = small("gpt");
    for (schedule, replicas, stages, replica_of) in [
        ("gpipe", 2, 2, vec![0, 0, 1, 1]),
        ("1f1b", 2, 2, vec![0, 0, 1, 1]),
        ("zb-h1", 2, 1, vec![0, 0, 0, 1, 1, 1]),
        ("interleaved", 3, 2, vec![0, 0, 1, 1, 2, 2]),
        // Each of two pipelines has two routes.
        ("chimera", 2, 2, vec![0, 1, 2, 3]),
    ] {
        let what = format!("gpt {schedule} {replicas} x {stages}");
        let (devices, microbatches) = (replicas * stages, replica_of.len());
        let own = || options(microbatches, schedule).replicas(replicas);
        let want = one_after_the_other("gpt", &model, 2, replica_of);
        let (got, reports, plan) = in_stages("gpt", &model, devices, Budget::Unlimited, own()).unwrap();
        assert_same(&what, &want, &got);
        assert_as_planned(&what, &reports, &plan, u64::MAX);
        let updates = reports[0].devices.iter().flat_map(|device| &device.did);
        let updates = updates.filter(|did| matches!(did.action, Action::Update(_))).count();
        assert_eq!(updates, plan.stages.iter().map(|stage| stage.devices.len()).sum::<usize>());
        if schedule == "1f1b" {
            let need = plan.run.devices.iter().map(|device| device.peak.get()).max().unwrap();
            let budget = need * 85 / 100;
            let (got, reports, plan) = in_stages("gpt", &model, devices, Budget::bytes(budget), own()).unwrap();
            assert_same(&what, &want, &got);
            assert_as_planned(&what, &reports, &plan, budget);
            // By other cuts or by recomputing: which of them depends on what ops were measured to take.
            assert!(plan.run.devices.iter().all(|device| device.peak.get() <= budget));
        }
    }
    // The sum of all in one order is another number: what was compared says something.
    let [one, two] = [vec![0; 4], vec![0, 0, 1, 1]].map(|of| one_after_the_other("gpt", &model, 1, of));
    assert_ne!(one[0].gradients, two[0].gradients);
}

/// Every model, in two stages, with all the memory and with less.
#[test]
fn every_zoo_model_trains_in_stages() {
    let _alone = alone();
    let (mut planned, mut recomputing) = (0, 0);
    for spec in zoo::models().iter().filter(|spec| spec.name != "dropout") {
        let (name, model) = (spec.name, small(spec.name));
        let want = one_after_the_other(name, &model, 2, vec![0; 4]);
        let (got, reports, plan) = in_stages(name, &model, 2, Budget::Unlimited, options(4, "1f1b")).unwrap();
        assert_same(name, &want, &got);
        assert_as_planned(name, &reports, &plan, u64::MAX);
        let need = plan.run.devices.iter().map(|device| device.peak.get()).max().unwrap();
        let budget = Budget::bytes(need * 8 / 10);
        match in_stages(name, &model, 2, budget, options(4, "1f1b")) {
            Ok((got, reports, plan)) => {
                assert_same(name, &want, &got);
                assert_as_planned(name, &reports, &plan, need * 8 / 10);
                planned += 1;
                recomputing += usize::from(plan.stages.iter().any(|stage| stage.overhead > Nanos::ZERO));
            }
            Err(Error::Infeasible { why, .. }) => println!("{name} in less memory: {why}"),
            Err(error) => panic!("{name}: {error}"),
        }
    }
    println!("{planned} in less memory, {recomputing} of them recompute");
    assert!(planned >= 10 && recomputing >= 5);
}

/// Masks are those that one device draws which takes the microbatches as steps of their own.
#[test]
fn dropout_draws_as_on_one_device() {
    struct Steps;
    impl ZooVisitor for Steps {
        type Output = ();
        fn visit<M: ZooModel>(
            self,
            _name: &'static str,
            model: M,
            batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
        ) {
            let device = model.devices()[0].clone();
            let one = Rematerialize::with_settings(model.clone(), settings(Budget::Unlimited).seed(5));
            let own = options(4, "1f1b").settings(settings(Budget::Unlimited).seed(5));
            let two = Rematerialize::pipeline(model, vec![Device::flex(); 2], Budget::Unlimited, own).unwrap();
            for step in 0..2 {
                let inputs = batch(step, &device);
                let want = mean_of_steps(&one, &inputs, 4);
                let got = two.step(inputs, |m: &M, inputs| m.batch_loss(inputs)).unwrap();
                assert_eq!(want, gradients_of(&two, &got.grads), "step {step}");
            }
        }
    }
    let _alone = alone();
    zoo::with_model("dropout", &small("dropout"), &Device::flex().autodiff(), 7, Steps).unwrap();
}

/// A small model of which the test sees every result.
fn perceptron(device: &Device) -> Vec<Linear> {
    (0..6).map(|_| LinearConfig::new(32, 32).init(device)).collect()
}

fn logits(layers: &[Linear], x: Tensor<2>) -> Tensor<2> {
    layers.iter().fold(x, |x, layer| layer.forward(x).tanh())
}

#[test]
fn results_and_sums_are_those_of_the_whole_batch() {
    let _alone = alone();
    let device = Device::flex().autodiff();
    let model = perceptron(&device);
    let x = Tensor::<2>::random([12, 32], Distribution::Default, &device);
    let own = options(3, "1f1b").reduction(Reduction::Sum);
    let pipe = Rematerialize::pipeline(model.clone(), vec![Device::flex(); 2], Budget::Unlimited, own).unwrap();
    let step = |model: &Vec<Linear>, x: Tensor<2>| {
        let y = logits(model, x.clone());
        ((y.clone() - x.clone()).powi_scalar(2).sum(), (y, x))
    };
    let got = pipe.step(x.clone(), step).unwrap();
    let parts = || (0..3).map(|k| x.clone().narrow(0, 4 * k, 4));
    let want = Tensor::cat(parts().map(|part| logits(&model, part)).collect(), 0);
    assert_eq!(got.output.0.into_data(), want.into_data());
    assert_eq!(got.output.1.into_data(), x.clone().inner().into_data(), "an input that is given out as it is");
    let losses = parts().map(|part| step(&model, part).0.inner());
    let sum = losses.reduce(|sum, loss| sum + loss).unwrap();
    assert_eq!(got.loss.into_data(), sum.into_data());
}

#[test]
fn what_cannot_be_run_in_stages_is_refused() {
    let _alone = alone();
    let device = Device::flex().autodiff();
    let model = perceptron(&device);
    let x = |n: usize| Tensor::<2>::random([n, 32], Distribution::Default, &device);
    let step = |model: &Vec<Linear>, x: Tensor<2>| logits(model, x).sum();
    let two = vec![Device::flex(); 2];
    let new = |devices: Vec<Device>, budget, options| Rematerialize::pipeline(model.clone(), devices, budget, options);
    let text = |error: Error| error.to_string();
    let setting = |error: Error| match error {
        Error::InvalidSetting { .. } => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(setting(new(vec![], Budget::Unlimited, options(2, "1f1b")).err().unwrap()).contains("at least one"));
    assert!(setting(new(two.clone(), Budget::Unlimited, options(0, "1f1b")).err().unwrap()).contains("at least one"));
    let three = Topology::equal(3, plimsoll::Bytes(1 << 30));
    let wrong = new(two.clone(), Budget::Unlimited, options(2, "1f1b").topology(three)).err().unwrap();
    assert!(setting(wrong).contains("it has 3 devices, and 2 are given"));
    let pipe = new(two.clone(), Budget::Unlimited, options(3, "1f1b")).unwrap();
    let odd = pipe.step(x(8), step).err().unwrap();
    assert_eq!(text(odd), "invalid input: a batch of 8 cannot be split into 3 microbatches of equal size");
    let scalar = pipe.step((x(6), Tensor::<1>::zeros([4], &device)), |m: &Vec<Linear>, (x, _)| logits(m, x).sum());
    assert!(text(scalar.err().unwrap()).contains("input tensor 1 is 4 long along axis 0"));
    let axis = new(two.clone(), Budget::Unlimited, options(2, "1f1b").axis(2)).unwrap().step(x(6), step);
    assert!(text(axis.err().unwrap()).contains("2 dimensions, so it cannot be split into microbatches along axis 2"));
    for (count, says) in
        [(0, "at least one"), (2, "5 microbatches cannot be divided"), (5, "2 devices cannot be divided")]
    {
        let own = options(5, "1f1b").replicas(count);
        assert!(setting(new(two.clone(), Budget::Unlimited, own).err().unwrap()).contains(says));
    }
    let none = new(two.clone(), Budget::Unlimited, options(2, "spiral")).unwrap().step(x(6), step).err().unwrap();
    assert!(matches!(none, Error::UnknownSchedule { .. }), "{none}");
    let tiny = new(two, Budget::bytes(1000), options(2, "1f1b")).unwrap().step(x(6), step).err().unwrap();
    assert!(matches!(tiny, Error::Infeasible { .. }), "{tiny}");
    // The one that was refused a batch goes on.
    pipe.step(x(6), step).unwrap();
    let statistics = in_stages("resnet", &small("resnet"), 2, Budget::Unlimited, options(4, "chimera"));
    assert!(setting(statistics.err().unwrap()).contains("take a schedule without replicas"));
    let own = options(4, "1f1b").replicas(2);
    let statistics = in_stages("resnet", &small("resnet"), 2, Budget::Unlimited, own);
    assert!(setting(statistics.err().unwrap()).contains("and one replica"));
}

/// A device of a pipeline that has no memory left: the model is as it was, and where that was asked for the next step is planned with less
/// on that device.
#[test]
fn a_stage_that_runs_out_of_memory_is_planned_for_less() {
    struct Short;
    impl ZooVisitor for Short {
        type Output = ();
        fn visit<M: ZooModel>(
            self,
            _name: &'static str,
            model: M,
            batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
        ) {
            // The device that has no memory for Fourier transforms, if any.
            static SHORT: AtomicUsize = AtomicUsize::new(usize::MAX);
            let device = model.devices()[0].clone();
            for replan in [false, true] {
                let own = before_transforms(settings(Budget::Unlimited), || {
                    let short = format!("plimsoll d{}", SHORT.load(Relaxed));
                    if std::thread::current().name().is_some_and(|name| name.starts_with(&short)) {
                        panic!("out of device memory allocating 4096 bytes");
                    }
                });
                let own = options(4, "1f1b").settings(own.replan_on_oom(replan));
                let model = model.clone();
                let pipe = Rematerialize::pipeline(model, vec![Device::flex(); 2], Budget::Unlimited, own).unwrap();
                let step = || pipe.step(batch(0, &device), |m: &M, inputs| m.batch_loss(inputs));
                let bits = || {
                    let step = step().unwrap();
                    (step.loss.into_data(), gradients_of(&pipe, &step.grads))
                };
                let peaks = || -> Vec<Bytes> {
                    pipe.latest_pipeline().unwrap().run.devices.iter().map(|device| device.peak).collect()
                };
                let (want, before) = (bits(), state_of(&pipe));
                for short in [1, 0, 1] {
                    let planned = peaks();
                    SHORT.store(short, Relaxed);
                    let error = step().err().unwrap();
                    SHORT.store(usize::MAX, Relaxed);
                    let text = error.to_string();
                    assert!(matches!(error, Error::OutOfMemory { .. }), "{text}");
                    assert!(text.contains(&format!("d{short}, ")) && text.contains("replan_on_oom"), "{text}");
                    assert_eq!(state_of(&pipe), before);
                    assert!(bits() == want, "a step planned for less");
                    assert_eq!(peaks()[short] < planned[short], replan, "{planned:?}, then {:?}", peaks());
                }
            }
        }
    }
    let _alone = alone();
    zoo::with_model("fno", &small("fno"), &Device::flex().autodiff(), 7, Short).unwrap();
}

/// A step in which an op panics, or hangs, on one device fails soon on all; the model is as it was, and goes on. A device that
/// is slow is told.
#[test]
fn a_stage_that_fails_fails_the_step_and_nothing_else() {
    struct Faulty;
    impl ZooVisitor for Faulty {
        type Output = ();
        fn visit<M: ZooModel>(
            self,
            _name: &'static str,
            model: M,
            batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
        ) {
            // How many more Fourier transforms do well; then one panics (1), or takes two seconds (2).
            static LEFT: AtomicUsize = AtomicUsize::new(usize::MAX);
            static HOW: AtomicUsize = AtomicUsize::new(1);
            let device = model.devices()[0].clone();
            let own = before_transforms(settings(Budget::Unlimited), || {
                let left = LEFT.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(1))).unwrap();
                match (left, HOW.load(Relaxed)) {
                    (0, 1) => panic!("a transform that fails"),
                    (0, 2) => std::thread::sleep(Duration::from_secs(8)),
                    // Slow on the second device alone.
                    (_, 3) if std::thread::current().name().is_some_and(|name| name.starts_with("plimsoll d1")) => {
                        std::thread::sleep(Duration::from_millis(500));
                    }
                    _ => {}
                }
            });
            let own = options(4, "1f1b").settings(own).patience(Duration::from_secs(3));
            let pipe = Rematerialize::pipeline(model, vec![Device::flex(); 2], Budget::Unlimited, own).unwrap();
            let step = || pipe.step(batch(0, &device), |m: &M, inputs| m.batch_loss(inputs));
            let (want, before) = (step().unwrap(), state_of(&pipe));
            HOW.store(3, Relaxed);
            assert_eq!(step().unwrap().pipeline.unwrap().bottleneck(), 1);
            let want = (want.loss.into_data(), gradients_of(&pipe, &want.grads));
            for (how, says, when) in
                [(1, "a transform that fails", &[0, 1, 2, 3, 5, 7][..]), (2, "within 3 s", &[1, 4])]
            {
                for &after in when {
                    HOW.store(how, Relaxed);
                    LEFT.store(after, Relaxed);
                    let error = step().err().unwrap();
                    LEFT.store(usize::MAX, Relaxed);
                    let text = error.to_string();
                    assert!(matches!(error, Error::Execution { .. }), "{text}");
                    assert!(text.contains(says) && text.contains("at d"), "{text}");
                    assert_eq!(state_of(&pipe), before);
                    let again = step().unwrap();
                    assert_eq!((again.loss.into_data(), gradients_of(&pipe, &again.grads)), want);
                }
            }
        }
    }
    let _alone = alone();
    zoo::with_model("fno", &small("fno"), &Device::flex().autodiff(), 7, Faulty).unwrap();
}
