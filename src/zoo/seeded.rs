//! Initial values of a model's parameters from a seed.
//!
//! Burn draws initial values from a generator that all threads of the process share, so the same seed
//! gives other values as soon as another thread draws. Here they are computed on the host, from the seed
//! and the order of the parameters alone: the same on each machine, backend and thread.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};

use super::data::Source;

/// Gives each parameter of `model` a value that depends on `seed` only; running statistics stay as they are.
pub(super) fn seeded<M: Module>(model: M, seed: u64) -> M {
    model.map(&mut Seeded { source: Source::new(seed), path: Vec::new() })
}

struct Seeded {
    source: Source,
    /// Name and container type of the modules on the way to the parameter, which is last.
    path: Vec<(String, String)>,
}

impl Seeded {
    /// The values of a parameter: Burn's own defaults for linear and convolution weights.
    fn values(&mut self, name: &str, container: &str, dims: &[usize]) -> Vec<f32> {
        let count = dims.iter().product();
        let within = |fan_in: usize| 1.0 / (fan_in.max(1) as f32).sqrt();
        let source = &mut self.source;
        match (name, container, dims) {
            ("gamma", ..) => vec![1.0; count],
            (_, _, [_]) => vec![0.0; count],
            (_, "Struct:Embedding", [_, width]) => {
                (0..count).map(|_| source.normal(1.0 / (*width as f32).sqrt())).collect()
            }
            ("positions" | "class_token", ..) => (0..count).map(|_| source.normal(0.02)).collect(),
            (_, "Struct:ConvTranspose2d", [inputs, ..]) => {
                (0..count).map(|_| source.uniform(within(*inputs))).collect()
            }
            (_, _, [inputs, _]) => (0..count).map(|_| source.uniform(within(*inputs))).collect(),
            (_, _, dims) => {
                let fan_in = dims.iter().skip(1).product();
                (0..count).map(|_| source.uniform(within(fan_in))).collect()
            }
        }
    }
}

impl ModuleMapper for Seeded {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push((name.to_owned(), container_type.to_owned()));
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (name, container) = self.path.last().cloned().unwrap_or_default();
        if name.starts_with("running_") {
            return param;
        }
        let shape = param.lazy_shape();
        let values = self.values(&name, &container, shape.as_slice());
        let value = Tensor::from_data(TensorData::new(values, shape), &param.lazy_device());
        let id = param.id;
        param.transform_for_load(value, id)
    }
}
