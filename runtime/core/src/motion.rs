//! Motion-compensated compositing: a picture of the future is made of the last real frame, moved, and of what the
//! decoder paints.
//!
//! A predicted latent says what will be where, but a cell of 8 x 8 pixels says it blurred. The last real frame has the
//! sharp pixels. So a model with [`Motion`] gives, beside the latents, for every cell of a predicted frame
//! [`Motion::channels`] values: K displacements, x then y, in cells, candidate after candidate; then features. They come
//! from the transformer's last hidden state, by a linear layer beside the one that gives the latents
//! (`motion.linear`, rows laid out (p_row, p_col, channel) as those of `final_layer.linear`, on the same input).
//!
//! ```text
//! displacements, features   to pixels, bilinear with half-pixel centres
//! moved_k(x, y)             = last(x + s u_k(x, y), y + s v_k(x, y)), bilinear, the border repeated; s pixels a cell
//! x                         = [decoded, last, moved_1 .. moved_K, features], pictures from -1 to 1
//! weights                   = softmax(conv(silu(conv(silu(conv(x)))))), 3 x 3 each: `motion.blend.{0,1,2}`
//! out                       = weights_0 decoded + weights_1 last + weights_2 moved_1 + ...
//! ```
//! `decoded` is the decoder's picture, clipped to -1 to 1. With several denoising steps the last step's motion counts,
//! with guidance that of the branch that sees history. Displacements are small at first: `moved` starts as `last`.
//! Warping the last frame by predicted motion is an old and strong way to sharp predictions (Finn et al. 2016,
//! arXiv 1605.07157; Hu et al. 2023, arXiv 2303.09875); weights by softmax keep every pixel a mean of real colours.

use serde::{Deserialize, Serialize};

/// Sizes of a model's motion output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Motion {
    /// K: displacements a cell. One suffices for one moving thing; a moving camera needs another.
    pub candidates: usize,
    /// Further values a cell, which the blend reads.
    pub features: usize,
}

impl Motion {
    /// What nextclip trains.
    pub const DEFAULT: Self = Self { candidates: 2, features: 8 };
    /// Convolutions of the blend.
    pub const BLEND_LAYERS: usize = 3;

    /// Values of a cell.
    pub fn channels(&self) -> usize {
        2 * self.candidates + self.features
    }

    /// Channels that the blend reads: decoded, last and moved pictures, and features.
    pub fn blend_inputs(&self) -> usize {
        3 * self.sources() + self.features
    }

    /// Pictures that are blended: decoded, last and the moved ones.
    pub fn sources(&self) -> usize {
        2 + self.candidates
    }

    /// What makes these sizes impossible, in words.
    pub fn fault(&self) -> Option<String> {
        let Self { candidates, features } = *self;
        if !(1..=8).contains(&candidates) {
            return Some(format!("motion: {candidates} candidates, must be 1 to 8"));
        }
        (features > 256).then(|| format!("motion: {features} features, must be 0 to 256"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_from_candidates_and_features() {
        let motion = Motion { candidates: 3, features: 10 };
        assert_eq!((motion.channels(), motion.sources(), motion.blend_inputs()), (16, 5, 25));
        assert_eq!(motion.fault(), None);
        let fault = Motion { candidates: 0, features: 1 }.fault();
        assert_eq!(fault.as_deref(), Some("motion: 0 candidates, must be 1 to 8"));
    }
}
