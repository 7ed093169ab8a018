//! Trains a character-level GPT under a byte budget and, with `--compare`, beside plain Burn.
//!
//! ```text
//! cargo run --release --features cli --example train_gpt -- --budget 40% --compare
//! ```
//!
//! The text is this repository's own prose and source, or any file given with `--text`. Peaks are
//! of the whole heap from before the model is made: parameters, gradients, optimizer state, batches,
//! the plan itself, everything.

mod runs;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::Device;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use plimsoll::zoo::Configured as _;
use plimsoll::zoo::gpt::{Gpt, GptConfig};
use plimsoll::{Budget, Bytes, Rematerialize, Settings, alloc};
use text::Corpus;

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

/// Train a character-level GPT under a byte budget.
#[derive(Parser)]
struct Options {
    /// Bytes, a size (`300MiB`), `unlimited`, or a share of plain Burn's peak: the measured one
    /// with --compare, the predicted one without.
    #[arg(long, default_value = "40%")]
    budget: Budget,
    /// Training steps.
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Transformer blocks.
    #[arg(long, default_value_t = 6)]
    layers: usize,
    /// Features per token.
    #[arg(long, default_value_t = 256)]
    width: usize,
    /// Attention heads.
    #[arg(long, default_value_t = 8)]
    heads: usize,
    /// Characters in a sequence.
    #[arg(long, default_value_t = 256)]
    sequence: usize,
    /// Sequences in a batch.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Probability of dropping an activation; 0 with --compare, because the random streams of
    /// plain Burn and of a planned step differ by design.
    #[arg(long, default_value_t = 0.0)]
    dropout: f64,
    /// Use the token embedding as the output projection.
    #[arg(long)]
    tied: bool,
    /// Learning rate.
    #[arg(long, default_value_t = 3e-4)]
    lr: f64,
    /// Seed of the parameters, the batches and dropout.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Text to learn, in UTF-8.
    #[arg(long)]
    text: Option<PathBuf>,
    /// The solver that plans.
    #[arg(long, default_value = "auto")]
    solver: String,
    /// Also train with plain Burn from the same seed, and compare.
    #[arg(long)]
    compare: bool,
    /// Write the figures to a file as one JSON object.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What one way of training gave.
struct Run {
    losses: Vec<f32>,
    /// A hash of every bit of every gradient of each step.
    gradients: Vec<u64>,
    times: Vec<Duration>,
    peak: Bytes,
    planned_peak: Option<Bytes>,
    budget: Option<Bytes>,
    planning: Duration,
}

impl Run {
    fn new() -> Self {
        Self {
            losses: Vec::new(),
            gradients: Vec::new(),
            times: Vec::new(),
            peak: Bytes::ZERO,
            planned_peak: None,
            budget: None,
            planning: Duration::ZERO,
        }
    }

