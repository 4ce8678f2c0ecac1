//! `nextclip-train vae`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use nextclip_core::say;
use nextclip_train::fit::Course;
use nextclip_train::optim::{Rule, Schedule, Settings};
use nextclip_train::{checkpoint, train_vae, vae};
use tch::Kind;

use super::Common;

#[derive(Debug, Args)]
pub(super) struct VaeArgs {
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

impl VaeArgs {
    pub(super) fn run(self) -> Result<()> {
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
