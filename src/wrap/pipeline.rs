//! Training steps over several devices: a batch in microbatches, a model in stages.

use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use burn_ir::HandleKind;

use super::binding::{self, Inputs, ModuleState};
use super::engine::Engine;
use super::planner::{self, Allowance, Template, Untyped, template};
use super::settings::Settings;
use super::split::{apart, joined, microbatches};
use super::{Rematerialize, Shared, StepReport, Trained, internal, lock, on_backend};
use crate::entity::{OpId, ValueId};
use crate::error::{Error, Result};
use crate::graph::Fingerprint;
use crate::graph::trace::{Ends, Place, Program, StepOutput, Tensors, trace_at};
use crate::joint::{self, Method, PipelinePlan, StagePlan};
use crate::pipeline::{Chunk, Topology};
use crate::plan::{Marker, StageStep};
use crate::runtime::{Batch, ChunkProgram, Crests, Did, Executable, Made, Target, Workers, added, mean, seed_of};
use crate::units::{Budget, Bytes, Nanos};

/// How the loss of a batch follows from those of its microbatches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reduction {
    /// Losses are means over examples: the batch's is the mean of the microbatches', and so are gradients (the default).
    #[default]
    Mean,
    /// Losses are sums over examples.
    Sum,
}

/// How a batch is split, and how its parts are run over several devices; see each method for its default.
#[derive(Clone, Debug)]
pub struct PipelineSettings {
    microbatches: usize,
    axis: usize,
    reduction: Reduction,
    replicas: usize,
    schedule: Option<String>,
    chunks: Option<usize>,
    method: Method,
    topology: Option<Topology>,
    time_limit: Duration,
    patience: Duration,
    threads: Option<usize>,
    settings: Settings,
}

impl PipelineSettings {
    /// The defaults, with so many microbatches in a step.
    pub fn new(microbatches: usize) -> Self {
        Self {
            microbatches,
            axis: 0,
            reduction: Reduction::Mean,
            replicas: 1,
            schedule: None,
            chunks: None,
            method: Method::Joint,
            topology: None,
            time_limit: Duration::from_secs(20),
            patience: Duration::from_secs(600),
            threads: None,
            settings: Settings::new(Budget::Unlimited),
        }
    }

    /// The axis along which every input is split, and along which results beside the loss are joined. Default: 0.
    pub fn axis(mut self, axis: usize) -> Self {
        self.axis = axis;
        self
    }

    /// How the batch's loss follows from those of its microbatches. Default: their mean.
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }

    /// Replicas of the pipeline. They share devices and microbatches evenly, in order: of four devices and two replicas the
    /// first two are the stages of one and take the first half of the microbatches, the others those of the other. The sums
    /// of their gradients are added in the order of the replicas. Default: 1.
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// The schedule, by its name in [`pipeline::names`](crate::pipeline::names). Default: the best of several.
    pub fn schedule(mut self, name: impl Into<String>) -> Self {
        self.schedule = Some(name.into());
        self
    }

    /// Chunks per device, for schedules that leave it open. Default: what the schedule says.
    pub fn chunks(mut self, chunks: usize) -> Self {
        self.chunks = Some(chunks);
        self
    }

    /// How cuts and recomputation are chosen. Default: [`Method::Joint`].
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// Speeds and links of the devices, in their order; what it says of their memory does not matter. Default: equal
    /// devices between which messages take no time.
    pub fn topology(mut self, topology: Topology) -> Self {
        self.topology = Some(topology);
        self
    }

    /// What planning may take. Default: 20 seconds.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// How long a device waits for another before the step fails: longer than any stage takes for a microbatch. A device
    /// that is gone is told at once, whatever this is. Default: ten minutes.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Threads for each device that is this machine's processor. Default: its cores divided by the devices.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Optimizer state, seed, custom ops, profile directory, retracing, planning anew after a device had no memory. The budget in
    /// it does not matter, nor do
    /// solver, host memory and plans: stages are planned together.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }
}

/// What one device did in a pipelined step.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeviceReport {
    /// The peak as it was planned, everything counted.
    pub planned_peak: Bytes,
    /// The peak measured while the step ran, counted the same way; see
    /// [`StepReport::measured_peak`](super::StepReport::measured_peak).
    pub measured_peak: Option<Bytes>,
    /// What it did, in order, and when.
    pub did: Vec<Did>,
}

