//! Motion: its layers, and the pictures that are made with it. The formula: [`nextclip_core::Motion`].

use nextclip_core::manifest::Dtype;
use nextclip_core::{Geometry, Motion};

use super::vae_graphs::from_bytes;
use crate::checkpoint::Scope;
use crate::onnx::{Conv, GraphBuilder, Linear, Value};

/// Channels of the blend between its convolutions where its tensors do not say.
const HIDDEN: usize = 16;

/// What `model.safetensors` holds of motion.
#[derive(Clone, Debug)]
pub struct MotionLayers {
    /// K and the number of features.
    pub sizes: Motion,
    /// (p * p * m, d), on what the final layer's linear reads.
    pub linear: Linear,
    /// 3 x 3 each: from pictures and features to a logit for each picture.
    pub blend: [Conv; Motion::BLEND_LAYERS],
}

impl MotionLayers {
    /// Takes every tensor below `motion`. `d` is the width of hidden states, `cells` p * p.
    pub(super) fn load(motion: &Scope<'_>, sizes: Motion, d: usize, cells: usize) -> Self {
        let values = cells * sizes.channels();
        let (linear, blend) = (motion.at("linear"), motion.at("blend"));
        let stored = blend.at(0).shape("weight");
        let hidden = stored.and_then(|shape| shape.first()).copied().unwrap_or(HIDDEN);
        let conv = |layer: usize, inputs: usize, outputs: usize| Conv {
            weight: blend.at(layer).tensor("weight", &[outputs, inputs, 3, 3]),
            bias: blend.at(layer).tensor("bias", &[outputs]),
        };
        Self {
            sizes,
            linear: Linear {
                weight: linear.tensor("weight", &[values, d]),
                bias: Some(linear.tensor("bias", &[values])),
            },
            blend: [
                conv(0, sizes.blend_inputs(), hidden),
                conv(1, hidden, hidden),
                conv(2, hidden, sizes.sources()),
            ],
        }
    }

    /// Pictures made of `decoded` (B * N, 3, H, W), in single precision, and of the last frames u8 (B, H, W, 3), moved
    /// by `motion` (B, N, m, h, w): (B * N, 3, H, W) from -1 to 1. Where `gate` is 0, they are the decoded ones.
    pub(super) fn composite(
        &self,
        g: &mut GraphBuilder,
        decoded: &Value,
        [last_frames, gate, motion]: [&Value; 3],
        geometry: &Geometry,
    ) -> Value {
        let [pictures, _, rows, columns] = [0, 1, 2, 3].map(|axis| decoded.size(axis));
        let batch = last_frames.size(0);
        let decoded = g.clip(decoded, -1.0, 1.0);
        let last = from_bytes(g, last_frames); // (B, 3, H, W)
        let motion = g.reshape(motion, &[&[pictures], &motion.shape()[2..]].concat()); // (B * N, m, h, w)
        let moved = self.moved(g, &last, &motion, geometry); // (B * N, 3 * K, H, W)

        let last = g.reshape(&last, &[batch, 1, 3, rows, columns]);
        let last = g.expand(&last, &[batch, geometry.clip, 3, rows, columns]);
        let last = g.reshape(&last, decoded.shape());
        let sources = g.concat(&[&decoded, &last, &moved], 1);
        let mut seen = sources.clone();
        if self.sizes.features > 0 {
            let features = g.slice(&motion, 1, 2 * self.sizes.candidates..motion.size(1));
            let features = g.enlarge_linear(&features, geometry.vae_scale);
            seen = g.concat(&[&sources, &features], 1);
        }
        let weights = self.weights(g, &seen); // (B * N, sources, H, W)

        let count = self.sizes.sources();
        let sources = g.reshape(&sources, &[pictures, count, 3, rows, columns]);
        let weights = g.reshape(&weights, &[pictures, count, 1, rows, columns]);
        let parts = g.mul(&sources, &weights);
        let blended = g.sum(&parts, 1);
        let blended = g.reshape(&blended, decoded.shape());
        let change = g.sub(&blended, &decoded);
        let change = g.mul(&change, gate);
        g.add(&decoded, &change)
    }

    /// The last frames (B, 3, H, W) moved by each candidate of each picture: (B * N, 3 * K, H, W). A camera's places of
    /// all its pictures lie under one another, so that its frame is read where it is, not copied for each of them.
    fn moved(&self, g: &mut GraphBuilder, last: &Value, motion: &Value, geometry: &Geometry) -> Value {
        let [batch, rows, columns] = [0, 2, 3].map(|axis| last.size(axis));
        let (pictures, candidates) = (motion.size(0), self.sizes.candidates);
        let shifts = g.slice(motion, 1, 0..2 * candidates);
        let shifts = g.reshape(&shifts, &[&[pictures * candidates, 2], &motion.shape()[2..]].concat());
        // A frame is 2 wide and 2 high in the sampler's unit.
        let cell = [columns, rows].map(|size| (2.0 * geometry.vae_scale as f64 / size as f64) as f32);
        let cell = g.table("size of a cell", &[2, 1, 1], cell.into());
        let shifts = g.mul(&shifts, &cell);
        let shifts = g.enlarge_linear(&shifts, geometry.vae_scale);
        let places = g.table("places of pixels", &[2, rows, columns], places(rows, columns));
        let places = g.add(&shifts, &places);
        let places = g.transpose(&places, &[0, 2, 3, 1]);
        let each = pictures / batch * candidates;
        let places = g.reshape(&places, &[batch, each * rows, columns, 2]);
        let moved = g.sample(last, &places); // (B, 3, N * K * H, W)
        let moved = g.reshape(&moved, &[batch, 3, each, rows, columns]);
        let moved = g.transpose(&moved, &[0, 2, 1, 3, 4]);
        g.reshape(&moved, &[pictures, 3 * candidates, rows, columns])
    }

    /// How much of each source a pixel takes, together 1: from (B * N, 3 * sources + features, H, W).
    fn weights(&self, g: &mut GraphBuilder, seen: &Value) -> Value {
        let [first, second, last] = &self.blend;
        let x = g.in_float(seen);
        let x = g.conv(&x, first);
        let x = g.silu(&x);
        let x = g.conv(&x, second);
        let x = g.silu(&x);
        let logits = g.conv(&x, last);
        let logits = g.as_type(&logits, Dtype::F32);
        g.softmax_over(&logits, 1)
    }
}

/// Where the pixels of a picture are for the sampler, x and then y: (2, rows, columns). Their centres, from -1 at a
/// picture's left and upper edge to 1 at the others.
fn places(rows: usize, columns: usize) -> Vec<f32> {
    let centre = |index: usize, size: usize| ((2 * index + 1) as f64 / size as f64 - 1.0) as f32;
    let x = (0..rows * columns).map(|pixel| centre(pixel % columns, columns));
    let y = (0..rows * columns).map(|pixel| centre(pixel / columns, rows));
    x.chain(y).collect()
}
