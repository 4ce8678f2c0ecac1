//! Scaling up the inputs that matter before rounding to 4 bit, so that their weights lose less.

use crate::block::{BlockFormat, BlockScale, per_block};
use crate::error::{Error, fills};
use crate::hessian::Hessian;

/// What [`awq_scales`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct AwqScales {
    /// A factor for each input: weights are multiplied by it, activations divided, as with
    /// [`smooth_scales`](crate::smooth_scales). Positive and finite, around 1.
    pub scales: Vec<f32>,
    /// The exponent that won: 0 leaves everything as it was.
    pub alpha: f64,
    /// Squared output error with these scales, over the error without; at most 1.
    pub error_ratio: f64,
}

/// Searches the input scales `rms(x)^alpha` whose rounding, with the scales of blocks found by `scale` and undone by
/// the division of the activations, changes the outputs least. Layers that share an input (q, k and v) can be searched
/// together, side by side as the columns of one `weights` `[K, N]`. At most 256 evenly spaced outputs are looked at.
///
/// # Errors
/// As [`per_block`], or a Hessian of another size or without any row.
///
/// Source: Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration",
/// 2023, section 3.2. The magnitude of an input is its root mean square here, not its mean, because the
/// Hessian's diagonal holds it; the error is exact over all calibration rows, by the Hessian.
pub fn awq_scales(
    weights: &[f32],
    shape: [usize; 2],
    hessian: &Hessian,
    format: BlockFormat,
    scale: BlockScale,
) -> Result<AwqScales, Error> {
    const GRID: u32 = 20;
    let [k, _] = shape;
    fills("weights", weights.len(), &shape)?;
    if hessian.inputs() != k {
        return Err(Error::Length {
            what: "hessian",
            got: hessian.inputs(),
            expected: k,
            shape: shape.into(),
        });
    }
    if hessian.rows() == 0 {
        return Err(Error::Empty);
    }
    let (sample, outputs) = some_outputs(weights, shape);
    let rms = hessian.rms();
    let mut best = AwqScales { scales: vec![1.0; k], alpha: 0.0, error_ratio: 1.0 };
    let error = |scales: &[f32]| scaled_error(&sample, [k, outputs], hessian, (format, scale), scales);
    let unscaled = error(&best.scales)?;
    if unscaled == 0.0 {
        return Ok(best);
    }
    for step in 1..=GRID {
        let alpha = f64::from(step) / f64::from(GRID);
        let scales = centred_powers(&rms, alpha);
        let error_ratio = error(&scales)? / unscaled;
        if error_ratio < best.error_ratio {
            best = AwqScales { scales, alpha, error_ratio };
        }
    }
    Ok(best)
}

/// `rms^alpha`, divided by the geometric middle of its extremes; 1 for an input that was always zero.
fn centred_powers(rms: &[f64], alpha: f64) -> Vec<f32> {
    let awake = || rms.iter().copied().filter(|rms| *rms > 0.0);
    let least = awake().fold(f64::INFINITY, f64::min).powf(alpha);
    let greatest = awake().fold(0.0, f64::max).powf(alpha);
    let middle = (least * greatest).sqrt();
    let power = |rms: f64| if rms > 0.0 { (rms.powf(alpha) / middle) as f32 } else { 1.0 };
    rms.iter().map(|rms| power(*rms).clamp(1e-6, 1e6)).collect()
}

/// Sum of squared output errors of rounding `weights` after scaling up their rows.
fn scaled_error(
    weights: &[f32],
    shape: [usize; 2],
    hessian: &Hessian,
    (format, scale): (BlockFormat, BlockScale),
    scales: &[f32],
) -> Result<f64, Error> {
    let [k, n] = shape;
    let rows = || weights.chunks_exact(n.max(1)).zip(scales);
    let scaled: Vec<f32> = rows().flat_map(|(row, scale)| row.iter().map(move |w| w * scale)).collect();
    let rounded = per_block(&scaled, shape, format, scale)?.dequantise();
    let mut errors = vec![0.0_f32; k * n];
    for (input, ((row, scale), rounded)) in rows().zip(rounded.chunks_exact(n.max(1))).enumerate() {
        for (output, (weight, rounded)) in row.iter().zip(rounded).enumerate() {
            errors[output * k + input] = rounded / scale - weight;
        }
    }
    Ok(hessian.output_errors(&errors)?.iter().sum())
}

/// Evenly spaced columns of a matrix, and how many.
fn some_outputs(weights: &[f32], shape: [usize; 2]) -> (Vec<f32>, usize) {
    const MOST: usize = 256;
    let n = shape[1];
    let outputs = n.min(MOST);
    let rows = weights.chunks_exact(n.max(1));
    (rows.flat_map(|row| (0..outputs).map(|output| row[output * n / outputs])).collect(), outputs)
}
