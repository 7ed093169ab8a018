//! Ways to train the same model.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll::plan::Plan;
use plimsoll::{Budget, Bytes, Error, Result, Settings};

/// How a planned step runs, beside its plan.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct How {
    /// Activations may be moved to the host's memory, as many as it has room for.
    offload: bool,
    /// Operations are not fused where Burn fuses them.
    unfused: bool,
    /// Steps that the device can record are one launch.
    one_launch: bool,
    /// The device's clock says how long operations and copies take.
    timed: bool,
}

impl How {
    /// Take one word; whether it is one.
    fn take(&mut self, word: &str) -> bool {
        match word.trim() {
            "offload" => self.offload = true,
            "unfused" => self.unfused = true,
            "one-launch" => self.one_launch = true,
            "timed" => self.timed = true,
            _ => return false,
        }
        true
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.offload { "+offload" } else { "" })?;
        f.write_str(if self.unfused { "+unfused" } else { "" })?;
        f.write_str(if self.one_launch { "+one-launch" } else { "" })?;
        f.write_str(if self.timed { "+timed" } else { "" })
    }
}

/// How a run trains.
#[derive(Clone, Debug, PartialEq)]
pub enum Variant {
    /// Plain Burn.
    Plain,
    /// Plain Burn with its own gradient checkpointing, which has one fixed rule and no budget.
    Checkpoint,
    /// Under a budget, planned by a solver.
    Budget(Budget, String, How),
    /// By a plan from a file.
    Plan(PathBuf),
}

impl Variant {
    /// Parse `plain`, `checkpoint`, `plan:FILE`, `BUDGET` or `BUDGET@SOLVER`, the last two with `+offload`, `+unfused`, `+one-launch`
    /// or `+timed` after them. What can be known to be wrong before anything runs is refused here.
    pub fn parse(text: &str) -> Result<Self> {
        match text.trim() {
            "plain" => return Ok(Self::Plain),
            "checkpoint" => return Ok(Self::Checkpoint),
            _ => {}
        }
        if let Some(file) = text.trim().strip_prefix("plan:") {
            Plan::load(file)?;
            return Ok(Self::Plan(file.into()));
        }
        let mut how = How::default();
        let mut planned = text;
        while let Some((rest, word)) = planned.rsplit_once('+')
            && how.take(word)
        {
            planned = rest;
        }
        let (budget, solver) = planned.split_once('@').unwrap_or((planned, "auto"));
        // "plian" is no budget either, but that is not how to put it.
        if !budget.trim().starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) && budget.trim() != "unlimited"
        {
            return Err(Error::InvalidSetting {
                name: format!("--variant {text}"),
                why: "write plain, checkpoint, plan:FILE, a budget (50%, 2GiB, unlimited) or BUDGET@SOLVER, with +offload, \
                      +unfused, +one-launch or +timed after it"
                    .into(),
            });
        }
        plimsoll::solver::by_name(solver)?;
        Ok(Self::Budget(budget.parse()?, solver.to_owned(), how))
    }

    /// How to wrap the model; `None` for plain Burn.
    pub fn settings(&self, time_limit: Duration) -> Result<Option<Settings>> {
        let settings = match self {
            Self::Plain | Self::Checkpoint => return Ok(None),
            Self::Budget(budget, solver, how) => {
                let host = if how.offload { Bytes(1 << 40) } else { Bytes::ZERO };
                let settings = Settings::new(*budget).solver(solver).host_memory(host);
                settings.fusion(!how.unfused).one_launch(how.one_launch).timed(how.timed)
            }
            Self::Plan(file) => Settings::new(Budget::Unlimited).plan(Plan::load(Path::new(file))?),
        };
        Ok(Some(settings.time_limit(time_limit).quiet(true)))
    }

    /// Whether Plimsoll runs the step, not plain Burn.
    pub fn is_planned(&self) -> bool {
        matches!(self, Self::Budget(..) | Self::Plan(_))
    }
}

/// As [`Variant::parse`] reads it.
impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => f.write_str("plain"),
            Self::Checkpoint => f.write_str("checkpoint"),
            Self::Budget(Budget::Bytes(bytes), solver, how) => write!(f, "{}{}{how}", bytes.get(), At(solver)),
            Self::Budget(budget, solver, how) => write!(f, "{budget}{}{how}", At(solver)),
            Self::Plan(file) => write!(f, "plan:{}", file.display()),
        }
    }
}

struct At<'a>(&'a str);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "auto" => Ok(()),
            solver => write!(f, "@{solver}"),
        }
    }
}
