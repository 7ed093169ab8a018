//! Measuring what ops cost: one measurement per distinct signature, kept for the next run, and once for a device what
//! each takes at least when they are many.

use std::fmt;

use crate::cost::{OpCost, Profile};
use crate::entity::{EntityMap, OpId, ValueId};
use crate::error::{Error, Result, shortened};
use crate::units::{Bytes, Nanos};

/// Something that can run one op of a program by itself and say what it did.
///
/// Implemented by the runtime; this module decides what to measure and what to keep.
pub trait Probe {
    /// The ops, in order.
    fn ops(&self) -> usize;
    /// Values read and written by an op.
    fn reads_and_writes(&self, op: OpId) -> (Vec<ValueId>, Vec<ValueId>);
    /// Its outputs where `op` does nothing but stand for what is there from the start, or for what comes from elsewhere.
    fn stands_for(&self, op: OpId) -> Option<Vec<ValueId>>;
    /// How a value that is there from the start, or comes from elsewhere, lies in memory.
    fn layout_at_start(&self, value: ValueId) -> String;
    /// A name for everything the cost of `op` depends on, its inputs' layouts included.
    fn signature(&self, op: OpId, layouts: &[&str]) -> String;
    /// Run the op and measure it.
    ///
    /// # Errors
    /// [`Error::Execution`] when the op cannot run by itself.
    fn measure(&mut self, op: OpId, layouts: &[&str]) -> Result<OpCost>;
    /// Ask for ops one after the other, as a step asks for them, and say how long all but the first `lead` take until they
    /// are done; `None` where ops are done when they are asked for.
    ///
    /// # Errors
    /// [`Error::Execution`] when they cannot run without what comes before them.
    fn row(&mut self, ops: &[OpId], lead: usize, layout: &dyn Fn(ValueId) -> String) -> Result<Option<Nanos>>;
}

/// Ops that are asked for one after the other to measure what that takes, and those of them that only get the device going.
const ROW: usize = 64;
const LEAD: usize = 8;
/// Rows that are measured, from all over a step.
const ROWS: usize = 7;
/// What a row may hold.
const HELD: u64 = 256 << 20;
/// What its ops may take: where they take longer, launching them is hidden.
const SHORT: u64 = ROW as u64 * 1_000_000;

/// The cost of every op: looked up in `profile` by signature, measured and added to it where it
/// is not there yet, or where what is there cannot be the op's. `progress` is called with the number
/// of ops done and the number of ops.
///
/// # Errors
/// Those of [`Probe::measure`].
pub fn measure(
    probe: &mut dyn Probe,
    values: usize,
    profile: &mut Profile,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<EntityMap<OpId, OpCost>> {
    let (mut done, count) = (0, probe.ops());
    let (costs, layouts) = each(probe, values, &mut |probe, sought| {
        let known = profile.get(&sought.signature).filter(|cost| sought.contradiction(cost).is_none());
        let cost = match known {
            Some(known) => known.clone(),
            None => {
                let cost = probe.measure(sought.op, &sought.layouts)?;
                profile.insert(sought.signature, cost.clone());
                cost
            }
        };
        done += 1;
        progress(done, count);
        Ok(cost)
    })?;
    if profile.launch.is_none() {
        profile.launch = launch(probe, &costs, &layouts);
    }
    Ok(costs)
}

/// What an op takes at least as one of many: the median of some rows of the program's ops. `None` where no row shows it.
fn launch(probe: &mut dyn Probe, costs: &EntityMap<OpId, OpCost>, layouts: &Layouts) -> Option<Nanos> {
    let ops: Vec<OpId> = costs.keys().filter(|&op| probe.stands_for(op).is_none()).collect();
    let time = |ops: &[OpId]| ops.iter().map(|&op| costs[op].time.get()).sum::<u64>();
    let short = |ops: &&[OpId]| {
        let bytes: u64 = ops.iter().flat_map(|&op| &costs[op].sizes).map(|size| size.get()).sum();
        bytes <= HELD && time(ops) <= SHORT
    };
    let rows: Vec<&[OpId]> = ops.chunks_exact(ROW).filter(short).collect();
    let mut least = Vec::new();
    for row in rows.iter().step_by(rows.len().div_ceil(ROWS).max(1)) {
        let layout = |v: ValueId| layouts[v].clone().unwrap_or_default();
        match probe.row(row, LEAD, &layout) {
            Ok(Some(took)) => {
                let computes = row[LEAD..].iter().map(|&op| &costs[op]).filter(|cost| cost.computes());
                least.push(at_least(computes.map(|cost| cost.time.get()).collect(), took.get()));
            }
            Ok(None) => return None,
            // What is made of stand-ins by one op need not suit the next.
            Err(error) => tracing::debug!("a row of ops was not measured: {error}"),
        }
    }
    least.sort_unstable();
    least.get(least.len() / 2).map(|&nanos| Nanos(nanos))
}

/// What each of these must take at least for all to take `whole`; zero where they take that anyway.
fn at_least(mut each: Vec<u64>, whole: u64) -> u64 {
    each.sort_unstable();
    let mut longer: u64 = each.iter().sum();
    if longer >= whole {
        return 0;
    }
    for (shorter, &time) in each.iter().enumerate() {
        // So many are shorter than this one, and as long as it is not enough to make them as long.
        if longer + shorter as u64 * time >= whole {
            return (whole - longer) / shorter.max(1) as u64;
        }
        longer -= time;
    }
    whole.checked_div(each.len() as u64).unwrap_or(0)
}

/// The cost of every op, as `profile` has it: nothing is run.
///
/// # Errors
/// [`Error::InvalidInput`] where the profile lacks an op or contradicts it.
pub fn look_up(probe: &mut dyn Probe, values: usize, profile: &Profile) -> Result<EntityMap<OpId, OpCost>> {
    let costs = each(probe, values, &mut |_, sought| {
        let why = match profile.get(&sought.signature) {
            None => format!("lacks {sought}: it is of another step; measure this one there"),
            Some(cost) => match sought.contradiction(cost) {
                None => return Ok(cost.clone()),
                Some(what) => format!("contradicts {sought}: {what}; measure it anew"),
            },
        };
        Err(Error::InvalidInput { why: format!("the profile of {} {why}", profile.device) })
    });
    costs.map(|(costs, _)| costs)
}

/// An op whose cost is sought.
struct Sought<'a> {
    op: OpId,
    layouts: Vec<&'a str>,
    signature: String,
    inputs: usize,
    outputs: usize,
}

