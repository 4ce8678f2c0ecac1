//! Trains the autoencoder on single frames.

use std::path::PathBuf;

use anyhow::Result;
use nextclip_core::metrics;
use nextclip_core::{Geometry, checkpoint::VaeConfig};
use nextclip_scenes::Split;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::checkpoint;
use crate::fit::{Course, fit};
use crate::footage::{self, Origin};
use crate::gradients;
use crate::loss::Loss;
use crate::noise::normal;
use crate::params::Params;
use crate::pool;
use crate::vae::{self, Vae};

/// What the user chose.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Length, pace and run folder.
    pub course: Course,
    /// Checkpoint folder whose autoencoder a new run starts from; random weights without.
    pub from: Option<PathBuf>,
    /// Sources, drawn by their weights.
    pub origins: Vec<Origin>,
    /// Sizes of the autoencoder.
    pub config: VaeConfig,
    /// Frame size.
    pub geometry: Geometry,
    /// Crops a step.
    pub batch: usize,
    /// Side of a crop, in pixels.
    pub crop: usize,
    /// Seed of weights, crops and noise.
    pub seed: u64,
    /// Pictures of generated scenes held in memory.
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
/// Parts of a step that are computed side by side on a CPU.
const PARTS: i64 = 4;
/// Pictures of each source that reconstruction is checked on.
const VALIDATION_PICTURES: i64 = 64;
/// Pictures whose latents give the channels' statistics.
const STANDARDISED_ON: i64 = 512;

/// Trains, or goes on. Returns the weights' average with standardised latents.
pub fn train(plan: &Plan) -> Result<Params> {
    let config = &plan.config;
    let specs = vae::specs(config);
    let mut params = Params::new(&specs, plan.seed, plan.compute, plan.device);
    if let Some(from) = &plan.from {
        params.assign(&checkpoint::vae_weights(from)?)?;
    }
    let pools = picture_pools(plan, Split::Train, plan.pool)?;
    let validation = picture_pools(plan, Split::Validation, VALIDATION_PICTURES as usize)?;
    let gradients = |params: &Params, step: u64| {
        let frames = footage::normalised(&crops(&pools, plan, step).to_device(plan.device));
        let parts = if plan.device.is_cuda() { 1 } else { PARTS.min(plan.batch as i64) };
        let parts = frames.chunk(parts, 0).into_iter().zip(step * PARTS as u64..).collect();
        gradients::of_parts(params, parts, |params, (frames, stream)| {
            Ok(loss(&Vae::new(config, params), &frames, plan.seed, stream))
        })
    };
    let validated = |params: &Params| Ok(validate(plan, &Vae::new(config, params), &validation));
    let params = fit("vae", &plan.course, params, gradients, validated)?;
    standardise(config, &params, &pools, plan.device);
    log::info!("after standardising latents:");
    validate(plan, &Vae::new(config, &params), &validation);
    Ok(params)
}

/// Mean squared and absolute error of the reconstruction of a posterior sample, and the divergence.
pub fn loss(vae: &Vae<'_>, frames: &Tensor, seed: u64, stream: u64) -> Loss {
    let (mean, log_variance) = vae.posterior(frames);
    let std = (&log_variance * 0.5).exp();
    let difference = vae.decode(&(&mean + std * normal(&mean, seed, stream))) - frames;
    let kl = (mean.square() + log_variance.exp() - 1.0 - &log_variance).sum(Kind::Float) * 0.5
        / (frames.size()[0] * frames.size()[2] * frames.size()[3]) as f64;
    Loss::of([
        ("squared", difference.square().mean(Kind::Float)),
        ("absolute", difference.abs().mean(Kind::Float) * L1_WEIGHT),
        ("divergence", kl * KL_WEIGHT),
    ])
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

/// Channel statistics of the pools' latents, every source alike, folded into the weights.
fn standardise(config: &VaeConfig, params: &Params, pools: &[(f64, Tensor)], device: Device) {
    let (mean, std) = tch::no_grad(|| {
        let some = |(_, pool): &(f64, Tensor)| {
            let stride = pool.size()[0] * pools.len() as i64 / STANDARDISED_ON;
            pool.slice(0, None, None, stride.max(1))
        };
        let sample = Tensor::cat(&pools.iter().map(some).collect::<Vec<_>>(), 0).to_device(device);
        let latents = Vae::new(config, params).posterior(&footage::normalised(&sample)).0;
        let dims = [0_i64, 2, 3];
        (latents.mean_dim(dims.as_slice(), false, Kind::Float), latents.std_dim(dims.as_slice(), true, false))
    });
    vae::standardise(params, &mean, &std);
}

/// Pictures of every source, each (n, H, W, 3), with the source's weight.
fn picture_pools(plan: &Plan, part: Split, scenes: usize) -> Result<Vec<(f64, Tensor)>> {
    let of_origin = |origin: &Origin| {
        let pictures = footage::pictures(origin, &plan.geometry, part, scenes)?;
        Ok((origin.weight, footage::tensor_of(&pictures)))
    };
    plan.origins.iter().map(of_origin).collect()
}

/// Reconstruction of every source's validation pictures: their mean, and the log names each.
fn validate(plan: &Plan, vae: &Vae<'_>, pools: &[(f64, Tensor)]) -> f64 {
    let of_origin = |(origin, (_, pictures)): (&Origin, &(f64, Tensor))| {
        let stride = (pictures.size()[0] / VALIDATION_PICTURES).max(1);
        let some = pictures.slice(0, None, None, stride).to_device(plan.device);
        let db = psnr_db(vae, &some);
        log::info!("reconstruction of {:?}: {db:.2} dB", origin.what);
        db
    };
    plan.origins.iter().zip(pools).map(of_origin).sum::<f64>() / pools.len() as f64
}

/// Random crops of random pictures, (batch, crop, crop, 3), half of them mirrored.
fn crops(pools: &[(f64, Tensor)], plan: &Plan, step: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed ^ 0x0c20_0b5e);
    rng.set_stream(step);
    let (side, h, w) = (plan.crop as i64, plan.geometry.height as i64, plan.geometry.width as i64);
    let (rows, columns) = (side.min(h), side.min(w));
    let crops: Vec<Tensor> = (0..plan.batch)
        .map(|_| {
            let pool = &pools[pool::weighted(&mut rng, pools.iter().map(|(weight, _)| *weight))].1;
            let picture = pool.get(rng.random_range(0..pool.size()[0]));
            let (top, left) = (rng.random_range(0..=h - rows), rng.random_range(0..=w - columns));
            let crop = picture.narrow(0, top, rows).narrow(1, left, columns);
            if rng.random() { crop.flip([1]) } else { crop }
        })
        .collect();
    Tensor::stack(&crops, 0)
}
