//! From a traced step to something that runs: costs, problem, plan, executable; and the caches.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::panic::Location;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use burn_ir::HandleKind;

use super::binding::{Bound, Inputs, ModuleState};
use super::settings::Settings;
use super::{internal, lock};
use crate::check;
use crate::cost::{Device, Problem, Profile, measure};
use crate::entity::ValueId;
use crate::error::{Error, Result};
use crate::graph::trace::{Ends, Program, StepOutput, Tensors, Traced};
use crate::graph::{Fingerprint, Fnv, Graph, Replay};
use crate::plan::{Plan, Step, early, given_away, queue_ends, simulate};
use crate::runtime::{Bindings, Crests, Executable, OpProbe, Target, Watch, seed_of};
use crate::solver;
use crate::units::{Budget, Bytes, Nanos};

/// Everything about one kind of step that is needed to run it, and no more: it lies in memory
/// beside the step.
pub(super) struct Entry {
    pub ends: Ends,
    pub plan: Plan,
    /// The budget the caller gave, in bytes.
    pub budget: Bytes,
    /// The plan's peak, live views counted.
    pub planned_peak: Bytes,
    /// The most that is in host memory at once.
    host_peak: Bytes,
    /// Tensors of a module in host memory that stay on the device, by their numbers in the module.
    pub kept: Vec<usize>,
    /// Name of the program with its scalars.
    fingerprint: Fingerprint,
    executable: Executable,
    /// Where runs hold most.
    pub crests: Crests,
    results: Vec<ValueId>,
    loss: Template,
    output: Template,
}

/// The structure of a result. (Burn's tensors may be sent to other threads and not be shared by them.)
pub(super) type Template = Mutex<Box<dyn Any + Send>>;

pub(super) fn template<T: Tensors + 'static>(it: &Template) -> Result<T> {
    let template = lock(it).downcast_ref::<T>().cloned();
    template.ok_or_else(|| internal("a step at the same place returned another type"))
}

/// A traced step without the types of its results.
pub(super) struct Untyped {
    pub program: Program,
    pub loss: Template,
    pub output: Template,
}

impl Untyped {
    pub(super) fn of<O>(traced: Traced<O>) -> Self
    where
        O: StepOutput,
        O::Loss: Send + 'static,
        O::Output: Send + 'static,
    {
        let Traced { program, loss, outputs } = traced;
        Self { program, loss: Mutex::new(Box::new(loss)), output: Mutex::new(Box::new(outputs)) }
    }
}

