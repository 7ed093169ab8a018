//! Records one training step, forward and backward, without running it.
//!
//! Parameters and inputs become empty tensors on the capture device (no data is copied), the
//! trainable ones are lifted to autodiff over the capture backend, and forward and backward run
//! there as ordinary Burn code. Running statistics stay plain: lifting them would make their
//! update part of the autodiff graph.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, Once};

use burn::module::{Flag, Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Bool, Device, DeviceConfig, GradientCheckpointingStrategy, Int, Tensor};
use burn_autodiff::{Autodiff, NodeId};
use burn_backend::{AutodiffBackend, DType, Shape};
use burn_capture::{CaptureBackend, CapturedGraph};
use burn_flex::Flex;
use burn_ir::TensorId;

use super::tensors::{StepOutput, TensorMapper, Tensors};
use crate::error::{Error, Result};

type Lifted = Autodiff<CaptureBackend>;

/// What kind of tensor a parameter or input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Floating point.
    Float,
    /// Integer.
    Int,
    /// Boolean.
    Bool,
}

/// A tensor of the module, in the order the module visits them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleTensor {
    /// Its parameter id.
    pub id: ParamId,
    /// Float, int or bool.
    pub kind: Kind,
    /// Shape and element type.
    pub shape: Shape,
    /// Element type.
    pub dtype: DType,
    /// Whether a gradient is wanted.
    pub trainable: bool,
    /// Index of an earlier tensor that this one is a clone of: Burn's autodiff sees one leaf, and
    /// gives its gradient to the first.
    pub clone_of: Option<usize>,
}

/// The raw record of a step.
pub(super) struct Captured {
    pub graph: CapturedGraph,
    pub module: Vec<ModuleTensor>,
    /// Capture ids of the module's tensors, in the same order.
    pub module_ids: Vec<TensorId>,
    pub input_ids: Vec<TensorId>,
    /// Everything recorded before this marker op is forward.
    pub marker: TensorId,
    pub loss: Option<TensorId>,
    pub outputs: Vec<TensorId>,
    /// Gradient of each trainable tensor the loss reaches: index into `module`, id.
    pub gradients: Vec<(usize, TensorId)>,
    /// New value of each module tensor that the step changed: index into `module`, id.
    pub buffers: Vec<(usize, TensorId)>,
}

/// Record `step` on `model` and `inputs`; returns the record and the closure's outputs, whose
/// tensors are of no use but whose structure is.
pub(super) fn capture<M, I, O, F>(
    model: &M,
    inputs: &I,
    step: F,
    at: Place<'_>,
) -> Result<(Captured, O::Loss, O::Output)>
where
    M: Module,
    I: Tensors,
    O: StepOutput,
    F: FnOnce(&M, I) -> O,
{
    let survey = Survey::of(model, O::TRAINS, at == Place::Spread)?;
    let there = if let Place::At(device, types) = at { Some((device, types)) } else { None };
    let device = CaptureSlot::take(there.map_or(&survey.device, |(device, _)| device))?;
    // `valid` gives running statistics buffers of their own: mapping a clone would write into the
    // original's, which clones share.
    let plain = catch(AssertUnwindSafe(|| model.valid()), "copying the module's structure")?;
    let mut failure: Option<Error> = None;
    let mut result = None;
    let captured = quietly(|| {
        device.device.capture_scope(|scope| {
            let types = there.map(|(_, types)| types);
            let mut record = Recorder { device: &device.device, survey: &survey, types };
            let recorded = match O::TRAINS {
                true => record.run::<M, I, O, F>(plain, inputs, step),
                false => record.infer::<M, I, O, F>(plain, inputs, step),
            };
            match recorded {
                Ok(recorded) => {
                    let ids = recorded.0.boundary();
                    result = Some(recorded);
                    scope.complete([], ids)
                }
                Err(error) => {
                    failure = Some(error);
                    scope.complete([], [])
                }
            }
        })
    });
    if let Some(error) = failure {
        return Err(error);
    }
    let graph = match captured {
        Ok(Ok(graph)) => graph,
        Ok(Err(error)) => {
            return Err(Error::Trace {
                why: error.to_string(),
                help: "return only tensors that the closure computes from the model and its inputs".into(),
            });
        }
        Err(panic) => return Err(explain(&panic_message(&*panic))),
    };
    let (mut captured, loss, outputs) = result.expect("a completed scope has a record");
    captured.graph = graph;
    Ok((captured, loss, outputs))
}

