//! Trains a character-level GPT in stages over several devices and, with `--compare`, beside one device that takes one
//! microbatch after the other.
//!
//! ```text
//! cargo run --release --features cli --example pipeline_gpt -- --devices 2 --compare
//! ```
//!
//! Over several machines (feature `remote`): `plimsoll worker --listen 0.0.0.0:4000 --token-file token` on each, and on one
//!
//! ```text
//! cargo run --release --features cli,remote --example pipeline_gpt -- --worker a:4000 --worker b:4000 --token-file token
//! ```

mod runs;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor};
use clap::Parser;
use plimsoll::zoo::Configured as _;
use plimsoll::zoo::gpt::{Gpt, GptConfig};
use plimsoll::{Budget, Bytes, PipelineReport, PipelineSettings, Rematerialize, alloc};
use text::Corpus;

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

/// Train a character-level GPT in stages.
#[derive(Parser)]
struct Options {
    /// Stages in this process, each on its share of the cores.
    #[arg(long, default_value_t = 2)]
    devices: usize,
    /// Workers to use instead, host:port; give it for each. All their devices are stages, in this order.
    #[arg(long, value_name = "ADDRESS")]
    worker: Vec<String>,
    /// A file with the workers' token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// What each device may take: bytes, a size (`300MiB`), `unlimited`, or a share of what one device needs for a
    /// microbatch.
    #[arg(long, default_value = "unlimited")]
    budget: Budget,
    /// Microbatches in a batch.
    #[arg(long, default_value_t = 4)]
    microbatches: usize,
    /// The schedule (`plimsoll simulate --list`), or `best` for the best of several; those with replicas add up two
    /// sums, so that gradients may differ from one device's in the last bit.
    #[arg(long, default_value = "1f1b")]
    schedule: String,
    /// Training steps.
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// Transformer blocks.
    #[arg(long, default_value_t = 6)]
    layers: usize,
    /// Features per token.
    #[arg(long, default_value_t = 128)]
    width: usize,
    /// Attention heads.
    #[arg(long, default_value_t = 4)]
    heads: usize,
    /// Characters in a sequence.
    #[arg(long, default_value_t = 128)]
    sequence: usize,
    /// Sequences in a batch.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Learning rate.
    #[arg(long, default_value_t = 3e-4)]
    lr: f64,
    /// Seed of the parameters and the batches.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Text to learn, in UTF-8.
    #[arg(long)]
    text: Option<PathBuf>,
    /// Also train on one device, which adds up the gradients of the same microbatches, and compare.
    #[arg(long)]
    compare: bool,
}

/// Losses, a hash of every bit of every gradient, and times of the steps.
#[derive(Default)]
struct Run {
    losses: Vec<f32>,
    gradients: Vec<u64>,
    times: Vec<Duration>,
}

impl Run {
    fn record(&mut self, loss: f32, model: &Gpt, gradients: &GradientsParams, time: Duration) {
        self.losses.push(loss);
        self.gradients.push(runs::hash(model, gradients));
        self.times.push(time);
    }

    /// Median step time in milliseconds.
    fn step_ms(&self) -> f64 {
        runs::median_ms(&self.times)
    }
}

