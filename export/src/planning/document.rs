//! `plan.json`: every layer's precision as a file that can be read, edited and used again.

use std::path::{Path, PathBuf};

use nextclip_quant::plan::Precision;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::census::Kept;
use crate::onnx::Choice;
use crate::sensitivity::Loss;

/// A plan with all that was measured for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Document {
    /// The model's name.
    pub model: String,
    /// What the graphs are laid out for.
    pub target: String,
    /// Where ranges and losses come from, in words.
    pub measured: String,
    /// Clips that losses were measured on.
    pub clips: usize,
    /// PSNR of single precision on them.
    pub float_psnr_db: f64,
    /// What was allowed.
    pub max_psnr_drop_db: f64,
    /// The plan's own loss, all its layers together, with the cache that the bundle has.
    pub together: Loss,
    /// Loss with every layer below float.
    pub all: Loss,
    /// Loss of the cache alone, where it is not in single precision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Loss>,
    /// Part of a prediction's multiply-adds that the plan moves to 8 bits.
    pub share: f64,
    /// Part that could be moved.
    pub possible_share: f64,
    /// Plans that were tried, the last is this one.
    pub rounds: Vec<Round>,
    /// Every layer that has a choice, in the order of use.
    pub layers: Vec<LayerPlan>,
    /// Everything that has none.
    pub kept: Vec<Kept>,
}

/// A plan that was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Round {
    /// Layers below float.
    pub layers: usize,
    /// How much more than the sum of its layers a plan was taken to lose.
    pub interaction: f64,
    /// What was expected of all together.
    pub predicted_drop_db: f64,
    /// What they cost, see [`Loss::cost_db`].
    pub measured_drop_db: f64,
}

/// One layer of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerPlan {
    /// Its place in the checkpoint.
    pub layer: String,
    /// Its precision.
    pub precision: Precision,
    /// Why, in words.
    pub why: String,
    /// What it costs alone, see [`Loss::cost_db`].
    pub cost_db: f64,
    /// PSNR lost by it alone, as measured.
    pub psnr_drop_db: f64,
    /// Signal to noise of predicted latents with it alone; `None` where no number differs.
    pub latent_sqnr_db: Option<f64>,
    /// The same of pictures.
    pub picture_sqnr_db: Option<f64>,
    /// Part of a prediction's multiply-adds.
    pub share: f64,
}

/// What `--plan` reads: the precisions alone; everything else in the file is for people.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct GivenPlan {
    layers: Vec<GivenLayer>,
    #[serde(skip)]
    path: PathBuf,
    #[serde(skip)]
    text: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct GivenLayer {
    layer: String,
    precision: Precision,
}

/// A plan file that cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GivenPlanError {
    /// It cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no plan.
    #[error("{}: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Place and fault.
        source: serde_json::Error,
    },
    /// It does not fit the model; everything that does not is listed.
    #[error("{}: {}", path.display(), faults.join("; "))]
    Fit {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        faults: Vec<String>,
    },
}

impl GivenPlan {
    /// Reads a plan that was written or edited earlier.
    pub fn read(path: &Path) -> Result<Self, GivenPlanError> {
        let fault = |source| GivenPlanError::Read { path: path.into(), source };
        let text = std::fs::read_to_string(path).map_err(fault)?;
        let fault = |source| GivenPlanError::Parse { path: path.into(), source };
        let plan: Self = serde_json::from_str(&text).map_err(fault)?;
        Ok(Self { path: path.into(), text, ..plan })
    }

    /// The file as it is.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The choice that it makes among `layers`, with each of them in float or in `precision`.
    ///
    /// # Errors
    /// Names that are no layers, layers that are missing or there twice, and other precisions, all of them at once.
    pub fn choice(&self, layers: &[String], precision: Precision) -> Result<Choice, GivenPlanError> {
        let mut faults = Vec::new();
        let named = |name: &str| self.layers.iter().filter(|given| given.layer == name).count();
        let unknown: Vec<&str> = self.layers.iter().map(|given| given.layer.as_str()).collect();
        let unknown: Vec<&str> =
            unknown.into_iter().filter(|name| !layers.iter().any(|layer| layer == name)).collect();
        let missing: Vec<&str> =
            layers.iter().map(String::as_str).filter(|layer| named(layer) == 0).collect();
        let twice: Vec<&str> = layers.iter().map(String::as_str).filter(|layer| named(layer) > 1).collect();
        for (what, names) in [
            ("the model has no layer", unknown),
            ("no precision for layer", missing),
            ("more than one precision for layer", twice),
        ] {
            if !names.is_empty() {
                faults.push(format!("{what} {}", names.join(", ")));
            }
        }
        let other = |given: &&GivenLayer| ![Precision::Float, precision].contains(&given.precision);
        faults.extend(self.layers.iter().filter(other).map(|given| {
            format!("layer {} has {}, must be {precision} or float", given.layer, given.precision)
        }));
        if !faults.is_empty() {
            return Err(GivenPlanError::Fit { path: self.path.clone(), faults });
        }
        let lowered = self.layers.iter().filter(|given| given.precision == precision);
        Ok(Choice::Only(lowered.map(|given| given.layer.clone()).collect()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn given(json: &str) -> GivenPlan {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.json");
        std::fs::write(&path, json).unwrap();
        let plan = GivenPlan::read(&path).unwrap();
        assert_eq!(plan.text(), json);
        plan
    }

    fn layers() -> Vec<String> {
        ["a", "a.b", "c"].map(String::from).into()
    }

    #[test]
    fn a_short_plan_by_hand_is_enough() {
        let plan = given(
            r#"{"layers": [{"layer": "a", "precision": "float"}, {"layer": "a.b", "precision": "w8a8"},
                {"layer": "c", "precision": "w8a8", "why": "because"}], "note": "mine"}"#,
        );
        let choice = plan.choice(&layers(), Precision::W8A8).unwrap();
        assert_eq!(choice, Choice::Only(vec!["a.b".into(), "c".into()]));
    }

    #[test]
    fn everything_that_does_not_fit_is_named() {
        let plan = given(
            r#"{"layers": [{"layer": "a", "precision": "w4"}, {"layer": "b", "precision": "float"},
                {"layer": "c", "precision": "float"}, {"layer": "c", "precision": "w8a8"}]}"#,
        );
        let told = plan.choice(&layers(), Precision::W8A8).unwrap_err().to_string();
        assert!(
            told.ends_with(
                "plan.json: the model has no layer b; no precision for layer a.b; more than one precision for \
                 layer c; layer a has w4, must be w8a8 or float"
            ),
            "{told}"
        );
    }

    #[test]
    fn a_file_that_is_no_plan_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.json");
        assert!(GivenPlan::read(&path).unwrap_err().to_string().ends_with("plan.json: cannot be read"));
        std::fs::write(&path, r#"{"layers": [{"layer": "a", "precision": "w9"}]}"#).unwrap();
        let told = GivenPlan::read(&path).unwrap_err().to_string();
        assert!(told.contains("plan.json: unknown variant `w9`") && told.contains("line 1"), "{told}");
    }
}
