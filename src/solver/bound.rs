//! A lower bound on the time of any plan without offload, and the keep sets that attain it.
//!
//! **Boundary closure.** Take any unit b and the instant its first run ends. Units that need b's
//! result, directly or not, all run later. What they read and b's descendants do not make is
//! either live at that instant or made later, and making it later needs its inputs, live at the
//! instant or made later in turn. A unit that b needs has run by then, so running it later is a
//! repetition whose time is pure overhead; any other unit may be running for the first time and
//! counts nothing. What is live at the instant fits the budget. With `keep` over storages and `r`
//! over units:
//!
//! ```text
//! minimize  sum time r    subject to  keep(s) + r(maker of s) >= 1        s read after b
//!                                     keep(x) + r(maker of x) >= r(i)     x read by i
//!                                     sum bytes keep <= budget - residents
//! ```
//!
//! **Any instant.** No assumption on the graph is needed: b need not be the loss, and for a useless
//! b the bound is just 0. While b runs its inputs, outputs and workspace are live as well, and what
//! is kept for later must fit beside them ([`Load`]), so the last row becomes
//! `fixed + sum bytes keep <= budget - residents`, for some choice of what b takes over in place: the
//! least over all choices is the bound. Each b gives one; [`ranked`] looks for the best. Where memory is tight that is not the loss but an op whose own footprint is large while
//! much is still to be read.
//!
//! Both hold for plans that work in place: different storages are in different buffers, each at
//! least as large as its storage (a pinned storage might not be and counts no bytes), but for the
//! pairs of the unit that is running. Views are left out: making one again means that some value
//! of its storage was live or its maker ran.
//!
//! For a price per byte the rest is a minimum cut (closure problem: Picard, "Maximal closure of a
//! graph and applications to combinatorial problems", 1976), so the best price gives the value of
//! the linear relaxation: `max over p of cut(p) - p (budget - residents - fixed)`. All in integers,
//! rounded so that the bound can only get weaker. Several instants at once, and integrality, are
//! the matter of `instants`.

use rayon::prelude::*;

use super::flow::Network;
use super::load::{Choice, Load, bytes};
use super::model::{Model, NONE};
use super::sim::Sim;
use crate::cost::Problem;
use crate::entity::OpId;

/// Instants solved to the end, after a look at more of them: so many in small graphs, so many in any.
const SOLVED: (usize, usize) = (64, 8);
/// Instants that are solved to find out what a byte is worth.
const PRICED: usize = 4;
/// Units read while instants are looked at, over all of them.
const LOOKED: usize = 20_000_000;
/// What an eighth of the price found at one instant is multiplied by for a look at the others.
const DEARER: [i128; 4] = [1, 8, 64, 512];
/// What is read last is dearer by so many parts of the price than what is read first, where prices are graded; prices tried.
const GRADE: i128 = 8;
const GRADES: usize = 32;
/// Bits by which a price grows or shrinks until one fits and one does not, and the part of it to which it is found then.
const WIDER: u32 = 3;
const NEAR: i128 = 1024;
/// Prices are multiples of 2^-32 ns per byte.
const SCALE: u32 = 32;
/// The highest price: sums of all bytes and of all times are below 2^62 each.
const MOST: i128 = 1 << 62;

/// The instant the bound looks at, and who runs before and after.
pub(super) struct Boundary<'a, 'm> {
    model: &'a Model<'m>,
    pub unit: usize,
    /// The unit or what it needs.
    pub before: Vec<bool>,
    /// Units that need it.
    pub after: Vec<bool>,
    /// What is live at the instant.
    pub load: Load,
    choices: Vec<Choice>,
    /// Bytes of the storages made before and read after, beside the unit's own.
    pub crossing: u64,
    /// About how many bytes are carried across to run nothing twice: those, and what is made before or after as one likes from
    /// what is made before.
    carried: u64,
}

/// A minimum cut at one price.
pub(super) struct Cut {
    price: i128,
    value: i128,
    /// Bytes kept at the boundary.
    pub kept: u64,
    /// Units run again after it.
    pub again: Vec<bool>,
    /// Items kept.
    held: Vec<bool>,
}

impl<'a, 'm> Boundary<'a, 'm> {
    /// The instant between two steps, right after the unit's first run.
    fn at(model: &'a Model<'m>, unit: usize) -> Self {
        Self::with(model, unit, Load::none())
    }