impl Entry {
    /// The structure of the loss.
    pub(super) fn loss<T: Tensors + 'static>(&self) -> Result<T> {
        template(&self.loss)
    }

    /// The structure of the other results.
    pub(super) fn output<T: Tensors + 'static>(&self) -> Result<T> {
        template(&self.output)
    }

    /// What is there before the step begins and all through it: module tensors, inputs, constants,
    /// optimizer state.
    pub(super) fn bound_bytes<B: Target>(
        &self,
        settings: &Settings,
        state: &ModuleState<B>,
        inputs: &Inputs<B>,
    ) -> Bytes {
        let tensors = state.tensors.iter().chain(&inputs.tensors).map(Bound::bytes);
        let kept = self.kept.iter().filter_map(|&index| state.on_host.get(index)).map(Bound::bytes);
        let bytes: usize = tensors.chain(kept).sum();
        let constants: usize = self.ends.constants.iter().map(|(_, data)| data.as_bytes().len()).sum();
        Bytes((bytes + constants) as u64) + settings.held_bytes(state)
    }

    /// Bytes of all results.
    pub(super) fn result_bytes(&self) -> Bytes {
        self.executable.bytes(&self.results)
    }

    /// What the step starts from, constants last; those only if `anew`.
    pub(super) fn bindings<B: Target>(
        &self,
        state: &ModuleState<B>,
        kept: Vec<(usize, HandleKind<B>)>,
        inputs: Inputs<B>,
        device: &B::Device,
        anew: bool,
    ) -> Bindings<B> {
        let ends = &self.ends;
        let mut there = Vec::new();
        for ((_, place), tensor) in ends.module.iter().zip(&state.tensors) {
            there.extend(place.map(|v| (v, tensor.handle.clone())));
        }
        for (place, tensor) in ends.inputs.iter().zip(inputs.tensors) {
            there.extend(place.map(|v| (v, tensor.handle)));
        }
        for (index, handle) in kept {
            there.extend(ends.module[index].1.map(|v| (v, handle)));
        }
        for (v, data) in ends.constants.iter().filter(|_| anew) {
            there.push((*v, B::of_data(data.clone(), device)));
        }
        let on_host = ends.module.iter().zip(&state.on_host);
        let on_host = on_host.filter_map(|((_, place), tensor)| Some(((*place)?, tensor.handle.clone()))).collect();
        Bindings { there, on_host }
    }

    /// Run the step: the loss, then the other results, gradients and running statistics.
    pub(super) fn run<B: Target>(
        &self,
        settings: &Settings,
        device: &B::Device,
        bindings: Bindings<B>,
        number: u64,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<HandleKind<B>>> {
        room_on_host(self.host_peak)?;
        let seed = |op| seed_of(settings.seed, number, op);
        let handlers = settings.handlers::<B>();
        self.executable.run::<B>(device, handlers, bindings, seed, &self.results, watch)
    }

    /// Why one step of this kind cannot stand for the next, if so.
    pub(super) fn changes(&self) -> Option<&'static str> {
        let moves = |step: &Step| matches!(step, Step::Offload(_) | Step::Prefetch(_));
        match () {
            () if self.executable.draws() => Some("it has random ops, which draw other numbers in every step"),
            () if self.plan.steps.iter().any(moves) => Some("its plan moves tensors to the host and back"),
            () if self.executable.brings() => Some("it brings parameters from host memory"),
            () => None,
        }
    }

    /// Values that the step makes anew for the next: trained parameters, running statistics, inputs. All others that it starts from
    /// are expected to be the same tensors then.
    pub(super) fn renewed(&self) -> BTreeSet<ValueId> {
        let (ends, module) = (&self.ends, |&(index, _): &(usize, ValueId)| self.ends.module[index].1);
        let inputs = ends.inputs.iter().copied().flatten();
        ends.gradients.iter().filter_map(module).chain(ends.buffers.iter().filter_map(module)).chain(inputs).collect()
    }
}

/// Whether the host has memory for what a step moves there: better told before the step than in it.
fn room_on_host(bytes: Bytes) -> Result<()> {
    let mut room: Vec<u8> = Vec::new();
    let wanted = usize::try_from(bytes.get()).unwrap_or(usize::MAX);
    room.try_reserve_exact(wanted).map_err(|_| Error::InvalidSetting {
        name: "host_memory".into(),
        why: format!("the plan moves up to {bytes} to this machine's memory at once, which has no room for that"),
    })
}

/// What a plan made ready keeps in memory (measured: about a kilobyte an op), and what the
/// backend's matrix kernels take for each thread: a tile of about a megabyte that they keep, and, on a
/// busy machine, one more where a thread that waits for another takes up a second part meanwhile
/// (measured; the workspace measured of an op does not show it).
fn kept_bytes(ops: usize, threads: usize) -> Bytes {
    Bytes(ops as u64 * 1024 + threads as u64 * (2 << 20))
}

/// Values that count, live during each step.
fn during<'a>(
    graph: &'a Graph,
    steps: &'a [Step],
    counts: impl Fn(ValueId) -> bool + 'a,
) -> impl Iterator<Item = u64> + 'a {
    let count = move |v: ValueId| u64::from(counts(v));
    let mut live = 0;
    steps.iter().map(move |step| {
        match step {
            Step::Compute { op, inplace } => {
                let op = &graph.ops()[*op];
                live += op.outputs.iter().map(|&v| count(v)).sum::<u64>();
                let during = live;
                live -= inplace.iter().map(|&(a, _)| count(op.inputs[a])).sum::<u64>();
                return during;
            }
            Step::Drop(v) => live -= count(*v),
            Step::Offload(_) => {}
            Step::Prefetch(v) => live += count(*v),
        }
        live
    })
}