/// Where a step's ops are to run.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Place<'a> {
    /// Where the module is.
    Module,
    /// On several devices, as the module is.
    Spread,
    /// On another device than the module, where the module's tensors have these element types, in the order it visits them.
    At(&'a Device, &'a [DType]),
}

/// What the module holds and where.
struct Survey {
    tensors: Vec<ModuleTensor>,
    flags: Vec<Flag>,
    device: Device,
}

impl Survey {
    fn of<M: Module>(model: &M, trains: bool, spread: bool) -> Result<Self> {
        let mut visitor = SurveyVisitor::default();
        catch(AssertUnwindSafe(|| model.visit(&mut visitor)), "visiting the module")?;
        if let Some(quantized) = visitor.quantized {
            return Err(Error::Trace {
                why: format!("parameter {quantized} is quantized, and quantized tensors cannot be traced"),
                help: "train the unquantized module (adapters such as QLoRA on a quantized base are not supported)"
                    .into(),
            });
        }
        let device = model_device(model, trains, spread)?;
        if !trains {
            visitor.tensors.iter_mut().for_each(|t| (t.trainable, t.clone_of) = (false, None));
        } else if !visitor.tensors.iter().any(|t| t.trainable) {
            return Err(Error::Trace {
                why: "the module has no trainable parameter, so there is nothing to differentiate".into(),
                help: "unfreeze at least one parameter, or create the module on an autodiff device: \
                       `Config::init(&Device::flex().autodiff())`"
                    .into(),
            });
        }
        Ok(Self { tensors: visitor.tensors, flags: visitor.flags, device })
    }
}

/// The one device the module lives on, the first of several where it may be `spread`; one with autodiff if it is to be trained.
///
/// # Errors
/// [`Error::Trace`] when it lives on several, and, if it is to be trained, when it is on none with
/// autodiff or has gradient checkpointing switched on.
pub(crate) fn model_device<M: Module>(model: &M, trains: bool, spread: bool) -> Result<Device> {
    let devices = model.devices();
    let mut usable = devices.iter().filter(|d| !trains || d.is_autodiff());
    let Some(device) = usable.next() else {
        if !trains {
            return Err(Error::Trace {
                why: "the module has no tensors, so there is nothing to plan".into(),
                help: "call the module itself".into(),
            });
        }
        return Err(Error::Trace {
            why: "the module is not on an autodiff device".into(),
            help: "create it on one: `Config::init(&Device::flex().autodiff())`, or call `.train()` on it".into(),
        });
    };
    if let Some(other) = devices
        .iter()
        .find(|d| d.as_dispatch() != device.as_dispatch() && (*d).clone().inner() != device.clone().inner())
        && !spread
    {
        return Err(Error::Trace {
            why: format!("the module lives on two devices, {device:?} and {other:?}"),
            help: "move it to one device with `to_device`".into(),
        });
    }
    if trains && device.gradient_checkpointing_strategy() == Some(GradientCheckpointingStrategy::Balanced) {
        return Err(Error::Trace {
            why: "gradient checkpointing is switched on for the module's device".into(),
            help: "use `Device::autodiff()` without `gradient_checkpointing()`: plimsoll decides what is recomputed"
                .into(),
        });
    }
    Ok(device.clone())
}

