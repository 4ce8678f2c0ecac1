//! Rotations that spread an outlier over all channels, so that no single one sets the scale.

use crate::error::Error;

/// An orthonormal rotation of vectors of one width: random signs, then a Hadamard matrix.
///
/// Activations `[rows, K]` and weights `[K, N]` that are both rotated along K have the product they had.
/// Widths that are no power of two are cut into powers of two, greatest first, each rotated on its own
/// (block-diagonal: 768 = 512 + 256).
///
/// Source: Ashkboos et al., "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs", 2024.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// 1 or -1 for each channel, before the Hadamard matrix.
    signs: Vec<f32>,
}

impl Rotation {
    /// The Hadamard matrix alone. It turns a constant vector into an outlier: prefer [`Rotation::seeded`]
    /// unless the rotation must be free of signs.
    pub fn plain(width: usize) -> Self {
        Self { signs: vec![1.0; width] }
    }

    /// Random signs first; the same seed gives the same signs everywhere.
    pub fn seeded(width: usize, seed: u64) -> Self {
        let sign = |channel: usize| if mixed(seed, channel as u64) >> 63 == 0 { 1.0 } else { -1.0 };
        Self { signs: (0..width).map(sign).collect() }
    }

    /// Number of channels.
    pub fn width(&self) -> usize {
        self.signs.len()
    }

    /// Rotates each row of activations `[rows, K]`, row-major, in place.
    ///
    /// # Errors
    /// A length that is no multiple of K.
    pub fn rotate_rows(&self, activations: &mut [f32]) -> Result<(), Error> {
        let k = self.checked_width("activations", activations.len())?;
        for row in activations.chunks_exact_mut(k) {
            row.iter_mut().zip(&self.signs).for_each(|(value, sign)| *value *= sign);
            walsh_hadamard(row, 1);
        }
        Ok(())
    }

    /// Rotates the inputs of weights `[K, N]`, row-major, in place.
    ///
    /// # Errors
    /// A length that is no multiple of K.
    pub fn rotate_inputs(&self, weights: &mut [f32]) -> Result<(), Error> {
        let k = self.checked_width("weights", weights.len())?;
        let n = weights.len() / k;
        for (row, sign) in weights.chunks_exact_mut(n.max(1)).zip(&self.signs) {
            row.iter_mut().for_each(|weight| *weight *= sign);
        }
        walsh_hadamard(weights, n);
        Ok(())
    }

    /// The rotation as a matrix `[K, K]`, row-major: activations times it are rotated activations.
    pub fn matrix(&self) -> Vec<f32> {
        let k = self.width();
        let mut matrix = vec![0.0; k * k];
        for (channel, row) in matrix.chunks_exact_mut(k.max(1)).enumerate() {
            row[channel] = self.signs[channel];
            walsh_hadamard(row, 1);
        }
        matrix
    }

    fn checked_width(&self, what: &'static str, got: usize) -> Result<usize, Error> {
        let k = self.width();
        if k > 0 && got.is_multiple_of(k) {
            return Ok(k);
        }
        let rows = got / k.max(1);
        Err(Error::Length { what, got, expected: rows * k, shape: vec![rows, k] })
    }
}

/// Multiplies the vectors in `values` by the orthonormal Hadamard matrix, block by block. `values` holds
/// `stride` vectors side by side: element i of all of them, then element i + 1.
///
/// Source: Fino and Algazi, "Unified Matrix Treatment of the Fast Walsh-Hadamard Transform", 1976.
fn walsh_hadamard(values: &mut [f32], stride: usize) {
    if values.is_empty() || stride == 0 {
        return;
    }
    let width = values.len() / stride;
    let block = 1_usize << width.ilog2();
    let (values, rest) = values.split_at_mut(block * stride);
    let mut half = 1;
    while half < block {
        for pair in values.chunks_exact_mut(2 * half * stride) {
            let (left, right) = pair.split_at_mut(half * stride);
            for (left, right) in left.iter_mut().zip(right) {
                (*left, *right) = (*left + *right, *left - *right);
            }
        }
        half *= 2;
    }
    let norm = (block as f32).sqrt().recip();
    values.iter_mut().for_each(|value| *value *= norm);
    walsh_hadamard(rest, stride);
}

/// Source: Steele et al., "Fast Splittable Pseudorandom Number Generators", 2014 (SplitMix64).
fn mixed(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
