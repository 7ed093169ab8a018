//! What goes wrong for users: each is a clear error, and the model works afterwards.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use common::{before_transforms, gradients_of, settings, small, state_of};
use plimsoll::zoo::{self, ZooModel, ZooVisitor};
use plimsoll::{Budget, Error, Rematerialize};

fn autodiff() -> Device {
    Device::flex().autodiff()
}

#[derive(Module, Debug)]
struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    fn new(device: &Device) -> Self {
        Self { layers: (0..6).map(|_| LinearConfig::new(32, 32).init(device)).collect() }
    }

    fn forward(&self, mut x: Tensor<2>) -> Tensor<2> {
        for layer in &self.layers {
            x = burn::tensor::activation::gelu(layer.forward(x));
        }
        x
    }

    fn loss(&self, x: Tensor<2>) -> Tensor<1> {
        self.forward(x).powi_scalar(2).mean()
    }
}

fn input(device: &Device) -> Tensor<2> {
    let values: Vec<f32> = (0..64 * 32).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    Tensor::from_data(TensorData::new(values, [64, 32]), device)
}

/// The model still trains, exactly as plain Burn does.
fn assert_usable(model: &Rematerialize<Mlp>) {
    let device = autodiff();
    let plain = model.module().loss(input(&device));
    let want = GradientsParams::from_grads(plain.backward(), model.module());
    let step = model.step(input(&device), |m: &Mlp, x| m.loss(x)).expect("the model is usable");
    assert_eq!(plain.into_data(), step.loss.into_data());
    assert_eq!(gradients_of(model.module(), &want), gradients_of(model.module(), &step.grads));
}

fn wrapped() -> Rematerialize<Mlp> {
    Rematerialize::with_settings(
        Mlp::new(&autodiff()),
        settings(Budget::percent(80.0)).optimizer_bytes_per_parameter(0.0),
    )
}

fn trace_error<T>(result: plimsoll::Result<T>) -> String {
    match result {
        Err(error @ Error::Trace { .. }) => error.to_string(),
        Err(other) => panic!("a trace error was expected, not: {other}"),
        Ok(_) => panic!("a trace error was expected"),
    }
}

#[test]
fn budgets_that_make_no_sense() {
    for budget in [Budget::bytes(0), Budget::percent(0.0), Budget::percent(-40.0), Budget::percent(f64::NAN)] {
        let model = Rematerialize::with_settings(Mlp::new(&autodiff()), settings(budget));
        let error = model.step(input(&autodiff()), |m: &Mlp, x| m.loss(x)).unwrap_err();
        assert!(matches!(error, Error::InvalidBudget { .. }), "{error}");
    }
    // What ops take is measured once: the least budget is one for those costs.
    let costs = tempfile::tempdir().unwrap();
    let settings = |budget| settings(budget).profile_directory(Some(costs.path().to_owned()));
    for budget in [Budget::bytes(1), Budget::bytes(1000), Budget::percent(0.001)] {
        let model = Rematerialize::with_settings(Mlp::new(&autodiff()), settings(budget));
        let error = model.step(input(&autodiff()), |m: &Mlp, x| m.loss(x)).unwrap_err();
        match error {
            Error::Infeasible { minimum: Some(minimum), blockers, .. } => {
                assert!(!blockers.is_empty());
                let roomy = Rematerialize::with_settings(Mlp::new(&autodiff()), settings(minimum.into()));
                assert_usable(&roomy);
            }
            other => panic!("not infeasible: {other}"),
        }
    }
    for budget in [Budget::bytes(u64::MAX), Budget::percent(1e30), Budget::Unlimited] {
        assert_usable(&Rematerialize::with_settings(Mlp::new(&autodiff()), settings(budget)));
    }
}

#[test]
fn a_closure_that_panics() {
    let model = wrapped();
    let result = model.step(input(&autodiff()), |m: &Mlp, x| {
        let loss = m.loss(x);
        assert!(loss.dims()[0] > 1, "boom");
        loss
    });
    let text = trace_error(result);
    assert!(text.contains("boom"), "{text}");
    assert_usable(&model);
}

#[test]
fn a_loss_that_is_not_a_scalar() {
    let model = wrapped();
    let text = trace_error(model.step(input(&autodiff()), |m: &Mlp, x| m.forward(x)));
    assert!(text.contains("[64, 32]") && text.contains("mean"), "{text}");
    assert_usable(&model);
}

