//! The pictures that come out at the end, as the `decode` graph makes them: of decoded latents, the last real frame and
//! the predicted motion.

use nextclip_core::compositing::{CHANGE_LEVELS, CHANGE_RADIUS, CHANGE_SOFTNESS};
use nextclip_core::{Geometry, Motion};
use tch::{Device, Kind, Tensor};

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
        let std = if layer + 1 == Motion::LAYERS { 0.1 * std } else { std };
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

    /// Sizes of the motion, where there is one.
    pub fn motion(&self) -> Option<Motion> {
        self.motion
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
        let candidates = sizes.candidates as i64;
        let landed = self.landed(sizes, motion); // (n, N, K, 3 + F, H, W)
        let displacements = landed.narrow(3, 0, 2).flatten(1, 2);
        let moved =
            warp(&last.squeeze_dim(1), &displacements).reshape([frames, candidates, 3, rows, columns]);
        let last = last.expand_as(decoded).reshape([frames, 1, 3, rows, columns]);
        let decoded = decoded.reshape([frames, 1, 3, rows, columns]);
        let sources = Tensor::cat(&[decoded, last, moved], 1); // (n N, 2 + K, 3, H, W)

        let carried = landed.narrow(3, 2, 1 + sizes.features as i64).flatten(0, 1).flatten(1, 2);
        let mut x = Tensor::cat(&[sources.flatten(1, 2), carried], 1).to_kind(self.params.compute());
        let blend = self.params.root().pp("motion.blend");
        for layer in 0..Motion::LAYERS {
            let read = if layer > 0 { x.silu() } else { x };
            x = blend.pp(layer).conv(&read, 1, 1);
        }
        let weights = x.softmax(1, Kind::Float).unsqueeze(2);
        (sources * weights).sum_dim_intlist([1_i64].as_slice(), false, Kind::Float).reshape(&size)
    }

    /// What lands on the pixels of predicted frames, of every candidate: where it comes from, x then y in pixels, how
    /// surely, and the features that it brings, (n, N, K, 3 + F, H, W).
    fn landed(&self, sizes: &Motion, motion: &Tensor) -> Tensor {
        let size = motion.size();
        let (rows, columns) = (size[3], size[4]);
        let candidates = sizes.candidates as i64;
        // (n, N, K, 3 + F, cells)
        let cells = motion.unflatten(2, [candidates, -1].as_slice()).flatten(-2, -1);
        let displacements = cells.narrow(3, 0, 2);
        let places = places(rows, columns, motion.device()); // (2, cells)
        let landing = &displacements + &places;

        // |a - p|^2 = |a|^2 - 2 a p + |p|^2, as a product: (n, N, K, p, q).
        let cross = places.transpose(0, 1).matmul(&landing);
        let squares = |x: &Tensor, axis: i64, keep: bool| {
            x.square().sum_dim_intlist([axis].as_slice(), keep, Kind::Float)
        };
        let distance = squares(&landing, 3, true) - cross * 2.0 + squares(&places, 0, false).unsqueeze(-1);
        let affinity = cells.narrow(3, 2, 1) - distance / f64::from(2.0 * Motion::SPREAD * Motion::SPREAD);
        let limit = f64::from(Motion::DENSITY_LIMIT);
        let density = affinity.logsumexp([-1_i64].as_slice(), false).unsqueeze(3).clamp(-limit, limit);
        let choice = affinity.softmax(-1, Kind::Float);
        let carried = |values: &Tensor| values.matmul(&choice.transpose(-2, -1)); // (n, N, K, .., p)
        let from = carried(&displacements) * (-self.scale);
        let features = carried(&cells.narrow(3, 3, sizes.features as i64));
        let landed = Tensor::cat(&[from, density, features], 3).unflatten(-1, [rows, columns].as_slice());
        self.to_pixels(&landed)
    }

    /// Cells (n, N, K, m, h, w) to pixels (n, N, K, m, H, W).
    fn to_pixels(&self, cells: &Tensor) -> Tensor {
        let size = cells.size();
        let (rows, columns) = (size[4] * self.scale, size[5] * self.scale);
        let pixels = cells.flatten(0, 2).upsample_bilinear2d([rows, columns], false, None, None);
        pixels.unflatten(0, &size[..3])
    }

    /// How far the places that `motion` (n, N, m, h, w) takes pixels from are from the true ones (n, N, 2, H, W): the mean
    /// of log(1 + pixels) of the nearest candidate, over all that moves. NaN where the truth is not known.
    pub fn source_error(&self, motion: &Tensor, truth: &Tensor) -> Tensor {
        let Some(sizes) = &self.motion else { return Tensor::zeros([], (Kind::Float, motion.device())) };
        nearest_error(&self.landed(sizes, motion).narrow(3, 0, 2), &truth.unsqueeze(2), 3)
    }
}

/// How far the displacements of `motion` (B, H, N, m, h, w) of cells of `scale` pixels are from the true ones of points
/// (B, H, N, 2, h * r, w * r) in them, in pixels; the mean of [`Compositor::source_error`].
pub fn motion_error(sizes: &Motion, motion: &Tensor, truth: &Tensor, scale: f64) -> Tensor {
    let (size, points) = (motion.size(), truth.size());
    let (rows, columns) = (size[4], size[5]);
    let per_cell = points[4] / rows;
    let cells = motion.unflatten(3, [sizes.candidates as i64, -1].as_slice()).narrow(4, 0, 2) * scale;
    // (B, H, N, K, 2, h, 1, w, 1) against (B, H, N, 1, 2, h, r, w, r)
    let cells = cells.unsqueeze(6).unsqueeze(-1);
    let truth =
        truth.unsqueeze(3).reshape([&points[..3], &[1, 2, rows, per_cell, columns, per_cell]].concat());
    nearest_error(&cells, &truth, 4)
}

/// Mean of log(1 + distance) between displacements and true ones along `axis`, of the nearest candidate, which are along
/// the axis before it, over all that moves.
fn nearest_error(displacements: &Tensor, truth: &Tensor, axis: i64) -> Tensor {
    let sum = |x: Tensor| x.sum_dim_intlist([axis].as_slice(), false, Kind::Float);
    let moves = sum(truth.square()).ge(MOVES_PX * MOVES_PX);
    // The root has no slope at zero without the addition.
    let off = (sum((displacements - truth.nan_to_num(0.0, None, None)).square()) + 0.01).sqrt();
    let nearest = off.amin([axis - 1].as_slice(), true).log1p();
    (nearest * &moves).sum(Kind::Float) / moves.sum(Kind::Float).clamp_min(1.0)
}

/// Places of cells, x then y, (2, rows * columns).
fn places(rows: i64, columns: i64, device: Device) -> Tensor {
    let count = |len: i64| Tensor::arange(len, (Kind::Float, device));
    let grid = Tensor::meshgrid_indexing(&[count(rows), count(columns)], "ij");
    Tensor::stack(&[grid[1].flatten(0, 1), grid[0].flatten(0, 1)], 0)
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