/// What a pipelined step needed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PipelineReport {
    /// By device.
    pub devices: Vec<DeviceReport>,
    /// How long the plan says that the step takes.
    pub planned: Nanos,
}

impl DeviceReport {
    /// Time spent computing.
    pub fn busy(&self) -> Nanos {
        self.did.iter().filter(|did| did.action.peer().is_none()).map(|did| did.end - did.start).sum()
    }
}

impl PipelineReport {
    /// The device that computed longest: the others wait for it.
    pub fn bottleneck(&self) -> usize {
        (0..self.devices.len()).max_by_key(|&d| (self.devices[d].busy(), std::cmp::Reverse(d))).unwrap_or(0)
    }
}

/// Devices, and what is planned for them.
pub(super) struct Pipeline {
    devices: Vec<Device>,
    budget: Budget,
    options: PipelineSettings,
    entries: Mutex<BTreeMap<Fingerprint, Arc<Entry>>>,
    latest: Mutex<Option<Arc<Entry>>>,
    /// What devices were found to have, where they ran out of memory: by their places.
    ceilings: Mutex<BTreeMap<usize, Bytes>>,
    workers: OnceLock<Workers>,
}

/// One kind of step, ready to run.
pub(super) struct Entry {
    ends: Ends,
    plan: PipelinePlan,
    chunks: Vec<ChunkProgram>,
    budget: Bytes,
    fingerprint: Fingerprint,
    /// Where each device's pools hold most.
    crests: Vec<Crests>,
    loss: Template,
    output: Template,
}

impl<M: Module> Rematerialize<M> {
    /// Wrap `module` so that its training steps run over several devices, each within `budget`: the batch is split
    /// into microbatches, the model into stages, and cuts, schedule and what each stage computes again are planned together
    /// (see [`joint`](crate::joint)). Give the CPU several times for several stages in one process.
    ///
    /// [`step`](Self::step) is as ever: losses and gradients are those of one device that does one microbatch after the
    /// other and adds up, to the bit. Replicas, as some schedules have them too, add up such sums by themselves, and then the
    /// sums are added in the order of the replicas; losses are added in the order of the microbatches in any case. Replicas read the
    /// same parameters, so that they never differ. Batch normalization normalizes each
    /// microbatch by itself and its running statistics advance once for each, in their order; random ops draw anew
    /// for each. A fraction as budget is one of what one device needs for a microbatch with everything kept.
    ///
    /// Stages take parameters from wherever they are, and gradients go back there, so that Burn's optimizers step where
    /// they always did. On devices that are apart call [`placed`](Self::placed) once: then each parameter, its gradient and
    /// its optimizer state are on the device of its stage alone. A record of the module is the same as ever.
    ///
    /// ```no_run
    /// use burn::nn::{Linear, LinearConfig};
    /// use burn::tensor::{Device, Distribution, Tensor};
    /// use plimsoll::{Budget, PipelineSettings, Rematerialize};
    ///
    /// let device = Device::flex().autodiff();
    /// let model = LinearConfig::new(64, 64).init(&device);
    /// let devices = vec![Device::flex(), Device::flex()];
    /// let model = Rematerialize::pipeline(model, devices, Budget::mib(64), PipelineSettings::new(4))?;
    /// let x = Tensor::<2>::random([32, 64], Distribution::Default, &device);
    /// let step = model.step(x, |linear: &Linear, x| (linear.forward(x.clone()) - x).powi_scalar(2).mean())?;
    /// # Ok::<(), plimsoll::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidSetting`] for no devices, no microbatches, replicas that cannot share them evenly, or a topology of
    /// another size.
    pub fn pipeline(module: M, devices: Vec<Device>, budget: Budget, options: PipelineSettings) -> Result<Self> {
        let refuse = |name: &str, why: String| Err(Error::InvalidSetting { name: name.into(), why });
        if devices.is_empty() {
            return refuse("devices", "a pipeline needs at least one".into());
        }
        if options.microbatches == 0 {
            return refuse("microbatches", "there must be at least one".into());
        }
        if let Some(topology) = options.topology.as_ref().filter(|it| it.devices().len() != devices.len()) {
            let (given, has) = (devices.len(), topology.devices().len());
            return refuse("topology", format!("it has {has} devices, and {given} are given"));
        }
        if options.replicas == 0 {
            return refuse("replicas", "there must be at least one".into());
        }
        for (what, count) in [("devices", devices.len()), ("microbatches", options.microbatches)] {
            if !count.is_multiple_of(options.replicas) {
                let why = format!("{count} {what} cannot be divided evenly among {}", options.replicas);
                return refuse("replicas", why);
            }
        }
        let mut settings = options.settings.clone();
        settings.budget = budget;
        let pipeline = Pipeline {
            devices,
            budget,
            options,
            entries: Mutex::default(),
            latest: Mutex::default(),
            ceilings: Mutex::default(),
            workers: OnceLock::new(),
        };
        Ok(Self { module, shared: Arc::new(Shared::new(settings, Some(pipeline))) })
    }

