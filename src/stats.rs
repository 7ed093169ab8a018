//! Statistics of paired runs: is one way of training faster than another, and how sure is that?
//!
//! ```text
//! repetition   A (ms)  B (ms)   ratio A/B      A wins
//!      0        10.1    11.0      0.918          1
//!      1        12.3    12.9      0.953          1        both see the same data, the same initial
//!      2        10.0     9.9      1.010          0        values, and the same hour of the machine
//!     ...                      median, interval  share, interval -> verdict
//! ```
//!
//! The decision is that of Bouthillier et al., "Accounting for variance in machine learning
//! benchmarks" (MLSys 2021): A is better than B where the probability that A wins a pair is
//! significantly above one half, and not shown to be below a threshold that says what is worth
//! calling better (they recommend 0.75).
//!
//! The intervals are not theirs. A percentile bootstrap of so few pairs does not hold what it
//! promises: at 13 pairs it declares 9 of a hundred comparisons of a thing with itself different,
//! and where all pairs go one way its interval is a point. What is here needs no resampling, and
//! nothing but independent repetitions:
//! - The interval of a median is that of interpolated order statistics (Hettmansperger and Sheather,
//!   "Confidence intervals based on interpolated order statistics", Statistics and Probability
//!   Letters 4, 1986). It covers close to 95 %; below 6 values there is none.
//! - The interval of a share of wins is the exact one of Clopper and Pearson (1934), which covers
//!   95 % or more; a tie counts half, rounded to the side that makes the interval wider.
//!
//! This is in the library, not in the command line, because the benches and the tests draw their
//! conclusions by the same rules.

/// What is left to chance on either side of an interval.
const TAIL: f64 = 0.025;

/// A 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// How often one of two outperforms the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outperforms {
    /// The share of pairs it wins, a tie counting half: the estimate of the probability.
    pub share: f64,
    /// The interval of that probability.
    pub interval: Interval,
}

/// What pairs show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The first of a pair is smaller more often than not, and perhaps by as much as is asked.
    Smaller,
    /// The same of the second.
    Larger,
    /// Neither.
    NotShown,
}

/// The median; NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match sorted.len() {
        0 => f64::NAN,
        n => f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2]),
    }
}

/// The 95 % interval of the median of what `values` were drawn from; `None` below 6 values, where
/// not even the smallest and the largest of them hold it that surely.
///
/// ```
/// use plimsoll::stats::median_interval;
/// let interval = median_interval(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]).unwrap();
/// assert!((2.0..3.0).contains(&interval.low) && (8.0..9.0).contains(&interval.high));
/// assert_eq!(median_interval(&[1.0; 5]), None);
/// ```
pub fn median_interval(values: &[f64]) -> Option<Interval> {
    let sorted = sorted(values);
    let n = sorted.len();
    // The d-th smallest and the d-th largest miss the median with probability 2 below(d): it has
    // to have fewer than d values on one side.
    let below = |d: usize| binomial_up_to(n, d as i64 - 1, 0.5);
    let d = (1..=n / 2).take_while(|&d| below(d) <= TAIL).last()?;
    let share = (TAIL - below(d)) / (below(d + 1) - below(d));
    // How far to go from there to the next ones inside: exact for the Laplace distribution, and
    // nearly so for others.
    let way = (n - d) as f64 * share / (d as f64 + (n - 2 * d) as f64 * share);
    let between = |outer: f64, inner: f64| outer + way * (inner - outer);
    Some(Interval { low: between(sorted[d - 1], sorted[d]), high: between(sorted[n - d], sorted[n - d - 1]) })
}

/// How often the first of a pair is smaller than the second. Of no pairs nothing is known.
///
/// ```
/// use plimsoll::stats::{Verdict, smaller, verdict};
/// let won = smaller((0..10).map(|i| (10.0 + f64::from(i), 12.0 + f64::from(i))));
/// assert_eq!((won.share, verdict(&won, 0.75)), (1.0, Verdict::Smaller));
/// // Five out of five can be chance.
/// let won = smaller((0..5).map(|i| (10.0 + f64::from(i), 12.0 + f64::from(i))));
/// assert_eq!((won.share, verdict(&won, 0.75)), (1.0, Verdict::NotShown));
/// ```
pub fn smaller(pairs: impl IntoIterator<Item = (f64, f64)>) -> Outperforms {
    let (mut n, mut halves) = (0, 0);
    for (a, b) in pairs {
        n += 1;
        halves += match a.total_cmp(&b) {
            std::cmp::Ordering::Less => 2,
            std::cmp::Ordering::Equal => 1,
            std::cmp::Ordering::Greater => 0,
        };
    }
    let share = if n == 0 { 0.5 } else { halves as f64 / (2 * n) as f64 };
    Outperforms { share, interval: share_interval(n, halves / 2, halves.div_ceil(2)) }
}

/// What that shows. `threshold` is the probability from which on a difference is worth the name.
pub fn verdict(first: &Outperforms, threshold: f64) -> Verdict {
    let Interval { low, high } = first.interval;
    if low > 0.5 && high >= threshold {
        Verdict::Smaller
    } else if high < 0.5 && low <= 1.0 - threshold {
        Verdict::Larger
    } else {
        Verdict::NotShown
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The exact interval of a probability that won at least `least` and at most `most` of `n` times.
fn share_interval(n: usize, least: usize, most: usize) -> Interval {
    // The largest probability with which so many wins are too many to be believed.
    let low = match least {
        0 => 0.0,
        k => bisect(|p| 1.0 - binomial_up_to(n, k as i64 - 1, p) < TAIL),
    };
    let high = match most {
        k if k == n => 1.0,
        k => bisect(|p| binomial_up_to(n, k as i64, p) > TAIL),
    };
    Interval { low, high }
}

/// The number in `[0, 1]` up to which `holds` does.
fn bisect(holds: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        match holds(middle) {
            true => low = middle,
            false => high = middle,
        }
    }
    low
}

/// The probability of at most `k` wins in `n` independent games, each won with probability `p`
/// between 0 and 1, both excluded.
fn binomial_up_to(n: usize, k: i64, p: f64) -> f64 {
    // Logarithms, because 0.5^n is no number from 1,075 games on.
    let (win, lose) = (p.ln(), (-p).ln_1p());
    let mut choose = 0.0;
    let mut sum = 0.0;
    for i in 0..=k.min(n as i64) {
        sum += f64::exp(choose + i as f64 * win + (n as i64 - i) as f64 * lose);
        choose += ((n as i64 - i) as f64 / (i + 1) as f64).ln();
    }
    sum.min(1.0)
}

/// SplitMix64 (Steele, Lea and Flood, 2014): seeded, the same on every machine. For the order of
/// runs and their seeds.
#[derive(Clone, Debug)]
pub struct Draw(u64);

impl Draw {
    /// The stream that `seed` stands for.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.number()) * n as u128) >> 64) as usize
    }

    /// Put `items` into an order of which all are equally likely.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
