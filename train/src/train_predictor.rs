//! Next-clip-diffusion pretraining of the transformer on latents.

use std::path::PathBuf;

use anyhow::Result;
use nextclip_core::checkpoint::{TransformerConfig, VaeConfig};
use nextclip_core::{Geometry, sampler};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::checkpoint;
use crate::fit::{Course, fit};
use crate::footage::Origin;
use crate::gradients;
use crate::model::Model;
use crate::params::Params;
use crate::pool::{Pool, Wanted};
use crate::transformer::{Sequence, Transformer};
use crate::vae::Vae;
use crate::validation::Validation;

/// What the user chose.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Length, pace and run folder.
    pub course: Course,
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
    /// Windows a step.
    pub batch: usize,
    /// Frames of a window, where the footage has as many; at least a clip and a frame before it.
    pub frames: usize,
    /// Frames of the footage from one frame of a window to the next, by chance up to this.
    pub longest_stride: usize,
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

/// History is trained slightly noised: its timestep is uniform from here to 1.
pub(crate) const HISTORY_T_MIN: f64 = 0.9;
/// Frames that a window holds before its last clip, at the least, where the footage is shorter than a window.
const SHORTEST_HISTORY: usize = 5;

/// Frames of the shortest stretch that is learned from: one frame to predict needs a few to see.
pub(crate) fn shortest(geometry: &Geometry) -> usize {
    geometry.clip + geometry.history.min(SHORTEST_HISTORY)
}

/// Trains, or goes on. Returns the weights' average, or, with patience, the best.
pub fn train(plan: &Plan, vae_config: &VaeConfig, vae: &Params) -> Result<Params> {
    let config = &plan.config;
    let model = Model {
        config: config.clone(),
        vae: vae_config.clone(),
        geometry: plan.geometry,
        motion: None,
        device: plan.device,
    };
    let mut params = Params::new(&model.specs(), plan.seed, plan.compute, plan.device);
    if let Some(from) = &plan.from {
        params.assign(&checkpoint::load_transformer(from)?)?;
    }
    if let Some(rank) = plan.lora {
        params.add_lora(rank, plan.seed);
    }
    let (vae, encoder) = (vae, Vae::new(vae_config, vae));
    let wanted = Wanted { scenes: plan.pool, frames: plan.frames, shortest: shortest(&plan.geometry) };
    let path = plan.course.dir.join("predictor.latents.safetensors");
    let pool = Pool::open(&path, &plan.origins, &plan.geometry, &wanted, &encoder, plan.device)?;
    let validation = Validation::new(&plan.origins, &plan.geometry, plan.seed, &encoder, plan.device)?;
    let gradients = |params: &Params, step| {
        gradients::of_parts(params, Part::draw(plan, &pool, step), |params, part| {
            Ok(part.batch(plan).loss(&Transformer::new(config, &plan.geometry, params, plan.device)?))
        })
    };
    let validate = |params: &Params| Ok(validation.gain_db(&model.with(params, vae)?));
    let mut params = fit("predictor", &plan.course, params, gradients, validate)?;
    params.merge_lora();
    Ok(params)
}

/// The windows of a step that are computed together: one on a CPU, all of them on a GPU.
#[derive(Debug)]
struct Part {
    /// (B, F, c, h, w)
    x1: Tensor,
    rng: ChaCha8Rng,
    stream: u64,
}

impl Part {
    /// The parts of step `step`; the same for the same seed, whatever ran before.
    fn draw(plan: &Plan, pool: &Pool, step: u64) -> Vec<Self> {
        let (parts, windows) = if plan.device.is_cuda() { (1, plan.batch) } else { (plan.batch, 1) };
        let part = |index: u64| {
            let stream = step * parts as u64 + index;
            let mut rng = ChaCha8Rng::seed_from_u64(plan.seed ^ 0x5eed_ba7c);
            rng.set_stream(stream);
            let x1 = pool
                .draw(&mut rng, windows, plan.frames, plan.longest_stride)
                .to_kind(Kind::Float)
                .to_device(plan.device);
            Self { x1, rng, stream }
        };
        (0..parts as u64).map(part).collect()
    }

    fn batch(mut self, plan: &Plan) -> Batch {
        let clip_sizes = random_partition(&mut self.rng, self.x1.size()[1] as usize, plan.geometry.clip);
        let first = self.rng.random_bool(plan.unconditional);
        let batch = Batch::new(&self.x1, clip_sizes, plan.pure_noise, &mut self.rng, plan.seed, self.stream);
        if first { batch } else { batch.without_first() }
    }
}

/// Windows with everything random about them.
#[derive(Debug)]
pub struct Batch {
    x1: Tensor,
    noisy: Tensor,
    clean: Tensor,
    t: Tensor,
    clip_sizes: Vec<usize>,
}

impl Batch {
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
        (estimate.x1 - &self.x1).square().mean(Kind::Float)
    }
}

/// `t x1 + (1 - t) x0` with t per frame, (B, F); the formula of [`sampler::noised`].
pub(crate) fn noised(x1: &Tensor, x0: &Tensor, t: &Tensor) -> Tensor {
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
