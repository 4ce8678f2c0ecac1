//! What quantising costs: each layer by itself, and all of them together.
//!
//! The loss is that of predictions as the runtime makes them: frames seen, a clip denoised, decoded. It is told in
//! two ways: the signal-to-noise ratio of the predicted latents against those of single precision (of the pictures
//! for layers of the autoencoder, which the latents of a prediction hardly pass), and the drop in PSNR against the
//! frames that really came.

mod bench;
mod page;

use indicatif::ProgressBar;
use nextclip_core::manifest::CacheElement;
use nextclip_quant::Observer;
use serde::Serialize;

pub(crate) use bench::Bench;
pub use bench::Loss;
pub(crate) use page::{MOST_BARS, WIDTH, in_db};

use crate::arithmetic::Arithmetic;
use crate::calibrate::{CalibrationError, Observations, in_floats};
use crate::model::Checkpoint;
use crate::onnx::Choice;
use crate::plan::Plan;

/// Clips that losses are measured on, unless somebody says otherwise.
pub const DEFAULT_CLIPS: usize = 8;

/// The losses of a checkpoint's layers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The model's name.
    pub model: String,
    /// How ranges were chosen.
    pub observer: Observer,
    /// What was looked at, in words: for ranges, and for losses.
    pub footage: String,
    /// Clips measured.
    pub clips: usize,
    /// PSNR of single precision against the frames that came.
    pub float_psnr_db: f64,
    /// All layers together, with the cache that the bundle has.
    pub all: Loss,
    /// The cache of keys and values by itself, where it is not in single precision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Loss>,
    /// Each layer by itself, in the order of use.
    pub layers: Vec<Loss>,
}

/// Measures every layer that can be quantised on `clips` clips, none of which calibration has seen.
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
    progress.set_length(seen.layers().len() as u64 + 2);
    progress.set_message("single precision");
    let bench = Bench::new(checkpoint, plan, seen, clips)?;
    progress.inc(1);
    measure(&bench, plan, seen, observer, progress)
}

/// The same on a bench that stands.
pub(crate) fn measure(
    bench: &Bench<'_>,
    plan: &Plan,
    seen: &Observations,
    observer: Observer,
    progress: &ProgressBar,
) -> Result<Report, CalibrationError> {
    let loss = |layer: &str, plan: &Plan, choice: Choice| -> Result<Loss, CalibrationError> {
        progress.set_message(layer.to_owned());
        let loss = bench.loss(layer, plan, &Arithmetic::W8A8(seen.calibrated(observer, choice)?));
        progress.inc(1);
        loss
    };
    let all = loss("all layers", plan, Choice::default())?;
    let cache = match &plan.cache.element {
        CacheElement::F32 => None,
        element => Some(bench.loss(&format!("cache in {element}"), plan, &Arithmetic::Float)?),
    };
    let alone = in_floats(plan);
    let layers = seen.layers().iter().map(|layer| loss(layer, &alone, Choice::Only(vec![layer.clone()])));
    Ok(Report {
        model: bench.model(),
        observer,
        footage: seen.described(),
        clips: bench.clips(),
        float_psnr_db: bench.float_psnr_db(),
        all,
        cache,
        layers: layers.collect::<Result<_, _>>()?,
    })
}
