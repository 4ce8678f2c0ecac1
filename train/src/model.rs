//! A whole model at work in training: transformer, autoencoder, and how their pictures are put together.

use anyhow::Result;
use nextclip_core::checkpoint::{TransformerConfig, VaeConfig};
use nextclip_core::{Geometry, Motion};
use tch::{Device, Kind, Tensor};

use crate::compositing::{Compositor, Moved, compositing_specs};
use crate::costs::cost_volumes;
use crate::motion::motion_specs;
use crate::params::{Params, Spec};
use crate::rigid::as_told;
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
            specs.extend(motion_specs(&self.config, &self.geometry, motion));
            specs.extend(compositing_specs(motion, self.geometry.clip));
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
    /// What of the last picture was moved into them, where the model does that.
    pub(crate) moved: Option<Moved>,
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

    /// The pictures of an estimate after those `seen`, (n, F, 3, H, W).
    pub fn pictures(&self, estimate: &Estimate, seen: &Tensor) -> Pictures {
        self.composed(self.decoded(estimate), estimate, seen)
    }

    /// The pictures of an estimate by the decoder alone, (n, N, 3, H, W).
    pub fn decoded(&self, estimate: &Estimate) -> Tensor {
        self.vae.decode(&estimate.x1.flatten(0, 1)).unflatten(0, &estimate.x1.size()[..2])
    }

    /// The pictures of an estimate of which the decoder's are known.
    pub fn composed(&self, decoded: Tensor, estimate: &Estimate, seen: &Tensor) -> Pictures {
        let motion = estimate.motion.as_ref().map(|motion| motion.select(1, motion.size()[1] - 1));
        let (shown, moved) = self.compositor.shown(&decoded, seen, motion.as_ref());
        Pictures { decoded, shown, moved }
    }

    /// An estimate whose pictures do not teach what belongs together nor, where that is `known`, where things go: a thing that
    /// bends, or stays behind, is nearer to what came, on average, than a whole one that goes astray.
    pub fn as_told(&self, estimate: &Estimate, known: bool) -> Estimate {
        let (x1, clip) = (estimate.x1.shallow_clone(), estimate.x1.size()[1]);
        let motion = estimate.motion.as_ref().map(|motion| match self.compositor.motion() {
            Some(sizes) if sizes.whole => as_told(&sizes, motion, clip, known),
            _ => motion.shallow_clone(),
        });
        Estimate { x1, motion }
    }

    /// What is remembered of successive pictures (F, 3, H, W), a history of one.
    pub fn see(&self, frames: &Tensor) -> Past {
        let costs = self.compositor.motion().map(|motion| {
            cost_volumes(&motion, frames, self.transformer.pixels_per_cell() as usize).unsqueeze(0)
        });
        Past { latents: self.vae.encode(frames).unsqueeze(0), costs }
    }

    /// The history that follows `past`, of one, whose pictures are `seen`, where the model believes its own prediction
    /// of one step from `noise`, and its pictures. With motion they are seen as a camera's would be; without, its latents
    /// are remembered, and the last real picture stays the last.
    pub fn continued(&self, past: &Past, seen: &Tensor, noise: &Tensor) -> (Past, Tensor) {
        let estimate = self.estimate(past, noise, 0.0);
        if estimate.motion.is_none() {
            let latents = Tensor::cat(&[&past.latents, &estimate.x1], 1);
            return (Past { latents, costs: None }, seen.shallow_clone());
        }
        let shown = self.pictures(&estimate, seen).shown;
        let (clip, last) = (shown.size()[1], seen.narrow(1, seen.size()[1] - 1, 1));
        let next = self.see(&Tensor::cat(&[&last, &shown], 1).squeeze_dim(0)).narrow(1, clip);
        (past.followed_by(&next), Tensor::cat(&[seen, &shown], 1))
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
