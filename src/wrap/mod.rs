//! [`Rematerialize`]: a Burn module that trains under a byte budget.

mod binding;
mod engine;
mod gauge;
mod module;
mod pipeline;
mod planner;
mod recordings;
mod settings;
mod split;

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::panic::Location;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::optim::GradientsParams;
use burn_flex::Flex;
use burn_ir::HandleKind;

use crate::cost::{Device, Problem, Profile, Roofline};
use crate::error::{Error, Result};
use crate::graph::trace::{
    Forward, Place, Program, StepOutput, Tensors, model_device, panic_message, quietly, trace, trace_at,
};
use crate::plan::{Plan, Step};
use crate::runtime::{Lanes, Local, Places, Target, Watch, Windows};
use crate::units::{Budget, Bytes};
use binding::{Home, Inputs, ModuleState};
use engine::Engine;
use gauge::Gauge;
use pipeline::Pipeline;
pub use pipeline::{DeviceReport, PipelineReport, PipelineSettings, Reduction};
use planner::{Entry, Planner, Table, Untyped};
pub use recordings::OneLaunch;
use recordings::Recordings;
pub use settings::{Retrace, Settings};

/// A Burn module whose training steps run under a byte budget.
///
/// It is itself a [`Module`]: optimizers, records, `to_device` and `valid` pass through to the
/// wrapped module, to which it also dereferences. Clones share plans.
///
/// ```no_run
/// use burn::nn::{Linear, LinearConfig};
/// use burn::optim::AdamWConfig;
/// use burn::tensor::{Device, Distribution, Tensor};
/// use plimsoll::{Budget, Rematerialize};
///
/// let device = Device::flex().autodiff();
/// let mut model = Rematerialize::wrap(LinearConfig::new(64, 64).init(&device), Budget::percent(50.0));
/// let mut optim = AdamWConfig::new().init();
/// for _ in 0..10 {
///     let x = Tensor::<2>::random([32, 64], Distribution::Default, &device);
///     let step = model.step(x, |linear: &Linear, x| (linear.forward(x.clone()) - x).powi_scalar(2).mean())?;
///     model = optim.step(1e-3, model, step.grads);
///     println!("{}", step.loss.into_scalar::<f32>());
/// }
/// # Ok::<(), plimsoll::Error>(())
/// ```
#[derive(Clone)]
pub struct Rematerialize<M> {
    module: M,
    shared: Arc<Shared>,
}

/// Do something for the backend that `$home` says: `B` for its type.
macro_rules! on_backend {
    ($home:expr, $backend:ident => $what:expr) => {
        match $home {
            #[cfg(feature = "fusion")]
            binding::Home::Fused => {
                type $backend = crate::runtime::Fused;
                $what
            }
            #[cfg(feature = "cubecl")]
            binding::Home::Cube => {
                type $backend = burn_cubecl::CubeBackend;
                $what
            }
            #[cfg(feature = "remote")]
            binding::Home::Remote => {
                type $backend = crate::runtime::remote::Router;
                $what
            }
            binding::Home::Flex => {
                type $backend = burn_flex::Flex;
                $what
            }
        }
    };
}

use on_backend;

/// What clones of a wrapped module share.
struct Shared {
    settings: Settings,
    planner: Mutex<Planner>,
    latest: Mutex<Option<Arc<Entry>>>,
    steps: std::sync::atomic::AtomicU64,
    /// Several devices that share each step.
    pipeline: Option<Pipeline>,
    /// Of a module in host memory, what stays on the device that it was run on: [`Kept`] of its backend.
    kept: Mutex<Option<Box<dyn Any + Send>>>,
    /// What is recorded of steps: [`Recordings`] of the module's backend.
    recordings: Mutex<Option<Box<dyn Any + Send>>>,
    one_launch: Mutex<OneLaunch>,
    /// What the device's pools held when they last had to give back what they did not use.
    tidied: std::sync::atomic::AtomicU64,
}

/// Tensors of a module in host memory, by their number in it: as they are there, and on the device.
type Kept<B> = BTreeMap<usize, (HandleKind<Flex>, HandleKind<B>)>;

