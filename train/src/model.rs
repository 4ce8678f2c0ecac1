//! A whole model at work in training: transformer, autoencoder, and how their pictures are put together.

use anyhow::Result;
use nextclip_core::checkpoint::{TransformerConfig, VaeConfig};
use nextclip_core::{Geometry, Motion};
use tch::{Device, Kind, Tensor};

use crate::compositing::{Compositor, blend_specs};
use crate::params::{Params, Spec};
use crate::transformer::{self, Estimate, Sequence, Transformer};
use crate::vae::Vae;

/// Sizes of a model, and where it lives.
#[derive(Clone, Debug)]
pub struct Model {
    /// Of the transformer.
    pub config: TransformerConfig,
    /// Of the autoencoder.
    pub vae: VaeConfig,
    /// Of frames, history and clip.
    pub geometry: Geometry,
    /// Of the motion that comes with a predicted frame, where the model has it.
    pub motion: Option<Motion>,
    /// Where tensors live.
    pub device: Device,
}

impl Model {
    /// Every tensor of `model.safetensors`.
    pub fn specs(&self) -> Vec<Spec> {
        let mut specs = transformer::specs(&self.config, &self.geometry);
        if let Some(motion) = &self.motion {
            specs.extend(transformer::motion_specs(&self.config, &self.geometry, motion));
            specs.extend(blend_specs(motion));
        }
        specs
    }

    /// The model with the weights of its two files, which may be one set.
    pub fn with<'a>(&'a self, transformer: &'a Params, vae: &'a Params) -> Result<AtWork<'a>> {
        let Self { config, geometry, motion, device, .. } = self;
        Ok(AtWork {
            transformer: Transformer::new(config, geometry, transformer, *device)?.with_motion(*motion),
            vae: Vae::new(&self.vae, vae),
            compositor: Compositor::new(*motion, geometry, transformer),
        })
    }
}

/// A model with weights.
#[derive(Debug)]
pub struct AtWork<'a> {
    /// Latents of the future.
    pub transformer: Transformer<'a>,
    /// Pictures to latents and back.
    pub vae: Vae<'a>,
    /// Latents, the last picture and motion to pictures.
    pub compositor: Compositor<'a>,
}

/// Predicted pictures, (n, N, 3, H, W) in about [-1, 1].
#[derive(Debug)]
pub struct Pictures {
    /// By the decoder alone.
    pub decoded: Tensor,
    /// As the daemon shows them.
    pub shown: Tensor,
}

impl AtWork<'_> {
    /// The estimate of the clip `z` (n, N, c, h, w) at timestep `t` after `past` (n, H, c, h, w).
    pub fn estimate(&self, past: &Tensor, z: &Tensor, t: f32) -> Estimate {
        let (history, size) = (past.size()[1], z.size());
        let t = Tensor::full([size[0], size[1]], f64::from(t), (Kind::Float, z.device()));
        self.transformer.forward(&Sequence {
            noisy: z,
            clean: past,
            t: &t,
            clip_sizes: &[history as usize, size[1] as usize],
        })
    }

    /// The pictures of an estimate after `last` (n, 1, 3, H, W).
    pub fn pictures(&self, estimate: &Estimate, last: &Tensor) -> Pictures {
        let size = last.size();
        let decoded = self.vae.decode(&estimate.x1.flatten(0, 1)).reshape([size[0], -1, 3, size[3], size[4]]);
        let shown = self.compositor.shown(&decoded, last, estimate.motion.as_ref());
        Pictures { decoded, shown }
    }

    /// The history that follows `past` (n, H, c, h, w), whose last picture is `last`, where the model believes its own
    /// prediction of one step from `noise`, and its last picture. With motion its pictures are seen as a camera's would
    /// be; without, its latents are remembered, and the last real picture stays the last.
    pub fn continued(&self, past: &Tensor, last: &Tensor, noise: &Tensor) -> (Tensor, Tensor) {
        let estimate = self.estimate(past, noise, 0.0);
        if estimate.motion.is_none() {
            return (Tensor::cat(&[past, &estimate.x1], 1), last.shallow_clone());
        }
        let shown = self.pictures(&estimate, last).shown;
        let seen = self.vae.encode(&shown.flatten(0, 1)).reshape(estimate.x1.size());
        let frames = shown.size()[1];
        (Tensor::cat(&[past, &seen], 1), shown.narrow(1, frames - 1, 1))
    }
}
