//! How long a planned step takes beside plain Burn's: `cargo bench --features cli --bench step`.
//!
//! All variants live in one process and take turns in an order drawn anew each round, so that what else the
//! machine does falls on all of them alike. Printed are medians, the median of the paired ratios with its 95 %
//! interval (`plimsoll::stats`), and how often the planned step was the faster one of its round.
//! `plimsoll compare` gives each run a process of its own.

use std::time::Instant;

use burn::optim::GradientsParams;
use burn::tensor::Device;
use clap::Parser;
use plimsoll::stats::{Draw, median, median_interval, smaller};
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
        let mut draw = Draw::new(1);
        let mut order: Vec<usize> = (0..=planned.len()).collect();
        let mut times = vec![Vec::new(); order.len()];
        // Two rounds to plan and to warm up.
        for round in 0..self.0.rounds + 2 {
            draw.shuffle(&mut order);
            for &variant in &order {
                let time = run(variant, round as u64)?;
                if round >= 2 {
                    times[variant].push(time);
                }
            }
        }
        for (budget, mine) in self.0.budgets.iter().zip(&times[1..]) {
            let ratios: Vec<f64> = mine.iter().zip(&times[0]).map(|(mine, plain)| mine / plain).collect();
            let interval = median_interval(&ratios);
            println!(
                "| {name} | {budget} | {:.1} | {:.1} | {:.3} | {} | {:.0} % |",
                median(&times[0]),
                median(mine),
                median(&ratios),
                interval.map_or("-".into(), |i| format!("{:.3} to {:.3}", i.low, i.high)),
                100.0 * smaller(mine.iter().copied().zip(times[0].iter().copied())).share,
            );
        }
        Ok(())
    }
}
