//! Trains predictor and decoder together, on pixels as the daemon shows them: the last stage of every model, and what
//! adapts one to a camera.
//!
//! Latents of the mean are not the latents of the mean picture: a predictor that was trained on latents leaves the
//! decoder with blends that it never saw. Here both learn from the picture that comes out at the end, compositing
//! included, and from clips that continue the model's own prediction (self-forcing). The encoder stays as it is.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use nextclip_core::Motion;
use rand::RngExt;
use tch::{Device, Kind, Tensor};

use crate::checkpoint;
use crate::fit::Course;
use crate::footage::Origin;
use crate::growth::grown;
use crate::loss::Loss;
use crate::model::Model;
use crate::motion::is_motions;
use crate::noise::noised;
use crate::params::Params;
use crate::vae::is_encoders;
use crate::windows::{Noise, PIXEL_FLOOR, Window, Windows, learn, log_mse, paints};

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
    /// Sizes of the motion that a checkpoint without gets, and one that grows to them.
    pub motion: Option<Motion>,
    /// Whether only decoder and blend are trained, on the predictor's estimates as they are.
    pub pictures_only: bool,
    /// Weight of plain reconstruction, which the decoder must not forget; that of the pictures shown is 1.
    pub reconstruction: f64,
    /// How windows are drawn.
    pub windows: Windows,
    /// Share of windows at t = 0, where a one-step sampler stands.
    pub pure_noise: f64,
    /// Arithmetic of a step.
    pub compute: Kind,
    /// Where tensors live.
    pub device: Device,
}

/// Weight of the decoder's picture without compositing: it must stay good where nothing covers it.
const DECODER_WEIGHT: f64 = 0.3;
/// Weight of the estimate's latents: they are the history of what is predicted next.
const LATENT_WEIGHT: f64 = 0.3;
/// Weight of the motion's distance from the true one, which generated scenes know: pictures alone say where a thing came
/// from only once it is nearly found.
const MOTION_WEIGHT: f64 = 0.5;
/// As [`PIXEL_FLOOR`], of latents, whose variance is 1.
const LATENT_FLOOR: f64 = 0.02;

/// Adapts, or goes on, and writes the checkpoint.
pub fn run(plan: &Plan) -> Result<()> {
    let (config, trained) = checkpoint::load_transformer_config(&plan.checkpoint)?;
    let (vae_config, vae) = checkpoint::load_vae(&plan.checkpoint, plan.compute, plan.device)?;
    let motion = grown(trained.motion, plan.motion);
    ensure!(
        plan.lora.is_none() || motion == trained.motion,
        "{}: motion is new to it, and low-rank changes cannot make it: train all weights first",
        plan.checkpoint.display()
    );
    let model = Model { config, vae: vae_config, geometry: trained.geometry, motion, device: plan.device };

    let mut params = Params::new(&model.specs(), plan.windows.seed, plan.compute, plan.device);
    let tensors = checkpoint::load_transformer(&plan.checkpoint)?;
    params.assign_but_new(&model.adopted(tensors, trained.motion, &params), is_motions)?;
    if let Some(rank) = plan.lora {
        params.add_lora(rank, plan.windows.seed);
    }
    let loss = |window: Window<'_>, params: &Params| loss(window, plan, &model, params);
    let (course, mut params) = (&plan.course, params.union(vae));
    params.freeze_unless(|name| match plan.pictures_only {
        true => paints(name),
        false => !is_encoders(name),
    });
    let mut params = learn("finetune", course, &plan.windows, &plan.origins, &model, params, loss)?;
    params.merge_lora();
    checkpoint::save_adapted(&plan.out, &model, trained, course.steps, params)
}

/// Sum of the logarithms of mean squared errors, each frame with equal weight: a decibel of a quiet frame counts as much
/// as one of a lively frame.
fn loss(mut window: Window<'_>, plan: &Plan, model: &Model, params: &Params) -> Result<Loss> {
    let model_at_work = model.with(params, params)?;
    let start = window.start(&model_at_work, &model.geometry);
    let x1 = start.x1();
    let time = if window.rng.random_bool(plan.pure_noise) { 0.0 } else { window.rng.random::<f32>() };
    let t = Tensor::full(&x1.size()[..2], f64::from(time), (Kind::Float, plan.device));
    let z = noised(&x1, &window.noise(&x1, Noise::Clip), &t);
    let estimate = model_at_work.estimate(&start.past, &z, time);
    // Where things go, and as one, generated scenes say; of films only their pictures do.
    let pictures = match window.is_traced() {
        true => model_at_work.pictures(&model_at_work.as_told(&estimate, true), &start.seen),
        false => model_at_work.pictures(&estimate, &start.seen),
    };
    let truth = start.truth();

    let (real, rebuilt) = start.rebuilt(&model_at_work, &mut window.rng);
    let off = |a: &Tensor, b: &Tensor, floor: f64| log_mse(&(a.squeeze_dim(0) - b.squeeze_dim(0)), floor);
    let motion = window.motion_loss(&model_at_work, &estimate, &pictures);
    Ok(Loss::of([
        ("shown", off(&pictures.shown, &truth, PIXEL_FLOOR)),
        ("decoded", off(&pictures.decoded, &truth, PIXEL_FLOOR) * DECODER_WEIGHT),
        ("latents", off(&estimate.x1, &x1, LATENT_FLOOR) * LATENT_WEIGHT),
        ("rebuilt", log_mse(&(rebuilt - real), PIXEL_FLOOR) * plan.reconstruction),
        ("motion", motion * MOTION_WEIGHT),
    ]))
}
