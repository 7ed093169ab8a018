//! Between the caller's modules and tensors and the backend's: what goes into a step and what
//! comes out of it. Nothing here copies data.

use burn::module::{Flag, Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Bool, Int, Tensor};
use burn_backend::{DType, Shape};
use burn_flex::{Flex, FlexTensor};
use burn_ir::HandleKind;

use super::internal;
use crate::error::{Error, Result};
use crate::graph::trace::{TensorMapper, Tensors};
use crate::runtime::layout_text;

/// A tensor that goes into a step.
#[derive(Clone)]
pub(super) struct Bound {
    pub handle: HandleKind<Flex>,
    pub shape: Shape,
    pub dtype: DType,
    /// Where it does not lie plainly in memory, how it does.
    pub layout: Option<String>,
}

impl Bound {
    fn new(tensor: FlexTensor, wrap: fn(FlexTensor) -> HandleKind<Flex>) -> Self {
        Self {
            shape: tensor.layout().shape().clone(),
            dtype: tensor.dtype(),
            layout: layout_text(&tensor),
            handle: wrap(tensor),
        }
    }
}

/// The tensors of a module, in the order it visits them.
pub(super) struct ModuleState {
    pub tensors: Vec<Bound>,
    pub trainable: Vec<bool>,
    pub flags: Vec<bool>,
}

impl ModuleState {
    pub(super) fn of<M: Module>(module: &M) -> Result<Self> {
        struct Reader {
            state: ModuleState,
            error: Option<Error>,
        }
        impl Reader {
            fn push(&mut self, bound: Result<Bound, String>, what: &str, trainable: bool) {
                match bound {
                    Ok(bound) => {
                        self.state.tensors.push(bound);
                        self.state.trainable.push(trainable);
                    }
                    Err(why) => {
                        self.error.get_or_insert(Error::InvalidSetting {
                            name: "device".into(),
                            why: format!("{what} is not a plain tensor on the CPU backend Flex, where this build runs steps: {why}"),
                        });
                    }
                }
            }
        }
        impl ModuleVisitor for Reader {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let tensor = param.val();
                let trainable = tensor.is_require_grad();
                self.push(float(tensor), &format!("parameter {}", param.id), trainable);
            }
            fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
                self.push(int(param.val()), &format!("parameter {}", param.id), false);
            }
            fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
                self.push(bool(param.val()), &format!("parameter {}", param.id), false);
            }
            fn visit_flag(&mut self, flag: &Param<Flag>) {
                self.state.flags.push(flag.val().is_enabled());
            }
        }
        let state = ModuleState { tensors: Vec::new(), trainable: Vec::new(), flags: Vec::new() };
        let mut reader = Reader { state, error: None };
        module.visit(&mut reader);
        match reader.error {
            Some(error) => Err(error),
            None => Ok(reader.state),
        }
    }

    /// Elements and bytes of the trainable parameters.
    pub(super) fn trained(&self) -> (u64, u64) {
        let trained = self.tensors.iter().zip(&self.trainable).filter(|(_, trainable)| **trainable);
        trained.fold((0, 0), |(elements, bytes), (t, _)| {
            let n = t.shape.num_elements() as u64;
            (elements + n, bytes + n * t.dtype.size() as u64)
        })
    }
}

fn float<const D: usize>(tensor: Tensor<D>) -> Result<Bound, String> {
    let plain = tensor.without_autodiff().try_into_primitive::<Flex>();
    plain.map(|t| Bound::new(t, HandleKind::Float)).map_err(|e| format!("{e:?}"))
}

fn int<const D: usize>(tensor: Tensor<D, Int>) -> Result<Bound, String> {
    let plain = tensor.without_autodiff().try_into_primitive::<Flex>();
    plain.map(|t| Bound::new(t, HandleKind::Int)).map_err(|e| format!("{e:?}"))
}

fn bool<const D: usize>(tensor: Tensor<D, Bool>) -> Result<Bound, String> {
    let plain = tensor.without_autodiff().try_into_primitive::<Flex>();
    plain.map(|t| Bound::new(t, HandleKind::Bool)).map_err(|e| format!("{e:?}"))
}

/// The tensors of a step's inputs, in order.
pub(super) struct Inputs {
    pub tensors: Vec<Bound>,
}

