//! What an experiment file declares, as a list of cells.

use std::collections::BTreeMap;
use std::path::Path;

use plimsoll::cost::Roofline;
use plimsoll::{Budget, Error, Result, solver, zoo};
use serde::Deserialize;
use toml::{Spanned, Value};

use super::grid::{Case, Cell, Kind, Measure};
use crate::hash::Hash;
use crate::input;
use crate::worker::{How, Variant};

/// The file. Anything else in it is an error that says where.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    kind: Kind,
    #[serde(default)]
    about: String,
    #[serde(default)]
    models: Vec<Model>,
    #[serde(default)]
    problems: Vec<Spanned<String>>,
    #[serde(default)]
    rooflines: Vec<Spanned<String>>,
    #[serde(default = "auto")]
    solvers: Vec<Spanned<String>>,
    budgets: Vec<Spanned<String>>,
    #[serde(default = "zero")]
    seeds: Vec<u64>,
    time_limit: Option<Spanned<f64>>,
    node_limit: Option<Spanned<u64>>,
    device: Option<Spanned<String>>,
    steps: Option<Spanned<u32>>,
    warmup: Option<Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    name: Spanned<String>,
    /// A list stands for each of its values in turn.
    #[serde(default)]
    set: BTreeMap<String, Spanned<Value>>,
}

fn auto() -> Vec<Spanned<String>> {
    vec![Spanned::new(0..0, "auto".to_owned())]
}

fn zero() -> Vec<u64> {
    vec![0]
}

/// An experiment.
pub struct Experiment {
    /// What it is for, in its own words.
    pub about: String,
    /// What it does.
    pub kind: Kind,
    /// Its cells, each once.
    pub cells: Vec<Cell>,
}