#[derive(Default)]
struct SurveyVisitor {
    tensors: Vec<ModuleTensor>,
    /// Autodiff leaves of the trainable tensors so far.
    leaves: Vec<(NodeId, usize)>,
    flags: Vec<Flag>,
    quantized: Option<ParamId>,
}

impl SurveyVisitor {
    fn push(&mut self, id: ParamId, kind: Kind, shape: Shape, dtype: DType, trainable: bool) {
        if matches!(dtype, DType::QFloat(_)) {
            self.quantized.get_or_insert(id);
        }
        self.tensors.push(ModuleTensor { id, kind, shape, dtype, trainable, clone_of: None });
    }

    /// The earlier tensor that shares this one's leaf, if there is one.
    fn leaf<const D: usize>(&mut self, tensor: Tensor<D>) -> Option<usize> {
        #[cfg(feature = "cubecl")]
        let on_cube = tensor.clone().try_into_primitive::<Autodiff<burn_cubecl::Cube>>().ok().map(|t| t.id());
        #[cfg(not(feature = "cubecl"))]
        let on_cube = None;
        let node = on_cube.or_else(|| Some(tensor.try_into_primitive::<Autodiff<Flex>>().ok()?.id()))?;
        let known = self.leaves.iter().find(|(other, _)| *other == node).map(|&(_, index)| index);
        if known.is_none() {
            self.leaves.push((node, self.tensors.len()));
        }
        known
    }
}

impl ModuleVisitor for SurveyVisitor {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        let trainable = tensor.is_require_grad();
        let clone_of = if trainable { self.leaf(tensor.clone()) } else { None };
        self.push(param.id, Kind::Float, tensor.shape(), tensor.dtype(), trainable);
        if let Some(last) = self.tensors.last_mut() {
            last.clone_of = clone_of;
        }
    }
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let tensor = param.val();
        self.push(param.id, Kind::Int, tensor.shape(), tensor.dtype(), false);
    }
    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        let tensor = param.val();
        self.push(param.id, Kind::Bool, tensor.shape(), tensor.dtype(), false);
    }
    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.flags.push(flag.val());
    }
}

struct Recorder<'a> {
    device: &'a Device,
    survey: &'a Survey,
    /// Element types of the module's tensors, where they are not the module's own.
    types: Option<&'a [DType]>,
}

