//! Measuring what ops cost: one measurement per distinct signature, kept for the next run, and once for a device what
//! they take beyond that when they are many.

use std::fmt;
use std::time::{Duration, Instant};

use crate::cost::{OpCost, Pace, Profile};
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

/// At most so many ops are asked for one after the other to measure what that takes; those of them that only get the device going.
const ROW: usize = 300;
const LEAD: usize = 8;
/// Fewer ops show nothing.
const SHORTEST: usize = 4 * LEAD;
/// Rows that are measured, from all over a step.
const ROWS: usize = 24;
/// What a row may hold at once.
const HELD: u64 = 256 << 20;
/// What the ops of all rows may take by themselves, and those of one where they are more.
const TIME: u64 = 1_000_000_000;
/// Times that each row is measured; where that takes longer than anyone should wait, the least.
const ROUNDS: usize = 15;
const LEAST: usize = 3;
const PATIENCE: Duration = Duration::from_secs(4);
/// Floors that are tried between none and all that the rows leave room for.
const FLOORS: u64 = 16;

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
    if profile.pace.is_none() {
        profile.pace = pace(probe, &costs, &layouts);
    }
    Ok(costs)
}

/// Ops in a row: what each of those that compute takes by itself, and what all take.
struct Row {
    each: Vec<u64>,
    whole: u64,
}

/// What ops take in a row, from rows of the program's. `None` where no row shows it.
fn pace(probe: &mut dyn Probe, costs: &EntityMap<OpId, OpCost>, layouts: &Layouts) -> Option<Pace> {
    let ops: Vec<OpId> = costs.keys().filter(|&op| probe.stands_for(op).is_none()).collect();
    let time = |ops: &[OpId]| ops.iter().map(|&op| costs[op].time.get()).fold(0, u64::saturating_add);
    let bytes = |ops: &[OpId]| {
        let sizes = ops.iter().flat_map(|&op| &costs[op].sizes);
        sizes.map(|size| size.get()).fold(0, u64::saturating_add)
    };
    let fits = |ops: &[OpId]| ops.len() <= ROW && bytes(ops) <= HELD && time(ops) <= TIME;
    // As long as they can be: whoever asks gets ahead of the device as in a step. What gets it going for one is the end of the one before.
    let (mut all, mut parts) = (Vec::new(), vec![(0_usize, ops.len())]);
    while let Some((from, to)) = parts.pop() {
        let row = &ops[from.saturating_sub(LEAD)..to];
        match from.midpoint(to) {
            _ if to - from < SHORTEST => {}
            _ if fits(row) => all.push(row),
            middle => parts.extend([(middle, to), (from, middle)]),
        }
    }
    let every = |nth: usize| all.iter().copied().step_by(nth);
    let few = |&nth: &usize| every(nth).len() <= ROWS && every(nth).map(time).fold(0, u64::saturating_add) <= TIME;
    let rows = every((1..=all.len()).find(few).unwrap_or(1));
    let mut rows: Vec<(&[OpId], Vec<u64>)> = rows.map(|ops| (ops, Vec::new())).collect();
    let begun = Instant::now();
    // In turns, so that what else the machine does meets all alike; the first time kernels are made ready.
    for round in 0..=ROUNDS {
        if round > LEAST && begun.elapsed() > PATIENCE {
            break;
        }
        let mut ran = Vec::with_capacity(rows.len());
        for (ops, mut took) in rows {
            match probe.row(ops, LEAD, &|v| layouts[v].clone().unwrap_or_default()) {
                Ok(Some(all)) => {
                    took.extend((round > 0).then_some(all.get()));
                    ran.push((ops, took));
                }
                Ok(None) => return None,
                // What is made of stand-ins by one op need not suit the next.
                Err(error) => tracing::debug!("a row of ops was not measured: {error}"),
            }
        }
        rows = ran;
    }
    let rows: Vec<Row> = rows
        .into_iter()
        .map(|(ops, mut took)| {
            took.sort_unstable();
            let computes = ops[LEAD..].iter().map(|&op| &costs[op]).filter(|cost| cost.computes());
            Row { each: computes.map(|cost| cost.time.get()).collect(), whole: took[took.len() / 2] }
        })
        .collect();
    (!rows.is_empty()).then(|| fit(&rows))
}

