//! What several test programs share: training a zoo model with plain Burn and planned, bit for bit.
#![allow(dead_code)] // each test program uses a part

pub mod accumulate;

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use burn_flex::Flex;
use burn_ir::{HandleKind, OperationIr, TensorIr, TensorStatus};
use burn_router::TensorInterpreter;
use plimsoll::zoo::{self, ZooModel, ZooVisitor};
use plimsoll::{Budget, OneLaunch, Rematerialize, Settings, StepReport, alloc};

/// Tests that read the counting allocator run one at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Of the measured peak beyond the planned one, what small models owe to their size: ops of
/// microseconds run now on one thread and now on all, each with a tile of its own, and the test
/// runner allocates too. At default sizes the budget holds without it (the table in tests/train.rs).
pub const SLACK: u64 = 256 * 1024;

/// Every bit a training step leaves behind.
#[derive(Clone, Debug, PartialEq)]
pub struct Bits {
    pub loss: TensorData,
    /// Gradient of each module tensor, in the order of visits.
    pub gradients: Vec<Option<TensorData>>,
    /// Every module tensor after the optimizer's step: parameters and running statistics.
    pub state: Vec<TensorData>,
}

/// What a tensor holds, read now: a device may read when somebody first looks at the bytes, and then what was written there since.
pub fn data_of<const D: usize>(tensor: Tensor<D>) -> TensorData {
    let data = tensor.into_data();
    std::hint::black_box(data.as_bytes());
    data
}

struct Reader<'a> {
    gradients: Option<&'a GradientsParams>,
    found: Vec<Option<TensorData>>,
}

impl ModuleVisitor for Reader<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.push(match self.gradients {
            Some(gradients) => gradients.get::<D>(param.id).map(data_of),
            None => Some(data_of(param.val())),
        });
    }
}

pub fn gradients_of<M: Module>(model: &M, gradients: &GradientsParams) -> Vec<Option<TensorData>> {
    let mut reader = Reader { gradients: Some(gradients), found: Vec::new() };
    model.visit(&mut reader);
    reader.found
}

pub fn state_of<M: Module>(model: &M) -> Vec<TensorData> {
    // `valid` merges running statistics that wait to be merged.
    let mut reader = Reader { gradients: None, found: Vec::new() };
    model.valid().visit(&mut reader);
    reader.found.into_iter().flatten().collect()
}

/// What one planned step needed, and the heap's peak over it, the model included.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub report: StepReport,
}

/// What a model's tensors and AdamW's state for those trained take.
fn held<M: Module>(model: &M) -> u64 {
    struct Held(u64);
    impl ModuleVisitor for Held {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            let bytes = (tensor.shape().num_elements() * tensor.dtype().size()) as u64;
            self.0 += if tensor.is_require_grad() { 3 * bytes } else { bytes };
        }
    }
    let mut held = Held(0);
    model.visit(&mut held);
    held.0
}

/// `steps` steps of plain Burn and AdamW; also its peak, counted as a report of a planned step counts:
/// by how much the heap grows during a step, and what is there before it (model, optimizer state,
/// inputs). The first of several steps does not count: kernels take what they keep from then on.
pub struct Plain {
    pub steps: usize,
}

impl ZooVisitor for Plain {
    type Output = (Vec<Bits>, u64);

    fn visit<M: ZooModel>(
        self,
        _name: &'static str,
        model: M,
        batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
    ) -> Self::Output {
        let device = model.devices()[0].clone();
        let mut model = model;
        let mut optim = AdamWConfig::new().init();
        let mut bits: Vec<Bits> = Vec::new();
        let mut peak = 0;
        for step in 0..self.steps {
            let without_inputs = alloc::live().get();
            let inputs = batch(step as u64, &device);
            alloc::reset_peak();
            let loss = model.batch_loss(inputs);
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            if step > 0 || self.steps == 1 {
                peak = peak.max(alloc::peak().get() - without_inputs + held(&model));
            }
            let (loss, found) = (data_of(loss), gradients_of(&model, &gradients));
            model = optim.step(1e-3, model, gradients);
            bits.push(Bits { loss, gradients: found, state: state_of(&model) });
        }
        (bits, peak)
    }
}