#[test]
fn a_loss_that_depends_on_no_parameter() {
    let model = wrapped();
    let text = trace_error(model.step(input(&autodiff()), |m: &Mlp, x| m.loss(x).detach()));
    assert!(text.contains("does not depend"), "{text}");
    assert_usable(&model);
}

#[test]
fn control_flow_that_depends_on_data() {
    let model = wrapped();
    let text = trace_error(model.step(input(&autodiff()), |m: &Mlp, x| {
        let y = m.forward(x);
        match y.clone().mean().into_scalar::<f32>() > 0.0 {
            true => y.mean(),
            false => y.sum(),
        }
    }));
    assert!(text.contains("reads a computed value"), "{text}");
    assert_usable(&model);
}

#[test]
fn leaving_autodiff_and_moving_devices() {
    let model = wrapped();
    let text = trace_error(model.step(input(&autodiff()), |m: &Mlp, x| {
        let inner = m.forward(x).inner();
        Tensor::<2>::from_inner(inner).mean()
    }));
    assert!(text.contains("inner"), "{text}");
    let text =
        trace_error(model.step(input(&autodiff()), |m: &Mlp, x| m.loss(x.to_device(&Device::flex().autodiff()))));
    assert!(text.contains("to_device"), "{text}");
    let outside = input(&autodiff());
    let text = trace_error(model.step(input(&autodiff()), |m: &Mlp, x| m.loss(x + outside.clone())));
    assert!(text.contains("inputs"), "{text}");
    assert_usable(&model);
}

#[test]
fn seeding_inside_the_step() {
    let model = wrapped();
    let text = trace_error(model.step(input(&autodiff()), |m: &Mlp, x| {
        x.device().seed(3);
        m.loss(x)
    }));
    assert!(text.contains("seed"), "{text}");
    assert_usable(&model);
}

#[test]
fn models_that_cannot_be_trained() {
    let frozen = Rematerialize::with_settings(Mlp::new(&autodiff()).no_grad(), settings(Budget::Unlimited));
    let text = trace_error(frozen.step(input(&autodiff()), |m: &Mlp, x| m.loss(x)));
    assert!(text.contains("no trainable parameter"), "{text}");

    let plain = Rematerialize::with_settings(Mlp::new(&Device::flex()), settings(Budget::Unlimited));
    let text = trace_error(plain.step(input(&autodiff()), |m: &Mlp, x| m.loss(x)));
    assert!(text.contains("autodiff"), "{text}");

    let checkpointing = autodiff().gradient_checkpointing();
    let model = Rematerialize::with_settings(Mlp::new(&checkpointing), settings(Budget::Unlimited));
    let text = trace_error(model.step(input(&checkpointing), |m: &Mlp, x| m.loss(x)));
    assert!(text.contains("checkpointing"), "{text}");
}

#[test]
fn inputs_that_do_not_fit() {
    let model = wrapped();
    let tracked = input(&autodiff()).require_grad();
    let error = model.step(tracked, |m: &Mlp, x| m.loss(x)).unwrap_err();
    assert!(matches!(&error, Error::InvalidInput { why } if why.contains("gradient")), "{error}");
    // The wrong shape fails in the closure as it would in plain Burn.
    let wrong = Tensor::<2>::ones([4, 7], &autodiff());
    let text = trace_error(model.step(wrong, |m: &Mlp, x| m.loss(x)));
    assert!(text.contains("panicked"), "{text}");
    assert_usable(&model);
}

#[test]
fn a_plan_directory_with_bad_files() {
    let directory = tempfile::tempdir().unwrap();
    let kept = || settings(Budget::percent(70.0)).plan_directory(directory.path());
    let model = Rematerialize::with_settings(Mlp::new(&autodiff()), kept());
    let first = model.plan(input(&autodiff()), |m: &Mlp, x| m.loss(x)).unwrap();
    let files: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    let text = std::fs::read_to_string(&files[0]).unwrap();
    let bad = [
        String::new(),
        "{".to_owned(),
        text[..text.len() / 2].to_owned(),
        text.replacen("\"version\":1", "\"version\":99", 1),
        text.replacen("\"drop\"", "\"prefetch\"", 1),
    ];
    for bad in bad {
        std::fs::write(&files[0], bad).unwrap();
        let model = Rematerialize::with_settings(Mlp::new(&autodiff()), kept());
        assert_usable(&model);
        // A good plan stands in its place, not always the same one: costs are measured anew.
        let again = plimsoll::plan::Plan::load(&files[0]).unwrap();
        assert_eq!((&again.problem, again.budget), (&first.problem, first.budget));
    }
}

