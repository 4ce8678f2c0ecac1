//! What a transformer with motion has besides: how it reads cost volumes, and how what it says of motion is refined. The
//! formulas are [`Motion`]'s.

use nextclip_core::checkpoint::TransformerConfig;
use nextclip_core::{Geometry, Motion};
use tch::{Kind, Tensor};

use crate::params::{Init, Params, Scope, Spec};

/// Hidden channels of the stem.
const STEM_WIDTH: usize = 96;
/// Hidden channels of what refines motion.
const REFINE_WIDTH: usize = 64;
/// What places past are trusted by at first, before the sigmoid.
const TRUST: f32 = 2.0;
/// What cells' rigidity is at first, before the sigmoid: they go their own ways until they know what they belong to.
const RIGIDITY: f32 = -3.0;

/// Whether a tensor belongs to the motion that a model may have besides.
pub fn is_motions(name: &str) -> bool {
    name.starts_with("motion.")
}

/// What a model with motion has besides: a stem that reads cost volumes, the layer that says where cells go, and what refines
/// that. The first two start small, since what moves, moves little at first; the last by changing nothing.
pub fn motion_specs(config: &TransformerConfig, geometry: &Geometry, motion: &Motion) -> Vec<Spec> {
    let (d, p) = (config.hidden_size, geometry.patch);
    let mut specs = Vec::new();
    let mut add = |name: &str, shape: &[usize], std: f64, bias: Init| {
        let shape: Vec<i64> = shape.iter().map(|&side| side as i64).collect();
        let bias = Spec { name: format!("motion.{name}.bias"), shape: vec![shape[0]], init: bias };
        specs.push(Spec { name: format!("motion.{name}.weight"), shape, init: Init::Normal(std) });
        specs.push(bias);
    };
    let he = |inputs: usize| (2.0 / inputs as f64).sqrt();
    let mut conv = |name: &str, [outputs, inputs, kernel]: [usize; 3], start: f64| {
        let std = start * he(kernel * kernel * inputs);
        add(name, &[outputs, inputs, kernel, kernel], std, Init::Zeros);
    };
    conv("stem.0", [STEM_WIDTH, motion.costs(), 3], 1.0);
    conv("stem.1", [STEM_WIDTH, STEM_WIDTH, 3], 1.0);
    conv("stem.2", [d, STEM_WIDTH, p], 0.3);
    // (moment, candidate, channel)
    let of_moment = |moment: isize| {
        let mut channels = vec![0.0; motion.candidate_channels()];
        channels[2] = if moment < 0 { TRUST } else { 0.0 };
        channels.repeat(motion.candidates)
    };
    let trust = motion.moments(geometry.clip).into_iter().flat_map(of_moment);
    let bias: Vec<f32> =
        trust.zip(seldom_rigid(motion, geometry.clip)).map(|(trust, rigidity)| trust + rigidity).collect();
    if motion.refined {
        conv("refine.0", [REFINE_WIDTH, bias.len() + STEM_WIDTH, 3], 1.0);
        conv("refine.1", [REFINE_WIDTH, REFINE_WIDTH, 3], 1.0);
        conv("refine.2", [bias.len(), REFINE_WIDTH, 3], 0.0);
    }
    // One after the other for the p x p cells of a token.
    let bias = bias.repeat(p * p);
    add("linear", &[bias.len(), d], 0.02, Init::Values(bias));
    specs
}

/// Of all values of a cell those that say how rigid it is at first, where the model says that at all, (moment, candidate,
/// channel).
pub(crate) fn seldom_rigid(motion: &Motion, clip: usize) -> Vec<f32> {
    let of_moment = |moment: isize| {
        let mut channels = vec![0.0; motion.candidate_channels()];
        if motion.rigid && moment == -(Motion::EARLIER[0] as isize) {
            channels[3] = RIGIDITY;
        }
        channels.repeat(motion.candidates)
    };
    motion.moments(clip).into_iter().flat_map(of_moment).collect()
}

/// What a model makes of cost volumes (B, H, costs, h, w) at every cell, (B H, channels, h, w).
pub(crate) fn seen(params: &Params, costs: &Tensor) -> Tensor {
    let stem = params.root().pp("motion.stem");
    let x = costs.flatten(0, 1).to_kind(params.compute());
    let x = stem.pp(0).conv(&x, 1, 1).silu();
    stem.pp(1).conv(&x, 1, 1).silu()
}

/// What that adds to the patches of p x p cells of the clean frames of `batch` sequences, (B, H, S, d).
pub(crate) fn stem(params: &Params, seen: &Tensor, p: usize, batch: i64) -> Tensor {
    let x = params.root().pp("motion.stem.2").conv(seen, p as i64, 0).to_kind(Kind::Float); // (B H, d, rows, columns)
    x.flatten(2, 3).transpose(1, 2).unflatten(0, [batch, -1].as_slice())
}

/// What tokens have `said` of their cells (B, H, M m, h, w), refined by what all cells have `seen`.
pub(crate) fn refined(params: &Params, said: &Tensor, seen: &Tensor) -> Tensor {
    let x = Tensor::cat(&[&said.flatten(0, 1).to_kind(params.compute()), seen], 1);
    let change = convolved(&params.root().pp("motion.refine"), x).to_kind(Kind::Float);
    said + change.reshape(said.size())
}

/// Convolutions of 3 x 3 with a SiLU after each but the last.
pub(crate) fn convolved(layers: &Scope<'_>, x: Tensor) -> Tensor {
    (0..Motion::LAYERS).fold(x, |x, layer| {
        let read = if layer > 0 { x.silu() } else { x };
        layers.pp(layer).conv(&read, 1, 1)
    })
}