/// Views live during each step: the problem's sizes count tensors with buffers of their own, and a
/// view takes a handle too.
fn views_during<'a>(graph: &'a Graph, steps: &'a [Step]) -> impl Iterator<Item = u64> + 'a {
    during(graph, steps, |v| graph.values()[v].alias_of.is_some())
}

/// What the interpreter's table of handles takes during each step beyond what is counted for each
/// tensor. It grows by doubling when seven eighths are used and never shrinks, so a tensor's share
/// is anything between one and two and a quarter entries; counted are 1.6.
fn table_during<'a, B: Target>(graph: &'a Graph, steps: &'a [Step]) -> impl Iterator<Item = i64> + 'a {
    let entry = B::ENTRY_BYTES.get();
    let residents = graph.values().values().filter(|v| v.resident).count() as u64;
    let mut buckets = 0;
    during(graph, steps, |_| true).map(move |made| {
        let handles = residents + made;
        buckets = buckets.max((handles * 8).div_ceil(7).next_power_of_two());
        (buckets * entry) as i64 - (handles * entry * 8 / 5) as i64
    })
}

/// The peak of `steps` with the handles of views and the table of handles counted.
fn peak_with_handles<B: Target>(problem: &Problem, steps: &[Step]) -> Result<Bytes> {
    let live = simulate(problem, steps)?.live;
    let views = views_during(&problem.graph, steps).zip(table_during::<B>(&problem.graph, steps));
    let with_handles = live
        .iter()
        .zip(views)
        .map(|(&l, (n, table))| Bytes((l + Bytes(B::VIEW_BYTES.get() * n)).get().saturating_add_signed(table)));
    Ok(with_handles.max().unwrap_or_default())
}

/// A budget in bytes, and how much of it a plan may use: what views and the plan itself take is
/// held back, so that what a program measures stays within what it asked for. For the latter at
/// most three hundredths are, which matters only to models of a few megabytes.
pub(super) struct Allowance {
    pub given: Bytes,
    pub for_plan: Bytes,
    /// What a plan might use if the device had it.
    asked: Bytes,
    /// What views take, be it held back or not.
    views: Bytes,
    /// What the plan itself takes, be it held back or not.
    kept: Bytes,
}

impl Allowance {
    pub(super) fn new<B: Target>(budget: Budget, problem: &Problem, device: &B::Device) -> Result<Self> {
        let (steps, baseline) = &solver::baseline(problem);
        let given = budget.resolve(baseline.peak)?;
        let views = Bytes(B::VIEW_BYTES.get() * views_during(&problem.graph, steps).max().unwrap_or(0));
        let kept = kept_bytes(problem.graph.ops().len(), B::threads(device));
        let held_back = match given {
            Bytes(u64::MAX) => Bytes::ZERO,
            Bytes(n) => views.min(Bytes(n / 4)) + kept.min(Bytes(n / 100 * 3)),
        };
        let for_plan = given.saturating_sub(held_back).max(Bytes(1));
        Ok(Self { given, for_plan, asked: for_plan, views, kept })
    }

    /// The device has no more than `ceiling`.
    fn lower(&mut self, ceiling: Bytes) {
        if ceiling < self.for_plan {
            (self.given, self.for_plan) = (self.given.min(ceiling + self.views + self.kept), ceiling);
        }
    }

    /// An infeasibility in terms of the budget the caller gave.
    pub(super) fn restate(&self, error: Error) -> Error {
        match error {
            Error::Infeasible { minimum, proved, blockers, why, .. } => Error::Infeasible {
                budget: self.given,
                // Either bound on what is held back gives a budget that leaves `m` for the plan.
                minimum: minimum.map(|m| {
                    let m = m + self.views;
                    (m + self.kept).min(Bytes((m.get() as f64 / 0.97) as u64 + 100))
                }),
                proved,
                blockers,
                why,
            },
            other => other,
        }
    }
}

