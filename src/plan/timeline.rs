//! The one simulator: what a list of steps does to memory and to the three lanes.
//!
//! ```text
//! now          |---------op1--------|------op2------|........|---op3---|
//! D2H                               |----offload v----|
//! H2D          |--load--|                             |prefetch v|
//! ```
//!
//! Steps are issued in the order of the list. A compute starts when the one before it has ended
//! and every prefetched input has arrived. An offload's copy starts when its lane is free and the
//! step is issued; a drop of an offloaded value, or taking its storage over, waits for that copy. A prefetch allocates when it
//! is issued; its copy starts when its lane is free and the value has reached the host. An op that only brings a tensor
//! from the host ([`Problem::loads`]) runs on that lane too: it allocates when it is issued, its copy starts when the lane
//! is free, and computing goes on meanwhile up to what reads the tensor.

use crate::cost::Problem;
use crate::entity::{EntityMap, OpId, ValueId};
use crate::error::{Error, Result};
use crate::plan::Step;
use crate::units::{Bytes, Nanos};

/// Where something runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// The device's compute queue.
    Compute,
    /// Device-to-host copies.
    DeviceToHost,
    /// Host-to-device copies.
    HostToDevice,
}

/// One thing that runs on a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where.
    pub lane: Lane,
    /// Index of the step that caused it.
    pub step: usize,
    /// When it starts.
    pub start: Nanos,
    /// When it ends.
    pub end: Nanos,
}

/// What happens when a plan's steps run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// The most live bytes at any instant.
    pub peak: Bytes,
    /// The step during which the peak is first reached.
    pub peak_step: usize,
    /// When the compute lane ends.
    pub time: Nanos,
    /// Live bytes during each step: for a compute with its outputs and workspace, for any other
    /// step after it.
    pub live: Vec<Bytes>,
    /// The most host bytes held at any instant.
    pub host_peak: Bytes,
    /// What runs on which lane, in the order of issue. Drops have no span.
    pub spans: Vec<Span>,
}

/// Run `steps` on paper.
///
/// # Errors
/// [`Error::InvalidProblem`] naming the first step that cannot run: an id out of range, an input
/// that is not live, an output that still is, a copy without a link. Whether the result is a legal
/// plan within a budget is for [`check`](crate::check::check) to say.
pub fn simulate(problem: &Problem, steps: &[Step]) -> Result<Timeline> {
    let mut state = Simulator::new(problem);
    for (index, step) in steps.iter().enumerate() {
        state.step(index, step).map_err(|why| Error::InvalidProblem { at: format!("step {index}"), why })?;
    }
    Ok(state.timeline)
}

/// Before which steps a device that queues what is asked of it, drops too, must have emptied its queue for the
/// steps to stay within `limit` whatever it does when: ascending.
///
/// Work in a queue may be done all at once (fused into one kernel, for example): then nothing that is dropped or
/// taken over in it makes room in it. An op that is alone in its queue does as the plan says. What is prefetched, and what ops of which
/// `at_once` is true make, does not wait: it is there while all that waits is done, workspace among it.
///
/// # Errors
/// Those of [`simulate`].
pub fn queue_ends(
    problem: &Problem,
    steps: &[Step],
    limit: Bytes,
    at_once: &dyn Fn(OpId) -> bool,
) -> Result<Vec<usize>> {
    let mut state = Simulator::new(problem);
    let mut ends = Vec::new();
    // What has been dropped or taken over since the queue was empty, and the most that any step in it may find.
    let (mut waiting, mut empty, mut most) = (Bytes::ZERO, true, Bytes::ZERO);
    for (index, step) in steps.iter().enumerate() {
        let before = state.device_bytes;
        state.step(index, step).map_err(|why| Error::InvalidProblem { at: format!("step {index}"), why })?;
        let during = state.timeline.live.last().copied().unwrap_or_default();
        let (held, taken) = match step {
            Step::Compute { op, inplace } => {
                let op_of = &problem.graph.ops()[*op];
                let value = |&(a, _): &(usize, usize)| problem.graph.values()[op_of.inputs[a]].storage;
                let taken = inplace.iter().map(|pair| problem.graph.storages()[value(pair)].bytes).sum();
                (during.saturating_sub(problem.costs.workspace[*op]), taken)
            }
            _ => (before.max(during), Bytes::ZERO),
        };
        let jumps = match step {
            Step::Compute { op, .. } => at_once(*op),
            Step::Prefetch(_) => true,
            _ => false,
        };
        let made = if jumps { state.device_bytes.saturating_sub(before) } else { Bytes::ZERO };
        if !empty && (during + waiting + taken > limit || most + made > limit) {
            ends.push(index);
            (waiting, most) = (Bytes::ZERO, Bytes::ZERO);
        }
        most = (most + made).max(during + waiting + taken);
        waiting += held.saturating_sub(state.device_bytes) + taken;
        empty = false;
    }
    Ok(ends)
}