    /// The instant of the unit's first run.
    pub fn during(model: &'a Model<'m>, unit: usize) -> Self {
        Self::with(model, unit, Load::during(model, unit))
    }

    /// The instant of the unit's run in the graph's own order: what runs before it is before, whether it is needed or not.
    pub fn between(model: &'a Model<'m>, unit: usize) -> Self {
        let (before, after) = (0..model.units.len()).map(|u| (u <= unit, u > unit)).unzip();
        Self::of(model, unit, Load::during(model, unit), before, after)
    }

    fn with(model: &'a Model<'m>, unit: usize, load: Load) -> Self {
        let n = model.units.len();
        let (mut before, mut after) = (vec![false; n], vec![false; n]);
        let maker = |s: &u32| model.items[*s as usize].maker;
        before[unit] = true;
        for u in (0..=unit).rev() {
            if before[u] {
                for m in model.units[u].reads.iter().map(maker).filter(|&m| m != NONE) {
                    before[m as usize] = true;
                }
            }
        }
        for u in unit + 1..n {
            let mut makers = model.units[u].reads.iter().map(maker);
            after[u] = u + 1 == n || makers.any(|m| m != NONE && (m as usize == unit || after[m as usize]));
        }
        Self::of(model, unit, load, before, after)
    }

    fn of(model: &'a Model<'m>, unit: usize, load: Load, before: Vec<bool>, after: Vec<bool>) -> Self {
        let (n, maker) = (model.units.len(), |s: &u32| model.items[*s as usize].maker);
        // What is read after is live at the instant, or made later from what is.
        let mut seen = vec![false; model.items.len()];
        let mut free: Vec<u32> = Vec::new();
        let mut crossing = 0u64;
        let mut see = |s: u32| {
            let m = maker(&s);
            (m != NONE && !after[m as usize] && !std::mem::replace(&mut seen[s as usize], true)).then_some(m as usize)
        };
        let beside = |s: u32| if load.is_own(s) { 0 } else { bytes(model, s) };
        for &s in (unit + 1..n).filter(|&u| after[u]).flat_map(|u| &model.units[u].reads) {
            match see(s) {
                Some(m) if before[m] => crossing += beside(s),
                Some(_) => free.push(s),
                None => {}
            }
        }
        let mut carried = crossing;
        for s in free {
            let (mut stack, mut inputs) = (vec![maker(&s) as usize], 0u64);
            while let Some(u) = stack.pop() {
                for &x in &model.units[u].reads {
                    match see(x) {
                        Some(m) if before[m] => inputs += beside(x),
                        Some(m) => stack.push(m),
                        None => {}
                    }
                }
            }
            carried += inputs.min(beside(s));
        }
        let choices = load.choices();
        Self { model, unit, before, after, load, choices, crossing, carried }
    }

