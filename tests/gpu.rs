//! Steps on a CubeCL device: the same bits as plain Burn's, within the budget by the device's own pools.
//!
//! Any Vulkan device will do; without a GPU that is a software driver (Debian: mesa-vulkan-drivers).
//! Where there is none the tests say so and end: look for "SKIPPED".

mod common;

use std::time::{Duration, Instant};

use burn::module::{Module, Param, ParamId};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use common::accumulate::mean_of_steps;
use common::{Bits, Measured, Plain, Planned, alone, settings, small};
use plimsoll::cost::{Link, Profile};
use plimsoll::plan::{Plan, Step};
use plimsoll::zoo::{self, ZooModel, ZooVisitor};
use plimsoll::{Budget, Bytes, Error, OneLaunch, PipelineSettings, Rematerialize};

/// Padding of buffers that no plan knows of.
const PADDING: Bytes = Bytes(1024);

/// The device, if there is one.
fn device() -> Option<Device> {
    let found = zoo::device("wgpu");
    if let Err(error) = &found {
        println!("SKIPPED: {error}");
    }
    found.ok().map(Device::autodiff)
}

fn assert_same(name: &str, want: &[Bits], got: &[Bits]) {
    for (step, (want, got)) in want.iter().zip(got).enumerate() {
        assert_eq!(want.loss, got.loss, "{name}: loss of step {step}");
        assert_eq!(want.gradients, got.gradients, "{name}: gradients of step {step}");
        assert_eq!(want.state, got.state, "{name}: parameters and statistics after step {step}");
    }
}

/// How far loss and gradients of a step are from others: the norm of their difference over their own.
fn distance(want: &Bits, got: &Bits) -> f64 {
    let all = |bits: &Bits| -> Vec<f64> {
        let gradients = bits.gradients.iter().flatten();
        std::iter::once(&bits.loss).chain(gradients).flat_map(|data| data.iter::<f64>().collect::<Vec<_>>()).collect()
    };
    let (want, got) = (all(want), all(got));
    assert_eq!(want.len(), got.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut want.iter().zip(&got).map(|(w, g)| w - g)) / norm(&mut want.iter().copied()).max(f64::MIN_POSITIVE)
}

/// Fused kernels may round a multiplication and the addition after it once.
const FUSED: f64 = 1e-6;

/// The same loss: to the bit, or as near as it is where one of both is fused.
fn assert_loss(at: &str, want: &TensorData, got: &TensorData, fused: bool) {
    if fused && cfg!(feature = "fusion") {
        let (got, want) = (got.iter::<f64>().next().unwrap(), want.iter::<f64>().next().unwrap());
        assert!((got - want).abs() <= FUSED * want.abs(), "{at}: {got}, not {want}");
    } else {
        assert_eq!(got, want, "{at}");
    }
}

/// Sums in another order, and kernels that approximate (`gelu`'s backward): how far a device may be from the CPU.
const CPU: f64 = 0.05;

/// Models that end in a convolution with one channel, whose result plain Burn's fused kernels misread: losses and gradients that are not those of the
/// CPU, nor its own without fusion. Fused steps of a plan are right all the same.
const DIFFERS: [&str; 2] = ["fno", "unet"];

/// A model of the zoo on the device, costs of its ops measured once.
struct Bed<'a> {
    name: &'a str,
    device: &'a Device,
    costs: tempfile::TempDir,
    /// How long to look for what to move.
    patience: Duration,
    /// Whether the device's clock takes the time of operations and copies.
    timed: bool,
}

