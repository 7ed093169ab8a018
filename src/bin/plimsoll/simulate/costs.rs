//! What the command line says of costs.

use plimsoll::pipeline::{ChunkCost, DeviceCost, Link, Schedule, Workload};
use plimsoll::{Budget, Bytes, Error, Nanos, Result};

/// Costs of chunks, devices and links. Lists have one entry for all, or one for each, with commas between them.
#[derive(clap::Args)]
pub struct Costs {
    /// Time of a forward, for all chunks or for each: `2ms` or `2ms,2ms,1ms,1ms`; a plain number is nanoseconds
    #[arg(long, value_name = "T", default_value = "1ms")]
    forward: String,
    /// Time of an input gradient
    #[arg(long, value_name = "T", default_value = "1ms")]
    backward: String,
    /// Time of a weight gradient; a fused backward takes this and --backward
    #[arg(long, value_name = "T", default_value = "1ms")]
    weight: String,
    /// Time of an update
    #[arg(long, value_name = "T", default_value = "0")]
    update: String,
    /// Bytes a chunk keeps of a microbatch from its forward to its input gradient, for all chunks or for each
    #[arg(long, value_name = "BYTES", default_value = "1MiB")]
    activation: String,
    /// Bytes a chunk keeps from the input gradient to the weight gradient; as many as before if not given
    #[arg(long, value_name = "BYTES")]
    kept: Option<String>,
    /// Bytes that are on each device all the time, for all devices or for each
    #[arg(long, value_name = "BYTES", default_value = "0")]
    constant: String,
    /// Memory of a device, for all devices or for each: bubbles are filled only as far as it goes
    #[arg(long, value_name = "BYTES")]
    memory: Option<String>,
    /// Speed of the devices in percent, for all or for each
    #[arg(long, value_name = "PERCENT", default_value = "100")]
    speed: String,
    /// Bytes of a message, for all chunks or for each; gradients are as large as activations
    #[arg(long, value_name = "BYTES", default_value = "0")]
    message: String,
    /// Time a message travels
    #[arg(long, value_name = "T", default_value = "0")]
    latency: String,
    /// Bytes per second of a link; if not given, sending takes no time
    #[arg(long, value_name = "BYTES")]
    bandwidth: Option<String>,
    /// Time of computing a chunk's activation again before its backward, which fills bubbles
    #[arg(long, value_name = "T", default_value = "0")]
    recompute: String,
    /// Bytes kept instead of the activation until it is computed again
    #[arg(long, value_name = "BYTES", default_value = "0")]
    checkpoint: String,
}

impl Costs {
    /// The costs of a schedule.
    pub fn workload(&self, schedule: &Schedule) -> Result<Workload> {
        let (c, d) = (schedule.chunks(), schedule.devices().len());
        let [forward, input, weight, update, recompute] = [
            ("--forward", &self.forward),
            ("--backward", &self.backward),
            ("--weight", &self.weight),
            ("--update", &self.update),
            ("--recompute", &self.recompute),
        ]
        .map(|(name, text)| list(name, text, c, "chunks", time));
        let kept = self.kept.as_ref().unwrap_or(&self.activation);
        let [activation, kept, message, checkpoint] = [
            ("--activation", &self.activation),
            ("--kept", kept),
            ("--message", &self.message),
            ("--checkpoint", &self.checkpoint),
        ]
        .map(|(name, text)| list(name, text, c, "chunks", bytes));
        let (forward, input, weight, update, recompute) = (forward?, input?, weight?, update?, recompute?);
        let (activation, kept, message, checkpoint) = (activation?, kept?, message?, checkpoint?);
        let chunk = |i: usize| ChunkCost {
            forward: forward[i],
            input_gradient: input[i],
            weight_gradient: weight[i],
            update: update[i],
            activation: activation[i],
            kept: kept[i],
            output: message[i],
            gradient: message[i],
            recompute: recompute[i],
            checkpoint: checkpoint[i],
        };
        let constant = list("--constant", &self.constant, d, "devices", bytes)?;
        let speed = list("--speed", &self.speed, d, "devices", |text| text.parse().map_err(|_| "is not a number"))?;
        let memory = self.memory.as_ref().map(|text| list("--memory", text, d, "devices", bytes)).transpose()?;
        let device = |i: usize| DeviceCost {
            speed: speed[i],
            constant: constant[i],
            memory: memory.as_ref().map(|memory| memory[i]),
        };
        let bandwidth = self.bandwidth.as_ref().map(|text| list("--bandwidth", text, 1, "links", bytes)).transpose()?;
        Ok(Workload {
            chunks: (0..c).map(chunk).collect(),
            devices: (0..d).map(device).collect(),
            link: Link {
                latency: list("--latency", &self.latency, 1, "links", time)?[0],
                bytes_per_s: bandwidth.map_or(0, |bytes| bytes[0].get()),
            },
            ..Workload::default()
        })
    }
}

/// One entry for each of `count`.
fn list<T: Copy>(
    name: &str,
    text: &str,
    count: usize,
    of: &str,
    parse: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<Vec<T>> {
    let invalid = |why: String| Error::InvalidSetting { name: name.to_owned(), why };
    let parsed = text.split(',').map(|part| {
        let part = part.trim();
        parse(part).map_err(|why| invalid(format!("`{}` {why}", part.chars().take(64).collect::<String>())))
    });
    let values: Vec<T> = parsed.collect::<Result<_>>()?;
    match values.len() {
        1 => Ok(vec![values[0]; count]),
        n if n == count => Ok(values),
        n => Err(invalid(format!("it has {n} entries; there are {count} {of}"))),
    }
}

fn bytes(text: &str) -> Result<Bytes, &'static str> {
    match text.parse::<Budget>() {
        Ok(Budget::Bytes(bytes)) => Ok(bytes),
        // A budget is never zero, a size may be.
        _ if text == "0" => Ok(Bytes::ZERO),
        _ => Err("is not a number of bytes; write 64MiB, 2GB or 4096"),
    }
}

/// `5ms`, `1.5 us`, `2s`, or nanoseconds.
fn time(text: &str) -> Result<Nanos, &'static str> {
    const WHY: &str = "is not a time; write 5ms, 1.5us, 2s or nanoseconds";
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number = number.trim().replace('_', "");
    let scale = match unit {
        "" | "ns" => 1.0,
        "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        _ => return Err(WHY),
    };
    // Whole nanoseconds stay exact.
    if scale == 1.0
        && let Ok(nanos) = number.parse()
    {
        return Ok(Nanos(nanos));
    }
    let nanos = number.parse::<f64>().map_err(|_| WHY)? * scale;
    if !(0.0..u64::MAX as f64).contains(&nanos) {
        return Err(WHY);
    }
    Ok(Nanos(nanos.round() as u64))
}