/// A buffer on the device: one life of a storage.
#[derive(Clone, Copy)]
struct Buffer {
    bytes: Bytes,
    values: usize,
}

/// A copy on the host and when it got (or gets) there.
#[derive(Clone, Copy)]
struct HostCopy {
    arrives: Nanos,
}

struct Simulator<'a> {
    problem: &'a Problem,
    buffers: Vec<Buffer>,
    place: EntityMap<ValueId, Option<usize>>,
    arrives: EntityMap<ValueId, Nanos>,
    host: EntityMap<ValueId, Option<HostCopy>>,
    /// Offloads whose device bytes the next drop frees.
    leaving: EntityMap<ValueId, Option<Nanos>>,
    device_bytes: Bytes,
    host_bytes: Bytes,
    now: Nanos,
    d2h_free: Nanos,
    h2d_free: Nanos,
    timeline: Timeline,
}

impl<'a> Simulator<'a> {
    fn new(problem: &'a Problem) -> Self {
        let graph = &problem.graph;
        let values = graph.values().len();
        let mut state = Self {
            problem,
            buffers: Vec::with_capacity(values),
            place: EntityMap::filled(None, values),
            arrives: EntityMap::filled(Nanos::ZERO, values),
            host: EntityMap::filled(None, values),
            leaving: EntityMap::filled(None, values),
            device_bytes: Bytes::ZERO,
            host_bytes: Bytes::ZERO,
            now: Nanos::ZERO,
            d2h_free: Nanos::ZERO,
            h2d_free: Nanos::ZERO,
            timeline: Timeline {
                peak: Bytes::ZERO,
                peak_step: 0,
                time: Nanos::ZERO,
                live: Vec::new(),
                host_peak: Bytes::ZERO,
                spans: Vec::new(),
            },
        };
        for storage in graph.storages().values().filter(|s| s.resident) {
            let buffer = state.allocate(storage.bytes);
            for &v in &storage.values {
                if graph.values()[v].resident {
                    state.join(v, buffer);
                }
            }
        }
        state.timeline.peak = state.device_bytes;
        state
    }

    fn step(&mut self, index: usize, step: &Step) -> Result<(), String> {
        let during = match step {
            Step::Compute { op, inplace } => self.compute(index, *op, inplace)?,
            Step::Drop(v) => {
                self.live_value(*v)?;
                if let Some(end) = self.leaving[*v].take() {
                    self.now = self.now.max(end);
                }
                self.leave(*v);
                self.device_bytes
            }
            Step::Offload(v) => {
                self.offload(index, *v)?;
                self.device_bytes
            }
            Step::Prefetch(v) => {
                self.prefetch(index, *v)?;
                self.device_bytes
            }
        };
        self.timeline.live.push(during);
        if during > self.timeline.peak {
            self.timeline.peak = during;
            self.timeline.peak_step = index;
        }
        Ok(())
    }

    fn compute(&mut self, index: usize, id: OpId, inplace: &[(usize, usize)]) -> Result<Bytes, String> {
        let graph = &self.problem.graph;
        let op =
            graph.ops().get(id).ok_or_else(|| format!("there is no {id}: the graph has {} ops", graph.ops().len()))?;
        let mut start = self.now;
        if let Some((a, b)) = inplace.iter().find(|pair| !op.inplace.contains(pair)) {
            return Err(format!("{} does not allow the in-place pair [{a},{b}]", graph.describe_op(id)));
        }
        for &v in &op.inputs {
            self.live_value(v)?;
            start = start.max(self.arrives[v]);
        }
        for &v in &op.outputs {
            if self.place[v].is_some() {
                return Err(format!(
                    "{} writes {}, which is still live",
                    graph.describe_op(id),
                    graph.describe_value(v)
                ));
            }
        }
        for &(a, _) in inplace {
            // Taking storage over ends a life as a drop does: it waits for the copy to the host.
            start = start.max(self.leaving[op.inputs[a]].take().unwrap_or_default());
        }
        for (k, v) in graph.outputs_roots_first(id) {
            let value = &graph.values()[v];
            let buffer = if let Some(&(a, _)) = inplace.iter().find(|p| p.1 == k) {
                let input = op.inputs[a];
                let buffer =
                    self.place[input].ok_or_else(|| format!("{} is taken over twice", graph.describe_value(input)))?;
                // The buffer grows if the output needs more; equal sizes are the rule.
                let grown = self.buffers[buffer].bytes.max(graph.storages()[value.storage].bytes);
                self.device_bytes += grown - self.buffers[buffer].bytes;
                self.buffers[buffer].bytes = grown;
                buffer
            } else {
                let shared = match value.alias_of {
                    None => None,
                    Some(_) => op
                        .inputs
                        .iter()
                        .chain(&op.outputs)
                        .filter(|&&u| u != v && graph.values()[u].storage == value.storage)
                        .find_map(|&u| self.place[u]),
                };
                shared.unwrap_or_else(|| self.allocate(graph.storages()[value.storage].bytes))
            };
            self.join(v, buffer);
            self.leaving[v] = None;
        }
        let during = self.device_bytes + self.problem.costs.workspace[id];
        for &(a, _) in inplace {
            self.leave(op.inputs[a]);
        }
        let loads = self.problem.loads(id);
        if loads {
            start = start.max(self.h2d_free);
        }
        let end = start + self.problem.costs.time[id];
        for &v in &op.outputs {
            self.arrives[v] = end;
        }
        if loads {
            self.h2d_free = end;
            self.span(Lane::HostToDevice, index, start, end);
        } else {
            self.now = end;
            self.timeline.time = end;
            self.span(Lane::Compute, index, start, end);
        }
        Ok(during)
    }

