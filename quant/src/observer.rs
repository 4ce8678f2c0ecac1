//! Which range to quantise: observers and the bounded histogram that they look at.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, all_finite};
use crate::params::Scheme;

/// The rule that turns what was seen into a range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Observer {
    /// All that was seen. Nothing is clipped, and one outlier takes the resolution of all the rest.
    MinMax,
    /// This part of the values in percent; what is left out is taken from both ends alike.
    Percentile(f64),
    /// The clip at which the quantised distribution tells most about the true one.
    Entropy,
    /// The clip at which rounding and clipping together give the least squared error.
    Mse,
}

/// Bins on each side of zero.
const HALF: usize = 2048;
const HALF_LOG2: i32 = 11;
/// Below the bin width of the smallest subnormal.
const FIRST_EXPONENT: i32 = -200;

/// Counts of values in 4096 bins around zero, and their exact ends. Memory is the same whatever is added.
///
/// A bin is a power of two wide and starts at a multiple of its width. A value beyond the last bin
/// doubles the width until it fits and merges bins pairwise. So the counts depend only on which values
/// came, never on their order or on how they were split between merged histograms.
#[derive(Clone, PartialEq)]
pub struct Histogram {
    /// Bin `i` counts values in `(i - HALF) * width .. (i + 1 - HALF) * width`.
    counts: Vec<u64>,
    /// `width = 2^exponent`.
    exponent: i32,
    count: u64,
    min: f32,
    max: f32,
}

impl Histogram {
    /// A histogram that has seen nothing.
    pub fn new() -> Self {
        Self {
            counts: vec![0; 2 * HALF],
            exponent: FIRST_EXPONENT,
            count: 0,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
        }
    }

    /// Counts `values`.
    ///
    /// # Errors
    /// A value that is not finite, with its index; then none of them is counted.
    pub fn add(&mut self, values: &[f32]) -> Result<(), Error> {
        all_finite("values", values)?;
        let magnitude = values.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
        self.widen_to(exponent_for(magnitude));
        // A power of two in f64: the product is exact.
        let inverse_width = f64::from(-self.exponent).exp2();
        for value in values {
            let position = f64::from(*value) * inverse_width;
            // `floor` would be a call of the C library on x86-64's base instructions.
            let towards_zero = position as i32;
            let bin = towards_zero - i32::from(position < f64::from(towards_zero)) + HALF as i32;
            self.counts[bin as usize] += 1;
            self.min = self.min.min(*value);
            self.max = self.max.max(*value);
        }
        self.count += values.len() as u64;
        Ok(())
    }