impl Sought<'_> {
    /// What of `cost` this op cannot do, if anything: files may say what they like.
    fn contradiction(&self, cost: &OpCost) -> Option<&'static str> {
        let each = [cost.views.len(), cost.sizes.len(), cost.layouts.len()];
        if each.iter().any(|&n| n != self.outputs) {
            return Some("it has another number of outputs");
        }
        if cost.views.iter().flatten().any(|&a| a >= self.inputs) {
            return Some("there is no such input as an output is a view of");
        }
        if cost.inplace.iter().any(|&(a, b)| a >= self.inputs || b >= self.outputs) {
            return Some("an in-place pair is out of range");
        }
        if cost.sizes.iter().any(|&size| size > Bytes(1 << 62)) {
            return Some("an output has more than 2^62 bytes");
        }
        None
    }
}

impl fmt::Display for Sought<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.op, shortened(&self.signature))
    }
}

/// How each value lies in memory, of those that are read or made.
type Layouts = EntityMap<ValueId, Option<String>>;

/// What `cost_of` says of every op, in order: how the inputs of one lie in memory is told by the costs
/// of those before it.
fn each(
    probe: &mut dyn Probe,
    values: usize,
    cost_of: &mut dyn FnMut(&mut dyn Probe, Sought<'_>) -> Result<OpCost>,
) -> Result<(EntityMap<OpId, OpCost>, Layouts)> {
    let mut layouts: Layouts = EntityMap::filled(None, values);
    let mut costs = EntityMap::new();
    for op in EntityMap::<OpId, ()>::filled((), probe.ops()).keys() {
        if let Some(outputs) = probe.stands_for(op) {
            costs.push(OpCost::nothing(outputs.len()));
            continue;
        }
        let (inputs, outputs) = probe.reads_and_writes(op);
        for &v in &inputs {
            if layouts[v].is_none() {
                layouts[v] = Some(probe.layout_at_start(v));
            }
        }
        let here: Vec<&str> = inputs.iter().map(|&v| layouts[v].as_deref().expect("it was just filled")).collect();
        let signature = probe.signature(op, &here);
        let sought = Sought { op, layouts: here, signature, inputs: inputs.len(), outputs: outputs.len() };
        let cost = cost_of(probe, sought)?;
        for (&v, layout) in outputs.iter().zip(&cost.layouts) {
            layouts[v] = Some(layout.clone());
        }
        costs.push(cost);
    }
    Ok((costs, layouts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entity::Entity;

    /// Op `n` reads value `n` and makes value `n + 1`; every third is a view, and takes no time.
    struct Chain {
        ops: usize,
        /// Of one op in five, twice that of the next, and so on.
        time: u64,
        /// What an op that computes takes at least in a row.
        launch: Option<u64>,
        /// Rows that begin so fail.
        fail: Vec<usize>,
        rows: usize,
    }

    const DEFAULT: Chain = Chain { ops: 1000, time: 100, launch: Some(340), fail: Vec::new(), rows: 0 };

    impl Chain {
        fn is_view(op: OpId) -> bool {
            op.index() % 3 == 2
        }

        fn takes(&self, op: OpId) -> u64 {
            if Self::is_view(op) { 0 } else { self.time * (op.index() as u64 % 5 + 1) }
        }
    }

    impl Probe for Chain {
        fn ops(&self) -> usize {
            self.ops
        }
        fn reads_and_writes(&self, op: OpId) -> (Vec<ValueId>, Vec<ValueId>) {
            (vec![ValueId::from_index(op.index())], vec![ValueId::from_index(op.index() + 1)])
        }
        fn stands_for(&self, op: OpId) -> Option<Vec<ValueId>> {
            (op.index() == 0).then(|| vec![ValueId::from_index(1)])
        }
        fn layout_at_start(&self, _: ValueId) -> String {
            "as it starts".into()
        }
        fn signature(&self, op: OpId, layouts: &[&str]) -> String {
            format!("{} {layouts:?}", op.index() % 15)
        }
        fn measure(&mut self, op: OpId, _: &[&str]) -> Result<OpCost> {
            let views = vec![Self::is_view(op).then_some(0)];
            let (sizes, layouts) = (vec![Bytes(1 << 10)], vec!["as made".to_owned()]);
            Ok(OpCost { time: Nanos(self.takes(op)), views, sizes, layouts, ..OpCost::default() })
        }
        fn row(&mut self, ops: &[OpId], lead: usize, layout: &dyn Fn(ValueId) -> String) -> Result<Option<Nanos>> {
            self.rows += 1;
            assert!(ops.windows(2).all(|two| two[0].index() + 1 == two[1].index()), "{ops:?}");
            let first = ops[0].index();
            assert_eq!(layout(ValueId::from_index(first)), if first == 1 { "as it starts" } else { "as made" });
            if self.fail.contains(&first) {
                return Err(Error::Execution { at: "a row".into(), why: "an index out of range".into() });
            }
            let Some(launch) = self.launch else { return Ok(None) };
            let each = |&op: &OpId| if Self::is_view(op) { 0 } else { self.takes(op).max(launch) };
            Ok(Some(Nanos(ops[lead..].iter().map(each).sum())))
        }
    }

    fn measured(chain: &mut Chain, profile: &mut Profile) -> Option<Nanos> {
        let values = chain.ops + 1;
        let costs = measure(chain, values, profile, &mut |_, _| ()).unwrap();
        // By itself, whatever launching takes.
        assert_eq!(costs[OpId::from_index(1)].time, Nanos(2 * chain.time));
        profile.launch
    }

    #[test]
    fn launching_is_what_ops_of_a_row_take_at_least() {
        for launch in [101, 340, 500, 501, 4000] {
            let (mut chain, mut profile) = (Chain { launch: Some(launch), ..DEFAULT }, Profile::new("a device"));
            assert_eq!(measured(&mut chain, &mut profile), Some(Nanos(launch)));
            assert!(chain.rows > ROWS / 2 && chain.rows <= ROWS, "{}", chain.rows);
            // Known, it is not measured again.
            assert_eq!(measured(&mut Chain { launch: Some(70), ..DEFAULT }, &mut profile), Some(Nanos(launch)));
        }
        for launch in [0, 100] {
            let mut chain = Chain { launch: Some(launch), ..DEFAULT };
            assert_eq!(measured(&mut chain, &mut Profile::new("a device")), Some(Nanos::ZERO));
        }
    }

    #[test]
    fn rows_that_cannot_run_are_left_out() {
        let mut profile = Profile::new("a device");
        let mut chain = Chain { fail: vec![1, 1 + 3 * ROW], ..DEFAULT };
        assert_eq!(measured(&mut chain, &mut profile), Some(Nanos(340)));
        let mut chain = Chain { fail: (0..1000).collect(), ..DEFAULT };
        assert_eq!(measured(&mut chain, &mut Profile::new("a device")), None);
    }

    #[test]
    fn launching_is_not_known_where_work_is_done_when_asked_for_or_takes_long_or_is_little() {
        let none = Chain { launch: None, ..DEFAULT };
        for mut chain in [none, Chain { time: 10_000_000, ..DEFAULT }, Chain { ops: ROW, ..DEFAULT }] {
            assert_eq!(measured(&mut chain, &mut Profile::new("a device")), None);
            assert!(chain.rows <= 1);
        }
    }

    #[test]
    fn what_each_takes_at_least() {
        assert_eq!(at_least(vec![], 10), 0);
        assert_eq!(at_least(vec![5], 3), 0);
        assert_eq!(at_least(vec![5], 9), 9);
        assert_eq!(at_least(vec![9, 1, 2], 12), 0);
        assert_eq!(at_least(vec![9, 1, 2], 15), 3);
        assert_eq!(at_least(vec![9, 1, 2], 30), 10);
    }
}