impl Bed<'_> {
    fn planned(&self, budget: Budget, fusion: bool, host: bool) -> Result<(Vec<Bits>, Vec<Measured>, Plan), Error> {
        let profiles = Some(self.costs.path().to_owned());
        let mut settings = settings(budget).fusion(fusion).profile_directory(profiles).timed(self.timed);
        if host {
            // What to move is looked for when the rest is planned.
            settings = settings.host_memory(Bytes(1 << 30)).time_limit(self.patience);
        }
        let planned = Planned { steps: 2, settings };
        let ran = zoo::with_model(self.name, &small(self.name), self.device, 7, planned).unwrap();
        if let Ok((_, measured, plan)) = &ran {
            for m in measured {
                let peak = m.report.measured_peak.unwrap();
                println!(
                    "{} {budget} fusion {fusion} offload {host}: planned {} measured {peak} budget {} overhead {:.4}",
                    self.name, m.report.planned_peak, m.report.budget, plan.predicted.overhead
                );
                assert!(peak <= m.report.budget, "{} at {budget}: {:?}", self.name, m.report);
                if !fusion {
                    assert!(peak <= m.report.planned_peak + PADDING, "{} at {budget}: {:?}", self.name, m.report);
                }
            }
        }
        ran
    }

    /// Have plans believe in a link so fast that moving a tensor is always cheaper than making it again.
    fn fast_link(&self) {
        // Each has costs of its own.
        for fusion in [false, true] {
            self.planned(Budget::Unlimited, fusion, true).unwrap();
        }
        for file in std::fs::read_dir(self.costs.path()).unwrap() {
            let path = file.unwrap().path();
            let mut profile = Profile::load(&path).unwrap();
            assert!(profile.link.is_some(), "the link is measured");
            profile.link = Some(Link { d2h_bytes_per_s: 1 << 40, h2d_bytes_per_s: 1 << 40 });
            profile.save(&path).unwrap();
        }
    }

    /// The smallest budget there is a plan for.
    fn least(&self, fusion: bool, host: bool) -> Budget {
        match self.planned(Budget::bytes(1), fusion, host) {
            Err(Error::Infeasible { minimum: Some(least), .. }) => Budget::Bytes(least),
            other => panic!("{}: {:?}", self.name, other.map(|ran| ran.2.predicted)),
        }
    }
}

/// Run at the smallest budget there is a plan for. Found in time once it need not be found again in time; and where parameters come to
/// lie another way an op may take more.
fn at_least<T>(mut budget: Budget, run: impl Fn(Budget) -> Result<T, Error>) -> Result<T, Error> {
    loop {
        match run(budget) {
            Err(Error::Infeasible { budget: tried, minimum: Some(more), .. }) if more > tried => {
                budget = Budget::Bytes(more);
            }
            ran => return ran,
        }
    }
}

/// Every model at half of what keeping everything takes (or the least that will do, where that is more) and at the least: with and
/// without fusion, with and without offloading.
#[test]
fn zoo_models_train_identically_on_the_device() {
    let _alone = alone();
    let Some(device) = device() else { return };
    // All take a quarter of an hour; those that differ most from each other are always looked at.
    let only = std::env::var("PLIMSOLL_MODELS").unwrap_or_else(|_| "frozen,gpt,resnet,fno,buffers".into());
    let all: Vec<&str> = zoo::models().iter().map(|spec| spec.name).collect();
    let only = if only == "all" { all } else { only.split(',').collect() };
    for name in only {
        let costs = tempfile::tempdir().unwrap();
        let bed = Bed { name, device: &device, costs, patience: Duration::from_secs(5), timed: false };
        let (plain, _) = zoo::with_model(name, &small(name), &device, 7, Plain { steps: 2 }).unwrap();
        let flex = Device::flex().autodiff();
        let (flex, _) = zoo::with_model(name, &small(name), &flex, 7, Plain { steps: 1 }).unwrap();
        let kept = |fusion| bed.planned(Budget::Unlimited, fusion, false).unwrap();
        let (exact, _, _) = kept(false);
        // Dropout draws otherwise there.
        if name != "dropout" {
            let (plain, exact) = (distance(&flex[0], &plain[0]), distance(&flex[0], &exact[0]));
            println!("{name}: plain Burn: {plain:.1e} from the CPU's, not fused: {exact:.1e}");
            assert!(exact <= CPU, "{name}: {exact}");
        }
        bed.fast_link();
        if cfg!(feature = "fusion") {
            let (fused, _, _) = kept(true);
            let (of_plain, of_plan) = (distance(&exact[0], &plain[0]), distance(&exact[0], &fused[0]));
            println!("{name}, fused, from what is not: plain Burn {of_plain:.1e}, all kept {of_plan:.1e}");
            assert_eq!(of_plain > FUSED, DIFFERS.contains(&name), "{name}: plain Burn, fused");
            assert!(of_plan <= FUSED, "{name}: fused, all kept");
        } else {
            assert_same(name, &plain, &exact);
        }
        for host in [false, true] {
            for fusion in [false, true] {
                let least = bed.least(fusion, host);
                for budget in [Budget::percent(50.0), least] {
                    let at = format!("{name} at {budget}, fusion {fusion}, offload {host}");
                    let planned = |budget| bed.planned(budget, fusion, host);
                    let ran = if budget == least { at_least(budget, planned) } else { planned(budget) };
                    let (got, _, _) = match ran {
                        Err(Error::Infeasible { .. }) if budget != least => continue,
                        ran => ran.unwrap_or_else(|error| panic!("{at}: {error}")),
                    };
                    if fusion && cfg!(feature = "fusion") {
                        println!("{at}: {:.1e}", distance(&exact[0], &got[0]));
                        assert!(distance(&exact[0], &got[0]) <= FUSED, "{at}");
                    } else {
                        assert_same(&at, &exact, &got);
                    }
                }
            }
        }
    }
}

