//! `nextclip-train finetune`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use nextclip_core::Motion;
use nextclip_train::finetune;
use nextclip_train::fit::Course;
use nextclip_train::footage::Origin;
use nextclip_train::optim::{Rule, Schedule, Settings};
use nextclip_train::windows::Windows;

use super::{Machine, announce, check_share, check_weight};

#[derive(Debug, Args)]
pub(super) struct FinetuneArgs {
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
    /// Train only how pictures are painted (decoder and blend), of the predictor's estimates as they are: half the time a
    /// step.
    #[arg(long, conflicts_with_all = ["lora", "motion"])]
    pictures_only: bool,
    /// Weight of plain reconstruction beside the predicted pictures': more makes the decoder a better autoencoder.
    #[arg(long, default_value_t = 0.2)]
    reconstruction: f64,
    /// Optimiser steps, at most.
    #[arg(long, default_value_t = 1000)]
    steps: u64,
    /// Validations without a new best before it stops; 0 goes on to the last step.
    #[arg(long, default_value_t = 4)]
    patience: u64,
    /// Steps between two validations; they come with the log, every 50 steps at the most.
    #[arg(long, default_value_t = 100)]
    validate_every: u64,
    /// Give a checkpoint that has none the motion that moves the last frame's pixels, and one that has it what it lacks: the
    /// earlier pictures that things are followed in, the layers that refine it, that cells of one thing agree on it and go as
    /// one, and that things land each by itself.
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

impl FinetuneArgs {
    pub(super) fn run(self) -> Result<()> {
        check_share("pure-noise", self.pure_noise)?;
        if let Some(rank) = self.lora {
            anyhow::ensure!((1..=256).contains(&rank), "--lora {rank} is not in 1..256");
        }
        check_share("own-past", self.own_past)?;
        check_weight("reconstruction", self.reconstruction)?;
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
            pictures_only: self.pictures_only,
            reconstruction: self.reconstruction,
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
