//! `nextclip-train predictor`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use nextclip_core::Motion;
use nextclip_core::checkpoint::Trained;
use nextclip_train::fit::Course;
use nextclip_train::optim::{Rule, Schedule, Settings};
use nextclip_train::{checkpoint, train_predictor, transformer};
use tch::Kind;

use super::{Common, announce, check_share};

#[derive(Debug, Args)]
pub(super) struct PredictorArgs {
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

impl PredictorArgs {
    pub(super) fn run(self) -> Result<()> {
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
