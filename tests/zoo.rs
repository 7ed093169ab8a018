//! Every model of the zoo, trained by plain Burn.

use std::collections::BTreeSet;

use burn::module::{ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams, SgdConfig};
use burn::tensor::{Device, Tensor};
use plimsoll::Error;
use plimsoll::zoo::{Settings, ZooModel, ZooVisitor, models, spec, with_model};

const SEED: u64 = 7;

fn device() -> Device {
    Device::flex().autodiff()
}

fn on_tiny<V: ZooVisitor>(name: &str, visitor: V) -> V::Output {
    let settings = Settings::tiny(name).expect("a model");
    with_model(name, &settings, &device(), SEED, visitor).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Trains on one batch, over and over, and returns the loss before each step.
struct Train {
    steps: usize,
}

impl ZooVisitor for Train {
    type Output = Vec<f32>;

    fn visit<M: ZooModel>(
        self,
        _name: &'static str,
        mut model: M,
        batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
    ) -> Vec<f32> {
        let inputs = batch(SEED, &device());
        let mut optimizer = AdamWConfig::new().init();
        (0..self.steps)
            .map(|_| {
                let loss = model.batch_loss(inputs.clone());
                let gradients = GradientsParams::from_grads(loss.backward(), &model);
                model = optimizer.step(3e-3, model.clone(), gradients);
                loss.into_scalar::<f32>()
            })
            .collect()
    }
}

#[test]
fn losses_are_finite_and_fall() {
    for spec in models() {
        let losses = on_tiny(spec.name, Train { steps: 4 });
        assert!(losses.iter().all(|loss| loss.is_finite()), "{}: {losses:?}", spec.name);
        assert!(losses[3] < losses[0], "{}: {losses:?}", spec.name);
    }
}

#[test]
fn the_same_seed_gives_the_same_losses() {
    for spec in models() {
        let bits = || on_tiny(spec.name, Train { steps: 2 }).into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(), bits(), "{}", spec.name);
    }
}

/// The loss of the batch of one seed.
struct Loss(u64);

impl ZooVisitor for Loss {
    type Output = f32;

    fn visit<M: ZooModel>(
        self,
        _name: &'static str,
        model: M,
        batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
    ) -> f32 {
        model.batch_loss(batch(self.0, &device())).into_scalar::<f32>()
    }
}

#[test]
fn another_seed_gives_other_data_and_other_parameters() {
    for spec in models() {
        let settings = Settings::tiny(spec.name).expect("a model");
        let loss = |model, data| with_model(spec.name, &settings, &device(), model, Loss(data)).expect("a model");
        assert_ne!(loss(1, 1), loss(1, 2), "{}", spec.name);
        assert_ne!(loss(1, 1), loss(2, 1), "{}", spec.name);
    }
}

/// Names of parameters: those trained, and those that have a gradient; with the gradient's squared length.
#[derive(Default)]
struct Gradients {
    path: Vec<String>,
    gradients: GradientsParams,
    trained: BTreeSet<String>,
    reached: BTreeSet<String>,
    length: f64,
}

impl ModuleVisitor for Gradients {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.join(".");
        if param.is_require_grad() {
            self.trained.insert(name.clone());
        }
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let values = gradient.into_data().convert::<f32>().try_to_vec::<f32>().expect("floats");
            let length: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
            assert!(length.is_finite(), "{name}");
            self.length += length;
            self.reached.insert(name);
        }
    }
}

struct Differentiate;

impl ZooVisitor for Differentiate {
    type Output = Gradients;

    fn visit<M: ZooModel>(
        self,
        _name: &'static str,
        model: M,
        batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
    ) -> Gradients {
        let loss = model.batch_loss(batch(SEED, &device()));
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        let mut visitor = Gradients { gradients, ..Default::default() };
        model.visit(&mut visitor);
        visitor
    }
}

#[test]
fn each_trained_parameter_that_the_loss_reaches_has_a_gradient() {
    for spec in models() {
        let Gradients { trained, reached, .. } = on_tiny(spec.name, Differentiate);
        let without: Vec<&String> = trained.difference(&reached).collect();
        match spec.name {
            "unreached" => assert!(
                without.len() == 4
                    && without.iter().all(|name| name.starts_with("unused") || name.starts_with("thrown_away")),
                "{without:?}"
            ),
            name => assert!(without.is_empty(), "{name}: {without:?}"),
        }
        assert!(reached.is_subset(&trained), "{}", spec.name);
        assert!(!reached.is_empty(), "{}", spec.name);
    }
}

#[test]
fn what_is_frozen_has_no_gradient() {
    let frozen = on_tiny("frozen", Differentiate);
    assert_eq!(Vec::from_iter(frozen.trained), ["layers.1.bias", "layers.1.weight"]);
    let lora = on_tiny("lora", Differentiate);
    assert_eq!(lora.trained.len(), 2 * 3);
    assert!(lora.trained.iter().all(|name| name.ends_with(".a") || name.ends_with(".b")), "{:?}", lora.trained);
}