    /// The pipeline of the latest step, if one was planned.
    pub fn latest_pipeline(&self) -> Option<PipelinePlan> {
        let pipeline = self.shared.pipeline.as_ref()?;
        lock(&pipeline.latest).as_ref().map(|entry| entry.plan.clone())
    }

    /// The same with every parameter on the device of its stage, and statistics with it. What two stages share is on that
    /// of the one that makes its gradient. Plans the step if it was not planned. Makes no difference to a module
    /// that is no pipeline.
    ///
    /// # Errors
    /// Those of [`step`](Self::step).
    #[track_caller]
    pub fn placed<I, O, F>(self, inputs: I, step: F) -> Result<Self>
    where
        I: Tensors,
        O: StepOutput,
        O::Loss: Send + 'static,
        O::Output: Send + 'static,
        F: FnOnce(&M, I) -> O,
    {
        let place = Location::caller();
        on_backend!(self.home(), B => {
            let Some(pipeline) = &self.shared.pipeline else { return Ok(self) };
            let state = self.state::<B>(true)?;
            let parts = microbatches(&inputs, pipeline.options.axis, pipeline.options.microbatches)?;
            let entry = self.pipeline_entry::<B, I, O, F>(pipeline, place, &state, &parts[0], step)?;
            let devices = B::devices(&pipeline.devices)?;
            let module = binding::place::<B, M>(self.module, entry.homes::<B>(&devices))?;
            Ok(Self { module, shared: self.shared })
        })
    }

    pub(super) fn step_pipelined<B: Engine, I, O, F>(
        &self,
        pipeline: &Pipeline,
        place: &Location<'_>,
        inputs: I,
        step: F,
    ) -> Result<Trained<O::Loss, O::Output>>
    where
        I: Tensors,
        O: StepOutput,
        O::Loss: Send + 'static,
        O::Output: Send + 'static,
        F: FnOnce(&M, I) -> O,
    {
        let start = Instant::now();
        let (options, count) = (&pipeline.options, pipeline.options.microbatches);
        let state = self.state::<B>(true)?;
        let parts = microbatches(&inputs, options.axis, count)?;
        let entry = self.pipeline_entry::<B, I, O, F>(pipeline, place, &state, &parts[0], step)?;
        *lock(&pipeline.latest) = Some(entry.clone());
        let inputs = parts.iter().map(Inputs::<B>::of).collect::<Result<Vec<_>>>()?;
        let planned = start.elapsed();
        let ran = B::pipeline_run(&self.shared, pipeline, &entry, &state, inputs)?;
        let output = binding::rebuild(template(&entry.output)?, ran.outputs)?;
        let loss = binding::rebuild(template(&entry.loss)?, ran.loss.into_iter().collect())?;
        let grads = binding::gradients::<B, M>(&self.module, &entry.ends.gradients, ran.gradients)?;
        binding::write_buffers::<B, M>(&self.module, &entry.ends.buffers, ran.buffers)?;
        let report = ran.report;
        let most = |peak: fn(&DeviceReport) -> Option<Bytes>| report.devices.iter().filter_map(peak).max();
        let step = StepReport {
            budget: entry.budget,
            planned_peak: most(|device| Some(device.planned_peak)).unwrap_or_default(),
            measured_peak: most(|device| device.measured_peak),
            reserved: None,
            ran: ran.took,
            planned,
            one_launch: false,
            lanes: None,
        };
        Ok(Trained { loss, output, grads, report: step, pipeline: Some(report) })
    }