/// Read a declaration and refuse what cannot be run.
pub fn load(path: &Path) -> Result<Experiment> {
    let text = input::text(path)?;
    let reader = Reader { path, text: &text };
    let declared: Declared = toml::from_str(&text).map_err(|error| {
        let at = error.span().map_or(0..0, |span| span);
        reader.fault(&at, error.message())
    })?;
    reader.experiment(declared)
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn fault(&self, at: &std::ops::Range<usize>, why: impl std::fmt::Display) -> Error {
        let before = self.text.get(..at.start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Error::Format {
            file: self.path.display().to_string(),
            expected: "plimsoll experiment",
            why: format!("line {line}: {why}"),
        }
    }

    /// `read` each entry, blaming its place for what goes wrong.
    fn each<T, U>(&self, entries: &[Spanned<T>], read: impl Fn(&T) -> Result<U>) -> Result<Vec<U>> {
        entries.iter().map(|entry| read(entry.get_ref()).map_err(|error| self.fault(&entry.span(), error))).collect()
    }

    fn experiment(&self, declared: Declared) -> Result<Experiment> {
        let kind = declared.kind;
        self.refuse_what_has_no_meaning(&declared)?;
        let solvers = self.each(&declared.solvers, |name| solver::by_name(name).map(|_| name.clone()))?;
        let budgets = self.each(&declared.budgets, |text| {
            let budget: Budget = text.parse()?;
            // As variants are written, so that `2GiB` and its bytes are one cell.
            Ok(Variant::Budget(budget, "auto".into(), How::default()).to_string())
        })?;
        let time_limit = declared.time_limit.as_ref().map_or(Ok(10.0), |limit| {
            let seconds = *limit.get_ref();
            let valid = std::time::Duration::try_from_secs_f64(seconds);
            valid.map(|_| seconds).map_err(|_| self.fault(&limit.span(), "a number of seconds is needed"))
        })?;
        let mut cells: Vec<Cell> = Vec::new();
        for case in self.cases(&declared)? {
            for solver in &solvers {
                for budget in &budgets {
                    for &seed in &declared.seeds {
                        let cell = Cell {
                            kind,
                            case: case.clone(),
                            solver: solver.clone(),
                            budget: budget.clone(),
                            seed,
                            time_limit,
                            node_limit: declared.node_limit.as_ref().map(|limit| *limit.get_ref()),
                            measure: (kind == Kind::Measure).then(|| measure(&declared)),
                        };
                        if !cells.contains(&cell) {
                            cells.push(cell);
                        }
                    }
                }
            }
        }
        match cells.is_empty() {
            true => Err(self.fault(&(0..0), "it declares no cell: give models or problems, solvers, budgets, seeds")),
            false => Ok(Experiment { about: declared.about, kind, cells }),
        }
    }

    /// Keys of the other kind.
    fn refuse_what_has_no_meaning(&self, declared: &Declared) -> Result<()> {
        self.each(declared.node_limit.as_slice(), |&steps| match steps {
            0 => Err(Error::InvalidInput { why: "a search of no step finds nothing".into() }),
            _ => Ok(()),
        })?;
        let device = declared.device.as_ref().map(Spanned::span);
        let steps = [&declared.steps, &declared.warmup].map(|key| key.as_ref().map(Spanned::span));
        let of_measure = device.into_iter().chain(steps.into_iter().flatten()).next();
        let first = |entries: &[Spanned<String>]| entries.first().map(Spanned::span);
        let of_plan = first(&declared.problems).or_else(|| first(&declared.rooflines));
        let of_plan = of_plan.or_else(|| declared.node_limit.as_ref().map(Spanned::span));
        match (declared.kind, of_measure, of_plan) {
            (Kind::Plan, Some(at), _) => {
                Err(self.fault(&at, "device, steps and warmup are of kind \"measure\": nothing runs when planning"))
            }
            (Kind::Measure, _, Some(at)) => Err(self.fault(
                &at,
                "problems, rooflines and node_limit are of kind \"plan\": what is measured are models on a device",
            )),
            _ => {
                self.each(declared.steps.as_slice(), |&steps| match steps {
                    0 => Err(Error::InvalidInput { why: "at least one step has to be measured".into() }),
                    _ => Ok(()),
                })?;
                self.each(declared.device.as_slice(), |name| zoo::device(name))?;
                Ok(())
            }
        }
    }

    fn cases(&self, declared: &Declared) -> Result<Vec<Case>> {
        let rooflines = self.each(&declared.rooflines, |text| {
            text.parse::<Roofline>()?;
            Ok(Some(text.clone()))
        })?;
        let rooflines = if rooflines.is_empty() { vec![None] } else { rooflines };
        let mut cases = Vec::new();
        for model in &declared.models {
            let name = model.name.get_ref();
            zoo::spec(name).map_err(|error| self.fault(&model.name.span(), error))?;
            for settings in self.combinations(model)? {
                let valid = zoo::Settings::new().with(&settings).and_then(|given| zoo::check(name, &given));
                valid.map_err(|error| self.fault(&model.name.span(), error))?;
                for roofline in &rooflines {
                    let (name, settings, roofline) = (name.clone(), settings.clone(), roofline.clone());
                    cases.push(Case::Model { name, settings, roofline });
                }
            }
        }
        let problems = self.each(&declared.problems, |file| {
            let path = beside(self.path, file);
            Ok(Case::Problem { file: file.clone(), content: Hash::of(&input::bytes(&path)?).to_string() })
        })?;
        cases.extend(problems);
        Ok(cases)
    }

    /// The settings of a model, with each value of those that are given as lists.
    fn combinations(&self, model: &Model) -> Result<Vec<Vec<String>>> {
        let mut all = vec![Vec::new()];
        for (name, value) in &model.set {
            let values = match value.get_ref() {
                Value::Array(values) => values.as_slice(),
                one => std::slice::from_ref(one),
            };
            let written = values.iter().map(|value| match value {
                Value::String(text) => Ok(text.clone()),
                Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => Ok(value.to_string()),
                _ => {
                    Err(self.fault(&value_span(model, name), format!("{name}: a setting is a number, text, or a list")))
                }
            });
            let written: Vec<String> = written.collect::<Result<_>>()?;
            let with = |so_far: &Vec<String>| -> Vec<Vec<String>> {
                written.iter().map(|v| so_far.iter().cloned().chain([format!("{name}={v}")]).collect()).collect()
            };
            all = all.iter().flat_map(with).collect();
        }
        Ok(all)
    }
}

fn value_span(model: &Model, name: &str) -> std::ops::Range<usize> {
    model.set.get(name).map_or(0..0, Spanned::span)
}

fn measure(declared: &Declared) -> Measure {
    let number = |key: &Option<Spanned<u32>>, default| key.as_ref().map_or(default, |n| *n.get_ref() as usize);
    Measure {
        device: declared.device.as_ref().map_or("flex", |name| name.get_ref()).to_owned(),
        steps: number(&declared.steps, 10),
        warmup: number(&declared.warmup, 3),
    }
}

/// `file` as the declaration at `path` means it.
pub fn beside(path: &Path, file: &str) -> std::path::PathBuf {
    path.parent().unwrap_or(Path::new("")).join(file)
}
