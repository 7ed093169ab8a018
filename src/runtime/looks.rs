//! Where in a run of a plan a device's pools are asked what they hold.
//!
//! Whoever asks waits for the thread that talks to the device, with all that was asked of it before: at each place of a run that can
//! take half as long again as the run itself. But a plan that runs again holds what it held before at the same places. So
//! once two runs in a row that were looked at everywhere agree, only the places where most was held are looked at in every run, and all others in
//! turns.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::units::Bytes;

/// How many places are looked at in every run.
const HIGHEST: usize = 4;
/// One in so many of all places is looked at too, another in each run.
const TURNS: usize = 128;
/// Runs agree where the most that they held beyond what was there before differs by less than this part of it: a queue may
/// still hold something of what was there before.
const PART: u64 = 100;

/// Which places of a run are looked at. Places are counted from zero, in the order the run comes to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Places {
    /// All.
    All,
    /// Some, and of the others one in 128.
    Some {
        /// Those that are always looked at.
        always: BTreeSet<usize>,
        /// Which of the 128 turns it is now.
        turn: usize,
    },
}

/// What looking at the places of a run shows.
#[derive(Clone, Debug)]
pub struct Looks {
    places: Places,
    passed: usize,
    seen: Vec<(Bytes, usize)>,
}

impl Looks {
    /// For a run that is about to begin.
    pub fn at(places: Places) -> Self {
        Self { places, passed: 0, seen: Vec::new() }
    }

    /// Come to the next place: `look` there for the bytes in use, if it is one to look at.
    pub fn pass(&mut self, look: impl FnOnce() -> Option<Bytes>) {
        let place = self.passed;
        self.passed += 1;
        let worth = match &self.places {
            Places::All => true,
            Places::Some { always, turn } => always.contains(&place) || place % TURNS == *turn,
        };
        if worth && let Some(in_use) = look() {
            self.seen.push((in_use, place));
        }
    }
}

/// Where the runs of a plan hold most.
#[derive(Debug, Default)]
pub struct Crests(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Places of a run, and the most it held beyond what was there before, of the latest that was looked at everywhere.
    run: Option<(usize, Bytes)>,
    /// Where that was, once another run agreed.
    always: Option<BTreeSet<usize>>,
    turn: usize,
}

impl Crests {
    /// Which places of the next run to look at.
    pub fn next(&self) -> Places {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(always) = known.always.clone() else { return Places::All };
        known.turn = (known.turn + 1) % TURNS;
        Places::Some { always, turn: known.turn }
    }

    /// Learn from a run to its end, which found `before` in use.
    pub fn learn(&self, looks: Looks, before: Bytes) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Looks { places, passed, mut seen } = looks;
        let most = seen.iter().map(|&(in_use, _)| in_use).max().unwrap_or_default().saturating_sub(before);
        let agrees = known
            .run
            .is_some_and(|(count, bytes)| count == passed && most.get().abs_diff(bytes.get()) <= bytes.get() / PART);
        match places {
            Places::All => {
                // The earliest of places that are as high: a queue may be fuller at the others by chance.
                seen.sort_by_key(|&(in_use, place)| (std::cmp::Reverse(in_use), place));
                known.always = agrees.then(|| seen.into_iter().take(HIGHEST).map(|(_, place)| place).collect());
                known.run = Some((passed, most));
            }
            Places::Some { .. } if agrees => {}
            Places::Some { .. } => (known.run, known.always) = (None, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run that holds so much at its places; which of them it was looked at, and the most that was seen.
    fn run(crests: &Crests, holds: &[u64]) -> (Vec<usize>, u64) {
        let (mut looks, mut at, mut most) = (Looks::at(crests.next()), Vec::new(), 0);
        for (place, &bytes) in holds.iter().enumerate() {
            looks.pass(|| {
                at.push(place);
                most = most.max(bytes);
                Some(Bytes(bytes))
            });
        }
        crests.learn(looks, Bytes(1000));
        (at, most)
    }

    /// Goes up and down, highest (2199) at place 60 of each hundred.
    fn hills(places: usize) -> Vec<u64> {
        (0..places as u64).map(|n| 2000 + 10 * (60 - (n % 100).abs_diff(60)) / 3 - n / 100).collect()
    }

    #[test]
    fn once_two_runs_agree_only_the_highest_places_are_looked_at_always_and_all_in_turns() {
        let (crests, holds) = (Crests::default(), hills(1000));
        let most = holds.iter().copied().max().unwrap();
        assert_eq!(run(&crests, &holds).0.len(), 1000);
        assert_eq!(run(&crests, &holds).0.len(), 1000);
        let mut seen = BTreeSet::new();
        for _ in 0..TURNS {
            let (at, found) = run(&crests, &holds);
            assert!(at.len() <= HIGHEST + 1000 / TURNS + 1, "{}", at.len());
            assert_eq!(found, most);
            seen.extend(at);
        }
        assert_eq!(seen.len(), 1000, "a place was never looked at");
    }

    #[test]
    fn runs_that_do_not_agree_are_looked_at_everywhere() {
        let (crests, mut holds) = (Crests::default(), hills(1000));
        for more in 0..6 {
            holds[60] += 50;
            assert_eq!(run(&crests, &holds).0.len(), 1000, "{more}");
        }
        let longer = hills(1001);
        assert_eq!(run(&crests, &longer).0.len(), 1000 + 1);
    }

    #[test]
    fn another_length_another_height_or_a_new_top_begin_anew() {
        type Change = fn(&mut Vec<u64>);
        let changes: [Change; 3] = [
            |holds| holds.push(1),
            // Lower wherever it was highest.
            |holds| holds.iter_mut().for_each(|bytes| *bytes = (*bytes).min(2100)),
            // Higher, at a place that is looked at in its turn.
            |holds| holds[5] += 1000,
        ];
        for (n, change) in changes.iter().enumerate() {
            let (crests, mut holds) = (Crests::default(), hills(1000));
            for _ in 0..3 {
                run(&crests, &holds);
            }
            change(&mut holds);
            let most = holds.iter().copied().max().unwrap();
            let everywhere = (0..=TURNS).find(|_| run(&crests, &holds).0.len() >= 1000);
            assert!(everywhere.is_some(), "change {n} was not seen");
            run(&crests, &holds);
            let (at, found) = run(&crests, &holds);
            assert!(at.len() < 100 && found == most, "change {n}: {} {found}", at.len());
        }
    }

    #[test]
    fn a_place_that_cannot_be_seen_is_none() {
        let crests = Crests::default();
        let mut looks = Looks::at(crests.next());
        looks.pass(|| None);
        crests.learn(looks, Bytes::ZERO);
        assert_eq!(crests.next(), Places::All);
    }
}