/// The loss before and after a short step against the gradient, over what the gradient promises.
struct Descend;

impl ZooVisitor for Descend {
    type Output = f64;

    fn visit<M: ZooModel>(
        self,
        _name: &'static str,
        model: M,
        batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
    ) -> f64 {
        let inputs = batch(SEED, &device());
        let loss = model.batch_loss(inputs.clone());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        let mut visitor = Gradients { gradients, ..Default::default() };
        model.visit(&mut visitor);
        let before = f64::from(loss.into_scalar::<f32>());
        let promised = 0.002 * before;
        let model = SgdConfig::new().init().step(promised / visitor.length, model, visitor.gradients);
        (before - f64::from(model.batch_loss(inputs).into_scalar::<f32>())) / promised
    }
}

#[test]
fn gradients_agree_with_differences_of_the_loss() {
    for spec in models() {
        let ratio = on_tiny(spec.name, Descend);
        assert!((0.9..1.1).contains(&ratio), "{}: {ratio}", spec.name);
    }
}

#[test]
fn options_of_models_work() {
    let options = [
        ("gpt", "tied=true"),
        ("gpt", "dropout=0.1"),
        ("gpt", "bf16=true"),
        ("gpt", "f16=true"),
        ("vit", "dropout=0.1"),
        ("seq2seq", "dropout=0.1"),
        ("dropout", "dropout=0.5"),
        ("unet", "interpolate=true"),
        ("lstm", "layers=2"),
        ("fno", "modes=17"),
    ];
    for (name, option) in options {
        let settings = Settings::tiny(name).and_then(|tiny| tiny.with([option])).expect("settings");
        let losses = with_model(name, &settings, &device(), SEED, Train { steps: 2 });
        assert!(losses.is_ok_and(|losses| losses.iter().all(|loss| loss.is_finite())), "{name} {option}");
    }
}

/// That a model can be made of the settings; it is not run.
struct Make;

impl ZooVisitor for Make {
    type Output = ();

    fn visit<M: ZooModel>(
        self,
        _name: &'static str,
        _model: M,
        _batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
    ) {
    }
}

#[track_caller]
fn refused(name: &str, pair: &str, setting: &str, why: &str) {
    let made = Settings::new().with([pair]).and_then(|settings| with_model(name, &settings, &device(), 0, Make));
    match made {
        Err(Error::InvalidSetting { name, why: reason }) => {
            assert_eq!(name, setting, "{pair}: {reason}");
            assert!(reason.contains(why), "{pair}: {reason}");
        }
        other => panic!("{name} {pair}: {other:?}"),
    }
}

#[test]
fn wrong_settings_are_refused() {
    refused("gpt", "depth=3", "depth", "gpt has no such setting; it has: batch, layers");
    refused("gpt", "layers", "layers", "name=value");
    refused("gpt", "=3", "=3", "name=value");
    refused("gpt", "layers=many", "layers", "`many` is not a whole number");
    refused("gpt", "layers=-1", "layers", "not a whole number");
    refused("gpt", "layers=99999999999999999999999", "layers", "not a whole number");
    refused("gpt", "layers=0", "layers", "0 is not between 1 and 1024");
    refused("gpt", "heads=3", "heads", "3 heads cannot share a width of 256");
    refused("gpt", "tied=maybe", "tied", "`maybe` is not `true` or `false`");
    refused("gpt", "dropout=1.0", "dropout", "not between");
    refused("gpt", "dropout=NaN", "dropout", "not between");
    refused("vit", "patch=5", "patch", "do not fill");
    refused("resnet", "stages=9", "stages", "cannot be halved");
    refused("unet", "depth=6", "depth", "cannot be halved");
    refused("unet", "groups=5", "groups", "share");
    refused("fno", "points=100", "points", "power of two");
    refused("fno", "modes=130", "modes", "129 frequencies");
    refused("lora", "rank=129", "rank", "exceeds");
    refused("GPT", "layers=2", "model", "no model is called `GPT`; there are: gpt, vit");
}

#[test]
fn each_setting_refuses_nonsense() {
    for spec in models() {
        for setting in spec.settings {
            refused(spec.name, &format!("{}=nonsense", setting.name), setting.name, "`nonsense` is not");
            let values = [setting.default, setting.tiny].map(|value| Settings::new().set(setting.name, value));
            assert!(!setting.about.is_empty() && values[0].iter().count() == 1, "{}", setting.name);
        }
        assert!(!spec.about.is_empty());
    }
}

#[test]
fn names_are_unique_and_found() {
    let names: BTreeSet<&str> = models().iter().map(|spec| spec.name).collect();
    assert_eq!(names.len(), models().len());
    assert!(names.iter().all(|name| spec(name).is_ok_and(|found| found.name == *name)));
    assert!(Settings::tiny("none").is_err());
}

#[test]
fn defaults_make_models() {
    for spec in models() {
        with_model(spec.name, &Settings::new(), &device(), SEED, Make).expect(spec.name);
    }
}
