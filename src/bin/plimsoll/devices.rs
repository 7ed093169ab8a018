//! `plimsoll devices`.

use plimsoll::cost::DeviceSpec;
use serde::Serialize;

use crate::output::{self, Failure};

/// List the devices that can be planned for without having them.
#[derive(clap::Args)]
#[command(after_help = "Example: plimsoll trace gpt --device a100-40gb -o gpt.problem.json")]
pub struct Args {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    name: String,
    memory: u64,
    flops_per_s: f64,
    bytes_per_s: f64,
    link_bytes_per_s: u64,
    launch: u64,
}

/// A table of the catalog.
pub fn run(args: &Args) -> Result<(), Failure> {
    let rows: Vec<Row> = DeviceSpec::catalog()
        .into_iter()
        .map(|DeviceSpec { device, roofline }| Row {
            name: device.name,
            memory: device.memory.get(),
            flops_per_s: roofline.flops_per_s(),
            bytes_per_s: roofline.bytes_per_s(),
            link_bytes_per_s: device.d2h_bytes_per_s,
            launch: roofline.launch().get(),
        })
        .collect();
    if args.json {
        return Ok(output::print(&output::json(&serde_json::json!({ "devices": rows })))?);
    }
    let header = ["device", "memory", "f32 TFLOP/s", "memory GB/s", "link GB/s"].map(str::to_owned).to_vec();
    let giga = |x: f64| format!("{:.0}", x / 1e9);
    let line = |row: &Row| {
        let memory = format!("{} GB", giga(row.memory as f64));
        let link = if row.link_bytes_per_s > 0 { giga(row.link_bytes_per_s as f64) } else { "-".to_owned() };
        vec![row.name.clone(), memory, format!("{:.1}", row.flops_per_s / 1e12), giga(row.bytes_per_s), link]
    };
    let table: Vec<Vec<String>> = std::iter::once(header).chain(rows.iter().map(line)).collect();
    Ok(output::print(&output::table(&table, &[1, 2, 3, 4]))?)
}