    fn pipeline_entry<B: Engine, I, O, F>(
        &self,
        pipeline: &Pipeline,
        place: &Location<'_>,
        state: &ModuleState<B>,
        part: &I,
        step: F,
    ) -> Result<Arc<Entry>>
    where
        I: Tensors,
        O: StepOutput,
        O::Loss: Send + 'static,
        O::Output: Send + 'static,
        F: FnOnce(&M, I) -> O,
    {
        // What a device gets of a microbatch lies plainly in memory.
        let part = apart::<B, I>(part.clone(), &state.device()?)?;
        let tensors = Inputs::<B>::of(&part)?.all_owned();
        let key = B::key(place, std::any::type_name::<F>(), state, &tensors)?;
        let known = lock(&pipeline.entries).get(&key).cloned();
        if let Some(entry) = known.filter(|_| self.shared.settings.trusts::<F>()) {
            return Ok(entry);
        }
        let traced = trace_at::<M, I, O, F>(&self.module, &part, step, Place::Spread)?;
        B::pipeline_entry(&self.shared, pipeline, key, Untyped::of(traced), state, &tensors)
    }
}

/// What a pipelined step gives, in the order of the program's ends.
pub(super) struct Ran<B: Target> {
    loss: Option<HandleKind<B>>,
    outputs: Vec<HandleKind<B>>,
    gradients: Vec<HandleKind<B>>,
    buffers: Vec<HandleKind<B>>,
    report: PipelineReport,
    took: Duration,
}

/// A result on the device of what it is for.
fn at_home<B: Target>(result: HandleKind<B>, home: &B::Device) -> Result<HandleKind<B>> {
    if B::device_of(&result) == *home {
        return Ok(result);
    }
    B::transfer(&result, home).map_err(|why| B::failure(home, "a gradient's way home".into(), why))
}

/// A device of Burn's as the backend's.
pub(super) fn device_on<B: Target>(device: &Device) -> Result<B::Device> {
    let tensor = B::float_in(Tensor::<1>::zeros([1], device));
    tensor.map(|tensor| B::device_of(&tensor)).map_err(|why| Error::InvalidSetting {
        name: "devices".into(),
        why: format!("{device:?} is none of the backend that the module is on: {why}"),
    })
}

/// What a stage does for each microbatch, ready to run.
fn chunk(program: &Program, stage: &StagePlan) -> Result<ChunkProgram> {
    let executable = Executable::of_stage(program, &stage.steps)?;
    let mut reads: Vec<ValueId> = stage.ops.iter().flat_map(|&op| program.reads_and_writes(op).0).collect();
    reads.sort_unstable();
    reads.dedup();
    let made: Vec<ValueId> = stage.ops.iter().flat_map(|&op| program.reads_and_writes(op).1).collect();
    let ends = &program.ends;
    let results = ends.loss.into_iter().chain(ends.outputs.iter().copied()).filter(|v| made.contains(v));
    let state = ends.buffers.iter().filter(|(_, new)| made.contains(new));
    Ok(ChunkProgram {
        executable,
        resident: reads.iter().copied().filter(|&v| program.is_resident(v)).collect(),
        inputs: ends.inputs.iter().copied().flatten().filter(|v| reads.binary_search(v).is_ok()).collect(),
        received: stage.messages.received.clone(),
        sent: stage.messages.sent.clone(),
        returned: stage.messages.returned.clone(),
        sent_back: stage.messages.sent_back.clone(),
        results: results.collect(),
        state: state.map(|&(index, new)| (ends.module[index].1.unwrap_or(new), new)).collect(),
    })
}

