//! Trains predictor and decoder together, on pixels as the daemon shows them: the last stage of every model, and what
//! adapts one to a camera.
//!
//! Latents of the mean are not the latents of the mean picture: a predictor that was trained on latents leaves the
//! decoder with blends that it never saw. Here both learn from the picture that comes out at the end, compositing
//! included, and from clips that continue the model's own prediction (self-forcing). The encoder stays as it is.

use std::path::PathBuf;

use anyhow::{Context, Result};
use nextclip_core::checkpoint::Trained;
use nextclip_core::{Geometry, Motion, sampler};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::checkpoint;
use crate::fit::{Course, fit};
use crate::footage::{self, Origin};
use crate::gradients;
use crate::model::Model;
use crate::params::Params;
use crate::pool::{Pool, Wanted};
use crate::train_predictor::{HISTORY_T_MIN, is_motions, noised, shortest};
use crate::vae::Vae;
use crate::validation::Validation;

/// What the user chose.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Length, pace and run folder.
    pub course: Course,
    /// Checkpoint to start from.
    pub checkpoint: PathBuf,
    /// Where the adapted checkpoint is written; the folder's name is the model's.
    pub out: PathBuf,
    /// Sources, drawn by their weights: a camera's normal footage, or all that a base model learns from.
    pub origins: Vec<Origin>,
    /// Rank of low-rank changes to the predictor; all of its weights without.
    pub lora: Option<i64>,
    /// Sizes of the motion that a checkpoint without gets.
    pub motion: Option<Motion>,
    /// Windows a step.
    pub batch: usize,
    /// Clips of generated scenes held in memory, where they are a source.
    pub pool: usize,
    /// Share of windows at t = 0, where a one-step sampler stands.
    pub pure_noise: f64,
    /// Share of windows whose history ends with the model's own prediction, where the footage is long enough.
    pub own_past: f64,
    /// Seed of everything random.
    pub seed: u64,
    /// Arithmetic of a step.
    pub compute: Kind,
    /// Where tensors live.
    pub device: Device,
}

/// Weight of the decoder's picture without compositing: it must stay good where nothing covers it.
const DECODER_WEIGHT: f64 = 0.3;
/// Weight of the estimate's latents: they are the history of what is predicted next.
const LATENT_WEIGHT: f64 = 0.3;
/// Weight of plain reconstruction, which the decoder must not forget.
const RECONSTRUCTION_WEIGHT: f64 = 0.2;
/// Weight of the motion's distance from the true one, which generated scenes know: pictures alone say where a thing came
/// from only once it is nearly found.
const MOTION_WEIGHT: f64 = 0.5;
/// Added to a frame's mean squared error on the scale of [-1, 1] before its logarithm: 40 dB. A frame that is better
/// has little more to gain.
const PIXEL_FLOOR: f64 = 4e-4;
/// The same of latents, whose variance is 1.
const LATENT_FLOOR: f64 = 0.02;

/// Adapts, or goes on, and writes the checkpoint.
pub fn run(plan: &Plan) -> Result<()> {
    let name = plan.out.file_name().context("the checkpoint's folder needs a name")?;
    let (config, trained) = checkpoint::load_transformer_config(&plan.checkpoint)?;
    let (vae_config, vae) = checkpoint::load_vae(&plan.checkpoint, plan.compute, plan.device)?;
    let motion = trained.motion.or(plan.motion);
    let model = Model { config, vae: vae_config, geometry: trained.geometry, motion, device: plan.device };

    let mut params = Params::new(&model.specs(), plan.seed, plan.compute, plan.device);
    params.assign_but_new(&checkpoint::load_transformer(&plan.checkpoint)?, is_motions)?;
    if let Some(rank) = plan.lora {
        params.add_lora(rank, plan.seed);
    }
    let mut params = train(plan, &model, params.union(vae))?;
    params.merge_lora();

    let (vae, transformer) = params.partition(is_autoencoders);
    let trained = Trained {
        name: name.to_string_lossy().into_owned(),
        steps: trained.steps + plan.course.steps,
        motion,
        ..trained
    };
    checkpoint::save_transformer(&plan.out, &model.config, trained, &transformer, Kind::Half)?;
    checkpoint::save_vae(&plan.out, &model.vae, &vae, Kind::Half)
}

