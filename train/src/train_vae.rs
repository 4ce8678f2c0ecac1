//! Trains the autoencoder on single frames.

use std::path::PathBuf;

use anyhow::Result;
use nextclip_core::metrics;
use nextclip_core::{Geometry, checkpoint::VaeConfig};
use nextclip_scenes::Split;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::footage::{self, Footage, Origin};
use crate::optim::{Optimiser, Rule, Schedule, Settings};
use crate::params::Params;
use crate::run::Run;
use crate::vae::{self, Vae};

/// What the user chose.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Run folder.
    pub dir: PathBuf,
    /// Sources, sampled evenly.
    pub origins: Vec<Origin>,
    /// Sizes of the autoencoder.
    pub config: VaeConfig,
    /// Frame size.
    pub geometry: Geometry,
    /// Optimiser steps.
    pub steps: u64,
    /// Crops a step.
    pub batch: usize,
    /// Side of a crop, in pixels.
    pub crop: usize,
    /// Learning rate at its height.
    pub lr: f64,
    /// Rule of the kernels of residual blocks.
    pub rule: Rule,
    /// Muon's learning rate, relative to `lr`.
    pub muon_ratio: f64,
    /// Seed of weights, crops and noise.
    pub seed: u64,
    /// Pictures held in memory, of each source.
    pub pool: usize,
    /// Arithmetic of a step.
    pub compute: Kind,
    /// Where tensors live.
    pub device: Device,
}

/// Weight of the absolute error beside the squared one: edges.
const L1_WEIGHT: f64 = 0.1;
/// Weight of the divergence from a standard normal: keeps latents bounded.
const KL_WEIGHT: f64 = 2e-5;

/// Trains, or goes on. Returns the weights' average with standardised latents.
pub fn train(plan: &Plan) -> Result<Params> {
    let config = &plan.config;
    let specs = vae::specs(config);
    let mut params = Params::new(&specs, plan.seed, plan.compute, plan.device);
    let settings = Settings {
        rule: plan.rule,
        betas: (0.9, 0.95),
        eps: 1e-8,
        weight_decay: 0.01,
        clip_norm: 1.0,
        average: 0.998,
        muon_ratio: plan.muon_ratio,
    };
    let mut optimiser = Optimiser::new(&params, settings);
    let (mut run, start) = Run::open(&plan.dir, "vae", plan.steps, &mut params, &mut optimiser)?;
    let schedule = Schedule { peak: plan.lr, warm_up: 100, decay: plan.steps, steps: plan.steps };

    let pool = picture_pool(plan, Split::Train, plan.pool)?;
    let held_out = picture_pool(plan, Split::HeldOut, 64)?.to_device(plan.device);
    for step in start..plan.steps {
        let frames = footage::normalised(&crops(&pool, plan, step).to_device(plan.device));
        let loss = loss(&Vae::new(config, &params), &frames, plan.seed, step);
        loss.backward();
        optimiser.step(&params, step, schedule.at(step));
        let loss = loss.double_value(&[]);
        anyhow::ensure!(loss.is_finite(), "the loss is {loss} at step {step}: lower the learning rate");
        run.record(step, loss, 50, || {
            let due = (step + 1) % 500 == 0 || step + 1 == plan.steps;
            Ok(due.then(|| psnr_db(&Vae::new(config, &params), &held_out)))
        })?;
        if (step + 1) % 50 == 0 && run.save_due() {
            run.save(step + 1, &params, &optimiser)?;
        }
    }
    run.save(plan.steps, &params, &optimiser)?;

    let mut weights = optimiser.averages();
    weights.extend(
        params.iter().filter(|(_, t)| !t.requires_grad()).map(|(n, t)| (n.to_owned(), t.shallow_clone())),
    );
    params.assign(&weights)?;
    log::info!("held-out reconstruction: {:.2} dB", psnr_db(&Vae::new(config, &params), &held_out));
    standardise(config, &params, &pool, plan.device);
    log::info!("after standardising latents: {:.2} dB", psnr_db(&Vae::new(config, &params), &held_out));
    Ok(params)
}

