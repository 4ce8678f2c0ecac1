//! Motion: its layers, and what they make in the graphs. The formulas: [`nextclip_core::Motion`].

mod compositing;
mod costs;
mod following;
mod landing;
mod layers;
mod rigid;

use nextclip_core::manifest::Dtype;
use nextclip_core::{Geometry, Motion};

use super::embed::latents_of_patches;
use crate::checkpoint::{Scope, Weight};
use crate::onnx::{Conv, GraphBuilder, Linear, Value};

pub(super) use compositing::Shown;
pub(super) use costs::cost_volume;

/// What numbers of channels should be multiples of.
const CHANNELS_AT_ONCE: usize = 8;

/// Where products are noted that have no weights: of cost volumes, and of what lands where.
pub(crate) const COSTS: &str = "motion.costs";
pub(crate) const LANDING: &str = "motion.landing";

/// Channels between convolutions where the tensors do not say.
const HIDDEN: usize = 16;

/// What `model.safetensors` holds of motion.
#[derive(Clone, Debug)]
pub struct MotionLayers {
    /// Numbers of candidates and features, and the reach of costs.
    pub sizes: Motion,
    /// From a cost volume to what is added to a clean frame's patches: 3 x 3, 3 x 3, then p x p of stride p.
    pub stem: [Conv; Motion::LAYERS],
    /// (p * p * M * m, d), on hidden states behind the decoder's norm.
    pub linear: Linear,
    /// 3 x 3 each: from what a cell's token says of it and what the stem sees there to a change of the former.
    pub refine: Option<[Conv; Motion::LAYERS]>,
    /// (M, F): how corrections of where things were move where they are, where they are followed in earlier pictures.
    pub response: Option<Weight>,
    /// 3 x 3 each: from pictures, densities and features to a logit for each picture.
    pub blend: [Conv; Motion::LAYERS],
}

impl MotionLayers {
    /// Takes every tensor below `motion`. `d` is the width of hidden states, `clip` the number of predicted frames.
    pub(super) fn load(motion: &Scope<'_>, sizes: Motion, [d, patch, clip]: [usize; 3]) -> Self {
        let moments = sizes.moments(clip).len();
        let response =
            (sizes.earlier > 0).then(|| motion.tensor("response", &[moments, sizes.followed_frames().len()]));
        let linear = motion.at("linear");
        let stem = convolutions(&motion.at("stem"), [sizes.costs(), d], [3, 3, patch]);
        let said = moments * sizes.channels();
        let seen = stem[1].weight.shape()[0];
        let refine = sizes
            .refined
            .then(|| convolutions(&motion.at("refine"), [said + seen, said], [3; Motion::LAYERS]));
        let blend = convolutions(&motion.at("blend"), [sizes.blend_inputs(), sizes.sources()], [3, 3, 3]);
        Self {
            sizes,
            stem,
            linear: Linear {
                weight: linear.tensor("weight", &[patch * patch * said, d]),
                bias: Some(linear.tensor("bias", &[patch * patch * said])),
            },
            refine,
            response,
            blend,
        }
    }

    /// What the model makes of cost volumes f32 (B, costs, h, w) at every cell, (B, channels, h, w).
    pub(super) fn seen(&self, g: &mut GraphBuilder, costs: &Value) -> Value {
        let [first, second, _] = &self.stem;
        let x = first_conv(g, &[costs], first);
        let x = g.silu(&x);
        let x = g.conv(&x, second);
        g.silu(&x)
    }

    /// What that adds to the patches of the frames, (B, S, d).
    pub(super) fn stem(&self, g: &mut GraphBuilder, seen: &Value, geometry: &Geometry) -> Value {
        let x = g.conv_strided(seen, &self.stem[2], geometry.patch, [0; 4]); // (B, d, rows, columns)
        let x = g.reshape(&x, &[x.size(0), x.size(1), geometry.frame_tokens()]);
        g.transpose(&x, &[0, 2, 1])
    }

