//! Why there is no plan, and what there could be instead.

use thiserror::Error;

use super::Precision;

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum PlanError {
    /// A budget outside its bounds.
    #[error("budget: {name} is {value}, must be {bound}")]
    Budget {
        /// Which number.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        bound: &'static str,
    },
    /// A measurement that is no finite number.
    #[error("layer {layer} at {precision}: {name} is {value}, must be finite")]
    Measurement {
        /// The layer.
        layer: String,
        /// The precision.
        precision: Precision,
        /// Which number.
        name: &'static str,
        /// Its value.
        value: f64,
    },
    /// A layer that is there twice.
    #[error("layer {0} is listed twice")]
    Duplicate(String),
    /// Not one layer fits.
    #[error(
        "a PSNR drop of at most {} dB allows no layer below float; the least is {} dB ({layer} at {precision})",
        told(*budget_db),
        told(*needed_db)
    )]
    NothingFits {
        /// The budget in dB.
        budget_db: f64,
        /// The least drop that quantises anything, in dB.
        needed_db: f64,
        /// The layer that has it.
        layer: String,
        /// And at which precision.
        precision: Precision,
    },
    /// The budget buys too little.
    #[error(
        "a PSNR drop of at most {} dB reaches {reached:.3} of the possible saving, not {min_saving:.3}; that is \
         reachable with {} dB",
        told(*budget_db),
        told(*needed_db)
    )]
    SavingOutOfReach {
        /// The budget in dB.
        budget_db: f64,
        /// Part of the possible saving that was asked for.
        min_saving: f64,
        /// Part that the budget reaches.
        reached: f64,
        /// Drop with which the part asked for is reached, in dB.
        needed_db: f64,
    },
}

/// A number of decibels with three decimals, and where it is small with more, so that it never looks like nothing.
fn told(db: f64) -> String {
    let decimals = if db > 0.0 { (1.0 - db.log10().floor()).clamp(3.0, 12.0) } else { 3.0 };
    format!("{db:.0$}", decimals as usize)
}
