//! Measuring ops on Burn's CPU backend.
//!
//! What a Flex op does with its buffers is read off the buffers themselves: an output that lies in
//! an input's buffer is a view; an output that lies where a given-away input lay was computed in
//! place. So the graph's storages are what the backend really does, for every op there is.

use std::time::Instant;

use burn_backend::{DType, Shape};
use burn_flex::{Flex, FlexDevice, FlexTensor, Layout};
use burn_ir::{HandleKind, OperationIr, TensorId, TensorIr, TensorStatus};
use burn_router::{CustomOpRegistry, TensorInterpreter};
use burn_std::Bytes as Buffer;

use super::random;
use crate::alloc;
use crate::cost::OpCost;
use crate::cost::measure::Probe;
use crate::entity::{OpId, ValueId};
use crate::error::{Error, Result};
use crate::graph::trace::{Program, SetStatus, panic_message, quietly};
use crate::units::{Bytes, Nanos};

/// Handlers of the custom operations Burn itself records (the Fourier transforms).
pub fn flex_custom_ops() -> CustomOpRegistry<Flex> {
    let mut registry = CustomOpRegistry::new();
    burn::signal::register_fft_ops::<Flex>(&mut registry);
    registry
}

/// Runs the ops of a program one by one on Flex.
pub struct FlexProbe<'a> {
    program: &'a Program,
    starts: &'a dyn Fn(ValueId) -> Option<String>,
    custom_ops: CustomOpRegistry<Flex>,
}

impl<'a> FlexProbe<'a> {
    /// A probe for `program`. `starts` gives the layout of a value bound from outside, or `None`
    /// where it is the plain one.
    pub fn new(
        program: &'a Program,
        custom_ops: CustomOpRegistry<Flex>,
        starts: &'a dyn Fn(ValueId) -> Option<String>,
    ) -> Self {
        Self { program, starts, custom_ops }
    }
}

/// How a tensor lies in its buffer, as text: strides, offset, buffer bytes. `None` for the plain
/// layout: contiguous, from the start of a buffer of just its size.
pub(crate) fn layout_text(tensor: &FlexTensor) -> Option<String> {
    let layout = tensor.layout();
    let plain = layout.is_contiguous()
        && layout.start_offset() == 0
        && tensor.bytes().len() == layout.num_elements() * tensor.dtype().size();
    if plain {
        return None;
    }
    let strides: Vec<String> = layout.strides().iter().map(ToString::to_string).collect();
    Some(format!("{}@{}/{}", strides.join(","), layout.start_offset(), tensor.bytes().len()))
}

/// A tensor with the given layout over a buffer of its own, filled with `fill`.
fn stand_in(shape: &Shape, dtype: DType, layout: &str, fill: f64) -> Option<FlexTensor> {
    let elements = shape.num_elements();
    let (layout, buffer) = match layout {
        "" => (Layout::contiguous(shape.clone()), elements * dtype.size()),
        text => {
            let (strides, rest) = text.split_once('@')?;
            let (offset, buffer) = rest.split_once('/')?;
            let strides: Option<Vec<isize>> = match strides {
                "" => Some(Vec::new()),
                _ => strides.split(',').map(|s| s.parse().ok()).collect(),
            };
            (Layout::new(shape.clone(), strides?, offset.parse().ok()?), buffer.parse().ok()?)
        }
    };
    let count = buffer / dtype.size();
    let bytes = match dtype {
        DType::F64 => Buffer::from_elems(vec![fill; count]),
        DType::F32 | DType::Flex32 => Buffer::from_elems(vec![fill as f32; count]),
        DType::F16 => Buffer::from_elems(vec![burn_std::f16::from_f64(fill); count]),
        DType::BF16 => Buffer::from_elems(vec![burn_std::bf16::from_f64(fill); count]),
        DType::I64 => Buffer::from_elems(vec![fill as i64; count]),
        DType::I32 => Buffer::from_elems(vec![fill as i32; count]),
        // One-byte and other types: all zero is a valid value of each of them.
        _ => Buffer::from_bytes_vec(vec![0u8; buffer]),
    };
    Some(FlexTensor::new(bytes, layout, dtype))
}

