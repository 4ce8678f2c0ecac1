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
//! A model that is `refined` says it in two steps. A token has p x p cells and one vector for all of them; what it says of each
//! is near, but not exact. The costs of a cell are exact, and cells next to each other mostly belong to one thing. So, with
//! `seen` what the stem's second convolution gives for every cell, after its SiLU, and `said` all M m values of a cell from
//! `motion.linear`, by convolutions (3 x 3, SiLU, 3 x 3, SiLU, 3 x 3) `motion.refine.{0,1,2}`:
//! ```text
//! motion = said + conv(silu(conv(silu(conv([said, seen])))))
//! ```
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
//! moved_k(x, y) = last(x + s u_x, y + s u_y), bicubic, the border repeated
//! x             = [decoded, last, moved_1 .. moved_K, density_1, features_1, density_2, ..], pictures from -1 to 1
//! weights       = softmax(conv(silu(conv(silu(conv(x)))))), 3 x 3 each: `motion.blend.{0,1,2}`
//! out           = weights_0 decoded + weights_1 last + weights_2 moved_1 + ...
//! ```
//! `decoded` is the decoder's picture, clipped to -1 to 1; densities are clipped to -10 to 10. Bicubic is the convolution of Keys
//! (1981) with a = -0.75 ([`Motion::cubic`]), as the operator GridSample has it. Of the gradient energy of an edge between two
//! colours 0.92 is left on average over all shifts; bilinear would leave 0.75. As it goes beyond the colours beside an edge, `out`
//! is clipped to -1 to 1.
//!
//! # Earlier pictures
//! A model with `earlier` > 0 has the pictures of [`Motion::EARLIER`] frames before the last one at hand, too: e_1, e_2, ..
//! frames back. They serve twice.
//!
//! **Following.** The network knows how fast a thing moves to about a tenth of its speed; two pictures say it to a tenth
//! of a pixel. So such a model also says where each cell was in the first F of them, at most [`Motion::FOLLOWED`]: its M
//! moments are the N frames to come, then those e_i frames back, each with the channels of above, of which a moment past
//! has no use for the features. The places past are then looked up in the pictures, one after another, and what they were
//! wrong by moves all of the cell's moments. With `smooth` the mean over 3 x 3 pixels within the picture, g = (g_x, g_y) the
//! central differences of smooth(last), the border repeated, and p = s d_i(q) at every pixel of cell q, for i = 1 .. F:
//! ```text
//! r(x, y)   = smooth(last)(x, y) - smooth(earlier_i)(x + p_x, y + p_y), bilinear, the border repeated
//! trust     = 1 / (1 + mean over RGB of r^2 / FOLLOW_LEVEL)
//! A, b      = mean over RGB of g g^T and of g r, their mean with weights `trust` over the cell and s / 2 pixels around it,
//!             within the picture
//! step(q)   = (A + FOLLOW_FLOOR I)^-1 b, each within -FOLLOW_LIMIT to FOLLOW_LIMIT, in pixels
//! delta(q)  = the sum of FOLLOW_STEPS such steps, each with the places p moved by those before it
//! d_j(q)   += response_ji known_i sigmoid(weight_i(q)) delta(q) / s, for all moments j
//! ```
//! Such a step is one of Lucas and Kanade's method (1981) with the weights of a robust one. `response` is the tensor
//! `motion.response`, (M, F); a thing of steady speed has n / -e_i there for the moment n. `known_i` is 1 where that
//! picture was seen, and 0 after a gap; there the last picture stands in for it.
//!
//! **Recalling.** What a thing uncovers was often seen before it came. So the earlier pictures are sources of the blend as
//! well; and of every candidate the blend reads what they have at the places that the last frame's pixels are taken from:
//! where that is the same, the pixel does not belong to what moves.
//! ```text
//! then_ki(x, y) = earlier_i(x + s u_x, y + s u_y), bilinear, the border repeated
//! x             = [.. as above, earlier_1 .. earlier_E, then_11 .. then_1E, then_21 ..]
//! out           = .. as above + weights_(2 + K) earlier_1 + ..
//! ```
//!
//! # Things that move as one
//! Cells of one thing go one way. A network that says of each where it goes says it of each a little differently, and the thing
//! bends. So a model that is `rigid` also says which cells belong together. What a moment past has no use for says it: of
//! candidate k of cell q, the features of all moments past, one after another, are its rigidity, its reliability, and the rest, a
//! vector e. With i and j each one candidate of one cell, x_i the cell's place in cells, d_i(n) its displacement after following:
//! ```text
//! share_ij   = softmax over j of reliability_j - |e_i - e_j|^2
//! X_i, Y_i   = sum over j of share_ij x_j, and of share_ij (x_j + d_j)
//! C_i        = sum over j of share_ij x_j . (x_j + d_j) - X_i . Y_i + RIGID_FLOOR
//! S_i        = sum over j of share_ij x_j x (x_j + d_j) - X_i x Y_i
//! cos, sin   = C_i and S_i over the root of C_i^2 + S_i^2 + NO_TURN
//! fitted_i   = Y_i + [cos, -sin; sin, cos] (x_i - X_i) - x_i
//! d_i       += sigmoid(rigidity_i) (fitted_i - d_i)
//! R_i        = I + sigmoid(rigidity_i) ([cos, -sin; sin, cos] - I)
//! ```
//! This is the rotation and translation that fit the cells that belong to i best (Kabsch 1976, of weighted points in a plane). What
//! lands at p then comes from where its thing's turn takes p back to, and is asked for pixel by pixel:
//! ```text
//! u(p)       = sum over q of c(p, q) (q - R_q^T (q + d(q))) + (sum over q of c(p, q) R_q^T) p - p
//! ```
//! where both sums are brought to pixels, not u.
//!
//! **Whole.** Cells whose vectors differ a little find turns that differ a little. So in a model that is `whole` vectors near each
//! other first become one (mean shift, Fukunaga and Hostetler 1975), and what a thing carries along for the blend is one, too, so
//! that all of it is taken from one candidate:
//! ```text
//! e_i        <- sum over j of e_j softmax over j of -NARROWER |e_i - e_j|^2, all at once, GATHER_STEPS times
//! features_i += sigmoid(rigidity_i) (sum over j of share_ij features_j - features_i)
//! ```
//! Things that pass each other land on neighbouring cells, where a mean of both motions would bend both. So there the choice of what
//! lands is sharper, and its places p are finer, FINER a cell along both axes:
//! ```text
//! c(p, q)    = softmax over q of CHOICE a(p, q)
//! density(p) = log of the sum over q of exp(CHOICE a(p, q)), over CHOICE
//! ```
//!
//! **Witnessed.** Cells are coarse: one that a thing passes over has pixels of the thing and of what is behind it, and both are sent
//! the thing's way. Earlier pictures tell them apart: pixels of the thing were seen going that way. So there the displacements of
//! moments past are fitted, too, to d_i and R_i of the followed picture i; and the blend of a model that is `whole` reads, of every
//! candidate k, with v = p + u(p) the place that it is taken from:
//! ```text
//! w_i(p)        = sum over q of c(p, q) (q + d_i(q) - R_i,q q) + (sum over q of c(p, q) R_i,q) v      where it was then
//! was_ki(x, y)  = earlier_i(s w_i), bilinear, the border repeated
//! witness_ki    = known_i / (1 + off / WITNESS_LEVEL), off the mean of (moved_k - was_ki)^2 over RGB and 3 x 3 pixels within
//!                 the picture
//! x             = [.. as above, witness_11 .. witness_1F, witness_21 .., was_11 .. was_K1, was_12 ..]
//! out           = .. as above + weights_(2 + K + E) was_11 + ..
//! ```
//! where again the sums are brought to pixels. So they are sources of the blend, too: what something else hides of a thing in the
//! last picture can come out again as it was seen before.
//!
//! **In layers.** What lands at a place lands with all of its cell, and things that pass each other would cut into each other, a cell
//! wide. So in a model with a `depth` D things land each by itself, and what is on top is chosen pixel by pixel. Its things are
//! t = 1 .. THINGS, found one after another, each around the candidate r_t of a cell that the most belongs to of what lands somewhere
//! at the last moment N, moves, and is of no thing before:
//! ```text
//! alike_ij   = exp(-|e_i - e_j|^2)
//! matter_i   = min(1, |d_i(N)|) sum over p of c(p, i), where c chooses among the candidates of all cells
//! free_t,i   = prod over s < t of (1 - alike_i,r_s)
//! r_t        = the i that has the greatest sum over j of alike_ij free_t,j matter_j
//! l_t(p, i)  = (alike_i,r_t free_t,i exp(min(a(p, i), DENSITY_LIMIT)))^CHOICE
//! none       = exp(-CHOICE DENSITY_LIMIT)
//! sum_t(p)   = none + sum over i of l_t(p, i)
//! density_t  = log sum_t(p), over CHOICE
//! ```
//! Means over q with c(p, q) above are those over i with l_t(p, i) / sum_t(p) here, where none / sum_t(p) is the share of what rests
//! and carries nothing. They are brought to pixels thing by thing; k = 1 .. D above are then, at every pixel, the D things of the
//! greatest densities, the densest first.
//!
//! So that it does not depend on where things go which of its two candidates a cell has for them, the first is trained to be the
//! ground's there, and the second what stands on it.
//!
//! Moving the last frame's pixels is an old and strong way to sharp predictions (Finn et al. 2016, arXiv 1605.07157); that
//! things say where they go, instead of places where from, is splatting (Niklaus and Liu 2020, arXiv 2003.05534). Weights by
//! softmax keep every pixel a mean of colours that were seen or painted.

