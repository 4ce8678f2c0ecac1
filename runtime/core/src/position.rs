//! Where a token is: rotary angles, the sine-cosine table of patches, timestep features.

use thiserror::Error;

use crate::checkpoint::{RopeScaling, TransformerConfig};

/// Width of the timestep features that both timestep embedders read.
pub const TIMESTEP_FEATURES: usize = 256;

/// Rotary embedding (rotate-half, all of the head): the angle of pair j at position n is
/// `n * inverse_frequencies[j]`; cosine and sine are multiplied by `amplitude`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// One per pair of a head's dimensions, d_head / 2 of them.
    pub inverse_frequencies: Vec<f64>,
    /// Factor of both cosine and sine; 1 without scaling.
    pub amplitude: f64,
}

impl Rotary {
    /// The angles that a checkpoint's config asks for. With "longrope" scaling (once "su") the long
    /// factors apply at every length, as in the published code.
    pub fn new(config: &TransformerConfig) -> Self {
        let d_head = config.head_dim();
        let plain = |j: usize| config.rope_theta.powf(-2.0 * j as f64 / d_head as f64);
        match &config.rope_scaling {
            None => Self { inverse_frequencies: (0..d_head / 2).map(plain).collect(), amplitude: 1.0 },
            Some(RopeScaling { long_factor, .. }) => {
                let original = config.original_max_position_embeddings as f64;
                let stretch = config.max_position_embeddings as f64 / original;
                let amplitude =
                    if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / original.ln()).sqrt() };
                let inverse_frequencies =
                    long_factor.iter().enumerate().map(|(j, factor)| plain(j) / factor).collect();
                Self { inverse_frequencies, amplitude }
            }
        }
    }

    /// Cosines and sines of positions `0..positions`, each row-major (position, d_head / 2).
    /// Computed in double precision: at thousands of positions single precision would show.
    pub fn table(&self, positions: usize) -> (Vec<f32>, Vec<f32>) {
        (0..positions)
            .flat_map(|n| self.inverse_frequencies.iter().map(move |f| n as f64 * f))
            .map(|angle| ((self.amplitude * angle.cos()) as f32, (self.amplitude * angle.sin()) as f32))
            .unzip()
    }
}

/// Frequencies of the timestep features: the feature vector of t is `[cos(t f), sin(t f)]`.
pub fn timestep_frequencies() -> Vec<f32> {
    let half = TIMESTEP_FEATURES / 2;
    (0..half).map(|j| (-(10_000_f64.ln()) * j as f64 / half as f64).exp() as f32).collect()
}

/// The 2-D sine-cosine table that a new checkpoint starts from, row-major (side * side, width): for each
/// patch sine and cosine of its column, then of its row. A stored checkpoint carries its own: read it.
pub fn sine_cosine_table(side: usize, width: usize) -> Vec<f32> {
    let quarter = width / 4;
    let omega: Vec<f64> = (0..quarter).map(|j| 10_000_f64.powf(-(j as f64) / quarter as f64)).collect();
    let unit = side as f64 / 64.0;
    let axis = |index: usize| {
        let at = index as f64 / unit;
        let sines = omega.iter().map(move |o| (at * o).sin() as f32);
        sines.chain(omega.iter().map(move |o| (at * o).cos() as f32))
    };
    (0..side * side).flat_map(|patch| axis(patch % side).chain(axis(patch / side))).collect()
}

/// A frame of more patches than the stored table has.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a frame of {rows} x {columns} patches exceeds the position table of {side} x {side}")]
pub struct TableTooSmall {
    rows: usize,
    columns: usize,
    side: usize,
}

/// Rows of the stored table (side x side) that a frame of `rows` x `columns` patches takes: its centre.
pub fn centre_crop(rows: usize, columns: usize, side: usize) -> Result<Vec<usize>, TableTooSmall> {
    if rows > side || columns > side {
        return Err(TableTooSmall { rows, columns, side });
    }
    let (top, left) = ((side - rows) / 2, (side - columns) / 2);
    Ok((0..rows * columns).map(|i| (top + i / columns) * side + left + i % columns).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crop_takes_the_middle() {
        assert_eq!(centre_crop(2, 2, 4), Ok(vec![5, 6, 9, 10]));
        assert_eq!(centre_crop(1, 3, 4), Ok(vec![4, 5, 6]));
        assert_eq!(
            centre_crop(5, 1, 4).unwrap_err().to_string(),
            "a frame of 5 x 1 patches exceeds the position table of 4 x 4"
        );
    }

    #[test]
    fn table_starts_with_the_column() {
        let table = sine_cosine_table(64, 8);
        let patch = |row: usize, column: usize| &table[(row * 64 + column) * 8..][..8];
        assert_eq!(patch(0, 0), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
        assert!((patch(0, 1)[0] - 1_f32.sin()).abs() < 1e-6);
        assert!((patch(1, 0)[4] - 1_f32.sin()).abs() < 1e-6);
    }

    #[test]
    fn frequencies_fall_from_one() {
        let frequencies = timestep_frequencies();
        assert_eq!((frequencies.len(), frequencies[0]), (128, 1.0));
        assert!(frequencies.windows(2).all(|pair| pair[1] < pair[0]));
    }
}
