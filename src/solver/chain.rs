//! Block-level dynamic programming: multi-level recomputation for tight budgets.
//!
//! Beaumont, Eyraud-Dubois et al., "Optimal checkpointing for heterogeneous chains" (Rotor, 2019).
//! The part of the graph before the boundary is cut into blocks where few bytes cross; what comes
//! after is cut where a block is read for the last time. With `m` bytes beside the input of block
//! a, the least time to run blocks a..b forward and backward is the least of
//!
//! ```text
//! one block      fw[a] + bw[a]                                   if saved[a] + tmp[a] <= m
//! save all of a  fw[a] + Opt[m - saved[a]][a+1][b] + bw[a]       if saved[a] + tmp[a] <= m
//! keep a's input fw[a..j-1] + Opt[m - input[j]][j][b] + Opt[m][a][j-1]    for each j in a+1..=b
//! ```
//!
//! Real graphs are no chains, so the sizes are only estimates. That is harmless: the schedule is
//! turned into an order of units, which is legal for any graph, and goes on to eviction and exact
//! simulation like every other order.

use super::bound::Boundary;
use super::family::crossing;
use super::model::{Model, NONE};

/// More blocks than this make the table large and the plans no better.
const BLOCKS: usize = 32;
/// Memory levels of the table.
const SLOTS: usize = 64;

struct Block {
    /// Units run forward and, after the boundary, backward.
    forward: std::ops::Range<usize>,
    backward: std::ops::Range<usize>,
    forward_time: u64,
    /// Slots of memory, rounded up.
    input: usize,
    saved: usize,
    forward_peak: usize,
    backward_peak: usize,
    /// What `saved` and `backward_peak` are before any discount.
    saved_all: usize,
    backward_all: usize,
}

/// What the table chose.
#[derive(Clone, Copy)]
enum Choice {
    None,
    Save,
    Restart(usize),
}

/// Orders from the table for the budget and for smaller ones; empty where the graph has no two
/// blocks.
pub(super) fn orders(model: &Model, budget: u64) -> Vec<Vec<u32>> {
    let Some(boundary) = Boundary::find(model).into_iter().next() else { return Vec::new() };
    let free = budget.saturating_sub(model.resident);
    let mut blocks = blocks(model, boundary.unit, free.div_ceil(SLOTS as u64).max(1));
    if blocks.len() < 2 {
        return Vec::new();
    }
    // Much of what a block saves is cheap to make again op by op: eviction does so later. So the
    // table is asked again as if blocks needed only part of their bytes.
    let mut all: Vec<Vec<u32>> = Vec::new();
    for (numerator, denominator) in [(1, 1), (1, 2), (1, 4)] {
        for block in &mut blocks {
            block.saved = (block.saved_all * numerator).div_ceil(denominator);
            block.backward_peak = (block.backward_all * numerator).div_ceil(denominator);
        }
        let table = Table::new(&blocks);
        let mut orders: Vec<Vec<u32>> = Vec::new();
        for slots in (1..=SLOTS).rev() {
            let mut schedule = Vec::new();
            if !table.schedule(&blocks, slots, 0, blocks.len() - 1, &mut schedule) {
                break;
            }
            let order = table_order(model, &boundary, schedule);
            if !orders.contains(&order) && !all.contains(&order) {
                orders.push(order);
            }
        }
        // The largest that fit by the estimate, and a few spread over the smaller ones.
        let keep = orders.len().div_ceil(4).max(1);
        all.extend(orders.into_iter().step_by(keep));
    }
    all
}

fn table_order(model: &Model, boundary: &Boundary, schedule: Vec<std::ops::Range<usize>>) -> Vec<u32> {
    let mut ran = vec![false; model.units.len()];
    let mut order = Vec::new();
    for unit in schedule.into_iter().flatten() {
        if unit > boundary.unit || model.units[unit].replayable || !ran[unit] {
            ran[unit] = true;
            order.push(unit as u32);
        }
    }
    super::sim::Sim::default().prune(model, &mut order);
    order
}

