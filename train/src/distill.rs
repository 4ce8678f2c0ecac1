//! Trains a student that draws sharp clips in a few steps.
//!
//! One step of a model that estimates the clean clip gives the mean of what may come, and a mean of shapes is no shape.
//! The student starts as its teacher and learns two things besides. Its latents are drawn, not averaged: they follow the
//! energy score of two draws from different noise, which is best where draws differ from each other as they do from what
//! came (Gneiting and Raftery 2007). And its pictures pass a critic, which compares them with those that came (with the
//! pairing loss of Jolicoeur-Martineau 2018); how much edge they have where things move is held to what it should be, without
//! texture where there is none, and they must be near what came cell by cell, so that nothing is there twice. All that is for what
//! is moved and how it is blended; what the decoder paints is only to be near what came. It meets in training what it meets at
//! work: points of its own trajectories.
//!
//! Where generated scenes say where things go, and as one, pictures do not teach that at all. There, the pictures that the
//! student's are held to are not those that came, but those that there would be if things went where the model says: whole,
//! wherever they are. What lands at each of their pixels, and which source of the blend has it, is known, and learned as such.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nextclip_core::Motion;
use nextclip_core::sampler::{TimeGrid, step_fraction};
use rand::RngExt;
use tch::{Device, Kind, Tensor};

use crate::checkpoint;
use crate::critic::{self, Critic, is_critics};
use crate::fit::Course;
use crate::footage::Origin;
use crate::growth::grown;
use crate::loss::Loss;
use crate::model::{AtWork, Model, Past};
use crate::motion::is_motions;
use crate::params::{Params, load_tensors};
use crate::sharpness::{energy_of_cells, gradient_energy, moving};
use crate::vae::is_encoders;
use crate::windows::{Noise, PIXEL_FLOOR, Window, Windows, learn, log_mse, paints};

/// What the user chose.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Length, pace and run folder.
    pub course: Course,
    /// The teacher's checkpoint, which the student starts as.
    pub checkpoint: PathBuf,
    /// Where the student's checkpoint is written; the folder's name is the model's.
    pub out: PathBuf,
    /// Sources, drawn by their weights.
    pub origins: Vec<Origin>,
    /// Sizes of the student's motion, where the teacher's grows to them or there is none.
    pub motion: Option<Motion>,
    /// How windows are drawn.
    pub windows: Windows,
    /// The critic of an earlier run, its tensors as [`CRITIC_FILE`] has them; a new one without.
    pub critic: Option<PathBuf>,
    /// Numbers of denoising steps that the student is made for, each as often as the others.
    pub steps: Vec<usize>,
    /// Whether only the pictures are learned, that is decoder and blend, of the predictor's draws as they are.
    pub pictures_only: bool,
    /// Weight of nearness to what came, cell by cell, beside the critic's word: less is freer and further off.
    pub nearness: f64,
    /// Arithmetic of a training step.
    pub compute: Kind,
    /// Where tensors live.
    pub device: Device,
}

/// Where a run's folder keeps the critic at its end: the next run's need not start afresh.
pub const CRITIC_FILE: &str = "critic.safetensors";

/// Weight of the critic's word.
const CRITIC_WEIGHT: f64 = 3.0;
/// Weight of the draws' energy score.
const ENERGY_WEIGHT: f64 = 2.0;
/// Weight of how much edge there is.
const EDGES_WEIGHT: f64 = 2.0;
/// Energy of edges, in squared levels of 255, that is as good as none.
const EDGES_FLOOR: f64 = 1000.0;
/// Weight of edges where there are none.
const TEXTURE_WEIGHT: f64 = 1.5;
/// Energy of edges of a cell, in squared levels of 255 a pixel, that nobody sees.
const TEXTURE_FLOOR: f64 = 20.0;
/// Weight of the motion's distance from the true one.
const MOTION_WEIGHT: f64 = 1.0;
/// Weight of nearness to what there would be if things went where the model says.
const WHOLE_WEIGHT: f64 = 1.0;
/// Added there to a frame's mean squared error on the scale of [-1, 1] before its logarithm: 46 dB. Where things go as the model
/// says nothing is open, and what they leave behind, a shadow say, is faint.
const WHOLE_FLOOR: f64 = 1e-4;
/// Weight of how little of things lands where the model says.
const LANDED_WEIGHT: f64 = 1.0;
/// Weight of how little of what landed the blend shows, or too much.
const LAYERED_WEIGHT: f64 = 0.5;
/// Weight of nearness where nothing moves: there is but one future, and it is known.
const STILL_WEIGHT: f64 = 1.0;
/// Added there to a frame's mean squared error on the scale of [-1, 1] before its logarithm: 50 dB, as near as what rests comes in
/// films.
const STILL_FLOOR: f64 = 4e-5;
/// Weight of nearness of the decoder's picture, which learns from nothing else of what is shown.
const DECODER_WEIGHT: f64 = 1.0;
/// Weight of plain reconstruction, which the decoder must not forget.
const RECONSTRUCTION_WEIGHT: f64 = 0.3;

