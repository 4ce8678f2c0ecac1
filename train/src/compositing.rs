//! The pictures that come out at the end, as the `decode` graph makes them: of decoded latents, the last real frame and
//! the predicted motion.

use nextclip_core::compositing::{CHANGE_LEVELS, CHANGE_RADIUS, CHANGE_SOFTNESS};
use nextclip_core::{Geometry, Motion};
use tch::{Kind, Tensor};

use crate::params::{Init, Params, Spec};

/// Hidden channels of the blend.
const BLEND_WIDTH: usize = 16;
/// What moves less, in pixels, is the last frame's.
const MOVES_PX: f64 = 0.5;

/// The blend's tensors. Its last layer starts small, so that all sources weigh about the same.
pub fn blend_specs(motion: &Motion) -> Vec<Spec> {
    let mut specs = Vec::new();
    let widths = [motion.blend_inputs(), BLEND_WIDTH, BLEND_WIDTH, motion.sources()];
    for (layer, pair) in widths.windows(2).enumerate() {
        let std = (1.0 / (9 * pair[0]) as f64).sqrt();
        let std = if layer + 1 == Motion::BLEND_LAYERS { 0.1 * std } else { std };
        let mut add = |name: &str, shape: &[usize], init| {
            let shape = shape.iter().map(|&side| side as i64).collect();
            specs.push(Spec { name: format!("motion.blend.{layer}.{name}"), shape, init });
        };
        add("weight", &[pair[1], pair[0], 3, 3], Init::Normal(std));
        add("bias", &[pair[1]], Init::Zeros);
    }
    specs
}

/// Pictures of the future from their parts.
#[derive(Debug)]
pub struct Compositor<'a> {
    motion: Option<Motion>,
    params: &'a Params,
    /// s, pixels a cell.
    scale: i64,
}

impl<'a> Compositor<'a> {
    /// A view of `params`, which hold [`blend_specs`] where there is motion.
    pub fn new(motion: Option<Motion>, geometry: &Geometry, params: &'a Params) -> Self {
        Self { motion, params, scale: geometry.vae_scale as i64 }
    }

    /// What the daemon shows of decoded pictures (n, N, 3, H, W) in [-1, 1] after `last` (n, 1, 3, H, W), with `motion`
    /// (n, N, m, h, w) where the model has it.
    pub fn shown(&self, decoded: &Tensor, last: &Tensor, motion: Option<&Tensor>) -> Tensor {
        match (&self.motion, motion) {
            (Some(sizes), Some(motion)) => self.blend(sizes, &decoded.clamp(-1.0, 1.0), last, motion),
            _ => keep_unchanged(decoded, last),
        }
    }

    /// The formula of [`nextclip_core::Motion`].
    fn blend(&self, sizes: &Motion, decoded: &Tensor, last: &Tensor, motion: &Tensor) -> Tensor {
        let size = decoded.size();
        let (frames, rows, columns) = (size[0] * size[1], size[3], size[4]);
        let (candidates, features) = (sizes.candidates as i64, sizes.features as i64);
        let displacements = self.displacements(motion).transpose(1, 2).flatten(1, 2);
        let moved =
            warp(&last.squeeze_dim(1), &displacements).reshape([frames, candidates, 3, rows, columns]);
        let last = last.expand_as(decoded).reshape([frames, 1, 3, rows, columns]);
        let decoded = decoded.reshape([frames, 1, 3, rows, columns]);
        let sources = Tensor::cat(&[decoded, last, moved], 1); // (n N, 2 + K, 3, H, W)

        let features = self.to_pixels(&motion.narrow(2, 2 * candidates, features)).flatten(0, 1);
        let mut x = Tensor::cat(&[sources.flatten(1, 2), features], 1).to_kind(self.params.compute());
        let blend = self.params.root().pp("motion.blend");
        for layer in 0..Motion::BLEND_LAYERS {
            let read = if layer > 0 { x.silu() } else { x };
            x = blend.pp(layer).conv(&read, 1, 1);
        }
        let weights = x.softmax(1, Kind::Float).unsqueeze(2);
        (sources * weights).sum_dim_intlist([1_i64].as_slice(), false, Kind::Float).reshape(&size)
    }