    /// The boundaries worth looking at, the one most is carried across first.
    pub fn find(model: &'a Model<'m>) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for unit in places(model, 512) {
            let it = Self::at(model, unit);
            if it.crossing > 0 {
                all.push(it);
            }
            all.sort_by_key(|b| (std::cmp::Reverse(b.crossing), b.unit));
            all.truncate(3);
        }
        all
    }

    /// What is left for what is kept, for a choice of what is taken over.
    fn room(&self, choice: &Choice, budget: u64) -> i128 {
        i128::from(budget) - i128::from(self.model.resident + choice.fixed)
    }

    /// The bound that a cut proves for a choice, in units of 2^-32 ns.
    fn proves(&self, choice: &Choice, cut: &Cut, budget: u64) -> i128 {
        (cut.value - cut.price * self.room(choice, budget)).max(0)
    }

    /// The bound that a price proves: for whatever choice.
    fn look(&self, price: i128, budget: u64) -> u64 {
        let proved = |choice| self.cut(choice, price).map_or(0, |cut| ceil(self.proves(choice, &cut, budget)));
        self.choices.iter().map(proved).min().unwrap_or(0)
    }

    /// The cut at a price; `None` when something must be kept at any price.
    fn cut(&self, choice: &Choice, price: i128) -> Option<Cut> {
        self.cut_at(choice, price, &|_| price)
    }

    /// What is best kept within `budget` where of what is worth the same per byte that is kept which `base` reads first
    /// after the boundary: its room is free soonest, and what is made again comes when others are gone.
    ///
    /// What repeats is all worth the same, so that at any one price all of it is kept or none, and neither
    /// fills the budget.
    pub fn graded(&self, budget: u64, base: &[u32]) -> Option<Cut> {
        let n = base.len().max(1) as i128;
        let mut first: Vec<i128> = vec![n; self.model.items.len()];
        for (place, &u) in base.iter().enumerate().rev().filter(|(_, u)| !self.before[**u as usize]) {
            self.model.units[u as usize].reads.iter().for_each(|&s| first[s as usize] = place as i128);
        }
        let choice = self.choices.iter().min_by_key(|choice| choice.fixed)?;
        let room = self.room(choice, budget);
        // From what a byte is worth where everything that is carried is worth the time of everything.
        let time = self.model.units.iter().fold(0, |time: u64, u| time.saturating_add(u.time));
        let mut price = ((i128::from(time) << SCALE) / i128::from(self.crossing.max(1))).clamp(1, MOST);
        let (mut low, mut high, mut best) = (0, MOST, None);
        for _ in 0..GRADES {
            let found = self.cut_at(choice, price, &|s| price + price * first[s as usize] / n / GRADE)?;
            if i128::from(found.kept) <= room {
                (high, best) = (price, Some(found));
            } else {
                low = price;
            }
            // Bracketed it is by the geometric mean, as prices are far apart.
            price = match (low, high) {
                (0, high) => high >> WIDER,
                (low, MOST) => low.saturating_mul(1 << WIDER).min(MOST - 1),
                (low, high) => (low * high).isqrt(),
            };
            if price <= low || price >= high || (high < MOST && high - low <= low / NEAR) {
                break;
            }
        }
        best
    }

    /// The cut where the bytes of each item have a price.
    fn cut_at(&self, choice: &Choice, price: i128, price_of: &dyn Fn(u32) -> i128) -> Option<Cut> {
        let (model, items) = (self.model, self.model.items.len());
        let (source, sink) = (items + model.units.len(), items + model.units.len() + 1);
        let mut net = Network::new(sink + 1);
        // Only what can be reached from the reads after the boundary takes part.
        let mut wanted = vec![false; items];
        let mut stack: Vec<u32> = Vec::new();
        let mut involved = vec![false; model.units.len()];
        let mut want = |s: u32, stack: &mut Vec<u32>| {
            let maker = model.items[s as usize].maker;
            if maker != NONE && !self.after[maker as usize] && !std::mem::replace(&mut wanted[s as usize], true) {
                stack.push(s);
                return true;
            }
            false
        };
        for u in (0..model.units.len()).filter(|&u| self.after[u]) {
            for &s in &model.units[u].reads {
                if want(s, &mut stack) {
                    net.arc(source, s as usize, Network::UNLIMITED);
                }
            }
        }
        while let Some(s) = stack.pop() {
            let u = model.items[s as usize].maker as usize;
            net.arc(s as usize, items + u, i128::from(choice.bytes(model, s)) * price_of(s));
            if std::mem::replace(&mut involved[u], true) {
                continue;
            }
            let time = match (self.before[u], !model.units[u].once) {
                (false, _) => 0,
                (true, true) => i128::from(model.units[u].time) << SCALE,
                (true, false) => Network::UNLIMITED,
            };
            net.arc(items + u, sink, time);
            for &x in &model.units[u].reads {
                want(x, &mut stack);
                let maker = model.items[x as usize].maker;
                if maker != NONE && !self.after[maker as usize] {
                    net.arc(items + u, x as usize, Network::UNLIMITED);
                }
            }
        }
        let value = net.cut(source, sink)?;
        let again: Vec<bool> = (0..model.units.len()).map(|u| net.reached(items + u)).collect();
        let held: Vec<bool> = (0..items).map(|s| net.reached(s) && !again[model.items[s].maker as usize]).collect();
        let kept = (0..items).filter(|&s| held[s]).map(|s| choice.bytes(model, s as u32)).sum();
        Some(Cut { price, value, kept, again, held })
    }

    /// The least overhead of any plan within `budget`, and the cuts on both sides of it: the one
    /// that keeps more than fits, if any, and the one that fits, if any. [`u64::MAX`] where no plan
    /// fits.
    pub fn solve(&self, budget: u64) -> (u64, Option<Cut>, Option<Cut>) {
        let all = self.choices.iter().map(|choice| self.solve_for(choice, budget));
        all.min_by_key(|solved| solved.0).unwrap_or((0, None, None))
    }

    fn solve_for(&self, choice: &Choice, budget: u64) -> (u64, Option<Cut>, Option<Cut>) {
        let room = self.room(choice, budget);
        let bound = |cut: &Cut| self.proves(choice, cut, budget);
        let cut = |price: i128| self.cut(choice, price);
        let Some(mut rich) = cut(0).map(|_| ()).and_then(|()| cut(1)) else { return (0, None, None) };
        if i128::from(rich.kept) <= room {
            // Even at next to no price it fits.
            return (ceil(bound(&rich)), None, Some(rich));
        }
        let time: u64 = self.model.units.iter().fold(0, |t, u| t.saturating_add(u.time));
        let top = (i128::from(time) << SCALE).clamp(2, MOST);
        let Some(mut poor) = cut(top) else { return (0, Some(rich), None) };
        let mut best = bound(&rich).max(bound(&poor));
        if i128::from(poor.kept) > room {
            // What fits costs no more than running everything again: above that nothing fits.
            let none = best > i128::from(time) << SCALE;
            return (if none { u64::MAX } else { ceil(best) }, Some(rich), None);
        }
        // The price at which the lines of both cuts meet, until it is one of them (Dinkelbach).
        for _ in 0..24 {
            let bytes = i128::from(rich.kept) - i128::from(poor.kept);
            let times =
                (poor.value - poor.price * i128::from(poor.kept)) - (rich.value - rich.price * i128::from(rich.kept));
            let price = times / bytes.max(1);
            if price <= rich.price || price >= poor.price {
                break;
            }
            let Some(middle) = cut(price) else { break };
            best = best.max(bound(&middle));
            let same = middle.kept == rich.kept || middle.kept == poor.kept;
            if i128::from(middle.kept) > room {
                rich = middle;
            } else {
                poor = middle;
            }
            if same {
                break;
            }
        }
        (ceil(best), Some(rich), Some(poor))
    }

    /// The order `base`, changed so that it makes the cut's storages again, each once, right before its first use after
    /// the boundary.
    pub fn order(&self, cut: &Cut, base: &[u32]) -> Vec<u32> {
        self.order_in_pieces(cut, base, 1)
    }

    /// The order `base` with what is [best kept](Self::graded) within so many hundredths of the room that `budget` leaves, and the rest made
    /// again in pieces.
    pub fn graded_order(&self, budget: u64, part: u64, pieces: u64, base: &[u32]) -> Option<Vec<u32>> {
        let room = budget.saturating_sub(self.model.resident) / 100 * part;
        let cut = self.graded(self.model.resident + room, base)?;
        Some(self.order_in_pieces(&cut, base, pieces))
    }

    /// The same, but what is made before the boundary is divided into pieces of about equal time, and what a piece makes for
    /// later ones is kept as well: so that each of them can be made again by itself, when it is wanted, and not all that
    /// comes before it with it.
    pub fn order_in_pieces(&self, cut: &Cut, base: &[u32], pieces: u64) -> Vec<u32> {
        let model = self.model;
        let of_before = |u: usize| if self.before[u] { model.units[u].time } else { 0 };
        let total: u64 = (0..model.units.len()).map(of_before).sum();
        let mut passed_time = 0;
        let piece: Vec<u64> = (0..model.units.len())
            .map(|u| {
                let piece = (u128::from(passed_time) * u128::from(pieces) / u128::from(total.max(1))) as u64;
                passed_time += of_before(u);
                piece
            })
            .collect();
        let mut kept = vec![false; model.items.len()];
        for u in (0..model.units.len()).filter(|&u| self.before[u] && cut.again[u]) {
            for &s in &model.units[u].reads {
                let maker = model.items[s as usize].maker;
                kept[s as usize] |= maker != NONE && piece[maker as usize] != piece[u];
            }
        }
        // What need not have run by the boundary costs the cut nothing, but is no repetition either.
        let again = |u: usize| cut.again[u] && (pieces == 1 || self.before[u]);
        let mut order = Vec::with_capacity(model.units.len() * 3 / 2);
        let mut done = vec![false; model.units.len()];
        let mut ran = done.clone();
        let mut passed = false;
        for &u in base {
            if passed {
                let mut chain: Vec<u32> = Vec::new();
                let mut stack: Vec<u32> = vec![u];
                while let Some(v) = stack.pop() {
                    for &s in &model.units[v as usize].reads {
                        let maker = model.items[s as usize].maker;
                        if maker != NONE
                            && !kept[s as usize]
                            && ran[maker as usize]
                            && again(maker as usize)
                            && model.units[maker as usize].replayable
                            && !std::mem::replace(&mut done[maker as usize], true)
                        {
                            chain.push(maker);
                            stack.push(maker);
                        }
                    }
                }
                chain.sort_unstable();
                order.extend(chain);
            }
            order.push(u);
            ran[u as usize] = true;
            passed |= u as usize == self.unit;
        }
        order
    }
}