#[test]
fn offloaded_activations_come_back_as_they_were() {
    let _alone = alone();
    let Some(device) = device() else { return };
    for name in ["gpt", "resnet", "frozen"] {
        let costs = tempfile::tempdir().unwrap();
        let bed = Bed { name, device: &device, costs, patience: Duration::from_secs(20), timed: true };
        let (want, _, _) = bed.planned(Budget::Unlimited, false, false).unwrap();
        bed.fast_link();
        for fusion in [false, true] {
            // Where the search has little time it may make things again that cost next to nothing; then less memory makes it move some.
            let ran = [75.0, 60.0, 50.0].into_iter().map(|share| {
                let (got, measured, plan) = bed.planned(Budget::percent(share), fusion, true).unwrap();
                let moved = plan.steps.iter().filter(|step| matches!(step, Step::Offload(_))).count();
                let report = measured[1].report;
                println!("{name}: {moved} tensors are moved; {report:?}");
                match report.lanes {
                    // Where operations are fused none has a time of its own.
                    None => assert!(fusion && cfg!(feature = "fusion")),
                    Some(lanes) => {
                        let copies = lanes.to_host + lanes.from_host;
                        assert!(!lanes.compute.is_zero() && lanes.compute <= lanes.span, "{lanes:?}");
                        // WebGPU's clock sees kernels and not copies.
                        assert!(lanes.hidden <= copies && copies <= lanes.span * 2, "{lanes:?}");
                    }
                }
                (got, moved)
            });
            let (got, _) = ran.into_iter().find(|(_, moved)| *moved > 0).expect("something is moved");
            match fusion && cfg!(feature = "fusion") {
                true => assert!(distance(&want[0], &got[0]) <= FUSED, "{name}"),
                false => assert_same(name, &want, &got),
            }
        }
    }
}

/// A kind of step is run as usual twice, and recorded the second time; then it is one launch, with the same bits.
#[test]
fn recorded_steps_are_one_launch_and_the_same() {
    let _alone = alone();
    let Some(device) = device() else { return };
    // Running statistics, frozen parameters, constants, several results: all that goes in and comes out in other ways.
    let only = std::env::var("PLIMSOLL_RECORDED").unwrap_or_else(|_| "resnet,frozen,constants".into());
    for name in only.split(',') {
        for fusion in [false, true] {
            let costs = tempfile::tempdir().unwrap();
            let train = |costs: &tempfile::TempDir, budget, one_launch| {
                let settings = settings(budget).fusion(fusion).profile_directory(Some(costs.path().to_owned()));
                let planned = Planned { steps: 7, settings: settings.one_launch(one_launch) };
                zoo::with_model(name, &small(name), &device, 7, planned).unwrap()
            };
            let (usual, as_usual, _) = train(&costs, Budget::Unlimited, false).unwrap();
            let (got, measured, plan) = train(&costs, Budget::Unlimited, true).unwrap();
            let at = format!("{name}, fusion {fusion}");
            assert_same(&at, &usual, &got);
            let launches: Vec<bool> = measured.iter().map(|m| m.report.one_launch).collect();
            // At first parameters may come to lie in another way than they were made, which is another kind of step.
            let first = launches.iter().position(|&launch| launch).expect("it is recorded");
            assert!((2..5).contains(&first) && launches[first..].iter().all(|&launch| launch), "{at}: {launches:?}");
            let needs = measured.iter().map(|m| m.report.measured_peak.unwrap()).max().unwrap();
            let (fast, slow) = (measured[6].report.ran, as_usual[6].report.ran);
            let peak = as_usual[6].report.measured_peak.unwrap();
            println!("{at}: {} steps, {slow:?}, {peak}; as one launch {fast:?}, {needs}", plan.steps.len());
            assert!(needs > peak, "{at}: copies take memory");
            assert_eq!(measured[6].report.reserved, measured[5].report.reserved, "{at}: reserved memory grows");

            // It counts as the rest does: where there is no room for it steps run as usual.
            let bed = Bed { name, device: &device, costs, patience: Duration::from_secs(3), timed: false };
            let least = bed.least(fusion, false);
            let (got, measured, _) = at_least(least, |budget| train(&bed.costs, budget, true)).unwrap();
            // Fused, bits depend on the plan.
            if !fusion {
                assert_same(&at, &usual, &got);
            }
            for m in measured {
                assert!(!m.report.one_launch && m.report.measured_peak.unwrap() <= m.report.budget, "{at}: {m:?}");
            }
        }
    }
}

