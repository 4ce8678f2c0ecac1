//! 8-bit weights whose products with 8-bit activations never leave 16 bits in pairs.
//!
//! Processors without dot products of 8-bit integers multiply unsigned activations with signed weights, and add the
//! products of neighbours at 16 bits, saturating (x86-64's `vpmaddubsw`). 255 times two weights fits if these are 128
//! together at the most: then such processors are exact, at the speed of half the width.

use crate::error::{Error, all_finite};
use crate::integers::Integers;
use crate::weights::ChannelWeights;

/// The greatest magnitude of two neighbours' sum: 255 times 128 is below 2^15.
const LIMIT: i16 = 128;

/// The greatest part of a channel's magnitude that may become 127: then no two weights are too large together. Below 1 a
/// part clips what is larger.
const WIDEST: f64 = 2.0;
/// Steps from there down to half a magnitude, and around the best of them.
const COARSE: (u32, f64) = (15, 0.1);
const FINE: (u32, f64) = (4, 0.025);

/// One scale for each of `channels` outputs, so that the squared error is least after both integers of every pair that is
/// too large have been moved towards zero. `terms` says in which order the products of an output are added: neighbours
/// are the first two, the next two, and so on; together its indices are all of `weights`, each once.
///
/// # Errors
/// A weight that is not finite, with its index.
pub fn per_channel_in_pairs<T: IntoIterator<Item = usize>>(
    weights: &[f32],
    channels: usize,
    terms: impl Fn(usize) -> T,
) -> Result<ChannelWeights, Error> {
    all_finite("weights", weights)?;
    let mut found = ChannelWeights { values: vec![0; weights.len()], scales: Vec::with_capacity(channels) };
    for channel in 0..channels {
        let at: Vec<usize> = terms(channel).into_iter().collect();
        let summed: Vec<f32> = at.iter().map(|&index| weights[index]).collect();
        let scale = best_scale(&summed);
        found.scales.push(scale);
        for (at, values) in at.chunks(2).zip(summed.chunks(2)) {
            for (index, integer) in at.iter().zip(rounded(values, scale)) {
                found.values[*index] = integer;
            }
        }
    }
    Ok(found)
}

/// The scale with the least error, looked for coarsely, then around the best.
fn best_scale(values: &[f32]) -> f32 {
    let magnitude = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    if magnitude == 0.0 {
        return Integers::SYMMETRIC_8.scale(magnitude, 1.0);
    }
    let least = |clips: &mut dyn Iterator<Item = f64>| {
        let tried = clips.map(|clip| {
            let scale = Integers::SYMMETRIC_8.scale(magnitude, clip);
            (squared_error(values, scale), clip)
        });
        tried.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(1.0, |(_, clip)| clip)
    };
    let down = |from: f64, (count, step): (u32, f64)| (0..=count).map(move |n| from - step * f64::from(n));
    let coarse = least(&mut down(WIDEST, COARSE));
    let fine = least(&mut down(coarse + FINE.1 * f64::from(FINE.0 / 2), FINE));
    Integers::SYMMETRIC_8.scale(magnitude, fine.min(WIDEST))
}

fn squared_error(values: &[f32], scale: f32) -> f64 {
    let of_pair = |pair: &[f32]| -> f64 {
        let off = |(value, integer): (&f32, i8)| f64::from(value - f32::from(integer) * scale).powi(2);
        pair.iter().zip(rounded(pair, scale)).map(off).sum()
    };
    values.chunks(2).map(of_pair).sum()
}

/// Two neighbours, or a last one alone, in integers: moved towards zero by about the same where they are too large.
fn rounded(pair: &[f32], scale: f32) -> [i8; 2] {
    let round = |value: Option<&f32>| Integers::SYMMETRIC_8.round(value.copied().unwrap_or_default() / scale);
    let (first, second) = (round(pair.first()), round(pair.get(1)));
    let sum = i16::from(first) + i16::from(second);
    let excess = (sum.abs() - LIMIT).max(0) * sum.signum();
    // Neither changes its sign: one of them is 127 at the most, so that the other is more than the excess.
    [(i16::from(first) - (excess - excess / 2)) as i8, (i16::from(second) - excess / 2) as i8]
}