impl Inputs {
    pub(super) fn of<I: Tensors>(inputs: &I) -> Result<Self> {
        #[derive(Default)]
        struct Reader {
            tensors: Vec<Bound>,
            error: Option<Error>,
        }
        impl Reader {
            fn push(&mut self, bound: Result<Bound, String>) {
                match bound {
                    Ok(bound) => self.tensors.push(bound),
                    Err(why) => self.fail(format!(
                        "input tensor {} is not on the model's device: {why}; move it there with `to_device`",
                        self.tensors.len()
                    )),
                }
            }
            fn fail(&mut self, why: String) {
                self.error.get_or_insert(Error::InvalidInput { why });
            }
        }
        impl TensorMapper for Reader {
            fn float<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
                if tensor.is_require_grad() {
                    self.fail(format!(
                        "input tensor {} requires a gradient, which steps do not give; `detach()` it",
                        self.tensors.len()
                    ));
                }
                self.push(float(tensor.clone()));
                tensor
            }
            fn int<const D: usize>(&mut self, tensor: Tensor<D, Int>) -> Tensor<D, Int> {
                self.push(int(tensor.clone()));
                tensor
            }
            fn bool<const D: usize>(&mut self, tensor: Tensor<D, Bool>) -> Tensor<D, Bool> {
                self.push(bool(tensor.clone()));
                tensor
            }
        }
        let mut reader = Reader::default();
        inputs.clone().map(&mut reader);
        match reader.error {
            Some(error) => Err(error),
            None => Ok(Self { tensors: reader.tensors }),
        }
    }
}

/// Put results into the structure the closure returned them in.
pub(super) fn rebuild<T: Tensors>(template: T, results: Vec<HandleKind<Flex>>) -> Result<T> {
    struct Filler {
        results: std::vec::IntoIter<HandleKind<Flex>>,
        failed: bool,
    }
    impl TensorMapper for Filler {
        fn float<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
            match self.results.next() {
                Some(HandleKind::Float(t)) => Tensor::from_primitive::<Flex>(t),
                _ => {
                    self.failed = true;
                    tensor
                }
            }
        }
        fn int<const D: usize>(&mut self, tensor: Tensor<D, Int>) -> Tensor<D, Int> {
            match self.results.next() {
                Some(HandleKind::Int(t)) => Tensor::from_primitive::<Flex>(t),
                _ => {
                    self.failed = true;
                    tensor
                }
            }
        }
        fn bool<const D: usize>(&mut self, tensor: Tensor<D, Bool>) -> Tensor<D, Bool> {
            match self.results.next() {
                Some(HandleKind::Bool(t)) => Tensor::from_primitive::<Flex>(t),
                _ => {
                    self.failed = true;
                    tensor
                }
            }
        }
    }
    let mut filler = Filler { results: results.into_iter(), failed: false };
    let filled = template.map(&mut filler);
    match filler.failed || filler.results.next().is_some() {
        true => Err(internal("the results do not match what the closure returned")),
        false => Ok(filled),
    }
}

/// Gradients by parameter, as Burn's optimizers take them.
pub(super) fn gradients<M: Module>(
    module: &M,
    places: &[(usize, crate::entity::ValueId)],
    results: Vec<HandleKind<Flex>>,
) -> Result<GradientsParams> {
    struct Filler {
        slots: Vec<Option<FlexTensor>>,
        next: usize,
        grads: GradientsParams,
    }
    impl ModuleVisitor for Filler {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(t) = self.slots.get_mut(self.next).and_then(Option::take) {
                self.grads.register::<D>(param.id, Tensor::from_primitive::<Flex>(t));
            }
            self.next += 1;
        }
        fn visit_int<const D: usize>(&mut self, _param: &Param<Tensor<D, Int>>) {
            self.next += 1;
        }
        fn visit_bool<const D: usize>(&mut self, _param: &Param<Tensor<D, Bool>>) {
            self.next += 1;
        }
    }
    let mut filler = Filler { slots: by_place(places, results)?, next: 0, grads: GradientsParams::new() };
    module.visit(&mut filler);
    Ok(filler.grads)
}

/// Write new running statistics into the module. Clones of a module share them, so writing
/// through a clone is what Burn's own update does.
pub(super) fn write_buffers<M: Module>(
    module: &M,
    places: &[(usize, crate::entity::ValueId)],
    results: Vec<HandleKind<Flex>>,
) -> Result<()> {
    struct Writer {
        slots: Vec<Option<FlexTensor>>,
        next: usize,
    }
    impl ModuleMapper for Writer {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let slot = self.slots.get_mut(self.next).and_then(Option::take);
            self.next += 1;
            match slot {
                None => param,
                Some(t) => param.map(|old| {
                    let new = Tensor::from_primitive::<Flex>(t);
                    if old.is_autodiff() { Tensor::from_inner(new) } else { new }
                }),
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
    if !places.is_empty() {
        let mut writer = Writer { slots: by_place(places, results)?, next: 0 };
        let _ = module.clone().map(&mut writer);
    }
    Ok(())
}

/// Float results at the indices of the module tensors they belong to.
fn by_place(
    places: &[(usize, crate::entity::ValueId)],
    results: Vec<HandleKind<Flex>>,
) -> Result<Vec<Option<FlexTensor>>> {
    let mut slots = vec![None; places.iter().map(|p| p.0 + 1).max().unwrap_or(0)];
    for (&(index, _), result) in places.iter().zip(results) {
        match result {
            HandleKind::Float(t) => slots[index] = Some(t),
            _ => return Err(internal("a gradient or running statistic is not a float tensor")),
        }
    }
    Ok(slots)
}