impl Recorder<'_> {
    fn run<M, I, O, F>(&mut self, plain: M, inputs: &I, step: F) -> Result<(Captured, O::Loss, O::Output)>
    where
        M: Module,
        I: Tensors,
        O: StepOutput,
        F: FnOnce(&M, I) -> O,
    {
        let (moved, module_ids) = self.emptied(plain);
        let mut lift = Lifter { survey: self.survey, next: 0, next_flag: 0, leaves: Vec::new() };
        let model = moved.map(&mut lift);
        let leaves = lift.leaves;

        let mut input_ids = Vec::new();
        let lifted = inputs.clone().map(&mut InputLifter { device: self.device, ids: &mut input_ids, lift: true });
        let (loss, outputs) = step(&model, lifted).split();

        let mut tip = LossReader::default();
        loss.clone().map(&mut tip);
        let loss_tensor = tip.into_loss()?;
        let marker = id_of(Tensor::<1>::empty([1], self.device))?;
        let gradients = <Lifted as AutodiffBackend>::backward(loss_tensor.clone());
        let loss_id = <Lifted as AutodiffBackend>::inner(loss_tensor).id();
        let mut kept = Vec::new();
        let mut gradient_ids = Vec::new();
        for (index, leaf) in leaves {
            if let Some(gradient) = <Lifted as AutodiffBackend>::grad(&leaf, &gradients) {
                gradient_ids.push((index, gradient.id()));
                kept.push(gradient);
            }
        }

        let (outputs, output_ids) = read_outputs(outputs)?;
        let unlifted = model.map(&mut Unlifter { survey: self.survey, device: self.device, next: 0 });
        let (buffers, updated) = self.running_statistics(unlifted, &module_ids)?;
        let forward = self.forward(module_ids, input_ids, marker, output_ids);
        let captured = Captured { loss: Some(loss_id), gradients: gradient_ids, buffers, ..forward };
        // The record's boundary must be alive while the scope closes.
        drop((kept, updated));
        Ok((captured, loss, outputs))
    }

    /// Record a forward of the module as [`Module::valid`] leaves it.
    fn infer<M, I, O, F>(&mut self, plain: M, inputs: &I, step: F) -> Result<(Captured, O::Loss, O::Output)>
    where
        M: Module,
        I: Tensors,
        O: StepOutput,
        F: FnOnce(&M, I) -> O,
    {
        let (model, module_ids) = self.emptied(plain);
        let mut input_ids = Vec::new();
        let inputs = inputs.clone().map(&mut InputLifter { device: self.device, ids: &mut input_ids, lift: false });
        let (loss, outputs) = step(&model, inputs).split();
        let marker = id_of(Tensor::<1>::empty([1], self.device))?;
        let (outputs, output_ids) = read_outputs(outputs)?;
        Ok((self.forward(module_ids, input_ids, marker, output_ids), loss, outputs))
    }

    /// The module with empty tensors on the capture device in place of its own, and their ids.
    fn emptied<M: Module>(&self, plain: M) -> (M, Vec<TensorId>) {
        let mut ids = Vec::new();
        let empty = plain.map(&mut Emptier { device: self.device, types: self.types, ids: &mut ids });
        // Tensors that are fields but not parameters are constants of the model.
        (empty.to_device(self.device), ids)
    }

    /// The record of a forward; its graph is filled in when the scope has closed.
    fn forward(
        &self,
        module_ids: Vec<TensorId>,
        input_ids: Vec<TensorId>,
        marker: TensorId,
        outputs: Vec<TensorId>,
    ) -> Captured {
        Captured {
            graph: CapturedGraph { graph: Vec::new().into(), values: Default::default() },
            module: self.survey.tensors.clone(),
            module_ids,
            input_ids,
            marker,
            loss: None,
            outputs,
            gradients: Vec::new(),
            buffers: Vec::new(),
        }
    }
}

impl Recorder<'_> {
    /// The running statistics the forward wrote: index into the survey and id of the new value;
    /// and the module, which keeps them alive.
    ///
    /// New values wait in a map of the module's own until it is next synchronized, and the one
    /// public way to do that without another forward is `Module::valid`. It synchronizes a
    /// statistic and then refuses it, because the new value belongs to autodiff over the capture
    /// backend; so each refusal tells of one new value, which is noted and put out of the way.
    fn running_statistics<M: Module>(&self, mut module: M, before: &[TensorId]) -> Result<(Vec<(usize, TensorId)>, M)> {
        let mut found: Vec<Option<TensorId>> = vec![None; before.len()];
        for _ in 0..=before.len() {
            let synced = quietly(|| module.valid());
            let mut visitor = IdVisitor::default();
            match &synced {
                Ok(synced) => synced.visit(&mut visitor),
                Err(_) => module.visit(&mut visitor),
            }
            let mut news = 0;
            for (index, (&old, &new)) in before.iter().zip(&visitor.ids).enumerate() {
                let is_state = !self.survey.tensors[index].trainable && self.survey.tensors[index].kind == Kind::Float;
                if let (true, Some(new)) = (is_state && found[index].is_none(), new)
                    && new != old
                {
                    found[index] = Some(new);
                    news += 1;
                }
            }
            if let Ok(synced) = synced {
                let buffers = found.iter().enumerate().filter_map(|(i, id)| id.map(|id| (i, id))).collect();
                return Ok((buffers, synced));
            }
            if news == 0 {
                break;
            }
            module = module.map(&mut Settler { found: &found, device: self.device, next: 0 });
        }
        Err(Error::Trace {
            why: "the module's running statistics cannot be read back after the forward".into(),
            help: "this is a fault in plimsoll: please report it with the model".into(),
        })
    }
}