/// Recordings give way to steps that need their memory: what was one launch runs as usual from then on.
#[test]
fn recordings_give_way_to_steps_that_need_their_memory() {
    #[derive(Module, Debug)]
    struct Layers {
        layers: Vec<Linear>,
    }
    let _alone = alone();
    let Some(device) = device() else { return };
    let layers = Layers { layers: (0..4).map(|_| LinearConfig::new(32, 32).init(&device)).collect() };
    let costs = tempfile::tempdir().unwrap();
    for fusion in [false, true] {
        let wrapped = |budget| {
            let settings = settings(budget).fusion(fusion).profile_directory(Some(costs.path().to_owned()));
            Rematerialize::with_settings(layers.clone(), settings.optimizer_bytes_per_parameter(0.0).one_launch(true))
        };
        let run = |model: &Rematerialize<Layers>, rows: usize| {
            let step = model.step(Tensor::<2>::ones([rows, 32], &device), |m: &Layers, x| {
                m.layers.iter().fold(x, |x, layer| layer.forward(x).tanh()).powi_scalar(2).mean()
            });
            let step = step.unwrap();
            let bits = (common::data_of(step.loss), common::gradients_of(model, &step.grads));
            let within = step.report.measured_peak.unwrap() <= step.report.budget;
            assert!(within, "fusion {fusion}, {rows} rows: {:?}", step.report);
            (bits, step.report)
        };
        let (few, many) = (64, 512);
        let needed = run(&wrapped(Budget::Unlimited), many).1.planned_peak;
        // A little of a budget is held back.
        let model = wrapped(Budget::bytes(needed.get() * 100 / 96));
        let (want, _) = run(&model, few);
        let launches = [run(&model, few), run(&model, few)].map(|(bits, report)| {
            assert!(bits == want, "fusion {fusion}");
            report.one_launch
        });
        assert_eq!((launches, model.one_launch()), ([false, true], OneLaunch::Recorded), "fusion {fusion}");
        assert!(!run(&model, many).1.one_launch);
        assert_eq!(model.one_launch(), OneLaunch::Not, "fusion {fusion}");
        let (bits, report) = run(&model, few);
        assert!(bits == want && !report.one_launch, "fusion {fusion}");
        match model.one_launch() {
            OneLaunch::Refused { why } => assert!(why.contains("need its memory"), "{why}"),
            other => panic!("fusion {fusion}: {other:?}"),
        }
    }
}

/// Kernels choose by how their inputs lie how they add up: what was moved to the host must come back as it lay.
#[test]
#[cfg(feature = "fusion")]
fn what_comes_back_from_the_host_lies_as_it_did() {
    use plimsoll::runtime::{Fused, Target};
    let _alone = alone();
    let Some(device) = device() else { return };
    let plain = Tensor::<1, Int>::arange(0..120, &device.clone().inner()).reshape([2, 3, 4, 5]).float();
    let (swapped, mixed) = (plain.clone().swap_dims(2, 3), plain.clone().permute([3, 0, 2, 1]));
    for (tensor, lies) in [(plain, ""), (swapped, "60,20,1,5@0/480"), (mixed, "1,60,5,20@0/480")] {
        let want = common::data_of(tensor.clone());
        let handle = Fused::float_in(tensor).unwrap();
        let on = Fused::device_of(&handle);
        let mut host = Fused::to_host(handle, None).unwrap();
        Fused::arrived(&mut host).unwrap();
        let (back, landing) = Fused::from_host(host, &on, None).unwrap();
        landing.into_iter().for_each(Fused::met);
        let seen = Fused::look(std::slice::from_ref(&back)).unwrap();
        assert_eq!(seen[0].layout.as_deref().unwrap_or_default(), lies);
        assert_eq!(common::data_of(Fused::float_out::<4>(back).unwrap()), want);
    }
}

