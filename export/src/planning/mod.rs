//! Which layer gets which precision within a budget of quality: measured, chosen, and measured again together.
//!
//! Every layer's loss is measured by itself. Losses that are independent of each other add their powers, and how far
//! the model is from that is seen by measuring all layers together; with this the plan is chosen. Then the plan itself
//! is measured. Where it loses more than it may, its layers are taken to add up to what they did, and the next, smaller
//! plan is chosen and measured, until one keeps to the budget.

mod document;
mod page;

use indicatif::ProgressBar;
use nextclip_quant::Observer;
use nextclip_quant::plan::{
    Budget, LayerChoice, LayerOption, LayerSensitivity, PlanError as ChoiceError, Precision, PrecisionPlan,
    choose_precisions,
};
use thiserror::Error;

use crate::census::Census;
pub use crate::census::Kept;
pub use document::{Document, GivenPlan, GivenPlanError, LayerPlan, Round};

use crate::arithmetic::Arithmetic;
use crate::calibrate::{CalibrationError, Observations};
use crate::model::Checkpoint;
use crate::onnx::{Choice, covers};
use crate::plan::Plan;
use crate::sensitivity::{Bench, Loss, Report, measure};

/// What a layer becomes where the plan takes it below float.
pub const LOWERED: Precision = Precision::W8A8;

/// A budget that every layer keeps to.
const ANYTHING_DB: f64 = 1000.0;

/// Where a plan lost too much and choosing again gives the same one, its layers are taken to add up to this much more.
const HARDER: f64 = 1.1;

/// What to plan for.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// PSNR that all layers together, and the cache, may lose, in dB.
    pub max_psnr_drop_db: f64,
    /// Clips that losses are measured on.
    pub clips: usize,
    /// The rule that makes ranges.
    pub observer: Observer,
    /// Layers that stay in float on request, each with all below it.
    pub keep_float: Vec<String>,
}

/// There is no plan.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PlanningError {
    /// Measuring failed.
    #[error(transparent)]
    Measure(#[from] CalibrationError),
    /// The budget makes no sense, or nothing fits.
    #[error("{fault}{reachable}")]
    Choice {
        /// What does not fit.
        fault: ChoiceError,
        /// What does, in words.
        reachable: String,
    },
}

/// Measures every layer, chooses within the budget, and measures the plan until it keeps to it.
///
/// # Errors
/// As [`crate::observe`] has, and a budget that is impossible, with what is reachable.
pub fn plan_precision(
    checkpoint: &Checkpoint,
    plan: &Plan,
    seen: &Observations,
    task: &Task,
    progress: &ProgressBar,
) -> Result<Document, PlanningError> {
    // A name that is none, and a budget that makes no sense, are said before the measuring.
    seen.calibrated(task.observer, Choice::AllBut(task.keep_float.clone()))?;
    choose_precisions(&[], &Budget::of_drop(task.max_psnr_drop_db)).map_err(|fault| refusal(fault, None))?;
    progress.set_length(seen.layers().len() as u64 + 3);
    progress.set_message("single precision");
    let bench = Bench::new(checkpoint, plan, seen, task.clips)?;
    progress.inc(1);
    let report = measure(&bench, plan, seen, task.observer, progress)?;
    let layers = sensitivities(&report, seen.census(), &task.keep_float);
    let everything =
        choose_precisions(&sensitivities(&report, seen.census(), &[]), &Budget::of_drop(ANYTHING_DB))
            .map_err(|fault| refusal(fault, Some(&report)))?;
    let mut interaction = everything.interaction(report.all.cost_db());

    let mut rounds: Vec<Round> = Vec::new();
    let mut tried: Option<Choice> = None;
    loop {
        let budget = Budget { interaction, ..Budget::of_drop(task.max_psnr_drop_db) };
        let chosen = choose_precisions(&layers, &budget).map_err(|fault| refusal(fault, Some(&report)))?;
        let choice = lowered(&chosen);
        if tried.as_ref() == Some(&choice) {
            interaction *= HARDER;
            continue;
        }
        progress.set_message("all layers of the plan");
        let together = bench.loss(
            "the plan",
            plan,
            &Arithmetic::W8A8(seen.calibrated(task.observer, choice.clone())?),
        )?;
        progress.inc(1);
        rounds.push(Round {
            layers: chosen.layers.iter().filter(|layer| layer.precision == LOWERED).count(),
            interaction,
            predicted_drop_db: chosen.predicted_drop_db,
            measured_drop_db: together.cost_db(),
        });
        if together.cost_db() <= task.max_psnr_drop_db {
            let target = plan.target.to_string();
            return Ok(document(&report, &chosen, seen.census(), (target, together, rounds)));
        }
        if nothing(&choice) {
            // The cache alone costs more than is allowed.
            let needed_db = together.cost_db();
            let (budget_db, layer) = (task.max_psnr_drop_db, format!("cache in {}", plan.cache.element));
            let fault = ChoiceError::NothingFits { budget_db, needed_db, layer, precision: Precision::Float };
            return Err(refusal(fault, Some(&report)));
        }
        interaction = chosen.interaction(together.cost_db()).max(interaction * HARDER);
        progress.inc_length(1);
        tried = Some(choice);
    }
}

