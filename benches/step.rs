//! How long a planned step takes beside plain Burn's: `cargo bench --features cli --bench step`.
//!
//! All variants live in one process and take turns in an order drawn anew each round, so that what else the
//! machine does falls on all of them alike. Printed are medians, the median of the paired ratios with its 95 %
//! bootstrap interval, and how often the planned step was the faster one of its round.

use std::time::Instant;

use burn::optim::GradientsParams;
use burn::tensor::Device;
use clap::Parser;
use plimsoll::zoo::{self, ZooModel, ZooVisitor};
use plimsoll::{Budget, Rematerialize, Settings};

#[derive(Parser)]
struct Options {
    /// Models of the zoo.
    #[arg(default_value = "gpt")]
    models: Vec<String>,
    /// Budgets; a share is of the predicted peak with everything kept.
    #[arg(long = "budget", default_values = ["unlimited", "40%"])]
    budgets: Vec<Budget>,
    /// A setting of the models, as `key=value`.
    #[arg(long = "set")]
    set: Vec<String>,
    /// The device: flex, or wgpu or cuda where the build has the feature.
    #[arg(long, default_value = "flex")]
    device: String,
    /// Rounds; each runs every variant once.
    #[arg(long, default_value_t = 30)]
    rounds: usize,
    /// What cargo passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> plimsoll::Result<()> {
    let options = Options::parse();
    println!("| model | budget | plain, median ms | planned, median ms | ratio | 95 % interval | faster |");
    println!("|---|---|---|---|---|---|---|");
    let device = zoo::device(&options.device)?.autodiff();
    for name in &options.models {
        let settings = zoo::Settings::new().with(&options.set)?;
        zoo::with_model(name, &settings, &device, 0, Turns(&options))??;
    }
    Ok(())
}

struct Turns<'a>(&'a Options);

impl ZooVisitor for Turns<'_> {
    type Output = plimsoll::Result<()>;

    fn visit<M: ZooModel>(
        self,
        name: &'static str,
        model: M,
        batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
    ) -> Self::Output {
        let device = model.devices()[0].clone();
        let planned: Vec<Rematerialize<M>> = self
            .0
            .budgets
            .iter()
            .map(|&budget| Rematerialize::with_settings(model.clone(), Settings::new(budget)))
            .collect();
        let run = |variant: usize, round: u64| -> plimsoll::Result<f64> {
            let inputs = batch(round, &device);
            let start = Instant::now();
            match variant.checked_sub(1) {
                None => {
                    let loss = model.batch_loss(inputs);
                    let gradients = GradientsParams::from_grads(loss.backward(), &model);
                    std::hint::black_box((loss.into_scalar::<f32>(), gradients));
                }
                Some(k) => {
                    let step = planned[k].step(inputs, |m: &M, inputs| m.batch_loss(inputs))?;
                    std::hint::black_box((step.loss.into_scalar::<f32>(), step.grads));
                }
            }
            Ok(start.elapsed().as_secs_f64() * 1e3)
        };
        let mut draw = Draw(1);
        let mut order: Vec<usize> = (0..=planned.len()).collect();
        let mut times = vec![Vec::new(); order.len()];
        // Two rounds to plan and to warm up.
        for round in 0..self.0.rounds + 2 {
            for i in (1..order.len()).rev() {
                order.swap(i, draw.below(i + 1));
            }
            for &variant in &order {
                let time = run(variant, round as u64)?;
                if round >= 2 {
                    times[variant].push(time);
                }
            }
        }
        for (budget, mine) in self.0.budgets.iter().zip(&times[1..]) {
            let ratios: Vec<f64> = mine.iter().zip(&times[0]).map(|(mine, plain)| mine / plain).collect();
            let mut means: Vec<f64> = (0..2000)
                .map(|_| median((0..ratios.len()).map(|_| ratios[draw.below(ratios.len())]).collect()))
                .collect();
            means.sort_by(f64::total_cmp);
            let (low, high) = (means[means.len() / 40], means[means.len() - 1 - means.len() / 40]);
            let faster = ratios.iter().filter(|&&r| r < 1.0).count() as f64 / ratios.len() as f64;
            println!(
                "| {name} | {budget} | {:.1} | {:.1} | {:.3} | {low:.3} to {high:.3} | {:.0} % |",
                median(times[0].clone()),
                median(mine.clone()),
                median(ratios),
                100.0 * faster,
            );
        }
        Ok(())
    }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    match of.len() {
        0 => f64::NAN,
        n => (of[(n - 1) / 2] + of[n / 2]) / 2.0,
    }
}

/// A small generator: the order of turns only has to be mixed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}