impl Pipeline {
    /// The entry for a freshly traced step: the one at hand if the step is the same in every scalar, or a new one.
    pub(super) fn entry<B: Target>(
        &self,
        shared: &Shared,
        key: Fingerprint,
        traced: Untyped,
        state: &ModuleState<B>,
        tensors: &Inputs<B>,
    ) -> Result<Arc<Entry>> {
        let mut program = traced.program;
        program.take_over(planner::owned(&program.ends, tensors));
        let fingerprint = program.fingerprint();
        let known = lock(&self.entries).get(&key).cloned();
        if let Some(entry) = known.filter(|entry| entry.fingerprint == fingerprint) {
            return Ok(entry);
        }
        let problem = lock(&shared.planner).problem(&shared.settings, &program, state, tensors)?;
        let allowance = Allowance::new::<B>(self.budget, &problem, &state.device()?)?;
        let options = &self.options;
        // Sums of bytes stay far from overflow.
        let memory = allowance.for_plan.min(Bytes(u64::MAX >> 3));
        let topology = match &options.topology {
            None => Topology::equal(self.devices.len(), memory),
            Some(topology) => topology.clone().with_memory(memory),
        };
        let joint = joint::Options {
            microbatches: options.microbatches,
            schedule: options.schedule.clone(),
            chunks: options.chunks,
            method: options.method,
            replicas: options.replicas,
            time_limit: options.time_limit,
            ..joint::Options::default()
        };
        let ceilings = lock(&self.ceilings).clone();
        let lowered = ceilings.iter().fold(topology.clone(), |topology, (&d, &had)| topology.with_at_most(d, had));
        let plan = match joint::plan_pipeline(&problem, &lowered, &joint) {
            // The devices may have that after all.
            Err(Error::Infeasible { .. }) if !ceilings.is_empty() => joint::plan_pipeline(&problem, &topology, &joint),
            plan => plan,
        };
        let plan = plan.map_err(|error| allowance.restate(error))?;
        let chunks = plan.stages.iter().map(|stage| chunk(&program, stage)).collect::<Result<Vec<_>>>()?;
        let entry = Arc::new(Entry {
            crests: plan.schedule.devices().iter().map(|_| Crests::default()).collect(),
            ends: program.ends,
            plan,
            chunks,
            budget: allowance.given,
            fingerprint,
            loss: traced.loss,
            output: traced.output,
        });
        entry.refuse_shared_statistics()?;
        lock(&self.entries).insert(key, entry.clone());
        Ok(entry)
    }

    /// Run a step that is ready.
    pub(super) fn run<B: Target>(
        &self,
        shared: &Shared,
        entry: &Entry,
        state: &ModuleState<B>,
        inputs: Vec<Inputs<B>>,
    ) -> Result<Ran<B>> {
        let (options, count, ends) = (&self.options, self.options.microbatches, &entry.ends);
        let devices = self.devices.iter().map(device_on::<B>).collect::<Result<Vec<_>>>()?;
        let workers = self.workers::<B>(devices.len())?;
        let number = shared.steps.fetch_add(count as u64, std::sync::atomic::Ordering::Relaxed);
        let start = Instant::now();
        let resident = entry.resident(state, &devices[0]);
        let bind = |inputs: Inputs<B>| {
            let named = ends.inputs.iter().zip(inputs.tensors);
            named.filter_map(|(place, tensor)| Some(((*place)?, tensor.handle))).collect::<Vec<_>>()
        };
        let bindings: Vec<_> = inputs.into_iter().map(bind).collect();
        let seed = options.settings.seed;
        let batch = Batch {
            resident: &resident,
            microbatches: &bindings,
            seed: &|m, op: OpId| seed_of(seed, number + m as u64, op),
            handlers: &|| options.settings.handlers::<B>(),
            crests: &entry.crests,
        };
        let made = workers.run::<B>(&entry.plan.schedule, &entry.chunks, &devices, &batch, options.patience);
        let made = made.map_err(|failure| {
            if let (Error::OutOfMemory { .. }, Some(device)) = (&failure.error, failure.device)
                && options.settings.replan_on_oom
            {
                self.lower(device.index(), entry.plan.run.devices[device.index()].peak);
            }
            failure.error
        })?;
        let took = start.elapsed();
        let report = entry.report(&made, state, &options.settings);
        let results = Results::new(entry, made, &resident, &bindings);
        let loss = ends.loss.ok_or_else(|| internal("the step has no loss"))?;
        let mut losses = None;
        for m in 0..count {
            losses = Some(added::<B>(losses, results.of(m, loss)?)?);
        }
        let reduced = |sum: HandleKind<B>| match options.reduction {
            Reduction::Mean => mean::<B>(sum, count),
            Reduction::Sum => sum,
        };
        let outputs = ends.outputs.iter().map(|&v| {
            let parts = (0..count).map(|m| results.of(m, v)).collect::<Result<Vec<_>>>()?;
            joined::<B>(parts, options.axis)
        });
        let gradients = ends.gradients.iter().map(|&(index, v)| {
            let (gradient, parameter) = (reduced(results.gradient(v, count)?), &state.tensors[index].handle);
            at_home::<B>(gradient, &B::device_of(parameter))
        });
        let buffers = ends.buffers.iter().map(|&(index, new)| {
            let (new, old) = (results.state(ends.module[index].1.unwrap_or(new))?, &state.tensors[index].handle);
            at_home::<B>(new, &B::device_of(old))
        });
        Ok(Ran {
            loss: losses.map(reduced),
            outputs: outputs.collect::<Result<Vec<_>>>()?,
            gradients: gradients.collect::<Result<Vec<_>>>()?,
            buffers: buffers.collect::<Result<Vec<_>>>()?,
            report,
            took,
        })
    }