/// What changes from step to step is not recorded, and the reason is told.
#[test]
fn what_cannot_be_one_launch_runs_as_usual() {
    struct Refused {
        settings: plimsoll::Settings,
        /// The model stays where it is; only its inputs go to the device.
        infer: Option<Device>,
    }
    impl ZooVisitor for Refused {
        type Output = String;
        fn visit<M: ZooModel>(
            self,
            name: &'static str,
            model: M,
            batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
        ) -> String {
            let device = model.devices()[0].clone();
            let model = Rematerialize::with_settings(model, self.settings.one_launch(true));
            assert_eq!(model.one_launch(), OneLaunch::Not);
            for n in 0..3 {
                let report = match &self.infer {
                    None => model.step(batch(n, &device), |m: &M, inputs| m.batch_loss(inputs)).unwrap().report,
                    Some(device) => model.infer(batch(n, device), |m: &M, inputs| m.batch_loss(inputs)).unwrap().report,
                };
                assert!(!report.one_launch, "{name}: step {n}");
            }
            match model.one_launch() {
                OneLaunch::Refused { why } => why,
                other => panic!("{name}: {other:?}"),
            }
        }
    }
    let _alone = alone();
    let refused = |name, device: &Device, settings, infer| {
        let small = if name == "dropout" { small(name).set("dropout", 0.1) } else { small(name) };
        zoo::with_model(name, &small, device, 7, Refused { settings, infer }).unwrap()
    };
    let flex = Device::flex().autodiff();
    let unlimited = || settings(Budget::Unlimited);
    assert!(refused("frozen", &flex, unlimited(), None).contains("does not record"));
    let Some(device) = device() else { return };
    assert!(refused("dropout", &device, unlimited(), None).contains("random"));
    let brought = Some(device.clone().inner());
    let least = 256 << 10;
    assert!(refused("gpt", &flex, settings(Budget::bytes(least)), brought).contains("from host memory"));
    // A closure that captures something new each time is another step each time.
    struct Scaled;
    impl ZooVisitor for Scaled {
        type Output = ();
        fn visit<M: ZooModel>(
            self,
            name: &'static str,
            model: M,
            batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
        ) {
            let device = model.devices()[0].clone();
            let run = |one_launch| {
                let settings = settings(Budget::Unlimited).fusion(false).one_launch(one_launch);
                let model = Rematerialize::with_settings(model.clone(), settings);
                let scales = [1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 2.0];
                let losses = scales.map(|scale: f32| {
                    let step =
                        model.step(batch(0, &device), move |m: &M, inputs| m.batch_loss(inputs) * scale).unwrap();
                    (common::data_of(step.loss), step.report.one_launch)
                });
                losses
            };
            let (usual, recorded) = (run(false), run(true));
            for (n, (usual, recorded)) in usual.iter().zip(&recorded).enumerate() {
                assert_eq!(usual.0, recorded.0, "{name}: step {n}");
            }
            assert_eq!(recorded.map(|(_, one_launch)| one_launch), [false, false, false, false, true, true, false]);
        }
    }
    zoo::with_model("frozen", &small("frozen"), &device, 7, Scaled).unwrap();
}

/// Two stages on a device, each a thread with a stream of its own: the bits of one microbatch after the other, not fused.
#[test]
fn stages_on_the_device_train_the_same_bits() {
    struct Stages;
    impl ZooVisitor for Stages {
        type Output = ();
        fn visit<M: ZooModel>(
            self,
            name: &'static str,
            model: M,
            batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
        ) {
            let device = model.devices()[0].clone();
            let usual = || settings(Budget::Unlimited).fusion(false);
            let one = Rematerialize::with_settings(model.clone(), usual());
            let stages = PipelineSettings::new(4).schedule("1f1b").settings(usual()).time_limit(Duration::from_secs(4));
            let devices = vec![device.clone().inner(); 2];
            let two = Rematerialize::pipeline(model, devices, Budget::Unlimited, stages).unwrap();
            for step in 0..2 {
                let inputs = batch(step, &device);
                let want = mean_of_steps(&one, &inputs, 4);
                let got = two.step(inputs, |m: &M, inputs| m.batch_loss(inputs)).unwrap();
                let report = got.pipeline.expect("a pipeline");
                assert!(report.devices.iter().all(|device| !device.did.is_empty()), "{name}: {report:?}");
                assert!(want == common::gradients_of(&two, &got.grads), "{name}: gradients of step {step}");
            }
        }
    }
    let _alone = alone();
    let Some(device) = device() else { return };
    for name in ["gpt", "resnet"] {
        zoo::with_model(name, &small(name), &device, 7, Stages).unwrap();
    }
}