/// Plans by signature, and the cost profile.
pub(super) struct Planner {
    entries: BTreeMap<Fingerprint, Arc<Entry>>,
    /// What a device was found to have, where it ran out of memory.
    ceiling: Option<Bytes>,
    /// By device.
    profiles: BTreeMap<String, (Option<PathBuf>, Profile)>,
}

/// What a plan is looked up by: where the step is called, with which closure, on what.
pub(super) fn key<B: Target>(
    place: &Location<'_>,
    closure: &str,
    state: &ModuleState<B>,
    inputs: &Inputs<B>,
) -> Result<Fingerprint> {
    let mut hash = Fnv::new();
    hash.text(&B::describe(&state.device()?));
    hash.text(place.file());
    hash.word(u64::from(place.line()));
    hash.word(u64::from(place.column()));
    hash.text(closure);
    hash_all(&mut hash, &state.tensors);
    hash_all(&mut hash, &state.on_host);
    hash_all(&mut hash, &inputs.tensors);
    for bits in [&state.trainable, &state.flags, &inputs.owned] {
        hash.word(bits.len() as u64);
        bits.iter().for_each(|&bit| hash.word(u64::from(bit)));
    }
    Ok(hash.finish())
}

fn hash_all<B: Target>(hash: &mut Fnv, tensors: &[Bound<B>]) {
    hash.word(tensors.len() as u64);
    for tensor in tensors {
        hash.word(tensor.shape.len() as u64);
        tensor.shape.iter().for_each(|&d| hash.word(d as u64));
        hash.text(tensor.dtype.name());
        hash.text(tensor.layout.as_deref().unwrap_or_default());
    }
}

/// The values of inputs that are the step's own.
pub(super) fn owned<B: Target>(ends: &Ends, inputs: &Inputs<B>) -> Vec<ValueId> {
    ends.inputs.iter().zip(&inputs.owned).filter(|(_, owned)| **owned).filter_map(|(v, _)| *v).collect()
}

impl Planner {
    pub(super) fn new() -> Self {
        Self { entries: BTreeMap::new(), ceiling: None, profiles: BTreeMap::new() }
    }

    /// Plan anew for less than `planned`, and for no more than what was measured when a step failed for want of memory.
    pub(super) fn lower(&mut self, planned: Bytes, measured: Option<Bytes>) {
        let less = Bytes(planned.get() / 20 * 19);
        let had = measured.map_or(less, |measured| measured.min(less));
        self.ceiling = Some(self.ceiling.map_or(had, |ceiling| ceiling.min(had)));
        self.entries.clear();
    }

    pub(super) fn get(&self, key: &Fingerprint) -> Option<Arc<Entry>> {
        self.entries.get(key).cloned()
    }

    /// The entry for a freshly traced step: the one at hand if the step is the same in every
    /// scalar, a new one with the same plan if only scalars or constants differ, and a new plan
    /// otherwise.
    pub(super) fn entry<B: Target>(
        &mut self,
        settings: &Settings,
        key: Fingerprint,
        traced: Untyped,
        state: &ModuleState<B>,
        inputs: &Inputs<B>,
    ) -> Result<Arc<Entry>> {
        let mut program = traced.program;
        program.take_over(owned(&program.ends, inputs));
        let fingerprint = program.fingerprint();
        let known = self.entries.get(&key).cloned();
        if let Some(entry) = &known
            && entry.fingerprint == fingerprint
        {
            return Ok(entry.clone());
        }
        let whole = self.problem(settings, &program, state, inputs)?;
        let (kept, problem, budget) = match state.on_host.is_empty() {
            true => (Vec::new(), whole, settings.budget),
            false => self.keep(settings, &mut program, whole, state, inputs)?,
        };
        let budget = self.allowance(settings, budget, &problem, state)?;
        // The same step called elsewhere, or only planned before, has its plan already.
        let known = known.or_else(|| self.entries.values().find(|e| e.fingerprint == fingerprint).cloned());
        let plan = match known {
            Some(entry) if check::check(&problem, &entry.plan).is_ok() => entry.plan.clone(),
            _ => Self::plan(settings, &problem, &budget)?,
        };
        let host_peak = check::check(&problem, &plan)?.host_peak;
        // A drop waits in the queue as an op does, and until then keeps fused kernels from writing where they read.
        let given = if B::QUEUES { given_away(&problem.graph, &plan.steps) } else { Vec::new() };
        let mut executable = Executable::new(&program, &plan.steps, &given)?;
        if B::QUEUES {
            let at_once = |op| problem.loads(op) || program.replay(op) == Replay::Seeded;
            let ends = queue_ends(&problem, &plan.steps, plan.budget, &at_once)?;
            executable = executable.emptying_queue_before(&ends);
        }
        let entry = Arc::new(Entry {
            planned_peak: peak_with_handles::<B>(&problem, &plan.steps)?,
            results: program.results(),
            ends: program.ends,
            budget: budget.given.max(plan.budget),
            plan,
            host_peak,
            kept,
            fingerprint,
            executable,
            crests: Crests::default(),
            loss: traced.loss,
            output: traced.output,
        });
        self.entries.insert(key, entry.clone());
        Ok(entry)
    }

