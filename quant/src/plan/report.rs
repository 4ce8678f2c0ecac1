//! A plan in words.

use std::fmt;

use super::{LayerChoice, Precision, PrecisionPlan, Reason};

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Float => "float",
            Self::Fp8 => "fp8",
            Self::W8A8 => "w8a8",
            Self::W8 => "w8",
            Self::W4 => "w4",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept { why } => write!(f, "kept float: {why}"),
            Self::Fits { total_drop_db } => write!(f, "fits: {total_drop_db:.3} dB used with it"),
            Self::TooSensitive { precision, total_drop_db } => {
                write!(f, "too sensitive: {precision} would bring the drop to {total_drop_db:.3} dB")
            }
            Self::NothingToGain => f.write_str("nothing to gain below float"),
        }
    }
}

/// A table for people: totals, then a line for each layer.
impl fmt::Display for PrecisionPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { budget, predicted_drop_db, saving, possible_saving, layers } = self;
        let part = if *possible_saving > 0.0 { 100.0 * saving / possible_saving } else { 0.0 };
        writeln!(
            f,
            "PSNR drop {predicted_drop_db:.3} dB expected of {:.3} dB allowed, saving {part:.1} % of what is possible",
            budget.max_psnr_drop_db
        )?;
        let width = layers.iter().map(|choice| choice.layer.chars().count()).max().unwrap_or(0).max(5);
        writeln!(f, "{:width$}  {:9}  {:>8}  {:>10}  why", "layer", "precision", "alone dB", "saving")?;
        for LayerChoice { layer, precision, psnr_drop_db, saving, reason } in layers {
            writeln!(f, "{layer:width$}  {precision:9}  {psnr_drop_db:8.4}  {saving:10.4}  {reason}")?;
        }
        Ok(())
    }
}
