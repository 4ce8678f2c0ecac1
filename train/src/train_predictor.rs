//! Next-clip-diffusion pretraining of the transformer on latents.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nextclip_core::checkpoint::{TransformerConfig, VaeConfig};
use nextclip_core::{Geometry, metrics, sampler};
use nextclip_scenes::Split;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::checkpoint;
use crate::footage::{self, Footage, Origin};
use crate::optim::{Optimiser, Schedule, Settings};
use crate::params::{Params, load_tensors, save_tensors};
use crate::run::Run;
use crate::transformer::{self, Sequence, Transformer};
use crate::vae::Vae;

/// What the user chose.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Run folder.
    pub dir: PathBuf,
    /// Checkpoint folder whose transformer a new run starts from; random weights without.
    pub from: Option<PathBuf>,
    /// Sources, sampled evenly.
    pub origins: Vec<Origin>,
    /// Sizes of the transformer.
    pub config: TransformerConfig,
    /// Frame size, history and clip.
    pub geometry: Geometry,
    /// Optimiser steps.
    pub steps: u64,
    /// Windows a step.
    pub batch: usize,
    /// Learning rate and its course.
    pub schedule: Schedule,
    /// Optimiser settings.
    pub optimiser: Settings,
    /// Seed of weights, windows, clips, timesteps and noise.
    pub seed: u64,
    /// Clips held in memory as latents, of each source.
    pub pool: usize,
    /// Share of clips that are trained at t = 0, where a one-step sampler stands.
    pub pure_noise: f64,
    /// Arithmetic of a step.
    pub compute: Kind,
    /// Where tensors live.
    pub device: Device,
}

/// Frames of a clip in the pool: windows start anywhere within.
const POOL_CLIP_FRAMES: usize = 20;
/// History is trained slightly noised: its timestep is uniform from here to 1.
const HISTORY_T_MIN: f64 = 0.9;
const VALIDATION_CLIPS: usize = 32;

/// Trains, or goes on. Returns the weights' average.
pub fn train(plan: &Plan, vae_config: &VaeConfig, vae: &Params) -> Result<Params> {
    let config = &plan.config;
    let specs = transformer::specs(config, &plan.geometry);
    let mut params = Params::new(&specs, plan.seed, plan.compute, plan.device);
    if let Some(from) = &plan.from {
        params.assign(&checkpoint::load_transformer(from)?)?;
    }
    let mut optimiser = Optimiser::new(&params, plan.optimiser);
    let (mut run, start) = Run::open(&plan.dir, "predictor", plan.steps, &mut params, &mut optimiser)?;
    log::info!("{} parameters in {:?}", params.len(), plan.compute);

    let vae = Vae::new(vae_config, vae);
    let pool = latent_pool(plan, &vae)?;
    let held_out = HeldOut::new(plan, &vae)?;
    for step in start..plan.steps {
        let batch = Batch::draw(plan, &pool, step);
        let loss = batch.loss(&Transformer::new(config, &plan.geometry, &params, plan.device)?);
        loss.backward();
        optimiser.step(&params, step, plan.schedule.at(step));
        let loss = loss.double_value(&[]);
        ensure!(loss.is_finite(), "the loss is {loss} at step {step}: lower the learning rate");
        run.record(step, loss, 50, || {
            if (step + 1) % 500 != 0 && step + 1 != plan.steps {
                return Ok(None);
            }
            with_averages(&mut params, &optimiser, |params| {
                let model = Transformer::new(config, &plan.geometry, params, plan.device)?;
                Ok(Some(held_out.gain_db(&model, &vae)))
            })
        })?;
        if (step + 1) % 50 == 0 && run.save_due() {
            run.save(step + 1, &params, &optimiser)?;
        }
    }
    run.save(plan.steps, &params, &optimiser)?;
    assign_averages(&mut params, &optimiser)?;
    Ok(params)
}

/// Everything random of one step.
#[derive(Debug)]
pub struct Batch {
    x1: Tensor,
    noisy: Tensor,
    clean: Tensor,
    t: Tensor,
    clip_sizes: Vec<usize>,
}