/// What a step takes until its device has done it, plain Burn's beside it, and what was predicted of it.
#[test]
#[ignore = "a table: takes minutes, and times are what they are"]
fn times_of_plain_and_planned_steps() {
    struct Timed(plimsoll::Settings);
    impl ZooVisitor for Timed {
        type Output = [Duration; 4];
        fn visit<M: ZooModel>(
            self,
            _name: &'static str,
            model: M,
            batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
        ) -> Self::Output {
            let device = model.devices()[0].clone();
            let (wrapped, plain) = (Rematerialize::with_settings(model.clone(), self.0), model);
            let (mut times, mut traced) = ([Vec::new(), Vec::new()], Vec::new());
            // In turns, so that what else the machine does slows down both.
            let begun = Instant::now();
            for n in (0..).take_while(|&n| n < 12 || begun.elapsed() < Duration::from_secs(15)) {
                for (planned, times) in times.iter_mut().enumerate() {
                    let inputs = batch(n, &device);
                    device.sync().unwrap();
                    let start = Instant::now();
                    match planned {
                        0 => drop(plain.batch_loss(inputs).backward()),
                        _ => {
                            let step = wrapped.step(inputs, |m: &M, inputs| m.batch_loss(inputs)).unwrap();
                            traced.push(step.report.planned);
                        }
                    }
                    device.sync().unwrap();
                    times.push(start.elapsed());
                }
            }
            let [plain, planned] = times;
            let [plain, planned, traced] = [plain, planned, traced].map(|mut times| {
                let times = &mut times[2..];
                times.sort_unstable();
                times[times.len() / 2]
            });
            let predicted = wrapped.latest_plan().unwrap().predicted.time;
            [plain, planned, traced, Duration::from_nanos(predicted.get())]
        }
    }
    let _alone = alone();
    let Some(device) = device() else { return };
    println!(
        "| model | fusion | plain Burn | planned | ratio | tracing | predicted | of the rest |\n|---|---|---|---|---|---|---|---|"
    );
    let only = std::env::var("PLIMSOLL_MODELS").unwrap_or_else(|_| "gpt,resnet,mixer".into());
    let large =
        zoo::Settings::tiny("gpt").unwrap().set("layers", 2).set("width", 128).set("sequence", 64).set("batch", 16);
    let sizes = only.split(',').map(|name| (name, small(name))).chain([("gpt", large)]);
    for (name, size) in sizes {
        for fusion in [false, true] {
            let settings = settings(Budget::Unlimited).fusion(fusion);
            let [plain, planned, traced, predicted] =
                zoo::with_model(name, &size, &device, 7, Timed(settings)).unwrap();
            let part = |time: Duration, whole: Duration| time.as_secs_f64() / whole.as_secs_f64();
            println!(
                "| {name} | {fusion} | {plain:.1?} | {planned:.1?} | {:.3} | {traced:.1?} | {predicted:.1?} | {:.2} |",
                part(planned, plain),
                part(predicted, planned.saturating_sub(traced))
            );
        }
    }
}

/// The pools hold no more after many steps than after a few.
#[test]
fn reserved_memory_does_not_creep() {
    let _alone = alone();
    let Some(device) = device() else { return };
    let plan = settings(Budget::percent(75.0));
    let (_, measured, _) =
        zoo::with_model("frozen", &small("frozen"), &device, 7, Planned { steps: 500, settings: plan })
            .unwrap()
            .unwrap();
    let reserved: Vec<Bytes> = measured.iter().map(|m| m.report.reserved.unwrap()).collect();
    let after = |steps: usize| reserved[steps - 1];
    println!("reserved after {:?}", [1, 10, 50, 100, 200, 300, 400, 500].map(|n| (n, after(n))));
    assert_eq!(after(500), after(250));
}

/// Where tensors are large beside the pages that pools are made of, pools hold little more than a step needs, whatever measuring
/// and planning left there.
#[test]
fn pools_hold_little_more_than_a_step_needs() {
    let _alone = alone();
    let Some(device) = device() else { return };
    let large =
        zoo::Settings::tiny("gpt").unwrap().set("layers", 1).set("width", 128).set("sequence", 64).set("batch", 32);
    for budget in [Budget::Unlimited, Budget::percent(75.0)] {
        for fusion in [false, true] {
            let planned = Planned { steps: 2, settings: settings(budget).fusion(fusion) };
            let (_, measured, _) = zoo::with_model("gpt", &large, &device, 7, planned).unwrap().unwrap();
            for m in &measured {
                let (needed, reserved) = (m.report.planned_peak, m.report.reserved.unwrap());
                println!("{budget}, fusion {fusion}: {needed} planned, {reserved} reserved");
            }
            let last = measured.last().unwrap().report;
            assert!(last.reserved.unwrap().get() <= 2 * last.planned_peak.get(), "{last:?}");
        }
    }
}

