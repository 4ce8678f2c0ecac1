//! How far an approximation is from its reference.
//!
//! All three give NaN for inputs of different lengths, so that a mistake never looks like a good result.

/// Signal to quantisation-noise ratio in decibels: `10 log10(sum r^2 / sum (r - a)^2)`. Infinite for
/// equal inputs; 0 where the noise is as strong as the signal.
pub fn sqnr_db(reference: &[f32], approximated: &[f32]) -> f64 {
    if reference.len() != approximated.len() {
        return f64::NAN;
    }
    let signal: f64 = reference.iter().map(|r| f64::from(*r).powi(2)).sum();
    let noise: f64 =
        reference.iter().zip(approximated).map(|(r, a)| (f64::from(*r) - f64::from(*a)).powi(2)).sum();
    if noise == 0.0 { f64::INFINITY } else { 10.0 * (signal / noise).log10() }
}

/// Cosine of the angle between the two: 1 for the same direction whatever the length. Two zero vectors
/// agree (1); a zero and a non-zero one do not (0).
pub fn cosine(reference: &[f32], approximated: &[f32]) -> f64 {
    if reference.len() != approximated.len() {
        return f64::NAN;
    }
    let (mut dot, mut left, mut right) = (0.0_f64, 0.0_f64, 0.0_f64);
    for (r, a) in reference.iter().zip(approximated) {
        let (r, a) = (f64::from(*r), f64::from(*a));
        dot += r * a;
        left += r * r;
        right += a * a;
    }
    match (left == 0.0, right == 0.0) {
        (true, true) => 1.0,
        (false, false) => (dot / (left.sqrt() * right.sqrt())).clamp(-1.0, 1.0),
        _ => 0.0,
    }
}

/// Greatest difference of two values in the same place. NaN if any of them is NaN.
pub fn max_abs(reference: &[f32], approximated: &[f32]) -> f64 {
    if reference.len() != approximated.len() {
        return f64::NAN;
    }
    let differences = reference.iter().zip(approximated).map(|(r, a)| (f64::from(*r) - f64::from(*a)).abs());
    // `f64::max` leaves NaN aside; here it must win.
    differences.fold(0.0, |max, difference| {
        if difference.is_nan() {
            f64::NAN
        } else if max >= difference || max.is_nan() {
            max
        } else {
            difference
        }
    })
}