impl Shared {
    fn new(settings: Settings, pipeline: Option<Pipeline>) -> Self {
        let planner = Mutex::new(Planner::new());
        let (latest, kept, recordings) = (Mutex::new(None), Mutex::new(None), Mutex::new(None));
        let one_launch = Mutex::new(OneLaunch::Not);
        Self { settings, planner, latest, steps: 0.into(), pipeline, kept, recordings, one_launch, tidied: 0.into() }
    }
}

/// Pools that hold more than so many times what a step needs are told to give back what they do not use.
const RESERVED: u64 = 2;

/// What the executor says of a run.
struct Measured {
    peak: Option<Bytes>,
    reserved: Option<Bytes>,
    ran: Duration,
    one_launch: bool,
    lanes: Option<Lanes>,
}

impl Shared {
    /// Run a step that is ready, and watch what it takes.
    fn run<B: Target>(
        &self,
        entry: &Arc<Entry>,
        state: &ModuleState<B>,
        inputs: Inputs<B>,
        number: u64,
        observe: Option<&mut dyn FnMut(usize)>,
    ) -> Result<(Vec<HandleKind<B>>, Measured)> {
        let resident = entry.bound_bytes(&self.settings, state, &inputs);
        let device = state.device()?;
        let kept = self.keep(entry, state, &device)?;
        let start = Instant::now();
        // Whoever wants to see each step sees none where all are one.
        let mut slot = (self.settings.one_launch && observe.is_none()).then(|| lock(&self.recordings));
        let mut recordings = slot.as_mut().map(|slot| Recordings::<B>::within(slot));
        // Before anything is measured, which would see it go.
        recordings.iter_mut().for_each(|recordings| recordings.make_room(entry));
        let recorded = recordings.as_ref().map_or(Bytes::ZERO, |recordings| recordings.bytes());
        let replay = recordings.as_ref().is_some_and(|recordings| recordings.ready(entry));
        let bindings = entry.bindings(state, kept, inputs, &device, !replay);
        // Constants are counted with what is there before.
        let observed = observe.is_some();
        let gauge = Gauge::<B>::new(&device, if observed { Places::All } else { entry.crests.next() });
        let (settings, sample) = (&self.settings, || gauge.sample());
        // After a drop pools hold no more than before.
        let grows = |step: usize| !matches!(entry.plan.steps.get(step), Some(Step::Drop(_)));
        // Where operations wait in a queue to be fused none has a time of its own.
        let mut windows = (settings.timed && !B::QUEUES && !replay).then(Windows::begin);
        let results = match &mut recordings {
            None => {
                let mut observe = observe;
                let each = &mut |step| {
                    if grows(step) {
                        sample();
                    }
                    observe.as_mut().into_iter().for_each(|observe| observe(step));
                };
                let mut watch = Watch { each, windows: windows.take() };
                let results = entry.run(settings, &device, bindings, number, &mut watch);
                windows = watch.windows;
                results
            }
            Some(recordings) if replay => recordings.replay(entry, &device, &bindings.there).inspect(|_| sample()),
            Some(recordings) => recordings.run(entry, &device, bindings, &sample, &mut |bindings, each| {
                let each = &mut |step| {
                    if grows(step) {
                        each();
                    }
                };
                let mut watch = Watch { each, windows: None };
                entry.run(settings, &device, bindings, number, &mut watch)
            }),
        };
        let lanes = windows.map(Windows::lanes);
        let ran = start.elapsed();
        gauge.end();
        if results.is_ok() && !replay && !observed {
            gauge.teach(&entry.crests);
        }
        self.tidy::<B>(&device, entry.planned_peak + recorded, gauge.reserved());
        let peak = gauge.peak().map(|peak| peak + resident + recorded);
        if let Err(Error::OutOfMemory { .. }) = &results {
            recordings.iter_mut().for_each(|recordings| recordings.give_up("the device ran out of memory"));
            if self.settings.replan_on_oom {
                lock(&self.planner).lower(entry.planned_peak, peak);
            }
        }
        *lock(&self.one_launch) = recordings.map_or(OneLaunch::Not, |recordings| recordings.state(entry));
        Ok((results?, Measured { peak, reserved: gauge.reserved(), ran, one_launch: replay, lanes }))
    }

