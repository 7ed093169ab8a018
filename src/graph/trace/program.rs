//! The recorded step, cleaned up: numbered values, no dead code, no copies of module data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use burn_backend::{DType, Shape, TensorData};
use burn_ir::{CustomOpIr, FloatOperationIr, IrVisitorMut, NumericOperationIr, OperationIr};
use burn_ir::{TensorId, TensorIr, TensorStatus};

use super::capture::{Captured, ModuleTensor};
use crate::entity::{Entity, EntityMap, OpId, ValueId};
use crate::error::{Error, Result};
use crate::graph::{Fingerprint, Fnv, Phase, Replay, Role};

/// One tensor of a program.
#[derive(Clone, Debug)]
pub struct ProgramValue {
    /// Shape.
    pub shape: Shape,
    /// Element type.
    pub dtype: DType,
    /// What it is for.
    pub role: Role,
    /// Whether the caller receives it.
    pub output: bool,
    /// Whether it comes from outside and is the step's to free: see [`Program::take_over`].
    pub owned: bool,
}

/// Name of the op that stands for the inputs a step owns.
const TAKE_OVER: &str = "plimsoll.inputs";

/// Name of the operation that stands for bringing a module tensor from host memory.
const LOAD: &str = "plimsoll.load";

/// A training step that can be run: Burn's own operations, and where its tensors come from and
/// go to. Tensor id `n` in an operation is value `v n`.
#[derive(Clone, Debug)]
pub struct Program {
    /// The operations, each tensor's status `ReadOnly` (outputs `NotInit`).
    pub ops: EntityMap<OpId, OperationIr>,
    /// Kind of each op, `Float.Matmul`.
    pub kinds: EntityMap<OpId, String>,
    /// Phase of each op.
    pub phases: EntityMap<OpId, Phase>,
    /// The tensors.
    pub values: EntityMap<ValueId, ProgramValue>,
    /// Where tensors come from and go to.
    pub ends: Ends,
}

/// Where a program's tensors come from and go to.
#[derive(Clone, Debug)]
pub struct Ends {
    /// The module's tensors in the order it visits them, and the value each is, if the step uses it.
    pub module: Vec<(ModuleTensor, Option<ValueId>)>,
    /// The value each input is, if the step uses it.
    pub inputs: Vec<Option<ValueId>>,
    /// Tensors made from host data inside the model.
    pub constants: Vec<(ValueId, TensorData)>,
    /// The loss, if the step has one.
    pub loss: Option<ValueId>,
    /// The step's other results.
    pub outputs: Vec<ValueId>,
    /// Index into `module` and gradient, for each trainable tensor the loss reaches.
    pub gradients: Vec<(usize, ValueId)>,
    /// Index into `module` and new value, for each tensor of module state the step changes.
    pub buffers: Vec<(usize, ValueId)>,
}

/// The operation's name in the form `Float.Matmul`.
pub(crate) fn kind_of(op: &OperationIr) -> String {
    /// Keeps the first characters written to it and then refuses, so that formatting stops early.
    struct Head(String);
    impl std::fmt::Write for Head {
        fn write_str(&mut self, s: &str) -> std::fmt::Result {
            self.0.push_str(s);
            match self.0.len() > 96 {
                true => Err(std::fmt::Error),
                false => Ok(()),
            }
        }
    }
    if let OperationIr::Custom(custom) = op {
        return format!("Custom.{}", custom.id);
    }
    let mut head = Head(String::new());
    let _ = write!(head, "{op:?}");
    let mut words = head.0.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty());
    let family = words.next().unwrap_or("Unknown").to_owned();
    // `NumericFloat(F32, Add(..))` and `Float(F32, Matmul(..))` carry the element type first.
    let name = match op {
        OperationIr::NumericFloat(..) | OperationIr::NumericInt(..) | OperationIr::Float(..) => words.nth(1),
        _ => words.next(),
    };
    format!("{family}.{}", name.unwrap_or("Unknown"))
}

fn replay_of(op: &OperationIr) -> Replay {
    match op {
        OperationIr::Float(_, FloatOperationIr::Random(_))
        | OperationIr::NumericInt(_, NumericOperationIr::IntRandom(_))
        | OperationIr::NumericFloat(_, NumericOperationIr::IntRandom(_)) => Replay::Seeded,
        OperationIr::Distributed(_) => Replay::Once,
        op if takes_over(op) => Replay::Once,
        _ => Replay::Pure,
    }
}

fn takes_over(op: &OperationIr) -> bool {
    matches!(op, OperationIr::Custom(custom) if custom.id == TAKE_OVER)
}

