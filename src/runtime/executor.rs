//! The executor: a plan's steps, made ready once, run once per training step.

use std::collections::BTreeMap;

use burn_ir::{BackendIr, FloatOperationIr, HandleKind, NumericOperationIr, OperationIr, RandomOpIr};
use burn_ir::{TensorId, TensorIr, TensorStatus};
use burn_router::{CustomOpRegistry, TensorInterpreter};

use super::random;
use crate::entity::{Entity, EntityMap, OpId, ValueId};
use crate::error::{Error, Result};
use crate::graph::trace::{Program, SetStatus, panic_message, quietly};
use crate::plan::Step;

/// A value and the tensor it starts as.
pub type Binding<B> = (ValueId, HandleKind<B>);

/// One instruction, with everything that does not change from step to step worked out.
#[derive(Clone, Debug)]
enum Instruction {
    /// Run an operation whose statuses say what is read, what is taken over, what is written.
    Run(OpId, Box<OperationIr>),
    /// Draw a random tensor.
    Draw(OpId, Box<RandomOpIr>),
    /// Let go of a tensor.
    Drop(TensorIr),
    /// Set a tensor aside in host memory.
    Offload(TensorIr),
    /// Bring it back.
    Prefetch(TensorIr),
}

/// The steps of a plan for a program, ready to run many times.
#[derive(Clone, Debug)]
pub struct Executable {
    instructions: Vec<Instruction>,
    tensors: EntityMap<ValueId, TensorIr>,
    kinds: EntityMap<OpId, String>,
}

impl Executable {
    /// Make `steps` ready. They must be a checked plan's for the graph of `program`.
    ///
    /// # Errors
    /// [`Error::Execution`] when a step names an op or value the program does not have.
    pub fn new(program: &Program, steps: &[Step]) -> Result<Self> {
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
        let stray = |step: usize| Error::Execution {
            at: format!("step {step}"),
            why: "it names an op or value that the program does not have".into(),
        };
        let mut instructions = Vec::with_capacity(steps.len());
        for (index, step) in steps.iter().enumerate() {
            let tensor = |v: &ValueId| tensors.get(*v).cloned().ok_or_else(|| stray(index));
            instructions.push(match step {
                Step::Compute { op, inplace } => {
                    program.ops.get(*op).ok_or_else(|| stray(index))?;
                    compute(program, *op, inplace)
                }
                Step::Drop(v) => Instruction::Drop(tensor(v)?),
                Step::Offload(v) => Instruction::Offload(tensor(v)?),
                Step::Prefetch(v) => Instruction::Prefetch(tensor(v)?),
            });
        }
        Ok(Self { instructions, tensors, kinds: program.kinds.clone() })
    }

    /// Run every step and return the values asked for, in order.
    ///
    /// `bindings` are the resident values' tensors; `seed` is that of this training step. Tensors
    /// set aside by `offload` stay in host memory, which on a CPU backend is the same memory.
    /// `observe` is called after each step with its index.
    ///
    /// # Errors
    /// [`Error::Execution`] naming the op that failed. Everything the step made is freed then.
    pub fn run<B: BackendIr>(
        &self,
        device: &B::Device,
        custom_ops: CustomOpRegistry<B>,
        bindings: Vec<Binding<B>>,
        seed: impl Fn(OpId) -> u64,
        wanted: &[ValueId],
        observe: &mut dyn FnMut(usize),
    ) -> Result<Vec<HandleKind<B>>> {
        let mut at = 0usize;
        let run = quietly(|| -> Result<Vec<HandleKind<B>>, String> {
            let mut interpreter = TensorInterpreter::<B>::with_custom_ops(device.clone(), custom_ops);
            for (v, handle) in bindings {
                interpreter.register_tensor_to_device(self.tensors[v].id, handle);
            }
            let mut host: BTreeMap<ValueId, HandleKind<B>> = BTreeMap::new();
            for (index, instruction) in self.instructions.iter().enumerate() {
                at = index;
                match instruction {
                    Instruction::Run(_, op) => interpreter.register_op((**op).clone()),
                    Instruction::Draw(op, random) => {
                        let data = random::draw(random, seed(*op))?;
                        interpreter.register_tensor_data_id(random.out.id, data);
                    }
                    Instruction::Drop(tensor) => interpreter.register_op(OperationIr::Drop(tensor.clone())),
                    Instruction::Offload(tensor) => {
                        let reading = TensorIr { status: TensorStatus::ReadOnly, ..tensor.clone() };
                        host.insert(value(tensor), interpreter.get_tensor(&reading));
                    }
                    Instruction::Prefetch(tensor) => {
                        let handle = host.remove(&value(tensor)).ok_or("it is not in host memory")?;
                        interpreter.register_tensor_to_device(tensor.id, handle);
                    }
                }
                observe(index);
            }
            at = self.instructions.len();
            Ok(wanted
                .iter()
                .map(|&v| {
                    let reading = TensorIr { status: TensorStatus::ReadOnly, ..self.tensors[v].clone() };
                    interpreter.get_tensor(&reading)
                })
                .collect())
        });
        match run {
            Ok(Ok(outputs)) => Ok(outputs),
            Ok(Err(why)) => Err(Error::Execution { at: self.describe(at), why }),
            Err(panic) => Err(Error::Execution { at: self.describe(at), why: panic_message(&*panic) }),
        }
    }

    fn describe(&self, index: usize) -> String {
        match self.instructions.get(index) {
            None => "its end".to_owned(),
            Some(Instruction::Run(op, _) | Instruction::Draw(op, _)) => {
                format!("step {index}, {op} ({})", self.kinds[*op])
            }
            Some(Instruction::Drop(t)) => format!("step {index}, drop {}", value(t)),
            Some(Instruction::Offload(t)) => format!("step {index}, offload {}", value(t)),
            Some(Instruction::Prefetch(t)) => format!("step {index}, prefetch {}", value(t)),
        }
    }
}

fn value(tensor: &TensorIr) -> ValueId {
    ValueId::from_index(tensor.id.value() as usize)
}

/// An op with its statuses set: what the plan takes over in place is given away to the backend
/// (`ReadWrite`), everything else is only lent, so that the backend cannot reuse a buffer the
/// plan counts on.
fn compute(program: &Program, id: OpId, inplace: &[(usize, usize)]) -> Instruction {
    let op = &program.ops[id];
    if let OperationIr::Float(_, FloatOperationIr::Random(random))
    | OperationIr::NumericFloat(_, NumericOperationIr::IntRandom(random))
    | OperationIr::NumericInt(_, NumericOperationIr::IntRandom(random)) = op
    {
        return Instruction::Draw(id, Box::new(random.clone()));
    }
    let taken: Vec<TensorId> = inplace.iter().filter_map(|&(a, _)| op.inputs().nth(a).map(|t| t.id)).collect();
    let mut op = op.clone();
    op.visit_mut(&mut SetStatus(|t: &TensorIr| match t.status {
        TensorStatus::NotInit => TensorStatus::NotInit,
        _ if taken.contains(&t.id) => TensorStatus::ReadWrite,
        _ => TensorStatus::ReadOnly,
    }));
    Instruction::Run(id, Box::new(op))
}