    /// Have the device's pools give back what they do not use, where they hold much more than a step needs: what measuring and
    /// other plans left there. Pages that are cut up into tensors are not all given back, so it is not tried again until the
    /// pools have grown since.
    fn tidy<B: Target>(&self, device: &B::Device, needed: Bytes, reserved: Option<Bytes>) {
        let Some(reserved) = reserved.filter(|reserved| reserved.get() / RESERVED > needed.get()) else { return };
        let tidied = self.tidied.load(std::sync::atomic::Ordering::Relaxed);
        if reserved.get() > tidied + tidied / 8 {
            self.tidied.store(reserved.get(), std::sync::atomic::Ordering::Relaxed);
            B::memory_cleanup(device);
        }
    }

    /// What a run counts on being on the device for good, of a module in host memory: brought there once, and again
    /// where the module has another tensor now. What other runs counted on is let go of first.
    fn keep<B: Target>(
        &self,
        entry: &Entry,
        state: &ModuleState<B>,
        device: &B::Device,
    ) -> Result<Vec<(usize, HandleKind<B>)>> {
        if state.on_host.is_empty() {
            return Ok(Vec::new());
        }
        let mut slot = lock(&self.kept);
        let held = slot.take().and_then(|held| held.downcast::<Kept<B>>().ok());
        let mut held = held.map_or_else(Kept::<B>::new, |held| *held);
        // The copy holds on to the tensor it is of, so that none other can be in its place.
        held.retain(|index, (of, copy)| {
            let now = state.on_host.get(*index).map(|tensor| Flex::place(&tensor.handle));
            entry.kept.contains(index) && now == Some(Flex::place(of)) && B::device_of(copy) == *device
        });
        for &index in &entry.kept {
            let tensor = state.on_host.get(index).ok_or_else(|| internal("a tensor to keep is gone"))?;
            if let std::collections::btree_map::Entry::Vacant(place) = held.entry(index) {
                let copy = quietly(|| B::load_for_good(&tensor.handle, tensor.dtype, device));
                let copy = copy.unwrap_or_else(|panic| Err(panic_message(&*panic)));
                let copy = copy.map_err(|why| B::failure(device, "bringing parameters".into(), why))?;
                place.insert((tensor.handle.clone(), copy));
            }
        }
        let kept = held.iter().map(|(&index, (_, copy))| (index, copy.clone())).collect();
        *slot = Some(Box::new(held));
        Ok(kept)
    }
}

/// What one training step gives.
#[derive(Debug)]
#[non_exhaustive]
pub struct Trained<L, A> {
    /// The loss, on the model's device without autodiff.
    pub loss: L,
    /// What else the closure returned beside the loss, without autodiff.
    pub output: A,
    /// Gradients for Burn's optimizers and accumulators.
    pub grads: GradientsParams,
    /// What the step needed; of a pipeline, what the device that needed most did.
    pub report: StepReport,
    /// What each device of a [pipeline](Rematerialize::pipeline) did.
    pub pipeline: Option<PipelineReport>,
}

/// What one run forward gives.
#[derive(Debug)]
#[non_exhaustive]
pub struct Inferred<T> {
    /// What the closure returned, on the model's device without autodiff.
    pub output: T,
    /// What the run needed.
    pub report: StepReport,
}