    fn offload(&mut self, index: usize, v: ValueId) -> Result<(), String> {
        self.live_value(v)?;
        let value = &self.problem.graph.values()[v];
        if self.host[v].is_some() {
            return Err(format!("{} is on the host already", self.problem.graph.describe_value(v)));
        }
        let duration = copied(value.bytes, self.problem.device.d2h_bytes_per_s, "device-to-host")?;
        let start = self.d2h_free.max(self.now).max(self.arrives[v]);
        let end = start + duration;
        self.d2h_free = end;
        self.host[v] = Some(HostCopy { arrives: end });
        self.leaving[v] = Some(end);
        self.host_bytes += value.bytes;
        self.timeline.host_peak = self.timeline.host_peak.max(self.host_bytes);
        self.span(Lane::DeviceToHost, index, start, end);
        Ok(())
    }

    fn prefetch(&mut self, index: usize, v: ValueId) -> Result<(), String> {
        let graph = &self.problem.graph;
        if graph.values().get(v).is_none() {
            return Err(format!("there is no {v}: the graph has {} values", graph.values().len()));
        }
        let value = &graph.values()[v];
        if self.place[v].is_some() {
            return Err(format!("{} is prefetched, but still live on the device", graph.describe_value(v)));
        }
        let Some(copy) = self.host[v].take() else {
            return Err(format!("{} is prefetched, but not on the host", graph.describe_value(v)));
        };
        let duration = copied(value.bytes, self.problem.device.h2d_bytes_per_s, "host-to-device")?;
        let start = self.h2d_free.max(self.now).max(copy.arrives);
        let end = start + duration;
        self.h2d_free = end;
        self.arrives[v] = end;
        self.host_bytes -= value.bytes;
        let buffer = self.allocate(graph.storages()[value.storage].bytes);
        self.join(v, buffer);
        self.span(Lane::HostToDevice, index, start, end);
        Ok(())
    }

    fn live_value(&self, v: ValueId) -> Result<usize, String> {
        let graph = &self.problem.graph;
        match self.place.get(v) {
            None => Err(format!("there is no {v}: the graph has {} values", graph.values().len())),
            Some(None) => Err(format!("{} is not live", graph.describe_value(v))),
            Some(Some(buffer)) => Ok(*buffer),
        }
    }

    fn span(&mut self, lane: Lane, step: usize, start: Nanos, end: Nanos) {
        self.timeline.spans.push(Span { lane, step, start, end });
    }

    fn allocate(&mut self, bytes: Bytes) -> usize {
        self.device_bytes += bytes;
        self.buffers.push(Buffer { bytes, values: 0 });
        self.buffers.len() - 1
    }

    fn join(&mut self, v: ValueId, buffer: usize) {
        self.place[v] = Some(buffer);
        self.buffers[buffer].values += 1;
    }

    fn leave(&mut self, v: ValueId) {
        if let Some(buffer) = self.place[v].take() {
            self.buffers[buffer].values -= 1;
            if self.buffers[buffer].values == 0 {
                // Sums saturate only for sizes that no device has; then the peak is 2^64 - 1.
                self.device_bytes = self.device_bytes.saturating_sub(self.buffers[buffer].bytes);
            }
        }
    }
}

/// How long a copy of `bytes` takes over a link that the device must have.
fn copied(bytes: Bytes, bytes_per_s: u64, link: &str) -> Result<Nanos, String> {
    match bytes_per_s {
        0 => Err(format!("the device has no {link} link (its bandwidth is 0)")),
        speed => Ok(bytes.moved_at(speed)),
    }
}