fn loads(op: &OperationIr) -> bool {
    matches!(op, OperationIr::Custom(custom) if custom.id == LOAD)
}

impl Program {
    /// Clean up a record.
    pub(super) fn new(captured: Captured) -> Result<Self> {
        let Captured { graph, module, module_ids, input_ids, marker, loss, outputs, gradients, buffers } = captured;
        let operations = graph.graph.operations;
        let loss_index = operations
            .iter()
            .position(|op| op.outputs().any(|t| t.id == marker))
            .ok_or_else(|| internal("the end of the forward is missing from the record"))?;

        let mut source: BTreeMap<TensorId, Role> = BTreeMap::new();
        for (tensor, &id) in module.iter().zip(&module_ids) {
            let role = if tensor.trainable { Role::Parameter } else { Role::Buffer };
            source.insert(id, role);
        }
        source.extend(input_ids.iter().map(|&id| (id, Role::Input)));
        source.extend(graph.values.keys().map(|&id| (id, Role::Constant)));

        let wanted = loss
            .into_iter()
            .chain(outputs.iter().copied())
            .chain(gradients.iter().map(|g| g.1))
            .chain(buffers.iter().map(|b| b.1));
        let live = live_ops(&operations, &source, wanted);

        let mut numbers: BTreeMap<TensorId, ValueId> = BTreeMap::new();
        let mut values: EntityMap<ValueId, ProgramValue> = EntityMap::new();
        let mut number = |tensor: &TensorIr, role: Role| {
            *numbers.entry(tensor.id).or_insert_with(|| {
                values.push(ProgramValue {
                    shape: tensor.shape.clone(),
                    dtype: tensor.dtype,
                    role,
                    output: false,
                    owned: false,
                })
            })
        };
        let mut program_ops = EntityMap::new();
        let mut kinds = EntityMap::new();
        let mut phases = EntityMap::new();
        for (index, op) in operations.iter().enumerate() {
            if !live[index] {
                continue;
            }
            for input in op.inputs() {
                number(input, source.get(&input.id).copied().unwrap_or_default());
            }
            for output in op.outputs() {
                number(output, Role::Activation);
            }
            kinds.push(kind_of(op));
            phases.push(match index {
                i if op.outputs().any(|t| Some(t.id) == loss) && i < loss_index => Phase::Loss,
                i if i < loss_index => Phase::Forward,
                _ => Phase::Backward,
            });
            program_ops.push(op.clone());
        }
        // An output may be a parameter or input as it is, which no op mentions.
        for op in &operations {
            for tensor in op.outputs() {
                let given_out = Some(tensor.id) == loss || outputs.contains(&tensor.id);
                if given_out && let Some(&role) = source.get(&tensor.id) {
                    number(tensor, role);
                }
            }
        }
        for op in (0..program_ops.len()).map(OpId::from_index) {
            let op: &mut OperationIr = &mut program_ops[op];
            op.visit_mut(&mut Renumber { numbers: &numbers });
            let written: Vec<TensorId> = op.outputs().map(|t| t.id).collect();
            op.visit_mut(&mut SetStatus(|t: &TensorIr| match written.contains(&t.id) {
                true => TensorStatus::NotInit,
                false => TensorStatus::ReadOnly,
            }));
        }

        let find =
            |id: TensorId| numbers.get(&id).copied().ok_or_else(|| internal("a result is missing from the record"));
        let loss = loss.map(find).transpose()?;
        let outputs = outputs.into_iter().map(find).collect::<Result<Vec<_>>>()?;
        let gradients = gradients.into_iter().map(|(i, id)| Ok((i, find(id)?))).collect::<Result<Vec<_>>>()?;
        let buffers = buffers.into_iter().map(|(i, id)| Ok((i, find(id)?))).collect::<Result<Vec<_>>>()?;
        let mut mark = |v: ValueId, role: Role| {
            values[v].output = true;
            if values[v].role == Role::Activation {
                values[v].role = role;
            }
        };
        loss.iter().for_each(|&v| mark(v, Role::Loss));
        gradients.iter().for_each(|g| mark(g.1, Role::Gradient));
        outputs.iter().for_each(|&v| mark(v, Role::Output));
        buffers.iter().for_each(|b| mark(b.1, Role::Output));
        let constants =
            graph.values.into_iter().filter_map(|(id, data)| numbers.get(&id).map(|&v| (v, data))).collect();
        let module = module.into_iter().zip(module_ids).map(|(t, id)| (t, numbers.get(&id).copied())).collect();
        let inputs = input_ids.into_iter().map(|id| numbers.get(&id).copied()).collect();
        let ends = Ends { module, inputs, constants, loss, outputs, gradients, buffers };
        let program = Self { ops: program_ops, kinds, phases, values, ends };
        program.refuse_unrunnable()?;
        Ok(program)
    }