    /// A budget, and how much of it a plan may use on this device.
    fn allowance<B: Target>(
        &self,
        settings: &Settings,
        budget: Budget,
        problem: &Problem,
        state: &ModuleState<B>,
    ) -> Result<Allowance> {
        let mut allowance = Allowance::new::<B>(budget, problem, &state.device()?)?;
        if let Some(ceiling) = self.ceiling.filter(|_| settings.plan.is_none()) {
            allowance.lower(ceiling);
        }
        Ok(allowance)
    }

    /// Of a module in host memory, of which `whole` is the problem with all of it on the device: have `program` bring what it reads
    /// of it, but for what is kept there: its numbers in the module, the problem that this is, and the budget in bytes.
    ///
    /// The smallest are kept first: a copy takes some time whatever its size. What is kept needs no copy, but leaves less room for
    /// beginning the other copies ahead. So of the shares for which there is room without anything being done twice, the one is
    /// kept with which the step takes least.
    fn keep<B: Target>(
        &mut self,
        settings: &Settings,
        program: &mut Program,
        whole: Problem,
        state: &ModuleState<B>,
        inputs: &Inputs<B>,
    ) -> Result<(Vec<usize>, Problem, Budget)> {
        let places: Vec<Option<ValueId>> = program.ends.module.iter().map(|(_, place)| *place).collect();
        let bytes = |&index: &usize| state.on_host.get(index).map_or(0, Bound::bytes);
        let mut read: Vec<usize> = (0..places.len()).filter(|&index| places[index].is_some()).collect();
        read.sort_by_key(bytes);
        let total: usize = read.iter().map(bytes).sum();
        // A share is one of what the step would take with all of the module there.
        let allowance = self.allowance(settings, settings.budget, &whole, state)?;
        let budget = Budget::Bytes(allowance.given);
        if solver::baseline(&whole).1.peak <= allowance.for_plan {
            read.sort_unstable();
            return Ok((read, whole, budget));
        }
        let mut counts: Vec<usize> = (0..8)
            .map(|eighths| {
                let mut room = total / 8 * eighths;
                read.iter().take_while(|index| room.checked_sub(bytes(index)).map(|left| room = left).is_some()).count()
            })
            .collect();
        counts.dedup();
        // Where there is room for none of them, everything is brought, and what is done twice is for the solver to say.
        let mut best: Option<(Option<Nanos>, usize, Program, Problem)> = None;
        for count in counts {
            let mut candidate = program.clone();
            candidate.load(read[count..].iter().filter_map(|&index| places[index]));
            let problem = self.problem(settings, &candidate, state, inputs)?;
            let room = self.allowance(settings, budget, &problem, state)?.for_plan;
            let (steps, everything) = solver::baseline(&problem);
            let takes = || Ok::<_, Error>(simulate(&problem, &early(&problem, &steps, room)?)?.time);
            let time = (everything.peak <= room).then(takes).transpose()?;
            let better = |known: &Option<Nanos>| time.is_some_and(|time| known.is_none_or(|known| time <= known));
            if best.as_ref().is_none_or(|(known, ..)| better(known)) {
                best = Some((time, count, candidate, problem));
            }
        }
        let (.., count, candidate, problem) =
            best.ok_or_else(|| internal("nothing is kept of a module, nor brought"))?;
        *program = candidate;
        read.truncate(count);
        read.sort_unstable();
        Ok((read, problem, budget))
    }

