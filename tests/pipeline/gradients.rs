//! What schedules compute: the weights after a step of a pipeline are those of the same step without one, for every
//! schedule that the verifier accepts.

use std::collections::{BTreeMap, VecDeque};

use plimsoll::pipeline::{Action, Chunk, Device, Microbatch, Schedule, names, verify};

use super::hand::{BOTH, SPLIT, THREE, TWO, VEE, by_hand};
use super::{Numbers, any_schedule, generate};

/// A model over integers that wrap: chunk `c` turns `x` into `w x^2`; its gradients are `2 w x g` and `x^2 g`; the
/// gradient of the loss is what the last chunk made, times the number of the microbatch. All of it depends on every
/// weight and input there is, and sums do not depend on their order.
fn start(c: Chunk) -> u64 {
    2 * u64::from(c.0) + 3
}

fn input(m: Microbatch) -> u64 {
    2 * u64::from(m.0) + 5
}

fn loss(m: Microbatch, y: u64) -> u64 {
    y.wrapping_mul(u64::from(m.0) + 1)
}

/// The weights after one step, without a pipeline.
fn plain(chunks: usize, microbatches: usize) -> Vec<u64> {
    let weights: Vec<u64> = (0..chunks).map(|c| start(Chunk(c as u32))).collect();
    let mut after = weights.clone();
    for m in (0..microbatches).map(|m| Microbatch(m as u32)) {
        let mut inputs = vec![input(m)];
        for &w in &weights {
            let x = inputs[inputs.len() - 1];
            inputs.push(w.wrapping_mul(x).wrapping_mul(x));
        }
        let mut g = loss(m, inputs[chunks]);
        for c in (0..chunks).rev() {
            let x = inputs[c];
            after[c] = after[c].wrapping_sub(x.wrapping_mul(x).wrapping_mul(g));
            g = g.wrapping_mul(2).wrapping_mul(weights[c]).wrapping_mul(x);
        }
    }
    after
}

type At = (Microbatch, Chunk);

/// A device: what it has made or received, its weights, the sums of their gradients.
#[derive(Default)]
struct Worker {
    outputs: BTreeMap<At, u64>,
    gradients: BTreeMap<At, u64>,
    inputs: BTreeMap<At, u64>,
    weights: BTreeMap<Chunk, u64>,
    sums: BTreeMap<Chunk, u64>,
    done: usize,
}

impl Worker {
    /// A computation; none if something it reads is not there.
    fn compute(&mut self, schedule: &Schedule, action: Action) -> Option<()> {
        let (c, m) = (action.chunk(), action.microbatch()?);
        match action {
            Action::Forward(..) => {
                let x = match c.0 {
                    0 => input(m),
                    _ => *self.outputs.get(&(m, Chunk(c.0 - 1)))?,
                };
                self.inputs.insert((m, c), x);
                self.outputs.insert((m, c), self.weights.get(&c)?.wrapping_mul(x).wrapping_mul(x));
            }
            // What the backward reads is made anew of what is there now.
            Action::Recompute(..) => {
                let x = *self.inputs.get(&(m, c))?;
                self.outputs.insert((m, c), self.weights.get(&c)?.wrapping_mul(x).wrapping_mul(x));
            }
            Action::Backward(..) => {
                self.input_gradient(schedule, m, c)?;
                self.weight_gradient(schedule, m, c)?;
            }
            Action::InputGradient(..) => self.input_gradient(schedule, m, c)?,
            Action::WeightGradient(..) => {
                self.gradients.get(&(m, c))?;
                self.weight_gradient(schedule, m, c)?;
            }
            _ => {}
        }
        Some(())
    }

    /// The gradient of the chunk's output.
    fn incoming(&self, schedule: &Schedule, m: Microbatch, c: Chunk) -> Option<u64> {
        if c.index() + 1 == schedule.chunks() {
            return Some(loss(m, *self.outputs.get(&(m, c))?));
        }
        self.gradients.get(&(m, Chunk(c.0 + 1))).copied()
    }

    fn input_gradient(&mut self, schedule: &Schedule, m: Microbatch, c: Chunk) -> Option<()> {
        let (x, w, g) = (*self.inputs.get(&(m, c))?, *self.weights.get(&c)?, self.incoming(schedule, m, c)?);
        self.gradients.insert((m, c), g.wrapping_mul(2).wrapping_mul(w).wrapping_mul(x));
        Some(())
    }

    fn weight_gradient(&mut self, schedule: &Schedule, m: Microbatch, c: Chunk) -> Option<()> {
        let (x, g) = (*self.inputs.get(&(m, c))?, self.incoming(schedule, m, c)?);
        let sum = self.sums.entry(c).or_default();
        *sum = sum.wrapping_add(x.wrapping_mul(x).wrapping_mul(g));
        Some(())
    }
}

