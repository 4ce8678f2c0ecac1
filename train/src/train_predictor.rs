//! Next-clip-diffusion pretraining of the transformer on latents.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use nextclip_core::checkpoint::{TransformerConfig, VaeConfig};
use nextclip_core::{Geometry, sampler};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::checkpoint;
use crate::footage::Origin;
use crate::optim::{Optimiser, Schedule, Settings};
use crate::params::Params;
use crate::pool::Pool;
use crate::run::Run;
use crate::transformer::{self, Sequence, Transformer};
use crate::vae::Vae;
use crate::validation::Validation;

/// What the user chose.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Run folder.
    pub dir: PathBuf,
    /// Checkpoint folder whose transformer a new run starts from; random weights without.
    pub from: Option<PathBuf>,
    /// Sources, drawn by their weights.
    pub origins: Vec<Origin>,
    /// Sizes of the transformer.
    pub config: TransformerConfig,
    /// Frame size, history and clip.
    pub geometry: Geometry,
    /// Rank of the low-rank changes that are trained instead of the weights.
    pub lora: Option<i64>,
    /// Optimiser steps, at most.
    pub steps: u64,
    /// Steps between two validations.
    pub validate_every: u64,
    /// Stops after so many validations without a new best, and returns the weights of the best.
    pub patience: Option<u64>,
    /// Windows a step.
    pub batch: usize,
    /// Learning rate and its course.
    pub schedule: Schedule,
    /// Optimiser settings.
    pub optimiser: Settings,
    /// Seed of weights, windows, clips, timesteps and noise.
    pub seed: u64,
    /// Clips of generated scenes held in memory as latents.
    pub pool: usize,
    /// Share of clips that are trained at t = 0, where a one-step sampler stands.
    pub pure_noise: f64,
    /// Share of steps whose first clip, which has no history, is estimated too: what guidance needs.
    pub unconditional: f64,
    /// Arithmetic of a step.
    pub compute: Kind,
    /// Where tensors live.
    pub device: Device,
}

/// Steps whose losses are logged as their mean.
const LOGGED_EVERY: u64 = 50;
/// History is trained slightly noised: its timestep is uniform from here to 1.
const HISTORY_T_MIN: f64 = 0.9;
/// Frames that a window holds before its last clip, at the least, where the footage is shorter than a window.
const SHORTEST_HISTORY: usize = 5;

/// Trains, or goes on. Returns the weights' average.
pub fn train(plan: &Plan, vae_config: &VaeConfig, vae: &Params) -> Result<Params> {
    let config = &plan.config;
    let specs = transformer::specs(config, &plan.geometry);
    let mut params = Params::new(&specs, plan.seed, plan.compute, plan.device);
    if let Some(from) = &plan.from {
        params.assign(&checkpoint::load_transformer(from)?)?;
    }
    if let Some(rank) = plan.lora {
        params.add_lora(rank, plan.seed);
    }
    let mut optimiser = Optimiser::new(&params, plan.optimiser);
    let (mut run, start) = Run::open(&plan.dir, "predictor", plan.steps, &mut params, &mut optimiser)?;
    log::info!(
        "{} parameters in {:?}",
        params.trained().map(|(_, t)| t.numel()).sum::<usize>(),
        plan.compute
    );

    let vae = Vae::new(vae_config, vae);
    // One frame to predict needs at least a few to see.
    let shortest = plan.geometry.clip + plan.geometry.history.min(SHORTEST_HISTORY);
    let path = plan.dir.join("predictor.latents.safetensors");
    let pool = Pool::open(&path, &plan.origins, &plan.geometry, (plan.pool, shortest), &vae, plan.device)?;
    let validation = Validation::new(plan, &vae)?;
    let mut best = Best::default();
    if start == 0 && plan.patience.is_some() {
        let gain_db = validate(plan, &params, &validation, &vae)?;
        log::info!("before training: {gain_db:+.3} dB above the last frame");
        best.offer(gain_db, &params);
    }
    for step in start..plan.steps {
        let batch = Batch::draw(plan, &pool, step);
        let loss = batch.loss(&Transformer::new(config, &plan.geometry, &params, plan.device)?);
        loss.backward();
        optimiser.step(&params, step, plan.schedule.at(step));
        let loss = loss.double_value(&[]);
        ensure!(loss.is_finite(), "the loss is {loss} at step {step}: lower the learning rate");
        run.record(step, loss, LOGGED_EVERY, || {
            if !(step + 1).is_multiple_of(plan.validate_every) && step + 1 != plan.steps {
                return Ok(None);
            }
            with_averages(&mut params, &optimiser, |params| {
                let gain_db = validate(plan, params, &validation, &vae)?;
                best.offer(gain_db, params);
                Ok(Some(gain_db))
            })
        })?;
        if plan.patience.is_some_and(|patience| best.age > patience) {
            log::info!("no better for {} validations: stopped at step {}", best.age - 1, step + 1);
            break;
        }
        if (step + 1) % LOGGED_EVERY == 0 && run.save_due() {
            run.save(step + 1, &params, &optimiser)?;
        }
    }
    match (plan.patience, best.weights) {
        (Some(_), Some(weights)) => {
            log::info!("best: {:+.3} dB above the last frame", best.gain_db);
            params.assign(&weights)?;
        }
        _ => {
            run.save(plan.steps, &params, &optimiser)?;
            assign_averages(&mut params, &optimiser)?;
        }
    }
    params.merge_lora();
    Ok(params)
}

/// The best weights so far, and for how many validations they have been.
#[derive(Default)]
struct Best {
    gain_db: f64,
    age: u64,
    weights: Option<BTreeMap<String, Tensor>>,
}

impl Best {
    fn offer(&mut self, gain_db: f64, params: &Params) {
        self.age += 1;
        if self.weights.is_none() || gain_db > self.gain_db {
            let copy = |(name, tensor): (&str, &Tensor)| (name.to_owned(), tensor.detach().copy());
            *self = Self { gain_db, age: 1, weights: Some(params.iter().map(copy).collect()) };
        }
    }
}

fn validate(plan: &Plan, params: &Params, validation: &Validation, vae: &Vae<'_>) -> Result<f64> {
    Ok(validation.gain_db(&Transformer::new(&plan.config, &plan.geometry, params, plan.device)?, vae))
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
    fn draw(plan: &Plan, pool: &Pool, step: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed ^ 0x5eed_ba7c);
        rng.set_stream(step);
        let window = plan.geometry.history + plan.geometry.clip;
        let x1 = pool.draw(&mut rng, plan.batch, window).to_kind(Kind::Float).to_device(plan.device);
        let clip_sizes = random_partition(&mut rng, x1.size()[1] as usize, plan.geometry.clip);
        let first = rng.random_bool(plan.unconditional);
        let batch = Self::new(&x1, clip_sizes, plan.pure_noise, &mut rng, plan.seed, step);
        if first { batch } else { batch.without_first() }
    }

    /// Leaves out the noisy blocks of the first clip. It has no history, so most of its error is what nobody
    /// could know: work and noise for a model that always has one.
    fn without_first(self) -> Self {
        let skipped = self.clip_sizes[0] as i64;
        let rest = |x: &Tensor| x.narrow(1, skipped, x.size()[1] - skipped);
        Self { x1: rest(&self.x1), noisy: rest(&self.noisy), t: rest(&self.t), ..self }
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