/// Units whose instants are worth a look: about `all`, evenly spread, and in large graphs as many as
/// [`LOOKED`] allows, the one of each stretch of the graph's order where most is live with everything kept. The loss of two
/// branches that only meet there (a recurrence in both directions) is such a place, and no unit nearby is as good.
fn places(model: &Model, all: usize) -> Vec<usize> {
    let last = model.units.len().saturating_sub(1);
    let count = if last <= all { all } else { (LOOKED / last).clamp(128, all.max(128)) };
    let stretch = last.div_ceil(count).max(1);
    if stretch == 1 || !model.is_large() {
        return (0..last).step_by(stretch).collect();
    }
    let live = Sim::default().profile(model, &model.keep_all());
    let units: Vec<usize> = (0..last).collect();
    units.chunks(stretch).filter_map(|units| units.iter().copied().max_by_key(|&unit| live[unit])).collect()
}

/// The instants of units' first runs, by the overhead that each proves for plans within `budget`: the overhead and
/// the unit, the strongest first. Empty when it is clear that all are 0.
pub(super) fn ranked(model: &Model, budget: u64) -> Vec<(u64, u32)> {
    let n = model.units.len();
    let most = (90_000 / n).clamp(24, 128);
    // In small graphs all are solved, so that the bound never grows with the budget.
    let small = n <= 64;
    // Elsewhere those are left out where all that is read later fits.
    let instants = places(model, 4000).into_par_iter().map(|unit| (Boundary::during(model, unit), unit as u32));
    let mut tight: Vec<(u64, u32)> = instants
        .map(|(it, unit)| (it.load.fixed.saturating_add(it.carried), unit))
        .filter(|&(bytes, _)| small || bytes > budget.saturating_sub(model.resident))
        .collect();
    tight.sort_unstable_by_key(|&(bytes, unit)| (std::cmp::Reverse(bytes), unit));
    tight.truncate(most);
    let solve = |unit: u32| Boundary::during(model, unit as usize).solve(budget);
    // The most bytes may all be free to be made again: what a byte is worth, the best of a few says.
    let priced = |&(_, unit): &(u64, u32)| {
        let (value, rich, poor) = solve(unit);
        (value, poor.or(rich).map_or(1, |cut| cut.price))
    };
    let spread = tight.iter().step_by(tight.len().div_ceil(PRICED).max(1));
    let prices: Vec<(u64, i128)> = spread.collect::<Vec<_>>().into_par_iter().map(priced).collect();
    let Some(&(_, price)) = prices.iter().max_by_key(|(value, _)| *value) else { return Vec::new() };
    // The fuller an instant is by itself the dearer a byte is there: look at several prices.
    let look = |&(_, unit): &(u64, u32)| {
        let it = Boundary::during(model, unit as usize);
        let looked = DEARER.iter().map(|dearer| it.look((price.saturating_mul(*dearer) / 8).clamp(1, MOST), budget));
        (looked.max().unwrap_or(0), unit)
    };
    let order = |&(value, unit): &(u64, u32)| (std::cmp::Reverse(value), unit);
    let mut ranked: Vec<(u64, u32)> = tight.par_iter().map(look).collect();
    ranked.sort_unstable_by_key(order);
    let solved = if small { ranked.len() } else { (20_000 / n).clamp(SOLVED.1, SOLVED.0).min(ranked.len()) };
    ranked[..solved].par_iter_mut().for_each(|it| it.0 = it.0.max(solve(it.1).0));
    ranked.sort_unstable_by_key(order);
    ranked
}

