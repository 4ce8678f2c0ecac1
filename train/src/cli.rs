//! The command line: what can be trained, and with which settings.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use nextclip_core::checkpoint::Trained;
use nextclip_core::{Geometry, Motion, say};
use nextclip_train::fit::Course;
use nextclip_train::footage::Origin;
use nextclip_train::optim::{Rule, Schedule, Settings};
use nextclip_train::windows::Windows;
use nextclip_train::{checkpoint, distill, finetune, params, train_predictor, train_vae, transformer, vae};
use tch::{Device, Kind};

/// Trains checkpoints for nextclip: first the autoencoder, then the predictor on its latents.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Example, a model of generated scenes (about two hours on two cores with AVX512-BF16; scripts/train-base is how the
shipped one was trained):
  nextclip-train vae       --run runs/mine
  nextclip-train predictor --run runs/mine --checkpoint models/mine --name mine
Both go on where they stopped when they are started again with the same --run."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train the autoencoder (frames to latents and back) into RUN/vae.
    Vae(VaeArgs),
    /// Train the predictor on RUN/vae's latents and write the whole checkpoint.
    Predictor(PredictorArgs),
    /// Adapt a checkpoint to one camera, from minutes of its normal footage.
    #[command(after_help = "\
Of long films the first seven tenths are learned from, the next tenth decides when to stop, and the last two
are not looked at: `nextclip-eval predict --part held-out` measures on them.
Example:
  nextclip-train finetune --checkpoint models/base --video yard.mp4 --out models/yard")]
    Finetune(FinetuneArgs),
    /// Make a student of a checkpoint that draws sharp clips in a few denoising steps.
    #[command(after_help = "\
The student is for pictures; for scores its teacher stays the better choice, whose mean is nearer to what comes.
Example:
  nextclip-train distill --checkpoint models/base --source scenes --out models/sharp")]
    Distill(DistillArgs),
}

#[derive(Debug, Args)]
struct Common {
    /// Folder of the run: its state, loss table and curve; a run found there goes on.
    #[arg(long)]
    run: PathBuf,
    /// What to learn from: "scenes" (generated), a video file or a folder of videos. May be repeated; a
    /// weight says how often each is drawn, as in --source scenes=3 --source films/=1.
    #[arg(long, default_value = "scenes")]
    source: Vec<Origin>,
    /// Frame size, HEIGHTxWIDTH, multiples of 16.
    #[arg(long, default_value = "128x128", value_parser = parse_size)]
    size: (usize, usize),
    /// Frames remembered.
    #[arg(long, default_value_t = 7)]
    history: usize,
    /// Frames predicted at once.
    #[arg(long, default_value_t = 5)]
    clip: usize,
    /// Time between frames, in milliseconds.
    #[arg(long, default_value_t = 200)]
    interval_ms: u32,
    #[command(flatten)]
    machine: Machine,
}