#[test]
fn forward_runs_are_the_same_on_the_device() {
    struct Infer;
    impl ZooVisitor for Infer {
        type Output = ();
        fn visit<M: ZooModel>(
            self,
            name: &'static str,
            model: M,
            batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
        ) {
            let plain = model.devices()[0].clone().inner();
            let want = common::data_of(model.valid().batch_loss(batch(0, &plain)));
            let wrapped = Rematerialize::with_settings(model, settings(Budget::Unlimited).fusion(false));
            let done = wrapped.infer(batch(0, &plain), |m: &M, inputs| m.batch_loss(inputs)).unwrap();
            let got = common::data_of(done.output);
            assert_loss(name, &want, &got, true);
            assert!(done.report.measured_peak.unwrap() <= done.report.planned_peak + PADDING, "{name}");
        }
    }
    let _alone = alone();
    let Some(device) = device() else { return };
    for name in ["frozen", "gpt"] {
        zoo::with_model(name, &small(name), &device, 7, Infer).unwrap();
    }
}

/// A model on the CPU runs on the device that its inputs are on, its parameters brought as the budget allows.
#[test]
fn parameters_come_from_host_memory_when_they_do_not_fit() {
    struct Brought(Device);
    impl ZooVisitor for Brought {
        type Output = ();
        fn visit<M: ZooModel>(
            self,
            name: &'static str,
            model: M,
            batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
        ) {
            let device = self.0.inner();
            let costs = tempfile::tempdir().unwrap();
            let wrapped = |model: M, budget, fusion| {
                let settings = settings(budget).fusion(fusion).profile_directory(Some(costs.path().to_owned()));
                Rematerialize::with_settings(model, settings)
            };
            let run = |model: &Rematerialize<M>, n| {
                let done = model.infer(batch(n, &device), |m: &M, inputs| m.batch_loss(inputs))?;
                Ok::<_, Error>((common::data_of(done.output), done.report, model.latest_plan().unwrap()))
            };
            let there = wrapped(model.clone().to_device(&device), Budget::Unlimited, false);
            let want = [0, 1].map(|n| run(&there, n).unwrap());
            let whole = want[0].1.planned_peak;
            for fusion in [false, true] {
                let least = match run(&wrapped(model.clone(), Budget::bytes(1), fusion), 0) {
                    Err(Error::Infeasible { minimum: Some(least), .. }) => least,
                    other => panic!("{name}: one byte is not enough: {other:?}"),
                };
                assert!(least < whole, "{name}: {least} at least, {whole} with all of it there");
                let mut lengths = Vec::new();
                for budget in [Bytes(u64::MAX), Bytes((whole.get() + least.get()) / 2), least] {
                    let model = wrapped(model.clone(), Budget::Bytes(budget), fusion);
                    let at = format!("{name} at {budget} of {whole}, fusion {fusion}");
                    for n in [0, 1, 0] {
                        let (got, report, plan) = run(&model, n).unwrap_or_else(|error| panic!("{at}: {error}"));
                        let want = &want[n as usize].0;
                        assert_loss(&at, want, &got, fusion);
                        let peak = report.measured_peak.unwrap();
                        assert!(fusion || peak <= report.planned_peak + PADDING, "{at}: {report:?}");
                        assert!(peak <= budget, "{at}: {report:?}");
                        lengths.push(plan.steps.len());
                        println!("{at}: {} steps, planned {}, measured {peak}", plan.steps.len(), report.planned_peak);
                    }
                }
                // With room for all of it nothing is brought while the model runs, with less some is, with the least no less.
                assert!(lengths[0] < lengths[3] && lengths[3] <= lengths[6], "{name}: {lengths:?}");
            }
        }
    }
    let _alone = alone();
    let Some(device) = device() else { return };
    for name in ["gpt", "vit"] {
        zoo::with_model(name, &small(name), &Device::flex().autodiff(), 7, Brought(device.clone())).unwrap();
    }
}

