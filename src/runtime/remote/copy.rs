//! Copies between devices that may be in different processes, through this one.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use super::backend::Router;
use super::remote_of;
use crate::error::{Error, Result};
use crate::graph::trace::{TensorMapper, Tensors, panic_message, quietly};
use crate::runtime::target::Target;

/// Copy tensors to a device, through this process: the way between devices of different workers, which
/// cannot reach each other. What is copied is detached from any autodiff graph.
///
/// Burn's own `to_device` serves devices of one worker; between workers it has the one fetch from the other,
/// at an address that only this process knows.
///
/// # Errors
/// [`Error::Worker`] where either worker is gone, [`Error::Execution`] where the data cannot be read.
pub fn copy<T: Tensors>(tensors: T, device: &Device) -> Result<T> {
    let mut copier = Copier { device, error: None };
    let copied = tensors.map(&mut copier);
    copier.done(copied)
}

/// Copy a module to a device, through this process: to save it where a worker's end cannot reach it, and to
/// bring it to another worker. Which parameters are trained is kept where both devices are ones with autodiff.
///
/// # Errors
/// Those of [`copy`].
pub fn copy_module<M: Module>(module: &M, device: &Device) -> Result<M> {
    let mut copier = Copier { device, error: None };
    let copied = module.clone().map(&mut copier);
    copier.done(copied)
}

struct Copier<'a> {
    device: &'a Device,
    error: Option<Error>,
}

impl Copier<'_> {
    fn done<T>(self, copied: T) -> Result<T> {
        if let Some(error) = self.error {
            return Err(error);
        }
        // Sent is not yet there.
        if let Some(remote) = remote_of(self.device) {
            Router::finish(&remote).map_err(|why| failed(self.device, why))?;
        }
        Ok(copied)
    }

    /// Read and write; the first error is kept, and nothing is done after it.
    fn through<T>(
        &mut self,
        from: &Device,
        read: impl FnOnce() -> Result<TensorData, String>,
        old: T,
        write: impl FnOnce(TensorData, &Device) -> T,
    ) -> T {
        if self.error.is_some() {
            return old;
        }
        let copied = quietly(|| read().map(|data| write(data, self.device)));
        match copied.unwrap_or_else(|panic| Err(panic_message(&*panic))) {
            Ok(new) => new,
            Err(why) => {
                self.error = Some(failed(from, why));
                old
            }
        }
    }
}

fn failed(device: &Device, why: String) -> Error {
    let lost = remote_of(device).and_then(|remote| Router::lost(&remote));
    lost.unwrap_or_else(|| Error::Execution { at: "copying a tensor".into(), why })
}

macro_rules! copied {
    ($copier:expr, $tensor:expr) => {{
        let tensor = $tensor;
        let (from, plain) = (tensor.device(), tensor.clone());
        let read = move || plain.try_into_data().map_err(|e| e.to_string());
        $copier.through(&from, read, tensor, |data, device| {
            let dtype = data.dtype();
            Tensor::from_data(data, (device, dtype))
        })
    }};
}

impl TensorMapper for Copier<'_> {
    fn float<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
        copied!(self, tensor)
    }
    fn int<const D: usize>(&mut self, tensor: Tensor<D, Int>) -> Tensor<D, Int> {
        copied!(self, tensor)
    }
    fn bool<const D: usize>(&mut self, tensor: Tensor<D, Bool>) -> Tensor<D, Bool> {
        copied!(self, tensor)
    }
}

impl ModuleMapper for Copier<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| {
            let trained = tensor.is_require_grad();
            let copied = self.float(tensor);
            if copied.is_autodiff() { copied.set_require_grad(trained) } else { copied }
        })
    }
    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        param.map(|tensor| self.int(tensor))
    }
    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        param.map(|tensor| self.bool(tensor))
    }
}
