//! Where to clip a histogram of magnitudes: least relative entropy, or least squared error.

use crate::params::round_clamped;

/// Steps of 8-bit integers on one side of zero.
const STEPS: usize = 127;
/// Levels of magnitude of 8-bit integers, zero among them.
const LEVELS: usize = 128;

/// How many bins to keep so that the distribution rounded to 128 levels has the least relative entropy
/// (Kullback-Leibler divergence) from the true one, in which clipped values sit in the last bin kept.
///
/// At least 99 in 100 values are kept. Without that bound, values that begin far from zero are all clipped
/// into one bin, which agrees perfectly with itself.
///
/// Source: Migacz, "8-bit Inference with TensorRT", GTC 2017; the bound is ours.
pub(crate) fn entropy_bins(counts: &[u64]) -> usize {
    if counts.len() <= LEVELS {
        return counts.len();
    }
    let total: u64 = counts.iter().sum();
    let must_keep = total - total / 100;
    let mut kept: u64 = counts[..LEVELS - 1].iter().sum();
    let mut best = (f64::INFINITY, counts.len());
    for bins in LEVELS..=counts.len() {
        kept += counts[bins - 1];
        if kept < must_keep {
            continue;
        }
        let divergence = relative_entropy(&counts[..bins], total - kept);
        // The last of equals: what costs nothing is not clipped.
        if divergence <= best.0 {
            best = (divergence, bins);
        }
    }
    best.1
}

/// Relative entropy in nats of `counts` rounded to levels, from `counts` with `clipped` in the last bin.
fn relative_entropy(counts: &[u64], clipped: u64) -> f64 {
    let kept: u64 = counts.iter().sum();
    let total = (kept + clipped) as f64;
    let mut divergence = 0.0;
    for level in 0..LEVELS {
        let bins = level * counts.len() / LEVELS..(level + 1) * counts.len() / LEVELS;
        let holds_last = bins.end == counts.len();
        let sum: u64 = counts[bins.clone()].iter().sum();
        let clipped_here = if holds_last { clipped } else { 0 };
        let last_is_filled_by_clipping = holds_last && clipped > 0 && counts[counts.len() - 1] == 0;
        let filled = counts[bins.clone()].iter().filter(|count| **count > 0).count()
            + usize::from(last_is_filled_by_clipping);
        if sum == 0 {
            if clipped_here > 0 {
                // The rounded distribution has nothing where the true one has: infinitely far.
                return f64::INFINITY;
            }
            continue;
        }
        // Rounding spreads a level's values evenly over those of its bins that hold any.
        let rounded = sum as f64 / filled as f64 / kept as f64;
        for (bin, count) in bins.clone().zip(&counts[bins]) {
            let count = count + if bin + 1 == counts.len() { clipped } else { 0 };
            if count > 0 {
                let true_part = count as f64 / total;
                divergence += true_part * (true_part / rounded).ln();
            }
        }
    }
    divergence
}

/// How many bins to keep so that rounding to 127 steps and clipping the rest together give the least
/// squared error. Every value counts as its bin's centre.
///
/// Source: Banner et al., "Post-training 4-bit quantization of convolution networks for
/// rapid-deployment", 2018; searched over the measured distribution, not a fitted one.
pub(crate) fn mse_bins(counts: &[u64]) -> usize {
    /// Clips that are tried.
    const CANDIDATES: usize = 256;
    let mut best = (f64::INFINITY, counts.len());
    let candidates = counts.len().min(CANDIDATES);
    for candidate in 1..=candidates {
        let bins = counts.len() * candidate / candidates;
        let scale = bins as f32 / STEPS as f32;
        let error: f64 = counts
            .iter()
            .enumerate()
            .map(|(bin, count)| {
                let centre = bin as f32 + 0.5;
                let off = centre - scale * round_clamped(centre / scale, 0.0, STEPS as f32);
                *count as f64 * f64::from(off * off)
            })
            .sum();
        if error <= best.0 {
            best = (error, bins);
        }
    }
    best.1
}

/// The first bin kept and the one after the last, so that rounding to 255 steps between them and clipping the
/// rest give the least squared error. Both ends move in turn, from the whole range inwards; `zero` is the bin
/// that starts at zero, which stays inside.
///
/// Source: as [`mse_bins`].
pub(crate) fn mse_ends(counts: &[u64], zero: usize) -> (usize, usize) {
    /// Clips that are tried at each end, and how often the two ends take turns.
    const CANDIDATES: usize = 64;
    const TURNS: usize = 3;
    let filled = |(_, count): &(usize, &u64)| **count > 0;
    let first = counts.iter().enumerate().find(filled).map_or(zero, |(bin, _)| bin);
    let last = counts.iter().enumerate().rfind(filled).map_or(zero, |(bin, _)| bin);
    let (below, above) = (zero.saturating_sub(first), (last + 1).saturating_sub(zero));
    let used = &counts[first..=last];
    let error = |low: usize, high: usize| {
        let (low, high) = (-(low as f32), high as f32);
        let scale = (high - low) / 255.0;
        let offset = first as f32 - zero as f32 + 0.5;
        let off_by = |bin: usize| {
            let centre = bin as f32 + offset;
            let off = centre - scale * round_clamped(centre / scale, low / scale, high / scale);
            f64::from(off * off)
        };
        used.iter().enumerate().map(|(bin, count)| *count as f64 * off_by(bin)).sum::<f64>()
    };
    let (mut low, mut high) = (below, above);
    let mut least = error(low, high);
    for _ in 0..TURNS {
        let before = (low, high);
        for candidate in 1..=CANDIDATES {
            let tried = above * candidate / CANDIDATES;
            let candidate_error = if low + tried > 0 { error(low, tried) } else { f64::INFINITY };
            (least, high) = if candidate_error < least { (candidate_error, tried) } else { (least, high) };
        }
        for candidate in 1..=CANDIDATES {
            let tried = below * candidate / CANDIDATES;
            let candidate_error = if high + tried > 0 { error(tried, high) } else { f64::INFINITY };
            (least, low) = if candidate_error < least { (candidate_error, tried) } else { (least, low) };
        }
        if (low, high) == before {
            break;
        }
    }
    (zero - low, zero + high)
}
