//! The two graphs of the VAE: frames to latents, latents to frames.

use nextclip_core::compositing::{CHANGE_LEVELS, CHANGE_RADIUS, CHANGE_SOFTNESS};
use nextclip_core::manifest::{CacheShape, Dtype, TensorSpec};
use nextclip_core::{Geometry, Motion};
use nextclip_predictor::{DECODE, ENCODE, GraphSpecs};

use super::motion::{MotionLayers, Shown, cost_volume};
use super::vae::{Attention, Level, MidBlock, Resnet, Vae};
use crate::onnx::{Graph, GraphBuilder, GroupNorm, Precision, Value};

/// Epsilon of every group norm of the VAE.
const EPSILON: f32 = 1e-6;

/// What pictures are at the border of a VAE graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pixels {
    /// RGB samples 0 to 255 as cameras give them, (..., H, W, 3): what a bundle has.
    U8,
    /// -1 to 1, (..., 3, H, W): what reference tensors are given in. For comparison only.
    F32,
}

/// Frames (B, H, W, 3) -> latents (B, c, h, w): the posterior's mean times the scaling factor. With `motion` also
/// frames before them -> cost volumes (B, costs, h, w).
pub fn encode(
    vae: &Vae,
    motion: Option<&Motion>,
    geometry: &Geometry,
    cache: &CacheShape,
    pixels: Pixels,
    precision: &Precision,
) -> Graph {
    let mut g = GraphBuilder::new(ENCODE, precision);
    let mut specs = GraphSpecs::encode(geometry, cache, motion.copied());
    specs.inputs.iter_mut().for_each(|spec| adapt(spec, pixels));
    let frames = g.input(&specs.inputs[0]);
    let pictures = from_pixels(&mut g, &frames, pixels);
    let x = g.in_float(&pictures);
    let moments = encoder(&mut g, vae, &x); // (B, 2 c, h, w)
    let mean = g.slice(&moments, 1, 0..vae.latent_channels);
    let factor = g.scalar(vae.scaling_factor);
    let latents = g.mul(&mean, &factor);
    g.output(&specs.outputs[0], &latents);
    if let Some(sizes) = motion {
        let before = g.input(&specs.inputs[1]);
        let before = from_pixels(&mut g, &before, pixels);
        let costs = cost_volume(&mut g, sizes, [&pictures, &before], geometry);
        g.output(&specs.outputs[1], &costs);
    }
    g.finish()
}

/// Latents (B, N, c, h, w) -> frames (B, N, H, W, 3). Those of a bundle are made with the newest real frame: moved by
/// `motion`, or without it kept where nothing is predicted to change.
pub fn decode(
    vae: &Vae,
    motion: Option<&MotionLayers>,
    geometry: &Geometry,
    cache: &CacheShape,
    pixels: Pixels,
    precision: &Precision,
) -> Graph {
    let mut g = GraphBuilder::new(DECODE, precision);
    let mut specs = GraphSpecs::decode(geometry, cache, motion.map(|motion| motion.sizes));
    adapt(&mut specs.outputs[0], pixels);
    let latents = g.input(&specs.inputs[0]);
    let pictures = cache.batch * geometry.clip;
    let x = g.in_float(&latents);
    let x = g.reshape(&x, &[&[pictures], &latents.shape()[2..]].concat());
    let factor = g.scalar(vae.scaling_factor);
    let x = g.div(&x, &factor);
    let x = decoder(&mut g, vae, &x); // (B * N, 3, H, W)
    // Samples of pictures need more than the 8 bits of brain float.
    let x = g.as_type(&x, Dtype::F32);
    let frames = match pixels {
        Pixels::F32 => x,
        Pixels::U8 => {
            let [last_frames, gate] = [1, 2].map(|index| g.input(&specs.inputs[index]));
            let samples = match motion {
                Some(layers) => {
                    let motion = g.input(&specs.inputs[3]);
                    let earlier =
                        (layers.sizes.earlier > 0).then(|| [4, 5].map(|index| g.input(&specs.inputs[index])));
                    let shown = Shown { last_frames, gate, motion, earlier };
                    let x = layers.composite(&mut g, &x, &shown, geometry);
                    to_samples(&mut g, &x)
                }
                None => {
                    let samples = to_samples(&mut g, &x);
                    keep_unchanged(&mut g, &samples, &last_frames, &gate, geometry.clip)
                }
            };
            let samples = g.map("Round", &samples);
            g.transpose(&samples, &[0, 2, 3, 1])
        }
    };
    let frames = g.reshape(&frames, &specs.outputs[0].shape);
    g.output(&specs.outputs[0], &frames);
    g.finish()
}

