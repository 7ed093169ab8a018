//! What ops would cost on a device that is not at hand, and how a strided backend would share
//! buffers there. Nothing is run.
//!
//! The rules are those that backends with strided tensors have in common. Swapping and permuting
//! dimensions, expanding, unfolding and slicing forwards give views; so do reshaping what lies
//! contiguously and casting to the type it has. Everything else gives a new buffer. Elementwise ops
//! may write over an input of the output's shape and element type that fills its buffer. What is
//! given from outside lies contiguously.

use burn_ir::{BaseOperationIr, OperationIr};

use super::Program;
use crate::cost::roofline::Operand;
use crate::cost::{OpCost, Roofline};
use crate::entity::{EntityMap, OpId, ValueId};
use crate::units::{Bytes, Nanos};

/// How a tensor lies in its buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lay {
    /// Elements from one index to the next, for each dimension.
    strides: Vec<usize>,
    /// Whether the tensor is all of its buffer.
    whole: bool,
}

impl Lay {
    fn contiguous(dims: &[usize]) -> Self {
        let mut strides = vec![1; dims.len()];
        for i in (1..dims.len()).rev() {
            strides[i - 1] = strides[i] * dims[i].max(1);
        }
        Self { strides, whole: true }
    }

    fn is_contiguous(&self, dims: &[usize]) -> bool {
        let plain = Self::contiguous(dims).strides;
        dims.contains(&0) || dims.iter().zip(self.strides.iter().zip(&plain)).all(|(&d, (a, b))| d == 1 || a == b)
    }

    /// Elements that reading all of it touches: broadcast ones once.
    fn elements(&self, dims: &[usize]) -> u64 {
        dims.iter().zip(&self.strides).map(|(&d, &s)| if s == 0 { d.min(1) } else { d } as u64).product()
    }
}

/// What `op` makes of how its input lies, where it gives a view.
fn view(op: &OperationIr, lay: &Lay) -> Option<Lay> {
    let (OperationIr::BaseFloat(base) | OperationIr::BaseInt(base) | OperationIr::BaseBool(base)) = op else {
        return None;
    };
    match base {
        BaseOperationIr::Reshape(reshape) => lay
            .is_contiguous(&reshape.input.shape)
            .then(|| Lay { whole: lay.whole, ..Lay::contiguous(&reshape.out.shape) }),
        BaseOperationIr::SwapDims(swap) => {
            let mut strides = lay.strides.clone();
            strides.swap(swap.dim1, swap.dim2);
            Some(Lay { strides, whole: lay.whole })
        }
        BaseOperationIr::Permute(permute) => {
            let strides = permute.axes.iter().map(|&axis| lay.strides[axis]).collect();
            Some(Lay { strides, whole: lay.whole })
        }
        BaseOperationIr::Expand(expand) => {
            let (from, to) = (&expand.input.shape, &expand.out.shape);
            // Dimensions that are not there yet come first.
            let new = to.len().checked_sub(from.len())?;
            let stride = |i: usize| match i.checked_sub(new) {
                Some(k) if from[k] == to[i] => lay.strides[k],
                _ => 0,
            };
            let whole = lay.whole && expand.input.shape.num_elements() == expand.out.shape.num_elements();
            Some(Lay { strides: (0..to.len()).map(stride).collect(), whole })
        }
        BaseOperationIr::Unfold(unfold) => {
            let mut strides = lay.strides.clone();
            let stride = strides[unfold.dim];
            strides[unfold.dim] = stride * unfold.step;
            strides.push(stride);
            Some(Lay { strides, whole: false })
        }
        BaseOperationIr::Slice(slice) if slice.ranges.iter().all(|range| range.step > 0) => {
            let mut strides = lay.strides.clone();
            for (stride, range) in strides.iter_mut().zip(&slice.ranges) {
                *stride *= range.step.unsigned_abs();
            }
            let whole = lay.whole && slice.tensor.shape == slice.out.shape;
            Some(Lay { strides, whole })
        }
        BaseOperationIr::Cast(cast) if cast.input.dtype == cast.out.dtype => Some(lay.clone()),
        _ => None,
    }
}