    /// Adds all that `other` has seen; the same as having added its values here.
    pub fn merge(&mut self, other: &Self) {
        self.widen_to(other.exponent);
        let shift = shift_of(other.exponent, self.exponent);
        for (bin, count) in other.counts.iter().enumerate() {
            self.counts[shifted(bin, shift)] += count;
        }
        self.count += other.count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// Number of values seen.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The exact least value seen, if any.
    pub fn min(&self) -> Option<f32> {
        (self.count > 0).then_some(self.min)
    }

    /// The exact greatest value seen, if any.
    pub fn max(&self) -> Option<f32> {
        (self.count > 0).then_some(self.max)
    }

    /// The range (low, high) that `rule` chooses, inside what was seen. Entropy and MSE choose one clip
    /// for the magnitude and 127 steps, that is for [`Scheme::Symmetric`].
    ///
    /// # Errors
    /// Nothing was seen, or a percentile outside its bounds.
    pub fn range(&self, rule: Observer) -> Result<(f32, f32), Error> {
        if self.count == 0 {
            return Err(Error::Empty);
        }
        match rule {
            Observer::MinMax => Ok((self.min, self.max)),
            Observer::Percentile(percent) => self.percentile(percent),
            Observer::Entropy => Ok(self.clipped(crate::clip::entropy_bins(&self.magnitudes()))),
            Observer::Mse => Ok(self.clipped(crate::clip::mse_bins(&self.magnitudes()))),
        }
    }

    /// As [`Histogram::range`], but for asymmetric parameters MSE chooses both ends on their own.
    ///
    /// # Errors
    /// As [`Histogram::range`].
    pub fn range_for(&self, rule: Observer, scheme: Scheme) -> Result<(f32, f32), Error> {
        if self.count == 0 || scheme == Scheme::Symmetric || rule != Observer::Mse {
            return self.range(rule);
        }
        let (low, high) = crate::clip::mse_ends(&self.counts, HALF);
        let edge = |bin: usize| (bin as f64 - HALF as f64) * self.width();
        let (low, high) = (self.min.max(edge(low) as f32), self.max.min(edge(high) as f32));
        // What lies on one side of zero may end before the other side's clip, which is zero.
        Ok((low.min(self.max), high.max(self.min)))
    }

    fn percentile(&self, percent: f64) -> Result<(f32, f32), Error> {
        check_percent(percent)?;
        let left_out = (self.count as f64 * (100.0 - percent) / 200.0).floor() as u64;
        let from_below = self.counts.iter().copied();
        let from_above = self.counts.iter().rev().copied();
        let low = (bins_below(from_below, left_out) as f64 - HALF as f64) * self.width();
        let high = (HALF as f64 - bins_below(from_above, left_out) as f64) * self.width();
        Ok((self.min.max(low as f32), self.max.min(high as f32)))
    }

    /// The range whose magnitude ends with the `bins`-th bin.
    fn clipped(&self, bins: usize) -> (f32, f32) {
        let clip = (bins as f64 * self.width()).min(f64::from(f32::MAX)) as f32;
        (self.min.max(-clip).min(clip), self.max.min(clip).max(-clip))
    }

    /// Counts by magnitude, up to the last that is not empty.
    fn magnitudes(&self) -> Vec<u64> {
        let (below, above) = self.counts.split_at(HALF);
        let mut magnitudes: Vec<u64> = above.iter().zip(below.iter().rev()).map(|(a, b)| a + b).collect();
        let used = magnitudes.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        magnitudes.truncate(used);
        magnitudes
    }

    fn width(&self) -> f64 {
        f64::from(self.exponent).exp2()
    }

    fn widen_to(&mut self, exponent: i32) {
        if exponent <= self.exponent {
            return;
        }
        let shift = shift_of(self.exponent, exponent);
        let mut counts = vec![0; 2 * HALF];
        for (bin, count) in self.counts.iter().enumerate() {
            counts[shifted(bin, shift)] += count;
        }
        self.counts = counts;
        self.exponent = exponent;
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Thousands of counts help nobody.
        let Self { counts: _, exponent, count, min, max } = self;
        write!(f, "Histogram {{ count: {count}, min: {min}, max: {max}, width: 2^{exponent} }}")
    }
}

/// The least exponent whose bins hold `magnitude`.
fn exponent_for(magnitude: f32) -> i32 {
    if magnitude == 0.0 {
        return FIRST_EXPONENT;
    }
    // In f64 every f32 is normal, so that its exponent field is the floor of the binary logarithm.
    let floor_log2 = (f64::from(magnitude).to_bits() >> 52) as i32 - 1023;
    floor_log2 + 1 - HALF_LOG2
}

fn shift_of(from: i32, to: i32) -> u32 {
    (to - from).min(63).unsigned_abs()
}

/// The bin that a bin's values are in after the width has doubled `shift` times.
fn shifted(bin: usize, shift: u32) -> usize {
    // An arithmetic shift rounds down on both sides of zero.
    (((bin as i64 - HALF as i64) >> shift) + HALF as i64) as usize
}

/// Number of leading bins that together hold at most `left_out` values.
fn bins_below(counts: impl Iterator<Item = u64>, left_out: u64) -> usize {
    let mut sum = 0;
    counts
        .take_while(|count| {
            sum += count;
            sum <= left_out
        })
        .count()
}

fn check_percent(percent: f64) -> Result<(), Error> {
    if percent > 50.0 && percent <= 100.0 {
        return Ok(());
    }
    Err(Error::Setting { name: "percentile", value: percent.to_string(), bound: "above 50 and at most 100" })
}

impl FromStr for Observer {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let unknown = || Error::UnknownObserver(text.to_owned());
        match text {
            "min-max" => Ok(Self::MinMax),
            "entropy" => Ok(Self::Entropy),
            "mse" => Ok(Self::Mse),
            _ => {
                let percent = text.strip_prefix("percentile:").ok_or_else(unknown)?;
                let percent = percent.parse().map_err(|_| unknown())?;
                check_percent(percent)?;
                Ok(Self::Percentile(percent))
            }
        }
    }
}

impl TryFrom<String> for Observer {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Observer> for String {
    fn from(observer: Observer) -> Self {
        observer.to_string()
    }
}

impl fmt::Display for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MinMax => f.write_str("min-max"),
            Self::Percentile(percent) => write!(f, "percentile:{percent}"),
            Self::Entropy => f.write_str("entropy"),
            Self::Mse => f.write_str("mse"),
        }
    }
}