/// Integers and booleans of a module in host memory, where booleans are stored otherwise than on the device.
#[test]
fn integers_and_booleans_come_from_host_memory() {
    #[derive(Module, Debug)]
    struct Picked {
        weights: Vec<Param<Tensor<2>>>,
        rows: Param<Tensor<1, Int>>,
        mask: Param<Tensor<2, Bool>>,
    }

    impl Picked {
        fn new(device: &Device) -> Self {
            let weight = |k: usize| -> Vec<f32> { (0..64 * 64).map(|i| ((i * 37 + k) % 101) as f32 / 101.0).collect() };
            let weight = |k| Tensor::from_data(TensorData::new(weight(k), [64, 64]), device);
            let mask: Vec<bool> = (0..64 * 64).map(|i| i % 3 == 0).collect();
            Self {
                weights: (0..4).map(|k| Param::from_tensor(weight(k))).collect(),
                rows: Param::initialized(ParamId::new(), Tensor::arange(0..64, device).flip([0])),
                mask: Param::initialized(ParamId::new(), Tensor::from_data(TensorData::new(mask, [64, 64]), device)),
            }
        }

        fn forward(&self, x: Tensor<2>) -> Tensor<2> {
            let layer = |x: Tensor<2>, weight: &Param<Tensor<2>>| {
                let y = x.matmul(weight.val()).select(0, self.rows.val());
                y.clone().mask_fill(self.mask.val(), 0.5).mask_fill(y.lower_elem(0.25).bool_and(self.mask.val()), 0.125)
            };
            self.weights.iter().fold(x, layer) + self.rows.val().float().unsqueeze::<2>()
        }
    }

    let _alone = alone();
    let Some(device) = device() else { return };
    let device = device.inner();
    let x = || Tensor::<2>::ones([64, 64], &device) / 64.0;
    let there = Picked::new(&device);
    assert_ne!(there.mask.val().dtype(), Picked::new(&Device::flex()).mask.val().dtype());
    let want = common::data_of(there.forward(x()));
    let costs = tempfile::tempdir().unwrap();
    for fusion in [false, true] {
        let infer = |budget| {
            let settings = settings(budget).fusion(fusion).profile_directory(Some(costs.path().to_owned()));
            let model = Rematerialize::with_settings(Picked::new(&Device::flex()), settings);
            let run = || model.infer(x(), |m: &Picked, x| m.forward(x));
            run()?;
            let done = run()?;
            assert!(done.report.measured_peak.unwrap() <= done.report.budget, "{:?}", done.report);
            Ok::<_, Error>((common::data_of(done.output), model.latest_plan().unwrap()))
        };
        let least = match infer(Budget::bytes(1)) {
            Err(Error::Infeasible { minimum: Some(least), .. }) => Budget::Bytes(least),
            other => panic!("one byte is not enough: {:?}", other.map(|it| it.1.predicted)),
        };
        for budget in [Budget::Unlimited, least] {
            let (got, plan) = infer(budget).unwrap();
            assert_eq!(got, want, "{budget}, fusion {fusion}");
            println!("{budget}, fusion {fusion}: {} steps, {:?}", plan.steps.len(), plan.predicted);
        }
    }
}

/// A step that needs more than the device has: an error that says so, and the model trains on.
#[test]
fn a_device_without_memory_is_told() {
    struct Short;
    impl ZooVisitor for Short {
        type Output = ();
        fn visit<M: ZooModel>(
            self,
            name: &'static str,
            model: M,
            batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
        ) {
            let device = model.devices()[0].clone();
            let before = common::state_of(&model);
            for fusion in [false, true] {
                let model = Rematerialize::with_settings(model.clone(), settings(Budget::Unlimited).fusion(fusion));
                let step = |side: usize| {
                    model.step(batch(0, &device), |m: &M, inputs| {
                        let loss = m.batch_loss(inputs);
                        let column = loss.clone().reshape([1, 1]).expand([side as i64, 1]);
                        // Every element for itself, so that it cannot be a view.
                        let square = column.clone().exp().matmul(column.transpose().exp());
                        loss + square.mean()
                    })
                };
                let error = step(60_000).err().unwrap_or_else(|| panic!("{name}: 14 GB at once"));
                assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
                assert!(step(8).is_ok());
                assert_eq!(common::state_of(&model), before);
            }
        }
    }
    let _alone = alone();
    let Some(device) = device() else { return };
    zoo::with_model("frozen", &small("frozen"), &device, 7, Short).unwrap();
}