fn is_encoders(name: &str) -> bool {
    name.starts_with("encoder.") || name.starts_with("quant_conv.")
}

fn is_autoencoders(name: &str) -> bool {
    is_encoders(name) || name.starts_with("decoder.") || name.starts_with("post_quant_conv.")
}

fn train(plan: &Plan, model: &Model, mut params: Params) -> Result<Params> {
    params.freeze_unless(|name| !is_encoders(name));
    let Geometry { history, clip, .. } = model.geometry;
    let wanted = Wanted {
        scenes: plan.pool,
        frames: history + 2 * clip,
        shortest: shortest(&model.geometry),
        motion: None,
    };
    let pool = Pool::of_pictures(&plan.origins, &model.geometry, &wanted)?;
    let vae = Vae::new(&model.vae, &params);
    let validation = Validation::new(&plan.origins, model, plan.seed, &vae)?;
    let gradients = |params: &Params, step| {
        let windows = Window::draw(plan, model, &pool, step);
        gradients::of_parts(params, windows, |params, window| window.loss(plan, model, params))
    };
    let validate = |params: &Params| Ok(validation.gain_db(&model.with(params, params)?));
    fit("finetune", &plan.course, params, gradients, validate)
}

/// Successive pictures of one film, and what is random about them.
#[derive(Debug)]
struct Window {
    /// (F, H, W, 3)
    pictures: Tensor,
    /// Where the pixels of the last N frames were in the last frame before them, (N, 2, H, W), where that is known.
    sources: Option<Tensor>,
    /// Whether the first N frames to come are predicted, and those after them learned from.
    onward: bool,
    rng: ChaCha8Rng,
    seed: u64,
    stream: u64,
}

impl Window {
    /// The windows of step `step`; the same for the same seed, whatever ran before.
    fn draw(plan: &Plan, model: &Model, pool: &Pool, step: u64) -> Vec<Self> {
        let Geometry { history, clip, .. } = model.geometry;
        let moving = model.motion.is_some();
        let window = |index: u64| {
            let stream = step * plan.batch as u64 + index;
            let mut rng = ChaCha8Rng::seed_from_u64(plan.seed ^ 0x9011_5b1e);
            rng.set_stream(stream);
            let wanted = history + if rng.random_bool(plan.own_past) { 2 * clip } else { clip };
            let drawn = pool.draw(&mut rng, 1, wanted, 1).remove(0);
            let found = drawn.frames.size()[0] as usize;
            let onward = found == history + 2 * clip;
            let frames = if onward { found } else { found.min(history + clip) };
            let pictures = drawn.frames.narrow(0, 0, frames as i64);
            let sources = drawn.traces.filter(|_| moving).map(|traces| {
                let (past, future) = traces[..frames].split_at(frames - clip);
                footage::sources(past[past.len() - 1], future)
            });
            let window = Self { pictures, sources, onward, rng, seed: plan.seed, stream };
            window.mirrored_by_chance().to_device(plan.device)
        };
        (0..plan.batch as u64).map(window).collect()
    }

    fn mirrored_by_chance(mut self) -> Self {
        if self.rng.random() {
            self.pictures = self.pictures.flip([2]);
            let other_way = Tensor::from_slice(&[-1.0_f32, 1.0]).reshape([1, 2, 1, 1]);
            self.sources = self.sources.map(|moved| moved.flip([3]) * other_way);
        }
        self
    }