/// Replaces running statistics whose new value was noted by plain tensors.
struct Settler<'a> {
    found: &'a [Option<TensorId>],
    device: &'a Device,
    next: usize,
}

impl ModuleMapper for Settler<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let noted = self.found[self.next].is_some();
        self.next += 1;
        match noted && param.val().is_autodiff() {
            true => param.map(|t| Tensor::<D>::empty(t.shape(), (self.device, t.dtype()))),
            false => param,
        }
    }
    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        self.next += 1;
        param
    }
    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        self.next += 1;
        param
    }
}

impl Captured {
    /// Every id the step gives out, each once.
    fn boundary(&self) -> Vec<TensorId> {
        let gradients = self.gradients.iter().map(|&(_, id)| id);
        let buffers = self.buffers.iter().map(|&(_, id)| id);
        let mut ids: Vec<TensorId> =
            self.loss.into_iter().chain(self.outputs.iter().copied()).chain(gradients).chain(buffers).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

fn id_of<const D: usize>(tensor: Tensor<D>) -> Result<TensorId> {
    Ok(tensor.try_into_primitive::<CaptureBackend>().map_err(|e| foreign(&format!("{e:?}")))?.id())
}

/// Replaces every tensor of a module by an empty one on the capture device.
struct Emptier<'a> {
    device: &'a Device,
    types: Option<&'a [DType]>,
    ids: &'a mut Vec<TensorId>,
}

impl Emptier<'_> {
    /// The element type of the next tensor, which is of the given one in the module.
    fn dtype(&self, own: DType) -> DType {
        self.types.and_then(|types| types.get(self.ids.len()).copied()).unwrap_or(own)
    }
}

impl ModuleMapper for Emptier<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|t| {
            let new = Tensor::<D>::empty(t.shape(), (self.device, self.dtype(t.dtype())));
            self.ids.push(id_of(new.clone()).expect("an empty tensor is on the capture device"));
            new
        })
    }
    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        param.map(|t| {
            let new = Tensor::<D, Int>::empty(t.shape(), (self.device, self.dtype(t.dtype())));
            let primitive = new.clone().try_into_primitive::<CaptureBackend>();
            self.ids.push(primitive.expect("an empty tensor is on the capture device").id());
            new
        })
    }
    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        param.map(|t| {
            let new = Tensor::<D, Bool>::empty(t.shape(), (self.device, self.dtype(t.dtype())));
            let primitive = new.clone().try_into_primitive::<CaptureBackend>();
            self.ids.push(primitive.expect("an empty tensor is on the capture device").id());
            new
        })
    }
}

/// Lifts the trainable parameters to autodiff and restores the training flags.
struct Lifter<'a> {
    survey: &'a Survey,
    next: usize,
    next_flag: usize,
    leaves: Vec<Leaf>,
}

/// A lifted parameter: its index in the survey, and its tensor.
type Leaf = (usize, <Lifted as burn_backend::BackendTypes>::FloatTensorPrimitive);

impl ModuleMapper for Lifter<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let index = self.next;
        self.next += 1;
        if !self.survey.tensors[index].trainable {
            return param;
        }
        if let Some(first) = self.survey.tensors[index].clone_of {
            let leaf = self.leaves.iter().find(|l| l.0 == first).expect("a clone comes after its original");
            let leaf = leaf.1.clone();
            return param.map(|_| Tensor::from_primitive::<Lifted>(leaf));
        }
        param.map(|t| {
            let inner = t.try_into_primitive::<CaptureBackend>().expect("the module was moved to the capture device");
            let leaf =
                Tensor::<D>::from_primitive::<Lifted>(<Lifted as AutodiffBackend>::from_inner(inner)).require_grad();
            let primitive = leaf.clone().try_into_primitive::<Lifted>().expect("it was just lifted");
            self.leaves.push((index, primitive));
            leaf
        })
    }
    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        self.next += 1;
        param
    }
    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        self.next += 1;
        param
    }
    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        let value = self.survey.flags[self.next_flag].is_enabled();
        self.next_flag += 1;
        flag.with_value(value)
    }
}

