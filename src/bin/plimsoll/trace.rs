//! `plimsoll trace`.

use std::fmt::Write as _;
use std::path::PathBuf;

use plimsoll::cost::Problem;
use plimsoll::{Error, Result, zoo};

use crate::output::{self, Failure};

/// Trace a training step of a model of the zoo into a problem file.
#[derive(clap::Args)]
pub struct Args {
    /// Model; `--list` names them
    #[arg(required_unless_present = "list")]
    model: Option<String>,
    /// A setting of the model, `key=value`; may be given more than once
    #[arg(long, value_name = "KEY=VALUE", allow_hyphen_values = true)]
    set: Vec<String>,
    /// Problem file to write; `-` writes standard output
    #[arg(long, short, value_name = "FILE", required_unless_present = "list")]
    out: Option<PathBuf>,
    /// List the models and their settings
    #[arg(long, conflicts_with_all = ["model", "set", "out"])]
    list: bool,
}

/// List, or trace and save.
pub fn run(args: &Args) -> Result<(), Failure> {
    let (Some(model), Some(out)) = (&args.model, &args.out) else {
        return Ok(output::print(&list())?);
    };
    let settings = args.set.iter().map(|text| setting(text)).collect::<Result<Vec<_>>>()?;
    let problem = trace_model(model, &settings)?;
    if out.as_os_str() == "-" {
        return Ok(output::print(&format!("{}\n", problem.to_json()))?);
    }
    problem.save(out)?;
    Ok(output::print(&summary(&problem, out.display()))?)
}

fn setting(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err(Error::InvalidSetting { name: format!("--set {text}"), why: "write it as key=value".into() }),
    }
}

/// Trace one training step of the zoo's model `name`.
///
/// To be connected to the tracer.
fn trace_model(name: &str, settings: &[(String, String)]) -> Result<Problem> {
    let _ = (zoo::spec(name)?, settings);
    Err(Error::Trace { why: "this build has no tracer".into(), help: "use a problem file".into() })
}

fn summary(problem: &Problem, file: impl std::fmt::Display) -> String {
    let graph = &problem.graph;
    let (_, baseline) = plimsoll::solver::baseline(problem);
    output::rows([
        ("problem", format!("{}, {} ops, {} values", problem.name, graph.ops().len(), graph.values().len())),
        ("resident", output::exact(graph.resident_bytes())),
        ("peak", output::exact(baseline.peak)),
        ("time", baseline.time.to_string()),
        ("file", file.to_string()),
    ])
}

fn list() -> String {
    let mut text = String::new();
    for model in zoo::models() {
        let _ = writeln!(text, "{}  {}", model.name, model.about);
        let settings = model.settings.iter().map(|s| (s.name, format!("{} ({})", s.about, s.default)));
        for line in output::rows(settings).lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    text
}