/// Distils, or goes on, and writes the student's checkpoint.
pub fn run(plan: &Plan) -> Result<()> {
    ensure!(
        !plan.steps.is_empty() && plan.steps.iter().all(|&steps| steps > 0),
        "the student's numbers of denoising steps are {:?}, must be 1 or more",
        plan.steps
    );
    let (config, trained) = checkpoint::load_transformer_config(&plan.checkpoint)?;
    let (vae_config, vae) = checkpoint::load_vae(&plan.checkpoint, plan.compute, plan.device)?;
    let (geometry, motion) = (trained.geometry, grown(trained.motion, plan.motion));
    let model = Model { config, vae: vae_config, geometry, motion, device: plan.device };

    let new = |specs: &[_]| Params::new(specs, plan.windows.seed, plan.compute, plan.device);
    let mut transformer = new(&model.specs());
    let tensors = checkpoint::load_transformer(&plan.checkpoint)?;
    transformer.assign_but_new(&model.adopted(tensors, trained.motion, &transformer), is_motions)?;
    let mut judge = new(&critic::specs(&geometry));
    if let Some(path) = &plan.critic {
        judge.assign(&load_tensors(path)?).with_context(|| path.display().to_string())?;
    }
    let mut params = transformer.union(vae).union(judge);

    params.freeze_unless(|name| match plan.pictures_only {
        true => paints(name) || is_critics(name),
        false => !is_encoders(name),
    });
    let loss = |window: Window<'_>, params: &Params| loss(window, plan, &model, params);
    let params = learn("distill", &plan.course, &plan.windows, &plan.origins, &model, params, loss)?;
    let (critic, student) = params.partition(is_critics);
    critic.save(&plan.course.dir.join(CRITIC_FILE), Kind::Float)?;
    checkpoint::save_adapted(&plan.out, &model, trained, plan.course.steps, student)
}

/// What the student and its critic learn from, each from its own part: the critic sees detached pictures, the student
/// a frozen critic.
fn loss(mut window: Window<'_>, plan: &Plan, model: &Model, params: &Params) -> Result<Loss> {
    let student = model.with(params, params)?;
    let start = window.start(&student, &model.geometry);
    let x1 = start.x1();
    let steps = plan.steps[window.rng.random_range(0..plan.steps.len())];
    let at = window.rng.random_range(0..steps);
    let noise = window.noise(&Tensor::cat(&[&x1, &x1], 0), Noise::Clip);
    let past = start.past.repeated(2);
    let (z, time) = tch::no_grad(|| on_the_way(&student, &past, noise, &TimeGrid::new(steps, 1.0)?, at))?;
    let draws = student.estimate(&past, &z, time);
    let shown = draws.narrow(1);
    // The critic's word is for what is moved. What nobody has seen is painted as the mean of what may be there: a decoder that is
    // to please a critic leaves litter behind whatever moves.
    let decoded = student.decoded(&shown);
    let pictures =
        student.composed(decoded.detach(), &student.as_told(&shown, window.is_traced()), &start.seen);
    let came = start.truth().unsqueeze(0);
    let (real, rebuilt) = start.rebuilt(&student, &mut window.rng);

    let last = start.last();
    let told = window.told(&student, &start, &pictures);
    let aim = told.as_ref().map_or(&came, |(aim, _)| aim);
    let area = moving(aim, &last);
    let frozen = params.frozen();
    let lost = Critic::new(&frozen).lost(&last, aim, &pictures.shown);
    let disturbance = window.noise(&came, Noise::Critic);
    let judged = Critic::new(params).loss(&last, aim, &pictures.shown.detach(), &disturbance);
    let off = (&pictures.shown - aim).squeeze_dim(0);
    let none = || Tensor::zeros([], (Kind::Float, plan.device));
    let whole = told.as_ref().map_or_else(none, |_| log_mse(&off, WHOLE_FLOOR));
    let placed = told.as_ref().zip(pictures.moved.as_ref());
    let [landed, layered] =
        placed.map_or_else(|| [none(), none()], |((_, placed), moved)| placed.errors(moved));
    let still = area.squeeze_dim(0).unsqueeze(1).neg() + 1.0;
    Ok(Loss::of([
        ("lost", lost * CRITIC_WEIGHT),
        ("judged", judged),
        ("energy", energy_score(&draws.x1, &x1) * ENERGY_WEIGHT),
        ("edges", edges_loss(&pictures.shown, aim, &area) * EDGES_WEIGHT),
        ("texture", texture_loss(&pictures.shown, aim, model.geometry.vae_scale) * TEXTURE_WEIGHT),
        ("motion", window.motion_loss(&student, &shown, &pictures) * MOTION_WEIGHT),
        ("whole", whole * WHOLE_WEIGHT),
        ("landed", landed * LANDED_WEIGHT),
        ("layered", layered * LAYERED_WEIGHT),
        ("near", log_mse(&by_cells(&off, model.geometry.vae_scale), PIXEL_FLOOR) * plan.nearness),
        ("still", log_mse(&(off * still), STILL_FLOOR) * STILL_WEIGHT),
        ("painted", log_mse(&(decoded - &came).squeeze_dim(0), PIXEL_FLOOR) * DECODER_WEIGHT),
        ("rebuilt", log_mse(&(rebuilt - real), PIXEL_FLOOR) * RECONSTRUCTION_WEIGHT),
    ]))
}

