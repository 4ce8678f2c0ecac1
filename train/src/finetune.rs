//! Adapts a checkpoint to one camera: first the decoder to how its pictures look, then the predictor to how
//! things move there. Both stop by the part of the footage that neither learns from.

use std::path::PathBuf;

use anyhow::{Context, Result};
use nextclip_core::Geometry;
use nextclip_core::checkpoint::{Trained, TransformerConfig};
use tch::{Device, Kind};

use crate::footage::Origin;
use crate::optim::{Rule, Schedule, Settings};
use crate::{checkpoint, train_predictor, train_vae};

/// What the user chose.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Checkpoint to start from.
    pub checkpoint: PathBuf,
    /// The camera's normal footage.
    pub origins: Vec<Origin>,
    /// Where the adapted checkpoint is written.
    pub out: PathBuf,
    /// Folder of the run: state, losses, curves.
    pub dir: PathBuf,
    /// Rank of low-rank changes to the predictor; all of its weights without.
    pub lora: Option<i64>,
    /// Optimiser steps of the decoder; 0 leaves it as it is.
    pub decoder_steps: u64,
    /// Optimiser steps of the predictor, at most.
    pub steps: u64,
    /// Validations without a new best before the predictor stops.
    pub patience: u64,
    /// Steps between two validations.
    pub validate_every: u64,
    /// Learning rate of the predictor.
    pub lr: f64,
    /// Share of clips trained at t = 0.
    pub pure_noise: f64,
    /// Seed of everything random.
    pub seed: u64,
    /// Arithmetic of a step.
    pub compute: Kind,
    /// Where tensors live.
    pub device: Device,
}

/// Learning rate of the decoder at its height.
const DECODER_LR: f64 = 5e-4;
/// Share of steps that estimate the first clip, which has no history.
const UNCONDITIONAL: f64 = 0.1;
/// Windows a step.
const BATCH: usize = 2;

/// Adapts, or goes on, and writes the checkpoint.
pub fn run(plan: &Plan) -> Result<()> {
    let (config, trained) = checkpoint::load_transformer_config(&plan.checkpoint)?;
    let (vae_config, mut vae) = checkpoint::load_vae(&plan.checkpoint, plan.compute, plan.device)?;
    if plan.decoder_steps > 0 {
        log::info!("the decoder, {} steps", plan.decoder_steps);
        let decoder = decoder_plan(plan, &vae_config, trained.geometry);
        let before = train_vae::validation_db(&decoder, &vae)?;
        let adapted = train_vae::train(&decoder)?;
        let after = train_vae::validation_db(&decoder, &adapted)?;
        log::info!("reconstruction {before:.2} dB before, {after:.2} dB after");
        if after > before {
            vae = adapted;
        }
    }
    log::info!("the predictor, {} steps at most", plan.steps);
    let predictor = predictor_plan(plan, &config, trained.geometry);
    let params = train_predictor::train(&predictor, &vae_config, &vae)?;
    let name = plan.out.file_name().context("the checkpoint's folder needs a name")?;
    let trained =
        Trained { name: name.to_string_lossy().into_owned(), steps: trained.steps + plan.steps, ..trained };
    checkpoint::save_transformer(&plan.out, &config, trained, &params, Kind::Half)?;
    checkpoint::save_vae(&plan.out, &vae_config, &vae, Kind::Half)
}

fn decoder_plan(
    plan: &Plan,
    config: &nextclip_core::checkpoint::VaeConfig,
    geometry: Geometry,
) -> train_vae::Plan {
    train_vae::Plan {
        dir: plan.dir.clone(),
        from: Some(plan.checkpoint.clone()),
        origins: plan.origins.clone(),
        decoder_only: true,
        config: config.clone(),
        geometry,
        steps: plan.decoder_steps,
        batch: 8,
        crop: 64,
        lr: DECODER_LR,
        rule: Rule::Muon,
        muon_ratio: 10.0,
        seed: plan.seed,
        pool: 1000,
        compute: plan.compute,
        device: plan.device,
    }
}

fn predictor_plan(plan: &Plan, config: &TransformerConfig, geometry: Geometry) -> train_predictor::Plan {
    train_predictor::Plan {
        dir: plan.dir.clone(),
        from: Some(plan.checkpoint.clone()),
        origins: plan.origins.clone(),
        config: config.clone(),
        geometry,
        lora: plan.lora,
        steps: plan.steps,
        validate_every: plan.validate_every,
        patience: Some(plan.patience),
        batch: BATCH,
        schedule: Schedule { peak: plan.lr, warm_up: 50, decay: plan.steps, steps: plan.steps },
        optimiser: Settings {
            rule: if plan.lora.is_some() { Rule::Adamw } else { Rule::Muon },
            betas: (0.9, 0.95),
            eps: 1e-8,
            weight_decay: 0.05,
            clip_norm: 1.0,
            average: 0.99,
            muon_ratio: 10.0,
        },
        seed: plan.seed,
        pool: 1000,
        pure_noise: plan.pure_noise,
        unconditional: UNCONDITIONAL,
        compute: plan.compute,
        device: plan.device,
    }
}