/// Puts plain tensors back in place of the lifted parameters.
struct Unlifter<'a> {
    survey: &'a Survey,
    device: &'a Device,
    next: usize,
}

impl ModuleMapper for Unlifter<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let trainable = self.survey.tensors[self.next].trainable;
        self.next += 1;
        match trainable {
            true => param.map(|t| Tensor::<D>::empty(t.shape(), (self.device, t.dtype()))),
            false => param,
        }
    }
    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        self.next += 1;
        param
    }
    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        self.next += 1;
        param
    }
}

/// Reads the capture ids of a module's float tensors.
#[derive(Default)]
struct IdVisitor {
    ids: Vec<Option<TensorId>>,
}

impl ModuleVisitor for IdVisitor {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.ids.push(float_id(param.val()).ok());
    }
    fn visit_int<const D: usize>(&mut self, _param: &Param<Tensor<D, Int>>) {
        self.ids.push(None);
    }
    fn visit_bool<const D: usize>(&mut self, _param: &Param<Tensor<D, Bool>>) {
        self.ids.push(None);
    }
}

/// The capture id of a float tensor, lifted or plain.
fn float_id<const D: usize>(tensor: Tensor<D>) -> Result<TensorId, String> {
    let id = match tensor.is_autodiff() {
        true => tensor.try_into_primitive::<Lifted>().map(|t| <Lifted as AutodiffBackend>::inner(t).id()),
        false => tensor.try_into_primitive::<CaptureBackend>().map(|t| t.id()),
    };
    id.map_err(|e| format!("{e:?}"))
}

/// Replaces every input by an empty tensor on the capture device, lifted to autodiff as a plain
/// Burn step's inputs are.
struct InputLifter<'a> {
    device: &'a Device,
    ids: &'a mut Vec<TensorId>,
    lift: bool,
}

impl TensorMapper for InputLifter<'_> {
    fn float<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
        let new = Tensor::<D>::empty(tensor.shape(), (self.device, tensor.dtype()));
        let inner = new.try_into_primitive::<CaptureBackend>().expect("it was made on the capture device");
        self.ids.push(inner.id());
        match self.lift {
            true => Tensor::from_primitive::<Lifted>(<Lifted as AutodiffBackend>::from_inner(inner)),
            false => Tensor::from_primitive::<CaptureBackend>(inner),
        }
    }
    fn int<const D: usize>(&mut self, tensor: Tensor<D, Int>) -> Tensor<D, Int> {
        let new = Tensor::<D, Int>::empty(tensor.shape(), (self.device, tensor.dtype()));
        let inner = new.try_into_primitive::<CaptureBackend>().expect("it was made on the capture device");
        self.ids.push(inner.id());
        match self.lift {
            true => Tensor::from_primitive::<Lifted>(inner),
            false => Tensor::from_primitive::<CaptureBackend>(inner),
        }
    }
    fn bool<const D: usize>(&mut self, tensor: Tensor<D, Bool>) -> Tensor<D, Bool> {
        let new = Tensor::<D, Bool>::empty(tensor.shape(), (self.device, tensor.dtype()));
        let inner = new.try_into_primitive::<CaptureBackend>().expect("it was made on the capture device");
        self.ids.push(inner.id());
        match self.lift {
            true => Tensor::from_primitive::<Lifted>(inner),
            false => Tensor::from_primitive::<CaptureBackend>(inner),
        }
    }
}