/// Means of pictures (n, 3, H, W) over cells of `side` x `side` pixels: what is somewhere near has nearly the same, what is
/// missing or there twice has not.
fn by_cells(pictures: &Tensor, side: usize) -> Tensor {
    let side = [side as i64; 2];
    pictures.avg_pool2d(side, side, [0, 0], false, false, None)
}

/// How far the energy of edges of pictures (1, N, 3, H, W) is from that of those that came, within `area` (1, N, H, W): the
/// mean square of its logarithm over the frames. It says how much edge there must be, not where: that is the critic's.
fn edges_loss(shown: &Tensor, came: &Tensor, area: &Tensor) -> Tensor {
    let energy = |pictures: &Tensor| (gradient_energy(pictures, area) + EDGES_FLOOR).log();
    (energy(shown) - energy(came)).square().mean(Kind::Float)
}

/// How much more energy of edges cells of `side` x `side` pixels of pictures (1, N, 3, H, W) have than those that came have
/// there or in any cell around: the mean square of the excess of its logarithm. Without it, edges that are missing
/// elsewhere are made up for by texture where nothing is.
fn texture_loss(shown: &Tensor, came: &Tensor, side: usize) -> Tensor {
    let energy = |pictures: &Tensor| energy_of_cells(pictures, side);
    let around = energy(came).max_pool2d([3, 3], [1, 1], [1, 1], [1, 1], false);
    let log = |energy: Tensor| (energy + TEXTURE_FLOOR).log();
    (log(energy(shown)) - log(around)).relu().square().mean(Kind::Float)
}

/// Energy score of two draws (2, N, c, h, w) of `x1` (1, N, c, h, w): for each cell, over frames and channels, how far they
/// are from what came, less half of how far they are from each other; the mean over cells, in latents.
fn energy_score(draws: &Tensor, x1: &Tensor) -> Tensor {
    let far = |a: &Tensor, b: &Tensor| {
        // The root has no slope at zero without the addition.
        ((a - b).square().mean_dim([1_i64, 2].as_slice(), false, Kind::Float) + 1e-6).sqrt().mean(Kind::Float)
    };
    far(draws, x1) - far(&draws.narrow(0, 0, 1), &draws.narrow(0, 1, 1)) * 0.5
}

/// Where the student's sampler stands after `done` steps from `noise`, and the time there.
fn on_the_way(
    student: &AtWork<'_>,
    past: &Past,
    noise: Tensor,
    grid: &TimeGrid,
    done: usize,
) -> Result<(Tensor, f32)> {
    let (mut z, mut time) = (noise, 0.0);
    for (t, t_next) in grid.steps().take(done) {
        let x1 = student.estimate(past, &z, t).x1;
        z = &z + (x1 - &z) * f64::from(step_fraction(t, t_next));
        time = t_next;
    }
    Ok((z, time))
}
