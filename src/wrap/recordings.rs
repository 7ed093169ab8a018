//! Which steps are one launch: those that their device has recorded ([`Settings::one_launch`](super::Settings::one_launch)).
//!
//! A kind of step is run as usual the first time, which leaves nothing to be tried out or compiled. The second time it is run as usual
//! and recorded after it; from the third on the recording is replayed, if it gave the second's results bit for bit.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use burn_ir::HandleKind;

use super::gauge::Gauge;
use super::planner::Entry;
use crate::error::Result;
use crate::runtime::{Binding, Bindings, Inlet, Places, Recorded, Target};
use crate::units::Bytes;

/// Whether a step is [one launch](super::Settings::one_launch).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OneLaunch {
    /// It was not asked for, or not yet tried: the first step of a kind runs as usual, the second too.
    Not,
    /// It is, from the next on.
    Recorded,
    /// It cannot be; steps of this kind run as usual.
    Refused {
        /// Why.
        why: String,
    },
}

/// What is known of a kind of step.
enum State<B: Target> {
    /// It ran once.
    Ran,
    Recorded {
        recorded: Box<Recorded<B>>,
        peak: Bytes,
    },
    Refused(String),
}

/// All that is recorded for a module, by what is run.
pub(super) struct Recordings<B: Target> {
    /// By [`Name`]; entries are held, so that none other can be in their place.
    known: BTreeMap<Name, (Arc<Entry>, State<B>)>,
}

/// An entry's address.
type Name = usize;

fn name(entry: &Arc<Entry>) -> Name {
    Arc::as_ptr(entry) as Name
}

/// How a step is run as usual; the second is to be called after each step of the plan.
pub(super) type Run<'a, B> = &'a mut dyn FnMut(Bindings<B>, &dyn Fn()) -> Result<Vec<HandleKind<B>>>;

impl<B: Target> Recordings<B> {
    /// Those in a slot that all backends share: a module is on one of them.
    pub(super) fn within(slot: &mut Option<Box<dyn Any + Send>>) -> &mut Self {
        if slot.as_ref().is_none_or(|it| !it.is::<Self>()) {
            *slot = Some(Box::new(Self { known: BTreeMap::new() }));
        }
        let it = slot.as_mut().and_then(|it| it.downcast_mut::<Self>());
        it.unwrap_or_else(|| unreachable!("it was put there"))
    }

    /// How far it has come with a kind of step.
    pub(super) fn state(&self, entry: &Arc<Entry>) -> OneLaunch {
        match self.of(entry) {
            None | Some(State::Ran) => OneLaunch::Not,
            Some(State::Recorded { .. }) => OneLaunch::Recorded,
            Some(State::Refused(why)) => OneLaunch::Refused { why: why.clone() },
        }
    }

    fn of(&self, entry: &Arc<Entry>) -> Option<&State<B>> {
        self.known.get(&name(entry)).map(|(_, state)| state)
    }

    fn set(&mut self, entry: &Arc<Entry>, state: State<B>) {
        self.known.insert(name(entry), (entry.clone(), state));
    }

    /// Bytes that recordings take on the device: copies of what their steps start from, and all that is used while they run, which nobody
    /// else gets.
    pub(super) fn bytes(&self) -> Bytes {
        let each = self.known.values().map(|(_, state)| match state {
            State::Recorded { recorded, peak } => recorded.copies() + *peak,
            State::Ran | State::Refused(_) => Bytes::ZERO,
        });
        each.sum()
    }

    /// Whether a step can be replayed where this is called.
    pub(super) fn ready(&self, entry: &Arc<Entry>) -> bool {
        matches!(self.of(entry), Some(State::Recorded { recorded, .. }) if recorded.is_here())
    }

    /// Let go of what a step that is not replayed leaves no room for.
    pub(super) fn make_room(&mut self, entry: &Arc<Entry>) {
        // What nobody but this remembers cannot be asked for again.
        self.known.retain(|_, (known, _)| Arc::strong_count(known) > 1);
        if !self.ready(entry) && entry.planned_peak + self.bytes() > entry.budget {
            self.give_up("steps that are not recorded need its memory");
        }
    }

    /// Replay a step that is [ready](Self::ready); constants need not be bound.
    ///
    /// # Errors
    /// What the device says. The recording is given up then.
    pub(super) fn replay(
        &mut self,
        entry: &Arc<Entry>,
        device: &B::Device,
        bindings: &[Binding<B>],
    ) -> Result<Vec<HandleKind<B>>> {
        let replayed = match self.known.get_mut(&name(entry)) {
            Some((_, State::Recorded { recorded, .. })) => recorded.replay(bindings),
            _ => return Err(super::internal("a step that was not recorded is replayed")),
        };
        replayed.map_err(|why| {
            self.set(entry, State::Refused(format!("a replay failed: {why}")));
            B::failure(device, "the launch of a recorded step".into(), why)
        })
    }

    /// Run a step as usual, and record it where that is due and there is room.
    ///
    /// # Errors
    /// Those of `run` as usual; what goes wrong with the recording is none.
    pub(super) fn run(
        &mut self,
        entry: &Arc<Entry>,
        device: &B::Device,
        bindings: Bindings<B>,
        sample: &dyn Fn(),
        run: Run<'_, B>,
    ) -> Result<Vec<HandleKind<B>>> {
        match self.of(entry) {
            Some(State::Ran) => {}
            // Recorded means elsewhere: on another thread's stream.
            Some(State::Recorded { .. } | State::Refused(_)) => return run(bindings, sample),
            None => {
                let results = run(bindings, sample)?;
                self.set(entry, entry.changes().map_or(State::Ran, |why| State::Refused(why.into())));
                return Ok(results);
            }
        }
        let inlet = self.inlet(entry, &bindings.there);
        let results = run(bindings, sample)?;
        let mut peak = Bytes::ZERO;
        let recorded = inlet.and_then(|inlet| {
            Recorded::of(device, inlet, &results, &mut |there, recording| {
                let bindings = Bindings { there, on_host: Vec::new() };
                if recording {
                    return run(bindings, &|| ());
                }
                let gauge = Gauge::<B>::new(device, Places::All);
                let both = || {
                    gauge.sample();
                    sample();
                };
                let results = run(bindings, &both)?;
                gauge.end();
                peak = peak.max(gauge.peak().unwrap_or_default());
                Ok(results)
            })
        });
        let state = match recorded {
            Ok(recorded) => State::Recorded { recorded: Box::new(recorded), peak },
            Err(why) => State::Refused(why),
        };
        self.set(entry, state);
        Ok(results)
    }

    /// Copies of what a step starts from, if there is room to record it.
    fn inlet(&self, entry: &Entry, bindings: &[Binding<B>]) -> Result<Inlet<B>, String> {
        let bytes = |(_, handle): &Binding<B>| {
            let (shape, dtype) = B::form(handle);
            Bytes((shape.num_elements() * dtype.size()) as u64)
        };
        let copies: Bytes = bindings.iter().map(bytes).sum();
        let wanted = entry.planned_peak + copies + entry.result_bytes() + self.bytes();
        if wanted > entry.budget {
            return Err(format!(
                "with copies of what it starts from and of its results it needs {wanted}, more than the budget of {}",
                entry.budget
            ));
        }
        let renewed = entry.renewed();
        Inlet::of(bindings, |v| !renewed.contains(&v))
    }

    /// Let go of all recordings; none of them is made again.
    pub(super) fn give_up(&mut self, why: &str) {
        for (_, state) in self.known.values_mut() {
            if let State::Recorded { .. } = state {
                *state = State::Refused(why.into());
            }
        }
    }
}