/// What one training step, or run forward, needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepReport {
    /// The budget in bytes; `u64::MAX` when there is none.
    pub budget: Bytes,
    /// The plan's peak, everything the step touches counted, and what live tensors cost beside
    /// their elements.
    pub planned_peak: Bytes,
    /// The peak measured while the step ran, counted the same way. On the CPU by the counting
    /// allocator, `None` where that ([`alloc::Counting`](crate::alloc::Counting)) is not installed; on CubeCL devices what
    /// the device's pools say is in use after each step of the plan, padding included; on a worker's
    /// devices by the worker's counting allocator. What other threads allocate counts too. Asking pools takes time: once two steps of a
    /// plan in a row agree, it is done after those of the plan's steps where most was in use, and after one in 128 of the others, in turns. (Where
    /// steps are [observed](Rematerialize::step_observed), after each.)
    pub measured_peak: Option<Bytes>,
    /// The most that the device's pools held while the step ran, in use or for reuse; `None` on the
    /// CPU, which has no pools. Where that is more than twice the planned peak they give back after the step what they do not use.
    pub reserved: Option<Bytes>,
    /// How long the step ran, without tracing and planning. A device that works behind the program's back may not be done
    /// by then: there it is how long it took to ask for everything.
    pub ran: Duration,
    /// How long tracing and planning took; near zero when the plan was at hand.
    pub planned: Duration,
    /// Whether it was [one launch](Settings::one_launch).
    pub one_launch: bool,
    /// How long operations and copies took, and how much of the copies' time was hidden behind operations, where the settings [ask
    /// for it](Settings::timed).
    pub lanes: Option<Lanes>,
}

impl<M: Module> Rematerialize<M> {
    /// Wrap `module` so that its training steps stay within `budget`.
    pub fn wrap(module: M, budget: Budget) -> Self {
        Self::with_settings(module, Settings::new(budget))
    }

    /// Wrap `module` with settings other than the defaults.
    pub fn with_settings(module: M, settings: Settings) -> Self {
        Self { module, shared: Arc::new(Shared::new(settings, None)) }
    }

    /// The wrapped module.
    pub fn module(&self) -> &M {
        &self.module
    }

    /// Unwrap.
    pub fn into_module(self) -> M {
        self.module
    }

    /// The settings it was wrapped with.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// The plan of the latest step, if one was planned.
    pub fn latest_plan(&self) -> Option<Plan> {
        lock(&self.shared.latest).as_ref().map(|entry| entry.plan.clone())
    }

    /// Whether steps like the latest are [one launch](Settings::one_launch), and why not.
    pub fn one_launch(&self) -> OneLaunch {
        lock(&self.shared.one_launch).clone()
    }

    /// Run one training step: forward and backward of `step` on `inputs`, under the budget.
    ///
    /// The closure computes the loss, or `(loss, other results)`, from the module and the inputs
    /// and nothing else; it is traced, not run, and its work is done as the plan says. The plan is
    /// made at the first step and again for every new signature of inputs (shapes, element types,
    /// training flags). Running statistics advance once. Random ops draw from the settings' seed
    /// and the number of the step.
    ///
    /// # Errors
    /// [`Error::Trace`] for what cannot be traced, [`Error::Infeasible`] when no plan fits the
    /// budget, [`Error::InvalidInput`] for inputs on another device, [`Error::Execution`] when an
    /// op fails, [`Error::OutOfMemory`] when that is for want of memory. The module is unharmed and
    /// usable after each of them. [`Error::Worker`] where the module was on a worker's device that
    /// is gone, and its tensors with it.
    #[track_caller]
    pub fn step<I, O, F>(&self, inputs: I, step: F) -> Result<Trained<O::Loss, O::Output>>
    where
        I: Tensors,
        O: StepOutput,
        O::Loss: Send + 'static,
        O::Output: Send + 'static,
        F: FnOnce(&M, I) -> O,
    {
        self.step_at(Location::caller(), inputs, step, None)
    }

    /// [`step`](Self::step), calling `observe` after each step of the plan with its index: for
    /// measuring what a plan does while it does it.
    ///
    /// # Errors
    /// Those of [`step`](Self::step).
    #[track_caller]
    pub fn step_observed<I, O, F>(
        &self,
        inputs: I,
        step: F,
        observe: &mut dyn FnMut(usize),
    ) -> Result<Trained<O::Loss, O::Output>>
    where
        I: Tensors,
        O: StepOutput,
        O::Loss: Send + 'static,
        O::Output: Send + 'static,
        F: FnOnce(&M, I) -> O,
    {
        self.step_at(Location::caller(), inputs, step, Some(observe))
    }