    /// Where the pixels of predicted frames come from in the last real one, (n, N, K, 2, H, W), x then y in pixels.
    fn displacements(&self, motion: &Tensor) -> Tensor {
        let candidates = self.motion.map_or(0, |motion| motion.candidates as i64);
        let pixels = self.to_pixels(&motion.narrow(2, 0, 2 * candidates)) * self.scale;
        pixels.unflatten(2, [candidates, 2].as_slice())
    }

    /// Cells (n, N, m, h, w) to pixels (n, N, m, H, W).
    fn to_pixels(&self, cells: &Tensor) -> Tensor {
        let size = cells.size();
        let (rows, columns) = (size[3] * self.scale, size[4] * self.scale);
        let pixels = cells.flatten(0, 1).upsample_bilinear2d([rows, columns], false, None, None);
        pixels.unflatten(0, [size[0], size[1]].as_slice())
    }

    /// How far predicted displacements are from true ones (n, N, 2, H, W): the mean of log(1 + pixels) of the nearest
    /// candidate, over all that moves. Pixels whose true displacement is NaN do not count.
    pub fn motion_error(&self, motion: &Tensor, truth: &Tensor) -> Tensor {
        let moves =
            truth.square().sum_dim_intlist([2_i64].as_slice(), false, Kind::Float).ge(MOVES_PX * MOVES_PX);
        let truth = truth.nan_to_num(0.0, None, None).unsqueeze(2);
        let off = (self.displacements(motion) - truth).square();
        // The root has no slope at zero without the addition.
        let off = (off.sum_dim_intlist([3_i64].as_slice(), false, Kind::Float) + 0.01).sqrt(); // (n, N, K, H, W)
        let nearest = off.amin([2_i64].as_slice(), false).log1p();
        (nearest * &moves).sum(Kind::Float) / moves.sum(Kind::Float).clamp_min(1.0)
    }
}

/// `frame` (n, 3, H, W) read at every pixel's place plus `displacements` (n, M, 2, H, W), x then y in pixels: bilinear, the
/// border repeated. (n, M, 3, H, W)
pub fn warp(frame: &Tensor, displacements: &Tensor) -> Tensor {
    let size = displacements.size();
    let (n, count, rows, columns) = (size[0], size[1], size[3], size[4]);
    let places = |len: i64| Tensor::arange(len, (Kind::Float, frame.device()));
    // The centre of pixel i is at (2 i + 1) / len - 1 on the scale of -1 to 1.
    let along = |axis: i64, places: Tensor, len: i64| {
        (displacements.select(2, axis) + places) * (2.0 / len as f64) + (1.0 / len as f64 - 1.0)
    };
    let x = along(0, places(columns), columns);
    let y = along(1, places(rows).unsqueeze(1), rows);
    let grid = Tensor::stack(&[x, y], -1).reshape([n, count * rows, columns, 2]);
    let (bilinear, border) = (0, 1);
    let read = frame.grid_sampler(&grid, bilinear, border, false); // (n, 3, M H, W)
    read.reshape([n, 3, count, rows, columns]).transpose(1, 2)
}

/// What a model without motion shows: the formula is [`nextclip_core::compositing`]'s.
fn keep_unchanged(predicted: &Tensor, last: &Tensor) -> Tensor {
    let change = predicted - last;
    let (side, margin) = (2 * CHANGE_RADIUS as i64 + 1, CHANGE_RADIUS as i64);
    let size = (&change * 127.5).abs().amax([2], false);
    let size = size.avg_pool2d([side, side], [1, 1], [margin, margin], false, false, None);
    let share = ((size - f64::from(CHANGE_LEVELS)) / f64::from(CHANGE_SOFTNESS)).sigmoid();
    last + change * share.unsqueeze(2)
}
