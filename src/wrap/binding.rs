//! Between the caller's modules and tensors and the backend's: what goes into a step and what
//! comes out of it. Nothing here copies data.

use burn::module::{Flag, Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Bool, Device, Int, Tensor};
use burn_backend::{DType, Shape};
use burn_flex::Flex;
use burn_ir::HandleKind;

use super::engine::Engine;
use super::internal;
use crate::error::{Error, Result};
use crate::graph::trace::{TensorMapper, Tensors, quietly};
use crate::runtime::Target;

/// Which backend a module is on.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Home {
    Flex,
    #[cfg(feature = "cubecl")]
    Cube,
    #[cfg(feature = "fusion")]
    Fused,
    #[cfg(feature = "remote")]
    Remote,
}

/// Where a module lives; one that lives on no backend that steps run on is refused by the first.
///
/// `fuse`: where Burn fuses operations, so do steps.
pub(super) fn home_of<M: Module>(module: &M, fuse: bool) -> Home {
    module.devices().first().map_or(Home::Flex, |device| home_on(device, fuse))
}

/// Where the first tensor of a step's inputs is.
pub(super) fn home_of_inputs<I: Tensors>(inputs: &I, fuse: bool) -> Home {
    device_of(inputs).map_or(Home::Flex, |device| home_on(&device, fuse))
}

/// The device of the first tensor of a step's inputs.
pub(super) fn device_of<I: Tensors>(inputs: &I) -> Option<Device> {
    struct First(Option<Device>);
    impl TensorMapper for First {
        fn float<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
            self.0.get_or_insert_with(|| tensor.device());
            tensor
        }
        fn int<const D: usize>(&mut self, tensor: Tensor<D, Int>) -> Tensor<D, Int> {
            self.0.get_or_insert_with(|| tensor.device());
            tensor
        }
        fn bool<const D: usize>(&mut self, tensor: Tensor<D, Bool>) -> Tensor<D, Bool> {
            self.0.get_or_insert_with(|| tensor.device());
            tensor
        }
    }
    let mut first = First(None);
    inputs.clone().map(&mut first);
    first.0
}

fn home_on(device: &Device, fuse: bool) -> Home {
    let device = device.clone().inner();
    #[cfg(feature = "cubecl")]
    if matches!(device.as_dispatch(), burn::backend::DispatchDevice::Cube(_)) {
        #[cfg(feature = "fusion")]
        if fuse {
            return Home::Fused;
        }
        return Home::Cube;
    }
    #[cfg(feature = "remote")]
    if matches!(device.as_dispatch(), burn::backend::DispatchDevice::Remote(_)) {
        return Home::Remote;
    }
    let _ = (device, fuse);
    Home::Flex
}

/// A tensor that goes into a step.
#[derive(Clone)]
pub(super) struct Bound<B: Target> {
    pub handle: HandleKind<B>,
    pub shape: Shape,
    /// Its element type in the step.
    pub dtype: DType,
    /// Where it does not lie plainly in memory, how it does.
    pub layout: Option<String>,
}

impl<B: Target> Bound<B> {
    /// Bytes of its elements.
    pub(super) fn bytes(&self) -> usize {
        self.shape.num_elements() * self.dtype.size()
    }

    /// Tensors of several devices, in their order.
    pub(super) fn spread(handles: Vec<HandleKind<B>>) -> Result<Vec<Self>> {
        let mut groups: Vec<(B::Device, Vec<usize>)> = Vec::new();
        for (index, handle) in handles.iter().enumerate() {
            let device = B::device_of(handle);
            match groups.iter_mut().find(|group| group.0 == device) {
                Some(group) => group.1.push(index),
                None => groups.push((device, vec![index])),
            }
        }
        let mut bound: Vec<Option<Self>> = handles.iter().map(|_| None).collect();
        for (_, group) in groups {
            let all = Self::all(group.iter().map(|&index| handles[index].clone()).collect())?;
            group.into_iter().zip(all).for_each(|(index, (one, _))| bound[index] = Some(one));
        }
        Ok(bound.into_iter().flatten().collect())
    }