/// What is kept from the forward to the backward, and what is made again, where a byte has a price.
pub(crate) struct Priced {
    /// Who makes what is kept, and its bytes.
    pub kept: Vec<(OpId, u64)>,
    /// What runs again, and its time.
    pub again: Vec<(OpId, u64)>,
}

/// The cheapest choice of what to keep at each of a ladder of prices, from everything to next to nothing: the curve
/// of memory against time of a whole step, op by op, so that parts of it are those of a part of the step. Empty where nothing
/// crosses from a forward to a backward part.
pub(crate) fn priced(problem: &Problem, steps: usize) -> Vec<Priced> {
    let model = Model::new(problem, true);
    let Some(boundary) = Boundary::find(&model).into_iter().next() else { return Vec::new() };
    let time: u64 = model.units.iter().fold(0, |t, u| t.saturating_add(u.time));
    // Around the price at which all that crosses is worth the time of everything.
    let middle = (i128::from(time) << SCALE) / i128::from(boundary.crossing.max(1));
    let price = |step: usize| match step {
        0 => 1,
        _ => ((middle * (1i128 << step)) >> (steps * 2 / 3)).clamp(1, MOST),
    };
    let prices: Vec<i128> = (0..steps.max(1)).map(price).collect();
    let cuts: Vec<Option<Cut>> =
        prices.into_par_iter().map(|price| boundary.cut(&boundary.choices[0], price)).collect();
    let told = |cut: Cut| Priced {
        kept: (0..model.items.len())
            .filter(|&s| cut.held[s])
            .filter_map(|s| Some((model.units[model.items[s].maker as usize].op?, model.items[s].bytes)))
            .collect(),
        again: (0..model.units.len())
            .filter(|&u| cut.again[u])
            .filter_map(|u| Some((model.units[u].op?, model.units[u].time)))
            .collect(),
    };
    cuts.into_iter().flatten().map(told).collect()
}