    /// Where the cells of frames are at each moment, of the hidden states of their patches (B, S, d) behind the norm and of what
    /// is `seen` there: f32 (B, M, m, h, w).
    pub(super) fn of_hidden(
        &self,
        g: &mut GraphBuilder,
        hidden: &Value,
        seen: &Value,
        geometry: &Geometry,
    ) -> Value {
        let patches = g.linear(hidden, &self.linear); // (B, S, p * p * M * m)
        // Displacements are places: half precision would be too coarse for those of large frames.
        let patches = g.as_type(&patches, Dtype::F32);
        let said = latents_of_patches(g, &patches, geometry); // (B, M * m, h, w)
        let cells = match &self.refine {
            Some(refine) => refined(g, &said, seen, refine),
            None => said,
        };
        let [batch, rows, columns] = [0, 2, 3].map(|axis| cells.size(axis));
        let moments = self.sizes.moments(geometry.clip).len();
        g.reshape(&cells, &[batch, moments, self.sizes.channels(), rows, columns])
    }
}

/// What tokens have `said` of cells, f32 (B, M * m, h, w), refined by what is `seen` there, (B, channels, h, w).
fn refined(g: &mut GraphBuilder, said: &Value, seen: &Value, refine: &[Conv; Motion::LAYERS]) -> Value {
    let seen = g.as_type(seen, Dtype::F32);
    let change = convolved(g, &[said, &seen], refine);
    g.add(said, &change)
}

/// Convolutions with a SiLU after each but the last, of channels in parts, f32 (B, .., H, W), to f32.
fn convolved(g: &mut GraphBuilder, parts: &[&Value], layers: &[Conv; Motion::LAYERS]) -> Value {
    let [first, second, last] = layers;
    let x = first_conv(g, parts, first);
    let x = g.silu(&x);
    let x = g.conv(&x, second);
    let x = g.silu(&x);
    let x = g.conv(&x, last);
    g.as_type(&x, Dtype::F32)
}

/// The first of some convolutions, of channels in parts, f32 (B, .., H, W), followed by as many zeros as make the runtime's
/// kernels fast: with 22 channels they took twice the time that they take with 24.
fn first_conv(g: &mut GraphBuilder, parts: &[&Value], conv: &Conv) -> Value {
    let inputs = conv.weight.shape()[1];
    let padded = inputs.next_multiple_of(CHANNELS_AT_ONCE);
    let mut parts: Vec<Value> = parts.iter().map(|part| (*part).clone()).collect();
    if padded > inputs {
        let zero = g.scalar(0.0);
        let [batch, rows, columns] = [0, 2, 3].map(|axis| parts[0].size(axis));
        parts.push(g.expand(&zero, &[batch, padded - inputs, rows, columns]));
    }
    let x = g.concat(&parts.iter().collect::<Vec<_>>(), 1);
    let x = g.in_float(&x);
    g.conv(&x, &Conv { weight: conv.weight.for_inputs(padded), bias: conv.bias.clone() })
}

/// Convolutions one after the other from and to so many channels, of these kernels. Those between are as many as the first
/// weight says.
fn convolutions<const N: usize>(
    at: &Scope<'_>,
    [inputs, outputs]: [usize; 2],
    kernels: [usize; N],
) -> [Conv; N] {
    let stored = at.at(0).shape("weight");
    let hidden = stored.and_then(|shape| shape.first()).copied().unwrap_or(HIDDEN);
    std::array::from_fn(|layer| {
        let inputs = if layer == 0 { inputs } else { hidden };
        let outputs = if layer + 1 == N { outputs } else { hidden };
        let (at, kernel) = (at.at(layer), kernels[layer]);
        Conv {
            weight: at.tensor("weight", &[outputs, inputs, kernel, kernel]),
            bias: at.tensor("bias", &[outputs]),
        }
    })
}