#[test]
fn another_batch_size_is_planned_anew() {
    let model = wrapped();
    for rows in [64, 64, 33, 64, 48] {
        let x = input(&autodiff()).slice([0..rows, 0..32]);
        let want = model.module().loss(x.clone()).into_data();
        let step = model.step(x, |m: &Mlp, x| m.loss(x)).unwrap();
        assert_eq!(want, step.loss.into_data());
    }
}

#[test]
fn a_captured_scalar_that_changes_is_seen() {
    let model = wrapped();
    for weight in [1.0, 0.5, 0.25, 1.0] {
        let x = input(&autodiff());
        let want = model.module().loss(x.clone()).mul_scalar(weight).into_data();
        let step = model.step(x, |m: &Mlp, x| m.loss(x).mul_scalar(weight)).unwrap();
        assert_eq!(want, step.loss.into_data());
    }
}

#[test]
fn wrapping_leaves_accumulated_gradients_alone() {
    let device = autodiff();
    let plain = Mlp::new(&device);
    let grads = |x: Tensor<2>| GradientsParams::from_grads(plain.loss(x).backward(), &plain);
    let mut want = GradientsAccumulator::new();
    want.accumulate(&plain, grads(input(&device)));
    let mut got = GradientsAccumulator::new();
    got.accumulate(&plain, grads(input(&device)));

    let model =
        Rematerialize::with_settings(plain.clone(), settings(Budget::percent(85.0)).gradient_accumulation(true));
    for scale in [2.0, 3.0] {
        let x = input(&device).mul_scalar(scale);
        want.accumulate(&plain, grads(x.clone()));
        got.accumulate(&plain, model.step(x, |m: &Mlp, x| m.loss(x)).unwrap().grads);
    }
    assert_eq!(gradients_of(&plain, &want.grads()), gradients_of(&plain, &got.grads()));
}

#[test]
fn records_and_devices_pass_through() {
    let model = wrapped();
    let record = model.clone().into_record();
    let restored = Mlp::new(&autodiff()).load_record(record);
    let x = input(&autodiff());
    assert_eq!(model.loss(x.clone()).into_data(), restored.loss(x.clone()).into_data());
    let back = Rematerialize::with_settings(Mlp::new(&autodiff()), settings(Budget::percent(80.0)))
        .load_record(restored.into_record());
    assert_eq!(model.loss(x.clone()).into_data(), back.loss(x).into_data());
    assert_eq!(model.num_params(), model.module().num_params());
    assert!(!model.valid().module().layers[0].weight.is_require_grad());
    assert_usable(&model.clone().fork(&autodiff()));
}

#[test]
fn other_results_beside_the_loss() {
    let model = wrapped();
    let x = input(&autodiff());
    let (want_y, want_k) = (model.forward(x.clone()), model.forward(x.clone()).argmax(1));
    let step = model
        .step((x.clone(), vec![x.clone(), x.clone()]), |m: &Mlp, (x, more)| {
            let y = m.forward(x.clone());
            let k = y.clone().argmax(1);
            (y.clone().powi_scalar(2).mean(), (y, [k], Some(more[1].clone()), x))
        })
        .unwrap();
    let (y, [k], more, same) = step.output;
    assert_eq!(want_y.into_data(), y.into_data());
    assert_eq!(want_k.into_data(), k.into_data());
    assert_eq!(x.clone().into_data(), more.unwrap().into_data());
    assert_eq!(x.into_data(), same.into_data());
}

#[derive(Module, Debug)]
struct Odd {
    shared: Linear,
    frozen: Linear,
    unreached: Linear,
    scale: Param<Tensor<1>>,
}

impl Odd {
    fn loss(&self, x: Tensor<2>, rows: Tensor<1, Int>) -> Tensor<1> {
        let device = x.device();
        // One parameter in two places, constants made on the way, an assignment of constants.
        let y = self.shared.forward(self.frozen.forward(self.shared.forward(x)));
        let y = y.slice_assign([0..2, 0..8], Tensor::ones([2, 8], &device));
        let mask = Tensor::<1>::from_data([1.0f32, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0], &device);
        let y = y * mask.unsqueeze::<2>() * self.scale.val().unsqueeze::<2>();
        y.select(0, rows).powi_scalar(2).mean()
    }
}

