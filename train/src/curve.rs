//! Draws a run's loss and validation curve.

use std::path::Path;

use anyhow::Result;
use nextclip_media::plot::{Line, Plot};

/// Writes the curve of (step, loss, validation value) as a PNG.
pub(crate) fn draw(path: &Path, title: &str, log: &[(u64, f64, Option<f64>)]) -> Result<()> {
    let losses: Vec<_> = log.iter().map(|&(step, loss, _)| (step as f64, loss)).collect();
    // Sums of logarithms are losses, too, and below zero.
    let log_y = losses.iter().all(|&(_, loss)| loss > 0.0);
    let plot = Plot { log_y, ..Plot::new(format!("{title}: training loss"), "step", "loss") };
    nextclip_media::save_png(path, &plot.with(Line::new("mean of 50 steps", losses)).draw(960, 540))?;
    let values: Vec<_> = log.iter().filter_map(|&(step, _, value)| Some((step as f64, value?))).collect();
    if values.len() >= 2 {
        let plot = Plot::new(format!("{title}: validation on held-out clips"), "step", "dB");
        let path = path.with_extension("validation.png");
        nextclip_media::save_png(&path, &plot.with(Line::new("validation", values)).draw(960, 540))?;
    }
    Ok(())
}
