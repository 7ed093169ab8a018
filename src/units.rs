//! Sizes, times and budgets, typed so that bytes are never added to nanoseconds.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Zero.
            pub const ZERO: Self = Self(0);
            /// The raw number.
            #[inline]
            pub const fn get(self) -> u64 {
                self.0
            }
            /// `self - other`, or zero when that would be negative.
            #[inline]
            pub const fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }

        // Loaders bound the sum of everything a problem holds, so these saturate only on
        // arithmetic that has no meaning; saturation keeps such a comparison on the safe side.
        impl Add for $name {
            type Output = Self;
            #[inline]
            fn add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
        }
        impl AddAssign for $name {
            #[inline]
            fn add_assign(&mut self, other: Self) {
                *self = *self + other;
            }
        }
        impl Sub for $name {
            type Output = Self;
            #[inline]
            fn sub(self, other: Self) -> Self {
                debug_assert!(self.0 >= other.0, "{} - {} is negative", self.0, other.0);
                Self(self.0.saturating_sub(other.0))
            }
        }
        impl SubAssign for $name {
            #[inline]
            fn sub_assign(&mut self, other: Self) {
                *self = *self - other;
            }
        }
        impl Sum for $name {
            fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
                iter.fold(Self::ZERO, Add::add)
            }
        }
    };
}

unit!(
    /// A size in bytes. Displays in binary units (`1.50 GiB`).
    Bytes
);
unit!(
    /// A duration in nanoseconds. Displays in a readable unit (`12.3 ms`).
    Nanos
);

impl Nanos {
    /// How much longer this is than `baseline`, as a fraction of it: `(self - baseline) / baseline`.
    /// Zero where the baseline takes no time.
    pub fn over(self, baseline: Self) -> f64 {
        match baseline.0 {
            0 => 0.0,
            base => (self.0 as f64 - base as f64) / base as f64,
        }
    }
}

impl Bytes {
    /// How long it takes to move them at so many bytes in a second, rounded up; no time where that is 0, for no limit.
    pub fn moved_at(self, bytes_per_s: u64) -> Nanos {
        if bytes_per_s == 0 {
            return Nanos::ZERO;
        }
        let nanos = (u128::from(self.0) * 1_000_000_000).div_ceil(u128::from(bytes_per_s));
        Nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        let mut x = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while x >= 1024.0 && unit + 1 < UNITS.len() {
            x /= 1024.0;
            unit += 1;
        }
        f.pad(&format!("{x:.2} {}", UNITS[unit]))
    }
}

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let x = self.0 as f64;
        f.pad(&match self.0 {
            0..=999 => format!("{} ns", self.0),
            1_000..=999_999 => format!("{:.1} us", x / 1e3),
            1_000_000..=999_999_999 => format!("{:.2} ms", x / 1e6),
            _ => format!("{:.3} s", x / 1e9),
        })
    }
}

/// How many bytes a training step may use on one device.
///
/// Everything the step touches counts: parameters, gradients, optimizer state, inputs,
/// activations and workspace.
///
/// ```
/// use plimsoll::{Budget, Bytes};
/// assert_eq!("2GiB".parse::<Budget>()?, Budget::gib(2));
/// assert_eq!("1500MB".parse::<Budget>()?, Budget::bytes(1_500_000_000));
/// assert_eq!("8_000_000_000".parse::<Budget>()?, Budget::bytes(8_000_000_000));
/// let part: Budget = "40%".parse()?;
/// assert_eq!(part.resolve(Bytes(1000))?, Bytes(400));
/// # Ok::<(), plimsoll::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// An absolute number of bytes.
    Bytes(Bytes),
    /// A fraction (1.0 is all) of the baseline's peak: everything kept, each value dropped after
    /// its last use.
    Fraction(f64),
    /// No bound.
    Unlimited,
}

impl Budget {
    /// `n` bytes.
    pub const fn bytes(n: u64) -> Self {
        Self::Bytes(Bytes(n))
    }
    /// `n` MiB (2^20 bytes), saturating.
    pub const fn mib(n: u64) -> Self {
        Self::Bytes(Bytes(n.saturating_mul(1 << 20)))
    }
    /// `n` GiB (2^30 bytes), saturating.
    pub const fn gib(n: u64) -> Self {
        Self::Bytes(Bytes(n.saturating_mul(1 << 30)))
    }
    /// `percent` % of the baseline's peak.
    pub const fn percent(percent: f64) -> Self {
        Self::Fraction(percent / 100.0)
    }

