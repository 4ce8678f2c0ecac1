//! Moving the difficulty of outlying activation channels into the weights.

use crate::error::{Error, all_finite};

/// A factor for each input channel: activations are divided by it, the weights' rows multiplied, and the
/// product stays the same. `alpha` 0 leaves all difficulty to the activations, 1 moves it all to the weights.
///
/// `activation_max` and `weight_max` hold the greatest magnitude of each input channel. A channel whose
/// activations were always zero keeps the factor 1; a channel of zero weights counts as one of very small ones.
/// All factors are positive, finite and normal.
///
/// # Errors
/// Different lengths, a magnitude that is negative or not finite, `alpha` outside 0..=1.
///
/// Source: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large
/// Language Models", 2022, equation 4: `s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)`.
pub fn smooth_scales(activation_max: &[f32], weight_max: &[f32], alpha: f32) -> Result<Vec<f32>, Error> {
    /// Part of the largest weight below which a channel's weights count as this.
    const WEIGHT_FLOOR: f64 = 1e-5;
    if activation_max.len() != weight_max.len() {
        let (got, expected) = (weight_max.len(), activation_max.len());
        return Err(Error::Length { what: "weight_max", got, expected, shape: vec![expected] });
    }
    if !(0.0..=1.0).contains(&alpha) {
        return Err(Error::Setting { name: "alpha", value: alpha.to_string(), bound: "between 0 and 1" });
    }
    magnitudes("activation_max", activation_max)?;
    magnitudes("weight_max", weight_max)?;
    let alpha = f64::from(alpha);
    let greatest_weight = f64::from(weight_max.iter().fold(0.0_f32, |max, weight| max.max(*weight)));
    if greatest_weight == 0.0 {
        return Ok(vec![1.0; activation_max.len()]);
    }
    let factor = |activation: f32, weight: f32| {
        if activation == 0.0 {
            return 1.0;
        }
        let weight = f64::from(weight).max(WEIGHT_FLOOR * greatest_weight);
        let factor = f64::from(activation).powf(alpha) / weight.powf(1.0 - alpha);
        factor.clamp(f64::from(f32::MIN_POSITIVE), f64::from(f32::MAX)) as f32
    };
    Ok(activation_max.iter().zip(weight_max).map(|(a, w)| factor(*a, *w)).collect())
}

fn magnitudes(name: &'static str, values: &[f32]) -> Result<(), Error> {
    all_finite(name, values)?;
    match values.iter().find(|value| **value < 0.0) {
        Some(value) => Err(Error::Setting { name, value: value.to_string(), bound: "at least 0" }),
        None => Ok(()),
    }
}
