//! The pictures that come out at the end, as the `decode` graph makes them: of decoded latents, the last real frame and
//! the predicted motion.

use nextclip_core::compositing::{CHANGE_LEVELS, CHANGE_RADIUS, CHANGE_SOFTNESS};
use nextclip_core::{Geometry, Motion};
use tch::{Kind, Tensor};

use crate::following::{Between, RESPONSE, Recent, colours, follow, follow_specs, smooth, trust, warp};
use crate::landing::Landed;
use crate::motion::convolved;
use crate::params::{Init, Params, Spec};
use crate::rigid::Belonging;

/// Hidden channels of the blend.
const BLEND_WIDTH: usize = 16;

/// The tensors of following and of the blend. The blend's last layer starts small, so that all sources weigh about the
/// same.
pub fn compositing_specs(motion: &Motion, clip: usize) -> Vec<Spec> {
    let mut specs: Vec<Spec> = follow_specs(motion, clip).into_iter().collect();
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

/// What was moved into pictures of the future.
#[derive(Debug)]
pub(crate) struct Moved {
    pub(crate) landed: Landed,
    /// How much of every pixel each candidate's picture is, moved from the last one, then from each that things are followed in,
    /// (n, N, (1 + F) K, H, W).
    pub(crate) weights: Tensor,
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
    /// A view of `params`, which hold [`compositing_specs`] where there is motion.
    pub fn new(motion: Option<Motion>, geometry: &Geometry, params: &'a Params) -> Self {
        Self { motion, params, scale: geometry.vae_scale as i64 }
    }

    /// Sizes of the motion, where there is one.
    pub fn motion(&self) -> Option<Motion> {
        self.motion
    }

    /// What the daemon shows of decoded pictures (n, N, 3, H, W) in [-1, 1] after `seen` (n, F, 3, H, W), with `motion`
    /// (n, M, m, h, w) where the model has it; then also what was moved there.
    pub(crate) fn shown(
        &self,
        decoded: &Tensor,
        seen: &Tensor,
        motion: Option<&Tensor>,
    ) -> (Tensor, Option<Moved>) {
        let recent = Recent::of(seen, self.motion.as_ref());
        match (&self.motion, motion) {
            (Some(sizes), Some(motion)) => {
                let followed = match sizes.earlier {
                    0 => motion.shallow_clone(),
                    _ => follow(sizes, motion, &recent, self.params.root().full(RESPONSE), self.scale),
                };
                let clip = decoded.size()[1];
                let belonging = sizes.rigid.then(|| {
                    let values = motion.unflatten(2, [sizes.candidates as i64, -1].as_slice());
                    Belonging::of(sizes, &values, clip)
                });
                let landed = Landed::of(sizes, &followed, clip, belonging.as_ref(), self.scale);
                let (shown, weights) = self.blend(sizes, &decoded.clamp(-1.0, 1.0), &recent, &landed);
                (shown, Some(Moved { landed, weights }))
            }
            _ => (keep_unchanged(decoded, &recent.last), None),
        }
    }

    /// The formula of [`nextclip_core::Motion`] from what `landed` on; and the weights of what is moved, (n, N, (1 + F) K, H, W).
    fn blend(&self, sizes: &Motion, decoded: &Tensor, recent: &Recent, landed: &Landed) -> (Tensor, Tensor) {
        let size = decoded.size();
        let (frames, rows, columns) = (size[0] * size[1], size[3], size[4]);
        let layers = sizes.layers() as i64;
        let displacements = landed.from.flatten(1, 2);
        let moved = |pictures: &Tensor, between| {
            warp(&pictures.flatten(1, 2), &displacements, between)
                .reshape([frames, layers, -1, rows, columns])
        };
        let still = |picture: &Tensor| picture.expand_as(decoded).reshape([frames, 1, 3, rows, columns]);
        let earlier: Vec<Tensor> = recent.earlier.iter().map(still).collect();
        let of_last = moved(&recent.last, Between::Cubic);
        let was = landed.was.iter().zip(&recent.earlier).map(|(from, picture)| {
            warp(&picture.squeeze_dim(1), &from.flatten(1, 2), Between::Linear).reshape(of_last.size())
        });
        let was: Vec<Tensor> = was.collect();
        let witnessed = |(was, &known): (&Tensor, &bool)| {
            let off = (&of_last - was).flatten(0, 1);
            witnessed(&off, known).reshape([frames, layers, 1, rows, columns])
        };
        let witnessed: Vec<Tensor> = was.iter().zip(&recent.known).map(witnessed).collect();
        let mut sources = vec![decoded.reshape([frames, 1, 3, rows, columns]), still(&recent.last), of_last];
        let carried = landed.carried.flatten(0, 1).flatten(1, 2);
        let mut read = vec![Tensor::cat(&sources, 1).flatten(1, 2), carried];
        if !earlier.is_empty() {
            // What is not shown but compared needs no steep edges.
            let then = moved(&Tensor::cat(&recent.earlier, 1), Between::Linear).flatten(1, 2);
            read.extend([Tensor::cat(&earlier, 1).flatten(1, 2), then]);
            sources.extend(earlier);
        }
        if !witnessed.is_empty() {
            read.push(Tensor::cat(&witnessed, 2).flatten(1, 2));
            read.push(Tensor::cat(&was, 1).flatten(1, 2));
            sources.extend(was);
        }
        let sources = Tensor::cat(&sources, 1); // (n N, S, 3, H, W)

        let read = Tensor::cat(&read, 1).to_kind(self.params.compute());
        let x = convolved(&self.params.root().pp("motion.blend"), read);
        let weights = x.softmax(1, Kind::Float).unsqueeze(2);
        let blended = (sources * &weights).sum_dim_intlist([1_i64].as_slice(), false, Kind::Float);
        let again = 2 + layers + recent.earlier.len() as i64;
        let of_moved = [weights.narrow(1, 2, layers), weights.narrow(1, again, weights.size()[1] - again)];
        let of_moved = Tensor::cat(&of_moved, 1).squeeze_dim(2).unflatten(0, &size[..2]);
        (blended.clamp(-1.0, 1.0).reshape(&size), of_moved)
    }
}

/// How surely pixels were seen going that way, 0 to 1, (n, 1, H, W): of how far they are from what was there, (n, 3, H, W).
fn witnessed(off: &Tensor, known: bool) -> Tensor {
    let sure = trust(&smooth(&colours(&off.square())), Motion::WITNESS_LEVEL);
    if known { sure } else { sure.zeros_like() }
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
