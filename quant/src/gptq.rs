//! Rounding weights one input at a time, each error made good by the inputs that are still to come.

use crate::block::{BlockFormat, BlockScale, BlockWeights, block_scales};
use crate::error::Error;
use crate::hessian::Hessian;
use crate::linear::{Square, subtract_scaled};

/// How [`gptq`] rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GptqSettings {
    /// Added to the Hessian's diagonal, as a fraction of its mean. More is safer with few calibration
    /// rows, and nearer to plain rounding.
    pub damping: f64,
    /// Round the inputs with the most energy first, while there are still many others to make good.
    pub by_energy: bool,
    /// How the scales, fixed before rounding starts, are found.
    pub scale: BlockScale,
}

impl Default for GptqSettings {
    fn default() -> Self {
        Self { damping: 0.01, by_energy: true, scale: BlockScale::Mse }
    }
}

/// Outputs that are worked on together: K rows of them stay in a second-level cache.
const STRIP: usize = 32;
/// Inputs after which the errors are carried on to all the rest in one go.
const LAZY: usize = 64;

/// Rounds `weights`, `[K, N]` row-major, so that the layer's outputs on the inputs behind `hessian` change
/// least, not the weights. Takes the memory of three `K^2` matrices in f64 and the result.
///
/// # Errors
/// Lengths that do not fit, a weight that is not finite, damping that is negative or not finite, and
/// [`Error::NotPositiveDefinite`] where the damping was too little.
///
/// Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
/// Transformers", 2022, algorithm 1; order by energy and scales fixed ahead as in its authors' code.
pub fn gptq(
    weights: &[f32],
    shape: [usize; 2],
    hessian: &Hessian,
    format: BlockFormat,
    settings: &GptqSettings,
) -> Result<BlockWeights, Error> {
    let [k, n] = shape;
    if hessian.inputs() != k {
        return Err(Error::Length {
            what: "hessian",
            got: hessian.inputs(),
            expected: k,
            shape: shape.into(),
        });
    }
    let scales = block_scales(weights, shape, format, settings.scale)?;
    let order = rounding_order(hessian, settings.by_energy);
    let correction = correction(hessian, &order, settings.damping)?;
    let mut values = vec![0_i8; k * n];
    for first in (0..n).step_by(STRIP) {
        let width = STRIP.min(n - first);
        let mut strip: Vec<f64> = Vec::with_capacity(k * width);
        for input in &order {
            strip.extend(weights[input * n + first..][..width].iter().map(|weight| f64::from(*weight)));
        }
        let scales_of = |input: usize| &scales[input / format.block * n + first..][..width];
        round_strip(&mut strip, width, &correction, |step, weights| {
            let input = order[step];
            let integers = &mut values[input * n + first..][..width];
            for ((integer, weight), scale) in integers.iter_mut().zip(weights).zip(scales_of(input)) {
                *integer = format.bits.integers().round((*weight / f64::from(*scale)) as f32);
                *weight -= f64::from(*integer) * f64::from(*scale);
            }
        });
    }
    Ok(BlockWeights { shape, format, values, scales })
}

/// Walks down the rows of `strip`, `[K, width]`. `round(step, row)` rounds a row and leaves its rounding
/// errors there, which are then carried on to the rows below.
fn round_strip(
    strip: &mut [f64],
    width: usize,
    correction: &Square,
    mut round: impl FnMut(usize, &mut [f64]),
) {
    let k = correction.size;
    for first in (0..k).step_by(LAZY) {
        let end = (first + LAZY).min(k);
        for step in first..end {
            let (done, below) = strip.split_at_mut((step + 1) * width);
            let errors = &mut done[step * width..];
            round(step, errors);
            let factors = correction.row(step);
            errors.iter_mut().for_each(|error| *error /= factors[step]);
            for (row, factor) in below.chunks_exact_mut(width).zip(&factors[step + 1..end]) {
                subtract_scaled(row, *factor, errors);
            }
        }
        let (done, below) = strip.split_at_mut(end * width);
        for (row, later) in below.chunks_exact_mut(width).zip(end..k) {
            for (step, errors) in (first..end).zip(done[first * width..].chunks_exact(width)) {
                subtract_scaled(row, correction.row(step)[later], errors);
            }
        }
    }
}

/// Inputs in the order in which they are rounded.
fn rounding_order(hessian: &Hessian, by_energy: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..hessian.inputs()).collect();
    if by_energy {
        // The sort is stable: equal energies keep their order, on every machine.
        order.sort_by(|a, b| hessian.at(*b, *b).total_cmp(&hessian.at(*a, *a)));
    }
    order
}

/// The upper triangular U with `U^T U = H^-1`, H damped and in rounding order.
///
/// With H's rows and columns reversed, `H = L L^T`; then U is `L^-1` reversed again, which saves forming
/// the inverse and factoring it a second time.
fn correction(hessian: &Hessian, order: &[usize], damping: f64) -> Result<Square, Error> {
    if !(damping.is_finite() && damping >= 0.0) {
        return Err(Error::Setting { name: "damping", value: damping.to_string(), bound: "at least 0" });
    }
    let size = order.len();
    let mean = (0..size).map(|i| hessian.at(i, i)).sum::<f64>() / size.max(1) as f64;
    let reversed = |i: usize| order[size - 1 - i];
    let mut lower = Square::from_fn(size, |i, j| {
        let value = hessian.at(reversed(i), reversed(j));
        match i == j {
            // An input that was always zero has no say, and may be rounded as it likes.
            true if value == 0.0 => 1.0,
            true => value + damping * mean,
            false => value,
        }
    });
    lower.cholesky().map_err(|pivot| {
        let index = reversed(pivot.index);
        Error::NotPositiveDefinite { index, size, value: pivot.value, damping }
    })?;
    let inverse = lower.inverse_of_lower();
    drop(lower);
    Ok(Square::from_fn(size, |i, j| inverse.row(size - 1 - i)[size - 1 - j]))
}
