//! The independent oracle: is a plan legal, and does it stay within its budget?
//!
//! It shares no code with the solvers, the simulator or the runtime; it knows the graph, the costs
//! and the list of steps, and plays the list by the rules below. A plan is legal when, and only
//! when, all of them hold.
//!
//! **State.** A set of buffers on the device, each with a size and the values that live in it; a
//! set of values with a copy on the host. At the start the resident values live, those of one
//! storage in one buffer.
//!
//! 1. `compute o` — every input of `o` lives on the device and no output of `o` does; `o` may run
//!    again unless it is `once`. A view joins the buffer of the storage it shares; any other
//!    output gets a new buffer, or with `inplace [a,b]` takes over the buffer of input `a`.
//! 2. `inplace [a,b]` — the op lists the pair, no input and no output stands in two pairs, input
//!    `a` is not resident, no other value lives in its buffer, and the op makes no view of it.
//!    The input's life ends.
//! 3. `drop v` — `v` lives on the device and is not resident. A buffer goes with its last value.
//! 4. `offload v` — `v` lives on the device and has no copy on the host; there is a link.
//! 5. `prefetch v` — `v` has a copy on the host and does not live on the device; there is a link.
//!    The copy on the host ends.
//! 6. At the end every output lives on the device, and each `once` op that makes something ran.
//! 7. At every instant the sizes of the buffers (and the workspace of the op that runs) add up to
//!    no more than the budget, and the copies on the host to no more than the host's memory.

use std::collections::BTreeMap;

use crate::cost::Problem;
use crate::entity::{Entity, OpId, ValueId};
use crate::error::Result;
use crate::graph::Replay;
use crate::plan::{Plan, Step};
use crate::units::Bytes;

/// What a checked plan was found to need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The most bytes on the device at any instant.
    pub peak: Bytes,
    /// The most bytes on the host at any instant.
    pub host_peak: Bytes,
}

/// The first rule a plan breaks, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("step {step}: {rule}")]
pub struct Violation {
    /// Index of the step; one past the last for what must hold at the end.
    pub step: usize,
    /// The rule.
    pub rule: Rule,
}

