//! `nextclip-train distill`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use nextclip_core::Motion;
use nextclip_train::distill;
use nextclip_train::fit::Course;
use nextclip_train::footage::Origin;
use nextclip_train::optim::{Schedule, Settings};
use nextclip_train::windows::Windows;

use super::{Machine, announce, check_weight};

#[derive(Debug, Args)]
pub(super) struct DistillArgs {
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
    /// Learn only how the pictures are painted (decoder and blend), of the predictor's draws as they are: half the time
    /// a step. For the last of several runs.
    #[arg(long)]
    pictures_only: bool,
    /// The critic to go on with, RUN/critic.safetensors of an earlier run; a new one, which knows nothing at first, if not given.
    #[arg(long, value_name = "FILE")]
    critic: Option<PathBuf>,
    /// Weight of nearness to what came, latent cell by latent cell, beside the critic's word: less is freer and further off.
    #[arg(long, default_value_t = 0.3)]
    nearness: f64,
    /// Give the student the motion that the teacher lacks, as `finetune --motion` does.
    #[arg(long, conflicts_with = "pictures_only")]
    motion: bool,
    /// Optimiser steps.
    #[arg(long, default_value_t = 1500)]
    steps: u64,
    /// Windows a step.
    #[arg(long, default_value_t = 2)]
    batch: usize,
    /// Learning rate at its height, falling to zero over the last half.
    #[arg(long, default_value_t = 3e-4)]
    lr: f64,
    /// Steps between two validations: PSNR above the last frame's, and sharpness, on held-out clips.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    validate_every: u64,
    /// Clips of generated scenes held in memory.
    #[arg(long, default_value_t = 1000)]
    pool: usize,
    #[command(flatten)]
    machine: Machine,
}

impl DistillArgs {
    pub(super) fn run(self) -> Result<()> {
        check_weight("nearness", self.nearness)?;
        let (compute, device) = self.machine.resolve();
        let plan = distill::Plan {
            course: Course {
                dir: self.run.unwrap_or_else(|| self.out.join("run")),
                steps: self.steps,
                validate_every: self.validate_every,
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
            motion: self.motion.then_some(Motion::DEFAULT),
            windows: Windows { batch: self.batch, own_past: 0.0, pool: self.pool, seed: self.machine.seed },
            critic: self.critic,
            steps: self.denoising_steps,
            pictures_only: self.pictures_only,
            nearness: self.nearness,
            compute,
            device,
        };
        distill::run(&plan)?;
        announce(&plan.out);
        Ok(())
    }
}
