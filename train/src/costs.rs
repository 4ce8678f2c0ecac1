//! Cost volumes: how unlike a frame is to the one before it, for every displacement.

use nextclip_core::Motion;
use tch::{Kind, Tensor};

/// The cost volumes of frames (n, 3, H, W) in [-1, 1] with those `before` them, (n, costs, h, w), for cells of `scale`
/// pixels; the formula is [`Motion`]'s.
pub fn cost_volume(sizes: &Motion, frames: &Tensor, before: &Tensor, scale: usize) -> Tensor {
    let reach = sizes.reach as i64;
    let half = |x: &Tensor| x.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None);
    let (now, before) = (half(frames), half(before).replication_pad2d([reach, reach, reach, reach]));
    let (rows, columns) = (now.size()[2], now.size()[3]);
    let cell = scale as i64 / 2;
    let steps = || 0..2 * reach + 1;
    let unlike = steps().flat_map(|dy| steps().map(move |dx| (dx, dy))).map(|(dx, dy)| {
        let moved = before.narrow(2, dy, rows).narrow(3, dx, columns);
        (&now - moved).square().mean_dim([1_i64].as_slice(), true, Kind::Float)
    });
    let unlike = Tensor::cat(&unlike.collect::<Vec<_>>(), 1);
    let mean = unlike.avg_pool2d([cell + 2, cell + 2], [cell, cell], [1, 1], false, false, None);
    let cost = (mean + f64::from(Motion::COST_FLOOR)).log();
    &cost - cost.mean_dim([1_i64].as_slice(), true, Kind::Float)
}

/// The cost volumes of successive frames (F, 3, H, W), (F, costs, h, w); of the first, which has none before it, zeros.
pub fn cost_volumes(sizes: &Motion, frames: &Tensor, scale: usize) -> Tensor {
    let count = frames.size()[0];
    if count == 1 {
        let size = frames.size();
        let shape = [1, sizes.costs() as i64, size[2] / scale as i64, size[3] / scale as i64];
        return Tensor::zeros(shape, (Kind::Float, frames.device()));
    }
    let later = cost_volume(sizes, &frames.narrow(0, 1, count - 1), &frames.narrow(0, 0, count - 1), scale);
    Tensor::cat(&[later.narrow(0, 0, 1).zeros_like(), later], 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_cost_is_at_the_true_displacement() {
        let sizes = Motion { reach: 3, ..Motion::DEFAULT };
        let noise = nextclip_core::sampler::noise(1, 0, 3 * 16 * 16);
        let texture = Tensor::from_slice(&noise).reshape([1, 3, 16, 16]) * 0.3;
        let before = texture.upsample_nearest2d([32, 32], None, None);
        // Two half-resolution pixels to the right, one down.
        let now = before.roll([2, 4], [2, 3]);
        let frames = Tensor::cat(&[before, now], 0);
        let volumes = cost_volumes(&sizes, &frames, 8);
        assert_eq!(volumes.size(), [2, 49, 4, 4]);
        assert_eq!(volumes.get(0).abs().max().double_value(&[]), 0.0);
        let (dx, dy) = (-2, -1);
        let expected = (dy + 3) * 7 + dx + 3;
        assert_eq!(
            volumes.get(1).get(expected).min().double_value(&[]),
            volumes.get(1).min().double_value(&[])
        );
        let least = volumes.get(1).argmin(0, false);
        assert_eq!(least.int64_value(&[1, 2]), expected, "{least:?}");
    }
}
