//! Measuring ops by running them one by one.
//!
//! What a backend does with its buffers is read off the buffers themselves: an output that lies in
//! an input's buffer is a view; an output that lies where a given-away input lay was computed in
//! place. So the graph's storages are what the backend really does, for every op there is.

use burn_ir::{HandleKind, OperationIr, TensorId, TensorIr, TensorStatus};
use burn_router::{CustomOpRegistry, TensorInterpreter};

use super::random::{self, random_op};
use super::target::{Clock, Local, Place, Target, parse_layout};
use crate::alloc;
use crate::cost::OpCost;
use crate::cost::measure::Probe;
use crate::entity::{Entity, OpId, ValueId};
use crate::error::Result;
use crate::graph::trace::{Program, SetStatus, panic_message, quietly};
use crate::units::{Bytes, Nanos};

/// Measures the ops of a program one by one.
pub struct OpProbe<'a, B: Target> {
    device: &'a B::Device,
    program: &'a Program,
    starts: &'a dyn Fn(ValueId) -> Option<String>,
    handlers: B::Handlers,
}

impl<'a, B: Target> OpProbe<'a, B> {
    /// A probe for `program`. `starts` gives the layout of a value bound from outside, or `None`
    /// where it is the plain one.
    pub fn new(
        device: &'a B::Device,
        program: &'a Program,
        handlers: B::Handlers,
        starts: &'a dyn Fn(ValueId) -> Option<String>,
    ) -> Self {
        Self { device, program, starts, handlers }
    }
}

/// What one run of an op showed.
struct Run<B: Local> {
    time: Nanos,
    workspace: Bytes,
    inputs: Vec<Place>,
    outputs: Vec<HandleKind<B>>,
}

/// An op and what it reads.
pub(super) struct Laid<B: Local> {
    pub tensors: Vec<(TensorId, HandleKind<B>)>,
    pub ready: OperationIr,
    /// Where its inputs lie.
    places: Vec<Place>,
}

/// One op of a backend of this process, to be run by itself.
pub(super) struct Bench<'a, B: Local> {
    pub device: &'a B::Device,
    pub handlers: &'a CustomOpRegistry<B>,
    pub op: &'a OperationIr,
    pub layouts: &'a [&'a str],
}

impl<B: Local> Bench<'_, B> {
    /// Stand-ins for the inputs, and the op ready to run on them; input number `given_away` is the backend's to overwrite.
    pub fn laid_out(&self, fill: f64, given_away: Option<usize>) -> Result<Laid<B>, String> {
        let ir = self.op;
        let mut tensors = Vec::new();
        let mut places: Vec<Place> = Vec::new();
        let mut seen: Vec<TensorId> = Vec::new();
        for (input, layout) in ir.inputs().zip(self.layouts) {
            if let Some(first) = seen.iter().position(|&id| id == input.id) {
                places.push(places[first]);
                seen.push(input.id);
                continue;
            }
            // Integers index things: zero is an index of everything.
            let fill = if input.dtype.is_float() { fill } else { (fill - 0.5).max(0.0) };
            let stand_in = B::stand_in(&input.shape, input.dtype, layout, fill, self.device);
            let stand_in = stand_in.ok_or("an unreadable layout")?;
            places.push(B::place(&stand_in));
            seen.push(input.id);
            tensors.push((input.id, stand_in));
        }
        let taken = given_away.map(|k| seen[k]);
        let mut ready = ir.clone();
        ready.visit_mut(&mut SetStatus(|t: &TensorIr| match t.status {
            TensorStatus::NotInit => TensorStatus::NotInit,
            _ if Some(t.id) == taken => TensorStatus::ReadWrite,
            _ => TensorStatus::ReadOnly,
        }));
        Ok(Laid { tensors, ready, places })
    }

    fn holding(&self, tensors: Vec<(TensorId, HandleKind<B>)>) -> TensorInterpreter<B> {
        let mut interpreter = TensorInterpreter::<B>::with_custom_ops(self.device.clone(), self.handlers.clone());
        tensors.into_iter().for_each(|(id, tensor)| interpreter.register_tensor_to_device(id, tensor));
        interpreter
    }

    /// Run the op once on stand-ins; input number `given_away` is the backend's to overwrite.
    fn run(&self, fill: f64, given_away: Option<usize>) -> Result<Run<B>, String> {
        let ir = self.op;
        if let Some(r) = random_op(ir) {
            return self.run_random(r);
        }
        let Laid { tensors, ready, places } = self.laid_out(fill, given_away)?;
        let mut interpreter = self.holding(tensors);
        let clock = Clock::start::<B>(self.device);
        alloc::start_watch();
        let before = alloc::live();
        interpreter.register_op(ready);
        let time = clock.stop::<B>(self.device);
        let peak = alloc::watched();
        let after = alloc::live();
        let outputs = ir
            .outputs()
            .map(|t| match interpreter.get_tensor(&TensorIr { status: TensorStatus::ReadOnly, ..t.clone() }) {
                HandleKind::Quantized(_) => None,
                handle => Some(handle),
            })
            .collect::<Option<Vec<_>>>()
            .ok_or("a quantized output")?;
        B::sound(&outputs)?;
        // Bookkeeping of the interpreter and of tensors is a few hundred bytes, not workspace.
        let workspace = peak.saturating_sub(after.max(before));
        let workspace = if workspace.get() < 1024 || !B::IN_HEAP { Bytes::ZERO } else { workspace };
        Ok(Run { time, workspace, inputs: places, outputs })
    }

    /// What the op allocates, its outputs among it, where the backend tells.
    fn allocates(&self, fill: f64) -> Result<Option<Bytes>, String> {
        if random_op(self.op).is_some() {
            return Ok(None);
        }
        let Laid { tensors, ready, .. } = self.laid_out(fill, None)?;
        let (mut interpreter, mut ready) = (self.holding(tensors), Some(ready));
        quietly(|| {
            B::allocated(self.device, &mut || ready.take().into_iter().for_each(|op| interpreter.register_op(op)))
        })
        .map_err(|panic| panic_message(&*panic))
    }

    fn run_random(&self, op: &burn_ir::RandomOpIr) -> Result<Run<B>, String> {
        let clock = Clock::start::<B>(self.device);
        let drawn = B::of_data(random::draw(op, 0)?, self.device);
        let time = clock.stop::<B>(self.device);
        Ok(Run { time, workspace: Bytes::ZERO, inputs: Vec::new(), outputs: vec![drawn] })
    }

    fn try_run(&self, fill: f64, given_away: Option<usize>) -> Result<Run<B>, String> {
        quietly(|| self.run(fill, given_away)).unwrap_or_else(|panic| Err(panic_message(&*panic)))
    }
}