/// The pace at which the rows together take what they took, and each by itself most nearly does. None where the ops by themselves
/// take that.
fn fit(rows: &[Row]) -> Pace {
    let whole = rows.iter().map(|row| row.whole).sum();
    let takes = |pace: Pace, row: &Row| row.each.iter().map(|&time| pace.of(Nanos(time)).get()).sum::<u64>();
    let all = |pace: Pace| rows.iter().map(|row| takes(pace, row)).sum::<u64>();
    // The least that makes all take what they took.
    let least = |pace: &dyn Fn(Nanos) -> Pace| {
        let (mut low, mut high) = (0, whole);
        while low < high {
            let middle = low + (high - low) / 2;
            if all(pace(Nanos(middle))) < whole { low = middle + 1 } else { high = middle }
        }
        Nanos(low)
    };
    let Nanos(floor) = least(&|floor| Pace { gap: Nanos::ZERO, floor });
    let fitted = (0..=FLOORS).map(|part| {
        let floor = Nanos(floor * part / FLOORS);
        Pace { gap: least(&|gap| Pace { gap, floor }), floor }
    });
    let off = |pace: &Pace| rows.iter().map(|row| row.whole.abs_diff(takes(*pace, row))).sum::<u64>();
    fitted.min_by_key(off).unwrap_or_default()
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
        /// Of one op in five, twice that of the next, and so on; in the second half of the ops three times that.
        time: u64,
        /// In a row.
        pace: Option<Pace>,
        /// Rows that begin so fail.
        fail: Vec<usize>,
        rows: usize,
    }

    const PACE: Pace = Pace { gap: Nanos::ZERO, floor: Nanos(340) };
    const DEFAULT: Chain = Chain { ops: 1000, time: 100, pace: Some(PACE), fail: Vec::new(), rows: 0 };

    impl Chain {
        fn is_view(op: OpId) -> bool {
            op.index() % 3 == 2
        }

        fn takes(&self, op: OpId) -> u64 {
            let longer = 1 + 2 * u64::from(op.index() > self.ops / 2);
            if Self::is_view(op) { 0 } else { self.time * longer * (op.index() as u64 % 5 + 1) }
        }

        fn in_row(&self, ops: &[OpId], pace: Pace) -> u64 {
            let computes = ops.iter().filter(|&&op| !Self::is_view(op));
            computes.map(|&op| pace.of(Nanos(self.takes(op))).get()).sum()
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
            format!("{} {} {layouts:?}", op.index() % 15, op.index() > self.ops / 2)
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
            Ok(self.pace.map(|pace| Nanos(self.in_row(&ops[lead..], pace))))
        }
    }

    fn measured(chain: &mut Chain, profile: &mut Profile) -> Option<Pace> {
        let values = chain.ops + 1;
        let costs = measure(chain, values, profile, &mut |_, _| ()).unwrap();
        // By itself, whatever it takes in a row.
        assert_eq!(costs[OpId::from_index(1)].time, Nanos(2 * chain.time));
        profile.pace
    }

    #[test]
    fn the_pace_is_what_rows_of_ops_take() {
        for (gap, floor) in [(0, 101), (0, 340), (0, 4000), (70, 0), (4000, 0), (0, 0)] {
            let (pace, mut profile) = (Pace { gap: Nanos(gap), floor: Nanos(floor) }, Profile::new("a device"));
            let mut chain = Chain { pace: Some(pace), ..DEFAULT };
            assert_eq!(measured(&mut chain, &mut profile), Some(pace));
            assert_eq!(chain.rows, 4 * (ROUNDS + 1));
            // Known, it is not measured again.
            assert_eq!(measured(&mut Chain { pace: Some(PACE), ..DEFAULT }, &mut profile), Some(pace));
        }
        // Both at once: exactly altogether, and nearly in each part.
        for (gap, floor) in [(50, 340), (200, 900), (20, 2000)] {
            let pace = Pace { gap: Nanos(gap), floor: Nanos(floor) };
            let mut chain = Chain { pace: Some(pace), ..DEFAULT };
            let got = measured(&mut chain, &mut Profile::new("a device")).unwrap();
            let ops: Vec<OpId> = (1..chain.ops - 1).map(OpId::from_index).collect();
            for part in ops.chunks(250).chain([&ops[..]]) {
                let (took, said) = (chain.in_row(part, pace), chain.in_row(part, got));
                assert!(took.abs_diff(said) <= took / 50, "{pace:?} {got:?}: {took} {said}");
            }
        }
    }

    #[test]
    fn rows_are_no_more_than_there_is_time_for() {
        let mut chain = Chain { ops: 8_000, ..DEFAULT };
        assert_eq!(measured(&mut chain, &mut Profile::new("a device")), Some(PACE));
        let rows = chain.rows / (ROUNDS + 1);
        assert!(rows > ROWS / 2 && rows <= ROWS, "{rows}");
        let mut chain = Chain { time: 450_000, ..DEFAULT };
        measured(&mut chain, &mut Profile::new("a device")).unwrap();
        assert_eq!(chain.rows, 2 * (ROUNDS + 1));
    }

    #[test]
    fn rows_that_cannot_run_are_left_out() {
        let mut profile = Profile::new("a device");
        let mut chain = Chain { fail: vec![1], ..DEFAULT };
        assert_eq!(measured(&mut chain, &mut profile), Some(PACE));
        let mut chain = Chain { fail: (0..1000).collect(), ..DEFAULT };
        assert_eq!(measured(&mut chain, &mut Profile::new("a device")), None);
    }

    #[test]
    fn the_pace_is_not_known_where_work_is_done_when_asked_for_or_takes_long_or_is_little() {
        let none = Chain { pace: None, ..DEFAULT };
        for mut chain in [none, Chain { time: 20_000_000, ..DEFAULT }, Chain { ops: SHORTEST, ..DEFAULT }] {
            assert_eq!(measured(&mut chain, &mut Profile::new("a device")), None);
            assert!(chain.rows <= 1);
        }
    }

    #[test]
    fn ops_that_take_less_in_a_row_than_by_themselves_have_no_pace() {
        let rows = [Row { each: vec![9, 1, 2], whole: 11 }, Row { each: vec![], whole: 0 }];
        assert_eq!(fit(&rows), Pace::default());
        assert_eq!(fit(&[Row { each: vec![9, 1, 2], whole: 15 }]), Pace { gap: Nanos(1), floor: Nanos::ZERO });
    }
}