/// The weights of each chunk after a schedule; none if it does not come to its end, or its replicas differ.
fn executed(schedule: &Schedule) -> Option<Vec<u64>> {
    let mut workers: Vec<Worker> = schedule.devices().iter().map(|_| Worker::default()).collect();
    for c in (0..schedule.chunks()).map(|c| Chunk(c as u32)) {
        for holder in schedule.holders(c) {
            workers[holder.index()].weights.insert(c, start(c));
        }
    }
    let mut queues: BTreeMap<(usize, usize, bool), VecDeque<u64>> = BTreeMap::new();
    let (mut moved, next) = (true, |workers: &[Worker], d: usize| schedule.devices()[d].get(workers[d].done).copied());
    while moved {
        moved = false;
        for d in 0..workers.len() {
            while let Some(action) = next(&workers, d) {
                let at = action.microbatch().map(|m| (m, action.chunk()));
                match (action, action.peer().map(Device::index)) {
                    (Action::SendActivation(..) | Action::SendGradient(..), Some(to)) => {
                        let gradient = matches!(action, Action::SendGradient(..));
                        let queue = queues.entry((d, to, gradient)).or_default();
                        if queue.len() >= schedule.queue().max(1) as usize {
                            break;
                        }
                        let made = if gradient { &workers[d].gradients } else { &workers[d].outputs };
                        queue.push_back(*made.get(&at?)?);
                    }
                    (Action::ReceiveActivation(..) | Action::ReceiveGradient(..), Some(from)) => {
                        let gradient = matches!(action, Action::ReceiveGradient(..));
                        let Some(message) = queues.entry((from, d, gradient)).or_default().pop_front() else { break };
                        let taken = if gradient { &mut workers[d].gradients } else { &mut workers[d].outputs };
                        taken.insert(at?, message);
                    }
                    (Action::Update(c), _) => {
                        let holders = schedule.holders(c);
                        if holders.iter().any(|h| next(&workers, h.index()) != Some(action)) {
                            break;
                        }
                        let sums = holders.iter().map(|h| workers[h.index()].sums.get(&c).copied().unwrap_or(0));
                        let sum = sums.fold(0, u64::wrapping_add);
                        for other in holders.into_iter().filter(|h| h.index() != d) {
                            let other = &mut workers[other.index()];
                            let weight = other.weights.get_mut(&c)?;
                            (*weight, other.done) = (weight.wrapping_sub(sum), other.done + 1);
                        }
                        let weight = workers[d].weights.get_mut(&c)?;
                        *weight = weight.wrapping_sub(sum);
                    }
                    _ => workers[d].compute(schedule, action)?,
                }
                workers[d].done += 1;
                moved = true;
            }
        }
    }
    if (0..workers.len()).any(|d| next(&workers, d).is_some()) {
        return None;
    }
    let weight = |c: Chunk| {
        let all: Vec<u64> = schedule.holders(c).iter().map(|d| workers[d.index()].weights[&c]).collect();
        all.windows(2).all(|pair| pair[0] == pair[1]).then(|| all[0])
    };
    (0..schedule.chunks()).map(|c| weight(Chunk(c as u32))).collect()
}

/// Whether it ends with the weights it must.
fn right(schedule: &Schedule) -> bool {
    executed(schedule) == Some(plain(schedule.chunks(), schedule.microbatches()))
}

#[test]
fn every_generated_schedule_computes_what_no_pipeline_does() {
    for name in names() {
        for p in [1, 2, 3, 4, 5, 8, 16] {
            for m in [1, 2, 3, 4, 5, 8, 16, 32, 64] {
                let fits = match name {
                    "chimera" => p % 2 == 0 && m % 2 == 0 && (m <= p || m % p == 0),
                    "interleaved" => m % p == 0,
                    _ => true,
                };
                if !fits {
                    continue;
                }
                let schedule = generate(name, p, m, None);
                assert!(right(&schedule), "{name} {p} {m}");
                if p <= 4 && m <= 8 {
                    assert!(right(&schedule.replicated(3).unwrap()), "three replicas of {name} {p} {m}");
                }
            }
        }
    }
}

#[test]
fn schedules_that_compute_something_else_are_rejected() {
    let mut numbers = Numbers(19);
    let hand = [TWO, SPLIT, VEE, BOTH, THREE].map(|good| by_hand(good, 1, &[]));
    let (mut accepted, mut wrong) = (0, 0);
    for case in 0..20_000 {
        let good = match numbers.below(2) {
            0 => hand[numbers.below(5) as usize].clone(),
            _ => any_schedule(&mut numbers),
        };
        let mut devices = good.devices().to_vec();
        for _ in 0..1 + numbers.below(3) {
            let d = numbers.below(devices.len() as u64) as usize;
            let list = &mut devices[d];
            if list.is_empty() {
                continue;
            }
            let count = list.len();
            let [a, b] = [0, 1].map(|_| numbers.below(count as u64) as usize);
            match numbers.below(8) {
                // Near each other more often than not: that may be harmless.
                0..4 => list.swap(a, (a + 1) % count),
                4 => list.swap(a, b),
                5 => {
                    list.remove(a);
                }
                6 => list.insert(b, list[a]),
                _ => {
                    if let (Some(m), c) = (list[a].microbatch(), list[a].chunk()) {
                        list.insert(b, Action::Recompute(m, c));
                    }
                }
            }
        }
        let queue = 1 + numbers.below(3) as u32;
        let route_of = (0..good.microbatches()).map(|m| {
            let of = |route: &Vec<Device>| {
                let here = |c: u32| route[c as usize] == good.device_of(Microbatch(m as u32), Chunk(c));
                (0..good.chunks() as u32).all(here)
            };
            good.routes().iter().position(of).unwrap() as u32
        });
        let changed =
            Schedule::new("changed", queue, good.routes().to_vec(), route_of.collect(), devices.clone()).unwrap();
        let (verdict, right) = (verify(&changed), right(&changed));
        assert!(verdict.is_err() || right, "case {case}: {changed:?}");
        accepted += usize::from(verdict.is_ok() && devices != good.devices());
        wrong += usize::from(!right);
    }
    // The cases are neither all harmless nor all hopeless.
    assert!(accepted > 1000 && wrong > 5000, "{accepted} {wrong}");
}
