//! The executor: a plan's steps, made ready once, run once per training step.

use std::collections::{BTreeMap, BTreeSet};

use burn_flex::Flex;
use burn_ir::{HandleKind, OperationIr, TensorId, TensorIr, TensorStatus};

use super::random::random_op;
use super::target::{Interpreter, Target};
use super::timing::{Lane, Windows};
use crate::entity::{Entity, EntityMap, OpId, ValueId};
use crate::error::{Error, Result};
use crate::graph::trace::{Program, SetStatus, kind_of, panic_message, quietly};
use crate::plan::{Given, Marker, StageStep, Step};
use crate::units::Bytes;

/// A value and the tensor it starts as.
pub type Binding<B> = (ValueId, HandleKind<B>);

/// The tensors of values that come from outside.
pub struct Bindings<B: Target> {
    /// Where the step runs.
    pub there: Vec<Binding<B>>,
    /// In host memory: the step brings them itself.
    pub on_host: Vec<Binding<Flex>>,
}

/// One instruction. There are as many as the plan has steps, so they are small; what does not
/// change from step to step is worked out in [`Executable`].
#[derive(Clone, Copy, Debug)]
enum Instruction {
    /// The plan's alone: inputs are there, what was given away is gone.
    Nothing,
    /// Run an operation that is ready.
    Run(u32),
    /// Let go of a tensor.
    Drop(ValueId),
    /// Set a tensor aside in host memory.
    Offload(ValueId),
    /// Bring it back.
    Prefetch(ValueId),
    /// Bring a tensor of the module from host memory.
    Load(ValueId),
    /// Say that this place is reached.
    Pause(Marker),
}

/// What is looked at while steps run.
pub struct Watch<'a> {
    /// Called after each step with its index.
    pub each: &'a mut dyn FnMut(usize),
    /// Where the time of each operation and each copy is taken, if it is.
    pub windows: Option<Windows>,
}

/// What a run of steps has in hand.
pub struct Frame<B: Target> {
    interpreter: B::Interpreter,
    host: BTreeMap<ValueId, B::Host>,
    on_host: BTreeMap<ValueId, HandleKind<Flex>>,
    /// Copies from host memory that nothing has waited for.
    coming: BTreeMap<ValueId, B::Landing>,
    /// Where each operation's and copy's time is taken.
    windows: Option<Windows>,
    next: usize,
}

/// An operation as some steps of the plan run it.
#[derive(Clone, Debug)]
struct Ready {
    op: OpId,
    /// With its statuses set: what the plan takes over in place, or drops right after, is given away to the backend (`ReadWrite`),
    /// everything else is only lent, so that the backend cannot reuse a buffer the plan counts on.
    ir: OperationIr,
    /// The inputs that are given away.
    taken: Box<[ValueId]>,
    /// Its number among the random ops of the model's own, of a random op.
    random: Option<OpId>,
}

impl Ready {
    /// Bit `k` of `taken` set: its input number `k` is given away.
    fn new(op: OpId, ir: &OperationIr, taken: u32, random: Option<OpId>) -> Self {
        let given = ir.inputs().enumerate().filter(|(k, _)| *k < 32 && taken >> k & 1 == 1);
        let given: Vec<TensorId> = given.map(|(_, tensor)| tensor.id).collect();
        let mut ir = ir.clone();
        ir.visit_mut(&mut SetStatus(|t: &TensorIr| match given.contains(&t.id) {
            true => TensorStatus::ReadWrite,
            false => t.status,
        }));
        Self { op, ir, taken: given.into_iter().map(|id| ValueId::from_index(id.value() as usize)).collect(), random }
    }
}

/// The steps of a plan for a program, ready to run many times.
#[derive(Clone, Debug)]
pub struct Executable {
    instructions: Vec<Instruction>,
    ready: Vec<Ready>,
    tensors: EntityMap<ValueId, TensorIr>,
    /// Steps that wait for a queue's end; none where no step does.
    behind: Vec<bool>,
}

