//! Predictions of a model in some arithmetic beside those of single precision, on the same clips and noise.

use indicatif::ProgressBar;
use nextclip_core::metrics::{EXACT_COPY_DB, mean_squared_error, psnr_of_mse_db};
use nextclip_core::{Latents, Picture};
use nextclip_predictor::{Predictor, Provider, Settings};
use serde::Serialize;
use tempfile::TempDir;

use crate::arithmetic::Arithmetic;
use crate::bundle::export_as;
use crate::calibrate::{CalibrationError, Observations, in_floats};
use crate::model::Checkpoint;
use crate::plan::Plan;

/// What one choice of quantised layers costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Loss {
    /// The layer, or "all layers".
    pub layer: String,
    /// Signal to noise of predicted latents against single precision; `None` where no number differs.
    pub latent_sqnr_db: Option<f64>,
    /// Signal to noise of the predictions' pictures against single precision; `None` where no sample differs.
    pub picture_sqnr_db: Option<f64>,
    /// PSNR against the frames that came, less than single precision has. Below 0 where rounding happened to help.
    pub psnr_drop_db: f64,
    /// The drop that the difference to single precision means if it has nothing to do with the prediction's own
    /// error: `10 log10(1 + mse to single precision / mse of single precision)`, mean over clips. It is never
    /// below 0, and a few clips tell it well.
    pub noise_drop_db: f64,
}

impl Loss {
    /// What a budget is charged: the measured drop, and no less than its noise alone would cost, so that a layer that
    /// was lucky on a few clips is not free.
    pub fn cost_db(&self) -> f64 {
        self.psnr_drop_db.max(self.noise_drop_db)
    }
}

/// Clips that calibration has not seen, and what single precision makes of them.
pub(crate) struct Bench<'a> {
    checkpoint: &'a Checkpoint,
    clips: Vec<Vec<Picture>>,
    workplace: TempDir,
    float: Vec<Prediction>,
}

impl<'a> Bench<'a> {
    /// Predicts `clips` clips in single precision, with a cache in single precision, too.
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        plan: &Plan,
        seen: &Observations,
        clips: usize,
    ) -> Result<Self, CalibrationError> {
        let clips = seen.unseen_clips(clips, plan)?;
        let workplace = tempfile::tempdir()?;
        let mut bench = Self { checkpoint, clips, workplace, float: vec![] };
        bench.float = bench.predictions(&in_floats(plan), &Arithmetic::Float)?;
        Ok(bench)
    }

    /// The model's name.
    pub(crate) fn model(&self) -> String {
        self.checkpoint.name()
    }

    /// Clips measured.
    pub(crate) fn clips(&self) -> usize {
        self.clips.len()
    }

    /// PSNR of single precision: mean over clips, as PSNR is usually told.
    pub(crate) fn float_psnr_db(&self) -> f64 {
        mean(self.float.iter().map(Prediction::psnr_db))
    }

    /// What `arithmetic`, with the cache of `plan`, loses.
    pub(crate) fn loss(
        &self,
        layer: &str,
        plan: &Plan,
        arithmetic: &Arithmetic,
    ) -> Result<Loss, CalibrationError> {
        let quantised = self.predictions(plan, arithmetic)?;
        let pairs = || self.float.iter().zip(&quantised);
        let noise_drop_db = mean(pairs().map(|(float, quantised)| {
            let apart = float.pictures.iter().zip(&quantised.pictures);
            let apart = mean(apart.filter_map(|(a, b)| mean_squared_error(a, b)));
            drop_of(float.mse + apart, float.mse)
        }));
        let sample = |picture: &Picture| picture.iter().map(|&sample| f64::from(sample)).collect::<Vec<_>>();
        let samples = |prediction: &Prediction| prediction.pictures.iter().flat_map(sample).collect();
        let latents = |prediction: &Prediction| prediction.latents.iter().map(|&x| f64::from(x)).collect();
        Ok(Loss {
            layer: layer.into(),
            latent_sqnr_db: sqnr_over_clips_db(pairs().map(|(a, b)| (latents(a), latents(b)))),
            picture_sqnr_db: sqnr_over_clips_db(pairs().map(|(a, b)| (samples(a), samples(b)))),
            psnr_drop_db: self.float_psnr_db() - mean(quantised.iter().map(Prediction::psnr_db)),
            noise_drop_db,
        })
    }

    fn predictions(&self, plan: &Plan, arithmetic: &Arithmetic) -> Result<Vec<Prediction>, CalibrationError> {
        let bundle = self.workplace.path().join("bundle");
        export_as(self.checkpoint, plan, arithmetic, &bundle, &ProgressBar::hidden())?;
        // Whatever the bundle is for, it is here that it is measured.
        let settings = Settings { provider: Some(Provider::Cpu), ..Settings::default() };
        let mut predictor = Predictor::open(&bundle, &settings)?;
        let predict = |(index, clip): (usize, &Vec<Picture>)| Prediction::new(&mut predictor, clip, index);
        self.clips.iter().enumerate().map(predict).collect()
    }
}