fn main() -> ExitCode {
    match train(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn train(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    if options.microbatches == 0 || !options.batch.is_multiple_of(options.microbatches) {
        return Err(format!("--batch {} cannot be split into {} parts", options.batch, options.microbatches).into());
    }
    let corpus = Corpus::open(options.text.as_deref(), options.sequence)?;
    let config = GptConfig {
        batch: options.batch,
        layers: options.layers,
        width: options.width,
        heads: options.heads,
        sequence: options.sequence,
        vocab: corpus.vocab,
        dropout: 0.0,
        tied: false,
        ..GptConfig::default()
    };
    config.validate()?;
    let devices = devices(options)?;
    if devices.is_empty() {
        return Err("--devices must be at least 1".into());
    }
    let staged = in_stages(options, devices, &config, &corpus)?;
    if options.compare {
        let one = on_one_device(options, &config, &corpus);
        let same = |same: bool| if same { "identical" } else { "DIFFERENT" };
        let bits = |run: &Run| run.losses.iter().map(|loss| loss.to_bits()).collect::<Vec<_>>();
        println!(
            "\nafter {} steps: {:.1} ms a step in stages, {:.1} ms on one device; losses {}, gradients {}",
            options.steps,
            staged.step_ms(),
            one.step_ms(),
            same(bits(&staged) == bits(&one)),
            same(staged.gradients == one.gradients),
        );
    }
    Ok(())
}

/// Shares of this machine's cores, or the devices of the workers.
fn devices(options: &Options) -> Result<Vec<Device>, Box<dyn std::error::Error>> {
    if options.worker.is_empty() {
        return Ok(vec![Device::flex(); options.devices]);
    }
    let path = options.token_file.as_ref().ok_or("--worker needs --token-file")?;
    let token = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    connected(&options.worker, &token)
}

#[cfg(feature = "remote")]
fn connected(workers: &[String], token: &str) -> Result<Vec<Device>, Box<dyn std::error::Error>> {
    let mut devices = Vec::new();
    for address in workers {
        let worker = plimsoll::remote::connect(address, token, Duration::from_secs(10))?;
        println!("{address}: {}", worker.description());
        devices.extend(worker.devices());
    }
    Ok(devices)
}

#[cfg(not(feature = "remote"))]
fn connected(workers: &[String], _token: &str) -> Result<Vec<Device>, Box<dyn std::error::Error>> {
    Err(format!("{} workers cannot be used: this build lacks the feature `remote`", workers.len()).into())
}

fn in_stages(options: &Options, devices: Vec<Device>, config: &GptConfig, corpus: &Corpus) -> plimsoll::Result<Run> {
    let device = devices[0].clone().autodiff();
    let mut most: Vec<Option<Bytes>> = vec![None; devices.len()];
    let mut settings = PipelineSettings::new(options.microbatches);
    if options.schedule != "best" {
        settings = settings.schedule(&options.schedule);
    }
    let model = Rematerialize::pipeline(config.seeded(&device, options.seed), devices, options.budget, settings)?;
    let loss = |gpt: &Gpt, (tokens, targets)| gpt.loss(tokens, targets);
    let batch = |number| corpus.batch([options.batch, options.sequence], options.seed, number, &device);
    let mut model = model.placed(batch(0), loss)?;
    let mut optim = AdamWConfig::new().init();
    let mut run = Run::default();
    for number in 0..options.steps {
        let step = model.step(batch(number), loss)?;
        let value = step.loss.into_scalar::<f32>();
        let slowest = step.pipeline.as_ref().map_or(0, PipelineReport::bottleneck);
        let ran = step.report.ran.as_secs_f64() * 1e3;
        println!("step {number}: loss {value:.4}, {ran:.1} ms, d{slowest} works longest");
        for (most, device) in most.iter_mut().zip(step.pipeline.iter().flat_map(|report| &report.devices)) {
            *most = (*most).max(device.measured_peak);
        }
        run.record(value, model.module(), &step.grads, step.report.ran);
        model = optim.step(options.lr, model, step.grads);
    }
    if let Some(plan) = model.latest_pipeline() {
        println!("\n{:<8}{:>8}{:>14}{:>14}{:>10}", plan.schedule.name(), "ops", "planned", "measured", "again");
        for (c, stage) in plan.stages.iter().enumerate() {
            let d = stage.devices.first().copied().unwrap_or(0);
            let whole = stage.forward_time + stage.backward_time + stage.weight_time;
            println!(
                "c{c} d{d}   {:>8}{:>14}{:>14}{:>9.1}%",
                stage.ops.len(),
                plan.run.devices[d].peak.to_string(),
                most[d].map_or_else(String::new, |peak| peak.to_string()),
                100.0 * stage.overhead.get() as f64 / whole.get().max(1) as f64,
            );
        }
    }
    Ok(run)
}

fn on_one_device(options: &Options, config: &GptConfig, corpus: &Corpus) -> Run {
    struct Mean<'a>(&'a GradientsParams, f64, GradientsParams);
    impl ModuleVisitor for Mean<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(sum) = self.0.get::<D>(param.id) {
                self.2.register::<D>(param.id, sum / self.1);
            }
        }
    }
    let device = Device::flex().autodiff();
    let mut model = config.seeded(&device, options.seed);
    let mut optim = AdamWConfig::new().init();
    let (mut run, count) = (Run::default(), options.microbatches);
    for number in 0..options.steps {
        let (tokens, targets) = corpus.batch([options.batch, options.sequence], options.seed, number, &device);
        let start = Instant::now();
        let mut sums: GradientsAccumulator<Gpt> = GradientsAccumulator::new();
        let mut losses: Option<Tensor<1>> = None;
        let size = options.batch / count;
        for k in 0..count {
            let loss = model.loss(tokens.clone().narrow(0, k * size, size), targets.clone().narrow(0, k * size, size));
            sums.accumulate(&model, GradientsParams::from_grads(loss.clone().backward(), &model));
            let loss = loss.inner();
            losses = Some(match losses {
                None => loss,
                Some(sum) => sum + loss,
            });
        }
        let sums = sums.grads();
        let mut mean = Mean(&sums, count as f64, GradientsParams::new());
        model.visit(&mut mean);
        let loss = losses.map_or(f32::NAN, |sum| (sum / count as f64).into_scalar::<f32>());
        run.record(loss, &model, &mean.2, start.elapsed());
        model = optim.step(options.lr, model, mean.2);
    }
    run
}