/// Whole nanoseconds: times are whole, so a fraction more than n means at least n + 1.
fn ceil(scaled: i128) -> u64 {
    let whole = (scaled + (1 << SCALE) - 1) >> SCALE;
    u64::try_from(whole).unwrap_or(u64::MAX)
}

#[cfg(all(test, feature = "fuzzing"))]
mod tests {
    use super::*;
    use crate::fuzz::{both_ways, layered};
    use crate::plan::{Lowering, lower, simulate};

    /// Both kinds of graph, with the instant at which most is carried across.
    fn each(mut check: impl FnMut(&Model, &Boundary, &str)) {
        for problem in [layered(1, 40, 6), layered(2, 80, 5), both_ways(24), both_ways(60)] {
            let model = Model::new(&problem, true);
            let boundary = Boundary::find(&model).into_iter().next().expect("a backward part");
            check(&model, &boundary, &problem.name);
        }
    }

    #[test]
    fn what_is_kept_by_graded_prices_fits_and_fills_the_room() {
        let mut filled = 0;
        each(|model, boundary, name| {
            for part in [3, 5, 7] {
                let budget = model.resident + boundary.crossing / 10 * part;
                let Some(graded) = boundary.graded(budget, &model.keep_all()) else { continue };
                assert!(model.resident + graded.kept <= budget, "{name} at {part}");
                let (_, _, poor) = boundary.solve(budget);
                let poor = poor.map_or(0, |poor| poor.kept);
                filled += usize::from(graded.kept > poor);
            }
        });
        assert!(filled > 2, "{filled} kept more than one price does");
    }

    #[test]
    fn pieces_are_made_again_by_themselves() {
        let mut lower_peaks = 0;
        each(|model, boundary, name| {
            let budget = model.resident + boundary.crossing / 50;
            let (_, rich, poor) = boundary.solve(budget);
            let cut = poor.or(rich).expect("a cut");
            let base = model.keep_all();
            let mut peaks = Vec::new();
            for pieces in [1, 4, 8] {
                let mut order = boundary.order_in_pieces(&cut, &base, pieces);
                let mut sim = Sim::default();
                sim.prune(model, &mut order);
                // Nothing but what the cut makes again runs twice, and that once more at most.
                let mut runs = vec![0; model.units.len()];
                order.iter().for_each(|&u| runs[u as usize] += 1);
                assert!(runs.iter().zip(&cut.again).all(|(&runs, &again)| runs == 1 || (runs == 2 && again)), "{name}");
                let steps = lower(&model.problem.graph, &model.expand(&order), Lowering::default());
                simulate(model.problem, &steps).unwrap();
                peaks.push(sim.run(model, &order).peak);
            }
            lower_peaks += usize::from(peaks[2] < peaks[0]);
        });
        assert!(lower_peaks > 1, "{lower_peaks}");
    }
}