impl Batch {
    /// The batch of step `step`; the same for the same seed, whatever ran before.
    fn draw(plan: &Plan, pool: &Tensor, step: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed ^ 0x5eed_ba7c);
        rng.set_stream(step);
        let frames = plan.geometry.history + plan.geometry.clip;
        let windows: Vec<Tensor> = (0..plan.batch)
            .map(|_| {
                let clip = pool.get(rng.random_range(0..pool.size()[0]));
                clip.narrow(0, rng.random_range(0..=clip.size()[0] - frames as i64), frames as i64)
            })
            .collect();
        let x1 = Tensor::stack(&windows, 0).to_kind(Kind::Float).to_device(plan.device);
        let clip_sizes = random_partition(&mut rng, frames, plan.geometry.clip);
        Self::new(&x1, clip_sizes, plan.pure_noise, &mut rng, plan.seed, step)
    }

    /// Noises `x1` (B, F, c, h, w): one timestep a clip, and slightly noised history.
    pub fn new(
        x1: &Tensor,
        clip_sizes: Vec<usize>,
        pure_noise: f64,
        rng: &mut ChaCha8Rng,
        seed: u64,
        stream: u64,
    ) -> Self {
        let size = x1.size();
        let (batch, frames) = (size[0], size[1]);
        let history = frames - clip_sizes[clip_sizes.len() - 1] as i64;
        let mut t = Vec::new();
        for _ in 0..batch {
            for &clip in &clip_sizes {
                let time = if rng.random_bool(pure_noise) { 0.0 } else { rng.random::<f32>() };
                t.extend(std::iter::repeat_n(time, clip));
            }
        }
        let t_in: Vec<f32> =
            (0..batch * history).map(|_| rng.random_range(HISTORY_T_MIN..=1.0) as f32).collect();
        let device = x1.device();
        let t = Tensor::from_slice(&t).reshape([batch, frames]).to_device(device);
        let t_in = Tensor::from_slice(&t_in).reshape([batch, history]).to_device(device);
        let noise = |stream: u64, like: &Tensor| {
            let values = sampler::noise(seed, stream, like.numel());
            Tensor::from_slice(&values).reshape(like.size()).to_device(device)
        };
        let past = x1.narrow(1, 0, history);
        let clean = noised(&past, &noise(2 * stream + 1, &past), &t_in);
        let noisy = noised(x1, &noise(2 * stream, x1), &t);
        Self { x1: x1.shallow_clone(), noisy, clean, t, clip_sizes }
    }

    /// Mean squared error of the x1 estimates, every noisy frame with equal weight.
    pub fn loss(&self, model: &Transformer<'_>) -> Tensor {
        let estimate = model.forward(&Sequence {
            noisy: &self.noisy,
            clean: &self.clean,
            t: &self.t,
            clip_sizes: &self.clip_sizes,
        });
        (estimate - &self.x1).square().mean(Kind::Float)
    }
}

/// `t x1 + (1 - t) x0` with t per frame, (B, F); the formula of [`sampler::noised`].
fn noised(x1: &Tensor, x0: &Tensor, t: &Tensor) -> Tensor {
    let t = t.reshape([t.size()[0], t.size()[1], 1, 1, 1]);
    x0.lerp_tensor(x1, &t.expand_as(x1))
}

/// Clip sizes of 1 to `longest` frames that add up to `frames`, at least two of them: half of the time random,
/// half of the time as long as they can be, counted from the end. Random sizes alone would hardly ever show
/// the far end of a long clip, which is what the sampler is asked for.
fn random_partition(rng: &mut ChaCha8Rng, frames: usize, longest: usize) -> Vec<usize> {
    let longest = longest.min(frames - 1);
    let all_long = rng.random_bool(0.5);
    let mut left = frames;
    let mut sizes = Vec::new();
    while left > 0 {
        let most = longest.min(left);
        let size = if all_long { most } else { rng.random_range(1..=most) };
        sizes.push(size);
        left -= size;
    }
    sizes.reverse();
    sizes
}

/// Held-out clips, their latents, and how well the last frame repeated does on them.
#[derive(Debug)]
struct HeldOut {
    history: usize,
    clip: usize,
    latents: Tensor,
    /// Real pictures that the prediction is for, (n, N, 3, H, W), in [-1, 1].
    truth: Tensor,
    last_frame_db: f64,
    seed: u64,
}

impl HeldOut {
    fn new(plan: &Plan, vae: &Vae<'_>) -> Result<Self> {
        let Geometry { history, clip, .. } = plan.geometry;
        let mut pictures = Vec::new();
        for origin in &plan.origins {
            let footage = Footage::open(origin, &plan.geometry, history + clip, Split::HeldOut)?;
            let count = VALIDATION_CLIPS / plan.origins.len();
            let stride = footage.count().map_or(1, |all| (all / count as u64).max(1));
            pictures.extend((0..count as u64).map(|n| footage::tensor_of(&footage.clip(n * stride))));
        }
        let frames = footage::normalised(&Tensor::cat(&pictures, 0).to_device(plan.device));
        let clips = pictures.len() as i64;
        let latents = tch::no_grad(|| vae.encode(&frames));
        let by_clip = |x: &Tensor| {
            let size = x.size();
            x.reshape([&[clips, (history + clip) as i64], &size[1..]].concat())
        };
        let (frames, latents) = (by_clip(&frames), by_clip(&latents));
        let truth = frames.narrow(1, history as i64, clip as i64);
        let last = frames.narrow(1, history as i64 - 1, 1);
        let last_frame_db = mean_psnr_db(&(&truth - last));
        Ok(Self { history, clip, latents, truth, last_frame_db, seed: plan.seed })
    }

