//! Motion-compensated compositing: a picture of the future is made of the last real frame, moved, and of what the
//! decoder paints.
//!
//! A predicted latent says what will be where, but blurred, by cells of 8 x 8 pixels. The last real frame has the sharp
//! pixels. So a model with [`Motion`] says of every frame that it remembers where each of its cells will be in the N
//! frames that follow. It is read from the last hidden state of the frame's S tokens, after `llm.norm`, by the layer
//! `motion.linear`, whose rows are laid out (p_row, p_col, frame, channel). The [`Motion::channels`] values of a cell q
//! and a frame n are, candidate after candidate: displacement x, y in cells, weight, features. Several candidates, since
//! a cell can hold the border of a thing that moves before another.
//!
//! To see motion, such a model reads beside a clean frame its **cost volume**: how unlike the frame before it is, for
//! every displacement within `reach`. With `half` the mean over 2 x 2 pixels, on the scale of -1 to 1, the border
//! repeated, and D = (dx, dy) from -reach to reach in half-resolution pixels, dx running fastest:
//! ```text
//! unlike_D(x, y) = mean over RGB of (half(now)(x, y) - half(before)(x + dx, y + dy))^2
//! cost_D(cell)   = log(COST_FLOOR + mean of unlike_D over the cell and one pixel around it, within the picture)
//! volume_D       = cost_D - mean over D of cost_D
//! ```
//! A frame with none before it, as after a gap, has a volume of zeros. The stem `motion.stem.{0,1,2}`, convolutions
//! (3 x 3, SiLU, 3 x 3, SiLU, p x p of stride p), turns the volume into what is added to the frame's embedded patches.
//!
//! What lands where is a soft choice among all cells, for every candidate k and cell p of the predicted frame:
//! ```text
//! a(p, q)      = weight(q) - |q + d(q) - p|^2 / (2 SPREAD^2), places in cells
//! c(p, q)      = softmax over q of a(p, q)
//! u(p)         = - sum over q of c(p, q) d(q)           where p comes from
//! density(p)   = log of the sum over q of exp a(p, q)   how surely anything lands here
//! features(p)  = sum over q of c(p, q) features(q)
//! ```
//! and then, with all of these brought to pixels (bilinear, half-pixel centres) and s pixels a cell:
//! ```text
//! moved_k(x, y) = last(x + s u_x, y + s u_y), bilinear, the border repeated
//! x             = [decoded, last, moved_1 .. moved_K, density_1, features_1, density_2, ..], pictures from -1 to 1
//! weights       = softmax(conv(silu(conv(silu(conv(x)))))), 3 x 3 each: `motion.blend.{0,1,2}`
//! out           = weights_0 decoded + weights_1 last + weights_2 moved_1 + ...
//! ```
//! `decoded` is the decoder's picture, clipped to -1 to 1; densities are clipped to -10 to 10.
//!
//! Moving the last frame's pixels is an old and strong way to sharp predictions (Finn et al. 2016, arXiv 1605.07157); that
//! things say where they go, instead of places where from, is splatting (Niklaus and Liu 2020, arXiv 2003.05534). Weights by
//! softmax keep every pixel a mean of real colours.

use serde::{Deserialize, Serialize};

use crate::geometry::Geometry;

/// Sizes of a model's motion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Motion {
    /// K: displacements a cell.
    pub candidates: usize,
    /// Values that every candidate carries along for the blend.
    pub features: usize,
    /// How far a thing is looked for in the frame before, in steps of two pixels.
    pub reach: usize,
}

impl Motion {
    /// What nextclip trains.
    pub const DEFAULT: Self = Self { candidates: 2, features: 4, reach: 7 };
    /// Convolutions of the blend, and of the stem.
    pub const LAYERS: usize = 3;
    /// How far from a place something may land and still be taken for it, in cells.
    pub const SPREAD: f32 = 0.5;
    /// Mean squared difference, on the scale of -1 to 1, below which pictures count as alike.
    pub const COST_FLOOR: f32 = 1e-3;
    /// Densities are clipped to this.
    pub const DENSITY_LIMIT: f32 = 10.0;

    /// Values of a cell and a predicted frame.
    pub fn channels(&self) -> usize {
        self.candidates * self.candidate_channels()
    }

    /// Values of one candidate: displacement, weight, features.
    pub fn candidate_channels(&self) -> usize {
        3 + self.features
    }

    /// Displacements of a cost volume.
    pub fn costs(&self) -> usize {
        (2 * self.reach + 1).pow(2)
    }

    /// Pictures that are blended: decoded, last and the moved ones.
    pub fn sources(&self) -> usize {
        2 + self.candidates
    }

    /// Channels that the blend reads: the sources, densities and features.
    pub fn blend_inputs(&self) -> usize {
        3 * self.sources() + self.candidates * (1 + self.features)
    }

    /// What makes these sizes impossible, in words.
    pub fn fault(&self) -> Option<String> {
        let Self { candidates, features, reach } = *self;
        if !(1..=8).contains(&candidates) {
            return Some(format!("motion: {candidates} candidates, must be 1 to 8"));
        }
        if features > 64 {
            return Some(format!("motion: {features} features, must be 0 to 64"));
        }
        (!(1..=16).contains(&reach)).then(|| format!("motion: a reach of {reach}, must be 1 to 16"))
    }

    /// The same with frames of this geometry: a cell must be whole pixels of half resolution.
    pub fn fault_with(&self, geometry: &Geometry) -> Option<String> {
        let Geometry { vae_scale, .. } = *geometry;
        let odd = || format!("motion: cells of {vae_scale} x {vae_scale} pixels, must be an even number");
        self.fault().or_else(|| (vae_scale % 2 != 0).then(odd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_from_candidates_and_features() {
        let motion = Motion { candidates: 3, features: 2, reach: 4 };
        assert_eq!((motion.channels(), motion.sources(), motion.blend_inputs()), (15, 5, 24));
        assert_eq!(motion.costs(), 81);
        assert_eq!(motion.fault(), None);
        let fault = Motion { candidates: 0, ..motion }.fault();
        assert_eq!(fault.as_deref(), Some("motion: 0 candidates, must be 1 to 8"));
        let geometry = |vae_scale| Geometry {
            height: 32,
            width: 32,
            vae_scale,
            latent_channels: 4,
            patch: 1,
            history: 1,
            clip: 1,
            frame_interval_ms: 100,
        };
        assert_eq!(motion.fault_with(&geometry(2)), None);
        let fault = motion.fault_with(&geometry(1));
        assert_eq!(fault.as_deref(), Some("motion: cells of 1 x 1 pixels, must be an even number"));
    }
}