/// Whether an op of this kind computes each element of its output from the same element of its
/// inputs, so that it may write over one of them.
fn is_elementwise(kind: &str) -> bool {
    let (family, name) = kind.split_once('.').unwrap_or(("", kind));
    let name = name.strip_suffix("Scalar").unwrap_or(name);
    match family {
        "NumericFloat" | "NumericInt" => matches!(
            name,
            "Add" | "Sub" | "Div" | "Rem" | "Mul" | "Abs" | "Clamp" | "ClampMin" | "ClampMax" | "Powi" | "Neg" | "Sign"
        ),
        "Float" => matches!(
            name,
            "Exp"
                | "Log"
                | "Log1p"
                | "Erf"
                | "Powf"
                | "Sqrt"
                | "Cos"
                | "Cosh"
                | "Sin"
                | "Sinh"
                | "Tan"
                | "Tanh"
                | "ArcCos"
                | "ArcCosh"
                | "ArcSin"
                | "ArcSinh"
                | "ArcTan"
                | "ArcTanh"
                | "ArcTan2"
                | "Round"
                | "Floor"
                | "Ceil"
                | "Trunc"
                | "Recip"
                | "Hypot"
        ),
        "Int" => name.starts_with("Bitwise"),
        "Bool" => matches!(name, "Not" | "And" | "Or" | "Xor"),
        "BaseFloat" | "BaseInt" | "BaseBool" => matches!(name, "MaskFill" | "MaskWhere"),
        "Activation" => !matches!(name, "Softmax" | "LogSoftmax" | "Softmin"),
        _ => false,
    }
}

impl Program {
    /// What each op would cost on a device that is not at hand: its time from the roofline, views
    /// and what may be done in place from rules that strided backends have in common. No workspace
    /// is counted: how much kernels take is theirs to know.
    pub fn costs_on(&self, roofline: &Roofline) -> EntityMap<OpId, OpCost> {
        let start = self.values.values().map(|v| Lay::contiguous(&v.shape));
        let mut lays: EntityMap<ValueId, Lay> = start.collect();
        self.ops.keys().map(|op| self.cost_on(roofline, op, &mut lays)).collect()
    }

    fn cost_on(&self, roofline: &Roofline, op: OpId, lays: &mut EntityMap<ValueId, Lay>) -> OpCost {
        let (inputs, outputs) = self.reads_and_writes(op);
        if self.stands_for(op) {
            return OpCost::nothing(outputs.len());
        }
        let bytes = |v: ValueId, elements: u64| elements * self.values[v].dtype.size() as u64;
        let full = |v: &ValueId| bytes(*v, self.values[*v].shape.num_elements() as u64);
        let mut cost = OpCost {
            views: vec![None; outputs.len()],
            sizes: outputs.iter().map(|v| Bytes(full(v))).collect(),
            layouts: vec![String::new(); outputs.len()],
            ..OpCost::default()
        };
        if let Some(&input) = inputs.first()
            && let Some(lay) = view(&self.ops[op], &lays[input])
        {
            lays[outputs[0]] = lay;
            cost.views[0] = Some(0);
            cost.time = Nanos::ZERO;
            return cost;
        }
        let read: Vec<Operand<'_>> = inputs
            .iter()
            .enumerate()
            .map(|(i, v)| {
                let dims: &[usize] = &self.values[*v].shape;
                let again = inputs[..i].contains(v);
                Operand { dims, bytes: if again { 0 } else { bytes(*v, lays[*v].elements(dims)) } }
            })
            .collect();
        let written: Vec<Operand<'_>> =
            outputs.iter().map(|v| Operand { dims: &self.values[*v].shape, bytes: full(v) }).collect();
        cost.time = roofline.time(&self.kinds[op], &read, &written);
        if is_elementwise(&self.kinds[op]) {
            let [output] = outputs[..] else { return cost };
            let fits = |v: ValueId| {
                let (a, b) = (&self.values[v], &self.values[output]);
                a.shape == b.shape && a.dtype == b.dtype && lays[v].whole && lays[v].is_contiguous(&a.shape)
            };
            let alone = |v: ValueId| inputs.iter().filter(|&&w| w == v).count() == 1;
            cost.inplace = (0..inputs.len()).filter(|&a| fits(inputs[a]) && alone(inputs[a])).map(|a| (a, 0)).collect();
        }
        cost
    }
}