    /// PSNR of the one-step prediction above that of the last frame repeated, in decibels.
    fn gain_db(&self, model: &Transformer<'_>, vae: &Vae<'_>) -> f64 {
        tch::no_grad(|| {
            let size = self.latents.size();
            let noise = sampler::noise(self.seed, u64::MAX, self.latents.numel());
            let noisy = Tensor::from_slice(&noise).reshape(&size).to_device(self.latents.device());
            let estimate = model.forward(&Sequence {
                noisy: &noisy,
                clean: &self.latents.narrow(1, 0, self.history as i64),
                t: &Tensor::zeros([size[0], size[1]], (Kind::Float, self.latents.device())),
                clip_sizes: &[self.history, self.clip],
            });
            let predicted = estimate.narrow(1, self.history as i64, self.clip as i64).flatten(0, 1);
            let decoded = vae.decode(&predicted).clamp(-1.0, 1.0).reshape(self.truth.size());
            mean_psnr_db(&(decoded - &self.truth)) - self.last_frame_db
        })
    }
}

/// Mean of per-picture PSNR from differences (n, N, 3, H, W) on the scale of [-1, 1].
fn mean_psnr_db(difference: &Tensor) -> f64 {
    let mse = (difference * 127.5).square().mean_dim([2_i64, 3, 4].as_slice(), false, Kind::Float);
    let mse: Vec<f64> = Vec::try_from(mse.flatten(0, 1).to_kind(Kind::Double)).unwrap_or_default();
    let bounded = |mse: &f64| metrics::psnr_of_mse_db(*mse).min(metrics::EXACT_COPY_DB);
    mse.iter().map(bounded).sum::<f64>() / mse.len() as f64
}

/// Latents of many clips, (n, frames, c, h, w), half precision, kept in the run folder: encoding them
/// takes minutes, and a resumed run must see the same ones.
fn latent_pool(plan: &Plan, vae: &Vae<'_>) -> Result<Tensor> {
    let path = plan.dir.join("predictor.latents.safetensors");
    if path.exists() {
        return load_tensors(&path)?
            .remove("latents")
            .with_context(|| format!("{}: no latents", path.display()));
    }
    let frames = POOL_CLIP_FRAMES.max(plan.geometry.history + plan.geometry.clip);
    let mut clips = Vec::new();
    for origin in &plan.origins {
        let footage = Footage::open(origin, &plan.geometry, frames, Split::Train)?;
        let count = footage.count().map_or(plan.pool as u64, |all| all.min(plan.pool as u64));
        let stride = footage.count().map_or(1, |all| (all / count).max(1));
        let bar = indicatif::ProgressBar::new(count).with_prefix("encoding clips");
        for index in 0..count {
            let pictures = footage::tensor_of(&footage.clip(index * stride)).to_device(plan.device);
            let latents = tch::no_grad(|| vae.encode(&footage::normalised(&pictures)));
            clips.push(latents.to_kind(Kind::Half).to_device(Device::Cpu));
            bar.inc(1);
        }
    }
    let pool = Tensor::stack(&clips, 0);
    save_tensors(&path, [("latents".to_owned(), pool.shallow_clone())])?;
    Ok(pool)
}

fn assign_averages(params: &mut Params, optimiser: &Optimiser) -> Result<()> {
    let mut weights = optimiser.averages();
    weights.extend(params.iter().filter(|(_, t)| !t.requires_grad()).map(|(n, t)| (n.to_owned(), t.copy())));
    params.assign(&weights)
}

/// Runs `f` with the averaged weights in place, then puts the training weights back.
fn with_averages<T>(
    params: &mut Params,
    optimiser: &Optimiser,
    f: impl FnOnce(&Params) -> Result<T>,
) -> Result<T> {
    let kept = params.iter().map(|(name, tensor)| (name.to_owned(), tensor.detach().copy())).collect();
    assign_averages(params, optimiser)?;
    let result = f(params);
    params.assign(&kept)?;
    result
}
