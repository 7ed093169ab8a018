//! `plimsoll trace`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use plimsoll::cost::{DeviceSpec, Problem, Profile, Roofline};
use plimsoll::zoo::{ZooModel, ZooVisitor};
use plimsoll::{Budget, Bytes, Error, Rematerialize, Result, Settings, zoo};
use serde::Serialize;

use crate::output::{self, Failure};

/// Trace a training step of a model of the zoo into a problem file.
#[derive(clap::Args)]
#[command(after_help = "Example: plimsoll trace gpt --set layers=4 -o gpt.problem.json\n\
    Costs measured on one machine, used on another:\n  \
    plimsoll trace gpt --save-profile cpu.profile.json -o gpt.problem.json\n  \
    plimsoll trace gpt --profile cpu.profile.json -o gpt.problem.json")]
pub struct Args {
    /// Model; `--list` names them
    #[arg(required_unless_present = "list")]
    model: Option<String>,
    /// A setting of the model, `key=value`; may be given more than once
    #[arg(long, value_name = "KEY=VALUE", allow_hyphen_values = true)]
    set: Vec<String>,
    /// Bytes of optimizer state per trained parameter (Adam: 8)
    #[arg(long, value_name = "BYTES", default_value_t = 8.0, allow_hyphen_values = true, value_parser = optimizer_bytes)]
    optimizer_bytes: f64,
    /// Run nothing and take times from the roofline model of another device, for example 312e12,2e12
    #[arg(long, value_name = "FLOPS,BYTES_PER_S", allow_hyphen_values = true)]
    roofline: Option<String>,
    /// The same for a device by name (`plimsoll devices` lists them) or a device file, with its memory
    /// and link
    #[arg(long, value_name = "NAME|FILE", conflicts_with = "roofline")]
    device: Option<String>,
    /// Host memory that activations may be moved to, with `--device`
    #[arg(long, value_name = "SIZE", requires = "device")]
    host_memory: Option<String>,
    /// Run nothing and take costs measured before, on this machine or another
    #[arg(long, value_name = "FILE", conflicts_with_all = ["roofline", "device", "save_profile"])]
    profile: Option<PathBuf>,
    /// Measure every op anew and write what was measured, for `--profile`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["roofline", "device"])]
    save_profile: Option<PathBuf>,
    /// Problem file to write, compressed if it ends in .zst; `-` writes standard output
    #[arg(long, short, value_name = "FILE", required_unless_present = "list")]
    out: Option<PathBuf>,
    /// List the models and their settings
    #[arg(long, conflicts_with_all = ["model", "set", "roofline", "device", "profile", "save_profile", "out"])]
    list: bool,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// What `--json` prints of a trace. Bytes, nanoseconds.
#[derive(Serialize)]
struct Traced<'a> {
    problem: &'a str,
    ops: usize,
    values: usize,
    resident: Bytes,
    peak: Bytes,
    time: u64,
    file: String,
}

/// What `--list --json` prints.
#[derive(Serialize)]
struct Models {
    models: Vec<Model>,
}

#[derive(Serialize)]
struct Model {
    name: &'static str,
    about: &'static str,
    settings: Vec<Setting>,
}

#[derive(Serialize)]
struct Setting {
    name: &'static str,
    about: &'static str,
    default: &'static str,
}

/// List, or trace and save.
pub fn run(args: &Args) -> Result<(), Failure> {
    let (Some(model), Some(out)) = (&args.model, &args.out) else {
        return Ok(output::print(&if args.json { output::json(&models()) } else { list() })?);
    };
    if args.json && out.as_os_str() == "-" {
        let why = "`--json` and the problem itself would both be written to standard output: choose one".into();
        return Err(Error::InvalidSetting { name: "--out".into(), why }.into());
    }
    let settings = args.set.iter().map(|text| setting(text)).collect::<Result<Vec<_>>>()?;
    let mut spec = args.device.as_deref().map(DeviceSpec::find).transpose()?;
    if let (Some(spec), Some(size)) = (&mut spec, &args.host_memory) {
        let Budget::Bytes(size) = size.parse()? else {
            let why = format!("write it as a size like 64GiB, not {size}");
            return Err(Error::InvalidSetting { name: "--host-memory".into(), why }.into());
        };
        spec.device.host_memory = size;
    }
    let roofline = args.roofline.as_deref().map(str::parse::<Roofline>).transpose()?;
    let profile = args.profile.as_ref().map(Profile::load).transpose()?;
    let costs = match (spec.or(roofline.map(DeviceSpec::from)), profile) {
        (Some(spec), _) => CostsFrom::Device(spec),
        (None, Some(profile)) => CostsFrom::Profile(profile),
        (None, None) if args.save_profile.is_some() => CostsFrom::MeasuredAnew,
        (None, None) => CostsFrom::Measured,
    };
    let (problem, measured) = traced(model, &settings, args.optimizer_bytes, &costs)?;
    if let (Some(file), Some(profile)) = (&args.save_profile, measured) {
        profile.save(file)?;
    }
    if out.as_os_str() == "-" {
        return Ok(output::print(&format!("{}\n", problem.to_json()))?);
    }
    problem.save(out)?;
    let told = if args.json { output::json(&traced_report(&problem, out)) } else { summary(&problem, out.display()) };
    Ok(output::print(&told)?)
}