    fn to_device(mut self, device: Device) -> Self {
        self.pictures = self.pictures.to_device(device);
        self.sources = self.sources.map(|moved| moved.to_device(device));
        self
    }

    /// Sum of the logarithms of mean squared errors, each frame with equal weight: a decibel of a quiet frame counts
    /// as much as one of a lively frame.
    fn loss(mut self, plan: &Plan, model: &Model, params: &Params) -> Result<Tensor> {
        let model_at_work = model.with(params, params)?;
        let (most, clip) = (model.geometry.history as i64, model.geometry.clip as i64);
        let frames = footage::normalised(&self.pictures);
        let count = frames.size()[0];
        let all = tch::no_grad(|| model_at_work.see(&frames));
        let latents = &all.latents; // (1, F, c, h, w)
        let seen = count - if self.onward { 2 * clip } else { clip };

        let mut past = all.narrow(0, seen);
        let mut last = frames.narrow(0, seen - 1, 1).unsqueeze(0); // (1, 1, 3, H, W)
        if self.onward {
            let noise = self.noise(&latents.narrow(1, seen, clip), 2);
            (past, last) = tch::no_grad(|| model_at_work.continued(&past, &last, &noise));
            past = past.narrow((seen + clip - most).max(0), (seen + clip).min(most));
        }
        let history = past.latents.size()[1];
        let t_in: Vec<f32> =
            (0..history).map(|_| self.rng.random_range(HISTORY_T_MIN..=1.0) as f32).collect();
        let t_in = Tensor::from_slice(&t_in).unsqueeze(0).to_device(plan.device);
        past.latents = noised(&past.latents, &self.noise(&past.latents, 1), &t_in);

        let x1 = latents.narrow(1, count - clip, clip);
        let time = if self.rng.random_bool(plan.pure_noise) { 0.0 } else { self.rng.random::<f32>() };
        let t = Tensor::full([1, clip], f64::from(time), (Kind::Float, plan.device));
        let z = noised(&x1, &self.noise(&x1, 0), &t);
        let estimate = model_at_work.estimate(&past, &z, time);
        let pictures = model_at_work.pictures(&estimate, &last);
        let truth = frames.narrow(0, count - clip, clip);

        // One real frame is rebuilt beside the predicted ones.
        let real = self.rng.random_range(count - clip..count);
        let rebuilt = model_at_work.vae.decode(&latents.get(0).narrow(0, real, 1));
        let moved = match (&estimate.motion, &self.sources) {
            (Some(motion), Some(truth)) => {
                let newest = motion.select(1, motion.size()[1] - 1);
                model_at_work.compositor.source_error(&newest, &truth.unsqueeze(0)) * MOTION_WEIGHT
            }
            _ => Tensor::zeros([], (Kind::Float, plan.device)),
        };
        Ok(moved
            + log_mse(&(pictures.shown.squeeze_dim(0) - &truth), PIXEL_FLOOR)
            + log_mse(&(pictures.decoded.squeeze_dim(0) - truth), PIXEL_FLOOR) * DECODER_WEIGHT
            + log_mse(&(estimate.x1 - x1).squeeze_dim(0), LATENT_FLOOR) * LATENT_WEIGHT
            + log_mse(&(rebuilt - frames.narrow(0, real, 1)), PIXEL_FLOOR) * RECONSTRUCTION_WEIGHT)
    }

    fn noise(&self, like: &Tensor, purpose: u64) -> Tensor {
        let values = sampler::noise(self.seed, 3 * self.stream + purpose, like.numel());
        Tensor::from_slice(&values).reshape(like.size()).to_device(like.device())
    }
}

/// Mean over frames (n, c, h, w) of the logarithm of their mean square plus `floor`.
fn log_mse(difference: &Tensor, floor: f64) -> Tensor {
    let mse = difference.square().mean_dim([1_i64, 2, 3].as_slice(), false, Kind::Float);
    (mse + floor).log().mean(Kind::Float)
}
