//! The pictures that come out at the end, as the `decode` graph makes them: of decoded latents, the last real frame and
//! the predicted motion.

use nextclip_core::compositing::{CHANGE_LEVELS, CHANGE_RADIUS, CHANGE_SOFTNESS};
use nextclip_core::{Geometry, Motion};
use tch::{Device, Kind, Tensor};

use crate::following::{Between, RESPONSE, Recent, follow, follow_specs, warp};
use crate::motion::convolved;
use crate::params::{Init, Params, Spec};
use crate::rigid::{Belonging, Turned, from_middle, turned_back};

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
    /// (n, M, m, h, w) where the model has it; then also where pixels came from, x then y in pixels, (n, N, K, 2, H, W).
    pub fn shown(
        &self,
        decoded: &Tensor,
        seen: &Tensor,
        motion: Option<&Tensor>,
    ) -> (Tensor, Option<Tensor>) {
        let recent = Recent::of(seen, self.motion.as_ref());
        match (&self.motion, motion) {
            (Some(sizes), Some(motion)) => {
                let followed = match sizes.earlier {
                    0 => motion.shallow_clone(),
                    _ => follow(sizes, motion, &recent, self.params.root().full(RESPONSE), self.scale),
                };
                let belonging = sizes.rigid.then(|| {
                    let values = motion.unflatten(2, [sizes.candidates as i64, -1].as_slice());
                    Belonging::of(sizes, &values, followed.size()[1])
                });
                let landed = self.landed(sizes, &followed, belonging.as_ref());
                let shown = self.blend(sizes, &decoded.clamp(-1.0, 1.0), &recent, &landed);
                (shown, Some(landed.narrow(3, 0, 2)))
            }
            _ => (keep_unchanged(decoded, &recent.last), None),
        }
    }

    /// The formula of [`nextclip_core::Motion`] from what `landed` (n, N, K, 3 + F, H, W) on.
    fn blend(&self, sizes: &Motion, decoded: &Tensor, recent: &Recent, landed: &Tensor) -> Tensor {
        let size = decoded.size();
        let (frames, rows, columns) = (size[0] * size[1], size[3], size[4]);
        let (candidates, earlier) = (sizes.candidates as i64, sizes.earlier as i64);
        let displacements = landed.narrow(3, 0, 2).flatten(1, 2);
        let all: Vec<&Tensor> = std::iter::once(&recent.last).chain(&recent.earlier).collect();
        let all = Tensor::cat(&all, 1).flatten(1, 2); // (n, 3 (1 + E), H, W)
        let moved =
            warp(&all, &displacements, Between::Cubic).reshape([frames, candidates, -1, rows, columns]);
        let then = moved.narrow(2, 3, 3 * earlier).flatten(1, 2);
        let moved = moved.narrow(2, 0, 3);
        let still = |picture: &Tensor| picture.expand_as(decoded).reshape([frames, 1, 3, rows, columns]);
        let earlier: Vec<Tensor> = recent.earlier.iter().map(still).collect();
        let mut sources = vec![decoded.reshape([frames, 1, 3, rows, columns]), still(&recent.last), moved];
        let carried = landed.narrow(3, 2, 1 + sizes.features as i64).flatten(0, 1).flatten(1, 2);
        let mut read = vec![Tensor::cat(&sources, 1).flatten(1, 2), carried];
        if !earlier.is_empty() {
            read.extend([Tensor::cat(&earlier, 1).flatten(1, 2), then]);
            sources.extend(earlier);
        }
        let sources = Tensor::cat(&sources, 1); // (n N, 2 + K + E, 3, H, W)

        let read = Tensor::cat(&read, 1).to_kind(self.params.compute());
        let x = convolved(&self.params.root().pp("motion.blend"), read);
        let weights = x.softmax(1, Kind::Float).unsqueeze(2);
        let blended = (sources * weights).sum_dim_intlist([1_i64].as_slice(), false, Kind::Float);
        blended.clamp(-1.0, 1.0).reshape(&size)
    }

    /// What lands on the pixels of predicted frames, of every candidate: where it comes from, x then y in pixels, how
    /// surely, and the features that it brings, (n, N, K, 3 + F, H, W).
    fn landed(&self, sizes: &Motion, motion: &Tensor, belonging: Option<&Belonging>) -> Tensor {
        let size = motion.size();
        let (rows, columns) = (size[3], size[4]);
        let values = motion.unflatten(2, [sizes.candidates as i64, -1].as_slice());
        let together = belonging.map(|belonging| belonging.together(&values.narrow(3, 0, 2)));
        let cells = |x: &Tensor| x.flatten(-2, -1);
        let values = cells(&values); // (n, N, K, 3 + F, cells)
        let displacements = match &together {
            Some(together) => cells(&together.displacements),
            None => values.narrow(3, 0, 2),
        };
        let places = from_middle([rows, columns], motion.device()).transpose(0, 1); // (2, cells)
        let landing = &displacements + &places;

        // |a - p|^2 = |a|^2 - 2 a p + |p|^2, as a product: (n, N, K, p, q).
        let cross = places.transpose(0, 1).matmul(&landing);
        let squares = |x: &Tensor, axis: i64, keep: bool| {
            x.square().sum_dim_intlist([axis].as_slice(), keep, Kind::Float)
        };
        let distance = squares(&landing, 3, true) - cross * 2.0 + squares(&places, 0, false).unsqueeze(-1);
        let affinity = values.narrow(3, 2, 1) - distance / f64::from(2.0 * Motion::SPREAD * Motion::SPREAD);
        let limit = f64::from(Motion::DENSITY_LIMIT);
        let density = affinity.logsumexp([-1_i64].as_slice(), false).unsqueeze(3).clamp(-limit, limit);
        let choice = affinity.softmax(-1, Kind::Float);
        let carried = |values: &Tensor| values.matmul(&choice.transpose(-2, -1)); // (n, N, K, .., p)
        let features = carried(&values.narrow(3, 3, sizes.features as i64));
        let to_pixels = |values: &[&Tensor]| {
            self.to_pixels(&Tensor::cat(values, 3).unflatten(-1, [rows, columns].as_slice()))
        };
        let Some(Turned { turns, .. }) = &together else {
            let from = carried(&displacements) * -self.scale;
            return to_pixels(&[&from, &density, &features]);
        };
        let turns = cells(turns);
        let from = carried(&(places - turned_back(&landing, &turns)));
        let landed = to_pixels(&[&from, &carried(&turns), &density, &features]);
        let pixels = self.pixels([rows, columns], motion.device());
        let back = turned_back(&pixels, &landed.narrow(3, 2, 2)) - &pixels;
        let from = (landed.narrow(3, 0, 2) + back) * self.scale;
        Tensor::cat(&[&from, &landed.narrow(3, 4, 1 + sizes.features as i64)], 3)
    }

    /// Places of pixels from the frame's middle, in cells, x then y, (2, H, W).
    fn pixels(&self, cells: [i64; 2], device: Device) -> Tensor {
        let [rows, columns] = cells.map(|count| count * self.scale);
        let places = from_middle([rows, columns], device) / self.scale as f64;
        places.transpose(0, 1).unflatten(1, [rows, columns].as_slice())
    }

    /// Cells (n, N, K, m, h, w) to pixels (n, N, K, m, H, W).
    fn to_pixels(&self, cells: &Tensor) -> Tensor {
        let size = cells.size();
        let (rows, columns) = (size[4] * self.scale, size[5] * self.scale);
        let pixels = cells.flatten(0, 2).upsample_bilinear2d([rows, columns], false, None, None);
        pixels.unflatten(0, &size[..3])
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A cell that moves takes the places before it along; where nothing lands, the density is low.
    #[test]
    fn what_lands_is_what_was_sent_there() {
        let sizes = Motion { candidates: 1, features: 1, reach: 2, earlier: 0, refined: false, rigid: false };
        let geometry = Geometry {
            height: 48,
            width: 64,
            vae_scale: 8,
            latent_channels: 4,
            patch: 2,
            history: 2,
            clip: 1,
            frame_interval_ms: 200,
        };
        let params = Params::new(&compositing_specs(&sizes, 1), 1, Kind::Float, Device::Cpu);
        let compositor = Compositor::new(Some(sizes), &geometry, &params);
        // All cells but one have no weight; that of row 2, column 3 goes two to the right and one up.
        let mut motion = Tensor::zeros([1, 1, sizes.channels() as i64, 6, 8], (Kind::Float, Device::Cpu));
        let cell = |channel: i64| motion.select(2, channel).select(2, 2).select(2, 3);
        let _ = motion.select(2, 2).fill_(-40.0);
        for (channel, value) in [2.0, -1.0, 5.0, 0.7].into_iter().enumerate() {
            let _ = cell(channel as i64).fill_(value);
        }
        let landed = compositor.landed(&sizes, &motion, None);
        assert_eq!(landed.size(), [1, 1, 1, 4, 48, 64]);
        // The middle of cell (row 1, column 5).
        let at = |channel: i64| landed.double_value(&[0, 0, 0, channel, 12, 44]);
        assert!((at(0) + 16.0).abs() < 0.5 && (at(1) - 8.0).abs() < 0.5, "from {} {}", at(0), at(1));
        assert!(at(2) > 3.0 && (at(3) - 0.7).abs() < 0.05, "density {} feature {}", at(2), at(3));
        let far = landed.double_value(&[0, 0, 0, 2, 44, 4]);
        assert!(far < -9.0, "density {far} where nothing lands");

        motion = motion.zeros_like();
        assert_eq!(
            compositor.landed(&sizes, &motion, None).narrow(3, 0, 2).abs().max().double_value(&[]),
            0.0
        );
    }
}