    /// Plan anew with less on a device than what was planned there.
    fn lower(&self, device: usize, planned: Bytes) {
        let less = Bytes(planned.get() / 20 * 19);
        lock(&self.ceilings).entry(device).and_modify(|had| *had = less.min(*had)).or_insert(less);
        lock(&self.entries).clear();
    }

    fn workers<B: Target>(&self, devices: usize) -> Result<&Workers> {
        if let Some(workers) = self.workers.get() {
            return Ok(workers);
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = Workers::new::<B>(devices, self.options.threads.unwrap_or(cores / devices))?;
        Ok(self.workers.get_or_init(|| workers))
    }
}

impl Entry {
    /// Statistics go on from microbatch to microbatch, which takes one device that sees them all.
    fn refuse_shared_statistics(&self) -> Result<()> {
        for (c, chunk) in self.chunks.iter().enumerate() {
            let several = self.plan.stages[c].devices.len() > 1;
            let elsewhere = |old: ValueId| {
                self.chunks.iter().enumerate().any(|(other, chunk)| other != c && chunk.resident.contains(&old))
            };
            if chunk.state.iter().any(|&(old, _)| several || elsewhere(old)) {
                return Err(Error::InvalidSetting {
                    name: "schedule".into(),
                    why: format!(
                        "running statistics of {} would be kept by several devices; take a schedule without replicas and one \
                         replica, or freeze them",
                        Chunk(c as u32)
                    ),
                });
            }
        }
        Ok(())
    }

    /// Where the module's tensors belong.
    fn homes<B: Target>(&self, devices: &[B::Device]) -> Vec<Option<B::Device>> {
        let home = |index| self.home(index).and_then(|d| devices.get(d).cloned());
        (0..self.ends.module.len()).map(home).collect()
    }

    /// The device of the stage that has a tensor of the module: of its gradient, its new value, or its first reader.
    fn home(&self, index: usize) -> Option<usize> {
        let ends = &self.ends;
        let gradient = ends.gradients.iter().find(|(of, _)| *of == index).map(|(_, v)| *v);
        let news = ends.buffers.iter().find(|(of, _)| *of == index).map(|(_, v)| *v);
        let place = ends.module[index].1;
        let makes = |(stage, chunk): &(&StagePlan, &ChunkProgram)| {
            let sums = |v: ValueId| stage.steps.contains(&StageStep::Marker(Marker::Accumulate(v)));
            gradient.is_some_and(sums) || news.is_some_and(|v| chunk.state.iter().any(|(_, new)| *new == v))
        };
        let stages = || self.plan.stages.iter().zip(&self.chunks);
        let reads = |(_, chunk): &(&StagePlan, &ChunkProgram)| place.is_some_and(|v| chunk.resident.contains(&v));
        let found = stages().find(makes).or_else(|| stages().find(reads))?;
        found.0.devices.first().copied()
    }

    /// Parameters, statistics, constants.
    fn resident<B: Target>(&self, state: &ModuleState<B>, device: &B::Device) -> BTreeMap<ValueId, HandleKind<B>> {
        let module = self.ends.module.iter().zip(&state.tensors);
        let module = module.filter_map(|((_, place), tensor)| Some(((*place)?, tensor.handle.clone())));
        let constants = self.ends.constants.iter().map(|(v, data)| (*v, B::of_data(data.clone(), device)));
        module.chain(constants).collect()
    }