impl Executable {
    /// Make `steps` ready. They must be a checked plan's for the graph of `program`; drops that are `given` are part of an op
    /// ([`given_away`](crate::plan::given_away)).
    ///
    /// # Errors
    /// [`Error::Execution`] when a step names an op or value the program does not have.
    pub fn new(program: &Program, steps: &[Step], given: &[Given]) -> Result<Self> {
        Self::of(program, steps.iter().map(Ok), given)
    }

    /// Make the steps of a pipeline's stage ready: they stop at every marker.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn of_stage(program: &Program, steps: &[StageStep]) -> Result<Self> {
        let each = steps.iter().map(|step| match step {
            StageStep::Step(step) => Ok(step),
            StageStep::Marker(marker) => Err(*marker),
        });
        Self::of(program, each, &[])
    }

    fn of<'a>(
        program: &Program,
        steps: impl ExactSizeIterator<Item = std::result::Result<&'a Step, Marker>>,
        given: &[Given],
    ) -> Result<Self> {
        let tensors: EntityMap<ValueId, TensorIr> = program
            .values
            .iter()
            .map(|(v, value)| TensorIr {
                id: TensorId::new(v.index() as u64),
                shape: value.shape.clone(),
                dtype: value.dtype,
                status: TensorStatus::ReadWrite,
            })
            .collect();
        // The problem has one value more where the step owns inputs, which is no tensor.
        let begun = program.ops.keys().any(|op| program.is_take_over(op)).then_some(tensors.len());
        let stray = |step: usize| Error::Execution {
            at: format!("step {step}"),
            why: "it names an op or value that the program does not have".into(),
        };
        let own = program.ops.iter().filter(|(op, _)| !program.stands_for(*op)).enumerate();
        let random = own.filter(|(_, (_, ir))| random_op(ir).is_some()).map(|(n, (op, _))| (op, OpId::from_index(n)));
        let random: BTreeMap<OpId, OpId> = random.collect();
        let mut ready: Vec<Ready> = Vec::with_capacity(program.ops.len());
        let mut ways: BTreeMap<(OpId, u32), u32> = BTreeMap::new();
        let mut instructions = Vec::with_capacity(steps.len());
        let (mut given, mut gone) = (given.iter().peekable(), BTreeSet::new());
        for (index, step) in steps.enumerate() {
            let step = match step {
                Ok(step) => step,
                Err(marker) => {
                    instructions.push(Instruction::Pause(marker));
                    continue;
                }
            };
            let value = |v: ValueId| tensors.get(v).map(|_| v).ok_or_else(|| stray(index));
            instructions.push(match step {
                Step::Drop(v) | Step::Offload(v) | Step::Prefetch(v) if Some(v.index()) == begun => {
                    Instruction::Nothing
                }
                Step::Drop(_) if gone.contains(&index) => Instruction::Nothing,
                Step::Compute { op, inplace } => {
                    let ir = program.ops.get(*op).ok_or_else(|| stray(index))?;
                    let last: Vec<&Given> =
                        std::iter::from_fn(|| given.next_if(|given| given.reader == index)).collect();
                    if program.stands_for(*op) {
                        instructions.push(program.loaded(*op).map_or(Instruction::Nothing, Instruction::Load));
                        continue;
                    }
                    // No op with more inputs than bits can work in place; if one could, the backend
                    // would write anew, which is as right and needs more memory.
                    let mut taken = inplace.iter().filter(|p| p.0 < 32).fold(0, |bits, p| bits | 1 << p.0);
                    for last in last.into_iter().filter(|last| last.input < 32) {
                        taken |= 1 << last.input;
                        gone.insert(last.drop);
                    }
                    let way = *ways.entry((*op, taken)).or_insert_with(|| {
                        ready.push(Ready::new(*op, ir, taken, random.get(op).copied()));
                        ready.len() as u32 - 1
                    });
                    Instruction::Run(way)
                }
                Step::Drop(v) => Instruction::Drop(value(*v)?),
                Step::Offload(v) => Instruction::Offload(value(*v)?),
                Step::Prefetch(v) => Instruction::Prefetch(value(*v)?),
            });
        }
        Ok(Self { instructions, ready, tensors, behind: Vec::new() })
    }

    /// On a device that [queues](Target::QUEUES) what is asked of it: have it done before each of these steps.
    pub fn emptying_queue_before(mut self, steps: &[usize]) -> Self {
        self.behind = vec![false; if steps.is_empty() { 0 } else { self.instructions.len() }];
        steps.iter().for_each(|&step| self.behind[step] = true);
        self
    }

    /// Whether any step draws random numbers.
    pub fn draws(&self) -> bool {
        self.ready.iter().any(|ready| ready.random.is_some())
    }

    /// Whether any step brings a tensor of the module from host memory.
    pub fn brings(&self) -> bool {
        self.instructions.iter().any(|it| matches!(it, Instruction::Load(_)))
    }

    /// Bytes of values.
    pub fn bytes(&self, values: &[ValueId]) -> Bytes {
        let bytes = |&v: &ValueId| (self.tensors[v].shape.num_elements() * self.tensors[v].dtype.size()) as u64;
        Bytes(values.iter().map(bytes).sum())
    }

    /// Run every step and return the values asked for, in order.
    ///
    /// `seed` gives that of a random op
    /// in this training step; the model's own ops are counted, so that the same step draws the same numbers wherever its inputs and
    /// parameters are. What uses a tensor that is being copied waits for the copy.
    ///
    /// # Errors
    /// [`Error::Execution`] naming the op that failed, [`Error::OutOfMemory`] where that is why, or [`Error::Worker`] where
    /// the device is gone. Everything the step made is freed then.
    pub fn run<B: Target>(
        &self,
        device: &B::Device,
        handlers: B::Handlers,
        bindings: Bindings<B>,
        seed: impl Fn(OpId) -> u64,
        wanted: &[ValueId],
        watch: &mut Watch<'_>,
    ) -> Result<Vec<HandleKind<B>>> {
        let mut frame = self.begin(device, handlers, bindings.there);
        frame.on_host.extend(bindings.on_host);
        frame.windows = watch.windows.take();
        while self.advance(device, &mut frame, &seed, watch.each)?.is_some() {}
        watch.windows = frame.windows.take();
        let outputs = self.fetch(device, &mut frame, wanted)?;
        let end = |why| self.failed::<B>(device, self.instructions.len(), why);
        B::finish(device).map_err(end)?;
        quietly(|| B::sound(&outputs)).unwrap_or_else(|panic| Err(panic_message(&*panic))).map_err(end)?;
        Ok(outputs)
    }

    /// Begin, for [`advance`](Self::advance).
    pub fn begin<B: Target>(&self, device: &B::Device, handlers: B::Handlers, bindings: Vec<Binding<B>>) -> Frame<B> {
        let interpreter = B::Interpreter::new(device, handlers);
        let (host, on_host, coming) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut frame = Frame { interpreter, host, on_host, coming, windows: None, next: 0 };
        self.bind(&mut frame, bindings);
        frame
    }

    /// Have tensors for values that come from outside.
    pub fn bind<B: Target>(&self, frame: &mut Frame<B>, bindings: Vec<Binding<B>>) {
        for (v, handle) in bindings {
            frame.interpreter.bind(self.tensors[v].id, handle);
        }
    }

    /// Go on up to behind the next marker, or to the end: then there is none.
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
    pub fn advance<B: Target>(
        &self,
        device: &B::Device,
        frame: &mut Frame<B>,
        seed: impl Fn(OpId) -> u64,
        observe: &mut dyn FnMut(usize),
    ) -> Result<Option<Marker>> {
        let mut at = frame.next;
        let run = quietly(|| -> Result<Option<Marker>, String> {
            let Frame { interpreter, host, on_host, coming, windows, next } = frame;
            for (index, instruction) in self.instructions.iter().enumerate().skip(*next) {
                (at, *next) = (index, index + 1);
                if self.behind.get(index) == Some(&true) {
                    B::empty_queue(device)?;
                }
                match *instruction {
                    Instruction::Nothing => {}
                    Instruction::Run(way) => {
                        let Ready { op, ir, taken, random } = &self.ready[way as usize];
                        // As a drop does, taking a tensor over waits for its copy to the host.
                        for v in taken {
                            host.get_mut(v).map_or(Ok(()), B::arrived)?;
                        }
                        if !coming.is_empty() {
                            let read = ir.inputs().map(|t| ValueId::from_index(t.id.value() as usize));
                            read.filter_map(|v| coming.remove(&v)).for_each(B::met);
                        }
                        windows.iter_mut().for_each(|windows| windows.open::<B>(device));
                        match random_op(ir) {
                            None => interpreter.run(ir.clone()),
                            Some(it) => interpreter.draw(it, seed(random.unwrap_or(*op)))?,
                        }
                        windows.iter_mut().for_each(|windows| windows.close::<B>(device, Lane::Compute));
                    }
                    Instruction::Drop(v) => {
                        host.get_mut(&v).map_or(Ok(()), B::arrived)?;
                        coming.remove(&v).into_iter().for_each(B::met);
                        interpreter.run(OperationIr::Drop(self.tensors[v].clone()));
                    }
                    Instruction::Offload(v) => {
                        coming.remove(&v).into_iter().for_each(B::met);
                        host.insert(v, B::to_host(interpreter.lend(&self.lent(v)), windows.as_mut())?);
                    }
                    Instruction::Prefetch(v) => {
                        let host = host.remove(&v).ok_or("it is not in host memory")?;
                        let (tensor, landing) = B::from_host(host, device, windows.as_mut())?;
                        interpreter.bind(self.tensors[v].id, tensor);
                        coming.extend(landing.map(|landing| (v, landing)));
                    }
                    Instruction::Load(v) => {
                        let tensor = on_host.get(&v).ok_or("it is not among the tensors in host memory")?;
                        let (tensor, landing) = B::load(tensor, self.tensors[v].dtype, device, windows.as_mut())?;
                        interpreter.bind(self.tensors[v].id, tensor);
                        coming.extend(landing.map(|landing| (v, landing)));
                    }
                    Instruction::Pause(marker) => return Ok(Some(marker)),
                }
                observe(index);
            }
            Ok(None)
        });
        let why = match run {
            Ok(Ok(reached)) => return Ok(reached),
            Ok(Err(why)) => why,
            Err(panic) => panic_message(&*panic),
        };
        frame.windows.iter_mut().for_each(|windows| windows.abandon::<B>(device));
        Err(self.failed::<B>(device, at, why))
    }

    /// Values as they are now, which stay where they are.
    ///
    /// # Errors
    /// [`Error::Execution`] where one is not there.
    pub fn fetch<B: Target>(
        &self,
        device: &B::Device,
        frame: &mut Frame<B>,
        wanted: &[ValueId],
    ) -> Result<Vec<HandleKind<B>>> {
        let at = frame.next;
        let values = quietly(|| {
            std::mem::take(&mut frame.coming).into_values().for_each(B::met);
            wanted.iter().map(|&v| frame.interpreter.lend(&self.lent(v))).collect()
        });
        values.map_err(|panic| self.failed::<B>(device, at, panic_message(&*panic)))
    }

    /// What went wrong.
    fn failed<B: Target>(&self, device: &B::Device, at: usize, why: String) -> Error {
        B::failure(device, self.describe(at), why)
    }

    /// A value's tensor, to be read and left where it is.
    fn lent(&self, v: ValueId) -> TensorIr {
        TensorIr { status: TensorStatus::ReadOnly, ..self.tensors[v].clone() }
    }

    fn describe(&self, index: usize) -> String {
        match self.instructions.get(index) {
            None => "its end".to_owned(),
            Some(Instruction::Nothing) => format!("step {index}, inputs"),
            Some(Instruction::Run(way)) => {
                let Ready { op, ir, .. } = &self.ready[*way as usize];
                format!("step {index}, {op} ({})", kind_of(ir))
            }
            Some(Instruction::Drop(v)) => format!("step {index}, drop {v}"),
            Some(Instruction::Offload(v)) => format!("step {index}, offload {v}"),
            Some(Instruction::Prefetch(v)) => format!("step {index}, prefetch {v}"),
            Some(Instruction::Load(v)) => format!("step {index}, load {v}"),
            Some(Instruction::Pause(marker)) => format!("step {index}, {marker:?}"),
        }
    }
}
