//! A whole model at work in training: transformer, autoencoder, and how their pictures are put together.

use std::collections::BTreeMap;

use anyhow::Result;
use nextclip_core::checkpoint::{TransformerConfig, VaeConfig};
use nextclip_core::{Geometry, Motion};
use tch::{Device, Kind, Tensor};

use crate::compositing::{Compositor, Moved, compositing_specs};
use crate::costs::cost_volumes;
use crate::motion::{self, motion_specs};
use crate::params::{Params, Spec};
use crate::rigid::as_told;
use crate::transformer::{self, Estimate, Sequence, Transformer};
use crate::vae::Vae;

/// What the logits of sources that are new to a blend start from.
const SELDOM: f64 = -4.0;

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

    /// The `tensors` of a checkpoint with the motion `had`, with what they lack of this one.
    pub fn adopted(
        &self,
        tensors: BTreeMap<String, Tensor>,
        had: Option<Motion>,
        new: &Params,
    ) -> BTreeMap<String, Tensor> {
        match (had, self.motion) {
            (Some(had), Some(has)) if grows(had, has) => self.grown(tensors, had, new),
            _ => tensors,
        }
    }

    /// The tensors of a checkpoint that `had` this motion but for the earlier pictures, or that it is refined, or rigid;
    /// what is new to it is as in `new`, but things were where they would be if they went the other way, earlier pictures
    /// are hardly shown at first, and cells are hardly rigid.
    fn grown(
        &self,
        tensors: BTreeMap<String, Tensor>,
        had: Motion,
        new: &Params,
    ) -> BTreeMap<String, Tensor> {
        let added = |old: &Tensor, new: &Tensor, axis: i64| {
            let (had, has) = (old.size()[axis as usize], new.size()[axis as usize]);
            new.detach().narrow(axis, had, has - had)
        };
        let widen = |name: &str, old: Tensor, new: &Tensor| match (name, &self.motion) {
            _ if old.size() == new.size() => old,
            ("motion.linear.weight" | "motion.linear.bias", Some(sizes)) => self.with_past(sizes, &old, new),
            ("motion.blend.0.weight", _) => Tensor::cat(&[&old, &added(&old, new, 1).zeros_like()], 1),
            ("motion.blend.2.weight", _) => Tensor::cat(&[&old, &added(&old, new, 0)], 0),
            ("motion.blend.2.bias", _) => Tensor::cat(&[&old, &(added(&old, new, 0) + SELDOM)], 0),
            _ => old,
        };
        let mut old = tensors;
        let mut grown: BTreeMap<String, Tensor> = new
            .iter()
            .filter_map(|(name, new)| {
                let tensor = match (old.remove(name), name) {
                    (Some(old), _) => widen(name, old, new),
                    (None, "motion.response") => new.detach().copy(),
                    (None, name) if name.starts_with("motion.refine.") => new.detach().copy(),
                    (None, _) => return None,
                };
                Some((name.to_owned(), tensor))
            })
            .collect();
        // What tokens had nothing to say in, they may have said anything in; what refines has never touched that.
        let said =
            |sizes: &Motion| !had.rigid && sizes.rigid && had.followed_frames() == sizes.followed_frames();
        if let (Some(sizes), Some(bias)) = (self.motion.filter(said), grown.get_mut("motion.refine.2.bias")) {
            let seldom = motion::seldom_rigid(&sizes, self.geometry.clip);
            *bias = &*bias + Tensor::from_slice(&seldom).to_device(bias.device());
        }
        grown
    }

    /// Rows of `motion.linear` of a model without moments past with those of `new`, whose displacements are those of the
    /// moments to come, turned round.
    fn with_past(&self, sizes: &Motion, old: &Tensor, new: &Tensor) -> Tensor {
        let (patches, clip) = (self.geometry.patch.pow(2) as i64, self.geometry.clip);
        let rows = |x: &Tensor, moments: usize| {
            x.detach().unflatten(0, [patches, moments as i64, sizes.candidates as i64, -1].as_slice())
        };
        let old = rows(old, clip);
        let new = rows(new, sizes.moments(clip).len());
        let past = sizes.followed_frames().iter().enumerate().map(|(index, &frames)| {
            let nearest = frames.min(clip);
            let turned =
                old.narrow(1, nearest as i64 - 1, 1).narrow(3, 0, 2) * -(frames as f64 / nearest as f64);
            let rest = new.narrow(1, (clip + index) as i64, 1);
            Tensor::cat(&[turned, rest.narrow(3, 2, rest.size()[3] - 2)], 3)
        });
        let past: Vec<Tensor> = past.collect();
        Tensor::cat(&[old, Tensor::cat(&past, 1)], 1).flatten(0, 3)
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

/// Whether `new` is the same motion as `had`, but uses earlier pictures, or is refined, rigid, whole or layered, where that is not. What
/// refines reads where things were in earlier pictures: a motion that is refined gets no such pictures any more.
pub(crate) fn grows(had: Motion, new: Motion) -> bool {
    let earlier = if had.earlier == 0 && !had.refined { 0 } else { new.earlier };
    had != new
        && had
            == Motion {
                earlier,
                refined: had.refined && new.refined,
                rigid: had.rigid && new.rigid,
                whole: had.whole && new.whole,
                layered: had.layered && new.layered,
                ..new
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
