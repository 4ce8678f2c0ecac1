//! What quantising costs: each layer by itself, and all of them together.
//!
//! The loss is that of predictions as the runtime makes them: frames seen, a clip denoised, decoded. It is told in
//! two ways: the signal-to-noise ratio of the predicted latents against those of single precision (of the pictures
//! for layers of the autoencoder, which the latents of a prediction hardly pass), and the drop in PSNR against the
//! frames that really came.

use std::fmt;
use std::path::Path;

use indicatif::ProgressBar;
use nextclip_core::metrics::{EXACT_COPY_DB, mean_squared_error, psnr_of_mse_db};
use nextclip_core::{Latents, Picture};
use nextclip_media::plot::{self, Plot};
use nextclip_predictor::{Predictor, Settings};
use nextclip_quant::{Observer, sqnr_db};
use serde::Serialize;

use crate::bundle::{Arithmetic, export_as};
use crate::calibrate::{CalibrationError, Observations};
use crate::model::Checkpoint;
use crate::onnx::Choice;
use crate::plan::Plan;

/// What one choice of quantised layers costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Loss {
    /// The layer, or "all layers".
    pub layer: String,
    /// Signal to noise of predicted latents against single precision.
    pub latent_sqnr_db: f64,
    /// Signal to noise of the predictions' pictures against single precision.
    pub picture_sqnr_db: f64,
    /// PSNR against the frames that came, less than single precision has.
    pub psnr_drop_db: f64,
}

/// The losses of a checkpoint's layers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// How ranges were chosen.
    pub observer: Observer,
    /// Clips measured.
    pub clips: usize,
    /// PSNR of single precision against the frames that came.
    pub float_psnr_db: f64,
    /// All layers together.
    pub all: Loss,
    /// Each layer by itself, in the order of use.
    pub layers: Vec<Loss>,
}

/// Measures every layer that can be quantised on `clips` clips, none of which calibration has seen where the
/// footage are scenes.
///
/// # Errors
/// As [`crate::observe`] has.
pub fn sensitivity(
    checkpoint: &Checkpoint,
    plan: &Plan,
    seen: &Observations,
    (observer, clips): (Observer, usize),
    progress: &ProgressBar,
) -> Result<Report, CalibrationError> {
    let clips = seen.unseen_clips(clips, plan)?;
    let workplace = tempfile::tempdir()?;
    let bundle = workplace.path().join("bundle");
    let predictions = |arithmetic: &Arithmetic| -> Result<Vec<Prediction>, CalibrationError> {
        export_as(checkpoint, plan, arithmetic, &bundle, &ProgressBar::hidden())?;
        let mut predictor = Predictor::open(&bundle, &Settings::default())?;
        let predict = |(index, clip): (usize, &Vec<Picture>)| Prediction::new(&mut predictor, clip, index);
        clips.iter().enumerate().map(predict).collect()
    };
    let layers = seen.layers();
    progress.set_length(layers.len() as u64 + 2);
    progress.set_message("single precision");
    let float = predictions(&Arithmetic::Float)?;
    let loss = |layer: &str, choice: Choice| -> Result<Loss, CalibrationError> {
        progress.inc(1);
        progress.set_message(layer.to_owned());
        let quantised = predictions(&Arithmetic::W8A8(seen.calibrated(observer, choice)?))?;
        Ok(Loss::between(layer, &float, &quantised))
    };
    let all = loss("all layers", Choice::default())?;
    let layers = layers
        .iter()
        .map(|layer| loss(layer, Choice::Only(vec![layer.clone()])))
        .collect::<Result<_, _>>()?;
    Ok(Report { observer, clips: clips.len(), float_psnr_db: psnr_db(&float), all, layers })
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
        Ok(Self { mse: errors.sum::<f64>() / came.len().max(1) as f64, latents, pictures })
    }

    fn samples(&self) -> impl Iterator<Item = f32> + '_ {
        self.pictures.iter().flat_map(|picture| picture.iter().map(|&sample| f32::from(sample)))
    }
}

/// Mean over clips, as PSNR is usually told.
fn psnr_db(predictions: &[Prediction]) -> f64 {
    let each = predictions.iter().map(|prediction| psnr_of_mse_db(prediction.mse).min(EXACT_COPY_DB));
    each.sum::<f64>() / predictions.len().max(1) as f64
}

impl Loss {
    fn between(layer: &str, float: &[Prediction], quantised: &[Prediction]) -> Self {
        let latents = |predictions: &[Prediction]| -> Vec<f32> {
            predictions.iter().flat_map(|prediction| prediction.latents.iter().copied()).collect()
        };
        let samples = |predictions: &[Prediction]| -> Vec<f32> {
            predictions.iter().flat_map(Prediction::samples).collect()
        };
        Self {
            layer: layer.into(),
            latent_sqnr_db: sqnr_db(&latents(float), &latents(quantised)),
            picture_sqnr_db: sqnr_db(&samples(float), &samples(quantised)),
            psnr_drop_db: psnr_db(float) - psnr_db(quantised),
        }
    }
}

impl Report {
    /// Writes `sensitivity.json` and `sensitivity.png` into a folder, which is made where it is missing.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), CalibrationError> {
        let fault = |path: &Path| {
            let path = path.to_owned();
            move |source| CalibrationError::Report { path, source }
        };
        std::fs::create_dir_all(folder).map_err(fault(folder))?;
        let table = folder.join("sensitivity.json");
        let json = serde_json::to_vec_pretty(self).map_err(std::io::Error::from);
        json.and_then(|json| std::fs::write(&table, json)).map_err(fault(&table))?;
        let line = |name: &str, value: &dyn Fn(&Loss) -> f64| {
            // An exact result has no noise at all; it is drawn at the top.
            let at = |(i, loss): (usize, &Loss)| ((i + 1) as f64, value(loss).min(EXACT_COPY_DB));
            plot::Line::new(name, self.layers.iter().enumerate().map(at).collect())
        };
        let title = format!("one layer in 8 bits: all together lose {:.2} dB", self.all.psnr_drop_db);
        let plot = Plot::new(&title, "layer, in the order of use", "signal to quantisation noise, dB")
            .with(line("latents", &|loss| loss.latent_sqnr_db))
            .with(line("pictures", &|loss| loss.picture_sqnr_db));
        nextclip_media::save_png(folder.join("sensitivity.png"), &plot.draw(960, 480))?;
        Ok(())
    }
}

impl fmt::Display for Report {
    /// The most sensitive first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let worst_first = |loss: &&Loss| loss.latent_sqnr_db.min(loss.picture_sqnr_db);
        let mut sorted: Vec<&Loss> = self.layers.iter().collect();
        sorted.sort_by(|a, b| worst_first(a).total_cmp(&worst_first(b)));
        let width = sorted.iter().map(|loss| loss.layer.len()).max().unwrap_or(0).max("all layers".len());
        writeln!(f, "{:width$}  latents dB  pictures dB  PSNR lost dB", "layer")?;
        for loss in [&self.all].into_iter().chain(sorted) {
            let Loss { layer, latent_sqnr_db, picture_sqnr_db, psnr_drop_db } = loss;
            writeln!(
                f,
                "{layer:width$}  {latent_sqnr_db:10.1}  {picture_sqnr_db:11.1}  {psnr_drop_db:12.3}"
            )?;
        }
        writeln!(
            f,
            "ranges by {}, {} clips, PSNR {:.2} dB in single precision",
            self.observer, self.clips, self.float_psnr_db
        )
    }
}
