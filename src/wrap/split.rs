//! A batch in parts of equal size, and results of the parts as one.

use std::ops::Range;

use burn::tensor::{Bool, Int, Tensor};
use burn_ir::HandleKind;

use super::internal;
use crate::error::{Error, Result};
use crate::graph::trace::{TensorMapper, Tensors};
use crate::runtime::Target;

/// The length of every tensor along an axis.
fn length<I: Tensors>(inputs: &I, axis: usize) -> Result<usize> {
    struct Reader {
        axis: usize,
        seen: usize,
        length: Option<usize>,
        error: Option<Error>,
    }
    impl Reader {
        fn look(&mut self, dims: &[usize]) {
            let (number, axis) = (self.seen, self.axis);
            self.seen += 1;
            let mut refuse = |why: String| {
                self.error.get_or_insert(Error::InvalidInput { why });
            };
            match (dims.get(axis), self.length) {
                (None, _) => refuse(format!(
                    "input tensor {number} has {} dimensions, so it cannot be split into microbatches along axis {axis}",
                    dims.len()
                )),
                (Some(&n), Some(length)) if n != length => refuse(format!(
                    "input tensor {number} is {n} long along axis {axis}, along which batches are split, and the first \
                     is {length} long"
                )),
                (Some(&n), _) => self.length = Some(n),
            }
        }
    }
    impl TensorMapper for Reader {
        fn float<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
            self.look(&tensor.dims());
            tensor
        }
        fn int<const D: usize>(&mut self, tensor: Tensor<D, Int>) -> Tensor<D, Int> {
            self.look(&tensor.dims());
            tensor
        }
        fn bool<const D: usize>(&mut self, tensor: Tensor<D, Bool>) -> Tensor<D, Bool> {
            self.look(&tensor.dims());
            tensor
        }
    }
    let mut reader = Reader { axis, seen: 0, length: None, error: None };
    inputs.clone().map(&mut reader);
    match (reader.error, reader.length) {
        (Some(error), _) => Err(error),
        (None, None) => {
            Err(Error::InvalidInput { why: "the step has no inputs that could be split into microbatches".into() })
        }
        (None, Some(length)) => Ok(length),
    }
}

struct Part {
    axis: usize,
    range: Range<usize>,
}

impl TensorMapper for Part {
    fn float<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
        tensor.narrow(self.axis, self.range.start, self.range.len())
    }
    fn int<const D: usize>(&mut self, tensor: Tensor<D, Int>) -> Tensor<D, Int> {
        tensor.narrow(self.axis, self.range.start, self.range.len())
    }
    fn bool<const D: usize>(&mut self, tensor: Tensor<D, Bool>) -> Tensor<D, Bool> {
        tensor.narrow(self.axis, self.range.start, self.range.len())
    }
}

/// `count` microbatches of equal size, in order along the axis.
///
/// # Errors
/// [`Error::InvalidInput`] naming the tensor that cannot be split so.
pub(super) fn microbatches<I: Tensors>(inputs: &I, axis: usize, count: usize) -> Result<Vec<I>> {
    let length = length(inputs, axis)?;
    if length == 0 || !length.is_multiple_of(count) {
        let why = format!("a batch of {length} cannot be split into {count} microbatches of equal size");
        return Err(Error::InvalidInput { why });
    }
    let size = length / count;
    let part = |k: usize| inputs.clone().map(&mut Part { axis, range: k * size..(k + 1) * size });
    Ok((0..count).map(part).collect())
}

/// The same tensors in memory of their own, as a device gets them.
pub(super) fn apart<B: Target, I: Tensors>(inputs: I, device: &B::Device) -> Result<I> {
    struct Copier<'a, B: Target>(&'a B::Device, Option<String>);
    impl<B: Target> Copier<'_, B> {
        fn copy<T>(&mut self, old: T, handle: Result<HandleKind<B>, String>, out: fn(HandleKind<B>) -> Option<T>) -> T {
            match handle.and_then(|handle| B::transfer(&handle, self.0)) {
                Ok(handle) => out(handle).unwrap_or(old),
                Err(why) => {
                    self.1.get_or_insert(why);
                    old
                }
            }
        }
    }
    impl<B: Target> TensorMapper for Copier<'_, B> {
        fn float<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
            self.copy(tensor.clone(), B::float_in(tensor), B::float_out)
        }
        fn int<const D: usize>(&mut self, tensor: Tensor<D, Int>) -> Tensor<D, Int> {
            self.copy(tensor.clone(), B::int_in(tensor), B::int_out)
        }
        fn bool<const D: usize>(&mut self, tensor: Tensor<D, Bool>) -> Tensor<D, Bool> {
            self.copy(tensor.clone(), B::bool_in(tensor), B::bool_out)
        }
    }
    let mut copier = Copier::<B>(device, None);
    let copies = inputs.map(&mut copier);
    match copier.1 {
        None => Ok(copies),
        Some(why) => Err(Error::InvalidInput { why: format!("an input tensor is not on the model's device: {why}") }),
    }
}

/// The results of all microbatches one after the other along the axis.
pub(super) fn joined<B: Target>(parts: Vec<HandleKind<B>>, axis: usize) -> Result<HandleKind<B>> {
    let mut parts = parts.into_iter().peekable();
    let rank = parts.peek().map_or(0, |first| B::form(first).0.num_dims());
    if axis >= rank {
        let why = format!(
            "a result of the closure has {rank} dimensions, so those of all microbatches cannot be joined along axis {axis}"
        );
        return Err(Error::InvalidInput { why });
    }
    macro_rules! joined {
        ($($kind:ident $cat:ident),*) => {
            match parts.peek() {
                $(Some(HandleKind::$kind(_)) => {
                    let parts = parts.filter_map(|part| match part {
                        HandleKind::$kind(part) => Some(part),
                        _ => None,
                    });
                    Ok(HandleKind::$kind(B::$cat(parts.collect(), axis)))
                })*
                _ => Err(internal("a microbatch has no results")),
            }
        };
    }
    joined!(Float float_cat, Int int_cat, Bool bool_cat)
}
