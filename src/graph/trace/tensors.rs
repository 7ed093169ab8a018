//! Trees of tensors: what a step takes in and gives out.

use burn::tensor::{Bool, Int, Tensor};

/// A function of tensors of any rank and kind.
pub trait TensorMapper {
    /// Map a float tensor.
    fn float<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D>;
    /// Map an integer tensor.
    fn int<const D: usize>(&mut self, tensor: Tensor<D, Int>) -> Tensor<D, Int>;
    /// Map a bool tensor.
    fn bool<const D: usize>(&mut self, tensor: Tensor<D, Bool>) -> Tensor<D, Bool>;
}

/// A tensor, or a tuple, array, `Vec` or `Option` of them, nested at will.
///
/// The order in which [`map`](Self::map) visits the tensors is part of the contract: the same
/// shape of tree gives the same order.
pub trait Tensors: Clone {
    /// Map every tensor, keeping the structure.
    fn map<M: TensorMapper>(self, mapper: &mut M) -> Self;
}

impl<const D: usize> Tensors for Tensor<D> {
    fn map<M: TensorMapper>(self, mapper: &mut M) -> Self {
        mapper.float(self)
    }
}

impl<const D: usize> Tensors for Tensor<D, Int> {
    fn map<M: TensorMapper>(self, mapper: &mut M) -> Self {
        mapper.int(self)
    }
}

impl<const D: usize> Tensors for Tensor<D, Bool> {
    fn map<M: TensorMapper>(self, mapper: &mut M) -> Self {
        mapper.bool(self)
    }
}

impl<T: Tensors> Tensors for Vec<T> {
    fn map<M: TensorMapper>(self, mapper: &mut M) -> Self {
        self.into_iter().map(|t| t.map(mapper)).collect()
    }
}

impl<T: Tensors> Tensors for Option<T> {
    fn map<M: TensorMapper>(self, mapper: &mut M) -> Self {
        Option::map(self, |t| t.map(mapper))
    }
}

impl<T: Tensors, const N: usize> Tensors for [T; N] {
    fn map<M: TensorMapper>(self, mapper: &mut M) -> Self {
        <[T; N]>::map(self, |t| t.map(mapper))
    }
}

impl Tensors for () {
    fn map<M: TensorMapper>(self, _mapper: &mut M) -> Self {}
}

macro_rules! tuple {
    ($($name:ident),+) => {
        impl<$($name: Tensors),+> Tensors for ($($name,)+) {
            #[allow(non_snake_case)]
            fn map<Mapper: TensorMapper>(self, mapper: &mut Mapper) -> Self {
                let ($($name,)+) = self;
                ($($name.map(mapper),)+)
            }
        }
    };
}

tuple!(A);
tuple!(A, B);
tuple!(A, B, C);
tuple!(A, B, C, D);
tuple!(A, B, C, D, E);
tuple!(A, B, C, D, E, F);
tuple!(A, B, C, D, E, F, G);
tuple!(A, B, C, D, E, F, G, H);

/// What a step's closure may return: a loss, or a loss and other results beside it.
pub trait StepOutput {
    /// Whether there is a loss to differentiate.
    const TRAINS: bool = true;
    /// The loss, of any rank with one element; `()` where there is none.
    type Loss: Tensors;
    /// The other results; `()` when there are none.
    type Output: Tensors;
    /// Take loss and results apart.
    fn split(self) -> (Self::Loss, Self::Output);
}

impl<const D: usize> StepOutput for Tensor<D> {
    type Loss = Tensor<D>;
    type Output = ();
    fn split(self) -> (Self::Loss, Self::Output) {
        (self, ())
    }
}

impl<const D: usize, A: Tensors> StepOutput for (Tensor<D>, A) {
    type Loss = Tensor<D>;
    type Output = A;
    fn split(self) -> (Self::Loss, Self::Output) {
        self
    }
}

/// The results of a step that only infers.
pub struct Forward<T>(pub T);

impl<T: Tensors> StepOutput for Forward<T> {
    const TRAINS: bool = false;
    type Loss = ();
    type Output = T;
    fn split(self) -> (Self::Loss, Self::Output) {
        ((), self.0)
    }
}
