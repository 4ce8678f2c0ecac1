//! 4- and 8-bit weights of a matrix with one scale for each block of inputs of each output.

use serde::{Deserialize, Serialize};

use crate::error::{Error, all_finite, fills};
use crate::integers::Integers;
use crate::weights::raise_to_magnitudes;

/// Width of the integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Bits {
    /// -8..=7, two a byte.
    #[serde(rename = "4")]
    Four,
    /// -127..=127.
    #[serde(rename = "8")]
    Eight,
}

/// How a matrix is cut into blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockFormat {
    /// Width of the integers.
    pub bits: Bits,
    /// Inputs that share a scale, along K; 32 to 128 are usual. K or more: one scale for each output.
    /// The last block may be shorter.
    pub block: usize,
}

/// A matrix `[K, N]` (inputs by outputs) as integers with blockwise scales.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockWeights {
    /// K and N.
    pub shape: [usize; 2],
    /// Width and block.
    pub format: BlockFormat,
    /// `[K, N]` row-major, one integer a byte whatever the width.
    pub values: Vec<i8>,
    /// `[ceil(K / block), N]` row-major, all positive: what ONNX's `DequantizeLinear` (opset 21, axis 0,
    /// `block_size`) takes.
    pub scales: Vec<f32>,
}

/// How a block's scale is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockScale {
    /// From the greatest magnitude.
    MinMax,
    /// The one with the least squared error.
    Mse,
}

/// Rounds `weights`, `[K, N]` row-major, to the nearest integers.
///
/// # Errors
/// A length that does not fit, a block of 0, a weight that is not finite, with its index.
///
/// Source: Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2021 (blockwise scales).
pub fn per_block(
    weights: &[f32],
    shape: [usize; 2],
    format: BlockFormat,
    rule: BlockScale,
) -> Result<BlockWeights, Error> {
    let scales = block_scales(weights, shape, format, rule)?;
    let [_, n] = shape;
    let integers = format.bits.integers();
    let mut values = Vec::with_capacity(weights.len());
    for (k, row) in weights.chunks_exact(n.max(1)).enumerate() {
        let scales = &scales[k / format.block * n..][..n];
        values.extend(row.iter().zip(scales).map(|(weight, scale)| integers.round(weight / scale)));
    }
    Ok(BlockWeights { shape, format, values, scales })
}

/// The scales that [`per_block`] rounds with, `[ceil(K / block), N]`.
pub(crate) fn block_scales(
    weights: &[f32],
    shape: [usize; 2],
    format: BlockFormat,
    rule: BlockScale,
) -> Result<Vec<f32>, Error> {
    let BlockFormat { bits, block } = format;
    if block == 0 {
        return Err(Error::Setting { name: "block", value: "0".to_owned(), bound: "at least 1" });
    }
    fills("weights", weights.len(), &shape)?;
    all_finite("weights", weights)?;
    let [k, n] = shape;
    let integers = bits.integers();
    let mut scales = Vec::with_capacity(k.div_ceil(block) * n);
    for rows in weights.chunks((block.min(k) * n).max(1)) {
        match rule {
            BlockScale::MinMax => {
                let mut magnitudes = vec![0.0_f32; n];
                rows.chunks_exact(n).for_each(|row| raise_to_magnitudes(&mut magnitudes, row));
                scales.extend(magnitudes.into_iter().map(|magnitude| integers.scale(magnitude, 1.0)));
            }
            BlockScale::Mse => push_searched_scales(&mut scales, rows, n, integers),
        }
    }
    Ok(scales)
}

/// The scales with the least squared error of one block of rows, `[rows, N]`.
fn push_searched_scales(scales: &mut Vec<f32>, rows: &[f32], n: usize, integers: Integers) {
    /// Columns that are turned into rows together, so that a cache line is read once.
    const COLUMNS: usize = 16;
    let mut columns = vec![Vec::new(); COLUMNS];
    for first in (0..n).step_by(COLUMNS) {
        let width = COLUMNS.min(n - first);
        columns.iter_mut().for_each(Vec::clear);
        for row in rows.chunks_exact(n) {
            columns.iter_mut().zip(&row[first..first + width]).for_each(|(c, weight)| c.push(*weight));
        }
        scales.extend(columns[..width].iter().map(|column| {
            let magnitude = column.iter().fold(0.0_f32, |max, weight| max.max(weight.abs()));
            integers.scale(magnitude, integers.best_clip(column, magnitude))
        }));
    }
}