#[test]
fn cloned_parameters_share_a_gradient() {
    let device = autodiff();
    let layer: Linear = LinearConfig::new(32, 32).init(&device);
    let _ = layer.forward(input(&device)); // parameters are made at first use; clones share from then on
    let plain = Mlp { layers: vec![layer.clone(), layer.clone(), LinearConfig::new(32, 32).init(&device), layer] };
    let model = Rematerialize::with_settings(plain, settings(Budget::Unlimited));
    assert_usable(&model);
}

#[test]
fn odd_models_train_identically() {
    let device = autodiff();
    let linear = || LinearConfig::new(8, 8).init(&device);
    let plain = Odd {
        shared: linear(),
        frozen: linear().no_grad(),
        unreached: linear(),
        scale: Param::from_tensor(Tensor::ones([8], &device)),
    };
    let x = Tensor::<2>::random([512, 8], Distribution::Default, &device);
    let rows = Tensor::<1, Int>::from_data([0, 3, 3, 7, 15], &device);
    for budget in [Budget::Unlimited, Budget::percent(90.0)] {
        let mut plain = plain.clone();
        let mut model = Rematerialize::with_settings(plain.clone(), settings(budget));
        let (mut a, mut b) = (AdamWConfig::new().init(), AdamWConfig::new().init());
        for _ in 0..3 {
            let loss = plain.loss(x.clone(), rows.clone());
            let want = GradientsParams::from_grads(loss.backward(), &plain);
            let step = model.step((x.clone(), rows.clone()), |m: &Odd, (x, rows)| m.loss(x, rows)).unwrap();
            assert_eq!(loss.into_data(), step.loss.into_data());
            let (w, g) = (gradients_of(&plain, &want), gradients_of(model.module(), &step.grads));
            assert_eq!(w, g);
            assert_eq!(w.iter().filter(|g| g.is_none()).count(), 4, "frozen and unreached have none");
            plain = a.step(1e-2, plain, want);
            model = b.step(1e-2, model, step.grads);
        }
    }
}

/// What CubeCL says when a driver has no memory left, in the middle of a step: the model is as it was, and the next step runs,
/// by the same plan, or by one for less where that was asked for.
#[test]
fn a_device_that_runs_out_of_memory() {
    // How many more Fourier transforms find memory.
    static LEFT: AtomicUsize = AtomicUsize::new(usize::MAX);
    struct Short;
    impl ZooVisitor for Short {
        type Output = ();
        fn visit<M: ZooModel>(
            self,
            _name: &'static str,
            plain: M,
            batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
        ) {
            let device = plain.devices()[0].clone();
            for replan in [false, true] {
                let own = before_transforms(settings(Budget::Unlimited), || {
                    if LEFT.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(1))) == Ok(0) {
                        panic!(
                            "called `Result::unwrap()` on an `Err` value: out of device memory allocating 4096 bytes"
                        );
                    }
                });
                let model = Rematerialize::with_settings(plain.clone(), own.replan_on_oom(replan));
                let step = || model.step(batch(0, &device), |m: &M, inputs| m.batch_loss(inputs));
                let bits = || {
                    let step = step().unwrap();
                    (step.loss.into_data(), gradients_of(model.module(), &step.grads), step.report)
                };
                let (loss, gradients, _) = bits();
                let (before, mut plan) = (state_of(&model), model.latest_plan().unwrap());
                for after in [0, 1, 3] {
                    LEFT.store(after, Relaxed);
                    let error = step().err().unwrap();
                    LEFT.store(usize::MAX, Relaxed);
                    let text = error.to_string();
                    assert!(matches!(error, Error::OutOfMemory { .. }), "{text}");
                    assert!(text.contains("rfft") || text.contains("Custom"), "{text}");
                    assert!(text.contains("4096 bytes") && text.contains("replan_on_oom"), "{text}");
                    assert_eq!(state_of(&model), before);
                    let (again, found, report) = bits();
                    assert_eq!((&again, &found), (&loss, &gradients));
                    let next = model.latest_plan().unwrap();
                    let less = next.predicted.peak < plan.predicted.peak;
                    assert_eq!(less, replan, "{} after {}", next.predicted.peak, plan.predicted.peak);
                    assert!(report.planned_peak <= report.budget);
                    plan = next;
                }
            }
        }
    }
    zoo::with_model("fno", &small("fno"), &autodiff(), 7, Short).unwrap();
}