/// Change-gated compositing where `gate` is 1; where it is 0 everything is predicted. samples (B * N, 3, H, W), 0 to
/// 255; last_frames (B, H, W, 3). The formula: [`nextclip_core::compositing`].
fn keep_unchanged(
    g: &mut GraphBuilder,
    samples: &Value,
    last_frames: &Value,
    gate: &Value,
    clip: usize,
) -> Value {
    let last = g.cast(last_frames, Dtype::F32);
    let last = g.transpose(&last, &[0, 3, 1, 2]);
    let [batch, rows, columns] = [last.size(0), last.size(2), last.size(3)];
    let last = g.reshape(&last, &[batch, 1, 3, rows, columns]);
    let predicted = g.reshape(samples, &[batch, clip, 3, rows, columns]);
    let change = g.sub(&predicted, &last); // (B, N, 3, H, W)

    let size = g.map("Abs", &change);
    let size = g.largest(&size, 2);
    let size = g.reshape(&size, &[batch * clip, 1, rows, columns]);
    let size = g.box_mean(&size, CHANGE_RADIUS);
    let [half, softness, one] = [CHANGE_LEVELS, CHANGE_SOFTNESS, 1.0].map(|value| g.scalar(value));
    let over = g.sub(&size, &half);
    let over = g.div(&over, &softness);
    let share = g.map("Sigmoid", &over);
    let kept = g.sub(&one, &share);
    let kept = g.mul(&kept, gate);
    let kept = g.reshape(&kept, &[batch, clip, 1, rows, columns]);

    let back = g.mul(&change, &kept);
    let mixed = g.sub(&predicted, &back);
    g.reshape(&mixed, &[batch * clip, 3, rows, columns])
}

/// The border of a graph that compares with reference tensors.
fn adapt(spec: &mut TensorSpec, pixels: Pixels) {
    if pixels == Pixels::F32 {
        spec.dtype = Dtype::F32;
        let axes = spec.shape.len();
        spec.shape[axes - 3..].rotate_right(1); // (H, W, 3) -> (3, H, W)
    }
}

/// Pictures at the border -> (B, 3, H, W) from -1 to 1.
fn from_pixels(g: &mut GraphBuilder, frames: &Value, pixels: Pixels) -> Value {
    match pixels {
        Pixels::F32 => frames.clone(),
        Pixels::U8 => from_bytes(g, frames),
    }
}

/// Frames u8 (.., H, W, 3) -> (.., 3, H, W) from -1 to 1.
pub(super) fn from_bytes(g: &mut GraphBuilder, frames: &Value) -> Value {
    // Cast first: TensorRT has bytes at the border of a graph only.
    let samples = g.cast(frames, Dtype::F32);
    let first = frames.rank() - 3;
    let order: Vec<usize> = (0..first).chain([first + 2, first, first + 1]).collect();
    let samples = g.transpose(&samples, &order);
    let (half, one) = (g.scalar(127.5), g.scalar(1.0));
    let scaled = g.div(&samples, &half);
    g.sub(&scaled, &one)
}

/// (B, 3, H, W) from -1 to 1 -> 0 to 255, not rounded yet.
fn to_samples(g: &mut GraphBuilder, x: &Value) -> Value {
    let (half, one) = (g.scalar(127.5), g.scalar(1.0));
    let raised = g.add(x, &one);
    let samples = g.mul(&raised, &half);
    g.clip(&samples, 0.0, 255.0)
}