    /// The problem of a program, with costs from the profile that is kept or measured now.
    pub(super) fn problem<B: Target>(
        &mut self,
        settings: &Settings,
        program: &Program,
        state: &ModuleState<B>,
        inputs: &Inputs<B>,
    ) -> Result<Problem> {
        let name = B::describe(&state.device()?);
        let (path, profile) = self.profiles.entry(name.clone()).or_insert_with(|| open_profile(settings, name));
        let known = (profile.len(), profile.link, profile.pace);
        let problem = problem_with(settings, program, state, inputs, Table::Grows(profile));
        if (profile.len(), profile.link, profile.pace) != known
            && let Some(path) = path
        {
            save_profile(path, profile);
        }
        problem
    }

    /// The plan that was given, one from the plan directory, or a new one.
    fn plan(settings: &Settings, problem: &Problem, allowance: &Allowance) -> Result<Plan> {
        if let Some(plan) = &settings.plan {
            plan.belongs_to(&problem.graph)?;
            return Ok(Plan::clone(plan));
        }
        let budget = allowance.for_plan;
        let file = settings.plan_directory.as_ref().map(|directory| {
            let (graph, host) = (problem.graph.fingerprint(), problem.device.host_memory.get());
            directory.join(format!("{graph}-{}-{host}-{}.plan.json", budget.get(), settings.solver))
        });
        if let Some(file) = file.as_ref().filter(|f| f.exists()) {
            let found = Plan::load(file).and_then(|plan| check::check(problem, &plan).map(|_| plan));
            match found {
                Ok(plan) if plan.budget <= budget => return Ok(plan),
                Ok(_) => {}
                Err(error) => tracing::warn!("planning anew, {} is of no use: {error}", file.display()),
            }
        }
        let solve = |budget| solver::plan(problem, budget, &settings.solver, &settings.solver_options);
        let plan = match solve(budget) {
            // The device may have that after all.
            Err(Error::Infeasible { minimum: Some(least), .. }) if budget < least && least <= allowance.asked => {
                solve(least)
            }
            plan => plan,
        };
        let plan = plan.map_err(|error| allowance.restate(error))?;
        if let Some(file) = file {
            if let Some(directory) = file.parent() {
                std::fs::create_dir_all(directory).map_err(|source| Error::Io {
                    action: "write",
                    path: directory.to_owned(),
                    source,
                })?;
            }
            plan.save(file)?;
        }
        Ok(plan)
    }
}