/// What can become of each layer, what it costs, and what it gains: multiply-adds of a prediction.
fn sensitivities(report: &Report, census: &Census, keep_float: &[String]) -> Vec<LayerSensitivity> {
    let of = |loss: &Loss| {
        let option = LayerOption {
            precision: LOWERED,
            psnr_drop_db: loss.cost_db(),
            saving: census.share(&loss.layer),
        };
        let kept = keep_float.iter().find(|name| covers(name, &loss.layer));
        LayerSensitivity {
            layer: loss.layer.clone(),
            options: vec![option],
            keep_float: kept.map(|name| format!("asked for by --keep-float {name}")),
        }
    };
    report.layers.iter().map(of).collect()
}

fn lowered(plan: &PrecisionPlan) -> Choice {
    let lowered = plan.layers.iter().filter(|layer| layer.precision == LOWERED);
    Choice::Only(lowered.map(|layer| layer.layer.clone()).collect())
}

fn nothing(choice: &Choice) -> bool {
    matches!(choice, Choice::Only(layers) if layers.is_empty())
}

fn refusal(fault: ChoiceError, report: Option<&Report>) -> PlanningError {
    let reachable = report.map_or_else(String::new, |report| {
        let (layers, db) = (report.layers.len(), report.all.cost_db());
        format!("; all {layers} layers below float are reachable with {db:.4} dB")
    });
    PlanningError::Choice { fault, reachable }
}

fn document(
    report: &Report,
    plan: &PrecisionPlan,
    census: &Census,
    (target, together, rounds): (String, Loss, Vec<Round>),
) -> Document {
    let layer = |(choice, loss): (&LayerChoice, &Loss)| LayerPlan {
        layer: choice.layer.clone(),
        precision: choice.precision,
        why: choice.reason.to_string(),
        cost_db: loss.cost_db(),
        psnr_drop_db: loss.psnr_drop_db,
        latent_sqnr_db: loss.latent_sqnr_db,
        picture_sqnr_db: loss.picture_sqnr_db,
        share: census.share(&choice.layer),
    };
    Document {
        model: report.model.clone(),
        target,
        measured: format!("ranges by {} of {}; losses on other clips", report.observer, report.footage),
        clips: report.clips,
        float_psnr_db: report.float_psnr_db,
        max_psnr_drop_db: plan.budget.max_psnr_drop_db,
        together,
        all: report.all.clone(),
        cache: report.cache.clone(),
        share: plan.saving,
        possible_share: census.layers.keys().map(|layer| census.share(layer)).sum(),
        rounds,
        layers: plan.layers.iter().zip(&report.layers).map(layer).collect(),
        kept: census.kept.clone(),
    }
}