    /// Tensors of one device, each with how many share its buffer, where that is known.
    pub(super) fn all(handles: Vec<HandleKind<B>>) -> Result<Vec<(Self, Option<usize>)>> {
        let seen = B::look(&handles).map_err(|why| {
            let lost = handles.first().and_then(|handle| B::lost(&B::device_of(handle)));
            lost.unwrap_or_else(|| Error::InvalidSetting { name: "device".into(), why })
        })?;
        let bound = handles.into_iter().zip(seen).map(|(handle, seen)| {
            let (shape, dtype) = B::form(&handle);
            (Self { shape, dtype, layout: seen.layout, handle }, seen.holders)
        });
        Ok(bound.collect())
    }
}

/// The tensors of a module, in the order it visits them.
pub(super) struct ModuleState<B: Target> {
    /// Where it is on the device.
    pub tensors: Vec<Bound<B>>,
    /// Where it is in host memory and brought from there.
    pub on_host: Vec<Bound<Flex>>,
    device: Option<B::Device>,
    pub trainable: Vec<bool>,
    pub flags: Vec<bool>,
}

impl<B: Engine> ModuleState<B> {
    pub(super) fn of<M: Module>(module: &M) -> Result<Self> {
        struct Reader<B: Target> {
            handles: Vec<HandleKind<B>>,
            trainable: Vec<bool>,
            flags: Vec<bool>,
            error: Option<Error>,
        }
        impl<B: Target> Reader<B> {
            fn push(&mut self, bound: Result<HandleKind<B>, String>, what: &str, trainable: bool) {
                match bound {
                    Ok(bound) => {
                        self.handles.push(bound);
                        self.trainable.push(trainable);
                    }
                    Err(why) => {
                        self.error.get_or_insert(Error::InvalidSetting {
                            name: "device".into(),
                            why: format!("{what} is not a plain tensor on the module's device: {why}"),
                        });
                    }
                }
            }
        }
        impl<B: Target> ModuleVisitor for Reader<B> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let tensor = param.val();
                let trainable = tensor.is_require_grad();
                self.push(B::float_in(tensor), &format!("parameter {}", param.id), trainable);
            }
            fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
                self.push(B::int_in(param.val()), &format!("parameter {}", param.id), false);
            }
            fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
                self.push(B::bool_in(param.val()), &format!("parameter {}", param.id), false);
            }
            fn visit_flag(&mut self, flag: &Param<Flag>) {
                self.flags.push(flag.val().is_enabled());
            }
        }
        let mut reader = Reader { handles: Vec::new(), trainable: Vec::new(), flags: Vec::new(), error: None };
        module.visit(&mut reader);
        if let Some(error) = reader.error {
            return Err(error);
        }
        let tensors = B::spread(reader.handles)?;
        let device = tensors.first().map(|tensor| B::device_of(&tensor.handle));
        Ok(Self { tensors, on_host: Vec::new(), device, trainable: reader.trainable, flags: reader.flags })
    }
}

impl<B: Target> ModuleState<B> {
    /// Those of a module in host memory, for a run where its inputs are, which is `at` that device. Each has the element type there
    /// that it has in the module, but that booleans are stored as the device stores them.
    pub(super) fn brought<M: Module>(module: &M, inputs: &Inputs<B>, at: Option<Device>) -> Result<Self> {
        let ModuleState { mut tensors, trainable, flags, .. } = ModuleState::<Flex>::of(module)?;
        let device = inputs.tensors.first().map(|tensor| B::device_of(&tensor.handle));
        for (place, tensor) in tensors.iter_mut().enumerate().filter(|(_, tensor)| !tensor.dtype.is_float()) {
            let Some(at) = &at else { continue };
            let there = quietly(|| match at.supports_dtype(tensor.dtype) {
                true => Some(tensor.dtype),
                false => tensor.dtype.is_bool().then(|| at.settings().bool_dtype.into()),
            });
            let lost = || device.as_ref().and_then(B::lost);
            tensor.dtype = there.ok().flatten().ok_or_else(|| {
                lost().unwrap_or_else(|| Error::InvalidInput {
                    why: format!(
                        "the inputs are on another device than the module, whose tensor number {place} is of {:?}, which the \
                         device does not have; convert it",
                        tensor.dtype
                    ),
                })
            })?;
        }
        Ok(Self { tensors: Vec::new(), on_host: tensors, device, trainable, flags })
    }

