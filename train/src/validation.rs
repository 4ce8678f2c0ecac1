//! How good a predictor is while it is trained, on clips that it does not learn from.

use anyhow::{Result, ensure};
use nextclip_core::{Geometry, Motion, Picture, metrics};
use nextclip_scenes::Split;
use tch::{Kind, Tensor};

use crate::costs::cost_volumes;
use crate::footage::{self, Origin, What, shortest};
use crate::model::{AtWork, Model, Past};
use crate::noise::normal;
use crate::sharpness::{gradient_energy, moving};
use crate::vae::Vae;

/// Clips of each source, at the most.
const CLIPS: usize = 24;

/// Held-out clips of every source that is long enough for one.
#[derive(Debug)]
pub(crate) struct Validation {
    sets: Vec<Set>,
    seed: u64,
}

/// One source's clips, their latents, and how well the last frame repeated does on them.
#[derive(Debug)]
struct Set {
    what: What,
    /// How often the source is drawn in training.
    weight: f64,
    /// What is remembered of their first frames.
    past: Past,
    /// Latents of what came, (n, N, c, h, w).
    latents: Tensor,
    /// Real pictures that the prediction is for, (n, N, 3, H, W), in [-1, 1].
    truth: Tensor,
    /// The real pictures before them, (n, C, 3, H, W).
    seen: Tensor,
    last_frame_db: f64,
}

impl Validation {
    pub(crate) fn new(origins: &[Origin], model: &Model, seed: u64, vae: &Vae<'_>) -> Result<Self> {
        let geometry = &model.geometry;
        let mut sets = Vec::new();
        for origin in origins {
            let windows = windows(origin, geometry, CLIPS)?;
            let Some(window) = windows.first() else {
                log::warn!(
                    "validation: no clip of {:?}: no stretch has {} frames",
                    origin.what,
                    shortest(geometry)
                );
                continue;
            };
            let history = window.size()[0] - geometry.clip as i64;
            log::info!("validation: {} clips of {:?}, {history} frames seen", windows.len(), origin.what);
            let frames = footage::normalised(&Tensor::cat(&windows, 0).to_device(model.device));
            sets.push(Set::new(origin, &frames, history, model, vae));
        }
        ensure!(
            !sets.is_empty(),
            "no source has a validation part of at least {} frames, {} of them to predict",
            shortest(geometry),
            geometry.clip
        );
        Ok(Self { sets, seed })
    }

    /// PSNR of what the daemon would show after one step above that of the last frame repeated: the mean over
    /// the sources by their weights, in decibels. The log names each, how sharp the pictures are, and how well the decoder
    /// rebuilds real ones.
    pub(crate) fn gain_db(&self, model: &AtWork<'_>) -> f64 {
        let scores: Vec<_> = self.sets.iter().map(|set| (set, set.score(self.seed, model))).collect();
        let named = scores.iter().map(|(set, score)| {
            let Score { gain_db, sharpness, rebuilt_db } = score;
            let sharpness = sharpness.map_or("nothing moves".into(), |ratio| format!("sharpness {ratio:.2}"));
            format!("{:?} {gain_db:+.2} dB, {sharpness}, rebuilt {rebuilt_db:.2} dB", set.what)
        });
        log::info!("above the last frame: {}", named.collect::<Vec<_>>().join("; "));
        let weights: f64 = self.sets.iter().map(|set| set.weight).sum();
        scores.iter().map(|(set, score)| set.weight * score.gain_db).sum::<f64>() / weights
    }
}

/// How good the pictures of a source are.
struct Score {
    /// PSNR above that of the last frame repeated.
    gain_db: f64,
    /// Energy of edges over that of what came, where it moves; none where nothing does.
    sharpness: Option<f64>,
    /// PSNR of the pictures to be predicted, decoded from their own latents.
    rebuilt_db: f64,
}

impl Set {
    /// Of windows one after the other, (n (C + N), 3, H, W), each of `history` = C frames that are seen and N to predict.
    fn new(origin: &Origin, frames: &Tensor, history: i64, model: &Model, vae: &Vae<'_>) -> Self {
        let clip = model.geometry.clip as i64;
        let by_clip = |x: &Tensor| {
            let size = x.size();
            x.reshape([&[-1, history + clip], &size[1..]].concat())
        };
        let latents = by_clip(&tch::no_grad(|| vae.encode(frames)));
        let frames = by_clip(frames);
        let volumes = |motion: &Motion| {
            let of_clip = |index| {
                let seen = frames.get(index).narrow(0, 0, history);
                cost_volumes(motion, &seen, model.geometry.vae_scale)
            };
            Tensor::stack(&(0..frames.size()[0]).map(of_clip).collect::<Vec<_>>(), 0)
        };
        let past = Past { latents: latents.narrow(1, 0, history), costs: model.motion.as_ref().map(volumes) };
        let truth = frames.narrow(1, history, clip);
        let seen = frames.narrow(1, 0, history);
        let last_frame_db = mean_psnr_db(&(&truth - seen.narrow(1, history - 1, 1)));
        Self {
            what: origin.what.clone(),
            weight: origin.weight,
            past,
            latents: latents.narrow(1, history, clip),
            truth,
            seen,
            last_frame_db,
        }
    }

    fn score(&self, seed: u64, model: &AtWork<'_>) -> Score {
        tch::no_grad(|| {
            let noise = normal(&self.latents, seed, u64::MAX);
            let estimate = model.estimate(&self.past, &noise, 0.0);
            let shown = model.pictures(&estimate, &self.seen).shown.clamp(-1.0, 1.0);
            let rebuilt = model.vae.decode(&self.latents.flatten(0, 1)).reshape(self.truth.size());
            let area = moving(&self.truth, &self.seen.narrow(1, self.seen.size()[1] - 1, 1));
            let energy = |pictures| gradient_energy(pictures, &area).sum(Kind::Double).double_value(&[]);
            let (drawn, real) = (energy(&shown), energy(&self.truth));
            Score {
                gain_db: mean_psnr_db(&(&shown - &self.truth)) - self.last_frame_db,
                sharpness: (real > 0.0).then(|| drawn / real),
                rebuilt_db: mean_psnr_db(&(rebuilt.clamp(-1.0, 1.0) - &self.truth)),
            }
        })
    }
}

/// Up to `wanted` windows of history and clip, each (F, H, W, 3), evenly spread over the origin's validation
/// part; of a shorter history where no stretch is long enough, and none where they would not be learned from either.
fn windows(origin: &Origin, geometry: &Geometry, wanted: usize) -> Result<Vec<Tensor>> {
    let shortest = shortest(geometry);
    let stretches: Vec<_> = footage::stretches(origin, geometry, Split::Validation, 1, wanted)?
        .filter(|stretch| stretch.len() >= shortest)
        .collect();
    let longest = stretches.iter().map(Vec::len).max().unwrap_or(shortest);
    let frames = longest.min(geometry.history + geometry.clip);
    let of_stretch = |stretch: &Vec<Picture>| {
        let step = if origin.what == What::Scenes { stretch.len() } else { geometry.clip };
        stretch.windows(frames).step_by(step).map(footage::tensor_of).collect::<Vec<_>>()
    };
    let windows: Vec<_> = stretches.iter().flat_map(of_stretch).collect();
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