/// How it is computed.
#[derive(Debug, Args)]
struct Machine {
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Arithmetic of a step; "auto" takes bf16 where the processor multiplies it, else fp32.
    #[arg(long, value_enum, default_value = "auto")]
    precision: Precision,
    /// Threads of the matrix products.
    #[arg(long)]
    threads: Option<i32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Precision {
    Auto,
    Bf16,
    Fp32,
}

#[derive(Debug, Args)]
struct VaeArgs {
    #[command(flatten)]
    common: Common,
    /// Checkpoint whose autoencoder to start from, instead of random weights.
    #[arg(long)]
    from: Option<PathBuf>,
    /// Optimiser steps.
    #[arg(long, default_value_t = 8000)]
    steps: u64,
    /// Crops a step.
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Side of a crop, in pixels, a multiple of 8.
    #[arg(long, default_value_t = 64)]
    crop: usize,
    /// Learning rate at its height.
    #[arg(long, default_value_t = 2e-3)]
    lr: f64,
    /// Rule of the kernels of residual blocks.
    #[arg(long, value_enum, default_value = "muon")]
    optimiser: Rule,
    /// Muon's learning rate, relative to --lr.
    #[arg(long, default_value_t = 10.0)]
    muon_ratio: f64,
    /// Pictures of generated scenes held in memory.
    #[arg(long, default_value_t = 6000)]
    pool: usize,
}

#[derive(Debug, Args)]
struct PredictorArgs {
    #[command(flatten)]
    common: Common,
    /// Where to write the checkpoint.
    #[arg(long)]
    checkpoint: PathBuf,
    /// Checkpoint to start from, its autoencoder included, instead of RUN/vae and random weights.
    #[arg(long)]
    from: Option<PathBuf>,
    /// Name of the model.
    #[arg(long, default_value = "base")]
    name: String,
    /// Optimiser steps. A finished run goes on when this is raised.
    #[arg(long, default_value_t = 12_000)]
    steps: u64,
    /// Steps at the end over which the learning rate falls to zero.
    #[arg(long, default_value_t = 4000)]
    decay_steps: u64,
    /// Train besides where things move to, which a model needs that moves the last frame's pixels.
    #[arg(long)]
    motion: bool,
    /// Windows a step.
    #[arg(long, default_value_t = 2)]
    batch: usize,
    /// Frames of a training sequence; HISTORY + CLIP if not given. The published stages have 16, then 48, then 80.
    #[arg(long)]
    frames: Option<usize>,
    /// Frame intervals of a sequence are drawn from 1 to this many of --interval-ms: what moves fast and what moves
    /// slowly from the same films. Published: 12 in the later stages, each of 4 frames of a film.
    #[arg(long, default_value_t = 1)]
    longest_stride: usize,
    /// Learning rate at its height; 1e-3 with muon, 1e-4 (as published) with adamw, if not given.
    #[arg(long)]
    lr: Option<f64>,
    /// Rule of the layers' weight matrices. "adamw" takes all of the published settings: betas 0.9 and 0.95, epsilon
    /// 1e-5, weight decay 0.1, clipping at 1.
    #[arg(long, value_enum, default_value = "muon")]
    optimiser: Rule,
    /// Muon's learning rate, relative to --lr.
    #[arg(long, default_value_t = 10.0)]
    muon_ratio: f64,
    /// Clips of generated scenes held in memory as latents.
    #[arg(long, default_value_t = 4000)]
    pool: usize,
    /// Share of clips trained at t = 0, where a one-step sampler stands.
    #[arg(long, default_value_t = 0.4)]
    pure_noise: f64,
    /// Share of steps whose first clip, which has no history, is estimated too; 1 as published. Only guidance
    /// needs it.
    #[arg(long, default_value_t = 0.1)]
    unconditional: f64,
}

#[derive(Debug, Args)]
struct FinetuneArgs {
    /// Checkpoint to start from.
    #[arg(long)]
    checkpoint: PathBuf,
    /// A film or a folder of films of the camera's normal days. May be repeated.
    #[arg(long, required = true)]
    video: Vec<Origin>,
    /// Where to write the adapted checkpoint.
    #[arg(long)]
    out: PathBuf,
    /// Folder of the run: its state, loss table and curve; a run found there goes on. OUT/run if not given.
    #[arg(long)]
    run: Option<PathBuf>,
    /// Train low-rank changes of this rank (LoRA) instead of all weights of the predictor.
    #[arg(long)]
    lora: Option<i64>,
    /// Optimiser steps, at most.
    #[arg(long, default_value_t = 1000)]
    steps: u64,
    /// Validations without a new best before it stops; 0 goes on to the last step.
    #[arg(long, default_value_t = 4)]
    patience: u64,
    /// Steps between two validations; they come with the log, every 50 steps at the most.
    #[arg(long, default_value_t = 100)]
    validate_every: u64,
    /// Give a checkpoint that has none the motion that moves the last frame's pixels; one that has it keeps it.
    #[arg(long)]
    motion: bool,
    /// Windows a step.
    #[arg(long, default_value_t = 2)]
    batch: usize,
    /// Learning rate at its height, falling to zero; 1e-3 with --lora, 3e-4 without, if not given.
    #[arg(long)]
    lr: Option<f64>,
    /// Clips of generated scenes held in memory, where "scenes" is among the videos.
    #[arg(long, default_value_t = 1000)]
    pool: usize,
    /// Share of windows trained at t = 0, where a one-step sampler stands.
    #[arg(long, default_value_t = 0.8)]
    pure_noise: f64,
    /// Share of windows that continue the model's own prediction, for steadiness further ahead.
    #[arg(long, default_value_t = 0.2)]
    own_past: f64,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Debug, Args)]