    /// The device that steps run on.
    pub(super) fn device(&self) -> Result<B::Device> {
        self.device.clone().ok_or_else(|| internal("a module without tensors was traced"))
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

/// The tensors of a step's inputs, in order.
pub(super) struct Inputs<B: Target> {
    pub tensors: Vec<Bound<B>>,
    /// Which of them nobody holds but the step, so that it may free them.
    pub owned: Vec<bool>,
}

impl<B: Engine> Inputs<B> {
    /// Those of `inputs`, which is what the caller gave away.
    pub(super) fn of<I: Tensors>(inputs: &I) -> Result<Self> {
        struct Reader<B: Target> {
            tensors: Vec<HandleKind<B>>,
            error: Option<Error>,
        }
        impl<B: Target> Reader<B> {
            fn push(&mut self, bound: Result<HandleKind<B>, String>) {
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
        impl<B: Target> TensorMapper for Reader<B> {
            fn float<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
                if tensor.is_require_grad() {
                    self.fail(format!(
                        "input tensor {} requires a gradient, which steps do not give; `detach()` it",
                        self.tensors.len()
                    ));
                }
                self.push(B::float_in(tensor.clone()));
                tensor
            }
            fn int<const D: usize>(&mut self, tensor: Tensor<D, Int>) -> Tensor<D, Int> {
                self.push(B::int_in(tensor.clone()));
                tensor
            }
            fn bool<const D: usize>(&mut self, tensor: Tensor<D, Bool>) -> Tensor<D, Bool> {
                self.push(B::bool_in(tensor.clone()));
                tensor
            }
        }
        let mut reader = Reader { tensors: Vec::new(), error: None };
        inputs.clone().map(&mut reader);
        if let Some(error) = reader.error {
            return Err(error);
        }
        // `inputs` holds each, and so does what was just made of it.
        let bound = B::bound(reader.tensors)?.into_iter();
        let (tensors, owned) = bound.map(|(bound, holders)| (bound, holders == Some(2))).unzip();
        Ok(Self { tensors, owned })
    }
}

impl<B: Target> Inputs<B> {
    /// The same, taken for the step's own: a plan that is made beforehand is one for inputs that are
    /// given away, as training loops do.
    pub(super) fn all_owned(self) -> Self {
        Self { owned: vec![true; self.tensors.len()], ..self }
    }
}

/// Put results into the structure the closure returned them in.
pub(super) fn rebuild<B: Target, T: Tensors>(template: T, results: Vec<HandleKind<B>>) -> Result<T> {
    struct Filler<B: Target> {
        results: std::vec::IntoIter<HandleKind<B>>,
        failed: bool,
    }
    impl<B: Target> Filler<B> {
        fn fill<T>(&mut self, old: T, out: fn(HandleKind<B>) -> Option<T>) -> T {
            self.results.next().and_then(out).unwrap_or_else(|| {
                self.failed = true;
                old
            })
        }
    }
    impl<B: Target> TensorMapper for Filler<B> {
        fn float<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
            self.fill(tensor, B::float_out)
        }
        fn int<const D: usize>(&mut self, tensor: Tensor<D, Int>) -> Tensor<D, Int> {
            self.fill(tensor, B::int_out)
        }
        fn bool<const D: usize>(&mut self, tensor: Tensor<D, Bool>) -> Tensor<D, Bool> {
            self.fill(tensor, B::bool_out)
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
pub(super) fn gradients<B: Target, M: Module>(
    module: &M,
    places: &[(usize, crate::entity::ValueId)],
    results: Vec<HandleKind<B>>,
) -> Result<GradientsParams> {
    struct Filler<B: Target> {
        slots: Vec<Option<HandleKind<B>>>,
        next: usize,
        grads: GradientsParams,
    }
    impl<B: Target> ModuleVisitor for Filler<B> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(t) = self.slots.get_mut(self.next).and_then(Option::take).and_then(B::float_out) {
                self.grads.register::<D>(param.id, t);
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
pub(super) fn write_buffers<B: Target, M: Module>(
    module: &M,
    places: &[(usize, crate::entity::ValueId)],
    results: Vec<HandleKind<B>>,
) -> Result<()> {
    struct Writer<B: Target> {
        slots: Vec<Option<HandleKind<B>>>,
        next: usize,
    }
    impl<B: Target> ModuleMapper for Writer<B> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let slot: Option<Tensor<D>> = self.slots.get_mut(self.next).and_then(Option::take).and_then(B::float_out);
            self.next += 1;
            match slot {
                None => param,
                Some(new) => param.map(|old| if old.is_autodiff() { Tensor::from_inner(new) } else { new }),
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

/// The module with its tensors on the devices named, in the order of visits; where none is, they stay.
pub(super) fn place<B: Target, M: Module>(module: M, devices: Vec<Option<B::Device>>) -> Result<M> {
    struct Mover<B: Target> {
        devices: std::vec::IntoIter<Option<B::Device>>,
        error: Option<Error>,
    }
    impl<B: Target> Mover<B> {
        fn moved<T>(
            &mut self,
            handle: Result<HandleKind<B>, String>,
            out: fn(HandleKind<B>) -> Option<T>,
        ) -> Option<T> {
            let device = self.devices.next().flatten()?;
            let home = handle.as_ref().ok().map(B::device_of);
            if self.error.is_some() || home.as_ref() == Some(&device) {
                return None;
            }
            match handle.and_then(|handle| B::transfer(&handle, &device)) {
                Ok(handle) => out(handle),
                Err(why) => {
                    let lost = home.and_then(|home| B::lost(&home));
                    self.error = Some(lost.unwrap_or_else(|| B::failure(&device, "placing parameters".into(), why)));
                    None
                }
            }
        }
    }
    impl<B: Target> ModuleMapper for Mover<B> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|old| {
                let Some(new): Option<Tensor<D>> = self.moved(B::float_in(old.clone()), B::float_out) else {
                    return old;
                };
                if old.is_autodiff() { Tensor::from_inner(new).set_require_grad(old.is_require_grad()) } else { new }
            })
        }
        fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
            param.map(|old| self.moved(B::int_in(old.clone()), B::int_out).unwrap_or(old))
        }
        fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
            param.map(|old| self.moved(B::bool_in(old.clone()), B::bool_out).unwrap_or(old))
        }
    }
    let mut mover = Mover::<B> { devices: devices.into_iter(), error: None };
    let module = module.map(&mut mover);
    match mover.error {
        Some(error) => Err(error),
        None => Ok(module),
    }
}

/// Float results at the indices of the module tensors they belong to.
fn by_place<B: Target>(
    places: &[(usize, crate::entity::ValueId)],
    results: Vec<HandleKind<B>>,
) -> Result<Vec<Option<HandleKind<B>>>> {
    let mut slots: Vec<Option<HandleKind<B>>> = Vec::new();
    slots.resize_with(places.iter().map(|p| p.0 + 1).max().unwrap_or(0), || None);
    for (&(index, _), result) in places.iter().zip(results) {
        match result {
            HandleKind::Float(_) => slots[index] = Some(result),
            _ => return Err(internal("a gradient or running statistic is not a float tensor")),
        }
    }
    Ok(slots)
}