    fn step_at<I, O, F>(
        &self,
        place: &Location<'_>,
        inputs: I,
        step: F,
        observe: Option<&mut dyn FnMut(usize)>,
    ) -> Result<Trained<O::Loss, O::Output>>
    where
        I: Tensors,
        O: StepOutput,
        O::Loss: Send + 'static,
        O::Output: Send + 'static,
        F: FnOnce(&M, I) -> O,
    {
        let home = match self.brings::<I>(O::TRAINS, &inputs) {
            true => binding::home_of_inputs(&inputs, self.fuses()),
            false => self.home(),
        };
        on_backend!(home, B => match &self.shared.pipeline {
            Some(pipeline) if O::TRAINS => self.step_pipelined::<B, I, O, F>(pipeline, place, inputs, step),
            _ => self.step_on::<B, I, O, F>(place, inputs, step, observe),
        })
    }

    fn step_on<B: Engine, I, O, F>(
        &self,
        place: &Location<'_>,
        inputs: I,
        step: F,
        observe: Option<&mut dyn FnMut(usize)>,
    ) -> Result<Trained<O::Loss, O::Output>>
    where
        I: Tensors,
        O: StepOutput,
        O::Loss: Send + 'static,
        O::Output: Send + 'static,
        F: FnOnce(&M, I) -> O,
    {
        let start = Instant::now();
        let mut tensors = Inputs::<B>::of(&inputs)?;
        let state = match self.brings::<I>(O::TRAINS, &inputs) {
            true => ModuleState::brought(&self.module, &tensors, binding::device_of(&inputs))?,
            false => self.state::<B>(O::TRAINS)?,
        };
        if self.shared.settings.plan.is_some() {
            tensors = tensors.all_owned();
        }
        let entry = self.entry(place, &state, &tensors, &inputs, step)?;
        let planned = start.elapsed();
        *lock(&self.shared.latest) = Some(entry.clone());
        drop(inputs);

        // What is inferred between training steps does not change their random numbers.
        let number = self.shared.steps.fetch_add(u64::from(O::TRAINS), std::sync::atomic::Ordering::Relaxed);
        let ends = &entry.ends;
        let (results, measured) = B::run(&entry, &self.shared, &state, tensors, number, observe)?;

        let mut results = results.into_iter();
        let mut next = |n: usize| results.by_ref().take(n).collect::<Vec<_>>();
        let loss = binding::rebuild(entry.loss::<O::Loss>()?, next(ends.loss.iter().len()))?;
        let output = binding::rebuild(entry.output::<O::Output>()?, next(ends.outputs.len()))?;
        let grads = binding::gradients::<B, M>(&self.module, &ends.gradients, next(ends.gradients.len()))?;
        binding::write_buffers::<B, M>(&self.module, &ends.buffers, next(ends.buffers.len()))?;
        let report = StepReport {
            budget: entry.budget,
            planned_peak: entry.planned_peak,
            measured_peak: measured.peak,
            reserved: measured.reserved,
            ran: measured.ran,
            planned,
            one_launch: measured.one_launch,
            lanes: measured.lanes,
        };
        Ok(Trained { loss, output, grads, report, pipeline: None })
    }

    /// Run the module forward only, within the budget: the closure gets the module as
    /// [`Module::valid`] leaves it (no autodiff, no dropout, running statistics as they stand), and
    /// what it computes on the way is freed at its last use, or made again where that is not enough.
    ///
    /// A module on the CPU runs on the device that the inputs are on: as many of its parameters as the budget has room for are
    /// kept there from run to run, and the others are brought when they are needed, ahead of what reads them where there is
    /// room for that, and freed after it. So a model may be larger than its device. Booleans are stored there as the device stores
    /// them; all other elements keep their type.
    ///
    /// # Errors
    /// Those of [`step`](Self::step), but that the module need not be trainable.
    #[track_caller]
    pub fn infer<I, T, F>(&self, inputs: I, forward: F) -> Result<Inferred<T>>
    where
        I: Tensors,
        T: Tensors + Send + 'static,
        F: FnOnce(&M, I) -> T,
    {
        let forward = |module: &M, inputs: I| Forward(forward(module, inputs));
        let done = self.step_at(Location::caller(), inputs, forward, None)?;
        Ok(Inferred { output: done.output, report: done.report })
    }

