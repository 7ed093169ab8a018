//! What ops would cost on a device that is not at hand.
//!
//! The roofline model (Williams, Waterman and Patterson, "Roofline: an insightful visual
//! performance model for multicore architectures", CACM 52(4), 2009): an op takes as long as its
//! arithmetic or its memory traffic, whichever is longer, and what it takes to start it,
//!
//! ```text
//! time = launch + max(flops / flops_per_s, bytes / bytes_per_s)
//! ```
//!
//! Flops follow from an op's kind and shapes, a multiplication with an addition counting two:
//!
//! | kind | flops |
//! |---|---|
//! | matmul `[m, k] [k, n]` | `2 m n k`, times the batch |
//! | linear, gradient of its input or weight | the same: the elements of `x`, times the other side, twice |
//! | convolution, gradient of its input or weight | 2 x elements of the forward's output x (channels in / groups x kernel) |
//! | transposed convolution and gradients | 2 x elements of the forward's input x (channels out / groups x kernel) |
//! | attention `[s, d] [t, d] [t, e]` | `2 s t (d + e) + 5 s t`, times the batch |
//! | real Fourier transform | `2.5 n log2 n` for a line of `n` real numbers |
//! | softmax, normalization | 5 and 8 for each element |
//! | roots, exponentials and other functions | 10 for each element |
//! | sort | `log2` of the line, for each element |
//! | reduction, pooling | 1 for each element read |
//! | other elementwise | 1 for each element written |
//! | copies, gathers, views | 0 |
//!
//! Bytes are those of all inputs that are read and of all outputs, each once: caches are taken to
//! be perfect. Of tables that are looked up only what is looked up counts.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::units::Nanos;

/// What starting an op takes where nothing else is said: a kernel launch on a GPU.
const LAUNCH: Nanos = Nanos(5_000);

/// A device as its two roofs and the time it takes to start an op.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roofline {
    flops_per_s: f64,
    bytes_per_s: f64,
    launch: Nanos,
}

/// What the model knows of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand<'a> {
    /// Its shape.
    pub dims: &'a [usize],
    /// Bytes that reading or writing all of it moves; a broadcast tensor's are fewer than its
    /// shape's.
    pub bytes: u64,
}

impl Operand<'_> {
    fn elements(&self) -> f64 {
        self.dims.iter().map(|&d| d as f64).product()
    }

    fn last(&self) -> f64 {
        self.dims.last().map_or(1.0, |&d| d as f64)
    }
}

impl Roofline {
    /// A device of so many floating-point operations and bytes of memory traffic a second, where
    /// starting an op takes 5 microseconds.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`] when a rate is not a positive number.
    pub fn new(flops_per_s: f64, bytes_per_s: f64) -> Result<Self> {
        for (name, rate) in [("FLOPS", flops_per_s), ("BYTES_PER_S", bytes_per_s)] {
            if !(rate.is_finite() && rate > 0.0) {
                return Err(invalid(format!("{name} must be a positive number, not {rate}")));
            }
        }
        Ok(Self { flops_per_s, bytes_per_s, launch: LAUNCH })
    }

    /// The same device with another time to start an op.
    pub fn with_launch(mut self, launch: Nanos) -> Self {
        self.launch = launch;
        self
    }

    /// Floating-point operations a second.
    pub fn flops_per_s(&self) -> f64 {
        self.flops_per_s
    }

    /// Bytes of memory traffic a second.
    pub fn bytes_per_s(&self) -> f64 {
        self.bytes_per_s
    }

    /// What starting an op takes.
    pub fn launch(&self) -> Nanos {
        self.launch
    }

    /// How long an op of this kind (`Float.Matmul`) runs, if it is not a view.
    pub fn time(&self, kind: &str, inputs: &[Operand<'_>], outputs: &[Operand<'_>]) -> Nanos {
        let seconds =
            (flops(kind, inputs, outputs) / self.flops_per_s).max(bytes(kind, inputs, outputs) / self.bytes_per_s);
        // The cast saturates; a problem refuses times that are too long.
        self.launch + Nanos((seconds * 1e9).ceil() as u64)
    }
}

/// `FLOPS,BYTES_PER_S`, for example `312e12,2e12`.
impl FromStr for Roofline {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let rate = |part: &str| {
            let part = part.trim();
            part.parse::<f64>().map_err(|_| invalid(format!("`{part}` is not a number")))
        };
        match text.split_once(',') {
            Some((flops, bytes)) => Self::new(rate(flops)?, rate(bytes)?),
            None => Err(invalid(format!("`{text}` is not FLOPS,BYTES_PER_S; write it like 312e12,2e12"))),
        }
    }
}

impl fmt::Display for Roofline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "roofline of {:e} flops/s and {:e} bytes/s", self.flops_per_s, self.bytes_per_s)
    }
}

fn invalid(why: String) -> Error {
    Error::InvalidSetting { name: "roofline".into(), why }
}