    /// Median step time in milliseconds.
    fn step_ms(&self) -> f64 {
        runs::median_ms(&self.times)
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    match train(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn train(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    if options.compare && options.dropout > 0.0 {
        return Err("--compare needs --dropout 0: the random streams of the two differ by design".into());
    }
    if options.steps == 0 {
        return Err("--steps must be at least 1".into());
    }
    let corpus = Corpus::open(options.text.as_deref(), options.sequence)?;
    let config = GptConfig {
        batch: options.batch,
        layers: options.layers,
        width: options.width,
        heads: options.heads,
        sequence: options.sequence,
        vocab: corpus.vocab,
        dropout: options.dropout,
        tied: options.tied,
        ..GptConfig::default()
    };
    config.validate()?;
    let plain = match options.compare {
        true => Some(train_plain(options, &config, &corpus)),
        false => None,
    };
    let budget = match (options.budget, &plain) {
        (Budget::Fraction(_), Some(plain)) => Budget::Bytes(options.budget.resolve(plain.peak)?),
        (budget, _) => budget,
    };
    let planned = train_planned(options, &config, &corpus, budget)?;
    print_table(options, plain.as_ref(), &planned);
    if let Some(path) = &options.json {
        std::fs::write(path, json(options, plain.as_ref(), &planned))
            .map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    }
    Ok(())
}

/// The loop everyone writes.
fn train_plain(options: &Options, config: &GptConfig, corpus: &Corpus) -> Run {
    let mut run = Run::new();
    let bar = progress(options, "plain Burn");
    let held = start_counting();
    let device = Device::flex().autodiff();
    let mut model = config.seeded(&device, options.seed);
    let mut optim = AdamWConfig::new().init();
    for step in 0..options.steps {
        let (tokens, targets) = corpus.batch([options.batch, options.sequence], options.seed, step, &device);
        let start = Instant::now();
        let loss = model.loss(tokens, targets);
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        let loss = loss.into_scalar::<f32>();
        run.times.push(start.elapsed());
        run.record(loss, &model, &gradients, held);
        model = optim.step(options.lr, model, gradients);
        run.show(&bar);
    }
    run.note_peak(held);
    bar.finish_and_clear();
    run
}

/// The same loop with the model wrapped.
fn train_planned(options: &Options, config: &GptConfig, corpus: &Corpus, budget: Budget) -> plimsoll::Result<Run> {
    let mut run = Run::new();
    let bar = progress(options, "planned");
    let held = start_counting();
    let device = Device::flex().autodiff();
    let settings = Settings::new(budget).solver(&options.solver).seed(options.seed);
    let mut model = Rematerialize::with_settings(config.seeded(&device, options.seed), settings);
    let mut optim = AdamWConfig::new().init();
    for step in 0..options.steps {
        let batch = corpus.batch([options.batch, options.sequence], options.seed, step, &device);
        let step = model.step(batch, |gpt: &Gpt, (tokens, targets)| gpt.loss(tokens, targets))?;
        let loss = step.loss.into_scalar::<f32>();
        run.times.push(step.report.ran);
        run.planning += step.report.planned;
        run.planned_peak = Some(step.report.planned_peak);
        run.budget = Some(step.report.budget);
        run.record(loss, model.module(), &step.grads, held);
        model = optim.step(options.lr, model, step.grads);
        run.show(&bar);
    }
    run.note_peak(held);
    bar.finish_and_clear();
    Ok(run)
}

fn start_counting() -> Bytes {
    alloc::reset_peak();
    alloc::live()
}

fn progress(options: &Options, name: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(options.steps as u64);
    if let Ok(style) = ProgressStyle::with_template("{prefix:10} {bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(name);
    bar
}

impl Run {
    /// Note a step's results. What hashing itself holds is kept out of the peak.
    fn record(&mut self, loss: f32, model: &Gpt, gradients: &GradientsParams, held: Bytes) {
        self.note_peak(held);
        self.losses.push(loss);
        self.gradients.push(runs::hash(model, gradients));
        alloc::reset_peak();
    }

    fn note_peak(&mut self, held: Bytes) {
        self.peak = self.peak.max(alloc::peak().saturating_sub(held));
    }

    fn show(&self, bar: &ProgressBar) {
        let loss = self.losses.last().copied().unwrap_or(f32::NAN);
        let planned = self.planned_peak.map_or(String::new(), |p| format!(", planned {p}"));
        let peak = self.peak;
        let time = self.times.last().map_or(0.0, Duration::as_secs_f64);
        bar.set_message(format!("loss {loss:.4}, peak {peak}{planned}, {time:.2} s a step"));
        bar.inc(1);
    }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
}

fn print_table(options: &Options, plain: Option<&Run>, planned: &Run) {
    let row = |name: &str, plain: String, planned: String| println!("{name:<18}{plain:>16}{planned:>16}");
    let of = |f: &dyn Fn(&Run) -> String| plain.map_or(String::new(), f);
    let size = |bytes: Option<Bytes>| match bytes {
        None => String::new(),
        Some(Bytes(u64::MAX)) => "unlimited".to_owned(),
        Some(bytes) => bytes.to_string(),
    };
    let last = |run: &Run| run.losses.last().map_or(String::new(), |l| format!("{l:.6}"));
    row("", of(&|_| "plain Burn".into()), "plimsoll".into());
    row("budget", String::new(), size(planned.budget));
    row("planned peak", String::new(), size(planned.planned_peak));
    row("measured peak", of(&|r| r.peak.to_string()), planned.peak.to_string());
    row("median step", of(&|r| format!("{:.1} ms", r.step_ms())), format!("{:.1} ms", planned.step_ms()));
    row("planning", String::new(), format!("{:.1} ms", planned.planning.as_secs_f64() * 1e3));
    row("final loss", of(&last), last(planned));
    if let Some(plain) = plain {
        println!(
            "\nafter {} steps: peak {:.1} %, step time {:.3} x, losses {}, gradients {}",
            options.steps,
            100.0 * planned.peak.get() as f64 / plain.peak.get() as f64,
            planned.step_ms() / plain.step_ms(),
            if same_bits(&plain.losses, &planned.losses) { "identical" } else { "DIFFERENT" },
            if plain.gradients == planned.gradients { "identical" } else { "DIFFERENT" },
        );
    }
}

fn json(options: &Options, plain: Option<&Run>, planned: &Run) -> String {
    let budget = planned.budget.filter(|b| b.get() < u64::MAX).map(Bytes::get);
    serde_json::json!({
        "budget": budget,
        "planned_peak": planned.planned_peak.map(Bytes::get),
        "measured_peak": planned.peak.get(),
        "plain_peak": plain.map(|p| p.peak.get()),
        "plain_step_ms": plain.map(Run::step_ms),
        "step_ms": planned.step_ms(),
        "losses_identical": plain.map(|p| same_bits(&p.losses, &planned.losses)),
        "grads_identical": plain.map(|p| p.gradients == planned.gradients),
        "steps": options.steps,
        "final_loss": planned.losses.last(),
    })
    .to_string()
}
