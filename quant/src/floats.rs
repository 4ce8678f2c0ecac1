//! Small floating point: 8-bit E4M3 with its scale, and 16-bit halves that must not overflow.

use half::f16;

use crate::error::{Error, all_finite};
use crate::params::scale_of;

/// Greatest finite E4M3 value.
pub const E4M3_MAX: f32 = 448.0;

/// The scale at which `magnitude` becomes the greatest E4M3 value; as [`Params`](crate::Params), zero
/// counts as 1.
///
/// Source: Micikevicius et al., "FP8 Formats for Deep Learning", 2022, section 3.
pub fn e4m3_scale(magnitude: f32) -> f32 {
    scale_of(f64::from(magnitude.abs().min(f32::MAX)), f64::from(E4M3_MAX))
}

/// The nearest E4M3 value (ONNX's FLOAT8E4M3FN: no infinities), half to even, saturating at ±448.
pub fn e4m3_from_f32(x: f32) -> u8 {
    const LEAST_NORMAL: f32 = 0.015_625;
    const SUBNORMALS_PER_UNIT: f32 = 512.0;
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let magnitude = x.abs();
    let code = if x.is_nan() {
        0x7f
    } else if magnitude >= E4M3_MAX {
        0x7e
    } else if magnitude < LEAST_NORMAL {
        // Rounding up to 8 gives the code of the least normal value: the formats meet there.
        (magnitude * SUBNORMALS_PER_UNIT).round_ties_even() as u8
    } else {
        // 20 of 23 mantissa bits go; the last one kept decides a tie. The bias falls from 127 to 7.
        let bits = magnitude.to_bits();
        (((bits + 0x7_ffff + ((bits >> 20) & 1)) >> 20) - (120 << 3)) as u8
    };
    sign | code
}

/// The value of an E4M3 code.
pub fn f32_from_e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 0x0f), f32::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * f32::powi(2.0, exponent - 7),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// Weights as 16-bit halves.
///
/// # Errors
/// A weight that is not finite, or one that would become an infinity, with its index.
pub fn to_f16(weights: &[f32]) -> Result<Vec<f16>, Error> {
    all_finite("weights", weights)?;
    let half = |(index, weight): (usize, &f32)| {
        let half = f16::from_f32(*weight);
        if half.is_finite() { Ok(half) } else { Err(Error::HalfOverflow { index, value: *weight }) }
    };
    weights.iter().enumerate().map(half).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_code_comes_back() {
        for code in 0..=255_u8 {
            let value = f32_from_e4m3(code);
            assert_eq!(e4m3_from_f32(value), code, "{code:#x} is {value}");
        }
        assert_eq!(f32_from_e4m3(0x7e), E4M3_MAX);
        assert_eq!(f32_from_e4m3(0x38), 1.0);
        assert_eq!([e4m3_from_f32(1e9), e4m3_from_f32(f32::NEG_INFINITY)], [0x7e, 0xfe]);
    }

    #[test]
    fn ties_go_to_the_even_code() {
        for code in 0..0x7e_u8 {
            let middle = (f32_from_e4m3(code) + f32_from_e4m3(code + 1)) / 2.0;
            assert_eq!(e4m3_from_f32(middle), code + (code & 1), "between {code:#x} and the next");
        }
    }

    #[test]
    fn a_weight_too_large_for_a_half_is_named() {
        assert_eq!(to_f16(&[1.0, -65504.0]).unwrap()[1].to_f32(), -65504.0);
        let error = to_f16(&[0.0, 1e5]).unwrap_err();
        assert_eq!(error, Error::HalfOverflow { index: 1, value: 1e5 });
    }

    proptest! {
        #[test]
        fn no_code_is_nearer(x in -500.0_f32..500.0) {
            let chosen = (f32_from_e4m3(e4m3_from_f32(x)) - x).abs();
            let nearest = (0..=255_u8)
                .map(|code| (f32_from_e4m3(code) - x).abs())
                .filter(|distance| !distance.is_nan())
                .fold(f32::INFINITY, f32::min);
            prop_assert_eq!(chosen, nearest);
        }
    }
}
