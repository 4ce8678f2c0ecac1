//! Which layer gets which precision, within a budget of quality, and why.

use serde::{Deserialize, Serialize};

mod choose;
mod error;
mod report;

pub use choose::choose_precisions;
pub use error::PlanError;

/// What a layer computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// As the checkpoint has it, or the target's float type.
    Float,
    /// E4M3 weights and activations.
    Fp8,
    /// 8-bit integer weights and activations.
    W8A8,
    /// 8-bit integer weights alone.
    W8,
    /// 4-bit integer weights alone.
    W4,
}

/// What one precision costs and gains in one layer, all others left float.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerOption {
    /// The precision.
    pub precision: Precision,
    /// PSNR lost against float in dB, as measured. A negative one counts as 0.
    pub psnr_drop_db: f64,
    /// What is gained against float, in any unit that is the same for all layers: milliseconds, bytes.
    pub saving: f64,
}

/// A layer and what it could become.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerSensitivity {
    /// Name of the layer, each once.
    pub layer: String,
    /// Precisions below float.
    pub options: Vec<LayerOption>,
    /// Why the layer stays float whatever the budget, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_float: Option<String>,
}

/// How much may be lost, and how much must be gained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// PSNR that all layers together may lose, in dB.
    pub max_psnr_drop_db: f64,
    /// Part of the possible saving (0..=1) below which the plan is of no use; 0 asks for one layer at least.
    pub min_saving: f64,
    /// Noise of all chosen layers measured together, over the sum of each alone; 1 until measured (see
    /// [`PrecisionPlan::interaction`]).
    pub interaction: f64,
}

impl Budget {
    /// At most this drop in dB.
    pub fn of_drop(max_psnr_drop_db: f64) -> Self {
        Self { max_psnr_drop_db, min_saving: 0.0, interaction: 1.0 }
    }
}

/// Every layer's precision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrecisionPlan {
    /// What was asked for.
    pub budget: Budget,
    /// Drop to expect of all layers together, in dB.
    pub predicted_drop_db: f64,
    /// Saving of all layers together.
    pub saving: f64,
    /// Saving with every layer at its best, whatever the loss.
    pub possible_saving: f64,
    /// In the order given.
    pub layers: Vec<LayerChoice>,
}

/// One layer's precision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerChoice {
    /// Name of the layer.
    pub layer: String,
    /// Its precision.
    pub precision: Precision,
    /// PSNR lost by this layer alone, in dB.
    pub psnr_drop_db: f64,
    /// Its saving.
    pub saving: f64,
    /// Why.
    pub reason: Reason,
}

/// Why a layer has its precision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reason {
    /// The caller said so.
    Kept {
        /// The caller's words.
        why: String,
    },
    /// It fits the budget.
    Fits {
        /// Drop of all layers chosen until then, this one included, in dB.
        total_drop_db: f64,
    },
    /// The best that it could become did not fit any more.
    TooSensitive {
        /// What it would have become.
        precision: Precision,
        /// Drop of the plan with it, in dB.
        total_drop_db: f64,
    },
    /// No precision below float saves anything here.
    NothingToGain,
}

impl PrecisionPlan {
    /// The plan's precision for a layer.
    pub fn precision(&self, layer: &str) -> Option<Precision> {
        self.layers.iter().find(|choice| choice.layer == layer).map(|choice| choice.precision)
    }

    /// Whether the layers add to each other's loss or cancel it: the noise of a measured drop of the whole
    /// plan, over the sum of its layers'. Where it is above 1 and the measured drop beyond the budget,
    /// choosing again with it in [`Budget::interaction`] gives a smaller plan.
    pub fn interaction(&self, measured_drop_db: f64) -> f64 {
        let alone: f64 = self.layers.iter().map(|choice| noise_of_drop(choice.psnr_drop_db)).sum();
        let together = noise_of_drop(measured_drop_db);
        if alone > 0.0 && together > 0.0 { together / alone } else { 1.0 }
    }
}

/// The drop in dB of noises that are independent of each other, each given by the drop it causes alone.
///
/// A drop d means that the error grew by the factor `10^(d/10)`; independent noises add their powers:
/// `10 log10(1 + sum (10^(d_i/10) - 1))`. Nearly the sum while drops are small. Source: definition of PSNR.
pub fn combined_drop_db(drops_db: impl IntoIterator<Item = f64>) -> f64 {
    drop_of_noise(drops_db.into_iter().map(noise_of_drop).sum())
}

/// Quantisation noise relative to the error that float has already.
pub(crate) fn noise_of_drop(drop_db: f64) -> f64 {
    10_f64.powf(drop_db.max(0.0) / 10.0) - 1.0
}

pub(crate) fn drop_of_noise(noise: f64) -> f64 {
    10.0 * (1.0 + noise).log10()
}