    /// The budget in bytes, given the peak of the baseline.
    ///
    /// # Errors
    /// [`Error::InvalidBudget`] when the budget is zero, negative or not a number.
    pub fn resolve(self, baseline_peak: Bytes) -> Result<Bytes> {
        let invalid = |why: &str| Error::InvalidBudget { text: self.to_string(), why: why.to_owned() };
        match self {
            Budget::Bytes(Bytes(0)) => Err(invalid("a budget must be more than zero bytes")),
            Budget::Bytes(bytes) => Ok(bytes),
            Budget::Fraction(x) if !x.is_finite() => Err(invalid("the fraction is not a number")),
            Budget::Fraction(x) if x <= 0.0 => Err(invalid("the fraction must be more than zero percent")),
            Budget::Fraction(x) => {
                let bytes = (baseline_peak.0 as f64 * x).floor();
                if bytes < 1.0 {
                    return Err(invalid("the fraction leaves less than one byte"));
                }
                // `as` saturates, which is what an absurdly large percentage means.
                Ok(Bytes(bytes as u64))
            }
            Budget::Unlimited => Ok(Bytes(u64::MAX)),
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Bytes(bytes) => fmt::Display::fmt(bytes, f),
            // Rounded, so that 55% is not shown as 55.00000000000001%.
            Budget::Fraction(x) => f.pad(&format!("{}%", (x * 1e11).round() / 1e9)),
            Budget::Unlimited => f.pad("unlimited"),
        }
    }
}

impl From<Bytes> for Budget {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl FromStr for Budget {
    type Err = Error;

    /// Parses `2GiB`, `1500 MB`, `40%`, `8_000_000_000` or `unlimited`. Decimal and binary units
    /// are told apart (`MB` is 10^6, `MiB` 2^20); a plain number is bytes.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = |why: &str| Error::InvalidBudget { text: text.chars().take(64).collect(), why: why.to_owned() };
        let trimmed = text.trim();
        if trimmed.eq_ignore_ascii_case("unlimited") {
            return Ok(Budget::Unlimited);
        }
        let split = trimmed
            .find(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'e' | 'E') || c == '%')
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let number = number.trim().replace('_', "");
        if number.is_empty() {
            return Err(invalid("it has no number; write 2GiB, 1500MB, 40% or a number of bytes"));
        }
        let scale: f64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "k" | "kb" => 1e3,
            "m" | "mb" => 1e6,
            "g" | "gb" => 1e9,
            "t" | "tb" => 1e12,
            "ki" | "kib" => 1024.0,
            "mi" | "mib" => 1024.0 * 1024.0,
            "gi" | "gib" => 1024.0 * 1024.0 * 1024.0,
            "ti" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
            "%" => 0.0,
            _ => return Err(invalid("its unit is none of B, KB, MB, GB, TB, KiB, MiB, GiB, TiB, %")),
        };
        // Whole byte counts stay exact beyond 2^53.
        if scale == 1.0
            && let Ok(bytes) = number.parse::<u64>()
        {
            return match bytes {
                0 => Err(invalid("a budget must be more than zero bytes")),
                _ => Ok(Budget::bytes(bytes)),
            };
        }
        let x: f64 = number.parse().map_err(|_| invalid("its number cannot be read"))?;
        if !x.is_finite() {
            return Err(invalid("its number is not finite"));
        }
        if x <= 0.0 {
            return Err(invalid("a budget must be more than zero"));
        }
        if unit.trim() == "%" {
            // Divided, not multiplied by 0.01: 57% is then the same number as 0.57.
            return Ok(Budget::percent(x));
        }
        let bytes = x * scale;
        if bytes < 1.0 {
            return Err(invalid("it is less than one byte"));
        }
        if bytes >= u64::MAX as f64 {
            return Err(invalid("it is more than 2^64 bytes"));
        }
        Ok(Budget::bytes(bytes as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_people_write() {
        for (text, want) in [
            ("2GiB", Budget::gib(2)),
            ("1.5 GiB", Budget::bytes(3 << 29)),
            ("1500MB", Budget::bytes(1_500_000_000)),
            ("512", Budget::bytes(512)),
            ("8_000_000_000", Budget::bytes(8_000_000_000)),
            ("1e9", Budget::bytes(1_000_000_000)),
            ("40%", Budget::Fraction(0.4)),
            ("57%", Budget::Fraction(0.57)),
            ("unlimited", Budget::Unlimited),
            ("18446744073709551615", Budget::bytes(u64::MAX)),
        ] {
            assert_eq!(text.parse::<Budget>().unwrap(), want, "{text}");
        }
    }

    #[test]
    fn budgets_refused() {
        for text in [
            "",
            "  ",
            "GiB",
            "0",
            "0%",
            "-1",
            "-5%",
            "-2GiB",
            "nan",
            "inf",
            "1e400",
            "3 parsecs",
            "99999999999TiB",
            "0.1B",
            "1..2",
            "%",
            "1e",
            "--2",
        ] {
            let error = text.parse::<Budget>().unwrap_err();
            assert!(matches!(error, Error::InvalidBudget { .. }), "{text}: {error}");
        }
        for budget in [Budget::bytes(0), Budget::percent(-1.0), Budget::percent(f64::NAN)] {
            assert!(budget.resolve(Bytes(1 << 20)).is_err());
        }
        assert!(Budget::percent(10.0).resolve(Bytes(3)).is_err());
    }

    #[test]
    fn sizes_display_in_binary_units() {
        assert_eq!(Bytes(1023).to_string(), "1023 B");
        assert_eq!(Bytes(3 << 29).to_string(), "1.50 GiB");
        assert_eq!("55%".parse::<Budget>().unwrap().to_string(), "55%");
        assert_eq!(Nanos(12_340_000).to_string(), "12.34 ms");
    }
}