    /// Everything the step gives out: the loss, the other results, gradients, running statistics.
    pub fn results(&self) -> Vec<ValueId> {
        let ends = &self.ends;
        let (gradients, buffers) = (ends.gradients.iter().map(|g| g.1), ends.buffers.iter().map(|b| b.1));
        ends.loss.into_iter().chain(ends.outputs.iter().copied()).chain(gradients).chain(buffers).collect()
    }

    /// Make these inputs the step's own: nobody else holds them, so that they may be freed after
    /// their last use. They become the results of a first op, `Step.Inputs`, which takes no time and
    /// is run once; nothing but what is made of parameters without memory of its own runs before it.
    pub fn take_over(&mut self, inputs: impl IntoIterator<Item = ValueId>) {
        let mut given = Vec::new();
        for v in inputs {
            let value = &mut self.values[v];
            if value.role == Role::Input && !std::mem::replace(&mut value.owned, true) {
                given.push(made(v, value));
            }
        }
        if !given.is_empty() {
            let first = OperationIr::Custom(CustomOpIr::new(TAKE_OVER, &[], &given));
            self.ops = std::iter::once(first).chain(self.ops.values().cloned()).collect();
            self.kinds = std::iter::once("Step.Inputs".to_owned()).chain(self.kinds.values().cloned()).collect();
            self.phases = std::iter::once(Phase::Forward).chain(self.phases.values().copied()).collect();
        }
    }

    /// Have these tensors of the module come from host memory when they are needed, again and again if that helps: each becomes
    /// the result of an op, `Step.Load`, before the first that reads it.
    pub fn load(&mut self, tensors: impl IntoIterator<Item = ValueId>) {
        let mut wanted: BTreeSet<ValueId> = tensors.into_iter().collect();
        wanted.retain(|&v| matches!(self.values[v].role, Role::Parameter | Role::Buffer));
        for &v in &wanted {
            self.values[v].owned = true;
        }
        let (mut ops, mut kinds, mut phases) = (EntityMap::new(), EntityMap::new(), EntityMap::new());
        let mut push = |op: OperationIr, kind: String, phase: Phase| {
            ops.push(op);
            kinds.push(kind);
            phases.push(phase);
        };
        let bring = |v: ValueId, phase: Phase, push: &mut dyn FnMut(OperationIr, String, Phase)| {
            let op = OperationIr::Custom(CustomOpIr::new(LOAD, &[], &[made(v, &self.values[v])]));
            push(op, "Step.Load".to_owned(), phase);
        };
        for (id, op) in self.ops.iter() {
            for v in self.reads_and_writes(id).0 {
                if wanted.remove(&v) {
                    bring(v, self.phases[id], &mut push);
                }
            }
            push(op.clone(), self.kinds[id].clone(), self.phases[id]);
        }
        // What nothing reads is a result as it is.
        wanted.into_iter().for_each(|v| bring(v, Phase::Forward, &mut push));
        (self.ops, self.kinds, self.phases) = (ops, kinds, phases);
    }

    /// The tensor that `op` brings from host memory, if that is what it does.
    pub fn loaded(&self, op: OpId) -> Option<ValueId> {
        loads(&self.ops[op]).then(|| self.reads_and_writes(op).1.first().copied()).flatten()
    }

    /// Whether `op` is the plan's alone, and not the model's.
    pub fn stands_for(&self, op: OpId) -> bool {
        takes_over(&self.ops[op]) || loads(&self.ops[op])
    }

    /// Whether `op` is the one that stands for the inputs a step owns.
    pub fn is_take_over(&self, op: OpId) -> bool {
        takes_over(&self.ops[op])
    }

    /// Whether `value` comes from outside the step and stays through it.
    pub fn is_resident(&self, value: ValueId) -> bool {
        let value = &self.values[value];
        !value.owned && matches!(value.role, Role::Parameter | Role::Input | Role::Constant | Role::Buffer)
    }

    /// How `op` may be run again.
    pub fn replay(&self, op: OpId) -> Replay {
        replay_of(&self.ops[op])
    }

    /// Values read and written by `op`, in the order of its fields.
    pub fn reads_and_writes(&self, op: OpId) -> (Vec<ValueId>, Vec<ValueId>) {
        let value = |t: &TensorIr| ValueId::from_index(t.id.value() as usize);
        (self.ops[op].inputs().map(value).collect(), self.ops[op].outputs().map(value).collect())
    }