impl<B: Target> Probe for OpProbe<'_, B> {
    fn ops(&self) -> usize {
        self.program.ops.len()
    }

    fn reads_and_writes(&self, op: OpId) -> (Vec<ValueId>, Vec<ValueId>) {
        self.program.reads_and_writes(op)
    }

    fn stands_for(&self, op: OpId) -> Option<Vec<ValueId>> {
        self.program.stands_for(op).then(|| self.program.reads_and_writes(op).1)
    }

    fn layout_at_start(&self, value: ValueId) -> String {
        (self.starts)(value).unwrap_or_default()
    }

    fn signature(&self, op: OpId, layouts: &[&str]) -> String {
        self.program.signature(op, layouts)
    }

    fn measure(&mut self, op: OpId, layouts: &[&str]) -> Result<OpCost> {
        B::measure(self.device, &self.handlers, &self.program.ops[op], layouts)
            .map_err(|why| B::failure(self.device, format!("measuring {op} ({})", self.program.kinds[op]), why))
    }

    fn row(&mut self, ops: &[OpId], lead: usize, layout: &dyn Fn(ValueId) -> String) -> Result<Option<Nanos>> {
        let row: Vec<&OperationIr> = ops.iter().map(|&op| &self.program.ops[op]).collect();
        let layout = |id: TensorId| layout(ValueId::from_index(id.value() as usize));
        let took = quietly(|| B::row(self.device, &self.handlers, &row, lead, &layout));
        let took = took.unwrap_or_else(|panic| Err(panic_message(&*panic)));
        took.map_err(|why| B::failure(self.device, format!("measuring {} ops from {} on", ops.len(), ops[0]), why))
    }
}

/// What an op takes beside its own buffers, where padding is no more than that.
pub(super) fn beside(all: Bytes, own: Bytes) -> Bytes {
    match all.saturating_sub(own) {
        Bytes(..1024) => Bytes::ZERO,
        beside => beside,
    }
}

/// What an op costs, run by itself on stand-ins for its inputs.
///
/// # Errors
/// Why it cannot be run by itself.
pub(super) fn measure_op<B: Local>(
    device: &B::Device,
    handlers: &CustomOpRegistry<B>,
    op: &OperationIr,
    layouts: &[&str],
) -> Result<OpCost, String> {
    let bench = Bench::<B> { device, handlers, op, layouts };
    // Zero is no divisor and one is no index into a table of one: try both.
    let (fill, first) = match bench.try_run(0.5, None) {
        Ok(run) => (0.5, run),
        Err(_) => (1.5, bench.try_run(1.5, None)?),
    };
    let views: Vec<Option<usize>> = first
        .outputs
        .iter()
        .map(|o| first.inputs.iter().position(|a| a.buffer == B::place(o).buffer && B::buffer_bytes(o) > Bytes::ZERO))
        .collect();
    let texts: Vec<String> = first.outputs.iter().map(|o| B::layout(o).unwrap_or_default()).collect();
    let sizes = first.outputs.iter().map(B::buffer_bytes).collect();
    let mut workspace = first.workspace;
    let first_inputs = first.inputs.clone();
    let output_bytes: Vec<Bytes> = first.outputs.iter().map(B::buffer_bytes).collect();
    drop(first);
    if let Some(all) = bench.allocates(fill)? {
        let own = output_bytes.iter().zip(&views).filter(|(_, view)| view.is_none()).map(|(&bytes, _)| bytes).sum();
        // Padding of outputs is no workspace, but a buffer of its own is one of at least that.
        workspace = beside(all, own);
    }

    // How much workspace an op takes depends on how many threads happen to share it, so ops that
    // take any are run more often.
    let mut times = Vec::new();
    let mut spent = Nanos::ZERO;
    loop {
        let run = bench.try_run(fill, None)?;
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
    let inputs: Vec<&TensorIr> = op.inputs().collect();
    for (a, input) in inputs.iter().enumerate() {
        let alone = inputs.iter().filter(|t| t.id == input.id).count() == 1;
        let size = input.shape.num_elements() * input.dtype.size();
        // What lies in another order in memory, without gaps, may be written over as well.
        let dense = layouts[a].is_empty() || parse_layout(layouts[a]).is_some_and(|(.., buffer)| buffer == size);
        let candidate =
            alone && dense && output_bytes.contains(&Bytes(size as u64)) && views.iter().all(Option::is_none);
        if !candidate || first_inputs.is_empty() {
            continue;
        }
        let run = bench.try_run(fill, Some(a))?;
        // In place, and lying there as it would anywhere else: what follows must not depend on
        // where the plan puts things.
        let taken = |(b, output): (usize, &HandleKind<B>)| {
            let there = B::place(output) == run.inputs[a];
            (there && B::layout(output).unwrap_or_default() == texts[b]).then_some((a, b))
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