    /// Plan a step without running it.
    ///
    /// # Errors
    /// Those of [`step`](Self::step), but for running.
    #[track_caller]
    pub fn plan<I, O, F>(&self, inputs: I, step: F) -> Result<Plan>
    where
        I: Tensors,
        O: StepOutput,
        O::Loss: Send + 'static,
        O::Output: Send + 'static,
        F: FnOnce(&M, I) -> O,
    {
        let place = Location::caller();
        on_backend!(self.home(), B => {
            let state = self.state::<B>(O::TRAINS)?;
            let tensors = Inputs::of(&inputs)?.all_owned();
            let entry = self.entry(place, &state, &tensors, &inputs, step)?;
            Ok(entry.plan.clone())
        })
    }

    /// The problem that a step is: its whole graph with measured costs, as the planner sees it.
    ///
    /// # Errors
    /// [`Error::Trace`], and [`Error::Execution`] when an op cannot be measured.
    #[track_caller]
    pub fn problem<I, O, F>(&self, inputs: I, step: F) -> Result<Problem>
    where
        I: Tensors,
        O: StepOutput,
        F: FnOnce(&M, I) -> O,
    {
        on_backend!(self.home(), B => {
            let (program, state, tensors) = self.program::<B, I, O, F>(&inputs, step)?;
            B::problem(&mut lock(&self.shared.planner), &self.shared.settings, &program, &state, &tensors)
        })
    }

    /// [`problem`](Self::problem), and what was measured for it: every op anew, whatever costs are kept.
    /// Neither is kept.
    ///
    /// # Errors
    /// Those of [`problem`](Self::problem).
    #[track_caller]
    pub fn problem_and_profile<I, O, F>(&self, inputs: I, step: F) -> Result<(Problem, Profile)>
    where
        I: Tensors,
        O: StepOutput,
        F: FnOnce(&M, I) -> O,
    {
        on_backend!(self.home(), B => {
            let (program, state, tensors) = self.program::<B, I, O, F>(&inputs, step)?;
            let mut profile = Profile::new(B::describe(&state.device()?));
            let settings = &self.shared.settings;
            let problem = B::problem_with(settings, &program, &state, &tensors, Table::Grows(&mut profile))?;
            Ok((problem, profile))
        })
    }

    /// [`problem`](Self::problem) with the costs of a profile, one of another machine for example. No op
    /// is run.
    ///
    /// # Errors
    /// [`Error::Trace`], and [`Error::InvalidInput`] where the profile lacks an op of the step or
    /// contradicts it.
    #[track_caller]
    pub fn problem_from<I, O, F>(&self, profile: &Profile, inputs: I, step: F) -> Result<Problem>
    where
        I: Tensors,
        O: StepOutput,
        F: FnOnce(&M, I) -> O,
    {
        on_backend!(self.home(), B => {
            let (program, state, tensors) = self.program::<B, I, O, F>(&inputs, step)?;
            B::problem_with(&self.shared.settings, &program, &state, &tensors, Table::Stays(profile))
        })
    }

    /// The problem that a step would be on a device that is not at hand: the same ops, with times
    /// from a [`Roofline`] and storages as a strided backend shares them. Nothing is run, and no
    /// workspace is known, so a plan for it says what to expect and is not one to run here.
    ///
    /// # Errors
    /// [`Error::Trace`], and [`Error::InvalidProblem`] where the device is so slow that times
    /// overflow.
    #[track_caller]
    pub fn problem_on<I, O, F>(&self, roofline: &Roofline, inputs: I, step: F) -> Result<Problem>
    where
        I: Tensors,
        O: StepOutput,
        F: FnOnce(&M, I) -> O,
    {
        let held = on_backend!(self.home(), B => {
            Inputs::<B>::of(&inputs)?;
            self.shared.settings.held_bytes(&self.state::<B>(O::TRAINS)?)
        });
        let mut program = trace::<M, I, O, F>(&self.module, &inputs, step)?.program;
        let inputs: Vec<_> = program.ends.inputs.iter().copied().flatten().collect();
        program.take_over(inputs);
        let device = Device { name: roofline.to_string(), ..Device::default() };
        program.problem("step", &program.costs_on(roofline), held, Bytes::ZERO, device)
    }