fn handle(tensor: FlexTensor) -> HandleKind<Flex> {
    let dtype = tensor.dtype();
    match dtype {
        d if d.is_float() => HandleKind::Float(tensor),
        d if d.is_bool() => HandleKind::Bool(tensor),
        _ => HandleKind::Int(tensor),
    }
}

fn tensor(handle: HandleKind<Flex>) -> Option<FlexTensor> {
    match handle {
        HandleKind::Float(t) | HandleKind::Int(t) | HandleKind::Bool(t) => Some(t),
        HandleKind::Quantized(_) => None,
    }
}

/// A tensor of host data, which it takes over without a copy.
pub(crate) fn flex_tensor(data: burn_backend::TensorData) -> HandleKind<Flex> {
    handle(FlexTensor::from_data(data))
}

fn address(tensor: &FlexTensor) -> usize {
    tensor.bytes().as_ptr() as usize
}

/// What one run of an op showed.
struct Run {
    time: Nanos,
    workspace: Bytes,
    inputs: Vec<usize>,
    outputs: Vec<FlexTensor>,
}

impl FlexProbe<'_> {
    /// Run `op` once on stand-ins; input number `given_away` is the backend's to overwrite.
    fn run(&self, op: OpId, layouts: &[&str], fill: f64, given_away: Option<usize>) -> Result<Run, String> {
        let ir = &self.program.ops[op];
        if let OperationIr::Float(_, burn_ir::FloatOperationIr::Random(r))
        | OperationIr::NumericFloat(_, burn_ir::NumericOperationIr::IntRandom(r))
        | OperationIr::NumericInt(_, burn_ir::NumericOperationIr::IntRandom(r)) = ir
        {
            return Self::run_random(r);
        }
        let mut interpreter = TensorInterpreter::<Flex>::with_custom_ops(FlexDevice, self.custom_ops.clone());
        let mut addresses: Vec<usize> = Vec::new();
        let mut seen: Vec<TensorId> = Vec::new();
        for (input, layout) in ir.inputs().zip(layouts) {
            if let Some(first) = seen.iter().position(|&id| id == input.id) {
                addresses.push(addresses[first]);
                seen.push(input.id);
                continue;
            }
            // Integers index things: zero is an index of everything.
            let fill = if input.dtype.is_float() { fill } else { (fill - 0.5).max(0.0) };
            let stand_in = stand_in(&input.shape, input.dtype, layout, fill).ok_or("an unreadable layout")?;
            addresses.push(address(&stand_in));
            seen.push(input.id);
            interpreter.register_tensor_to_device(input.id, handle(stand_in));
        }
        let taken = given_away.map(|k| seen[k]);
        let mut ready = ir.clone();
        ready.visit_mut(&mut SetStatus(|t: &TensorIr| match t.status {
            TensorStatus::NotInit => TensorStatus::NotInit,
            _ if Some(t.id) == taken => TensorStatus::ReadWrite,
            _ => TensorStatus::ReadOnly,
        }));
        // In a step the kernels' threads are awake from the op before; here they must be woken, or
        // small ops would run, and take workspace, on one thread alone.
        rayon::broadcast(|_| ());
        alloc::start_watch();
        let before = alloc::live();
        let start = Instant::now();
        interpreter.register_op(ready);
        let time = Nanos(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let peak = alloc::watched();
        let after = alloc::live();
        let outputs = ir
            .outputs()
            .map(|t| tensor(interpreter.get_tensor(&TensorIr { status: TensorStatus::ReadOnly, ..t.clone() })))
            .collect::<Option<Vec<_>>>()
            .ok_or("a quantized output")?;
        // Bookkeeping of the interpreter and of tensors is a few hundred bytes, not workspace.
        let workspace = peak.saturating_sub(after.max(before));
        let workspace = if workspace.get() < 1024 { Bytes::ZERO } else { workspace };
        Ok(Run { time, workspace, inputs: addresses, outputs })
    }

    fn run_random(op: &burn_ir::RandomOpIr) -> Result<Run, String> {
        let start = Instant::now();
        let data = random::draw(op, 0)?;
        let time = Nanos(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        Ok(Run { time, workspace: Bytes::ZERO, inputs: Vec::new(), outputs: vec![FlexTensor::from_data(data)] })
    }

    fn try_run(&self, op: OpId, layouts: &[&str], fill: f64, given_away: Option<usize>) -> Result<Run, String> {
        quietly(|| self.run(op, layouts, fill, given_away)).unwrap_or_else(|panic| Err(panic_message(&*panic)))
    }
}

impl Probe for FlexProbe<'_> {
    fn ops(&self) -> usize {
        self.program.ops.len()
    }

    fn reads_and_writes(&self, op: OpId) -> (Vec<ValueId>, Vec<ValueId>) {
        self.program.reads_and_writes(op)
    }

    fn layout_at_start(&self, value: ValueId) -> String {
        (self.starts)(value).unwrap_or_default()
    }

    fn signature(&self, op: OpId, layouts: &[&str]) -> String {
        self.program.signature(op, layouts)
    }

    fn measure(&mut self, op: OpId, layouts: &[&str]) -> Result<OpCost> {
        // Zero is no divisor and one is no index into a table of one: try both.
        let fail = |why: String| Error::Execution { at: format!("measuring {op} ({})", self.program.kinds[op]), why };
        let (fill, first) = match self.try_run(op, layouts, 0.5, None) {
            Ok(run) => (0.5, run),
            Err(_) => (1.5, self.try_run(op, layouts, 1.5, None).map_err(fail)?),
        };
        let views: Vec<Option<usize>> = first
            .outputs
            .iter()
            .map(|o| first.inputs.iter().position(|&a| a == address(o) && !o.bytes().is_empty()))
            .collect();
        let texts: Vec<String> = first.outputs.iter().map(|o| layout_text(o).unwrap_or_default()).collect();
        let sizes = first.outputs.iter().map(|o| Bytes(o.bytes().len() as u64)).collect();
        let mut workspace = first.workspace;
        let first_inputs = first.inputs.clone();
        let output_bytes: Vec<usize> = first.outputs.iter().map(|o| o.bytes().len()).collect();
        drop(first);

        // How much workspace an op takes depends on how many threads happen to share it, so ops that
        // take any are run more often.
        let mut times = Vec::new();
        let mut spent = Nanos::ZERO;
        loop {
            let run = self.try_run(op, layouts, fill, None).map_err(fail)?;
            times.push(run.time);
            spent += run.time;
            workspace = workspace.max(run.workspace);
            let (enough, patience) = if workspace > Bytes::ZERO { (16, 30_000_000) } else { (9, 4_000_000) };
            if times.len() >= enough || (times.len() >= 2 && spent.get() > patience) {
                break;
            }
        }
        times.sort_unstable();

        let mut inplace = Vec::new();
        let inputs: Vec<&TensorIr> = self.program.ops[op].inputs().collect();
        for (a, input) in inputs.iter().enumerate() {
            let alone = inputs.iter().filter(|t| t.id == input.id).count() == 1;
            let size = input.shape.num_elements() * input.dtype.size();
            let candidate =
                alone && layouts[a].is_empty() && output_bytes.contains(&size) && views.iter().all(Option::is_none);
            if !candidate || first_inputs.is_empty() {
                continue;
            }
            let run = self.try_run(op, layouts, fill, Some(a)).map_err(fail)?;
            // In place, and lying there as it would anywhere else: what follows must not depend on
            // where the plan puts things.
            let taken = |(b, output): (usize, &FlexTensor)| {
                let there = address(output) == run.inputs[a];
                (there && layout_text(output).unwrap_or_default() == texts[b]).then_some((a, b))
            };
            let pairs: Vec<_> = run.outputs.iter().enumerate().filter_map(taken).collect();
            // An input given away and not reused is freed once the op is done: no workspace.
            if !pairs.is_empty() {
                workspace = workspace.max(run.workspace);
            }
            inplace.extend(pairs);
        }
        Ok(OpCost { time: times[times.len() / 2], workspace, views, inplace, sizes, layouts: texts })
    }
}