/// The ways a plan can be illegal. Ops and values are described as `op12 (Float.Matmul)`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // each message says what its fields are
pub enum Rule {
    #[error("there is no op {index}: the graph has {count}")]
    NoSuchOp { index: usize, count: usize },
    #[error("there is no value {index}: the graph has {count}")]
    NoSuchValue { index: usize, count: usize },
    #[error("{op} reads {value}, which does not live on the device")]
    InputNotLive { op: String, value: String },
    #[error("{op} writes {value}, which still lives: drop it first")]
    OutputLive { op: String, value: String },
    #[error("{op} has side effects and ran before")]
    RunsTwice { op: String },
    #[error("{op} does not allow the in-place pair [{a},{b}]")]
    PairNotAllowed { op: String, a: usize, b: usize },
    #[error("{op} uses an input or output in two in-place pairs")]
    PairTwice { op: String },
    #[error("{op} may not take over {value}: {why}")]
    NotTakeable { op: String, value: String, why: &'static str },
    #[error("{value} is dropped, but does not live on the device")]
    DropNotLive { value: String },
    #[error("{value} is resident and cannot be dropped")]
    DropResident { value: String },
    #[error("{value} is offloaded, but {why}")]
    BadOffload { value: String, why: &'static str },
    #[error("{value} is prefetched, but {why}")]
    BadPrefetch { value: String, why: &'static str },
    #[error("output {value} does not live at the end")]
    OutputMissing { value: String },
    #[error("{op} has side effects but never ran")]
    NeverRan { op: String },
    #[error("{used} bytes are live, {over} over the budget of {budget}")]
    OverBudget { used: u64, over: u64, budget: u64 },
    #[error("{used} bytes are held on the host, over its {limit}")]
    OverHostMemory { used: u64, limit: u64 },
}

/// Check a plan: made for this graph, legal, and within its own budget.
///
/// # Errors
/// [`Error::PlanForAnotherGraph`](crate::Error::PlanForAnotherGraph) or
/// [`Error::IllegalPlan`](crate::Error::IllegalPlan) with the first violation.
pub fn check(problem: &Problem, plan: &Plan) -> Result<Checked> {
    plan.belongs_to(&problem.graph)?;
    Ok(check_steps(problem, &plan.steps, plan.budget)?)
}

/// Check bare steps against a budget.
///
/// # Errors
/// The first [`Violation`].
pub fn check_steps(problem: &Problem, steps: &[Step], budget: Bytes) -> Result<Checked, Violation> {
    let mut oracle = Oracle::new(problem, budget);
    oracle.within_budget(Bytes::ZERO).map_err(|rule| Violation { step: 0, rule })?;
    for (index, step) in steps.iter().enumerate() {
        oracle.play(step).map_err(|rule| Violation { step: index, rule })?;
    }
    oracle.end().map_err(|rule| Violation { step: steps.len(), rule })?;
    Ok(oracle.seen)
}

/// A buffer: its size and how many values live in it.
struct Room {
    bytes: u64,
    tenants: usize,
}

struct Oracle<'a> {
    problem: &'a Problem,
    budget: Bytes,
    rooms: BTreeMap<usize, Room>,
    next_room: usize,
    /// Room of every value that lives on the device.
    home: Vec<Option<usize>>,
    on_host: Vec<bool>,
    ran: Vec<bool>,
    /// Wide enough for as many buffers as there are values, each as large as can be written.
    device_bytes: u128,
    host_bytes: u64,
    seen: Checked,
}

impl<'a> Oracle<'a> {
    fn new(problem: &'a Problem, budget: Bytes) -> Self {
        let graph = &problem.graph;
        let mut oracle = Self {
            problem,
            budget,
            rooms: BTreeMap::new(),
            next_room: 0,
            home: vec![None; graph.values().len()],
            on_host: vec![false; graph.values().len()],
            ran: vec![false; graph.ops().len()],
            device_bytes: 0,
            host_bytes: 0,
            seen: Checked { peak: Bytes::ZERO, host_peak: Bytes::ZERO },
        };
        let mut room_of_storage = BTreeMap::new();
        for (v, value) in graph.values().iter().filter(|(_, value)| value.resident) {
            let size = graph.storages()[value.storage].bytes.get();
            let room = *room_of_storage.entry(value.storage).or_insert_with(|| oracle.build(size));
            oracle.move_in(v, room);
        }
        oracle
    }

    fn play(&mut self, step: &Step) -> Result<(), Rule> {
        match step {
            Step::Compute { op, inplace } => self.compute(*op, inplace),
            Step::Drop(v) => {
                let v = self.known(*v)?;
                if self.home[v.index()].is_none() {
                    return Err(Rule::DropNotLive { value: self.value(v) });
                }
                if self.problem.graph.values()[v].resident {
                    return Err(Rule::DropResident { value: self.value(v) });
                }
                self.move_out(v);
                Ok(())
            }
            Step::Offload(v) => self.offload(*v),
            Step::Prefetch(v) => self.prefetch(*v),
        }
    }

    fn compute(&mut self, id: OpId, pairs: &[(usize, usize)]) -> Result<(), Rule> {
        let graph = &self.problem.graph;
        let count = graph.ops().len();
        if id.index() >= count {
            return Err(Rule::NoSuchOp { index: id.index(), count });
        }
        let op = &graph.ops()[id];
        let name = graph.describe_op(id);
        for &v in &op.inputs {
            if self.home[v.index()].is_none() {
                return Err(Rule::InputNotLive { op: name, value: self.value(v) });
            }
        }
        for &v in &op.outputs {
            if self.home[v.index()].is_some() {
                return Err(Rule::OutputLive { op: name, value: self.value(v) });
            }
        }
        if op.replay == Replay::Once && self.ran[id.index()] {
            return Err(Rule::RunsTwice { op: name });
        }
        self.ran[id.index()] = true;
        for (k, &(a, b)) in pairs.iter().enumerate() {
            if !op.inplace.contains(&(a, b)) {
                return Err(Rule::PairNotAllowed { op: name, a, b });
            }
            if pairs[..k].iter().any(|&(x, y)| x == a || y == b || op.inputs[x] == op.inputs[a]) {
                return Err(Rule::PairTwice { op: name });
            }
            let input = op.inputs[a];
            let not = |why| Rule::NotTakeable { op: name.clone(), value: self.value(input), why };
            if graph.values()[input].resident {
                return Err(not("it is resident"));
            }
            let room = self.home[input.index()].expect("inputs were found live");
            if self.rooms[&room].tenants != 1 {
                return Err(not("another live value shares its storage"));
            }
            if op.outputs.iter().any(|&v| graph.values()[v].storage == graph.values()[input].storage) {
                return Err(not("the op also makes a view of it"));
            }
        }

        // Everything the op reads and writes is there at once. Views come last: the storage they
        // join may be another output's.
        let mut moving = Vec::new();
        let mut arriving: Vec<(usize, ValueId)> = op.outputs.iter().copied().enumerate().collect();
        arriving.sort_by_key(|&(k, v)| (graph.values()[v].alias_of.is_some(), k));
        for (k, v) in arriving {
            let value = &graph.values()[v];
            let needs = graph.storages()[value.storage].bytes.get();
            let room = if let Some(&(a, _)) = pairs.iter().find(|pair| pair.1 == k) {
                let input = op.inputs[a];
                let room = self.home[input.index()].expect("inputs were found live");
                moving.push(input);
                self.widen(room, needs);
                room
            } else if value.alias_of.is_some()
                && let Some(room) = self.shared_room(id, v)
            {
                room
            } else {
                self.build(needs)
            };
            self.move_in(v, room);
        }
        self.within_budget(self.problem.costs.workspace[id])?;
        for v in moving {
            self.move_out(v);
        }
        Ok(())
    }

    /// The buffer a view joins: that of an input, or another output, of the same storage.
    fn shared_room(&self, id: OpId, v: ValueId) -> Option<usize> {
        let graph = &self.problem.graph;
        let op = &graph.ops()[id];
        let mut around = op.inputs.iter().chain(&op.outputs);
        around.find_map(|&u| match u != v && graph.values()[u].storage == graph.values()[v].storage {
            true => self.home[u.index()],
            false => None,
        })
    }

    fn offload(&mut self, v: ValueId) -> Result<(), Rule> {
        let v = self.known(v)?;
        let bad = |why| Rule::BadOffload { value: self.value(v), why };
        if self.home[v.index()].is_none() {
            return Err(bad("it does not live on the device"));
        }
        if self.on_host[v.index()] {
            return Err(bad("it has a copy on the host already"));
        }
        if self.problem.device.d2h_bytes_per_s == 0 {
            return Err(bad("the device has no link to the host"));
        }
        self.on_host[v.index()] = true;
        self.host_bytes = self.host_bytes.saturating_add(self.problem.graph.values()[v].bytes.get());
        self.seen.host_peak = self.seen.host_peak.max(Bytes(self.host_bytes));
        let limit = self.problem.device.host_memory.get();
        match self.host_bytes > limit {
            true => Err(Rule::OverHostMemory { used: self.host_bytes, limit }),
            false => Ok(()),
        }
    }

    fn prefetch(&mut self, v: ValueId) -> Result<(), Rule> {
        let v = self.known(v)?;
        let bad = |why| Rule::BadPrefetch { value: self.value(v), why };
        if !self.on_host[v.index()] {
            return Err(bad("it has no copy on the host"));
        }
        if self.home[v.index()].is_some() {
            return Err(bad("it still lives on the device"));
        }
        if self.problem.device.h2d_bytes_per_s == 0 {
            return Err(bad("the host has no link to the device"));
        }
        self.on_host[v.index()] = false;
        let graph = &self.problem.graph;
        self.host_bytes -= graph.values()[v].bytes.get();
        let room = self.build(graph.storages()[graph.values()[v].storage].bytes.get());
        self.move_in(v, room);
        self.within_budget(Bytes::ZERO)
    }

    fn end(&self) -> Result<(), Rule> {
        let graph = &self.problem.graph;
        for &v in graph.outputs() {
            if self.home[v.index()].is_none() {
                return Err(Rule::OutputMissing { value: self.value(v) });
            }
        }
        for (id, op) in graph.ops().iter() {
            if op.replay == Replay::Once && !self.ran[id.index()] {
                return Err(Rule::NeverRan { op: graph.describe_op(id) });
            }
        }
        Ok(())
    }

    fn within_budget(&mut self, workspace: Bytes) -> Result<(), Rule> {
        let used = u64::try_from(self.device_bytes + u128::from(workspace.get())).unwrap_or(u64::MAX);
        self.seen.peak = self.seen.peak.max(Bytes(used));
        let budget = self.budget.get();
        match used > budget {
            true => Err(Rule::OverBudget { used, over: used - budget, budget }),
            false => Ok(()),
        }
    }

    fn known(&self, v: ValueId) -> Result<ValueId, Rule> {
        let count = self.home.len();
        match v.index() < count {
            true => Ok(v),
            false => Err(Rule::NoSuchValue { index: v.index(), count }),
        }
    }

    fn value(&self, v: ValueId) -> String {
        self.problem.graph.describe_value(v)
    }

    fn build(&mut self, bytes: u64) -> usize {
        self.device_bytes += u128::from(bytes);
        self.rooms.insert(self.next_room, Room { bytes, tenants: 0 });
        self.next_room += 1;
        self.next_room - 1
    }

    fn widen(&mut self, room: usize, needs: u64) {
        let room = self.rooms.get_mut(&room).expect("the room of a live value");
        let more = needs.saturating_sub(room.bytes);
        room.bytes += more;
        self.device_bytes += u128::from(more);
    }

    fn move_in(&mut self, v: ValueId, room: usize) {
        self.home[v.index()] = Some(room);
        self.rooms.get_mut(&room).expect("the room was built").tenants += 1;
    }

    fn move_out(&mut self, v: ValueId) {
        let room = self.home[v.index()].take().expect("only live values move out");
        let tenants = &mut self.rooms.get_mut(&room).expect("the room of a live value").tenants;
        *tenants -= 1;
        if *tenants == 0 {
            let gone = self.rooms.remove(&room).expect("it was there");
            self.device_bytes -= u128::from(gone.bytes);
        }
    }
}
