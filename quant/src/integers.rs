//! The integers that stored weights may use, and the clip of a group of weights that suits them best.

use crate::params::{round_clamped, scale_of};

/// A range of integers that is rounded to with zero point 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Integers {
    low: i8,
    high: i8,
}

impl Integers {
    /// Symmetric 8 bit: -128 stays unused, so that a weight and its negative are alike.
    pub(crate) const SYMMETRIC_8: Self = Self { low: -127, high: 127 };
    /// 4 bit: the scale is made for ±7; -8 is there for what a clip cuts off.
    pub(crate) const SYMMETRIC_4: Self = Self { low: -8, high: 7 };

    /// The scale that makes the part `clip` of `magnitude` the greatest integer.
    pub(crate) fn scale(self, magnitude: f32, clip: f64) -> f32 {
        scale_of(f64::from(magnitude) * clip, f64::from(self.high))
    }

    /// The nearest integer to `steps` (a weight divided by its scale), half to even, saturating.
    #[inline]
    pub(crate) fn round(self, steps: f32) -> i8 {
        round_clamped(steps, f32::from(self.low), f32::from(self.high)) as i8
    }

    /// How much of `magnitude`, the greatest of `values`, to keep, as a fraction, so that rounding them
    /// gives the least squared error.
    ///
    /// Coarse, then fine around the best: the error has one valley for all but contrived values, and a
    /// missed one still leaves a result no worse than not clipping.
    pub(crate) fn best_clip(self, values: &[f32], magnitude: f32) -> f64 {
        const COARSE: f64 = 0.05;
        const FINE: f64 = 0.01;
        if magnitude == 0.0 {
            return 1.0;
        }
        let error = |clip: f64, bound: f64| self.squared_error(values, self.scale(magnitude, clip), bound);
        let mut best = (error(1.0, f64::INFINITY), 1.0);
        let coarse = (1..=14).map(|step| 1.0 - COARSE * f64::from(step));
        best = coarse.fold(best, |best, clip| least(best, (error(clip, best.0), clip)));
        let around = best.1;
        let fine = (-4..=4).map(|step| around + FINE * f64::from(step)).filter(|clip| *clip < 1.0);
        fine.fold(best, |best, clip| least(best, (error(clip, best.0), clip))).1
    }

    /// Sum of squared rounding and clipping errors; once it is beyond `bound` it may stop counting.
    fn squared_error(self, values: &[f32], scale: f32, bound: f64) -> f64 {
        let (low, high) = (f32::from(self.low), f32::from(self.high));
        let inverse = 1.0 / scale;
        let squared_step = f64::from(scale) * f64::from(scale);
        let mut total = 0.0_f64;
        for chunk in values.chunks(256) {
            // Eight sums, because one alone is a chain of additions that no vector unit can shorten.
            let mut sums = [0.0_f32; 8];
            let mut add = |part: &[f32]| {
                for (sum, value) in sums.iter_mut().zip(part) {
                    let steps = value * inverse;
                    let off = steps - round_clamped(steps, low, high);
                    *sum += off * off;
                }
            };
            // Whole parts by themselves, since their length is then known.
            let (parts, rest) = chunk.as_chunks::<8>();
            parts.iter().for_each(|part| add(part));
            add(rest);
            total += sums.iter().map(|sum| f64::from(*sum)).sum::<f64>();
            if total * squared_step > bound {
                break;
            }
        }
        total * squared_step
    }
}

fn least(best: (f64, f64), candidate: (f64, f64)) -> (f64, f64) {
    if candidate.0 < best.0 { candidate } else { best }
}