/// Takes the loss out of the one tensor of a loss tree.
#[derive(Default)]
struct LossReader {
    loss: Option<Result<<Lifted as burn_backend::BackendTypes>::FloatTensorPrimitive>>,
}

impl LossReader {
    fn into_loss(self) -> Result<<Lifted as burn_backend::BackendTypes>::FloatTensorPrimitive> {
        self.loss.expect("a loss is one float tensor")
    }
}

impl TensorMapper for LossReader {
    fn float<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
        let shape = tensor.shape();
        self.loss = Some(if shape.num_elements() != 1 {
            Err(Error::Trace {
                why: format!("the loss has shape {:?}, which is not one number", shape.as_slice()),
                help: "reduce it with `.mean()` or `.sum()` before returning it".into(),
            })
        } else {
            match tensor.clone().try_into_primitive::<Lifted>() {
                Ok(loss) if loss.is_tracked() => Ok(loss),
                _ => Err(Error::Trace {
                    why: "the loss does not depend on any trainable parameter".into(),
                    help: "compute it from the model's output; a detached tensor or a constant has no gradient".into(),
                }),
            }
        });
        tensor
    }
    fn int<const D: usize>(&mut self, tensor: Tensor<D, Int>) -> Tensor<D, Int> {
        tensor
    }
    fn bool<const D: usize>(&mut self, tensor: Tensor<D, Bool>) -> Tensor<D, Bool> {
        tensor
    }
}

/// Reads the capture ids of the step's other results.
#[derive(Default)]
struct OutputReader {
    ids: Vec<TensorId>,
    error: Option<Error>,
}

impl OutputReader {
    fn push(&mut self, id: Result<TensorId, String>) {
        match id {
            Ok(id) => self.ids.push(id),
            Err(why) => {
                self.error.get_or_insert(foreign(&why));
            }
        }
    }
}

/// The step's other results, and their capture ids.
fn read_outputs<T: Tensors>(outputs: T) -> Result<(T, Vec<TensorId>)> {
    let mut reader = OutputReader::default();
    let outputs = outputs.map(&mut reader);
    match reader.error {
        Some(error) => Err(error),
        None => Ok((outputs, reader.ids)),
    }
}

impl TensorMapper for OutputReader {
    fn float<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
        self.push(float_id(tensor.clone()));
        tensor
    }
    fn int<const D: usize>(&mut self, tensor: Tensor<D, Int>) -> Tensor<D, Int> {
        let lifted = tensor.clone().try_into_primitive::<Lifted>();
        let id = lifted.or_else(|_| tensor.clone().try_into_primitive::<CaptureBackend>()).map(|t| t.id());
        self.push(id.map_err(|e| format!("{e:?}")));
        tensor
    }
    fn bool<const D: usize>(&mut self, tensor: Tensor<D, Bool>) -> Tensor<D, Bool> {
        let lifted = tensor.clone().try_into_primitive::<Lifted>();
        let id = lifted.or_else(|_| tensor.clone().try_into_primitive::<CaptureBackend>()).map(|t| t.id());
        self.push(id.map_err(|e| format!("{e:?}")));
        tensor
    }
}

/// A capture device on loan. Devices are reused because a process can make only 65,536 of them,
/// and one device records one step at a time.
struct CaptureSlot {
    device: Device,
    settings: String,
}

static FREE: Mutex<Vec<CaptureSlot>> = Mutex::new(Vec::new());