    /// A name for everything about `op` that its cost depends on (operation, parameters, shapes,
    /// element types) together with how its inputs lie in memory.
    pub fn signature(&self, op: OpId, layouts: &[&str]) -> String {
        let mut local = self.ops[op].clone();
        let mut names: Vec<TensorId> = Vec::new();
        local.visit_mut(&mut Localize { names: &mut names });
        let mut hash = Fnv::new();
        hash.text(&format!("{local:?}"));
        layouts.iter().for_each(|l| hash.text(l));
        format!("{}:{}", self.kinds[op], hash.finish())
    }

    /// A name for the program with its scalars: two records of one step agree in it exactly when
    /// running one for the other gives the same result.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hash = Fnv::new();
        for op in self.ops.values() {
            hash.text(&format!("{op:?}"));
        }
        for (v, data) in &self.ends.constants {
            hash.word(v.index() as u64);
            hash.bytes(data.as_bytes());
        }
        hash.finish()
    }

    fn refuse_unrunnable(&self) -> Result<()> {
        for (id, op) in self.ops.iter() {
            if let OperationIr::Distributed(_) = op {
                return Err(Error::Trace {
                    why: format!("{id} ({}) communicates with other devices", self.kinds[id]),
                    help: "trace the step without collectives; reduce gradients after it".into(),
                });
            }
            if matches!(op, OperationIr::Float(_, FloatOperationIr::Quantize(_) | FloatOperationIr::Dequantize(_))) {
                return Err(Error::Trace {
                    why: format!("{id} ({}) works on a quantized tensor", self.kinds[id]),
                    help: "train the unquantized module".into(),
                });
            }
        }
        Ok(())
    }
}

/// A value as an operation makes it.
fn made(v: ValueId, value: &ProgramValue) -> TensorIr {
    TensorIr {
        id: TensorId::new(v.index() as u64),
        shape: value.shape.clone(),
        dtype: value.dtype,
        status: TensorStatus::NotInit,
    }
}

/// Which operations something wanted depends on. Operations that stand for module tensors and
/// inputs are left out: those come from outside.
fn live_ops(
    operations: &[OperationIr],
    source: &BTreeMap<TensorId, Role>,
    wanted: impl Iterator<Item = TensorId>,
) -> Vec<bool> {
    let mut needed: BTreeSet<TensorId> = wanted.filter(|id| !source.contains_key(id)).collect();
    let mut live = vec![false; operations.len()];
    for (index, op) in operations.iter().enumerate().rev() {
        if op.outputs().any(|t| needed.contains(&t.id)) || replay_of(op) == Replay::Once {
            live[index] = true;
            needed.extend(op.inputs().map(|t| t.id).filter(|id| !source.contains_key(id)));
        }
    }
    live
}

struct Renumber<'a> {
    numbers: &'a BTreeMap<TensorId, ValueId>,
}

impl IrVisitorMut for Renumber<'_> {
    fn visit_tensor_mut(&mut self, tensor: &mut TensorIr) {
        if let Some(v) = self.numbers.get(&tensor.id) {
            tensor.id = TensorId::new(v.index() as u64);
        }
    }
}

/// Sets every tensor's status to what a function says.
pub(crate) struct SetStatus<F>(pub F);

impl<F: Fn(&TensorIr) -> TensorStatus> IrVisitorMut for SetStatus<F> {
    fn visit_tensor_mut(&mut self, tensor: &mut TensorIr) {
        tensor.status = (self.0)(tensor);
    }
}

/// Sets every tensor's id and status to what a function says, where it says something.
#[cfg(feature = "remote")]
pub(crate) struct SetIr<F>(pub F);

#[cfg(feature = "remote")]
impl<F: Fn(&TensorIr) -> Option<(TensorId, TensorStatus)>> IrVisitorMut for SetIr<F> {
    fn visit_tensor_mut(&mut self, tensor: &mut TensorIr) {
        if let Some((id, status)) = (self.0)(tensor) {
            (tensor.id, tensor.status) = (id, status);
        }
    }
}

struct Localize<'a> {
    names: &'a mut Vec<TensorId>,
}

impl IrVisitorMut for Localize<'_> {
    fn visit_tensor_mut(&mut self, tensor: &mut TensorIr) {
        let local = self.names.iter().position(|&id| id == tensor.id).unwrap_or_else(|| {
            self.names.push(tensor.id);
            self.names.len() - 1
        });
        tensor.id = TensorId::new(local as u64);
    }
}

fn internal(why: &str) -> Error {
    Error::Trace { why: why.to_owned(), help: "this is a fault in plimsoll: please report it with the model".into() }
}
