//! Scale and zero point of 8-bit integers: the one place where a real number becomes an integer.

use serde::{Deserialize, Serialize};

/// Where the 8-bit integers lie around zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// The greatest magnitude becomes 127, the zero point is 0. TensorRT knows only this.
    Symmetric,
    /// The whole range becomes -128..=127; zero stays exact.
    Asymmetric,
}

/// `real = scale * (integer - zero_point)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Params {
    /// Distance of neighbouring integers in the unit of the values; positive and normal.
    pub scale: f32,
    /// The integer that stands for zero.
    pub zero_point: i8,
}

impl Params {
    /// Parameters that cover `low..=high`, widened to contain zero, so that zero (padding, masked
    /// tokens) stays exact. A range of nothing but zero counts as ±1, so that the scale is positive.
    ///
    /// Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
    /// Integer-Arithmetic-Only Inference", 2017, section 3 (nudged zero point).
    pub fn of_range(low: f32, high: f32, scheme: Scheme) -> Self {
        // f64, so that the width of the widest range is finite.
        let finite = |x: f32| if x.is_nan() { 0.0 } else { f64::from(x.clamp(f32::MIN, f32::MAX)) };
        let (low, high) = (finite(low).min(0.0), finite(high).max(0.0));
        match scheme {
            Scheme::Symmetric => Self { scale: scale_of(low.abs().max(high), 127.0), zero_point: 0 },
            Scheme::Asymmetric => {
                let scale = scale_of(high - low, 255.0);
                let zero_point = (-128.0 - low / f64::from(scale)).round_ties_even().clamp(-128.0, 127.0);
                Self { scale, zero_point: zero_point as i8 }
            }
        }
    }

    /// The nearest integer, half to even, saturating at -128 and 127 as ONNX's `QuantizeLinear` and
    /// TensorRT do. (Stored symmetric weights never use -128.) NaN becomes the zero point.
    pub fn quantise(&self, x: f32) -> i8 {
        let steps = x / self.scale;
        if steps.is_nan() {
            return self.zero_point;
        }
        let zero_point = f32::from(self.zero_point);
        (round_clamped(steps, -128.0 - zero_point, 127.0 - zero_point) + zero_point) as i8
    }

    /// The real number that an integer stands for.
    pub fn dequantise(&self, q: i8) -> f32 {
        f32::from(i16::from(q) - i16::from(self.zero_point)) * self.scale
    }

    /// What `x` becomes by being quantised and dequantised.
    pub fn through(&self, x: f32) -> f32 {
        self.dequantise(self.quantise(x))
    }
}

/// The scale that divides `extent` into `steps`; normal, because processors may flush subnormals to zero.
pub(crate) fn scale_of(extent: f64, steps: f64) -> f32 {
    let extent = if extent > 0.0 { extent } else { 1.0 };
    ((extent / steps) as f32).max(f32::MIN_POSITIVE)
}

/// `steps` clamped to `low..=high` (whole numbers up to 2^21) and rounded half to even.
///
/// Adding 1.5 * 2^23 leaves no bits for a fraction, so the addition itself rounds; unlike
/// `round_ties_even`, which calls the C library on x86-64's base instructions, this becomes vector code.
#[inline]
pub(crate) fn round_clamped(steps: f32, low: f32, high: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    (steps.clamp(low, high) + NO_FRACTION) - NO_FRACTION
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scheme() -> impl Strategy<Value = Scheme> {
        prop_oneof![Just(Scheme::Symmetric), Just(Scheme::Asymmetric)]
    }

    #[test]
    fn rounds_half_to_even() {
        let params = Params { scale: 1.0, zero_point: 0 };
        let halves = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5];
        assert_eq!(halves.map(|x| params.quantise(x)), [-2, -2, 0, 0, 2, 2, 4]);
        // The zero point is added after rounding, as ONNX says: an odd one must not turn ties around.
        let params = Params { scale: 1.0, zero_point: 3 };
        assert_eq!(halves.map(|x| params.quantise(x)), [1, 1, 3, 3, 5, 5, 7]);
    }

    #[test]
    fn saturates() {
        for (scheme, low, high) in [(Scheme::Symmetric, -1.0, 1.0), (Scheme::Asymmetric, -1.0, 3.0)] {
            let params = Params::of_range(low, high, scheme);
            assert_eq!(params.quantise(1e30), 127);
            assert_eq!(params.quantise(f32::INFINITY), 127);
            assert_eq!(params.quantise(-1e30), -128);
            assert_eq!(params.quantise(f32::NAN), params.zero_point);
        }
    }

    #[test]
    fn known_parameters() {
        assert_eq!(Params::of_range(-127.0, 63.0, Scheme::Symmetric), Params { scale: 1.0, zero_point: 0 });
        assert_eq!(Params::of_range(0.0, 255.0, Scheme::Asymmetric), Params { scale: 1.0, zero_point: -128 });
        assert_eq!(Params::of_range(-255.0, 0.0, Scheme::Asymmetric), Params { scale: 1.0, zero_point: 127 });
        assert_eq!(Params::of_range(0.0, 0.0, Scheme::Symmetric).scale, 1.0 / 127.0);
    }

    #[test]
    fn extreme_ranges_give_usable_scales() {
        for (low, high) in [
            (f32::MIN, f32::MAX),
            (f32::NEG_INFINITY, f32::INFINITY),
            (f32::NAN, f32::NAN),
            (0.0, f32::from_bits(1)),
        ] {
            for scheme in [Scheme::Symmetric, Scheme::Asymmetric] {
                let params = Params::of_range(low, high, scheme);
                assert!(
                    params.scale.is_normal() && params.scale > 0.0,
                    "{low} {high} {scheme:?}: {params:?}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn round_trip_is_within_half_a_step(
            a in -1e4_f32..1e4, b in -1e4_f32..1e4, at in 0.0_f32..=1.0, scheme in scheme()
        ) {
            let (low, high) = (a.min(b), a.max(b));
            let params = Params::of_range(low, high, scheme);
            let x = low + (high - low) * at;
            prop_assert!((params.through(x) - x).abs() <= params.scale * 0.5001);
            prop_assert_eq!(params.through(0.0), 0.0);
        }

        #[test]
        fn integers_come_back(q: i8, zero_point: i8, scale in 1e-6_f32..1e6) {
            let params = Params { scale, zero_point };
            prop_assert_eq!(params.quantise(params.dequantise(q)), q);
        }

        #[test]
        fn quantising_keeps_order(a: f32, b: f32, scale in 1e-6_f32..1e6, zero_point: i8) {
            prop_assume!(!a.is_nan() && !b.is_nan());
            let params = Params { scale, zero_point };
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(params.quantise(low) <= params.quantise(high));
        }

        #[test]
        fn the_fast_rounding_is_the_standard_one(x in -300.0_f32..300.0) {
            prop_assert_eq!(round_clamped(x, -128.0, 127.0), x.clamp(-128.0, 127.0).round_ties_even());
        }
    }
}