/// The same steps, wrapped.
pub struct Planned {
    pub steps: usize,
    pub settings: Settings,
}

impl ZooVisitor for Planned {
    type Output = plimsoll::Result<(Vec<Bits>, Vec<Measured>, plimsoll::plan::Plan)>;

    fn visit<M: ZooModel>(
        self,
        _name: &'static str,
        model: M,
        batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
    ) -> Self::Output {
        let device = model.devices()[0].clone();
        let mut model = Rematerialize::with_settings(model, self.settings);
        let mut optim = AdamWConfig::new().init();
        let mut bits = Vec::new();
        let mut measured = Vec::new();
        for step in 0..self.steps {
            let inputs = batch(step as u64, &device);
            let step = model.step(inputs, |m: &M, inputs| m.batch_loss(inputs))?;
            measured.push(Measured { report: step.report });
            let (loss, found) = (data_of(step.loss), gradients_of(&model, &step.grads));
            model = optim.step(1e-3, model, step.grads);
            bits.push(Bits { loss, gradients: found, state: state_of(&model) });
        }
        if let OneLaunch::Refused { why } = model.one_launch() {
            println!("not one launch: {why}");
        }
        let plan = model.latest_plan().expect("a step was planned");
        Ok((bits, measured, plan))
    }
}

/// Models small enough for a test, with activations that outweigh the parameters.
pub fn small(name: &str) -> zoo::Settings {
    let tiny = zoo::Settings::tiny(name).unwrap();
    match name {
        "lstm" => tiny.set("batch", 16).set("width", 32),
        "fno" => tiny.set("batch", 16),
        "gpt" | "seq2seq" | "vit" | "mixer" | "unet" => tiny.set("batch", 12),
        "resnet" => tiny.set("batch", 24),
        _ => tiny.set("batch", 256).set("layers", 8),
    }
}

/// Settings for tests: costs measured anew, nothing left on disk, no bar.
pub fn settings(budget: Budget) -> Settings {
    Settings::new(budget).profile_directory(None).quiet(true).time_limit(Duration::from_secs(3))
}

/// The same settings, and `before` called before each Fourier transform of a step that runs by them: for faults.
pub fn before_transforms(settings: Settings, before: impl Fn() + Copy + Send + Sync + 'static) -> Settings {
    settings.custom_ops(move |registry| {
        let right = registry.clone();
        registry.register("signal::rfft", move |handles, op, device| {
            before();
            // Otherwise as Burn does it.
            let mut burn = TensorInterpreter::with_custom_ops(*device, right.clone());
            for input in &op.inputs {
                let tensor = HandleKind::Float(handles.get_float_tensor::<Flex>(input));
                burn.register_tensor_to_device(input.id, tensor);
            }
            burn.register_op(OperationIr::Custom(op.clone()));
            for output in &op.outputs {
                let output = TensorIr { status: TensorStatus::ReadWrite, ..output.clone() };
                if let HandleKind::Float(tensor) = burn.get_tensor(&output) {
                    handles.register_float_tensor::<Flex>(&output.id, tensor);
                }
            }
        });
    })
}

pub fn plain(name: &str, zoo_settings: &zoo::Settings, steps: usize) -> (Vec<Bits>, u64) {
    let device = Device::flex().autodiff();
    zoo::with_model(name, zoo_settings, &device, 7, Plain { steps }).expect("a zoo model")
}

pub fn planned(
    name: &str,
    zoo_settings: &zoo::Settings,
    steps: usize,
    settings: Settings,
) -> plimsoll::Result<(Vec<Bits>, Vec<Measured>, plimsoll::plan::Plan)> {
    let device = Device::flex().autodiff();
    zoo::with_model(name, zoo_settings, &device, 7, Planned { steps, settings }).expect("a zoo model")
}
