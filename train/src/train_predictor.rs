//! Next-clip-diffusion pretraining of the transformer on latents.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use nextclip_core::checkpoint::{TransformerConfig, VaeConfig};
use nextclip_core::{Geometry, Motion};
use nextclip_scenes::Trace;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::checkpoint;
use crate::fit::{Course, fit};
use crate::footage::{self, Origin};
use crate::gradients;
use crate::loss::Loss;
use crate::model::Model;
use crate::motion::is_motions;
use crate::noise::{noised, noised_history, normal};
use crate::params::Params;
use crate::pool::{Pool, Wanted, stacked};
use crate::transformer::{Sequence, Transformer};
use crate::vae::Vae;
use crate::validation::Validation;
use crate::ways::Ways;

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
    /// Sizes of the motion that is trained beside the latents.
    pub motion: Option<Motion>,
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

/// Weight of the motion's error, log(1 + pixels), beside the latents' mean square.
const MOTION_WEIGHT: f64 = 0.3;

/// Trains, or goes on. Returns the weights' average, or, with patience, the best.
pub fn train(plan: &Plan, vae_config: &VaeConfig, vae: &Params) -> Result<Params> {
    let config = &plan.config;
    ensure!(
        plan.motion.is_none() || plan.longest_stride == 1,
        "a longest stride of {} with motion, must be 1: cost volumes are of successive frames",
        plan.longest_stride
    );
    let model = Model {
        config: config.clone(),
        vae: vae_config.clone(),
        geometry: plan.geometry,
        motion: plan.motion,
        device: plan.device,
    };
    let mut params = Params::new(&model.specs(), plan.seed, plan.compute, plan.device);
    if let Some(from) = &plan.from {
        let (_, trained) = checkpoint::load_transformer_config(from)?;
        let tensors = checkpoint::load_transformer(from)?;
        params.assign_but_new(&model.adopted(tensors, trained.motion, &params), is_motions)?;
    }
    if let Some(rank) = plan.lora {
        params.add_lora(rank, plan.seed);
    }
    let (vae, encoder) = (vae, Vae::new(vae_config, vae));
    let wanted = Wanted {
        scenes: plan.pool,
        frames: plan.frames,
        shortest: footage::shortest(&plan.geometry),
        motion: plan.motion,
    };
    let path = plan.course.dir.join("predictor.latents.safetensors");
    let pool = Pool::open(&path, &plan.origins, &plan.geometry, &wanted, &encoder, plan.device)?;
    let validation = Validation::new(&plan.origins, &model, plan.seed, &encoder)?;
    let gradients = |params: &Params, step| {
        gradients::of_parts(params, Part::draw(plan, &pool, step), |params, part| {
            Ok(part.batch(plan).loss(&model.transformer(params)?))
        })
    };
    let validate = |params: &Params| Ok(validation.gain_db(&model.with(params, vae)?));
    let mut params = fit("predictor", &plan.course, params, gradients, validate)?;
    params.merge_lora();
    Ok(params)
}

/// The windows of a step that are computed together: one on a CPU, all of them on a GPU.
#[derive(Debug)]
struct Part<'a> {
    /// (B, F, c, h, w)
    x1: Tensor,
    /// Cost volumes, (B, F, costs, h, w), where motion is trained.
    costs: Option<Tensor>,
    /// Where things are in every window, where that is known.
    traces: Vec<Option<Vec<&'a Trace>>>,
    rng: ChaCha8Rng,
    stream: u64,
}

impl<'a> Part<'a> {
    /// The parts of step `step`; the same for the same seed, whatever ran before.
    fn draw(plan: &Plan, pool: &'a Pool, step: u64) -> Vec<Self> {
        let (parts, windows) = if plan.device.is_cuda() { (1, plan.batch) } else { (plan.batch, 1) };
        let part = |index: u64| {
            let stream = step * parts as u64 + index;
            let mut rng = ChaCha8Rng::seed_from_u64(plan.seed ^ 0x5eed_ba7c);
            rng.set_stream(stream);
            let windows = pool.draw(&mut rng, windows, plan.frames, plan.longest_stride);
            let x1 = stacked(&windows).to_kind(Kind::Float).to_device(plan.device);
            let costs: Option<Vec<&Tensor>> = windows.iter().map(|window| window.costs.as_ref()).collect();
            let costs = costs.map(|costs| {
                let costs = Tensor::stack(&costs, 0).to_device(plan.device);
                // A frame after a gap has nothing before it.
                if rng.random() {
                    drop(costs.narrow(1, 0, 1).zero_());
                }
                costs
            });
            Self { x1, costs, traces: windows.into_iter().map(|window| window.traces).collect(), rng, stream }
        };
        (0..parts as u64).map(part).collect()
    }

    fn batch(mut self, plan: &Plan) -> Batch {
        let clip_sizes = random_partition(&mut self.rng, self.x1.size()[1] as usize, plan.geometry.clip);
        let first = self.rng.random_bool(plan.unconditional);
        let history = self.x1.size()[1] as usize - clip_sizes[clip_sizes.len() - 1];
        let moved = plan.motion.map(|sizes| self.moved(history, plan, &sizes));
        let batch = Batch::new(&self.x1, clip_sizes, plan.pure_noise, &mut self.rng, plan.seed, self.stream);
        let costs = self.costs.map(|costs| costs.narrow(1, 0, history as i64));
        let batch = Batch { moved, costs, ..batch };
        if first { batch } else { batch.without_first() }
    }

    /// Where points of `history` clean frames are at the moments of each.
    fn moved(&self, history: usize, plan: &Plan, sizes: &Motion) -> Ways {
        let Geometry { height, width, clip, .. } = plan.geometry;
        let moments = sizes.moments(clip);
        let of_window = |traces: &Option<Vec<&Trace>>| match traces {
            Some(traces) => Ways::of(traces, 0..history, &moments),
            None => Ways::unknown([history, moments.len(), height, width]),
        };
        Ways::cat(&self.traces.iter().map(of_window).collect::<Vec<_>>()).to_device(plan.device)
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
    /// Where points of the clean frames go, where motion is trained.
    moved: Option<Ways>,
    /// Cost volumes of the clean frames, where motion is trained.
    costs: Option<Tensor>,
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
        let device = x1.device();
        let t = Tensor::from_slice(&t).reshape([batch, frames]).to_device(device);
        let past = x1.narrow(1, 0, history);
        let clean = noised_history(&past, &normal(&past, seed, 2 * stream + 1), rng);
        let noisy = noised(x1, &normal(x1, seed, 2 * stream), &t);
        Self { x1: x1.shallow_clone(), noisy, clean, t, clip_sizes, moved: None, costs: None }
    }

    /// Mean squared error of the x1 estimates, every noisy frame with equal weight, and the error of the motion.
    pub fn loss(&self, model: &Transformer<'_>) -> Loss {
        let estimate = model.forward(&Sequence {
            noisy: &self.noisy,
            clean: &self.clean,
            costs: self.costs.as_ref(),
            t: &self.t,
            clip_sizes: &self.clip_sizes,
        });
        let loss = (estimate.x1 - &self.x1).square().mean(Kind::Float);
        match (model.motion(), estimate.motion, &self.moved) {
            (Some(sizes), Some(motion), Some(moved)) => {
                let off = moved.error(&sizes, &motion, model.response(), model.pixels_per_cell());
                Loss::of([("latents", loss), ("motion", off * MOTION_WEIGHT)])
            }
            _ => loss.into(),
        }
    }
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
