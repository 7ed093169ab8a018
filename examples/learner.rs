//! Trains an MLP-Mixer under a byte budget with burn-train's `Learner` and its training loop.
//!
//! ```text
//! cargo run --release --features train --example learner
//! ```
//!
//! Burn's traits cannot be implemented for `Rematerialize` from outside of both crates, so a module
//! of one's own holds it. Its training step is the planned one; everything else (optimizer,
//! metrics, validation) is burn-train's as it is.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::data::dataloader::DataLoaderBuilder;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::InMemDataset;
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::AdamWConfig;
use burn::optim::lr_scheduler::constant::ConstantLr;
use burn::tensor::{Device, Int, Tensor};
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::{ClassificationOutput, InferenceStep, Learner, SupervisedTraining, TrainOutput, TrainStep};
use plimsoll::zoo::Configured as _;
use plimsoll::zoo::mixer::{Mixer, MixerConfig};
use plimsoll::{Budget, Bytes, Rematerialize, Settings, alloc, zoo};

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

/// The most bytes any training step took.
static PEAK: AtomicU64 = AtomicU64::new(0);

type Batch = (Tensor<4>, Tensor<1, Int>);

/// What burn-train trains: the wrapped model.
#[derive(Module, Debug)]
struct Classifier {
    mixer: Rematerialize<Mixer>,
}

/// Loss and scores of a batch.
fn loss_and_scores(mixer: &Mixer, (images, classes): Batch) -> (Tensor<1>, Tensor<2>) {
    let scores = mixer.forward(images);
    let loss = CrossEntropyLossConfig::new().init(&scores.device()).forward(scores.clone(), classes);
    (loss, scores)
}

impl TrainStep for Classifier {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, (images, classes): Batch) -> TrainOutput<ClassificationOutput> {
        let trained = self.mixer.step((images, classes.clone()), loss_and_scores);
        // The trait leaves no way to return an error.
        let trained = trained.unwrap_or_else(|error| panic!("training step: {error}"));
        PEAK.fetch_max(trained.report.measured_peak.map_or(0, Bytes::get), Ordering::Relaxed);
        let item = ClassificationOutput::new(trained.loss, trained.output, classes);
        TrainOutput { grads: trained.grads, item }
    }
}

impl InferenceStep for Classifier {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, (images, classes): Batch) -> ClassificationOutput {
        let (loss, scores) = loss_and_scores(&self.mixer, (images, classes.clone()));
        ClassificationOutput::new(loss, scores, classes)
    }
}

/// Makes the batch that a seed stands for.
struct Synthetic(MixerConfig);

impl Batcher<u64, Batch> for Synthetic {
    fn batch(&self, seeds: Vec<u64>, device: &Device) -> Batch {
        self.0.data(seeds[0], device)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::flex().autodiff();
    let config = MixerConfig::from_settings(&zoo::Settings::new().set("batch", 32).set("width", 64))?;
    let loader = |seeds: std::ops::Range<u64>| {
        let seeds = InMemDataset::new(seeds.collect());
        DataLoaderBuilder::new(Synthetic(config.clone())).batch_size(1).build(seeds)
    };

    let settings = Settings::new(Budget::percent(60.0));
    let model = Classifier { mixer: Rematerialize::with_settings(config.seeded(&device, 0), settings) };
    let logs = tempfile::tempdir()?;
    let trained = SupervisedTraining::new(logs.path(), loader(0..8), loader(8..10))
        .metrics((LossMetric::new(), AccuracyMetric::new()))
        .num_epochs(2)
        .with_application_logger(None)
        .summary()
        .launch(Learner::new(model, AdamWConfig::new().init(), ConstantLr::new(1e-3)));
    if let Some(error) = trained.error {
        return Err(error.to_string().into());
    }

    let plan = trained.model.mixer.latest_plan().ok_or("no step was planned")?;
    let predicted = &plan.predicted;
    println!(
        "a step takes {} where everything kept takes {}; measured: {}; {:.1}% more time predicted",
        predicted.peak,
        predicted.baseline_peak,
        Bytes(PEAK.load(Ordering::Relaxed)),
        100.0 * predicted.overhead
    );
    Ok(())
}