/// (B, 3, H, W) -> mean and log variance (B, 2 c, h, w).
fn encoder(g: &mut GraphBuilder, vae: &Vae, x: &Value) -> Value {
    let encoder = &vae.encoder;
    let mut x = g.conv(x, &encoder.conv_in);
    for Level { resnets, resample } in &encoder.down_blocks {
        x = resnets.iter().fold(x, |x, block| resnet(g, block, &x));
        if let Some(conv) = resample {
            // Zeros below and to the right only, as diffusers pads before a convolution of stride 2.
            x = g.conv_strided(&x, conv, 2, [0, 0, 1, 1]);
        }
    }
    x = mid_block(g, &encoder.mid_block, &x);
    x = norm_silu(g, &x, &encoder.conv_norm_out);
    x = g.conv(&x, &encoder.conv_out);
    match &vae.quant_conv {
        Some(conv) => g.conv(&x, conv),
        None => x,
    }
}

/// Unscaled latents (B, c, h, w) -> (B, 3, H, W).
fn decoder(g: &mut GraphBuilder, vae: &Vae, x: &Value) -> Value {
    let decoder = &vae.decoder;
    let x = match &vae.post_quant_conv {
        Some(conv) => g.conv(x, conv),
        None => x.clone(),
    };
    let x = g.conv(&x, &decoder.conv_in);
    let mut x = mid_block(g, &decoder.mid_block, &x);
    for Level { resnets, resample } in &decoder.up_blocks {
        x = resnets.iter().fold(x, |x, block| resnet(g, block, &x));
        if let Some(conv) = resample {
            x = g.upsample_nearest_2x(&x);
            x = g.conv(&x, conv);
        }
    }
    x = norm_silu(g, &x, &decoder.conv_norm_out);
    g.conv(&x, &decoder.conv_out)
}

fn mid_block(g: &mut GraphBuilder, block: &MidBlock, x: &Value) -> Value {
    let mut x = resnet(g, &block.resnets[0], x);
    if let Some(layer) = &block.attention {
        x = attention(g, layer, &x);
    }
    resnet(g, &block.resnets[1], &x)
}

fn resnet(g: &mut GraphBuilder, block: &Resnet, x: &Value) -> Value {
    let h = norm_silu(g, x, &block.norm1);
    let h = g.conv(&h, &block.conv1);
    let h = norm_silu(g, &h, &block.norm2);
    let h = g.conv(&h, &block.conv2);
    let shortcut = match &block.conv_shortcut {
        Some(conv) => g.conv(x, conv),
        None => x.clone(),
    };
    g.add(&shortcut, &h)
}

fn norm_silu(g: &mut GraphBuilder, x: &Value, norm: &GroupNorm) -> Value {
    let normal = g.group_norm(x, norm, EPSILON);
    g.silu(&normal)
}

/// Every cell of (B, c, h, w) sees every other.
fn attention(g: &mut GraphBuilder, layer: &Attention, x: &Value) -> Value {
    let [batch, channels, rows, columns] = [0, 1, 2, 3].map(|axis| x.size(axis));
    let cells = rows * columns;
    let h = g.group_norm(x, &layer.group_norm, EPSILON);
    let h = g.reshape(&h, &[batch, channels, cells]);
    let h = g.transpose(&h, &[0, 2, 1]); // (B, cells, c)
    let [q, k, v] = [&layer.to_q, &layer.to_k, &layer.to_v].map(|projection| {
        let projected = g.linear(&h, projection);
        g.reshape(&projected, &[batch, 1, cells, channels])
    });
    let mixed = g.attention(&q, &k, &v, None); // (B, cells, c)
    let mixed = g.linear(&mixed, &layer.to_out);
    let mixed = g.transpose(&mixed, &[0, 2, 1]);
    let mixed = g.reshape(&mixed, &[batch, channels, rows, columns]);
    g.add(x, &mixed)
}
