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
    let weights = Tensor::from_slice(&[0.299_f32, 0.587, 0.114]).to_device(pictures.device());
    let luma = (pictures * 127.5 * weights.reshape([3, 1, 1])).sum_dim_intlist(
        [2_i64].as_slice(),
        false,
        Kind::Float,
    );
    let along = |axis: i64| {
        let steps = luma.size()[axis as usize] - 1;
        let difference = luma.narrow(axis, 1, steps) - luma.narrow(axis, 0, steps);
        (difference.square() * area.narrow(axis, 0, steps)).sum_dim_intlist(
            [2_i64, 3].as_slice(),
            false,
            Kind::Float,
        )
    };
    along(2) + along(3)
}