/// Floating-point operations of an op of this kind, as the table above has them.
pub fn flops(kind: &str, inputs: &[Operand<'_>], outputs: &[Operand<'_>]) -> f64 {
    let input = |i: usize| inputs.get(i).copied().unwrap_or(Operand { dims: &[], bytes: 0 });
    let read = || inputs.iter().map(Operand::elements).fold(0.0, f64::max);
    let written = || outputs.iter().map(Operand::elements).fold(0.0, f64::max);
    // Multiplications that one element of the side a kernel is laid over takes part in.
    let kernel = |weight: Operand<'_>| weight.dims.iter().skip(1).map(|&d| d as f64).product::<f64>();
    let (family, name) = kind.split_once('.').unwrap_or(("", kind));
    if family == "Custom" {
        return match name {
            "signal::rfft" => 2.5 * read() * line(inputs, outputs).log2(),
            "signal::irfft" => 2.5 * written() * line(outputs, inputs).log2(),
            _ => read().max(written()),
        };
    }
    match name {
        "Matmul" => 2.0 * written() * input(0).last(),
        "Linear" => 2.0 * written() * input(0).last(),
        "LinearXBackward" => 2.0 * written() * input(1).last(),
        "LinearWeightBackward" => 2.0 * input(0).elements() * input(1).last(),
        "Conv1d" | "Conv2d" | "Conv3d" => 2.0 * written() * kernel(input(1)),
        "DeformableConv2d" => 2.0 * written() * kernel(input(2)),
        // Three gradients, each as much work as the forward.
        "DeformableConv2dBackward" => 6.0 * input(3).elements() * kernel(input(2)),
        "Conv1dXBackward"
        | "Conv2dXBackward"
        | "Conv3dXBackward"
        | "Conv1dWeightBackward"
        | "Conv2dWeightBackward"
        | "Conv3dWeightBackward" => 2.0 * input(2).elements() * kernel(input(1)),
        "ConvTranspose1d"
        | "ConvTranspose2d"
        | "ConvTranspose3d"
        | "ConvTranspose1dWeightBackward"
        | "ConvTranspose2dWeightBackward"
        | "ConvTranspose3dWeightBackward" => 2.0 * input(0).elements() * kernel(input(1)),
        "Attention" => {
            let (query, key, value) = (input(0), input(1), input(2));
            let t = key.dims.iter().rev().nth(1).map_or(1.0, |&d| d as f64);
            let pairs = query.elements() / query.last().max(1.0) * t;
            2.0 * pairs * (query.last() + value.last()) + 5.0 * pairs
        }
        "Softmax" | "LogSoftmax" | "Softmin" => 5.0 * written(),
        "LayerNorm" | "BatchNorm" => 8.0 * written(),
        "Exp"
        | "Log"
        | "Log1p"
        | "Erf"
        | "Powf"
        | "PowfScalar"
        | "Powi"
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
        | "Hypot"
        | "Gelu"
        | "GeluBackward"
        | "Sigmoid"
        | "LogSigmoid"
        | "LogSigmoidBackward"
        | "Random"
        | "IntRandom"
        | "Interpolate"
        | "InterpolateBackward"
        | "GridSample2d" => 10.0 * written(),
        "Sort" | "SortWithIndices" | "ArgSort" | "TopK" | "TopKWithIndices" | "ArgTopK" => {
            read() * input(0).last().max(2.0).log2()
        }
        "Sum" | "SumDim" | "SumDims" | "Mean" | "MeanDim" | "Prod" | "ProdDim" | "Max" | "MaxDim" | "Min"
        | "MinDim" | "MaxAbs" | "MaxAbsDim" | "MaxDimWithIndices" | "MinDimWithIndices" | "ArgMax" | "ArgMin"
        | "All" | "Any" | "AllDim" | "AnyDim" => read(),
        _ if name.ends_with("BiasBackward") => inputs.last().map_or(0.0, Operand::elements),
        _ if name.contains("Pool") || name.starts_with("CtcLoss") => read().max(written()),
        "SelectAssign" | "Scatter" | "ScatterNd" | "EmbeddingBackward" => input(1).elements(),
        _ if family.starts_with("Base") && !name.starts_with("Equal") && !name.starts_with("NotEqual") => 0.0,
        "Embedding" | "Unfold4d" | "Full" | "Pad" => 0.0,
        _ => written(),
    }
}

/// How long the lines are that a Fourier transform turns from real to complex: the dimension it
/// halves.
fn line(real: &[Operand<'_>], complex: &[Operand<'_>]) -> f64 {
    let [real, complex] = [real, complex].map(|o| o.first().map_or(&[][..], |o| o.dims));
    real.iter().zip(complex).find(|(a, b)| a != b).map_or(2.0, |(&n, _)| n.max(2) as f64)
}

/// Bytes that an op of this kind reads and writes.
pub fn bytes(kind: &str, inputs: &[Operand<'_>], outputs: &[Operand<'_>]) -> f64 {
    let name = kind.split_once('.').map_or(kind, |(_, name)| name);
    let written: u64 = outputs.iter().map(|o| o.bytes).fold(0, u64::saturating_add);
    let last = inputs.len().saturating_sub(1);
    let read = inputs.iter().enumerate().map(|(i, input)| match name {
        // Only as much of the table as is given out.
        "Embedding" | "Select" | "Gather" | "GatherNd" | "Slice" if i == 0 => input.bytes.min(written),
        // These stand there for their shapes.
        "EmbeddingBackward" if i == 0 => 0,
        _ if name.starts_with("Conv") && name.ends_with("XBackward") && i == 0 => 0,
        _ if name.starts_with("Conv") && name.ends_with("WeightBackward") && i == 1 => 0,
        _ if name.ends_with("BiasBackward") && i != last => 0,
        "AvgPool1dBackward" | "AvgPool2dBackward" | "InterpolateBackward" if i == 0 => 0,
        _ => input.bytes,
    });
    read.fold(written, u64::saturating_add) as f64
}