/// Mean squared and absolute error of the reconstruction of a posterior sample, and the divergence.
pub fn loss(vae: &Vae<'_>, frames: &Tensor, seed: u64, step: u64) -> Tensor {
    let (mean, log_variance) = vae.posterior(frames);
    let noise = nextclip_core::sampler::noise(seed, step, mean.numel());
    let noise = Tensor::from_slice(&noise).reshape(mean.size()).to_device(mean.device());
    let std = (&log_variance * 0.5).exp();
    let difference = vae.decode(&(&mean + std * noise)) - frames;
    let kl = (mean.square() + log_variance.exp() - 1.0 - &log_variance).sum(Kind::Float) * 0.5
        / (frames.size()[0] * frames.size()[2] * frames.size()[3]) as f64;
    difference.square().mean(Kind::Float) + difference.abs().mean(Kind::Float) * L1_WEIGHT + kl * KL_WEIGHT
}

/// Mean of per-picture PSNR of the reconstruction of pictures (n, H, W, 3).
pub fn psnr_db(vae: &Vae<'_>, pictures: &Tensor) -> f64 {
    tch::no_grad(|| {
        let frames = footage::normalised(pictures);
        let rebuilt = vae.decode(&vae.posterior(&frames).0).clamp(-1.0, 1.0);
        let mse =
            ((rebuilt - frames) * 127.5).square().mean_dim([1_i64, 2, 3].as_slice(), false, Kind::Float);
        let mse: Vec<f64> = Vec::try_from(mse.to_kind(Kind::Double)).unwrap_or_default();
        mse.iter().map(|mse| metrics::psnr_of_mse_db(*mse)).sum::<f64>() / mse.len() as f64
    })
}

/// Channel statistics of the pool's latents, folded into the weights.
fn standardise(config: &VaeConfig, params: &Params, pool: &Tensor, device: Device) {
    let (mean, std) = tch::no_grad(|| {
        let sample = pool.narrow(0, 0, pool.size()[0].min(512)).to_device(device);
        let latents = Vae::new(config, params).posterior(&footage::normalised(&sample)).0;
        let dims = [0_i64, 2, 3];
        (latents.mean_dim(dims.as_slice(), false, Kind::Float), latents.std_dim(dims.as_slice(), true, false))
    });
    vae::standardise(params, &mean, &std);
}

/// One picture of each of many clips, (n, H, W, 3), from all sources alike.
fn picture_pool(plan: &Plan, split: Split, len: usize) -> Result<Tensor> {
    let mut pools = Vec::new();
    for origin in &plan.origins {
        let footage = Footage::open(origin, &plan.geometry, 1, split)?;
        let len = footage.count().map_or(len, |all| len.min(all as usize));
        let stride = footage.count().map_or(1, |all| (all / len as u64).max(1));
        let pictures: Vec<_> = (0..len as u64).flat_map(|index| footage.clip(index * stride)).collect();
        pools.push(footage::tensor_of(&pictures));
    }
    Ok(Tensor::cat(&pools, 0))
}

/// Random crops of random pictures, (batch, crop, crop, 3), half of them mirrored.
fn crops(pool: &Tensor, plan: &Plan, step: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed ^ 0x0c20_0b5e);
    rng.set_stream(step);
    let (side, h, w) = (plan.crop as i64, plan.geometry.height as i64, plan.geometry.width as i64);
    let (rows, columns) = (side.min(h), side.min(w));
    let crops: Vec<Tensor> = (0..plan.batch)
        .map(|_| {
            let picture = pool.get(rng.random_range(0..pool.size()[0]));
            let (top, left) = (rng.random_range(0..=h - rows), rng.random_range(0..=w - columns));
            let crop = picture.narrow(0, top, rows).narrow(1, left, columns);
            if rng.random() { crop.flip([1]) } else { crop }
        })
        .collect();
    Tensor::stack(&crops, 0)
}