    fn report<B: Target>(&self, made: &[Made<B>], state: &ModuleState<B>, settings: &Settings) -> PipelineReport {
        let size = |v: &ValueId| {
            let place = self.ends.module.iter().position(|(_, place)| place.as_ref() == Some(v));
            let tensor = place.map(|index| &state.tensors[index]);
            let constant = self.ends.constants.iter().find(|(constant, _)| constant == v);
            let module = tensor.map(|tensor| tensor.shape.num_elements() * tensor.dtype.size());
            module.or(constant.map(|(_, data)| data.as_bytes().len())).unwrap_or(0) as u64
        };
        let devices = made.iter().enumerate().map(|(d, made)| {
            let own = || self.plan.stages.iter().zip(&self.chunks).filter(move |(stage, _)| stage.devices.contains(&d));
            let mut values: Vec<ValueId> = own().flat_map(|(_, chunk)| chunk.resident.iter().copied()).collect();
            values.sort_unstable();
            values.dedup();
            let gradients = own().flat_map(|(stage, _)| stage.steps.iter()).filter_map(|step| match step {
                StageStep::Marker(Marker::Accumulate(v)) => Some(*v),
                _ => None,
            });
            let trained =
                gradients.flat_map(|v| self.ends.gradients.iter().filter(move |(_, gradient)| *gradient == v));
            let elements: usize = trained.map(|&(index, _)| state.tensors[index].shape.num_elements()).sum();
            let optimizer = Bytes((elements as f64 * settings.optimizer_bytes) as u64);
            let there = Bytes(values.iter().map(size).sum::<u64>()) + optimizer;
            DeviceReport {
                planned_peak: self.plan.run.devices[d].peak,
                measured_peak: made.peak.map(|peak| peak + there),
                did: made.did.clone(),
            }
        });
        PipelineReport { devices: devices.collect(), planned: self.plan.makespan }
    }
}

/// What all devices made.
struct Results<'a, B: Target> {
    entry: &'a Entry,
    /// Parameters, statistics and constants, and the inputs of each microbatch: a closure may return them as they are.
    resident: &'a BTreeMap<ValueId, HandleKind<B>>,
    inputs: &'a [Vec<(ValueId, HandleKind<B>)>],
    values: BTreeMap<(usize, ValueId), HandleKind<B>>,
    gradients: BTreeMap<ValueId, HandleKind<B>>,
    state: BTreeMap<ValueId, HandleKind<B>>,
}

impl<'a, B: Target> Results<'a, B> {
    fn new(
        entry: &'a Entry,
        made: Vec<Made<B>>,
        resident: &'a BTreeMap<ValueId, HandleKind<B>>,
        inputs: &'a [Vec<(ValueId, HandleKind<B>)>],
    ) -> Self {
        let mut results = Self {
            entry,
            resident,
            inputs,
            values: BTreeMap::new(),
            gradients: BTreeMap::new(),
            state: BTreeMap::new(),
        };
        for made in made {
            results.values.extend(made.results);
            results.state.extend(made.state);
            results.gradients.extend(made.gradients.into_iter().map(|((_, v), sum)| (v, sum)));
        }
        results
    }

    /// What a microbatch gave out.
    fn of(&self, m: usize, v: ValueId) -> Result<HandleKind<B>> {
        let given = || self.inputs[m].iter().find(|(input, _)| *input == v).map(|(_, handle)| handle);
        let found = self.values.get(&(m, v)).or_else(|| self.resident.get(&v)).or_else(given);
        found.cloned().ok_or_else(|| internal("a result of a microbatch is missing"))
    }

    /// The sum of all microbatches' gradients.
    fn gradient(&self, v: ValueId, count: usize) -> Result<HandleKind<B>> {
        if let Some(sum) = self.gradients.get(&v) {
            return Ok(sum.clone());
        }
        // A gradient that is a constant.
        let mut sum = None;
        for m in 0..count {
            sum = Some(added::<B>(sum, self.of(m, v)?)?);
        }
        sum.ok_or_else(|| internal("a gradient is missing"))
    }

    fn state(&self, old: ValueId) -> Result<HandleKind<B>> {
        let new = self.state.get(&old).cloned();
        new.ok_or_else(|| internal(&format!("statistics that {} should have made are missing", self.entry.plan.method)))
    }
}