struct DistillArgs {
    /// The teacher's checkpoint.
    #[arg(long)]
    checkpoint: PathBuf,
    /// What to learn from: "scenes" (generated), a video file or a folder of videos, with a weight as in scenes=3. May
    /// be repeated.
    #[arg(long, default_value = "scenes")]
    source: Vec<Origin>,
    /// Where to write the student's checkpoint.
    #[arg(long)]
    out: PathBuf,
    /// Folder of the run: its state, loss table and curve; a run found there goes on. OUT/run if not given.
    #[arg(long)]
    run: Option<PathBuf>,
    /// Numbers of denoising steps that the student is made for.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4", value_name = "K,K,...")]
    denoising_steps: Vec<usize>,
    /// Weight of nearness to what came, beside the critic's word: less is sharper and further off.
    #[arg(long, default_value_t = 0.2)]
    nearness: f64,
    /// Optimiser steps.
    #[arg(long, default_value_t = 3000)]
    steps: u64,
    /// Windows a step.
    #[arg(long, default_value_t = 2)]
    batch: usize,
    /// Learning rate at its height, falling to zero over the last half.
    #[arg(long, default_value_t = 3e-4)]
    lr: f64,
    /// Clips of generated scenes held in memory.
    #[arg(long, default_value_t = 1000)]
    pool: usize,
    #[command(flatten)]
    machine: Machine,
}

impl Cli {
    pub(crate) fn run(self) -> Result<()> {
        match self.command {
            Command::Vae(args) => args.run(),
            Command::Predictor(args) => args.run(),
            Command::Finetune(args) => args.run(),
            Command::Distill(args) => args.run(),
        }
    }
}

impl Common {
    /// Geometry, arithmetic and device, after the global settings are made.
    fn resolve(&self) -> Result<(Geometry, Kind, Device)> {
        let (height, width) = self.size;
        let config = vae::small_config();
        let geometry = Geometry {
            height,
            width,
            vae_scale: config.scale(),
            latent_channels: config.latent_channels,
            patch: 2,
            history: self.history,
            clip: self.clip,
            frame_interval_ms: self.interval_ms,
        };
        geometry.validate()?;
        let (kind, device) = self.machine.resolve();
        Ok((geometry, kind, device))
    }
}

impl Machine {
    /// Arithmetic and device, after the number of threads is set.
    fn resolve(&self) -> (Kind, Device) {
        if let Some(threads) = self.threads {
            tch::set_num_threads(threads);
        }
        let device = Device::cuda_if_available();
        let kind = match self.precision {
            Precision::Auto => params::fastest_kind(device),
            Precision::Bf16 => Kind::BFloat16,
            Precision::Fp32 => Kind::Float,
        };
        (kind, device)
    }
}

impl FinetuneArgs {
    fn run(self) -> Result<()> {
        check_share("pure-noise", self.pure_noise)?;
        if let Some(rank) = self.lora {
            anyhow::ensure!((1..=256).contains(&rank), "--lora {rank} is not in 1..256");
        }
        check_share("own-past", self.own_past)?;
        let (compute, device) = self.machine.resolve();
        let lr = self.lr.unwrap_or(if self.lora.is_some() { 1e-3 } else { 3e-4 });
        let plan = finetune::Plan {
            course: Course {
                dir: self.run.unwrap_or_else(|| self.out.join("run")),
                steps: self.steps,
                validate_every: self.validate_every.max(1),
                patience: (self.patience > 0).then_some(self.patience),
                schedule: Schedule { peak: lr, warm_up: 50, decay: self.steps, steps: self.steps },
                optimiser: Settings {
                    // Muon is made for whole matrices, which the halves of a low-rank change are not.
                    rule: if self.lora.is_some() { Rule::Adamw } else { Rule::Muon },
                    average: 0.99,
                    ..Settings::default()
                },
            },
            checkpoint: self.checkpoint,
            out: self.out,
            origins: self.video,
            lora: self.lora,
            motion: self.motion.then_some(Motion::DEFAULT),
            windows: Windows {
                batch: self.batch,
                own_past: self.own_past,
                pool: self.pool,
                seed: self.machine.seed,
            },
            pure_noise: self.pure_noise,
            compute,
            device,
        };
        finetune::run(&plan)?;
        announce(&plan.out);
        Ok(())
    }
}

impl DistillArgs {
    fn run(self) -> Result<()> {
        anyhow::ensure!(
            self.nearness.is_finite() && self.nearness >= 0.0,
            "--nearness {} is not 0 or more",
            self.nearness
        );
        let (compute, device) = self.machine.resolve();
        let plan = distill::Plan {
            course: Course {
                dir: self.run.unwrap_or_else(|| self.out.join("run")),
                steps: self.steps,
                validate_every: 500,
                patience: None,
                schedule: Schedule { peak: self.lr, warm_up: 50, decay: self.steps / 2, steps: self.steps },
                optimiser: Settings {
                    // A critic's aim moves: what was learned of it long ago misleads.
                    betas: (0.5, 0.95),
                    average: 0.995,
                    ..Settings::default()
                },
            },
            checkpoint: self.checkpoint,
            out: self.out,
            origins: self.source,
            windows: Windows { batch: self.batch, own_past: 0.0, pool: self.pool, seed: self.machine.seed },
            steps: self.denoising_steps,
            nearness: self.nearness,
            compute,
            device,
        };
        distill::run(&plan)?;
        announce(&plan.out);
        Ok(())
    }
}