/// A setting given as `key=value`.
pub fn setting(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err(Error::InvalidSetting { name: format!("--set {text}"), why: "write it as key=value".into() }),
    }
}

/// Bytes of optimizer state per parameter.
pub fn optimizer_bytes(text: &str) -> std::result::Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "it is not a number".to_owned())?;
    match number.is_finite() && number >= 0.0 {
        true => Ok(number),
        false => Err("it is not a number of bytes, zero or more".to_owned()),
    }
}

/// Where the costs of ops come from.
enum CostsFrom {
    /// This machine's CPU, where they are kept once measured.
    Measured,
    /// The same, measured anew and handed out.
    MeasuredAnew,
    /// A file.
    Profile(Profile),
    /// The roofline of a device, which becomes the problem's.
    Device(DeviceSpec),
}

/// Trace one training step of the zoo's model `name` and measure its ops on this machine's CPU, or
/// take their costs from the roofline of the device `on`, which becomes the problem's.
pub fn trace_model(
    name: &str,
    settings: &[(String, String)],
    optimizer_bytes: f64,
    on: Option<&DeviceSpec>,
) -> Result<Problem> {
    let costs = on.map_or(CostsFrom::Measured, |spec| CostsFrom::Device(spec.clone()));
    Ok(traced(name, settings, optimizer_bytes, &costs)?.0)
}

fn traced(
    name: &str,
    settings: &[(String, String)],
    optimizer_bytes: f64,
    costs: &CostsFrom,
) -> Result<(Problem, Option<Profile>)> {
    let device = Device::flex().autodiff();
    let settings = settings.iter().fold(zoo::Settings::new(), |all, (key, value)| all.set(key, value));
    let tracer = Tracer { device: &device, optimizer_bytes, costs };
    let (mut problem, profile) = zoo::with_model(name, &settings, &device, 0, tracer)??;
    problem.name = std::iter::once(name.to_owned())
        .chain(settings.iter().map(|(k, v)| format!("{k}={v}")))
        .collect::<Vec<_>>()
        .join(" ");
    if let CostsFrom::Device(spec) = costs {
        problem.device = spec.device.clone();
    }
    Ok((problem, profile))
}

struct Tracer<'a> {
    device: &'a Device,
    optimizer_bytes: f64,
    costs: &'a CostsFrom,
}

impl ZooVisitor for Tracer<'_> {
    type Output = Result<(Problem, Option<Profile>)>;

    fn visit<M: ZooModel>(
        self,
        _name: &'static str,
        model: M,
        batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
    ) -> Self::Output {
        let settings = Settings::new(Budget::Unlimited).optimizer_bytes_per_parameter(self.optimizer_bytes);
        let model = Rematerialize::with_settings(model, settings);
        let (inputs, step) = (batch(0, self.device), |m: &M, inputs| m.batch_loss(inputs));
        let problem = match self.costs {
            CostsFrom::Measured => model.problem(inputs, step)?,
            CostsFrom::Profile(profile) => model.problem_from(profile, inputs, step)?,
            CostsFrom::Device(spec) => model.problem_on(&spec.roofline, inputs, step)?,
            CostsFrom::MeasuredAnew => {
                let (problem, profile) = model.problem_and_profile(inputs, step)?;
                return Ok((problem, Some(profile)));
            }
        };
        Ok((problem, None))
    }
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

fn traced_report<'a>(problem: &'a Problem, file: &Path) -> Traced<'a> {
    let baseline = plimsoll::solver::baseline(problem).1;
    Traced {
        problem: &problem.name,
        ops: problem.graph.ops().len(),
        values: problem.graph.values().len(),
        resident: problem.graph.resident_bytes(),
        peak: baseline.peak,
        time: baseline.time.get(),
        file: file.display().to_string(),
    }
}

fn models() -> Models {
    let setting = |s: &zoo::Setting| Setting { name: s.name, about: s.about, default: s.default };
    let model =
        |m: &zoo::Spec| Model { name: m.name, about: m.about, settings: m.settings.iter().map(setting).collect() };
    Models { models: zoo::models().iter().map(model).collect() }
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