    /// Write the problem that a step is to a file, for `plimsoll plan` and other machines.
    ///
    /// # Errors
    /// Those of [`problem`](Self::problem), and [`Error::Io`].
    #[track_caller]
    pub fn export<I, O, F>(&self, path: impl AsRef<Path>, inputs: I, step: F) -> Result<()>
    where
        I: Tensors,
        O: StepOutput,
        F: FnOnce(&M, I) -> O,
    {
        self.problem(inputs, step)?.save(path)
    }

    /// A step traced, its inputs given away to it, and what it is bound to.
    fn program<B: Engine, I, O, F>(&self, inputs: &I, step: F) -> Result<(Program, ModuleState<B>, Inputs<B>)>
    where
        I: Tensors,
        O: StepOutput,
        F: FnOnce(&M, I) -> O,
    {
        let state = self.state::<B>(O::TRAINS)?;
        let tensors = Inputs::of(inputs)?.all_owned();
        let mut program = trace::<M, I, O, F>(&self.module, inputs, step)?.program;
        program.take_over(planner::owned(&program.ends, &tensors));
        Ok((program, state, tensors))
    }

    /// Whether its operations are fused, where Burn fuses them.
    fn fuses(&self) -> bool {
        let settings = &self.shared.settings;
        settings.fusion && self.shared.pipeline.is_none()
    }

    /// Where the module lives.
    fn home(&self) -> Home {
        binding::home_of(&self.module, self.fuses())
    }

    /// Whether the module's tensors are brought from host memory to where the inputs are.
    fn brings<I: Tensors>(&self, trains: bool, inputs: &I) -> bool {
        let fits = !trains && self.shared.pipeline.is_none();
        fits && self.home() == Home::Flex && binding::home_of_inputs(inputs, false) != Home::Flex
    }

    fn state<B: Engine>(&self, trains: bool) -> Result<ModuleState<B>> {
        model_device(&self.module, trains, self.shared.pipeline.is_some())?;
        ModuleState::of(&self.module)
    }

    fn entry<B: Engine, I, O, F>(
        &self,
        place: &Location<'_>,
        state: &ModuleState<B>,
        tensors: &Inputs<B>,
        inputs: &I,
        step: F,
    ) -> Result<Arc<Entry>>
    where
        I: Tensors,
        O: StepOutput,
        O::Loss: Send + 'static,
        O::Output: Send + 'static,
        F: FnOnce(&M, I) -> O,
    {
        let key = B::key(place, std::any::type_name::<F>(), state, tensors)?;
        let settings = &self.shared.settings;
        let mut planner = lock(&self.shared.planner);
        if settings.trusts::<F>()
            && let Some(entry) = planner.get(&key)
        {
            return Ok(entry);
        }
        let device = binding::device_of(inputs).filter(|_| !state.on_host.is_empty());
        let types: Vec<_> = state.on_host.iter().map(|tensor| tensor.dtype).collect();
        let at = device.as_ref().map_or(Place::Module, |device| Place::At(device, &types));
        let traced = trace_at::<M, I, O, F>(&self.module, inputs, step, at)?;
        B::entry(&mut planner, settings, key, Untyped::of(traced), state, tensors)
    }
}

impl<M> Deref for Rematerialize<M> {
    type Target = M;
    fn deref(&self) -> &M {
        &self.module
    }
}

/// A panic elsewhere does not spoil what these locks guard: every update is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn internal(why: &str) -> Error {
    Error::Execution { at: "its end".into(), why: format!("{why} (a fault in plimsoll: please report it)") }
}