fn check_share(name: &str, share: f64) -> Result<()> {
    anyhow::ensure!((0.0..=1.0).contains(&share), "--{name} {share} is not in 0..1");
    Ok(())
}

fn announce(checkpoint: &Path) {
    let name = checkpoint.file_name().unwrap_or_default().to_string_lossy();
    say!("wrote {0}; next: nextclip-export export {0} --out target/bundles/{name}", checkpoint.display());
}

impl VaeArgs {
    fn run(self) -> Result<()> {
        let (geometry, compute, device) = self.common.resolve()?;
        anyhow::ensure!(
            self.crop > 0 && self.crop.is_multiple_of(8),
            "--crop {} is not a multiple of 8",
            self.crop
        );
        let plan = train_vae::Plan {
            course: Course {
                dir: self.common.run.clone(),
                steps: self.steps,
                validate_every: 500,
                patience: None,
                schedule: Schedule { peak: self.lr, warm_up: 100, decay: self.steps, steps: self.steps },
                optimiser: Settings {
                    rule: self.optimiser,
                    weight_decay: 0.01,
                    average: 0.998,
                    muon_ratio: self.muon_ratio,
                    ..Settings::default()
                },
            },
            from: self.from,
            origins: self.common.source,
            config: vae::small_config(),
            geometry,
            batch: self.batch,
            crop: self.crop,
            seed: self.common.machine.seed,
            pool: self.pool,
            compute,
            device,
        };
        let params = train_vae::train(&plan)?;
        checkpoint::save_vae(&self.common.run, &plan.config, &params, Kind::Float)?;
        say!("wrote {}; next: nextclip-train predictor --run {0}", self.common.run.display());
        Ok(())
    }
}

impl PredictorArgs {
    fn run(self) -> Result<()> {
        let (geometry, compute, device) = self.common.resolve()?;
        check_share("pure-noise", self.pure_noise)?;
        check_share("unconditional", self.unconditional)?;
        let frames = self.frames.unwrap_or(geometry.history + geometry.clip);
        anyhow::ensure!(
            frames > geometry.clip,
            "--frames {frames} leaves no frame before a clip of {}",
            geometry.clip
        );
        let (settings, lr) = match self.optimiser {
            Rule::Adamw => (Settings::published(), 1e-4),
            Rule::Muon => (Settings::default(), 1e-3),
        };
        let lr = self.lr.unwrap_or(lr);
        let (vae_config, vae_params) =
            checkpoint::load_vae(self.from.as_ref().unwrap_or(&self.common.run), compute, device)
                .context("the predictor learns on latents: run `nextclip-train vae` first, or give --from")?;
        let plan = train_predictor::Plan {
            course: Course {
                dir: self.common.run.clone(),
                steps: self.steps,
                validate_every: 500,
                patience: None,
                schedule: Schedule { peak: lr, warm_up: 100, decay: self.decay_steps, steps: self.steps },
                optimiser: Settings { muon_ratio: self.muon_ratio, ..settings },
            },
            from: self.from,
            origins: self.common.source,
            config: transformer::small_config(),
            geometry,
            lora: None,
            motion: self.motion.then_some(Motion::DEFAULT),
            batch: self.batch,
            frames,
            longest_stride: self.longest_stride,
            seed: self.common.machine.seed,
            pool: self.pool,
            pure_noise: self.pure_noise,
            unconditional: self.unconditional,
            compute,
            device,
        };
        let params = train_predictor::train(&plan, &vae_config, &vae_params)?;
        let trained = Trained { geometry, name: self.name, steps: self.steps, motion: plan.motion };
        checkpoint::save_transformer(&self.checkpoint, &plan.config, trained, &params, Kind::Half)?;
        checkpoint::save_vae(&self.checkpoint, &vae_config, &vae_params, Kind::Half)?;
        announce(&self.checkpoint);
        Ok(())
    }
}

/// "128x160" to (height, width).
fn parse_size(text: &str) -> Result<(usize, usize), String> {
    let sides = text.split_once('x').and_then(|(h, w)| Some((h.parse().ok()?, w.parse().ok()?)));
    sides.ok_or_else(|| format!("{text:?} is not HEIGHTxWIDTH, as in 128x160"))
}