impl BlockWeights {
    /// The weights that the integers stand for, `[K, N]`.
    pub fn dequantise(&self) -> Vec<f32> {
        let n = self.shape[1];
        let rows = self.values.chunks_exact(n.max(1)).enumerate();
        rows.flat_map(|(k, row)| {
            let scales = &self.scales[k / self.format.block * n..][..n];
            row.iter().zip(scales).map(|(value, scale)| f32::from(*value) * scale)
        })
        .collect()
    }

    /// The integers as an ONNX tensor's raw data, `[K, N]`: INT8 a byte each, INT4 two a byte.
    pub fn onnx_bytes(&self) -> Vec<u8> {
        match self.format.bits {
            Bits::Four => pack_int4(&self.values),
            Bits::Eight => self.values.iter().map(|value| value.cast_unsigned()).collect(),
        }
    }

    /// The tensors `B` and `scales` of ONNX Runtime's `com.microsoft.MatMulNBits` without zero points:
    /// B is u8 `[N, blocks, bytes a block]` with integers shifted by 8 (4 bit) or 128 (8 bit), the even
    /// input in the low half; scales are `[N, blocks]`. A short last block is filled up with zeroes.
    ///
    /// # Errors
    /// A block that ONNX Runtime does not take (a power of two from 16 on), or one longer than K fills.
    pub fn matmul_nbits(&self) -> Result<(Vec<u8>, Vec<f32>), Error> {
        let [k, n] = self.shape;
        let block = self.format.block;
        if !block.is_power_of_two() || block < 16 || block > k.next_power_of_two().max(16) {
            let bound = "a power of two from 16 to K rounded up to one";
            return Err(Error::Setting { name: "block", value: block.to_string(), bound });
        }
        let blocks = k.div_ceil(block);
        let mut bytes = Vec::new();
        let mut scales = Vec::with_capacity(self.scales.len());
        for column in 0..n {
            let value = |row: usize| if row < k { self.values[row * n + column] } else { 0 };
            for b in 0..blocks {
                scales.push(self.scales[b * n + column]);
                let rows = b * block..(b + 1) * block;
                match self.format.bits {
                    Bits::Eight => bytes.extend(rows.map(|row| (i16::from(value(row)) + 128) as u8)),
                    Bits::Four => bytes.extend(rows.step_by(2).map(|row| {
                        let odd = if row + 1 < (b + 1) * block { value(row + 1) } else { 0 };
                        (value(row) + 8) as u8 | (((odd + 8) as u8) << 4)
                    })),
                }
            }
        }
        Ok((bytes, scales))
    }
}

impl Bits {
    pub(crate) fn integers(self) -> Integers {
        match self {
            Self::Four => Integers::SYMMETRIC_4,
            Self::Eight => Integers::SYMMETRIC_8,
        }
    }
}

/// Two 4-bit integers a byte as ONNX stores INT4: the first in the low half, an odd last one alone.
/// Only the low 4 bits of each value count.
///
/// Source: ONNX `TensorProto`, `int32_data` and `raw_data` of INT4, 2024.
pub fn pack_int4(values: &[i8]) -> Vec<u8> {
    let half = |value: i8| value.cast_unsigned() & 0x0f;
    values.chunks(2).map(|pair| half(pair[0]) | (pair.get(1).map_or(0, |high| half(*high)) << 4)).collect()
}

/// The first `count` integers of [`pack_int4`]'s bytes; fewer where the bytes end.
pub fn unpack_int4(bytes: &[u8], count: usize) -> Vec<i8> {
    // Shifting up first and down as a signed number carries the sign along.
    let low = |byte: u8| (byte << 4).cast_signed() >> 4;
    bytes.iter().flat_map(|byte| [low(*byte), byte.cast_signed() >> 4]).take(count).collect()
}