mod sizes;

use serde::{Deserialize, Serialize};

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
    /// E: earlier pictures that things are followed and recalled in.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub earlier: usize,
    /// Whether what a token says of its cells is refined by what they and those around them see.
    #[serde(default, skip_serializing_if = "is_false")]
    pub refined: bool,
    /// Whether cells say what they belong to, and move as one with it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub rigid: bool,
    /// Whether those that belong together agree on it, so that things stay whole.
    #[serde(default, skip_serializing_if = "is_false")]
    pub whole: bool,
    /// D: of how many things, which land each by itself, the blend is given what is on top; 0 where candidates land as they are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub depth: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Motion {
    /// What nextclip trains.
    pub const DEFAULT: Self = Self {
        candidates: 2,
        features: 4,
        reach: 7,
        earlier: 3,
        refined: true,
        rigid: true,
        whole: true,
        depth: 3,
    };
    /// Convolutions of the blend, of the stem, and of what refines.
    pub const LAYERS: usize = 3;
    /// How far from a place something may land and still be taken for it, in cells.
    pub const SPREAD: f32 = 0.5;
    /// Mean squared difference, on the scale of -1 to 1, below which pictures count as alike.
    pub const COST_FLOOR: f32 = 1e-3;
    /// Densities are clipped to this.
    pub const DENSITY_LIMIT: f32 = 10.0;
    /// How many frames before the last one the earlier pictures are, of a model that has them all.
    pub const EARLIER: [usize; 3] = [1, 3, 6];
    /// How many of them, the latest, things are followed in, at the most.
    pub const FOLLOWED: usize = 2;
    /// Mean squared difference, on the scale of -1 to 1, at which pixels are trusted half in following.
    pub const FOLLOW_LEVEL: f32 = 1e-3;
    /// Mean squared slope, on that scale and of a pixel, below which a direction says nothing.
    pub const FOLLOW_FLOOR: f32 = 1e-6;
    /// How often a place is looked up in a picture, each time from where it was found before.
    pub const FOLLOW_STEPS: usize = 2;
    /// The most that a place is corrected by at once, in pixels.
    pub const FOLLOW_LIMIT: f32 = 2.0;

    /// Mean square distance of a thing's cells from its middle, in square cells, that would count against its turning.
    pub const RIGID_FLOOR: f32 = 0.05;
    /// How often vectors that say what cells belong to are gathered to those around them.
    pub const GATHER_STEPS: usize = 4;
    /// How much more the square of how far they are apart counts in that: things whose vectors are near each other stay two.
    pub const NARROWER: f32 = 2.0;
    /// Places a cell, along both axes, where it is chosen what lands there, where things stay whole.
    pub const FINER: usize = 2;
    /// How much sharper that choice is there.
    pub const CHOICE: f32 = 3.0;
    /// Mean squared difference, on the scale of -1 to 1, at which a pixel is half sure to have been seen going that way.
    pub const WITNESS_LEVEL: f32 = 1e-2;
    /// Things that land each by itself.
    pub const THINGS: usize = 6;
    /// Added to the square of a turn's length, in square cells squared: where cells say no turn at all, there is none.
    pub const NO_TURN: f32 = 1e-6;

    /// How much the four pixels around a place count, one axis at a time, `share` of the way from the second of them to the third.
    pub fn cubic(share: f64) -> [f64; 4] {
        const A: f64 = -0.75;
        let near = |t: f64| ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0;
        let far = |t: f64| ((A * t - 5.0 * A) * t + 8.0 * A) * t - 4.0 * A;
        [far(1.0 + share), near(share), near(1.0 - share), far(2.0 - share)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cubic_goes_through_pixels_and_keeps_slopes() {
        assert_eq!(Motion::cubic(0.0), [0.0, 1.0, 0.0, 0.0]);
        assert_eq!(Motion::cubic(0.5), [-0.09375, 0.59375, 0.59375, -0.09375]);
        for share in [0.1, 0.25, 0.7] {
            assert!((Motion::cubic(share).iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
    }

    /// What the formula's account says of edges.
    #[test]
    fn edges_stay_steep() {
        let edge = |at: f64| (0..16).map(|x| (f64::from(x) + 0.5 - at).clamp(0.0, 1.0)).collect::<Vec<_>>();
        let energy = |row: &[f64]| row.windows(2).map(|pair| (pair[1] - pair[0]).powi(2)).sum::<f64>();
        let steps = || (0..32).map(|step| (f64::from(step) + 0.5) / 32.0);
        let mut left = [0.0; 3];
        for (at, by) in steps().flat_map(|at| steps().map(move |by| (at, by))) {
            let row = edge(7.0 + at);
            let moved = |shares: [f64; 4]| {
                let between = |around: &[f64]| around.iter().zip(shares).map(|(x, share)| x * share).sum();
                row.windows(4).map(between).collect::<Vec<f64>>()
            };
            left[0] += energy(&row);
            left[1] += energy(&moved(Motion::cubic(by)));
            left[2] += energy(&moved([0.0, 1.0 - by, by, 0.0]));
        }
        assert!((left[1] / left[0] - 0.92).abs() < 0.01, "{}", left[1] / left[0]);
        assert!((left[2] / left[0] - 0.75).abs() < 0.01, "{}", left[2] / left[0]);
    }
}
