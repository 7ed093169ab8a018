//! Models to plan for and to train: in the command line, examples, tests and benches.
//!
//! Each model is a plain Burn module with a configuration, a `loss`, and synthetic `data` that
//! depend on a seed only. [`with_model`] makes a model by name and hands it to a [`ZooVisitor`], which is
//! how code that is generic over modules runs over all of them:
//!
//! ```
//! use burn::module::Module;
//! use burn::tensor::Device;
//! use plimsoll::zoo::{Settings, ZooModel, ZooVisitor, with_model};
//!
//! struct Loss<'a>(&'a Device);
//!
//! impl ZooVisitor for Loss<'_> {
//!     type Output = f32;
//!
//!     fn visit<M: ZooModel>(
//!         self,
//!         _name: &'static str,
//!         model: M,
//!         batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
//!     ) -> f32 {
//!         model.batch_loss(batch(0, self.0)).into_scalar::<f32>()
//!     }
//! }
//!
//! let device = Device::flex();
//! let settings = Settings::tiny("gpt")?.set("layers", 1);
//! assert!(with_model("gpt", &settings, &device, 0, Loss(&device))?.is_finite());
//! # Ok::<(), plimsoll::Error>(())
//! ```

pub mod fno;
pub mod gpt;
pub mod layers;
pub mod lstm;
pub mod mixer;
pub mod resnet;
pub mod seq2seq;
pub mod unet;
pub mod variants;
pub mod vit;

mod data;
mod device;
mod seeded;
mod settings;

pub use device::device;
pub use settings::{Setting, Settings, Spec};

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::error::Result;
use crate::graph::trace::Tensors;

/// What a model's loss is computed of: a tensor or a tuple of tensors.
pub trait ZooInputs: Tensors + Send + 'static {}

impl<T: Tensors + Send + 'static> ZooInputs for T {}

/// A module with a loss.
pub trait ZooModel: Module + 'static {
    /// One batch: a tensor or a tuple of tensors.
    type Inputs: ZooInputs;

    /// The loss of one batch, `[1]`.
    fn batch_loss(&self, inputs: Self::Inputs) -> Tensor<1>;
}

/// The configuration of a model of the zoo.
pub trait Configured: Clone + Send + Sync + 'static {
    /// The model it describes.
    type Model: ZooModel;

    /// The model's name and settings.
    const SPEC: Spec;

    /// The configuration that `settings` describe, which is [valid](Self::validate).
    fn from_settings(settings: &Settings) -> Result<Self>;

    /// Refuses a configuration of which no model can be made.
    fn validate(&self) -> Result<()>;

    /// A new model, with parameters from Burn's generator.
    ///
    /// # Panics
    ///
    /// Where the configuration is not [valid](Self::validate).
    fn model(&self, device: &Device) -> Self::Model;

    /// A new model whose parameters depend on `seed` only, not on the device or on what other
    /// threads do.
    ///
    /// # Panics
    ///
    /// Where the configuration is not [valid](Self::validate).
    fn seeded(&self, device: &Device, seed: u64) -> Self::Model {
        seeded::seeded(self.model(device), seed)
    }

    /// The batch that `seed` stands for.
    fn data(&self, seed: u64, device: &Device) -> <Self::Model as ZooModel>::Inputs;
}

/// Code to run over a model of the zoo.
pub trait ZooVisitor {
    /// What it returns.
    type Output;

    /// Runs over the model called `name`; `batch` makes the batch that a seed stands for.
    fn visit<M: ZooModel>(
        self,
        name: &'static str,
        model: M,
        batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
    ) -> Self::Output;
}

/// Makes the model called `name` on `device` and hands it to `visitor`.
///
/// The parameters depend on the settings and `seed` only, not on the device or on what other threads do.
pub fn with_model<V: ZooVisitor>(
    name: &str,
    settings: &Settings,
    device: &Device,
    seed: u64,
    visitor: V,
) -> Result<V::Output> {
    dispatch(name, settings, device, seed, visitor)
}

/// The model called `name`.
pub fn spec(name: &str) -> Result<&'static Spec> {
    models().iter().find(|spec| spec.name == name).ok_or_else(|| {
        let known = models().iter().map(|spec| spec.name).collect::<Vec<_>>().join(", ");
        settings::invalid("model", format!("no model is called `{name}`; there are: {known}"))
    })
}

fn run<C: Configured, V: ZooVisitor>(settings: &Settings, device: &Device, seed: u64, visitor: V) -> Result<V::Output> {
    let config = C::from_settings(settings)?;
    let model = config.seeded(device, seed);
    Ok(visitor.visit(C::SPEC.name, model, move |seed, device: &Device| config.data(seed, device)))
}

/// Lists the configurations of all models, once.
macro_rules! registry {
    ($($config:ty),+ $(,)?) => {
        /// All models, with the settings they take.
        pub fn models() -> &'static [Spec] {
            &[$(<$config as Configured>::SPEC),+]
        }

        fn dispatch<V: ZooVisitor>(
            name: &str,
            settings: &Settings,
            device: &Device,
            seed: u64,
            visitor: V,
        ) -> Result<V::Output> {
            $(if name == <$config as Configured>::SPEC.name {
                return run::<$config, V>(settings, device, seed, visitor);
            })+
            Err(spec(name).expect_err("the registry has no such model"))
        }

        /// Refuses a name and settings of which no model can be made, without making one.
        pub fn check(name: &str, settings: &Settings) -> Result<()> {
            $(if name == <$config as Configured>::SPEC.name {
                return <$config>::from_settings(settings).map(|_| ());
            })+
            spec(name).map(|_| ())
        }
    };
}

registry! {
    gpt::GptConfig,
    vit::VitConfig,
    resnet::ResNetConfig,
    unet::UnetConfig,
    mixer::MixerConfig,
    lstm::LstmConfig,
    seq2seq::Seq2SeqConfig,
    fno::FnoConfig,
    variants::FrozenConfig,
    variants::LoraConfig,
    variants::SharedConfig,
    variants::UnreachedConfig,
    variants::ConstantsConfig,
    variants::OutputsConfig,
    variants::AssignConfig,
    variants::DropoutConfig,
    variants::BuffersConfig,
}