/// Cut the units up to `boundary` at the smallest crossings that keep a distance.
fn blocks(model: &Model, boundary: usize, slot: u64) -> Vec<Block> {
    let n = boundary + 1;
    let crossing = crossing(model, n);
    let apart = n.div_ceil(2 * BLOCKS);
    let mut places: Vec<usize> = (1..n).collect();
    places.sort_by_key(|&p| (crossing[p], p));
    let mut cuts = vec![0, n];
    for p in places {
        if cuts.len() > BLOCKS {
            break;
        }
        if cuts.iter().all(|&c| c.abs_diff(p) >= apart) {
            cuts.push(p);
        }
    }
    cuts.sort_unstable();
    let last = model.units.len();
    // The last unit after the boundary that reads what a block makes.
    let mut ends = vec![n; cuts.len() - 1];
    let mut saved = vec![0u64; cuts.len() - 1];
    let mut seen = vec![false; model.items.len()];
    for u in n..last {
        for &s in &model.units[u].reads {
            let maker = model.items[s as usize].maker;
            if maker != NONE && (maker as usize) < n {
                let block = cuts.partition_point(|&c| c <= maker as usize) - 1;
                ends[block] = u + 1;
                if !std::mem::replace(&mut seen[s as usize], true) {
                    saved[block] += model.items[s as usize].bytes;
                }
            }
        }
    }
    let profile = profile(model, n);
    let slots = |bytes: u64| usize::try_from(bytes.div_ceil(slot)).unwrap_or(usize::MAX).min(SLOTS + 1);
    let mut blocks: Vec<Block> = Vec::new();
    let mut start = n;
    for i in (0..cuts.len() - 1).rev() {
        let end = if i == 0 { last } else { ends[i].max(start) };
        let forward = cuts[i]..cuts[i + 1];
        let peak = |range: &std::ops::Range<usize>| profile[range.clone()].iter().copied().max().unwrap_or(0);
        blocks.push(Block {
            forward_time: model.units[forward.clone()].iter().fold(0, |t, u| t.saturating_add(u.time)),
            input: slots(crossing[cuts[i]]),
            saved: slots(saved[i]),
            forward_peak: slots(peak(&forward)),
            backward_peak: slots(peak(&(start..end))),
            saved_all: slots(saved[i]),
            backward_all: slots(peak(&(start..end))),
            forward,
            backward: start..end,
        });
        start = end;
    }
    blocks.reverse();
    blocks
}

/// Bytes beside what blocks read and save: during a forward unit what was made since and is still
/// read before the boundary, right around it; during a backward unit what was made after the
/// boundary, with everything kept.
fn profile(model: &Model, n: usize) -> Vec<u64> {
    let mut last: Vec<usize> = vec![0; model.items.len()];
    for (u, unit) in model.units.iter().enumerate() {
        unit.reads.iter().chain(&unit.writes).for_each(|&s| last[s as usize] = u);
    }
    let mut live = 0u64;
    let mut profile = Vec::with_capacity(model.units.len());
    for (u, unit) in model.units.iter().enumerate() {
        if u < n {
            profile.push(unit.footprint);
            continue;
        }
        live += unit.writes.iter().map(|&s| model.items[s as usize].bytes).sum::<u64>();
        profile.push(live + unit.workspace);
        for &s in unit.reads.iter().chain(&unit.writes) {
            if last[s as usize] == u && model.items[s as usize].maker as usize >= n {
                live -= model.items[s as usize].bytes;
            }
        }
    }
    profile
}

/// Opt, without the times every schedule pays.
struct Table {
    blocks: usize,
    best: Vec<(u64, Choice)>,
}

const NEVER: u64 = u64::MAX;

impl Table {
    fn at(&self, slots: usize, a: usize, b: usize) -> (u64, Choice) {
        self.best[(slots * self.blocks + a) * self.blocks + b]
    }

    fn new(blocks: &[Block]) -> Self {
        let n = blocks.len();
        let mut table = Self { blocks: n, best: vec![(NEVER, Choice::None); (SLOTS + 1) * n * n] };
        for length in 0..n {
            for a in 0..n - length {
                for slots in 0..=SLOTS {
                    let best = table.cell(blocks, slots, a, a + length);
                    table.best[(slots * n + a) * n + a + length] = best;
                }
            }
        }
        table
    }

    fn cell(&self, blocks: &[Block], slots: usize, a: usize, b: usize) -> (u64, Choice) {
        let mut best = (NEVER, Choice::None);
        if blocks[a].saved + blocks[a].backward_peak <= slots {
            let rest = if a == b { 0 } else { self.at(slots - blocks[a].saved, a + 1, b).0 };
            if rest != NEVER {
                best = (rest.saturating_add(blocks[a].forward_time).min(NEVER - 1), Choice::Save);
            }
        }
        let mut forward = 0u64;
        for j in a + 1..=b {
            forward = forward.saturating_add(blocks[j - 1].forward_time);
            if blocks[j - 1].forward_peak > slots {
                break;
            }
            if blocks[j].input > slots {
                continue;
            }
            let (later, earlier) = (self.at(slots - blocks[j].input, j, b).0, self.at(slots, a, j - 1).0);
            if later != NEVER && earlier != NEVER {
                let time = forward.saturating_add(later).saturating_add(earlier).min(NEVER - 1);
                if time < best.0 {
                    best = (time, Choice::Restart(j));
                }
            }
        }
        best
    }

    /// The runs of units that the table's choice for a..=b stands for. False when it has none.
    fn schedule(
        &self,
        blocks: &[Block],
        slots: usize,
        a: usize,
        b: usize,
        out: &mut Vec<std::ops::Range<usize>>,
    ) -> bool {
        match self.at(slots, a, b).1 {
            Choice::None => false,
            Choice::Save => {
                out.push(blocks[a].forward.clone());
                if a < b && !self.schedule(blocks, slots - blocks[a].saved, a + 1, b, out) {
                    return false;
                }
                out.push(blocks[a].backward.clone());
                true
            }
            Choice::Restart(j) => {
                out.push(blocks[a].forward.start..blocks[j - 1].forward.end);
                self.schedule(blocks, slots - blocks[j].input, j, b, out) && self.schedule(blocks, slots, a, j - 1, out)
            }
        }
    }
}
