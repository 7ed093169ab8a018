//! Generators of schedules, by name.
//!
//! A generator decides the order of computations on each device; [`link`] adds messages, updates and the size of the
//! queues. Formulas are in times of one chunk (`F`, `B`, `W`: forward, input gradient, weight gradient), with equal
//! chunks and messages that take no time; `p` devices, `m` microbatches, `v` chunks per device. The idle time is that of
//! a device; for the schedules with split backwards it is counted between the device's own first and last computation
//! (the papers let each device go on to the next step by itself), and the formula gives its maximum over the devices.

mod chimera;
mod link;
mod one_route;
mod v_shape;
mod zero_bubble;

use super::schedule::{Device, Schedule};
use crate::error::{Error, Result};

/// What a schedule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Devices, `p`.
    pub stages: usize,
    /// Microbatches per step, `m`.
    pub microbatches: usize,
    /// Chunks per device, `v`; none for what the schedule is usually run with.
    pub chunks: Option<usize>,
}

/// A way to write schedules.
pub trait Generator: Sync {
    /// Its name.
    fn name(&self) -> &'static str;

    /// What it is, and who published it.
    fn about(&self) -> &'static str;

    /// The schedule of a shape.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`], when it cannot take the shape.
    fn generate(&self, shape: Shape) -> Result<Schedule>;
}

/// Every generator there is.
pub fn generators() -> Vec<&'static dyn Generator> {
    vec![
        &one_route::GPipe,
        &one_route::OneForwardOneBackward,
        &one_route::Interleaved,
        &chimera::Chimera,
        &zero_bubble::H1,
        &zero_bubble::H2,
        &v_shape::MIN,
        &v_shape::HALF,
        &v_shape::ZERO_BUBBLE,
    ]
}

/// The names of [`generators`].
pub fn names() -> Vec<&'static str> {
    generators().iter().map(|generator| generator.name()).collect()
}

/// The generator called `name`.
///
/// # Errors
/// [`Error::UnknownSchedule`], listing those there are.
pub fn by_name(name: &str) -> Result<&'static dyn Generator> {
    let found = generators().into_iter().find(|generator| generator.name() == name);
    found.ok_or_else(|| Error::UnknownSchedule { name: name.to_owned(), known: names().join(", ") })
}

/// The most computations a generated schedule may have: what is larger is a slip of the pen.
const MOST: usize = 1 << 24;

impl Shape {
    /// Devices, microbatches and chunks per device, if they make sense; `usual` chunks per device if none are given.
    fn checked(self, usual: usize) -> Result<(usize, usize, usize)> {
        let (p, m, v) = (self.stages, self.microbatches, self.chunks.unwrap_or(usual));
        for (name, value) in [("stages", p), ("microbatches", m), ("chunks", v)] {
            if value == 0 {
                return Err(refused(name, "there must be at least one".into()));
            }
        }
        if p.checked_mul(m).and_then(|pm| pm.checked_mul(v)).is_none_or(|all| all > MOST) {
            let why = format!("with {p} stages and {v} chunks each that is more than {MOST} forwards");
            return Err(refused("microbatches", why));
        }
        Ok((p, m, v))
    }

    /// The same where every device must have `usual` chunks.
    fn checked_exactly(self, usual: usize, who: &str) -> Result<(usize, usize)> {
        let (p, m, v) = self.checked(usual)?;
        if v != usual {
            return Err(refused("chunks", format!("{who} has {usual} per device, not {v}")));
        }
        Ok((p, m))
    }
}

fn refused(name: &str, why: String) -> Error {
    Error::InvalidSetting { name: name.to_owned(), why }
}

/// One route on which every device has the chunks `i`, `p + i`, `2 p + i`, ...
fn round_robin(p: usize, v: usize) -> Vec<Vec<Device>> {
    vec![(0..p * v).map(|c| Device::at(c % p)).collect()]
}