/// What the runtime makes of a clip's first frames, and how far it is from what came.
struct Prediction {
    latents: Latents,
    pictures: Vec<Picture>,
    mse: f64,
}

impl Prediction {
    fn new(predictor: &mut Predictor, clip: &[Picture], index: usize) -> Result<Self, CalibrationError> {
        let history = predictor.manifest().geometry.history;
        let (seen, came) = clip.split_at(history);
        predictor.forget();
        for picture in seen {
            predictor.see(picture)?;
        }
        let latents = predictor.predict(0, index as u64)?;
        let pictures = predictor.render(&latents)?;
        let errors = pictures.iter().zip(came).filter_map(|(a, b)| mean_squared_error(a, b));
        Ok(Self { mse: mean(errors), latents, pictures })
    }

    fn psnr_db(&self) -> f64 {
        psnr_of_mse_db(self.mse).min(EXACT_COPY_DB)
    }
}

/// By how many decibels an error of `after` is worse than one of `before`.
fn drop_of(after: f64, before: f64) -> f64 {
    psnr_of_mse_db(before).min(EXACT_COPY_DB) - psnr_of_mse_db(after).min(EXACT_COPY_DB)
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    sum / f64::from(count.max(1))
}

/// Signal over noise of all clips together, a clip at a time.
fn sqnr_over_clips_db(clips: impl Iterator<Item = (Vec<f64>, Vec<f64>)>) -> Option<f64> {
    let (mut signal, mut noise) = (0.0, 0.0);
    for (exact, rounded) in clips {
        signal += exact.iter().map(|x| x * x).sum::<f64>();
        noise += exact.iter().zip(&rounded).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
    }
    (noise > 0.0).then(|| 10.0 * (signal / noise).log10())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_adds_to_the_error_that_is_there() {
        // Twice the error is 3 dB, a hundredth more is 0.043 dB, nothing more is nothing.
        for (noise, drop_db) in [(4.0, 3.0103), (0.04, 0.0432), (0.0, 0.0)] {
            assert!((drop_of(4.0 + noise, 4.0) - drop_db).abs() < 1e-4, "{noise}");
        }
        assert_eq!(drop_of(0.0, 0.0), 0.0, "an exact copy");
    }

    #[test]
    fn a_lucky_layer_is_not_free() {
        let loss = |psnr_drop_db, noise_drop_db| Loss {
            layer: "a".into(),
            latent_sqnr_db: None,
            picture_sqnr_db: None,
            psnr_drop_db,
            noise_drop_db,
        };
        assert_eq!(loss(-0.1, 0.02).cost_db(), 0.02);
        assert_eq!(loss(0.1, 0.02).cost_db(), 0.1);
    }

    #[test]
    fn signal_and_noise_are_those_of_all_clips() {
        let clips = [(vec![3.0, 0.0], vec![3.0, 0.1]), (vec![1.0], vec![1.0])];
        let ratio = sqnr_over_clips_db(clips.into_iter());
        assert!((ratio.unwrap_or_default() - 30.0).abs() < 1e-9, "{ratio:?}");
        assert_eq!(sqnr_over_clips_db([(vec![1.0], vec![1.0])].into_iter()), None);
    }
}
