//! A whole model at work in training: transformer, autoencoder, and how their pictures are put together.

use anyhow::Result;
use nextclip_core::checkpoint::{TransformerConfig, VaeConfig};
use nextclip_core::{Geometry, Motion};
use tch::{Device, Kind, Tensor};

use crate::compositing::{Compositor, blend_specs};
use crate::costs::cost_volumes;
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

    /// The transformer with its weights.
    pub fn transformer<'a>(&'a self, params: &'a Params) -> Result<Transformer<'a>> {
        Ok(Transformer::new(&self.config, &self.geometry, params, self.device)?.with_motion(self.motion))
    }

    /// The model with the weights of its two files, which may be one set.
    pub fn with<'a>(&'a self, transformer: &'a Params, vae: &'a Params) -> Result<AtWork<'a>> {
        Ok(AtWork {
            transformer: self.transformer(transformer)?,
            vae: Vae::new(&self.vae, vae),
            compositor: Compositor::new(self.motion, &self.geometry, transformer),
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
    compositor: Compositor<'a>,
}

/// Predicted pictures, (n, N, 3, H, W) in about [-1, 1].
#[derive(Debug)]
pub struct Pictures {
    /// By the decoder alone.
    pub decoded: Tensor,
    /// As the daemon shows them.
    pub shown: Tensor,
    /// Where the last picture's pixels in them come from, (n, N, K, 2, H, W), where the model moves them.
    pub sources: Option<Tensor>,
}

impl AtWork<'_> {
    /// The estimate of the clip `z` (n, N, c, h, w) at timestep `t` after `past`.
    pub fn estimate(&self, past: &Past, z: &Tensor, t: f32) -> Estimate {
        let (history, size) = (past.latents.size()[1], z.size());
        let t = Tensor::full([size[0], size[1]], f64::from(t), (Kind::Float, z.device()));
        self.transformer.forward(&Sequence {
            noisy: z,
            clean: &past.latents,
            costs: past.costs.as_ref(),
            t: &t,
            clip_sizes: &[history as usize, size[1] as usize],
        })
    }

    /// The pictures of an estimate after `last` (n, 1, 3, H, W).
    pub fn pictures(&self, estimate: &Estimate, last: &Tensor) -> Pictures {
        let size = last.size();
        let decoded = self.vae.decode(&estimate.x1.flatten(0, 1)).reshape([size[0], -1, 3, size[3], size[4]]);
        let motion = estimate.motion.as_ref().map(|motion| motion.select(1, motion.size()[1] - 1));
        let (shown, sources) = self.compositor.shown(&decoded, last, motion.as_ref());
        Pictures { decoded, shown, sources }
    }

    /// What is remembered of successive pictures (F, 3, H, W), a history of one.
    pub fn see(&self, frames: &Tensor) -> Past {
        let costs = self.compositor.motion().map(|motion| {
            cost_volumes(&motion, frames, self.transformer.pixels_per_cell() as usize).unsqueeze(0)
        });
        Past { latents: self.vae.encode(frames).unsqueeze(0), costs }
    }

    /// The history that follows `past`, of one, whose last picture is `last`, where the model believes its own prediction
    /// of one step from `noise`, and its last picture. With motion its pictures are seen as a camera's would be; without,
    /// its latents are remembered, and the last real picture stays the last.
    pub fn continued(&self, past: &Past, last: &Tensor, noise: &Tensor) -> (Past, Tensor) {
        let estimate = self.estimate(past, noise, 0.0);
        if estimate.motion.is_none() {
            let latents = Tensor::cat(&[&past.latents, &estimate.x1], 1);
            return (Past { latents, costs: None }, last.shallow_clone());
        }
        let shown = self.pictures(&estimate, last).shown;
        let clip = shown.size()[1];
        let seen = self.see(&Tensor::cat(&[last, &shown], 1).squeeze_dim(0)).narrow(1, clip);
        (past.followed_by(&seen), shown.narrow(1, clip - 1, 1))
    }
}

/// Remembered frames.
#[derive(Debug)]
pub struct Past {
    /// Clean latents, (n, H, c, h, w).
    pub latents: Tensor,
    /// Cost volumes, (n, H, costs, h, w), where the model reads them.
    pub costs: Option<Tensor>,
}

impl Past {
    /// `frames` frames from `first` on.
    pub fn narrow(&self, first: i64, frames: i64) -> Self {
        let part = |x: &Tensor| x.narrow(1, first, frames);
        Self { latents: part(&self.latents), costs: self.costs.as_ref().map(part) }
    }

    /// The same history `count` times.
    pub fn repeated(&self, count: i64) -> Self {
        let again = |x: &Tensor| x.repeat([count, 1, 1, 1, 1]);
        Self { latents: again(&self.latents), costs: self.costs.as_ref().map(again) }
    }

    fn followed_by(&self, next: &Self) -> Self {
        let both = |a: &Tensor, b: &Tensor| Tensor::cat(&[a, b], 1);
        Self {
            latents: both(&self.latents, &next.latents),
            costs: self.costs.as_ref().zip(next.costs.as_ref()).map(|(a, b)| both(a, b)),
        }
    }
}
