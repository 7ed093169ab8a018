//! Sets of items as bits, for searches over what is needed.
//!
//! Items that are cheapest to make again per byte have the first bits. So what it takes at least to do without so many bytes of a set is
//! what its first items take.

use super::model::{Model, NONE, Unit};

/// Items by their bits, and behind them what else a state holds.
pub(super) type Set = u128;

pub(super) fn bit(place: usize) -> Set {
    1 << place
}

/// The first bits.
pub(super) fn first(count: usize) -> Set {
    1u128.checked_shl(count as u32).map_or(Set::MAX, |bit| bit - 1)
}

pub(super) fn bits(mut set: Set) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (set != 0).then(|| set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(bit)
    })
}

/// The items of a model by their bits.
pub(super) struct Items {
    bytes: Vec<u64>,
    /// What a byte of each takes to make again at least; infinite where that cannot be.
    prices: Vec<f64>,
    bit_of: Vec<usize>,
    all: Set,
}

impl Items {
    /// The items with these sizes, of which those can be made again whose units may run `again`; `None` where there are
    /// more than bits, with some to spare.
    pub fn new(model: &Model, spare: usize, bytes: &dyn Fn(u32) -> u64, again: &dyn Fn(&Unit) -> bool) -> Option<Self> {
        let count = model.items.len();
        if count + spare >= Set::BITS as usize {
            return None;
        }
        let price = |s: usize| match model.items[s].maker {
            NONE => f64::INFINITY,
            maker => {
                let unit = &model.units[maker as usize];
                let all: u64 = unit.writes.iter().map(|&s| bytes(s)).sum();
                if again(unit) { unit.time as f64 / all.max(1) as f64 } else { f64::INFINITY }
            }
        };
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|&a, &b| price(a).total_cmp(&price(b)));
        let mut bit_of = vec![0; count];
        order.iter().enumerate().for_each(|(place, &s)| bit_of[s] = place);
        Some(Self {
            bytes: order.iter().map(|&s| bytes(s as u32)).collect(),
            prices: order.iter().map(|&s| price(s)).collect(),
            bit_of,
            all: first(count),
        })
    }

    pub fn count(&self) -> usize {
        self.bytes.len()
    }

    /// The bits of all items.
    pub fn all(&self) -> Set {
        self.all
    }

    /// The bit of an item.
    pub fn bit(&self, item: u32) -> Set {
        bit(self.bit_of[item as usize])
    }

    /// Those of a list that are made.
    pub fn set(&self, model: &Model, list: &[u32]) -> Set {
        let made = list.iter().filter(|&&s| model.items[s as usize].maker != NONE);
        made.fold(0, |all, &s| all | self.bit(s))
    }

    pub fn size(&self, set: Set) -> u64 {
        bits(set & self.all).map(|s| self.bytes[s]).sum()
    }

    /// What it takes at least to make so many bytes of a set again: a bound, infinite where that cannot be.
    pub fn cheapest(&self, set: Set, mut over: u64) -> f64 {
        let mut least = 0.0;
        for s in bits(set & self.all).filter(|&s| self.bytes[s] > 0) {
            if over == 0 {
                break;
            }
            let bytes = self.bytes[s].min(over);
            over -= bytes;
            least += bytes as f64 * self.prices[s];
        }
        if over > 0 { f64::INFINITY } else { least }
    }
}