impl CaptureSlot {
    /// A capture device whose default element types are those of `like`.
    fn take(like: &Device) -> Result<LoanedDevice> {
        let wanted = like.settings();
        let settings = format!("{:?} {:?} {:?}", wanted.float_dtype, wanted.int_dtype, wanted.bool_dtype);
        let mut free = FREE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(index) = free.iter().position(|slot| slot.settings == settings) {
            let slot = free.swap_remove(index);
            return Ok(LoanedDevice { device: slot.device, settings });
        }
        drop(free);
        let mut device = Device::capture();
        let config = DeviceConfig::default()
            .float_dtype(wanted.float_dtype)
            .int_dtype(wanted.int_dtype)
            .bool_dtype(wanted.bool_dtype);
        // A capture device answers questions (which element types are there?) only in a scope.
        let mut configured = Ok(());
        let scoped = device.clone().capture_scope(|scope| {
            configured = device.configure(config);
            scope.complete([], [])
        });
        let refused = |why: String| Error::Trace {
            why: format!("the capture device cannot take the model device's element types: {why}"),
            help: "use element types that Burn's capture backend supports".into(),
        };
        scoped.map_err(|e| refused(e.to_string()))?;
        configured.map_err(|e| refused(e.to_string()))?;
        Ok(LoanedDevice { device, settings })
    }
}

struct LoanedDevice {
    device: Device,
    settings: String,
}

impl Drop for LoanedDevice {
    fn drop(&mut self) {
        let slot = CaptureSlot { device: self.device.clone(), settings: std::mem::take(&mut self.settings) };
        FREE.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(slot);
    }
}

fn catch<T>(f: AssertUnwindSafe<impl FnOnce() -> T>, doing: &str) -> Result<T> {
    quietly(f).map_err(|panic| Error::Trace {
        why: format!("{doing} panicked: {}", panic_message(&*panic)),
        help: "the module must be visitable as Burn's own optimizers visit it".into(),
    })
}

/// `catch_unwind` that prints nothing: the panic is turned into an error or expected.
pub(crate) fn quietly<T>(f: impl FnOnce() -> T) -> std::thread::Result<T> {
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                previous(info);
            }
        }));
    });
    let outer = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    QUIET.set(outer);
    result
}

/// The text of a panic.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

fn foreign(detail: &str) -> Error {
    Error::Trace {
        why: format!("the closure returned a tensor that does not come from the traced step ({detail})"),
        help: "return tensors computed from the closure's arguments; pass outside tensors in as inputs".into(),
    }
}

/// Turn a panic inside the traced closure into what the user did and what to do instead.
fn explain(message: &str) -> Error {
    const CASES: &[(&[&str], &str, &str)] = &[
        (
            &["has no concrete value", "no initialized value", "Error while reading data", "captured tensor"],
            "the step reads a computed value back to the host (`into_data`, `into_scalar`, `to_data`), so what runs next would depend on data",
            "compute on tensors instead (`mask_where`, `clamp`); read values from the step's outputs after it has run",
        ),
        (
            &["seeding is not supported"],
            "the step seeds the random generator",
            "seed outside the step, with `Rematerialize::seed`",
        ),
        (
            &["autodiff context", "Gradient checkpointing strategy mismatch", "checkpointing"],
            "the step mixes tensors of different autodiff settings, or switches gradient checkpointing on",
            "create the model and its inputs on the same `Device::autodiff()` device, without `gradient_checkpointing()`",
        ),
        (&["Quantiz", "quantiz", "QFloat"], "the step uses a quantized tensor", "train the unquantized module"),
        (
            &[
                "Expected Capture",
                "Capture tensor",
                "different devices",
                "same device",
                "device mismatch",
                "Devices",
                "backend",
            ],
            "the step mixes in a tensor from outside, moves one to another device, or takes it out of autodiff (`to_device`, `inner`)",
            "pass outside tensors in as inputs, create constants on the input's device, and use `detach()` in place of `inner()`",
        ),
    ];
    for (needles, why, help) in CASES {
        if needles.iter().any(|n| message.contains(n)) {
            return Error::Trace { why: format!("{why} [{message}]"), help: (*help).to_owned() };
        }
    }
    Error::Trace {
        why: format!("the closure panicked: {message}"),
        help: "run the same closure on plain Burn to see whether it fails there too; the model is unharmed".into(),
    }
}