/// Where costs are taken from.
pub(super) enum Table<'a> {
    /// What it lacks is measured, and added to it.
    Grows(&'a mut Profile),
    /// What it lacks is an error.
    Stays(&'a Profile),
}

/// The problem of a program, with costs from a profile.
pub(super) fn problem_with<B: Target>(
    settings: &Settings,
    program: &Program,
    state: &ModuleState<B>,
    inputs: &Inputs<B>,
    table: Table<'_>,
) -> Result<Problem> {
    let mut layouts: BTreeMap<ValueId, String> = BTreeMap::new();
    let module = program.ends.module.iter().map(|m| m.1).zip(&state.tensors);
    for (place, tensor) in module.chain(program.ends.inputs.iter().copied().zip(&inputs.tensors)) {
        if let (Some(v), Some(layout)) = (place, &tensor.layout) {
            layouts.insert(v, layout.clone());
        }
    }
    let starts = |v: ValueId| layouts.get(&v).cloned();
    let on = state.device()?;
    let mut probe = OpProbe::<B>::new(&on, program, settings.handlers::<B>(), &starts);
    let values = program.values.len();
    let (costs, profile) = match table {
        Table::Stays(profile) => (measure::look_up(&mut probe, values, profile), profile),
        Table::Grows(profile) => {
            let brings = program.ops.keys().any(|op| program.loaded(op).is_some());
            if (settings.host_memory > Bytes::ZERO || brings) && profile.link.is_none() {
                profile.link = B::link(&on);
            }
            let mut progress = Progress::new(settings.quiet);
            let costs = measure::measure(&mut probe, values, profile, &mut |done, all| progress.show(done, all));
            progress.end();
            (costs, &*profile)
        }
    };
    let mut device = Device { name: profile.device.clone(), ..Device::default() };
    if let Some(link) = profile.link.filter(|_| settings.host_memory > Bytes::ZERO) {
        device.host_memory = settings.host_memory;
        (device.d2h_bytes_per_s, device.h2d_bytes_per_s) = (link.d2h_bytes_per_s, link.h2d_bytes_per_s);
    }
    let mut costs = costs?;
    if let Some(pace) = profile.pace {
        for op in program.ops.keys().filter(|&op| !program.stands_for(op)) {
            // What only looks at a tensor another way is not asked of the device.
            costs[op].time = if costs[op].computes() { pace.of(costs[op].time) } else { Nanos::ZERO };
        }
    }
    if let Some(link) = profile.link {
        for op in program.ops.keys() {
            if let Some(v) = program.loaded(op) {
                let value = &program.values[v];
                let bytes = (value.shape.num_elements() * value.dtype.size()) as u64;
                costs[op].time = Bytes(bytes).moved_at(link.h2d_bytes_per_s);
            }
        }
    }
    program.problem("step", &costs, settings.held_bytes(state), B::TENSOR_BYTES, device)
}

/// The cost profile of this machine and where it is kept.
fn open_profile(settings: &Settings, device: String) -> (Option<PathBuf>, Profile) {
    let Some(directory) = &settings.profile_directory else {
        return (None, Profile::new(device));
    };
    let mut hash = Fnv::new();
    hash.text(&device);
    let path = directory.join(format!("{}.profile.json", hash.finish()));
    let profile = match Profile::load(&path) {
        Ok(profile) if profile.device == device => profile,
        Ok(_) => Profile::new(device),
        Err(error) => {
            if path.exists() {
                tracing::warn!("measuring anew: {error}");
            }
            Profile::new(device)
        }
    };
    (Some(path), profile)
}

/// Keep what was measured. That it cannot be kept costs the next process a measurement, and this
/// one nothing.
fn save_profile(path: &std::path::Path, profile: &Profile) {
    let saved = path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(|e| e.to_string());
    if let Err(error) = saved.and_then(|()| profile.save(path).map_err(|e| e.to_string())) {
        tracing::warn!("the cost profile is not kept: {error}");
    }
}

/// A bar on standard error once measuring has taken a second, where that is a terminal.
struct Progress {
    start: Instant,
    bar: Option<indicatif::ProgressBar>,
    quiet: bool,
}

impl Progress {
    fn new(quiet: bool) -> Self {
        Self { start: Instant::now(), bar: None, quiet: quiet || !std::io::stderr().is_terminal() }
    }

    fn show(&mut self, done: usize, all: usize) {
        if self.quiet || (self.bar.is_none() && self.start.elapsed() < Duration::from_secs(1)) {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let style = indicatif::ProgressStyle::with_template("measuring ops {bar:40} {pos}/{len}");
            let bar = indicatif::ProgressBar::new(all as u64);
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar
        });
        bar.set_position(done as u64);
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_room_is_told_before_the_step() {
        assert!(room_on_host(Bytes::ZERO).is_ok());
        assert!(room_on_host(Bytes(1 << 20)).is_ok());
        let error = room_on_host(Bytes(u64::MAX)).unwrap_err().to_string();
        assert!(error.contains("host_memory") && error.contains("no room"), "{error}");
    }
}
