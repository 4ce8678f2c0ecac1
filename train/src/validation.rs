//! How good a predictor is while it is trained, on clips that it does not learn from.

use anyhow::{Result, ensure};
use nextclip_core::{Geometry, metrics, sampler};
use nextclip_scenes::Split;
use tch::{Kind, Tensor};

use crate::footage::{self, Origin, What};
use crate::train_predictor::Plan;
use crate::transformer::{Sequence, Transformer};
use crate::vae::Vae;

/// Clips, of all sources together.
const CLIPS: usize = 32;

/// Held-out clips, their latents, and how well the last frame repeated does on them.
#[derive(Debug)]
pub(crate) struct Validation {
    history: usize,
    clip: usize,
    latents: Tensor,
    /// Real pictures that the prediction is for, (n, N, 3, H, W), in [-1, 1].
    truth: Tensor,
    last_frame_db: f64,
    seed: u64,
}

impl Validation {
    pub(crate) fn new(plan: &Plan, vae: &Vae<'_>) -> Result<Self> {
        let Geometry { history, clip, .. } = plan.geometry;
        let mut pictures = Vec::new();
        for origin in &plan.origins {
            let wanted = (CLIPS / plan.origins.len()).max(1);
            let windows = windows(origin, &plan.geometry, wanted)?;
            log::info!("validation: {} clips of {:?}", windows.len(), origin.what);
            pictures.extend(windows);
        }
        ensure!(!pictures.is_empty(), "no source is long enough for a validation clip");
        let frames = footage::normalised(&Tensor::cat(&pictures, 0).to_device(plan.device));
        let clips = pictures.len() as i64;
        let latents = tch::no_grad(|| vae.encode(&frames));
        let by_clip = |x: &Tensor| {
            let size = x.size();
            x.reshape([&[clips, (history + clip) as i64], &size[1..]].concat())
        };
        let (frames, latents) = (by_clip(&frames), by_clip(&latents));
        let truth = frames.narrow(1, history as i64, clip as i64);
        let last = frames.narrow(1, history as i64 - 1, 1);
        let last_frame_db = mean_psnr_db(&(&truth - last));
        Ok(Self { history, clip, latents, truth, last_frame_db, seed: plan.seed })
    }

    /// PSNR of the one-step prediction above that of the last frame repeated, in decibels.
    pub(crate) fn gain_db(&self, model: &Transformer<'_>, vae: &Vae<'_>) -> f64 {
        tch::no_grad(|| {
            let size = self.latents.size();
            let noise = sampler::noise(self.seed, u64::MAX, self.latents.numel());
            let noisy = Tensor::from_slice(&noise).reshape(&size).to_device(self.latents.device());
            let estimate = model.forward(&Sequence {
                noisy: &noisy,
                clean: &self.latents.narrow(1, 0, self.history as i64),
                t: &Tensor::zeros([size[0], size[1]], (Kind::Float, self.latents.device())),
                clip_sizes: &[self.history, self.clip],
            });
            let predicted = estimate.narrow(1, self.history as i64, self.clip as i64).flatten(0, 1);
            let decoded = vae.decode(&predicted).clamp(-1.0, 1.0).reshape(self.truth.size());
            mean_psnr_db(&(decoded - &self.truth)) - self.last_frame_db
        })
    }
}

/// Up to `wanted` windows of history and clip, each (F, H, W, 3), evenly spread over the origin's validation
/// part; none where all its stretches are shorter.
fn windows(origin: &Origin, geometry: &Geometry, wanted: usize) -> Result<Vec<Tensor>> {
    let frames = geometry.history + geometry.clip;
    let mut windows = Vec::new();
    for stretch in footage::stretches(origin, geometry, Split::Validation, 1, wanted)? {
        let step = if origin.what == What::Scenes { stretch.len() } else { geometry.clip };
        windows.extend(stretch.windows(frames).step_by(step).map(footage::tensor_of));
    }
    let stride = windows.len().div_ceil(wanted).max(1);
    Ok(windows.into_iter().step_by(stride).collect())
}

/// Mean of per-picture PSNR from differences (n, N, 3, H, W) on the scale of [-1, 1].
fn mean_psnr_db(difference: &Tensor) -> f64 {
    let mse = (difference * 127.5).square().mean_dim([2_i64, 3, 4].as_slice(), false, Kind::Float);
    let mse: Vec<f64> = Vec::try_from(mse.flatten(0, 1).to_kind(Kind::Double)).unwrap_or_default();
    let bounded = |mse: &f64| metrics::psnr_of_mse_db(*mse).min(metrics::EXACT_COPY_DB);
    mse.iter().map(bounded).sum::<f64>() / mse.len() as f64
}
