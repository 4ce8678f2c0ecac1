//! Energy of edges where something moves, of pictures in training: the formula is
//! [`nextclip_core::metrics::gradient_energy_within`]'s, the area that of [`nextclip_core::metrics::moving_area`].

use nextclip_core::metrics::{MOVING_LEVELS, MOVING_RADIUS};
use tch::{Kind, Tensor};

/// Where each picture of `came` (n, N, 3, H, W) departs from `last` (n, 1, 3, H, W): 1 there, else 0, (n, N, H, W).
pub(crate) fn moving(came: &Tensor, last: &Tensor) -> Tensor {
    let apart = ((came - last) * 127.5).abs().amax([2], false);
    let (side, margin) = (2 * MOVING_RADIUS as i64 + 1, MOVING_RADIUS as i64);
    apart
        .avg_pool2d([side, side], [1, 1], [margin, margin], false, false, None)
        .gt(MOVING_LEVELS)
        .to_kind(Kind::Float)
}

/// Energy of the edges of pictures (n, N, 3, H, W) in [-1, 1] within `area` (n, N, H, W), (n, N), in squared levels of 255.
pub(crate) fn gradient_energy(pictures: &Tensor, area: &Tensor) -> Tensor {
    (energies(pictures) * area).sum_dim_intlist([2_i64, 3].as_slice(), false, Kind::Float)
}

/// Mean of that energy over the pixels of cells of `side` x `side`, (n, N, H / side, W / side).
pub(crate) fn energy_of_cells(pictures: &Tensor, side: usize) -> Tensor {
    let side = [side as i64; 2];
    energies(pictures).avg_pool2d(side, side, [0, 0], false, false, None)
}

/// Of every pixel, (n, N, H, W): that of its differences to the next ones right and below.
fn energies(pictures: &Tensor) -> Tensor {
    let weights = Tensor::from_slice(&[0.299_f32, 0.587, 0.114]).to_device(pictures.device());
    let luma = (pictures * 127.5 * weights.reshape([3, 1, 1])).sum_dim_intlist(
        [2_i64].as_slice(),
        false,
        Kind::Float,
    );
    let along = |axis: i64, padding: [i64; 4]| {
        let steps = luma.size()[axis as usize] - 1;
        let difference = luma.narrow(axis, 1, steps) - luma.narrow(axis, 0, steps);
        difference.square().constant_pad_nd(padding)
    };
    along(2, [0, 0, 0, 1]) + along(3, [0, 1, 0, 0])
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;
    use nextclip_core::metrics::{gradient_energy_within, moving_area};
    use nextclip_core::sampler;

    use super::*;

    /// What training counts is what evaluation measures.
    #[test]
    fn area_and_energy_are_those_of_the_metrics() {
        let (height, width) = (24, 20);
        let picture = |stream: u64| {
            let noise = sampler::noise(3, stream, height * width * 3);
            let level = |(place, noise): (usize, &f32)| {
                // The left half of both pictures is the same.
                let left = place / 3 % width < width / 2;
                if left { (place % 251) as u8 } else { (128.0 + 12.0 * noise).clamp(0.0, 255.0) as u8 }
            };
            let levels = noise.iter().enumerate().map(level).collect();
            Array3::from_shape_vec((height, width, 3), levels).unwrap()
        };
        let tensor = |picture: &Array3<u8>| {
            let levels: Vec<f32> = picture.iter().map(|&level| f32::from(level) / 127.5 - 1.0).collect();
            Tensor::from_slice(&levels)
                .reshape([1, height as i64, width as i64, 3])
                .permute([0, 3, 1, 2])
                .unsqueeze(0)
        };
        let (came, last) = (picture(1), picture(2));
        let expected = moving_area(&came, &last).unwrap();
        let area = moving(&tensor(&came), &tensor(&last));
        let found: Vec<f32> = Vec::try_from(area.flatten(0, -1)).unwrap();
        assert!(expected.iter().zip(&found).all(|(expected, found)| *expected == (*found > 0.5)));
        let moves = expected.iter().filter(|moves| **moves).count();
        assert!(0 < moves && moves < height * width, "{moves}");

        let expected = gradient_energy_within(&came, &expected).unwrap();
        let found = gradient_energy(&tensor(&came), &area).double_value(&[0, 0]);
        assert!((found - expected).abs() < 1e-3 * expected, "{found} {expected}");
    }
}
